// For the gateway's tests: an HTTP client that is a socket, so that a test can leave, stop reading or
// send half of something; and a look into JSON by path.
#ifndef TESTS_GATEWAY_WEB_H
#define TESTS_GATEWAY_WEB_H

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define UNUSED __attribute__((unused))
#define WEB_LIMIT_NS (30 * NS_PER_S) // of a wait: turns a hang into a failure

struct web {
    int fd;
    struct buf in;
};

static int web_dial(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

static void web_write(struct web *w, const void *data, size_t n)
{
    const char *at = data;

    while (n > 0) {
        ssize_t sent = send(w->fd, at, n, MSG_NOSIGNAL);

        if (sent < 0)
            fail_msg("send: %s", strerror(errno));
        at += sent;
        n -= (size_t)sent;
    }
}

// Sends a request; head: further header lines, each ending in CRLF.
static struct web web_open(uint16_t port, const char *method, const char *path, const char *head,
                           const char *body)
{
    struct web w = {.fd = web_dial(port)};
    char *text = mem_format("%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                            "Content-Length: %zu\r\n%s\r\n",
                            method, path, body ? strlen(body) : 0, head ? head : "");

    buf_init(&w.in, 256u << 20);
    web_write(&w, text, strlen(text));
    if (body)
        web_write(&w, body, strlen(body));
    free(text);
    return w;
}

static UNUSED struct web web_post(uint16_t port, const char *path, const char *body)
{
    return web_open(port, "POST", path, NULL, body);
}

// False at the end of the connection.
static bool web_more(struct web *w)
{
    struct pollfd p = {.fd = w->fd, .events = POLLIN};
    char block[65536];
    ssize_t n;

    if (poll(&p, 1, (int)(WEB_LIMIT_NS / NS_PER_MS)) <= 0)
        fail_msg("no answer in time; so far: %.400s", w->in.data ? (char *)w->in.data : "");
    n = recv(w->fd, block, sizeof(block), 0);
    if (n <= 0)
        return false;
    assert_int_equal(buf_put(&w->in, block, (size_t)n), 0);
    return true;
}

// Reads until `text` has come.
static UNUSED void web_until(struct web *w, const char *text)
{
    while (!w->in.data || !strstr((char *)w->in.data, text))
        if (!web_more(w))
            fail_msg("the answer ended without \"%s\": %s", text,
                     w->in.data ? (char *)w->in.data : "");
}

static void web_close(struct web *w)
{
    close(w->fd);
    buf_fini(&w->in);
}

// The whole answer: status, and the body (caller frees) freed of its chunks.
struct web_answer {
    int status;
    char *head, *body;
    bool cut; // a chunked answer that ended without its last chunk
};

static char *unchunk(const char *in, bool *cut)
{
    char *out = mem_alloc(strlen(in) + 1);
    size_t n = 0;

    for (;;) {
        char *end;
        unsigned long size = strtoul(in, &end, 16);

        if (end == in || strncmp(end, "\r\n", 2) != 0 || strlen(end + 2) < size) {
            *cut = true;
            return out;
        }
        if (size == 0)
            return out;
        memcpy(out + n, end + 2, size);
        n += size;
        in = end + 2 + size + 2;
    }
}

static UNUSED struct web_answer web_finish(struct web *w)
{
    struct web_answer a = {0};
    char *text, *body;

    while (web_more(w))
        ;
    text = w->in.data ? (char *)w->in.data : (char *)(uintptr_t) "";
    body = strstr(text, "\r\n\r\n");
    if (!body || strncmp(text, "HTTP/1.1 ", 9) != 0)
        fail_msg("no HTTP answer: %.200s", text);
    a.status = (int)strtol(text + 9, NULL, 10);
    *body = '\0';
    a.head = mem_strdup(text);
    a.body = strstr(a.head, "Transfer-Encoding: chunked") ? unchunk(body + 4, &a.cut)
                                                          : mem_strdup(body + 4);
    web_close(w);
    return a;
}

static UNUSED void web_answer_fini(struct web_answer *a)
{
    free(a->head);
    free(a->body);
}

static UNUSED struct web_answer web_get(uint16_t port, const char *path)
{
    struct web w = web_open(port, "GET", path, NULL, NULL);

    return web_finish(&w);
}

static UNUSED struct web_answer web_ask(uint16_t port, const char *path, const char *body)
{
    struct web w = web_post(port, path, body);

    return web_finish(&w);
}

// A member by path, "timings.plan" or "choices.0.text"; borrowed.
static UNUSED json_t *at(json_t *v, const char *path)
{
    char word[64];

    while (v && *path) {
        size_t n = strcspn(path, ".");

        snprintf(word, sizeof(word), "%.*s", (int)n, path);
        v = json_is_array(v) ? json_array_get(v, strtoul(word, NULL, 10))
                             : json_object_get(v, word);
        path += n + (path[n] == '.');
    }
    return v;
}

static UNUSED const char *text_at(json_t *v, const char *path)
{
    const char *s = json_string_value(at(v, path));

    return s ? s : "(none)";
}

// Of an answer with timings; another plan than the wanted one has its reason in them.
static UNUSED void assert_plan(json_t *v, const char *plan)
{
    if (strcmp(text_at(v, "timings.plan"), plan) != 0)
        fail_msg("%s, not %s: %s", text_at(v, "timings.plan"), plan,
                 text_at(v, "timings.fallback"));
}

static UNUSED json_t *parse(const char *text)
{
    struct err e = {0};
    json_t *v = json_parse(text, strlen(text), &e);

    if (!v)
        fail_msg("%s: %s", e.message, text);
    return v;
}

// Ends the exchange, checks the status and returns the answer's JSON.
static UNUSED json_t *finish_json(struct web *w, int status)
{
    struct web_answer a = web_finish(w);
    json_t *v = parse(a.body);

    if (a.status != status)
        fail_msg("status %d: %s", a.status, a.body);
    web_answer_fini(&a);
    return v;
}

static UNUSED void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" is not in: %s", part, text);
}

#endif
