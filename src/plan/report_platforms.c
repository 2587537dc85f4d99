// Which machine is good for what, from the planner's own figures; and what is said of these machines, beside them.
#include "plan/report.h"

#include "base/json.h"
#include "plan/predict.h"
#include "plan/workload.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MACHINES_MOST 12
#define EITHER 1.15 // two machines within that are called alike
#define SPARK "dgx-spark"
#define MAC "mac-studio-m3-ultra"
#define STRIX "strix-halo"

const char *const plan_report_usual[] = {
    SPARK, MAC, "mac-studio-m3-ultra-96gb", STRIX, "3x-rtx-3090", "rtx-5090", NULL};

// ---- work ----------------------------------------------------------------------------------------------

enum measure_of { OF_TRAIN, OF_IMAGE, OF_TOKENS, OF_TOTAL, OF_FIRST, OF_JOULES };

static const struct work {
    const char *id, *what, *unit;
    bool less_is_better;
    enum measure_of of;
    const char *model, *quant;
    double prompt, gen, warm;
} works[] = {
    {"fine-tuning", "fine-tuning: LoRA of an 8B model in BF16", "tokens/s", false, OF_TRAIN,
     "llama-3.1-8b", NULL, 1, 1, 0},
    {"large models", "large models: writing with a mixture of 235B, Q4", "tokens/s", false,
     OF_TOKENS, "qwen3-235b-a22b", "Q4_K_M", 4096, 256, 0},
    {"dense models", "dense models: writing with 70B, Q4", "tokens/s", false, OF_TOKENS,
     "llama-3.3-70b", "Q4_K_M", 4096, 256, 0},
    {"images", "images: FLUX.1-dev, 1024 x 1024, 20 steps", "s", true, OF_IMAGE, NULL, NULL, 1, 1,
     0},
    {"conversation", "conversation: 2,048 tokens, three quarters known, answer of 256", "s", true,
     OF_TOTAL, "gpt-oss-120b", "MXFP4", 2048, 256, 0.75},
    {"long prompts", "long prompts: until the first token after 32,768", "s", true, OF_FIRST,
     "gpt-oss-120b", "MXFP4", 32768, 256, 0},
    {"energy", "daily use: energy of that conversation's answer", "J", true, OF_JOULES,
     "gpt-oss-120b", "MXFP4", 2048, 256, 0.75},
};
#define N_WORKS (sizeof works / sizeof *works)

struct figure {
    bool fits;
    double value;
    struct plan_range range;
};

static struct figure of_task(const struct plan_task *t)
{
    return (struct figure){t->fits, t->value, t->range};
}

static struct figure of_solo(const struct work *w, const struct plan_solo *s, double load_w)
{
    struct figure f = {s->fits, s->total_s, s->total};
    if (w->of == OF_TOKENS)
        f = (struct figure){
            s->fits, w->gen / s->decode_s, {w->gen / s->decode.high, w->gen / s->decode.low}};
    if (w->of == OF_FIRST)
        f = (struct figure){s->fits, s->prefill_s, s->prefill};
    if (w->of == OF_JOULES)
        f = (struct figure){s->fits && load_w > 0,
                            load_w * s->total_s,
                            {load_w * s->total.low, load_w * s->total.high}};
    return f;
}

static int figure_get(const struct plan_catalogue *c, const struct work *w, const char *machine,
                      struct figure *out, struct err *e)
{
    struct plan_task t;
    struct plan_solo s;
    if (w->of == OF_TRAIN || w->of == OF_IMAGE) {
        int rc = w->of == OF_TRAIN ? plan_task_train(c, machine, w->model, &t, e)
                                   : plan_task_image(c, machine, &t, e);
        *out = of_task(&t);
        return rc;
    }
    const json_t *m = plan_catalogue_find(c, PLAN_MACHINE, machine, e);
    struct plan_pair p = {.machines = {machine, NULL},
                          .model = w->model,
                          .quant = w->quant,
                          .prompt = w->prompt,
                          .gen = w->gen,
                          .warm = w->warm,
                          .rates = PLAN_RATES_LLAMA};
    int rc = m != NULL ? plan_alone(c, &p, &s, e) : ERR_NOT_FOUND;
    if (rc == 0)
        *out = of_solo(w, &s, json_number_value(json_object_get(m, "load_w")));
    return rc;
}

static bool better(const struct work *w, double a, double b)
{
    return w->less_is_better ? a < b : a > b;
}

