#include "wire/frame.h"

#include "base/buf.h"
#include "base/chan.h"
#include "base/clock.h"
#include "base/log.h"
#include "os/os.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define RTT_RISE 8 // a longer round trip counts so much less than a shorter one

// A link and its two threads.
//
// The end runs like this: whoever finds a reason (a callback, a failed read or write, a caller of
// wire_link_close) records it, the first one counts, closes the queue and shuts the connection
// down. The writer drops what is left in the queue; the reader waits for the writer and then says
// on_close, so that no other callback can follow it.
struct wire_link {
    struct net_conn *conn;
    struct wire_link_ops ops;
    void *ctx;
    struct wire_link_options options;
    char name[32];
    struct chan *queue; // of struct wire_frame
    pthread_t reader, writer;
    pthread_mutex_t lock; // guards `why`
    struct err why;       // code 0: still open
    bool running;         // the owner's
    // When the PING went out that was not answered yet (0: none), which is its id too; and how long the way is.
    // Each stands for itself: no ordering needed.
    _Atomic int64_t ping_ns, rtt_ns;
    atomic_bool finishing; // release/acquire with the queue's lock around it anyway
};

void wire_link_options_default(struct wire_link_options *o)
{
    *o = (struct wire_link_options){.queue_frames = 1024, .frame_ns = 10 * NS_PER_S};
}

static void link_end(struct wire_link *l, const struct err *why)
{
    pthread_mutex_lock(&l->lock);
    if (!l->why.code)
        l->why = *why;
    pthread_mutex_unlock(&l->lock);
    chan_close(l->queue);
    net_conn_shutdown(l->conn);
}

// ---- writer ----------------------------------------------------------------------------------------

static void link_sent(struct wire_link *l, const struct wire_frame *f, int64_t start_ns, bool ok)
{
    if (!l->ops.on_sent || f->type == WIRE_PING || f->type == WIRE_PONG)
        return;
    struct wire_header h = wire_frame_header(f);
    l->ops.on_sent(l->ctx, &h, start_ns, clock_now_ns(), ok);
}

static int link_write(struct wire_link *l, struct wire_frame *f, struct err *e)
{
    int64_t start = clock_now_ns();
    int rc = wire_frame_write(l->conn, f, start + l->options.frame_ns, e);
    link_sent(l, f, start, rc == 0);
    wire_frame_fini(f);
    return rc;
}

static void queue_drop(struct wire_link *l)
{
    struct wire_frame f;
    while (chan_recv(l->queue, &f, 0) == 0) {
        link_sent(l, &f, clock_now_ns(), false);
        wire_frame_fini(&f);
    }
}

static void ping_begin(struct wire_link *l, struct wire_frame *f)
{
    int64_t now = clock_now_ns();
    f->id = (uint64_t)now;
    atomic_store_explicit(&l->ping_ns, now, memory_order_relaxed);
}

// Both frames may have waited behind others, which is no part of the way: what is shorter is believed at once, what
// is longer bit by bit.
static void pong_take(struct wire_link *l, const struct wire_frame *f)
{
    int64_t sent = atomic_load_explicit(&l->ping_ns, memory_order_relaxed);
    int64_t before = atomic_load_explicit(&l->rtt_ns, memory_order_relaxed), rtt;
    if (sent == 0 || f->id != (uint64_t)sent)
        return;
    rtt = clock_now_ns() - sent;
    if (before > 0 && rtt > before)
        rtt = before + (rtt - before) / RTT_RISE;
    atomic_store_explicit(&l->rtt_ns, rtt > 0 ? rtt : 1, memory_order_relaxed);
}

// Takes one frame from the queue, or makes a PING when its time has come.
static int writer_step(struct wire_link *l, int64_t *next_ping, struct err *e)
{
    struct wire_frame f = {.type = WIRE_PING};
    int64_t timeout = CHAN_FOREVER;
    if (l->options.idle_ns)
        timeout = *next_ping - clock_now_ns();
    int rc = timeout <= 0 ? ERR_TIMEOUT : chan_recv(l->queue, &f, timeout);
    if (rc == ERR_CLOSED)
        return err_set(e, rc, "closed by this side");
    if (rc == ERR_TIMEOUT) {
        *next_ping = clock_now_ns() + l->options.idle_ns / 3;
        ping_begin(l, &f);
    }
    return link_write(l, &f, e);
}

static void *writer_main(void *arg)
{
    struct wire_link *l = arg;
    os_thread_name(l->name);
    int64_t next_ping = clock_now_ns() + l->options.idle_ns / 3;
    struct err e = {0};
    int rc = 0;
    while (rc == 0)
        rc = writer_step(l, &next_ping, &e);
    if (rc != ERR_CLOSED)
        link_end(l, &e);
    else if (atomic_load(&l->finishing))
        net_conn_finish(l->conn);
    // When the peer has gone, what it said last may still wait for the reader, which finds the end
    // by itself. Nothing can be queued any more.
    chan_close(l->queue);
    queue_drop(l);
    return NULL;
}

