#!/usr/bin/env bash
# Adapters of other programs: tandem convert as its users call it, what tandem-trainer does for other trainers, and the
# mappers to other training programs, which are played by small scripts here.
set -euo pipefail
cd "$(dirname "$0")"
exec python3 - <<'PYTHON'
import hashlib
import pathlib
import struct
import sys

sys.path.insert(0, ".")
from e2e import *

SOURCE = pathlib.Path(os.environ.get("TANDEM_SOURCE", "..")).resolve()
GOLDEN, RECIPES = SOURCE / "tests/golden/peft", SOURCE / "share/recipes"
BIN = os.path.abspath(BIN)
HERE = pathlib.Path(DIR)
for name in [n for n in os.environ if n.startswith("TANDEM_")]:
    del os.environ[name]
os.environ.update(TANDEM_CONFIG=DIR, TANDEM_DATA=str(HERE / "data"), TANDEM_STATE=DIR, LC_ALL="C")


def run(program, *args, rc=0, **more):
    p = subprocess.run([program, *map(str, args)], capture_output=True, text=True, timeout=120, **more)
    check(p.returncode == rc, program, args, "ended with", p.returncode, p.stdout, p.stderr)
    return p


def convert(*args, rc=0):
    return run(os.path.join(BIN, "tandem"), "convert", *args, rc=rc)


def trainer(*args, rc=0):
    return run(os.path.join(BIN, "tandem-trainer"), *args, rc=rc)


def converting():
    llama, out = GOLDEN / "llama", HERE / "a.gguf"
    told = json.loads(convert(llama, "-m", llama / "base.gguf", "-o", out, "--json").stdout)
    check(told["rank"] == 3 and told["matrices"] == 14 and told["arch"] == "llama", told)
    check(told["bytes"] == out.stat().st_size, told)
    first = hashlib.sha256(out.read_bytes()).digest()
    check("--replace" in convert(llama, "-m", llama / "base.gguf", "-o", out, rc=2).stderr)
    check("rank 3" in convert(llama, "-m", llama / "base.gguf", "-o", out, "--replace").stdout)
    check(hashlib.sha256(out.read_bytes()).digest() == first, "the same adapter, another file")
    check("with -m" in convert(llama, rc=2).stderr)
    check("another base" in convert(llama, "-m", GOLDEN / "llama_mha/base.gguf", "-o", HERE / "b.gguf", rc=1).stderr)
    check(not (HERE / "b.gguf").exists())
    dora = HERE / "dora"
    shutil.copytree(llama, dora)
    config = json.loads((dora / "adapter_config.json").read_text()) | {"use_dora": True}
    (dora / "adapter_config.json").write_text(json.dumps(config))
    check("use_dora=False" in convert(dora, "-m", llama / "base.gguf", rc=1).stderr)


# An adapter of rank 1 for the real model, as PEFT would save it.
def adapter_save(folder, value=0.01):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 2}))
    n, name = 576, "base_model.model.model.layers.0.self_attn.q_proj.lora_%s.weight"
    head = json.dumps({name % "A": {"dtype": "F32", "shape": [1, n], "data_offsets": [0, 4 * n]},
                       name % "B": {"dtype": "F32", "shape": [n, 1], "data_offsets": [4 * n, 8 * n]}}).encode()
    data = struct.pack("<Q", len(head)) + head + struct.pack("<f", value) * (2 * n)
    (folder / "adapter_model.safetensors").write_bytes(data)


def publishing():
    adapter_save(HERE / "real")
    convert(HERE / "real", "-m", MODEL, "-o", HERE / "real.gguf", "--name", "mapped")
    manifest = json.loads((HERE / "data/adapters/mapped/manifest.json").read_text())
    check(manifest["rank"] == 1, manifest)
    check("mapped" in convert(HERE / "real", "-m", MODEL, "-o", HERE / "real2.gguf", "--name", "mapped", rc=1).stderr)
    convert(HERE / "real", "-m", MODEL, "-o", HERE / "real.gguf", "--name", "mapped", "--replace")
    check("name" in convert(HERE / "real", "-m", MODEL, "-o", HERE / "c.gguf", "--name", "../x", rc=2).stderr)


def job_make(name, **members):
    folder = HERE / name
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({"model": MODEL, "data": str(HERE / "data.jsonl")} | members))
    return folder


def examples():
    chats = [[("user", "Say %d." % i), ("assistant", "It is %d." % i)] for i in range(10)]
    (HERE / "data.jsonl").write_text("".join(
        json.dumps({"messages": [{"role": r, "content": c} for r, c in chat]}) + "\n" for chat in chats))
    lines = [json.loads(x) for x in trainer("--examples", job_make("ex", eval_share=0.2)).stdout.splitlines()]
    check(len(lines) == 10 and sum(x["eval"] for x in lines) == 2, lines)
    for x in lines:
        check(len(x["tokens"]) == len(x["supervised"]) and 3 <= sum(x["supervised"]) < len(x["tokens"]) / 2, x)
        check(x["supervised"][0] == 0, x)
    check('"q9_9"' in trainer("--examples", job_make("bad", merge="q9_9"), rc=1).stderr.replace("'", '"'))


def merging():
    llama = GOLDEN / "llama"
    trainer("--merge", "q8_0", llama / "base.gguf", llama / "reference.gguf", HERE / "m.gguf")
    check((HERE / "m.gguf").read_bytes()[:4] == b"GGUF")
    trainer("--merge", "q8_0", llama / "base.gguf", GOLDEN / "qwen2/reference.gguf", HERE / "n.gguf", rc=1)
    check(not list(HERE.glob("n.gguf*")))
    trainer("--merge", "q8_0", rc=2)


