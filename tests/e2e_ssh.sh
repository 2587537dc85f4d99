#!/bin/sh
# tandem train on "other" machines: an sshd of its own on loopback, under two names, with a folder of its own. Skipped,
# and said so, where there is no sshd.
set -eu
PATH=$PATH:/usr/sbin:/sbin
export PATH
for program in sshd ssh scp ssh-keygen ps setsid; do
    if ! command -v "$program" >/dev/null 2>&1; then
        echo "skipped: there is no $program; install openssh-server, openssh-client and procps"
        exit 77
    fi
done
exec python3 -B - <<'PYTHON'
import atexit, glob, json, os, shutil, signal, socket, subprocess, tempfile, time

BIN = os.environ.get("TANDEM_BIN", "build")
TANDEM = os.path.join(BIN, "tandem")
MODEL = os.environ["TANDEM_TEST_MODEL"]
DIR = tempfile.mkdtemp(prefix="tandem-ssh-")
STATE = DIR + "/sta te's"
FAR = DIR + "/far"
ENV = dict(os.environ, TANDEM_STATE=STATE, TANDEM_DATA=DIR + "/data")
sshd = None


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def clean_up():
    for lock in glob.glob(glob.escape(STATE) + "/jobs/*/*.lock") + glob.glob(FAR + "/*/*.lock"):
        with open(lock) as f:
            words = f.read().split()
        if words:
            kill(int(words[0]))
    if sshd:
        sshd.terminate()
        sshd.wait()
    shutil.rmtree(DIR, ignore_errors=True)


atexit.register(clean_up)
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
for name in ("host", "user"):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", DIR + "/" + name], check=True)
shutil.copy(DIR + "/user.pub", DIR + "/authorized")
with open(DIR + "/sshd.conf", "w") as f:
    f.write(f"""Port {port}
ListenAddress 127.0.0.1
HostKey {DIR}/host
AuthorizedKeysFile {DIR}/authorized
PidFile {DIR}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
""")
with open(DIR + "/ssh.conf", "w") as f:
    f.write(f"""Host spark1 spark2
    HostName 127.0.0.1
    Port {port}
    IdentityFile {DIR}/user
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile {DIR}/known
    LogLevel ERROR
""")
if os.getuid() == 0:
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)


def sshd_start():
    global sshd
    sshd = subprocess.Popen([shutil.which("sshd"), "-D", "-e", "-f", DIR + "/sshd.conf"],
                            stderr=open(DIR + "/sshd.log", "a"))


