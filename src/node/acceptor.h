// Where a process of ours is connected to: a thread that accepts, and a thread for each handshake (TLS 1.3 with the
// cluster's key, HELLO, then WELCOME or REFUSED), so that a peer which says nothing holds up nobody. Whom it takes
// and what becomes of the connection is the host's.
#ifndef NODE_ACCEPTOR_H
#define NODE_ACCEPTOR_H

#include "net/conn.h"
#include "node/message.h"

#define ACCEPTOR_HANDSHAKE_NS (5 * NS_PER_S)

// All are called on handshake threads, several at a time.
struct acceptor_host {
    const char *name;  // of its lines in the log
    const char *guest; // who is refused, in the log
    int most;          // handshakes at one time; who comes then is hung up on
    // 0, or why this peer is not wanted. Its protocol version is ours.
    int (*check)(void *ctx, const struct message_hello *h, struct err *e);
    json_t *(*welcome)(void *ctx); // WELCOME's head
    // The peer has its WELCOME, and the host the connection.
    void (*take)(void *ctx, struct net_conn *conn, const struct message_hello *h);
    // A peer that passed the check never got its WELCOME. NULL: there is nothing to take back.
    void (*lost)(void *ctx);
};

struct acceptor;

// Borrows host, ctx, key and the socket, all of which outlive it. NULL: there is no thread.
struct acceptor *acceptor_start(const struct acceptor_host *host, void *ctx, int listen_fd,
                                const struct net_key *key, struct err *e);
// Nobody is accepted any more. Handshakes go on, at the latest until their deadline.
void acceptor_stop(struct acceptor *a);
// True while handshakes run. After false, what they took is there for whoever asked.
bool acceptor_busy(const struct acceptor *a);
// Stops, waits for the handshakes that run, and frees. NULL is fine.
void acceptor_free(struct acceptor *a);

// HELLO and its answer on a connection that needs no accepting. On success the host has the connection.
int acceptor_greet(const struct acceptor_host *host, void *ctx, struct net_conn *conn,
                   int64_t deadline_ns, struct err *e);
// The first frame of a connection, which is a HELLO.
int acceptor_hello_read(struct net_conn *conn, int64_t deadline_ns, struct message_hello *h,
                        struct err *e);

#endif
