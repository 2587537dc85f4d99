// Images in a whole worker. The fake engine gets eyes here: an image is a piece of rows after every hundred
// tokens of text, and a row is computed like a token made of the image's bytes, so that what an answer says
// depends on every image before it.
#include "tests/worker_rig.h"

#include "base/json.h"

#define PIECE_ROWS 40u
#define PIECE_EVERY 100u
#define WORDS 450 // bytes of text, a token each

struct engine_media {
    uint32_t seed;
    bool encoded;
};

// Of the one engine that runs at a time; the engine thread writes, the test reads when that one is idle.
static struct {
    struct engine_ops ops, fake;
    _Atomic int live;           // pieces that somebody owes a free
    _Atomic int encodes, steps; // of rows
    _Atomic int in_a_row;       // encodes without a token of an answer between them
    _Atomic int in_a_row_most;
    size_t piece_bytes; // that a piece says it takes
} eyes;

static int eyes_render(struct engine *g, const struct engine_source *source,
                       struct engine_prompt *out, struct err *e)
{
    int32_t *text = NULL;
    size_t n = 0, piece = 0;
    int rc =
        eyes.fake.tokenize(g, source->prompt, strlen(source->prompt), true, true, &text, &n, e);
    assert_int_equal(rc, 0);
    *out = (struct engine_prompt){
        .tokens = mem_alloc((n + source->n_images * PIECE_ROWS) * sizeof(int32_t)),
        .pieces = mem_alloc(source->n_images * sizeof(struct engine_piece)),
        .n_pieces = source->n_images};
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && i % PIECE_EVERY == 0 && piece < source->n_images) {
            struct engine_media *m = mem_alloc(sizeof *m);
            const uint8_t *bytes = source->images[piece].data;
            for (size_t k = 0; k < source->images[piece].len; k++)
                m->seed = m->seed * 31 + bytes[k];
            out->pieces[piece] = (struct engine_piece){.at = (uint32_t)out->n_tokens,
                                                       .rows = PIECE_ROWS,
                                                       .image = (uint32_t)piece,
                                                       .whole = true,
                                                       .layout = 7,
                                                       .bytes = eyes.piece_bytes,
                                                       .media = m};
            for (uint32_t k = 0; k < PIECE_ROWS; k++)
                out->tokens[out->n_tokens++] = ENGINE_TOKEN_MEDIA;
            piece++;
            eyes.live++;
        }
        out->tokens[out->n_tokens++] = text[i];
    }
    assert_int_equal(piece, source->n_images);
    free(text);
    return 0;
}

static void eyes_free(struct engine *g, struct engine_media *m)
{
    (void)g;
    if (m != NULL)
        eyes.live--;
    free(m);
}

static int eyes_encode(struct engine *g, struct engine_media *m, struct err *e)
{
    (void)g;
    (void)e;
    assert_false(m->encoded);
    m->encoded = true;
    eyes.encodes++;
    if (++eyes.in_a_row > eyes.in_a_row_most)
        eyes.in_a_row_most = eyes.in_a_row;
    return 0;
}

static int eyes_media_step(struct engine *g, const struct engine_media *m,
                           const struct engine_media_rows *rows, struct err *e)
{
    struct engine_row all[PIECE_ROWS];
    assert_true(m->encoded && rows->first == 0 && rows->n == PIECE_ROWS);
    for (uint32_t i = 0; i < rows->n; i++)
        all[i] = (struct engine_row){(int32_t)((m->seed + i * 7) % 250), rows->pos + i, rows->seq,
                                     false};
    eyes.steps++;
    return eyes.fake.step(g, all, rows->n, e);
}

static int eyes_step(struct engine *g, const struct engine_row *rows, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (rows[i].want_logits)
            eyes.in_a_row = 0;
    return eyes.fake.step(g, rows, n, e);
}

static void eyes_give(struct engine *g)
{
    eyes.fake = eyes.ops = *g->ops;
    eyes.ops.step = eyes_step;
    eyes.ops.media_render = eyes_render;
    eyes.ops.media_free = eyes_free;
    eyes.ops.media_encode = eyes_encode;
    eyes.ops.media_step = eyes_media_step;
    g->ops = &eyes.ops;
    g->limits.media = true;
    eyes.piece_bytes = 1000;
    eyes.encodes = eyes.steps = eyes.in_a_row = eyes.in_a_row_most = 0;
}

static struct rig_node *start(void)
{
    rig_options.change = eyes_give;
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    rig_options.change = NULL;
    return d;
}

