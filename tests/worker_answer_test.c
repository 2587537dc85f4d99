// What a worker says about text: the forms of RENDER, answers as deltas, log probabilities, embeddings.
#include "tests/worker_rig.h"

static struct rig_node *start(const char *model)
{
    return rig_start(model, ENGINE_HANDOFF_RANGES, false, false);
}

// ---- RENDER --------------------------------------------------------------------------------------

struct rendered {
    json_t *head;
    int32_t tokens[64];
    size_t n;
    unsigned type;
};

static struct rendered render(struct rig_node *d, const char *request)
{
    struct err e = {0};
    struct wire_frame f = {0};
    struct rendered r = {0};
    int32_t *tokens = NULL;
    json_t *head = json_loads(request, 0, NULL);

    assert_non_null(head);
    rig_send(d, wire_frame_json(WIRE_RENDER, 4, head));
    assert_int_equal(wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e), 0);
    r.type = f.type;
    r.head = wire_frame_parse(&f, &e);
    assert_int_equal(wire_frame_get_tokens(&f, &tokens, &r.n, &e), 0);
    assert_true(r.n <= 64);
    memcpy(r.tokens, tokens, r.n * sizeof *tokens);
    free(tokens);
    wire_frame_fini(&f);
    return r;
}

static void test_render_forms(void **state)
{
    (void)state;
    static const struct {
        const char *request;
        const char *head; // NULL: refused
        int32_t tokens[12];
        size_t n;
    } cases[] = {
        {"{\"prompt\":\"ab\"}", "{}", {256, 'a', 'b'}, 3},
        {"{\"tokens\":[1,2]}", "{}", {1, 2}, 2},
        {"{\"text\":\"ab\"}", "{}", {'a', 'b'}, 2},
        {"{\"text\":\"a\",\"bos\":true,\"special\":true}", "{}", {256, 'a'}, 2},
        {"{\"text\":\"\"}", "{}", {0}, 0},
        {"{\"text\":\"h\xc3\xa9\",\"want_pieces\":true}",
         "{\"pieces\":[\"h\",[195],[169]]}",
         {'h', 0xc3, 0xa9},
         3},
        {"{\"detokenize\":[104,195,169,33]}", "{\"text\":\"h\xc3\xa9!\"}", {0}, 0},
        {"{\"detokenize\":[104,195]}", "{\"text\":\"h\xef\xbf\xbd\"}", {0}, 0},
        {"{\"detokenize\":[]}", "{\"text\":\"\"}", {0}, 0},
        {"{\"chat\":{\"messages\":[{\"role\":\"u\",\"content\":\"\"}]},\"want_prompt\":false}",
         NULL,
         {0},
         0},
        {"{\"detokenize\":[1,258]}", NULL, {0}, 0},
        {"{\"detokenize\":5}", NULL, {0}, 0},
        {"{\"text\":\"a\",\"bos\":1}", NULL, {0}, 0},
        {"{\"prompt\":7}", NULL, {0}, 0},
        {"{\"tokens\":[]}", NULL, {0}, 0},
        {"{\"tokens\":[-1]}", NULL, {0}, 0},
        {"{}", NULL, {0}, 0},
    };
    struct rig_node *d = start("fake");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rendered r = render(d, cases[i].request);
        if (strstr(cases[i].request, "chat") != NULL) {
            assert_int_equal(r.type, WIRE_RENDERED);
            assert_null(json_object_get(r.head, "prompt"));
            assert_non_null(json_object_get(r.head, "syntax"));
        } else if (cases[i].head == NULL) {
            assert_int_equal(r.type, WIRE_FAILED);
            assert_non_null(json_string_value(json_object_get(r.head, "message")));
        } else {
            json_t *want = json_loads(cases[i].head, 0, NULL);
            if (r.type != WIRE_RENDERED || !json_equal(want, r.head))
                fail_msg("%s: %s", cases[i].request, json_dumps(r.head, 0));
            assert_int_equal(r.n, cases[i].n);
            assert_memory_equal(r.tokens, cases[i].tokens, r.n * sizeof *r.tokens);
            json_decref(want);
        }
        json_decref(r.head);
    }
    rig_stop(d);
}

static void test_render_prompt(void **state)
{
    (void)state;
    struct rig_node *d = start("fake");
    struct rendered r = render(
        d, "{\"chat\":{\"messages\":[{\"role\":\"u\",\"content\":\"x\"}]},\"want_prompt\":true}");
    assert_string_equal(json_string_value(json_object_get(r.head, "prompt")), "u: x\nassistant: ");
    json_decref(r.head);
    rig_stop(d);
}

// ---- deltas --------------------------------------------------------------------------------------

#define CALL                                                                                       \
    "<think>let me "                                                                               \
    "see</think>Now.<tool>{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{\\\"x\\\":1}}</tool>"

static char script[] = "/tmp/tandem-script-XXXXXX";

