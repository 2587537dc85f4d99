// Built for the very machine (cmake/Llama.cmake), as ggml is: the compiler makes vectors of what stands here.
#include "train/product.h"

#include <stdbool.h>
#include <string.h>

// As many sums as fit into the registers: 32 of them, or 16 where there is AVX without AVX-512.
#if defined(__AVX512F__)
#define VEC_FLOATS 16
#define VECS 4
#elif defined(__AVX__)
#define VEC_FLOATS 8
#define VECS 2
#else
#define VEC_FLOATS 4
#define VECS 4
#endif
#define ROWS 6
#define PANEL (VECS * VEC_FLOATS) // columns of z
#define DEPTH 256                 // rows of z: a packed panel stays in the second cache

typedef float vec __attribute__((vector_size(VEC_FLOATS * sizeof(float)), aligned(4), may_alias));

struct panel {
    float values[DEPTH * PANEL] __attribute__((aligned(64)));
    int64_t depth;
};

// Which part of z: n <= PANEL columns, and the first row.
struct place {
    int64_t column, n, k;
};

// Zeros beyond n.
static void panel_pack(struct panel *p, const struct ggml_tensor *z, const struct place *at)
{
    size_t n = (size_t)at->n;
    for (int64_t i = 0; i < p->depth; i++) {
        const char *row = (const char *)z->data + (size_t)(at->k + i) * z->nb[1];
        const float *from = (const float *)row + at->column;
        float *to = p->values + i * PANEL;
        if (n == PANEL) { // a constant length: no call
            memcpy(to, from, PANEL * sizeof *to);
            continue;
        }
        memcpy(to, from, n * sizeof *to);
        memset(to + n, 0, (PANEL - n) * sizeof *to);
    }
}

struct tile {
    const float *x; // the first of its rows, from the panel's first depth on
    size_t x_floats;
    float *y; // rows of PANEL values and y_floats apart
    size_t y_floats;
    bool more; // y holds sums already
};

// y = x panel, or y += x panel where y holds the sums of an earlier panel. `rows` is a constant wherever this is
// called, so that all sums become registers.
static inline __attribute__((always_inline)) void tile_add(const struct panel *p,
                                                           const struct tile *t, const int rows)
{
    vec sums[ROWS][VECS] = {0};
    for (int r = 0; t->more && r < rows; r++)
        for (int v = 0; v < VECS; v++)
            sums[r][v] = *(const vec *)(t->y + (size_t)r * t->y_floats + v * VEC_FLOATS);
    for (int64_t k = 0; k < p->depth; k++) {
        const vec *z = (const vec *)(p->values + k * PANEL);
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < VECS; v++)
                sums[r][v] += z[v] * t->x[(size_t)r * t->x_floats + (size_t)k];
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < VECS; v++)
            *(vec *)(t->y + (size_t)r * t->y_floats + v * VEC_FLOATS) = sums[r][v];
}

static void rows_add(const struct panel *p, const struct tile *t, int64_t rows)
{
    switch (rows) {
    case 1:
        tile_add(p, t, 1);
        break;
    case 2:
        tile_add(p, t, 2);
        break;
    case 3:
        tile_add(p, t, 3);
        break;
    case 4:
        tile_add(p, t, 4);
        break;
    case 5:
        tile_add(p, t, 5);
        break;
    default:
        tile_add(p, t, ROWS);
    }
}

// Columns `at` to at + n of y's rows `row` and the next ones, as far as this panel goes; k: where it begins.
static void tile_compute(struct ggml_tensor *y, const struct panel *p, const struct place *at,
                         int64_t row)
{
    const struct ggml_tensor *x = y->src[1];
    int64_t rows = x->ne[1] - row < ROWS ? x->ne[1] - row : ROWS;
    size_t y_floats = y->nb[1] / sizeof(float), n = (size_t)at->n;
    float *to = (float *)((char *)y->data + (size_t)row * y->nb[1]) + at->column;
    float edge[ROWS * PANEL] = {0};
    struct tile t = {.x = (const float *)((const char *)x->data + (size_t)row * x->nb[1]) + at->k,
                     .x_floats = x->nb[1] / sizeof(float),
                     .y = to,
                     .y_floats = y_floats,
                     .more = at->k > 0};
    if (at->n == PANEL) {
        rows_add(p, &t, rows);
        return;
    }
    t.y = edge; // the last columns: a tile is wider than what is left of y
    t.y_floats = PANEL;
    for (int64_t r = 0; t.more && r < rows; r++)
        memcpy(edge + r * PANEL, to + (size_t)r * y_floats, n * sizeof *to);
    rows_add(p, &t, rows);
    for (int64_t r = 0; r < rows; r++)
        memcpy(to + (size_t)r * y_floats, edge + r * PANEL, n * sizeof *to);
}

static void columns_compute(struct ggml_tensor *y, struct panel *p, struct place *at)
{
    const struct ggml_tensor *z = y->src[0], *x = y->src[1];
    for (at->k = 0; at->k < z->ne[1]; at->k += DEPTH) {
        p->depth = z->ne[1] - at->k < DEPTH ? z->ne[1] - at->k : DEPTH;
        panel_pack(p, z, at);
        for (int64_t row = 0; row < x->ne[1]; row += ROWS)
            tile_compute(y, p, at, row);
    }
}

static void compute(struct ggml_tensor *y, int thread, int threads, void *ctx)
{
    struct panel p;
    int64_t m = y->ne[0];
    (void)ctx;
    for (int64_t i = (int64_t)thread * PANEL; i < m; i += (int64_t)threads * PANEL) {
        struct place at = {.column = i, .n = m - i < PANEL ? m - i : PANEL};
        columns_compute(y, &p, &at);
    }
}

struct ggml_tensor *product_make(struct ggml_context *c, struct ggml_tensor *z,
                                 struct ggml_tensor *x)
{
    struct ggml_tensor *sources[2] = {z, x};
    GGML_ASSERT(z->type == GGML_TYPE_F32 && x->type == GGML_TYPE_F32 && z->ne[1] == x->ne[0]);
    GGML_ASSERT(z->nb[0] == sizeof(float) && x->nb[0] == sizeof(float) && x->ne[2] * x->ne[3] == 1);
    return ggml_custom_4d(c, GGML_TYPE_F32, z->ne[0], x->ne[1], 1, 1, sources, 2, compute,
                          GGML_N_TASKS_MAX, NULL);
}
