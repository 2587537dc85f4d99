// What clients are told of an answer: tool calls, reasoning, log probabilities, several answers, and what
// workers are thought to hold; against a worker whose every word a test says.
#include "gateway_fake.h"

#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"
#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"

// A stage whose worker answers nothing to GENERATE by itself.
static void hold_stage(struct stage *s)
{
    stage_init(s);
    s->local.hold_generate = true;
    stage_ready(s, false);
}

// The n-th GENERATE's head.
static json_t *generate(struct stage *s, size_t nth)
{
    return fake_expect(&s->local, WIRE_GENERATE, nth)->head;
}

static uint64_t generate_id(struct stage *s, size_t nth)
{
    return fake_expect(&s->local, WIRE_GENERATE, nth)->id;
}

static void say(struct stage *s, enum wire_type type, size_t nth, const char *head)
{
    fake_say(&s->local, type, generate_id(s, nth), head);
}

// In this order, each after the one before.
static void assert_in_order(const char *text, const char *const *parts, size_t n)
{
    const char *at = text;

    for (size_t i = 0; i < n; i++) {
        const char *found = strstr(at, parts[i]);

        if (!found)
            fail_msg("\"%s\" does not follow in: %s", parts[i], at);
        at = found + strlen(parts[i]);
    }
}
#define ASSERT_IN_ORDER(text, ...)                                                                 \
    do {                                                                                           \
        const char *const parts[] = {__VA_ARGS__};                                                 \
        assert_in_order(text, parts, sizeof(parts) / sizeof(parts[0]));                            \
    } while (0)

// ---- deltas -------------------------------------------------------------------------------------------

// What the worker said of the answer goes back to it unread; more than a grammar asks for deltas.
static void test_syntax(void **state)
{
    static const struct {
        const char *rendered, *syntax;
        bool parse;
    } rows[] = {
        {"{\"stop\":[\"<end>\"],\"syntax\":null}", "null", false},
        {"{\"syntax\":{\"grammar\":\"g\"}}", "{\"grammar\":\"g\"}", false},
        {"{\"syntax\":{\"grammar\":\"g\",\"x\":[1]}}", "{\"grammar\":\"g\",\"x\":[1]}", true},
        {"{\"syntax\":{\"format\":\"f\"}}", "{\"format\":\"f\"}", true},
    };
    const int32_t tokens[] = {1, 2, 3};
    struct stage s;

    (void)state;
    stage_init(&s);
    s.local.hold_render = true;
    stage_ready(&s, false);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct web w = web_post(s.port, CHAT, "{" MSG "}");
        uint64_t id = fake_expect(&s.local, WIRE_RENDER, i + 1)->id;
        json_t *head = parse(rows[i].rendered), *g, *given;
        char *syntax;

        fake_send(&s.local, wire_frame_tokens(WIRE_RENDERED, id, head, tokens, 3));
        json_decref(finish_json(&w, 200));
        g = generate(&s, i + 1);
        given = json_object_get(g, "syntax");
        syntax = json_text(given ? given : json_null());
        assert_string_equal(syntax, rows[i].syntax);
        assert_int_equal(json_is_true(at(g, "parse")), rows[i].parse);
        free(syntax);
    }
    assert_string_equal(text_at(generate(&s, 1), "stop.0"), "<end>");
    stage_stop(&s);
}

// As many stops as a client may give leave room for the template's own.
static void test_stops(void **state)
{
    const int32_t tokens[] = {1, 2, 3};
    struct stage s;
    struct web w;
    struct buf body;
    json_t *stops;

    (void)state;
    stage_init(&s);
    s.local.hold_render = true;
    stage_ready(&s, false);
    buf_init(&body, 4096);
    buf_printf(&body, "{" MSG ",\"stop\":[\"s0\"");
    for (int i = 1; i < 16; i++)
        buf_printf(&body, ",\"s%d\"", i);
    buf_puts(&body, "]}");
    w = web_post(s.port, CHAT, (const char *)body.data);
    fake_send(&s.local,
              wire_frame_tokens(WIRE_RENDERED, fake_expect(&s.local, WIRE_RENDER, 1)->id,
                                parse("{\"stop\":[\"<end>\",\"s3\",\"<eot>\"]}"), tokens, 3));
    json_decref(finish_json(&w, 200));
    stops = at(generate(&s, 1), "stop");
    assert_int_equal(json_array_size(stops), 18);
    assert_string_equal(json_string_value(json_array_get(stops, 16)), "<end>");
    assert_string_equal(json_string_value(json_array_get(stops, 17)), "<eot>");
    buf_fini(&body);
    stage_stop(&s);
}

