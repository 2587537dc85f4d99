#!/usr/bin/env bash
# Nodes that join, leave, drain, hang, die and are cut off while the server runs, as real processes.
set -euo pipefail
cd "$(dirname "$0")"
PATH=$PATH:/usr/sbin:/sbin # where ip lies
if [ -z "${TANDEM_FLEET_ALONE:-}" ] && unshare -rn true 2>/dev/null && command -v ip >/dev/null; then
    export TANDEM_FLEET_ALONE=1
    exec unshare -rn "./$(basename "$0")" "$@"
fi
exec python3 - <<'PYTHON'
import os
import signal
import subprocess
import sys
import threading

sys.path.insert(0, ".")
from e2e import *

ALONE = os.environ.get("TANDEM_FLEET_ALONE")
SLOW = "fake:prefill_us=1000"  # a prompt of 1500 tokens takes 1.5 s
if ALONE:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def tandem(port, *args, code=0):
    """`tandem nodes ...` against a server; its output."""
    r = subprocess.run([os.path.join(BIN, "tandem"), "nodes", *args, "--server",
                        "127.0.0.1:%d" % port], capture_output=True, text=True, timeout=60)
    check(r.returncode == code, args, r.returncode, r.stdout, r.stderr)
    return r.stdout + r.stderr


def node(name, port=0, model=SLOW):
    return Program("node", "-m", model, "--listen", "127.0.0.1:%d" % port, "--name", name)


def serve(port=0, *args):
    return Program("serve", "-m", SLOW, "--listen", "127.0.0.1:%d" % port, "--name", "D",
                   "--stall", "1", *args)


def state(d, address):
    found = [n for n in nodes(d.port, "prefill") if n["address"] == address]
    return found[0]["state"] if found else "gone"


def await_state(d, address, *wanted, seconds=30):
    wait_for("%s to be %s" % (address, " or ".join(wanted)), lambda: state(d, address) in wanted, seconds)


def hybrid(d, seed, fallback=False, n=400):
    status, answer = complete(d.port, tokens(n, seed), "hybrid", 4)
    check(status == 200, answer)
    t = answer["timings"]
    check((t["fallback"] is not None) == fallback, t)
    return t


def joins_and_leaves():
    """By the command, kept over a restart, refused in words."""
    p = node("P")
    address = "127.0.0.1:%d" % p.port
    d = serve(free_ports(1))
    hybrid(d, 1, fallback=True)
    tandem(d.port, "add", address)
    await_state(d, address, "up")
    check(hybrid(d, 2)["prefill_node"] == "P", "not read by the node")
    wait_for("the round trip", lambda: nodes(d.port, "prefill")[0]["link_rtt_s"])
    out = tandem(d.port)
    check(address in out and "added" in out and "up" in out, out)
    check("is a node already" in tandem(d.port, "add", address, code=1), "added twice")
    check("did you mean \"remove\"" in tandem(d.port, "remov", address, code=2), "no advice")
    check("say which node" in tandem(d.port, "drain", code=2), "no advice")
    check("there is no node" in tandem(d.port, "drain", "nowhere", code=1), "drained nobody")
    check(len(json.loads(tandem(d.port, "--json"))["data"]) == 2, "not listed")
    node_id = nodes(d.port, "prefill")[0].get("node_id")
    d.stop()
    d = serve(d.port)
    await_state(d, address, "up")
    check(nodes(d.port, "prefill")[0].get("node_id") == node_id, "another id after a restart")
    check("draining" in tandem(d.port, "drain", "P"), "not drained")
    hybrid(d, 3, fallback=True)
    check("up" in tandem(d.port, "resume", "P"), "not resumed")
    hybrid(d, 4)
    check("removed" in tandem(d.port, "remove", address), "not removed")
    check(state(d, address) == "gone", "still there")
    d.stop()
    d = serve(d.port)
    check(not nodes(d.port, "prefill"), "a removed node came back")
    d.stop()
    p.stop()
    print("joins and leaves: ok")


def in_background(d, n, seed):
    answers = []
    t = threading.Thread(target=lambda: answers.append(complete(d.port, tokens(n, seed), "hybrid", 4)))
    t.start()
    wait_for("the prompt to be read", lambda: [
        r for r in get(d.port, "/v1/tandem/status")[1]["requests"] if r["read_tokens"] > 0])
    return lambda: (t.join(), answers[0])[1]


def unhurt(answer):
    status, body = answer
    if body["timings"]["fallback"]:
        for s in started[-3:]:
            print(s.args, log_tail(s), sep="\n")
    check(status == 200 and body["timings"]["plan"] == "hybrid", body)
    check(body["timings"]["fallback"] is None, body["timings"])


