#!/bin/sh
# `tandem pull` against a hub on loopback that cuts, stalls, lies, redirects and refuses; then ls, show,
# alias and rm on what came of it.
set -eu
exec python3 -B - <<'PYTHON'
import contextlib, fcntl, hashlib, http.server, json, os, pty, re, select, shutil, signal, socket
import ssl, struct, subprocess, sys, tempfile, threading, time, urllib.parse, urllib.request

BIN = os.environ.get("TANDEM_BIN", "build")
TANDEM = os.path.join(BIN, "tandem")
DIR = tempfile.mkdtemp(prefix="tandem-models-")
TOKEN = "hf_tokenOfTheTest123"


# ---- a small GGUF ---------------------------------------------------------------------------------

def text(t):
    return struct.pack("<Q", len(t)) + t.encode()


def u32(key, v):
    return text(key) + struct.pack("<II", 4, v)


def gguf(name, rows=1000, split=None):
    """A valid head, `rows` rows of 1024 bytes each."""
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama"),
            text("general.name") + struct.pack("<I", 8) + text(name),
            u32("general.file_type", 15), u32("llama.block_count", 2), u32("llama.context_length", 4096),
            u32("llama.embedding_length", 256), u32("llama.attention.head_count", 4),
            u32("llama.attention.head_count_kv", 2)]
    if split:
        keys += [u32("split.no", split[0]), u32("split.count", split[1])]
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 256, rows, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys) + tensor
    body = hashlib.sha256(name.encode()).digest() * 32  # 1024 bytes
    return head + b"\0" * (-len(head) % 32) + body * rows


FILES = {}  # (user/repo, path): bytes


def put(repo, path, data):
    FILES[repo, path] = data


put("anna/Tiny-GGUF", "README.md", b"# Tiny")
put("anna/Tiny-GGUF", "Tiny.Q4_K_M.gguf", gguf("tiny4"))
put("anna/Tiny-GGUF", "Tiny.Q8_0.gguf", gguf("tiny8", 2000))
put("anna/Tiny-GGUF", "mmproj-Tiny-F16.gguf", gguf("projector", 10))
put("anna/Tiny-GGUF", "imatrix.gguf", b"GGUF")
put("bert/tiny", "sub/tiny-Q4_K_M.gguf", gguf("other"))
for no in range(3):
    put("anna/Split-GGUF", "Q4_0/Split-Q4_0-0000%d-of-00003.gguf" % (no + 1),
        gguf("split%d" % no, 100, (no, 3)))
put("anna/Gated-GGUF", "Gated-Q4_0.gguf", gguf("gated", 50))
put("anna/Empty", "README.md", b"nothing here")
put("anna/Liar-GGUF", "Liar-Q4_0.gguf", gguf("liar", 300))
put("anna/Huge-GGUF", "Huge-Q4_0.gguf", gguf("huge", 10))
put("anna/Bad-GGUF", "Bad-Q4_0.gguf", b"GGUF" + b"\xff" * 5000)


# ---- the hub and the place that its files come from -----------------------------------------------

class Faults:
    """What goes wrong next; each test sets what it needs."""

    def __init__(self):
        self.cuts = []          # body bytes after which the connection ends, one per answer
        self.statuses = []      # to answer with first, one per request
        self.retry_after = None
        self.no_range = False
        self.etag = '"one"'
        self.wrong_size = 0     # added to what the list says
        self.wrong_sum = False  # in the list
        self.wrong_body = False
        self.stall = 0          # seconds of silence in the middle of a body
        self.slow = 0           # seconds between pieces
        self.to_http = None     # redirect of a file to this address


