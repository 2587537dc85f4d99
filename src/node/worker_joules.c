// What of the machine's energy was used for a request: what its meter counts above what it uses idle, given to the requests
// that the engine worked on meanwhile.
//
// The engine's time is divided as it is spent: a prompt's chunk is the time of those that read, a step of answers that
// of those that write, in equal parts. Each window of the meter that is over (worker_power.c) is then given away in
// proportion. What a request did after the last of them counts as much as such time counted just before.
//
// The meter sees the machine: what others do on it meanwhile, another worker too, is in the figure.
#include "node/worker.h"

#include <math.h>

// Of the time of what was given away, to tell what working takes: idle power is never quite the same.
#define RATE_SHARE 0.5

static bool works(const struct worker_job *j, int kind)
{
    return (j->phase == WORKER_READ && kind != WATTS_DECODE) ||
           (j->phase == WORKER_DECODE && kind != WATTS_PREFILL);
}

static void work_count(struct worker *w, int64_t now_ns)
{
    struct worker_joules *g = &w->power.given;
    double took_s = ns_to_s(now_ns - g->worked_ns), n = 0;
    int kind = w->power.kind;

    g->worked_ns = now_ns;
    if (kind == WATTS_IDLE)
        return;
    for (const struct worker_job *j = w->jobs; j != NULL; j = j->next)
        n += works(j, kind);
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (works(j, kind))
            j->work_s += took_s / n;
    if (n == 0)
        return;
    g->work_s += took_s;
    g->until_ns = now_ns;
}

static void windows_give(struct worker *w, double idle_w)
{
    const struct worker_power *p = &w->power;
    struct worker_joules *g = &w->power.given;
    double all_s = ns_to_s(p->window_ns - g->seen_ns);
    double more_j = fmax(p->joules - g->seen_j - idle_w * all_s, 0);
    // What was worked since the last of them is left for the next one.
    double after_s = fmin(fmax(ns_to_s(g->until_ns - p->window_ns), 0), g->work_s);
    double in_s = g->work_s - after_s;

    for (struct worker_job *j = w->jobs; g->work_s > 0 && j != NULL; j = j->next) {
        j->joules += in_s > 0 ? more_j * j->work_s / g->work_s : 0;
        j->work_s *= after_s / g->work_s;
    }
    if (in_s > RATE_SHARE * all_s)
        g->rate_w = more_j / in_s;
    g->work_s = after_s;
    g->seen_ns = p->window_ns;
    g->seen_j = p->joules;
}

void worker_joules_count(struct worker *w, int64_t now_ns)
{
    const struct worker_power *p = &w->power;
    double idle_w = watts_get(&p->watts, WATTS_IDLE);

    work_count(w, now_ns);
    if (idle_w > 0 && p->window_ns > p->given.seen_ns)
        windows_give(w, idle_w);
}

void worker_joules_put(struct worker *w, const struct worker_job *j, json_t *head)
{
    struct worker_power *p = &w->power;
    bool known;

    if (p->meter == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    worker_joules_count(w, clock_now_ns());
    known = watts_get(&p->watts, WATTS_IDLE) > 0 && (p->given.rate_w > 0 || j->work_s == 0);
    pthread_mutex_unlock(&p->lock);
    if (known)
        json_put(head, "joules", json_real(j->joules + j->work_s * p->given.rate_w));
}