# Plays the other program: reads what the mapper wrote, logs three steps, saves the adapter it was given.
PLAYED = """#!{python}
import json, os, pathlib, shutil, signal, sys, time
path = [a for a in sys.argv if a.endswith((".json", ".yaml"))][0]
c = json.loads(pathlib.Path(path).read_text())
out = pathlib.Path(c["output_dir"] if "output_dir" in c else c["checkpoint"]["checkpoint_dir"])
out.mkdir(parents=True, exist_ok=True)
if os.environ.get("PLAY") == "fail":
    sys.exit("played: out of memory")
if "output_dir" in c:
    rows = json.loads((pathlib.Path(c["tokenized_path"]) / "rows.json").read_text())["train"]
    check = rows[0]
else:
    check = json.loads(open(c["dataset"]["path"]).readline())
assert len(check["input_ids"]) == len(check["labels"]), check
assert -100 in check["labels"] and max(check["labels"]) >= 0, check
for step in range(1, 4):
    if "output_dir" in c:
        line, log = dict(current_steps=step, total_steps=3, loss=3.0 - step, lr=1e-4), "trainer_log.jsonl"
    else:
        line, log = dict(step=step, loss=3.0 - step, lr=1e-4, grad_norm=0.5), "training.jsonl"
    with open(out / log, "a") as f:
        f.write(json.dumps(line) + "\\n")
if os.environ.get("PLAY") == "hang":
    time.sleep(60)
to = out if "output_dir" in c else out / "epoch_0_step_3" / "model"
shutil.copytree({adapter!r}, to, dirs_exist_ok=True)
"""
DATASETS = """
import json, os
class Dataset(list):
    from_list = classmethod(lambda c, rows: c(rows))
class DatasetDict(dict):
    def save_to_disk(self, path):
        os.makedirs(path, exist_ok=True)
        json.dump(self, open(os.path.join(path, "rows.json"), "w"))
"""


def players_make():
    tools = HERE / "bin"
    tools.mkdir()
    for name in ("llamafactory-cli", "automodel"):
        (tools / name).write_text(PLAYED.format(python=sys.executable, adapter=str(HERE / "real")))
        (tools / name).chmod(0o755)
    (tools / "datasets.py").write_text(DATASETS)
    os.environ.update(PATH=f"{tools}:{os.environ['PATH']}", PYTHONPATH=str(tools), PYTHONDONTWRITEBYTECODE="1")


def mapped(script, folder, *args, rc=0, play=""):
    p = run(sys.executable, RECIPES / script, "--hf", "some/model", "--tandem", BIN, *args, folder, rc=rc,
            env=os.environ | {"PLAY": play})
    return p, json.loads((folder / "result.json").read_text()) if (folder / "result.json").exists() else None


def mappers():
    for script, extra in (("to_llamafactory.py", {"alpha": 4}), ("to_nemo.py", {"alpha": 4.5})):
        name = script[3:6]
        job = job_make(name, rank=2, batch=2, max_steps=3, targets="q,v", eval_share=0.2, merge="q8_0", **extra)
        _, result = mapped(script, job)
        check(result["status"] == "succeeded" and result["step"] == 3 and result["loss"] == 0.0, result)
        lines = [json.loads(x) for x in (job / "progress.jsonl").read_text().splitlines()]
        check([x["step"] for x in lines] == [1, 2, 3] and lines[-1]["steps"] == 3, lines)
        check({"loss", "lr", "tokens_per_s", "eta_s"} <= set(lines[0]), lines)
        check((job / "adapter.gguf").exists() and (job / "merged.gguf").exists())
        (job / "merged.gguf").unlink()

        _, result = mapped(script, job_make(name + "-fail", max_steps=3), rc=1, play="fail")
        check(result["status"] == "failed" and "out of memory" in result["error"], result)
        _, result = mapped(script, job_make(name + "-refused", memory_bytes=1 << 30), rc=1)
        check(result is None)
        check("memory_bytes" in mapped(script, HERE / (name + "-refused"), rc=1)[0].stderr)
        check("weights" in mapped(script, job_make(name + "-w", weights="dense"), rc=1)[0].stderr)
        check("lerning_rate" in mapped(script, job_make(name + "-m", lerning_rate=1), rc=1)[0].stderr)
        check("share evenly" in mapped(script, job_make(name + "-p", batch=3), "--processes", "2", rc=1)[0].stderr)
        only = mapped(script, job_make(name + "-print", max_steps=3), "--print")[0].stdout
        check(json.loads(only)[0] in ("llamafactory-cli", "automodel"), only)
    check("clip" in mapped("to_nemo.py", job_make("clip", clip=0.5), rc=1)[0].stderr)
    check("whole numbers" in mapped("to_llamafactory.py", job_make("alpha", alpha=4.5), rc=1)[0].stderr)


def stopping():
    job = job_make("stop", max_steps=3)
    p = subprocess.Popen([sys.executable, RECIPES / "to_nemo.py", "--hf", "m", "--tandem", BIN, job],
                         env=os.environ | {"PLAY": "hang"})
    wait_for("three steps", lambda: (job / "progress.jsonl").exists() and
             len((job / "progress.jsonl").read_text().splitlines()) == 3, 60)
    p.send_signal(signal.SIGTERM)
    check(p.wait(30) == 3)
    result = json.loads((job / "result.json").read_text())
    check(result["status"] == "cancelled" and result["step"] == 3, result)
    left = subprocess.run(["pgrep", "-f", str(job)], capture_output=True, text=True).stdout
    check(not left, "still running:", left)


converting()
publishing()
examples()
merging()
players_make()
mappers()
stopping()
print("ok")
PYTHON
