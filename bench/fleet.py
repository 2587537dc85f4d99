"""fleet.py: two emulated Sparks and a Mac against one Spark and a Mac. Prints JSON.

Eight requests of 4,096 tokens in and 64 out are sent at once, and the time until the last answer is complete is
taken, for three fleets of the fake engine, paced at the catalogue's rates, with real processes, TLS and links:

  one      a Spark and a Mac, over a link of 0.63 of KV time / prefill time
  two      two Sparks and a Mac, with such a link each
  shared   two Sparks and a Mac, whose one link of that rate both must share: all that they send goes through a
           relay that passes on no more

Each once with every request asked for as `hybrid` (so that fleets are compared, and not what else the Mac could have
read) and once as the gateway chooses (`auto`). The bound is what nothing can beat that leaves all
reading to the Sparks:

  max(prompts of the busiest Spark x prefill, the first 64 tokens + all KV / what the links carry) + 64 steps of the Mac

Paced time is sleep, so two cores do for four machines. ROUNDS, TINY and SVG as bench/fleet.sh says.
"""

import json
import os
import socket
import statistics
import sys
import threading
import time

import e2e
import picture

TINY = bool(os.environ.get("TINY"))
ROUNDS = int(os.environ.get("ROUNDS") or (1 if TINY else 3))
SVG = os.environ.get("SVG")
N, N_IN, N_OUT = (3, 1024, 4) if TINY else (8, 4096, 64)
FASTER = 8.0 if TINY else 1.0
LINK_RATIO = 0.63
TOKEN_BYTES = 16 * 64
MODEL = "fake:layers=16,kv_bytes=64"
FLEETS = {"one": 1, "two": 2, "shared": 2}
COLORS = {"first Spark reads": "#0072B2", "second Spark reads": "#56B4E9", "the Mac reads": "#CC79A7", "the Mac writes": "#009E73",
          "a Spark writes": "#D55E00"}


def say(what):
    print("fleet: " + what, file=sys.stderr, flush=True)


def machine(name):
    with open(os.path.join(os.environ["TANDEM_SHARE"], "catalogue", "machines.json")) as f:
        rates = [m["rates"][0] for m in json.load(f)["machines"] if m["name"] == name][0]
    return {k: rates[k] * FASTER for k in ("prefill_tokens_per_s", "decode_tokens_per_s")}


SPARK, MAC = machine("dgx-spark"), machine("mac-studio-m3-ultra")
PREFILL_S = (N_IN - 1) / SPARK["prefill_tokens_per_s"]
FIRST_S = 64 / SPARK["prefill_tokens_per_s"]  # nothing crosses before the smallest chunk is computed
STEP_S = 1 / MAC["decode_tokens_per_s"]
LINK = TOKEN_BYTES * SPARK["prefill_tokens_per_s"] / LINK_RATIO


# ---- one link that several machines share -------------------------------------------------------------------

class Relay:
    """Passes connections on to `ports`, one port of its own for each; what comes back shares one rate."""

    SLICE = 8 << 10

    def __init__(self, ports, bytes_per_s):
        self.rate, self.clear, self.lock, self.ports = bytes_per_s, 0.0, threading.Lock(), []
        for port in ports:
            s = socket.create_server(("127.0.0.1", 0))
            self.ports.append(s.getsockname()[1])
            threading.Thread(target=self.accept, args=(s, port), daemon=True).start()

    def accept(self, server, port):
        while True:
            here = server.accept()[0]
            try:
                there = socket.socket()
                # A link holds little: what it does not carry yet stays with the sender.
                there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
                there.connect(("127.0.0.1", port))
            except OSError:
                here.close()
                continue
            for s in (here, there):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.pump, args=(here, there, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(there, here, True), daemon=True).start()

    def book(self, n):
        """When these bytes have crossed. What was idle for long gives no credit."""
        with self.lock:
            now = time.monotonic()
            self.clear = max(self.clear, now - 2e-3) + n / self.rate
            return self.clear - now

    def pump(self, source, sink, shaped):
        try:
            while True:
                data = source.recv(self.SLICE if shaped else 1 << 16)
                if not data:
                    break
                wait = self.book(len(data)) if shaped else 0
                if wait > 0:
                    time.sleep(wait)
                sink.sendall(data)
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


# ---- a fleet ------------------------------------------------------------------------------------------------

def paced(rates):
    return ("--pace-prefill", str(rates["prefill_tokens_per_s"]), "--pace-decode", str(rates["decode_tokens_per_s"]))


class Fleet:
    """`state`: what a gateway learns of its nodes is that of one fleet alone."""

    def __init__(self, name, state):
        common = ("-m", MODEL, "--listen", "127.0.0.1:0", "--ctx", str(2 * N * (N_IN + N_OUT)), "--parallel", str(N))
        limit = () if name == "shared" else ("--link-rate", str(LINK))
        self.sparks = [e2e.Program("node", *common, *paced(SPARK), *limit, "--name", "spark-%d" % (i + 1), state=state)
                       for i in range(FLEETS[name])]
        ports = [s.port for s in self.sparks]
        if name == "shared":
            ports = Relay(ports, LINK).ports
        prefill = [a for port in ports for a in ("--prefill", "127.0.0.1:%d" % port)]
        self.mac = e2e.Program("serve", *common, *paced(MAC), "--name", "mac", *prefill, state=state)
        e2e.wait_for("the nodes", lambda: sum(n["state"] == "up" for n in e2e.nodes(self.mac.port, "prefill")) == len(ports), 60)
        if not TINY:
            e2e.wait_measured(self.mac.port)

    def stop(self):
        for program in (self.mac, *self.sparks):
            program.stop()


