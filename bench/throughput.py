"""throughput.py LLAMA-SERVER [PART...]: tandem beside llama-server. Prints JSON, one object per part:

  streams  8 streams of 256 tokens in and 128 out at once: tokens written per second from the first request to
           the last token, against llama-server with a unified KV cache and with separate streams
  ttft     one request of 256 tokens: time to its first token
  stall    three running streams, then a prompt of 2,000 tokens: the time between two tokens of the running
           streams (p99), while the prompt is read, and quiet right before and right after it, since a deeper
           stream is a slower one
  turns    a conversation of 2,000 tokens and its second turn: time to the first token, cold and warm; here,
           and with the prompt read by another node (`hybrid`)

Each figure is taken in one run, the servers in turns and in another order every round; ratios are medians of
the rounds' ratios. ROUNDS, THREADS and TINY as bench/llama_server.sh says.
"""

import json
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import time

import e2e

TINY = bool(os.environ.get("TINY"))
PAUSE_S = 0.5
ROUNDS = int(os.environ.get("ROUNDS") or (1 if TINY else 5))
THREADS = os.environ.get("THREADS") or str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
MODEL = os.environ["TANDEM_TEST_MODEL"]
WORDS = ("the of and to in is was he for it with as his on be at by had not are but from or have an they which one you were "
         "her all she there would their we him been has when who will more no if out so said what up its about into than "
         "them can only other new some could time these two may then do first any my now such like our over man me even "
         "most made after also did many before must through back years where much your way well down should because each "
         "just those people how too little state good very make world still own see men work long get here between both "
         "life being under never day same another know while last might us great old year off come since against go came "
         "right used take three").split()


# ---- clients: one thread reads all streams, so that measuring costs little -----------------------------

