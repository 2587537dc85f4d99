// The llama.cpp engine with a real model: hand-offs bit for bit, wrong calls refused, interruption, and
// bytes of a peer that must never reach the library. Every comparison is with the same prompt computed
// in one engine without any hand-off.
#include "llama_rig.h"

#include "base/clock.h"
#include "engine/llama_engine.h"

#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#define A 128 // first range: [0, A)
#define B 256 // second range: [A, B); the last token stands at B

struct fixture {
    float *reference; // logits after the token at B
    void *first, *second;
    size_t first_len, second_len;
    struct engine *p, *d;
};
static struct fixture f;

static int fixture_make(void **state)
{
    (void)state;
    f.p = rig_open(ENGINE_HANDOFF_RANGES);
    f.d = rig_open(ENGINE_HANDOFF_RANGES);
    rig_compute(f.d, 0, 0, A);
    rig_compute(f.d, 0, A, B);
    f.reference = rig_logits(f.d, 0, B);
    rig_compute(f.p, 0, 0, A);
    f.first = rig_export(f.p, 0, 0, A, false, &f.first_len);
    rig_compute(f.p, 0, A, B);
    f.second = rig_export(f.p, 0, A, B, true, &f.second_len);
    return 0;
}

static int fixture_free(void **state)
{
    (void)state;
    f.p->ops->free(f.p);
    f.d->ops->free(f.d);
    free(f.reference);
    free(f.first);
    free(f.second);
    return 0;
}

static int clear(void **state)
{
    (void)state;
    engine_llama_clear(f.d);
    return 0;
}

static int import(uint32_t seq, uint32_t p0, uint32_t p1, const void *data, size_t len,
                  struct err *e)
{
    return f.d->ops->import(f.d, seq, p0, p1, p1 == B, data, len, e);
}

// ---- hand-off --------------------------------------------------------------------------------------

static void ranges_are_exact(void **state)
{
    struct err e = {0};
    (void)state;
    assert_int_equal(import(0, 0, A, f.first, f.first_len, &e), 0);
    assert_int_equal(import(0, A, B, f.second, f.second_len, &e), 0);
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
}

static void export_leaves_the_sequence_alone(void **state)
{
    (void)state;
    rig_same(f.p, rig_logits(f.p, 0, B), f.reference);
    assert_int_equal(f.p->ops->remove(f.p, 0, B, UINT32_MAX, NULL), 0);
}

static void ranges_go_to_any_sequence_beside_a_running_one(void **state)
{
    struct err e = {0};
    (void)state;
    rig_compute(f.d, 0, 0, A);
    assert_int_equal(import(1, 0, A, f.first, f.first_len, &e), 0);
    rig_compute(f.d, 0, A, A + 64);
    assert_int_equal(import(1, A, B, f.second, f.second_len, &e), 0);
    rig_compute(f.d, 0, A + 64, B);
    rig_same(f.d, rig_logits(f.d, 1, B), f.reference);
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
}

static void computed_prefix_and_imported_rest(void **state)
{
    struct err e = {0};
    (void)state;
    rig_compute(f.d, 0, 0, A);
    assert_int_equal(import(0, A, B, f.second, f.second_len, &e), 0);
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
}

static void whole_state_is_exact(void **state)
{
    struct err e = {0};
    size_t len = 0;
    (void)state;
    engine_llama_handoff_set(f.p, ENGINE_HANDOFF_WHOLE);
    engine_llama_handoff_set(f.d, ENGINE_HANDOFF_WHOLE);
    void *data = rig_export(f.p, 0, 0, B, true, &len);
    assert_int_equal(import(0, 0, B, data, len, &e), 0);
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
    assert_int_equal(f.p->ops->export_start(f.p, 0, A, B, true, data, len, &e), ERR_UNSUPPORTED);
    engine_llama_handoff_set(f.p, ENGINE_HANDOFF_RANGES);
    engine_llama_handoff_set(f.d, ENGINE_HANDOFF_RANGES);
    free(data);
}

