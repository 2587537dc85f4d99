// Who computes when: prompts beside running answers, turns between prompts, owners, and what waits.
// Nothing here measures time: orders and counts of rows are what must hold on a machine of any speed.
#include "tests/worker_rig.h"

#define N_LONG 3000
#define N_SHORT 200

static struct rig_node *start(const char *model)
{
    return rig_start(model, ENGINE_HANDOFF_RANGES, false, false);
}

struct prompt {
    int32_t *tokens;
    size_t n;
};

static struct prompt prompt_make(size_t n, unsigned seed)
{
    struct prompt p = {mem_alloc(n * sizeof *p.tokens), n};
    rig_tokens(p.tokens, n, seed);
    return p;
}

static void generate(struct rig_node *d, uint64_t id, const struct prompt *p, uint32_t max_tokens,
                     const char *owner)
{
    struct rig_request r = {
        .id = id, .tokens = p->tokens, .n = p->n, .max_tokens = max_tokens, .owner = owner};
    rig_generate(d, &r);
}

// The next frame of one of these two types; which request it belongs to.
static uint64_t next_of(struct rig_node *d, unsigned type, unsigned or_type, json_t **head)
{
    for (;;) {
        struct err e = {0};
        struct wire_frame f = {0};
        if (wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e) != 0)
            fail_msg("%s", e.message);
        if (f.type == WIRE_FAILED)
            fail_msg("%.*s", (int)f.head_bytes, f.head);
        bool found = f.type == type || f.type == or_type;
        uint64_t id = f.id;
        if (found && head != NULL)
            *head = wire_frame_parse(&f, &e);
        wire_frame_fini(&f);
        if (found)
            return id;
    }
}

static uint64_t next_done(struct rig_node *d)
{
    return next_of(d, WIRE_DONE, WIRE_DONE, NULL);
}

// ---- prompts beside answers ----------------------------------------------------------------------

struct spans {
    uint32_t most; // rows of one step
    uint32_t rows;
    size_t n;
};

static struct spans spans_of(const json_t *done)
{
    struct spans s = {0};
    size_t i;
    const json_t *span;
    json_array_foreach(json_object_get(done, "timeline"), i, span)
    {
        if (strcmp(json_string_value(json_object_get(span, "what")), "compute") != 0)
            continue;
        uint32_t rows = (uint32_t)(rig_integer(span, "p1") - rig_integer(span, "p0"));
        s.rows += rows;
        s.n++;
        s.most = rows > s.most ? rows : s.most;
    }
    return s;
}

static void timed(struct rig_node *d, uint64_t id, const struct prompt *p)
{
    struct message_generate m = {
        .epoch = 1, .max_tokens = 4, .ignore_eos = true, .timeline = true, .logprobs = -1};
    engine_sampling_default(&m.sampling);
    m.sampling.temperature = 0;
    rig_send(d, wire_frame_tokens(WIRE_GENERATE, id, message_generate_json(&m), p->tokens, p->n));
}

// How a prompt is read by a worker with nothing else to do.
static struct spans alone(const char *model, size_t n_prompt)
{
    rig_options.n_batch = 512;
    struct rig_node *d = start(model);
    struct prompt p = prompt_make(n_prompt, 1);
    json_t *done = NULL;

    timed(d, 1, &p);
    next_of(d, WIRE_DONE, WIRE_DONE, &done);
    struct spans s = spans_of(done);
    json_decref(done);
    rig_stop(d);
    free(p.tokens);
    return s;
}

// Where a chunk takes long, those of a long prompt are computed in parts: others that come are looked at in between.
static void test_long_ones_in_parts(void **state)
{
    (void)state;
    struct spans s = alone("fake:prefill_us=10", 1300);
    assert_int_equal(s.n, 3);
    s = alone("fake:prefill_us=1500", 1300); // 0.65 s for each of three
    assert_int_equal(s.rows, 1299);
    assert_int_equal(s.n, 5); // the first taught it
    s = alone("fake:prefill_us=1500", 513);
    assert_int_equal(s.n, 1);
}