static void stop(struct rig_node *d)
{
    rig_stop(d);
    assert_int_equal(eyes.live, 0);
}

// ---- rendering ---------------------------------------------------------------------------------------

struct rendered {
    int32_t *tokens;
    size_t n;
    json_t *media;
};

static void rendered_fini(struct rendered *r)
{
    free(r->tokens);
    json_decref(r->media);
}

static struct wire_frame render_frame(uint64_t id, const char *images, json_t *sizes)
{
    char words[WORDS + 1];
    memset(words, 'a', WORDS);
    words[WORDS] = 0;
    json_t *head = json_pack("{s:{s:[{s:s,s:s}]},s:o}", "chat", "messages", "role", "user",
                             "content", words, "media", sizes);
    struct wire_frame f = wire_frame_json(WIRE_RENDER, id, head);
    f.body = (struct wire_body){.data = mem_strdup(images), .len = strlen(images)};
    return f;
}

// Every byte of `images` is an image.
static struct rendered render(struct rig_node *d, const char *images)
{
    struct rendered r = {0};
    struct wire_frame f = {0};
    struct err e = {0};
    json_t *sizes = json_array();
    for (size_t i = 0; images[i] != 0; i++)
        json_array_append_new(sizes, json_pack("{s:i}", "bytes", 1));
    rig_send(d, render_frame(5, images, sizes));
    assert_int_equal(wire_frame_read(d->gateway, &f, RIG_DEADLINE, &e), 0);
    assert_int_equal(f.type, WIRE_RENDERED);
    json_t *head = wire_frame_parse(&f, &e);
    r.media = json_incref(json_object_get(head, "media"));
    assert_int_equal(json_array_size(r.media), strlen(images));
    assert_int_equal(wire_frame_get_tokens(&f, &r.tokens, &r.n, &e), 0);
    json_decref(head);
    wire_frame_fini(&f);
    return r;
}

static bool whole; // the prompt's last token goes along with its last chunk

static void generate(struct rig_node *d, uint64_t id, const struct rendered *r, json_t *media)
{
    struct message_generate m = {.epoch = 1,
                                 .max_tokens = 12,
                                 .ignore_eos = true,
                                 .keep = true,
                                 .reuse = true,
                                 .logprobs = -1,
                                 .whole = whole,
                                 .media = media};
    engine_sampling_default(&m.sampling);
    m.sampling.temperature = 0;
    rig_send(d, wire_frame_tokens(WIRE_GENERATE, id, message_generate_json(&m), r->tokens, r->n));
}

static void answer_get(struct rig_node *d, const struct rendered *r, struct rig_answer *a)
{
    generate(d, 9, r, r->media);
    rig_answer_read(d, a);
    if (a->type != WIRE_DONE)
        fail_msg("failed: %s", a->message);
    assert_int_equal(a->cached + a->read, r->n);
}

static void forget(struct rig_node *d)
{
    unsigned type = 0;
    rig_send(d, wire_frame_json(WIRE_FORGET, 77, NULL));
    json_decref(rig_recv(d, &type));
    assert_int_equal(type, WIRE_FORGOTTEN);
}

// ---- tests -------------------------------------------------------------------------------------------

// Each image is encoded once and computed once; the same prompt again computes neither.
static void once_run(uint32_t n_batch)
{
    rig_options.n_batch = n_batch;
    struct rig_node *d = start();
    struct rendered r = render(d, "xy"), again;
    struct rig_answer first, second;
    answer_get(d, &r, &first);
    assert_int_equal(first.cached, 0);
    assert_int_equal(eyes.encodes, 2);
    assert_int_equal(eyes.steps, 2);
    again = render(d, "xy");
    assert_memory_equal(again.tokens, r.tokens, r.n * sizeof *r.tokens);
    answer_get(d, &again, &second);
    assert_int_equal(second.cached, r.n - 1);
    assert_int_equal(eyes.encodes, 2);
    assert_string_equal(second.text, first.text);
    rendered_fini(&again);
    rendered_fini(&r);
    stop(d);
}

static void test_once(void **state)
{
    uint32_t n_batch = rig_options.n_batch;
    (void)state;
    once_run(n_batch);
    whole = true;
    once_run(n_batch);
    once_run(1024); // as large as the prompt
    whole = false;
    rig_options.n_batch = n_batch;
}

