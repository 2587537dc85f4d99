// What OpenAI's requests are understood as, and how each wrong one is refused: every row is a body.
#include "base/json.h"
#include "gateway/dialect.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
#define TOOL "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}"
#define CHAT &dialect_chat
#define TEXT &dialect_text

static struct parse_request parse_ok(const struct dialect *d, const char *body)
{
    struct parse_request r;
    struct parse_fault fault;

    if (parse_request(d, body, strlen(body), &r, &fault) != 0)
        fail_msg("%s: %s", body, fault.e.message);
    return r;
}

// ---- refusals -----------------------------------------------------------------------------------------

static const struct refusal {
    const struct dialect *dialect;
    const char *body, *param, *says;
} refusals[] = {
    {CHAT, "[]", "", "must be a JSON object"},
    {CHAT, "{" MSG ",\"n\":0}", "n", "outside [1, 8]"},
    {CHAT, "{" MSG ",\"n\":\"2\"}", "n", "integer"},
    {CHAT, "{" MSG ",\"typical_p\":2}", "typical_p", "outside [0, 1]"},
    {CHAT, "{" MSG ",\"repeat_last_n\":-2}", "repeat_last_n", "outside"},
    {CHAT, "{" MSG ",\"reasoning_budget\":-2}", "reasoning_budget", "outside"},
    {CHAT, "{" MSG ",\"thinking_budget_tokens\":\"x\"}", "thinking_budget_tokens", "integer"},
    {CHAT, "{" MSG ",\"n_predict\":0}", "n_predict", "at least 1"},
    {CHAT, "{" MSG ",\"logprobs\":3}", "logprobs", "true or false (got 3)"},
    {CHAT, "{" MSG ",\"top_logprobs\":3}", "top_logprobs", "\"logprobs\": true"},
    {CHAT, "{" MSG ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", "outside [0, 20]"},
    {TEXT, "{\"prompt\":\"x\",\"logprobs\":21}", "logprobs", "outside [0, 20]"},
    {CHAT, "{" MSG ",\"logit_bias\":7}", "logit_bias", "object of token ids"},
    {CHAT, "{" MSG ",\"logit_bias\":{\"x\":1}}", "logit_bias", "keys are token ids"},
    {CHAT, "{" MSG ",\"logit_bias\":{\"-1\":1}}", "logit_bias", "token -1"},
    {CHAT, "{" MSG ",\"logit_bias\":{\"99999999999\":1}}", "logit_bias", "between 0 and"},
    {CHAT, "{" MSG ",\"logit_bias\":{\"5\":101}}", "logit_bias", "between -100 and 100"},
    {CHAT, "{" MSG ",\"logit_bias\":{\"5\":\"x\"}}", "logit_bias", "between -100 and 100"},
    {CHAT, "{" MSG ",\"logit_bias\":[[5]]}", "logit_bias", "pairs"},
    {CHAT, "{" MSG ",\"logit_bias\":[[\"a\",1]]}", "logit_bias", "pairs"},
    {CHAT, "{" MSG ",\"cache_prompt\":1}", "cache_prompt", "boolean"},
    {CHAT, "{" MSG ",\"store\":\"no\"}", "store", "boolean"},
    {CHAT, "{" MSG ",\"best_of\":2}", "best_of", "\"n\" gives several"},
    {TEXT, "{\"prompt\":\"x\",\"echo\":true}", "echo", "not repeated"},
    {TEXT, "{\"prompt\":\"x\",\"suffix\":\"y\"}", "suffix", "middle"},
    {CHAT, "{" MSG ",\"modalities\":[\"text\",\"audio\"]}", "modalities", "text alone"},
    // tools
    {CHAT, "{" MSG ",\"tools\":{}}", "tools", "array"},
    {CHAT, "{" MSG ",\"tools\":[7]}", "tools", "'tools[0]' must be an object"},
    {CHAT, "{" MSG ",\"tools\":[{\"type\":\"web_search\"}]}", "tools", "the one kind served"},
    {CHAT, "{" MSG ",\"tools\":[{\"type\":\"function\"}]}", "tools", "a string 'name'"},
    {CHAT, "{" MSG ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"\"}}]}", "tools",
     "a string 'name'"},
    {CHAT, "{" MSG ",\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":[]}}]}", "tools",
     "JSON schema"},
    {CHAT, "{" MSG ",\"tools\":[{\"function\":{\"name\":\"f\",\"description\":5}}]}", "tools",
     "'tools[0].function.description'"},
    {CHAT, "{" MSG ",\"tools\":[" TOOL "],\"tool_choice\":\"any\"}", "tool_choice",
     "(got \"any\")"},
    {CHAT, "{" MSG ",\"tools\":[" TOOL "],\"tool_choice\":{}}", "tool_choice", "must be"},
    {CHAT,
     "{" MSG ",\"tools\":[" TOOL "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":"
     "\"g\"}}}",
     "tool_choice", "\"g\", which is none of 'tools'"},
    {CHAT, "{" MSG ",\"tool_choice\":\"required\"}", "tool_choice", "no 'tools'"},
    {CHAT, "{" MSG ",\"tools\":[" TOOL "],\"parallel_tool_calls\":1}", "parallel_tool_calls",
     "boolean"},
    {CHAT, "{" MSG ",\"tools\":[" TOOL "],\"grammar\":\"root ::= x\"}", "grammar", "exclude"},
    // forms
    {CHAT, "{" MSG ",\"response_format\":\"json\"}", "response_format", "object"},
    {CHAT, "{" MSG ",\"response_format\":{}}", "response_format.type", "\"json_object\""},
    {CHAT, "{" MSG ",\"response_format\":{\"type\":\"xml\"}}", "response_format.type",
     "(got \"xml\")"},
    {CHAT, "{" MSG ",\"response_format\":{\"type\":\"json_schema\"}}", "response_format",
     "json_schema' must be an object"},
    {CHAT, "{" MSG ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}",
     "response_format", "json_schema.schema'"},
    {CHAT, "{" MSG ",\"json_schema\":[]}", "json_schema", "object"},
    {CHAT, "{" MSG ",\"json_schema\":{},\"response_format\":{\"type\":\"text\"}}", "json_schema",
     "exclude"},
    {CHAT, "{" MSG ",\"json_schema\":{},\"grammar\":\"root ::= x\"}", "grammar", "excludes"},
    {CHAT, "{" MSG ",\"chat_template_kwargs\":true}", "chat_template_kwargs", "object"},
    {CHAT, "{" MSG ",\"reasoning_effort\":3}", "reasoning_effort", "string"},
    // messages
    {CHAT, "{\"messages\":[7]}", "messages", "'messages[0]' must be an object"},
    {CHAT, "{\"messages\":[{\"role\":\"user\"}]}", "messages", "'messages[0].content' is missing"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[7]}]}", "messages", "string 'type'"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages",
     "without a string 'text'"},
    {CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{"
     "\"url\":\"data:image/png;base64,AA==\"}}]}]}",
     "messages", "has an image of 1 bytes that is no PNG"},
    {CHAT,
     "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{"
     "\"url\":\"https://example.org/a.png\"}}]}]}",
     "messages", "fetches nothing from elsewhere"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
     "messages", "without 'image_url.url'"},
    {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]}",
     "messages", "part of type \"input_audio\""},
    {CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":7}]}", "messages",
     "tool_calls' must be an array"},
    {CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}", "messages",
     "'function.name'"},
    {CHAT, "{\"messages\":[{\"role\":\"tool\",\"content\":\"x\",\"tool_call_id\":5}]}", "messages",
     "tool_call_id"},
    {CHAT, "{" MSG ",\"continue_final_message\":true}", "continue_final_message",
     "not the assistant's"},
    {CHAT, "{" MSG ",\"continue_final_message\":5}", "continue_final_message", "true or false"},
    {CHAT,
     "{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\"}],\"continue_final_message\":true,"
     "\"add_generation_prompt\":true}",
     "continue_final_message", "exclude each other"},
    // prompts
    {TEXT, "{\"prompt\":[\"a\",7]}", "prompt", "string or an array"},
    {TEXT, "{\"prompt\":[[],[1]]}", "prompt", "empty"},
    {TEXT, "{\"prompt\":[\"a\",\"b\",\"c\"],\"n\":3}", "n", "3 for 3 prompts"},
    {TEXT, "{\"prompt\":[1,2],\"json_schema\":{}}", "prompt", "send text"},
    // what generates nothing
    {&dialect_embeddings, "{\"input\":\"\"}", "input", "empty string"},
    {&dialect_embeddings, "{\"input\":[]}", "input", "0 token ids"},
    {&dialect_embeddings, "{\"input\":[\"a\",5]}", "input", "a string"},
    {&dialect_embeddings, "{\"input\":[1,-1]}", "input", "token ids"},
    {&dialect_embeddings, "{\"input\":\"x\",\"encoding_format\":\"hex\"}", "encoding_format",
     "\"base64\""},
    {&dialect_embeddings, "{\"input\":\"x\",\"dimensions\":0}", "dimensions", "at least 1"},
    {&dialect_embeddings, "{\"input\":\"x\",\"model\":5}", "model", "string"},
    {&dialect_rerank, "{\"documents\":[\"a\"]}", "query", "not empty"},
    {&dialect_rerank, "{\"query\":\"q\",\"documents\":[]}", "documents", "at least one"},
    {&dialect_rerank, "{\"query\":\"q\",\"documents\":[\"a\",\"\"]}", "documents", "documents[1]"},
    {&dialect_rerank, "{\"query\":\"q\",\"documents\":[\"a\"],\"top_n\":0}", "top_n", "at least 1"},
    {&dialect_tokenize, "{\"content\":5}", "content", "a string"},
    {&dialect_tokenize, "{\"content\":\"x\",\"with_pieces\":5}", "with_pieces", "true or false"},
    {&dialect_detokenize, "{\"tokens\":[1,\"x\"]}", "tokens", "tokens[1]"},
    {&dialect_template, "{\"messages\":5}", "messages", "array"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        const struct refusal *row = &refusals[i];
        struct parse_request r;
        struct parse_fault fault;

        if (parse_request(row->dialect, row->body, strlen(row->body), &r, &fault) == 0)
            fail_msg("taken: %s", row->body);
        if (fault.status != 400 || strcmp(fault.param, row->param) != 0 ||
            !strstr(fault.e.message, row->says))
            fail_msg("%s: %d %s: %s", row->body, fault.status, fault.param, fault.e.message);
        parse_request_fini(&r);
    }
}

