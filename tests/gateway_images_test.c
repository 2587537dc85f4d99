// Pictures over HTTP: what is refused and how, answers of every shape, streams, edits, pictures by url, clients that
// leave, workers that die, chats that go first, queues that are full. The worker is the real process with its
// fake engine.
#include "gateway_fake.h"

#include "base/base64.h"
#include "gateway/images.h"
#include "image/image.h"
#include "jobs/jobs.h"
#include "scratch.h"

#include <dirent.h>
#include <signal.h>

#define CREATE "/v1/images/generations"
#define EDIT "/v1/images/edits"

static char folder[64];

static void start(struct stage *s, const char *model)
{
    stage_init(s);
    s->options.images.worker.model = model;
    stage_start(s, false);
}

static json_t *ask(struct stage *s, const char *path, const char *body, int status)
{
    struct web w = web_post(s->port, path, body);

    return finish_json(&w, status);
}

static json_t *status_get(struct stage *s)
{
    struct web_answer a = web_get(s->port, "/v1/tandem/status");
    json_t *v = parse(a.body);
    json_t *images = json_incref(at(v, "images"));

    assert_int_equal(a.status, 200);
    json_decref(v);
    web_answer_fini(&a);
    return images;
}

static json_int_t figure(struct stage *s, const char *member)
{
    json_t *v = status_get(s), *m = json_object_get(v, member);
    json_int_t n = json_is_boolean(m) ? json_is_true(m) : json_integer_value(m);

    json_decref(v);
    return n;
}

static void await(struct stage *s, const char *member, json_int_t value)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;

    while (figure(s, member) != value) {
        if (clock_now_ns() > limit_ns)
            fail_msg("%s is never %lld", member, (long long)value);
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    }
}

// A picture's bytes out of an answer; caller frees.
static uint8_t *bytes_of(json_t *answer, const char *path, size_t *n)
{
    const char *text = text_at(answer, path);
    uint8_t *data = mem_alloc(strlen(text) / 4 * 3 + 4);
    size_t bad;

    assert_true(base64_decode(text, strlen(text), data, n, &bad));
    return data;
}

// ---- answers ------------------------------------------------------------------------------------------

static void test_answer(void **state)
{
    struct stage s;
    size_t n = 0, m = 0;
    struct image_picture p;
    struct err e = {0};

    (void)state;
    start(&s, "fake:0");
    json_t *v =
        ask(&s, CREATE, "{\"prompt\":\"a cat\",\"n\":2,\"seed\":7,\"size\":\"32x64\"}", 200);
    assert_int_equal(json_array_size(at(v, "data")), 2);
    assert_int_equal(json_integer_value(at(v, "data.1.seed")), 8);
    assert_string_equal(text_at(v, "size"), "32x64");
    assert_string_equal(text_at(v, "output_format"), "png");
    assert_string_equal(text_at(v, "quality"), "medium");
    assert_int_equal(json_integer_value(at(v, "timings.steps")), 4);
    uint8_t *a = bytes_of(v, "data.1.b64_json", &n);
    assert_int_equal(image_decode(a, n, &p, &e), 0);
    assert_int_equal(p.width, 32);
    assert_int_equal(p.height, 64);
    image_picture_fini(&p);
    json_decref(v);
    // The same seed is the same file, also as the first of another request.
    v = ask(&s, CREATE, "{\"prompt\":\"a cat\",\"seed\":8,\"size\":\"32x64\"}", 200);
    uint8_t *b = bytes_of(v, "data.0.b64_json", &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n);
    free(a);
    free(b);
    json_decref(v);
    v = ask(&s, CREATE,
            "{\"prompt\":\"x\",\"output_format\":\"webp\",\"quality\":\"low\",\"style\":\"vivid\","
            "\"output_compression\":50,\"model\":\"FAKE:0\",\"user\":\"u\",\"size\":\"auto\"}",
            200);
    assert_int_equal(json_integer_value(at(v, "timings.steps")), 2);
    a = bytes_of(v, "data.0.b64_json", &n);
    assert_memory_equal(a, "RIFF", 4);
    free(a);
    json_decref(v);
    stage_stop(&s);
}