// The best, and all that are hardly worse.
static json_t *best_json(const struct work *w, const char *const *machines,
                         const struct figure *figures, size_t n)
{
    json_t *list = json_array();
    size_t best = n;
    for (size_t i = 0; i < n; i++)
        if (figures[i].fits && (best == n || better(w, figures[i].value, figures[best].value)))
            best = i;
    for (size_t i = 0; i < n && best < n; i++) {
        double ratio = figures[i].value / figures[best].value;
        if (figures[i].fits && fmax(ratio, 1 / ratio) <= EITHER)
            json_array_append_new(list, json_string(machines[i]));
    }
    return list;
}

static int work_put(const struct plan_catalogue *c, const struct work *w,
                    const char *const *machines, size_t n, json_t *list, struct err *e)
{
    struct figure figures[MACHINES_MOST];
    json_t *o = json_object(), *values = json_array();
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        rc = figure_get(c, w, machines[i], &figures[i], e);
        json_t *f = rc == 0 && figures[i].fits
                        ? plan_report_figure(figures[i].value, figures[i].range)
                        : json_null();
        json_array_append_new(values, f);
    }
    json_put(o, "id", json_string(w->id));
    json_put(o, "what", json_string(w->what));
    json_put(o, "unit", json_string(w->unit));
    json_put(o, "model", w->model != NULL ? json_string(w->model) : json_null());
    json_put(o, "less_is_better", json_boolean(w->less_is_better));
    json_put(o, "values", values);
    if (rc == 0)
        json_put(o, "best", best_json(w, machines, figures, n));
    json_array_append_new(list, o);
    return rc;
}

// ---- what is said --------------------------------------------------------------------------------------

