// A worker measures itself: what it says is of its engine, nobody notices, and a request ends it. And what
// finished requests say they cost. Nothing here asks how long anything took, but for what cannot be shorter.
#include "tests/worker_rig.h"

#define N_PROMPT 700
#define N_LONG 1500
#define PLENTY_S 60 // however busy the machine is, all of the order fits

static int32_t prompt[N_LONG];

static int defaults(void **state)
{
    rig_tokens(prompt, N_LONG, 3);
    return rig_defaults(state);
}

static struct rig_node *start(const char *model, enum engine_handoff mode)
{
    return rig_start(model, mode, false, false);
}

static void measure_send(struct rig_node *n, uint64_t id, double budget_s)
{
    rig_send(n, wire_frame_json(WIRE_MEASURE, id, message_measure_json(budget_s)));
}

static void measured_read(json_t *head, struct message_measured *m)
{
    struct err e = {0};
    if (message_measured_parse(head, m, &e) != 0)
        fail_msg("%s", e.message);
    json_decref(head);
}

static void measure(struct rig_node *n, double budget_s, struct message_measured *m)
{
    unsigned type = 0;
    measure_send(n, 900, budget_s);
    json_t *head = rig_recv(n, &type);
    assert_int_equal(type, WIRE_MEASURED);
    measured_read(head, m);
}

static void ask(struct rig_node *n, uint64_t id, size_t tokens, uint32_t gen, const char *owner)
{
    struct rig_request r = {.id = id,
                            .tokens = prompt,
                            .n = tokens,
                            .max_tokens = gen,
                            .owner = owner,
                            .keep = owner != NULL,
                            .reuse = owner != NULL};
    rig_generate(n, &r);
}

static json_t *status_get(struct rig_node *n)
{
    unsigned type = 0;
    rig_send(n, wire_frame_json(WIRE_STATUS, 5, NULL));
    json_t *head = rig_recv(n, &type);
    assert_int_equal(type, WIRE_STATUS_IS);
    return head;
}

// ---- measuring -----------------------------------------------------------------------------------

// Every number is of what was computed: the fake engine takes at least so long for a row.
static void numbers_check(const struct message_measured *m, double read_us, double step_us)
{
    double grown = 0;
    for (size_t i = 0; i < m->n_reads; i++) {
        const struct profile_read *r = &m->reads[i];
        assert_true(r->seconds >= r->tokens * read_us / 1e6);
        assert_true(r->depth == 0 || r->depth >= grown);
        assert_true(r->chunk_tokens > 0 && r->chunk_tokens <= 128);
        grown = r->depth > 0 || i == 0 ? r->depth + r->tokens : grown;
    }
    for (size_t i = 0; i < m->n_steps; i++) {
        const struct profile_steps *s = &m->steps[i];
        assert_true(s->steps >= 6 && s->rows >= 1);
        assert_true(s->depth_sum >= s->rows * 64 && s->depth_sum < 8192);
        assert_true(s->seconds >= s->steps * s->rows * step_us / 1e6);
    }
}

static double most_rows(const struct message_measured *m)
{
    double most = 0;
    for (size_t i = 0; i < m->n_steps; i++)
        most = m->steps[i].rows > most ? m->steps[i].rows : most;
    return most;
}

static void test_measures(void **state)
{
    static const char *const models[] = {"fake:prefill_us=20,decode_us=200",
                                         "fake:prefill_us=20,decode_us=200,apart=1"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct message_measured m;
        struct rig_node *n = start(models[i], ENGINE_HANDOFF_RANGES);
        n->w.load_s = 1.5;
        measure(n, PLENTY_S, &m);
        assert_true(m.complete && m.load_s == 1.5);
        assert_true(m.n_reads >= 6 && m.n_steps >= 5);
        assert_true(m.reads[0].tokens == 64 && m.reads[0].depth == 0);
        numbers_check(&m, 20, 200);
        assert_true(most_rows(&m) == 4); // all the sequences there are
        assert_true(m.export.bytes > 0 && m.export.bytes == m.import.bytes);
        rig_stop(n);
    }
}

