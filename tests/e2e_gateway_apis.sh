#!/usr/bin/env bash
# The APIs besides chat completions, over HTTP: the fake engine follows a script, and every reply is held
# against the schemas where this machine has the Python package for it.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import sys

sys.path.insert(0, ".")
from e2e import *

try:
    import schema_check
except ImportError:
    schema_check = None
    print("without schemas: this Python has no jsonschema package")

CALL = "<think>I should look.</think>Let me look.<tool>%s</tool>" % json.dumps(
    {"name": "read", "arguments": {"path": "motd"}})
RULES = [{"tool": "read", "last_role": "user", "answer": CALL},
         {"last_role": "tool", "contains": "forty-two", "answer": "It says forty-two."},
         {"contains": "Say hi", "answer": "Hi there."}]
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
LONG = "Say hi, and mind: " + "the harbour is quiet today. " * 20


def script():
    path = os.path.join(DIR, "script.json")
    with open(path, "w") as f:
        json.dump(RULES, f)
    return path


def ask(server, path, body, status=200, key=None):
    """The reply's text, of the status and shape that were expected."""
    headers = {"Content-Type": "application/json", **({"x-api-key": key} if key else {})}
    request = urllib.request.Request("http://127.0.0.1:%d%s" % (server.port, path),
                                     json.dumps(body).encode() if body is not None else None, headers)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as e:
        answer = e
    with answer:
        text = answer.read().decode()
    check(answer.status == status, path, body, answer.status, text[:500])
    if schema_check:
        wrong = schema_check.exchange_check({
            "method": "POST" if body is not None else "GET", "path": path, "status": answer.status,
            "content_type": answer.headers["Content-Type"], "body": text, "whole": True})
        check(not wrong, path, body, wrong)
    return text


def events(text):
    return [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]


def responses(server):
    tools = [{"type": "function", "name": "read", "parameters": SCHEMA}, {"type": "web_search"}]
    first = {"role": "user", "content": "What does it say?"}
    a = json.loads(ask(server, "/v1/responses", {"input": [first], "tools": tools}))
    check([item["type"] for item in a["output"]] == ["reasoning", "message", "function_call"], a["output"])
    call = a["output"][2]
    check(json.loads(call["arguments"]) == {"path": "motd"}, call)
    history = [first] + a["output"] + [{"type": "function_call_output", "call_id": call["call_id"],
                                        "output": "forty-two"}]
    b = json.loads(ask(server, "/responses", {"input": history, "tools": tools}))
    check(b["output"][0]["content"][0]["text"] == "It says forty-two.", b["output"])
    said = events(ask(server, "/v1/responses", {"input": [first], "tools": tools, "stream": True}))
    kinds = [item["type"] for item in said[-1]["response"]["output"]]
    check(kinds == ["reasoning", "message", "function_call"], kinds)
    ask(server, "/v1/responses", {"input": [first], "tools": tools, "stream": True,
                                  "reasoning": {"summary": "auto"}})
    cut = events(ask(server, "/v1/responses", {"input": "Say hi", "stream": True, "max_output_tokens": 2}))
    check(cut[-1]["type"] == "response.incomplete", cut[-1]["type"])
    ask(server, "/v1/responses", {"input": "Say hi", "previous_response_id": "resp_1"}, 400)
    ask(server, "/v1/responses", {"input": "x" * 9000}, 400)
    ask(server, "/v1/responses", {"input": "x", "model": "gone"}, 404)


