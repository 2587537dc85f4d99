// Many HTTP(S) requests at a time, in one thread, through libcurl's multi interface: for talking to servers
// that answer in small pieces for minutes. (http_client.h fetches one thing, and blocks.)
//
// Owner: one thread. It makes the pool, starts and cancels requests and calls net_http_pool_wait, in which all
// callbacks run. Other threads may call net_http_pool_wake, and nothing else.
//
// It connects to the addresses that it is given and to no others: a redirect is an answer like any other, which
// the caller is told of and nobody follows, and proxies of the environment are not used. Certificates are
// checked always. A token is sent to the address of its own request alone, and never shown in an error.
//
// Bounded: a request's body is the caller's to limit, an answer is handed on piece by piece and never kept
// here, and a server that is silent for stall_s is given up.
#ifndef NET_HTTP_POOL_H
#define NET_HTTP_POOL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_HTTP_TYPE_BYTES 80
#define NET_HTTP_LOCATION_BYTES 256
#define NET_HTTP_HOST_BYTES 256

// What a server says before the body.
struct net_http_reply {
    long status;
    char type[NET_HTTP_TYPE_BYTES];         // Content-Type; "": not told
    char location[NET_HTTP_LOCATION_BYTES]; // of a redirect; "": none, or too long
    uint32_t retry_after_s;                 // 0: not told
};

struct net_http_ops {
    // A piece of the body. `reply` is the same for all pieces. An error ends the request with it.
    int (*on_data)(void *ctx, const struct net_http_reply *reply, const void *data, size_t n,
                   struct err *e);
    // The last call. rc 0: the answer came whole, whatever its status says. ERR_CLOSED: the connection broke
    // or never came about (`reply->status` 0); ERR_TIMEOUT: silence; ERR_AUTH: the certificate; else what
    // on_data returned. New requests may be started from here.
    void (*on_end)(void *ctx, const struct net_http_reply *reply, int rc, const struct err *e);
};

struct net_http_request {
    const char *url;
    const char *token;   // sent as "Authorization: Bearer"; NULL: none
    const char *ca_file; // certificates to trust instead of the system's; NULL: the system's
    char *body;          // to POST, owned by the request from net_http_pool_start on; NULL: a GET
    size_t body_bytes;
    const char *type;   // of the body; NULL: application/json
    uint32_t connect_s; // 0: 15
    uint32_t stall_s;   // without a byte; 0: 30
    uint32_t total_s;   // for all of it; 0: no limit
    const struct net_http_ops *ops;
    void *ctx;
};

struct net_http_pool;
struct net_http_transfer;

int net_http_pool_open(struct net_http_pool **out, struct err *e);
// Requests that still run are dropped without a word.
void net_http_pool_close(struct net_http_pool *p);
// Takes the body, also on failure. *out is good until on_end or net_http_pool_cancel.
int net_http_pool_start(struct net_http_pool *p, const struct net_http_request *q,
                        struct net_http_transfer **out, struct err *e);
// Breaks the connection; no callback of it runs any more. Not from its own on_data.
void net_http_pool_cancel(struct net_http_pool *p, struct net_http_transfer *t);
// Moves what can be moved, waits for at most so long when nothing can, and runs callbacks.
void net_http_pool_wait(struct net_http_pool *p, int64_t timeout_ns);
void net_http_pool_wake(
    struct net_http_pool *p); // any thread: a wait that runs, or the next one, ends

// http:// or https:// with a host, without user name, password, query or fragment: what a server's address is
// made of. ERR_INVALID says what is wrong. *secure: https, or a host of this machine. Any thread.
int net_http_address_check(const char *url, bool *secure, struct err *e);

#endif
