#!/usr/bin/env bash
# Several models on one server: of the store, loaded when they are asked for, unloaded by order and by time;
# given with -m, and read by a node that holds both.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import os
import shutil
import subprocess
import sys

sys.path.insert(0, ".")
from e2e import *

TANDEM = os.path.join(BIN, "tandem")
STORE = os.path.join(DIR, "data")
ENV = dict({k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}, TANDEM_DATA=STORE,
           TANDEM_CONFIG=os.path.join(DIR, "config"))


def run(*args, code=0):
    p = subprocess.run([TANDEM, *args], capture_output=True, text=True, timeout=120, env=ENV)
    check(p.returncode == code, args, "ended with", p.returncode, p.stdout[-500:], p.stderr[-2000:])
    return p.stdout


def state(port, name):
    return get(port, "/v1/models/" + name)[1]["status"]["value"]


def say(port, model):
    status, body = post(port, "/v1/chat/completions",
                        {"model": model, "max_tokens": 4, "temperature": 0,
                         "messages": [{"role": "user", "content": "Hello!"}]})
    check(status == 200, model, status, body)
    return body["model"], body["choices"][0]["message"]["content"]


# Of the store, without -m. The same file under two names is two models.
os.makedirs(STORE)
twin = os.path.join(DIR, "Twin-Q4_0.gguf")
shutil.copy(MODEL, twin)
run("pull", MODEL)
run("pull", twin)
ids = sorted(m["name"] for m in json.loads(run("ls", "--json"))["models"])
check(len(ids) == 2 and ids[1].startswith("twin"), ids)
os.environ["TANDEM_DATA"] = STORE
s = Program("serve", "--listen", "127.0.0.1:0", "--threads", "1", "--ctx", "512", "--models-max", "1",
            "--models-idle", "2")
server = ["--server", "http://127.0.0.1:%d" % s.port]
check(get(s.port, "/readyz")[0] == 200, "not ready, though everything can be loaded")
check(sorted(m["id"] for m in get(s.port, "/v1/models")[1]["data"]) == ids, get(s.port, "/v1/models"))
first = say(s.port, ids[0])
check(first[0] == ids[0] and state(s.port, ids[0]) == "loaded", first)
check(say(s.port, "twin") == (ids[1], first[1]), "the same weights answer otherwise")
check((state(s.port, ids[0]), state(s.port, ids[1])) == ("unloaded", "loaded"), "there is room for one")
wait_for("the idle model to be unloaded", lambda: state(s.port, ids[1]) == "unloaded")
check(json.loads(run("load", "--json", *server, "twin"))["status"]["value"] == "loaded", "load")
check("unloaded" in run("unload", *server, ids[1]), "unload")
run("load", *server, "nosuch", code=1)
check(get(s.port, "/api/ps")[1]["models"] == [], "something is still loaded")
s.stop()

# Given with -m, and a node for both: each prompt is read by the worker that has its model.
NAMES = ("fake:name=a", "fake:name=b,seed=2")
several = [x for name in NAMES for x in ("-m", name)]
port = free_ports(2)
node = Program("node", *several, "--listen", "127.0.0.1:%d" % port)
s = Program("serve", *several, "--listen", "127.0.0.1:0", "--prefill", "127.0.0.1:%d" % port,
            "--prefill", "127.0.0.1:%d" % (port + 1))
wait_for("both nodes", lambda: len([n for n in nodes(s.port, "prefill") if n["state"] == "up"]) == 2)
texts = set()
for model in ("a", "b"):
    status, one = complete(s.port, tokens(600, "p"), "hybrid", model=model)
    check(status == 200 and one["timings"]["plan"] == "hybrid" and not one["timings"]["fallback"], one)
    status, other = complete(s.port, tokens(600, "p"), "local", model=model)
    check(one["choices"] == other["choices"] or one["choices"][0]["text"] == other["choices"][0]["text"], one, other)
    texts.add(one["choices"][0]["text"])
check(len(texts) == 2, "two models, one answer")
s.stop()
node.stop()

# A node that has its model loaded only while somebody is connected.
node = Program("node", "-m", "fake", "--on-demand", "--models-idle", "0.5", "--listen", "127.0.0.1:0")
check(node.worker() is None, "loaded before anybody came")
for _ in range(2):
    s = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--prefill", "127.0.0.1:%d" % node.port)
    wait_for("the node", node_is(s.port))
    status, one = complete(s.port, tokens(600, "p"), "hybrid")
    check(status == 200 and one["timings"]["plan"] == "hybrid" and not one["timings"]["fallback"], one)
    s.stop()
    wait_for("the node to be alone", lambda: node.worker() is None)
node.stop()
PYTHON
