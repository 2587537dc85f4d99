// tandem train: fine-tuning jobs. Here: the parts, and a new job.
#include "cli/train.h"

#include "base/json.h"
#include "cli/cli.h"
#include "cli/models.h"
#include "cli/term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} parts[] = {
    {"ls", train_ls_run},      {"show", train_show_run},     {"watch", train_watch_run},
    {"logs", train_logs_run},  {"cancel", train_cancel_run}, {"rm", train_rm_run},
    {"run", train_runner_run},
};
#define N_PARTS (sizeof parts / sizeof *parts)

int train_fail(const struct err *e)
{
    return cli_fail("train", e);
}

void train_json_print(json_t *value)
{
    char *line = json_line(value);
    puts(line);
    fflush(stdout);
    free(line);
    json_decref(value);
}

int train_jobs_open(struct jobs **out, struct err *e)
{
    struct jobs_options o;
    jobs_options_default(&o);
    return jobs_open(&o, out, e);
}

// ---- a new job -----------------------------------------------------------------------------------

static const char usage[] =
    "usage: tandem train -m MODEL --data FILE --name NAME [OPTIONS]\n"
    "       tandem train ls | show JOB | watch JOB | logs JOB | cancel JOB | rm JOB";
static const char about[] =
    "Trains a LoRA adapter on chats (JSONL, {\"messages\": [...]} a line) and publishes it as\n"
    "ft:NAME, which every server of the base model then lists. Returns when it is published. The "
    "job\n"
    "does not depend on this command: Ctrl-C stops watching only, and what is killed goes on from\n"
    "its newest checkpoint. A JOB is an id, the beginning of one, or a name.";

// The options of job.json. A member that was not given is left out: the trainer has the defaults.
enum { UNSET = -1 };
struct tuning {
    int64_t rank, epochs, max_steps, batch, max_tokens, seed, checkpoint_steps, eval_steps, threads;
    double alpha, learning_rate, warmup_share, eval_share, weight_decay, clip;
    const char *targets, *weights, *merge;
    bool gpu;
};

struct submit {
    struct jobs_spec spec;
    struct tuning tuning;
    const char *model, *data, *executor;
    struct cli_list command, executor_options;
    int64_t limit_time_s;
    double limit_memory_gb, disk_reserve_gb;
    bool detach;
    struct train_watch watch;
};

#define WHOLE(opt, field, low, high, what)                                                         \
    {                                                                                              \
        .name = "--" opt, .kind = CLI_INT, .value = &s->tuning.field, .arg = "N", .help = what,    \
        .min = low, .max = high                                                                    \
    }
#define FRACTION(opt, field, low, high, what)                                                      \
    {                                                                                              \
        .name = "--" opt, .kind = CLI_DOUBLE, .value = &s->tuning.field, .arg = "X", .help = what, \
        .min = low, .max = high                                                                    \
    }

static size_t options_job(struct submit *s, struct cli_option *out)
{
    const struct cli_option table[] = {
        {.name = "--model",
         .letter = 'm',
         .kind = CLI_STRING,
         .value = (void *)&s->model,
         .arg = "MODEL",
         .help = "the base: a GGUF file, or a model of the store"},
        {.name = "--data",
         .kind = CLI_STRING,
         .value = (void *)&s->data,
         .arg = "FILE",
         .help = "chats to learn from"},
        {.name = "--name",
         .kind = CLI_STRING,
         .value = (void *)&s->spec.name,
         .arg = "NAME",
         .help = "the adapter answers as ft:NAME"},
        {.name = "--eval-data",
         .kind = CLI_STRING,
         .value = (void *)&s->spec.eval_data,
         .arg = "FILE",
         .help = "chats to evaluate on; or --eval-share"},
        {.name = "--replace",
         .kind = CLI_FLAG,
         .value = &s->spec.replace,
         .help = "an adapter of that name may be replaced"},
        {.name = "--watch",
         .kind = CLI_FLAG,
         .value = &s->watch.live,
         .help = "draw the loss while it trains"},
        {.name = "--detach",
         .kind = CLI_FLAG,
         .value = &s->detach,
         .help = "return at once, with the job's id"},
        {.name = "--svg",
         .kind = CLI_STRING,
         .value = (void *)&s->watch.svg,
         .arg = "FILE",
         .help = "write the loss as a picture at the end"},
        {.name = "--json",
         .kind = CLI_FLAG,
         .value = &s->watch.json,
         .help = "print the job as JSON at the end"},
    };
    memcpy(out, table, sizeof table);
    return sizeof table / sizeof *table;
}

