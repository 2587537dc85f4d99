// tandem plan predict: how fast one machine reads or writes.
#include "cli/plan.h"

#include "base/buf.h"
#include "base/json.h"
#include "cli/cli.h"
#include "os/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BAR_CELLS 40
#define BATCH_FILE_MAX_BYTES (16u << 20)
#define DEFAULT_PROMPT 512.0

struct options {
    struct plan_query q;
    const char *test, *batch_file;
    bool json;
};

static const char about[] = "Predicts tokens per second of one machine with one model: --test pp "
                            "reads a prompt of --n-prompt\n"
                            "tokens after --depth tokens, --test tg writes at --depth. Four "
                            "measurements in five lie in the\n"
                            "interval. Exit code 3: it does not fit into the machine's memory.";

static int options_parse(int argc, char **argv, struct options *o, bool *done, struct err *e)
{
    const double most = PLAN_TOKENS_MAX;
    const struct cli_option options[] = {
        {"--machine", 0, CLI_STRING, &o->q.machine, "ID", "of the catalogue: dgx-spark", 0, 0},
        {"--model", 'm', CLI_STRING, &o->q.model, "ID", "of the catalogue, or FILE.gguf", 0, 0},
        {"--quant", 0, CLI_STRING, &o->q.quant, "NAME", "Q4_K_M, MXFP4, ... (F16)", 0, 0},
        {"--test", 0, CLI_STRING, &o->test, "pp|tg", "read a prompt, or write an answer", 0, 0},
        {"--n-prompt", 0, CLI_DOUBLE, &o->q.n_prompt, "N", "tokens of the prompt (512)", 0, most},
        {"--depth", 0, CLI_DOUBLE, &o->q.depth, "D", "tokens that are there before (0)", 0, most},
        {"--batch", 0, CLI_DOUBLE, &o->q.batch, "B", "sequences at once (1); the rate is of all", 1,
         PLAN_BATCH_MAX},
        {"--ubatch", 0, CLI_DOUBLE, &o->q.ubatch, "N", "tokens per chunk; 0: as people set it", 0,
         most},
        {"--backend", 0, CLI_STRING, &o->q.backend, "NAME",
         "CUDA, ROCm, Vulkan, Metal, CPU, MLX, vLLM, ds4 (what the machine is used with)", 0, 0},
        {"--batch-file", 0, CLI_STRING, &o->batch_file, "FILE",
         "many questions: a JSON list of objects {machine, model, quant, test, n_prompt, depth, "
         "batch, "
         "backend, ubatch, bits}; -: standard input",
         0, 0},
        {"--json", 0, CLI_FLAG, &o->json, NULL, "print one JSON object", 0, 0},
        {0},
    };
    return cli_parse(argc, argv, options,
                     "tandem plan predict --machine ID --model ID [--quant NAME] --test pp|tg "
                     "[--n-prompt N] [--depth D] [--batch B]",
                     about, NULL, done, e);
}

static int test_parse(const char *test, struct plan_query *q, struct err *e)
{
    if (test == NULL || (strcmp(test, "pp") != 0 && strcmp(test, "tg") != 0))
        return err_set(e, ERR_INVALID, "--test is \"%.40s\"; say pp (read a prompt) or tg (write)",
                       test != NULL ? test : "");
    q->prefill = test[0] == 'p';
    return 0;
}

static int query_complete(struct options *o, struct err *e)
{
    if (o->q.machine == NULL)
        return err_set(e, ERR_INVALID, "--machine ID is missing, for example dgx-spark");
    if (o->q.model == NULL)
        return err_set(e, ERR_INVALID, "--model ID is missing, for example llama-3.1-8b");
    int rc = test_parse(o->test, &o->q, e);
    if (rc == 0 && o->q.prefill && o->q.n_prompt == -1)
        o->q.n_prompt = DEFAULT_PROMPT;
    if (o->q.n_prompt == -1)
        o->q.n_prompt = 0;
    return rc;
}

// ---- out -----------------------------------------------------------------------------------------------

