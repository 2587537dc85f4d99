// Between placing.c (the choice), placing_load.c (what nodes have to do), placing_learn.c (profiles) and placing_links.c
// (links). Core thread.
#ifndef GATEWAY_PLACING_IMPL_H
#define GATEWAY_PLACING_IMPL_H

#include "gateway/core.h"
#include "gateway/profiles.h"
#include "sched/expect.h"

#define PLACING_LASTS 256
#define PLACING_NODES (1 + GATEWAY_PREFILL_MAX + GATEWAY_UPSTREAMS_MAX) // of one model

// What a conversation got last time. Its next turn begins with the prompt of this one.
struct placing_last {
    uint64_t conversation;
    uint64_t prompt; // hash of its first n_tokens
    size_t n_tokens;
    enum place_kind kind; // PLACE_AUTO: nothing
    const struct peer *decode, *prefill;
};

// What all requests that were sent to a node have yet to do there; in requests, tokens and seconds.
struct placing_load {
    double read_s;                     // of reading, promised
    const struct place_reading *reads; // what makes it up
    double answers, depth_sum;         // those whose prompt is still being read too
    double rest_tokens;                // of all answers
    double cells, reading;             // room taken; prompts that are read for others
    double sending, receiving;         // transfers
};

// The link that is being measured, and when each is to be.
struct placing_probes {
    struct peer *decode, *prefill; // NULL: none is
    int64_t until_ns;
    int64_t due_ns[CORE_PEERS_MAX][CORE_PEERS_MAX]; // by the peers' index: who writes, who reads
};

struct placing {
    struct core *core;
    struct profiles *profiles;
    struct expect *expect;
    struct placing_last lasts[PLACING_LASTS];
    // Of one choice: the home node first.
    size_t n;
    struct peer *peers[PLACING_NODES];
    struct place_node nodes[PLACING_NODES];
    struct place_scratch scratch[PLACING_NODES];
    struct place_held held[PLACING_NODES];
    const struct profile_link_book *links[PLACING_NODES][PLACING_NODES]; // by the
        // slots of nodes; NULL: not looked up
    struct placing_probes probes;
    struct profile_link_book link_guess;       // of a way that cannot be kept
    struct placing_load loads[CORE_PEERS_MAX]; // by the peers' index
    struct place_reading *readings;            // owned; of all loads
    size_t n_readings, readings_max;
};

// What is known of the way from one to the other; never NULL.
const struct profile_link_book *placing_link(struct placing *p, const struct peer *from,
                                             const struct peer *to);
// The same to learn from; NULL: there is no room for more.
struct profile_link_book *placing_link_book(struct placing *p, const struct peer *from,
                                            const struct peer *to);
// On the gateway's own machine, whose cores all of its workers share.
bool placing_is_here(const struct peer *node);

// ---- placing_load.c ----
// What every node has yet to do, but for one request (NULL: for all).
void placing_loads_fill(struct placing *pl, const struct request *except);
// As placement sees it; `expected`: tokens of an answer.
void placing_load_put(const struct placing_load *l, double expected, struct place_node *n);

// ---- placing_links.c ----
void placing_links_greet(struct placing *p, struct peer *node);
bool placing_links_busy(const struct placing *p, const struct peer *node);
int64_t placing_links_tick(struct placing *p, int64_t now_ns);
// A request goes to these (NULL: not known yet).
void placing_links_yield(struct placing *p, const struct peer *a, const struct peer *b);
void placing_links_on_frame(struct placing *p, struct peer *node, const struct wire_frame *f);
// A hand-off has ended whose prompt was read in so many seconds.
void placing_links_learn(struct placing *p, const struct request *r, double read_s);

#endif
