// Servers that draw for this one: OpenAI's images API, stable-diffusion.cpp's sd-server (or what speaks A1111's
// /sdapi), and ComfyUI. Each answers whole requests for pictures, beside the image worker of this machine
// (images.h) or without it. Private to gateway/.
//
//   HTTP thread                            upstream images thread
//   image_upstreams_find, _send   -task->  queues, connections, pictures, replies, checks of health
//   what is told                  <-       servers' state, behind one lock
//
// What a client asked is held against the limits of images.h and what its server can take before anything is sent;
// prompts lose what such a server would execute (image_markup.h); and what comes back is decoded here and written
// anew: no client gets bytes that another server made up. Nothing is connected to but the addresses that were given.
//
// A model of the name of this machine's own is one more place for it: the request goes where it is done sooner. What
// fails before the client heard anything goes to the next server that has the model, or to this machine.
//
// Files: image_upstream.c life and choice, image_upstream_told.c what is told, image_upstream_thread.c the thread and
// health, image_upstream_queue.c requests that wait, image_upstream_job.c one that runs, image_upstream_plain.c and
// image_upstream_comfy.c kinds of servers, image_upstream_body.c what is said and read (pure),
// image_upstream_workflow.c ComfyUI's workflows (pure).
#ifndef GATEWAY_IMAGE_UPSTREAM_H
#define GATEWAY_IMAGE_UPSTREAM_H

#include "gateway/images.h"

#define IMAGE_UPSTREAM_NODE_BYTES 264

struct image_upstreams;

// What a server takes beside a prompt.
enum image_upstream_takes {
    IMAGE_TAKES_NEGATIVE = 1,
    IMAGE_TAKES_STEPS = 2,
    IMAGE_TAKES_CFG = 4,
    IMAGE_TAKES_SIZE = 8,
    IMAGE_TAKES_SAMPLER = 16, // and the scheduler
    IMAGE_TAKES_SEED =
        32, // what it draws follows from it, so that one is made up where none was given
};

// A server, and which of its models. It does not move: `known` refers to what stands before it.
struct image_upstream_pick {
    size_t server;
    char node[IMAGE_UPSTREAM_NODE_BYTES]; // what the server is called
    char theirs[PARSE_MODEL_BYTES], ours[PARSE_MODEL_BYTES];
    unsigned takes;
    bool local; // this machine has a model of that name too
    bool fixed; // the request named the server as well: nobody else is to draw it
    struct image_model model;
    struct images_known known;
};

// ---- their life --------------------------------------------------------------------------------------------

// Reads keys and workflows, and starts the thread. `local` may be NULL; it outlives this, as the options do.
int image_upstreams_start(const struct gateway_options *o, struct images *local,
                          const struct images_hooks *hooks, struct image_upstreams **out,
                          struct err *e);
void image_upstreams_stop(
    struct image_upstreams *u); // ends its requests and the thread; NULL is nothing
void image_upstreams_free(struct image_upstreams *u); // when nobody can send to it any more
void image_upstreams_drain(struct image_upstreams *u);

// ---- any thread; u NULL: there are none ----------------------------------------------------------------------

// Who would draw soonest, of those that have a model of this name ("": the first one that is known). A new pick, or
// NULL: nobody has it.
struct image_upstream_pick *image_upstreams_find(struct image_upstreams *u, const char *name);
// 0: its server can be asked that. Else *fault names the member.
int image_upstream_ask_check(const struct image_upstream_pick *p, const struct images_ask *a,
                             struct parse_fault *fault);
// Would it be done sooner there than here, where it takes local_s (0: not known)?
bool image_upstreams_is_sooner(struct image_upstreams *u, const struct image_upstream_pick *p,
                               const struct image_request *r, double local_s);
// 0: it takes the task, which has a pick.
int image_upstreams_send(struct image_upstreams *u, struct images_task *t);

// Names for messages: appends `, "name"`.
void image_upstreams_names(struct image_upstreams *u, char *out, size_t out_bytes);
// Their models as OpenAI's objects (name NULL: all that this machine does not have itself); a new list.
json_t *image_upstreams_models(struct image_upstreams *u, const char *name);
json_t *image_upstreams_status(struct image_upstreams *u);
void image_upstreams_metrics_put(struct image_upstreams *u, struct buf *out);

#endif
