// Workers in this process, with the fake engine, and a gateway's side to drive them by hand.
#ifndef TESTS_WORKER_RIG_H
#define TESTS_WORKER_RIG_H

#include "engine/fake.h"
#include "node/worker.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define RIG_DEADLINE (clock_now_ns() + 20 * NS_PER_S)

struct rig_node {
    struct worker w;
    pthread_t thread;
    struct net_conn *gateway; // our side of its control link
    uint16_t port;            // 0: does not listen
};

static const struct net_key rig_key = {.bytes = {1, 2, 3, 4, 5, 6, 7, 8}};

// What workers are made with that a test may change before it makes one.
struct rig_workers {
    uint32_t n_ctx, n_seq, n_batch;
    int32_t stall_ms;
    void (*change)(struct engine *g); // what a test does to its engines; NULL: nothing
    // What opens them; NULL: the fake one. A real one takes the model's path from the options.
    int (*open)(const struct engine_options *o, struct engine **out, struct err *e);
    double link_rate;             // of what they send in bulk; 0: as fast as it goes
    const struct os_roots *power; // where they look for meters; NULL: they do not
};
#define RIG_USUAL                                                                                  \
    {                                                                                              \
        8192, 4, 128, NODE_STALL_AUTO, NULL, NULL, 0, NULL                                         \
    }
static struct rig_workers rig_options = RIG_USUAL;

// A test's setup: whatever the one before it has changed is as usual again.
static inline int rig_defaults(void **state)
{
    (void)state;
    rig_options = (struct rig_workers)RIG_USUAL;
    return 0;
}

static inline void *rig_thread(void *arg)
{
    struct rig_node *n = arg;
    worker_run(&n->w);
    return NULL;
}

// HELLO from the gateway's side, in the form that the worker's handshake expects.
static inline void rig_hello(struct rig_node *n)
{
    struct err e = {0};
    struct message_hello h = {.version = WIRE_VERSION, .role = "gateway", .name = "test"};
    struct wire_frame f = wire_frame_json(WIRE_HELLO, 0, message_hello_json(&h));
    assert_int_equal(wire_frame_write(n->gateway, &f, RIG_DEADLINE, &e), 0);
    wire_frame_fini(&f);
}

static inline struct engine *rig_engine(const char *model, enum engine_handoff mode)
{
    struct err e = {0};
    struct engine_options o;
    struct engine *g = NULL;
    engine_options_default(&o);
    o.model = model;
    o.n_ctx = rig_options.n_ctx;
    o.n_seq = rig_options.n_seq;
    o.n_batch = rig_options.n_batch;
    o.handoff = mode;
    o.tiles = true;
    if ((rig_options.open != NULL ? rig_options.open : engine_fake_open)(&o, &g, &e) != 0)
        fail_msg("%s", e.message);
    if (rig_options.change != NULL)
        rig_options.change(g);
    return g;
}

