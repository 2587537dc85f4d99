// The image worker, from the outside: starts the process that draws, keeps it alive, hands it one request
// after the other and tells what happens.
//
//   owner's thread                          the worker's process
//   image_worker_submit  -> queue ->  one socket (image/frame.h)  -> draws
//   image_worker_poll    <- events <-                             <- progress, pictures
//
// A worker that dies (a library that does not like its input ends the process) takes the request with it that
// it was drawing, with an error that says how it ended; the rest of the queue waits for the next one, which
// is started after a pause that grows. One that is silent for too long, or does not finish loading, is ended in the
// same way; of the latter all that wait hear. One that says that its model cannot be loaded is not started again.
//
// Owner: one thread, which makes, polls and frees it; no other may call anything. On Linux the worker dies
// with that thread. The thread may wait on image_worker_fd itself, for at most image_worker_wait_ns.
//
// What it does not do: it starts no thread, and it places nothing: that is the gateway's.
#ifndef IMAGE_WORKER_H
#define IMAGE_WORKER_H

#include "base/clock.h"
#include "image/image.h"

#include <sys/types.h>

#define IMAGE_QUEUE_MAX 64u
#define IMAGE_HANG_NS                                                                              \
    (3600 * NS_PER_S)     // a step of a large model on a small machine takes many minutes
#define IMAGE_LOAD_S 1800 // so may reading tens of gigabytes from a slow disk

struct image_worker_options {
    const char *model; // a file with all parts, or the network alone where `parts` has the others
    const char *vae, *taesd, *t5xxl, *clip_l, *clip_g,
        *llm;             // NULL: in the model file, or not needed
    const char *lora_dir; // NULL: no LoRAs
    const char *type;     // of the weights in memory ("q8_0"); NULL: as in the file
    const char *program;  // NULL: TANDEM_IMAGE_WORKER, else what was built or installed
    uint32_t threads;     // 0: one per physical core
    bool split;           // `model` is the network alone
    bool tiling;          // decode in tiles: less memory, more time
    bool offload;         // keep weights in main memory while they are not used
    bool flash_attention;
    double load_s;   // a process that has not loaded by then is ended; 0: IMAGE_LOAD_S
    int64_t hang_ns; // of silence while it draws and may go on: it is ended then; 0: IMAGE_HANG_NS
};

struct image_worker;

// Reads the model's head, checks the other files and starts the first process; does not wait until it has
// loaded. Strings are copied.
int image_worker_start(const struct image_worker_options *o, struct image_worker **out,
                       struct err *e);
void image_worker_free(struct image_worker *w); // ends the process; requests end without an event
const struct image_model *image_worker_model(const struct image_worker *w);

// Queues a request after image_request_check; fills in what it left open, the seed too. Pixels are copied.
// ERR_BUSY: the queue is full; ERR_ENGINE: the model cannot be loaded.
int image_worker_submit(struct image_worker *w, struct image_request *r, uint64_t *id,
                        struct err *e);
// Ends with IMAGE_FAILED and ERR_CANCELLED: at once when it waits, within one step when it is drawn (a worker
// without that ability is ended and started again). Nothing happens for an id that is not there.
void image_worker_cancel(struct image_worker *w, uint64_t id);
// Before its next step the worker waits until it may go on: room for something more urgent.
void image_worker_pause(struct image_worker *w, bool pause);

enum image_event_kind {
    IMAGE_READY,    // the worker has loaded its model; load_s
    IMAGE_DOWN,     // the worker ended: error; comes back after retry_ns (-1: it does not)
    IMAGE_PROGRESS, // id, index, step of steps, step_s
    IMAGE_PREVIEW,  // id, index, step, picture
    IMAGE_PICTURE,  // id, index, seed, picture
    IMAGE_DONE,     // id, draw_s
    IMAGE_FAILED,   // id, error
};
struct image_event {
    enum image_event_kind kind;
    uint64_t id;
    uint32_t index, step, steps;
    double step_s, load_s, draw_s;
    int64_t seed, retry_ns;
    struct image_picture picture; // owned; taken by setting rgb to NULL
    struct err error;
};
void image_event_fini(struct image_event *ev);

// Waits until the deadline (clock_now_ns's scale) for the next event: 1 with one, 0 without.
int image_worker_poll(struct image_worker *w, int64_t deadline_ns, struct image_event *ev);
int image_worker_fd(const struct image_worker *w); // readable: poll; -1: none now
int64_t
image_worker_wait_ns(const struct image_worker *w); // poll again after so long at the latest

struct image_worker_status {
    bool ready;
    pid_t pid;                 // -1: none
    uint32_t waiting, drawing; // requests
    uint32_t restarts;
    char library[64], version[64];
    bool can_cancel, can_preview;
};
void image_worker_status(const struct image_worker *w, struct image_worker_status *s);

// Bytes of memory that its model is likely to need: the files, and room for what is computed.
uint64_t image_worker_need(const struct image_worker_options *o);

// Which program would be started; ERR_NOT_FOUND says how to get one.
int image_worker_find(const struct image_worker_options *o, char *out, size_t out_bytes,
                      struct err *e);

#endif
