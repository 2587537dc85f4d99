#!/usr/bin/env bash
# Running a server: keys, metrics, readiness, draining, logs, the file of options, the terminal, units.
# Workers hold the fake engine.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import hashlib
import os
import plistlib
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, ".")
from e2e import *

TANDEM = os.path.join(BIN, "tandem")
CONFIG = os.path.join(DIR, "config")
# Without options from the environment that runs the tests.
ENV = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
ENV["TANDEM_CONFIG"] = CONFIG
SECRET = "the quick brown fox"


def run(*args, code=0, has="", env=None, data=None):
    p = subprocess.run([TANDEM, *args], capture_output=True, text=True, timeout=60, input=data,
                       env=dict(ENV, **(env or {})))
    check(p.returncode == code, args, "ended with", p.returncode, p.stdout[-800:], p.stderr[-2000:])
    check(has in p.stdout + p.stderr, repr(has), "is not in", p.stdout[-2000:], p.stderr[-2000:])
    return p.stdout


def ask(port, path, body=None, **headers):
    """(status, text, headers)"""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request("http://127.0.0.1:%d%s" % (port, path), data,
                                     {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as r:
            return r.status, r.read().decode(), r.headers
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(), e.headers


def write(path, text, mode=0o600):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


# ---- keys -------------------------------------------------------------------------------------------------

def keys():
    path = write(DIR + "/keys", "alice inference sk-alice\nops admin sha256:%s\n" %
                 hashlib.sha256(b"sk-ops").hexdigest())
    d = Program("serve", "-m", "fake", "--listen", "0.0.0.0:0", "--api-key-file", path)
    bearer = {"Authorization": "Bearer sk-alice"}
    check(ask(d.port, "/v1/models")[0] == 401, "no key was asked for")
    check(ask(d.port, "/v1/models", **bearer)[0] == 200, "the key is not taken")
    check(ask(d.port, "/v1/models", x_api_key="sk-alice")[0] == 200, "nor as x-api-key")
    check(ask(d.port, "/metrics", **bearer)[0] == 403, "the scope is not looked at")
    check(ask(d.port, "/metrics", x_api_key="sk-ops")[0] == 200, "admin may see metrics")
    server = "127.0.0.1:%d" % d.port
    run("forget", "--server", server, code=1, has="API key")
    run("forget", "--server", server, has="on 1 node", env={"TANDEM_API_KEY": "sk-ops"})
    run("forget", "--key", "alice", "--server", server, has="on 1 node",
        env={"TANDEM_API_KEY": "sk-ops"})
    run("forget", "--key", "bob", "--server", server, code=1, has="no API key named",
        env={"TANDEM_API_KEY": "sk-ops"})
    check("sk-alice" not in log_tail(d) and "sk-ops" not in log_tail(d), log_tail(d))
    d.stop()
    os.chmod(path, 0o644)
    run("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--api-key-file", path, code=1,
        has="chmod 600")


# ---- metrics ------------------------------------------------------------------------------------------------

LINE = re.compile(r'^([a-z_:][a-z0-9_:]*)(\{(?:[a-z_]+="(?:[^"\\]|\\.)*",?)*\})? (\S+)$', re.I)


def metrics_parse(text):
    """A strict reader of the text format: {sample with labels: value}."""
    types, samples, family = {}, {}, None
    check(text.endswith("\n"), "the page does not end in a line feed")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            check(family not in types, family, "stands there twice")
            check(len(line.split(" ", 3)[3]) > 0, "no help for", family)
        elif line.startswith("# TYPE "):
            check(line.split(" ")[2] == family, "TYPE of another family", line)
            types[family] = line.split(" ")[3]
        else:
            m = LINE.match(line)
            check(m, "what is", repr(line))
            base = re.sub("_(bucket|sum|count)$", "", m[1]) if types[family] == "histogram" else m[1]
            check(base == family, line, "does not belong to", family)
            check(line.rsplit(" ", 1)[0] not in samples, "twice:", line)
            samples[line.rsplit(" ", 1)[0]] = float(m[3])
    for name, kind in types.items():
        check(kind in ("counter", "gauge", "histogram"), name, kind)
        check(kind != "counter" or name.endswith("_total"), name, "is a counter without _total")
        if kind == "histogram":
            buckets = [v for k, v in samples.items() if k.startswith(name + "_bucket")]
            check(buckets == sorted(buckets), name, "is not cumulative", buckets)
            check(buckets[-1] == samples[name + "_count"], name, "+Inf is not the count")
    return samples


def metrics():
    p = Program("node", "-m", "fake:prefill_us=300", "--listen", "127.0.0.1:0", "--name", "spark")
    d = Program("serve", "-m", "fake:prefill_us=300", "--listen", "127.0.0.1:0", "--prefill",
                "127.0.0.1:%d" % p.port, "--name", "na\"me\\with\u00e4")
    wait_for("the prefill node", node_is(d.port))
    before = metrics_parse(ask(d.port, "/metrics")[1])
    check(complete(d.port, tokens(600, 1), "hybrid")[0] == 200, "no answer")
    check(complete(d.port, tokens(6, 2), "local", 5)[0] == 200, "no answer")
    check(post(d.port, "/v1/completions", {"prompt": 7})[0] == 400, "no refusal")
    text = ask(d.port, "/metrics")[1]
    after = metrics_parse(text)

    def grown(name):
        return after[name] - before.get(name, 0)

    check(grown('tandem_requests_total{plan="hybrid",status="ok"}') == 1, text)
    check(grown('tandem_requests_total{plan="local",status="ok"}') == 1, text)
    check(grown('tandem_http_requests_total{route="/completions",status="400"}') == 1, text)
    check(grown("tandem_time_to_first_token_seconds_count") == 2, text)
    check(grown("tandem_inter_token_seconds_count") == 15 + 4, text)
    check(grown("tandem_kv_transfer_bytes_total") > 600 * 64, text)
    check(grown("tandem_kv_tail_seconds_count") == 1, text)
    check(grown("tandem_generated_tokens_total") == 21, text)
    ups = {k: v for k, v in after.items() if k.startswith("tandem_node_up{")}
    check(sorted(ups.values()) == [1, 1] and any("spark" in k for k in ups), ups)
    if shutil.which("promtool"):
        c = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        check(c.returncode == 0 and not c.stdout + c.stderr, c.stdout, c.stderr)
    else:
        print("  promtool is not here: the strict reader above has read the page")
    p.kill()
    wait_for("the node's loss", lambda: metrics_parse(ask(d.port, "/metrics")[1])[
        [k for k in ups if "spark" in k][0]] == 0)
    d.stop()


# ---- readiness and draining -----------------------------------------------------------------------------------

def readiness():
    d = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0")
    for path in ("/livez", "/readyz", "/health"):
        check(ask(d.port, path)[0] == 200, path)
    os.kill(d.worker(), signal.SIGKILL)
    wait_for("not ready", lambda: ask(d.port, "/readyz")[0] == 503)
    check(ask(d.port, "/livez")[0] == 200, "it lives")
    wait_for("ready again", lambda: ask(d.port, "/readyz")[0] == 200, 30)
    d.stop()


def long_answer(port, out, n=2000):
    def go():
        out.append(complete(port, tokens(9, 1), "local", n))
    t = threading.Thread(target=go)
    t.start()
    wait_for("tokens", lambda: [r for r in get(port, "/v1/tandem/status")[1]["requests"]
                                if r["gen_tokens"] > 0])
    return t


def drains():
    d = Program("serve", "-m", "fake:decode_us=3000", "--listen", "127.0.0.1:0")
    out = []
    t = long_answer(d.port, out, 600)
    d.p.send_signal(signal.SIGTERM)
    wait_for("no readiness", lambda: ask(d.port, "/readyz")[0] == 503)
    status, text, headers = ask(d.port, "/v1/completions", {"prompt": "x"})
    check(status == 503 and int(headers["Retry-After"]) >= 1, status, text)
    check("stopping" in text, text)
    t.join(60)
    check(out and out[0][0] == 200 and out[0][1]["usage"]["completion_tokens"] == 600, out)
    check(d.p.wait(10) == 0, "a drained server's end is not clean")


def drain_has_an_end():
    for how in ("time", "signal"):
        d = Program("serve", "-m", "fake:decode_us=20000", "--listen", "127.0.0.1:0", "--drain",
                    "1" if how == "time" else "60")
        out = []
        t = long_answer(d.port, out)
        d.p.send_signal(signal.SIGTERM)
        if how == "signal":
            wait_for("no readiness", lambda: ask(d.port, "/readyz")[0] == 503)
            time.sleep(0.5)  # signals that come at once count as one
            d.p.send_signal(signal.SIGINT)
        check(d.p.wait(20) == 0, how)
        t.join(20)
        check(out and out[0][0] >= 500, how, out)


# ---- logs ---------------------------------------------------------------------------------------------------

def logs():
    for form in ("json", "text"):
        d = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--log-format", form,
                    "--log-level", "info")
        status, text, headers = ask(d.port, "/v1/chat/completions",
                                    {"messages": [{"role": "user", "content": SECRET}],
                                     "max_tokens": 20, "temperature": 0, "user": SECRET},
                                    X_Request_Id="trace-77")
        check(status == 200 and headers["X-Request-Id"] == "trace-77", status, headers)
        answer = json.loads(text)["choices"][0]["message"]["content"]
        check(len(ask(d.port, "/livez")[2]["X-Request-Id"]) >= 16, "no id was made")
        d.stop()
        log = log_tail(d)
        check("request_id=trace-77" in log, log)
        check(SECRET not in log and answer not in log, log)
        lines = [l for l in log.splitlines() if not l.startswith("tandem:")]
        check(len(lines) >= 2, log)
        for line in lines if form == "json" else []:
            o = json.loads(line)
            check({"time", "level", "process", "module", "message"} == set(o), line)


# ---- the file of options ----------------------------------------------------------------------------------------

def config():
    path = write(CONFIG + "/tandem.ini", "[serve]\nlisten = 127.0.0.1:0\nmax-requests = 7\n"
                 "api-key = very-secret\n")
    run("config", "check", has="3 options, all right")
    shown = run("config", "show", "serve", env={"TANDEM_MAX_REQUESTS": "9", "TANDEM_NAME": "x"})
    check(re.search(r"max-requests = 9 +; environment TANDEM_MAX_REQUESTS", shown), shown)
    check(re.search(r"listen = 127.0.0.1:0 +; .*tandem.ini:2", shown), shown)
    check(re.search(r"drain = 30 +; default", shown), shown)
    check("very-secret" not in shown and "(hidden)" in shown, shown)
    told = json.loads(run("config", "show", "--json"))
    check(told["serve"]["max-requests"]["value"] == "7" and "ps" in told, told)
    bad = write(DIR + "/bad.ini", "[serve]\nmax-requests = many\n# fine\nlisen = x\n[sevre]\na = b\n"
                "[node]\nno-tiles = perhaps\nwhat is this\n")
    out = run("config", "check", bad, code=3)
    for line in (r":2: \[serve\] max-requests: \"many\" is not a whole number from 1 to 4096",
                 r":4: \[serve\] lisen: there is no such option; there are: .*listen",
                 r":6: \[sevre\] a: there is no such section; there are: .*\[serve\]",
                 r":8: \[node\] no-tiles: \"perhaps\" is not true or false",
                 r":9: this is neither"):
        check(re.search(line, out), line, "is not in", out)
    problems = json.loads(run("config", "check", bad, "--json", code=3))["problems"]
    check([p["line"] for p in problems] == [2, 4, 6, 8, 9], problems)
    run("config", "check", DIR + "/absent.ini", code=1, has="cannot read")
    run("config", code=2, has="check [FILE]")
    run("config", "show", "nothing", code=2, has="no command")
    os.unlink(path)


# ---- the terminal -------------------------------------------------------------------------------------------------

class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, *args, prefix=()):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(ENV, TERM="xterm")
            os.execvp([*prefix, TANDEM][0], [*prefix, TANDEM, *args])
        self.text, self.at = "", 0

    def until(self, what, seconds=30):
        """What came up to and with `what`, from where the last call ended."""
        end = time.monotonic() + seconds
        while what not in self.text[self.at:]:
            check(time.monotonic() < end, "no", repr(what), "in", repr(self.text[self.at:]))
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError("it ended: %r" % self.text)
        begin, self.at = self.at, self.text.index(what, self.at) + len(what)
        return self.text[begin:self.at]

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    pass
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError("it does not end: %r" % self.text[-500:])


