// Loss and gradients of samples, as a ggml graph in which forward and backward are written out by hand.
//
// Why by hand: the model's matrices are frozen, so the backward of a product needs only dx = W dy. ggml's own
// automatic gradients would compute it by OUT_PROD, which is slow on the CPU and missing for quantised
// matrices on CUDA; with a transposed copy of W it is one more plain product. And a loss over supervised
// rows alone needs logits for those rows only, block by block, however large the vocabulary.
//
// Notation: T tokens; d<x> is the gradient of the loss with respect to x. Shapes are ggml's, fastest first.
// mul_mat(a [k, m], b [k, n]) is a^T b [m, n].
//
// Owner: the trainer's thread.
#ifndef TRAIN_GRAPH_H
#define TRAIN_GRAPH_H

#include "train/lora.h"

#include <stdatomic.h>

// One training example: token i predicts token i + 1; the pair counts if supervised[i + 1].
struct graph_sample {
    const int32_t *tokens;
    const bool *supervised; // n
    uint32_t n;             // >= 2
};
uint32_t graph_targets(const struct graph_sample *s); // supervised predictions

struct graph;
// `stop`, when it becomes true, ends a computation on the CPU early; borrowed, may be NULL.
int graph_new(const struct base_model *base, const struct lora *lora, const atomic_bool *stop,
              struct graph **out, struct err *e);
void graph_free(struct graph *g);

// Samples that are computed together: each matrix is read once for all of them.
struct graph_batch {
    const struct graph_sample *const *samples;
    size_t n;
    bool backward;
    float weight;
};
// *loss: the sum over supervised predictions of the cross-entropy in nats. With `backward`, adds the
// gradient of weight * that sum to the adapter's gradients. ERR_CANCELLED after stop; ERR_INVALID for a
// sample without targets, or more samples than graph_batch_fit allows.
int graph_batch_run(struct graph *g, const struct graph_batch *batch, double *loss, struct err *e);
// How many of these samples (n >= 1), from the first on, are best computed together; at least 1.
size_t graph_batch_fit(const struct graph *g, const struct graph_sample *const *samples, size_t n);
// One sample.
int graph_run(struct graph *g, const struct graph_sample *s, bool backward, float weight,
              double *loss, struct err *e);

#endif
