#!/bin/sh
# fleet.sh: two emulated Sparks and a Mac against one Spark and a Mac: eight prompts at once. Prints JSON; with
# SVG=FILE a picture of who did what when. bench/fleet.py says what is measured.
# ROUNDS (default 3), TINY=1: sizes that only show that it works. TANDEM_BIN: the build folder.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
PYTHONPATH=$root/tests TANDEM_BIN=$bin TANDEM_SHARE=${TANDEM_SHARE:-$root/share} exec python3 "$root/bench/fleet.py" "$@"
