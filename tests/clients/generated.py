"""generated.py PORT [CASES]: requests made up by hypothesis for every route of a server with the fake
engine. Whatever comes in: an answer within ten seconds, JSON (or a well-formed stream), and never a 5xx but
503 with Retry-After. TANDEM_SEED repeats a run; what was found once stands in generated_rows.json and is
tried first."""

import http.client
import json
import os
import random
import sys
import urllib.parse

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import schema_check
from checks import picture

PORT = int(sys.argv[1])
CASES = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
SEED = int(os.environ.get("TANDEM_SEED") or random.SystemRandom().randrange(1 << 32))
ROWS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "generated_rows.json")
SECONDS = 10

PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": PARAMETERS, "strict": True}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": PARAMETERS, "strict": True}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":\"b\"}"}}
CHAT = {
    "model": "fake", "max_tokens": 4, "stream": False, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1,
    "n": 2, "seed": 7, "stop": ["xyz"], "logprobs": True, "top_logprobs": 2, "logit_bias": {"65": -100},
    "frequency_penalty": 0.1, "presence_penalty": 0.1, "repeat_penalty": 1.1, "ignore_eos": True, "cache_prompt": True,
    "stream_options": {"include_usage": True}, "store": False, "reasoning_effort": "low", "user": "u", "metadata": {},
    "chat_template_kwargs": {"enable_thinking": False}, "tools": [TOOL], "tool_choice": "auto",
    "parallel_tool_calls": True, "response_format": {"type": "text"},
    "messages": [{"role": "system", "content": "s"},
                 {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                 {"role": "assistant", "content": None, "tool_calls": [CALL]},
                 {"role": "tool", "tool_call_id": "call_1", "content": "r"}]}
TEXT = {"model": "fake", "prompt": ["One", [1, 2, 3]], "max_tokens": 4, "logprobs": 2, "stream": True, "n": 1, "echo": False,
        "suffix": None, "best_of": 1, "stop": "x", "seed": 1, "n_predict": 4, "temperature": 0}
RESPONSES = {
    "model": "fake", "max_output_tokens": 16, "instructions": "i", "stream": True, "store": False, "temperature": 1,
    "include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low", "summary": "auto"}, "tool_choice": "auto",
    "text": {"format": {"type": "text"}}, "tools": [dict(TOOL["function"], type="function"), {"type": "web_search"}],
    "parallel_tool_calls": False, "metadata": {"k": "v"}, "previous_response_id": None,
    "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
              {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
              {"type": "function_call_output", "call_id": "c", "output": "r"},
              {"type": "reasoning", "id": "r", "summary": []}]}
MESSAGES = {
    "model": "fake", "max_tokens": 4, "stream": True, "system": [{"type": "text", "text": "s"}], "temperature": 0.5,
    "stop_sequences": ["x"], "top_k": 3, "top_p": 0.5, "metadata": {"user_id": "u"}, "thinking": {"type": "disabled"},
    "tools": [{"name": "f", "description": "d", "input_schema": PARAMETERS}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "messages": [{"role": "user", "content": "hi"},
                 {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "s"},
                                                   {"type": "tool_use", "id": "u", "name": "f", "input": {"a": "b"}}]},
                 {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "u", "is_error": False,
                                               "content": [{"type": "text", "text": "r"}]}]}]}
