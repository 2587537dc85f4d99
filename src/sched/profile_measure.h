// What a node measures of itself when it joins: an order of work that tells most about a profile in the least
// time, within a budget. Pure: it says what to do next and is told what it took; the caller has the engine.
//
// Prompts of one growing sequence come first (64, 512, 1024 ... tokens), so that nothing is read only to be deep, with
// steps of one answer at some of these depths, then steps of several short answers. What would not fit into
// the budget, by what is known so far, or into the node, is left out; what was measured is fitted all at once
// after each measurement, to the profile that was believed before.
//
// The caller reads something once before it begins (memory is touched, kernels are loaded), makes what `depth` asks for
// before it takes the time, and removes the tokens of steps from the growing sequence again.
#ifndef SCHED_PROFILE_MEASURE_H
#define SCHED_PROFILE_MEASURE_H

#include "sched/profile.h"

#define PROFILE_MEASURE_S 15.0 // a budget that leaves room for the last one to take longer
#define PROFILE_MEASURES 16

struct profile_measurement {
    bool reads;
    double tokens, depth; // to read; depth is 0 or what the growing sequence has
    double rows,
        steps; // of answers that stand on `depth` tokens each; 1 row: on the growing sequence
};

struct profile_measure {
    struct profile_fit read, step; // as before the first measurement
    double left_s;
    size_t at;      // in the order
    double reached; // tokens of the growing sequence
    struct profile_measurement now;
    struct profile_read reads[PROFILE_MEASURES];
    struct profile_steps steps[PROFILE_MEASURES];
    size_t n_reads, n_steps;
};

void profile_measure_begin(struct profile_measure *m, const struct profile_book *b,
                           double budget_s);
// False: that was all. The book's profile says what fits (n_ctx, n_seq; 0: unknown).
bool profile_measure_next(struct profile_measure *m, const struct profile_book *b,
                          struct profile_measurement *out);
// How long it took, alone on the node. A time that cannot be leaves it out.
void profile_measure_took(struct profile_measure *m, struct profile_book *b, double seconds);

#endif
