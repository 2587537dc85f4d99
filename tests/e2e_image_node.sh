#!/usr/bin/env bash
# A node that draws: what it gives is what is drawn here, byte for byte; edits, partial pictures, steps, cancels; chat and
# image model side by side; who is sooner; nodes and workers that go away in the middle, and come back; peers that lie.
set -euo pipefail
unset TANDEM_IMAGE_MODEL
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import base64
import http.client
import sys
import threading

sys.path.insert(0, ".")
from e2e import *
from image_upstream_server import png, b64

CREATE, EDIT = "/v1/images/generations", "/v1/images/edits"
os.environ["TANDEM_CONFIG"] = os.path.join(DIR, "config")


def node(name, *args, port):
    return Program("node", "--listen", "127.0.0.1:%d" % port, "--name", name, *args, state="state-" + name)


def drawing(p, name):
    """What the server says of the node that draws."""
    rows = [n for n in get(p.port, "/v1/tandem/status")[1]["image_nodes"] if n["name"] == name]
    return rows[0] if rows else None


def wait_drawing(p, name, state="up"):
    wait_for("%s %s" % (name, state), lambda: (drawing(p, name) or {}).get("state") == state)


def draw(p, prompt="a cat", path=CREATE, **more):
    return post(p.port, path, dict({"prompt": prompt}, **more))


def file_of(a, i=0):
    return base64.b64decode(a["data"][i]["b64_json"])


def stream(p, path=CREATE, stop=None, **more):
    """Events of a stream, as (type, object); ends when stop says so."""
    c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=60)
    c.request("POST", path, json.dumps(dict({"prompt": "a cat", "stream": True}, **more)),
              {"Content-Type": "application/json"})
    r, events = c.getresponse(), []
    check(r.status == 200, r.status)
    for line in r:
        if line.startswith(b"data: "):
            o = json.loads(line[6:])
            events.append((o["type"], o))
            if stop and stop(o):
                break
    c.close()
    return events


def same_as_here(p, here):
    """One gateway draws on the node, the other one by itself."""
    for more in ({}, {"size": "96x64", "steps": 5, "cfg": 2.5, "negative_prompt": "a dog", "sampler": "heun"},
                 {"n": 3, "output_format": "webp"}):
        (s1, there), (s2, own) = draw(p, seed=7, **more), draw(here, seed=7, **more)
        check(s1 == 200 and s2 == 200, there, own)
        check([file_of(there, i) for i in range(len(there["data"]))] ==
              [file_of(own, i) for i in range(len(own["data"]))], "the same bytes", more)
        check([d["seed"] for d in there["data"]] == [d["seed"] for d in own["data"]], there["data"][0]["seed"])
        check(there["timings"]["node"] == "spark" and "node" not in own["timings"], there["timings"])
        check(there["timings"]["steps"] == own["timings"]["steps"] and there["size"] == own["size"], there["timings"])
    picture = {"images": [{"image_url": "data:image/png;base64," + b64(png(64, 64, 200))}],
               "mask": {"image_url": "data:image/png;base64," + b64(png(64, 64, 90))}}
    (s1, there), (s2, own) = (draw(x, "a hat", EDIT, seed=3, strength=0.5, **picture) for x in (p, here))
    check(s1 == 200 and s2 == 200 and file_of(there) == file_of(own), "edits", s1, there if s1 != 200 else s2)
    big = {"images": [{"image_url": "data:image/png;base64," + b64(png(640, 640, 9))}]}
    (s1, there), (s2, own) = (draw(x, "a hat", EDIT, seed=3, steps=1, **big) for x in (p, here))
    check(s1 == 200 and file_of(there) == file_of(own), "a picture in several pieces", s1)


def refused(p):
    for status, words, more in ((400, "multiple", {"size": "65x64"}), (400, "steps", {"steps": 999}),
                                (404, "no image model", {"model": "nobody"}), (400, "sampler", {"sampler": "x"}),
                                (400, "LoRA", {"prompt": "a <lora:none:1> cat"})):
        got, a = draw(p, **more)
        check(got == status and words in a["error"]["message"], more, got, a)
    check(draw(p, model="spark/fake:8")[0] == 200 and draw(p, model="FAKE:8")[0] == 200, "names")


def streams(p):
    events = stream(p, partial_images=2, progress=True, steps=6, n=2, seed=1)
    kinds = [k.split(".")[1] for k, _ in events]
    check(kinds.count("completed") == 2 and kinds.count("partial_image") == 4 and kinds.count("progress") == 12, kinds)
    check([o["index"] for k, o in events if k.endswith("completed")] == [0, 1], kinds)
    check(events[0][1]["eta_s"] > 0, events[0])


