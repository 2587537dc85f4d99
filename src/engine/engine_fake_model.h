// What the model string of the fake engine says; internal to the fake engine.
#ifndef ENGINE_ENGINE_FAKE_MODEL_H
#define ENGINE_ENGINE_FAKE_MODEL_H

#include "engine/engine.h"

struct fake_options {
    int64_t seed, layers, kv_bytes, vocab, state, prefill_us, decode_us, depth_ns, export_us;
    int64_t embed, ranks, apart, crash_after, hang_after;
    char script[512]; // "": none
    char name[ENGINE_NAME_BYTES];
};

// Defaults first, then the keys of "fake[:key=value,...]".
int fake_model_parse(const char *model, struct fake_options *o, struct err *e);

#endif
