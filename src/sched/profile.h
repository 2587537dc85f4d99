// Profiles: what one model costs on one node, as measured, and what a link between two nodes gives.
//
// `struct profile` is plain numbers, the only thing that placement and the simulator read. Predictions
// are sums of terms that are never negative, the terms of sched/cost.h with all rates of a model folded in:
//
//     reading n tokens after depth d, in chunks of u (the last one of m):
//         read_request + n (d + n / 2) x read_pair + floor(n / u) x chunk(u) + chunk(m)
//         chunk(x) = the larger one of read_floor and read_chunk + x x read_token, rounded off between them
//     a step of b answers whose depths sum to D:
//         step + b x row + D x row_depth
//     an answer as its client sees it: dispatch more, once
//
// `struct profile_book` keeps a profile true: it is told what every finished request took. Each term's
// coefficient is the exponential of a number that a Kalman filter tracks; the filter compares logarithms of
// times, so that an error of a tenth counts alike for a short prompt and a long one, and no coefficient
// becomes negative. What is uncertain is mostly common to all coefficients (the speed of the machine), so
// that one sample corrects all of them, and a sample corrects most what it is made of most. The filter
// forgets by letting its uncertainty grow a little with each sample, up to a bound.
//
// The outlier rule: a sample that is further off than PROFILE_GATE standard deviations (and than
// PROFILE_GATE_LEAST in any case) is set aside and moves nothing. When PROFILE_SUSPECTS of them were off to
// the same side, the machine has changed: what was known is doubted and they are all taken. A good sample in
// between lets one of those set aside be forgotten, so that a machine that swaps now and then stays what it is.
//
// Pure functions on the caller's memory, of constant size; no clock, no I/O, any thread. docs/cost-model.md
// derives the formulas.
#ifndef SCHED_PROFILE_H
#define SCHED_PROFILE_H

#include "sched/cost.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A worker reads a long prompt in parts that take no longer, but have so many tokens, so that a short one that comes
// meanwhile is soon looked at.
#define PROFILE_PART_S 0.5
#define PROFILE_PART_LEAST 128

// One model on one node. 0 is unknown where it says so.
struct profile {
    double read_request_s, read_chunk_s, read_token_s, read_pair_s;
    double read_floor_s; // that no chunk is faster than: weights are read once; 0: there is none
    double step_s, row_s, row_depth_s;
    double export_byte_s, import_byte_s; // of KV, out of the engine and into it
    double dispatch_s;        // a request's way to the worker and its answer's way back; 0: unknown
    double load_s;            // until the model is ready; 0: unknown
    double kv_token_bytes;    // of layers that see everything
    double kv_window_bytes;   // per token, of layers that see a window
    double kv_window_tokens;  // 0: there are none
    double state_bytes;       // once per sequence (a recurrent state)
    double chunk_tokens;      // of a full chunk of a prompt
    double last_tokens;       // of the piece that leaves last in a hand-off
    double n_ctx, n_seq;      // tokens it can hold, sequences
    double memory_left_bytes; // 0: unknown
    double watts_idle, watts_prefill, watts_decode; // 0: unknown
    double dollars_per_hour;                        // 0: unknown
    double read_error,
        step_error; // how far off a prediction is, as a standard deviation of its logarithm
    double samples; // measurements behind it; 0: a guess
};

// A machine of which nothing is known: slow, and with errors that say so.
void profile_defaults(struct profile *p);
// Finite, not negative, no time of 0, limits in their order. Whatever comes from outside is checked.
bool profile_sane(const struct profile *p);

double profile_read_s(const struct profile *p, double tokens, double depth);
// One more token for each of `rows` answers.
double profile_step_s(const struct profile *p, double rows, double depth_sum);
// The same without the batch, of one answer of `tokens` that begins at `depth`.
double profile_answer_s(const struct profile *p, double tokens, double depth);
// Of the tokens [from, to) of one sequence, as they cross; without state_bytes.
double profile_kv_bytes(const struct profile *p, double from, double to);

// ---- learning ------------------------------------------------------------------------------------------

#define PROFILE_TERMS 5
#define PROFILE_SUSPECTS 3
#define PROFILE_RUN 4
#define PROFILE_GATE 4.0
#define PROFILE_GATE_LEAST 0.25 // of the logarithm: 28 % slower, 22 % faster

