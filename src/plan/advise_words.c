// Advice in sentences: why an option is where it is, why another is none, whether a pair is worth it, and what to
// change where nothing is left.
#include "plan/advise.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void plan_words_add(struct plan_words *w, const char *format, ...)
{
    va_list args;
    if (w->n == PLAN_LINES)
        return;
    va_start(args, format);
    vsnprintf(w->lines[w->n++], sizeof *w->lines, format, args);
    va_end(args);
}

void plan_option_name(const struct plan_option *o, char *out, size_t out_bytes)
{
    snprintf(out, out_bytes, "%s%s%s", o->names[0], o->n == 2 ? " + " : "",
             o->n == 2 ? o->names[1] : "");
}

// "$4,699"
static const char *usd(double x, char out[32])
{
    char digits[32];
    snprintf(digits, sizeof digits, "%.0f", fabs(x) < 1e15 ? x : 0);
    size_t n = strlen(digits), k = 0;
    out[k++] = '$';
    for (size_t i = 0; i < n && k < 30; i++) {
        if (i > 0 && (n - i) % 3 == 0 && digits[i - 1] != '-')
            out[k++] = ',';
        out[k++] = digits[i];
    }
    out[k] = '\0';
    return out;
}

// "1.9 times as fast as", also where there is nothing to divide by.
static double times(double slow, double fast)
{
    return fast > 0 ? slow / fast : 1;
}

// ---- why an option is there ----------------------------------------------------------------------------

static void bound_words(const struct plan_option *o, struct plan_words *out)
{
    double share = o->prefill_s / o->total_s;
    const char *reads = o->names[o->two.reader], *writes = o->names[o->two.writer];
    if (o->n == 2 && !o->shares)
        plan_words_add(out,
                       "%s answers alone, since a hand-off would not be faster; the other is "
                       "there for other work",
                       reads);
    else if (o->n == 2 && o->tail_s >= 0.01)
        plan_words_add(out,
                       "%s reads the prompt in %.3g s, %s writes the answer in %.3g s; the cache "
                       "(%.3g GB) crosses %s meanwhile, and %.2g s of that are waited for",
                       reads, o->prefill_s, writes, o->decode_s, o->two.kv_bytes / 1e9, o->link,
                       o->tail_s);
    else if (o->n == 2)
        plan_words_add(out,
                       "%s reads the prompt in %.3g s, %s writes the answer in %.3g s; the cache "
                       "(%.3g GB) crosses %s meanwhile, and nobody waits for it",
                       reads, o->prefill_s, writes, o->decode_s, o->two.kv_bytes / 1e9, o->link);
    else
        plan_words_add(out, "%.0f %% of an answer's time goes to %s", 100 * fmax(share, 1 - share),
                       share > 0.5 ? "reading the prompt (arithmetic)"
                                   : "writing the answer (memory bandwidth)");
}

void plan_option_why(const struct plan_question *q, const struct plan_advice *a, size_t option,
                     struct plan_words *out)
{
    const struct plan_option *o = &a->options[option], *fast = &a->options[a->fastest];
    *out = (struct plan_words){0};
    bound_words(o, out);
    if (option != a->fastest && o->work_s > 0)
        plan_words_add(out, "%.2f times the time of the fastest for %.0f %% of its yearly cost",
                       times(o->work_s, fast->work_s),
                       100 * times(o->usd_per_year, fast->usd_per_year));
    if (o->batch > 1)
        plan_words_add(out, "%.0f answers at once, to keep up with %g requests an hour", o->batch,
                       q->work.requests_per_hour);
    if (o->n == 2 && isfinite(o->gain))
        plan_words_add(out, "the work takes %.2f times as long on the better of its two alone",
                       o->gain);
    for (size_t i = 0; i < o->n; i++)
        if (o->sold_until[i] != NULL && !o->owned[i])
            plan_words_add(out, "%s is not sold new since %s: the price is that of then",
                           o->names[i], o->sold_until[i]);
    if (o->frontier)
        plan_words_add(out, "nothing that costs less a year is as fast");
}

// ---- why an option is none -----------------------------------------------------------------------------

