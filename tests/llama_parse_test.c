// Templates, syntaxes and the parsing of answers, without a model: llama.cpp's own code behind its C face,
// with a template that thinks and calls tools in the way that many do.
#include "engine/llama_chat.h"

#include "base/buf.h"
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char source[] =
    "{%- if tools %}<|im_start|>system\nTools: <tools>{% for tool in tools %}\n{{ tool | tojson }}"
    "{% endfor %}\n</tools>\nFor each call return\n<tool_call>\n{\"name\": <function-name>, "
    "\"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n{% endif %}"
    "{%- for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n"
    "{{ m.content }}\n</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}{% if m.tool_calls %}{% for c in m.tool_calls %}\n<tool_call>\n{\"name\": \""
    "{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>"
    "{% endfor %}{% endif %}<|im_end|>\n{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and "
    "enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}";

#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define TOOL(n)                                                                                    \
    "{\"type\":\"function\",\"function\":{\"name\":\"" n "\",\"parameters\":{\"type\":\"object\"," \
    "\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"]}}}"
#define TOOLS "\"tools\":[" TOOL("get") "," TOOL("get_more") "]"

static struct llama_chat *chat;

static int setup(void **state)
{
    struct err e = {0};
    (void)state;
    chat = llama_chat_new(NULL, source, &e);
    if (chat == NULL)
        fail_msg("%s", e.message);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    llama_chat_free(chat);
    return 0;
}

static json_t *render(const char *request)
{
    struct err e = {0};
    char *text = llama_chat_render(chat, request, &e);
    if (text == NULL)
        fail_msg("%s: %s", request, e.message);
    json_t *rendered = json_loads(text, 0, NULL);
    free(text);
    return rendered;
}

static void refused(const char *request, const char *says)
{
    struct err e = {0};
    char *text = llama_chat_render(chat, request, &e);
    if (text != NULL)
        fail_msg("accepted: %s", request);
    assert_int_equal(e.code, ERR_INVALID);
    if (strstr(e.message, says) == NULL)
        fail_msg("%s: \"%s\" does not say \"%s\"", request, e.message, says);
}

static const char *prompt_of(const json_t *rendered)
{
    return json_string_value(json_object_get(rendered, "prompt"));
}

static const json_t *rules_of(const json_t *rendered)
{
    return json_object_get(json_object_get(rendered, "syntax"), "rules");
}

// ---- rendering ----------------------------------------------------------------------------------

static void tools_make_a_lazy_grammar(void **state)
{
    json_t *r = render("{" USER "," TOOLS "}");
    (void)state;
    assert_non_null(strstr(prompt_of(r), "\"get_more\""));
    assert_non_null(json_object_get(json_object_get(r, "syntax"), "grammar"));
    assert_true(json_is_true(json_object_get(rules_of(r), "lazy")));
    assert_true(json_array_size(json_object_get(rules_of(r), "triggers")) > 0);
    json_decref(r);
    r = render("{" USER "," TOOLS ",\"tool_choice\":\"none\"}");
    assert_null(json_object_get(json_object_get(r, "syntax"), "grammar"));
    json_decref(r);
    r = render("{" USER "," TOOLS ",\"tool_choice\":\"required\"}");
    assert_true(json_is_false(json_object_get(rules_of(r), "lazy")));
    json_decref(r);
}

static void a_named_tool_is_the_only_one_that_binds(void **state)
{
    json_t *r = render("{" USER "," TOOLS ",\"tool_choice\":" TOOL("get_more") "}");
    const char *grammar =
        json_string_value(json_object_get(json_object_get(r, "syntax"), "grammar"));
    (void)state;
    assert_non_null(strstr(prompt_of(r), "\"get\"")); // the prompt is that of other requests
    assert_non_null(strstr(grammar, "get_more"));
    assert_null(strstr(grammar, "tool-get-schema"));
    json_decref(r);
}

