// tandem plan: what to buy for a workload, and why; tandem plan platforms: which machine is good for what.
#include "cli/plan.h"

#include "base/json.h"
#include "cli/cli.h"
#include "plan/advise.h"
#include "plan/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_BYTES 4096
#define SHOWN 10

struct options {
    struct plan_question q;
    struct cli_list only, owned;
    const char *noise, *by, *engine, *html;
    int64_t top;
    bool private_only, json;
    char only_names[NAMES_BYTES], owned_names[NAMES_BYTES];
};

static const char about[] =
    "Says which machine, or which pair of them, serves a workload best, what it costs with "
    "electricity,\n"
    "and why; and when a pair is not worth its money. Speeds are predicted, with the interval in "
    "which\n"
    "four measurements in five lie. Parts:\n"
    "  predict    the rate at which one machine reads a prompt or writes an answer\n"
    "  compare    two machines and a link against each of them alone\n"
    "  platforms  which machine is good for what\n"
    "  simulate   a fleet of machines under load\n"
    "\"tandem plan predict --help\" says more. Machines, models, quantisations and links of your "
    "own go\n"
    "into *.json files in the folder catalogue/ beside tandem.ini. Exit code 3: nothing is within "
    "the limits.";

static const char usage[] =
    "tandem plan --model ID [--quant NAME] [--prompt N] [--gen N] [--budget USD] [OPTIONS]\n"
    "       tandem plan predict|compare|platforms|simulate OPTIONS";

static size_t workload_options(struct plan_workload *w, struct cli_option *out)
{
    const struct cli_option options[] = {
        {"--model", 'm', CLI_STRING, &w->model, "ID", "of the catalogue, or FILE.gguf", 0, 0},
        {"--quant", 0, CLI_STRING, &w->quant, "NAME", "Q4_K_M, MXFP4, ... (F16)", 0, 0},
        {"--prompt", 0, CLI_DOUBLE, &w->prompt, "N", "tokens of a prompt (4096)", 1,
         PLAN_TOKENS_MAX},
        {"--gen", 0, CLI_DOUBLE, &w->gen, "N", "tokens of an answer (256)", 1, PLAN_TOKENS_MAX},
        {"--warm", 0, CLI_DOUBLE, &w->warm, "SHARE",
         "of the prompt, 0 to 0.999, that is in the cache already (0)", 0, 0.999},
        {"--requests", 0, CLI_DOUBLE, &w->requests_per_hour, "N", "requests an hour (20)", 0, 1e6},
        {"--train-share", 0, CLI_DOUBLE, &w->train_share, "SHARE",
         "fine-tuning, in hours of a DGX Spark per hour (0)", 0, 1},
        {"--train-model", 0, CLI_STRING, &w->train_model, "ID", "what is fine-tuned (llama-3.1-8b)",
         0, 0},
        {"--images", 0, CLI_DOUBLE, &w->images_per_hour, "N",
         "images an hour, FLUX.1 of 1024 pixels (0)", 0, 1e6},
        {"--hours", 0, CLI_DOUBLE, &w->hours_per_day, "N", "hours of that a day (8)", 0.1, 24},
    };
    memcpy(out, options, sizeof options);
    return sizeof options / sizeof *options;
}

static size_t limit_options(struct options *o, struct cli_option *out)
{
    struct plan_limits *l = &o->q.limits;
    const struct cli_option options[] = {
        {"--budget", 0, CLI_DOUBLE, &l->budget_usd, "USD", "the most that it may cost", -1e12, 1e9},
        {"--memory-min", 0, CLI_DOUBLE, &l->memory_min_gb, "GIB", "the least memory of a machine",
         0, 1e6},
        {"--power-max", 0, CLI_DOUBLE, &l->power_max_w, "W", "the most power under load", 0, 1e6},
        {"--noise", 0, CLI_STRING, &o->noise, "quiet|audible|loud",
         "the most noise under load (loud)", 0, 0},
        {"--only-mac", 0, CLI_FLAG, &l->only_mac, NULL, "Macs alone", 0, 0},
        {"--private", 0, CLI_FLAG, &o->private_only, NULL,
         "nothing leaves the house (that is so unless --cloud is said)", 0, 0},
        {"--cloud", 0, CLI_FLAG, &l->cloud, NULL,
         "machines elsewhere too, of which only your own catalogue can know", 0, 0},
        {"--machines", 0, CLI_LIST, &o->only, "A,B", "look at these alone, and at their pairs", 0,
         0},
        {"--own", 0, CLI_LIST, &o->owned, "A,B", "machines that you have: they cost nothing", 0, 0},
        {"--link", 0, CLI_STRING, &o->q.link, "ID", "between pairs (the fastest that both have)", 0,
         0},
    };
    memcpy(out, options, sizeof options);
    return sizeof options / sizeof *options;
}

