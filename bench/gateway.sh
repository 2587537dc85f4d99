#!/bin/sh
# gateway.sh: what the gateway costs, with the fake engine in the worker. Prints JSON.
#
#   single   2,000 small requests one after the other
#   streams  1,000 streams of 200 tokens at one time beside 5,000 idle connections
#   fast     300 streams of 500 tokens, and the same with 30 of them reading 640 bytes a second (slow)
#
# CPU time and memory are those of `tandem serve` alone, without worker and client, from /proc.
# TANDEM_BIN: the build folder. Linux only.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
temp=$(mktemp -d)
serve=
cleanup() {
    [ -z "$serve" ] || kill "$serve" 2>/dev/null || :
    wait
    rm -rf "$temp"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM
export TANDEM_CONFIG="$temp/config"

# load NAME ARGUMENTS...: a fresh server, one run of the client, its line in $temp/NAME.
load() {
    name=$1
    shift
    rm -f "$temp/ready"
    "$bin/tandem" serve -m fake:decode_us=50 --ctx 1048576 --parallel 1000 --max-requests 4096 \
        --listen 127.0.0.1:0 --log-level warn --json >"$temp/ready" 2>"$temp/log" &
    serve=$!
    tries=0
    until [ -s "$temp/ready" ]; do
        kill -0 "$serve" 2>/dev/null || die "the server ended: $(tail -n 3 "$temp/log")"
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || die "the server did not become ready"
        sleep 0.1
    done
    port=$(sed -n 's/.*"port":\([0-9]*\).*/\1/p' "$temp/ready")
    "$bin/bench/gateway_load" "$port" "$serve" "$@" >"$temp/$name" || die "$name: $(tail -n 3 "$temp/log")"
    kill "$serve"
    wait "$serve" || :
    serve=
}

# More connections than many systems allow by default, where the limit can be raised.
ulimit -n "$(ulimit -H -n)" 2>/dev/null || :
load single requests=2000 streams=0
load streams requests=0 streams=1000 tokens=200 idle=5000
load fast requests=0 streams=300 tokens=500
load slow requests=0 streams=300 tokens=500 slow=30
printf '{"single":%s,"streams":%s,"fast":%s,"slow":%s}\n' "$(cat "$temp/single")" \
    "$(cat "$temp/streams")" "$(cat "$temp/fast")" "$(cat "$temp/slow")"
