// A node that draws, played frame by frame: what an honest one tells reaches the client, and one that tells what nobody
// asked for is cut off, while the gateway goes on.
#include "gateway_images.h"

#include "net/net.h"
#include "node/message.h"

#define SIDE 16u
#define BYTES ((size_t)SIDE * SIDE * 3)

struct drawer {
    int listen_fd;
    struct net_conn *conn;
    uint64_t id;  // of the DRAW that came
    json_t *draw; // its head
};

static int64_t soon(void)
{
    return clock_now_ns() + WEB_LIMIT_NS;
}

static void frame_send(struct drawer *d, unsigned type, uint64_t id, json_t *head, size_t bytes)
{
    struct wire_frame f = wire_frame_json((enum wire_type)type, id, head);
    struct err e = {0};

    if (bytes > 0)
        f.body = (struct wire_body){.data = mem_alloc(bytes), .len = bytes};
    wire_frame_write(d->conn, &f, soon(), &e); // it may have been cut off already
    wire_frame_fini(&f);
}

static bool is_answered(struct drawer *d, const struct wire_frame *f)
{
    if (f->type == WIRE_PING)
        frame_send(d, WIRE_PONG, f->id, NULL, 0);
    else if (f->type == WIRE_STATUS)
        frame_send(d, WIRE_STATUS_IS, f->id, NULL, 0);
    return f->type == WIRE_PING || f->type == WIRE_STATUS;
}

// The next frame that is no PING; its head, or NULL at the end.
static json_t *frame_get(struct drawer *d, unsigned type, uint64_t *id)
{
    struct wire_frame f = {0};
    struct err e = {0};
    json_t *head;

    for (;;) {
        if (wire_frame_read(d->conn, &f, soon(), &e) != 0)
            return NULL;
        if (!is_answered(d, &f))
            break;
        wire_frame_fini(&f);
    }
    assert_int_equal(f.type, type);
    *id = f.id;
    head = wire_frame_parse(&f, &e);
    wire_frame_fini(&f);
    return head;
}

static json_t *welcome(void)
{
    struct message_welcome *w = mem_alloc(sizeof(*w));
    json_t *o;

    *w = (struct message_welcome){.version = WIRE_VERSION, .draws = true, .max_stall_s = -1};
    w->canvas.like = (struct image_model){.layout = "fake",
                                          .multiple = 8,
                                          .side = SIDE,
                                          .steps = 2,
                                          .cfg = 1,
                                          .bytes = 5,
                                          .edits = true};
    w->pid = 1;
    snprintf(w->name, sizeof(w->name), "spark");
    snprintf(w->canvas.model, sizeof(w->canvas.model), "paint");
    snprintf(w->canvas.file, sizeof(w->canvas.file), "paint.gguf");
    o = message_welcome_json(w);
    free(w);
    return o;
}

static void node_init(struct stage *s, struct drawer *d)
{
    struct net_addr a = {.host = "127.0.0.1"};
    const struct net_key none = {{0}};
    struct err e = {0};

    *d = (struct drawer){.listen_fd = net_listen(&a, &none, &e)};
    assert_true(d->listen_fd >= 0);
    stage_init(s);
    s->options.prefill[0] = a;
    s->options.n_prefill = 1;
}

static void node_start(struct stage *s, struct drawer *d)
{
    node_init(s, d);
    stage_start(s, false);
}

static void greet(struct drawer *d, const char *state)
{
    const struct net_key none = {{0}};
    struct err e = {0};
    char peer[128];
    uint64_t id;
    int fd = net_accept(d->listen_fd, soon(), peer, sizeof(peer), &e);

    assert_true(fd >= 0);
    assert_int_equal(net_conn_accept_tls(fd, &none, soon(), &d->conn, &e), 0);
    json_decref(frame_get(d, WIRE_HELLO, &id));
    frame_send(d, WIRE_WELCOME, 0, welcome(), 0);
    frame_send(d, WIRE_CANVAS, 0, json_pack("{s:s,s:s}", "state", state, "why", "no such file"), 0);
}

