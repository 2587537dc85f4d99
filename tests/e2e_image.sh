#!/usr/bin/env bash
# Pictures, end to end: the real library draws what the captions of our own small model say, in the right colour
# and shape; the same seed gives the same bytes over a restart; cancelling, a killed worker, bad files. A model
# without training fails the same check, so it checks something. TANDEM_TEST_IMAGE_MODEL names another model file.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root/tests"
if ! worker=$("$root/scripts/image-library.sh"); then
    echo "SKIP: no library that draws; the reason is above"
    exit 77
fi
TRAINED=${TANDEM_TEST_IMAGE_MODEL:-$("$root/scripts/image-model.sh")}
RANDOM_MODEL=$("$root/scripts/image-model.sh" random)
export TRAINED RANDOM_MODEL
export TANDEM_IMAGE_WORKER=$worker
exec python3 - <<'PYTHON'
import base64
import http.client
import socket
import struct
import sys
import zlib

sys.path.insert(0, ".")
from e2e import *

TRAINED, UNTRAINED = os.environ["TRAINED"], os.environ["RANDOM_MODEL"]
TANDEM = os.path.join(BIN, "tandem")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
SHAPES = ("circle", "square", "triangle")
CAPTIONS = [(c, s) for c in COLOURS for s in SHAPES]
SIDE = 64


class Worker:
    """The protocol of src/image/frame.h, from the other end."""

    def __init__(self, model):
        ours, theirs = socket.socketpair()
        command = ["sh", "-c", 'exec 3<&%d; exec "$0" "$1"' % theirs.fileno(), os.environ["TANDEM_IMAGE_WORKER"],
                   json.dumps({"model": model, "threads": 2})]
        self.p = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)
        theirs.close()
        self.s, self.id = ours, 0
        self.s.settimeout(120)
        self.hello = self.take()[0]

    def get(self, n):
        data = b""
        while len(data) < n:
            part = self.s.recv(n - len(data))
            check(part, "the worker ended", self.p.poll())
            data += part
        return data

    def take(self):
        text, data = struct.unpack("<II", self.get(8))
        return json.loads(self.get(text)), self.get(data)

    def put(self, **head):
        text = json.dumps(head).encode()
        self.s.sendall(struct.pack("<II", len(text), 0) + text)

    def begin(self, prompt, seed=7, steps=8, **more):
        self.id += 1
        self.put(**{**dict(op="generate", id=self.id, prompt=prompt, width=SIDE, height=SIDE, count=1, steps=steps,
                           cfg=3.0, seed=seed, strength=0.75, previews=0), **more})
        return self.id

    def end(self):
        """The pictures, and all heads that came."""
        pictures, heads = [], []
        while not heads or heads[-1]["op"] not in ("done", "failed"):
            head, data = self.take()
            heads.append(head)
            if head["op"] == "picture":
                pictures.append(data)
        return pictures, heads

    def draw(self, prompt, seed=7):
        self.begin(prompt, seed)
        pictures, heads = self.end()
        check(len(pictures) == 1, prompt, heads[-1])
        return pictures[0]

    def stop(self):
        self.s.close()
        check(self.p.wait(20) == 0, "the worker's exit", self.p.returncode)


