// Jobs: work that takes minutes to days, in a queue that outlives every program that looks at it.
//
// A job is a row in STATE/jobs/jobs.db and a folder STATE/jobs/ID. The folder is the contract with what does
// the work (train/train.h, docs/training.md): job.json, data.jsonl (a copy: the user's file may
// change), progress.jsonl, checkpoints/step-N, adapter.gguf, result.json, log. The row holds what the
// queue needs: state, limits, executor, events.
//
//   queued -> running -> succeeded, failed
//   running -> cancelling -> cancelled
//   queued -> cancelled
//
// Who does what:
//   - jobs_submit writes folder and row. It starts nothing.
//   - jobs_tick starts what may start, one job at a time on a machine (jobs_options.parallel): a *runner*,
//     `tandem train run ID`, in a session of its own, which outlives who started it. It also finds jobs
//     that are to be running but whose runner is gone (killed, reboot), and starts another one.
//   - The runner (jobs/runner.h) hands the work to an executor (jobs/executor.h: local, slurm, ssh), watches
//     limits and cancellation, re-attaches to work that outlived its runner or lets it go on from the newest
//     checkpoint, publishes the adapter, writes the last state, and ticks for the next job.
//   - Anybody may tick at any time: the command line does after it submitted, a gateway does every second.
//
// Whether a process lives is told by a lock that it holds on a file of the folder (os_lock_take): a
// process id that was given to another program meanwhile is not mistaken for it.
//
// Room: while a *host* is there (jobs_options.hooks: a gateway that serves models on this machine), only its
// ticks start jobs, after make_room; once nothing is running any more, give_back. A host that has not
// ticked for JOBS_HOST_STALE_S seconds is none.
//
// Threads: a struct jobs may be used by any thread; its calls take turns. They wait for the disk, never
// for a job.
#ifndef JOBS_JOBS_H
#define JOBS_JOBS_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JOBS_ID_BYTES 40
#define JOBS_NAME_BYTES 65 // letters, digits, '.', '_', '-'; no '.' first
#define JOBS_PATH_BYTES 2048
#define JOBS_EXECUTOR_BYTES 16
#define JOBS_HOST_STALE_S 20
#define JOBS_DATA_MAX (4ull << 30) // bytes of a training file
#define JOBS_PAGE_MAX 100

enum jobs_state {
    JOBS_QUEUED,
    JOBS_RUNNING,
    JOBS_CANCELLING,
    JOBS_SUCCEEDED,
    JOBS_FAILED,
    JOBS_CANCELLED,
    JOBS_STATES
};
// "queued", ...; the reverse gives JOBS_STATES for a name that is none.
const char *jobs_state_name(enum jobs_state state);
enum jobs_state jobs_state_find(const char *name);
bool jobs_state_final(enum jobs_state state);

struct jobs;
struct jobs_job;

struct jobs_hooks {
    // Frees memory for the job (models unloaded, contexts shrunk). 0, or ERR_BUSY: not yet, ask again at
    // the next tick. Called by the ticking thread.
    int (*make_room)(void *ctx, const struct jobs_job *job, struct err *e);
    void (*give_back)(void *ctx);
    void *ctx;
};

struct jobs_options {
    const char *dir;                // NULL: STATE/jobs
    const char *const *runner;      // how a runner is started, the id is appended; NULL:
                                    // {this program's folder}/tandem train run
    const struct jobs_hooks *hooks; // NULL: not a host. Lives as long as the struct jobs
    uint32_t parallel;              // jobs that run at the same time (default 1)
};
void jobs_options_default(struct jobs_options *o);

int jobs_open(const struct jobs_options *o, struct jobs **out, struct err *e);
void jobs_close(struct jobs *j); // running jobs go on. NULL is fine

#define JOBS_RATE_FACTOR "learning_rate_multiplier"

// ---- submitting ----------------------------------------------------------------------------------

// Every text is copied; json members are borrowed during the call.
struct jobs_spec {
    const char *name;      // the adapter will answer as "ft:NAME"
    const char *model;     // path of the base's GGUF, as models_find gave it
    const char *data;      // path of the training file
    const char *eval_data; // NULL: none
    // Members of job.json but for model, data and eval_data ("rank", "learning_rate", ...). NULL: defaults.
    // Checked by the trainer before the job is accepted. Where there is no learning rate, the job gets one that suits the
    // base's width, times JOBS_RATE_FACTOR.
    const json_t *options;
    // How it is run. NULL or {}: here. {"kind": "local" | "slurm" | "ssh" | "fastest", ...}: docs/training.md
    const json_t *executor;
    const json_t *meta; // an object that is kept and given back unread; NULL: {}
    const char *owner;  // of the API key; "": the command line
    // The work itself when it is not the native trainer: a list of words, the folder is appended. NULL: native.
    const json_t *command;
    uint64_t limit_time_s;       // of all attempts together; 0: none
    uint64_t limit_memory_bytes; // resident memory of the trainer; 0: none
    uint64_t disk_reserve_bytes; // that must stay free; 0: JOBS_DISK_RESERVE
    bool replace;                // an adapter of that name may be published already
};
#define JOBS_DISK_RESERVE (256ull << 20)
void jobs_spec_default(struct jobs_spec *s);

struct jobs_error {
    char code[24]; // err_name's words; "": none
    char message[ERR_MESSAGE_BYTES];
};

