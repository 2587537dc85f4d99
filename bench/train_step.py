#!/usr/bin/env python3
"""train_step.py [--rounds N] [--cpu-time] [--json-file FILE]: a training step of the native trainer against the same step of PyTorch
and PEFT (share/recipes/train_peft.py), on the CPU, the base kept as F32 in both; same rank, length, batch and threads,
the same tokens in the same order, in turns so that both see the same machine. Prints JSON:

  {"ratio": native / PyTorch, the median of the rounds' ratios, "native_step_s", "pytorch_step_s": medians, "rounds": [...]}

The first step of each run is left out, and so is loading. --cpu-time is for a machine that is busy with other things (Linux):
CPU seconds between two steps, of one thread. TANDEM_BIN: the build folder. TANDEM_TEST_MODEL: the model.
TORCH_PYTHON: a Python that has torch, transformers, peft and gguf.
"""
import argparse
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from bounds import cpu_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOUND = 1.5


def lines_of(path):
    return [json.loads(x) for x in path.read_text().splitlines()]


def data_make(folder, trainer, model, length):
    """One chat of exactly so many tokens, as often as a run needs it."""
    def chat(words):
        return json.dumps({"messages": [{"role": "user", "content": "Count."},
                                        {"role": "assistant", "content": " ".join(["one"] * words)}]})
    probe = folder / "probe"
    probe.mkdir()
    (probe / "data.jsonl").write_text("\n".join(chat(n + 1) for n in range(length)))
    (probe / "job.json").write_text(json.dumps({"model": model, "data": str(probe / "data.jsonl"),
                                                "max_tokens": 2 * length}))
    out = subprocess.run([trainer, "--examples", probe], capture_output=True, text=True, check=True).stdout
    whole = [x for x in map(json.loads, out.splitlines()) if len(x["tokens"]) == length]
    if not whole:
        sys.exit(f"no chat of {length} tokens could be made; try another --length")
    words = sum(whole[0]["supervised"]) - 1  # without the end token: a word is a token
    return chat(words), sum(whole[0]["supervised"])


def step_s(folder, tokens_per_step):
    """Seconds of a step after the first, from the running mean of tokens per second."""
    steps = [x for x in lines_of(folder / "progress.jsonl") if "loss" in x]
    ends = [x["step"] * tokens_per_step / x["tokens_per_s"] for x in (steps[0], steps[-1])]
    return (ends[1] - ends[0]) / (steps[-1]["step"] - steps[0]["step"]), steps[0]["loss"]


def cpu_s(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(words, progress, cpu_time):
    """Runs a trainer; with cpu_time, its CPU seconds of a step after the first, as they stand when a step is told."""
    with tempfile.TemporaryFile() as said:
        p = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said)
        ends = []
        while cpu_time and p.poll() is None:
            told = sum('"loss"' in line for line in progress.read_text().splitlines()) if progress.exists() else 0
            if told > len(ends):
                ends.append(cpu_s(p.pid))
            time.sleep(0.02)
        if p.wait() != 0:
            said.seek(0)
            sys.exit(f"{words[0]}: {said.read().decode(errors='replace')[-500:]}")
    return (ends[-1] - ends[0]) / (len(ends) - 1) if cpu_time else None


def versions(python):
    code = "import torch, transformers, peft; print(torch.__version__, transformers.__version__, peft.__version__)"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.split()
    if len(found) != 3:
        sys.exit(f"{python} has not all of torch, transformers and peft; name one that has in TORCH_PYTHON")
    return dict(zip(("torch", "transformers", "peft"), found))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=6, help="of each run; the first does not count")
    p.add_argument("--length", type=int, default=128, help="tokens of an example")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--cpu-time", action="store_true", help="CPU seconds, of one thread each")
    p.add_argument("--json-file", type=pathlib.Path)
    args = p.parse_args()
    args.threads = 1 if args.cpu_time else args.threads
    model, binaries = os.environ["TANDEM_TEST_MODEL"], os.environ.get("TANDEM_BIN", "build")
    python, trainer = os.environ.get("TORCH_PYTHON", "python3"), os.path.join(binaries, "tandem-trainer")
    known = versions(python)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tandem-train-step-"))
    try:
        chat, supervised = data_make(folder, trainer, model, args.length)
        (folder / "data.jsonl").write_text("\n".join([chat] * (args.batch * args.steps)))
        programs = {"native": [trainer],
                    "pytorch": [python, ROOT / "share/recipes/train_peft.py", "--tandem", binaries]}
        rounds = []

        def job_run(name):
            job = folder / f"{name}-{len(rounds)}"
            job.mkdir()
            (job / "job.json").write_text(json.dumps({
                "model": model, "data": str(folder / "data.jsonl"), "epochs": 1, "batch": args.batch,
                "rank": args.rank, "threads": args.threads, "max_tokens": args.length, "gpu": False,
                "checkpoint_steps": 1000} | ({"weights": "dense"} if name == "native" else {})))
            cpu = run([*programs[name], job], job / "progress.jsonl", args.cpu_time)
            seconds, loss = step_s(job, args.batch * args.length)
            return cpu if args.cpu_time else seconds, loss

        for _ in range(args.rounds):
            row = {}
            for name in programs:
                row[name], row[name + "_loss"] = job_run(name)
            row["ratio"] = row["native"] / row["pytorch"]
            print(f"round {len(rounds) + 1}: native {row['native']:.3f} s, PyTorch {row['pytorch']:.3f} s a step, "
                  f"ratio {row['ratio']:.2f}", file=sys.stderr)
            rounds.append(row)
    finally:
        shutil.rmtree(folder)
    result = {
        "date": datetime.date.today().isoformat(), "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "model": os.path.basename(model), "weights": "f32", "length": args.length, "supervised": supervised,
        "batch": args.batch, "rank": args.rank, "threads": args.threads,
        "measured": "CPU seconds" if args.cpu_time else "seconds", "load": os.getloadavg()[0], "versions": known, "bound": BOUND,
        "ratio": statistics.median(r["ratio"] for r in rounds),
        "native_step_s": statistics.median(r["native"] for r in rounds),
        "pytorch_step_s": statistics.median(r["pytorch"] for r in rounds), "rounds": rounds,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.json_file:
        args.json_file.write_text(text + "\n")
    return 0 if result["ratio"] <= BOUND else 3


sys.exit(main())
