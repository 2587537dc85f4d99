// Writes the GGUF file: 76 tensors, of which the trained ones come from the network.
#include "tests/image_model/write.h"

#include "base/buf.h"
#include "models/gguf_write.h"
#include "os/os.h"
#include "tests/image_model/weights.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NET "model.diffusion_model.model.net."
#define T5 "text_encoders.t5xxl.transformer."
#define TENSORS_MAX 96
#define FILE_MAX_BYTES (16u << 20)
#define ALIGNMENT 32u
#define GGUF_VERSION 3u
#define GGUF_STRING 8u
#define UNUSED_SEED 3u
enum { TYPE_F32 = 0, TYPE_F16 = 1 };

// What a tensor that is not among the trained ones is filled with.
enum fill { FILL_ONE, FILL_ZERO, FILL_RANDOM, FILL_TABLE };

struct entry {
    char name[128];
    uint64_t ne[4]; // GGUF's order: the fastest first; 0 behind the last
    enum fill fill;
};

struct list {
    struct entry entries[TENSORS_MAX];
    size_t n;
};

// The next entry, of ne[0] by ne[1].
static struct entry *put(struct list *l, enum fill fill, uint64_t ne0, uint64_t ne1,
                         const char *format, ...) __attribute__((format(printf, 5, 6)));
static struct entry *put(struct list *l, enum fill fill, uint64_t ne0, uint64_t ne1,
                         const char *format, ...)
{
    struct entry *t = &l->entries[l->n++];
    va_list args;
    *t = (struct entry){.ne = {ne0, ne1}, .fill = fill};
    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
    return t;
}

static void list_head(struct list *l)
{
    struct entry *t = put(l, FILL_ZERO, PATCH, PATCH, NET "img_embedder.proj1.weight");
    t->ne[2] = 3;
    t->ne[3] = PCA;
    t = put(l, FILL_ZERO, 1, 1, NET "img_embedder.proj2.weight");
    t->ne[2] = PCA;
    t->ne[3] = HIDDEN;
    put(l, FILL_ZERO, HIDDEN, 0, NET "img_embedder.proj2.bias");
    put(l, FILL_ZERO, HIDDEN, HIDDEN, NET "txt_embedder.weight");
    t = put(l, FILL_ZERO, HIDDEN, 1, NET "mask_token");
    t->ne[2] = 1;
    put(l, FILL_ONE, HIDDEN, 0, NET "final_layer.norm_final.weight");
    put(l, FILL_ZERO, HIDDEN, PIXELS, NET "final_layer.linear.weight");
    put(l, FILL_ZERO, PIXELS, 0, NET "final_layer.linear.bias");
    // In every file of this layout, evaluated by nobody: the network knows no time step.
    put(l, FILL_RANDOM, HIDDEN, COND, NET "pooled_embedder.weight");
    put(l, FILL_RANDOM, 256, COND, NET "t_embedder.mlp.0.weight");
    put(l, FILL_ZERO, COND, 0, NET "t_embedder.mlp.0.bias");
    put(l, FILL_RANDOM, COND, COND, NET "t_embedder.mlp.2.weight");
    put(l, FILL_ZERO, COND, 0, NET "t_embedder.mlp.2.bias");
}

// One stream ("img", "txt") of a block. `residual` fills what is added to the stream.
static void list_stream(struct list *l, int index, const char *stream, enum fill residual)
{
    const char *f = NET "double_blocks.%d.%s_%s";
    put(l, FILL_ONE, HIDDEN, 0, f, index, stream, "norm1.weight");
    put(l, FILL_ONE, HIDDEN, 0, f, index, stream, "norm2.weight");
    put(l, FILL_ZERO, HIDDEN, 3 * INNER, f, index, stream, "qkv.weight");
    put(l, FILL_ZERO, 3 * INNER, 0, f, index, stream, "qkv.bias");
    put(l, residual, INNER, HIDDEN, f, index, stream, "attn_proj.weight");
    put(l, FILL_ZERO, HIDDEN, 0, f, index, stream, "attn_proj.bias");
    put(l, FILL_RANDOM, HIDDEN, MLP, f, index, stream, "mlp.w1.weight");
    put(l, FILL_RANDOM, HIDDEN, MLP, f, index, stream, "mlp.w3.weight");
    put(l, residual, MLP, HIDDEN, f, index, stream, "mlp.w2.weight");
}

