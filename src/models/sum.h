// SHA-256 of what comes in pieces. Owner: the caller.
#ifndef MODELS_SUM_H
#define MODELS_SUM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODELS_SUM_BYTES 65 // lower-case hex and the 0

struct models_sum {
    void *state;
};
void models_sum_init(struct models_sum *s);
void models_sum_fini(struct models_sum *s);
void models_sum_put(struct models_sum *s, const void *data, size_t n);
// The sum of all that was put in since init or the last take; starts afresh.
void models_sum_take(struct models_sum *s, char out[MODELS_SUM_BYTES]);
// 64 hexadecimal digits of either case; `out` gets them in lower case.
bool models_sum_parse(const char *text, char out[MODELS_SUM_BYTES]);

#endif
