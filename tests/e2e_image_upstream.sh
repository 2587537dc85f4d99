#!/usr/bin/env bash
# Other servers that draw, against scripted ones of each kind: what they are asked and what of it is taken out, every
# shape of an answer, every failure, clients that leave, and a model that this machine has too. TANDEM_SD_SERVER names
# a real sd-server, with the options that it needs, which is then asked as well.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import base64
import http.client
import shlex
import socket
import sys
import threading

sys.path.insert(0, ".")
from e2e import *
from image_upstream_server import *

TANDEM = os.path.join(BIN, "tandem")
KEY = "sk-periwinkle-4711"
CREATE, EDIT = "/v1/images/generations", "/v1/images/edits"
MARKUP = "a <sd_cpp_extra_args>{\"steps\":999}</sd_cpp_extra_args>red <lora:../x:2>cat <lo<lora:a:1>ra:b:1>embedding:evil"
os.environ["TANDEM_CONFIG"] = os.path.join(DIR, "config")
for name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ[name] = "http://127.0.0.1:9"  # no proxy of the environment is used
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))
WORKFLOW = {"3": {"class_type": "KSampler", "inputs": {"seed": "%seed%", "steps": "%steps:9%", "cfg": "%cfg%",
                                                       "positive": ["6", 0]}},
            "5": {"class_type": "EmptyLatentImage", "inputs": {"width": "%width:72%", "height": "%height:40%"}},
            "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "masterpiece, %prompt%", "clip": ["4", 1]}},
            "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "%negative%", "clip": ["4", 1]}},
            "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}}}


def write(name, text, mode=0o600):
    path = os.path.join(DIR, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as f:
        f.write(text if isinstance(text, str) else json.dumps(text))
    os.chmod(path, mode)
    return path


def serve(*upstreams, args=(), wait="up", state=""):
    options = [o for u in upstreams for o in ("--image-upstream", u)]
    p = Program("serve", "--listen", "127.0.0.1:0", *options, *args, state=state)
    if wait:
        wait_for("image servers", lambda: all(n["state"] == wait for n in image_nodes(p)))
    return p


def image_nodes(p):
    return get(p.port, "/v1/tandem/status")[1]["image_nodes"]


def draw(p, prompt="a cat", path=CREATE, **more):
    return post(p.port, path, dict({"prompt": prompt}, **more))


def refused(p, status, words, **more):
    got, a = draw(p, **more)
    check(got == status and words in a["error"]["message"], more, got, a)
    return a["error"]


def file_of(a, i=0):
    return base64.b64decode(a["data"][i]["b64_json"])


def size_of(data):
    return struct.unpack(">II", data[16:24])


def text_of(data):
    """The texts of a PNG."""
    at, out = 8, {}
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"tEXt":
            name, value = data[at + 8:at + 8 + n].split(b"\0", 1)
            out[name.decode()] = value.decode("latin-1")
        at += 12 + n
    return out


# ---- each kind ---------------------------------------------------------------------------------------


def openai(p, s):
    status, a = draw(p, MARKUP, model="paint", size="40x24", n=2, quality="high")
    check(status == 200 and len(a["data"]) == 2 and a["size"] == "40x24" and a["timings"]["queue_s"] >= 0, status, a)
    check(a["timings"]["node"] == "sky" and "steps" not in a["timings"] and "seed" not in a["data"][0], a["timings"])
    check(size_of(file_of(a)) == (40, 24) and file_of(a) != file_of(a, 1), "pictures")
    texts = text_of(file_of(a))
    check(texts["prompt"] == "a red cat evil" and texts["node"] == "sky" and texts["model"] == "paint", texts)
    check("seed" not in texts and "Steps" not in texts["parameters"], texts)
    check(s.asked()[-1] == {"model": "paint", "prompt": "a red cat evil", "n": 2, "response_format": "b64_json",
                            "size": "40x24", "quality": "high"}, s.asked()[-1])
    draw(p, model="sky/paint", seed=5, steps=7, cfg=2.5, negative_prompt="<LORA:x>ugly", user="me", metadata={"a": "b"})
    check(s.asked()[-1] == {"model": "paint", "prompt": "a cat", "n": 1, "response_format": "b64_json", "seed": 5,
                            "num_inference_steps": 7, "guidance_scale": 2.5, "negative_prompt": "ugly"}, s.asked()[-1])
    status, a = draw(p, model="gpt-image-9")
    check(status == 200 and "response_format" not in s.asked()[-1], status, s.asked()[-1])
    check(a["size"] == "64x48", "the size that it has", a["size"])
    for model in ("single", "fewer"):  # as many as were asked, whatever the server can
        status, a = draw(p, model=model, n=3)
        check(status == 200 and len(a["data"]) == 3, model, status, a)
    check(draw(p, model="data-url")[0] == 200, "a picture in a data: url")
    edit(p, s)


def edit(p, s):
    picture = "data:image/png;base64," + b64(png(32, 16, 200))
    body = {"images": [{"image_url": picture}], "mask": {"image_url": picture}, "model": "paint"}
    status, a = draw(p, "a \"red\"\r\nhat", EDIT, **body)
    form = s.asked()[-1]
    check(status == 200 and form["prompt"] == "a \"red\"\r\nhat" and form["image"] == png(32, 16, 200), status, form)
    check(form["mask"] == png(32, 16, 200) and form["n"] == "1" and s.seen[-1][1] == EDIT, form)
    status, a = draw(p, "x", EDIT, **dict(body, images=[{"image_url": "data:image/png;base64," + b64(b"no picture")}]))
    check(status == 400, status, a)


def sd(p, s):
    status, a = draw(p, MARKUP, model="tiny", seed=7, steps=4, cfg=3, size="48x40", n=2, sampler="euler",
                     negative_prompt="<sd_cpp_extra_args>{}")
    check(status == 200 and [d["seed"] for d in a["data"]] == [7, 8] and a["timings"]["steps"] == 4, status, a)
    check(s.asked()[-1] == {"prompt": "a red cat evil", "negative_prompt": "", "batch_size": 2, "seed": 7, "width": 48,
                            "height": 40, "steps": 4, "cfg_scale": 3.0, "sampler_name": "euler"}, s.asked()[-1])
    texts = text_of(file_of(a, 1))
    check(texts["seed"] == "8" and "Steps: 4, Sampler: euler, CFG scale: 3, Seed: 8" in texts["parameters"], texts)
    status, a = draw(p, model="tiny")
    check(status == 200 and a["data"][0]["seed"] == s.asked()[-1]["seed"] >= 0, status, s.asked()[-1])
    check("width" not in s.asked()[-1] and "steps" not in s.asked()[-1] and a["size"] == "512x512", s.asked()[-1])
    picture = "data:image/png;base64," + b64(png(32, 16))
    status, a = draw(p, "hat", EDIT, model="tiny", strength=0.5, images=[{"image_url": picture}],
                     mask={"image_url": picture})
    body = s.asked()[-1]
    check(status == 200 and body["denoising_strength"] == 0.5 and (body["width"], body["height"]) == (32, 16), body)
    check(base64.b64decode(body["init_images"][0]) == png(32, 16) and "mask" in body, body)


def comfy(p, s):
    status, a = draw(p, MARKUP + " \",{}[]\\ %seed% %negative%", model="flow", n=2, seed=11, size="48x40", steps=3, cfg=2,
                     negative_prompt="bad\"}")
    check(status == 200 and [d["seed"] for d in a["data"]] == [11, 12], status, a)
    graphs = [b["prompt"] for b in s.asked("/prompt")]
    check([g["3"]["inputs"]["seed"] for g in graphs] == [11, 12] and graphs[0]["3"]["inputs"]["cfg"] == 2.0, graphs)
    want = "masterpiece, a red cat evil \",{}[]\\ %seed% %negative%"
    check(graphs[0]["6"]["inputs"] == {"text": want, "clip": ["4", 1]}, graphs[0]["6"])
    check(graphs[0]["7"]["inputs"]["text"] == "bad\"}" and graphs[0]["5"]["inputs"] == {"width": 48, "height": 40}, graphs)
    check(size_of(file_of(a)) == (48, 40), size_of(file_of(a)))
    wait_for("an empty history", lambda: not s.history)  # what clients asked for does not stay there
    status, a = draw(p, model="flow")
    inputs = s.asked("/prompt")[-1]["prompt"]
    check(status == 200 and a["size"] == "72x40" and inputs["3"]["inputs"]["steps"] == 9, status, inputs)
    check(inputs["7"]["inputs"]["text"] == "" and inputs["3"]["inputs"]["cfg"] == 7.0, inputs)
    refused(p, 400, "'sampler'", model="flow", sampler="euler")
    picture = {"image_url": "data:image/png;base64," + b64(png(16, 16))}
    status, a = draw(p, "x", EDIT, model="flow", images=[picture])
    check(status == 400 and "cannot edit" in a["error"]["message"], status, a)
    s.takes_id = False  # an older release, which gives names of its own
    check(draw(p, model="flow")[0] == 200, "a name of its own")
    s.takes_id = True


# ---- every way out -----------------------------------------------------------------------------------


def ways_out(p):
    status, a = draw(p, model="paint", response_format="url", output_format="jpeg")
    url = a["data"][0]["url"]
    with urllib.request.urlopen(url) as r:
        check(r.headers["Content-Type"] == "image/jpeg" and r.read(3) == b"\xff\xd8\xff", url)
    status, a = draw(p, model="tiny", output_format="webp")
    check(file_of(a)[:4] == b"RIFF", "webp")
    c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=30)
    c.request("POST", CREATE, json.dumps({"prompt": "x", "model": "tiny", "n": 2, "seed": 3, "stream": True,
                                          "partial_images": 2}))
    text = c.getresponse().read().decode()
    events = [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: {")]
    check([e["type"] for e in events] == ["image_generation.completed"] * 2 and events[1]["seed"] == 4, text[:300])
    c.request("POST", CREATE, json.dumps({"prompt": "x", "model": "junk", "stream": True}))
    r = c.getresponse()
    check(r.status == 502, "a failure before the stream has its status", r.status, r.read())


def failures(p, s, trap):
    for model, status, words in (
            ("s401", 502, "refuses the key"), ("s403", 502, "key-file"), ("s404", 502, "its address right"),
            ("s413", 413, "because of s413"), ("s422", 400, "because of s422"), ("s429", 429, "too many requests"),
            ("s500", 502, "failed"), ("s503", 503, "not ready"), ("redirect", 502, "redirect"), ("cut", 502, "lost"),
            ("teapot", 502, ""), ("junk", 502, "no picture"), ("no-base64", 502, "base64"), ("huge", 502, "20000x1"),
            ("damaged", 502, "damaged"), ("url", 502, "address"), ("none", 502, "without a picture")):
        e = refused(p, status, words, model=model)
        check(KEY not in json.dumps(e) and "sky" in e["message"], e)
        wait_for("a server that is back", lambda: image_nodes(p)[0]["state"] == "up")
    check(not trap.connections, "nobody else was spoken to")
    refused(p, 504, "stall=SECONDS", model="hasty")
    c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=30)
    c.request("POST", CREATE, json.dumps({"prompt": "x", "model": "s429"}))
    r = c.getresponse()
    check(r.status == 429 and r.headers["Retry-After"] == "7" and r.read(), r.status, r.headers)
    before = len(s.asked())
    for more, words in (({"n": 11}, "11"), ({"size": "9999x9999"}, "9999x9999"), ({"size": "4096x4096"}, "pixels"),
                        ({"steps": 151}, "151"), ({"prompt": "x" * 20000}, "20000 bytes"), ({"prompt": "\x01"}, "0x01"),
                        ({"prompt": "<lora:a:1> \n"}, "markup"), ({"negative_prompt": "\x02"}, "0x02"),
                        ({"background": "transparent"}, "opaque"), ({"sampler": "euler"}, "'sampler'")):
        refused(p, 400, words, **dict({"model": "paint"}, **more))
    e = refused(p, 404, "\"paint\"", model="unheard")
    check("\"tiny\"" in e["message"] and "\"flow\"" in e["message"], e)
    refused(p, 404, "", model="sky/tiny")
    check(len(s.asked()) == before, "nothing of that was sent")


def comfy_failures(p, s):
    for play, status, words in (("error", 502, "out of memory"), ("no-picture", 502, "SaveImage"),
                                ("junk", 502, "no picture"), ("s400", 400, "because of s400"), ("s500", 502, "failed")):
        s.play = play
        refused(p, status, words, model="flow")
        wait_for("a server that is back", lambda: image_nodes(p)[2]["state"] == "up")
    s.play = "hangs"
    s.interrupted.clear()
    refused(p, 504, "has not drawn it within 1 s", model="slowflow")
    check(s.interrupted.wait(5), "what takes too long is interrupted")
    s.play = ""


def client_leaves(p, model, event, begun):
    c = socket.create_connection(("127.0.0.1", p.port))
    body = json.dumps({"prompt": "x", "model": model}).encode()
    c.sendall(b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (CREATE.encode(), len(body)) + body)
    wait_for("a request on its way", begun)
    c.close()
    check(event.wait(5), "a client that leaves stops", model)


def leaving(p, sky, small, flow):
    for s, model, i in ((sky, "silent", 0), (small, "tiny", 1)):
        s.left.clear()
        small.play = "silent"
        before = len(s.asked())
        client_leaves(p, model, s.left, lambda: len(s.asked()) > before)
        small.play = ""
    flow.play = "hangs"
    flow.interrupted.clear()
    client_leaves(p, "flow", flow.interrupted, lambda: flow.running)
    flow.play = ""
    check(flow.asked("/queue")[-1]["delete"] == [flow.asked("/prompt")[-1]["prompt_id"]], flow.asked("/queue"))
    wait_for("figures", lambda: [n["cancelled"] for n in image_nodes(p)[:3]] == [1, 1, 1])


def told(p):
    models = {m["id"]: m for m in get(p.port, "/v1/models")[1]["data"]}
    check(models["flow"]["meta"] == {"kind": "image", "server": "comfyui", "edits": False}, models)
    check(models["tiny"]["owned_by"] == "small" and get(p.port, "/v1/models/tiny")[1]["id"] == "tiny", models)
    nodes_now = {n["name"]: n for n in image_nodes(p)}
    check(nodes_now["small"]["pictures"] >= 5 and nodes_now["small"]["models"][0]["speeds"], nodes_now)
    with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % p.port) as r:
        text = r.read().decode()
    check('tandem_image_node_up{node="sky"} 1' in text and 'tandem_image_node_total{node="sky",end="done"}' in text, text)
    ps = subprocess.run([TANDEM, "ps", "--server", "http://127.0.0.1:%d" % p.port], capture_output=True, text=True).stdout
    check("IMAGE NODE" in ps and "sky" in ps and "comfyui" in ps, ps)
    command = [TANDEM, "image", "a cat", "--server", "http://127.0.0.1:%d" % p.port, "--server-model", "tiny", "--seed", "3",
               "--size", "24x16", "--show", "none", "-o", os.path.join(DIR, "cat.png")]
    r = subprocess.run(command, capture_output=True, text=True, timeout=60)
    with open(os.path.join(DIR, "cat.png"), "rb") as f:
        check(r.returncode == 0 and size_of(f.read()) == (24, 16), r.stderr)


def three_kinds():
    trap = Server("openai")
    names = ["paint", "gpt-image-9", "single", "fewer", "data-url", "url", "none", "redirect", "cut", "teapot", "silent",
             "junk", "no-base64", "huge", "damaged"] + ["s%d" % i for i in (401, 403, 404, 413, 422, 429, 500, 503)]
    sky, small, flow = Server("openai", names, KEY), Server("sd-server", ["tiny"]), Server("comfyui")
    sky.trap = trap.url
    workflow, key = write("flow.json", WORKFLOW), write("key", KEY + "\n")
    p = serve("sky=%s key-file=%s" % (sky.url, key), "small=%s/v1/ kind=sd-server" % small.url,
              "flow=%s kind=comfyui workflow=%s" % (flow.url, workflow),
              "slow=%s kind=comfyui workflow=%s stall=1 model=slowflow" % (flow.url, workflow),
              "hasty=%s key-file=%s stall=1 model=silent as=hasty" % (sky.url, key))
    openai(p, sky)
    sd(p, small)
    comfy(p, flow)
    ways_out(p)
    failures(p, sky, trap)
    comfy_failures(p, flow)
    leaving(p, sky, small, flow)
    told(p)
    p.stop()
    with open(p.log) as f:
        log = f.read()
    check(KEY not in log and "red cat" not in log, "neither keys nor prompts are logged")
    for s in (trap, sky, small, flow):
        s.stop()


# ---- beside this machine -----------------------------------------------------------------------------


def beside_local():
    """A model of one name here and there: the unknown one is tried, the quicker one is taken, and what fails there is
    drawn here."""
    s = Server("sd-server", ["theirs"])
    p = serve("far=%s kind=sd-server model=theirs as=pencil" % s.url, args=("-m", "fake", "--image-model", "fake:20",
                                                                           "--image-name", "pencil"))
    wait_for("the local model", lambda: get(p.port, "/v1/tandem/status")[1]["images"]["state"] == "loaded")
    check([m["id"] for m in get(p.port, "/v1/models")[1]["data"]].count("pencil") == 1, "one name, one model")
    status, a = post(p.port, "/v1/completions", {"prompt": "x", "max_tokens": 1})
    check(status == 200, "the chats do not care", status, a)
    node = lambda **more: draw(p, size="64x64", **more)[1]["timings"].get("node")
    check(node() is None, "without a name it is this machine's")
    check(node(model="pencil") == "far", "one of unknown speed is tried")
    check(node(model="pencil") == "far", "the quicker one")
    check(s.asked()[-1]["steps"] == 4, "with the steps of the model here", s.asked()[-1])
    check(draw(p, model="pencil")[1]["size"] == "64x64", "and with its size")
    s.play = "s500"
    check(node(model="pencil") is None, "what fails there is drawn here")
    check(node(model="pencil") is None, "and it is left alone for a while")
    refused(p, 502, "far", model="far/pencil")
    s.stop()
    p.stop()


def another_server():
    a, b = Server("openai", ["m"], play=""), Server("openai", ["m"])
    a.plays["m"] = "s500"
    p = serve("a=%s" % a.url, "b=%s" % b.url)
    status, got = draw(p, model="m")
    check(status == 200 and got["timings"]["node"] == "b", status, got)
    status, got = draw(p)  # of the first that is known
    check(status == 200, status, got)
    b.stop()
    a.stop()
    for _ in range(2):  # one after the other is found gone
        check(draw(p, model="m")[0] == 502, "a server that has gone")
    wait_for("servers that are gone", lambda: [n["state"] for n in image_nodes(p)] == ["down", "down"])
    refused(p, 503, "is not there", model="m")
    p.stop()


def full():
    s = Server("sd-server", ["m"])
    s.go.clear()
    p = serve("one=%s kind=sd-server" % s.url, args=("--image-queue", "1"))
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(draw(p, model="m"))) for _ in range(2)]
    for t in threads:
        t.start()
    wait_for("one that is drawn and one that waits", lambda: (image_nodes(p)[0]["drawing"], image_nodes(p)[0]["waiting"])
             == (1, 1))
    refused(p, 429, "--image-queue 1", model="m")
    s.go.set()
    for t in threads:
        t.join()
    check([a[0] for a in answers] == [200, 200], answers)
    s.stop()
    p.stop()


