// Handshakes and links of a worker. Everything here ends in an event to the engine thread's inbox,
// except RENDER, which goes to the text thread (worker_render.c).
#include "base/log.h"
#include "node/worker.h"
#include "os/os.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRIVAL_WAITED_NS (30 * NS_PER_US) // longer than it takes to read what is here

void worker_post(struct worker *w, const struct worker_event *ev)
{
    chan_send(w->inbox, ev, CHAN_FOREVER);
}

// ---- import buffers: back-pressure -------------------------------------------------------------

static void import_release(void *ctx, void *data)
{
    struct worker_block *b = ctx;
    (void)data;
    worker_block_back(b);
}

// ---- how long a segment takes to come in --------------------------------------------------------

// It tells of the link when nothing of it was here already (the reader had to wait for its head) and when nothing
// else came in at the same time, over another link.
static void arrival_begin(struct worker_link *l)
{
    int others = atomic_fetch_add_explicit(&l->worker->receiving, 1, memory_order_relaxed);

    l->arrival.receiving = true;
    l->arrival.number =
        atomic_fetch_add_explicit(&l->worker->arrivals, 1, memory_order_relaxed) + 1;
    l->arrival.telling = others == 0 && clock_now_ns() - l->arrival.ready_ns >= ARRIVAL_WAITED_NS;
}

// False: what the frame says of its time is of no use.
static bool arrival_end(struct worker_link *l)
{
    if (!l->arrival.receiving)
        return false;
    l->arrival.receiving = false;
    atomic_fetch_sub_explicit(&l->worker->receiving, 1, memory_order_relaxed);
    return l->arrival.telling &&
           atomic_load_explicit(&l->worker->arrivals, memory_order_relaxed) == l->arrival.number;
}

// Bodies of segments go into one of a few blocks that are kept; everything else into fresh memory.
static int link_body_get(void *ctx, const struct wire_frame *f, size_t n, struct wire_body *body,
                         struct err *e)
{
    struct worker_link *l = ctx;
    struct worker *w = l->worker;
    struct worker_block *b = NULL;

    if (f->type == WIRE_PROBE || f->type == WIRE_PROBED) {
        worker_probe_body(l, n, body);
        return 0;
    }
    if (f->type != WIRE_SEGMENT) {
        body->data = mem_alloc(n);
        return 0;
    }
    if (l->kind != WORKER_LINK_BULK_OUT)
        return err_set(e, ERR_INVALID, "a segment came over a link that carries none");
    if (n > w->segment_max)
        return err_set(e, ERR_RANGE, "segment of %zu bytes; this model's largest is %zu", n,
                       w->segment_max);
    arrival_begin(l);
    if (chan_recv(w->import_free, &b, 0) != 0) {
        l->arrival.telling = false; // what comes in meanwhile waits in the kernel
        if (chan_recv(w->import_free, &b, CHAN_FOREVER) != 0)
            return err_set(e, ERR_CLOSED, "the worker is stopping");
    }
    atomic_store_explicit(&l->body_ns, clock_now_ns(), memory_order_relaxed);
    if (!worker_block_fit(b, n)) {
        import_release(b, NULL);
        return err_set(e, ERR_BUSY, "no memory for a segment of %zu bytes", n);
    }
    *body = (struct wire_body){.data = b->data, .len = n, .release = import_release, .ctx = b};
    return 0;
}

// ---- link callbacks ----------------------------------------------------------------------------

static bool link_accepts(const struct worker_link *l, unsigned type)
{
    switch (l->kind) {
    case WORKER_LINK_CONTROL:
        return type == WIRE_RENDER || type == WIRE_GENERATE || type == WIRE_PREFILL ||
               type == WIRE_CANCEL || type == WIRE_STATUS || type == WIRE_ABANDON ||
               type == WIRE_EMBED || type == WIRE_FORGET || type == WIRE_ADAPTER ||
               type == WIRE_MEASURE || type == WIRE_MEASURE_LINK ||
               (type == WIRE_DRAIN && l->parent);
    case WORKER_LINK_BULK_IN:
        return type == WIRE_PULL || type == WIRE_ACK || type == WIRE_ABORT || type == WIRE_PROBE;
    case WORKER_LINK_BULK_OUT:
        return type == WIRE_SEGMENT || type == WIRE_END || type == WIRE_ABORT ||
               type == WIRE_BEAT || type == WIRE_PROBED;
    }
    return false;
}

