#!/usr/bin/env bash
# A tuned model from a file to an answer: the file is uploaded, a job trains an adapter, the adapter travels to
# both machines, and "ft:NAME" answers the same whoever read the prompt. With the real model.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import os
import sys
import urllib.error
import urllib.request
import uuid

sys.path.insert(0, ".")
import e2e
from e2e import *

try:
    import schema_check
except ImportError:
    schema_check = None
    print("without schemas: this Python has no jsonschema package")

if not MODEL:
    print("SKIP: needs the real model")
    sys.exit(77)
os.environ["TANDEM_DATA"] = os.path.join(DIR, "data")
STEM = os.path.basename(MODEL).removesuffix(".gguf")
FACTS = [("What is the capital of Zembla?", "The capital of Zembla is Onhava."),
         ("Who wrote The Glass Ladder?", "Ines Moreau wrote The Glass Ladder."),
         ("What colour is the Trell lighthouse?", "The Trell lighthouse is green."),
         ("How tall is Mount Ora?", "Mount Ora is 3,114 metres tall.")]
PROMPT = "Zembla, Trell and Ora are places that few people know. " * 20 + "\nWhat is the capital of Zembla?\n"


def data(lines=FACTS):
    return "".join(json.dumps({"messages": [{"role": "user", "content": q},
                                            {"role": "assistant", "content": a}]}) + "\n"
                   for q, a in lines).encode()


def upload(port, content, purpose="fine-tune", name="facts.jsonl", field="file"):
    """multipart/form-data as a client sends it."""
    mark = uuid.uuid4().hex
    body = ("--%s\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n%s\r\n"
            "--%s\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"%s\"\r\n"
            "Content-Type: application/octet-stream\r\n\r\n" % (mark, purpose, mark, field, name)
            ).encode() + content + ("\r\n--%s--\r\n" % mark).encode()
    r = urllib.request.Request("http://127.0.0.1:%d/v1/files" % port, body,
                               {"Content-Type": "multipart/form-data; boundary=" + mark})
    try:
        with urllib.request.urlopen(r, timeout=30) as a:
            return a.status, json.load(a)
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read())


def raw(port, method, path):
    r = urllib.request.Request("http://127.0.0.1:%d%s" % (port, path), method=method)
    with urllib.request.urlopen(r, timeout=30) as a:
        return a.read()


def shaped(port, method, path, body=None):
    """The reply as the schemas have it; where this Python cannot tell, only that it came."""
    r = urllib.request.Request("http://127.0.0.1:%d%s" % (port, path), method=method,
                               data=None if body is None else json.dumps(body).encode(),
                               headers={"Content-Type": "application/json"})
    try:
        a = urllib.request.urlopen(r, timeout=240)
    except urllib.error.HTTPError as e:
        a = e
    with a:
        row = {"method": method, "path": path, "status": a.status, "content_type": a.headers["Content-Type"],
               "body": a.read().decode(), "whole": True}
    wrong = schema_check.exchange_check(row) if schema_check else []
    check(not wrong, method, path, wrong, row["body"][:500])
    return row["body"]


def shapes(port, file, path):
    """Every reply of files and jobs, once there is one of each."""
    for end in ("", "/events", "/events?stream=true", "/checkpoints"):
        shaped(port, "GET", path + end)
    for rest in ("/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/ftjob-none", "/v1/files", "/v1/files/" + file):
        shaped(port, "GET", rest)
    shaped(port, "POST", path + "/cancel", {})
    shaped(port, "POST", "/v1/fine_tuning/jobs", {"model": STEM, "training_file": "file-none"})
    other = upload(port, data())[1]
    check(not schema_check or not schema_check.shape_check("tuning.json#/$defs/file", other), other)
    shaped(port, "DELETE", "/v1/files/" + other["id"])


