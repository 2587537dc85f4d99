#!/usr/bin/env python3
"""Trains a job with LLaMA-Factory (llamafactory-cli): job.json becomes its train.json, its trainer_log.jsonl becomes
progress.jsonl, its adapter the one that is served.

  to_llamafactory.py --hf Qwen/Qwen3-8B JOB
"""
import sys

import job as jobs
import mapper

CANNOT = {"gpu": "leave it out; all GPUs are used"}


def labels(example):
    return [t if s else -100 for t, s in zip(*example)]


class LlamaFactory(mapper.Mapped):
    name = "llamafactory"

    def prepare(self):
        job, each = self.job, self.per_process()
        if int(job.alpha) != job.alpha:
            raise jobs.invalid(f'"alpha" is {job.alpha}, and LLaMA-Factory takes whole numbers only')
        out, data = self.folder / "out", self.folder / "examples"
        config = {
            "model_name_or_path": self.args.hf, "stage": "sft", "do_train": True, "finetuning_type": "lora",
            "lora_rank": job.rank, "lora_alpha": int(job.alpha), "lora_dropout": 0.0,
            "lora_target": ",".join(job.modules), "tokenized_path": str(data), "cutoff_len": job.max_tokens,
            "output_dir": str(out), "logging_steps": 1, "save_steps": job.checkpoint_steps,
            "save_total_limit": 2, "report_to": "none", "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": each, "learning_rate": job.learning_rate,
            "weight_decay": job.weight_decay, "max_grad_norm": job.clip, "num_train_epochs": job.epochs,
            "max_steps": job.steps, "lr_scheduler_type": "cosine", "warmup_steps": self.warm_up(),
            "seed": job.seed % (1 << 32), "bf16": True,
        }
        if self.args.qlora:
            config |= {"quantization_bit": 4, "quantization_method": "bnb"}
        if self.evaluate:
            config |= {"eval_strategy": "steps", "eval_steps": job.eval_steps or job.steps,
                       "per_device_eval_batch_size": 1}
        newest = self.newest()
        if newest:
            config["resume_from_checkpoint"] = str(newest)
        self.words = ["llamafactory-cli", "train", self.config_write("train.json", config)]
        self.logs = {out / "trainer_log.jsonl": self.line_take}
        self.adapters = "out/adapter_model.safetensors"
        if not self.args.only_print:
            self.examples_save(data)

    def examples_save(self, path):
        """As LLaMA-Factory keeps them itself once they are tokens (its tokenized_path)."""
        try:
            from datasets import Dataset, DatasetDict
        except ImportError as e:
            raise jobs.JobError("not_found", "the Python package datasets is not there; run this with the "
                                "Python that LLaMA-Factory is installed for") from e
        rows = {"train": self.learn, "validation": self.evaluate}
        DatasetDict({split: Dataset.from_list([
            {"input_ids": x[0], "attention_mask": [1] * len(x[0]), "labels": labels(x)} for x in some])
            for split, some in rows.items() if some}).save_to_disk(str(path))

    def newest(self):
        found = [p for p in (self.folder / "out").glob("checkpoint-*") if (p / "trainer_state.json").exists()]
        return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)

    def resumed_step(self):
        newest = self.newest()
        return int(newest.name.split("-")[1]) if newest else 0

    def environment(self):
        return {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": str(self.args.processes)} if self.args.processes > 1 else {}

    def line_take(self, line):
        if "loss" in line:
            self.step_tell(line["current_steps"], line["loss"], line.get("lr"))
        if "eval_loss" in line:
            self.eval_tell(line["current_steps"], line["eval_loss"])


if __name__ == "__main__":
    sys.exit(mapper.main(LlamaFactory, __doc__, CANNOT))
