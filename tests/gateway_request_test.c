// A request's life against workers that do as they are told: every plan, and nodes that are absent,
// wrong or late.
#include "gateway_fake.h"

#include <math.h>

static void assert_close(double a, double b)
{
    if (fabs(a - b) > 1e-6)
        fail_msg("%.9f is not %.9f", a, b);
}

// ---- plain answers ----------------------------------------------------------------------------------------

static void test_chat_whole(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    w = web_post(s.port, "/v1/chat/completions",
                 "{\"model\":\"stem\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],"
                 "\"max_tokens\":3,\"temperature\":0,\"stop\":[\"x\"],\"seed\":7}");
    v = finish_json(&w, 200);
    assert_string_equal(text_at(v, "object"), "chat.completion");
    assert_string_equal(text_at(v, "model"), "fake-model");
    assert_string_equal(text_at(v, "choices.0.message.role"), "assistant");
    assert_string_equal(text_at(v, "choices.0.message.content"), "t0 t1 t2 ");
    assert_string_equal(text_at(v, "choices.0.finish_reason"), "length");
    assert_int_equal(json_integer_value(at(v, "usage.prompt_tokens")), 5);
    assert_int_equal(json_integer_value(at(v, "usage.completion_tokens")), 3);
    assert_int_equal(json_integer_value(at(v, "usage.total_tokens")), 8);
    assert_plan(v, "local");
    assert_string_equal(text_at(v, "timings.decode_node"), "mac");
    assert_string_equal(text_at(v, "timings.prefill_node"), "mac");
    assert_true(json_is_null(at(v, "timings.fallback")));
    assert_true(json_is_null(at(v, "timings.tail_ms")));
    assert_true(json_is_null(at(v, "timings.weights")));
    assert_true(json_is_null(at(v, "timings.prefill_sent_s")));
    assert_true(json_number_value(at(v, "timings.decode_tokens_per_s")) == 6.0);
    json_decref(v);
    v = fake_expect(&s.local, WIRE_GENERATE, 1)->head;
    assert_int_equal(json_integer_value(at(v, "max_tokens")), 3);
    assert_true(json_number_value(at(v, "sampling.temperature")) == 0);
    assert_int_equal(json_integer_value(at(v, "sampling.seed")), 7);
    assert_string_equal(text_at(v, "stop.0"), "x");
    assert_true(json_is_null(at(v, "handoff")));
    stage_stop(&s);
}

