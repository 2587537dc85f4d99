// Answers that go on between two parts of a long prompt's chunk: they are as they would have been, they do
// not wait for the chunk, and what ends inside one leaves nothing behind.
#include "tests/worker_rig.h"

#define N_LONG 1500
#define MODEL "fake:apart=1,layers=8,decode_us=1000,prefill_us=100"

static int32_t long_prompt[N_LONG], short_prompt[40];

static int defaults(void **state)
{
    rig_tokens(long_prompt, N_LONG, 1);
    rig_tokens(short_prompt, 40, 2);
    rig_defaults(state);
    rig_options.n_batch = 256;
    return 0;
}

static void ask(struct rig_node *d, uint64_t id, const int32_t *tokens, size_t n, uint32_t gen)
{
    struct rig_request r = {.id = id,
                            .tokens = tokens,
                            .n = n,
                            .max_tokens = gen,
                            .timeline = true,
                            .keep = true,
                            .reuse = true};
    rig_generate(d, &r);
}

struct seen {
    int32_t ids[2][2048];
    size_t n[2];
    size_t meanwhile; // tokens of the first while the second was read
    size_t beside;    // and while the second was written
    unsigned done[2];
    size_t chunks; // of the second one's prompt
};

static size_t chunks_of(const json_t *done)
{
    size_t i, n = 0;
    const json_t *span;
    json_array_foreach(json_object_get(done, "timeline"), i, span) n +=
        strcmp(json_string_value(json_object_get(span, "what")), "compute") == 0;
    return n;
}

// Reads frames of requests 1 and 2 until so many of them have ended.
static void watch(struct rig_node *d, struct seen *s, unsigned ends)
{
    while (s->done[0] + s->done[1] < ends) {
        struct err e = {0};
        struct wire_frame f = {0};
        if (wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e) != 0)
            fail_msg("%s", e.message);
        size_t i = f.id == 2;
        json_t *head = wire_frame_parse(&f, &e);
        if (f.type == WIRE_TOKEN && s->n[i] < 2048)
            s->ids[i][s->n[i]++] = (int32_t)rig_integer(head, "id");
        s->meanwhile += f.type == WIRE_TOKEN && i == 0 && s->n[1] == 0;
        s->beside += f.type == WIRE_TOKEN && i == 0 && s->n[1] > 0 && s->done[1] == 0;
        if (f.type == WIRE_DONE && i == 1)
            s->chunks = chunks_of(head);
        s->done[i] += f.type == WIRE_DONE || f.type == WIRE_FAILED;
        if (f.type == WIRE_FAILED && i == 0)
            fail_msg("%s", json_string_value(json_object_get(head, "message")));
        json_decref(head);
        wire_frame_fini(&f);
    }
}

// The first token of request 1 has come.
static void wait_running(struct rig_node *d, struct seen *s)
{
    unsigned type = 0;
    while (s->n[0] < WORKER_PACE_TOKENS + 1) {
        json_t *head = rig_recv(d, &type);
        assert_int_equal(type, WIRE_TOKEN);
        s->ids[0][s->n[0]++] = (int32_t)rig_integer(head, "id");
        json_decref(head);
    }
}

static struct seen *alone(const int32_t *tokens, size_t n, uint32_t gen)
{
    struct rig_node *d = rig_start(MODEL, ENGINE_HANDOFF_RANGES, false, false);
    struct seen *s = mem_alloc(sizeof *s);
    ask(d, 1, tokens, n, gen);
    watch(d, s, 1);
    rig_stop(d);
    return s;
}

