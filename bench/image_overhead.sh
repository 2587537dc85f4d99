#!/bin/sh
# image_overhead.sh [RUNS]: what our worker and gateway add to the library's own command line, per picture.
# Prints JSON.
#
#   library  its command line draws 1 and then 10 pictures of the test model in one process (50 steps each, so
#            that a picture takes as long as a small one of a real model); the difference by nine is the time
#            of one picture, without start and loading
#   command  the same with "tandem image": what the worker adds
#   gateway  one picture over HTTP from a server that has the model loaded, from the request to the last byte: what
#            worker, gateway, PNG and base64 add
#
# Runs alternate. What is compared is the quickest of RUNS (default 5), in wall time and in CPU time of all the
# processes: other work on the machine only ever adds. The bounds, of the gateway's line, are 2 % and 50 ms.
# TANDEM_BIN: the build folder. SD_CLI: an sd-cli to compare with (default: the command line in the
# prebuilt library). IMAGE_MODEL: another model than ours.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
launcher=$("$root/scripts/image-library.sh")
model=${IMAGE_MODEL:-$(TANDEM_BIN=$bin "$root/scripts/image-model.sh")}
export bin launcher model SD_CLI="${SD_CLI:-}" RUNS="${1:-5}"
[ -n "$SD_CLI" ] || export TANDEM_IMAGE_WORKER="$launcher"
PYTHONPATH=$root/tests TANDEM_BIN=$bin exec python3 - <<'PYTHON'
import re
import resource
import tempfile

from e2e import *

STEPS, SIDE, MANY = 50, 64, 10
BOUND_SHARE, BOUND_S = 0.02, 0.050
text = open(os.environ["launcher"]).read()
library, python = re.search(r"PYTHONPATH='([^']*)'.* exec '([^']*)'", text).groups()
env = dict(os.environ, PYTHONPATH=library, OMP_WAIT_POLICY="passive")
folder = tempfile.TemporaryDirectory()
same = ["--steps", str(STEPS), "--cfg-scale", "3", "--seed", "7"]


def ours(n):
    return [os.environ["bin"] + "/tandem", "image", "a red circle", "--image-model", os.environ["model"], "--size",
            "%dx%d" % (SIDE, SIDE), "--steps", str(STEPS), "--cfg", "3", "--seed", "7", "--count", str(n), "--show", "none",
            "--image-threads", "2", "-o", folder.name + "/ours.png"]


def theirs(n):
    size = ["-W", str(SIDE), "-H", str(SIDE)] if os.environ["SD_CLI"] else ["--width", str(SIDE), "--height", str(SIDE)]
    begin = [os.environ["SD_CLI"], "-b"] if os.environ["SD_CLI"] else [python, "-m", "inferna.sd", "txt2img", "--batch"]
    return begin + [str(n), "-m", os.environ["model"], "-p", "a red circle", "--threads", "2", *size, *same,
                    "-o" if os.environ["SD_CLI"] else "--output", folder.name + "/theirs.png"]


def run(command):
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    p = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if p.returncode != 0:
        raise SystemExit("%s ended with %d: %s" % (command[0], p.returncode, p.stdout[-2000:]))
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu(pids):
    """Seconds that living processes have used; None where the system does not tell."""
    ticks = 0
    for pid in pids:
        try:
            with open("/proc/%d/stat" % pid) as f:
                ticks += sum(int(v) for v in f.read().rsplit(")", 1)[1].split()[11:13])
        except OSError:
            return None
    return ticks / os.sysconf("SC_CLK_TCK")


class Served:
    def __init__(self):
        self.server = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--image-model", os.environ["model"],
                              "--image-threads", "2")
        self.ask(1)
        self.pids = [self.server.p.pid, get(self.server.port, "/v1/tandem/status")[1]["images"]["pid"]]

    def ask(self, n):
        status, answer = post(self.server.port, "/v1/images/generations",
                              {"prompt": "a red circle", "n": n, "size": "%dx%d" % (SIDE, SIDE), "steps": STEPS, "cfg": 3,
                               "seed": 7})
        check(status == 200 and len(answer["data"]) == n, status, answer)

    def run(self):
        """(wall, CPU) of one picture, each the quickest of a few."""
        rows = []
        for _ in range(3):
            before, begun = cpu(self.pids), time.monotonic()
            self.ask(1)
            wall, after = time.monotonic() - begun, cpu(self.pids)
            rows.append((wall, after - before if before is not None else 0))
        return [min(r[0] for r in rows), min(r[1] for r in rows)]


served = Served()
rows = {"command": [], "library": [], "gateway": []}
for _ in range(int(os.environ["RUNS"])):
    for name, command in (("command", ours), ("library", theirs)):
        rows[name].append(run(command(1)) + run(command(MANY)))
    rows["gateway"].append(served.run())
served.server.stop()
result = {"steps": STEPS, "size": "%dx%d" % (SIDE, SIDE), "runs": int(os.environ["RUNS"]),
          "against": os.environ["SD_CLI"] or "python -m inferna.sd"}
for name, r in rows.items():
    wall, used, *many = (min(x) for x in zip(*r))
    more = {"one_with_start_s": round(wall, 3)} if many else {}
    if many:
        wall, used = ((b - a) / (MANY - 1) for a, b in zip((wall, used), many))
    result[name] = {"picture_s": round(wall, 4), "picture_cpu_s": round(used, 4), **more}
library = result["library"]
for name in ("command", "gateway"):
    r = result[name]
    r["overhead_ms"] = round(1000 * (r["picture_s"] - library["picture_s"]), 2)
    r["overhead_share"] = round(r["picture_s"] / library["picture_s"] - 1, 4)
    r["overhead_cpu_share"] = round(r["picture_cpu_s"] / library["picture_cpu_s"] - 1, 4)
gateway = result["gateway"]
result["within_bounds"] = gateway["overhead_share"] <= BOUND_SHARE and gateway["overhead_ms"] <= 1000 * BOUND_S
print(json.dumps(result))
PYTHON