#define THOUGHT "{\"id\":1,\"delta\":[{\"reasoning\":\"hm\\n\"}]}"
#define WORDS "{\"id\":2,\"delta\":[{\"content\":\"so: \"}]}"
#define CALL_OPEN                                                                                  \
    "{\"id\":3,\"delta\":[{\"tool\":0,\"id\":\"call_1\",\"name\":\"f\",\"arguments\":\"\"}]}"
#define CALL_MORE "{\"id\":4,\"delta\":[{\"tool\":0,\"arguments\":\"{\\\"a\\\":\"}]}"
#define CALLS_DONE                                                                                 \
    "{\"finish\":\"tool_calls\",\"gen_tokens\":5,\"reasoning_tokens\":1,\"tokens_cached\":3,"      \
    "\"delta\":[{\"tool\":0,\"arguments\":\"1}\"},"                                                \
    "{\"tool\":1,\"id\":\"call_2\",\"name\":\"g\",\"arguments\":\"{}\"}]}"

static void calls_say(struct stage *s, size_t nth)
{
    say(s, WIRE_TOKEN, nth, THOUGHT);
    say(s, WIRE_TOKEN, nth, WORDS);
    say(s, WIRE_TOKEN, nth, CALL_OPEN);
    say(s, WIRE_TOKEN, nth, CALL_MORE);
    say(s, WIRE_DONE, nth, CALLS_DONE);
}

static void test_tools_whole(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    hold_stage(&s);
    w = web_post(s.port, CHAT, "{" MSG "}");
    calls_say(&s, 1);
    v = finish_json(&w, 200);
    assert_string_equal(text_at(v, "choices.0.message.content"), "so: ");
    assert_string_equal(text_at(v, "choices.0.message.reasoning_content"), "hm\n");
    assert_true(json_is_null(at(v, "choices.0.message.refusal")));
    assert_string_equal(text_at(v, "choices.0.message.tool_calls.0.id"), "call_1");
    assert_string_equal(text_at(v, "choices.0.message.tool_calls.0.type"), "function");
    assert_string_equal(text_at(v, "choices.0.message.tool_calls.0.function.name"), "f");
    assert_string_equal(text_at(v, "choices.0.message.tool_calls.0.function.arguments"),
                        "{\"a\":1}");
    assert_string_equal(text_at(v, "choices.0.message.tool_calls.1.function.name"), "g");
    assert_string_equal(text_at(v, "choices.0.finish_reason"), "tool_calls");
    assert_int_equal(json_integer_value(at(v, "usage.completion_tokens")), 5);
    assert_int_equal(json_integer_value(at(v, "usage.completion_tokens_details.reasoning_tokens")),
                     1);
    assert_int_equal(json_integer_value(at(v, "usage.prompt_tokens_details.cached_tokens")), 3);
    assert_int_equal(strncmp(text_at(v, "system_fingerprint"), "fp_", 3), 0);
    json_decref(v);
    // A call alone has no content.
    w = web_post(s.port, CHAT, "{" MSG "}");
    say(&s, WIRE_DONE, 2,
        "{\"finish\":\"stop\",\"delta\":[{\"tool\":0,\"id\":\"c\",\"name\":\"f\"}]}");
    v = finish_json(&w, 200);
    assert_true(json_is_null(at(v, "choices.0.message.content")));
    assert_string_equal(text_at(v, "choices.0.message.tool_calls.0.function.arguments"), "");
    assert_string_equal(text_at(v, "choices.0.finish_reason"), "tool_calls");
    json_decref(v);
    stage_stop(&s);
}

