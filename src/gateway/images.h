// Pictures over HTTP: OpenAI's /images/generations and /images/edits, drawn by an image worker of this machine
// (image/worker.h) that one thread here owns. Private to gateway/.
//
//   HTTP thread                            images thread                     the worker's process
//   images_ask_parse, images_send -task->  queue, events, replies, store  <->  draws
//   images_*_json, images_metrics_put <- a copy of its figures, behind one lock
//
// Everything that a request can get wrong is found on the HTTP thread, from the request and the head of the
// model's file alone, before anything is allocated for it. Replies are shared as with the core (reply.h).
//
// With the policy "pause" the worker waits before its next step while other requests run (images_chats), but not
// for ever: a picture gets a step every IMAGE_PATIENCE_NS (image/yield.h). With "wait" it is the others who wait.
//
// Files: images.c the thread, images_request.c one request, images_parse.c and images_form.c what is asked,
// images_answer.c what is told, images_store.c files that are fetched by url, images_told.c figures.
#ifndef GATEWAY_IMAGES_H
#define GATEWAY_IMAGES_H

#include "gateway/gateway.h"
#include "gateway/parse.h"
#include "gateway/reply.h"
#include "image/image.h"

#include <jansson.h>

#define IMAGES_NAME_BYTES 128
#define IMAGES_HOST_BYTES 300
#define IMAGES_WAITING_BYTES (256u << 20) // of pictures that came with requests

struct buf;
struct image_upstream_pick;
struct images;

// ---- what is asked: images_parse.c, images_form.c; pure ---------------------------------------------

struct images_part { // a file of a form
    uint8_t *data;   // owned
    size_t len;
};

struct images_ask {
    struct image_request request; // its texts are borrowed from what follows
    json_t *body;                 // owned
    char *prompt;                 // owned: without the LoRAs that it names
    struct images_part image, mask;
    enum image_format format;
    uint32_t compression;             // 1..100 of JPEG and WebP; 0: the default
    const char *quality, *background; // as the answer says them; static
    bool edit, url, stream, progress;
    bool files_later; // of an edit: image and mask are put in after the checks
};

// What the checks need to know of the server.
struct images_known {
    const struct image_model *model;
    const char *name, *file; // of the model: what it is listed as, and its path
    // file NULL: another server draws, by whose own defaults what a request leaves open stays open
    bool found; // by the name that was asked for, whatever that is
};

// 0, or an error with *fault filled; *out needs images_ask_fini in both cases. Keeps the body.
int images_ask_parse(json_t *body, bool edit, const struct images_known *known,
                     struct images_ask *out, struct parse_fault *fault);
// A form's fields as such a body, and its files into *out, which is zeroed; feed it the whole form.
struct MHD_Connection;
int images_form_parse(struct MHD_Connection *connection, const char *form, size_t n, json_t **body,
                      struct images_ask *out, struct parse_fault *fault);
// The same for a body of JSON, out of which they are taken: {"images": [{"image_url": "data:..."}], "mask": ...}.
int images_urls_take(json_t *body, struct images_ask *out, struct parse_fault *fault);
void images_ask_fini(struct images_ask *a);
// The member that a complaint of image_request_check, or of the worker's queue, is about; NULL: not known.
const char *images_param_of(const char *message);

// ---- the thread --------------------------------------------------------------------------------------

enum images_what { IMAGES_DRAW, IMAGES_DRAIN, IMAGES_ROOM };

struct images_task {
    enum images_what what;
    struct reply *reply;
    struct images_ask ask;           // of IMAGES_DRAW; owned
    char owner[MESSAGE_OWNER_BYTES]; // of the key; "": none
    char base[IMAGES_HOST_BYTES];    // "http://host:port", as the client called this server
    struct image_upstream_pick
        *pick;           // the server that draws (image_upstream.h); owned; NULL: this one
    bool begun;          // its stream has: somebody else had it before
    uint64_t bytes;      // of IMAGES_ROOM; 0: no longer needed
    struct chan *answer; // of IMAGES_ROOM: one int comes
};
struct images_task *images_task_new(enum images_what what, struct reply *reply);
void images_task_free(struct images_task *t); // NULL is nothing

// Starts the thread and the worker; does not wait until that has loaded its model. The options are
// borrowed. drained: called once on the images thread, after images_drain, when nothing is left to draw.
struct images_hooks {
    void (*drained)(void *ctx);
    void *ctx;
};
int images_start(const struct gateway_options *o, const struct images_hooks *hooks,
                 struct images **out, struct err *e);
// Ends its requests, the worker and the thread. NULL is nothing, here and below.
void images_stop(struct images *i);
void images_free(struct images *i); // when nobody can send to it any more
// 0: it takes the task. Any thread.
int images_send(struct images *i, struct images_task *t);
void images_drain(struct images *i);
// So many more (or, negative, fewer) other requests run on this machine. Any thread.
void images_chats(struct images *i, int change);
// Memory for a training job: 0, and the worker has gone if that helps and it has nothing to do. With 0
// bytes it comes back. Any thread but its own; waits for its word.
int images_room(struct images *i, uint64_t bytes);

// ---- what is told: any thread ------------------------------------------------------------------------

const struct images_known *images_known(const struct images *i); // immutable
// Seconds until a request would be done, behind those that are there; 0: not known; INFINITY: it cannot draw.
double images_estimate_s(struct images *i, const struct image_request *r);
json_t *images_model_json(struct images *i); // for /v1/models; new reference
json_t *images_status_json(struct images *i);
void images_metrics_put(struct images *i, struct buf *out);
// Is it called so? Case does not count, nor the file's ending.
bool images_goes_by(const struct images_known *known, const char *name);

// ---- pictures that are fetched by url: images_store.c; any thread, nothing is kept in memory ---------

#define IMAGES_STORE_MAX 1000u // files
#define IMAGES_STORE_NAME_BYTES 48

uint64_t images_store_count(void);
// 0: so many more files, of so many bytes in all, can be kept. ERR_BUSY: too many are, or the disk is nearly full.
int images_store_room(uint64_t files, uint64_t bytes, struct err *e);
// Keeps a file for its owner's eyes (0600) under a random name: "0123..ef.png".
int images_store_put(const char *owner, enum image_format format, const void *data, size_t n,
                     char name[IMAGES_STORE_NAME_BYTES], struct err *e);
// Opens one that is not older than expiry_s; ERR_NOT_FOUND.
int images_store_open(const char *name, int64_t expiry_s, int *fd, uint64_t *bytes,
                      enum image_format *format, struct err *e);
void images_store_renew(const char *name);  // its time begins anew
void images_store_remove(const char *name); // no name of a picture is no loss
// Removes what is older, or (owner NULL) everything, or all of one owner's. How many files went.
uint64_t images_store_expire(int64_t expiry_s);
uint64_t images_store_forget(const char *owner);

#endif
