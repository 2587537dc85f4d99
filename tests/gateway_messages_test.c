// Anthropic's Messages API: what requests become, and what answers look like.
#include "gateway/messages.h"

#include "tests/gateway_dialect.h"

#define USER "{\"role\":\"user\",\"content\":\"hi\"}"
#define MAX "{\"max_tokens\":9,"
#define HI MAX "\"messages\":[" USER "]"
#define SAYS(blocks) MAX "\"messages\":[{\"role\":\"user\",\"content\":[" blocks "]}]}"
#define SAID(blocks)                                                                               \
    MAX "\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":[" blocks "]}," USER "]}"
#define TOOL                                                                                       \
    "{\"name\":\"read\",\"description\":\"reads\",\"input_schema\":{\"type\":\"object\"},"         \
    "\"cache_control\":{\"type\":\"ephemeral\"}}"
#define CHAT_USER "{\"role\":\"user\",\"content\":\"hi\"}"
#define BILLING                                                                                    \
    "{\"type\":\"text\",\"text\":\"x-anthropic-billing-header: cc_version=2.1; cch=1f9c4;\"}"

static void test_messages(void **state)
{
    static const struct chat_row rows[] = {
        {HI "}", "messages", "[" CHAT_USER "]"},
        {HI ",\"system\":\"be brief\"}", "messages",
         "[{\"role\":\"system\",\"content\":\"be brief\"}," CHAT_USER "]"},
        {HI ",\"system\":[{\"type\":\"text\",\"text\":\"a\",\"cache_control\":{}},"
            "{\"type\":\"text\",\"text\":\"b\"}]}",
         "messages", "[{\"role\":\"system\",\"content\":\"a\\nb\"}," CHAT_USER "]"},
        {HI ",\"system\":[" BILLING ",{\"type\":\"text\",\"text\":\"b\"}]}", "messages",
         "[{\"role\":\"system\",\"content\":\"b\"}," CHAT_USER "]"},
        {HI ",\"system\":[" BILLING "]}", "messages", "[" CHAT_USER "]"},
        {SAYS("{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}"), "messages",
         "[{\"role\":\"user\",\"content\":\"a\\nb\"}]"},
        {SAYS(
             "{\"type\":\"document\",\"source\":{\"type\":\"text\",\"media_type\":\"text/plain\","
             "\"data\":\"d\"}},{\"type\":\"document\",\"source\":{\"type\":\"content\",\"content\":"
             "[{\"type\":\"text\",\"text\":\"e\"}]}},{\"type\":\"search_result\",\"source\":\"s\","
             "\"title\":\"t\",\"content\":[{\"type\":\"text\",\"text\":\"f\"}]}"),
         "messages", "[{\"role\":\"user\",\"content\":\"d\\ne\\nt\\nf\"}]"},
        {SAID("{\"type\":\"thinking\",\"thinking\":\"hm\",\"signature\":\"s\"},"
              "{\"type\":\"redacted_thinking\",\"data\":\"x\"},{\"type\":\"text\",\"text\":\"a\"},"
              "{\"type\":\"tool_use\",\"id\":\"c1\",\"name\":\"read\",\"input\":{\"p\":[1,\"x\"]}},"
              "{\"type\":\"server_tool_use\",\"id\":\"c2\",\"name\":\"web_search\",\"input\":{}}"),
         "messages",
         "[" CHAT_USER ",{\"role\":\"assistant\",\"content\":\"a\",\"reasoning_content\":\"hm\","
         "\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"read\","
         "\"arguments\":\"{\\\"p\\\":[1,\\\"x\\\"]}\"}}]}," CHAT_USER "]"},
        // Each result of a tool is a message of its own, and what stands beside it another.
        {SAYS("{\"type\":\"tool_result\",\"tool_use_id\":\"c1\",\"content\":\"one\"},"
              "{\"type\":\"tool_result\",\"tool_use_id\":\"c2\",\"is_error\":true,\"content\":["
              "{\"type\":\"text\",\"text\":\"two\"}]},"
              "{\"type\":\"tool_result\",\"tool_use_id\":\"c3\"},{\"type\":\"text\",\"text\":"
              "\"a\"}"),
         "messages",
         "[{\"role\":\"tool\",\"content\":\"one\",\"tool_call_id\":\"c1\"},"
         "{\"role\":\"tool\",\"content\":\"Error:\\ntwo\",\"tool_call_id\":\"c2\"},"
         "{\"role\":\"tool\",\"content\":\"\",\"tool_call_id\":\"c3\"},"
         "{\"role\":\"user\",\"content\":\"a\"}]"},
        {SAYS("{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"tool_result\",\"tool_use_id\":\"c\","
              "\"content\":\"b\"}"),
         "messages",
         "[{\"role\":\"user\",\"content\":\"a\"},"
         "{\"role\":\"tool\",\"content\":\"b\",\"tool_call_id\":\"c\"}]"},
        // Two messages of the user in a row are one, and so is what the system says later.
        {MAX "\"messages\":[" USER ",{\"role\":\"system\",\"content\":\"a\"}," USER "]}",
         "messages", "[{\"role\":\"user\",\"content\":\"hi\\na\\nhi\"}]"},
        {SAYS("{\"type\":\"tool_result\",\"tool_use_id\":\"c\",\"content\":[{\"type\":"
              "\"tool_reference\",\"tool_name\":\"x\"}]}"),
         "messages",
         "[{\"role\":\"tool\",\"content\":\"found the tool x\",\"tool_call_id\":\"c\"}]"},
        // A last message of the assistant is gone on with.
        {MAX "\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":\"Well, \"}]}",
         "continue_final_message", "true"},
    };

    (void)state;
    rig_chat_all(&dialect_messages, rows, COUNT(rows));
}