static void test_refused(void **state)
{
    static const struct {
        const char *body, *param, *words;
        int status;
    } rows[] = {
        {"{}", "prompt", "missing", 400},
        {"[]", "(none)", "JSON object", 400},
        {"{\"prompt\":", "(none)", "", 400},
        {"{\"prompt\":7}", "prompt", "string", 400},
        {"{\"prompt\":\"\"}", "prompt", "empty", 400},
        {"{\"prompt\":\"a\\u0001b\"}", "prompt", "control character 0x01", 400},
        {"{\"prompt\":\"a\\u0000b\"}", "(none)", "", 400},
        {"{\"prompt\":\"<lora:../../etc/passwd:1>\"}", "prompt", "../../etc/passwd", 400},
        {"{\"prompt\":\"<lora:a:1e9>\"}", "prompt", "weight", 400},
        {"{\"prompt\":\"x <lora:a:1>\"}", "prompt", "no folder of LoRAs", 400},
        {"{\"prompt\":\"x\",\"negative_prompt\":\"\\u0007\"}", "negative_prompt", "0x07", 400},
        {"{\"prompt\":\"x\",\"n\":0}", "n", "0", 400},
        {"{\"prompt\":\"x\",\"n\":11}", "n", "11", 400},
        {"{\"prompt\":\"x\",\"n\":1e99}", "n", "", 400},
        {"{\"prompt\":\"x\",\"n\":-9223372036854775808}", "n", "-9223372036854775808", 400},
        {"{\"prompt\":\"x\",\"size\":\"9999999999x64\"}", "size", "9999999999x64", 400},
        {"{\"prompt\":\"x\",\"size\":\"4096x4096\"}", "size", "16777216 pixels", 400},
        {"{\"prompt\":\"x\",\"size\":\"60x64\"}", "size", "multiples of 8", 400},
        {"{\"prompt\":\"x\",\"size\":64}", "size", "string", 400},
        {"{\"prompt\":\"x\",\"steps\":151}", "steps", "151", 400},
        {"{\"prompt\":\"x\",\"seed\":-2}", "seed", "-2", 400},
        {"{\"prompt\":\"x\",\"cfg\":51}", "cfg", "51", 400},
        {"{\"prompt\":\"x\",\"cfg_scale\":-1}", "cfg_scale", "-1", 400},
        {"{\"prompt\":\"x\",\"sampler\":\"../../x\"}", "sampler", "../../x", 400},
        {"{\"prompt\":\"x\",\"scheduler\":\"y\"}", "scheduler", "karras", 400},
        {"{\"prompt\":\"x\",\"quality\":\"best\"}", "quality", "best", 400},
        {"{\"prompt\":\"x\",\"background\":\"transparent\"}", "background", "opaque", 400},
        {"{\"prompt\":\"x\",\"output_format\":\"gif\"}", "output_format", "gif", 400},
        {"{\"prompt\":\"x\",\"output_compression\":101}", "output_compression", "101", 400},
        {"{\"prompt\":\"x\",\"response_format\":\"file\"}", "response_format", "file", 400},
        {"{\"prompt\":\"x\",\"response_format\":\"url\",\"store\":false}", "response_format",
         "b64_json", 400},
        {"{\"prompt\":\"x\",\"partial_images\":2}", "partial_images", "stream", 400},
        {"{\"prompt\":\"x\",\"partial_images\":4,\"stream\":true}", "partial_images", "4", 400},
        {"{\"prompt\":\"x\",\"stream\":\"yes\"}", "stream", "", 400},
        {"{\"prompt\":\"x\",\"n\":10,\"size\":\"2048x2048\"}", "n", "160 MB", 400},
        {"{\"prompt\":\"x\",\"model\":\"dall-e-3\"}", "model", "this server has \"fake:0\"", 404},
    };
    struct stage s;

    (void)state;
    start(&s, "fake:0");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *v = ask(&s, CREATE, rows[i].body, rows[i].status);
        const char *param = text_at(v, "error.param");

        if (strcmp(param, rows[i].param) != 0)
            fail_msg("%s: the member at fault is %s", rows[i].body, param);
        assert_has(text_at(v, "error.message"), rows[i].words);
        json_decref(v);
    }
    // A megabyte of prompt.
    char *long_one = prompt_body(1u << 20, "");
    json_t *v = ask(&s, CREATE, long_one, 400);
    assert_string_equal(text_at(v, "error.param"), "prompt");
    assert_has(text_at(v, "error.message"), "1048576 bytes");
    json_decref(v);
    free(long_one);
    assert_int_equal(figure(&s, "done"), 0);
    stage_stop(&s);
}

