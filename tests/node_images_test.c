// A node that draws, as a gateway has it: a request that waits there is told of, and one that is cancelled has an end.
#include "node/images.h"

#include "base/clock.h"
#include "base/log.h"
#include "node/message.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LIMIT_NS (30 * NS_PER_S)
#define STEPS 150u

static void frame_put(struct net_conn *c, enum wire_type type, uint64_t id, json_t *head)
{
    struct wire_frame f = wire_frame_json(type, id, head);
    struct err e = {0};

    assert_int_equal(wire_frame_write(c, &f, clock_now_ns() + LIMIT_NS, &e), 0);
    wire_frame_fini(&f);
}

// The head of the next frame of this kind for this request; what comes before it is dropped.
static json_t *frame_await(struct net_conn *c, enum wire_type type, uint64_t id)
{
    int64_t limit_ns = clock_now_ns() + LIMIT_NS;
    struct err e = {0};
    json_t *head = NULL;

    while (!head) {
        struct wire_frame f = {0};

        if (wire_frame_read(c, &f, limit_ns, &e) != 0)
            fail_msg("no %s came: %s", wire_type_name(type), e.message);
        if (f.type == type && f.id == id)
            head = wire_frame_parse(&f, &e);
        wire_frame_fini(&f);
    }
    return head;
}

static struct net_conn *greet(uint16_t port)
{
    const struct net_addr a = {.host = "127.0.0.1", .port = port};
    const struct net_key none = {{0}};
    const struct message_hello h = {.version = WIRE_VERSION, .role = "gateway", .name = "mac"};
    struct net_conn *c = NULL;
    struct err e = {0};

    assert_int_equal(net_conn_dial(&a, &none, clock_now_ns() + LIMIT_NS, &c, &e), 0);
    frame_put(c, WIRE_HELLO, 0, message_hello_json(&h));
    json_decref(frame_await(c, WIRE_WELCOME, 0));
    return c;
}

static void draw(struct net_conn *c, uint64_t id)
{
    struct image_request r;

    image_request_default(&r);
    r.prompt = "a cat";
    r.width = r.height = 64;
    r.steps = STEPS;
    r.seed = 7;
    frame_put(c, WIRE_DRAW, id, message_draw_json(&r));
}

static void cancel(struct net_conn *c, uint64_t id)
{
    json_t *head;

    frame_put(c, WIRE_CANCEL, id, NULL);
    head = frame_await(c, WIRE_FAILED, id);
    assert_string_equal(json_string_value(json_object_get(head, "code")), "cancelled");
    json_decref(head);
}

static void what_waits_is_told_of(void **state)
{
    const struct node_images_options o = {.worker = {.model = "fake:40"},
                                          .name = "spark",
                                          .listen = "127.0.0.1:0",
                                          .queue = NODE_IMAGES_QUEUE,
                                          .beat_ns = 20 * NS_PER_MS};
    struct node_images *n = NULL;
    struct net_conn *c;
    struct err e = {0};
    uint16_t port = 0;
    json_t *head;

    (void)state;
    if (getenv("TANDEM_EMULATED")) {
        print_message("skipped: the image worker cannot be started under emulation\n");
        return;
    }
    log_level_set(LOG_LEVEL_ERROR);
    assert_int_equal(node_images_start(&o, &port, &n, &e), 0);
    c = greet(port);
    draw(c, 1);
    draw(c, 2);
    head = frame_await(c, WIRE_DRAWING, 2);
    assert_int_equal(json_integer_value(json_object_get(head, "step")), 0);
    assert_int_equal(json_integer_value(json_object_get(head, "steps")), STEPS);
    json_decref(head);
    cancel(c, 2);
    cancel(c, 1);
    net_conn_free(c);
    node_images_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_waits_is_told_of)};

    return cmocka_run_group_tests(tests, scratch_home_set_up, scratch_home_tear_down);
}
