// Placement as requests meet it: measured nodes, accounts that teach, pins, policies, splits, any pair of nodes, and the
// table of plans.
#include "gateway_fake.h"

#include <math.h>

#define EXPLAIN "/v1/tandem/explain"

static json_t *explain(struct stage *s, const char *body, int status)
{
    struct web w = web_post(s->port, EXPLAIN, body);

    return finish_json(&w, status);
}

// What this node's profile makes of reading `tokens`, and of a step.
static double read_s(struct stage *s, const char *plan, const char *node)
{
    json_t *v = explain(s, "{\"prompt_tokens\":4001,\"answer_tokens\":1}", 200), *row;
    double seconds = -1;
    size_t i;

    json_array_foreach(at(v, "plans"), i, row) if (strcmp(text_at(row, "plan"), plan) == 0 &&
                                                   strcmp(text_at(row, "decode_node"), node) == 0)
        seconds = json_number_value(at(row, "read_s"));
    json_decref(v);
    assert_true(seconds > 0);
    return seconds;
}

static json_t *get_json(struct stage *s, const char *path)
{
    struct web_answer a = web_get(s->port, path);
    json_t *v = parse(a.body);

    web_answer_fini(&a);
    return v;
}

static json_t *answered(struct stage *s, const char *more)
{
    struct web w = ask_long(s, more);

    return finish_json(&w, 200);
}

static void plan_is(struct stage *s, const char *more, const char *plan)
{
    json_t *v = answered(s, more);

    assert_string_equal(text_at(v, "timings.plan"), plan);
    json_decref(v);
}

// Waits until this node's profile says that it was measured.
static void await_measured(struct stage *s, int node)
{
    char path[48];
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
    bool there = false;

    snprintf(path, sizeof(path), "nodes.%d.profile.measured", node);
    while (!there) {
        struct web_answer a = web_get(s->port, "/v1/tandem/status");
        json_t *v = parse(a.body);

        there = json_is_true(at(v, path));
        json_decref(v);
        web_answer_fini(&a);
        assert_true(clock_now_ns() < limit_ns);
    }
}

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

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    fake_say(&s.node, WIRE_FAILED, fake_expect(&s.node, WIRE_MEASURE, 1)->id,
             "{\"code\":\"unsupported\",\"message\":\"no\"}");
    fake_say(&s.local, WIRE_MEASURED, fake_expect(&s.local, WIRE_MEASURE, 1)->id,
             "{\"reads\":\"many\"}");
    plan_is(&s, "", "hybrid");
    assert_int_equal(fake_count(&s.node, WIRE_MEASURE), 1);
    stage_stop(&s);
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
    assert_has(text_at(v, "timings.fallback"), "nobody");
    json_decref(v);
    v = answered(&s, "\"tandem\":{\"decode_node\":\"spark\"}");
    assert_string_equal(text_at(v, "timings.plan"), "remote");
    json_decref(v);
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
    assert_string_equal(text_at(v, "timings.plan"), "local");
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
    assert_string_equal(text_at(v, "timings.plan"), "local");
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

// ---- links -------------------------------------------------------------------------------------------------

#define MEASURED_ALL                                                                               \
    "{\"reads\":[{\"tokens\":512,\"depth\":0,\"chunk_tokens\":512,\"seconds\":0.05}],"             \
    "\"steps\":[{\"steps\":4,\"rows\":1,\"depth_sum\":512,\"seconds\":0.004}],\"complete\":true}"

#define MEASURED_LINK                                                                              \
    "{\"rtt_s\":0.002,\"up\":{\"bytes\":5000000,\"seconds\":0.05},"                                \
    "\"down\":{\"bytes\":1000000,\"seconds\":0.05},\"complete\":true}"

// Waits until so much is known of the one link; a new reference.
static json_t *await_link(struct stage *s, double samples)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;

    for (;;) {
        json_t *v = get_json(s, "/v1/tandem/status"), *link = at(v, "links.0");

        if (json_number_value(at(link, "samples")) >= samples) {
            json_incref(link);
            json_decref(v);
            return link;
        }
        json_decref(v);
        assert_true(clock_now_ns() < limit_ns);
    }
}

static void all_measured(struct stage *s)
{
    fake_say(&s->node, WIRE_MEASURED, fake_expect(&s->node, WIRE_MEASURE, 1)->id, MEASURED_ALL);
    fake_say(&s->local, WIRE_MEASURED, fake_expect(&s->local, WIRE_MEASURE, 1)->id, MEASURED_ALL);
}

// The worker that would write is asked where the other one is, after both have measured themselves; what it
// says is told everywhere and used.
static void test_links(void **state)
{
    struct stage s;
    struct fake_frame *asked;
    struct web_answer a;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.probes = s.node.probes = true;
    stage_ready(&s, true);
    v = get_json(&s, "/v1/tandem/status");
    assert_int_equal(json_array_size(at(v, "links")), 0);
    json_decref(v);
    assert_int_equal(fake_count(&s.local, WIRE_MEASURE_LINK), 0);
    all_measured(&s);
    asked = fake_expect(&s.local, WIRE_MEASURE_LINK, 1);
    assert_string_equal(text_at(asked->head, "host"), "127.0.0.1");
    assert_int_equal(json_integer_value(at(asked->head, "port")), s.node.port);
    assert_true(json_is_true(at(asked->head, "same_weights")));
    fake_say(&s.local, WIRE_MEASURED_LINK, asked->id, MEASURED_LINK);
    v = await_link(&s, 3);
    assert_string_equal(text_at(v, "from"), "spark");
    assert_true(fabs(json_number_value(at(v, "rtt_s")) / 0.002 - 1) < 0.2);
    assert_true(fabs(json_number_value(at(v, "up_bytes_per_s")) / 1e8 - 1) < 0.2);
    assert_true(fabs(json_number_value(at(v, "down_bytes_per_s")) / 2e7 - 1) < 0.2);
    assert_true(json_is_null(at(v, "setup_s")));
    json_decref(v);
    a = web_get(s.port, "/metrics");
    assert_has(a.body, "tandem_link_rtt_seconds{from=\"spark\"");
    assert_has(a.body, "tandem_link_up_bytes_per_second{from=\"spark\"");
    web_answer_fini(&a);
    plan_is(&s, "\"tandem\":{\"plan\":\"hybrid\"}", "hybrid");
    v = fake_expect(&s.node, WIRE_PREFILL, 1)->head;
    assert_true(fabs(json_number_value(at(v, "link_bytes_per_s")) / 1e8 - 1) < 0.2);
    assert_int_equal(fake_count(&s.node, WIRE_MEASURE_LINK), 0); // nobody dials the server's worker
    stage_stop(&s);
}

