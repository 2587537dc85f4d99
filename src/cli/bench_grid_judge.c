// Regret and errors of a grid, and its JSON. Pure.
#include "cli/bench_grid.h"

#include "base/clock.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static double plan_s(const struct bench_row *r, enum bench_plan plan)
{
    return r->n[plan] > 0 ? bench_median(r->totals_s[plan], r->n[plan]) : INFINITY;
}

// NAN when nothing was predicted.
static double error_of(const struct bench_choice *c)
{
    return c->predicted_s > 0 && c->total_s > 0 ? fabs(c->predicted_s - c->total_s) / c->total_s
                                                : NAN;
}

struct mean {
    double sum, max;
    size_t n;
};

static void mean_add(struct mean *m, double v)
{
    if (!isfinite(v))
        return;
    m->sum += v;
    m->max = m->n == 0 ? v : fmax(m->max, v);
    m->n++;
}

static double mean_of(const struct mean *m)
{
    return m->n > 0 ? m->sum / (double)m->n : NAN;
}

static enum bench_plan plan_best(const struct bench_row *r)
{
    enum bench_plan best = BENCH_REMOTE;
    for (size_t p = 0; p < BENCH_PLANS; p++)
        if (plan_s(r, (enum bench_plan)p) < plan_s(r, best))
            best = (enum bench_plan)p;
    return best;
}

// What was chosen most often; of equals what was chosen last.
static enum bench_plan plan_chosen(const struct bench_row *r)
{
    size_t times[BENCH_PLANS] = {0};
    enum bench_plan chosen = BENCH_AUTO;
    for (size_t i = 0; i < r->n_choices; i++) {
        enum bench_plan p = r->choices[i].plan;
        times[p]++;
        if (chosen == BENCH_AUTO || times[p] >= times[chosen])
            chosen = p;
    }
    return chosen;
}

void bench_row_judge(const struct bench_row *r, struct bench_verdict *v)
{
    struct mean regret = {0}, error = {0};
    double predicted[BENCH_RUNS_MAX];
    size_t n = 0;
    *v = (struct bench_verdict){.best = plan_best(r), .chosen = plan_chosen(r)};
    v->best_s = plan_s(r, v->best);
    v->chosen_s = plan_s(r, v->chosen);
    for (size_t i = 0; i < r->n_choices; i++) {
        const struct bench_choice *c = &r->choices[i];
        mean_add(&regret, plan_s(r, c->plan) / v->best_s - 1);
        mean_add(&error, error_of(c));
        if (c->plan == v->chosen && c->predicted_s > 0)
            predicted[n++] = c->predicted_s;
    }
    v->regret = mean_of(&regret);
    v->error = mean_of(&error);
    v->predicted_s = n > 0 ? bench_median(predicted, n) : NAN;
}

// ---- JSON ---------------------------------------------------------------------------------------

static void real_put(json_t *o, const char *member, double v)
{
    json_put(o, member, isfinite(v) ? json_real(v) : json_null());
}

static json_t *plans_json(const struct bench_row *r)
{
    json_t *o = json_object();
    for (size_t p = 0; p < BENCH_PLANS; p++) {
        json_t *plan = json_object();
        real_put(plan, "total_s", plan_s(r, (enum bench_plan)p));
        json_put(plan, "runs", json_integer((json_int_t)r->n[p]));
        json_put(o, bench_plan_name((enum bench_plan)p), plan);
    }
    return o;
}

static json_t *choices_json(const struct bench_choice *choices, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *o = json_object();
        json_put(o, "plan", json_string(bench_plan_name(choices[i].plan)));
        real_put(o, "total_s", choices[i].total_s);
        real_put(o, "predicted_s", choices[i].predicted_s > 0 ? choices[i].predicted_s : NAN);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *row_json(const struct bench_row *r, const struct bench_verdict *v)
{
    static const char *const held[] = {"none", "decode", "prefill"};
    char link[16];
    json_t *o = json_object();
    snprintf(link, sizeof link, r->cell.link_ratio > 0 ? "%g" : "fast", r->cell.link_ratio);
    json_put(o, "engine", json_string(r->cell.real ? "real" : "fake"));
    json_put(o, "prompt", json_integer(r->cell.prompt_tokens));
    json_put(o, "gen", json_integer(r->cell.gen_tokens));
    json_put(o, "link", json_string(link));
    json_put(o, "warm", json_boolean(r->cell.held != BENCH_COLD));
    json_put(o, "held_by", json_string(held[r->cell.held]));
    json_put(o, "cached_tokens", json_integer((json_int_t)r->cached_tokens));
    json_put(o, "chosen", json_string(bench_plan_name(v->chosen)));
    real_put(o, "chosen_s", v->chosen_s);
    json_put(o, "best", json_string(bench_plan_name(v->best)));
    real_put(o, "best_s", v->best_s);
    real_put(o, "predicted_s", v->predicted_s);
    real_put(o, "regret", v->regret);
    real_put(o, "error", v->error);
    json_put(o, "plans", plans_json(r));
    json_put(o, "choices", choices_json(r->choices, r->n_choices));
    return o;
}

static double firsts_error(const struct bench_grid *g)
{
    struct mean m = {0};
    for (size_t i = 0; i < g->n_firsts; i++)
        mean_add(&m, error_of(&g->firsts[i]));
    return mean_of(&m);
}

static void rows_put(json_t *o, const struct bench_grid *g)
{
    struct mean regret = {0}, error = {0};
    json_t *cells = json_array();
    json_int_t hybrid_loses = 0;
    for (size_t i = 0; i < g->n_rows; i++) {
        struct bench_verdict v;
        bench_row_judge(&g->rows[i], &v);
        mean_add(&regret, v.regret);
        for (size_t k = 0; k < g->rows[i].n_choices; k++)
            mean_add(&error, error_of(&g->rows[i].choices[k]));
        hybrid_loses += v.best != BENCH_HYBRID;
        json_array_append_new(cells, row_json(&g->rows[i], &v));
    }
    json_put(o, "n_cells", json_integer((json_int_t)g->n_rows));
    json_put(o, "hybrid_loses", json_integer(hybrid_loses));
    real_put(o, "regret_mean", mean_of(&regret));
    real_put(o, "regret_max", regret.n > 0 ? regret.max : NAN);
    real_put(o, "mape", mean_of(&error));
    real_put(o, "error_max", error.n > 0 ? error.max : NAN);
    real_put(o, "mape_first", firsts_error(g));
    json_put(o, "firsts", choices_json(g->firsts, g->n_firsts));
    json_put(o, "cells", cells);
}

json_t *bench_grid_json(const struct bench_options *o, const struct bench_grid *g)
{
    const char *slash = strrchr(o->model, '/'); // where it lies is nobody's concern
    json_t *r = json_object();
    json_put(r, "grid", json_true());
    json_put(r, "emulated", json_true());
    json_put(r, "pair", json_string(o->emulate));
    json_put(r, "model", json_string(slash != NULL ? slash + 1 : o->model));
    json_put(r, "runs", json_integer(o->runs));
    real_put(r, "time_scale", g->time_scale > 0 ? g->time_scale : NAN);
    json_put(r, "overruns", json_integer((json_int_t)g->overruns));
    json_put(r, "unmeasured", json_integer((json_int_t)g->unmeasured));
    json_put(r, "strays", json_integer((json_int_t)g->strays));
    real_put(r, "seconds", g->seconds);
    rows_put(r, g);
    json_put(r, "version", json_string("tandem " TANDEM_VERSION));
    json_put(r, "unix_time", json_integer(clock_unix_s()));
    return r;
}
