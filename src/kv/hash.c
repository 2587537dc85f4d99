#include "kv/kv.h"

#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

// On x86 the library's plain functions use SSE2 (10 GB/s here, 12 MB at a time), which would take a
// tenth of the core that a link keeps busy; those that look for AVX2 and AVX-512 do 27 GB/s. Same hash.
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#endif

// Token ids are hashed as they travel: i32 LE. A big-endian machine would have to swap them here.
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token ids are hashed in place");

struct kv_tokens_hasher {
    XXH3_state_t *state;
};

uint64_t kv_hash(const void *data, size_t n)
{
    return XXH3_64bits(data, n);
}

static XXH3_state_t *state_new(void)
{
    XXH3_state_t *state = XXH3_createState(); // aligned, which mem_alloc does not promise
    if (!state) {
        fputs("tandem: out of memory\n", stderr);
        abort();
    }
    XXH3_64bits_reset(state);
    return state;
}

struct kv_tokens_hasher *kv_tokens_hasher_new(void)
{
    struct kv_tokens_hasher *h = mem_alloc(sizeof *h);
    h->state = state_new();
    return h;
}

void kv_tokens_hasher_free(struct kv_tokens_hasher *h)
{
    if (!h)
        return;
    XXH3_freeState(h->state);
    free(h);
}

void kv_tokens_hasher_put(struct kv_tokens_hasher *h, const int32_t *tokens, size_t n)
{
    if (n)
        XXH3_64bits_update(h->state, tokens, n * sizeof *tokens);
}

uint64_t kv_tokens_hasher_get(const struct kv_tokens_hasher *h)
{
    return XXH3_64bits_digest(h->state);
}

void kv_tokens_hasher_copy(struct kv_tokens_hasher *to, const struct kv_tokens_hasher *from)
{
    XXH3_copyState(to->state, from->state);
}

uint64_t kv_tokens_hash(const int32_t *tokens, size_t n)
{
    return XXH3_64bits(tokens, n * sizeof *tokens);
}

void *kv_digest_new(void)
{
    return state_new();
}

void kv_digest_free(void *digest)
{
    XXH3_freeState(digest);
}

void kv_digest_put(void *digest, uint64_t segment_hash)
{
    uint8_t bytes[8];
    le_put64(bytes, segment_hash);
    XXH3_64bits_update(digest, bytes, sizeof bytes);
}

uint64_t kv_digest_get(const void *digest)
{
    return XXH3_64bits_digest(digest);
}