static inline struct rig_node *rig_start(const char *model, enum engine_handoff mode, bool listen,
                                         bool tiles)
{
    struct err e = {0};
    struct rig_node *n = mem_alloc(sizeof *n);
    struct net_addr a = {.host = "127.0.0.1"};
    struct wire_frame f = {0};
    int pair[2];

    node_worker_options_default(&n->w.options);
    n->w.options.engine.model = model;
    n->w.options.key = rig_key;
    n->w.options.no_tiles = !tiles;
    n->w.options.min_chunk_tokens = 16;
    n->w.options.stall_ms = rig_options.stall_ms;
    n->w.options.max_requests = 256;
    n->w.options.link_bytes_per_s = rig_options.link_rate;
    n->w.listen_fd = listen ? net_listen(&a, &rig_key, &e) : -1;
    n->port = listen ? a.port : 0;
    if (rig_options.power != NULL)
        worker_power_start(&n->w, rig_options.power);
    assert_int_equal(worker_open(&n->w, rig_engine(model, mode), &e), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    n->gateway = net_conn_wrap(pair[0]);
    rig_hello(n);
    assert_int_equal(worker_link_accept_parent(&n->w, net_conn_wrap(pair[1]), &e), 0);
    assert_int_equal(pthread_create(&n->thread, NULL, rig_thread, n), 0);
    assert_int_equal(wire_frame_read(n->gateway, &f, RIG_DEADLINE, &e), 0);
    assert_int_equal(f.type, WIRE_WELCOME);
    wire_frame_fini(&f);
    return n;
}

static inline void rig_stop(struct rig_node *n)
{
    net_conn_shutdown(n->gateway);
    pthread_join(n->thread, NULL);
    net_conn_free(n->gateway);
    worker_close(&n->w);
    worker_power_stop(&n->w);
    free(n);
}

// Dials a worker that listens, in a role; returns the connection and *answer, the first frame that came.
static inline struct net_conn *rig_greet(const struct rig_node *n, const char *role,
                                         struct wire_frame *answer)
{
    struct err e = {0};
    struct net_addr a = {.host = "127.0.0.1", .port = n->port};
    struct message_hello h = {.version = WIRE_VERSION,
                              .has_identity = true,
                              .same_weights = true,
                              .identity = n->w.welcome.identity}; // immutable since it was loaded
    struct net_conn *c = NULL;
    snprintf(h.role, sizeof h.role, "%s", role);
    struct wire_frame f = wire_frame_json(WIRE_HELLO, 0, message_hello_json(&h));
    assert_int_equal(net_conn_dial(&a, &rig_key, RIG_DEADLINE, &c, &e), 0);
    assert_int_equal(wire_frame_write(c, &f, RIG_DEADLINE, &e), 0);
    wire_frame_fini(&f);
    assert_int_equal(wire_frame_read(c, answer, RIG_DEADLINE, &e), 0);
    return c;
}

// The same, and it is welcome.
static inline struct net_conn *rig_link(const struct rig_node *n, const char *role)
{
    struct wire_frame in = {0};
    struct net_conn *c = rig_greet(n, role, &in);
    assert_int_equal(in.type, WIRE_WELCOME);
    wire_frame_fini(&in);
    return c;
}

static inline void rig_send(struct rig_node *n, struct wire_frame f)
{
    struct err e = {0};
    if (wire_frame_write(n->gateway, &f, RIG_DEADLINE, &e) != 0)
        fail_msg("%s", e.message);
    wire_frame_fini(&f);
}

// The next frame that is not a PROGRESS; its head as JSON.
static inline json_t *rig_recv(struct rig_node *n, unsigned *type)
{
    struct err e = {0};
    struct wire_frame f = {0};
    for (;;) {
        if (wire_frame_read(n->gateway, &f, RIG_DEADLINE, &e) != 0)
            fail_msg("%s", e.message);
        *type = f.type;
        json_t *head = wire_frame_parse(&f, &e);
        wire_frame_fini(&f);
        if (*type != WIRE_PROGRESS)
            return head;
        json_decref(head);
    }
}

#define RIG_TICKET "00112233445566778899aabbccddeeff"

struct rig_request {
    uint64_t id;
    const int32_t *tokens;
    size_t n;
    uint32_t max_tokens;
    uint16_t port; // of the prefill worker; 0: none
    bool serial;
    double stall_s;
    uint64_t transfer; // 0: 77
    const char *owner; // NULL: ""
    bool keep, reuse;
    bool parse;
    json_t *syntax;   // borrowed
    int32_t logprobs; // 0: none; k + 1 otherwise
    const char *stop;
    bool eos; // the answer may end by itself
    bool timeline;
    bool whole;          // the prompt's last token may go along
    const char *adapter; // SHA-256; NULL: none
    uint32_t upto;       // of the hand-off; 0: all but the last token
};

static inline void rig_adapter(struct message_adapter *m, const struct rig_request *r)
{
    if (r->adapter != NULL) {
        snprintf(m->name, sizeof m->name, "test");
        snprintf(m->sha256, sizeof m->sha256, "%s", r->adapter);
    }
}

static inline void rig_generate(struct rig_node *d, const struct rig_request *r)
{
    struct message_generate m = {.epoch = 1,
                                 .max_tokens = r->max_tokens,
                                 .ignore_eos = !r->eos,
                                 .keep = r->keep,
                                 .reuse = r->reuse,
                                 .parse = r->parse,
                                 .timeline = r->timeline,
                                 .whole = r->whole,
                                 .syntax = r->syntax,
                                 .logprobs = r->logprobs - 1,
                                 .stops = {(char *)(uintptr_t)r->stop},
                                 .n_stops = r->stop != NULL};
    snprintf(m.owner, sizeof m.owner, "%s", r->owner != NULL ? r->owner : "");
    rig_adapter(&m.adapter, r);
    engine_sampling_default(&m.sampling);
    m.sampling.temperature = 0;
    if (r->port != 0) {
        m.handoff = (struct message_handoff){.present = true,
                                             .host = "127.0.0.1",
                                             .port = r->port,
                                             .ticket = RIG_TICKET,
                                             .transfer = r->transfer != 0 ? r->transfer : 77,
                                             .upto = r->upto,
                                             .stall_s = r->stall_s > 0 ? r->stall_s : 1.0,
                                             .serial = r->serial,
                                             .same_weights = true};
    }
    rig_send(d,
             wire_frame_tokens(WIRE_GENERATE, r->id, message_generate_json(&m), r->tokens, r->n));
}

static inline void rig_prefill(struct rig_node *p, const struct rig_request *r)
{
    struct message_prefill m = {.epoch = 1,
                                .transfer = r->transfer != 0 ? r->transfer : 77,
                                .ticket = RIG_TICKET,
                                .serial = r->serial,
                                .keep = r->keep,
                                .reuse = r->reuse,
                                .upto = r->upto > 0 ? r->upto : (uint32_t)r->n - 1};
    snprintf(m.owner, sizeof m.owner, "%s", r->owner != NULL ? r->owner : "");
    rig_adapter(&m.adapter, r);
    rig_send(p, wire_frame_tokens(WIRE_PREFILL, r->id, message_prefill_json(&m), r->tokens, r->n));
}

struct rig_answer {
    char text[8192];
    int32_t ids[512];
    size_t n;
    unsigned type; // WIRE_DONE or WIRE_FAILED
    char fallback[512], message[512], finish[32];
    json_int_t imported, read, cached, reasoning, kv_bytes;
    json_t *deltas, *tops; // all of them, in order, where there were any: see rig_answer_fini
};

static inline void rig_answer_fini(struct rig_answer *a)
{
    json_decref(a->deltas);
    json_decref(a->tops);
    a->deltas = a->tops = NULL;
}

static inline void rig_collect(json_t **all, json_t *list)
{
    if (list == NULL)
        return;
    if (*all == NULL)
        *all = json_array();
    json_array_extend(*all, list);
}

static inline json_int_t rig_integer(const json_t *head, const char *member)
{
    return json_integer_value(json_object_get(head, member));
}

static inline void rig_done_read(struct rig_answer *a, const json_t *head)
{
    const char *s = json_string_value(json_object_get(head, "fallback"));
    snprintf(a->fallback, sizeof a->fallback, "%s", s != NULL ? s : "");
    snprintf(a->finish, sizeof a->finish, "%s", json_string_value(json_object_get(head, "finish")));
    a->imported = rig_integer(head, "tokens_imported");
    a->read = rig_integer(head, "tokens_read");
    a->cached = rig_integer(head, "tokens_cached");
    a->reasoning = rig_integer(head, "reasoning_tokens");
    a->kv_bytes = rig_integer(head, "kv_bytes");
}

// Reads until DONE or FAILED.
static inline void rig_answer_read(struct rig_node *d, struct rig_answer *a)
{
    *a = (struct rig_answer){0};
    for (;;) {
        json_t *head = rig_recv(d, &a->type);
        const char *text = json_string_value(json_object_get(head, "text"));
        if (text != NULL)
            strncat(a->text, text, sizeof a->text - strlen(a->text) - 1);
        if (a->type == WIRE_TOKEN && a->n < 512)
            a->ids[a->n++] = (int32_t)json_integer_value(json_object_get(head, "id"));
        rig_collect(&a->deltas, json_object_get(head, "delta"));
        rig_collect(&a->tops, json_object_get(head, "top"));
        if (a->type == WIRE_DONE)
            rig_done_read(a, head);
        if (a->type == WIRE_FAILED)
            snprintf(a->message, sizeof a->message, "%s",
                     json_string_value(json_object_get(head, "message")));
        json_decref(head);
        if (a->type != WIRE_TOKEN)
            return;
    }
}

static inline void rig_tokens(int32_t *tokens, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        tokens[i] = (int32_t)(seed >> 24);
    }
}

#endif