// Without an image model the routes say so.
static void test_none(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    stage_start(&s, false);
    json_t *v = ask(&s, CREATE, "{\"prompt\":\"x\"}", 404);
    assert_has(text_at(v, "error.message"), "--image-model");
    json_decref(v);
    json_decref(ask(&s, EDIT, "{}", 404));
    v = status_get(&s);
    assert_true(json_is_null(v));
    json_decref(v);
    stage_stop(&s);
}

static void test_listed(void **state)
{
    struct stage s;

    (void)state;
    stage_init(&s);
    s.options.images.worker.model = "fake:0";
    s.options.images.name = "painter";
    stage_start(&s, false);
    stage_await(&s, 0, "up");
    struct web_answer a = web_get(s.port, "/v1/models");
    json_t *v = parse(a.body), *last = json_array_get(at(v, "data"), 1);
    assert_string_equal(text_at(last, "id"), "painter");
    assert_string_equal(text_at(last, "meta.kind"), "image");
    assert_true(json_is_true(at(last, "meta.edits")));
    json_decref(v);
    web_answer_fini(&a);
    a = web_get(s.port, "/v1/models/painter");
    assert_int_equal(a.status, 200);
    assert_has(a.body, "\"fake\"");
    web_answer_fini(&a);
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\",\"model\":\"painter\"}", 200));
    a = web_get(s.port, "/metrics");
    assert_has(a.body, "tandem_images_total{end=\"done\"} 1");
    assert_has(a.body, "tandem_image_step_seconds_count 4");
    web_answer_fini(&a);
    stage_stop(&s);
}

// ---- streams ------------------------------------------------------------------------------------------

