// What the fuzzers of file heads share: bytes in place of a file, and what must hold whatever they are.
#ifndef TESTS_FUZZ_BYTES_H
#define TESTS_FUZZ_BYTES_H

#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

struct bytes {
    const uint8_t *data;
    size_t n;
};

static inline void need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz: %s\n", what);
    abort();
}

// A struct models_gguf_source's read.
static inline int bytes_read(void *ctx, uint64_t at, void *out, size_t n, struct err *e)
{
    const struct bytes *b = ctx;
    (void)e;
    need(at <= b->n && n <= b->n - at, "read outside of the file");
    memcpy(out, b->data + at, n);
    return 0;
}

#endif
