#!/usr/bin/env bash
# Pictures as jobs, with the drawer that needs no library: the same bytes over HTTP, command and job, and over a server
# that is killed; queue, cancelling, limits and owners; what is refused; servers that draw; and that a hundred
# cancelled jobs leave nothing behind in server, worker, table and store.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import base64
import glob
import http.client
import sqlite3
import statistics
import sys
import threading

sys.path.insert(0, ".")
from e2e import *
from image_upstream_server import *

TANDEM = os.path.join(BIN, "tandem")
CREATE, JOBS = "/v1/images/generations", "/v1/images/jobs"
LONG = {"prompt": "long", "n": 10, "steps": 150}
os.environ["TANDEM_CONFIG"] = os.path.join(DIR, "config")
os.environ["TMPDIR"] = os.path.join(DIR, "tmp")
os.mkdir(os.environ["TMPDIR"])
for name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ[name] = "http://127.0.0.1:9"
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))


def serve(step_ms=2, *args, state="", port=0):
    return Program("serve", "-m", "fake", "--listen", "127.0.0.1:%d" % port, "--image-model", "fake:%d" % step_ms, *args,
                   state=state)


def ask(p, method, path, body=None, key=None, kind="application/json"):
    """(status, headers, bytes), over a connection of its own."""
    c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=20)
    headers = {"Content-Type": kind}
    if key:
        headers["Authorization"] = "Bearer " + key
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    c.request(method, path, data, headers)
    r = c.getresponse()
    out = r.status, r.headers, r.read()
    c.close()
    return out


def told(p, method, path, body=None, status=200, key=None):
    got, head, data = ask(p, method, path, body, key)
    check(got == status, method, path, got, data[:300])
    return json.loads(data)


def submit(p, key=None, **body):
    return told(p, "POST", JOBS, dict({"prompt": "a cat"}, **body), key=key)


def job(p, id, key=None):
    return told(p, "GET", JOBS + "/" + id, key=key)


def ended(p, id, status="completed"):
    def look():
        j = job(p, id)
        return j if j["status"] not in ("queued", "in_progress") else None
    j = wait_for("job " + id, look)
    check(j["status"] == status, j)
    return j


def begun(p, id):
    def look():
        j = job(p, id)
        return j["step"] > 0 or j["status"] == "completed"
    return wait_for("a step of " + id, look)


def cancel(p, id, status=200):
    return told(p, "POST", "%s/%s/cancel" % (JOBS, id), b"", status)


def content(p, id, index=0):
    status, head, data = ask(p, "GET", "%s/%s/content?index=%d" % (JOBS, id, index))
    check(status == 200, data[:200])
    return data


def pictures(answer):
    return [base64.b64decode(e["b64_json"]) for e in answer["data"]]


def idle(p):
    return wait_for("an idle drawer", lambda: get(p.port, "/v1/tandem/status")[1]["images"]["requests"] == 0)


def figures(p):
    return get(p.port, "/v1/tandem/status")[1]["image_jobs"]


def command(p, *args, code=0):
    r = subprocess.run([TANDEM, "image", *args, "--server", "http://127.0.0.1:%d" % p.port], capture_output=True, text=True,
                       cwd=DIR, timeout=30)
    check(r.returncode == code, args, r.returncode, r.stdout, r.stderr)
    return r.stdout.strip()