// How a prompt is read while an answer runs, under a bound of so many milliseconds.
static struct spans beside_an_answer(int32_t stall_ms, size_t n_prompt)
{
    rig_options.stall_ms = stall_ms;
    struct rig_node *d = start("fake:decode_us=3000,prefill_us=20");
    struct prompt a = prompt_make(20, 1), b = prompt_make(n_prompt, 2);
    json_t *done = NULL;

    generate(d, 1, &a, 5000, NULL);
    next_of(d, WIRE_TOKEN, WIRE_TOKEN, NULL); // the answer runs
    next_of(d, WIRE_TOKEN, WIRE_TOKEN, NULL);
    timed(d, 2, &b);
    while (next_of(d, WIRE_DONE, WIRE_DONE, &done) != 2)
        json_decref(done);
    struct spans s = spans_of(done);
    json_decref(done);
    rig_stop(d);
    free(a.tokens);
    free(b.tokens);
    return s;
}

static void test_rows_go_along(void **state)
{
    (void)state;
    // A bound that a decode step alone breaks: one row with each step, the smallest that moves.
    struct spans s = beside_an_answer(1, 50);
    assert_int_equal(s.most, 1);
    assert_int_equal(s.rows, 49);
    // No bound: chunks as if nobody else were there.
    s = beside_an_answer(0, 600);
    assert_int_equal(s.most, 128);
    assert_int_equal(s.rows, 599);
    // By itself: never a whole chunk in a step with others.
    s = beside_an_answer(NODE_STALL_AUTO, 400);
    assert_int_equal(s.rows, 399);
    assert_true(s.n > 399 / 128);
}

// What an answer says does not depend on how its prompt was read, nor the running one's on it.
static void test_same_answers(void **state)
{
    (void)state;
    static const int32_t bounds[] = {NODE_STALL_AUTO, 0, 1, 20};
    struct prompt a = prompt_make(300, 3), b = prompt_make(500, 4);
    struct rig_answer alone[2];
    struct rig_node *d = start("fake");
    generate(d, 1, &a, 400, NULL);
    rig_answer_read(d, &alone[0]);
    generate(d, 2, &b, 30, NULL);
    rig_answer_read(d, &alone[1]);
    rig_stop(d);
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        size_t n[2] = {0};
        rig_options.stall_ms = bounds[i];
        d = start("fake:decode_us=1000,prefill_us=50");
        generate(d, 1, &a, 400, NULL);
        generate(d, 2, &b, 30, NULL);
        for (int ended = 0; ended < 2;) {
            json_t *head = NULL;
            uint64_t id = next_of(d, WIRE_TOKEN, WIRE_DONE, &head);
            const json_t *token = json_object_get(head, "id");
            if (token != NULL)
                assert_int_equal(json_integer_value(token), alone[id - 1].ids[n[id - 1]++]);
            ended += token == NULL;
            json_decref(head);
        }
        assert_true(n[0] == alone[0].n && n[1] == alone[1].n);
        rig_stop(d);
    }
    free(a.tokens);
    free(b.tokens);
}

