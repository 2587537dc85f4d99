#!/bin/sh
# image_overhead.sh [RUNS]: what our worker adds to the library's own command line, per picture. Prints JSON.
#
# Both draw 1 and then 10 pictures of the test model in one process (50 steps each, so that a picture takes as long as a
# small one of a real model); the difference by nine is the time of one picture, without start and loading.
# Runs alternate; the medians of RUNS (default 5) are compared, in wall time and, which other work on the
# machine disturbs less, in CPU time of all the processes. The bounds are 2 % and 50 ms.
# TANDEM_BIN: the build folder. SD_CLI: an sd-cli to compare with (default: the command line in the
# prebuilt library). IMAGE_MODEL: another model than ours.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
launcher=$("$root/scripts/image-library.sh")
model=${IMAGE_MODEL:-$(TANDEM_BIN=$bin "$root/scripts/image-model.sh")}
export bin launcher model SD_CLI="${SD_CLI:-}" RUNS="${1:-5}"
[ -n "$SD_CLI" ] || export TANDEM_IMAGE_WORKER="$launcher"
exec python3 - <<'PYTHON'
import json
import os
import re
import resource
import statistics
import subprocess
import tempfile
import time

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


rows = {"tandem": [], "library": []}
for _ in range(int(os.environ["RUNS"])):
    for name, command in (("tandem", ours), ("library", theirs)):
        one, many = run(command(1)), run(command(MANY))
        rows[name].append([(b - a) / (MANY - 1) for a, b in zip(one, many)] + [one[0]])
result = {"steps": STEPS, "size": "%dx%d" % (SIDE, SIDE), "runs": int(os.environ["RUNS"]),
          "against": os.environ["SD_CLI"] or "python -m inferna.sd"}
for name, r in rows.items():
    wall, cpu, whole = (statistics.median(x) for x in zip(*r))
    result[name] = {"picture_s": round(wall, 4), "picture_cpu_s": round(cpu, 4), "one_with_start_s": round(whole, 3)}
a, b = result["tandem"], result["library"]
result["overhead_ms"] = round(1000 * (a["picture_s"] - b["picture_s"]), 2)
result["overhead_share"] = round(a["picture_s"] / b["picture_s"] - 1, 4)
result["overhead_cpu_share"] = round(a["picture_cpu_s"] / b["picture_cpu_s"] - 1, 4)
result["within_bounds"] = result["overhead_share"] <= BOUND_SHARE and result["overhead_ms"] <= 1000 * BOUND_S
print(json.dumps(result))
PYTHON
