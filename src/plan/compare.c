#include "plan/compare.h"

#include "base/json.h"
#include "plan/model.h"
#include "plan/predict.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define CHUNK_TOKENS 512.0
#define LAST_TOKENS 64.0 // the shortest piece that the schedule cuts (--min-chunk)
#define FADE_GAIN 1.1
#define ANSWER_LONGEST 1e6
#define GBPS_MOST 1000.0
#define HALVINGS 60
#define WARM_MOST 0.999

struct link {
    double gbps, share, latency_s;
};

// Everything that does not change while a break-even is looked for.
struct pair {
    const struct plan_catalogue *c;
    const struct plan_pair *asked;
    struct plan_model model;
    const json_t *published[2]; // entries of "rates", or NULL
    struct link link;
};

static int link_get(const struct plan_catalogue *c, const char *name, struct link *l, struct err *e)
{
    const json_t *o = plan_catalogue_find(c, PLAN_LINK, name, e);
    double latency_us = 0;
    if (o == NULL)
        return ERR_NOT_FOUND;
    *l = (struct link){.share = 0.9};
    int rc = json_get_f64(o, "gbps", 1e-3, 1e5, &l->gbps, e);
    if (rc == 0)
        rc = json_get_f64(o, "achieved_share", 0.01, 1, &l->share, e);
    if (rc == 0)
        rc = json_get_f64(o, "latency_us", 0, 1e7, &latency_us, e);
    if (rc == 0 && l->gbps <= 0)
        rc = err_set(e, ERR_INVALID, "\"gbps\" is missing");
    l->latency_s = latency_us / 1e6;
    return rc == 0 ? 0 : err_wrap(e, "link %s", name);
}

static double payload_gbps(const json_t *link)
{
    double share = json_number_value(json_object_get(link, "achieved_share"));
    return json_number_value(json_object_get(link, "gbps")) * (share > 0 ? share : 0.9);
}

static const char *family_of(const json_t *link)
{
    return json_string_or(link, "family", plan_catalogue_id(PLAN_LINK, link));
}

const char *plan_link_between(const struct plan_catalogue *c, const char *a, const char *b)
{
    const json_t *of_a = plan_catalogue_find(c, PLAN_MACHINE, a, NULL), *x, *y;
    const json_t *of_b = plan_catalogue_find(c, PLAN_MACHINE, b, NULL);
    const json_t *best = NULL;
    size_t i, k;
    json_array_foreach(json_object_get(of_a, "network"), i, x)
    {
        json_array_foreach(json_object_get(of_b, "network"), k, y)
        {
            const char *nx = json_string_value(x), *ny = json_string_value(y);
            const json_t *lx = nx != NULL ? plan_catalogue_find(c, PLAN_LINK, nx, NULL) : NULL;
            const json_t *ly = ny != NULL ? plan_catalogue_find(c, PLAN_LINK, ny, NULL) : NULL;
            if (lx == NULL || ly == NULL || strcmp(family_of(lx), family_of(ly)) != 0)
                continue;
            const json_t *slower = payload_gbps(lx) < payload_gbps(ly) ? lx : ly;
            if (best == NULL || payload_gbps(slower) > payload_gbps(best))
                best = slower;
        }
    }
    return best != NULL ? plan_catalogue_id(PLAN_LINK, best) : NULL;
}

// The rates that somebody published for this machine, model and quantisation.
static const json_t *published_find(const struct plan_catalogue *c, const char *machine,
                                    const struct plan_model *model)
{
    const json_t *m = plan_catalogue_find(c, PLAN_MACHINE, machine, NULL), *r;
    size_t i;
    json_array_foreach(json_object_get(m, "rates"), i, r)
    {
        const char *id = json_string_value(json_object_get(r, "model_id"));
        const char *quant = json_string_value(json_object_get(r, "quant"));
        if (id != NULL && strcasecmp(id, model->name) == 0 && quant != NULL &&
            strcasecmp(quant, model->quant) == 0)
            return r;
    }
    return NULL;
}

// What a comparison is about, apart from machines and model.
struct point {
    double prompt, gen, gbps, warm;
};

