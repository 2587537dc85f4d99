// The radix tree of prefixes against an oracle that keeps plain arrays and compares token by token.
#include "base/buf.h"
#include "kv/prefix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static uint32_t random_state = 2463534242u;

static uint32_t random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return (uint32_t)(((uint64_t)random_state * n) >> 32);
}

#define SEQS 24
#define TOKENS 40
static const char *const owners[] = {"", "a", "b"};

struct plain {
    bool there;
    unsigned owner;
    int32_t tokens[TOKENS];
    size_t n;
};

static size_t plain_common(const struct plain *s, const int32_t *tokens, size_t n)
{
    size_t i = 0;
    while (i < n && i < s->n && s->tokens[i] == tokens[i])
        i++;
    return i;
}

// Few tokens, so that prefixes are shared; often another sequence's beginning with a new end.
static size_t tokens_make(const struct plain *all, int32_t *out)
{
    size_t n = random_below(TOKENS + 1), kept = 0;
    const struct plain *other = &all[random_below(SEQS)];
    if (other->there && random_below(4) > 0) {
        kept = random_below((uint32_t)other->n + 1);
        kept = kept < n ? kept : n;
        memcpy(out, other->tokens, kept * sizeof *out);
    }
    for (size_t i = kept; i < n; i++)
        out[i] = (int32_t)random_below(3) - 1;
    return n;
}

static void find_check(const struct kv_prefix *p, const struct plain *all, const int32_t *tokens,
                       size_t n)
{
    struct kv_prefix_hit hits[SEQS];
    unsigned owner = random_below(3);
    size_t max = 1 + random_below(SEQS);
    size_t got = kv_prefix_find(p, owners[owner], tokens, n, hits, max), want = 0;
    bool seen[SEQS] = {false};
    size_t least = TOKENS + 1;

    for (size_t i = 0; i < SEQS; i++)
        want += all[i].there && all[i].owner == owner && plain_common(&all[i], tokens, n) > 0;
    assert_int_equal(got, want < max ? want : max);
    for (size_t i = 0; i < got; i++) {
        const struct plain *s = &all[hits[i].seq];
        assert_true(s->there && s->owner == owner && !seen[hits[i].seq]);
        assert_int_equal(hits[i].length, plain_common(s, tokens, n));
        if (i > 0)
            assert_true(hits[i - 1].length > hits[i].length ||
                        (hits[i - 1].length == hits[i].length && hits[i - 1].seq < hits[i].seq));
        seen[hits[i].seq] = true;
        least = hits[i].length;
    }
    for (size_t i = 0; got > 0 && i < SEQS; i++) // what was left out is no better
        if (all[i].there && all[i].owner == owner && !seen[i])
            assert_true(plain_common(&all[i], tokens, n) <= least);
}

static void size_check(const struct kv_prefix *p, const struct plain *all)
{
    struct kv_prefix_size size = kv_prefix_size_get(p);
    size_t tokens = 0, sequences = 0;
    for (size_t i = 0; i < SEQS; i++) {
        sequences += all[i].there;
        tokens += all[i].there ? all[i].n : 0;
    }
    assert_int_equal(size.sequences, sequences);
    assert_true(size.tokens <= tokens);
    assert_true(size.nodes <= 2 * sequences + 3);
    assert_true(sequences > 0 || size.nodes == 0);
}

static void test_oracle(void **state)
{
    (void)state;
    static struct plain all[SEQS];
    struct kv_prefix *p = kv_prefix_new();
    int32_t tokens[TOKENS];

    for (int round = 0; round < 60000; round++) {
        uint32_t seq = random_below(SEQS);
        size_t n = tokens_make(all, tokens);
        if (random_below(3) == 0) {
            kv_prefix_remove(p, seq);
            all[seq].there = false;
        } else if (random_below(2) == 0) {
            unsigned owner = random_below(3);
            kv_prefix_put(p, owners[owner], seq, tokens, n);
            all[seq] = (struct plain){.there = n > 0, .owner = owner, .n = n};
            memcpy(all[seq].tokens, tokens, n * sizeof *tokens);
        }
        find_check(p, all, tokens, n);
        size_check(p, all);
    }
    for (uint32_t i = 0; i < SEQS; i++)
        kv_prefix_remove(p, i);
    assert_int_equal(kv_prefix_size_get(p).nodes, 0);
    assert_int_equal(kv_prefix_size_get(p).tokens, 0);
    kv_prefix_free(p);
}

static void test_edges(void **state)
{
    (void)state;
    static const int32_t t[] = {5, 6, 7, 8};
    struct kv_prefix_hit hit[2];
    struct kv_prefix *p = kv_prefix_new();

    kv_prefix_remove(p, 7); // nothing there
    assert_int_equal(kv_prefix_find(p, "", t, 4, hit, 2), 0);
    kv_prefix_put(p, "", 0, t, 0);
    assert_int_equal(kv_prefix_size_get(p).sequences, 0);
    kv_prefix_put(p, "", KV_PREFIX_SEQS_MAX, t, 4); // beyond the limit: not taken
    assert_int_equal(kv_prefix_size_get(p).sequences, 0);
    kv_prefix_put(p, "me", 1, t, 4);
    kv_prefix_put(p, "me", 2, t, 4); // the same tokens twice take one edge
    assert_int_equal(kv_prefix_size_get(p).tokens, 4);
    assert_int_equal(kv_prefix_find(p, "me", t, 3, hit, 2), 2);
    assert_true(hit[0].seq == 1 && hit[0].length == 3 && hit[1].seq == 2);
    assert_int_equal(kv_prefix_find(p, "you", t, 4, hit, 2), 0);
    assert_int_equal(kv_prefix_find(p, "me", t, 4, hit, 0), 0);
    assert_int_equal(kv_prefix_find(p, "me", t, 0, hit, 2), 0);
    kv_prefix_free(p);
    kv_prefix_free(NULL);
}

// A conversation that grows for ever keeps the tree small: each turn takes the place of the last.
static void test_long_conversation(void **state)
{
    (void)state;
    size_t n = 100000;
    int32_t *tokens = mem_alloc(n * sizeof *tokens);
    struct kv_prefix_hit hit;
    struct kv_prefix *p = kv_prefix_new();

    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)random_below(50000);
    for (size_t turn = 1000; turn <= n; turn += 1000)
        kv_prefix_put(p, "", 3, tokens, turn);
    assert_int_equal(kv_prefix_size_get(p).nodes, 2);
    assert_int_equal(kv_prefix_size_get(p).tokens, n);
    tokens[n - 1] ^= 1;
    assert_int_equal(kv_prefix_find(p, "", tokens, n, &hit, 1), 1);
    assert_int_equal(hit.length, n - 1);
    kv_prefix_free(p);
    free(tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_long_conversation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
