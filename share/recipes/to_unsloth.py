#!/usr/bin/env python3
"""Trains a job with Unsloth's patched models: train_peft.py with --unsloth, which has data, steps, progress and
checkpoints of its own. (unsloth-cli.py knows neither chats nor masks, and would train on the prompts too.)

  to_unsloth.py --hf unsloth/Qwen3-8B [--qlora] JOB
"""
import os
import pathlib
import sys

recipe = pathlib.Path(__file__).resolve().with_name("train_peft.py")
os.execv(sys.executable, [sys.executable, str(recipe), "--unsloth", *sys.argv[1:]])
