// Forks and checkpoints, on every kind of cache: what goes on from them must equal what was computed without
// them. Bit for bit, but where llama.cpp puts the same rows into other cells of its cache: then sums are
// the same but for their order (the windows of sliding layers, rows that fill a hole).
#include "llama_archs.h"

#include "engine/llama_engine.h"

#include <math.h>

#define CHUNK 64u
#define BATCH                                                                                      \
    64u // small, so that the cache of a sliding window is soon full and its cells are used again

static void compute(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1)
{
    for (uint32_t p = p0; p < p1; p += CHUNK)
        rig_compute(g, seq, p, p + CHUNK);
}

static void empty(struct engine *g, uint32_t seq)
{
    struct err e = {0};
    assert_int_equal(g->ops->remove(g, seq, 0, UINT32_MAX, &e), 0);
}

static float *uncut(struct engine *g, uint32_t n)
{
    engine_llama_clear(g);
    compute(g, 0, 0, n);
    float *logits = rig_logits(g, 0, n);
    engine_llama_clear(g);
    return logits;
}

static int fork_of(struct engine *g, uint32_t src, uint32_t dst, uint32_t p1)
{
    struct err e = {0};
    int rc = g->ops->fork(g, src, dst, p1, &e);
    assert_true(rc == 0 || e.message[0] != '\0');
    return rc;
}

// ---- models that can be cut ---------------------------------------------------------------------

// A range that is left out moves the logits of these models by 7e-4.
static void same_sums(struct engine *g, float *got, const float *want)
{
    for (uint32_t i = 0; i < g->identity.n_vocab; i++)
        assert_true(fabsf(got[i] - want[i]) < 1e-4f);
    free(got);
}

static void a_fork_goes_on_as_its_source(void **state)
{
    struct engine *g = rig_open(ENGINE_HANDOFF_RANGES);
    (void)state;
    assert_true(g->limits.cuts);
    float *want = uncut(g, 256);
    compute(g, 0, 0, 320);
    assert_int_equal(fork_of(g, 0, 1, 192), 0);
    compute(g, 1, 192, 256);
    rig_same(g, rig_logits(g, 1, 256), want);
    empty(g, 1); // what they shared stays with the other
    assert_int_equal(fork_of(g, 0, 1, 192), 0);
    compute(g, 1, 192, 256);
    rig_same(g, rig_logits(g, 1, 256), want);
    free(want);
    g->ops->free(g);
}

static void a_fork_outlives_its_source(void **state)
{
    struct engine *g = archs_open("qwen3-dense.gguf", ENGINE_HANDOFF_RANGES, BATCH);
    (void)state;
    float *want = uncut(g, 256);
    compute(g, 0, 0, 320);
    assert_int_equal(fork_of(g, 0, 1, 192), 0);
    empty(g, 0);
    compute(g, 0, 0, 128); // into the cells that came free
    compute(g, 1, 192, 256);
    same_sums(g, rig_logits(g, 1, 256), want);
    empty(g, 0);
    assert_int_equal(fork_of(g, 1, 0, 256), 0);
    same_sums(g, rig_logits(g, 0, 256), want);
    free(want);
    g->ops->free(g);
}

static void a_settled_sequence_is_forked_as_well(void **state)
{
    struct engine *g = rig_open(ENGINE_HANDOFF_RANGES);
    struct err e = {0};
    (void)state;
    float *want = uncut(g, 256);
    compute(g, 0, 0, 256);
    assert_int_equal(g->ops->settle(g, 0, 300, &e), 0);
    assert_int_equal(fork_of(g, 0, 1, 192), 0);
    compute(g, 1, 192, 256);
    rig_same(g, rig_logits(g, 1, 256), want);
    rig_same(g, rig_logits(g, 0, 256), want);
    free(want);
    g->ops->free(g);
}

