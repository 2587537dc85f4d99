// The fake engine against a naive oracle: one long sequence computed in one go. Whatever way a
// prompt is split, handed over and gone on with, the logits must equal the oracle's bit for bit;
// whatever is done wrong must show.
#include "base/buf.h"
#include "base/clock.h"
#include "engine/fake.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define N 60

static struct engine *open_fake(const char *model, enum engine_handoff handoff)
{
    struct engine_options o;
    struct err e = {0};
    struct engine *g = NULL;
    engine_options_default(&o);
    o.model = model;
    o.n_ctx = 256;
    o.n_batch = 128;
    o.handoff = handoff;
    assert_int_equal(engine_fake_open(&o, &g, &e), 0);
    return g;
}

static int32_t token_at(uint32_t i)
{
    return (int32_t)((i * 37 + 11) % 256);
}

static int step_range(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last_logits)
{
    struct engine_row rows[128];
    struct err e = {0};
    for (uint32_t p = p0; p < p1; p++)
        rows[p - p0] = (struct engine_row){token_at(p), p, seq, last_logits && p == p1 - 1};
    return g->ops->step(g, rows, p1 - p0, &e);
}

static void copy_logits(struct engine *g, size_t row, float out[258])
{
    memcpy(out, g->ops->logits(g, row), 258 * sizeof *out);
}

static void reference(const char *model, float out[258])
{
    struct engine *g = open_fake(model, ENGINE_HANDOFF_RANGES);
    assert_int_equal(step_range(g, 0, 0, N, true), 0);
    copy_logits(g, N - 1, out);
    g->ops->free(g);
}

static size_t export_range(struct engine *g, uint32_t p0, uint32_t p1, bool last, uint8_t **buf)
{
    struct err e = {0};
    size_t cap = g->ops->export_bytes(g, 0, p0, p1, last), len = 0;
    *buf = mem_alloc(cap);
    assert_int_equal(g->ops->export_start(g, 0, p0, p1, last, *buf, cap, &e), 0);
    while (g->ops->export_poll(g, &len, &e) == ENGINE_EXPORT_BUSY)
        ;
    assert_true(len > 0 && len <= cap);
    return len;
}

// Hands [0, N-1) over in ranges of `chunk`, flips one byte of it all at `flip` (SIZE_MAX: none),
// and runs the last token on the other side.
static int hand_over(const char *model, enum engine_handoff mode, uint32_t chunk, size_t flip,
                     float out[258])
{
    struct engine *p = open_fake(model, mode), *d = open_fake(model, mode);
    struct err e = {0};
    int rc = 0;
    for (uint32_t p0 = 0; p0 < N - 1 && rc == 0; p0 += chunk) {
        uint32_t p1 = p0 + chunk < N - 1 ? p0 + chunk : N - 1;
        uint8_t *buf;
        assert_int_equal(step_range(p, 0, p0, p1, false), 0);
        size_t len = export_range(p, p0, p1, p1 == N - 1, &buf);
        if (flip < len)
            buf[flip] ^= 1;
        flip = flip < len || flip == SIZE_MAX ? SIZE_MAX : flip - len;
        rc = d->ops->import(d, 1, p0, p1, p1 == N - 1, buf, len, &e);
        free(buf);
    }
    if (rc == 0) {
        assert_int_equal(step_range(d, 1, N - 1, N, true), 0);
        copy_logits(d, 0, out);
    }
    p->ops->free(p);
    d->ops->free(d);
    return rc;
}