def refusals():
    ui = write("ui.json", {"nodes": [], "links": []})
    empty = write("empty.json", {"1": {"class_type": "A", "inputs": {}}})
    key = write("loose", "k", 0o644)
    for spec, words in (("x=http://h kind=dalle", "openai, sd-server or comfyui"), ("x=http://h kind=comfyui", "workflow=FILE"),
                        ("x=http://h workflow=a.json", "kind=comfyui alone"),
                        ("x=http://h kind=sd-server model=a model=b", "one model"), ("x=ftp://h", "http"),
                        ("x=http://h kind=comfyui workflow=%s" % ui, "Export (API)"),
                        ("x=http://h kind=comfyui workflow=%s" % empty, "%prompt%"),
                        ("x=http://h kind=comfyui workflow=/nowhere.json", "nowhere"),
                        ("x=https://h key-file=%s" % key, "chmod 600"), ("x=http://h colour=red", "colour=red"),
                        ("x=http://h.example key-file=%s" % write("good", "k"), "plain-key=yes")):
        r = subprocess.run([TANDEM, "serve", "--listen", "127.0.0.1:0", "--image-upstream", spec], capture_output=True,
                           text=True, timeout=20, env=dict(os.environ, TANDEM_STATE=DIR))
        check(r.returncode != 0 and words in r.stderr, spec, r.stderr)
    r = subprocess.run([TANDEM, "serve", "--listen", "127.0.0.1:0", "--upstream", "x=http://h kind=openai"],
                       capture_output=True, text=True, timeout=20)
    check(r.returncode != 0 and "not understood" in r.stderr, r.stderr)