void worker_wake(struct worker *w)
{
    const struct worker_event wake = {.kind = WORKER_EVENT_WAKE};

    chan_send(w->inbox, &wake, 0); // full: the engine thread is awake anyway
}

static bool brings_work(unsigned type)
{
    return type == WIRE_GENERATE || type == WIRE_PREFILL || type == WIRE_EMBED;
}

static int link_take(struct worker_link *l, struct wire_frame *f, struct err *e)
{
    struct worker *w = l->worker;
    struct worker_event ev = {
        .kind = WORKER_EVENT_FRAME, .link = l, .frame = *f, .t0 = clock_now_ns()};

    if (!link_accepts(l, f->type)) {
        int rc = err_set(e, ERR_INVALID, "unexpected frame: %s", wire_type_name(f->type));
        wire_frame_fini(f);
        return rc;
    }
    if (f->type == WIRE_PROBE)
        return worker_probe_answer(l, f, e);
    if (f->type == WIRE_PROBED)
        return worker_probe_arrived(l, f, e);
    if (!arrival_end(l))
        ev.frame.body_ns = 0;
    if (f->type == WIRE_RENDER || f->type == WIRE_ADAPTER) {
        chan_send(w->text_inbox, &ev, CHAN_FOREVER);
    } else if (f->type == WIRE_PULL) {
        chan_send(w->pulls, &ev, CHAN_FOREVER);
        worker_wake(w);
    } else {
        worker_post(w, &ev);
    }
    if (ev.frame.type == WIRE_CANCEL &&
        atomic_load(&w->running) == worker_key(l->serial, ev.frame.id))
        w->engine->ops->interrupt(w->engine, true);
    if (brings_work(ev.frame.type) && atomic_exchange(&w->measuring, false))
        w->engine->ops->interrupt(w->engine, true);
    return 0;
}

static int link_on_frame(void *ctx, struct wire_frame *f, struct err *e)
{
    struct worker_link *l = ctx;
    int rc = link_take(l, f, e);

    l->arrival.ready_ns = clock_now_ns();
    return rc;
}

// The text thread may still hold a RENDER of this link, so the close takes the same way: first
// through the text inbox, then to the engine thread.
static void link_on_close(void *ctx, const struct err *why)
{
    struct worker_link *l = ctx;
    struct worker *w = l->worker;
    struct worker_event ev = {.kind = WORKER_EVENT_LINK_CLOSED, .link = l, .error = *why};
    if (l->kind == WORKER_LINK_CONTROL) {
        chan_send(w->text_inbox, &ev, CHAN_FOREVER);
        return;
    }
    uint32_t serial = l->serial;
    arrival_end(l);
    worker_post(w, &ev); // from here on the link is the engine thread's to free
    if (atomic_load(&w->running_bulk) == serial)
        w->engine->ops->interrupt(w->engine, true);
}

static void link_on_sent(void *ctx, const struct wire_header *h, int64_t t0, int64_t t1, bool ok)
{
    struct worker_link *l = ctx;
    if (!ok || (h->type != WIRE_SEGMENT && h->type != WIRE_END))
        return; // what was dropped, the link's end tells
    struct worker_event ev = {.kind = WORKER_EVENT_SENT,
                              .link_serial = l->serial,
                              .id = h->id,
                              .type = h->type,
                              .t0 = t0,
                              .t1 = t1,
                              .body_bytes = h->body_bytes};
    // Segments only feed timeline and rate; the end marker finishes the job and must arrive.
    chan_send(l->worker->inbox, &ev, h->type == WIRE_END ? CHAN_FOREVER : 0);
}

static const struct wire_link_ops link_ops = {
    .body_get = link_body_get,
    .on_frame = link_on_frame,
    .on_close = link_on_close,
    .on_sent = link_on_sent,
};

// Takes the connection. The caller tells the engine thread of the link before it runs it, so that
// LINK_UP comes before the link's own events.
static struct worker_link *link_open(struct worker *w, struct net_conn *conn,
                                     enum worker_link_kind kind, int64_t idle_ns)
{
    struct worker_link *l = mem_alloc(sizeof *l);
    struct wire_link_options o;

