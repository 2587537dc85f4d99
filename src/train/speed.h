// How fast this machine would train a model, before anybody sends it a job.
#ifndef TRAIN_SPEED_H
#define TRAIN_SPEED_H

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>

// Prints one JSON object: {"gflops", "device", "memory_bytes"}: billions of operations a second of the product that a
// training step consists of, measured for half a second on all cores, or with `gpu` on the best device; and the
// memory that is free. The errors of base_model_check; ERR_RANGE where the memory would not do.
int train_speed(const char *model, bool gpu, FILE *out, struct err *e);

#endif
