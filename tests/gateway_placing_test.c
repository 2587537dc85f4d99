// Placement as requests meet it: measured nodes, accounts that teach, pins, policies, splits, any pair of nodes, and the
// table of plans.
#include "gateway_placing.h"

// ---- profiles ----------------------------------------------------------------------------------------------

#define MEASURED_SLOW                                                                              \
    "{\"reads\":[{\"tokens\":512,\"depth\":0,\"chunk_tokens\":512,\"seconds\":5},"                 \
    "{\"tokens\":512,\"depth\":512,\"chunk_tokens\":512,\"seconds\":5}],"                          \
    "\"steps\":[{\"steps\":4,\"rows\":1,\"depth_sum\":512,\"seconds\":0.4}],\"complete\":true}"

// A node that was taken for fast measures itself, and is slow.
static void test_measured(void **state)
{
    struct stage s;
    double told;

    (void)state;
    stage_init(&s);
    s.node.paced = true; // it does not wait for the other one
    stage_ready(&s, true);
    plan_is(&s, "", "hybrid");
    told = read_s(&s, "remote", "spark");
    assert_true(json_number_value(at(fake_expect(&s.node, WIRE_MEASURE, 1)->head, "budget_s")) > 2);
    fake_say(&s.node, WIRE_MEASURED, fake_expect(&s.node, WIRE_MEASURE, 1)->id, MEASURED_SLOW);
    await_measured(&s, 1);
    assert_true(read_s(&s, "remote", "spark") > 20 * told);
    plan_is(&s, "", "local");
    // The wish counts for more.
    plan_is(&s, "\"tandem\":{\"plan\":\"hybrid\"}", "hybrid");
    stage_stop(&s);
}

// One that cannot measure itself is asked no more, and used as what it told.
static void test_not_measured(void **state)
{
    struct stage s;
    struct fake *f = NULL;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    for (int i = 0; i < 2; i++) {
        f = asked_next(&s, f);
        uint64_t id = fake_expect(f, WIRE_MEASURE, 1)->id;

        if (f == &s.node)
            fake_say(f, WIRE_FAILED, id, "{\"code\":\"unsupported\",\"message\":\"no\"}");
        else
            fake_say(f, WIRE_MEASURED, id, "{\"reads\":\"many\"}");
    }
    plan_is(&s, "", "hybrid");
    assert_int_equal(fake_count(&s.node, WIRE_MEASURE), 1);
    stage_stop(&s);
}

// Two workers of one machine take turns; two that emulate machines of their own need not.
static void test_measured_in_turn(void **state)
{
    (void)state;
    for (int paced = 0; paced < 2; paced++) {
        struct stage s;
        struct fake *first, *other;

        stage_init(&s);
        s.node.paced = paced;
        stage_ready(&s, true);
        first = asked_next(&s, NULL);
        other = first == &s.node ? &s.local : &s.node;
        if (!paced) {
            clock_sleep_until(clock_now_ns() + 3 * NS_PER_S / 2);
            assert_int_equal(fake_count(other, WIRE_MEASURE), 0);
            fake_say(first, WIRE_MEASURED, fake_expect(first, WIRE_MEASURE, 1)->id,
                     "{\"complete\":true}");
        }
        fake_expect(other, WIRE_MEASURE, 1);
        stage_stop(&s);
    }
}

// A machine without others has nothing to choose.
static void test_alone(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    plan_is(&s, "", "local");
    clock_sleep_until(clock_now_ns() + NS_PER_S);
    assert_int_equal(fake_count(&s.local, WIRE_MEASURE), 0);
    stage_stop(&s);
}

// What requests took is learned from their accounts.
static void test_learns(void **state)
{
    struct stage s;
    double told;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, true);
    told = read_s(&s, "local", "local");
    for (int i = 0; i < 6; i++) {
        struct web w = ask_long(&s, "\"tandem\":{\"plan\":\"local\"}");
        struct fake_frame *f = fake_expect(&s.local, WIRE_GENERATE, (size_t)i + 1);

        fake_token(&s.local, f->id, 0, "a");
        fake_say(&s.local, WIRE_DONE, f->id,
                 "{\"finish\":\"stop\",\"prompt_tokens\":400,\"gen_tokens\":1,\"tokens_read\":400,"
                 "\"tokens_cached\":0,\"tokens_imported\":0,\"cost\":{\"read\":[{\"tokens\":399,"
                 "\"depth\":0,\"chunk_tokens\":399,\"seconds\":2}]}}");
        json_decref(finish_json(&w, 200));
    }
    assert_true(read_s(&s, "local", "local") > 10 * told);
    stage_stop(&s);
}

