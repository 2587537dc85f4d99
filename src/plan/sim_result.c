// What a run is told as: integrals over time, samples of every answer, and their quantiles.
#include "plan/sim_impl.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BUCKET_S                                                                                   \
    0x1p-6 // of a timeline that has just begun; a power of two, so that divisions are exact
#define HOURS_PER_YEAR 8766.0

void sim_result_fini(struct sim_result *r)
{
    free(r->buckets);
    r->buckets = NULL;
}

// ---- the timeline --------------------------------------------------------------------------------------

// Two buckets become one when the run outgrows them.
static void buckets_halve(struct sim_result *r)
{
    for (size_t i = 0; i < SIM_BUCKETS / 2; i++) {
        struct sim_bucket *to = &r->buckets[i];
        struct sim_bucket a = r->buckets[2 * i], b = r->buckets[2 * i + 1];
        *to = a;
        to->waiting_s += b.waiting_s;
        for (size_t k = 0; k < SIM_KINDS_MAX; k++) {
            to->read[k] += b.read[k];
            to->write[k] += b.write[k];
        }
    }
    memset(r->buckets + SIM_BUCKETS / 2, 0, SIM_BUCKETS / 2 * sizeof *r->buckets);
    r->bucket_s *= 2;
    r->n_buckets = (r->n_buckets + 1) / 2;
}

static struct sim_bucket *bucket_at(struct sim_result *r, double t, double *end)
{
    if (r->buckets == NULL) {
        r->buckets = mem_alloc(SIM_BUCKETS * sizeof *r->buckets);
        r->bucket_s = BUCKET_S;
    }
    while (t >= r->bucket_s * SIM_BUCKETS)
        buckets_halve(r);
    size_t i = (size_t)(t / r->bucket_s);
    if (i + 1 > r->n_buckets)
        r->n_buckets = i + 1;
    *end = (double)(i + 1) * r->bucket_s;
    return &r->buckets[i];
}

static void span_put(struct sim_world *w, size_t kind, double from, double read_part)
{
    double end = 0;
    while (from < w->now) {
        struct sim_bucket *b = bucket_at(w->out, from, &end);
        double to = fmin(end, w->now);
        b->read[kind] += (float)((to - from) * read_part);
        b->write[kind] += (float)((to - from) * (1 - read_part));
        from = end;
    }
}

void sim_account(struct sim_world *w, uint32_t node, double from_s, double read_part)
{
    struct sim_node *n = &w->nodes[node];
    double passed = w->now - from_s;
    n->read_s += passed * read_part;
    n->write_s += passed * (1 - read_part);
    n->answers_s += passed * n->batch.n;
    span_put(w, (size_t)(n->kind - w->fleet->kinds), from_s, read_part);
}

void sim_area(struct sim_world *w)
{
    double from = w->last_area_s, end = 0;
    w->in_system_area += (double)w->in_system * (w->now - from);
    w->waiting_area += (double)w->waiting * (w->now - from);
    while (w->waiting > 0 && from < w->now) {
        struct sim_bucket *b = bucket_at(w->out, from, &end);
        b->waiting_s += (double)w->waiting * (fmin(end, w->now) - from);
        from = end;
    }
    w->last_area_s = w->now;
}

// ---- samples ---------------------------------------------------------------------------------------------

static void digest_add(struct sim_world *w, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint64_t d = (w->out->digest ^ bits) * 0x9e3779b97f4a7c15u;
    w->out->digest = d ^ d >> 32;
}

static void sample_put(struct sim_samples *s, double x)
{
    if (s->n == s->cap) {
        s->cap = s->cap == 0 ? 1024 : 2 * s->cap;
        s->items = mem_resize(s->items, s->cap * sizeof *s->items);
    }
    s->items[s->n++] = (float)x;
    s->sum += x;
}

void sim_tail(struct sim_world *w, double seconds)
{
    sample_put(&w->tail, seconds);
}

