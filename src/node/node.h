// The node: a supervisor process that keeps one worker process alive, and the worker itself.
//
//   tandem serve / tandem node (supervisor)                 tandem-worker (one loaded model)
//   +------------------------------+   socketpair, fd 3   +--------------------------------+
//   | spawn, watch, restart with   |<-------------------->| engine thread: steps, exports, |
//   | back-off; answers on the     |   ready pipe, fd 4   |   imports, samples             |
//   | listening socket while no    |<---------------------| a reader and a writer thread   |
//   | worker is ready              |   listening socket,  |   per link, an accept thread   |
//   +------------------------------+-- fd 5 ------------->+--------------------------------+
//
// What goes over fd 3 first is the cluster key, 32 bytes; then HELLO, as on any link.
//
// The worker accepts peers itself, so KV goes straight from its export buffer to the socket. While
// no worker is ready, the supervisor answers on the same socket and says why.
// An engine abort ends the worker alone; its requests fail with a clear error at whoever waits.
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "base/err.h"
#include "engine/engine.h"
#include "net/net.h"
#include "os/os.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NODE_STALL_AUTO (-1)
#define NODE_PRICE_MAX 1e6 // dollars for an hour

// What a worker is started with; becomes its command line.
struct node_worker_options {
    struct engine_options engine;
    const char *name;                 // shown to peers; NULL: host name
    const char *cpus;                 // pin to these cores ("0", "0,2-3"); NULL: no
    double pace_prefill, pace_decode; // tokens/s of an emulated machine; 0: native speed
    double link_bytes_per_s;          // emulated link for what this worker sends in bulk; 0: native
    struct net_key key;               // given to the worker over fd 3, never on the command line
    const char
        *listen; // "ADDR:PORT" for peers; NULL: no peers (a gateway's local worker only dials)
    const char
        *advertise; // "HOST" or "HOST:PORT" where other workers dial it; NULL: as the gateway does
    const char
        *handoff;  // "ranges", "ranges-late-state", "whole", "none"; NULL: what the probe finds
    bool no_tiles; // send the last chunk whole, not layer by layer
    uint32_t min_chunk_tokens; // finest chunk (default 64)
    // Most time between two tokens of an answer while prompts are read: milliseconds, 0: no bound,
    // NODE_STALL_AUTO (default): about twice what it is without them.
    int32_t stall_ms;
    uint32_t max_requests; // waiting and running together (default 64)
    // Ends by itself (NODE_EXIT_IDLE) when for so long no gateway was connected; 0 (default): never.
    double idle_s;
    const char *spread;       // "HOST[:PORT],.." of machines that take layers; NULL: none
    const char *tensor_split; // "2,1": their shares, this machine's first; NULL: by memory
    bool lend;                // no model: lends `lend_bytes` to others' workers (node/spread.h)
    uint64_t lend_bytes;      // UINT64_MAX: what is free
    const char *role;         // "read", "write": what it is there for; NULL: both
    double price;        // dollars for an hour of its whole machine; below 0 (default): not told
    uint16_t image_port; // where this machine's image model answers (node/images.h); 0: it has none
    // The supervisor's own: no worker before node_supervisor_wake. Whoever connects to `listen` wakes it too.
    bool asleep;
};
void node_worker_options_default(struct node_worker_options *o);
// As JSON text without the key (caller frees), and back; the parsed strings live as long as `v`.
char *node_worker_options_text(const struct node_worker_options *o);
int node_worker_options_parse(const json_t *v, struct node_worker_options *o, struct err *e);
void node_name_default(char *out, size_t out_bytes); // the host's name
// What tells this node from others over restarts: the id of the machine's state folder, and for a node with a
// name of its own (NULL: none) one made from both, because one machine may run several. Workers of one command
// share it: together with the model it names one of them. Where the folder cannot be used, it is a random one
// that this process alone has; the log says so.
void node_id_get(const char *name, char id[OS_ID_HEX + 1]);

struct node_supervisor;

// Callbacks run on the supervisor's own thread.
struct node_supervisor_ops {
    // A worker is up: a fresh connection to it, taken by the callee, on which HELLO goes first.
    void (*on_up)(void *ctx, struct net_conn *control);
    // The worker ended (`why` in words) and comes back after retry_ns. It stays down (retry_ns -1)
    // after an error that trying again cannot mend: its exit code is then NODE_EXIT_PERMANENT.
    void (*on_down)(void *ctx, const char *why, int64_t retry_ns);
    // The worker has ended because it was told to rest: none runs until somebody wakes it. May be NULL.
    void (*on_rest)(void *ctx);
    // It is to end when its requests have: whoever has the link to it says so (WIRE_DRAIN). May be NULL.
    void (*on_retire)(void *ctx);
};

// Starts the thread and the first worker. With o->listen, binds at once (errors are returned here);
// *bound_port gets the port. `o` and its strings must outlive the supervisor.
int node_supervisor_start(const struct node_worker_options *o,
                          const struct node_supervisor_ops *ops, void *ctx, uint16_t *bound_port,
                          struct node_supervisor **out, struct err *e);
// Ends the worker and leaves it at that, or has one run again. Any thread; return at once.
void node_supervisor_rest(struct node_supervisor *s);
void node_supervisor_wake(struct node_supervisor *s);
// Has the worker end when its requests have, and none run after it: on_rest tells when that is so. Who dials
// meanwhile is told that this node is stopping. Any thread; returns at once.
void node_supervisor_retire(struct node_supervisor *s);
// Ends the worker (TERM, grace, KILL), joins and frees.
void node_supervisor_free(struct node_supervisor *s);
// The worker's process id, or -1.
int64_t node_supervisor_pid(struct node_supervisor *s);

#define NODE_EXIT_PERMANENT 2 // the worker's exit code: no model, bad options, ...
#define NODE_EXIT_IDLE 3      // ... nobody needs it: it is left asleep
#define NODE_EXIT_LENDER 4    // ... a machine that holds a part of its model is gone

// `tandem-worker serve OPTIONS`: main of the worker process.
int node_worker_main(int argc, char **argv);

#endif