static void limit_words(const struct plan_question *q, const struct plan_option *o, unsigned fail,
                        struct plan_words *out)
{
    char price[32], budget[32];
    switch (fail) {
    case PLAN_FAIL_PRICE:
        plan_words_add(out, "no price is known; --own it if you have it");
        break;
    case PLAN_FAIL_CLOUD:
        plan_words_add(out, "it is not at home; --cloud allows that");
        break;
    case PLAN_FAIL_KEEPS_UP:
        plan_words_add(
            out, "it does not keep up: the work takes %.0f %% of the time, at most %.0f is sound",
            100 * o->busy, 100 * PLAN_BUSY_MOST);
        break;
    case PLAN_FAIL_BUDGET:
        plan_words_add(out, "it costs %s, the budget is %s", usd(o->price_usd, price),
                       usd(q->limits.budget_usd, budget));
        break;
    case PLAN_FAIL_MEMORY:
        plan_words_add(out, "it has %.0f GiB of memory, not the %g asked for", o->memory_gb,
                       q->limits.memory_min_gb);
        break;
    case PLAN_FAIL_POWER:
        if (o->load_w > 0)
            plan_words_add(out, "it draws %.0f W, more than %g", o->load_w, q->limits.power_max_w);
        else
            plan_words_add(out, "nobody says what it draws (load_w)");
        break;
    case PLAN_FAIL_NOISE:
        plan_words_add(out, "it is %s", plan_noise_names[o->noise]);
        break;
    case PLAN_FAIL_MAC:
        plan_words_add(out, "it is no Mac");
        break;
    default:
        plan_words_add(out, "the work takes only %.2f times as long on one of its two alone",
                       o->gain);
    }
}

void plan_option_left_out(const struct plan_question *q, const struct plan_option *o,
                          struct plan_words *out)
{
    *out = (struct plan_words){0};
    const struct plan_solo *s = &o->solo[o->n == 2 && o->solo[0].fits ? 1 : 0];
    unsigned fail = o->fails & (~o->fails + 1); // the lowest bit
    if (fail == 0)
        return;
    if (fail == PLAN_FAIL_FIT)
        plan_words_add(out, "%s needs %.3g GB, it has %.3g GB for it", q->work.model,
                       s->need_bytes / 1e9, s->have_bytes / 1e9);
    else if (fail == PLAN_FAIL_TRAIN)
        plan_words_add(out, "a fine-tune of %s needs %.3g GB, which it has not",
                       q->work.train_model, o->train.need_bytes / 1e9);
    else if (fail == PLAN_FAIL_PUBLISHED)
        plan_words_add(out,
                       "nobody published rates of it with %s; --engine llama.cpp predicts "
                       "them",
                       q->work.model);
    else
        limit_words(q, o, fail, out);
}

// ---- pairs ---------------------------------------------------------------------------------------------

static void money_words(const struct plan_question *q, const struct plan_advice *a,
                        const struct plan_option *o, struct plan_words *out)
{
    char pair[32], other[32], name[300];
    for (size_t i = 0; i < a->n_good; i++) {
        const struct plan_option *single = &a->options[i];
        if (single->n == 2 || single->usd_per_year > o->usd_per_year || single->work_s > o->work_s)
            continue;
        plan_option_name(single, name, sizeof name);
        plan_words_add(
            out, "%s alone costs %s a year, less than the pair's %s, and is %.2f times as fast",
            name, usd(single->usd_per_year, other), usd(o->usd_per_year, pair),
            times(o->work_s, single->work_s));
        break;
    }
    if (q->limits.budget_usd > 0 && o->price_usd > q->limits.budget_usd)
        plan_words_add(out, "the budget of %s is below the pair's %s",
                       usd(q->limits.budget_usd, other), usd(o->price_usd, pair));
}

static void edge_words(const struct plan_question *q, const struct plan_comparison *two,
                       struct plan_words *out)
{
    const struct plan_workload *w = &q->work;
    double gbps = two->link_bytes_per_s * 8 / 1e9;
    if (two->gain >= PLAN_WORTH)
        return;
    if (isnan(two->even_prompt) && isnan(two->even_gbps))
        plan_words_add(out, "no prompt and no link is enough: one of the two is faster at both");
    if (w->warm > 0 && !(w->warm <= two->fade_warm)) {
        double most = isfinite(two->fade_warm) ? floor(100 * two->fade_warm) : 0;
        plan_words_add(out,
                       "%.0f %% of the prompt is in the cache, so there is little to read; up to "
                       "%.0f %% a tenth is gained",
                       100 * w->warm, most);
    }
    if (w->prompt < two->even_prompt)
        plan_words_add(out, "the prompt is short: %.0f tokens, it begins to pay at %.0f", w->prompt,
                       ceil(two->even_prompt));
    if (gbps < two->even_gbps)
        plan_words_add(out,
                       "the link is slow: %.3g Gbit/s of payload, it begins to pay at a link "
                       "of %.3g",
                       gbps, two->even_gbps);
    if (isnan(two->fade_gen) && two->gain > 1)
        plan_words_add(out,
                       "the answer is long: %.0f tokens against %.0f of the prompt, so that "
                       "writing, which only one of the two does, is most of it",
                       w->gen, w->prompt);
}

