#!/usr/bin/env bash
# Coding agents from their npm packages, without a person and without a network: a scripted engine makes one
# fixed tool call, the agent runs it, sends back what came out and prints the final answer.
# AGENTS names some of them alone.
set -euo pipefail
cd "$(dirname "$0")"
modules=$(../scripts/test-deps.sh agents)
python=$(../scripts/test-deps.sh python)
alone=
if unshare -rn true 2>/dev/null; then
    alone="unshare -rn"
else
    echo "without a network namespace: this machine does not permit one"
fi
# shellcheck disable=SC2086  # a command and its option, or nothing
PYTHONPATH=$PWD:$PWD/clients exec $alone "$python" clients/agents.py "$modules" ${AGENTS:-}