static void claim_put(json_t *list, const char *said, const char *verdict, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void claim_put(json_t *list, const char *said, const char *verdict, const char *format, ...)
{
    char here[400];
    va_list args;
    va_start(args, format);
    vsnprintf(here, sizeof here, format, args);
    va_end(args);
    json_t *o = json_object();
    json_put(o, "said", json_string(said));
    json_put(o, "verdict", json_string(verdict));
    json_put(o, "here", json_string(here));
    json_array_append_new(list, o);
}

static double member(const struct plan_catalogue *c, const char *machine, const char *name)
{
    return json_number_value(
        json_object_get(plan_catalogue_find(c, PLAN_MACHINE, machine, NULL), name));
}

static const struct work *work_find(const char *id)
{
    for (size_t i = 0; i < N_WORKS; i++)
        if (strcmp(works[i].id, id) == 0)
            return &works[i];
    return NULL;
}

// How many times as good a is as b; NAN where one of them cannot.
static double ratio_of(const struct plan_catalogue *c, const char *id, const char *a, const char *b)
{
    struct figure fa = {0}, fb = {0};
    const struct work *w = work_find(id);
    if (figure_get(c, w, a, &fa, NULL) != 0 || figure_get(c, w, b, &fb, NULL) != 0 || !fa.fits ||
        !fb.fits)
        return NAN;
    return w->less_is_better ? fb.value / fa.value : fa.value / fb.value;
}

static const char *verdict_of(double x, double low, double high)
{
    return x >= low && x <= high ? "agrees" : "differs";
}

static void speed_claims(const struct plan_catalogue *c, json_t *list)
{
    double spec = member(c, MAC, "bandwidth_gbs") / member(c, SPARK, "bandwidth_gbs");
    double dense = ratio_of(c, "dense models", MAC, SPARK);
    double train = ratio_of(c, "fine-tuning", SPARK, STRIX);
    double image = ratio_of(c, "images", SPARK, STRIX);
    double chat = ratio_of(c, "conversation", SPARK, STRIX);
    claim_put(list, "The Mac Studio writes 3 times as fast as the DGX Spark where the model fits",
              verdict_of(dense, 2.4, 3.6),
              "%.1f times the bandwidth; predicted %.1f times as fast with a dense 70B model", spec,
              dense);
    claim_put(list, "The DGX Spark fine-tunes 20 to 30 % faster than Strix Halo",
              verdict_of(train, 1.15, 1.35),
              "%.2f times as fast by measured arithmetic (%g and %g TFLOPS), %.2f by nominal; "
              "nobody published the same fine-tune on both",
              train, member(c, SPARK, "achieved_tflops"), member(c, STRIX, "achieved_tflops"),
              member(c, SPARK, "fp16_tflops") / member(c, STRIX, "fp16_tflops"));
    claim_put(list, "The DGX Spark draws images about 2.5 times as fast as Strix Halo",
              verdict_of(image, 2.1, 2.9),
              "%.2f times by measured arithmetic; nobody published the same image on both", image);
    claim_put(list, "Conversation is similar on a DGX Spark and on Strix Halo",
              verdict_of(chat, 1 / EITHER, EITHER),
              "a conversation's answer is predicted %.2f times as fast on the Spark", chat);
}

// Which of the two a kind of work is said to belong to.
static const struct belongs {
    const char *said, *work;
    int to; // 1: the Spark, -1: the Mac, 0: either
} belongings[] = {
    {"Of the two, fine-tuning belongs on the DGX Spark", "fine-tuning", 1},
    {"Of the two, large models belong on the Mac Studio", "large models", -1},
    {"Of the two, images belong on the DGX Spark", "images", 1},
    {"Of the two, conversation may be on either", "conversation", 0},
    {"Of the two, long prompts belong on the DGX Spark", "long prompts", 1},
    {"Of the two, daily use belongs on the Mac Studio for its energy", "energy", -1},
};

static void belonging_put(const struct plan_catalogue *c, const struct belongs *b, json_t *list)
{
    double ratio = ratio_of(c, b->work, SPARK, MAC);
    struct figure spark = {0};
    if (isnan(ratio)) { // one of them cannot do it at all
        figure_get(c, work_find(b->work), SPARK, &spark, NULL);
        claim_put(list, b->said, b->to == (spark.fits ? 1 : -1) ? "agrees" : "differs",
                  "it fits into the %s alone", spark.fits ? "DGX Spark" : "Mac Studio");
        return;
    }
    int to = ratio > EITHER ? 1 : ratio < 1 / EITHER ? -1 : 0;
    if (to == 0)
        claim_put(list, b->said, b->to == to ? "agrees" : "differs",
                  "predicted within %.0f %% of each other", 100 * (EITHER - 1));
    else
        claim_put(list, b->said, b->to == to ? "agrees" : "differs",
                  "the %s is predicted %.2f times as good", to > 0 ? "DGX Spark" : "Mac Studio",
                  to > 0 ? ratio : 1 / ratio);
}

static void cost_claims(const struct plan_catalogue *c, json_t *list)
{
    double product = 1, n = 0;
    for (size_t i = 0; i < N_WORKS; i++) {
        double r = ratio_of(c, works[i].id, STRIX, SPARK);
        if (isfinite(r)) {
            product *= r;
            n++;
        }
    }
    double capability = n > 0 ? pow(product, 1 / n) : NAN;
    double cost = member(c, STRIX, "price_usd") / member(c, SPARK, "price_usd");
    claim_put(list, "Strix Halo gives 90 % of a DGX Spark for 55 % of its price",
              verdict_of(capability, 0.8, 1),
              "%.0f %% over the work above (geometric mean), for %.0f %% of the price",
              100 * capability, 100 * cost);
    double small =
        member(c, "mac-studio-m3-ultra-96gb", "price_usd") + member(c, SPARK, "price_usd");
    claim_put(list, "The pair wants a budget of 8,000 dollars or more",
              verdict_of(small, 8000, 1e9),
              "a DGX Spark and the smallest M3 Ultra cost $%.0f, the largest $%.0f", small,
              member(c, MAC, "price_usd") + member(c, SPARK, "price_usd"));
    double peak = member(c, SPARK, "fp4_tflops");
    claim_put(list, "The DGX Spark computes 1 PFLOPS of FP4", "differs",
              "that counts zeros that are skipped; dense it is %.0f TFLOPS of FP4, and %g of FP16 "
              "were measured",
              peak, member(c, SPARK, "achieved_tflops"));
}

// What a machine cost when it came, and now.
static void price_claim(const struct plan_catalogue *c, const char *machine, const char *said,
                        const double within[2], json_t *list)
{
    const json_t *m = plan_catalogue_find(c, PLAN_MACHINE, machine, NULL);
    const json_t *old = json_array_get(json_object_get(m, "older_prices"), 0);
    const char *date = json_string_or(m, "price_date", "?");
    const char *before = json_string_value(json_object_get(old, "date"));
    double now = member(c, machine, "price_usd");
    const char *verdict = verdict_of(now, within[0], within[1]);
    if (old != NULL && before != NULL)
        claim_put(list, said, verdict, "$%.0f in %s, $%.0f in %s",
                  json_number_value(json_object_get(old, "usd")), before, now, date);
    else
        claim_put(list, said, verdict, "$%.0f in %s", now, date);
}

static void price_claims(const struct plan_catalogue *c, json_t *list)
{
    price_claim(c, SPARK, "A DGX Spark costs about 3,999 dollars", (double[2]){3800, 4200}, list);
    price_claim(c, MAC, "A Mac Studio M3 Ultra of 512 GB costs 5,000 to 10,000 dollars",
                (double[2]){5000, 10000}, list);
    price_claim(c, STRIX, "Strix Halo costs about 2,100 dollars", (double[2]){1900, 2300}, list);
}

static void rig_claim(const struct plan_catalogue *c, json_t *list)
{
    const char *best = NULL;
    double rate = 0;
    for (size_t i = 0; plan_report_usual[i] != NULL; i++) {
        struct figure f = {0};
        if (figure_get(c, work_find("dense models"), plan_report_usual[i], &f, NULL) == 0 &&
            f.fits && f.value > rate) {
            rate = f.value;
            best = plan_report_usual[i];
        }
    }
    if (best == NULL)
        return;
    claim_put(list, "Three RTX 3090 write the most tokens a second",
              strcmp(best, "3x-rtx-3090") == 0 ? "agrees" : "differs",
              "of these machines %s is predicted to write most with a dense 70B model, %.3g "
              "tokens/s; three RTX 3090 %.2f times that (llama.cpp, layer by layer)",
              best, rate, ratio_of(c, "dense models", "3x-rtx-3090", best));
}

static int pair_claim(const struct plan_catalogue *c, json_t *list, struct err *e)
{
    struct plan_pair p = {.machines = {SPARK, MAC},
                          .link = "10gbe",
                          .model = "llama-3.1-8b",
                          .quant = "F16",
                          .prompt = 8192,
                          .gen = 32,
                          .rates = PLAN_RATES_PUBLISHED};
    struct plan_comparison published, llama;
    int rc = plan_compare(c, &p, &published, e);
    p.rates = PLAN_RATES_LLAMA;
    if (rc == 0)
        rc = plan_compare(c, &p, &llama, e);
    if (rc != 0)
        return rc;
    claim_put(list, "Together they are 2.8 times as fast as either alone", "differs",
              "published rates (8,192 tokens in, 32 out): %.1f times the Mac, %.1f times the "
              "Spark; predicted for llama.cpp %.2f times the better of them (%.2f to %.2f)",
              published.solo[1].total_s / published.hybrid.total_s,
              published.solo[0].total_s / published.hybrid.total_s, llama.gain,
              llama.gain_range.low, llama.gain_range.high);
    return 0;
}

// ---- all of it -----------------------------------------------------------------------------------------

static json_t *machine_json(const json_t *m)
{
    static const char *const members[] = {
        "name",        "title",           "memory_gib", "gpus",       "bandwidth_gbs",
        "fp16_tflops", "achieved_tflops", "fp4_tflops", "load_w",     "idle_w",
        "noise",       "price_usd",       "price_date", "sold_until", "os",
        "good_for"};
    json_t *o = json_object();
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        json_t *value = json_object_get(m, members[i]);
        json_put(o, members[i], value != NULL ? json_incref(value) : json_null());
    }
    return o;
}

