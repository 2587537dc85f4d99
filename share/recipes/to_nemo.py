#!/usr/bin/env python3
"""Trains a job with NVIDIA's NeMo AutoModel (automodel): job.json becomes its configuration, its training.jsonl
becomes progress.jsonl, its adapter the one that is served. For models that one GPU cannot hold: it shards them.

  to_nemo.py --hf Qwen/Qwen3-32B --processes 8 JOB
"""
import json
import pathlib
import sys

import job as jobs
import mapper

CANNOT = {"gpu": "leave it out; all GPUs are used", "clip": "leave it out; NeMo AutoModel clips at 1"}


def dataset(path, **_):
    """What the configuration names as dataset: a list of examples. Labels stand where they are predicted."""
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def row(example):
    tokens, supervised = example
    return {"input_ids": tokens[:-1], "attention_mask": [1] * (len(tokens) - 1),
            "labels": [t if s else -100 for t, s in zip(tokens[1:], supervised[1:])]}


class NeMo(mapper.Mapped):
    name = "nemo"

    def prepare(self):
        job = self.job
        if self.args.qlora:
            raise jobs.invalid("--qlora is not mapped to NeMo AutoModel; use train_peft.py --qlora")
        self.per_process()
        here, out = pathlib.Path(__file__).resolve(), self.folder / "checkpoints"
        config = {
            "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
            "step_scheduler": {"global_batch_size": job.batch, "local_batch_size": 1, "max_steps": job.steps,
                               "num_epochs": job.epochs, "ckpt_every_steps": job.checkpoint_steps,
                               "val_every_steps": job.eval_steps or job.steps},
            "dist_env": {"backend": "nccl", "timeout_minutes": 30},
            "rng": {"_target_": "nemo_automodel.components.training.rng.StatefulRNG", "seed": job.seed % (1 << 32),
                    "ranked": True},
            "model": {"_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
                      "pretrained_model_name_or_path": self.args.hf, "dtype": "bfloat16"},
            "peft": {"_target_": "nemo_automodel.components._peft.lora.PeftConfig", "dim": job.rank,
                     "alpha": job.alpha, "dropout": 0.0, "use_triton": False,
                     "target_modules": [f"*.{m}" for m in job.modules]},
            "distributed": {"strategy": "fsdp2", "tp_size": 1, "cp_size": 1},
            "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
            "dataloader": {"_target_": "torchdata.stateful_dataloader.StatefulDataLoader", "shuffle": True,
                           "collate_fn": {"_target_": "nemo_automodel.components.datasets.utils.default_collater"}},
            "optimizer": {"_target_": "torch.optim.AdamW", "lr": job.learning_rate, "betas": [0.9, 0.999],
                          "eps": 1e-8, "weight_decay": job.weight_decay},
            "lr_scheduler": {"lr_decay_style": "cosine", "lr_warmup_steps": self.warm_up(), "min_lr": 0.0},
            "checkpoint": {"enabled": True, "checkpoint_dir": str(out), "model_save_format": "safetensors",
                           "save_consolidated": False},
            "dataset": {"_target_": f"{here}:dataset", "path": self.rows_write("learn.jsonl", self.learn)},
        }
        if self.evaluate:
            config["validation_dataset"] = {"_target_": f"{here}:dataset",
                                            "path": self.rows_write("evaluate.jsonl", self.evaluate)}
            config["validation_dataloader"] = config["dataloader"] | {"shuffle": False}
        if any(out.glob("*step_*")):
            config["checkpoint"]["restore_from"] = "LATEST"
        # JSON is YAML.
        self.words = ["automodel", self.config_write("train.yaml", config), "--nproc-per-node", self.args.processes]
        self.logs = {out / "training.jsonl": self.line_take, out / "validation.jsonl": self.eval_take}
        self.adapters = "checkpoints/**/adapter_model.safetensors"

    def rows_write(self, name, examples):
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        jobs.write_whole(path, "\n".join(json.dumps(row(x)) for x in examples))
        return str(path)

    def resumed_step(self):
        steps = [p.name.rsplit("_", 1)[-1] for p in (self.folder / "checkpoints").glob("*step_*")]
        return max((int(s) for s in steps if s.isdigit()), default=0)

    def line_take(self, line):
        if "loss" in line and "step" in line:
            self.step_tell(line["step"], line["loss"], line.get("lr"), gradient_norm=line.get("grad_norm"))

    def eval_take(self, line):
        if "val_loss" in line:
            self.eval_tell(line.get("step", self.job.step), line["val_loss"])


if __name__ == "__main__":
    sys.exit(mapper.main(NeMo, __doc__, CANNOT))
