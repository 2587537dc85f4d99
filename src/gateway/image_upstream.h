// Others that draw for this server: nodes, OpenAI's images API, stable-diffusion.cpp's sd-server (or what speaks
// A1111's /sdapi), and ComfyUI. Each answers whole requests for pictures, beside the image worker of this machine
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
// A model of the name of this machine's own is one more place for it (a node's only if its file is equal, as far as
// that is known; else it gets another name): the request goes where it is done sooner. What
// fails before the client heard anything goes to the next server that has the model, or to this machine.
//
// Nodes of the fleet that draw (node/images.h) have places among them. Their links are the core's; what comes over
// them goes to the thread here, which sends on them as well, with the lock held, so that none is freed under its hands.
//
// Files: image_node.c their places, image_node_job.c what they draw, image_upstream.c life, images_choose.c the choice between them and this machine, image_upstream_told.c what is told, image_upstream_thread.c the thread and
// health, image_upstream_queue.c requests that wait, image_upstream_job.c one that runs, image_upstream_plain.c and
// image_upstream_comfy.c kinds of servers, image_upstream_body.c what is said and read (pure),
// image_upstream_workflow.c ComfyUI's workflows (pure).
#ifndef GATEWAY_IMAGE_UPSTREAM_H
#define GATEWAY_IMAGE_UPSTREAM_H

#include "gateway/images.h"
#include "node/message.h"
#include "wire/wire.h"

#define IMAGE_UPSTREAM_NODE_BYTES 264
#define IMAGE_NODES_MAX 16 // nodes of the fleet that draw

struct image_upstreams;

// What a server takes beside a prompt.
enum image_upstream_takes {
    IMAGE_TAKES_NEGATIVE = 1,
    IMAGE_TAKES_STEPS = 2,
    IMAGE_TAKES_CFG = 4,
    IMAGE_TAKES_SIZE = 8,
    IMAGE_TAKES_SAMPLER = 16, // and the scheduler
    IMAGE_TAKES_SEED = 32,
    IMAGE_TAKES_LORAS = 64, // by name, as this machine does
};

// A server, and which of its models. It does not move: `known` refers to what stands before it.
struct image_upstream_pick {
    size_t server;
    char node[IMAGE_UPSTREAM_NODE_BYTES]; // what the server is called
    char theirs[PARSE_MODEL_BYTES], ours[PARSE_MODEL_BYTES];
    unsigned takes;
    bool seeds;    // what it draws follows from a seed, so that one is made up where none was given
    bool of_fleet; // a node: what it can is known as well as what this machine can
    char file[MESSAGE_CANVAS_NAME_BYTES]; // of its model
    bool local;                           // this machine has a model of that name too
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
// Who of those that have the model of `p`, and can draw what is asked, would be done soonest: a new pick. NULL: nobody
// before this machine, which takes local_s (0: not known; INFINITY: it does not draw). `r`: what is asked, filled in.
struct image_upstream_pick *image_upstreams_soonest(struct image_upstreams *u,
                                                    const struct image_upstream_pick *p,
                                                    const struct images_ask *a,
                                                    const struct image_request *r, double local_s);
bool image_upstreams_is_empty(struct image_upstreams *u); // there is nobody at all
// 0: it takes the task, which has a pick.
int image_upstreams_send(struct image_upstreams *u, struct images_task *t);

// ---- nodes of the fleet that draw: image_node.c; the core's, but for image_nodes_frame -----------------------

// The place of a node that was greeted, at its address: the one that it had, or a free one. From now on its link may be
// written to. ERR_BUSY: there is none. *link: the number of this link.
struct image_node_join {
    const char *address;
    const struct message_welcome *welcome; // with `draws`
    struct wire_link *wire;
};
int image_nodes_join(struct image_upstreams *u, const struct image_node_join *j, size_t *place,
                     uint64_t *link, struct err *e);
// That link is no more: nobody writes to it when this returns. What it drew goes to somebody else, or fails.
void image_nodes_part(struct image_upstreams *u, size_t place, const struct wire_link *wire,
                      const char *why);
void image_nodes_hold(struct image_upstreams *u, size_t place, const char *why); // NULL: it is used
void image_nodes_forget(struct image_upstreams *u, size_t place); // the node was removed
uint32_t image_nodes_requests(struct image_upstreams *u, size_t place);
// What came over a link, on its reader's thread; takes the frame. May wait. An error ends the link.
int image_nodes_frame(struct image_upstreams *u, size_t place, uint64_t link, struct wire_frame *f,
                      struct err *e);

// ---- who draws: images_choose.c; any thread ------------------------------------------------------------------

struct images_places {
    struct images *here;               // NULL: this machine draws none
    struct image_upstreams *upstreams; // others that draw; there may be none
};
// images_ask_parse for whoever draws it: a model that both have is held against what this machine's own can, and goes
// to whoever is done sooner. Takes the body; ask->edit and files are the caller's. *pick: the server that draws, which
// the caller owns; NULL: this machine.
int images_choose(const struct images_places *p, json_t *body, struct images_ask *ask,
                  struct image_upstream_pick **pick, struct parse_fault *fault);
bool images_are_drawn(const struct images_places *p); // by anybody at all
// 0: whoever is picked has taken the task.
int images_dispatch(const struct images_places *p, struct images_task *t);

// Names for messages: appends `, "name"`.
void image_upstreams_names(struct image_upstreams *u, char *out, size_t out_bytes);
// Their models as OpenAI's objects (name NULL: all that this machine does not have itself); a new list.
json_t *image_upstreams_models(struct image_upstreams *u, const char *name);
json_t *image_upstreams_status(struct image_upstreams *u);
void image_upstreams_metrics_put(struct image_upstreams *u, struct buf *out);

#endif
