// Sequences that live in a cache of their own: the same logits bit for bit on either side, whenever they
// moved, and whoever else computes in the same step.
#include "llama_rig.h"

#include "engine/llama_engine.h"

#include <stdio.h>

#define A 128
#define B 256

struct fixture {
    float *reference; // logits after the token at B, in the shared cache
    struct engine *p, *d;
};
static struct fixture f;

static struct engine *open4(void)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_RANGES);
    o.n_seq = 4;
    o.n_ctx = 2048;
    return rig_open_with(&o);
}

static int fixture_make(void **state)
{
    (void)state;
    f.p = open4();
    f.d = open4();
    rig_compute(f.p, 0, 0, A);
    rig_compute(f.p, 0, A, B);
    f.reference = rig_logits(f.p, 0, B);
    engine_llama_clear(f.p);
    return 0;
}

static int fixture_free(void **state)
{
    (void)state;
    f.p->ops->free(f.p);
    f.d->ops->free(f.d);
    free(f.reference);
    return 0;
}

static int clear(void **state)
{
    (void)state;
    engine_llama_clear(f.p);
    engine_llama_clear(f.d);
    return 0;
}

static void settle(struct engine *g, uint32_t seq)
{
    struct err e = {0};
    if (g->ops->settle(g, seq, B + 16, &e) != 0)
        fail_msg("%s", e.message);
}

static void a_settled_sequence_computes_the_same(void **state)
{
    (void)state;
    assert_true(f.d->limits.n_ctx_stream > B);
    for (uint32_t seq = 0; seq < f.d->limits.n_seq; seq++) {
        settle(f.d, seq);
        rig_compute(f.d, seq, 0, A);
        rig_compute(f.d, seq, A, B);
        rig_same(f.d, rig_logits(f.d, seq, B), f.reference);
    }
}

static void settling_late_changes_nothing(void **state)
{
    (void)state;
    for (uint32_t seq = 0; seq < f.d->limits.n_seq; seq++) {
        rig_compute(f.d, seq, 0, A);
        if (seq % 2 == 0)
            settle(f.d, seq);
        rig_compute(f.d, seq, A, B);
        settle(f.d, seq);
        settle(f.d, seq);
        rig_same(f.d, rig_logits(f.d, seq, B), f.reference);
    }
}

// Every sequence in turn, so that its cells stand behind and before those of others.
static void exports_bring_a_sequence_back(void **state)
{
    struct err e = {0};
    (void)state;
    for (uint32_t seq = 0; seq < f.d->limits.n_seq; seq++) {
        size_t len = 0, rest_len = 0;
        engine_llama_clear(f.p);
        settle(f.d, seq);
        rig_compute(f.d, seq, 0, A);
        rig_compute(f.d, seq, A, B);
        void *first = rig_export(f.d, seq, 0, A, false, &len);
        void *rest = rig_export(f.d, seq, A, B, true, &rest_len);
        assert_int_equal(f.p->ops->import(f.p, seq, 0, A, false, first, len, &e), 0);
        settle(f.p, seq);
        assert_int_equal(f.p->ops->import(f.p, seq, A, B, true, rest, rest_len, &e), 0);
        settle(f.p, seq);
        rig_same(f.p, rig_logits(f.p, seq, B), f.reference);
        rig_same(f.d, rig_logits(f.d, seq, B), f.reference);
        free(first);
        free(rest);
    }
}

// Two answers in one step, one on either side: each gets its own logits.
static void a_step_may_mix_both(void **state)
{
    struct err e = {0};
    float *alone[2];
    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        rig_compute(f.p, i, 0, A + i * 64);
        alone[i] = rig_logits(f.p, i, A + i * 64);
        engine_llama_clear(f.p); // each at the cache's start: sums are taken in blocks of cells
    }
    settle(f.d, 1);
    rig_compute(f.d, 0, 0, A);
    rig_compute(f.d, 1, 0, A + 64);
    const struct engine_row rows[2] = {
        {.token = rig_token(f.d, A + 64), .pos = A + 64, .seq = 1, .want_logits = true},
        {.token = rig_token(f.d, A), .pos = A, .seq = 0, .want_logits = true}};
    assert_int_equal(f.d->ops->step(f.d, rows, 2, &e), 0);
    assert_memory_equal(f.d->ops->logits(f.d, 0), alone[1], f.d->identity.n_vocab * sizeof(float));
    assert_memory_equal(f.d->ops->logits(f.d, 1), alone[0], f.d->identity.n_vocab * sizeof(float));
    free(alone[0]);
    free(alone[1]);
}

