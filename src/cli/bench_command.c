#include "cli/bench_grid.h"

#include "cli/cli.h"

#include <stdio.h>

struct outputs {
    const char *svg, *report, *json_file;
    struct cli_list require;
};

static int outputs_write(const json_t *result, const struct outputs *out, struct err *e)
{
    int rc = out->svg != NULL ? bench_svg_write(result, out->svg, e) : 0;
    if (rc == 0 && out->report != NULL)
        rc = bench_report_write(result, out->report, e);
    if (rc == 0 && out->json_file != NULL)
        rc = bench_json_write(result, out->json_file, e);
    return rc;
}

// Names every bound that is missed; exit code 3 when there is one.
static int bounds_check(const json_t *result, const struct cli_list *bounds)
{
    int code = 0;
    for (size_t i = 0; i < bounds->n; i++) {
        struct err e = {0};
        int rc = bench_require(result, bounds->items[i], &e);
        if (rc == ERR_INVALID)
            return cli_fail("bench", &e);
        if (rc != 0) {
            fprintf(stderr, "tandem bench: missed: %s\n", e.message);
            code = 3;
        }
    }
    return code;
}

static int bench_main(int argc, char **argv)
{
    struct bench_options o;
    struct outputs out = {0};
    struct err e = {0};
    json_t *result = NULL;
    bool done = false;
    bench_options_default(&o);
    const struct cli_option options[] = {
        {"--model", 'm', CLI_STRING, &o.model, "FILE", "the model, a GGUF file", 0, 0},
        {"--emulate", 0, CLI_STRING, &o.emulate, "PREFILL+DECODE",
         "two machines of the catalogue (default dgx-spark+mac-studio-m3-ultra)", 0, 0},
        {"--nodes", 0, CLI_STRING, &o.nodes, "NAME,URL",
         "real machines instead: the prefill node's name and the gateway's URL", 0, 0},
        {"--prompt", 0, CLI_UINT32, &o.prompt_tokens, "TOKENS", "tokens in (default 2048)", 2,
         1 << 20},
        {"--gen", 0, CLI_UINT32, &o.gen_tokens, "TOKENS", "tokens out (default 8)", 1, 1 << 16},
        {"--runs", 0, CLI_UINT32, &o.runs, "K", "medians over this many (default 3)", 1,
         BENCH_RUNS_MAX},
        {"--unpaced-runs", 0, CLI_UINT32, &o.unpaced_runs, "K",
         "at native speed (default: as --runs)", 0, BENCH_RUNS_MAX},
        {"--link-ratio", 0, CLI_DOUBLE, &o.link_ratio, "R",
         "KV time / prefill time (default 0.63, as measured on 10GbE)", 0.001, 1000},
        {"--time-scale", 0, CLI_DOUBLE, &o.time_scale, "S", "fixed instead of found", 0, 1e6},
        {"--grid", 0, CLI_FLAG, &o.grid, NULL,
         "many prompts, answers, links and held prefixes instead of one: what each plan takes, "
         "what "
         "the gateway chooses and predicts (six to ten minutes)",
         0, 0},
        {"--cells", 0, CLI_UINT32, &o.grid_cells, "N", "of the grid: so many for each link", 1,
         BENCH_GRID_ROWS},
        {"--no-tiles", 0, CLI_FLAG, &o.no_tiles, NULL, "send the last chunk whole, not by layer", 0,
         0},
        {"--min-chunk", 0, CLI_UINT32, &o.min_chunk_tokens, "TOKENS", "finest chunk sent", 0,
         1 << 16},
        {"--json", 0, CLI_FLAG, &o.json, NULL, "the result as JSON on stdout", 0, 0},
        {"--json-file", 0, CLI_STRING, &out.json_file, "FILE", "the same, indented, to a file", 0,
         0},
        {"--svg", 0, CLI_STRING, &out.svg, "FILE", "lines and timeline as a picture", 0, 0},
        {"--report", 0, CLI_STRING, &out.report, "FILE",
         "all of it in one text file, to compare or to attach to a bug", 0, 0},
        {"--require", 0, CLI_LIST, &out.require, "PATH>=X",
         "exit with 3 unless it holds, as in efficiency>=0.98 or overruns<=0", 0, 0},
        {0},
    };
    int rc =
        cli_parse(argc, argv, options, "tandem bench -m MODEL [OPTIONS]",
                  "Measures four lines side by side, each end to end at the client: the prefill "
                  "machine\nalone, the decode machine alone, handed over after prefill (serial) "
                  "and during it\n(hybrid). Without --nodes, both machines are emulated on this "
                  "one. With --grid it\nmeasures how good the gateway's choice of a plan is, "
                  "instead.",
                  NULL, &done, &e);
    if (rc != 0 || done)
        return rc != 0 ? cli_fail("bench", &e) : 0;
    rc = bench_run(&o, &result, &e);
    if (rc == 0) {
        bench_print(result, o.json);
        rc = outputs_write(result, &out, &e);
    }
    int code = rc != 0 ? cli_fail("bench", &e) : bounds_check(result, &out.require);
    json_decref(result);
    return code;
}

const struct cli_command cli_bench = {
    .name = "bench",
    .summary = "measure solo, serial and hybrid",
    .run = bench_main,
};