// ---- reader ----------------------------------------------------------------------------------------

// What the peer sends in place of an answer also shows that it lives, so a full queue is no reason
// to wait here: the PONG is left out.
static int link_pong(struct wire_link *l, struct wire_frame *f)
{
    struct wire_frame pong = {.type = WIRE_PONG, .id = f->id};
    bool ping = f->type == WIRE_PING;
    if (!ping)
        pong_take(l, f);
    wire_frame_fini(f);
    if (ping)
        chan_send(l->queue, &pong, 0);
    return 0;
}

static int reader_step(struct wire_link *l, struct err *e)
{
    struct wire_frame f;
    int64_t idle = l->options.idle_ns;
    struct wire_receive how = {.deadline_ns = idle ? clock_now_ns() + idle : NET_NEVER,
                               .progress_ns = l->options.frame_ns,
                               .body_get = l->ops.body_get,
                               .ctx = l->ctx};
    int rc = wire_frame_receive(l->conn, &how, &f, e);
    if (rc)
        return rc;
    if (f.type == WIRE_PING || f.type == WIRE_PONG)
        return link_pong(l, &f);
    return l->ops.on_frame(l->ctx, &f, e);
}

static void *reader_main(void *arg)
{
    struct wire_link *l = arg;
    os_thread_name(l->name);
    struct err e = {0};
    int rc;
    do
        rc = reader_step(l, &e);
    while (rc == 0);
    if (!e.code)
        err_set(&e, rc, "a frame was refused");
    link_end(l, &e);
    pthread_join(l->writer, NULL);
    log_debug("wire", "link ended peer=%s link=%s why=%s", wire_link_peer(l), l->name,
              l->why.message);
    if (l->ops.on_close)
        l->ops.on_close(l->ctx, &l->why);
    return NULL;
}

// ---- the callers' side -------------------------------------------------------------------------------

static void link_thread_start(pthread_t *thread, void *(*run)(void *), struct wire_link *l)
{
    if (pthread_create(thread, NULL, run, l)) {
        log_error("wire", "cannot start a thread for link=%s", l->name);
        abort();
    }
}

struct wire_link *wire_link_new(struct net_conn *c, const struct wire_link_ops *ops, void *ctx,
                                const struct wire_link_options *o)
{
    struct wire_link *l = mem_alloc(sizeof *l);
    l->conn = c;
    l->ops = *ops;
    l->ctx = ctx;
    l->options = *o;
    snprintf(l->name, sizeof l->name, "%s", o->name ? o->name : "link");
    l->options.name = l->name;
    l->queue = chan_new(sizeof(struct wire_frame), o->queue_frames);
    pthread_mutex_init(&l->lock, NULL);
    atomic_init(&l->finishing, false);
    return l;
}

void wire_link_run(struct wire_link *l)
{
    l->running = true;
    link_thread_start(&l->writer, writer_main, l);
    link_thread_start(&l->reader, reader_main, l);
}

struct wire_link *wire_link_start(struct net_conn *c, const struct wire_link_ops *ops, void *ctx,
                                  const struct wire_link_options *o)
{
    struct wire_link *l = wire_link_new(c, ops, ctx, o);
    wire_link_run(l);
    return l;
}

int wire_link_send(struct wire_link *l, struct wire_frame f, int64_t timeout_ns)
{
    struct err e = {0};
    int rc = wire_frame_check(&f, &e);
    if (rc)
        log_error("wire", "not sent peer=%s link=%s why=%s", wire_link_peer(l), l->name, e.message);
    else
        rc = chan_send(l->queue, &f, timeout_ns);
    if (rc)
        wire_frame_fini(&f);
    return rc;
}

void wire_link_finish(struct wire_link *l)
{
    atomic_store(&l->finishing, true);
    chan_close(l->queue);
}

void wire_link_close(struct wire_link *l)
{
    struct err why = {0};
    err_set(&why, ERR_CLOSED, "closed by this side");
    link_end(l, &why);
}

void wire_link_free(struct wire_link *l)
{
    if (!l)
        return;
    wire_link_close(l);
    if (l->running)
        pthread_join(l->reader, NULL);
    else
        queue_drop(l);
    chan_free(l->queue);
    net_conn_free(l->conn);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

const char *wire_link_peer(const struct wire_link *l)
{
    return net_conn_peer(l->conn);
}

int64_t wire_link_rtt_ns(const struct wire_link *l)
{
    return atomic_load_explicit(&l->rtt_ns, memory_order_relaxed);
}
