// A request whose prefill node, decode worker or client lets it down, at every point where one can.
#include "gateway_fake.h"

// ---- the prefill node lets it down ----------------------------------------------------------------------------

static void test_prefill_refuses(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    fake_say(&s.node, WIRE_FAILED, ask_held(&s, "", &w),
             "{\"code\":\"busy\",\"message\":\"64 requests are here already\"}");
    v = finish_json(&w, 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "spark refused: 64 requests");
    assert_string_equal(text_at(v, "choices.0.text"), "t0 t1 t2 t3 ");
    json_decref(v);
    stage_stop(&s);
}

static void test_prefill_silent(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.options.stall_s = 0.1;
    s.node.hold_prefill = true;
    stage_ready(&s, true);
    v = answer_long(&s, "", 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "did not answer in time");
    json_decref(v);
    fake_expect(&s.node, WIRE_CANCEL, 1);
    stage_stop(&s);
}

// Before ACCEPTED: the whole prompt is read here.
static void test_prefill_dies_early(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    ask_held(&s, "", &w);
    fake_hang_up(&s.node);
    v = finish_json(&w, 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "spark was lost");
    json_decref(v);
    stage_stop(&s);
}

static int fallbacks_counted(struct stage *s)
{
    struct web_answer a = web_get(s->port, "/v1/tandem/status");
    json_t *v = parse(a.body);
    int n = (int)json_integer_value(at(v, "totals.fallbacks"));

    json_decref(v);
    web_answer_fini(&a);
    return n;
}

// After ACCEPTED: the decode worker is told to go on alone. `more` is what its DONE says beyond the
// usual; what the client is then told of the fall-back is `told` (NULL: that there was none).
static void prefill_lost(bool dies, const char *more, const char *told)
{
    char done[256];
    struct stage s;
    struct web w;
    json_t *v;
    uint64_t id, generate;

    stage_init(&s);
    s.local.hold_generate = true;
    id = ask_held(&s, "", &w);
    fake_say(&s.node, WIRE_ACCEPTED, id, "{}");
    generate = fake_expect(&s.local, WIRE_GENERATE, 1)->id;
    if (dies)
        fake_hang_up(&s.node);
    else
        fake_say(&s.node, WIRE_FAILED, id, "{\"code\":\"engine\",\"message\":\"a bad step\"}");
    v = fake_expect(&s.local, WIRE_ABANDON, 1)->head;
    assert_has(text_at(v, "reason"), "prefill node spark");
    fake_token(&s.local, generate, 0, "alone");
    snprintf(done, sizeof(done),
             "{\"finish\":\"stop\",\"gen_tokens\":1,\"tokens_read\":300,\"tokens_imported\":100,"
             "\"decode_s\":1.0%s}",
             more);
    fake_say(&s.local, WIRE_DONE, generate, done);
    v = finish_json(&w, 200);
    assert_string_equal(text_at(v, "choices.0.text"), "alone");
    assert_plan(v, "hybrid");
    if (!told)
        assert_true(json_is_null(at(v, "timings.fallback")));
    else if (more[0]) // its own words, and no others
        assert_string_equal(text_at(v, "timings.fallback"), told);
    else
        assert_has(text_at(v, "timings.fallback"), told);
    assert_int_equal(json_integer_value(at(v, "timings.cached_tokens")), 0);
    json_decref(v);
    assert_int_equal(fallbacks_counted(&s), told != NULL);
    stage_stop(&s);
}

static void test_prefill_fails(void **state)
{
    (void)state;
    prefill_lost(false, "", "prefill node spark failed: a bad step");
    prefill_lost(false, ",\"fallback\":\"no progress; read on from token 100\"",
                 "no progress; read on from token 100");
}

static void test_prefill_dies(void **state)
{
    (void)state;
    prefill_lost(true, "", "prefill node spark was lost");
    prefill_lost(true, ",\"fallback\":\"lost; read on from token 100\"",
                 "lost; read on from token 100");
}

// Everything had come over by then: nothing was given up.
static void test_prefill_dies_late(void **state)
{
    (void)state;
    prefill_lost(true, ",\"handoff_end_s\":0.5,\"fallback\":null", NULL);
}

// ---- the decode worker lets it down --------------------------------------------------------------------------------

static void local_dies(struct stage *s)
{
    fake_hang_up(&s->local);
    s->local.ops->on_down(s->local.ops_ctx, "signal 9 (Killed)", 0);
}

