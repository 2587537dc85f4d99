#include "plan/compare.h"

#include "base/json.h"
#include "plan/model.h"
#include "plan/predict.h"

#include <math.h>
#include <strings.h>

#define CHUNK_TOKENS 512.0
#define LAST_TOKENS 64.0 // the shortest piece that the schedule cuts (--min-chunk)
#define FADE_GAIN 1.1
#define ANSWER_LONGEST 1e6
#define GBPS_MOST 1000.0
#define HALVINGS 60

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

static int pair_open(const struct plan_catalogue *c, const struct plan_pair *p, struct pair *out,
                     struct err *e)
{
    *out = (struct pair){.c = c, .asked = p};
    if (!(p->prompt >= 1 && p->prompt <= PLAN_TOKENS_MAX))
        return err_set(e, ERR_INVALID, "--prompt is %g; it must be between 1 and %g", p->prompt,
                       PLAN_TOKENS_MAX);
    if (!(p->gen >= 1 && p->gen <= PLAN_TOKENS_MAX))
        return err_set(e, ERR_INVALID, "--gen is %g; it must be between 1 and %g", p->gen,
                       PLAN_TOKENS_MAX);
    int rc = plan_model_get(c, p->model, p->quant, 0, &out->model, e);
    for (size_t i = 0; rc == 0 && i < 2; i++)
        if (plan_catalogue_find(c, PLAN_MACHINE, p->machines[i], e) == NULL)
            rc = ERR_NOT_FOUND;
    if (rc == 0)
        rc = link_get(c, p->link, &out->link, e);
    for (size_t i = 0; rc == 0 && i < 2; i++)
        out->published[i] = published_find(c, p->machines[i], &out->model);
    return rc;
}

static int solo_times(const struct pair *p, size_t i, double prompt, double gen,
                      struct plan_solo *s, struct err *e)
{
    struct plan_query q;
    struct plan_answer prefill, decode;
    plan_query_defaults(&q);
    q.machine = p->asked->machines[i];
    q.model = p->asked->model;
    q.quant = p->asked->quant;
    q.prefill = true;
    q.n_prompt = prompt;
    int rc = plan_predict(p->c, &q, &prefill, e);
    q.prefill = false;
    q.n_prompt = 0;
    q.depth = prompt + gen / 2; // half of the answer stands on average
    if (rc == 0)
        rc = plan_predict(p->c, &q, &decode, e);
    if (rc != 0)
        return rc;
    const json_t *m = plan_catalogue_find(p->c, PLAN_MACHINE, q.machine, NULL);
    *s = (struct plan_solo){.name = plan_catalogue_id(PLAN_MACHINE, m),
                            .need_bytes = decode.need_bytes + cost_kv_bytes(&decode.model, gen / 2),
                            .have_bytes = decode.have_bytes,
                            .prefill_s = prefill.seconds,
                            .decode_s = gen * decode.seconds};
    s->fits = s->need_bytes <= s->have_bytes;
    return 0;
}

static int solo_published(const struct pair *p, size_t i, double prompt, double gen,
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
    s->prefill_s = fmax(prompt / prefill, 1 / decode); // a step reads the weights, so does a prompt
    s->decode_s = gen / decode;
    s->source = json_string_value(json_object_get(p->published[i], "source"));
    return 0;
}

static struct cost_handoff_time handoff_of(const struct pair *p, double prompt, double prefill_s,
                                           double gbps)
{
    struct cost_handoff h = {
        .tokens = prompt,
        .chunk_tokens = CHUNK_TOKENS,
        .last_tokens = LAST_TOKENS / fmax(p->model.cost.layers, 1), // it leaves layer by layer
        .prefill_s = prefill_s,
        .kv_bytes = cost_kv_bytes(&p->model.cost, prompt),
        .link = {.bytes_per_s = gbps * 1e9 / 8 * p->link.share, .latency_s = p->link.latency_s},
    };
    return cost_handoff(&h);
}

