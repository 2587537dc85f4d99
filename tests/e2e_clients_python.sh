#!/usr/bin/env bash
# Python clients as people install them, of pinned versions, against the real model and a scripted one.
set -euo pipefail
cd "$(dirname "$0")"
python=$(../scripts/test-deps.sh python)
exec "$python" clients/serve.py real scripted -- bash -c 'failed=0
for client in openai_sdk openai_images_sdk openai_tuning_sdk anthropic_sdk langchain_openai_sdk ollama_sdk; do
    "$0" "clients/$client.py" || failed=1
done
exit $failed' "$python"