// The block that changes with every request can be left in its place.
static void test_billing(void **state)
{
    static const struct chat_row rows[] = {
        {HI ",\"system\":[" BILLING "]}", "messages",
         "[{\"role\":\"system\",\"content\":\"x-anthropic-billing-header: cc_version=2.1; "
         "cch=1f9c4;\"}," CHAT_USER "]"},
    };

    (void)state;
    rig_chat_all(&dialect_messages_verbatim, rows, COUNT(rows));
    rig_chat_all(&dialect_count_verbatim, rows, COUNT(rows));
    assert_true(messages_billing("x-anthropic-billing-header: a"));
    assert_false(messages_billing("You are x-anthropic-billing-header"));
    assert_false(messages_billing(""));
    assert_ptr_equal(messages_verbatim(&dialect_messages), &dialect_messages_verbatim);
    assert_ptr_equal(messages_verbatim(&dialect_count), &dialect_count_verbatim);
    assert_ptr_equal(messages_verbatim(&dialect_chat), &dialect_chat);
}

static void test_members(void **state)
{
    static const struct chat_row rows[] = {
        {HI ",\"tools\":[" TOOL ",{\"type\":\"bash_20250124\",\"name\":\"bash\"}]}", "tools",
         "[{\"type\":\"function\",\"function\":{\"name\":\"read\",\"description\":\"reads\","
         "\"parameters\":{\"type\":\"object\"}}}]"},
        {HI ",\"tools\":[{\"type\":\"web_search_20250305\",\"name\":\"w\"}]}", "tools", NULL},
        {HI ",\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"auto\"}}", "tool_choice",
         "\"auto\""},
        {HI ",\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"any\"}}", "tool_choice",
         "\"required\""},
        {HI ",\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"none\"}}", "tool_choice",
         "\"none\""},
        {HI ",\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"tool\",\"name\":\"read\"}}",
         "tool_choice", "{\"type\":\"function\",\"function\":{\"name\":\"read\"}}"},
        {HI ",\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"auto\","
            "\"disable_parallel_tool_use\":true}}",
         "parallel_tool_calls", "false"},
        {HI ",\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"auto\"}}", "parallel_tool_calls",
         "true"},
        {HI "}", "chat_template_kwargs", "{\"enable_thinking\":false}"},
        {HI ",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1024}}", "chat_template_kwargs",
         "{\"enable_thinking\":true}"},
        {HI ",\"thinking\":{\"type\":\"adaptive\"}}", "chat_template_kwargs",
         "{\"enable_thinking\":true}"},
        {HI ",\"thinking\":{\"type\":\"disabled\"}}", "chat_template_kwargs",
         "{\"enable_thinking\":false}"},
        {HI ",\"output_config\":{\"effort\":\"low\",\"format\":{\"type\":\"json_schema\","
            "\"schema\":{\"type\":\"object\"}}}}",
         "response_format",
         "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\","
         "\"schema\":{\"type\":\"object\"}}}"},
        {HI ",\"output_format\":{\"type\":\"json_schema\",\"schema\":{}}}", "response_format",
         "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\",\"schema\":{}}}"},
        {HI ",\"output_config\":{\"effort\":\"low\"}}", "reasoning_effort", "\"low\""},
        {HI ",\"unknown\":{},\"mcp_servers\":[],\"context_management\":{}}", "unknown", NULL},
    };
    struct rig r;

    (void)state;
    rig_chat_all(&dialect_messages, rows, COUNT(rows));
    rig_open(
        &r, &dialect_messages,
        HI
        ",\"model\":\"m\",\"stream\":true,\"temperature\":0.5,\"top_p\":0.5,\"top_k\":5,"
        "\"stop_sequences\":[\"a\",\"b\"],\"metadata\":{\"user_id\":\"u\"},"
        "\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":7},\"tandem\":{\"plan\":\"local\"}}");
    assert_string_equal(r.in.model, "m");
    assert_int_equal(r.in.kind, PARSE_CHAT);
    assert_int_equal(r.in.max_tokens, 9);
    assert_int_equal(r.in.generate.n_stops, 2);
    assert_int_equal(r.in.generate.sampling.top_k, 5);
    assert_int_equal(r.in.generate.sampling.reasoning_budget, 7);
    assert_int_equal(r.in.plan, PLACE_LOCAL);
    assert_true(r.in.stream);
    rig_close(&r);
}

