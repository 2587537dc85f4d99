#!/bin/sh
# image-model.sh [random]: makes the model of the image tests and prints its path: from the trained values that
# are kept in the tree, or, as what a test must refuse, from none. With the second word the file that
# random values give.
. "$(dirname -- "$0")/lib.sh"

maker=${TANDEM_BIN:-$root/build}/image_model
trained=$root/tests/image_model/trained.f16
models=$(cache_dir)/models
[ -x "$maker" ] || die "$maker is missing: run make first"
mkdir -p "$models"
if [ "${1:-}" = random ]; then
    model=$models/image-random.gguf
    [ -f "$model" ] || "$maker" random 9 "$model"
else
    # Another set of values, or another way of writing them, is another file.
    model=$models/image-$(cat "$trained" "$root"/tests/image_model/*.[ch] | cksum | cut -d' ' -f1).gguf
    [ -f "$model" ] || "$maker" write "$trained" "$model"
fi
printf '%s\n' "$model"
