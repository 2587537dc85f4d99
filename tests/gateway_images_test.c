// Pictures over HTTP: what is refused and how, answers of every shape, streams, edits, pictures by url.
#include "gateway_images.h"

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
    const struct images_known known = {.model = &m, .name = "a", .file = "/models/a.gguf"};
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_answer),      SCRATCH_TEST(test_refused), SCRATCH_TEST(test_none),
        SCRATCH_TEST(test_listed),      SCRATCH_TEST(test_stream),  SCRATCH_TEST(test_url),
        SCRATCH_TEST(test_store),       SCRATCH_TEST(test_edit),    SCRATCH_TEST(test_edit_refused),
        SCRATCH_TEST(test_edit_layout),
    };

    return tests_are_skipped() ? 0 : cmocka_run_group_tests(tests, NULL, NULL);
}