static void a_missing_range_shows(void **state)
{
    struct err e = {0};
    (void)state;
    assert_int_equal(import(0, A, B, f.second, f.second_len, &e), ERR_INVALID);
    engine_llama_allow_gap(f.d, true);
    assert_int_equal(import(0, A, B, f.second, f.second_len, &e), 0);
    engine_llama_allow_gap(f.d, false);
    float *got = rig_logits(f.d, 0, B);
    assert_memory_not_equal(got, f.reference, f.d->identity.n_vocab * sizeof *got);
    free(got);
}

static void export_bytes_is_enough_and_close(void **state)
{
    (void)state;
    assert_int_equal(f.p->ops->export_bytes(f.p, 0, 0, A, false), f.first_len);
    assert_true(f.p->limits.kv_bytes_per_token * A <= (double)f.first_len);
    assert_int_equal(f.p->limits.state_bytes, 0);
}

// ---- bytes of a peer -------------------------------------------------------------------------------

// Every prefix and every changed bit in front of the first tensor's data is refused, and the sequence
// is as it was.
static void broken_blobs_are_refused(void **state)
{
    struct err e = {0};
    uint8_t *bad = mem_alloc(f.first_len + 1);
    size_t structure = 16 + 12 * (size_t)A + 8 + 12;
    (void)state;
    memcpy(bad, f.first, f.first_len);
    for (size_t len = 0; len < f.first_len; len += len < structure ? 1 : 9973)
        assert_int_not_equal(import(0, 0, A, bad, len, &e), 0);
    assert_int_not_equal(import(0, 0, A, bad, f.first_len + 1, &e), 0);
    for (size_t i = 0; i < structure; i++) {
        bool seq_id = (i >= 4 && i < 8) || (i >= 16 && i < structure - 20 && (i - 16) % 12 >= 8);
        bad[i] ^= (uint8_t)(1u << (i % 8));
        if (!seq_id) // which the reader ignores
            assert_int_not_equal(import(0, 0, A, bad, f.first_len, &e), 0);
        bad[i] ^= (uint8_t)(1u << (i % 8));
    }
    assert_int_equal(import(0, 0, A, bad, f.first_len, &e), 0);
    assert_int_equal(import(0, A, B, f.second, f.second_len, &e), 0);
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
    free(bad);
}

static void right_bytes_for_another_range_are_refused(void **state)
{
    struct err e = {0};
    (void)state;
    assert_int_equal(import(0, 0, A, f.second, f.second_len, &e), ERR_CORRUPT);
    assert_int_equal(import(0, 0, A - 1, f.first, f.first_len, &e), ERR_CORRUPT);
    assert_int_equal(import(0, 0, A, f.first, f.first_len, &e), 0);
    assert_int_equal(import(0, 0, A, f.first, f.first_len, &e), ERR_INVALID);
    assert_int_equal(import(7, 0, A, f.first, f.first_len, &e), ERR_INVALID);
    assert_int_equal(import(0, A, UINT32_MAX, f.second, f.second_len, &e), ERR_INVALID);
}

static void another_kv_type_is_refused(void **state)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_RANGES);
    struct err e = {0};
    (void)state;
    o.type_k = o.type_v = "q8_0";
    struct engine *other = rig_open_with(&o);
    assert_int_equal(other->ops->import(other, 0, 0, A, false, f.first, f.first_len, &e),
                     ERR_MISMATCH);
    assert_int_equal(engine_identity_compare(&other->identity, &f.d->identity, true, &e),
                     ERR_MISMATCH);
    assert_int_equal(engine_identity_compare(&f.p->identity, &f.d->identity, true, &e), 0);
    other->ops->free(other);
}

// ---- wrong calls -----------------------------------------------------------------------------------

