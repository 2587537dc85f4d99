#!/usr/bin/env bash
# The main job, once: local, remote, serial and hybrid give the same answer, with the fake engine and
# with the real model, whole and streamed; several clients at once. `make valgrind` runs this.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import http.client
import sys
import threading

sys.path.insert(0, ".")
from e2e import *

GEN = 8


def stream(port, prompt, plan):
    """The text of a streamed answer and its timings."""
    body = json.dumps({"prompt": prompt, "max_tokens": GEN, "temperature": 0, "ignore_eos": True,
                       "cache_prompt": False, "store": False, "stream": True,
                       "tandem": {"plan": plan}})
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    lines = c.getresponse().read().decode().split("\n")
    check(lines[0].startswith(":"), "no comment line at once", lines[0])
    check(lines[-3] == "data: [DONE]", lines[-3:])
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(x["choices"][0]["text"] for x in chunks), chunks[-1]["timings"]


def four_plans(model, prompt, *node_args):
    p = Program("node", "-m", model, "--listen", "127.0.0.1:0", "--name", "P", *node_args)
    d = Program("serve", "-m", model, "--listen", "127.0.0.1:0", "--name", "D",
                "--prefill", "127.0.0.1:%d" % p.port, *node_args)
    wait_for("the prefill node", node_is(d.port), 60)
    texts = {}
    for plan in ("local", "remote", "serial", "hybrid"):
        status, answer = complete(d.port, prompt, plan, GEN)
        check(status == 200, plan, answer)
        t = answer["timings"]
        # What passes only as a whole is not streamed, and that is said.
        whole = plan == "hybrid" and "whole" in node_args
        done = "serial" if whole else plan
        check(t["plan"] == done and (t["fallback"] is not None) == whole, plan, t)
        texts[plan] = answer["choices"][0]["text"]
        check(answer["usage"]["prompt_tokens"] == len(prompt), answer["usage"])
        check(answer["usage"]["completion_tokens"] == GEN, answer["usage"])
        text, timings = stream(d.port, prompt, plan)
        check(text == texts[plan], "streamed", plan, repr(text), repr(texts[plan]))
        check(timings["plan"] == done, timings)
    check(len(set(texts.values())) == 1, "plans differ:", texts)
    # Without a word about the plan, placement finds one, and says what it expects of it.
    status, answer = post(d.port, "/v1/completions", {"prompt": prompt, "max_tokens": 1,
                                                       "cache_prompt": False})
    check(answer["timings"]["predicted"]["total_s"] > 0 and answer["timings"]["reason"], answer["timings"])
    return p, d, texts["local"]


def together(port, prompt, expect):
    """Four clients at once, two of them handed over, get what one gets alone."""
    got = []
    def ask(plan):
        got.append(complete(port, prompt, plan, GEN)[1]["choices"][0]["text"])
    threads = [threading.Thread(target=ask, args=(x,)) for x in ("hybrid", "local") * 2]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(got == [expect] * 4, got, expect)


p, d, text = four_plans("fake", tokens(1500, 3))
together(d.port, tokens(1500, 3), text)
p.stop()
d.stop()
for args in (("--no-tiles",), ("--handoff", "whole")):
    p, d, again = four_plans("fake", tokens(1500, 3), *args)
    check(again == text, args, "changes the answer")
    p.stop()
    d.stop()
if MODEL:
    for args in ((), ("--no-tiles",)):
        p, d, text = four_plans(MODEL, tokens(700, 3, 1000, 20000), "--threads", "1", *args)
        p.stop()
        d.stop()
print("e2e_smoke: all passed")
PYTHON
