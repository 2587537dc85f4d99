#include "plan/advise.h"

#include "base/buf.h"
#include "base/json.h"
#include "plan/model.h"
#include "plan/predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BATCH_DOUBLINGS 6 // 64 at once are the most
#define HOUR_S 3600.0
#define DAYS 365.0
#define REFERENCE "dgx-spark" // an hour of fine-tuning is one of its hours
#define MACHINES_MOST 128
#define USD_MOST 1e9

const char *const plan_noise_names[] = {"quiet", "audible", "loud"};

void plan_question_defaults(struct plan_question *q)
{
    *q = (struct plan_question){.rates = PLAN_RATES_LLAMA,
                                .limits = {.noise_most = PLAN_NOISE_LOUD},
                                .usd_per_kwh = 0.18,
                                .years = 3};
    plan_workload_defaults(&q->work);
}

static int question_check(const struct plan_question *q, struct err *e)
{
    const struct {
        const char *what;
        double value, min, max;
    } numbers[] = {
        {"--budget", q->limits.budget_usd, 0, USD_MOST},
        {"--memory-min", q->limits.memory_min_gb, 0, 1e6},
        {"--power-max", q->limits.power_max_w, 0, 1e6},
        {"--electricity", q->usd_per_kwh, 0, 100},
        {"--years", q->years, 0.1, 50},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(numbers[i].value >= numbers[i].min && numbers[i].value <= numbers[i].max))
            return err_set(e, ERR_INVALID, "%s is %g; it must be between %g and %g",
                           numbers[i].what, numbers[i].value, numbers[i].min, numbers[i].max);
    return plan_workload_check(&q->work, e);
}

// That every name is known; *model is the one that was asked about.
static int names_check(const struct plan_catalogue *c, const struct plan_question *q,
                       struct plan_model *model, struct err *e)
{
    for (size_t i = 0; i < PLAN_NAMES_MAX; i++) {
        const char *names[] = {q->only[i], q->owned[i]};
        for (size_t k = 0; k < 2; k++)
            if (names[k] != NULL && plan_catalogue_find(c, PLAN_MACHINE, names[k], e) == NULL)
                return ERR_NOT_FOUND;
    }
    if (q->link != NULL && plan_catalogue_find(c, PLAN_LINK, q->link, e) == NULL)
        return ERR_NOT_FOUND;
    struct plan_model m;
    int rc = plan_model_get(c, q->work.train_model, NULL, 0, &m, e);
    if (rc != 0)
        return err_wrap(e, "--train-model");
    return plan_model_get(c, q->work.model, q->work.quant, 0, model, e);
}

// ---- candidates ----------------------------------------------------------------------------------------

// Whether one of the names, which may be aliases, is that machine.
static bool named(const struct plan_catalogue *c, const char *const *names, const json_t *machine)
{
    for (size_t i = 0; i < PLAN_NAMES_MAX && names[i] != NULL; i++)
        if (plan_catalogue_find(c, PLAN_MACHINE, names[i], NULL) == machine)
            return true;
    return false;
}

static enum plan_noise noise_of(const json_t *m)
{
    const char *s = json_string_value(json_object_get(m, "noise"));
    for (size_t i = 0; s != NULL && i <= PLAN_NOISE_LOUD; i++)
        if (strcmp(s, plan_noise_names[i]) == 0)
            return (enum plan_noise)i;
    return PLAN_NOISE_AUDIBLE;
}

