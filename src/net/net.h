// Connections with deadlines: TCP with TLS 1.3 and a pre-shared key between machines, plain
// descriptors (socketpairs) between a parent and its child.
//
// A `struct net_conn` may be read by one thread and written by one other thread at the same time;
// net_conn_shutdown may be called from any thread and makes both return ERR_CLOSED. No byte of a
// TLS connection reaches a caller before the handshake proved that the peer holds the key. All
// sockets are non-blocking; every call has a deadline on clock_now_ns's scale.
#ifndef NET_NET_H
#define NET_NET_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_KEY_BYTES 32
#define NET_NEVER INT64_MAX // a deadline that does not come

// The cluster key. All zero means "none".
struct net_key {
    uint8_t bytes[NET_KEY_BYTES];
};
bool net_key_is_set(const struct net_key *k);
// What to do without one; part of messages.
#define NET_KEY_ADVICE                                                                             \
    "make one with `tandem pair new`, or run `tandem pair join WORDS...` with the words of the "   \
    "other machine"

struct net_conn;

// ---- addresses ---------------------------------------------------------------------------------

// "HOST:PORT", "[V6]:PORT", "HOST", ":PORT". Missing parts come from the defaults.
struct net_addr {
    char host[256];
    uint16_t port;
};
int net_addr_parse(const char *text, const char *default_host, uint16_t default_port,
                   struct net_addr *out, struct err *e);
bool net_addr_is_loopback(const struct net_addr *a);

// ---- listening and dialling ------------------------------------------------------------------------

// Binds and listens; port 0 takes a free one, which net_listen writes back to a->port. Returns the
// descriptor (>= 0) or an error. A public (non-loopback) address without a key is refused with
// ERR_AUTH and the way out in the message.
int net_listen(struct net_addr *a, const struct net_key *key, struct err *e);

// Accepts one connection (TCP only, not yet TLS). Returns the descriptor or ERR_TIMEOUT.
int net_accept(int listen_fd, int64_t deadline_ns, char *peer, size_t peer_bytes, struct err *e);

// The server side of the TLS handshake on an accepted descriptor, which it takes (also on failure).
// With no key set: plain TCP, which net_listen allows on loopback only. Wrong key, no TLS or a
// slow peer: ERR_AUTH / ERR_TIMEOUT and the connection is closed without an answer.
int net_conn_accept_tls(int fd, const struct net_key *key, int64_t deadline_ns,
                        struct net_conn **out, struct err *e);

// Resolves, connects and does the client side of the handshake, all before the deadline.
int net_conn_dial(const struct net_addr *a, const struct net_key *key, int64_t deadline_ns,
                  struct net_conn **out, struct err *e);

// Wraps a descriptor (socketpair end) without TLS; takes it.
struct net_conn *net_conn_wrap(int fd);

// ---- reading and writing ---------------------------------------------------------------------------

// Reads exactly n bytes. ERR_CLOSED at EOF (the message says after how many bytes), ERR_TIMEOUT.
int net_conn_read(struct net_conn *c, void *data, size_t n, int64_t deadline_ns, struct err *e);
// Reads at least 1 and at most n bytes; returns the count or a negative error.
int64_t net_conn_read_some(struct net_conn *c, void *data, size_t n, int64_t deadline_ns,
                           struct err *e);
// Writes all of it. The deadline is for progress: the time that is left of it at the call is granted
// anew whenever bytes go out. ERR_TIMEOUT, ERR_CLOSED.
int net_conn_write(struct net_conn *c, const void *data, size_t n, int64_t deadline_ns,
                   struct err *e);
// The same for several pieces that belong together: small ones share a TLS record and a packet,
// large ones are not copied.
struct net_part {
    const void *data;
    size_t n;
};
int net_conn_write_parts(struct net_conn *c, const struct net_part *parts, size_t n_parts,
                         int64_t deadline_ns, struct err *e);
// Says that nothing more will be written (close_notify and FIN); the peer reads what was sent, then
// ERR_CLOSED. By the writing thread.
void net_conn_finish(struct net_conn *c);

// Limits what this side sends, as a token bucket: a rate in bytes/s (0 = unlimited). For emulated
// links; counts payload bytes given to net_conn_write. Set before the writer thread starts.
void net_conn_pace(struct net_conn *c, double bytes_per_s);

// A peer that is gone without a word (power, cable) ends the connection after about three times so many
// seconds of silence, also while nobody writes.
void net_conn_keep_alive(struct net_conn *c, int idle_s);

void net_conn_shutdown(struct net_conn *c); // any thread; idempotent
void net_conn_free(struct net_conn *c); // after both threads are done; sends close_notify if it can
const char *net_conn_peer(const struct net_conn *c); // "192.168.1.7:51234", for messages
int net_conn_fd(const struct net_conn *c);

#endif
