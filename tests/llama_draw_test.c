// What shapes an answer beside the usual sampling parameters (llama_text_test has those): biases, penalties that
// look back so far, grammars that wake up, reasoning that has a budget, and embeddings of the same model.
#include "llama_rig.h"

#include "base/json.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static struct engine *g;

static int setup(void **state)
{
    (void)state;
    g = rig_open(ENGINE_HANDOFF_NONE);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    g->ops->free(g);
    return 0;
}

static size_t tokenize(const char *text, int32_t **tokens)
{
    size_t n = 0;
    struct err e = {0};
    assert_int_equal(g->ops->tokenize(g, text, strlen(text), true, false, tokens, &n, &e), 0);
    return n;
}

static struct engine_sampling greedy(void)
{
    struct engine_sampling s;
    engine_sampling_default(&s);
    s.temperature = 0;
    return s;
}

static struct engine_sampler *sampler(const struct engine_sampling *s)
{
    struct engine_sampler *out = NULL;
    struct err e = {0};
    if (g->ops->sampler_new(g, s, &out, &e) != 0)
        fail_msg("%s", e.message);
    return out;
}

static void refused(const struct engine_sampling *s)
{
    struct engine_sampler *out = NULL;
    struct err e = {0};
    assert_int_equal(g->ops->sampler_new(g, s, &out, &e), ERR_INVALID);
    assert_true(e.message[0] != '\0');
}

// Reads the prompt into sequence 0; the row whose logits are the answer's first.
static size_t prompt_read(const char *prompt, uint32_t *n)
{
    int32_t *tokens = NULL;
    struct err e = {0};
    struct engine_row rows[64];
    *n = (uint32_t)tokenize(prompt, &tokens);
    assert_true(*n > 0 && *n <= 64);
    assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, &e), 0);
    for (uint32_t i = 0; i < *n; i++)
        rows[i] = (struct engine_row){tokens[i], i, 0, i + 1 == *n};
    assert_int_equal(g->ops->step(g, rows, *n, &e), 0);
    free(tokens);
    return *n - 1;
}

// The answer's text, up to `most` tokens; returns how many there were before the end.
static size_t say(const struct engine_sampling *s, const char *prompt, size_t most,
                  struct buf *text)
{
    struct engine_sampler *p = sampler(s);
    struct err e = {0};
    uint32_t n;
    size_t row = prompt_read(prompt, &n), made = 0;
    buf_clear(text);
    for (; made < most; made++, row = 0) {
        char piece[256];
        int32_t token = g->ops->sample(g, p, row);
        assert_true(token >= 0);
        if (g->ops->is_end(g, token))
            break;
        buf_put(text, piece, g->ops->piece(g, token, piece, sizeof piece));
        struct engine_row next = {token, n + (uint32_t)made, 0, true};
        assert_int_equal(g->ops->step(g, &next, 1, &e), 0);
    }
    g->ops->sampler_free(g, p);
    return made;
}

static int32_t first_token(const struct engine_sampling *s, size_t row)
{
    struct engine_sampler *p = sampler(s);
    int32_t token = g->ops->sample(g, p, row);
    g->ops->sampler_free(g, p);
    return token;
}

// ---- sampling -----------------------------------------------------------------------------------

static void biases_forbid_and_favour(void **state)
{
    struct engine_sampling s = greedy();
    struct engine_bias bias[2] = {{.bias = -INFINITY}, {.token = 7, .bias = 1000}};
    uint32_t n;
    (void)state;
    size_t row = prompt_read("The capital of France is", &n);
    bias[0].token = first_token(&s, row);
    s.biases = bias;
    s.n_biases = 1;
    assert_int_not_equal(first_token(&s, row), bias[0].token);
    s.n_biases = 2;
    assert_int_equal(first_token(&s, row), 7);
    s.temperature = 1;
    assert_int_equal(first_token(&s, row), 7);
}

static void bad_biases_are_refused(void **state)
{
    const struct engine_bias bad[] = {
        {.token = -1}, {.token = INT32_MAX}, {.bias = NAN}, {.bias = INFINITY}};
    struct engine_sampling s = greedy();
    (void)state;
    s.n_biases = 1;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        s.biases = &bad[i];
        refused(&s);
    }
    s.n_biases = ENGINE_BIAS_MAX + 1;
    refused(&s);
    s = greedy();
    s.typical_p = NAN;
    refused(&s);
    s = greedy();
    s.repeat_penalty = 1e-45f; // divides to infinity
    refused(&s);
}

