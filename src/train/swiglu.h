// The gate of a feed-forward part, y = silu(gate) up, and its gradient in one pass each on the CPU. ggml takes four
// operations for the gradient, one of them with an exponential for every single value.
//
// Owner: the trainer's thread; ggml's threads compute.
#ifndef TRAIN_SWIGLU_H
#define TRAIN_SWIGLU_H

#include <ggml.h>

// gate, up [n, T], dy [n, T], F32 and contiguous: [n, T, 2], dgate before dup. On the CPU's backend only.
struct ggml_tensor *swiglu_back(struct ggml_context *c, struct ggml_tensor *gate,
                                struct ggml_tensor *up, struct ggml_tensor *dy);

#endif