def look(rgb):
    """Colour and shape of what is bright: by the nearest colour; a triangle has little in its upper half, a square fills
    its box."""
    votes, points = dict.fromkeys(COLOURS, 0), []
    for i in range(SIDE * SIDE):
        pixel = rgb[3 * i:3 * i + 3]
        if max(pixel) >= 128:
            votes[min(COLOURS, key=lambda c: sum((a - b) ** 2 for a, b in zip(pixel, COLOURS[c])))] += 1
            points.append((i % SIDE, i // SIDE))
    if len(points) < 50:
        return None, 0, None
    xs, ys, few = sorted(p[0] for p in points), sorted(p[1] for p in points), len(points) // 50
    x0, x1, y0, y1 = xs[few], xs[-1 - few], ys[few], ys[-1 - few]
    fill = sum(x0 <= x <= x1 and y0 <= y <= y1 for x, y in points) / ((x1 - x0 + 1) * (y1 - y0 + 1))
    upper = sum(y <= (y0 + y1) / 2 for x, y in points) / len(points)
    colour = max(votes, key=votes.get)
    return colour, votes[colour] / len(points), "triangle" if upper < 0.42 else "square" if fill > 0.91 else "circle"


def score(worker):
    colours = shapes = 0
    for colour, shape in CAPTIONS:
        got, share, form = look(worker.draw("a %s %s" % (colour, shape)))
        colours += got == colour and share > 0.9
        shapes += form == shape
    return colours, shapes


def captions():
    worker = Worker(TRAINED)
    check(worker.hello["op"] == "ready" and "cancel" in worker.hello["features"], worker.hello)
    colours, shapes = score(worker)
    print("colours %d of 12, shapes %d of 12" % (colours, shapes))
    check(colours == 12 and shapes >= 10, colours, shapes)
    a, b, c = (worker.draw("a red circle", seed) for seed in (7, 7, 8))
    check(a == b and a != c, "the seed says the picture")
    worker.begin("a red circle", count=3, previews=0)
    pictures, heads = worker.end()
    check(pictures[:2] == [a, c], "picture i of a batch is that of seed + i")
    steps = [h for h in heads if h["op"] == "progress"]
    check([h["step"] for h in steps] == list(range(1, 9)) * 3, steps)
    worker.begin("a red circle", previews=2)
    pictures, heads = worker.end()
    check([h["step"] for h in heads if h["op"] == "preview"] == [3, 6] and pictures == [a], heads)
    check(look(worker.draw("an unheard-of zyzzyva \u732b \U0001f408"))[1] >= 0, "rare words end nothing")
    worker.stop()
    random = Worker(UNTRAINED)
    colours, shapes = score(random)
    check(colours < 6, "a model without training passed", colours, shapes)
    random.stop()
    return a


def rss_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))


def cancelling():
    """Within one step; and a hundred of them leave no memory and no files behind."""
    worker = Worker(TRAINED)
    first = worker.draw("a blue square")
    memory = files = 0
    for i in range(110):
        number = worker.begin("a red circle", seed=i, steps=150)
        after = cancelled = 0
        if i % 10 == 0:  # before its first step
            worker.put(op="cancel", id=number)
            cancelled = 1
        while True:
            head, _ = worker.take()
            if head["op"] == "progress":
                after += cancelled
                if not cancelled:
                    worker.put(op="cancel", id=number)
                    cancelled = 1
            elif head["op"] == "failed":
                break
            else:
                check(head["op"] != "picture", "it was cancelled")
        check(head["code"] == "cancelled" and after < 60, head, after)
        if i == 9:
            memory, files = rss_kib(worker.p.pid), len(os.listdir("/proc/%d/fd" % worker.p.pid))
    check(rss_kib(worker.p.pid) < memory + 8192, "grew from", memory, "KiB to", rss_kib(worker.p.pid))
    check(len(os.listdir("/proc/%d/fd" % worker.p.pid)) == files, "files are left open")
    check(worker.draw("a blue square") == first, "what was cancelled changes nothing")
    worker.stop()


def image(*args, rc=0, model=TRAINED, **env):
    p = subprocess.run([TANDEM, "image", *args, "--image-model", model], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=120, cwd=DIR, env=dict(os.environ, **env))
    check(p.returncode == rc, args, "ended with", p.returncode, p.stdout, p.stderr)
    return p


