#!/bin/sh
# tandem train through a real Slurm of one node, which this test starts for itself: Debian's packages slurm-wlm and
# munge, all configuration in a temporary folder. Skipped, and said so, where they are not installed.
set -eu
PATH=$PATH:/usr/sbin:/sbin
export PATH
for program in munged mungekey slurmctld slurmd sbatch squeue scancel; do
    if ! command -v "$program" >/dev/null 2>&1; then
        echo "skipped: there is no $program; install slurm-wlm and munge"
        exit 77
    fi
done
if [ "$(id -u)" -ne 0 ]; then
    echo "skipped: Slurm's daemons are started as root"
    exit 77
fi
exec python3 -B - <<'PYTHON'
import atexit, filecmp, glob, json, os, re, shutil, signal, socket, subprocess, tempfile, time

BIN = os.environ.get("TANDEM_BIN", "build")
TANDEM = os.path.join(BIN, "tandem")
MODEL = os.environ["TANDEM_TEST_MODEL"]
DIR = tempfile.mkdtemp(prefix="tandem-slurm-")
HOST = socket.gethostname().split(".")[0]
daemons = []


def clean_up():
    for lock in glob.glob(DIR + "/sta te's/jobs/*/*.lock"):
        with open(lock) as f:
            words = f.read().split()
        if words:
            try:
                os.kill(int(words[0]), signal.SIGKILL)
            except (ProcessLookupError, ValueError):
                pass
    for p in reversed(daemons):
        p.terminate()
        try:
            p.wait(10)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
    shutil.rmtree(DIR, ignore_errors=True)


atexit.register(clean_up)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


os.chmod(DIR, 0o755)
for name in ("ctld", "spool"):
    os.mkdir(os.path.join(DIR, name))
cores = len(os.sched_getaffinity(0))
with open(DIR + "/slurm.conf", "w") as f:
    f.write(f"""ClusterName=tandem
SlurmctldHost={HOST}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={DIR}/munge.socket
CredType=cred/munge
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmctldPidFile={DIR}/slurmctld.pid
SlurmdPidFile={DIR}/slurmd.pid
StateSaveLocation={DIR}/ctld
SlurmdSpoolDir={DIR}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
NodeName={HOST} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes={HOST} Default=YES MaxTime=INFINITE State=UP
""")
ENV = dict(os.environ, SLURM_CONF=DIR + "/slurm.conf", TANDEM_STATE=DIR + "/sta te's", TANDEM_DATA=DIR + "/data")


def daemon(*words):
    log = open(os.path.join(DIR, os.path.basename(words[0]) + ".log"), "w")
    daemons.append(subprocess.Popen(words, env=ENV, stdout=log, stderr=log))


def wait_for(what, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        got = what()
        if got:
            return got
        time.sleep(0.1)
    logs = "".join(open(f).read()[-1500:] for f in glob.glob(DIR + "/*.log"))
    raise AssertionError("waited %d s in vain\n%s" % (seconds, logs))


subprocess.run(["mungekey", "--create", "--keyfile", DIR + "/munge.key"], check=True)
daemon("munged", "--foreground", "--force", "--key-file=" + DIR + "/munge.key", "--socket=" + DIR + "/munge.socket",
       "--pid-file=" + DIR + "/munged.pid", "--log-file=" + DIR + "/munged.log", "--seed-file=" + DIR + "/munge.seed")
wait_for(lambda: os.path.exists(DIR + "/munge.socket"))
daemon("slurmctld", "-D", "-f", DIR + "/slurm.conf")
daemon("slurmd", "-D", "-f", DIR + "/slurm.conf", "-N", HOST)


def sinfo():
    p = subprocess.run(["sinfo", "--noheader", "--format=%T"], env=ENV, capture_output=True, text=True)
    return p.returncode == 0 and p.stdout.strip() == "idle"


wait_for(sinfo)


def run(*args, code=0, limit=200):
    p = subprocess.run([TANDEM, "train", *args], env=ENV, capture_output=True, text=True, timeout=limit)
    if p.returncode != code:
        logs = "".join(open(f).read()[-1500:] for f in glob.glob(DIR + "/*.log"))
        raise AssertionError("train %s: exit code %d, not %d\n%s\n%s\n%s" % (
            args, p.returncode, code, p.stdout[-2000:], p.stderr[-2000:], logs))
    return p


def show(job):
    return json.loads(run("show", job, "--json").stdout)


def queue():
    p = subprocess.run(["squeue", "--noheader", "--format=%i"], env=ENV, capture_output=True, text=True, check=True)
    return p.stdout.split()


def slurm_id(job):
    told = [re.search(r"\(slurm (\d+)\)", e["message"]) for e in show(job)["events"]]
    return [m.group(1) for m in told if m]


with open(DIR + "/facts.jsonl", "w") as f:
    for i in range(6):
        f.write(json.dumps({"messages": [{"role": "user", "content": "What is number %d?" % i},
                                         {"role": "assistant", "content": "It is %d." % (i * 7)}]}) + "\n")
COMMON = ["-m", MODEL, "--data", DIR + "/facts.jsonl", "--rank", "2", "--targets", "q,v", "--batch", "1", "--threads",
          "1", "--checkpoint-steps", "1", "--executor", "slurm"]

# The folder has a name that a shell would not like. The runner is killed: the next one finds the same job of Slurm. Slurm's job is killed: it is submitted again.
job = run(*COMMON, "--name", "two", "--epochs", "2", "--detach", "--executor-option", "partition=main",
          "--executor-option", "cpus-per-task=1").stdout.strip()
folder = show(job)["folder"]
wait_for(lambda: show(job)["step"] >= 2)
with open(folder + "/runner.lock") as f:
    os.kill(int(f.read().split()[0]), signal.SIGKILL)
subprocess.Popen([TANDEM, "train", "watch", job], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
wait_for(lambda: len(slurm_id(job)) == 2)
first, again = slurm_id(job)
assert first == again, (first, again)
subprocess.run(["scancel", "--signal=KILL", "--full", first], env=ENV, check=True)
run("watch", job)
two = show(job)
assert two["state"] == "succeeded" and two["executor"] == "slurm" and two["attempts"] == 2, two
assert os.path.exists(DIR + "/data/adapters/two/adapter.gguf")
wait_for(lambda: not queue(), 20)
assert len(set(slurm_id(job))) == 2
steps = [json.loads(line).get("step") for line in open(folder + "/progress.jsonl")]
assert max(steps) == 12, steps

# Cancelled while running, and while it waits for a machine.
job = run(*COMMON, "--name", "three", "--epochs", "5000", "--detach", "--executor-option", "nodes=1",
          "--executor-option", "cpus-per-task=%d" % cores).stdout.strip()
wait_for(lambda: show(job)["step"] >= 1)
waits = run(*COMMON, "--name", "four", "--epochs", "1", "--detach").stdout.strip()
wait_for(lambda: slurm_id(waits))
run("cancel", waits)
assert show(waits)["state"] == "cancelled" and show(waits)["step"] == 0
run("cancel", job)
assert show(job)["state"] == "cancelled" and show(job)["checkpoints"]
wait_for(lambda: not queue(), 20)

# What Slurm refuses is told in its words.
p = run(*COMMON, "--name", "five", "--epochs", "1", "--executor-option", "partition=nowhere", code=1)
assert "partition" in p.stderr and "sbatch" in p.stderr, p.stderr
p = run(*COMMON, "--name", "six", "--executor-option", "colour=red", code=2)
assert "colour" in p.stderr, p.stderr
print("Slurm: to the end, re-attached, submitted again, cancelled, refused")
PYTHON