// A request makes room at once; what cannot be measured, or is told wrong, is left alone.
static void test_links_yield(void **state)
{
    static const char *const wrong[] = {"{\"rtt_s\":-1}", "{\"up\":7}", "[]"};
    struct stage s;
    struct fake_frame *asked;
    json_t *v;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        stage_init(&s);
        s.local.probes = s.node.probes = true;
        stage_ready(&s, true);
        all_measured(&s);
        asked = fake_expect(&s.local, WIRE_MEASURE_LINK, 1);
        plan_is(&s, "\"tandem\":{\"plan\":\"hybrid\"}", "hybrid");
        assert_true(fake_expect(&s.local, WIRE_CANCEL, 1)->id == asked->id);
        fake_say(&s.local, WIRE_MEASURED_LINK, asked->id, wrong[i]);
        v = get_json(&s, "/v1/tandem/status");
        assert_true(json_number_value(at(v, "links.0.rtt_s")) == 0);
        json_decref(v);
        stage_stop(&s);
    }
}

static double transfer_s(struct stage *s)
{
    json_t *v = explain(s, "{\"prompt_tokens\":4001,\"answer_tokens\":1}", 200), *row;
    double seconds = -1;
    size_t i;

    json_array_foreach(at(v, "plans"), i, row) if (strcmp(text_at(row, "plan"), "hybrid") == 0)
        seconds = json_number_value(at(row, "transfer_s"));
    json_decref(v);
    assert_true(seconds > 0);
    return seconds;
}

// A hand-off is on the link from when its prompt is being read, and not while it waits for its turn.
static void test_links_shared(void **state)
{
    struct stage s;
    struct web w;
    double alone;
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
    uint64_t id;

    (void)state;
    stage_init(&s);
    s.local.kv_token_bytes = s.node.kv_token_bytes = 1e5;
    s.local.hold_generate = true;
    s.options.stall_s = 60;
    id = ask_held(&s, "\"tandem\":{\"plan\":\"hybrid\"}", &w);
    alone = transfer_s(&s);
    fake_say(&s.node, WIRE_ACCEPTED, id, "{}");
    fake_expect(&s.local, WIRE_GENERATE, 1);
    assert_true(fabs(transfer_s(&s) / alone - 1) < 0.01);
    fake_say(&s.node, WIRE_PROGRESS, id, "{\"phase\":\"prefill\",\"done\":64,\"total\":399}");
    while (transfer_s(&s) < 1.5 * alone)
        assert_true(clock_now_ns() < limit_ns);
    web_close(&w);
    stage_stop(&s);
}

// A node of an older release is never asked: it would not know the frame.
static void test_links_older(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    s.local.probes = true;
    stage_ready(&s, true);
    all_measured(&s);
    await_measured(&s, 1);
    await_measured(&s, 0);
    clock_sleep_until(clock_now_ns() + NS_PER_S);
    assert_int_equal(fake_count(&s.local, WIRE_MEASURE_LINK), 0);
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
    fake_listen(&other);
    s.options.prefill[1] = (struct net_addr){.host = "127.0.0.1", .port = other.port};
    fake_listen(&s.node);
    s.options.prefill[0] = (struct net_addr){.host = "127.0.0.1", .port = s.node.port};
    s.options.n_prefill = 2;
    stage_ready(&s, false);
    stage_await(&s, 1, "up");
    stage_await(&s, 2, "up");
    v = answered(&s, "\"tandem\":{\"plan\":\"hybrid\",\"decode_node\":\"strix\","
                     "\"prefill_node\":\"spark\"}");
    assert_string_equal(text_at(v, "timings.plan"), "hybrid");
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
    assert_string_equal(text_at(v, "timings.plan"), "remote");
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
    assert_string_equal(text_at(v, "timings.plan"), "local");
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
    assert_string_equal(text_at(v, "timings.plan"), "remote"); // the only plan whose price is known
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
    assert_string_equal(text_at(v, "timings.plan"), "hybrid");
    assert_has(text_at(v, "timings.fallback"), "no price is known");
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
    json_decref(v);
    stage_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measured),     cmocka_unit_test(test_not_measured),
        cmocka_unit_test(test_alone),        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_wishes),       cmocka_unit_test(test_any_pair),
        cmocka_unit_test(test_explain),      cmocka_unit_test(test_planned_again),
        cmocka_unit_test(test_role),         cmocka_unit_test(test_price),
        cmocka_unit_test(test_no_price),     cmocka_unit_test(test_waits_cold),
        cmocka_unit_test(test_metrics),      cmocka_unit_test(test_links),
        cmocka_unit_test(test_links_yield),  cmocka_unit_test(test_links_older),
        cmocka_unit_test(test_links_shared), cmocka_unit_test(test_stays_where_it_fell_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