static void list_preamble(struct list *l)
{
    const char *f = NET "txt_preamble_blocks.0.%s";
    put(l, FILL_ONE, HIDDEN, 0, f, "norm1.weight");
    put(l, FILL_ONE, HIDDEN, 0, f, "norm2.weight");
    put(l, FILL_RANDOM, HIDDEN, 3 * INNER, f, "qkv.weight");
    put(l, FILL_ZERO, 3 * INNER, 0, f, "qkv.bias");
    put(l, FILL_ZERO, INNER, HIDDEN, f, "attn_proj.weight");
    put(l, FILL_ZERO, HIDDEN, 0, f, "attn_proj.bias");
    put(l, FILL_RANDOM, HIDDEN, MLP, f, "mlp.w1.weight");
    put(l, FILL_RANDOM, HIDDEN, MLP, f, "mlp.w3.weight");
    put(l, FILL_ZERO, MLP, HIDDEN, f, "mlp.w2.weight");
    put(l, FILL_ONE, HEAD, 0, f, "q_norm.weight");
    put(l, FILL_ONE, HEAD, 0, f, "k_norm.weight");
}

static void list_t5(struct list *l)
{
    const char *f = T5 "encoder.block.0.layer.%s";
    put(l, FILL_TABLE, HIDDEN, VOCABULARY, T5 "shared.weight");
    put(l, FILL_RANDOM, HIDDEN, HEAD, f, "0.SelfAttention.q.weight");
    put(l, FILL_RANDOM, HIDDEN, HEAD, f, "0.SelfAttention.k.weight");
    put(l, FILL_RANDOM, HIDDEN, HEAD, f, "0.SelfAttention.v.weight");
    put(l, FILL_ZERO, HEAD, HIDDEN, f, "0.SelfAttention.o.weight");
    put(l, FILL_ZERO, 1, 32, f, "0.SelfAttention.relative_attention_bias.weight");
    put(l, FILL_ONE, HIDDEN, 0, f, "0.layer_norm.weight");
    put(l, FILL_RANDOM, HIDDEN, HIDDEN, f, "1.DenseReluDense.wi_0.weight");
    put(l, FILL_RANDOM, HIDDEN, HIDDEN, f, "1.DenseReluDense.wi_1.weight");
    put(l, FILL_ZERO, HIDDEN, HIDDEN, f, "1.DenseReluDense.wo.weight");
    put(l, FILL_ONE, HIDDEN, 0, f, "1.layer_norm.weight");
    put(l, FILL_ONE, HIDDEN, 0, T5 "encoder.final_layer_norm.weight");
}

static void list_fill(struct list *l)
{
    list_head(l);
    list_preamble(l);
    for (int i = 0; i < BLOCKS; i++) {
        list_stream(l, i, "img", FILL_RANDOM);
        list_stream(l, i, "txt", FILL_ZERO);
        put(l, FILL_ONE, HEAD, 0, NET "double_blocks.%d.q_norm.weight", i);
        put(l, FILL_ONE, HEAD, 0, NET "double_blocks.%d.k_norm.weight", i);
    }
    list_t5(l);
}

// ---- the bytes -----------------------------------------------------------------------------------

static uint32_t dims_of(const struct entry *t)
{
    uint32_t n = 0;
    while (n < 4 && t->ne[n] != 0)
        n++;
    return n;
}

static uint64_t count_of(const struct entry *t)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < dims_of(t); i++)
        n *= t->ne[i];
    return n;
}