static void test_refusals(void **state)
{
    static const struct refusal_row rows[] = {
        {"[7]", "", "object"},
        {"{}", "messages", "absent"},
        {"{\"messages\":[" USER "]}", "max_tokens", "absent"},
        {"{\"max_tokens\":0,\"messages\":[" USER "]}", "max_tokens", "at least 1"},
        {"{\"max_tokens\":\"9\",\"messages\":[" USER "]}", "max_tokens", "integer"},
        {MAX "\"messages\":{}}", "messages", "array"},
        {MAX "\"messages\":[]}", "messages", "must hold a message"},
        {MAX "\"messages\":[7]}", "messages[0]", "object"},
        {MAX "\"messages\":[{\"content\":\"x\"}]}", "messages[0].role", "absent"},
        {MAX "\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", "messages[0].role",
         "(got \"tool\")"},
        {MAX "\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "absent"},
        {MAX "\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "messages",
         "must hold a message"},
        {SAYS("7"), "messages[0].content[0]", "object"},
        {SAYS("{\"text\":\"x\"}"), "messages[0].content[0].type", "absent"},
        {SAYS("{\"type\":\"text\"}"), "messages[0].content[0].text", "absent"},
        {SAYS("{\"type\":\"smell\"}"), "messages[0].content[0]", "smell"},
        {SAYS("{\"type\":\"image\",\"source\":{}}"), "messages[0].content[0].source.type",
         "absent"},
        {SAYS("{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":\"https://x/a.png\"}}"),
         "messages[0].content[0].source.url", "fetches nothing from elsewhere"},
        {SAYS("{\"type\":\"image\",\"source\":{\"type\":\"file\",\"file_id\":\"f\"}}"),
         "messages[0].content[0].source", "send an image's bytes"},
        {SAYS("{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"data\":\"AA==\"}}"),
         "messages[0].content[0].source.media_type", "absent"},
        {SAYS("{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\","
              "\"data\":\"AA==\"}}"),
         "messages[0].content[0].source.data", "no PNG"},
        {SAID("{\"type\":\"image\"}"), "messages[1].content[0]", "cannot stand here"},
        {SAYS("{\"type\":\"document\",\"source\":{\"type\":\"base64\",\"data\":\"\"}}"),
         "messages[0].content[0].source", "base64"},
        {SAYS("{\"type\":\"document\",\"source\":{\"type\":\"content\",\"content\":[{\"type\":"
              "\"document\",\"source\":{\"type\":\"content\",\"content\":[]}}]}}"),
         "messages[0].content[0].source.content[0]", "cannot stand here"},
        {SAYS("{\"type\":\"tool_use\",\"id\":\"c\",\"name\":\"f\",\"input\":{}}"),
         "messages[0].content[0]", "cannot stand here"},
        {SAYS("{\"type\":\"tool_result\",\"content\":\"x\"}"), "messages[0].content[0].tool_use_id",
         "absent"},
        {SAYS("{\"type\":\"tool_result\",\"tool_use_id\":\"c\",\"content\":5}"),
         "messages[0].content[0].content", "array"},
        {SAYS("{\"type\":\"tool_result\",\"tool_use_id\":\"c\",\"is_error\":1}"),
         "messages[0].content[0].is_error", "boolean"},
        {SAYS(
             "{\"type\":\"tool_result\",\"tool_use_id\":\"c\",\"content\":[{\"type\":\"image\"}]}"),
         "messages[0].content[0].content[0].source", "absent"},
        {SAID("{\"type\":\"tool_use\",\"id\":\"c\",\"name\":\"f\",\"input\":\"x\"}"),
         "messages[1].content[0].input", "object"},
        {SAID("{\"type\":\"thinking\"}"), "messages[1].content[0].thinking", "absent"},
        {HI ",\"system\":7}", "system", "(got 7)"},
        {HI ",\"system\":[{\"type\":\"text\"}]}", "system[0].text", "absent"},
        {HI ",\"model\":[]}", "model", "string"},
        {HI ",\"stream\":1}", "stream", "boolean"},
        {HI ",\"temperature\":\"x\"}", "temperature", "number"},
        {HI ",\"top_k\":1.5}", "top_k", "integer"},
        {HI ",\"top_p\":2}", "top_p", "outside"},
        {HI ",\"stop_sequences\":\"x\"}", "stop_sequences", "array"},
        {HI ",\"stop_sequences\":[7]}", "stop_sequences[0]", "string"},
        {HI ",\"stop_sequences\":[\"\"]}", "stop_sequences", "'stop_sequences' must hold strings"},
        {HI ",\"tools\":7}", "tools", "array"},
        {HI ",\"tools\":[{\"name\":\"x\"}]}", "tools[0].input_schema", "absent"},
        {HI ",\"tools\":[{\"input_schema\":{}}]}", "tools[0].name", "absent"},
        {HI ",\"tool_choice\":\"auto\"}", "tool_choice", "object"},
        {HI ",\"tool_choice\":{\"type\":\"maybe\"}}", "tool_choice.type", "(got \"maybe\")"},
        {HI ",\"tool_choice\":{\"type\":\"tool\",\"name\":\"x\"}}", "tool_choice.name",
         "not among"},
        {HI ",\"thinking\":true}", "thinking", "object"},
        {HI ",\"thinking\":{\"type\":\"deep\"}}", "thinking.type", "(got \"deep\")"},
        {HI ",\"thinking\":{\"type\":\"enabled\"}}", "thinking.budget_tokens", "absent"},
        {HI ",\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":99999999999}}",
         "thinking.budget_tokens", "between"},
        {HI ",\"output_config\":{\"effort\":1}}", "output_config.effort", "string"},
        {HI ",\"output_config\":{\"format\":{\"type\":\"xml\"}}}", "output_config.format.type",
         "json_schema"},
        {HI ",\"metadata\":7}", "metadata", "object"},
    };

    (void)state;
    rig_refused_all(&dialect_messages, rows, COUNT(rows));
    rig_absurd(&dialect_messages, HI ",\"temperature\":@}");
}

