// The frozen model under a LoRA: its numbers and its weights as ggml tensors on one backend.
//
// Read straight from the GGUF file through ggml's own reader. Matrices are kept in one of two ways:
//
//   dense       F32, and a transposed F32 copy of each: forward and backward are then both plain matrix
//               products, which every backend is fast at. 8 bytes per weight.
//   quantised   as in the file; the backward product goes through OUT_PROD, which is several times
//               slower on the CPU. The file's own size.
//
// Shapes are ggml's, the fastest dimension first: a linear layer's matrix is [in, out].
//
// Owner: the trainer's thread.
#ifndef TRAIN_BASE_MODEL_H
#define TRAIN_BASE_MODEL_H

#include "base/err.h"

#include <ggml-backend.h>
#include <ggml.h>
#include <stdbool.h>
#include <stdint.h>

#define BASE_MODEL_LAYERS_MAX 512

// The seven matrices of a layer that a LoRA may sit on, in the order of a layer's computation.
enum base_linear { BASE_Q, BASE_K, BASE_V, BASE_O, BASE_GATE, BASE_UP, BASE_DOWN, BASE_LINEARS };
// "attn_q", ...: the tensor's name between "blk.N." and ".weight".
const char *base_linear_name(enum base_linear l);

struct base_matrix {
    struct ggml_tensor *w;          // [in, out]
    struct ggml_tensor *transposed; // [out, in] F32; NULL where quantised
    struct ggml_tensor *bias;       // [out] or NULL
};

struct base_layer {
    struct ggml_tensor *attn_norm, *ffn_norm; // [n_embd]
    struct ggml_tensor *q_norm, *k_norm;      // [head_dim] or NULL
    struct base_matrix linears[BASE_LINEARS];
};

struct base_model {
    char arch[64];
    uint32_t n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_rot, n_vocab, n_ctx_train;
    float norm_eps, rope_base, rope_scale;
    int rope_mode; // GGML_ROPE_TYPE_*: as llama.cpp has it for this architecture
    bool dense;

    ggml_backend_t backend; // borrowed
    struct ggml_context *ctx;
    ggml_backend_buffer_t buffer;
    struct ggml_tensor *embeddings; // [n_embd, n_vocab] F32
    struct ggml_tensor *output_norm;
    struct base_matrix output;        // [n_embd, n_vocab]; the embeddings where they are tied
    struct ggml_tensor *rope_factors; // [n_rot / 2] or NULL
    struct base_layer *layers;
};

// dense: keep F32 copies. ERR_NOT_FOUND, ERR_CORRUPT, ERR_UNSUPPORTED (architecture, rope scaling, a
// mixture of experts: with what is supported), ERR_RANGE (memory).
int base_model_open(const char *path, ggml_backend_t backend, bool dense, struct base_model **out,
                    struct err *e);
void base_model_free(struct base_model *m);
// Bytes that the weights of a file take in either way; 0 and e set when the file does not open.
uint64_t base_model_bytes(const char *path, bool dense, struct err *e);

struct base_model_facts {
    uint64_t dense_bytes, file_bytes; // of the weights, kept in either way
    uint64_t widths[BASE_LINEARS];    // in + out of the matrices of each kind, all layers together
};
// From the head alone, before anything is loaded: errors as base_model_open's.
int base_model_check(const char *path, struct base_model_facts *out, struct err *e);

#endif
