// The gateway: the HTTP front. It owns requests from the first byte to the last, decides where each
// part of one runs, and speaks to workers over links; it links no model library.
//
// Threads: libmicrohttpd's own (parsing, copying out), and one core thread that owns every request,
// worker table and timer. HTTP handlers and link readers send messages to the core through bounded
// channels; bytes for a client go into that request's outgoing buffer, whose lock is the one thing
// the two sides share.
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include "base/err.h"
#include "net/net.h"
#include "node/node.h"

#define GATEWAY_PORT 8080
#define GATEWAY_BODY_MAX (32u << 20)  // bytes of one request body: 413 beyond
#define GATEWAY_HYBRID_TOKENS 256     // more uncached tokens than this: hybrid, if a prefill node is up

struct gateway_options {
    struct net_addr listen;           // default 127.0.0.1:8080; port 0 takes a free one
    struct node_worker_options worker; // the local decode worker
    struct net_addr prefill[16];
    size_t n_prefill;
    struct net_key key;
    bool same_weights;       // demand equal weights on both sides (default true)
    uint32_t max_requests;   // beyond: 503 with Retry-After (default 64)
    int64_t heartbeat_ns;    // comment lines while a prompt is read (default 5 s)
    double stall_s;          // a prefill node that is silent for this long is given up (default 3)
};
void gateway_options_default(struct gateway_options *o);

struct gateway;
// Binds, starts the worker and the threads. *port gets the bound port.
int gateway_start(const struct gateway_options *o, struct gateway **out, uint16_t *port,
                  struct err *e);
// Stops accepting, ends open streams with an error event, ends the worker, frees.
void gateway_free(struct gateway *g);

#endif
