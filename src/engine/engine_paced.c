// An engine slowed down to given rates, so that one machine can stand for another.
//
// A step gets a slot: 1/prefill rate for every row without logits, plus one 1/decode rate if any
// row wants logits: a machine that is bound by reading its weights decodes a small batch in the
// time of one token. The step returns when its slot is over; one that took longer in truth counts as
// an overrun, for then the figures say nothing. A layer's tile is handed on no earlier than the
// emulated machine would have it. Exports and imports are not paced: they run between slots and
// show what the software itself costs.
#include "engine/engine.h"

#include "base/buf.h"
#include "base/clock.h"

#include <stdatomic.h>
#include <stdlib.h>

// nanosleep comes back this much late at worst on an idle system; the rest of a wait is spun.
#define SPIN_NS (150 * NS_PER_US)
// An interrupt is noticed within this.
#define SLICE_NS (2 * NS_PER_MS)

struct paced {
    struct engine base;
    struct engine_ops ops; // a copy, so that what the inner engine lacks is NULL here too
    struct engine *inner;
    double prefill_row_ns, decode_step_ns; // 0: native speed
    struct engine_pace_counts counts;
    atomic_bool interrupted; // a flag alone: orders nothing, relaxed is enough
    engine_tile_callback *tile;
    void *tile_ctx;
    int64_t step_start_ns, step_slot_ns; // of the step that is running
    int64_t step_waited_ns;              // inside it, for tiles
};

static struct paced *paced_of(const struct engine *g)
{
    return (struct paced *)g;
}

static bool is_interrupted(struct paced *p)
{
    return atomic_load_explicit(&p->interrupted, memory_order_relaxed);
}

// False when somebody interrupted.
static bool wait_until(struct paced *p, int64_t deadline_ns)
{
    for (;;) {
        int64_t now = clock_now_ns(), left = deadline_ns - now;
        if (is_interrupted(p))
            return false;
        if (left <= 0)
            return true;
        if (left > SLICE_NS + SPIN_NS)
            clock_sleep_until(now + SLICE_NS);
        else if (left > SPIN_NS)
            clock_sleep_until(deadline_ns - SPIN_NS);
    }
}

static int64_t slot_ns(const struct paced *p, const struct engine_row *rows, size_t n)
{
    double ns = 0;
    bool decode = false;
    for (size_t i = 0; i < n; i++) {
        if (rows[i].want_logits)
            decode = true;
        else
            ns += p->prefill_row_ns;
    }
    return (int64_t)(ns + (decode ? p->decode_step_ns : 0));
}

// Work that does not fit its slot is an overrun, and so is a step that comes late all the same.
static void counts_update(struct paced *p, int64_t took_ns, int64_t slot)
{
    p->counts.steps++;
    if (slot <= 0)
        return;
    int64_t work_ns = took_ns > slot ? took_ns : took_ns - p->step_waited_ns;
    double ratio = (double)work_ns / (double)slot;
    if (ratio > 1)
        p->counts.overruns++;
    if (ratio > p->counts.worst_ratio)
        p->counts.worst_ratio = ratio;
}

static int paced_remove(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->remove(i, seq, p0, p1, e);
}

// Takes back what the inner engine computed in a step that was cancelled while it waited. Where it
// cannot (a recurrent model, or several sequences, of which one might refuse) the step simply ended
// early, and the next one is cancelled.
static int rows_forget(struct paced *p, const struct engine_row *rows, size_t n, struct err *e)
{
    for (size_t i = 1; i < n; i++)
        if (rows[i].seq != rows[0].seq)
            return 0;
    if (paced_remove(&p->base, rows[0].seq, rows[0].pos, UINT32_MAX, NULL) != 0)
        return 0;
    return err_set(e, ERR_CANCELLED, "the step was interrupted");
}

static int paced_step(struct engine *g, const struct engine_row *rows, size_t n, struct err *e)
{
    struct paced *p = paced_of(g);
    int64_t slot = slot_ns(p, rows, n), start = clock_now_ns();
    p->step_start_ns = start;
    p->step_slot_ns = slot;
    p->step_waited_ns = 0;
    int rc = p->inner->ops->step(p->inner, rows, n, e);
    if (rc != 0)
        return rc;
    counts_update(p, clock_now_ns() - start - p->step_waited_ns, slot);
    return wait_until(p, start + slot) ? 0 : rows_forget(p, rows, n, e);
}

// The emulated machine reaches layer i of n after (i+1)/(n+1) of the step: what follows the last
// layer counts as one more.
static void tile_pass(void *ctx, uint32_t layer, const void *data, size_t n)
{
    struct paced *p = ctx;
    int64_t share = p->step_slot_ns * (layer + 1) / (p->base.identity.n_layer + 1);
    int64_t now = clock_now_ns();
    wait_until(p, p->step_start_ns + share);
    p->step_waited_ns += clock_now_ns() - now;
    p->tile(p->tile_ctx, layer, data, n);
}

