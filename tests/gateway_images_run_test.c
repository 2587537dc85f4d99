// Image workers while they run: clients that leave, workers that die, chats that go first, queues that are full, servers
// that end.
#include "gateway_images.h"

#include <signal.h>

// ---- leaving, dying, waiting -----------------------------------------------------------------------------

static size_t files_open(void)
{
    size_t n = 0;
    DIR *d = opendir("/proc/self/fd");

    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

// A hundred that leave, while they wait and while they are drawn, leave nothing behind.
static void test_leaving(void **state)
{
    static const char long_one[] = "{\"prompt\":\"x\",\"n\":10,\"steps\":150}",
                      stream[] = "{\"prompt\":\"x\",\"n\":10,\"steps\":150,\"stream\":true}";
    struct stage s;
    size_t before = 0;

    (void)state;
    start(&s, "fake:2");
    json_t *first = ask(&s, CREATE, "{\"prompt\":\"x\",\"seed\":3}", 200);
    for (int i = 0; i < 50; i++) {
        struct web a = web_post(s.port, CREATE, long_one), b = web_post(s.port, CREATE, stream);

        await(&s, "requests", 2);
        web_close(&a);
        web_close(&b);
        await(&s, "requests", 0);
        before = i == 2 ? files_open() : before;
    }
    await(&s, "cancelled", 100);
    if (before > 2)
        assert_in_range(files_open(), 1, before + 2); // a connection that is being closed
    json_t *again = ask(&s, CREATE, "{\"prompt\":\"x\",\"seed\":3}", 200);
    assert_string_equal(text_at(first, "data.0.b64_json"), text_at(again, "data.0.b64_json"));
    json_decref(first);
    json_decref(again);
    stage_stop(&s);
}

static void test_killed(void **state)
{
    struct stage s;

    (void)state;
    start(&s, "fake:2");
    json_t *v = ask(&s, CREATE, "{\"prompt\":\"crash\"}", 500);
    assert_has(text_at(v, "error.message"), "ask once more");
    json_decref(v);
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\"}", 200)); // it came back
    struct web w = web_post(s.port, CREATE, "{\"prompt\":\"hang\",\"stream\":true}");
    await(&s, "requests", 1);
    await(&s, "waiting", 0);
    kill((pid_t)figure(&s, "pid"), SIGKILL);
    struct web_answer a = web_finish(&w);
    assert_has(a.body, "signal 9");
    web_answer_fini(&a);
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\"}", 200));
    assert_int_equal(figure(&s, "restarts"), 2);
    stage_stop(&s);
}

// A model that cannot be loaded is no reason for the server to end, and is said.
static void test_cannot(void **state)
{
    struct stage s;

    (void)state;
    start(&s, "fake:0:cannot");
    json_t *v = ask(&s, CREATE, "{\"prompt\":\"x\"}", 503);
    assert_has(text_at(v, "error.message"), "cannot be loaded");
    json_decref(v);
    v = status_get(&s);
    assert_string_equal(text_at(v, "state"), "failed");
    json_decref(v);
    stage_stop(&s);
    stage_init(&s);
    s.options.images.worker.model = "/nowhere/model.gguf";
    struct core_source source = FAKE_SOURCE(&s.local);
    struct err e = {0};
    assert_int_equal(gateway_start_on(&s.options, &source, &s.gateway, &s.port, &e), ERR_NOT_FOUND);
    assert_has(e.message, "/nowhere/model.gguf");
    s.gateway = NULL;
    stage_stop(&s);
}

static void test_queue(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    s.options.images.worker.model = "fake:20";
    s.options.images.queue = 1;
    stage_start(&s, false);
    struct web a = web_post(s.port, CREATE, "{\"prompt\":\"x\",\"n\":10,\"steps\":150}");
    await(&s, "requests", 1);
    struct web b = web_post(s.port, CREATE, "{\"prompt\":\"x\",\"n\":10,\"steps\":150}");
    await(&s, "requests", 2);
    struct web c = web_post(s.port, CREATE, "{\"prompt\":\"x\"}");
    struct web_answer refused = web_finish(&c);
    assert_int_equal(refused.status, 429);
    assert_has(refused.head, "Retry-After: ");
    assert_has(refused.body, "--image-queue 1");
    web_answer_fini(&refused);
    web_close(&a);
    web_close(&b);
    await(&s, "requests", 0);
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\"}", 200));
    stage_stop(&s);
}

