// Both ends of a model that is spread over machines, as far as connections go; engine/spread.h has the layers.
// docs/spread.md tells the whole.
//
//   tandem-worker, borrows                          tandem-worker, lends (tandem node --lend)
//   +--------------------------+    TLS 1.3, PSK    +-----------------------------------------+
//   | ggml's RPC client        |<------------------>| accept thread: handshakes, refusals     |
//   | (its own thread a lender)|   HELLO, WELCOME,  | main thread: ggml's RPC server, for one |
//   | watcher: is it there yet?|   then ggml's own  | borrower at a time                      |
//   +--------------------------+                    +-----------------------------------------+
//
// A borrower whose lender is gone cannot compute: ggml would abort. It ends by itself, with the reason in the
// log and NODE_EXIT_LENDER; its supervisor says so to whoever waits, and starts it again until the lender is back.
#ifndef NODE_SPREAD_H
#define NODE_SPREAD_H

#include "engine/engine.h"
#include "engine/spread.h"
#include "net/net.h"
#include "node/message_spread.h"
#include "node/node.h"

#include <pthread.h>

// A machine that lends to this one.
struct spread_lender {
    char address[300];
    struct net_conn *conn;
    struct message_lend facts;
};

// Owner: the thread that opens it, before others exist; read-only from then on. Stays until the process ends.
struct spread {
    struct spread_lender lenders[ENGINE_LENDERS_MAX];
    struct engine_lender streams[ENGINE_LENDERS_MAX];
    size_t n;
    double own_share;
    pthread_t watcher;
};

// Connects to all machines of o->spread and fills `engine`'s members about lenders. ERR_BUSY: not now (one
// cannot be reached, or lends to somebody else); ERR_AUTH, ERR_MISMATCH, ERR_INVALID: not as it is.
int spread_open(struct spread *s, const struct node_worker_options *o,
                struct engine_options *engine, struct err *e);
// "12 of 30 layers here, 18 on studio (192.168.1.7:7077)".
void spread_text(const struct spread *s, uint32_t n_layer, char *out, size_t out_bytes);

// The worker process that lends. parent, ready_fd and listen_fd: as any worker's. Returns its exit code.
int spread_lend_run(const struct node_worker_options *o, struct net_conn *parent, int ready_fd,
                    int listen_fd);

#endif
