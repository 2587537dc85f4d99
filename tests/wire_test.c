// Frames and links: what is refused and with which words, who releases a body and how often, and
// that a link ends exactly once whatever happens to it.
#include "base/buf.h"
#include "base/chan.h"
#include "base/clock.h"
#include "base/json.h"
#include "wire/wire.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static int64_t in_ms(int64_t ms)
{
    return clock_now_ns() + ms * NS_PER_MS;
}

static const uint16_t all_types[] = {1,  2,  3,  4,  5,  16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
                                     26, 27, 28, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
                                     44, 45, 46, 47, 48, 56, 64, 65, 66, 67, 68, 69, 70, 71};
#define N_TYPES (sizeof all_types / sizeof *all_types)

static bool type_is_known(unsigned type)
{
    for (size_t i = 0; i < N_TYPES; i++) {
        if (all_types[i] == type)
            return true;
    }
    return false;
}

// ---- headers ---------------------------------------------------------------------------------------

static void test_limits(void **state)
{
    (void)state;
    for (unsigned type = 0; type < 70000; type++) {
        uint32_t head = 0, body = 0;
        int rc = wire_frame_limits(type, &head, &body);
        assert_int_equal(rc, type_is_known(type) ? 0 : ERR_INVALID);
        assert_true(head <= WIRE_HEAD_MAX && body <= WIRE_SEGMENT_MAX);
        if (rc)
            assert_memory_equal(wire_type_name(type), "type ", 5);
        else
            assert_true(strncmp(wire_type_name(type), "type ", 5) != 0);
    }
}

static void test_header_limits(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_TYPES; i++) {
        uint32_t head_max, body_max;
        assert_int_equal(wire_frame_limits(all_types[i], &head_max, &body_max), 0);
        const struct {
            uint32_t head, body;
            int rc;
        } cases[] = {
            {head_max, body_max, 0},           {head_max + 1, 0, ERR_RANGE},
            {UINT32_MAX, 0, ERR_RANGE},        {head_max, body_max + 1, ERR_RANGE},
            {head_max, UINT32_MAX, ERR_RANGE}, {0, 0, head_max ? ERR_RANGE : 0},
        };
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            struct wire_header h = {.type = all_types[i],
                                    .id = 7,
                                    .head_bytes = cases[k].head,
                                    .body_bytes = cases[k].body},
                               got;
            uint8_t bytes[WIRE_HEADER_BYTES];
            wire_header_encode(&h, bytes);
            struct err e = {0};
            assert_int_equal(wire_header_decode(bytes, &got, &e), cases[k].rc);
            if (cases[k].rc)
                assert_non_null(strstr(e.message, wire_type_name(h.type)));
        }
    }
}

// Every single flipped bit is refused or shows in the header; none passes unseen.
static void test_header_bit_flips(void **state)
{
    (void)state;
    struct wire_header h = {
        .type = WIRE_SEGMENT, .id = 0x1122334455667788u, .head_bytes = 64, .body_bytes = 4096};
    uint8_t good[WIRE_HEADER_BYTES];
    wire_header_encode(&h, good);
    for (int bit = 0; bit < WIRE_HEADER_BYTES * 8; bit++) {
        uint8_t bytes[WIRE_HEADER_BYTES];
        memcpy(bytes, good, sizeof bytes);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        struct wire_header got = {0};
        struct err e = {0};
        int rc = wire_header_decode(bytes, &got, &e);
        int byte = bit / 8;
        if (byte < 4)
            assert_int_equal(rc, ERR_CORRUPT);
        else if (byte < 8)
            assert_true(rc == ERR_INVALID || rc == ERR_RANGE);
        else if (byte < 16)
            assert_true(rc == 0 && got.id != h.id);
        else if (byte < 20)
            assert_int_equal(rc, ERR_RANGE);
        else
            assert_true(rc == ERR_RANGE || (rc == 0 && got.body_bytes != h.body_bytes));
        assert_int_equal(rc != 0, e.message[0] != 0);
    }
}

// ---- counting bodies -------------------------------------------------------------------------------

static atomic_int bodies_made, bodies_released;

static void counted_release(void *ctx, void *data)
{
    assert_ptr_equal(ctx, &bodies_made);
    atomic_fetch_add(&bodies_released, 1);
    free(data);
}

