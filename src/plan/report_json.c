// The documents of comparisons, curves and advice.
#include "plan/report.h"

#include "base/json.h"
#include "plan/model.h"
#include "plan/predict.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define POINTS_MAX 32

json_t *plan_report_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *range_json(struct plan_range r)
{
    json_t *o = json_object();
    json_put(o, "low", plan_report_number(r.low));
    json_put(o, "high", plan_report_number(r.high));
    return o;
}

json_t *plan_report_figure(double value, struct plan_range range)
{
    json_t *o = range_json(range);
    json_put(o, "value", plan_report_number(value));
    return o;
}

// ---- comparisons ---------------------------------------------------------------------------------------

static json_t *solo_json(const struct plan_solo *s)
{
    json_t *o = json_object();
    json_put(o, "name", json_string(s->name));
    json_put(o, "fits", json_boolean(s->fits));
    if (!s->fits) {
        char text[320];
        plan_too_large(s->name, s->need_bytes, s->have_bytes, text, sizeof text);
        json_put(o, "error", json_string(text));
    }
    json_put(o, "prefill_s", s->fits ? json_real(s->prefill_s) : json_null());
    json_put(o, "decode_s", s->fits ? json_real(s->decode_s) : json_null());
    json_put(o, "total_s", s->fits ? json_real(s->total_s) : json_null());
    json_put(o, "total_range_s", s->fits ? range_json(s->total) : json_null());
    json_put_text(o, "source", s->source);
    return o;
}

static json_t *both_json(const struct plan_comparison *r, const struct plan_both *b)
{
    if (!r->possible)
        return json_null();
    json_t *o = json_object();
    json_put(o, "reads", json_string(r->solo[r->reader].name));
    json_put(o, "writes", json_string(r->solo[r->writer].name));
    json_put(o, "prefill_s", json_real(b->prefill_s));
    json_put(o, "transfer_s", json_real(b->transfer_s));
    json_put(o, "tail_s", json_real(b->tail_s));
    json_put(o, "decode_s", json_real(b->decode_s));
    json_put(o, "total_s", json_real(b->total_s));
    json_put(o, "total_range_s", range_json(b->total));
    return o;
}

static json_t *speedup_json(const struct plan_comparison *r)
{
    json_t *o = json_object(), *over = json_object();
    for (size_t i = 0; i < 2; i++)
        json_put(over, r->solo[i].name,
                 r->possible ? json_real(r->solo[i].total_s / r->hybrid.total_s) : json_null());
    json_put(o, "over", over);
    json_put(o, "over_best", r->possible ? json_real(r->gain) : json_null());
    json_put(o, "over_best_range", r->possible ? range_json(r->gain_range) : json_null());
    json_put(o, "serial_over_best",
             r->possible ? json_real(r->best_solo_s / r->serial.total_s) : json_null());
    return o;
}

json_t *plan_report_comparison(const struct plan_comparison *r)
{
    json_t *o = json_object(), *solo = json_array(), *even = json_object();
    json_put(o, "engine", json_string(r->published ? "published" : "llama.cpp"));
    for (size_t i = 0; i < 2; i++)
        json_array_append_new(solo, solo_json(&r->solo[i]));
    json_put(o, "solo", solo);
    json_put(o, "hybrid", both_json(r, &r->hybrid));
    json_put(o, "serial", both_json(r, &r->serial));
    json_put(o, "speedup", speedup_json(r));
    json_put(even, "prompt_tokens", plan_report_number(ceil(r->even_prompt)));
    json_put(even, "gen_tokens", plan_report_number(ceil(r->even_gen)));
    json_put(even, "link_gbps", plan_report_number(r->even_gbps));
    json_put(even, "gen_tokens_to_gain_a_tenth", plan_report_number(floor(r->fade_gen)));
    json_put(even, "warm_share_to_gain_a_tenth", plan_report_number(r->fade_warm));
    json_put(o, "breakeven", even);
    json_put(o, "kv_bytes", json_real(r->kv_bytes));
    json_put(o, "link_bytes_per_s", json_real(r->link_bytes_per_s));
    return o;
}

