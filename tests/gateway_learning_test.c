// What placement learns from requests that have ended, and what it does not: pairs without a way, hand-offs in company,
// answers that were told how long to be, hand-offs that cannot be whole.
#include "gateway_placing.h"

#define PROMPT_400 "{\"prompt_tokens\":400}"

// ---- pairs -------------------------------------------------------------------------------------------------

// A writer that could not dial its reader says so; the pair is left alone then, and a client that asks for it told.
static void test_no_way(void **state)
{
    static const char pair[] = "\"tandem\":{\"plan\":\"hybrid\",\"decode_node\":\"strix\","
                               "\"prefill_node\":\"spark\"}";
    struct fake other = fake_make("strix");
    struct stage s;
    struct web w;
    json_t *v;
    uint64_t id;

    (void)state;
    stage_init(&s);
    other.hold_generate = true;
    stage_two(&s, &other);
    stage_await(&s, 1, "up");
    stage_await(&s, 2, "up");
    w = ask_long(&s, pair);
    id = fake_expect(&other, WIRE_GENERATE, 1)->id;
    fake_token(&other, id, 0, "alone");
    fake_say(&other, WIRE_DONE, id,
             "{\"finish\":\"stop\",\"gen_tokens\":1,\"tokens_read\":400,\"unreached\":true,"
             "\"fallback\":\"no route to spark\"}");
    v = finish_json(&w, 200);
    assert_plan(v, "hybrid");
    assert_has(text_at(v, "timings.fallback"), "no route");
    json_decref(v);
    other.hold_generate = false;
    v = answer_long(&s, pair, 200);
    assert_string_equal(text_at(v, "timings.decode_node"), "mac");
    assert_has(text_at(v, "timings.fallback"), "no way to each other");
    json_decref(v);
    stage_stop(&s);
    fake_stop(&other);
}

// The node cannot hold all of the prompt, and part of a hand-off is not what was asked for.
static void test_not_in_part(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.n_ctx = 256;
    stage_ready(&s, true);
    v = answer_long(&s, "\"tandem\":{\"plan\":\"hybrid\"}", 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "hybrid");
    json_decref(v);
    assert_int_equal(fake_count(&s.node, WIRE_PREFILL), 0);
    stage_stop(&s);
}

// ---- accounts ----------------------------------------------------------------------------------------------

static double ttft_s(struct stage *s, const char *plan)
{
    return plan_figure(s, PROMPT_400, plan, NULL, "ttft_s");
}

// A hand-off whose KV was in long after it was read.
static void late_handoff(struct stage *s, size_t prefills, size_t generates)
{
    struct web w = ask_long(s, "\"tandem\":{\"plan\":\"hybrid\"}");
    uint64_t id = fake_expect(&s->node, WIRE_PREFILL, prefills)->id;

    fake_say(&s->node, WIRE_ACCEPTED, id, "{}");
    fake_say(&s->node, WIRE_PREFILLED, id,
             "{\"tokens\":399,\"done_s\":0.01,\"kv_bytes\":1000,\"link_bytes_per_s\":1e8,"
             "\"cost\":{\"read\":[{\"tokens\":399,\"depth\":0,\"chunk_tokens\":399,"
             "\"seconds\":0.01}]}}");
    id = fake_expect(&s->local, WIRE_GENERATE, generates)->id;
    fake_token(&s->local, id, 0, "a");
    fake_say(&s->local, WIRE_DONE, id,
             "{\"finish\":\"stop\",\"gen_tokens\":1,\"tokens_read\":1,\"tokens_imported\":399,"
             "\"handoff_end_s\":50}");
    json_decref(finish_json(&w, 200));
}

// Hand-offs tell how long the setup of one takes, but only where nothing else was going on.
static void test_alone_teaches(void **state)
{
    struct stage s;
    struct web busy;
    uint64_t id;

    (void)state;
    stage_init(&s);
    s.node.hold_prefill = s.local.hold_generate = true;
    stage_ready(&s, true);
    busy = ask_long(&s, "\"tandem\":{\"plan\":\"local\"}");
    id = fake_expect(&s.local, WIRE_GENERATE, 1)->id;
    fake_token(&s.local, id, 0, "a");
    for (size_t i = 1; i <= 8; i++)
        late_handoff(&s, i, i + 1);
    fake_done(&s.local, id, 400, 1, false);
    json_decref(finish_json(&busy, 200));
    assert_true(ttft_s(&s, "hybrid") < 1);
    for (size_t i = 9; i <= 16; i++)
        late_handoff(&s, i, i + 1);
    assert_true(ttft_s(&s, "hybrid") > 1);
    stage_stop(&s);
}