// ---- what is taken --------------------------------------------------------------------------------------

// Harmless members that clients send, and unknown ones.
static void test_taken(void **state)
{
    static const char *const bodies[] = {
        "{" MSG ",\"user\":\"u\",\"metadata\":{\"a\":\"b\"},\"service_tier\":\"auto\"}",
        "{" MSG ",\"tools\":[],\"tool_choice\":\"auto\",\"parallel_tool_calls\":null}",
        "{" MSG ",\"tools\":[" TOOL "],\"tool_choice\":\"required\"}",
        "{" MSG ",\"tools\":[" TOOL "],\"tool_choice\":{\"function\":{\"name\":\"f\"}}}",
        "{" MSG ",\"response_format\":{\"type\":\"text\"}}",
        "{" MSG ",\"response_format\":{\"type\":\"json_object\"}}",
        "{" MSG ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\","
        "\"schema\":{\"type\":\"object\"}}}}",
        "{" MSG ",\"functions\":[],\"modalities\":[\"text\"],\"logprobs\":false,\"n\":null}",
        "{" MSG ",\"top_logprobs\":0,\"reasoning_effort\":\"low\",\"reasoning_format\":\"none\"}",
        "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\","
        "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
        "{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"y\"}]}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct parse_request r = parse_ok(CHAT, bodies[i]);

        assert_int_equal(r.kind, PARSE_CHAT);
        assert_ptr_equal(r.dialect, CHAT);
        parse_request_fini(&r);
    }
}

