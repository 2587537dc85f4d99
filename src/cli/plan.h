// What the files of `tandem plan` share. Private to cli/plan*.c.
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include "plan/catalogue.h"
#include "plan/compare.h"
#include "plan/predict.h"

#include <jansson.h>
#include <stdio.h>

int plan_predict_run(int argc, char **argv);
int plan_compare_run(int argc, char **argv);

// "needs 141.2 GB of memory, machine X has 23.9 GB ..."
void plan_too_large(const char *machine, double need_bytes, double have_bytes, char *out,
                    size_t out_bytes);
// A bar of so many of `full` cells.
void plan_bar(FILE *f, double share, int full);
// A time or length that may not be: null for NAN and infinities.
json_t *plan_number(double x);

#endif