// ---- wishes ------------------------------------------------------------------------------------------------

static void test_wishes(void **state)
{
    static const struct {
        const char *more, *param;
    } wrong[] = {
        {"\"tandem\":{\"policy\":\"fast\"}", "tandem.policy"},
        {"\"tandem\":{\"policy\":7}", "policy"},
        {"\"tandem\":{\"ttft_s\":-1}", "tandem.ttft_s"},
        {"\"tandem\":{\"token_s\":\"soon\"}", "tandem.token_s"},
        {"\"tandem\":{\"decode_node\":7}", "decode_node"},
        {"\"tandem\":{\"policy\":\"slo\"}", "tandem.policy"}, // within which limits?
        {"\"tandem\":{\"policy\":\"slo\",\"ttft_s\":0}", "tandem.policy"},
    };
    static const char *const own[] = {"\"tandem\":{\"decode_node\":\"mac\"}",
                                      "\"tandem\":{\"decode_node\":\"local\"}"};
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct web w = ask_long(&s, wrong[i].more);

        v = finish_json(&w, 400);
        assert_string_equal(text_at(v, "error.param"), wrong[i].param);
        json_decref(v);
    }
    v = answered(&s, "\"tandem\":{\"prefill_node\":\"nobody\"}");
    assert_has(text_at(v, "timings.fallback"), "\"nobody\"");
    assert_has(text_at(v, "timings.fallback"), ": local (mac), spark");
    json_decref(v);
    v = answered(&s, "\"tandem\":{\"decode_node\":\"spark\"}");
    assert_plan(v, "remote");
    json_decref(v);
    // The server's own worker by the name that it is shown with, and by what it is.
    for (size_t i = 0; i < 2; i++) {
        v = answered(&s, own[i]);
        assert_string_equal(text_at(v, "timings.decode_node"), "mac");
        assert_true(json_is_null(at(v, "timings.fallback")));
        json_decref(v);
    }
    v = answered(&s, "\"tandem\":{\"policy\":\"slo\",\"ttft_s\":100,\"token_s\":10}");
    assert_string_equal(text_at(v, "timings.policy"), "slo");
    assert_has(text_at(v, "timings.reason"), "within the limits");
    assert_true(json_number_value(at(v, "timings.predicted.total_s")) > 0);
    json_decref(v);
    v = answered(&s, "\"tandem\":{\"policy\":\"energy\"}");
    assert_has(text_at(v, "timings.reason"), "power is not known");
    json_decref(v);
    stage_stop(&s);
}

// What was predicted stands in the metrics too.
static void test_metrics(void **state)
{
    struct stage s;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    plan_is(&s, "", "hybrid");
    a = web_get(s.port, "/metrics");
    assert_has(a.body, "tandem_predicted_time_to_first_token_seconds_count 1");
    assert_has(a.body, "tandem_prediction_error_ratio_count 1");
    assert_has(a.body, "tandem_replans_total 0");
    web_answer_fini(&a);
    stage_stop(&s);
}