def png(path):
    """Pixels and texts of a PNG file."""
    with open(path, "rb") as f:
        data = f.read()
    at, idat, texts = 8, b"", {}
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + n]
        at += 12 + n
        if kind == b"IHDR":
            width, height = struct.unpack(">II", body[:8])
        elif kind == b"IDAT":
            idat += body
        elif kind == b"tEXt":
            key, _, value = body.partition(b"\0")
            texts[key.decode()] = value.decode()
    raw, out, last = zlib.decompress(idat), bytearray(), bytearray(width * 3)
    for y in range(height):
        line = raw[y * (width * 3 + 1):(y + 1) * (width * 3 + 1)]
        row = bytearray(line[1:])
        for i in range(len(row)):
            a, b, c = (row[i - 3], last[i], last[i - 3]) if i > 2 else (0, last[i], 0)
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            row[i] = (row[i] + (0, a, b, (a + b) // 2, paeth)[line[0]]) & 255
        out += row
        last = row
    return bytes(out), texts


def command(pixels):
    out = json.loads(image("a red circle", "--seed", "7", "-o", "a.png", "--json").stdout)
    check(out["layout"] == "minit2i" and out["width"] == SIDE and out["files"][0]["seed"] == 7, out)
    image("a red circle", "--seed", "7", "-o", "b.png")
    with open(DIR + "/a.png", "rb") as a, open(DIR + "/b.png", "rb") as b:
        check(a.read() == b.read(), "same seed, same bytes, over a restart")
    got, texts = png(DIR + "/a.png")
    check(got == pixels, "the command draws what the protocol drew")
    check(texts["seed"] == "7" and texts["prompt"] == "a red circle" and texts["model"] == os.path.basename(TRAINED), texts)
    check("Steps: 8, " in texts["parameters"] and "Size: 64x64" in texts["parameters"], texts)
    image("a red circle", "-n", "2", "-o", "c.webp", "--seed", "1")
    check(os.path.exists(DIR + "/c-1.webp") and os.path.exists(DIR + "/c-2.webp"), os.listdir(DIR))
    image("a red circle", "--seed", "7", "-o", "d.jpg", "--initial", "a.png", "--strength", "0.5")
    drawn = json.loads(image("a red circle", "--json").stdout)["files"][0]
    check(drawn["path"] == "image-%d.png" % drawn["seed"], drawn)
    shown = image("a red circle", "--seed", "7", "-o", "e.png", "--show", "blocks").stdout
    check(b"\033[38;2;" in shown, shown[:100])


def refused():
    with open(TRAINED, "rb") as f:
        whole = f.read()
    bad = {"cut.gguf": whole[:-1000], "empty.gguf": b"", "text.gguf": b"hello",
           "other.gguf": whole.replace(b"final_layer.linear.weight", b"final_layer.linear.wei_ht")}
    for name, data in bad.items():
        with open(os.path.join(DIR, name), "wb") as f:
            f.write(data)
    for args, words in ((("x", "--server", "127.0.0.1:1"), "one of the two"), (("x", "--size", "64x32"), "square"), (("x", "--size", "60x60"), "multiples of 8"),
                        (("x", "--size", "-5x64"), "WIDTHxHEIGHT"), (("x", "--steps", "151"), "steps"),
                        (("x", "--sampler", "../../x"), "not known"), (("a\x01b",), "control character"),
                        (("<lora:../../etc/passwd:1>",), "LoRA"), (("x <lora:a:1>",), "folder of LoRAs"),
                        (("x" * 20000,), "20000 bytes"), (("",), "empty"), (("x", "-o", "a.gif"), ".png")):
        check(words in image(*args, rc=2).stderr.decode(), words, args)
    check("cut short" in image("x", rc=1, model=DIR + "/cut.gguf").stderr.decode(), "cut")
    for name, words in (("empty.gguf", "empty.gguf"), ("text.gguf", "not a GGUF"), ("other.gguf", "cannot be loaded"),
                        ("none.gguf", "none.gguf")):
        check(words in image("x", rc=1, model=os.path.join(DIR, name)).stderr.decode(), words)


def unservable():
    """What a server refuses before it starts; the file of a terabyte is all hole."""
    with open(DIR + "/huge.gguf", "wb") as f:
        f.truncate(1 << 40)
    serve = [TANDEM, "serve", "-m", "fake", "--listen", "127.0.0.1:0", "--image-model"]
    for more, words in ((["huge.gguf"], "need about 1.4 TB together (the image model 1.4 TB"),
                        (["huge.gguf", "--no-memory-check"], "not a GGUF"), (["none.gguf"], "none.gguf"),
                        ([TRAINED, "--image-policy", "never"], "pause or wait")):
        p = subprocess.run(serve + more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, cwd=DIR)
        check(p.returncode in (1, 2) and words in p.stderr, more, p.returncode, p.stderr)


def killed():
    p = subprocess.Popen([TANDEM, "image", "a red circle", "--steps", "150", "-n", "10", "--image-model", TRAINED, "-o", "k.png"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=DIR)
    until(lambda: subprocess.run(["pgrep", "-P", str(p.pid)], stdout=subprocess.DEVNULL).returncode == 0 and
          os.path.exists(DIR + "/k-1.png"))
    child = int(subprocess.run(["pgrep", "-P", str(p.pid)], stdout=subprocess.PIPE, text=True).stdout.split()[0])
    os.kill(child, signal.SIGKILL)
    _, said = p.communicate(timeout=60)
    check(p.returncode == 1 and b"signal 9" in said and b"ask once more" in said, p.returncode, said)
    p = subprocess.Popen([TANDEM, "image", "a red circle", "--steps", "150", "-n", "10", "--image-model", TRAINED, "-o", "i.png"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=DIR)
    until(lambda: os.path.exists(DIR + "/i-1.png"))
    p.send_signal(signal.SIGINT)
    _, said = p.communicate(timeout=60)
    check(p.returncode == 1 and b"cancelled" in said, p.returncode, said)


def until(what):
    end = time.monotonic() + 60
    while not what():
        check(time.monotonic() < end, "waited in vain")
        time.sleep(0.02)


def images(server, **more):
    status, answer = post(server.port, "/v1/images/generations", dict({"prompt": "a red circle", "seed": 7}, **more))
    check(status == 200, status, answer)
    return [base64.b64decode(d["b64_json"]) for d in answer["data"]]


def state(server, member):
    return get(server.port, "/v1/tandem/status")[1]["images"][member]


def job(server, id):
    """The pictures of a job that has ended; None before."""
    j = get(server.port, "/v1/images/jobs/" + id)[1]
    check(j["status"] not in ("failed", "cancelled"), j)
    return [base64.b64decode(e["b64_json"]) for e in j["result"]["data"]] if j["status"] == "completed" else None


def submit(server, **more):
    return post(server.port, "/v1/images/jobs", dict({"prompt": "a red circle", "seed": 7}, **more))[1]["id"]


def leave(server, steps):
    """Asks for more than it waits for; at most two steps are done after it left."""
    c = http.client.HTTPConnection("127.0.0.1", server.port)
    c.request("POST", "/v1/images/generations", json.dumps({"prompt": "a red circle", "n": 10, "steps": steps}))
    until(lambda: state(server, "requests") == 1 and state(server, "waiting") == 0)
    c.close()
    until(lambda: state(server, "requests") == 0)


def served():
    """Over HTTP: the same bytes as the command writes, alone and as a client, also after a restart; and what clients
    that left leave behind."""
    with open(DIR + "/a.png", "rb") as f:
        expected = f.read()
    server = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--image-model", TRAINED, "--image-threads", "2")
    url = "http://127.0.0.1:%d" % server.port
    name = os.path.basename(TRAINED)
    two = images(server, n=2, model=name)
    check(two[0] == expected and two[1] != expected, "HTTP draws what the command draws")
    subprocess.run([TANDEM, "image", "a red circle", "--seed", "7", "-o", "s.png", "--server", url], check=True, cwd=DIR,
                   timeout=120)
    with open(DIR + "/s.png", "rb") as f:
        check(f.read() == expected, "and so does the command over the server")
    listed = get(server.port, "/v1/models/" + name)[1]["meta"]
    check(listed["arch"] == "minit2i" and listed["partial_images"] and listed["square"], listed)
    check(post(server.port, "/v1/images/generations", {"prompt": "x", "size": "64x32"})[1]["error"]["param"] == "size", "size")
    pid = state(server, "pid")
    memory = files = 0
    for i in range(30):
        leave(server, 150)
        if i == 9:
            memory, files = rss_kib(pid) + rss_kib(server.p.pid), len(os.listdir("/proc/%d/fd" % server.p.pid))
    check(state(server, "cancelled") == 30 and state(server, "pid") == pid, state(server, "cancelled"), log_tail(server))
    check(rss_kib(pid) + rss_kib(server.p.pid) < memory + 16384, "grew from", memory, "KiB")
    check(len(os.listdir("/proc/%d/fd" % server.p.pid)) < files + 4, "files are left open")
    check(images(server)[0] == expected, "what was cancelled changes nothing")
    os.kill(pid, signal.SIGKILL)
    until(lambda: state(server, "restarts") == 1)
    check(images(server)[0] == expected, "same bytes after the worker was killed")
    id = submit(server)
    check(wait_for("a job", lambda: job(server, id)) == [expected], "a job draws other bytes")
    several = images(server, n=2, steps=30)
    id = submit(server, n=2, steps=30)
    wait_for("a step of it", lambda: get(server.port, "/v1/images/jobs/" + id)[1]["step"] > 0)
    server.kill()
    server = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--image-model", TRAINED, "--image-threads", "2")
    check(images(server)[0] == expected, "same bytes over a restart")
    check(wait_for("the job", lambda: job(server, id), 60) == several, "another job's bytes over a restart")
    check(state(server, "speeds")[0]["steps"] > 16, "what was learned of its speed is kept", state(server, "speeds"))
    server.stop()


pixels = captions()
cancelling()
command(pixels)
served()
refused()
unservable()
killed()
print("ok")
PYTHON
