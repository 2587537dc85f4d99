#!/usr/bin/env python3
"""Holds replies of the server against the JSON schemas in tests/schemas, and streams against the rules of
their order.

  schema_check.py FILE...        recorded exchanges: one JSON object each, with "method", "path", "status",
                                 "content_type", "body" and "whole" (false: the client left early)
  schema_check.py --golden DIR   the golden replies of the dialects' unit tests

A program uses exchange_check(row), which returns a list of what is wrong. Needs the jsonschema package.
"""

import functools
import json
import os
import re
import sys

import jsonschema
import referencing

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schemas")

# path without /v1 -> schema of the reply sent whole. A name with "_event" added is the stream's.
WHOLE = {
    "/chat/completions": "chat",
    "/completions": "text",
    "/responses": "responses",
    "/messages": "messages",
    "/messages/count_tokens": "count_tokens",
    "/api/chat": "ollama_chat",
    "/api/generate": "ollama_generate",
    "/api/tags": "ollama_tags",
    "/api/ps": "ollama_ps",
    "/api/show": "ollama_show",
    "/api/version": "ollama_version",
    "/embeddings": "embeddings",
    "/rerank": "rerank",
    "/reranking": "rerank",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
    "/apply-template": "apply_template",
    "/images/generations": "images",
    "/images/edits": "images",
    "/models": "models",
    "/health": "health",
    "/livez": "health",
    "/readyz": "health",
}

# Method and path of what carries ids -> part of tuning.json.
TUNING = [(method, re.compile(path + "$"), part) for method, path, part in (
    ("GET", "/files", "files"),
    ("POST", "/files", "file"),
    ("GET", "/files/[^/]+", "file"),
    ("DELETE", "/files/[^/]+", "file_deleted"),
    ("GET", "/fine_tuning/jobs", "jobs"),
    ("POST", "/fine_tuning/jobs", "job"),
    ("GET", "/fine_tuning/jobs/[^/]+", "job"),
    ("POST", "/fine_tuning/jobs/[^/]+/cancel", "job"),
    ("GET", "/fine_tuning/jobs/[^/]+/events", "events"),
    ("GET", "/fine_tuning/jobs/[^/]+/checkpoints", "checkpoints"),
)]


# ---- schemas ----------------------------------------------------------------------------------------------


@functools.cache
def registry():
    found = referencing.Registry()
    for name in sorted(os.listdir(FOLDER)):
        with open(os.path.join(FOLDER, name)) as f:
            schema = json.load(f)
        jsonschema.Draft202012Validator.check_schema(schema)
        found = found.with_resource(name, referencing.Resource.from_contents(schema))
    return found


@functools.cache
def validator(ref):
    return jsonschema.Draft202012Validator({"$ref": ref}, registry=registry())


def shape_check(ref, value):
    """What is wrong with a value under a schema ("chat.json", "openai.json#/$defs/error"), or []."""
    error = jsonschema.exceptions.best_match(validator(ref).iter_errors(value))
    if error is None:
        return []
    return ["%s: %s: %.300s" % (ref, error.json_path, error.message)]


# ---- streams ----------------------------------------------------------------------------------------------


def sse_split(text):
    """(events, problems): an event is (name or None, data)."""
    events, wrong = [], []
    for block in text.split("\n\n"):
        name, data = None, []
        for line in block.split("\n"):
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data.append(line[6:])
            elif line and not line.startswith(":"):
                wrong.append("a line of a stream that is neither event nor data: %.80s" % line)
        if data:
            events.append((name, "\n".join(data)))
        elif name is not None:
            wrong.append("an event without data: %s" % name)
    return events, wrong


def parsed(texts):
    values, wrong = [], []
    for text in texts:
        try:
            values.append(json.loads(text))
        except ValueError as e:
            wrong.append("an event that is no JSON (%s): %.80s" % (e, text))
    return values, wrong


def names_check(events):
    return ["event %s carries the type %s" % (name, json.loads(data).get("type"))
            for name, data in events if json.loads(data).get("type") != name]


def order_done(values, texts, whole):
    """OpenAI's older streams end with [DONE], but not after an error."""
    failed = any("error" in v for v in values)
    if not whole:
        return []
    if failed:
        return ["[DONE] after an error"] if texts[-1:] == ["[DONE]"] else []
    if texts[-1:] != ["[DONE]"]:
        return ["the stream ends without [DONE]"]
    finished = {}
    for choice in (c for v in values for c in v["choices"]):
        if choice["index"] in finished:
            return ["choice %d goes on after its finish_reason" % choice["index"]]
        if choice["finish_reason"] is not None:
            finished[choice["index"]] = choice["finish_reason"]
    return [] if finished else ["no choice has a finish_reason"]


