#include "gateway/http.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/answer.h"

#include <microhttpd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

struct http {
    const struct gateway_options *options;
    struct core *core;
    struct MHD_Daemon *daemon;
    size_t bodies_bytes; // libmicrohttpd's thread only
    _Atomic int n_open;  // relaxed: only its reaching 0 counts, at the end
};

struct route;

// One request as the HTTP thread sees it.
struct exchange {
    struct http *http;
    struct MHD_Connection *connection;
    const struct route *route;
    const char *rest; // of the path, after a route that ends in '/'
    struct buf body;
    uint64_t drained_bytes;
    struct reply *reply; // once the core has it
    // Decided before the body was read; 0: nothing yet.
    unsigned status;
    char *refusal;
    const char *allow;
};

typedef enum MHD_Result route_function(struct exchange *x);

struct route {
    const char *path; // after "/v1"; a last '/' takes the rest of the path along
    bool post;
    route_function *run;
};

// ---- answers that need no core ------------------------------------------------------------------------

static void headers_add(void *ctx, struct MHD_Response *response)
{
    struct http *h = ctx;

    if (h->options->cors)
        MHD_add_response_header(response, "Access-Control-Allow-Origin", "*");
}

// Takes the body.
static enum MHD_Result answer_now(struct exchange *x, unsigned status, char *body)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(body), body, MHD_RESPMEM_MUST_FREE);
    enum MHD_Result result;

    if (!response) {
        free(body);
        return MHD_NO;
    }
    headers_add(x->http, response);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    if (x->allow)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, x->allow);
    if (status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (status == 503)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    result = MHD_queue_response(x->connection, status, response);
    MHD_destroy_response(response);
    return result;
}

// Keeps what will be answered when the body has been read. The first refusal stays.
static void refuse(struct exchange *x, unsigned status, const char *code, const char *message)
{
    if (x->status != 0)
        return;
    x->status = status;
    x->refusal = answer_error(status, message, code, NULL);
}

// ---- routes -------------------------------------------------------------------------------------------

static enum MHD_Result wait_for_core(struct exchange *x, struct reply *reply, int sent)
{
    if (sent != 0) {
        reply_drop(reply);
        return answer_now(
            x, 503,
            answer_error(503, "the server is too busy or stopping; try again", "busy", NULL));
    }
    x->reply = reply;
    return reply_serve(reply, headers_add, x->http);
}

static enum MHD_Result run_generate(struct exchange *x, enum parse_kind kind)
{
    struct core_message m = {.what = CORE_REQUEST};
    struct parse_request in;
    struct parse_fault fault;
    struct reply *reply;
    int rc = parse_request(kind, x->body.data ? (const char *)x->body.data : "", x->body.len, &in,
                           &fault);

    x->http->bodies_bytes -= x->body.len;
    buf_fini(&x->body);
    buf_init(&x->body, GATEWAY_BODY_MAX);
    if (rc != 0) {
        parse_request_fini(&in);
        return answer_now(x, (unsigned)fault.status,
                          answer_error((unsigned)fault.status, fault.e.message,
                                       err_name(fault.e.code), fault.param));
    }
    reply = reply_new(x->connection);
    m.request = request_new(&in, reply);
    rc = core_send(x->http->core, &m, 0);
    if (rc != 0)
        request_free(m.request);
    return wait_for_core(x, reply, rc);
}

static enum MHD_Result run_chat(struct exchange *x)
{
    return run_generate(x, PARSE_CHAT);
}

static enum MHD_Result run_text(struct exchange *x)
{
    return run_generate(x, PARSE_TEXT);
}

static enum MHD_Result run_query(struct exchange *x, enum query_kind kind)
{
    struct reply *reply = reply_new(x->connection);
    struct core_message m = {.what = CORE_QUERY, .query = query_new(kind, reply, x->rest)};
    int rc = core_send(x->http->core, &m, 0);

    if (rc != 0)
        query_free(m.query);
    return wait_for_core(x, reply, rc);
}

static enum MHD_Result run_models(struct exchange *x)
{
    return run_query(x, QUERY_MODELS);
}

static enum MHD_Result run_model(struct exchange *x)
{
    return run_query(x, QUERY_MODEL);
}

static enum MHD_Result run_status(struct exchange *x)
{
    return run_query(x, QUERY_STATUS);
}

static enum MHD_Result run_health(struct exchange *x)
{
    const char *value;
    size_t n;

    // "?verbose", with or without a value.
    if (MHD_lookup_connection_value_n(x->connection, MHD_GET_ARGUMENT_KIND, "verbose", 7, &value,
                                      &n) == MHD_YES)
        return run_query(x, QUERY_STATUS);
    return run_query(x, QUERY_HEALTH);
}

