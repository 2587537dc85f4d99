"""Servers that draw, as their documentation has them: OpenAI's images API, sd-server's /sdapi, and ComfyUI. Each records
what it got, refuses what it would not know, and fails as the name of the model (or `play`) says."""

import base64
import json
import re
import socket
import struct
import threading
import time
import urllib.parse
import uuid
import zlib

from played_server import PlayedHandler, PlayedServer

OPENAI_MEMBERS = {"model", "prompt", "n", "size", "quality", "style", "background", "moderation", "response_format",
                  "negative_prompt", "seed", "num_inference_steps", "guidance_scale"}
SD_MEMBERS = {"prompt", "negative_prompt", "batch_size", "seed", "width", "height", "steps", "cfg_scale", "sampler_name",
              "scheduler", "init_images", "mask", "denoising_strength"}


def png(width, height, red=0):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([red & 255, 40, 90]) * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + \
        chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def b64(data):
    return base64.b64encode(data).decode()


class Handler(PlayedHandler):
    def do_GET(self):
        s = self.server
        url = urllib.parse.urlsplit(self.path)
        s.seen.append(("GET", self.path, None))
        if not self.fits():
            return
        if s.kind == "comfyui":
            self.comfy_get(url)
        elif s.kind == "openai" and url.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in s.models]})
        elif s.kind == "sd-server" and url.path == "/sdapi/v1/sd-models":
            self.answer(200, [{"title": m, "model_name": m, "filename": m + ".gguf"} for m in s.models])
        else:
            self.answer(404, {"error": "no such path"})

    def do_POST(self):
        s = self.server
        data = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        body = form(kind, data) if kind.startswith("multipart/form-data") else json.loads(data)
        s.seen.append(("POST", self.path, body))
        if not self.fits():
            return
        try:
            getattr(self, {"openai": "openai", "sd-server": "sd", "comfyui": "comfy_post"}[s.kind])(body)
        except (BrokenPipeError, ConnectionResetError):
            s.left.set()

    # ---- failures ------------------------------------------------------------------------------------

    def fails(self, play, n):
        """True: it has answered, and badly."""
        s = self.server
        if re.fullmatch("s[0-9]{3}", play):
            self.answer(int(play[1:]), {"error": {"message": "because of %s, and %s" % (play, s.key)}}, Retry_After="7")
        elif play == "redirect":
            self.answer(307, b"", Location=s.trap + self.path)
        elif play == "silent":
            self.wait()
        elif play == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"{\"data\": [")
            self.close_connection = True
        elif play == "single" and n > 1:
            self.answer(400, {"error": {"message": "n is 1"}})
        elif play == "teapot":
            self.answer(200, b"short and stout", kind="text/plain")
        else:
            return False
        return True

    def wait(self):
        """Until the client has gone, or the test is over."""
        self.connection.setblocking(False)
        end = time.monotonic() + 20
        while time.monotonic() < end and not self.server.over.is_set():
            try:
                if self.connection.recv(1, socket.MSG_PEEK) == b"":
                    self.server.left.set()
                    break
            except BlockingIOError:
                pass
            except OSError:
                break
            time.sleep(0.01)
        self.close_connection = True

    BAD = {"junk": lambda: b64(b"GIF89a" + b"x" * 50), "no-base64": lambda: "!!!", "huge": lambda: b64(png(20000, 1)),
           "damaged": lambda: b64(png(8, 8)[:-20])}

    # ---- OpenAI's ------------------------------------------------------------------------------------

    def openai(self, body):
        s = self.server
        model, n = s.plays.get(body.get("model"), body.get("model")), int(body.get("n", 1))
        more = set(body) - OPENAI_MEMBERS - ({"image", "mask"} if self.path.endswith("/edits") else set())
        if self.path not in ("/v1/images/generations", "/v1/images/edits") or more:
            self.answer(400, {"error": {"message": "Unknown parameter: %s" % sorted(more)}})
            return
        if self.fails(model, n):
            return
        s.go.wait(20)
        width, height = map(int, body.get("size", "64x48").split("x"))
        pictures = [self.BAD[model]() if model in self.BAD else b64(png(width, height, i)) for i in range(n)]
        entries = [{"b64_json": p} for p in pictures]
        if model == "url":
            entries = [{"url": s.trap + "/picture.png"}]
        elif model == "data-url":
            entries = [{"url": "data:image/png;base64," + p} for p in pictures]
        elif model == "fewer":
            entries = entries[:1]
        elif model == "none":
            entries = []
        self.answer(200, {"created": 1, "data": entries})

    # ---- sd-server's ---------------------------------------------------------------------------------

    def sd(self, body):
        s = self.server
        more = set(body) - SD_MEMBERS
        if self.path not in ("/sdapi/v1/txt2img", "/sdapi/v1/img2img") or more or not isinstance(body["seed"], int):
            self.answer(400, {"error": "unknown: %s" % sorted(more)})
            return
        if self.path.endswith("img2img") != ("init_images" in body):
            self.answer(400, {"error": "init_images"})
            return
        if self.fails(s.play, body["batch_size"]):
            return
        s.go.wait(20)
        size = body.get("width", 512), body.get("height", 512)
        self.answer(200, {"images": [b64(png(*size, body["seed"] + i)) for i in range(body["batch_size"])],
                          "parameters": body, "info": ""})

    # ---- ComfyUI -------------------------------------------------------------------------------------

    def comfy_post(self, body):
        s = self.server
        if self.path == "/prompt":
            self.comfy_prompt(body)
            return
        if self.path == "/queue":
            for i in body.get("delete", []):
                s.queue = [j for j in s.queue if j != i]
        elif self.path == "/history":
            for i in body.get("delete", []):
                s.history.pop(i, None)
        elif self.path == "/interrupt":
            s.running = None
            s.interrupted.set()
        else:
            self.answer(404, b"")
            return
        self.answer(200, b"")

    def comfy_prompt(self, body):
        s = self.server
        graph = body["prompt"]
        bad = [i for i, node in graph.items() if "class_type" not in node or "inputs" not in node]
        sampler = next((n["inputs"] for n in graph.values() if n["class_type"] == "KSampler"), None)
        if bad or not sampler or not isinstance(sampler["seed"], int) or not isinstance(sampler["steps"], int):
            self.answer(400, {"error": {"type": "prompt_outputs_failed_validation", "message": "Bad prompt"},
                              "node_errors": {}})
            return
        if self.fails(s.play, 1):
            return
        name = body.get("prompt_id") if s.takes_id else str(uuid.uuid4())
        s.running = name
        self.answer(200, {"prompt_id": name, "number": 1, "node_errors": {}})
        if s.play == "hangs":
            return
        size = next((n["inputs"] for n in graph.values() if n["class_type"] == "EmptyLatentImage"), {})
        s.pictures["drawn 1.png"] = png(size.get("width", 64), size.get("height", 64), sampler["seed"])
        entry = {"prompt": [1, name, graph], "status": {"status_str": "success", "completed": True, "messages": []},
                 "outputs": {"9": {"images": [{"filename": "preview.png", "subfolder": "", "type": "temp"},
                                              {"filename": "drawn 1.png", "subfolder": "a&b", "type": "output"}]}}}
        if s.play == "error":
            entry["status"] = {"status_str": "error", "completed": False, "messages": [
                ["execution_error", {"exception_message": "out of memory"}]]}
        if s.play in ("error", "no-picture"):
            entry["outputs"] = {}
        if s.play == "junk":
            s.pictures["drawn 1.png"] = b"<svg/>"
        s.history[name], s.running = entry, None

    def comfy_get(self, url):
        s = self.server
        query = urllib.parse.parse_qs(url.query)
        if url.path == "/system_stats":
            self.answer(200, {"system": {"os": "posix"}, "devices": []})
        elif url.path.startswith("/history/"):
            name = url.path.split("/")[2]
            self.answer(200, {name: s.history[name]} if name in s.history else {})
        elif url.path == "/queue":
            self.answer(200, {"queue_running": [[1, s.running, {}, {}, []]] if s.running else [], "queue_pending": []})
        elif url.path == "/view" and query.get("type") == ["output"] and query.get("subfolder") == ["a&b"]:
            self.answer(200, s.pictures[query["filename"][0]], kind="image/png")
        else:
            self.answer(404, b"")


def form(kind, data):
    """The fields and files of a form."""
    boundary = b"--" + kind.split("boundary=")[1].encode()
    out = {}
    for part in data.split(boundary)[1:-1]:
        head, value = part.strip(b"\r\n").split(b"\r\n\r\n", 1)
        name = re.search(rb'name="([^"]+)"', head).group(1).decode()
        out[name] = value if b"filename=" in head else value.decode()
    return out


class Server(PlayedServer):
    def __init__(self, kind, models=(), key=None, play="", port=0):
        super().__init__(Handler, port, key)
        self.kind, self.models, self.play = kind, list(models), play
        self.takes_id = True
        self.queue, self.history, self.pictures, self.running = [], {}, {}, None
        self.interrupted = threading.Event()
        self.go = threading.Event()  # it draws
        self.go.set()
        self.start()

    def asked(self, path=""):
        """The bodies that were posted."""
        return [body for method, at, body in self.seen if method == "POST" and at.startswith(path)]
