// The two children of `check`: one computes and exports into a pipe, the other computes the same prompt
// un-split by itself, then imports what came and compares.
//
// On the pipe, per blob: p0, p1, flags u32 (1 last, 2 early), 0 u32, length u64, all in this machine's byte
// order, then the bytes.
#include "engine/probe_impl.h"

#include "base/buf.h"
#include "engine/llama_engine.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEAD_LAST = 1, HEAD_EARLY = 2 };

struct head {
    uint32_t p0, p1, flags, zero;
    uint64_t len;
};

static int pipe_write(const void *data, size_t n, struct err *e)
{
    for (size_t done = 0; done < n;) {
        ssize_t wrote = write(PROBE_DATA_FD, (const char *)data + done, n - done);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return err_set(e, ERR_CLOSED, "the other process is gone: %s", strerror(errno));
        done += (size_t)wrote;
    }
    return 0;
}

// 0; ERR_CLOSED at the end.
static int pipe_read(void *data, size_t n, struct err *e)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = read(PROBE_DATA_FD, (char *)data + done, n - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return err_set(e, ERR_CLOSED, "the prefill process ended before its last range");
        done += (size_t)got;
    }
    return 0;
}

// ---- prefill ---------------------------------------------------------------------------------------------

struct sent {
    uint64_t bytes;
    uint32_t states;
};

static int blob_send(void *ctx, struct probe_blob *b, struct err *e)
{
    struct sent *sent = ctx;
    struct head head = {.p0 = b->p0, .p1 = b->p1, .len = b->len};
    head.flags = (b->last ? HEAD_LAST : 0) | (b->early ? HEAD_EARLY : 0);
    int rc = pipe_write(&head, sizeof head, e);
    if (rc == 0)
        rc = pipe_write(b->data, b->len, e);
    if (!b->early)
        sent->bytes += b->len;
    free(b->data);
    return rc;
}

static json_t *prefill_result(const struct engine *g, const struct probe_plan *p,
                              const struct sent *sent)
{
    uint64_t states = g->limits.handoff == ENGINE_HANDOFF_RANGES ? PROBE_RANGES : 1;
    uint64_t state_bytes = g->limits.state_bytes * states;
    uint64_t kv = sent->bytes > state_bytes ? sent->bytes - state_bytes : 0;
    return json_pack("{s:{s:f,s:I}}", "result", "kv_bytes_per_token",
                     (double)kv / probe_plan_end(p), "state_bytes",
                     (json_int_t)g->limits.state_bytes);
}

int probe_prefill_child(const struct probe_args *a)
{
    struct probe_plan plan = {0};
    struct engine *g = NULL;
    struct sent sent = {0};
    struct err e = {0};
    int rc = probe_engine_open(a, a->range_tokens, &g, &e);
    if (rc == 0) {
        probe_plan_init(&plan, a->range_tokens, g->identity.n_vocab);
        rc = probe_prefill(g, &plan, blob_send, &sent, &e);
    }
    close(PROBE_DATA_FD);
    probe_report(rc == 0 ? prefill_result(g, &plan, &sent) : probe_report_error(&e));
    probe_plan_fini(&plan);
    if (g)
        g->ops->free(g);
    return rc == 0 ? 0 : 1;
}

// ---- decode ----------------------------------------------------------------------------------------------

// A blob must be one that the plan has; its size is bounded by what this engine would write.
static int head_check(struct engine *g, const struct probe_plan *p, const struct head *h,
                      struct err *e)
{
    size_t max = h->p0 < h->p1 && h->p1 <= probe_plan_end(p)
                     ? g->ops->export_bytes(g, 0, h->p0, h->p1, true)
                     : 0;
    if (max == 0 || h->len > max || h->len > PROBE_BLOB_BYTES_MAX)
        return err_set(e, ERR_CORRUPT,
                       "a blob of [%" PRIu32 ", %" PRIu32 ") with %" PRIu64 " bytes; at most %zu",
                       h->p0, h->p1, h->len, max);
    return 0;
}

static int blob_receive(struct engine *g, const struct probe_plan *p, struct probe_blobs *blobs,
                        struct err *e)
{
    struct head h;
    int rc = pipe_read(&h, sizeof h, e);
    if (rc == 0)
        rc = head_check(g, p, &h, e);
    if (rc != 0)
        return rc;
    struct probe_blob *b = &blobs->items[blobs->n++];
    *b = (struct probe_blob){.p0 = h.p0,
                             .p1 = h.p1,
                             .len = (size_t)h.len,
                             .last = h.flags & HEAD_LAST,
                             .early = h.flags & HEAD_EARLY};
    b->data = malloc(b->len);
    if (!b->data)
        return err_set(e, ERR_RANGE, "no memory for a blob of %zu bytes", b->len);
    return pipe_read(b->data, b->len, e);
}

static bool is_end(const struct probe_plan *p, const struct probe_blobs *blobs)
{
    const struct probe_blob *b = blobs->n ? &blobs->items[blobs->n - 1] : NULL;
    return blobs->n == PROBE_BLOBS_MAX || (b && b->last && !b->early && b->p1 == probe_plan_end(p));
}

static int blobs_receive(struct engine *g, const struct probe_plan *p, struct probe_blobs *blobs,
                         struct err *e)
{
    int rc = 0;
    while (rc == 0 && !is_end(p, blobs))
        rc = blob_receive(g, p, blobs, e);
    return rc;
}

static json_t *decode_result(struct probe_compare *c)
{
    double diff = c->diff;
    struct err why = {0};
    bool controlled = probe_control(c, &why) == 0;
    return json_pack("{s:{s:f,s:o,s:s}}", "result", "max_logit_diff", diff, "control_logit_diff",
                     controlled ? json_real(c->diff) : json_null(), "note",
                     controlled ? c->note : why.message);
}

static int compare(struct engine *g, const struct probe_plan *p, struct probe_blobs *blobs,
                   json_t **result, struct err *e)
{
    float *ref = mem_alloc(g->identity.n_vocab * sizeof *ref);
    struct probe_compare c = {.g = g, .plan = p, .blobs = blobs, .ref = ref};
    int rc = probe_prefill(g, p, NULL, NULL, e);
    if (rc == 0)
        rc = probe_last_token(g, p, probe_plan_end(p), ref, e);
    if (rc == 0)
        rc = blobs_receive(g, p, blobs, e);
    if (rc == 0)
        rc = probe_decode(&c, e);
    if (rc == 0)
        *result = decode_result(&c);
    free(ref);
    return rc;
}

int probe_decode_child(const struct probe_args *a)
{
    struct probe_blobs blobs = {0};
    struct probe_plan plan = {0};
    struct engine *g = NULL;
    json_t *result = NULL;
    struct err e = {0};
    int rc = probe_engine_open(a, a->range_tokens, &g, &e);
    if (rc == 0) {
        probe_plan_init(&plan, a->range_tokens, g->identity.n_vocab);
        rc = compare(g, &plan, &blobs, &result, &e);
    }
    probe_report(rc == 0 ? result : probe_report_error(&e));
    probe_blobs_free(&blobs);
    probe_plan_fini(&plan);
    if (g)
        g->ops->free(g);
    return rc == 0 ? 0 : 1;
}
