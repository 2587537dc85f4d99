#!/usr/bin/env python3
"""Trains a LoRA adapter with PyTorch, transformers and PEFT: tandem's job folder in, tandem's job folder out.

  train_peft.py JOB                                          one CPU or GPU
  torchrun --nproc-per-node 8 train_peft.py JOB              eight GPUs of one machine
  torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d \\
      --rdzv-endpoint BOX:29500 train_peft.py JOB            two machines, the folder at the same path on both

The base is read from the job's GGUF (its weights as plain numbers), or with --hf from a Hugging Face folder; --qlora
keeps it in 4 bits (bitsandbytes, CUDA). Examples come from `tandem-trainer --examples`: the very tokens, masks and
order that the native trainer takes. SIGTERM ends a run with a checkpoint, and the same command goes on from it.
"""
import hashlib
import json
import math
import os
import pathlib
import shutil
import signal
import sys
import time

import torch
import torch.distributed as dist
import transformers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

import job as jobs

CANNOT = {"memory_bytes": "leave it out; --qlora takes less memory",
          "weights": "leave it out; --qlora keeps the base in 4 bits"}
# What may change between two runs of one job.
FREE = ("model", "data", "eval_data", "eval_steps", "checkpoint_steps", "threads", "gpu", "memory_bytes",
        "weights", "merge")
KEPT = 2  # checkpoints


# ---- where it runs -------------------------------------------------------------------------------

class World:
    """The processes that torchrun started; one alone without it."""

    def __init__(self, job):
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available() and job.gpu is not False
        if job.gpu and not cuda:
            raise jobs.invalid('"gpu" is true, but PyTorch finds no CUDA device here')
        if job.threads:
            torch.set_num_threads(job.threads)
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)
        if self.size > 1:
            dist.init_process_group("nccl" if cuda else "gloo")
        self.first = self.rank == 0

    def sum(self, value):
        """A number, or a list of tensors in place, over all processes."""
        if self.size == 1:
            return value
        if isinstance(value, list):
            flat = torch.cat([t.flatten() for t in value])
            dist.all_reduce(flat)
            for t, part in zip(value, flat.split([t.numel() for t in value])):
                t.copy_(part.view_as(t))
            return value
        t = torch.tensor(float(value), dtype=torch.float64, device=self.device)
        dist.all_reduce(t)
        return t.item()

    def wait(self):
        if self.size > 1:
            dist.barrier()


# ---- the model -----------------------------------------------------------------------------------

def base_load(job, args, device):
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if args.unsloth:
        from unsloth import FastLanguageModel
        return FastLanguageModel.from_pretrained(args.hf, max_seq_length=job.max_tokens, dtype=dtype,
                                                 load_in_4bit=args.qlora)[0]
    if args.qlora:
        config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                                 bnb_4bit_use_double_quant=True,
                                                 bnb_4bit_compute_dtype=torch.bfloat16)
        return transformers.AutoModelForCausalLM.from_pretrained(
            args.hf, quantization_config=config, dtype=dtype, device_map={"": device})
    if args.hf:
        return transformers.AutoModelForCausalLM.from_pretrained(args.hf, dtype=dtype).to(device)
    path = pathlib.Path(job.model)
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name,
                                                             dtype=dtype).to(device)


def model_make(job, args, world):
    torch.manual_seed(job.seed)  # the same first values in every process
    base = base_load(job, args, world.device)
    base.config.use_cache = False
    for p in base.parameters():
        p.requires_grad_(False)
    settings = dict(r=job.rank, lora_alpha=job.alpha, target_modules=job.modules, lora_dropout=0.0, bias="none")
    if args.unsloth:
        from unsloth import FastLanguageModel
        return FastLanguageModel.get_peft_model(base, random_state=job.seed, **settings)
    if args.checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.float()  # the adapter learns in F32, whatever the base is kept in
    return model


# ---- data ----------------------------------------------------------------------------------------

def shuffled(n, seed):
    """0..n-1 as the native trainer shuffles them: SplitMix64, Fisher and Yates from the end."""
    items, state, mask = list(range(n)), seed, (1 << 64) - 1
    for i in range(n, 1, -1):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        k = (z ^ z >> 31) % i
        items[i - 1], items[k] = items[k], items[i - 1]
    return items


def targets(example):
    return sum(example[1][1:])


