// Built for the very machine (cmake/Llama.cmake), as ggml is: the compiler makes vectors of what stands here.
#include "train/product.h"

#include "train/vector.h"

// As many sums as fit into the registers: 32 of them, or 16 where there is AVX without AVX-512.
#if defined(__AVX__) && !defined(__AVX512F__)
#define VECS 2
#else
#define VECS 4
#endif
#define ROWS 6
#define PANEL (VECS * VEC_FLOATS) // columns of z
#define DEPTH 256                 // rows of z: a packed panel stays in the second cache

struct panel {
    float values[DEPTH * PANEL] __attribute__((aligned(64)));
    size_t depth;
    size_t width; // PANEL, or VEC_FLOATS where no more columns are left
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

// ---- packing -------------------------------------------------------------------------------------

// z's columns from `column` on and its rows from k on; zeros behind its last column.
static void panel_pack(struct panel *p, const struct product_call *c, size_t column, size_t k)
{
    size_t n = least(c->columns - column, p->width);
    const float *from = c->z.at + k * c->z.row + column * c->z.column;
    if (c->z.column == 1 && n == PANEL) { // a constant length: no call
        for (size_t i = 0; i < p->depth; i++)
            memcpy(p->values + i * PANEL, from + i * c->z.row, PANEL * sizeof *from);
        return;
    }
    if (n < p->width)
        memset(p->values, 0, p->depth * p->width * sizeof *from);
    for (size_t i = 0; c->z.column == 1 && i < p->depth; i++)
        memcpy(p->values + i * p->width, from + i * c->z.row, n * sizeof *from);
    for (size_t m = 0; c->z.column != 1 && m < n; m++)
        for (size_t i = 0; i < p->depth; i++)
            p->values[i * p->width + m] = from[i * c->z.row + m * c->z.column];
}

// ---- tiles ---------------------------------------------------------------------------------------

struct tile {
    struct product_view x; // the first of its rows, from the panel's first depth on
    float *y;              // rows of the panel's width, y_row apart
    size_t y_row;
    bool add; // to what y holds
};

// y = x panel, or y += x panel. `rows` and `vecs` are constants wherever this is called, so that all sums become
// registers.
static inline __attribute__((always_inline)) void
tile_add(const struct panel *p, const struct tile *t, const int rows, const int vecs)
{
    vec sums[ROWS][VECS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++)
            sums[r][v] = (vec){0};
    const float *x = t->x.at, *values = p->values;
    size_t row = t->x.row, column = t->x.column;
    for (size_t k = p->depth; k > 0; k--) {
        const vec *z = (const vec *)values;
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vecs; v++)
                sums[r][v] += z[v] * x[(size_t)r * row];
        values += vecs * VEC_FLOATS;
        x += column;
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vecs; v++) {
            vec *y = (vec *)(t->y + (size_t)r * t->y_row + v * VEC_FLOATS);
            if (t->add)
                sums[r][v] += *y;
            *y = sums[r][v];
        }
}

static inline __attribute__((always_inline)) void
rows_add(const struct panel *p, const struct tile *t, size_t rows, const int vecs)
{
    switch (rows) {
    case 1:
        tile_add(p, t, 1, vecs);
        break;
    case 2:
        tile_add(p, t, 2, vecs);
        break;
    case 3:
        tile_add(p, t, 3, vecs);
        break;
    case 4:
        tile_add(p, t, 4, vecs);
        break;
    case 5:
        tile_add(p, t, 5, vecs);
        break;
    default:
        tile_add(p, t, ROWS, vecs);
    }
}

static void tile_run(const struct panel *p, const struct tile *t, size_t rows)
{
    if (p->width == PANEL)
        rows_add(p, t, rows, VECS);
    else
        rows_add(p, t, rows, 1);
}

// The last columns: a tile is wider than what is left of y.
static void edge_run(const struct panel *p, const struct tile *t, size_t rows, size_t n)
{
    float edge[ROWS * PANEL] = {0};
    struct tile aside = *t;
    aside.y = edge;
    aside.y_row = p->width;
    for (size_t r = 0; t->add && r < rows; r++)
        memcpy(edge + r * p->width, t->y + r * t->y_row, n * sizeof *edge);
    tile_run(p, &aside, rows);
    for (size_t r = 0; r < rows; r++)
        memcpy(t->y + r * t->y_row, edge + r * p->width, n * sizeof *edge);
}

