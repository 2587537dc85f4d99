// How many of which box serve a team: the least money for each machine alone and each pair of machines with which
// enough answers are good under a load, found by simulating them.
//
// Counts grow by doubling and are then halved into; more machines are taken not to be worse, which holds but for
// the luck of single long prompts. Every answer says what one machine fewer would have given.
//
// Owner: the caller; one thread.
#ifndef PLAN_SIM_FIND_H
#define PLAN_SIM_FIND_H

#include "plan/sim.h"

#define SIM_FIND_PARTS 2
#define SIM_FIND_MACHINES 12
#define SIM_FIND_MOST 64u // of one machine
#define SIM_FIND_TEXT 256

struct sim_find {
    const struct plan_catalogue *catalogue;
    const char *model, *quant;
    const struct sim_load *load; // with a rate
    const struct sim_options *options;
    double good_share; // of all answers that must be within the options' limits
    uint32_t slots;    // 0: SIM_SLOTS
    const char *const *machines;
    size_t n;
    void (*progress)(void *ctx, double share); // may be NULL
    void *ctx;
};

struct sim_found {
    const char *machines[SIM_FIND_PARTS]; // the second may be NULL
    uint32_t counts[SIM_FIND_PARTS];      // 0: so many do not exist
    double price_usd;                     // NAN: unknown
    double dollars_per_year;              // with electricity; NAN: unknown
    double good_share, ttft_p95_s, tpot_p95_s, busy;
    char why[SIM_FIND_TEXT];
};

// `out` has room for n + n (n - 1) / 2 of them; cheapest first, those that no count serves last.
int sim_find(const struct sim_find *f, struct sim_found *out, size_t *n_out, struct err *e);

#endif
