// The lender's end: see spread.h. The main thread is inside ggml's server from the start; `next` is where that
// server believes to accept connections.
#include "node/spread.h"

#include "base/buf.h"
#include "base/chan.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "os/os.h"
#include "wire/wire.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HANDSHAKE_NS (5 * NS_PER_S)
#define HANDSHAKES_MAX 8
#define WRITE_NS (120 * NS_PER_S)
#define KEEP_ALIVE_S 10

struct borrower {
    struct net_conn *conn;
    char name[512]; // and where it is
};

struct lend {
    const struct node_worker_options *options;
    struct message_lend welcome; // read-only once threads exist
    int listen_fd;
    struct chan *accepted;   // at most one `struct borrower` waits: accept thread -> main thread
    struct borrower current; // main thread only
    atomic_bool lent;        // taken by the handshake that succeeds, cleared by the main thread
    atomic_int handshakes;
};

// ---- handshakes --------------------------------------------------------------------------------

static int hello_check(struct lend *l, const struct message_hello *h, struct err *e)
{
    if (strcmp(h->role, "spread") != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "this port lends memory to --spread and answers no requests; the models of "
                       "a node have ports of their own");
    if (h->version != WIRE_VERSION)
        return err_set(e, ERR_MISMATCH,
                       "protocol version %u here, %u there; install the same release of tandem on "
                       "both machines",
                       WIRE_VERSION, h->version);
    if (strcmp(h->engine, l->welcome.engine) != 0)
        return err_set(e, ERR_MISMATCH,
                       "%s here, %s there; install the same release of tandem on both machines",
                       l->welcome.engine, h->engine);
    if (atomic_exchange(&l->lent, true))
        return err_set(e, ERR_BUSY,
                       "what %s lends is in use by another model; it can be had when that ends",
                       l->welcome.name);
    return 0;
}

static int hello_read(struct net_conn *conn, int64_t deadline_ns, struct message_hello *h,
                      struct err *e)
{
    struct wire_frame f = {0};
    int rc = wire_frame_read(conn, &f, deadline_ns, e);
    if (rc != 0)
        return rc;
    json_t *head = f.type == WIRE_HELLO ? wire_frame_parse(&f, e) : NULL;
    if (f.type != WIRE_HELLO)
        rc = err_set(e, ERR_INVALID, "the first frame is %s, not hello", wire_type_name(f.type));
    else
        rc = head == NULL ? e->code : message_hello_parse(head, h, e);
    json_decref(head);
    wire_frame_fini(&f);
    return rc;
}

// On success the connection belongs to the main thread.
static int handshake(struct lend *l, struct net_conn *conn, int64_t deadline_ns, struct err *e)
{
    struct message_hello h;
    struct wire_frame reply;
    struct err reply_error = {0};
    int rc = hello_read(conn, deadline_ns, &h, e);
    if (rc == 0)
        rc = hello_check(l, &h, e);
    reply = rc == 0 ? wire_frame_json(WIRE_WELCOME, 0, message_lend_json(&l->welcome))
                    : wire_frame_failed(WIRE_REFUSED, 0, rc, e->message);
    int sent = wire_frame_write(conn, &reply, clock_now_ns() + HANDSHAKE_NS, &reply_error);
    wire_frame_fini(&reply);
    if (rc != 0)
        return rc;
    if (sent != 0) {
        atomic_store(&l->lent, false);
        return err_set(e, sent, "%s", reply_error.message);
    }
    struct borrower b = {.conn = conn};
    snprintf(b.name, sizeof b.name, "%s (%s)", h.name, net_conn_peer(conn));
    net_conn_keep_alive(conn, KEEP_ALIVE_S);
    chan_send(l->accepted, &b, CHAN_FOREVER);
    return 0;
}

struct handshake_task {
    struct lend *lend;
    int fd;
    char peer[128];
};

static void *handshake_thread(void *arg)
{
    struct handshake_task *t = arg;
    struct net_conn *conn = NULL;
    struct err e = {0};
    int64_t deadline = clock_now_ns() + HANDSHAKE_NS;

    os_thread_name("handshake");
    int rc = net_conn_accept_tls(t->fd, &t->lend->options->key, deadline, &conn, &e);
    if (rc == 0 && (rc = handshake(t->lend, conn, deadline, &e)) != 0)
        net_conn_free(conn);
    if (rc != 0)
        log_warn("lend", "borrower refused: %s peer=%s code=%s", e.message, t->peer, err_name(rc));
    atomic_fetch_sub(&t->lend->handshakes, 1);
    free(t);
    return NULL;
}

static void handshake_start(struct lend *l, int fd, const char *peer)
{
    pthread_t thread;
    struct handshake_task *t = mem_alloc(sizeof *t);
    *t = (struct handshake_task){.lend = l, .fd = fd};
    snprintf(t->peer, sizeof t->peer, "%s", peer);
    atomic_fetch_add(&l->handshakes, 1);
    if (pthread_create(&thread, NULL, handshake_thread, t) == 0) {
        pthread_detach(thread);
        return;
    }
    atomic_fetch_sub(&l->handshakes, 1);
    close(fd);
    free(t);
}

