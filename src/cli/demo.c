// The short pair, explained: what a newcomer runs first.
#include "cli/bench.h"

#include "cli/cli.h"
#include "os/os.h"

#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEMO_PROMPT_TOKENS 1024
#define DEMO_GEN_TOKENS 4

// The bench model that `make model` put into the cache folder.
static int model_find(char *out, size_t out_bytes, struct err *e)
{
    char dir[4096], pattern[4160];
    glob_t found = {0};
    int rc = os_cache_dir(dir, sizeof dir, e);
    if (rc != 0)
        return rc;
    snprintf(pattern, sizeof pattern, "%s/models/*[qQ]4_0.gguf", dir);
    if (glob(pattern, 0, NULL, &found) == 0 && strlen(found.gl_pathv[0]) < out_bytes)
        snprintf(out, out_bytes, "%s", found.gl_pathv[0]);
    else
        rc = err_set(e, ERR_NOT_FOUND,
                     "no model in %s/models; say -m FILE.gguf, or run make demo, "
                     "which gets one",
                     dir);
    globfree(&found);
    return rc;
}

static void explain_before(const struct bench_options *o)
{
    fprintf(
        stderr,
        "Two machines are emulated on this one: an NVIDIA DGX Spark, quick at reading prompts,\n"
        "and a Mac Studio M3 Ultra, quick at writing answers. Two workers of the real engine run\n"
        "on a core each, slowed down so that their four speeds keep the published proportions,\n"
        "linked by real TLS at the speed of 10GbE to the same scale.\n"
        "Model: %s, %u tokens in, %u out. This takes one to three minutes.\n\n",
        o->model, o->prompt_tokens, o->gen_tokens);
}

static void explain_after(void)
{
    printf(
        "\n\"hybrid\" reads the prompt on one machine and writes the answer on the other; the KV\n"
        "cache crosses while the prompt is still being read. \"ideal\" is one machine's prefill\n"
        "plus the other's decode, with nothing lost between. These are emulated machines: the\n"
        "table shows what the software adds or loses, not what the hardware does.\n");
}

static int demo_main(int argc, char **argv)
{
    struct bench_options o;
    const char *json_file = NULL, *svg = NULL;
    char path[4352];
    struct err e = {0};
    json_t *result = NULL;
    bool done = false;
    bench_options_default(&o);
    o.prompt_tokens = DEMO_PROMPT_TOKENS;
    o.gen_tokens = DEMO_GEN_TOKENS;
    o.runs = 1;
    const struct cli_option options[] = {
        {"--model", 'm', CLI_STRING, &o.model, "FILE", "default: the bench model in the cache", 0,
         0},
        {"--json", 0, CLI_FLAG, &o.json, NULL, "the figures as JSON on stdout", 0, 0},
        {"--json-file", 0, CLI_STRING, &json_file, "FILE", "the figures as JSON to a file", 0, 0},
        {"--svg", 0, CLI_STRING, &svg, "FILE", "lines and timeline as a picture", 0, 0},
        {0},
    };
    int rc = cli_parse(argc, argv, options, "tandem demo [OPTIONS]",
                       "Emulates two unlike machines on this one and shows what they do together.",
                       NULL, &done, &e);
    if (rc != 0 || done)
        return rc != 0 ? cli_fail("demo", &e) : 0;
    if (o.model == NULL && (rc = model_find(path, sizeof path, &e)) == 0)
        o.model = path;
    if (rc == 0) {
        explain_before(&o);
        rc = bench_run(&o, &result, &e);
    }
    if (rc == 0) {
        bench_print(result, o.json);
        if (!o.json)
            explain_after();
        rc = json_file != NULL ? bench_json_write(result, json_file, &e) : 0;
    }
    if (rc == 0 && svg != NULL)
        rc = bench_svg_write(result, svg, &e);
    json_decref(result);
    return rc != 0 ? cli_fail("demo", &e) : 0;
}

const struct cli_command cli_demo = {
    .name = "demo",
    .summary = "two emulated machines on this one",
    .run = demo_main,
};
