#!/bin/sh
# local.sh [ROUNDS]: the local path (`tandem serve` without a prefill node, over HTTP) against llama-bench of
# the same llama.cpp, one thread each, in turns so that both see the same machine. Prints JSON:
#
#   {"prefill_ratio", "decode_ratio": tandem / llama-bench, medians of the rounds' ratios,
#    "engine_...": the same for the engine alone (bench/llama_local), "rounds": [...]}
#
# Prefill is 512 tokens from an empty cache (of 513, the last one is the first decode step), decode 64
# tokens from an empty cache. TANDEM_BIN: the build folder. TANDEM_TEST_MODEL: the model. THREADS: default 1.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
model=${TANDEM_TEST_MODEL:?}
say "local: llama-bench of the same llama.cpp (built once per machine)"
llama_bench=$(cmake -DBACKEND="${BACKEND:-cpu}" -DEXTRA=llama-bench -P "$root/scripts/llama.cmake" |
    sed -n 's/^LLAMA_DIR=//p')/bin/llama-bench
[ -x "$llama_bench" ] || die "llama-bench could not be built"

PYTHONPATH=$root/tests TANDEM_BIN=$bin exec python3 - "$llama_bench" "$model" "${1:-5}" "${THREADS:-1}" \
    "$bin/bench/llama_local" <<'PYTHON'
import json
import os
import statistics
import subprocess
import sys
import urllib.request

import e2e

llama_bench, model, rounds, threads, llama_local = sys.argv[1:]
PROMPT, GENERATE = 512, 64
server = e2e.Program("serve", "-m", model, "--threads", threads, "--listen", "127.0.0.1:0")


def complete(**body):
    request = urllib.request.Request("http://127.0.0.1:%d/v1/completions" % server.port, json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=600))["timings"]


def prompt(seed, n):
    """Other tokens in every round, so that nothing is cached."""
    return [(seed * 104729 + i * 7919) % 40000 + 100 for i in range(n)]


def tandem_prefill(seed):
    t = complete(prompt=prompt(seed, PROMPT + 1), max_tokens=1)
    assert t["cached_tokens"] == 0 and t["plan"] == "local", t
    return PROMPT / t["prefill_s"]


def tandem_decode(seed):
    for attempt in range(20):  # an answer may end early
        t = complete(prompt=prompt(seed + attempt, 1), max_tokens=GENERATE, temperature=1.5, seed=seed + attempt)
        if t["gen_tokens"] == GENERATE:
            return t["decode_tokens_per_s"]
    raise AssertionError("no answer of %d tokens" % GENERATE)


def bench():
    out = subprocess.run([llama_bench, "-m", model, "-t", threads, "-p", str(PROMPT), "-n", str(GENERATE), "-r", "1",
                          "-o", "json"], check=True, capture_output=True, text=True).stdout
    pp, tg = json.loads(out)
    return pp["avg_ts"], tg["avg_ts"]


def engine():
    out = subprocess.run([llama_local, model, threads, str(PROMPT), str(GENERATE), "1"], check=True,
                         capture_output=True, text=True).stdout
    rates = json.loads(out)
    return rates["pp"], rates["tg"]


rows = []
for i in range(int(rounds)):
    tandem_prefill(2 * i)  # llama-bench warms up before it measures, too
    row = {"tandem_pp": tandem_prefill(2 * i + 1), "tandem_tg": tandem_decode(1000 * (i + 1))}
    row["bench_pp"], row["bench_tg"] = bench()
    if os.path.exists(llama_local):
        row["engine_pp"], row["engine_tg"] = engine()
    rows.append(row)
    print("local: round %d: %s" % (i + 1, ", ".join("%s %.1f" % kv for kv in row.items())), file=sys.stderr)
server.stop()


def ratio(who, what):
    return statistics.median(row[who + what] / row["bench" + what] for row in rows)


result = {"prefill_ratio": ratio("tandem", "_pp"), "decode_ratio": ratio("tandem", "_tg"), "threads": int(threads)}
if "engine_pp" in rows[0]:
    result.update(engine_prefill_ratio=ratio("engine", "_pp"), engine_decode_ratio=ratio("engine", "_tg"))
result["rounds"] = rows
print(json.dumps(result))
PYTHON