static int script_make(void **state)
{
    (void)state;
    int fd = mkstemp(script);
    const char *text = "[{\"tool\":\"f\",\"answer\":\"" CALL "\"},"
                       "{\"contains\":\"think\",\"answer\":\"<think>hm</think>ok then\"}]";
    ssize_t n = write(fd, text, strlen(text));
    close(fd);
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

static int script_remove(void **state)
{
    (void)state;
    return unlink(script);
}

// All deltas joined: reasoning, content, and the calls as name(arguments).
struct said {
    char reasoning[256], content[256], calls[256];
};

static void put(char *to, const json_t *delta, const char *member)
{
    const char *s = json_string_value(json_object_get(delta, member));
    if (s != NULL)
        strncat(to, s, 255 - strlen(to));
}

static struct said said_of(const struct rig_answer *a)
{
    struct said s = {{0}, {0}, {0}};
    size_t i;
    const json_t *d;
    json_array_foreach(a->deltas, i, d)
    {
        put(s.reasoning, d, "reasoning");
        put(s.content, d, "content");
        put(s.calls, d, "name");
        put(s.calls, d, "arguments");
    }
    return s;
}

static void scripted(const char *chat, const char *stop, uint32_t max_tokens, struct rig_answer *a)
{
    char model[128];
    snprintf(model, sizeof model, "fake:script=%s", script);
    struct rig_node *d = start(model);
    struct rendered r = render(d, chat);
    assert_int_equal(r.type, WIRE_RENDERED);
    struct rig_request q = {.id = 8,
                            .tokens = r.tokens,
                            .n = r.n,
                            .max_tokens = max_tokens,
                            .parse = true,
                            .eos = true,
                            .stop = stop,
                            .syntax = json_object_get(r.head, "syntax")};
    rig_generate(d, &q);
    rig_answer_read(d, a);
    if (a->type != WIRE_DONE)
        fail_msg("%s", a->message);
    assert_string_equal(a->text, ""); // deltas come instead
    json_decref(r.head);
    rig_stop(d);
}

#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]"
#define CHAT(text, more)                                                                           \
    "{\"chat\":{\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]" more "}}"

static void test_deltas(void **state)
{
    (void)state;
    static const struct {
        const char *chat, *stop;
        uint32_t max_tokens;
        const char *reasoning, *content, *calls, *finish;
    } cases[] = {
        {CHAT("go", "," TOOLS), NULL, 500, "let me see", "Now.", "f{\"x\":1}", "tool_calls"},
        {CHAT("think", ""), NULL, 500, "hm", "ok then", "", "stop"},
        {CHAT("think", ""), "ok", 500, "hm", "", "", "stop"}, // a stop string ends it before
        {CHAT("think", ""), NULL, 9, "hm", "", "", "length"}, // cut off before the closing mark
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rig_answer a;
        scripted(cases[i].chat, cases[i].stop, cases[i].max_tokens, &a);
        struct said s = said_of(&a);
        print_message("%zu: \"%s\" \"%s\" \"%s\" %s, %lld reasoning\n", i, s.reasoning, s.content,
                      s.calls, a.finish, (long long)a.reasoning);
        assert_string_equal(s.reasoning, cases[i].reasoning);
        assert_string_equal(s.calls, cases[i].calls);
        assert_string_equal(a.finish, cases[i].finish);
        if (i < 3)
            assert_string_equal(s.content, cases[i].content);
        assert_true(a.reasoning > 0 && a.reasoning <= (json_int_t)a.n);
        rig_answer_fini(&a);
    }
}

// Without a syntax everything is content; with one that is none, the request is refused.
static void test_parse_without_syntax(void **state)
{
    (void)state;
    int32_t tokens[] = {'a', 'b', 'c'};
    struct rig_node *d = start("fake");
    struct rig_answer a, plain;
    struct rig_request r = {.id = 1, .tokens = tokens, .n = 3, .max_tokens = 30, .parse = true};

    rig_generate(d, &r);
    rig_answer_read(d, &a);
    r.parse = false;
    rig_generate(d, &r);
    rig_answer_read(d, &plain);
    struct said s = said_of(&a);
    assert_string_equal(s.content, plain.text);
    assert_int_equal(a.reasoning, 0);
    rig_answer_fini(&a);
    json_t *nonsense = json_pack("{s:i}", "no such", 5);
    r.parse = true;
    r.syntax = nonsense;
    rig_generate(d, &r);
    rig_answer_read(d, &a);
    assert_int_equal(a.type, WIRE_FAILED);
    json_decref(nonsense);
    rig_stop(d);
}

// ---- log probabilities ---------------------------------------------------------------------------

static void test_logprobs(void **state)
{
    (void)state;
    int32_t tokens[] = {'a', 'b', 'c'};
    struct rig_node *d = start("fake");
    struct rig_answer a;
    struct rig_request r = {.id = 1, .tokens = tokens, .n = 3, .max_tokens = 5, .logprobs = 1 + 3};

    rig_generate(d, &r);
    rig_answer_read(d, &a);
    assert_int_equal(json_array_size(a.tops), 5 * 3);
    for (size_t i = 0; i < 5; i++) {
        double before = 0;
        for (size_t k = 0; k < 3; k++) {
            const json_t *top = json_array_get(a.tops, i * 3 + k);
            double x = json_real_value(json_array_get(top, 2));
            assert_true(x < 0 && (k == 0 || x <= before));
            assert_int_equal(json_string_length(json_array_get(top, 1)), 1);
            before = x;
        }
        // Greedy: the most likely token is the one that was drawn.
        const json_t *best = json_array_get(json_array_get(a.tops, i * 3), 0);
        assert_int_equal(json_integer_value(best), a.ids[i]);
    }
    rig_answer_fini(&a);
    r.logprobs = 1; // of the token alone
    rig_generate(d, &r);
    rig_answer_read(d, &a);
    assert_int_equal(json_array_size(a.tops), 0);
    assert_int_equal(a.n, 5);
    rig_answer_fini(&a);
    rig_stop(d);
}

// ---- embeddings ----------------------------------------------------------------------------------

static size_t embed(struct rig_node *d, const int32_t *tokens, size_t n, float *out, char *message)
{
    struct err e = {0};
    struct wire_frame f = {0};
    size_t got = 0;

    rig_send(d, wire_frame_tokens(WIRE_EMBED, 3, NULL, tokens, n));
    assert_int_equal(wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e), 0);
    json_t *head = wire_frame_parse(&f, &e);
    message[0] = 0;
    if (f.type == WIRE_EMBEDDED) {
        assert_int_equal(rig_integer(head, "tokens"), n);
        got = f.body.len / 4;
        memcpy(out, f.body.data, f.body.len);
    } else {
        assert_int_equal(f.type, WIRE_FAILED);
        snprintf(message, 512, "%s", json_string_value(json_object_get(head, "message")));
    }
    json_decref(head);
    wire_frame_fini(&f);
    return got;
}

