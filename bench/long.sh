#!/bin/sh
# long.sh: 7168 tokens in, 28 out, one run on the emulated pair. The deepest chunks of the small model run at
# about 80 tokens/s on one core, so the time scale is about 75 and the run takes 25 minutes.
# Writes bench/results/long.json and fails (3) below the bound.
# TANDEM_BIN: the build folder. TANDEM_TEST_MODEL: the model.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
results=$root/bench/results
mkdir -p "$results"
exec "$bin/tandem" bench -m "${TANDEM_TEST_MODEL:?}" --prompt 7168 --gen 28 --runs 1 \
    --svg "$results/long.svg" --report "$results/long.txt" --json-file "$results/long.json" \
    --require 'efficiency>=0.985' --require 'overruns<=0' --require 'output_identical>=1'
