// `tandem check`: which hand-off mode is exact for a model. The work is done by tandem-worker, since
// this program links no model library.
#include "base/buf.h"
#include "cli/cli.h"
#include "cli/models.h"
#include "os/os.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

struct check {
    const char *model, *kv_type;
    int64_t threads, gpu_layers;
    bool json;
};

static int check_parse(int argc, char **argv, struct check *c, bool *done, struct err *e)
{
    const struct cli_option options[] = {
        {.name = "--model",
         .letter = 'm',
         .kind = CLI_STRING,
         .value = &c->model,
         .arg = "FILE.gguf",
         .help = "the model to check"},
        {.name = "--kv-type",
         .kind = CLI_STRING,
         .value = &c->kv_type,
         .arg = "TYPE[,V]",
         .help = "type of the KV cache: f16 (default), f32, q8_0, ..."},
        {.name = "--threads",
         .kind = CLI_INT,
         .value = &c->threads,
         .arg = "N",
         .help = "threads of each process; 0: share the cores",
         .min = 0,
         .max = 4096},
        {.name = "--gpu-layers",
         .kind = CLI_INT,
         .value = &c->gpu_layers,
         .arg = "N",
         .help = "layers on the GPU; -1: all",
         .min = -1,
         .max = 100000},
        {.name = "--json", .kind = CLI_FLAG, .value = &c->json, .help = "print one JSON object"},
        {0},
    };
    return cli_parse(
        argc, argv, options, "tandem check -m FILE.gguf [--json]",
        "Finds out how the KV cache of a model can cross to another machine: hands a random\n"
        "prompt over between two processes and compares the next token's logits bit for bit\n"
        "with those of the un-split run; then once more with a range left out, as a control.\n"
        "Exit code 0: a mode is exact; 3: none is.",
        NULL, done, e);
}

static int worker_start(const struct check *c, pid_t *pid, struct err *e)
{
    char program[PATH_MAX], threads[24], layers[24];
    int rc = os_self_dir(program, sizeof program - sizeof "/tandem-worker", e);
    if (rc != 0)
        return rc;
    strncat(program, "/tandem-worker", sizeof program - strlen(program) - 1);
    snprintf(threads, sizeof threads, "%lld", (long long)c->threads);
    snprintf(layers, sizeof layers, "%lld", (long long)c->gpu_layers);
    const char *argv[] = {program,
                          "check",
                          "-m",
                          c->model,
                          "--threads",
                          threads,
                          "--gpu-layers",
                          layers,
                          "--kv-type",
                          c->kv_type,
                          c->json ? "--json" : NULL,
                          NULL};
    struct os_spawn s = {.argv = argv, .stdout_fd = -1, .stderr_fd = -1, .die_with_parent = true};
    return os_spawn(&s, pid, e);
}

static int check_run(int argc, char **argv)
{
    struct check c = {.kv_type = "f16", .gpu_layers = -1};
    struct err e = {0};
    bool done = false;
    pid_t pid = -1;
    int status = 0;
    int rc = check_parse(argc, argv, &c, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0 && !c.model)
        rc = err_set(&e, ERR_INVALID, "no model given; say -m FILE.gguf");
    if (rc == 0)
        rc = cli_model_path(&c.model, &e);
    if (rc == 0)
        rc = worker_start(&c, &pid, &e);
    if (rc != 0)
        return cli_fail("check", &e);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    char how[64];
    os_exit_text(status, how, sizeof how);
    err_set(&e, ERR_ENGINE, "tandem-worker ended with %s", how);
    return cli_fail("check", &e);
}

const struct cli_command cli_check = {
    .name = "check",
    .summary = "which hand-off of a model's KV cache is exact",
    .run = check_run,
};