def chat():
    rules = [{"contains": "think", "answer": "<think>hm, well</think>so it is"},
             {"contains": "long", "answer": "word " * 4000},
             {"contains": "second", "answer": "two turns"},
             {"answer": "an answer"}]
    script = write(DIR + "/script.json", json.dumps(rules))
    d = Program("serve", "-m", "fake:decode_us=2000,prefill_us=400,script=" + script, "--listen",
                "127.0.0.1:0", "--ctx", "65536")
    server = ["--server", "127.0.0.1:%d" % d.port]
    t = Terminal("chat", "--temperature", "0", *server)
    t.until("> ")
    t.type("hello\n")
    t.until("an answer")
    t.until("> ")
    t.type("please think\n")
    seen = t.until("so it is")
    check("\033[2mhm, well\033[0m" in seen, repr(seen))
    t.until("> ")
    t.type("x" * 3000 + "\n")
    t.until("reading ")
    t.until("an answer")
    t.until("> ")
    t.type("a long one\n")
    t.until("word word")
    t.type("\x03")  # stops the answer, not the program
    t.until("(stopped)")
    t.until("> ")
    t.type("/system be brief\n")
    t.until("> ")
    t.type("/help\n")
    t.until("/clear")
    t.until("> ")
    t.type("second\n")
    t.until("two turns")
    t.until("> ")
    t.type("\x03")
    t.until("Ctrl-C again leaves")
    t.until("> ")
    t.type("hello\n")  # a line in between: it takes two again
    t.until("an answer")
    t.until("> ")
    t.type("\x03")
    t.until("> ")
    t.type("\x03")
    check(t.end() == 0, t.text[-300:])
    t = Terminal("chat", *server)
    t.until("> ")
    t.type("/exit\n")
    check(t.end() == 0, t.text)
    # A line that ends with Ctrl-D is the last.
    t = Terminal("chat", *server)
    t.until("> ")
    t.type("hello")
    t.until("hello")
    t.type("\x04")
    time.sleep(0.2)  # or the terminal takes both for one
    t.type("\x04")
    t.until("an answer")
    check(t.end() == 0, t.text[-300:])
    # Ctrl-C while the program has its prompt written and waits for nothing yet: each write returns late.
    slow = ["strace", "-f", "-o", "/dev/null", "-e", "trace=write", "-e", "inject=write:delay_exit=300000"]
    if shutil.which("strace") and subprocess.run([*slow, "true"], capture_output=True).returncode == 0:
        t = Terminal("chat", *server, prefix=slow)
        t.until("> ")
        t.type("\x03")
        t.until("Ctrl-C again leaves", 10)
        t.type("\x03")
        check(t.end() == 0, t.text[-300:])
    else:
        print("  strace cannot be used here: what comes right behind a prompt is not tested", flush=True)
    # Into a pipe go the answers alone.
    out = run("chat", *server, data="please think\n/clear\nhello\n")
    check(out == "so it is\nan answer\n", repr(out))
    run("chat", "--plan", "remote", *server, data="hello\n", code=1, has="remote")
    wait_for("silence", lambda: not get(d.port, "/v1/tandem/status")[1]["requests"])
    d.stop()