static void wrong_rows_are_refused(void **state)
{
    static const struct engine_row bad[] = {
        {.token = 5, .pos = 1}, {.token = -1}, {.token = INT32_MAX}, {.token = 5, .seq = 2}};
    struct err e = {0};
    struct engine_row row = {.token = 5};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(f.d->ops->step(f.d, &bad[i], 1, &e), ERR_INVALID);
    assert_int_equal(f.d->ops->step(f.d, &row, 0, &e), ERR_INVALID);
    assert_int_equal(f.d->ops->step(f.d, &row, f.d->limits.n_batch + 1, &e), ERR_INVALID);
    assert_int_equal(f.d->ops->step(f.d, &row, 1, &e), 0);
    assert_null(f.d->ops->logits(f.d, 0));
    assert_null(f.d->ops->logits(f.d, 1));
}

static void wrong_exports_are_refused(void **state)
{
    struct err e = {0};
    uint8_t small[64];
    size_t len;
    (void)state;
    assert_int_equal(f.p->ops->export_start(f.p, 0, 0, B + 1, true, small, sizeof small, &e),
                     ERR_INVALID);
    assert_int_equal(f.p->ops->export_start(f.p, 0, A, A, true, small, sizeof small, &e),
                     ERR_INVALID);
    assert_int_equal(f.p->ops->export_start(f.p, 9, 0, A, true, small, sizeof small, &e),
                     ERR_INVALID);
    assert_int_equal(f.p->ops->export_start(f.p, 0, 0, A, true, small, sizeof small, &e),
                     ERR_ENGINE);
    assert_int_equal(f.p->ops->export_poll(f.p, &len, &e), ERR_INVALID);
}

static void removing(void **state)
{
    struct err e = {0};
    (void)state;
    rig_compute(f.d, 0, 0, B);
    assert_int_equal(f.d->ops->remove(f.d, 0, 10, 20, &e), ERR_INVALID);
    assert_int_equal(f.d->ops->remove(f.d, 0, A, UINT32_MAX, &e), 0);
    rig_compute(f.d, 0, A, B);
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
    assert_int_equal(f.d->ops->remove(f.d, 0, 0, UINT32_MAX, &e), 0);
    assert_int_equal(f.d->ops->remove(f.d, 0, 0, UINT32_MAX, &e), 0);
    assert_int_equal(f.d->ops->remove(f.d, 2, 0, UINT32_MAX, &e), ERR_INVALID);
}

static void a_full_cache_is_busy(void **state)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_RANGES);
    struct err e = {0};
    (void)state;
    o.n_ctx = 256;
    struct engine *g = rig_open_with(&o);
    rig_compute(g, 0, 0, 128);
    assert_int_equal(rig_step(g, 1, 0, 200, false, &e), ERR_BUSY);
    rig_compute(g, 1, 0, 100);
    assert_int_equal(g->ops->import(g, 1, 100, 100 + A, false, f.first, f.first_len, &e),
                     ERR_CORRUPT);
    assert_int_equal(g->ops->remove(g, 1, 0, UINT32_MAX, &e), 0);
    rig_compute(g, 0, 128, 200);
    assert_int_equal(g->ops->import(g, 1, 0, A, false, f.first, f.first_len, &e), ERR_BUSY);
    assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, &e), 0);
    assert_int_equal(g->ops->import(g, 1, 0, A, false, f.first, f.first_len, &e), 0);
    rig_compute(g, 1, A, B - 1);
    g->ops->free(g);
}

static void mode_none_exports_nothing(void **state)
{
    struct engine *g = rig_open(ENGINE_HANDOFF_NONE);
    struct err e = {0};
    uint8_t small[64];
    (void)state;
    rig_compute(g, 0, 0, 4);
    assert_int_equal(g->ops->export_bytes(g, 0, 0, 4, true), 0);
    assert_int_equal(g->ops->export_start(g, 0, 0, 4, true, small, sizeof small, &e),
                     ERR_UNSUPPORTED);
    assert_int_equal(g->ops->import(g, 0, 4, A, true, f.first, f.first_len, &e), ERR_UNSUPPORTED);
    g->ops->free(g);
}

// ---- interruption ----------------------------------------------------------------------------------

static void *interrupt_soon(void *ctx)
{
    struct engine *g = ctx;
    usleep(30000);
    g->ops->interrupt(g, true);
    return NULL;
}

