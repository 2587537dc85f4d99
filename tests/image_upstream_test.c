// What servers that draw are told and what is read out of their answers: markup that is taken out of prompts, bodies
// of each kind, pictures and lists of models, ComfyUI's workflows.
#include "gateway/image_markup.h"
#include "gateway/image_upstream_impl.h"

#include "base/base64.h"
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// ---- markup --------------------------------------------------------------------------------------------

static void test_markup(void **state)
{
    static const struct {
        const char *text, *left;
    } rows[] = {
        {"", ""},
        {"a red cat", "a red cat"},
        {"2 < 3 > 1, <b>bold</b>, a:b, (x:1.2), {a|b}, __c__", NULL},
        {"\xc3\xa9\xf0\x9f\x90\x88 <lora:\xc3\xa9:1>!", "\xc3\xa9\xf0\x9f\x90\x88 !"},
        {"a <lora:x:1> b", "a  b"},
        {"a <LoRA:../../etc/x:9> b", "a  b"},
        {"<lyco:x><hypernet:y:1><z1_:>", ""},
        {"<lora:x", "x"},
        {"<lora:", ""},
        {"<:x>", NULL},
        {"< lora:x:1>", NULL},
        {"<lora :x:1>", NULL},
        {"<lora:a<lora:b:1>:1>", ":1>"},
        {"<lo<lora:a:1>ra:b:1>", ""},
        {"<lo<lo<lora:a:1>ra:b:1>ra:c:1>", ""},
        {"a<sd_cpp_extra_args>{\"seed\":1}</sd_cpp_extra_args>b", "ab"},
        {"a<SD_CPP_extra_args>{}</sd_cpp_EXTRA_args >b", "ab"},
        {"a<sd_cpp_extra_args>{", "a"},
        {"a<sd_cpp_extra_args", "a"},
        {"a</sd_cpp_extra_args>b", "ab"},
        {"a</sd_cpp_extra_args", "a"},
        {"a<sd_cpp_extra_args>1<sd_cpp_extra_args>2</sd_cpp_extra_args>3</sd_cpp_extra_args>b",
         "a3b"},
        {"<sd_cpp_extra_args>\n{}\n</sd_cpp_extra_args>c", "c"},
        // Its end went first: then it reaches to the end.
        {"<sd_cpp_<lora:a:1>extra_args>{}</sd_cpp_extra_args>c", ""},
        {"<sd_cpp_<sd_cpp_extra_args></sd_cpp_extra_args>extra_args>{}</sd_cpp_extra_args>c", ""},
        {"embedding:evil, Embedding:x", "evil, x"},
        {"emb<lora:a:1>edding:evil", "evil"},
        {"embembedding:edding:evil", "evil"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *got = image_markup_strip(rows[i].text), *twice = image_markup_strip(got);

        assert_string_equal(got, rows[i].left ? rows[i].left : rows[i].text);
        assert_string_equal(got, twice);
        free(got);
        free(twice);
    }
}

// However deep somebody nests, it ends soon and nothing is left.
static void test_markup_deep(void **state)
{
    struct buf b;
    char *got;

    (void)state;
    buf_init(&b, 1u << 20);
    for (int i = 0; i < 2000; i++)
        buf_puts(&b, "<lo");
    for (int i = 0; i < 2000; i++)
        buf_puts(&b, "ra:x>");
    got = image_markup_strip((const char *)b.data);
    assert_null(strstr(got, "<lora:"));
    assert_null(strchr(got, '<'));
    free(got);
    buf_fini(&b);
}

// ---- what is asked -------------------------------------------------------------------------------------

static const struct images_part none;

static json_t *body_of(const char *text)
{
    struct err e = {0};
    json_t *o = json_parse(text, strlen(text), &e);

    assert_non_null(o);
    return o;
}

static void assert_json(json_t *got, const char *want)
{
    json_t *o = body_of(want);

    if (!json_equal(got, o)) {
        char *text = json_line(got);

        fail_msg("%s\nis not\n%s", text, want);
    }
    json_decref(o);
    json_decref(got);
}

static void test_bodies(void **state)
{
    struct image_request r;
    struct err e = {0};
    json_t *said = body_of("{\"quality\":\"hd\",\"seed\":4,\"user\":\"u\",\"style\":null}");
    struct image_upstream_order o = {.request = &r,
                                     .body = said,
                                     .model = "m",
                                     .count = 2,
                                     .seed = 4,
                                     .image = &none,
                                     .mask = &none};

    (void)state;
    image_request_default(&r);
    r.prompt = "a <lora:x:1>cat";
    r.steps = 8; // of the model here: nobody said it
    assert_json(image_upstream_openai_body(&o),
                "{\"model\":\"m\",\"prompt\":\"a cat\",\"n\":2,\"response_format\":\"b64_json\","
                "\"quality\":\"hd\",\"seed\":4}");
    o.model = "ChatGPT-Image-latest";
    r.width = 64;
    r.height = 32;
    assert_json(image_upstream_openai_body(&o),
                "{\"model\":\"ChatGPT-Image-latest\",\"prompt\":\"a cat\",\"n\":2,"
                "\"size\":\"64x32\",\"quality\":\"hd\",\"seed\":4}");
    r.negative = "embedding:bad";
    r.cfg = 2;
    r.scheduler = "karras";
    assert_json(image_upstream_sd_body(&o, &e),
                "{\"prompt\":\"a cat\",\"negative_prompt\":\"bad\",\"batch_size\":2,\"seed\":4,"
                "\"width\":64,\"height\":32,\"steps\":8,\"cfg_scale\":2.0,"
                "\"scheduler\":\"karras\"}");
    json_decref(said);
}

// ---- answers -------------------------------------------------------------------------------------------

struct heard {
    char text[64];
    uint32_t n;
};

static int hear(void *ctx, const uint8_t *data, size_t n, struct err *e)
{
    struct heard *h = ctx;
    size_t at = strlen(h->text);

    snprintf(h->text + at, sizeof(h->text) - at, "%.*s;", (int)n, (const char *)data);
    return ++h->n == 3 ? err_set(e, ERR_CANCELLED, "enough") : 0;
}

static void test_pictures(void **state)
{
    static const struct {
        const char *text;
        int rc;
        const char *heard;
    } rows[] = {
        {"{\"data\":[{\"b64_json\":\"YWI=\"},{\"b64_json\":\"Yw==\"}]}", 0, "ab;c;"},
        {"{\"images\":[\"YWI=\",\"data:image/png;base64,Yw==\"]}", 0, "ab;c;"},
        {"{\"data\":[{\"url\":\"data:image/png;base64,Yw==\"}]}", 0, "c;"},
        {"{\"data\":[{\"b64_json\":\"YQ==\"},{\"b64_json\":\"YQ==\"},{\"b64_json\":\"YQ==\"},"
         "{\"b64_json\":\"YQ==\"}]}",
         ERR_CANCELLED, "a;a;a;"},
        {"{\"data\":[{\"url\":\"https://example.org/a.png\"}]}", ERR_CORRUPT, ""},
        {"{\"data\":[{\"b64_json\":\"*\"}]}", ERR_CORRUPT, ""},
        {"{\"data\":[{\"b64_json\":7}]}", ERR_CORRUPT, ""},
        {"{\"data\":[7]}", ERR_CORRUPT, ""},
        {"{\"data\":[]}", ERR_CORRUPT, ""},
        {"{\"images\":{}}", ERR_CORRUPT, ""},
        {"[]", ERR_CORRUPT, ""},
        {"{", ERR_CORRUPT, ""},
        {"", ERR_CORRUPT, ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct heard h = {0};
        struct err e = {0};
        const struct image_upstream_taker t = {hear, &h, 10};

        assert_int_equal(image_upstream_pictures(rows[i].text, strlen(rows[i].text), &t, &e),
                         rows[i].rc);
        assert_string_equal(h.text, rows[i].heard);
        assert_true(rows[i].rc == 0 || e.message[0]);
    }
    struct heard h = {0};
    struct err e = {0};
    const struct image_upstream_taker one = {hear, &h, 1};

    assert_int_equal(image_upstream_pictures(rows[0].text, strlen(rows[0].text), &one, &e), 0);
    assert_string_equal(h.text, "ab;"); // no more than were asked for
}

static void test_lists(void **state)
{
    static const struct {
        enum gateway_upstream_kind kind;
        const char *text, *names;
    } rows[] = {
        {GATEWAY_UPSTREAM_OPENAI, "{\"data\":[{\"id\":\"a\"},{\"id\":\"\"},{},7,{\"id\":\"b\"}]}",
         "[\"a\",\"b\"]"},
        {GATEWAY_UPSTREAM_OPENAI, "[{\"id\":\"a\"}]", "[\"a\"]"},
        {GATEWAY_UPSTREAM_OPENAI, "{}", NULL},
        {GATEWAY_UPSTREAM_SD, "[{\"title\":\"x [1]\",\"model_name\":\"x\"}]", "[\"x\"]"},
        {GATEWAY_UPSTREAM_SD, "{\"data\":[]}", NULL},
        {GATEWAY_UPSTREAM_COMFY, "{\"system\":{}}", "[]"},
        {GATEWAY_UPSTREAM_COMFY, "[]", NULL},
        {GATEWAY_UPSTREAM_COMFY, "<html>", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct err e = {0};
        json_t *names = image_upstream_list(rows[i].kind, rows[i].text, strlen(rows[i].text), &e);

        if (rows[i].names)
            assert_json(names, rows[i].names);
        else
            assert_null(names);
        assert_true(names || e.message[0]);
    }
}

// ---- workflows -----------------------------------------------------------------------------------------

static void test_workflow_refused(void **state)
{
    static const struct {
        const char *text, *words;
    } rows[] = {
        {"", ""},
        {"[]", "API format"},
        {"{\"nodes\":[],\"links\":[]}", "Export (API)"},
        {"{\"1\":{\"inputs\":{}}}", "\"1\" has no class_type"},
        {"{\"1\":{\"class_type\":\"A\"}}", "no inputs"},
        {"{\"1\":{\"class_type\":\"A\",\"inputs\":{}}}", "%prompt%"},
        {"{\"1\":{\"class_type\":\"A\",\"inputs\":{\"a\":\"%prompt%\",\"b\":\"%width%\"}}}",
         "only one of"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct err e = {0};
        unsigned takes;

        assert_null(image_workflow_parse(rows[i].text, strlen(rows[i].text), &takes, &e));
        assert_non_null(strstr(e.message, rows[i].words));
    }
}

static void test_workflow(void **state)
{
    static const char text[] =
        "{\"1\":{\"class_type\":\"A\",\"inputs\":{\"t\":\"x, %prompt% (%negative%) 100%\",\"n\":3,"
        "\"l\":[\"2\",0],\"seed\":\"%seed%\",\"steps\":\"%steps:30%\",\"cfg\":\"%cfg:1.5%\","
        "\"far\":\"%steps:1e300%\",\"odd\":\"%steps:%\",\"none\":\"%height\"}}}";
    struct image_request r;
    struct err e = {0};
    unsigned takes = 0;
    json_t *w = image_workflow_parse(text, strlen(text), &takes, &e);
    struct image_upstream_order o = {.request = &r, .seed = 9, .image = &none, .mask = &none};

    (void)state;
    assert_non_null(w);
    assert_int_equal(takes,
                     IMAGE_TAKES_NEGATIVE | IMAGE_TAKES_SEED | IMAGE_TAKES_STEPS | IMAGE_TAKES_CFG);
    image_request_default(&r);
    r.prompt = "\"],{%seed%} %negative% \\";
    assert_json(
        image_workflow_fill(w, &o),
        "{\"1\":{\"class_type\":\"A\",\"inputs\":{"
        "\"t\":\"x, \\\"],{%seed%} %negative% \\\\ () 100%\",\"n\":3,\"l\":[\"2\",0],"
        "\"seed\":9,\"steps\":30,\"cfg\":1.5,\"far\":\"%steps:1e300%\",\"odd\":\"%steps:%\","
        "\"none\":\"%height\"}}}");
    r.prompt = "%seed%";
    r.negative = "%prompt%";
    r.steps = 4;
    r.cfg = 3;
    assert_json(image_workflow_fill(w, &o),
                "{\"1\":{\"class_type\":\"A\",\"inputs\":{"
                "\"t\":\"x, %seed% (%prompt%) 100%\",\"n\":3,\"l\":[\"2\",0],\"seed\":9,"
                "\"steps\":4,\"cfg\":3.0,\"far\":\"%steps:1e300%\",\"odd\":\"%steps:%\","
                "\"none\":\"%height\"}}}");
    json_decref(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_markup),   cmocka_unit_test(test_markup_deep),
        cmocka_unit_test(test_bodies),   cmocka_unit_test(test_pictures),
        cmocka_unit_test(test_lists),    cmocka_unit_test(test_workflow_refused),
        cmocka_unit_test(test_workflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
