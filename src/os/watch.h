// Watches many sockets for their other side's leaving, at a cost that does not grow with their number
// (epoll on Linux, kqueue on macOS). What arrives on them is of no interest here.
//
// Owner: one thread, which adds, removes and waits. One descriptor besides the sockets only wakes: the
// waiting ends when it is readable.
#ifndef OS_WATCH_H
#define OS_WATCH_H

#include "base/err.h"

#include <stddef.h>

struct os_watch;

// wake_fd stays the caller's.
int os_watch_open(int wake_fd, struct os_watch **out, struct err *e);
void os_watch_close(struct os_watch *w);
// `ctx` comes back when the socket's other side has left, at least once before it is removed. A
// socket that cannot be watched (-1, say) is passed over: its leaving is then found out by writing.
void os_watch_add(struct os_watch *w, int fd, void *ctx);
// Before the descriptor is closed.
void os_watch_remove(struct os_watch *w, int fd);
// Waits for at most timeout_ms (-1: for ever), or until something happens. Returns how many of
// `gone`, which has room for max, were filled.
size_t os_watch_wait(struct os_watch *w, int timeout_ms, void **gone, size_t max);

#endif