static const struct route routes[] = {
    {"/chat/completions", true, run_chat}, {"/completions", true, run_text},
    {"/models", false, run_models},        {"/models/", false, run_model},
    {"/health", false, run_health},        {"/tandem/status", false, run_status},
};
#define N_ROUTES (sizeof(routes) / sizeof(routes[0]))

static const struct route *route_find(const char *url, const char **rest)
{
    const char *path = strncmp(url, "/v1/", 4) == 0 ? url + 3 : url;

    for (size_t i = 0; i < N_ROUTES; i++) {
        size_t n = strlen(routes[i].path);

        *rest = path + n;
        if (strcmp(path, routes[i].path) == 0 && routes[i].path[n - 1] != '/')
            return &routes[i];
        if (routes[i].path[n - 1] == '/' && strncmp(path, routes[i].path, n) == 0 && path[n])
            return &routes[i];
    }
    return NULL;
}

static void refuse_route(struct exchange *x, const char *url)
{
    struct buf text;

    buf_init(&text, 4096);
    buf_printf(&text, "there is no route %.200s here; there are:", url);
    for (size_t i = 0; i < N_ROUTES; i++)
        buf_printf(&text, " %s /v1%s%s", routes[i].post ? "POST" : "GET", routes[i].path,
                   routes[i].run == run_model ? "{id}" : "");
    buf_puts(&text, "; each also without /v1");
    refuse(x, 404, "no_such_route", (const char *)text.data);
    buf_fini(&text);
}

static void route_check(struct exchange *x, const char *url, const char *method)
{
    bool get = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    char message[128];

    if (!x->route) {
        refuse_route(x, url);
    } else if (x->route->post ? strcmp(method, "POST") != 0 : !get) {
        x->allow = x->route->post ? "POST" : "GET, HEAD";
        snprintf(message, sizeof(message), "%.20s is not a method of this route; use %s", method,
                 x->allow);
        refuse(x, 405, "method_not_allowed", message);
    }
}

// ---- who may ask ----------------------------------------------------------------------------------------

static const char *header(struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

// Takes the same time wherever the first difference is.
static bool same_secret(const char *a, const char *b)
{
    size_t n = strlen(b);
    unsigned char difference = strlen(a) != n;

    for (size_t i = 0; i < n && *a; i++, a++)
        difference |= (unsigned char)(*a ^ b[i]);
    return difference == 0;
}

static void key_check(struct exchange *x)
{
    const char *key = x->http->options->api_key;
    const char *given = header(x, MHD_HTTP_HEADER_AUTHORIZATION);

    if (!key || (x->route && x->route->run == run_health))
        return;
    if (!given || strncasecmp(given, "Bearer ", 7) != 0 || !same_secret(given + 7, key))
        refuse(x, 401, "invalid_api_key",
               "this server wants its API key as \"Authorization: Bearer KEY\"");
}

static bool is_loopback_host(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};

    for (size_t i = 0; i < 3; i++) {
        size_t n = strlen(names[i]);

        if (strncasecmp(host, names[i], n) == 0 && (host[n] == ':' || host[n] == '\0'))
            return true;
    }
    return false;
}

// A browser sends Origin for a page's requests. Without this, any page that the user looks at could
// use a server on the same machine, also by a name that it lets point at 127.0.0.1.
static void origin_check(struct exchange *x)
{
    const struct gateway_options *o = x->http->options;
    const char *origin = header(x, MHD_HTTP_HEADER_ORIGIN), *host = header(x, MHD_HTTP_HEADER_HOST);
    const char *origin_host = origin ? strstr(origin, "://") : NULL;

    if (!origin || o->cors)
        return;
    if (origin_host && host && strcasecmp(origin_host + 3, host) == 0 &&
        (o->api_key || is_loopback_host(host)))
        return;
    refuse(x, 403, "origin_refused",
           "requests of web pages from other origins are refused; start the server with --cors to "
           "allow them");
}

// What a browser asks before a page's request.
static bool preflight(struct exchange *x, const char *method)
{
    if (strcmp(method, "OPTIONS") != 0 || !x->http->options->cors)
        return false;
    x->status = 204;
    return true;
}

static enum MHD_Result answer_preflight(struct exchange *x)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    enum MHD_Result result;

    headers_add(x->http, response);
    MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    MHD_add_response_header(response, "Access-Control-Allow-Headers",
                            "Authorization, Content-Type");
    MHD_add_response_header(response, "Access-Control-Max-Age", "86400");
    result = MHD_queue_response(x->connection, 204, response);
    MHD_destroy_response(response);
    return result;
}

// ---- bodies -----------------------------------------------------------------------------------------------

static void refuse_size(struct exchange *x)
{
    char message[128];

    snprintf(message, sizeof(message),
             "the body is larger than %u bytes, the most this server takes", GATEWAY_BODY_MAX);
    refuse(x, 413, "body_too_large", message);
}