// By the list of models, for which no worker is asked anything.
static void image_await(struct stage *s, const char *state)
{
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
    bool there = false;

    while (!there) {
        struct web_answer a = web_get(s->port, "/v1/models/paint");
        json_t *v = parse(a.body);

        there = a.status == 200 && strcmp(text_at(v, "status.value"), state) == 0;
        if (clock_now_ns() > limit_ns)
            fail_msg("never %s: %s", state, a.body);
        json_decref(v);
        web_answer_fini(&a);
    }
}

static struct web draw_begin(struct stage *s, struct drawer *d, const char *body)
{
    struct web w = web_post(s->port, CREATE, body);

    d->draw = frame_get(d, WIRE_DRAW, &d->id);
    assert_non_null(d->draw);
    return w;
}

static void node_stop(struct stage *s, struct drawer *d)
{
    json_decref(d->draw);
    if (d->conn)
        net_conn_free(d->conn);
    close(d->listen_fd);
    stage_stop(s);
}

static json_t *picture(unsigned index, unsigned side, int seed, bool preview)
{
    return json_pack("{s:i,s:i,s:i,s:i,s:i,s:b}", "index", (int)index, "step", 1, "width",
                     (int)side, "height", (int)side, "seed", seed, "preview", (int)preview);
}

// ---- honest ---------------------------------------------------------------------------------------------------

static void test_honest(void **state)
{
    struct stage s;
    struct drawer d;
    struct web w;
    struct web_answer a;
    json_t *v;

    (void)state;
    node_start(&s, &d);
    greet(&d, "ready");
    image_await(&s, "loaded");
    w = draw_begin(&s, &d, "{\"prompt\":\"a cat\",\"seed\":7,\"n\":2}");
    assert_string_equal(text_at(d.draw, "prompt"), "a cat");
    assert_int_equal(json_integer_value(at(d.draw, "seed")), 7);
    assert_int_equal(json_integer_value(at(d.draw, "width")), SIDE);
    assert_int_equal(json_integer_value(at(d.draw, "steps")), 2);
    // It waits there for its turn, which is no step.
    frame_send(&d, WIRE_DRAWING, d.id, json_pack("{s:i,s:i}", "step", 0, "steps", 2), 0);
    for (int i = 0; i < 2; i++) {
        frame_send(&d, WIRE_DRAWING, d.id,
                   json_pack("{s:i,s:i,s:i,s:f}", "index", i, "step", 1, "steps", 2, "step_s", 0.5),
                   0);
        frame_send(&d, WIRE_PICTURE, d.id, picture((unsigned)i, SIDE, 7 + i, false), 0);
        frame_send(&d, WIRE_PIXELS, d.id, NULL, 100);
        frame_send(&d, WIRE_PIXELS, d.id, NULL, BYTES - 100);
    }
    frame_send(&d, WIRE_DRAWN, d.id, json_pack("{s:f}", "draw_s", 1.25), 0);
    v = finish_json(&w, 200);
    assert_int_equal(json_array_size(at(v, "data")), 2);
    assert_string_equal(text_at(v, "timings.node"), "spark");
    assert_true(json_real_value(at(v, "timings.draw_s")) > 1.2);
    json_decref(v);
    a = web_get(s.port, "/v1/tandem/status");
    v = parse(a.body);
    assert_true(json_real_value(at(v, "image_nodes.0.models.0.speeds.0.step_s")) > 0.49);
    json_decref(v);
    web_answer_fini(&a);
    node_stop(&s, &d);
}

static void test_failed_model(void **state)
{
    struct stage s;
    struct drawer d;
    json_t *v;

    (void)state;
    node_start(&s, &d);
    greet(&d, "failed");
    image_await(&s, "failed");
    v = ask(&s, CREATE, "{\"prompt\":\"a cat\"}", 503);
    assert_has(text_at(v, "error.message"), "no such file");
    json_decref(v);
    node_stop(&s, &d);
}