static void penalties_look_back_so_far(void **state)
{
    static const struct {
        int32_t last_n;
        bool penalised;
    } rows[] = {{0, false}, {1, false}, {2, true}, {64, true}, {-1, true}, {INT32_MAX, true}};
    struct engine_sampling s = greedy();
    uint32_t n;
    (void)state;
    size_t row = prompt_read("The capital of France is", &n);
    int32_t best = first_token(&s, row);
    s.presence_penalty = 1000;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        s.repeat_last_n = rows[i].last_n;
        struct engine_sampler *p = sampler(&s);
        g->ops->sampler_accept(g, p, best);
        g->ops->sampler_accept(g, p, best == 9 ? 8 : 9);
        assert_int_equal(g->ops->sample(g, p, row) != best, rows[i].penalised);
        g->ops->sampler_free(g, p);
    }
}

static void typical_p_narrows_the_choice(void **state)
{
    struct engine_sampling s;
    uint32_t n;
    int32_t first;
    (void)state;
    size_t row = prompt_read("Once upon a time", &n);
    engine_sampling_default(&s);
    s.temperature = 5;
    s.top_k = 0;
    s.top_p = 1;
    s.min_p = 0;
    s.typical_p = 1e-6f; // one token is as typical as that
    first = first_token(&s, row);
    for (s.seed = 1; s.seed < 8; s.seed++)
        assert_int_equal(first_token(&s, row), first);
    s.typical_p = 1;
    bool differs = false;
    for (s.seed = 1; s.seed < 8; s.seed++)
        differs |= first_token(&s, row) != first;
    assert_true(differs);
}

// ---- grammars and reasoning ---------------------------------------------------------------------

static json_t *rules(const char *grammar, const char *rest)
{
    char text[512];
    json_t *syntax = json_object();
    snprintf(text, sizeof text, "{\"template\":true%s}", rest);
    json_t *r = json_loads(text, 0, NULL);
    assert_non_null(r);
    if (grammar)
        json_put(syntax, "grammar", json_string(grammar));
    if (!json_object_get(r, "lazy")) {
        json_put(r, "lazy", json_false());
        json_put(r, "triggers", json_array());
    }
    json_put(syntax, "rules", r);
    return syntax;
}

// The trigger is a word that the model says by itself, whichever that is: it depends on how the machine rounds.
static void a_lazy_grammar_wakes_up(void **state)
{
    struct engine_sampling s = greedy();
    struct buf text;
    char word[16], grammar[64], trigger[128];
    (void)state;
    buf_init(&text, 1 << 16);
    say(&s, "One, two, three, four,", 24, &text);
    if (sscanf((const char *)text.data, "%*[^a-z]%15[a-z]", word) != 1)
        fail_msg("no word: %s", (char *)text.data);
    snprintf(grammar, sizeof grammar, "root ::= \"%s\" \" golden rings\"", word);
    snprintf(trigger, sizeof trigger,
             ",\"prompt\":\"\",\"lazy\":true,\"triggers\":[{\"type\":1,\"value\":\"%s\"}]", word);
    json_t *syntax = rules(grammar, trigger);
    s.syntax = syntax;
    size_t n = say(&s, "One, two, three, four,", 24, &text);
    if (n == 24) // else the grammar ended the answer
        fail_msg("not woken by %s: %s", word, (char *)text.data);
    const char *said = (const char *)text.data;
    assert_string_equal(said + strlen(said) - strlen(" golden rings"), " golden rings");
    n = say(&s, "Once upon a time", 8, &text);
    assert_int_equal(n, 8); // asleep: it binds nothing
    json_decref(syntax);
    buf_fini(&text);
}

static void reasoning_ends_with_its_budget(void **state)
{
    json_t *syntax = rules(
        NULL, ",\"prompt\":\"<think>\",\"think\":{\"start\":\"<think>\",\"ends\":[\"</think>\"]}");
    struct engine_sampling s = greedy();
    struct buf text;
    (void)state;
    buf_init(&text, 1 << 16);
    s.syntax = syntax;
    say(&s, "Once upon a time <think>", 24, &text);
    assert_null(strstr((char *)text.data, "</think>")); // no budget
    s.reasoning_budget = 6;
    say(&s, "Once upon a time <think>", 24, &text);
    const char *end = strstr((char *)text.data, "</think>");
    assert_non_null(end);
    assert_true(end > (char *)text.data);
    s.reasoning_budget = 0;
    say(&s, "Once upon a time <think>", 24, &text);
    assert_int_equal(strncmp((char *)text.data, "</think>", 8), 0);
    json_decref(syntax);
    buf_fini(&text);
}

