// The guess of what a worker holds, against an oracle that keeps whole prefixes and looks at all of them.
#include "sched/guess.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define B ((size_t)GUESS_BLOCK_TOKENS)
#define TOKENS_MAX (8 * B)
#define BLOCKS 6 // that are kept

// ---- the oracle -------------------------------------------------------------------------------------

// A prefix of whole blocks, and when it was last used.
struct kept {
    char owner[8];
    int32_t tokens[TOKENS_MAX];
    size_t n;
    unsigned long used;
};

struct oracle {
    struct kept kept[BLOCKS];
    size_t n;
    unsigned long clock;
};

static struct kept *oracle_find(struct oracle *o, const char *owner, const int32_t *tokens,
                                size_t n)
{
    for (size_t i = 0; i < o->n; i++)
        if (o->kept[i].n == n && strcmp(o->kept[i].owner, owner) == 0 &&
            memcmp(o->kept[i].tokens, tokens, n * sizeof(*tokens)) == 0)
            return &o->kept[i];
    return NULL;
}

static struct kept *oracle_take(struct oracle *o)
{
    struct kept *oldest = &o->kept[0];

    if (o->n < BLOCKS)
        return &o->kept[o->n++];
    for (size_t i = 1; i < BLOCKS; i++)
        if (o->kept[i].used < oldest->used)
            oldest = &o->kept[i];
    return oldest;
}

static void oracle_put(struct oracle *o, const char *owner, const int32_t *tokens, size_t n)
{
    for (size_t p = B; p <= n; p += B) {
        struct kept *k = oracle_find(o, owner, tokens, p);

        if (!k) {
            k = oracle_take(o);
            snprintf(k->owner, sizeof(k->owner), "%s", owner);
            memcpy(k->tokens, tokens, p * sizeof(*tokens));
            k->n = p;
        }
        k->used = ++o->clock;
    }
}

static size_t oracle_look(struct oracle *o, const char *owner, const int32_t *tokens, size_t n)
{
    size_t held = 0;

    for (size_t p = B; p <= n; p += B) {
        struct kept *k = oracle_find(o, owner, tokens, p);

        if (!k)
            break;
        k->used = ++o->clock;
        held = p;
    }
    return held;
}

static void oracle_drop(struct oracle *o, const char *owner, const int32_t *tokens, size_t n,
                        size_t from)
{
    for (size_t p = B; p <= n; p += B) {
        struct kept *k = p - B >= from ? oracle_find(o, owner, tokens, p) : NULL;

        if (k)
            *k = o->kept[--o->n];
    }
}

// ---- tests --------------------------------------------------------------------------------------------

// Few different blocks, so that prompts share beginnings.
static size_t prompt_make(int32_t *tokens)
{
    size_t n = (size_t)rand() % (TOKENS_MAX + 1);
    int32_t word = 0;

    for (size_t i = 0; i < n; i++) {
        if (i % B == 0)
            word = rand() % 2;
        tokens[i] = word;
    }
    return n;
}

static void test_against_oracle(void **state)
{
    static const char *const owners[] = {"", "a"};
    static struct oracle o;
    struct guess *g = guess_new(BLOCKS * B);
    int32_t tokens[TOKENS_MAX];

    (void)state;
    srand(7);
    for (int i = 0; i < 20000; i++) {
        const char *owner = owners[rand() % 2];
        size_t n = prompt_make(tokens);

        if (rand() % 2) {
            guess_put(g, owner, tokens, n);
            oracle_put(&o, owner, tokens, n);
        } else if (rand() % 4 == 0) {
            size_t from = (size_t)rand() % (TOKENS_MAX + 1);

            guess_drop(g, owner, tokens, n, from);
            oracle_drop(&o, owner, tokens, n, from);
        } else {
            assert_int_equal(guess_find(g, owner, tokens, n), oracle_look(&o, owner, tokens, n));
        }
    }
    guess_free(g);
}

static void test_whole_blocks(void **state)
{
    static const struct {
        size_t put, look, held;
    } rows[] = {
        {0, 200, 0},   {B - 1, B - 1, 0}, {B, B, B}, {B, B - 1, 0}, {3 * B + 5, 2 * B + 60, 2 * B},
        {B, 5 * B, B},
    };
    int32_t tokens[TOKENS_MAX];

    (void)state;
    for (size_t i = 0; i < TOKENS_MAX; i++)
        tokens[i] = (int32_t)i;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct guess *g = guess_new(TOKENS_MAX);

        guess_put(g, "", tokens, rows[i].put);
        assert_int_equal(guess_find(g, "", tokens, rows[i].look), rows[i].held);
        guess_free(g);
    }
}

// What a peer says of its room is no reason to allocate it.
static void test_room_is_bounded(void **state)
{
    int32_t tokens[2 * B] = {1};
    struct guess *g = guess_new((size_t)1 << 50);

    (void)state;
    guess_put(g, "", tokens, 2 * B);
    assert_int_equal(guess_find(g, "", tokens, 2 * B), 2 * B);
    guess_drop(g, "", tokens, 2 * B, B);
    assert_int_equal(guess_find(g, "", tokens, 2 * B), B);
    guess_free(g);
}

static void test_owners_and_clear(void **state)
{
    int32_t tokens[B] = {1, 2, 3};
    struct guess *g = guess_new(0);

    (void)state;
    guess_put(g, "one", tokens, B);
    assert_int_equal(guess_find(g, "two", tokens, B), 0);
    assert_int_equal(guess_find(g, "one", tokens, B), B);
    guess_clear(g);
    assert_int_equal(guess_find(g, "one", tokens, B), 0);
    guess_put(g, "one", tokens, B);
    assert_int_equal(guess_find(g, "one", tokens, B), B);
    guess_free(g);
    guess_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_oracle),
        cmocka_unit_test(test_whole_blocks),
        cmocka_unit_test(test_owners_and_clear),
        cmocka_unit_test(test_room_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
