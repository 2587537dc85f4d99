#!/bin/sh
# mixed.sh [PREFILL_TYPE...]: what other weights on the machine that reads the prompt do to the answer of the one that
# writes, which has Q8_0. By default the prompt is read with Q8_0 (the control: nothing may differ), Q4_0, NVFP4,
# MXFP4 and Q2_K. Prints JSON. All are made from the bench model, or the one in TANDEM_TEST_MODEL.
# TANDEM_BIN: the build folder.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
model=${TANDEM_TEST_MODEL:-$("$root/scripts/model.sh")}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
[ $# -gt 0 ] || set -- Q8_0 Q4_0 NVFP4 MXFP4 Q2_K
for type in Q8_0 "$@"; do
    [ -f "$dir/$type.gguf" ] || "$bin/tandem-worker" quantize "$model" "$dir/$type.gguf" "$type"
done
decode=$dir/Q8_0.gguf
for type; do
    shift
    set -- "$@" "$dir/$type.gguf"
done
"$bin/bench/llama_mixed" "$root/docs/architecture.md" "$decode" "$@"
