#include "net/http_client.h"

#include "base/buf.h"
#include "net/http_impl.h"
#include "net/http_pool.h"

#include <ctype.h>
#include <curl/curl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define REDIRECTS_MAX 10
#define RETRY_AFTER_MAX_S 86400

// One hop: a GET of one address.
struct hop {
    const struct net_http_get *get;
    struct net_http_head *head;
    CURL *curl;
    struct curl_slist *headers;
    bool told; // on_head was called
    int rc;    // what ended the transfer from our side
    struct err *e;
    char why[CURL_ERROR_SIZE];
};

// ---- addresses -----------------------------------------------------------------------------------

// The parts of an address that say who is talked to.
struct origin {
    char scheme[8], host[256], port[8];
};

static bool part_get(CURLU *u, CURLUPart part, unsigned flags, char *out, size_t out_bytes)
{
    char *text = NULL;
    bool good = curl_url_get(u, part, &text, flags) == CURLUE_OK && strlen(text) < out_bytes;
    if (good)
        snprintf(out, out_bytes, "%s", text);
    curl_free(text);
    return good;
}

static bool origin_get(const char *url, struct origin *o)
{
    CURLU *u = curl_url();
    bool good = u && strlen(url) < NET_HTTP_URL_BYTES &&
                curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
                part_get(u, CURLUPART_SCHEME, 0, o->scheme, sizeof o->scheme) &&
                part_get(u, CURLUPART_HOST, 0, o->host, sizeof o->host) &&
                part_get(u, CURLUPART_PORT, CURLU_DEFAULT_PORT, o->port, sizeof o->port);
    curl_url_cleanup(u);
    return good && (strcmp(o->scheme, "http") == 0 || strcmp(o->scheme, "https") == 0);
}

static bool origin_is(const struct origin *a, const struct origin *b)
{
    return strcmp(a->scheme, b->scheme) == 0 && strcasecmp(a->host, b->host) == 0 &&
           strcmp(a->port, b->port) == 0;
}

static bool origin_is_loopback(const struct origin *o)
{
    return strcasecmp(o->host, "localhost") == 0 || strncmp(o->host, "127.", 4) == 0 ||
           strcmp(o->host, "[::1]") == 0 || strcmp(o->host, "::1") == 0;
}

bool net_http_is_loopback(const char *url)
{
    struct origin o;
    return origin_get(url, &o) && origin_is_loopback(&o);
}

static bool part_is_there(CURLU *u, CURLUPart part)
{
    char *text = NULL;
    bool there = curl_url_get(u, part, &text, 0) == CURLUE_OK && text[0];
    curl_free(text);
    return there;
}

int net_http_address_check(const char *url, bool *secure, struct err *e)
{
    struct origin o;
    if (!origin_get(url, &o))
        return err_set(e, ERR_INVALID, "\"%.300s\" is no http:// or https:// address", url);
    CURLU *u = curl_url();
    bool good = u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK;
    bool login = good && (part_is_there(u, CURLUPART_USER) || part_is_there(u, CURLUPART_PASSWORD));
    bool more = good && (part_is_there(u, CURLUPART_QUERY) || part_is_there(u, CURLUPART_FRAGMENT));
    curl_url_cleanup(u);
    *secure = strcmp(o.scheme, "https") == 0 || origin_is_loopback(&o);
    // The address itself is not repeated: it holds a password.
    if (login)
        return err_set(e, ERR_INVALID,
                       "the address of %.200s has a user name or password in it; a key belongs "
                       "into a file",
                       o.host);
    if (more)
        return err_set(e, ERR_INVALID, "\"%.300s\" has a part behind '?' or '#'; leave it out",
                       url);
    return 0;
}

// ---- what comes ----------------------------------------------------------------------------------

bool net_http_header(const char *line, size_t n, const char *name, char *out, size_t out_bytes)
{
    size_t length = strlen(name);
    if (n <= length || strncasecmp(line, name, length) != 0 || line[length] != ':')
        return false;
    line += length + 1;
    n -= length + 1;
    while (n > 0 && isspace((unsigned char)*line))
        line++, n--;
    while (n > 0 && isspace((unsigned char)line[n - 1]))
        n--;
    if (n >= out_bytes)
        return false;
    memcpy(out, line, n);
    out[n] = '\0';
    return true;
}

unsigned net_http_retry_after(const char *text)
{
    unsigned long s = strtoul(text, NULL, 10);
    return s > RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : (unsigned)s;
}

// A number behind `before`; *at moves behind it.
static bool number_take(const char **at, const char *before, uint64_t *out)
{
    size_t n = strlen(before);
    char *end = NULL;
    if (strncmp(*at, before, n) != 0 || !isdigit((unsigned char)(*at)[n]))
        return false;
    *out = strtoull(*at + n, &end, 10);
    *at = end;
    return true;
}

