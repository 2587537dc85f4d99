// Causal attention and its gradient on the CPU, for several samples that stand one behind the other in one graph.
//
// ggml has no backward of its fused attention, and spelled out in its operations a training step copies six
// transposed matrices a layer and keeps all probabilities. Here both are made of products (train/product.h) on
// blocks of queries, and the gradient computes the probabilities again: what a sample keeps grows with its
// length, not with its square.
//
// Owner: the trainer's thread; ggml's threads compute, each whole heads.
#ifndef TRAIN_ATTENTION_H
#define TRAIN_ATTENTION_H

#include <ggml.h>
#include <stdint.h>

// Borrowed until the graph is computed.
struct attention_shape {
    const uint32_t *lengths; // of the samples, in tokens
    size_t n;
    float scale;
};

// q [head_dim, heads, T], k [head_dim, heads_kv, T], v [head_dim * heads_kv, T], all F32 and contiguous, T the sum of
// the lengths: [head_dim * heads, T]. On the CPU's backend only.
struct attention_inputs {
    struct ggml_tensor *q, *k, *v;
};
struct ggml_tensor *attention_forth(struct ggml_context *c, const struct attention_inputs *in,
                                    const struct attention_shape *shape);
// dy as the result: [head_dim, heads + 2 heads_kv, T], of each token first dq, then dk, then dv.
struct ggml_tensor *attention_back(struct ggml_context *c, const struct attention_inputs *in,
                                   struct ggml_tensor *dy, const struct attention_shape *shape);

#endif
