// The borrower's end: see spread.h.
#include "node/spread.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "os/os.h"
#include "wire/wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DIAL_NS (5 * NS_PER_S)
// A lender that is there answers within one step; a stopped one does not.
#define SILENCE_NS (120 * NS_PER_S)
#define KEEP_ALIVE_S 10
#define WATCH_NS (500 * NS_PER_MS)

// ---- while it is in use ------------------------------------------------------------------------

// Nothing that holds the engine can go on: not a step, not even its end.
static _Noreturn void lender_lost(const struct spread_lender *l, const char *why)
{
    log_error("worker",
              "the machine %s (%s), which holds a part of the model, is gone: %s; this worker ends "
              "and is started again",
              l->facts.name, l->address, why);
    _exit(NODE_EXIT_LENDER);
}

static int stream_read(void *ctx, void *data, size_t n)
{
    struct spread_lender *l = ctx;
    struct err e = {0};
    if (net_conn_read(l->conn, data, n, clock_now_ns() + SILENCE_NS, &e) != 0)
        lender_lost(l, e.message);
    return 0;
}

static int stream_write(void *ctx, const void *data, size_t n)
{
    struct spread_lender *l = ctx;
    struct err e = {0};
    if (net_conn_write(l->conn, data, n, clock_now_ns() + SILENCE_NS, &e) != 0)
        lender_lost(l, e.message);
    return 0;
}

