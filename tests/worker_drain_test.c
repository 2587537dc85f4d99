// A worker that is told to end when its work has; and what it says when a prefill worker cannot be dialled.
#include "tests/worker_rig.h"

// ---- a gateway of its own ---------------------------------------------------------------------------

static void refused(const struct rig_node *n, const char *role, unsigned wanted)
{
    struct wire_frame in = {0};
    net_conn_free(rig_greet(n, role, &in));
    assert_int_equal(in.type, wanted);
    if (in.type == WIRE_REFUSED)
        assert_non_null(strstr(in.head, "this node is stopping"));
    wire_frame_fini(&in);
}

static void generate(struct net_conn *c, uint32_t max_tokens)
{
    struct err e = {0};
    int32_t tokens[20];
    struct message_generate m = {.epoch = 1, .max_tokens = max_tokens, .ignore_eos = true};
    struct wire_frame f;

    rig_tokens(tokens, 20, 1);
    engine_sampling_default(&m.sampling);
    f = wire_frame_tokens(WIRE_GENERATE, 5, message_generate_json(&m), tokens, 20);
    assert_int_equal(wire_frame_write(c, &f, RIG_DEADLINE, &e), 0);
    wire_frame_fini(&f);
}

// The next frame of that type; its head. What comes before it is passed over.
static json_t *expect(struct net_conn *c, unsigned type)
{
    struct err e = {0};
    for (;;) {
        struct wire_frame in = {0};
        if (wire_frame_read(c, &in, RIG_DEADLINE, &e) != 0)
            fail_msg("no %s came: %s", wire_type_name(type), e.message);
        bool found = in.type == type;
        json_t *head = found ? wire_frame_parse(&in, &e) : NULL;
        wire_frame_fini(&in);
        if (found)
            return head;
    }
}

static void drain(struct rig_node *n)
{
    rig_send(n, wire_frame_json(WIRE_DRAIN, 0, NULL));
}

// It ends without being told again.
static void ended(struct rig_node *n)
{
    pthread_join(n->thread, NULL);
    assert_true(n->w.idle);
    net_conn_free(n->gateway);
    worker_close(&n->w);
    free(n);
}

static void told_draining(struct net_conn *c)
{
    json_t *told = expect(c, WIRE_STATUS_IS);
    assert_true(json_is_true(json_object_get(told, "draining")));
    json_decref(told);
}

// ---- draining ------------------------------------------------------------------------------------------

static void work_ends_first(void **state)
{
    (void)state;
    struct rig_node *n = rig_start("fake:decode_us=5000", ENGINE_HANDOFF_RANGES, true, true);
    struct net_conn *c = rig_link(n, "gateway"), *other = rig_link(n, "gateway");

    generate(c, 40);
    json_decref(expect(c, WIRE_TOKEN));
    drain(n);
    told_draining(other);
    net_conn_free(other);
    told_draining(c);
    refused(n, "gateway", WIRE_REFUSED);
    refused(n, "bulk", WIRE_WELCOME); // it may come for what was promised to it
    // What was sent before the news had come is done like the rest.
    generate(c, 3);
    json_t *done = expect(c, WIRE_DONE);
    assert_int_equal(rig_integer(done, "gen_tokens"), 3);
    json_decref(done);
    done = expect(c, WIRE_DONE);
    assert_int_equal(rig_integer(done, "gen_tokens"), 40);
    json_decref(done);
    net_conn_free(c);
    ended(n);
}

static void alone_it_ends_at_once(void **state)
{
    (void)state;
    struct rig_node *n = rig_start("fake", ENGINE_HANDOFF_RANGES, true, true);
    drain(n);
    ended(n);
}

static void nobody_holds_it(void **state)
{
    (void)state;
    struct rig_node *n = rig_start("fake", ENGINE_HANDOFF_RANGES, true, true);
    struct net_conn *c = rig_link(n, "gateway");

    // A link of which the worker has not heard yet is told nothing: it sees the worker end.
    generate(c, 1);
    json_decref(expect(c, WIRE_DONE));
    drain(n);
    drain(n); // told twice is told once
    told_draining(c);
    ended(n);
    net_conn_free(c);
}

static void only_the_supervisor_drains(void **state)
{
    (void)state;
    struct err e = {0};
    struct rig_node *n = rig_start("fake", ENGINE_HANDOFF_RANGES, true, true);
    struct net_conn *c = rig_link(n, "gateway");
    struct wire_frame f = wire_frame_json(WIRE_DRAIN, 0, NULL), in = {0};

    assert_int_equal(wire_frame_write(c, &f, RIG_DEADLINE, &e), 0);
    wire_frame_fini(&f);
    assert_int_not_equal(wire_frame_read(c, &in, RIG_DEADLINE, &e), 0);
    net_conn_free(c);
    c = rig_link(n, "gateway");
    generate(c, 2);
    json_decref(expect(c, WIRE_DONE));
    net_conn_free(c);
    rig_stop(n);
}

// ---- a prefill worker that cannot be reached -----------------------------------------------------------------

static bool unreached(struct rig_node *d, uint16_t port)
{
    int32_t tokens[300];
    unsigned type = 0;
    json_t *head = NULL;
    bool told;

    rig_tokens(tokens, 300, 1);
    rig_generate(d, &(struct rig_request){
                        .id = 9, .tokens = tokens, .n = 300, .max_tokens = 4, .port = port});
    while (type != WIRE_DONE) {
        json_decref(head);
        head = rig_recv(d, &type);
    }
    told = json_is_true(json_object_get(head, "unreached"));
    assert_int_equal(rig_integer(head, "gen_tokens"), 4);
    assert_int_equal(rig_integer(head, "tokens_imported"), told ? 0 : 299);
    json_decref(head);
    return told;
}

static void what_was_not_reached_is_told(void **state)
{
    (void)state;
    struct rig_node *p = rig_start("fake", ENGINE_HANDOFF_RANGES, true, true);
    struct rig_node *d = rig_start("fake", ENGINE_HANDOFF_RANGES, false, true);
    struct net_addr a = {.host = "127.0.0.1"};
    struct err e = {0};
    int32_t tokens[300];
    int fd = net_listen(&a, &rig_key, &e);

    assert_true(fd >= 0);
    close(fd); // nobody is there
    assert_true(unreached(d, a.port));
    rig_tokens(tokens, 300, 1);
    rig_prefill(p, &(struct rig_request){.id = 3, .tokens = tokens, .n = 300});
    assert_false(unreached(d, p->port));
    rig_stop(d);
    rig_stop(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(work_ends_first),
        cmocka_unit_test(alone_it_ends_at_once),
        cmocka_unit_test(nobody_holds_it),
        cmocka_unit_test(only_the_supervisor_drains),
        cmocka_unit_test(what_was_not_reached_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