static int numbers_check(const struct plan_pair *p, struct err *e)
{
    const struct {
        const char *what;
        double value, min, max;
    } numbers[] = {
        {"--prompt", p->prompt, 1, PLAN_TOKENS_MAX},
        {"--gen", p->gen, 1, PLAN_TOKENS_MAX},
        {"--warm", p->warm, 0, WARM_MOST},
        {"--batch", p->batch, 0, PLAN_BATCH_MAX},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(numbers[i].value >= numbers[i].min && numbers[i].value <= numbers[i].max))
            return err_set(e, ERR_INVALID, "%s is %g; it must be between %g and %g",
                           numbers[i].what, numbers[i].value, numbers[i].min, numbers[i].max);
    return 0;
}

static int pair_open(const struct plan_catalogue *c, const struct plan_pair *p, struct pair *out,
                     struct err *e)
{
    *out = (struct pair){.c = c, .asked = p};
    int rc = numbers_check(p, e);
    if (rc == 0 && p->read != NULL)
        out->model = *p->read;
    else if (rc == 0)
        rc = plan_model_get(c, p->model, p->quant, 0, &out->model, e);
    for (size_t i = 0; rc == 0 && i < 2 && p->machines[i] != NULL; i++) {
        if (plan_catalogue_find(c, PLAN_MACHINE, p->machines[i], e) == NULL)
            rc = ERR_NOT_FOUND;
        else
            out->published[i] = published_find(c, p->machines[i], &out->model);
    }
    if (rc == 0 && p->link != NULL)
        rc = link_get(c, p->link, &out->link, e);
    return rc;
}

static struct point point_of(const struct pair *p)
{
    return (struct point){p->asked->prompt, p->asked->gen, p->link.gbps, p->asked->warm};
}

static double fresh_tokens(const struct point *at)
{
    return fmax(at->prompt * (1 - at->warm), 1);
}

static struct plan_range range_of(const struct plan_answer *a, double seconds)
{
    return (struct plan_range){seconds * a->tokens_per_s / a->high,
                               seconds * a->tokens_per_s / a->low};
}

// Two errors that know nothing of each other.
static struct plan_range range_add(double x, struct plan_range rx, double y, struct plan_range ry)
{
    return (struct plan_range){x + y - hypot(x - rx.low, y - ry.low),
                               x + y + hypot(rx.high - x, ry.high - y)};
}

static int solo_times(const struct pair *p, size_t i, const struct point *at, struct plan_solo *s,
                      struct err *e)
{
    struct plan_query q;
    struct plan_answer prefill, decode;
    plan_query_defaults(&q);
    q.machine = p->asked->machines[i];
    q.read = &p->model;
    q.prefill = true;
    q.n_prompt = fresh_tokens(at);
    q.depth = at->prompt - q.n_prompt;
    int rc = plan_predict(p->c, &q, &prefill, e);
    q.prefill = false;
    q.n_prompt = 0;
    q.depth = at->prompt + at->gen / 2; // half of the answer stands on average
    q.batch = fmax(p->asked->batch, 1);
    if (rc == 0)
        rc = plan_predict(p->c, &q, &decode, e);
    if (rc != 0)
        return rc;
    const json_t *m = plan_catalogue_find(p->c, PLAN_MACHINE, q.machine, NULL);
    double rest_bytes = q.batch * cost_kv_bytes(&decode.model, at->gen / 2);
    *s = (struct plan_solo){.name = plan_catalogue_id(PLAN_MACHINE, m),
                            .need_bytes = decode.need_bytes + rest_bytes,
                            .have_bytes = decode.have_bytes,
                            .prefill_s = prefill.seconds,
                            .decode_s = at->gen * decode.seconds,
                            .prefill = range_of(&prefill, prefill.seconds),
                            .decode = range_of(&decode, at->gen * decode.seconds)};
    s->fits = s->need_bytes <= s->have_bytes;
    return 0;
}