static void answers_go_on_inside_a_chunk(void **state)
{
    (void)state;
    struct rig_node *d = rig_start(MODEL, ENGINE_HANDOFF_RANGES, false, false);
    struct seen *s = mem_alloc(sizeof *s), *first = alone(short_prompt, 40, 400),
                *second = alone(long_prompt, N_LONG, 8);

    ask(d, 1, short_prompt, 40, 400);
    wait_running(d, s);
    ask(d, 2, long_prompt, N_LONG, 8);
    watch(d, s, 2);
    assert_true(s->chunks <= (N_LONG - 1) / PACE_APART);
    assert_true(s->meanwhile > 2 * s->chunks);
    assert_int_equal(s->n[0], first->n[0]);
    assert_memory_equal(s->ids[0], first->ids[0], first->n[0] * sizeof first->ids[0][0]);
    assert_int_equal(s->n[1], second->n[0]);
    assert_memory_equal(s->ids[1], second->ids[0], second->n[0] * sizeof second->ids[0][0]);
    rig_stop(d);
    free(s);
    free(first);
    free(second);
}

// Behind a long prompt every token takes as long as twenty of the other answer's: that one is not held up.
static void a_slow_answer_holds_nobody_up(void **state)
{
    static const char model[] = MODEL ",depth_ns=13000"; // 1 ms, and 20 ms more at 1,500
    (void)state;
    struct rig_node *d = rig_start(model, ENGINE_HANDOFF_RANGES, false, false);
    struct seen *s = mem_alloc(sizeof *s), *first = alone(short_prompt, 40, 600),
                *second = alone(long_prompt, N_LONG, 20);

    ask(d, 1, short_prompt, 40, 600);
    wait_running(d, s);
    ask(d, 2, long_prompt, N_LONG, 20);
    watch(d, s, 2);
    assert_int_equal(s->n[1], 20);
    assert_true(s->beside > 2 * s->n[1]); // in one step with it, it would have one token for one
    assert_int_equal(s->n[0], first->n[0]);
    assert_memory_equal(s->ids[0], first->ids[0], first->n[0] * sizeof first->ids[0][0]);
    assert_memory_equal(s->ids[1], second->ids[0], second->n[0] * sizeof second->ids[0][0]);
    rig_stop(d);
    free(s);
    free(first);
    free(second);
}

// The other one ends inside such a step, and the slow one is written on.
static void an_answer_ends_inside_a_step(void **state)
{
    (void)state;
    struct rig_node *d = rig_start(MODEL ",depth_ns=13000", ENGINE_HANDOFF_RANGES, false, false);
    struct seen *s = mem_alloc(sizeof *s), *second = alone(long_prompt, N_LONG, 60);

    ask(d, 1, short_prompt, 40, 300);
    wait_running(d, s);
    ask(d, 2, long_prompt, N_LONG, 60);
    watch(d, s, 1);
    assert_int_equal(s->done[0], 1);
    watch(d, s, 2);
    assert_int_equal(s->n[1], 60);
    assert_memory_equal(s->ids[1], second->ids[0], 60 * sizeof second->ids[0][0]);
    rig_stop(d);
    free(s);
    free(second);
}

static void an_answer_ends_inside_a_chunk(void **state)
{
    (void)state;
    struct rig_node *d = rig_start(MODEL, ENGINE_HANDOFF_RANGES, false, false);
    struct seen *s = mem_alloc(sizeof *s), *second = alone(long_prompt, N_LONG, 8);
    struct rig_answer again;
    int32_t turn[40 + 30 + 1];

    ask(d, 1, short_prompt, 40, 30);
    wait_running(d, s);
    ask(d, 2, long_prompt, N_LONG, 8);
    watch(d, s, 1);
    assert_int_equal(s->done[0], 1); // it did not wait for the prompt
    watch(d, s, 2);
    assert_memory_equal(s->ids[1], second->ids[0], second->n[0] * sizeof second->ids[0][0]);
    // What it left is in memory: the next turn reads its own token only.
    memcpy(turn, short_prompt, sizeof short_prompt);
    memcpy(turn + 40, s->ids[0], 30 * sizeof turn[0]);
    turn[70] = 7;
    ask(d, 3, turn, 71, 2);
    rig_answer_read(d, &again);
    assert_int_equal(again.type, WIRE_DONE);
    assert_true(again.cached >= 40);
    rig_answer_fini(&again);
    rig_stop(d);
    free(s);
    free(second);
}

