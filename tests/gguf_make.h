// Writes the heads of GGUF files, whole or broken, for tests.
#ifndef TESTS_GGUF_MAKE_H
#define TESTS_GGUF_MAKE_H

#include "base/buf.h"

#define GGUF_MAKE_MAX (8u << 20)

static inline void make32(struct buf *b, uint32_t v)
{
    uint8_t raw[4];
    le_put32(raw, v);
    buf_put(b, raw, 4);
}

static inline void make64(struct buf *b, uint64_t v)
{
    uint8_t raw[8];
    le_put64(raw, v);
    buf_put(b, raw, 8);
}

static inline void make_text(struct buf *b, const char *text)
{
    make64(b, strlen(text));
    buf_puts(b, text);
}

static inline void make_head(struct buf *b, uint64_t tensors, uint64_t keys)
{
    buf_puts(b, "GGUF");
    make32(b, 3);
    make64(b, tensors);
    make64(b, keys);
}

static inline void make_key_text(struct buf *b, const char *key, const char *value)
{
    make_text(b, key);
    make32(b, 8);
    make_text(b, value);
}

static inline void make_key32(struct buf *b, const char *key, uint32_t value)
{
    make_text(b, key);
    make32(b, 4);
    make32(b, value);
}

static inline void make_key_array32(struct buf *b, const char *key, const uint32_t *v, size_t n)
{
    make_text(b, key);
    make32(b, 9);
    make32(b, 4);
    make64(b, n);
    for (size_t i = 0; i < n; i++)
        make32(b, v[i]);
}

struct make_tensor {
    const char *name;
    uint64_t columns, rows;
    uint32_t type;
    uint64_t offset;
};

static inline void make_tensor(struct buf *b, const struct make_tensor *t)
{
    make_text(b, t->name);
    make32(b, 2);
    make64(b, t->columns);
    make64(b, t->rows);
    make32(b, t->type);
    make64(b, t->offset);
}

// Zeros up to a multiple of 32, and n more.
static inline void make_data(struct buf *b, size_t n)
{
    static const uint8_t zeros[4096];
    buf_put(b, zeros, (32 - b->len % 32) % 32);
    for (; n > 0; n -= n < sizeof zeros ? n : sizeof zeros)
        buf_put(b, zeros, n < sizeof zeros ? n : sizeof zeros);
}

#endif
