"""goodput.py LLAMA-SERVER (stalls [SERVER...] | goodput): mixed load on two cores. Prints JSON. Servers (tandem, llama-ub32): only their stalls.

tandem runs a worker that reads long prompts on one core and one that writes answers on the other: once because requests
say so (`tandem`: chats ask for the plan local, prompts for hybrid), once because the workers do (`tandem-auto`: --role read
and --role write, requests ask for nothing, the gateway chooses). llama-server, of the same build, has both cores, at its default and with batches (-b and -ub) of 32, 128 and 512. One after the other:

  stalls   three, then eight chats are running when prompts of 2,500 and 4,000 tokens come, one after the other: the longest
           time between two tokens of a chat, against the p99 right before and after (`quiet`), and the prompts' time to first token. Once
           more against llama-server on one core: as fast at reading as tandem's reader is (`equal`). tandem and llama-server's
           default have three turns, since a machine is not equally fast all the time; figures are medians of them
  goodput  chats (64 to 192 tokens in, 128 out) come at random and every sixth request is a prompt of 2,500 or 4,000
           tokens (16 out), at several rates: how many a second are answered within the limits, and the highest rate at
           which nine in ten are. The best -ub is that of a middle rate. Limits come from quiet figures, of whoever is slower: time per token 1.5 times that of four
           chats side by side, or 3 times that of a long prompt's answer alone; time to first token 5 times (chats) and
           3 times (long prompts) that of a request alone

Nothing of it is emulated. TINY, SECONDS_EACH and SVG as bench/goodput.sh says.
"""

import json
import os
import random
import statistics
import sys
import time

import e2e
import picture
import throughput as load

TINY = load.TINY
SVG = os.environ.get("SVG")
SECONDS = float(os.environ.get("SECONDS_EACH") or (4 if TINY else 90))
AFTER_S = 2 if TINY else 75  # what is not answered so long after the last request came is missed
LONGS = (300, 500) if TINY else (2500, 4000)
CHATS = (2,) if TINY else (3, 8)
BATCHES = (128,) if TINY else (32, 128, 512)
RATES = (1.0, 2.0) if TINY else (0.2, 0.3, 0.4)
CHAT_IN, CHAT_OUT, LONG_OUT, LONG_EVERY = ((16, 48), 12, 4, 5) if TINY else ((64, 192), 128, 16, 6)
TURNS, IN_TURNS = 1 if TINY else 3, ("tandem", "tandem-auto", "llama-default")
QUIET_EVENTS = 10 if TINY else 60
STREAMS, CTX_EACH = (4, 1024) if TINY else (12, 4608)
TPOT_ROOM, CHAT_ROOM, LONG_ROOM = 1.5, 5.0, 3.0
SCALES = (0.75, 1.0, 1.5, 2.0)  # of all limits: how much the result depends on them


def say(what):
    print("goodput: " + what, file=sys.stderr, flush=True)


# ---- servers --------------------------------------------------------------------------------------------------

class Pair:
    """A node that reads on core 0, and the gateway with the worker that writes on core 1."""
    def __init__(self, told=True):
        self.name = "tandem" if told else "tandem-auto"
        self.plans = {"chat": "local", "long": "hybrid"} if told else {}
        reads, writes = ((), ()) if told else (("--role", "read"), ("--role", "write"))
        common = ("--ctx", str(STREAMS * CTX_EACH), "--parallel", str(STREAMS), "--threads", "1", "--listen", "127.0.0.1:0",
                  "-m", load.MODEL)
        self.node = e2e.Program("node", *common, *reads, "--cpus", "0", "--name", "reader")
        self.serve = e2e.Program("serve", *common, *writes, "--cpus", "1", "--name", "writer", "--prefill", "127.0.0.1:%d" % self.node.port)
        self.port = self.serve.port
        e2e.wait_for("the reader", e2e.node_is(self.port), 60)
        e2e.wait_measured(self.port)

    def stop(self):
        self.serve.stop()
        self.node.stop()


def llama(batch=None, cores="0,1"):
    """The threads follow the cores; a process's cores are set before it starts its threads."""
    here = os.sched_getaffinity(0)
    wanted = {int(c) for c in cores.split(",")} & here
    load.THREADS = str(len(wanted))
    args = ("-c", str(STREAMS * CTX_EACH), "-np", str(STREAMS), *(("-b", str(batch), "-ub", str(batch)) if batch else ()))
    try:
        os.sched_setaffinity(0, wanted)
        return load.LlamaServer("llama-" + ("ub%d" % batch if batch else "default") + ("" if len(wanted) > 1 else "-one-core"), *args)
    finally:
        os.sched_setaffinity(0, here)