static void test_one_at_a_time(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    s.options.images.worker.model = "fake:20";
    s.options.max_per_key = 1;
    stage_start(&s, false);
    struct web first = web_post(s.port, CREATE, "{\"prompt\":\"x\",\"n\":10,\"steps\":150}");
    await(&s, "requests", 1);
    json_t *v = ask(&s, CREATE, "{\"prompt\":\"x\"}", 429);
    assert_has(text_at(v, "error.message"), "has 1 requests for pictures running");
    json_decref(v);
    web_close(&first);
    await(&s, "requests", 0);
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\"}", 200));
    stage_stop(&s);
}

static void test_keys(void **state)
{
    static const char text[] = "user inference k1\nboss admin k2\n";
    char keys[] = "/tmp/tandem-images-keys-XXXXXX";
    struct stage s;
    int fd = mkstemp(keys);

    (void)state;
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    stage_init(&s);
    s.options.images.worker.model = "fake:0";
    s.options.api_key_file = keys;
    s.options.max_per_key = 1;
    stage_start(&s, false);
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\"}", 401));
    struct web w = web_open(s.port, "POST", CREATE, "Authorization: Bearer k2\r\n", "{}");
    json_decref(finish_json(&w, 403));
    w = web_open(s.port, "POST", CREATE, "Authorization: Bearer k1\r\n",
                 "{\"prompt\":\"x\",\"response_format\":\"url\"}");
    json_t *v = finish_json(&w, 200);
    struct web_answer a = web_get(s.port, path_of(v)); // who knows it may fetch it
    assert_int_equal(a.status, 200);
    web_answer_fini(&a);
    w = web_open(s.port, "POST", "/v1/tandem/forget", "Authorization: Bearer k2\r\n",
                 "{\"key\":\"boss\"}");
    json_decref(finish_json(&w, 200));
    assert_int_equal(files_kept(), 1); // not the boss's
    w = web_open(s.port, "POST", "/v1/tandem/forget", "Authorization: Bearer k2\r\n",
                 "{\"key\":\"user\"}");
    json_decref(finish_json(&w, 200));
    assert_int_equal(files_kept(), 0);
    json_decref(v);
    stage_stop(&s);
    unlink(keys);
}

// While a chat runs, a picture waits between two steps, and goes on when it has ended; with the other policy
// it does not wait.
static void test_pause(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    s.options.images.worker.model = "fake:5";
    s.local.hold_generate = true;
    stage_start(&s, false);
    stage_await(&s, 0, "up");
    struct web chat = web_post(s.port, "/v1/completions", "{\"prompt\":\"abc\"}");
    fake_expect(&s.local, WIRE_GENERATE, 1);
    struct web picture = web_post(s.port, CREATE, "{\"prompt\":\"x\",\"steps\":100}");
    await(&s, "paused", 1);
    assert_int_equal(figure(&s, "done"), 0);
    web_close(&chat);
    struct web_answer a = web_finish(&picture);
    assert_int_equal(a.status, 200);
    web_answer_fini(&a);
    await(&s, "paused", 0);
    stage_stop(&s);

    stage_init(&s);
    s.options.images.worker.model = "fake:0";
    s.options.images.wait = true;
    s.local.hold_generate = true;
    stage_start(&s, false);
    stage_await(&s, 0, "up");
    chat = web_post(s.port, "/v1/completions", "{\"prompt\":\"abc\"}");
    fake_expect(&s.local, WIRE_GENERATE, 1);
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\",\"steps\":50}", 200));
    assert_int_equal(figure(&s, "paused"), 0);
    web_close(&chat);
    stage_stop(&s);
}