static void bad_forks_are_refused(void **state)
{
    struct engine *g = rig_open(ENGINE_HANDOFF_RANGES);
    (void)state;
    compute(g, 0, 0, 64);
    assert_int_equal(fork_of(g, 0, 0, 64), ERR_INVALID);
    assert_int_equal(fork_of(g, 0, 2, 64), ERR_INVALID);
    assert_int_equal(fork_of(g, 9, 1, 64), ERR_INVALID);
    assert_int_equal(fork_of(g, 0, 1, 65), ERR_INVALID);
    assert_int_equal(fork_of(g, 0, 1, 0), 0);
    compute(g, 1, 0, 64);
    assert_int_equal(fork_of(g, 0, 1, 64), ERR_INVALID);
    g->ops->free(g);
}

static void what_can_be_cut_needs_no_checkpoint(void **state)
{
    struct engine *g = rig_open(ENGINE_HANDOFF_RANGES);
    struct err e = {0};
    size_t len = 1;
    (void)state;
    float *want = uncut(g, 192);
    compute(g, 0, 0, 320);
    assert_int_equal(g->ops->checkpoint_bytes(g, 0), 0);
    assert_int_equal(g->ops->checkpoint_save(g, 0, NULL, 0, &len, &e), 0);
    assert_int_equal(len, 0);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 192, NULL, 0, &e), 0);
    rig_same(g, rig_logits(g, 0, 192), want);
    free(want);
    g->ops->free(g);
}

// ---- models that cannot -------------------------------------------------------------------------

struct checkpoint {
    uint8_t *data;
    size_t len;
    uint32_t p;
};

static struct checkpoint save(struct engine *g, uint32_t seq, uint32_t p)
{
    struct err e = {0};
    struct checkpoint c = {.p = p};
    size_t cap = g->ops->checkpoint_bytes(g, seq);
    assert_true(cap > 0);
    c.data = mem_alloc(cap);
    assert_int_equal(g->ops->checkpoint_save(g, seq, c.data, cap - 1, &c.len, &e), ERR_RANGE);
    if (g->ops->checkpoint_save(g, seq, c.data, cap, &c.len, &e) != 0)
        fail_msg("%s", e.message);
    assert_true(c.len > 0 && c.len <= cap);
    return c;
}

static void restore(struct engine *g, uint32_t seq, const struct checkpoint *c)
{
    struct err e = {0};
    if (g->ops->checkpoint_restore(g, seq, c->p, c->data, c->len, &e) != 0)
        fail_msg("%s", e.message);
}

static const char *const uncuttable[] = {"jamba-dense.gguf",  "mamba-dense.gguf",
                                         "qwen35-dense.gguf", "falcon-h1-dense.gguf",
                                         "gemma3-dense.gguf", "gpt-oss-moe.gguf"};

static void same_as(struct engine *g, float *got, const float *want)
{
    if (g->identity.n_swa > 0)
        same_sums(g, got, want);
    else
        rig_same(g, got, want);
}

// Far on, back, on again another way, back again.
static void a_checkpoint_leads_back(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof uncuttable / sizeof *uncuttable; m++) {
        struct engine *g = archs_open(uncuttable[m], ENGINE_HANDOFF_RANGES, BATCH);
        assert_false(g->limits.cuts);
        float *want = uncut(g, 256);
        compute(g, 0, 0, 192);
        struct checkpoint c = save(g, 0, 192);
        compute(g, 0, 192, 768);
        restore(g, 0, &c);
        compute(g, 0, 192, 256);
        same_as(g, rig_logits(g, 0, 256), want);
        restore(g, 0, &c);
        compute(g, 0, 192, 256);
        same_as(g, rig_logits(g, 0, 256), want);
        free(c.data);
        free(want);
        g->ops->free(g);
    }
}

// Two ways back, while another sequence computes; the older one is good after the newer one was used.
static void checkpoints_are_independent(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof uncuttable / sizeof *uncuttable; m++) {
        struct engine *g = archs_open(uncuttable[m], ENGINE_HANDOFF_RANGES, BATCH);
        float *at_2 = uncut(g, 128), *at_5 = uncut(g, 320);
        compute(g, 0, 0, 128);
        struct checkpoint early = save(g, 0, 128);
        compute(g, 0, 128, 320);
        struct checkpoint late = save(g, 0, 320);
        compute(g, 0, 320, 448);
        compute(g, 1, 0, 128);
        restore(g, 0, &late);
        same_as(g, rig_logits(g, 0, 320), at_5);
        restore(g, 0, &early);
        same_as(g, rig_logits(g, 0, 128), at_2);
        same_sums(g, rig_logits(g, 1, 128), at_2); // its row fills a hole
        free(early.data);
        free(late.data);
        free(at_2);
        free(at_5);
        g->ops->free(g);
    }
}