// A client that asks before it sends a large body is told right away.
static bool announced_too_large(struct exchange *x)
{
    const char *length = header(x, MHD_HTTP_HEADER_CONTENT_LENGTH);

    return length && strtoull(length, NULL, 10) > GATEWAY_BODY_MAX;
}

// False: the connection is to be cut.
static bool body_take(struct exchange *x, const char *data, size_t n)
{
    struct http *h = x->http;

    if (x->body.len + n > GATEWAY_BODY_MAX)
        refuse_size(x);
    else if (h->bodies_bytes + n > HTTP_BODIES_MAX)
        refuse(x, 503, "busy", "too many large requests are being read; try again");
    if (x->status != 0) {
        h->bodies_bytes -= x->body.len;
        buf_fini(&x->body);
        buf_init(&x->body, GATEWAY_BODY_MAX);
        x->drained_bytes += n;
        return x->drained_bytes <= HTTP_DRAIN_MAX;
    }
    h->bodies_bytes += n;
    return buf_put(&x->body, data, n) == 0;
}

// ---- libmicrohttpd's callbacks ----------------------------------------------------------------------------

static struct exchange *exchange_new(struct http *h, struct MHD_Connection *connection)
{
    struct exchange *x = mem_alloc(sizeof(*x));

    x->http = h;
    x->connection = connection;
    buf_init(&x->body, GATEWAY_BODY_MAX);
    atomic_fetch_add_explicit(&h->n_open, 1, memory_order_relaxed);
    return x;
}

static enum MHD_Result exchange_answer(struct exchange *x)
{
    char *body = x->refusal;

    if (x->status == 204)
        return answer_preflight(x);
    x->refusal = NULL;
    return answer_now(x, x->status, body);
}

// All that can be decided from the head of a request is decided before its body is kept.
static enum MHD_Result exchange_begin(struct exchange *x, const char *url, const char *method)
{
    const char *expect = header(x, MHD_HTTP_HEADER_EXPECT);

    x->route = route_find(url, &x->rest);
    if (!preflight(x, method)) {
        key_check(x);
        origin_check(x);
        route_check(x, url, method);
    }
    if (announced_too_large(x))
        refuse_size(x);
    if (expect && x->status != 0)
        return exchange_answer(x);
    return MHD_YES;
}

static enum MHD_Result on_access(void *ctx, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *data,
                                 size_t *data_bytes, void **request_ctx)
{
    struct exchange *x = *request_ctx;
    size_t n = *data_bytes;

    (void)version;
    if (!x) {
        x = exchange_new(ctx, connection);
        *request_ctx = x;
        return exchange_begin(x, url, method);
    }
    if (n > 0) {
        *data_bytes = 0;
        return body_take(x, data, n) ? MHD_YES : MHD_NO;
    }
    if (x->reply)
        return reply_serve(x->reply, headers_add, x->http);
    if (x->status != 0)
        return exchange_answer(x);
    return x->route->run(x);
}

static void on_completed(void *ctx, struct MHD_Connection *connection, void **request_ctx,
                         enum MHD_RequestTerminationCode how)
{
    struct http *h = ctx;
    struct exchange *x = *request_ctx;

    (void)connection;
    (void)how;
    if (!x)
        return;
    if (x->reply) {
        reply_detach(x->reply);
        reply_drop(x->reply);
    }
    h->bodies_bytes -= x->body.len;
    buf_fini(&x->body);
    free(x->refusal);
    free(x);
    *request_ctx = NULL;
    atomic_fetch_sub_explicit(&h->n_open, 1, memory_order_relaxed);
}

static void on_log(void *ctx, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));

static void on_log(void *ctx, const char *format, va_list args)
{
    char line[256];

    (void)ctx;
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = '\0';
    log_debug("http", "%s", line);
}

// ---- starting and stopping ------------------------------------------------------------------------------------

int http_start(const struct gateway_options *o, struct core *core, int listen_fd, struct http **out,
               struct err *e)
{
    struct http *h = mem_alloc(sizeof(*h));

    h->options = o;
    h->core = core;
    h->daemon = MHD_start_daemon(
        MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_access, h, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, listen_fd,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, h, MHD_OPTION_CONNECTION_TIMEOUT, HTTP_IDLE_S,
        MHD_OPTION_CONNECTION_LIMIT, HTTP_CONNECTIONS_MAX, MHD_OPTION_END);
    if (h->daemon) {
        *out = h;
        return 0;
    }
    close(listen_fd);
    free(h);
    return err_set(e, ERR_IO, "the HTTP server cannot start (libmicrohttpd %s)", MHD_get_version());
}

void http_stop(struct http *h)
{
    int64_t deadline_ns = clock_now_ns() + HTTP_FLUSH_NS;

    while (atomic_load_explicit(&h->n_open, memory_order_relaxed) > 0 &&
           clock_now_ns() < deadline_ns)
        clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    MHD_stop_daemon(h->daemon);
    free(h);
}