// What the gain costs: the pair's year against that of its better half.
static void price_words(const struct plan_advice *a, const struct plan_option *o,
                        const struct plan_comparison *two, struct plan_words *out)
{
    const char *better = two->solo[two->solo[1].total_s < two->solo[0].total_s].name;
    for (size_t i = 0; i < a->n; i++) {
        const struct plan_option *one = &a->options[i];
        if (one->n == 1 && strcmp(one->names[0], better) == 0 && one->usd_per_year > 0)
            plan_words_add(out, "%.2f times as fast as %s alone, for %.2f times its yearly cost",
                           two->gain, better, o->usd_per_year / one->usd_per_year);
    }
}

bool plan_pair_worth(const struct plan_question *q, const struct plan_advice *a,
                     const struct plan_option *o, const struct plan_comparison *two,
                     struct plan_words *out)
{
    *out = (struct plan_words){0};
    if (!two->possible) {
        plan_words_add(out, "%s does not fit into both", q->work.model);
        return false;
    }
    edge_words(q, two, out);
    money_words(q, a, o, out);
    if (out->n == 0 && o->gain < PLAN_WORTH)
        plan_words_add(out, "the work takes only %.2f times as long on one of the two alone",
                       o->gain);
    if (out->n > 0)
        return false;
    price_words(a, o, two, out);
    if (isfinite(two->fade_gen))
        plan_words_add(out, "at least a tenth is gained up to an answer of %.0f tokens",
                       floor(two->fade_gen));
    if (isfinite(two->even_prompt))
        plan_words_add(out, "it pays from a prompt of %.0f tokens and a link of %.3g Gbit/s",
                       ceil(two->even_prompt), two->even_gbps);
    if (isfinite(two->fade_warm))
        plan_words_add(out, "and with up to %.0f %% of the prompt in both caches",
                       floor(100 * two->fade_warm));
    return true;
}

// ---- what to buy ---------------------------------------------------------------------------------------

static void best_words(const struct plan_advice *a, const char *what, size_t option,
                       struct plan_words *out)
{
    char name[300], price[32], year[32];
    const struct plan_option *o = &a->options[option];
    plan_option_name(o, name, sizeof name);
    plan_words_add(out, "%s: %s, %s, %s a year; an answer takes %.3g s", what, name,
                   usd(o->price_usd, price), usd(o->usd_per_year, year), o->total_s);
}

static void pair_words(const struct plan_question *q, const struct plan_advice *a,
                       struct plan_words *out)
{
    char price[32], budget[32], name[300];
    if (a->pair < a->n) {
        const struct plan_option *o = &a->options[a->pair];
        plan_option_name(o, name, sizeof name);
        plan_words_add(out,
                       "a pair gains: %s does the work %.2f times as fast as the better of "
                       "its two alone",
                       name, o->gain);
    } else if (a->budget_pair_usd > 0 && q->limits.budget_usd > 0) {
        plan_words_add(out,
                       "a pair is beyond the budget: the least that one with a gain costs is "
                       "%s, the budget is %s",
                       usd(a->budget_pair_usd, price), usd(q->limits.budget_usd, budget));
    } else {
        plan_words_add(out, "no pair within the limits does this work a tenth faster than one of "
                            "its two alone");
    }
}

void plan_advice_words(const struct plan_question *q, const struct plan_advice *a,
                       struct plan_words *out)
{
    *out = (struct plan_words){0};
    if (a->n_good == 0)
        return;
    best_words(a, "fastest", a->fastest, out);
    if (a->value != a->fastest)
        best_words(a, "best value (time times yearly cost)", a->value, out);
    if (a->cheapest != a->fastest && a->cheapest != a->value)
        best_words(a, "cheapest a year that does the work", a->cheapest, out);
    pair_words(q, a, out);
}

// ---- nothing is left -----------------------------------------------------------------------------------