// What is refused before a stream began is a body as any other.
static void test_refused_stream(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    w = web_post(s.port, CHAT, "{" MSG ",\"stream\":true,\"model\":\"none\"}");
    a = web_finish(&w);
    assert_int_equal(a.status, 404);
    assert_has(a.head, "application/json");
    assert_has(a.body, "model_not_found");
    web_answer_fini(&a);
    stage_stop(&s);
}

static void test_tools_stream(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;

    (void)state;
    hold_stage(&s);
    w = web_post(s.port, CHAT, "{" MSG ",\"stream\":true}");
    calls_say(&s, 1);
    a = web_finish(&w);
    ASSERT_IN_ORDER(a.body, "\"role\":\"assistant\"", "{\"reasoning_content\":\"hm\\n\"}",
                    "{\"content\":\"so: \"}",
                    "{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\","
                    "\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}",
                    "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\":\"}}]}",
                    "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}}]}",
                    "{\"tool_calls\":[{\"index\":1,\"id\":\"call_2\"",
                    "\"finish_reason\":\"tool_calls\"", "data: [DONE]");
    web_answer_fini(&a);
    stage_stop(&s);
}

// A worker that tells nonsense makes an error, in whatever form the answer can still have.
static void test_nonsense(void **state)
{
    static const char *const tokens[] = {
        "{\"delta\":[{\"tool\":7,\"id\":\"c\",\"name\":\"f\"}]}",
        "{\"delta\":[{\"tool\":-1}]}",
        "{\"delta\":[{}]}",
        "{\"delta\":[5]}",
        "{\"delta\":[{\"content\":\"kept\"},{}]}",
    };
    struct stage s;

    (void)state;
    hold_stage(&s);
    for (size_t i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        struct web w = web_post(s.port, CHAT, "{" MSG ",\"stream\":true}");
        struct web_answer a;

        say(&s, WIRE_TOKEN, i + 1, tokens[i]);
        a = web_finish(&w);
        assert_has(a.body, "\"type\":\"server_error\"");
        assert_null(strstr(a.body, "[DONE]"));
        // What came before it is told.
        assert_true(!strstr(tokens[i], "kept") == !strstr(a.body, "kept"));
        web_answer_fini(&a);
        fake_expect(&s.local, WIRE_CANCEL, i + 1);
    }
    stage_stop(&s);
}

// A call beyond the most that an answer has is text.
static void test_surplus_call(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    hold_stage(&s);
    w = web_post(s.port, CHAT, "{" MSG "}");
    say(&s, WIRE_TOKEN, 1, "{\"delta\":[{\"tool\":128,\"name\":\"f\",\"arguments\":\"{}\"}]}");
    say(&s, WIRE_DONE, 1, "{\"finish\":\"stop\",\"delta\":[]}");
    v = finish_json(&w, 200);
    assert_string_equal(text_at(v, "choices.0.message.content"), "f{}");
    assert_string_equal(text_at(v, "choices.0.finish_reason"), "stop");
    json_decref(v);
    stage_stop(&s);
}

// ---- log probabilities ----------------------------------------------------------------------------------

#define HELD                                                                                       \
    "{\"id\":1,\"text\":\"\",\"logprob\":-0.5,\"bytes\":\"c3\","                                   \
    "\"top\":[[1,\"a\",-0.25],[2,\"b\",-2.0]]}"
#define REST "{\"id\":2,\"text\":\"\\u00e9\",\"logprob\":-1.0,\"bytes\":\"a9\",\"top\":[]}"
#define LOGPROBS_DONE "{\"finish\":\"stop\",\"gen_tokens\":2,\"text\":\"\"}"