faults = Faults()
log = []  # (which, method, path, headers)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def note(self, which):
        log.append((which, self.command, self.path, dict(self.headers)))

    def answer(self, status, body=b"", headers=None):
        self.send_response(status)
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def fault(self):
        if not faults.statuses:
            return False
        headers = {"Retry-After": faults.retry_after} if faults.retry_after else {}
        self.answer(faults.statuses.pop(0), b"try later", headers)
        return True

    def send_file(self, data):
        first, status = 0, 200
        wanted = re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        holds = self.headers.get("If-Range", faults.etag) == faults.etag
        if wanted and holds and not faults.no_range:
            first, status = int(wanted.group(1)), 206
            if first >= len(data):
                return self.answer(416, b"", {"Content-Range": "bytes */%d" % len(data)})
        if faults.wrong_body:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", "bytes %d-%d/%d" % (first, len(data) - 1, len(data)))
        if faults.etag:
            self.send_header("ETag", faults.etag)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        self.send_body(data[first:])

    def send_body(self, body):
        cut = faults.cuts.pop(0) if faults.cuts else len(body)
        with contextlib.suppress(OSError):
            for at in range(0, min(cut, len(body)), 65536):
                self.wfile.write(body[at:min(at + 65536, cut)])
                self.wfile.flush()
                time.sleep(faults.slow)
                if faults.stall and at > 0:
                    wait, faults.stall = faults.stall, 0
                    time.sleep(wait)
        if cut < len(body):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)


class Cdn(Handler):
    def do_GET(self):
        self.note("cdn")
        if self.fault():
            return
        _, user, repo, path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).split("/", 3)
        self.send_file(FILES[user + "/" + repo, path])


class Hub(Handler):
    def refuse(self, status, code, words):
        self.answer(status, json.dumps({"error": words}).encode(), {"X-Error-Code": code})

    def allowed(self, repo):
        known = any(r == repo for r, _ in FILES)
        token = self.headers.get("Authorization")
        if token and token != "Bearer " + TOKEN:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif not known:
            self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo == "anna/Gated-GGUF" and not token:
            self.refuse(401, "GatedRepo", "Access to model is restricted")
        else:
            return True
        return False

    def do_GET(self):
        self.note("hub")
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        api = re.match(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)$", path)
        file = re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.*)$", path)
        if api:
            if not self.fault() and self.allowed(api.group(1)):
                self.send_list(api.group(1), api.group(2))
        elif file and self.allowed(file.group(1)):
            assert file.group(2) == "c0ffee", "not pinned to the commit"
            where = faults.to_http or "http://localhost:%d/%s/%s" % (cdn.server_port, file.group(1),
                                                                     urllib.parse.quote(file.group(3)))
            self.answer(302, b"", {"Location": where})
        elif path == "/page.gguf":
            self.answer(200, b"<!DOCTYPE html>" * 100)
        elif path == "/direct/Direct-Q5_0.gguf":
            self.send_file(FILES["anna/Tiny-GGUF", "Tiny.Q4_K_M.gguf"])
        elif path.startswith("/parts/"):
            self.send_file(FILES["anna/Split-GGUF", "Q4_0/" + path[7:]])
        elif path == "/loop.gguf":
            self.answer(302, b"", {"Location": "/loop.gguf"})
        elif not file:
            self.answer(404, b"no such thing")

    def send_list(self, repo, revision):
        if revision != "main":
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        siblings = []
        for (r, path), data in FILES.items():
            if r != repo:
                continue
            sha256 = "0" * 64 if faults.wrong_sum else hashlib.sha256(data).hexdigest()
            size = 1 << 60 if "Huge" in path else len(data) + faults.wrong_size
            s = {"rfilename": path, "size": size}
            if path.endswith(".gguf"):
                s["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
            siblings.append(s)
        self.answer(200, json.dumps({"id": repo, "sha": "c0ffee", "siblings": siblings}).encode())


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client)


def serve(handler):
    s = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    return s


cdn, hub = serve(Cdn), serve(Hub)


# ---- running tandem -------------------------------------------------------------------------------

ENV = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k != "HF_TOKEN"}
ENV.update(TANDEM_DATA=DIR + "/data", HF_ENDPOINT="http://127.0.0.1:%d/" % hub.server_port,
           TANDEM_RETRY_WAIT="0.01", TANDEM_CONFIG=DIR, NO_COLOR="1")


def tandem(*args, code=0, has="", env=None, fresh=True, stdin=subprocess.DEVNULL):
    global faults
    p = subprocess.run([TANDEM, *args], env=dict(ENV, **(env or {})), capture_output=True, text=True,
                       stdin=stdin, timeout=120)
    said = p.stdout + p.stderr
    assert p.returncode == code, "%s: %d, not %d: %s" % (args, p.returncode, code, said)
    assert has in said, "%s: no \"%s\" in: %s" % (args, has, said)
    assert TOKEN not in said, "the token is shown: " + said
    if fresh:
        faults = Faults()
    return p.stdout


def store(*parts):
    return os.path.join(DIR, "data", "models", *parts)


