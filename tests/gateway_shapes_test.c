// The pure parts of the gateway: what a request is understood as, and what its answer looks like.
#include "base/json.h"
#include "gateway/answer.h"
#include "gateway/parse.h"
#include "gateway/timing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void parse_ok(const struct dialect *dialect, const char *body, struct parse_request *r)
{
    struct parse_fault fault;

    if (parse_request(dialect, body, strlen(body), r, &fault) != 0)
        fail_msg("%s: %s", body, fault.e.message);
}

static bool near(float a, double b)
{
    return fabs((double)a - b) < 1e-6;
}

static void test_defaults(void **state)
{
    struct parse_request r, other;

    (void)state;
    parse_ok(&dialect_text, "{\"prompt\":\"x\"}", &r);
    assert_true(near(r.generate.sampling.temperature, 0.8));
    assert_true(near(r.generate.sampling.top_p, 0.95));
    assert_true(near(r.generate.sampling.min_p, 0.05));
    assert_int_equal(r.generate.sampling.top_k, 40);
    assert_int_equal(r.max_tokens, 0);
    assert_int_equal(r.plan, PLACE_AUTO);
    assert_false(r.stream);
    assert_string_equal(r.model, "");
    assert_string_equal(json_string_value(json_object_get(r.render, "prompt")), "x");
    // Two requests without a seed do not draw the same.
    parse_ok(&dialect_text, "{\"prompt\":\"x\",\"seed\":-1}", &other);
    assert_int_not_equal(r.generate.sampling.seed, other.generate.sampling.seed);
    parse_request_fini(&other);
    // Other negative ones are seeds like any.
    parse_ok(&dialect_text, "{\"prompt\":\"x\",\"seed\":-7}", &other);
    assert_int_equal(other.generate.sampling.seed, 6);
    parse_request_fini(&other);
    parse_request_fini(&r);
}

static void test_members(void **state)
{
    struct parse_request r;

    (void)state;
    parse_ok(&dialect_chat,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"model\":\"m\","
             "\"temperature\":0,\"top_p\":0.5,\"top_k\":-1,\"min_p\":0,\"seed\":4294967296,"
             "\"max_tokens\":7,\"stop\":[\"a\",\"b\"],\"stream\":true,"
             "\"stream_options\":{\"include_usage\":true},\"ignore_eos\":true,"
             "\"repeat_penalty\":1.5,\"frequency_penalty\":-2,\"presence_penalty\":2,\"n\":1,"
             "\"grammar\":\"root ::= x\",\"tools\":[],\"tool_choice\":\"none\","
             "\"tandem\":{\"plan\":\"serial\",\"timeline\":true},\"unknown\":{}}",
             &r);
    assert_true(near(r.generate.sampling.temperature, 0));
    assert_true(near(r.generate.sampling.top_p, 0.5));
    assert_int_equal(r.generate.sampling.top_k, 0);
    assert_int_equal(r.generate.sampling.seed, 1);
    assert_true(near(r.generate.sampling.repeat_penalty, 1.5));
    assert_true(near(r.generate.sampling.frequency_penalty, -2));
    assert_true(near(r.generate.sampling.presence_penalty, 2));
    assert_string_equal(json_string_value(json_object_get(r.generate.sampling.syntax, "grammar")),
                        "root ::= x");
    assert_int_equal(r.max_tokens, 7);
    assert_int_equal(r.generate.n_stops, 2);
    assert_string_equal(r.generate.stops[1], "b");
    assert_true(r.stream && r.include_usage && r.generate.ignore_eos && r.generate.timeline);
    assert_int_equal(r.plan, PLACE_SERIAL);
    assert_string_equal(r.model, "m");
    // The template sees what it may know, but nothing that is the gateway's business.
    const json_t *chat = json_object_get(r.render, "chat");
    assert_non_null(json_object_get(chat, "messages"));
    assert_non_null(json_object_get(chat, "tool_choice"));
    assert_non_null(json_object_get(chat, "unknown"));
    assert_null(json_object_get(chat, "tandem"));
    assert_non_null(json_object_get(chat, "grammar"));
    assert_null(json_object_get(chat, "stream"));
    parse_request_fini(&r);
}

static void test_prompts(void **state)
{
    static const struct {
        const char *body, *member;
        size_t n;
    } rows[] = {
        {"{\"prompt\":[1,2,3]}", "tokens", 3}, {"{\"prompt\":[[1,2]]}", "tokens", 2},
        {"{\"prompt\":[7]}", "tokens", 1},     {"{\"prompt\":[\"one\"]}", "prompt", 0},
        {"{\"prompt\":\"\"}", "prompt", 0},
    };
    struct parse_request r;

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        parse_ok(&dialect_text, rows[i].body, &r);
        assert_int_equal(json_object_size(r.render), 1);
        assert_non_null(json_object_get(r.render, rows[i].member));
        assert_int_equal(json_array_size(json_object_get(r.render, rows[i].member)), rows[i].n);
        parse_request_fini(&r);
    }
}

