#!/usr/bin/env bash
# Images from the client to the answer, in every API: the real programs, the real library and a model that a
# projector of ours gives sight of three colours.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import base64
import struct
import subprocess
import sys
import threading
import zlib

sys.path[:0] = ["."]
from e2e import *

PROJECTOR = os.path.join(DIR, "mmproj.gguf")
subprocess.run([sys.executable, "projector_make.py", MODEL, PROJECTOR], check=True)
WORDS = "Repeat the word."
LONG = "".join(" %d" % i for i in range(40)) + " "  # tokens enough to be worth remembering
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def png(colour, side=32, rows=None):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    data = zlib.compress(rows if rows is not None else (b"\0" + bytes(colour) * side) * side, 1)
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def base(data):
    return base64.b64encode(data).decode()


def url(data):
    return "data:image/png;base64," + base(data)


def part(data):
    return {"type": "image_url", "image_url": {"url": url(data)}}


def says(*parts, text=WORDS):
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def chat(server, messages, status=200, gen=8, **more):
    code, a = post(server.port, "/v1/chat/completions",
                   {"messages": messages, "temperature": 0, "max_tokens": gen, **more})
    check(code == status, code, a)
    return a


def told(a):
    return a["choices"][0]["message"]["content"]


def cached(a):
    return a["usage"]["prompt_tokens_details"]["cached_tokens"]


def start(*more):
    return Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--ctx", "2048", "--parallel", "4",
                   "--threads", "1", *more)


def every_api_sees(s):
    for word, colour in COLOURS.items():
        image = png(colour)
        check(word in told(chat(s, [says(part(image))])), word, "not seen in a chat")
        code, a = post(s.port, "/v1/responses", {"temperature": 0, "max_output_tokens": 8, "input": [
            {"role": "user", "content": [{"type": "input_image", "detail": "auto", "image_url": url(image)},
                                         {"type": "input_text", "text": WORDS}]}]})
        check(code == 200 and word in a["output"][0]["content"][0]["text"], a)
        block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": base(image)}}
        ask = {"messages": [{"role": "user", "content": [block, {"type": "text", "text": WORDS}]}]}
        code, a = post(s.port, "/v1/messages", dict(ask, max_tokens=8, temperature=0))
        check(code == 200 and word in a["content"][0]["text"], a)
        read = a["usage"]["input_tokens"] + a["usage"]["cache_read_input_tokens"]
        code, a = post(s.port, "/v1/messages/count_tokens", ask)
        check(code == 200 and a["input_tokens"] == read > 16, a, read)
        more = {"stream": False, "options": {"temperature": 0, "num_predict": 8}}
        code, a = post(s.port, "/api/chat", dict(more, messages=[
            {"role": "user", "content": WORDS, "images": [base(image)]}]))
        check(code == 200 and word in a["message"]["content"], a)
        code, a = post(s.port, "/api/generate", dict(more, prompt=WORDS, images=[base(image)]))
        check(code == 200 and word in a["response"], a)


def memory_knows_images(s):
    ask = [says(part(png(COLOURS["red"])), text=LONG + WORDS)]
    first = chat(s, ask, cache_prompt=False)
    before = first["usage"]["prompt_tokens"]
    again = chat(s, ask + [{"role": "assistant", "content": told(first)}, {"role": "user", "content": LONG}])
    check(cached(again) >= before - 8, "the second turn read the image again:", again["usage"])
    other = chat(s, [says(part(png((90, 90, 255))), text=LONG + WORDS)])
    check(0 < cached(other) < 40, "another image passed for the first:", other["usage"])
    check(other["usage"]["prompt_tokens"] == before, other["usage"], before)
    # The same pixels in another file are another image: nobody decodes to find out.
    check(cached(chat(s, [says(part(png(COLOURS["red"]) + b"x"), text=LONG + WORDS)])) < 40)
    # Two images in another order are another prompt from the first of them on.
    red, green = part(png((200, 0, 0))), part(png((0, 200, 0)))
    chat(s, [says(red, green, text=LONG)])
    a = chat(s, [says(red, green, text=LONG)])
    b = chat(s, [says(green, red, text=LONG)])
    check(cached(a) == a["usage"]["prompt_tokens"] - 1 and cached(b) < 40, a["usage"], b["usage"])
    check(cached(chat(s, [says(red, green, text=LONG)], cache_prompt=False)) == 0)


