#!/bin/sh
# memory.sh: what gateway and nodes add to the memory that the engine itself takes. Prints JSON.
#
# A pair of nodes answers hybrid requests; then the anonymous memory of the four processes (two
# supervisors, two workers) is summed, and that of two bare engines (bench/llama_bare) that did the
# same work is subtracted. Memory backed by the model's file is shared and counts for nobody.
# TANDEM_BIN: the build folder. TANDEM_TEST_MODEL: the model. Linux only: it reads /proc.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
model=${TANDEM_TEST_MODEL:?}
ctx=2560
seqs=4
prompt=2048
gen=8
requests=2
temp=$(mktemp -d)
node=
serve=
cleanup() {
    [ -z "$serve" ] || kill "$serve" 2>/dev/null || :
    [ -z "$node" ] || kill "$node" 2>/dev/null || :
    wait
    rm -rf "$temp"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

# A key and a configuration of their own.
export TANDEM_CONFIG="$temp/config"
mkdir -p "$TANDEM_CONFIG"
"$bin/tandem" pair new >/dev/null 2>&1

# port_of FILE PID: waits for the ready line.
port_of() {
    tries=0
    until [ -s "$1" ]; do
        kill -0 "$2" 2>/dev/null || die "a node ended: $(tail -n 3 "$temp/log")"
        tries=$((tries + 1))
        [ "$tries" -lt 1200 ] || die "a node did not become ready"
        sleep 0.1
    done
    sed -n 's/.*"port":\([0-9]*\).*/\1/p' "$1"
}

# anonymous PID: bytes, its children included.
anonymous() {
    total=0
    for pid in "$1" $(cat "/proc/$1/task/"*/children); do
        kib=$(sed -n 's/^RssAnon:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status")
        total=$((total + kib * 1024))
    done
    echo "$total"
}

hybrid() {
    python3 - "$1" "$prompt" "$gen" <<'PYTHON'
import json, random, sys, urllib.request

port, prompt, gen = (int(a) for a in sys.argv[1:])
body = {
    "prompt": [random.randrange(1000, 30000) for _ in range(prompt)],
    "max_tokens": gen, "temperature": 0, "ignore_eos": True, "tandem": {"plan": "hybrid"},
}
request = urllib.request.Request(
    f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode(),
    {"Content-Type": "application/json"})
timings = json.load(urllib.request.urlopen(request))["timings"]
if timings["plan"] != "hybrid" or timings["fallback"]:
    sys.exit(f"not hybrid: {timings['fallback']}")
PYTHON
}

"$bin/tandem" node -m "$model" --listen 127.0.0.1:0 --threads 1 --ctx $ctx --parallel $seqs --json \
    >"$temp/node" 2>>"$temp/log" &
node=$!
"$bin/tandem" serve -m "$model" --listen 127.0.0.1:0 --threads 1 --ctx $ctx --parallel $seqs --json \
    --prefill "127.0.0.1:$(port_of "$temp/node" "$node")" >"$temp/serve" 2>>"$temp/log" &
serve=$!
port=$(port_of "$temp/serve" "$serve")
sleep 1 # the gateway greets the node
for _ in $(seq $requests); do
    hybrid "$port"
done
node_bytes=$(anonymous "$node")
serve_bytes=$(anonymous "$serve")
bare=$("$bin/bench/llama_bare" "$model" $ctx $seqs $prompt $gen)
bare_bytes=$(printf '%s' "$bare" | sed -n 's/.*"anonymous_bytes":\([0-9]*\).*/\1/p')
added=$((node_bytes + serve_bytes - 2 * bare_bytes))
printf '{"node_bytes":%s,"serve_bytes":%s,"engine_bytes":%s,"added_bytes":%s}\n' \
    "$node_bytes" "$serve_bytes" "$bare_bytes" "$added"