static struct wire_body counted_body(size_t n, uint8_t fill)
{
    struct wire_body b = {malloc(n ? n : 1), n, counted_release, &bodies_made};
    memset(b.data, fill, n);
    atomic_fetch_add(&bodies_made, 1);
    return b;
}

static int counted_body_get(void *ctx, const struct wire_frame *f, size_t n, struct wire_body *body,
                            struct err *e)
{
    (void)ctx, (void)e;
    assert_non_null(f->head);
    *body = counted_body(n, 0);
    return 0;
}

static int reset_counts(void **state)
{
    (void)state;
    atomic_store(&bodies_made, 0);
    atomic_store(&bodies_released, 0);
    return 0;
}

static int check_counts(void **state)
{
    (void)state;
    if (atomic_load(&bodies_made) == atomic_load(&bodies_released))
        return 0;
    printf("%d bodies made, %d released\n", atomic_load(&bodies_made),
           atomic_load(&bodies_released));
    return 1;
}

static struct wire_frame segment_frame(uint64_t id, size_t n)
{
    uint8_t head[64];
    memset(head, (int)id, sizeof head);
    return wire_frame_struct(WIRE_SEGMENT, id, head, sizeof head, counted_body(n, (uint8_t)id));
}

// ---- frames, synchronously -------------------------------------------------------------------------

static void conn_pair(struct net_conn **a, struct net_conn **b)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    *a = net_conn_wrap(fds[0]);
    *b = net_conn_wrap(fds[1]);
}

static void test_frame_round_trip(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    static const int32_t tokens[] = {0, 1, -1, INT32_MAX, INT32_MIN};
    json_t *head = json_object();
    json_put(head, "epoch", json_integer(3));
    struct wire_frame sent = wire_frame_tokens(WIRE_GENERATE, 9, head, tokens, 5), got;
    struct err e = {0};
    assert_int_equal(wire_frame_write(a, &sent, in_ms(1000), &e), 0);
    wire_frame_fini(&sent);
    assert_int_equal(wire_frame_read(b, &got, in_ms(1000), &e), 0);
    assert_int_equal(got.type, WIRE_GENERATE);
    assert_int_equal(got.id, 9);
    json_t *parsed = wire_frame_parse(&got, &e);
    assert_int_equal(json_integer_value(json_object_get(parsed, "epoch")), 3);
    json_decref(parsed);
    int32_t *back;
    size_t n;
    assert_int_equal(wire_frame_get_tokens(&got, &back, &n, &e), 0);
    assert_int_equal(n, 5);
    assert_memory_equal(back, tokens, sizeof tokens);
    free(back);
    got.body.len = 19;
    assert_int_equal(wire_frame_get_tokens(&got, &back, &n, &e), ERR_CORRUPT);
    wire_frame_fini(&got);
    net_conn_free(a);
    net_conn_free(b);
}

static void test_frame_heads(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool good;
    } cases[] = {{"{}", true}, {"{\"a\":1}", true}, {"[]", false},   {"3", false},
                 {"{", false}, {"\"x\"", false},    {"{}{}", false}, {"\xff\xfe", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct wire_frame f = wire_frame_struct(WIRE_STATUS, 1, cases[i].text,
                                                strlen(cases[i].text), (struct wire_body){0});
        struct err e = {0};
        json_t *head = wire_frame_parse(&f, &e);
        assert_int_equal(head != NULL, cases[i].good);
        if (!head)
            assert_memory_equal(e.message, "status frame: ", 14);
        json_decref(head);
        wire_frame_fini(&f);
    }
    struct wire_frame f = wire_frame_failed(WIRE_FAILED, 4, ERR_BUSY, "no \xff room");
    struct err e = {0};
    json_t *head = wire_frame_parse(&f, &e);
    assert_string_equal(json_string_value(json_object_get(head, "code")), "busy");
    json_decref(head);
    wire_frame_fini(&f);
}

// A frame that the peer would refuse does not leave.
static void test_oversize_is_not_sent(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_frame f = wire_frame_struct(WIRE_PING, 1, "x", 1, (struct wire_body){0});
    struct err e = {0};
    assert_int_equal(wire_frame_write(a, &f, in_ms(100), &e), ERR_RANGE);
    wire_frame_fini(&f);
    assert_int_equal(wire_frame_read(b, &f, in_ms(10), &e), ERR_TIMEOUT);
    net_conn_free(a);
    net_conn_free(b);
}