int plan_report_platforms(const struct plan_catalogue *c, const char *const *machines, size_t n,
                          json_t **out, struct err *e)
{
    json_t *o = json_object(), *p = json_object(), *list = json_array(), *work = json_array(),
           *claims = json_array();
    int rc = n > 0 && n <= MACHINES_MOST
                 ? 0
                 : err_set(e, ERR_INVALID, "%zu machines; say 1 to %d", n, MACHINES_MOST);
    json_put(o, "kind", json_string("platforms"));
    json_put(o, "version", json_integer(PLAN_REPORT_VERSION));
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const json_t *m = plan_catalogue_find(c, PLAN_MACHINE, machines[i], e);
        if (m == NULL)
            rc = ERR_NOT_FOUND;
        else
            json_array_append_new(list, machine_json(m));
    }
    for (size_t i = 0; rc == 0 && i < N_WORKS; i++)
        rc = work_put(c, &works[i], machines, n, work, e);
    if (rc == 0) {
        for (size_t i = 0; i < sizeof belongings / sizeof *belongings; i++)
            belonging_put(c, &belongings[i], claims);
        speed_claims(c, claims);
        cost_claims(c, claims);
        price_claims(c, claims);
        rig_claim(c, claims);
        rc = pair_claim(c, claims, e);
    }
    json_put(p, "machines", list);
    json_put(p, "work", work);
    json_put(p, "claims", claims);
    json_put(o, "platforms", p);
    *out = o;
    return rc;
}