// A model of the name of this machine's own, and of another size, goes by the node's name before it.
static void test_namesake(void **state)
{
    struct stage s;
    struct drawer d;
    struct web w;
    struct web_answer a;
    int64_t limit_ns = clock_now_ns() + WEB_LIMIT_NS;
    bool there = false;
    json_t *v;

    (void)state;
    if (tests_are_skipped())
        return;
    node_init(&s, &d);
    s.options.images.worker.model = "fake:1";
    s.options.images.name = "paint";
    stage_start(&s, false);
    greet(&d, "ready");
    while (!there) {
        a = web_get(s.port, "/v1/models");
        there = strstr(a.body, "\"spark/paint\"") != NULL;
        if (clock_now_ns() > limit_ns)
            fail_msg("it has the name of another: %s", a.body);
        web_answer_fini(&a);
    }
    v = ask(&s, CREATE, "{\"prompt\":\"a cat\",\"model\":\"paint\"}", 200);
    assert_null(at(v, "timings.node"));
    json_decref(v);
    w = draw_begin(&s, &d, "{\"prompt\":\"a cat\",\"model\":\"spark/paint\"}");
    web_close(&w);
    node_stop(&s, &d);
}

// What it says of a request is the request's end; what it has no room for is nobody's fault.
static void test_failures(void **state)
{
    static const struct {
        const char *code, *message;
        int status;
    } rows[] = {{"invalid", "there is no LoRA", 400},
                {"engine", "the image worker ended", 500},
                {"busy", "this node is stopping", 503}};

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct stage s;
        struct drawer d;
        struct web w;
        json_t *v;

        node_start(&s, &d);
        greet(&d, "ready");
        image_await(&s, "loaded");
        w = draw_begin(&s, &d, "{\"prompt\":\"a cat\"}");
        frame_send(&d, WIRE_FAILED, d.id,
                   json_pack("{s:s,s:s}", "code", rows[i].code, "message", rows[i].message), 0);
        v = finish_json(&w, rows[i].status);
        assert_has(text_at(v, "error.message"), rows[i].message);
        assert_has(text_at(v, "error.message"), "spark");
        json_decref(v);
        node_stop(&s, &d);
    }
}

// ---- hostile --------------------------------------------------------------------------------------------------

static void says(struct drawer *d, int what)
{
    switch (what) {
    case 0: // too large
        frame_send(d, WIRE_PICTURE, d->id, picture(0, 4096, 7, false), 0);
        break;
    case 1: // another size
        frame_send(d, WIRE_PICTURE, d->id, picture(0, SIDE * 2, 7, false), 0);
        break;
    case 2:
        frame_send(d, WIRE_PICTURE, d->id, picture(0, SIDE * 2, 7, true), 0);
        break;
    case 3: // another picture
        frame_send(d, WIRE_PICTURE, d->id, picture(1, SIDE, 8, false), 0);
        break;
    case 4: // another seed
        frame_send(d, WIRE_PICTURE, d->id, picture(0, SIDE, 9, false), 0);
        break;
    case 5: // more than it has
        frame_send(d, WIRE_PICTURE, d->id, picture(0, SIDE, 7, false), 0);
        frame_send(d, WIRE_PIXELS, d->id, NULL, BYTES + 1);
        break;
    case 6: // one inside of another
        frame_send(d, WIRE_PICTURE, d->id, picture(0, SIDE, 7, false), 0);
        frame_send(d, WIRE_PICTURE, d->id, picture(0, SIDE, 7, false), 0);
        break;
    case 7:
        frame_send(d, WIRE_PIXELS, d->id, NULL, 10);
        break;
    case 8: // done with nothing
        frame_send(d, WIRE_DRAWN, d->id, NULL, 0);
        break;
    case 9: // a request that nobody made
        frame_send(d, WIRE_DRAWING, d->id + 7, NULL, 0);
        break;
    case 10:
        frame_send(d, WIRE_DRAWING, d->id,
                   json_pack("{s:i,s:i,s:i}", "index", 0, "step", 9, "steps", 2), 0);
        break;
    case 11:
        frame_send(d, WIRE_PICTURE, d->id, json_pack("{s:s}", "width", "wide"), 0);
        break;
    case 12:
        frame_send(d, WIRE_TOKEN, d->id, NULL, 0);
        break;
    case 13:
        frame_send(d, WIRE_CANVAS, 0, json_pack("{s:s}", "state", "sunny"), 0);
        break;
    case 14: // an unfinished one that nobody asked for
        frame_send(d, WIRE_PICTURE, d->id, picture(0, SIDE, 7, true), 0);
        break;
    default: // in the middle of a picture
        frame_send(d, WIRE_PICTURE, d->id, picture(0, SIDE, 7, false), 0);
        frame_send(d, WIRE_PIXELS, d->id, NULL, 10);
        net_conn_shutdown(d->conn);
    }
}
#define LIES 16

