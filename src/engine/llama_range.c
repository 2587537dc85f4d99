// Ranges of KV cache as bytes, with public calls of llama.cpp only.
//
// Out: the cells of [p0, p1) are also given to the scratch sequence, that sequence's state is written
// straight into the caller's buffer, and the scratch sequence is emptied. In: the bytes become the scratch
// sequence, whose cells are then also given to the real one. In a unified cache both copies are metadata
// only. A range that is all a sequence holds (or will hold) needs no scratch, and models whose cache
// cannot copy a range (DeepSeek-V4) hand over in this way alone.
//
// Nothing reaches llama.cpp's reader that blob_check has not accepted for exactly this range.
#include "engine/llama_impl.h"

#include "base/buf.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_TOKENS 2

// ---- learning the layout at load ---------------------------------------------------------------

// The state of sequence 0 after n tokens; the caller frees. NULL with e set.
static uint8_t *sample_make(struct llama_engine *g, uint32_t n, size_t *len, struct err *e)
{
    struct engine_row rows[SAMPLE_TOKENS + 1];
    uint32_t bos = (uint32_t)llama_vocab_bos(g->vocab);
    for (uint32_t i = 0; i < n; i++) {
        int32_t token = bos < g->base.identity.n_vocab ? (int32_t)bos : (int32_t)i;
        rows[i] = (struct engine_row){.token = token, .pos = i};
    }
    if (llama_step(&g->base, rows, n, e) != 0)
        return NULL;
    size_t bytes = llama_state_seq_get_size(g->ctx, 0);
    uint8_t *data = bytes > 0 ? malloc(bytes) : NULL;
    if (data)
        *len = llama_state_seq_get_data(g->ctx, data, bytes, 0);
    llama_memory_seq_rm(g->mem, 0, -1, -1);
    g->seqs[0].held = 0;
    g->pass[0].n_rows = 0;
    if (!data || *len != bytes) {
        free(data);
        err_set(e, ERR_ENGINE, "llama.cpp could not write the state of a sequence (%zu bytes)",
                bytes);
        return NULL;
    }
    return data;
}

// Learns from one sample and has the result accept a longer one.
static int layout_learn(struct llama_engine *g, struct err *e)
{
    size_t n_short = 0, n_long = 0;
    uint8_t *shorter = sample_make(g, SAMPLE_TOKENS, &n_short, e);
    uint8_t *longer = shorter ? sample_make(g, SAMPLE_TOKENS + 1, &n_long, e) : NULL;
    int rc = ERR_ENGINE;
    struct blob_sample sample = {.data = shorter,
                                 .len = n_short,
                                 .n_tokens = SAMPLE_TOKENS,
                                 .n_vocab = g->base.identity.n_vocab,
                                 .windowed = g->base.identity.n_swa > 0};
    if (longer)
        rc = blob_learn(&g->layout, &sample, e);
    struct blob_range range = {.p0 = 0, .p1 = SAMPLE_TOKENS + 1, .state = true};
    if (rc == 0)
        rc = blob_check(&g->layout, &range, longer, n_long, &g->blob_scratch, e);
    if (rc != 0)
        blob_layout_fini(&g->layout);
    free(shorter);
    free(longer);
    return rc;
}

int llama_range_init(struct llama_engine *g, struct err *e)
{
    struct engine_limits *limits = &g->base.limits;
    if (!g->mem || limits->handoff == ENGINE_HANDOFF_NONE) {
        limits->handoff = ENGINE_HANDOFF_NONE;
        return 0;
    }
    blob_scratch_init(&g->blob_scratch, limits->n_ctx);
    struct err why = {0};
    int rc = layout_learn(g, &why);
    if (rc == ERR_ENGINE || rc == ERR_CANCELLED)
        return err_set(e, rc, "'%s' loads but does not compute: %s", g->base.identity.model,
                       why.message);
    if (rc != 0) {
        log_warn("llama", "no hand-off for this model: %s", why.message);
        limits->handoff = ENGINE_HANDOFF_NONE;
        return 0;
    }
    if (g->layout.sections[0].v_trans == 0)
        g->base.identity.attention_layout |= 1;
    limits->kv_bytes_per_token = blob_bytes_per_token(&g->layout);
    limits->state_bytes = blob_state_bytes(&g->layout);
    return 0;
}

