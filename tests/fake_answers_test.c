// What the fake engine does beyond computing: scripts, parsing, forks, checkpoints, embeddings, biases,
// and the log probabilities that all engines share.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "engine/fake.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define VOCAB 258

static char script_path[64];

static int script_write(const char *text)
{
    snprintf(script_path, sizeof script_path, "/tmp/fake_script_XXXXXX");
    int fd = mkstemp(script_path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    return close(fd);
}

static int open_rc(const char *model, struct engine **out, struct err *e)
{
    struct engine_options o;
    engine_options_default(&o);
    o.model = model;
    o.n_ctx = 256;
    o.handoff = ENGINE_HANDOFF_RANGES;
    return engine_fake_open(&o, out, e);
}

static struct engine *open_fake(const char *model)
{
    struct engine *g = NULL;
    struct err e = {0};
    assert_int_equal(open_rc(model, &g, &e), 0);
    return g;
}

static struct engine *open_script(const char *text)
{
    char model[128];
    script_write(text);
    snprintf(model, sizeof model, "fake:script=%s", script_path);
    struct engine *g = open_fake(model);
    unlink(script_path);
    return g;
}

static json_t *render(struct engine *g, const char *request)
{
    json_t *r = NULL, *q = json_loads(request, 0, NULL);
    struct err e = {0};
    assert_non_null(q);
    if (g->ops->render(g, q, &r, &e) != 0)
        fail_msg("%s: %s", request, e.message);
    json_decref(q);
    return r;
}

static void run(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, float out[VOCAB])
{
    struct engine_row rows[128];
    struct err e = {0};
    for (uint32_t p = p0; p < p1; p++)
        rows[p - p0] = (struct engine_row){(int32_t)((p * 37 + 11) % 256), p, seq, p == p1 - 1};
    assert_int_equal(g->ops->step(g, rows, p1 - p0, &e), 0);
    if (out)
        memcpy(out, g->ops->logits(g, p1 - p0 - 1), VOCAB * sizeof *out);
}

// ---- scripts ------------------------------------------------------------------------------------

// Draws with the sampler until the end; the text's token bytes.
static void say(struct engine *g, const json_t *syntax, int32_t budget, char *out, size_t cap)
{
    struct engine_sampling s;
    struct engine_sampler *sampler = NULL;
    struct err e = {0};
    size_t n = 0;
    engine_sampling_default(&s);
    s.syntax = syntax;
    s.reasoning_budget = budget;
    assert_int_equal(g->ops->sampler_new(g, &s, &sampler, &e), 0);
    run(g, 0, 0, 4, NULL);
    for (int32_t t; n + 1 < cap && (t = g->ops->sample(g, sampler, 3)) != FAKE_TOKEN_END;)
        out[n++] = (char)t;
    out[n] = '\0';
    g->ops->sampler_free(g, sampler);
    assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, &e), 0);
}

static const char rules[] = "[{\"last_role\":\"tool\",\"contains\":\"hello\",\"answer\":\"done\"},"
                            "{\"tool\":\"shell\",\"last_role\":\"user\",\"answer\":\"<tool>\"},"
                            "{\"tool\":\"read\",\"answer\":\"read it\"},"
                            "{\"contains\":\"think\",\"answer\":\"<think>0123456789</think>ok\"}]";

#define TOOL(n) "{\"type\":\"function\",\"function\":{\"name\":\"" n "\"}}"
#define USER(t) "\"messages\":[{\"role\":\"user\",\"content\":\"" t "\"}]"

static void the_first_rule_that_fits_decides(void **state)
{
    static const struct {
        const char *request, *answer; // NULL: no rule
    } rows[] = {
        {"{" USER("hi") "}", NULL},
        {"{" USER("hi") ",\"tools\":[" TOOL("other") "]}", NULL},
        {"{" USER("hi") ",\"tools\":[" TOOL("other") "," TOOL("shell") "]}", "<tool>"},
        {"{" USER("hi") ",\"tool_choice\":\"none\",\"tools\":[" TOOL("shell") "]}", NULL},
        {"{" USER("hi") ",\"tool_choice\":" TOOL("read") ",\"tools\":[" TOOL("shell") "," TOOL(
             "read") "]}",
         "read it"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"tool\",\"content\":"
         "[{\"type\":\"text\",\"text\":\"hello you\"}]}],\"tools\":[" TOOL("shell") "]}",
         "done"},
        {"{\"messages\":[{\"role\":\"tool\",\"content\":\"bye\"}],\"tools\":[" TOOL("shell") "]}",
         NULL},
        {"{" USER("do think") "}", "<think>0123456789</think>ok"},
        {"{\"prompt\":\"do think\"}", "<think>0123456789</think>ok"},
        {"{\"prompt\":\"do\"}", NULL},
    };
    struct engine *g = open_script(rules);
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[64];
        json_t *r = render(g, rows[i].request);
        const json_t *syntax = json_object_get(r, "syntax");
        if (rows[i].answer == NULL) {
            assert_true(json_is_null(syntax));
        } else {
            say(g, syntax, -1, text, sizeof text);
            assert_string_equal(text, rows[i].answer);
        }
        json_decref(r);
    }
    g->ops->free(g);
}

