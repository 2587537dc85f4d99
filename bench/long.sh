#!/bin/sh
# long.sh: 7168 tokens in, 28 out, one run on the emulated pair; a quarter of an hour or more.
# Writes bench/results/long.json and fails (3) below the bound.
# TANDEM_BIN: the build folder. TANDEM_MODEL: the model.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
results=$root/bench/results
mkdir -p "$results"
exec "$bin/tandem" bench -m "${TANDEM_MODEL:?}" --prompt 7168 --gen 28 --runs 1 \
    --svg "$results/long.svg" --report "$results/long.txt" --json-file "$results/long.json" \
    --require 'efficiency>=0.985' --require 'overruns<=0' --require 'output_identical>=1'
