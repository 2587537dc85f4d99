#include "os/watch.h"

#include "base/buf.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/event.h>
#include <unistd.h>

#define EVENTS 64

struct os_watch {
    int fd;
};

static int add(struct os_watch *w, int fd, unsigned short flags, void *ctx)
{
    struct kevent ev;

    EV_SET(&ev, (uintptr_t)fd, EVFILT_READ, (unsigned short)(EV_ADD | flags), 0, 0, ctx);
    return kevent(w->fd, &ev, 1, NULL, 0, NULL);
}

int os_watch_open(int wake_fd, struct os_watch **out, struct err *e)
{
    struct os_watch *w = mem_alloc(sizeof(*w));

    w->fd = kqueue();
    // NULL marks the descriptor that only wakes.
    if (w->fd >= 0 && add(w, wake_fd, 0, NULL) == 0) {
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
    // Only changes are told (EV_CLEAR): bytes that wait to be read must not wake again and again.
    if (fd >= 0)
        add(w, fd, EV_CLEAR, ctx);
}

void os_watch_remove(struct os_watch *w, int fd)
{
    struct kevent ev;

    if (fd < 0)
        return;
    EV_SET(&ev, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, 0, NULL);
    kevent(w->fd, &ev, 1, NULL, 0, NULL);
}

size_t os_watch_wait(struct os_watch *w, int timeout_ms, void **gone, size_t max)
{
    struct kevent events[EVENTS];
    struct timespec t = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
    size_t n_gone = 0;
    int n = kevent(w->fd, NULL, 0, events, max < EVENTS ? (int)max : EVENTS,
                   timeout_ms < 0 ? NULL : &t);

    for (int i = 0; i < n; i++)
        if (events[i].udata && (events[i].flags & EV_EOF))
            gone[n_gone++] = events[i].udata;
    return n_gone;
}