static void a_cancelled_prompt_disturbs_no_answer(void **state)
{
    (void)state;
    struct rig_node *d = rig_start(MODEL, ENGINE_HANDOFF_RANGES, false, false);
    struct seen *s = mem_alloc(sizeof *s), *first = alone(short_prompt, 40, 300);

    ask(d, 1, short_prompt, 40, 300);
    wait_running(d, s);
    for (int i = 0; i < 5; i++) {
        ask(d, 2, long_prompt, N_LONG, 8);
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
        rig_send(d, wire_frame_json(WIRE_CANCEL, 2, NULL));
    }
    while (s->done[0] == 0)
        watch(d, s, s->done[0] + s->done[1] + 1);
    assert_int_equal(s->n[0], first->n[0]);
    assert_memory_equal(s->ids[0], first->ids[0], first->n[0] * sizeof first->ids[0][0]);
    rig_stop(d);
    free(s);
    free(first);
}

struct counted {
    int32_t ids[4];
    size_t n, decodes;
    json_int_t read, cached;
};

static void counted_get(struct rig_node *d, uint64_t id, size_t n_tokens, bool whole,
                        struct counted *c)
{
    struct rig_request r = {.id = id,
                            .tokens = long_prompt,
                            .n = n_tokens,
                            .max_tokens = 4,
                            .timeline = true,
                            .whole = whole,
                            .keep = true,
                            .reuse = true};
    unsigned type = 0;
    size_t i;
    const json_t *span;
    *c = (struct counted){0};
    rig_generate(d, &r);
    while (type != WIRE_DONE) {
        json_t *head = rig_recv(d, &type);
        assert_true(type == WIRE_TOKEN || type == WIRE_DONE);
        if (type == WIRE_TOKEN)
            c->ids[c->n++] = (int32_t)rig_integer(head, "id");
        json_array_foreach(json_object_get(head, "timeline"), i, span) c->decodes +=
            strcmp(json_string_value(json_object_get(span, "what")), "decode") == 0;
        if (type == WIRE_DONE) {
            c->read = rig_integer(head, "tokens_read");
            c->cached = rig_integer(head, "tokens_cached");
        }
        json_decref(head);
    }
}

// Cold, warm, and with a prompt of several chunks.
static void the_last_token_may_go_along(void **state)
{
    static const size_t sizes[] = {200, 200, 700, 2};
    (void)state;
    struct rig_node *d[2] = {rig_start(MODEL, ENGINE_HANDOFF_RANGES, false, false),
                             rig_start(MODEL, ENGINE_HANDOFF_RANGES, false, false)};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct counted apart, whole;
        counted_get(d[0], i + 1, sizes[i], false, &apart);
        counted_get(d[1], i + 1, sizes[i], true, &whole);
        assert_int_equal(apart.n, 4);
        assert_int_equal(whole.n, 4);
        assert_memory_equal(apart.ids, whole.ids, sizeof apart.ids);
        assert_int_equal(apart.read, whole.read);
        assert_int_equal(apart.cached, whole.cached);
        assert_int_equal(apart.decodes, 4);
        // Where all of the prompt is in memory its last token is a step by itself either way.
        assert_int_equal(whole.decodes, i == 1 ? 4 : 3);
    }
    rig_stop(d[0]);
    rig_stop(d[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(answers_go_on_inside_a_chunk, defaults),
        cmocka_unit_test_setup(an_answer_ends_inside_a_chunk, defaults),
        cmocka_unit_test_setup(a_slow_answer_holds_nobody_up, defaults),
        cmocka_unit_test_setup(an_answer_ends_inside_a_step, defaults),
        cmocka_unit_test_setup(the_last_token_may_go_along, defaults),
        cmocka_unit_test_setup(a_cancelled_prompt_disturbs_no_answer, defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
