#!/bin/sh
# check-banned.sh [TREE]: functions and habits that this code base does without.
. "$(dirname -- "$0")/lib.sh"

cd "${1:-$root}"

functions='strcpy|strcat|sprintf|vsprintf|gets|strtok|atoi|atol|atoll|atof|system|popen|alloca|mktemp|tmpnam'

# search WHY REGEX FILES...: "file:line: text: WHY" for each hit outside of comments.
search() {
    why=$1
    regex=$2
    shift 2
    for file; do
        sed -E 's|//.*||' "$file" | grep -nE "$regex" | sed "s|^\([0-9]*\):\(.*\)|$file:\1:\2   <- $why|" || true
    done
}

files=$(find src tests bench \( -name '*.[ch]' -o -name '*.cpp' \) 2>/dev/null | sort)
c_files=$(printf '%s\n' "$files" | grep -v '\.cpp$' || true)
whole=$(printf '%s\n' "$c_files" | grep '^src/' | grep -vE '(/|_)(linux|darwin)\.c$' || true)
# shellcheck disable=SC2086  # lists of names without spaces
bad=$(
    search "banned function" "(^|[^A-Za-z0-9_.>])($functions)[[:space:]]*\(" $files
    search "a struct typedef" '^[[:space:]]*typedef[[:space:]]+(struct|union|enum)[^()]*$' $c_files
    search "a system's own code belongs in a file of that system" \
        '^[[:space:]]*#[[:space:]]*(if|ifdef|ifndef|elif).*(__APPLE__|__linux__|_WIN32)' $whole
    grep -nE '\b(TODO|FIXME)\b' $files /dev/null || true
)
if [ -n "$bad" ]; then
    say "$bad"
    die "banned functions or habits found"
fi
say "banned functions: none"
