// What a machine uses while it does nothing, reads prompts, or writes answers: averages out of a meter's
// windows. Power takes a while to follow the work, and a window in which several things were done tells none of
// them apart, so only windows of one kind count, and the first one after a change does not. Recent ones count
// more: what came in more than WATTS_MEMORY_S of the same kind ago is mostly forgotten.
//
// Pure functions on the caller's memory; no clock, any thread.
#ifndef SCHED_WATTS_H
#define SCHED_WATTS_H

#include <stdbool.h>

#define WATTS_PURE 0.95      // of a window must be of one kind
#define WATTS_LEAST_S 0.1    // that a window is long
#define WATTS_SEEN_S 0.5     // of one kind, before its average is told
#define WATTS_MEMORY_S 120.0 // of averaging

enum watts_kind { WATTS_IDLE, WATTS_PREFILL, WATTS_DECODE, WATTS_KINDS };

struct watts {
    double mean_w[WATTS_KINDS];
    double seen_s[WATTS_KINDS];
    int last; // the kind of the last window, -1: mixed
};

void watts_init(struct watts *w);
// What a meter counted in a window of `all_s`, and how long each kind took in it; the rest was something else.
// False: it does not count.
bool watts_learn(struct watts *w, double joules, double all_s, const double seconds[WATTS_KINDS]);
double watts_get(const struct watts *w, enum watts_kind kind); // 0: not seen yet

#endif
