#!/usr/bin/env bash
# JavaScript clients as people install them, of pinned versions, against the real model and a scripted one.
set -euo pipefail
cd "$(dirname "$0")"
modules=$(../scripts/test-deps.sh js)
python=$(../scripts/test-deps.sh python)
cp clients/*.mjs "$modules/" # modules are looked for beside the file that imports them
exec "$python" clients/serve.py real scripted -- bash -c 'failed=0
for client in openai_sdk openai_images_sdk anthropic_sdk vercel_ai ollama_sdk; do
    node "$0/$client.mjs" || failed=1
done
exit $failed' "$modules"