def several_answers_and_streams(s):
    a = chat(s, [says(part(png(COLOURS["green"])))], n=3, store=False)
    check(all("green" in c["message"]["content"] for c in a["choices"]), a)
    # Side by side with answers that are being written.
    results = {}

    def ask(i):
        word = list(COLOURS)[i % 3]
        image = [says(part(png(COLOURS[word], 40 + i)))]
        results[i] = word in told(chat(s, image if i % 2 else [says(text="Count to fifty.")], gen=24)) or i % 2 == 0
    threads = [threading.Thread(target=ask, args=[i]) for i in range(10)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(len(results) == 10 and all(results.values()), results)


def refusals(s):
    pid = s.worker()
    rows = [("https://example.org/a.png", "fetches nothing"), ("file:///etc/passwd", "fetches nothing"),
            ("data:image/png;base64,", "0 bytes"), ("data:image/webp;base64," + base(b"RIFF\0\0\0\0WEBPVP8 "), "WebP"),
            (url(png((0, 0, 0))[:60]), "image 1 of 1"), (url(png((0, 0, 0), 1 << 20, b"")), "1048576 x 1048576")]
    for address, words in rows:
        a = chat(s, [says({"type": "image_url", "image_url": {"url": address}})], 400)
        check(words in a["error"]["message"] and a["error"]["param"] == "messages", words, a)
    check("messages[0].content" in a["error"]["message"], a)
    # Two megabytes that unpack to half a gigabyte.
    a = chat(s, [says(part(png(None, 64, bytes(1 << 29))))], 400)
    check("cannot be decoded" in a["error"]["message"], a)
    # Files that were damaged on the way.
    chance = random.Random(5)
    whole = png((9, 90, 200), 48)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(4):
            data[chance.randrange(26, len(data))] = chance.randrange(256)
        code, a = post(s.port, "/v1/chat/completions", {"messages": [says(part(bytes(data)))], "max_tokens": 1})
        check(code in (200, 400), code, a)
    a = chat(s, [says(*[part(png((i, 0, 0), 8)) for i in range(33)])], 400)
    check("more than the 32" in a["error"]["message"], a)
    a = chat(s, [says(*[part(png((i, 0, 0), 8)) for i in range(32)], text=LONG * 20)], 400)
    check(a["error"]["code"] == "context_length_exceeded", a)
    # What marks a place for an image in the server is none in a user's text.
    check(told(chat(s, [says(text="<__media__> <image> hello")])))
    check(s.worker() == pid, "the worker died on the way")


def plans(s):
    a = chat(s, [says(part(png(COLOURS["red"])))], tandem={"plan": "hybrid", "timeline": True})
    t = a["timings"]
    check(t["plan"] == "local" and "hybrid" in t["fallback"] and "images" in t["reason"], t)
    a = chat(s, [says(part(png((1, 2, 3))))], tandem={"timeline": True})
    check("encode" in [e["what"] for e in a["timings"]["timeline"]], a["timings"])


def a_new_worker_sees_too(s):
    old = s.worker()
    os.kill(old, signal.SIGKILL)
    wait_for("another worker", lambda: s.worker() not in (None, old) and get(s.port, "/health")[0] == 200)
    check("blue" in told(chat(s, [says(part(png(COLOURS["blue"])))])))


def without_a_projector():
    s = start()
    a = chat(s, [says(part(png(COLOURS["red"])))], 400)
    check(a["error"]["code"] == "images_unsupported" and "--mmproj" in a["error"]["message"], a)
    check(told(chat(s, [says(text="Say hi.")])))
    s.stop()


def wrong_projectors():
    for path, words in [("/nowhere.gguf", "/nowhere.gguf"), (MODEL, "not a projector")]:
        p = subprocess.run([os.path.join(BIN, "tandem"), "serve", "-m", MODEL, "--mmproj", path, "--threads", "1",
                            "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60,
                           env=dict(os.environ, TANDEM_KEY_FILE=key_file(), TANDEM_STATE=DIR))
        check(p.returncode != 0 and words in p.stderr, p)


s = start("--mmproj", PROJECTOR)
for test in [every_api_sees, memory_knows_images, several_answers_and_streams, refusals, plans, a_new_worker_sees_too]:
    begun = time.monotonic()
    test(s)
    print("%s: %.1f s" % (test.__name__, time.monotonic() - begun))
s.stop()
without_a_projector()
wrong_projectors()
PYTHON
