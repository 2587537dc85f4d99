// Finds out which hand-off mode is exact for a model, by trying.
//
// The probe runs in a throw-away child process, because a model library that does not like a call
// aborts the process; an abort is a finding, not a crash. It computes a short random prompt,
// hands it over in each mode, best first, and compares the logits of the last token bit for bit
// with the un-split run. The result is kept in the cache folder, keyed by model file, engine build
// and options.
#ifndef ENGINE_PROBE_H
#define ENGINE_PROBE_H

#include "engine/engine.h"

struct probe_result {
    enum engine_handoff handoff;
    double max_logit_diff;     // of the chosen mode; NaN when none was tried
    double control_logit_diff; // the same with one range left out; NaN when it cannot be made
    double kv_bytes_per_token;
    uint64_t state_bytes;
    char reason[512]; // why this mode, why not the better ones
};

// Probes `o->model` with this process' own program image as the child ("tandem-worker probe ...").
// use_cache: look in and write to the cache folder. ERR_* only when the model cannot be loaded.
int probe_run(const struct engine_options *o, bool use_cache, struct probe_result *out,
              struct err *e);

// `tandem-worker probe|check ...`: the entry points of the children; argv as main's.
int probe_main(int argc, char **argv);

json_t *probe_result_json(const struct probe_result *r);

#endif