void sim_request_done(struct sim_world *w, uint32_t request)
{
    struct sim_request *r = &w->requests[request];
    const struct sim_options *o = w->options;
    sim_area(w);
    double first = fmin(r->first_s, w->now), ttft = first - r->arrival_s;
    double tpot = r->answer > 1 ? (w->now - first) / (r->answer - 1.0) : 0;
    sample_put(&w->ttft, ttft);
    sample_put(&w->total, w->now - r->arrival_s);
    if (r->answer > 1)
        sample_put(&w->tpot, tpot);
    w->out->good += ttft <= o->ttft_s && tpot <= o->tpot_s;
    w->out->answer_tokens += r->answer;
    w->out->completed++;
    w->out->end_s = w->now;
    w->expected_sum += r->answer;
    w->expected_n++;
    w->in_system--;
    digest_add(w, first);
    digest_add(w, w->now);
    if (w->now >= w->options->window_from_s && w->now < w->options->window_to_s)
        w->out->in_window++;
    struct sim_request done = *r;
    sim_request_free(w, request);
    sim_load_finished(w, &done);
}

// ---- at the end ------------------------------------------------------------------------------------------

static int float_compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

// Nearest rank: the least value that is not below so many of them.
static double rank_get(const struct sim_samples *s, double q)
{
    uint64_t rank = (uint64_t)ceil(q * (double)s->n);
    return (double)s->items[rank > 0 ? rank - 1 : 0];
}

static struct sim_quantiles quantiles_of(struct sim_samples *s)
{
    if (s->n == 0)
        return (struct sim_quantiles){0};
    qsort(s->items, s->n, sizeof *s->items, float_compare);
    return (struct sim_quantiles){
        .n = s->n,
        .mean = s->sum / (double)s->n,
        .p50 = rank_get(s, 0.5),
        .p90 = rank_get(s, 0.9),
        .p95 = rank_get(s, 0.95),
        .p99 = rank_get(s, 0.99),
        .most = (double)s->items[s->n - 1],
    };
}

static void kind_fill(const struct sim_world *w, size_t kind, struct sim_kind_result *k)
{
    const struct sim_kind *what = &w->fleet->kinds[kind];
    const struct sim_options *o = w->options;
    double end = w->out->end_s, up_s = 0, read_s = 0, write_s = 0, answers_s = 0;
    memcpy(k->name, what->name, sizeof k->name);
    k->nodes = w->kind_n[kind];
    for (uint32_t i = 0; i < k->nodes; i++) {
        const struct sim_node *n = &w->nodes[w->by_kind[w->kind_first[kind] + i]];
        double down = n->down_s + (n->up ? 0 : fmax(end - n->down_since_s, 0));
        up_s += fmax(end - down, 0);
        read_s += n->read_s;
        write_s += n->write_s;
        answers_s += n->answers_s;
        k->read_tokens += n->read_tokens;
        k->written_tokens += n->written_tokens;
    }
    if (up_s > 0) {
        k->read_share = read_s / up_s;
        k->write_share = write_s / up_s;
        k->busy_share = (read_s + write_s) / up_s;
        k->answers = answers_s / up_s;
    }
    k->joules = what->idle_w * up_s + (what->load_w - what->idle_w) * (read_s + write_s);
    double owned = what->price_usd / (o->years * HOURS_PER_YEAR) * k->nodes * end / 3600;
    k->dollars = owned + k->joules / 3.6e6 * o->dollars_per_kwh;
}

void sim_result_fill(struct sim_world *w)
{
    struct sim_result *r = w->out;
    double end = fmax(r->end_s, 1e-12);
    r->total_sum_s = w->total.sum;
    r->ttft = quantiles_of(&w->ttft);
    r->tpot = quantiles_of(&w->tpot);
    r->total = quantiles_of(&w->total);
    r->tail = quantiles_of(&w->tail);
    r->good_per_s = (double)r->good / end;
    r->answer_tokens_per_s = r->answer_tokens / end;
    r->waiting_mean = w->waiting_area / end;
    r->in_system_mean = w->in_system_area / end;
    r->n_kinds = w->fleet->n_kinds;
    for (size_t k = 0; k < r->n_kinds; k++) {
        kind_fill(w, k, &r->kinds[k]);
        r->joules += r->kinds[k].joules;
        r->dollars += r->kinds[k].dollars;
    }
}
