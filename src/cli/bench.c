// The order of a measurement: native speed first, which also tells the time scale, then the same
// processes slowed down to the emulated machines; on real nodes one series and nothing else.
#include "cli/bench.h"

#include "base/buf.h"
#include "cli/bench_grid.h"
#include "cli/cli.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCALE_MARGIN 1.06 // room for what another run of the same step may take longer
#define SCALE_STEP 1.10
#define SCALE_STEP_MAX 1.25 // one bad moment of this machine shall not make all runs slow
#define TRIES 4
// Ids that every real vocabulary has and that are neither bytes nor special.
#define TOKEN_MIN 1000
#define TOKEN_MAX 30000
// The fake engine's are letters.
#define FAKE_TOKEN_MIN 97
#define FAKE_TOKEN_MAX 123

void bench_options_default(struct bench_options *o)
{
    *o = (struct bench_options){
        .emulate = "dgx-spark+mac-studio-m3-ultra",
        .prompt_tokens = 2048,
        .gen_tokens = 8,
        .runs = 3,
        .link_ratio =
            0.63, // of the original: 8192 tokens of KV over 10GbE against 1.47 s of prefill
    };
}

void bench_token_range(const char *model, int32_t range[2])
{
    bool fake = model != NULL && strncmp(model, "fake", 4) == 0;
    range[0] = fake ? FAKE_TOKEN_MIN : TOKEN_MIN;
    range[1] = fake ? FAKE_TOKEN_MAX : TOKEN_MAX;
}

static struct bench_series_options series_options(const struct bench_options *o, const char *url,
                                                  const char *what)
{
    int32_t range[2];
    bench_token_range(o->model, range);
    return (struct bench_series_options){
        .url = url,
        .prompt_tokens = o->prompt_tokens,
        .gen_tokens = o->gen_tokens,
        .runs = o->runs,
        .what = what,
        .token_min = range[0],
        .token_max = range[1],
    };
}

// ---- real nodes ---------------------------------------------------------------------------------

static int nodes_run(const struct bench_options *o, json_t **result, struct err *e)
{
    // The gateway knows its prefill node; naming it here guards against measuring another one.
    const char *comma = strchr(o->nodes, ',');
    struct bench_series s;
    if (comma == NULL || comma[1] == '\0')
        return err_set(e, ERR_INVALID, "--nodes is \"%s\", must be PREFILL-NAME,GATEWAY-URL",
                       o->nodes);
    struct bench_series_options so = series_options(o, comma + 1, "real nodes");
    int rc = bench_series_run(&so, &s, e);
    if (rc != 0)
        return rc;
    size_t n = (size_t)(comma - o->nodes);
    if (n > 0 && (strncmp(o->nodes, s.names[0], n) != 0 || s.names[0][n] != '\0'))
        rc = err_set(e, ERR_MISMATCH, "the gateway's prefill node is \"%s\", not \"%.*s\"",
                     s.names[0], (int)n, o->nodes);
    struct bench_outcome outcome = {.options = o, .series = &s, .time_scale = 1};
    if (rc == 0)
        *result = bench_result_json(&outcome);
    bench_series_fini(&s);
    return rc;
}

// ---- an emulated pair ---------------------------------------------------------------------------

struct emulation {
    const struct bench_options *o;
    struct bench_machine machines[2];
    struct bench_series unpaced, paced;
    double scale, link_bytes_per_s;
};

int bench_machines_find(const char *emulate, struct bench_machine out[2], struct err *e)
{
    char name[BENCH_NAME_BYTES];
    const char *plus = strchr(emulate, '+');
    if (plus == NULL)
        return err_set(e, ERR_INVALID,
                       "--emulate is \"%s\", must be PREFILL+DECODE, as in "
                       "dgx-spark+mac-studio-m3-ultra",
                       emulate);
    snprintf(name, sizeof name, "%.*s", (int)(plus - emulate), emulate);
    int rc = bench_catalogue_find(name, &out[0], e);
    return rc != 0 ? rc : bench_catalogue_find(plus + 1, &out[1], e);
}

