// The trained tensors of the layout, their names and their first values.
#include "tests/image_model/network.h"

#include "base/buf.h"
#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TABLE_SEED 0x7461626c65u
#define TWO_PI 6.283185307179586

float network_gauss(uint64_t *state)
{
    const double scale = 1.0 / 9007199254740992.0; // 2^-53
    double u = ((double)(random_next(state) >> 11) + 1) * scale;
    double v = (double)(random_next(state) >> 11) * scale;
    return (float)(sqrt(-2 * log(u)) * cos(TWO_PI * v));
}

void network_table_row(int id, float out[HIDDEN])
{
    uint64_t state = TABLE_SEED + ((uint64_t)id << 32);
    float sum = 0;
    for (int i = 0; i < HIDDEN; i++) {
        out[i] = network_gauss(&state);
        sum += out[i] * out[i];
    }
    for (int i = 0; i < HIDDEN; i++)
        out[i] /= sqrtf(sum / HIDDEN);
}

struct maker {
    struct network *n;
    uint64_t state;
    char prefix[80];
};

// Appends a tensor whose values are base + deviation * gauss; returns its offset.
static int tensor_add(struct maker *m, const char *name, int count, double deviation, float base)
{
    struct network *n = m->n;
    struct network_tensor *t = &n->tensors[n->n_tensors++];
    snprintf(t->name, sizeof t->name, "%.64s%.30s", m->prefix, name);
    t->offset = n->n_values;
    t->count = count;
    n->values = mem_resize(n->values, (size_t)(t->offset + count) * sizeof *n->values);
    for (int i = 0; i < count; i++)
        n->values[t->offset + i] = base + (float)deviation * network_gauss(&m->state);
    n->n_values += count;
    return t->offset;
}

static double fan(int inputs)
{
    return 1 / sqrt(inputs);
}

static void block_make(struct maker *m, int index)
{
    struct network_block *b = &m->n->blocks[index];
    snprintf(m->prefix, sizeof m->prefix, "model.diffusion_model.model.net.double_blocks.%d.",
             index);
    b->norm1 = tensor_add(m, "img_norm1.weight", HIDDEN, 0, 1);
    b->norm2 = tensor_add(m, "img_norm2.weight", HIDDEN, 0, 1);
    b->qkv = tensor_add(m, "img_qkv.weight", HIDDEN * 3 * INNER, fan(HIDDEN), 0);
    b->qkv_bias = tensor_add(m, "img_qkv.bias", 3 * INNER, 0, 0);
    b->proj = tensor_add(m, "img_attn_proj.weight", INNER * HIDDEN, 0.5 * fan(INNER), 0);
    b->proj_bias = tensor_add(m, "img_attn_proj.bias", HIDDEN, 0, 0);
    b->w1 = tensor_add(m, "img_mlp.w1.weight", HIDDEN * MLP, fan(HIDDEN), 0);
    b->w3 = tensor_add(m, "img_mlp.w3.weight", HIDDEN * MLP, fan(HIDDEN), 0);
    b->w2 = tensor_add(m, "img_mlp.w2.weight", MLP * HIDDEN, 0.5 * fan(MLP), 0);
    b->q_norm = tensor_add(m, "q_norm.weight", HEAD, 0, 1);
    b->k_norm = tensor_add(m, "k_norm.weight", HEAD, 0, 1);
    b->text_norm = tensor_add(m, "txt_norm1.weight", HIDDEN, 0, 1);
    b->text_qkv = tensor_add(m, "txt_qkv.weight", HIDDEN * 3 * INNER, fan(HIDDEN), 0);
    b->text_qkv_bias = tensor_add(m, "txt_qkv.bias", 3 * INNER, 0, 0);
}

void network_init(struct network *n, uint64_t seed)
{
    struct maker m = {.n = n, .state = seed, .prefix = "model.diffusion_model.model.net."};
    *n = (struct network){0};
    n->proj1 = tensor_add(&m, "img_embedder.proj1.weight", PIXELS * PCA, fan(PIXELS), 0);
    n->proj2 = tensor_add(&m, "img_embedder.proj2.weight", PCA * HIDDEN, fan(PCA), 0);
    n->proj2_bias = tensor_add(&m, "img_embedder.proj2.bias", HIDDEN, 0, 0);
    n->text_embed = tensor_add(&m, "txt_embedder.weight", HIDDEN * HIDDEN, fan(HIDDEN), 0);
    n->mask = tensor_add(&m, "mask_token", HIDDEN, 1, 0);
    n->last_norm = tensor_add(&m, "final_layer.norm_final.weight", HIDDEN, 0, 1);
    n->last = tensor_add(&m, "final_layer.linear.weight", HIDDEN * PIXELS, 0.02, 0);
    n->last_bias = tensor_add(&m, "final_layer.linear.bias", PIXELS, 0, 0);
    for (int i = 0; i < BLOCKS; i++)
        block_make(&m, i);
}

void network_fini(struct network *n)
{
    free(n->values);
    *n = (struct network){0};
}
