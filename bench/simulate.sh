#!/bin/sh
# simulate.sh [NODES [REQUESTS [SEED]]]: time and memory of the fleet simulator, by default of a thousand nodes and a
# million requests. Prints JSON. The bounds are 30 s of one core and 2 GiB; missed, it ends with 3.
# TANDEM_BIN: the build folder.
. "$(dirname -- "$0")/../scripts/lib.sh"

bin=$(CDPATH= cd -- "${TANDEM_BIN:-$root/build}" && pwd)
export bin TANDEM_SHARE="$root/share" NODES="${1:-1000}" REQUESTS="${2:-1000000}" SEED="${3:-3}"
exec python3 - <<'PYTHON'
import json
import os
import resource
import subprocess
import sys
import time

command = [os.environ["bin"] + "/tandem", "plan", "simulate", "--json", "--nodes", os.environ["NODES"],
           "--requests", os.environ["REQUESTS"], "--seed", os.environ["SEED"]]
start = time.monotonic()
run = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
wall = time.monotonic() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
cpu = used.ru_utime + used.ru_stime
peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"nodes": run["nodes"], "requests": run["arrived"], "completed": run["completed"], "seed": run["seed"],
                  "cpu_s": round(cpu, 2), "wall_s": round(wall, 2), "peak_bytes": peak,
                  "us_per_request": round(cpu / run["arrived"] * 1e6, 2), "utilisation": run["utilisation"],
                  "ttft_s": run["ttft_s"], "tpot_s": run["tpot_s"], "digest": run["digest"]}, indent=1))
sys.exit(0 if cpu <= 30 and peak <= 2 << 30 and run["completed"] == run["arrived"] else 3)
PYTHON