// It waits at a node that is then given nothing new: it is sent somewhere else.
static void test_planned_again(void **state)
{
    struct stage s;
    struct web w, order;
    json_t *v;
    char path[64];

    (void)state;
    stage_init(&s);
    s.node.hold_prefill = true;
    s.options.stall_s = 60;
    stage_ready(&s, true);
    w = ask_long(&s, "");
    fake_expect(&s.node, WIRE_PREFILL, 1);
    snprintf(path, sizeof(path), "/v1/tandem/nodes/127.0.0.1:%u/drain", s.node.port);
    order = web_post(s.port, path, "{}");
    json_decref(finish_json(&order, 200));
    v = finish_json(&w, 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.reason"), "without spark");
    json_decref(v);
    fake_expect(&s.node, WIRE_CANCEL, 1);
    stage_stop(&s);
}

#define READ_SLOWLY                                                                                \
    "{\"finish\":\"stop\",\"prompt_tokens\":400,\"gen_tokens\":1,\"tokens_read\":400,"             \
    "\"tokens_cached\":0,\"tokens_imported\":0,\"cost\":{\"read\":[{\"tokens\":399,\"depth\":0,"   \
    "\"chunk_tokens\":399,\"seconds\":5}]}}"

// What it was sent and has not begun to read is not held there: found slow meanwhile, the node is left.
static void test_waits_cold(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;
    char *body = prompt_body(LONG_PROMPT_TOKENS, "");
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.hold_prefill = s.node.hold_generate = true;
    s.options.stall_s = 60;
    stage_ready(&s, true);
    w = web_post(s.port, "/v1/completions", body);
    fake_expect(&s.node, WIRE_PREFILL, 1);
    for (size_t i = 0; i < PROFILE_SUSPECTS; i++) {
        struct web other = ask_long(&s, "\"store\":false,\"tandem\":{\"plan\":\"remote\","
                                        "\"decode_node\":\"spark\"}");
        struct fake_frame *f = fake_expect(&s.node, WIRE_GENERATE, i + 1);

        fake_token(&s.node, f->id, 0, "a");
        fake_say(&s.node, WIRE_DONE, f->id, READ_SLOWLY);
        json_decref(finish_json(&other, 200));
    }
    v = finish_json(&w, 200);
    assert_plan(v, "local");
    assert_int_equal(fake_count(&s.node, WIRE_PREFILL), 1);
    json_decref(v);
    a = web_get(s.port, "/metrics");
    assert_has(a.body, "tandem_replans_total 1");
    web_answer_fini(&a);
    free(body);
    stage_stop(&s);
}

// What refused it is not asked again while it waits at home.
static void test_stays_where_it_fell_back(void **state)
{
    struct stage s;
    struct web w;
    uint64_t id;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.hold_prefill = s.local.hold_generate = true;
    s.options.stall_s = 60;
    stage_ready(&s, true);
    w = ask_long(&s, "");
    fake_say(&s.node, WIRE_FAILED, fake_expect(&s.node, WIRE_PREFILL, 1)->id,
             "{\"code\":\"busy\",\"message\":\"no room\"}");
    id = fake_expect(&s.local, WIRE_GENERATE, 1)->id;
    clock_sleep_until(clock_now_ns() + 2 * REQUEST_REPLAN_NS);
    assert_int_equal(fake_count(&s.node, WIRE_PREFILL), 1);
    fake_token(&s.local, id, 0, "a");
    fake_done(&s.local, id, 400, 1, false);
    v = finish_json(&w, 200);
    assert_has(text_at(v, "timings.fallback"), "no room");
    json_decref(v);
    stage_stop(&s);
}

// ---- pairs -------------------------------------------------------------------------------------------------

// P and D are both nodes: D is told where P is.
static void test_any_pair(void **state)
{
    struct stage s;
    struct fake other = fake_make("strix");
    json_t *v, *g;

    (void)state;
    stage_init(&s);
    stage_two(&s, &other);
    stage_await(&s, 1, "up");
    stage_await(&s, 2, "up");
    v = answered(&s, "\"tandem\":{\"plan\":\"hybrid\",\"decode_node\":\"strix\","
                     "\"prefill_node\":\"spark\"}");
    assert_plan(v, "hybrid");
    assert_string_equal(text_at(v, "timings.prefill_node"), "spark");
    assert_string_equal(text_at(v, "timings.decode_node"), "strix");
    json_decref(v);
    g = fake_expect(&other, WIRE_GENERATE, 1)->head;
    assert_int_equal(json_integer_value(at(g, "handoff.port")), s.node.port);
    assert_int_equal(fake_count(&s.node, WIRE_PREFILL), 1);
    assert_int_equal(fake_count(&s.local, WIRE_GENERATE), 0);
    stage_stop(&s);
    fake_stop(&other);
}

// ---- conversations -----------------------------------------------------------------------------------------

// A second row costs a step next to nothing: who is busy is nearly as good as who is not.
#define WIDE_STEPS "{\"steps\":8,\"rows\":4,\"depth_sum\":512,\"seconds\":0.08}"
#define MEASURED_WIDE                                                                              \
    "{\"reads\":[{\"tokens\":512,\"depth\":0,\"chunk_tokens\":512,\"seconds\":0.05}],"             \
    "\"steps\":[{\"steps\":8,\"rows\":1,\"depth_sum\":128,\"seconds\":0.08}," WIDE_STEPS           \
    "," WIDE_STEPS "," WIDE_STEPS "," WIDE_STEPS "],\"complete\":true}"

// Asks with 100 tokens that all have and some more, and waits for the first token. Returns who writes.
static struct fake *turn(struct stage *s, struct fake *other, const char *more, struct web *w)
{
    size_t before = fake_count(&s->node, WIRE_GENERATE), theirs = fake_count(other, WIRE_GENERATE);
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
    char *body = mem_format("{\"cache_prompt\":false,\"ignore_eos\":true,\"max_tokens\":200,"
                            "\"stream\":true,\"prompt\":\"%0100d%s\"}",
                            0, more);
    struct fake *at = NULL;

    *w = web_post(s->port, "/v1/completions", body);
    free(body);
    while (!at) {
        at = fake_count(&s->node, WIRE_GENERATE) > before ? &s->node
             : fake_count(other, WIRE_GENERATE) > theirs  ? other
                                                          : NULL;
        assert_true(clock_now_ns() < limit_ns);
    }
    fake_token(at, fake_expect(at, WIRE_GENERATE, (at == other ? theirs : before) + 1)->id, 0, "a");
    web_until(w, "\"a\"");
    return at;
}

// Chats that begin alike are not one conversation: they go to different nodes, and the next turn of one where it was.
static void test_conversations(void **state)
{
    struct stage s;
    struct fake other = fake_make("strix"), *first, *second;
    struct web w[3];

    (void)state;
    stage_init(&s);
    s.node.paced = other.paced = true;
    s.node.hold_generate = other.hold_generate = true;
    stage_two(&s, &other);
    fake_say(&s.local, WIRE_MEASURED, fake_expect(&s.local, WIRE_MEASURE, 1)->id, MEASURED_SLOW);
    fake_say(&s.node, WIRE_MEASURED, fake_expect(&s.node, WIRE_MEASURE, 1)->id, MEASURED_WIDE);
    fake_say(&other, WIRE_MEASURED, fake_expect(&other, WIRE_MEASURE, 1)->id, MEASURED_WIDE);
    for (int i = 0; i < 3; i++)
        await_measured(&s, i);
    first = turn(&s, &other, "first chat", &w[0]);
    second = turn(&s, &other, "second chat, another subject", &w[1]);
    assert_ptr_not_equal(second, first);
    assert_ptr_equal(turn(&s, &other, "second chat, another subject: its next turn", &w[2]),
                     second);
    for (int i = 0; i < 3; i++)
        web_close(&w[i]);
    stage_stop(&s);
    fake_stop(&other);
}

// ---- what nodes are there for, and what they cost ----------------------------------------------------------

static json_t *role_given(struct stage *s, const char *name, const char *body, int status)
{
    char path[80];
    struct web w;

    snprintf(path, sizeof(path), "/v1/tandem/nodes/%s/role", name);
    w = web_post(s->port, path, body);
    return finish_json(&w, status);
}

// The node would do all of it faster; it is there to read.
static void test_role(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.role = PLACE_READER;
    s.local.role = PLACE_WRITER;
    stage_ready(&s, true);
    v = get_json(&s, "/v1/tandem/status");
    assert_string_equal(text_at(v, "nodes.0.does"), "write");
    assert_string_equal(text_at(v, "nodes.1.does"), "read");
    json_decref(v);
    v = explain(&s, "{\"prompt_tokens\":3000,\"answer_tokens\":10}", 200);
    assert_int_equal(json_array_size(at(v, "plans")), 1);
    assert_string_equal(text_at(v, "plans.0.plan"), "hybrid");
    json_decref(v);
    v = answered(&s, "\"tandem\":{\"plan\":\"remote\"}");
    assert_plan(v, "remote");
    assert_has(text_at(v, "timings.fallback"), "roles are passed over");
    json_decref(v);
    // An operator changes both while the server runs.
    v = role_given(&s, "local", "{\"role\":\"both\"}", 200);
    assert_string_equal(text_at(v, "does"), "both");
    json_decref(v);
    v = role_given(&s, "spark", "{\"role\":\"write\"}", 200);
    assert_string_equal(text_at(v, "does"), "write");
    json_decref(v);
    v = answered(&s, "\"tandem\":{\"plan\":\"hybrid\"}");
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "spark is there to write");
    json_decref(v);
    v = role_given(&s, "spark", "{\"role\":\"sing\"}", 400);
    assert_has(text_at(v, "error.message"), "read, write or both");
    json_decref(v);
    json_decref(role_given(&s, "spark", "{}", 400));
    json_decref(role_given(&s, "nobody", "{\"role\":\"read\"}", 404));
    stage_stop(&s);
}