static int paced_tiles_set(struct engine *g, engine_tile_callback *callback, void *ctx)
{
    struct paced *p = paced_of(g);
    p->tile = callback;
    p->tile_ctx = ctx;
    return p->inner->ops->tiles_set(p->inner, callback != NULL ? tile_pass : NULL, p);
}

static void paced_interrupt(struct engine *g, bool on)
{
    struct paced *p = paced_of(g);
    atomic_store_explicit(&p->interrupted, on, memory_order_relaxed);
    p->inner->ops->interrupt(p->inner, on);
}

static void paced_free(struct engine *g)
{
    struct paced *p = paced_of(g);
    p->inner->ops->free(p->inner);
    free(p);
}

// An embedding reads its tokens as a prompt is read.
static int paced_embed(struct engine *g, const int32_t *tokens, size_t n, float *out, struct err *e)
{
    struct paced *p = paced_of(g);
    int64_t until = clock_now_ns() + (int64_t)(p->prefill_row_ns * (double)n);
    int rc = p->inner->ops->embed(p->inner, tokens, n, out, e);
    if (rc != 0 || wait_until(p, until))
        return rc;
    return err_set(e, ERR_CANCELLED, "the embedding was interrupted");
}

// What reads an image on the emulated machine takes no longer than its rows as tokens would.
static int paced_media_step(struct engine *g, const struct engine_media *m,
                            const struct engine_media_rows *rows, struct err *e)
{
    struct paced *p = paced_of(g);
    int64_t until = clock_now_ns() + (int64_t)(p->prefill_row_ns * rows->n);
    int rc = p->inner->ops->media_step(p->inner, m, rows, e);
    if (rc != 0 || wait_until(p, until))
        return rc;
    if (paced_remove(g, rows->seq, rows->pos, UINT32_MAX, NULL) != 0)
        return 0;
    return err_set(e, ERR_CANCELLED, "the step was interrupted");
}

// ---- passed through -----------------------------------------------------------------------------

static const float *paced_logits(struct engine *g, size_t row)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->logits(i, row);
}

static int paced_fork(struct engine *g, uint32_t src, uint32_t dst, uint32_t p1, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->fork(i, src, dst, p1, e);
}

static int paced_settle(struct engine *g, uint32_t seq, uint32_t upto, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->settle(i, seq, upto, e);
}

static int paced_rejoin(struct engine *g, uint32_t seq, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->rejoin(i, seq, e);
}

static size_t paced_checkpoint_bytes(struct engine *g, uint32_t seq)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->checkpoint_bytes(i, seq);
}

static int paced_checkpoint_save(struct engine *g, uint32_t seq, void *buf, size_t cap, size_t *len,
                                 struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->checkpoint_save(i, seq, buf, cap, len, e);
}

static int paced_checkpoint_restore(struct engine *g, uint32_t seq, uint32_t p, const void *data,
                                    size_t len, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->checkpoint_restore(i, seq, p, data, len, e);
}

static size_t paced_export_bytes(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1,
                                 bool last)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->export_bytes(i, seq, p0, p1, last);
}

static int paced_export_start(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                              void *buf, size_t cap, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->export_start(i, seq, p0, p1, last, buf, cap, e);
}

static int paced_export_poll(struct engine *g, size_t *len, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->export_poll(i, len, e);
}

static int paced_import(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                        const void *data, size_t len, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->import(i, seq, p0, p1, last, data, len, e);
}

static int paced_import_tile(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1,
                             uint32_t layer, const void *data, size_t len, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->import_tile(i, seq, p0, p1, layer, data, len, e);
}

static int paced_tokenize(struct engine *g, const char *text, size_t n, bool special, bool add_bos,
                          int32_t **tokens, size_t *n_tokens, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->tokenize(i, text, n, special, add_bos, tokens, n_tokens, e);
}

static size_t paced_piece(struct engine *g, int32_t token, char *out, size_t cap)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->piece(i, token, out, cap);
}

static bool paced_is_end(struct engine *g, int32_t token)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->is_end(i, token);
}

static int paced_render(struct engine *g, const json_t *request, json_t **rendered, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->render(i, request, rendered, e);
}

static int paced_parser_new(struct engine *g, const json_t *syntax, struct engine_parser **out,
                            struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->parser_new(i, syntax, out, e);
}

static void paced_parser_free(struct engine *g, struct engine_parser *parser)
{
    struct engine *i = paced_of(g)->inner;
    i->ops->parser_free(i, parser);
}