static void test_chat_stream(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    w = web_post(s.port, "/chat/completions",
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":2,"
                 "\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    a = web_finish(&w);
    assert_int_equal(a.status, 200);
    assert_false(a.cut);
    assert_has(a.head, "text/event-stream");
    assert_int_equal(strncmp(a.body, ": tandem\n\n", 10), 0);
    assert_has(a.body, "chat.completion.chunk");
    assert_has(a.body, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    assert_has(a.body, "\"delta\":{\"content\":\"t0 \"}");
    assert_has(a.body, "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"");
    assert_has(a.body, "\"choices\":[],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":2");
    assert_string_equal(a.body + strlen(a.body) - strlen("data: [DONE]\n\n"), "data: [DONE]\n\n");
    assert_true(strstr(a.body, "\"role\"") < strstr(a.body, "t0 "));
    web_answer_fini(&a);
    stage_stop(&s);
}

// What is held back at the end comes with DONE; an empty text makes no chunk.
static void test_text_pieces(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;
    uint64_t id;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, false);
    w = web_post(s.port, "/v1/completions", "{\"prompt\":[5,6,7],\"stream\":true}");
    id = fake_expect(&s.local, WIRE_GENERATE, 1)->id;
    assert_int_equal(fake_expect(&s.local, WIRE_GENERATE, 1)->n_tokens, 3);
    fake_token(&s.local, id, 0, "");
    fake_token(&s.local, id, 1, "\xc3\xa9");
    fake_say(&s.local, WIRE_DONE, id,
             "{\"finish\":\"stop\",\"gen_tokens\":3,\"text\":\"tail\",\"decode_s\":1.0}");
    a = web_finish(&w);
    assert_has(a.body, "\"object\":\"text_completion\"");
    assert_has(a.body, "\"text\":\"\xc3\xa9\"");
    assert_has(a.body, "\"text\":\"tail\"");
    assert_has(a.body, "\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\"");
    assert_null(strstr(a.body, "\"text\":\"\",\"logprobs\":null,\"finish_reason\":null"));
    web_answer_fini(&a);
    stage_stop(&s);
}

static void test_context(void **state)
{
    struct stage s;
    struct web w;
    char *body;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.n_ctx = 100;
    stage_ready(&s, false);
    body = prompt_body(99, "\"max_tokens\":50");
    w = web_post(s.port, "/v1/completions", body);
    v = finish_json(&w, 200);
    assert_int_equal(json_integer_value(at(v, "usage.completion_tokens")), 1);
    json_decref(v);
    free(body);
    body = prompt_body(100, "\"stream\":true");
    w = web_post(s.port, "/v1/completions", body);
    v = finish_json(&w, 400);
    assert_has(text_at(v, "error.message"), "100 tokens");
    assert_has(text_at(v, "error.message"), "holds 100");
    assert_string_equal(text_at(v, "error.code"), "context_length_exceeded");
    assert_string_equal(text_at(v, "error.param"), "prompt");
    json_decref(v);
    free(body);
    w = web_post(s.port, "/v1/completions", "{\"prompt\":\"\"}");
    v = finish_json(&w, 400);
    assert_string_equal(text_at(v, "error.code"), "empty_prompt");
    json_decref(v);
    assert_int_equal(fake_count(&s.local, WIRE_GENERATE), 1);
    stage_stop(&s);
}

// Four sequences share 4096 cells: who sets no limit gets a quarter, -1 all of it.
static void test_default_max_tokens(void **state)
{
    static const struct {
        const char *more;
        int want;
    } rows[] = {{"", 1024 - 400},
                {"\"max_tokens\":-1", 4096 - 400},
                {"\"max_tokens\":9", 9},
                {"\"max_tokens\":9,\"max_completion_tokens\":11", 11},
                {"\"max_tokens\":99999", 4096 - 400}};
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_decref(answer_long(&s, rows[i].more, 200));
        assert_int_equal(json_integer_value(json_object_get(
                             fake_expect(&s.local, WIRE_GENERATE, i + 1)->head, "max_tokens")),
                         rows[i].want);
    }
    stage_stop(&s);
}

static void test_worker_refuses(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.hold_render = s.local.hold_generate = true;
    stage_ready(&s, false);
    w = web_post(s.port, "/v1/completions", "{\"prompt\":[1,2]}");
    fake_say(&s.local, WIRE_FAILED, fake_expect(&s.local, WIRE_RENDER, 1)->id,
             "{\"code\":\"invalid\",\"message\":\"the template has no such role\"}");
    v = finish_json(&w, 400);
    assert_has(text_at(v, "error.message"), "no such role");
    json_decref(v);
    w = web_post(s.port, "/v1/completions", "{\"prompt\":[1,2],\"stream\":true}");
    fake_render(&s.local, fake_expect(&s.local, WIRE_RENDER, 2));
    fake_say(&s.local, WIRE_FAILED, fake_expect(&s.local, WIRE_GENERATE, 1)->id,
             "{\"code\":\"engine\",\"message\":\"out of cells\"}");
    struct web_answer a = web_finish(&w);
    assert_int_equal(a.status, 200);
    assert_has(a.body, "data: {\"error\":{\"message\":\"out of cells\"");
    assert_null(strstr(a.body, "[DONE]"));
    web_answer_fini(&a);
    stage_stop(&s);
}

// ---- hybrid -------------------------------------------------------------------------------------------------

static void test_hybrid(void **state)
{
    struct stage s;
    json_t *v, *generate, *prefill, *span;
    char port[16];

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    v = answer_long(&s, "\"tandem\":{\"timeline\":true}", 200);
    prefill = fake_expect(&s.node, WIRE_PREFILL, 1)->head;
    generate = fake_expect(&s.local, WIRE_GENERATE, 1)->head;
    assert_int_equal(json_integer_value(at(prefill, "upto")), LONG_PROMPT_TOKENS - 1);
    assert_string_equal(text_at(prefill, "ticket"), text_at(generate, "handoff.ticket"));
    assert_int_equal(json_integer_value(at(prefill, "transfer")),
                     json_integer_value(at(generate, "handoff.transfer")));
    snprintf(port, sizeof(port), "%d", (int)json_integer_value(at(generate, "handoff.port")));
    assert_int_equal(strtol(port, NULL, 10), s.node.port);
    assert_false(json_is_true(at(prefill, "serial")));
    assert_true(json_is_true(at(generate, "handoff.same_weights")));
    assert_string_equal(text_at(v, "timings.weights.prefill"), "F32");
    assert_string_equal(text_at(v, "timings.weights.decode"), "F32");
    assert_plan(v, "hybrid");
    assert_string_equal(text_at(v, "timings.prefill_node"), "spark");
    assert_string_equal(text_at(v, "timings.decode_node"), "mac");
    assert_has(text_at(v, "timings.reason"), "hybrid spark > local");
    assert_int_equal(json_integer_value(at(v, "timings.kv_bytes")), 1000);
    assert_int_equal(json_integer_value(at(v, "timings.overruns")), 1);
    assert_true(json_number_value(at(v, "timings.prefill_s")) == 1.9);
    assert_true(json_is_null(at(v, "timings.fallback")));
    // The end marker came 2.0 s after GENERATE, the last token was computed 1.9 s after PREFILL; what
    // lies between the two messages is part of the tail on the gateway's axis.
    double sent = json_number_value(at(v, "timings.decode_sent_s")) -
                  json_number_value(at(v, "timings.prefill_sent_s"));
    assert_true(sent >= 0);
    assert_close(json_number_value(at(v, "timings.tail_ms")), 100 + sent * 1e3);
    span = at(v, "timings.timeline.0");
    assert_string_equal(text_at(span, "who"), "prefill");
    assert_close(json_number_value(at(span, "t1")),
                 1.9 + json_number_value(at(v, "timings.prefill_sent_s")));
    json_decref(v);
    // The rate that the node measured goes back to it with the next prompt.
    v = answer_long(&s, "\"tandem\":{\"plan\":\"serial\"}", 200);
    assert_plan(v, "serial");
    assert_null(at(v, "timings.timeline"));
    json_decref(v);
    prefill = fake_expect(&s.node, WIRE_PREFILL, 2)->head;
    assert_true(json_is_true(at(prefill, "serial")));
    // What the first one's transfer told, as far as one transfer is believed.
    assert_true(fabs(json_number_value(at(prefill, "link_bytes_per_s")) / 5e8 - 1) < 0.2);
    assert_true(json_is_true(at(fake_expect(&s.local, WIRE_GENERATE, 2)->head, "handoff.serial")));
    stage_stop(&s);
}

// A node's first work comes long after it was last heard: it is not given up for that.
static void test_hybrid_first_word(void **state)
{
    struct stage s;
    json_t *v = NULL;

    (void)state;
    stage_init(&s);
    stage_start(&s, true);
    stage_await_health(&s);
    // No status query here, because its answers count as words of the node.
    for (bool asked = false; !asked;) {
        json_decref(v);
        v = answer_long(&s, "", 200);
        asked = strstr(text_at(v, "timings.reason"), "; without ") == NULL;
    }
    assert_plan(v, "hybrid");
    assert_true(json_is_null(at(v, "timings.fallback")));
    json_decref(v);
    stage_stop(&s);
}

// The prefill node's account may come after the decode worker is done, or never.
static void test_hybrid_linger(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;
    uint64_t id;

    (void)state;
    stage_init(&s);
    s.node.hold_prefill = true;
    stage_ready(&s, true);
    for (int late = 0; late < 2; late++) {
        w = ask_long(&s, "");
        id = fake_expect(&s.node, WIRE_PREFILL, (size_t)late + 1)->id;
        fake_say(&s.node, WIRE_ACCEPTED, id, "{}");
        fake_expect(&s.local, WIRE_GENERATE, (size_t)late + 1);
        if (!late)
            fake_say(&s.node, WIRE_PREFILLED, id, "{\"done_s\":1.25}");
        v = finish_json(&w, 200);
        assert_plan(v, "hybrid");
        assert_true(json_is_null(at(v, "timings.tail_ms")) == (late == 1));
        json_decref(v);
    }
    fake_expect(&s.node, WIRE_CANCEL, 1);
    stage_stop(&s);
}

static void test_short_prompt_stays(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    w = web_post(s.port, "/v1/completions", "{\"prompt\":\"short\"}");
    v = finish_json(&w, 200);
    assert_plan(v, "local");
    json_decref(v);
    assert_int_equal(fake_count(&s.node, WIRE_PREFILL), 0);
    w = web_post(s.port, "/v1/completions",
                 "{\"prompt\":\"short\",\"tandem\":{\"plan\":\"hybrid\"}}");
    v = finish_json(&w, 200);
    assert_plan(v, "hybrid");
    json_decref(v);
    stage_stop(&s);
}

// ---- nodes that are absent, wrong or late ----------------------------------------------------------------

static void test_node_absent(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    v = answer_long(&s, "\"tandem\":{\"plan\":\"hybrid\"}", 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "no other node is configured");
    json_decref(v);
    v = answer_long(&s, "\"tandem\":{\"plan\":\"remote\"}", 503);
    assert_string_equal(text_at(v, "error.code"), "no_prefill_node");
    json_decref(v);
    stage_stop(&s);
}

// A node of another model is never asked; both values can be read. It is asked again later.
static void test_node_mismatch(void **state)
{
    struct stage s;
    struct web_answer a;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.weights_hash = 2;
    stage_start(&s, true);
    stage_await(&s, 0, "up");
    stage_await(&s, 1, "refused");
    a = web_get(s.port, "/health?verbose");
    assert_has(a.body, "weights_hash");
    web_answer_fini(&a);
    v = answer_long(&s, "", 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.reason"), "weights_hash");
    json_decref(v);
    assert_int_equal(fake_count(&s.node, WIRE_PREFILL), 0);
    stage_stop(&s);
}

// Both weights are then in every answer, and the decode worker need not ask for the same ones.
static void test_node_different_weights_allowed(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.node.weights_hash = 2;
    s.node.weights = "Q4_0";
    s.options.same_weights = false;
    stage_ready(&s, true);
    v = answer_long(&s, "", 200);
    assert_string_equal(text_at(v, "timings.weights.prefill"), "Q4_0");
    assert_string_equal(text_at(v, "timings.weights.decode"), "F32");
    assert_true(
        json_is_false(at(fake_expect(&s.local, WIRE_GENERATE, 1)->head, "handoff.same_weights")));
    json_decref(v);
    v = answer_long(&s, "\"tandem\":{\"plan\":\"remote\"}", 200);
    assert_string_equal(text_at(v, "timings.weights.prefill"), "Q4_0");
    assert_string_equal(text_at(v, "timings.weights.decode"), "Q4_0");
    json_decref(v);
    stage_stop(&s);
}

static void test_node_refuses_hello(void **state)
{
    struct stage s;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    s.node.refusal = "this node speaks version 9";
    stage_start(&s, true);
    stage_await(&s, 1, "refused");
    a = web_get(s.port, "/v1/tandem/status");
    assert_has(a.body, "this node speaks version 9");
    web_answer_fini(&a);
    stage_stop(&s);
}

static void test_node_wrong_key(void **state)
{
    struct stage s;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    s.options.key.bytes[0] = 1;
    s.node.key.bytes[0] = 2;
    stage_start(&s, true);
    stage_await(&s, 0, "up");
    for (bool told = false; !told;) {
        a = web_get(s.port, "/v1/tandem/status");
        told = strstr(a.body, "not connected yet") == NULL && strstr(a.body, "\"down\"") != NULL;
        web_answer_fini(&a);
    }
    stage_stop(&s);
}

// A node that went away is dialled again and used again.
static void test_node_comes_back(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    fake_hang_up(&s.node);
    fake_links_wait(&s.node, 2);
    stage_await(&s, 1, "up");
    v = answer_long(&s, "", 200);
    assert_plan(v, "hybrid");
    json_decref(v);
    stage_stop(&s);
}

// ---- remote -----------------------------------------------------------------------------------------------------

static void test_remote(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    v = answer_long(&s, "\"tandem\":{\"plan\":\"remote\"}", 200);
    assert_plan(v, "remote");
    assert_string_equal(text_at(v, "timings.decode_node"), "spark");
    json_decref(v);
    assert_int_equal(fake_count(&s.local, WIRE_GENERATE), 0);
    // It dies before the first token: this machine answers. After it: nobody can.
    s.node.hold_generate = true;
    w = ask_long(&s, "\"tandem\":{\"plan\":\"remote\"}");
    fake_expect(&s.node, WIRE_GENERATE, 2);
    fake_hang_up(&s.node);
    v = finish_json(&w, 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "node spark failed");
    json_decref(v);
    stage_await(&s, 1, "up");
    w = ask_long(&s, "\"stream\":true,\"tandem\":{\"plan\":\"remote\"}");
    fake_token(&s.node, fake_expect(&s.node, WIRE_GENERATE, 3)->id, 0, "first");
    web_until(&w, "first");
    fake_hang_up(&s.node);
    a = web_finish(&w);
    assert_has(a.body, "\"code\":\"worker_died\"");
    assert_has(a.body, "after 1 tokens");
    web_answer_fini(&a);
    stage_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat_whole),
        cmocka_unit_test(test_chat_stream),
        cmocka_unit_test(test_text_pieces),
        cmocka_unit_test(test_context),
        cmocka_unit_test(test_default_max_tokens),
        cmocka_unit_test(test_worker_refuses),
        cmocka_unit_test(test_hybrid),
        cmocka_unit_test(test_hybrid_first_word),
        cmocka_unit_test(test_hybrid_linger),
        cmocka_unit_test(test_short_prompt_stays),
        cmocka_unit_test(test_node_absent),
        cmocka_unit_test(test_node_mismatch),
        cmocka_unit_test(test_node_different_weights_allowed),
        cmocka_unit_test(test_node_refuses_hello),
        cmocka_unit_test(test_node_wrong_key),
        cmocka_unit_test(test_node_comes_back),
        cmocka_unit_test(test_remote),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