static json_t *answer_json(const struct plan_query *q, const struct plan_answer *a)
{
    json_t *o = json_object(), *parts = json_object();
    json_put(o, "machine", json_string(q->machine));
    json_put(o, "model", json_string(q->model));
    json_put(o, "test", json_string(q->prefill ? "pp" : "tg"));
    json_put(o, "tokens_per_s", a->fits ? json_real(a->tokens_per_s) : json_null());
    json_put(o, "low", a->fits ? json_real(a->low) : json_null());
    json_put(o, "high", a->fits ? json_real(a->high) : json_null());
    json_put(o, "fits", json_boolean(a->fits));
    json_put(o, "bound", json_string(cost_bound_name(a->bound)));
    json_put(o, "engine", json_string(a->engine));
    json_put(o, "interval_of", json_string(a->basis));
    json_put(o, "memory_needed_gb", json_real(a->need_bytes / 1e9));
    json_put(o, "memory_gb", json_real(a->have_bytes / 1e9));
    json_put(parts, "weights_s", json_real(a->time.weights_s));
    json_put(parts, "kv_s", json_real(a->time.kv_s));
    json_put(parts, "compute_s", json_real(a->time.compute_s));
    json_put(parts, "attention_s", json_real(a->time.attention_s));
    json_put(parts, "overhead_s", json_real(a->time.overhead_s));
    json_put(o, "time", parts);
    return o;
}

static const char *basis_words(const char *basis)
{
    if (strcmp(basis, "row") == 0)
        return "this model on this machine was measured";
    if (strcmp(basis, "run") == 0)
        return "machine and model were measured, not together";
    if (strcmp(basis, "machine") == 0)
        return "nobody measured this machine";
    return "nobody measured a model of this shape";
}

static void answer_print(const struct plan_query *q, const struct plan_answer *a)
{
    const struct {
        const char *what;
        double s;
    } parts[] = {
        {"weights", a->time.weights_s},    {"KV cache", a->time.kv_s},
        {"arithmetic", a->time.compute_s}, {"attention", a->time.attention_s},
        {"overhead", a->time.overhead_s},
    };
    printf("%s, %s %s, %s\n", q->machine, q->model, q->quant != NULL ? q->quant : "", a->engine);
    printf("%s %.4g tokens/s, four in five between %.4g and %.4g (%s)\n",
           q->prefill ? "reads" : "writes", a->tokens_per_s, a->low, a->high,
           basis_words(a->basis));
    printf("bound by %s; where %.4g s go:\n", cost_bound_name(a->bound), a->seconds);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        double share = parts[i].s / a->time.total_s;
        if (share < 0.005)
            continue;
        printf("  %-10s ", parts[i].what);
        plan_bar(stdout, share, BAR_CELLS);
        printf(" %3.0f %%\n", 100 * share);
    }
    printf("memory: %.1f of %.1f GB\n", a->need_bytes / 1e9, a->have_bytes / 1e9);
}

static int one_run(const struct plan_catalogue *c, const struct options *o, struct err *e,
                   bool *fits)
{
    struct plan_answer a;
    char text[512];
    int rc = plan_predict(c, &o->q, &a, e);
    if (rc != 0)
        return rc;
    plan_too_large(o->q.machine, a.need_bytes, a.have_bytes, text, sizeof text);
    if (o->json) {
        json_t *out = answer_json(&o->q, &a);
        if (!a.fits)
            json_put(out, "error", json_string(text));
        char *line = json_line(out);
        puts(line);
        free(line);
        json_decref(out);
    } else if (a.fits) {
        answer_print(&o->q, &a);
    }
    if (!a.fits)
        fprintf(stderr, "tandem plan: %s %s: %s\n", o->q.model,
                o->q.quant != NULL ? o->q.quant : "", text);
    *fits = a.fits;
    return 0;
}

// ---- many at once ------------------------------------------------------------------------------------------