def same_bytes():
    """Directly, as a job, by the command, and of a job that a killed server left in the middle."""
    p = serve(15, state="same")
    asked = {"prompt": "a cat", "seed": 11, "n": 2, "steps": 3}
    direct = pictures(post(p.port, CREATE, asked)[1])
    done = ended(p, submit(p, **asked)["id"])
    check(pictures(done["result"]) == direct, "a job draws other bytes")
    check([content(p, done["id"], i) for i in range(2)] == direct, "content has other bytes")
    check([e["seed"] for e in done["result"]["data"]] == [11, 12] and done["result"]["size"] == "64x64", done["result"]["size"])
    check(done["progress"] == 100 and done["result"]["timings"]["steps"] == 3, done["result"]["timings"])
    text = command(p, "a cat", "--job", "--watch", "--seed", "11", "--steps", "3", "-n", "2", "-o", "watched.png", "--show", "none")
    files = [open(os.path.join(DIR, f), "rb").read() for f in text.split()]
    check(files == direct, "the command writes other bytes", text)
    # Nobody gave a seed: the one that was drawn is kept, and its picture is that of a request that gives it.
    killed, waiting = submit(p, n=3, steps=10)["id"], submit(p, prompt="another", steps=2)["id"]
    wait_for("its first picture", lambda: job(p, killed)["pictures"] == 1)
    first = content(p, killed)
    port = p.port
    p.kill()
    p.p.wait()
    p = serve(15, state="same", port=port)
    done = ended(p, killed)
    check(pictures(done["result"])[0] == first, "another picture after the server was killed")
    seed = done["seed"]
    check(pictures(post(p.port, CREATE, {"prompt": "a cat", "n": 3, "steps": 10, "seed": seed})[1]) == pictures(done["result"]), seed)
    ended(p, waiting)
    check(len(glob.glob(os.path.join(DIR, "same/images/*"))) == 2 + 2 + 3 + 1, "pictures of the first try are left")
    # An orderly end puts a job back too; and one that the process died of too often is not begun again.
    id = submit(p, **dict(LONG, prompt="again"))["id"]
    for _ in range(2):
        begun(p, id)
        p.kill()
        p.p.wait()
        p = serve(15, state="same", port=port)
    begun(p, id)
    p.kill()
    p.p.wait()
    p = serve(15, state="same", port=port)
    check("3 times" in ended(p, id, "failed")["error"]["message"], job(p, id))
    p.stop()


def edits():
    p = serve(1)
    first = pictures(post(p.port, CREATE, {"prompt": "a cat", "seed": 3})[1])[0]
    url = "data:image/png;base64," + base64.b64encode(first).decode()
    asked = {"prompt": "a dog", "seed": 5, "images": [{"image_url": url}]}
    direct = pictures(post(p.port, "/v1/images/edits", asked)[1])
    done = ended(p, told(p, "POST", JOBS, asked)["id"])
    check(done["edit"] and pictures(done["result"]) == direct, "an edit is drawn otherwise")
    form = b"".join(b"--xx\r\nContent-Disposition: form-data; name=\"%s\"%s\r\n\r\n%s\r\n" % part for part in (
        (b"prompt", b"", b"a dog"), (b"seed", b"", b"5"), (b"image", b"; filename=\"a.png\"", first))) + b"--xx--\r\n"
    status, head, data = ask(p, "POST", JOBS, form, kind="multipart/form-data; boundary=xx")
    check(status == 200, data)
    check(pictures(ended(p, json.loads(data)["id"])["result"]) == direct, "an edit by a form is drawn otherwise")
    db = sqlite3.connect("file:%s/image-jobs.db?mode=ro" % DIR, uri=True)
    check(db.execute("SELECT count(*) FROM files").fetchone() == (0,), "files of jobs that have ended are kept")
    p.stop()


def watching():
    """The events of a job's stream are those of a request's, with its states around them."""
    p = serve(10)
    begun(p, submit(p, steps=20)["id"])
    id = submit(p, steps=5, n=2)["id"]
    check(job(p, id)["before"] == 0 and job(p, id)["status"] == "queued", job(p, id))
    status, head, data = ask(p, "GET", "%s/%s/events" % (JOBS, id))
    check(status == 200 and head["Content-Type"] == "text/event-stream", status, head)
    events = [json.loads(line[6:]) for line in data.decode().split("\n") if line.startswith("data: ")]
    types = [e["type"] for e in events]
    step, drawn = "image_generation.progress", "image_generation.completed"
    check(types == ["image_job.queued", "image_job.in_progress"] + 2 * (5 * [step] + [drawn]) + ["image_job.completed"], types)
    check([e["step"] for e in events if e["type"] == step] == 2 * list(range(1, 6)), events)
    name = next(e["url"] for e in events if e["type"] == drawn).split("/")[-1]
    check(ask(p, "GET", "/v1/images/files/" + name)[2] == content(p, id), "the address of an event leads elsewhere")
    late = ask(p, "GET", "%s/%s/events" % (JOBS, id))[2].decode()
    check(late.count("event: " + drawn) == 2 and "event: image_job.completed" in late, late)
    check(told(p, "GET", "%s/%s?result=false" % (JOBS, id)).get("result") is None, "it was not left out")
    # By url; as the answer of a request has it.
    done = ended(p, submit(p, response_format="url")["id"])
    check(list(done["result"]["data"][0]) == ["url", "seed"], done)
    # Ctrl-C: the job goes on, and is told how to be found.
    w = subprocess.Popen([TANDEM, "image", "slow", "--job", "--watch", "--steps", "100", "--server", "http://127.0.0.1:%d" % p.port],
                         stderr=subprocess.PIPE, text=True, cwd=DIR)
    id = wait_for("the command's job", lambda: [j["id"] for j in told(p, "GET", JOBS)["data"] if j["prompt"] == "slow"])[0]
    begun(p, id)
    w.send_signal(signal.SIGINT)
    words = w.communicate(timeout=10)[1]
    check(w.returncode == 130 and "watch " + id in words and "cancel " + id in words, w.returncode, words)
    check(job(p, id)["status"] == "in_progress", "the job ended with its watcher")
    check(command(p, "cancel", id) == id + " cancelled", "cancelled otherwise")
    check(json.loads(command(p, "show", id, "--json"))["status"] == "cancelled" and id in command(p, "list"), "not told")
    check(command(p, "rm", id) == id + " removed", "removed otherwise")
    command(p, "show", id, code=1)
    command(p, "watch", "../" + id, code=2)
    # A prompt is a line of a list, whatever is in it.
    id = submit(p, prompt="x\nimgjob-forged\u009b31m\u202ey", steps=1)["id"]
    for text in (command(p, "list"), command(p, "show", id)):
        check("x imgjob-forged 31m y" in text and "\u009b" not in text and "\u202e" not in text, text)
    p.stop()


