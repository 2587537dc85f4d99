#include "net/http_pool.h"

#include "base/buf.h"
#include "base/clock.h"
#include "net/http_impl.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECEIVE_BYTES 65536L
#define WAIT_MAX_MS 60000

struct net_http_pool {
    CURLM *multi;
    struct net_http_transfer *transfers;
};

struct net_http_transfer {
    struct net_http_transfer *next;
    const struct net_http_ops *ops;
    void *ctx;
    CURL *curl;
    struct curl_slist *headers;
    char *body;
    struct net_http_reply reply;
    uint32_t stall_s;
    int64_t heard_ns; // when a byte last moved
    curl_off_t sent;
    int rc; // what ended it from our side
    struct err e;
    char host[NET_HTTP_HOST_BYTES];
    char why[CURL_ERROR_SIZE];
};

// ---- what comes ----------------------------------------------------------------------------------

static size_t on_header(char *line, size_t size, size_t n, void *ctx)
{
    struct net_http_transfer *t = ctx;
    struct net_http_reply *r = &t->reply;
    char text[64];

    n *= size;
    t->heard_ns = clock_now_ns();
    if (n > 5 && strncmp(line, "HTTP/", 5) == 0) { // "100 Continue" may stand before the answer
        *r = (struct net_http_reply){0};
        curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &r->status);
    } else if (net_http_header(line, n, "Retry-After", text, sizeof(text))) {
        r->retry_after_s = net_http_retry_after(text);
    } else if (!net_http_header(line, n, "Content-Type", r->type, sizeof(r->type))) {
        net_http_header(line, n, "Location", r->location, sizeof(r->location));
    }
    return n;
}

static size_t on_data(char *data, size_t size, size_t n, void *ctx)
{
    struct net_http_transfer *t = ctx;

    n *= size;
    t->heard_ns = clock_now_ns();
    t->rc = t->ops->on_data(t->ctx, &t->reply, data, n, &t->e);
    return t->rc == 0 ? n : 0;
}

// A long request that goes out slowly is no silence.
static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t sent)
{
    struct net_http_transfer *t = ctx;

    (void)a, (void)b, (void)c;
    if (sent != t->sent)
        t->heard_ns = clock_now_ns();
    t->sent = sent;
    return 0;
}

// ---- one request ---------------------------------------------------------------------------------

static void headers_set(struct net_http_transfer *t, const struct net_http_request *q)
{
    if (q->token)
        t->headers = net_http_bearer_add(t->headers, q->token);
    if (q->body) {
        char *line = mem_format("Content-Type: %s", q->type ? q->type : "application/json");

        t->headers = curl_slist_append(t->headers, line);
        free(line);
        // A large body is not announced first: not every server answers that.
        t->headers = curl_slist_append(t->headers, "Expect:");
    }
    t->headers = curl_slist_append(t->headers, "Accept: application/json, text/event-stream");
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
}

static void limits_set(CURL *c, const struct net_http_request *q)
{
    curl_easy_setopt(c, CURLOPT_TIMEOUT, (long)q->total_s);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, RECEIVE_BYTES);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

static void options_set(struct net_http_transfer *t, const struct net_http_request *q)
{
    const struct net_http_setup s = {q->url, q->connect_s, on_header, on_data, on_progress,
                                     t,      t->why};
    CURL *c = t->curl;

    net_http_setup_apply(c, &s);
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_TCP_NODELAY, 1L);
    limits_set(c, q);
    if (q->ca_file)
        curl_easy_setopt(c, CURLOPT_CAINFO, q->ca_file);
    curl_easy_setopt(c, CURLOPT_PRIVATE, t);
    if (!t->body)
        return;
    curl_easy_setopt(c, CURLOPT_POST, 1L);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, t->body);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body_bytes);
}

static void transfer_free(struct net_http_transfer *t)
{
    curl_easy_cleanup(t->curl);
    curl_slist_free_all(t->headers);
    free(t->body);
    free(t);
}

// Whom errors name: the part of the address between "//" and the next '/'.
static void host_set(struct net_http_transfer *t, const char *url)
{
    const char *from = strstr(url, "//");

    from = from ? from + 2 : url;
    snprintf(t->host, sizeof(t->host), "%.*s", (int)strcspn(from, "/"), from);
}

