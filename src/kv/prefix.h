// Which sequences begin like this? A radix tree over token ids, one root per owner, so that owners
// never learn of each other's prefixes.
//
//   owner "a":  [1 5 9]--[4 4]      sequence 0 holds 1 5 9 4 4
//                    \---[7]        sequence 3 holds 1 5 9 7
//
// An edge carries a run of tokens, and every sequence ends at one node. So the memory that the tree
// takes is bounded by what was put in: at most one edge token per token put, at most two nodes per
// sequence and one per owner. It knows no engine: what a sequence number means is the caller's.
//
// Owner: whoever made it; one thread at a time. Pure: no I/O, no clock, no globals.
#ifndef KV_PREFIX_H
#define KV_PREFIX_H

#include <stddef.h>
#include <stdint.h>

#define KV_PREFIX_SEQS_MAX 65536u // sequence numbers are below this

struct kv_prefix;

struct kv_prefix_hit {
    uint32_t seq;
    uint32_t length; // common tokens from the start, at least 1
};

struct kv_prefix *kv_prefix_new(void);
void kv_prefix_free(struct kv_prefix *p);
// From now on sequence `seq` (< KV_PREFIX_SEQS_MAX) of that owner is these n tokens; what it was is
// forgotten. The tokens are copied.
void kv_prefix_put(struct kv_prefix *p, const char *owner, uint32_t seq, const int32_t *tokens,
                   size_t n);
void kv_prefix_remove(struct kv_prefix *p, uint32_t seq); // a sequence that is not there is none
// The owner's sequences that begin like these tokens, the longest common beginning first (equals by
// sequence number); at most `max`. Returns how many.
size_t kv_prefix_find(const struct kv_prefix *p, const char *owner, const int32_t *tokens, size_t n,
                      struct kv_prefix_hit *hits, size_t max);
// What the tree takes: tokens on edges, nodes (roots included).
struct kv_prefix_size {
    size_t tokens, nodes, sequences;
};
struct kv_prefix_size kv_prefix_size_get(const struct kv_prefix *p);

#endif
