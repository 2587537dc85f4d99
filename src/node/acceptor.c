#include "node/acceptor.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "os/os.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ACCEPT_NS (200 * NS_PER_MS) // how long a stop may take to be seen

struct acceptor {
    const struct acceptor_host *host;
    void *ctx;
    const struct net_key *key;
    int listen_fd;
    pthread_t thread;
    bool accepting;        // the thread is there to be joined
    atomic_bool stopping;  // relaxed: a flag alone
    atomic_int handshakes; // that run; released when done, acquired by acceptor_busy
};

// ---- one handshake ----------------------------------------------------------------------------------

int acceptor_hello_read(struct net_conn *conn, int64_t deadline_ns, struct message_hello *h,
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

static int hello_check(const struct acceptor_host *host, void *ctx, const struct message_hello *h,
                       struct err *e)
{
    if (h->version != WIRE_VERSION)
        return err_set(e, ERR_MISMATCH,
                       "protocol version %u here, %u there; install the same release of tandem on "
                       "both machines",
                       WIRE_VERSION, h->version);
    return host->check(ctx, h, e);
}

int acceptor_greet(const struct acceptor_host *host, void *ctx, struct net_conn *conn,
                   int64_t deadline_ns, struct err *e)
{
    struct message_hello h;
    struct err why = {0};
    int rc = acceptor_hello_read(conn, deadline_ns, &h, e);
    if (rc == 0)
        rc = hello_check(host, ctx, &h, e);
    struct wire_frame reply = rc == 0 ? wire_frame_json(WIRE_WELCOME, 0, host->welcome(ctx))
                                      : wire_frame_failed(WIRE_REFUSED, 0, rc, e->message);
    int sent = wire_frame_write(conn, &reply, clock_now_ns() + ACCEPTOR_HANDSHAKE_NS, &why);
    wire_frame_fini(&reply);
    if (rc != 0)
        return rc;
    if (sent != 0) {
        if (host->lost != NULL)
            host->lost(ctx);
        return err_set(e, sent, "%s", why.message);
    }
    host->take(ctx, conn, &h);
    return 0;
}

struct handshake_task {
    struct acceptor *acceptor;
    int fd;
    char peer[128];
};

static void *handshake_thread(void *arg)
{
    struct handshake_task *t = arg;
    struct acceptor *a = t->acceptor;
    struct net_conn *conn = NULL;
    struct err e = {0};
    int64_t deadline = clock_now_ns() + ACCEPTOR_HANDSHAKE_NS;
    os_thread_name("handshake");
    int rc = net_conn_accept_tls(t->fd, a->key, deadline, &conn, &e);
    if (rc == 0 && (rc = acceptor_greet(a->host, a->ctx, conn, deadline, &e)) != 0)
        net_conn_free(conn);
    if (rc != 0)
        log_warn(a->host->name, "%s refused: %s peer=%s code=%s", a->host->guest, e.message,
                 t->peer, err_name(rc));
    free(t);
    // The last that this thread does with the acceptor: who frees it waits for the count.
    atomic_fetch_sub_explicit(&a->handshakes, 1, memory_order_release);
    return NULL;
}

static void handshake_start(struct acceptor *a, int fd, const char *peer)
{
    pthread_t thread;
    struct handshake_task *t = mem_alloc(sizeof *t);
    *t = (struct handshake_task){.acceptor = a, .fd = fd};
    snprintf(t->peer, sizeof t->peer, "%s", peer);
    atomic_fetch_add_explicit(&a->handshakes, 1, memory_order_relaxed);
    if (pthread_create(&thread, NULL, handshake_thread, t) == 0) {
        pthread_detach(thread);
        return;
    }
    atomic_fetch_sub_explicit(&a->handshakes, 1, memory_order_relaxed);
    close(fd);
    free(t);
}

// ---- the thread that accepts ------------------------------------------------------------------------

static void *accept_thread(void *arg)
{
    struct acceptor *a = arg;
    char peer[128];
    struct err e = {0};
    os_thread_name("accept");
    while (!atomic_load_explicit(&a->stopping, memory_order_relaxed)) {
        int fd = net_accept(a->listen_fd, clock_now_ns() + ACCEPT_NS, peer, sizeof peer, &e);
        if (fd == ERR_TIMEOUT)
            continue;
        if (fd < 0) {
            clock_sleep_until(clock_now_ns() + 50 * NS_PER_MS); // out of descriptors: do not spin
            continue;
        }
        if (atomic_load_explicit(&a->handshakes, memory_order_relaxed) < a->host->most) {
            handshake_start(a, fd, peer);
            continue;
        }
        log_warn(a->host->name, "too many handshakes at once, refused peer=%s", peer);
        close(fd);
    }
    return NULL;
}

struct acceptor *acceptor_start(const struct acceptor_host *host, void *ctx, int listen_fd,
                                const struct net_key *key, struct err *e)
{
    struct acceptor *a = mem_alloc(sizeof *a);
    a->host = host;
    a->ctx = ctx;
    a->key = key;
    a->listen_fd = listen_fd;
    a->accepting = pthread_create(&a->thread, NULL, accept_thread, a) == 0;
    if (a->accepting)
        return a;
    free(a);
    err_set(e, ERR_IO, "cannot start the accept thread");
    return NULL;
}

void acceptor_stop(struct acceptor *a)
{
    atomic_store_explicit(&a->stopping, true, memory_order_relaxed);
    if (a->accepting)
        pthread_join(a->thread, NULL);
    a->accepting = false;
}

bool acceptor_busy(const struct acceptor *a)
{
    return atomic_load_explicit(&a->handshakes, memory_order_acquire) > 0;
}

void acceptor_free(struct acceptor *a)
{
    if (a == NULL)
        return;
    acceptor_stop(a);
    while (acceptor_busy(a))
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    free(a);
}