static void interruption_takes_the_step_back(void **state)
{
    pthread_t thread;
    struct err e = {0};
    (void)state;
    rig_compute(f.d, 0, 0, A);
    assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, f.d), 0);
    assert_int_equal(rig_step(f.d, 0, A, A + 512, false, &e), ERR_CANCELLED);
    pthread_join(thread, NULL);
    assert_int_equal(rig_step(f.d, 0, A, A + 1, false, &e), ERR_CANCELLED);
    f.d->ops->interrupt(f.d, false);
    rig_compute(f.d, 0, A, B);
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
}

// ---- tiles -----------------------------------------------------------------------------------------

struct tiles {
    uint8_t *data[256];
    size_t len[256];
    uint32_t n;
};

static void tile_keep(void *ctx, uint32_t layer, const void *data, size_t n)
{
    struct tiles *t = ctx;
    assert_int_equal(layer, t->n);
    t->data[t->n] = mem_alloc(n);
    memcpy(t->data[t->n], data, n);
    t->len[t->n++] = n;
}

static struct engine *tiles_engine(void)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_RANGES);
    o.tiles = true;
    return rig_open_with(&o);
}

static void tiles_are_exact(void **state)
{
    struct engine *p = tiles_engine();
    struct tiles t = {.n = 0};
    struct err e = {0};
    (void)state;
    rig_compute(p, 1, 0, 64); // so that the cells do not begin at 0
    rig_compute(p, 0, 0, A);
    assert_int_equal(p->ops->tiles_set(p, tile_keep, &t), 0);
    rig_compute(p, 0, A, B);
    assert_int_equal(p->ops->tiles_set(p, NULL, NULL), 0);
    assert_int_equal(t.n, p->identity.n_layer);
    assert_int_equal(import(0, 0, A, f.first, f.first_len, &e), 0);
    assert_int_equal(import(1, 0, A, f.first, f.first_len, &e), 0);
    assert_int_equal(f.d->ops->import_tile(f.d, 0, A, B, 1, t.data[1], t.len[1], &e), ERR_CORRUPT);
    for (uint32_t i = 0; i < t.n; i++) {
        assert_int_equal(f.d->ops->import_tile(f.d, 0, A, B, i, t.data[i], t.len[i] - 1, &e),
                         ERR_CORRUPT);
        // Two transfers at once, tile by tile in turns.
        for (uint32_t seq = 0; seq < 2; seq++)
            assert_int_equal(f.d->ops->import_tile(f.d, seq, A, B, i, t.data[i], t.len[i], &e), 0);
        free(t.data[i]);
    }
    rig_same(f.d, rig_logits(f.d, 0, B), f.reference);
    rig_same(f.d, rig_logits(f.d, 1, B), f.reference);
    p->ops->free(p);
}

static void tiles_need_their_option(void **state)
{
    struct tiles t = {.n = 0};
    (void)state;
    assert_int_equal(f.d->ops->tiles_set(f.d, tile_keep, &t), ERR_UNSUPPORTED);
    assert_int_equal(f.d->ops->tiles_set(f.d, NULL, NULL), 0);
}

// ---- files -----------------------------------------------------------------------------------------

static int open_path(const char *path, char *message)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_NONE);
    struct engine *g = NULL;
    struct err e = {0};
    o.model = path;
    int rc = engine_open(&o, &g, &e);
    snprintf(message, ERR_MESSAGE_BYTES, "%s", e.message);
    assert_null(g);
    return rc;
}

static void put_string(FILE *file, const char *text)
{
    uint64_t n = strlen(text);
    fwrite(&n, sizeof n, 1, file);
    fwrite(text, 1, n, file);
}

// A GGUF with nothing but an architecture that nobody knows.
static void unknown_arch_write(const char *path)
{
    FILE *file = fopen(path, "wb");
    uint32_t version = 3, string = 8;
    uint64_t counts[2] = {0, 1};
    assert_non_null(file);
    fwrite("GGUF", 1, 4, file);
    fwrite(&version, sizeof version, 1, file);
    fwrite(counts, sizeof counts, 1, file);
    put_string(file, "general.architecture");
    fwrite(&string, sizeof string, 1, file);
    put_string(file, "nosuch");
    fseek(file, 4095, SEEK_SET);
    fputc(0, file);
    fclose(file);
}

