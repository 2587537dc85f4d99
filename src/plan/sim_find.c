#include "plan/sim_find.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAYS_S (365.25 * 86400)

struct trial {
    bool possible; // it fits and has been run
    double good_share, ttft_p95_s, tpot_p95_s, busy, dollars_per_year;
    char refusal[SIM_FIND_TEXT]; // why not
};

static int fleet_make(const struct sim_find *f, const struct sim_found *what,
                      const uint32_t counts[SIM_FIND_PARTS], struct sim_fleet *fleet, struct err *e)
{
    int rc = 0;
    sim_fleet_init(fleet, f->model, f->quant);
    for (size_t i = 0; rc == 0 && i < SIM_FIND_PARTS && what->machines[i] != NULL; i++) {
        struct sim_member m = {.machine = what->machines[i], .count = counts[i], .slots = f->slots};
        rc = sim_fleet_add(fleet, f->catalogue, &m, e);
    }
    return rc;
}

// What does not fit is no error here: another machine may do.
static int trial_run(const struct sim_find *f, const struct sim_found *what,
                     const uint32_t counts[SIM_FIND_PARTS], struct trial *t, struct err *e)
{
    struct sim_fleet fleet;
    struct sim_result r = {0};
    struct err why = {0};
    double busy = 0;
    *t = (struct trial){0};
    int rc = fleet_make(f, what, counts, &fleet, &why);
    if (rc == ERR_INVALID) {
        snprintf(t->refusal, sizeof t->refusal, "%.*s", SIM_FIND_TEXT - 1, why.message);
        sim_fleet_fini(&fleet);
        return 0;
    }
    if (rc != 0 && e != NULL)
        *e = why;
    if (rc == 0)
        rc = sim_run(&fleet, f->load, f->options, &r, e);
    if (rc == 0) {
        for (size_t k = 0; k < r.n_kinds; k++)
            busy += r.kinds[k].busy_share * r.kinds[k].nodes / fleet.n;
        *t = (struct trial){
            .possible = r.refused == 0,
            .good_share = r.arrived > 0 ? (double)r.good / (double)r.arrived : 0,
            .ttft_p95_s = r.ttft.p95,
            .tpot_p95_s = r.tpot.p95,
            .busy = busy,
            .dollars_per_year = r.end_s > 0 ? r.dollars * DAYS_S / r.end_s : NAN,
        };
        snprintf(t->refusal, sizeof t->refusal, "%.*s", SIM_FIND_TEXT - 1, r.refusal);
    }
    sim_result_fini(&r);
    sim_fleet_fini(&fleet);
    return rc;
}

static bool enough(const struct sim_find *f, const struct trial *t)
{
    return t->possible && t->good_share >= f->good_share;
}

static void why_tell(const struct sim_find *f, struct sim_found *what, const struct trial *fewer)
{
    const struct sim_options *o = f->options;
    if (fewer == NULL) {
        bool pair = what->machines[1] != NULL;
        snprintf(what->why, sizeof what->why, "%s",
                 !pair                  ? "one is enough"
                 : what->counts[0] == 1 ? "one of each is enough"
                                        : "one of the second is enough");
        return;
    }
    bool late = fewer->ttft_p95_s > o->ttft_s, slow = fewer->tpot_p95_s > o->tpot_s;
    snprintf(
        what->why, sizeof what->why,
        "one fewer: %.1f %% good, 95 %% of first tokens within %.3g s%s, of the others %.0f ms%s",
        100 * fewer->good_share, fewer->ttft_p95_s, late ? " (too late)" : "",
        1e3 * fewer->tpot_p95_s, slow ? " (too slow)" : "");
}

static void found_fill(struct sim_found *what, const uint32_t counts[SIM_FIND_PARTS],
                       const struct trial *t)
{
    memcpy(what->counts, counts, sizeof what->counts);
    what->good_share = t->good_share;
    what->ttft_p95_s = t->ttft_p95_s;
    what->tpot_p95_s = t->tpot_p95_s;
    what->busy = t->busy;
    what->dollars_per_year = t->dollars_per_year;
}

// The least count of the last part with which it is enough, the other one given; 0: none up to `most`.
struct search {
    const struct sim_find *f;
    struct sim_found *what;
    uint32_t counts[SIM_FIND_PARTS];
    size_t part;
    struct trial good, bad; // with the least count, and with one fewer
    bool any_bad;
};

static int try_count(struct search *s, uint32_t count, struct trial *t, struct err *e)
{
    s->counts[s->part] = count;
    return trial_run(s->f, s->what, s->counts, t, e);
}