static json_t *paced_parser_put(struct engine *g, struct engine_parser *parser, const char *text,
                                size_t n, bool final)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->parser_put(i, parser, text, n, final);
}

static int paced_media_render(struct engine *g, const struct engine_source *source,
                              struct engine_prompt *out, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->media_render(i, source, out, e);
}

static void paced_media_free(struct engine *g, struct engine_media *m)
{
    struct engine *i = paced_of(g)->inner;
    i->ops->media_free(i, m);
}

static int paced_media_encode(struct engine *g, struct engine_media *m, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->media_encode(i, m, e);
}

static int paced_sampler_new(struct engine *g, const struct engine_sampling *s,
                             struct engine_sampler **out, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->sampler_new(i, s, out, e);
}

static void paced_sampler_free(struct engine *g, struct engine_sampler *sampler)
{
    struct engine *i = paced_of(g)->inner;
    i->ops->sampler_free(i, sampler);
}

static void paced_sampler_accept(struct engine *g, struct engine_sampler *sampler, int32_t token)
{
    struct engine *i = paced_of(g)->inner;
    i->ops->sampler_accept(i, sampler, token);
}

static int paced_adapter_load(struct engine *g, const char *path, uint32_t *id, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->adapter_load(i, path, id, e);
}

static void paced_adapter_drop(struct engine *g, uint32_t id)
{
    struct engine *i = paced_of(g)->inner;
    i->ops->adapter_drop(i, id);
}

static int paced_adapter_use(struct engine *g, uint32_t seq, uint32_t id, struct err *e)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->adapter_use(i, seq, id, e);
}

static int32_t paced_sample(struct engine *g, struct engine_sampler *sampler, size_t row)
{
    struct engine *i = paced_of(g)->inner;
    return i->ops->sample(i, sampler, row);
}

static const struct engine_ops paced_ops = {
    .name = "paced",
    .free = paced_free,
    .step = paced_step,
    .logits = paced_logits,
    .remove = paced_remove,
    .fork = paced_fork,
    .settle = paced_settle,
    .rejoin = paced_rejoin,
    .checkpoint_bytes = paced_checkpoint_bytes,
    .checkpoint_save = paced_checkpoint_save,
    .checkpoint_restore = paced_checkpoint_restore,
    .export_bytes = paced_export_bytes,
    .export_start = paced_export_start,
    .export_poll = paced_export_poll,
    .import = paced_import,
    .tiles_set = paced_tiles_set,
    .import_tile = paced_import_tile,
    .tokenize = paced_tokenize,
    .piece = paced_piece,
    .is_end = paced_is_end,
    .render = paced_render,
    .parser_new = paced_parser_new,
    .parser_free = paced_parser_free,
    .parser_put = paced_parser_put,
    .embed = paced_embed,
    .media_render = paced_media_render,
    .media_free = paced_media_free,
    .media_encode = paced_media_encode,
    .media_step = paced_media_step,
    .adapter_load = paced_adapter_load,
    .adapter_drop = paced_adapter_drop,
    .adapter_use = paced_adapter_use,
    .sampler_new = paced_sampler_new,
    .sampler_free = paced_sampler_free,
    .sampler_accept = paced_sampler_accept,
    .sample = paced_sample,
    .interrupt = paced_interrupt,
};

// ---- making one ---------------------------------------------------------------------------------

struct engine *engine_paced_new(struct engine *inner, double prefill_tokens_per_s,
                                double decode_tokens_per_s)
{
    struct paced *p = mem_alloc(sizeof *p);
    p->ops = paced_ops;
    if (inner->ops->tiles_set == NULL)
        p->ops.tiles_set = NULL;
    if (inner->ops->settle == NULL)
        p->ops.settle = NULL;
    if (inner->ops->rejoin == NULL)
        p->ops.rejoin = NULL;
    if (inner->ops->import_tile == NULL)
        p->ops.import_tile = NULL;
    if (inner->ops->adapter_load == NULL)
        p->ops.adapter_load = NULL;
    p->base.ops = &p->ops;
    p->base.identity = inner->identity;
    p->base.limits = inner->limits;
    p->inner = inner;
    p->prefill_row_ns = prefill_tokens_per_s > 0 ? 1e9 / prefill_tokens_per_s : 0;
    p->decode_step_ns = decode_tokens_per_s > 0 ? 1e9 / decode_tokens_per_s : 0;
    return &p->base;
}

struct engine_pace_counts engine_pace_get(const struct engine *g)
{
    if (g->ops->step != paced_step)
        return (struct engine_pace_counts){0};
    return paced_of(g)->counts;
}
