"""An image worker on a prebuilt stable-diffusion.cpp: the one inside the Python package inferna (0.7 and later; CPU,
CUDA, ROCm and Vulkan wheels). Started by tandem with the options as one JSON argument and a socket as descriptor 3;
src/image/frame.h describes the protocol. scripts/image-library.sh writes the launcher that runs it."""

import ctypes
import json
import os
import socket
import struct
import sys
import tempfile
import threading
import time

import inferna.sd.stable_diffusion as sd

PROTOCOL, EXIT_PERMANENT = 1, 2


class Stream:
    """Frames: u32 bytes of JSON, u32 bytes of pixels, both little-endian, then the two."""

    def __init__(self, fd):
        self.socket, self.lock = socket.socket(fileno=fd), threading.Lock()

    def send(self, data=b"", **head):
        text = json.dumps(head).encode()
        with self.lock:
            self.socket.sendall(struct.pack("<II", len(text), len(data)) + text + data)

    def receive(self, n):
        data = bytearray()
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                os._exit(0)  # who started this is gone
            data += part
        return bytes(data)

    def take(self):
        text, data = struct.unpack("<II", self.receive(8))
        return json.loads(self.receive(text)), self.receive(data)


def pixels(image):
    """RGB of an SDImage without numpy: {u32 width, height, channels; u8 *data}."""
    n = image.width * image.height
    data = ctypes.string_at(ctypes.c_void_p.from_address(image._native._c_image_addr() + 16).value, n * image.channels)
    return data if image.channels == 3 else b"".join(data[i:i + 1] * 3 for i in range(0, len(data), image.channels))


def picture(rgb, width, height, channels=3):
    with tempfile.NamedTemporaryFile(suffix=".ppm") as f:
        f.write(b"P6\n%d %d\n255\n" % (width, height) + rgb)
        f.flush()
        return sd.SDImage(sd._n.SDImage.load_stb(f.name, channels))


class Worker:
    def __init__(self, stream, options):
        begun, p = time.monotonic(), sd.SDContextParams()
        self.stream, self.options = stream, options
        self.request, self.cancelled, self.job, self.queue = None, None, None, threading.Condition()
        self.may_go = threading.Event()
        self.may_go.set()
        names = ("model", "diffusion_model", "vae", "taesd", "t5xxl", "clip_l", "clip_g", "llm")
        for name in names:
            if options.get(name):
                setattr(p, name + "_path", options[name])
        p.n_threads = options.get("threads") or p.n_threads
        p.eager_load = True  # a file that is cut short is found now
        p.flash_attn = p.diffusion_flash_attn = options.get("flash_attention", False)
        if options.get("type"):
            p.wtype = sd.type_from_str(options["type"])
        if options.get("offload"):
            p.params_backend = "cpu"
        sd.set_log_callback(self.log)
        sd.set_progress_callback(self.step)  # before it loads, which it would draw a bar of
        self.context = sd.SDContext(p)
        stream.send(op="ready", protocol=PROTOCOL, library="stable-diffusion.cpp in inferna", version=sd.version(),
                    features=["cancel", "preview", "eager", "minit2i"], load_s=time.monotonic() - begun)
        threading.Thread(target=self.listen, daemon=True).start()

    def log(self, level, text):
        # Below warnings it writes prompts, and its warnings are for those who know it well.
        # A request that was cancelled is no failure of the library's, as it believes.
        if not self.gone() and level >= (sd.LogLevel.WARN if os.environ.get("TANDEM_LOG") == "debug" else sd.LogLevel.ERROR):
            print("image: " + text.rstrip(), file=sys.stderr, flush=True)

    def listen(self):
        while True:
            head, data = self.stream.take()
            if head["op"] == "generate":
                with self.queue:
                    self.job = (head, data)
                    self.queue.notify()
            elif head["op"] == "cancel":
                self.cancelled = head["id"]
                if self.request and self.request["id"] == head["id"]:
                    self.context.cancel()
            elif head["op"] == "pause":
                self.may_go.clear()
            elif head["op"] == "resume":
                self.may_go.set()

    def gone(self):
        return self.request is not None and self.cancelled == self.request["id"]

    def step(self, step, steps, seconds):
        r = self.request
        if not r or step < 1 or (steps != r["steps"] and not (r.get("initial") and steps < r["steps"])):
            return  # the weights' progress comes the same way; from a picture it takes fewer steps
        self.stream.send(op="progress", id=r["id"], index=r["index"], step=step, steps=steps, step_s=seconds)
        while not self.may_go.wait(0.05) and not self.gone():
            pass
        if self.gone():
            self.context.cancel()  # once more: the library forgets what came before the first step

    def preview(self, step, frames, noisy):
        r = self.request
        parts, steps = r.get("previews", 0) + 1 if r else 0, r["steps"] if r else 1
        if frames and 0 < step < steps and step * parts // steps > (step - 1) * parts // steps:
            f = frames[0]
            self.stream.send(pixels(f), op="preview", id=r["id"], index=r["index"], step=step, width=f.width,
                             height=f.height)

    def params(self, r, data):
        p = sd.SDImageGenParams(prompt=r["prompt"], negative_prompt=r.get("negative", ""), width=r["width"],
                                height=r["height"], sample_steps=r["steps"], cfg_scale=r["cfg"], strength=r["strength"])
        size = r["width"] * r["height"] * 3
        if r.get("sampler"):
            p.sample_params.sample_method = int(sd.sample_method_from_str(r["sampler"]))
        if r.get("scheduler"):
            p.sample_params.scheduler = int(sd.scheduler_from_str(r["scheduler"]))
        p.vae_tiling_enabled = self.options.get("tiling", False)
        if r.get("loras"):
            p.set_loras([(l["path"], l["weight"], False) for l in r["loras"]])
        if r.get("initial"):
            p.set_init_image(picture(data[:size], r["width"], r["height"]))
        if r.get("mask"):
            p.set_mask_image(picture(data[size:], r["width"], r["height"], 1))
        return p

    def draw(self, r, data):
        begun, self.request, r["index"] = time.monotonic(), r, 0
        p = self.params(r, data)
        sd.set_preview_callback(self.preview if r.get("previews") else None, sd.PreviewMode.PROJ)
        for i in range(r["count"]):
            r["index"], p.seed = i, r["seed"] + i
            images = [] if self.gone() else self.context.generate_with_params(p)
            if self.gone():
                return self.stream.send(op="failed", id=r["id"], code="cancelled", message="cancelled")
            image = sd.SDImage(images[0]) if not hasattr(images[0], "_native") else images[0]
            self.stream.send(pixels(image), op="picture", id=r["id"], index=i, width=image.width, height=image.height,
                             seed=r["seed"] + i)
        self.stream.send(op="done", id=r["id"], draw_s=time.monotonic() - begun)

    def run(self):
        while True:
            with self.queue:
                while not self.job:
                    self.queue.wait()
                (r, data), self.job = self.job, None
            try:
                self.draw(r, data)
            except Exception as e:
                code = "cancelled" if self.gone() else "invalid" if isinstance(e, ValueError) else "engine"
                self.stream.send(op="failed", id=r["id"], code=code, message=str(e)[:300])
            self.request = None


if __name__ == "__main__":
    stream = Stream(3)
    try:
        worker = Worker(stream, json.loads(sys.argv[1]))
    except Exception as e:
        stream.send(op="failed", code="engine", message="the image model cannot be loaded: " + str(e)[:300])
        sys.exit(EXIT_PERMANENT)
    worker.run()