static void test_sampling(void **state)
{
    struct parse_request r = parse_ok(
        CHAT, "{" MSG ",\"typical_p\":0.5,\"repeat_last_n\":-1,\"reasoning_budget\":7,\"n\":3,"
              "\"n_predict\":5,\"logprobs\":true,\"top_logprobs\":4,\"cache_prompt\":false,"
              "\"store\":false,\"logit_bias\":{\"5\":-100,\"6\":2.5}}");
    const struct engine_sampling *s = &r.generate.sampling;

    (void)state;
    assert_true(s->typical_p == 0.5f);
    assert_int_equal(s->repeat_last_n, -1);
    assert_int_equal(s->reasoning_budget, 7);
    assert_int_equal(r.n, 3);
    assert_int_equal(r.max_tokens, 5);
    assert_int_equal(r.generate.logprobs, 4);
    assert_false(r.generate.reuse);
    assert_false(r.generate.keep);
    assert_int_equal(s->n_biases, 2);
    for (size_t i = 0; i < 2; i++)
        assert_true(s->biases[i].token == 5 ? isinf(s->biases[i].bias) : s->biases[i].bias == 2.5f);
    parse_request_fini(&r);
    r = parse_ok(TEXT, "{\"prompt\":\"x\",\"logprobs\":2,\"logit_bias\":[[7,false],[8,1]]}");
    assert_int_equal(r.generate.logprobs, 2);
    assert_int_equal(r.generate.sampling.n_biases, 2);
    assert_true(isinf(r.generate.sampling.biases[0].bias));
    assert_true(r.generate.sampling.biases[1].bias == 1);
    parse_request_fini(&r);
}