static void *accept_thread(void *arg)
{
    struct lend *l = arg;
    char peer[128];
    struct err e = {0};

    os_thread_name("accept");
    for (;;) {
        int fd = net_accept(l->listen_fd, clock_now_ns() + NS_PER_S, peer, sizeof peer, &e);
        if (fd == ERR_TIMEOUT)
            continue;
        if (fd < 0) {
            clock_sleep_until(clock_now_ns() + 50 * NS_PER_MS); // out of descriptors: do not spin
            continue;
        }
        if (atomic_load(&l->handshakes) >= HANDSHAKES_MAX) {
            close(fd);
            continue;
        }
        handshake_start(l, fd, peer);
    }
    return NULL;
}

// ---- one borrower after the other --------------------------------------------------------------

static int stream_read(void *ctx, void *data, size_t n)
{
    struct lend *l = ctx;
    struct err e = {0};
    int rc = net_conn_read(l->current.conn, data, n, NET_NEVER, &e); // it may be idle for long
    if (rc != 0)
        log_info("lend", "%s has given back what it had: %s", l->current.name, e.message);
    return rc;
}

static int stream_write(void *ctx, const void *data, size_t n)
{
    struct lend *l = ctx;
    struct err e = {0};
    int rc = net_conn_write(l->current.conn, data, n, clock_now_ns() + WRITE_NS, &e);
    if (rc != 0)
        log_warn("lend", "%s takes no answers: %s", l->current.name, e.message);
    return rc;
}

static int next(void *ctx, struct engine_stream *out, struct err *e)
{
    struct lend *l = ctx;
    if (l->current.conn != NULL) {
        net_conn_free(l->current.conn);
        l->current.conn = NULL;
        atomic_store(&l->lent, false);
    }
    if (chan_recv(l->accepted, &l->current, CHAN_FOREVER) != 0)
        return err_set(e, ERR_CLOSED, "the lender is stopping");
    log_info("lend", "%s borrows", l->current.name);
    *out = (struct engine_stream){stream_read, stream_write, l};
    return 0;
}

// ---- the process -------------------------------------------------------------------------------

// The supervisor asks as it asks any worker; when it closes, this process is not wanted any more.
static void *parent_thread(void *arg)
{
    struct net_conn *parent = ((void **)arg)[0];
    struct lend *l = ((void **)arg)[1];
    struct message_hello h;
    struct err e = {0};
    char heard;

    os_thread_name("parent");
    if (hello_read(parent, NET_NEVER, &h, &e) == 0) {
        struct wire_frame f = wire_frame_json(WIRE_WELCOME, 0, message_lend_json(&l->welcome));
        wire_frame_write(parent, &f, clock_now_ns() + HANDSHAKE_NS, &e);
        wire_frame_fini(&f);
        while (net_conn_read(parent, &heard, 1, NET_NEVER, &e) == 0)
            ;
    }
    log_info("lend", "stopping");
    _exit(0);
}

static void welcome_fill(struct lend *l)
{
    struct message_lend *m = &l->welcome;
    struct engine_lend_facts f;
    uint64_t lent = l->options->lend_bytes;

    engine_lend_facts_get(&f);
    m->version = WIRE_VERSION;
    m->memory_bytes = f.free_bytes > 0 && f.free_bytes < lent ? f.free_bytes : lent;
    if (m->memory_bytes > INT64_MAX)
        m->memory_bytes = INT64_MAX;
    snprintf(m->engine, sizeof m->engine, "%s", f.version);
    snprintf(m->devices, sizeof m->devices, "%s", f.devices);
    snprintf(m->build, sizeof m->build, "tandem %s", TANDEM_VERSION);
    if (l->options->name != NULL)
        snprintf(m->name, sizeof m->name, "%s", l->options->name);
    else
        node_name_default(m->name, sizeof m->name);
    if (f.free_bytes > 0 && lent != UINT64_MAX && f.free_bytes < lent)
        log_warn("lend", "%" PRIu64 " MiB are free here, fewer than the %" PRIu64 " of --lend",
                 f.free_bytes >> 20, lent >> 20);
}

// ggml tells on stdout what it does, and that is the program's.
static void stdout_silence(void)
{
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        dup2(fd, STDOUT_FILENO);
        close(fd);
    }
}

int spread_lend_run(const struct node_worker_options *o, struct net_conn *parent, int ready_fd,
                    int listen_fd)
{
    static struct lend l; // one per process; its threads never end
    static void *parent_arg[2];
    struct err e = {0};
    pthread_t thread;
    uint8_t ready = 1;

    l.options = o;
    l.listen_fd = listen_fd;
    l.accepted = chan_new(sizeof(struct borrower), 1);
    welcome_fill(&l);
    stdout_silence();
    parent_arg[0] = parent;
    parent_arg[1] = &l;
    if (pthread_create(&thread, NULL, accept_thread, &l) != 0 ||
        pthread_create(&thread, NULL, parent_thread, parent_arg) != 0 ||
        write(ready_fd, &ready, 1) != 1) {
        log_error("lend", "cannot start: no threads");
        return 1;
    }
    struct engine_lend_options lend = {.next = next,
                                       .ctx = &l,
                                       .memory_bytes = l.welcome.memory_bytes,
                                       .n_threads = o->engine.n_threads};
    engine_lend(&lend, &e);
    log_error("lend", "%s", e.message);
    return e.code == ERR_UNSUPPORTED ? NODE_EXIT_PERMANENT : 1;
}
