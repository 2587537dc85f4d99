// Several models on one server: found by name, loaded when they are asked for, unloaded when they are not
// used or when another one needs the room.
#include "gateway_fake.h"

#define CHAT "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"

struct models {
    struct gateway_options options;
    struct fake fakes[3], node;
    struct gateway *gateway;
    uint16_t port;
};

// "one" is kept, "two" and "three" are loaded on demand.
static void models_init(struct models *s)
{
    static const char *const names[] = {"one", "two", "three"};

    memset(s, 0, sizeof(*s));
    gateway_options_default(&s->options);
    s->options.listen.port = 0;
    s->options.n_models = 3;
    for (size_t i = 0; i < 3; i++) {
        s->fakes[i] = fake_make("mac");
        s->fakes[i].model = names[i];
        s->fakes[i].weights_hash = i + 1;
        s->options.models[i] = (struct gateway_model){
            .name = names[i], .path = "/models/file.gguf", .on_demand = i > 0};
    }
    s->options.models[1].aliases[0] = "deux";
    s->options.models[1].n_aliases = 1;
    s->options.models[2].id = "owner/three-instruct:q4_0";
    s->node = fake_make("spark");
    log_level_set(LOG_LEVEL_ERROR);
}

static const char *state_of(struct models *s, const char *name)
{
    static char state[32];
    char path[64];
    struct web_answer a;
    json_t *v;

    snprintf(path, sizeof(path), "/v1/models/%s", name);
    a = web_get(s->port, path);
    v = parse(a.body);
    snprintf(state, sizeof(state), "%s", a.status == 200 ? text_at(v, "status.value") : "none");
    json_decref(v);
    web_answer_fini(&a);
    return state;
}

static void await(struct models *s, const char *name, const char *state)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;

    while (strcmp(state_of(s, name), state) != 0) {
        if (clock_now_ns() > limit_ns)
            fail_msg("%s is %s, never %s", name, state_of(s, name), state);
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    }
}

static void models_start(struct models *s)
{
    struct core_source source = FAKE_SOURCE(s->fakes);
    struct err e = {0};

    if (gateway_start_on(&s->options, &source, &s->gateway, &s->port, &e) != 0)
        fail_msg("%s", e.message);
    await(s, "one", "loaded");
}

static void models_stop(struct models *s)
{
    gateway_free(s->gateway);
    for (size_t i = 0; i < 3; i++)
        fake_stop(&s->fakes[i]);
    fake_stop(&s->node);
}

static json_t *ask(struct models *s, const char *model, int status)
{
    char body[256];
    struct web w;

    snprintf(body, sizeof(body), "{\"model\":\"%s\"," CHAT "}", model);
    w = web_post(s->port, "/v1/chat/completions", body);
    return finish_json(&w, status);
}

static void order(struct models *s, const char *what, const char *body, int status)
{
    char path[64];
    struct web_answer a;

    snprintf(path, sizeof(path), "/v1/models/%s", what);
    a = web_ask(s->port, path, body);
    if (a.status != status)
        fail_msg("%s %s: %d %s", what, body, a.status, a.body);
    web_answer_fini(&a);
}

static void test_names(void **state)
{
    struct models s;
    struct web_answer a;
    json_t *v;

    (void)state;
    models_init(&s);
    models_start(&s);
    v = ask(&s, "one", 200);
    assert_string_equal(text_at(v, "model"), "one");
    json_decref(v);
    assert_string_equal(state_of(&s, "two"), "unloaded");
    v = ask(&s, "deux", 200); // an alias; it is loaded for this request
    assert_string_equal(text_at(v, "model"), "two");
    json_decref(v);
    assert_int_equal(s.fakes[1].wakes, 1);
    assert_string_equal(state_of(&s, "Two"), "loaded");
    assert_int_equal(fake_count(&s.fakes[0], WIRE_GENERATE), 1);
    assert_int_equal(fake_count(&s.fakes[1], WIRE_GENERATE), 1);
    v = ask(&s, "three-instruct", 200); // a part of its name in the store
    assert_string_equal(text_at(v, "model"), "three");
    json_decref(v);
    order(&s, "unload", "{\"model\":\"owner/three-instruct:q4_0\"}", 200);
    await(&s, "three", "unloaded");
    v = ask(&s, "four", 404);
    assert_has(text_at(v, "error.message"), "\"one\", \"two\", \"three\"");
    json_decref(v);
    a = web_get(s.port, "/v1/models");
    v = parse(a.body);
    assert_int_equal(json_array_size(at(v, "data")), 3);
    assert_string_equal(text_at(v, "data.2.id"), "three");
    assert_string_equal(text_at(v, "data.2.status.value"), "unloaded");
    json_decref(v);
    web_answer_fini(&a);
    models_stop(&s);
}