static void handing_over_in_any_split_is_exact(void **state)
{
    static const struct {
        const char *model;
        enum engine_handoff mode;
        uint32_t chunk;
    } cases[] = {
        {"fake", ENGINE_HANDOFF_RANGES, 1},
        {"fake", ENGINE_HANDOFF_RANGES, 7},
        {"fake", ENGINE_HANDOFF_RANGES, N - 1},
        {"fake:layers=3,kv_bytes=10", ENGINE_HANDOFF_RANGES, 16},
        {"fake", ENGINE_HANDOFF_WHOLE, N - 1},
        {"fake:state=1", ENGINE_HANDOFF_RANGES, 9},
        {"fake:state=1", ENGINE_HANDOFF_LATE_STATE, 9},
        {"fake:state=1", ENGINE_HANDOFF_WHOLE, N - 1},
        {"fake:export_us=500", ENGINE_HANDOFF_RANGES, 20},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float want[258], got[258];
        reference(cases[i].model, want);
        assert_int_equal(hand_over(cases[i].model, cases[i].mode, cases[i].chunk, SIZE_MAX, got),
                         0);
        assert_memory_equal(want, got, sizeof want);
    }
}

static void every_flipped_byte_shows(void **state)
{
    const char *model = "fake:layers=2,kv_bytes=8,state=1";
    float want[258], got[258];
    (void)state;
    reference(model, want);
    size_t bytes = 2 * 32 + (N - 1) * 2 * 8 + 2 * 64; // two heads, all KV, the state
    for (size_t flip = 0; flip < bytes; flip++) {
        int rc = hand_over(model, ENGINE_HANDOFF_LATE_STATE, 32, flip, got);
        assert_true(rc != 0 || memcmp(want, got, sizeof want) != 0);
    }
}

static void a_step_split_in_any_way_is_the_same(void **state)
{
    float want[258], got[258];
    (void)state;
    reference("fake", want);
    for (uint32_t chunk = 1; chunk <= N; chunk += 6) {
        struct engine *g = open_fake("fake", ENGINE_HANDOFF_NONE);
        uint32_t p0 = 0;
        for (; p0 + chunk < N; p0 += chunk)
            assert_int_equal(step_range(g, 2, p0, p0 + chunk, false), 0);
        assert_int_equal(step_range(g, 2, p0, N, true), 0);
        copy_logits(g, N - 1 - p0, got);
        assert_memory_equal(want, got, sizeof want);
        g->ops->free(g);
    }
}

static void removing_the_tail_rewinds(void **state)
{
    float want[258], got[258];
    struct engine *g = open_fake("fake", ENGINE_HANDOFF_RANGES);
    struct engine_row wrong = {99, 30, 0, false};
    (void)state;
    reference("fake", want);
    assert_int_equal(step_range(g, 0, 0, 30, false), 0);
    assert_int_equal(g->ops->step(g, &wrong, 1, NULL), 0);
    assert_int_equal(g->ops->remove(g, 0, 30, UINT32_MAX, NULL), 0);
    assert_int_equal(step_range(g, 0, 30, N, true), 0);
    copy_logits(g, N - 31, got);
    assert_memory_equal(want, got, sizeof want);
    assert_int_equal(g->ops->remove(g, 0, 10, 20, NULL), ERR_UNSUPPORTED);
    g->ops->free(g);
}

static void a_recurrent_model_forgets_all_or_nothing(void **state)
{
    float want[258], got[258];
    struct engine *g = open_fake("fake:state=1", ENGINE_HANDOFF_LATE_STATE);
    (void)state;
    reference("fake:state=1", want);
    assert_int_equal(step_range(g, 0, 0, N, true), 0);
    assert_int_equal(g->ops->remove(g, 0, 20, UINT32_MAX, NULL), ERR_UNSUPPORTED);
    assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, NULL), 0);
    assert_int_equal(step_range(g, 0, 0, N, true), 0);
    copy_logits(g, N - 1, got);
    assert_memory_equal(want, got, sizeof want);
    assert_int_equal(g->ops->tiles_set(g, NULL, NULL), ERR_UNSUPPORTED);
    g->ops->free(g);
}