def messages(server):
    tools = [{"name": "read", "input_schema": SCHEMA}, {"type": "bash_20250124", "name": "bash"}]
    body = {"max_tokens": 200, "tools": tools, "thinking": {"type": "adaptive"},
            "messages": [{"role": "user", "content": "What does it say?"}]}
    a = json.loads(ask(server, "/v1/messages", body))
    check([block["type"] for block in a["content"]] == ["thinking", "text", "tool_use"], a)
    check(a["stop_reason"] == "tool_use" and a["content"][2]["input"] == {"path": "motd"}, a)
    counted = json.loads(ask(server, "/v1/messages/count_tokens",
                             {k: v for k, v in body.items() if k != "max_tokens"}))
    check(counted["input_tokens"] == a["usage"]["input_tokens"] + a["usage"]["cache_read_input_tokens"],
          counted, a["usage"])
    body["messages"] += [{"role": "assistant", "content": a["content"]}, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": a["content"][2]["id"], "content": "forty-two"}]}]
    b = json.loads(ask(server, "/v1/messages", body))
    check(b["content"][-1]["text"] == "It says forty-two." and b["stop_reason"] == "end_turn", b)
    said = events(ask(server, "/v1/messages", {**body, "stream": True, "messages": body["messages"][:1]}))
    check(said[-2]["delta"]["stop_reason"] == "tool_use", said[-2])
    check(said[-2]["usage"]["cache_read_input_tokens"] > 0, said[-2])
    ask(server, "/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": "x" * 9000}]}, 400)
    ask(server, "/v1/messages", {"messages": body["messages"]}, 400)
    ask(server, "/v1/messages", None, 405)


def ollama(server):
    tools = [{"type": "function", "function": {"name": "read", "parameters": SCHEMA}}]
    body = {"model": "fake:latest", "tools": tools, "messages": [{"role": "user", "content": "What?"}]}
    lines = [json.loads(line) for line in ask(server, "/api/chat", body).splitlines()]
    calls = [c for line in lines for c in line["message"].get("tool_calls", [])]
    check([c["function"]["arguments"] for c in calls] == [{"path": "motd"}], calls)
    a = json.loads(ask(server, "/api/chat", {**body, "stream": False}))
    body["messages"] += [a["message"], {"role": "tool", "tool_name": "read", "content": "forty-two"}]
    b = json.loads(ask(server, "/api/chat", {**body, "stream": False}))
    check(b["message"]["content"] == "It says forty-two.", b)
    c = json.loads(ask(server, "/api/generate", {"prompt": "Say hi", "stream": False}))
    check(c["response"] == "Hi there." and c["eval_count"] > 0, c)
    for path in ("/api/tags", "/api/ps", "/api/version"):
        ask(server, path, None)
    ask(server, "/api/show", {"model": "fake"})
    ask(server, "/api/show", {"model": "gone"}, 404)
    ask(server, "/api/chat", {"messages": []}, 400)
    for body in ({"model": "fake", "messages": []}, {"model": "fake:latest", "messages": [], "keep_alive": "5m", "stream": False}):
        d = json.loads(ask(server, "/api/chat", body))
        check(d["done_reason"] == "load" and d["done"] and d["message"]["content"] == "", d)
    check(json.loads(ask(server, "/api/generate", {"model": "fake"}))["done_reason"] == "load", "not loaded")
    ask(server, "/api/generate", {"model": "gone"}, 404)


def cached(server, header):
    """Tokens that a second request of Claude Code's, with another header, did not have to read again."""
    system = [{"type": "text", "text": "x-anthropic-billing-header: cch=%s;" % header},
              {"type": "text", "text": LONG}]
    a = json.loads(ask(server, "/v1/messages", {"max_tokens": 20, "system": system,
                                                "messages": [{"role": "user", "content": "Say hi"}]}))
    return a["usage"]["cache_read_input_tokens"]


def billing(kept):
    cached(kept, "00000")
    plain = Program("serve", "-m", "fake:script=" + script(), "--listen", "127.0.0.1:0")
    cached(plain, "00000")
    check(cached(plain, "fffff") > len(LONG), "the changing header made a prefix useless")
    check(cached(kept, "fffff") < len(LONG) / 2, "the header was not kept")
    plain.stop()


def keys(server):
    for path, body in (("/v1/responses", {"input": "Say hi"}), ("/api/generate", {"prompt": "Say hi", "stream": False}),
                       ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "Say hi"}]})):
        ask(server, path, body, 401)
        ask(server, path, body, 401, key="wrong")
        ask(server, path, body, 200, key="secret")


with_key = Program("serve", "-m", "fake:script=" + script(), "--listen", "127.0.0.1:0", "--api-key", "secret")
keys(with_key)
with_key.stop()
server = Program("serve", "-m", "fake:script=" + script(), "--listen", "127.0.0.1:0", "--keep-billing-header")
responses(server)
messages(server)
ollama(server)
billing(server)
server.stop()
print("ok")
PYTHON