def listed():
    return {m["name"]: m for m in json.loads(tandem("ls", "--json"))["models"]}


def holds(name, repo, path):
    m = listed()[name]
    assert m["complete"], m
    with open(m["path"], "rb") as f:
        assert f.read() == FILES[repo, path], "other bytes than the hub's"
    assert m["files"][0]["sha256"] == hashlib.sha256(FILES[repo, path]).hexdigest()
    assert not [f for f in os.listdir(os.path.dirname(m["path"])) if ".part" in f], "parts are left"


def forget(*names):
    tandem("rm", "--yes", *names)
    log.clear()


def ranges():
    return [h.get("Range") for which, _, _, h in log if which == "cdn"]


TINY4 = "tiny:q4_k_m"
tests = []


def test(f):
    tests.append(f)
    return f


# ---- getting models -------------------------------------------------------------------------------

@test
def the_usual_way():
    tandem("pull", "anna/Tiny-GGUF", has="tiny:q4_k_m: pulled, 1.0 MB")
    holds(TINY4, "anna/Tiny-GGUF", "Tiny.Q4_K_M.gguf")
    assert listed()[TINY4]["source"].endswith("/anna/Tiny-GGUF@c0ffee")
    assert oct(os.stat(store()).st_mode)[-3:] == "700"
    log.clear()
    tandem("pull", "anna/tiny-gguf:q4_k_m", code=1, has="no repository")  # the hub minds the case
    log.clear()
    tandem("pull", "anna/Tiny-GGUF", has="already here")
    assert [w for w, *_ in log] == ["hub"], log
    tandem("pull", "hf.co/anna/Tiny-GGUF:Q8_0", has="tiny:q8_0: pulled")
    holds("tiny:q8_0", "anna/Tiny-GGUF", "Tiny.Q8_0.gguf")
    forget("tiny:q8_0")
    # What was damaged on the disk is fetched again.
    os.truncate(listed()[TINY4]["path"], 100)
    tandem("pull", "anna/Tiny-GGUF", has="pulled")
    holds(TINY4, "anna/Tiny-GGUF", "Tiny.Q4_K_M.gguf")
    forget(TINY4)


@test
def json_output():
    out = json.loads(tandem("pull", "--json", "anna/Tiny-GGUF:Q8_0"))
    assert out["changed"] and out["complete"] and out["id"] == "anna/tiny:q8_0" and out["context"] == 4096, out
    out = json.loads(tandem("pull", "--json", "anna/Tiny-GGUF:Q8_0"))
    assert out["changed"] is False and os.path.isfile(out["path"]), out
    forget("tiny")


@test
def parts_and_projectors():
    tandem("pull", "anna/Split-GGUF", has="pulled")
    m = listed()["split:q4_0"]
    assert [f["name"] for f in m["files"]] == ["Split-Q4_0-0000%d-of-00003.gguf" % n for n in (1, 2, 3)], m
    show = json.loads(tandem("show", "--json", "split"))
    assert show["params"] == 300 * 256 and show["memory"]["weights_bytes"] == 300 * 1024, show
    tandem("pull", "anna/Tiny-GGUF", "--mmproj")
    assert listed()[TINY4]["projector"] == "mmproj-Tiny-F16.gguf"
    tandem("show", TINY4, has="mmproj-Tiny-F16.gguf")
    base = "http://127.0.0.1:%d/parts/Split-Q4_0-0000" % hub.server_port
    tandem("pull", base + "2-of-00003.gguf", code=2, has="first part")
    faults.cuts = [50000, 50000]
    tandem("pull", base + "1-of-00003.gguf?download=true", has="pulled")
    assert len(listed()) == 3 and json.loads(tandem("show", "--json", "anna/split"))["params"] == 300 * 256
    forget("127.0.0.1-%d/split" % hub.server_port)
    os.mkdir(DIR + "/parts")
    for no in (1, 2):
        with open(DIR + "/parts/Mine-0000%d-of-00002.gguf" % no, "wb") as f:
            f.write(gguf("mine", 10, (no - 1, 2)))
    tandem("pull", DIR + "/parts/Mine-00002-of-00002.gguf", code=2, has="name the first part")
    tandem("pull", DIR + "/parts/Mine-00001-of-00002.gguf", has="pulled")
    assert json.loads(tandem("show", "--json", "mine"))["params"] == 20 * 256
    forget("mine")
    os.remove(DIR + "/parts/Mine-00002-of-00002.gguf")
    tandem("pull", DIR + "/parts/Mine-00001-of-00002.gguf", code=1, has="Mine-00002-of-00002.gguf")
    tandem("pull", "anna/Split-GGUF", "--mmproj", code=1, has="no projector")
    forget("split", TINY4)