static struct bench_pair_options pair_options(const struct emulation *m)
{
    uint32_t need = m->o->prompt_tokens + m->o->gen_tokens;
    struct bench_pair_options p = {
        .model = m->o->model,
        .ctx = (need + 256) / 256 * 256 + 256,
        .no_tiles = m->o->no_tiles,
        .min_chunk_tokens = m->o->min_chunk_tokens,
        .link_bytes_per_s = m->link_bytes_per_s,
    };
    for (size_t i = 0; i < 2; i++) {
        p.machines[i] = m->machines[i];
        p.machines[i].prefill_tokens_per_s =
            m->scale > 0 ? m->machines[i].prefill_tokens_per_s / m->scale : 0;
        p.machines[i].decode_tokens_per_s =
            m->scale > 0 ? m->machines[i].decode_tokens_per_s / m->scale : 0;
    }
    return p;
}

static int series_on_pair(const struct emulation *m, const char *what, struct bench_series *s,
                          struct err *e)
{
    struct bench_pair_options po = pair_options(m);
    struct bench_pair *pair;
    cli_progress("starting the pair", 0);
    int rc = bench_pair_start(&po, &pair, e);
    if (rc != 0)
        return rc;
    struct bench_series_options so = series_options(m->o, bench_pair_url(pair), what);
    so.stop_on_overrun = m->scale > 0;
    if (m->scale == 0 && m->o->unpaced_runs > 0)
        so.runs = m->o->unpaced_runs;
    rc = bench_series_run(&so, s, e);
    bench_pair_free(pair);
    return rc;
}

static void scale_set(struct emulation *m, double scale)
{
    double kv_bytes = m->unpaced.samples[BENCH_HYBRID][0].kv_bytes;
    double prefill_s = m->o->prompt_tokens / (m->machines[0].prefill_tokens_per_s / scale);
    m->scale = scale;
    m->link_bytes_per_s = kv_bytes / (m->o->link_ratio * prefill_s);
}

// Raises the scale until no step overruns; the last try stands with whatever it has.
static int paced_run(struct emulation *m, struct err *e)
{
    for (int i = 0; i < TRIES; i++) {
        char what[64];
        snprintf(what, sizeof what, "emulated, time scale %.1f", m->scale);
        int rc = series_on_pair(m, what, &m->paced, e);
        double overruns = rc == 0 ? m->paced.overruns[0] + m->paced.overruns[1] : 0;
        if (rc != 0 || overruns == 0)
            return rc;
        double scale =
            m->scale * fmin(fmax(SCALE_STEP, m->paced.worst_ratio * 1.02), SCALE_STEP_MAX);
        fprintf(stderr, "tandem bench: a step took %.2f of its slot at time scale %.2f; %s %.2f\n",
                m->paced.worst_ratio, m->scale, i + 1 < TRIES ? "trying" : "it would need", scale);
        if (i + 1 == TRIES || m->o->time_scale > 0)
            break;
        bench_series_fini(&m->paced);
        scale_set(m, scale);
    }
    if (m->paced.runs > 0)
        return 0;
    bench_series_fini(&m->paced);
    return err_set(e, ERR_BUSY,
                   "this machine is too unsteady: steps overrun their slots at time "
                   "scale %.2f; stop what else runs on it",
                   m->scale);
}

static int emulation_run(const struct bench_options *o, json_t **result, struct err *e)
{
    struct emulation m = {.o = o};
    if (o->model == NULL)
        return err_set(e, ERR_INVALID, "no model given; say -m FILE.gguf");
    int rc = bench_machines_find(o->emulate, m.machines, e);
    if (rc != 0 || (rc = series_on_pair(&m, "native speed", &m.unpaced, e)) != 0)
        return rc;
    scale_set(&m, o->time_scale > 0 ? o->time_scale
                                    : bench_time_scale(&m.unpaced, m.machines) * SCALE_MARGIN);
    rc = paced_run(&m, e);
    if (rc == 0) {
        struct bench_outcome outcome = {.options = o,
                                        .series = &m.paced,
                                        .unpaced = &m.unpaced,
                                        .emulated = true,
                                        .time_scale = m.scale,
                                        .link_bytes_per_s = m.link_bytes_per_s};
        *result = bench_result_json(&outcome);
        bench_series_fini(&m.paced);
    }
    bench_series_fini(&m.unpaced);
    return rc;
}

int bench_run(const struct bench_options *o, json_t **result, struct err *e)
{
    *result = NULL;
    bench_signals_catch();
    int rc = o->grid            ? bench_grid_run(o, result, e)
             : o->nodes != NULL ? nodes_run(o, result, e)
                                : emulation_run(o, result, e);
    cli_progress_end();
    return rc;
}
