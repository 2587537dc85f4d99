#!/bin/sh
# image_chats.sh [TOKENS]: what a picture that is being drawn costs the chats on the same machine. Three chats each
# stream TOKENS (default 100) tokens, alone, beside pictures that pause for them, and beside pictures that do not
# (--image-policy wait); the time between tokens is measured at the client. Prints JSON: for each
# case p50_ms, p99_ms and max_ms, the steps that were drawn meanwhile and how long one takes alone.
# "bounded": with pausing, the p99 is at most that of the chats alone plus one step.
# TANDEM_BIN: the build folder. TANDEM_TEST_MODEL: the chats' model. IMAGE_MODEL: another than the tests' one.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
TANDEM_IMAGE_WORKER=$("$root/scripts/image-library.sh")
image=${IMAGE_MODEL:-$(TANDEM_BIN=$bin "$root/scripts/image-model.sh")}
export TANDEM_IMAGE_WORKER IMAGE_MODEL="$image"
PYTHONPATH=$root/tests TANDEM_BIN=$bin TANDEM_TEST_MODEL=${TANDEM_TEST_MODEL:?} exec python3 - "${1:-100}" <<'PYTHON'
import http.client
import statistics
import sys
import threading

from e2e import *

TOKENS, CHATS = int(sys.argv[1]), 3
DRAW = {"prompt": "a red circle", "n": 10, "steps": 150, "stream": True, "progress": True}


def stream(server, path, body, seen):
    """Calls seen(event) for each event; ends the connection when that says so."""
    c = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    c.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    for line in c.getresponse():
        if line.startswith(b"data: {") and seen(json.loads(line[6:])):
            break
    c.close()


def chat(server, number, gaps):
    last = None

    def seen(event):
        nonlocal last
        now = time.monotonic()
        if last is not None:
            gaps.append(now - last)
        last = now
        return False
    stream(server, "/v1/completions", {"prompt": tokens(64, number, 1000, 20000), "max_tokens": TOKENS, "stream": True,
                                       "temperature": 0, "ignore_eos": True, "cache_prompt": False}, seen)


class Drawing:
    """Pictures without end, until it is stopped."""

    def __init__(self, server):
        self.steps, self.stop, self.server = [], False, server
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        wait_for("a first step", lambda: self.steps)

    def seen(self, event):
        if event["type"].endswith(".progress"):
            self.steps.append(event["step_s"])
        return self.stop

    def run(self):
        while not self.stop:
            stream(self.server, "/v1/images/generations", DRAW, self.seen)

    def end(self):
        self.stop = True
        self.thread.join()


def measure(server, drawing):
    gaps = []
    threads = [threading.Thread(target=chat, args=(server, n, gaps), daemon=True) for n in range(CHATS)]
    before = len(drawing.steps) if drawing else 0
    begun = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    gaps.sort()
    ms = lambda share: round(1000 * gaps[min(len(gaps) - 1, int(share * len(gaps)))], 2)
    return {"p50_ms": ms(0.5), "p99_ms": ms(0.99), "max_ms": ms(1), "tokens": len(gaps) + CHATS,
            "seconds": round(time.monotonic() - begun, 2), "steps_drawn": len(drawing.steps) - before if drawing else 0}


result = {"chats": CHATS, "tokens": TOKENS}
for policy in ("pause", "wait"):
    server = Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--ctx", "4096", "--parallel", str(CHATS), "--threads", "1",
                     "--image-model", os.environ["IMAGE_MODEL"], "--image-policy", policy)
    chat(server, 99, [])  # warm
    if policy == "pause":
        result["alone"] = measure(server, None)
    drawing = Drawing(server)
    time.sleep(2)
    alone = statistics.median(drawing.steps)
    result[policy] = dict(measure(server, drawing), step_alone_ms=round(1000 * alone, 2))
    drawing.end()
    server.stop()
a, p = result["alone"], result["pause"]
result["bounded"] = p["p99_ms"] <= a["p99_ms"] + p["step_alone_ms"]
print(json.dumps(result))
PYTHON
