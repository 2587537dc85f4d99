// Computing: one batch of rows of several sequences, its logits, forgetting positions, interrupting.
//
// Everything a caller can get wrong is checked here against our own count of positions, since
// llama.cpp would assert. After an aborted or failed step the sequences are as before it; where the
// model keeps a recurrent state that is impossible, so such a model is interrupted between steps only,
// and a step that fails for another reason empties its sequences.
#include "engine/llama_impl.h"

#include "base/log.h"

#include <inttypes.h>
#include <string.h>

// A peer that exports a range long after computing it may have lost what its sliding window left behind.
// Such a range serves a transfer that goes on to its end, but not to continue from.
int llama_step_ready(const struct llama_engine *g, uint32_t seq, struct err *e)
{
    const struct llama_seq *s = &g->seqs[seq];
    uint32_t n_swa = g->base.identity.n_swa;
    uint32_t needed = s->held >= n_swa ? s->held - n_swa + 1 : 0;
    if (s->incomplete)
        return err_set(e, ERR_UNSUPPORTED,
                       "sequence %" PRIu32 " got ranges without the recurrent state that ends a "
                       "transfer; remove it and compute it from the start",
                       seq);
    if (g->slides && s->held > 0 && s->window_from > needed)
        return err_set(e, ERR_UNSUPPORTED,
                       "sequence %" PRIu32 " got ranges whose sliding window begins at %" PRIu32
                       ", not %" PRIu32 "; remove it and compute it from the start",
                       seq, s->window_from, needed);
    return 0;
}

// While a step is paused, of its sequences half of what they hold is being computed.
static bool under_way(const struct llama_engine *g, uint32_t seq)
{
    return g->inside && !g->seqs[seq].settled;
}

static int row_check(const struct llama_engine *g, const struct engine_row *row, size_t i,
                     struct err *e)
{
    if (row->seq >= g->base.limits.n_seq)
        return err_set(e, ERR_INVALID, "row %zu: sequence %" PRIu32 " of %" PRIu32, i, row->seq,
                       g->base.limits.n_seq);
    if (row->token < 0 || (uint32_t)row->token >= g->base.identity.n_vocab)
        return err_set(e, ERR_INVALID,
                       "row %zu: token %" PRId32 " is outside the vocabulary of %" PRIu32, i,
                       row->token, g->base.identity.n_vocab);
    const struct llama_seq *seq = &g->seqs[row->seq];
    if (g->inside && !seq->settled)
        return err_set(e, ERR_INVALID,
                       "row %zu: sequence %" PRIu32 " is not settled; inside a step only those "
                       "that are can be computed",
                       i, row->seq);
    if (row->pos != seq->next)
        return err_set(e, ERR_INVALID,
                       "row %zu: position %" PRIu32 " of sequence %" PRIu32
                       " does not continue it at %" PRIu32,
                       i, row->pos, row->seq, seq->next);
    return seq->next == seq->held ? llama_step_ready(g, row->seq, e) : 0;
}

static int rows_check(struct llama_engine *g, const struct engine_row *rows, size_t n,
                      struct err *e)
{
    uint32_t outputs = 0;
    for (uint32_t s = 0; s < g->base.limits.n_seq; s++)
        if (!under_way(g, s))
            g->seqs[s].next = g->seqs[s].held;
    for (size_t i = 0; i < n; i++) {
        int rc = row_check(g, &rows[i], i, e);
        if (rc != 0)
            return rc;
        g->seqs[rows[i].seq].next++;
        outputs += rows[i].want_logits;
    }
    if (outputs > g->max_outputs)
        return err_set(e, ERR_INVALID,
                       "%" PRIu32 " rows want logits, at most %" PRIu32 " may in one step", outputs,
                       g->max_outputs);
    return llama_adapter_check(g, rows, n, e);
}

// Lays the rows of one of the two caches into the batch; how many.
static int32_t batch_fill(const struct llama_engine *g, struct llama_pass *p,
                          const struct engine_row *rows, size_t n, bool settled)
{
    int32_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (g->seqs[rows[i].seq].settled != settled)
            continue;
        p->batch.token[k] = rows[i].token;
        p->batch.pos[k] = llama_media_pos(&g->seqs[rows[i].seq], rows[i].pos);
        p->batch.n_seq_id[k] = 1;
        p->batch.seq_id[k][0] = (llama_seq_id)rows[i].seq;
        p->batch.logits[k] = rows[i].want_logits;
        p->outputs[i] = (struct llama_output){rows[i].want_logits, settled, k++};
    }
    p->batch.n_tokens = k;
    return k;
}

// Takes out what a step that did not finish has left.
static void step_undo(struct llama_engine *g)
{
    for (uint32_t s = 0; s < g->base.limits.n_seq; s++) {
        struct llama_seq *seq = &g->seqs[s];
        if (seq->next == seq->held || under_way(g, s))
            continue;
        if (llama_memory_seq_rm(llama_home_memory(g, s), (llama_seq_id)s,
                                llama_media_pos(seq, seq->held), -1))
            continue;
        llama_memory_seq_rm(g->mem, (llama_seq_id)s, -1, -1);
        log_warn("llama", "sequence %" PRIu32 " lost its recurrent state in a failed step", s);
        *seq = (struct llama_seq){0};
    }
}

