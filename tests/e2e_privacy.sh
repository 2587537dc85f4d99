#!/usr/bin/env bash
# Nothing leaves the machine: in a network namespace that has loopback alone everything works, nobody
# connects to an address that was not configured, files are the owner's alone, and what is not to be kept
# is not kept.
set -euo pipefail
cd "$(dirname "$0")"
../scripts/deps.sh clients
if ! unshare -rn true 2>/dev/null; then
    echo "skipped: this machine does not permit network namespaces"
    exit 77
fi
exec unshare -rn python3 - <<'PYTHON'
import errno
import re
import socket
import stat
import sys

sys.path[:0] = [".", "clients"]
import e2e
import loopback
from e2e import *

TANDEM = os.path.join(BIN, "tandem")
HOME = os.path.join(DIR, "home")
SECRET = "periwinkle"
for name in [n for n in os.environ if n.startswith(("TANDEM_", "XDG_")) or n.lower().endswith("_proxy")]:
    del os.environ[name]
os.environ["HOME"] = HOME
os.mkdir(HOME, 0o755)
os.umask(0o022)


def nothing_else_is_there():
    check(loopback.alone(), socket.if_nameindex())
    with socket.socket() as s:
        code = s.connect_ex(("192.0.2.1", 80))
    check(code == errno.ENETUNREACH, "another machine is in reach:", errno.errorcode.get(code))


class Traced(Program):
    """A program with a trace of the addresses that it and its children connect or send to."""

    def __init__(self, *args):
        self.trace = os.path.join(DIR, "trace-%d" % len(started))
        e2e.WRAP = trace_to(self.trace)
        super().__init__(*args)
        e2e.WRAP = []

    def stop(self):
        pid = self.worker()  # the one child of strace: tandem itself
        os.kill(pid, signal.SIGTERM)
        self.p.wait(20)


def trace_to(path):
    return ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", path]


def addresses(trace):
    """What was addressed, ("inet", host, port) or ("unix", path); the kernel itself aside."""
    with open(trace) as f:
        text = f.read()
    found = set()
    for port, host in re.findall(r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]*)"\)', text):
        found.add(("inet", host, int(port)))
    for port, host in re.findall(r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]*)"', text):
        found.add(("inet", host, int(port)))
    for path in re.findall(r'sun_path=(@?"[^"]*")', text):
        found.add(("unix", path))
    known = len(re.findall(r"sa_family=AF_(?:INET6?|UNIX|NETLINK)", text))
    check(known == text.count("sa_family="), "an address of another family:", text[-2000:])
    return found


def outside(trace):
    """The same without the system's own responder, which a server of paired machines asks who else is at home."""
    return {a for a in addresses(trace) if not (a[0] == "unix" and a[1].endswith('/dbus/system_bus_socket"'))}


def the_trace_sees():
    """The control: an address that nobody configured would be found."""
    trace = os.path.join(DIR, "trace-control")
    program = "import socket; socket.socket().connect_ex(('192.0.2.1', 80)); " \
              "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))"
    subprocess.run(trace_to(trace) + [sys.executable, "-c", program], check=True)
    check({("inet", "192.0.2.1", 80), ("inet", "127.0.0.1", 53)} <= addresses(trace), addresses(trace))


def run(*args):
    p = subprocess.run([TANDEM, *args], capture_output=True, text=True, timeout=120)
    check(p.returncode == 0, args, p.returncode, p.stdout[-500:], p.stderr[-1500:])
    return p.stdout


def pair_answers(model, prompt):
    p = Traced("node", "-m", model, "--listen", "127.0.0.1:0", "--name", "P", "--threads", "1")
    d = Traced("serve", "-m", model, "--listen", "127.0.0.1:0", "--name", "D", "--threads", "1", "--prefill",
               "127.0.0.1:%d" % p.port)
    wait_for("the prefill node", node_is(d.port), 60)
    for plan in ("local", "remote", "hybrid"):
        status, a = complete(d.port, prompt, plan)
        check(status == 200 and a["timings"]["plan"] == plan and not a["timings"]["fallback"], plan, a)
    server = "http://127.0.0.1:%d" % d.port
    check("P" in run("ps", "--server", server), "ps")
    trace = os.path.join(DIR, "trace-chat")
    chat = subprocess.run(trace_to(trace) + [TANDEM, "chat", "--server", server, "--max-tokens", "5", SECRET],
                          capture_output=True, text=True, timeout=120)
    check(chat.returncode == 0, chat)
    check(addresses(trace) == {("inet", "127.0.0.1", d.port)}, "chat addressed", addresses(trace))
    d.stop()
    p.stop()
    check(outside(d.trace) <= {("inet", "127.0.0.1", p.port)}, "serve addressed", addresses(d.trace))
    check(("inet", "127.0.0.1", p.port) in addresses(d.trace), "the trace of serve is empty")
    check(addresses(p.trace) == set(), "node addressed", addresses(p.trace))
    for x in (d, p):
        with open(x.log) as f:
            check(SECRET not in f.read(), "a log has the prompt")


