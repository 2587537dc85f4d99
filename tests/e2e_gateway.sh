#!/usr/bin/env bash
# The programs as a user meets them: curl, a stream's shape, wrong usage, signals, keys, many clients.
# Workers hold the fake engine, whose answer shows every wrong byte.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import http.client
import os
import re
import signal
import subprocess
import sys
import threading

sys.path.insert(0, ".")
from e2e import *

TANDEM = os.path.join(BIN, "tandem")
# Without options from the environment that runs the tests.
ENV = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
ENV["TANDEM_CONFIG"] = os.path.join(DIR, "config")
KEYS = {"plan", "reason", "prefill_node", "decode_node", "prompt_tokens", "cached_tokens", "prefill_s",
        "kv_bytes", "tail_ms", "decode_tokens_per_s", "fallback", "total_s", "ttft_s", "decode_s",
        "gen_tokens", "overruns"}


def run(*args, code, has="", env=None, data=None):
    """Runs a program; checks its exit code and what it said."""
    p = subprocess.run(args, capture_output=True, text=True, timeout=120, input=data,
                       env=dict(ENV, **(env or {})))
    check(p.returncode == code, args, "ended with", p.returncode, p.stdout[-500:], p.stderr[-2000:])
    check(has in p.stdout + p.stderr, repr(has), "is not in", p.stdout[-500:], p.stderr[-2000:])
    return p.stdout


def curl(port, path, *args, data=None):
    return run("curl", "-sS", "-N", "--noproxy", "*", *args, "http://127.0.0.1:%d%s" % (port, path),
               code=0, data=data)


def wrong_usage():
    run(TANDEM, "serve", code=2, has="no model")
    run(TANDEM, "serve", "-m", "fake", "--lisen", "x", code=2, has="did you mean --listen")
    run(TANDEM, "serve", "-m", "fake", "--bogus", code=2, has="--help lists them")
    run(TANDEM, "serve", "-m", "fake", "--listen", "no-such-name.invalid", code=1,
        has="cannot find the host")
    run(TANDEM, "serve", "-m", "fake", "--listen", "0.0.0.0:0", code=1, has="--api-key")
    run(TANDEM, "node", "-m", "fake", "--listen", "0.0.0.0:0", code=1, has="key")
    run(TANDEM, "serve", "-m", "fake", "--listen", "127.0.0.1:0", "--prefill", "192.0.2.1", code=1,
        has="pair")
    for command in ("serve", "node"):
        run(TANDEM, command, "-m", DIR + "/absent.gguf", "--listen", "127.0.0.1:0", code=1,
            has="could not be served: " + ("no model file" if MODEL else ""))
    run(TANDEM, "ps", "--server", "127.0.0.1:1", code=1, has="tandem serve")
    run(TANDEM, "chat", "--server", "127.0.0.1:1", "hi", code=1, has="tandem serve")
    for command in ("serve", "node", "ps", "chat"):
        run(TANDEM, command, "--help", code=0, has="usage: tandem " + command)
    if MODEL:
        with open(MODEL, "rb") as f, open(DIR + "/cut.gguf", "wb") as out:
            out.write(f.read(100000))
        run(TANDEM, "serve", "-m", DIR + "/cut.gguf", "--listen", "127.0.0.1:0", code=1,
            has="could not be served")


def pair(*serve_args):
    p = Program("node", "-m", "fake:prefill_us=300", "--listen", "127.0.0.1:0", "--name", "spark")
    d = Program("serve", "-m", "fake:prefill_us=300,decode_us=300", "--listen", "127.0.0.1:0", "--name",
                "mac", "--prefill", "127.0.0.1:%d" % p.port, *serve_args)
    wait_for("the prefill node", node_is(d.port))
    check(p.ready["listening"] == "127.0.0.1:%d" % p.port, p.ready)
    check(d.ready["listening"] == "http://127.0.0.1:%d" % d.port, d.ready)
    return p, d