@test
def what_is_not_there():
    tandem("pull", "anna/Tiny-GGUF:Q5_K_S", code=1, has="there are: Q4_K_M, Q8_0")
    tandem("pull", "anna/Nothing", code=1, has="HF_TOKEN")
    tandem("pull", "anna/Nothing", code=1, has="no repository anna/Nothing", env={"HF_TOKEN": TOKEN})
    tandem("pull", "anna/Empty", code=1, has="no GGUF file")
    tandem("pull", "anna/Tiny-GGUF@v7", code=1, has='no revision "v7"')
    tandem("pull", "nonsense", code=2, has="user/repo")
    tandem("pull", code=2, has="say one model")
    tandem("pull", DIR + "/absent.gguf", code=1, has="No such file")
    tandem("pull", "sub/absent.gguf", code=1, has="No such file")
    tandem("pull", "anna/Tiny-GGUF", "--sha256", "12", code=2, has="64 hexadecimal")
    tandem("pull", "anna/Tiny-GGUF", "--sha256", "1" * 64, code=2, has="tells its own")
    assert listed() == {}


@test
def cut_connections_are_gone_on_with():
    size = len(FILES["anna/Tiny-GGUF", "Tiny.Q8_0.gguf"])
    faults.cuts = [300000, 500000, 0, 0, 100000]
    tandem("pull", "anna/Tiny-GGUF:Q8_0", has="trying again")
    holds("tiny:q8_0", "anna/Tiny-GGUF", "Tiny.Q8_0.gguf")
    first = ranges()[:3]
    assert first == [None, "bytes=300000-", "bytes=800000-"], first
    assert len(ranges()) == 6 and size > 900000
    forget("tiny")
    # Retries count only while nothing comes.
    faults.cuts = [100000] * 10
    tandem("pull", "anna/Tiny-GGUF:Q8_0", "--retries", "1")
    forget("tiny")
    faults.cuts = [100000] + [0] * 9
    tandem("pull", "anna/Tiny-GGUF:Q8_0", "--retries", "2", code=1, has="Tiny.Q8_0.gguf")
    assert len(ranges()) == 4 - 1, ranges()
    assert not listed()["tiny:q8_0"]["complete"]
    tandem("serve", "-m", "tiny", code=1, has="tandem pull anna/Tiny-GGUF:Q8_0")
    tandem("ls", has="not complete")
    log.clear()
    tandem("pull", "anna/Tiny-GGUF:Q8_0", has="going on after 100 kB")
    assert ranges() == ["bytes=100000-"], ranges()
    holds("tiny:q8_0", "anna/Tiny-GGUF", "Tiny.Q8_0.gguf")
    forget("tiny")


@test
def busy_servers_are_asked_again():
    faults.statuses = [503, 429, 500]
    faults.retry_after = "0"
    tandem("pull", "anna/Tiny-GGUF", has="the server answers 503")
    forget("tiny")
    tandem("pull", "anna/Tiny-GGUF:Q8_0", "--retries", "0", has="pulled")
    forget("tiny")
    faults.statuses = [503] * 9
    tandem("pull", "anna/Tiny-GGUF", "--retries", "2", code=1, has="503")
    assert len(log) == 3, log
    log.clear()
    faults.stall = 30
    start = time.monotonic()
    tandem("pull", "anna/Tiny-GGUF", "--stall", "1", has="trying again")
    assert time.monotonic() - start < 25, "waited for the silent server"
    assert len(ranges()) == 2 and ranges()[1], ranges()
    forget("tiny")


