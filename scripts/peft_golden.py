#!/usr/bin/env python3
"""peft_golden.py LLAMA_SOURCE: makes tests/golden/peft anew.

Tiny random models of several architectures get a LoRA adapter each from the real PEFT library, with
random values in both matrices; llama.cpp's own convert_lora_to_gguf.py writes the adapter that ours is
held against, byte for byte. Needs torch, transformers, peft and gguf, which the tests themselves do not.
"""
import json
import pathlib
import shutil
import subprocess
import sys

import gguf
import numpy
import torch
import transformers
from peft import LoraConfig, get_peft_model

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, vocab_size=32, max_position_embeddings=64)

# name: (transformers' class, GGUF's word, LoRA settings, type of the values, changes to SHAPE)
CASES = {
    "llama": ("LlamaConfig", "llama", dict(r=3, lora_alpha=6, target_modules=ALL), torch.float32, {}),
    "llama_mha": ("LlamaConfig", "llama", dict(r=2, lora_alpha=7, target_modules=["q_proj", "k_proj"]),
                  torch.float16, dict(num_key_value_heads=4)),
    "llama_head": ("LlamaConfig", "llama", dict(r=2, lora_alpha=2, target_modules=["lm_head", "v_proj"]),
                   torch.float32, dict(tie_word_embeddings=False)),
    "llama_rs": ("LlamaConfig", "llama", dict(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"],
                                              use_rslora=True), torch.float32, {}),
    "qwen2": ("Qwen2Config", "qwen2", dict(r=3, lora_alpha=16, target_modules=ALL), torch.bfloat16, {}),
    "qwen3": ("Qwen3Config", "qwen3", dict(r=2, lora_alpha=4, target_modules=ALL), torch.float32,
              dict(head_dim=8)),
    "gemma2": ("Gemma2Config", "gemma2", dict(r=2, lora_alpha=4, target_modules=ALL), torch.float32,
               dict(head_dim=8)),
    "gemma3": ("Gemma3TextConfig", "gemma3", dict(r=2, lora_alpha=4, target_modules=ALL), torch.float32,
               dict(head_dim=8)),
    "granite": ("GraniteConfig", "granite", dict(r=2, lora_alpha=4, target_modules=ALL), torch.float32, {}),
    "smollm3": ("SmolLM3Config", "smollm3", dict(r=2, lora_alpha=4, target_modules=ALL), torch.float32,
                dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)),
}


def base_write(path, arch, config):
    """A GGUF with the shapes of the model and one value for all weights: the converter looks at shapes."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    q, kv = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    n, ff = config.hidden_size, config.intermediate_size
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(n)
    w.add_feed_forward_length(ff)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    rows = {"token_embd": (config.vocab_size, n)}
    if not config.tie_word_embeddings:
        rows["output"] = (config.vocab_size, n)
    for i in range(config.num_hidden_layers):
        rows |= {f"blk.{i}.attn_q": (q, n), f"blk.{i}.attn_k": (kv, n), f"blk.{i}.attn_v": (kv, n),
                 f"blk.{i}.attn_output": (n, q), f"blk.{i}.ffn_gate": (ff, n),
                 f"blk.{i}.ffn_up": (ff, n), f"blk.{i}.ffn_down": (n, ff)}
    for name, shape in rows.items():
        w.add_tensor(name + ".weight", numpy.full(shape, 0.5, numpy.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def case_make(root, name, llama):
    kind, arch, settings, dtype, changes = CASES[name]
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(list(CASES).index(name))
    config = getattr(transformers, kind)(**(SHAPE | changes))
    model = transformers.AutoModelForCausalLM.from_config(config)
    config = model.config
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for key, value in tuned.named_parameters():
        if "lora_" in key:
            value.data = torch.randn_like(value).to(dtype)
    tuned.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    base_write(folder / "base.gguf", arch, config)

    scratch = root / "scratch"
    config.architectures = [type(model).__name__]
    config.save_pretrained(scratch)
    subprocess.run([sys.executable, llama / "convert_lora_to_gguf.py", "--base", scratch, "--outtype",
                    "f32", "--outfile", folder / "reference.gguf", folder], check=True)
    shutil.rmtree(scratch)
    path = folder / "adapter_config.json"  # without what names this machine's folders
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = "tiny"
    settings["target_modules"].sort()
    path.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    root = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "peft"
    for name in sys.argv[2:] or CASES:
        case_make(root, name, pathlib.Path(sys.argv[1]))
        print(name, sum(f.stat().st_size for f in (root / name).iterdir()), "bytes")


main()
