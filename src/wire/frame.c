#include "wire/frame.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>

// ---- types and their limits ------------------------------------------------------------------------

#define JSON_SMALL (4u << 10)
#define JSON_MEDIUM (64u << 10)
#define JSON_DRAW (256u << 10) // two prompts of 16 KiB, every byte of them escaped
#define JSON_LARGE (1u << 20)
#define JSON_SYNTAX (4u << 20) // may hold the syntax of an answer, 2 MiB of it, and more
#define TOKENS_BYTES (WIRE_TOKENS_MAX * 4u)
// Fixed structs of kv/kv.h, which checks that these are its sizes.
#define SEGMENT_HEAD 64u
#define END_HEAD 40u
#define ACK_HEAD 24u

struct type_row {
    const char *name;
    uint32_t type;
    uint32_t head_min, head_max; // bytes
    uint32_t body_max;           // bytes
};

static const struct type_row type_rows[] = {
    {"hello", WIRE_HELLO, 2, JSON_MEDIUM, 0},
    {"welcome", WIRE_WELCOME, 2, JSON_MEDIUM, 0},
    {"refused", WIRE_REFUSED, 2, JSON_MEDIUM, 0},
    {"ping", WIRE_PING, 0, 0, 0},
    {"pong", WIRE_PONG, 0, 0, 0},
    {"render", WIRE_RENDER, 2, WIRE_HEAD_MAX, WIRE_IMAGES_MAX},
    {"generate", WIRE_GENERATE, 2, JSON_SYNTAX, TOKENS_BYTES},
    {"prefill", WIRE_PREFILL, 2, JSON_MEDIUM, TOKENS_BYTES},
    {"cancel", WIRE_CANCEL, 2, JSON_SMALL, 0},
    {"status", WIRE_STATUS, 2, JSON_SMALL, 0},
    {"abandon", WIRE_ABANDON, 2, JSON_SMALL, 0},
    {"embed", WIRE_EMBED, 2, JSON_SMALL, TOKENS_BYTES},
    {"forget", WIRE_FORGET, 2, JSON_SMALL, 0},
    {"rendered", WIRE_RENDERED, 2, WIRE_HEAD_MAX, TOKENS_BYTES},
    {"accepted", WIRE_ACCEPTED, 2, JSON_SMALL, 0},
    {"progress", WIRE_PROGRESS, 2, JSON_SMALL, 0},
    {"token", WIRE_TOKEN, 2, JSON_LARGE, 0},  // the deltas of a long call may come at once
    {"done", WIRE_DONE, 2, WIRE_HEAD_MAX, 0}, // a timeline has a row per step
    {"failed", WIRE_FAILED, 2, JSON_MEDIUM, 0},
    {"prefilled", WIRE_PREFILLED, 2, WIRE_HEAD_MAX, 0},
    {"status_is", WIRE_STATUS_IS, 2, JSON_MEDIUM, 0},
    {"embedded", WIRE_EMBEDDED, 2, JSON_SMALL, WIRE_FLOATS_MAX * 4u},
    {"forgotten", WIRE_FORGOTTEN, 2, JSON_SMALL, 0},
    {"adapter", WIRE_ADAPTER, 2, JSON_SMALL, WIRE_ADAPTER_MAX},
    {"drain", WIRE_DRAIN, 2, JSON_SMALL, 0},
    {"adapter_is", WIRE_ADAPTER_IS, 2, JSON_SMALL, 0},
    {"measure", WIRE_MEASURE, 2, JSON_SMALL, 0},
    {"measured", WIRE_MEASURED, 2, JSON_MEDIUM, 0},
    {"measure_link", WIRE_MEASURE_LINK, 2, JSON_SMALL, 0},
    {"measured_link", WIRE_MEASURED_LINK, 2, JSON_SMALL, 0},
    {"draw", WIRE_DRAW, 2, JSON_DRAW, 0},
    {"canvas", WIRE_CANVAS, 2, JSON_MEDIUM, 0},
    {"drawing", WIRE_DRAWING, 2, JSON_SMALL, 0},
    {"picture", WIRE_PICTURE, 2, JSON_SMALL, 0},
    {"drawn", WIRE_DRAWN, 2, JSON_SMALL, 0},
    {"pixels", WIRE_PIXELS, 2, JSON_SMALL, WIRE_PIXELS_MAX},
    {"pull", WIRE_PULL, 2, JSON_SMALL, 0},
    {"segment", WIRE_SEGMENT, SEGMENT_HEAD, SEGMENT_HEAD, WIRE_SEGMENT_MAX},
    {"end", WIRE_END, END_HEAD, END_HEAD, 0},
    {"ack", WIRE_ACK, ACK_HEAD, ACK_HEAD, 0},
    {"abort", WIRE_ABORT, 2, JSON_MEDIUM, 0},
    {"beat", WIRE_BEAT, 2, JSON_SMALL, 0},
    {"probe", WIRE_PROBE, 2, JSON_SMALL, WIRE_PROBE_MAX},
    {"probed", WIRE_PROBED, 2, JSON_SMALL, WIRE_PROBE_MAX},
};