static void test_embeddings(void **state)
{
    (void)state;
    int32_t tokens[40] = {1, 2, 3, 4};
    int32_t bad[] = {1, 5000};
    float x[64], y[64];
    char message[512];
    struct rig_node *d = start("fake:embed=32");
    double norm = 0;

    assert_int_equal(embed(d, tokens, 4, x, message), 64);
    assert_int_equal(embed(d, tokens, 4, y, message), 64);
    assert_memory_equal(x, y, sizeof x);
    for (size_t i = 0; i < 64; i++)
        norm += (double)x[i] * (double)x[i];
    assert_true(norm > 0.999 && norm < 1.001);
    assert_int_equal(embed(d, tokens, 5, y, message), 64);
    assert_memory_not_equal(x, y, sizeof x);
    assert_int_equal(embed(d, tokens, 33, y, message), 0);
    assert_non_null(strstr(message, "33"));
    assert_non_null(strstr(message, "32"));
    assert_int_equal(embed(d, tokens, 0, y, message), 0);
    assert_int_equal(embed(d, bad, 2, y, message), 0);
    assert_non_null(strstr(message, "5000"));
    rig_stop(d);
    d = start("fake:embed=0");
    assert_int_equal(embed(d, tokens, 4, x, message), 0);
    assert_non_null(strstr(message, "makes no embeddings"));
    rig_stop(d);
    d = start("fake:ranks=1");
    assert_int_equal(embed(d, tokens, 4, x, message), 1);
    rig_stop(d);
}

// Embeddings come in between the tokens of a running answer, and one that waits can be cancelled.
static void test_embed_beside_answers(void **state)
{
    (void)state;
    int32_t tokens[100] = {1, 2, 3};
    struct rig_node *d = start("fake:decode_us=2000,prefill_us=3000");
    struct rig_request r = {.id = 1, .tokens = tokens, .n = 3, .max_tokens = 200};
    bool cancelled = false, embedded = false, ended = false;

    rig_generate(d, &r);
    rig_send(d, wire_frame_tokens(WIRE_EMBED, 2, NULL, tokens, 3));
    rig_send(d, wire_frame_tokens(WIRE_EMBED, 3, NULL, tokens, 100)); // 300 ms
    rig_send(d, wire_frame_json(WIRE_CANCEL, 3, NULL));
    while (!ended) {
        struct err e = {0};
        struct wire_frame f = {0};
        assert_int_equal(wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e), 0);
        embedded = embedded || (f.type == WIRE_EMBEDDED && f.id == 2);
        cancelled = cancelled || (f.type == WIRE_FAILED && f.id == 3);
        assert_false(f.type == WIRE_EMBEDDED && f.id == 3);
        ended = f.type == WIRE_DONE;
        wire_frame_fini(&f);
    }
    assert_true(embedded && cancelled);
    rig_stop(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render_forms),
        cmocka_unit_test(test_render_prompt),
        cmocka_unit_test_setup_teardown(test_deltas, script_make, script_remove),
        cmocka_unit_test(test_parse_without_syntax),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_embeddings),
        cmocka_unit_test(test_embed_beside_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
