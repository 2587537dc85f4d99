// Whatever bytes a peer sends, reading frames ends in a whole frame within its limits or an error that
// says something; what is read is written back as the same bytes.
#include "base/buf.h"
#include "base/json.h"
#include "wire/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define INPUT_BYTES (64 << 10) // fits into a socket buffer
#define BODY_BYTES (1 << 20)

static int small_body_get(void *ctx, const struct wire_frame *f, size_t n, struct wire_body *body,
                          struct err *e)
{
    (void)ctx, (void)f;
    if (n > BODY_BYTES)
        return err_set(e, ERR_BUSY, "no room for %zu bytes", n);
    *body = (struct wire_body){.data = mem_alloc(n)};
    return 0;
}

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "fuzz_frame: %s\n", what);
    abort();
}

// Header and head and body together are the bytes that came.
static size_t frame_compare(const struct wire_frame *f, const uint8_t *data)
{
    uint8_t bytes[WIRE_HEADER_BYTES];
    struct wire_header h = wire_frame_header(f);
    wire_header_encode(&h, bytes);
    check(memcmp(bytes, data, sizeof bytes) == 0, "another header");
    check(memcmp(f->head, data + sizeof bytes, f->head_bytes) == 0, "another head");
    check(!f->body.len ||
              memcmp(f->body.data, data + sizeof bytes + f->head_bytes, f->body.len) == 0,
          "another body");
    return sizeof bytes + f->head_bytes + f->body.len;
}

static void frame_look(const struct wire_frame *f)
{
    struct err e = {0};
    int32_t *tokens;
    size_t n;
    json_t *head = wire_frame_parse(f, &e);
    check(head || e.message[0], "no words for a bad head");
    json_decref(head);
    if (wire_frame_get_tokens(f, &tokens, &n, &e) == 0) {
        check(n * 4 == f->body.len, "another number of tokens");
        free(tokens);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    int fds[2];
    if (n > INPUT_BYTES || socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
        return 0;
    check(write(fds[1], data, n) == (ssize_t)n, "a short write");
    close(fds[1]);
    struct net_conn *c = net_conn_wrap(fds[0]);
    struct wire_receive how = {.deadline_ns = NET_NEVER, .body_get = small_body_get};
    struct err e = {0};
    int rc = 0;
    for (size_t at = 0; rc == 0;) {
        struct wire_frame f;
        rc = wire_frame_receive(c, &how, &f, &e);
        if (rc == 0) {
            at += frame_compare(&f, data + at);
            frame_look(&f);
        }
        wire_frame_fini(&f);
    }
    check(e.code == rc && e.message[0], "no words for the end");
    net_conn_free(c);
    return 0;
}