static int candidate_read(const json_t *m, struct plan_option *o, struct err *e)
{
    double memory_gib = 0, gpus = 1;
    const char *id = plan_catalogue_id(PLAN_MACHINE, m), *title = id, *os = "";
    bool cloud = false;
    o->n = 1;
    o->names[0] = id;
    o->noise = noise_of(m);
    int rc = json_get_f64(m, "memory_gib", 0.5, 1e6, &memory_gib, e);
    if (rc == 0)
        rc = json_get_f64(m, "gpus", 1, 4096, &gpus, e);
    if (rc == 0)
        rc = json_get_f64(m, "load_w", 0, 1e6, &o->load_w, e);
    if (rc == 0)
        rc = json_get_f64(m, "idle_w", 0, 1e6, &o->idle_w, e);
    if (rc == 0)
        rc = json_get_f64(m, "price_usd", 0, USD_MOST, &o->price_usd, e);
    if (rc == 0)
        rc = json_get_string(m, "price_date", &o->price_date, e);
    if (rc == 0)
        rc = json_get_string(m, "sold_until", &o->sold_until[0], e);
    if (rc == 0)
        rc = json_get_string(m, "title", &title, e);
    if (rc == 0)
        rc = json_get_string(m, "os", &os, e);
    if (rc == 0)
        rc = json_get_bool(m, "cloud", &cloud, e);
    o->titles[0] = title;
    o->memory_gb = gpus * memory_gib;
    if (strcasecmp(os, "macOS") != 0)
        o->fails |= PLAN_FAIL_MAC; // taken back where it was not asked for
    if (cloud)
        o->fails |= PLAN_FAIL_CLOUD;
    return rc == 0 ? 0 : err_wrap(e, "machine %s", id);
}

static void limits_apply(const struct plan_question *q, struct plan_option *o)
{
    const struct plan_limits *l = &q->limits;
    bool owned = o->owned[0] && (o->n == 1 || o->owned[1]);
    if (!l->only_mac)
        o->fails &= ~(unsigned)PLAN_FAIL_MAC;
    if (l->cloud)
        o->fails &= ~(unsigned)PLAN_FAIL_CLOUD;
    if (o->price_usd <= 0 && !owned)
        o->fails |= PLAN_FAIL_PRICE;
    if (l->budget_usd > 0 && o->price_usd > l->budget_usd)
        o->fails |= PLAN_FAIL_BUDGET;
    if (o->memory_gb < l->memory_min_gb)
        o->fails |= PLAN_FAIL_MEMORY;
    if (l->power_max_w > 0 && (o->load_w > l->power_max_w || o->load_w <= 0))
        o->fails |= PLAN_FAIL_POWER;
    if (o->noise > l->noise_most)
        o->fails |= PLAN_FAIL_NOISE;
}

// ---- what it would give --------------------------------------------------------------------------------

struct scene {
    const struct plan_catalogue *c;
    const struct plan_question *q;
    double reference; // tokens per second at which an hour of fine-tuning is meant
    struct plan_model model;
};

static struct plan_pair pair_of(const struct scene *s, const struct plan_option *o)
{
    const struct plan_workload *w = &s->q->work;
    return (struct plan_pair){.machines = {o->names[0], o->names[1]},
                              .link = o->link,
                              .model = w->model,
                              .quant = w->quant,
                              .prompt = w->prompt,
                              .gen = w->gen,
                              .warm = w->warm,
                              .batch = o->batch,
                              .rates = s->q->rates,
                              .brief = true,
                              .read = &s->model};
}

static void alone_fill(const struct plan_question *q, struct plan_option *o)
{
    const struct plan_solo *s = &o->solo[0];
    o->prefill_s = s->prefill_s;
    o->decode_s = s->decode_s;
    o->total_s = s->total_s;
    o->total = s->total;
    o->ttft_s = s->prefill_s;
    o->ttft = s->prefill;
    o->tokens_per_s = q->work.gen / s->decode_s;
    o->tokens = (struct plan_range){q->work.gen / s->decode.high, q->work.gen / s->decode.low};
    o->joules = o->load_w * (s->prefill_s + s->decode_s / o->batch);
    if (!s->fits)
        o->fails |= PLAN_FAIL_FIT;
}

// A pair whose hand-off would not help: the better of the two answers, the other is there for other work.
static void better_fill(const struct plan_question *q, const struct plan_option ones[2],
                        struct plan_option *o)
{
    size_t best = o->solo[1].total_s < o->solo[0].total_s;
    struct plan_option alone = {.batch = o->batch, .load_w = ones[best].load_w};
    alone.solo[0] = o->solo[best];
    alone_fill(q, &alone);
    o->prefill_s = alone.prefill_s;
    o->decode_s = alone.decode_s;
    o->total_s = alone.total_s;
    o->total = alone.total;
    o->ttft_s = alone.ttft_s;
    o->ttft = alone.ttft;
    o->tokens_per_s = alone.tokens_per_s;
    o->tokens = alone.tokens;
    o->joules = alone.joules + alone.total_s * ones[1 - best].idle_w;
    o->two.reader = o->two.writer = best;
}

