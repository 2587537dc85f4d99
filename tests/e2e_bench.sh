#!/bin/sh
# `tandem bench` with the fake engine: real processes, real TLS, every file that it writes, bounds, and
# what it leaves behind when it is interrupted or cannot measure.
set -eu
bin=${TANDEM_BIN:?}
dir=$(mktemp -d)
pid=
cleanup() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || :
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM
export TMPDIR="$dir/tmp" TANDEM_SHARE="${TANDEM_SOURCE:?}/share"
mkdir "$TMPDIR"

fail() {
    echo "e2e_bench: $*" >&2
    for f in "$dir"/*.err; do tail -n 20 "$f" >&2; done
    exit 1
}

nothing_left() {
    [ -z "$(ls -A "$TMPDIR")" ] || fail "$1 left $(ls -A "$TMPDIR")"
}

# One emulated measurement. A fixed time scale, so that a slow machine changes figures and nothing else.
rc=0
"$bin/tandem" bench -m fake:prefill_us=200,decode_us=1000,kv_bytes=512 --prompt 700 --gen 5 --runs 2 \
    --unpaced-runs 1 --time-scale 8 --json --svg "$dir/svg" --report "$dir/report" \
    --json-file "$dir/file" --require 'prompt_tokens>=700' --require 'output_identical>=1' \
    >"$dir/json" 2>"$dir/measure.err" || rc=$?
[ "$rc" = 0 ] || fail "bench ended with $rc"
nothing_left "a measurement"
python3 - "$dir" <<'PYTHON' || fail "the result is not as it should be"
import json, pathlib, sys
import xml.etree.ElementTree as xml

dir = pathlib.Path(sys.argv[1])
r = json.loads((dir / "json").read_text())
names = ["dgx-spark", "mac-studio-m3-ultra"]
assert r["emulated"] is True and r["runs"] == 2 and r["gen_tokens"] == 5 and r["time_scale"] == 8
assert [s["name"] for s in r["solo"]] == names and set(r["speedup"]) == set(names)
assert r["output_identical"] is True and r["unpaced"]["output_identical"] is True
for line in (*r["solo"], r["serial"], r["hybrid"]):
    assert 0 < line["prefill_s"] < line["total_s"] and 0 < line["decode_s"] < line["total_s"], line
hybrid = r["hybrid"]
assert hybrid["kv_bytes"] >= 699 * 4 * 512, hybrid
assert hybrid["link_bytes_per_s"] > 0 and hybrid["tail_s"] >= 0
ideal = r["solo"][0]["prefill_s"] + r["solo"][1]["decode_s"]
assert abs(r["ideal_s"] - ideal) < 1e-6 and abs(r["efficiency"] - ideal / hybrid["total_s"]) < 1e-6
assert {"ideal_s", "total_s", "efficiency", "tail_s", "export_overhead"} <= set(r["unpaced"])
assert isinstance(r["overruns"], int)
# No step ends before its slot does, on either machine.
scale = 8
slots = {("prefill", "compute"): scale / 5573, ("decode", "decode"): scale / 37.6}
seen = set()
for e in r["timeline"]:
    slot = slots.get((e["who"], e["what"]))
    if slot:
        assert e["t1"] - e["t0"] >= slot * (e["p1"] - e["p0"]) * 0.999, e
        seen.add((e["who"], e["what"]))
    assert e["t0"] <= e["t1"]
assert seen == set(slots)
read = [(e["p0"], e["p1"]) for e in r["timeline"] if e["who"] == "prefill" and e["what"] == "compute"]
assert read[0][0] == 0 and read[-1][1] == 699 and all(a[1] == b[0] for a, b in zip(read, read[1:]))
xml.fromstring((dir / "svg").read_text())
assert json.loads((dir / "file").read_text())["solo"][0]["name"] == "dgx-spark"
report = (dir / "report").read_text()
assert "hybrid" in report and '"timeline"' in report and "EMULATED" in report
PYTHON

# A bound that cannot hold: exit code 3 and its name.
rc=0
"$bin/tandem" bench -m fake --prompt 300 --gen 2 --runs 1 --time-scale 2 --require 'efficiency>=2' \
    >"$dir/table" 2>"$dir/bound.err" || rc=$?
[ "$rc" = 3 ] || fail "a missed bound ended with $rc"
grep -q 'missed: efficiency is' "$dir/bound.err" || fail "the missed bound is not named"
grep -q 'EMULATED pair: fake, 300 tokens in' "$dir/table" || fail "the table is not labelled"
grep -q 'hybrid' "$dir/table" || fail "there is no table"

# What cannot be measured is refused with a reason.
refused() {
    want=$1
    shift
    rc=0
    "$bin/tandem" bench "$@" >"$dir/out" 2>"$dir/refused.err" || rc=$?
    [ "$rc" != 0 ] && [ "$rc" != 3 ] || fail "bench $* ended with $rc"
    grep -q -- "$want" "$dir/refused.err" || fail "bench $* does not say: $want"
    nothing_left "bench $*"
}
refused 'no model given'
refused 'did you mean dgx-spark' -m fake --emulate dgx-sparc+mac-studio-m3-ultra
refused 'must be PREFILL+DECODE' -m fake --emulate dgx-spark
refused 'the prefill node: it ended before it was ready; its last messages' -m fake:colour=1 --prompt 300
refused 'must be 2 to' -m fake --prompt 1
refused 'must be PREFILL-NAME,GATEWAY-URL' --nodes here
refused '127.0.0.1:9' --nodes p,http://127.0.0.1:9 --prompt 10

# Interrupted: a reason, no processes, no files.
"$bin/tandem" bench -m fake:prefill_us=20000 --prompt 2000 --gen 2 --runs 1 >"$dir/out" \
    2>"$dir/interrupt.err" &
pid=$!
for _ in $(seq 100); do
    ls "$TMPDIR"/tandem-bench-*/log >/dev/null 2>&1 && break
    sleep 0.1
done
sleep 1
kill -TERM "$pid"
rc=0
wait "$pid" || rc=$?
pid=
[ "$rc" = 1 ] || fail "an interrupted bench ended with $rc"
grep -q 'interrupted' "$dir/interrupt.err" || fail "an interrupted bench does not say so"
nothing_left "an interrupted bench"

# Nodes that run already: measured as they are, no emulation.
export TANDEM_CONFIG="$dir/config"
mkdir "$TANDEM_CONFIG"
"$bin/tandem" pair new >/dev/null 2>&1
port_of() {
    for _ in $(seq 300); do
        [ -s "$1" ] && break
        sleep 0.1
    done
    sed -n 's/.*"port":\([0-9]*\).*/\1/p' "$1"
}
model=fake:vocab=40000,kv_bytes=512,prefill_us=100
"$bin/tandem" node -m $model --name reader --listen 127.0.0.1:0 --json >"$dir/node" 2>"$dir/node.err" &
node=$!
"$bin/tandem" serve -m $model --name writer --listen 127.0.0.1:0 --json \
    --prefill "127.0.0.1:$(port_of "$dir/node")" >"$dir/serve" 2>"$dir/serve.err" &
pid=$!
url=http://127.0.0.1:$(port_of "$dir/serve")
for _ in $(seq 100); do
    grep -q 'node reader is up' "$dir/serve.err" && break
    sleep 0.1
done
"$bin/tandem" bench --nodes "reader,$url" --prompt 400 --gen 3 --runs 1 --json --report "$dir/report" \
    >"$dir/nodes" 2>"$dir/nodes.err" || fail "real nodes could not be measured"
python3 - "$dir/nodes" <<'PYTHON' || fail "the result of real nodes"
import json, sys
r = json.load(open(sys.argv[1]))
assert r["emulated"] is False and r["unpaced"] is None and r["output_identical"] is True
assert [s["name"] for s in r["solo"]] == ["reader", "writer"], r["solo"]
assert {n["name"]: n["role"] for n in r["nodes"]} == {"writer": "decode", "reader": "prefill"}
assert all(n["cpu"] and n["engine_build"] and n["cores"] > 0 for n in r["nodes"]), r["nodes"]
PYTHON
grep -q '^node: reader, prefill, ' "$dir/report" || fail "the report does not say what the nodes are"
refused 'is "reader", not "somebody"' --nodes "somebody,$url" --prompt 100 --gen 2 --runs 1
kill "$pid" "$node"
wait "$pid" "$node" || :
pid=
unset TANDEM_CONFIG

# The demo, on a model of the caller's.
"$bin/tandem" demo -m fake:kv_bytes=512 --json-file "$dir/demo" >"$dir/demo.out" 2>"$dir/demo.err" ||
    fail "the demo failed"
grep -q 'emulated machines' "$dir/demo.out" || fail "the demo does not say what it shows"
python3 -c 'import json, sys; assert json.load(open(sys.argv[1]))["prompt_tokens"] == 1024' "$dir/demo" ||
    fail "the demo's JSON"
echo "e2e_bench: ok"
