// Keeps one worker process alive. One thread: it spawns, waits, and answers on the listening socket
// while no worker is ready to do so itself.
#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "node/message.h"
#include "node/node.h"
#include "os/os.h"
#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SUPERVISOR_BACKOFF_MIN_NS (250 * NS_PER_MS)
#define SUPERVISOR_BACKOFF_MAX_NS (30 * NS_PER_S)
#define SUPERVISOR_HEALTHY_NS (60 * NS_PER_S) // lived this long: the back-off starts anew
#define SUPERVISOR_GRACE_NS (3 * NS_PER_S)
#define SUPERVISOR_TICK_MS 50
#define SUPERVISOR_REFUSAL_NS (5 * NS_PER_S)
#define SUPERVISOR_REFUSALS 16 // at once; more are closed without an answer

#define RETIRED "this node is stopping"

enum { ORDER_STOP = 's', ORDER_REST = 'r', ORDER_WAKE = 'w', ORDER_RETIRE = 'q' };

struct node_supervisor {
    const struct node_worker_options *options;
    struct node_supervisor_ops ops;
    void *ctx;
    pthread_t thread;
    int listen_fd;       // -1: none
    int orders[2];       // a pipe of the bytes below
    _Atomic int64_t pid; // relaxed: read by others for display and by tests
    atomic_int refusals; // that run; released when done, acquired by who frees
    // the supervisor's thread only:
    int ready_fd; // readable or closed: the worker said so, or ended
    bool ready, resting;
    bool retired; // no worker after this one
    int64_t started_ns, backoff_ns, restart_ns;
    char state[160]; // what a peer is told meanwhile
};

// ---- starting a worker ---------------------------------------------------------------------------

static int child_spawn(struct node_supervisor *s, int control, int ready, struct err *e)
{
    char path[4096];
    char *text = NULL;
    pid_t pid = -1;
    int rc = os_self_dir(path, sizeof path - 32, e);

    if (rc != 0)
        return rc;
    size_t len = strlen(path);
    snprintf(path + len, sizeof path - len, "/tandem-worker");
    text = node_worker_options_text(s->options);
    const char *argv[] = {path, "serve", text, NULL};
    int fds[3] = {control, ready, s->listen_fd};
    struct os_spawn sp = {.argv = argv,
                          .fds = fds,
                          .n_fds = s->listen_fd >= 0 ? 3 : 2,
                          .stderr_fd = -1,
                          .stdout_fd = -1,
                          .die_with_parent = true,
                          .huge_pages = true};
    rc = os_spawn(&sp, &pid, e);
    free(text);
    if (rc == 0)
        atomic_store_explicit(&s->pid, pid, memory_order_relaxed);
    return rc;
}

static int worker_spawn(struct node_supervisor *s, struct err *e)
{
    int pair[2] = {-1, -1};
    int ready[2] = {-1, -1};
    int rc = 0;

    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0 || pipe(ready) != 0)
        rc = err_set(e, ERR_IO, "socketpair: %s", strerror(errno));
    for (int i = 0; rc == 0 && i < 2; i++) {
        fcntl(pair[i], F_SETFD, FD_CLOEXEC);
        fcntl(ready[i], F_SETFD, FD_CLOEXEC);
    }
    if (rc == 0)
        rc = child_spawn(s, pair[1], ready[1], e);
    if (pair[1] >= 0)
        close(pair[1]);
    if (ready[1] >= 0)
        close(ready[1]);
    if (rc == 0 && write(pair[0], s->options->key.bytes, NET_KEY_BYTES) != NET_KEY_BYTES)
        rc = err_set(e, ERR_IO, "cannot give the worker its key: %s", strerror(errno));
    if (rc != 0) {
        if (pair[0] >= 0)
            close(pair[0]);
        if (ready[0] >= 0)
            close(ready[0]);
        return rc;
    }
    s->ready_fd = ready[0];
    s->ready = false;
    s->started_ns = clock_now_ns();
    snprintf(s->state, sizeof s->state, "the worker is loading its model; try again in a moment");
    s->ops.on_up(s->ctx, net_conn_wrap(pair[0]));
    return 0;
}

// ---- answering while no worker is ready ------------------------------------------------------------

struct refusal {
    struct node_supervisor *supervisor;
    int fd;
    char message[160];
};

static void *refusal_thread(void *arg)
{
    struct refusal *r = arg;
    struct node_supervisor *s = r->supervisor;
    struct err e = {0};
    struct net_conn *conn = NULL;
    struct wire_frame f = {0};
    int64_t deadline = clock_now_ns() + SUPERVISOR_REFUSAL_NS;

    if (net_conn_accept_tls(r->fd, &s->options->key, deadline, &conn, &e) == 0) {
        if (wire_frame_read(conn, &f, deadline, &e) == 0) {
            wire_frame_fini(&f);
            f = wire_frame_failed(WIRE_REFUSED, 0, ERR_BUSY, r->message);
            wire_frame_write(conn, &f, deadline, &e);
        }
        wire_frame_fini(&f);
        net_conn_free(conn);
    }
    free(r);
    // The last that this thread does with the supervisor: who frees it waits for the count.
    atomic_fetch_sub_explicit(&s->refusals, 1, memory_order_release);
    return NULL;
}