// ---- links -------------------------------------------------------------------------------------------

struct end {
    struct wire_link *link;
    atomic_int frames, closes, sent, dropped, late;
    atomic_ulong bytes;
    atomic_bool refuse, sleepy;
    struct err why;
    pthread_mutex_t lock;
    uint64_t next_id; // frames come in order
};

static int end_on_frame(void *ctx, struct wire_frame *f, struct err *e)
{
    struct end *end = ctx;
    if (atomic_load(&end->closes))
        atomic_fetch_add(&end->late, 1);
    assert_int_equal(f->id, end->next_id++);
    for (size_t i = 0; i < f->body.len; i += 97)
        assert_int_equal(((uint8_t *)f->body.data)[i], (uint8_t)f->id);
    atomic_fetch_add(&end->bytes, f->body.len);
    atomic_fetch_add(&end->frames, 1);
    wire_frame_fini(f);
    while (atomic_load(&end->sleepy))
        clock_sleep_until(in_ms(1));
    if (atomic_load(&end->refuse))
        return err_set(e, ERR_MISMATCH, "not wanted");
    return 0;
}

static void end_on_close(void *ctx, const struct err *why)
{
    struct end *end = ctx;
    pthread_mutex_lock(&end->lock);
    end->why = *why;
    pthread_mutex_unlock(&end->lock);
    atomic_fetch_add(&end->closes, 1);
}

static void end_on_sent(void *ctx, const struct wire_header *h, int64_t start_ns, int64_t end_ns,
                        bool ok)
{
    struct end *end = ctx;
    assert_true(start_ns <= end_ns && h->type != WIRE_PING && h->type != WIRE_PONG);
    if (atomic_load(&end->closes))
        atomic_fetch_add(&end->late, 1);
    atomic_fetch_add(ok ? &end->sent : &end->dropped, 1);
}

static const struct wire_link_ops end_ops = {.body_get = counted_body_get,
                                             .on_frame = end_on_frame,
                                             .on_close = end_on_close,
                                             .on_sent = end_on_sent};

static struct end *end_start(struct net_conn *c, const struct wire_link_options *o)
{
    struct end *end = calloc(1, sizeof *end);
    pthread_mutex_init(&end->lock, NULL);
    end->link = wire_link_start(c, &end_ops, end, o);
    return end;
}

// Checks what holds for every link: closed once, nothing after it.
static void end_free(struct end *end)
{
    wire_link_free(end->link);
    assert_int_equal(atomic_load(&end->closes), 1);
    assert_int_equal(atomic_load(&end->late), 0);
    assert_true(end->why.code != 0 && end->why.message[0]);
    pthread_mutex_destroy(&end->lock);
    free(end);
}

static void wait_for(atomic_int *what, int value)
{
    int64_t limit = in_ms(20000);
    while (atomic_load(what) < value && clock_now_ns() < limit)
        clock_sleep_until(in_ms(1));
    assert_int_equal(atomic_load(what), value);
}

static struct wire_link_options options(void)
{
    struct wire_link_options o;
    wire_link_options_default(&o);
    o.name = "test";
    return o;
}

static void test_link_both_ways(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    o.idle_ns = 2000 * NS_PER_MS;
    struct end *x = end_start(a, &o), *y = end_start(b, &o);
    for (uint64_t i = 0; i < 200; i++) {
        size_t n = (i * i * 131) % 100000;
        assert_int_equal(wire_link_send(x->link, segment_frame(i, n), CHAN_FOREVER), 0);
        assert_int_equal(
            wire_link_send(y->link, wire_frame_json(WIRE_PROGRESS, i, NULL), CHAN_FOREVER), 0);
    }
    wait_for(&y->frames, 200);
    wait_for(&x->frames, 200);
    wait_for(&x->sent, 200);
    end_free(x);
    wait_for(&y->closes, 1);
    assert_int_equal(y->why.code, ERR_CLOSED);
    end_free(y);
}