def cancelled(p, n):
    """A client that leaves ends its picture within a step; nothing is left behind on either side."""
    before = drawing(p, "spark")["cancelled"]
    stream(p, progress=True, steps=150, stop=lambda o: o["type"].endswith("progress"))
    wait_for("cancelled", lambda: drawing(p, "spark")["cancelled"] == before + 1)
    wait_for("nothing to draw on the node", lambda: nodes(p.port, "draw")[0]["worker"]["requests"] == 0)
    check(draw(p, steps=2)[0] == 200, "a picture after it")
    wait_for("nothing is drawn", lambda: drawing(p, "spark")["drawing"] == 0)


def told(p):
    models = {m["id"]: m for m in get(p.port, "/v1/models")[1]["data"]}
    m = models["fake:8"]
    check(m["meta"]["server"] == "node" and m["meta"]["edits"] and m["meta"]["side"] == 64, m)
    check(m["owned_by"] == "spark" and m["status"]["value"] == "loaded", m)
    row = drawing(p, "spark")
    speeds = row["models"][0]["speeds"]
    check(row["kind"] == "node" and row["speeds_of"] == "step" and all(s["step_s"] > 0 for s in speeds) and speeds, row)
    out = subprocess.run([os.path.join(BIN, "tandem"), "ps", "--server", "http://127.0.0.1:%d" % p.port],
                         capture_output=True, text=True).stdout
    check("spark" in out and "s a step" in out and " draw " in out, out)


def worker_of(n):
    """The process of a node that draws."""
    out = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(n.p.pid)], capture_output=True, text=True).stdout
    pids = [int(line.split()[0]) for line in out.splitlines() if "tandem-image-worker" in line]
    return pids[0] if pids else None


def killed_worker(p, n):
    result = []
    t = threading.Thread(target=lambda: result.append(draw(p, steps=150)))
    t.start()
    wait_for("drawing", lambda: drawing(p, "spark")["drawing"] == 1)
    time.sleep(0.1)
    os.kill(worker_of(n), signal.SIGKILL)
    t.join()
    status, a = result[0]
    check(status == 500 and "while it drew this" in a["error"]["message"] and "spark" in a["error"]["message"], a)
    check(draw(p, steps=2)[0] == 200, "the next worker draws")


def gone(p, n, port):
    """The only one that draws dies: a clear error. It comes back: it is used."""
    result = []
    t = threading.Thread(target=lambda: result.append(draw(p, steps=150)))
    t.start()
    wait_for("drawing", lambda: drawing(p, "spark")["drawing"] == 1)
    n.kill()
    t.join()
    status, a = result[0]
    check(status == 503 and "went away" in a["error"]["message"] and "spark" in a["error"]["message"], status, a)
    wait_drawing(p, "spark", "down")
    status, a = draw(p)
    check(status == 503 and "spark" in a["error"]["message"], status, a)
    again = node("spark", "--image-model", "fake:8", port=port)
    wait_drawing(p, "spark")
    check(draw(p, steps=2)[0] == 200, "it is back")
    return again


def only_pictures():
    port = free_ports(1)
    n = node("spark", "--image-model", "fake:8", port=port)
    p = Program("serve", "--listen", "127.0.0.1:0", "--prefill", "127.0.0.1:%d" % port, state="a")
    here = Program("serve", "--listen", "127.0.0.1:0", "--image-model", "fake:8", state="b")
    wait_drawing(p, "spark")
    same_as_here(p, here)
    refused(p)
    streams(p)
    cancelled(p, n)
    told(p)
    killed_worker(p, n)
    n = gone(p, n, port)
    here.stop()
    return p, n, port


