// One sample forward through the network and its gradient back. What the forward pass leaves in struct work is
// what the backward pass needs; there is no second copy.
#include "tests/image_model/kernels.h"
#include "tests/image_model/network.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SCALE 0.125f // 1 / sqrt(HEAD)

struct block_work {
    float in[TOKENS][HIDDEN], normed[TOKENS][HIDDEN], qkv[TOKENS][3 * INNER];
    float text_normed[CAPTION_TOKENS + 1][HIDDEN], text_qkv[CAPTION_TOKENS + 1][3 * INNER];
    float q[HEADS][TOKENS][HEAD], k[HEADS][KEYS][HEAD], v[HEADS][KEYS][HEAD];
    float share[HEADS][TOKENS][KEYS]; // of attention
    float mixed[TOKENS][INNER], mid[TOKENS][HIDDEN], mid_normed[TOKENS][HIDDEN];
    float gate[TOKENS][MLP], up[TOKENS][MLP], hidden[TOKENS][MLP];
};

struct work {
    float context[CAPTION_TOKENS + 1][HIDDEN], text[CAPTION_TOKENS + 1][HIDDEN];
    float low[TOKENS][PCA], out[TOKENS][HIDDEN], out_normed[TOKENS][HIDDEN], pixels[TOKENS][PIXELS];
    struct block_work blocks[BLOCKS];
    // gradients
    float d_pixels[TOKENS][PIXELS], d_x[TOKENS][HIDDEN], d_normed[TOKENS][HIDDEN];
    float d_text[CAPTION_TOKENS + 1][HIDDEN], d_text_normed[CAPTION_TOKENS + 1][HIDDEN];
    float d_text_qkv[CAPTION_TOKENS + 1][3 * INNER], d_context[CAPTION_TOKENS + 1][HIDDEN];
    float d_qkv[TOKENS][3 * INNER], d_mixed[TOKENS][INNER], d_low[TOKENS][PCA];
    float d_q[TOKENS][HEAD], d_k[KEYS][HEAD], d_v[KEYS][HEAD], d_share[TOKENS][KEYS];
    float d_gate[TOKENS][MLP], d_up[TOKENS][MLP], d_hidden[TOKENS][MLP];
    float place[TOKENS][HIDDEN]; // added to the embedded patches: where they are
};

static const struct dims head_row = {1, HEAD, 0};

struct work *work_new(void)
{
    struct work *w = mem_alloc(sizeof *w);
    const int quarter = HIDDEN / 4;
    for (int i = 0; i < TOKENS; i++)
        for (int j = 0; j < quarter; j++) {
            double frequency = pow(10000, -(double)j / quarter);
            double x = i % GRID * frequency, y = i / GRID * frequency;
            w->place[i][j] = (float)sin(x);
            w->place[i][quarter + j] = (float)cos(x);
            w->place[i][2 * quarter + j] = (float)sin(y);
            w->place[i][3 * quarter + j] = (float)cos(y);
        }
    return w;
}

void work_free(struct work *w)
{
    free(w);
}

// ---- forward -------------------------------------------------------------------------------------

static void add(float *restrict out, const float *restrict x, int n)
{
    for (int i = 0; i < n; i++)
        out[i] += x[i];
}

static void embed(const struct network *n, struct work *w, const struct sample *s)
{
    const float *v = n->values;
    for (int i = 0; i < s->n_context; i++)
        memcpy(w->context[i], s->context[i], sizeof w->context[0]);
    memcpy(w->context[s->n_context], v + n->mask, sizeof w->context[0]);
    linear_forward(*w->text, *w->context, v + n->text_embed, NULL,
                   (struct dims){s->n_context + 1, HIDDEN, HIDDEN});
    linear_forward(*w->low, *s->noisy, v + n->proj1, NULL, (struct dims){TOKENS, PIXELS, PCA});
    linear_forward(*w->blocks[0].in, *w->low, v + n->proj2, v + n->proj2_bias,
                   (struct dims){TOKENS, PCA, HIDDEN});
    add(*w->blocks[0].in, *w->place, TOKENS * HIDDEN);
}

