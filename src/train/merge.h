// A base and an adapter as one model: W' = W + (alpha / rank) B A for every matrix that the adapter sits on,
// then quantised. What is served from it needs no adapter and costs nothing more per token; it is a model of its
// own, and no longer shares its weights with the base.
//
// The sums are made in F32 from the base's weights as they are in its file, one matrix after the other, into a
// file beside the destination (4 bytes per touched weight), which llama.cpp's own quantiser then reads.
// A base that is quantised itself keeps its rounding; use the finest that there is.
#ifndef TRAIN_MERGE_H
#define TRAIN_MERGE_H

#include "base/err.h"

struct merge_options {
    const char *base, *adapter; // GGUF files
    const char *out;            // appears whole or not at all
    const char *type;           // "q8_0", "f16", ...: engine_quantize
};
// ERR_MISMATCH: the adapter is for another base; ERR_RANGE: too little room on the disk; ERR_CORRUPT,
// ERR_UNSUPPORTED (a base in several files), ERR_NOT_FOUND, ERR_IO, ERR_ENGINE.
int merge_run(const struct merge_options *o, struct err *e);

#endif
