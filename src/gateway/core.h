// The core thread: owner of every request, worker link and timer. Private to gateway/.
//
// Everything reaches it as a message in one bounded inbox; it never blocks on anything but that
// inbox, its timers and the sockets of waiting clients. Functions here run on the core thread
// unless they say otherwise.
#ifndef GATEWAY_CORE_H
#define GATEWAY_CORE_H

#include "base/chan.h"
#include "gateway/discover.h"
#include "gateway/fleet.h"
#include "gateway/gateway.h"
#include "gateway/metrics.h"
#include "gateway/model.h"
#include "gateway/peer.h"
#include "gateway/placing.h"
#include "gateway/request.h"
#include "gateway/ship.h"
#include "gateway/status.h"
#include "gateway/upstream.h"
#include "os/watch.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdint.h>

#define CORE_INBOX 4096
#define CORE_PEERS_MAX (GATEWAY_MODELS_MAX + GATEWAY_PREFILL_MAX)
// With more requests than this, their timers are looked at only every so often: none is so exact.
#define CORE_TIMERS_FEW 32
#define CORE_TIMERS_NS (5 * NS_PER_MS)

enum core_what {
    CORE_STOP,
    CORE_REQUEST, // request: parsed, from the HTTP thread
    CORE_QUERY,   // query: models, health, status, ...; from the HTTP thread
    CORE_DRAIN,   // no new requests; GATEWAY_DRAINED when the last one has ended
    CORE_UP,      // peer, conn: a fresh local worker, from its supervisor
    CORE_DOWN,    // peer, error, retry_ns: a local worker ended, from its supervisor
    CORE_REST,    // peer: a local worker ended as it was told to
    CORE_ROOM,    // bytes, answer: for a training job (room.h); 0: it needs none any more
    CORE_GREETED, // peer, turn, conn and welcome or error; from a greeter
    CORE_FRAME,   // link, frame, at_ns; from a link's reader
    CORE_CLOSED,  // link, error; a link's last message
    CORE_WORD,    // word; from the thread that talks to upstream servers
};

struct core_message {
    enum core_what what;
    size_t peer;
    uint64_t turn;
    int64_t at_ns, retry_ns;
    struct request *request;
    struct query *query;
    struct net_conn *conn;
    struct message_welcome *welcome;
    struct peer_link *link;
    struct err *error; // owned
    struct wire_frame frame;
    struct upstream_word *word; // owned
    uint64_t bytes;
    struct chan *answer; // of int; whoever takes the message sends one word
};

// Where the local workers, one for each model, come from: supervisors, or a test's stand-ins.
struct core_start {
    size_t model;
    const struct node_worker_options *worker;
    const struct node_supervisor_ops *ops;
    void *ops_ctx;
};
struct core_source {
    int (*start)(void *ctx, const struct core_start *start, struct err *e);
    void (*stop)(void *ctx, size_t model); // no callback runs after it
    // Core thread, not once it has halted. pid: -1: none.
    int64_t (*pid)(void *ctx, size_t model);
    void (*rest)(void *ctx, size_t model);
    void (*wake)(void *ctx, size_t model);
    void *ctx;
};

// What a supervisor's callbacks are told.
struct core_caller {
    struct core *core;
    size_t model;
};

struct core_totals {
    uint64_t requests, local, remote, serial, hybrid, fallbacks, failed, cancelled, refused;
};

struct core {
    struct gateway_options options; // immutable
    struct core_source source;
    size_t n_sources; // models whose worker was started; written before core_start returns
    struct chan *inbox;
    struct chan *halted; // one byte: requests are ended, timers stand still
    pthread_t thread;
    int64_t started_ns;
    // Core thread only from here on.
    struct model models[GATEWAY_MODELS_MAX];
    size_t n_models;
    struct core_caller callers[GATEWAY_MODELS_MAX];
    // The local workers in the order of their models, and behind them the nodes, free slots among them. Upstream
    // servers, which have no links, come after all slots (peers[CORE_PEERS_MAX + i]).
    struct peer peers[CORE_PEERS_MAX + GATEWAY_UPSTREAMS_MAX];
    size_t n_peers; // workers and nodes; behind it there are free slots only
    struct fleet_pairs pairs;
    struct discover *discover;   // NULL: nobody looks
    struct upstreams *upstreams; // NULL: none
    size_t n_links;              // not yet freed, including closing ones
    struct request *requests;
    size_t n_requests, n_over;  // how many of them are over
    struct request_index index; // whose ids are whose
    struct query *queries;
    uint64_t next_id;
    bool draining, drained;
    bool stopping;
    int stops; // CORE_STOPs seen: after the first no request is left, after the second no link
    struct core_totals totals;
    struct metrics metrics;
    struct placing *placing;
    double duration_s;      // of an answered request, a moving average; 0: none yet
    struct os_watch *watch; // clients' sockets, and the inbox
    int64_t timers_ns;      // when timers were last run
};

// Starts the thread, the greeters and the local worker. Any thread.
int core_start(const struct gateway_options *o, const struct core_source *source, struct core **out,
               struct err *e);
// New requests are refused from now on; running ones go on. Any thread.
void core_drain(struct core *c);
// Ends every request, closes every link and joins. Messages sent from now on are refused.
void core_stop(struct core *c);
// After core_stop, when no other thread can send to it any more.
void core_free(struct core *c);
// Any thread. Takes what the message owns, also on failure.
int core_send(struct core *c, struct core_message *m, int64_t timeout_ns);

// A request's client is no longer watched: before the request is freed. Core thread.
void core_unwatch(struct core *c, struct request *r);

#endif