static const struct type_row *type_find(unsigned type)
{
    for (size_t i = 0; i < sizeof type_rows / sizeof *type_rows; i++) {
        if (type_rows[i].type == type)
            return &type_rows[i];
    }
    return NULL;
}

const char *wire_type_name(unsigned type)
{
    static _Thread_local char other[24];
    const struct type_row *row = type_find(type);
    if (row)
        return row->name;
    snprintf(other, sizeof other, "type %u", type);
    return other;
}

int wire_frame_limits(unsigned type, uint32_t *head_max, uint32_t *body_max)
{
    const struct type_row *row = type_find(type);
    if (!row)
        return ERR_INVALID;
    *head_max = row->head_max;
    *body_max = row->body_max;
    return 0;
}

static int sizes_check(unsigned type, uint64_t head_bytes, uint64_t body_bytes, struct err *e)
{
    const struct type_row *row = type_find(type);
    if (!row)
        return err_set(e, ERR_INVALID, "frame of unknown type %u", type);
    if (head_bytes < row->head_min || head_bytes > row->head_max)
        return err_set(e, ERR_RANGE, "%s frame with a head of %llu bytes; %u to %u are allowed",
                       row->name, (unsigned long long)head_bytes, row->head_min, row->head_max);
    if (body_bytes > row->body_max)
        return err_set(e, ERR_RANGE, "%s frame with a body of %llu bytes; at most %u are allowed",
                       row->name, (unsigned long long)body_bytes, row->body_max);
    return 0;
}

// ---- the header ------------------------------------------------------------------------------------

void wire_header_encode(const struct wire_header *h, uint8_t out[WIRE_HEADER_BYTES])
{
    le_put32(out, WIRE_MAGIC);
    le_put16(out + 4, h->type);
    le_put16(out + 6, h->flags);
    le_put64(out + 8, h->id);
    le_put32(out + 16, h->head_bytes);
    le_put32(out + 20, h->body_bytes);
}

static int magic_error(uint32_t magic, struct err *e)
{
    bool tls = (magic & 0xffff) == 0x0316;
    return err_set(e, ERR_CORRUPT, "0x%08x stands where a frame should begin with 0x%08x%s", magic,
                   WIRE_MAGIC, tls ? ": the peer speaks TLS and this side has no cluster key" : "");
}

int wire_header_decode(const uint8_t in[WIRE_HEADER_BYTES], struct wire_header *h, struct err *e)
{
    if (le_get32(in) != WIRE_MAGIC)
        return magic_error(le_get32(in), e);
    struct wire_header got = {
        .type = le_get16(in + 4),
        .flags = le_get16(in + 6),
        .id = le_get64(in + 8),
        .head_bytes = le_get32(in + 16),
        .body_bytes = le_get32(in + 20),
    };
    int rc = sizes_check(got.type, got.head_bytes, got.body_bytes, e);
    if (rc)
        return rc;
    if (got.flags)
        return err_set(e, ERR_INVALID, "%s frame with unknown flags 0x%04x",
                       wire_type_name(got.type), got.flags);
    *h = got;
    return 0;
}

