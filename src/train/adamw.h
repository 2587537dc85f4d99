// AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2) on plain arrays,
// with clipping by the global norm and a learning rate that warms up linearly and falls as a cosine. An
// adapter has some million values: on the CPU that is nothing beside a sample's graph, whatever
// computes that, and a checkpoint is the arrays themselves.
#ifndef TRAIN_ADAMW_H
#define TRAIN_ADAMW_H

#include <stddef.h>
#include <stdint.h>

struct adamw_options {
    double rate; // at its highest
    double beta1, beta2, eps, weight_decay;
    double clip;                    // largest norm of all gradients together; 0: any
    uint64_t warmup_steps, n_steps; // the rate is 0 after n_steps
};
void adamw_options_default(struct adamw_options *o); // rate 2e-4, 0.9, 0.999, 1e-8, 0, clip 1

struct adamw {
    struct adamw_options options;
    size_t n;
    uint64_t step; // done
    float *m, *v;  // n each: running means of gradient and of its square
};
void adamw_init(struct adamw *a, const struct adamw_options *o, size_t n);
void adamw_fini(struct adamw *a);
// The rate of step `step` (0-based).
double adamw_rate(const struct adamw_options *o, uint64_t step);
// One step on `values`; clips `grads` in place. Returns the norm before clipping; a gradient that is not
// finite changes nothing but the count of steps, and the norm tells.
double adamw_step(struct adamw *a, float *values, float *grads);

#endif