static void test_decode_dies(void **state)
{
    struct stage s;
    struct web stream, whole;
    struct web_answer a;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, false);
    stream = ask_long(&s, "\"stream\":true");
    fake_token(&s.local, fake_expect(&s.local, WIRE_GENERATE, 1)->id, 0, "one");
    web_until(&stream, "one");
    whole = ask_long(&s, "");
    fake_token(&s.local, fake_expect(&s.local, WIRE_GENERATE, 2)->id, 0, "two");
    // Its progress is seen when the next status has been asked for and answered on the same link.
    stage_await(&s, 0, "up");
    local_dies(&s);
    a = web_finish(&stream);
    assert_int_equal(a.status, 200);
    assert_has(a.body, "data: {\"error\"");
    assert_has(a.body, "ended after 1 tokens");
    assert_has(a.body, "\"code\":\"worker_died\",\"param\":null");
    assert_null(strstr(a.body, "[DONE]"));
    web_answer_fini(&a);
    v = finish_json(&whole, 502);
    assert_has(text_at(v, "error.message"), "mac");
    assert_string_equal(text_at(v, "error.code"), "worker_died");
    json_decref(v);
    a = web_get(s.port, "/health");
    assert_int_equal(a.status, 503);
    assert_has(a.head, "Retry-After");
    web_answer_fini(&a);
    fake_up(&s.local);
    stage_await(&s, 0, "up");
    stage_stop(&s);
}

// What had not begun is asked of the restarted worker, once.
static void test_decode_dies_before(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, false);
    w = ask_long(&s, "");
    fake_expect(&s.local, WIRE_GENERATE, 1);
    local_dies(&s);
    s.local.hold_generate = false;
    fake_up(&s.local);
    v = finish_json(&w, 200);
    assert_string_equal(text_at(v, "choices.0.text"), "t0 t1 t2 t3 ");
    json_decref(v);
    s.local.hold_generate = true;
    w = ask_long(&s, "");
    for (size_t i = 0; i < 2; i++) {
        fake_expect(&s.local, WIRE_GENERATE, 3 + i);
        local_dies(&s);
        fake_up(&s.local);
    }
    json_decref(finish_json(&w, 502));
    stage_stop(&s);
}

static void test_decode_dies_in_render(void **state)
{
    struct stage s;
    struct web w;

    (void)state;
    stage_init(&s);
    s.local.hold_render = true;
    stage_ready(&s, false);
    w = ask_long(&s, "");
    fake_expect(&s.local, WIRE_RENDER, 1);
    local_dies(&s);
    s.local.hold_render = false;
    fake_up(&s.local);
    json_decref(finish_json(&w, 200));
    stage_stop(&s);
}

static void test_decode_stays_down(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, false);
    w = ask_long(&s, "");
    fake_expect(&s.local, WIRE_GENERATE, 1);
    fake_hang_up(&s.local);
    s.local.ops->on_down(s.local.ops_ctx, "exit code 2", -1);
    v = finish_json(&w, 502);
    assert_has(text_at(v, "error.message"), "exit code 2");
    assert_string_equal(text_at(v, "error.code"), "worker_died");
    json_decref(v);
    w = web_post(s.port, "/v1/completions", "{\"prompt\":\"x\"}");
    v = finish_json(&w, 503);
    assert_string_equal(text_at(v, "error.code"), "worker_dead");
    json_decref(v);
    stage_stop(&s);
}

static void test_loading(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.late = true;
    stage_start(&s, false);
    w = web_post(s.port, "/v1/completions", "{\"prompt\":\"x\"}");
    a = web_finish(&w);
    assert_int_equal(a.status, 503);
    assert_has(a.head, "Retry-After: 2");
    assert_has(a.body, "loading");
    web_answer_fini(&a);
    fake_up(&s.local);
    stage_await(&s, 0, "up");
    w = web_post(s.port, "/v1/completions", "{\"prompt\":\"x\"}");
    v = finish_json(&w, 200);
    json_decref(v);
    stage_stop(&s);
}

// A node that was up first is compared when there is something to compare with.
static void test_node_waits_for_local(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    s.local.late = true;
    stage_start(&s, true);
    stage_await(&s, 1, "waiting");
    fake_up(&s.local);
    stage_await(&s, 1, "up");
    stage_stop(&s);
}

