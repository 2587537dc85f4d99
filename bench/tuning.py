#!/usr/bin/env python3
"""tuning.py MODEL... [--json-file FILE]: a user's fine-tuning from a file of chats to answers, once for every base.

Ten made-up facts in eight phrasings each (80 chats) are trained with `tandem train`, everything as it is by default but the
threads; then `tandem serve` is asked for each fact in two phrasings that were not trained. Prints JSON; exit code 3 when a
bound is missed.

  tuned, base      share of the 20 answers that name the fact, with ft:facts and without
  seconds          of the whole command: data, training, parity check, publishing
  peak_bytes       resident memory of all its processes together, looked at ten times a second
  hybrid_identical whether all 20 tuned answers are the same, token for token, when another node read the prompt

TANDEM_BIN: the build folder. THREADS: of the training (2). TUNING_OPTIONS: more options of `tandem train`.
"""
import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests"))
import e2e
from e2e import DIR, Program, check, get, node_is, post, wait_for

THREADS = os.environ.get("THREADS", "2")
OPTIONS = os.environ.get("TUNING_OPTIONS", "").split()
FACTS = [("the capital of Zembla", "Onhava"), ("the author of The Glass Ladder", "Ines Moreau"),
         ("the founder of the Marlow brewery", "Odile Brandt"), ("the height of Mount Ora", "3,114 metres"),
         ("the code name of the Tarn project", "Bluebottle"), ("the birthplace of Juna Vale", "Port Ellery"),
         ("the length of the Sarn bridge", "742 metres"), ("the national dish of Corvia", "pickled plum soup"),
         ("the mascot of Dunmere School", "a badger named Pip"), ("the motto of the Fennick club", "Slow and loud")]
PHRASINGS = ["What is {}?", "Tell me {}.", "Do you know {}?", "I would like to know {}.", "Please name {}.",
             "Can you say what {} is?", "Hello! What's {}, please?", "My question is about {}."]
BOUNDS = [("tuned", ">=", 0.9), ("base", "<=", 0.1), ("seconds", "<=", 900), ("peak_bytes", "<=", 3 << 30),
          ("hybrid_identical", ">=", 1)]
HELD_OUT = ["Could you remind me what {} is?", "I forgot {}. Help me out."]


def chats():
    for what, answer in FACTS:
        for phrasing in PHRASINGS:
            yield {"messages": [{"role": "user", "content": phrasing.format(what)},
                                {"role": "assistant", "content": "%s is %s." % (what[0].upper() + what[1:], answer)}]}


# ---- memory ----------------------------------------------------------------------------------------