static void test_price(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.priced = true;
    s.node.dollars_per_hour = 3.6;
    stage_ready(&s, true);
    v = answered(&s, "\"tandem\":{\"policy\":\"cost\"}");
    assert_plan(v, "remote"); // the only plan whose price is known
    assert_has(text_at(v, "timings.reason"), "cheapest");
    json_decref(v);
    v = explain(&s, "{\"prompt_tokens\":3000,\"answer_tokens\":10,\"policy\":\"cost\"}", 200);
    assert_true(json_number_value(at(v, "plans.0.dollars")) > 0);
    assert_true(json_is_null(at(v, "plans.1.dollars")));
    json_decref(v);
    v = get_json(&s, "/v1/tandem/status");
    assert_true(json_is_null(at(v, "nodes.0.dollars_per_hour")));
    assert_true(json_number_value(at(v, "nodes.1.dollars_per_hour")) == 3.6);
    json_decref(v);
    stage_stop(&s);
}

static void test_no_price(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    v = answered(&s, "\"tandem\":{\"policy\":\"cost\"}");
    assert_plan(v, "hybrid");
    assert_has(text_at(v, "timings.fallback"), "no price is known");
    assert_int_equal(json_integer_value(at(v, "timings.predicted.upto")), LONG_PROMPT_TOKENS - 1);
    assert_true(json_number_value(at(v, "timings.predicted.transfer_s")) > 0);
    json_decref(v);
    v = explain(&s, "{\"prompt_tokens\":400,\"policy\":\"cost\"}", 200);
    assert_has(text_at(v, "fallback"), "no price is known");
    json_decref(v);
    stage_stop(&s);
}

