#include "models/sum.h"

#include "base/buf.h"

#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>

#define DIGEST_BYTES 32

void models_sum_init(struct models_sum *s)
{
    gnutls_hash_hd_t h = NULL;
    if (gnutls_hash_init(&h, GNUTLS_DIG_SHA256) != 0) {
        fputs("tandem: GnuTLS has no SHA-256\n", stderr);
        abort();
    }
    s->state = h;
}

void models_sum_fini(struct models_sum *s)
{
    if (s->state)
        gnutls_hash_deinit(s->state, NULL);
    s->state = NULL;
}

void models_sum_put(struct models_sum *s, const void *data, size_t n)
{
    gnutls_hash(s->state, data, n);
}

void models_sum_take(struct models_sum *s, char out[MODELS_SUM_BYTES])
{
    uint8_t digest[DIGEST_BYTES];
    gnutls_hash_output(s->state, digest); // resets the state as well
    hex_encode(digest, sizeof digest, out);
}

bool models_sum_parse(const char *text, char out[MODELS_SUM_BYTES])
{
    uint8_t digest[DIGEST_BYTES];
    if (hex_decode(text, digest, sizeof digest) != 0)
        return false;
    hex_encode(digest, sizeof digest, out);
    return true;
}