def makers():
    return {"tandem": Pair, "tandem-auto": lambda: Pair(False), "llama-default": llama, **{"llama-ub%d" % b: (lambda b=b: llama(b)) for b in BATCHES}}


def start(server, loop, kind, tokens, n_out):
    """kind: "chat", or the length of a long prompt."""
    plan = getattr(server, "plans", {}).get("chat" if kind == "chat" else "long")
    return loop.start(server, load.body(tokens, n_out, **({"tandem": {"plan": plan}} if plan else {})))


def warm(server):
    """Links are dialled, memory is touched, the machines are known: what comes first is not measured."""
    loop = load.Loop()
    for i, (kind, n) in enumerate((("chat", 64), ("long", LONGS[0]), ("chat", 64))):
        loop.finish(start(server, loop, kind, load.prompt(n, "warm", i), 4))


# ---- stalls -----------------------------------------------------------------------------------------------------

def plan_of(stream):
    """What tandem tells of an answer that has ended; llama-server tells nothing."""
    told = [e["timings"]["plan"] for _, e in stream.events() if e.get("timings", {}).get("plan")]
    return told[-1] if told else None


def running(server):
    """How many requests each of tandem's nodes has."""
    if not isinstance(server, Pair):
        return None
    return {n["name"]: n["requests"] for n in e2e.get(server.port, "/v1/tandem/status")[1]["nodes"]}


def stall_figures(quiet, busy):
    """Of seconds between tokens."""
    p99, worst = load.quantile(quiet, 0.99), max(busy)
    return {"quiet_median_s": statistics.median(quiet), "quiet_p99_s": p99, "quiet_worst_s": max(quiet),
            "busy_median_s": statistics.median(busy), "busy_p99_s": load.quantile(busy, 0.99), "worst_s": worst, "worst_ratio": worst / p99}


def stall_of(server, n_chats):
    loop = load.Loop()
    room = CTX_EACH - 128
    chats = [start(server, loop, "chat", load.prompt(64, "stall", n_chats, i), room) for i in range(n_chats)]
    prompts = [load.prompt(n, "long", n_chats, n) for n in LONGS]
    load.run_on(loop, chats, 16)
    quiet, busy, reads = [load.run_on(loop, chats, QUIET_EVENTS)], [], []
    for n, tokens in zip(LONGS, prompts):
        reads.append(start(server, loop, str(n), tokens, LONG_OUT))
        loop.finish(reads[-1])
        _, end = load.run_on(loop, chats, 1)  # the next token ends the stall that a chat may be in
        busy.append((reads[-1].begun, end))
        quiet.append(load.run_on(loop, chats, QUIET_EVENTS))
    early, where = not all(s.open for s in chats), running(server)
    for s in chats:
        s.close()
    # A deeper chat is a slower one: what is quiet is taken right before and right after.
    figures = [stall_figures(load.gaps(chats, before, after), load.gaps(chats, window)) for before, window, after in zip(quiet, busy, quiet[1:])]
    prompts = {str(n): {"ttft_s": read.ttft(), "plan": plan_of(read), **f} for n, read, f in zip(LONGS, reads, figures)}
    row = {"prompts": prompts, "chats_at": where, "ended_early": early}
    say("stall, %d chats: %s %s" % (n_chats, server.name, ", ".join(
        "%s tokens: quiet p99 %.3f s, worst %.3f s (%.2f), first token after %.2f s"
        % (n, p["quiet_p99_s"], p["worst_s"], p["worst_ratio"], p["ttft_s"]) for n, p in prompts.items())))
    return row


def stalls(names=()):
    """{server: [of each turn, {chats: row}]}"""
    result, make = {}, {**makers(), "llama-one-core": lambda: llama(cores="0")}
    for turn in range(TURNS):
        for name in names or [m for m in make if turn == 0 or m in IN_TURNS]:
            server = make[name]()
            warm(server)
            result.setdefault(name, []).append({str(n): stall_of(server, n) for n in CHATS})
            server.stop()
    return result


def prompts_of(turn):
    """Every long prompt beside every number of chats."""
    return {(chats, n): p for chats, row in turn.items() for n, p in row["prompts"].items()}


def of_turns(turns, value):
    """The worst prompt's, each the median of its turns."""
    return max(statistics.median(value(prompts_of(t)[key]) for t in turns) for key in prompts_of(turns[0]))


def ttft_ratios(rows, of, against):
    """Of each prompt in each turn that both had."""
    return [p["ttft_s"] / prompts_of(b)[key]["ttft_s"] for a, b in zip(rows[of], rows[against]) for key, p in prompts_of(a).items()]


