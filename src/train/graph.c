#include "train/graph.h"

#include "base/buf.h"
#include "train/product.h"

#include <ggml-cpu.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LOSS_ROWS 128 // logits are made for so many predictions at a time
#define NODES_PER_LAYER 512
#define NODES_PER_BLOCK 64

struct graph {
    const struct base_model *base;
    const struct lora *lora;
    const atomic_bool *stop;
    bool own_products;       // train/product.h instead of ggml's: F32 on the CPU
    ggml_backend_t fallback; // for what the model's backend lacks; NULL: that is the CPU itself
    ggml_backend_sched_t sched;
    size_t n_nodes;
    void *arena; // of one sample's tensors, reused
    size_t arena_bytes;
};

// What backward needs of a layer.
struct layer_tape {
    struct ggml_tensor *x, *mid;            // before attention, before the feed-forward part
    struct ggml_tensor *attn_in, *attn_out; // what Q, K, V see; what O sees
    struct ggml_tensor *q_raw, *k_raw;      // before their norms, [head_dim, heads, T]
    struct ggml_tensor *q, *k, *v, *p;      // heads apart: [head_dim, T, heads]; P [T, T, n_head]
    struct ggml_tensor *ffn_in, *gate, *up, *ffn_mid;
    struct ggml_tensor *low[BASE_LINEARS]; // A x
};

// A block of predictions.
struct loss_block {
    uint32_t n;
    struct ggml_tensor *rows, *hot, *ones, *grad; // inputs
    struct ggml_tensor *loss;                     // output: mean over the block
};

// One sample's graph being built.
struct build {
    struct graph *g;
    struct ggml_context *c;
    struct ggml_cgraph *cg;
    int64_t n; // T
    bool backward;
    struct ggml_tensor *tokens, *positions, *mask; // inputs
    struct layer_tape *tapes;
    struct loss_block *blocks;
    size_t n_blocks;
};

uint32_t graph_targets(const struct graph_sample *s)
{
    uint32_t n = 0;
    for (uint32_t i = 1; i < s->n; i++)
        n += s->supervised[i];
    return n;
}

// ---- linear layers -------------------------------------------------------------------------------

static struct ggml_tensor *turned(struct build *b, struct ggml_tensor *t)
{
    return ggml_cont(b->c, ggml_transpose(b->c, t));
}

static float lora_scale(const struct build *b)
{
    return b->g->lora->options.alpha / (float)b->g->lora->options.rank;
}

// W^T x. Our own product takes the matrix that has the result's dimension contiguous.
static struct ggml_tensor *matrix_forth(struct build *b, const struct base_matrix *m,
                                        struct ggml_tensor *x)
{
    return b->g->own_products ? product_make(b->c, m->transposed, x) : ggml_mul_mat(b->c, m->w, x);
}

static struct ggml_tensor *linear(struct build *b, uint32_t layer, enum base_linear which,
                                  struct ggml_tensor *x)
{
    const struct base_matrix *m = &b->g->base->layers[layer].linears[which];
    const struct lora_pair *p = lora_pair_at(b->g->lora, layer, which);
    struct ggml_tensor *y = matrix_forth(b, m, x);
    if (m->bias)
        y = ggml_add(b->c, y, m->bias);
    if (!p)
        return y;
    struct ggml_tensor *low = ggml_mul_mat(b->c, p->a, x);
    b->tapes[layer].low[which] = low;
    struct ggml_tensor *z = b->g->own_products ? product_make(b->c, turned(b, p->b), low)
                                               : ggml_mul_mat(b->c, p->b, low);
    return ggml_add(b->c, y, ggml_scale(b->c, z, lora_scale(b)));
}

// W dy: through the transposed copy, or where there is none the slow way.
static struct ggml_tensor *matrix_back(struct build *b, const struct base_matrix *m,
                                       struct ggml_tensor *dy)
{
    if (b->g->own_products)
        return product_make(b->c, m->w, dy);
    if (m->transposed)
        return ggml_mul_mat(b->c, m->transposed, dy);
    return ggml_out_prod(b->c, m->w, turned(b, dy));
}

static void gradient_add(struct build *b, struct ggml_tensor *sum, struct ggml_tensor *grad)
{
    ggml_build_forward_expand(b->cg, ggml_add_inplace(b->c, sum, grad));
}

