// The process that owns one job from its start to its end: `tandem train run ID`. Started by jobs_tick, in a
// session of its own.
//
// It may be killed at any moment. The next tick starts another one, which finds the work through the
// executor's handle and goes on watching it, or starts it again: the trainer goes on from its newest complete
// checkpoint. Work that ends without a result three times in a row and no step further has failed.
//
// Owner: the process's main thread.
#ifndef JOBS_RUNNER_H
#define JOBS_RUNNER_H

#include "base/err.h"
#include "jobs/jobs.h"

struct jobs_runner_options {
    const char *program_dir; // where tandem-trainer lies; NULL: this program's folder
    double grace_s;          // between TERM and KILL (default 20)
    double poll_s;           // default 0.2
    bool publish;            // put the adapter into the store (default); tests do without
};
void jobs_runner_options_default(struct jobs_runner_options *o);

// 0 when the job has ended, whichever way, or somebody else runs it. An error: the job could not be read or
// written, and the next tick tries again.
int jobs_runner_run(struct jobs *j, const char *id, const struct jobs_runner_options *o,
                    struct err *e);

#endif