// At every temperature a grammar that is awake binds, and greedily it takes what plain greedy would where that
// fits.
static void a_grammar_that_allows_all_changes_nothing(void **state)
{
    json_t *syntax = json_pack("{s:s}", "grammar", "root ::= [^\\x00]*");
    struct engine_sampling s = greedy();
    struct buf plain, bound;
    (void)state;
    buf_init(&plain, 1 << 16);
    buf_init(&bound, 1 << 16);
    size_t n = say(&s, "Once upon a time", 24, &plain);
    s.syntax = syntax;
    assert_int_equal(say(&s, "Once upon a time", 24, &bound), n);
    assert_string_equal((char *)plain.data, (char *)bound.data);
    json_decref(syntax);
    buf_fini(&plain);
    buf_fini(&bound);
}

#define RULES "{\"prompt\":\"\",\"lazy\":false,\"template\":true,\"triggers\":[]}"
#define RULES_9                                                                                    \
    "{\"prompt\":\"\",\"lazy\":true,\"template\":true,\"triggers\":[{\"type\":9,\"value\":\"a\"}]" \
    "}"

static void foreign_syntaxes_are_refused(void **state)
{
    static const char *const bad[] = {
        "{\"grammar\":7}",
        "{\"grammar\":\"%llguidance {}\"}",
        "{\"grammar\":\"root ::= \\\"a\\\"\",\"rules\":{}}",
        "{\"grammar\":\"root ::= \\\"a\\\"\",\"rules\":{\"prompt\":\"\",\"lazy\":7}}",
        "{\"grammar\":\"root ::= \\\"a\\\"\",\"rules\":" RULES_9 "}",
        "{\"grammar\":\"root ::= (\",\"rules\":" RULES "}",
    };
    struct engine_sampling s;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *syntax = json_loads(bad[i], 0, NULL);
        engine_sampling_default(&s);
        s.syntax = syntax;
        refused(&s);
        json_decref(syntax);
    }
}

static void a_grammar_of_too_many_groups_is_refused(void **state)
{
    struct engine_sampling s;
    struct buf b;
    (void)state;
    buf_init(&b, 1 << 20);
    buf_puts(&b, "root ::= ");
    for (int i = 0; i < 100000; i++)
        buf_puts(&b, "(");
    json_t *syntax = json_pack("{s:s}", "grammar", (char *)b.data);
    engine_sampling_default(&s);
    s.syntax = syntax;
    refused(&s);
    json_decref(syntax);
    buf_fini(&b);
}

// The library would write out 2^64 rules.
static void a_repetition_that_cannot_be_is_refused(void **state)
{
    json_t *syntax = json_pack("{s:s}", "grammar", "root ::= \"a\"{5,2}");
    struct engine_sampling s;
    (void)state;
    engine_sampling_default(&s);
    s.syntax = syntax;
    refused(&s);
    json_decref(syntax);
}

// The library prints what it cannot do or read. The log must not hold a client's schema.
static void a_schema_stays_out_of_the_log(void **state)
{
    char path[] = "/tmp/tandem-stderr-XXXXXX";
    int file = mkstemp(path), stderr_was = dup(STDERR_FILENO);
    json_t *request = json_pack("{s:s,s:{s:s,s:s}}", "prompt", "a", "json_schema", "type", "string",
                                "pattern", "(?=secret)");
    json_t *rendered = NULL, *syntax = json_pack("{s:s}", "grammar", "root ::= secret");
    struct engine_sampling s;
    struct err e = {0};
    (void)state;
    unlink(path);
    assert_true(file >= 0 && dup2(file, STDERR_FILENO) == STDERR_FILENO);
    int rc = g->ops->render(g, request, &rendered, &e);
    assert_true(dup2(file, STDERR_FILENO) == STDERR_FILENO);
    engine_sampling_default(&s);
    s.syntax = syntax;
    refused(&s);
    dup2(stderr_was, STDERR_FILENO);
    close(stderr_was);
    assert_int_equal(rc, 0);
    assert_int_equal(lseek(file, 0, SEEK_END), 0);
    close(file);
    json_decref(rendered);
    json_decref(request);
    json_decref(syntax);
}

static void an_answer_without_a_parser_is_content(void **state)
{
    struct engine_parser *p = NULL;
    struct err e = {0};
    json_t *foreign = json_loads("{\"parser\":{}}", 0, NULL), *list = json_array();
    (void)state;
    assert_int_equal(g->ops->parser_new(g, NULL, &p, &e), 0);
    json_t *d = g->ops->parser_put(g, p, "a <b>", 5, false);
    assert_int_equal(json_array_size(d), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(d, 0), "content")),
                        "a <b>");
    json_decref(d);
    d = g->ops->parser_put(g, p, "", 0, true);
    assert_int_equal(json_array_size(d), 0);
    json_decref(d);
    g->ops->parser_free(g, p);
    assert_int_equal(g->ops->parser_new(g, foreign, &p, &e), ERR_INVALID);
    assert_int_equal(g->ops->parser_new(g, list, &p, &e), ERR_INVALID);
    json_decref(foreign);
    json_decref(list);
}

