#!/bin/sh
# archs.sh DIR [ARCH...]: writes tiny random models into DIR, one or two (dense, MoE) for each
# architecture, with llama.cpp's own generator, and prints their paths. The seed is fixed, so every
# run writes the same files. Default: one of every kind of cache that there is.
. "$(dirname -- "$0")/lib.sh"

[ $# -ge 1 ] || die "usage: archs.sh DIR [ARCH...]"
dir=$1
shift
if [ $# -eq 0 ]; then
    # dense and MoE; sliding window; MLA; recurrent; hybrid; its own kind; no cache at all
    set -- llama qwen3 qwen3moe gemma3 gpt-oss deepseek2 mamba mamba2 qwen35 jamba falcon-h1 \
        nemotron_h minimax-01 kimi-linear lfm2 deepseek4 llada
fi
generator=$(cmake -DBACKEND="${BACKEND:-cpu}" -DEXTRA=test-llama-archs -P "$root/scripts/llama.cmake" |
    tee /dev/stderr | sed -n 's/^LLAMA_DIR=//p')/bin/test-llama-archs
[ -x "$generator" ] || die "llama.cpp's model generator could not be built"

mkdir -p "$dir"
for arch; do
    log=$("$generator" -a "$arch" -s 1 -o "$dir" 2>&1) || die "$arch: $log"
    found=false
    for file in "$dir/$arch-dense.gguf" "$dir/$arch-moe.gguf"; do
        if [ -f "$file" ]; then
            found=true
            printf '%s\n' "$file"
        fi
    done
    $found || die "llama.cpp's generator wrote no model of architecture $arch: $log"
done
