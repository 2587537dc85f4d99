// A matrix product in F32 for the CPU, several times as fast as ggml's own there.
//
// ggml multiplies row by row as dot products, which load two values for each multiplication; a training step on the
// CPU is little else than such products. Here a panel of the matrix is packed once for many rows and a tile of
// sums stays in registers: y[t] = sum over k of x[t][k] * row k of z. Whatever the number of threads, every sum is
// made in the same order.
//
// Owner: the trainer's thread; ggml's threads compute.
#ifndef TRAIN_PRODUCT_H
#define TRAIN_PRODUCT_H

#include <ggml.h>

// z [m, k] times x [k, n]: [m, n], all F32, z and x with contiguous rows. On the CPU's backend only.
struct ggml_tensor *product_make(struct ggml_context *c, struct ggml_tensor *z,
                                 struct ggml_tensor *x);

#endif
