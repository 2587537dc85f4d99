// A bounded channel of fixed-size items, many senders to many receivers: the only way in which
// threads here hand work to each other.
//
// Items are copied in and out; an item that points at something hands over what it points at.
// Closing wakes everyone: sends fail with ERR_CLOSED at once, receives drain what is left first.
// A channel may carry a readable file descriptor for threads that wait in poll().
#ifndef BASE_CHAN_H
#define BASE_CHAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chan;

#define CHAN_FOREVER INT64_MAX

struct chan *chan_new(size_t item_bytes, size_t capacity);
// No thread may be inside a call. Items that are left are dropped: drain first if they own things.
void chan_free(struct chan *c);

// timeout_ns: 0 tries once, CHAN_FOREVER waits. Returns 0, ERR_TIMEOUT (full or empty) or ERR_CLOSED.
int chan_send(struct chan *c, const void *item, int64_t timeout_ns);
int chan_recv(struct chan *c, void *item, int64_t timeout_ns);
// As chan_send, but the item is the next one that is received. For pools: what was used last is used next.
int chan_send_first(struct chan *c, const void *item, int64_t timeout_ns);
void chan_close(struct chan *c);
size_t chan_len(struct chan *c); // items waiting now

// A descriptor that polls readable while items wait or the channel is closed. Made on first call;
// owned by the channel; nobody but the channel reads it.
int chan_fd(struct chan *c);

#endif