static void report_options(struct options *o, struct cli_option *out)
{
    const struct cli_option options[] = {
        {"--electricity", 0, CLI_DOUBLE, &o->q.usd_per_kwh, "USD", "for a kWh (0.18)", 0, 100},
        {"--years", 0, CLI_DOUBLE, &o->q.years, "N", "until it is worth nothing (3)", 0.1, 50},
        {"--engine", 0, CLI_STRING, &o->engine, "NAME",
         "llama.cpp predicts; published takes published rates of this very model", 0, 0},
        {"--by", 0, CLI_STRING, &o->by, "time|money|energy|value", "what decides (time)", 0, 0},
        {"--top", 0, CLI_INT, &o->top, "N", "how many are shown (10); 0: all", 0, 10000},
        {"--html", 0, CLI_STRING, &o->html, "FILE", "write a page with charts", 0, 0},
        {"--json", 0, CLI_FLAG, &o->json, NULL, "print one JSON object", 0, 0},
    };
    memcpy(out, options, sizeof options);
}

// ---- values that are words -----------------------------------------------------------------------------

static int word_get(const char *option, const char *word, const char *const *words, int *out,
                    struct err *e)
{
    char all[200] = "";
    if (word == NULL)
        return 0;
    for (int i = 0; words[i] != NULL; i++) {
        if (strcmp(words[i], word) == 0) {
            *out = i;
            return 0;
        }
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s%s", i > 0 ? ", " : "", words[i]);
    }
    return err_set(e, ERR_INVALID, "%s is \"%.40s\"; say one of %s", option, word, all);
}

static int budget_check(double budget, bool given, struct err *e)
{
    if (!given || budget > 0)
        return 0;
    return err_set(
        e, ERR_INVALID,
        "--budget is %g; it must be more than 0 dollars, or left out for no limit (--own "
        "names machines that you have)",
        budget);
}

static int question_complete(struct options *o, struct err *e)
{
    static const char *const noises[] = {"quiet", "audible", "loud", NULL};
    static const char *const orders[] = {"time", "money", "energy", "value", NULL};
    static const char *const engines[] = {"llama.cpp", "published", NULL};
    const struct plan_names only = {"--machines",   &o->only,      o->q.only,
                                    PLAN_NAMES_MAX, o->only_names, NAMES_BYTES};
    const struct plan_names owned = {"--own",        &o->owned,      o->q.owned,
                                     PLAN_NAMES_MAX, o->owned_names, NAMES_BYTES};
    int noise = PLAN_NOISE_LOUD, order = PLAN_BY_TIME, engine = 0;
    if (o->q.work.model == NULL)
        return err_set(e, ERR_INVALID,
                       "--model ID is missing, for example --model gpt-oss-120b; tandem plan "
                       "--help says what else there is");
    if (o->private_only && o->q.limits.cloud)
        return err_set(e, ERR_INVALID, "--private and --cloud exclude each other");
    int rc = word_get("--noise", o->noise, noises, &noise, e);
    if (rc == 0)
        rc = word_get("--by", o->by, orders, &order, e);
    if (rc == 0)
        rc = word_get("--engine", o->engine, engines, &engine, e);
    if (rc == 0)
        rc = plan_names_get(&only, e);
    if (rc == 0)
        rc = plan_names_get(&owned, e);
    o->q.limits.noise_most = (enum plan_noise)noise;
    o->q.order = (enum plan_order)order;
    o->q.rates = engine == 1 ? PLAN_RATES_PUBLISHED : PLAN_RATES_LLAMA;
    return rc;
}

