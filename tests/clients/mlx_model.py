"""Makes a tiny Llama of random weights in the layout of Hugging Face, for mlx_lm.server: mlx_model.py FOLDER."""

import json
import os
import sys

import mlx.core as mx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WIDTH, LAYERS, HEADS, INNER = 64, 2, 4, 128
TEMPLATE = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def tokenizer(folder):
    """Every byte is a token, and four words of the template."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    t = Tokenizer(models.BPE(vocabulary, []))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"])
    t.save(os.path.join(folder, "tokenizer.json"))
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": TEMPLATE}, f)
    return t.get_vocab_size()


def weights(n_vocab):
    mx.random.seed(1)

    def matrix(rows, columns):
        return mx.random.normal((rows, columns)) * 0.3

    w = {"model.embed_tokens.weight": matrix(n_vocab, WIDTH), "lm_head.weight": matrix(n_vocab, WIDTH),
         "model.norm.weight": mx.ones((WIDTH,))}
    for i in range(LAYERS):
        at = "model.layers.%d." % i
        for name in "qkvo":
            w[at + "self_attn.%s_proj.weight" % name] = matrix(WIDTH, WIDTH)
        for name, rows, columns in (("gate", INNER, WIDTH), ("up", INNER, WIDTH), ("down", WIDTH, INNER)):
            w[at + "mlp.%s_proj.weight" % name] = matrix(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            w[at + name + ".weight"] = mx.ones((WIDTH,))
    return w


folder = sys.argv[1]
os.makedirs(folder, exist_ok=True)
n_vocab = tokenizer(folder)
with open(os.path.join(folder, "config.json"), "w") as f:
    json.dump({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH,
               "num_hidden_layers": LAYERS, "intermediate_size": INNER, "num_attention_heads": HEADS,
               "num_key_value_heads": HEADS, "rms_norm_eps": 1e-5, "vocab_size": n_vocab, "rope_theta": 10000.0,
               "max_position_embeddings": 2048, "tie_word_embeddings": False,
               "eos_token_id": n_vocab - 4}, f)
mx.save_safetensors(os.path.join(folder, "model.safetensors"), weights(n_vocab), {"format": "mlx"})
