#!/usr/bin/env bash
# Two thousand made-up requests over all routes; the fake engine behind them. TANDEM_SEED repeats a run,
# TANDEM_CASES says how many.
set -euo pipefail
cd "$(dirname "$0")"
python=$(../scripts/test-deps.sh python)
PYTHONPATH=$PWD exec "$python" - "${TANDEM_CASES:-2000}" <<'PYTHON'
import subprocess
import sys

from e2e import *

server = Program("serve", "-m", "fake", "--listen", "127.0.0.1:0", "--parallel", "4", "--image-model", "fake:0")
worker = server.worker()
code = subprocess.run([sys.executable, "clients/generated.py", str(server.port), sys.argv[1]], timeout=1000).returncode
check(server.worker() == worker, "the worker ended:", log_tail(server))
wait_for("silence", lambda: get(server.port, "/v1/tandem/status")[1]["requests"] == [])
server.stop()
sys.exit(code)
PYTHON
