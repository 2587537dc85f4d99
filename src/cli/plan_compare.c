// tandem plan compare: two machines and a link against each of them alone.
#include "cli/plan.h"

#include "base/json.h"
#include "cli/cli.h"
#include "plan/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BAR_CELLS 44

struct options {
    struct plan_pair pair;
    struct cli_list machines;
    const char *engine, *html;
    bool json;
};

static const char about[] =
    "Compares two machines that share a request over a link with each of them alone: one reads "
    "the\n"
    "prompt, the other writes the answer, and the KV cache crosses meanwhile. --engine published "
    "takes\n"
    "rates that somebody published for this very model (the default where there are any), "
    "llama.cpp\n"
    "predicts them; both are shown. Exit code 3: the model does not fit into both machines.";

static int options_parse(int argc, char **argv, struct options *o, bool *done, struct err *e)
{
    const struct cli_option options[] = {
        {"--machines", 0, CLI_LIST, &o->machines, "A,B", "two machines of the catalogue", 0, 0},
        {"--link", 0, CLI_STRING, &o->pair.link, "ID", "between them (10gbe)", 0, 0},
        {"--model", 'm', CLI_STRING, &o->pair.model, "ID", "of the catalogue, or FILE.gguf", 0, 0},
        {"--quant", 0, CLI_STRING, &o->pair.quant, "NAME", "Q4_K_M, MXFP4, ... (F16)", 0, 0},
        {"--prompt", 0, CLI_DOUBLE, &o->pair.prompt, "N", "tokens of the prompt (8192)", 1,
         PLAN_TOKENS_MAX},
        {"--gen", 0, CLI_DOUBLE, &o->pair.gen, "N", "tokens of the answer (256)", 1,
         PLAN_TOKENS_MAX},
        {"--warm", 0, CLI_DOUBLE, &o->pair.warm, "SHARE",
         "of the prompt, 0 to 0.999, that caches hold already (0)", 0, 0.999},
        {"--engine", 0, CLI_STRING, &o->engine, "NAME", "published or llama.cpp", 0, 0},
        {"--html", 0, CLI_STRING, &o->html, "FILE", "write a page with charts", 0, 0},
        {"--json", 0, CLI_FLAG, &o->json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    return cli_parse(argc, argv, options,
                     "tandem plan compare --machines A,B --model ID [--quant NAME] [--link ID] "
                     "[--prompt N] [--gen N] [--engine published|llama.cpp]",
                     about, NULL, done, e);
}

// "A,B" comes as one text from the command line.
static int machines_split(struct options *o, char *text, size_t text_bytes, struct err *e)
{
    if (o->machines.n == 1 && strlen(o->machines.items[0]) < text_bytes) {
        snprintf(text, text_bytes, "%s", o->machines.items[0]);
        char *comma = strchr(text, ',');
        if (comma != NULL && strchr(comma + 1, ',') == NULL) {
            *comma = '\0';
            o->pair.machines[0] = text;
            o->pair.machines[1] = comma + 1;
            return 0;
        }
    } else if (o->machines.n == 2) {
        o->pair.machines[0] = o->machines.items[0];
        o->pair.machines[1] = o->machines.items[1];
        return 0;
    }
    return err_set(e, ERR_INVALID,
                   "--machines wants two names, for example dgx-spark,mac-studio-m3-ultra");
}

static int pair_complete(struct options *o, char *text, size_t text_bytes, struct err *e)
{
    int rc = machines_split(o, text, text_bytes, e);
    if (rc != 0)
        return rc;
    if (o->pair.model == NULL)
        return err_set(e, ERR_INVALID, "--model ID is missing, for example llama-3.1-8b");
    if (o->engine == NULL)
        o->pair.rates = PLAN_RATES_AUTO;
    else if (strcmp(o->engine, "published") == 0)
        o->pair.rates = PLAN_RATES_PUBLISHED;
    else if (strcmp(o->engine, "llama.cpp") == 0)
        o->pair.rates = PLAN_RATES_LLAMA;
    else
        return err_set(e, ERR_INVALID, "--engine is \"%.40s\"; say published or llama.cpp",
                       o->engine);
    return 0;
}

// ---- pictures -----------------------------------------------------------------------------------------------

// Seconds of one line; `total` is the range of their sum.
struct line {
    double prefill, tail, decode;
    struct plan_range total;
};

static void line_print(const char *name, const struct line *l, double longest)
{
    double prefill = l->prefill, tail = l->tail, total = prefill + tail + l->decode;
    int cells = (int)lround(BAR_CELLS * total / longest);
    char range[32] = "";
    if (isfinite(l->total.low))
        snprintf(range, sizeof range, "%.3g to %.3g", l->total.low, l->total.high);
    printf("  %-26.26s %8.3f %8.3f %8.3f %8.3f s  %-14s ", name, prefill, tail, l->decode, total,
           range);
    for (int i = 0; i < cells; i++) {
        double at = total * (i + 0.5) / cells;
        putchar(at < prefill ? '=' : at < prefill + tail ? '~' : '-');
    }
    putchar('\n');
}

static void both_print(const char *name, const struct plan_both *b, double longest)
{
    line_print(name, &(struct line){b->prefill_s, b->tail_s, b->decode_s, b->total}, longest);
}

static void tokens_print(const char *text, double x, const char *unit, const char *otherwise)
{
    if (isfinite(x))
        printf("  %s %.4g %s\n", text, x, unit);
    else
        printf("  %s %s\n", text, otherwise);
}

static void comparison_print(const struct plan_comparison *r)
{
    double longest = fmax(r->solo[0].total_s, r->solo[1].total_s);
    printf("\n%s:\n", r->published ? "with published rates" : "predicted for llama.cpp");
    printf("  %-26s %8s %8s %8s %8s    %-14s = reads  ~ waits for the link  - writes\n", "",
           "prefill", "tail", "decode", "total", r->published ? "" : "four in five");
    for (size_t i = 0; i < 2; i++) {
        const struct plan_solo *s = &r->solo[i];
        char text[512];
        if (s->fits) {
            line_print(s->name, &(struct line){s->prefill_s, 0, s->decode_s, s->total}, longest);
            continue;
        }
        plan_too_large(s->name, s->need_bytes, s->have_bytes, text, sizeof text);
        printf("  %-26.26s %s\n", s->name, text);
    }
    if (!r->possible)
        return;
    both_print("both, one after the other", &r->serial, longest);
    both_print("both, overlapped", &r->hybrid, longest);
    printf("  %s reads, %s writes: %.2f times as fast as the better of them alone",
           r->solo[r->reader].name, r->solo[r->writer].name, r->gain);
    if (!r->published)
        printf(" (%.2f to %.2f)", r->gain_range.low, r->gain_range.high);
    putchar('\n');
    tokens_print("it begins to pay at a prompt of", r->even_prompt, "tokens", "no length");
    tokens_print("and an answer of", r->even_gen, "tokens", "no length");
    tokens_print("and a link of", r->even_gbps, "Gbit/s", "no rate");
    tokens_print("it gains at least a tenth up to an answer of", r->fade_gen, "tokens",
                 isnan(r->fade_gen) ? "no length: less than a tenth already" : "any length");
    if (isfinite(r->fade_warm))
        printf("  and with up to %.0f %% of the prompt in both caches already\n",
               100 * r->fade_warm);
}

static void out_print(const struct options *o, const struct plan_comparison *r,
                      const struct plan_comparison *other)
{
    if (o->json) {
        json_t *out = plan_report_comparison(r);
        if (other != NULL)
            json_put(out, "other_engine", plan_report_comparison(other));
        char *line = json_line(out);
        puts(line);
        free(line);
        json_decref(out);
        return;
    }
    printf("%s %s, %.0f tokens in, %.0f out, over %s; the cache is %.3g GB\n", o->pair.model,
           o->pair.quant != NULL ? o->pair.quant : "", o->pair.prompt, o->pair.gen, o->pair.link,
           r->kv_bytes / 1e9);
    comparison_print(r);
    for (size_t i = 0; i < 2; i++)
        if (r->solo[i].source != NULL)
            printf("  %s: %s\n", r->solo[i].name, r->solo[i].source);
    if (r->published)
        printf("  That demonstration did not run llama.cpp, and its text leaves open whether one "
               "or two\n"
               "  machines read the prompt.\n");
    if (other != NULL)
        comparison_print(other);
}

static int page_write(const struct plan_catalogue *c, const struct options *o,
                      const struct plan_comparison *r, const struct plan_comparison *other,
                      struct err *e)
{
    const struct plan_report_pair p = {o->pair, r, other};
    json_t *document = NULL;
    int rc = plan_report_pair(c, &p, &document, e);
    if (rc == 0)
        rc = plan_html_write(o->html, document, e);
    json_decref(document);
    return rc;
}

int plan_compare_run(int argc, char **argv)
{
    struct options o = {.pair = {.link = "10gbe", .prompt = 8192, .gen = 256}};
    struct plan_comparison r = {0}, other = {0};
    struct plan_catalogue *c = NULL;
    struct err e = {0};
    char text[2 * PLAN_NAME_BYTES];
    bool done = false;
    int rc = options_parse(argc, argv, &o, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0)
        rc = pair_complete(&o, text, sizeof text, &e);
    if (rc == 0)
        rc = plan_catalogue_open(&c, &e);
    if (rc == 0)
        rc = plan_compare(c, &o.pair, &r, &e);
    bool both = rc == 0 && plan_published(c, &o.pair);
    if (both) {
        o.pair.rates = r.published ? PLAN_RATES_LLAMA : PLAN_RATES_PUBLISHED;
        rc = plan_compare(c, &o.pair, &other, &e);
    }
    if (rc == 0 && o.html != NULL)
        rc = page_write(c, &o, &r, both ? &other : NULL, &e);
    if (rc == 0)
        out_print(&o, &r, both ? &other : NULL);
    plan_catalogue_free(c);
    if (rc != 0)
        return cli_fail("plan", &e);
    return r.possible ? 0 : 3;
}
