#!/bin/sh
# The golden replies have the shapes of tests/schemas, and schema_check.py finds what is planted in them.
set -eu
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tandem

python=
for p in python3 "$cache"/clients/python-*/bin/python; do
    if "$p" -c 'import jsonschema, referencing' 2>/dev/null; then
        python=$p
        break
    fi
done
if [ -z "$python" ]; then
    echo "skipped: no Python here has the jsonschema package"
    exit 77
fi

"$python" "$root/tests/schema_check.py" --golden "$root/tests/golden"
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$root/tests "$python" - "$root/tests/golden" <<'END'
import json, os, re, sys
import schema_check


def golden(name):
    with open(os.path.join(sys.argv[1], name)) as f:
        return f.read()


def cut(text, pattern):
    changed, n = re.subn(pattern, "", text, count=1, flags=re.S)
    assert n == 1, pattern
    return changed


def event(name):
    return r"event: %s\n[^\n]*\n\n" % re.escape(name)


responses, messages, lines = golden("responses_all.sse"), golden("messages_all.sse"), golden("ollama_chat.ndjson")
chat = ('data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
        '"delta":{"content":"x"},"logprobs":null,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
pictures = "".join('event: %s\ndata: %s\n\n' % (v["type"], json.dumps(v)) for v in [
    {"type": "image_generation.progress", "index": 0, "n": 1, "step": 1, "steps": 2, "step_s": 0.1, "eta_s": 0.1},
    {"type": "image_generation.partial_image", "b64_json": "AAAA", "partial_image_index": 0, "index": 0, "step": 1,
     "created_at": 1, "size": "64x64", "quality": "low", "background": "opaque", "output_format": "png"},
    {"type": "image_generation.completed", "b64_json": "AAAA", "index": 0, "seed": 7, "created_at": 1, "size": "64x64",
     "quality": "low", "background": "opaque", "output_format": "png",
     "usage": {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0,
               "input_tokens_details": {"text_tokens": 0, "image_tokens": 0}}}])
error = {"method": "POST", "path": "/v1/messages", "status": 400, "content_type": "application/json", "whole": True,
         "body": '{"type":"error","error":{"type":"invalid_request_error","message":"no"}}'}

assert schema_check.stream_check("chat", chat) == []
assert schema_check.stream_check("images", pictures) == []
assert schema_check.exchange_check(error) == []
planted = {
    "responses, an event is missing": ("responses", cut(responses, event("response.output_item.added"))),
    "responses, no end": ("responses", cut(responses, event("response.completed"))),
    "responses, a word is missing": ("responses", responses.replace('"delta":" read."', '"delta":"read."')),
    "responses, an unknown member": ("responses", responses.replace('"user":null', '"user":null,"x":1', 1)),
    "responses, another name": ("responses", responses.replace("event: response.completed", "event: response.done")),
    "responses, another number": ("responses", responses.replace('"sequence_number":5', '"sequence_number":6', 1)),
    "messages, no begin": ("messages", cut(messages, event("message_start"))),
    "messages, no end": ("messages", cut(messages, event("message_stop"))),
    "messages, an open block": ("messages", cut(messages, event("content_block_stop"))),
    "messages, another reason": ("messages", messages.replace('"tool_use","stop_sequence"', '"done","stop_sequence"')),
    "ollama, no end": ("ollama_chat", lines.rsplit("\n", 2)[0]),
    "ollama, no JSON": ("ollama_chat", lines + "data: x\n"),
    "chat, no [DONE]": ("chat", chat.replace("data: [DONE]\n\n", "")),
    "chat, never finished": ("chat", chat.replace('"stop"', "null")),
    "chat, an error and [DONE]": ("chat", 'data: {"error":{"message":"x","type":"server_error","code":null,'
                                          '"param":null}}\n\ndata: [DONE]\n\n'),
    "chat, nothing": ("chat", ": tandem\n\n"),
    "images, no end": ("images", cut(pictures, event("image_generation.completed"))),
    "images, no picture": ("images", pictures.replace('"b64_json": "AAAA", "index": 0, "seed"', '"index": 0, "seed"')),
    "images, another number": ("images", pictures.replace('"partial_image_index": 0', '"partial_image_index": 1')),
    "images, another picture": ("images", pictures.replace('"index": 0, "seed"', '"index": 1, "seed"')),
    "images, an unknown member": ("images", pictures.replace('"seed": 7', '"seed": 7, "x": 1')),
}
missed = [name for name, (kind, text) in planted.items() if not schema_check.stream_check(kind, text)]
for change in ({"body": '{"error":{"message":"no"}}'}, {"body": "no"}, {"content_type": "text/plain"}):
    if not schema_check.exchange_check({**error, **change}):
        missed.append("an exchange with %s" % json.dumps(change))
print("\n".join(missed) if missed else "every planted fault was found")
sys.exit(1 if missed else 0)
END
