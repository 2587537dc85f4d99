// Fetching something over HTTP(S): one GET at a time, blocking, through libcurl. It exists for
// `tandem pull`, the one command that leaves the machines of the user.
//
// Owner: the caller's thread; nothing is shared and nothing is kept between two calls.
//
// Redirects are followed here and not by libcurl, so that the rule about the token is ours: it goes to the
// scheme, host and port of the first address and to no other; it never goes unencrypted to another
// machine; and an https address never leads to an http one. Proxies come from the environment as libcurl
// reads it (https_proxy, http_proxy, all_proxy, no_proxy).
//
// What it does not do: it does not try again, resume by itself or judge a status; models/fetch.h does.
#ifndef NET_HTTP_CLIENT_H
#define NET_HTTP_CLIENT_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_HTTP_UNKNOWN UINT64_MAX // a length that the server did not tell
#define NET_HTTP_URL_BYTES 4096
#define NET_HTTP_ETAG_BYTES 256
#define NET_HTTP_REASON_BYTES 400

// What the server said before the body, of the last address only.
struct net_http_head {
    long status;
    uint64_t length;                // bytes of the body that follows, or NET_HTTP_UNKNOWN
    uint64_t first;                 // 206: where in the whole thing the body begins
    uint64_t total;                 // size of the whole thing, or NET_HTTP_UNKNOWN
    char etag[NET_HTTP_ETAG_BYTES]; // as sent, quotes included; "": none, or not a strong one
    char code[64];                  // X-Error-Code, which tells why a model hub refuses; "": none
    uint32_t retry_after_s;         // 0: not told
    char reason[NET_HTTP_REASON_BYTES]; // status >= 400: the beginning of the body, on one line
};

struct net_http_get {
    const char *url;
    const char *token;    // bearer token, NULL: none
    uint64_t offset;      // where to begin; 0: the whole thing
    const char *if_range; // with an offset: a strong ETag that must still hold; NULL: none
    uint32_t connect_s;   // seconds to connect; 0: 15
    uint32_t stall_s;     // seconds without a byte until it counts as dead; 0: 30
    // Once, for a 200 or 206, before the body. An error ends the call with it. May be NULL.
    int (*on_head)(void *ctx, const struct net_http_head *head, struct err *e);
    // The body of a 200 or 206, piece by piece.
    int (*on_data)(void *ctx, const void *data, size_t n, struct err *e);
    // Asked about ten times a second, also while nothing comes: true ends the call with ERR_CANCELLED.
    bool (*stopped)(void *ctx);
    void *ctx;
};

// 0: the server answered and its answer came whole; head->status says what it thought, which may be a
// refusal. ERR_CLOSED: the connection broke or never came about; ERR_TIMEOUT: silence; both may go
// better another time. ERR_INVALID: the address or where it leads to is not acceptable. Else what a
// callback returned.
int net_http_get(const struct net_http_get *g, struct net_http_head *head, struct err *e);

// Whether the address is http:// or https:// with a host of this machine (localhost, 127.x, ::1).
bool net_http_is_loopback(const char *url);

#endif