static void test_limits(void **state)
{
    struct parse_request r;
    struct parse_fault fault;
    char stop[MESSAGE_STOP_BYTES + 64];
    size_t n;

    (void)state;
    // A stop string of the longest length, and one byte more.
    n = (size_t)snprintf(stop, sizeof(stop), "{\"prompt\":\"x\",\"stop\":\"%0*d\"}",
                         MESSAGE_STOP_BYTES, 1);
    assert_int_equal(parse_request(&dialect_text, stop, n, &r, &fault), 0);
    parse_request_fini(&r);
    n = (size_t)snprintf(stop, sizeof(stop), "{\"prompt\":\"x\",\"stop\":\"%0*d\"}",
                         MESSAGE_STOP_BYTES + 1, 1);
    assert_int_equal(parse_request(&dialect_text, stop, n, &r, &fault), ERR_INVALID);
    assert_string_equal(fault.param, "stop");
    parse_request_fini(&r);
}

// Each value is named once, in words that are ours.
static void test_faults(void **state)
{
    static const struct {
        const char *body, *message;
    } rows[] = {
        {"{\"prompt\":\"x\",\"top_p\":5}", "'top_p' is 5, outside [0, 1]"},
        {"{\"prompt\":\"x\",\"top_p\":\"5\"}",
         "'top_p' must be a number, not a string (got \"5\")"},
        {"{\"prompt\":\"x\",\"top_k\":-2}", "'top_k' is -2, outside [-1, 2147483647]"},
        {"{\"prompt\":\"x\",\"seed\":0.1}", "'seed' must be an integer, not a fraction (got 0.1)"},
        {"{\"prompt\":\"x\",\"n\":9}", "'n' is 9, outside [1, 8]"},
        {"{\"prompt\":\"x\",\"best_of\":2}",
         "'best_of': the best of several answers is not looked for; \"n\" gives several (got 2)"},
        {"{\"prompt\":\"\\u0000\"}",
         "not valid JSON at line 1, column 18: a NUL character (\\u0000) cannot be taken"},
    };
    struct parse_request r;
    struct parse_fault fault;

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_true(parse_request(&dialect_text, rows[i].body, strlen(rows[i].body), &r, &fault) <
                    0);
        assert_string_equal(fault.e.message, rows[i].message);
        parse_request_fini(&r);
    }
}

// ---- answers ------------------------------------------------------------------------------------------

static void test_any_bytes(void **state)
{
    json_t *v = answer_string("cut in a char\xc3");

    (void)state;
    assert_string_equal(json_string_value(v), "cut in a char?");
    json_decref(v);
    v = answer_string("gr\xc3\xbc\xc3\x9f");
    assert_string_equal(json_string_value(v), "gr\xc3\xbc\xc3\x9f");
    json_decref(v);
}

static void test_error_shape(void **state)
{
    char *text = answer_error(404, "no \"such\" thing", "gone", NULL);

    (void)state;
    assert_string_equal(text, "{\"error\":{\"message\":\"no \\\"such\\\" thing\","
                              "\"type\":\"not_found_error\",\"code\":\"gone\",\"param\":null}}");
    free(text);
}

static void test_ids(void **state)
{
    char a[ANSWER_ID_BYTES], b[ANSWER_ID_BYTES];

    (void)state;
    answer_id_make("chatcmpl-", a);
    answer_id_make("chatcmpl-", b);
    assert_int_equal(strncmp(a, "chatcmpl-", 9), 0);
    assert_string_not_equal(a, b);
    answer_id_make("cmpl-", a);
    assert_int_equal(strncmp(a, "cmpl-", 5), 0);
}

static void test_statuses(void **state)
{
    (void)state;
    assert_int_equal(answer_status(ERR_INVALID), 400);
    assert_int_equal(answer_status(ERR_BUSY), 503);
    assert_int_equal(answer_status(ERR_CLOSED), 502);
    assert_int_equal(answer_status(ERR_TIMEOUT), 504);
    assert_int_equal(answer_status(ERR_ENGINE), 500);
}

// Every number of an embedding comes back as the float that it was.
static void test_embedding_numbers(void **state)
{
    static float values[5000] = {0, 1, -1, 0.5F, -0.001F, 0.00099999F, 1e-20F, 0.99999994F, 1.5F};
    struct answer_vector v = {.values = values, .n = 5000};
    struct parse_request in = {.kind = PARSE_EMBED};
    struct answer a = {.in = &in, .model = "m", .vectors = &v, .n_vectors = 1};
    struct buf out;
    json_t *whole, *list;

    (void)state;
    srand(5);
    for (size_t i = 9; i < v.n; i++)
        values[i] = (float)((double)rand() / RAND_MAX * 2 - 1) / (float)(i % 50 + 1);
    buf_init(&out, 1u << 20);
    dialect_embeddings.whole(&a, &out);
    whole = json_loadb((const char *)out.data, out.len, 0, NULL);
    list = json_object_get(json_array_get(json_object_get(whole, "data"), 0), "embedding");
    assert_int_equal(json_array_size(list), v.n);
    for (size_t i = 0; i < v.n; i++)
        assert_true((float)json_number_value(json_array_get(list, i)) == values[i]);
    json_decref(whole);
    buf_clear(&out);
    values[0] = NAN;
    v.n = 1;
    dialect_embeddings.whole(&a, &out);
    assert_non_null(strstr((const char *)out.data, "\"embedding\":[0]"));
    buf_fini(&out);
}

