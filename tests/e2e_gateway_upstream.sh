#!/usr/bin/env bash
# Upstream servers, against a scripted one: every shape of an answer in every dialect, every failure, and what
# crosses the wire. No model is loaded but where one is to be beside them.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import base64
import http.client
import struct
import sys
import zlib

sys.path.insert(0, ".")
from e2e import *
from upstream_server import *

TANDEM = os.path.join(BIN, "tandem")
KEY = "sk-periwinkle-4711"
CONFIG = os.path.join(DIR, "config")
os.environ["TANDEM_CONFIG"] = CONFIG
for name in ("http_proxy", "https_proxy", "all_proxy"):
    os.environ[name] = "http://127.0.0.1:9"  # no proxy of the environment is used
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))


def key_write(name, text, mode=0o600):
    path = os.path.join(DIR, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


def serve(*upstreams, args=(), wait="up"):
    options = [o for u in upstreams for o in ("--upstream", u)]
    p = Program("serve", "--listen", "127.0.0.1:0", *options, *args)
    for i in range(len(upstreams) if wait else 0):
        wait_for("upstream server %d" % i, lambda: nodes(p.port, "upstream")[i]["state"] == wait)
    return p


def chat(p, model, **more):
    body = dict({"model": model, "messages": [{"role": "user", "content": "Hi"}]}, **more)
    return post(p.port, "/v1/chat/completions", body)


def stream(p, path, body):
    """The events of a stream: ("name", object) each."""
    c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=30)
    c.request("POST", path, json.dumps(dict(body, stream=True)))
    r = c.getresponse()
    text = r.read().decode()
    check(r.status == 200, path, r.status, text)
    events, name = [], ""
    for line in text.split("\n"):
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: {"):
            events.append((name, json.loads(line[6:])))
            name = ""
    return events


def chat_text(events):
    return "".join(c["delta"].get("content") or "" for _, e in events for c in e.get("choices", []))


def message(a):
    return a["choices"][0]["message"]


# ---- answers -----------------------------------------------------------------------------------------


def answers(s, p):
    status, a = chat(p, "ok", max_tokens=5)
    check(status == 200 and message(a)["content"] == "Hello wörld", status, a)
    check(a["usage"]["prompt_tokens"] == 11 and a["usage"]["completion_tokens"] == 3, a["usage"])
    check(a["usage"]["prompt_tokens_details"]["cached_tokens"] == 4, a["usage"])
    t = a["timings"]
    check(t["plan"] == "remote" and t["decode_node"] == "one" and not t["fallback"] and t["prompt_tokens"] == 11, t)
    check(a["choices"][0]["finish_reason"] == "stop" and a["model"] == "ok", a)
    check(t["predicted"]["total_s"] > 0 and t["policy"] == "latency", t)
    status, a = post(p.port, "/v1/tandem/explain", {"model": "ok", "prompt_tokens": 9})
    check(status == 400 and "upstream servers" in a["error"]["message"], status, a)
    status, a = chat(p, "ok", tandem={"policy": "slo"})
    check(status == 400 and a["error"]["param"] == "tandem.policy", status, a)
    status, a = chat(p, "ok", tandem={"policy": "slo", "ttft_s": 60})
    check(status == 200 and a["timings"]["policy"] == "slo", status, a)
    check(chat(p, "length")[1]["choices"][0]["finish_reason"] == "length", "length")
    for model in ("thinks", "thinks-vllm"):
        m = message(chat(p, model)[1])
        check(m["content"] == "Yes." and m["reasoning_content"].startswith("Hm."), m)
    a = chat(p, "no-usage")[1]
    check(message(a)["content"] == "Hello!" and a["usage"]["completion_tokens"] == 2, a)
    check(message(chat(p, "plain")[1])["content"] == "Whole.", "whole")
    a = chat(p, "logprobs", logprobs=True, top_logprobs=1)[1]["choices"][0]["logprobs"]["content"]
    check([x["token"] for x in a] == ["a", "b"] and a[0]["top_logprobs"][0]["logprob"] == -0.5, a)
    a = chat(p, "ok", n=3)[1]
    check([c["message"]["content"] for c in a["choices"]] == ["Hello wörld"] * 3, a)
    check(a["usage"]["prompt_tokens"] == 11 and a["usage"]["completion_tokens"] == 9, a["usage"])


def tools(p):
    call = {"name": "weather", "parameters": {"type": "object"}}
    offered = [{"type": "function", "function": call}]
    a = chat(p, "tools", tools=offered)[1]
    got = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message(a)["tool_calls"]]
    check(got == [("c1", "weather", '{"city":"Oslo"}'), ("c2", "weather", '{"city":"Rome"}')], got)
    check(a["choices"][0]["finish_reason"] == "tool_calls", a)
    a = chat(p, "tools-loose", tools=offered)[1]
    got = [json.loads(c["function"]["arguments"]) for c in message(a)["tool_calls"]]
    check(got == [{"city": "Oslo"}, {}, {"city": "Bonn"}], got)
    check(len({c["id"] for c in message(a)["tool_calls"]}) == 3, a)
    status, a = post(p.port, "/v1/messages", {"model": "tools", "max_tokens": 9, "messages": [
        {"role": "user", "content": "Hi"}], "tools": [{"name": "weather", "input_schema": {"type": "object"}}]})
    check(status == 200 and [b["input"] for b in a["content"]] == [{"city": "Oslo"}, {"city": "Rome"}], a)
    check(a["stop_reason"] == "tool_use", a)