// ---- curves --------------------------------------------------------------------------------------------

static json_t *points_json(const struct plan_points *p)
{
    json_t *list = json_array();
    for (size_t i = 0; i < p->n; i++) {
        const struct plan_point *at = &p->at[i];
        json_t *o = json_object();
        if (!isfinite(at->gain)) {
            json_decref(o);
            continue;
        }
        json_put(o, "x", json_real(at->x));
        json_put(o, "over_reader", plan_report_number(at->over_reader));
        json_put(o, "over_writer", plan_report_number(at->over_writer));
        json_put(o, "gain", json_real(at->gain));
        json_put(o, "low", plan_report_number(at->range.low));
        json_put(o, "high", plan_report_number(at->range.high));
        json_array_append_new(list, o);
    }
    return list;
}

static const struct curve {
    const char *name;
    double low, high;
    size_t points;
    enum plan_axis axis;
    bool even_steps; // else even factors, so that every other one is a power of two
} curves[] = {
    {"answer", 8, 8192, 21, PLAN_AXIS_GEN, false},
    {"link", 0.5, 128, 17, PLAN_AXIS_GBPS, false},
    {"warm", 0, 0.96, 17, PLAN_AXIS_WARM, true},
    {"prompt", 64, 65536, 21, PLAN_AXIS_PROMPT, false},
};

int plan_report_curves(const struct plan_catalogue *c, const struct plan_report_pair *p,
                       json_t *document, struct err *e)
{
    json_t *o = json_object();
    int rc = 0;
    for (size_t k = 0; rc == 0 && k < sizeof curves / sizeof *curves; k++) {
        struct plan_point at[POINTS_MAX];
        struct plan_points points = {curves[k].axis, curves[k].points, at};
        for (size_t i = 0; i < points.n; i++) {
            double t = (double)i / (double)(points.n - 1), low = curves[k].low,
                   high = curves[k].high;
            at[i].x = curves[k].even_steps ? low + t * (high - low) : low * pow(high / low, t);
            if (high > 256 || i % 2 == 0) // whole tokens, whole powers of two
                at[i].x = curves[k].even_steps ? at[i].x : round(at[i].x * 2) / 2;
        }
        rc = plan_curve(c, &p->pair, p->found, &points, e);
        if (rc == 0)
            json_put(o, curves[k].name, points_json(&points));
    }
    const struct plan_comparison *r = p->found;
    json_put(o, "reads", json_string(r->solo[r->reader].name));
    json_put(o, "writes", json_string(r->solo[r->writer].name));
    json_put(o, "engine", json_string(r->published ? "published" : "llama.cpp"));
    json_put(document, "curves", o);
    return rc;
}

static json_t *pair_question_json(const struct plan_pair *p, const struct plan_model *m)
{
    json_t *o = json_object(), *names = json_array();
    for (size_t i = 0; i < 2; i++)
        json_array_append_new(names, json_string(p->machines[i]));
    json_put(o, "machines", names);
    json_put(o, "link", json_string(p->link));
    json_put(o, "model", json_string(m->name));
    json_put(o, "quant", json_string(m->quant));
    json_put(o, "prompt_tokens", json_real(p->prompt));
    json_put(o, "gen_tokens", json_real(p->gen));
    json_put(o, "warm_share", json_real(p->warm));
    return o;
}

static int pair_put(const struct plan_catalogue *c, const struct plan_report_pair *p,
                    json_t *document, struct err *e)
{
    struct plan_model m;
    int rc = plan_model_get(c, p->pair.model, p->pair.quant, 0, &m, e);
    if (rc != 0)
        return rc;
    json_t *o = plan_report_comparison(p->found);
    json_put(o, "asked", pair_question_json(&p->pair, &m));
    if (p->other != NULL)
        json_put(o, "other_engine", plan_report_comparison(p->other));
    json_put(document, "pair", o);
    return p->found->possible ? plan_report_curves(c, p, document, e) : 0;
}

