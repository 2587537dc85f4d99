#include "sched/watts.h"

#include <math.h>

void watts_init(struct watts *w)
{
    *w = (struct watts){.last = -1};
}

// The kind that nearly all of a window was, -1: none.
static int kind_of(const double seconds[WATTS_KINDS], double all_s)
{
    for (int k = 0; k < WATTS_KINDS; k++)
        if (seconds[k] >= WATTS_PURE * all_s)
            return k;
    return -1;
}

bool watts_learn(struct watts *w, double joules, double all_s, const double seconds[WATTS_KINDS])
{
    if (!(all_s >= WATTS_LEAST_S) || !isfinite(all_s) || !(joules >= 0) || !isfinite(joules))
        return false;
    int kind = kind_of(seconds, all_s), before = w->last;
    w->last = kind;
    if (kind < 0 || kind != before)
        return false;
    w->seen_s[kind] += all_s;
    double of_s = w->seen_s[kind] < WATTS_MEMORY_S ? w->seen_s[kind] : WATTS_MEMORY_S;
    double share = all_s < of_s ? all_s / of_s : 1;
    w->mean_w[kind] += share * (joules / all_s - w->mean_w[kind]);
    return true;
}

double watts_get(const struct watts *w, enum watts_kind kind)
{
    return w->seen_s[kind] >= WATTS_SEEN_S ? w->mean_w[kind] : 0;
}