static void a_reasoning_budget_cuts_the_reasoning(void **state)
{
    struct engine *g = open_script(rules);
    json_t *r = render(g, "{" USER("think") "}");
    char text[64];
    (void)state;
    say(g, json_object_get(r, "syntax"), 3, text, sizeof text);
    assert_string_equal(text, "<think>012</think>ok");
    say(g, json_object_get(r, "syntax"), 0, text, sizeof text);
    assert_string_equal(text, "<think></think>ok");
    say(g, json_object_get(r, "syntax"), 100, text, sizeof text);
    assert_string_equal(text, "<think>0123456789</think>ok");
    json_decref(r);
    g->ops->free(g);
}

static void bad_scripts_are_refused(void **state)
{
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"[", "line"},
        {"{}", "list of rules"},
        {"[1]", "rule 0"},
        {"[{\"answer\":\"a\"},{\"tool\":\"a\"}]", "rule 1"},
        {"[{\"answer\":7}]", "answer"},
        {"[{\"answer\":\"a\",\"tols\":\"b\"}]", "tols"},
    };
    char model[128];
    struct engine *g;
    struct err e = {0};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        script_write(rows[i].text);
        snprintf(model, sizeof model, "fake:script=%s", script_path);
        assert_int_equal(open_rc(model, &g, &e), ERR_INVALID);
        assert_non_null(strstr(e.message, rows[i].says));
        unlink(script_path);
    }
    assert_int_equal(open_rc(model, &g, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, script_path));
}

static void prompts_and_continuations_are_rendered(void **state)
{
    static const struct {
        const char *request, *prompt;
    } rows[] = {
        {"{\"prompt\":\"once\"}", "once"},
        {"{\"prompt\":\"\"}", ""},
        {"{" USER("a") "}", "user: a\nassistant: "},
        {"{" USER("a") ",\"add_generation_prompt\":false}", "user: a\n"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
         "\"So\"}],\"continue_final_message\":true}",
         "user: a\nassistant: So"},
    };
    struct engine *g = open_fake("fake");
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *r = render(g, rows[i].request);
        assert_string_equal(json_string_value(json_object_get(r, "prompt")), rows[i].prompt);
        json_decref(r);
    }
    json_t *q = json_loads("{" USER("a") ",\"grammar\":\"root ::= \\\"a\\\"\"}", 0, NULL), *r;
    struct err e = {0};
    assert_int_equal(g->ops->render(g, q, &r, &e), ERR_INVALID);
    json_decref(q);
    g->ops->free(g);
}

// ---- parsing ------------------------------------------------------------------------------------

// Joins what the deltas say: "R:reasoning|C:content|name(arguments)". Checks ids on the way.
static void deltas_join(const json_t *deltas, struct buf *out, char *last)
{
    size_t i;
    const json_t *d;
    json_array_foreach(deltas, i, d)
    {
        const char *reasoning = json_string_value(json_object_get(d, "reasoning"));
        const char *content = json_string_value(json_object_get(d, "content"));
        const char *name = json_string_value(json_object_get(d, "name"));
        char kind = reasoning ? 'R' : content ? 'C' : 'T';
        if (kind != *last || name)
            buf_printf(out, "|%c:", kind);
        if (name) {
            assert_non_null(json_string_value(json_object_get(d, "id")));
            buf_puts(out, name);
        }
        buf_puts(out, reasoning ? reasoning : content ? content : "");
        if (kind == 'T')
            buf_puts(out, json_string_value(json_object_get(d, "arguments")));
        *last = kind;
    }
}

