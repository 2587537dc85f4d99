// tandem plan simulate: a fleet of machines under load, before anybody buys it.
#include "cli/plan_simulate.h"

#include "base/json.h"
#include "cli/cli.h"
#include "cli/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MODEL "llama-3.1-8b"
#define QUANT "Q8_0"
#define NODES 10u
#define REQUESTS 10000
#define TEAM_REQUESTS 4000
#define VALUES_MAX 32
#define VALUE_BYTES 64
#define GOOD_SHARE 0.95

struct options {
    const char *model, *quant, *fleet_file, *trace_file, *policy, *plan, *sweep, *html;
    const char *prompt, *turn, *answer;
    struct cli_list machines, candidates;
    uint32_t nodes, slots;
    int64_t requests, seed;
    double team, per_hour, good_share;
    struct sim_load load;
    struct sim_options o;
    bool json;
};

static const char about[] =
    "Runs a fleet under a load on a virtual clock: the server's own placement, prompts in queues, "
    "answers in\n"
    "batches, caches that cross links and prefixes that are kept until others need the room. Says "
    "how long\n"
    "people wait, how busy which machine is, and what it costs. The fleet: --nodes N (mixed), "
    "--machines\n"
    "or --fleet FILE. The load: conversations at --load of what the fleet can take, or --rate, or "
    "a trace\n"
    "(CSV: arrival,prompt,answer,session; seconds and tokens). --sweep nodes=5,10,20 runs it for "
    "each (also\n"
    "rate, load, policy, plan, slots). --team N says how many of which machine serve N people.\n"
    "Lengths are MEDIAN or MEDIAN:SIGMA of a log-normal number of tokens. The same seed gives the "
    "same result.";

static const char usage[] = "tandem plan simulate [--nodes N | --machines A=2,B=1 | --fleet FILE] "
                            "[--requests N] [--seed N] [--team N] [OPTIONS]";

#define OPTIONS_MAX 40

static size_t fleet_options(struct options *o, struct cli_option *out)
{
    const struct cli_option options[] = {
        {"--nodes", 0, CLI_UINT32, &o->nodes, "N", "of a mixed fleet (10)", 1, SIM_NODES_MAX},
        {"--machines", 0, CLI_LIST, &o->machines, "A=N[:read|write],B=N",
         "of the catalogue, and how many", 0, 0},
        {"--fleet", 0, CLI_STRING, &o->fleet_file, "FILE",
         "JSON: nodes, roles, links, events (docs/simulator.md)", 0, 0},
        {"--model", 'm', CLI_STRING, &o->model, "ID", "of the catalogue, or FILE.gguf (" MODEL ")",
         0, 0},
        {"--quant", 0, CLI_STRING, &o->quant, "NAME", "Q4_K_M, MXFP4, ... (" QUANT ")", 0, 0},
        {"--slots", 0, CLI_UINT32, &o->slots, "N", "answers at once on a node (16)", 1,
         SIM_SLOTS_MAX},
        {"--policy", 0, CLI_STRING, &o->policy, "NAME",
         "latency, throughput, energy, cost or slo (latency)", 0, 0},
        {"--plan", 0, CLI_STRING, &o->plan, "NAME",
         "auto, remote (one node does all), serial or hybrid (auto)", 0, 0},
    };
    memcpy(out, options, sizeof options);
    return sizeof options / sizeof *options;
}