    wire_link_options_default(&o);
    o.idle_ns = idle_ns;
    if (kind != WORKER_LINK_CONTROL)
        o.frame_ns = WORKER_BULK_FRAME_NS;
    o.name = kind == WORKER_LINK_CONTROL ? "control" : "bulk";
    if (kind != WORKER_LINK_CONTROL)
        net_conn_pace(conn, w->options.link_bytes_per_s);
    l->worker = w;
    l->kind = kind;
    l->serial = atomic_fetch_add_explicit(&w->next_serial, 1, memory_order_relaxed);
    l->wire = wire_link_new(conn, &link_ops, l, &o);
    return l;
}

int worker_link_send(struct worker_link *l, struct wire_frame f)
{
    if (l == NULL || l->wire == NULL) {
        wire_frame_fini(&f);
        return ERR_CLOSED;
    }
    int rc = wire_link_send(l->wire, f, 0);
    if (rc == ERR_TIMEOUT) {
        log_warn("worker", "link closed: the peer does not read peer=%s", wire_link_peer(l->wire));
        wire_link_close(l->wire);
    }
    return rc;
}

// ---- handshakes --------------------------------------------------------------------------------

static int hello_check(void *ctx, const struct message_hello *h, struct err *e)
{
    struct worker *w = ctx;
    if (strcmp(h->role, "spread") == 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "this port serves %s and lends no memory; --spread wants the port of a "
                       "\"tandem node --lend\"",
                       w->welcome.model);
    // Another worker may still come for what was promised to it.
    if (strcmp(h->role, "bulk") != 0)
        return atomic_load_explicit(&w->draining, memory_order_relaxed)
                   ? err_set(e, ERR_BUSY, "this node is stopping")
                   : 0;
    if (!h->has_identity)
        return err_set(e, ERR_INVALID, "a bulk link must say what model it loads");
    return engine_identity_compare(&w->welcome.identity, &h->identity, h->same_weights, e);
}

// What never changes, and what is known of power by now.
static json_t *welcome_now(void *ctx)
{
    struct worker *w = ctx;
    double joules = 0;
    json_t *o = message_welcome_json(&w->welcome);
    struct message_power power = worker_power_get(w, &joules);
    if (power.idle_w > 0 || power.prefill_w > 0 || power.decode_w > 0)
        json_put(o, "power", message_power_json(&power));
    return o;
}

static void link_up(struct worker *w, struct net_conn *conn, const struct message_hello *h,
                    bool parent)
{
    bool bulk = strcmp(h->role, "bulk") == 0;
    struct worker_link *l = link_open(w, conn, bulk ? WORKER_LINK_BULK_IN : WORKER_LINK_CONTROL,
                                      parent ? 0 : WORKER_IDLE_NS);
    struct worker_event up = {.kind = WORKER_EVENT_LINK_UP, .link = l};
    l->parent = parent;
    worker_post(w, &up);
    wire_link_run(l->wire);
}

static void peer_take(void *ctx, struct net_conn *conn, const struct message_hello *h)
{
    link_up(ctx, conn, h, false);
}

static void parent_take(void *ctx, struct net_conn *conn, const struct message_hello *h)
{
    link_up(ctx, conn, h, true);
}

const struct acceptor_host worker_host = {.name = "worker",
                                          .guest = "peer",
                                          .most = WORKER_HANDSHAKES,
                                          .check = hello_check,
                                          .welcome = welcome_now,
                                          .take = peer_take};

int worker_link_accept_parent(struct worker *w, struct net_conn *conn, struct err *e)
{
    static const struct acceptor_host host = {
        .check = hello_check, .welcome = welcome_now, .take = parent_take};
    return acceptor_greet(&host, w, conn, NET_NEVER, e);
}

// ---- dialling a prefill worker -----------------------------------------------------------------

struct dial_task {
    struct worker *worker;
    uint32_t peer;
    int64_t idle_ns;
    bool same_weights;
    struct net_addr addr;
    bool probes; // found out
};

