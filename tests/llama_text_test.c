// Text, chat templates, grammars and sampling with a real model.
#include "llama_rig.h"

#include "base/json.h"

#include <stdio.h>

static struct engine *g;

static int open_model(void **state)
{
    (void)state;
    g = rig_open(ENGINE_HANDOFF_NONE);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    g->ops->free(g);
    return 0;
}

// ---- tokens ----------------------------------------------------------------------------------------

static size_t tokenize(const char *text, bool special, int32_t **tokens)
{
    size_t n = 0;
    struct err e = {0};
    assert_int_equal(g->ops->tokenize(g, text, strlen(text), special, false, tokens, &n, &e), 0);
    return n;
}

static void text_round_trips(void **state)
{
    static const char *const texts[] = {"",
                                        "a",
                                        "Hello, world!\n",
                                        "  two  spaces",
                                        "grüße, 世界 🦙",
                                        "<|im_start|>user",
                                        "\x80\xff broken"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        int32_t *tokens = NULL;
        char text[256] = "", piece[256];
        size_t at = 0, n = tokenize(texts[i], false, &tokens);
        for (size_t k = 0; k < n; k++) {
            size_t len = g->ops->piece(g, tokens[k], piece, sizeof piece);
            memcpy(text + at, piece, len);
            at += len;
        }
        if (strchr(texts[i], '\x80') == NULL) // broken UTF-8 becomes replacement characters
            assert_string_equal(text, texts[i]);
        free(tokens);
    }
}

static void special_tokens(void **state)
{
    int32_t *as_special = NULL, *as_text = NULL;
    char piece[256];
    (void)state;
    assert_int_equal(tokenize("<|im_end|>", true, &as_special), 1);
    assert_true(tokenize("<|im_end|>", false, &as_text) > 1);
    assert_int_equal(g->ops->piece(g, as_special[0], piece, sizeof piece), 0);
    assert_true(g->ops->is_end(g, as_special[0]));
    assert_false(g->ops->is_end(g, as_text[0]));
    assert_false(g->ops->is_end(g, -1));
    assert_false(g->ops->is_end(g, INT32_MAX));
    assert_int_equal(g->ops->piece(g, INT32_MAX, piece, sizeof piece), 0);
    free(as_special);
    free(as_text);
}

// ---- rendering -------------------------------------------------------------------------------------

static int render(const char *request, json_t **rendered, struct err *e)
{
    json_t *o = json_parse(request, strlen(request), e);
    assert_non_null(o);
    *rendered = NULL;
    int rc = g->ops->render(g, o, rendered, e);
    json_decref(o);
    return rc;
}

static void a_chat_is_rendered(void **state)
{
    json_t *r;
    struct err e = {0};
    (void)state;
    assert_int_equal(render("{\"messages\":[{\"role\":\"system\",\"content\":\"Be brief.\"},"
                            "{\"role\":\"user\",\"content\":\"Hi\"}]}",
                            &r, &e),
                     0);
    assert_string_equal(json_string_value(json_object_get(r, "prompt")),
                        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                        "<|im_start|>assistant\n");
    assert_true(json_is_array(json_object_get(r, "stop")));
    assert_true(json_is_null(json_object_get(r, "syntax")));
    json_decref(r);
}

static void content_parts_are_joined(void **state)
{
    json_t *r;
    struct err e = {0};
    (void)state;
    assert_int_equal(
        render(
            "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"},"
            "{\"type\":\"text\",\"text\":\"two\"}]}]}",
            &r, &e),
        0);
    const char *prompt = json_string_value(json_object_get(r, "prompt"));
    assert_non_null(strstr(prompt, "one"));
    assert_non_null(strstr(prompt, "two"));
    json_decref(r);
}

static void bad_requests_are_refused(void **state)
{
    static const char *const bad[] = {
        "{}",
        "{\"messages\":[]}",
        "{\"messages\":\"hi\"}",
        "{\"messages\":[1]}",
        "{\"messages\":[{\"content\":\"no role\"}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":7}]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":7}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"response_format\":{\"type\":"
        "\"xml\"}}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"response_format\":{}}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"response_format\":"
        "{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"$ref\":\"http://example.com/"
        "x\"}}}}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *r;
        struct err e = {0};
        int rc = render(bad[i], &r, &e);
        if (rc != ERR_INVALID || e.message[0] == 0)
            fail_msg("accepted: %s (%d)", bad[i], rc);
    }
}