// Links that are alive know how long the way between them is.
static void test_round_trip(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    int64_t limit = in_ms(20000), begun = clock_now_ns();
    o.idle_ns = 300 * NS_PER_MS;
    struct end *x = end_start(a, &o), *y = end_start(b, &o);
    assert_int_equal(wire_link_rtt_ns(x->link), 0);
    while (wire_link_rtt_ns(x->link) == 0 && clock_now_ns() < limit)
        clock_sleep_until(in_ms(1));
    assert_true(wire_link_rtt_ns(x->link) > 0);
    assert_true(wire_link_rtt_ns(x->link) < clock_now_ns() - begun);
    end_free(x);
    end_free(y);
}

// A PONG that answers nothing tells nothing.
static void test_false_pong(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    struct err e = {0};
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    struct end *x = end_start(a, &o);
    const struct wire_frame pong = {.type = WIRE_PONG, .id = 7};
    assert_int_equal(wire_frame_write(b, &pong, in_ms(5000), &e), 0);
    struct wire_frame last = wire_frame_json(WIRE_PROGRESS, 0, NULL);
    assert_int_equal(wire_frame_write(b, &last, in_ms(5000), &e), 0);
    wire_frame_fini(&last);
    wait_for(&x->frames, 1);
    assert_int_equal(wire_link_rtt_ns(x->link), 0);
    end_free(x);
    net_conn_free(b);
}

// What was queued before wire_link_finish arrives whole, and then the end.
static void test_link_finish(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    struct end *x = end_start(a, &o), *y = end_start(b, &o);
    for (uint64_t i = 0; i < 50; i++)
        wire_link_send(x->link, segment_frame(i, 50000), CHAN_FOREVER);
    wire_link_finish(x->link);
    assert_int_equal(wire_link_send(x->link, segment_frame(50, 10), 0), ERR_CLOSED);
    wait_for(&y->closes, 1);
    assert_int_equal(atomic_load(&y->frames), 50);
    assert_int_equal(y->why.code, ERR_CLOSED);
    wait_for(&x->closes, 1); // the peer's end is ours
    end_free(x);
    end_free(y);
}

static void *sender_main(void *arg)
{
    struct end *end = arg;
    int rc = 0;
    for (uint64_t i = 0; rc == 0; i++)
        rc = wire_link_send(end->link, segment_frame(i, 20000), CHAN_FOREVER);
    assert_int_equal(rc, ERR_CLOSED);
    return NULL;
}

// Closing while the queue is full, senders wait and the peer does not read.
static void test_close_while_full(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    o.queue_frames = 4;
    struct end *x = end_start(a, &o);
    pthread_t senders[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&senders[i], NULL, sender_main, x);
    clock_sleep_until(in_ms(30));
    assert_int_equal(wire_link_send(x->link, segment_frame(0, 10), 0), ERR_TIMEOUT);
    wire_link_close(x->link);
    wire_link_close(x->link);
    for (int i = 0; i < 2; i++)
        pthread_join(senders[i], NULL);
    wait_for(&x->closes, 1);
    assert_int_equal(x->why.code, ERR_CLOSED);
    assert_true(atomic_load(&x->dropped) >= 4);
    end_free(x);
    net_conn_free(b);
}

// The reader of a link is busy: the sender waits, nothing is lost.
static void test_back_pressure(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    o.queue_frames = 2;
    struct end *x = end_start(a, &o), *y = end_start(b, &o);
    atomic_store(&y->sleepy, true);
    int sent = 0;
    for (uint64_t i = 0; sent < 100; i++) {
        if (wire_link_send(x->link, segment_frame(i, 300000), 20 * NS_PER_MS))
            break;
        sent++;
    }
    assert_in_range(sent, 1, 99);
    atomic_store(&y->sleepy, false);
    wait_for(&y->frames, sent);
    end_free(x);
    end_free(y);
}

// ---- bad peers ---------------------------------------------------------------------------------------

// Raw bytes from a peer, then its end or its silence; how does the link end?
struct bad_case {
    const char *name;
    struct wire_header header;
    size_t send_header; // bytes of it
    size_t send_more;   // bytes after it
    bool hang;          // keeps the connection open
    int code;
    const char *words;
};

