// What is worked out of inputs and not written: embeddings, rankings and tokens.
#include "gateway_fake.h"

#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"

static void test_embeddings(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    w = web_post(s.port, "/v1/embeddings",
                 "{\"input\":[\"abc\",[1,2]],\"model\":\"stem\",\"dimensions\":4}");
    v = finish_json(&w, 200);
    assert_string_equal(text_at(v, "object"), "list");
    assert_int_equal(json_array_size(at(v, "data")), 2);
    assert_int_equal(json_array_size(at(v, "data.1.embedding")), 4);
    assert_true(json_number_value(at(v, "data.0.embedding.0")) == 3);
    assert_true(json_number_value(at(v, "data.1.embedding.0")) == 2);
    assert_int_equal(json_integer_value(at(v, "usage.prompt_tokens")), 5);
    json_decref(v);
    w = web_post(s.port, "/embeddings", "{\"input\":\"abc\",\"encoding_format\":\"base64\"}");
    v = finish_json(&w, 200);
    // 3.0f and three zeroes, little-endian.
    assert_string_equal(text_at(v, "data.0.embedding"), "AABAQAAAAAAAAAAAAAAAAA==");
    json_decref(v);
    w = web_post(s.port, "/v1/embeddings", "{\"input\":\"abc\",\"dimensions\":3}");
    v = finish_json(&w, 400);
    assert_string_equal(text_at(v, "error.param"), "dimensions");
    assert_has(text_at(v, "error.message"), "have 4");
    json_decref(v);
    w = web_post(s.port, "/v1/embeddings", "{\"input\":\"abc\",\"model\":\"other\"}");
    v = finish_json(&w, 404);
    assert_string_equal(text_at(v, "error.code"), "model_not_found");
    json_decref(v);
    stage_stop(&s);
}

// More inputs than are under way at one time, and a worker that refuses one of them.
static void test_embeddings_many(void **state)
{
    struct stage s;
    struct web w;
    struct buf body;
    json_t *v;

    (void)state;
    buf_init(&body, 1u << 20);
    buf_puts(&body, "{\"input\":[\"x\"");
    for (int i = 1; i < 100; i++)
        buf_puts(&body, ",\"xy\"");
    buf_puts(&body, "]}");
    stage_init(&s);
    stage_ready(&s, false);
    w = web_post(s.port, "/v1/embeddings", (const char *)body.data);
    v = finish_json(&w, 200);
    assert_int_equal(json_array_size(at(v, "data")), 100);
    assert_int_equal(json_integer_value(at(v, "usage.total_tokens")), 199);
    json_decref(v);
    s.local.hold_generate = true;
    w = web_post(s.port, "/v1/embeddings", (const char *)body.data);
    fake_say(&s.local, WIRE_FAILED, fake_expect(&s.local, WIRE_EMBED, 101)->id,
             "{\"code\":\"unsupported\",\"message\":\"this model makes no embeddings\"}");
    v = finish_json(&w, 400);
    assert_has(text_at(v, "error.message"), "no embeddings");
    json_decref(v);
    buf_fini(&body);
    stage_stop(&s);
}

static void test_rerank(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    w = web_post(s.port, "/v1/rerank",
                 "{\"query\":\"qq\",\"documents\":[\"a\",\"bbb\",\"cc\"],\"top_n\":2,"
                 "\"return_documents\":true}");
    v = finish_json(&w, 200);
    assert_int_equal(json_array_size(at(v, "results")), 2);
    assert_int_equal(json_integer_value(at(v, "results.0.index")), 1);
    assert_true(json_number_value(at(v, "results.0.relevance_score")) == 6);
    assert_string_equal(text_at(v, "results.0.document.text"), "bbb");
    assert_int_equal(json_integer_value(at(v, "results.1.index")), 2);
    json_decref(v);
    stage_stop(&s);
}

// A reranking model scores pairs; the query is not embedded by itself.
static void test_rerank_pairs(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.ranks = true;
    stage_ready(&s, false);
    w = web_post(s.port, "/rerank", "{\"query\":\"qq\",\"documents\":[\"a\",\"bbb\"]}");
    v = finish_json(&w, 200);
    assert_true(json_number_value(at(v, "results.0.relevance_score")) == 5);
    assert_true(json_number_value(at(v, "results.1.relevance_score")) == 3);
    json_decref(v);
    assert_int_equal(fake_count(&s.local, WIRE_EMBED), 2);
    stage_stop(&s);
}

static void test_tokens(void **state)
{
    static const struct {
        const char *path, *body, *answer;
    } rows[] = {
        {"/tokenize", "{\"content\":\"abc\"}", "{\"tokens\":[0,1,2]}"},
        {"/v1/tokenize", "{\"content\":\"\"}", "{\"tokens\":[]}"},
        {"/tokenize", "{\"content\":\"ab\",\"with_pieces\":true}",
         "{\"tokens\":[{\"id\":0,\"piece\":\"p0\"},{\"id\":1,\"piece\":\"p1\"}]}"},
        {"/detokenize", "{\"tokens\":[5,6]}", "{\"content\":\"words\"}"},
        {"/apply-template", "{" MSG "}", "{\"prompt\":\"<rendered>\"}"},
        {"/v1/messages/count_tokens", "{\"model\":\"stem\"," MSG "}", "{\"input_tokens\":5}"},
    };
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_ready(&s, false);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct web_answer a = web_ask(s.port, rows[i].path, rows[i].body);

        assert_int_equal(a.status, 200);
        a.body[strcspn(a.body, "\n")] = '\0';
        assert_string_equal(a.body, rows[i].answer);
        web_answer_fini(&a);
    }
    assert_int_equal(fake_count(&s.local, WIRE_GENERATE), 0);
    stage_stop(&s);
}

// The worker dies between rendering and embedding: the request starts again with the next one, once.
static void test_embeddings_worker_dies(void **state)
{
    struct stage s;
    struct web w;
    json_t *v;

    (void)state;
    stage_init(&s);
    s.local.hold_generate = true;
    stage_ready(&s, false);
    w = web_post(s.port, "/v1/embeddings", "{\"input\":[\"abc\",\"de\"]}");
    fake_expect(&s.local, WIRE_EMBED, 2);
    s.local.hold_generate = false;
    fake_hang_up(&s.local);
    fake_up(&s.local);
    v = finish_json(&w, 200);
    assert_true(json_number_value(at(v, "data.1.embedding.0")) == 2);
    json_decref(v);
    stage_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embeddings), cmocka_unit_test(test_embeddings_many),
        cmocka_unit_test(test_rerank),     cmocka_unit_test(test_rerank_pairs),
        cmocka_unit_test(test_tokens),     cmocka_unit_test(test_embeddings_worker_dies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