static int open_paced(const struct engine_options *o, struct engine **out, struct err *e)
{
    int rc = engine_fake_open(o, out, e);
    if (rc == 0)
        *out = engine_paced_new(*out, 40000, 2000);
    return rc;
}

// An emulated machine is measured as it is paced: a step takes its slot, however many answers it is of.
static void test_emulated_machines(void **state)
{
    struct message_measured m;
    (void)state;
    rig_options.open = open_paced;
    struct rig_node *n = start("fake", ENGINE_HANDOFF_RANGES);
    measure(n, PLENTY_S, &m);
    assert_true(m.complete && m.n_reads >= 3 && m.n_steps >= 2);
    numbers_check(&m, 1e6 / 40000, 0);
    for (size_t i = 0; i < m.n_steps; i++)
        assert_true(m.steps[i].seconds >= m.steps[i].steps / 2000);
    rig_stop(n);
}

// Nothing of it is left: not in what is held, nor in what answers say.
static void test_nobody_notices(void **state)
{
    struct message_measured m;
    struct rig_answer before, after;
    (void)state;
    struct rig_node *n = start("fake:apart=1", ENGINE_HANDOFF_RANGES);
    ask(n, 1, N_PROMPT, 40, NULL);
    rig_answer_read(n, &before);
    measure(n, 2, &m);
    assert_true(m.complete);
    json_t *status = status_get(n);
    assert_int_equal(rig_integer(status, "cells_used"), 0);
    assert_int_equal(rig_integer(status, "sequences_kept"), 0);
    json_decref(status);
    ask(n, 2, N_PROMPT, 40, "one");
    rig_answer_read(n, &after);
    assert_int_equal(after.cached, 0);
    assert_string_equal(before.text, after.text);
    rig_stop(n);
}

// What clients may come back for stays, however little room that leaves.
static void test_kept_sequences_stay(void **state)
{
    static const char *const owners[] = {"a", "b", "c", "d"};
    struct message_measured m;
    struct rig_answer answer;
    (void)state;
    struct rig_node *n = start("fake", ENGINE_HANDOFF_RANGES);
    for (uint64_t i = 0; i < 4; i++) {
        ask(n, i, N_PROMPT, 2, owners[i]);
        rig_answer_read(n, &answer);
        measure(n, PLENTY_S, &m);
        assert_true(m.complete);
        assert_int_equal(most_rows(&m), i == 0 ? 2 : i < 3 ? most_rows(&m) : 0);
        assert_true((m.n_reads > 0) == (i < 3));      // then there is no sequence left
        assert_true((m.export.bytes > 0) == (i < 2)); // and before that no second one
    }
    for (uint64_t i = 0; i < 4; i++) {
        ask(n, 10 + i, N_PROMPT, 2, owners[i]);
        rig_answer_read(n, &answer);
        assert_true(answer.cached > N_PROMPT / 2);
    }
    rig_stop(n);
}

// A machine so slow that the first prompt of the order is too much: a little is measured, and told as it is.
static void test_slow_ones(void **state)
{
    struct message_measured m;
    (void)state;
    struct rig_node *n = start("fake:prefill_us=10000,decode_us=20000", ENGINE_HANDOFF_RANGES);
    measure(n, 1, &m);
    assert_true(m.complete && m.n_reads == 1 && m.n_steps == 1);
    assert_true(m.reads[0].tokens == 16 && m.reads[0].depth == 0 && m.reads[0].seconds >= 0.16);
    assert_true(m.steps[0].steps == 2 && m.steps[0].rows == 1 && m.steps[0].depth_sum == 17.5);
    assert_true(m.steps[0].seconds >= 0.04 && m.export.bytes > 0);
    rig_stop(n);
}