static int solo_published(const struct pair *p, size_t i, const struct point *at,
                          struct plan_solo *s, struct err *e)
{
    double prefill = 0, decode = 0;
    int rc = json_get_f64(p->published[i], "prefill_tokens_per_s", 1e-3, 1e9, &prefill, e);
    if (rc == 0)
        rc = json_get_f64(p->published[i], "decode_tokens_per_s", 1e-3, 1e9, &decode, e);
    if (rc == 0 && (prefill <= 0 || decode <= 0))
        rc = err_set(e, ERR_INVALID, "both rates must be given");
    if (rc != 0)
        return err_wrap(e, "machine %s, published rates", s->name);
    // A step reads the weights, and so does a prompt.
    s->prefill_s = fmax(fresh_tokens(at) / prefill, 1 / decode);
    s->decode_s = at->gen / decode;
    s->prefill = s->decode = (struct plan_range){NAN, NAN};
    s->source = json_string_value(json_object_get(p->published[i], "source"));
    return 0;
}

static int solo_get(const struct pair *p, size_t i, const struct point *at, bool published,
                    struct plan_solo *s, struct err *e)
{
    int rc = solo_times(p, i, at, s, e);
    if (rc == 0 && published)
        rc = solo_published(p, i, at, s, e);
    s->total_s = s->prefill_s + s->decode_s;
    s->total = range_add(s->prefill_s, s->prefill, s->decode_s, s->decode);
    return rc;
}

static struct cost_handoff_time handoff_of(const struct pair *p, const struct point *at,
                                           double prefill_s)
{
    struct cost_handoff h = {
        .tokens = fresh_tokens(at),
        .chunk_tokens = CHUNK_TOKENS,
        .last_tokens = LAST_TOKENS / fmax(p->model.cost.layers, 1), // it leaves layer by layer
        .prefill_s = prefill_s,
        .kv_bytes = cost_kv_bytes(&p->model.cost, fresh_tokens(at)),
        .link = {.bytes_per_s = at->gbps * 1e9 / 8 * p->link.share, .latency_s = p->link.latency_s},
    };
    return cost_handoff(&h);
}

static double best_of(const struct plan_solo solo[2])
{
    return fmin(solo[0].fits ? solo[0].total_s : INFINITY,
                solo[1].fits ? solo[1].total_s : INFINITY);
}

static void both_fill(const struct pair *p, const struct point *at, struct plan_comparison *r)
{
    r->hybrid.total_s = INFINITY;
    for (size_t reader = 0; reader < 2; reader++) {
        const struct plan_solo *from = &r->solo[reader], *to = &r->solo[1 - reader];
        struct cost_handoff_time t = handoff_of(p, at, from->prefill_s);
        double total = t.overlapped_s + to->decode_s;
        if (total >= r->hybrid.total_s)
            continue;
        r->reader = reader;
        r->writer = 1 - reader;
        r->hybrid = (struct plan_both){.prefill_s = from->prefill_s,
                                       .transfer_s = t.transfer_s,
                                       .tail_s = t.tail_s,
                                       .decode_s = to->decode_s,
                                       .total_s = total};
        r->serial = (struct plan_both){.prefill_s = from->prefill_s,
                                       .transfer_s = t.transfer_s,
                                       .tail_s = t.serial_s - from->prefill_s,
                                       .decode_s = to->decode_s,
                                       .total_s = t.serial_s + to->decode_s};
    }
}

// What total and gain become where one of the four times is another: how wrong they are comes from each of
// them alone, added as errors that know nothing of each other are.
static void ranges_fill(const struct pair *p, const struct point *at, struct plan_comparison *r)
{
    double down[2] = {0, 0}, up[2] = {0, 0}; // squares; of the logarithms of total and gain
    const struct plan_range none = {NAN, NAN};
    r->hybrid.total = r->serial.total = r->gain_range = none;
    if (r->published)
        return;
    for (size_t k = 0; k < 8; k++) {
        size_t of = k / 4;
        struct plan_solo solo[2] = {r->solo[0], r->solo[1]};
        const struct plan_range *range = k & 2 ? &solo[of].prefill : &solo[of].decode;
        double *time = k & 2 ? &solo[of].prefill_s : &solo[of].decode_s;
        *time = k & 1 ? range->low : range->high;
        solo[of].total_s = solo[of].prefill_s + solo[of].decode_s;
        double read_s = solo[r->reader].prefill_s;
        double total = handoff_of(p, at, read_s).overlapped_s + solo[r->writer].decode_s;
        double changes[2] = {log(total / r->hybrid.total_s), log(best_of(solo) / total / r->gain)};
        for (size_t i = 0; i < 2; i++)
            *(changes[i] < 0 ? &down[i] : &up[i]) += changes[i] * changes[i];
    }
    r->hybrid.total = (struct plan_range){r->hybrid.total_s * exp(-sqrt(down[0])),
                                          r->hybrid.total_s * exp(sqrt(up[0]))};
    r->gain_range = (struct plan_range){r->gain * exp(-sqrt(down[1])), r->gain * exp(sqrt(up[1]))};
    double more = r->serial.total_s - r->hybrid.total_s;
    r->serial.total = (struct plan_range){r->hybrid.total.low + more, r->hybrid.total.high + more};
}