static size_t load_options(struct options *o, struct cli_option *out)
{
    struct sim_load *l = &o->load;
    const struct cli_option options[] = {
        {"--requests", 0, CLI_INT, &o->requests, "N", "arrivals (10000)", 1, SIM_REQUESTS_MAX},
        {"--seed", 0, CLI_INT, &o->seed, "N", "of the load (1)", 0, 1e15},
        {"--load", 0, CLI_DOUBLE, &l->share, "SHARE",
         "of what the fleet can take, which is found first (0.8)", 0.01, 10},
        {"--rate", 0, CLI_DOUBLE, &l->rate, "N", "requests per second, instead of --load", 1e-9,
         1e9},
        {"--burst", 0, CLI_DOUBLE, &l->burst, "X",
         "busy half minutes have X times the arrivals of quiet ones (1: Poisson)", 1, 1000},
        {"--turns", 0, CLI_DOUBLE, &l->turns, "N", "of a conversation, on average (4)", 1, 500},
        {"--think", 0, CLI_DOUBLE, &l->think_s, "S", "between an answer and the next turn (30)", 0,
         1e6},
        {"--prompt", 0, CLI_STRING, &o->prompt, "N[:SIGMA]", "of a first turn (1020:1)", 0, 0},
        {"--turn", 0, CLI_STRING, &o->turn, "N[:SIGMA]", "what a later turn adds (96:1)", 0, 0},
        {"--answer", 0, CLI_STRING, &o->answer, "N[:SIGMA]", "(129:0.8)", 0, 0},
        {"--trace", 0, CLI_STRING, &o->trace_file, "FILE", "a CSV file instead of all that", 0, 0},
    };
    memcpy(out, options, sizeof options);
    return sizeof options / sizeof *options;
}