// What both workers told is summed up, for all answers; who says nothing, or nonsense, leaves it unknown.
static void test_joules(void **state)
{
    static const struct {
        const char *prefilled, *done;
        double joules; // below 0: null
    } rows[] = {{",\"joules\":4", ",\"joules\":3.5", 7.5},
                {"", ",\"joules\":3.5", -1},
                {",\"joules\":4", "", -1},
                {",\"joules\":-4", ",\"joules\":5", -1},
                {",\"joules\":4", ",\"joules\":\"5\"", -1}};
    struct stage s;

    (void)state;
    stage_init(&s);
    s.node.hold_prefill = s.local.hold_generate = true;
    stage_ready(&s, true);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct web w = ask_long(&s, "\"tandem\":{\"plan\":\"hybrid\"}");
        uint64_t id = fake_expect(&s.node, WIRE_PREFILL, i + 1)->id;
        char *told = mem_format("{\"tokens\":399%s}", rows[i].prefilled);
        char *done = mem_format("{\"finish\":\"stop\",\"gen_tokens\":1,\"tokens_read\":1,"
                                "\"tokens_imported\":399%s}",
                                rows[i].done);
        json_t *v, *joules;

        fake_say(&s.node, WIRE_ACCEPTED, id, "{}");
        fake_say(&s.node, WIRE_PREFILLED, id, told);
        id = fake_expect(&s.local, WIRE_GENERATE, i + 1)->id;
        fake_token(&s.local, id, 0, "a");
        fake_say(&s.local, WIRE_DONE, id, done);
        v = finish_json(&w, 200);
        joules = at(v, "timings.joules");
        assert_true(json_is_null(joules) ? rows[i].joules < 0
                                         : json_number_value(joules) == rows[i].joules);
        json_decref(v);
        free(told);
        free(done);
    }
    stage_stop(&s);
}

// What passed beside the work counts the next time. So does in a prediction what passed before it was made.
static void test_dispatch(void **state)
{
    struct stage s;
    struct web w;
    double before_s;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.hold_generate = true;
    stage_ready(&s, true);
    before_s = ttft_s(&s, "remote");
    for (size_t i = 1; i <= 3; i++) {
        w = ask_long(&s, "\"tandem\":{\"plan\":\"remote\"}");
        uint64_t id = fake_expect(&s.node, WIRE_GENERATE, i)->id;
        clock_sleep_until(clock_now_ns() + 100 * NS_PER_MS);
        fake_token(&s.node, id, 0, "a");
        fake_say(&s.node, WIRE_DONE, id,
                 "{\"finish\":\"stop\",\"gen_tokens\":1,\"tokens_read\":400,\"prefill_s\":0.04,"
                 "\"decode_s\":0.001}");
        json_decref(finish_json(&w, 200));
    }
    assert_true(ttft_s(&s, "remote") > before_s + 0.04);
    s.local.hold_render = true;
    w = ask_long(&s, "\"tandem\":{\"plan\":\"local\"}");
    fake_expect(&s.local, WIRE_RENDER, 4);
    clock_sleep_until(clock_now_ns() + 3 * NS_PER_S / 2);
    fake_render(&s.local, fake_expect(&s.local, WIRE_RENDER, 4));
    v = finish_json(&w, 200);
    assert_true(json_number_value(at(v, "timings.predicted.ttft_s")) > 1.5);
    assert_true(json_number_value(at(v, "timings.predicted.total_s")) >
                json_number_value(at(v, "timings.predicted.ttft_s")));
    json_decref(v);
    stage_stop(&s);
}

static double expected_tokens(struct stage *s)
{
    json_t *v = explain(s, PROMPT_400, 200);
    double n = json_number_value(at(v, "answer_tokens"));

    json_decref(v);
    return n;
}

// How long answers are is learned from those that ended by themselves.
static void test_told_lengths_teach_nothing(void **state)
{
    struct stage s;
    double before;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    before = expected_tokens(&s);
    for (int i = 0; i < 8; i++)
        json_decref(answer_long(&s, "\"max_tokens\":2,\"ignore_eos\":true", 200));
    assert_true(expected_tokens(&s) == before);
    for (int i = 0; i < 8; i++)
        json_decref(answer_long(&s, "\"max_tokens\":2", 200));
    assert_true(expected_tokens(&s) != before);
    stage_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_way),        cmocka_unit_test(test_not_in_part),
        cmocka_unit_test(test_joules),        cmocka_unit_test(test_dispatch),
        cmocka_unit_test(test_alone_teaches), cmocka_unit_test(test_told_lengths_teach_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