static void a_fork_of_what_cannot_be_cut_is_whole(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof uncuttable / sizeof *uncuttable; m++) {
        struct engine *g = archs_open(uncuttable[m], ENGINE_HANDOFF_RANGES, BATCH);
        float *want = uncut(g, 640);
        compute(g, 0, 0, 448);
        assert_int_equal(fork_of(g, 0, 1, 64), ERR_UNSUPPORTED);
        assert_int_equal(fork_of(g, 0, 1, 448), 0);
        compute(g, 0, 448, 640); // both go on, each on its own
        compute(g, 1, 448, 640);
        same_as(g, rig_logits(g, 1, 640), want);
        same_as(g, rig_logits(g, 0, 640), want);
        empty(g, 0);
        empty(g, 1);
        free(want);
        g->ops->free(g);
    }
}

static void bad_checkpoints_are_refused(void **state)
{
    struct engine *g = archs_open("jamba-dense.gguf", ENGINE_HANDOFF_RANGES, BATCH);
    struct err e = {0};
    (void)state;
    compute(g, 0, 0, 128);
    struct checkpoint c = save(g, 0, 128);
    assert_int_equal(g->ops->checkpoint_bytes(g, 2), 0);
    assert_int_equal(g->ops->checkpoint_save(g, 2, c.data, c.len, &c.len, &e), ERR_INVALID);
    assert_int_equal(g->ops->checkpoint_restore(g, 2, 128, c.data, c.len, &e), ERR_INVALID);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 64, c.data, c.len, &e), ERR_INVALID);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 192, c.data, c.len, &e), ERR_INVALID);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 0, c.data, c.len, &e), ERR_INVALID);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 128, c.data, 8, &e), ERR_INVALID);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 128, c.data, c.len - 5, &e), ERR_ENGINE);
    empty(g, 0); // as the contract has it after that
    compute(g, 0, 0, 64);
    free(c.data);
    g->ops->free(g);
}

// Its cache copies no ranges, and its partial state is not enough: nothing leads back but the start.
static void deepseek4_is_neither_cut_nor_forked(void **state)
{
    struct engine *g = archs_open("deepseek4-moe.gguf", ENGINE_HANDOFF_WHOLE, BATCH);
    struct err e = {0};
    size_t len = 0;
    (void)state;
    assert_false(g->limits.cuts);
    compute(g, 0, 0, 128);
    assert_int_equal(fork_of(g, 0, 1, 128), ERR_UNSUPPORTED);
    assert_int_equal(g->ops->checkpoint_bytes(g, 0), 0);
    assert_int_equal(g->ops->checkpoint_save(g, 0, NULL, 0, &len, &e), ERR_UNSUPPORTED);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 64, NULL, 0, &e), ERR_UNSUPPORTED);
    g->ops->free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fork_goes_on_as_its_source),
        cmocka_unit_test(a_fork_outlives_its_source),
        cmocka_unit_test(a_settled_sequence_is_forked_as_well),
        cmocka_unit_test(bad_forks_are_refused),
        cmocka_unit_test(what_can_be_cut_needs_no_checkpoint),
        cmocka_unit_test(a_checkpoint_leads_back),
        cmocka_unit_test(checkpoints_are_independent),
        cmocka_unit_test(a_fork_of_what_cannot_be_cut_is_whole),
        cmocka_unit_test(bad_checkpoints_are_refused),
        cmocka_unit_test(deepseek4_is_neither_cut_nor_forked),
    };
    static const char *const archs[] = {"gemma3",  "jamba",     "mamba", "falcon-h1",
                                        "gpt-oss", "deepseek4", "qwen3", "qwen35"};
    memcpy(archs_wanted, archs, sizeof archs);
    return cmocka_run_group_tests(tests, archs_make, archs_remove);
}