static void both_fill(const struct plan_question *q, const struct plan_option ones[2],
                      struct plan_option *o)
{
    o->shares = o->two.gain > 1;
    if (!o->two.possible)
        o->fails |= PLAN_FAIL_FIT;
    if (!o->shares) {
        better_fill(q, ones, o);
        return;
    }
    const struct plan_both *h = &o->two.hybrid;
    const struct plan_solo *from = &o->solo[o->two.reader], *to = &o->solo[o->two.writer];
    const struct plan_option *reads = &ones[o->two.reader], *writes = &ones[o->two.writer];
    double step = to->decode_s / q->work.gen, rest = h->tail_s + step;
    o->prefill_s = h->prefill_s;
    o->tail_s = h->tail_s;
    o->decode_s = h->decode_s;
    o->total_s = h->total_s;
    o->total = h->total;
    o->ttft_s = h->prefill_s + rest; // the writer runs the last token of the prompt
    o->ttft = (struct plan_range){from->prefill.low + rest, from->prefill.high + rest};
    o->tokens_per_s = 1 / step;
    o->tokens = (struct plan_range){q->work.gen / to->decode.high, q->work.gen / to->decode.low};
    o->joules = h->prefill_s * (reads->load_w + writes->idle_w) +
                h->tail_s * (reads->idle_w + writes->idle_w) +
                h->decode_s / o->batch * (writes->load_w + reads->idle_w);
}

// Requests of an hour on each machine, as a share of it.
static void request_load(const struct scene *s, const struct plan_option *o, double busy[2])
{
    double n = s->q->work.requests_per_hour / HOUR_S;
    if (o->n == 1) {
        busy[0] = n * (o->prefill_s + o->decode_s / o->batch);
        return;
    }
    busy[o->two.reader] += n * o->prefill_s;
    busy[o->two.writer] += n * o->decode_s / o->batch;
}

// Seconds per second that fine-tuning and images take on each machine of an option.
struct tasks {
    double train[2], image[2];
};

static struct tasks tasks_of(const struct scene *s, const struct plan_option *const ones[2])
{
    const struct plan_workload *w = &s->q->work;
    struct tasks t = {{0, 0}, {0, 0}};
    for (size_t i = 0; i < 2; i++) {
        t.train[i] = ones[i]->train.fits  ? w->train_share * s->reference / ones[i]->train.value
                     : w->train_share > 0 ? HUGE_VAL
                                          : 0;
        t.image[i] = w->images_per_hour * ones[i]->image.value / HOUR_S;
    }
    return t;
}

// Fine-tuning and images go where they are soonest done, of the ways in which both machines keep up.
static void tasks_add(const struct scene *s, const struct plan_option *pair, struct plan_option *o,
                      double busy[2])
{
    const struct plan_option *const ones[2] = {pair != NULL ? &pair[0] : o,
                                               pair != NULL ? &pair[1] : o};
    struct tasks t = tasks_of(s, ones);
    double least = INFINITY, after[2] = {0, 0}, of_tasks = 0;
    for (size_t k = 0; k < o->n * o->n; k++) {
        size_t trains = k % o->n, draws = k / o->n;
        double load[2] = {0, 0};
        load[trains] += t.train[trains];
        load[draws] += t.image[draws];
        double most = fmax(busy[0] + load[0], busy[1] + load[1]);
        double longest = fmax(load[0], load[1]);
        double penalty = most > PLAN_BUSY_MOST ? most * HOUR_S : 0;
        if (k > 0 && longest + penalty >= least)
            continue;
        least = longest + penalty;
        of_tasks = longest;
        after[0] = busy[0] + load[0];
        after[1] = busy[1] + load[1];
        o->train = ones[trains]->train;
        o->image = ones[draws]->image;
    }
    memcpy(busy, after, sizeof after);
    o->work_s = s->q->work.requests_per_hour * o->total_s + of_tasks * HOUR_S;
    if (s->q->work.train_share > 0 && !o->train.fits)
        o->fails |= PLAN_FAIL_TRAIN;
}