def prompt(*seed):
    return e2e.tokens(N_IN, repr(seed), 97, 123)


def ask(fleet, plan, seed, out, i):
    begun = time.monotonic()
    status, answer = e2e.complete(fleet.mac.port, prompt(seed, i), plan, N_OUT)
    out[i] = begun, time.monotonic(), status, answer


def all_at_once(fleet, plan, seed):
    """Makespan and what each answer says of itself."""
    out = [None] * N
    threads = [threading.Thread(target=ask, args=(fleet, plan, seed, out, i)) for i in range(N)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    begun = min(o[0] for o in out)
    rows = []
    for start, end, status, answer in out:
        e2e.check(status == 200, status, answer)
        t = answer["timings"]
        e2e.check(answer["usage"]["completion_tokens"] == N_OUT, answer["usage"])
        e2e.check(plan == "auto" or t["plan"] == plan and not t["fallback"], "asked for", plan, "got", t["plan"], t["fallback"])
        rows.append({"plan": t["plan"], "prefill_node": t["prefill_node"], "decode_node": t["decode_node"], "begin_s": start - begun,
                     "prefill_sent_s": t["prefill_sent_s"], "prefill_s": t["prefill_s"], "ttft_s": t["ttft_s"],
                     "end_s": end - begun, "kv_bytes": t["kv_bytes"]})
    return {"makespan_s": max(o[1] for o in out) - begun, "requests": rows}


def bound_s(name, kv_bytes):
    """Of hybrids: nothing is faster than the busiest Spark, or than the links, with the Mac's steps after it."""
    sparks = FLEETS[name]
    most = -(-N // sparks)
    links = kv_bytes / LINK if name == "shared" else kv_bytes / N * most / LINK
    return max(most * PREFILL_S, FIRST_S + links) + N_OUT * STEP_S


def measure(name, plan):
    """A fleet of its own each time: no run finds what another left behind."""
    fleet, runs = Fleet(name, "%s-%s" % (name, plan)), []
    try:
        # Links are dialled and prompts are read once before it counts; then what is learned of the machines is learned.
        for i in range(1 if TINY else 2):
            all_at_once(fleet, plan, ("warm", plan, i))
        for i in range(ROUNDS):
            runs.append(all_at_once(fleet, plan, (plan, i)))
            say("%s, %s: %.3f s" % (name, plan, runs[-1]["makespan_s"]))
    finally:
        fleet.stop()
    kv = sum(r["kv_bytes"] for r in runs[0]["requests"])
    makespan = statistics.median(r["makespan_s"] for r in runs)
    middle = min(runs, key=lambda r: abs(r["makespan_s"] - makespan))
    bound = bound_s(name, N * (N_IN - 1) * TOKEN_BYTES)
    return {"makespan_s": makespan, "all_s": [r["makespan_s"] for r in runs], "requests_per_s": N / makespan, "kv_bytes": kv,
            "bound_s": bound, "of_bound": bound / makespan, "requests": middle["requests"]}


# ---- the picture ------------------------------------------------------------------------------------------------

def spans(r):
    begin, first = r["begin_s"], r["begin_s"] + r["ttft_s"]
    reader = r["prefill_node"] or r["decode_node"]
    read = {"spark-1": "first Spark reads", "spark-2": "second Spark reads"}.get(reader, "the Mac reads")
    sent = begin + (r["prefill_sent_s"] or 0)
    done = min(sent + (r["prefill_s"] or 0), first)
    return [(read, sent, done), ("the Mac writes" if r["decode_node"] == "mac" else "a Spark writes", first, r["end_s"])]


def draw(result):
    groups = []
    for plan in ("hybrid", "auto"):
        for name in FLEETS:
            m = result[plan][name]
            rows = [("request %d" % (i + 1), spans(r)) for i, r in enumerate(m["requests"])]
            groups.append(("%s, %s: %.2f s" % (name, plan, m["makespan_s"]), m["bound_s"] if plan == "hybrid" else None, "bound", rows))
    notes = ["%d requests of %d tokens in, %d out, at once; fake engine paced at the catalogue's rates" % (N, N_IN, N_OUT),
             "two Sparks give %.2f times the throughput of one; %.3f of the bound on a shared link"
             % (result["speedup"], result["shared_of_bound"])]
    return picture.bars("Sparks and a Mac (emulated)", notes, groups, COLORS)


def main():
    result = {"requests": N, "prompt": N_IN, "gen": N_OUT, "rounds": ROUNDS, "link_ratio": LINK_RATIO, "link_bytes_per_s": LINK,
              "faster": FASTER, "emulated": True}
    for plan in ("hybrid", "auto"):
        result[plan] = {name: measure(name, plan) for name in FLEETS}
    def speedup(plan):
        return result[plan]["one"]["makespan_s"] / result[plan]["two"]["makespan_s"]
    result.update(speedup=speedup("hybrid"), speedup_auto=speedup("auto"), shared_of_bound=result["hybrid"]["shared"]["of_bound"])
    for plan in ("hybrid", "auto"):
        for name, m in result[plan].items():
            say("%-6s %-6s %.3f s, bound of hybrids %.3f s, %.3f of it" % (plan, name, m["makespan_s"], m["bound_s"], m["of_bound"]))
    say("two Sparks against one: %.2f (auto: %.2f)" % (result["speedup"], result["speedup_auto"]))
    if SVG:
        with open(SVG, "w") as f:
            f.write(draw(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
