// Ollama's API: what requests become, what answers look like, and what is told of models.
#include "gateway/ollama.h"

#include "tests/gateway_dialect.h"

#define USER "{\"role\":\"user\",\"content\":\"hi\"}"
#define HI "{\"messages\":[" USER "]"
#define SAYS(members) "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"," members "}]}"
#define TOOL                                                                                       \
    "{\"type\":\"function\",\"function\":{\"name\":\"read\",\"description\":\"reads\","            \
    "\"parameters\":{\"type\":\"object\"}}}"
#define ASKS "{\"prompt\":\"hi\""

static void test_chat(void **state)
{
    static const struct chat_row rows[] = {
        {HI "}", "messages", "[" USER "]"},
        {HI ",\"tools\":[" TOOL "]}", "tools", "[" TOOL "]"},
        {HI ",\"tools\":[]}", "tools", NULL},
        {HI ",\"format\":\"json\"}", "response_format", "{\"type\":\"json_object\"}"},
        {HI ",\"format\":\"\"}", "response_format", NULL},
        {HI ",\"format\":{\"type\":\"object\"}}", "response_format",
         "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\","
         "\"schema\":{\"type\":\"object\"}}}"},
        {HI ",\"think\":true}", "chat_template_kwargs", "{\"enable_thinking\":true}"},
        {HI ",\"think\":false}", "chat_template_kwargs", "{\"enable_thinking\":false}"},
        {HI ",\"think\":\"low\"}", "reasoning_effort", "\"low\""},
        {HI "}", "chat_template_kwargs", NULL},
        {HI ",\"keep_alive\":-1,\"options\":{\"num_ctx\":7,\"mirostat\":1}}", "num_ctx", NULL},
        // Calls without ids are numbered, and their results come in the same order.
        {"{\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"hm\","
         "\"tool_calls\":[{\"function\":{\"name\":\"read\",\"arguments\":{\"p\":1}}},"
         "{\"function\":{\"name\":\"read\",\"arguments\":{}}}]},"
         "{\"role\":\"tool\",\"content\":\"one\",\"tool_name\":\"read\"},"
         "{\"role\":\"tool\",\"content\":\"two\"},{\"role\":\"assistant\",\"tool_calls\":["
         "{\"id\":\"x\",\"function\":{\"name\":\"read\",\"arguments\":{}}}]},"
         "{\"role\":\"tool\",\"content\":\"three\",\"tool_call_id\":\"x\"}]}",
         "messages",
         "[" USER ",{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":\"hm\","
         "\"tool_calls\":[{\"id\":\"call00000\",\"type\":\"function\",\"function\":{\"name\":"
         "\"read\","
         "\"arguments\":\"{\\\"p\\\":1}\"}},{\"id\":\"call00001\",\"type\":\"function\","
         "\"function\":{\"name\":\"read\",\"arguments\":\"{}\"}}]},"
         "{\"role\":\"tool\",\"content\":\"one\",\"tool_call_id\":\"call00000\",\"name\":\"read\"},"
         "{\"role\":\"tool\",\"content\":\"two\",\"tool_call_id\":\"call00001\"},"
         "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"x\","
         "\"type\":\"function\",\"function\":{\"name\":\"read\",\"arguments\":\"{}\"}}]},"
         "{\"role\":\"tool\",\"content\":\"three\",\"tool_call_id\":\"x\"}]"},
        {SAYS("\"images\":[]"), "messages", "[" USER "]"},
    };
    struct rig r;

    (void)state;
    rig_chat_all(&dialect_ollama, rows, COUNT(rows));
    rig_open(&r, &dialect_ollama,
             HI ",\"model\":\"smollm2:latest\",\"options\":{\"num_predict\":5,\"temperature\":0,"
                "\"top_k\":3,\"seed\":7,\"stop\":[\"a\"],\"repeat_last_n\":64,\"min_p\":0.1}}");
    assert_string_equal(r.in.model, "smollm2");
    assert_true(r.in.stream);
    assert_int_equal(r.in.max_tokens, 5);
    assert_int_equal(r.in.generate.sampling.top_k, 3);
    assert_int_equal(r.in.generate.sampling.seed, 7);
    assert_int_equal(r.in.generate.sampling.repeat_last_n, 64);
    assert_int_equal(r.in.generate.n_stops, 1);
    rig_close(&r);
    rig_open(&r, &dialect_ollama, HI ",\"stream\":false,\"options\":{\"num_predict\":-2}}");
    assert_false(r.in.stream);
    assert_int_equal(r.in.max_tokens, UINT32_MAX);
    rig_close(&r);
}