static void money_fill(const struct plan_question *q, const struct plan_option ones[2],
                       struct plan_option *o, const double busy[2])
{
    double hours = q->work.hours_per_day, watt_hours = 0;
    for (size_t i = 0; i < o->n; i++) {
        double share = fmin(busy[i], 1);
        const struct plan_option *one = o->n == 2 ? &ones[i] : o;
        watt_hours +=
            hours * (share * one->load_w + (1 - share) * one->idle_w) + (24 - hours) * one->idle_w;
    }
    o->kwh_per_year = DAYS * watt_hours / 1000;
    o->usd_per_year = o->price_usd / q->years + o->kwh_per_year * q->usd_per_kwh;
}

// At one number of answers at once. `ones`: the two of a pair alone, else NULL.
static int batch_fill(const struct scene *s, const struct plan_option ones[2],
                      struct plan_option *o, struct err *e)
{
    struct plan_pair p = pair_of(s, o);
    double busy[2] = {0, 0};
    int rc = o->n == 1 ? plan_alone(s->c, &p, &o->solo[0], e) : plan_compare(s->c, &p, &o->two, e);
    if (rc != 0)
        return rc;
    if (o->n == 1) {
        alone_fill(s->q, o);
    } else {
        memcpy(o->solo, o->two.solo, sizeof o->solo);
        both_fill(s->q, ones, o);
    }
    request_load(s, o, busy);
    tasks_add(s, ones, o, busy);
    o->busy = fmax(busy[0], busy[1]);
    money_fill(s->q, ones, o, busy);
    return 0;
}

static int option_fill(const struct scene *s, const struct plan_option ones[2],
                       struct plan_option *o, struct err *e)
{
    struct plan_option best = *o;
    for (int doublings = 0; doublings <= BATCH_DOUBLINGS; doublings++) {
        struct plan_option next = *o;
        next.batch = 1 << doublings;
        int rc = batch_fill(s, ones, &next, e);
        if (rc == ERR_NOT_FOUND && s->q->rates == PLAN_RATES_PUBLISHED) {
            o->fails |= PLAN_FAIL_PUBLISHED;
            return 0;
        }
        if (rc != 0)
            return rc;
        if (doublings > 0 && ((next.fails & PLAN_FAIL_FIT) || next.busy >= best.busy))
            break; // more at once do not help
        best = next;
        if (best.busy <= PLAN_BUSY_MOST)
            break;
    }
    *o = best;
    if (o->busy > PLAN_BUSY_MOST)
        o->fails |= PLAN_FAIL_KEEPS_UP;
    return 0;
}

// ---- singles -------------------------------------------------------------------------------------------

static bool candidate_wanted(const struct plan_catalogue *c, const struct plan_question *q,
                             const char *name, const json_t *m)
{
    if (strcasecmp(name, plan_catalogue_id(PLAN_MACHINE, m)) != 0)
        return false; // an alias
    if (q->only[0] != NULL)
        return named(c, q->only, m);
    if (named(c, q->owned, m))
        return true;
    return json_object_get(m, "variant_of") == NULL && json_object_get(m, "price_usd") != NULL;
}

static int single_add(const struct scene *s, const json_t *m, struct plan_advice *a, struct err *e)
{
    struct plan_option *o = &a->options[a->n];
    *o = (struct plan_option){0};
    int rc = candidate_read(m, o, e);
    if (rc != 0)
        return rc;
    o->owned[0] = named(s->c, s->q->owned, m);
    if (o->owned[0])
        o->price_usd = 0;
    rc = plan_task_train(s->c, o->names[0], s->q->work.train_model, &o->train, e);
    if (rc == 0)
        rc = plan_task_image(s->c, o->names[0], &o->image, e);
    if (rc == 0)
        rc = option_fill(s, NULL, o, e);
    a->n += rc == 0;
    return rc;
}

