#include "node/pace.h"

#define NO_BOUND_S 1e9
#define ROW_LEAST_S 1e-9 // what a row takes is never nothing

void pace_init(struct pace *p, double bound_s)
{
    *p = (struct pace){.bound_s = bound_s};
}

static void average(double *mean, double seen, double weight)
{
    *mean = *mean == 0 ? seen : (1 - weight) * *mean + weight * seen;
}

static uint32_t slot(uint32_t n)
{
    return n < PACE_ROWS ? n : PACE_ROWS;
}

// What a quiet step of n rows takes: as seen, or as with the next smaller or, without one, larger number
// that was seen. 0: nothing was.
static double quiet_get(const struct pace *p, uint32_t n)
{
    for (uint32_t i = slot(n); i > 0; i--)
        if (p->quiet_s[i] > 0)
            return p->quiet_s[i];
    for (uint32_t i = slot(n); i <= PACE_ROWS; i++)
        if (p->quiet_s[i] > 0)
            return p->quiet_s[i];
    return 0;
}

double pace_spare_s(const struct pace *p, uint32_t n)
{
    double quiet = quiet_get(p, n);
    double bound = p->bound_s < 0 ? PACE_AUTO * quiet : p->bound_s;
    if (p->bound_s == 0)
        return NO_BOUND_S;
    return bound > quiet ? bound - quiet : 0;
}

double pace_calm_spare_s(const struct pace *p, uint32_t n)
{
    return pace_spare_s(p, n) / 3;
}

bool pace_is_slow(const struct pace *p, uint32_t n, double step_s)
{
    double quiet = quiet_get(p, 1);
    return quiet > 0 && step_s - quiet > pace_spare_s(p, n) / 2;
}

static uint32_t rows_that_fit(double spare_s, double row_s, uint32_t most)
{
    double rows = spare_s / (row_s > ROW_LEAST_S ? row_s : ROW_LEAST_S);
    return rows < most ? (uint32_t)rows : most;
}

// What a row takes is not the same for one and for fifty, and the first may take more than the rest: so
// from an estimate in steps to a better one, and one more as long as there is time left, up to what was
// seen to be too many.
static uint32_t rows_choose(const struct pace *p, double spare_s, double row_s, uint32_t most)
{
    uint32_t rows = rows_that_fit(spare_s, row_s, most);
    if (rows > 2 * p->rows + 1)
        rows = 2 * p->rows + 1;
    if (rows <= p->rows && p->over_s < spare_s)
        rows = p->rows + 1;
    if (p->too_many > 0 && rows >= p->too_many)
        rows = p->too_many_age >= p->too_many_wait ? p->too_many : p->too_many - 1;
    rows = rows < most ? rows : most;
    return rows > 0 ? rows : 1;
}

struct pace_share pace_share_get(const struct pace *p, uint32_t n, double row_s)
{
    double spare = pace_spare_s(p, n);
    double chunk_row = p->chunk_row_s > 0 ? p->chunk_row_s : row_s;
    double mixed_row = p->mixed_row_s > 0 ? p->mixed_row_s : row_s;
    // Where the decode rows alone are that many, nothing is gained by keeping the others few.
    uint32_t most = n + 1 < PACE_APART ? PACE_APART - 1 - n : PACE_APART;

    if (p->bound_s == 0)
        return (struct pace_share){UINT32_MAX, true};
    if (quiet_get(p, n) == 0 || p->since >= PACE_LOOK_AGAIN)
        return (struct pace_share){0, false};
    uint32_t apart = rows_that_fit(spare, chunk_row, UINT32_MAX);
    if (apart >= PACE_APART)
        return (struct pace_share){apart, true};
    return (struct pace_share){rows_choose(p, spare, mixed_row, most), false};
}

uint32_t pace_chunk_rows(const struct pace *p, uint32_t n, uint32_t parts, double row_s)
{
    double chunk_row = p->chunk_row_s > 0 ? p->chunk_row_s : row_s;
    double chunk_s = pace_spare_s(p, n) / 2 * parts;
    uint32_t rows =
        rows_that_fit(chunk_s < PACE_CHUNK_S ? chunk_s : PACE_CHUNK_S, chunk_row, UINT32_MAX);
    return rows > PACE_APART ? rows : PACE_APART;
}

// One late step may be bad luck, and so may three be: what was too many is tried again, ever more rarely.
static void too_many_learn(struct pace *p, uint32_t rows, bool late)
{
    p->too_many_age++;
    if (late && (p->late == 0 || rows < p->late_rows))
        p->late_rows = rows;
    if (late)
        p->late++;
    else if (rows >= p->late_rows)
        p->late = 0;
    if (p->too_many > 0 && rows >= p->too_many) { // a try
        p->late = 0;
        if (!late) {
            p->too_many = 0;
            return;
        }
        p->too_many_age = 0;
        p->too_many_wait =
            p->too_many_wait < PACE_TRY_RARELY ? 2 * p->too_many_wait : PACE_TRY_RARELY;
    } else if (p->late >= PACE_SURE) {
        // Fewer than what was too many are so now: all that was learned about more is still true.
        p->too_many_wait = p->too_many > 0 ? p->too_many_wait : PACE_TRY_AGAIN;
        p->too_many = p->late_rows;
        p->too_many_age = 0;
        p->late = 0;
    }
}

void pace_learn_step(struct pace *p, uint32_t n, uint32_t rows, double seconds)
{
    double quiet = quiet_get(p, n);
    if (rows == 0) {
        average(&p->quiet_s[slot(n)], seconds, 0.2);
        p->since = 0;
        return;
    }
    p->since++;
    p->rows = rows;
    p->over_s = seconds > quiet ? seconds - quiet : 0;
    // Three times what was expected is somebody else's work on this machine, not these rows'.
    bool odd = p->mixed_row_s > 0 && p->over_s > 3 * rows * p->mixed_row_s;
    too_many_learn(p, rows, !odd && rows > 1 && p->over_s > pace_spare_s(p, n));
    average(&p->mixed_row_s, p->over_s / rows + ROW_LEAST_S, 0.3);
}

void pace_learn_chunk(struct pace *p, uint32_t rows, double seconds)
{
    if (rows >= PACE_APART)
        average(&p->chunk_row_s, seconds / rows, 0.3);
}
