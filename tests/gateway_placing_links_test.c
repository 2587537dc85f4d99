// Links between nodes as placement learns and uses them: asked for, told, shared, and given up for requests.
#include "gateway_placing.h"

#include <math.h>

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
    struct fake *f = NULL;

    for (int i = 0; i < 2; i++) {
        f = asked_next(s, f);
        fake_say(f, WIRE_MEASURED, fake_expect(f, WIRE_MEASURE, 1)->id, MEASURED_ALL);
    }
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
    return plan_figure(s, LONG_IN_ONE_OUT, "hybrid", NULL, "transfer_s");
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_links),
        cmocka_unit_test(test_links_yield),
        cmocka_unit_test(test_links_older),
        cmocka_unit_test(test_links_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
