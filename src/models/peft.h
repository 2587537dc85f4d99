// From an adapter as PyTorch's PEFT saves it to one as llama.cpp loads it.
//
// A PEFT adapter is a folder: adapter_config.json, and adapter_model.safetensors with
// base_model.model.MODULE.lora_A.weight [r, in] and .lora_B.weight [out, r]. A GGUF adapter has NAME.lora_a and
// NAME.lora_b of ggml shapes [in, r] and [r, out], which are the same bytes in the same order, with two
// differences:
//
//   * Where the model's own conversion changed the order of rows, lora_B's rows change with it: Llama's q and k,
//     whose rotary halves Hugging Face keeps apart and GGUF side by side.
//   * llama.cpp scales by alpha / r. PEFT's rank-stabilised LoRA scales by alpha / sqrt(r), so alpha * sqrt(r)
//     is written.
//
// Everything that such a file cannot say is refused by name, with what to change: DoRA, patterns of ranks or
// alphas, biases, further trained modules, tuned embeddings, adapters that belong to an altered base. The
// modules are held against the base GGUF: same names, same shapes, or no file is written.
//
// Owner: nobody; there is no state behind this call. Any thread.
#ifndef MODELS_PEFT_H
#define MODELS_PEFT_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define MODELS_PEFT_RANK_MAX 4096u
#define MODELS_PEFT_CONFIG_MAX (1u << 20) // bytes of adapter_config.json

struct models_peft {
    char arch[64];
    uint32_t rank;
    float alpha; // as written
    bool rank_stabilised;
    uint32_t matrices;
    uint64_t values;
    uint64_t bytes; // of the file
};
// `folder` is PEFT's, `base` the GGUF of the model that it was trained on (any quantisation), `out` the file to
// write. ERR_UNSUPPORTED: what no GGUF adapter can say; ERR_MISMATCH: another base; ERR_CORRUPT, ERR_NOT_FOUND.
int models_peft_convert(const char *folder, const char *base, const char *out,
                        struct models_peft *told, struct err *e);

#endif