// ---- sampling --------------------------------------------------------------------------------------

static struct engine_sampler *sampler(const struct engine_sampling *s)
{
    struct engine_sampler *out = NULL;
    struct err e = {0};
    if (g->ops->sampler_new(g, s, &out, &e) != 0)
        fail_msg("%s", e.message);
    return out;
}

// Generates up to n tokens after a prompt; returns how many before the end.
static size_t generate(struct engine_sampler *s, const char *prompt, int32_t *out, size_t n)
{
    int32_t *tokens = NULL;
    size_t n_tokens = tokenize(prompt, true, &tokens), made = 0;
    struct err e = {0};
    struct engine_row rows[64];
    assert_true(n_tokens <= 64);
    assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, &e), 0);
    for (size_t i = 0; i < n_tokens; i++)
        rows[i] = (struct engine_row){tokens[i], (uint32_t)i, 0, i + 1 == n_tokens};
    assert_int_equal(g->ops->step(g, rows, n_tokens, &e), 0);
    for (size_t row = n_tokens - 1; made < n; row = 0) {
        out[made] = g->ops->sample(g, s, row);
        assert_true(out[made] >= 0);
        if (g->ops->is_end(g, out[made]))
            break;
        rows[0] = (struct engine_row){out[made], (uint32_t)(n_tokens + made), 0, true};
        made++;
        assert_int_equal(g->ops->step(g, rows, 1, &e), 0);
    }
    free(tokens);
    g->ops->sampler_free(g, s);
    return made;
}

static void text_of(const int32_t *tokens, size_t n, char *out, size_t cap)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        char piece[256];
        size_t len = g->ops->piece(g, tokens[i], piece, sizeof piece);
        assert_true(at + len < cap);
        memcpy(out + at, piece, len);
        at += len;
    }
    out[at] = 0;
}

static void greedy_takes_the_largest(void **state)
{
    struct engine_sampling s;
    (void)state;
    engine_sampling_default(&s);
    s.temperature = 0;
    rig_compute(g, 0, 0, 8);
    float *logits = rig_logits(g, 0, 8);
    int32_t best = 0;
    for (uint32_t i = 0; i < g->identity.n_vocab; i++)
        if (logits[i] > logits[best])
            best = (int32_t)i;
    struct engine_sampler *greedy = sampler(&s);
    assert_int_equal(g->ops->sample(g, greedy, 0), best);
    g->ops->sampler_free(g, greedy);
    s.top_k = 1;
    s.temperature = 1;
    greedy = sampler(&s);
    assert_int_equal(g->ops->sample(g, greedy, 0), best);
    assert_int_equal(g->ops->sample(g, greedy, 3), -1);
    g->ops->sampler_free(g, greedy);
    free(logits);
}

static void a_seed_repeats(void **state)
{
    struct engine_sampling s;
    int32_t one[24], again[24], other[24];
    (void)state;
    engine_sampling_default(&s);
    s.temperature = 1.5f;
    s.top_p = 1;
    s.top_k = 0;
    s.min_p = 0;
    s.seed = 7;
    size_t a = generate(sampler(&s), "The", one, 24);
    assert_int_equal(a, generate(sampler(&s), "The", again, 24));
    assert_memory_equal(one, again, a * sizeof *one);
    s.seed = UINT32_MAX; // the value that llama.cpp takes for "random"
    a = generate(sampler(&s), "The", other, 24);
    assert_int_equal(a, generate(sampler(&s), "The", again, 24));
    assert_memory_equal(other, again, a * sizeof *other);
    assert_memory_not_equal(one, other, 8 * sizeof *one);
}

static void penalties_change_the_choice(void **state)
{
    struct engine_sampling s;
    int32_t plain[32], penalised[32];
    (void)state;
    engine_sampling_default(&s);
    s.temperature = 0;
    size_t n = generate(sampler(&s), "a a a a a a a a", plain, 32);
    s.repeat_penalty = 1.8f;
    s.presence_penalty = 2;
    size_t m = generate(sampler(&s), "a a a a a a a a", penalised, 32);
    assert_true(n > 4 && (m != n || memcmp(plain, penalised, n * sizeof *plain) != 0));
}

static json_t *grammar(const char *text)
{
    return json_pack("{s:s}", "grammar", text);
}