// One comparison without break-evens. `published`: whose rates.
static int evaluate(const struct pair *p, double prompt, double gen, double gbps,
                    struct plan_comparison *r, struct err *e)
{
    for (size_t i = 0; i < 2; i++) {
        int rc = solo_times(p, i, prompt, gen, &r->solo[i], e);
        if (rc == 0 && r->published)
            rc = solo_published(p, i, prompt, gen, &r->solo[i], e);
        if (rc != 0)
            return rc;
        r->solo[i].total_s = r->solo[i].prefill_s + r->solo[i].decode_s;
    }
    const struct plan_solo *a = &r->solo[0], *b = &r->solo[1];
    r->possible = a->fits && b->fits;
    r->best_solo_s = fmin(a->fits ? a->total_s : INFINITY, b->fits ? b->total_s : INFINITY);
    r->hybrid.total_s = INFINITY;
    for (size_t reader = 0; reader < 2; reader++) {
        const struct plan_solo *from = &r->solo[reader], *to = &r->solo[1 - reader];
        struct cost_handoff_time t = handoff_of(p, prompt, from->prefill_s, gbps);
        double total = t.overlapped_s + to->decode_s;
        if (total >= r->hybrid.total_s)
            continue;
        r->reader = reader;
        r->writer = 1 - reader;
        r->hybrid =
            (struct plan_both){from->prefill_s, t.transfer_s, t.tail_s, to->decode_s, total};
        r->serial = (struct plan_both){from->prefill_s, t.transfer_s, t.serial_s - from->prefill_s,
                                       to->decode_s, t.serial_s + to->decode_s};
    }
    r->gain = r->best_solo_s / r->hybrid.total_s;
    return 0;
}

// ---- where it begins to pay ------------------------------------------------------------------------------

enum axis { AXIS_PROMPT, AXIS_GEN, AXIS_GBPS };

static double gain_at(const struct pair *p, bool published, enum axis axis, double x)
{
    struct plan_comparison r = {.published = published};
    double prompt = axis == AXIS_PROMPT ? x : p->asked->prompt;
    double gen = axis == AXIS_GEN ? x : p->asked->gen;
    double gbps = axis == AXIS_GBPS ? x : p->link.gbps;
    if (evaluate(p, prompt, gen, gbps, &r, NULL) != 0 || !isfinite(r.best_solo_s))
        return 0;
    return r.gain;
}

// The least x in [low, high] from which the gain exceeds one, by halving its logarithm. NAN: not even at
// `good`, a value at which it is hoped to. The gain need not be monotonous; between `low` and `good` it is.
static double even_find(const struct pair *p, bool published, enum axis axis, double low,
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
    if (gain_at(p, published, AXIS_GEN, low) < FADE_GAIN)
        return NAN;
    if (gain_at(p, published, AXIS_GEN, high) >= FADE_GAIN)
        return INFINITY;
    for (int i = 0; i < HALVINGS && high / low > 1.0005; i++) {
        double middle = sqrt(low * high);
        *(gain_at(p, published, AXIS_GEN, middle) >= FADE_GAIN ? &low : &high) = middle;
    }
    return low;
}

bool plan_published(const struct plan_catalogue *c, const struct plan_pair *p)
{
    struct pair pair;
    return pair_open(c, p, &pair, NULL) == 0 && pair.published[0] != NULL &&
           pair.published[1] != NULL;
}

int plan_compare(const struct plan_catalogue *c, const struct plan_pair *p,
                 struct plan_comparison *out, struct err *e)
{
    struct pair pair;
    *out = (struct plan_comparison){0};
    int rc = pair_open(c, p, &pair, e);
    if (rc != 0)
        return rc;
    bool both = pair.published[0] != NULL && pair.published[1] != NULL;
    if (p->rates == PLAN_RATES_PUBLISHED && !both)
        return err_set(e, ERR_NOT_FOUND,
                       "nobody published rates of %s with %s %s that the catalogue knows; "
                       "--engine llama.cpp predicts them",
                       p->machines[pair.published[0] != NULL ? 1 : 0], pair.model.name,
                       pair.model.quant);
    bool published = both && p->rates != PLAN_RATES_LLAMA;
    out->published = published;
    rc = evaluate(&pair, p->prompt, p->gen, pair.link.gbps, out, e);
    if (rc != 0)
        return rc;
    out->kv_bytes = cost_kv_bytes(&pair.model.cost, p->prompt);
    out->link_bytes_per_s = pair.link.gbps * 1e9 / 8 * pair.link.share;
    out->even_prompt = out->even_gen = out->even_gbps = out->fade_gen = NAN;
    if (!out->possible)
        return 0;
    double long_prompt = fmax(p->prompt, 32768);
    out->even_prompt = even_find(&pair, published, AXIS_PROMPT, 1, long_prompt);
    out->even_gen = even_find(&pair, published, AXIS_GEN, 1, fmax(p->gen, 256));
    out->even_gbps = even_find(&pair, published, AXIS_GBPS, 0.001, GBPS_MOST);
    out->fade_gen = fade_find(&pair, published);
    return 0;
}