static void test_small_rooms(void **state)
{
    static const struct {
        uint32_t n_ctx, n_seq, n_batch;
    } rooms[] = {{8192, 1, 128}, {80, 4, 16}, {64, 1, 64}, {300, 2, 512}, {24, 2, 16}};
    (void)state;
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        struct message_measured m;
        struct rig_answer answer;
        rig_options.n_ctx = rooms[i].n_ctx;
        rig_options.n_seq = rooms[i].n_seq;
        rig_options.n_batch = rooms[i].n_batch;
        struct rig_node *n = start("fake", ENGINE_HANDOFF_RANGES);
        measure(n, PLENTY_S, &m);
        assert_true(m.complete);
        assert_true(m.n_reads > 0 && (m.n_steps > 0) == (rooms[i].n_ctx > 72));
        ask(n, 1, 10, 5, NULL);
        rig_answer_read(n, &answer);
        assert_int_equal(answer.type, WIRE_DONE);
        rig_stop(n);
    }
}

// Models whose sequences cannot be cut, and all ways to hand over.
static void test_kinds_of_models(void **state)
{
    static const struct {
        const char *model;
        enum engine_handoff mode;
    } kinds[] = {{"fake:state=1", ENGINE_HANDOFF_RANGES},
                 {"fake:state=1", ENGINE_HANDOFF_LATE_STATE},
                 {"fake:state=1", ENGINE_HANDOFF_WHOLE},
                 {"fake:export_us=2000", ENGINE_HANDOFF_RANGES},
                 {"fake", ENGINE_HANDOFF_NONE}};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct message_measured m;
        struct rig_node *n = start(kinds[i].model, kinds[i].mode);
        measure(n, PLENTY_S, &m);
        assert_true(m.complete && m.n_reads >= 5 && m.n_steps >= 4);
        assert_true((m.export.bytes > 0) == (kinds[i].mode != ENGINE_HANDOFF_NONE));
        numbers_check(&m, 0, 0);
        rig_stop(n);
    }
}

// ---- requests come first -------------------------------------------------------------------------

// A request that comes in the middle: what was measured is told at once, and the answer is as ever.
static void test_a_request_ends_it(void **state)
{
    struct message_measured m;
    struct rig_answer alone, answer;
    unsigned type = 0;
    (void)state;
    struct rig_node *n = start("fake:prefill_us=1000,decode_us=100", ENGINE_HANDOFF_RANGES);
    ask(n, 1, 100, 20, NULL);
    rig_answer_read(n, &alone);
    for (uint64_t i = 0; i < 3; i++) { // 15 s of work: these come in the middle of a piece
        measure_send(n, 10 + i, 15);
        clock_sleep_until(clock_now_ns() + (int64_t)(1 + 60 * i) * NS_PER_MS);
        ask(n, 20 + i, 100, 20, NULL);
        json_t *head = rig_recv(n, &type);
        assert_int_equal(type, WIRE_MEASURED);
        measured_read(head, &m);
        assert_false(m.complete);
        numbers_check(&m, 1000, 100);
        rig_answer_read(n, &answer);
        assert_int_equal(answer.type, WIRE_DONE);
        assert_string_equal(alone.text, answer.text);
    }
    rig_stop(n);
}

static void test_while_requests_run(void **state)
{
    struct message_measured m;
    unsigned type = 0;
    bool measured = false, done = false;
    (void)state;
    struct rig_node *n = start("fake:decode_us=1000", ENGINE_HANDOFF_RANGES);
    ask(n, 1, 100, 50, NULL);
    measure_send(n, 2, 5);
    while (!measured || !done) {
        json_t *head = rig_recv(n, &type);
        done = done || type == WIRE_DONE;
        if (type != WIRE_MEASURED) {
            json_decref(head);
            continue;
        }
        measured_read(head, &m);
        measured = true;
        assert_true(!m.complete && !done && m.n_reads == 0 && m.n_steps == 0);
    }
    rig_stop(n);
}

