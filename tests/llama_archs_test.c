// The llama.cpp engine with tiny random models of other kinds of cache: a recurrent state that travels
// once, a window that slides, a cache that crosses whole. llama.cpp's own generator makes the models.
#include "llama_archs.h"

#include "engine/llama_engine.h"

#include <math.h>
#include <pthread.h>

// [0, n) in pieces of 64, each exported when it is computed (late: when all are).
struct transfer {
    void *data[16];
    size_t len[16];
    uint32_t n;
};

static void transfer_make(struct engine *p, struct transfer *t, uint32_t n, bool late)
{
    t->n = n / 64;
    for (uint32_t i = 0; i < t->n; i++) {
        rig_compute(p, 0, 64 * i, 64 * (i + 1));
        if (!late)
            t->data[i] = rig_export(p, 0, 64 * i, 64 * (i + 1), i + 1 == t->n, &t->len[i]);
    }
    for (uint32_t i = 0; late && i < t->n; i++)
        t->data[i] = rig_export(p, 0, 64 * i, 64 * (i + 1), i + 1 == t->n, &t->len[i]);
}

static int transfer_import(struct engine *d, const struct transfer *t, uint32_t i)
{
    struct err e = {0};
    return d->ops->import(d, 0, 64 * i, 64 * (i + 1), i + 1 == t->n, t->data[i], t->len[i], &e);
}

static void transfer_free(struct transfer *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        free(t->data[i]);
}

static float *reference(struct engine *g, uint32_t n)
{
    for (uint32_t p = 0; p < n; p += 64)
        rig_compute(g, 0, p, p + 64);
    float *logits = rig_logits(g, 0, n);
    engine_llama_clear(g);
    return logits;
}

static void late_state_travels_once(void **state)
{
    static const char *const models[] = {"jamba-dense.gguf", "mamba-dense.gguf"};
    (void)state;
    for (size_t m = 0; m < 2; m++) {
        struct engine *p = archs_open(models[m], ENGINE_HANDOFF_LATE_STATE, 512);
        struct engine *d = archs_open(models[m], ENGINE_HANDOFF_LATE_STATE, 512);
        struct err e = {0};
        struct transfer t;
        float *want = reference(d, 256);
        transfer_make(p, &t, 256, false);
        assert_true(p->limits.state_bytes > 1000);
        assert_true(t.len[0] + p->limits.state_bytes ==
                    t.len[3] - 8); // a state has 8 bytes of its own
        for (uint32_t i = 0; i < 3; i++) {
            assert_int_equal(transfer_import(d, &t, i), 0);
            // Half a transfer is nothing to go on from, and says so.
            assert_int_equal(rig_step(d, 0, 64 * (i + 1), 64 * (i + 1) + 1, true, &e),
                             ERR_UNSUPPORTED);
            assert_int_equal(d->ops->remove(d, 0, 64 * (i + 1), UINT32_MAX, &e), ERR_UNSUPPORTED);
        }
        assert_int_equal(d->ops->import(d, 0, 192, 256, false, t.data[3], t.len[3], &e),
                         ERR_CORRUPT);
        assert_int_equal(transfer_import(d, &t, 3), 0);
        assert_int_equal(d->ops->remove(d, 0, 256, UINT32_MAX, &e), 0);
        rig_same(d, rig_logits(d, 0, 256), want);
        // From the start again, by itself.
        assert_int_equal(d->ops->remove(d, 0, 100, UINT32_MAX, &e), ERR_UNSUPPORTED);
        assert_int_equal(d->ops->remove(d, 0, 0, UINT32_MAX, &e), 0);
        assert_int_equal(transfer_import(d, &t, 0), 0);
        assert_int_equal(d->ops->remove(d, 0, 0, UINT32_MAX, &e), 0);
        float *again = reference(d, 256);
        rig_same(d, again, want);
        transfer_free(&t);
        free(want);
        p->ops->free(p);
        d->ops->free(d);
    }
}

static void a_state_is_exported_where_it_stands(void **state)
{
    struct engine *p = archs_open("jamba-dense.gguf", ENGINE_HANDOFF_RANGES, 512);
    struct err e = {0};
    uint8_t buf[8];
    (void)state;
    rig_compute(p, 0, 0, 64);
    rig_compute(p, 0, 64, 128);
    assert_int_equal(p->ops->export_start(p, 0, 0, 64, false, buf, sizeof buf, &e), ERR_INVALID);
    engine_llama_handoff_set(p, ENGINE_HANDOFF_LATE_STATE);
    assert_int_equal(p->ops->export_start(p, 0, 0, 64, true, buf, sizeof buf, &e), ERR_INVALID);
    p->ops->free(p);
}

static void *interrupt_soon(void *ctx)
{
    struct engine *g = ctx;
    usleep(2000);
    g->ops->interrupt(g, true);
    return NULL;
}

// A recurrent state cannot be taken back, so a step that runs is finished.
static void recurrent_models_are_interrupted_between_steps(void **state)
{
    struct engine *g = archs_open("mamba-dense.gguf", ENGINE_HANDOFF_NONE, 512);
    pthread_t thread;
    struct err e = {0};
    uint32_t at = 0;
    int rc = 0;
    (void)state;
    float *want = reference(g, 640);
    assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, g), 0);
    while (rc == 0 && at < 640) {
        rc = rig_step(g, 0, at, at + 64, false, &e);
        at += rc == 0 ? 64 : 0;
    }
    pthread_join(thread, NULL);
    assert_true(rc == 0 || rc == ERR_CANCELLED);
    assert_int_equal(rig_step(g, 0, at, at + 64, false, &e), ERR_CANCELLED);
    g->ops->interrupt(g, false);
    for (; at < 640; at += 64)
        rig_compute(g, 0, at, at + 64);
    rig_same(g, rig_logits(g, 0, 640), want);
    free(want);
    g->ops->free(g);
}

