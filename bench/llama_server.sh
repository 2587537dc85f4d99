#!/bin/sh
# llama_server.sh [PART...]: tandem against llama-server of the same llama.cpp build, same model, threads and
# context, in turns so that all see the same machine. Parts: streams ttft stall turns (default: all).
# bench/throughput.py says what each measures and prints the result as JSON.
# ROUNDS (default 5), THREADS (default: one per core), TINY=1: sizes that only show that it works.
# TANDEM_BIN: the build folder. TANDEM_TEST_MODEL: the model.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
: "${TANDEM_TEST_MODEL:?}"
server=$("$root/scripts/llama-server.sh")
PYTHONPATH=$root/tests TANDEM_BIN=$bin exec python3 "$root/bench/throughput.py" "$server" "$@"