static void test_hostile(void **state)
{
    (void)state;
    for (int what = 0; what < LIES; what++) {
        struct stage s;
        struct drawer d;
        struct web w;
        uint64_t id;
        json_t *v;

        node_start(&s, &d);
        greet(&d, "ready");
        image_await(&s, "loaded");
        w = draw_begin(&s, &d, "{\"prompt\":\"a cat\",\"seed\":7}");
        says(&d, what);
        v = finish_json(&w, 503);
        // It is the lie, and not the silence behind it, that ends the link; but for the last, which is no lie.
        if (!strstr(text_at(v, "error.message"), what < LIES - 1 ? "cut off" : "went away"))
            fail_msg("%d: %s", what, text_at(v, "error.message"));
        json_decref(v);
        while ((v = frame_get(&d, WIRE_CANCEL, &id))) // it may have been told; then the end comes
            json_decref(v);
        image_await(&s, "failed");
        node_stop(&s, &d);
    }
}

static bool draw_came(struct drawer *d)
{
    struct wire_frame f = {0};
    struct err e = {0};
    bool came = wire_frame_read(d->conn, &f, clock_now_ns() + 100 * NS_PER_MS, &e) == 0 &&
                !is_answered(d, &f);

    wire_frame_fini(&f);
    return came;
}

// What is told of a request that its client left is dropped; the next one is sent when that one's end was told.
static void test_late(void **state)
{
    struct stage s;
    struct drawer d;
    struct web w;
    uint64_t id, late;
    json_t *v;

    (void)state;
    node_start(&s, &d);
    greet(&d, "ready");
    image_await(&s, "loaded");
    w = draw_begin(&s, &d, "{\"prompt\":\"a cat\",\"seed\":7}");
    late = d.id;
    json_decref(d.draw);
    web_close(&w);
    json_decref(frame_get(&d, WIRE_CANCEL, &id));
    assert_int_equal(id, late);
    w = web_post(s.port, CREATE, "{\"prompt\":\"a dog\",\"seed\":9}");
    frame_send(&d, WIRE_PICTURE, late, picture(0, SIDE, 7, false), 0);
    frame_send(&d, WIRE_PIXELS, late, NULL, BYTES);
    assert_false(draw_came(&d));
    frame_send(&d, WIRE_DRAWN, late, NULL, 0);
    d.draw = frame_get(&d, WIRE_DRAW, &d.id);
    frame_send(&d, WIRE_PICTURE, d.id, picture(0, SIDE, 9, false), 0);
    frame_send(&d, WIRE_PIXELS, d.id, NULL, BYTES);
    frame_send(&d, WIRE_DRAWN, d.id, NULL, 0);
    v = finish_json(&w, 200);
    assert_int_equal(json_integer_value(at(v, "data.0.seed")), 9);
    json_decref(v);
    node_stop(&s, &d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_honest),   cmocka_unit_test(test_failed_model),
        cmocka_unit_test(test_failures), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_late),     cmocka_unit_test(test_namesake),
    };

    return cmocka_run_group_tests(tests, scratch_home_set_up, scratch_home_tear_down);
}
