#include "os/watch.h"

#include "base/buf.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS 64

struct os_watch {
    int fd;
};

static int add(struct os_watch *w, int fd, uint32_t events, void *ctx)
{
    struct epoll_event ev = {.events = events, .data.ptr = ctx};

    return epoll_ctl(w->fd, EPOLL_CTL_ADD, fd, &ev);
}

int os_watch_open(int wake_fd, struct os_watch **out, struct err *e)
{
    struct os_watch *w = mem_alloc(sizeof(*w));

    w->fd = epoll_create1(EPOLL_CLOEXEC);
    // NULL marks the descriptor that only wakes.
    if (w->fd >= 0 && add(w, wake_fd, EPOLLIN, NULL) == 0) {
        *out = w;
        return 0;
    }
    err_set(e, ERR_IO, "cannot watch sockets: %s", strerror(errno));
    os_watch_close(w);
    return ERR_IO;
}

void os_watch_close(struct os_watch *w)
{
    if (w->fd >= 0)
        close(w->fd);
    free(w);
}

void os_watch_add(struct os_watch *w, int fd, void *ctx)
{
    // Linux tells by its own event that the other side shut down its sending.
    if (fd >= 0)
        add(w, fd, EPOLLRDHUP, ctx);
}

void os_watch_remove(struct os_watch *w, int fd)
{
    if (fd >= 0)
        epoll_ctl(w->fd, EPOLL_CTL_DEL, fd, NULL);
}

size_t os_watch_wait(struct os_watch *w, int timeout_ms, void **gone, size_t max)
{
    struct epoll_event events[EVENTS];
    size_t n_gone = 0;
    int n = epoll_wait(w->fd, events, max < EVENTS ? (int)max : EVENTS, timeout_ms);

    for (int i = 0; i < n; i++)
        if (events[i].data.ptr)
            gone[n_gone++] = events[i].data.ptr;
    return n_gone;
}