static void test_stream(void **state)
{
    struct stage s;

    (void)state;
    start(&s, "fake:1");
    struct web w =
        web_post(s.port, CREATE, "{\"prompt\":\"x\",\"stream\":true,\"partial_images\":1}");
    struct web_answer a = web_finish(&w);
    assert_int_equal(a.status, 200);
    assert_false(a.cut);
    assert_has(a.head, "text/event-stream");
    assert_has(a.body, "event: image_generation.partial_image\ndata: {\"b64_json\":\"");
    assert_has(a.body, "\"partial_image_index\":0");
    assert_has(a.body, "event: image_generation.completed\n");
    assert_null(strstr(a.body, "progress"));
    web_answer_fini(&a);
    w = web_post(s.port, CREATE,
                 "{\"prompt\":\"x\",\"stream\":true,\"progress\":true,\"n\":2,"
                 "\"response_format\":\"url\"}");
    a = web_finish(&w);
    assert_has(a.body, "\"index\":1,\"n\":2,\"step\":4,\"steps\":4");
    assert_has(a.body, "data: {\"url\":\"http://127.0.0.1/v1/images/files/");
    web_answer_fini(&a);
    // What goes wrong once it has begun is an event.
    w = web_post(s.port, CREATE, "{\"prompt\":\"fail\",\"stream\":true}");
    a = web_finish(&w);
    assert_has(a.body, "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"it fails");
    assert_false(a.cut);
    web_answer_fini(&a);
    stage_stop(&s);
}

// ---- pictures by url ------------------------------------------------------------------------------------

static const char *path_of(json_t *v)
{
    const char *path = strstr(text_at(v, "data.0.url"), "/v1/images/files/");

    assert_non_null(path);
    return path;
}

static size_t files_kept(void)
{
    char path[128];
    size_t n = 0;
    const struct dirent *entry;

    snprintf(path, sizeof(path), "%s/images", folder);
    DIR *d = opendir(path);
    while (d && (entry = readdir(d)))
        n += entry->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static void test_url(void **state)
{
    static const char *const bad[] = {"/v1/images/files/x", "/v1/images/files/../../keys",
                                      "/v1/images/files/0123456789abcdef0123456789abcdef.png",
                                      "/v1/images/files/0123456789abcdef0123456789abcdef.sh"};
    struct stage s;

    (void)state;
    start(&s, "fake:0");
    json_t *v = ask(&s, CREATE, "{\"prompt\":\"x\",\"response_format\":\"url\"}", 200);
    struct web_answer a = web_get(s.port, path_of(v));
    assert_int_equal(a.status, 200);
    assert_has(a.head, "image/png");
    web_answer_fini(&a);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        a = web_get(s.port, bad[i]);
        assert_int_equal(a.status, 404);
        web_answer_fini(&a);
    }
    assert_int_equal(files_kept(), 1);
    json_t *told = ask(&s, "/v1/tandem/forget", "{}", 200);
    assert_int_equal(json_integer_value(at(told, "pictures")), 1);
    json_decref(told);
    assert_int_equal(files_kept(), 0);
    a = web_get(s.port, path_of(v));
    assert_int_equal(a.status, 404);
    web_answer_fini(&a);
    json_decref(v);
    json_decref(ask(&s, CREATE, "{\"prompt\":\"x\"}", 200)); // keeps nothing
    assert_int_equal(files_kept(), 0);
    stage_stop(&s);
}

static void test_store(void **state)
{
    char name[IMAGES_STORE_NAME_BYTES], other[IMAGES_STORE_NAME_BYTES];
    enum image_format format;
    uint64_t bytes = 0;
    struct err e = {0};
    int fd;

    (void)state;
    assert_int_equal(images_store_put("aa", IMAGE_JPEG, "1234", 4, name, &e), 0);
    assert_int_equal(images_store_put("", IMAGE_PNG, "12345", 5, other, &e), 0);
    assert_int_equal(images_store_open(name, 60, &fd, &bytes, &format, &e), 0);
    assert_int_equal(bytes, 4);
    assert_int_equal(format, IMAGE_JPEG);
    close(fd);
    assert_int_equal(images_store_open(name, 0, &fd, &bytes, &format, &e), ERR_NOT_FOUND);
    assert_int_equal(images_store_expire(60), 0);
    assert_int_equal(images_store_forget("bb"), 0);
    assert_int_equal(images_store_forget("aa"), 1);
    assert_int_equal(images_store_open(name, 60, &fd, &bytes, &format, &e), ERR_NOT_FOUND);
    assert_int_equal(images_store_expire(0), 1);
    assert_int_equal(files_kept(), 0);
}

// ---- edits ------------------------------------------------------------------------------------------------

#define PART(name, value)                                                                          \
    "--xx\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" value "\r\n"

static json_t *form_post(struct stage *s, const char *fields, const uint8_t *image, size_t n,
                         int status)
{
    static const char head[] = "--xx\r\nContent-Disposition: form-data; name=\"image\"; "
                               "filename=\"a.png\"\r\n\r\n",
                      end[] = "\r\n--xx--\r\n";
    struct web w = {.fd = web_dial(s->port)};
    size_t file = image ? strlen(head) + n : 0;
    char *text = mem_format("POST " EDIT " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                            "Content-Type: multipart/form-data; boundary=xx\r\n"
                            "Content-Length: %zu\r\n\r\n%s",
                            strlen(fields) + file + strlen(end), fields);

    buf_init(&w.in, 64u << 20);
    web_write(&w, text, strlen(text));
    if (image)
        web_write(&w, head, strlen(head));
    if (image)
        web_write(&w, image, n);
    web_write(&w, end, strlen(end));
    free(text);
    return finish_json(&w, status);
}

static void test_edit(void **state)
{
    struct stage s;
    size_t n = 0, m = 0;
    struct image_picture from, to;
    struct err e = {0};

    (void)state;
    start(&s, "fake:0");
    json_t *v = ask(&s, CREATE, "{\"prompt\":\"x\",\"seed\":1,\"size\":\"32x32\"}", 200);
    uint8_t *png = bytes_of(v, "data.0.b64_json", &n);
    char *json = mem_format("{\"prompt\":\"y\",\"seed\":2,\"images\":[{\"image_url\":"
                            "\"data:image/png;base64,%s\"}]}",
                            text_at(v, "data.0.b64_json"));
    assert_int_equal(image_decode(png, n, &from, &e), 0);
    json_decref(v);
    v = form_post(&s, PART("prompt", "y") PART("seed", "2") PART("cfg", "1.5"), png, n, 200);
    uint8_t *edited = bytes_of(v, "data.0.b64_json", &m);
    assert_int_equal(image_decode(edited, m, &to, &e), 0);
    assert_int_equal(to.width, 32);
    assert_memory_equal(to.rgb, from.rgb, 32 * 32 * 3 / 2); // the fake lets it show through
    json_decref(v);
    struct web w = web_open(s.port, "POST", EDIT, "Content-Type: application/json\r\n", json);
    v = finish_json(&w, 200);
    assert_int_equal(json_array_size(at(v, "data")), 1);
    json_decref(v);
    image_picture_fini(&from);
    image_picture_fini(&to);
    free(edited);
    free(json);
    free(png);
    stage_stop(&s);
}

static void test_edit_refused(void **state)
{
    static const struct {
        const char *fields, *image, *param, *words;
    } rows[] = {
        {PART("prompt", "y"), NULL, "image", "missing"},
        {PART("prompt", "y"), "hello", "image", "not a picture"},
        {PART("prompt", "y"), "\x89PNG\r\n\x1a\n", "image", "damaged PNG"},
        {PART("prompt", "y") PART("n", "many"), "x", "n", "integer"},
        {PART("prompt", "y") PART("stream", "1"), "x", "stream", ""},
        {PART("prompt", "\xff"), "x", "prompt", "UTF-8"},
        {PART("n", "1"), "x", "prompt", "missing"},
        {PART("prompt", "y") PART("size", "1x1"), "x", "size", "1x1"},
        {"--xx\r\nContent-Disposition: form-data\r\n\r\nnameless\r\n", "x", "prompt", "missing"},
    };
    struct stage s;

    (void)state;
    start(&s, "fake:0");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const uint8_t *image = (const uint8_t *)rows[i].image;
        json_t *v = form_post(&s, rows[i].fields, image, image ? strlen(rows[i].image) : 0, 400);

        if (strcmp(text_at(v, "error.param"), rows[i].param) != 0)
            fail_msg("row %zu: %s", i, text_at(v, "error.message"));
        assert_has(text_at(v, "error.message"), rows[i].words);
        json_decref(v);
    }
    struct web w = web_open(s.port, "POST", EDIT, "Content-Type: application/json\r\n",
                            "{\"prompt\":\"x\",\"image\":\"http://192.0.2.1/a.png\"}");
    json_t *v = finish_json(&w, 400);
    assert_has(text_at(v, "error.message"), "nothing is fetched");
    json_decref(v);
    w = web_open(s.port, "POST", EDIT, "Content-Type: text/plain\r\n", "x");
    json_decref(finish_json(&w, 415));
    stage_stop(&s);
}

