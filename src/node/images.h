// A node's image model, for gateways of other machines: it listens on a port of its own, keeps an image worker
// (image/worker.h) alive, and draws what comes as DRAW (node/message_image.h), one request after the other.
//
//   handshake threads      images thread                                  the worker's process
//   HELLO, WELCOME   ->    links, requests, image worker      <-socket->  draws
//   links' readers   ->    one bounded inbox
//
// It is a link of its own, and not the chat worker's, so that pictures of megabytes are in no token's way, a node may
// draw without a chat model, and either may die without the other. Other machines need the cluster key here as there.
//
// While this machine's other workers have something to do (`busy`), a picture waits between two steps
// (image/yield.h); that is decided here, because only a node knows what all its gateways have it do.
//
// Owner: whoever starts it; any thread may call what stands here. Its thread alone has the image worker.
#ifndef NODE_IMAGES_H
#define NODE_IMAGES_H

#include "base/err.h"
#include "image/worker.h"
#include "net/net.h"

#include <stdbool.h>
#include <stdint.h>

#define NODE_IMAGES_QUEUE 8 // requests that may wait, of all gateways

enum node_images_event {
    NODE_IMAGES_READY,   // the model is loaded; also after a restart
    NODE_IMAGES_FAILED,  // it cannot be: text says why
    NODE_IMAGES_DRAINED, // after node_images_drain: the last request has ended
};

struct node_images_options {
    struct image_worker_options worker;
    const char *model_name; // what clients call the model; NULL: as its file is called
    const char *name;       // of the node; NULL: the host's
    const char *listen;     // "ADDR:PORT"
    struct net_key key;
    bool wait;       // other requests wait for a step, in place of the picture's pausing for them
    uint32_t queue;  // requests that may wait; more are refused as busy
    int64_t beat_ns; // how often gateways are told that their requests are here; 0: once a minute
    // Do this machine's other workers have something to do? Images thread; at once. NULL: there are none.
    bool (*busy)(void *ctx);
    // Images thread; at once.
    void (*on_event)(void *ctx, enum node_images_event event, const char *text);
    void *ctx;
};

struct node_images;

// Binds and starts; does not wait for the model. Strings are borrowed. *port gets the port.
int node_images_start(const struct node_images_options *o, uint16_t *port, struct node_images **out,
                      struct err *e);
// Gateways are told, and get nothing new; running requests end.
void node_images_drain(struct node_images *n);
// Ends everything. NULL is nothing.
void node_images_free(struct node_images *n);

#endif
