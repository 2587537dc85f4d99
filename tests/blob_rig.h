// A second writer of llama.cpp's sequence state, as naive as can be, for tests of the checker. It follows
// llama-kv-cache.cpp, llama-memory-recurrent.cpp and llama-kv-cache-dsv4.cpp of release v0.5.0.
#ifndef TESTS_BLOB_RIG_H
#define TESTS_BLOB_RIG_H

#include "base/buf.h"
#include "engine/blob.h"

#include <stdlib.h>
#include <string.h>

#define RIG_VOCAB 100
#define RIG_BYTES_MAX (1u << 20)

struct rig_attention {
    uint32_t n_layer, n_stream, stream; // cells stand in `stream`
    bool v, ext, v_trans;
    uint32_t window; // 0: none
};

struct rig_state {
    uint32_t n_layer, n_tensors;
    bool untyped; // a row without a type word after the first tensor
};

// A model as a sequence of sections.
struct rig_model {
    const char *name;
    const char
        *sections; // "A" attention, "R" recurrent, "D" DeepSeek-V4's; attention taken in order
    struct rig_attention attention[3];
    struct rig_state state;
};

static inline void rig_u32(struct buf *b, uint32_t v)
{
    uint8_t bytes[4];
    le_put32(bytes, v);
    buf_put(b, bytes, sizeof bytes);
}

static inline void rig_u64(struct buf *b, uint64_t v)
{
    uint8_t bytes[8];
    le_put64(bytes, v);
    buf_put(b, bytes, sizeof bytes);
}

// Tensor data: any bytes, here ones that never look like the header that follows.
static inline void rig_data(struct buf *b, uint64_t n, uint32_t seed)
{
    for (uint64_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)(0x80 | (seed * 31 + i * 7));
        buf_put(b, &byte, 1);
    }
}

static inline uint64_t rig_row_bytes(uint32_t layer, bool v)
{
    return 16 + 4 * layer + (v ? 2 : 0);
}

static inline void rig_attention_layers(struct buf *b, const struct rig_attention *a,
                                        uint32_t cells)
{
    rig_u32(b, a->v_trans);
    rig_u32(b, a->n_layer);
    for (uint32_t pass = 0; pass < (a->v ? 2u : 1u); pass++) {
        for (uint32_t i = 0; i < a->n_layer; i++) {
            rig_u32(b, 1); // F16
            if (pass == 1 && a->v_trans) {
                rig_u32(b, 2);
                rig_u32(b, 8 + i);
                rig_data(b, (uint64_t)(8 + i) * 2 * cells, i);
                continue;
            }
            rig_u64(b, rig_row_bytes(i, pass == 1));
            rig_data(b, rig_row_bytes(i, pass == 1) * cells, i + 17 * pass);
        }
    }
}

static inline void rig_attention_put(struct buf *b, const struct rig_attention *a, uint32_t p0,
                                     uint32_t p1)
{
    uint32_t from = a->window && p1 - p0 > a->window ? p1 - a->window : p0;
    rig_u32(b, a->n_stream);
    for (uint32_t s = 0; s < a->n_stream; s++) {
        rig_u32(b, s == a->stream ? p1 - from : 0);
        if (s != a->stream)
            continue;
        for (uint32_t i = from; i < p1; i++) {
            uint32_t pos =
                from + (i - from + 1) % (p1 - from); // cells do not lie in order of position
            rig_u32(b, pos);
            rig_u32(b, 1);
            if (a->ext) {
                rig_u32(b, pos);
                rig_u32(b, pos);
                rig_u32(b, pos % RIG_VOCAB);
            }
            rig_u32(b, 3);
        }
        rig_attention_layers(b, a, p1 - from);
    }
}

static inline void rig_state_put(struct buf *b, const struct rig_state *s, uint32_t p1, bool full)
{
    rig_u32(b, full);
    if (full) {
        rig_u32(b, p1 - 1);
        rig_u32(b, 0);
    }
    rig_u32(b, 0);
    rig_u32(b, s->n_layer);
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        rig_u32(b, 0); // F32
        rig_u64(b, 64 + 4 * i);
        rig_data(b, full ? 64 + 4 * i : 0, i);
        if (i == 0 && s->untyped) {
            rig_u64(b, 96);
            rig_data(b, full ? 96 : 0, i);
        }
    }
}

static inline void rig_dsv4_tensor(struct buf *b, uint64_t ne0, uint64_t rows)
{
    rig_u32(b, 0);
    rig_u64(b, ne0);
    rig_u64(b, rows);
    rig_u64(b, 4 * ne0);
    rig_data(b, 4 * ne0 * rows, (uint32_t)rows);
}

