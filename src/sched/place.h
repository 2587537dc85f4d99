// Placement: which node reads a prompt and which one writes the answer.
//
// The caller describes the fleet (profiles, queues, links) and one request; place_choose predicts what every
// plan would take and ranks them by a policy:
//
//     local    the home node (the gateway's own) reads and writes
//     remote   one other node does both
//     hybrid   P reads, the KV cache streams to D meanwhile, D writes
//     serial   P reads, then hands everything over at once
//
// A hybrid may be split: P reads [held, upto), D reads the rest once that is in. On idle machines whose
// costs are proportional that never pays (time is linear in the split, so one end is best), but it does where P's
// context is short of the prompt, where P holds a beginning but is busy, and where P loses its lead with depth:
// the depth where both read equally fast is the best split.
//
// A prediction knows queues (seconds of reading promised, answers running, free sequences and cells), what the
// batch costs, what each side holds of the prompt, the link with its contention, export and import. The equations
// are those of profile.h and cost_handoff; docs/cost-model.md writes them down.
//
// Pure: no clock, no I/O, no allocation, no state; the same input gives the same output. Any thread. A thousand
// nodes are not a million pairs: every node is looked at alone, the best PLACE_NODES writers (by what they
// would take with the best reader that can send to them) and those that hold some of the prompt are paired
// with their best PLACE_READERS readers. Fleets of up to PLACE_NODES nodes are searched whole. Who knows more
// (a simulator with classes of equal nodes) passes a list of candidates in `among`.
//
// Roles that leave no plan are passed over, with words: first a writer reads what it answers, however long, then
// everybody does what it can.
//
// Calling it again while a request waits, with the earlier choice in `last`, plans again.
#ifndef SCHED_PLACE_H
#define SCHED_PLACE_H

#include "sched/profile.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLACE_NODES 8
#define PLACE_READERS 4
#define PLACE_NO_NODE SIZE_MAX
#define PLACE_ROWS 16 // plans that a choice looks back on
#define PLACE_TEXT_BYTES 256
#define PLACE_NEAR 0.03 // plans whose scores differ by less are equal
#define PLACE_PACE 1.75 // what reading may stretch the steps of running answers to

enum place_kind {
    PLACE_AUTO, // as a wish only
    PLACE_LOCAL,
    PLACE_REMOTE,
    PLACE_SERIAL,
    PLACE_HYBRID,
};
const char *place_kind_name(enum place_kind k);              // "hybrid"
bool place_kind_parse(const char *name, enum place_kind *k); // "auto" is a name too

enum place_policy {
    PLACE_LATENCY, // least total time
    PLACE_THROUGHPUT, // least work added to the fleet, others' answers that get slower and waits included
    PLACE_ENERGY, // least joules, where power is known
    PLACE_COST,   // least dollars, where prices are known
    PLACE_SLO,    // within the limits of ttft_s and token_s; of those the least work
};
const char *place_policy_name(enum place_policy p);
bool place_policy_parse(const char *name, enum place_policy *p);

// What a node may do at all, and what it is there for. The latter is an operator's word, which holds as long as
// somebody else can do the rest: a reader writes no answers; a writer reads no prompts for others, and of the
// prompts that it answers only short ones, what it holds not counted: a chunk at most, alone or behind another's part.
enum place_role {
    PLACE_READS = 1,
    PLACE_WRITES = 2,
    PLACE_READER = 4,
    PLACE_WRITER = 8,
};
const char *place_role_name(uint32_t roles); // what it is there for: "read", "write", "both"
bool place_role_parse(const char *name, uint32_t *role); // "both" is 0

// A prompt that a node has yet to read.
struct place_reading {
    double left_s;
    const struct place_reading *next;
};

struct place_node {
    const char *name;
    uint64_t id; // the same over restarts; equal choices are spread by it
    const struct profile *profile;
    bool up;
    const char *why;    // when not up: in words ("draining")
    uint32_t roles;     // enum place_role
    uint32_t group;     // KV passes between nodes of one group; 0: none passes (an upstream server)
    bool streams;       // false: KV passes only as a whole (serial)
    bool splits;        // as D: it reads on where P's part of a prompt ends
    double pace;        // 0: PLACE_PACE; INFINITY: prompts are read without regard to answers
    double read_wait_s; // of reading already promised
    const struct place_reading *reads; // what makes it up; NULL: all of it comes first
    double answers;                    // running
    double depth_sum;                  // tokens that they stand on, all together
    double rest_tokens;                // that each of them has yet to write, on average
    double next_tokens;                // of the one that ends first
    double free_seqs;
    double free_cells;              // tokens of room, what may be evicted counted as free
    double sending, receiving;      // transfers on its link right now
    bool priced;                    // profile->dollars_per_hour is known where it is 0, too
    double in_dollars, out_dollars; // for each token of a prompt and of an answer, as clouds charge
};

