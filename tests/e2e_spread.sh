#!/usr/bin/env bash
# A model whose layers lie on three machines: the answer, who listens where, who is refused, and what happens when
# a lender dies, is full, has another key, or says nonsense.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import atexit
import socket
import struct
import sys
import threading

sys.path.insert(0, ".")
from e2e import *

SMALL = ("--threads", "1", "--ctx", "512", "--parallel", "2")
ASK = {"prompt": "The three largest cities of Italy are", "max_tokens": 16, "temperature": 0, "cache_prompt": False}


def serve(*args, **more):
    return Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", *SMALL, *args, **more)


def lender(memory="1G", port=0):
    return Program("node", "--lend", memory, "--listen", "127.0.0.1:%d" % port, "--threads", "1")


def at(*nodes):
    return ",".join("127.0.0.1:%d" % n.port for n in nodes)


def text(s):
    status, body = post(s.port, "/v1/completions", ASK)
    check(status == 200, status, body)
    return body["choices"][0]["text"]


def said(process, words):
    return lambda: words in log_tail(process)


def local(s):
    return nodes(s.port, "decode")[0]


def listens(pid):
    """Where a process listens, as (address, port); of its own sockets alone."""
    inodes = set()
    for fd in os.listdir("/proc/%d/fd" % pid):
        try:
            inodes.add(os.readlink("/proc/%d/fd/%s" % (pid, fd)))
        except FileNotFoundError:
            pass
    found = []
    for table in ("tcp", "tcp6"):
        for line in open("/proc/%d/net/%s" % (pid, table)).readlines()[1:]:
            w = line.split()
            if w[3] == "0A" and "socket:[%s]" % w[9] in inodes:
                found.append((w[1].split(":")[0], int(w[1].split(":")[1], 16)))
    return found


def cpu_ticks(pid):
    if sys.platform != "linux":
        return time.monotonic()
    w = open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()
    return int(w[11]) + int(w[12])


# For some quantised weights the processor has a faster layout, which is not used for what others compute here; it
# rounds otherwise. F16 has only one.
Q4, MODEL = MODEL, os.path.join(DIR, "F16.gguf")
subprocess.run([os.path.join(BIN, "tandem-worker"), "quantize", Q4, MODEL, "F16"], check=True, timeout=120)

# Three machines with ten layers each write what one writes that has them all, and a hand-off reaches all three.
# Nobody listens where nobody should.
a, b = lender(), lender()
p = Program("node", "-m", MODEL, "--listen", "127.0.0.1:0", "--handoff", "ranges", *SMALL)
s = serve("--spread", at(a, b), "--tensor-split", "1,1,1", "--handoff", "ranges", "--prefill", at(p))
told = local(s)["spread"]
check(told.startswith("10 of 30 layers here, 10 on ") and at(b) in told, told)
wait_for("the other node", node_is(s.port))
said_by = {}
for plan in ("remote", "local", "hybrid"):
    status, body = complete(s.port, tokens(90, "p", 1000, 30000), plan, gen=8)
    check(status == 200 and body["timings"]["plan"] == plan and not body["timings"]["fallback"], body)
    said_by[plan] = body["choices"][0]["text"]
check(said_by["remote"] == said_by["local"] == said_by["hybrid"] != "", said_by)
p.stop()
before = cpu_ticks(a.worker()), cpu_ticks(b.worker())
text(s)
check(cpu_ticks(a.worker()) > before[0] and cpu_ticks(b.worker()) > before[1], "a lender did nothing")
ps = subprocess.run([os.path.join(BIN, "tandem"), "ps", "--server", "http://127.0.0.1:%d" % s.port],
                    capture_output=True, text=True).stdout
check("spread: 10 of 30 layers here" in ps, ps)
if sys.platform == "linux":
    check(listens(s.worker()) == [], "the borrower listens on", listens(s.worker()))
    for node in (a, b):
        check(listens(node.worker()) == [("0100007F", node.port)], "a lender listens on", listens(node.worker()))

