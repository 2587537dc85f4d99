// The workers that the gateway speaks to: its own ones, one for each model, and the prefill nodes. Private
// to gateway/.
//
// A peer has at most one link at a time. Its greeter thread makes the connection (dials, or takes the
// one the supervisor brought) and exchanges HELLO and WELCOME; the core then starts a link on it.
// A node that draws (node/images.h) serves no local model: what it is sent comes from the thread of those that draw
// (image_upstream.h), and what it says goes there.
// Nodes are dialled again with back-off for as long as the gateway runs. A node serves the local model
// that its own is equal to. One that equals none is refused, with both values named, and asked again
// later: somebody may restart it with the right model.
//
// A node's slot is taken when it joins and free again when it has left (fleet.h). Slots are used again, but none
// while a request refers to it; what still comes for an earlier user is told by its turn, which never goes back.
#ifndef GATEWAY_PEER_H
#define GATEWAY_PEER_H

#include "base/chan.h"
#include "net/net.h"
#include "node/message.h"
#include "sched/guess.h"
#include "wire/wire.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define PEER_DIAL_NS (2 * NS_PER_S)
#define PEER_GREET_NS (3 * NS_PER_S)
#define PEER_BACKOFF_MIN_NS (NS_PER_S / 2)
#define PEER_BACKOFF_MAX_NS (10 * NS_PER_S)
#define PEER_REFUSED_NS (30 * NS_PER_S)    // until a peer of another model is asked again
#define PEER_NODE_IDLE_NS (3 * NS_PER_S)   // a node's link that is silent for this long is closed
#define PEER_LOCAL_IDLE_NS (10 * NS_PER_S) // the local worker's
#define PEER_HANG_NS (180 * NS_PER_S) // a worker that has work and says nothing for this long hangs
#define PEER_KILL_NS (2 * NS_PER_S)   // a local worker that went silent is killed after this
#define PEER_STEADY_NS                                                                             \
    (60 * NS_PER_S) // a link that held for so long is not blamed for earlier ones

struct core;
struct request;
struct core_message;

enum peer_state {
    PEER_DOWN,     // `why` says why; retry_ns says when it is tried again
    PEER_GREETING, // the greeter is at it
    PEER_WAITING,  // greeted, but the local model to compare it with is not known yet
    PEER_UP,
    PEER_REFUSED,  // another model, version or layout
    PEER_DEAD,     // a local worker, when the supervisor gave up
    PEER_RESTING,  // the model is unloaded; a node is not dialled meanwhile
    PEER_DRAINING, // a node that is linked, ends what it has and is given nothing new
    PEER_FREE,     // a slot without a node
};
const char *peer_state_name(enum peer_state s);

// One connection's life. Made and freed by the core; the link's threads only read it.
struct peer_link {
    struct core *core;
    struct peer *peer;
    struct wire_link *wire;
    size_t place;     // of a peer that draws, and
    uint64_t drawing; // the number of this link there (image_nodes_join); 0: it does not
};

// An order for a greeter, and the thread that carries it out.
struct peer_order {
    struct net_conn *conn; // NULL: dial
    struct net_addr addr;
    uint64_t turn; // comes back with the result
};
struct peer_greeter {
    struct core *core;
    size_t index;
    struct chan *orders; // struct peer_order
    pthread_t thread;
};

struct model;
struct upstream;

