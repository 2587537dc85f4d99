// Between the parts of placement: one case of one request (place_predict.c), the search (place_search.c), the
// choice (place.c), and the words (place_words.c).
#ifndef SCHED_PLACE_IMPL_H
#define SCHED_PLACE_IMPL_H

#include "sched/place.h"

// Unknown joules and dollars rank after all that are known, by total time.
#define PLACE_UNKNOWN_SCORE 1e12
// So do plans that break an SLO, by how far.
#define PLACE_BROKEN_SCORE 1e9

// One way to serve one request; `p` is NULL where one node does it all.
struct place_case {
    const struct place_node *d, *p;
    double prompt, answer, room; // tokens; answer and room of each answer
    double rows;                 // answers
    double held_d, held_p;       // at most prompt - 1
    double upto;                 // of P's reading
    struct place_link link;      // from P to D
    bool serial;
    double dollars_per_kwh; // 0: not known
};

// Fills the times, joules and dollars of a plan.
void place_predict(const struct place_case *c, struct place_plan *out);
// By the request's policy; sets meets and score.
void place_score(const struct place_request *r, struct place_plan *p);

// What one node's part would take by itself: the search ranks nodes by it before it pairs them.
double place_reader_score(const struct place_case *c, enum place_policy policy);
double place_writer_score(const struct place_case *c, enum place_policy policy);
// Seconds until P has read the prompt, its queue included.
double place_reader_s(const struct place_case *c);
// Of P to D, with what else crosses there.
double place_rate(const struct place_case *c);
// The depth where D would read the rest as fast as P sends it; prompt - 1 where P is faster all the way.
double place_split(const struct place_case *c);

// What a node can do for such a prompt: bits of PLACE_CAN_READ (a part of it at least) and PLACE_CAN_WRITE.
enum place_ability {
    PLACE_CAN_READ = 1,
    PLACE_CAN_WRITE = 2,
    PLACE_PICKED = 4,
    PLACE_CAN_BOTH = 8, // it may read the prompt that it answers
};
unsigned place_abilities(const struct place_node *n, uint32_t prompt_tokens);
// Why it cannot do all of that (without writing: read all of it), in words; false: it can.
bool place_unfit(const struct place_node *n, uint32_t prompt_tokens, bool writes,
                 char out[PLACE_TEXT_BYTES]);

// Bits of kinds that may be chosen.
#define PLACE_SOLO (1u << PLACE_LOCAL | 1u << PLACE_REMOTE)
#define PLACE_HANDOFF (1u << PLACE_HYBRID | 1u << PLACE_SERIAL)

// How far roles count; each is tried where the one before leaves no plan.
enum place_rule {
    PLACE_ROLES, // they hold
    PLACE_OWN,   // a writer reads what it answers, however long
    PLACE_ANY,   // they are passed over
};

// One call of place_choose.
struct place_search {
    const struct place_nodes *nodes;
    const struct place_request *r;
    struct place_scratch *scratch; // by position among the candidates
    struct place_plan *top;        // sorted
    size_t max, n_top, considered;
    size_t n; // candidates
    unsigned kinds;
    enum place_rule rule;
    size_t pin_decode, pin_prefill;
    double last; // tokens that somebody may read elsewhere
    double answer, room, rows;
};

size_t place_node_at(const struct place_search *s, size_t position);
// The reverse; PLACE_NO_NODE: no candidate.
size_t place_position(const struct place_search *s, size_t node);
// Once for each rule, before the first search.
void place_search_begin(struct place_search *s);
// Fills `top` with the plans of such kinds that the pins allow.
void place_search_run(struct place_search *s, unsigned kinds);
// One plan by positions; `p` PLACE_NO_NODE: without a hand-off. False: there is none.
bool place_search_predict(struct place_search *s, size_t d, size_t p, struct place_plan *out);
bool place_plan_same(const struct place_plan *a, const struct place_plan *b);

#endif