int net_http_pool_start(struct net_http_pool *p, const struct net_http_request *q,
                        struct net_http_transfer **out, struct err *e)
{
    struct net_http_transfer *t = mem_alloc(sizeof(*t));

    t->ops = q->ops;
    t->ctx = q->ctx;
    t->body = q->body;
    t->stall_s = q->stall_s ? q->stall_s : NET_HTTP_STALL_S;
    t->heard_ns = clock_now_ns();
    t->curl = curl_easy_init();
    host_set(t, q->url);
    if (t->curl) {
        headers_set(t, q);
        options_set(t, q);
    }
    if (!t->curl || curl_multi_add_handle(p->multi, t->curl) != CURLM_OK) {
        err_set(e, ERR_IO, "%s: libcurl cannot start a request", t->host);
        transfer_free(t);
        return ERR_IO;
    }
    t->next = p->transfers;
    p->transfers = t;
    *out = t;
    return 0;
}

// Takes it out; its connection stays for others unless it was in use.
static void transfer_remove(struct net_http_pool *p, struct net_http_transfer *t)
{
    struct net_http_transfer **at = &p->transfers;

    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    curl_multi_remove_handle(p->multi, t->curl);
}

void net_http_pool_cancel(struct net_http_pool *p, struct net_http_transfer *t)
{
    transfer_remove(p, t);
    transfer_free(t);
}

// ---- all of them -----------------------------------------------------------------------------------

static void transfer_end(struct net_http_pool *p, struct net_http_transfer *t, CURLcode code)
{
    int rc = t->rc;

    transfer_remove(p, t);
    if (rc == 0 && code != CURLE_OK)
        rc = net_http_fail(code, t->why, t->host, &t->e);
    t->ops->on_end(t->ctx, &t->reply, rc, &t->e);
    transfer_free(t);
}

static int64_t stall_ns(const struct net_http_transfer *t)
{
    return t->heard_ns + (int64_t)t->stall_s * NS_PER_S;
}

// libcurl's own bound is on a rate averaged over seconds, which is too coarse for this.
static void stalls_end(struct net_http_pool *p)
{
    int64_t now_ns = clock_now_ns();

    for (struct net_http_transfer *t = p->transfers, *next; t; t = next) {
        next = t->next;
        if (t->rc == 0 && now_ns >= stall_ns(t)) {
            snprintf(t->why, sizeof(t->why), "not one byte came for %u s", t->stall_s);
            transfer_end(p, t, CURLE_OPERATION_TIMEDOUT);
            next = p->transfers; // on_end may have started others
        }
    }
}

static int wait_ms(const struct net_http_pool *p, int64_t timeout_ns)
{
    int64_t now_ns = clock_now_ns(), ms;

    for (const struct net_http_transfer *t = p->transfers; t; t = t->next)
        timeout_ns = stall_ns(t) - now_ns < timeout_ns ? stall_ns(t) - now_ns : timeout_ns;
    ms = (timeout_ns + NS_PER_MS - 1) / NS_PER_MS;
    return (int)(ms < 0 ? 0 : ms > WAIT_MAX_MS ? WAIT_MAX_MS : ms);
}

void net_http_pool_wait(struct net_http_pool *p, int64_t timeout_ns)
{
    struct net_http_transfer *t;
    int running, left;
    CURLMsg *m;

    curl_multi_poll(p->multi, NULL, 0, wait_ms(p, timeout_ns), NULL);
    curl_multi_perform(p->multi, &running);
    while ((m = curl_multi_info_read(p->multi, &left))) {
        if (m->msg != CURLMSG_DONE)
            continue;
        // The message is gone with the handle.
        CURLcode code = m->data.result;

        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (void *)&t);
        transfer_end(p, t, code);
    }
    stalls_end(p);
}

void net_http_pool_wake(struct net_http_pool *p)
{
    curl_multi_wakeup(p->multi);
}

int net_http_pool_open(struct net_http_pool **out, struct err *e)
{
    struct net_http_pool *p = mem_alloc(sizeof(*p));

    net_http_init();
    p->multi = curl_multi_init();
    if (!p->multi) {
        free(p);
        return err_set(e, ERR_IO, "libcurl cannot be started");
    }
    *out = p;
    return 0;
}

void net_http_pool_close(struct net_http_pool *p)
{
    if (!p)
        return;
    while (p->transfers)
        net_http_pool_cancel(p, p->transfers);
    curl_multi_cleanup(p->multi);
    free(p);
}