def order_responses(values, whole):
    wrong, opened, done, texts = [], {}, [], {}
    numbers = [v["sequence_number"] for v in values]
    types = [v["type"] for v in values]
    if numbers != list(range(len(numbers))):
        wrong.append("sequence_number does not count from 0: %s" % numbers[:20])
    if types[0] not in ("response.created", "error"):
        wrong.append("the stream begins with %s" % types[0])
    for v in values:
        at = v.get("output_index")
        if v["type"] == "response.output_item.added":
            if at != len(opened) or len(done) != len(opened):
                wrong.append("item %s begins out of order" % at)
            opened[at], texts[at] = v["item"]["id"], ""
        elif at is not None and (at not in opened or at in done):
            return wrong + ["%s of an item that is not open" % v["type"]]
        elif "item_id" in v and opened[at] != v["item_id"]:
            wrong.append("%s names the item %s" % (v["type"], v["item_id"]))
        if v["type"].endswith(".delta"):
            texts[at] += v["delta"]
        elif v["type"].endswith(("text.done", "arguments.done")):
            if v.get("text", v.get("arguments")) != texts[at]:
                wrong.append("%s is not what its deltas say" % v["type"])
        elif v["type"] == "response.output_item.done":
            done.append(at)
    if not whole:
        return wrong
    last = values[-1]
    if types[-1] not in ("response.completed", "response.incomplete", "response.failed", "error"):
        wrong.append("the stream ends with %s" % types[-1])
    if types[-1] in ("response.completed", "response.incomplete"):
        items = [v["item"] for v in values if v["type"] == "response.output_item.done"]
        if last["response"]["output"] != items:
            wrong.append("the last event's output is not the items that were done")
    return wrong


def order_messages(values, whole):
    wrong, opened, count = [], None, 0
    types = [v["type"] for v in values]
    if types[0] not in ("message_start", "error"):
        wrong.append("the stream begins with %s" % types[0])
    for v in values:
        if v["type"] == "content_block_start":
            if opened is not None or v["index"] != count:
                wrong.append("block %d begins out of order" % v["index"])
            opened, count = v["index"], count + 1
        elif v["type"] in ("content_block_delta", "content_block_stop"):
            if v["index"] != opened:
                wrong.append("%s of block %d, open is %s" % (v["type"], v["index"], opened))
            if v["type"] == "content_block_stop":
                opened = None
        elif v["type"] == "message_delta" and (opened is not None or count == 0):
            wrong.append("message_delta with an open block, or without any")
    if whole and types[-1] == "message_stop" and types.count("message_delta") != 1:
        wrong.append("%d times message_delta" % types.count("message_delta"))
    if whole and types[-1] not in ("message_stop", "error"):
        wrong.append("the stream ends with %s" % types[-1])
    return wrong


def order_images(values, whole):
    """Pictures come one after the other, each with its unfinished ones before it, numbered from 0."""
    index = partial = 0
    for v in values:
        kind = v["type"].rsplit(".", 1)[-1]
        if kind == "error":
            continue
        if v["index"] != index:
            return ["%s of picture %d, drawn is %d" % (v["type"], v["index"], index)]
        if kind == "partial_image" and v["partial_image_index"] != partial:
            return ["unfinished picture %d is told as %d" % (partial, v["partial_image_index"])]
        partial = 0 if kind == "completed" else partial + (kind == "partial_image")
        index += kind == "completed"
    last = values[-1]["type"].rsplit(".", 1)[-1]
    return ["the stream ends with %s" % last] if whole and last not in ("completed", "error") else []


def order_lines(values, whole):
    ends = [i for i, v in enumerate(values) if v.get("done") or "error" in v]
    if whole and ends != [len(values) - 1]:
        return ["the lines that end the stream are %s of %d" % (ends, len(values))]
    return []


