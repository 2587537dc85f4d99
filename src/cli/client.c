#include "cli/client.h"

#include "base/buf.h"
#include "base/json.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_S 5L
#define GET_S 10L
#define POST_S 60L
#define COMMENT_BYTES 256

// One transfer in progress.
struct transfer {
    CURL *curl;
    struct curl_slist *headers;
    char url[1024];
    struct buf body;                    // a whole answer, or the part of an event that has come
    const struct client_stream *stream; // NULL: the answer is wanted whole
    struct err *e;
    int rc;
};

static bool is_error(struct transfer *t)
{
    long status = 0;

    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    return status >= 400;
}

static void comment_handle(struct transfer *t, const char *text, size_t n)
{
    char comment[COMMENT_BYTES];

    if (!t->stream->on_comment)
        return;
    snprintf(comment, sizeof(comment), "%.*s", n < COMMENT_BYTES ? (int)n : COMMENT_BYTES - 1,
             text);
    t->stream->on_comment(t->stream->ctx, comment);
}

// "data: {...}" or ": comment"; blank lines and the closing [DONE] say nothing.
static int line_handle(struct transfer *t, const char *line, size_t n)
{
    json_t *event;
    int rc;

    if (n > 0 && line[0] == ':')
        comment_handle(t, line + 1, n - 1);
    if (n < 6 || memcmp(line, "data: ", 6) != 0 || (n >= 12 && memcmp(line + 6, "[DONE]", 6) == 0))
        return 0;
    event = json_parse(line + 6, n - 6, t->e);
    if (!event)
        return t->e->code;
    rc = t->stream->on_event(t->stream->ctx, event, t->e);
    json_decref(event);
    return rc;
}

static int lines_handle(struct transfer *t)
{
    uint8_t *end;

    while (t->body.len > 0 && (end = memchr(t->body.data, '\n', t->body.len)) != NULL) {
        size_t n = (size_t)(end - t->body.data);
        int rc = line_handle(t, (const char *)t->body.data, n);

        if (rc != 0)
            return rc;
        buf_consume(&t->body, n + 1);
    }
    return 0;
}

static size_t on_data(char *data, size_t size, size_t n, void *ctx)
{
    struct transfer *t = ctx;

    t->rc = buf_put(&t->body, data, size * n);
    if (t->rc != 0)
        err_set(t->e, t->rc, "the server's answer is larger than %u bytes", CLIENT_BODY_MAX);
    else if (t->stream && !is_error(t))
        t->rc = lines_handle(t);
    return t->rc == 0 ? size * n : 0;
}

static int on_progress(void *ctx, curl_off_t a, curl_off_t b, curl_off_t u, curl_off_t v)
{
    struct transfer *t = ctx;

    (void)a, (void)b, (void)u, (void)v;
    return t->stream && t->stream->stop && *t->stream->stop;
}

static int transfer_open(struct transfer *t, const struct client *c, const char *path,
                         struct err *e)
{
    bool bare = !strstr(c->server, "://");
    size_t n = strlen(c->server);
    char *key;

    memset(t, 0, sizeof(*t));
    t->e = e;
    buf_init(&t->body, CLIENT_BODY_MAX);
    t->curl = curl_easy_init();
    if (!t->curl)
        return err_set(e, ERR_IO, "libcurl cannot be started");
    while (n > 0 && c->server[n - 1] == '/')
        n--;
    snprintf(t->url, sizeof(t->url), "%s%.*s%s", bare ? "http://" : "", (int)n, c->server, path);
    if (c->api_key) {
        key = mem_format("Authorization: Bearer %s", c->api_key);
        t->headers = curl_slist_append(t->headers, key);
        free(key);
    }
    curl_easy_setopt(t->curl, CURLOPT_URL, t->url);
    curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->curl, CURLOPT_PROXY, ""); // the server is ours, and near
    curl_easy_setopt(t->curl, CURLOPT_CONNECTTIMEOUT, CONNECT_S);
    curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(t->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(t->curl, CURLOPT_XFERINFODATA, t);
    return 0;
}

static void transfer_close(struct transfer *t)
{
    curl_slist_free_all(t->headers);
    if (t->curl)
        curl_easy_cleanup(t->curl);
    buf_fini(&t->body);
}