OLLAMA = {
    "model": "fake", "stream": True, "format": "json", "think": False, "keep_alive": "5m", "tools": [TOOL],
    "options": {"num_predict": 4, "temperature": 0, "top_k": 4, "stop": ["x"], "seed": 1, "num_ctx": 100},
    "messages": [{"role": "user", "content": "hi", "images": []},
                 {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": "b"}}}]},
                 {"role": "tool", "tool_name": "f", "content": "r"}]}

IMAGE = {
    "model": "fake:0", "prompt": "a cat", "negative_prompt": "a dog", "n": 2, "size": "64x64", "seed": 7, "steps": 3, "cfg": 2.5,
    "sampler": "euler", "scheduler": "karras", "quality": "low", "background": "opaque", "style": "natural", "user": "u",
    "moderation": "auto", "output_format": "jpeg", "output_compression": 50, "response_format": "b64_json", "stream": False}
URL = "data:image/png;base64," + picture(255, 0, 0)

# Bodies that are right, to begin with; a route may have several.
POSTS = [
    ("/v1/chat/completions", CHAT), ("/v1/chat/completions", dict(CHAT, stream=True)),
    ("/v1/chat/completions", dict(CHAT, response_format=SCHEMA, tools=[], tool_choice="none")),
    ("/v1/completions", TEXT), ("/completions", dict(TEXT, stream=False)),
    ("/v1/responses", RESPONSES), ("/v1/responses", dict(RESPONSES, input="hi", stream=False)),
    ("/v1/messages", MESSAGES), ("/v1/messages", dict(MESSAGES, stream=False)), ("/v1/messages/count_tokens", MESSAGES),
    ("/v1/embeddings", {"model": "fake", "input": ["a", "b"], "encoding_format": "float", "dimensions": None}),
    ("/v1/rerank", {"model": "fake", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}),
    ("/tokenize", {"content": "hi", "add_special": True, "with_pieces": True}), ("/detokenize", {"tokens": [65, 66]}),
    ("/apply-template", CHAT), ("/api/chat", OLLAMA), ("/api/chat", dict(OLLAMA, stream=False)),
    ("/api/generate", {"model": "fake", "prompt": "p", "system": "s", "stream": False, "options": {"num_predict": 4}}),
    ("/api/show", {"model": "fake", "verbose": False}),
    ("/v1/images/generations", IMAGE), ("/v1/images/generations", dict(IMAGE, response_format="url", output_format="webp")),
    ("/v1/images/generations", dict(IMAGE, stream=True, partial_images=2, progress=True)),
    ("/v1/images/edits", dict(IMAGE, size="auto", strength=0.5, images=[{"image_url": URL}], mask={"image_url": URL})),
]
GETS = ["/v1/models", "/v1/models/fake", "/health", "/livez", "/readyz", "/metrics", "/api/tags", "/api/ps", "/api/version",
        "/v1/tandem/status", "/"]

NUMBERS = st.sampled_from([0, -1, 1, 2, 8, 9, 0.5, -0.5, 1e-9, 1e9, 1 << 31, 1 << 32, 1 << 53, 1 << 63, -(1 << 63), 1 << 64,
                           10 ** 400, 1e308, -1e308, 100000]) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.sampled_from(["", "auto", "none", "required", "function", "user", "system", "assistant", "tool", "developer", "text",
                         "json", "json_object", "image_url", "data:image/png;base64,AAAA", "http://192.0.2.1/x.png", "fake",
                         "x" * 70000, "\0", "\ud800", "é" * 10, "<tool>{", "<think>", "true", "0"]) | st.text(max_size=20)
LEAVES = st.none() | st.booleans() | NUMBERS | WORDS
ANY = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(WORDS, v, max_size=4), max_leaves=6)
DEEP = st.integers(2, 3000).map(lambda n: b"[" * n + b"]" * n)


def places(value, at=()):
    """Every path into a JSON value."""
    yield at
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for k, v in members:
        yield from places(v, at + (k,))


def alike(value):
    """Values that a member may have in place of this one: most pass the first look and are judged later."""
    for kind, values in ((bool, st.booleans()), ((int, float), NUMBERS), (str, WORDS)):
        if isinstance(value, kind):
            return values
    return st.lists(st.just(value[0]), max_size=40) if isinstance(value, list) and value else ANY


