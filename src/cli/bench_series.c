// Runs of the four lines, and what they say about how fast this machine really is.
#include "cli/bench.h"

#include "base/buf.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/draw.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int32_t *bench_prompt_make(size_t n, int32_t min, int32_t max)
{
    int32_t *tokens = mem_alloc(n * sizeof *tokens);
    uint32_t *random = mem_alloc(n * sizeof *random), span = (uint32_t)(max - min);
    os_random(random, n * sizeof *random);
    for (size_t i = 0; i < n; i++)
        tokens[i] = min + (int32_t)(random[i] % span);
    free(random);
    return tokens;
}

// ---- the steps of a timeline --------------------------------------------------------------------

// Which node did what a timeline entry shows: with plan remote it is the prefill node that decodes.
static size_t entry_node(enum bench_plan plan, const json_t *entry)
{
    const char *who = json_string_value(json_object_get(entry, "who"));
    return plan == BENCH_REMOTE || (who != NULL && strcmp(who, "prefill") == 0) ? 0 : 1;
}

void bench_floor_update(struct bench_series *s, enum bench_plan plan, const json_t *timings)
{
    size_t i;
    const json_t *entry;
    json_array_foreach(json_object_get(timings, "timeline"), i, entry)
    {
        const char *what = json_string_value(json_object_get(entry, "what"));
        double seconds = draw_number(entry, "t1") - draw_number(entry, "t0");
        double tokens = draw_number(entry, "p1") - draw_number(entry, "p0");
        bool compute = what != NULL && strcmp(what, "compute") == 0;
        bool decode = what != NULL && strcmp(what, "decode") == 0;
        if ((!compute && !decode) || tokens < 1)
            continue;
        double *floor_s = &s->floor_s[entry_node(plan, entry)][decode];
        *floor_s = fmax(*floor_s, seconds / tokens);
    }
}

double bench_time_scale(const struct bench_series *s, const struct bench_machine machines[2])
{
    double scale = 0;
    for (size_t i = 0; i < 2; i++) {
        scale = fmax(scale, s->floor_s[i][0] * machines[i].prefill_tokens_per_s);
        scale = fmax(scale, s->floor_s[i][1] * machines[i].decode_tokens_per_s);
    }
    return scale;
}

// Counts since the nodes started, so the largest seen is the newest.
static void overruns_update(struct bench_series *s, enum bench_plan plan, const json_t *timings)
{
    size_t decoder = plan == BENCH_REMOTE ? 0 : 1;
    s->overruns[0] = fmax(s->overruns[0], draw_number(timings, "prefill.overruns"));
    s->overruns[decoder] = fmax(s->overruns[decoder], draw_number(timings, "decode.overruns"));
    s->worst_ratio = fmax(s->worst_ratio, draw_number(timings, "worst_ratio"));
}

static void names_update(struct bench_series *s, const struct bench_answer *a)
{
    snprintf(s->names[0], BENCH_NAME_BYTES, "%s",
             json_string_or(a->timings, "prefill_node", "prefill"));
    snprintf(s->names[1], BENCH_NAME_BYTES, "%s",
             json_string_or(a->timings, "decode_node", "decode"));
    snprintf(s->model, BENCH_NAME_BYTES, "%s", a->model);
}

// ---- runs ---------------------------------------------------------------------------------------

static void line_record(struct bench_series *s, size_t run, enum bench_plan plan,
                        const struct bench_answer *a)
{
    s->samples[plan][run] = a->sample;
    bench_floor_update(s, plan, a->timings);
    overruns_update(s, plan, a->timings);
    if (plan == BENCH_HYBRID) {
        names_update(s, a);
        s->timelines[run] = json_incref(json_object_get(a->timings, "timeline"));
    }
}

static int run_once(const struct bench_series_options *o, struct bench_series *s, size_t run,
                    struct err *e)
{
    char what[64], *first = NULL;
    // Another prompt for every run, so that no prefix is ever warm; the same for the lines of one
    // run, so that their outputs can be compared.
    int32_t *tokens = bench_prompt_make(o->prompt_tokens, o->token_min, o->token_max);
    int rc = 0;
    for (size_t i = 0; i < BENCH_PLANS && rc == 0; i++) {
        enum bench_plan plan = (enum bench_plan)((i + run) % BENCH_PLANS);
        struct bench_request q = {.url = o->url,
                                  .plan = plan,
                                  .tokens = tokens,
                                  .n_tokens = o->prompt_tokens,
                                  .gen_tokens = o->gen_tokens};
        struct bench_answer a;
        snprintf(what, sizeof what, "%s, run %zu: %s", o->what, run + 1, bench_plan_name(plan));
        cli_progress(what, (double)(run * BENCH_PLANS + i) / (double)(o->runs * BENCH_PLANS));
        rc = bench_request_run(&q, &a, e);
        if (rc == 0) {
            line_record(s, run, plan, &a);
            if (first == NULL)
                first = mem_strdup(a.text);
            s->identical = s->identical && strcmp(first, a.text) == 0;
        }
        bench_answer_fini(&a);
        if (o->stop_on_overrun && s->overruns[0] + s->overruns[1] > 0)
            break;
    }
    free(first);
    free(tokens);
    return rc;
}

int bench_series_run(const struct bench_series_options *o, struct bench_series *s, struct err *e)
{
    int rc = 0;
    *s = (struct bench_series){.identical = true};
    for (size_t run = 0; run < o->runs && rc == 0; run++) {
        rc = run_once(o, s, run, e);
        if (o->stop_on_overrun && s->overruns[0] + s->overruns[1] > 0)
            break;
        s->runs += rc == 0;
    }
    cli_progress_end();
    if (rc == 0)
        rc = bench_nodes_get(o->url, &s->nodes, e);
    if (rc != 0)
        bench_series_fini(s);
    return rc;
}

void bench_series_fini(struct bench_series *s)
{
    for (size_t i = 0; i < BENCH_RUNS_MAX; i++)
        json_decref(s->timelines[i]);
    json_decref(s->nodes);
    *s = (struct bench_series){0};
}