def queue():
    p = serve(10, "--image-jobs", "4", "--image-jobs-per-key", "4", state="queue")
    ids = [submit(p, **LONG)["id"] for _ in range(4)]
    begun(p, ids[0])
    status, head, data = ask(p, "POST", JOBS, {"prompt": "x"})
    check(status == 429 and int(head["Retry-After"]) > 0 and b"--image-jobs 4" in data, status, data)
    page = told(p, "GET", JOBS + "?limit=3")
    check([j["id"] for j in page["data"]] == ids[:0:-1] and page["has_more"], page)
    page = told(p, "GET", "%s?limit=3&after=%s" % (JOBS, page["last_id"]))
    check([j["id"] for j in page["data"]] == ids[:1] and not page["has_more"], page)
    # A queued one, the one that is drawn, and one by removing it.
    check(cancel(p, ids[2])["status"] == "cancelled" and cancel(p, ids[2])["status"] == "cancelled", "cancelled twice")
    watched = []
    t = threading.Thread(target=lambda: watched.append(ask(p, "GET", "%s/%s/events" % (JOBS, ids[0]))[2]))
    t.start()
    wait_for("a watcher", lambda: job(p, ids[0])["step"] > 2)
    check(cancel(p, ids[0])["status"] == "cancelled", "not cancelled")
    t.join(10)
    check(watched and b"event: image_job.cancelled" in watched[0], watched)
    begun(p, ids[1])
    told(p, "DELETE", JOBS + "/" + ids[1])
    told(p, "GET", JOBS + "/" + ids[1], status=404)
    begun(p, ids[3])
    cancel(p, ids[3])
    check(figures(p) == dict(queued=0, in_progress=0, completed=0, failed=0, cancelled=4), figures(p))
    idle(p)
    check(pictures(post(p.port, CREATE, {"prompt": "x", "steps": 1})[1]), "nothing is drawn any more")
    bad = submit(p, prompt="crash")["id"]
    check("signal" in ended(p, bad, "failed")["error"]["message"], job(p, bad))
    cancel(p, bad, 409)
    metrics = ask(p, "GET", "/metrics")[2].decode()
    check('tandem_image_jobs_total{end="cancelled"} 4' in metrics and 'tandem_image_jobs_total{end="failed"} 1' in metrics
          and 'tandem_image_jobs{state="queued"} 0' in metrics, metrics)
    check("IMAGE JOBS 0 queued" in subprocess.run([TANDEM, "ps", "--server", "http://127.0.0.1:%d" % p.port],
                                                  capture_output=True, text=True).stdout, "tandem ps is silent")
    # A store that is full is waited for.
    full = [os.path.join(DIR, "queue/images/x-%d" % i) for i in range(1000)]
    os.makedirs(os.path.dirname(full[0]), 0o700, exist_ok=True)
    for name in full:
        open(name, "w").close()
    id = submit(p, steps=1)["id"]
    check("1000 pictures" in wait_for("why it waits", lambda: job(p, id).get("why")), job(p, id))
    for name in full:
        os.unlink(name)
    ended(p, id)
    # Another server on the same folder does not draw this one's jobs.
    q = serve(0, state="queue")
    check("another server" in told(q, "GET", JOBS, status=503)["error"]["message"], "two servers own one queue")
    q.stop()
    done = ended(p, submit(p, steps=1)["id"])
    change("queue", "UPDATE jobs SET ended = ended - 3601")  # an hour goes by
    wait_for("its expiry", lambda: ask(p, "GET", JOBS + "/" + done["id"])[0] == 404)
    check(told(p, "GET", JOBS)["data"] == [] and glob.glob(os.path.join(DIR, "queue/images/*")) == [], "not expired")
    p.stop()