// Of the request's prompt.
struct place_held {
    size_t node;
    uint32_t tokens;
};

struct place_link {
    double rtt_s;
    double bytes_per_s; // 0: no way
    double setup_s;     // until D can take anything in; what a long prompt hides
};
// The link over which `from` sends to `to`.
typedef struct place_link place_link_fn(void *ctx, size_t from, size_t to);

struct place_nodes {
    const struct place_node *nodes;
    size_t n;
    const uint32_t *among; // indices of the candidates; NULL: all
    size_t n_among;
    place_link_fn *link;
    void *link_ctx;
    size_t home;            // PLACE_NO_NODE: none
    double dollars_per_kwh; // of what machines draw; 0: not known
};

// An earlier choice. All zero with decode = PLACE_NO_NODE: none.
struct place_last {
    enum place_kind kind;
    size_t decode, prefill;
};

struct place_request {
    uint32_t prompt_tokens;
    double answer_tokens;  // that are expected
    double answer_room;    // tokens to keep free for it; 0: answer_tokens
    double answers;        // to the one prompt, side by side; 0: one
    uint64_t conversation; // of equal choices each conversation keeps to one; 0 is one, too
    enum place_kind wish;
    size_t pin_decode, pin_prefill; // PLACE_NO_NODE: free
    enum place_policy policy;
    double ttft_s, token_s; // limits of PLACE_SLO; 0: none
    struct place_last last;
    const struct place_held *held;
    size_t n_held;
};
// No wish, no pins, nothing held, latency.
void place_request_defaults(struct place_request *r);

// A plan and what it would take. Unknown joules and dollars are negative; nothing is ever NaN.
struct place_plan {
    enum place_kind kind;
    bool meets;                         // the SLO
    size_t decode, prefill;             // prefill is PLACE_NO_NODE without a hand-off
    uint32_t upto;                      // P reads up to here; prompt_tokens - 1 unless split
    uint32_t held_decode, held_prefill; // of the prompt, as used
    double wait_s;                      // before anything of it is computed
    double read_s;                      // P's, or the one node's; D's part of a split included
    double transfer_s, tail_s;
    double ttft_s, token_s, total_s;
    double busy_s;          // of all machines, work that it adds
    double slowdown_s;      // that answers now running will take longer, summed
    double joules, dollars; // more than without it
    double score;           // by the policy; smaller is better
};

// Why a choice is what it is.
enum place_because {
    PLACE_BEST,    // by the policy
    PLACE_STAYED,  // near the best, and was the last choice
    PLACE_SPREAD,  // near the best, and less busy
    PLACE_ONLY,    // the only plan there is
    PLACE_ASKED,   // the request wished for it, or pinned it
    PLACE_UNKNOWN, // power or prices are unknown: by total time
};

// The best plans, best first; the caller gives the room.
struct place_table {
    struct place_plan *plans;
    size_t max;
    size_t n;
    size_t considered; // plans that were predicted
    enum place_because because;
    // "" unless a wish, a pin, a role or the policy could not be granted.
    char fallback[PLACE_TEXT_BYTES];
    char refusal[PLACE_TEXT_BYTES]; // why there is no plan, when there is none
};

// Memory that a call needs: one for each candidate. What it holds is of no concern before and after.
struct place_scratch {
    double reader, writer; // scores of its part alone
    double read_s;
    uint32_t held, flags;
};

// The choice is plans[0]. Returns 0, or ERR_NOT_FOUND with the refusal. `max` is at least 1. A pair has one row, its
// best split. A wish for a hand-off, and pins, that cannot be granted fall back to what can, with words; a wish for
// `local` or `remote` is refused.
int place_choose(const struct place_nodes *nodes, const struct place_request *r,
                 struct place_scratch *scratch, struct place_table *out);

// Why plans[i] stands where it does, in words with its figures: for timings, logs and `tandem explain`.
void place_tell(const struct place_nodes *nodes, const struct place_request *r,
                const struct place_table *t, size_t i, char out[PLACE_TEXT_BYTES]);

#endif