static void head_copy(const char *path, size_t bytes)
{
    FILE *from = fopen(getenv("TANDEM_TEST_MODEL"), "rb"), *to = fopen(path, "wb");
    uint8_t *data = mem_alloc(bytes);
    assert_non_null(from);
    assert_non_null(to);
    assert_int_equal(fread(data, 1, bytes, from), bytes);
    assert_int_equal(fwrite(data, 1, bytes, to), bytes);
    fclose(from);
    fclose(to);
    free(data);
}

static void files_are_told_apart(void **state)
{
    char path[] = "/tmp/tandem-test-XXXXXX", message[ERR_MESSAGE_BYTES];
    int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(open_path("/nonexistent/model.gguf", message), ERR_NOT_FOUND);
    assert_non_null(strstr(message, "/nonexistent/model.gguf"));
    assert_int_equal(open_path("/", message), ERR_INVALID);
    assert_int_equal(open_path(path, message), ERR_CORRUPT);
    assert_non_null(strstr(message, "not a GGUF"));
    head_copy(path, 3000);
    assert_int_equal(open_path(path, message), ERR_CORRUPT);
    assert_non_null(strstr(message, "cut short"));
    head_copy(path, 40 << 20);
    assert_int_equal(open_path(path, message), ERR_CORRUPT);
    assert_non_null(strstr(message, "cut short: 41943040 bytes of "));
    unknown_arch_write(path);
    assert_int_equal(open_path(path, message), ERR_UNSUPPORTED);
    assert_non_null(strstr(message, "nosuch"));
    unlink(path);
}

static void options_are_checked(void **state)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_NONE);
    struct engine *g = NULL;
    struct err e = {0};
    (void)state;
    o.type_k = "f17";
    assert_int_equal(engine_open(&o, &g, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "f17"));
    o.type_k = "f16";
    o.n_seq = 100000;
    assert_int_equal(engine_open(&o, &g, &e), ERR_INVALID);
    assert_int_equal(engine_quantize(o.model, "/tmp/never-written", "Q99", &e), ERR_INVALID);
    assert_int_equal(engine_quantize("/nonexistent", "/tmp/never-written", "Q8_0", &e),
                     ERR_NOT_FOUND);
    assert_int_not_equal(access("/tmp/never-written", F_OK), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(ranges_are_exact, clear),
        cmocka_unit_test(export_leaves_the_sequence_alone),
        cmocka_unit_test_setup(ranges_go_to_any_sequence_beside_a_running_one, clear),
        cmocka_unit_test_setup(computed_prefix_and_imported_rest, clear),
        cmocka_unit_test_setup(whole_state_is_exact, clear),
        cmocka_unit_test_setup(a_missing_range_shows, clear),
        cmocka_unit_test(export_bytes_is_enough_and_close),
        cmocka_unit_test_setup(broken_blobs_are_refused, clear),
        cmocka_unit_test_setup(right_bytes_for_another_range_are_refused, clear),
        cmocka_unit_test(another_kv_type_is_refused),
        cmocka_unit_test_setup(wrong_rows_are_refused, clear),
        cmocka_unit_test(wrong_exports_are_refused),
        cmocka_unit_test_setup(removing, clear),
        cmocka_unit_test(a_full_cache_is_busy),
        cmocka_unit_test(mode_none_exports_nothing),
        cmocka_unit_test_setup(interruption_takes_the_step_back, clear),
        cmocka_unit_test_setup(tiles_are_exact, clear),
        cmocka_unit_test(tiles_need_their_option),
        cmocka_unit_test(files_are_told_apart),
        cmocka_unit_test(options_are_checked),
    };
    return cmocka_run_group_tests(tests, fixture_make, fixture_free);
}
