// A matrix product in F32 for the CPU, several times as fast as ggml's own there.
//
// ggml multiplies row by row as dot products, which load two values for each multiplication; a training step on the
// CPU is little else than such products. Here a panel of one matrix is packed once for many rows of the other and a
// tile of sums stays in registers. Whatever the number of threads, every sum is made in the same order. Either matrix
// may be a transposed view: a training step needs both, and a copy would cost as much as a small product.
//
// Owner: the trainer's thread; ggml's threads compute.
#ifndef TRAIN_PRODUCT_H
#define TRAIN_PRODUCT_H

#include <ggml.h>
#include <stdbool.h>

// ---- on plain memory -----------------------------------------------------------------------------

// Element (i, k) lies at at[i * row + k * column], in floats.
struct product_view {
    const float *at;
    size_t row, column;
};

// y = x z, or y += x z. x is [rows, depth], z is [depth, columns], y's rows lie y_row floats apart.
struct product_call {
    struct product_view x, z;
    float *y;
    size_t y_row;
    size_t rows, columns, depth;
    bool add;
};
void product_compute(const struct product_call *c);

// ---- in a graph ----------------------------------------------------------------------------------

#define PRODUCT_PAIRS_MAX 4

// z [m, k] times x [k, n], all F32: [m, n]. On the CPU's backend only.
struct product_pair {
    struct ggml_tensor *z, *x;
};
struct ggml_tensor *product_make(struct ggml_context *c, struct ggml_tensor *z,
                                 struct ggml_tensor *x);
// The sum of 1 to PRODUCT_PAIRS_MAX products.
struct ggml_tensor *product_sum(struct ggml_context *c, const struct product_pair *pairs, size_t n);

#endif