static void columns_compute(const struct product_call *c, struct panel *p, size_t column)
{
    size_t n = least(c->columns - column, p->width);
    for (size_t k = 0; k < c->depth; k += DEPTH) {
        p->depth = least(c->depth - k, DEPTH);
        panel_pack(p, c, column, k);
        for (size_t i = 0; i < c->rows; i += ROWS) {
            size_t rows = least(c->rows - i, ROWS);
            struct tile t = {.x = {c->x.at + i * c->x.row + k * c->x.column, c->x.row, c->x.column},
                             .y = c->y + i * c->y_row + column,
                             .y_row = c->y_row,
                             .add = c->add || k > 0};
            if (n == p->width)
                tile_run(p, &t, rows);
            else
                edge_run(p, &t, rows, n);
        }
    }
}

void product_compute(const struct product_call *c)
{
    struct panel p;
    for (size_t column = 0; column < c->columns; column += p.width) {
        p.width = c->columns - column > VEC_FLOATS ? PANEL : VEC_FLOATS;
        columns_compute(c, &p, column);
    }
}

// ---- threads -------------------------------------------------------------------------------------

static void part_compute(const struct product_call *c, const size_t columns[2],
                         const size_t rows[2])
{
    struct product_call part = *c;
    part.x.at += rows[0] * c->x.row;
    part.z.at += columns[0] * c->z.column;
    part.y += rows[0] * c->y_row + columns[0];
    part.columns = columns[1] - columns[0];
    part.rows = rows[1] - rows[0];
    if (part.columns > 0 && part.rows > 0)
        product_compute(&part);
}

// Whole panels are dealt out evenly; of those that are left, every thread takes some rows.
static void share_compute(const struct product_call *c, size_t thread, size_t threads)
{
    size_t each = c->columns / PANEL / threads * PANEL;
    size_t lines = (c->rows + ROWS * threads - 1) / (ROWS * threads) * ROWS;
    const size_t even[2] = {each * thread, each * (thread + 1)}, all[2] = {0, c->rows};
    const size_t rest[2] = {each * threads, c->columns};
    const size_t some[2] = {least(lines * thread, c->rows), least(lines * (thread + 1), c->rows)};
    part_compute(c, even, all);
    part_compute(c, rest, some);
}

// ---- in a graph ----------------------------------------------------------------------------------

// ggml's first dimension is a view's column.
static struct product_view view_of(const struct ggml_tensor *t)
{
    return (struct product_view){t->data, t->nb[1] / sizeof(float), t->nb[0] / sizeof(float)};
}

static void compute(struct ggml_tensor *y, int thread, int threads, void *ctx)
{
    (void)ctx;
    for (size_t i = 0; i < 2 * PRODUCT_PAIRS_MAX && y->src[i]; i += 2) {
        struct product_call c = {.z = view_of(y->src[i]),
                                 .x = view_of(y->src[i + 1]),
                                 .y = y->data,
                                 .y_row = (size_t)y->ne[0],
                                 .rows = (size_t)y->ne[1],
                                 .columns = (size_t)y->ne[0],
                                 .depth = (size_t)y->src[i]->ne[1],
                                 .add = i > 0};
        share_compute(&c, (size_t)thread, (size_t)threads);
    }
}

struct ggml_tensor *product_sum(struct ggml_context *c, const struct product_pair *pairs, size_t n)
{
    struct ggml_tensor *sources[2 * PRODUCT_PAIRS_MAX];
    int64_t columns = pairs[0].z->ne[0], rows = pairs[0].x->ne[1];
    GGML_ASSERT(n >= 1 && n <= PRODUCT_PAIRS_MAX);
    for (size_t i = 0; i < n; i++) {
        struct ggml_tensor *z = pairs[i].z, *x = pairs[i].x;
        GGML_ASSERT(z->type == GGML_TYPE_F32 && x->type == GGML_TYPE_F32);
        GGML_ASSERT(z->ne[0] == columns && x->ne[1] == rows && z->ne[1] == x->ne[0]);
        GGML_ASSERT(z->ne[2] * z->ne[3] == 1 && x->ne[2] * x->ne[3] == 1);
        sources[2 * i] = z;
        sources[2 * i + 1] = x;
    }
    return ggml_custom_4d(c, GGML_TYPE_F32, columns, rows, 1, 1, sources, (int)(2 * n), compute,
                          GGML_N_TASKS_MAX, NULL);
}

struct ggml_tensor *product_make(struct ggml_context *c, struct ggml_tensor *z,
                                 struct ggml_tensor *x)
{
    const struct product_pair pair = {z, x};
    return product_sum(c, &pair, 1);
}