static inline void rig_dsv4_rows(struct buf *b, uint32_t rows)
{
    rig_u32(b, 2);
    rig_u32(b, rows);
    rig_u32(b, 1);
    rig_u32(b, 2);
    for (uint32_t i = 0; i < 2; i++) {
        rig_u32(b, 3 * i + 1);
        rig_dsv4_tensor(b, 8, rows);
    }
}

static inline void rig_dsv4_state(struct buf *b, uint32_t ratio)
{
    const uint32_t head[] = {1, ratio, 8, 6, 1, 2};
    for (size_t i = 0; i < 6; i++)
        rig_u32(b, head[i]);
    for (uint32_t i = 0; i < 2; i++) {
        rig_u32(b, 3 * i + 1);
        rig_dsv4_tensor(b, 6, 8);
        rig_dsv4_tensor(b, 6, 8);
    }
}

static inline void rig_dsv4_put(struct buf *b, const struct rig_model *m, uint32_t p1)
{
    rig_u32(b, 0x34565344);
    rig_u32(b, 1);
    rig_u32(b, 0);
    rig_attention_put(b, &m->attention[0], 0, p1);
    rig_attention_put(b, &m->attention[1], 0, p1);
    rig_dsv4_rows(b, p1 / 4);
    rig_dsv4_rows(b, p1 / 128);
    rig_dsv4_rows(b, p1 / 4);
    rig_dsv4_state(b, 4);
    rig_dsv4_state(b, 128);
    rig_dsv4_state(b, 4);
}

static inline void rig_write(struct buf *b, const struct rig_model *m, uint32_t p0, uint32_t p1,
                             bool state)
{
    size_t n = 0;
    buf_init(b, RIG_BYTES_MAX);
    rig_u32(b, BLOB_MAGIC);
    rig_u32(b, 3);
    for (const char *s = m->sections; *s; s++) {
        if (*s == 'A')
            rig_attention_put(b, &m->attention[n++], p0, p1);
        else if (*s == 'R')
            rig_state_put(b, &m->state, p1, state);
        else
            rig_dsv4_put(b, m, p1);
    }
}

static const struct rig_model rig_models[] = {
    {"dense", "A", {{.n_layer = 3, .n_stream = 1, .v = true}}, {0}},
    {"one layer", "A", {{.n_layer = 1, .n_stream = 1, .v = true}}, {0}},
    {"MLA", "A", {{.n_layer = 4, .n_stream = 1}}, {0}},
    {"transposed V", "A", {{.n_layer = 3, .n_stream = 1, .v = true, .v_trans = true}}, {0}},
    {"M-RoPE", "A", {{.n_layer = 2, .n_stream = 1, .v = true, .ext = true}}, {0}},
    {"streams", "A", {{.n_layer = 2, .n_stream = 4, .stream = 2, .v = true}}, {0}},
    {"sliding window",
     "AA",
     {{.n_layer = 1, .n_stream = 1, .v = true},
      {.n_layer = 2, .n_stream = 1, .v = true, .window = 5}},
     {0}},
    {"indexer", "AA", {{.n_layer = 3, .n_stream = 1}, {.n_layer = 3, .n_stream = 1}}, {0}},
    {"recurrent", "R", {{0}}, {.n_layer = 4, .n_tensors = 8}},
    {"hybrid", "AR", {{.n_layer = 1, .n_stream = 1, .v = true}}, {.n_layer = 4, .n_tensors = 6}},
    {"hybrid with an untyped row",
     "AR",
     {{.n_layer = 1, .n_stream = 1, .v = true, .ext = true}},
     {.n_layer = 4, .n_tensors = 6, .untyped = true}},
    {"hybrid with a sliding window",
     "AAR",
     {{.n_layer = 1, .n_stream = 1, .v = true},
      {.n_layer = 1, .n_stream = 1, .v = true, .window = 5}},
     {.n_layer = 4, .n_tensors = 4}},
    {"hybrid with an indexer",
     "ARA",
     {{.n_layer = 2, .n_stream = 1, .v = true}, {.n_layer = 2, .n_stream = 1}},
     {.n_layer = 4, .n_tensors = 4}},
    {"DeepSeek-V4",
     "D",
     {{.n_layer = 0, .n_stream = 3, .stream = 1},
      {.n_layer = 3, .n_stream = 3, .stream = 1, .window = 5}},
     {0}},
};
#define RIG_MODELS (sizeof rig_models / sizeof *rig_models)

static inline bool rig_windowed(const struct rig_model *m)
{
    return m->attention[0].window || m->attention[1].window;
}

static inline int rig_learn(const struct rig_model *m, struct blob_layout *layout, struct err *e)
{
    struct buf sample;
    rig_write(&sample, m, 0, 2, true);
    struct blob_sample s = {sample.data, sample.len, 2, RIG_VOCAB, rig_windowed(m)};
    int rc = blob_learn(layout, &s, e);
    buf_fini(&sample);
    return rc;
}

#endif
