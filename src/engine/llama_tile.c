// Tiles: the K and V rows that a step adds to one layer, given away as soon as that layer is through,
// and the other way round, a range put together layer by layer.
//
// ggml asks, node by node, which results somebody wants to see; computing stops there until we have looked.
// We want the first write into a K cache of a step, because its index tensor names the cells that the step
// uses, and every attention node, because by then its layer's rows are written.
#include "engine/llama_impl.h"

#include "base/buf.h"

#include <ggml-backend.h>
#include <ggml.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct llama_tiles {
    engine_tile_callback *callback; // NULL: off
    void *ctx;
    bool enabled; // the eval callback is installed and showed every layer in a trial

    // the step in progress
    bool on;         // its tiles are wanted
    uint32_t n_rows; // all of one sequence
    int64_t *cells;  // n_batch; of each row
    bool cells_known;
    uint8_t *rows; // K rows then V rows of one layer
    size_t rows_cap;

    struct tile_stage *stages; // limits.n_seq
};

// The range of a sequence that is being filled. Each sequence has its own: transfers may interleave.
struct tile_stage {
    uint32_t p0, p1, next_layer;
    uint8_t *blob; // from the first layer to the last: a whole chunk's KV, too much to keep
};

// ---- out -----------------------------------------------------------------------------------------------

// The cache tensor behind a view, if it is `what` ("k" or "v"); its layer in *layer.
static const struct ggml_tensor *cache_of(const struct ggml_tensor *t, char what, uint32_t *layer)
{
    const struct ggml_tensor *base = t->view_src ? t->view_src : t;
    char format[] = "cache_?_l%u%n";
    int n = 0;
    format[6] = what;
    if (sscanf(base->name, format, layer, &n) != 1 || base->name[n])
        return NULL;
    return base;
}

static bool cells_read(struct llama_tiles *t, const struct ggml_tensor *index)
{
    if (index->type != GGML_TYPE_I64 || ggml_nelements(index) != (int64_t)t->n_rows)
        return false;
    ggml_backend_tensor_get(index, t->cells, 0, t->n_rows * sizeof *t->cells);
    return true;
}

// Gathers the step's rows of one cache tensor, runs of neighbouring cells at once.
static bool rows_read(const struct llama_tiles *t, const struct ggml_tensor *cache,
                      size_t row_bytes, uint8_t *to)
{
    if (cache->nb[1] != row_bytes)
        return false;
    for (uint32_t i = 0; i < t->n_rows;) {
        uint32_t run = 1;
        while (i + run < t->n_rows && t->cells[i + run] == t->cells[i] + run)
            run++;
        if (t->cells[i] < 0 || t->cells[i] + run > cache->ne[1])
            return false;
        ggml_backend_tensor_get(cache, to, (size_t)t->cells[i] * row_bytes, run * row_bytes);
        to += run * row_bytes;
        i += run;
    }
    return true;
}

static void layer_deliver(struct llama_engine *g, struct ggml_tensor *attention)
{
    struct llama_tiles *t = g->tiles;
    uint32_t layer = 0, v_layer = 0;
    const struct ggml_tensor *k = cache_of(attention->src[1], 'k', &layer);
    const struct ggml_tensor *v = cache_of(attention->src[2], 'v', &v_layer);
    if (!k || !v || layer != v_layer || layer >= blob_tile_layers(&g->layout))
        return;
    size_t k_row = (size_t)blob_tile_row_bytes(&g->layout, layer, false);
    size_t v_row = (size_t)blob_tile_row_bytes(&g->layout, layer, true);
    if (rows_read(t, k, k_row, t->rows) && rows_read(t, v, v_row, t->rows + k_row * t->n_rows))
        t->callback(t->ctx, layer, t->rows, blob_tile_bytes(&g->layout, layer, t->n_rows));
}

bool llama_tile_wants(struct llama_engine *g, const struct ggml_tensor *node)
{
    const struct llama_tiles *t = g->tiles;
    uint32_t layer;
    if (!t || !t->on)
        return false;
    if (t->cells_known)
        return node->op == GGML_OP_FLASH_ATTN_EXT;
    return node->op == GGML_OP_SET_ROWS && cache_of(node, 'k', &layer);
}

void llama_tile_seen(struct llama_engine *g, struct ggml_tensor *node)
{
    struct llama_tiles *t = g->tiles;
    if (t->cells_known)
        layer_deliver(g, node);
    else
        t->cells_known = cells_read(t, node->src[1]);
}

void llama_tile_step(struct llama_engine *g, const struct engine_row *rows, size_t n)
{
    struct llama_tiles *t = g->tiles;
    if (!t)
        return;
    t->on = t->callback != NULL;
    t->n_rows = (uint32_t)n;
    t->cells_known = false;
    for (size_t i = 1; i < n; i++)
        t->on = t->on && rows[i].seq == rows[0].seq;
}

int llama_tile_set(struct engine *base, engine_tile_callback *callback, void *ctx)
{
    struct llama_tiles *t = llama_of(base)->tiles;
    if (!t || !t->enabled)
        return callback ? ERR_UNSUPPORTED : 0;
    t->callback = callback;
    t->ctx = ctx;
    return 0;
}

// ---- setting up -----------------------------------------------------------------------------------------

