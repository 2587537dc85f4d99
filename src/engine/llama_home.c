// Where a sequence lives. With more than one sequence there are two caches of the same model:
//
//   g->ctx       one cache for all (unified). Ranges are copied between sequences without moving a byte, so
//                hand-offs arrive here and leave from here. But every row of a step looks at the cells of
//                every sequence, kept ones included: eight answers at depth 256 decode 10 % slower
//                than apart, at depth 900 17 %.
//   g->streams   a cache of its own for every sequence. A range cannot be copied here, a whole one can.
//
// A sequence begins in the first. `settle` takes it into the second, when it is going to decode: an empty
// one for nothing, a full one by writing its state to memory and reading it back, once. What is settled
// and must be exported from or imported into comes back in the same way.
//
// The states of the two caches differ in their head only: a count of streams, and for every stream a
// count of cells, zero but for the one that is meant.
#include "engine/llama_impl.h"

#include "base/buf.h"
#include "base/log.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define STREAM_COUNT_AT BLOB_HEAD_BYTES
#define CELLS_AT (BLOB_HEAD_BYTES + 4)

// Memory for one state, kept from move to move: new pages cost more than the copy.
uint8_t *llama_home_staging(struct llama_engine *g, size_t bytes)
{
    if (bytes > g->staging_cap) {
        uint8_t *more = realloc(g->staging, bytes);
        if (!more)
            return NULL;
        g->staging = more;
        g->staging_cap = bytes;
    }
    return g->staging;
}

struct home {
    struct llama_context *ctx;
    llama_memory_t mem;
};

static int state_move(struct llama_engine *g, struct home from, struct home to, uint32_t seq,
                      struct err *e)
{
    uint32_t n = g->base.limits.n_seq;
    size_t others = 4 * (size_t)(n - 1),
           bytes = llama_state_seq_get_size(from.ctx, (llama_seq_id)seq);
    uint8_t *state = llama_home_staging(g, bytes + others);
    size_t len = state ? llama_state_seq_get_data(from.ctx, state, bytes, (llama_seq_id)seq) : 0;
    if (len == 0)
        return err_set(e, ERR_ENGINE, "sequence %" PRIu32 " could not be moved: %zu bytes", seq,
                       bytes);
    if (to.ctx == g->streams) {
        le_put32(state + STREAM_COUNT_AT, n);
        memset(state + len, 0, others);
        len += others;
    } else { // the counts of the streams before ours go, those behind it are at the end
        size_t before = 4 * (size_t)seq;
        le_put32(state + STREAM_COUNT_AT, 1);
        memmove(state + CELLS_AT, state + CELLS_AT + before, len - CELLS_AT - before);
        len -= others;
    }
    llama_log_begin();
    size_t taken = llama_state_seq_set_data(to.ctx, state, len, (llama_seq_id)seq);
    const char *why = llama_log_end();
    if (taken == len) {
        llama_memory_seq_rm(from.mem, (llama_seq_id)seq, -1, -1);
        return 0;
    }
    llama_memory_seq_rm(to.mem, (llama_seq_id)seq, -1, -1);
    return err_set(e, strstr(why, "available cells") ? ERR_BUSY : ERR_ENGINE,
                   "sequence %" PRIu32 " could not be moved (%s)", seq, why);
}

static struct home shared_home(const struct llama_engine *g)
{
    return (struct home){g->ctx, g->mem};
}

static struct home own_home(const struct llama_engine *g)
{
    return (struct home){g->streams, llama_get_memory(g->streams)};
}

// The second cache is made when it is first needed: a server with one user never pays for it.
static bool streams_open(struct llama_engine *g)
{
    if (g->streams)
        return true;
    g->streams = llama_init_from_model(g->model, g->stream_params);
    if (g->streams) {
        llama_threads_attach(g, g->streams);
        return true;
    }
    log_warn("llama", "no memory for caches apart: answers decode together, and slower");
    g->base.limits.n_ctx_stream = 0;
    return false;
}

int llama_home_settle(struct engine *base, uint32_t seq, uint32_t upto, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    if (seq >= base->limits.n_seq)
        return err_set(e, ERR_INVALID, "settle: sequence %" PRIu32 " of %" PRIu32, seq,
                       base->limits.n_seq);
    struct llama_seq *s = &g->seqs[seq];
    if (s->settled || s->held > upto || upto > base->limits.n_ctx_stream || !streams_open(g))
        return 0;
    int rc = s->held > 0 ? state_move(g, shared_home(g), own_home(g), seq, e) : 0;
    if (rc == 0)
        s->settled = true;
    return rc;
}

bool llama_home_settled(const struct engine *base, uint32_t seq)
{
    return seq < base->limits.n_seq && ((const struct llama_engine *)base)->seqs[seq].settled;
}

int llama_home_rejoin(struct engine *base, uint32_t seq, struct err *e)
{
    if (seq >= base->limits.n_seq)
        return err_set(e, ERR_INVALID, "rejoin: sequence %" PRIu32 " of %" PRIu32, seq,
                       base->limits.n_seq);
    return llama_home_return(llama_of(base), seq, e);
}

int llama_home_return(struct llama_engine *g, uint32_t seq, struct err *e)
{
    struct llama_seq *s = &g->seqs[seq];
    if (!s->settled)
        return 0;
    int rc = s->held > 0 ? state_move(g, own_home(g), shared_home(g), seq, e) : 0;
    if (rc == 0)
        s->settled = false;
    return rc;
}

llama_memory_t llama_home_memory(const struct llama_engine *g, uint32_t seq)
{
    return g->seqs[seq].settled ? llama_get_memory(g->streams) : g->mem;
}

// A cache of attention alone moves whole; what else there is (windows, recurrent state) stays together.
static bool moves(const struct llama_engine *g)
{
    return g->base.limits.n_seq > 1 && g->layout.known && g->layout.n_sections == 1 &&
           g->layout.sections[0].kind == BLOB_ATTENTION && g->layout.sections[0].n_stream == 1 &&
           !g->recurrent && !g->slides && !g->spread; // moving it would take it over the network
}

// The cells of one sequence, as llama.cpp will round them.
static uint32_t stream_cells(const struct llama_engine *g)
{
    return (g->base.limits.n_ctx / g->base.limits.n_seq + 255) / 256 * 256;
}

void llama_home_init(struct llama_engine *g, const struct llama_context_params *shared)
{
    if (!moves(g))
        return;
    g->base.limits.n_ctx_stream = stream_cells(g);
    g->stream_params = *shared;
    g->stream_params.n_ctx = g->base.limits.n_ctx_stream * g->base.limits.n_seq;
    g->stream_params.n_seq_max = g->base.limits.n_seq;
    g->stream_params.kv_unified = false;
    g->stream_params.cb_eval = NULL;
}

void llama_home_fini(struct llama_engine *g)
{
    if (g->streams)
        llama_free(g->streams);
    free(g->staging);
}