// Norms, biases and the mask token stay 32-bit floats: the library adds them as such.
static uint32_t type_of(const struct entry *t)
{
    return dims_of(t) == 1 || strstr(t->name, "mask_token") ? TYPE_F32 : TYPE_F16;
}

static uint64_t bytes_of(const struct entry *t)
{
    return count_of(t) * (type_of(t) == TYPE_F32 ? 4 : 2);
}

static void pad(struct buf *b)
{
    while (b->len % ALIGNMENT != 0)
        buf_put(b, "", 1);
}

static void put_head(struct buf *b, const struct list *l)
{
    uint64_t offset = 0;
    buf_puts(b, "GGUF");
    buf_put_le32(b, GGUF_VERSION);
    buf_put_le64(b, l->n);
    buf_put_le64(b, 1);
    models_gguf_put_text(b, "general.architecture");
    buf_put_le32(b, GGUF_STRING);
    models_gguf_put_text(b, "minit2i");
    for (size_t i = 0; i < l->n; i++) {
        const struct entry *t = &l->entries[i];
        models_gguf_put_text(b, t->name);
        buf_put_le32(b, dims_of(t));
        for (uint32_t d = 0; d < dims_of(t); d++)
            buf_put_le64(b, t->ne[d]);
        buf_put_le32(b, type_of(t));
        buf_put_le64(b, offset);
        offset += (bytes_of(t) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
    pad(b);
}

static void put_values(struct buf *b, const struct entry *t, const float *values, uint64_t n)
{
    uint8_t raw[2];
    union {
        float f;
        uint32_t u;
    } v;
    for (uint64_t i = 0; i < n; i++) {
        v.f = values[i];
        if (type_of(t) == TYPE_F32) {
            buf_put_le32(b, v.u);
            continue;
        }
        le_put16(raw, half_from_float(v.f));
        buf_put(b, raw, sizeof raw);
    }
}

static void put_filled(struct buf *b, const struct entry *t, uint64_t *state)
{
    float row[HIDDEN];
    uint64_t n = count_of(t);
    for (uint64_t i = 0; t->fill == FILL_TABLE && i < n / HIDDEN; i++) {
        network_table_row((int)i, row);
        put_values(b, t, row, HIDDEN);
    }
    for (uint64_t i = 0; t->fill != FILL_TABLE && i < n; i++) {
        row[0] = t->fill == FILL_ONE ? 1 : 0;
        if (t->fill == FILL_RANDOM)
            row[0] = network_gauss(state) / sqrtf((float)t->ne[0]);
        put_values(b, t, row, 1);
    }
}

static const struct network_tensor *trained_find(const struct network *n, const char *name)
{
    for (int i = 0; i < n->n_tensors; i++)
        if (strcmp(n->tensors[i].name, name) == 0)
            return &n->tensors[i];
    return NULL;
}

int write_model(const struct network *n, const char *path, struct err *e)
{
    struct list *l = mem_alloc(sizeof *l);
    uint64_t state = UNUSED_SEED;
    struct buf b;
    int used = 0;
    buf_init(&b, FILE_MAX_BYTES);
    list_fill(l);
    put_head(&b, l);
    for (size_t i = 0; i < l->n; i++) {
        const struct network_tensor *t = trained_find(n, l->entries[i].name);
        if (t != NULL && (uint64_t)t->count == count_of(&l->entries[i])) {
            put_values(&b, &l->entries[i], n->values + t->offset, (uint64_t)t->count);
            used++;
        } else {
            put_filled(&b, &l->entries[i], &state);
        }
        pad(&b);
    }
    int rc = used == n->n_tensors
                 ? os_file_write(path, b.data, b.len, 0644, e)
                 : err_set(e, ERR_MISMATCH, "%d of %d trained tensors have a place in the layout",
                           used, n->n_tensors);
    buf_fini(&b);
    free(l);
    return rc;
}
