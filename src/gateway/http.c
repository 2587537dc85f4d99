#include "gateway/http.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "gateway/access.h"
#include "gateway/dialect.h"
#include "gateway/images.h"
#include "gateway/route.h"
#include "os/os.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define COUNTS_MAX 512
#define ID_RANDOM_BYTES 12

static const double seconds_bounds[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300};

// How often a route's requests ended with a status. A path that no route has counts as "".
struct http_count {
    const char *path;
    unsigned status;
    uint64_t n;
};

struct http {
    struct http_parts parts;
    struct MHD_Daemon *daemon;
    // libmicrohttpd's thread only.
    size_t bodies_bytes;
    struct http_count counts[COUNTS_MAX];
    size_t n_counts;
    struct metric_histogram seconds;
    unsigned connections_max; // immutable
    _Atomic int n_open;       // relaxed: only its reaching 0 counts, at the end
};

// ---- answers that need no core ------------------------------------------------------------------------

static void headers_add(void *ctx, struct MHD_Response *response)
{
    struct exchange *x = ctx;

    const struct dialect *d = x->route ? x->route->dialect : NULL;

    MHD_add_response_header(response, "X-Request-Id", x->request_id);
    // Anthropic's clients look for it by this name.
    if (d == &dialect_messages || d == &dialect_count)
        MHD_add_response_header(response, "request-id", x->request_id);
    if (!x->options->cors)
        return;
    MHD_add_response_header(response, "Access-Control-Allow-Origin", "*");
    MHD_add_response_header(response, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
}

enum MHD_Result http_answer(struct exchange *x, unsigned status, char *body)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(body), body, MHD_RESPMEM_MUST_FREE);
    enum MHD_Result result;

    if (!response) {
        free(body);
        return MHD_NO;
    }
    x->answered = status;
    headers_add(x, response);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    if (x->allow[0])
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, x->allow);
    if (status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (status == 503)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    result = MHD_queue_response(x->connection, status, response);
    MHD_destroy_response(response);
    return result;
}

void http_refuse(struct exchange *x, unsigned status, const char *code, const char *message)
{
    if (x->status != 0)
        return;
    x->status = status;
    x->refusal = route_error(x, status, code, NULL, message);
}

enum MHD_Result http_await(struct exchange *x, struct reply *reply, int sent)
{
    static const char busy[] = "the server is too busy or stopping; try again";

    if (sent != 0) {
        reply_drop(reply);
        return http_answer(x, 503, route_error(x, 503, "busy", NULL, busy));
    }
    x->reply = reply;
    return reply_serve(reply, headers_add, x);
}

enum MHD_Result http_answer_file(struct exchange *x, int fd, uint64_t bytes, const char *type)
{
    struct MHD_Response *response = MHD_create_response_from_fd64(bytes, fd);
    enum MHD_Result result;

    if (!response) {
        close(fd);
        return MHD_NO;
    }
    x->answered = 200;
    headers_add(x, response);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    result = MHD_queue_response(x->connection, 200, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result answer_preflight(struct exchange *x)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT);
    enum MHD_Result result;

    headers_add(x, response);
    MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS");
    MHD_add_response_header(response, "Access-Control-Allow-Headers", "*, Authorization");
    MHD_add_response_header(response, "Access-Control-Max-Age", "86400");
    result = MHD_queue_response(x->connection, 204, response);
    MHD_destroy_response(response);
    return result;
}

// ---- what a request says --------------------------------------------------------------------------------

const char *http_header(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

bool http_has_argument(const struct exchange *x, const char *name)
{
    const char *value;
    size_t n;

    return MHD_lookup_connection_value_n(x->connection, MHD_GET_ARGUMENT_KIND, name, strlen(name),
                                         &value, &n) == MHD_YES;
}

const char *http_argument(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, name);
}

int http_argument_number(const struct exchange *x, const char *name, int64_t min, int64_t max,
                         int64_t *out, struct err *e)
{
    const char *text = http_argument(x, name);
    char *end;
    long long v;

    if (!text)
        return 0;
    v = strtoll(text, &end, 10);
    if (end == text || *end || v < min || v > max)
        return err_set(e, ERR_INVALID, "'%s' must be a whole number from %lld to %lld (got %.40s)",
                       name, (long long)min, (long long)max, text);
    *out = v;
    return 0;
}

const char *http_id_take(const struct exchange *x, char *id, size_t cap)
{
    size_t n = strcspn(x->rest, "/");

    if (n == 0 || n >= cap)
        return NULL;
    memcpy(id, x->rest, n);
    id[n] = '\0';
    return x->rest[n] ? x->rest + n + 1 : "";
}