static void layer_count(void *ctx, uint32_t layer, const void *data, size_t n)
{
    uint32_t *seen = ctx;
    (void)data;
    if (layer == *seen && n > 0)
        (*seen)++;
}

// True when a step shows every layer, in order. Models differ in how their graphs reach the cache.
static bool trial(struct llama_engine *g)
{
    struct engine_row rows[2] = {{.token = 0, .pos = 0}, {.token = 0, .pos = 1}};
    uint32_t seen = 0;
    struct err e;
    g->tiles->callback = layer_count;
    g->tiles->ctx = &seen;
    int rc = llama_step(&g->base, rows, 2, &e);
    g->tiles->callback = NULL;
    llama_step_remove(&g->base, 0, 0, UINT32_MAX, NULL);
    return rc == 0 && seen == blob_tile_layers(&g->layout);
}

void llama_tile_init(struct llama_engine *g, bool eval)
{
    uint32_t layers = blob_tile_layers(&g->layout), n_batch = g->base.limits.n_batch;
    if (layers == 0 || layers != g->base.identity.n_layer)
        return;
    struct llama_tiles *t = g->tiles = mem_alloc(sizeof *t);
    t->stages = mem_alloc(g->base.limits.n_seq * sizeof *t->stages);
    if (!eval)
        return;
    for (uint32_t i = 0; i < layers; i++) {
        size_t bytes = blob_tile_bytes(&g->layout, i, n_batch);
        t->rows_cap = bytes > t->rows_cap ? bytes : t->rows_cap;
    }
    t->cells = mem_alloc(n_batch * sizeof *t->cells);
    t->rows = mem_alloc(t->rows_cap);
    t->enabled = trial(g);
}

void llama_tile_fini(struct llama_engine *g)
{
    if (!g->tiles)
        return;
    free(g->tiles->cells);
    free(g->tiles->rows);
    for (uint32_t i = 0; i < g->base.limits.n_seq; i++)
        free(g->tiles->stages[i].blob);
    free(g->tiles->stages);
    free(g->tiles);
    g->tiles = NULL;
}

// ---- in --------------------------------------------------------------------------------------------------

// The first layer begins a range, whatever was staged before.
static int range_begin(struct llama_engine *g, uint32_t seq, const struct blob_range *range,
                       struct err *e)
{
    struct tile_stage *t = &g->tiles->stages[seq];
    size_t bytes = blob_bytes_max(&g->layout, range);
    free(t->blob);
    *t = (struct tile_stage){.p0 = range->p0, .p1 = range->p1, .blob = malloc(bytes)};
    if (!t->blob)
        return err_set(e, ERR_RANGE, "no memory for a range of %zu bytes", bytes);
    blob_tiles_begin(&g->layout, range, t->blob);
    return 0;
}

static int tile_check(const struct llama_engine *g, uint32_t seq, const struct blob_range *range,
                      uint32_t layer, size_t len, struct err *e)
{
    if (range->p0 >= range->p1 || range->p1 > g->base.limits.n_ctx || seq >= g->base.limits.n_seq)
        return err_set(e, ERR_INVALID, "a tile of [%" PRIu32 ", %" PRIu32 ") of sequence %" PRIu32,
                       range->p0, range->p1, seq);
    if (layer >= blob_tile_layers(&g->layout))
        return err_set(e, ERR_CORRUPT, "a tile of layer %" PRIu32 " of %" PRIu32, layer,
                       blob_tile_layers(&g->layout));
    const struct tile_stage *t = &g->tiles->stages[seq];
    if (layer > 0 && (t->next_layer != layer || t->p0 != range->p0 || t->p1 != range->p1))
        return err_set(e, ERR_CORRUPT,
                       "layer %" PRIu32 " of [%" PRIu32 ", %" PRIu32
                       ") does not continue layer %" PRIu32 " of [%" PRIu32 ", %" PRIu32 ")",
                       layer, range->p0, range->p1, t->next_layer, t->p0, t->p1);
    size_t want = blob_tile_bytes(&g->layout, layer, range->p1 - range->p0);
    if (len != want)
        return err_set(e, ERR_CORRUPT,
                       "a tile of %zu bytes; layer %" PRIu32 " of %" PRIu32 " tokens has %zu", len,
                       layer, range->p1 - range->p0, want);
    return 0;
}

int llama_tile_import(struct engine *base, uint32_t seq, uint32_t p0, uint32_t p1, uint32_t layer,
                      const void *data, size_t len, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    struct blob_range range = {.p0 = p0, .p1 = p1};
    if (!g->tiles)
        return err_set(e, ERR_UNSUPPORTED, "this model's cache does not come in tiles");
    int rc = tile_check(g, seq, &range, layer, len, e);
    if (rc == 0 && layer == 0)
        rc = range_begin(g, seq, &range, e);
    if (rc != 0)
        return rc;
    struct tile_stage *t = &g->tiles->stages[seq];
    blob_tile_put(&g->layout, &range, layer, data, t->blob);
    t->next_layer = layer + 1;
    if (t->next_layer < blob_tile_layers(&g->layout))
        return 0;
    rc =
        llama_range_import(base, seq, p0, p1, true, t->blob, blob_bytes_max(&g->layout, &range), e);
    free(t->blob);
    *t = (struct tile_stage){0};
    return rc;
}
