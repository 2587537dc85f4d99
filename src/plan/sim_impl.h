// What the files of the simulator share: the state of one run. Private to plan/sim*.c.
//
// sim.c owns the clock and the order of events; sim_node.c the work of one node (queues, reading, batch);
// sim_link.c what crosses to it; sim_memory.c the prefixes that it keeps; sim_load.c the requests;
// sim_place.c asks placement; sim_result.c counts. Everything belongs to the run's one thread.
#ifndef PLAN_SIM_IMPL_H
#define PLAN_SIM_IMPL_H

#include "plan/sim.h"
#include "plan/sim_heap.h"

#define SIM_HOLDS 3 // nodes on which one conversation is remembered

enum sim_stage {
    SIM_FREE,
    SIM_QUEUED,   // waits for its reader
    SIM_READING,  //
    SIM_CROSSING, // read, but not all of it has arrived
    SIM_READY,    // waits for room in the writer's batch
    SIM_RUNNING,
};

struct sim_request {
    double arrival_s, first_s; // first_s < 0: no token yet
    double join_steps;         // of the writer's clock, when it joined
    double window_bytes;       // of windowed layers that each of its steps reads
    double solo_s, left_s;     // reading, alone; what is left of it when the current piece began
    double chunk_s, fine_s;    // a full chunk; the piece that leaves last in a hand-off
    double send_tokens, link_free_s, link_shared_s, link_weight; // of its transfer
    double read_end_s;
    uint32_t prompt, answer; // tokens
    uint32_t done;           // of the answer, before a failure
    uint32_t shared;         // of the prompt, that the conversation had before
    uint32_t from, upto;     // what its reader reads; from 0: from where its memory ends
    uint32_t conv, reader, writer, next;
    uint32_t passed_over; // turns that others had while it was read
    uint8_t stage, plan;
    bool split, sending;
};

struct sim_conv {
    uint64_t random;
    uint32_t context; // tokens said so far
    uint32_t holds[SIM_HOLDS];
    uint32_t turns_left, active; // requests under way
    bool used, traced;
};

struct sim_hold {
    uint32_t conv, node, tokens, newer, older;
};

struct sim_samples {
    float *items;
    uint64_t n, cap;
    double sum;
};

struct sim_list {
    uint32_t first, last, n;
};

enum sim_next { SIM_NOTHING, SIM_TURN_ENDS, SIM_ANSWER_ENDS, SIM_TRANSFER_ENDS };

// Transfers to one node. `free_s` is the time that nobody had to share, `shared_s` what each had of the
// rest: a sender of weight w can send at full rate for free_s + w x shared_s.
struct sim_link {
    double at_s, free_s, shared_s, load;
    uint32_t senders;
    struct sim_queue drains; // by free_s + shared_s at which they will be through
};

struct sim_node {
    const struct sim_kind *kind;
    double at_s;                                     // the state below is of this moment
    double steps;                                    // decode steps so far: the batch's own clock
    double depth_tokens, window_bytes, joined_steps; // sums over the batch
    struct sim_queue batch;                          // by the step at which they end
    struct sim_list wait, ready;                     // to be read; to join the batch
    struct sim_list firsts;                          // of the batch, who have no token yet
    struct sim_list reads;                           // in turns; the first one is being read
    double piece_s, piece_left_s;                    // of its turn
    double read_sum_s;                               // of left_s of all that are read
    double wait_s;                                   // of solo reading, of those that wait
    uint32_t coming, sends; // placed here, not yet in the batch; transfers from here
    double used_tokens, held_tokens, coming_tokens;
    uint32_t oldest, newest; // holds
    struct sim_link link;
    enum sim_next next;
    bool up, takes;
    double down_since_s, down_s, read_s, write_s, answers_s; // accounts
    double read_tokens, written_tokens;
};