def stream_shape(port):
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 600}], "max_tokens": 9,
                       "temperature": 0, "ignore_eos": True, "stream": True,
                       "stream_options": {"include_usage": True}, "tandem": {"plan": "hybrid"}})
    text = curl(port, "/v1/chat/completions", "-d", body)
    check(text.startswith(": tandem\n\n"), text[:100])
    check(text.endswith("data: [DONE]\n\n"), text[-200:])
    events = [json.loads(l[6:]) for l in text.split("\n") if l.startswith("data: {")]
    check({e["object"] for e in events} == {"chat.completion.chunk"}, events)
    check(len({e["id"] for e in events}) == 1, "ids differ")
    check(events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}, events[0])
    check([e["choices"][0]["finish_reason"] for e in events[:-1]] ==
          [None] * (len(events) - 2) + ["length"], text[-800:])
    check(events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == 9, events[-1])
    check(KEYS <= set(events[-1]["timings"]), KEYS - set(events[-1]["timings"]))
    check(events[-1]["timings"]["plan"] == "hybrid", events[-1])
    streamed = "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1])
    whole = json.loads(curl(port, "/v1/chat/completions", "-d", body.replace("true, \"stream_o",
                                                                              "false, \"stream_o")))
    check(whole["choices"][0]["message"]["content"] == streamed, streamed, whole)
    check(KEYS <= set(whole["timings"]), whole)


def sampling(port):
    def text(**more):
        return complete(port, tokens(40, 1), "local", 24, **more)[1]["choices"][0]["text"]
    hot = dict(temperature=1.5, top_k=0, top_p=1, min_p=0)
    check(text(seed=5, **hot) == text(seed=5, **hot), "the same seed drew something else")
    check(len({text(seed=s, **hot) for s in range(4)}) > 1, "all seeds drew the same")
    greedy = text()
    check(greedy == text(seed=9), "greedy depends on the seed")
    stop = greedy[4:7]
    _, a = complete(port, tokens(40, 1), "local", 24, stop=[stop])
    check(a["choices"][0]["text"] == greedy[:greedy.index(stop)], greedy, a)
    check(a["choices"][0]["finish_reason"] == "stop", a)


def bad_input(port):
    code = ["-o", "/dev/null", "-w", "%{http_code}"]
    check(curl(port, "/v1/completions", *code, "-d", "{") == "400", "malformed JSON")
    check(curl(port, "/v1/completions", *code) == "405", "GET of a POST route")
    check(curl(port, "/v2", *code) == "404", "unknown route")
    for nameless in ("--xx\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xx--\r\n", "--xx\r\n\r\nx\r\n--xx--\r\n"):
        check(curl(port, "/v1/files", *code, "-H", "Content-Type: multipart/form-data; boundary=xx", "--data-binary",
                   nameless) == "400", "a part without a name")
    big = os.path.join(DIR, "big")
    with open(big, "wb") as f:
        f.truncate(100 << 20)
    check(curl(port, "/v1/completions", *code, "--data-binary", "@" + big) == "413", "100 MB")
    check(curl(port, "/v1/completions", *code, "-H", "Expect:", "-H", "Transfer-Encoding: chunked",
               "--data-binary", "@" + big) == "413", "100 MB in chunks, nobody asked")
    os.unlink(big)
    status, a = post(port, "/v1/completions", {"prompt": tokens(9000, 2)})
    check(status == 400 and "9000" in a["error"]["message"] and "8192" in a["error"]["message"], a)
    status, a = post(port, "/v1/completions", {"prompt": [5, 99999]})
    check(status == 400 and "257" in a["error"]["message"], a)
    status, a = post(port, "/v1/chat/completions",
                     {"model": "nope", "messages": [{"role": "user", "content": "x"}]})
    check(status == 404 and "fake" in a["error"]["message"], a)


def many_clients(port):
    prompts = [tokens(300 + 20 * i, 100 + i) for i in range(6)]
    reference = [complete(port, p, "local")[1]["choices"][0]["text"] for p in prompts]
    wrong = []

    def client(i):
        plan = ["hybrid", "serial", "local", "remote"][i % 4]
        status, a = complete(port, prompts[i % 6], plan)
        if status != 200 or a["choices"][0]["text"] != reference[i % 6]:
            wrong.append((plan, status, a))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(not wrong, wrong)


def client_leaves(port):
    """Before and after the first byte: nothing is left working."""
    for stream in (True, False):
        c = http.client.HTTPConnection("127.0.0.1", port)
        body = {"prompt": tokens(6000, 3), "max_tokens": 2000, "stream": stream, "ignore_eos": True}
        c.request("POST", "/v1/completions", json.dumps(body))
        wait_for("a request", lambda: get(port, "/v1/tandem/status")[1]["requests"])
        c.sock.close()
        c.close()
        wait_for("silence", lambda: all(
            (n["worker"] or {}).get("requests", 0) + (n["worker"] or {}).get("transfers", 0) == 0
            for n in get(port, "/v1/tandem/status")[1]["nodes"]))
        check(get(port, "/v1/tandem/status")[1]["requests"] == [], "it is still there")


