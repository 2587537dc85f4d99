#include "sched/profile_measure.h"

#include <math.h>
#include <string.h>

#define READ(tokens, depth)                                                                        \
    {                                                                                              \
        true, tokens, depth, 0, 0                                                                  \
    }
#define STEPS(rows, depth, steps)                                                                  \
    {                                                                                              \
        false, 0, depth, rows, steps                                                               \
    }
#define FIRST 2 // measured whatever they take: without them nothing is known

static const struct profile_measurement order[] = {
    READ(64, 0),       STEPS(1, 64, 8), READ(448, 64),    READ(16, 0),       READ(512, 512),
    STEPS(1, 1024, 6), STEPS(2, 64, 6), READ(1024, 1024), STEPS(4, 64, 6),   READ(2048, 2048),
    STEPS(1, 4096, 6), STEPS(8, 64, 6), READ(4096, 4096), STEPS(1, 8192, 6),
};
#define N_ORDER (sizeof(order) / sizeof(order[0]))
_Static_assert(N_ORDER <= PROFILE_MEASURES, "each has its place");

void profile_measure_begin(struct profile_measure *m, const struct profile_book *b, double budget_s)
{
    memset(m, 0, sizeof(*m));
    m->read = b->read;
    m->step = b->step;
    m->left_s = budget_s;
}

// Several answers stand on tokens that have to be read first, each its own.
static double before_s(const struct profile *p, const struct profile_measurement *w)
{
    return w->rows > 1 ? w->rows * profile_read_s(p, w->depth, 0) : 0;
}

static double expected_s(const struct profile *p, const struct profile_measurement *w)
{
    if (w->reads)
        return profile_read_s(p, w->tokens, w->depth);
    return before_s(p, w) + w->steps * profile_step_s(p, w->rows, w->rows * w->depth);
}

static bool fits(const struct profile *p, const struct profile_measurement *w)
{
    double rows = fmax(w->rows, 1), cells = rows * (w->depth + w->tokens + w->steps);

    return (p->n_ctx <= 0 || cells <= p->n_ctx) && (p->n_seq <= 0 || rows <= p->n_seq);
}

bool profile_measure_next(struct profile_measure *m, const struct profile_book *b,
                          struct profile_measurement *out)
{
    for (; m->at < N_ORDER; m->at++) {
        const struct profile_measurement *w = &order[m->at];
        bool grows = w->reads ? w->depth > 0 : w->rows <= 1;
        if (!fits(&b->p, w) || (grows && w->depth > m->reached) ||
            (m->at >= FIRST && expected_s(&b->p, w) > m->left_s))
            continue;
        *out = m->now = *w;
        return true;
    }
    return false;
}

static void remember(struct profile_measure *m, double seconds)
{
    const struct profile_measurement *w = &m->now;

    if (w->reads)
        m->reads[m->n_reads++] =
            (struct profile_read){.tokens = w->tokens, .depth = w->depth, .seconds = seconds};
    else
        m->steps[m->n_steps++] =
            (struct profile_steps){.steps = w->steps,
                                   .rows = w->rows,
                                   .depth_sum = w->rows * (w->depth + w->steps / 2),
                                   .seconds = seconds};
}

void profile_measure_took(struct profile_measure *m, struct profile_book *b, double seconds)
{
    if (m->at >= N_ORDER)
        return;
    m->at++;
    if (m->now.reads)
        m->reached = fmax(m->reached, m->now.depth + m->now.tokens);
    if (!(seconds > 0 && isfinite(seconds)))
        return;
    m->left_s -= seconds + before_s(&b->p, &m->now);
    remember(m, seconds);
    b->read = m->read;
    b->step = m->step;
    profile_fit_reads(b, m->reads, m->n_reads);
    profile_fit_steps(b, m->steps, m->n_steps);
}