def stream_check(kind, text, whole=True):
    """What is wrong with a stream of "chat", "text", "responses", "messages", "ollama_..."."""
    if kind.startswith("ollama"):
        texts, wrong, events = [t for t in text.split("\n") if t], [], []
    else:
        events, wrong = sse_split(text)
        texts = [data for _, data in events]
    if not whole and texts:
        texts, events = texts[:-1], events[:-1]  # the last one may have been cut
    if not texts:
        return wrong + (["the stream has no event"] if whole else [])
    values, bad = parsed(t for t in texts if t != "[DONE]")
    wrong += bad
    for value in values:
        wrong += shape_check(kind + "_event.json", value)
    if wrong:
        return wrong
    if kind in ("chat", "text"):
        return order_done(values, texts, whole)
    if kind.startswith("ollama"):
        return order_lines(values, whole)
    wrong = names_check(events)
    return wrong + {"responses": order_responses, "messages": order_messages, "images": order_images}[kind](values, whole)


# ---- exchanges ----------------------------------------------------------------------------------------------


def error_ref(path, status):
    # What no route takes is refused before there is a dialect.
    if path in WHOLE and status != 405:
        if path.startswith("/messages"):
            return "messages.json#/$defs/error"
        if path in ("/api/chat", "/api/generate", "/api/show"):
            return "ollama_chat.json#/$defs/error"
    return "openai.json#/$defs/error"


def tuning_part(method, path):
    return next((part for m, pattern, part in TUNING if m == method and pattern.match(path)), None)


def tuning_check(part, text):
    """A reply of files and jobs; of events also as a stream, which ends with [DONE]."""
    ref = "tuning.json#/$defs/"
    if not text.startswith("{"):
        events, wrong = sse_split(text)
        texts = [data for _, data in events]
        values, bad = parsed(t for t in texts if t != "[DONE]")
        wrong += bad + ([] if texts[-1:] == ["[DONE]"] else ["the stream ends without [DONE]"])
        return wrong + [w for v in values for w in shape_check(ref + part.removesuffix("s"), v)]
    values, wrong = parsed([text])
    return wrong or shape_check(ref + part, values[0])


def exchange_check(row):
    """What is wrong with a recorded exchange, as a list of sentences."""
    path = row["path"].split("?")[0]
    path = path[3:] if path.startswith("/v1/") else path
    kind = "model" if path.startswith("/models/") else WHOLE.get(path)
    media = row["content_type"].split(";")[0].strip()
    if row["method"] == "HEAD":
        return []
    part = tuning_part(row["method"], path)
    if part and row["status"] < 400 and row["whole"]:
        return tuning_check(part, row["body"])
    if media in ("text/event-stream", "application/x-ndjson"):
        return stream_check(kind, row["body"], row["whole"]) if kind else ["a stream where none is known"]
    if not row["whole"]:
        return []
    if media != "application/json":
        return ["an error that is no JSON: %s" % media] if row["status"] >= 400 else []
    values, wrong = parsed([row["body"]])
    if wrong:
        return wrong
    # A server that is not ready says so in the shape of its health.
    if row["status"] >= 400 and not (kind == "health" and row["status"] == 503):
        return shape_check(error_ref(path, row["status"]), values[0])
    return shape_check(kind + ".json", values[0]) if kind else []


# ---- golden files -------------------------------------------------------------------------------------------


def golden_kind(name):
    stem, ending = os.path.splitext(name)
    if stem.startswith(("responses_", "messages_")):
        return stem.split("_")[0], ending
    known = {"ollama_all": "ollama_chat", "ollama_no_models": "ollama_tags"}
    return (known.get(stem, stem), ending) if stem.startswith("ollama_") else (None, ending)


def golden_check(folder):
    """(files checked, what is wrong)"""
    count, wrong = 0, []
    for name in sorted(os.listdir(folder)):
        kind, ending = golden_kind(name)
        if kind is None:
            continue
        with open(os.path.join(folder, name)) as f:
            text = f.read()
        found = stream_check(kind, text) if ending != ".json" else shape_check(kind + ".json", json.loads(text))
        wrong += ["%s: %s" % (name, w) for w in found]
        count += 1
    return count, wrong


def main(arguments):
    if arguments[:1] == ["--golden"] and len(arguments) == 2:
        count, wrong = golden_check(arguments[1])
    elif arguments and not arguments[0].startswith("-"):
        count, wrong = len(arguments), []
        for name in arguments:
            with open(name) as f:
                wrong += ["%s: %s" % (name, w) for w in exchange_check(json.load(f))]
    else:
        sys.exit(__doc__)
    print("\n".join(wrong + ["%d replies checked, %d faults" % (count, len(wrong))]))
    return 1 if wrong or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