def kept(state, word=b"periwinkle"):
    """Whether a file of the queue has it in it."""
    return any(word in open(f, "rb").read() for f in glob.glob(os.path.join(DIR, state, "image-jobs*")))


def change(state, sql, *values):
    """The table, behind the server's back."""
    db = sqlite3.connect("%s/%s/image-jobs.db" % (DIR, state))
    with db:
        db.execute(sql, values)
    db.close()


def old_and_lost():
    """One that has waited for days is put back like any other; one whose end could not be written down is drawn again."""
    p = serve(10, "--drain", "0", state="old")
    ahead, old, lost = submit(p, **LONG)["id"], submit(p, **LONG)["id"], submit(p, steps=1)["id"]
    change("old", "UPDATE jobs SET created = created - 200000 WHERE id = ?", old)
    change("old", "UPDATE jobs SET state = 1, attempts = 1 WHERE id = ?", lost)
    wait_for("the lost one", lambda: job(p, lost)["status"] == "queued")
    cancel(p, ahead)
    begun(p, old)
    p.stop()
    p = serve(10, "--drain", "0", state="old")
    begun(p, old)
    cancel(p, old)
    ended(p, lost)
    p.stop()


def forgotten():
    """By a server that draws nothing, and not while the queue is another's; what has expired goes there as well."""
    p = serve(1, state="bare")
    submit(p, **dict(LONG, prompt="periwinkle"))
    damaged = os.path.join(DIR, "bare/image-jobs.db.damaged-7")
    with open(damaged, "w") as f:
        f.write("periwinkle")
    bare = lambda: Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", state="bare")
    q = bare()
    words = told(q, "POST", "/v1/tandem/forget", {}, status=503)["error"]["message"]
    check("another server" in words and os.path.exists(damaged), words)
    p.kill()
    p.p.wait()
    n = told(q, "POST", "/v1/tandem/forget", {})
    check(n["image_jobs"] == 1 and not kept("bare") and not os.path.exists(damaged), n)
    p = serve(1, state="bare")
    check(told(p, "GET", JOBS)["data"] == [], "the queue is not given back")
    ended(p, submit(p, steps=1, prompt="periwinkle")["id"])
    q.stop()
    p.stop()
    change("bare", "UPDATE jobs SET ended = ended - 3601")
    q = bare()
    wait_for("the expiry of one of another time", lambda: not kept("bare"))
    q.stop()