// One comparison without break-evens.
static int evaluate(const struct pair *p, const struct point *at, struct plan_comparison *r,
                    struct err *e)
{
    for (size_t i = 0; i < 2; i++) {
        int rc = solo_get(p, i, at, r->published, &r->solo[i], e);
        if (rc != 0)
            return rc;
    }
    r->possible = r->solo[0].fits && r->solo[1].fits;
    r->best_solo_s = best_of(r->solo);
    both_fill(p, at, r);
    r->gain = r->best_solo_s / r->hybrid.total_s;
    return 0;
}

// ---- where it begins to pay ------------------------------------------------------------------------------

static struct point moved(const struct pair *p, enum plan_axis axis, double x)
{
    struct point at = point_of(p);
    *(axis == PLAN_AXIS_PROMPT ? &at.prompt
      : axis == PLAN_AXIS_GEN  ? &at.gen
      : axis == PLAN_AXIS_GBPS ? &at.gbps
                               : &at.warm) = x;
    return at;
}

static double gain_at(const struct pair *p, bool published, enum plan_axis axis, double x)
{
    struct plan_comparison r = {.published = published};
    struct point at = moved(p, axis, x);
    if (evaluate(p, &at, &r, NULL) != 0 || !isfinite(r.best_solo_s))
        return 0;
    return r.gain;
}

// The least x in [low, high] from which the gain exceeds one, by halving its logarithm. NAN: not even at
// `good`, a value at which it is hoped to. The gain need not be monotonous; between `low` and `good` it is.
static double even_find(const struct pair *p, bool published, enum plan_axis axis, double low,
                        double good)
{
    if (gain_at(p, published, axis, good) <= 1)
        return NAN;
    if (gain_at(p, published, axis, low) > 1)
        return low;
    for (int i = 0; i < HALVINGS && good / low > 1.0005; i++) {
        double middle = sqrt(low * good);
        if (gain_at(p, published, axis, middle) > 1)
            good = middle;
        else
            low = middle;
    }
    return good;
}

// The longest answer that still gains a tenth.
static double fade_find(const struct pair *p, bool published)
{
    double low = p->asked->gen, high = ANSWER_LONGEST;
    if (gain_at(p, published, PLAN_AXIS_GEN, low) < FADE_GAIN)
        return NAN;
    if (gain_at(p, published, PLAN_AXIS_GEN, high) >= FADE_GAIN)
        return INFINITY;
    for (int i = 0; i < HALVINGS && high / low > 1.0005; i++) {
        double middle = sqrt(low * high);
        *(gain_at(p, published, PLAN_AXIS_GEN, middle) >= FADE_GAIN ? &low : &high) = middle;
    }
    return low;
}

// The largest warm share that still gains a tenth.
static double warm_find(const struct pair *p, bool published)
{
    double low = 0, high = WARM_MOST;
    if (gain_at(p, published, PLAN_AXIS_WARM, low) < FADE_GAIN)
        return NAN;
    for (int i = 0; i < HALVINGS && high - low > 0.0005; i++) {
        double middle = (low + high) / 2;
        *(gain_at(p, published, PLAN_AXIS_WARM, middle) >= FADE_GAIN ? &low : &high) = middle;
    }
    return low;
}

bool plan_published(const struct plan_catalogue *c, const struct plan_pair *p)
{
    struct pair pair;
    return pair_open(c, p, &pair, NULL) == 0 && pair.published[0] != NULL &&
           pair.published[1] != NULL;
}