struct jobs_job {
    char id[JOBS_ID_BYTES]; // "ftjob-" and 24 hexadecimal digits
    char name[JOBS_NAME_BYTES];
    char model[JOBS_PATH_BYTES];
    char owner[JOBS_NAME_BYTES];
    char executor[JOBS_EXECUTOR_BYTES];
    char folder[JOBS_PATH_BYTES];
    enum jobs_state state;
    int64_t created_unix_s, started_unix_s, ended_unix_s; // 0: not yet
    uint32_t attempts;                                    // times that the work was started
    uint64_t examples, data_bytes;                        // of the training file
    uint64_t limit_time_s, limit_memory_bytes, disk_reserve_bytes;
    double ran_s; // of earlier attempts
    struct jobs_error error;
    json_t *options, *executor_options, *meta, *command; // owned; objects, command: a list or null
    json_t *result; // owned: result.json with "parity" and "published" added; null before the end
};
void jobs_job_fini(struct jobs_job *job);
// Everything above as one object, for --json and the log: new reference.
json_t *jobs_job_json(const struct jobs_job *job);

// Checks name, data (line by line, jobs/data.h) and options, copies the data, queues. ERR_INVALID with what is
// wrong; ERR_BUSY: a job of that name that has not ended; ERR_RANGE: no room on the disk.
int jobs_submit(struct jobs *j, const struct jobs_spec *spec, struct jobs_job *out, struct err *e);

// ---- asking --------------------------------------------------------------------------------------

// By id, by the beginning of an id if no other begins so, or by name (the newest of that name).
// ERR_NOT_FOUND, ERR_INVALID (ambiguous).
int jobs_find(struct jobs *j, const char *id_or_name, struct jobs_job *out, struct err *e);
// By the whole id.
int jobs_get(struct jobs *j, const char *id, struct jobs_job *out, struct err *e);

struct jobs_query {
    const char *after;     // an id: those that come after it in the list; NULL: from the newest
    const char *owner;     // NULL: anybody's
    enum jobs_state state; // JOBS_STATES: any
    uint32_t limit;        // 1..JOBS_PAGE_MAX
};
void jobs_query_default(struct jobs_query *q);
struct jobs_list {
    struct jobs_job *items; // newest first
    size_t n;
    bool more;
};
int jobs_list_read(struct jobs *j, const struct jobs_query *q, struct jobs_list *out,
                   struct err *e);
void jobs_list_fini(struct jobs_list *l);

// What happened, oldest first: [{"id": 17, "unix_s", "level": "info" | "warn" | "error", "type": "message" |
// "metrics" | "state", "message", "data": {...}}], those with an id above `after`, at most `limit`.
// Ids rise over all jobs. New reference.
int jobs_events(struct jobs *j, const char *id, int64_t after, uint32_t limit, json_t **out,
                struct err *e);
// The complete checkpoints, newest first: [{"step", "unix_s", "bytes", "loss", "eval_loss"}].
int jobs_checkpoints(struct jobs *j, const char *id, json_t **out, struct err *e);
// Lines of progress.jsonl from byte *offset on, which is moved behind the last whole line: a list of objects,
// at most 10,000. Steps may come again after a resume; the later line counts. Lines that are no
// JSON are passed over.
int jobs_progress(struct jobs *j, const char *id, uint64_t *offset, json_t **out, struct err *e);

// ---- acting --------------------------------------------------------------------------------------

// queued: cancelled at once. running: cancelling; its runner sends TERM, and KILL after a grace. ERR_INVALID
// for a job that has ended.
int jobs_cancel(struct jobs *j, const char *id, struct err *e);
// Removes row and folder of a job that has ended; a published adapter stays. ERR_BUSY for one that has not.
int jobs_remove(struct jobs *j, const char *id, struct err *e);
// See above. *running (NULL: not wanted): jobs that have a runner now.
int jobs_tick(struct jobs *j, size_t *running, struct err *e);

// ---- for the runner ------------------------------------------------------------------------------

// Changes the state if it is one of the bits in `from` (1u << JOBS_QUEUED | ...): ERR_MISMATCH otherwise, which
// is how a cancellation and an end that come at once are put in order. error, result: NULL, or what to keep.
struct jobs_change {
    uint32_t from;
    enum jobs_state to;
    const struct jobs_error *error;
    const json_t *result;
};
int jobs_change(struct jobs *j, const char *id, const struct jobs_change *c, struct err *e);
// One more attempt: counts it. Adds seconds to what it ran for.
int jobs_attempt_note(struct jobs *j, const char *id, struct err *e);
// Its runner is at work: the count of runners that did not get there begins anew.
int jobs_alive_note(struct jobs *j, const char *id, struct err *e);
int jobs_ran_note(struct jobs *j, const char *id, double seconds, struct err *e);
// Adds an event; data: NULL or an object (borrowed).
struct jobs_event {
    const char *level, *type, *message;
    const json_t *data;
};
int jobs_event_add(struct jobs *j, const char *id, const struct jobs_event *event, struct err *e);
// What the executor needs to find its work again (a Slurm id, a process): kept in the row. "": none.
int jobs_handle_set(struct jobs *j, const char *id, const char *handle, struct err *e);
int jobs_handle_get(struct jobs *j, const char *id, char *out, size_t out_bytes, struct err *e);

#endif