// The other side has judged our identity; we judge its.
static int dial_welcomed(struct dial_task *t, const struct wire_frame *f, struct err *e)
{
    struct message_welcome m;
    json_t *head = wire_frame_parse(f, e);
    int rc = head == NULL ? e->code : message_welcome_parse(head, &m, e);

    if (rc == 0)
        rc = engine_identity_compare(&t->worker->welcome.identity, &m.identity, t->same_weights, e);
    t->probes = rc == 0 && m.links;
    json_decref(head);
    return rc;
}

static int dial_hello(struct dial_task *t, struct net_conn *conn, int64_t deadline_ns,
                      struct err *e)
{
    struct worker *w = t->worker;
    struct message_hello h = {.version = WIRE_VERSION,
                              .role = "bulk",
                              .has_identity = true,
                              .same_weights = t->same_weights,
                              .identity = w->welcome.identity};
    struct wire_frame f = {0};
    int rc;

    snprintf(h.name, sizeof h.name, "%s", w->welcome.name);
    snprintf(h.build, sizeof h.build, "%s", w->welcome.build);
    f = wire_frame_json(WIRE_HELLO, 0, message_hello_json(&h));
    rc = wire_frame_write(conn, &f, deadline_ns, e);
    wire_frame_fini(&f);
    if (rc == 0)
        rc = wire_frame_read(conn, &f, deadline_ns, e);
    if (rc != 0)
        return rc;
    if (f.type == WIRE_REFUSED) {
        json_t *head = wire_frame_parse(&f, e);
        const char *message = "no reason given";
        const char *code = "io";
        if (head != NULL) {
            json_get_string(head, "message", &message, e);
            json_get_string(head, "code", &code, e);
        }
        rc = err_set(e, err_from_name(code), "refused: %s", message);
        json_decref(head);
    } else if (f.type == WIRE_WELCOME) {
        rc = dial_welcomed(t, &f, e);
    } else {
        rc = err_set(e, ERR_INVALID, "the answer to hello is %s", wire_type_name(f.type));
    }
    wire_frame_fini(&f);
    return rc;
}

static void *dial_thread(void *arg)
{
    struct dial_task *t = arg;
    struct worker *w = t->worker;
    struct worker_event ev = {.kind = WORKER_EVENT_DIALED, .peer = t->peer};
    struct net_conn *conn = NULL;
    int64_t deadline = clock_now_ns() + 2 * NS_PER_S;

    os_thread_name("dial");
    int rc = net_conn_dial(&t->addr, &w->options.key, deadline, &conn, &ev.error);
    if (rc == 0 && (rc = dial_hello(t, conn, deadline, &ev.error)) != 0)
        net_conn_free(conn);
    ev.error.code = rc;
    if (rc == 0) {
        ev.link = link_open(w, conn, WORKER_LINK_BULK_OUT, t->idle_ns);
        ev.link->probes = t->probes;
        struct worker_event up = {.kind = WORKER_EVENT_LINK_UP, .link = ev.link};
        worker_post(w, &up);
    }
    // The engine thread may queue frames on the link as soon as it has heard of it, and cannot free
    // it before the link's own last event, which comes after wire_link_run.
    worker_post(w, &ev);
    if (ev.link != NULL)
        wire_link_run(ev.link->wire);
    free(t);
    atomic_fetch_sub_explicit(&w->dials, 1, memory_order_release);
    return NULL;
}

void worker_dial_start(struct worker *w, uint32_t peer, int64_t idle_ns, bool same_weights)
{
    pthread_t thread;
    struct dial_task *t = mem_alloc(sizeof *t);

    t->worker = w;
    t->peer = peer;
    t->idle_ns = idle_ns;
    t->same_weights = same_weights;
    t->addr = w->peers[peer].addr;
    atomic_fetch_add_explicit(&w->dials, 1, memory_order_relaxed);
    if (pthread_create(&thread, NULL, dial_thread, t) == 0) {
        pthread_detach(thread);
        return;
    }
    struct worker_event ev = {.kind = WORKER_EVENT_DIALED, .peer = peer};
    atomic_fetch_sub_explicit(&w->dials, 1, memory_order_relaxed);
    err_set(&ev.error, ERR_IO, "cannot start a thread to dial");
    free(t);
    worker_event_handle(w, &ev); // we are the engine thread: posting could wait for ourselves
}