def wait_for(what, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        got = what()
        if got:
            return got
        time.sleep(0.1)
    raise AssertionError("waited %d s in vain\n%s" % (seconds, open(DIR + "/sshd.log").read()[-1500:]))


def reachable():
    return subprocess.run(["ssh", "-F", DIR + "/ssh.conf", "-oBatchMode=yes", "spark1", "true"],
                          capture_output=True).returncode == 0


sshd_start()
wait_for(reachable, 20)


def run(*args, code=0, limit=200):
    p = subprocess.run([TANDEM, "train", *args], env=ENV, capture_output=True, text=True, timeout=limit)
    if p.returncode != code:
        raise AssertionError("train %s: exit code %d, not %d\n%s\n%s\n%s" % (
            args, p.returncode, code, p.stdout[-2000:], p.stderr[-2000:], open(DIR + "/sshd.log").read()[-1500:]))
    return p


def show(job):
    return json.loads(run("show", job, "--json").stdout)


with open(DIR + "/facts.jsonl", "w") as f:
    for i in range(6):
        f.write(json.dumps({"messages": [{"role": "user", "content": "What is number %d?" % i},
                                         {"role": "assistant", "content": "It is %d." % (i * 7)}]}) + "\n")
DATA = ["-m", MODEL, "--data", DIR + "/facts.jsonl", "--executor", "ssh", "--executor-option", "config=" + DIR + "/ssh.conf"]
TUNING = ["--rank", "2", "--targets", "q,v", "--batch", "1", "--threads", "1", "--checkpoint-steps", "1"]
THERE = ["--executor-option", "hosts=spark1", "--executor-option", "folder=" + FAR]

# The runner is killed on the way, and so is the connection: the work goes on there, and comes back.
job = run(*DATA, *TUNING, *THERE, "--name", "one", "--epochs", "3", "--detach").stdout.strip()
folder = show(job)["folder"]
wait_for(lambda: show(job)["step"] >= 2)
with open(folder + "/runner.lock") as f:
    kill(int(f.read().split()[0]))
sshd.terminate()
sshd.wait()
watcher = subprocess.Popen([TANDEM, "train", "watch", job], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
time.sleep(2)
sshd_start()
assert watcher.wait(120) == 0
one = show(job)
assert one["state"] == "succeeded" and one["attempts"] == 1, one
lines = [json.loads(line) for line in open(folder + "/progress.jsonl")]
assert [x["step"] for x in lines if "loss" in x] == list(range(1, 19)), lines
assert os.path.exists(DIR + "/data/adapters/one/adapter.gguf")
far = FAR + "/" + job
assert json.load(open(far + "/job.json"))["data"] == far + "/data.jsonl"
assert os.stat(far).st_mode & 0o777 == 0o700

# Cancelled: nothing is left there.
job = run(*DATA, *TUNING, *THERE, "--name", "two", "--epochs", "5000", "--detach").stdout.strip()
wait_for(lambda: show(job)["step"] >= 1)
pid = int(open(FAR + "/" + job + "/trainer.lock").read().split()[0])
assert os.path.isdir("/proc/%d" % pid)
run("cancel", job)
assert show(job)["state"] == "cancelled"
wait_for(lambda: not os.path.isdir("/proc/%d" % pid), 20)
assert glob.glob(FAR + "/" + job + "/checkpoints/step-*/COMPLETE")

# Two machines and a command of their own, in a folder that both see: every word arrives as it was written.
script = DIR + "/ranks.sh"
with open(script, "w") as f:
    f.write('for word; do folder=$word; done; cd "$folder" || exit 9; printf "%s\\n" "$@" >words.$1\n'
            '[ "$1" = 0 ] || { sleep 600; exit 0; }\n'
            'while [ ! -e words.1 ]; do sleep 0.1; done\n'
            'printf \'{"status":"failed","code":"invalid","error":"it was only a test"}\' >result.json; exit 1\n')
odd = "a'b \"c\" $HOME `id`; {nothing} *"
trainer = ["/bin/sh", script, "{rank}", "--nnodes={nodes}", "--rdzv-endpoint={master}:{port}", odd]
p = run(*DATA, "--name", "three", "--executor-option", "hosts=spark1,spark2", "--executor-option", "rendezvous_port=1234",
        *["--trainer=" + word for word in trainer], code=1)
assert "it was only a test" in p.stderr, p.stderr
folder = show("three")["folder"]
for rank in ("0", "1"):
    words = open(folder + "/words." + rank).read().splitlines()
    assert words == [rank, "--nnodes=2", "--rdzv-endpoint=spark1:1234", odd, folder], words
pid = int(open(folder + "/remote.run.1").read().split()[0])
wait_for(lambda: not os.path.isdir("/proc/%d" % pid), 20)

# torchrun between the two, where there is a PyTorch: gloo on the CPU, one process on each.
PYTORCH = os.environ.get("TORCH_PYTHON")
if PYTORCH:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        meet = s.getsockname()[1]
    recipe = os.path.join(os.environ["TANDEM_SOURCE"], "share/recipes/train_peft.py")
    trainer = [PYTORCH, "-m", "torch.distributed.run", "--nnodes={nodes}", "--node-rank={rank}",
               "--nproc-per-node=1", "--master-addr={master}", "--master-port={port}", recipe, "--tandem",
               os.path.abspath(BIN)]
    run(*DATA, "--rank", "2", "--targets", "q,v", "--batch", "2", "--epochs", "1", "--threads", "1", "--name", "torch",
        "--executor-option", "hosts=spark1,spark2", "--executor-option", "master=127.0.0.1",
        "--executor-option", "rendezvous_port=%d" % meet, *["--trainer=" + word for word in trainer], limit=900)
    torch = show("torch")
    assert torch["state"] == "succeeded" and torch["step"] == 3 and torch["attempts"] == 1, torch
    assert os.path.exists(DIR + "/data/adapters/torch/adapter.gguf")
    print("torchrun: two ranks met and trained one adapter")

# What cannot be is told.
p = run(*DATA, *TUNING, "--name", "four", code=2)
assert "hosts=" in p.stderr, p.stderr
p = run(*DATA, *TUNING, "--name", "four", "--executor-option", "hosts=-oProxyCommand=x", code=2)
assert "no host's name" in p.stderr, p.stderr
p = run(*DATA, *TUNING, "--name", "four", "--executor-option", "hosts=spark1", "--executor-option", "folder=/a;b", code=2)
assert "whole path" in p.stderr, p.stderr
p = run(*DATA, *TUNING, "--name", "four", "--executor-option", "hosts=nowhere.invalid", code=1)
assert "nowhere.invalid" in p.stderr, p.stderr
print("ssh: re-attached over a lost connection, cancelled, two ranks, refused")
PYTHON