// dx; adds dA and dB to the adapter's gradients. With z = B A x and dz = scale dy:
//   dB = (A x) dz^T,  d(A x) = B^T dz,  dA = x d(A x)^T,  dx += A^T d(A x)
static struct ggml_tensor *linear_back(struct build *b, uint32_t layer, enum base_linear which,
                                       struct ggml_tensor *x, struct ggml_tensor *dy)
{
    const struct base_matrix *m = &b->g->base->layers[layer].linears[which];
    const struct lora_pair *p = lora_pair_at(b->g->lora, layer, which);
    struct ggml_tensor *dx = matrix_back(b, m, dy);
    if (!p)
        return dx;
    struct ggml_tensor *dz = ggml_scale(b->c, dy, lora_scale(b));
    struct ggml_tensor *low = b->tapes[layer].low[which];
    struct ggml_tensor *dlow = ggml_mul_mat(b->c, turned(b, p->b), dz);
    if (b->g->own_products) { // the long dimension first, which needs no transposed copies of x and dz
        gradient_add(b, p->grad_b, turned(b, product_make(b->c, dz, turned(b, low))));
        gradient_add(b, p->grad_a, product_make(b->c, x, turned(b, dlow)));
        return ggml_add(b->c, dx, product_make(b->c, p->a, dlow));
    }
    gradient_add(b, p->grad_b, ggml_mul_mat(b->c, turned(b, low), turned(b, dz)));
    gradient_add(b, p->grad_a, ggml_mul_mat(b->c, turned(b, x), turned(b, dlow)));
    return ggml_add(b->c, dx, ggml_mul_mat(b->c, turned(b, p->a), dlow));
}

// ---- norms and positions -----------------------------------------------------------------------------

static struct ggml_tensor *norm(struct build *b, struct ggml_tensor *x, struct ggml_tensor *w)
{
    return ggml_mul(b->c, ggml_rms_norm(b->c, x, b->g->base->norm_eps), w);
}

static struct ggml_tensor *norm_back(struct build *b, struct ggml_tensor *x, struct ggml_tensor *w,
                                     struct ggml_tensor *dy)
{
    return ggml_rms_norm_back(b->c, ggml_mul(b->c, dy, w), x, b->g->base->norm_eps);
}

// [head_dim, heads, T]
static struct ggml_tensor *rope(struct build *b, struct ggml_tensor *x)
{
    const struct base_model *m = b->g->base;
    return ggml_rope_ext(b->c, x, b->positions, m->rope_factors, (int)m->n_rot, m->rope_mode, 0,
                         m->rope_base, m->rope_scale, 0, 1, 32, 1);
}

static struct ggml_tensor *rope_back(struct build *b, struct ggml_tensor *dy)
{
    const struct base_model *m = b->g->base;
    return ggml_rope_ext_back(b->c, dy, b->positions, m->rope_factors, (int)m->n_rot, m->rope_mode,
                              0, m->rope_base, m->rope_scale, 0, 1, 32, 1);
}

// ---- attention -------------------------------------------------------------------------------------------

// [head_dim * heads, T] -> [head_dim, heads, T]
static struct ggml_tensor *heads_split(struct build *b, struct ggml_tensor *x, uint32_t heads)
{
    return ggml_reshape_3d(b->c, x, b->g->base->head_dim, heads, b->n);
}

// [head_dim, heads, T] <-> [head_dim, T, heads]
static struct ggml_tensor *heads_turn(struct build *b, struct ggml_tensor *x)
{
    return ggml_cont(b->c, ggml_permute(b->c, x, 0, 2, 1, 3));
}

// [head_dim, T, heads] -> [head_dim * heads, T]
static struct ggml_tensor *heads_join(struct build *b, struct ggml_tensor *x)
{
    return ggml_reshape_2d(b->c, heads_turn(b, x), x->ne[0] * x->ne[2], b->n);
}

// Queries or keys of one layer, turned to their positions: [head_dim, T, heads].
static struct ggml_tensor *rotated(struct build *b, struct ggml_tensor *raw, struct ggml_tensor *w)
{
    return heads_turn(b, rope(b, w ? norm(b, raw, w) : raw));
}