def go_first():
    """This thread comes before all servers, where that is permitted (Linux: CAP_SYS_NICE); what it starts does not. On a machine all of
    whose cores compute, a client waits for one like everybody else, for up to 0.1 s: the stall would be its own."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (AttributeError, OSError):
        return False
    return True


class Stream:
    """One streamed request; pieces as they came, read later."""

    def __init__(self, loop, port, path, body):
        data = json.dumps(dict(body, stream=True, stream_options={"include_usage": True})).encode()
        head = "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" \
               "Connection: close\r\n\r\n" % (path, port, len(data))
        self.loop, self.pieces, self.seen, self.open = loop, [], 0, True  # seen: events so far, about, to wait by
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.begun = time.monotonic()
        self.sock.sendall(head.encode() + data)
        self.sock.setblocking(False)
        loop.selector.register(self.sock, selectors.EVENT_READ, self)

    def read(self):
        piece = self.sock.recv(1 << 16)
        self.pieces.append((time.monotonic(), piece))
        self.seen += piece.count(b"data: {")
        if not piece:
            self.close()

    def close(self):
        if self.open:
            self.loop.selector.unregister(self.sock)
            self.sock.close()
            self.open = False

    def events(self):
        """[(time, decoded event)], chunked encoding taken off."""
        raw, rows, body, at = b"", [], b"", None
        for when, piece in self.pieces:
            raw += piece
            if at is None:
                if b"\r\n\r\n" not in raw:
                    continue
                head, raw = raw.split(b"\r\n\r\n", 1)
                e2e.check(b" 200 " in head.split(b"\r\n")[0], head, raw[:500])
                at = b"chunked" in head.lower()
            while at and b"\r\n" in raw:
                size, rest = raw.split(b"\r\n", 1)
                if not size or len(rest) < int(size, 16) + 2:
                    break
                body += rest[:int(size, 16)]
                raw = rest[int(size, 16) + 2:]
            if not at:
                body, raw = body + raw, b""
            while b"\n\n" in body:
                event, body = body.split(b"\n\n", 1)
                rows += [(when, json.loads(line[6:])) for line in event.split(b"\n") if line.startswith(b"data: {")]
        return rows

    def tokens(self):
        """Times at which text came."""
        def text(event):
            choice = (event.get("choices") or [{}])[0]
            delta = choice.get("delta", {})
            return choice.get("text") or delta.get("content") or delta.get("reasoning_content")
        return [when for when, event in self.events() if text(event)]

    def ttft(self):
        return self.tokens()[0] - self.begun

    def last(self):
        """The event with usage (and tandem's timings)."""
        return [event for _, event in self.events() if event.get("usage")][-1]


class Loop:
    def __init__(self):
        self.selector = selectors.DefaultSelector()

    def start(self, server, body, path="/v1/completions"):
        return Stream(self, server.port, path, body)

    def run(self, until):
        end = time.monotonic() + 600
        while not until():
            e2e.check(time.monotonic() < end, "no end after ten minutes")
            for key, _ in self.selector.select(1):
                key.data.read()

    def finish(self, *streams):
        self.run(lambda: not any(s.open for s in streams))


# ---- servers ------------------------------------------------------------------------------------------

class LlamaServer:
    def __init__(self, name, *args):
        self.name, self.log, self.port = name, os.path.join(e2e.DIR, name + ".log"), e2e.free_ports(1)
        self.p = subprocess.Popen(
            [sys.argv[1], "-m", MODEL, "-t", THREADS, "-tb", THREADS, "--host", "127.0.0.1", "--port", str(self.port),
             "--cache-ram", "0", *args], stdout=open(self.log, "w"), stderr=subprocess.STDOUT)
        e2e.wait_for(name, lambda: self.p.poll() is not None or self.ready(), 120)
        e2e.check(self.p.poll() is None, name, "ended:", open(self.log).read()[-3000:])

    def ready(self):
        try:
            return e2e.get(self.port, "/health")[0] == 200
        except OSError:
            return False

    def stop(self):
        self.p.terminate()
        self.p.wait(20)


def tandem(*args, threads=THREADS):
    server = e2e.Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--threads", threads, *args)
    server.name = "tandem"
    return server


def llama(ctx, parallel, both=True):
    """llama-server with a unified cache and with separate streams of ctx / parallel tokens."""
    common = ("-c", str(ctx), "-np", str(parallel))
    pair = [LlamaServer("llama-kvu", "-kvu", *common)]
    return pair + ([LlamaServer("llama-no-kvu", "-no-kvu", *common)] if both else [])


def in_turns(servers, rounds):
    """Every round in another order, and after a pause: what a server still does after its answer is not the
    next one's cost, and no server always comes after the same one."""
    for i in range(rounds):
        for server in random.Random(i).sample(servers, len(servers)):
            time.sleep(PAUSE_S)
            yield i, server


def prompt(n, *seed):
    return e2e.tokens(n, repr(seed), 1000, 20000)


def body(tokens, gen, **more):
    return dict({"prompt": tokens, "max_tokens": gen, "temperature": 0, "ignore_eos": True, "cache_prompt": False}, **more)


def gaps(streams, *windows):
    """Seconds from one token of a stream to its next, of those that came in these times. Parses all that came, so not while
    anything is measured: a client that is busy is late itself."""
    found = []
    for s in streams:
        times = s.tokens()
        found += [b - a for a, b in zip(times, times[1:]) if any(begin <= b <= end for begin, end in windows)]
    return found


def run_on(loop, streams, events):
    """Until each has got so many more, or is over: (begin, end)."""
    begin, wanted = time.monotonic(), [(s, s.seen + events) for s in streams]
    loop.run(lambda: all(s.seen >= n or not s.open for s, n in wanted))
    return begin, time.monotonic()


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def ratio(rows, of, against):
    return statistics.median(a / b for a, b in zip(rows[of], rows[against]))


def say(text):
    print("throughput: " + text, file=sys.stderr, flush=True)


# ---- parts --------------------------------------------------------------------------------------------

def streams():
    n, n_in, n_out = (2, 64, 16) if TINY else (8, 256, 128)
    ctx = n * 2 * (n_in + n_out)
    servers = [tandem("--ctx", str(ctx), "--parallel", str(n))] + llama(ctx, n)
    rows = {s.name: [] for s in servers}

    def once(server, seed):
        loop = Loop()
        begun = time.monotonic()
        all_ = [loop.start(server, body(prompt(n_in, seed, i), n_out)) for i in range(n)]
        loop.finish(*all_)
        ended = max(s.tokens()[-1] for s in all_)
        for s in all_:
            usage = s.last()["usage"]
            e2e.check((usage["prompt_tokens"], usage["completion_tokens"]) == (n_in, n_out), server.name, usage)
        return n * n_out / (ended - begun)

    for server in servers:
        once(server, -1)
    for i, server in in_turns(servers, ROUNDS):
        rows[server.name].append(once(server, i))
        say("streams %d: %s %.1f tokens/s" % (i, server.name, rows[server.name][-1]))
    stop(servers)
    best = [max(pair) for pair in zip(rows["llama-kvu"], rows["llama-no-kvu"])]
    return {"streams": n, "prompt": n_in, "gen": n_out, "tokens_per_s": rows, "medians": medians(rows),
            "to_kvu": ratio(rows, "tandem", "llama-kvu"),
            "to_best": statistics.median(a / b for a, b in zip(rows["tandem"], best))}


def ttft():
    n_in, samples = (64, 2) if TINY else (256, 3 * ROUNDS)
    servers = [tandem("--ctx", "4096", "--parallel", "4")] + llama(4096, 4)
    rows = {s.name: [] for s in servers}

    def once(server, seed):
        loop = Loop()
        s = loop.start(server, body(prompt(n_in, "ttft", seed), 2))
        loop.finish(s)
        return s.ttft()

    for server in servers:
        once(server, -1)
    for i, server in in_turns(servers, samples):
        rows[server.name].append(once(server, i))
    stop(servers)
    m = medians(rows)
    say("ttft: %s" % m)
    return {"prompt": n_in, "ttft_s": rows, "medians": m, "to_best": m["tandem"] / min(m["llama-kvu"], m["llama-no-kvu"])}


def stall():
    running, n_prompt, quiet_events = (2, 200, 10) if TINY else (3, 2000, 100)
    gen = 600 if TINY else 3000
    n = running + 1
    ctx = n * (2048 if TINY else 4096)
    servers = [tandem("--ctx", str(ctx), "--parallel", str(n))] + llama(ctx, n)
    rows = {s.name: [] for s in servers}

    def once(server, seed):
        loop = Loop()
        all_ = [loop.start(server, body(prompt(64, "stall", seed, i), gen)) for i in range(running)]
        wanted = body(prompt(n_prompt, "long", seed, 0), 1)
        run_on(loop, all_, 16)
        before = run_on(loop, all_, quiet_events)
        read = loop.start(server, wanted)
        loop.finish(read)
        _, end = run_on(loop, all_, 1)  # the next token of each ends the stall that it may be in
        after = run_on(loop, all_, quiet_events)
        early = not all(s.open for s in all_)  # then some of this was taken with fewer streams
        for s in all_:
            s.close()
        before, busy, after = gaps(all_, before), gaps(all_, (read.begun, end)), gaps(all_, after)
        quiet = before + after
        return {"quiet_p99_s": quantile(quiet, 0.99), "quiet_median_s": statistics.median(quiet),
                "before_p99_s": quantile(before, 0.99), "after_p99_s": quantile(after, 0.99) if after else None,
                "busy_p99_s": quantile(busy, 0.99), "busy_tokens": len(busy), "ended_early": early,
                "busy_median_s": statistics.median(busy), "busy_max_s": max(busy), "read_s": read.ttft()}

    for i, server in in_turns(servers, ROUNDS):
        rows[server.name].append(once(server, i))
        say("stall %d: %s %s" % (i, server.name, rows[server.name][-1]))
    stop(servers)
    result = {"running": running, "prompt": n_prompt, "rounds": rows}
    for name, of in rows.items():
        result[name] = {k: statistics.median(r[k] for r in of) for k in of[0]}
        result[name]["p99_ratio"] = statistics.median(r["busy_p99_s"] / r["quiet_p99_s"] for r in of)
    return result


def conversation(n, *seed):
    r = random.Random(repr(seed))
    return " ".join(r.choice(WORDS) for _ in range(n))


def turn(server, messages, gen):
    loop = Loop()
    s = loop.start(server, {"messages": messages, "max_tokens": gen, "temperature": 0}, "/v1/chat/completions")
    loop.finish(s)
    text = "".join((e["choices"] or [{"delta": {}}])[0]["delta"].get("content") or "" for _, e in s.events())
    last = s.last()
    details = last["usage"].get("prompt_tokens_details") or {}
    return text, {"ttft_s": s.ttft(), "prompt_tokens": last["usage"]["prompt_tokens"],
                  "cached_tokens": details.get("cached_tokens"), "plan": (last.get("timings") or {}).get("plan"),
                  "reason": (last.get("timings") or {}).get("reason")}


def two_turns(server, n_words, seed):
    # The seed stands in front, so that no round begins as another did.
    messages = [{"role": "system", "content": conversation(8, "system", seed)},
                {"role": "user", "content": conversation(n_words, "user", seed)}]
    text, cold = turn(server, messages, 16)
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": conversation(15, "more", seed)}]
    _, warm = turn(server, messages, 16)
    return {"cold": cold, "warm": warm, "ratio": warm["ttft_s"] / cold["ttft_s"]}


def turns():
    n_words = 150 if TINY else 1960
    ctx = ("--ctx", "8192")
    local = [tandem(*ctx)] + llama(8192, 4, both=False)
    result = {"words": n_words, "local": [], "hybrid": [], "llama": []}
    for i, server in in_turns(local, ROUNDS):
        result["local" if server.name == "tandem" else "llama"].append(two_turns(server, n_words, i))
    stop(local)
    node = e2e.Program("node", "-m", MODEL, "--listen", "127.0.0.1:0", "--threads", "1", "--cpus", "0", *ctx)
    pair = tandem("--cpus", "1", "--prefill", "127.0.0.1:%d" % node.port, *ctx, threads="1")
    e2e.wait_for("the prefill node", e2e.node_is(pair.port), 60)
    for i in range(ROUNDS):
        result["hybrid"].append(two_turns(pair, n_words, "hybrid %d" % i))
    stop([pair, node])
    for name in ("local", "hybrid", "llama"):
        result[name + "_ratio"] = statistics.median(r["ratio"] for r in result[name])
        say("turns: %s %s" % (name, result[name][-1]))
    return result


def medians(rows):
    return {name: statistics.median(values) for name, values in rows.items()}


def stop(servers):
    for server in servers:
        server.stop()


PARTS = {"streams": streams, "ttft": ttft, "stall": stall, "turns": turns}


def main():
    wanted = sys.argv[2:] or list(PARTS)
    for name in wanted:
        e2e.check(name in PARTS, "no part", name, "; there are", *PARTS)
    first = go_first()
    print(json.dumps({"threads": int(THREADS), "rounds": ROUNDS, "client_first": first, **{name: PARTS[name]() for name in wanted}}))


if __name__ == "__main__":
    main()