static void test_what_is_refused(void **state)
{
    static const struct {
        const char *head, *says;
    } cases[] = {{"{\"budget_s\":0}", "budget_s"},
                 {"{\"budget_s\":-1}", "budget_s"},
                 {"{\"budget_s\":1e9}", "budget_s"},
                 {"{\"budget_s\":\"x\"}", "budget_s"}};
    unsigned type = 0;
    (void)state;
    struct rig_node *n = start("fake:prefill_us=500", ENGINE_HANDOFF_RANGES);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig_send(n, wire_frame_json(WIRE_MEASURE, i, json_loads(cases[i].head, 0, NULL)));
        json_t *head = rig_recv(n, &type);
        assert_int_equal(type, WIRE_FAILED);
        assert_non_null(strstr(json_string_value(json_object_get(head, "message")), cases[i].says));
        json_decref(head);
    }
    measure_send(n, 7, 15);
    measure_send(n, 8, 15);
    json_t *head = rig_recv(n, &type);
    assert_int_equal(type, WIRE_FAILED);
    assert_string_equal(json_string_value(json_object_get(head, "code")), "busy");
    json_decref(head);
    rig_send(n, wire_frame_json(WIRE_CANCEL, 8, NULL)); // not that one
    rig_send(n, wire_frame_json(WIRE_CANCEL, 7, NULL));
    head = rig_recv(n, &type);
    assert_int_equal(type, WIRE_MEASURED);
    assert_false(json_is_true(json_object_get(head, "complete")));
    json_decref(head);
    measure_send(n, 9, 15); // whoever asked goes away
    clock_sleep_until(clock_now_ns() + 20 * NS_PER_MS);
    rig_stop(n);
}

// Another gateway's CANCEL ends nothing, even where it is of the same number.
static void test_whose_cancel(void **state)
{
    struct err e = {0};
    unsigned type = 0;
    (void)state;
    struct rig_node *n = rig_start("fake:prefill_us=500", ENGINE_HANDOFF_RANGES, true, false);
    struct net_conn *other = rig_link(n, "gateway");
    struct wire_frame cancel = wire_frame_json(WIRE_CANCEL, 7, NULL), in = {0};
    struct wire_frame status = wire_frame_json(WIRE_STATUS, 8, NULL);
    measure_send(n, 7, 15);
    assert_int_equal(wire_frame_write(other, &cancel, RIG_DEADLINE, &e), 0);
    assert_int_equal(wire_frame_write(other, &status, RIG_DEADLINE, &e), 0);
    assert_int_equal(wire_frame_read(other, &in, RIG_DEADLINE, &e), 0); // it was seen by then
    rig_send(n, wire_frame_json(WIRE_STATUS, 9, NULL));
    json_decref(rig_recv(n, &type));
    assert_int_equal(type, WIRE_STATUS_IS);
    rig_send(n, wire_frame_json(WIRE_CANCEL, 7, NULL));
    json_decref(rig_recv(n, &type));
    assert_int_equal(type, WIRE_MEASURED);
    wire_frame_fini(&cancel);
    wire_frame_fini(&status);
    wire_frame_fini(&in);
    net_conn_free(other);
    rig_stop(n);
}

// ---- what requests cost --------------------------------------------------------------------------

static void done_cost(struct rig_node *n, unsigned wanted, struct message_cost *c, json_t **done)
{
    struct err e = {0};
    for (;;) {
        unsigned type = 0;
        json_t *head = rig_recv(n, &type);
        if (type == WIRE_FAILED)
            fail_msg("%s", json_string_value(json_object_get(head, "message")));
        if (type == wanted) {
            assert_non_null(json_object_get(head, "cost"));
            assert_int_equal(message_cost_parse(head, c, &e), 0);
            *done = head;
            return;
        }
        json_decref(head);
    }
}

static double tokens_of(const struct message_cost *c)
{
    double sum = 0;
    for (size_t i = 0; i < c->n_reads; i++)
        sum += c->reads[i].tokens;
    return sum;
}

