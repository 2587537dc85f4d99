#!/bin/sh
# `tandem bench --grid` and the benches of fleets and mixed load, in sizes that only show that they work.
set -eu
bin=${TANDEM_BIN:?}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
export TMPDIR="$dir/tmp" TANDEM_SHARE="${TANDEM_SOURCE:?}/share"
mkdir "$TMPDIR"

fail() {
    echo "e2e_bench_grid: $*" >&2
    for f in "$dir"/*.err; do tail -n 20 "$f" >&2; done
    exit 1
}

# Two cells of each link, each plan once, on the fake engine alone.
"$bin/tandem" bench -m fake --grid --cells 2 --runs 1 --json --svg "$dir/svg" --report "$dir/report" \
    --json-file "$dir/file" --require 'n_cells>=8' >"$dir/json" 2>"$dir/grid.err" || fail "the grid ended with $?"
[ -z "$(ls -A "$TMPDIR")" ] || fail "the grid left $(ls -A "$TMPDIR")"
python3 - "$dir" <<'PYTHON' || fail "the grid is not as it should be"
import json, pathlib, sys
import xml.etree.ElementTree as xml

dir = pathlib.Path(sys.argv[1])
r = json.loads((dir / "json").read_text())
assert r["grid"] is True and r["n_cells"] == len(r["cells"]) == 8, r
assert {c["link"] for c in r["cells"]} == {"fast", "0.3", "1", "3"}
assert len(r["firsts"]) == 4, r["firsts"]
plans = {"local", "remote", "serial", "hybrid"}
for c in r["cells"]:
    assert set(c["plans"]) == plans and all(p["runs"] >= 1 and p["total_s"] > 0 for p in c["plans"].values()), c
    assert c["chosen"] in plans and c["best"] in plans and c["best_s"] == min(p["total_s"] for p in c["plans"].values()), c
    assert c["chosen_s"] == c["plans"][c["chosen"]]["total_s"] and c["regret"] >= 0, c
    assert c["warm"] is False and c["cached_tokens"] == 0, c
    # Paced: no plan is faster than the two machines' best, at a tenth of their times.
    ideal = (c["prompt"] - 1) / 55730 + c["gen"] / 376
    assert c["best_s"] >= ideal * 0.999, (c, ideal)
assert abs(r["regret_mean"] - sum(c["regret"] for c in r["cells"]) / 8) < 1e-9
xml.fromstring((dir / "svg").read_text())
assert json.loads((dir / "file").read_text())["grid"] is True
assert "EMULATED pair" in (dir / "report").read_text()
PYTHON

refused() {
    want=$1
    shift
    rc=0
    "$bin/tandem" bench "$@" >"$dir/out" 2>"$dir/refused.err" || rc=$?
    [ "$rc" = 2 ] || fail "bench $* ended with $rc"
    grep -q -- "$want" "$dir/refused.err" || fail "bench $* does not say: $want"
}
refused 'so it emulates; leave out --nodes' -m fake --grid --nodes a,http://127.0.0.1:9
refused 'no model given' --grid
refused 'must be 1 to' -m fake --grid --cells 0

# Fleets, with one relay for two machines.
TINY=1 SVG="$dir/fleet.svg" "$TANDEM_SOURCE/bench/fleet.sh" >"$dir/fleet" 2>"$dir/fleet.err" || fail "the fleets ended with $?"
python3 - "$dir" <<'PYTHON' || fail "the fleets are not as they should be"
import json, pathlib, sys
import xml.etree.ElementTree as xml

dir = pathlib.Path(sys.argv[1])
r = json.loads((dir / "fleet").read_text())
for name, sparks in (("one", 1), ("two", 2), ("shared", 2)):
    m = r["hybrid"][name]
    assert len(m["requests"]) == r["requests"] and m["makespan_s"] >= m["bound_s"] > 0, m
    # Whose turn it is decides the gateway, by how busy a Spark is at that moment.
    assert {q["prefill_node"] for q in m["requests"]} <= {"spark-%d" % (i + 1) for i in range(sparks)}, m
    assert {q["plan"] for q in m["requests"]} == {"hybrid"}, m
assert r["speedup"] > 0 and r["shared_of_bound"] <= 1
xml.fromstring((dir / "fleet.svg").read_text())
PYTHON

# What mixed load is judged by; the measurement itself needs llama-server and minutes.
TANDEM_TEST_MODEL=none PYTHONPATH="$TANDEM_SOURCE/tests:$TANDEM_SOURCE/bench" python3 - <<'PYTHON' 2>"$dir/goodput.err" || fail "goodput's arithmetic"
import xml.etree.ElementTree as xml
import goodput

limits = {"tpot_s": {"chat": 0.1, "2500": 0.2, "4000": 0.2}, "ttft_s": {"chat": 1, "2500": 10, "4000": 20}}
def row(kind, ttft, tpot):
    return {"kind": kind, "ttft_s": ttft, "tpot_s": tpot}
for good, r in ((True, row("chat", 1, 0.1)), (False, row("chat", 1.01, 0.1)), (False, row("chat", 1, 0.11)),
                (True, row("4000", 19, 0.2)), (False, row("2500", 19, 0)), (False, row("4000", 19, 0.21)), (False, row("chat", None, None))):
    assert goodput.is_good(r, limits) is good, r
assert goodput.is_good(row("chat", 1.9, 0.19), limits, 2.0)
plan = goodput.arrivals(5, 60, 0)
assert plan == goodput.arrivals(5, 60, 0) and plan != goodput.arrivals(5, 60, 1)
assert 200 < len(plan) < 400 and sorted(p[0] for p in plan) == [p[0] for p in plan] and plan[-1][0] < 60
assert [(t / 2, *rest) for t, *rest in plan] == goodput.arrivals(10, 30, 0), "the same requests at every rate"
longs = [p for p in plan if p[1] != "chat"]
assert {p[1] for p in longs} == {"2500", "4000"} and abs(len(longs) - len(plan) / goodput.LONG_EVERY) <= 1
p = goodput.point(2, [row("chat", 0.5, 0.05)] * 90 + [row("chat", 1.5, 0.05)] * 30, limits)
told = (p["offered_per_s"], p["goodput_per_s"], p["goodput_by_scale"]["1.5"])
assert told == (120 / goodput.SECONDS, 90 / goodput.SECONDS, 120 / goodput.SECONDS), p
assert goodput.sustained([{"rate": 1, "share": 1, "offered_per_s": 1}, {"rate": 2, "share": 0.8, "offered_per_s": 2},
                          {"rate": 3, "share": 1, "offered_per_s": 3}]) == 1
assert goodput.limits_of({"tpot_s": {"chat": 1, "4000": 4}, "ttft_s": {"chat": 2, "4000": 1}},
                         {"tpot_s": {"chat": 2, "4000": 3}, "ttft_s": {"chat": 1, "4000": 3}}) == {
    "tpot_s": {"chat": 3, "4000": 12}, "ttft_s": {"chat": 10, "4000": 9}}
def stall(worst, ttft):
    return {"3": {"prompts": {n: {"ttft_s": many * ttft, "worst_s": worst, "worst_ratio": worst}
                              for n, many in (("2500", 1), ("4000", 2))}}}
s = goodput.stall_summary({"tandem": [stall(1.2, 4), stall(1.1, 9), stall(7, 4)], "tandem-auto": [stall(2, 6)], "llama-default": [stall(9, 2), stall(9, 3), stall(9, 2)],
                           "llama-ub32": [stall(3, 8)], "llama-one-core": [stall(9, 5)]})
assert (s["worst_ratio"], s["worst_ratio_auto"], s["worst_ratio_max"], s["llama_best_stall"]) == (1.2, 2, 7, "llama-ub32"), s
assert (s["ttft_ratio"], s["ttft_ratio_auto"], s["ttft_ratio_equal"]) == (2, 3, 0.8), s
class Stream:
    begun = 1
    def tokens(self):
        return [2, 3, 5]
    def events(self):
        return [(5, {"usage": {"completion_tokens": 4}, "timings": {"plan": "hybrid"}})]
assert goodput.outcome("chat", 4, Stream()) == {"kind": "chat", "ttft_s": 1, "tpot_s": 1, "plan": "hybrid"}
assert goodput.outcome("chat", 5, Stream())["ttft_s"] is None
curve = [dict(p, rate=1), dict(p, rate=2, offered_per_s=4)]
xml.fromstring(goodput.draw({"limits": limits, "llama_best": "llama-ub32", "curves": {
    "tandem": curve, "tandem-auto": curve, "llama-default": curve, "llama-ub32": curve}}))
PYTHON
echo "e2e_bench_grid: ok"
