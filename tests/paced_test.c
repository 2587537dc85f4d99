// The paced wrapper: it must change when a step returns and nothing else. Times are checked from
// below only (a wait that is too short is a bug; a slow machine is not).
#include "base/buf.h"
#include "base/clock.h"
#include "engine/fake.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct engine *open_paced(const char *model, double prefill, double decode)
{
    struct engine_options o;
    struct engine *g = NULL;
    engine_options_default(&o);
    o.model = model;
    o.handoff = ENGINE_HANDOFF_RANGES;
    assert_int_equal(engine_fake_open(&o, &g, NULL), 0);
    return engine_paced_new(g, prefill, decode);
}

static int step_n(struct engine *g, uint32_t seq, uint32_t p0, uint32_t n, uint32_t logits)
{
    struct engine_row rows[64];
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct engine_row){(int32_t)i, p0 + i, seq, i >= n - logits};
    return g->ops->step(g, rows, n, NULL);
}

static void a_step_fills_its_slot(void **state)
{
    static const struct {
        double prefill, decode; // tokens/s
        uint32_t n, logits;
        int64_t slot_us;
    } cases[] = {
        {1000, 100, 10, 0, 10000}, // 10 prompt tokens of 1 ms
        {1000, 100, 1, 1, 10000},  // one decode step
        {1000, 100, 4, 4, 10000},  // a batch of four is one decode step
        {1000, 100, 11, 1, 20000}, // a prompt and its last token
        {0, 100, 10, 0, 0},        // native speed
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct engine *g = open_paced("fake", cases[i].prefill, cases[i].decode);
        int64_t start = clock_now_ns();
        assert_int_equal(step_n(g, 0, 0, cases[i].n, cases[i].logits), 0);
        assert_true(clock_now_ns() - start >= cases[i].slot_us * NS_PER_US);
        assert_int_equal(engine_pace_get(g).steps, 1);
        g->ops->free(g);
    }
}

static void overruns_are_counted(void **state)
{
    struct engine *g = open_paced("fake:prefill_us=3000", 1000, 100), *plain;
    (void)state;
    assert_int_equal(step_n(g, 0, 0, 2, 0), 0); // 6 ms of work in a slot of 2
    assert_int_equal(step_n(g, 0, 2, 1, 1), 0);
    struct engine_pace_counts c = engine_pace_get(g);
    assert_int_equal(c.steps, 2);
    assert_true(c.overruns >= 1);
    assert_true(c.worst_ratio >= 3);
    g->ops->free(g);
    struct engine_options o;
    engine_options_default(&o);
    o.model = "fake";
    assert_int_equal(engine_fake_open(&o, &plain, NULL), 0);
    assert_int_equal(engine_pace_get(plain).steps, 0);
    plain->ops->free(plain);
}

static void everything_passes_through(void **state)
{
    struct engine *p = open_paced("fake", 1e6, 1e6), *d = open_paced("fake", 1e6, 1e6);
    struct engine_sampling s;
    struct engine_sampler *sampler;
    float want[258];
    size_t cap, len = 0;
    (void)state;
    assert_int_equal(step_n(p, 0, 0, 20, 0), 0);
    cap = p->ops->export_bytes(p, 0, 0, 20, true);
    uint8_t *buf = mem_alloc(cap);
    assert_int_equal(p->ops->export_start(p, 0, 0, 20, true, buf, cap, NULL), 0);
    while (p->ops->export_poll(p, &len, NULL) == ENGINE_EXPORT_BUSY)
        ;
    assert_int_equal(d->ops->import(d, 3, 0, 20, true, buf, len, NULL), 0);
    assert_int_equal(step_n(p, 0, 20, 1, 1), 0);
    memcpy(want, p->ops->logits(p, 0), sizeof want);
    assert_int_equal(step_n(d, 3, 20, 1, 1), 0);
    assert_memory_equal(want, d->ops->logits(d, 0), sizeof want);
    engine_sampling_default(&s);
    assert_int_equal(d->ops->sampler_new(d, &s, &sampler, NULL), 0);
    assert_in_range(d->ops->sample(d, sampler, 0), 0, 257);
    d->ops->sampler_free(d, sampler);
    assert_int_equal(engine_identity_compare(&p->identity, &d->identity, true, NULL), 0);
    free(buf);
    p->ops->free(p);
    d->ops->free(d);
}

struct tile_times {
    size_t n;
    int64_t at[8];
};

static void on_tile(void *ctx, uint32_t layer, const void *data, size_t n)
{
    struct tile_times *t = ctx;
    (void)data;
    (void)n;
    assert_int_equal(layer, t->n);
    t->at[t->n++] = clock_now_ns();
}

// No layer may be seen before the emulated machine would have computed it.
static void tiles_come_no_earlier_than_their_share(void **state)
{
    struct engine *g = open_paced("fake", 1000, 100);
    struct tile_times t = {0};
    (void)state;
    assert_int_equal(g->ops->tiles_set(g, on_tile, &t), 0);
    int64_t start = clock_now_ns();
    assert_int_equal(step_n(g, 0, 0, 10, 0), 0);
    assert_int_equal(t.n, 4);
    for (size_t i = 0; i < 4; i++)
        assert_true(t.at[i] - start >= (int64_t)(i + 1) * 10 * NS_PER_MS / 5);
    g->ops->free(g);
}

static void *interrupt_soon(void *ctx)
{
    struct engine *g = ctx;
    clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    g->ops->interrupt(g, true);
    return NULL;
}

static void an_interrupted_wait_takes_the_step_back(void **state)
{
    struct engine *g = open_paced("fake", 0.001, 1e6); // a slot of a quarter of an hour a token
    pthread_t thread;
    (void)state;
    assert_int_equal(step_n(g, 0, 0, 1, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, g), 0);
    assert_int_equal(step_n(g, 0, 1, 10, 0), ERR_CANCELLED);
    pthread_join(thread, NULL);
    g->ops->interrupt(g, false);
    assert_int_equal(step_n(g, 0, 1, 1, 1), 0); // position 1 is free again
    g->ops->free(g);
}

static void an_interrupted_recurrent_step_stands(void **state)
{
    struct engine *g = open_paced("fake:state=1", 0.001, 1e6);
    pthread_t thread;
    (void)state;
    assert_int_equal(step_n(g, 0, 0, 1, 1), 0);
    assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, g), 0);
    assert_int_equal(step_n(g, 0, 1, 10, 0), 0); // cannot be taken back: it ended early
    pthread_join(thread, NULL);
    assert_int_equal(step_n(g, 0, 11, 1, 1), ERR_CANCELLED);
    g->ops->interrupt(g, false);
    assert_int_equal(step_n(g, 0, 11, 1, 1), 0);
    g->ops->free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_fills_its_slot),
        cmocka_unit_test(overruns_are_counted),
        cmocka_unit_test(everything_passes_through),
        cmocka_unit_test(tiles_come_no_earlier_than_their_share),
        cmocka_unit_test(an_interrupted_wait_takes_the_step_back),
        cmocka_unit_test(an_interrupted_recurrent_step_stands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
