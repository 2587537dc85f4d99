#!/usr/bin/env bash
# Links are measured before anybody needs them, learned from small hand-offs, told and kept.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import subprocess
import sys

sys.path.insert(0, ".")
from e2e import *

THERE, BACK = 4e6, 2e6  # bytes per second: what the node sends in bulk, and what the server does
MODEL = "fake:layers=4,kv_bytes=64"  # a prompt of 4,000 tokens is 1 MB, in segments of a few KB


def link(d):
    found = get(d.port, "/v1/tandem/status")[1]["links"]
    return found[0] if found else None


def near(told, paced):
    return told is not None and abs(told / paced - 1) <= 0.15


def serve():
    return Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--name", "D", "--prefill",
                   "127.0.0.1:%d" % p.port, "--link-rate", "%g" % BACK, "--ctx", "8192", state="links")


p = Program("node", "-m", MODEL, "--listen", "127.0.0.1:0", "--name", "P", "--link-rate", "%g" % THERE,
            "--ctx", "8192", state="node")
d = serve()
wait_for("the link to be measured", lambda: link(d) and link(d)["down_bytes_per_s"], 60)
measured = link(d)
check(measured["from"] == "P" and measured["to"] == "D" and 0 < measured["rtt_s"] < 1, measured)
check(near(measured["up_bytes_per_s"], THERE), measured)
check(near(measured["down_bytes_per_s"], BACK), measured)
print("measured: ok")

status, answer = complete(d.port, tokens(4000, 1), "hybrid", 2)
check(status == 200 and answer["timings"]["fallback"] is None, answer)
wait_for("the hand-off to be learned from", lambda: link(d)["samples"] > measured["samples"])
check(near(link(d)["up_bytes_per_s"], THERE), link(d))
node = nodes(d.port, "prefill")[0]
check(node["link_bytes_per_s"] > 0, node)
print("learned: ok")

out = subprocess.run([os.path.join(BIN, "tandem"), "ps", "--server", "127.0.0.1:%d" % d.port],
                     capture_output=True, text=True, timeout=60)
check(out.returncode == 0 and "THERE MB/s" in out.stdout, out.stdout, out.stderr)
with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % d.port, timeout=10) as r:
    page = r.read().decode()
for name in ("tandem_link_rtt_seconds", "tandem_link_up_bytes_per_second", "tandem_link_down_bytes_per_second"):
    check(re.search(name + r'\{from="P",from_address="[^"]*",to="D",to_address="local"\} [0-9.e+-]+\n', page), page)
print("told: ok")

last = link(d)
d.stop()
d = serve()
wait_for("the node", node_is(d.port))
check(link(d) and link(d)["samples"] >= last["samples"], link(d), last)
d.stop()
p.stop()
print("kept: ok")
PYTHON