// ---- embeddings ---------------------------------------------------------------------------------

static float *embedding(const char *text)
{
    int32_t *tokens = NULL;
    struct err e = {0};
    size_t n = tokenize(text, &tokens);
    float *v = mem_alloc(g->identity.n_embd * sizeof *v);
    if (g->ops->embed(g, tokens, n, v, &e) != 0)
        fail_msg("%s", e.message);
    free(tokens);
    return v;
}

static double dot(const float *a, const float *b)
{
    double sum = 0;
    for (uint32_t i = 0; i < g->identity.n_embd; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static void embeddings_are_normalised_and_repeat(void **state)
{
    float *cat = embedding("The cat sat on the mat."),
          *again = embedding("The cat sat on the mat.");
    float *dog = embedding("A dog lay on the rug."), *code = embedding("#include <stdio.h>");
    (void)state;
    assert_int_equal(g->limits.n_embed_tokens, 2048);
    assert_false(g->limits.ranks);
    assert_true(fabs(dot(cat, cat) - 1) < 1e-4);
    assert_memory_equal(cat, again, g->identity.n_embd * sizeof *cat);
    assert_true(dot(cat, dog) > dot(cat, code));
    free(cat);
    free(again);
    free(dog);
    free(code);
}

// The chats do not notice.
static void an_embedding_touches_no_sequence(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, &e), 0);
    rig_compute(g, 0, 0, 64);
    float *want = rig_logits(g, 0, 64);
    assert_int_equal(g->ops->remove(g, 0, 64, UINT32_MAX, &e), 0);
    free(embedding("The cat sat on the mat."));
    rig_same(g, rig_logits(g, 0, 64), want);
    free(want);
}

static void bad_embeddings_are_refused(void **state)
{
    int32_t *tokens = mem_alloc(2049 * sizeof *tokens), foreign = -1;
    float *v = mem_alloc(g->identity.n_embd * sizeof *v);
    struct err e = {0};
    (void)state;
    assert_int_equal(g->ops->embed(g, tokens, 0, v, &e), ERR_INVALID);
    assert_int_equal(g->ops->embed(g, tokens, 2049, v, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "2049"));
    assert_non_null(strstr(e.message, "2048"));
    assert_int_equal(g->ops->embed(g, &foreign, 1, v, &e), ERR_INVALID);
    g->ops->interrupt(g, true);
    assert_int_equal(g->ops->embed(g, tokens, 8, v, &e), ERR_CANCELLED);
    g->ops->interrupt(g, false);
    assert_int_equal(g->ops->embed(g, tokens, 8, v, &e), 0);
    free(tokens);
    free(v);
}

static void *interrupt_soon(void *ctx)
{
    (void)ctx;
    usleep(20000);
    g->ops->interrupt(g, true);
    return NULL;
}

// A long text takes seconds; an interrupt ends it in the middle.
static void a_long_embedding_is_interrupted(void **state)
{
    int32_t *tokens = mem_alloc(2048 * sizeof *tokens);
    float *v = mem_alloc(g->identity.n_embd * sizeof *v);
    struct err e = {0};
    pthread_t thread;
    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, interrupt_soon, NULL), 0);
    assert_int_equal(g->ops->embed(g, tokens, 2048, v, &e), ERR_CANCELLED);
    pthread_join(thread, NULL);
    g->ops->interrupt(g, false);
    free(embedding("and works again"));
    free(tokens);
    free(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(biases_forbid_and_favour),
        cmocka_unit_test(bad_biases_are_refused),
        cmocka_unit_test(penalties_look_back_so_far),
        cmocka_unit_test(typical_p_narrows_the_choice),
        cmocka_unit_test(a_lazy_grammar_wakes_up),
        cmocka_unit_test(reasoning_ends_with_its_budget),
        cmocka_unit_test(a_grammar_that_allows_all_changes_nothing),
        cmocka_unit_test(foreign_syntaxes_are_refused),
        cmocka_unit_test(a_grammar_of_too_many_groups_is_refused),
        cmocka_unit_test(a_repetition_that_cannot_be_is_refused),
        cmocka_unit_test(a_schema_stays_out_of_the_log),
        cmocka_unit_test(an_answer_without_a_parser_is_content),
        cmocka_unit_test(embeddings_are_normalised_and_repeat),
        cmocka_unit_test(an_embedding_touches_no_sequence),
        cmocka_unit_test(bad_embeddings_are_refused),
        cmocka_unit_test(a_long_embedding_is_interrupted),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
