"""Shared by the end-to-end tests: starts the real programs on loopback, talks to them with the
standard library, and ends everything it started."""

import atexit
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

BIN = os.environ.get("TANDEM_BIN", "build")
MODEL = os.environ.get("TANDEM_TEST_MODEL", "")
WRAP = os.environ.get("TANDEM_WRAP", "").split()  # valgrind with its options, for one
DIR = tempfile.mkdtemp(prefix="tandem-e2e-")
started = []


def key_file():
    path = os.path.join(DIR, "cluster.key")
    if not os.path.exists(path):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write(os.urandom(32).hex() + "\n")
    return path


def log_tail(process):
    with open(process.log, errors="replace") as f:
        return f.read()[-6000:]


class Program:
    """One `tandem serve` or `tandem node`; ready when its --json line has come."""

    def __init__(self, *args, wait=60, ready=True, state=""):
        self.args = WRAP + [os.path.join(BIN, "tandem"), *args, "--json"]
        self.log = os.path.join(DIR, "log-%d" % len(started))
        env = dict(os.environ, TANDEM_KEY_FILE=key_file(), TANDEM_STATE=os.path.join(DIR, state) if state else DIR)
        self.p = subprocess.Popen(self.args, stdout=subprocess.PIPE, env=env,
                                  stderr=open(self.log, "w"), text=True, start_new_session=True)
        started.append(self)
        self.ready = json.loads(self.line(wait)) if ready else None

    def line(self, wait):
        signal.alarm(wait)
        text = self.p.stdout.readline()
        signal.alarm(0)
        if not text:
            raise AssertionError("%s ended: %s" % (self.args, log_tail(self)))
        return text

    @property
    def port(self):
        return self.ready["port"]

    def worker(self):
        """Process id of the worker this program supervises."""
        out = subprocess.run(["pgrep", "-P", str(self.p.pid)], capture_output=True, text=True)
        return int(out.stdout.split()[0]) if out.stdout.split() else None

    def kill(self, sig=signal.SIGKILL):
        try:
            os.killpg(self.p.pid, sig)
        except ProcessLookupError:
            pass

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        try:
            self.p.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("%s did not end on SIGTERM" % self.args)


def cleanup():
    """Ends everything. What a sanitizer has said in a log fails the test even if nobody asked."""
    reports = []
    for s in started:
        s.kill(signal.SIGCONT)
        s.kill()
        s.p.wait()
        text = log_tail(s)
        reports += [text] if re.search("(Address|Thread|Leak)Sanitizer:|runtime error:|ERROR SUMMARY: [1-9]", text) else []
    shutil.rmtree(DIR)
    if reports:
        print("\n".join(reports))
        sys.stdout.flush()
        os._exit(1)


atexit.register(cleanup)
signal.signal(signal.SIGTERM, lambda *a: sys.exit(1))


def tokens(n, seed, low=0, high=250):
    r = random.Random(seed)
    return [r.randrange(low, high) for _ in range(n)]


def free_ports(n):
    """The first of so many in a row, below those that the system gives to whoever asks for any."""
    while True:
        first = random.randrange(20000, 30000)
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + n):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return first
            except OSError:
                continue


def post(port, path, body, timeout=120):
    """(status, decoded JSON); errors of the server are answers too."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request("http://127.0.0.1:%d%s" % (port, path), data,
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read() or b"{}")


def get(port, path, timeout=10):
    try:
        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (port, path), timeout=timeout) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read() or b"{}")


def complete(port, prompt, plan, gen=16, **more):
    body = dict({"prompt": prompt, "max_tokens": gen, "temperature": 0, "ignore_eos": True,
                 "cache_prompt": False, "store": False, "tandem": {"plan": plan}}, **more)
    return post(port, "/v1/completions", body)


def wait_for(what, test, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = test()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("waited %d s for %s" % (seconds, what))


def nodes(port, role):
    return [n for n in get(port, "/v1/tandem/status")[1]["nodes"] if n["role"] == role]


def node_is(port, state="up"):
    """A test for wait_for: the gateway's first prefill node is in that state."""
    return lambda: [n for n in nodes(port, "prefill")[:1] if n["state"] == state]


def wait_measured(port, seconds=120):
    """Until all nodes have measured themselves, which they do while nobody asks anything of them."""
    def known():
        return all((n.get("profile") or {}).get("measured") for n in get(port, "/v1/tandem/status")[1]["nodes"])
    wait_for("nodes that know themselves", known, seconds)


def check(condition, *what):
    if not condition:
        raise AssertionError(" ".join(str(w) for w in what))