#define CALL(n, a) "<tool>{\"name\":\"" n "\",\"arguments\":" a "}</tool>"

static const struct {
    const char *text, *means;
} answers[] = {
    {"", ""},
    {"plain", "|C:plain"},
    {"a < b <thin </think> <", "|C:a < b <thin </think> <"},
    {"<think>why</think>so", "|R:why|C:so"},
    {"<think>why", "|R:why"},
    {"<think>a<b</thi", "|R:a<b</thi"},
    {"hm " CALL("f", "{\"x\":{\"y\":\"}\\\"{\"}}"), "|C:hm |T:f{\"x\":{\"y\":\"}\\\"{\"}}"},
    {CALL("f", "{}") CALL("g", "{\"a\":1}") "end", "|T:f{}|T:g{\"a\":1}|C:end"},
    {"<tool>{ \"name\" : \"f\", \"arguments\" : {\"a\":1} } </tool>", "|T:f{\"a\":1}"},
    {"<tool>{\"name\":\"f\",\"arguments\":{\"a\":", "|T:f{\"a\":"},
    {"<tool>{\"name\":\"f\",\"arg", "|C:<tool>{\"name\":\"f\",\"arg"},
    {"<tool>no call</tool>so", "|C:<tool>no call</tool>so"},
    {CALL("f", "7") "x", "|C:" CALL("f", "7") "x"},
    {"<tool>", "|C:<tool>"},
    {"gr\xc3\xbc\xc3\x9f <think>\xe2\x82\xac</think>", "|C:gr\xc3\xbc\xc3\x9f |R:\xe2\x82\xac"},
};

static struct engine_parser *parser(struct engine *g, const char *options)
{
    char text[128];
    struct engine_parser *p = NULL;
    struct err e = {0};
    snprintf(text, sizeof text, "{\"answer\":\"\"%s}", options);
    json_t *syntax = json_loads(text, 0, NULL);
    assert_int_equal(g->ops->parser_new(g, syntax, &p, &e), 0);
    json_decref(syntax);
    return p;
}

static size_t char_bytes(const char *text)
{
    size_t n = 1;
    while (((unsigned char)text[n] & 0xc0) == 0x80)
        n++;
    return n;
}

static void put(struct engine *g, struct engine_parser *p, const char *text, size_t n, bool final,
                struct buf *out, char *last)
{
    json_t *deltas = g->ops->parser_put(g, p, text, n, final);
    assert_true(json_is_array(deltas));
    deltas_join(deltas, out, last);
    json_decref(deltas);
}

static void means(struct engine *g, const char *text, const char *want, bool in_pieces)
{
    struct engine_parser *p = parser(g, ",\"reasoning\":true,\"tools\":true");
    struct buf out;
    char last = 0;
    buf_init(&out, 4096);
    for (const char *at = text; in_pieces && *at; at += char_bytes(at))
        put(g, p, at, char_bytes(at), false, &out, &last);
    put(g, p, in_pieces ? "" : text, in_pieces ? 0 : strlen(text), true, &out, &last);
    assert_string_equal(out.data ? (char *)out.data : "", want);
    buf_fini(&out);
    g->ops->parser_free(g, p);
}

static void answers_mean_the_same_whole_and_in_pieces(void **state)
{
    struct engine *g = open_fake("fake");
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        means(g, answers[i].text, answers[i].means, false);
        means(g, answers[i].text, answers[i].means, true);
    }
    g->ops->free(g);
}

static void arguments_stream(void **state)
{
    struct engine *g = open_fake("fake");
    struct engine_parser *p = parser(g, ",\"tools\":true");
    const char *head = "<tool>{\"name\":\"f\",\"arguments\":{\"a\"";
    (void)state;
    json_t *d = g->ops->parser_put(g, p, head, strlen(head), false);
    assert_int_equal(json_array_size(d), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(d, 0), "name")), "f");
    assert_null(json_object_get(json_array_get(d, 1), "name"));
    json_decref(d);
    d = g->ops->parser_put(g, p, ":1", 2, false);
    assert_int_equal(json_array_size(d), 1);
    json_decref(d);
    g->ops->parser_free(g, p);
    g->ops->free(g);
}

