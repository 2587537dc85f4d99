#include "base/chan.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A ring of copied items. Everything below `lock` is guarded by it.
struct chan {
    size_t item_bytes;
    size_t capacity; // items
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    pthread_cond_t not_full;
    size_t head; // index of the oldest item
    size_t count;
    bool closed;
    bool raised;     // one byte lies in the pipe
    int pipe_fds[2]; // -1 until chan_fd is called
    uint8_t *items;
};

struct chan *chan_new(size_t item_bytes, size_t capacity)
{
    struct chan *c = mem_alloc(sizeof *c);
    c->item_bytes = item_bytes;
    c->capacity = capacity ? capacity : 1;
    c->items = mem_alloc(c->item_bytes * c->capacity);
    c->pipe_fds[0] = c->pipe_fds[1] = -1;
    pthread_mutex_init(&c->lock, NULL);
    cond_init(&c->not_empty);
    cond_init(&c->not_full);
    return c;
}

void chan_free(struct chan *c)
{
    if (!c)
        return;
    for (int i = 0; i < 2; i++) {
        if (c->pipe_fds[i] >= 0)
            close(c->pipe_fds[i]);
    }
    pthread_cond_destroy(&c->not_full);
    pthread_cond_destroy(&c->not_empty);
    pthread_mutex_destroy(&c->lock);
    free(c->items);
    free(c);
}

// Brings the pipe in line with the state: one byte in it while there is something to see.
static void chan_fd_update(struct chan *c)
{
    bool want = c->count > 0 || c->closed;
    if (c->pipe_fds[0] < 0 || want == c->raised)
        return;
    uint8_t byte = 1;
    ssize_t n;
    do {
        n = want ? write(c->pipe_fds[1], &byte, 1) : read(c->pipe_fds[0], &byte, 1);
    } while (n < 0 && errno == EINTR);
    c->raised = want;
}

static int64_t chan_deadline(int64_t timeout_ns)
{
    int64_t now = clock_now_ns();
    return timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns;
}

static int chan_wait(struct chan *c, pthread_cond_t *cond, int64_t deadline, int64_t timeout_ns)
{
    if (timeout_ns <= 0)
        return ERR_TIMEOUT;
    return cond_wait_until(cond, &c->lock, deadline);
}

static int chan_put(struct chan *c, const void *item, bool first, int64_t timeout_ns)
{
    int64_t deadline = chan_deadline(timeout_ns);
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    while (rc == 0 && !c->closed && c->count == c->capacity)
        rc = chan_wait(c, &c->not_full, deadline, timeout_ns);
    if (c->closed) {
        rc = ERR_CLOSED;
    } else if (c->count < c->capacity) {
        if (first)
            c->head = (c->head + c->capacity - 1) % c->capacity;
        size_t at = first ? c->head : (c->head + c->count) % c->capacity;
        memcpy(c->items + at * c->item_bytes, item, c->item_bytes);
        c->count++;
        rc = 0;
        chan_fd_update(c);
        pthread_cond_signal(&c->not_empty);
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

int chan_send(struct chan *c, const void *item, int64_t timeout_ns)
{
    return chan_put(c, item, false, timeout_ns);
}

int chan_send_first(struct chan *c, const void *item, int64_t timeout_ns)
{
    return chan_put(c, item, true, timeout_ns);
}

int chan_recv(struct chan *c, void *item, int64_t timeout_ns)
{
    int64_t deadline = chan_deadline(timeout_ns);
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    while (rc == 0 && !c->closed && c->count == 0)
        rc = chan_wait(c, &c->not_empty, deadline, timeout_ns);
    if (c->count > 0) {
        memcpy(item, c->items + c->head * c->item_bytes, c->item_bytes);
        c->head = (c->head + 1) % c->capacity;
        c->count--;
        rc = 0;
        chan_fd_update(c);
        pthread_cond_signal(&c->not_full);
    } else if (c->closed) {
        rc = ERR_CLOSED;
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void chan_close(struct chan *c)
{
    pthread_mutex_lock(&c->lock);
    c->closed = true;
    chan_fd_update(c);
    pthread_cond_broadcast(&c->not_empty);
    pthread_cond_broadcast(&c->not_full);
    pthread_mutex_unlock(&c->lock);
}

size_t chan_len(struct chan *c)
{
    pthread_mutex_lock(&c->lock);
    size_t n = c->count;
    pthread_mutex_unlock(&c->lock);
    return n;
}

// Out of descriptors at this point means a process that cannot work any more.
static void chan_pipe_open(int fds[2])
{
    if (pipe(fds)) {
        perror("tandem: cannot make a pipe");
        abort();
    }
    for (int i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
    }
}

int chan_fd(struct chan *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->pipe_fds[0] < 0) {
        chan_pipe_open(c->pipe_fds);
        chan_fd_update(c);
    }
    int fd = c->pipe_fds[0];
    pthread_mutex_unlock(&c->lock);
    return fd;
}
