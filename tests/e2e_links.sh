#!/usr/bin/env bash
# Links are measured before anybody needs them, learned from small hand-offs, told and kept.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import math
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


def reading_s(p, n, depth):
    """The formulas of docs/cost-model.md, written down once more."""
    size = p["chunk_tokens"]
    chunks = [size] * int(n // size) + [n % size] * (n % size > 0)
    return (p["read_request_s"] + n * (depth + n / 2) * p["read_pair_s"]
            + sum(math.hypot(p["read_floor_s"] ** 2, (p["read_chunk_s"] + c * p["read_token_s"]) ** 2) ** .5 for c in chunks))


def step_ms(p, answers, depth):
    return 1e3 * (p["step_s"] + answers * p["row_s"] + answers * depth * p["row_depth_s"])


out = subprocess.run([os.path.join(BIN, "tandem"), "ps", "--profiles", "--server", "127.0.0.1:%d" % d.port],
                     capture_output=True, text=True, timeout=60)
known, k = nodes(d.port, "prefill")[0]["profile"], link(d)
few, many, deep = reading_s(known, 512, 0), reading_s(known, 4096, 0), reading_s(known, 512, 4096)
lines = out.stdout[out.stdout.index("\nP, model fake: measured, %.0f samples\n" % known["samples"]):].split("\n")[2:8]
for line, start, figures in zip(lines, ("reading", "decode", "KV", "memory", "error", "link to D"), (
        (512, few, 512 / few, 4096, many, 4096 / many, 512, 4096, deep, 512 / deep),
        (1, step_ms(known, 1, 512), 512, step_ms(known, 1, 4096), 4096, 4, step_ms(known, 4, 512), step_ms(known, 4, 4096)),
        (1e-6 / known["export_byte_s"], 1e-6 / known["import_byte_s"]),
        (known["memory_left_bytes"] / 2**30, known["load_s"] or None),
        (100 * math.expm1(known["read_error"]), 100 * math.expm1(known["step_error"])),
        (k["rtt_s"] * 1e3, k["up_bytes_per_s"] / 1e6, k["down_bytes_per_s"] / 1e6))):
    told = [None if x == "-" else float(x) for x in re.findall(r"(?<= )\(?([0-9][0-9.e+-]*|-)(?=[ /,;])", line + " ")]
    check(" ".join(line.split()).startswith(start) and len(told) == len(figures), line, told)
    check(all(a == b if b is None else abs(a / b - 1) < 0.006 for a, b in zip(told, figures)), line, figures)
print("profiles: ok")

last = link(d)
d.stop()
d = serve()
wait_for("the node", node_is(d.port))
check(link(d) and link(d)["samples"] >= last["samples"], link(d), last)
d.stop()
p.stop()
print("kept: ok")
PYTHON