@test
def changed_files_begin_anew():
    url = "http://127.0.0.1:%d/direct/Direct-Q5_0.gguf" % hub.server_port
    faults.cuts = [200000]
    tandem("pull", url, "--retries", "0", code=1)
    faults.etag = '"two"'
    tandem("pull", url, has="changed on the server")
    assert [h.get("If-Range") for *_, h in log] == [None, '"one"'], log
    holds("direct:q5_0", "anna/Tiny-GGUF", "Tiny.Q4_K_M.gguf")
    assert listed()["direct:q5_0"]["id"] == "127.0.0.1-%d/direct:q5_0" % hub.server_port
    log.clear()
    tandem("pull", url, has="already here")
    assert log == []
    secret = url.replace("127", "anna:secret@127")
    assert "secret" not in tandem("pull", secret, has="already here") + tandem("ls", "--json")
    forget("direct")
    tandem("pull", secret)
    assert listed()["direct:q5_0"]["source"] == url
    forget("direct")
    # A server without ranges, or without an ETag and nothing to check against: from the beginning.
    for name, value in (("no_range", True), ("etag", "")):
        faults.cuts = [200000]
        setattr(faults, name, value)
        tandem("pull", url, has="begun anew")
        holds("direct:q5_0", "anna/Tiny-GGUF", "Tiny.Q4_K_M.gguf")
        forget("direct")


@test
def lies_are_found_out():
    part = store("anna--liar--q4_0", "Liar-Q4_0.gguf")
    faults.wrong_body = True
    tandem("pull", "anna/Liar-GGUF", code=1, has="SHA-256")
    assert os.path.exists(part + ".corrupt") and not os.path.exists(part)
    tandem("serve", "-m", "liar", code=1, has="not complete")
    tandem("pull", "anna/Liar-GGUF", has="pulled")
    holds("liar:q4_0", "anna/Liar-GGUF", "Liar-Q4_0.gguf")
    forget("liar")
    assert not os.path.exists(os.path.dirname(part)), "rm left something"
    faults.wrong_size = 5
    tandem("pull", "anna/Liar-GGUF", code=1, has="were announced")
    faults.wrong_size = -5
    tandem("pull", "anna/Liar-GGUF", code=1, has="announced")
    forget("liar")
    tandem("pull", "anna/Huge-GGUF", code=1, has="make room")
    assert not any("resolve" in path for _, _, path, _ in log), "fetched what has no room"
    tandem("pull", "anna/Bad-GGUF", code=1, has="a GGUF file of version")
    forget("huge", "bad")
    base = "http://127.0.0.1:%d" % hub.server_port
    tandem("pull", base + "/page.gguf", code=1, has="no GGUF file")
    tandem("pull", base + "/loop.gguf", code=2, has="redirects more than")
    tandem("pull", base + "/absent.gguf", code=1, has="404")
    tandem("pull", base + "/no-name", code=2, has=".gguf")
    tandem("pull", "http://example.invalid/x.gguf", code=2, has="--sha256")
    good = hashlib.sha256(FILES["anna/Tiny-GGUF", "Tiny.Q4_K_M.gguf"]).hexdigest()
    tandem("pull", base + "/direct/Direct-Q5_0.gguf", "--sha256", "a" * 64, code=1, has="was announced")
    tandem("pull", base + "/direct/Direct-Q5_0.gguf", "--sha256", good.upper(), has="pulled")
    for name in listed():
        forget(name)


@test
def newer_versions_replace_older_ones():
    tandem("pull", "anna/Liar-GGUF")
    old = FILES["anna/Liar-GGUF", "Liar-Q4_0.gguf"]
    put("anna/Liar-GGUF", "Liar-Q4_0.gguf", gguf("newer", 310))
    faults.cuts = [100000]
    tandem("pull", "anna/Liar-GGUF", "--retries", "0", code=1)
    with open(listed()["liar:q4_0"]["path"], "rb") as f:
        assert f.read() == old, "the old one is gone before the new one is there"
    tandem("pull", "anna/Liar-GGUF", has="pulled")
    holds("liar:q4_0", "anna/Liar-GGUF", "Liar-Q4_0.gguf")
    forget("liar")


