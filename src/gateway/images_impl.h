// The inside of gateway/images.h, shared by images*.c, image_jobs*.c and image_upstream_impl.h; nobody else includes
// this.
#ifndef GATEWAY_IMAGES_IMPL_H
#define GATEWAY_IMAGES_IMPL_H

#include "base/buf.h"
#include "base/chan.h"
#include "base/metrics.h"
#include "gateway/images.h"
#include "image/worker.h"
#include "image/yield.h"

#include <pthread.h>
#include <stdatomic.h>

#define IMAGES_SIZES_MAX 16 // sizes whose times are remembered

// Seconds of a step, by size.
struct images_speed {
    uint32_t width, height;
    double step_s; // a moving mean
    uint64_t steps;
};
struct images_speeds {
    struct images_speed rows[IMAGES_SIZES_MAX];
    uint32_t n;
};

// What others may see; the images thread alone writes.
struct images_told {
    struct image_worker_status worker;
    bool failed, resting;
    struct image_yield yield;
    char why[ERR_MESSAGE_BYTES]; // of failed
    uint32_t requests;           // taken and not ended
    uint64_t pictures, edits, done, cancelled, failures, refused;
    double load_s, eta_s;
    struct images_speeds speeds;
    struct metric_histogram step_s, request_s, queue_s;
};

// A request from its task to its answer.
struct images_request {
    struct images_request *next;
    struct images_task *task; // owned
    uint64_t id;              // the worker's
    struct buf data;          // of a whole answer: its pictures so far
    uint32_t drawn, previews, index, step;
    int64_t received_ns, begun_ns, told_ns; // begun_ns 0: it waits
    size_t bytes;                           // of its pixels, while it waits
    bool left;                              // its client is gone: the worker was told
};

struct images {
    const struct gateway_options *options;
    struct images_hooks hooks;
    struct images_known known;
    char name[IMAGES_NAME_BYTES];
    struct image_model model;
    struct chan *inbox; // struct images_task *
    struct chan *begun; // struct err: how the start went
    atomic_int chats;   // requests beside pictures; a count alone: no ordering needed
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    struct images_told told; // guarded by the lock
    // The images thread only.
    struct image_worker *worker; // NULL: it rests, or could not be started
    struct images_told now;      // told is its copy
    struct image_yield yield;
    struct images_request *requests;
    size_t waiting_bytes;
    bool draining, drained, stopping;
    int64_t swept_ns;
};

// ---- images.c ----
// Starts the worker, where it rests. ERR_BUSY: there is no memory for it now.
int images_worker_wake(struct images *i, struct err *e);

// ---- images_request.c ----
void images_admit(struct images *i, struct images_task *t); // takes it
void images_event(struct images *i, struct image_event *ev);
// Clients that left, and signs of life.
void images_requests_tick(struct images *i, int64_t now_ns);
void images_requests_fail(struct images *i, const struct err *e); // all of them
// A refusal before anything was told. param may be NULL.
void images_refuse(struct reply *reply, const struct err *e, unsigned status, const char *param,
                   unsigned retry_s);
// A picture as its client is to have it: the file with `texts` (NULL: none), kept where a url was asked for. A
// stream's event goes into `out`, a whole answer's entry to those before it.
int images_picture_put(struct images_request *r, const struct image_event *ev, const json_t *texts,
                       struct buf *out, struct err *e);
// Retry-After, of seconds until there is room.
unsigned images_retry_s(double left_s);
double images_eta_s(const struct images *i); // until what is there now is drawn; 0: not known

// ---- images_answer.c ----
struct images_picture_told { // one picture as an answer tells it
    const struct images_ask *ask;
    const struct image_event *event;
    const uint8_t *file; // its bytes
    size_t len;
    const char *url;  // NULL: the bytes are sent
    const char *node; // who drew it; NULL: this machine
};
// {"b64_json":..., "seed":...}
void images_entry_put(struct buf *out, const struct images_picture_told *p);
// image_generation.completed, or .partial_image (`index` of it, from 0).
void images_completed_put(struct buf *out, const struct images_picture_told *p);
void images_partial_put(struct buf *out, const struct images_picture_told *p, uint32_t index);
void images_progress_put(struct buf *out, const struct images_ask *ask,
                         const struct image_event *ev, double eta_s);
void images_error_put(struct buf *out, const struct err *e, unsigned status);
// The whole answer around entries; draw_s as the worker told.
char *images_answer(const struct images_request *r, double draw_s);

// ---- images_told.c ----
void images_told_init(struct images_told *t);
void images_told_publish(struct images *i);

// ---- images_speeds.c ----
void images_speeds_learn(struct images_speeds *s, const struct image_request *r, double step_s);
double images_speeds_step_s(const struct images_speeds *s,
                            const struct image_request *r); // 0: not known
json_t *images_speeds_json(const struct images_speeds *s);
// What was learned before, and what outlives this process, of a model of this name. A file that does not read is no
// loss.
void images_speeds_read(const char *name, struct images_speeds *s);
void images_speeds_write(const char *name, const struct images_speeds *s);

#endif