static struct ggml_tensor *rotated_back(struct build *b, struct ggml_tensor *raw,
                                        struct ggml_tensor *w, struct ggml_tensor *dy)
{
    struct ggml_tensor *d = rope_back(b, heads_turn(b, dy));
    if (w)
        d = norm_back(b, raw, w, d);
    return ggml_reshape_2d(b->c, d, d->ne[0] * d->ne[1], b->n);
}

static float attention_scale(const struct build *b)
{
    return 1.0f / sqrtf((float)b->g->base->head_dim);
}

static struct ggml_tensor *attention(struct build *b, uint32_t i, struct ggml_tensor *x)
{
    const struct base_model *m = b->g->base;
    const struct base_layer *l = &m->layers[i];
    struct layer_tape *t = &b->tapes[i];
    t->attn_in = norm(b, x, l->attn_norm);
    t->q_raw = heads_split(b, linear(b, i, BASE_Q, t->attn_in), m->n_head);
    t->k_raw = heads_split(b, linear(b, i, BASE_K, t->attn_in), m->n_head_kv);
    t->q = rotated(b, t->q_raw, l->q_norm);
    t->k = rotated(b, t->k_raw, l->k_norm);
    t->v = heads_turn(b, heads_split(b, linear(b, i, BASE_V, t->attn_in), m->n_head_kv));
    t->p = ggml_soft_max_ext(b->c, ggml_mul_mat(b->c, t->k, t->q), b->mask, attention_scale(b), 0);
    t->attn_out = heads_join(b, ggml_mul_mat(b->c, turned(b, t->v), t->p));
    return linear(b, i, BASE_O, t->attn_out);
}

// Sums what the query heads of one KV head say: [head_dim, T, n_head] -> [head_dim, T, n_head_kv].
static struct ggml_tensor *groups_sum(struct build *b, struct ggml_tensor *x)
{
    const struct base_model *m = b->g->base;
    int64_t one = x->ne[0] * x->ne[1], group = m->n_head / m->n_head_kv;
    if (group == 1)
        return x;
    struct ggml_tensor *apart = ggml_reshape_3d(b->c, x, one, group, m->n_head_kv);
    struct ggml_tensor *like = ggml_new_tensor_3d(b->c, GGML_TYPE_F32, one, 1, m->n_head_kv);
    return ggml_reshape_3d(b->c, ggml_repeat_back(b->c, apart, like), x->ne[0], x->ne[1],
                           m->n_head_kv);
}

// O = V P, P = softmax(scale K^T Q + mask), per head:
//   dP = V^T dO,  dV = dO P^T,  dS = softmax'(dP),  dQ = K dS,  dK = Q dS^T
static struct ggml_tensor *attention_back(struct build *b, uint32_t i, struct ggml_tensor *dy)
{
    const struct base_model *m = b->g->base;
    const struct base_layer *l = &m->layers[i];
    const struct layer_tape *t = &b->tapes[i];
    struct ggml_tensor *dout = linear_back(b, i, BASE_O, t->attn_out, dy);
    struct ggml_tensor *doh = heads_turn(b, heads_split(b, dout, m->n_head));
    struct ggml_tensor *dp = ggml_mul_mat(b->c, t->v, doh);
    struct ggml_tensor *dv = groups_sum(b, ggml_mul_mat(b->c, turned(b, doh), turned(b, t->p)));
    struct ggml_tensor *ds = ggml_soft_max_ext_back(b->c, dp, t->p, attention_scale(b), 0);
    struct ggml_tensor *dq = ggml_mul_mat(b->c, turned(b, t->k), ds);
    struct ggml_tensor *dk = groups_sum(b, ggml_mul_mat(b->c, turned(b, t->q), turned(b, ds)));
    struct ggml_tensor *dx =
        linear_back(b, i, BASE_Q, t->attn_in, rotated_back(b, t->q_raw, l->q_norm, dq));
    dx = ggml_add(b->c, dx,
                  linear_back(b, i, BASE_K, t->attn_in, rotated_back(b, t->k_raw, l->k_norm, dk)));
    dx = ggml_add(b->c, dx, linear_back(b, i, BASE_V, t->attn_in, heads_join(b, dv)));
    return norm_back(b, t->x, l->attn_norm, dx);
}

