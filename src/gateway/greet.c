// The greeter of a peer: the thread that may block on dialling and on the first two frames, so that
// the core never does.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/core.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ORDERS 4

static struct wire_frame hello_frame(bool same_weights)
{
    struct message_hello hello = {.version = WIRE_VERSION, .same_weights = same_weights};

    snprintf(hello.role, sizeof(hello.role), "gateway");
    snprintf(hello.name, sizeof(hello.name), "gateway");
    snprintf(hello.build, sizeof(hello.build), "tandem %s", TANDEM_VERSION);
    return wire_frame_json(WIRE_HELLO, 0, message_hello_json(&hello));
}

// The code and the words of a REFUSED.
static int refusal_read(const json_t *head, struct err *e)
{
    const char *code = NULL, *message = NULL;

    if (json_get_string(head, "code", &code, e) != 0 ||
        json_get_string(head, "message", &message, e) != 0)
        return e->code;
    return err_set(e, code ? err_from_name(code) : ERR_IO, "%.400s",
                   message ? message : "refused without a reason");
}

static int answer_read(const struct wire_frame *f, struct message_welcome *w, struct err *e)
{
    json_t *head;
    int rc;

    if (f->type != WIRE_WELCOME && f->type != WIRE_REFUSED)
        return err_set(e, ERR_CORRUPT, "the answer to HELLO was a %s frame",
                       wire_type_name(f->type));
    head = wire_frame_parse(f, e);
    if (!head)
        return e->code;
    rc = f->type == WIRE_REFUSED ? refusal_read(head, e) : message_welcome_parse(head, w, e);
    json_decref(head);
    if (rc == 0 && w->version != WIRE_VERSION)
        rc = err_set(e, ERR_MISMATCH, "it speaks protocol version %u, this gateway version %u",
                     w->version, WIRE_VERSION);
    return rc;
}

static int greet(struct net_conn *conn, bool same_weights, int64_t deadline_ns,
                 struct message_welcome *w, struct err *e)
{
    struct wire_frame out = hello_frame(same_weights), in = {0};
    int rc = wire_frame_write(conn, &out, clock_now_ns() + PEER_GREET_NS, e);

    wire_frame_fini(&out);
    if (rc == 0)
        rc = wire_frame_read(conn, &in, deadline_ns, e);
    if (rc != 0)
        return rc;
    rc = answer_read(&in, w, e);
    wire_frame_fini(&in);
    return rc;
}

// Fills the message with a connection and a welcome, or with an error.
static void order_run(struct peer_greeter *g, struct peer_order *o, struct core_message *m)
{
    const struct gateway_options *options = &g->core->options;
    struct err e = {0};
    // A local worker answers when it has loaded its model, however long that takes; if it dies
    // meanwhile the connection ends.
    int64_t deadline_ns = NET_NEVER;
    int rc = 0;

    m->welcome = mem_alloc(sizeof(*m->welcome));
    if (!o->conn) {
        rc = net_conn_dial(&o->addr, &options->key, clock_now_ns() + PEER_DIAL_NS, &o->conn, &e);
        deadline_ns = clock_now_ns() + PEER_GREET_NS;
    }
    if (rc == 0)
        rc = greet(o->conn, options->same_weights, deadline_ns, m->welcome, &e);
    if (rc == 0) {
        m->conn = o->conn;
        return;
    }
    if (o->conn)
        net_conn_free(o->conn);
    free(m->welcome);
    m->welcome = NULL;
    m->error = mem_alloc(sizeof(*m->error));
    *m->error = e;
}

static void *greeter_main(void *ctx)
{
    struct peer_greeter *g = ctx;
    struct peer_order o;

    os_thread_name("greeter");
    while (chan_recv(g->orders, &o, CHAN_FOREVER) == 0) {
        struct core_message m = {.what = CORE_GREETED, .peer = g->index, .turn = o.turn};

        order_run(g, &o, &m);
        core_send(g->core, &m, CHAN_FOREVER);
    }
    return NULL;
}

int peer_greeter_start(struct core *c, struct peer *p, struct err *e)
{
    struct peer_greeter *g = mem_alloc(sizeof(*g));

    *g = (struct peer_greeter){.core = c, .index = p->index};
    g->orders = chan_new(sizeof(struct peer_order), ORDERS);
    if (pthread_create(&g->thread, NULL, greeter_main, g) == 0) {
        p->greeter = g;
        return 0;
    }
    chan_free(g->orders);
    free(g);
    return err_set(e, ERR_IO, "cannot start a thread");
}

void peer_greeter_stop(struct peer *p)
{
    struct peer_greeter *g = p->greeter;
    struct peer_order o;

    if (!g)
        return;
    chan_close(g->orders);
    pthread_join(g->thread, NULL);
    while (chan_recv(g->orders, &o, 0) == 0)
        if (o.conn)
            net_conn_free(o.conn);
    chan_free(g->orders);
    free(g);
    p->greeter = NULL;
}