// ---- counting -----------------------------------------------------------------------------------

static void test_count(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, &dialect_count, "{\"messages\":[" USER "]}");
    assert_int_equal(r.in.kind, PARSE_RENDER);
    r.dialect->whole(&r.a, &r.out);
    assert_string_equal((char *)r.out.data, "{\"input_tokens\":12}\n");
    rig_close(&r);
}

// ---- answers ------------------------------------------------------------------------------------

static const char *const words[] = {"{\"content\":\"Hello\"}", "{\"content\":\" \\\"you\\\"\\n\"}",
                                    NULL};
static const char *const everything[] = {
    "{\"reasoning\":\"I should\"}",
    "{\"reasoning\":\" read.\"}",
    "{\"content\":\"Reading.\"}",
    "{\"tool\":0,\"id\":\"call_a\",\"name\":\"read\",\"arguments\":\"\"}",
    "{\"tool\":0,\"arguments\":\"{\\\"path\\\":\"}",
    "{\"tool\":0,\"arguments\":\"\\\"x\\\"}\"}",
    "{\"tool\":1,\"id\":\"call_b\",\"name\":\"read\",\"arguments\":\"{}\"}",
    "{\"content\":\"After.\"}",
    NULL};
static const char *const silence[] = {NULL};

static void test_answers(void **state)
{
    static const struct {
        const char *golden, *body;
        const char *const *say;
        const char *finish, *stop;
    } rows[] = {
        {"messages_text.json", HI "}", words, "stop", NULL},
        {"messages_text.sse", HI ",\"stream\":true}", words, "stop", "<|im_end|>"},
        {"messages_all.json", HI ",\"tools\":[" TOOL "]}", everything, "tool_calls", NULL},
        {"messages_all.sse", HI ",\"stream\":true,\"tools\":[" TOOL "]}", everything, "tool_calls",
         NULL},
        {"messages_length.sse", HI ",\"stream\":true}", words, "length", NULL},
        {"messages_stop.json", HI ",\"stop_sequences\":[\"a\",\"b\"]}", words, "stop", "b"},
        {"messages_silence.sse", HI ",\"stream\":true}", silence, "stop", NULL},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct rig r;

        rig_open(&r, &dialect_messages, rows[i].body);
        rig_run(&r, rows[i].say, rows[i].finish, rows[i].stop);
        rig_golden(rows[i].golden, &r.out);
        rig_close(&r);
    }
}