// The message of {"error": {"message": ...}}, or the status alone.
static int http_error(struct transfer *t)
{
    long status = 0;
    struct err ignored = {0};
    json_t *root = t->body.len > 0 ? json_parse(t->body.data, t->body.len, &ignored) : NULL;
    const char *message =
        json_string_value(json_object_get(json_object_get(root, "error"), "message"));

    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
    err_set(t->e,
            status == 404   ? ERR_NOT_FOUND
            : status == 401 ? ERR_AUTH
                            : ERR_IO,
            "%.450s", message ? message : "the server refused without a reason");
    if (!message)
        err_wrap(t->e, "status %ld", status);
    json_decref(root);
    return t->e->code;
}

static int transfer_run(struct transfer *t)
{
    CURLcode code = curl_easy_perform(t->curl);

    if (t->rc != 0)
        return t->rc;
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return err_set(t->e, ERR_CANCELLED, "stopped");
    if (code == CURLE_COULDNT_CONNECT)
        return err_set(t->e, ERR_CLOSED, "no server answers at %s; start one with \"tandem serve\"",
                       t->url);
    if (code != CURLE_OK)
        return err_set(t->e, ERR_IO, "%s: %s", t->url, curl_easy_strerror(code));
    return is_error(t) ? http_error(t) : 0;
}

static int timed_run(struct transfer *t, long timeout_s)
{
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(t->curl, CURLOPT_TIMEOUT, timeout_s);
    return transfer_run(t);
}

static int whole_run(struct transfer *t, long timeout_s, json_t **out)
{
    int rc = timed_run(t, timeout_s);

    if (rc != 0)
        return rc;
    *out = json_parse(t->body.len > 0 ? (const char *)t->body.data : "", t->body.len, t->e);
    return *out ? 0 : err_wrap(t->e, "%s", t->url);
}

int client_get(const struct client *c, const char *path, json_t **out, struct err *e)
{
    struct transfer t;
    int rc = transfer_open(&t, c, path, e);

    if (rc == 0)
        rc = whole_run(&t, GET_S, out);
    transfer_close(&t);
    return rc;
}

int client_file(const struct client *c, const char *path, uint8_t **data, size_t *len,
                struct err *e)
{
    struct transfer t;
    int rc = transfer_open(&t, c, path, e);

    if (rc == 0)
        rc = timed_run(&t, POST_S);
    if (rc == 0) {
        *len = t.body.len;
        *data = (uint8_t *)buf_take(&t.body);
    }
    transfer_close(&t);
    return rc;
}

static void body_set(struct transfer *t, const char *body)
{
    t->headers = curl_slist_append(t->headers, "Content-Type: application/json");
    t->headers = curl_slist_append(t->headers, "Expect:");
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(t->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
    curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, body);
}

int client_post(const struct client *c, const char *path, const json_t *body, json_t **out,
                struct err *e)
{
    struct transfer t;
    char *text = json_text(body);
    int rc = transfer_open(&t, c, path, e);

    if (rc == 0) {
        body_set(&t, text);
        rc = whole_run(&t, POST_S, out);
    }
    transfer_close(&t);
    free(text);
    return rc;
}

int client_delete(const struct client *c, const char *path, json_t **out, struct err *e)
{
    struct transfer t;
    int rc = transfer_open(&t, c, path, e);

    if (rc == 0) {
        curl_easy_setopt(t.curl, CURLOPT_CUSTOMREQUEST, "DELETE");
        rc = whole_run(&t, GET_S, out);
    }
    transfer_close(&t);
    return rc;
}

int client_stream(const struct client *c, const struct client_stream *s, struct err *e)
{
    struct transfer t;
    char *body = s->body ? json_text(s->body) : NULL;
    int rc = transfer_open(&t, c, s->path, e);

    if (rc == 0) {
        t.stream = s;
        curl_easy_setopt(t.curl, CURLOPT_HTTPHEADER, t.headers);
        if (body)
            body_set(&t, body);
        rc = transfer_run(&t);
    }
    transfer_close(&t);
    free(body);
    return rc;
}
