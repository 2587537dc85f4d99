// Fine-tuning over HTTP, as OpenAI has it: the queue of jobs (jobs/jobs.h) behind a thread of its own, because
// a job's data is checked and copied while a client waits. Private to gateway/.
//
// Threads: start, stop and free are the gateway's; tuning_send is any thread's. The tuning thread owns the
// queue and every stream of events; replies are shared as with the core (reply.h).
//
// A host (a real server, not a test's) also ticks the queue every second, so that jobs of others go on as
// well: those that were queued by a command line, or whose runner died. A queue that nobody has used yet is
// not made by that.
#ifndef GATEWAY_TUNING_H
#define GATEWAY_TUNING_H

#include "base/err.h"
#include "gateway/gateway.h"
#include "gateway/reply.h"
#include "jobs/jobs.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define TUNING_TICK_NS NS_PER_S
#define TUNING_STREAM_NS (NS_PER_S / 4) // between two looks at the events of streams
#define TUNING_BEAT_NS (10 * NS_PER_S)  // a comment line in a stream without events
#define TUNING_TASKS 256
#define TUNING_STREAMS_MAX 64
#define TUNING_EVENTS_MAX 10000 // of a job, that are looked through
#define TUNING_AFTER_BYTES 64

enum tuning_what {
    TUNING_CREATE,
    TUNING_LIST,
    TUNING_SHOW,
    TUNING_CANCEL,
    TUNING_EVENTS,
    TUNING_STREAM, // events until the job has ended
    TUNING_CHECKPOINTS,
};

struct tuning_task {
    enum tuning_what what;
    struct reply *reply;
    char id[JOBS_ID_BYTES];         // of the job
    char after[TUNING_AFTER_BYTES]; // the cursor; "": none
    uint32_t limit;                 // of a page
    json_t *body;                   // CREATE; owned
    char owner[JOBS_NAME_BYTES];    // the key's name; "": none
};
struct tuning_task *tuning_task_new(enum tuning_what what, struct reply *reply);
void tuning_task_free(struct tuning_task *t);

struct tuning;
// The options are borrowed: their models may be trained under the names that clients know. hooks NULL: not a
// host.
int tuning_start(const struct gateway_options *o, const struct jobs_hooks *hooks,
                 struct tuning **out, struct err *e);
void tuning_stop(struct tuning *t); // ends its streams and its thread. NULL is nothing
void tuning_free(struct tuning *t); // when nobody can send to it any more
// 0: it takes the task.
int tuning_send(struct tuning *t, struct tuning_task *task);

// ---- tuning_parse.c: what is asked for ----
struct tuning_ask {
    char name[JOBS_NAME_BYTES];                        // of the adapter
    char model[JOBS_PATH_BYTES];                       // path of the base
    char data[JOBS_PATH_BYTES], eval[JOBS_PATH_BYTES]; // "": none
    json_t *options, *meta;                            // owned
    bool named;     // by the client: a name that is taken gets an ending
    char param[40]; // of an error: the member at fault
};
// A model may be named as clients know it, where it is served, or as the store does.
int tuning_ask_parse(const json_t *body, const struct gateway_options *o, struct tuning_ask *out,
                     struct err *e);
void tuning_ask_fini(struct tuning_ask *a);
// Another name of the same beginning.
void tuning_ask_rename(struct tuning_ask *a);

// ---- tuning_json.c: what is told ----
json_t *tuning_job_json(const struct jobs_job *job);
json_t *tuning_event_json(const json_t *event);
json_t *tuning_checkpoint_json(const struct jobs_job *job, const json_t *checkpoint);
// OpenAI's list: steals data.
json_t *tuning_page_json(json_t *data, bool more);

#endif