// More answers than a step has rows: every one of them goes on.
static void test_more_answers_than_rows(void **state)
{
    (void)state;
    enum { ANSWERS = 40, LENGTH = 12 };
    rig_options.n_seq = ANSWERS;
    rig_options.n_batch = 16;
    struct prompt p[ANSWERS];
    struct rig_answer alone[ANSWERS];
    size_t n[ANSWERS] = {0}, most = 0, least = 0;
    struct rig_node *d = start("fake");

    for (uint64_t i = 0; i < ANSWERS; i++) {
        p[i] = prompt_make(10, 100 + (unsigned)i);
        generate(d, i, &p[i], LENGTH, NULL);
        rig_answer_read(d, &alone[i]);
    }
    rig_stop(d);
    d = start("fake:decode_us=100");
    for (uint64_t i = 0; i < ANSWERS; i++)
        generate(d, i, &p[i], LENGTH, NULL);
    for (int ended = 0; ended < ANSWERS;) {
        json_t *head = NULL;
        uint64_t id = next_of(d, WIRE_TOKEN, WIRE_DONE, &head);
        const json_t *token = json_object_get(head, "id");
        if (token != NULL)
            assert_int_equal(json_integer_value(token), alone[id].ids[n[id]++]);
        ended += token == NULL;
        json_decref(head);
        if (ended == 0) {
            most = least = n[0];
            for (int i = 0; i < ANSWERS; i++) {
                most = n[i] > most ? n[i] : most;
                least = n[i] < least ? n[i] : least;
            }
        }
    }
    print_message("when the first ended, the others had %zu to %zu of %d\n", least, most, LENGTH);
    rig_stop(d);
    for (int i = 0; i < ANSWERS; i++) {
        assert_int_equal(n[i], LENGTH);
        free(p[i].tokens);
    }
}

// ---- turns and owners ----------------------------------------------------------------------------

// A short prompt does not wait until a long one has been read.
static void test_prompts_take_turns(void **state)
{
    (void)state;
    struct rig_node *d = start("fake:prefill_us=100");
    struct prompt a = prompt_make(N_LONG, 5), b = prompt_make(N_SHORT, 6);

    generate(d, 1, &a, 2, NULL);
    generate(d, 2, &b, 2, NULL);
    assert_int_equal(next_done(d), 2);
    assert_int_equal(next_done(d), 1);
    rig_stop(d);
    free(a.tokens);
    free(b.tokens);
}

// What the engine was asked to compute, as it saw it: whose prompt each step was of.
static struct {
    const struct engine_ops *inner;
    struct engine_ops ops;
    struct worker *_Atomic worker; // NULL: not yet
    uint32_t seqs[8192];           // of steps that read a prompt, in order
    size_t n;
    unsigned waiting, over; // steps while segments waited, and those of them with rows of a prompt
} seen;

static int seen_step(struct engine *g, const struct engine_row *rows, size_t n, struct err *e)
{
    const struct engine_row *last = &rows[n - 1];
    struct worker *w = atomic_load(&seen.worker);
    bool waits = w != NULL && worker_imports_wait(w);
    int rc = seen.inner->step(g, rows, n, e);
    if (rc != 0)
        return rc;
    seen.waiting += waits;
    seen.over += waits && !last->want_logits;
    if (!last->want_logits && seen.n < sizeof seen.seqs / sizeof *seen.seqs)
        seen.seqs[seen.n++] = last->seq;
    return rc;
}

static void engine_watch(struct engine *g)
{
    memset(&seen, 0, sizeof seen);
    seen.inner = g->ops;
    seen.ops = *g->ops;
    seen.ops.step = seen_step;
    g->ops = &seen.ops;
}

static struct rig_node *start_watched(const char *model)
{
    rig_options.change = engine_watch;
    struct rig_node *d = start(model);
    rig_options.change = NULL;
    return d;
}

// Steps of the prompt in `seq` before the last one of the prompt in `until`.
static size_t steps_before(uint32_t seq, uint32_t until)
{
    size_t last = 0, n = 0;
    for (size_t i = 0; i < seen.n; i++)
        last = seen.seqs[i] == until ? i : last;
    for (size_t i = 0; i < last; i++)
        n += seen.seqs[i] == seq;
    return n;
}

// Of two that came together the one that is nearly read is finished; the other has a turn now and then.
static void test_the_shorter_first(void **state)
{
    (void)state;
    struct rig_node *d = start_watched("fake:prefill_us=100");
    struct prompt a = prompt_make(N_LONG + 400, 21), b = prompt_make(N_LONG, 22);
    size_t chunks = N_LONG / 128;

    generate(d, 1, &a, 2, NULL);
    generate(d, 2, &b, 2, NULL);
    assert_int_equal(next_done(d), 2);
    assert_int_equal(next_done(d), 1);
    rig_stop(d);
    size_t meanwhile = steps_before(0, 1);
    print_message("%zu chunks of the longer one before the shorter one of %zu was read\n",
                  meanwhile, chunks + 1);
    assert_true(meanwhile >= chunks / 6 &&
                meanwhile <= chunks / 2); // in turns they would be as many
    free(a.tokens);
    free(b.tokens);
}