// ---- making frames -----------------------------------------------------------------------------------

struct wire_frame wire_frame_json(enum wire_type type, uint64_t id, json_t *head)
{
    char *text = head ? json_text(head) : mem_strdup("{}");
    json_decref(head);
    // A head beyond 4 GiB stays too long, so that wire_frame_check refuses it.
    size_t n = strlen(text);
    return (struct wire_frame){.type = (uint16_t)type,
                               .id = id,
                               .head = text,
                               .head_bytes = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX};
}

struct wire_frame wire_frame_tokens(enum wire_type type, uint64_t id, json_t *head,
                                    const int32_t *tokens, size_t n_tokens)
{
    struct wire_frame f = wire_frame_json(type, id, head);
    if (!tokens || !n_tokens)
        return f;
    uint8_t *body = mem_alloc(n_tokens * 4);
    for (size_t i = 0; i < n_tokens; i++)
        le_put32(body + 4 * i, (uint32_t)tokens[i]);
    f.body = (struct wire_body){.data = body, .len = n_tokens * 4};
    return f;
}

struct wire_frame wire_frame_struct(enum wire_type type, uint64_t id, const void *head,
                                    size_t head_bytes, struct wire_body body)
{
    char *copy = mem_alloc(head_bytes + 1);
    memcpy(copy, head, head_bytes);
    return (struct wire_frame){.type = (uint16_t)type,
                               .id = id,
                               .head = copy,
                               .head_bytes = (uint32_t)head_bytes,
                               .body = body};
}

struct wire_frame wire_frame_failed(enum wire_type type, uint64_t id, int code, const char *message)
{
    json_t *head = json_object();
    json_put(head, "code", json_string(err_name(code)));
    json_t *text = json_string(message);
    json_put(head, "message", text ? text : json_string("(a message that is not UTF-8)"));
    return wire_frame_json(type, id, head);
}

static void body_release(struct wire_body *b)
{
    if (b->release)
        b->release(b->ctx, b->data);
    else
        free(b->data);
    *b = (struct wire_body){0};
}

void wire_frame_fini(struct wire_frame *f)
{
    free(f->head);
    body_release(&f->body);
    *f = (struct wire_frame){0};
}

struct wire_header wire_frame_header(const struct wire_frame *f)
{
    return (struct wire_header){.type = f->type,
                                .id = f->id,
                                .head_bytes = f->head_bytes,
                                .body_bytes = (uint32_t)f->body.len};
}

int wire_frame_check(const struct wire_frame *f, struct err *e)
{
    return sizes_check(f->type, f->head_bytes, f->body.len, e);
}

// ---- reading what is in a frame ------------------------------------------------------------------------

json_t *wire_frame_parse(const struct wire_frame *f, struct err *e)
{
    json_t *head = json_parse(f->head ? f->head : "", f->head_bytes, e);
    if (head && !json_is_object(head)) {
        json_decref(head);
        head = NULL;
        err_set(e, ERR_INVALID, "the head is no JSON object");
    }
    if (!head)
        err_wrap(e, "%s frame", wire_type_name(f->type));
    return head;
}

int wire_frame_get_tokens(const struct wire_frame *f, int32_t **tokens, size_t *n, struct err *e)
{
    if (f->body.len % 4)
        return err_set(e, ERR_CORRUPT, "%s frame: %zu bytes are no whole number of token ids",
                       wire_type_name(f->type), f->body.len);
    *n = f->body.len / 4;
    *tokens = mem_alloc(f->body.len);
    for (size_t i = 0; i < *n; i++)
        (*tokens)[i] = (int32_t)le_get32((const uint8_t *)f->body.data + 4 * i);
    return 0;
}

// ---- one frame on a connection ---------------------------------------------------------------------------

