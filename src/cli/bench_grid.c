// The cells, and the order in which they are measured: link by link, a pair of processes for each.
#include "cli/bench_grid.h"

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/draw.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Of the fake engine: KV of 1,024 bytes per token, and room for what warm cells leave behind.
#define FAKE_MODEL "fake:layers=16,kv_bytes=64"
#define FAKE_TOKEN_BYTES 1024.0
#define FAKE_CTX 32768
#define FASTER 10.0 // than the catalogue's machines
#define REAL_CTX 2048
#define REAL_MARGIN 1.10 // of the time scale: what another run of the same step may take longer
#define REAL_PROMPT 384  // of the run that finds it
#define HELD(tokens) ((tokens) / 4 * 3)
// A plan that took so much longer than the best needs no second run.
#define HOPELESS 1.3
#define RETRIES 2
// What is over so soon is measured more often: a moment of this machine is much of it.
#define SHORT_S 0.1
#define SHORT_RUNS 3
#define MEASURED_NS (40 * NS_PER_S)

static const double links[] = {0, 0.3, 1, 3};

// Of every link. Together: prompts of 32 to 8192, answers of 1 to 512, cells for each plan to win.
static const struct bench_cell cells[] = {
    {.prompt_tokens = 32, .gen_tokens = 1},
    {.prompt_tokens = 8192, .gen_tokens = 32},
    {.prompt_tokens = 2048, .gen_tokens = 128},
    {.prompt_tokens = 8192, .gen_tokens = 1},
    {.prompt_tokens = 4096, .gen_tokens = 32, .held = BENCH_HELD_DECODE},
    {.prompt_tokens = 512, .gen_tokens = 8},
    {.prompt_tokens = 4096, .gen_tokens = 16, .held = BENCH_HELD_PREFILL},
    {.prompt_tokens = 128, .gen_tokens = 512},
};
static const struct bench_cell real_cells[] = {
    {.prompt_tokens = 64, .gen_tokens = 4},
    {.prompt_tokens = 256, .gen_tokens = 2},
    {.prompt_tokens = 384, .gen_tokens = 1},
    {.prompt_tokens = 256, .gen_tokens = 2, .held = BENCH_HELD_DECODE},
};

// What a gateway has seen before its choices count; the first stands for itself.
struct warming {
    enum bench_plan plan;
    uint32_t prompt_tokens, gen_tokens;
};
static const struct warming warming[] = {
    {BENCH_AUTO, 1024, 32},  {BENCH_LOCAL, 512, 16}, {BENCH_REMOTE, 512, 16},
    {BENCH_HYBRID, 2048, 8}, {BENCH_AUTO, 4096, 16}, {BENCH_HYBRID, 128, 8},
    {BENCH_REMOTE, 4096, 8}, {BENCH_SERIAL, 64, 16}, {BENCH_HYBRID, 256, 48},
    {BENCH_AUTO, 2048, 32},  {BENCH_AUTO, 64, 16},
};
#define WARMINGS (sizeof warming / sizeof *warming)

struct grid_run {
    const struct bench_options *o;
    struct bench_machine machines[2]; // of the catalogue
    struct bench_grid *g;
    struct bench_pair *pair;
    const char *model; // of the pair
    double kv_token_bytes;
    bool real;
    size_t done, total; // cells, for the progress bar
};

static const char *link_text(double ratio, char out[16])
{
    snprintf(out, 16, ratio > 0 ? "%g" : "fast", ratio);
    return out;
}

// ---- one request --------------------------------------------------------------------------------

struct asked {
    const struct bench_cell *cell;
    const int32_t *tokens;
    enum bench_plan plan;
};

static int ask(const struct grid_run *r, const struct asked *a, struct bench_answer *answer,
               struct err *e)
{
    struct bench_request q = {.url = bench_pair_url(r->pair),
                              .plan = a->plan,
                              .tokens = a->tokens,
                              .n_tokens = a->cell->prompt_tokens,
                              .gen_tokens = a->cell->gen_tokens,
                              .warm = a->cell->held != BENCH_COLD};
    return bench_request_run(&q, answer, e);
}

