#!/bin/sh
# streaming.sh [PAIRS]: what exporting and sending costs the prefill node, at native speed. The node reads
# 2048 tokens alone and while streaming, in turns and in both orders, so that both see the same
# machine. Prints JSON: {"cost": median of the pairs' (streaming / alone) - 1, "efficiency": median of
# (P's prefill alone + D's decode) / hybrid total, "pairs": [...]}
# TANDEM_BIN: the build folder. TANDEM_TEST_MODEL: the model.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
PYTHONPATH=$root/tests TANDEM_BIN=$bin TANDEM_TEST_MODEL=${TANDEM_TEST_MODEL:?} exec python3 - "${1:-7}" <<'PYTHON'
import statistics
import sys

from e2e import *

TOKENS, GEN = 2048, 8
p = Program("node", "-m", MODEL, "--listen", "127.0.0.1:0", "--threads", "1", "--cpus", "0", "--ctx", "2560")
d = Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--threads", "1", "--cpus", "1", "--ctx", "2560",
            "--prefill", "127.0.0.1:%d" % p.port)
wait_for("the prefill node", node_is(d.port), 60)


def ask(plan, seed):
    status, answer = complete(d.port, tokens(TOKENS, seed, 1000, 20000), plan, GEN)
    t = answer["timings"]
    check(status == 200 and t["plan"] == plan and not t["fallback"], answer)
    return t


ask("hybrid", 0)  # warm, and the link's rate is known from here on
pairs = []
for i in range(int(sys.argv[1])):
    order = ("remote", "hybrid") if i % 2 else ("hybrid", "remote")
    t = {plan: ask(plan, 10 * i + k) for k, plan in enumerate(order)}
    alone, streaming = t["remote"]["prefill_s"], t["hybrid"]["prefill"]["compute_s"]
    pairs.append({"alone_s": alone, "streaming_s": streaming, "tail_ms": t["hybrid"]["tail_ms"],
                  "efficiency": (alone + t["hybrid"]["decode_s"]) / t["hybrid"]["total_s"]})
print(json.dumps({"cost": statistics.median(x["streaming_s"] / x["alone_s"] for x in pairs) - 1,
                  "efficiency": statistics.median(x["efficiency"] for x in pairs), "pairs": pairs}))
PYTHON
