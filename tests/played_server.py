"""What servers that tests play have in common: how they listen, what they note, how they end."""

import http.server
import json
import socket
import ssl
import threading


class PlayedHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body, kind="application/json", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def fits(self):
        """Whether the key is the right one; answers if not."""
        given = self.headers.get("Authorization", "none")
        if self.server.key and given != "Bearer " + self.server.key:
            self.answer(401, {"error": {"message": "wrong key: " + given}})
            return False
        return True


class PlayedServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler, port=0, key=None, certificate=None):
        super().__init__(("127.0.0.1", port), handler)
        self.key = key
        self.plays = {}  # what a model of another name does
        self.trap = ""
        self.seen, self.connections = [], []
        self.left, self.over = threading.Event(), threading.Event()
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def start(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self):
        return "%s://127.0.0.1:%d" % (self.scheme, self.server_address[1])

    def process_request(self, request, address):
        self.connections.append(request)
        super().process_request(request, address)

    def handle_error(self, request, address):
        pass  # clients that leave are what some tests are about

    def stop(self):
        self.over.set()
        self.shutdown()
        self.server_close()
        for c in self.connections:  # those that clients keep
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