@test
def tokens_go_where_they_belong():
    tandem("pull", "anna/Gated-GGUF", code=1, has="accept its terms")
    tandem("pull", "anna/Gated-GGUF", code=1, has="does not accept the token", env={"HF_TOKEN": "hf_bad"})
    tandem("pull", "anna/Gated-GGUF", code=2, has="HF_TOKEN", env={"HF_TOKEN": "two words"})
    log.clear()
    tandem("pull", "anna/Gated-GGUF", env={"HF_TOKEN": TOKEN})
    for which, _, path, headers in log:
        assert ("Authorization" in headers) == (which == "hub"), (which, path, headers)
    forget("gated")
    with open(DIR + "/token", "w") as f:
        f.write(TOKEN + "\n")
    tandem("pull", "anna/Gated-GGUF", "--token-file", DIR + "/token")
    forget("gated")
    tandem("pull", "anna/Gated-GGUF", "--token-file", DIR + "/none", code=1, has="cannot open")
    tandem("pull", "anna/Gated-GGUF", code=2, has="token is not sent",
           env={"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://hub.invalid"})
    # Also not to another port of the same host.
    faults.to_http = "http://127.0.0.1:%d/anna/Gated-GGUF/Gated-Q4_0.gguf" % cdn.server_port
    tandem("pull", "anna/Gated-GGUF", env={"HF_TOKEN": TOKEN})
    assert [("Authorization" in h) for w, _, _, h in log if w == "cdn"] == [False]
    forget("gated")
    for root, _, names in os.walk(DIR + "/data"):
        for name in names:
            with open(os.path.join(root, name), "rb") as f:
                assert TOKEN.encode() not in f.read(), "the token is stored"


@test
def proxies_are_asked():
    class Proxy(Handler):
        def do_GET(self):
            self.note("proxy")
            self.answer(401, b"", {"X-Error-Code": "RepoNotFound"})
    proxy = serve(Proxy)
    tandem("pull", "anna/Tiny-GGUF", code=1, has="no repository",
           env={"HF_ENDPOINT": "http://hub.invalid", "http_proxy": "http://127.0.0.1:%d" % proxy.server_port})
    assert log[-1][0] == "proxy" and log[-1][2].startswith("http://hub.invalid/api/models/anna/"), log
    proxy.shutdown()


@test
def certificates_are_looked_at():
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days",
                           "1", "-keyout", DIR + "/pem.key", "-out", DIR + "/pem.crt"], capture_output=True) \
        if shutil.which("openssl") else None
    if not made or made.returncode != 0:
        return "SKIPPED, no openssl to make one"
    s = Server(("127.0.0.1", 0), Hub)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DIR + "/pem.crt", DIR + "/pem.key")
    s.socket = context.wrap_socket(s.socket, server_side=True)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    tandem("pull", "anna/Tiny-GGUF", code=1, has="certificate", env={
        "HF_ENDPOINT": "https://localhost:%d" % s.server_port, "HF_TOKEN": TOKEN})
    assert log == [], "spoke to a server that nobody vouches for"
    s.shutdown()


@test
def interrupted_and_killed():
    def begin():
        faults.slow = 0.05
        p = subprocess.Popen([TANDEM, "pull", "anna/Tiny-GGUF:Q8_0"], env=ENV, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        part = store("anna--tiny--q8_0", "Tiny.Q8_0.gguf.part")
        end = time.monotonic() + 20
        while not (os.path.exists(part) and os.path.getsize(part) > 200000):
            assert time.monotonic() < end and p.poll() is None, p.communicate()
            time.sleep(0.01)
        return p
    p = begin()
    tandem("pull", "anna/Tiny-GGUF:Q8_0", code=1, has="another tandem is working on anna/tiny:q8_0", fresh=False)
    tandem("rm", "--yes", "tiny:q8_0", code=1, has="another tandem", fresh=False)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=10)
    assert p.returncode == 1 and "the same command goes on" in err, (p.returncode, out, err)
    p = begin()
    p.kill()
    p.communicate()
    log.clear()
    tandem("pull", "anna/Tiny-GGUF:Q8_0", has="going on after")
    holds("tiny:q8_0", "anna/Tiny-GGUF", "Tiny.Q8_0.gguf")
    assert ranges()[0].startswith("bytes="), ranges()
    forget("tiny")


