#include "sched/guess.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX
#define BUCKETS_PER_BLOCK 2

// A block that was seen: in a chain of its bucket, and in a ring by age.
struct block {
    uint64_t hash;
    uint32_t next; // in its bucket
    uint32_t newer, older;
};

struct guess {
    struct block *blocks;
    uint32_t *buckets;
    size_t n_blocks, n_buckets, used;
    uint32_t newest, oldest;
    uint32_t dropped; // a chain by `next` of blocks that are free again
};

struct guess *guess_new(size_t tokens)
{
    struct guess *g = mem_alloc(sizeof(*g));
    size_t n = (tokens < GUESS_TOKENS_MAX ? tokens : GUESS_TOKENS_MAX) / GUESS_BLOCK_TOKENS;

    g->n_blocks = n > 0 ? n : 1;
    g->n_buckets = 1;
    while (g->n_buckets < BUCKETS_PER_BLOCK * g->n_blocks)
        g->n_buckets *= 2;
    g->blocks = mem_alloc(g->n_blocks * sizeof(*g->blocks));
    g->buckets = mem_alloc(g->n_buckets * sizeof(*g->buckets));
    guess_clear(g);
    return g;
}

void guess_free(struct guess *g)
{
    if (!g)
        return;
    free(g->blocks);
    free(g->buckets);
    free(g);
}

void guess_clear(struct guess *g)
{
    memset(g->buckets, 0xff, g->n_buckets * sizeof(*g->buckets));
    g->used = 0;
    g->newest = g->oldest = g->dropped = NONE;
}

// ---- hashing ------------------------------------------------------------------------------------------

// FNV-1a over words with a final mix (the one of splitmix64): collisions cost a wrong guess, no more.
static uint64_t hash_word(uint64_t h, uint64_t word)
{
    return (h ^ word) * 0x100000001b3u;
}

static uint64_t hash_mix(uint64_t h)
{
    h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
    h = (h ^ h >> 27) * 0x94d049bb133111ebu;
    return h ^ h >> 31;
}

static uint64_t hash_owner(const char *owner)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (; *owner; owner++)
        h = hash_word(h, (unsigned char)*owner);
    return hash_mix(h);
}

static uint64_t hash_block(uint64_t h, const int32_t *tokens)
{
    for (size_t i = 0; i < GUESS_BLOCK_TOKENS; i++)
        h = hash_word(h, (uint32_t)tokens[i]);
    return hash_mix(h);
}

// ---- blocks by hash and by age --------------------------------------------------------------------------

static uint32_t *bucket_of(struct guess *g, uint64_t hash)
{
    return &g->buckets[hash & (g->n_buckets - 1)];
}

static uint32_t block_find(struct guess *g, uint64_t hash)
{
    uint32_t i = *bucket_of(g, hash);

    while (i != NONE && g->blocks[i].hash != hash)
        i = g->blocks[i].next;
    return i;
}

static void age_unlink(struct guess *g, uint32_t i)
{
    struct block *b = &g->blocks[i];

    if (b->newer != NONE)
        g->blocks[b->newer].older = b->older;
    else
        g->newest = b->older;
    if (b->older != NONE)
        g->blocks[b->older].newer = b->newer;
    else
        g->oldest = b->newer;
}

static void age_link(struct guess *g, uint32_t i)
{
    struct block *b = &g->blocks[i];

    b->newer = NONE;
    b->older = g->newest;
    if (g->newest != NONE)
        g->blocks[g->newest].newer = i;
    else
        g->oldest = i;
    g->newest = i;
}

static void block_unlink(struct guess *g, uint32_t i)
{
    uint32_t *at = bucket_of(g, g->blocks[i].hash);

    age_unlink(g, i);
    while (*at != i)
        at = &g->blocks[*at].next;
    *at = g->blocks[i].next;
}

static void block_drop(struct guess *g, uint32_t i)
{
    block_unlink(g, i);
    g->blocks[i].next = g->dropped;
    g->dropped = i;
}

// A block to write to: a fresh one, or the one used longest ago.
static uint32_t block_take(struct guess *g)
{
    uint32_t i = g->dropped;

    if (i != NONE) {
        g->dropped = g->blocks[i].next;
        return i;
    }
    if (g->used < g->n_blocks)
        return (uint32_t)g->used++;
    i = g->oldest;
    block_unlink(g, i);
    return i;
}

static void block_add(struct guess *g, uint64_t hash)
{
    uint32_t i = block_take(g), *bucket = bucket_of(g, hash);

    g->blocks[i].hash = hash;
    g->blocks[i].next = *bucket;
    *bucket = i;
    age_link(g, i);
}

static void block_use(struct guess *g, uint32_t i)
{
    age_unlink(g, i);
    age_link(g, i);
}

// ---- prompts ------------------------------------------------------------------------------------------

void guess_put(struct guess *g, const char *owner, const int32_t *tokens, size_t n)
{
    uint64_t h = hash_owner(owner);

    for (size_t p = 0; p + GUESS_BLOCK_TOKENS <= n; p += GUESS_BLOCK_TOKENS) {
        uint32_t i;

        h = hash_block(h, tokens + p);
        i = block_find(g, h);
        if (i != NONE)
            block_use(g, i);
        else
            block_add(g, h);
    }
}

// A block in the middle may have gone for its age, and others behind it not yet.
void guess_drop(struct guess *g, const char *owner, const int32_t *tokens, size_t n, size_t from)
{
    uint64_t h = hash_owner(owner);

    for (size_t p = 0; p + GUESS_BLOCK_TOKENS <= n; p += GUESS_BLOCK_TOKENS) {
        uint32_t i;

        h = hash_block(h, tokens + p);
        i = p >= from ? block_find(g, h) : NONE;
        if (i != NONE)
            block_drop(g, i);
    }
}

uint32_t guess_find(struct guess *g, const char *owner, const int32_t *tokens, size_t n)
{
    uint64_t h = hash_owner(owner);
    size_t p = 0;

    for (; p + GUESS_BLOCK_TOKENS <= n; p += GUESS_BLOCK_TOKENS) {
        uint32_t i;

        h = hash_block(h, tokens + p);
        i = block_find(g, h);
        if (i == NONE)
            break;
        block_use(g, i);
    }
    return p < UINT32_MAX ? (uint32_t)p : UINT32_MAX;
}
