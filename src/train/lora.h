// A low-rank adapter (LoRA): for every matrix W [in, out] it sits on, y = W x + (alpha / rank) B A x with
// A [in, rank] drawn at random and B [rank, out] zero at the start, so that training begins at the base
// model's own answers (Hu and others, "LoRA", 2021, section 4.1).
//
// Owner: the trainer's thread.
#ifndef TRAIN_LORA_H
#define TRAIN_LORA_H

#include "train/base_model.h"

#include <stddef.h>

struct lora_options {
    uint32_t rank;    // 1..256
    float alpha;      // scale = alpha / rank
    uint32_t targets; // bit l: on base_linear l
    uint64_t seed;
};

struct lora_pair {
    struct ggml_tensor *a, *b;           // [in, rank], [rank, out]
    struct ggml_tensor *grad_a, *grad_b; // summed over samples until lora_grads_clear
};

struct lora {
    struct lora_options options;
    const struct base_model *base; // borrowed
    struct lora_pair *pairs;       // [n_layer][BASE_LINEARS]; a is NULL where there is none
    struct ggml_context *ctx, *grad_ctx;
    ggml_backend_buffer_t buffer, grad_buffer;
    size_t n_values;
};

// "q,k,v,o,gate,up,down", "attention", "mlp" or "all" to bits; ERR_INVALID names the word.
int lora_targets_parse(const char *text, uint32_t *targets, struct err *e);
int lora_new(const struct base_model *base, const struct lora_options *o, struct lora **out,
             struct err *e);
void lora_free(struct lora *l);
const struct lora_pair *lora_pair_at(const struct lora *l, uint32_t layer, enum base_linear which);
void lora_grads_clear(struct lora *l);

// All values, or all gradients, as one array of n_values floats in a fixed order (layers, matrices, A
// before B): what an optimiser and a checkpoint work on.
void lora_values_get(const struct lora *l, float *out);
void lora_values_set(struct lora *l, const float *values);
void lora_grads_get(const struct lora *l, float *out);

// Writes a GGUF adapter as llama.cpp loads it. The file appears whole or not at all.
int lora_write(const struct lora *l, const char *path, struct err *e);

#endif