static void peer_refuse(struct node_supervisor *s)
{
    struct err e = {0};
    char peer[128];
    pthread_t thread;
    int fd = net_accept(s->listen_fd, clock_now_ns(), peer, sizeof peer, &e);
    if (fd < 0)
        return;
    if (atomic_load_explicit(&s->refusals, memory_order_relaxed) >= SUPERVISOR_REFUSALS) {
        close(fd);
        return;
    }
    struct refusal *r = mem_alloc(sizeof *r);
    r->supervisor = s;
    r->fd = fd;
    snprintf(r->message, sizeof r->message, "%s", s->state);
    atomic_fetch_add_explicit(&s->refusals, 1, memory_order_relaxed);
    if (pthread_create(&thread, NULL, refusal_thread, r) == 0) {
        pthread_detach(thread);
        return;
    }
    atomic_fetch_sub_explicit(&s->refusals, 1, memory_order_relaxed);
    close(fd);
    free(r);
}

// ---- the life of a worker --------------------------------------------------------------------------

static void worker_ended(struct node_supervisor *s, int status)
{
    char why[96];
    int64_t lived = clock_now_ns() - s->started_ns;
    bool permanent = WIFEXITED(status) && WEXITSTATUS(status) == NODE_EXIT_PERMANENT;

    os_exit_text(status, why, sizeof why);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NODE_EXIT_LENDER)
        snprintf(why, sizeof why, "a machine that holds a part of the model is gone");
    atomic_store_explicit(&s->pid, -1, memory_order_relaxed);
    s->ready = false;
    if (s->ready_fd >= 0)
        close(s->ready_fd);
    s->ready_fd = -1;
    if (s->retired || (WIFEXITED(status) && WEXITSTATUS(status) == NODE_EXIT_IDLE)) {
        s->resting = true;
        log_info("supervisor", s->retired ? "the worker has ended"
                                          : "the worker is asleep until somebody connects");
        if (s->ops.on_rest != NULL)
            s->ops.on_rest(s->ctx);
        return;
    }
    s->backoff_ns = lived > SUPERVISOR_HEALTHY_NS || s->backoff_ns == 0 ? SUPERVISOR_BACKOFF_MIN_NS
                                                                        : s->backoff_ns * 2;
    if (s->backoff_ns > SUPERVISOR_BACKOFF_MAX_NS)
        s->backoff_ns = SUPERVISOR_BACKOFF_MAX_NS;
    snprintf(s->state, sizeof s->state, "the worker ended (%s)%s", why,
             permanent ? " and will not be restarted" : " and is being restarted");
    log_error("supervisor", "%s lived_s=%.1f", s->state, ns_to_s(lived));
    s->ops.on_down(s->ctx, why, permanent ? -1 : s->backoff_ns);
    if (permanent)
        s->backoff_ns = -1;
}

static void worker_kill(struct node_supervisor *s)
{
    pid_t pid = (pid_t)atomic_load_explicit(&s->pid, memory_order_relaxed);
    int64_t deadline = clock_now_ns() + SUPERVISOR_GRACE_NS;
    int status = 0;

    if (pid <= 0)
        return;
    kill(pid, SIGTERM);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (clock_now_ns() > deadline)
            kill(pid, SIGKILL);
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    }
    atomic_store_explicit(&s->pid, -1, memory_order_relaxed);
}

static void worker_rest(struct node_supervisor *s)
{
    worker_kill(s);
    if (s->ready_fd >= 0)
        close(s->ready_fd);
    s->ready_fd = -1;
    s->ready = false;
    s->resting = true;
    if (s->ops.on_rest != NULL)
        s->ops.on_rest(s->ctx);
}

static void worker_restart(struct node_supervisor *s)
{
    struct err e = {0};
    if (worker_spawn(s, &e) == 0)
        return;
    s->backoff_ns = SUPERVISOR_BACKOFF_MAX_NS;
    s->started_ns = clock_now_ns();
    log_error("supervisor", "cannot start a worker: %s", e.message);
    snprintf(s->state, sizeof s->state, "no worker can be started: %.100s", e.message);
}

// One that has not loaded yet has nothing to end.
static void worker_retire(struct node_supervisor *s)
{
    s->retired = true;
    snprintf(s->state, sizeof s->state, RETIRED);
    if (s->ready && s->ops.on_retire != NULL)
        s->ops.on_retire(s->ctx);
    else
        worker_rest(s);
}

static void rest_end(struct node_supervisor *s)
{
    s->resting = false;
    s->backoff_ns = s->restart_ns = 0;
}

// True to stop.
static bool order_take(struct node_supervisor *s)
{
    char order = ORDER_STOP;

    if (read(s->orders[0], &order, 1) != 1 || order == ORDER_STOP)
        return true;
    if (order == ORDER_RETIRE && !s->retired)
        worker_retire(s);
    else if (order == ORDER_WAKE && s->resting && !s->retired)
        rest_end(s);
    else if (order == ORDER_REST && !s->resting)
        worker_rest(s);
    return false;
}