// Queries, keys and values of head h: the image's own, and before them the text's 256 positions, of which
// all behind the caption hold the same vector, turned by its position.
static void head_fill(const float *values, const struct network_block *b, struct block_work *w,
                      struct dims text)
{
    const float *qn = values + b->q_norm, *kn = values + b->k_norm;
    float t[HEAD];
    int h = text.k;
    for (int i = 0; i < TOKENS; i++) {
        const float *row = w->qkv[i] + h * HEAD;
        rms_forward(t, row, qn, head_row);
        rope_turn(w->q[h][i], t, TEXT + i, 1);
        rms_forward(t, row + INNER, kn, head_row);
        rope_turn(w->k[h][TEXT + i], t, TEXT + i, 1);
        memcpy(w->v[h][TEXT + i], row + 2 * INNER, sizeof w->v[h][0]);
    }
    for (int i = 0; i < TEXT; i++) {
        const float *row = w->text_qkv[i < text.m ? i : text.m] + h * HEAD;
        if (i <= text.m)
            rms_forward(t, row + INNER, kn, head_row);
        rope_turn(w->k[h][i], t, i, 1);
        memcpy(w->v[h][i], row + 2 * INNER, sizeof w->v[h][0]);
    }
}

static void softmax(float *p, int n)
{
    float top = p[0], sum = 0;
    for (int j = 1; j < n; j++)
        top = p[j] > top ? p[j] : top;
    for (int j = 0; j < n; j++) {
        p[j] = expf((p[j] - top) * SCALE);
        sum += p[j];
    }
    for (int j = 0; j < n; j++)
        p[j] /= sum;
}

static void head_mix(struct block_work *w, int h)
{
    linear_forward(*w->share[h], *w->q[h], *w->k[h], NULL, (struct dims){TOKENS, HEAD, KEYS});
    for (int i = 0; i < TOKENS; i++) {
        float *out = w->mixed[i] + h * HEAD;
        softmax(w->share[h][i], KEYS);
        memset(out, 0, HEAD * sizeof *out);
        for (int j = 0; j < KEYS; j++)
            for (int q = 0; q < HEAD; q++)
                out[q] += w->share[h][i][j] * w->v[h][j][q];
    }
}

static void attention(const struct network *n, struct work *all, int index, int n_context)
{
    const struct network_block *b = &n->blocks[index];
    struct block_work *w = &all->blocks[index];
    const float *v = n->values;
    struct dims text = {n_context + 1, HIDDEN, 3 * INNER};
    rms_forward(*w->normed, *w->in, v + b->norm1, (struct dims){TOKENS, HIDDEN, 0});
    linear_forward(*w->qkv, *w->normed, v + b->qkv, v + b->qkv_bias,
                   (struct dims){TOKENS, HIDDEN, 3 * INNER});
    rms_forward(*w->text_normed, *all->text, v + b->text_norm, text);
    linear_forward(*w->text_qkv, *w->text_normed, v + b->text_qkv, v + b->text_qkv_bias, text);
    for (int h = 0; h < HEADS; h++) {
        head_fill(v, b, w, (struct dims){n_context, h, 0});
        head_mix(w, h);
    }
    linear_forward(*w->mid, *w->mixed, v + b->proj, v + b->proj_bias,
                   (struct dims){TOKENS, INNER, HIDDEN});
    add(*w->mid, *w->in, TOKENS * HIDDEN);
}

