// tandem-trainer FOLDER: runs the training job that FOLDER/job.json describes, or goes on with it. What a
// job is, and what else the folder holds: train/train.h.
// tandem-trainer --examples FOLDER: prints what it would learn, for other trainers.
// tandem-trainer --speed MODEL [gpu]: prints how fast this machine would train it (train/speed.h).
// tandem-trainer --merge TYPE BASE ADAPTER OUT: base and adapter as one model.
//
// Exit status: 0 succeeded, 1 failed (result.json says why), 3 stopped by SIGTERM or SIGINT with a
// checkpoint, so that the same command goes on.
#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "os/os.h"
#include "train/check.h"
#include "train/merge.h"
#include "train/parity.h"
#include "train/speed.h"
#include "train/train.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static const char usage[] =
    "usage: tandem-trainer FOLDER\n"
    "       tandem-trainer --check FOLDER [elsewhere]\n"
    "       tandem-trainer --parity FOLDER\n"
    "       tandem-trainer --examples FOLDER\n"
    "       tandem-trainer --speed MODEL [gpu]\n"
    "       tandem-trainer --merge TYPE BASE ADAPTER OUT\n\n"
    "Runs the training job of FOLDER/job.json, or goes on with it. --check says "
    "whether\n"
    "its options and its model will do, and what it will take; --parity "
    "computes\n"
    "the loss of a finished job's adapter with the engine that serves. --examples prints what it "
    "would\n"
    "learn instead, tokens and which of them count, one JSON object a line. --speed measures how "
    "fast "
    "this\n"
    "machine would train MODEL. --merge writes base and\n"
    "adapter (GGUF files) as one model, quantised to TYPE (q8_0, f16, ...).\n";

static int job_run(const char *folder, struct err *e)
{
    struct sigaction a = {.sa_handler = on_signal};
    struct train_options o;
    char *path = mem_format("%s/trainer.lock", folder);
    int lock = -1;
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGINT, &a, NULL);
    signal(SIGXFSZ, SIG_IGN); // a file that may not grow is an error like a full disk
    // Two trainers in one folder would mix their steps; and who looks for the one sees it here.
    int rc = os_lock_take(path, &lock, e);
    if (rc == 0)
        rc = job_read(folder, &o, e);
    if (rc == 0)
        rc = train_run(folder, &o, &stop, e);
    if (lock >= 0)
        close(lock);
    free(path);
    return rc;
}

static int job_parity(const char *folder, struct err *e)
{
    struct train_options o;
    int rc = job_read(folder, &o, e);
    return rc ? rc : train_parity(folder, &o, stdout, e);
}

static int job_check(const char *folder, bool elsewhere, struct err *e)
{
    struct train_options o;
    int rc = job_read(folder, &o, e);
    return rc ? rc : train_check(&o, elsewhere, stdout, e);
}

static int examples_print(const char *folder, struct err *e)
{
    struct train_options o;
    int rc = job_read(folder, &o, e);
    return rc ? rc : train_examples(&o, stdout, e);
}

int main(int argc, char **argv)
{
    struct err e = {0};
    int rc;
    if (argc == 2 && argv[1][0] != '-') {
        rc = job_run(argv[1], &e);
    } else if ((argc == 3 || (argc == 4 && strcmp(argv[3], "elsewhere") == 0)) &&
               strcmp(argv[1], "--check") == 0) {
        rc = job_check(argv[2], argc == 4, &e);
    } else if (argc == 3 && strcmp(argv[1], "--parity") == 0) {
        rc = job_parity(argv[2], &e);
    } else if (argc == 3 && strcmp(argv[1], "--examples") == 0) {
        rc = examples_print(argv[2], &e);
    } else if ((argc == 3 || (argc == 4 && strcmp(argv[3], "gpu") == 0)) &&
               strcmp(argv[1], "--speed") == 0) {
        rc = train_speed(argv[2], argc == 4, stdout, &e);
    } else if (argc == 6 && strcmp(argv[1], "--merge") == 0) {
        rc = merge_run(&(struct merge_options){argv[3], argv[4], argv[5], argv[2]}, &e);
    } else {
        bool asked = argc == 2 && strcmp(argv[1], "--help") == 0;
        fputs(usage, asked ? stdout : stderr);
        return asked ? 0 : 2;
    }
    if (rc == 0)
        return 0;
    fprintf(stderr, "tandem-trainer: %s\n", e.message);
    return rc == ERR_CANCELLED ? EXIT_STOPPED : 1;
}