// What prefix memory knows ends where the images begin to differ, never inside one.
static void test_other_image(void **state)
{
    static const struct {
        const char *images;
        json_int_t cached;
    } rows[] = {
        {"xy", 0},           {"xz", 2 * PIECE_EVERY + PIECE_ROWS}, // text, x, text
        {"zy", PIECE_EVERY}, {"xyz", 3 * PIECE_EVERY + 2 * PIECE_ROWS}, {"yx", PIECE_EVERY},
    };
    struct rig_node *d = start();
    struct rig_answer a, cold;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct rendered r = render(d, rows[i].images);
        answer_get(d, &r, &a);
        // Several are kept by now: at least what is common with the first.
        assert_true(a.cached >= rows[i].cached);
        assert_true(a.cached < (json_int_t)r.n - 1);
        rendered_fini(&r);
        forget(d);
        r = render(d, rows[i].images);
        answer_get(d, &r, &cold);
        assert_int_equal(cold.cached, 0);
        assert_string_equal(a.text, cold.text);
        rendered_fini(&r);
        forget(d);
        r = render(d, rows[0].images); // what the next row meets
        answer_get(d, &r, &a);
        rendered_fini(&r);
    }
    stop(d);
}

// Answers to one prompt share its images' work.
static void test_several_answers(void **state)
{
    struct rig_node *d = start();
    struct rendered r = render(d, "ab");
    struct rig_answer a;
    (void)state;
    for (uint64_t id = 20; id < 24; id++)
        generate(d, id, &r, r.media);
    for (int done = 0; done < 4;) {
        unsigned type = 0;
        json_decref(rig_recv(d, &type));
        assert_int_not_equal(type, WIRE_FAILED);
        done += type == WIRE_DONE;
    }
    assert_int_equal(eyes.encodes, 2);
    answer_get(d, &r, &a);
    rendered_fini(&r);
    stop(d);
}

// While an answer is written, no two images are encoded without a token between them.
static void test_pace(void **state)
{
    int32_t tokens[64];
    struct rig_node *d = start();
    struct rig_request story = {.id = 30, .tokens = tokens, .n = 64, .max_tokens = 4000};
    struct rendered r;
    unsigned type = 0;
    bool done = false;
    (void)state;
    rig_tokens(tokens, 64, 3);
    rig_generate(d, &story);
    for (int i = 0; i < 20; i++) // it has a pace
        json_decref(rig_recv(d, &type));
    struct wire_frame f = render_frame(
        5, "abcd",
        json_pack("[{s:i},{s:i},{s:i},{s:i}]", "bytes", 1, "bytes", 1, "bytes", 1, "bytes", 1));
    rig_send(d, f);
    r = (struct rendered){0};
    while (r.n == 0) {
        struct wire_frame got = {0};
        struct err e = {0};
        assert_int_equal(wire_frame_read(d->gateway, &got, RIG_DEADLINE, &e), 0);
        if (got.type == WIRE_RENDERED) {
            json_t *head = wire_frame_parse(&got, &e);
            r.media = json_incref(json_object_get(head, "media"));
            json_decref(head);
            assert_int_equal(wire_frame_get_tokens(&got, &r.tokens, &r.n, &e), 0);
        }
        wire_frame_fini(&got);
    }
    generate(d, 31, &r, r.media);
    while (!done) {
        struct wire_frame got = {0};
        struct err e = {0};
        assert_int_equal(wire_frame_read(d->gateway, &got, RIG_DEADLINE, &e), 0);
        assert_int_not_equal(got.type, WIRE_FAILED);
        done = got.type == WIRE_DONE && got.id == 31;
        wire_frame_fini(&got);
    }
    assert_int_equal(eyes.encodes, 4);
    assert_int_equal(eyes.in_a_row_most, 1);
    rendered_fini(&r);
    stop(d);
}

static void failed(struct rig_node *d, const char *words)
{
    unsigned type = 0;
    json_t *head = rig_recv(d, &type);
    const char *message = json_string_value(json_object_get(head, "message"));
    if (type != WIRE_FAILED || message == NULL || strstr(message, words) == NULL)
        fail_msg("type %u: \"%s\" does not say \"%s\"", type, message, words);
    json_decref(head);
}