// How far a limit would have to move for an option.
static double distance_of(const struct plan_option *o, unsigned fail)
{
    return fail == PLAN_FAIL_BUDGET  ? o->price_usd
           : fail == PLAN_FAIL_POWER ? o->load_w
                                     : o->work_s;
}

// The nearest option that this limit alone keeps out; n: none.
static size_t lone_best(const struct plan_advice *a, unsigned fail)
{
    size_t best = a->n;
    for (size_t i = 0; i < a->n; i++)
        if (a->options[i].fails == fail &&
            (best == a->n ||
             distance_of(&a->options[i], fail) < distance_of(&a->options[best], fail)))
            best = i;
    return best;
}

static size_t put(char *out, size_t n, size_t max, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int got = vsnprintf(out + n, max - n, format, args);
    va_end(args);
    return got > 0 && n + (size_t)got < max ? n + (size_t)got : max - 1;
}

// What would do, for each limit that alone stands in the way of something.
static size_t ways_put(const struct plan_advice *a, char *out, size_t max)
{
    static const struct {
        unsigned fail;
        const char *way;
    } ways[] = {
        {PLAN_FAIL_BUDGET, "a budget of"},
        {PLAN_FAIL_MEMORY, "a smaller --memory-min:"},
        {PLAN_FAIL_POWER, "a larger --power-max:"},
        {PLAN_FAIL_NOISE, "more --noise:"},
        {PLAN_FAIL_MAC, "no --only-mac:"},
        {PLAN_FAIL_CLOUD, "--cloud:"},
        {PLAN_FAIL_KEEPS_UP, "less work an hour:"},
        {PLAN_FAIL_PRICE, "a price for"},
        {PLAN_FAIL_PUBLISHED, "--engine llama.cpp:"},
    };
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        size_t best = lone_best(a, ways[i].fail);
        char name[300], price[32];
        if (best == a->n)
            continue;
        const struct plan_option *o = &a->options[best];
        plan_option_name(o, name, sizeof name);
        n = put(out, n, max, "%s%s ", n > 0 ? "; " : "", ways[i].way);
        if (ways[i].fail == PLAN_FAIL_BUDGET)
            n = put(out, n, max, "%s (%s)", usd(o->price_usd, price), name);
        else if (ways[i].fail == PLAN_FAIL_POWER)
            n = put(out, n, max, "%.0f W (%s)", o->load_w, name);
        else
            n = put(out, n, max, "%s", name);
    }
    return n;
}

int plan_advice_nothing(const struct plan_question *q, const struct plan_advice *a, struct err *e)
{
    char ways[600];
    const struct plan_option *largest = NULL;
    bool fits = false;
    for (size_t i = 0; i < a->n; i++) {
        const struct plan_option *o = &a->options[i];
        fits = fits || (o->fails & (PLAN_FAIL_FIT | PLAN_FAIL_TRAIN)) == 0;
        if (o->n == 1 && (largest == NULL || o->memory_gb > largest->memory_gb))
            largest = o;
    }
    if (largest == NULL)
        return err_set(e, ERR_RANGE,
                       "no machine of the catalogue has a price; --own names those "
                       "that you have");
    if (!fits && (largest->fails & PLAN_FAIL_FIT))
        return err_set(e, ERR_RANGE,
                       "%s %s with %g tokens fits into no machine: it needs %.1f GB, the largest "
                       "(%s) has %.1f GB for it; take a smaller --quant, a smaller model or a "
                       "shorter --prompt",
                       q->work.model, q->work.quant != NULL ? q->work.quant : "",
                       q->work.prompt + q->work.gen, largest->solo[0].need_bytes / 1e9,
                       largest->names[0], largest->solo[0].have_bytes / 1e9);
    if (!fits)
        return err_set(e, ERR_RANGE,
                       "a fine-tune of %s fits into no machine: it needs %.1f GB, the largest (%s) "
                       "has %.0f GiB; "
                       "take a smaller --train-model or --train-share 0",
                       q->work.train_model, largest->train.need_bytes / 1e9, largest->names[0],
                       largest->memory_gb);
    if (ways_put(a, ways, sizeof ways) > 0)
        return err_set(e, ERR_RANGE, "nothing is within the limits; what would do: %s", ways);
    return err_set(e, ERR_RANGE,
                   "nothing is within the limits: each machine breaks more than one of "
                   "them; relax --budget, --memory-min, --power-max, --noise or the model's size");
}