// Short prompts keep coming: the long one is read all the same.
static void test_long_ones_are_read(void **state)
{
    (void)state;
    enum { SHORT = 160 };
    struct rig_node *d = start_watched("fake:prefill_us=10");
    struct prompt big = prompt_make(N_LONG, 23), p[SHORT];
    unsigned before = 0;

    generate(d, 999, &big, 2, NULL);
    for (uint64_t i = 0; i < SHORT; i++) {
        p[i] = prompt_make(N_SHORT, 400 + (unsigned)i);
        generate(d, i, &p[i], 1, NULL);
    }
    while (next_done(d) != 999)
        before++;
    print_message("%u of %d were answered before\n", before, SHORT);
    // 24 chunks, each after at most 12 of others (of 4 readers), which are of two chunks.
    assert_true(before < 24 * 12 / 2);
    for (unsigned i = before; i < SHORT; i++)
        next_done(d);
    rig_stop(d);
    free(big.tokens);
    for (int i = 0; i < SHORT; i++)
        free(p[i].tokens);
}

// One owner has filled the queue; another one's request is the next to be served.
static void test_owners_are_fair(void **state)
{
    (void)state;
    struct rig_node *d = start("fake:prefill_us=200");
    struct prompt p[13];
    unsigned before = 0;

    for (uint64_t i = 0; i < 12; i++) {
        p[i] = prompt_make(N_SHORT, 200 + (unsigned)i);
        generate(d, i, &p[i], 2, "many");
    }
    p[12] = prompt_make(N_SHORT, 250);
    generate(d, 12, &p[12], 2, "few");
    while (next_done(d) != 12)
        before++;
    print_message("%u of 12 were served before\n", before);
    assert_true(before <= 8); // the four that ran, and what began with it
    for (unsigned i = before + 1; i < 13; i++)
        next_done(d);
    for (int i = 0; i < 13; i++)
        free(p[i].tokens);
    rig_stop(d);
}

// A large request waits for room while small ones keep coming: some may pass it, not all.
static void test_large_ones_are_served(void **state)
{
    (void)state;
    enum { SMALL = 40 };
    struct rig_node *d = start("fake:prefill_us=30");
    struct prompt big = prompt_make(300, 7), p[SMALL];
    unsigned ended = 0, before = 0;
    bool begun = false;

    for (uint64_t i = 0; i < SMALL; i++) {
        p[i] = prompt_make(N_SHORT + 60, 300 + (unsigned)i);
        generate(d, i, &p[i], 2, NULL);
        if (i == 3)
            generate(d, 99, &big, 7300, NULL); // with three others it does not fit
    }
    while (ended < SMALL) {
        json_t *head = NULL;
        uint64_t id = next_of(d, WIRE_TOKEN, WIRE_DONE, &head);
        bool done = json_object_get(head, "finish") != NULL;
        if (id == 99 && !begun)
            before = ended;
        begun = begun || id == 99;
        ended += done && id != 99;
        json_decref(head);
    }
    print_message("%u of %d passed\n", before, SMALL);
    assert_true(begun && before <= 4 + WORKER_OVERTAKES + 4);
    for (int i = 0; i < SMALL; i++)
        free(p[i].tokens);
    free(big.tokens);
    rig_stop(d);
}

