#include "train/lora.h"

#include "base/buf.h"
#include "base/random.h"

#include <gguf.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RANK_MAX 256

// ---- targets -------------------------------------------------------------------------------------

static const struct {
    const char *word;
    uint32_t bits;
} words[] = {
    {"q", 1u << BASE_Q},
    {"k", 1u << BASE_K},
    {"v", 1u << BASE_V},
    {"o", 1u << BASE_O},
    {"gate", 1u << BASE_GATE},
    {"up", 1u << BASE_UP},
    {"down", 1u << BASE_DOWN},
    {"attention", 1u << BASE_Q | 1u << BASE_K | 1u << BASE_V | 1u << BASE_O},
    {"mlp", 1u << BASE_GATE | 1u << BASE_UP | 1u << BASE_DOWN},
    {"all", (1u << BASE_LINEARS) - 1},
};
#define N_WORDS (sizeof words / sizeof *words)

static uint32_t word_bits(const char *word, size_t n)
{
    for (size_t i = 0; i < N_WORDS; i++)
        if (strlen(words[i].word) == n && strncmp(words[i].word, word, n) == 0)
            return words[i].bits;
    return 0;
}

int lora_targets_parse(const char *text, uint32_t *targets, struct err *e)
{
    uint32_t all = 0;
    for (const char *at = text; *at;) {
        size_t n = strcspn(at, ",");
        uint32_t bits = word_bits(at, n);
        if (bits == 0)
            return err_set(
                e, ERR_INVALID,
                "target \"%.*s\" is not known; say q, k, v, o, gate, up, down, attention, "
                "mlp or all, with commas",
                (int)(n < 40 ? n : 40), at);
        all |= bits;
        at += n + (at[n] == ',');
    }
    if (all == 0)
        return err_set(e, ERR_INVALID, "no target given; say all, or attention");
    *targets = all;
    return 0;
}

// ---- random values -----------------------------------------------------------------------------------

// Uniform in [-1, 1).
static float random_unit(uint64_t *state)
{
    return (float)(random_next(state) >> 40) / (float)(1 << 23) - 1.0f;
}

// ---- making ------------------------------------------------------------------------------------------

static void pair_make(struct lora *l, uint32_t layer, enum base_linear which)
{
    struct lora_pair *p = &l->pairs[layer * BASE_LINEARS + which];
    const struct ggml_tensor *w = l->base->layers[layer].linears[which].w;
    int64_t rank = l->options.rank;
    p->a = ggml_new_tensor_2d(l->ctx, GGML_TYPE_F32, w->ne[0], rank);
    p->b = ggml_new_tensor_2d(l->ctx, GGML_TYPE_F32, rank, w->ne[1]);
    p->grad_a = ggml_new_tensor_2d(l->grad_ctx, GGML_TYPE_F32, w->ne[0], rank);
    p->grad_b = ggml_new_tensor_2d(l->grad_ctx, GGML_TYPE_F32, rank, w->ne[1]);
    ggml_format_name(p->a, "%s.lora_a", w->name);
    ggml_format_name(p->b, "%s.lora_b", w->name);
    l->n_values += (size_t)(ggml_nelements(p->a) + ggml_nelements(p->b));
}

// A as PyTorch's linear layers begin: uniform within 1 / sqrt(in), which keeps the size of A x near that of x.
static void values_draw(struct lora *l)
{
    uint64_t state = l->options.seed;
    float *values = mem_alloc(l->n_values * sizeof *values), *at = values;
    for (size_t i = 0; i < (size_t)l->base->n_layer * BASE_LINEARS; i++) {
        const struct lora_pair *p = &l->pairs[i];
        if (!p->a)
            continue;
        float most = 1.0f / sqrtf((float)p->a->ne[0]);
        for (int64_t k = 0; k < ggml_nelements(p->a); k++)
            *at++ = most * random_unit(&state);
        at += ggml_nelements(p->b); // zero
    }
    lora_values_set(l, values);
    free(values);
}