static int decode_error(struct llama_engine *g, int rc, const char *why, size_t n, struct err *e)
{
    step_undo(g);
    if (rc == 1)
        return err_set(e, ERR_BUSY, "no room for %zu tokens in the KV cache of %" PRIu32 " cells",
                       n, g->base.limits.n_ctx);
    if (rc == 2)
        return err_set(e, ERR_CANCELLED, "the step was interrupted");
    return err_set(e, ERR_ENGINE, "llama.cpp could not compute %zu tokens (%d%s%s)", n, rc,
                   *why ? ": " : "", why);
}

// The rows of one cache; 0 too when it has none.
static int rows_decode(struct llama_engine *g, const struct engine_row *rows, size_t n,
                       bool settled)
{
    struct llama_pass *p = &g->pass[g->inside];
    struct llama_context *ctx = settled ? g->streams : g->ctx;
    if (!ctx || batch_fill(g, p, rows, n, settled) == 0)
        return 0;
    llama_adapter_put(g, ctx, rows[0].seq);
    int rc = llama_decode(ctx, p->batch);
    if (rc == 0)
        llama_synchronize(ctx); // so that the time of a step is its own, on a GPU too
    return rc;
}

static void step_commit(struct llama_engine *g, size_t n)
{
    for (uint32_t s = 0; s < g->base.limits.n_seq; s++)
        if (!under_way(g, s))
            g->seqs[s].held = g->seqs[s].next;
    g->pass[g->inside].n_rows = n;
}

int llama_step(struct engine *base, const struct engine_row *rows, size_t n, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    g->pass[g->inside].n_rows = 0;
    if (!g->mem)
        return err_set(e, ERR_UNSUPPORTED,
                       "model '%s' (%s) does not generate: it keeps no KV cache",
                       base->identity.model, base->identity.arch);
    if (n == 0 || n > base->limits.n_batch)
        return err_set(e, ERR_INVALID, "a step of %zu rows; 1 to %" PRIu32 " are possible", n,
                       base->limits.n_batch);
    int rc = rows_check(g, rows, n, e);
    if (rc != 0)
        return rc;
    if (atomic_load_explicit(&g->interrupted, memory_order_relaxed))
        return err_set(e, ERR_CANCELLED, "the step was interrupted");
    if (!g->inside) {
        llama_tile_step(g, rows, n);
        llama_between_step(g, rows, n);
    }
    llama_log_begin();
    rc = rows_decode(g, rows, n, false);
    if (rc == 0)
        rc = rows_decode(g, rows, n, true);
    const char *why = llama_log_end();
    if (rc != 0)
        return decode_error(g, rc, why, n, e);
    step_commit(g, n);
    return 0;
}

struct llama_context *llama_step_source(const struct llama_engine *g, size_t row, int32_t *index)
{
    const struct llama_pass *p = &g->pass[g->inside];
    if (row >= p->n_rows || !p->outputs[row].wanted)
        return NULL;
    *index = p->outputs[row].index;
    return p->outputs[row].settled ? g->streams : g->ctx;
}

const float *llama_step_logits(struct engine *base, size_t row)
{
    int32_t index = 0;
    struct llama_context *ctx = llama_step_source(llama_of(base), row, &index);
    return ctx ? llama_get_logits_ith(ctx, index) : NULL;
}

bool llama_step_window_gone(const struct llama_engine *g, uint32_t seq, uint32_t p0)
{
    uint32_t n_swa = g->base.identity.n_swa;
    if (n_swa == 0 || g->recurrent)
        return false;
    llama_pos oldest = llama_memory_seq_pos_min(g->mem, (llama_seq_id)seq);
    uint32_t needed = p0 > n_swa ? p0 - n_swa : 0;
    return oldest > (llama_pos)needed;
}

int llama_step_remove(struct engine *base, uint32_t seq, uint32_t p0, uint32_t p1, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    if (seq >= base->limits.n_seq)
        return err_set(e, ERR_INVALID, "remove: sequence %" PRIu32 " of %" PRIu32, seq,
                       base->limits.n_seq);
    struct llama_seq *s = &g->seqs[seq];
    if (p0 >= s->held)
        return llama_step_ready(g, seq, e);
    if (p0 >= p1)
        return 0;
    int rc = llama_media_cut_check(s, p0, e);
    if (rc != 0)
        return rc;
    if (p1 < s->held)
        return err_set(e, ERR_INVALID,
                       "remove: [%" PRIu32 ", %" PRIu32 ") would leave a gap in sequence %" PRIu32
                       " of %" PRIu32 " positions",
                       p0, p1, seq, s->held);
    if (p0 > 0 && (g->recurrent || llama_step_window_gone(g, seq, p0)))
        return err_set(e, ERR_UNSUPPORTED,
                       "remove: the %s of sequence %" PRIu32 " cannot go back to position %" PRIu32
                       "; remove it from 0",
                       g->recurrent ? "recurrent state" : "sliding window", seq, p0);
    if (!llama_memory_seq_rm(llama_home_memory(g, seq), (llama_seq_id)seq, llama_media_pos(s, p0),
                             -1))
        return err_set(e, ERR_UNSUPPORTED,
                       "remove: llama.cpp cannot cut sequence %" PRIu32 " back to position %" PRIu32
                       "; remove it from 0",
                       seq, p0);
    s->held = p0;
    llama_media_cut(s, p0);
    if (p0 == 0)
        *s = (struct llama_seq){0};
    return 0;
}

void llama_step_interrupt(struct engine *base, bool on)
{
    atomic_store_explicit(&llama_of(base)->interrupted, on, memory_order_relaxed);
}

bool llama_step_aborted(void *ctx)
{
    struct llama_engine *g = ctx;
    return (g->embedding || !g->recurrent) &&
           atomic_load_explicit(&g->interrupted, memory_order_relaxed);
}