void llama_range_fini(struct llama_engine *g)
{
    blob_layout_fini(&g->layout);
    blob_scratch_fini(&g->blob_scratch);
}

// ---- what may cross ----------------------------------------------------------------------------

// Late state: a range carries the recurrent state only if it is the last one.
static struct blob_range range_of(const struct llama_engine *g, uint32_t p0, uint32_t p1, bool last)
{
    bool state = last || g->base.limits.handoff != ENGINE_HANDOFF_LATE_STATE;
    return (struct blob_range){.p0 = p0, .p1 = p1, .state = state};
}

static int range_check(const struct llama_engine *g, uint32_t seq, uint32_t p0, uint32_t p1,
                       struct err *e)
{
    if (g->base.limits.handoff == ENGINE_HANDOFF_NONE)
        return err_set(e, ERR_UNSUPPORTED, "this engine hands over no KV (mode none)");
    if (seq >= g->base.limits.n_seq || p0 >= p1 || p1 > g->base.limits.n_ctx)
        return err_set(e, ERR_INVALID,
                       "range [%" PRIu32 ", %" PRIu32 ") of sequence %" PRIu32 " (%" PRIu32
                       " sequences, %" PRIu32 " cells)",
                       p0, p1, seq, g->base.limits.n_seq, g->base.limits.n_ctx);
    if (g->base.limits.handoff == ENGINE_HANDOFF_WHOLE && p0 != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "this model hands over its whole state only, not [%" PRIu32 ", %" PRIu32 ")",
                       p0, p1);
    if (g->seqs[seq].n_shifts > 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "sequence %" PRIu32 " holds an image whose rows share positions; such "
                       "sequences are not handed over",
                       seq);
    return 0;
}

static int export_check(const struct llama_engine *g, uint32_t seq, uint32_t p0, uint32_t p1,
                        bool last, struct err *e)
{
    int rc = range_check(g, seq, p0, p1, e);
    if (rc != 0)
        return rc;
    const struct llama_seq *s = &g->seqs[seq];
    if (p1 > s->held)
        return err_set(e, ERR_INVALID,
                       "export of [%" PRIu32 ", %" PRIu32 "): sequence %" PRIu32 " holds %" PRIu32
                       " positions",
                       p0, p1, seq, s->held);
    bool state = g->recurrent && range_of(g, p0, p1, last).state;
    if ((state || g->base.limits.handoff == ENGINE_HANDOFF_WHOLE) &&
        (p1 != s->held || s->incomplete))
        return err_set(e, ERR_INVALID,
                       "export of [%" PRIu32 ", %" PRIu32 "): the state of sequence %" PRIu32
                       " stands after %" PRIu32 " positions",
                       p0, p1, seq, s->held);
    if (g->exporting)
        return err_set(e, ERR_BUSY, "another export is in progress");
    return 0;
}

size_t llama_range_bytes(struct engine *base, uint32_t seq, uint32_t p0, uint32_t p1, bool last)
{
    struct llama_engine *g = llama_of(base);
    struct blob_range range = range_of(g, p0, p1, last);
    (void)seq;
    return g->layout.known && p0 < p1 ? blob_bytes_max(&g->layout, &range) : 0;
}

// ---- out ---------------------------------------------------------------------------------------