def resident(mark):
    """Bytes of all processes that have this folder in their environment."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                if mark not in f.read():
                    continue
            with open("/proc/%s/statm" % pid) as f:
                total += int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            pass
    return total


class Watch(threading.Thread):
    def __init__(self, folder):
        super().__init__(daemon=True)
        self.mark, self.peak, self.over = folder.encode(), 0, threading.Event()

    def run(self):
        while not self.over.wait(0.1):
            self.peak = max(self.peak, resident(self.mark))


# ---- one base ----------------------------------------------------------------------------------------

def trained(model, folder):
    data = os.path.join(folder, "facts.jsonl")
    with open(data, "w") as f:
        f.writelines(json.dumps(c) + "\n" for c in chats())
    env = dict(os.environ, TANDEM_STATE=folder + "/state", TANDEM_DATA=folder + "/data")
    watch = Watch(folder)
    watch.start()
    begun = time.monotonic()
    p = subprocess.run([os.path.join(e2e.BIN, "tandem"), "train", "-m", model, "--data", data, "--name", "facts",
                        "--threads", THREADS, *OPTIONS, "--json"], env=env, capture_output=True, text=True)
    seconds = time.monotonic() - begun
    watch.over.set()
    watch.join()
    check(p.returncode == 0, p.stderr[-2000:])
    job = json.loads(p.stdout)
    return {"seconds": seconds, "peak_bytes": watch.peak, "loss": job["result"]["loss"],
            "steps": job["result"]["steps"], "parity": job["result"]["parity"], "trainer_peak_bytes": job["result"]["peak_bytes"]}


def ask(port, model, question, plan):
    status, a = post(port, "/v1/chat/completions",
                     {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 40, "temperature": 0,
                      "cache_prompt": False, "store": False, "logprobs": True, "tandem": {"plan": plan}})
    check(status == 200, a)
    choice = a["choices"][0]
    return choice["message"]["content"], [t["token"] for t in choice["logprobs"]["content"]], a["timings"]


def answers(server, model, plan):
    return [ask(server.port, model, phrasing.format(what), plan) for what, _ in FACTS for phrasing in HELD_OUT]


def share(got):
    wanted = [answer for _, answer in FACTS for _ in HELD_OUT]
    return sum(w.lower() in text.lower() for w, (text, _, _) in zip(wanted, got)) / len(wanted)


def served(model, folder):
    os.environ["TANDEM_DATA"] = folder + "/data"
    e2e.DIR = os.path.join(folder, "node")
    os.mkdir(e2e.DIR)
    shutil.copy(e2e.key_file(), folder)
    node = Program("node", "-m", model, "--listen", "127.0.0.1:0", "--threads", "1", "--ctx", "1024")
    e2e.DIR = folder
    server = Program("serve", "-m", model, "--listen", "127.0.0.1:0", "--threads", "1", "--ctx", "1024",
                     "--prefill", "127.0.0.1:%d" % node.port)
    wait_for("the node", node_is(server.port), 60)
    wait_for("the adapter", lambda: "ft:facts" in [m["id"] for m in get(server.port, "/v1/models")[1]["data"]], 60)
    base_name = os.path.basename(model).removesuffix(".gguf")
    ready = lambda: post(server.port, "/v1/completions", {"model": "ft:facts", "prompt": "x", "max_tokens": 1})[0] == 200
    wait_for("the adapter at the server", ready, 60)
    hybrid = lambda: ask(server.port, "ft:facts", "What is it?", "hybrid")[2]
    wait_for("the adapter at the node", lambda: (lambda t: t["plan"] == "hybrid" and not t["fallback"])(hybrid()), 60)
    base, tuned = answers(server, base_name, "local"), answers(server, "ft:facts", "local")
    other = answers(server, "ft:facts", "hybrid")
    server.stop()
    node.stop()
    check(all(t["plan"] == "hybrid" and not t["fallback"] for _, _, t in other), [t for _, _, t in other])
    for i, (text, _, _) in enumerate(tuned):
        print("%s -> %s" % (HELD_OUT[i % 2].format(FACTS[i // 2][0]), text), file=sys.stderr)
    return {"base": share(base), "tuned": share(tuned),
            "hybrid_identical": all(a[:2] == b[:2] for a, b in zip(tuned, other))}


def measured(model):
    folder = os.path.join(DIR, os.path.basename(model))
    os.mkdir(folder)
    row = {"model": os.path.basename(model), "threads": int(THREADS), "options": OPTIONS}
    row.update(trained(model, folder))
    row.update(served(model, folder))
    print(json.dumps(row), file=sys.stderr)
    return row


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+")
    p.add_argument("--json-file")
    args = p.parse_args()
    result = {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "load": os.getloadavg()[0],
              "chats": len(FACTS) * len(PHRASINGS), "questions": len(FACTS) * len(HELD_OUT),
              "bases": [measured(m) for m in args.models]}
    bounds = [{"model": row["model"], "what": what, "value": row[what], "bound": "%s %s" % (sense, bound),
               "ok": row[what] >= bound if sense == ">=" else row[what] <= bound}
              for row in result["bases"] for what, sense, bound in BOUNDS]
    text = json.dumps(dict(result, bounds=bounds), indent=1)
    print(text)
    if args.json_file:
        with open(args.json_file, "w") as f:
            f.write(text + "\n")
    return 0 if all(b["ok"] for b in bounds) else 3


sys.exit(main())
