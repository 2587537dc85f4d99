// Adapters on the real engine: they change what is computed for the sequences that are set to them and for
// no others, in both caches, and hand over like anything else.
#include "llama_rig.h"

#include "base/clock.h"
#include "engine/llama_engine.h"
#include "tests/adapter_make.h"
#include "tests/scratch.h"

#include <stdio.h>
#include <unistd.h>

#define A 128
#define B 256

struct fixture {
    char folder[64];
    char *one, *two;     // files
    uint32_t id1, id2;   // on p
    uint32_t d1;         // `one` on d
    float *base, *tuned; // logits after the token at B
    struct engine *p, *d;
};
static struct fixture f;

static void use(struct engine *g, uint32_t seq, uint32_t id)
{
    struct err e = {0};
    if (g->ops->adapter_use(g, seq, id, &e) != 0)
        fail_msg("%s", e.message);
}

static uint32_t load(struct engine *g, const char *path)
{
    struct err e = {0};
    uint32_t id = 0;
    if (g->ops->adapter_load(g, path, &id, &e) != 0)
        fail_msg("%s", e.message);
    return id;
}

static float *logits_of(struct engine *g, uint32_t seq)
{
    rig_compute(g, seq, 0, A);
    rig_compute(g, seq, A, B);
    return rig_logits(g, seq, B);
}

static struct engine *open4(void)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_RANGES);
    o.n_seq = 4;
    o.n_ctx = 2048;
    return rig_open_with(&o);
}

static int fixture_make(void **state)
{
    struct err e = {0};
    (void)state;
    snprintf(f.folder, sizeof f.folder, "/tmp/tandem-adapter-XXXXXX");
    assert_non_null(mkdtemp(f.folder));
    f.one = mem_format("%s/one.gguf", f.folder);
    f.two = mem_format("%s/two.gguf", f.folder);
    if (adapter_make(f.one, getenv("TANDEM_TEST_MODEL"), 1, 0.05f, &e) != 0 ||
        adapter_make(f.two, getenv("TANDEM_TEST_MODEL"), 2, 0.05f, &e) != 0)
        fail_msg("%s", e.message);
    f.p = open4();
    f.d = open4();
    f.id1 = load(f.p, f.one);
    f.id2 = load(f.p, f.two);
    f.d1 = load(f.d, f.one);
    assert_int_not_equal(f.id1, f.id2);
    f.base = logits_of(f.p, 0);
    engine_llama_clear(f.p);
    use(f.p, 1, f.id1);
    f.tuned = logits_of(f.p, 1);
    return 0;
}

static int fixture_free(void **state)
{
    (void)state;
    f.p->ops->free(f.p);
    f.d->ops->free(f.d);
    free(f.base);
    free(f.tuned);
    free(f.one);
    free(f.two);
    return scratch_remove(f.folder);
}

static int clear(void **state)
{
    (void)state;
    for (uint32_t s = 0; s < 4; s++) {
        use(f.p, s, 0);
        use(f.d, s, 0);
        f.p->ops->rejoin(f.p, s, NULL);
    }
    engine_llama_clear(f.p);
    engine_llama_clear(f.d);
    return 0;
}

static bool same(const float *a, const float *b)
{
    return memcmp(a, b, f.p->identity.n_vocab * sizeof *a) == 0;
}

// ---- tests ---------------------------------------------------------------------------------------

// Where other sequences lie in a shared cache may change the rounding; in caches apart nothing does.
static void settle(uint32_t seq)
{
    struct err e = {0};
    if (f.p->ops->settle(f.p, seq, B + 16, &e) != 0)
        fail_msg("%s", e.message);
}

static void an_adapter_changes_its_own_sequences_alone(void **state)
{
    (void)state;
    assert_false(same(f.base, f.tuned));
    for (uint32_t seq = 0; seq < 4; seq++)
        settle(seq);
    rig_same(f.p, logits_of(f.p, 2), f.base);
    use(f.p, 3, f.id1);
    rig_same(f.p, logits_of(f.p, 3), f.tuned);
    use(f.p, 0, f.id2);
    float *other = logits_of(f.p, 0);
    assert_false(same(other, f.base));
    assert_false(same(other, f.tuned));
    free(other);
}

// The steps of several sequences between each other, each with its own adapter.
static void steps_take_turns(void **state)
{
    (void)state;
    use(f.p, 1, f.id1);
    settle(0);
    settle(1);
    rig_compute(f.p, 0, 0, A);
    rig_compute(f.p, 1, 0, A);
    rig_compute(f.p, 0, A, B);
    rig_compute(f.p, 1, A, B);
    rig_same(f.p, rig_logits(f.p, 0, B), f.base);
    rig_same(f.p, rig_logits(f.p, 1, B), f.tuned);
}

static void a_step_has_one_adapter(void **state)
{
    struct err e = {0};
    struct engine_row rows[2] = {{rig_token(f.p, 0), 0, 0, false},
                                 {rig_token(f.p, 0), 0, 1, false}};
    (void)state;
    use(f.p, 1, f.id1);
    assert_int_equal(f.p->ops->step(f.p, rows, 2, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "one adapter"));
    use(f.p, 0, f.id1);
    assert_int_equal(f.p->ops->step(f.p, rows, 2, &e), 0);
}

