// The inside of gateway/image_jobs.h, shared by image_jobs*.c; nobody else includes this.
#ifndef GATEWAY_IMAGE_JOBS_IMPL_H
#define GATEWAY_IMAGE_JOBS_IMPL_H

#include "base/buf.h"
#include "base/chan.h"
#include "gateway/image_jobs_rows.h"

#include <pthread.h>

#define IMAGE_JOBS_PATH_BYTES 2048
#define IMAGE_JOBS_FIND_NS (5 * NS_PER_S)
#define IMAGE_JOBS_EXPIRE_NS (300 * NS_PER_S) // where nobody draws

// What others may see; the thread alone writes.
struct image_jobs_told {
    uint32_t queued, running;
    uint64_t completed, failed, cancelled; // since the process began
};

// A job that somebody draws, or, cancelled, one that is being stopped.
struct image_jobs_run {
    struct image_jobs_run *next;
    struct image_jobs_row row;            // as the table has it, unless it is over
    char node[IMAGE_UPSTREAM_NODE_BYTES]; // who draws; "": this machine
    struct reply *reply;
    bool over;      // its row has its end; what still comes is put away
    bool has_error; // its stream told one: code, why and status
    unsigned retry_s;
    char code[32], why[ERR_MESSAGE_BYTES];
    uint32_t index, step, steps; // of the picture that is drawn; steps 0: not told
    double eta_s;                // as it was told at eta_ns; below 0: not known
    int64_t begun_ns, eta_ns;
};

// A client that is told what happens to a job.
struct image_jobs_watcher {
    struct image_jobs_watcher *next;
    struct reply *reply;
    char id[IMAGE_JOBS_ID_BYTES];
    char owner[MESSAGE_OWNER_BYTES]; // of the key that watches
    enum image_jobs_state state;     // the last one that it was told
    int64_t told_ns;
};

struct image_jobs {
    const struct gateway_options *options;
    struct images_places places;
    struct chan *inbox; // struct image_jobs_task *
    struct chan *wakes; // a char: there is something to see in a reply
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    struct image_jobs_told told; // guarded by the lock
    // The thread only.
    struct db *db; // NULL: not opened yet
    int lock_fd;   // -1: none
    bool passing;  // it was opened though nobody draws, and is closed again soon
    struct image_jobs_told now;
    struct image_jobs_run *runs;
    struct image_jobs_watcher *watchers;
    size_t n_watchers;
    int64_t due_ns;    // when the queue is looked at next
    int64_t find_ns;   // when the queue's file is looked for next
    int64_t expire_ns; // the same where nobody draws
    bool find_failed;  // which was said
    int64_t swept_ns;  // when rows are next looked at for their expiry
    bool dropped;      // something that must not stay in the table's log
    bool draining, stopping;
};

// ---- image_jobs.c ----
void image_jobs_counts(struct image_jobs *j);            // tells anew how many there are
void image_jobs_pictures_drop(struct image_jobs_row *r); // out of the store, and out of the row

const char *image_jobs_picture_name(const json_t *picture); // in the store

// ---- image_jobs_queue.c ----
// Opens it, if it is not open, and makes it where it is not there yet. ERR_BUSY: another server has it.
int image_jobs_queue_open(struct image_jobs *j, struct err *e);
// The same now and then for one that is there: a queue that nobody has used yet is not made by looking for it, and one
// whose server has ended is taken over.
void image_jobs_queue_find(struct image_jobs *j, int64_t now_ns);
// The same now, to forget what is in it. j->db stays NULL where there is none.
int image_jobs_queue_visit(struct image_jobs *j, struct err *e);
// What is in progress in the table and is not drawn goes back to where it stood; what was begun too often does not.
void image_jobs_recover(struct image_jobs *j);
// Files that were damaged and put aside go, too: whose jobs they hold cannot be read.
void image_jobs_queue_damaged_remove(void);
// Where nobody draws, it is left to a server that does.
void image_jobs_queue_leave(struct image_jobs *j);

// ---- image_jobs_run.c ----
int64_t image_jobs_seed_draw(void);
// Begins what can begin.
void image_jobs_begin(struct image_jobs *j, int64_t now_ns);
// Takes what those who draw have said.
void image_jobs_runs_look(struct image_jobs *j);
struct image_jobs_run *image_jobs_run_of(const struct image_jobs *j,
                                         const char *id); // NULL: it does not run
// Its row has its end, or is gone: whoever draws it stops within a step.
void image_jobs_run_leave(struct image_jobs_run *r);
void image_jobs_runs_stop(struct image_jobs *j); // puts them back
// Until the first of those that run has ended; 0: not known.
double image_jobs_left_s(const struct image_jobs *j);

// ---- image_jobs_watch.c ----
// owner: the client's key, which need not be that of the job.
void image_jobs_watch(struct image_jobs *j, struct reply *reply, const char *owner,
                      const struct image_jobs_row *row);
void image_jobs_watchers_tick(struct image_jobs *j, int64_t now_ns);
// Events of one job's own stream, as they are.
void image_jobs_watchers_tell(struct image_jobs *j, const char *id, const void *text, size_t n);
// Its state has changed; final ones end their streams. row NULL: it was removed.
void image_jobs_watchers_state(struct image_jobs *j, const char *id,
                               const struct image_jobs_row *row);
void image_jobs_watchers_stop(struct image_jobs *j);

// ---- image_jobs_told.c ----
// As a client sees it, without its pictures. A new reference.
json_t *image_jobs_json(const struct image_jobs *j, const struct image_jobs_row *r);
// With the result, where there is one; the caller frees.
char *image_jobs_text(const struct image_jobs *j, const struct image_jobs_row *r);
// {"type": "image_job.STATE", "job": {...}} as an event.
void image_jobs_event_put(struct buf *out, const struct image_jobs *j,
                          const struct image_jobs_row *r);

#endif
