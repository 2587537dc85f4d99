// Fine-tuning a LoRA on one machine: the loop around graph, optimiser and checkpoints.
//
// A job is a folder, and the folder is the contract with whoever started it:
//
//   job.json          what to do: the members of struct train_options
//   progress.jsonl    one line per step, only ever appended to
//   checkpoints/step-N/  state and an empty COMPLETE; made aside, then renamed
//   adapter.gguf      the result
//   merged.gguf       base and adapter as one model, where "merge" asks for it
//   result.json       how it ended: {"status": "succeeded" | "failed" | "cancelled", ...}
//
// Started again in the same folder, it goes on from the newest complete checkpoint, and ends with the same
// adapter bit for bit as if nothing had happened: data order and random numbers follow from the
// seed and the step alone.
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

#include "base/err.h"
#include "train/adamw.h"
#include "train/lora.h"

#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>

#define TRAIN_PATH_BYTES 4096

enum train_weights { TRAIN_WEIGHTS_AUTO, TRAIN_WEIGHTS_DENSE, TRAIN_WEIGHTS_QUANTISED };

struct train_options {
    char model[TRAIN_PATH_BYTES], data[TRAIN_PATH_BYTES];
    char eval_data[TRAIN_PATH_BYTES]; // "": eval_share of the data
    double eval_share;                // 0..0.5, of the examples, drawn by the seed (default 0)
    struct lora_options lora;         // default rank 8, alpha 16, all matrices
    struct adamw_options optimiser;   // steps and warm-up are filled in
    uint32_t epochs;                  // default 3
    uint32_t max_steps;               // 0: as many as the epochs have
    uint32_t batch;                   // examples per step (default 4)
    double warmup_share;              // of the steps (default 0.05)
    uint32_t max_tokens;              // of one example (default 1024)
    uint32_t checkpoint_steps;        // default 50
    uint32_t eval_steps;              // 0: at the end only
    int threads;                      // 0: cores
    bool gpu;                         // the best device there is; else the CPU
    enum train_weights weights;
    uint64_t memory_bytes; // may be used; 0: what the machine has free
    char merge[16];        // what base and adapter are merged to in the end ("q8_0"); "": nothing
};
void train_options_default(struct train_options *o);
// A job.json. Unknown members are refused: a misspelt one would train something else.
int train_options_parse(const json_t *job, struct train_options *o, struct err *e);
json_t *train_options_json(const struct train_options *o);

// Runs the job in `folder`, or goes on with it. `stop` becoming true ends it after the sample that is being
// computed, with a checkpoint: ERR_CANCELLED. Writes everything but job.json.
int train_run(const char *folder, const struct train_options *o, const atomic_bool *stop,
              struct err *e);

// Writes the job's examples as the trainer sees them, one JSON object a line: {"tokens": [...], "supervised":
// [0 | 1, ...], "eval": bool}. Any other trainer that reads them learns the very same.
int train_examples(const struct train_options *o, FILE *out, struct err *e);

#endif
