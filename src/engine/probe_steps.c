// The work of a hand-off trial on one engine: compute, export, import, compare.
#include "engine/probe_impl.h"

#include "base/buf.h"
#include "engine/llama_engine.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- plans, blobs, numbers -------------------------------------------------------------------------

static uint32_t random_next(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

void probe_plan_init(struct probe_plan *p, uint32_t range_tokens, uint32_t n_vocab)
{
    uint64_t state = 20;
    p->range_tokens = range_tokens;
    p->tokens = mem_alloc((probe_plan_end(p) + 1) * sizeof *p->tokens);
    for (uint32_t i = 0; i <= probe_plan_end(p); i++)
        p->tokens[i] = (int32_t)(random_next(&state) % n_vocab);
}

void probe_plan_fini(struct probe_plan *p)
{
    free(p->tokens);
    p->tokens = NULL;
}

void probe_blobs_free(struct probe_blobs *b)
{
    for (size_t i = 0; i < b->n; i++)
        free(b->items[i].data);
    b->n = 0;
}

double probe_diff(const float *a, const float *b, size_t n)
{
    double worst = 0;
    if (memcmp(a, b, n * sizeof *a) == 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (isnan(a[i]) != isnan(b[i]) || isinf(d))
            d = (double)FLT_MAX;
        if (d > worst)
            worst = d;
    }
    return worst > 0 ? worst : DBL_TRUE_MIN; // -0 against 0, or one NaN against another
}

// ---- prefill ---------------------------------------------------------------------------------------

static int range_compute(struct engine *g, const struct probe_plan *p, uint32_t p0, uint32_t p1,
                         struct err *e)
{
    struct engine_row *rows = mem_alloc(g->limits.n_batch * sizeof *rows);
    uint32_t pieces = (p1 - p0 + g->limits.n_batch - 1) / g->limits.n_batch;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < pieces; i++) {
        uint32_t from = p0 + (p1 - p0) / pieces * i;
        uint32_t to = i + 1 == pieces ? p1 : p0 + (p1 - p0) / pieces * (i + 1);
        for (uint32_t pos = from; pos < to; pos++)
            rows[pos - from] = (struct engine_row){.token = p->tokens[pos], .pos = pos};
        rc = g->ops->step(g, rows, to - from, e);
    }
    free(rows);
    return rc;
}

static int blob_export(struct engine *g, struct probe_blob *b, struct err *e)
{
    size_t cap = g->ops->export_bytes(g, 0, b->p0, b->p1, b->last);
    if (cap == 0 || cap > PROBE_BLOB_BYTES_MAX)
        return err_set(e, ERR_RANGE, "a range of %" PRIu32 " tokens would take %zu bytes",
                       b->p1 - b->p0, cap);
    b->data = malloc(cap);
    if (!b->data)
        return err_set(e, ERR_RANGE, "no memory for a range of %zu bytes", cap);
    int rc = g->ops->export_start(g, 0, b->p0, b->p1, b->last, b->data, cap, e);
    while (rc == ENGINE_EXPORT_BUSY && rc != ENGINE_EXPORT_DONE)
        rc = g->ops->export_poll(g, &b->len, e);
    if (rc < 0) {
        free(b->data);
        b->data = NULL;
    }
    return rc < 0 ? rc : 0;
}

static int blob_put(struct engine *g, struct probe_blob b, probe_put *put, void *ctx, struct err *e)
{
    int rc = blob_export(g, &b, e);
    return rc != 0 ? rc : put(ctx, &b, e);
}

// What leaves after range i is computed: the range, and before the last one the early state.
static int range_put(struct engine *g, const struct probe_plan *p, uint32_t i, probe_put *put,
                     void *ctx, struct err *e)
{
    bool whole = g->limits.handoff == ENGINE_HANDOFF_WHOLE, last = i + 1 == PROBE_RANGES;
    uint32_t p0 = whole ? 0 : i * p->range_tokens, p1 = (i + 1) * p->range_tokens;
    int rc = 0;
    if (!whole || last)
        rc = blob_put(g, (struct probe_blob){.p0 = p0, .p1 = p1, .last = last}, put, ctx, e);
    if (rc == 0 && i + 2 == PROBE_RANGES)
        rc = blob_put(g, (struct probe_blob){.p0 = p0, .p1 = p1, .last = true, .early = true}, put,
                      ctx, e);
    return rc;
}

