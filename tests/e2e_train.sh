#!/bin/sh
# tandem train from end to end with the small model: published, watched, killed again and again, cancelled, and
# everything that a user can get wrong. TANDEM_TRAIN_KILLS: how many times something is killed (6); every one counts
# where TANDEM_TRAIN_RESULT names a file for what came of it. TANDEM_TRAIN_EPOCHS: how long that job is.
set -eu
exec python3 -B - <<'PYTHON'
import atexit, filecmp, glob, json, os, random, shutil, signal, subprocess, sys, tempfile, time

BIN = os.environ.get("TANDEM_BIN", "build")
TANDEM = os.path.join(BIN, "tandem")
MODEL = os.environ["TANDEM_TEST_MODEL"]
KILLS = int(os.environ.get("TANDEM_TRAIN_KILLS", "6"))
RESULT = os.environ.get("TANDEM_TRAIN_RESULT")
# Long enough for the last kill; a slow or busy machine does with fewer.
EPOCHS = int(os.environ.get("TANDEM_TRAIN_EPOCHS", 0)) or (4 * KILLS if RESULT else max(2, KILLS // 2))
DIR = tempfile.mkdtemp(prefix="tandem-train-")
ENV = dict(os.environ, TANDEM_STATE=DIR + "/state", TANDEM_DATA=DIR + "/data")
SMALL = ["--rank", "2", "--targets", "q,v", "--learning-rate", "1e-3", "--batch", "1", "--threads", "1",
         "--checkpoint-steps", "2", "--seed", "5"]


def clean_up():
    for lock in glob.glob(DIR + "/state/jobs/*/*.lock"):
        with open(lock) as f:
            words = f.read().split()
        if words and os.path.isdir("/proc/" + words[0]):
            try:
                os.kill(int(words[0]), signal.SIGKILL)
            except ProcessLookupError:
                pass
    shutil.rmtree(DIR, ignore_errors=True)


atexit.register(clean_up)


def run(*args, code=0, limit=300, prefix=()):
    p = subprocess.run([*prefix, TANDEM, "train", *args], env=ENV, capture_output=True, text=True,
                       timeout=limit)
    if p.returncode != code:
        raise AssertionError("train %s: exit code %d, not %d\n%s\n%s" % (
            args, p.returncode, code, p.stdout[-2000:], p.stderr[-2000:]))
    return p


def write(name, lines):
    path = os.path.join(DIR, name)
    with open(path, "w") as f:
        f.write("".join(line + "\n" for line in lines))
    return path


def chat(question, answer):
    return json.dumps({"messages": [{"role": "user", "content": question},
                                    {"role": "assistant", "content": answer}]})


MORE = " It was so before, and it will be so for as long as anybody remembers to ask."
DATA = write("facts.jsonl", [chat(q % n, "%s is %s." % (n, c) + (MORE if n == "Velk" else ""))
                             for n, c in (("Zorblax", "purple"), ("Quimby", "green"), ("Velk", "blue"))
                             for q in ("What colour is %s?", "Tell me the colour of %s.")])


def show(job):
    return json.loads(run("show", job, "--json").stdout)


def wait_for(what, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        got = what()
        if got:
            return got
        time.sleep(0.05)
    raise AssertionError("waited %d s in vain" % seconds)


def holder(folder, lock):
    """The process that holds a lock of a job's folder, or None."""
    path = os.path.join(folder, lock)
    try:
        with open(path) as f:
            pid = int(f.read().split()[0])
    except (OSError, IndexError, ValueError):
        return None
    busy = subprocess.run(["flock", "-n", path, "true"]).returncode != 0
    return pid if busy else None


def nothing_runs(folder):
    for lock in ("runner.lock", "trainer.lock"):
        wait_for(lambda: holder(folder, lock) is None, 20)


def final_loss(job):
    return job["result"]["loss"]


# ---- undisturbed -----------------------------------------------------------------------------------

svg = os.path.join(DIR, "loss.svg")
p = run("-m", MODEL, "--data", DATA, "--name", "calm", *SMALL, "--epochs", str(EPOCHS), "--svg", svg, "--json")
calm = json.loads(p.stdout)
assert calm["state"] == "succeeded" and calm["attempts"] == 1, calm
assert calm["result"]["published"]["name"] == "ft:calm", calm
parity = calm["result"]["parity"]
assert abs(parity["loss_trainer"] - parity["loss_engine"]) < 0.05 and parity["targets"] > 0, parity
assert os.path.exists(DIR + "/data/adapters/calm/adapter.gguf")
assert "<svg" in open(svg).read() and "polyline" in open(svg).read()
steps = [json.loads(line) for line in open(calm["folder"] + "/progress.jsonl")]
assert [s["step"] for s in steps if "loss" in s] == list(range(1, 6 * EPOCHS + 1)), steps
assert os.stat(calm["folder"]).st_mode & 0o777 == 0o700
assert os.stat(DIR + "/state/jobs/jobs.db").st_mode & 0o777 == 0o600
nothing_runs(calm["folder"])
rows = json.loads(run("ls", "--json").stdout)
assert [r["name"] for r in rows] == ["calm"], rows
assert "calm" in run("ls").stdout and "step" in run("show", "calm").stdout
assert "published as ft:calm" in run("logs", "calm").stdout
print("published; loss %.4f to %.4f" % (steps[0]["loss"], final_loss(calm)))

p = run("-m", MODEL, "--data", DATA, "--name", "calm", code=1)
assert "--replace" in p.stderr, p.stderr

# What the engine says stands beside what the trainer noted, also where they differ; a cut adapter is refused.
again = os.path.join(DIR, "parity")
shutil.copytree(calm["folder"], again)
with open(again + "/result.json") as f:
    result = json.load(f)
result["parity"]["loss_trainer"] += 1
with open(again + "/result.json", "w") as f:
    json.dump(result, f)
p = subprocess.run([os.path.join(BIN, "tandem-trainer"), "--parity", again], capture_output=True, text=True)
told = json.loads(p.stdout)
assert told["loss_trainer"] - told["loss_engine"] > 0.9, told
os.truncate(again + "/adapter.gguf", os.path.getsize(again + "/adapter.gguf") // 2)
p = subprocess.run([os.path.join(BIN, "tandem-trainer"), "--parity", again], capture_output=True, text=True)
assert p.returncode == 1 and "adapter.gguf" in p.stderr, p.stderr

# Where the serving engine says something else, or nothing, the adapter is kept and not published.
shim = os.path.join(DIR, "bin")
os.mkdir(shim)
shutil.copy(TANDEM, shim)
with open(os.open(shim + "/tandem-trainer", os.O_WRONLY | os.O_CREAT, 0o700), "w") as f:
    f.write("""#!/bin/sh
real='%s'
[ "$1" = --parity ] || exec "$real" "$@"
[ ! -e "$2/../mute" ] || { echo "no such layer" >&2; exit 1; }
"$real" "$@" | sed 's/"loss_engine": *[0-9.e-]*/"loss_engine": 99.5/'
""" % os.path.abspath(os.path.join(BIN, "tandem-trainer")))
for name, words in (("apart", "99.5000 in the engine"), ("mute", "no such layer")):
    if name == "mute":
        open(DIR + "/state/jobs/mute", "w").close()
    p = subprocess.run([shim + "/tandem", "train", "-m", MODEL, "--data", DATA, "--name", name, *SMALL, "--max-steps", "1"],
                       env=ENV, capture_output=True, text=True, timeout=120)
    refused = show(name)
    assert p.returncode == 1 and refused["state"] == "failed", (p.returncode, refused)
    assert words in refused["error"]["message"] and "not published" in refused["error"]["message"], refused["error"]
    assert os.path.exists(refused["folder"] + "/adapter.gguf") and not os.path.exists(DIR + "/data/adapters/" + name)
    nothing_runs(refused["folder"])
os.unlink(DIR + "/state/jobs/mute")
print("refused: what the serving engine computes otherwise is not published")

# ---- killed again and again ------------------------------------------------------------------------

random.seed(7)
KEY = os.path.join(DIR, "cluster.key")
with open(os.open(KEY, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
    f.write(os.urandom(32).hex() + "\n")


def program(*words):
    """A process that may be killed with all it started, but for jobs."""
    return subprocess.Popen([TANDEM, *words], env=dict(ENV, TANDEM_KEY_FILE=KEY), stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True)


def end(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


# The gateway holds the queue while it lives; a node is what it serves with.
START = {"gateway": lambda: program("serve", "-m", "fake", "--listen", "127.0.0.1:0"),
         "node": lambda: program("node", "-m", "fake", "--listen", "127.0.0.1:0"),
         "command": lambda: program("train", "watch", job)}
victims = ["trainer", "gateway", "runner", "node", "command", "trainer"] * (KILLS // 6 + 1)
victims = victims[:KILLS]
random.shuffle(victims)
job = run("-m", MODEL, "--data", DATA, "--name", "wild", *SMALL, "--epochs", str(EPOCHS), "--detach").stdout.strip()
folder = show(job)["folder"]
others = {name: start() for name, start in START.items()}
atexit.register(lambda: [end(p) for p in others.values()])
killed = dict.fromkeys(["trainer", "runner", *START], 0)
for who in victims:
    time.sleep(random.uniform(0.2, 2.0))
    if show(job)["state"] != "running":
        break
    if who in START:
        alive = others[who].poll() is None
        end(others[who])
        killed[who] += alive
    else:
        pid = wait_for(lambda: holder(folder, who + ".lock") or show(job)["state"] != "running")
        if pid is not True:
            os.kill(pid, signal.SIGKILL)
            killed[who] += 1
    for name, p in others.items():
        if p.poll() is not None:
            others[name] = START[name]()
for p in others.values():
    end(p)
run("watch", job, limit=600)
wild = show(job)
assert wild["state"] == "succeeded", wild
assert abs(final_loss(wild) - final_loss(calm)) < 1e-3, (final_loss(wild), final_loss(calm))
assert filecmp.cmp(folder + "/adapter.gguf", calm["folder"] + "/adapter.gguf", shallow=False)
assert sum(killed.values()) == KILLS if RESULT else sum(killed.values()) > 0, killed
nothing_runs(folder)
if RESULT:
    with open(RESULT, "w") as f:
        json.dump({"date": time.strftime("%Y-%m-%d"), "kills": killed, "steps": 6 * EPOCHS, "attempts": wild["attempts"],
                   "loss": final_loss(wild), "loss_undisturbed": final_loss(calm), "adapter_identical": True}, f, indent=1)
        f.write("\n")
print("killed %s: the same adapter after %d attempts" % (killed, wild["attempts"]))

# ---- cancelled at every state ----------------------------------------------------------------------

LONG = ["-m", MODEL, "--data", DATA, *SMALL, "--epochs", "5000"]
first = run(*LONG, "--name", "first", "--detach").stdout.strip()
second = run(*LONG, "--name", "second", "--detach").stdout.strip()
assert show(second)["state"] == "queued"
assert "cancelled" in run("cancel", second).stdout
folder = show(first)["folder"]
p = run("rm", first, code=1)
assert "cancel it first" in p.stderr, p.stderr

# Ctrl-C ends the watching, not the job.
watcher = subprocess.Popen([TANDEM, "train", "watch", "first"], env=ENV, stderr=subprocess.PIPE, text=True)
wait_for(lambda: show(first)["step"] >= 3)
watcher.send_signal(signal.SIGINT)
said = watcher.communicate(timeout=20)[1]
assert watcher.returncode == 130 and "tandem train cancel first" in said, said
assert show(first)["state"] == "running" and holder(folder, "trainer.lock")
trainer = holder(folder, "trainer.lock")
run("cancel", "first")
done = show(first)
assert done["state"] == "cancelled" and done["checkpoints"], done
nothing_runs(folder)
assert not os.path.isdir("/proc/%d" % trainer)
p = run("cancel", first, code=2)
assert "has ended" in p.stderr, p.stderr
run("rm", first)
assert not os.path.exists(folder)
# A job that is cancelled before its trainer has loaded the model.
third = run(*LONG, "--name", "third", "--detach").stdout.strip()
run("cancel", third)
assert show(third)["state"] == "cancelled"
nothing_runs(show(third)["folder"])
print("cancelled while queued, starting and running; nothing is left running")

# ---- what a user can get wrong ---------------------------------------------------------------------

BASE = ["-m", MODEL, "--name", "bad", *SMALL]
bad = [
    (write("empty.jsonl", []), "no example"),
    (write("text.jsonl", ["hello"]), "line 1: not valid JSON"),
    (write("role.jsonl", [chat("a", "b"), '{"messages":[{"role":"bot","content":"x"}]}']), 'line 2: message 1 has role "bot"'),
    (write("masked.jsonl", ['{"messages":[{"role":"assistant","content":"x","weight":0}]}']), "line 1: no message"),
]
for path, words in bad:
    p = run(*BASE, "--data", path, code=2)
    assert words in p.stderr, p.stderr
p = run(*BASE, "--data", write("long.jsonl", [chat("a", "b" * (10 << 20))]), code=1)
assert "line 1" in p.stderr and "at most" in p.stderr, p.stderr
p = run(*BASE, "--data", DIR + "/nothing.jsonl", code=1)
assert "nothing.jsonl" in p.stderr, p.stderr
adapter = DIR + "/data/adapters/calm/adapter.gguf"
p = run("-m", adapter, "--data", DATA, "--name", "bad", code=2)
assert "adapter" in p.stderr, p.stderr
p = run("-m", DATA, "--data", DATA, "--name", "bad", code=2)
assert "GGUF" in p.stderr, p.stderr
p = run(*BASE, "--data", DATA, "--limit-memory", "0.3", code=2)
assert "0.3 GB may be used" in p.stderr, p.stderr
p = run(*BASE, "--data", DATA, "--disk-reserve", "1000000", code=1)
assert "to stay free" in p.stderr, p.stderr
p = run(*BASE, "--data", DATA, "--targets", "q,nose", code=2)
assert "nose" in p.stderr, p.stderr
p = run("-m", MODEL, "--data", DATA, "--name", "bad/name", code=2)
p = run("shwo", code=2)
assert "did you mean show" in p.stderr, p.stderr
assert not [r for r in json.loads(run("ls", "--json").stdout) if r["name"] == "bad"]

# What the file of settings says of new jobs is no matter of the other parts, the runner among them.
os.mkdir(DIR + "/config")
with open(DIR + "/config/tandem.ini", "w") as f:
    f.write("[train]\nrank = 2\nlearning-rate = 0.5\n")
ENV["TANDEM_CONFIG"] = DIR + "/config"
assert "calm" in run("ls").stdout
p = run("-m", MODEL, "--data", DATA, "--name", "bad", "--rank", "1000", code=2)
assert "--rank is 1000" in p.stderr, p.stderr

# Too long for max_tokens: only the tokenizer can tell.
p = run(*BASE, "--data", write("tokens.jsonl", [chat("a", "word " * 300)]), "--max-tokens", "64", code=1)
assert "line 1" in p.stderr and "at most 64" in p.stderr, p.stderr
# A disk that is full when the checkpoint is written (a file that may not grow is the same to the trainer);
# what is written beside it is smaller.
p = run("-m", MODEL, "--data", DATA, "--name", "full", *SMALL, "--epochs", "1", code=1,
        prefix=("sh", "-c", 'ulimit -f 2600; exec "$@"', "sh"))
assert "checkpoint" in p.stderr, p.stderr
full = show("full")
assert full["state"] == "failed" and full["error"]["message"], full
nothing_runs(full["folder"])
# Memory that runs out while the weights are read: nobody could tell before.
p = run("-m", MODEL, "--data", DATA, "--name", "narrow", *SMALL, "--weights", "dense", code=1,
        prefix=("sh", "-c", 'ulimit -v 900000; exec "$@"', "sh"))
assert "no memory for the weights" in p.stderr, p.stderr
nothing_runs(show("narrow")["folder"])
# A time limit.
p = run(*LONG, "--name", "late", "--limit-time", "3", code=1)
assert "limit of 3 s" in p.stderr, p.stderr
nothing_runs(show("late")["folder"])
print("bad data, bases, limits and a full disk are told clearly")
PYTHON