# ---- units ----------------------------------------------------------------------------------------------------------

def units():
    share = os.path.join("..", "share")
    for name in ("serve", "node"):
        path = os.path.join(share, "systemd", "tandem-%s.service" % name)
        with open(path) as f:
            text = f.read()
        for wanted in ("NoNewPrivileges=yes", "ProtectSystem=strict", "DynamicUser=yes",
                       "Restart=on-failure", "ExecStart=/usr/local/bin/tandem %s " % name):
            check(wanted in text, path, "lacks", wanted)
        if shutil.which("systemd-analyze"):
            # The program is where it was built, not where it will be installed.
            local = write(os.path.join(DIR, "units", os.path.basename(path)),
                          text.replace("/usr/local/bin/tandem", os.path.abspath(TANDEM)), 0o644)
            c = subprocess.run(["systemd-analyze", "verify", "--man=no", local],
                               capture_output=True, text=True)
            said = [l for l in c.stderr.splitlines() if os.path.basename(path) in l]
            check(not said, said)
        with open(os.path.join(share, "launchd", "ai.tandem.%s.plist" % name), "rb") as f:
            plist = plistlib.load(f)
        check(plist["Label"] == "ai.tandem." + name, plist)
        check(plist["ProgramArguments"][1] == name, plist)
        check(plist["KeepAlive"] == {"SuccessfulExit": False}, plist)


for f in (units, config, keys, metrics, readiness, drains, drain_has_an_end, logs, chat):
    print(f.__name__, flush=True)
    f()
PYTHON