// ---- timings --------------------------------------------------------------------------------------------

static json_t *timings(const char *done, const char *prefilled)
{
    json_t *d = json_loads(done, 0, NULL), *p = prefilled ? json_loads(prefilled, 0, NULL) : NULL;
    struct timing t = {.plan = "hybrid",
                       .reason = "r",
                       .prefill_node = "P",
                       .decode_node = "D",
                       .prompt_tokens = 100,
                       .gen_tokens = 10,
                       .lead_prompt_tokens = 100,
                       .lead_gen_tokens = 10,
                       .prefill_sent_s = 1,
                       .decode_sent_s = 2,
                       .ttft_s = -1,
                       .total_s = 9,
                       .done = d,
                       .prefilled = p,
                       .timeline = true};
    json_t *v = timing_json(&t);

    assert_non_null(d);
    json_decref(d);
    json_decref(p);
    return v;
}

static double number(const json_t *v, const char *member)
{
    assert_true(json_is_number(json_object_get(v, member)));
    return json_number_value(json_object_get(v, member));
}

static void test_timings_axis(void **state)
{
    json_t *v =
        timings("{\"tokens_read\":1,\"tokens_cached\":20,\"tokens_imported\":79,\"decode_s\":2,"
                "\"handoff_end_s\":3.5,\"kv_bytes\":77,\"overruns\":1,\"worst_ratio\":0.5,"
                "\"timeline\":[{\"what\":\"import\",\"t0\":0.5,\"t1\":1,\"p0\":0,\"p1\":9}]}",
                "{\"done_s\":4.25,\"overruns\":2,\"worst_ratio\":0.75,"
                "\"timeline\":[{\"what\":\"compute\",\"t0\":0,\"t1\":4.25},{\"t0\":1}]}");
    const json_t *line = json_object_get(v, "timeline");

    (void)state;
    // P computed the last token at 1 + 4.25, D had the end marker at 2 + 3.5.
    assert_true(fabs(number(v, "tail_ms") - 250) < 1e-6);
    assert_true(number(v, "prefill_s") == 4.25);
    assert_true(number(v, "decode_tokens_per_s") == 5);
    assert_true(number(v, "cached_tokens") == 20);
    assert_true(number(v, "overruns") == 3);
    assert_true(number(v, "worst_ratio") == 0.75);
    assert_true(json_is_null(json_object_get(v, "ttft_s")));
    assert_int_equal(json_array_size(line), 2); // an entry without a name is left out
    assert_true(number(json_array_get(line, 0), "t1") == 5.25);
    assert_true(number(json_array_get(line, 1), "t0") == 2.5);
    json_decref(v);
}

// A worker that tells little, or nonsense, makes nulls and zeroes, never a wrong number.
static void test_timings_partial(void **state)
{
    json_t *v =
        timings("{\"decode_s\":0,\"prefill_s\":\"x\",\"kv_bytes\":-5,\"timeline\":7}", NULL);

    (void)state;
    assert_true(json_is_null(json_object_get(v, "tail_ms")));
    assert_true(json_is_null(json_object_get(v, "prefill_s")));
    assert_true(json_is_null(json_object_get(v, "decode_tokens_per_s")));
    assert_true(json_is_null(json_object_get(v, "prefill")));
    assert_true(number(v, "kv_bytes") == 0);
    assert_true(number(v, "cached_tokens") == 0);
    assert_int_equal(json_array_size(json_object_get(v, "timeline")), 0);
    json_decref(v);
    // The larger of what the two held counts, and never the last token.
    v = timings("{\"tokens_cached\":30}", "{\"tokens_cached\":64}");
    assert_true(number(v, "cached_tokens") == 64);
    json_decref(v);
    v = timings("{\"tokens_cached\":500}", NULL);
    assert_true(number(v, "cached_tokens") == 99);
    json_decref(v);
    // The axis' own error must not show as a negative tail.
    v = timings("{\"handoff_end_s\":1}", "{\"done_s\":9}");
    assert_true(number(v, "tail_ms") == 0);
    json_decref(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),     cmocka_unit_test(test_members),
        cmocka_unit_test(test_prompts),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_faults),       cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_error_shape),  cmocka_unit_test(test_ids),
        cmocka_unit_test(test_statuses),     cmocka_unit_test(test_embedding_numbers),
        cmocka_unit_test(test_timings_axis), cmocka_unit_test(test_timings_partial),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
