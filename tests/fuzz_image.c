// Frames of the image worker's protocol, of any bytes in any pieces: each is taken, waited for or refused with
// words, and what was taken is put again as the same bytes. Prompts of any bytes: LoRAs are taken out or refused. Bodies
// of requests over HTTP: what is accepted is within the limits. Markup for other servers that draw: none is left. What such
// servers answer, and workflows: taken or refused with words.
#include "base/json.h"
#include "gateway/image_markup.h"
#include "gateway/image_upstream_impl.h"
#include "gateway/images.h"
#include "image/frame.h"
#include "image/image.h"

#include <stdio.h>
#include <stdlib.h>

static void need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_image: %s\n", what);
    abort();
}

static void frames(const uint8_t *data, size_t n)
{
    struct buf in;
    struct err e = {0};
    int rc = 0;
    buf_init(&in, n + 1);
    for (size_t at = 0; at < n && rc >= 0; at++) {
        struct image_frame f = {0};
        buf_put(&in, data + at, 1);
        rc = image_frame_take(&in, &f, &e);
        need(rc >= 0 || e.message[0], "refused without words");
        if (rc != 1)
            continue;
        struct buf out;
        image_buf_init(&out);
        need(json_is_object(f.head), "no object");
        need(image_frame_put(&out, json_incref(f.head), f.data, f.len, &e) != 0 || out.len > f.len,
             "put");
        buf_fini(&out);
        image_frame_fini(&f);
    }
    buf_fini(&in);
}

static void prompt(const uint8_t *data, size_t n)
{
    const struct image_model m = {
        .layout = "fuzz", .multiple = 8, .side = 64, .steps = 4, .cfg = 1};
    struct image_request r;
    struct err e = {0};
    char *text = mem_alloc(n + 1), *out = NULL;
    uint32_t w = 0, h = 0;
    memcpy(text, data, n);
    image_request_default(&r);
    if (image_prompt_loras(text, &r, &out, &e) == 0) {
        r.prompt = out;
        need(strlen(out) <= strlen(text), "a prompt grew");
        for (uint32_t i = 0; i < r.n_loras; i++)
            need(strchr(r.loras[i].name, '/') == NULL, "a path");
        if (image_request_check(&r, &m, &e) == 0)
            need(strlen(out) <= IMAGE_PROMPT_MAX, "a long prompt");
    }
    need(out != NULL || e.message[0], "refused without words");
    if (image_size_parse(text, &w, &h, &e) == 0)
        need(w >= IMAGE_SIDE_MIN && h <= IMAGE_SIDE_MAX, "a size beyond the limits");
    free(out);
    free(text);
}

static void body(const uint8_t *data, size_t n, bool edit)
{
    const struct image_model m = {
        .layout = "fuzz", .multiple = 8, .side = 64, .steps = 4, .cfg = 1, .edits = true};
    const struct images_known known = {.model = &m, .name = "fuzz", .file = "/models/fuzz.gguf"};
    struct images_ask ask = {0};
    struct parse_fault fault = {0};
    struct err e = {0};
    json_t *v = json_parse(data, n, &e);
    int rc;
    if (v == NULL)
        return;
    rc = edit ? images_urls_take(v, &ask, &fault) : 0;
    if (rc == 0) {
        rc = images_ask_parse(v, edit, &known, &ask, &fault);
    } else {
        json_decref(v);
    }
    need(rc == 0 || (fault.e.message[0] && fault.status >= 400), "refused without words");
    if (rc == 0) {
        need(ask.request.count >= 1 && ask.request.count <= IMAGE_COUNT_MAX, "n");
        need(ask.request.steps >= 1 && ask.request.steps <= IMAGE_STEPS_MAX, "steps");
        need((uint64_t)ask.request.width * ask.request.height <= IMAGE_PIXELS_MAX, "size");
        need(ask.request.prompt[0] != '\0', "an empty prompt");
        need(!edit || ask.image.data != NULL, "an edit of nothing");
    }
    images_ask_fini(&ask);
}

// Another way to say what a server would execute: as its own patterns have it.
static bool executes(const char *text)
{
    for (; *text; text++) {
        size_t word = *text == '<' ? strspn(text + 1, "abcdefghijklmnopqrstuvwxyz_") : 0;
        if (word > 0 && text[1 + word] == ':' && strchr(text, '>') != NULL)
            return true;
        if (strncmp(text, "<sd_cpp_extra_args>", 19) == 0 || strncmp(text, "embedding:", 10) == 0)
            return true;
    }
    return false;
}

static void markup(const uint8_t *data, size_t n)
{
    char *text = mem_alloc(n + 1), *out, *again;
    memcpy(text, data, n);
    out = image_markup_strip(text);
    again = image_markup_strip(out);
    need(strlen(out) <= strlen(text), "a prompt grew");
    need(!executes(out), "markup is left");
    need(strcmp(out, again) == 0, "not all was taken at once");
    free(again);
    free(out);
    free(text);
}

static int picture(void *ctx, const uint8_t *data, size_t n, struct err *e)
{
    (void)data;
    (void)e;
    need(n <= IMAGE_UPSTREAM_PICTURE_MAX && ++*(uint32_t *)ctx <= 3, "too much of a picture");
    return 0;
}

static void upstream(const uint8_t *data, size_t n)
{
    uint32_t seen = 0;
    const struct image_upstream_taker taker = {picture, &seen, 3};
    struct image_request r;
    const struct images_part none = {0};
    const struct image_upstream_order o = {.request = &r, .image = &none, .mask = &none};
    struct err e = {0};
    unsigned takes = 0;
    json_t *v;
    need(image_upstream_pictures(data, n, &taker, &e) == 0 || e.message[0],
         "refused without words");
    for (int kind = GATEWAY_UPSTREAM_OPENAI; kind <= GATEWAY_UPSTREAM_COMFY; kind++) {
        v = image_upstream_list((enum gateway_upstream_kind)kind, data, n, &e);
        need(v == NULL || json_array_size(v) <= IMAGE_UPSTREAM_MODELS_MAX, "too many models");
        json_decref(v);
    }
    image_request_default(&r);
    r.prompt = "\"}%seed%";
    v = image_workflow_parse(data, n, &takes, &e);
    if (v != NULL) {
        json_t *full = image_workflow_fill(v, &o);
        need(json_object_size(full) == json_object_size(v), "a workflow of another shape");
        json_decref(full);
    }
    json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    frames(data, n);
    prompt(data, n);
    body(data, n, false);
    body(data, n, true);
    markup(data, n);
    upstream(data, n);
    return 0;
}
