"""A server of OpenAI's API that does what the name of the model says: answers well in several shapes, and fails in
every way that a server can. For the tests of upstream servers."""

import json
import threading
import time

from played_server import PlayedHandler, PlayedServer

USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}


def delta(**members):
    return {"choices": [{"index": 0, "delta": members, "finish_reason": None}]}


def end(reason="stop"):
    return [{"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}, {"choices": [], "usage": USAGE}]


def calls(*parts):
    return [delta(tool_calls=[p]) for p in parts]


GOOD = {
    "ok": [delta(role="assistant", content="")] + [delta(content=t) for t in ("Hel", "lo ", "wörld")] + end(),
    "length": [delta(content="Hello")] + end("length"),
    "thinks": [delta(reasoning_content="Hm."), delta(reasoning_content=" So."), delta(content="Yes.")] + end(),
    "thinks-vllm": [delta(reasoning="Hm."), delta(content="Yes.")] + end(),
    "tools": calls(CALL, {"index": 0, "function": {"arguments": "{\"city\":"}},
                   {"index": 0, "function": {"arguments": "\"Oslo\"}"}},
                   {"index": 1, "id": "c2", "function": {"name": "weather", "arguments": "{\"city\":\"Rome\"}"}}) +
    end("tool_calls"),
    # Calls that all have index 0, as some servers count; an object for arguments; no id at all.
    "tools-loose": calls({"index": 0, "id": "c1", "function": {"name": "weather", "arguments": {"city": "Oslo"}}},
                         {"index": 0, "id": "c2", "function": {"name": "weather", "arguments": "{}"}},
                         {"function": {"name": "weather", "arguments": "{\"city\":\"Bonn\"}"}}) + end("stop"),
    "no-usage": [delta(content="Hello"), delta(content="!"), end()[0]],
    "logprobs": [{"choices": [{"index": 0, "delta": {"content": "ab"}, "finish_reason": None, "logprobs": {"content": [
        {"token": t, "logprob": -0.5, "bytes": [ord(t)], "top_logprobs": [{"token": t, "logprob": -0.5}]}
        for t in "ab"]}}]}] + end(),
}
STATUS = {"s400": 400, "s401": 401, "s404": 404, "s413": 413, "s422": 422, "s429": 429, "s500": 500, "s503": 503}
BAD = ["redirect", "malformed", "not-object", "cut", "cut-early", "error-first", "error-later", "endless-line", "silent",
       "stalls", "teapot", "empty", "nameless-call", "hangs-up", "plain"]
SLOW = ["drip", "one-more"]


class Handler(PlayedHandler):
    def do_GET(self):
        s = self.server
        s.seen.append((self.path, dict(self.headers), None))
        if not self.fits():
            return
        if s.list_status != 200 or not self.path.endswith("/models"):
            self.answer(s.list_status if s.list_status != 200 else 404, {"error": {"message": "no list"}})
        elif s.list_body is not None:
            self.answer(200, s.list_body)
        else:
            self.answer(200, {"object": "list", "data": [{"id": m, "max_model_len": 4096} for m in s.models]})

    def do_POST(self):
        s = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        s.seen.append((self.path, dict(self.headers), body))
        if not self.fits():
            return
        model = s.plays.get(body["model"], body["model"])
        try:
            if self.path.endswith("/completions") and "prompt" in body:
                self.completion(body)
            elif model in GOOD:
                self.stream(GOOD[model])
            elif model in STATUS:
                self.refuse(STATUS[model])
            else:
                getattr(self, "play_" + model.replace("-", "_"))(body)
        except (BrokenPipeError, ConnectionResetError):
            s.left.set()

    # ---- streams -------------------------------------------------------------------------------------

    def begin(self, kind="text/event-stream; charset=utf-8"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def put(self, text):
        self.wfile.write(text if isinstance(text, bytes) else text.encode())
        self.wfile.flush()

    def events(self, *chunks):
        for c in chunks:
            self.put("data: " + json.dumps(c, ensure_ascii=False) + "\r\n\r\n")

    def stream(self, chunks):
        self.begin()
        self.put(": a comment\n\nevent: message\nid: 1\n")
        self.events(*chunks)
        self.put("data: [DONE]\n\n")

    def completion(self, body):
        words = "%s!" % (body["prompt"] if isinstance(body["prompt"], str) else len(body["prompt"]))
        self.stream([{"choices": [{"index": 0, "text": t, "finish_reason": None}]} for t in words] + end("length"))

    def refuse(self, status):
        self.answer(status, {"error": {"message": "because of %d" % status}}, Retry_After="7")

    # ---- failures ------------------------------------------------------------------------------------

    def play_redirect(self, body):
        self.answer(307, b"", Location=self.server.trap + "/v1/chat/completions")

    def play_malformed(self, body):
        self.begin()
        self.put("data: {\"choices\": [{\"delta\"\n\n")

    def play_not_object(self, body):
        self.begin()
        self.put("data: [1, 2]\n\n")

    def play_cut(self, body):
        self.begin()
        self.events(delta(content="Hel"), delta(content="lo"))

    def play_cut_early(self, body):
        self.begin()

    def play_error_first(self, body):
        self.begin()
        self.events({"error": {"message": "out of memory", "code": 500}})

    def play_error_later(self, body):
        self.begin()
        self.events(delta(content="Hel"), {"object": "error", "message": "out of memory"})

    def play_endless_line(self, body):
        self.begin()
        self.put("data: ")
        for _ in range(6 * 16):
            self.put(b"x" * 65536)

    def play_silent(self, body):
        self.server.over.wait(20)

    def play_stalls(self, body):
        self.begin()
        self.events(delta(content="Hel"))
        self.server.over.wait(20)

    def play_drip(self, body):
        self.begin()
        for i in range(2000):
            self.events(delta(content="%d " % i))
            time.sleep(0.01)

    def play_one_more(self, body):
        """Says a word, and the rest when it is told to."""
        self.begin()
        self.events(delta(content="one "))
        self.server.more.wait(20)
        self.events(delta(content="more"), *end())
        self.put("data: [DONE]\n\n")

    def play_teapot(self, body):
        self.answer(299, b"short and stout", kind="text/plain")

    def play_empty(self, body):
        self.answer(200, b"", kind="text/event-stream")

    def play_nameless_call(self, body):
        self.stream(calls({"index": 0, "id": "c1", "function": {"arguments": "{}"}}) + end())

    def play_hangs_up(self, body):
        self.close_connection = True

    def play_plain(self, body):
        """An answer sent whole, although a stream was asked for."""
        self.answer(200, {"choices": [{"index": 0, "finish_reason": "stop", "message": {
            "role": "assistant", "content": "Whole."}}], "usage": USAGE})


class Server(PlayedServer):
    def __init__(self, port=0, models=None, key=None, certificate=None):
        super().__init__(Handler, port, key, certificate)
        self.models = models if models is not None else [*GOOD, *STATUS, *BAD, *SLOW]
        self.list_status, self.list_body = 200, None
        self.more = threading.Event()
        self.start()

    def asked(self):
        """The bodies that were posted."""
        return [body for _, _, body in self.seen if body is not None]

    def stop(self):
        self.more.set()
        super().stop()