static void marks_count_only_where_asked(void **state)
{
    struct engine *g = open_fake("fake");
    struct engine_parser *p = parser(g, "");
    struct buf out;
    char last = 0;
    const char *text = "<think>a</think>" CALL("f", "{}");
    (void)state;
    buf_init(&out, 4096);
    put(g, p, text, strlen(text), true, &out, &last);
    assert_int_equal(strncmp((char *)out.data, "|C:<think>", 10), 0);
    g->ops->parser_free(g, p);
    buf_fini(&out);

    struct err e = {0};
    json_t *foreign = json_loads("{\"parser\":{}}", 0, NULL);
    assert_int_equal(g->ops->parser_new(g, foreign, &p, &e), ERR_INVALID);
    json_decref(foreign);
    assert_int_equal(g->ops->parser_new(g, NULL, &p, &e), 0);
    g->ops->parser_free(g, p);
    g->ops->free(g);
}

// ---- forks and checkpoints ----------------------------------------------------------------------

static void a_fork_goes_on_as_its_source(void **state)
{
    float want[VOCAB], got[VOCAB];
    struct engine *g = open_fake("fake");
    struct err e = {0};
    (void)state;
    run(g, 0, 0, 60, want);
    assert_int_equal(g->ops->fork(g, 0, 1, 40, &e), 0);
    run(g, 1, 40, 60, got);
    assert_memory_equal(got, want, sizeof want);
    run(g, 0, 60, 61, NULL); // the source is unchanged
    assert_int_equal(g->ops->fork(g, 0, 1, 10, &e), ERR_INVALID);
    assert_int_equal(g->ops->fork(g, 0, 2, 62, &e), ERR_INVALID);
    assert_int_equal(g->ops->fork(g, 0, 9, 10, &e), ERR_INVALID);
    assert_int_equal(g->ops->fork(g, 2, 3, 0, &e), 0);
    run(g, 2, 0, 100, NULL);
    assert_int_equal(g->ops->fork(g, 0, 3, 60, &e), ERR_BUSY);
    g->ops->free(g);
}

static void a_recurrent_fork_is_whole_or_nothing(void **state)
{
    float want[VOCAB], got[VOCAB];
    struct engine *g = open_fake("fake:state=1");
    struct err e = {0};
    (void)state;
    assert_false(g->limits.cuts);
    run(g, 0, 0, 40, NULL);
    assert_int_equal(g->ops->fork(g, 0, 1, 30, &e), ERR_UNSUPPORTED);
    assert_int_equal(g->ops->fork(g, 0, 1, 40, &e), 0);
    run(g, 0, 40, 60, want);
    run(g, 1, 40, 60, got);
    assert_memory_equal(got, want, sizeof want);
    g->ops->free(g);
}

static void a_checkpoint_leads_back(void **state)
{
    float want[VOCAB], got[VOCAB];
    uint8_t saved[1024];
    size_t len = 0;
    struct engine *g = open_fake("fake:state=1");
    struct err e = {0};
    (void)state;
    run(g, 0, 0, 30, NULL);
    size_t bytes = g->ops->checkpoint_bytes(g, 0);
    assert_true(bytes > 0 && bytes <= sizeof saved);
    assert_int_equal(g->ops->checkpoint_save(g, 0, saved, bytes - 1, &len, &e), ERR_RANGE);
    assert_int_equal(g->ops->checkpoint_save(g, 0, saved, bytes, &len, &e), 0);
    run(g, 0, 30, 60, want);
    run(g, 0, 60, 80, NULL);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 31, saved, len, &e), ERR_INVALID);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 30, saved, len, &e), 0);
    run(g, 0, 30, 60, got);
    assert_memory_equal(got, want, sizeof want);
    g->ops->free(g);
}

static void what_can_be_cut_needs_no_checkpoint(void **state)
{
    float want[VOCAB], got[VOCAB];
    size_t len = 7;
    struct engine *g = open_fake("fake");
    struct err e = {0};
    (void)state;
    assert_true(g->limits.cuts);
    run(g, 0, 0, 60, want);
    assert_int_equal(g->ops->checkpoint_bytes(g, 0), 0);
    assert_int_equal(g->ops->checkpoint_save(g, 0, NULL, 0, &len, &e), 0);
    assert_int_equal(len, 0);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 30, NULL, 0, &e), 0);
    run(g, 0, 30, 60, got);
    assert_memory_equal(got, want, sizeof want);
    g->ops->free(g);
}

// ---- embeddings ---------------------------------------------------------------------------------