def owners():
    keys = os.path.join(DIR, "keys")
    with open(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write("ann inference k1\nbob inference k2\nboss admin k3\n")
    p = serve(5, "--api-key-file", keys, "--image-jobs-per-key", "2", state="owners")
    mine = submit(p, key="k1")["id"]
    check([j["id"] for j in told(p, "GET", JOBS, key="k1")["data"]] == [mine], "ann's is not listed")
    check(told(p, "GET", JOBS, key="k2")["data"] == [], "bob sees ann's")
    for method, word in (("GET", ""), ("GET", "/content"), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")):
        status, head, data = ask(p, method, "%s/%s%s" % (JOBS, mine, word), key="k2")
        check(status == 404, method, word, status, data)
        check(ask(p, method, "%s/%s%s" % (JOBS, mine, word))[0] == 401, method, word)
    wait_for("ann's picture", lambda: job(p, mine, "k1")["status"] == "completed")
    check(job(p, mine, "k3")["id"] == mine, "the boss may not see it")
    for _ in range(2):
        told(p, "POST", JOBS, LONG, key="k1")
    told(p, "POST", JOBS, LONG, status=429, key="k1")
    told(p, "POST", JOBS, LONG, key="k2")
    n = told(p, "POST", "/v1/tandem/forget", {"key": "ann"}, key="k3")
    check(n["image_jobs"] == 3 and told(p, "GET", JOBS, key="k1")["data"] == [], n)
    left = told(p, "GET", JOBS, key="k3")["data"]
    check(len(left) == 1, "bob's went too", left)
    # One key does not have all streams.
    streams = []
    for key, status in 16 * [("k2", 200)] + [("k2", 429), ("k3", 200)]:
        streams.append(http.client.HTTPConnection("127.0.0.1", p.port, timeout=20))
        streams[-1].request("GET", "%s/%s/events" % (JOBS, left[0]["id"]), headers={"Authorization": "Bearer " + key})
        check(streams[-1].getresponse().status == status, len(streams), key)
    for c in streams:
        c.close()
    id = told(p, "POST", JOBS, dict(LONG, prompt="periwinkle"), key="k2")["id"]
    check(kept("owners"), "where are prompts kept?")
    told(p, "DELETE", JOBS + "/" + id, key="k2")
    wait_for("a disk without it", lambda: not kept("owners"))
    id = told(p, "POST", JOBS, dict(LONG, prompt="periwinkle"), key="k2")["id"]
    told(p, "POST", "%s/%s/cancel" % (JOBS, id), b"", key="k2")
    change("owners", "UPDATE jobs SET ended = ended - 3601 WHERE id = ?", id)
    wait_for("a disk without what has expired", lambda: not kept("owners"))
    told(p, "POST", JOBS, dict(LONG, prompt="periwinkle"), key="k2")
    told(p, "POST", "/v1/tandem/forget", {}, key="k3")
    check(not kept("owners"), "a prompt that was to be forgotten is on the disk")
    check(told(p, "GET", JOBS, key="k3")["data"] == [], "something is remembered")
    p.stop()


def hostile():
    p = serve(1, state="hostile")
    told(p, "GET", JOBS)
    times = []
    bodies = [{"prompt": "x" * (1 << 20)}, {"prompt": "a\x07b"}, {"prompt": "a\x00b"}, {}, [], 5, b"{", b"", b"\xff\xfe",
              {"prompt": 7}, {"prompt": "x", "size": "65536x65536"}, {"prompt": "x", "size": "1x1"},
              {"prompt": "x", "size": "-1x64"}, {"prompt": "x", "n": 0}, {"prompt": "x", "n": 1 << 40},
              {"prompt": "x", "steps": 10**9}, {"prompt": "x", "steps": -1}, {"prompt": "x", "seed": 1.5},
              {"prompt": "x", "sampler": "../../etc/passwd"}, {"prompt": "x", "output_format": "../x"},
              {"prompt": "x", "store": False}, {"prompt": "x", "images": [{"image_url": "file:///etc/passwd"}]},
              {"prompt": "<lora:../../x:1>"}, {"prompt": "x", "cfg": 1e300}]
    for body in bodies:
        begin = time.monotonic()
        status, head, data = ask(p, "POST", JOBS, body)
        times.append(time.monotonic() - begin)
        check(status in (400, 413), str(body)[:80], status, data[:200])
        check(json.loads(data)["error"]["message"], data)
    ids = ["../x", "..%2f..%2fetc%2fpasswd", "x" * 8000, "imgjob-", "imgjob-%00" + "a" * 22, "%00", "a/b/c", "%ff%fe", "'; DROP TABLE jobs",
           "imgjob-" + "0" * 24, "imgjob-" + "0" * 24 + "/content/x", "imgjob-" + "0" * 24 + "/watch"]
    for id in ids:
        for method in ("GET", "DELETE", "POST"):
            begin = time.monotonic()
            path = JOBS + "/" + id.replace(" ", "%20") + ("/cancel" if method == "POST" else "")
            status, head, data = ask(p, method, path)
            times.append(time.monotonic() - begin)
            check(status == 404, method, id[:60], status, data[:200])
    try:  # longer than a head may be
        check(ask(p, "GET", JOBS + "/" + "y" * (1 << 20))[0] in (404, 414, 431), "a long id")
    except OSError:
        pass  # cut while it was still being sent
    for query in ("limit=0", "limit=x", "limit=101", "after=" + "z" * 100, "after=imgjob-" + "0" * 24, "after=../x"):
        check(ask(p, "GET", JOBS + "?" + query)[0] == 400, query)
    check(ask(p, "GET", JOBS + "/" + "imgjob-" + "0" * 24 + "/content?index=-1")[0] == 400, "index")
    check(ask(p, "PUT", JOBS, {"prompt": "x"})[0] == 405, "method")
    check(told(p, "GET", JOBS)["data"] == [] and glob.glob(os.path.join(DIR, "hostile/images/*")) == [], "something was kept")
    print("refusals took %.1f ms, the slowest %.0f ms" % (statistics.median(times) * 1e3, max(times) * 1e3))
    program = open(TANDEM, "rb").read()
    slow = WRAP or b"__asan_init" in program or b"__tsan_init" in program
    check(slow or statistics.median(times) < 0.1, "refusals take long", sorted(times))
    # Path-like prompts are prompts.
    ended(p, submit(p, prompt="../../etc/passwd; $(reboot) %s%n")["id"])
    p.stop()


def upstreams():
    up = Server("sd-server", ["paint"])
    p = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--image-upstream", "den=%s kind=sd-server" % up.url, state="up")
    wait_for("the server", lambda: get(p.port, "/v1/tandem/status")[1]["image_nodes"][0]["state"] == "up")
    done = ended(p, submit(p, prompt="a cat", seed=5)["id"])
    direct = post(p.port, CREATE, {"prompt": "a cat", "seed": 5})[1]
    check(pictures(done["result"]) == pictures(direct) and done["result"]["timings"]["node"] == "den", done)
    up.stop()
    id = submit(p, seed=6)["id"]  # a server that is gone is waited for
    wait_for("why it waits", lambda: job(p, id).get("why"))
    check(job(p, id)["status"] == "queued", job(p, id))
    p.stop()
    # A request that named no model is for the one that it was sent to, also where another stands first now.
    up, other = Server("sd-server", ["paint"]), Server("sd-server", ["ink"])
    p = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--image-upstream", "attic=%s kind=sd-server" % other.url,
                "--image-upstream", "den=%s kind=sd-server" % up.url, state="up")
    check(ended(p, id)["result"]["timings"]["node"] == "den", job(p, id))
    p.stop()
    up.stop()
    other.stop()


def nodes_that_draw():
    """A node joins a server that draws nothing itself; its job goes on elsewhere when it is gone, with the same bytes."""
    ports, ps = [], []
    for name in ("den", "attic"):
        ps.append(Program("node", "--listen", "127.0.0.1:0", "--name", name, "--image-model", "fake:10", state=name))
        ports.append(ps[-1].port)
    p = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", state="gateway")
    told(p, "POST", JOBS, {"prompt": "x"}, status=404)
    told(p, "GET", JOBS, status=404)
    check(not os.path.exists(os.path.join(DIR, "gateway/image-jobs.lock")), "it has a queue that it has no use for")
    told(p, "POST", "/v1/tandem/nodes", {"address": "127.0.0.1:%d" % ports[0]})
    up = lambda n: sum(s["state"] == "up" for s in get(p.port, "/v1/tandem/status")[1]["image_nodes"]) == n
    wait_for("the node", lambda: up(1))
    done = ended(p, submit(p, n=2)["id"])
    check(done["result"]["timings"]["node"] == "den", done["result"]["timings"])
    direct = post(p.port, CREATE, {"prompt": "a cat", "seed": done["seed"], "n": 2})[1]
    check(pictures(direct) == pictures(done["result"]), "a node's job has other bytes")
    id = submit(p, n=2, steps=15, seed=3)["id"]
    begun(p, id)
    ps[0].kill()
    wait_for("why it waits", lambda: job(p, id).get("why"))
    told(p, "POST", "/v1/tandem/nodes", {"address": "127.0.0.1:%d" % ports[1]})
    wait_for("the other node", lambda: up(1))
    done = ended(p, id)
    check(done["result"]["timings"]["node"] == "attic" and len(pictures(done["result"])) == 2, done["result"]["timings"])
    # With a third one there, what waits for the second one begins there, and what that one has drawn a picture of already
    # is begun anew at once.
    slow, behind = submit(p, **LONG)["id"], submit(p, steps=1)["id"]
    begun(p, slow)
    ps.append(Program("node", "--listen", "127.0.0.1:0", "--name", "cellar", "--image-model", "fake:10", state="cellar"))
    told(p, "POST", "/v1/tandem/nodes", {"address": "127.0.0.1:%d" % ps[2].port})
    wait_for("the third node", lambda: up(2))
    check(ended(p, behind)["result"]["timings"]["node"] == "cellar" and job(p, slow)["status"] == "in_progress", job(p, slow))
    cancel(p, slow)
    id = submit(p, n=2, steps=15, seed=3)["id"]
    wait_for("a picture of it", lambda: job(p, id)["pictures"] > 0)
    first = job(p, id)["node"]
    ps[{"attic": 1, "cellar": 2}[first]].kill()
    again = ended(p, id)
    check(pictures(again["result"]) == pictures(done["result"]), "another node draws other bytes")
    check({first, again["result"]["timings"]["node"]} == {"attic", "cellar"}, first, again["result"]["timings"])
    p.stop()


def rss_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def held(p):
    """What server and worker have open, how many threads they are, and what lies on the disk."""
    worker = get(p.port, "/v1/tandem/status")[1]["images"]["pid"]
    db = sqlite3.connect("file:%s/leaks/image-jobs.db?mode=ro" % DIR, uri=True)
    rows = [db.execute("SELECT count(*) FROM " + t).fetchone()[0] for t in ("jobs", "files")]
    db.close()
    names = [os.path.join(d, f) for d, _, fs in os.walk(os.path.join(DIR, "leaks")) for f in fs if not f.endswith(("-wal", "-shm"))]
    return {
        "files": [len(os.listdir("/proc/%d/fd" % pid)) for pid in (p.p.pid, worker)],
        "threads": [len(os.listdir("/proc/%d/task" % pid)) for pid in (p.p.pid, worker)],
        "rows": rows,
        "names": sorted(names),
        "temporary": sorted(os.listdir(os.environ["TMPDIR"])),
        "kib": [rss_kib(pid) for pid in (p.p.pid, worker)],
    }


def leaks():
    """A hundred jobs: queued ones, drawn ones, and ones that have pictures already; cancelled, or removed as they are."""
    # What a sanitizer keeps of freed memory is not ours.
    os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
    p = serve(3, state="leaks")
    url = "data:image/png;base64," + base64.b64encode(pictures(post(p.port, CREATE, {"prompt": "x"})[1])[0]).decode()

    def run(i):
        ahead = submit(p, **LONG)["id"]
        behind = told(p, "POST", JOBS, dict(LONG, images=[{"image_url": url}]))["id"]
        quick = i % 3 == 0
        if quick:  # pictures come while it is cancelled
            cancel(p, ahead)
            ahead = submit(p, n=10, steps=1)["id"]
        cancel(p, behind)
        if i % 2:
            begun(p, ahead)
        if i % 4 == 1:
            cancel(p, ahead)
        told(p, "DELETE", JOBS + "/" + ahead)
        told(p, "DELETE", JOBS + "/" + behind)

    def clear():
        for j in told(p, "GET", JOBS + "?limit=100")["data"]:
            told(p, "DELETE", JOBS + "/" + j["id"])
        idle(p)
        def settled():  # no connection is being closed any more
            a = held(p)
            time.sleep(0.1)
            return a if held(p)["files"] == a["files"] else None
        return wait_for("an end of closing", settled)

    for i in range(8):
        run(i)
    before, n = clear(), figures(p)
    for i in range(50):
        run(i)
    after = clear()
    count = figures(p)["cancelled"] - n["cancelled"]
    check(count >= 100, "too few jobs were cancelled", count)
    grown = [a - b for a, b in zip(after.pop("kib"), before.pop("kib"))]
    check(after == before and before["rows"] == [0, 0], "left behind", before, after)
    check(max(grown) < 8192, "memory grew by KiB", grown)
    print("%d cancelled jobs left nothing; KiB grown: %s" % (count, grown))
    p.stop()


for test in (same_bytes, edits, watching, queue, old_and_lost, forgotten, owners, hostile, upstreams, nodes_that_draw, leaks):
    begin = time.monotonic()
    test()
    print("%s: %.1f s" % (test.__name__, time.monotonic() - begin))
PYTHON
