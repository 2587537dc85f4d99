// Checkpoints of a training job: the adapter's values and the optimiser's state, in a folder of their own
// that appears whole or not at all.
//
// step-N/state, little-endian: magic "TANDEMT1", version u32 (1), reserved u32, step u64, n u64, key u64, XXH3 of
// what follows u64; then values, m and v, n floats (IEEE 754 binary32) each. The key is a hash of
// everything the state depends on: options, base model, data.
#ifndef TRAIN_CHECKPOINT_H
#define TRAIN_CHECKPOINT_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define CHECKPOINT_KEPT 2

struct checkpoint {
    uint64_t step, key;
    size_t n;
    float *values, *m, *v; // borrowed, n each
};

// Into folder/checkpoints/step-N; older ones but the last CHECKPOINT_KEPT go.
int checkpoint_write(const char *folder, const struct checkpoint *c, struct err *e);
// The newest complete one with this n and key, into c's arrays, which the caller has made. ERR_NOT_FOUND:
// there is none. ERR_MISMATCH: there are, but of another job (key).
int checkpoint_read(const char *folder, struct checkpoint *c, struct err *e);

#endif
