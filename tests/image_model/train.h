// Training.
#ifndef IMAGE_MODEL_TRAIN_H
#define IMAGE_MODEL_TRAIN_H

#include "tests/image_model/network.h"

struct train_run {
    long steps;
    int batch; // samples of a step
    float rate;
    uint64_t seed;
};
// Same run, same values: two threads, each with its own share and random numbers.
void train_network(struct network *n, const struct train_run *r);

// Compares the gradient with central differences, tensor by tensor; false: one is wrong.
bool train_gradients_check(void);

#endif