// A worker that breaks the protocol is dropped like one that died.
static void test_decode_talks_nonsense(void **state)
{
    struct stage s;
    struct web w;
    struct wire_frame f;
    uint64_t id;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, false);
    w = ask_long(&s, "");
    id = fake_expect(&s.local, WIRE_GENERATE, 1)->id;
    fake_say(&s.local, WIRE_PROGRESS, id, "{\"phase\":\"prefill\",\"done\":8,\"total\":399}");
    f = wire_frame_struct(WIRE_TOKEN, id, "[not json", 9, (struct wire_body){0});
    fake_send(&s.local, f);
    json_decref(finish_json(&w, 502));
    stage_stop(&s);
}

// Who has no part in a request has no word about it.
static void test_progress_of_a_stranger(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;
    json_t *v;
    uint64_t id;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, true);
    w = ask_long(&s, "\"tandem\":{\"plan\":\"local\"}");
    id = fake_expect(&s.local, WIRE_GENERATE, 1)->id;
    fake_say(&s.node, WIRE_PROGRESS, id, "{\"phase\":\"prefill\",\"done\":300,\"total\":399}");
    a = web_get(s.port, "/v1/tandem/status"); // the node's own answer to it comes behind that
    v = parse(a.body);
    assert_int_equal(json_integer_value(at(v, "requests.0.read_tokens")), 0);
    json_decref(v);
    web_answer_fini(&a);
    fake_say(&s.local, WIRE_PROGRESS, id, "{\"phase\":\"prefill\",\"done\":8,\"total\":399}");
    a = web_get(s.port, "/v1/tandem/status");
    v = parse(a.body);
    assert_int_equal(json_integer_value(at(v, "requests.0.read_tokens")), 8);
    json_decref(v);
    web_answer_fini(&a);
    fake_token(&s.local, id, 0, "a");
    fake_done(&s.local, id, 400, 1, false);
    json_decref(finish_json(&w, 200));
    stage_stop(&s);
}

// So is a node; it gets another chance.
static void test_prefill_talks_nonsense(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;
    uint64_t id;

    (void)state;
    stage_init(&s);
    id = ask_held(&s, "", &w);
    fake_send(&s.node, wire_frame_struct(WIRE_ACCEPTED, id, "[not json", 9, (struct wire_body){0}));
    v = finish_json(&w, 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "cannot be read");
    json_decref(v);
    fake_links_wait(&s.node, 2);
    s.node.hold_prefill = false;
    stage_await(&s, 1, "up");
    v = answer_long(&s, "", 200);
    assert_plan(v, "hybrid");
    json_decref(v);
    stage_stop(&s);
}

// ---- the client lets it down ------------------------------------------------------------------------------------

static void client_leaves(bool stream)
{
    struct stage s;
    struct web w;
    uint64_t prefill, generate;

    stage_init(&s);
    s.local.hold_generate = true;
    prefill = ask_held(&s, stream ? "\"stream\":true" : "", &w);
    fake_say(&s.node, WIRE_ACCEPTED, prefill, "{}");
    generate = fake_expect(&s.local, WIRE_GENERATE, 1)->id;
    if (stream)
        web_until(&w, ": tandem");
    web_close(&w);
    assert_int_equal(fake_expect(&s.local, WIRE_CANCEL, 1)->id, generate);
    assert_int_equal(fake_expect(&s.node, WIRE_CANCEL, 1)->id, prefill);
    stage_stop(&s);
}

static void test_client_leaves_stream(void **state)
{
    (void)state;
    client_leaves(true);
}

static void test_client_leaves_whole(void **state)
{
    (void)state;
    client_leaves(false);
}

// A client that does not read must not make the server grow.
static void test_client_slow(void **state)
{
    struct stage s;
    struct web w;
    char *big = mem_alloc(60001);
    uint64_t id;
    size_t n = 0;

    (void)state;
    memset(big, 'x', 60000);
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, false);
    w = ask_long(&s, "\"stream\":true");
    id = fake_expect(&s.local, WIRE_GENERATE, 1)->id;
    while (fake_count(&s.local, WIRE_CANCEL) == 0 && n < 2000) {
        fake_token(&s.local, id, (uint32_t)n++, big);
        // The worker keeps in step with the gateway, as a status query shows.
        if (n % 16 == 0)
            stage_await(&s, 0, "up");
    }
    assert_int_equal(fake_count(&s.local, WIRE_CANCEL), 1);
    struct web_answer a = web_finish(&w);
    assert_true(a.cut);
    assert_null(strstr(a.body, "[DONE]"));
    web_answer_fini(&a);
    free(big);
    stage_stop(&s);
}