static void test_generate(void **state)
{
    static const struct chat_row rows[] = {
        {ASKS "}", "messages", "[" USER "]"},
        {ASKS ",\"system\":\"be brief\",\"context\":[],\"suffix\":\"\",\"template\":\"\"}",
         "messages", "[{\"role\":\"system\",\"content\":\"be brief\"}," USER "]"},
        {ASKS ",\"format\":\"json\"}", "response_format", "{\"type\":\"json_object\"}"},
    };
    struct rig r;

    (void)state;
    rig_chat_all(&dialect_ollama_generate, rows, COUNT(rows));
    // A request without words has its model loaded.
    rig_open(&r, &dialect_ollama_generate, "{\"model\":\"m:latest\",\"prompt\":\"\"}");
    assert_int_equal(r.in.kind, PARSE_RENDER);
    assert_string_equal(r.in.model, "m");
    r.dialect->whole(&r.a, &r.out);
    assert_non_null(strstr((char *)r.out.data, "\"response\":\"\""));
    assert_non_null(strstr((char *)r.out.data, "\"done_reason\":\"load\",\"done\":true"));
    rig_close(&r);
    rig_open(&r, &dialect_ollama_generate, ASKS ",\"raw\":true,\"options\":{\"top_p\":0.5}}");
    assert_int_equal(r.in.kind, PARSE_TEXT);
    assert_string_equal(json_string_value(json_object_get(r.in.render, "prompt")), "hi");
    rig_close(&r);
}

static void test_refusals(void **state)
{
    static const struct refusal_row chat[] = {
        {"[]", "", "object"},
        {"{}", "messages", "absent"},
        {"{\"messages\":[]}", "messages", "must hold a message"},
        {"{\"messages\":\"hi\"}", "messages", "array"},
        {"{\"messages\":[7]}", "messages[0]", "object"},
        {"{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role", "absent"},
        {"{\"messages\":[{\"role\":\"king\"}]}", "messages[0].role", "(got \"king\")"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "messages[0].content", "string"},
        {SAYS("\"images\":[\"AA==\"]"), "messages[0].images[0]", "no PNG"},
        {SAYS("\"images\":\"AA==\""), "messages[0].images", "array"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}",
         "messages[0].tool_calls[0].function", "absent"},
        {"{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\","
         "\"arguments\":\"{}\"}}]}]}",
         "messages[0].tool_calls[0].function.arguments", "object"},
        {HI ",\"model\":7}", "model", "string"},
        {HI ",\"stream\":7}", "stream", "boolean"},
        {HI ",\"tools\":{}}", "tools", "array"},
        {HI ",\"tools\":[{\"function\":{}}]}", "tools[0].function.name", "absent"},
        {HI ",\"format\":7}", "format", "(got 7)"},
        {HI ",\"format\":\"xml\"}", "format", "(got \"xml\")"},
        {HI ",\"think\":7}", "think", "(got 7)"},
        {HI ",\"options\":[]}", "options", "object"},
        {HI ",\"options\":{\"temperature\":\"x\"}}", "options.temperature", "number"},
        {HI ",\"options\":{\"temperature\":-1}}", "options.temperature",
         "'options.temperature' is"},
        {HI ",\"options\":{\"num_predict\":0}}", "options.num_predict", "at least 1"},
        {HI ",\"options\":{\"num_predict\":-3}}", "options.num_predict", "-3"},
        {HI ",\"options\":{\"stop\":7}}", "options.stop", "array"},
        {HI ",\"options\":{\"stop\":[7]}}", "options.stop", "'options.stop' must hold strings"},
        {HI ",\"options\":{\"top_k\":1.5}}", "options.top_k", "integer"},
    };
    static const struct refusal_row generate[] = {
        {"{}", "prompt", "absent"},
        {"{\"prompt\":\"\"}", "prompt", "must not be empty"},
        {"{\"prompt\":[]}", "prompt", "string"},
        {ASKS ",\"system\":7}", "system", "string"},
        {ASKS ",\"raw\":1}", "raw", "boolean"},
        {ASKS ",\"suffix\":\"x\"}", "suffix", "middle"},
        {ASKS ",\"template\":\"x\"}", "template", "raw"},
        {ASKS ",\"context\":[1,2]}", "context", "/api/chat"},
        {ASKS ",\"images\":[\"AA==\"]}", "images[0]", "no PNG"},
        {ASKS ",\"images\":[7]}", "images[0]", "base64"},
        {ASKS ",\"raw\":true,\"images\":[\"AA==\"]}", "images", "raw"},
    };

    (void)state;
    rig_refused_all(&dialect_ollama, chat, COUNT(chat));
    rig_absurd(&dialect_ollama, HI ",\"options\":{\"top_p\":@}}");
    rig_refused_all(&dialect_ollama_generate, generate, COUNT(generate));
}

// ---- answers ------------------------------------------------------------------------------------

static const char *const words[] = {"{\"content\":\"Hello\"}", "{\"content\":\" \\\"you\\\"\"}",
                                    NULL};
static const char *const everything[] = {
    "{\"reasoning\":\"I should read.\"}",
    "{\"content\":\"Reading.\"}",
    "{\"tool\":0,\"id\":\"call_a\",\"name\":\"read\",\"arguments\":\"{\\\"path\\\":\"}",
    "{\"tool\":0,\"arguments\":\"\\\"x\\\"}\"}",
    "{\"tool\":1,\"id\":\"call_b\",\"name\":\"read\",\"arguments\":\"{\\\"cut\"}",
    NULL};