// Lets a node read the beginning of the prompt and keep it.
static int prime(const struct grid_run *r, const struct asked *a, struct err *e)
{
    struct bench_answer answer;
    struct bench_request q = {.url = bench_pair_url(r->pair),
                              .plan =
                                  a->cell->held == BENCH_HELD_DECODE ? BENCH_LOCAL : BENCH_REMOTE,
                              .tokens = a->tokens,
                              .n_tokens = HELD(a->cell->prompt_tokens),
                              .gen_tokens = 1,
                              .warm = true,
                              .keep = true};
    if (a->cell->held == BENCH_COLD)
        return 0;
    int rc = bench_request_run(&q, &answer, e);
    bench_answer_fini(&answer);
    return rc;
}

static struct bench_choice choice_of(const struct bench_answer *a)
{
    return (struct bench_choice){
        .plan = a->plan, .total_s = a->sample.total_s, .predicted_s = a->sample.predicted_s};
}

static void row_record(struct bench_row *row, enum bench_plan asked, const struct bench_answer *a)
{
    row->totals_s[a->plan][row->n[a->plan]++] = a->sample.total_s;
    row->cached_tokens = fmax(row->cached_tokens, a->sample.cached_tokens);
    if (asked == BENCH_AUTO)
        row->choices[row->n_choices++] = choice_of(a);
}

// ---- one cell -----------------------------------------------------------------------------------

static double row_best_s(const struct bench_row *row)
{
    double best = INFINITY;
    for (size_t p = 0; p < BENCH_PLANS; p++)
        if (row->n[p] > 0)
            best = fmin(best, bench_median(row->totals_s[p], row->n[p]));
    return best;
}

// Whether a plan may still turn out to be the best. What the gateway chooses is always asked again.
static bool plan_wanted(const struct bench_row *row, enum bench_plan plan)
{
    if (plan == BENCH_AUTO || row->n[plan] == 0)
        return true;
    return bench_median(row->totals_s[plan], row->n[plan]) <= row_best_s(row) * HOPELESS;
}

// Another prompt for every run, so that nothing is held but what the cell says.
static int plan_try(struct grid_run *r, struct bench_row *row, enum bench_plan plan, struct err *e)
{
    int32_t range[2];
    struct bench_answer answer = {0};
    bench_token_range(r->model, range);
    int32_t *tokens = bench_prompt_make(row->cell.prompt_tokens, range[0], range[1]);
    struct asked a = {.cell = &row->cell, .tokens = tokens, .plan = plan};
    int rc = prime(r, &a, e);
    if (rc == 0)
        rc = ask(r, &a, &answer, e);
    if (rc == 0) {
        row_record(row, plan, &answer);
        // Counts since the nodes started, so the largest seen is the newest.
        if (r->real)
            r->g->overruns = fmax(r->g->overruns, draw_number(answer.timings, "overruns"));
    }
    bench_answer_fini(&answer);
    free(tokens);
    return rc;
}

// A run that went another way than asked is told in the result and made again; several in a row are
// no accident.
static int plan_measure(struct grid_run *r, struct bench_row *row, enum bench_plan plan,
                        struct err *e)
{
    int rc = plan_try(r, row, plan, e);
    for (int i = 0; i < RETRIES && rc == ERR_MISMATCH; i++) {
        r->g->strays++;
        rc = plan_try(r, row, plan, e);
    }
    return rc;
}

static size_t runs_of(const struct grid_run *r, const struct bench_row *row)
{
    size_t n = r->o->runs * (row_best_s(row) < SHORT_S ? SHORT_RUNS : 1);
    return n < BENCH_RUNS_MAX ? n : BENCH_RUNS_MAX;
}

