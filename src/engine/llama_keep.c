// Prefixes: a sequence that begins as another one, and ways back for sequences that cannot be cut.
//
// A fork copies no KV: in the shared cache the cells of [0, p1) are given to both sequences. A checkpoint is
// what llama.cpp calls the partial state: the recurrent state and the sliding windows, without the KV of full
// attention, which stays in place. Going back reads it in, after which the sequence may be cut at that place.
#include "engine/llama_impl.h"

#include "base/buf.h"

#include <inttypes.h>
#include <string.h>

// Before llama.cpp's bytes: magic u32, position u32, window_from u32, 0 u32.
#define HEAD_BYTES 16
#define HEAD_MAGIC 0x4b504b4cu // "LKPK"

// A cache of another kind than these aborts when it is asked to copy a range, and its partial state is not enough
// to go on from.
static bool is_known(const struct llama_engine *g)
{
    for (size_t i = 0; i < g->layout.n_sections; i++)
        if (g->layout.sections[i].kind != BLOB_ATTENTION &&
            g->layout.sections[i].kind != BLOB_RECURRENT)
            return false;
    return g->layout.known;
}

void llama_keep_init(struct llama_engine *g)
{
    g->base.limits.cuts =
        g->mem != NULL && !g->recurrent && g->base.identity.n_swa == 0 && is_known(g);
}

static int seq_check(const struct llama_engine *g, const char *what, uint32_t seq, struct err *e)
{
    if (seq >= g->base.limits.n_seq)
        return err_set(e, ERR_INVALID, "%s: sequence %" PRIu32 " of %" PRIu32, what, seq,
                       g->base.limits.n_seq);
    return 0;
}

// ---- forks --------------------------------------------------------------------------------------

static int fork_check(const struct llama_engine *g, uint32_t src, uint32_t dst, uint32_t p1,
                      struct err *e)
{
    int rc = seq_check(g, "fork", src, e);
    if (rc != 0 || (rc = seq_check(g, "fork", dst, e)) != 0)
        return rc;
    const struct llama_seq *from = &g->seqs[src];
    if (src == dst || g->seqs[dst].held > 0)
        return err_set(e, ERR_INVALID, "fork: sequence %" PRIu32 " is not empty", dst);
    if (p1 > from->held)
        return err_set(e, ERR_INVALID,
                       "fork: [0, %" PRIu32 ") of sequence %" PRIu32 ", which holds %" PRIu32
                       " positions",
                       p1, src, from->held);
    if (!is_known(g))
        return err_set(e, ERR_UNSUPPORTED, "fork: the cache of model '%s' copies no ranges",
                       g->base.identity.model);
    if (p1 < from->held && p1 > 0 && (g->recurrent || llama_step_window_gone(g, src, p1)))
        return err_set(e, ERR_UNSUPPORTED,
                       "fork: the %s of sequence %" PRIu32
                       " is no longer that of position %" PRIu32,
                       g->recurrent ? "recurrent state" : "sliding window", src, p1);
    rc = llama_media_cut_check(from, p1, e);
    return rc == 0 ? llama_step_ready(g, src, e) : rc;
}

static void share(struct llama_engine *g, uint32_t src, llama_seq_id dst, uint32_t p1)
{
    llama_memory_seq_cp(g->mem, (llama_seq_id)src, dst, 0, llama_media_pos(&g->seqs[src], p1));
}

// The cells of a sliding window are used again when they fall out of it, but not while two sequences have
// them: soon none would be left. So the fork gets the window as it is at p1 in cells of its own.
static int window_own(struct llama_engine *g, uint32_t src, uint32_t dst, uint32_t p1,
                      struct err *e)
{
    llama_seq_id to = (llama_seq_id)dst;
    llama_state_seq_flags partial = LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY;
    llama_log_begin();
    share(g, src, g->scratch, p1);
    size_t bytes = llama_state_seq_get_size_ext(g->ctx, g->scratch, partial), n = 0, taken = 0;
    uint8_t *window = llama_home_staging(g, bytes);
    if (window)
        n = llama_state_seq_get_data_ext(g->ctx, window, bytes, g->scratch, partial);
    llama_memory_seq_rm(g->mem, g->scratch, -1, -1);
    if (n > 0)
        taken = llama_state_seq_set_data_ext(g->ctx, window, n, to, partial);
    const char *why = llama_log_end();
    if (n > 0 && taken == n)
        return 0;
    llama_memory_seq_rm(g->mem, to, -1, -1);
    return err_set(e, strstr(why, "available cells") ? ERR_BUSY : ERR_ENGINE,
                   "fork: %zu of %zu bytes of the sliding window at %" PRIu32 " were copied (%s)",
                   taken, bytes, p1, why);
}

