// Links between workers are measured, by MEASURE_LINK and by hand-offs: what is told is of the link, a request ends it,
// and a peer that says what it should not ends its link. A paced link is never faster than its pace; nothing
// else here asks how long anything took.
#include "tests/worker_rig.h"

#define N_PROMPT 700
#define FAST 4e6
#define SLOW 1e5
#define NEVER_FASTER 1.15
#define SMALL_KV "fake:layers=4,kv_bytes=64"

static int32_t prompt[N_PROMPT];

static int defaults(void **state)
{
    rig_tokens(prompt, N_PROMPT, 1);
    return rig_defaults(state);
}

// ---- messages ------------------------------------------------------------------------------------

static int parse_any(const char *what, const json_t *o, struct err *e)
{
    struct message_measure_link ask;
    struct message_measured_link told;
    struct message_probe probe;
    struct message_probed probed;

    if (strcmp(what, "probed") == 0)
        return message_probed_parse(o, &probed, e);
    if (strcmp(what, "ask") == 0)
        return message_measure_link_parse(o, &ask, e);
    if (strcmp(what, "told") == 0)
        return message_measured_link_parse(o, &told, e);
    return message_probe_parse(o, &probe, e);
}

// What is wrong is refused by name.
static void test_messages_bad(void **state)
{
    (void)state;
    static const struct {
        const char *what, *json, *says;
    } bad[] = {
        {"ask", "[]", "object"},
        {"ask", "{\"port\":7077}", "host"},
        {"ask", "{\"host\":\"\",\"port\":7077}", "host"},
        {"ask", "{\"host\":7,\"port\":7077}", "host"},
        {"ask", "{\"host\":\"a\"}", "port"},
        {"ask", "{\"host\":\"a\",\"port\":0}", "port"},
        {"ask", "{\"host\":\"a\",\"port\":65536}", "port"},
        {"ask", "{\"host\":\"a\",\"port\":1,\"stall_s\":0}", "stall_s"},
        {"ask", "{\"host\":\"a\",\"port\":1,\"same_weights\":1}", "same_weights"},
        {"told", "7", "object"},
        {"told", "{\"rtt_s\":-1}", "rtt_s"},
        {"told", "{\"rtt_s\":61}", "rtt_s"},
        {"told", "{\"rtt_s\":\"fast\"}", "rtt_s"},
        {"told", "{\"up\":{\"bytes\":5}}", "seconds"},
        {"told", "{\"up\":{\"bytes\":5,\"seconds\":0}}", "up"},
        {"told", "{\"down\":{\"bytes\":-5,\"seconds\":1}}", "down"},
        {"told", "{\"down\":[]}", "down"},
        {"told", "{\"complete\":1}", "complete"},
        {"probed", "[]", "object"},
        {"probed", "{\"at_s\":-1}", "at_s"},
        {"probed", "{\"at_s\":1e13}", "at_s"},
        {"probe", "[]", "object"},
        {"probe", "{\"want\":-1}", "want"},
        {"probe", "{\"want\":262145}", "want"},
        {"probe", "{\"want\":\"much\"}", "want"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        json_t *o = json_loads(bad[i].json, JSON_DECODE_ANY, NULL);
        if (parse_any(bad[i].what, o, &e) == 0 || strstr(e.message, bad[i].says) == NULL)
            fail_msg("%s %s: %s", bad[i].what, bad[i].json, e.message);
        json_decref(o);
    }
}

static void test_messages(void **state)
{
    (void)state;
    struct message_measure_link ask = {"spark", 7077, false, 2.5}, ask2;
    struct message_measured_link told = {0.001, {5e6, 0.05}, {0, 0}, true}, told2;
    json_t *o = message_measure_link_json(&ask);
    assert_int_equal(message_measure_link_parse(o, &ask2, NULL), 0);
    assert_true(strcmp(ask2.host, "spark") == 0 && ask2.port == 7077 && !ask2.same_weights &&
                ask2.stall_s == 2.5);
    json_decref(o);
    o = message_measured_link_json(&told);
    assert_int_equal(message_measured_link_parse(o, &told2, NULL), 0);
    assert_true(told2.rtt_s == 0.001 && told2.up.bytes == 5e6 && told2.down.bytes == 0 &&
                told2.complete);
    json_decref(o);
}

// ---- two workers ---------------------------------------------------------------------------------

static void measure_send(struct rig_node *d, uint64_t id, uint16_t port)
{
    struct message_measure_link m = {.host = "127.0.0.1", .port = port, .same_weights = true};

    m.stall_s = 1;
    rig_send(d, wire_frame_json(WIRE_MEASURE_LINK, id, message_measure_link_json(&m)));
}

static void told_read(struct rig_node *d, struct message_measured_link *m)
{
    struct err e = {0};
    unsigned type = 0;
    json_t *head = rig_recv(d, &type);

    if (type != WIRE_MEASURED_LINK)
        fail_msg("%s: %s", wire_type_name(type),
                 json_string_value(json_object_get(head, "message")));
    if (message_measured_link_parse(head, m, &e) != 0)
        fail_msg("%s", e.message);
    json_decref(head);
}

static void failed_says(struct rig_node *d, const char *words)
{
    unsigned type = 0;
    json_t *head = rig_recv(d, &type);
    const char *said = json_string_value(json_object_get(head, "message"));

    if (type != WIRE_FAILED || strstr(said, words) == NULL)
        fail_msg("%s: %s, not \"%s\"", wire_type_name(type), said, words);
    json_decref(head);
}

static struct rig_node *paced_start(double rate, bool listen)
{
    rig_options.link_rate = rate;
    return rig_start(SMALL_KV, ENGINE_HANDOFF_RANGES, listen, false);
}

static void hand_off(struct rig_node *p, struct rig_node *d, struct message_moved *link)
{
    struct err e = {0};
    struct rig_request r = {
        .id = 5, .tokens = prompt, .n = N_PROMPT, .max_tokens = 3, .port = p->port};
    unsigned type = 0;

    rig_prefill(p, &r);
    json_decref(rig_recv(p, &type));
    rig_generate(d, &r);
    json_t *head = NULL;
    do {
        json_decref(head);
        head = rig_recv(d, &type);
    } while (type == WIRE_TOKEN);
    assert_int_equal(type, WIRE_DONE);
    assert_true(json_is_null(json_object_get(head, "fallback")));
    assert_int_equal(message_moved_parse(head, "link", link, &e), 0);
    json_decref(head);
    json_decref(rig_recv(p, &type));
    assert_int_equal(type, WIRE_PREFILLED);
}

// Each way has the pace of the side that sends, and hand-offs go over the same link afterwards.
static void test_measured(void **state)
{
    (void)state;
    struct message_measured_link m;
    struct message_moved link;
    struct rig_node *p = paced_start(FAST, true), *d = paced_start(FAST / 2, false);

    for (uint64_t i = 0; i < 2; i++) {
        measure_send(d, 7 + i, p->port);
        told_read(d, &m);
        assert_true(m.complete && m.rtt_s > 0 && m.up.bytes > 0 && m.down.bytes > 0);
        assert_true(m.up.bytes / m.up.seconds <= FAST * NEVER_FASTER);
        assert_true(m.down.bytes / m.down.seconds <= FAST / 2 * NEVER_FASTER);
    }
    // 175 KB in segments of at most 32 KB.
    hand_off(p, d, &link);
    assert_true(link.bytes > 0 && link.bytes < N_PROMPT * 4 * 64);
    assert_true(link.bytes / link.seconds <= FAST * NEVER_FASTER);
    rig_stop(d);
    rig_stop(p);
}

// A link without a pace is measured as well: whatever it gives.
static void test_measured_fast(void **state)
{
    (void)state;
    struct message_measured_link m;
    struct rig_node *p = paced_start(0, true), *d = paced_start(0, false);

    measure_send(d, 7, p->port);
    told_read(d, &m);
    assert_true(m.complete && m.rtt_s > 0);
    rig_stop(d);
    rig_stop(p);
}

// A request, a CANCEL, another order: what is known until then is told, and the request is answered.
static void test_ends(void **state)
{
    (void)state;
    struct message_measured_link m;
    struct rig_answer a;
    struct rig_request r = {.id = 9, .tokens = prompt, .n = 100, .max_tokens = 5};
    struct rig_node *p = paced_start(SLOW, true), *d = paced_start(SLOW, false);

    measure_send(d, 7, p->port);
    measure_send(d, 8, p->port);
    failed_says(d, "measuring");
    rig_generate(d, &r);
    told_read(d, &m);
    assert_false(m.complete);
    rig_answer_read(d, &a);
    assert_int_equal(a.type, WIRE_DONE);
    assert_int_equal(a.n, 5);
    rig_answer_fini(&a);
    measure_send(d, 10, p->port);
    rig_send(d, wire_frame_json(WIRE_CANCEL, 10, NULL));
    told_read(d, &m);
    assert_false(m.complete);
    // What still comes of the last one is nobody's: the next one is whole.
    measure_send(d, 11, p->port);
    told_read(d, &m);
    assert_true(m.complete && m.up.bytes / m.up.seconds <= SLOW * NEVER_FASTER);
    rig_stop(d);
    rig_stop(p);
}

// Whoever asks goes, or the other side, or the worker stops: nothing is left and nothing hangs.
static void test_stops(void **state)
{
    (void)state;
    struct rig_node *p = paced_start(SLOW, true), *d = paced_start(SLOW, false);

    measure_send(d, 7, p->port);
    rig_stop(d);
    d = paced_start(SLOW, false);
    measure_send(d, 7, p->port);
    rig_stop(p);
    json_decref(rig_recv(d, &(unsigned){0}));
    rig_stop(d);
}

// ---- a worker against what is not one ------------------------------------------------------------

struct other {
    int fd;
    uint16_t port;
    struct net_conn *conn;
};

static void other_listen(struct other *o)
{
    struct err e = {0};
    struct net_addr a = {.host = "127.0.0.1"};

    o->fd = net_listen(&a, &rig_key, &e);
    assert_true(o->fd >= 0);
    o->port = a.port;
}

// Takes the worker's connection and greets it as a worker of the same model would.
static void other_greet(struct other *o, const struct rig_node *d, bool links)
{
    struct err e = {0};
    char peer[128];
    struct wire_frame f;
    struct message_welcome w = d->w.welcome; // immutable since it was loaded
    int fd = net_accept(o->fd, RIG_DEADLINE, peer, sizeof peer, &e);

    w.links = links;
    assert_true(fd >= 0);
    assert_int_equal(net_conn_accept_tls(fd, &rig_key, RIG_DEADLINE, &o->conn, &e), 0);
    assert_int_equal(wire_frame_read(o->conn, &f, RIG_DEADLINE, &e), 0);
    wire_frame_fini(&f);
    f = wire_frame_json(WIRE_WELCOME, 0, message_welcome_json(&w));
    assert_int_equal(wire_frame_write(o->conn, &f, RIG_DEADLINE, &e), 0);
    wire_frame_fini(&f);
}

static uint64_t probe_read(struct other *o)
{
    struct err e = {0};
    struct wire_frame f;

    assert_int_equal(wire_frame_read(o->conn, &f, RIG_DEADLINE, &e), 0);
    assert_int_equal(f.type, WIRE_PROBE);
    uint64_t id = f.id;
    wire_frame_fini(&f);
    return id;
}

static void probed_send(struct other *o, uint64_t id, size_t bytes)
{
    struct err e = {0};
    struct wire_frame f = wire_frame_json(WIRE_PROBED, id, NULL);

    if (bytes > 0)
        f.body = (struct wire_body){.data = mem_alloc(bytes), .len = bytes};
    wire_frame_write(o->conn, &f, RIG_DEADLINE, &e); // it may have closed the link by now
    wire_frame_fini(&f);
}

static void other_close(struct other *o)
{
    net_conn_free(o->conn);
    close(o->fd);
}

static void test_other_side(void **state)
{
    (void)state;
    struct rig_node *d = paced_start(0, false);
    struct other o;

    other_listen(&o);
    measure_send(d, 1, o.port);
    other_greet(&o, d, false);
    failed_says(d, "older release");
    other_close(&o);
    // More bytes than were asked for.
    other_listen(&o);
    measure_send(d, 2, o.port);
    other_greet(&o, d, true);
    probed_send(&o, probe_read(&o), 1000);
    failed_says(d, "number of bytes");
    // Answers that nobody waits for end the link, which is dialled anew.
    for (int i = 0; i < 3; i++)
        probed_send(&o, 1, 0);
    other_close(&o);
    // Silence.
    other_listen(&o);
    measure_send(d, 3, o.port);
    other_greet(&o, d, true);
    failed_says(d, "cannot be measured");
    other_close(&o);
    // Nobody is there any more.
    measure_send(d, 4, o.port);
    failed_says(d, "cannot be measured");
    rig_send(d, wire_frame_json(WIRE_MEASURE_LINK, 5, NULL));
    failed_says(d, "host");
    rig_stop(d);
}

static struct net_conn *bulk_dial(const struct rig_node *p)
{
    struct err e = {0};
    struct net_addr a = {.host = "127.0.0.1", .port = p->port};
    struct net_conn *c = NULL;
    struct wire_frame f = {0};
    struct message_hello h = {
        .version = WIRE_VERSION, .role = "bulk", .has_identity = true, .same_weights = true};

    h.identity = p->w.welcome.identity;
    assert_int_equal(net_conn_dial(&a, &rig_key, RIG_DEADLINE, &c, &e), 0);
    f = wire_frame_json(WIRE_HELLO, 0, message_hello_json(&h));
    assert_int_equal(wire_frame_write(c, &f, RIG_DEADLINE, &e), 0);
    wire_frame_fini(&f);
    assert_int_equal(wire_frame_read(c, &f, RIG_DEADLINE, &e), 0);
    assert_int_equal(f.type, WIRE_WELCOME);
    wire_frame_fini(&f);
    return c;
}

static int probe_write(struct net_conn *c, const char *head, size_t bytes)
{
    struct err e = {0};
    struct wire_frame f = wire_frame_json(WIRE_PROBE, 3, json_loads(head, 0, NULL));

    if (bytes > 0)
        f.body = (struct wire_body){.data = mem_alloc(bytes), .len = bytes};
    int rc = wire_frame_write(c, &f, clock_now_ns() + NS_PER_S, &e);
    wire_frame_fini(&f);
    return rc;
}

// A worker answers as many bytes as it is asked for, within the limit, and nothing else.
static void test_answers(void **state)
{
    (void)state;
    static const char *const bad[] = {"{\"want\":262145}", "{\"want\":-1}", "{\"want\":\"1\"}"};
    struct err e = {0};
    struct wire_frame f;
    struct rig_node *p = paced_start(0, true);
    struct net_conn *c = bulk_dial(p);

    assert_int_equal(probe_write(c, "{\"want\":262144}", WIRE_PROBE_MAX), 0);
    assert_int_equal(wire_frame_read(c, &f, RIG_DEADLINE, &e), 0);
    assert_true(f.type == WIRE_PROBED && f.id == 3 && f.body.len == WIRE_PROBE_MAX);
    wire_frame_fini(&f);
    net_conn_free(c);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        c = bulk_dial(p);
        assert_int_equal(probe_write(c, bad[i], 0), 0);
        assert_int_not_equal(wire_frame_read(c, &f, RIG_DEADLINE, &e), 0);
        net_conn_free(c);
    }
    // One that asks and asks, and reads nothing, is cut off, and costs nobody else anything.
    c = bulk_dial(p);
    int rc = 0;
    for (int i = 0; rc == 0 && i < 100000; i++)
        rc = probe_write(c, "{\"want\":262144}", 0);
    assert_int_not_equal(rc, 0);
    struct net_conn *other = bulk_dial(p);
    assert_int_equal(probe_write(other, "{\"want\":5}", 0), 0);
    assert_int_equal(wire_frame_read(other, &f, RIG_DEADLINE, &e), 0);
    assert_int_equal(f.body.len, 5);
    wire_frame_fini(&f);
    net_conn_free(other);
    net_conn_free(c);
    rig_stop(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_messages_bad, defaults),
        cmocka_unit_test_setup(test_messages, defaults),
        cmocka_unit_test_setup(test_measured, defaults),
        cmocka_unit_test_setup(test_measured_fast, defaults),
        cmocka_unit_test_setup(test_ends, defaults),
        cmocka_unit_test_setup(test_stops, defaults),
        cmocka_unit_test_setup(test_other_side, defaults),
        cmocka_unit_test_setup(test_answers, defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