// SwiGLU: silu(gate) * up.
static void gate_forward(float *out, const float *gate, const float *up)
{
    for (int i = 0; i < TOKENS * MLP; i++)
        out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void feed_forward(const struct network *n, struct work *all, int index)
{
    const struct network_block *b = &n->blocks[index];
    struct block_work *w = &all->blocks[index];
    const float *v = n->values;
    float *out = index + 1 < BLOCKS ? *all->blocks[index + 1].in : *all->out;
    rms_forward(*w->mid_normed, *w->mid, v + b->norm2, (struct dims){TOKENS, HIDDEN, 0});
    linear_forward(*w->gate, *w->mid_normed, v + b->w1, NULL, (struct dims){TOKENS, HIDDEN, MLP});
    linear_forward(*w->up, *w->mid_normed, v + b->w3, NULL, (struct dims){TOKENS, HIDDEN, MLP});
    gate_forward(*w->hidden, *w->gate, *w->up);
    linear_forward(out, *w->hidden, v + b->w2, NULL, (struct dims){TOKENS, MLP, HIDDEN});
    add(out, *w->mid, TOKENS * HIDDEN);
}

// ---- backward ------------------------------------------------------------------------------------

static void gate_back(struct work *all, const float *gate, const float *up)
{
    const float *d_hidden = *all->d_hidden;
    float *d_up = *all->d_up, *d_gate = *all->d_gate;
    for (int i = 0; i < TOKENS * MLP; i++) {
        float a = gate[i], s = 1 / (1 + expf(-a)), d = d_hidden[i];
        d_up[i] = d * a * s;
        d_gate[i] = d * up[i] * s * (1 + a * (1 - s));
    }
}

static void feed_forward_back(const struct network *n, struct work *all, int index, float *g)
{
    const struct network_block *b = &n->blocks[index];
    struct block_work *w = &all->blocks[index];
    const float *v = n->values;
    const struct dims wide = {TOKENS, HIDDEN, MLP}, narrow = {TOKENS, MLP, HIDDEN};
    memset(all->d_hidden, 0, sizeof all->d_hidden);
    memset(all->d_normed, 0, sizeof all->d_normed);
    linear_input_grad(*all->d_hidden, *all->d_x, v + b->w2, narrow);
    linear_weight_grad(g + b->w2, NULL, *all->d_x, *w->hidden, narrow);
    gate_back(all, *w->gate, *w->up);
    linear_input_grad(*all->d_normed, *all->d_gate, v + b->w1, wide);
    linear_weight_grad(g + b->w1, NULL, *all->d_gate, *w->mid_normed, wide);
    linear_input_grad(*all->d_normed, *all->d_up, v + b->w3, wide);
    linear_weight_grad(g + b->w3, NULL, *all->d_up, *w->mid_normed, wide);
    rms_backward(&(struct rms_grad){*all->d_x, g + b->norm2, *all->d_normed, *w->mid, v + b->norm2},
                 (struct dims){TOKENS, HIDDEN, 0});
}

// From d_mixed to d_q, d_k, d_v of head h.
static void head_mix_back(struct work *all, const struct block_work *w, int h)
{
    memset(all->d_q, 0, sizeof all->d_q);
    memset(all->d_k, 0, sizeof all->d_k);
    memset(all->d_v, 0, sizeof all->d_v);
    for (int i = 0; i < TOKENS; i++) {
        const float *p = w->share[h][i], *d = all->d_mixed[i] + h * HEAD;
        float sum = 0;
        for (int j = 0; j < KEYS; j++) {
            float t = 0;
            for (int q = 0; q < HEAD; q++) {
                t += d[q] * w->v[h][j][q];
                all->d_v[j][q] += p[j] * d[q];
            }
            all->d_share[i][j] = t;
            sum += t * p[j];
        }
        for (int j = 0; j < KEYS; j++) {
            float t = p[j] * (all->d_share[i][j] - sum) * SCALE;
            for (int q = 0; q < HEAD; q++) {
                all->d_q[i][q] += t * w->k[h][j][q];
                all->d_k[j][q] += t * w->q[h][i][q];
            }
        }
    }
}

// Through the turn and the norm of one key or query, into the row that it came from.
static void key_back(float *dx, float *dw, const float *turned, const float *x, const float *w)
{
    rms_backward(&(struct rms_grad){dx, dw, turned, x, w}, head_row);
}

static void head_back(const struct network *n, struct work *all, int index, struct dims text,
                      float *g)
{
    const struct network_block *b = &n->blocks[index];
    const struct block_work *w = &all->blocks[index];
    const float *qn = n->values + b->q_norm, *kn = n->values + b->k_norm;
    float t[HEAD], padding[HEAD] = {0};
    int at = text.k * HEAD;
    head_mix_back(all, w, text.k);
    for (int i = 0; i < TOKENS; i++) {
        float *d = all->d_qkv[i] + at;
        rope_turn(t, all->d_q[i], TEXT + i, -1);
        key_back(d, g + b->q_norm, t, w->qkv[i] + at, qn);
        rope_turn(t, all->d_k[TEXT + i], TEXT + i, -1);
        key_back(d + INNER, g + b->k_norm, t, w->qkv[i] + at + INNER, kn);
        add(d + 2 * INNER, all->d_v[TEXT + i], HEAD);
    }
    for (int i = 0; i < TEXT; i++) {
        int row = i < text.m ? i : text.m;
        rope_turn(t, all->d_k[i], i, -1);
        if (i < text.m)
            key_back(all->d_text_qkv[row] + at + INNER, g + b->k_norm, t,
                     w->text_qkv[row] + at + INNER, kn);
        else
            add(padding, t, HEAD);
        add(all->d_text_qkv[row] + at + 2 * INNER, all->d_v[i], HEAD);
    }
    key_back(all->d_text_qkv[text.m] + at + INNER, g + b->k_norm, padding,
             w->text_qkv[text.m] + at + INNER, kn);
}

static void attention_back(const struct network *n, struct work *all, int index, int n_context,
                           float *g)
{
    const struct network_block *b = &n->blocks[index];
    const struct block_work *w = &all->blocks[index];
    const float *v = n->values;
    const struct dims out = {TOKENS, INNER, HIDDEN}, in = {TOKENS, HIDDEN, 3 * INNER};
    const struct dims text = {n_context + 1, HIDDEN, 3 * INNER};
    memset(all->d_mixed, 0, sizeof all->d_mixed);
    memset(all->d_qkv, 0, sizeof all->d_qkv);
    memset(all->d_text_qkv, 0, sizeof all->d_text_qkv);
    memset(all->d_normed, 0, sizeof all->d_normed);
    memset(all->d_text_normed, 0, sizeof all->d_text_normed);
    linear_input_grad(*all->d_mixed, *all->d_x, v + b->proj, out);
    linear_weight_grad(g + b->proj, g + b->proj_bias, *all->d_x, *w->mixed, out);
    for (int h = 0; h < HEADS; h++)
        head_back(n, all, index, (struct dims){n_context, h, 0}, g);
    linear_input_grad(*all->d_normed, *all->d_qkv, v + b->qkv, in);
    linear_weight_grad(g + b->qkv, g + b->qkv_bias, *all->d_qkv, *w->normed, in);
    rms_backward(&(struct rms_grad){*all->d_x, g + b->norm1, *all->d_normed, *w->in, v + b->norm1},
                 (struct dims){TOKENS, HIDDEN, 0});
    linear_input_grad(*all->d_text_normed, *all->d_text_qkv, v + b->text_qkv, text);
    linear_weight_grad(g + b->text_qkv, g + b->text_qkv_bias, *all->d_text_qkv, *w->text_normed,
                       text);
    rms_backward(&(struct rms_grad){*all->d_text, g + b->text_norm, *all->d_text_normed, *all->text,
                                    v + b->text_norm},
                 text);
}

static void embed_back(const struct network *n, struct work *w, const struct sample *s, float *g)
{
    const struct dims proj2 = {TOKENS, PCA, HIDDEN}, text = {s->n_context + 1, HIDDEN, HIDDEN};
    memset(w->d_low, 0, sizeof w->d_low);
    memset(w->d_context, 0, sizeof w->d_context);
    linear_input_grad(*w->d_low, *w->d_x, n->values + n->proj2, proj2);
    linear_weight_grad(g + n->proj2, g + n->proj2_bias, *w->d_x, *w->low, proj2);
    linear_weight_grad(g + n->proj1, NULL, *w->d_low, *s->noisy,
                       (struct dims){TOKENS, PIXELS, PCA});
    linear_input_grad(*w->d_context, *w->d_text, n->values + n->text_embed, text);
    linear_weight_grad(g + n->text_embed, NULL, *w->d_text, *w->context, text);
    add(g + n->mask, w->d_context[s->n_context], HIDDEN);
}

static void backward(const struct network *n, struct work *w, const struct sample *s, float *g)
{
    const struct dims last = {TOKENS, HIDDEN, PIXELS};
    memset(w->d_x, 0, sizeof w->d_x);
    memset(w->d_normed, 0, sizeof w->d_normed);
    memset(w->d_text, 0, sizeof w->d_text);
    linear_input_grad(*w->d_normed, *w->d_pixels, n->values + n->last, last);
    linear_weight_grad(g + n->last, g + n->last_bias, *w->d_pixels, *w->out_normed, last);
    rms_backward(&(struct rms_grad){*w->d_x, g + n->last_norm, *w->d_normed, *w->out,
                                    n->values + n->last_norm},
                 last);
    for (int i = BLOCKS - 1; i >= 0; i--) {
        feed_forward_back(n, w, i, g);
        attention_back(n, w, i, s->n_context, g);
    }
    embed_back(n, w, s, g);
}

static double error_mean(float *d_out, const float *out, const float *wanted, float weight)
{
    const int n = TOKENS * PIXELS;
    double error = 0;
    for (int i = 0; i < n; i++) {
        float d = out[i] - wanted[i];
        error += (double)(d * d);
        d_out[i] = 2 * weight * d / (float)n;
    }
    return error / n;
}

double network_run(const struct network *n, struct work *w, const struct sample *s, float *grad)
{
    const struct dims last = {TOKENS, HIDDEN, PIXELS};
    const float *v = n->values;
    embed(n, w, s);
    for (int i = 0; i < BLOCKS; i++) {
        attention(n, w, i, s->n_context);
        feed_forward(n, w, i);
    }
    rms_forward(*w->out_normed, *w->out, v + n->last_norm, last);
    linear_forward(*w->pixels, *w->out_normed, v + n->last, v + n->last_bias, last);
    double error = error_mean(*w->d_pixels, *w->pixels, *s->clean, s->weight);
    if (grad != NULL)
        backward(n, w, s, grad);
    return error;
}
