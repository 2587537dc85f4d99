#include "train/graph_impl.h"

#include "base/buf.h"

#include <ggml-cpu.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define BATCH_TOKENS 512              // of the samples that are computed together
#define LOSS_BYTES ((size_t)64 << 20) // of logits that are made at a time
#define NODES_PER_LAYER 512
#define NODES_PER_BLOCK 64

uint32_t graph_targets(const struct graph_sample *s)
{
    uint32_t n = 0;
    for (uint32_t i = 1; i < s->n; i++)
        n += s->supervised[i];
    return n;
}

static size_t batch_targets(const struct graph_batch *batch)
{
    size_t n = 0;
    for (size_t i = 0; i < batch->n; i++)
        n += graph_targets(batch->samples[i]);
    return n;
}

// ---- one graph -------------------------------------------------------------------------------------

static void positions_set(const struct build *b)
{
    int32_t *positions = mem_alloc((size_t)b->n * sizeof *positions), *at = positions;
    size_t offset = 0;
    for (size_t i = 0; i < b->batch->n; i++) {
        const struct graph_sample *s = b->batch->samples[i];
        for (uint32_t k = 0; k < s->n; k++)
            *at++ = (int32_t)k;
        ggml_backend_tensor_set(b->tokens, s->tokens, offset, s->n * sizeof *s->tokens);
        offset += s->n * sizeof *s->tokens;
    }
    ggml_backend_tensor_set(b->positions, positions, 0, (size_t)b->n * sizeof *positions);
    free(positions);
}

static void mask_set(const struct build *b)
{
    size_t n = (size_t)b->n;
    float *mask = mem_alloc(n * n * sizeof *mask);
    for (size_t i = 0; i < n; i++)
        for (size_t k = i + 1; k < n; k++)
            mask[i * n + k] = -INFINITY;
    ggml_backend_tensor_set(b->mask, mask, 0, n * n * sizeof *mask);
    free(mask);
}

// A supervised prediction: row `from` of x says `token`.
struct prediction {
    int32_t from, token;
};

static struct prediction *predictions_list(const struct graph_batch *batch)
{
    struct prediction *list = mem_alloc((batch_targets(batch) + 1) * sizeof *list), *at = list;
    int32_t first = 0;
    for (size_t i = 0; i < batch->n; i++) {
        const struct graph_sample *s = batch->samples[i];
        for (uint32_t k = 1; k < s->n; k++)
            if (s->supervised[k])
                *at++ = (struct prediction){first + (int32_t)k - 1, s->tokens[k]};
        first += (int32_t)s->n;
    }
    return list;
}

static void blocks_set(const struct build *b)
{
    struct prediction *list = predictions_list(b->batch), *at = list;
    int32_t *rows = mem_alloc((size_t)b->blocks[0].n * sizeof *rows); // no block is larger
    int32_t *hot = mem_alloc((size_t)b->blocks[0].n * sizeof *hot);
    for (size_t i = 0; i < b->n_blocks; i++) {
        const struct loss_block *k = &b->blocks[i];
        for (uint32_t row = 0; row < k->n; row++, at++) {
            rows[row] = at->from;
            hot[row] = (int32_t)(row * b->g->base->n_vocab) + at->token;
        }
        ggml_backend_tensor_set(k->rows, rows, 0, k->n * sizeof *rows);
        ggml_backend_tensor_set(k->hot, hot, 0, k->n * sizeof *hot);
    }
    free(list);
    free(rows);
    free(hot);
}

static int compute(const struct build *b, double *loss, struct err *e)
{
    ggml_backend_sched_reset(b->g->sched);
    if (!ggml_backend_sched_alloc_graph(b->g->sched, b->cg))
        return err_set(e, ERR_RANGE,
                       "no memory for samples of %" PRId64
                       " tokens; free some, keep the base as it is in the file (--weights "
                       "quantised), or take shorter examples",
                       b->n);
    positions_set(b);
    if (b->mask)
        mask_set(b);
    blocks_set(b);
    enum ggml_status status = ggml_backend_sched_graph_compute(b->g->sched, b->cg);
    if (status == GGML_STATUS_ABORTED)
        return err_set(e, ERR_CANCELLED, "stopped");
    if (status != GGML_STATUS_SUCCESS)
        return err_set(e, ERR_ENGINE, "ggml could not compute samples of %" PRId64 " tokens (%d)",
                       b->n, (int)status);
    *loss = 0;
    for (size_t i = 0; i < b->n_blocks; i++) {
        float likely = 0;
        ggml_backend_tensor_get(b->blocks[i].likely, &likely, 0, sizeof likely);
        *loss -= (double)likely;
    }
    return 0;
}

static int sample_check(const struct graph *g, const struct graph_sample *s, struct err *e)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->tokens[i] < 0 || (uint32_t)s->tokens[i] >= g->base->n_vocab)
            return err_set(e, ERR_INVALID,
                           "token %" PRIu32 " is %" PRId32 "; the vocabulary has 0..%" PRIu32, i,
                           s->tokens[i], g->base->n_vocab - 1);
    if (s->n < 2 || graph_targets(s) == 0)
        return err_set(e, ERR_INVALID, "a sample without a supervised token");
    return 0;
}

