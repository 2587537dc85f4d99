#!/bin/sh
# Compiles all of src/ (without the model engine) for macOS on ARM with the Zig toolchain, which
# brings macOS's own system headers. Third-party headers are this machine's, seen through a folder
# of links so that no Linux system header comes in. Nothing is linked or run.
. "$(dirname -- "$0")/lib.sh"

version=0.13.0
zig=$(cache_dir)/ziglang-$version
if [ ! -f "$zig/COMPLETE" ]; then
    say "macos-check: getting the Zig toolchain, Python package ziglang $version (81 MB), into $zig"
    rm -rf "$zig"
    python3 -m pip install --no-cache-dir --quiet --root-user-action ignore --disable-pip-version-check --no-deps --target "$zig" \
        "ziglang==$version" >&2
    touch "$zig/COMPLETE"
fi

build=$root/build-macos
headers=$build/include
rm -rf "$build"
mkdir -p "$headers"
for name in jansson.h jansson_config.h microhttpd.h gnutls/gnutls.h curl/curl.h sqlite3.h ini.h zstd.h \
    xxhash.h png.h pngconf.h pnglibconf.h jpeglib.h jconfig.h jmorecfg.h webp/encode.h; do
    path=$(echo "#include <$name>" | cc -E -x c - | sed -n "s|^# [0-9]* \"\(/.*/$name\)\".*|\1|p" | head -n 1)
    [ -n "$path" ] || die "header $name is missing: run make deps"
    case $name in
    */*) ln -sfn "${path%/*}" "$headers/${name%%/*}" ;;
    *) ln -sfn "$path" "$headers/$name" ;;
    esac
done

cd "$root"
files=$(find src -name '*.c' | grep -vE '(/|_)linux\.c$|^src/(engine/(llama|quantize)|train/|trainer_main|image/draw_sd)' | sort)
# shellcheck disable=SC2016  # expanded by the shell that compiles one file
printf '%s\n' "$files" | xargs -n 1 -P "${JOBS:-2}" sh -c '"$0/ziglang/zig" cc -target aarch64-macos.13.0 -std=gnu17 \
    -D_GNU_SOURCE -D_DARWIN_C_SOURCE -DTANDEM_VERSION="\"check\"" -Isrc -isystem "$1/include" -Wall -Wextra -Wshadow \
    -Wconversion -Werror -c "$2" -o "$1/$(echo "$2" | tr / _).o"' "$zig" "$build" || die "not all files compile for macOS"
say "macos-check: $(printf '%s\n' "$files" | wc -l) files compile for macOS on ARM"
