// Private to kv/: the running digest over segment hashes, which both sides of a transfer keep.
#ifndef KV_HASH_H
#define KV_HASH_H

#include "kv/kv.h"

void *kv_digest_new(void);
void kv_digest_free(void *digest);
void kv_digest_put(void *digest, uint64_t segment_hash);
uint64_t kv_digest_get(const void *digest);

#endif