def dialects(p):
    hi = [{"role": "user", "content": "Hi"}]
    events = stream(p, "/v1/chat/completions", {"model": "ok", "messages": hi,
                                                "stream_options": {"include_usage": True}})
    check(chat_text(events) == "Hello wörld" and events[-1][1]["usage"]["prompt_tokens"] == 11, events)
    events = stream(p, "/v1/messages", {"model": "thinks", "max_tokens": 9, "messages": hi,
                                        "thinking": {"type": "enabled", "budget_tokens": 1024}})
    said = [e["delta"] for n, e in events if n == "content_block_delta"]
    check("".join(d.get("thinking", "") for d in said) == "Hm. So.", events)
    check("".join(d.get("text", "") for d in said) == "Yes.", events)
    check([e["usage"]["output_tokens"] for n, e in events if n == "message_delta"] == [3], events)
    events = stream(p, "/v1/responses", {"model": "ok", "input": "Hi"})
    check("".join(e["delta"] for n, e in events if n == "response.output_text.delta") == "Hello wörld", events)
    status, a = post(p.port, "/api/chat", {"model": "ok", "messages": hi, "stream": False})
    check(status == 200 and a["message"]["content"] == "Hello wörld" and a["prompt_eval_count"] == 11, a)
    status, a = post(p.port, "/v1/completions", {"model": "ok", "prompt": ["abc", "de"], "max_tokens": 9})
    check([c["text"] for c in a["choices"]] == ["abc!", "de!"] and a["usage"]["prompt_tokens"] == 22, a)
    status, a = post(p.port, "/v1/completions", {"model": "ok", "prompt": [1, 2, 3]})
    check(a["choices"][0]["text"] == "3!", a)