static json_t *document_new(const char *kind)
{
    json_t *o = json_object();
    json_put(o, "kind", json_string(kind));
    json_put(o, "version", json_integer(PLAN_REPORT_VERSION));
    return o;
}

int plan_report_pair(const struct plan_catalogue *c, const struct plan_report_pair *p, json_t **out,
                     struct err *e)
{
    *out = document_new("comparison");
    return pair_put(c, p, *out, e);
}

// ---- advice --------------------------------------------------------------------------------------------

static json_t *words_json(const struct plan_words *w)
{
    json_t *list = json_array();
    for (size_t i = 0; i < w->n; i++)
        json_array_append_new(list, json_string(w->lines[i]));
    return list;
}

static json_t *names_json(const struct plan_option *o, const char *const names[2])
{
    json_t *list = json_array();
    for (size_t i = 0; i < o->n; i++)
        json_array_append_new(list, json_string(names[i]));
    return list;
}

static void times_put(json_t *o, const struct plan_option *p)
{
    json_put(o, "prefill_s", json_real(p->prefill_s));
    json_put(o, "tail_s", json_real(p->tail_s));
    json_put(o, "decode_s", json_real(p->decode_s));
    json_put(o, "total_s", plan_report_figure(p->total_s, p->total));
    json_put(o, "ttft_s", plan_report_figure(p->ttft_s, p->ttft));
    json_put(o, "tokens_per_s", plan_report_figure(p->tokens_per_s, p->tokens));
    json_put(o, "answers_at_once", json_real(p->batch));
    json_put(o, "busy", json_real(p->busy));
    json_put(o, "work_s_per_hour", json_real(p->work_s));
    json_put(o, "train_tokens_per_s",
             p->train.fits ? plan_report_figure(p->train.value, p->train.range) : json_null());
    json_put(o, "image_s", plan_report_figure(p->image.value, p->image.range));
}

// What it needs, what there is, and what else would fit into the larger of a pair.
static void memory_put(json_t *o, const struct plan_catalogue *c, const struct plan_question *q,
                       const struct plan_option *p)
{
    size_t larger = p->n == 2 && p->solo[1].have_bytes > p->solo[0].have_bytes;
    const char *largest = plan_largest_model(c, p->names[larger], q->work.prompt + q->work.gen);
    json_put(o, "memory_gib", json_real(p->memory_gb));
    json_put(o, "memory_needed_gb", json_real(p->solo[larger].need_bytes / 1e9));
    json_put(o, "largest_model_at_q4_k_m", largest != NULL ? json_string(largest) : json_null());
}

static json_t *option_json(const struct plan_catalogue *c, const struct plan_question *q,
                           const struct plan_advice *a, size_t i)
{
    const struct plan_option *p = &a->options[i];
    struct plan_words why;
    json_t *o = json_object();
    char name[2 * PLAN_NAME_BYTES + 8];
    plan_option_name(p, name, sizeof name);
    plan_option_why(q, a, i, &why);
    json_put(o, "rank", json_integer((json_int_t)i + 1));
    json_put(o, "name", json_string(name));
    json_put(o, "machines", names_json(p, p->names));
    json_put(o, "titles", names_json(p, p->titles));
    json_put(o, "link", p->link != NULL ? json_string(p->link) : json_null());
    json_put(o, "reads", json_string(p->names[p->n == 2 ? p->two.reader : 0]));
    json_put(o, "writes", json_string(p->names[p->n == 2 ? p->two.writer : 0]));
    json_put(o, "price_usd", json_real(p->price_usd));
    json_put(o, "price_date", p->price_date != NULL ? json_string(p->price_date) : json_null());
    json_put(o, "usd_per_year", json_real(p->usd_per_year));
    json_put(o, "kwh_per_year", json_real(p->kwh_per_year));
    json_put(o, "joules_per_answer", p->joules > 0 ? json_real(p->joules) : json_null());
    json_put(o, "load_w", json_real(p->load_w));
    memory_put(o, c, q, p);
    json_put(o, "noise", json_string(plan_noise_names[p->noise]));
    json_put(o, "shares_answers", json_boolean(p->n == 2 && p->shares));
    json_put(o, "gain_over_better_alone", p->n == 2 ? plan_report_number(p->gain) : json_null());
    json_put(o, "frontier", json_boolean(p->frontier));
    times_put(o, p);
    json_put(o, "why", words_json(&why));
    return o;
}