static void test_logprobs_chat(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;
    json_t *v;

    (void)state;
    hold_stage(&s);
    w = web_post(s.port, CHAT, "{" MSG ",\"logprobs\":true,\"top_logprobs\":2}");
    assert_int_equal(json_integer_value(at(generate(&s, 1), "logprobs")), 2);
    say(&s, WIRE_TOKEN, 1, HELD);
    say(&s, WIRE_TOKEN, 1, REST);
    say(&s, WIRE_DONE, 1, LOGPROBS_DONE);
    v = finish_json(&w, 200);
    assert_int_equal(json_array_size(at(v, "choices.0.logprobs.content")), 2);
    assert_string_equal(text_at(v, "choices.0.logprobs.content.0.token"), "bytes:\\xc3");
    assert_int_equal(json_integer_value(at(v, "choices.0.logprobs.content.0.bytes.0")), 0xc3);
    assert_true(json_number_value(at(v, "choices.0.logprobs.content.0.logprob")) == -0.5);
    assert_string_equal(text_at(v, "choices.0.logprobs.content.0.top_logprobs.1.token"), "b");
    json_decref(v);
    // In a stream they come with the text that they belong to.
    w = web_post(s.port, CHAT, "{" MSG ",\"logprobs\":true,\"stream\":true}");
    say(&s, WIRE_TOKEN, 2, HELD);
    say(&s, WIRE_TOKEN, 2, REST);
    say(&s, WIRE_DONE, 2, LOGPROBS_DONE);
    a = web_finish(&w);
    ASSERT_IN_ORDER(a.body, "\"content\":\"\xc3\xa9\"", "\"logprobs\":{\"content\":[{",
                    "\"logprob\":-0.5", "\"logprob\":-1.0", "\"finish_reason\":\"stop\"");
    web_answer_fini(&a);
    stage_stop(&s);
}

static void test_logprobs_text(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    hold_stage(&s);
    w = web_post(s.port, TEXT, "{\"prompt\":\"x\",\"logprobs\":1}");
    say(&s, WIRE_TOKEN, 1,
        "{\"id\":1,\"text\":\"ab\",\"logprob\":-0.5,\"bytes\":\"6162\",\"top\":[[1,\"ab\",-0.5]]}");
    say(&s, WIRE_TOKEN, 1, "{\"id\":2,\"text\":\"c\",\"logprob\":-1.5,\"bytes\":\"63\"}");
    say(&s, WIRE_DONE, 1, LOGPROBS_DONE);
    v = finish_json(&w, 200);
    assert_string_equal(text_at(v, "choices.0.text"), "abc");
    assert_string_equal(text_at(v, "choices.0.logprobs.tokens.1"), "c");
    assert_true(json_number_value(at(v, "choices.0.logprobs.token_logprobs.1")) == -1.5);
    assert_true(json_number_value(at(v, "choices.0.logprobs.top_logprobs.0.ab")) == -0.5);
    assert_int_equal(json_integer_value(at(v, "choices.0.logprobs.text_offset.1")), 2);
    json_decref(v);
    stage_stop(&s);
}

// ---- several answers --------------------------------------------------------------------------------------