def on_terminal(*args, typed=None, until=None):
    """What a terminal of 100 columns sees; types `typed` once `until` is there."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(TANDEM, [TANDEM, *args], dict(ENV, TERM="xterm"))
    fcntl.ioctl(fd, 0x5414, struct.pack("HHHH", 24, 100, 0, 0))  # TIOCSWINSZ
    seen, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([fd], [], [], 1)[0]:
            continue
        try:
            part = os.read(fd, 65536)
        except OSError:
            part = b""
        if not part:
            break
        seen += part
        if typed and until in seen:
            os.write(fd, typed)
            typed = None
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    return os.waitstatus_to_exitcode(status), seen.decode()


@test
def terminals_see_a_bar():
    global faults
    faults.slow = 0.1
    code, seen = on_terminal("pull", "anna/Tiny-GGUF:Q8_0")
    faults = Faults()
    assert code == 0, seen
    assert re.search(r"Tiny.Q8_0.gguf \[=+ +\] +\d+ % .* of 2.0 MB, [\d.]+ [kM]B/s, \d+ s left", seen), seen
    assert "\033[" not in seen
    lines = re.split(r"[\r\n]+", seen)
    assert max(map(len, lines)) < 100, max(lines, key=len)
    code, seen = on_terminal("rm", "tiny", typed=b"n\n", until=b"[y/N]")
    assert code == 1 and "tiny:q8_0 stays" in seen, seen
    code, seen = on_terminal("rm", "tiny", typed=b"y\n", until=b"[y/N]")
    assert code == 0 and "is removed" in seen, seen
    assert listed() == {}


# ---- what one does with them ----------------------------------------------------------------------

@test
def names_aliases_and_removal():
    tandem("ls", has="No models yet")
    assert json.loads(tandem("ls", "--json")) == {"models": [], "aliases": {}}
    tandem("pull", "anna/Tiny-GGUF")
    tandem("pull", "anna/Tiny-GGUF:Q8_0")
    tandem("pull", "bert/tiny")
    assert set(listed()) == {"anna/tiny:q4_k_m", "bert/tiny:q4_k_m", "tiny:q8_0"}, listed()
    tandem("show", "tiny", code=2, has="tiny:q8_0; say which")
    tandem("show", "tiny:q9", code=1, has="there are")
    assert "KV per token" in tandem("show", "tiny:q8_0", has="2 layers, embedding 256, 4 heads, 2 for KV")
    show = json.loads(tandem("show", "bert/tiny", "--json", "--ctx", "1024", "--kv-type", "q8_0"))
    assert show["memory"]["kv_bytes"] == 2 * 2 * (128 // 32 * 34) * 1024, show["memory"]
    tandem("show", "bert/tiny", "--kv-type", "q9", code=2, has="q9")
    tandem("show", "bert/tiny", "--template", code=1, has="no chat template")
    tandem("alias", "quick", "bert/tiny", )
    tandem("alias", has="quick -> bert/tiny:q4_k_m")
    tandem("ls", has="quick -> bert/tiny:q4_k_m")
    tandem("show", "quick", has="bert/tiny:q4_k_m")
    tandem("alias", "quick", "nothing", code=1, has="no model file")
    tandem("alias", "only-one", code=2, has="--remove")
    tandem("alias", "gone", "--remove", code=1, has="quick")
    # The name reaches the engine as a path; what is there is no whole model.
    real = os.environ.get("TANDEM_TEST_MODEL")
    tandem("check", "-m", "quick", code=1, has="tiny-Q4_K_M.gguf" if real else "no model library")
    tandem("rm", "bert/tiny", code=2, has="--yes")
    tandem("rm", "--yes", "bert/tiny", has="and its aliases")
    assert json.loads(tandem("alias", "--json")) == {}
    assert set(listed()) == {TINY4, "tiny:q8_0"}, listed()
    assert json.loads(tandem("rm", "-y", "--json", TINY4, "tiny:q8_0")) == {"removed": [TINY4, "tiny:q8_0"]}
    tandem("rm", "--yes", "tiny", code=1, has="none is pulled")
    tandem("rm", code=2, has="say which")


@test
def files_of_this_machine():
    path = DIR + "/My Model-Q8_0.gguf"
    with open(path, "wb") as f:
        f.write(gguf("mine", 20))
    tandem("pull", path, code=2, has="letters")
    os.rename(path, DIR + "/Mine.gguf")
    tandem("pull", "./Mine.gguf", code=1, has="No such file")
    tandem("pull", DIR + "/Mine.gguf", has="mine:q4_k_m: pulled")
    os.remove(DIR + "/Mine.gguf")
    tandem("show", "mine", has="SHA-256")
    with open(DIR + "/cut.gguf", "wb") as f:
        f.write(gguf("cut", 20)[:-1])
    tandem("pull", DIR + "/cut.gguf", code=1, has="cut short")
    tandem("show", DIR + "/cut.gguf", code=1, has="cut short")
    tandem("alias", "direct", DIR + "/cut.gguf")
    tandem("alias", "direct", "--remove")
    with contextlib.suppress(OSError):  # onto another file system, where there is one: copied
        other = tempfile.mkdtemp(prefix="tandem-models-", dir="/dev/shm")
        with open(other + "/far-Q4_0.gguf", "wb") as f:
            f.write(gguf("far", 20))
        tandem("pull", other + "/far-Q4_0.gguf", has="far:q4_0: pulled")
        shutil.rmtree(other)
        tandem("show", "far", has="far-Q4_0.gguf")
        forget("far")
    forget("mine")


@test
def memory_is_looked_at_first():
    tandem("pull", "anna/Tiny-GGUF")
    said = tandem("serve", "-m", "tiny", "-c", "16000000", "--listen", "127.0.0.1:0", code=1, has="--no-memory-check") \
        if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 1 << 37 else ""
    assert said == ""
    forget("tiny")


def ask_together(port, n):
    """n short answers at the same time."""
    def ask():
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": 24, "ignore_eos": True}).encode()
        request = urllib.request.Request("http://127.0.0.1:%d/v1/completions" % port, body,
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=100) as r:
            answers.append(json.load(r)["usage"]["completion_tokens"])
    answers = []
    threads = [threading.Thread(target=ask) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert answers == [24] * n, answers


def engine_takes(model, *options, together=0):
    """(KV, state) in MiB, as the engine says itself when it loads the model and answers."""
    with open(DIR + "/log", "w") as err:
        mode = "ranges" if together else "none"  # given, so that nothing is loaded to probe for it
        p = subprocess.Popen([TANDEM, "serve", "-m", model, *options, "--log-level", "debug", "--handoff",
                              mode, "--threads", "1", "--listen", "127.0.0.1:0", "--json"],
                             env=dict(ENV, TANDEM_STATE=DIR), stdout=subprocess.PIPE, stderr=err, text=True)
        signal.alarm(120)
        ready = p.stdout.readline()
        signal.alarm(0)
        if ready and together:
            ask_together(json.loads(ready)["port"], together)
        p.terminate()
        p.communicate(timeout=60)
    with open(DIR + "/log") as f:
        said = f.read()
    assert ready, said[-3000:]
    return [sum(float(x) for x in re.findall(what + r" buffer size = +([\d.]+) MiB", said)) for what in ("KV", "RS")]


@test
def memory_is_what_the_engine_takes():
    """Full attention, windows, latents, states, and several of them in one model."""
    model = os.environ.get("TANDEM_TEST_MODEL")
    if not model:
        return "SKIPPED, there is no model library"
    archs = ["llama", "gemma3", "gpt-oss", "deepseek2", "mamba2", "qwen35", "jamba", "falcon-h1", "nemotron_h",
             "minimax-01", "kimi-linear", "lfm2"]
    script = os.path.join(os.environ["TANDEM_SOURCE"], "scripts/archs.sh")
    made = subprocess.run([script, DIR + "/archs", *archs], capture_output=True, text=True, timeout=280)
    assert made.returncode == 0, made.stderr
    for file in [model] + made.stdout.split():
        for options in (["--ctx", "16384"], ["--ctx", "3000", "--kv-type", "q8_0", "--parallel", "2"]):
            if file != model and "q8_0" in options:
                continue  # their heads are too small for its blocks
            need = json.loads(tandem("show", "--json", file, *options))["memory"]
            mine = [need["kv_bytes"] / 2**20, need["state_bytes"] / 2**20]
            if file == model:
                mine[0] += need["apart_bytes"] / 2**20
            real = engine_takes(file, *options, together=2 if file == model else 0)
            assert all(abs(a - b) < 0.02 for a, b in zip(mine, real)), (file, options, mine, real)


@test
def helps():
    for name in ("pull", "ls", "show", "rm", "alias"):
        tandem(name, "--help", has="usage: tandem " + name)
        tandem(name, "--nonsense", code=2, has="--help")
    tandem("--help", has="  pull ")


try:
    for t in tests:
        log.clear()
        faults = Faults()
        skipped = t()
        left = listed()
        assert left == {}, "%s left %s" % (t.__name__, list(left))
        print("%s: %s" % (t.__name__, skipped or "ok"), flush=True)
finally:
    shutil.rmtree(DIR)
print("e2e_models: ok")
PYTHON