static int input_read(const char *path, char **text, size_t *n, struct err *e)
{
    struct buf b;
    uint8_t piece[65536];
    ssize_t got;
    if (strcmp(path, "-") != 0)
        return os_file_read(path, BATCH_FILE_MAX_BYTES, text, n, e);
    buf_init(&b, BATCH_FILE_MAX_BYTES);
    while ((got = read(STDIN_FILENO, piece, sizeof piece)) > 0)
        if (buf_put(&b, piece, (size_t)got) != 0) {
            buf_fini(&b);
            return err_set(e, ERR_RANGE, "standard input is longer than %u bytes",
                           BATCH_FILE_MAX_BYTES);
        }
    *n = b.len;
    *text = buf_take(&b);
    return 0;
}

static int row_predict(const struct plan_catalogue *c, const json_t *row, json_t *out,
                       struct err *e)
{
    struct plan_query q;
    struct plan_answer a;
    const char *test = NULL;
    plan_query_defaults(&q);
    int rc = json_get_string(row, "machine", &q.machine, e);
    const struct {
        const char *member;
        const char **to;
    } texts[] = {
        {"model", &q.model}, {"quant", &q.quant}, {"backend", &q.backend}, {"test", &test}};
    const struct {
        const char *member;
        double *to;
    } numbers[] = {{"n_prompt", &q.n_prompt},
                   {"depth", &q.depth},
                   {"batch", &q.batch},
                   {"ubatch", &q.ubatch},
                   {"bits", &q.bits}};
    for (size_t i = 0; rc == 0 && i < sizeof texts / sizeof *texts; i++)
        rc = json_get_string(row, texts[i].member, texts[i].to, e);
    for (size_t i = 0; rc == 0 && i < sizeof numbers / sizeof *numbers; i++)
        rc = json_get_f64(row, numbers[i].member, 0, PLAN_TOKENS_MAX, numbers[i].to, e);
    if (rc == 0 && (q.machine == NULL || q.model == NULL))
        rc = err_set(e, ERR_INVALID, "\"machine\" and \"model\" must be given");
    if (rc == 0)
        rc = test_parse(test, &q, e);
    if (rc == 0)
        rc = plan_predict(c, &q, &a, e);
    if (rc != 0)
        return rc;
    json_t *o = answer_json(&q, &a);
    // Rows of a comparison are told even where they would not fit: the interval then is of no use.
    json_put(o, "tokens_per_s", json_real(a.tokens_per_s));
    json_array_append_new(out, o);
    return 0;
}

static int file_run(const struct plan_catalogue *c, const char *path, struct err *e)
{
    char *text = NULL;
    size_t n = 0, i;
    json_t *rows = NULL, *row, *out = json_array();
    int rc = input_read(path, &text, &n, e);
    if (rc == 0) {
        rows = json_parse(text, n, e);
        rc = rows != NULL ? 0 : ERR_INVALID;
    }
    if (rc == 0 && !json_is_array(rows))
        rc = err_set(e, ERR_INVALID, "it must hold a JSON list of objects");
    json_array_foreach(rows, i, row)
    {
        if (rc == 0)
            rc = row_predict(c, row, out, e);
        if (rc != 0) {
            err_wrap(e, "row %zu", i);
            break;
        }
    }
    if (rc == 0) {
        char *line = json_line(out);
        puts(line);
        free(line);
    } else {
        err_wrap(e, "--batch-file %s", path);
    }
    free(text);
    json_decref(rows);
    json_decref(out);
    return rc;
}

int plan_predict_run(int argc, char **argv)
{
    struct options o = {0};
    struct plan_catalogue *c = NULL;
    struct err e = {0};
    bool done = false, fits = true;
    plan_query_defaults(&o.q);
    o.q.n_prompt = -1; // not given
    int rc = options_parse(argc, argv, &o, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0 && o.batch_file == NULL)
        rc = query_complete(&o, &e);
    if (rc == 0)
        rc = plan_catalogue_open(&c, &e);
    if (rc == 0)
        rc = o.batch_file != NULL ? file_run(c, o.batch_file, &e) : one_run(c, &o, &e, &fits);
    plan_catalogue_free(c);
    if (rc != 0)
        return cli_fail("plan", &e);
    return fits ? 0 : 3;
}
