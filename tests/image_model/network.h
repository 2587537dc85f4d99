// The network's trained values and one sample's way through it, forward and back.
//
// Owner: the caller. A struct network may be read by several threads while nobody writes it; a struct work
// belongs to one thread, and so do the gradients, which are laid out as the values are.
#ifndef IMAGE_MODEL_NETWORK_H
#define IMAGE_MODEL_NETWORK_H

#include "tests/image_model/shape.h"

#include <stdbool.h>
#include <stdint.h>

#define NETWORK_TENSORS_MAX 64

struct network_tensor {
    char name[96]; // as in the GGUF file
    int offset, count;
};

struct network_block { // offsets
    int norm1, norm2, qkv, qkv_bias, proj, proj_bias, w1, w3, w2, q_norm, k_norm;
    int text_norm, text_qkv, text_qkv_bias;
};

struct network {
    float *values;
    int n_values, n_tensors;
    struct network_tensor tensors[NETWORK_TENSORS_MAX];
    int proj1, proj2, proj2_bias, text_embed, mask, last_norm, last, last_bias; // offsets
    struct network_block blocks[BLOCKS];
};

void network_init(struct network *n, uint64_t seed); // random values
void network_fini(struct network *n);

// Row `id` of T5's table: random, frozen, with a root mean square of one.
void network_table_row(int id, float out[HIDDEN]);
// From a normal distribution; *state as for random_next.
float network_gauss(uint64_t *state);

struct sample {
    float noisy[TOKENS][PIXELS]; // patches, channel by channel
    float clean[TOKENS][PIXELS]; // patches, pixel by pixel
    const float *context[CAPTION_TOKENS];
    int n_context; // 0: no caption
    float weight;  // of this sample's loss
};

struct work;
struct work *work_new(void);
void work_free(struct work *w);
// Mean squared error of the clean image that the network predicts. With `grad`, adds the gradient of
// weight * error.
double network_run(const struct network *n, struct work *w, const struct sample *s, float *grad);

#endif