int llama_keep_fork(struct engine *base, uint32_t src, uint32_t dst, uint32_t p1, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    int rc = fork_check(g, src, dst, p1, e);
    if (rc == 0 && p1 > 0)
        rc = llama_home_return(g, src, e);
    if (rc != 0 || p1 == 0)
        return rc;
    share(g, src, (llama_seq_id)dst, p1);
    if (base->identity.n_swa > 0 && (rc = window_own(g, src, dst, p1, e)) != 0)
        return rc;
    g->seqs[dst] = g->seqs[src];
    g->seqs[dst].held = p1;
    llama_media_cut(&g->seqs[dst], p1);
    return 0;
}

// ---- checkpoints --------------------------------------------------------------------------------

static int checkpoint_check(const struct llama_engine *g, uint32_t seq, struct err *e)
{
    if (!is_known(g))
        return err_set(e, ERR_UNSUPPORTED, "the cache of model '%s' knows no checkpoints",
                       g->base.identity.model);
    return seq_check(g, "checkpoint", seq, e);
}

size_t llama_keep_bytes(struct engine *base, uint32_t seq)
{
    struct llama_engine *g = llama_of(base);
    if (!g->mem || base->limits.cuts || !is_known(g) || seq >= base->limits.n_seq)
        return 0;
    return HEAD_BYTES + llama_state_seq_get_size_ext(g->ctx, (llama_seq_id)seq,
                                                     LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
}

int llama_keep_save(struct engine *base, uint32_t seq, void *buf, size_t cap, size_t *len,
                    struct err *e)
{
    struct llama_engine *g = llama_of(base);
    size_t bytes = llama_keep_bytes(base, seq);
    int rc = checkpoint_check(g, seq, e);
    if (rc != 0 || (rc = llama_step_ready(g, seq, e)) != 0)
        return rc;
    *len = 0;
    if (bytes == 0)
        return 0;
    if (cap < bytes)
        return err_set(e, ERR_RANGE, "a checkpoint of %zu bytes into %zu", bytes, cap);
    uint8_t *out = buf;
    le_put32(out, HEAD_MAGIC);
    le_put32(out + 4, g->seqs[seq].held);
    le_put32(out + 8, g->seqs[seq].window_from);
    le_put32(out + 12, 0);
    llama_log_begin();
    size_t n = llama_state_seq_get_data_ext(g->ctx, out + HEAD_BYTES, bytes - HEAD_BYTES,
                                            (llama_seq_id)seq, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    const char *why = llama_log_end();
    if (n == 0)
        return err_set(e, ERR_ENGINE, "llama.cpp could not write a checkpoint of %zu bytes (%s)",
                       bytes, why);
    *len = HEAD_BYTES + n;
    return 0;
}

static int restore_check(const struct llama_engine *g, uint32_t seq, uint32_t p,
                         const uint8_t *data, size_t len, struct err *e)
{
    int rc = checkpoint_check(g, seq, e);
    if (rc != 0)
        return rc;
    if (p == 0 || p > g->seqs[seq].held)
        return err_set(e, ERR_INVALID,
                       "a checkpoint at %" PRIu32 "; sequence %" PRIu32 " holds %" PRIu32
                       " positions",
                       p, seq, g->seqs[seq].held);
    if (!g->base.limits.cuts &&
        (len <= HEAD_BYTES || le_get32(data) != HEAD_MAGIC || le_get32(data + 4) != p))
        return err_set(e, ERR_INVALID, "%zu bytes that are no checkpoint at %" PRIu32, len, p);
    return 0;
}

// The state first: a recurrent model is only cut where its state already stands.
int llama_keep_restore(struct engine *base, uint32_t seq, uint32_t p, const void *data, size_t len,
                       struct err *e)
{
    struct llama_engine *g = llama_of(base);
    const uint8_t *in = data;
    int rc = restore_check(g, seq, p, in, len, e);
    if (rc != 0)
        return rc;
    if (base->limits.cuts)
        return llama_step_remove(base, seq, p, UINT32_MAX, e);
    llama_log_begin();
    size_t n = llama_state_seq_set_data_ext(g->ctx, in + HEAD_BYTES, len - HEAD_BYTES,
                                            (llama_seq_id)seq, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
    const char *why = llama_log_end();
    if (n != len - HEAD_BYTES)
        return err_set(e, ERR_ENGINE, "llama.cpp read %zu of %zu bytes of a checkpoint (%s)", n,
                       len - HEAD_BYTES, why);
    if (!llama_memory_seq_rm(g->mem, (llama_seq_id)seq, llama_media_pos(&g->seqs[seq], p), -1))
        return err_set(e, ERR_ENGINE, "llama.cpp could not cut sequence %" PRIu32 " at %" PRIu32,
                       seq, p);
    g->seqs[seq].held = p;
    llama_media_cut(&g->seqs[seq], p);
    g->seqs[seq].window_from = le_get32(in + 8);
    g->seqs[seq].incomplete = false;
    return 0;
}