// "bytes FIRST-LAST/TOTAL", where TOTAL may be "*".
static void range_parse(const char *text, struct net_http_head *h)
{
    uint64_t first = 0, last = 0, total = 0;
    if (!number_take(&text, "bytes ", &first) || !number_take(&text, "-", &last))
        return;
    h->first = first;
    if (number_take(&text, "/", &total))
        h->total = total;
}

static size_t on_header(char *line, size_t size, size_t n, void *ctx)
{
    struct hop *hop = ctx;
    struct net_http_head *h = hop->head;
    char text[NET_HTTP_ETAG_BYTES];
    n *= size;
    if (n > 5 && strncmp(line, "HTTP/", 5) == 0) // a new answer: what a proxy said before is void
        *h = (struct net_http_head){.length = NET_HTTP_UNKNOWN, .total = NET_HTTP_UNKNOWN};
    else if (net_http_header(line, n, "ETag", text, sizeof text) && text[0] == '"')
        memcpy(h->etag, text, sizeof text);
    else if (net_http_header(line, n, "Content-Range", text, sizeof text))
        range_parse(text, h);
    else if (net_http_header(line, n, "X-Error-Code", text, sizeof h->code))
        memcpy(h->code, text, sizeof h->code);
    else if (net_http_header(line, n, "Retry-After", text, sizeof text))
        h->retry_after_s = net_http_retry_after(text);
    return n;
}

static void head_complete(struct hop *hop)
{
    struct net_http_head *h = hop->head;
    curl_off_t length = -1;
    curl_easy_getinfo(hop->curl, CURLINFO_RESPONSE_CODE, &h->status);
    curl_easy_getinfo(hop->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    h->length = length < 0 ? NET_HTTP_UNKNOWN : (uint64_t)length;
    if (h->status == 200)
        h->total = h->length;
}

static int head_tell(struct hop *hop)
{
    if (hop->told)
        return 0;
    hop->told = true;
    head_complete(hop);
    bool good = hop->head->status == 200 || hop->head->status == 206;
    if (!good || !hop->get->on_head)
        return 0;
    return hop->get->on_head(hop->get->ctx, hop->head, hop->e);
}

// Keeps the beginning of an error's body, as one line that is safe to print.
static void reason_add(struct net_http_head *h, const char *data, size_t n)
{
    size_t used = strlen(h->reason);
    for (size_t i = 0; i < n && used + 1 < sizeof h->reason; i++) {
        unsigned char c = (unsigned char)data[i];
        h->reason[used++] = c < ' ' || c == 0x7f ? ' ' : (char)c;
    }
    h->reason[used] = '\0';
}

static size_t on_data(char *data, size_t size, size_t n, void *ctx)
{
    struct hop *hop = ctx;
    n *= size;
    hop->rc = head_tell(hop);
    if (hop->rc == 0 && hop->head->status >= 400)
        reason_add(hop->head, data, n);
    else if (hop->rc == 0 && (hop->head->status == 200 || hop->head->status == 206))
        hop->rc = hop->get->on_data(hop->get->ctx, data, n, hop->e);
    return hop->rc == 0 ? n : 0;
}

static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const struct hop *hop = ctx;
    (void)a, (void)b, (void)c, (void)d;
    return hop->get->stopped && hop->get->stopped(hop->get->ctx);
}

// ---- one hop -------------------------------------------------------------------------------------

static void header_add(struct hop *hop, const char *name, const char *value)
{
    char *line = mem_format("%s: %s", name, value);
    hop->headers = curl_slist_append(hop->headers, line);
    free(line);
}

struct curl_slist *net_http_bearer_add(struct curl_slist *list, const char *token)
{
    char *line = mem_format("Authorization: Bearer %s", token);
    list = curl_slist_append(list, line);
    memset(line, 0, strlen(line));
    free(line);
    return list;
}

static void headers_set(struct hop *hop, const char *token)
{
    const struct net_http_get *g = hop->get;
    if (token)
        hop->headers = net_http_bearer_add(hop->headers, token);
    if (g->offset > 0) {
        char range[48];
        snprintf(range, sizeof range, "bytes=%" PRIu64 "-", g->offset);
        header_add(hop, "Range", range);
        if (g->if_range)
            header_add(hop, "If-Range", g->if_range);
    }
    curl_easy_setopt(hop->curl, CURLOPT_HTTPHEADER, hop->headers);
}

void net_http_setup_apply(CURL *c, const struct net_http_setup *s)
{
    unsigned connect_s = s->connect_s ? s->connect_s : NET_HTTP_CONNECT_S;
    curl_easy_setopt(c, CURLOPT_URL, s->url);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "tandem/" TANDEM_VERSION);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)connect_s);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, s->on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, s->ctx);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, s->on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, s->ctx);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, s->on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, s->ctx);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, s->why);
}