int wire_frame_write(struct net_conn *c, const struct wire_frame *f, int64_t deadline_ns,
                     struct err *e)
{
    int rc = wire_frame_check(f, e);
    if (rc)
        return rc;
    uint8_t bytes[WIRE_HEADER_BYTES];
    struct wire_header h = wire_frame_header(f);
    wire_header_encode(&h, bytes);
    struct net_part parts[] = {
        {bytes, sizeof bytes}, {f->head, f->head_bytes}, {f->body.data, f->body.len}};
    return net_conn_write_parts(c, parts, 3, deadline_ns, e);
}

// The place in a frame, for deadlines and messages.
struct place {
    const struct wire_receive *how;
    struct net_conn *conn;
    const char *in; // what is being read
    size_t done;    // bytes of the frame so far
};

static int place_error(const struct place *p, int rc, struct err *e)
{
    if (!p->done)
        return rc; // between two frames: the connection's own words
    if (rc != ERR_CLOSED && rc != ERR_TIMEOUT)
        return rc;
    const char *peer = net_conn_peer(p->conn);
    if (rc == ERR_TIMEOUT)
        return err_set(e, rc, "%s went silent inside a %s, after %zu bytes of it", peer, p->in,
                       p->done);
    return err_set(e, ERR_CORRUPT, "%s broke off inside a %s, after %zu bytes of it", peer, p->in,
                   p->done);
}

// At least one byte and at most n; how many, or an error.
static int64_t place_read_some(struct place *p, void *data, size_t n, struct err *e)
{
    int64_t deadline = p->how->deadline_ns;
    if (p->how->progress_ns && p->done)
        deadline = clock_now_ns() + p->how->progress_ns;
    int64_t got = net_conn_read_some(p->conn, data, n, deadline, e);
    if (got < 0)
        return place_error(p, (int)got, e);
    p->done += (size_t)got;
    return got;
}

static int place_read(struct place *p, void *data, size_t n, struct err *e)
{
    uint8_t *to = data;
    while (n > 0) {
        int64_t got = place_read_some(p, to, n, e);
        if (got < 0)
            return (int)got;
        to += got;
        n -= (size_t)got;
    }
    return 0;
}

static int body_malloc(size_t n, struct wire_body *body, struct err *e)
{
    *body = (struct wire_body){.data = malloc(n), .len = n};
    if (!body->data)
        return err_set(e, ERR_BUSY, "no memory for a body of %zu bytes", n);
    return 0;
}

static int body_read(struct place *p, struct wire_frame *f, size_t n, struct err *e)
{
    int rc = p->how->body_get ? p->how->body_get(p->how->ctx, f, n, &f->body, e)
                              : body_malloc(n, &f->body, e);
    if (rc)
        return rc;
    f->body.len = n;
    int64_t got = place_read_some(p, f->body.data, n, e);
    if (got < 0)
        return (int)got;
    f->body_ns = clock_now_ns();
    f->body_first = (uint32_t)got;
    return place_read(p, (uint8_t *)f->body.data + got, n - (size_t)got, e);
}

int wire_frame_receive(struct net_conn *c, const struct wire_receive *how, struct wire_frame *f,
                       struct err *e)
{
    *f = (struct wire_frame){0};
    struct place p = {.how = how, .conn = c, .in = "frame"};
    uint8_t bytes[WIRE_HEADER_BYTES];
    struct wire_header h = {0};
    int rc = place_read(&p, bytes, sizeof bytes, e);
    if (rc == 0)
        rc = wire_header_decode(bytes, &h, e);
    if (rc)
        return rc;
    p.in = wire_type_name(h.type);
    f->type = h.type;
    f->id = h.id;
    f->head_bytes = h.head_bytes;
    f->head = mem_alloc(h.head_bytes + 1);
    rc = place_read(&p, f->head, h.head_bytes, e);
    if (rc == 0 && h.body_bytes)
        rc = body_read(&p, f, h.body_bytes, e);
    if (rc)
        wire_frame_fini(f);
    return rc;
}

int wire_frame_read(struct net_conn *c, struct wire_frame *f, int64_t deadline_ns, struct err *e)
{
    struct wire_receive how = {.deadline_ns = deadline_ns};
    return wire_frame_receive(c, &how, f, e);
}
