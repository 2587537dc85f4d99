// What an engine says about itself, so that two of them can find out whether KV may pass between
// them. The build names the release alone: a backend (CUDA here, Metal there) may differ.
#include "engine/llama_impl.h"

#include <ggml.h>
#include <gguf.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

static void meta_copy(const struct llama_model *model, const char *key, char *out, size_t cap)
{
    if (llama_model_meta_val_str(model, key, out, cap) < 0)
        out[0] = 0;
}

static void text_copy(char *out, size_t cap, const char *text)
{
    size_t n = strnlen(text, cap - 1);
    memcpy(out, text, n);
    out[n] = 0;
}

static void merges_hash(XXH3_state_t *hash, const struct gguf_context *gguf)
{
    int64_t key = gguf_find_key(gguf, "tokenizer.ggml.merges");
    if (key < 0 || gguf_get_kv_type(gguf, key) != GGUF_TYPE_ARRAY ||
        gguf_get_arr_type(gguf, key) != GGUF_TYPE_STRING)
        return;
    size_t n = gguf_get_arr_n(gguf, key);
    for (size_t i = 0; i < n; i++) {
        const char *merge = gguf_get_arr_str(gguf, key, i);
        XXH3_64bits_update(hash, merge, strlen(merge) + 1);
    }
}

static void tokens_hash(XXH3_state_t *hash, const struct llama_vocab *vocab)
{
    int32_t n = llama_vocab_n_tokens(vocab);
    for (int32_t i = 0; i < n; i++) {
        const char *text = llama_vocab_get_text(vocab, i);
        int32_t attr = (int32_t)llama_vocab_get_attr(vocab, i);
        if (text)
            XXH3_64bits_update(hash, text, strlen(text) + 1);
        XXH3_64bits_update(hash, &attr, sizeof attr);
    }
}

static uint64_t tokenizer_hash(const struct llama_vocab *vocab, const struct gguf_context *gguf)
{
    int32_t special[] = {
        (int32_t)llama_vocab_type(vocab), llama_vocab_n_tokens(vocab),
        llama_vocab_bos(vocab),           llama_vocab_eos(vocab),
        llama_vocab_eot(vocab),           llama_vocab_get_add_bos(vocab),
        llama_vocab_get_add_eos(vocab),
    };
    XXH3_state_t *hash = XXH3_createState();
    XXH3_64bits_reset(hash);
    XXH3_64bits_update(hash, special, sizeof special);
    if (llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE) {
        tokens_hash(hash, vocab);
        merges_hash(hash, gguf);
    }
    uint64_t h = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    return h;
}

static void name_fill(struct engine_identity *id, const struct llama_model *model, const char *path)
{
    const char *slash = strrchr(path, '/');
    meta_copy(model, "general.name", id->model, sizeof id->model);
    if (!id->model[0])
        text_copy(id->model, sizeof id->model, slash ? slash + 1 : path);
}

static void dimensions_fill(struct engine_identity *id, const struct llama_engine *g)
{
    id->n_vocab = (uint32_t)llama_vocab_n_tokens(g->vocab);
    id->n_layer = (uint32_t)llama_model_n_layer(g->model);
    id->n_embd = (uint32_t)llama_model_n_embd(g->model);
    id->n_head = (uint32_t)llama_model_n_head(g->model);
    id->n_head_kv = (uint32_t)llama_model_n_head_kv(g->model);
    id->n_swa = (uint32_t)llama_model_n_swa(g->model);
    id->n_ctx_train = (uint32_t)llama_model_n_ctx_train(g->model);
}

void llama_identity_fill(struct llama_engine *g, const struct engine_options *o,
                         const struct gguf_context *gguf)
{
    struct engine_identity *id = &g->base.identity;
    text_copy(id->engine, sizeof id->engine, "llama.cpp");
    snprintf(id->build, sizeof id->build, "%s", llama_version());
    meta_copy(g->model, "general.architecture", id->arch, sizeof id->arch);
    name_fill(id, g->model, o->model);
    text_copy(id->weights, sizeof id->weights, llama_ftype_name(llama_model_ftype(g->model)));
    id->weights_hash = llama_file_hash(o->model, gguf);
    id->tokenizer_hash = tokenizer_hash(g->vocab, gguf);
    dimensions_fill(id, g);
    text_copy(id->type_k, sizeof id->type_k, o->type_k ? o->type_k : "f16");
    text_copy(id->type_v, sizeof id->type_v, o->type_v ? o->type_v : "f16");
    id->attention_layout =
        (llama_model_is_recurrent(g->model) ? 2u : 0) | (llama_model_is_hybrid(g->model) ? 4u : 0);
}
