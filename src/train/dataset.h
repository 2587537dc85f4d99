// Training examples: a JSONL file of chats, each line {"messages": [{"role", "content"}, ...]} as OpenAI's
// fine-tuning takes it, read through the model's own chat template and tokenizer.
//
// What the assistant says is supervised, its end token included; everything else is context. A
// message with "weight": 0 is context too. Every line is checked (base/examples.h), and an error names its number.
#ifndef TRAIN_DATASET_H
#define TRAIN_DATASET_H

#include "engine/engine.h"
#include "train/graph.h"

struct dataset {
    struct graph_sample *samples; // tokens and supervised are the dataset's
    size_t n;
    uint64_t n_tokens, n_targets;
    uint64_t hash; // of the file's bytes
};

// engine: for its template and tokenizer. ERR_INVALID with the line's number, ERR_RANGE for an example of
// more than max_tokens, ERR_NOT_FOUND.
int dataset_load(const char *path, struct engine *engine, uint32_t max_tokens, struct dataset **out,
                 struct err *e);
void dataset_free(struct dataset *d);

#endif