static const char *text_of(const json_t *render)
{
    const json_t *m =
        json_array_get(json_object_get(json_object_get(render, "chat"), "messages"), 0);

    return json_string_value(json_object_get(m, "content"));
}

static void test_parts(void **state)
{
    struct parse_request r =
        parse_ok(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
                       "\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]}");

    (void)state;
    assert_string_equal(text_of(r.render), "a\nb");
    parse_request_fini(&r);
    r = parse_ok(CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[]}]}");
    assert_string_equal(text_of(r.render), "");
    parse_request_fini(&r);
}

// A member that is null is one that was left out; what may be left out of tools and calls is put in.
static void test_nulls(void **state)
{
    static const struct {
        const char *body, *member, *becomes;
    } rows[] = {
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":null,\"tool_calls\":null}]}",
         "messages", "[{\"role\":\"user\",\"content\":\"x\"}]"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":null,"
         "\"tool_calls\":[{\"id\":null,\"type\":null,\"function\":{\"name\":\"f\","
         "\"arguments\":null,\"x\":null}}]},"
         "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"y\"}],\"name\":null}]}",
         "messages",
         "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"type\":\"function\","
         "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
         "{\"role\":\"user\",\"content\":\"y\"}]"},
        {"{" MSG ",\"tools\":[{\"type\":null,\"function\":{\"name\":\"f\",\"description\":null,"
         "\"strict\":null,\"parameters\":null}}]}",
         "tools", "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"},
        // A schema's own nulls say something.
        {"{" MSG ",\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{\"default\":null}}}]}",
         "tools",
         "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"default\":null}}}"
         "]"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct parse_request r = parse_ok(CHAT, rows[i].body);
        const json_t *chat = json_object_get(r.render, "chat");
        json_t *becomes = json_loads(rows[i].becomes, 0, NULL);

        if (!json_equal(json_object_get(chat, rows[i].member), becomes)) {
            char *text = json_text(json_object_get(chat, rows[i].member));

            fail_msg("%s: %s", rows[i].body, text);
        }
        json_decref(becomes);
        parse_request_fini(&r);
    }
}

