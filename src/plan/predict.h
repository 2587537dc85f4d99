// The predictor: how fast a machine of the catalogue reads and writes with a model, and how sure that is.
//
// Pure but for reading a GGUF header where the model is a file. The formulas are those of sched/cost.h; the
// rates come from the machine's figures and from numbers that scripts/plan_fit.py fitted to published
// measurements (efficiency.json). docs/cost-model.md says how good they are, and where not.
//
// Any thread; the catalogue stays the caller's.
#ifndef PLAN_PREDICT_H
#define PLAN_PREDICT_H

#include "base/err.h"
#include "plan/catalogue.h"
#include "sched/cost.h"

#include <stdbool.h>

#define PLAN_TOKENS_MAX 100000000.0
#define PLAN_BATCH_MAX 65536.0

struct plan_model;

struct plan_query {
    const char *machine; // id
    const char *model;   // id, or the path of a GGUF file
    const char *quant;   // NULL: F16, or what a GGUF file is made of
    const char *backend; // NULL: what runs best as far as is known
    bool prefill;
    double n_prompt, depth, batch; // tokens, tokens, sequences
    double ubatch;                 // tokens per chunk; 0: 2048 for long prompts, 512 for short
    double bits;                   // per weight; 0: those of the quantisation
    const struct plan_model *read; // what plan_model_get gave for these three; NULL: it is called
};
void plan_query_defaults(struct plan_query *q);

struct plan_answer {
    bool fits;
    double need_bytes, have_bytes; // of memory
    double tokens_per_s;           // over all sequences
    double low, high;              // four in five lie between
    double seconds;                // of the step or the prompt
    struct cost_time time;
    enum cost_bound bound;
    char engine[24];   // class of software: cuda, rocm, vulkan, metal, mlx, vllm, ds4, cpu
    const char *basis; // what of it was measured: "row", "run", "machine" or "model" was not
    struct cost_model model;
    struct cost_rates rates; // that the time was made of
};

// 0 also where it does not fit (fits is false then, and the rates are as if it did). ERR_NOT_FOUND: an unknown
// name; ERR_INVALID: a number or an entry of the catalogue that cannot be; ERR_UNSUPPORTED: a model whose
// size nobody published.
int plan_predict(const struct plan_catalogue *c, const struct plan_query *q, struct plan_answer *a,
                 struct err *e);

// "needs 141.2 GB of memory, machine X has 23.9 GB ..."
void plan_too_large(const char *machine, double need_bytes, double have_bytes, char *out,
                    size_t out_bytes);

#endif
