#!/usr/bin/env bash
# e2e_upstream_servers.sh [SERVER...]: real servers as upstream servers: llama-server of the pinned build, and mlx,
# which is mlx_lm.server on its CPU build for Linux (350 MB of packages). One that is named is built or installed
# where it is not there, and it fails where that does not work. By default llama-server, if it was built; skipped if not.
set -euo pipefail
cd "$(dirname "$0")"
LLAMA_SERVER=${LLAMA_SERVER:-}
MLX_PYTHON=
for server in "$@"; do
    case $server in
    llama-server) LLAMA_SERVER=${LLAMA_SERVER:-$(../scripts/llama-server.sh)} ;;
    mlx) MLX_PYTHON=$(../scripts/test-deps.sh mlx) ;;
    *) echo "say llama-server or mlx, not $server" && exit 2 ;;
    esac
done
if [ $# = 0 ] && [ -z "$LLAMA_SERVER" ]; then
    LLAMA_SERVER=$(cmake -P ../scripts/llama.cmake 2>/dev/null | sed -n 's/^LLAMA_DIR=//p')/bin/llama-server
    if [ ! -x "$LLAMA_SERVER" ]; then
        echo "skipped: llama-server is not built; make test-upstream builds it"
        exit 77
    fi
fi
export LLAMA_SERVER MLX_PYTHON
exec python3 - <<'PYTHON'
import sys

sys.path.insert(0, ".")
from e2e import *

HI = [{"role": "user", "content": "Say hello."}]
children = []


def start(*args, **env):
    log = open(os.path.join(DIR, "server-%d" % len(children)), "w")
    p = subprocess.Popen(args, stdout=log, stderr=log, start_new_session=True, env=dict(os.environ, **env))
    children.append(p)
    return p


def end(p):
    os.killpg(p.pid, signal.SIGTERM)
    try:
        p.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()


def serve(spec):
    p = Program("serve", "--listen", "127.0.0.1:0", "--upstream", spec)
    wait_for("the server behind it", lambda: nodes(p.port, "upstream")[0]["state"] == "up", 90)
    return p


def answers(port, model, gen):
    """The same question, whole and as streams, by three APIs; every one with the server's own counts."""
    status, whole = post(port, "/v1/chat/completions", {"model": model, "messages": HI, "max_tokens": gen,
                                                        "temperature": 0})
    check(status == 200, status, whole)
    usage, t = whole["usage"], whole["timings"]
    check(usage["prompt_tokens"] > 3 and 1 <= usage["completion_tokens"] <= gen, usage)
    check(t["plan"] == "remote" and t["total_s"] > 0 and t["fallback"] is None, t)
    status, a = post(port, "/v1/messages", {"model": model, "messages": HI, "max_tokens": gen, "temperature": 0})
    text = "".join(b.get("text", "") for b in a.get("content", []))
    check(status == 200 and text == whole["choices"][0]["message"]["content"], a, whole)
    check(a["usage"]["output_tokens"] == usage["completion_tokens"], a["usage"])
    request = urllib.request.Request("http://127.0.0.1:%d/v1/chat/completions" % port, json.dumps(
        {"model": model, "messages": HI, "max_tokens": gen, "temperature": 0, "stream": True}).encode())
    with urllib.request.urlopen(request, timeout=60) as r:
        events = [json.loads(line[6:]) for line in r.read().decode().split("\n") if line.startswith("data: {")]
    streamed = "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])
    check(streamed == text and len(events) > 3, streamed, text)
    status, a = post(port, "/v1/completions", {"model": model, "prompt": "Once upon", "max_tokens": 4, "temperature": 0})
    check(status == 200 and a["usage"]["completion_tokens"] == 4, status, a)
    rates = nodes(port, "upstream")[0]["worker"]["rates"]
    check(rates["decode_tokens_per_s"] > 0, "what was seen of its speed", rates)
    return text


def llama_server():
    program = os.environ["LLAMA_SERVER"]
    port = free_ports(1)
    p = start(program, "-m", os.environ["TANDEM_TEST_MODEL"], "--port", str(port), "--host", "127.0.0.1", "-t", "2", "-c", "1024", "--api-key",
              "sk-test", "-np", "1")
    key = os.path.join(DIR, "key")
    with open(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
        f.write("sk-test\n")
    d = serve("stock=http://127.0.0.1:%d key-file=%s" % (port, key))
    model = nodes(d.port, "upstream")[0]["models"][0]
    print("llama-server has %s: %r" % (model, answers(d.port, model, 12)))
    status, a = post(d.port, "/v1/chat/completions", {"model": model, "max_tokens": 5, "messages": [
        {"role": "user", "content": "word " * 3000}]})
    check(status == 400 and "context" in a["error"]["message"], "a prompt that does not fit", status, a)
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
              "additionalProperties": False}
    status, a = post(d.port, "/v1/chat/completions", {"model": model, "max_tokens": 40, "messages": HI, "temperature": 0,
                     "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}})
    check(status == 200 and set(json.loads(a["choices"][0]["message"]["content"])) == {"ok"}, "a schema", a)
    status, a = post(d.port, "/v1/chat/completions", {"model": model, "max_tokens": 3, "messages": HI, "logprobs": True,
                                                      "top_logprobs": 2})
    entries = a["choices"][0]["logprobs"]["content"]
    check(len(entries) == 3 and all(len(x["top_logprobs"]) == 2 for x in entries), entries)
    end(p)
    wait_for("its end", lambda: nodes(d.port, "upstream")[0]["state"] == "down")
    check(post(d.port, "/v1/chat/completions", {"model": model, "messages": HI})[0] == 503, "it is gone")
    d.stop()


def mlx():
    python = os.environ["MLX_PYTHON"]
    folder, hub, port = os.path.join(DIR, "tiny"), os.path.join(DIR, "hf"), free_ports(1)
    os.makedirs(os.path.join(hub, "hub"))
    subprocess.run([python, "clients/mlx_model.py", folder], check=True, timeout=120)
    p = start(python, "-m", "mlx_lm", "server", "--model", folder, "--host", "127.0.0.1", "--port", str(port),
              HF_HOME=hub, HF_HUB_OFFLINE="1")
    d = serve("mlx=http://127.0.0.1:%d" % port)
    check("tiny" in nodes(d.port, "upstream")[0]["models"], nodes(d.port, "upstream"))
    print("mlx_lm.server has tiny: %r" % answers(d.port, "tiny", 12))
    end(p)
    d.stop()


try:
    if os.environ["LLAMA_SERVER"]:
        llama_server()
    if os.environ["MLX_PYTHON"]:
        mlx()
finally:
    for c in children:
        if c.poll() is None:
            end(c)
PYTHON