static size_t report_options(struct options *o, struct cli_option *out)
{
    struct sim_options *s = &o->o;
    const struct cli_option options[] = {
        {"--ttft", 0, CLI_DOUBLE, &s->ttft_s, "S", "a good answer begins within (5)", 0, 1e6},
        {"--tpot", 0, CLI_DOUBLE, &s->tpot_s, "S", "and has a token every (0.1)", 0, 1e6},
        {"--years", 0, CLI_DOUBLE, &s->years, "N", "until a machine is worth nothing (3)", 0.1, 50},
        {"--electricity", 0, CLI_DOUBLE, &s->dollars_per_kwh, "USD", "for a kWh (0.18)", 0, 100},
        {"--sweep", 0, CLI_STRING, &o->sweep, "WHAT=A,B,...",
         "nodes, rate, load, policy, plan or slots", 0, 0},
        {"--team", 0, CLI_DOUBLE, &o->team, "N", "find the fleet for N people", 1, 1e6},
        {"--per-hour", 0, CLI_DOUBLE, &o->per_hour, "N",
         "turns of each of them in a busy hour (20)", 0.01, 1e4},
        {"--among", 0, CLI_LIST, &o->candidates, "A,B,...", "machines for --team to choose from", 0,
         0},
        {"--good", 0, CLI_DOUBLE, &o->good_share, "SHARE",
         "of the answers that --team wants good (0.95)", 0.01, 1},
        {"--html", 0, CLI_STRING, &o->html, "FILE", "write a page with the timeline", 0, 0},
        {"--json", 0, CLI_FLAG, &o->json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    memcpy(out, options, sizeof options);
    return sizeof options / sizeof *options;
}

// ---- values --------------------------------------------------------------------------------------------

// "1020" or "1020:0.8"
static int lengths_parse(const char *option, const char *text, struct sim_lengths *l, struct err *e)
{
    char *end = NULL;
    if (text == NULL)
        return 0;
    l->median = strtod(text, &end);
    if (end != text && *end == ':') {
        const char *sigma = end + 1;
        l->sigma = strtod(sigma, &end);
        if (end == sigma)
            end = NULL;
    }
    if (end == NULL || end == text || *end != '\0' || !(l->median >= 1 && l->median <= l->most) ||
        !(l->sigma >= 0 && l->sigma <= 5))
        return err_set(e, ERR_INVALID,
                       "%s is \"%.40s\"; say a median of 1 to %.0f tokens, and after a colon a "
                       "sigma of 0 to 5: 1020:0.8",
                       option, text, l->most);
    return 0;
}

static int words_parse(struct options *o, struct err *e)
{
    if (o->policy != NULL && !place_policy_parse(o->policy, &o->o.policy))
        return err_set(e, ERR_INVALID,
                       "--policy is \"%.40s\"; say latency, throughput, energy, cost or slo",
                       o->policy);
    if (o->plan != NULL && (!place_kind_parse(o->plan, &o->o.wish) || o->o.wish == PLACE_LOCAL))
        return err_set(e, ERR_INVALID, "--plan is \"%.40s\"; say auto, remote, serial or hybrid",
                       o->plan);
    int rc = lengths_parse("--prompt", o->prompt, &o->load.first, e);
    if (rc == 0)
        rc = lengths_parse("--turn", o->turn, &o->load.turn, e);
    if (rc == 0)
        rc = lengths_parse("--answer", o->answer, &o->load.answer, e);
    return rc;
}

static int options_complete(struct options *o, struct err *e)
{
    if ((o->machines.n > 0) + (o->fleet_file != NULL) + (o->nodes > 0) > 1)
        return err_set(e, ERR_INVALID, "say one of --nodes, --machines and --fleet");
    if (o->team > 0 && (o->machines.n > 0 || o->fleet_file != NULL || o->nodes > 0 ||
                        o->sweep != NULL || o->trace_file != NULL || o->html != NULL))
        return err_set(e, ERR_INVALID,
                       "--team finds the fleet itself; leave out --nodes, --machines, --fleet, "
                       "--sweep, --trace and --html");
    if (o->trace_file != NULL && o->load.rate > 0)
        return err_set(e, ERR_INVALID, "a trace has its own rate; leave out --rate");
    if (o->fleet_file != NULL && o->slots > 0)
        return err_set(e, ERR_INVALID, "with --fleet slots stand in the file; leave out --slots");
    if (o->sweep != NULL && o->html != NULL)
        return err_set(e, ERR_INVALID, "--html shows one run; leave out --sweep");
    if (o->nodes == 0)
        o->nodes = NODES;
    if (o->model == NULL) {
        o->model = MODEL;
        o->quant = o->quant != NULL ? o->quant : QUANT;
    }
    if (o->requests == 0 && o->trace_file == NULL)
        o->requests = o->team > 0 ? TEAM_REQUESTS : REQUESTS;
    o->load.requests = (uint64_t)o->requests;
    o->load.seed = (uint64_t)o->seed;
    return words_parse(o, e);
}

// ---- fleets ----------------------------------------------------------------------------------------------

// "dgx-spark=2:read"
static int machine_add(struct sim_fleet *f, const struct plan_catalogue *c, const struct options *o,
                       const char *text, struct err *e)
{
    char name[PLAN_NAME_BYTES];
    const char *equal = strchr(text, '=');
    size_t n = equal != NULL ? (size_t)(equal - text) : strlen(text);
    struct sim_member m = {.machine = name, .slots = o->slots, .count = 1};
    char *end = (char *)text + n;
    if (n >= sizeof name)
        n = sizeof name - 1;
    memcpy(name, text, n);
    name[n] = '\0';
    long count = equal != NULL ? strtol(equal + 1, &end, 10) : 1;
    if (strcmp(end, ":read") == 0)
        m.roles = PLACE_READS;
    else if (strcmp(end, ":write") == 0)
        m.roles = PLACE_WRITES;
    else if (*end != '\0' || end == equal + 1)
        count = 0;
    if (count < 1 || count > (long)SIM_NODES_MAX)
        return err_set(
            e, ERR_INVALID,
            "--machines: \"%.60s\" is no NAME=COUNT, like dgx-spark=2 or dgx-spark=2:read", text);
    m.count = (uint32_t)count;
    return sim_fleet_add(f, c, &m, e);
}

static int fleet_make(const struct options *o, const struct plan_catalogue *c, struct sim_fleet *f,
                      struct err *e)
{
    int rc = 0;
    sim_fleet_init(f, o->model, o->quant);
    if (o->fleet_file != NULL)
        return sim_fleet_read(f, c, o->fleet_file, e);
    if (o->machines.n == 0)
        return sim_fleet_mixed(f, c, o->nodes, o->slots, e);
    for (size_t i = 0; rc == 0 && i < o->machines.n; i++) {
        char text[1024], *at = text;
        if (strlen(o->machines.items[i]) >= sizeof text)
            return err_set(e, ERR_INVALID, "--machines is longer than %zu bytes", sizeof text);
        memcpy(text, o->machines.items[i], strlen(o->machines.items[i]) + 1);
        while (rc == 0 && at != NULL) {
            char *comma = strchr(at, ',');
            if (comma != NULL)
                *comma++ = '\0';
            rc = machine_add(f, c, o, at, e);
            at = comma;
        }
    }
    return rc;
}

// ---- runs --------------------------------------------------------------------------------------------------

// Exit code 3: nothing could be served.
static int one_run(const struct options *o, const struct plan_catalogue *c, json_t *rows,
                   bool *served, struct err *e)
{
    struct sim_fleet fleet;
    struct sim_result result = {0};
    struct simulate_run run = {&fleet, &o->load, &o->o, &result};
    int rc = fleet_make(o, c, &fleet, e);
    if (rc == 0)
        rc = sim_run(&fleet, &o->load, &o->o, &result, e);
    if (rc == 0)
        *served = *served || result.completed > 0;
    if (rc == 0 && o->html != NULL) {
        json_t *document = simulate_document(&run);
        rc = plan_html_write(o->html, document, e);
        json_decref(document);
    }
    if (rc == 0 && rows != NULL) {
        json_array_append_new(rows, simulate_json(&run));
    } else if (rc == 0 && o->json) {
        json_t *all = simulate_json(&run);
        simulate_timeline_json(&run, all);
        plan_json_print(all);
        json_decref(all);
    } else if (rc == 0) {
        simulate_print(&run);
    }
    sim_result_fini(&result);
    sim_fleet_fini(&fleet);
    return rc;
}

// ---- sweeps ------------------------------------------------------------------------------------------------

static int number_of(const char *text, double min, double max, double *out, struct err *e)
{
    char *end = NULL;
    *out = strtod(text, &end);
    if (end == text || *end != '\0' || !(*out >= min && *out <= max))
        return err_set(e, ERR_INVALID, "--sweep: \"%.40s\" is no number from %g to %g", text, min,
                       max);
    return 0;
}

static int sweep_set(struct options *o, const char *what, const char *value, struct err *e)
{
    double x = 0;
    int rc = 0;
    if (strcmp(what, "nodes") == 0) {
        rc = number_of(value, 1, SIM_NODES_MAX, &x, e);
        o->nodes = (uint32_t)x;
    } else if (strcmp(what, "slots") == 0) {
        rc = number_of(value, 1, SIM_SLOTS_MAX, &x, e);
        o->slots = (uint32_t)x;
    } else if (strcmp(what, "rate") == 0) {
        rc = number_of(value, 1e-9, 1e9, &o->load.rate, e);
    } else if (strcmp(what, "load") == 0) {
        rc = number_of(value, 0.01, 10, &o->load.share, e);
    } else if (strcmp(what, "policy") == 0) {
        o->policy = value;
        rc = words_parse(o, e);
    } else if (strcmp(what, "plan") == 0) {
        o->plan = value;
        rc = words_parse(o, e);
    } else {
        rc = err_set(e, ERR_INVALID,
                     "--sweep is over \"%.40s\"; say nodes, rate, load, policy, plan or slots",
                     what);
    }
    return rc;
}

static void sweep_print(const char *what, json_t *rows)
{
    size_t i;
    json_t *row;
    printf("%-12s %10s %10s %8s %8s %8s %8s %8s %7s %7s\n", what, "requests/s", "completed",
           "TTFT p50", "p95", "TPOT p50", "p95", "good %", "hybrid", "busy %");
    json_array_foreach(rows, i, row)
    {
        const json_t *ttft = json_object_get(row, "ttft_s"), *tpot = json_object_get(row, "tpot_s");
        const json_t *slo = json_object_get(row, "slo");
        double done = json_number_value(json_object_get(row, "completed"));
        double hybrid = json_number_value(json_object_get(json_object_get(row, "plans"), "hybrid"));
        printf("%-12s %10.4g %10.0f %8.3g %8.3g %8.3g %8.3g %8.1f %6.0f%% %7.1f\n",
               json_string_value(json_object_get(row, "value")),
               json_number_value(json_object_get(row, "rate_per_s")), done,
               json_number_value(json_object_get(ttft, "p50")),
               json_number_value(json_object_get(ttft, "p95")),
               json_number_value(json_object_get(tpot, "p50")),
               json_number_value(json_object_get(tpot, "p95")),
               100 * json_number_value(json_object_get(slo, "good_share")),
               100 * hybrid / fmax(done, 1), 100 * json_number_value(json_object_get(row, "busy")));
    }
}

static int sweep_check(const struct options *o, const char *what, struct err *e)
{
    if (strcmp(what, "nodes") == 0 && (o->machines.n > 0 || o->fleet_file != NULL))
        return err_set(e, ERR_INVALID,
                       "--sweep nodes= is of the mixed fleet; leave out --machines "
                       "and --fleet");
    if (strcmp(what, "slots") == 0 && o->fleet_file != NULL)
        return err_set(e, ERR_INVALID, "with --fleet slots stand in the file; use --machines");
    if ((strcmp(what, "rate") == 0 || strcmp(what, "load") == 0) && o->trace_file != NULL)
        return err_set(e, ERR_INVALID, "a trace has its own rate; --sweep something else");
    return 0;
}

// The text is cut in place.
static int sweep_run(const struct options *asked, const struct plan_catalogue *c, char *text,
                     bool *served, struct err *e)
{
    struct options o = *asked;
    char *at = strchr(text, '='), *what = text;
    json_t *rows = json_array();
    int rc = 0;
    if (at == NULL || at[1] == '\0')
        rc = err_set(e, ERR_INVALID, "--sweep is \"%.40s\"; say it like nodes=5,10,20", text);
    else
        *at++ = '\0';
    if (rc == 0)
        rc = sweep_check(&o, what, e);
    while (rc == 0 && at != NULL) {
        char *value = at;
        at = strchr(value, ',');
        if (at != NULL)
            *at++ = '\0';
        rc = sweep_set(&o, what, value, e);
        if (rc == 0)
            rc = one_run(&o, c, rows, served, e);
        if (rc == 0)
            json_put(json_array_get(rows, json_array_size(rows) - 1), "value", json_string(value));
    }
    if (rc == 0 && o.json) {
        json_t *out = json_pack("{s:s, s:O}", "sweep", what, "rows", rows);
        plan_json_print(out);
        json_decref(out);
    } else if (rc == 0) {
        sweep_print(what, rows);
    }
    json_decref(rows);
    return rc;
}

// ---- teams -------------------------------------------------------------------------------------------------

static const char *const usual[] = {"dgx-spark", "mac-studio-m3-ultra-96gb", "strix-halo",
                                    "rtx-3090", "rtx-5090"};

static void team_progress(void *ctx, double share)
{
    (void)ctx;
    cli_progress("machines", share);
}

struct candidates {
    const char *names[SIM_FIND_MACHINES + 1];
    char room[SIM_FIND_MACHINES * PLAN_NAME_BYTES];
    size_t n;
};

static int candidates_get(const struct options *o, const struct plan_catalogue *c,
                          struct candidates *out, struct err *e)
{
    struct plan_names list = {"--among", &o->candidates,  out->names, SIM_FIND_MACHINES + 1,
                              out->room, sizeof out->room};
    if (o->candidates.n == 0) {
        out->n = sizeof usual / sizeof *usual;
        memcpy(out->names, usual, sizeof usual);
        return 0;
    }
    int rc = plan_names_get(&list, e);
    for (out->n = 0; rc == 0 && out->names[out->n] != NULL; out->n++)
        if (plan_catalogue_find(c, PLAN_MACHINE, out->names[out->n], e) == NULL)
            rc = ERR_NOT_FOUND;
    return rc;
}

static int team_run(const struct options *o, const struct plan_catalogue *c, bool *served,
                    struct err *e)
{
    struct candidates candidates = {.n = 0};
    struct sim_load load = o->load;
    struct sim_find f = {.catalogue = c,
                         .model = o->model,
                         .quant = o->quant,
                         .load = &load,
                         .options = &o->o,
                         .good_share = o->good_share,
                         .slots = o->slots,
                         .machines = candidates.names,
                         .progress = team_progress};
    struct sim_found found[SIM_FIND_MACHINES * (SIM_FIND_MACHINES + 1) / 2];
    size_t n = 0;
    int rc = candidates_get(o, c, &candidates, e);
    f.n = candidates.n;
    load.rate = o->team * o->per_hour / 3600;
    if (rc == 0)
        rc = sim_find(&f, found, &n, e);
    cli_progress_end();
    if (rc != 0)
        return rc;
    *served = n > 0 && found[0].counts[0] > 0;
    if (!o->json) {
        simulate_found_print(&f, found, n);
        return 0;
    }
    json_t *out = json_object(), *rows = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(rows, simulate_found_json(&found[i]));
    json_put(out, "team", json_real(o->team));
    json_put(out, "rate_per_s", json_real(load.rate));
    json_put(out, "good_share_wanted", json_real(o->good_share));
    json_put(out, "fleets", rows);
    plan_json_print(out);
    json_decref(out);
    return 0;
}

// ---- the command -------------------------------------------------------------------------------------------

static int options_parse(int argc, char **argv, struct options *o, bool *done, struct err *e)
{
    struct cli_option options[OPTIONS_MAX];
    size_t n = fleet_options(o, options);
    n += load_options(o, options + n);
    report_options(o, options + n);
    return cli_parse(argc, argv, options, usage, about, NULL, done, e);
}

int plan_simulate_run(int argc, char **argv)
{
    struct options o = {.seed = 1, .per_hour = 20, .good_share = GOOD_SHARE};
    struct plan_catalogue *c = NULL;
    struct trace trace = {0};
    struct err e = {0};
    char sweep[1024] = "";
    bool done = false, served = false;
    sim_load_defaults(&o.load);
    sim_options_defaults(&o.o);
    int rc = options_parse(argc, argv, &o, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0)
        rc = options_complete(&o, &e);
    if (rc == 0)
        rc = plan_catalogue_open(&c, &e);
    if (rc == 0 && o.trace_file != NULL)
        rc = trace_read(o.trace_file, &trace, &e);
    if (trace.n > 0)
        o.load.trace = &trace;
    if (rc == 0 && o.sweep != NULL && strlen(o.sweep) >= sizeof sweep)
        rc = err_set(&e, ERR_INVALID, "--sweep is longer than %zu bytes", sizeof sweep);
    if (rc == 0 && o.sweep != NULL)
        snprintf(sweep, sizeof sweep, "%s", o.sweep);
    if (rc == 0)
        rc = o.team > 0         ? team_run(&o, c, &served, &e)
             : sweep[0] != '\0' ? sweep_run(&o, c, sweep, &served, &e)
                                : one_run(&o, c, NULL, &served, &e);
    trace_fini(&trace);
    plan_catalogue_free(c);
    if (rc != 0)
        return cli_fail("plan", &e);
    return served ? 0 : 3;
}
