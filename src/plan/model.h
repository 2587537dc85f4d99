// A model as the cost formulas see it, from the catalogue or from a GGUF header. Pure but for that read.
#ifndef PLAN_MODEL_H
#define PLAN_MODEL_H

#include "base/err.h"
#include "plan/catalogue.h"
#include "sched/cost.h"

struct plan_model {
    struct cost_model cost;
    char name[PLAN_NAME_BYTES];
    char family[PLAN_NAME_BYTES];      // models of one shape; "": never measured
    char quant[PLAN_NAME_BYTES];       // as it is called
    char quant_class[PLAN_NAME_BYTES]; // as it was fitted
    char engine[PLAN_NAME_BYTES];      // the only software that reads this quantisation, or ""
    double params;                     // all of them
    double context;                    // tokens it was made for; 0: not told
};

// `model` is an id or a path that ends in .gguf; `quant` may be NULL; `bits` 0: as the quantisation says.
int plan_model_get(const struct plan_catalogue *c, const char *model, const char *quant,
                   double bits, struct plan_model *out, struct err *e);

#endif
