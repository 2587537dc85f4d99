// Whether a training job can be done, and what it will take, told before anything is loaded.
#ifndef TRAIN_CHECK_H
#define TRAIN_CHECK_H

#include "train/train.h"

#include <stdio.h>

// Beside the weights: activations of a graph's samples, adapter, optimiser. For choosing how to keep the weights; a step
// of 516 tokens of SmolLM2-135M takes 0.69 GB.
#define TRAIN_WORKING_BYTES (768ull << 20)

// Writes one line of JSON: {"memory_bytes", "memory_least_bytes", "available_bytes", "checkpoint_bytes",
// "adapter_bytes"}. ERR_UNSUPPORTED and the like for the model, ERR_RANGE where the memory that may be used
// does not do. `elsewhere`: it is to run on another machine, so what is free here is no matter.
int train_check(const struct train_options *o, bool elsewhere, FILE *out, struct err *e);

#endif