static void test_answers(void **state)
{
    static const struct {
        const char *golden;
        const struct dialect *dialect;
        const char *body;
        const char *const *say;
        const char *finish;
    } rows[] = {
        {"ollama_chat.ndjson", &dialect_ollama, HI "}", words, "stop"},
        {"ollama_chat.json", &dialect_ollama, HI ",\"stream\":false}", words, "length"},
        {"ollama_all.ndjson", &dialect_ollama, HI ",\"tools\":[" TOOL "]}", everything,
         "tool_calls"},
        {"ollama_all.json", &dialect_ollama, HI ",\"stream\":false}", everything, "tool_calls"},
        {"ollama_generate.ndjson", &dialect_ollama_generate, ASKS "}", words, "stop"},
        {"ollama_generate.json", &dialect_ollama_generate, ASKS ",\"stream\":false}", words,
         "stop"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct rig r;

        rig_open(&r, rows[i].dialect, rows[i].body);
        rig_run(&r, rows[i].say, rows[i].finish, NULL);
        rig_golden(rows[i].golden, &r.out);
        rig_close(&r);
    }
}

static void test_beats_and_errors(void **state)
{
    const struct answer_fault f = {503, NULL, NULL, "busy \xff"};
    struct rig r;

    (void)state;
    rig_open(&r, &dialect_ollama, HI "}");
    r.dialect->beat(&r.a, &r.out);
    r.dialect->begin(&r.a, &r.out);
    r.dialect->error(&r.a, &f, &r.out);
    assert_string_equal((char *)r.out.data,
                        "{\"model\":\"smollm2\",\"created_at\":\"2026-01-01T00:00:00Z\","
                        "\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n"
                        "{\"error\":\"busy ?\"}\n");
    buf_clear(&r.out);
    r.dialect->refusal(&f, &r.out);
    assert_string_equal((char *)r.out.data, "{\"error\":\"busy ?\"}\n");
    rig_close(&r);
}

static void test_logprobs(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, &dialect_ollama, HI ",\"logprobs\":true,\"top_logprobs\":2}");
    assert_int_equal(r.in.generate.logprobs, 2);
    rig_say(&r, "{\"content\":\"H\"}", "[{\"token\":\"H\",\"logprob\":-0.5,\"top_logprobs\":[]}]");
    assert_non_null(strstr((char *)r.out.data, "\"logprobs\":[{\"token\":\"H\",\"logprob\":-0.5"));
    rig_close(&r);
}

// ---- models -------------------------------------------------------------------------------------

static void body_golden(const char *name, json_t *body)
{
    struct buf out;

    buf_init(&out, 65536);
    answer_line_put(&out, body);
    rig_golden(name, &out);
    buf_fini(&out);
}

static void test_models(void **state)
{
    struct engine_identity id = {.arch = "llama",
                                 .model = "SmolLM2 135M",
                                 .weights = "Q4_0",
                                 .weights_hash = 0x0123456789abcdef,
                                 .n_vocab = 49152,
                                 .n_layer = 30,
                                 .n_embd = 576,
                                 .n_head = 9,
                                 .n_head_kv = 3,
                                 .n_ctx_train = 8192};
    struct engine_limits limits = {.n_ctx = 4096, .n_embed_tokens = 2048};
    struct ollama_model m = {.name = "smollm2",
                             .identity = &id,
                             .limits = &limits,
                             .chats = true,
                             .file_bytes = 91000000,
                             .modified_s = 1767225600};

    (void)state;
    body_golden("ollama_tags.json", ollama_tags_json(&m, 1));
    body_golden("ollama_ps.json", ollama_ps_json(&m, 1));
    body_golden("ollama_show.json", ollama_show_json(&m));
    body_golden("ollama_no_models.json", ollama_tags_json(NULL, 0));
}

static void test_show_parse(void **state)
{
    static const struct {
        const char *body, *model; // NULL: refused
    } rows[] = {
        {"{\"model\":\"a\"}", "a"},
        {"{\"model\":\"a:latest\",\"verbose\":true}", "a"},
        {"{\"name\":\"b:q4\"}", "b:q4"},
        {"{\"model\":\":latest\"}", ":latest"},
        {"{}", NULL},
        {"{\"model\":7}", NULL},
        {"{\"name\":null}", NULL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        json_t *body = rig_json(rows[i].body);
        char model[PARSE_MODEL_BYTES];
        struct parse_fault fault = {0};
        int rc = ollama_show_parse(body, model, &fault);

        assert_int_equal(rc, rows[i].model ? 0 : ERR_INVALID);
        if (rows[i].model)
            assert_string_equal(model, rows[i].model);
        else
            assert_int_equal(fault.status, 400);
        json_decref(body);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chat),
        cmocka_unit_test(test_generate),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_beats_and_errors),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_show_parse),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