// The others begin when the first has its prompt, each with a seed of its own.
static void test_n(void **state)
{
    struct stage s;
    struct web w;
    struct web_answer a;
    json_t *v;

    (void)state;
    hold_stage(&s);
    w = web_post(s.port, CHAT, "{" MSG ",\"n\":3,\"seed\":40}");
    generate(&s, 1);
    say(&s, WIRE_TOKEN, 1, "{\"id\":1,\"text\":\"one\"}");
    for (size_t i = 1; i <= 3; i++)
        assert_int_equal(json_integer_value(at(generate(&s, i), "sampling.seed")), 39 + i);
    say(&s, WIRE_TOKEN, 3, "{\"id\":1,\"text\":\"three\"}");
    say(&s, WIRE_DONE, 3, "{\"finish\":\"length\",\"gen_tokens\":30}");
    say(&s, WIRE_DONE, 1, "{\"finish\":\"stop\",\"gen_tokens\":10,\"decode_s\":2}");
    say(&s, WIRE_DONE, 2, "{\"finish\":\"stop\",\"gen_tokens\":20,\"text\":\"two\"}");
    v = finish_json(&w, 200);
    assert_int_equal(json_array_size(at(v, "choices")), 3);
    assert_string_equal(text_at(v, "choices.0.message.content"), "one");
    assert_string_equal(text_at(v, "choices.1.message.content"), "two");
    assert_string_equal(text_at(v, "choices.2.message.content"), "three");
    assert_int_equal(json_integer_value(at(v, "choices.2.index")), 2);
    assert_string_equal(text_at(v, "choices.2.finish_reason"), "length");
    assert_int_equal(json_integer_value(at(v, "usage.prompt_tokens")), 5);
    assert_int_equal(json_integer_value(at(v, "usage.completion_tokens")), 60);
    assert_true(json_number_value(at(v, "timings.decode_tokens_per_s")) == 5);
    json_decref(v);
    // In a stream each has its own end, and there is one [DONE].
    w = web_post(s.port, TEXT, "{\"prompt\":\"x\",\"n\":2,\"stream\":true}");
    say(&s, WIRE_TOKEN, 4, "{\"id\":1,\"text\":\"a\"}");
    say(&s, WIRE_DONE, 5, "{\"finish\":\"stop\",\"gen_tokens\":1,\"text\":\"b\"}");
    say(&s, WIRE_DONE, 4, "{\"finish\":\"length\",\"gen_tokens\":1}");
    a = web_finish(&w);
    ASSERT_IN_ORDER(a.body, "{\"index\":0,\"text\":\"a\"", "{\"index\":1,\"text\":\"b\"",
                    "{\"index\":1,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\"}]}",
                    "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\"}]",
                    "\"timings\":", "data: [DONE]\n\n");
    web_answer_fini(&a);
    stage_stop(&s);
}

// One answer fails: the request does, and the others are given up.
static void test_n_fails(void **state)
{
    struct stage s;
    struct web w;

    (void)state;
    hold_stage(&s);
    w = web_post(s.port, CHAT, "{" MSG ",\"n\":2}");
    say(&s, WIRE_TOKEN, 1, "{\"id\":1,\"text\":\"one\"}");
    say(&s, WIRE_FAILED, 2, "{\"code\":\"engine\",\"message\":\"out of cells\"}");
    json_decref(finish_json(&w, 500));
    assert_int_equal(fake_expect(&s.local, WIRE_CANCEL, 1)->id, generate_id(&s, 1));
    // A client that leaves ends all of them.
    w = web_post(s.port, CHAT, "{" MSG ",\"n\":2}");
    say(&s, WIRE_TOKEN, 3, "{\"id\":1,\"text\":\"one\"}");
    generate(&s, 4);
    web_close(&w);
    fake_expect(&s.local, WIRE_CANCEL, 3);
    stage_stop(&s);
}

static void test_prompts(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    w = web_post(s.port, TEXT, "{\"prompt\":[\"aa\",\"bbb\",\"c\"],\"n\":2,\"max_tokens\":1}");
    v = finish_json(&w, 200);
    assert_int_equal(json_array_size(at(v, "choices")), 6);
    assert_int_equal(json_integer_value(at(v, "usage.prompt_tokens")), 6);
    assert_int_equal(json_integer_value(at(v, "usage.completion_tokens")), 6);
    json_decref(v);
    assert_int_equal(fake_count(&s.local, WIRE_RENDER), 3);
    for (size_t i = 1; i <= 6; i++)
        assert_int_equal(fake_expect(&s.local, WIRE_GENERATE, i)->n_tokens, i <= 2   ? 2
                                                                            : i <= 4 ? 3
                                                                                     : 1);
    stage_stop(&s);
}

// Only the leader is handed off.
static void test_n_hybrid(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    v = answer_long(&s, "\"n\":2,\"max_tokens\":1,\"tandem\":{\"plan\":\"hybrid\"}", 200);
    assert_plan(v, "hybrid");
    assert_int_equal(json_array_size(at(v, "choices")), 2);
    json_decref(v);
    assert_int_equal(fake_count(&s.node, WIRE_PREFILL), 1);
    assert_true(json_is_object(at(generate(&s, 1), "handoff")));
    assert_true(json_is_null(at(generate(&s, 2), "handoff")));
    stage_stop(&s);
}