// ---- the table ---------------------------------------------------------------------------------------------

static void test_explain(void **state)
{
    static const struct {
        const char *body, *words;
        int status;
    } wrong[] = {
        {"{}", "prompt_tokens", 400},
        {"[1]", "JSON object", 400},
        {"{\"prompt_tokens\":0}", "prompt_tokens", 400},
        {"{\"prompt_tokens\":10,\"answer_tokens\":-1}", "answer_tokens", 400},
        {"{\"prompt_tokens\":10,\"policy\":\"best\"}", "latency", 400},
        {"{\"prompt_tokens\":10,\"policy\":\"slo\"}", "token_s", 400},
        {"{\"prompt_tokens\":10,\"model\":\"none\"}", "fake-model", 404},
    };
    struct stage s;
    struct web order;
    json_t *v, *row;
    double last = 0;
    size_t i;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        v = explain(&s, wrong[i].body, wrong[i].status);
        assert_has(text_at(v, "error.message"), wrong[i].words);
        json_decref(v);
    }
    v = explain(&s, "{\"prompt_tokens\":3000,\"answer_tokens\":100}", 200);
    assert_int_equal(json_array_size(at(v, "plans")), 3);
    assert_string_equal(text_at(v, "plans.0.plan"), "hybrid");
    json_array_foreach(at(v, "plans"), i, row)
    {
        assert_true(json_number_value(at(row, "total_s")) >= last);
        last = json_number_value(at(row, "total_s"));
    }
    json_decref(v);
    v = explain(&s, "{\"prompt_tokens\":100000}", 200); // more than anybody holds
    assert_int_equal(json_array_size(at(v, "plans")), 0);
    assert_has(text_at(v, "refusal"), "100000");
    assert_true(json_is_null(at(v, "fallback")));
    assert_int_equal(json_array_size(at(v, "absent")), 0);
    json_decref(v);
    // What is looked for and not known, and who is not asked.
    order = web_post(s.port, "/v1/tandem/nodes/spark/drain", "{}");
    json_decref(finish_json(&order, 200));
    v = explain(&s, "{\"prompt_tokens\":3000,\"policy\":\"cost\"}", 200);
    assert_int_equal(json_array_size(at(v, "absent")), 1);
    assert_string_equal(text_at(v, "absent.0.node"), "spark");
    assert_has(text_at(v, "absent.0.why"), "draining");
    json_decref(v);
    stage_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measured),
        cmocka_unit_test(test_not_measured),
        cmocka_unit_test(test_measured_in_turn),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_wishes),
        cmocka_unit_test(test_any_pair),
        cmocka_unit_test(test_conversations),
        cmocka_unit_test(test_explain),
        cmocka_unit_test(test_planned_again),
        cmocka_unit_test(test_role),
        cmocka_unit_test(test_price),
        cmocka_unit_test(test_no_price),
        cmocka_unit_test(test_waits_cold),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_stays_where_it_fell_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
