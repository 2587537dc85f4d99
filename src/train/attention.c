// Built for the very machine (cmake/Llama.cmake).
#include "train/attention.h"

#include "base/buf.h"
#include "train/product.h"
#include "train/vector.h"

#include <math.h>
#include <stdlib.h>

#define QUERIES 96 // in a block

// One head of one sample. In floats: rows of a matrix are its tokens.
struct head {
    const float *q, *k, *v, *dy;
    float *y, *dq, *dk, *dv;
    size_t q_row, kv_row, d_row; // of q, y and dy; of k and v; of the gradients
    size_t tokens, dim;
    float scale;
};

// Scratch of a thread: probabilities and their gradient for a block of queries.
struct block {
    float *p, *dp;
    size_t row; // floats; whole vectors
    size_t at, n, keys;
};

// ---- one block -----------------------------------------------------------------------------------

static size_t padded(size_t n)
{
    return (n + VEC_FLOATS - 1) / VEC_FLOATS * VEC_FLOATS;
}

// In place over the first n; the row is zero from there on. Rows have room for whole vectors.
static void row_soft_max(float *row, size_t n, size_t keys, float scale)
{
    vec most = vec_of(-INFINITY), sum = {0};
    for (size_t i = n; i < padded(keys); i++)
        row[i] = -INFINITY;
    for (size_t i = 0; i < n; i += VEC_FLOATS)
        most = vec_max(most, *(const vec *)(row + i));
    float top = scale * vec_most(most);
    for (size_t i = 0; i < n; i += VEC_FLOATS) {
        vec *at = (vec *)(row + i);
        *at = vec_exp(*at * scale - top);
        sum += *at;
    }
    float share = 1 / vec_sum(sum);
    for (size_t i = 0; i < n; i += VEC_FLOATS)
        *(vec *)(row + i) *= share;
    for (size_t i = n; i < padded(keys); i++)
        row[i] = 0;
}

// P = softmax(scale Q K^T), each query over the keys up to its own.
static void probabilities(const struct head *h, const struct block *b)
{
    const struct product_call scores = {.x = {h->q + b->at * h->q_row, h->q_row, 1},
                                        .z = {h->k, 1, h->kv_row},
                                        .y = b->p,
                                        .y_row = b->row,
                                        .rows = b->n,
                                        .columns = b->keys,
                                        .depth = h->dim};
    product_compute(&scores);
    for (size_t i = 0; i < b->n; i++)
        row_soft_max(b->p + i * b->row, b->at + i + 1, b->keys, h->scale);
}

static void block_forth(const struct head *h, const struct block *b)
{
    const struct product_call out = {.x = {b->p, b->row, 1},
                                     .z = {h->v, h->kv_row, 1},
                                     .y = h->y + b->at * h->q_row,
                                     .y_row = h->q_row,
                                     .rows = b->n,
                                     .columns = h->dim,
                                     .depth = b->keys};
    probabilities(h, b);
    product_compute(&out);
}

// dS = scale P (dP - sum of P dP), in dP's place; both are zero behind a row's own key.
static void scores_back(const struct head *h, const struct block *b)
{
    for (size_t i = 0; i < b->n; i++) {
        const float *p = b->p + i * b->row;
        float *dp = b->dp + i * b->row;
        size_t n = padded(b->at + i + 1);
        vec sum = {0};
        for (size_t k = b->keys; k < n; k++)
            dp[k] = 0;
        for (size_t k = 0; k < n; k += VEC_FLOATS)
            sum += *(const vec *)(p + k) * *(const vec *)(dp + k);
        float all = vec_sum(sum);
        for (size_t k = 0; k < n; k += VEC_FLOATS) {
            vec *at = (vec *)(dp + k);
            *at = *(const vec *)(p + k) * (*at - all) * h->scale;
        }
        for (size_t k = n; k < b->keys; k++)
            dp[k] = 0;
    }
}

// dk += dS^T Q and dv += P^T dY: what this block's queries say of all keys before them.
static void keys_add(const struct head *h, const struct block *b)
{
    struct product_call c = {.x = {b->dp, 1, b->row},
                             .z = {h->q + b->at * h->q_row, h->q_row, 1},
                             .y = h->dk,
                             .y_row = h->d_row,
                             .rows = b->keys,
                             .columns = h->dim,
                             .depth = b->n,
                             .add = true};
    product_compute(&c);
    c.x.at = b->p;
    c.z.at = h->dy + b->at * h->q_row;
    c.y = h->dv;
    product_compute(&c);
}

static void block_back(const struct head *h, const struct block *b)
{
    const struct product_call dp = {.x = {h->dy + b->at * h->q_row, h->q_row, 1},
                                    .z = {h->v, 1, h->kv_row},
                                    .y = b->dp,
                                    .y_row = b->row,
                                    .rows = b->n,
                                    .columns = b->keys,
                                    .depth = h->dim};
    const struct product_call dq = {.x = {b->dp, b->row, 1},
                                    .z = {h->k, h->kv_row, 1},
                                    .y = h->dq + b->at * h->d_row,
                                    .y_row = h->d_row,
                                    .rows = b->n,
                                    .columns = h->dim,
                                    .depth = b->keys};
    probabilities(h, b);
    product_compute(&dp);
    scores_back(h, b);
    product_compute(&dq);
    keys_add(h, b);
}