// ---- pairs ---------------------------------------------------------------------------------------------

static void pair_join(const struct plan_option ones[2], struct plan_option *o)
{
    for (size_t i = 0; i < 2; i++) {
        o->names[i] = ones[i].names[0];
        o->titles[i] = ones[i].titles[0];
        o->owned[i] = ones[i].owned[0];
        o->sold_until[i] = ones[i].sold_until[0];
        o->load_w += ones[i].load_w;
        o->idle_w += ones[i].idle_w;
        o->price_usd += ones[i].price_usd;
        o->fails |= ones[i].fails & (PLAN_FAIL_CLOUD | PLAN_FAIL_MAC | PLAN_FAIL_PRICE);
    }
    o->n = 2;
    o->memory_gb = fmax(ones[0].memory_gb, ones[1].memory_gb);
    o->noise = ones[0].noise > ones[1].noise ? ones[0].noise : ones[1].noise;
    o->price_date = ones[0].price_date;
    if (ones[1].price_date != NULL &&
        (o->price_date == NULL || strcmp(ones[1].price_date, o->price_date) < 0))
        o->price_date = ones[1].price_date; // the older of the two
}

static int pair_add(const struct scene *s, const struct plan_option ones[2], struct plan_advice *a,
                    struct err *e)
{
    const unsigned hopeless = PLAN_FAIL_FIT | PLAN_FAIL_PUBLISHED;
    struct plan_option *o = &a->options[a->n];
    *o = (struct plan_option){0};
    pair_join(ones, o);
    o->link = s->q->link != NULL ? s->q->link : plan_link_between(s->c, o->names[0], o->names[1]);
    if (o->link == NULL || ((ones[0].fails | ones[1].fails) & hopeless) != 0)
        return 0;
    int rc = option_fill(s, ones, o, e);
    if (rc != 0)
        return rc;
    double alone = INFINITY;
    for (size_t i = 0; i < 2; i++)
        if ((ones[i].fails & (PLAN_FAIL_KEEPS_UP | PLAN_FAIL_TRAIN)) == 0)
            alone = fmin(alone, ones[i].work_s);
    o->gain = alone / o->work_s;
    if (o->gain < PLAN_WORTH)
        o->fails |= PLAN_FAIL_GAIN;
    a->n++;
    return 0;
}

// ---- order ---------------------------------------------------------------------------------------------

static double measure(const struct plan_option *o, enum plan_order order)
{
    switch (order) {
    case PLAN_BY_MONEY:
        return o->usd_per_year;
    case PLAN_BY_ENERGY:
        return o->joules > 0 ? o->joules : INFINITY;
    case PLAN_BY_VALUE:
        return o->usd_per_year * o->work_s;
    default:
        return o->work_s;
    }
}

// qsort has no argument of its own; one order after another is sorted into a member instead.
struct place {
    double by;
    size_t option;
};

static int place_compare(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->by != y->by)
        return (x->by > y->by) - (x->by < y->by);
    return (x->option > y->option) - (x->option < y->option);
}

static void options_sort(const struct plan_question *q, struct plan_advice *a)
{
    struct place *places = mem_alloc((a->n + 1) * sizeof *places);
    struct plan_option *sorted = mem_alloc((a->n + 1) * sizeof *sorted);
    for (size_t i = 0; i < a->n; i++) {
        const struct plan_option *o = &a->options[i];
        // Those left out stand last, in the order of the catalogue.
        places[i] = (struct place){o->fails == 0 ? measure(o, q->order) : HUGE_VAL, i};
        a->n_good += o->fails == 0;
    }
    qsort(places, a->n, sizeof *places, place_compare);
    for (size_t i = 0; i < a->n; i++)
        sorted[i] = a->options[places[i].option];
    free(places);
    free(a->options);
    a->options = sorted;
}