struct sim_world {
    const struct sim_fleet *fleet;
    const struct sim_load *load;
    const struct sim_options *options;
    struct sim_result *out;
    double now;
    struct sim_node *nodes;
    struct sim_index events;             // the next of each node
    struct sim_index *readers, *writers; // of each kind, by load, over its own nodes
    uint32_t *kind_first, *kind_n;       // where a kind's nodes begin in `by_kind`
    uint32_t *by_kind, *rank;            // nodes ordered by kind, and each one's place therein
    struct sim_request *requests;
    struct sim_conv *convs;
    struct sim_hold *holds;
    uint32_t n_requests, cap_requests, free_request;
    uint32_t n_convs, cap_convs, free_conv;
    uint32_t n_holds, cap_holds, free_hold;
    struct sim_queue turns; // next turns of conversations, by time
    uint64_t random, issued, in_system, waiting;
    double next_conv_s, phase_end_s, rate;
    bool phase_high;
    size_t trace_at, event_at;
    double expected_sum, expected_n; // of answers
    struct place_node *views;
    struct place_scratch *scratch;
    struct sim_samples ttft, tpot, total, tail;
    double last_area_s, in_system_area, waiting_area;
};

// sim_load.c
double sim_uniform(uint64_t *random); // (0, 1)
void sim_load_start(struct sim_world *w);
double sim_load_next(struct sim_world *w); // time of the next arrival, INFINITY: no more
uint32_t sim_load_take(struct sim_world *w);
void sim_load_finished(struct sim_world *w,
                       const struct sim_request *r); // its conversation goes on

// sim_memory.c
uint32_t sim_hold_tokens(const struct sim_world *w, uint32_t conv, uint32_t node);
uint32_t sim_hold_take(struct sim_world *w, uint32_t conv, uint32_t node);
void sim_hold_put(struct sim_world *w, uint32_t conv, uint32_t node, uint32_t tokens);
bool sim_room_make(struct sim_world *w, uint32_t node, double tokens); // evicts; false: in use
void sim_holds_drop(struct sim_world *w, uint32_t node);
void sim_conv_rest(struct sim_world *w, uint32_t conv); // frees it when nobody needs it

// sim_node.c
void sim_node_advance(struct sim_world *w, uint32_t node);
void sim_node_schedule(struct sim_world *w, uint32_t node);
void sim_node_enqueue(struct sim_world *w, uint32_t node, uint32_t request);
void sim_node_ready(struct sim_world *w, uint32_t request); // all of its KV is with the writer
void sim_node_event(struct sim_world *w, uint32_t node);
void sim_node_start(struct sim_world *w, uint32_t node);   // reads those for which there is room
double sim_node_read_left(const struct sim_node *n);       // seconds of solo reading, promised
void sim_read_stop(struct sim_world *w, uint32_t request); // it is given up
void sim_node_weigh(struct sim_world *w, uint32_t node);   // its places in readers and writers
uint32_t sim_list_pop(struct sim_world *w, struct sim_list *l);
void sim_list_push(struct sim_world *w, struct sim_list *l, uint32_t request);
bool sim_list_remove(struct sim_world *w, struct sim_list *l, uint32_t request);

// sim_link.c
void sim_link_begin(struct sim_world *w, uint32_t request);
void sim_link_read(struct sim_world *w, uint32_t request); // P has read: what is left goes out now
void sim_link_stop(struct sim_world *w, uint32_t request);
double sim_link_next(struct sim_world *w, uint32_t node);
uint32_t sim_link_take(struct sim_world *w, uint32_t node);

// sim_place.c
bool sim_place(struct sim_world *w, uint32_t request);

// sim_fail.c
void sim_fail(struct sim_world *w, const struct sim_event *event);

// sim_result.c
void sim_area(struct sim_world *w); // brings integrals to `now`
// A node was busy since then; which part of its time went to reading, the rest to writing.
void sim_account(struct sim_world *w, uint32_t node, double from_s, double read_part);
void sim_request_done(struct sim_world *w, uint32_t request);
void sim_tail(struct sim_world *w, double seconds);
void sim_result_fill(struct sim_world *w);

// sim.c
int sim_load_check(const struct sim_load *l, struct err *e);
int sim_fleet_check(const struct sim_fleet *f, const struct sim_options *o, struct err *e);
void sim_world_run(const struct sim_fleet *f, const struct sim_load *l, const struct sim_options *o,
                   struct sim_result *out);
uint32_t sim_request_new(struct sim_world *w);
void sim_request_free(struct sim_world *w, uint32_t request);
void sim_request_go(struct sim_world *w, uint32_t request); // places it, or refuses it
void sim_waiting(struct sim_world *w, int change);          // somebody enters or leaves a queue

#endif