static int options_read(int argc, char **argv, struct options *o, bool *done, struct err *e)
{
    struct cli_option all[40] = {{0}};
    size_t n = workload_options(&o->q.work, all);
    n += limit_options(o, all + n);
    report_options(o, all + n);
    o->q.limits.budget_usd = NAN; // not given
    int rc = cli_parse(argc, argv, all, usage, about, NULL, done, e);
    if (rc != 0 || *done)
        return rc;
    bool given = !isnan(o->q.limits.budget_usd);
    rc = budget_check(o->q.limits.budget_usd, given, e);
    if (!given)
        o->q.limits.budget_usd = 0;
    return rc == 0 ? question_complete(o, e) : rc;
}

// ---- running -------------------------------------------------------------------------------------------

static int report(const struct plan_catalogue *c, const struct options *o,
                  const struct plan_advice *a, struct err *e)
{
    json_t *document = NULL, *tables = NULL;
    int rc = plan_report_advice(c, &o->q, a, (size_t)o->top, &document, e);
    size_t n = 0;
    while (plan_report_usual[n] != NULL)
        n++;
    if (rc == 0 && o->html != NULL) {
        rc = plan_report_platforms(c, plan_report_usual, n, &tables, e);
        if (rc == 0)
            json_object_update_missing(document, tables);
        if (rc == 0)
            rc = plan_html_write(o->html, document, e);
    }
    if (rc == 0 && o->json)
        plan_json_print(document);
    else if (rc == 0)
        plan_text_print(document);
    json_decref(document);
    json_decref(tables);
    return rc;
}

int plan_advise_run(int argc, char **argv)
{
    struct options *o = mem_alloc(sizeof *o);
    struct plan_advice a = {0};
    struct plan_catalogue *c = NULL;
    struct err e = {0};
    bool done = false;
    plan_question_defaults(&o->q);
    o->top = SHOWN;
    int rc = options_read(argc, argv, o, &done, &e);
    if (rc == 0 && !done)
        rc = plan_catalogue_open(&c, &e);
    if (rc == 0 && !done)
        rc = plan_advise(c, &o->q, &a, &e);
    if (rc == 0 && !done)
        rc = report(c, o, &a, &e);
    bool nothing = rc == ERR_RANGE && a.n > 0 && a.n_good == 0;
    plan_advice_free(&a);
    plan_catalogue_free(c);
    free(o);
    if (rc == 0)
        return 0;
    int code = cli_fail("plan", &e);
    return nothing ? 3 : code;
}

// ---- platforms -----------------------------------------------------------------------------------------

static const char platforms_about[] =
    "Which machine is good for what, from the planner's own figures: fine-tuning, large models, "
    "images,\n"
    "conversation, long prompts, energy; and what is said of these machines, beside what the "
    "figures say.";

static int platforms_report(const struct plan_catalogue *c, const char *const *machines,
                            const char *html, bool json, struct err *e)
{
    json_t *document = NULL;
    size_t n = 0;
    while (machines[n] != NULL)
        n++;
    int rc = plan_report_platforms(c, machines, n, &document, e);
    if (rc == 0 && html != NULL)
        rc = plan_html_write(html, document, e);
    if (rc == 0 && json)
        plan_json_print(document);
    else if (rc == 0)
        plan_text_print(document);
    json_decref(document);
    return rc;
}

int plan_platforms_run(int argc, char **argv)
{
    struct cli_list list = {0};
    const char *html = NULL, *machines[PLAN_NAMES_MAX] = {NULL};
    char room[NAMES_BYTES];
    bool json = false, done = false;
    struct plan_catalogue *c = NULL;
    struct err e = {0};
    const struct cli_option options[] = {
        {"--machines", 0, CLI_LIST, &list, "A,B", "these, instead of the usual ones", 0, 0},
        {"--html", 0, CLI_STRING, &html, "FILE", "write a page with charts", 0, 0},
        {"--json", 0, CLI_FLAG, &json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    const struct plan_names names = {"--machines",   &list, machines,
                                     PLAN_NAMES_MAX, room,  sizeof room};
    int rc = cli_parse(argc, argv, options, "tandem plan platforms [--machines A,B]",
                       platforms_about, NULL, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0)
        rc = plan_names_get(&names, &e);
    if (rc == 0)
        rc = plan_catalogue_open(&c, &e);
    if (rc == 0)
        rc =
            platforms_report(c, machines[0] != NULL ? machines : plan_report_usual, html, json, &e);
    plan_catalogue_free(c);
    return rc == 0 ? 0 : cli_fail("plan", &e);
}
