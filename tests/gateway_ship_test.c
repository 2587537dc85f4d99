// Adapters on their way to workers: piece by piece, refused, late, and what clients see of it.
#include "gateway_fake.h"

#include "models/adapters.h"
#include "os/os.h"
#include "tests/gguf_make.h"
#include "tests/scratch.h"

#include <sys/stat.h>

#define TEXT "/v1/completions"
#define PIECE 262144 // bytes of one frame

static char sha256[65];

// A head alone, which is what the fake engine takes, of two pieces' length.
static void publish(const char *name)
{
    char *path = mem_format("%s/%s.gguf", scratch_home, name);
    struct adapters_new n;
    struct adapters_entry entry;
    struct err e = {0};
    struct buf b;

    buf_init(&b, GGUF_MAKE_MAX);
    make_head(&b, 0, 4);
    make_key_text(&b, "general.architecture", "fake");
    make_key_text(&b, "general.type", "adapter");
    make_key_text(&b, "adapter.type", "lora");
    make_text(&b, "padding");
    make32(&b, 8);
    make64(&b, PIECE);
    for (size_t i = 0; i < PIECE; i++)
        buf_put(&b, "x", 1);
    assert_int_equal(os_file_write(path, b.data, b.len, 0600, &e), 0);
    adapters_new_default(&n);
    n.name = name;
    n.file = path;
    n.model = "fake";
    if (adapters_publish(&n, &entry, &e) != 0)
        fail_msg("%s", e.message);
    memcpy(sha256, entry.sha256, sizeof(sha256));
    buf_fini(&b);
    free(path);
}

static void stage_fake(struct stage *s)
{
    stage_init(s);
    s->options.worker.engine.model = "fake";
    s->local.adapters = true;
}

static json_int_t number(const struct fake_frame *f, const char *member)
{
    return json_integer_value(json_object_get(f->head, member));
}

static void holds(struct fake *f, size_t nth, long long bytes, bool ready)
{
    char *is = mem_format("{\"sha256\":\"%s\",\"at\":%lld,\"ready\":%s}", sha256, bytes,
                          ready ? "true" : "false");

    fake_say(f, WIRE_ADAPTER_IS, fake_expect(f, WIRE_ADAPTER, nth)->id, is);
    free(is);
}

static json_t *ask(struct stage *s, const char *body, int status)
{
    struct web w = web_post(s->port, TEXT, body);

    return finish_json(&w, status);
}

// The worker's next words come behind those it said before: the gateway has read them then.
static void barrier(struct stage *s)
{
    json_decref(ask(s, "{\"prompt\":\"x\"}", 200));
}

// ---- tests ----------------------------------------------------------------------------------------------

static void test_pieces(void **state)
{
    struct stage s;
    struct fake_frame *f;

    (void)state;
    publish("one");
    stage_fake(&s);
    stage_ready(&s, false);
    f = fake_expect(&s.local, WIRE_ADAPTER, 1);
    assert_string_equal(text_at(f->head, "name"), "one");
    assert_string_equal(text_at(f->head, "sha256"), sha256);
    assert_string_equal(text_at(f->head, "base.architecture"), "fake");
    assert_int_equal(f->n_tokens, 0);
    json_int_t bytes = number(f, "bytes");
    json_t *v = ask(&s, "{\"model\":\"ft:one\",\"prompt\":\"x\"}", 503);
    assert_has(text_at(v, "error.message"), "not at the local worker yet");
    json_decref(v);
    holds(&s.local, 1, 0, false);
    f = fake_expect(&s.local, WIRE_ADAPTER, 2);
    assert_int_equal(number(f, "at"), 0);
    assert_int_equal(f->n_tokens, PIECE / 4);
    holds(&s.local, 2, PIECE, false);
    f = fake_expect(&s.local, WIRE_ADAPTER, 3);
    assert_int_equal(number(f, "at"), PIECE);
    assert_int_equal(f->n_tokens, (bytes - PIECE) / 4);
    holds(&s.local, 3, bytes, true);
    barrier(&s);
    assert_null(at(fake_expect(&s.local, WIRE_GENERATE, 1)->head, "adapter"));
    v = ask(&s, "{\"model\":\"ft:one\",\"prompt\":\"x\"}", 200);
    assert_string_equal(text_at(v, "model"), "ft:one");
    json_decref(v);
    f = fake_expect(&s.local, WIRE_GENERATE, 2);
    assert_string_equal(text_at(f->head, "adapter.name"), "one");
    assert_string_equal(text_at(f->head, "adapter.sha256"), sha256);
    stage_stop(&s);
}