int lora_new(const struct base_model *base, const struct lora_options *o, struct lora **out,
             struct err *e)
{
    size_t n = (size_t)base->n_layer * BASE_LINEARS;
    struct ggml_init_params p = {.mem_size = 2 * n * ggml_tensor_overhead(), .no_alloc = true};
    if (o->rank == 0 || o->rank > RANK_MAX)
        return err_set(e, ERR_INVALID, "rank %" PRIu32 "; 1 to %d are possible", o->rank, RANK_MAX);
    if (!isfinite(o->alpha) || o->alpha <= 0)
        return err_set(e, ERR_INVALID, "alpha %g; it must be above 0", (double)o->alpha);
    if (o->targets == 0 || o->targets >> BASE_LINEARS != 0)
        return err_set(e, ERR_INVALID, "no known matrix is targeted");
    struct lora *l = mem_alloc(sizeof *l);
    l->options = *o;
    l->base = base;
    l->pairs = mem_alloc(n * sizeof *l->pairs);
    l->ctx = ggml_init(p);
    l->grad_ctx = ggml_init(p);
    for (uint32_t i = 0; i < base->n_layer; i++)
        for (int k = 0; k < BASE_LINEARS; k++)
            if (o->targets >> k & 1)
                pair_make(l, i, (enum base_linear)k);
    l->buffer = ggml_backend_alloc_ctx_tensors(l->ctx, base->backend);
    l->grad_buffer = ggml_backend_alloc_ctx_tensors(l->grad_ctx, base->backend);
    if (!l->buffer || !l->grad_buffer) {
        lora_free(l);
        return err_set(e, ERR_RANGE, "no memory for an adapter of rank %" PRIu32, o->rank);
    }
    values_draw(l);
    lora_grads_clear(l);
    *out = l;
    return 0;
}

void lora_free(struct lora *l)
{
    if (!l)
        return;
    if (l->buffer)
        ggml_backend_buffer_free(l->buffer);
    if (l->grad_buffer)
        ggml_backend_buffer_free(l->grad_buffer);
    ggml_free(l->ctx);
    ggml_free(l->grad_ctx);
    free(l->pairs);
    free(l);
}

const struct lora_pair *lora_pair_at(const struct lora *l, uint32_t layer, enum base_linear which)
{
    const struct lora_pair *p = &l->pairs[layer * BASE_LINEARS + which];
    return p->a ? p : NULL;
}

void lora_grads_clear(struct lora *l)
{
    ggml_backend_buffer_clear(l->grad_buffer, 0);
}

// ---- as one array ------------------------------------------------------------------------------------

// The tensors in their fixed order; NULL behind the last.
static struct ggml_tensor *tensor_at(const struct lora *l, size_t i, bool grads)
{
    struct lora_pair *p = &l->pairs[i / 2];
    if (i % 2 == 0)
        return grads ? p->grad_a : p->a;
    return grads ? p->grad_b : p->b;
}

static void all_get(const struct lora *l, bool grads, float *out)
{
    for (size_t i = 0; i < 2 * (size_t)l->base->n_layer * BASE_LINEARS; i++) {
        struct ggml_tensor *t = tensor_at(l, i, grads);
        if (!t)
            continue;
        ggml_backend_tensor_get(t, out, 0, ggml_nbytes(t));
        out += ggml_nelements(t);
    }
}

void lora_values_get(const struct lora *l, float *out)
{
    all_get(l, false, out);
}

void lora_grads_get(const struct lora *l, float *out)
{
    all_get(l, true, out);
}

void lora_values_set(struct lora *l, const float *values)
{
    for (size_t i = 0; i < 2 * (size_t)l->base->n_layer * BASE_LINEARS; i++) {
        struct ggml_tensor *t = tensor_at(l, i, false);
        if (!t)
            continue;
        ggml_backend_tensor_set(t, values, 0, ggml_nbytes(t));
        values += ggml_nelements(t);
    }
}

// ---- the adapter file --------------------------------------------------------------------------------------

int lora_write(const struct lora *l, const char *path, struct err *e)
{
    struct gguf_context *g = gguf_init_empty();
    char *aside = mem_format("%s.part", path);
    int rc = 0;
    gguf_set_val_str(g, "general.type", "adapter");
    gguf_set_val_str(g, "general.architecture", l->base->arch);
    gguf_set_val_str(g, "adapter.type", "lora");
    gguf_set_val_f32(g, "adapter.lora.alpha", l->options.alpha);
    for (size_t i = 0; i < 2 * (size_t)l->base->n_layer * BASE_LINEARS; i++)
        if (tensor_at(l, i, false))
            gguf_add_tensor(g, tensor_at(l, i, false));
    if (!gguf_write_to_file(g, aside, false) || rename(aside, path) != 0) {
        rc = err_set(e, ERR_IO, "the adapter cannot be written to '%s'; is the disk full?", path);
        unlink(aside);
    }
    gguf_free(g);
    free(aside);
    return rc;
}