// A layout that takes no picture to begin with.
static void test_edit_layout(void **state)
{
    struct image_model m = {.layout = "other", .multiple = 8, .side = 64, .steps = 4, .cfg = 1};
    const struct images_known known = {&m, "a", "/models/a.gguf"};
    struct images_ask ask = {0};
    struct parse_fault fault;
    json_t *body = json_pack("{s:s}", "prompt", "x");

    (void)state;
    assert_int_equal(images_ask_parse(body, true, &known, &ask, &fault), ERR_UNSUPPORTED);
    assert_has(fault.e.message, "cannot edit");
    assert_int_equal(fault.status, 400);
    images_ask_fini(&ask);
    assert_true(images_goes_by(&known, "A.gguf"));
    assert_false(images_goes_by(&known, "b"));
}

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

// ---- running --------------------------------------------------------------------------------------------

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/tandem-images-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    setenv("TANDEM_DATA", folder, 1);
    return setenv("TANDEM_STATE", folder, 1);
}

static int teardown(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

#define FRESH(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FRESH(test_answer),       FRESH(test_refused),     FRESH(test_none),    FRESH(test_listed),
        FRESH(test_stream),       FRESH(test_url),         FRESH(test_store),   FRESH(test_edit),
        FRESH(test_edit_refused), FRESH(test_edit_layout), FRESH(test_leaving), FRESH(test_killed),
        FRESH(test_cannot),       FRESH(test_queue),       FRESH(test_keys),    FRESH(test_pause),
        FRESH(test_drain),        FRESH(test_stop),        FRESH(test_speed),   FRESH(test_room),
    };

    if (getenv("TANDEM_EMULATED")) {
        print_message("skipped: the image worker cannot be started under emulation\n");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
