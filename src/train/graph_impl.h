// What graph.c, which runs graphs, and graph_build.c, which writes them out, share.
#ifndef TRAIN_GRAPH_IMPL_H
#define TRAIN_GRAPH_IMPL_H

#include "train/attention.h"
#include "train/graph.h"
#include "train/product.h"

struct graph {
    const struct base_model *base;
    const struct lora *lora;
    const atomic_bool *stop;
    bool own; // products, attention and gates of our own instead of ggml's: F32 on the CPU
    ggml_backend_t fallback; // for what the model's backend lacks; NULL: that is the CPU itself
    ggml_backend_sched_t sched;
    size_t n_nodes;
    void *arena; // of one graph's tensors, reused
    size_t arena_bytes;
};

// What backward needs of a layer.
struct layer_tape {
    struct ggml_tensor *x, *mid;            // before attention, before the feed-forward part
    struct ggml_tensor *attn_in, *attn_out; // what Q, K, V see; what O sees
    struct ggml_tensor *q_raw, *k_raw;      // before their norms, [head_dim, heads, T]
    // Turned to their positions. Own: q, k [head_dim, heads, T], v [head_dim * heads, T], no P. ggml's: heads apart,
    // [head_dim, T, heads]; P [T, T, n_head].
    struct ggml_tensor *q, *k, *v, *p;
    struct ggml_tensor *ffn_in, *gate, *up, *ffn_mid;
    struct ggml_tensor *low[BASE_LINEARS]; // scale A x
};

// A block of predictions.
struct loss_block {
    uint32_t n;
    struct ggml_tensor *rows,
        *hot;                   // inputs: rows of x; where each target's probability lies, of all
    struct ggml_tensor *likely; // output: the sum of the targets' logarithms
};

// A sum of products that becomes one operation.
struct sum {
    struct product_pair pairs[PRODUCT_PAIRS_MAX];
    size_t n;
    struct ggml_tensor *done; // what did not fit, and what came by other ways; NULL: nothing
};

// One graph being built, of samples one behind the other.
struct build {
    struct graph *g;
    const struct graph_batch *batch;
    struct ggml_context *c;
    struct ggml_cgraph *cg;
    int64_t n; // T of all samples
    uint32_t *lengths;
    struct attention_shape shape;
    struct ggml_tensor *tokens, *positions, *mask; // inputs; mask NULL: attention of our own
    struct layer_tape *tapes;
    struct loss_block *blocks;
    size_t n_blocks;
};

// Forward over all samples, the loss of all blocks, and with batch->backward the way back.
void graph_build(struct build *b);

#endif
