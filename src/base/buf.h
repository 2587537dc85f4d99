// A growable byte buffer with a maximum, and little-endian access to memory.
//
// Owner: whoever holds the struct. Growth beyond `max` fails with ERR_RANGE and leaves the content
// as it was. Allocation failure of our own small things aborts (see mem_*).
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// malloc/realloc/strdup that abort on failure: for our own small, bounded things only. A size that
// a peer, file or client gave is checked against a named limit first.
void *mem_alloc(size_t bytes); // zeroed
void *mem_resize(void *p, size_t bytes);
char *mem_strdup(const char *s);
char *mem_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct buf {
    uint8_t *data; // data[len] is always 0 when data is not NULL
    size_t len;
    size_t cap;
    size_t max; // bytes
};

void buf_init(struct buf *b, size_t max_bytes);
void buf_fini(struct buf *b);
void buf_clear(struct buf *b); // keeps the memory
int buf_put(struct buf *b, const void *data, size_t n);
int buf_puts(struct buf *b, const char *s);
int buf_put_le32(struct buf *b, uint32_t v);
int buf_put_le64(struct buf *b, uint64_t v);
int buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Drops the first n bytes (n <= len).
void buf_consume(struct buf *b, size_t n);
// Hands the memory to the caller, who frees it; the buffer is empty afterwards.
char *buf_take(struct buf *b);

// Equal? Takes the same time wherever the first difference is: for keys and tickets.
static inline bool mem_same_secret(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;
    unsigned difference = 0;
    for (size_t i = 0; i < n; i++)
        difference |= (unsigned)(x[i] ^ y[i]);
    return difference == 0;
}

static inline void le_put16(void *p, uint16_t v)
{
    uint8_t *b = p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}

static inline void le_put32(void *p, uint32_t v)
{
    uint8_t *b = p;
    for (int i = 0; i < 4; i++)
        b[i] = (uint8_t)(v >> (8 * i));
}

static inline void le_put64(void *p, uint64_t v)
{
    uint8_t *b = p;
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(v >> (8 * i));
}

static inline uint16_t le_get16(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t le_get32(const void *p)
{
    const uint8_t *b = p;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++)
        v |= (uint32_t)b[i] << (8 * i);
    return v;
}

static inline uint64_t le_get64(const void *p)
{
    const uint8_t *b = p;
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v |= (uint64_t)b[i] << (8 * i);
    return v;
}

// Lower-case hex; `out` has room for 2n+1. hex_decode wants exactly 2n digits, else ERR_INVALID.
void hex_encode(const void *data, size_t n, char *out);
int hex_decode(const char *hex, void *out, size_t n);

#endif
