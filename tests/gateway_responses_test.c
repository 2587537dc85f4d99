// OpenAI's Responses API: what requests become, and what answers look like.
#include "tests/gateway_dialect.h"

#define TOOL                                                                                       \
    "{\"type\":\"function\",\"name\":\"read\",\"description\":\"reads\",\"strict\":true,"          \
    "\"parameters\":{\"type\":\"object\"}}"
#define OTHER "{\"type\":\"function\",\"name\":\"write\",\"parameters\":null}"
#define SPACE                                                                                      \
    "{\"type\":\"namespace\",\"name\":\"disk\",\"description\":\"d\",\"tools\":[" TOOL             \
    ",{\"type\":\"custom\",\"name\":\"x\"}]}"
#define CHAT_TOOL                                                                                  \
    "{\"type\":\"function\",\"function\":{\"name\":\"read\",\"description\":\"reads\","            \
    "\"parameters\":{\"type\":\"object\"}}}"

static void test_messages(void **state)
{
    static const struct chat_row rows[] = {
        {"{\"input\":\"hi\"}", "messages", "[{\"role\":\"user\",\"content\":\"hi\"}]"},
        {"{\"input\":\"hi\",\"instructions\":\"be brief\"}", "messages",
         "[{\"role\":\"system\",\"content\":\"be brief\"},{\"role\":\"user\",\"content\":\"hi\"}]"},
        // What stands at the start for the system becomes one message.
        {"{\"instructions\":\"a\",\"input\":[{\"role\":\"developer\",\"content\":\"b\"},"
         "{\"type\":\"message\",\"role\":\"system\",\"content\":[{\"type\":\"input_text\","
         "\"text\":\"c\"}]},{\"role\":\"user\",\"content\":\"d\"},"
         "{\"role\":\"developer\",\"content\":\"e\"}]}",
         "messages",
         "[{\"role\":\"system\",\"content\":\"a\\n\\nb\\n\\nc\"},"
         "{\"role\":\"user\",\"content\":\"d\\ne\"}]"},
        // Two messages of the user in a row are one: templates want the roles to alternate.
        {"{\"input\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b\"},"
         "{\"role\":\"developer\",\"content\":\"c\"},{\"role\":\"assistant\",\"content\":\"d\"},"
         "{\"role\":\"system\",\"content\":\"e\"}]}",
         "messages",
         "[{\"role\":\"user\",\"content\":\"a\\nb\\nc\"},{\"role\":\"assistant\",\"content\":\"d\"}"
         ","
         "{\"role\":\"user\",\"content\":\"e\"}]"},
        {"{\"input\":[{\"role\":\"user\",\"content\":\"u\"},{\"type\":\"function_call\","
         "\"call_id\":\"c\",\"name\":\"read\",\"namespace\":\"disk\",\"arguments\":\"{}\"}]}",
         "messages",
         "[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"\","
         "\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":{"
         "\"name\":\"disk__read\",\"arguments\":\"{}\"}}]}]"},
        {"{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"a\"},"
         "{\"type\":\"input_text\",\"text\":\"b\"}]}]}",
         "messages", "[{\"role\":\"user\",\"content\":\"a\\nb\"}]"},
        // A turn of the assistant is one message, whatever items it is made of.
        {"{\"input\":[{\"role\":\"user\",\"content\":\"u\"},"
         "{\"type\":\"reasoning\",\"id\":\"rs_1\",\"summary\":[{\"type\":\"summary_text\","
         "\"text\":\"short\"}],\"content\":[{\"type\":\"reasoning_text\",\"text\":\"long\"}],"
         "\"encrypted_content\":null},"
         "{\"type\":\"message\",\"role\":\"assistant\",\"status\":\"completed\",\"content\":["
         "{\"type\":\"output_text\",\"text\":\"I read.\",\"annotations\":[]}]},"
         "{\"type\":\"function_call\",\"call_id\":\"c1\",\"name\":\"read\",\"arguments\":\"{}\"},"
         "{\"type\":\"function_call\",\"call_id\":\"c2\",\"name\":\"read\",\"arguments\":\"{}\"},"
         "{\"type\":\"function_call_output\",\"call_id\":\"c1\",\"output\":\"one\"},"
         "{\"type\":\"function_call_output\",\"call_id\":\"c2\",\"output\":["
         "{\"type\":\"input_text\",\"text\":\"two\"}]}]}",
         "messages",
         "[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"I read.\","
         "\"reasoning_content\":\"long\",\"tool_calls\":["
         "{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"read\",\"arguments\":\"{}"
         "\"}},"
         "{\"id\":\"c2\",\"type\":\"function\",\"function\":{\"name\":\"read\",\"arguments\":\"{}"
         "\"}}]},"
         "{\"role\":\"tool\",\"content\":\"one\",\"tool_call_id\":\"c1\"},"
         "{\"role\":\"tool\",\"content\":\"two\",\"tool_call_id\":\"c2\"}]"},
        {"{\"input\":[{\"role\":\"user\",\"content\":\"u\"},{\"type\":\"reasoning\",\"summary\":["
         "{\"type\":\"summary_text\",\"text\":\"short\"}],\"content\":null},"
         "{\"role\":\"assistant\",\"content\":\"one\"},{\"role\":\"assistant\",\"content\":\"two\"}"
         ","
         "{\"role\":\"user\",\"content\":\"v\"}]}",
         "messages",
         "[{\"role\":\"user\",\"content\":\"u\"},"
         "{\"role\":\"assistant\",\"content\":\"one\",\"reasoning_content\":\"short\"},"
         "{\"role\":\"assistant\",\"content\":\"two\"},{\"role\":\"user\",\"content\":\"v\"}]"},
        {"{\"input\":[{\"role\":\"assistant\",\"content\":\"a\"}]}", "continue_final_message",
         "false"},
        // Items of tools that a service runs itself, and reasoning that only it can read.
        {"{\"input\":[{\"role\":\"user\",\"content\":\"u\"},{\"type\":\"web_search_call\",\"id\":1}"
         ","
         "{\"type\":\"reasoning\",\"summary\":[],\"encrypted_content\":\"x\"}]}",
         "messages", "[{\"role\":\"user\",\"content\":\"u\"}]"},
    };

    (void)state;
    rig_chat_all(&dialect_responses, rows, COUNT(rows));
}

#define HI "{\"input\":\"hi\","

static void test_members(void **state)
{
    static const struct chat_row rows[] = {
        {HI "\"tools\":[" TOOL "]}", "tools", "[" CHAT_TOOL "]"},
        {HI "\"tools\":[{\"type\":\"web_search\"},{\"type\":\"local_shell\"}],"
            "\"tool_choice\":\"required\"}",
         "tools", NULL},
        {HI "\"tools\":[{\"type\":\"web_search\"}],\"tool_choice\":\"required\"}", "tool_choice",
         NULL},
        {HI "\"tools\":[" TOOL "],\"tool_choice\":\"required\"}", "tool_choice", "\"required\""},
        {HI "\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"function\",\"name\":\"read\"}}",
         "tool_choice", "{\"type\":\"function\",\"function\":{\"name\":\"read\"}}"},
        {HI "\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"web_search_preview\"}}",
         "tool_choice", NULL},
        {HI "\"tools\":[" TOOL "," OTHER "],\"tool_choice\":{\"type\":\"allowed_tools\","
            "\"mode\":\"required\",\"tools\":[{\"type\":\"function\",\"name\":\"read\"}]}}",
         "tools", "[" CHAT_TOOL "]"},
        {HI "\"tools\":[" SPACE "]}", "tools",
         "[{\"type\":\"function\",\"function\":{\"name\":\"disk__read\","
         "\"description\":\"reads\",\"parameters\":{\"type\":\"object\"}}}]"},
        {HI "\"parallel_tool_calls\":false}", "parallel_tool_calls", "false"},
        {HI "\"text\":{\"format\":{\"type\":\"text\"},\"verbosity\":\"low\"}}", "response_format",
         NULL},
        {HI "\"text\":{\"format\":{\"type\":\"json_object\"}}}", "response_format",
         "{\"type\":\"json_object\"}"},
        {HI "\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"n\",\"strict\":true,"
            "\"schema\":{\"type\":\"object\"}}}}",
         "response_format",
         "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\","
         "\"schema\":{\"type\":\"object\"}}}"},
        {HI "\"reasoning\":{\"effort\":\"low\",\"summary\":\"auto\"}}", "reasoning_effort",
         "\"low\""},
        {HI "\"reasoning\":null,\"metadata\":null,\"unknown\":[]}", "reasoning_effort", NULL},
    };
    struct rig r;

    (void)state;
    rig_chat_all(&dialect_responses, rows, COUNT(rows));
    rig_open(
        &r, &dialect_responses,
        HI
        "\"model\":\"m\",\"max_output_tokens\":7,\"temperature\":0,\"top_p\":0.5,\"stream\":true,"
        "\"store\":false,\"include\":[\"message.output_text.logprobs\","
        "\"reasoning.encrypted_content\"],\"top_logprobs\":3,\"tandem\":{\"plan\":\"local\"}}");
    assert_string_equal(r.in.model, "m");
    assert_int_equal(r.in.max_tokens, 7);
    assert_true(r.in.stream);
    assert_false(r.in.generate.keep);
    assert_int_equal(r.in.generate.logprobs, 3);
    assert_int_equal(r.in.plan, PLACE_LOCAL);
    rig_close(&r);
}

static void test_refusals(void **state)
{
    static const struct refusal_row rows[] = {
        {"[]", "", "object"},
        {"{}", "input", "absent"},
        {"{\"input\":5}", "input", "(got 5)"},
        {"{\"input\":[]}", "input", "at least one item (got [])"},
        {"{\"input\":[{\"type\":\"web_search_call\"}]}", "input", "holds no message"},
        {"{\"input\":[7]}", "input[0]", "must be an object"},
        {"{\"input\":[{\"role\":7,\"content\":\"x\"}]}", "input[0].role", "must be a string"},
        {"{\"input\":[{\"content\":\"x\"}]}", "input[0].role", "absent"},
        {"{\"input\":[{\"role\":\"king\",\"content\":\"x\"}]}", "input[0].role", "(got \"king\")"},
        {"{\"input\":[{\"role\":\"user\"}]}", "input[0].content", "string or an array"},
        {"{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":[]}]}]}",
         "input[0].content[0].text", "must be a string"},
        {"{\"input\":[{\"role\":\"user\",\"content\":[{\"text\":\"x\"}]}]}",
         "input[0].content[0].type", "absent"},
        {"{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"smell\"}]}]}",
         "input[0].content[0]", "smell"},
        {"{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_image\",\"image_url\":"
         "\"data:image/png;base64,AA==\"}]}]}",
         "input[0].content[0].image_url", "no PNG"},
        {"{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_image\",\"file_id\":\"f\"}]"
         "}]}",
         "input[0].content[0]", "send the image as a data: URL"},
        {"{\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_file\",\"file_id\":\"f\"}]}"
         "]}",
         "input[0].content[0]", "no other files"},
        {"{\"input\":[{\"type\":\"function_call\",\"name\":\"f\",\"arguments\":\"\"}]}",
         "input[0].call_id", "absent"},
        {"{\"input\":[{\"type\":\"function_call\",\"call_id\":\"c\",\"name\":\"f\","
         "\"arguments\":{}}]}",
         "input[0].arguments", "(got {})"},
        {"{\"input\":[{\"type\":\"function_call_output\",\"call_id\":\"c\"}]}", "input[0].output",
         "absent"},
        {"{\"input\":[{\"type\":\"item_reference\",\"id\":\"x\"}]}", "input[0]",
         "whole conversation"},
        {HI "\"previous_response_id\":\"resp_1\"}", "previous_response_id", "whole conversation"},
        {HI "\"conversation\":\"c\"}", "conversation", "whole conversation"},
        {HI "\"prompt\":{\"id\":\"p\"}}", "prompt", "instructions"},
        {HI "\"background\":true}", "background", "must be false"},
        {HI "\"background\":1}", "background", "boolean"},
        {HI "\"instructions\":[]}", "instructions", "must be a string"},
        {HI "\"model\":5}", "model", "must be a string"},
        {HI "\"stream\":\"yes\"}", "stream", "boolean"},
        {HI "\"store\":\"yes\"}", "store", "boolean"},
        {HI "\"temperature\":\"hot\"}", "temperature", "(got \"hot\")"},
        {HI "\"temperature\":-1}", "temperature", "-1"},
        {HI "\"max_output_tokens\":0}", "max_output_tokens",
         "'max_output_tokens' must be at least 1"},
        {HI "\"max_output_tokens\":1.5}", "max_output_tokens", "integer"},
        {HI "\"tools\":{}}", "tools", "array"},
        {HI "\"tools\":[7]}", "tools[0]", "object"},
        {HI "\"tools\":[{\"type\":\"namespace\",\"name\":\"n\"}]}", "tools[0].tools", "absent"},
        {HI
         "\"tools\":[{\"type\":\"namespace\",\"name\":\"n\",\"tools\":[{\"type\":\"function\"}]}]}",
         "tools[0].tools[0].name", "absent"},
        {HI "\"tools\":[{\"name\":\"x\"}]}", "tools[0].type", "absent"},
        {HI "\"tools\":[{\"type\":\"function\"}]}", "tools[0].name", "absent"},
        {HI "\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":\"x\"}]}",
         "tools[0].parameters", "object"},
        {HI "\"tool_choice\":\"maybe\"}", "tool_choice", "(got \"maybe\")"},
        {HI "\"tool_choice\":7}", "tool_choice", "(got 7)"},
        {HI "\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"function\",\"name\":\"gone\"}}",
         "tool_choice.name", "not among"},
        {HI "\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"allowed_tools\",\"mode\":\"x\","
            "\"tools\":[{\"name\":\"read\"}]}}",
         "tool_choice.mode", "\"auto\" or \"required\""},
        {HI "\"text\":7}", "text", "object"},
        {HI "\"text\":{\"format\":{\"type\":\"xml\"}}}", "text.format.type", "(got \"xml\")"},
        {HI "\"text\":{\"format\":{\"type\":\"json_schema\"}}}", "text.format.schema", "absent"},
        {HI "\"reasoning\":\"x\"}", "reasoning", "object"},
        {HI "\"reasoning\":{\"effort\":1}}", "reasoning.effort", "string"},
        {HI "\"include\":\"x\"}", "include", "array"},
        {HI "\"include\":[1]}", "include[0]", "string"},
        {HI "\"top_logprobs\":99}", "top_logprobs", "99"},
        {HI "\"metadata\":[]}", "metadata", "object"},
        {HI "\"tandem\":{\"plan\":\"best\"}}", "tandem.plan", "best"},
    };

    (void)state;
    rig_refused_all(&dialect_responses, rows, COUNT(rows));
    rig_absurd(&dialect_responses, HI "\"temperature\":@}");
}