static void a_grammar_binds(void **state)
{
    struct engine_sampling s;
    int32_t tokens[32];
    char text[512];
    (void)state;
    engine_sampling_default(&s);
    s.temperature = 1;
    s.seed = 3;
    s.syntax = grammar("root ::= \"yes\" | \"no\"");
    text_of(tokens, generate(sampler(&s), "Tell me a story.", tokens, 32), text, sizeof text);
    json_decref((json_t *)(uintptr_t)s.syntax);
    assert_true(strcmp(text, "yes") == 0 || strcmp(text, "no") == 0);
    s.temperature = 0;
    s.syntax = grammar("root ::= [0-9] [0-9] \"-\" [0-9]");
    text_of(tokens, generate(sampler(&s), "Once upon a time", tokens, 32), text, sizeof text);
    assert_int_equal(strlen(text), 4);
    assert_int_equal(text[2], '-');
    json_decref((json_t *)(uintptr_t)s.syntax);
}

static void a_schema_becomes_a_grammar(void **state)
{
    json_t *r;
    struct err e = {0};
    struct engine_sampling s;
    int32_t tokens[64];
    char text[1024];
    (void)state;
    assert_int_equal(
        render("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"response_format\":{"
               "\"type\":\"json_schema\","
               "\"json_schema\":{\"name\":\"n\",\"schema\":{\"type\":\"object\",\"properties\":{"
               "\"ok\":"
               "{\"type\":\"boolean\"}},\"required\":[\"ok\"],\"additionalProperties\":false}}}}",
               &r, &e),
        0);
    engine_sampling_default(&s);
    s.temperature = 0;
    s.syntax = json_object_get(r, "syntax");
    assert_non_null(json_object_get(s.syntax, "grammar"));
    text_of(tokens, generate(sampler(&s), "<|im_start|>assistant\n", tokens, 64), text,
            sizeof text);
    json_t *answer = json_parse(text, strlen(text), &e);
    if (!answer)
        fail_msg("not JSON: %s", text);
    assert_true(json_is_boolean(json_object_get(answer, "ok")));
    json_decref(answer);
    json_decref(r);
}

// One that would take the library half a minute.
static void a_heavy_schema_is_refused(void **state)
{
    struct err e = {0};
    json_t *r = NULL, *properties = json_object();
    char *text;

    (void)state;
    for (int i = 0; i < 1000; i++) {
        char name[16];

        snprintf(name, sizeof name, "p%d", i);
        json_object_set_new(properties, name, json_object());
    }
    json_t *request = json_pack("{s:s,s:{s:s,s:o}}", "prompt", "x", "json_schema", "type", "object",
                                "properties", properties);
    text = json_text(request);
    assert_int_equal(render(text, &r, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "1000 in one object"));
    free(text);
    json_decref(request);
}

static void bad_sampling_is_refused(void **state)
{
    static const char *const grammars[] = {"root ::= )", "root ::= (", "not a grammar",
                                           "other ::= \"x\"", "root ::= root \"x\""};
    struct engine_sampling s;
    struct engine_sampler *out = NULL;
    struct err e = {0};
    (void)state;
    for (size_t i = 0; i < sizeof grammars / sizeof *grammars; i++) {
        engine_sampling_default(&s);
        s.syntax = grammar(grammars[i]);
        int rc = g->ops->sampler_new(g, &s, &out, &e);
        if (rc != ERR_INVALID)
            fail_msg("accepted: %s", grammars[i]);
        json_decref((json_t *)(uintptr_t)s.syntax);
    }
    engine_sampling_default(&s);
    s.repeat_penalty = 0;
    assert_int_equal(g->ops->sampler_new(g, &s, &out, &e), ERR_INVALID);
    engine_sampling_default(&s);
    s.temperature = 0.0f / (s.frequency_penalty + 0.0f);
    assert_int_equal(g->ops->sampler_new(g, &s, &out, &e), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_round_trips),
        cmocka_unit_test(special_tokens),
        cmocka_unit_test(a_chat_is_rendered),
        cmocka_unit_test(content_parts_are_joined),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(greedy_takes_the_largest),
        cmocka_unit_test(a_seed_repeats),
        cmocka_unit_test(penalties_change_the_choice),
        cmocka_unit_test(a_grammar_binds),
        cmocka_unit_test(a_schema_becomes_a_grammar),
        cmocka_unit_test(a_heavy_schema_is_refused),
        cmocka_unit_test(bad_sampling_is_refused),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
