// What models/peft*.c share. Nobody else includes this.
#ifndef MODELS_PEFT_IMPL_H
#define MODELS_PEFT_IMPL_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct peft_config {
    uint32_t rank;
    float alpha; // such that llama.cpp's alpha / rank is PEFT's own scale
    bool rank_stabilised;
};
// folder/adapter_config.json; refuses by name what a GGUF adapter cannot say.
int peft_config_read(const char *folder, struct peft_config *c, struct err *e);

#endif
