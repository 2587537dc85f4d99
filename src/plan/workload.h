// What the machines are bought for: chats of some length and number, fine-tuning, images; and how fast a
// machine would fine-tune or draw.
//
// Nobody measured those two on enough machines to fit a model. Both are bound by arithmetic, so the
// prediction is arithmetic over rate: operations of a token or an image, divided by what was measured of the
// machine's FP16 rate (achieved_tflops, else its nominal one) times a utilisation, the median of the published
// rows whose operations are known (tasks.json). The range is that of those rows. docs/planner.md has the
// figures.
//
// Pure; any thread.
#ifndef PLAN_WORKLOAD_H
#define PLAN_WORKLOAD_H

#include "base/err.h"
#include "plan/catalogue.h"
#include "plan/compare.h"

#include <stdbool.h>

// FLUX.1-dev at 1024 x 1024 pixels in 20 steps.
#define PLAN_IMAGE_PFLOP 2.5

struct plan_workload {
    const char *model, *quant; // quant NULL: F16, or what a GGUF file is made of
    const char *train_model;   // what is fine-tuned, LoRA in BF16
    double prompt, gen;        // tokens of a request
    double warm;               // share of the prompt that is in the cache already
    double requests_per_hour;
    double train_share; // hours of fine-tuning per hour, as a DGX Spark would take
    double images_per_hour;
    double hours_per_day; // in use
};
void plan_workload_defaults(struct plan_workload *w);
// ERR_INVALID: a number that cannot be, with its option and limits.
int plan_workload_check(const struct plan_workload *w, struct err *e);

// Of the published rows whose operations are known.
struct plan_utilisation {
    double median, low, high;
    size_t rows;
};
int plan_utilisation_get(const struct plan_catalogue *c, struct plan_utilisation *out,
                         struct err *e);

struct plan_task {
    double value; // tokens per second, or seconds per image
    struct plan_range range;
    double need_bytes; // of memory; 0: not known
    bool fits;
};
// LoRA of `model` in BF16: tokens per second. The memory is a line through published peaks.
int plan_task_train(const struct plan_catalogue *c, const char *machine, const char *model,
                    struct plan_task *out, struct err *e);
// The id of the largest model of the catalogue that fits into a machine at Q4_K_M with so many tokens, or NULL.
const char *plan_largest_model(const struct plan_catalogue *c, const char *machine, double tokens);
// Seconds per image of PLAN_IMAGE_PFLOP, as many at once as there are GPUs.
int plan_task_image(const struct plan_catalogue *c, const char *machine, struct plan_task *out,
                    struct err *e);

#endif
