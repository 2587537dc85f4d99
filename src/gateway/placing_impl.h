// Between placing.c (the choice) and placing_learn.c (profiles). Core thread.
#ifndef GATEWAY_PLACING_IMPL_H
#define GATEWAY_PLACING_IMPL_H

#include "gateway/core.h"
#include "gateway/profiles.h"
#include "sched/expect.h"

#define PLACING_LASTS 256
#define PLACING_NODES (1 + GATEWAY_PREFILL_MAX + GATEWAY_UPSTREAMS_MAX) // of one model

// What a conversation got last time.
struct placing_last {
    uint64_t conversation;
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
    struct profile_link_book link_guess;       // of a way that cannot be kept
    struct placing_load loads[CORE_PEERS_MAX]; // by the peers' index
    struct place_reading *readings;            // owned; of all loads
    size_t n_readings, readings_max;
};

// What is known of the way from one to the other; never NULL.
const struct profile_link_book *placing_link(struct placing *p, const struct peer *from,
                                             const struct peer *to);

#endif