const char *http_body(const struct exchange *x, size_t *n)
{
    *n = x->body.len;
    return x->body.data ? (const char *)x->body.data : "";
}

void http_body_drop(struct exchange *x)
{
    x->http->bodies_bytes -= x->body.len;
    buf_fini(&x->body);
    buf_init(&x->body, GATEWAY_BODY_MAX);
}

// ---- bodies -----------------------------------------------------------------------------------------------

static void refuse_size(struct exchange *x)
{
    char message[128];

    snprintf(message, sizeof(message),
             "the body is larger than %u bytes, the most this server takes", GATEWAY_BODY_MAX);
    http_refuse(x, 413, "body_too_large", message);
}

// A client that asks before it sends a large body is told right away.
static bool announced_too_large(struct exchange *x)
{
    const char *length = http_header(x, MHD_HTTP_HEADER_CONTENT_LENGTH);

    return length && !(x->route && x->route->take) && strtoull(length, NULL, 10) > GATEWAY_BODY_MAX;
}

// Nothing is unpacked here: a small body could become a very large one.
static void encoding_check(struct exchange *x)
{
    const char *encoding = http_header(x, MHD_HTTP_HEADER_CONTENT_ENCODING);
    char message[160];

    if (!encoding || strcasecmp(encoding, "identity") == 0)
        return;
    snprintf(message, sizeof(message),
             "a body with Content-Encoding %.40s is not taken; send it uncompressed", encoding);
    http_refuse(x, 415, "encoding_unsupported", message);
}

// False: the connection is to be cut.
static bool body_take(struct exchange *x, const char *data, size_t n)
{
    struct http *h = x->http;

    if (x->body.len + n > GATEWAY_BODY_MAX)
        refuse_size(x);
    else if (h->bodies_bytes + n > HTTP_BODIES_MAX)
        http_refuse(x, 503, "busy", "too many large requests are being read; try again");
    if (x->status != 0) {
        http_body_drop(x);
        x->drained_bytes += n;
        return x->drained_bytes <= HTTP_DRAIN_MAX;
    }
    h->bodies_bytes += n;
    return buf_put(&x->body, data, n) == 0;
}

// ---- libmicrohttpd's callbacks ----------------------------------------------------------------------------

// The client's own where it is harmless in a header and a log, else a random one.
static void request_id_set(struct exchange *x)
{
    static const char good[] = "0123456789-_.:ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const char *given = http_header(x, "X-Request-Id");
    size_t n = given ? strlen(given) : 0;
    uint8_t random[ID_RANDOM_BYTES];

    if (n > 0 && n < sizeof(x->request_id) && strspn(given, good) == n) {
        memcpy(x->request_id, given, n + 1);
        return;
    }
    os_random(random, sizeof(random));
    hex_encode(random, sizeof(random), x->request_id);
}

static struct exchange *exchange_new(struct http *h, struct MHD_Connection *connection,
                                     const char *url)
{
    struct exchange *x = mem_alloc(sizeof(*x));

    x->http = h;
    x->options = h->parts.options;
    x->access = h->parts.access;
    x->core = h->parts.core;
    x->tuning = h->parts.tuning;
    x->images = h->parts.images;
    x->image_upstreams = h->parts.image_upstreams;
    x->image_jobs = h->parts.image_jobs;
    x->connection = connection;
    x->url = url;
    x->begun_ns = clock_now_ns();
    request_id_set(x);
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
    return http_answer(x, x->status, body);
}

// All that can be decided from the head of a request is decided before its body is kept.
static enum MHD_Result exchange_begin(struct exchange *x, const char *method)
{
    snprintf(x->method, sizeof(x->method), "%s", method);
    route_find(x, method);
    if (access_preflight(x, method)) {
        x->status = 204;
    } else {
        access_check(x->http->parts.access, x);
        if (!x->route)
            route_refuse(x, method);
    }
    encoding_check(x);
    if (announced_too_large(x))
        refuse_size(x);
    if (http_header(x, MHD_HTTP_HEADER_EXPECT) && x->status != 0)
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
        x = exchange_new(ctx, connection, url);
        *request_ctx = x;
        return exchange_begin(x, method);
    }
    if (n > 0) {
        *data_bytes = 0;
        if (x->status == 0 && x->route->take) {
            x->route->take(x, data, n);
            return MHD_YES;
        }
        return body_take(x, data, n) ? MHD_YES : MHD_NO;
    }
    if (x->reply)
        return reply_serve(x->reply, headers_add, x);
    if (x->status != 0)
        return exchange_answer(x);
    return x->route->run(x);
}