// ---- answers ------------------------------------------------------------------------------------

static const char *const words[] = {"{\"content\":\"Hello\"}", "{\"content\":\" \\\"you\\\"\"}",
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
static const char *const spaced[] = {
    "{\"tool\":0,\"id\":\"call_a\",\"name\":\"disk__read\",\"arguments\":\"{}\"}",
    "{\"tool\":1,\"id\":\"call_b\",\"name\":\"read\",\"arguments\":\"{}\"}", NULL};
static const char *const thought[] = {"{\"reasoning\":\"Hm\"}", NULL};
static const char *const silence[] = {NULL};

static void test_answers(void **state)
{
    static const struct {
        const char *golden, *body;
        const char *const *say;
        const char *finish;
    } rows[] = {
        {"responses_text.json", HI "\"instructions\":\"be brief\",\"temperature\":0.7}", words,
         "stop"},
        {"responses_text.sse", HI "\"stream\":true}", words, "stop"},
        {"responses_all.json",
         HI "\"tools\":[" TOOL "],\"tool_choice\":\"auto\",\"metadata\":{\"k\":\"v\"}}", everything,
         "tool_calls"},
        {"responses_all.sse", HI "\"stream\":true,\"tools\":[" TOOL "]}", everything, "tool_calls"},
        {"responses_namespace.sse", HI "\"stream\":true,\"tools\":[" TOOL "," SPACE "]}", spaced,
         "tool_calls"},
        {"responses_namespace.json", HI "\"tools\":[" SPACE "," TOOL "]}", spaced, "tool_calls"},
        {"responses_summary.sse",
         HI "\"stream\":true,\"reasoning\":{\"effort\":\"low\",\"summary\":\"auto\"}}", thought,
         "stop"},
        {"responses_summary.json", HI "\"reasoning\":{\"summary\":\"auto\"}}", thought, "length"},
        {"responses_length.sse", HI "\"stream\":true,\"max_output_tokens\":5}", words, "length"},
        {"responses_silence.sse", HI "\"stream\":true}", silence, "stop"},
        {"responses_silence.json", HI "\"stream\":false}", silence, "stop"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct rig r;

        rig_open(&r, &dialect_responses, rows[i].body);
        rig_run(&r, rows[i].say, rows[i].finish, NULL);
        rig_golden(rows[i].golden, &r.out);
        rig_close(&r);
    }
}

#define LOGPROB(token)                                                                             \
    "[{\"token\":\"" token "\",\"logprob\":-0.5,\"bytes\":[72],\"top_logprobs\":[]}]"

static void test_logprobs(void **state)
{
    static const char *const bodies[][2] = {
        {"responses_logprobs.sse",
         HI "\"stream\":true,\"include\":[\"message.output_text.logprobs\"]}"},
        {"responses_logprobs.json", HI "\"top_logprobs\":1}"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(bodies); i++) {
        struct rig r;

        rig_open(&r, &dialect_responses, bodies[i][1]);
        if (r.in.stream)
            r.dialect->begin(&r.a, &r.out);
        rig_say(&r, "{\"content\":\"H\"}", LOGPROB("H"));
        rig_say(&r, "{\"content\":\"i\"}", LOGPROB("i"));
        rig_say(&r, "{\"content\":\"\"}", LOGPROB(""));
        rig_end(&r, "stop", NULL);
        rig_golden(bodies[i][0], &r.out);
        rig_close(&r);
    }
}

// What is left to tell of a call's tokens is no message.
static void test_logprobs_of_a_call(void **state)
{
    struct rig r;

    (void)state;
    rig_open(&r, &dialect_responses,
             HI "\"stream\":true,\"include\":[\"message.output_text.logprobs\"]}");
    r.dialect->begin(&r.a, &r.out);
    rig_say(&r, "{\"tool\":0,\"id\":\"c\",\"name\":\"f\",\"arguments\":\"{}\"}", LOGPROB("{"));
    rig_say(&r, "{\"content\":\"\"}", LOGPROB(""));
    rig_end(&r, "tool_calls", NULL);
    assert_non_null(strstr((char *)r.out.data, "\"type\":\"function_call\""));
    assert_null(strstr((char *)r.out.data, "\"type\":\"message\""));
    rig_close(&r);
}

// A comment before the first event, an event of its own after it, and an error that ends it all.
static void test_beats_and_errors(void **state)
{
    const struct answer_fault f = {500, NULL, NULL, "the worker \xff died"};
    struct rig r;

    (void)state;
    rig_open(&r, &dialect_responses, HI "\"stream\":true}");
    r.dialect->beat(&r.a, &r.out);
    r.dialect->begin(&r.a, &r.out);
    r.dialect->beat(&r.a, &r.out);
    rig_say(&r, "{\"reasoning\":\"Hm\"}", NULL);
    rig_say(&r, "{\"content\":\"Hel\"}", NULL);
    r.dialect->error(&r.a, &f, &r.out);
    rig_golden("responses_error.sse", &r.out);
    buf_clear(&r.out);
    r.dialect->refusal(&(struct answer_fault){400, NULL, "messages", "no"}, &r.out);
    assert_non_null(strstr((char *)r.out.data, "\"param\":\"input\""));
    assert_non_null(strstr((char *)r.out.data, "\"type\":\"invalid_request_error\""));
    rig_close(&r);
}

// An error before the first event is only told, as there is no response yet that could have failed.
static void test_error_first(void **state)
{
    const struct answer_fault f = {400, "context_length_exceeded", "messages", "too long"};
    struct rig r;

    (void)state;
    rig_open(&r, &dialect_responses, HI "\"stream\":true}");
    r.dialect->error(&r.a, &f, &r.out);
    assert_string_equal((char *)r.out.data,
                        "event: error\n"
                        "data: {\"type\":\"error\",\"sequence_number\":0,"
                        "\"code\":\"context_length_exceeded\",\"message\":\"too long\","
                        "\"param\":\"input\",\"error\":{\"message\":\"too long\","
                        "\"type\":\"invalid_request_error\","
                        "\"code\":\"context_length_exceeded\",\"param\":\"input\"}}\n\n");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),         cmocka_unit_test(test_members),
        cmocka_unit_test(test_refusals),         cmocka_unit_test(test_answers),
        cmocka_unit_test(test_logprobs),         cmocka_unit_test(test_logprobs_of_a_call),
        cmocka_unit_test(test_beats_and_errors), cmocka_unit_test(test_error_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