struct profile_sample {
    double amounts[PROFILE_TERMS]; // of each term
    double chunks[2], tokens[2];   // of a prompt: so many chunks of so many tokens
    double seconds;
};

// Of one sum of terms. `log_cost` is what is believed, `cov` how sure.
struct profile_fit {
    size_t n_terms;
    double log_cost[PROFILE_TERMS];
    double cov[PROFILE_TERMS][PROFILE_TERMS];
    double noise; // variance of a sample's logarithm
    double samples;
    struct profile_sample suspects[PROFILE_SUSPECTS];
    int8_t suspect_side; // of all that are kept: -1 faster, 1 slower
    uint8_t n_suspects;
    int8_t run; // surprises in a row on one side, negative: faster
};

struct profile_book {
    struct profile p; // kept current; the caller sets what is not learned
    struct profile_fit read, step, export, import, load, dispatch;
};

enum profile_verdict {
    PROFILE_TAKEN,
    PROFILE_ASIDE,   // too far off: kept for a while in case that others follow
    PROFILE_CHANGED, // the last one of several that were: all taken
    PROFILE_REFUSED, // not a number, not positive
};

// How sure the profile that a book begins with is: a standard deviation of the logarithm.
#define PROFILE_TRUST_NONE 2.0      // profile_defaults
#define PROFILE_TRUST_CATALOGUE 0.7 // predicted by sched/cost from a machine's figures
#define PROFILE_TRUST_MEASURED 0.1  // kept from an earlier run

void profile_book_init(struct profile_book *b, const struct profile *p, double trust);

struct profile_read {
    double tokens, depth;
    double chunk_tokens; // 0: the profile's
    double seconds;      // of computing alone, without queues
};
struct profile_steps {
    double steps;
    double rows;      // answers in a step, on average
    double depth_sum; // of all of them, on average
    double seconds;   // of all steps, without what was read between them
};
enum profile_verdict profile_learn_read(struct profile_book *b, const struct profile_read *r);
enum profile_verdict profile_learn_steps(struct profile_book *b, const struct profile_steps *s);
enum profile_verdict profile_learn_export(struct profile_book *b, double bytes, double seconds);
enum profile_verdict profile_learn_import(struct profile_book *b, double bytes, double seconds);
enum profile_verdict profile_learn_load(struct profile_book *b, double seconds);
enum profile_verdict profile_learn_dispatch(struct profile_book *b, double seconds);

// A measurement at load: all samples at once, the best explanation of them and of what was believed before.
void profile_fit_reads(struct profile_book *b, const struct profile_read *r, size_t n);
void profile_fit_steps(struct profile_book *b, const struct profile_steps *s, size_t n);

// A profile out of a catalogue's figures: the costs of sched/cost.h at a grid of prompts, depths and
// batches, fitted. Sets what the formulas know and leaves the rest (limits, power, dollars) as it is.
void profile_from_cost(struct profile *p, const struct cost_model *m, const struct cost_rates *r);

// ---- links ---------------------------------------------------------------------------------------------

// Between two nodes, both ways.
struct profile_link {
    double rtt_s;
    double up_bytes_per_s, down_bytes_per_s; // from the first to the second, and back
    double
        setup_s; // from P's beginning to read until D could take KV in: dialling, tickets, frames
};

struct profile_link_book {
    struct profile_link link; // kept current
    struct profile_fit rtt, up, down, setup;
};

// What is not positive in `l` is a guess of our own.
void profile_link_init(struct profile_link_book *b, const struct profile_link *l, double trust);
enum profile_verdict profile_learn_rtt(struct profile_link_book *b, double seconds);
// What crossed and how long the link was busy with it.
enum profile_verdict profile_learn_up(struct profile_link_book *b, double bytes, double seconds);
enum profile_verdict profile_learn_down(struct profile_link_book *b, double bytes, double seconds);
// A hand-off whose last KV was in `arrived_s` after P began, with P's reading and the crossing of all bytes taking
// so long. A long prompt hides the setup: what such a hand-off does not tell is not learned.
enum profile_verdict profile_learn_handoff(struct profile_link_book *b, double arrived_s,
                                           double read_s, double transfer_s);

#endif