// The state that a LATE_STATE transfer has not brought yet must be missed.
static void a_late_state_that_is_missing_shows(void **state)
{
    struct engine *p = open_fake("fake:state=1", ENGINE_HANDOFF_LATE_STATE);
    struct engine *d = open_fake("fake:state=1", ENGINE_HANDOFF_LATE_STATE);
    float want[258], got[258];
    uint8_t *buf;
    (void)state;
    assert_int_equal(step_range(p, 0, 0, 20, false), 0);
    size_t len = export_range(p, 0, 20, false, &buf);
    assert_int_equal(d->ops->import(d, 0, 0, 20, false, buf, len, NULL), 0);
    assert_int_equal(step_range(p, 0, 20, 21, true), 0);
    copy_logits(p, 0, want);
    assert_int_equal(step_range(d, 0, 20, 21, true), 0);
    copy_logits(d, 0, got);
    assert_memory_not_equal(want, got, sizeof want);
    free(buf);
    p->ops->free(p);
    d->ops->free(d);
}

static void bad_imports_are_refused_and_change_nothing(void **state)
{
    struct engine *p = open_fake("fake", ENGINE_HANDOFF_RANGES);
    struct engine *d = open_fake("fake", ENGINE_HANDOFF_RANGES);
    struct engine *other = open_fake("fake:layers=8,kv_bytes=32", ENGINE_HANDOFF_RANGES);
    struct err e = {0};
    uint8_t *buf;
    (void)state;
    assert_int_equal(step_range(p, 0, 0, 30, false), 0);
    size_t len = export_range(p, 0, 30, false, &buf);
    assert_int_equal(d->ops->import(d, 0, 0, 30, false, buf, len - 1, &e), ERR_CORRUPT);
    assert_int_equal(d->ops->import(d, 0, 0, 29, false, buf, len, &e), ERR_CORRUPT);
    assert_int_equal(d->ops->import(d, 0, 1, 31, false, buf, len, &e), ERR_INVALID);
    assert_int_equal(d->ops->import(d, 9, 0, 30, false, buf, len, &e), ERR_INVALID);
    assert_int_equal(other->ops->import(other, 0, 0, 30, false, buf, len, &e), ERR_MISMATCH);
    assert_non_null(strstr(e.message, "layers 4, expected 8"));
    buf[0] ^= 1;
    assert_int_equal(d->ops->import(d, 0, 0, 30, false, buf, len, &e), ERR_CORRUPT);
    buf[0] ^= 1;
    assert_int_equal(d->ops->import(d, 0, 0, 30, false, buf, len, &e), 0);
    assert_int_equal(d->ops->import(d, 0, 0, 30, false, buf, len, &e), ERR_INVALID); // a repeat
    free(buf);
    p->ops->free(p);
    d->ops->free(d);
    other->ops->free(other);
}

// ---- tiles --------------------------------------------------------------------------------------

struct tiles {
    struct engine *d;
    uint32_t p0, p1;
    int rc;
};

static void on_tile(void *ctx, uint32_t layer, const void *data, size_t n)
{
    struct tiles *t = ctx;
    if (t->rc == 0)
        t->rc = t->d->ops->import_tile(t->d, 0, t->p0, t->p1, layer, data, n, NULL);
}

static void tiles_hand_over_exactly(void **state)
{
    float want[258], got[258];
    struct engine *p = open_fake("fake:prefill_us=20", ENGINE_HANDOFF_RANGES);
    struct engine *d = open_fake("fake", ENGINE_HANDOFF_RANGES);
    struct tiles t = {.d = d};
    (void)state;
    reference("fake", want);
    assert_int_equal(p->ops->tiles_set(p, on_tile, &t), 0);
    for (t.p0 = 0; t.p0 < N - 1; t.p0 = t.p1) {
        t.p1 = t.p0 + 20 < N - 1 ? t.p0 + 20 : N - 1;
        assert_int_equal(step_range(p, 0, t.p0, t.p1, false), 0);
        assert_int_equal(t.rc, 0);
    }
    assert_int_equal(step_range(d, 0, N - 1, N, true), 0);
    copy_logits(d, 0, got);
    assert_memory_equal(want, got, sizeof want);
    uint8_t tile[64] = {0};
    assert_int_equal(d->ops->import_tile(d, 1, 0, 1, 1, tile, 64, NULL), ERR_CORRUPT);
    assert_int_equal(d->ops->import_tile(d, 1, 0, 1, 0, tile, 63, NULL), ERR_CORRUPT);
    p->ops->free(p);
    d->ops->free(d);
}