static void test_cost_of_one(void **state)
{
    struct message_cost c;
    json_t *done = NULL;
    (void)state;
    struct rig_node *n = start("fake:prefill_us=50,decode_us=500", ENGINE_HANDOFF_RANGES);
    ask(n, 1, 641, 12, "one"); // five full chunks
    done_cost(n, WIRE_DONE, &c, &done);
    assert_int_equal(c.n_reads, 1);
    assert_true(c.reads[0].tokens == 640 && c.reads[0].depth == 0);
    assert_true(c.reads[0].chunk_tokens == 128 && c.reads[0].seconds >= 640 * 50e-6);
    assert_true(c.steps.steps == 12 && c.steps.rows == 1);
    assert_true(c.steps.depth_sum == 640 + 5.5 && c.steps.seconds >= 12 * 500e-6);
    assert_true(c.export.bytes == 0 && c.import.bytes == 0);
    json_decref(done);
    ask(n, 2, 1400, 2, "one"); // what is kept costs nothing
    done_cost(n, WIRE_DONE, &c, &done);
    assert_true(c.n_reads >= 1 && c.reads[0].depth == (double)rig_integer(done, "tokens_cached"));
    assert_true(tokens_of(&c) == (double)rig_integer(done, "tokens_read") - 1);
    json_decref(done);
    rig_stop(n);
}

// Two answers side by side: each one's steps tell of both.
static void test_cost_of_two(void **state)
{
    struct message_cost c[2];
    json_t *done = NULL;
    (void)state;
    struct rig_node *n = start("fake:decode_us=300", ENGINE_HANDOFF_RANGES);
    ask(n, 1, 100, 60, NULL);
    ask(n, 2, 100, 60, NULL);
    for (size_t i = 0; i < 2; i++) {
        done_cost(n, WIRE_DONE, &c[i], &done);
        json_decref(done);
        assert_true(c[i].steps.rows > 1 && c[i].steps.rows <= 2);
        assert_true(c[i].steps.steps <= 60);
        assert_true(c[i].steps.depth_sum > 100 && c[i].steps.depth_sum < 320);
        assert_true(c[i].steps.seconds >= c[i].steps.steps * c[i].steps.rows * 300e-6);
    }
    rig_stop(n);
}

static void test_cost_of_a_handoff(void **state)
{
    struct message_cost read, written;
    json_t *prefilled = NULL, *done = NULL;
    unsigned type = 0;
    (void)state;
    struct rig_node *p = rig_start("fake:prefill_us=50", ENGINE_HANDOFF_RANGES, true, false);
    struct rig_node *d = start("fake:decode_us=500", ENGINE_HANDOFF_RANGES);
    struct rig_request r = {
        .id = 3, .tokens = prompt, .n = N_LONG, .max_tokens = 10, .port = p->port};
    rig_prefill(p, &r);
    json_decref(rig_recv(p, &type));
    rig_generate(d, &r);
    done_cost(p, WIRE_PREFILLED, &read, &prefilled);
    done_cost(d, WIRE_DONE, &written, &done);
    double kv_bytes = (double)rig_integer(prefilled, "kv_bytes");
    assert_true(tokens_of(&read) == N_LONG - 1 && read.steps.steps == 0);
    assert_true(read.export.bytes == kv_bytes && read.import.bytes == 0);
    assert_true(written.import.bytes == kv_bytes && written.export.bytes == 0);
    assert_true(written.n_reads == 0 && written.steps.steps == 10);
    json_decref(prefilled);
    json_decref(done);
    rig_stop(d);
    rig_stop(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_measures, defaults),
        cmocka_unit_test_setup(test_emulated_machines, defaults),
        cmocka_unit_test_setup(test_nobody_notices, defaults),
        cmocka_unit_test_setup(test_kept_sequences_stay, defaults),
        cmocka_unit_test_setup(test_slow_ones, defaults),
        cmocka_unit_test_setup(test_small_rooms, defaults),
        cmocka_unit_test_setup(test_kinds_of_models, defaults),
        cmocka_unit_test_setup(test_a_request_ends_it, defaults),
        cmocka_unit_test_setup(test_while_requests_run, defaults),
        cmocka_unit_test_setup(test_what_is_refused, defaults),
        cmocka_unit_test_setup(test_whose_cancel, defaults),
        cmocka_unit_test_setup(test_cost_of_one, defaults),
        cmocka_unit_test_setup(test_cost_of_two, defaults),
        cmocka_unit_test_setup(test_cost_of_a_handoff, defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
