#!/bin/sh
# test-deps.sh python|js|agents|mlx: gets the pinned packages that the tests with real clients use, once per set of
# versions, into the cache folder. Prints one line: the Python program, or the folder of node_modules.
. "$(dirname -- "$0")/lib.sh"

clients=$root/tests/clients
kept=$(cache_dir)/clients

# get_python FOLDER REQUIREMENTS [OPTION]
get_python() {
    python3 -m venv "$1" >&2 || return 1
    "$1/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps \
        --only-binary :all: ${3:-} -r "$clients/$2" >&2
}

# Scripts of packages run for the agents alone: that is how their programs are put into place. Not `npm ci`, which
# refuses a lock file that leaves out the optional packages of other systems; versions and hashes are the lock file's.
get_npm() {
    cp "$clients/$2/package.json" "$clients/$2/package-lock.json" "$1/"
    (cd "$1" && npm install --no-save --cache "$1/cache" --no-audit --no-fund --no-update-notifier --loglevel=error $3 >&2) || return 1
    rm -rf "$1/cache"
}

# key_of PROGRAM FILE...: names what is installed; another version of one of them is another folder.
key_of() {
    program=$1
    shift
    { "$program" --version && cat "$@"; } >"$temp/key"
    sha256_of "$temp/key" | cut -c1-12
}

what=${1:-}
mkdir -p "$kept"
temp=$(mktemp -d "$kept/get.XXXXXX")
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' HUP INT TERM
"$root/scripts/deps.sh" clients
case $what in
python) key=$(key_of python3 "$clients/requirements.txt") ;;
mlx) key=$(key_of python3 "$clients/mlx-requirements.txt") ;;
js | agents) key=$(key_of node "$clients/$what/package-lock.json") ;;
*) die "say python, js, agents or mlx" ;;
esac
folder=$kept/$what-$key
if [ ! -f "$folder/COMPLETE" ]; then
    say "clients: installing the pinned packages for $what"
    rm -rf "$folder"
    mkdir "$folder"
    case $what in
    python) get_python "$folder" requirements.txt ;;
    mlx) get_python "$folder" mlx-requirements.txt --no-compile ;;
    js) get_npm "$folder" js --ignore-scripts ;;
    agents) get_npm "$folder" agents "" ;;
    esac || die "the packages for $what could not be installed; the reason is above"
    touch "$folder/COMPLETE"
fi
case $what in python | mlx) folder=$folder/bin/python ;; esac
printf '%s\n' "$folder"
