// What `tandem plan simulate` says: one JSON object, or a table with small charts.
#include "cli/plan_simulate.h"

#include "base/buf.h"
#include "base/json.h"
#include "cli/plan.h"
#include "cli/term.h"
#include "plan/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BAR_CELLS 24
#define CHART_CELLS 60
#define SHARE_SHOWN 0.001 // of a kind's time

// ---- JSON ----------------------------------------------------------------------------------------------

static json_t *quantiles_json(const struct sim_quantiles *q)
{
    json_t *o = json_object();
    const struct {
        const char *name;
        double value;
    } all[] = {{"mean", q->mean}, {"p50", q->p50}, {"p90", q->p90},
               {"p95", q->p95},   {"p99", q->p99}, {"max", q->most}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        json_put(o, all[i].name, q->n > 0 ? json_real(all[i].value) : json_null());
    return o;
}

static json_t *count_json(uint64_t n)
{
    return json_integer((json_int_t)n);
}

static json_t *plans_json(const struct sim_result *r)
{
    json_t *o = json_object();
    json_put(o, "single", count_json(r->plans[PLACE_LOCAL] + r->plans[PLACE_REMOTE]));
    json_put(o, "serial", count_json(r->plans[PLACE_SERIAL]));
    json_put(o, "hybrid", count_json(r->plans[PLACE_HYBRID]));
    json_put(o, "split", count_json(r->split));
    json_put(o, "planned_again", count_json(r->replanned));
    return o;
}

static json_t *kinds_json(const struct sim_result *r)
{
    json_t *out = json_array();
    for (size_t i = 0; i < r->n_kinds; i++) {
        const struct sim_kind_result *k = &r->kinds[i];
        json_t *o = json_object();
        json_put(o, "name", json_string(k->name));
        json_put(o, "nodes", json_integer(k->nodes));
        json_put(o, "reading", json_real(k->read_share));
        json_put(o, "writing", json_real(k->write_share));
        json_put(o, "busy", json_real(k->busy_share));
        json_put(o, "answers", json_real(k->answers));
        json_put(o, "read_tokens", json_real(k->read_tokens));
        json_put(o, "written_tokens", json_real(k->written_tokens));
        json_put(o, "joules", plan_number(k->joules));
        json_put(o, "dollars", plan_number(k->dollars));
        json_array_append_new(out, o);
    }
    return out;
}

static json_t *slo_json(const struct simulate_run *run)
{
    const struct sim_result *r = run->result;
    json_t *o = json_object();
    json_put(o, "ttft_s", json_real(run->options->ttft_s));
    json_put(o, "tpot_s", json_real(run->options->tpot_s));
    json_put(o, "good", count_json(r->good));
    json_put(o, "good_share", json_real((double)r->good / fmax((double)r->arrived, 1)));
    json_put(o, "goodput_per_s", json_real(r->good_per_s));
    return o;
}

static double busy_of(const struct simulate_run *run)
{
    double busy = 0;
    for (size_t k = 0; k < run->result->n_kinds; k++)
        busy += run->result->kinds[k].busy_share * run->result->kinds[k].nodes / run->fleet->n;
    return busy;
}

static void money_put(json_t *o, const struct sim_result *r)
{
    double answers = fmax((double)r->completed, 1), tokens = fmax(r->answer_tokens, 1);
    json_put(o, "joules", plan_number(r->joules));
    json_put(o, "joules_per_answer", plan_number(r->joules / answers));
    json_put(o, "dollars", plan_number(r->dollars));
    json_put(o, "dollars_per_million_tokens", plan_number(r->dollars / tokens * 1e6));
}

static void load_put(json_t *o, const struct simulate_run *run)
{
    const struct sim_result *r = run->result;
    bool traced = run->load->trace != NULL;
    double rate = traced ? (double)r->arrived / fmax(r->arrivals_s, 1e-9) : r->rate;
    json_put(o, "load", json_string(traced ? "trace" : "synthetic"));
    json_put(o, "seed", count_json(run->load->seed));
    json_put(o, "rate_per_s", json_real(rate));
    json_put(o, "capacity_per_s", r->capacity > 0 ? json_real(r->capacity) : json_null());
    json_put(o, "utilisation", r->capacity > 0 ? json_real(rate / r->capacity) : json_null());
}

json_t *simulate_json(const struct simulate_run *run)
{
    const struct sim_result *r = run->result;
    json_t *o = json_object(), *queue = json_object();
    char digest[17];
    snprintf(digest, sizeof digest, "%016llx", (unsigned long long)r->digest);
    json_put(o, "model", json_string(run->fleet->model));
    json_put(o, "quant", json_string(run->fleet->quant));
    json_put(o, "policy", json_string(place_policy_name(run->options->policy)));
    json_put(o, "nodes", json_integer(run->fleet->n));
    load_put(o, run);
    json_put(o, "arrived", count_json(r->arrived));
    json_put(o, "completed", count_json(r->completed));
    json_put(o, "refused", count_json(r->refused));
    json_put(o, "refusal", r->refusal[0] != '\0' ? json_string(r->refusal) : json_null());
    json_put(o, "seconds", json_real(r->end_s));
    json_put(o, "ttft_s", quantiles_json(&r->ttft));
    json_put(o, "tpot_s", quantiles_json(&r->tpot));
    json_put(o, "total_s", quantiles_json(&r->total));
    json_put(o, "tail_s", quantiles_json(&r->tail));
    json_put(o, "slo", slo_json(run));
    json_put(o, "busy", json_real(busy_of(run)));
    json_put(o, "prompt_tokens", json_real(r->prompt_tokens));
    json_put(o, "held_tokens", json_real(r->held_tokens));
    json_put(o, "held_share", json_real(r->held_tokens / fmax(r->prompt_tokens, 1)));
    json_put(o, "answer_tokens", json_real(r->answer_tokens));
    json_put(o, "answer_tokens_per_s", json_real(r->answer_tokens_per_s));
    json_put(queue, "mean", json_real(r->waiting_mean));
    json_put(queue, "max", count_json(r->waiting_most));
    json_put(o, "queue", queue);
    json_put(o, "in_system_mean", json_real(r->in_system_mean));
    json_put(o, "plans", plans_json(r));
    json_put(o, "kinds", kinds_json(r));
    money_put(o, r);
    json_put(o, "digest", json_string(digest));
    return o;
}

// ---- the timeline --------------------------------------------------------------------------------------

enum series { SERIES_READ, SERIES_WRITE, SERIES_WAITING };

// Shares of a kind's nodes, or requests that wait; the last bucket may be shorter than the others.
static double bucket_value(const struct simulate_run *run, enum series s, size_t kind, size_t i)
{
    const struct sim_result *r = run->result;
    const struct sim_bucket *b = &r->buckets[i];
    double width = fmin(r->bucket_s, r->end_s - (double)i * r->bucket_s);
    double nodes = r->kinds[kind].nodes;
    if (!(width > 0) || nodes <= 0)
        return 0;
    if (s == SERIES_WAITING)
        return b->waiting_s / width;
    return fmin((double)(s == SERIES_READ ? b->read[kind] : b->write[kind]) / (width * nodes), 1);
}

static json_t *series_json(const struct simulate_run *run, enum series s, size_t kind)
{
    json_t *out = json_array();
    for (size_t i = 0; i < run->result->n_buckets; i++)
        json_array_append_new(out, json_real(bucket_value(run, s, kind, i)));
    return out;
}

void simulate_timeline_json(const struct simulate_run *run, json_t *to)
{
    json_t *o = json_object(), *kinds = json_array();
    for (size_t k = 0; k < run->result->n_kinds; k++) {
        json_t *kind = json_object();
        json_put(kind, "name", json_string(run->result->kinds[k].name));
        json_put(kind, "reading", series_json(run, SERIES_READ, k));
        json_put(kind, "writing", series_json(run, SERIES_WRITE, k));
        json_array_append_new(kinds, kind);
    }
    json_put(o, "bucket_s", json_real(run->result->bucket_s));
    json_put(o, "waiting", series_json(run, SERIES_WAITING, 0));
    json_put(o, "kinds", kinds);
    json_put(to, "timeline", o);
}

// One series of the page with its values; a kind that hardly does a thing has none.
struct page_series {
    char name[2 * PLAN_NAME_BYTES];
    double values[SIM_BUCKETS];
};

static void page_add(const struct simulate_run *run, enum series s, size_t kind,
                     struct page_series *at, struct plan_report_series *out)
{
    static const char *const does[] = {"reads", "writes"};
    for (size_t i = 0; i < run->result->n_buckets; i++)
        at->values[i] = bucket_value(run, s, kind, i);
    if (s == SERIES_WAITING)
        snprintf(at->name, sizeof at->name, "requests that wait");
    else
        snprintf(at->name, sizeof at->name, "%s %s", run->result->kinds[kind].name, does[s]);
    *out = (struct plan_report_series){.name = at->name,
                                       .unit = s == SERIES_WAITING ? "requests" : "share",
                                       .values = at->values,
                                       .n = run->result->n_buckets,
                                       .step_s = run->result->bucket_s};
}

json_t *simulate_document(const struct simulate_run *run)
{
    const struct sim_result *r = run->result;
    size_t n = 0, most = 2 * r->n_kinds + 1;
    struct page_series *pages = mem_alloc(most * sizeof *pages);
    struct plan_report_series *series = mem_alloc(most * sizeof *series);
    json_t *document = simulate_json(run);
    char title[512], chart[512];
    for (size_t k = 0; k < r->n_kinds; k++)
        for (enum series s = SERIES_READ; s <= SERIES_WRITE; s++)
            if ((s == SERIES_READ ? r->kinds[k].read_share : r->kinds[k].write_share) >=
                SHARE_SHOWN) {
                page_add(run, s, k, &pages[n], &series[n]);
                n++;
            }
    page_add(run, SERIES_WAITING, 0, &pages[n], &series[n]);
    snprintf(title, sizeof title, "%.100s %.40s: %.4g requests per second on %u machines",
             run->fleet->model, run->fleet->quant, (double)r->arrived / fmax(r->arrivals_s, 1e-9),
             run->fleet->n);
    snprintf(chart, sizeof chart,
             "Simulated: half of the first tokens come within %.3g s, 95 %% within %.3g s; %.1f %% "
             "of the answers are good. What the machines do over time:",
             r->ttft.p50, r->ttft.p95, 100 * (double)r->good / fmax((double)r->arrived, 1));
    json_put(document, "kind", json_string("simulation"));
    json_put(document, "title", json_string(title));
    plan_report_timeline(document, chart, series, n + 1);
    free(series);
    free(pages);
    return document;
}

// ---- text ------------------------------------------------------------------------------------------------

static void quantiles_print(const char *what, const struct sim_quantiles *q, double scale,
                            const char *unit)
{
    if (q->n == 0)
        return;
    printf("  %-22s %9.3g %9.3g %9.3g %9.3g %9.3g %9.3g  %s\n", what, scale * q->mean,
           scale * q->p50, scale * q->p90, scale * q->p95, scale * q->p99, scale * q->most, unit);
}

static void number_print(const char *what, double x, const char *unit)
{
    if (isfinite(x))
        printf("%s %.4g %s", what, x, unit);
    else
        printf("%s unknown (a machine's price or power is)", what);
}

static void kinds_print(const struct sim_result *r)
{
    printf("\n  %-26s %6s %8s %8s %8s  busy\n", "", "nodes", "reading", "writing", "answers");
    for (size_t i = 0; i < r->n_kinds; i++) {
        const struct sim_kind_result *k = &r->kinds[i];
        printf("  %-26.26s %6u %7.1f%% %7.1f%% %8.2f  ", k->name, k->nodes, 100 * k->read_share,
               100 * k->write_share, k->answers);
        plan_bar(stdout, k->busy_share, BAR_CELLS);
        printf("|\n");
    }
}

static void cell_put(double share)
{
    static const char *const blocks[] = {" ",      "\u2581", "\u2582", "\u2583", "\u2584",
                                         "\u2585", "\u2586", "\u2587", "\u2588"};
    static const char ascii[] = " .:-=+*#@";
    int level = (int)lround(8 * fmin(fmax(share, 0), 1));
    if (term_utf8())
        fputs(blocks[level], stdout);
    else
        putchar(ascii[level]);
}

// A line of cells, each the mean of what falls into it.
static void chart_print(const struct simulate_run *run, const char *name, enum series s,
                        size_t kind)
{
    const struct sim_result *r = run->result;
    size_t cells = r->n_buckets < CHART_CELLS ? r->n_buckets : CHART_CELLS;
    double values[CHART_CELLS] = {0}, most = s == SERIES_WAITING ? 1e-9 : 1;
    for (size_t c = 0; c < cells; c++) {
        size_t from = c * r->n_buckets / cells, to = (c + 1) * r->n_buckets / cells;
        for (size_t i = from; i < to; i++)
            values[c] += bucket_value(run, s, kind, i) / (double)(to - from);
        most = fmax(most, values[c]);
    }
    printf("  %-30.30s |", name);
    for (size_t c = 0; c < cells; c++)
        cell_put(values[c] / most);
    if (s == SERIES_WAITING)
        printf("| up to %.3g\n", most > 1e-6 ? most : 0);
    else
        printf("|\n");
}

static void timeline_print(const struct simulate_run *run)
{
    const struct sim_result *r = run->result;
    char name[2 * PLAN_NAME_BYTES];
    if (r->n_buckets < 2)
        return;
    printf("\n  over %.4g s:\n", r->end_s);
    for (size_t k = 0; k < r->n_kinds; k++) {
        for (int write = 0; write < 2; write++) {
            double share = write ? r->kinds[k].write_share : r->kinds[k].read_share;
            snprintf(name, sizeof name, "%.20s %s", r->kinds[k].name, write ? "writes" : "reads");
            if (share >= SHARE_SHOWN)
                chart_print(run, name, write ? SERIES_WRITE : SERIES_READ, k);
        }
    }
    chart_print(run, "requests that wait", SERIES_WAITING, 0);
}

static void head_print(const struct simulate_run *run)
{
    const struct sim_result *r = run->result;
    printf("%s %s on %u nodes, policy %s\n", run->fleet->model, run->fleet->quant, run->fleet->n,
           place_policy_name(run->options->policy));
    if (run->load->trace != NULL)
        printf("trace: %.4g requests per second\n", (double)r->arrived / fmax(r->arrivals_s, 1e-9));
    else if (r->capacity > 0)
        printf("%.4g requests per second, %.0f %% of the %.4g that the fleet can take; seed %llu\n",
               r->rate, 100 * r->rate / r->capacity, r->capacity,
               (unsigned long long)run->load->seed);
    else
        printf("%.4g requests per second; seed %llu\n", r->rate,
               (unsigned long long)run->load->seed);
    printf("%llu arrived, %llu completed, %llu refused\n", (unsigned long long)r->arrived,
           (unsigned long long)r->completed, (unsigned long long)r->refused);
    if (r->refused > 0)
        printf("refused: %s\n", r->refusal);
}

void simulate_print(const struct simulate_run *run)
{
    const struct sim_result *r = run->result;
    head_print(run);
    if (r->completed == 0)
        return;
    printf("\n  %-22s %9s %9s %9s %9s %9s %9s\n", "", "mean", "p50", "p90", "p95", "p99", "most");
    quantiles_print("first token (TTFT)", &r->ttft, 1, "s");
    quantiles_print("each other (TPOT)", &r->tpot, 1e3, "ms");
    quantiles_print("whole answer", &r->total, 1, "s");
    quantiles_print("tail of a hand-off", &r->tail, 1e3, "ms");
    printf("\n  %.1f %% good (first token within %.3g s, then one every %.3g ms): %.4g a second\n",
           100 * (double)r->good / (double)r->arrived, run->options->ttft_s,
           1e3 * run->options->tpot_s, r->good_per_s);
    printf("  plans: %llu on one node, %llu hybrid (%llu of them split), %llu serial, %llu again\n",
           (unsigned long long)(r->plans[PLACE_LOCAL] + r->plans[PLACE_REMOTE]),
           (unsigned long long)r->plans[PLACE_HYBRID], (unsigned long long)r->split,
           (unsigned long long)r->plans[PLACE_SERIAL], (unsigned long long)r->replanned);
    printf("  %.1f %% of prompt tokens were held; %.4g answer tokens per second\n",
           100 * r->held_tokens / fmax(r->prompt_tokens, 1), r->answer_tokens_per_s);
    printf("  %.3g requests wait on average, %llu at most; %.4g are in the system\n",
           r->waiting_mean, (unsigned long long)r->waiting_most, r->in_system_mean);
    number_print(" ", r->joules / (double)r->completed, "J per answer,");
    number_print("", r->dollars / fmax(r->answer_tokens, 1) * 1e6,
                 "dollars per million answer tokens\n");
    kinds_print(r);
    timeline_print(run);
}

// ---- teams -------------------------------------------------------------------------------------------------

json_t *simulate_found_json(const struct sim_found *f)
{
    json_t *o = json_object(), *machines = json_array();
    bool any = f->counts[0] > 0;
    for (size_t i = 0; i < SIM_FIND_PARTS && f->machines[i] != NULL; i++) {
        json_t *m = json_object();
        json_put(m, "name", json_string(f->machines[i]));
        json_put(m, "count", any ? json_integer(f->counts[i]) : json_null());
        json_array_append_new(machines, m);
    }
    json_put(o, "machines", machines);
    json_put(o, "serves", json_boolean(any));
    json_put(o, "price_usd", any ? plan_number(f->price_usd) : json_null());
    json_put(o, "dollars_per_year", any ? plan_number(f->dollars_per_year) : json_null());
    json_put(o, "good_share", any ? json_real(f->good_share) : json_null());
    json_put(o, "ttft_p95_s", any ? json_real(f->ttft_p95_s) : json_null());
    json_put(o, "tpot_p95_s", any ? json_real(f->tpot_p95_s) : json_null());
    json_put(o, "busy", any ? json_real(f->busy) : json_null());
    json_put(o, "why", json_string(f->why));
    return o;
}

static void found_name(const struct sim_found *f, char *out, size_t out_bytes)
{
    if (f->counts[0] == 0)
        snprintf(out, out_bytes, "%.24s%s%.24s", f->machines[0],
                 f->machines[1] != NULL ? " + " : "", f->machines[1] != NULL ? f->machines[1] : "");
    else if (f->machines[1] == NULL)
        snprintf(out, out_bytes, "%u x %.40s", f->counts[0], f->machines[0]);
    else
        snprintf(out, out_bytes, "%u x %.24s + %u x %.24s", f->counts[0], f->machines[0],
                 f->counts[1], f->machines[1]);
}

void simulate_found_print(const struct sim_find *f, const struct sim_found *found, size_t n)
{
    printf("%s %s at %.3g requests per second; %.0f %% good: first token within %.3g s, then one "
           "every %.3g ms\n",
           f->model, f->quant != NULL ? f->quant : "", f->load->rate, 100 * f->good_share,
           f->options->ttft_s, 1e3 * f->options->tpot_s);
    printf("  %-52s %8s %8s %7s %8s %8s %6s\n", "", "dollars", "a year", "good %", "TTFT p95",
           "TPOT p95", "busy");
    for (size_t i = 0; i < n; i++) {
        const struct sim_found *x = &found[i];
        char name[96], price[24] = "unknown", year[24] = "unknown";
        found_name(x, name, sizeof name);
        if (x->counts[0] == 0) {
            printf("  %-52s %s\n", name, x->why);
            continue;
        }
        if (isfinite(x->price_usd))
            snprintf(price, sizeof price, "%.0f", x->price_usd);
        if (isfinite(x->dollars_per_year))
            snprintf(year, sizeof year, "%.0f", x->dollars_per_year);
        printf("  %-52s %8s %8s %7.1f %7.3gs %6.0fms %5.0f%%\n", name, price, year,
               100 * x->good_share, x->ttft_p95_s, 1e3 * x->tpot_p95_s, 100 * x->busy);
        printf("      %s\n", x->why);
    }
}