def models_are_told(p):
    listed = {m["id"]: m for m in get(p.port, "/v1/models")[1]["data"]}
    check(listed["ok"]["owned_by"] == "one" and listed["ok"]["meta"]["n_ctx"] == 4096, listed)
    check(get(p.port, "/v1/models/ok")[0] == 200 and get(p.port, "/v1/models/one/ok")[0] == 200, "by name")
    check(message(chat(p, "one/ok")[1])["content"] == "Hello wörld", "by its server's name")
    check(message(chat(p, "")[1])["content"] == "Hello wörld", "the first one")
    status, a = chat(p, "absent")
    check(status == 404 and a["error"]["code"] == "model_not_found" and '"ok"' in a["error"]["message"], status, a)
    check(nodes(p.port, "upstream")[0]["worker"]["rates"]["decode_tokens_per_s"] > 0, "what was seen of its speed")
    check("ok" in [m["name"] for m in get(p.port, "/api/tags")[1]["models"]], "Ollama's list")
    n = nodes(p.port, "upstream")[0]
    check(n["name"] == "one" and n["address"].endswith("/v1") and "ok" in n["models"] and n["why"] is None, n)
    ps = subprocess.run([TANDEM, "ps", "--profiles", "--server", "http://127.0.0.1:%d" % p.port], capture_output=True, text=True)
    check("upstream" in ps.stdout and "\none, model -: no profile\n" in ps.stdout, ps)
    with urllib.request.urlopen("http://127.0.0.1:%d/metrics" % p.port, timeout=10) as r:
        check('tandem_node_up{node="one",address="one",role="upstream"} 1' in r.read().decode(), "metrics")
    check(get(p.port, "/health")[0] == 200 and get(p.port, "/readyz")[0] == 200, "health")
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/v1/messages/count_tokens", {"messages": [
            {"role": "user", "content": "Hi"}]}), ("/tokenize", {"content": "a"})):
        status, a = post(p.port, path, dict(body, model="ok"))
        check(status == 400 and "upstream" in a["error"]["message"], path, status, a)
    status, a = chat(p, "ok", grammar='root ::= "a"')
    check(status == 400 and a["error"]["param"] == "grammar", a)


# ---- what goes out -----------------------------------------------------------------------------------


def png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def what_is_sent(s):
    s.models, s.key = ["org/ok-7b"], KEY
    s.plays["org/ok-7b"] = "ok"
    key = key_write("key", KEY + "\n")
    p = serve("one=%s key-file=%s model=org/ok-7b as=Mine" % (s.url, key))
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    status, a = chat(p, "mine", messages=[{"role": "user", "content": content}], temperature=0.25, seed=7, stop=["x"],
                     max_tokens=9, logit_bias={"5": -100, "6": 2}, metadata={"a": "b"}, user="me", store=False, n=2,
                     tandem={"plan": "auto", "timeline": True}, response_format={"type": "json_object"},
                     repeat_penalty=1.5)
    check(status == 200 and a["model"] == "Mine", status, a)
    sent = sorted(s.asked()[-2:], key=lambda b: b["seed"])
    check([b.pop("seed") for b in sent] == [7, 8], sent)
    check(sent[0] == {"model": "org/ok-7b", "messages": [{"role": "user", "content": content}], "temperature": 0.25,
                      "stop": ["x"], "max_tokens": 9, "logit_bias": {"5": -100, "6": 2}, "stream": True,
                      "stream_options": {"include_usage": True}, "response_format": {"type": "json_object"},
                      "repeat_penalty": 1.5, "repetition_penalty": 1.5}, sent[0])
    path, headers, _ = s.seen[-1]
    check(path == "/v1/chat/completions" and headers["Authorization"] == "Bearer " + KEY, path, headers)
    check(chat(p, "org/ok-7b")[0] == 200 and [m["id"] for m in get(p.port, "/v1/models")[1]["data"]] == ["Mine"], "as")
    status, a = post(p.port, "/v1/completions", {"model": "Mine", "prompt": "a", "top_p": 0.5, "seed": -1})
    check({"model": "org/ok-7b", "prompt": "a", "top_p": 0.5, "stream": True,
           "stream_options": {"include_usage": True}} == s.asked()[-1], s.asked()[-1])
    s.key = KEY + "-changed"
    status, a = chat(p, "mine")
    check(status == 502 and "key-file" in a["error"]["message"], status, a)
    wait_for("the refusal", lambda: nodes(p.port, "upstream")[0]["state"] == "refused", 10)
    check(chat(p, "mine")[0] == 503, "a server that refuses the key is not asked")
    status = json.dumps(get(p.port, "/v1/tandem/status")[1])
    p.stop()
    with open(p.log) as f:
        check(KEY not in f.read() + status + json.dumps(a), "the key is told")


# ---- failures ------------------------------------------------------------------------------------------