// ---- the feed-forward part -------------------------------------------------------------------------------

static struct ggml_tensor *feed_forward(struct build *b, uint32_t i, struct ggml_tensor *x)
{
    struct layer_tape *t = &b->tapes[i];
    t->ffn_in = norm(b, x, b->g->base->layers[i].ffn_norm);
    t->gate = linear(b, i, BASE_GATE, t->ffn_in);
    t->up = linear(b, i, BASE_UP, t->ffn_in);
    t->ffn_mid = ggml_mul(b->c, ggml_silu(b->c, t->gate), t->up);
    return linear(b, i, BASE_DOWN, t->ffn_mid);
}

static struct ggml_tensor *feed_forward_back(struct build *b, uint32_t i, struct ggml_tensor *dy)
{
    const struct layer_tape *t = &b->tapes[i];
    struct ggml_tensor *dmid = linear_back(b, i, BASE_DOWN, t->ffn_mid, dy);
    struct ggml_tensor *dgate = ggml_silu_back(b->c, ggml_mul(b->c, dmid, t->up), t->gate);
    struct ggml_tensor *dup = ggml_mul(b->c, dmid, ggml_silu(b->c, t->gate));
    struct ggml_tensor *dx = ggml_add(b->c, linear_back(b, i, BASE_GATE, t->ffn_in, dgate),
                                      linear_back(b, i, BASE_UP, t->ffn_in, dup));
    return norm_back(b, t->mid, b->g->base->layers[i].ffn_norm, dx);
}

// ---- the loss ----------------------------------------------------------------------------------------------

static struct ggml_tensor *input(struct build *b, enum ggml_type type, int64_t ne0, int64_t ne1)
{
    struct ggml_tensor *t = ggml_new_tensor_2d(b->c, type, ne0, ne1);
    ggml_set_input(t);
    return t;
}

// Targets as rows of zeros with one 1, made inside the graph: only their places come from outside.
static struct ggml_tensor *one_hot(struct build *b, const struct loss_block *k,
                                   struct ggml_tensor *logits)
{
    struct ggml_tensor *zeros = ggml_fill(b->c, logits, 0);
    struct ggml_tensor *flat = ggml_reshape_2d(b->c, zeros, 1, ggml_nelements(logits));
    return ggml_reshape_2d(b->c, ggml_set_rows(b->c, flat, k->ones, k->hot), logits->ne[0],
                           logits->ne[1]);
}

// The loss of one block; with backward, the gradient of its rows of x [n_embd, n].
static struct ggml_tensor *block_build(struct build *b, struct loss_block *k, struct ggml_tensor *x)
{
    const struct base_model *m = b->g->base;
    k->rows = input(b, GGML_TYPE_I32, k->n, 1);
    k->hot = input(b, GGML_TYPE_I64, k->n, 1);
    k->ones = input(b, GGML_TYPE_F32, 1, k->n);
    struct ggml_tensor *rows = ggml_get_rows(b->c, x, k->rows);
    struct ggml_tensor *logits = matrix_forth(b, &m->output, norm(b, rows, m->output_norm));
    struct ggml_tensor *targets = one_hot(b, k, logits);
    k->loss = ggml_cross_entropy_loss(b->c, logits, targets);
    ggml_set_output(k->loss);
    ggml_build_forward_expand(b->cg, k->loss);
    if (!b->backward)
        return NULL;
    k->grad = input(b, GGML_TYPE_F32, 1, 1);
    struct ggml_tensor *dlogits = ggml_cross_entropy_loss_back(b->c, k->grad, logits, targets);
    struct ggml_tensor *drows =
        norm_back(b, rows, m->output_norm, matrix_back(b, &m->output, dlogits));
    ggml_build_forward_expand(b->cg, drows); // now, so that this block's logits are not kept
    return ggml_get_rows_back(b->c, drows, k->rows, x);
}

static struct ggml_tensor *loss_build(struct build *b, struct ggml_tensor *x)
{
    struct ggml_tensor *dx = NULL;
    for (size_t i = 0; i < b->n_blocks; i++) {
        struct ggml_tensor *d = block_build(b, &b->blocks[i], x);
        dx = dx && d ? ggml_add(b->c, dx, d) : d;
    }
    return dx;
}

// ---- one sample -----------------------------------------------------------------------------------------------