static size_t best_of(const struct plan_advice *a, enum plan_order order, size_t machines)
{
    size_t best = a->n;
    for (size_t i = 0; i < a->n_good; i++) {
        if (machines != 0 && a->options[i].n != machines)
            continue;
        if (best == a->n || measure(&a->options[i], order) < measure(&a->options[best], order))
            best = i;
    }
    return best;
}

static void bests_fill(const struct plan_question *q, struct plan_advice *a)
{
    a->fastest = best_of(a, PLAN_BY_TIME, 0);
    a->cheapest = best_of(a, PLAN_BY_MONEY, 0);
    a->value = best_of(a, PLAN_BY_VALUE, 0);
    a->single = best_of(a, q->order, 1);
    a->pair = best_of(a, q->order, 2);
    for (size_t i = 0; i < a->n_good; i++) {
        struct plan_option *o = &a->options[i];
        o->frontier = true;
        for (size_t k = 0; k < a->n_good; k++) {
            const struct plan_option *other = &a->options[k];
            if (other->usd_per_year < o->usd_per_year && other->work_s <= o->work_s)
                o->frontier = false;
        }
    }
    for (size_t i = 0; i < a->n; i++) {
        const struct plan_option *o = &a->options[i];
        if (o->n == 2 && (o->fails & ~(unsigned)PLAN_FAIL_BUDGET) == 0 &&
            (a->budget_pair_usd <= 0 || o->price_usd < a->budget_pair_usd))
            a->budget_pair_usd = o->price_usd;
    }
}

// ---- all of it -----------------------------------------------------------------------------------------

static int singles_add(const struct scene *s, struct plan_advice *a, struct err *e)
{
    const char *name;
    json_t *m;
    json_object_foreach((json_t *)plan_catalogue_all(s->c, PLAN_MACHINE), name, m)
    {
        if (!candidate_wanted(s->c, s->q, name, m))
            continue;
        if (a->n >= MACHINES_MOST)
            return err_set(e, ERR_RANGE, "more than %d machines; --machines names some of them",
                           MACHINES_MOST);
        int rc = single_add(s, m, a, e);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int pairs_add(const struct scene *s, struct plan_advice *a, struct err *e)
{
    size_t singles = a->n;
    for (size_t i = 0; i < singles; i++)
        for (size_t k = i + 1; k < singles; k++) {
            const struct plan_option ones[2] = {a->options[i], a->options[k]};
            int rc = pair_add(s, ones, a, e);
            if (rc != 0)
                return rc;
        }
    return 0;
}

static int scene_open(const struct plan_catalogue *c, const struct plan_question *q,
                      struct scene *s, struct err *e)
{
    struct plan_task t = {.value = 1};
    int rc = question_check(q, e);
    *s = (struct scene){.c = c, .q = q};
    if (rc == 0)
        rc = names_check(c, q, &s->model, e);
    if (rc == 0 && q->work.train_share > 0)
        rc = plan_task_train(c, REFERENCE, q->work.train_model, &t, e);
    s->reference = t.value;
    return rc;
}

int plan_advise(const struct plan_catalogue *c, const struct plan_question *q,
                struct plan_advice *out, struct err *e)
{
    struct scene s;
    *out = (struct plan_advice){0};
    int rc = scene_open(c, q, &s, e);
    if (rc != 0)
        return rc;
    size_t most = json_object_size(plan_catalogue_all(c, PLAN_MACHINE));
    most = most < MACHINES_MOST ? most : MACHINES_MOST;
    out->options = mem_alloc((most + most * most / 2 + 1) * sizeof *out->options);
    rc = singles_add(&s, out, e);
    if (rc == 0)
        rc = pairs_add(&s, out, e);
    if (rc != 0) {
        plan_advice_free(out);
        return rc;
    }
    for (size_t i = 0; i < out->n; i++)
        limits_apply(q, &out->options[i]);
    options_sort(q, out);
    bests_fill(q, out);
    return out->n_good > 0 ? 0 : plan_advice_nothing(q, out, e);
}

void plan_advice_free(struct plan_advice *a)
{
    free(a->options);
    *a = (struct plan_advice){0};
}
