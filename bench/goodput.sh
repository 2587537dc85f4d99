#!/bin/sh
# goodput.sh stalls [SERVER...] | goodput: chats and long prompts at once on two cores: tandem with a worker for each, against one
# llama-server of the same build with both. Prints JSON; of goodput with SVG=FILE the curves. bench/goodput.py says what is measured; a
# quarter and half an hour.
# SECONDS_EACH (default 90), TINY=1: sizes that only show that it works. TANDEM_BIN: the build folder. TANDEM_TEST_MODEL: the
# model. LLAMA_SERVER: the program, when it is not to be built.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
: "${TANDEM_TEST_MODEL:?}"
server=${LLAMA_SERVER:-$("$root/scripts/llama-server.sh")}
PYTHONPATH=$root/tests TANDEM_BIN=$bin THREADS=2 exec python3 "$root/bench/goodput.py" "$server" "$@"