// ---- limits, faults, interrupts -----------------------------------------------------------------

static void steps_are_checked(void **state)
{
    struct engine *g = open_fake("fake", ENGINE_HANDOFF_NONE);
    const struct {
        struct engine_row row;
        int rc;
    } cases[] = {
        {{-1, 0, 0, false}, ERR_INVALID},
        {{258, 0, 0, false}, ERR_INVALID},
        {{0, 1, 0, false}, ERR_INVALID},
        {{0, 0, 4, false}, ERR_INVALID},
        {{0, 0, 0, false}, 0},
        {{0, 0, 0, false}, ERR_INVALID},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(g->ops->step(g, &cases[i].row, 1, NULL), cases[i].rc);
    assert_int_equal(step_range(g, 1, 0, 128, false), 0);
    assert_int_equal(step_range(g, 2, 0, 128, false), ERR_BUSY); // 1 + 128 + 128 > 256
    assert_int_equal(step_range(g, 2, 0, 127, false), 0);
    uint8_t buf[512];
    assert_int_equal(g->ops->export_start(g, 1, 0, 1, false, buf, sizeof buf, NULL),
                     ERR_UNSUPPORTED);
    g->ops->free(g);
}

static void an_export_cannot_be_pulled_from_under(void **state)
{
    struct engine *g = open_fake("fake:export_us=2000", ENGINE_HANDOFF_RANGES);
    size_t cap, len;
    (void)state;
    assert_int_equal(step_range(g, 0, 0, 10, false), 0);
    cap = g->ops->export_bytes(g, 0, 0, 10, false);
    uint8_t *buf = mem_alloc(cap);
    assert_int_equal(g->ops->export_start(g, 0, 0, 10, false, buf, cap - 1, NULL), ERR_RANGE);
    assert_int_equal(g->ops->export_start(g, 0, 0, 11, false, buf, cap + 256, NULL), ERR_INVALID);
    assert_int_equal(g->ops->export_start(g, 0, 0, 10, false, buf, cap, NULL), 0);
    assert_int_equal(g->ops->export_start(g, 0, 0, 10, false, buf, cap, NULL), ERR_BUSY);
    assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, NULL), ERR_BUSY);
    while (g->ops->export_poll(g, &len, NULL) == ENGINE_EXPORT_BUSY)
        ;
    assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, NULL), 0);
    free(buf);
    g->ops->free(g);
}

static void *interrupt_soon(void *ctx)
{
    struct engine *g = ctx;
    clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    g->ops->interrupt(g, true);
    return NULL;
}

static void an_interrupt_takes_the_step_back(void **state)
{
    static const char *const models[] = {"fake:prefill_us=60000000",
                                         "fake:prefill_us=60000000,state=1"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        float want[258], got[258];
        pthread_t thread;
        reference(i == 0 ? "fake" : "fake:state=1", want);
        struct engine *g = open_fake(models[i], ENGINE_HANDOFF_NONE);
        assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, g), 0);
        assert_int_equal(step_range(g, 0, 0, N - 1, false), ERR_CANCELLED); // would take an hour
        pthread_join(thread, NULL);
        assert_int_equal(step_range(g, 0, 0, 1, true), ERR_CANCELLED); // sticky
        g->ops->interrupt(g, false);
        for (uint32_t p = 0; p < N; p++) // rows with logits cost nothing here
            assert_int_equal(step_range(g, 0, p, p + 1, true), 0);
        copy_logits(g, 0, got);
        assert_memory_equal(want, got, sizeof want);
        g->ops->free(g);
    }
}

