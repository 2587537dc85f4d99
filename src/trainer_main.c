// tandem-trainer FOLDER: runs the training job that FOLDER/job.json describes, or goes on with it. What a
// job is, and what else the folder holds: train/train.h.
//
// Exit status: 0 succeeded, 1 failed (result.json says why), 3 stopped by SIGTERM or SIGINT with a
// checkpoint, so that the same command goes on.
#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "os/os.h"
#include "train/train.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOB_MAX_BYTES (1u << 20)
#define EXIT_STOPPED 3

static atomic_bool stop; // set by the handler, read by the loop: a flag alone, no ordering needed

static void on_signal(int number)
{
    (void)number;
    atomic_store_explicit(&stop, true, memory_order_relaxed);
}

static int job_read(const char *folder, struct train_options *o, struct err *e)
{
    char *path = mem_format("%s/job.json", folder), *text = NULL;
    size_t n = 0;
    int rc = os_file_read(path, JOB_MAX_BYTES, &text, &n, e);
    json_t *job = rc == 0 ? json_parse(text, n, e) : NULL;
    if (rc == 0)
        rc = job ? train_options_parse(job, o, e) : e->code;
    if (rc != 0)
        err_wrap(e, "'%s'", path);
    json_decref(job);
    free(text);
    free(path);
    return rc;
}

int main(int argc, char **argv)
{
    struct train_options o;
    struct err e = {0};
    struct sigaction a = {.sa_handler = on_signal};
    if (argc != 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: tandem-trainer FOLDER\n"
                        "Runs the training job of FOLDER/job.json, or goes on with it.\n");
        return argc == 2 && strcmp(argv[1], "--help") == 0 ? 0 : 2;
    }
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGINT, &a, NULL);
    int rc = job_read(argv[1], &o, &e);
    if (rc == 0)
        rc = train_run(argv[1], &o, &stop, &e);
    if (rc == 0)
        return 0;
    fprintf(stderr, "tandem-trainer: %s\n", e.message);
    return rc == ERR_CANCELLED ? EXIT_STOPPED : 1;
}