static json_t *question_json(const struct plan_question *q)
{
    const struct plan_workload *w = &q->work;
    json_t *o = json_object();
    json_put(o, "model", json_string(w->model));
    json_put(o, "quant", w->quant != NULL ? json_string(w->quant) : json_null());
    json_put(o, "prompt_tokens", json_real(w->prompt));
    json_put(o, "gen_tokens", json_real(w->gen));
    json_put(o, "warm_share", json_real(w->warm));
    json_put(o, "requests_per_hour", json_real(w->requests_per_hour));
    json_put(o, "train_share", json_real(w->train_share));
    json_put(o, "train_model", json_string(w->train_model));
    json_put(o, "images_per_hour", json_real(w->images_per_hour));
    json_put(o, "hours_per_day", json_real(w->hours_per_day));
    json_put(o, "budget_usd",
             q->limits.budget_usd > 0 ? json_real(q->limits.budget_usd) : json_null());
    json_put(o, "usd_per_kwh", json_real(q->usd_per_kwh));
    json_put(o, "years", json_real(q->years));
    json_put(o, "at_home", json_boolean(!q->limits.cloud));
    return o;
}

// Single machines only: pairs are too many, and their reasons are those of their halves.
static json_t *left_out_json(const struct plan_question *q, const struct plan_advice *a)
{
    json_t *list = json_array();
    for (size_t i = a->n_good; i < a->n; i++) {
        const struct plan_option *p = &a->options[i];
        struct plan_words why;
        if (p->n == 2 && q->only[0] == NULL)
            continue;
        char name[2 * PLAN_NAME_BYTES + 8];
        json_t *o = json_object();
        plan_option_left_out(q, p, &why);
        plan_option_name(p, name, sizeof name);
        json_put(o, "name", json_string(name));
        json_put(o, "why", json_string(why.n > 0 ? why.lines[0] : ""));
        json_array_append_new(list, o);
    }
    return list;
}

// Every option as a point: what it costs and how fast it is.
static json_t *points_of_options(const struct plan_advice *a)
{
    json_t *list = json_array();
    for (size_t i = 0; i < a->n_good; i++) {
        const struct plan_option *p = &a->options[i];
        char name[2 * PLAN_NAME_BYTES + 8];
        json_t *o = json_object();
        plan_option_name(p, name, sizeof name);
        json_put(o, "rank", json_integer((json_int_t)i + 1));
        json_put(o, "name", json_string(name));
        json_put(o, "pair", json_boolean(p->n == 2));
        json_put(o, "usd_per_year", json_real(p->usd_per_year));
        json_put(o, "price_usd", json_real(p->price_usd));
        json_put(o, "answer_s", json_real(p->total_s));
        json_put(o, "work_s_per_hour", json_real(p->work_s));
        json_put(o, "frontier", json_boolean(p->frontier));
        json_array_append_new(list, o);
    }
    return list;
}

// Where the figures of the machines that are shown come from.
static json_t *sources_json(const struct plan_catalogue *c, const json_t *options)
{
    json_t *sources = json_object();
    size_t i, k;
    const json_t *o, *name;
    json_array_foreach(options, i, o)
    {
        json_array_foreach(json_object_get(o, "machines"), k, name)
        {
            const char *id = json_string_value(name);
            const json_t *m = plan_catalogue_find(c, PLAN_MACHINE, id, NULL);
            json_t *list = json_object_get(m, "sources");
            if (list != NULL)
                json_object_set(sources, id, list);
        }
    }
    return sources;
}

