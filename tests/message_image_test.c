// Messages of nodes that draw: what is built is read back equal, and what is wrong is refused by name before anything is
// allocated for it.
#include "base/buf.h"
#include "base/json.h"
#include "node/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void a_request_is_read_back_equal(void **state)
{
    struct image_picture initial = {64, 32, NULL};
    const struct image_request r = {.prompt = "a cat",
                                    .negative = "a dog",
                                    .width = 64,
                                    .height = 32,
                                    .count = 3,
                                    .steps = 9,
                                    .cfg = 2.5,
                                    .seed = 1ll << 40,
                                    .sampler = "heun",
                                    .previews = 2,
                                    .strength = 0.5,
                                    .initial = &initial,
                                    .mask = &initial,
                                    .loras = {{"soft", 0.5}},
                                    .n_loras = 1};
    struct message_draw m;
    struct err e = {0};
    json_t *head = message_draw_json(&r);
    (void)state;
    assert_int_equal(message_draw_parse(head, &m, &e), 0);
    assert_true(m.initial && m.mask);
    assert_int_equal(message_draw_bytes(&m), 2 * 64 * 32 * 3);
    m.request.initial = m.request.mask = &initial;
    json_t *again = message_draw_json(&m.request);
    assert_true(json_equal(head, again));
    json_decref(again);
    json_decref(head);
    assert_string_equal(m.request.loras[0].name, "soft"); // its texts live as long as it does
    assert_string_equal(m.request.prompt, "a cat");
    message_draw_fini(&m);
}

static void requests_that_are_none_are_refused(void **state)
{
    static const struct {
        const char *json, *part;
    } rows[] = {
        {"{}", "prompt"},
        {"[]", "DRAW"},
        {"{\"prompt\":7,\"width\":8,\"height\":8}", "prompt"},
        {"{\"prompt\":\"x\"}", "0x0"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":-8}", "height"},
        {"{\"prompt\":\"x\",\"width\":4097,\"height\":8}", "width"},
        {"{\"prompt\":\"x\",\"width\":4096,\"height\":4096}", "4096x4096"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":8,\"count\":11}", "count"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":8,\"steps\":1e9}", "steps"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":8,\"seed\":-2}", "seed"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":8,\"cfg\":51}", "cfg"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":8,\"mask\":true}", "mask"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":8,\"loras\":{}}", "loras"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":8,\"loras\":[{\"name\":\"../x\",\"weight\":1}]}",
         "LoRA"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":8,\"loras\":[{\"name\":\"x\",\"weight\":9}]}",
         "weight"},
        {"{\"prompt\":\"x\",\"width\":8,\"height\":8,\"loras\":[1,2,3,4,5,6,7,8,9]}", "LoRAs"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct message_draw m;
        struct err e = {0};
        json_t *head = json_parse(rows[i].json, strlen(rows[i].json), &e);
        if (message_draw_parse(head, &m, &e) == 0 || strstr(e.message, rows[i].part) == NULL)
            fail_msg("%s: %s", rows[i].json, e.message);
        assert_null(m.head);
        json_decref(head);
    }
}

static void a_welcome_of_one_that_draws_has_no_engine(void **state)
{
    struct message_welcome *w = mem_alloc(2 * sizeof *w);
    struct err e = {0};
    (void)state;
    w->version = 2;
    w->draws = true;
    w->max_stall_s = -1;
    w->image_port = 7078;
    w->pid = 12;
    w->canvas.like = (struct image_model){
        .layout = "sdxl", .multiple = 64, .square = true, .side = 1024, .steps = 20, .cfg = 7};
    snprintf(w->name, sizeof w->name, "spark");
    snprintf(w->canvas.model, sizeof w->canvas.model, "xl");
    json_t *o = message_welcome_json(w);
    assert_null(json_object_get(o, "identity"));
    assert_int_equal(message_welcome_parse(o, &w[1], &e), 0);
    assert_true(w[1].draws && w[1].canvas.like.square && w[1].canvas.like.multiple == 64);
    assert_int_equal(w[1].image_port, 7078);
    assert_string_equal(w[1].model, "xl");
    json_put(json_object_get(o, "draws"), "multiple", json_integer(0)); // something divides by it
    assert_int_equal(message_welcome_parse(o, &w[1], &e), ERR_INVALID);
    json_decref(o);
    free(w);
}

static void states_are_words(void **state)
{
    struct message_canvas_state m = {.word = MESSAGE_CANVAS_FAILED, .why = "no file", .pid = -1},
                                again;
    struct err e = {0};
    json_t *o = message_canvas_state_json(&m);
    (void)state;
    assert_int_equal(message_canvas_state_parse(o, &again, &e), 0);
    assert_int_equal(again.word, MESSAGE_CANVAS_FAILED);
    assert_string_equal(again.why, "no file");
    json_put(o, "state", json_string("sunny"));
    assert_int_equal(message_canvas_state_parse(o, &again, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "sunny"));
    json_decref(o);
}

static void pictures_come_in_pieces_and_never_more_than_was_said(void **state)
{
    size_t n = 2 * WIRE_PIXELS_MAX + 5, at = 0;
    uint8_t *data = mem_alloc(n + 1);
    struct message_pixels p = {0};
    struct err e = {0};
    uint32_t pieces = 0;
    int rc = 0;
    (void)state;
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)(i * 7);
    message_pixels_begin(&p, n);
    while (at < n) {
        struct wire_frame f = message_pixels_frame(3, data, n, &at);
        rc = message_pixels_take(&p, &f, &e);
        assert_int_equal(rc, at == n);
        wire_frame_fini(&f);
        pieces++;
    }
    assert_int_equal(pieces, 3);
    assert_memory_equal(p.data, data, n);
    at = 0;
    struct wire_frame more = message_pixels_frame(3, data, 1, &at);
    assert_int_equal(message_pixels_take(&p, &more, &e), ERR_CORRUPT);
    message_pixels_fini(&p);
    assert_int_equal(message_pixels_take(&p, &more, &e), ERR_CORRUPT); // nothing was to come
    wire_frame_fini(&more);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_read_back_equal),
        cmocka_unit_test(requests_that_are_none_are_refused),
        cmocka_unit_test(a_welcome_of_one_that_draws_has_no_engine),
        cmocka_unit_test(states_are_words),
        cmocka_unit_test(pictures_come_in_pieces_and_never_more_than_was_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