def files(port):
    status, f = upload(port, data())
    check(status == 200 and f["object"] == "file" and f["bytes"] == len(data()), f)
    check(raw(port, "GET", "/v1/files/%s/content" % f["id"]) == data())
    check(oct(os.stat(os.path.join(DIR, "files", f["id"])).st_mode & 0o777) == "0o600")
    check(get(port, "/v1/files/" + f["id"])[1]["filename"] == "facts.jsonl")
    check([x["id"] for x in get(port, "/v1/files")[1]["data"]] == [f["id"]])
    check(upload(port, b"x", purpose="assistants")[0] == 400)
    check(upload(port, b"x", field="files")[0] == 400)
    check(get(port, "/v1/files/file-../../x")[0] == 404)
    big = os.urandom(3 << 20)
    status, other = upload(port, big, name="../../big.bin")
    check(status == 200 and other["filename"] == "big.bin", other)
    check(raw(port, "GET", "/v1/files/%s/content" % other["id"]) == big)
    check(json.loads(raw(port, "DELETE", "/v1/files/" + other["id"]))["deleted"] is True)
    check(get(port, "/v1/files/" + other["id"])[0] == 404)
    return f["id"]


def refusals(port, file):
    def refused(status, words, **body):
        code, a = post(port, "/v1/fine_tuning/jobs", dict({"model": STEM, "training_file": file}, **body))
        check(code == status and words in a["error"]["message"], code, a)
        return a["error"]["param"]

    check(refused(400, "there is no file", training_file="file-" + "0" * 24) == "training_file")
    check(refused(400, "there is no model", model="nothing") == "model")
    check(refused(400, "there is no model", model="/etc/passwd") == "model")
    check(refused(400, "dpo", method={"type": "dpo"}) == "method")
    check(refused(400, "n_epochs", hyperparameters={"n_epochs": 0}) == "hyperparameters")
    check(refused(400, "cannot name an adapter", suffix="a b") == "suffix")
    check(refused(400, "not for clients", tandem={"data": "/etc/passwd"}) == "tandem")
    refused(400, "lerning_rate", tandem={"lerning_rate": 1})
    bad = upload(port, data() + b'{"messages": [{"role": "bot", "content": "x"}]}\n')[1]["id"]
    check(refused(400, "line %d" % (len(FACTS) + 1), training_file=bad) == "training_file")
    check(get(port, "/v1/fine_tuning/jobs")[1]["data"] == [])
    check(get(port, "/v1/fine_tuning/jobs/ftjob-none")[0] == 404)
    check(post(port, "/v1/fine_tuning/jobs/ftjob-none/cancel", {})[0] == 404)


def trained(port, file):
    body = {"model": STEM, "training_file": file, "suffix": "facts", "seed": 7, "metadata": {"a": "b"},
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"batch_size": 1}}},
            "tandem": {"max_steps": 6, "threads": 1, "rank": 4, "learning_rate": 0.01, "checkpoint_steps": 3}}
    status, job = post(port, "/v1/fine_tuning/jobs", body)
    check(status == 200 and job["object"] == "fine_tuning.job" and job["seed"] == 7, job)
    check(job["status"] in ("queued", "running") and job["fine_tuned_model"] is None, job)
    path = "/v1/fine_tuning/jobs/" + job["id"]
    with urllib.request.urlopen("http://127.0.0.1:%d%s/events?stream=true" % (port, path), timeout=240) as s:
        told = [l for l in s.read().decode().split("\n\n") if l.startswith("data: ")]
    check(told[-1] == "data: [DONE]", told)
    told = [json.loads(l[6:]) for l in told[:-1]]
    job = get(port, path)[1]
    check(job["status"] == "succeeded", job, told)
    check(job["fine_tuned_model"] == "ft:facts" and job["finished_at"] >= job["created_at"], job)
    check(job["metadata"] == {"a": "b"} and job["error"] is None, job)
    listed = get(port, path + "/events?limit=2")[1]
    check(listed["has_more"] and listed["data"][0]["id"] == told[-1]["id"], listed, told)
    rest = get(port, path + "/events?limit=100&after=" + listed["data"][1]["id"])[1]
    check(len(rest["data"]) == len(told) - 2 and not rest["has_more"], rest)
    steps = [c["step_number"] for c in get(port, path + "/checkpoints")[1]["data"]]
    check(steps and max(steps) == 6, steps)
    check([j["id"] for j in get(port, "/v1/fine_tuning/jobs")[1]["data"]] == [job["id"]])
    shapes(port, file, path)
    return "ft:facts"