// With room for two: the one that was used longest ago goes, one at work never does.
static void test_room(void **state)
{
    struct models s;
    struct web busy;
    json_t *v;

    (void)state;
    models_init(&s);
    s.options.models_max = 2;
    models_start(&s);
    json_decref(ask(&s, "two", 200));
    json_decref(ask(&s, "three", 200));
    assert_int_equal(s.fakes[1].rests, 1);
    assert_string_equal(state_of(&s, "two"), "unloaded");
    assert_string_equal(state_of(&s, "one"), "loaded"); // kept, though unused
    s.fakes[2].hold_generate = true;
    busy = web_post(s.port, "/v1/chat/completions", "{\"model\":\"three\"," CHAT "}");
    fake_expect(&s.fakes[2], WIRE_GENERATE, 2);
    v = ask(&s, "two", 503);
    assert_string_equal(text_at(v, "error.code"), "no_room");
    assert_has(text_at(v, "error.message"), "--models-max 2");
    json_decref(v);
    assert_int_equal(s.fakes[2].rests, 0);
    fake_generate(&s.fakes[2], fake_expect(&s.fakes[2], WIRE_GENERATE, 2));
    json_decref(finish_json(&busy, 200));
    json_decref(ask(&s, "two", 200));
    models_stop(&s);
}

// What does not fit into memory is refused with both numbers, and nothing is unloaded for it in vain twice.
static void test_memory(void **state)
{
    struct models s;
    json_t *v;

    (void)state;
    models_init(&s);
    s.options.models[2].need_bytes = UINT64_C(1) << 60;
    models_start(&s);
    v = ask(&s, "three", 503);
    assert_has(text_at(v, "error.message"), "needs 1073741824.0 GiB");
    json_decref(v);
    assert_int_equal(s.fakes[2].wakes, 0);
    models_stop(&s);
}

static void test_idle(void **state)
{
    struct models s;

    (void)state;
    models_init(&s);
    s.options.models_idle_ns = 30 * NS_PER_MS;
    models_start(&s);
    json_decref(ask(&s, "two", 200));
    await(&s, "two", "unloaded");
    assert_string_equal(state_of(&s, "one"), "loaded");
    json_decref(ask(&s, "two", 200));
    assert_int_equal(s.fakes[1].wakes, 2);
    models_stop(&s);
}

static void test_orders(void **state)
{
    struct models s;
    struct web busy;

    (void)state;
    models_init(&s);
    models_start(&s);
    order(&s, "load", "{\"model\":\"three\"}", 200);
    await(&s, "three", "loaded");
    order(&s, "load", "{\"model\":\"three\"}", 200); // it is already
    order(&s, "unload", "{\"model\":\"three\"}", 200);
    await(&s, "three", "unloaded");
    order(&s, "unload", "{\"model\":\"three\"}", 200);
    order(&s, "load", "{\"model\":\"four\"}", 404);
    order(&s, "load", "{\"model\":3}", 400);
    order(&s, "load", "{}", 400);
    order(&s, "unload", "three", 400);
    s.fakes[0].hold_generate = true;
    busy = web_post(s.port, "/v1/chat/completions", "{" CHAT "}");
    fake_expect(&s.fakes[0], WIRE_GENERATE, 1);
    order(&s, "unload", "{\"model\":\"one\"}", 409);
    fake_generate(&s.fakes[0], fake_expect(&s.fakes[0], WIRE_GENERATE, 1));
    json_decref(finish_json(&busy, 200));
    s.fakes[0].hold_generate = false;
    // One that was kept comes back when somebody needs it.
    order(&s, "unload", "{\"model\":\"one\"}", 200);
    await(&s, "one", "unloaded");
    json_decref(ask(&s, "one", 200));
    models_stop(&s);
}

// A client that leaves before its model is there, and one that came while the model was being unloaded.
static void test_waiting(void **state)
{
    struct models s;
    struct web w;

    (void)state;
    models_init(&s);
    s.fakes[1].late = true;
    models_start(&s);
    w = web_post(s.port, "/v1/chat/completions", "{\"model\":\"two\"," CHAT "}");
    await(&s, "two", "loading");
    web_close(&w);
    fake_up(&s.fakes[1]);
    await(&s, "two", "loaded");
    s.fakes[1].hold_rest = true;
    s.fakes[1].late = false;
    order(&s, "unload", "{\"model\":\"two\"}", 200);
    w = web_post(s.port, "/v1/chat/completions", "{\"model\":\"two\"," CHAT "}");
    await(&s, "two", "loading");
    s.fakes[1].ops->on_rest(s.fakes[1].ops_ctx);
    json_decref(finish_json(&w, 200));
    models_stop(&s);
}

