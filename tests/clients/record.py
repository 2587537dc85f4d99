"""A recorder between a client and the server: passes everything on as it comes and writes each
exchange into a folder as one JSON file, so that a test can ask what a client sent and whether every
reply has the shape that we promise."""

import http.client
import http.server
import itertools
import json
import os
import threading

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length",
       "proxy-connection", "accept-encoding", "expect"}


def body_read(handler):
    if "chunked" in handler.headers.get("Transfer-Encoding", "").lower():
        parts = []
        while True:
            size = int(handler.rfile.readline().split(b";")[0], 16)
            parts.append(handler.rfile.read(size))
            handler.rfile.readline()
            if size == 0:
                return b"".join(parts)
    return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

    def exchange(self):
        request = body_read(self)
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=120)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        reply = b""
        try:
            upstream.request(self.command, self.path, request or None, headers)
            answer = upstream.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP:
                    self.send_header(name, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while self.command != "HEAD" and (piece := answer.read1(65536)):
                reply += piece
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.wfile.flush()
            if self.command != "HEAD":
                self.wfile.write(b"0\r\n\r\n")
            self.keep(request, answer, reply, whole=True)
        except (BrokenPipeError, ConnectionResetError):  # the client left
            self.close_connection = True
            self.keep(request, answer, reply, whole=False)
        finally:
            upstream.close()

    def keep(self, request, answer, reply, whole):
        row = {"method": self.command, "path": self.path, "request": request.decode("utf-8", "replace"),
               "status": answer.status, "content_type": answer.headers.get("Content-Type", ""),
               "body": reply.decode("utf-8", "replace"), "whole": whole}
        name = os.path.join(self.server.folder, "%05d.json" % next(self.server.count))
        with open(name + ".new", "w") as f:
            json.dump(row, f)
        os.rename(name + ".new", name)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = exchange


class Recorder(http.server.ThreadingHTTPServer):
    """Listens on a free port of loopback and forwards to `upstream`."""
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream, folder):
        os.makedirs(folder, exist_ok=True)
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream, self.folder, self.count = upstream, folder, itertools.count()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return "http://127.0.0.1:%d" % self.server_address[1]

    def handle_error(self, request, client_address):
        pass  # a client that left; the exchange so far is kept


def exchanges(folder):
    """The exchanges kept so far, in the order in which they ended."""
    rows = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json"):
            with open(os.path.join(folder, name)) as f:
                rows.append(json.load(f))
    return rows