def ends_what_it_has():
    """Removed, or told to stop, while it reads a prompt: that prompt is read to its end."""
    p = node("P")
    port, address = p.port, "127.0.0.1:%d" % p.port
    d = serve(0, "--prefill", address)
    await_state(d, address, "up")
    end = in_background(d, 1500, 10)
    p.p.send_signal(signal.SIGTERM)
    await_state(d, address, "draining", "down")  # down: it was quick
    hybrid(d, 11, fallback=True)
    unhurt(end())
    check(p.p.wait(10) == 0, "the node's exit code")
    await_state(d, address, "down")
    p = node("P", port)
    await_state(d, address, "up")
    end = in_background(d, 1500, 12)
    check("leaving" in tandem(d.port, "remove", address, "--no-wait"), "it did not say so")
    check(state(d, address) == "draining", "not draining")
    unhurt(end())
    wait_for("the node to be gone", lambda: state(d, address) == "gone")
    tandem(d.port, "add", address)
    await_state(d, address, "up")
    end = in_background(d, 1500, 13)
    tandem(d.port, "remove", address, "--force")
    status, body = end()
    check(status == 200 and body["timings"]["fallback"], body)
    # A second signal does not wait.
    tandem(d.port, "add", address)
    await_state(d, address, "up")
    end = in_background(d, 1500, 14)
    p.p.send_signal(signal.SIGTERM)
    await_state(d, address, "draining", "down")  # down: it was quick
    time.sleep(0.4)  # what comes at once with the first signal is taken for the same
    p.p.send_signal(signal.SIGTERM)
    p.p.wait(5)
    check(end()[0] == 200, "the answer was lost")
    d.stop()
    print("ends what it has: ok")


def comes_back():
    """Hung, killed: out within seconds, and back when it answers."""
    p = node("P")
    port, address = p.port, "127.0.0.1:%d" % p.port
    d = serve(0, "--prefill", address)
    await_state(d, address, "up")
    p.kill(signal.SIGSTOP)
    await_state(d, address, "down")
    hybrid(d, 20, fallback=True)
    p.kill(signal.SIGCONT)
    await_state(d, address, "up")
    hybrid(d, 21)
    p.kill()
    await_state(d, address, "down")
    p = node("P", port)
    await_state(d, address, "up")
    hybrid(d, 22)
    d.stop()
    p.stop()
    print("comes back: ok")


def any_pair():
    """One node reads, another one writes; and what happens where the one cannot reach the other."""
    p, q = node("P"), node("Q")
    d = serve(0, "--prefill", "127.0.0.1:%d" % p.port, "--prefill", "127.0.0.1:%d" % q.port)
    wait_for("both nodes", lambda: all(n["state"] == "up" for n in nodes(d.port, "prefill")))

    def ask(seed, prefill="P", decode="Q", gen=8):
        status, answer = complete(d.port, tokens(600, seed), "hybrid", gen, tandem={
            "plan": "hybrid", "prefill_node": prefill, "decode_node": decode})
        check(status == 200, answer)
        return answer["choices"][0]["text"], answer["timings"]

    text, t = ask(50)
    check(t["prefill_node"] == "P" and t["decode_node"] == "Q" and t["fallback"] is None, t)
    check(text == complete(d.port, tokens(600, 50), "local", 8)[1]["choices"][0]["text"], "differs")
    text, t = ask(51, "Q", "P")
    check(t["prefill_node"] == "Q" and t["decode_node"] == "P" and t["fallback"] is None, t)
    # Another way to P, which leads nowhere: the answer is whole, and the pair is left alone.
    closed = free_ports(1)
    tandem(d.port, "remove", "P")
    p.stop()
    p = Program("node", "-m", SLOW, "--listen", "127.0.0.1:0", "--name", "P", "--advertise",
                "127.0.0.1:%d" % closed)
    tandem(d.port, "add", "127.0.0.1:%d" % p.port)
    await_state(d, "127.0.0.1:%d" % p.port, "up")
    text, t = ask(52)
    check("127.0.0.1:%d" % closed in t["fallback"], t)
    check(text == complete(d.port, tokens(600, 52), "local", 8)[1]["choices"][0]["text"], "differs")
    text, t = ask(53)
    check((t["prefill_node"], t["decode_node"]) != ("P", "Q") and t["fallback"], t)
    check("have no way to each other: Q could not reach it" in t["fallback"], t)
    for s in (p, q, d):
        s.stop()
    print("any pair: ok")


def cable_cut():
    """A link that is down: nothing is heard, and nothing says why."""
    if not ALONE:
        print("cable cut: SKIPPED, it needs a network namespace and ip")
        return
    other = subprocess.Popen(["unshare", "-n", "sleep", "1000"])
    try:
        wait_for("another namespace", lambda: os.readlink("/proc/%d/ns/net" % other.pid) !=
                 os.readlink("/proc/self/ns/net"))
        inside = ["nsenter", "-t", str(other.pid), "-n"]
        for words in ("link add cut0 type veth peer name cut1 netns %d" % other.pid,
                      "address add 10.77.0.1/24 dev cut0", "link set cut0 up"):
            subprocess.run(["ip"] + words.split(), check=True)
        for words in ("address add 10.77.0.2/24 dev cut1", "link set cut1 up", "link set lo up"):
            subprocess.run(inside + ["ip"] + words.split(), check=True)
        import e2e
        e2e.WRAP = inside + e2e.WRAP
        p = Program("node", "-m", SLOW, "--listen", "10.77.0.2:7077", "--name", "P")
        e2e.WRAP = e2e.WRAP[len(inside):]
        d = serve(0, "--prefill", "10.77.0.2")
        await_state(d, "10.77.0.2:7077", "up")
        hybrid(d, 30)
        end = in_background(d, 1500, 31)
        subprocess.run(["ip", "link", "set", "cut0", "down"], check=True)
        await_state(d, "10.77.0.2:7077", "down")
        status, body = end()
        check(status == 200 and body["timings"]["fallback"], body)
        subprocess.run(["ip", "link", "set", "cut0", "up"], check=True)
        await_state(d, "10.77.0.2:7077", "up", seconds=40)
        hybrid(d, 32)
        d.stop()
        p.stop()
    finally:
        other.kill()
        other.wait()
    print("cable cut: ok")