// As the queue of training jobs asks for it.
static int room_ask(struct models *s, struct chan *answer, uint64_t bytes)
{
    struct core_message m = {.what = CORE_ROOM, .bytes = bytes, .answer = answer};
    int word = -1;

    assert_int_equal(core_send(gateway_core(s->gateway), &m, CHAN_FOREVER), 0);
    assert_int_equal(chan_recv(answer, &word, CHAN_FOREVER), 0);
    return word;
}

// For a training job: what nobody uses goes, kept or not, and comes back; what is at work stays.
static void test_lent(void **state)
{
    struct models s;
    struct chan *answer = chan_new(sizeof(int), 2);
    struct web busy;
    json_t *v;

    (void)state;
    models_init(&s);
    models_start(&s);
    assert_int_equal(room_ask(&s, answer, 1), 0); // there is room
    json_decref(ask(&s, "two", 200));
    s.fakes[1].hold_generate = true;
    busy = web_post(s.port, "/v1/chat/completions", "{\"model\":\"two\"," CHAT "}");
    fake_expect(&s.fakes[1], WIRE_GENERATE, 2);
    assert_int_equal(room_ask(&s, answer, UINT64_MAX), ERR_BUSY);
    await(&s, "one", "unloaded");
    assert_int_equal(room_ask(&s, answer, UINT64_MAX), 0); // there is nothing more to unload
    assert_string_equal(state_of(&s, "two"), "loaded");
    v = ask(&s, "one", 503);
    assert_has(text_at(v, "error.message"), "lent to a training job");
    json_decref(v);
    fake_generate(&s.fakes[1], fake_expect(&s.fakes[1], WIRE_GENERATE, 2));
    json_decref(finish_json(&busy, 200));
    assert_int_equal(room_ask(&s, answer, 0), 0);
    await(&s, "one", "loaded");
    json_decref(ask(&s, "one", 200));
    models_stop(&s);
    chan_free(answer);
}

static void node_await(struct models *s, const char *path, const char *state)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
    bool there = false;

    while (!there) {
        struct web_answer a = web_get(s->port, "/v1/tandem/status");
        json_t *v = parse(a.body);

        there = strcmp(text_at(v, path), state) == 0;
        if (clock_now_ns() > limit_ns)
            fail_msg("the node is never %s: %s", state, a.body);
        json_decref(v);
        web_answer_fini(&a);
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    }
}

// A node reads for the model that it holds, and for no other.
static void test_node(void **state)
{
    struct models s;
    char body[700];
    struct web w;
    json_t *v;
    int n;

    (void)state;
    models_init(&s);
    s.node.model = "two";
    s.node.weights_hash = 2;
    fake_listen(&s.node);
    s.options.prefill[0] = (struct net_addr){.host = "127.0.0.1", .port = s.node.port};
    s.options.n_prefill = 1;
    models_start(&s);
    json_decref(ask(&s, "two", 200)); // now it is known what the node can be compared with
    node_await(&s, "nodes.3.state", "up");
    for (int i = 0; i < 2; i++) {
        n = snprintf(body, sizeof(body), "{\"model\":\"%s\",\"prompt\":\"", i == 0 ? "two" : "one");
        memset(body + n, 'x', 400);
        snprintf(body + n + 400, sizeof(body) - (size_t)n - 400, "\",\"max_tokens\":2}");
        w = web_post(s.port, "/v1/completions", body);
        v = finish_json(&w, 200);
        assert_string_equal(text_at(v, "timings.plan"), i == 0 ? "hybrid" : "local");
        if (i == 1)
            assert_has(text_at(v, "timings.reason"), "it holds another model");
        json_decref(v);
    }
    assert_int_equal(fake_count(&s.node, WIRE_PREFILL), 1);
    // The decode worker is sent to that node's port.
    v = fake_expect(&s.fakes[1], WIRE_GENERATE, 2)->head;
    assert_int_equal(json_integer_value(at(v, "handoff.port")), s.node.port);
    // It is left alone while its model is not loaded here, and dialled again when it is.
    order(&s, "unload", "{\"model\":\"two\"}", 200);
    node_await(&s, "nodes.3.state", "unloaded");
    json_decref(ask(&s, "two", 200));
    node_await(&s, "nodes.3.state", "up");
    models_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names), cmocka_unit_test(test_room),   cmocka_unit_test(test_memory),
        cmocka_unit_test(test_idle),  cmocka_unit_test(test_orders), cmocka_unit_test(test_waiting),
        cmocka_unit_test(test_node),  cmocka_unit_test(test_lent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
