#include "models/memory.h"

#include "models/fetch.h"

#include <stdio.h>
#include <string.h>

#define CTX_DEFAULT 8192u
#define CTX_PAD 256u                // llama-context.cpp rounds the context up to this
#define PROCESS_BYTES (48ull << 20) // the program itself, its vocabulary and buffers

void models_memory_options_default(struct models_memory_options *o)
{
    *o = (struct models_memory_options){.n_seq = 4, .n_batch = 512};
}

static uint64_t pad(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

// Models that look at all tokens at once and keep nothing (llama-model.cpp, create_memory).
static bool keeps_nothing(const struct models_gguf *g)
{
    static const char *const archs[] = {
        "bert",     "jina-bert-v2", "jina-bert-v3", "nomic-bert",       "nomic-bert-moe",
        "neo-bert", "eurobert",     "modern-bert",  "gemma-embedding",  "dream",
        "llada",    "llada-moe",    "rnd1",         "wavtokenizer-dec", "clip"};
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (strcmp(g->arch, archs[i]) == 0)
            return true;
    return false;
}

// ---- KV ------------------------------------------------------------------------------------------

struct kv_types {
    uint32_t k, v;
};

// K and V elements of one token in layer il (llama-hparams.cpp, n_embd_k_gqa and n_embd_v_gqa).
static void layer_elements(const struct models_gguf *g, uint32_t il, uint64_t *k, uint64_t *v)
{
    bool window = models_gguf_layer_in_window(g, il);
    uint32_t heads = g->has_head_kv ? g->head_kv[il] : g->n_head;
    uint32_t each = g->n_head > 0 ? g->n_embd / g->n_head : 0;
    uint32_t k_head = g->key_length ? g->key_length : each;
    uint32_t v_head = g->value_length ? g->value_length : each;
    if (window && g->key_length_swa)
        k_head = g->key_length_swa;
    if (window && g->value_length_swa)
        v_head = g->value_length_swa;
    *k = (uint64_t)k_head * heads;
    // Multi-head latent attention keeps one vector for both, in place of K.
    *v = g->key_length_mla && g->value_length_mla ? 0 : (uint64_t)v_head * heads;
}

static bool layer_token_bytes(const struct models_gguf *g, uint32_t il, struct kv_types t,
                              uint64_t *bytes)
{
    uint64_t k = 0, v = 0, k_bytes = 0, v_bytes = 0;
    *bytes = 0;
    if (!models_gguf_layer_has_kv(g, il))
        return true;
    layer_elements(g, il, &k, &v);
    if (!models_gguf_row_bytes(t.k, k, &k_bytes) || !models_gguf_row_bytes(t.v, v, &v_bytes))
        return false;
    *bytes = k_bytes + v_bytes;
    return true;
}

uint64_t models_memory_token_bytes(const struct models_gguf *g, uint32_t type_k, uint32_t type_v)
{
    uint64_t sum = 0, bytes = 0;
    struct kv_types t = {type_k, type_v};
    for (uint32_t il = 0; il < g->n_layer && !keeps_nothing(g); il++)
        if (layer_token_bytes(g, il, t, &bytes))
            sum += bytes;
    return sum;
}

// Cells of a layer with a window (llama-kv-cache-iswa.cpp): the windows of all sequences, of which the
// engine keeps one more than asked for, and one step.
static uint64_t window_cells(const struct models_gguf *g, const struct models_memory_options *o,
                             uint64_t n_ctx)
{
    uint64_t cells = (uint64_t)g->window * (o->n_seq + 1ull) + o->n_batch;
    return pad(cells < n_ctx ? cells : n_ctx, CTX_PAD);
}

static int kv_add(const struct models_gguf *g, const struct models_memory_options *o,
                  struct kv_types t, struct models_memory *out, struct err *e)
{
    uint64_t all = pad(out->n_ctx, CTX_PAD), some = window_cells(g, o, all), bytes = 0, part = 0;
    for (uint32_t il = 0; il < g->n_layer; il++) {
        uint64_t cells = models_gguf_layer_in_window(g, il) ? some : all;
        if (!layer_token_bytes(g, il, t, &bytes))
            return err_set(e, ERR_INVALID,
                           "KV types %s and %s do not fit the heads of this model; use f16",
                           models_gguf_type_name(t.k), models_gguf_type_name(t.v));
        if (__builtin_mul_overflow(bytes, cells, &part) ||
            __builtin_add_overflow(out->kv_bytes, part, &out->kv_bytes))
            return err_set(e, ERR_RANGE, "a context of %u tokens is too large", out->n_ctx);
    }
    return 0;
}

// What is kept apart a second time, once several answers decode together: models with attention to all
// tokens and nothing else, every sequence with its part of the context (llama_home.c of the engine).
static void apart_add(const struct models_gguf *g, const struct models_memory_options *o,
                      struct models_memory *out)
{
    uint64_t cells = pad(out->n_ctx, CTX_PAD);
    if (o->n_seq < 2 || cells == 0)
        return;
    for (uint32_t il = 0; il < g->n_layer; il++)
        if (models_gguf_layer_recurrent(g, il) || models_gguf_layer_in_window(g, il))
            return;
    uint64_t token_bytes = out->kv_bytes / cells;
    if (__builtin_mul_overflow(token_bytes, pad(cells / o->n_seq, CTX_PAD) * o->n_seq,
                               &out->apart_bytes))
        out->apart_bytes = UINT64_MAX; // which no sum survives
}

// ---- recurrent states ----------------------------------------------------------------------------

// F32 elements of one sequence in one layer (llama-hparams.cpp, n_embd_r + n_embd_s).
static uint64_t state_elements(const struct models_gguf *g)
{
    uint64_t conv = g->conv_kernel > 0 ? g->conv_kernel - 1 : 0;
    if (g->wkv_head > 0)
        return (uint64_t)(g->token_shift ? g->token_shift : 2) * g->n_embd +
               (uint64_t)g->n_embd * g->wkv_head;
    if (g->shortconv_cache > 0)
        return (uint64_t)g->n_embd * (g->shortconv_cache - 1);
    if (g->kda_head > 0)
        return 3 * (conv ? conv : 3) * g->n_head * g->kda_head +
               (uint64_t)g->kda_head * g->kda_head * g->n_head;
    if (strcmp(g->arch, "minimax-01") == 0) // linear attention: a matrix per head
        return (uint64_t)g->key_length * g->key_length * g->n_head;
    return conv * (g->ssm_inner + 2ull * g->ssm_groups * g->ssm_state) +
           (uint64_t)g->ssm_state * g->ssm_inner;
}

static void state_add(const struct models_gguf *g, const struct models_memory_options *o,
                      struct models_memory *out)
{
    uint64_t layers = 0;
    for (uint32_t il = 0; il < g->n_layer; il++)
        layers += models_gguf_layer_recurrent(g, il);
    out->state_bytes = layers * state_elements(g) * 4 * (o->n_seq + 1ull);
}

// ---- the rest ------------------------------------------------------------------------------------

// Logits of as many rows as there are sequences (at least 8), twice: as computed and as handed out; the
// widest intermediate results of a step, of which a handful live at a time; the attention mask.
static uint64_t work_bytes(const struct models_gguf *g, const struct models_memory_options *o,
                           uint32_t n_ctx)
{
    uint64_t rows = o->n_seq + 1ull > 8 ? o->n_seq + 1ull : 8;
    uint64_t wide = 4ull * g->n_embd + 2ull * g->n_ff;
    uint64_t used = g->n_expert_used > 0 ? g->n_expert_used : 1;
    return 2 * rows * g->n_vocab * 4 + (uint64_t)o->n_batch * wide * used * 4 +
           (uint64_t)o->n_batch * n_ctx * 2 + PROCESS_BYTES;
}

static int types_find(const struct models_memory_options *o, struct kv_types *t, struct err *e)
{
    const char *k = o->type_k ? o->type_k : "f16", *v = o->type_v ? o->type_v : "f16";
    t->k = models_gguf_type_find(k);
    t->v = models_gguf_type_find(v);
    if (t->k != MODELS_GGUF_NONE && t->v != MODELS_GGUF_NONE)
        return 0;
    return err_set(e, ERR_INVALID, "KV type '%.40s' is not known; say f16, q8_0, q4_0, ...",
                   t->k == MODELS_GGUF_NONE ? k : v);
}

int models_memory_need(const struct models_gguf *g, const struct models_memory_options *o,
                       struct models_memory *out, struct err *e)
{
    struct kv_types t;
    *out = (struct models_memory){.n_ctx = o->n_ctx, .weights_bytes = g->weight_bytes};
    if (out->n_ctx == 0)
        out->n_ctx = g->n_ctx > 0 && g->n_ctx < CTX_DEFAULT ? g->n_ctx : CTX_DEFAULT;
    int rc = types_find(o, &t, e);
    if (rc == 0 && !keeps_nothing(g))
        rc = kv_add(g, o, t, out, e);
    if (rc != 0)
        return rc;
    apart_add(g, o, out);
    state_add(g, o, out);
    out->work_bytes = work_bytes(g, o, out->n_ctx);
    if (__builtin_add_overflow(out->weights_bytes, out->kv_bytes, &out->total_bytes) ||
        __builtin_add_overflow(out->total_bytes, out->apart_bytes, &out->total_bytes) ||
        __builtin_add_overflow(out->total_bytes, out->state_bytes + out->work_bytes,
                               &out->total_bytes))
        return err_set(e, ERR_RANGE, "a context of %u tokens is too large", out->n_ctx);
    return 0;
}

int models_memory_check(const char *name, const struct models_memory *need,
                        uint64_t available_bytes, struct err *e)
{
    char total[MODELS_SIZE_TEXT], weights[MODELS_SIZE_TEXT], kv[MODELS_SIZE_TEXT];
    char room[MODELS_SIZE_TEXT];
    if (available_bytes == 0 || need->total_bytes <= available_bytes)
        return 0;
    models_size_format(need->total_bytes, total);
    models_size_format(need->weights_bytes, weights);
    models_size_format(need->kv_bytes + need->apart_bytes + need->state_bytes, kv);
    models_size_format(available_bytes, room);
    bool cache_helps = need->weights_bytes + need->work_bytes < available_bytes;
    return err_set(
        e, ERR_BUSY,
        "%.120s needs about %s (weights %s, KV cache of %u tokens %s) and this machine has "
        "%s free; %s",
        name, total, weights, need->n_ctx, kv, room,
        cache_helps ? "use a smaller --ctx or --parallel, --kv-type q8_0, or close other programs"
                    : "use a smaller quantisation or model, or close other programs");
}
