// The inside of node/images.h, shared by images*.c; nobody else includes this.
#ifndef NODE_IMAGES_IMPL_H
#define NODE_IMAGES_IMPL_H

#include "base/chan.h"
#include "image/yield.h"
#include "node/acceptor.h"
#include "node/images.h"
#include "node/message.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdatomic.h>

#define NODE_IMAGES_LINKS 64           // gateways at one time
#define NODE_IMAGES_BYTES (256u << 20) // of pictures that came with requests
#define NODE_IMAGES_FRAMES 32          // on their way to a gateway, of at most WIRE_PIXELS_MAX each
#define NODE_IMAGES_BEAT_NS (60 * NS_PER_S)
#define NODE_IMAGES_SEND_NS (10 * NS_PER_S) // a gateway that is waited for so long is given up

// A gateway. Made by a handshake; the images thread's after that.
struct node_images_link {
    struct node_images_link *next;
    struct node_images *node;
    struct wire_link *wire;
    int64_t patience_ns, sent_ns; // how long it is waited for; when that was
};

struct node_images_job {
    struct node_images_job *next;
    struct node_images_link *link; // NULL: it is gone, and the worker was told
    uint64_t id;                   // the gateway's
    uint64_t drawing;              // the worker's; 0: its pixels are still coming
    struct message_draw draw;
    struct message_pixels pixels;
};

enum node_images_what { NODE_LINK_UP, NODE_LINK_FRAME, NODE_LINK_DOWN, NODE_DRAIN };

struct node_images_word { // what the inbox carries
    enum node_images_what what;
    struct node_images_link *link;
    struct wire_frame frame;
};

struct node_images {
    struct node_images_options options;
    struct message_welcome welcome; // read-only once others may connect
    int listen_fd;
    struct chan *inbox; // struct node_images_word
    struct chan *begun; // struct err: how the start went
    pthread_t thread;
    bool started;
    struct acceptor *acceptor;
    atomic_bool draining; // who connects is told; a flag alone
    // The images thread only.
    struct image_worker *worker;
    struct image_yield yield;
    struct message_canvas_state state;
    struct node_images_link *links;
    struct node_images_job *jobs;
    uint32_t n_jobs;
    size_t bytes; // of pixels
    bool drained;
    int64_t due_ns; // when requests are told of next
};

// ---- images_link.c ----
extern const struct acceptor_host node_images_host; // ctx: the node_images
// Takes the frame. A gateway that does not take it is one that is gone.
void node_images_send(struct node_images_link *l, struct wire_frame f);

// ---- images_job.c ----
void node_images_frame(struct node_images *n, struct node_images_link *l, struct wire_frame *f);
void node_images_status_send(struct node_images *n, struct node_images_link *l, uint64_t id);
void node_images_told(struct node_images *n, struct image_event *ev); // by the worker
void node_images_beat(struct node_images *n); // tells of each request that it is still here
void node_images_link_lost(struct node_images *n, const struct node_images_link *l);

#endif