static double cosine(struct engine *g, const char *a, const char *b)
{
    const char *texts[2] = {a, b};
    float v[2][64];
    double dot = 0;
    for (int i = 0; i < 2; i++) {
        int32_t *tokens;
        size_t n;
        struct err e = {0};
        g->ops->tokenize(g, texts[i], strlen(texts[i]), false, false, &tokens, &n, &e);
        assert_int_equal(g->ops->embed(g, tokens, n, v[i], &e), 0);
        free(tokens);
    }
    for (int i = 0; i < 64; i++)
        dot += (double)v[0][i] * (double)v[1][i];
    return dot;
}

static void embeddings_are_normalised_and_near_where_texts_are(void **state)
{
    struct engine *g = open_fake("fake");
    (void)state;
    assert_int_equal(g->limits.n_embed_tokens, 2048);
    assert_true(fabs(cosine(g, "the cat sat", "the cat sat") - 1) < 1e-5);
    assert_true(cosine(g, "the cat sat", "the cat sits") > cosine(g, "the cat sat", "QXZ 12345"));
    g->ops->free(g);
}

static void embeddings_are_refused_where_they_must(void **state)
{
    float out[64];
    int32_t tokens[9] = {0}, foreign = 300;
    struct err e = {0};
    struct engine *g = open_fake("fake:embed=8");
    (void)state;
    assert_int_equal(g->ops->embed(g, tokens, 8, out, &e), 0);
    assert_int_equal(g->ops->embed(g, tokens, 9, out, &e), ERR_INVALID);
    assert_int_equal(g->ops->embed(g, tokens, 0, out, &e), ERR_INVALID);
    assert_int_equal(g->ops->embed(g, &foreign, 1, out, &e), ERR_INVALID);
    g->ops->interrupt(g, true);
    assert_int_equal(g->ops->embed(g, tokens, 8, out, &e), ERR_CANCELLED);
    g->ops->free(g);
    g = open_fake("fake:embed=0");
    assert_int_equal(g->ops->embed(g, tokens, 1, out, &e), ERR_UNSUPPORTED);
    g->ops->free(g);
    g = open_fake("fake:ranks=1");
    assert_true(g->limits.ranks);
    assert_int_equal(g->ops->embed(g, tokens, 1, out, &e), 0);
    assert_true(out[0] >= 0 && out[0] <= 1);
    g->ops->free(g);
}

// ---- behind a pace ------------------------------------------------------------------------------

static void a_paced_engine_passes_everything_on(void **state)
{
    float want[VOCAB], got[VOCAB], v[64];
    uint8_t saved[1024];
    size_t len = 0;
    int32_t tokens[4] = {'a', 'b', 'c', 'd'};
    struct engine_parser *p = NULL;
    struct err e = {0};
    struct engine *g = engine_paced_new(open_fake("fake:state=1"), 0, 0);
    (void)state;
    assert_false(g->limits.cuts);
    run(g, 0, 0, 30, NULL);
    assert_int_equal(g->ops->fork(g, 0, 1, 30, &e), 0);
    size_t bytes = g->ops->checkpoint_bytes(g, 0);
    assert_int_equal(g->ops->checkpoint_save(g, 0, saved, sizeof saved, &len, &e), 0);
    assert_int_equal(len, bytes);
    run(g, 0, 30, 60, want);
    assert_int_equal(g->ops->checkpoint_restore(g, 0, 30, saved, len, &e), 0);
    run(g, 0, 30, 60, got);
    assert_memory_equal(got, want, sizeof want);
    run(g, 1, 30, 60, got);
    assert_memory_equal(got, want, sizeof want);
    assert_int_equal(g->ops->embed(g, tokens, 4, v, &e), 0);
    assert_int_equal(g->ops->parser_new(g, NULL, &p, &e), 0);
    json_decref(g->ops->parser_put(g, p, "a", 1, true));
    g->ops->parser_free(g, p);
    g->ops->interrupt(g, true);
    assert_int_equal(g->ops->embed(g, tokens, 4, v, &e), ERR_CANCELLED);
    g->ops->free(g);
}

// ---- sampling -----------------------------------------------------------------------------------

static int32_t first_token(struct engine *g, const struct engine_sampling *s)
{
    struct engine_sampler *sampler = NULL;
    struct err e = {0};
    assert_int_equal(g->ops->sampler_new(g, s, &sampler, &e), 0);
    int32_t token = g->ops->sample(g, sampler, 3);
    g->ops->sampler_free(g, sampler);
    return token;
}