static void options_set(struct hop *hop, const char *url)
{
    const struct net_http_get *g = hop->get;
    const struct net_http_setup s = {url,         g->connect_s, on_header, on_data,
                                     on_progress, hop,          hop->why};
    net_http_setup_apply(hop->curl, &s);
    curl_easy_setopt(hop->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(hop->curl, CURLOPT_LOW_SPEED_TIME,
                     (long)(g->stall_s ? g->stall_s : NET_HTTP_STALL_S));
    curl_easy_setopt(hop->curl, CURLOPT_BUFFERSIZE, 256L * 1024);
}

int net_http_fail(CURLcode code, const char *why, const char *host, struct err *e)
{
    if (!why[0])
        why = curl_easy_strerror(code);
    switch (code) {
    case CURLE_ABORTED_BY_CALLBACK:
        return err_set(e, ERR_CANCELLED, "stopped");
    case CURLE_OPERATION_TIMEDOUT:
        return err_set(e, ERR_TIMEOUT, "%s: %s", host, why);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
        return err_set(e, ERR_AUTH, "%s: its certificate is not accepted: %s", host, why);
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return err_set(e, ERR_INVALID, "%s: %s", host, why);
    default:
        return err_set(e, ERR_CLOSED, "%s: %s", host, why);
    }
}

// One GET; *next gets the absolute address of a redirect, or "".
static int hop_run(struct hop *hop, const char *url, const char *token, const char *host,
                   char next[NET_HTTP_URL_BYTES])
{
    next[0] = '\0';
    *hop->head = (struct net_http_head){.length = NET_HTTP_UNKNOWN, .total = NET_HTTP_UNKNOWN};
    hop->told = false;
    hop->headers = NULL;
    hop->curl = curl_easy_init();
    if (!hop->curl)
        return err_set(hop->e, ERR_IO, "libcurl cannot be started");
    options_set(hop, url);
    headers_set(hop, token);
    CURLcode code = curl_easy_perform(hop->curl);
    int rc = code == CURLE_OK ? head_tell(hop) // a body may be empty
             : hop->rc != 0   ? hop->rc
                              : net_http_fail(code, hop->why, host, hop->e);
    char *where = NULL;
    if (rc == 0)
        curl_easy_getinfo(hop->curl, CURLINFO_REDIRECT_URL, &where);
    if (where && strlen(where) >= NET_HTTP_URL_BYTES)
        rc = err_set(hop->e, ERR_INVALID, "%s redirects to an address of %zu bytes; at most %d",
                     host, strlen(where), NET_HTTP_URL_BYTES - 1);
    else if (where)
        snprintf(next, NET_HTTP_URL_BYTES, "%s", where);
    curl_slist_free_all(hop->headers);
    curl_easy_cleanup(hop->curl);
    return rc;
}

static int origin_check(const char *url, const struct origin *before, struct origin *o,
                        struct err *e)
{
    if (!origin_get(url, o))
        return err_set(e, ERR_INVALID, "\"%.300s\" is no http:// or https:// address", url);
    if (before && strcmp(before->scheme, "https") == 0 && strcmp(o->scheme, "http") == 0)
        return err_set(e, ERR_INVALID,
                       "%s leads from https to the unprotected address %.300s; not followed",
                       before->host, url);
    return 0;
}

static void global_init(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

void net_http_init(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, global_init);
}

int net_http_get(const struct net_http_get *g, struct net_http_head *head, struct err *e)
{
    struct hop hop = {.get = g, .head = head, .e = e};
    struct origin first = {0}, now;
    char url[NET_HTTP_URL_BYTES], next[NET_HTTP_URL_BYTES];
    net_http_init();
    int rc = origin_check(g->url, NULL, &first, e);
    if (rc != 0)
        return rc;
    if (g->token && strcmp(first.scheme, "https") != 0 && !origin_is_loopback(&first))
        return err_set(e, ERR_INVALID,
                       "a token is not sent to %s over http, where others could read it; use an "
                       "https:// address",
                       first.host);
    now = first;
    snprintf(url, sizeof url, "%s", g->url);
    for (int i = 0; i <= REDIRECTS_MAX; i++) {
        bool known = origin_is(&now, &first);
        rc = hop_run(&hop, url, known ? g->token : NULL, now.host, next);
        if (rc != 0 || next[0] == '\0')
            return rc;
        struct origin before = now;
        rc = origin_check(next, &before, &now, e);
        if (rc != 0)
            return rc;
        memcpy(url, next, sizeof url);
    }
    return err_set(e, ERR_INVALID, "%s redirects more than %d times", first.host, REDIRECTS_MAX);
}