static struct ggml_tensor *forward_build(struct build *b)
{
    const struct base_model *m = b->g->base;
    b->tokens = input(b, GGML_TYPE_I32, b->n, 1);
    b->positions = input(b, GGML_TYPE_I32, b->n, 1);
    b->mask = input(b, GGML_TYPE_F32, b->n, b->n);
    struct ggml_tensor *x = ggml_get_rows(b->c, m->embeddings, b->tokens);
    for (uint32_t i = 0; i < m->n_layer; i++) {
        b->tapes[i].x = x;
        x = b->tapes[i].mid = ggml_add(b->c, x, attention(b, i, x));
        x = ggml_add(b->c, x, feed_forward(b, i, x));
    }
    return x;
}

// Nothing below the first layer learns: its own dx is named, but nobody asks for it to be computed.
static void backward_build(struct build *b, struct ggml_tensor *dx)
{
    for (uint32_t i = b->g->base->n_layer; i-- > 0;) {
        dx = ggml_add(b->c, dx, feed_forward_back(b, i, dx));
        dx = ggml_add(b->c, dx, attention_back(b, i, dx));
    }
}

static void inputs_set(const struct build *b, const struct graph_sample *s, float weight)
{
    size_t n = s->n;
    int32_t *positions = mem_alloc(n * sizeof *positions);
    float *mask = mem_alloc(n * n * sizeof *mask);
    for (size_t i = 0; i < n; i++) {
        positions[i] = (int32_t)i;
        for (size_t k = i + 1; k < n; k++)
            mask[i * n + k] = -INFINITY;
    }
    ggml_backend_tensor_set(b->tokens, s->tokens, 0, n * sizeof *s->tokens);
    ggml_backend_tensor_set(b->positions, positions, 0, n * sizeof *positions);
    ggml_backend_tensor_set(b->mask, mask, 0, n * n * sizeof *mask);
    free(positions);
    free(mask);
    uint32_t at = 1;
    for (size_t i = 0; i < b->n_blocks; i++) {
        const struct loss_block *k = &b->blocks[i];
        float grad = weight * (float)k->n; // the loss is a mean over the block
        for (uint32_t row = 0; row < k->n; row++, at++) {
            while (!s->supervised[at])
                at++;
            int32_t from = (int32_t)at - 1;
            int64_t hot = (int64_t)row * b->g->base->n_vocab + s->tokens[at];
            float one = 1;
            ggml_backend_tensor_set(k->rows, &from, row * sizeof from, sizeof from);
            ggml_backend_tensor_set(k->hot, &hot, row * sizeof hot, sizeof hot);
            ggml_backend_tensor_set(k->ones, &one, row * sizeof one, sizeof one);
        }
        if (k->grad)
            ggml_backend_tensor_set(k->grad, &grad, 0, sizeof grad);
    }
}

static int compute(const struct build *b, const struct graph_sample *s, float weight, double *loss,
                   struct err *e)
{
    ggml_backend_sched_reset(b->g->sched);
    if (!ggml_backend_sched_alloc_graph(b->g->sched, b->cg))
        return err_set(e, ERR_RANGE, "no memory for a sample of %" PRIu32 " tokens", s->n);
    inputs_set(b, s, weight);
    enum ggml_status status = ggml_backend_sched_graph_compute(b->g->sched, b->cg);
    if (status == GGML_STATUS_ABORTED)
        return err_set(e, ERR_CANCELLED, "stopped");
    if (status != GGML_STATUS_SUCCESS)
        return err_set(e, ERR_ENGINE, "ggml could not compute a sample of %" PRIu32 " tokens (%d)",
                       s->n, (int)status);
    *loss = 0;
    for (size_t i = 0; i < b->n_blocks; i++) {
        float mean = 0;
        ggml_backend_tensor_get(b->blocks[i].loss, &mean, 0, sizeof mean);
        *loss += (double)mean * b->blocks[i].n;
    }
    return 0;
}

static int sample_check(const struct graph *g, const struct graph_sample *s, struct err *e)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->tokens[i] < 0 || (uint32_t)s->tokens[i] >= g->base->n_vocab)
            return err_set(e, ERR_INVALID,
                           "token %" PRIu32 " is %" PRId32 "; the vocabulary has 0..%" PRIu32, i,
                           s->tokens[i], g->base->n_vocab - 1);
    if (s->n < 2 || graph_targets(s) == 0)
        return err_set(e, ERR_INVALID, "a sample without a supervised token");
    return 0;
}

