#include "train/graph_impl.h"
#include "train/swiglu.h"

#include <math.h>

// ---- linear layers -------------------------------------------------------------------------------

static struct ggml_tensor *turned(struct build *b, struct ggml_tensor *t)
{
    return ggml_cont(b->c, ggml_transpose(b->c, t));
}

static struct ggml_tensor *straight(struct build *b, struct ggml_tensor *t)
{
    return ggml_is_transposed(t) ? ggml_cont(b->c, t) : t;
}

// z [m, k] times x [k, n]; either may be a transposed view. ggml wants z with k first.
static struct ggml_tensor *multiply(struct build *b, struct ggml_tensor *z, struct ggml_tensor *x)
{
    if (b->g->own)
        return product_make(b->c, z, x);
    struct ggml_tensor *first = z->op == GGML_OP_TRANSPOSE ? z->src[0] : ggml_transpose(b->c, z);
    return ggml_mul_mat(b->c, straight(b, first), straight(b, x));
}

static void sum_add(struct build *b, struct sum *s, struct ggml_tensor *t)
{
    s->done = s->done ? ggml_add(b->c, s->done, t) : t;
}

static struct ggml_tensor *sum_take(struct build *b, struct sum *s)
{
    if (s->n > 0)
        sum_add(b, s, product_sum(b->c, s->pairs, s->n));
    s->n = 0;
    return s->done;
}

static void sum_product(struct build *b, struct sum *s, struct ggml_tensor *z,
                        struct ggml_tensor *x)
{
    if (!b->g->own) {
        sum_add(b, s, multiply(b, z, x));
        return;
    }
    if (s->n == PRODUCT_PAIRS_MAX)
        sum_take(b, s);
    s->pairs[s->n++] = (struct product_pair){z, x};
}

static struct ggml_tensor *scaled(const struct build *b, struct ggml_tensor *t)
{
    const struct lora_options *o = &b->g->lora->options;
    return ggml_scale(b->c, t, o->alpha / (float)o->rank);
}

// W^T x. Our own product takes the matrix that has the result's dimension contiguous.
static void matrix_forth(struct build *b, const struct base_matrix *m, struct ggml_tensor *x,
                         struct sum *y)
{
    if (b->g->own)
        sum_product(b, y, m->transposed, x);
    else
        sum_add(b, y, ggml_mul_mat(b->c, m->w, x));
}

static struct ggml_tensor *linear(struct build *b, uint32_t layer, enum base_linear which,
                                  struct ggml_tensor *x)
{
    const struct base_matrix *m = &b->g->base->layers[layer].linears[which];
    const struct lora_pair *p = lora_pair_at(b->g->lora, layer, which);
    struct sum sum = {0};
    matrix_forth(b, m, x, &sum);
    if (p) {
        struct ggml_tensor *low = scaled(b, multiply(b, ggml_transpose(b->c, p->a), x));
        b->tapes[layer].low[which] = low;
        sum_product(b, &sum, ggml_transpose(b->c, p->b), low);
    }
    struct ggml_tensor *y = sum_take(b, &sum);
    return m->bias ? ggml_add(b->c, y, m->bias) : y;
}

// W dy: through the transposed copy, or where there is none the slow way.
static void matrix_back(struct build *b, const struct base_matrix *m, struct ggml_tensor *dy,
                        struct sum *dx)
{
    if (b->g->own)
        sum_product(b, dx, m->w, dy);
    else if (m->transposed)
        sum_add(b, dx, ggml_mul_mat(b->c, m->transposed, dy));
    else
        sum_add(b, dx, ggml_out_prod(b->c, m->w, turned(b, dy)));
}

static void gradient_add(struct build *b, struct ggml_tensor *sum, struct ggml_tensor *grad)
{
    ggml_build_forward_expand(b->cg, ggml_add_inplace(b->c, sum, grad));
}

// A linear layer on its way back.
struct linear_grad {
    enum base_linear which;
    struct ggml_tensor *x, *dy;
};