static _Atomic int drained;

static void on_event(void *ctx, enum gateway_event event, const char *text)
{
    (void)ctx;
    (void)text;
    drained += event == GATEWAY_DRAINED;
}

// Stopping waits for the picture that is drawn; what comes then is refused.
static void test_drain(void **state)
{
    struct stage s;

    (void)state;
    drained = 0;
    stage_init(&s);
    s.options.images.worker.model = "fake:5";
    s.options.on_event = on_event;
    stage_start(&s, false);
    struct web w = web_post(s.port, CREATE, "{\"prompt\":\"x\",\"n\":2,\"steps\":150}");
    await(&s, "requests", 1);
    gateway_drain(s.gateway);
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\"}", 503));
    struct web_answer a = web_finish(&w);
    assert_int_equal(a.status, 200);
    web_answer_fini(&a);
    for (int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS; drained == 0;) {
        assert_true(clock_now_ns() < limit_ns);
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    }
    stage_stop(&s);
    assert_int_equal(drained, 1);
}

// The server ends in the middle of a picture: the client is told.
static void test_stop(void **state)
{
    struct stage s;

    (void)state;
    start(&s, "fake:20");
    struct web w = web_post(s.port, CREATE, "{\"prompt\":\"x\",\"n\":10,\"steps\":150}");
    await(&s, "requests", 1);
    stage_stop(&s);
    json_t *v = finish_json(&w, 503);
    assert_has(text_at(v, "error.message"), "stopping");
    json_decref(v);
}

// What was learned about speed outlives the server.
static void test_speed(void **state)
{
    struct stage s;

    (void)state;
    start(&s, "fake:1");
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\",\"size\":\"32x32\"}", 200));
    stage_stop(&s);
    start(&s, "fake:1");
    json_t *v = status_get(&s);
    assert_int_equal(json_integer_value(at(v, "speeds.0.width")), 32);
    assert_int_equal(json_integer_value(at(v, "speeds.0.steps")), 4);
    assert_true(json_real_value(at(v, "speeds.0.step_s")) > 0);
    json_decref(v);
    stage_stop(&s);
}

// ---- room for training jobs ---------------------------------------------------------------------------------

static void test_room(void **state)
{
    struct gateway_options o;
    const struct images_hooks hooks = {0};
    struct images *i = NULL;
    struct err e = {0};

    (void)state;
    gateway_options_default(&o);
    o.images.worker.model = "fake:0";
    assert_int_equal(images_start(&o, &hooks, &i, &e), 0);
    assert_int_equal(images_room(i, 1), 0); // there is so much
    json_t *v = images_status_json(i);
    assert_string_not_equal(text_at(v, "state"), "unloaded");
    json_decref(v);
    assert_int_equal(images_room(i, UINT64_MAX), 0);
    images_room(i, UINT64_MAX); // what was told by then is told
    v = images_status_json(i);
    assert_string_equal(text_at(v, "state"), "unloaded");
    assert_int_equal(json_integer_value(at(v, "pid")), -1);
    json_decref(v);
    assert_int_equal(images_room(i, 0), 0);
    assert_int_equal(images_room(i, 0), 0);
    v = images_status_json(i);
    assert_string_not_equal(text_at(v, "state"), "unloaded");
    json_decref(v);
    images_stop(i);
    assert_int_equal(images_room(i, 0), 0); // nobody is there any more: no hang
    images_free(i);
    assert_int_equal(images_room(NULL, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_leaving), SCRATCH_TEST(test_killed),        SCRATCH_TEST(test_cannot),
        SCRATCH_TEST(test_queue),   SCRATCH_TEST(test_keys),          SCRATCH_TEST(test_pause),
        SCRATCH_TEST(test_drain),   SCRATCH_TEST(test_stop),          SCRATCH_TEST(test_speed),
        SCRATCH_TEST(test_room),    SCRATCH_TEST(test_one_at_a_time),
    };

    return tests_are_skipped() ? 0 : cmocka_run_group_tests(tests, NULL, NULL);
}