// Comments keep a connection alive while the prompt is read, also before it is tokenised.
static void test_heartbeat(void **state)
{
    struct stage s;
    struct web w;
    const char *at;
    size_t n = 0;

    (void)state;
    stage_init(&s);
    s.options.heartbeat_ns = 20 * NS_PER_MS;
    s.local.hold_generate = true;
    stage_ready(&s, false);
    w = ask_long(&s, "\"stream\":true");
    while (n < 4) {
        assert_true(web_more(&w));
        n = 0;
        for (at = (char *)w.in.data; (at = strstr(at, ": tandem")) != NULL; at++)
            n++;
    }
    fake_generate(&s.local, fake_expect(&s.local, WIRE_GENERATE, 1));
    struct web_answer a = web_finish(&w);
    assert_has(a.body, "[DONE]");
    web_answer_fini(&a);
    stage_stop(&s);
}

static void test_queue_full(void **state)
{
    struct stage s;
    struct web first, second;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    s.options.max_requests = 1;
    s.local.hold_generate = true;
    stage_ready(&s, false);
    first = ask_long(&s, "");
    fake_expect(&s.local, WIRE_GENERATE, 1);
    second = ask_long(&s, "");
    a = web_finish(&second);
    assert_int_equal(a.status, 503);
    assert_has(a.head, "Retry-After");
    assert_has(a.body, "queue_full");
    web_answer_fini(&a);
    fake_generate(&s.local, fake_expect(&s.local, WIRE_GENERATE, 1));
    json_decref(finish_json(&first, 200));
    second = ask_long(&s, "");
    fake_generate(&s.local, fake_expect(&s.local, WIRE_GENERATE, 2));
    json_decref(finish_json(&second, 200));
    stage_stop(&s);
}

// Many clients at once, each with its own answer.
static void test_many(void **state)
{
    struct web w[40];
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    for (size_t i = 0; i < 40; i++)
        w[i] = ask_long(&s, i % 2 ? "\"stream\":true" : "\"tandem\":{\"plan\":\"serial\"}");
    for (size_t i = 0; i < 40; i++) {
        struct web_answer a = web_finish(&w[i]);

        assert_int_equal(a.status, 200);
        assert_has(a.body, i % 2 ? "[DONE]" : "t0 t1 t2 t3 ");
        web_answer_fini(&a);
    }
    stage_stop(&s);
}

// Stopping ends open answers with a word, and nothing waits for ever.
static void test_stop(void **state)
{
    struct stage s;
    struct web stream, whole;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, true);
    stream = ask_long(&s, "\"stream\":true");
    whole = ask_long(&s, "");
    fake_expect(&s.local, WIRE_GENERATE, 2);
    web_until(&stream, ": tandem");
    gateway_free(s.gateway);
    a = web_finish(&stream);
    assert_has(a.body, "the server is stopping");
    web_answer_fini(&a);
    a = web_finish(&whole);
    assert_int_equal(a.status, 502);
    web_answer_fini(&a);
    fake_stop(&s.local);
    fake_stop(&s.node);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefill_refuses),
        cmocka_unit_test(test_prefill_silent),
        cmocka_unit_test(test_prefill_dies_early),
        cmocka_unit_test(test_prefill_fails),
        cmocka_unit_test(test_prefill_dies),
        cmocka_unit_test(test_prefill_dies_late),
        cmocka_unit_test(test_decode_dies),
        cmocka_unit_test(test_decode_dies_before),
        cmocka_unit_test(test_decode_dies_in_render),
        cmocka_unit_test(test_decode_stays_down),
        cmocka_unit_test(test_loading),
        cmocka_unit_test(test_node_waits_for_local),
        cmocka_unit_test(test_decode_talks_nonsense),
        cmocka_unit_test(test_prefill_talks_nonsense),
        cmocka_unit_test(test_progress_of_a_stranger),
        cmocka_unit_test(test_client_leaves_stream),
        cmocka_unit_test(test_client_leaves_whole),
        cmocka_unit_test(test_client_slow),
        cmocka_unit_test(test_heartbeat),
        cmocka_unit_test(test_queue_full),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_stop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
