// What the files of `tandem plan` share. Private to cli/plan*.c.
#ifndef CLI_PLAN_H
#define CLI_PLAN_H

#include "cli/cli.h"
#include "plan/catalogue.h"
#include "plan/compare.h"
#include "plan/predict.h"

#include <jansson.h>
#include <stdio.h>

int plan_advise_run(int argc, char **argv);
int plan_platforms_run(int argc, char **argv);
int plan_predict_run(int argc, char **argv);
int plan_compare_run(int argc, char **argv);
int plan_simulate_run(int argc, char **argv);

// Names of an option that was given more than once, or with commas, into out[max], which ends with NULL.
struct plan_names {
    const char *option;
    const struct cli_list *list;
    const char **out;
    size_t max;
    char *room; // where they are copied to
    size_t room_bytes;
};
int plan_names_get(const struct plan_names *names, struct err *e);
// A document of plan/report.h as a page in a file, as text or as JSON on standard output.
int plan_html_write(const char *path, const json_t *document, struct err *e);
void plan_text_print(const json_t *document);
void plan_json_print(const json_t *document);

// A bar of so many of `full` cells.
void plan_bar(FILE *f, double share, int full);
// A time or length that may not be: null for NAN and infinities.
json_t *plan_number(double x);

#endif