# What is lent is lent: another model waits until it is given back.
MODEL = Q4
waits = serve("--spread", at(a), "--tensor-split", "1,1", ready=False)
wait_for("the refusal", said(waits, "in use by another model"))
s.stop()
waits.ready = json.loads(waits.line(60))
s = waits
whole = text(s)

# A lender dies: in the middle of an answer, and while nothing is asked.
answers = []
LONG = dict(ASK, max_tokens=64, ignore_eos=True)
asking = threading.Thread(target=lambda: answers.append(post(s.port, "/v1/completions", LONG)))
asking.start()
wait_for("the request", lambda: [r for r in get(s.port, "/v1/tandem/status")[1]["requests"] if r["gen_tokens"] > 3])
os.kill(a.worker(), signal.SIGKILL)
asking.join(120)
check(not asking.is_alive() and answers[0][0] == 502, answers, log_tail(s))
check(answers[0][1]["error"]["code"] == "worker_died", answers)
check("which holds a part of the model, is gone" in log_tail(s), log_tail(s))
wait_for("the server to be back", lambda: get(s.port, "/readyz")[0] == 200, 30)
check(text(s) == whole, "after the lender's death")
worker = s.worker()
os.kill(a.worker(), signal.SIGKILL)
wait_for("the loss to be noticed", lambda: s.worker() not in (worker, None), 30)
wait_for("the server to be back", lambda: get(s.port, "/readyz")[0] == 200, 30)

# The machine is switched off, and on again.
port = a.port
a.stop()
refused = "cannot spread the model to 127.0.0.1:%d: cannot connect" % port
wait_for("the address", lambda: refused in (local(s)["why"] or ""), 60)
check(get(s.port, "/readyz")[0] == 503, "ready without a lender")
a = lender(port=port)
wait_for("the server to be back", lambda: get(s.port, "/readyz")[0] == 200, 60)
check(text(s) == whole, "after the lender came back")
s.stop()


def fails(words, *args, **env):
    """`tandem serve` ends by itself, with these words."""
    with open(os.path.join(DIR, "fails"), "w") as log:
        p = subprocess.run([os.path.join(BIN, "tandem"), "serve", "-m", MODEL, "--listen", "127.0.0.1:0", *SMALL,
                            *args], env=dict(os.environ, TANDEM_KEY_FILE=key_file(), TANDEM_STATE=DIR, **env),
                           stdout=log, stderr=log, timeout=60)
    output = open(os.path.join(DIR, "fails")).read()
    check(p.returncode in (1, 2) and words in output, args, p.returncode, output)