static int cell_measure(struct grid_run *r, const struct bench_cell *cell, struct err *e)
{
    char what[96], link[16];
    struct bench_row *row = &r->g->rows[r->g->n_rows];
    int rc = 0;
    *row = (struct bench_row){.cell = *cell};
    snprintf(what, sizeof what, "%slink %s: %u in, %u out", r->real ? "real engine, " : "",
             link_text(cell->link_ratio, link), cell->prompt_tokens, cell->gen_tokens);
    for (size_t run = 0; run == 0 || (run < runs_of(r, row) && rc == 0); run++)
        for (size_t i = 0; i <= BENCH_PLANS && rc == 0; i++) {
            enum bench_plan plan = (enum bench_plan)((i + run) % (BENCH_PLANS + 1));
            cli_progress(what, (double)r->done / (double)r->total);
            if (plan_wanted(row, plan))
                rc = plan_measure(r, row, plan, e);
        }
    if (rc != 0)
        return err_wrap(e, "%s", what);
    r->g->n_rows++;
    r->done++;
    return 0;
}

// ---- one pair -----------------------------------------------------------------------------------

// Ten requests after the first one, so that what is judged is a gateway that has seen some.
static int pair_teach(struct grid_run *r, struct err *e)
{
    struct bench_row row = {0};
    int rc = 0;
    for (size_t i = 0; i < WARMINGS && rc == 0; i++) {
        uint32_t prompt = warming[i].prompt_tokens, gen = warming[i].gen_tokens;
        row = (struct bench_row){.cell = {.prompt_tokens = r->real ? prompt / 8 : prompt,
                                          .gen_tokens = r->real ? gen / 32 + 1 : gen}};
        cli_progress("first requests", (double)r->done / (double)r->total);
        rc = plan_measure(r, &row, warming[i].plan, e);
        if (i == 0 && rc == 0)
            r->g->firsts[r->g->n_firsts++] = row.choices[0];
    }
    return rc != 0 ? err_wrap(e, "the first requests") : 0;
}

static bool all_measured(const json_t *nodes)
{
    size_t i;
    const json_t *node;
    json_array_foreach(nodes, i, node)
    {
        const json_t *profile = json_object_get(node, "profile");
        if (!json_is_true(json_object_get(profile, "measured")))
            return false;
    }
    return true;
}

// Nodes measure themselves while nobody asks anything of them. One that does not get to it is taken for
// what it is guessed to be, as it would be by its user.
static int measured_await(const struct grid_run *r, struct err *e)
{
    int64_t deadline = clock_now_ns() + MEASURED_NS;
    bool done = false;
    int rc = 0;
    while (!done && rc == 0 && clock_now_ns() < deadline) {
        json_t *nodes = NULL;
        rc = bench_nodes_get(bench_pair_url(r->pair), &nodes, e);
        done = rc == 0 && all_measured(nodes);
        json_decref(nodes);
        if (!done)
            clock_sleep_until(clock_now_ns() + 200 * NS_PER_MS);
    }
    r->g->unmeasured += !done;
    return rc;
}

// `slower`: than the catalogue's machines.
static int pair_open(struct grid_run *r, double slower, double link_ratio, struct err *e)
{
    struct bench_pair_options po = {.model = r->model,
                                    .ctx = r->real ? REAL_CTX : FAKE_CTX,
                                    .no_tiles = r->o->no_tiles,
                                    .min_chunk_tokens = r->o->min_chunk_tokens};
    for (size_t i = 0; i < 2; i++) {
        po.machines[i] = r->machines[i];
        po.machines[i].prefill_tokens_per_s *= slower > 0 ? 1 / slower : 0;
        po.machines[i].decode_tokens_per_s *= slower > 0 ? 1 / slower : 0;
    }
    if (link_ratio > 0)
        po.link_bytes_per_s = r->kv_token_bytes * po.machines[0].prefill_tokens_per_s / link_ratio;
    cli_progress("starting a pair", (double)r->done / (double)r->total);
    return bench_pair_start(&po, &r->pair, e);
}

static void pair_close(struct grid_run *r)
{
    bench_pair_free(r->pair);
    r->pair = NULL;
}

static size_t cells_of(const struct bench_options *o, size_t all)
{
    return o->grid_cells > 0 && o->grid_cells < all ? o->grid_cells : all;
}