int probe_prefill(struct engine *g, const struct probe_plan *p, probe_put *put, void *ctx,
                  struct err *e)
{
    engine_llama_clear(g);
    for (uint32_t i = 0; i < PROBE_RANGES; i++) {
        int rc = range_compute(g, p, i * p->range_tokens, (i + 1) * p->range_tokens, e);
        if (rc == 0 && put)
            rc = range_put(g, p, i, put, ctx, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

// ---- decode ----------------------------------------------------------------------------------------

int probe_last_token(struct engine *g, const struct probe_plan *p, uint32_t pos, float *logits,
                     struct err *e)
{
    struct engine_row row = {
        .token = p->tokens[probe_plan_end(p)], .pos = pos, .want_logits = true};
    int rc = g->ops->step(g, &row, 1, e);
    if (rc != 0)
        return rc;
    const float *got = g->ops->logits(g, 0);
    if (!got)
        return err_set(e, ERR_ENGINE, "the engine gave no logits");
    memcpy(logits, got, g->identity.n_vocab * sizeof *logits);
    return 0;
}

static int token_compare(struct probe_compare *c, uint32_t pos, struct err *e)
{
    size_t n = c->g->identity.n_vocab;
    float *logits = mem_alloc(n * sizeof *logits);
    int rc = probe_last_token(c->g, c->plan, pos, logits, e);
    if (rc == 0)
        c->diff = probe_diff(logits, c->ref, n);
    free(logits);
    return rc;
}

static int blob_import(struct engine *g, const struct probe_blob *b, struct err *e)
{
    return g->ops->import(g, 0, b->p0, b->p1, b->last, b->data, b->len, e);
}

// Imports the blobs in order, without the early one and without the range that begins at `without`.
static int ranges_import(struct probe_compare *c, uint32_t without, struct err *e)
{
    int rc = 0;
    engine_llama_clear(c->g);
    for (size_t i = 0; rc == 0 && i < c->blobs->n; i++) {
        const struct probe_blob *b = &c->blobs->items[i];
        if (!b->early && b->p0 != without)
            rc = blob_import(c->g, b, e);
    }
    return rc;
}

int probe_decode(struct probe_compare *c, struct err *e)
{
    int rc = ranges_import(c, UINT32_MAX, e);
    return rc != 0 ? rc : token_compare(c, probe_plan_end(c->plan), e);
}

static int control_middle(struct probe_compare *c, struct err *e)
{
    c->note = "control: the second range left out";
    engine_llama_allow_gap(c->g, true);
    int rc = ranges_import(c, c->plan->range_tokens, e);
    engine_llama_allow_gap(c->g, false);
    return rc != 0 ? rc : token_compare(c, probe_plan_end(c->plan), e);
}

// Up to one range before the end, whose last import is the early blob.
static int control_early(struct probe_compare *c, struct err *e)
{
    const struct probe_blob *early = NULL;
    int rc = 0;
    for (size_t i = 0; i < c->blobs->n; i++)
        if (c->blobs->items[i].early)
            early = &c->blobs->items[i];
    if (!early)
        return err_set(e, ERR_UNSUPPORTED, "no early state to leave the last range out with");
    engine_llama_clear(c->g);
    for (size_t i = 0; rc == 0 && i < c->blobs->n; i++) {
        const struct probe_blob *b = &c->blobs->items[i];
        if (!b->early && b->p1 <= early->p0)
            rc = blob_import(c->g, b, e);
    }
    if (rc == 0)
        rc = blob_import(c->g, early, e);
    return rc != 0 ? rc : token_compare(c, early->p1, e);
}

int probe_control(struct probe_compare *c, struct err *e)
{
    if (c->g->limits.handoff == ENGINE_HANDOFF_WHOLE) {
        c->note = "control: the state of all but the last range, since a whole state has no ranges "
                  "to leave out";
        return control_early(c, e);
    }
    int rc = control_middle(c, e);
    if (rc == 0 && c->diff > 0)
        return 0;
    c->note = "control: the last range left out, since an earlier one is forgotten or folded into "
              "the state by then";
    return control_early(c, e);
}