def commands(port):
    server = "http://127.0.0.1:%d" % port
    table = run(TANDEM, "ps", "--server", server, code=0)
    check(re.search(r"spark +both .* up ", table), table)
    check(json.loads(run(TANDEM, "ps", "--json", "--server", server, code=0))["status"] == "ok", "ps")
    one = json.loads(run(TANDEM, "chat", "--server", server, "--json", "--temperature", "0",
                         "--max-tokens", "5", "good", "day", code=0))
    check(len(one["text"]) > 0 and one["timings"]["predicted"]["total_s"] > 0, one)
    two = run(TANDEM, "chat", "--server", server, "--temperature", "0", "--max-tokens", "5", code=0,
              data="good day\n/nonsense\n/reset\ngood day\n/quit\nnever\n")
    check(two.count(one["text"]) == 2 and "no command" in two, two, one)
    run(TANDEM, "chat", "--server", server, "--model", "nope", "hi", code=1, has="there is no model")


def wrong_key():
    other = os.path.join(DIR, "other.key")
    with open(os.open(other, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write("ab" * 32 + "\n")
    p = Program("node", "-m", "fake", "--listen", "127.0.0.1:0", "--key-file", other)
    d = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--prefill",
                "127.0.0.1:%d" % p.port)
    n = wait_for("a reason", lambda: [n for n in nodes(d.port, "prefill") if "key" in (n["why"] or "")])
    check(n[0]["state"] != "up", n)
    status, a = complete(d.port, tokens(400, 1), "hybrid")
    check(status == 200 and "key" in a["timings"]["fallback"], a)
    p.stop()
    d.stop()


def api_key():
    d = Program("serve", "-m", "fake", "--listen", "0.0.0.0:0", "--api-key", "sesame")
    check(get(d.port, "/v1/models")[0] == 401, "no key was asked for")
    check("fake" in curl(d.port, "/v1/models", "-H", "Authorization: Bearer sesame"), "no models")
    run(TANDEM, "ps", "--server", "127.0.0.1:%d" % d.port, code=0, has="fake",
        env={"TANDEM_API_KEY": "sesame"})
    d.stop()


def worker_falls_silent():
    """A stopped worker does not end; it is killed, its request fails, another one serves."""
    d = Program("serve", "-m", "fake:decode_us=20000", "--listen", "127.0.0.1:0")
    answer = []
    t = threading.Thread(target=lambda: answer.append(complete(d.port, tokens(9, 1), "local", 2000)))
    t.start()
    wait_for("tokens", lambda: [r for r in get(d.port, "/v1/tandem/status")[1]["requests"]
                                if r["gen_tokens"] > 0])
    os.kill(d.worker(), signal.SIGSTOP)
    t.join(60)
    check(answer and answer[0][0] == 502, answer)
    wait_for("another worker", lambda: get(d.port, "/health")[0] == 200, 30)
    check(complete(d.port, tokens(9, 1), "local", 4)[0] == 200, "it does not serve")
    d.stop()


def memory(*programs):
    """What gateway and node supervisor hold: far below the 60 MB that both may add."""
    total = 0
    for p in programs:
        with open("/proc/%d/status" % p.p.pid) as f:
            total += int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
    print("gateway and node hold %.1f MB" % (total / 1024))
    sanitized = "LD_PRELOAD" in os.environ or b"__asan_init" in open(TANDEM, "rb").read() or \
        b"__tsan_init" in open(TANDEM, "rb").read()
    check(total < 60 * 1024 or sanitized, total, "KiB")


def ends_cleanly(p, d):
    workers = [p.worker(), d.worker()]
    p.p.send_signal(signal.SIGINT)
    d.p.send_signal(signal.SIGTERM)
    check(p.p.wait(10) == 0 and d.p.wait(10) == 0, "a signal is not a clean end")
    for w in workers:
        wait_for("the worker's end", lambda: not os.path.exists("/proc/%d" % w))


def step(f, *args):
    print(f.__name__, flush=True)
    f(*args)


step(wrong_usage)
p, d = pair()
for f in (stream_shape, sampling, bad_input, many_clients, client_leaves, commands):
    step(f, d.port)
step(memory, p, d)
step(ends_cleanly, p, d)
step(wrong_key)
step(api_key)
step(worker_falls_silent)
PYTHON
