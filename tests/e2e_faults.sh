#!/usr/bin/env bash
# A prefill node that dies, stalls or refuses at any moment; a decode worker that dies; a client that
# leaves. The answer equals the reference or the client is told; nothing hangs.
#
# TANDEM_FAULTS_REAL=N kills the node at N points with the real model as well (4 unless told).
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import http.client
import os
import signal
import sys
import threading
import time

sys.path.insert(0, ".")
from e2e import *

FAKE = "fake:prefill_us=1000,decode_us=2000"
N = 1000
GEN = 16


def node(model, port=0):
    return Program("node", "-m", model, "--listen", "127.0.0.1:%d" % port, "--name", "P", "--threads", "1")


def pair(model):
    p = node(model)
    d = Program("serve", "-m", model, "--listen", "127.0.0.1:0", "--name", "D", "--stall", "1", "--threads", "1",
                "--prefill", "127.0.0.1:%d" % p.port)
    wait_for("the prefill node", node_is(d.port))
    return p, d


def ask_while(port, prompt, plan, delay, act):
    """Asks; after `delay` seconds does `act`; returns the answer and how long it took."""
    answer = []
    start = time.monotonic()
    t = threading.Thread(target=lambda: answer.append(complete(port, prompt, plan, GEN)))
    t.start()
    time.sleep(delay)
    act()
    t.join()
    return answer[0][0], answer[0][1], time.monotonic() - start


def kill_points(model, points, prompts, prefill_s):
    """Kills the node (or only its worker, or stops it) at points spread over a prefill."""
    p, d = pair(model)
    port = p.port
    references = [complete(d.port, prompt, "local", GEN)[1] for prompt in prompts]
    lost = 0
    for i in range(points):
        prompt, reference = prompts[i % len(prompts)], references[i % len(prompts)]
        delay = prefill_s * (i + 0.5) / points
        how = i % 3
        worker = p.worker()
        acts = [p.kill, lambda: os.kill(worker, signal.SIGKILL), lambda: p.kill(signal.SIGSTOP)]
        status, answer, took = ask_while(d.port, prompt, "hybrid", delay, acts[how])
        name = ["node killed", "worker killed", "node stopped"][how]
        check(status == 200, name, status, answer)
        t = answer["timings"]
        check(answer["choices"][0]["text"] == reference["choices"][0]["text"], name, i, t)
        check(t["plan"] in ("hybrid", "local"), t)
        lost += t["fallback"] is not None
        print("%-14s at %.2f s: %.2f s in all, fallback: %s" % (name, delay, took, t["fallback"]))
        if how == 1:
            wait_for("another worker", lambda: p.worker() not in (None, worker))
        else:
            p.kill()
            p.p.wait()
            wait_for("the worker to be gone", lambda: not os.path.exists("/proc/%d" % worker))
            p = node(model, port)
        wait_for("the node again", node_is(d.port), 60)
    check(lost >= points * 2 // 3, "only", lost, "of", points, "faults were felt")
    _, answer = complete(d.port, prompts[0], "hybrid", GEN)
    check(answer["timings"]["fallback"] is None, "no way back to hybrid:", answer["timings"])
    p.stop()
    d.stop()


def node_refuses():
    """Another model, another KV type: refused before prefill, with both values named."""
    d = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--prefill", "127.0.0.1:1")
    d.stop()
    for model, args, words in (("fake:layers=8", (), ("n_layer", "4", "8")),
                               ("fake:vocab=300", (), ("n_vocab", "258", "300")),
                               ("fake", ("--kv-type", "q8_0"), ("type_k", "f16", "q8_0"))):
        p = Program("node", "-m", model, "--listen", "127.0.0.1:0", *args)
        d = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--prefill",
                    "127.0.0.1:%d" % p.port)
        wait_for("refusal", node_is(d.port, "refused"))
        why = nodes(d.port, "prefill")[0]["why"]
        check(all(w in why for w in words), why)
        prompt = tokens(N, 7)
        status, answer = complete(d.port, prompt, "hybrid", GEN)
        check(status == 200 and answer["timings"]["plan"] == "local", answer)
        check(all(w in answer["timings"]["fallback"] for w in words), answer["timings"])
        print("refused:", why)
        p.stop()
        d.stop()


def decode_worker_dies():
    """In the middle of a stream: an error event, not silence; then the server works again."""
    d = Program("serve", "-m", "fake:decode_us=20000", "--listen", "127.0.0.1:0")
    body = json.dumps({"prompt": [1, 2, 3], "max_tokens": 500, "stream": True, "ignore_eos": True})
    c = http.client.HTTPConnection("127.0.0.1", d.port, timeout=20)
    c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    r = c.getresponse()
    got = b""
    while got.count(b"data:") < 5:
        got += r.read1()
    os.kill(d.worker(), signal.SIGKILL)
    got += r.read()
    check(b'"error"' in got and b"worker" in got, got[-400:])
    print("in-stream error:", got[got.index(b'"error"'):][:160])
    wait_for("the worker again", lambda: get(d.port, "/health")[0] == 200)
    status, answer = complete(d.port, [1, 2, 3], "local", 4)
    check(status == 200, answer)
    d.stop()


def client_leaves():
    """Prefill, transfer and decode stop within 500 ms of a client that closes its connection."""
    p, d = pair("fake:prefill_us=3000,decode_us=20000")
    for n, delay in ((2000, 1.0), (400, 2.5)):  # while the prompt is read; while tokens come
        body = json.dumps({"prompt": tokens(n, n), "max_tokens": 400, "stream": True,
                           "ignore_eos": True, "tandem": {"plan": "hybrid"}})
        c = http.client.HTTPConnection("127.0.0.1", d.port, timeout=20)
        c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        c.getresponse()
        time.sleep(delay)
        check(len(get(d.port, "/v1/tandem/status")[1]["requests"]) == 1, "no request is running")
        start = time.monotonic()
        c.sock.close() if c.sock else None
        c.close()
        del c
        wait_for("the request to end",
                 lambda: not get(d.port, "/v1/tandem/status")[1]["requests"], 2)
        def idle():
            now = get(d.port, "/v1/tandem/status")[1]["nodes"]
            return all(x["worker"]["requests"] + x["worker"]["transfers"] == 0 for x in now)
        wait_for("the workers to stop", idle, 5)
        print("client left: request ended after %.0f ms" % (1e3 * (time.monotonic() - start)))
    check(get(d.port, "/v1/tandem/status")[1]["totals"]["cancelled"] == 2, "not counted")
    p.stop()
    d.stop()


kill_points(FAKE, 20, [tokens(N, s) for s in range(5)], N * 0.001)
node_refuses()
decode_worker_dies()
client_leaves()
real = int(os.environ.get("TANDEM_FAULTS_REAL", "4"))
if MODEL and real:
    kill_points(MODEL, real, [tokens(900, s, 1000, 20000) for s in range(2)], 3.0)
print("e2e_faults: all passed")
PYTHON
