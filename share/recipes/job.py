"""The folder of a training job, as docs/training.md describes it, for trainers that are not tandem's own.

What job.json may hold and mean, progress.jsonl, result.json, and the way from a PEFT adapter to the GGUF that is
served. train_peft.py and the mappers for other programs share it.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

TARGETS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj",
           "gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
GROUPS = {"attention": ["q", "k", "v", "o"], "mlp": ["gate", "up", "down"], "all": list(TARGETS)}

# As the native trainer has them (src/train/options.c).
DEFAULTS = {
    "eval_data": "", "eval_share": 0, "rank": 8, "alpha": 16, "targets": "all", "seed": 0,
    "learning_rate": 2e-4, "weight_decay": 0, "clip": 1, "epochs": 3, "max_steps": 0, "batch": 4,
    "warmup_share": 0.05, "max_tokens": 1024, "checkpoint_steps": 50, "eval_steps": 0, "threads": 0,
    "gpu": None, "memory_bytes": 0, "weights": "auto", "merge": "",
}


class JobError(Exception):
    """What is told to whoever started the job; `code` as tandem's own errors have it."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Stopped(Exception):
    """SIGTERM or SIGINT came; a checkpoint is written."""


def invalid(message):
    return JobError("invalid", message)


class Job:
    """folder/job.json; its members are attributes."""

    def __init__(self, folder, cannot=()):
        """cannot: members that this trainer does not honour, {name: what to do instead}."""
        self.folder = pathlib.Path(folder)
        self.step, self.steps, self.started = 0, 0, time.monotonic()
        try:
            given = json.loads((self.folder / "job.json").read_text())
        except OSError as e:
            raise JobError("not_found", f"'{self.folder}/job.json': {e.strerror}") from e
        except ValueError as e:
            raise invalid(f"'{self.folder}/job.json': {e}") from e
        for name in ("model", "data"):
            if not isinstance(given.get(name), str) or not given[name]:
                raise invalid(f'"{name}" is missing')
        for name, value in given.items():
            if name not in DEFAULTS and name not in ("model", "data"):
                raise invalid(f'"{name}" is no option of a training job')
            if name in cannot and value != DEFAULTS[name]:
                raise invalid(f'"{name}" is {value!r}, which this trainer cannot honour: {cannot[name]}')
        self.given = given
        for name, value in (DEFAULTS | given).items():
            setattr(self, name, value)
        self.modules = sorted({TARGETS[t] for t in self.target_words()}, key=list(TARGETS.values()).index)

    def target_words(self):
        for word in self.targets.split(","):
            if word not in GROUPS and word not in TARGETS:
                raise invalid(f'target "{word}" is not known; say q, k, v, o, gate, up, down, '
                              "attention, mlp or all, with commas")
            yield from GROUPS.get(word, [word])

    # ---- what others read ------------------------------------------------------------------------

    def tell(self, **line):
        """One line of progress.jsonl."""
        with open(self.folder / "progress.jsonl", "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")

    def result(self, status, **more):
        result = {"status": status, "step": self.step, "steps": self.steps, "peak_bytes": peak_bytes()}
        write_whole(self.folder / "result.json", json.dumps(result | more))

    # ---- what tandem's own programs do -----------------------------------------------------------

    def examples(self, trainer):
        """(tokens, supervised) of each example: those to learn, those to evaluate on."""
        learn, evaluate = [], []
        for line in run([trainer, "--examples", self.folder]).splitlines():
            x = json.loads(line)
            (evaluate if x["eval"] else learn).append((x["tokens"], x["supervised"]))
        if not learn:
            raise invalid("no example is left to train on")
        return learn, evaluate

    def publish(self, adapter, tools, loss, eval_loss):
        """adapter: PEFT's folder. Writes adapter.gguf, merged.gguf if asked for, and result.json."""
        out = self.folder / "adapter.gguf"
        run([tools.tandem, "convert", adapter, "-m", self.model, "-o", out, "--replace"])
        more = {"adapter": "adapter.gguf", "loss": loss, "eval_loss": eval_loss}
        if self.merge:
            run([tools.trainer, "--merge", self.merge, self.model, out, self.folder / "merged.gguf"])
            more["merged"] = "merged.gguf"
        self.result("succeeded", **more)


def write_whole(path, text):
    aside = path.with_name(path.name + ".part")
    with open(aside, "w", encoding="utf-8") as f:
        f.write(text + "\n")
        f.flush()
        os.fsync(f.fileno())
    os.replace(aside, path)


def run(words):
    """A program's output; its last line of complaint where it fails."""
    words = [str(w) for w in words]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as e:
        raise JobError("not_found", f"{words[0]}: {e.strerror}; --tandem says where it is") from e
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise JobError("invalid", f"{pathlib.Path(words[0]).name}: {last.split(': ', 1)[-1]}")
    return done.stdout


def peak_bytes():
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def arguments(about):
    """The command line that all of them share; the folder comes last."""
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hf", metavar="MODEL", help="the base as a Hugging Face folder or name; it must be "
                   "the model of which job.json's \"model\" is the GGUF")
    p.add_argument("--tandem", metavar="DIR", help="where tandem and tandem-trainer are (default: PATH)")
    p.add_argument("folder", help="the job: job.json in it says what to do")
    return p


def tools_find(args):
    """Adds args.tandem, args.trainer: paths of the programs."""
    folder = args.tandem
    for name, attribute in (("tandem", "tandem"), ("tandem-trainer", "trainer")):
        path = str(pathlib.Path(folder, name)) if folder else shutil.which(name)
        if not path or not os.access(path, os.X_OK):
            raise JobError("not_found", f"there is no program {name}"
                           f"{' in ' + folder if folder else ''}; --tandem DIR says where it is")
        setattr(args, attribute, path)
    return args


def finish(job, work):
    """Runs work() and sees to it that result.json says how it ended; the exit status."""
    try:
        work()
        return 0
    except Stopped:
        job.result("cancelled", code="cancelled", error=f"stopped at step {job.step}")
        return 3
    except JobError as e:
        job.result("failed", code=e.code, error=str(e))
        print(f"{pathlib.Path(sys.argv[0]).name}: {e}", file=sys.stderr)
        return 1
    except Exception as e:  # a bug, or a library's complaint: with its kind, and where
        job.result("failed", code="engine", error=f"{type(e).__name__}: {e}"[:400])
        raise
