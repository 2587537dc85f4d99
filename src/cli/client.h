// A client of a running server, for the commands that talk to one. Private to cli/.
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include "base/err.h"

#include <jansson.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#define CLIENT_SERVER "http://127.0.0.1:8080"
#define CLIENT_BODY_MAX (16u << 20) // bytes of an answer, or of one event of a stream

struct client {
    const char *server;  // "http://host:port", or "host:port"
    const char *api_key; // NULL: none
};

// GET PATH. 0 and a new reference; an HTTP error is an error with the server's own words.
int client_get(const struct client *c, const char *path, json_t **out, struct err *e);

// POST PATH with a JSON body; the rest as client_get, with more patience.
int client_post(const struct client *c, const char *path, const json_t *body, json_t **out,
                struct err *e);

// DELETE PATH; the rest as client_get.
int client_delete(const struct client *c, const char *path, json_t **out, struct err *e);

// GET PATH, whose answer is a file; caller frees *data.
int client_file(const struct client *c, const char *path, uint8_t **data, size_t *len,
                struct err *e);

// POST PATH (GET, where the body is NULL) with an event stream as the answer. Each event's JSON goes to on_event (borrowed), each comment
// line, without its colon, to on_comment (NULL: nobody listens); the call ends early with ERR_CANCELLED when
// *stop becomes non-zero, which closes the connection, or when on_event returns an error.
struct client_stream {
    const char *path;
    const json_t *body;
    int (*on_event)(void *ctx, const json_t *event, struct err *e);
    void (*on_comment)(void *ctx, const char *text);
    void *ctx;
    volatile sig_atomic_t *stop;
};
int client_stream(const struct client *c, const struct client_stream *s, struct err *e);

#endif
