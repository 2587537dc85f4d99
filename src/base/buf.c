#include "base/buf.h"

#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>

static void *mem_check(void *p)
{
    if (!p) {
        fputs("tandem: out of memory\n", stderr);
        abort();
    }
    return p;
}

void *mem_alloc(size_t bytes)
{
    return mem_check(calloc(1, bytes ? bytes : 1));
}

void *mem_resize(void *p, size_t bytes)
{
    return mem_check(realloc(p, bytes ? bytes : 1));
}

char *mem_strdup(const char *s)
{
    return mem_check(strdup(s));
}

char *mem_format(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int n = vasprintf(&text, format, args);
    va_end(args);
    return mem_check(n < 0 ? NULL : text);
}

void buf_init(struct buf *b, size_t max_bytes)
{
    *b = (struct buf){.max = max_bytes};
}

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.max = b->max};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = 0;
}

// Makes room for n more bytes and the closing 0. `cap` counts without that 0.
static int buf_reserve(struct buf *b, size_t n)
{
    if (n > b->max - b->len)
        return ERR_RANGE;
    size_t want = b->len + n;
    if (b->data && want <= b->cap)
        return 0;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < want)
        cap = cap > SIZE_MAX / 2 ? want : cap * 2;
    if (cap > b->max)
        cap = b->max;
    if (cap == SIZE_MAX)
        return ERR_RANGE;
    b->data = mem_resize(b->data, cap + 1);
    b->cap = cap;
    b->data[b->len] = 0;
    return 0;
}

int buf_put(struct buf *b, const void *data, size_t n)
{
    int rc = buf_reserve(b, n);
    if (rc)
        return rc;
    if (n)
        memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
    return 0;
}

int buf_puts(struct buf *b, const char *s)
{
    return buf_put(b, s, strlen(s));
}

int buf_put_le32(struct buf *b, uint32_t v)
{
    uint8_t raw[4];
    le_put32(raw, v);
    return buf_put(b, raw, sizeof raw);
}

int buf_put_le64(struct buf *b, uint64_t v)
{
    uint8_t raw[8];
    le_put64(raw, v);
    return buf_put(b, raw, sizeof raw);
}

int buf_printf(struct buf *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    int rc = n < 0 ? ERR_INVALID : buf_reserve(b, (size_t)n);
    if (rc == 0) {
        vsnprintf((char *)b->data + b->len, (size_t)n + 1, format, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return rc;
}

void buf_consume(struct buf *b, size_t n)
{
    if (n > b->len)
        n = b->len;
    if (n == 0)
        return;
    b->len -= n;
    memmove(b->data, b->data + n, b->len + 1);
}

char *buf_take(struct buf *b)
{
    char *text = b->data ? (char *)b->data : mem_strdup("");
    *b = (struct buf){.max = b->max};
    return text;
}

void hex_encode(const void *data, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *b = data;
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[b[i] >> 4];
        out[2 * i + 1] = digits[b[i] & 15];
    }
    out[2 * n] = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int hex_decode(const char *hex, void *out, size_t n)
{
    if (strnlen(hex, 2 * n + 1) != 2 * n)
        return ERR_INVALID;
    uint8_t *b = out;
    for (size_t i = 0; i < n; i++) {
        int high = hex_digit(hex[2 * i]);
        int low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return ERR_INVALID;
        b[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}