// Waits up to SUPERVISOR_TICK_MS for the worker to be ready or to end, a peer, or an order; true to stop.
static bool wait_events(struct node_supervisor *s)
{
    struct pollfd p[3] = {
        {.fd = s->orders[0], .events = POLLIN},
        {.fd = s->ready_fd, .events = POLLIN},
        {.fd = s->ready ? -1 : s->listen_fd, .events = POLLIN},
    };
    if (poll(p, 3, SUPERVISOR_TICK_MS) <= 0)
        return false;
    if (p[1].revents != 0) {
        uint8_t byte = 0;
        s->ready = read(s->ready_fd, &byte, 1) == 1;
        if (!s->ready) { // closed: it ends, or already has
            close(s->ready_fd);
            s->ready_fd = -1;
        }
    }
    // Who connects while it rests waits in the backlog until the worker itself takes the connection.
    if (p[2].revents != 0 && s->resting && !s->retired)
        rest_end(s);
    else if (p[2].revents != 0)
        peer_refuse(s);
    return p[0].revents != 0 && order_take(s);
}

static void *supervisor_thread(void *arg)
{
    struct node_supervisor *s = arg;
    int status = 0;

    os_thread_name("supervisor");
    while (!wait_events(s)) {
        pid_t pid = (pid_t)atomic_load_explicit(&s->pid, memory_order_relaxed);
        if (pid > 0 && waitpid(pid, &status, WNOHANG) == pid) {
            worker_ended(s, status);
            s->restart_ns = clock_now_ns() + s->backoff_ns;
        } else if (pid <= 0 && !s->resting && s->backoff_ns >= 0 &&
                   clock_now_ns() >= s->restart_ns) {
            worker_restart(s);
            s->restart_ns = clock_now_ns() + SUPERVISOR_BACKOFF_MAX_NS;
        }
    }
    worker_kill(s);
    return NULL;
}

static int listen_start(struct node_supervisor *s, uint16_t *bound_port, struct err *e)
{
    struct net_addr a;
    s->listen_fd = -1;
    if (s->options->listen == NULL)
        return 0;
    int rc = net_addr_parse(s->options->listen, "127.0.0.1", MESSAGE_PORT, &a, e);
    if (rc != 0)
        return rc;
    s->listen_fd = net_listen(&a, &s->options->key, e);
    if (s->listen_fd < 0)
        return s->listen_fd;
    if (bound_port != NULL)
        *bound_port = a.port;
    return 0;
}

int node_supervisor_start(const struct node_worker_options *o,
                          const struct node_supervisor_ops *ops, void *ctx, uint16_t *bound_port,
                          struct node_supervisor **out, struct err *e)
{
    struct node_supervisor *s = mem_alloc(sizeof *s);
    int rc = 0;

    s->options = o;
    s->ops = *ops;
    s->ctx = ctx;
    s->ready_fd = -1;
    s->orders[0] = s->orders[1] = -1;
    s->resting = o->asleep;
    atomic_store(&s->pid, -1);
    rc = listen_start(s, bound_port, e);
    if (rc == 0 && pipe(s->orders) != 0)
        rc = err_set(e, ERR_IO, "pipe: %s", strerror(errno));
    for (int i = 0; rc == 0 && i < 2; i++)
        fcntl(s->orders[i], F_SETFD, FD_CLOEXEC);
    if (rc == 0 && !s->resting)
        rc = worker_spawn(s, e);
    if (rc == 0 && pthread_create(&s->thread, NULL, supervisor_thread, s) != 0) {
        worker_kill(s);
        rc = err_set(e, ERR_IO, "cannot start the supervisor's thread");
    }
    if (rc == 0) {
        *out = s;
        return 0;
    }
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    for (int i = 0; i < 2; i++)
        if (s->orders[i] >= 0)
            close(s->orders[i]);
    free(s);
    return rc;
}

// A pipe holds thousands of such bytes: this never blocks.
static void order_give(struct node_supervisor *s, char order)
{
    if (write(s->orders[1], &order, 1) != 1)
        log_error("supervisor", "order %c is lost: %s", order, strerror(errno));
}

void node_supervisor_rest(struct node_supervisor *s)
{
    order_give(s, ORDER_REST);
}

void node_supervisor_wake(struct node_supervisor *s)
{
    order_give(s, ORDER_WAKE);
}

void node_supervisor_retire(struct node_supervisor *s)
{
    order_give(s, ORDER_RETIRE);
}

void node_supervisor_free(struct node_supervisor *s)
{
    if (s == NULL)
        return;
    order_give(s, ORDER_STOP);
    pthread_join(s->thread, NULL);
    while (atomic_load_explicit(&s->refusals, memory_order_acquire) > 0)
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    if (s->ready_fd >= 0)
        close(s->ready_fd);
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    close(s->orders[0]);
    close(s->orders[1]);
    free(s);
}

int64_t node_supervisor_pid(struct node_supervisor *s)
{
    return atomic_load_explicit(&s->pid, memory_order_relaxed);
}
