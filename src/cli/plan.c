// tandem plan: what machines would give, before anybody buys them.
#include "cli/plan.h"

#include "cli/cli.h"
#include "cli/term.h"

#include <math.h>
#include <string.h>

static const char about[] =
    "Says what a machine, or a pair of them, would give with a model: from roofline formulas "
    "whose\n"
    "efficiencies were fitted to published measurements. Every figure comes with an interval.\n"
    "  predict  the rate at which one machine reads a prompt or writes an answer\n"
    "  compare  two machines and a link against each of them alone\n"
    "\"tandem plan predict --help\" says more. Machines, models, quantisations and links of your "
    "own go\n"
    "into *.json files in the folder catalogue/ beside tandem.ini.";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} parts[] = {
    {"predict", plan_predict_run},
    {"compare", plan_compare_run},
};
#define N_PARTS (sizeof parts / sizeof *parts)

void plan_too_large(const char *machine, double need_bytes, double have_bytes, char *out,
                    size_t out_bytes)
{
    snprintf(out, out_bytes,
             "it does not fit: weights, cache and buffers need %.1f GB, %s has %.1f GB for them; "
             "take a smaller quantisation, less depth or batch, or a larger machine",
             need_bytes / 1e9, machine, have_bytes / 1e9);
}

void plan_bar(FILE *f, double share, int full)
{
    int n = (int)lround(fmin(fmax(share, 0), 1) * full);
    for (int i = 0; i < full; i++)
        fputs(i >= n ? " " : term_utf8() ? "\u2588" : "#", f);
}

json_t *plan_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static int plan_run(int argc, char **argv)
{
    const char *names[N_PARTS + 1] = {NULL};
    struct cli_list rest = {0};
    bool done = false;
    struct err e = {0};
    for (size_t i = 0; i < N_PARTS; i++) {
        names[i] = parts[i].name;
        if (argc > 1 && strcmp(argv[1], parts[i].name) == 0) {
            argv[1] = argv[0]; // options of all parts are those of "plan" in the file
            return parts[i].run(argc - 1, argv + 1);
        }
    }
    const struct cli_option none[] = {{0}};
    int rc =
        cli_parse(argc, argv, none, "tandem plan predict|compare OPTIONS", about, &rest, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0 && rest.n == 0)
        rc = err_set(&e, ERR_INVALID, "say what: predict or compare; tandem plan --help");
    if (rc == 0) {
        const char *near = cli_nearest(rest.items[0], names);
        rc = err_set(&e, ERR_INVALID, "no \"%s\"; %s%s", rest.items[0],
                     near != NULL ? "did you mean " : "there are predict and ",
                     near != NULL ? near : "compare");
    }
    return cli_fail("plan", &e);
}

const struct cli_command cli_plan = {"plan", "what machines would give, before you buy them",
                                     plan_run};
