// The lender's end: see spread.h. The main thread is inside ggml's server from the start; `next` is where that
// server believes to accept connections.
#include "node/spread.h"

#include "base/buf.h"
#include "base/chan.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "node/acceptor.h"
#include "os/os.h"
#include "wire/wire.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    struct chan *accepted;   // at most one `struct borrower` waits: accept thread -> main thread
    struct borrower current; // main thread only
    atomic_bool lent;        // taken by the handshake that succeeds, cleared by the main thread
};

// ---- handshakes --------------------------------------------------------------------------------

static int hello_check(void *ctx, const struct message_hello *h, struct err *e)
{
    struct lend *l = ctx;
    if (strcmp(h->role, "spread") != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "this port lends memory to --spread and answers no requests; the models of "
                       "a node have ports of their own");
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

static json_t *welcome(void *ctx)
{
    const struct lend *l = ctx;
    return message_lend_json(&l->welcome);
}

// The connection is the main thread's from then on.
static void borrower_take(void *ctx, struct net_conn *conn, const struct message_hello *h)
{
    struct lend *l = ctx;
    struct borrower b = {.conn = conn};
    snprintf(b.name, sizeof b.name, "%s (%s)", h->name, net_conn_peer(conn));
    net_conn_keep_alive(conn, KEEP_ALIVE_S);
    chan_send(l->accepted, &b, CHAN_FOREVER);
}

static void borrower_lost(void *ctx)
{
    struct lend *l = ctx;
    atomic_store(&l->lent, false);
}

static const struct acceptor_host host = {.name = "lend",
                                          .guest = "borrower",
                                          .most = HANDSHAKES_MAX,
                                          .check = hello_check,
                                          .welcome = welcome,
                                          .take = borrower_take,
                                          .lost = borrower_lost};

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
    if (acceptor_hello_read(parent, NET_NEVER, &h, &e) == 0) {
        struct wire_frame f = wire_frame_json(WIRE_WELCOME, 0, message_lend_json(&l->welcome));
        wire_frame_write(parent, &f, clock_now_ns() + ACCEPTOR_HANDSHAKE_NS, &e);
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
    l.accepted = chan_new(sizeof(struct borrower), 1);
    welcome_fill(&l);
    stdout_silence();
    parent_arg[0] = parent;
    parent_arg[1] = &l;
    if (acceptor_start(&host, &l, listen_fd, &o->key, &e) == NULL ||
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