static size_t options_where(struct submit *s, struct cli_option *out)
{
    const struct cli_option table[] = {
        {.name = "--executor",
         .kind = CLI_STRING,
         .value = (void *)&s->executor,
         .arg = "local|slurm|ssh|fastest",
         .help = "where it is trained (local)"},
        {.name = "--executor-option",
         .kind = CLI_LIST,
         .value = &s->executor_options,
         .arg = "KEY=VALUE",
         .help = "of the executor: partition=gpu, hosts=spark1,spark2"},
        {.name = "--trainer",
         .kind = CLI_LIST,
         .value = &s->command,
         .arg = "WORD",
         .help = "another trainer, word by word; the job's folder is appended"},
        {.name = "--limit-time",
         .kind = CLI_INT,
         .value = &s->limit_time_s,
         .arg = "SECONDS",
         .help = "fail after so long (no limit)",
         .min = 1,
         .max = 1e9},
        {.name = "--limit-memory",
         .kind = CLI_DOUBLE,
         .value = &s->limit_memory_gb,
         .arg = "GB",
         .help = "memory the trainer may take (what is free)",
         .min = 0.001,
         .max = 1e6},
        {.name = "--disk-reserve",
         .kind = CLI_DOUBLE,
         .value = &s->disk_reserve_gb,
         .arg = "GB",
         .help = "disk space that must stay free (0.27)",
         .min = 0.000001,
         .max = 1e6},
    };
    memcpy(out, table, sizeof table);
    return sizeof table / sizeof *table;
}

static size_t options_tuning(struct submit *s, struct cli_option *out)
{
    const struct cli_option table[] = {
        WHOLE("rank", rank, 1, 256, "of the adapter (8)"),
        FRACTION("alpha", alpha, 0.001, 100000, "its scale is alpha / rank (16)"),
        {.name = "--targets",
         .kind = CLI_STRING,
         .value = (void *)&s->tuning.targets,
         .arg = "LIST",
         .help = "q,k,v,o,gate,up,down, or attention, mlp, all (all)"},
        FRACTION("learning-rate", learning_rate, 1e-9, 1, "at its highest (by the base's width)"),
        WHOLE("epochs", epochs, 1, 10000, "times through the data (3)"),
        WHOLE("max-steps", max_steps, 0, 1e8, "at most so many steps; 0: as the epochs have (0)"),
        WHOLE("batch", batch, 1, 4096, "examples per step (4)"),
        WHOLE("max-tokens", max_tokens, 2, 1 << 20, "of one example (1024)"),
        FRACTION("warmup-share", warmup_share, 0, 1, "of the steps in which the rate rises (0.05)"),
        FRACTION("eval-share", eval_share, 0, 0.5, "of the data that is evaluated on (0)"),
        WHOLE("eval-steps", eval_steps, 0, 1000000, "evaluate every N steps; 0: at the end (0)"),
        WHOLE("checkpoint-steps", checkpoint_steps, 1, 1000000, "a checkpoint every N steps (50)"),
        FRACTION("weight-decay", weight_decay, 0, 1, "of AdamW (0)"),
        FRACTION("clip", clip, 0, 1e6, "largest norm of the gradients (1)"),
        WHOLE("seed", seed, 0, 9e15, "of order and first values (0)"),
        WHOLE("threads", threads, 0, 4096, "cores; 0: all (0)"),
        {.name = "--gpu",
         .kind = CLI_FLAG,
         .value = &s->tuning.gpu,
         .help = "compute on the best device there is"},
        {.name = "--merge",
         .kind = CLI_STRING,
         .value = (void *)&s->tuning.merge,
         .arg = "TYPE",
         .help = "also write base and adapter as one model, quantised to TYPE (q8_0, f16, ...)"},
        {.name = "--weights",
         .kind = CLI_STRING,
         .value = (void *)&s->tuning.weights,
         .arg = "auto|dense|quantised",
         .help = "how the base is kept (auto: by memory)"},
    };
    memcpy(out, table, sizeof table);
    return sizeof table / sizeof *table;
}

static void whole_put(json_t *o, const char *name, int64_t v)
{
    if (v != UNSET)
        json_put(o, name, json_integer(v));
}

static void fraction_put(json_t *o, const char *name, double v)
{
    if (v >= 0)
        json_put(o, name, json_real(v));
}

static json_t *tuning_json(const struct tuning *t)
{
    json_t *o = json_object();
    whole_put(o, "rank", t->rank);
    whole_put(o, "epochs", t->epochs);
    whole_put(o, "max_steps", t->max_steps);
    whole_put(o, "batch", t->batch);
    whole_put(o, "max_tokens", t->max_tokens);
    whole_put(o, "seed", t->seed);
    whole_put(o, "checkpoint_steps", t->checkpoint_steps);
    whole_put(o, "eval_steps", t->eval_steps);
    whole_put(o, "threads", t->threads);
    fraction_put(o, "alpha", t->alpha);
    fraction_put(o, "learning_rate", t->learning_rate);
    fraction_put(o, "warmup_share", t->warmup_share);
    fraction_put(o, "eval_share", t->eval_share);
    fraction_put(o, "weight_decay", t->weight_decay);
    fraction_put(o, "clip", t->clip);
    json_put_text(o, "targets", t->targets);
    json_put_text(o, "weights", t->weights);
    json_put_text(o, "merge", t->merge);
    if (t->gpu)
        json_put(o, "gpu", json_true());
    return o;
}

