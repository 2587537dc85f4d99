// The form of /images/edits, of any bytes: refused with words, or fields and files that keep their limits. The
// first byte chooses the content type; the rest is the form.
//
// The library that takes forms apart wants a connection, out of whose head it reads that type. So there is one for
// each, over a pair of sockets: a request whose body never comes, and which is never answered.
#include "base/json.h"
#include "gateway/images.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TURNS_MAX 1000 // of the server's loop until a head is read

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char *const types[] = {
    "multipart/form-data; boundary=xx",
    "multipart/form-data; boundary=\"x y\"",
    "application/x-www-form-urlencoded",
};
#define N_TYPES (sizeof(types) / sizeof(types[0]))

static void need(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_form: %s\n", what);
    abort();
}

// ---- a connection ----------------------------------------------------------------------------------

static enum MHD_Result head_seen(void *ctx, struct MHD_Connection *connection, const char *url,
                                 const char *method, const char *version, const char *data,
                                 size_t *n, void **request)
{
    struct MHD_Connection **out = ctx;

    (void)url;
    (void)method;
    (void)version;
    (void)data;
    (void)n;
    (void)request;
    *out = connection;
    return MHD_YES;
}

static struct MHD_Connection *connection_make(const char *type)
{
    static struct MHD_Connection *made; // by the last call
    const struct sockaddr_in from = {.sin_family = AF_INET};
    char head[200];
    int ends[2];
    struct MHD_Daemon *d =
        MHD_start_daemon(MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, head_seen, &made, MHD_OPTION_END);
    int n = snprintf(head, sizeof(head),
                     "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: 1\r\n\r\n",
                     type);

    made = NULL;
    need(d && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "no server");
    need(write(ends[1], head, (size_t)n) == n, "the head does not fit");
    need(MHD_add_connection(d, ends[0], (const struct sockaddr *)&from, sizeof(from)) == MHD_YES,
         "no connection");
    for (int i = 0; i < TURNS_MAX && !made; i++)
        need(MHD_run(d) == MHD_YES, "the server does not run");
    need(made != NULL, "the head was not read");
    return made;
}

// ---- a form ------------------------------------------------------------------------------------------

static void form(struct MHD_Connection *connection, const char *text, size_t n)
{
    const struct image_model m = {
        .layout = "fuzz", .multiple = 8, .side = 64, .steps = 4, .cfg = 1, .edits = true};
    const struct images_known known = {.model = &m, .name = "fuzz", .file = "/models/fuzz.gguf"};
    struct images_ask ask = {0};
    struct parse_fault fault = {0};
    json_t *body = NULL;
    int rc = images_form_parse(connection, text, n, &body, &ask, &fault);

    need((rc == 0) == (body != NULL), "a body beside a complaint");
    need(ask.image.len + ask.mask.len <= n, "files larger than the form");
    if (rc == 0)
        rc = images_ask_parse(body, true, &known, &ask, &fault);
    need(rc == 0 || (fault.e.message[0] && fault.status >= 400), "refused without words");
    if (rc == 0) {
        need(ask.request.count >= 1 && ask.request.count <= IMAGE_COUNT_MAX, "n");
        need(ask.request.steps >= 1 && ask.request.steps <= IMAGE_STEPS_MAX, "steps");
        need((uint64_t)ask.request.width * ask.request.height <= IMAGE_PIXELS_MAX, "size");
        need(ask.request.prompt[0] != '\0', "an empty prompt");
        need(ask.image.data != NULL, "an edit of nothing");
    }
    images_ask_fini(&ask);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct MHD_Connection *made[N_TYPES]; // never closed
    size_t i;

    if (n == 0)
        return 0;
    i = data[0] % N_TYPES;
    if (!made[i])
        made[i] = connection_make(types[i]);
    form(made[i], (const char *)data + 1, n - 1);
    return 0;
}