static void crash_after_aborts_at_that_token(void **state)
{
    (void)state;
    for (uint32_t n = 9; n <= 10; n++) {
        pid_t pid = fork();
        if (pid == 0) {
            signal(SIGABRT, SIG_DFL);
            struct engine *g = open_fake("fake:crash_after=10", ENGINE_HANDOFF_NONE);
            step_range(g, 0, 0, n, false);
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        assert_int_equal(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT, n == 10);
    }
}

static void model_strings_are_checked(void **state)
{
    static const struct {
        const char *model, *says;
    } cases[] = {
        {"faked", "does not name"},       {"fake:seed", "has no value"},
        {"fake:colour=1", "no key"},      {"fake:layers=0", "must be 1 to 256"},
        {"fake:layers=2x", "layers=2x"},  {"fake:kv_bytes=7", "must be even"},
        {"fake:vocab=10", "must be 258"}, {"fake:name=", "name must have"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct engine_options o;
        struct engine *g = NULL;
        struct err e = {0};
        engine_options_default(&o);
        o.model = cases[i].model;
        assert_int_equal(engine_fake_open(&o, &g, &e), ERR_INVALID);
        assert_non_null(strstr(e.message, cases[i].says));
    }
}

// ---- identity -----------------------------------------------------------------------------------

static void identities_differ_where_they_should(void **state)
{
    static const struct {
        const char *model;
        bool same_weights;
        const char *says; // NULL: equal
    } cases[] = {
        {"fake", true, NULL},
        {"fake:decode_us=5,crash_after=9", true, NULL},
        {"fake:seed=2", false, NULL},
        {"fake:seed=2", true, "weights: \"seed-1\" here, \"seed-2\" there"},
        {"fake:name=other", true, "model: \"fake\" here, \"other\" there"},
        {"fake:layers=5", false, "n_layer: 4 here, 5 there"},
        {"fake:vocab=300", false, "n_vocab: 258 here, 300 there"},
        {"fake:state=1", false, "attention_layout: 1 here, 3 there"},
    };
    struct engine *g = open_fake("fake", ENGINE_HANDOFF_NONE);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct engine *o = open_fake(cases[i].model, ENGINE_HANDOFF_NONE);
        struct err e = {0};
        int rc = engine_identity_compare(&g->identity, &o->identity, cases[i].same_weights, &e);
        assert_int_equal(rc, cases[i].says == NULL ? 0 : ERR_MISMATCH);
        if (cases[i].says != NULL)
            assert_non_null(strstr(e.message, cases[i].says));
        o->ops->free(o);
    }
    g->ops->free(g);
}

// ---- text and sampling --------------------------------------------------------------------------

static void text_round_trips(void **state)
{
    struct engine *g = open_fake("fake", ENGINE_HANDOFF_NONE);
    const char *text = "gr\xc3\xbc\xc3\x9f dich";
    char back[64];
    int32_t *tokens;
    size_t n, len = 0;
    (void)state;
    assert_int_equal(g->ops->tokenize(g, text, strlen(text), false, true, &tokens, &n, NULL), 0);
    assert_int_equal(n, strlen(text) + 1);
    assert_int_equal(tokens[0], FAKE_TOKEN_BEGIN);
    for (size_t i = 0; i < n; i++)
        len += g->ops->piece(g, tokens[i], back + len, sizeof back - len);
    back[len] = '\0';
    assert_string_equal(back, text);
    assert_true(g->ops->is_end(g, FAKE_TOKEN_END));
    free(tokens);
    g->ops->free(g);
}

static void render_joins_messages(void **state)
{
    static const struct {
        const char *request, *prompt; // NULL: refused
    } cases[] = {
        {"{\"messages\":[{\"role\":\"system\",\"content\":\"be kind\"},"
         "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"hi\"}]}]}",
         "system: be kind\nuser: hi\nassistant: "},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":null},{\"role\":\"user\"}]}",
         "assistant: \nuser: \nassistant: "},
        {"{\"messages\":[]}", NULL},
        {"{\"messages\":[{\"content\":\"x\"}]}", NULL},
        {"{\"messages\":[{\"role\":\"user\",\"content\":7}]}", NULL},
        {"{}", NULL},
    };
    struct engine *g = open_fake("fake", ENGINE_HANDOFF_NONE);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *request = json_loads(cases[i].request, 0, NULL), *out = NULL;
        int rc = g->ops->render(g, request, &out, NULL);
        assert_int_equal(rc, cases[i].prompt != NULL ? 0 : ERR_INVALID);
        if (rc == 0)
            assert_string_equal(json_string_value(json_object_get(out, "prompt")), cases[i].prompt);
        json_decref(out);
        json_decref(request);
    }
    g->ops->free(g);
}