# Of a model: the status that the client gets, and a part of the words.
FAILURES = {
    "s400": (400, "because of 400"), "s413": (413, "because of 413"), "s422": (400, "because of 422"),
    "s401": (502, "key-file"), "s404": (502, "because of 404"), "s429": (429, "too many requests"),
    "s500": (502, "because of 500"), "s503": (503, "not ready"), "redirect": (502, "is not followed"),
    "malformed": (502, "no JSON"), "not-object": (502, "no JSON object"), "cut": (502, "in the middle"),
    "cut-early": (502, "in the middle"), "error-first": (502, "out of memory"), "error-later": (502, "out of memory"),
    "endless-line": (502, "longer than"), "silent": (504, "stall=SECONDS"), "stalls": (504, "stall=SECONDS"),
    "teapot": (502, "299"), "empty": (502, "in the middle"), "nameless-call": (502, "without a name"),
    "hangs-up": (502, "is lost"),
}


def failures(s, p, trap):
    for model, (wanted, words) in FAILURES.items():
        status, a = chat(p, model)
        check(status == wanted and words in a["error"]["message"] and "upstream server one" in a["error"]["message"],
              model, status, a)
        wait_for("the server again", lambda: nodes(p.port, "upstream")[0]["state"] == "up")
    check(trap.seen == [], "a redirect was followed", trap.seen)
    for model in ("cut", "error-later"):
        events = stream(p, "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "Hi"}]})
        check(chat_text(events).startswith("Hel") and "error" in events[-1][1], model, events)
    events = stream(p, "/v1/messages", {"model": "cut", "max_tokens": 9, "messages": [
        {"role": "user", "content": "Hi"}]})
    check(events[-1][0] == "error", events)


def retry_after(p):
    request = urllib.request.Request("http://127.0.0.1:%d/v1/chat/completions" % p.port, json.dumps(
        {"model": "s429", "messages": [{"role": "user", "content": "Hi"}]}).encode())
    try:
        urllib.request.urlopen(request, timeout=10)
        check(False, "429 was answered")
    except urllib.error.HTTPError as e:
        check(e.code == 429 and e.headers["Retry-After"] == "7", e.code, e.headers)


def another_is_asked():
    a, b = Server(models=["m"]), Server(models=["m"])
    b.plays["m"] = "ok"
    for bad in ("s401", "s429", "s500", "redirect", "cut-early", "error-first", "hangs-up"):
        a.plays["m"] = bad
        p = serve("a=" + a.url, "b=" + b.url)
        chat(p, "b/m")  # from now on the other one is the one to be tried out
        n = len(a.asked())
        first, second = (chat(p, "m")[1] for _ in range(2))
        t = first["timings"]
        check(message(first)["content"] == "Hello wörld" and t["decode_node"] == "b", bad, first)
        check("upstream server a" in (t["fallback"] or ""), bad, t)
        check(second["timings"]["fallback"] is None, "one that failed is asked again at once", bad, second)
        # A connection that was kept and ends without a word is tried afresh, once.
        check(len(a.asked()) - n in ((1, 2) if bad == "hangs-up" else (1,)), bad, len(a.asked()), n)
        p.stop()
    p = serve("a=" + a.url, "b=" + b.url)
    chat(p, "b/m")
    a.plays["m"] = "s400"
    n = len(b.asked())
    check(chat(p, "m")[0] == 400 and len(b.asked()) == n, "what is wrong is told, and nobody else is asked")
    b.plays["m"] = "s500"
    a.plays["m"] = "s503"
    status, x = chat(p, "m")
    check(status in (502, 503) and "upstream server" in x["error"]["message"], status, x)
    a.stop()
    b.plays["m"] = "ok"
    check(message(chat(p, "m")[1])["content"] == "Hello wörld", "one is gone")
    status, x = chat(p, "a/m")  # a connection that cannot be made has the server looked at
    check(status in (502, 503) and "a" in x["error"]["message"], status, x)
    wait_for("the one that is gone", lambda: nodes(p.port, "upstream")[0]["state"] == "down")
    b.stop()
    chat(p, "b/m")
    wait_for("both gone", lambda: {n["state"] for n in nodes(p.port, "upstream")} == {"down"})
    status, x = chat(p, "m")
    check(status == 503 and "a: " in x["error"]["message"] and "b: " in x["error"]["message"], status, x)
    status, x = chat(p, "")
    check(status == 503 and "try again later" in x["error"]["message"], "no model was named", status, x)
    check(get(p.port, "/health")[0] == 503, "health")
    back = Server(port=a.server_address[1], models=["m"])
    back.plays["m"] = "ok"
    wait_for("it to be back", lambda: nodes(p.port, "upstream")[0]["state"] == "up", 15)
    check(message(chat(p, "m")[1])["content"] == "Hello wörld", "back again")
    back.stop()
    p.stop()


def the_client_leaves(s, p):
    s.left.clear()
    c = http.client.HTTPConnection("127.0.0.1", p.port, timeout=30)
    c.request("POST", "/v1/chat/completions", json.dumps({"model": "drip", "stream": True, "messages": [
        {"role": "user", "content": "Hi"}]}))
    r = c.getresponse()
    r.read(300)
    check([n["requests"] for n in nodes(p.port, "upstream")] == [1], "running")
    r.close()
    c.close()
    check(s.left.wait(10), "the server was not left")
    check([n["requests"] for n in nodes(p.port, "upstream")] == [0], "still running")


def many_at_once(s, p):
    s.more.clear()
    got = []
    threads = [threading.Thread(target=lambda: got.append(message(chat(p, "one-more")[1])["content"]))
               for _ in range(20)]
    for t in threads:
        t.start()
    wait_for("all of them", lambda: nodes(p.port, "upstream")[0]["requests"] == 20)
    s.more.set()
    for t in threads:
        t.join()
    check(got == ["one more"] * 20, got)


def lists():
    s = Server(models=["m"])
    for body, words in ((b"<html>", "model=NAME"), (b'{"data": 5}', "model=NAME")):
        s.list_body = body
        p = serve("one=" + s.url, wait="refused")
        check(words in nodes(p.port, "upstream")[0]["why"], nodes(p.port, "upstream"))
        status, a = chat(p, "m")
        check(status == 503 and "has not told its models" in a["error"]["message"], status, a)
        p.stop()
    s.list_status = 404
    s.plays["m"] = "ok"
    p = serve("one=%s model=m" % s.url)
    check(message(chat(p, "m")[1])["content"] == "Hello wörld", "a server without a list")
    p.stop()
    s.list_status, s.list_body = 200, json.dumps({"data": [{"id": "m%d" % i} for i in range(3000)] + [
        {"id": "x" * 999}, {"no": "id"}, 5]}).encode()
    p = serve("one=" + s.url)
    check(len(nodes(p.port, "upstream")[0]["models"]) == 1024, "a long list")
    p.stop()
    s.stop()


def tls():
    pem = os.path.join(DIR, "pem")
    if not shutil.which("openssl"):
        print("skipped: there is no openssl to make a certificate")
        return
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                    "2", "-keyout", pem, "-out", pem + ".crt", "-subj", "/CN=127.0.0.1", "-addext",
                    "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    with open(pem, "a") as out, open(pem + ".crt") as f:
        out.write(f.read())
    s = Server(certificate=pem)
    p = serve("one=" + s.url, wait="refused")
    check("certificate" in nodes(p.port, "upstream")[0]["why"], nodes(p.port, "upstream"))
    check(s.seen == [], "something was sent to a server whose certificate is not accepted")
    p.stop()
    p = serve("one=%s ca-file=%s.crt" % (s.url, pem))
    check(message(chat(p, "ok")[1])["content"] == "Hello wörld", "tls")
    p.stop()
    s.stop()


def beside_a_local_model(s):
    p = serve("one=" + s.url, args=["-m", "fake"])
    check([m["id"] for m in get(p.port, "/v1/models")[1]["data"]][:2] == ["fake", "ok"], "both")
    a = chat(p, "fake", max_tokens=3)[1]
    check(a["timings"]["plan"] == "local", a)
    check(message(chat(p, "ok")[1])["content"] == "Hello wörld", "the other's")
    p.stop()


def both_have_it(s):
    """A model that is local, and slow, as well: placement chooses, and what fails there is answered here."""
    p = serve("one=%s model=m as=fake price-in=1 price-out=2" % s.url,
              args=["-m", "fake:seed=9,prefill_us=2000,decode_us=20000", "--price", "36"])
    wait_for("the model", lambda: get(p.port, "/health")[0] == 200)

    def dollars():
        status, told = post(p.port, "/v1/tandem/explain", {"prompt_tokens": 200, "answer_tokens": 100, "policy": "cost"})
        return {row["decode_node"]: row["dollars"] for row in told["plans"]} if status == 200 else {}
    # Its tokens have a price, its hours have none, also while its speed is guessed from this machine's.
    wait_for("both to be compared", lambda: len(dollars()) == 2)
    check(dollars()["local"] > 0 and abs(dollars()["one"] - 4e-4) < 1e-12, dollars())
    wait_for("its name to be known", lambda: chat(p, "fake", max_tokens=3, tandem={"plan": "remote"})[0] == 200, 20)
    check([m["id"] for m in get(p.port, "/v1/models")[1]["data"]] == ["fake"], "listed twice")
    for _ in range(3):
        a = chat(p, "fake", max_tokens=50)[1]
        t = a["timings"]
        check(t["plan"] == "remote" and t["decode_node"] == "one" and message(a)["content"] == "Hello wörld", a)
    check(a["model"] == "fake" and s.asked()[-1]["model"] == "m", a, s.asked()[-1])
    a = chat(p, "fake", max_tokens=3, tandem={"plan": "local"})[1]
    check(a["timings"]["plan"] == "local", a)
    status, a = chat(p, "fake", max_tokens=3, grammar='root ::= "a" | "b"')
    check(status == 400 and "the fake engine" in a["error"]["message"], "a grammar went to a server", a)
    status, a = post(p.port, "/v1/completions", {"model": "fake", "prompt": "abc", "max_tokens": 50, "n": 2,
                                                     "tandem": {"plan": "remote"}})
    check([c["text"] for c in a["choices"]] == ["abc!", "abc!"], a)
    s.plays["m"] = "cut"
    status, a = chat(p, "fake", max_tokens=50, tandem={"plan": "remote"})
    check(status == 502 and "in the middle" in a["error"]["message"], "after its first token it is told", status, a)
    p.stop()  # one that failed is passed over for ten seconds
    s.plays["m"] = "s500"
    p = serve("one=%s model=m as=fake" % s.url, args=["-m", "fake:seed=9,prefill_us=2000,decode_us=20000"])
    a = chat(p, "fake", max_tokens=3, ignore_eos=True, tandem={"plan": "remote"})[1]
    t = a["timings"]
    check(t["plan"] == "local" and "because of 500" in t["fallback"] and a["usage"]["completion_tokens"] > 0, a)
    n = len(s.asked())
    a = chat(p, "fake", max_tokens=3)[1]
    check(a["timings"]["plan"] == "local" and len(s.asked()) == n, "one that failed is asked again at once", a)
    check("one" in a["timings"]["reason"], a["timings"])
    p.stop()


def what_waits_stays_here(s):
    """It waits at a node that goes: the server would be best and is none of its places, so the next best one is."""
    node = Program("node", "--listen", "127.0.0.1:0", "--name", "P", "-m", "fake:seed=9,decode_us=100000",
                   "--parallel", "1")
    address = "127.0.0.1:%d" % node.port
    p = serve("one=%s model=m as=fake" % s.url,
              args=["-m", "fake:seed=9,prefill_us=2000,decode_us=20000", "--prefill", address])
    wait_for("the model", lambda: get(p.port, "/health")[0] == 200)
    wait_for("the node", lambda: nodes(p.port, "prefill")[0]["state"] == "up")
    got = {}

    def ask(name, n):
        got[name] = chat(p, "fake", max_tokens=n, ignore_eos=True, tandem={"decode_node": "P"})

    first, second = (threading.Thread(target=ask, args=a) for a in (("first", 30), ("second", 3)))
    first.start()
    wait_for("the first", lambda: nodes(p.port, "prefill")[0]["requests"] == 1)
    second.start()
    wait_for("the second", lambda: nodes(p.port, "prefill")[0]["requests"] == 2)
    check(post(p.port, "/v1/tandem/nodes/P/drain", {})[0] == 200, "drain")
    second.join()
    t = got["second"][1]["timings"]
    check(t["plan"] == "local" and first.is_alive(), t)
    check("without P" in t["reason"], t["reason"])
    first.join()
    check(got["first"][1]["timings"]["decode_node"] == "P", got["first"])
    p.stop()
    node.stop()


def wrong_usage():
    shut, wide = key_write("wide", KEY, 0o644), key_write("two words", "a b")
    os.rename(wide, os.path.join(DIR, "two-words"))
    for spec, words, code in (
            ("one=ftp://x", "http://", 2), ("one=http://u:secret@x", "a key belongs", 2), ("on e", "http", 2),
            ("one=http://x?a", "behind '?'", 2), ("a/b=http://x", "no name", 2), ("one=http://x modle=a", "model=THEIRS", 2),
            ("one=http://x as=a", "model=THEIRS first", 2), ("one=http://x stall=0", "1 to 86400", 2),
            ("one=http://x key-file=" + DIR + "/absent", "absent", 1), ("one=http://x key-file=" + shut, "chmod 600", 1),
            ("one=http://127.0.0.1:1 key-file=%s/two-words" % DIR, "one word", 2),
            ("one=http://192.0.2.1 key-file=%s" % key_write("k", KEY), "plain-key=yes", 2)):
        r = subprocess.run([TANDEM, "serve", "--listen", "127.0.0.1:0", "--upstream", spec], capture_output=True,
                           text=True, timeout=20)
        check(r.returncode == code and words in r.stderr and KEY not in r.stderr and "secret" not in r.stderr, spec, r)
    r = subprocess.run([TANDEM, "serve", "--upstream", "a=http://x", "--upstream", "a=http://y"], capture_output=True,
                       text=True, timeout=20)
    check(r.returncode == 2 and "two upstream servers" in r.stderr, r)


def from_the_file():
    a, b = Server(models=["ok"]), Server(models=["length"])
    os.makedirs(CONFIG)
    with open(CONFIG + "/tandem.ini", "w") as f:
        f.write("[serve]\nupstream = a=%s stall=5, b=%s\n" % (a.url, b.url))
    p = Program("serve", "--listen", "127.0.0.1:0")
    wait_for("both", lambda: [n["state"] for n in nodes(p.port, "upstream")] == ["up", "up"])
    check(chat(p, "ok")[0] == 200 and chat(p, "length")[0] == 200, "both")
    p.stop()
    shutil.rmtree(CONFIG)
    a.stop()
    b.stop()


def it_stops_while_it_answers(s):
    p = serve("one=" + s.url, args=["--drain", "0.2"])
    t = threading.Thread(target=chat, args=(p, "drip"))
    t.start()
    wait_for("it", lambda: nodes(p.port, "upstream")[0]["requests"] == 1)
    p.stop()
    t.join()


def step(f, *args):
    begun = time.monotonic()
    f(*args)
    print("%s: %.1f s" % (f.__name__, time.monotonic() - begun), flush=True)


s, trap = Server(), Server()
s.trap = trap.url
p = serve("one=%s stall=1" % s.url)
step(answers, s, p)
step(tools, p)
step(dialects, p)
step(models_are_told, p)
step(failures, s, p, trap)
step(retry_after, p)
step(the_client_leaves, s, p)
step(many_at_once, s, p)
p.stop()
step(it_stops_while_it_answers, s)
s.stop()
step(what_is_sent, Server())
step(another_is_asked)
step(lists)
step(tls)
step(beside_a_local_model, Server())
both = Server(models=["m"])
both.plays["m"] = "ok"
step(both_have_it, both)
both.plays["m"] = "ok"
step(what_waits_stays_here, both)
step(wrong_usage)
step(from_the_file)
PYTHON