static int rates_choose(const struct pair *p, bool *published, struct err *e)
{
    const struct plan_pair *asked = p->asked;
    size_t lacking = p->published[0] == NULL ? 0 : 1;
    bool all = p->published[0] != NULL && (asked->machines[1] == NULL || p->published[1] != NULL);
    if (asked->rates == PLAN_RATES_PUBLISHED && !all)
        return err_set(e, ERR_NOT_FOUND,
                       "nobody published rates of %s with %s %s that the catalogue knows; "
                       "--engine llama.cpp predicts them",
                       asked->machines[lacking], p->model.name, p->model.quant);
    *published = all && asked->rates != PLAN_RATES_LLAMA;
    return 0;
}

static void evens_fill(const struct pair *p, struct plan_comparison *out)
{
    bool published = out->published;
    double long_prompt = fmax(p->asked->prompt, 32768);
    out->even_prompt = even_find(p, published, PLAN_AXIS_PROMPT, 1, long_prompt);
    out->even_gen = even_find(p, published, PLAN_AXIS_GEN, 1, fmax(p->asked->gen, 256));
    out->even_gbps = even_find(p, published, PLAN_AXIS_GBPS, 0.001, GBPS_MOST);
    out->fade_gen = fade_find(p, published);
    out->fade_warm = warm_find(p, published);
}

int plan_compare(const struct plan_catalogue *c, const struct plan_pair *p,
                 struct plan_comparison *out, struct err *e)
{
    struct pair pair;
    *out = (struct plan_comparison){0};
    int rc = pair_open(c, p, &pair, e);
    if (rc == 0)
        rc = rates_choose(&pair, &out->published, e);
    if (rc != 0)
        return rc;
    struct point at = point_of(&pair);
    rc = evaluate(&pair, &at, out, e);
    if (rc != 0)
        return rc;
    ranges_fill(&pair, &at, out);
    out->kv_bytes = cost_kv_bytes(&pair.model.cost, fresh_tokens(&at));
    out->link_bytes_per_s = pair.link.gbps * 1e9 / 8 * pair.link.share;
    out->even_prompt = out->even_gen = out->even_gbps = out->fade_gen = out->fade_warm = NAN;
    if (out->possible && !p->brief)
        evens_fill(&pair, out);
    return 0;
}

int plan_alone(const struct plan_catalogue *c, const struct plan_pair *p, struct plan_solo *out,
               struct err *e)
{
    struct pair pair;
    bool published = false;
    *out = (struct plan_solo){0};
    int rc = pair_open(c, p, &pair, e);
    if (rc == 0)
        rc = rates_choose(&pair, &published, e);
    struct point at = point_of(&pair);
    return rc == 0 ? solo_get(&pair, 0, &at, published, out, e) : rc;
}

static void point_fill(const struct pair *p, enum plan_axis axis, const struct plan_comparison *as,
                       struct plan_point *point)
{
    struct plan_comparison r = {.published = as->published};
    struct point at = moved(p, axis, point->x);
    double x = point->x;
    *point = (struct plan_point){x, NAN, NAN, NAN, {NAN, NAN}};
    if (evaluate(p, &at, &r, NULL) != 0 || !r.possible)
        return;
    // Whoever reads the prompt that was asked about also reads this one.
    const struct plan_solo *from = &r.solo[as->reader], *to = &r.solo[as->writer];
    double total = handoff_of(p, &at, from->prefill_s).overlapped_s + to->decode_s;
    r.reader = as->reader;
    r.writer = as->writer;
    r.hybrid.total_s = total;
    r.gain = r.best_solo_s / total;
    ranges_fill(p, &at, &r);
    *point =
        (struct plan_point){x, from->total_s / total, to->total_s / total, r.gain, r.gain_range};
}

int plan_curve(const struct plan_catalogue *c, const struct plan_pair *p,
               const struct plan_comparison *as, struct plan_points *points, struct err *e)
{
    struct pair pair;
    int rc = pair_open(c, p, &pair, e);
    for (size_t i = 0; rc == 0 && i < points->n; i++)
        point_fill(&pair, points->axis, as, &points->at[i]);
    return rc;
}
