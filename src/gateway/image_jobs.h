// Pictures as jobs: a request for pictures that is answered with an id at once, is drawn when its turn comes, and
// outlives its client's connection and this process. Private to gateway/.
//
//   HTTP thread                    image jobs thread                              who draws (images_choose)
//   image_jobs_send       -task->  the queue's rows (STATE/image-jobs.db),  -task->  images.h, image_upstream.h
//   image_jobs_*_json, _put <- figures, streams of events                   <-reply-
//
// The thread is a client of the streams that /images/generations has: it sends what was asked as a request of its own
// with a local reply (reply.h), reads the events, and hands them on, byte for byte, to whoever watches the job. So
// whoever can draw a request can draw a job. Pictures go to the store of those that are fetched by url
// (images_store.c), and job and pictures expire together.
//
//   queued -> in_progress -> completed, failed, cancelled
//   in_progress -> queued: this process ends, or whoever was to draw has no room now
//
// One job at a time is given to each that draws, so that requests whose clients wait do not stand behind a long
// queue. A seed that nobody gave is drawn when the job comes in and kept: the job that is begun anew gives the same bytes.
// A job that was in progress IMAGE_JOBS_ATTEMPTS times when the process died is not begun again.
//
// One process owns the queue of a state folder, by a lock; the others refuse jobs and say so. One that draws nothing
// owns it for a moment only: to forget, and now and then for jobs that have expired.
//
// Files: image_jobs.c the thread and its tasks, image_jobs_queue.c the queue's file, image_jobs_run.c jobs while they are drawn, image_jobs_watch.c
// streams, image_jobs_rows.c the table, image_jobs_told.c what is told, route_image_jobs.c HTTP.
#ifndef GATEWAY_IMAGE_JOBS_H
#define GATEWAY_IMAGE_JOBS_H

#include "gateway/image_upstream.h"
#include "gateway/images.h"

#define IMAGE_JOBS_ID_BYTES 32      // "imgjob-" and 24 hexadecimal digits
#define IMAGE_JOBS_ATTEMPTS 3       // that may end with the process
#define IMAGE_JOBS_PATIENCE_S 86400 // that a job waits for a model that nobody has
#define IMAGE_JOBS_ROWS_MAX 2000    // with those that have ended; the oldest of these go first
#define IMAGE_JOBS_WATCHERS_MAX 64  // streams of events
#define IMAGE_JOBS_WATCHERS_PER_KEY 16
#define IMAGE_JOBS_PAGE 20 // jobs of a list, where no limit is given
#define IMAGE_JOBS_PAGE_MAX 100

struct image_jobs;

enum image_jobs_what {
    IMAGE_JOBS_CREATE,
    IMAGE_JOBS_LIST,
    IMAGE_JOBS_SHOW,
    IMAGE_JOBS_CONTENT,
    IMAGE_JOBS_EVENTS,
    IMAGE_JOBS_CANCEL,
    IMAGE_JOBS_DELETE,
    IMAGE_JOBS_FORGET,
    IMAGE_JOBS_DRAIN,
};

struct image_jobs_task {
    enum image_jobs_what what;
    struct reply *reply;          // NULL: of FORGET and DRAIN
    char id[IMAGE_JOBS_ID_BYTES]; // of the job; of LIST: the last one of the page before, "": none
    char owner[MESSAGE_OWNER_BYTES]; // of the key; "": none
    bool all;                        // may see everybody's; of FORGET: whoever's
    uint32_t limit;                  // of LIST
    uint32_t index;                  // of CONTENT
    bool brief;                      // of SHOW: without the result
    // Of CREATE, checked, and held against the model:
    char base[IMAGES_HOST_BYTES];  // "http://host:port", as the client called this server
    char model[PARSE_MODEL_BYTES]; // who draws it, as it is called here
    struct images_ask ask;         // owned: its body, and its files
    bool seeds;                    // what is drawn follows from a seed
    // Of FORGET: called once, on the jobs' thread, with how many there were, or why they are not forgotten.
    void (*forgotten)(void *ctx, uint64_t n, const struct err *e);
    void *ctx;
};
struct image_jobs_task *image_jobs_task_new(enum image_jobs_what what, struct reply *reply);
void image_jobs_task_free(struct image_jobs_task *t);

// Starts the thread, and goes on with the jobs that are there. Options and places are borrowed and outlive it.
int image_jobs_start(const struct gateway_options *o, const struct images_places *places,
                     struct image_jobs **out, struct err *e);
// Puts what is drawn back into the queue, ends its streams and the thread; after those who draw were stopped. NULL is
// nothing, here and below.
void image_jobs_stop(struct image_jobs *j);
void image_jobs_free(struct image_jobs *j);  // when nobody can send to it any more
void image_jobs_drain(struct image_jobs *j); // begins no more jobs
// 0: it takes the task. Any thread.
int image_jobs_send(struct image_jobs *j, struct image_jobs_task *t);

// ---- what is told: any thread ------------------------------------------------------------------------

json_t *image_jobs_status_json(struct image_jobs *j);
void image_jobs_metrics_put(struct image_jobs *j, struct buf *out);

#endif