def advertises():
    """What a node says of itself is checked, and told."""
    p = Program("node", "-m", SLOW, "--listen", "127.0.0.1:0", "--advertise", "10.0.0.7:7000")
    d = serve(0, "--prefill", "127.0.0.1:%d" % p.port, "--policy", "cost")
    check("no price is known" in log_tail(d), "no warning", log_tail(d))
    wait_for("the node", node_is(d.port))
    check(nodes(d.port, "prefill")[0]["advertise"] == "10.0.0.7:7000", nodes(d.port, "prefill"))
    hybrid(d, 40)  # the server's own worker goes where the server went
    d.stop()
    p.stop()
    for wrong in (":7077", "a b", "spark:99999"):
        r = subprocess.run([os.path.join(BIN, "tandem"), "node", "-m", "fake", "--advertise", wrong],
                           capture_output=True, text=True, timeout=20)
        check(r.returncode == 2 and "--advertise" in r.stderr, wrong, r.returncode, r.stderr)
    print("advertises: ok")


def has_roles():
    """One reads and one writes, because they were started so; what that costs."""
    p = Program("node", "-m", SLOW, "--listen", "127.0.0.1:0", "--name", "P", "--role", "read", "--price", "2")
    d = serve(0, "--prefill", "127.0.0.1:%d" % p.port, "--role", "write", "--price", "1")
    wait_for("the node", node_is(d.port))
    out = tandem(d.port)
    check(" read " in out and " write " in out, out)
    for n, plan in ((40, "local"), (700, "hybrid")):
        t = complete(d.port, tokens(n, n), None, 4)[1]["timings"]
        check(t["plan"] == plan and t["fallback"] is None, n, t)
    r = subprocess.run([os.path.join(BIN, "tandem"), "explain", "--prompt-tokens", "100", "--policy", "cost", "--server",
                        "127.0.0.1:%d" % d.port], capture_output=True, text=True, timeout=20)
    check(r.returncode == 0 and "$/1000" in r.stdout and "cheapest" in r.stdout, r.stdout, r.stderr)
    check("both" in tandem(d.port, "role", "P", "both"), "not changed")
    check("what it is there for" in tandem(d.port, "role", "P", code=2), "no advice")
    check("read, write or both" in tandem(d.port, "role", "P", "sing", code=1), "took a role that is none")
    check(nodes(d.port, "prefill")[0]["does"] == "both", nodes(d.port, "prefill"))
    d.stop()
    p.stop()
    for command in ("node", "serve"):
        r = subprocess.run([os.path.join(BIN, "tandem"), command, "-m", "fake", "--role", "sing"],
                           capture_output=True, text=True, timeout=20)
        check(r.returncode == 2 and "read, write or both" in r.stderr, command, r.returncode, r.stderr)
    print("has roles: ok")


def explains():
    """A plan that splits says where, and who cannot be asked is named."""
    p = Program("node", "-m", "fake:prefill_us=50", "--listen", "127.0.0.1:0", "--name", "P", "--ctx", "2048")
    d = serve(0, "--prefill", "127.0.0.1:%d" % p.port)
    wait_for("the node", node_is(d.port))

    def told(*more):
        r = subprocess.run([os.path.join(BIN, "tandem"), "explain", "--prompt-tokens", "3000", "--answer-tokens", "4",
                            "--server", "127.0.0.1:%d" % d.port, *more], capture_output=True, text=True, timeout=20)
        check(r.returncode == 0, r.stdout, r.stderr)
        return r.stdout

    split = [row["upto"] for row in json.loads(told("--json"))["plans"] if row["plan"] == "hybrid"]
    check(len(split) == 1 and 0 < split[0] <= 2048, split)  # P has no room for more
    check("  split at " in told() and "without" not in told(), told())
    tandem(d.port, "drain", "P")
    check("\nwithout P: draining" in told() and "split" not in told(), told())
    d.stop()
    p.stop()
    print("explains: ok")


joins_and_leaves()
explains()
has_roles()
ends_what_it_has()
comes_back()
advertises()
any_pair()
cable_cut()
print("e2e_fleet: all passed")
PYTHON
