// What the two HTTP clients share. Private to net/http_*.c.
#ifndef NET_HTTP_IMPL_H
#define NET_HTTP_IMPL_H

#include "base/err.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>

#define NET_HTTP_CONNECT_S 15
#define NET_HTTP_STALL_S 30

// libcurl's own set-up, once per process: it is not to run in two threads at a time. Any thread.
void net_http_init(void);
// What every transfer is set up with. All borrowed until it ends; ctx goes to each callback.
struct net_http_setup {
    const char *url;
    unsigned connect_s; // 0: NET_HTTP_CONNECT_S
    size_t (*on_header)(char *line, size_t size, size_t n, void *ctx);
    size_t (*on_data)(char *data, size_t size, size_t n, void *ctx);
    int (*on_progress)(void *ctx, curl_off_t down_all, curl_off_t down, curl_off_t up_all,
                       curl_off_t up);
    void *ctx;
    char *why; // CURL_ERROR_SIZE
};
void net_http_setup_apply(CURL *c, const struct net_http_setup *s);
// The list with "Authorization: Bearer TOKEN" behind it; no copy of the token stays in freed memory but the list's.
struct curl_slist *net_http_bearer_add(struct curl_slist *list, const char *token);
// What libcurl's code means here; `why` is libcurl's own text, `host` who was talked to.
int net_http_fail(CURLcode code, const char *why, const char *host, struct err *e);
// The value of header `name` in `line`, without blanks around it; false when it is another header, or too
// long.
bool net_http_header(const char *line, size_t n, const char *name, char *out, size_t out_bytes);
// Retry-After as seconds, bounded; the form with a date counts as not told: 0.
unsigned net_http_retry_after(const char *text);

#endif