static int link_run(struct grid_run *r, double ratio, struct err *e)
{
    int rc = pair_open(r, 1 / FASTER, ratio, e);
    if (rc == 0)
        rc = measured_await(r, e);
    if (rc == 0)
        rc = pair_teach(r, e);
    for (size_t i = 0; i < cells_of(r->o, sizeof cells / sizeof *cells) && rc == 0; i++) {
        struct bench_cell cell = cells[i];
        cell.link_ratio = ratio;
        rc = cell_measure(r, &cell, e);
    }
    pair_close(r);
    return rc;
}

// ---- the caller's model -------------------------------------------------------------------------

// At native speed: how much slower than the catalogue's machines this one is, and the size of KV.
static int real_scale_find(struct grid_run *r, double *scale, struct err *e)
{
    struct bench_series s;
    int32_t range[2];
    int rc = pair_open(r, 0, 0, e);
    if (rc != 0)
        return rc;
    bench_token_range(r->model, range);
    struct bench_series_options so = {.url = bench_pair_url(r->pair),
                                      .prompt_tokens = REAL_PROMPT,
                                      .gen_tokens = 4,
                                      .runs = 1,
                                      .what = "native speed",
                                      .token_min = range[0],
                                      .token_max = range[1]};
    rc = bench_series_run(&so, &s, e);
    pair_close(r);
    if (rc != 0)
        return rc;
    r->kv_token_bytes = s.samples[BENCH_HYBRID][0].kv_bytes / REAL_PROMPT;
    *scale =
        r->o->time_scale > 0 ? r->o->time_scale : bench_time_scale(&s, r->machines) * REAL_MARGIN;
    bench_series_fini(&s);
    return 0;
}

static int real_run(struct grid_run *r, struct err *e)
{
    r->real = true;
    r->model = r->o->model;
    int rc = real_scale_find(r, &r->g->time_scale, e);
    if (rc == 0)
        rc = pair_open(r, r->g->time_scale, r->o->link_ratio, e);
    if (rc == 0)
        rc = measured_await(r, e);
    if (rc == 0)
        rc = pair_teach(r, e);
    for (size_t i = 0; i < cells_of(r->o, sizeof real_cells / sizeof *real_cells) && rc == 0; i++) {
        struct bench_cell cell = real_cells[i];
        cell.real = true;
        cell.link_ratio = r->o->link_ratio;
        rc = cell_measure(r, &cell, e);
    }
    pair_close(r);
    return rc;
}

// ---- all of it ----------------------------------------------------------------------------------

static int options_check(const struct bench_options *o, struct err *e)
{
    if (o->nodes != NULL)
        return err_set(e, ERR_INVALID,
                       "--grid sets links and rates, so it emulates; leave out --nodes %s",
                       o->nodes);
    if (o->model == NULL)
        return err_set(e, ERR_INVALID,
                       "no model given; say -m FILE.gguf, or -m fake for a grid without the cells "
                       "of a real model");
    return 0;
}

int bench_grid_run(const struct bench_options *o, json_t **result, struct err *e)
{
    struct grid_run r = {.o = o, .model = FAKE_MODEL, .kv_token_bytes = FAKE_TOKEN_BYTES};
    int64_t start = clock_now_ns();
    int rc = options_check(o, e);
    if (rc != 0 || (rc = bench_machines_find(o->emulate, r.machines, e)) != 0)
        return rc;
    bool real = strncmp(o->model, "fake", 4) != 0;
    size_t n_links = sizeof links / sizeof *links;
    r.total = n_links * cells_of(o, sizeof cells / sizeof *cells) +
              (real ? cells_of(o, sizeof real_cells / sizeof *real_cells) : 0);
    r.g = mem_alloc(sizeof *r.g);
    for (size_t i = 0; i < n_links && rc == 0; i++)
        rc = link_run(&r, links[i], e);
    if (rc == 0 && real)
        rc = real_run(&r, e);
    cli_progress_end();
    r.g->seconds = ns_to_s(clock_now_ns() - start);
    if (rc == 0)
        *result = bench_grid_json(o, r.g);
    free(r.g);
    return rc;
}