static void what_cannot_be_kept_is_refused(void **state)
{
    static const struct {
        const char *request, *says;
    } rows[] = {
        {"{" USER "," TOOLS
         ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"x\"}}}",
         "get, get_more"},
        {"{" USER ",\"tool_choice\":\"required\"}", "no tools"},
        {"{" USER "," TOOLS ",\"tool_choice\":\"some\"}", "some"},
        {"{" USER "," TOOLS ",\"tool_choice\":{}}", "tool_choice"},
        {"{" USER ",\"tools\":7}", "tools"},
        {"{" USER ",\"tools\":[{\"type\":\"function\"}]}", "function"},
        {"{" USER "," TOOLS ",\"grammar\":\"root ::= \\\"a\\\"\"}", "rammar"},
        {"{" USER ",\"json_schema\":{},\"grammar\":\"root ::= \\\"a\\\"\"}", "together"},
        {"{" USER ",\"reasoning_format\":\"loud\"}", "loud"},
        {"{" USER ",\"chat_template_kwargs\":{\"enable_thinking\":\"no\"}}", "enable_thinking"},
        {"{" USER ",\"continue_final_message\":true}", "user"},
        {"{\"prompt\":\"a\",\"json_schema\":{},\"grammar\":\"root ::= \\\"a\\\"\"}", "together"},
        {"{\"prompt\":7}", ""},
        {"{", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        refused(rows[i].request, rows[i].says);
}

static void a_template_without_tools_keeps_no_choice_of_one(void **state)
{
    struct llama_chat *with_tools = chat;
    struct err e = {0};
    (void)state;
    chat = llama_chat_new(NULL,
                          "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
                          "{% if add_generation_prompt %}<s>assistant: {% endif %}",
                          &e);
    assert_non_null(chat);
    refused("{" USER "," TOOLS ",\"tool_choice\":\"required\"}", "knows no tools");
    json_t *r = render("{" USER "," TOOLS "}");
    assert_non_null(prompt_of(r));
    json_decref(r);
    r = render("{" USER ",\"response_format\":{\"type\":\"json_object\"}}");
    assert_non_null(json_object_get(json_object_get(r, "syntax"), "grammar"));
    assert_null(json_object_get(json_object_get(r, "syntax"), "parser"));
    json_decref(r);
    r = render("{" USER "}"); // all content: nothing to say
    assert_true(json_is_null(json_object_get(r, "syntax")));
    json_decref(r);
    llama_chat_free(chat);
    chat = with_tools;
    assert_null(llama_chat_new(NULL, "{% for %}", &e));
}

static void other_tools_are_passed_over(void **state)
{
    json_t *r = render("{" USER ",\"tools\":[{\"type\":\"web_search\"}," TOOL("get") "]}");
    (void)state;
    assert_non_null(strstr(prompt_of(r), "\"get\""));
    assert_null(strstr(prompt_of(r), "web_search"));
    json_decref(r);
}

// What an earlier answer left in the conversation is no reason to refuse what follows.
static void arguments_of_earlier_calls_become_objects(void **state)
{
    static const struct {
        const char *arguments, *prompt;
    } rows[] = {
        {"\"{\\\"a\\\":1}\"", "\"arguments\": {\"a\": 1}"},
        {"\"\"", "\"arguments\": {}"},
        {"\" \\n\"", "\"arguments\": {}"},
        {"\"{\\\"a\\\": \\\"b\"", "{\"arguments\": \"{\\\"a\\\": \\\"b\"}"},
        {"\"7\"", "{\"arguments\": \"7\"}"},
        {"{\"a\":1}", "\"arguments\": {\"a\": 1}"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b;
        buf_init(&b, 1 << 16);
        buf_printf(&b,
                   "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":"
                   "\"assistant\",\"content\":null,\"tool_calls\":[{\"type\":\"function\","
                   "\"function\":{\"name\":\"get\",\"arguments\":%s}}]}]," TOOLS "}",
                   rows[i].arguments);
        json_t *r = render((char *)b.data);
        if (!strstr(prompt_of(r), rows[i].prompt))
            fail_msg("%s: %s", rows[i].arguments, prompt_of(r));
        json_decref(r);
        buf_fini(&b);
    }
}

static void thinking_can_be_turned_off(void **state)
{
    static const char *const off[] = {
        "{" USER ",\"chat_template_kwargs\":{\"enable_thinking\":false}}",
        "{" USER ",\"enable_thinking\":false}",
        "{" USER ",\"reasoning_effort\":\"none\"}",
    };
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        json_t *r = render(off[i]);
        assert_non_null(strstr(prompt_of(r), "<think>\n\n</think>"));
        json_decref(r);
    }
    json_t *r = render("{" USER ",\"reasoning_effort\":\"high\"}");
    assert_null(strstr(prompt_of(r), "<think>"));
    json_decref(r);
}

static void a_prompt_is_not_templated(void **state)
{
    static const char *const bound[] = {
        "{\"prompt\":\"once\",\"json_schema\":{\"type\":\"integer\"}}",
        "{\"prompt\":\"once\",\"response_format\":{\"type\":\"json_object\"}}",
        "{\"prompt\":\"once\",\"grammar\":\"root ::= [0-9]\"}",
    };
    (void)state;
    json_t *r = render("{\"prompt\":\"once\"}");
    assert_string_equal(prompt_of(r), "once");
    assert_true(json_is_null(json_object_get(r, "syntax")));
    json_decref(r);
    for (size_t i = 0; i < 3; i++) {
        r = render(bound[i]);
        assert_non_null(json_object_get(json_object_get(r, "syntax"), "grammar"));
        assert_null(json_object_get(json_object_get(r, "syntax"), "parser"));
        json_decref(r);
    }
}

// ---- answers ------------------------------------------------------------------------------------

static struct llama_answer *answer(const char *request)
{
    struct err e = {0};
    json_t *r = render(request);
    char *parser = json_text(json_object_get(json_object_get(r, "syntax"), "parser"));
    struct llama_answer *a = llama_answer_new(parser, 0, &e);
    if (a == NULL)
        fail_msg("%s: %s", request, e.message);
    free(parser);
    json_decref(r);
    return a;
}

struct said {
    struct buf reasoning, content, calls; // calls: |name(arguments
    int n_calls, deltas;
    char ids[8][64];
};

static void said_init(struct said *s)
{
    memset(s, 0, sizeof *s);
    buf_init(&s->reasoning, 1 << 20);
    buf_init(&s->content, 1 << 20);
    buf_init(&s->calls, 1 << 20);
}

static void said_fini(struct said *s)
{
    buf_fini(&s->reasoning);
    buf_fini(&s->content);
    buf_fini(&s->calls);
}

static void delta_take(struct said *s, const json_t *d)
{
    const char *reasoning = json_string_value(json_object_get(d, "reasoning"));
    const char *content = json_string_value(json_object_get(d, "content"));
    const char *name = json_string_value(json_object_get(d, "name"));
    const char *arguments = json_string_value(json_object_get(d, "arguments"));
    s->deltas++;
    if (name != NULL) { // once per call, in order, with an id
        assert_int_equal(json_integer_value(json_object_get(d, "tool")), s->n_calls);
        assert_true(s->n_calls < 8);
        snprintf(s->ids[s->n_calls++], 64, "%s", json_string_value(json_object_get(d, "id")));
        buf_printf(&s->calls, "|%s(", name);
    }
    buf_puts(&s->reasoning, reasoning != NULL ? reasoning : "");
    buf_puts(&s->content, content != NULL ? content : "");
    buf_puts(&s->calls, arguments != NULL ? arguments : "");
}

static void put(struct llama_answer *a, struct said *s, const char *text, size_t n, bool final)
{
    size_t i;
    json_t *d;
    char *deltas = llama_answer_put(a, text, n, final);
    json_t *list = json_loads(deltas, 0, NULL);
    assert_true(json_is_array(list));
    json_array_foreach(list, i, d) delta_take(s, d);
    json_decref(list);
    free(deltas);
}

// In pieces of `step` bytes, or whole where it is 0.
static void say(const char *request, const char *text, size_t step, struct said *s)
{
    struct llama_answer *a = answer(request);
    size_t n = strlen(text);
    said_init(s);
    for (size_t at = 0; step > 0 && at < n; at += step) {
        put(a, s, text + at, n - at < step ? n - at : step, false);
    }
    put(a, s, step > 0 ? "" : text, step > 0 ? 0 : n, true);
    llama_answer_free(a);
}

static const char *text_of(const struct buf *b)
{
    return b->data != NULL ? (const char *)b->data : "";
}

#define CALL(n, a) "<tool_call>\n{\"name\": \"" n "\", \"arguments\": " a "}\n</tool_call>"

static const struct {
    const char *request, *text, *reasoning, *content, *calls;
} answers[] = {
    {"{" USER "}", "plain {} <b>", "", "plain {} <b>", ""},
    {"{" USER "}", "<think>\nwhy\n</think>\n\nso", "why\n", "so", ""},
    {"{" USER ",\"reasoning_format\":\"none\"}", "<think>\nwhy\n</think>\n\nso", "",
     "<think>\nwhy\n</think>\n\nso", ""},
    {"{" USER "," TOOLS "}", "just text", "", "just text", ""},
    {"{" USER "," TOOLS "}", "<think>\nhm\n</think>\n\n" CALL("get", "{\"a\": \"x\"}"), "hm\n", "",
     "|get({\"a\": \"x\"}"},
    {"{" USER "," TOOLS "}", CALL("get_more", "{\"a\": \"}\\\"{\"}"), "", "",
     "|get_more({\"a\": \"}\\\"{\"}"},
    {"{" USER "," TOOLS ",\"parallel_tool_calls\":true}",
     CALL("get", "{\"a\": \"1\"}") "\n" CALL("get_more", "{\"a\": \"2\"}"), "", "",
     "|get({\"a\": \"1\"}|get_more({\"a\": \"2\"}"},
    // A call stays one whatever follows it.
    {"{" USER "," TOOLS "}", CALL("get", "{\"a\": \"\xe2\x82\xac\"}") "<|junk|>\n\n", "", "",
     "|get({\"a\": \"\xe2\x82\xac\"}"},
    // What is no call becomes content.
    {"{" USER "," TOOLS "}", "<tool_call>\nnonsense\n</tool_call>", "",
     "<tool_call>\nnonsense\n</tool_call>", ""},
    {"{" USER "," TOOLS "}", CALL("unknown", "{}"), "", CALL("unknown", "{}"), ""},
    {"{" USER "," TOOLS "}", "so <tool_call>\n{\"name\": \"get", "",
     "so <tool_call>\n{\"name\": \"get", ""},
    {"{" USER "," TOOLS "}", "<think>\nwhy</thi", "why", "", ""},
    {"{" USER "," TOOLS "}", "<thi", "", "", ""},
    {"{" USER "," TOOLS "}", "if a <", "", "if a <", ""},
    {"{" USER "," TOOLS "}", "if a <tool_", "", "if a <tool_", ""},
    {"{" USER "," TOOLS ",\"tool_choice\":\"none\"}", CALL("get", "{\"a\": \"x\"}"), "",
     CALL("get", "{\"a\": \"x\"}"), ""},
};

static void answers_mean_the_same_whole_and_in_pieces(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
        for (size_t step = 0; step <= 7; step += step > 0 ? 6u : 1u) {
            struct said s;
            say(answers[i].request, answers[i].text, step, &s);
            if (strcmp(text_of(&s.reasoning), answers[i].reasoning) != 0 ||
                strcmp(text_of(&s.content), answers[i].content) != 0 ||
                strcmp(text_of(&s.calls), answers[i].calls) != 0)
                fail_msg("%zu by %zu: R \"%s\" C \"%s\" T \"%s\"", i, step, text_of(&s.reasoning),
                         text_of(&s.content), text_of(&s.calls));
            said_fini(&s);
        }
}

static void arguments_stream_and_ids_are_unique(void **state)
{
    const char *text = CALL("get", "{\"a\": \"one two three four five six\"}") "\n" CALL(
        "get", "{\"a\": \"seven\"}");
    struct said s, other;
    (void)state;
    say("{" USER "," TOOLS ",\"parallel_tool_calls\":true}", text, 4, &s);
    assert_true(s.deltas > 6);
    assert_int_equal(s.n_calls, 2);
    assert_int_equal(strncmp(s.ids[0], "call_", 5), 0);
    assert_string_not_equal(s.ids[0], s.ids[1]);
    say("{" USER "," TOOLS ",\"parallel_tool_calls\":true}", text, 0, &other);
    assert_string_not_equal(s.ids[0], other.ids[0]);
    said_fini(&s);
    said_fini(&other);
}

// Cut off by a limit: what was told stays as it is.
static void a_call_cut_short_stays_as_told(void **state)
{
    struct said s;
    (void)state;
    say("{" USER "," TOOLS "}", "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": \"on", 3,
        &s);
    assert_int_equal(s.n_calls, 1);
    assert_int_equal(strncmp(text_of(&s.calls), "|get({\"a\": \"o", 12), 0);
    assert_string_equal(text_of(&s.content), "");
    said_fini(&s);
}

static void a_continued_message_is_not_told_again(void **state)
{
    static const char request[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":"
        "\"Once upon\"}],\"continue_final_message\":true,\"add_generation_prompt\":false}";
    json_t *r = render(request);
    struct said s;
    (void)state;
    size_t n = strlen(prompt_of(r));
    assert_string_equal(prompt_of(r) + n - 9, "Once upon");
    json_decref(r);
    for (size_t step = 0; step <= 3; step += 3) {
        say(request, " a time", step, &s);
        assert_string_equal(text_of(&s.content), " a time");
        said_fini(&s);
    }
}

static void a_schema_is_content_after_reasoning(void **state)
{
    struct said s;
    (void)state;
    say("{" USER ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":"
        "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":\"integer\"}}}}}}",
        "<think>\nhm\n</think>\n\n{\"n\": 7}", 2, &s);
    assert_string_equal(text_of(&s.content), "{\"n\": 7}");
    assert_string_equal(text_of(&s.reasoning), "hm\n");
    said_fini(&s);
}

// ---- what would be too deep -----------------------------------------------------------------------

static char *nested(const char *before, const char *open, size_t n, const char *between,
                    const char *close, const char *after)
{
    struct buf b;
    buf_init(&b, 64u << 20);
    buf_puts(&b, before);
    for (size_t i = 0; i < n; i++)
        buf_puts(&b, open);
    buf_puts(&b, between);
    for (size_t i = 0; i < n; i++)
        buf_puts(&b, close);
    buf_puts(&b, after);
    return buf_take(&b);
}

static void deep_requests_are_refused(void **state)
{
    static const char call[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
        "\"\","
        "\"tool_calls\":[{\"id\":\"i\",\"type\":\"function\",\"function\":{\"name\":\"get\","
        "\"arguments\":\"";
    char *deep[] = {
        nested(call, "[", 100000, "", "]", "\"}}]}]}"),
        nested(call, "[\\\"]\\\",", 100000, "1", "]", "\"}}]}]}"),
        nested("{\"prompt\":\"a\",\"grammar\":\"root ::= ", "(", 100000, "[a]", ")", "\"}"),
        nested("{\"prompt\":\"a\",\"json_schema\":", "{\"type\":\"array\",\"items\":", 1500,
               "{\"type\":\"string\"}", "}", "}"),
    };
    static const char *const says[] = {"nested", "nested", "groups", "bytes"};
    (void)state;
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        struct err e = {0};
        char *text = llama_chat_render(chat, deep[i], &e);
        if (text != NULL || strstr(e.message, says[i]) == NULL)
            fail_msg("%zu: %s", i, text != NULL ? "accepted" : e.message);
        free(deep[i]);
    }
}

// A model that repeats itself must not end the process.
static void deep_answers_are_cut(void **state)
{
    char *text =
        nested("<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": ", "[", 30000, "", "", "");
    (void)state;
    for (size_t step = 0; step <= 1000; step += 1000) {
        struct said s;
        say("{" USER "," TOOLS "}", text, step, &s);
        assert_true(s.deltas > 0);
        said_fini(&s);
    }
    free(text);
}

static void nesting_is_counted_through_quotes(void **state)
{
    static const struct {
        const char *text;
        size_t depth;
    } rows[] = {{"", 0},           {"[{}]", 2}, {"]]]", 0},
                {"\"[[[\"", 3},    {"[][]", 1}, {"[\"]\",[\"]\",[", 3},
                {"a\"[\"]\"[", 2}, {"\\\"[", 1}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(llama_chat_nesting(rows[i].text, strlen(rows[i].text)), rows[i].depth);
}

#define NO_ARENA                                                                                   \
    "{\"format\":2,\"arena\":\"{}\",\"prompt\":\"\",\"reasoning\":\"auto\",\"tools\":true,"        \
    "\"continues\":false,\"start\":\"\",\"ends\":[]}"

static void foreign_syntaxes_are_refused(void **state)
{
    static const char *const bad[] = {"", "7", "{}", "{\"format\":1}", NO_ARENA};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        struct llama_answer *a = llama_answer_new(bad[i], 0, &e);
        if (a != NULL)
            fail_msg("accepted: %s", bad[i]);
        assert_int_equal(e.code, ERR_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tools_make_a_lazy_grammar),
        cmocka_unit_test(a_named_tool_is_the_only_one_that_binds),
        cmocka_unit_test(what_cannot_be_kept_is_refused),
        cmocka_unit_test(a_template_without_tools_keeps_no_choice_of_one),
        cmocka_unit_test(other_tools_are_passed_over),
        cmocka_unit_test(arguments_of_earlier_calls_become_objects),
        cmocka_unit_test(thinking_can_be_turned_off),
        cmocka_unit_test(a_prompt_is_not_templated),
        cmocka_unit_test(answers_mean_the_same_whole_and_in_pieces),
        cmocka_unit_test(arguments_stream_and_ids_are_unique),
        cmocka_unit_test(a_call_cut_short_stays_as_told),
        cmocka_unit_test(a_continued_message_is_not_told_again),
        cmocka_unit_test(a_schema_is_content_after_reasoning),
        cmocka_unit_test(deep_requests_are_refused),
        cmocka_unit_test(deep_answers_are_cut),
        cmocka_unit_test(nesting_is_counted_through_quotes),
        cmocka_unit_test(foreign_syntaxes_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