// A window's cells are used again in the order in which they come free, which imports do not follow: sums
// are the same but for their order. A missing range moves the logits of this model by 7e-4.
static void rig_close(struct engine *g, float *got, const float *want)
{
    for (uint32_t i = 0; i < g->identity.n_vocab; i++)
        assert_true(fabsf(got[i] - want[i]) < 1e-4f);
    free(got);
}

// The cache of a sliding window holds the windows of all sequences and one batch, here a small one.
static void a_window_that_was_lost_is_not_gone_on_from(void **state)
{
    struct engine *p = archs_open("gemma3-dense.gguf", ENGINE_HANDOFF_RANGES, 64);
    struct engine *d = archs_open("gemma3-dense.gguf", ENGINE_HANDOFF_RANGES, 64);
    struct transfer soon, late;
    struct err e = {0};
    uint32_t n_swa = p->identity.n_swa;
    (void)state;
    assert_true(n_swa > 0 && n_swa < 256);
    float *at_3 = reference(d, 192), *at_12 = reference(d, 768);
    transfer_make(p, &soon, 768, false);
    engine_llama_clear(p);
    transfer_make(p, &late, 768, true);
    // Exported in time: every range is a place to go on from.
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(transfer_import(d, &soon, i), 0);
        assert_int_equal(d->ops->remove(d, 0, 64 * (i + 1), UINT32_MAX, &e), 0);
    }
    rig_same(d, rig_logits(d, 0, 192), at_3);
    // Exported when the cache had already reused cells: good at the end, refused before.
    assert_int_equal(d->ops->remove(d, 0, 0, UINT32_MAX, &e), 0);
    bool refused = false;
    for (uint32_t i = 0; i < late.n; i++) {
        assert_int_equal(transfer_import(d, &late, i), 0);
        refused |= d->ops->remove(d, 0, 64 * (i + 1), UINT32_MAX, &e) == ERR_UNSUPPORTED;
    }
    assert_true(refused);
    rig_close(d, rig_logits(d, 0, 768), at_12);
    assert_int_equal(d->ops->remove(d, 0, 64, UINT32_MAX, &e), ERR_UNSUPPORTED);
    assert_int_equal(d->ops->remove(d, 0, 0, UINT32_MAX, &e), 0);
    transfer_free(&soon);
    transfer_free(&late);
    free(at_3);
    free(at_12);
    p->ops->free(p);
    d->ops->free(d);
}

static void deepseek4_crosses_whole(void **state)
{
    struct engine *p = archs_open("deepseek4-moe.gguf", ENGINE_HANDOFF_WHOLE, 512);
    struct engine *d = archs_open("deepseek4-moe.gguf", ENGINE_HANDOFF_WHOLE, 512);
    struct err e = {0};
    size_t len = 0;
    uint8_t small[8];
    (void)state;
    float *want = reference(d, 256);
    for (uint32_t at = 0; at < 256; at += 64)
        rig_compute(p, 0, at, at + 64);
    assert_int_equal(p->ops->export_start(p, 0, 64, 256, true, small, sizeof small, &e),
                     ERR_UNSUPPORTED);
    assert_int_equal(p->ops->export_start(p, 0, 0, 64, true, small, sizeof small, &e), ERR_INVALID);
    uint8_t *data = rig_export(p, 0, 0, 256, true, &len);
    for (size_t cut = 0; cut < len; cut += 997)
        assert_int_not_equal(d->ops->import(d, 0, 0, 256, true, data, cut, &e), 0);
    assert_int_equal(d->ops->import(d, 1, 0, 256, true, data, len, &e), 0);
    rig_same(d, rig_logits(d, 1, 256), want);
    free(data);
    free(want);
    p->ops->free(p);
    d->ops->free(d);
}

// A table of positions has an end, where llama.cpp would abort.
static void learned_positions_bound_the_context(void **state)
{
    struct engine *g = archs_open("gpt2-dense.gguf", ENGINE_HANDOFF_RANGES, 64);
    struct err e = {0};
    uint32_t most = g->identity.n_ctx_train;
    (void)state;
    assert_true(most > 0 && most < RIG_CTX && most % 64 == 0);
    assert_int_equal(g->limits.n_ctx, most);
    for (uint32_t p = 0; p < most; p += 64)
        rig_compute(g, 0, p, p + 64);
    assert_int_equal(rig_step(g, 0, most, most + 1, true, &e), ERR_BUSY);
    g->ops->free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(late_state_travels_once),
        cmocka_unit_test(a_state_is_exported_where_it_stands),
        cmocka_unit_test(recurrent_models_are_interrupted_between_steps),
        cmocka_unit_test(a_window_that_was_lost_is_not_gone_on_from),
        cmocka_unit_test(deepseek4_crosses_whole),
        cmocka_unit_test(learned_positions_bound_the_context),
    };
    static const char *const archs[] = {"gemma3", "jamba", "mamba", "deepseek4", "gpt2"};
    memcpy(archs_wanted, archs, sizeof archs);
    return cmocka_run_group_tests(tests, archs_make, archs_remove);
}