static int least_count(struct search *s, uint32_t most, uint32_t *out, struct err *e)
{
    uint32_t low = 0, high = 1;
    struct trial t;
    *out = 0;
    s->any_bad = false;
    for (;; high = 2 * high < most ? 2 * high : most) {
        int rc = try_count(s, high, &t, e);
        if (rc != 0)
            return rc;
        if (enough(s->f, &t))
            break;
        s->bad = t;
        s->any_bad = true;
        low = high;
        // What does not fit into one fits into no number of them.
        if (high == most || !t.possible)
            return 0;
    }
    s->good = t;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        int rc = try_count(s, middle, &t, e);
        if (rc != 0)
            return rc;
        if (enough(s->f, &t)) {
            high = middle;
            s->good = t;
        } else {
            low = middle;
            s->bad = t;
            s->any_bad = true;
        }
    }
    s->counts[s->part] = *out = high;
    return 0;
}

static double price_of(const struct sim_find *f, const char *machine)
{
    const json_t *m = plan_catalogue_find(f->catalogue, PLAN_MACHINE, machine, NULL);
    return json_number_or(m, "price_usd", NAN);
}

static int find_alone(const struct sim_find *f, struct sim_found *what, struct err *e)
{
    struct search s = {.f = f, .what = what};
    uint32_t count = 0;
    int rc = least_count(&s, SIM_FIND_MOST, &count, e);
    if (rc != 0)
        return rc;
    what->price_usd = count * price_of(f, what->machines[0]);
    if (count > 0) {
        found_fill(what, s.counts, &s.good);
        why_tell(f, what, s.any_bad ? &s.bad : NULL);
    } else if (s.bad.refusal[0] != '\0') {
        memcpy(what->why, s.bad.refusal, sizeof what->why);
    } else {
        snprintf(what->why, sizeof what->why, "with %u of them only %.1f %% are good",
                 SIM_FIND_MOST, 100 * s.bad.good_share);
    }
    return 0;
}

// For each count of the first the least count of the second, while that can be cheaper than what is known.
static int find_pair(const struct sim_find *f, struct sim_found *what, double alone_usd,
                     struct err *e)
{
    double a = price_of(f, what->machines[0]), b = price_of(f, what->machines[1]);
    double best = isfinite(alone_usd) ? alone_usd : INFINITY;
    uint32_t most = SIM_FIND_MOST;
    what->price_usd = NAN;
    snprintf(what->why, sizeof what->why, "no mix of them is cheaper than one kind alone");
    for (uint32_t first = 1; first < SIM_FIND_MOST && most > 0; first++) {
        struct search s = {.f = f, .what = what, .counts = {first, 0}, .part = 1};
        double left = (best - first * a) / b;
        uint32_t second = 0, affordable = left < most ? (uint32_t)fmax(left, 0) : most;
        if (affordable == 0)
            break;
        int rc = least_count(&s, affordable, &second, e);
        if (rc != 0)
            return rc;
        if (second == 0)
            continue;
        double price = first * a + second * b;
        if (price < best) {
            best = what->price_usd = price;
            found_fill(what, s.counts, &s.good);
            why_tell(f, what, s.any_bad ? &s.bad : NULL);
        }
        most = second - 1; // more of the first need no more of the second
    }
    return 0;
}

static int found_compare(const void *a, const void *b)
{
    const struct sim_found *x = a, *y = b;
    double p = x->counts[0] > 0 && isfinite(x->price_usd) ? x->price_usd : INFINITY;
    double q = y->counts[0] > 0 && isfinite(y->price_usd) ? y->price_usd : INFINITY;
    if (p != q)
        return p < q ? -1 : 1;
    return (y->counts[0] > 0) - (x->counts[0] > 0);
}

int sim_find(const struct sim_find *f, struct sim_found *out, size_t *n_out, struct err *e)
{
    size_t n = 0, all = f->n + f->n * (f->n - 1) / 2;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < f->n; i++) {
        out[n] = (struct sim_found){.machines = {f->machines[i]}};
        rc = find_alone(f, &out[n++], e);
        if (f->progress != NULL)
            f->progress(f->ctx, (double)n / (double)all);
    }
    for (size_t i = 0; rc == 0 && i < f->n; i++)
        for (size_t j = i + 1; rc == 0 && j < f->n; j++) {
            double alone = fmin(out[i].counts[0] > 0 ? out[i].price_usd : NAN,
                                out[j].counts[0] > 0 ? out[j].price_usd : NAN);
            out[n] = (struct sim_found){.machines = {f->machines[i], f->machines[j]}};
            rc = find_pair(f, &out[n++], alone, e);
            if (f->progress != NULL)
                f->progress(f->ctx, (double)n / (double)all);
        }
    // A stable order: equal ones as they were found.
    if (rc == 0)
        qsort(out, n, sizeof *out, found_compare);
    *n_out = n;
    return rc;
}