def changed(draw, body):
    """The body with one place changed, left out, said twice, or a member added."""
    body = json.loads(json.dumps(body))
    path = draw(st.sampled_from(list(places(body))))
    if not path:
        return body
    parent = body
    for k in path[:-1]:
        parent = parent[k]
    how = draw(st.sampled_from(["alike", "alike", "alike", "value", "value", "out", "twice", "add"]))
    if how in ("alike", "value"):
        parent[path[-1]] = draw(ANY if how == "value" else alike(parent[path[-1]]))
    elif how == "out":
        del parent[path[-1]]
    elif isinstance(parent, list):
        parent.insert(path[-1], parent[path[-1]] if how == "twice" else draw(ANY))
    else:
        parent[draw(WORDS)] = draw(ANY)
    return body


@st.composite
def posts(draw):
    path, body = draw(st.sampled_from(POSTS))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        body = changed(draw, body)
    text = json.dumps(body).encode()
    odd = draw(st.integers(0, 19))
    if odd == 0:
        text = draw(st.binary(max_size=60) | DEEP | ANY.map(lambda v: json.dumps(v).encode()))
    elif odd == 1:
        text = text[:draw(st.integers(0, len(text)))]
    return "POST", path, text


@st.composite
def others(draw):
    method = draw(st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]))
    path = draw(st.sampled_from(GETS + [p for p, _ in POSTS]))
    more = draw(st.sampled_from(["", "", "?x=1", "/", "//", "/%00", "/..", "?verbose"]) | st.text(max_size=8).map(
        lambda t: "/" + urllib.parse.quote(t.encode("utf-8", "replace"))))
    return method, path + more, draw(st.sampled_from([b"", b"{}", b"x"]))


REQUESTS = st.one_of(posts(), posts(), posts(), posts(), others())


def ask(method, path, body):
    c = http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS)
    try:
        c.request(method, path, body, {"Content-Type": "application/json"})
        r = c.getresponse()
        return r.status, dict((k.lower(), v) for k, v in r.getheaders()), r.read()
    finally:
        c.close()


def judge(method, path, body):
    """What is wrong with the answer; "" when nothing is."""
    try:
        status, headers, answer = ask(method, path, body)
    except (TimeoutError, http.client.HTTPException, OSError) as e:
        return "no whole answer: %r" % e
    if status >= 500 and (status != 503 or "retry-after" not in headers):
        return "%d: %r" % (status, answer[:300])
    if method == "HEAD" or status == 204:
        return ""
    kind = headers.get("content-type", "")
    if status >= 400 and not kind.startswith("application/json"):
        return "%d is said as %s: %r" % (status, kind, answer[:300])
    row = {"method": method, "path": path, "request": body.decode("utf-8", "replace"), "status": status, "whole": True,
           "content_type": kind, "body": answer.decode("utf-8", "replace")}
    try:
        if status >= 400 or kind.startswith("application/json"):
            json.loads(answer)
        answer.decode("utf-8")
    except ValueError as e:
        return "%d %s is not what it says: %r %r" % (status, kind, e, answer[:300])
    return "; ".join(schema_check.exchange_check(row)[:3])


def fail(method, path, body, wrong):
    raise AssertionError("%s %s %s\n%s" % (method, path, body[:3000], wrong))


def rows():
    """The fixed rows: what was found once."""
    with open(ROWS) as f:
        table = json.load(f)
    for row in table:
        text = row["text"] if "text" in row else json.dumps(row["body"])
        wrong = judge(row["method"], row["path"], text.encode("utf-8", "surrogateescape"))
        if wrong:
            fail(row["method"], row["path"], text, wrong)
    return len(table)


for path_, body_ in POSTS:
    status_, _, answer_ = ask("POST", path_, json.dumps(body_))
    if status_ >= 400:
        print("generated: the plain %s is refused: %d %s" % (path_, status_, answer_[:300]))

print("generated: %d fixed rows are right" % rows())
count = 0


@seed(SEED)
@settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck),
          phases=[Phase.generate, Phase.shrink], print_blob=False)
@given(REQUESTS)
def test(request):
    global count
    count += 1
    wrong = judge(*request)
    if wrong:
        fail(*request, wrong)


print("generated: %d cases with TANDEM_SEED=%d" % (CASES, SEED), flush=True)
test()
print("generated: %d requests, every one answered as it should be" % count)