// Between requests nobody reads, and a loss would be noticed by the next one only. Looking takes nothing
// from the connection's reader.
static void *watch_thread(void *arg)
{
    struct spread *s = arg;
    char byte;
    os_thread_name("lenders");
    for (;;) {
        clock_sleep_until(clock_now_ns() + WATCH_NS);
        for (size_t i = 0; i < s->n; i++) {
            ssize_t n = recv(net_conn_fd(s->lenders[i].conn), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
            if (n == 0)
                lender_lost(&s->lenders[i], "it closed the connection");
            if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
                lender_lost(&s->lenders[i], strerror(errno));
        }
    }
    return NULL;
}

// ---- getting there -----------------------------------------------------------------------------

static int refused(const struct wire_frame *f, struct err *e)
{
    json_t *head = wire_frame_parse(f, e);
    const char *message = "no reason given", *code = "io";
    if (head != NULL) {
        json_get_string(head, "message", &message, e);
        json_get_string(head, "code", &code, e);
    }
    int rc = err_set(e, err_from_name(code), "it refuses: %s", message);
    json_decref(head);
    return rc;
}

static int welcomed(struct spread_lender *l, const struct wire_frame *f, struct err *e)
{
    json_t *head = wire_frame_parse(f, e);
    int rc = head == NULL ? e->code : message_lend_parse(head, &l->facts, e);
    json_decref(head);
    if (rc == 0 && l->facts.version != WIRE_VERSION)
        rc = err_set(e, ERR_MISMATCH, "protocol version %u here, %u there", WIRE_VERSION,
                     l->facts.version);
    if (rc == 0 && strcmp(l->facts.engine, engine_lend_version()) != 0)
        rc = err_set(e, ERR_MISMATCH,
                     "%s here, %s there; install the same release of tandem on both machines",
                     engine_lend_version(), l->facts.engine);
    return rc;
}

static int greet(struct spread_lender *l, const char *name, int64_t deadline_ns, struct err *e)
{
    struct message_hello h = {.version = WIRE_VERSION, .role = "spread"};
    struct wire_frame f = {0};
    if (name != NULL)
        snprintf(h.name, sizeof h.name, "%s", name);
    else
        node_name_default(h.name, sizeof h.name);
    snprintf(h.build, sizeof h.build, "tandem %s", TANDEM_VERSION);
    snprintf(h.engine, sizeof h.engine, "%s", engine_lend_version());
    f = wire_frame_json(WIRE_HELLO, 0, message_hello_json(&h));
    int rc = wire_frame_write(l->conn, &f, deadline_ns, e);
    wire_frame_fini(&f);
    if (rc == 0)
        rc = wire_frame_read(l->conn, &f, deadline_ns, e);
    if (rc == 0 && f.type == WIRE_REFUSED)
        rc = refused(&f, e);
    else if (rc == 0 && f.type != WIRE_WELCOME)
        rc = err_set(e, ERR_INVALID, "the answer to hello is %s", wire_type_name(f.type));
    else if (rc == 0)
        rc = welcomed(l, &f, e);
    wire_frame_fini(&f);
    return rc;
}

// Which failures may be over in a moment: the other machine boots, or somebody is about to give it back.
static int passing(int rc)
{
    return rc == ERR_IO || rc == ERR_TIMEOUT || rc == ERR_CLOSED || rc == ERR_BUSY ? ERR_BUSY : rc;
}

static int lender_open(struct spread_lender *l, const struct node_worker_options *o,
                       const struct net_addr *addr, struct err *e)
{
    int64_t deadline = clock_now_ns() + DIAL_NS;
    snprintf(l->address, sizeof l->address, strchr(addr->host, ':') ? "[%s]:%u" : "%s:%u",
             addr->host, addr->port);
    int rc = net_conn_dial(addr, &o->key, deadline, &l->conn, e);
    if (rc == 0 && (rc = greet(l, o->name, deadline, e)) != 0) {
        net_conn_free(l->conn);
        l->conn = NULL;
    }
    if (rc != 0) {
        err_wrap(e, "cannot spread the model to %s", l->address);
        return e->code = passing(rc);
    }
    net_conn_keep_alive(l->conn, KEEP_ALIVE_S);
    log_info("worker", "%s (%s) lends %.1f GiB: %s", l->facts.name, l->address,
             (double)l->facts.memory_bytes / 0x1p30, l->facts.devices);
    return 0;
}

// By what each can hold, unless the user says otherwise.
static int shares_set(struct spread *s, const struct node_worker_options *o, struct err *e)
{
    double shares[ENGINE_LENDERS_MAX + 1] = {(double)os_memory_available()};
    struct os_facts f;
    os_facts_get(&f);
    if (shares[0] <= 0)
        shares[0] = (double)f.memory_bytes;
    for (size_t i = 0; i < s->n; i++)
        shares[1 + i] = (double)s->lenders[i].facts.memory_bytes;
    int rc =
        o->tensor_split == NULL ? 0 : spread_shares_parse(o->tensor_split, s->n + 1, shares, e);
    s->own_share = shares[0];
    for (size_t i = 0; i < s->n; i++)
        s->streams[i].share = shares[1 + i];
    return rc;
}

static void close_all(struct spread *s)
{
    for (size_t i = 0; i < s->n; i++)
        net_conn_free(s->lenders[i].conn);
    s->n = 0;
}

int spread_open(struct spread *s, const struct node_worker_options *o,
                struct engine_options *engine, struct err *e)
{
    struct net_addr addresses[ENGINE_LENDERS_MAX];
    size_t n = 0;
    int rc = spread_addresses_parse(o->spread, addresses, &n, e);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct spread_lender *l = &s->lenders[i];
        rc = lender_open(l, o, &addresses[i], e);
        s->streams[i].stream = (struct engine_stream){stream_read, stream_write, l};
        s->n += rc == 0 ? 1 : 0;
    }
    if (rc == 0)
        rc = shares_set(s, o, e);
    if (rc == 0 && pthread_create(&s->watcher, NULL, watch_thread, s) != 0)
        rc = err_set(e, ERR_IO, "cannot start the thread that watches the lenders");
    if (rc != 0) {
        close_all(s);
        return rc;
    }
    engine->lenders = s->streams;
    engine->n_lenders = s->n;
    engine->own_share = s->own_share;
    return 0;
}

void spread_text(const struct spread *s, uint32_t n_layer, char *out, size_t out_bytes)
{
    double shares[ENGINE_LENDERS_MAX + 1] = {s->own_share};
    uint32_t layers[ENGINE_LENDERS_MAX + 1];
    for (size_t i = 0; i < s->n; i++)
        shares[1 + i] = s->streams[i].share;
    engine_spread_layers(shares, s->n + 1, n_layer, layers);
    size_t len = (size_t)snprintf(out, out_bytes, "%u of %u layers here", layers[0], n_layer);
    for (size_t i = 0; i < s->n && len < out_bytes; i++)
        len += (size_t)snprintf(out + len, out_bytes - len, ", %u on %s (%s)", layers[1 + i],
                                s->lenders[i].facts.name, s->lenders[i].address);
}