def elsewhere(p, n, port):
    """A second node with the same model: who goes away in the middle is drawn for by the other, from the same seed."""
    other_port = free_ports(1)
    other = node("attic", "--image-model", "fake:8", port=other_port)
    status, a = post(p.port, "/v1/tandem/nodes", {"address": "127.0.0.1:%d" % other_port})
    check(status == 200, a)
    wait_drawing(p, "attic")
    want = file_of(draw(p, seed=11, steps=40, model="attic/fake:8")[1])
    check(draw(p, steps=2, model="attic/fake:8")[1]["timings"]["node"] == "attic", "by name")
    # A node that is stopped says nothing: its link ends.
    result = []
    t = threading.Thread(target=lambda: result.append(draw(p, seed=11, steps=40, model="fake:8")))
    t.start()
    wait_for("drawing", lambda: drawing(p, "spark")["drawing"] + drawing(p, "attic")["drawing"] == 1)
    first, second = (n, other) if drawing(p, "spark")["drawing"] else (other, n)
    first.kill()
    t.join()
    status, a = result[0]
    check(status == 200 and file_of(a) == want, "the same picture, from the other node", status, a if status != 200 else "")
    check(a["timings"]["node"] == ("attic" if first is n else "spark"), a["timings"])
    # Draining: what runs ends, and the node with it.
    result.clear()
    t = threading.Thread(target=lambda: result.append(draw(p, steps=30)))
    t.start()
    name = "attic" if first is n else "spark"
    wait_for("drawing", lambda: drawing(p, name)["drawing"] == 1)
    second.stop()
    t.join()
    check(result[0][0] == 200, result[0])
    status, a = draw(p)
    check(status == 503, status, a)
    # Removed: nobody draws any more, and that is said.
    for address in (port, other_port):
        get_delete(p, "127.0.0.1:%d" % address)
    wait_for("gone", lambda: not get(p.port, "/v1/tandem/status")[1]["image_nodes"])
    status, a = draw(p)
    check(status == 404 and "draws no pictures" in a["error"]["message"], status, a)
    check(get(p.port, "/v1/models")[1]["data"] == [], get(p.port, "/v1/models")[1])
    p.stop()


def get_delete(p, address):
    c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=10)
    c.request("DELETE", "/v1/tandem/nodes/" + address)
    r = c.getresponse()
    check(r.status == 200, r.status, r.read())


def beside_chats():
    """Chat and image model on one node: the gateway finds the second one's port; prompts go before pictures there."""
    port = free_ports(2)
    n = node("spark", "-m", "fake:prefill_us=300", "--image-model", "fake:8", port=port)
    # Here it is the same model by name, and slower.
    p = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--image-model", "fake:30", "--image-name", "fake:8",
                state="c")
    check(draw(p, model="fake:8", steps=2)[1]["timings"].get("node") is None, "drawn here")
    status, a = post(p.port, "/v1/tandem/nodes", {"address": "127.0.0.1:%d" % port})
    check(status == 200, a)
    wait_drawing(p, "spark")
    # The one of whose speed nothing is known gets a request.
    check(draw(p, model="fake:8", steps=2)[1]["timings"]["node"] == "spark", "both have it")
    check(draw(p, model="fake:8", steps=4)[1]["timings"]["node"] == "spark", "it is sooner there")
    long = threading.Thread(target=lambda: draw(p, model="spark/fake:8", steps=80))
    long.start()
    wait_for("a queue", lambda: drawing(p, "spark")["left_s"] > 0.3)
    check("node" not in draw(p, model="fake:8", steps=4)[1]["timings"], "behind a queue it is sooner here")
    long.join()
    wait_for("up", lambda: any(x["role"] == "prefill" and x["state"] == "up" for x in get(p.port, "/v1/tandem/status")[1]["nodes"]))
    before = pauses(p)
    check(draw(p, model="spark/fake:8", steps=10)[0] == 200 and pauses(p) == before, "alone nothing waits")
    chat = threading.Thread(target=lambda: complete(p.port, "word " * 600, "hybrid", gen=2))
    chat.start()
    wait_for("reading", lambda: any(x["role"] == "prefill" and x["requests"] for x in get(p.port, "/v1/tandem/status")[1]["nodes"]))
    status, a = draw(p, model="spark/fake:8", steps=80)
    chat.join()
    check(status == 200, a)
    check(pauses(p) > before, "the picture waited for the prompt")
    # Who goes away in the middle is drawn for here, in a stream too, from the beginning.
    events, got = [], threading.Event()

    def watch(o):
        got.set()
        return False
    t = threading.Thread(target=lambda: events.extend(stream(p, model="fake:8", steps=30, progress=True, seed=5, stop=watch)))
    t.start()
    got.wait(20)
    check(drawing(p, "spark")["drawing"] == 1, "it is drawn there")
    n.kill()
    t.join()
    check(events[-1][0] == "image_generation.completed" and events[-1][1]["seed"] == 5, events[-1])
    check([o["step"] for k, o in events if k.endswith("progress")][-30:] == list(range(1, 31)), "all steps, here")
    out = subprocess.run([os.path.join(BIN, "tandem"), "nodes", "remove", "spark", "--server", "http://127.0.0.1:%d" % p.port],
                         capture_output=True, text=True)
    check(out.returncode == 0, out.stdout, out.stderr)
    wait_for("both left", lambda: not drawing(p, "spark"))
    p.stop()


def pauses(p):
    """How often pictures have waited on the node that draws, as it says itself."""
    return nodes(p.port, "draw")[0]["worker"]["pauses"]


p, n, port = only_pictures()
elsewhere(p, n, port)
beside_chats()
PYTHON