static void test_continuation(void **state)
{
    static const struct {
        const char *messages, *more;
        int continues, generation; // -1: absent
    } rows[] = {
        {"{\"role\":\"user\",\"content\":\"x\"}", "", -1, -1},
        {"{\"role\":\"assistant\",\"content\":\"x\"}", "", 1, 0},
        {"{\"role\":\"assistant\",\"content\":\"x\"}", ",\"continue_final_message\":true", 1, 0},
        {"{\"role\":\"assistant\",\"content\":\"x\"}", ",\"continue_final_message\":false", 0, -1},
        {"{\"role\":\"assistant\",\"content\":\"x\"}", ",\"add_generation_prompt\":true", -1, 1},
        {"{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}", "", -1, -1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *body = mem_format("{\"messages\":[%s]%s}", rows[i].messages, rows[i].more);
        struct parse_request r = parse_ok(CHAT, body);
        const json_t *chat = json_object_get(r.render, "chat");
        const json_t *c = json_object_get(chat, "continue_final_message");
        const json_t *g = json_object_get(chat, "add_generation_prompt");

        assert_int_equal(c ? json_is_true(c) : -1, rows[i].continues);
        assert_int_equal(g ? json_is_true(g) : -1, rows[i].generation);
        parse_request_fini(&r);
        free(body);
    }
}

// A text with a form goes through the renderer that makes its grammar.
static void test_prompts(void **state)
{
    static const struct {
        const char *body, *first;
        size_t more;
    } rows[] = {
        {"{\"prompt\":[\"a\",\"b\",\"c\"]}", "{\"prompt\":\"a\"}", 2},
        {"{\"prompt\":[[1,2],[3]]}", "{\"tokens\":[1,2]}", 1},
        {"{\"prompt\":\"a\",\"json_schema\":{\"type\":\"null\"}}",
         "{\"chat\":{\"json_schema\":{\"type\":\"null\"},\"prompt\":\"a\"}}", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct parse_request r = parse_ok(TEXT, rows[i].body);
        char *text = json_text(r.render);

        assert_string_equal(text, rows[i].first);
        assert_int_equal(json_array_size(r.more), rows[i].more);
        free(text);
        parse_request_fini(&r);
    }
}

// One RENDER head for each input, as text or token ids.
static void test_inputs(void **state)
{
    static const struct {
        const struct dialect *dialect;
        const char *body, *first;
        size_t more;
    } rows[] = {
        {&dialect_embeddings, "{\"input\":\"a\"}",
         "{\"text\":\"a\",\"special\":false,\"bos\":true}", 0},
        {&dialect_embeddings, "{\"input\":[1,2]}", "{\"tokens\":[1,2]}", 0},
        {&dialect_embeddings, "{\"input\":[[1],\"a\"]}", "{\"tokens\":[1]}", 1},
        {&dialect_rerank, "{\"query\":\"q\",\"documents\":[\"a\",{\"text\":\"b\"}]}",
         "{\"text\":\"q\",\"special\":false,\"bos\":true}", 2},
        {&dialect_tokenize, "{\"content\":\"\",\"with_pieces\":true,\"add_special\":true}",
         "{\"text\":\"\",\"special\":true,\"bos\":true,\"want_pieces\":true}", 0},
        {&dialect_detokenize, "{\"tokens\":[]}", "{\"detokenize\":[]}", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct parse_request r = parse_ok(rows[i].dialect, rows[i].body);
        char *text = json_text(r.render);

        assert_string_equal(text, rows[i].first);
        assert_int_equal(json_array_size(r.more), rows[i].more);
        free(text);
        parse_request_fini(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_taken),
        cmocka_unit_test(test_sampling), cmocka_unit_test(test_parts),
        cmocka_unit_test(test_nulls),    cmocka_unit_test(test_continuation),
        cmocka_unit_test(test_prompts),  cmocka_unit_test(test_inputs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