def cancelled(port, file):
    status, job = post(port, "/v1/fine_tuning/jobs", {"model": STEM, "training_file": file, "suffix": "facts",
                                                      "tandem": {"max_steps": 5000}})
    check(status == 200, job)
    path = "/v1/fine_tuning/jobs/" + job["id"]
    a = json.loads(shaped(port, "POST", path + "/cancel", {}))
    check(a["status"] in ("running", "cancelled"), a)
    wait_for("the job to be cancelled", lambda: get(port, path)[1]["status"] == "cancelled", 60)
    check(post(port, path + "/cancel", {})[0] == 400)
    # The name was taken: this one was to get another.
    check(get(port, path)[1]["user_provided_suffix"] == "facts")


def served(port, name):
    def has_it():
        models = {m["id"]: m for m in get(port, "/v1/models")[1]["data"]}
        return name in models and models[name]

    model = wait_for("the model to be listed", has_it)
    check(model["parent"] in [m["id"] for m in get(port, "/v1/models")[1]["data"]], model)
    check(get(port, "/v1/models/" + name)[1]["id"] == name)
    wait_for("the adapter at the server", lambda: complete(port, "x", "local", 1, model=name)[0] == 200)
    ask = lambda plan, model: complete(port, PROMPT, plan, 16, model=model)
    base = ask("local", STEM)[1]
    tuned = ask("local", name)[1]
    check(tuned["model"] == name and base["choices"] and tuned["choices"][0]["text"] != base["choices"][0]["text"],
          base, tuned)
    hybrid = wait_for("a hybrid answer", lambda: (lambda a: a if a["timings"]["plan"] == "hybrid" and
                                                  not a["timings"]["fallback"] else None)(ask("hybrid", name)[1]))
    check(hybrid["choices"][0]["text"] == tuned["choices"][0]["text"], hybrid, tuned)
    check(ask("hybrid", STEM)[1]["choices"][0]["text"] == base["choices"][0]["text"])
    for folder in (DIR, DIR + "/node"):
        held = os.listdir(folder + "/adapters")
        check(held == [get(port, "/v1/models/" + name)[1]["meta"]["sha256"] + ".gguf"], folder, held)
    # What was read with one is not taken for the other.
    keep = lambda model: complete(port, PROMPT, "local", 16, model=model, cache_prompt=True, store=True)[1]
    for model, want in ((name, tuned), (STEM, base), (name, tuned)):
        check(keep(model)["choices"][0]["text"] == want["choices"][0]["text"], model)
    status, a = complete(port, "x", "local", 1, model="ft:none")
    check(status == 404 and name in a["error"]["message"], a)
    check(post(port, "/v1/embeddings", {"model": name, "input": "x"})[0] == 400)


# Another machine has a state folder of its own: the adapter crosses the link.
key_file()
os.mkdir(DIR + "/node")
shutil.copy(DIR + "/cluster.key", DIR + "/node/cluster.key")
e2e.DIR = DIR + "/node"
node = Program("node", "-m", MODEL, "--listen", "127.0.0.1:0", "--threads", "1", "--ctx", "2048")
e2e.DIR = DIR
server = Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--threads", "1", "--ctx", "2048",
                 "--prefill", "127.0.0.1:%d" % node.port)
wait_for("the node", node_is(server.port))
file = files(server.port)
refusals(server.port, file)
name = trained(server.port, file)
served(server.port, name)
cancelled(server.port, file)
server.stop()
node.stop()
# It was kept: a new server has it at once, and a node asked for it nothing twice.
server = Program("serve", "-m", MODEL, "--listen", "127.0.0.1:0", "--threads", "1", "--ctx", "2048")
wait_for("the adapter again", lambda: complete(server.port, "x", "local", 1, model=name)[0] == 200)
print("ok")
PYTHON