static void removing_works_on_either_side(void **state)
{
    struct err e = {0};
    (void)state;
    settle(f.d, 2);
    rig_compute(f.d, 2, 0, A);
    rig_compute(f.d, 2, A, B);
    assert_int_equal(f.d->ops->remove(f.d, 2, A, UINT32_MAX, &e), 0);
    rig_compute(f.d, 2, A, B);
    rig_same(f.d, rig_logits(f.d, 2, B), f.reference);
    assert_int_equal(f.d->ops->remove(f.d, 2, 0, UINT32_MAX, &e), 0);
    rig_compute(f.d, 2, 0, A); // empty sequences begin in the shared cache again
    rig_compute(f.d, 2, A, B);
    rig_same(f.d, rig_logits(f.d, 2, B), f.reference);
}

static void what_does_not_fit_stays(void **state)
{
    struct err e = {0};
    (void)state;
    rig_compute(f.d, 0, 0, A);
    assert_int_equal(f.d->ops->settle(f.d, 0, f.d->limits.n_ctx_stream + 1, &e), 0);
    assert_int_equal(f.d->ops->settle(f.d, 0, A - 1, &e), 0);
    rig_compute(f.d, 0, A, B);
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
    assert_int_equal(f.d->ops->settle(f.d, f.d->limits.n_seq, 1, &e), ERR_INVALID);
}

struct meanwhile {
    unsigned calls, refused;
    uint32_t pos; // of the sequence that goes on
};

// Between two layers of sequence 0's chunk: the next token of sequence 1, which is settled, and an attempt
// at sequence 2, which is not.
static void meanwhile(void *ctx)
{
    struct meanwhile *m = ctx;
    struct err e = {0};
    struct engine_row settled = {rig_token(f.d, m->pos), m->pos, 1, true};
    struct engine_row other = {rig_token(f.d, 0), 0, 2, true};
    m->calls++;
    if (f.d->ops->step(f.d, &settled, 1, &e) != 0)
        fail_msg("%s", e.message);
    m->pos++;
    m->refused += f.d->ops->step(f.d, &other, 1, &e) == ERR_INVALID;
}

static void a_settled_sequence_goes_on_inside_a_chunk(void **state)
{
    struct meanwhile m = {.pos = A};
    (void)state;
    rig_compute(f.d, 1, 0, A);
    settle(f.d, 1);
    assert_true(f.d->ops->settled(f.d, 1));
    assert_false(f.d->ops->settled(f.d, 0));
    f.d->ops->between_set(f.d, meanwhile, &m);
    rig_compute(f.d, 0, 0, A); // both are being computed at once from here on
    f.d->ops->between_set(f.d, NULL, NULL);
    assert_int_equal(m.calls, f.d->identity.n_layer);
    assert_int_equal(m.refused, m.calls);
    // The one whose chunk was paused is as ever.
    rig_compute(f.d, 0, A, B);
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
    // And so is the other one: token by token, as it would have been by itself.
    rig_compute(f.p, 1, 0, A);
    settle(f.p, 1);
    for (uint32_t p = A; p < m.pos; p++)
        free(rig_logits(f.p, 1, p));
    float *alone = rig_logits(f.p, 1, m.pos);
    rig_same(f.d, rig_logits(f.d, 1, m.pos), alone);
    free(alone);
}

// Two answers that share a cache, with the step that has both: the logits of the first.
static void shared_step(struct engine *g, struct meanwhile *m)
{
    struct err e = {0};
    rig_compute(g, 1, 0, A);
    settle(g, 1);
    rig_compute(g, 0, 0, A);
    rig_compute(g, 3, 0, A + 1);
    struct engine_row rows[2] = {{rig_token(g, A), A, 0, true},
                                 {rig_token(g, A + 1), A + 1, 3, true}};
    if (m != NULL)
        g->ops->between_set(g, meanwhile, m);
    assert_int_equal(g->ops->step(g, rows, 2, &e), 0);
    g->ops->between_set(g, NULL, NULL);
}

// The same inside the step of two answers that share the cache.
static void a_settled_sequence_goes_on_inside_a_step(void **state)
{
    struct meanwhile m = {.pos = A};
    (void)state;
    shared_step(f.p, NULL);
    shared_step(f.d, &m);
    assert_int_equal(m.calls, f.d->identity.n_layer);
    assert_int_equal(m.refused, m.calls);
    for (size_t i = 0; i < 2; i++)
        assert_memory_equal(f.d->ops->logits(f.d, i), f.p->ops->logits(f.p, i),
                            f.d->identity.n_vocab * sizeof(float));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_settled_sequence_computes_the_same, clear),
        cmocka_unit_test_setup(settling_late_changes_nothing, clear),
        cmocka_unit_test_setup(exports_bring_a_sequence_back, clear),
        cmocka_unit_test_setup(a_step_may_mix_both, clear),
        cmocka_unit_test_setup(removing_works_on_either_side, clear),
        cmocka_unit_test_setup(a_settled_sequence_goes_on_inside_a_chunk, clear),
        cmocka_unit_test_setup(a_settled_sequence_goes_on_inside_a_step, clear),
        cmocka_unit_test_setup(what_does_not_fit_stays, clear),
    };
    return cmocka_run_group_tests(tests, fixture_make, fixture_free);
}