static void head_run(const struct head *h, struct block *b)
{
    for (b->at = 0; b->at < h->tokens; b->at += QUERIES) {
        b->n = h->tokens - b->at < QUERIES ? h->tokens - b->at : QUERIES;
        b->keys = b->at + b->n;
        if (h->dy)
            block_back(h, b);
        else
            block_forth(h, b);
    }
}

// ---- all heads -----------------------------------------------------------------------------------

// The query heads of one KV head are one thread's: they add to the same gradients.
struct group {
    const struct ggml_tensor *out;
    const struct attention_shape *shape;
    size_t first, tokens; // of the sample
    size_t kv;
};

static struct head head_of(const struct group *g, size_t q)
{
    const struct ggml_tensor *const *src = (const struct ggml_tensor *const *)g->out->src;
    size_t dim = (size_t)src[0]->ne[0], heads = (size_t)src[0]->ne[1],
           heads_kv = (size_t)src[1]->ne[1];
    struct head h = {.q_row = dim * heads,
                     .kv_row = dim * heads_kv,
                     .d_row = dim * (heads + 2 * heads_kv),
                     .tokens = g->tokens,
                     .dim = dim,
                     .scale = g->shape->scale};
    float *out = g->out->data;
    h.q = (const float *)src[0]->data + g->first * h.q_row + q * dim;
    h.k = (const float *)src[1]->data + g->first * h.kv_row + g->kv * dim;
    h.v = (const float *)src[2]->data + g->first * h.kv_row + g->kv * dim;
    if (!src[3]) {
        h.y = out + g->first * h.q_row + q * dim;
        return h;
    }
    h.dy = (const float *)src[3]->data + g->first * h.q_row + q * dim;
    h.dq = out + g->first * h.d_row + q * dim;
    h.dk = out + g->first * h.d_row + (heads + g->kv) * dim;
    h.dv = h.dk + heads_kv * dim;
    return h;
}

static void group_run(const struct group *g, struct block *b)
{
    size_t each = (size_t)(g->out->src[0]->ne[1] / g->out->src[1]->ne[1]);
    struct head h = head_of(g, g->kv * each);
    for (size_t i = 0; h.dy && i < g->tokens; i++) {
        memset(h.dk + i * h.d_row, 0, h.dim * sizeof *h.dk);
        memset(h.dv + i * h.d_row, 0, h.dim * sizeof *h.dv);
    }
    for (size_t q = 0; q < each; q++) {
        h = head_of(g, g->kv * each + q);
        head_run(&h, b);
    }
}

static void compute(struct ggml_tensor *out, int thread, int threads, void *ctx)
{
    const struct attention_shape *shape = ctx;
    size_t heads_kv = (size_t)out->src[1]->ne[1], longest = 0, item = 0;
    for (size_t i = 0; i < shape->n; i++)
        longest = shape->lengths[i] > longest ? shape->lengths[i] : longest;
    struct block b = {.row = padded(longest)};
    b.p = mem_alloc(2 * QUERIES * b.row * sizeof *b.p);
    b.dp = b.p + QUERIES * b.row;
    struct group g = {.out = out, .shape = shape};
    for (size_t i = 0; i < shape->n; i++) {
        g.tokens = shape->lengths[i];
        for (g.kv = 0; g.kv < heads_kv; g.kv++, item++)
            if (item % (size_t)threads == (size_t)thread)
                group_run(&g, &b);
        g.first += g.tokens;
    }
    free(b.p);
}

// ---- in a graph ----------------------------------------------------------------------------------

static void inputs_check(const struct attention_inputs *in)
{
    GGML_ASSERT(in->q->type == GGML_TYPE_F32 && ggml_is_contiguous(in->q));
    GGML_ASSERT(in->k->type == GGML_TYPE_F32 && ggml_is_contiguous(in->k));
    GGML_ASSERT(in->v->type == GGML_TYPE_F32 && ggml_is_contiguous(in->v));
    GGML_ASSERT(in->q->ne[0] == in->k->ne[0] && in->q->ne[2] == in->k->ne[2]);
    GGML_ASSERT(in->q->ne[1] % in->k->ne[1] == 0 && ggml_nelements(in->k) == ggml_nelements(in->v));
}

struct ggml_tensor *attention_forth(struct ggml_context *c, const struct attention_inputs *in,
                                    const struct attention_shape *shape)
{
    struct ggml_tensor *sources[3] = {in->q, in->k, in->v};
    inputs_check(in);
    return ggml_custom_4d(c, GGML_TYPE_F32, in->q->ne[0] * in->q->ne[1], in->q->ne[2], 1, 1,
                          sources, 3, compute, GGML_N_TASKS_MAX, (void *)(uintptr_t)shape);
}

struct ggml_tensor *attention_back(struct ggml_context *c, const struct attention_inputs *in,
                                   struct ggml_tensor *dy, const struct attention_shape *shape)
{
    struct ggml_tensor *sources[4] = {in->q, in->k, in->v, dy};
    inputs_check(in);
    GGML_ASSERT(ggml_is_contiguous(dy) && ggml_nelements(dy) == ggml_nelements(in->q));
    return ggml_custom_4d(c, GGML_TYPE_F32, in->q->ne[0], in->q->ne[1] + 2 * in->k->ne[1],
                          in->q->ne[2], 1, sources, 4, compute, GGML_N_TASKS_MAX,
                          (void *)(uintptr_t)shape);
}