# Too little memory, another key, a port that lends nothing, and options that cannot be.
little = lender("16M")
fails("can be set with --tensor-split", "--spread", at(little), "--tensor-split", "1,9")
check("MiB that are lent are taken" in log_tail(little), log_tail(little))
with open(os.open(os.path.join(DIR, "other.key"), os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
    f.write(os.urandom(32).hex() + "\n")
fails("another cluster key", "--spread", at(a), "--key-file", os.path.join(DIR, "other.key"))
check(a.worker() and b.worker(), "a stranger ended a lender")
node = Program("node", "-m", "fake", "--listen", "127.0.0.1:0")
fails("lends no memory", "--spread", at(node))
fails("--tensor-split must have 2 shares", "--spread", at(a), "--tensor-split", "1,1,1")
fails("--spread, which is missing", "--tensor-split", "1,1")
fails("is for one model", "-m", "fake", "--spread", at(a))
s = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--prefill", at(a))
wait_for("the words", lambda: "lends memory to --spread" in (nodes(s.port, "prefill")[0]["why"] or ""))
s.stop()
node.stop()
little.stop()
b.stop()
a.stop()

# Without a key, which only loopback may be, and with words of our own making.
PLAIN = {k: v for k, v in os.environ.items() if k != "TANDEM_KEY_FILE"}
PLAIN.update(TANDEM_CONFIG=os.path.join(DIR, "nothing"), TANDEM_STATE=DIR)
p = subprocess.Popen([os.path.join(BIN, "tandem"), "node", "--lend", "64M", "--listen", "127.0.0.1:0", "--json"],
                     stdout=subprocess.PIPE, stderr=open(os.path.join(DIR, "plain"), "w"), text=True, env=PLAIN)
atexit.register(p.kill)  # its worker ends with it
port = json.loads(p.stdout.readline())["port"]


def frame(kind, head):
    head = json.dumps(head).encode()
    return struct.pack("<IHHQII", 0x314d4454, kind, 0, 0, len(head), 0) + head


def exact(c, n):
    data = b""
    while len(data) < n:
        more = c.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def answer(c):
    kind, head = struct.unpack("<IHHQII", exact(c, 24))[1::3]
    return kind, json.loads(exact(c, head))


def hello(**more):
    while True:
        c = socket.create_connection(("127.0.0.1", port), 10)
        c.sendall(frame(1, dict({"version": 2, "role": "spread", "name": "test", "build": "test"}, **more)))
        kind, told = answer(c)
        if "is loading" not in told.get("message", ""):
            return c, (kind, told)
        time.sleep(0.05)


c, (kind, told) = hello(engine="llama.cpp 9.9.9, rpc 1.0.0")
check(kind == 3 and told["code"] == "mismatch" and "9.9.9" in told["message"] and "here" in told["message"], told)
mine = told["message"].split(" here")[0]
for more, code in (({"engine": mine, "version": 99}, "mismatch"), ({"engine": mine, "role": "emperor"}, "invalid"),
                   ({"engine": 3}, "invalid"), ({"engine": mine, "role": "gateway"}, "unsupported")):
    c, (kind, told) = hello(**more)
    check(kind == 3 and told["code"] == code, more, told)
child = int(subprocess.run(["pgrep", "-P", str(p.pid)], capture_output=True, text=True).stdout)
for nonsense in (b"\x0e" + struct.pack("<Q", 2**63), b"\x0e" + struct.pack("<Q", 24) + bytes(24) + b"\xff" * 64,
                 b"\x0e" + struct.pack("<Q", 24) + bytes(24) + b"\x06" + struct.pack("<Q", 2**40), b"\x00" * 500, b""):
    c, (kind, told) = wait_for("the lender to be free", lambda: (lambda r: r if r[1][0] == 2 else None)(hello(engine=mine)))
    check(told["memory_bytes"] == 64 << 20, told)
    try:
        c.sendall(nonsense)
        c.shutdown(socket.SHUT_WR)
        while c.recv(4096):
            pass
    except OSError:  # it has hung up already
        pass
os.kill(child, 0)  # it is the same process still

# A lender of another release, and one that is no lender: the server says so and ends.
listener = socket.create_server(("127.0.0.1", 0))


def impostor(reply):
    c, _ = listener.accept()
    answer(c)
    c.sendall(reply)


for reply, words in ((frame(2, {"version": 2, "name": "x", "engine": "llama.cpp 9.9.9, rpc 1.0.0", "memory_bytes": 1 << 30}),
                      "llama.cpp 9.9.9, rpc 1.0.0 there"),
                     (frame(2, {"version": 2, "name": "x"}), "it lends no memory"),
                     (frame(2, {"version": 2, "memory_bytes": "much"}), "memory_bytes")):
    threading.Thread(target=impostor, args=(reply,), daemon=True).start()
    r = subprocess.run([os.path.join(BIN, "tandem"), "serve", "-m", MODEL, "--listen", "127.0.0.1:0", *SMALL,
                        "--spread", "127.0.0.1:%d" % listener.getsockname()[1]], capture_output=True, text=True,
                       env=PLAIN, timeout=60)
    check(r.returncode == 1 and words in r.stderr, words, r.returncode, r.stderr)
p.terminate()
p.wait(10)
PYTHON
