// What the files of `tandem node` share. Private to cli/.
#ifndef CLI_NODE_H
#define CLI_NODE_H

#include "cli/cli.h"
#include "cli/wait.h"
#include "node/images.h"
#include "node/node.h"
#include "os/discover.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdatomic.h>

// Whether a worker has something to do, as its answers to STATUS tell: one that is computing answers late, which
// tells it as well. Each member stands for itself: no ordering needed.
struct unit_pulse {
    _Atomic bool ready;       // it has greeted: before that it answers nothing
    _Atomic int64_t asked_ns; // 0: it has answered
    _Atomic bool works;       // as it said last
};

// One model and its worker, or the one that lends.
struct unit {
    struct node *node;
    struct node_worker_options worker;
    char listen[300], advertise[300];
    struct node_supervisor *supervisor;
    uint16_t port;
    // The link to the worker: it must stay open, or the worker ends. The supervisor's thread makes and frees it; the
    // lock is for the images thread, which asks over it what the worker does.
    pthread_mutex_t lock;
    struct wire_link *link;
    struct unit_pulse pulse;
    // Written by the link's reader, read when the link has ended: why the worker cannot start.
    char refusal[WAIT_TEXT_BYTES];
    _Atomic bool up;               // has been, at some time
    _Atomic bool ended;            // draining: nothing runs any more
    struct os_announce *announced; // NULL: it is not
};

// This machine's image model, behind all units.
struct node_drawer {
    struct node_images_options options; // worker.model NULL: none
    const char *policy;
    struct node_images *images;
    char listen[300];
    uint16_t port;
    int64_t asked_ns;   // what the workers do; the images thread's
    _Atomic bool up;    // it has loaded, or cannot, which is no reason for the others to end
    _Atomic bool ended; // draining: nothing is drawn any more
    struct os_announce *announced; // NULL: it is not
};

struct node {
    struct node_worker_options worker; // of all
    struct cli_list models;
    const char *listen, *key_file, *lend, *advertise;
    bool json, no_memory_check, no_announce, announce_models, list;
    double drain_s;
    struct net_addr bound, advertised;
    _Atomic bool draining; // released before the supervisors are told, acquired in what they call
    struct unit units[CLI_LIST_MAX + 1];
    size_t n_units;
    struct node_drawer drawer;
};

bool node_all_up(const struct node *n);
bool node_all_ended(const struct node *n);

// ---- node_images.c: the image model of a node ------------------------------------------------------------

#define NODE_IMAGES_OPTIONS 3
size_t node_drawer_options(struct node_drawer *d, struct cli_option *out);
int node_drawer_apply(struct node *n, struct err *e);
// Whether there is memory for the image model beside the chat models, which are set.
int node_drawer_room(const struct node *n, struct err *e);
int node_drawer_start(struct node *n, struct err *e);
void node_drawer_stop(struct node *n);
// A unit's worker has answered STATUS; it is another one; the link's reader.
void unit_pulse_take(struct unit *u, const json_t *head);
void unit_pulse_reset(struct unit *u);

#endif
