#!/bin/sh
# check-format.sh [--fix]: every file is as clang-format writes it, and every script but lib.sh can be run. Releases of clang-format differ
# in details; release 14 decides, others are told apart and only reported.
. "$(dirname -- "$0")/lib.sh"

cd "$root"
tool=clang-format
command -v clang-format-14 >/dev/null 2>&1 && tool=clang-format-14
version=$("$tool" --version | sed -E 's/.*version ([0-9]+).*/\1/')
mode='--dry-run --Werror'
[ "${1:-}" = --fix ] && mode=-i

for script in scripts/*.sh tests/*.sh bench/*.sh; do
    [ -x "$script" ] || [ "$script" = scripts/lib.sh ] || die "$script cannot be run: chmod +x $script"
done
# shellcheck disable=SC2046,SC2086
if ! "$tool" $mode $(find src tests bench -name '*.[ch]' -o -name '*.cpp'); then
    [ "$version" = 14 ] && die "some files are not formatted: run make format"
    say "format: NOT CHECKED, clang-format is $version and 14 decides"
    exit 0
fi
say "format: ok"
