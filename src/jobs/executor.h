// Where a job's work is done: four functions, one table per kind. Used by a runner (jobs/runner.h), which calls
// one at a time.
//
// The work is a command of plain words that finds everything in the job's folder and leaves everything there;
// its end is told by result.json, not by the executor. What an executor needs to find its work again is a
// short text, the handle, which outlives the runner.
#ifndef JOBS_EXECUTOR_H
#define JOBS_EXECUTOR_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define JOBS_HANDLE_BYTES 256
#define JOBS_WORDS_MAX 64

struct jobs_task {
    const char *id, *folder;
    const char *const *argv; // NULL-terminated; argv[0] is a path or in PATH
    const json_t *options;   // the executor's: docs/training.md
};

enum jobs_work { JOBS_WORK_WAITING, JOBS_WORK_RUNNING, JOBS_WORK_ENDED };
struct jobs_status {
    enum jobs_work work;
    char how[160];         // it ended ("exit code 3", "TIMEOUT"), or why it waits; "": not known
    uint64_t memory_bytes; // resident now; 0: not known
};

struct jobs_executor {
    const char *name;
    double poll_s; // asked at most so often; 0: as often as the runner likes
    // Options are right and programs are there: asked before a job is accepted.
    int (*check)(const json_t *options, struct err *e);
    // Starts the work. It goes on when the runner ends.
    int (*submit)(const struct jobs_task *t, char handle[JOBS_HANDLE_BYTES], struct err *e);
    // ERR_BUSY: cannot be told now (the queue's server does not answer); ask again.
    int (*poll)(const struct jobs_task *t, const char *handle, struct jobs_status *out,
                struct err *e);
    // SIGTERM: end with a checkpoint; SIGKILL: at once, with all it started. What has ended is no error.
    int (*signal)(const struct jobs_task *t, const char *handle, int number, struct err *e);
    // The work of an earlier runner, whose handle ("" where it was not kept) is put right. ERR_NOT_FOUND: it
    // is not there any more.
    int (*reattach)(const struct jobs_task *t, char handle[JOBS_HANDLE_BYTES], struct err *e);
};
extern const struct jobs_executor jobs_local, jobs_slurm, jobs_ssh;

// options: {"kind": ...}; no kind is "local". ERR_INVALID lists the kinds.
int jobs_executor_find(const json_t *options, const struct jobs_executor **out, struct err *e);
// Whether an executor's options have only members of the list (NULL-terminated) and "kind".
int jobs_executor_members(const json_t *options, const char *const *known, struct err *e);

#endif