// The pair that is worth looking at: the best, or the one that is nearest to gaining something.
static const struct plan_option *pair_choose(const struct plan_advice *a)
{
    const unsigned harmless = PLAN_FAIL_GAIN | PLAN_FAIL_BUDGET | PLAN_FAIL_KEEPS_UP;
    const struct plan_option *any = NULL;
    if (a->pair < a->n && a->options[a->pair].shares)
        return &a->options[a->pair];
    for (size_t i = 0; i < a->n; i++) {
        const struct plan_option *o = &a->options[i];
        if (o->n == 2 && o->two.possible && (o->fails & ~harmless) == 0 &&
            (any == NULL || o->two.gain > any->two.gain))
            any = o;
    }
    return any;
}

static int advice_pair_put(const struct plan_catalogue *c, const struct plan_question *q,
                           const struct plan_advice *a, json_t *document, struct err *e)
{
    const struct plan_option *o = pair_choose(a);
    struct plan_comparison two, other;
    struct plan_words words;
    if (o == NULL)
        return 0;
    struct plan_report_pair p = {.pair = {.machines = {o->names[0], o->names[1]},
                                          .link = o->link,
                                          .model = q->work.model,
                                          .quant = q->work.quant,
                                          .prompt = q->work.prompt,
                                          .gen = q->work.gen,
                                          .warm = q->work.warm,
                                          .batch = o->batch,
                                          .rates = q->rates},
                                 .found = &two};
    int rc = plan_compare(c, &p.pair, &two, e);
    if (rc == 0 && plan_published(c, &p.pair)) {
        struct plan_pair too = p.pair;
        too.rates = two.published ? PLAN_RATES_LLAMA : PLAN_RATES_PUBLISHED;
        rc = plan_compare(c, &too, &other, e);
        p.other = &other;
    }
    if (rc == 0)
        rc = pair_put(c, &p, document, e);
    if (rc != 0)
        return rc;
    json_t *pair = json_object_get(document, "pair");
    json_put(pair, "worth_it", json_boolean(plan_pair_worth(q, a, o, &two, &words)));
    json_put(pair, "why", words_json(&words));
    json_put(pair, "price_usd", json_real(o->price_usd));
    return 0;
}

int plan_report_advice(const struct plan_catalogue *c, const struct plan_question *q,
                       const struct plan_advice *a, size_t show, json_t **out, struct err *e)
{
    struct plan_words words;
    struct plan_model m;
    json_t *o = document_new("advice"), *list = json_array();
    *out = o;
    int rc = plan_model_get(c, q->work.model, q->work.quant, 0, &m, e);
    if (rc != 0)
        return rc;
    json_put(o, "engine",
             json_string(q->rates == PLAN_RATES_PUBLISHED ? "published" : "llama.cpp"));
    json_put(o, "question", question_json(q));
    json_put(json_object_get(o, "question"), "model", json_string(m.name));
    json_put(json_object_get(o, "question"), "quant", json_string(m.quant));
    for (size_t i = 0; i < a->n_good && (show == 0 || i < show); i++)
        json_array_append_new(list, option_json(c, q, a, i));
    plan_advice_words(q, a, &words);
    json_put(o, "advice", words_json(&words));
    json_put(o, "options", list);
    json_put(o, "options_found", json_integer((json_int_t)a->n_good));
    json_put(o, "points", points_of_options(a));
    json_put(o, "sources", sources_json(c, list));
    json_put(o, "left_out", left_out_json(q, a));
    return advice_pair_put(c, q, a, o, e);
}

// ---- over time -----------------------------------------------------------------------------------------

void plan_report_timeline(json_t *document, const char *title,
                          const struct plan_report_series *series, size_t n)
{
    json_t *o = json_object(), *list = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *s = json_object(), *values = json_array();
        json_put(s, "name", json_string(series[i].name));
        json_put(s, "unit", json_string(series[i].unit));
        json_put(s, "step_s", json_real(series[i].step_s));
        for (size_t k = 0; k < series[i].n; k++)
            json_array_append_new(values, plan_report_number(series[i].values[k]));
        json_put(s, "values", values);
        json_array_append_new(list, s);
    }
    json_put(o, "title", json_string(title));
    json_put(o, "series", list);
    json_put(document, "timeline", o);
}
