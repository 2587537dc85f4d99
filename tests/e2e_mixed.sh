#!/usr/bin/env bash
# One model in two quantisations: the machine that reads has NVFP4, the one that writes Q4_0. Refused in words unless it
# is allowed, and then shown in every answer.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import sys

sys.path.insert(0, ".")
from e2e import *

OTHER = os.path.join(DIR, "NVFP4.gguf")
subprocess.run([os.path.join(BIN, "tandem-worker"), "quantize", MODEL, OTHER, "NVFP4"], check=True, timeout=120)
SMALL = ("--threads", "1", "--ctx", "512", "--parallel", "2", "--handoff", "ranges")

node = Program("node", "-m", OTHER, "--listen", "127.0.0.1:0", *SMALL)
serve = ("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--prefill", "127.0.0.1:%d" % node.port, *SMALL)

s = Program(*serve)
why = wait_for("the refusal", lambda: nodes(s.port, "prefill")[0]["why"])
check("weights" in why and "NVFP4" in why and "Q4_0" in why, why)
status, body = complete(s.port, tokens(90, "p"), "local", gen=4)
check(status == 200 and body["timings"]["weights"] is None, body)
s.stop()

s = Program(*serve, "--different-weights")
wait_for("the node", node_is(s.port))
check([n["weights"] for n in nodes(s.port, "prefill")] == ["NVFP4"], nodes(s.port, "prefill"))
status, body = complete(s.port, tokens(90, "p"), "hybrid", gen=4)
check(status == 200 and body["timings"]["plan"] == "hybrid" and not body["timings"]["fallback"], body)
check(body["timings"]["weights"] == {"prefill": "NVFP4", "decode": "Q4_0"}, body["timings"])
s.stop()
node.stop()
PYTHON