static void blocks_make(struct build *b, uint32_t targets)
{
    b->n_blocks = (targets + LOSS_ROWS - 1) / LOSS_ROWS;
    b->blocks = mem_alloc(b->n_blocks * sizeof *b->blocks);
    for (size_t i = 0; i < b->n_blocks; i++) {
        uint32_t left = targets - (uint32_t)i * LOSS_ROWS;
        b->blocks[i].n = left < LOSS_ROWS ? left : LOSS_ROWS;
    }
}

static size_t nodes_needed(const struct graph *g, size_t n_blocks)
{
    return (size_t)g->base->n_layer * NODES_PER_LAYER + n_blocks * NODES_PER_BLOCK + 64;
}

// Memory for the tensors' descriptions, and a scheduler with room for the graph: both grow only.
static int room_make(struct graph *g, size_t n_blocks, struct err *e)
{
    size_t nodes = nodes_needed(g, n_blocks);
    if (nodes <= g->n_nodes)
        return 0;
    ggml_backend_t backends[2] = {g->base->backend, g->fallback};
    if (g->sched)
        ggml_backend_sched_free(g->sched);
    g->sched = ggml_backend_sched_new(backends, NULL, g->fallback ? 2 : 1, nodes, false, true);
    free(g->arena);
    g->arena_bytes = 2 * nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false);
    g->arena = malloc(g->arena_bytes);
    g->n_nodes = g->arena && g->sched ? nodes : 0;
    return g->n_nodes ? 0 : err_set(e, ERR_RANGE, "no memory for a graph of %zu nodes", nodes);
}

int graph_run(struct graph *g, const struct graph_sample *s, bool backward, float weight,
              double *loss, struct err *e)
{
    struct build b = {.g = g, .n = s->n, .backward = backward};
    int rc = sample_check(g, s, e);
    if (rc != 0)
        return rc;
    blocks_make(&b, graph_targets(s));
    rc = room_make(g, b.n_blocks, e);
    if (rc == 0) {
        struct ggml_init_params p = {g->arena_bytes, g->arena, true};
        b.c = ggml_init(p);
        b.cg = ggml_new_graph_custom(b.c, g->n_nodes, false);
        b.tapes = mem_alloc(g->base->n_layer * sizeof *b.tapes);
        struct ggml_tensor *dx = loss_build(&b, forward_build(&b));
        if (backward)
            backward_build(&b, dx);
        rc = compute(&b, s, weight, loss, e);
        free(b.tapes);
        ggml_free(b.c);
    }
    free(b.blocks);
    return rc;
}

// ---- making ----------------------------------------------------------------------------------------------------

static bool is_stopped(void *ctx)
{
    const atomic_bool *stop = ctx;
    return atomic_load_explicit(stop, memory_order_relaxed); // a late sight only delays the stop
}

static bool backend_is_cpu(ggml_backend_t b)
{
    return ggml_backend_dev_type(ggml_backend_get_device(b)) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

int graph_new(const struct base_model *base, const struct lora *lora, const atomic_bool *stop,
              struct graph **out, struct err *e)
{
    struct graph *g = mem_alloc(sizeof *g);
    bool cpu = backend_is_cpu(base->backend);
    g->base = base;
    g->lora = lora;
    g->stop = stop;
    g->own_products = cpu && base->dense;
    if (!cpu)
        g->fallback = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    if (stop && cpu)
        ggml_backend_cpu_set_abort_callback(base->backend, is_stopped, (void *)(uintptr_t)stop);
    int rc = room_make(g, 1, e);
    if (rc == 0)
        *out = g;
    else
        graph_free(g);
    return rc;
}

void graph_free(struct graph *g)
{
    if (!g)
        return;
    if (g->sched)
        ggml_backend_sched_free(g->sched);
    if (g->fallback)
        ggml_backend_free(g->fallback);
    if (g->stop && !g->fallback)
        ggml_backend_cpu_set_abort_callback(g->base->backend, NULL, NULL);
    free(g->arena);
    free(g);
}