static void status_count(struct http *h, const struct exchange *x, unsigned status)
{
    const char *path = x->route ? x->route->path : "";
    size_t i = 0;

    while (i < h->n_counts && (h->counts[i].path != path || h->counts[i].status != status))
        i++;
    if (i == COUNTS_MAX)
        return;
    if (i == h->n_counts)
        h->counts[h->n_counts++] = (struct http_count){path, status, 0};
    h->counts[i].n++;
}

// One line per request, without its query string, body or key. Probes would only fill the log.
static void exchange_log(const struct exchange *x, unsigned status, double seconds)
{
    bool quiet = x->route && x->route->scopes == ACCESS_FREE;

    log_write(quiet ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, "http",
              "request: method=%s path=%.200s status=%u seconds=%.4f request_id=%s key=%s",
              x->method, x->url, status, seconds, x->request_id, x->key ? x->key->name : "-");
}

static void exchange_end(struct exchange *x)
{
    unsigned status = x->answered;
    double seconds = ns_to_s(clock_now_ns() - x->begun_ns);

    if (x->reply) {
        status = reply_detach(x->reply);
        reply_drop(x->reply);
    }
    if (x->chat)
        images_chats(x->images, -1);
    status_count(x->http, x, status);
    metric_observe(&x->http->seconds, seconds);
    exchange_log(x, status, seconds);
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
    exchange_end(x);
    h->bodies_bytes -= x->body.len;
    buf_fini(&x->body);
    route_form_free(x->form);
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

// Asked of the connection: the thread that starts the daemon may not have noted it yet.
static unsigned connections_count(const struct exchange *x)
{
    const union MHD_ConnectionInfo *c =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_DAEMON);
    const union MHD_DaemonInfo *d =
        c ? MHD_get_daemon_info(c->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS) : NULL;

    return d ? d->num_connections : 0;
}

void http_metrics_put(const struct exchange *x, struct buf *out)
{
    static const char name[] = "tandem_http_requests_total";
    const struct http *h = x->http;
    char status[16];

    metric_family(out, name, "counter",
                  "HTTP requests by route and status; 0: the client left before it had one.");
    for (size_t i = 0; i < h->n_counts; i++) {
        struct metric_label labels[] = {{"route", h->counts[i].path}, {"status", status}};

        snprintf(status, sizeof(status), "%u", h->counts[i].status);
        metric_sample(out, name, labels, 2, (double)h->counts[i].n);
    }
    metric_histogram_put(out, "tandem_http_request_duration_seconds",
                         "From a request's head to its answer's last byte.", &h->seconds);
    metric_single(out, "tandem_http_connections", "gauge", "Open connections.",
                  connections_count(x));
}

// What is no HTTP, or has a head that is too long, libmicrohttpd refuses by itself (400, 414, 431, 505), with a page of
// HTML: it has no call that would let somebody else say it.
static struct MHD_Daemon *daemon_start(struct http *h, int listen_fd)
{
    return MHD_start_daemon(
        // epoll where there is one: idle connections and sleeping streams then cost no time.
        MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
        on_access, h, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, listen_fd,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, h, MHD_OPTION_CONNECTION_TIMEOUT, HTTP_IDLE_S,
        MHD_OPTION_CONNECTION_LIMIT, h->connections_max, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)HTTP_CONNECTION_BYTES, MHD_OPTION_END);
}

// Every connection takes a descriptor, and every request another one (reply.h).
static unsigned connections_limit(const struct gateway_options *o)
{
    uint64_t other = (uint64_t)o->max_requests + HTTP_FILES_OTHER;
    uint64_t files = os_files_raise(HTTP_CONNECTIONS_MAX + other);

    if (files >= HTTP_CONNECTIONS_MAX + other)
        return HTTP_CONNECTIONS_MAX;
    return files > other + 64 ? (unsigned)(files - other) : 64;
}

int http_start(const struct http_parts *parts, int listen_fd, struct http **out, struct err *e)
{
    struct http *h = mem_alloc(sizeof(*h));

    h->parts = *parts;
    h->connections_max = connections_limit(parts->options);
    metric_histogram_init(&h->seconds, seconds_bounds,
                          sizeof(seconds_bounds) / sizeof(seconds_bounds[0]));
    h->daemon = daemon_start(h, listen_fd);
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