static void test_beats_and_errors(void **state)
{
    const struct answer_fault f = {503, NULL, NULL, "busy"};
    struct rig r;

    (void)state;
    rig_open(&r, &dialect_messages, HI ",\"stream\":true}");
    r.dialect->beat(&r.a, &r.out);
    r.dialect->begin(&r.a, &r.out);
    r.dialect->beat(&r.a, &r.out);
    rig_say(&r, "{\"content\":\"Hel\"}", NULL);
    r.dialect->error(&r.a, &f, &r.out);
    rig_golden("messages_error.sse", &r.out);
    rig_close(&r);
}

static void test_refusal_bodies(void **state)
{
    static const struct {
        unsigned status;
        const char *code, *type, *message;
    } rows[] = {
        {400, NULL, "invalid_request_error", "\"no\""},
        {400, "context_length_exceeded", "invalid_request_error", "\"prompt is too long: no\""},
        {401, NULL, "authentication_error", "\"no\""},
        {403, NULL, "permission_error", "\"no\""},
        {404, NULL, "not_found_error", "\"no\""},
        {405, NULL, "invalid_request_error", "\"no\""},
        {413, NULL, "request_too_large", "\"no\""},
        {429, NULL, "rate_limit_error", "\"no\""},
        {500, NULL, "api_error", "\"no\""},
        {502, NULL, "api_error", "\"no\""},
        {503, NULL, "overloaded_error", "\"no\""},
        {504, NULL, "timeout_error", "\"no\""},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct answer_fault f = {rows[i].status, rows[i].code, "x", "no"};
        char want[256];
        struct buf out;

        snprintf(want, sizeof(want),
                 "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":%s}}\n", rows[i].type,
                 rows[i].message);
        buf_init(&out, 4096);
        dialect_messages.refusal(&f, &out);
        assert_string_equal((char *)out.data, want);
        buf_fini(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_billing),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_count),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_beats_and_errors),
        cmocka_unit_test(test_refusal_bodies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
