#!/bin/sh
# check-symbols.sh FRONT WORKER: the program links no model library; the worker, as a control that
# the search finds what it looks for, does.
. "$(dirname -- "$0")/lib.sh"

model_symbols() {
    nm "$1" 2>/dev/null | grep -cE ' [A-Za-z] _?(llama_|ggml_)' || true
}

front=$(model_symbols "$1")
worker=$(model_symbols "$2")
[ "$worker" -gt 0 ] || die "no llama_ symbol in $2: this check sees nothing"
[ "$front" -eq 0 ] || die "$1 has $front symbols of the model library"
if command -v ldd >/dev/null 2>&1 && ldd "$1" | grep -E 'libllama|libggml|libstdc\+\+' >&2; then
    die "$1 loads the libraries above"
fi
say "$1: no symbol of the model library ($2: $worker)"