// Generates until the end token or `max`; returns how many tokens came.
static size_t generate(const char *model, const struct engine_sampling *s, int32_t *out, size_t max)
{
    struct engine *g = open_fake(model, ENGINE_HANDOFF_NONE);
    struct engine_sampler *sampler = NULL;
    size_t n = 0;
    assert_int_equal(g->ops->sampler_new(g, s, &sampler, NULL), 0);
    assert_int_equal(step_range(g, 0, 0, 5, true), 0);
    int32_t t = g->ops->sample(g, sampler, 4);
    while (n < max && !g->ops->is_end(g, t)) {
        struct engine_row row = {t, 5 + (uint32_t)n, 0, true};
        out[n++] = t;
        assert_int_equal(g->ops->step(g, &row, 1, NULL), 0);
        t = g->ops->sample(g, sampler, 0);
    }
    g->ops->sampler_free(g, sampler);
    g->ops->free(g);
    return n;
}

static void sampling_follows_its_seed(void **state)
{
    struct engine_sampling greedy, a, b;
    int32_t x[100] = {0}, y[100] = {0};
    size_t n;
    (void)state;
    engine_sampling_default(&greedy);
    greedy.temperature = 0;
    n = generate("fake", &greedy, x, 100);
    assert_int_equal(generate("fake", &greedy, y, 100), n);
    assert_memory_equal(x, y, sizeof x);
    for (size_t i = 0; i < n; i++)
        assert_true((x[i] >= 'a' && x[i] <= 'z') || x[i] == ' ');
    assert_int_not_equal(
        generate("fake:seed=2", &greedy, y, 100) == n && memcmp(x, y, sizeof x) == 0, 1);
    engine_sampling_default(&a);
    b = a;
    a.seed = 1;
    n = generate("fake", &a, x, 100);
    memset(y, 0, sizeof y);
    assert_int_equal(generate("fake", &a, y, 100), n);
    assert_memory_equal(x, y, n * sizeof *x);
    b.seed = 2;
    generate("fake", &b, y, 100);
    assert_memory_not_equal(x, y, 10 * sizeof *x);
    a.top_k = 1; // one candidate is greedy, whatever the temperature
    memset(y, 0, sizeof y);
    n = generate("fake", &greedy, x, 100);
    assert_int_equal(generate("fake", &a, y, 100), n);
    assert_memory_equal(x, y, n * sizeof *x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handing_over_in_any_split_is_exact),
        cmocka_unit_test(every_flipped_byte_shows),
        cmocka_unit_test(a_step_split_in_any_way_is_the_same),
        cmocka_unit_test(removing_the_tail_rewinds),
        cmocka_unit_test(a_recurrent_model_forgets_all_or_nothing),
        cmocka_unit_test(a_late_state_that_is_missing_shows),
        cmocka_unit_test(bad_imports_are_refused_and_change_nothing),
        cmocka_unit_test(tiles_hand_over_exactly),
        cmocka_unit_test(steps_are_checked),
        cmocka_unit_test(an_export_cannot_be_pulled_from_under),
        cmocka_unit_test(an_interrupt_takes_the_step_back),
        cmocka_unit_test(crash_after_aborts_at_that_token),
        cmocka_unit_test(model_strings_are_checked),
        cmocka_unit_test(identities_differ_where_they_should),
        cmocka_unit_test(text_round_trips),
        cmocka_unit_test(render_joins_messages),
        cmocka_unit_test(sampling_follows_its_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
