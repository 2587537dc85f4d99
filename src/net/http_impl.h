// What the two HTTP clients share. Private to net/http_*.c.
#ifndef NET_HTTP_IMPL_H
#define NET_HTTP_IMPL_H

#include "base/err.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>

// libcurl's own set-up, once per process: it is not to run in two threads at a time. Any thread.
void net_http_init(void);
// What libcurl's code means here; `why` is libcurl's own text, `host` who was talked to.
int net_http_fail(CURLcode code, const char *why, const char *host, struct err *e);
// The value of header `name` in `line`, without blanks around it; false when it is another header, or too
// long.
bool net_http_header(const char *line, size_t n, const char *name, char *out, size_t out_bytes);
// Retry-After as seconds, bounded; the form with a date counts as not told: 0.
unsigned net_http_retry_after(const char *text);

#endif
