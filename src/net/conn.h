// Private to net/: what a connection is made of. The TLS filter and the pacer know no sockets, the
// connection knows no cryptography.
#ifndef NET_CONN_H
#define NET_CONN_H

#include "net/net.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/socket.h>

// Linux asks per call that a write to a dead socket raises no signal, macOS per socket.
#ifdef SO_NOSIGPIPE
#undef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
static inline void net_fd_no_sigpipe(int fd)
{
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &one, sizeof one);
}
#else
static inline void net_fd_no_sigpipe(int fd)
{
    (void)fd;
}
#endif

// ---- pacing (pace.c) ---------------------------------------------------------------------------

// Emulates the serialisation delay of a link of a given rate: a slice of n bytes may be handed over
// at the moment at which its last byte would have left such a link. Time that a writer lost on a
// busy core while it had more to send is caught up; time in which it had nothing to send is not.
// Owner: the connection's writing thread.
struct net_pace {
    double bytes_per_s; // 0: off
    double clear_ns;    // when the emulated link has sent everything that was given to it
};
void net_pace_init(struct net_pace *p, double bytes_per_s);
// A writer comes with new bytes at now_ns: an idle link keeps no credit beyond NET_PACE_CREDIT_NS.
void net_pace_begin(struct net_pace *p, int64_t now_ns);
// The most bytes to hand over at once: half a millisecond's worth, between 1 and 256 KiB.
size_t net_pace_slice(const struct net_pace *p);
// Books n bytes; returns the time at which they may go.
int64_t net_pace_book(struct net_pace *p, size_t n, int64_t now_ns);

#define NET_PACE_CREDIT_NS (1 * 1000000LL)
#define NET_PACE_CATCH_UP_NS (100 * 1000000LL)

// ---- TLS (tls.c) -------------------------------------------------------------------------------

// TLS 1.3 as a filter between buffers. Ciphertext goes into `out` (drained by the writing thread) and
// comes from `in` (filled by the reading thread); no call here waits. A lock keeps GnuTLS to one
// thread at a time, because a key update touches the state of both directions.
struct net_tls;

struct net_tls *net_tls_new(const struct net_key *key, bool server, struct err *e);
void net_tls_free(struct net_tls *t);

enum { NET_TLS_DONE = 0, NET_TLS_WANTS_INPUT = 1 };
// One round: NET_TLS_DONE, NET_TLS_WANTS_INPUT (send `out` first) or ERR_AUTH.
int net_tls_handshake(struct net_tls *t, const char *peer, struct err *e);

// Where ciphertext may be received to; net_tls_in_add tells how much came.
size_t net_tls_in_space(struct net_tls *t, uint8_t **space);
void net_tls_in_add(struct net_tls *t, size_t n);
size_t net_tls_in_total(const struct net_tls *t); // bytes ever received

// Ciphertext to be sent.
size_t net_tls_out(const struct net_tls *t, const uint8_t **data);
void net_tls_out_drop(struct net_tls *t, size_t n);
bool net_tls_out_full(const struct net_tls *t); // flush before the next net_tls_encrypt

// Encrypts at most one record; returns how many bytes of data it took, or a negative error.
int64_t net_tls_encrypt(struct net_tls *t, const void *data, size_t n, struct err *e);
// Decrypts up to n bytes: the count, 0 when more input is wanted, ERR_CLOSED after the peer's
// close_notify, ERR_CORRUPT.
int64_t net_tls_decrypt(struct net_tls *t, void *data, size_t n, struct err *e);
// Changes the key for what is encrypted from here on. GnuTLS does it by itself after 2^24 records;
// this is for trying it sooner.
int net_tls_rekey(struct net_tls *t, struct err *e);
// Puts a close_notify into `out`.
void net_tls_bye(struct net_tls *t);

// ---- sockets (addr.c) --------------------------------------------------------------------------

#define NET_PEER_BYTES 320

void net_fd_prepare(int fd); // non-blocking, close-on-exec, TCP_NODELAY where it applies
void net_peer_text(const struct sockaddr *sa, socklen_t len, char *out, size_t out_bytes);
// 0 when `events` (or an error) are there, ERR_TIMEOUT otherwise.
int net_fd_wait(int fd, short events, int64_t deadline_ns);
// A TCP connection, no TLS yet.
int net_tcp_dial(const struct net_addr *a, bool has_key, int64_t deadline_ns,
                 char peer[NET_PEER_BYTES], struct err *e);

#endif