def configured():
    s = Server("openai", ["m"])
    os.makedirs(os.environ["TANDEM_CONFIG"])
    write("config/tandem.ini", "[serve]\nimage-upstream = far=%s model=m as=ours\n" % s.url)
    p = serve()
    check(draw(p, model="ours")[0] == 200, "from the file of options")
    p.stop()
    s.stop()


def real_one():
    """TANDEM_SD_SERVER="sd-server -m MODEL ...": the same by the real thing."""
    command = shlex.split(os.environ["TANDEM_SD_SERVER"])
    port = free_ports(1)
    real = subprocess.Popen(command + ["--listen-port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        p = serve("real=http://127.0.0.1:%d kind=sd-server model=real" % port, wait="")
        wait_for("sd-server", lambda: image_nodes(p)[0]["state"] == "up", 120)
        first, second = [draw(p, MARKUP, seed=5, steps=2, size="64x64") for _ in range(2)]
        check(first[0] == 200 and size_of(file_of(first[1])) == (64, 64), first)
        check(file_of(first[1]) == file_of(second[1]), "the same seed, the same picture")
        p.stop()
    finally:
        real.kill()
        real.wait()


for test in (three_kinds, beside_local, another_server, full, refusals, configured):
    begun = time.monotonic()
    test()
    print("%-16s %.2f s" % (test.__name__, time.monotonic() - begun))
if os.environ.get("TANDEM_SD_SERVER"):
    real_one()
PYTHON