static size_t state_write(struct llama_engine *g, uint32_t seq, uint32_t p0, uint32_t p1, void *buf,
                          size_t cap)
{
    if (p0 == 0 && p1 == g->seqs[seq].held)
        return llama_state_seq_get_data(g->ctx, buf, cap, (llama_seq_id)seq);
    llama_memory_seq_cp(g->mem, (llama_seq_id)seq, g->scratch, (llama_pos)p0, (llama_pos)p1);
    size_t n = llama_state_seq_get_data(g->ctx, buf, cap, g->scratch);
    llama_memory_seq_rm(g->mem, g->scratch, -1, -1);
    return n;
}

int llama_range_export(struct engine *base, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                       void *buf, size_t cap, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    int rc = export_check(g, seq, p0, p1, last, e);
    if (rc == 0)
        rc = llama_home_return(g, seq, e);
    if (rc != 0)
        return rc;
    llama_log_begin();
    size_t n = state_write(g, seq, p0, p1, buf, cap);
    const char *why = llama_log_end();
    if (n == 0)
        return err_set(e, ERR_ENGINE,
                       "llama.cpp could not write [%" PRIu32 ", %" PRIu32 ") into %zu bytes (%s)",
                       p0, p1, cap, why);
    if (g->recurrent && !range_of(g, p0, p1, last).state)
        n = blob_state_drop(&g->layout, buf, n);
    g->exporting = true;
    g->export_len = n;
    return 0;
}

int llama_range_poll(struct engine *base, size_t *len, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    if (!g->exporting)
        return err_set(e, ERR_INVALID, "no export is in progress");
    g->exporting = false;
    *len = g->export_len;
    return ENGINE_EXPORT_DONE;
}

// ---- in ----------------------------------------------------------------------------------------

static int state_read_error(struct llama_engine *g, llama_seq_id seq, size_t n, size_t len,
                            const char *why, struct err *e)
{
    llama_memory_seq_rm(g->mem, seq, -1, -1);
    if (strstr(why, "available cells"))
        return err_set(e, ERR_BUSY,
                       "no room for the imported range in the KV cache of %" PRIu32 " cells",
                       g->base.limits.n_ctx);
    return err_set(e, ERR_ENGINE, "llama.cpp read %zu of %zu bytes of a range (%s)", n, len, why);
}

static int state_read(struct llama_engine *g, uint32_t seq, const void *data, size_t len,
                      struct err *e)
{
    bool whole = g->seqs[seq].held == 0;
    llama_seq_id to = whole ? (llama_seq_id)seq : g->scratch;
    llama_log_begin();
    size_t n = llama_state_seq_set_data(g->ctx, data, len, to);
    const char *why = llama_log_end();
    if (n != len)
        return state_read_error(g, to, n, len, why, e);
    if (whole)
        return 0;
    llama_memory_seq_cp(g->mem, g->scratch, (llama_seq_id)seq, -1, -1);
    llama_memory_seq_rm(g->mem, g->scratch, -1, -1);
    return 0;
}

int llama_range_import(struct engine *base, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                       const void *data, size_t len, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    int rc = range_check(g, seq, p0, p1, e);
    if (rc != 0)
        return rc;
    struct llama_seq *s = &g->seqs[seq];
    if (p0 != s->held && !(g->allow_gap && p0 > s->held))
        return err_set(e, ERR_INVALID,
                       "import of [%" PRIu32 ", %" PRIu32 "): sequence %" PRIu32 " holds %" PRIu32
                       " positions",
                       p0, p1, seq, s->held);
    struct blob_range range = range_of(g, p0, p1, last);
    rc = blob_check(&g->layout, &range, data, len, &g->blob_scratch, e);
    if (rc == 0)
        rc = llama_home_return(g, seq, e);
    if (rc == 0)
        rc = state_read(g, seq, data, len, e);
    if (rc != 0)
        return rc;
    if (g->blob_scratch.window_from > p0)
        s->window_from = g->blob_scratch.window_from;
    s->held = p1;
    s->incomplete = g->recurrent && !range.state;
    return 0;
}