static void run_bad_case(const struct bad_case *c)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    struct wire_link_options o = options();
    o.frame_ns = 50 * NS_PER_MS;
    o.idle_ns = 300 * NS_PER_MS;
    struct end *x = end_start(net_conn_wrap(fds[0]), &o);
    // In one piece: the link hangs up on a bad header at once, and a second write would find that.
    uint8_t bytes[WIRE_HEADER_BYTES + 256] = {0};
    size_t n = c->send_header + c->send_more;
    wire_header_encode(&c->header, bytes);
    assert_int_equal(write(fds[1], bytes, n), (ssize_t)n);
    if (!c->hang)
        shutdown(fds[1], SHUT_WR);
    wait_for(&x->closes, 1);
    if (x->why.code != c->code || !strstr(x->why.message, c->words))
        fail_msg("%s: %s (%d)", c->name, x->why.message, x->why.code);
    assert_int_equal(atomic_load(&x->frames), 0);
    end_free(x);
    close(fds[1]);
}

static void test_bad_peers(void **state)
{
    (void)state;
    static const struct bad_case cases[] = {
        {"nothing", {.type = WIRE_PING}, 0, 0, false, ERR_CLOSED, "broke off"},
        {"silence", {.type = WIRE_PING}, 0, 0, true, ERR_TIMEOUT, "in time"},
        {"half a header", {.type = WIRE_PING}, 11, 0, false, ERR_CORRUPT, "after 11 bytes"},
        {"half a header, silence", {.type = WIRE_PING}, 11, 0, true, ERR_TIMEOUT, "inside a frame"},
        {"half a head",
         {.type = WIRE_SEGMENT, .head_bytes = 64},
         24,
         63,
         false,
         ERR_CORRUPT,
         "inside a segment"},
        {"no body",
         {.type = WIRE_SEGMENT, .head_bytes = 64, .body_bytes = 1},
         24,
         64,
         false,
         ERR_CORRUPT,
         "after 88 bytes"},
        {"half a body, silence",
         {.type = WIRE_SEGMENT, .head_bytes = 64, .body_bytes = 999},
         24,
         164,
         true,
         ERR_TIMEOUT,
         "inside a segment"},
        {"a huge body, silence",
         {.type = WIRE_SEGMENT, .head_bytes = 64, .body_bytes = WIRE_SEGMENT_MAX},
         24,
         64,
         true,
         ERR_TIMEOUT,
         "inside a segment"},
        {"too long a body",
         {.type = WIRE_SEGMENT, .head_bytes = 64, .body_bytes = WIRE_SEGMENT_MAX + 1},
         24,
         0,
         true,
         ERR_RANGE,
         "segment frame with a body of"},
        {"too long a head",
         {.type = WIRE_TOKEN, .head_bytes = UINT32_MAX},
         24,
         0,
         true,
         ERR_RANGE,
         "token frame with a head of 4294967295"},
        {"a ping with a body",
         {.type = WIRE_PING, .body_bytes = 1},
         24,
         0,
         true,
         ERR_RANGE,
         "ping"},
        {"unknown type", {.type = 77}, 24, 0, true, ERR_INVALID, "unknown type 77"},
        {"type 0", {.type = 0}, 24, 0, true, ERR_INVALID, "unknown type 0"},
        {"flags", {.type = WIRE_PING, .flags = 0x8001}, 24, 0, true, ERR_INVALID, "0x8001"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        run_bad_case(&cases[i]);
}

// Not tandem at all: HTTP, and TLS where this side has no key.
static void test_foreign_peers(void **state)
{
    (void)state;
    static const struct {
        const char *bytes, *words;
    } cases[] = {{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "0x20544547"},
                 {"\x16\x03\x01\x02\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01"
                  "\x01\x01\x01\x01\x01",
                  "speaks TLS"}};
    for (size_t i = 0; i < 2; i++) {
        int fds[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        struct wire_link_options o = options();
        struct end *x = end_start(net_conn_wrap(fds[0]), &o);
        size_t n = strlen(cases[i].bytes);
        assert_int_equal(write(fds[1], cases[i].bytes, n), (ssize_t)n);
        wait_for(&x->closes, 1);
        assert_int_equal(x->why.code, ERR_CORRUPT);
        assert_non_null(strstr(x->why.message, cases[i].words));
        end_free(x);
        close(fds[1]);
    }
}

static void test_refused_frame(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    struct end *x = end_start(a, &o), *y = end_start(b, &o);
    atomic_store(&y->refuse, true);
    wire_link_send(x->link, segment_frame(0, 100), 0);
    wait_for(&y->closes, 1);
    assert_int_equal(y->why.code, ERR_MISMATCH);
    assert_string_equal(y->why.message, "not wanted");
    wait_for(&x->closes, 1);
    assert_int_equal(x->why.code, ERR_CLOSED);
    assert_int_equal(wire_link_send(x->link, segment_frame(1, 100), CHAN_FOREVER), ERR_CLOSED);
    end_free(x);
    end_free(y);
}

static int refuse_body(void *ctx, const struct wire_frame *f, size_t n, struct wire_body *body,
                       struct err *e)
{
    (void)ctx, (void)f, (void)body;
    return err_set(e, ERR_BUSY, "no room for %zu bytes", n);
}

static void test_refused_body(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    struct end *x = end_start(a, &o);
    struct wire_link_ops ops = end_ops;
    ops.body_get = refuse_body;
    struct end *y = calloc(1, sizeof *y);
    pthread_mutex_init(&y->lock, NULL);
    y->link = wire_link_start(b, &ops, y, &o);
    wire_link_send(x->link, segment_frame(0, 123), 0);
    wait_for(&y->closes, 1);
    assert_int_equal(y->why.code, ERR_BUSY);
    assert_non_null(strstr(y->why.message, "123"));
    end_free(x);
    end_free(y);
}

// The last words of a peer that goes away are heard, although writing to it fails.
static void test_last_words(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_frame words = wire_frame_failed(WIRE_ABORT, 0, ERR_BUSY, "no room");
    struct err e = {0};
    assert_int_equal(wire_frame_write(b, &words, in_ms(1000), &e), 0);
    wire_frame_fini(&words);
    net_conn_free(b);
    struct wire_link_options o = options();
    struct end *x = end_start(a, &o);
    for (uint64_t i = 0; i < 3; i++)
        wire_link_send(x->link, segment_frame(i, 100000), 0);
    wait_for(&x->closes, 1);
    assert_int_equal(atomic_load(&x->frames), 1);
    assert_int_equal(x->why.code, ERR_CLOSED);
    end_free(x);
}

// An idle link lives as long as the other side answers pings.
static void test_idle_link_lives(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options pinging = options(), quiet = options();
    pinging.idle_ns = 400 * NS_PER_MS;
    struct end *x = end_start(a, &pinging), *y = end_start(b, &quiet);
    clock_sleep_until(in_ms(1500));
    assert_int_equal(wire_link_send(x->link, segment_frame(0, 10), 0), 0);
    wait_for(&y->frames, 1);
    assert_int_equal(atomic_load(&x->closes), 0);
    end_free(x);
    end_free(y);
}

// Made, filled and freed without ever running.
static void test_link_never_run(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    struct end end = {0};
    struct wire_link *l = wire_link_new(a, &end_ops, &end, &o);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(wire_link_send(l, segment_frame(i, 100), 0), 0);
    wire_link_free(l);
    assert_int_equal(atomic_load(&end.closes), 0);
    assert_int_equal(atomic_load(&end.dropped), 3);
    net_conn_free(b);
}

static void test_oversize_link_send(void **state)
{
    (void)state;
    struct net_conn *a, *b;
    conn_pair(&a, &b);
    struct wire_link_options o = options();
    struct end *x = end_start(a, &o);
    struct wire_frame f = segment_frame(0, 16);
    f.type = WIRE_END;
    assert_int_equal(wire_link_send(x->link, f, 0), ERR_RANGE);
    end_free(x);
    net_conn_free(b);
}

#define COUNTED(test) cmocka_unit_test_setup_teardown(test, reset_counts, check_counts)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_header_limits),
        cmocka_unit_test(test_header_bit_flips),
        cmocka_unit_test(test_frame_round_trip),
        cmocka_unit_test(test_frame_heads),
        cmocka_unit_test(test_oversize_is_not_sent),
        COUNTED(test_link_both_ways),
        COUNTED(test_link_finish),
        COUNTED(test_round_trip),
        COUNTED(test_false_pong),
        COUNTED(test_close_while_full),
        COUNTED(test_back_pressure),
        COUNTED(test_bad_peers),
        COUNTED(test_foreign_peers),
        COUNTED(test_refused_frame),
        COUNTED(test_refused_body),
        COUNTED(test_last_words),
        COUNTED(test_idle_link_lives),
        COUNTED(test_link_never_run),
        COUNTED(test_oversize_link_send),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