def upstream_answers():
    """A gateway with an upstream server speaks to that address alone, whatever the environment says of proxies."""
    u = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0")
    os.environ["http_proxy"] = "http://192.0.2.1:8"
    d = Traced("serve", "--listen", "127.0.0.1:0", "--upstream", "u=http://127.0.0.1:%d" % u.port)
    del os.environ["http_proxy"]
    wait_for("the upstream server", lambda: nodes(d.port, "upstream")[0]["state"] == "up", 60)
    status, a = complete(d.port, SECRET, "remote")
    check(status == 200 and a["timings"]["decode_node"] == "u", status, a)
    d.stop()
    u.stop()
    check(outside(d.trace) == {("inet", "127.0.0.1", u.port)}, "addressed", addresses(d.trace))
    with open(d.log) as f:
        check(SECRET not in f.read(), "the log has the prompt")


def commands_work():
    for args in (["pair", "new"], ["--version"], ["ls"], ["config", "show"]):
        run(*args)
    run("bench", "-m", "fake", "--prompt", "300", "--gen", "2", "--runs", "1", "--unpaced-runs", "0", "--time-scale", "1",
        "--json")


def pull_alone_wants_more():
    p = subprocess.run([TANDEM, "pull", "nobody/nothing"], capture_output=True, text=True, timeout=120, env=dict(
        os.environ, HF_ENDPOINT="http://192.0.2.1:9"))
    check(p.returncode != 0 and "192.0.2.1" in p.stderr, p)


def cached(port, prompt, key="", **more):
    """Tokens of the prompt that were remembered."""
    body = dict({"prompt": prompt, "max_tokens": 2, "temperature": 0}, **more)
    request = urllib.request.Request("http://127.0.0.1:%d/v1/completions" % port, json.dumps(body).encode(),
                                     {"Authorization": "Bearer " + key})
    with urllib.request.urlopen(request, timeout=60) as r:
        return json.load(r)["usage"]["prompt_tokens_details"]["cached_tokens"]


def nothing_is_kept():
    d = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0")
    a, b = tokens(300, 1), tokens(300, 2)
    check([cached(d.port, a, store=False), cached(d.port, a, store=False)] == [0, 0], "store: false was stored")
    check(cached(d.port, b) == 0 and cached(d.port, b) > 250, "prefix memory remembers nothing, so this shows nothing")
    run("forget", "--server", "http://127.0.0.1:%d" % d.port)
    check(cached(d.port, b) == 0, "it was not forgotten")
    d.stop()


def owners_share_nothing():
    keys = os.path.join(DIR, "keys")
    with open(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write("ann inference sesame\nbob inference tahini\n")
    d = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--api-key-file", keys)
    a = tokens(300, 3)
    check(cached(d.port, a, "sesame") == 0 and cached(d.port, a, "sesame") > 250, "ann's own is not remembered")
    check(cached(d.port, a, "tahini") == 0, "bob can tell what ann asked")
    d.stop()


def files_are_the_owners():
    open_ = []
    ours = re.compile(r"(log|trace)-|home$|\.")  # of this test, or of the system's kind (".config")
    for folder, folders, files in os.walk(DIR):
        for name in folders + files:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if stat.S_IMODE(mode) & 0o077 and not ours.match(name):
                open_.append("%s %o" % (os.path.join(folder, name), stat.S_IMODE(mode)))
    check(not open_, "others can read", open_)


def step(f, *args):
    print(f.__name__, flush=True)
    f(*args)


loopback.up()
step(nothing_else_is_there)
step(the_trace_sees)
step(commands_work)
step(pull_alone_wants_more)
step(pair_answers, "fake", tokens(700, 3))
if MODEL:
    step(pair_answers, MODEL, tokens(400, 3, 1000, 20000))
step(upstream_answers)
step(nothing_is_kept)
step(owners_share_nothing)
step(files_are_the_owners)
PYTHON