static void test_names(void **state)
{
    struct stage s;
    struct web_answer a;
    json_t *v;

    (void)state;
    publish("one");
    stage_fake(&s);
    stage_ready(&s, false);
    fake_expect(&s.local, WIRE_ADAPTER, 1);
    a = web_get(s.port, "/v1/models");
    v = parse(a.body);
    assert_string_equal(text_at(v, "data.1.id"), "ft:one");
    assert_string_equal(text_at(v, "data.1.parent"), "fake-model");
    json_decref(v);
    web_answer_fini(&a);
    a = web_get(s.port, "/v1/models/ft:one");
    assert_int_equal(a.status, 200);
    web_answer_fini(&a);
    a = web_get(s.port, "/v1/models/ft:two");
    assert_int_equal(a.status, 404);
    web_answer_fini(&a);
    v = ask(&s, "{\"model\":\"ft:two\",\"prompt\":\"x\"}", 404);
    assert_string_equal(text_at(v, "error.code"), "model_not_found");
    assert_has(text_at(v, "error.message"), "ft:one");
    json_decref(v);
    // One that is published now is known at once.
    publish("two");
    v = ask(&s, "{\"model\":\"ft:two\",\"prompt\":\"x\"}", 503);
    json_decref(v);
    struct web w = web_post(s.port, "/v1/embeddings", "{\"model\":\"ft:one\",\"input\":\"x\"}");
    v = finish_json(&w, 400);
    assert_has(text_at(v, "error.message"), "no embeddings");
    json_decref(v);
    stage_stop(&s);
}

// A worker that refuses, or says what makes no sense: clients are told why, the rest goes on.
static void test_refused(void **state)
{
    static const char *const says[] = {"{\"at\":-1,\"ready\":false}",
                                       "{\"at\":99999999,\"ready\":false}", "{}",
                                       "{\"at\":\"x\",\"ready\":false}"};
    struct stage s;
    json_t *v;

    (void)state;
    publish("one");
    for (size_t i = 0; i <= sizeof(says) / sizeof(says[0]); i++) {
        bool failed = i == sizeof(says) / sizeof(says[0]);

        stage_fake(&s);
        stage_ready(&s, false);
        fake_say(&s.local, failed ? WIRE_FAILED : WIRE_ADAPTER_IS,
                 fake_expect(&s.local, WIRE_ADAPTER, 1)->id,
                 failed ? "{\"code\":\"mismatch\",\"message\":\"another base\"}" : says[i]);
        barrier(&s);
        v = ask(&s, "{\"model\":\"ft:one\",\"prompt\":\"x\"}", 503);
        assert_has(text_at(v, "error.message"), failed ? "another base" : "does not say");
        json_decref(v);
        stage_stop(&s);
    }
}

// A prefill node without the adapter is not used for it, and said so; for the base it is.
static void test_node_without(void **state)
{
    struct stage s;
    json_t *v;

    (void)state;
    publish("one");
    stage_fake(&s);
    s.node.adapters = true;
    stage_ready(&s, true);
    json_int_t bytes = number(fake_expect(&s.local, WIRE_ADAPTER, 1), "bytes");
    holds(&s.local, 1, bytes, true);
    barrier(&s);
    fake_expect(&s.node, WIRE_ADAPTER, 1); // not answered
    char *body =
        prompt_body(LONG_PROMPT_TOKENS, "\"model\":\"ft:one\",\"tandem\":{\"plan\":\"hybrid\"}");
    v = ask(&s, body, 200);
    assert_plan(v, "local");
    assert_has(text_at(v, "timings.fallback"), "adapter");
    json_decref(v);
    assert_int_equal(fake_count(&s.node, WIRE_PREFILL), 0);
    holds(&s.node, 1, bytes, true);
    for (int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
         fake_count(&s.node, WIRE_PREFILL) == 0;) {
        assert_true(clock_now_ns() < limit_ns);
        json_decref(ask(&s, body, 200));
    }
    assert_string_equal(text_at(fake_expect(&s.node, WIRE_PREFILL, 1)->head, "adapter.sha256"),
                        sha256);
    free(body);
    stage_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_pieces),
        SCRATCH_TEST(test_names),
        SCRATCH_TEST(test_refused),
        SCRATCH_TEST(test_node_without),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