int cli_executor_json(const char *kind, const struct cli_list *given, const char *option,
                      json_t **out, struct err *e)
{
    json_t *o = json_object();
    int rc = 0;
    json_put_text(o, "kind", kind);
    for (size_t i = 0; rc == 0 && i < given->n; i++) {
        const char *text = given->items[i], *equals = strchr(text, '=');
        if (!equals || equals == text) {
            rc = err_set(e, ERR_INVALID, "%s is \"%s\"; write KEY=VALUE", option, text);
            break;
        }
        char *key = mem_format("%.*s", (int)(equals - text), text);
        json_put(o, key, json_string(equals + 1));
        free(key);
    }
    *out = o;
    return rc;
}

static json_t *command_json(const struct cli_list *l)
{
    json_t *list = l->n > 0 ? json_array() : NULL;
    for (size_t i = 0; i < l->n; i++)
        json_array_append_new(list, json_string(l->items[i]));
    return list;
}

static int needed(const struct submit *s, struct err *e)
{
    const char *missing = !s->model       ? "-m MODEL"
                          : !s->data      ? "--data FILE"
                          : !s->spec.name ? "--name NAME"
                                          : NULL;
    return missing ? err_set(e, ERR_INVALID, "%s is missing; tandem train --help says how", missing)
                   : 0;
}

static int job_submit(struct submit *s, struct jobs *j, struct jobs_job *job, struct err *e)
{
    json_t *tuning = tuning_json(&s->tuning), *executor = NULL;
    json_t *command = command_json(&s->command);
    int rc =
        cli_executor_json(s->executor, &s->executor_options, "--executor-option", &executor, e);
    if (rc == 0)
        rc = cli_model_path(&s->model, e);
    if (rc == 0) {
        s->spec.model = s->model;
        s->spec.data = s->data;
        s->spec.options = tuning;
        s->spec.executor = executor;
        s->spec.command = command;
        s->spec.limit_time_s = (uint64_t)s->limit_time_s;
        s->spec.limit_memory_bytes = (uint64_t)(s->limit_memory_gb * 1e9);
        s->spec.disk_reserve_bytes = (uint64_t)(s->disk_reserve_gb * 1e9);
        rc = jobs_submit(j, &s->spec, job, e);
    }
    json_decref(tuning);
    json_decref(executor);
    json_decref(command);
    return rc;
}

static int submitted(struct submit *s, struct jobs *j, const struct jobs_job *job)
{
    struct err e = {0};
    if (jobs_tick(j, NULL, &e) != 0 && e.code != ERR_BUSY)
        return train_fail(&e);
    if (!s->detach) {
        fprintf(stderr, "tandem train: job %s, %llu examples\n", job->id,
                (unsigned long long)job->examples);
        return train_watch(j, job->id, &s->watch);
    }
    if (s->watch.json)
        train_json_print(jobs_job_json(job));
    else
        puts(job->id);
    return 0;
}

int train_submit_run(int argc, char **argv)
{
    struct submit *s = mem_alloc(sizeof *s);
    struct cli_option options[64] = {{0}};
    struct jobs *j = NULL;
    struct jobs_job job;
    struct err e = {0};
    bool done = false;
    int code = 0;
    jobs_spec_default(&s->spec);
    s->tuning =
        (struct tuning){UNSET, UNSET, UNSET, UNSET, UNSET, UNSET, UNSET, UNSET, UNSET, UNSET,
                        UNSET, UNSET, UNSET, UNSET, UNSET, NULL,  NULL,  NULL,  false};
    size_t n = options_job(s, options);
    n += options_where(s, options + n);
    options_tuning(s, options + n);
    int rc = cli_parse(argc, argv, options, usage, about, NULL, &done, &e);
    if (rc == 0 && !done)
        rc = needed(s, &e);
    if (rc == 0 && !done)
        rc = train_jobs_open(&j, &e);
    if (rc == 0 && !done && (rc = job_submit(s, j, &job, &e)) == 0) {
        code = submitted(s, j, &job);
        jobs_job_fini(&job);
    }
    jobs_close(j);
    free(s);
    return rc != 0 ? train_fail(&e) : code;
}

// ---- the command ---------------------------------------------------------------------------------

static int train_run(int argc, char **argv)
{
    static char section[] = "train-jobs";
    const char *names[N_PARTS + 1] = {NULL};
    struct err e = {0};
    if (argc < 2 || argv[1][0] == '-')
        return train_submit_run(argc, argv);
    for (size_t i = 0; i < N_PARTS; i++) {
        names[i] = parts[i].name;
        if (strcmp(argv[1], parts[i].name) == 0) {
            // What the file says under [train] is for new jobs, and unknown to the parts.
            argv[1] = section;
            return parts[i].run(argc - 1, argv + 1);
        }
    }
    const char *near = cli_nearest(argv[1], names);
    err_set(&e, ERR_INVALID, "no \"%s\"; %s%s", argv[1],
            near != NULL ? "did you mean " : "tandem train --help lists the parts",
            near != NULL ? near : "");
    return train_fail(&e);
}

const struct cli_command cli_train = {"train", "fine-tune a model, look after the jobs", train_run};