def stall_summary(rows):
    worst_s = {name: of_turns(turns, lambda p: p["worst_s"]) for name, turns in rows.items()}
    best = min((name for name in rows if name.startswith("llama") and name != "llama-one-core"), key=worst_s.get)
    def worst_ratio(name):
        return of_turns(rows[name], lambda p: p["worst_ratio"])
    def ttft(of, against):
        return statistics.median(ttft_ratios(rows, of, against))
    return {"rows": rows, "worst_ratio": worst_ratio("tandem"), "worst_ratio_auto": worst_ratio("tandem-auto"),
            "worst_ratio_max": max(p["worst_ratio"] for t in rows["tandem"] for p in prompts_of(t).values()),
            "worst_s": worst_s, "llama_best_stall": best,
            "ttft_ratio": ttft("tandem", "llama-default"), "ttft_ratio_auto": ttft("tandem-auto", "llama-default"),
            "ttft_ratio_equal": ttft("tandem", "llama-one-core"),
            "ttft_ratio_max": max(ttft_ratios(rows, "tandem", "llama-default"))}


# ---- goodput -----------------------------------------------------------------------------------------------------

def arrivals(rate, seconds, seed):
    """[(when, kind, tokens in, tokens out)]; the same for every server, and at every rate, but for the time that passes between."""
    r, when, rows = random.Random(repr(("arrivals", seed))), 0.0, []
    while True:
        when += r.expovariate(1) / rate
        if when >= seconds:
            return rows
        # Every so many-th, beginning in the middle: so few would come by chance that chance would decide.
        long = len(rows) % LONG_EVERY == LONG_EVERY // 2
        n_in = LONGS[(len(rows) // LONG_EVERY) % len(LONGS)] if long else r.randrange(*CHAT_IN)
        rows.append((when, str(n_in) if long else "chat", n_in, LONG_OUT if long else CHAT_OUT))


def outcome(kind, n_out, stream):
    """What a client has seen; an answer that is not whole has no times."""
    row = {"kind": kind, "ttft_s": None, "tpot_s": None, "plan": None}
    try:
        times = stream.tokens()
        whole = any(e.get("usage", {}).get("completion_tokens") == n_out for _, e in stream.events() if e.get("usage"))
    except AssertionError as e:  # refused: busy, say
        return dict(row, error=str(e)[:200])
    if not whole or len(times) < 2:
        return row
    # Pieces may hold several tokens: the time per token is that of the whole answer.
    return dict(row, plan=plan_of(stream), ttft_s=times[0] - stream.begun, tpot_s=(times[-1] - times[0]) / (n_out - 1))


def drive(server, plan, seed):
    """Sends what is to come when it is to come."""
    loop, streams, begun = load.Loop(), [], time.monotonic()
    for i, (when, kind, n_in, n_out) in enumerate(plan):
        while (left := begun + when - time.monotonic()) > 0:
            for key, _ in loop.selector.select(left):
                key.data.read()
        streams.append((kind, n_out, start(server, loop, kind, load.prompt(n_in, "drive", seed, i), n_out)))
    end = max(time.monotonic(), begun + SECONDS) + AFTER_S
    while time.monotonic() < end and any(s.open for _, _, s in streams):
        for key, _ in loop.selector.select(min(1, max(end - time.monotonic(), 0))):
            key.data.read()
    rows = [outcome(*s) for s in streams]
    for _, _, s in streams:
        s.close()
    return rows


def is_good(row, limits, scale=1.0):
    return row["ttft_s"] is not None and row["ttft_s"] <= scale * limits["ttft_s"][row["kind"]] and \
        row["tpot_s"] <= scale * limits["tpot_s"][row["kind"]]


def point(rate, rows, limits):
    good = {str(s): sum(is_good(r, limits, s) for r in rows) for s in SCALES}
    return {"rate": rate, "offered_per_s": len(rows) / SECONDS, "goodput_per_s": good["1.0"] / SECONDS,
            "share": good["1.0"] / max(len(rows), 1), "goodput_by_scale": {s: n / SECONDS for s, n in good.items()}, "requests": rows}


def quiet_figures(server):
    """The time per token of four chats side by side, and what a request of each kind has alone."""
    loop = load.Loop()
    chats = [start(server, loop, "chat", load.prompt(CHAT_IN[1], "quiet", i), CHAT_OUT) for i in range(min(4, STREAMS))]
    loop.finish(*chats)
    tpot, ttft = {"chat": max(outcome("chat", CHAT_OUT, s)["tpot_s"] for s in chats)}, {}
    for kind, n_in, n_out in [("chat", CHAT_IN[1], 2)] + [(str(n), n, LONG_OUT) for n in LONGS]:
        s = start(server, loop, kind, load.prompt(n_in, "alone", kind), n_out)
        loop.finish(s)
        ttft[kind] = s.ttft()
        tpot.setdefault(kind, outcome(kind, n_out, s)["tpot_s"])
    return {"tpot_s": tpot, "ttft_s": ttft}


def limits_of(a, b):
    def of(what, chat_room):
        return {kind: (chat_room if kind == "chat" else LONG_ROOM) * max(a[what][kind], b[what][kind]) for kind in a[what]}
    return {"tpot_s": of("tpot_s", TPOT_ROOM), "ttft_s": of("ttft_s", CHAT_ROOM)}


def curve(name, make, rates, limits):
    server, points = make(), []
    warm(server)
    for rate in rates:
        points.append(point(rate, drive(server, arrivals(rate, SECONDS, 0), (name, rate)), limits))
        say("%s at %.2f/s: %.3f of %.3f a second within the limits" % (name, rate, points[-1]["goodput_per_s"], points[-1]["offered_per_s"]))
    server.stop()
    return points


def most(points, scale="1.0"):
    return max(p["goodput_by_scale"][scale] for p in points)


def sustained(points):
    """The highest rate up to which nine of ten are answered in time; 0: not even the lowest."""
    best = 0.0
    for p in sorted(points, key=lambda p: p["rate"]):
        if p["share"] < 0.9:
            break
        best = p["offered_per_s"]
    return best


def ratio(a, b):
    """A rival without a single good answer counts as if it had one."""
    return a / max(b, 1 / SECONDS)


def goodput():
    make, quiet = makers(), {}
    for name in ("tandem", "llama-default"):
        server = make[name]()
        warm(server)
        quiet[name] = quiet_figures(server)
        server.stop()
    limits = limits_of(*quiet.values())
    say("limits: %s" % limits)
    middle = RATES[len(RATES) // 2]
    tried = {"llama-ub%d" % b: curve("llama-ub%d" % b, make["llama-ub%d" % b], [middle], limits) for b in BATCHES}
    best = max(tried, key=lambda name: most(tried[name]))
    curves = {name: curve(name, make[name], RATES, limits) for name in ("tandem", "tandem-auto", "llama-default")}
    curves[best] = tried[best] + curve(best, make[best], [r for r in RATES if r != middle], limits)
    rivals = [p for name in ("llama-default", best) for p in curves[name]]
    return {"quiet": quiet, "limits": limits, "llama_best": best, "curves": {**tried, **curves},
            "most": {name: most(points) for name, points in curves.items()},
            "sustained": {name: sustained(points) for name, points in curves.items()},
            "ratio": ratio(most(curves["tandem"]), most(rivals)),
            "ratio_auto": ratio(most(curves["tandem-auto"]), most(rivals)),
            "ratio_default": ratio(most(curves["tandem"]), most(curves["llama-default"])),
            "ratio_by_scale": {str(s): ratio(most(curves["tandem"], str(s)), most(rivals, str(s))) for s in SCALES}}


def draw(g):
    series = {name: [(p["offered_per_s"], p["goodput_per_s"]) for p in g["curves"][name]] for name in ("tandem", "tandem-auto", "llama-default", g["llama_best"])}
    limits = g["limits"]
    notes = ["limits, per token and first token: " + ", ".join("%s %.0f ms, %.1f s" % (k, 1e3 * t, limits["ttft_s"][k]) for k, t in limits["tpot_s"].items())]
    return picture.curves("Requests answered within the limits, two cores", notes,
                          ("requests a second that come", "requests a second answered within the limits"), series)


def main():
    what, names = sys.argv[2], sys.argv[3:]
    if what not in ("stalls", "goodput") or (names and what == "goodput"):
        sys.exit("goodput.py: '%s': stalls [SERVER...] or goodput" % " ".join(sys.argv[2:]))
    result = {"chats": CHATS, "long_prompts": LONGS, "client_first": load.go_first()}
    if names:
        result["rows"] = stalls(names)
    elif what == "stalls":
        result.update(stall_summary(stalls()))
        say("worst stall / quiet p99 %(worst_ratio).2f; first token of prompts / llama-server's "
            "%(ttft_ratio).2f (reader as fast: %(ttft_ratio_equal).2f)" % result)
    else:
        result.update(seconds_each=SECONDS, **goodput())
        say("goodput ratio %(ratio).2f (choosing itself: %(ratio_auto).2f)" % result)
        if SVG:
            with open(SVG, "w") as f:
                f.write(draw(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