// What a gateway says of images is not believed: ids, places and keys must fit together.
static void test_lists_refused(void **state)
{
    struct rig_node *d = start();
    struct rendered r = render(d, "xy");
    char zeros[65];
    (void)state;
    memset(zeros, '0', 64);
    zeros[64] = 0;
    const char *key = json_string_value(json_object_get(json_array_get(r.media, 0), "key"));
    const struct {
        json_t *list;
        const char *words;
    } rows[] = {
        {NULL, "this vocabulary has"},
        {json_pack("[{s:i,s:i,s:s}]", "at", 100, "tokens", 40, "key", key), "this vocabulary has"},
        {json_pack("[{s:i,s:i,s:s}]", "at", 100, "tokens", 40, "key", zeros), "not of the image"},
        {json_pack("[{s:i,s:i,s:s}]", "at", 99, "tokens", 40, "key", key), "not of the image"},
        {json_pack("[{s:i,s:i,s:s}]", "at", 100, "tokens", 100000, "key", key), "tokens"},
        {json_pack("[{s:i,s:i,s:s}]", "at", -1, "tokens", 40, "key", key), "at"},
        {json_pack("[{s:i,s:i,s:s}]", "at", 100, "tokens", 40, "key", "12"), "64 hex digits"},
        {json_pack("[{s:i,s:i,s:s},{s:i,s:i,s:s}]", "at", 100, "tokens", 40, "key", key, "at", 100,
                   "tokens", 40, "key", key),
         "at"},
        {json_pack("[i]", 7), "key"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        generate(d, 40 + i, &r, rows[i].list);
        failed(d, rows[i].words);
        json_decref(rows[i].list);
    }
    assert_int_equal(eyes.encodes, 0);
    struct rig_answer a;
    answer_get(d, &r, &a); // and then what it should be
    size_t n = r.n;
    r.n = 2 * PIECE_EVERY + 2 * PIECE_ROWS; // cut off behind the last image
    generate(d, 60, &r, r.media);
    failed(d, "ends in an image");
    r.n = n;
    rendered_fini(&r);
    stop(d);
}

static void test_frames_refused(void **state)
{
    struct rig_node *d = start();
    (void)state;
    const struct {
        json_t *sizes;
        const char *words;
    } rows[] = {
        {json_pack("[{s:i}]", "bytes", 1), "in a frame of 2"},
        {json_pack("[{s:i}]", "bytes", 3), "ends behind the frame"},
        {json_pack("[{s:i},{s:i},{s:i}]", "bytes", 1, "bytes", 1, "bytes", 1), "ends behind"},
        {json_pack("[{s:i}]", "bytes", 0), "bytes"},
        {json_pack("[{s:i}]", "bytes", -2), "bytes"},
        {json_pack("[i]", 2), "bytes"},
        {json_pack("{}"), "media"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rig_send(d, render_frame(50 + i, "xy", rows[i].sizes));
        failed(d, rows[i].words);
    }
    json_t *many = json_array();
    for (int i = 0; i < 33; i++)
        json_array_append_new(many, json_pack("{s:i}", "bytes", 1));
    rig_send(d, render_frame(70, "xy", many));
    failed(d, "33 images");
    assert_int_equal(eyes.live, 0);
    stop(d);
}

// Images that were forgotten before their request came: it is told to send them again.
static void test_gone(void **state)
{
    struct rig_node *d = start();
    struct rendered r = render(d, "xy");
    struct rig_answer a;
    (void)state;
    forget(d);
    generate(d, 8, &r, r.media);
    failed(d, "no longer here");
    rendered_fini(&r);
    r = render(d, "xy");
    answer_get(d, &r, &a);
    rendered_fini(&r);
    stop(d);
}

// What was only prepared makes room for what comes later; what a job needs stays.
static void test_room(void **state)
{
    struct rig_node *d = start();
    struct rig_answer a;
    (void)state;
    eyes.piece_bytes = 200u << 20;
    struct rendered first = render(d, "a"), last = {0};
    for (const char *images = "b\0c\0d\0e\0"; *images != 0; images += 2) {
        rendered_fini(&last);
        last = render(d, images);
    }
    answer_get(d, &last, &a);
    assert_true(eyes.live <= 3);
    generate(d, 8, &first, first.media);
    failed(d, "no longer here");
    rendered_fini(&first);
    rendered_fini(&last);
    stop(d);
}

static void test_without_eyes(void **state)
{
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, false);
    (void)state;
    rig_send(d, render_frame(5, "x", json_pack("[{s:i}]", "bytes", 1)));
    failed(d, "--mmproj");
    rig_stop(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_once),
        cmocka_unit_test(test_other_image),
        cmocka_unit_test(test_several_answers),
        cmocka_unit_test(test_pace),
        cmocka_unit_test(test_lists_refused),
        cmocka_unit_test(test_frames_refused),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_without_eyes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