static void a_settled_sequence_keeps_its_adapter(void **state)
{
    (void)state;
    use(f.p, 2, f.id1);
    rig_compute(f.p, 2, 0, A);
    rig_compute(f.p, 2, A, B);
    settle(2);
    rig_same(f.p, rig_logits(f.p, 2, B), f.tuned);
    settle(3);
    rig_same(f.p, logits_of(f.p, 3), f.base);
}

static void a_hand_off_is_exact(void **state)
{
    struct err e = {0};
    size_t len = 0;
    (void)state;
    use(f.p, 0, f.id1);
    rig_compute(f.p, 0, 0, A);
    rig_compute(f.p, 0, A, B);
    void *data = rig_export(f.p, 0, 0, B, true, &len);
    use(f.d, 1, f.d1);
    assert_int_equal(f.d->ops->import(f.d, 1, 0, B, true, data, len, &e), 0);
    rig_same(f.d, rig_logits(f.d, 1, B), f.tuned);
    // The control: the same KV and the base on the other side give something else.
    assert_int_equal(f.d->ops->import(f.d, 2, 0, B, true, data, len, &e), 0);
    float *mixed = rig_logits(f.d, 2, B);
    assert_false(same(mixed, f.tuned));
    free(mixed);
    free(data);
}

static void what_is_dropped_is_gone(void **state)
{
    struct err e = {0};
    uint32_t id = load(f.p, f.one);
    (void)state;
    use(f.p, 0, id);
    rig_compute(f.p, 0, 0, A); // the context is set to it
    f.p->ops->adapter_drop(f.p, id);
    f.p->ops->adapter_drop(f.p, id);
    assert_int_equal(f.p->ops->adapter_use(f.p, 0, id, &e), ERR_INVALID);
    assert_int_equal(f.p->ops->remove(f.p, 0, 0, UINT32_MAX, &e), 0);
    rig_same(f.p, logits_of(f.p, 0), f.base);
    assert_int_equal(load(f.p, f.two), id);
    f.p->ops->adapter_drop(f.p, id);
}

static void only_so_many_are_loaded(void **state)
{
    struct err e = {0};
    uint32_t ids[ENGINE_ADAPTERS_MAX], n = 0;
    (void)state;
    while (f.d->ops->adapter_load(f.d, f.two, &ids[n], &e) == 0)
        n++;
    assert_int_equal(n, ENGINE_ADAPTERS_MAX - 1);
    assert_non_null(strstr(e.message, "32 adapters"));
    while (n > 0)
        f.d->ops->adapter_drop(f.d, ids[--n]);
}

static void bad_files_are_refused_by_name(void **state)
{
    struct err e = {0};
    uint32_t id = 0;
    char *cut = mem_format("%s/cut.gguf", f.folder), *data = NULL;
    size_t len = 0;
    (void)state;
    assert_int_equal(f.p->ops->adapter_load(f.p, "/nowhere.gguf", &id, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "/nowhere.gguf"));
    assert_int_equal(f.p->ops->adapter_load(f.p, getenv("TANDEM_TEST_MODEL"), &id, &e),
                     ERR_INVALID);
    assert_non_null(strstr(e.message, "not an adapter"));
    assert_int_equal(os_file_read(f.one, 64u << 20, &data, &len, &e), 0);
    for (size_t n = 8; n < len; n += len / 5) {
        assert_int_equal(os_file_write(cut, data, n, 0600, &e), 0);
        assert_int_equal(f.p->ops->adapter_load(f.p, cut, &id, &e), ERR_CORRUPT);
        assert_non_null(strstr(e.message, "cut.gguf"));
    }
    free(data);
    free(cut);
}

// What going from one adapter to another costs; told, not judged.
static void a_change_has_a_price(void **state)
{
    int64_t t0, alone = 0, turns = 0;
    (void)state;
    use(f.p, 1, f.id1);
    rig_compute(f.p, 0, 0, 64);
    rig_compute(f.p, 1, 0, 64);
    for (uint32_t i = 0; i < 8; i++) {
        t0 = clock_now_ns();
        free(rig_logits(f.p, 1, 64 + i));
        alone += i > 0 ? clock_now_ns() - t0 : 0;
    }
    for (uint32_t i = 0; i < 8; i++) {
        t0 = clock_now_ns();
        free(rig_logits(f.p, i % 2, i % 2 ? 72 + i / 2 : 64 + i / 2));
        turns += clock_now_ns() - t0;
    }
    print_message("a step of one token: %.1f ms; after another adapter: %.1f ms\n",
                  (double)alone / 7e6, (double)turns / 8e6);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup(t, clear)
    const struct CMUnitTest tests[] = {
        TEST(an_adapter_changes_its_own_sequences_alone),
        TEST(steps_take_turns),
        TEST(a_step_has_one_adapter),
        TEST(a_settled_sequence_keeps_its_adapter),
        TEST(a_hand_off_is_exact),
        TEST(what_is_dropped_is_gone),
        TEST(only_so_many_are_loaded),
        TEST(bad_files_are_refused_by_name),
        TEST(a_change_has_a_price),
    };
    return cmocka_run_group_tests(tests, fixture_make, fixture_free);
}