struct peer {
    size_t index;
    bool local;
    struct upstream *upstream; // it is such a server (upstream.h), and has no link; NULL: a worker
    struct model *model;       // that it serves; NULL: a node's is none of ours
    char address[280];         // "spark:7077", "local"
    struct net_addr addr;      // a node's, as it was given
    bool added;                // a node that joined at run time: kept over restarts (fleet.h)
    bool drained;              // an operator's word: it is given nothing new
    bool has_role;             // another one: what it is there for, whatever it says itself
    uint32_t role;             // then; PLACE_READER, PLACE_WRITER or 0 (sched/place.h)
    bool leaving;              // it is being removed
    bool quitting;             // its own word: it ends when its requests have
    uint32_t flaps;            // links to this very process that were lost too soon, in a row
    struct peer_greeter *greeter; // the slot's own, whoever is in it; NULL: not started
    enum peer_state state;
    char why[ERR_MESSAGE_BYTES];
    bool greeting_failed;           // local: `why` is what its worker answered to HELLO
    char logged[ERR_MESSAGE_BYTES]; // the last complaint, so that it is not repeated
    int64_t since_ns;               // of the state
    int64_t retry_ns, backoff_ns;
    int64_t heard_ns; // last frame, or when it got its first work
    int64_t kill_ns;  // local: 0, or when to kill a worker that fell silent
    uint64_t turn;    // of the greeting that counts
    struct peer_link *link;
    bool known; // welcome is valid (it stays so while the peer is down)
    struct message_welcome welcome;
    struct image_upstreams *drawers; // it draws: its place is among these; NULL: it does not
    size_t place;
    bool companion; // joined as the image model of another node: `parent`
    size_t parent;
    double link_bytes_per_s; // as its last transfer told; 0: not known
    json_t *status;          // last STATUS_IS, or NULL
    struct guess *guess;     // of which prompts it holds; NULL until it was greeted
    uint64_t id; // the same over restarts of both sides (placing.h); 0 until it was greeted
    // placing.h: what its model costs here; NULL until it was greeted. The profiles own it.
    struct profile_book *book;
    bool measured;       // the whole of it, once
    uint64_t measure_id; // of the MEASURE that it has not answered; 0: none
    int64_t measure_ns;  // when it is asked again
    uint64_t probe_id;   // likewise of a MEASURE_LINK
};

// ---- greet.c ----
int peer_greeter_start(struct core *c, struct peer *p, struct err *e);
void peer_greeter_stop(struct peer *p); // not from the core thread: joins

// ---- peer_judge.c ----
void peer_judge(struct core *c,
                struct peer *p); // whether KV may pass between a local worker and it
void peer_judge_drawer(struct core *c,
                       struct peer *p); // it draws: no model here has to equal its own

// ---- peer.c ----
// With `why` of the peer itself: it stays.
void peer_state_set(struct peer *p, enum peer_state state, const char *why);
void peer_complain(struct peer *p, const char *what,
                   const char *why);          // in the log: once, not at every retry
void peer_init(struct core *c, size_t index); // a local worker, or a free slot
void peer_fini(struct peer *p);
// A slot gets a node, and gives it up: only when nothing refers to it.
void peer_begin(struct peer *p, const struct net_addr *addr);
void peer_end(struct peer *p);
// "HOST:PORT", "[V6]:PORT".
void peer_address_text(const struct net_addr *addr, char *out, size_t out_bytes);
const char *peer_name(const struct peer *p); // as it calls itself, or its address
uint32_t peer_role(const struct peer *p);    // PLACE_READER, PLACE_WRITER or 0: both
// Takes the frame. Failure needs no handling: the link's end will be told as CORE_CLOSED.
void peer_send(struct peer *p, struct wire_frame f);
// It gets work of a request, or is promised it: where it has none of others, silence counts from now on.
void peer_expect(struct core *c, const struct request *r, struct peer *p);
void peer_on_up(struct core *c, struct core_message *m);
void peer_on_down(struct core *c, struct core_message *m);
void peer_on_greeted(struct core *c, struct core_message *m);
void peer_on_closed(struct core *c, struct core_message *m);
// Dials what is due; returns the time when it wants to be called again.
int64_t peer_tick(struct core *c, struct peer *p, int64_t now_ns);
void peer_close(struct peer *p, const char *why);
// The model is being loaded again; its local worker has ended as it was told to, and then its nodes are left
// alone as well.
void peer_wake(struct peer *p);
void peer_rest(struct peer *p);
// What was said of its draining has changed: it is used, or it is not.
void peer_hold_apply(struct peer *p);
// It told how it is: STATUS_IS, asked for or not.
void peer_on_status(struct peer *p, const json_t *head);
// Ends the link of a node that is leaving and has nothing to do any more.
void peer_part(struct peer *p);
// Closes the link of a peer that misbehaves: a node is dialled again, a local worker killed if it does
// not end by itself.
void peer_drop(struct peer *p, const char *why);

#endif