def batch_make(examples, device):
    """Padded to the longest; -100 where nothing is to be predicted."""
    longest = max(len(tokens) for tokens, _ in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full((len(examples), longest), -100)
    seen = torch.zeros(len(examples), longest, dtype=torch.long)
    for row, (tokens, supervised) in enumerate(examples):
        n, t = len(tokens), torch.tensor(tokens)
        ids[row, :n], seen[row, :n] = t, 1
        labels[row, :n] = torch.where(torch.tensor(supervised) == 1, t, -100)
    return ids.to(device), seen.to(device), labels.to(device)


def loss_sum(model, examples, device):
    """Cross-entropy in nats, summed over the supervised predictions."""
    ids, seen, labels = batch_make(examples, device)
    logits = model(input_ids=ids, attention_mask=seen).logits[:, :-1]
    labels = labels[:, 1:]
    wanted = labels != -100  # only these rows as F32
    return torch.nn.functional.cross_entropy(logits[wanted].float(), labels[wanted], reduction="sum")


# ---- the run -------------------------------------------------------------------------------------

class Run:
    def __init__(self, job, args, world):
        self.job, self.args, self.world, self.stop = job, args, world, False
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, self.on_signal)
        self.learn, self.evaluate = job.examples(args.trainer)
        self.per_epoch = math.ceil(len(self.learn) / job.batch)
        job.steps = self.per_epoch * job.epochs
        if job.max_steps:
            job.steps = min(job.steps, job.max_steps)
        self.model = model_make(job, args, world)
        size = self.model.get_input_embeddings().weight.shape[0]
        most = max(max(tokens) for tokens, _ in self.learn + self.evaluate)
        if most >= size:
            raise jobs.JobError("mismatch", f"the data has token {most}, the model {size} tokens: --hf is "
                                f"not the model of '{job.model}'")
        self.values = [p for p in self.model.parameters() if p.requires_grad]
        self.adamw = torch.optim.AdamW(self.values, lr=job.learning_rate, weight_decay=job.weight_decay)
        self.loss = self.eval_loss = None
        self.tokens, self.first_step = 0, 0

    def on_signal(self, *_):
        self.stop = True

    def rate(self, step):
        warm = int(self.job.warmup_share * self.job.steps)
        if step < warm:
            return self.job.learning_rate * (step + 1) / warm
        done = (step - warm) / (self.job.steps - warm)
        return self.job.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def batch(self, step):
        job, epoch = self.job, step // self.per_epoch
        order = shuffled(len(self.learn), (job.seed * 1000003 + epoch) & ((1 << 64) - 1))
        at = step % self.per_epoch * job.batch
        return [self.learn[i] for i in order[at:at + job.batch]]

    def share(self, examples):
        """Those of this process, some at a time."""
        mine = examples[self.world.rank::self.world.size]
        some = self.args.micro or max(len(mine), 1)
        return [mine[i:i + some] for i in range(0, len(mine), some)]

    def step(self):
        job, world, examples = self.job, self.world, self.batch(self.job.step)
        wanted, total = sum(map(targets, examples)), 0.0
        for some in self.share(examples):
            one = loss_sum(self.model, some, world.device)
            (one / wanted).backward()
            total += one.item()
        for p in self.values:  # a process may have had nothing to do
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        world.sum([p.grad for p in self.values])
        norm = torch.nn.utils.clip_grad_norm_(self.values, job.clip or math.inf).item()
        self.loss = world.sum(total) / wanted
        if not math.isfinite(norm) or not math.isfinite(self.loss):
            raise jobs.JobError("engine", f"the loss is no number any more at step {job.step}; try a smaller "
                                f"learning rate than {job.learning_rate:g}")
        rate = self.adamw.param_groups[0]["lr"] = self.rate(job.step)
        self.adamw.step()
        self.adamw.zero_grad()
        job.step += 1
        self.tokens += sum(len(tokens) for tokens, _ in examples)
        self.step_tell(rate, norm)

    def step_tell(self, rate, norm):
        job, seconds = self.job, time.monotonic() - self.started
        line = {"step": job.step, "steps": job.steps, "loss": self.loss, "lr": rate, "gradient_norm": norm,
                "tokens_per_s": self.tokens / seconds,
                "eta_s": seconds / (job.step - self.first_step) * (job.steps - job.step)}
        if job.eval_steps and job.step % job.eval_steps == 0:
            line["eval_loss"] = self.eval_run()
        if self.world.first:
            job.tell(**line)

    @torch.no_grad()
    def eval_run(self):
        if not self.evaluate:
            return None
        self.model.eval()
        mine = sum(loss_sum(self.model, [x], self.world.device).item()
                   for x in self.evaluate[self.world.rank::self.world.size])
        self.model.train()
        self.eval_loss = self.world.sum(mine) / sum(map(targets, self.evaluate))
        return self.eval_loss

    # ---- checkpoints -----------------------------------------------------------------------------

    def key(self):
        """What the state depends on: another job's checkpoint is refused."""
        text = json.dumps([{k: v for k, v in (jobs.DEFAULTS | self.job.given).items() if k not in FREE},
                           self.learn, bool(self.args.qlora)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self):
        """checkpoints/step-N: made aside, then renamed, so that it is whole or not there."""
        if not self.world.first:
            return
        folder = self.job.folder / "checkpoints"
        aside, path = folder / f"part-{self.job.step}", folder / f"step-{self.job.step}"
        for old in (aside, path):
            shutil.rmtree(old, ignore_errors=True)
        aside.mkdir(parents=True)
        torch.save({"key": self.key(), "step": self.job.step, "values": get_peft_model_state_dict(self.model),
                    "adamw": self.adamw.state_dict()}, aside / "state.pt")
        with open(aside / "state.pt", "rb") as f:
            os.fsync(f.fileno())
        (aside / "COMPLETE").touch()
        os.replace(aside, path)
        for old in complete(folder)[KEPT:]:
            shutil.rmtree(old)

    def resume(self):
        for path in complete(self.job.folder / "checkpoints"):
            if not (path / "state.pt").exists():
                raise jobs.JobError("mismatch", f"'{path}' is of another trainer; start in an empty folder")
            state = torch.load(path / "state.pt", map_location=self.world.device, weights_only=True)
            if state["key"] != self.key():
                raise jobs.JobError("mismatch", f"'{path}' belongs to another job: other options, data or base "
                                    "model; start in an empty folder")
            set_peft_model_state_dict(self.model, state["values"])
            self.adamw.load_state_dict(state["adamw"])
            self.job.step = self.first_step = state["step"]
            if self.world.first:
                self.job.tell(event="resumed", step=self.job.step)
            return

    # ---- all of it -------------------------------------------------------------------------------

    def run(self):
        job, world = self.job, self.world
        self.resume()
        self.started = time.monotonic()
        while job.step < job.steps:
            if world.sum(int(self.stop)) > 0:  # all of them, at the same step
                self.save()
                raise jobs.Stopped
            self.step()
            if job.step == job.steps or job.step % job.checkpoint_steps == 0:
                self.save()
        if self.eval_run() is not None and world.first:
            job.tell(event="evaluated", step=job.step, eval_loss=self.eval_loss)
        if world.first:
            self.model.save_pretrained(job.folder / "adapter", safe_serialization=True)
            job.publish(job.folder / "adapter", self.args, self.loss, self.eval_loss)
        world.wait()


def complete(folder):
    """Whole checkpoints, the newest first."""
    found = [p for p in folder.glob("step-*") if (p / "COMPLETE").exists() and p.name[5:].isdigit()]
    return sorted(found, key=lambda p: -int(p.name[5:]))


def options_check(args):
    if args.qlora or args.unsloth:
        what = "--qlora" if args.qlora else "--unsloth"
        if not args.hf:
            raise jobs.invalid(f"{what} reads the base from a Hugging Face folder; say --hf MODEL")
        if not torch.cuda.is_available():
            raise jobs.invalid(f"{what} needs a CUDA device, and PyTorch finds none here")
    for flag, module in (("qlora", "bitsandbytes"), ("unsloth", "unsloth")):
        if getattr(args, flag) and not transformers.utils.import_utils._is_package_available(module)[0]:
            raise jobs.JobError("not_found", f"--{flag} needs the Python package {module}: pip install {module}")


def main():
    p = jobs.arguments(__doc__)
    p.add_argument("--qlora", action="store_true", help="the base in 4 bits (bitsandbytes)")
    p.add_argument("--unsloth", action="store_true", help="load and patch the model with Unsloth")
    p.add_argument("--micro", type=int, default=0, metavar="N",
                   help="examples computed at once (default: all of a step's; fewer take less memory)")
    p.add_argument("--checkpointing", action="store_true", help="compute activations twice, keep fewer")
    args = p.parse_args()
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    try:
        job = jobs.Job(args.folder, CANNOT)
    except jobs.JobError as e:
        sys.exit(f"train_peft.py: {e}")

    def work():
        options_check(args)
        Run(job, jobs.tools_find(args), World(job)).run()

    if int(os.environ.get("RANK", 0)) > 0:
        job.result = lambda *_, **__: None  # the first process tells
    status = jobs.finish(job, work)
    if dist.is_initialized():
        dist.destroy_process_group()
    return status


sys.exit(main())