static void blocks_make(struct build *b)
{
    size_t targets = batch_targets(b->batch);
    size_t most = LOSS_BYTES / (sizeof(float) * b->g->base->n_vocab) + 1;
    b->n_blocks = (targets + most - 1) / most;
    b->blocks = mem_alloc(b->n_blocks * sizeof *b->blocks);
    for (size_t i = 0; i < b->n_blocks; i++) {
        size_t left = targets - i * most;
        b->blocks[i].n = (uint32_t)(left < most ? left : most);
    }
}

static size_t nodes_needed(const struct graph *g, size_t n_blocks)
{
    return (size_t)g->base->n_layer * NODES_PER_LAYER + n_blocks * NODES_PER_BLOCK + 64;
}

// Memory for the tensors' descriptions, and a scheduler with room for the graph: both grow only.
static int room_make(struct graph *g, size_t n_blocks, struct err *e)
{
    size_t nodes = nodes_needed(g, n_blocks);
    if (nodes <= g->n_nodes)
        return 0;
    ggml_backend_t backends[2] = {g->base->backend, g->fallback};
    if (g->sched)
        ggml_backend_sched_free(g->sched);
    g->sched = ggml_backend_sched_new(backends, NULL, g->fallback ? 2 : 1, nodes, false, true);
    free(g->arena);
    g->arena_bytes = 2 * nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false);
    g->arena = malloc(g->arena_bytes);
    g->n_nodes = g->arena && g->sched ? nodes : 0;
    return g->n_nodes ? 0 : err_set(e, ERR_RANGE, "no memory for a graph of %zu nodes", nodes);
}

static void lengths_set(struct build *b)
{
    b->lengths = mem_alloc(b->batch->n * sizeof *b->lengths);
    for (size_t i = 0; i < b->batch->n; i++) {
        b->lengths[i] = b->batch->samples[i]->n;
        b->n += b->lengths[i];
    }
    b->shape = (struct attention_shape){b->lengths, b->batch->n,
                                        1.0f / sqrtf((float)b->g->base->head_dim)};
}

size_t graph_batch_fit(const struct graph *g, const struct graph_sample *const *samples, size_t n)
{
    size_t tokens = samples[0]->n, fit = 1;
    while (g->own && fit < n && tokens + samples[fit]->n <= BATCH_TOKENS)
        tokens += samples[fit++]->n;
    return fit;
}

static int batch_check(const struct graph *g, const struct graph_batch *batch, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < batch->n; i++)
        rc = sample_check(g, batch->samples[i], e);
    if (rc == 0 && (batch->n == 0 || (batch->n > 1 && !g->own)))
        rc = err_set(e, ERR_INVALID, "%zu samples do not go into one graph", batch->n);
    return rc;
}

int graph_batch_run(struct graph *g, const struct graph_batch *batch, double *loss, struct err *e)
{
    struct build b = {.g = g, .batch = batch};
    int rc = batch_check(g, batch, e);
    if (rc != 0)
        return rc;
    blocks_make(&b);
    lengths_set(&b);
    rc = room_make(g, b.n_blocks, e);
    if (rc == 0) {
        struct ggml_init_params p = {g->arena_bytes, g->arena, true};
        b.c = ggml_init(p);
        b.cg = ggml_new_graph_custom(b.c, g->n_nodes, false);
        b.tapes = mem_alloc(g->base->n_layer * sizeof *b.tapes);
        graph_build(&b);
        rc = compute(&b, loss, e);
        free(b.tapes);
        ggml_free(b.c);
    }
    free(b.lengths);
    free(b.blocks);
    return rc;
}

int graph_run(struct graph *g, const struct graph_sample *s, bool backward, float weight,
              double *loss, struct err *e)
{
    const struct graph_batch batch = {&s, 1, backward, weight};
    return graph_batch_run(g, &batch, loss, e);
}

// ---- making ----------------------------------------------------------------------------------------------------

static bool is_stopped(void *ctx)
{
    const atomic_bool *stop = ctx;
    return atomic_load_explicit(stop, memory_order_relaxed); // a late sight only delays the stop
}

static bool backend_is_cpu(ggml_backend_t b)
{
    return ggml_backend_dev_type(ggml_backend_get_device(b)) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

int graph_new(const struct base_model *base, const struct lora *lora, const atomic_bool *stop,
              struct graph **out, struct err *e)
{
    struct graph *g = mem_alloc(sizeof *g);
    bool cpu = backend_is_cpu(base->backend);
    g->base = base;
    g->lora = lora;
    g->stop = stop;
    g->own = cpu && base->dense;
    if (!cpu)
        g->fallback = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, NULL);
    if (stop && cpu)
        ggml_backend_cpu_set_abort_callback(base->backend, is_stopped, (void *)(uintptr_t)stop);
    int rc = room_make(g, 1, e);
    if (rc == 0)
        *out = g;
    else
        graph_free(g);
    return rc;
}

void graph_free(struct graph *g)
{
    if (!g)
        return;
    if (g->sched)
        ggml_backend_sched_free(g->sched);
    if (g->fallback)
        ggml_backend_free(g->fallback);
    if (g->stop && !g->fallback)
        ggml_backend_cpu_set_abort_callback(g->base->backend, NULL, NULL);
    free(g->arena);
    free(g);
}
