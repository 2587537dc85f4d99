// HTTP: libmicrohttpd's callbacks, bodies, and what every answer carries. Private to gateway/.
//
// One thread, libmicrohttpd's own, runs everything here but http_start and http_stop, and with it the
// routes (route.h) and who may use them (access.h). A request is judged by its head, read whole, and
// run by its route; most routes send a message to the core, and their connection then sleeps until
// its reply has bytes.
#ifndef GATEWAY_HTTP_H
#define GATEWAY_HTTP_H

#include "base/buf.h"
#include "base/err.h"
#include "gateway/core.h"
#include "node/message.h"

#include <microhttpd.h>

#define HTTP_BODIES_MAX (256u << 20) // bytes of all bodies being read at one time
// A body that is too large is read to here, so that the client gets to see the answer; then the
// connection is cut.
#define HTTP_DRAIN_MAX (1u << 30)
#define HTTP_IDLE_S 60 // a client that moves no byte for this long is cut
#define HTTP_CONNECTIONS_MAX 16384
// For a connection's head and its answer's: four lines of 8 KB fit, as with other servers, and 32 KB of lines of 250
// bytes (each takes 60 more). One that has had a request keeps all of it, so 5,000 idle ones take 220 MB.
#define HTTP_CONNECTION_BYTES (44u << 10)
#define HTTP_FILES_OTHER 128   // descriptors besides those of connections and requests
#define HTTP_FLUSH_NS NS_PER_S // at the end: for last bytes to leave

struct access;
struct access_key;
struct http;
struct http_form;
struct image_jobs;
struct image_upstreams;
struct images;
struct route;
struct tuning;

// One request as the HTTP thread sees it.
struct exchange {
    struct http *http;
    const struct gateway_options *options;
    const struct access *access;
    struct core *core;
    struct tuning *tuning;
    struct images *images;                   // NULL: this server draws none
    struct image_upstreams *image_upstreams; // others that draw; there may be none
    struct image_jobs *image_jobs;
    struct MHD_Connection *connection;
    const struct route *route;    // NULL: there is none for its path and method
    const char *url;              // its path
    const char *rest;             // of the path, after a route that ends in '/'
    const struct access_key *key; // NULL: none given, or none demanded
    bool admin;                   // its key, or that there is none, lets it see and do everything
    char owner[MESSAGE_OWNER_BYTES];   // whose prefixes it may share
    char request_id[REQUEST_ID_BYTES]; // the client's, or one made here
    int64_t begun_ns;
    char method[8];
    unsigned answered; // the status that was sent without the core
    bool chat;         // it counts among those that pictures wait for
    struct buf body;
    struct http_form *form; // of a route that takes its body piece by piece; owned
    uint64_t drained_bytes;
    struct reply *reply; // once the core has it
    // Decided before the body was read; status 0: nothing yet.
    unsigned status;
    char *refusal;  // owned
    char allow[48]; // the Allow header, "": none
};

// What it works with; all of it must outlive it.
struct http_parts {
    const struct gateway_options *options;
    const struct access *access;
    struct core *core;
    struct tuning *tuning;
    struct images *images;
    struct image_upstreams *image_upstreams;
    struct image_jobs *image_jobs;
};

// Takes the listening socket, also on failure.
int http_start(const struct http_parts *parts, int listen_fd, struct http **out, struct err *e);
// After core_stop: every reply has its end by then. Waits a moment for last bytes to leave.
void http_stop(struct http *h);

// ---- for routes -------------------------------------------------------------------------------------

// A header of the request, or NULL.
const char *http_header(const struct exchange *x, const char *name);
// True for "?name" and "?name=value".
bool http_has_argument(const struct exchange *x, const char *name);
// The value of "?name=value", or NULL.
const char *http_argument(const struct exchange *x, const char *name);
// The same as a whole number within limits; absent leaves *out. ERR_INVALID names the argument.
int http_argument_number(const struct exchange *x, const char *name, int64_t min, int64_t max,
                         int64_t *out, struct err *e);
// "ID" or "ID/WORD" behind the route: copies the id, returns the word ("": none), or NULL for an id that is none.
const char *http_id_take(const struct exchange *x, char *id, size_t cap);
// The body, never NULL; it lives until http_body_drop.
const char *http_body(const struct exchange *x, size_t *n);
void http_body_drop(struct exchange *x);
// Answers at once, as application/json. Takes the text.
enum MHD_Result http_answer(struct exchange *x, unsigned status, char *body);
// Answers 200 with a file's bytes. Takes the descriptor.
enum MHD_Result http_answer_file(struct exchange *x, int fd, uint64_t bytes, const char *type);
// The end of a route that sent a message to the core with the reply's one reference; `sent` is what
// core_send said. Sleeps until the core answers, or tells the client that the server is busy.
enum MHD_Result http_await(struct exchange *x, struct reply *reply, int sent);
// Begins the page of metrics with what HTTP knows.
void http_metrics_put(const struct exchange *x, struct buf *out);
// Keeps what will be answered when the body has been read. The first refusal stays.
void http_refuse(struct exchange *x, unsigned status, const char *code, const char *message);

#endif
