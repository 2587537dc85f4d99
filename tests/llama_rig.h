// What the tests of the llama.cpp engine share. The model is in TANDEM_TEST_MODEL.
#ifndef TESTS_LLAMA_RIG_H
#define TESTS_LLAMA_RIG_H

#include "base/buf.h"
#include "engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RIG_CTX 1024

static inline struct engine_options rig_options(enum engine_handoff handoff)
{
    struct engine_options o;
    engine_options_default(&o);
    o.model = getenv("TANDEM_TEST_MODEL");
    assert_non_null(o.model);
    o.n_ctx = RIG_CTX;
    o.n_seq = 2;
    o.n_threads = 1;
    o.handoff = handoff;
    return o;
}

static inline struct engine *rig_open_with(const struct engine_options *o)
{
    struct engine *g = NULL;
    struct err e = {0};
    if (engine_open(o, &g, &e) != 0)
        fail_msg("%s", e.message);
    return g;
}

static inline struct engine *rig_open(enum engine_handoff handoff)
{
    struct engine_options o = rig_options(handoff);
    return rig_open_with(&o);
}

static inline int32_t rig_token(const struct engine *g, uint32_t i)
{
    return (int32_t)((i * 7919 + 101) % g->identity.n_vocab);
}

// Computes [p0, p1) of seq; the last row wants logits if asked to.
static inline int rig_step(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool logits,
                           struct err *e)
{
    struct engine_row *rows = mem_alloc((p1 - p0) * sizeof *rows);
    for (uint32_t p = p0; p < p1; p++)
        rows[p - p0] = (struct engine_row){rig_token(g, p), p, seq, logits && p + 1 == p1};
    int rc = g->ops->step(g, rows, p1 - p0, e);
    free(rows);
    return rc;
}

// The logits after computing the token at p alone; the caller frees.
static inline float *rig_logits(struct engine *g, uint32_t seq, uint32_t p)
{
    struct err e = {0};
    size_t bytes = g->identity.n_vocab * sizeof(float);
    float *copy = mem_alloc(bytes);
    if (rig_step(g, seq, p, p + 1, true, &e) != 0)
        fail_msg("%s", e.message);
    memcpy(copy, g->ops->logits(g, 0), bytes);
    return copy;
}

static inline void rig_same(struct engine *g, float *a, const float *want)
{
    assert_memory_equal(a, want, g->identity.n_vocab * sizeof *want);
    free(a);
}

static inline void rig_compute(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1)
{
    struct err e = {0};
    if (rig_step(g, seq, p0, p1, false, &e) != 0)
        fail_msg("%s", e.message);
}

static inline void *rig_export(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                               size_t *len)
{
    struct err e = {0};
    size_t cap = g->ops->export_bytes(g, seq, p0, p1, last);
    void *data = mem_alloc(cap);
    if (g->ops->export_start(g, seq, p0, p1, last, data, cap, &e) != 0)
        fail_msg("%s", e.message);
    assert_int_equal(g->ops->export_poll(g, len, &e), ENGINE_EXPORT_DONE);
    assert_true(*len > 0 && *len <= cap);
    return data;
}

#endif
