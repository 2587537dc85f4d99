// Shared by runner.c and runner_end.c; nobody else includes this.
#ifndef JOBS_RUNNER_IMPL_H
#define JOBS_RUNNER_IMPL_H

#include "jobs/executor.h"
#include "jobs/jobs_impl.h"
#include "jobs/runner.h"

struct runner {
    struct jobs *jobs;
    const struct jobs_runner_options *options;
    struct jobs_job job;
    const struct jobs_executor *executor;
    struct jobs_task task;
    const char *words[JOBS_WORDS_MAX + 1];
    char *program;                  // the native trainer's path; owned
    char handle[JOBS_HANDLE_BYTES]; // "": nothing is running
    int64_t noted_ns;               // up to when the time it ran is in the row
    int64_t looked_ns;              // when limits were last looked at
    int64_t term_ns;                // when TERM was sent; 0: not yet
    bool killed;
    struct err stop;      // why it is being stopped; code 0: it is not
    struct err told;      // the last trouble with asking after the work
    int64_t lost_ns;      // since when it cannot be asked after; 0: it can
    uint64_t progress_at; // bytes of progress.jsonl that are read
    bool tells;           // lines from here on are new
    int64_t step, steps;
    int64_t stuck_step; // where the work ended without a result
    int stuck;          // how often in a row
    int64_t again_ns;   // when it is started again
    bool ended_before;  // a result is there from before this runner
};

void runner_event(struct runner *r, const char *level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// New lines of progress.jsonl, to step, steps and events.
void runner_progress(struct runner *r);
// The work has ended. *over: the job has as well, and its last state is written; otherwise it is to be started
// again. An error is the database's.
int runner_ended(struct runner *r, const struct jobs_status *status, bool *over, struct err *e);

#endif
