// The fleet simulator: what a fleet of machines would give under a load, on a virtual clock.
//
// A discrete-event model. Requests come from a trace or from seeded conversations; the placement of the
// server (sched/place.h) decides where each is read and written; nodes read prompts one after the other and
// write answers in one batch; KV caches cross links that others use too; conversations find their prefixes where
// they were left, until others need the room. Nothing is simulated token by token: between two events a
// node's rates are known formulas, so that a step of a thousand tokens costs as much as one.
// docs/simulator.md says what is modelled and what is not.
//
// The same fleet, load and options give the same result, bit for bit, on the same machine and build.
//
// Owner: the caller; one thread per run; no I/O, no state between runs.
#ifndef PLAN_SIM_H
#define PLAN_SIM_H

#include "plan/sim_fleet.h"
#include "plan/trace.h"

#include <stdbool.h>

#define SIM_REQUESTS_MAX 50000000u
#define SIM_BUCKETS 240 // of the timeline, at most

// Lengths are log-normal: exp of a normal number with mean ln(median) and deviation sigma; at least 1.
struct sim_lengths {
    double median, sigma, most;
};

// Where requests come from. Conversations begin as a Poisson process, or a bursty one: phases of exponential
// length (30 s on average) whose rates are as `burst` to 1. Each has a geometric number of turns; a turn's prompt is all
// that was said before and something new, and is asked when the last answer has been read (think_s on
// average after its end, exponential).
struct sim_load {
    const struct trace *trace; // NULL: as below
    uint64_t requests;         // arrivals in all; of a trace at most so many (0: all)
    uint64_t seed;
    double rate;  // requests per second; 0: `share` of what the fleet can take
    double share; // of the capacity that sim_capacity finds
    double burst; // 1: Poisson
    double turns, think_s;
    struct sim_lengths first, turn, answer; // tokens
};
void sim_load_defaults(struct sim_load *l);

struct sim_options {
    enum place_policy policy;
    enum place_kind wish;  // PLACE_AUTO, or the same plan for all
    double ttft_s, tpot_s; // what counts as good
    double years;          // that a machine is written off in
    double dollars_per_kwh;
    double window_from_s, window_to_s; // answers that end meanwhile are counted apart
};
void sim_options_defaults(struct sim_options *o);

struct sim_quantiles {
    uint64_t n;
    double mean, p50, p90, p95, p99, most; // 0 where n is 0
};

struct sim_kind_result {
    char name[PLAN_NAME_BYTES];
    uint32_t nodes;
    double read_share, write_share, busy_share; // of the time that they were up
    double answers;                             // running on a node, on average
    double read_tokens, written_tokens;
    double joules, dollars; // NAN: power or price is unknown
};

struct sim_bucket {
    float read[SIM_KINDS_MAX], write[SIM_KINDS_MAX]; // node seconds
    double waiting_s;                                // request seconds in queues
};

struct sim_result {
    uint64_t arrived, completed, refused;
    uint64_t in_window;
    uint64_t plans[PLACE_HYBRID + 1], split, replanned;
    double rate, capacity;    // requests per second; capacity 0: not asked for
    double arrivals_s, end_s; // the last arrival, the last answer
    struct sim_quantiles ttft, tpot, total, tail;
    uint64_t good;
    double good_per_s, answer_tokens_per_s;
    double prompt_tokens, held_tokens, answer_tokens; // sums
    double waiting_mean, in_system_mean, total_sum_s; // requests, requests, seconds
    uint64_t waiting_most;
    struct sim_kind_result kinds[SIM_KINDS_MAX];
    size_t n_kinds;
    double joules, dollars;
    double bucket_s; // width
    size_t n_buckets;
    struct sim_bucket *buckets;
    char refusal[PLACE_TEXT_BYTES]; // of the first that was refused
    uint64_t digest;                // of every request's outcome
};
void sim_result_fini(struct sim_result *r);

// ERR_INVALID: a number that cannot be. A fleet that can serve nothing is a result: all are refused.
int sim_run(const struct sim_fleet *f, const struct sim_load *l, const struct sim_options *o,
            struct sim_result *out, struct err *e);

// Requests per second up to which the fleet keeps up: found by halving between a rate at which short runs
// still complete what comes and one at which they fall behind, on a fleet of the same proportions that is
// no larger than needed. Within about 5 %. Deterministic too; 0 where nothing can be served.
int sim_capacity(const struct sim_fleet *f, const struct sim_load *l, const struct sim_options *o,
                 double *rate, struct err *e);

#endif