// Adds to dx, and dA and dB to the adapter's gradients. With y = W^T x + B (s A x):
//   dB = dy (s A x)^T,  d(A x) = s B^T dy,  dA = d(A x) x^T,  dx += A^T d(A x)
static void linear_back(struct build *b, uint32_t layer, const struct linear_grad *l,
                        struct sum *dx)
{
    const struct lora_pair *p = lora_pair_at(b->g->lora, layer, l->which);
    matrix_back(b, &b->g->base->layers[layer].linears[l->which], l->dy, dx);
    if (!p)
        return;
    struct ggml_tensor *low = b->tapes[layer].low[l->which];
    struct ggml_tensor *dlow = scaled(b, multiply(b, p->b, l->dy));
    gradient_add(b, p->grad_b, multiply(b, low, ggml_transpose(b->c, l->dy)));
    gradient_add(b, p->grad_a, multiply(b, l->x, ggml_transpose(b->c, dlow)));
    sum_product(b, dx, p->a, dlow);
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

// Queries or keys of one layer, turned to their positions: [head_dim, heads, T].
static struct ggml_tensor *rotated(struct build *b, struct ggml_tensor *raw, struct ggml_tensor *w)
{
    return rope(b, w ? norm(b, raw, w) : raw);
}

static struct ggml_tensor *rotated_back(struct build *b, struct ggml_tensor *raw,
                                        struct ggml_tensor *w, struct ggml_tensor *dy)
{
    struct ggml_tensor *d = rope_back(b, dy);
    if (w)
        d = norm_back(b, raw, w, d);
    return ggml_reshape_2d(b->c, d, d->ne[0] * d->ne[1], b->n);
}

// O = V P, P = softmax(scale K^T Q + mask), per head. One sample a graph.
static struct ggml_tensor *plain_attention(struct build *b, struct layer_tape *t)
{
    t->q = heads_turn(b, t->q);
    t->k = heads_turn(b, t->k);
    t->v = heads_turn(b, heads_split(b, t->v, b->g->base->n_head_kv));
    t->p = ggml_soft_max_ext(b->c, ggml_mul_mat(b->c, t->k, t->q), b->mask, b->shape.scale, 0);
    return heads_join(b, ggml_mul_mat(b->c, turned(b, t->v), t->p));
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
    t->v = linear(b, i, BASE_V, t->attn_in);
    const struct attention_inputs in = {t->q, t->k, t->v};
    t->attn_out = b->g->own ? attention_forth(b->c, &in, &b->shape) : plain_attention(b, t);
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

// Gradients of queries and keys as they were turned [head_dim, heads, T], and of values [head_dim * heads, T].
struct attention_grads {
    struct ggml_tensor *q, *k, *v;
};

static struct ggml_tensor *heads_view(struct build *b, struct ggml_tensor *all, int64_t first,
                                      int64_t n)
{
    return ggml_view_3d(b->c, all, all->ne[0], n, all->ne[2], all->nb[1], all->nb[2],
                        (size_t)first * all->nb[1]);
}

static struct attention_grads own_attention_back(struct build *b, const struct layer_tape *t,
                                                 struct ggml_tensor *dout)
{
    const struct base_model *m = b->g->base;
    const struct attention_inputs in = {t->q, t->k, t->v};
    struct ggml_tensor *all = attention_back(b->c, &in, dout, &b->shape);
    struct ggml_tensor *v = heads_view(b, all, m->n_head + m->n_head_kv, m->n_head_kv);
    return (struct attention_grads){
        heads_view(b, all, 0, m->n_head), heads_view(b, all, m->n_head, m->n_head_kv),
        ggml_reshape_2d(b->c, ggml_cont(b->c, v), m->head_dim * m->n_head_kv, b->n)};
}

//   dP = V^T dO,  dV = dO P^T,  dS = softmax'(dP),  dQ = K dS,  dK = Q dS^T
static struct attention_grads plain_attention_back(struct build *b, const struct layer_tape *t,
                                                   struct ggml_tensor *dout)
{
    struct ggml_tensor *doh = heads_turn(b, heads_split(b, dout, b->g->base->n_head));
    struct ggml_tensor *dp = ggml_mul_mat(b->c, t->v, doh);
    struct ggml_tensor *dv = groups_sum(b, ggml_mul_mat(b->c, turned(b, doh), turned(b, t->p)));
    struct ggml_tensor *ds = ggml_soft_max_ext_back(b->c, dp, t->p, b->shape.scale, 0);
    struct ggml_tensor *dq = ggml_mul_mat(b->c, turned(b, t->k), ds);
    struct ggml_tensor *dk = groups_sum(b, ggml_mul_mat(b->c, turned(b, t->q), turned(b, ds)));
    return (struct attention_grads){heads_turn(b, dq), heads_turn(b, dk), heads_join(b, dv)};
}

static struct ggml_tensor *attention_layer_back(struct build *b, uint32_t i, struct ggml_tensor *dy)
{
    const struct base_layer *l = &b->g->base->layers[i];
    const struct layer_tape *t = &b->tapes[i];
    struct sum dout = {0}, dx = {0};
    struct linear_grad o = {BASE_O, t->attn_out, dy};
    linear_back(b, i, &o, &dout);
    struct ggml_tensor *dattn = sum_take(b, &dout);
    struct attention_grads d =
        b->g->own ? own_attention_back(b, t, dattn) : plain_attention_back(b, t, dattn);
    const struct linear_grad grads[] = {
        {BASE_Q, t->attn_in, rotated_back(b, t->q_raw, l->q_norm, d.q)},
        {BASE_K, t->attn_in, rotated_back(b, t->k_raw, l->k_norm, d.k)},
        {BASE_V, t->attn_in, d.v}};
    for (size_t k = 0; k < 3; k++)
        linear_back(b, i, &grads[k], &dx);
    return norm_back(b, t->x, l->attn_norm, sum_take(b, &dx));
}

// ---- the feed-forward part -------------------------------------------------------------------------------

static struct ggml_tensor *feed_forward(struct build *b, uint32_t i, struct ggml_tensor *x)
{
    struct layer_tape *t = &b->tapes[i];
    t->ffn_in = norm(b, x, b->g->base->layers[i].ffn_norm);
    t->gate = linear(b, i, BASE_GATE, t->ffn_in);
    t->up = linear(b, i, BASE_UP, t->ffn_in);
    t->ffn_mid = ggml_swiglu_split(b->c, t->gate, t->up);
    return linear(b, i, BASE_DOWN, t->ffn_mid);
}

static void gates_back(struct build *b, const struct layer_tape *t, struct ggml_tensor *dmid,
                       struct ggml_tensor **dgate, struct ggml_tensor **dup)
{
    if (!b->g->own) {
        *dgate = ggml_silu_back(b->c, ggml_mul(b->c, dmid, t->up), t->gate);
        *dup = ggml_mul(b->c, dmid, ggml_silu(b->c, t->gate));
        return;
    }
    struct ggml_tensor *both = swiglu_back(b->c, t->gate, t->up, dmid);
    *dgate = ggml_view_2d(b->c, both, both->ne[0], both->ne[1], both->nb[1], 0);
    *dup = ggml_view_2d(b->c, both, both->ne[0], both->ne[1], both->nb[1], both->nb[2]);
}

static struct ggml_tensor *feed_forward_back(struct build *b, uint32_t i, struct ggml_tensor *dy)
{
    const struct layer_tape *t = &b->tapes[i];
    struct sum dmid = {0}, dx = {0};
    struct linear_grad down = {BASE_DOWN, t->ffn_mid, dy};
    struct linear_grad gate = {BASE_GATE, t->ffn_in, NULL}, up = {BASE_UP, t->ffn_in, NULL};
    linear_back(b, i, &down, &dmid);
    gates_back(b, t, sum_take(b, &dmid), &gate.dy, &up.dy);
    linear_back(b, i, &gate, &dx);
    linear_back(b, i, &up, &dx);
    return norm_back(b, t->mid, b->g->base->layers[i].ffn_norm, sum_take(b, &dx));
}

// ---- the loss ----------------------------------------------------------------------------------------------

static struct ggml_tensor *input(struct build *b, enum ggml_type type, int64_t ne0, int64_t ne1)
{
    struct ggml_tensor *t = ggml_new_tensor_2d(b->c, type, ne0, ne1);
    ggml_set_input(t);
    return t;
}

// Probabilities of one block's predictions, in place of its logits.
static struct ggml_tensor *block_forth(struct build *b, struct loss_block *k, struct ggml_tensor *x)
{
    struct sum logits = {0};
    matrix_forth(b, &b->g->base->output, x, &logits);
    struct ggml_tensor *p = ggml_soft_max_inplace(b->c, sum_take(b, &logits));
    struct ggml_tensor *flat = ggml_reshape_2d(b->c, p, 1, ggml_nelements(p));
    struct ggml_tensor *target = ggml_get_rows(b->c, flat, k->hot);
    // A target that is impossible in F32 counts as 1e-37.
    k->likely =
        ggml_sum(b->c, ggml_log(b->c, ggml_clamp(b->c, ggml_cont(b->c, target), 1e-37f, 1)));
    ggml_set_output(k->likely);
    ggml_build_forward_expand(b->cg, k->likely);
    if (!b->batch->backward)
        return NULL;
    // dlogits = P - 1 at the targets; the rest of the factor waits until there is less to multiply.
    struct ggml_tensor *less = ggml_scale_bias(b->c, target, 1, -1);
    return ggml_reshape_2d(b->c, ggml_set_rows(b->c, flat, less, k->hot), p->ne[0], p->ne[1]);
}

// The loss of one block; with backward, the gradient of its rows of x [n_embd, n].
static struct ggml_tensor *block_build(struct build *b, struct loss_block *k, struct ggml_tensor *x)
{
    const struct base_model *m = b->g->base;
    struct sum dx = {0};
    k->rows = input(b, GGML_TYPE_I32, k->n, 1);
    k->hot = input(b, GGML_TYPE_I32, k->n, 1);
    struct ggml_tensor *rows = ggml_get_rows(b->c, x, k->rows);
    struct ggml_tensor *dlogits = block_forth(b, k, norm(b, rows, m->output_norm));
    if (!dlogits)
        return NULL;
    matrix_back(b, &m->output, dlogits, &dx);
    struct ggml_tensor *dnorm = ggml_scale(b->c, sum_take(b, &dx), b->batch->weight);
    struct ggml_tensor *drows = norm_back(b, rows, m->output_norm, dnorm);
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

// ---- all of it -------------------------------------------------------------------------------------------------

static struct ggml_tensor *forward_build(struct build *b)
{
    const struct base_model *m = b->g->base;
    b->tokens = input(b, GGML_TYPE_I32, b->n, 1);
    b->positions = input(b, GGML_TYPE_I32, b->n, 1);
    if (!b->g->own)
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
        dx = ggml_add(b->c, dx, attention_layer_back(b, i, dx));
    }
}

void graph_build(struct build *b)
{
    struct ggml_tensor *dx = loss_build(b, forward_build(b));
    if (b->batch->backward)
        backward_build(b, dx);
}