// Segments that come while an answer runs wait for their time and lose nothing.
static void test_imports_beside_answers(void **state)
{
    (void)state;
    struct rig_node *p = rig_start("fake:kv_bytes=8192", ENGINE_HANDOFF_RANGES, true, true);
    struct rig_node *d = start("fake:kv_bytes=8192,decode_us=1000");
    struct prompt a = prompt_make(50, 8), b = prompt_make(2000, 9);
    struct rig_answer alone;
    size_t n = 0;
    unsigned type = 0;

    generate(d, 1, &b, 10, NULL);
    rig_answer_read(d, &alone);
    generate(d, 2, &a, 4000, NULL);
    next_of(d, WIRE_TOKEN, WIRE_TOKEN, NULL);
    struct rig_request r = {
        .id = 3, .tokens = b.tokens, .n = b.n, .max_tokens = 10, .port = p->port};
    rig_prefill(p, &r);
    json_decref(rig_recv(p, &type));
    rig_generate(d, &r);
    for (bool ended = false; !ended;) {
        json_t *head = NULL;
        uint64_t id = next_of(d, WIRE_TOKEN, WIRE_DONE, &head);
        if (id == 3 && json_object_get(head, "finish") == NULL)
            assert_int_equal(rig_integer(head, "id"), alone.ids[n++]);
        ended = id == 3 && json_object_get(head, "finish") != NULL;
        if (ended) {
            assert_true(json_is_null(json_object_get(head, "fallback")));
            assert_int_equal(rig_integer(head, "tokens_imported"), 1999);
        }
        json_decref(head);
    }
    assert_int_equal(n, 10);
    rig_stop(d);
    rig_stop(p);
    free(a.tokens);
    free(b.tokens);
}

// Segments that wait are taken in before more of a prompt is read, but a prompt does not wait for ever.
static void test_imports_before_prompts(void **state)
{
    (void)state;
    struct rig_node *p = rig_start("fake:kv_bytes=512", ENGINE_HANDOFF_RANGES, true, false);
    rig_options.stall_ms = 1; // less than a step takes: one segment, one row with each
    struct rig_node *d = start_watched("fake:kv_bytes=512,decode_us=1500,prefill_us=20");
    struct prompt a = prompt_make(50, 31), b = prompt_make(300, 32), c = prompt_make(2000, 33);
    unsigned type = 0, ended = 0;

    atomic_store(&seen.worker, &d->w);
    generate(d, 2, &a, 4000, NULL);
    next_of(d, WIRE_TOKEN, WIRE_TOKEN, NULL);
    struct rig_request r = {
        .id = 3, .tokens = c.tokens, .n = c.n, .max_tokens = 3, .port = p->port};
    rig_prefill(p, &r);
    json_decref(rig_recv(p, &type));
    generate(d, 4, &b, 3, NULL);
    rig_generate(d, &r);
    while (ended < 2) {
        json_t *head = NULL;
        uint64_t id = next_of(d, WIRE_DONE, WIRE_DONE, &head);
        assert_true(id == 3 || id == 4);
        if (id == 3)
            assert_int_equal(rig_integer(head, "tokens_imported"), 1999);
        json_decref(head);
        ended++;
    }
    rig_stop(d);
    rig_stop(p);
    print_message("%u steps while segments waited, %u with rows of a prompt\n", seen.waiting,
                  seen.over);
    assert_true(seen.over <= seen.waiting / WORKER_IMPORTS_AHEAD + 1);
    free(a.tokens);
    free(b.tokens);
    free(c.tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_long_ones_in_parts, rig_defaults),
        cmocka_unit_test_setup(test_rows_go_along, rig_defaults),
        cmocka_unit_test_setup(test_same_answers, rig_defaults),
        cmocka_unit_test_setup(test_more_answers_than_rows, rig_defaults),
        cmocka_unit_test_setup(test_prompts_take_turns, rig_defaults),
        cmocka_unit_test_setup(test_the_shorter_first, rig_defaults),
        cmocka_unit_test_setup(test_long_ones_are_read, rig_defaults),
        cmocka_unit_test_setup(test_owners_are_fair, rig_defaults),
        cmocka_unit_test_setup(test_large_ones_are_served, rig_defaults),
        cmocka_unit_test_setup(test_imports_beside_answers, rig_defaults),
        cmocka_unit_test_setup(test_imports_before_prompts, rig_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