static void biases_forbid_and_favour(void **state)
{
    struct engine *g = open_fake("fake");
    struct engine_sampling s;
    struct engine_bias bias = {.bias = -INFINITY};
    struct engine_sampler *sampler;
    struct err e = {0};
    (void)state;
    run(g, 0, 0, 4, NULL);
    engine_sampling_default(&s);
    s.temperature = 0;
    bias.token = first_token(g, &s);
    s.biases = &bias;
    s.n_biases = 1;
    assert_int_not_equal(first_token(g, &s), bias.token);
    bias = (struct engine_bias){.token = 0, .bias = 1000};
    assert_int_equal(first_token(g, &s), 0);
    bias.token = VOCAB;
    assert_int_equal(g->ops->sampler_new(g, &s, &sampler, &e), ERR_INVALID);
    s.n_biases = ENGINE_BIAS_MAX + 1;
    assert_int_equal(g->ops->sampler_new(g, &s, &sampler, &e), ERR_INVALID);
    g->ops->free(g);
}

static void penalties_look_back_so_far(void **state)
{
    struct engine *g = open_fake("fake");
    struct engine_sampling s;
    (void)state;
    run(g, 0, 0, 4, NULL);
    engine_sampling_default(&s);
    s.temperature = 0;
    int32_t best = first_token(g, &s);
    s.presence_penalty = 1000;
    for (int32_t last_n = 0; last_n < 3; last_n++) {
        struct engine_sampler *sampler = NULL;
        struct err e = {0};
        s.repeat_last_n = last_n;
        assert_int_equal(g->ops->sampler_new(g, &s, &sampler, &e), 0);
        g->ops->sampler_accept(g, sampler, best);
        g->ops->sampler_accept(g, sampler, 'x');
        assert_int_equal(g->ops->sample(g, sampler, 3) == best, last_n < 2);
        g->ops->sampler_free(g, sampler);
    }
    g->ops->free(g);
}

// ---- log probabilities --------------------------------------------------------------------------

static void logprobs_are_those_of_softmax(void **state)
{
    const float logits[] = {1, 3, -2, 3, 0.5f, NAN, -INFINITY, 1000};
    struct engine_logprob top[4];
    double sum = exp(1) + 2 * exp(3) + exp(-2) + exp(0.5);
    (void)state;
    float got = engine_logprobs(logits, 5, 0, 4, top);
    assert_true(fabs((double)got - (1 - log(sum))) < 1e-5);
    assert_int_equal(top[0].token, 1); // equals in order of token id
    assert_int_equal(top[1].token, 3);
    assert_int_equal(top[2].token, 0);
    assert_int_equal(top[3].token, 4);
    assert_true(fabs((double)top[3].logprob - (0.5 - log(sum))) < 1e-5);

    got = engine_logprobs(logits, 7, 5, 4, top); // NaN and infinity count for nothing
    assert_true(got == ENGINE_LOGPROB_MIN);
    assert_true(fabs((double)top[0].logprob - (3 - log(sum))) < 1e-5);
    assert_true(engine_logprobs(logits, 8, 7, 1, top) == 0);
    assert_true(engine_logprobs(logits, 8, 8, 0, top) == ENGINE_LOGPROB_MIN);
    engine_logprobs(logits, 2, 0, 4, top);
    assert_int_equal(top[2].token, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_rule_that_fits_decides),
        cmocka_unit_test(a_reasoning_budget_cuts_the_reasoning),
        cmocka_unit_test(bad_scripts_are_refused),
        cmocka_unit_test(prompts_and_continuations_are_rendered),
        cmocka_unit_test(answers_mean_the_same_whole_and_in_pieces),
        cmocka_unit_test(arguments_stream),
        cmocka_unit_test(marks_count_only_where_asked),
        cmocka_unit_test(a_fork_goes_on_as_its_source),
        cmocka_unit_test(a_recurrent_fork_is_whole_or_nothing),
        cmocka_unit_test(a_checkpoint_leads_back),
        cmocka_unit_test(what_can_be_cut_needs_no_checkpoint),
        cmocka_unit_test(embeddings_are_normalised_and_near_where_texts_are),
        cmocka_unit_test(embeddings_are_refused_where_they_must),
        cmocka_unit_test(a_paced_engine_passes_everything_on),
        cmocka_unit_test(biases_forbid_and_favour),
        cmocka_unit_test(penalties_look_back_so_far),
        cmocka_unit_test(logprobs_are_those_of_softmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
