// The inside of image/worker.h, shared by worker*.c; nobody else includes this.
#ifndef IMAGE_WORKER_IMPL_H
#define IMAGE_WORKER_IMPL_H

#include "image/frame.h"
#include "image/worker.h"

#define EVENTS_MAX (IMAGE_QUEUE_MAX + 8) // at once: every request may fail with its worker

struct image_job {
    struct image_job *next;
    uint64_t id;
    json_t *head;  // of its frame; NULL once sent
    uint8_t *data; // pixels beside it
    size_t len;
    uint32_t previews, previewed; // asked for of each picture; told of this one
    bool cancelled;
    int64_t cancelled_ns;
};

struct image_worker {
    struct image_model model;
    char *options; // as JSON text, for the worker
    char *program, *lora_dir;
    pid_t pid; // -1: none
    int fd;    // -1: none
    struct buf in, out;
    bool ready, ended, paused, can_cancel, can_preview;
    char library[64], version[64];
    struct err told; // what the worker said before it ended; its cause
    struct err dead; // code 0: it lives, or comes back
    int64_t restart_ns, backoff_ns, started_ns;
    int64_t load_ns;           // that loading may take
    int64_t hang_ns, heard_ns; // heard_ns: its last word, or since when it has had one to say
    uint32_t restarts, load_deaths;
    uint64_t last_id;
    struct image_job *drawing, *waiting; // first in, first out
    uint32_t n_waiting;
    struct image_event events[EVENTS_MAX];
    uint32_t first_event, n_events;
};

// worker_process.c
int worker_spawn(struct image_worker *w, struct err *e);
void worker_unstarted(struct image_worker *w, const struct err *e); // worker_spawn failed: and now?
void worker_kill(struct image_worker *w);                           // and waits
void worker_late(struct image_worker *w);                           // it has not loaded in time
void worker_ended(struct image_worker *w); // the stream broke: why, and what now
// worker_events.c
struct image_event *worker_event(struct image_worker *w, enum image_event_kind kind, uint64_t id);
void worker_fail(struct image_worker *w, struct image_job *j, int code, const char *message);
void worker_frame(struct image_worker *w, struct image_frame *f); // one from the worker

#endif
