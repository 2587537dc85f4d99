// How much memory a model needs at a context, from its head alone: before it is loaded, and for the planner.
//
// Pure functions. Weights and KV cache are exact for the architectures that keep one K and V per layer, with
// or without sliding windows, in one latent vector (MLA), or a recurrent state; where a file says too
// little, they count too much. The work memory is an estimate.
#ifndef MODELS_MEMORY_H
#define MODELS_MEMORY_H

#include "base/err.h"
#include "models/gguf.h"

#include <stdint.h>

struct models_memory_options {
    uint32_t n_ctx;              // cells; 0: the model's own, at most 8192, as the engine chooses
    uint32_t n_seq;              // requests computed at the same time
    uint32_t n_batch;            // tokens of one step
    const char *type_k, *type_v; // "f16", "q8_0", ...; NULL: f16
};
void models_memory_options_default(struct models_memory_options *o);

struct models_memory {
    uint32_t n_ctx; // that was counted with
    uint64_t
        weights_bytes; // as in the file; the file is mapped, so this is memory that others can share
    uint64_t kv_bytes; // for n_ctx tokens, all sequences together
    // The second cache, in which answers that decode together lie apart; made when it is first needed
    // (engine/llama_home.c).
    uint64_t apart_bytes;
    uint64_t state_bytes; // recurrent states of all sequences
    uint64_t work_bytes;  // intermediate results of a step, logits
    uint64_t total_bytes;
};
// ERR_INVALID: an unknown KV type, or one whose blocks do not divide the model's heads.
int models_memory_need(const struct models_gguf *g, const struct models_memory_options *o,
                       struct models_memory *out, struct err *e);

// KV bytes of one token at full attention, all layers: what crosses the network per token. 0: none.
uint64_t models_memory_token_bytes(const struct models_gguf *g, uint32_t type_k, uint32_t type_v);

// 0, or ERR_BUSY with what is needed, what there is, and what would help. available 0: not known, 0.
int models_memory_check(const char *name, const struct models_memory *need,
                        uint64_t available_bytes, struct err *e);

#endif
