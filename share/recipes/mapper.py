"""What the mappers to other training programs share: they write the program's configuration from job.json, start
it, turn its log into progress.jsonl as it grows, and make the served adapter of what it saved.

The examples go over as tokens and labels, made by tandem-trainer, so that every program learns the same.
"""
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import job as jobs

POLL_S = 0.5
GRACE_S = 120  # between TERM and KILL: a checkpoint of a large model takes its time

# Members of job.json that none of these programs honours.
CANNOT = {
    "memory_bytes": "leave it out; --qlora takes less memory",
    "weights": "leave it out; --qlora keeps the base in 4 bits",
    "threads": "leave it out; set OMP_NUM_THREADS instead",
}


class Log:
    """A file of JSON lines that grows while it is read; what stood there before is passed over."""

    def __init__(self, path):
        self.path, self.at = path, path.stat().st_size if path.exists() else 0

    def lines(self):
        try:
            with open(self.path, "rb") as f:
                f.seek(self.at)
                text = f.read()
        except FileNotFoundError:
            return
        whole = text.rfind(b"\n") + 1  # the last line may be half written
        self.at += whole
        for line in text[:whole].splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # a line of another kind


class Mapped:
    """One run of another program. A mapper sets `words`, `logs` ({path: function of a line}), `adapters`."""

    name = ""

    def __init__(self, job, args):
        self.job, self.args, self.stop = job, args, False
        self.folder = (job.folder / self.name).resolve()
        self.learn, self.evaluate = job.examples(args.trainer)
        per_epoch = math.ceil(len(self.learn) / job.batch)
        job.steps = min(job.max_steps or per_epoch * job.epochs, per_epoch * job.epochs)
        self.tokens_per_step = job.batch * sum(len(t) for t, _ in self.learn) / len(self.learn)
        self.loss = self.eval_loss = None

    def warm_up(self):
        return int(self.job.warmup_share * self.job.steps)

    def per_process(self):
        """Examples of a step that each process takes."""
        if self.job.batch % self.args.processes:
            raise jobs.invalid(f'"batch" is {self.job.batch}, which {self.args.processes} processes cannot '
                               "share evenly; change one of them")
        return self.job.batch // self.args.processes

    # ---- telling ---------------------------------------------------------------------------------

    def step_tell(self, step, loss, rate, **more):
        seconds = time.monotonic() - self.job.started
        done = max(step - self.first_step, 1)
        self.job.step, self.loss = step, loss
        line = {"step": step, "steps": self.job.steps, "loss": loss, "lr": rate,
                "tokens_per_s": self.tokens_per_step * done / seconds,
                "eta_s": seconds / done * (self.job.steps - step)}
        self.job.tell(**(line | {k: v for k, v in more.items() if v is not None}))

    def eval_tell(self, step, loss):
        self.eval_loss = loss
        self.job.tell(event="evaluated", step=step, eval_loss=loss)

    def logs_read(self):
        for log, take in self.open_logs:
            for line in log.lines():
                take(line)

    # ---- running ---------------------------------------------------------------------------------

    def on_signal(self, *_):
        self.stop = True

    def run(self):
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, self.on_signal)
        self.open_logs = [(Log(path), take) for path, take in self.logs.items()]
        output = self.job.folder / f"{self.name}.log"
        self.first_step, self.job.started = self.resumed_step(), time.monotonic()
        try:
            with open(output, "ab") as f:
                child = subprocess.Popen([str(w) for w in self.words], stdout=f, stderr=f,
                                         stdin=subprocess.DEVNULL, start_new_session=True,
                                         env=os.environ | self.environment())
        except OSError as e:
            raise jobs.JobError("not_found", f"{self.words[0]}: {e.strerror}; is {self.name} installed "
                                "here?") from e
        self.child_wait(child)
        self.logs_read()
        if self.stop:
            raise jobs.Stopped
        if child.returncode != 0:
            last = output.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise jobs.JobError("engine", f"{self.name} ended with status {child.returncode}: {last[0][:300]} "
                                f"(all of it: {output})")
        found = sorted(self.folder.glob(self.adapters), key=lambda p: p.stat().st_mtime)
        if not found:
            raise jobs.JobError("engine", f"{self.name} ended well, but saved no {self.folder}/{self.adapters}")
        self.job.step = self.job.steps
        self.job.publish(found[-1].parent, self.args, self.loss, self.eval_loss)

    def child_wait(self, child):
        """Until it has ended; TERM, then KILL for all of its processes once we are to stop."""
        killed = None
        while child.poll() is None:
            if self.stop and killed is None:
                os.killpg(child.pid, signal.SIGTERM)
                killed = time.monotonic()
            if killed and time.monotonic() - killed > GRACE_S:
                os.killpg(child.pid, signal.SIGKILL)
            self.logs_read()
            time.sleep(POLL_S)

    def environment(self):
        return {}

    def resumed_step(self):
        return 0

    def config_write(self, name, config):
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        jobs.write_whole(path, json.dumps(config, indent=1))
        return path


def main(mapped, about, cannot):
    p = jobs.arguments(about)
    p.add_argument("--processes", type=int, default=1, metavar="N", help="one for each GPU")
    p.add_argument("--qlora", action="store_true", help="the base in 4 bits (bitsandbytes)")
    p.add_argument("--print", action="store_true", dest="only_print",
                   help="write the configuration, print the command, start nothing")
    args = p.parse_args()
    try:
        job = jobs.Job(args.folder, CANNOT | cannot)
    except jobs.JobError as e:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {e}")

    def work():
        if not args.hf:
            raise jobs.invalid(f"{mapped.name} reads the base from a Hugging Face folder; say --hf MODEL")
        if job.gpu is False:
            raise jobs.invalid(f'"gpu" is false, and {mapped.name} trains on GPUs; use train_peft.py')
        run = mapped(job, jobs.tools_find(args))
        run.prepare()
        if args.only_print:
            print(json.dumps([str(w) for w in run.words]))
        else:
            run.run()

    return jobs.finish(job, work)
