// What the files of `tandem plan simulate` share. Private to cli/plan_simulate*.c.
#ifndef CLI_PLAN_SIMULATE_H
#define CLI_PLAN_SIMULATE_H

#include "plan/sim.h"
#include "plan/sim_find.h"

#include <jansson.h>

// What a run is of, beside its result.
struct simulate_run {
    const struct sim_fleet *fleet;
    const struct sim_load *load;
    const struct sim_options *options;
    const struct sim_result *result;
};

json_t *simulate_json(const struct simulate_run *r);
void simulate_timeline_json(const struct simulate_run *r, json_t *to);
json_t *simulate_document(const struct simulate_run *r); // for plan_html_write
void simulate_print(const struct simulate_run *r);
json_t *simulate_found_json(const struct sim_found *f);
void simulate_found_print(const struct sim_find *f, const struct sim_found *found, size_t n);

#endif