// ---- what workers hold ------------------------------------------------------------------------------------

// A follow-up turn whose beginning the decode worker has read is not handed off; a cold one is.
static void test_warm(void **state)
{
    static const struct {
        const char *more, *plan;
    } rows[] = {
        {"", "hybrid"},
        {"", "local"},
        {"\"cache_prompt\":false", "hybrid"},
    };
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *body = prompt_body(LONG_PROMPT_TOKENS, rows[i].more);
        struct web w = web_post(s.port, TEXT, body);

        v = finish_json(&w, 200);
        assert_string_equal(text_at(v, "timings.plan"), rows[i].plan);
        if (i == 1)
            assert_has(text_at(v, "timings.reason"), "384 of 400 probably cached");
        json_decref(v);
        free(body);
    }
    stage_stop(&s);
}

// The shorter prompt is the longer one's beginning. When the worker says that it held nothing of it, the
// longer one is no longer thought to be there.
static void test_guess_corrected(void **state)
{
    static const struct {
        size_t tokens;
        const char *plan;
    } rows[] = {{800, "hybrid"}, {800, "local"}, {800, "local"}, {400, "local"}, {800, "hybrid"}};
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *body = prompt_body(rows[i].tokens, "");
        struct web w = web_post(s.port, TEXT, body);
        json_t *v = finish_json(&w, 200);

        assert_string_equal(text_at(v, "timings.plan"), rows[i].plan);
        json_decref(v);
        free(body);
    }
    stage_stop(&s);
}

// The same of a node, whether it read the prompt for another one or wrote the answer itself.
static void test_node_guess_corrected(void **state)
{
    static const struct {
        const char *between;
    } rows[] = {{"\"plan\":\"hybrid\""}, {"\"plan\":\"remote\",\"decode_node\":\"spark\""}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *plans[] = {rows[1].between, rows[1].between, rows[i].between, rows[1].between};
        const size_t tokens[] = {800, 800, 400, 800};
        const char *cached[] = {NULL, "768 of 800", "384 of 400", "384 of 800"};
        struct stage s;

        stage_init(&s);
        stage_ready(&s, true);
        for (size_t k = 0; k < 4; k++) {
            char *more = mem_format("\"tandem\":{%s}", plans[k]);
            char *body = prompt_body(tokens[k], more);
            struct web w = web_post(s.port, TEXT, body);
            json_t *v = finish_json(&w, 200);

            if (cached[k])
                assert_has(text_at(v, "timings.reason"), cached[k]);
            json_decref(v);
            free(body);
            free(more);
        }
        stage_stop(&s);
    }
}

// What is not to be kept is not guessed to be there either.
static void test_not_stored(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, true);
    for (int i = 0; i < 2; i++) {
        char *body = prompt_body(LONG_PROMPT_TOKENS, "\"store\":false");
        struct web w = web_post(s.port, TEXT, body);

        v = finish_json(&w, 200);
        assert_plan(v, "hybrid");
        json_decref(v);
        free(body);
    }
    assert_true(json_is_false(at(generate(&s, 1), "keep")));
    assert_true(json_is_false(at(fake_expect(&s.node, WIRE_PREFILL, 1)->head, "keep")));
    stage_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_syntax),          cmocka_unit_test(test_stops),
        cmocka_unit_test(test_tools_whole),     cmocka_unit_test(test_refused_stream),
        cmocka_unit_test(test_tools_stream),    cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_surplus_call),    cmocka_unit_test(test_logprobs_chat),
        cmocka_unit_test(test_logprobs_text),   cmocka_unit_test(test_n),
        cmocka_unit_test(test_n_fails),         cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_n_hybrid),        cmocka_unit_test(test_warm),
        cmocka_unit_test(test_guess_corrected), cmocka_unit_test(test_node_guess_corrected),
        cmocka_unit_test(test_not_stored),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
