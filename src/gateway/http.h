// HTTP: routes, bodies, keys and origins. Private to gateway/.
//
// One thread, libmicrohttpd's own, runs everything here but http_start and http_stop. A request is
// read whole, parsed, and sent to the core; its connection then sleeps until its reply has bytes.
#ifndef GATEWAY_HTTP_H
#define GATEWAY_HTTP_H

#include "base/err.h"
#include "gateway/core.h"

#define HTTP_BODIES_MAX (256u << 20) // bytes of all bodies being read at one time
// A body that is too large is read to here, so that the client gets to see the answer; then the
// connection is cut.
#define HTTP_DRAIN_MAX (1u << 30)
#define HTTP_IDLE_S 60 // a client that moves no byte for this long is cut
#define HTTP_CONNECTIONS_MAX 512
#define HTTP_FLUSH_NS NS_PER_S // at the end: for last bytes to leave

struct http;

// Takes the listening socket, also on failure. `core` must outlive it.
int http_start(const struct gateway_options *o, struct core *core, int listen_fd, struct http **out,
               struct err *e);
// After core_stop: every reply has its end by then. Waits a moment for last bytes to leave.
void http_stop(struct http *h);

#endif
