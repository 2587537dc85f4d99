// Work as a batch job of Slurm: sbatch, squeue and scancel, in forms that are the same since version 14 (2014).
//
// The job's folder must be the same folder on the machines of the queue (a shared file system), and so must
// model and trainer. Handle: Slurm's job id. Slurm's job bears the id of ours as its name, which is how one is
// found whose id was not written down any more.
#include "base/buf.h"
#include "base/json.h"
#include "jobs/capture.h"
#include "jobs/executor.h"
#include "jobs/quote.h"
#include "os/os.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASK_S 60.0 // a controller that is busy answers late
#define SCRIPT_MAX (64u << 10)

// Options of ours that are sbatch's, under the same names.
static const char *const options_known[] = {
    "partition",   "account", "qos",  "gres",     "constraint", "cpus-per-task", "mem",  "nodes",
    "reservation", "time",    "gpus", "nodelist", "exclude",    "licenses",      "nice", NULL};

static int slurm_check(const json_t *options, struct err *e)
{
    char path[4096];
    const char *name;
    json_t *value;
    int rc = jobs_executor_members(options, options_known, e);
    json_object_foreach((json_t *)(uintptr_t)options, name, value)
    {
        if (rc == 0 && !json_is_string(value))
            rc = err_set(e, ERR_INVALID, "\"%.60s\" of the executor must be a text", name);
    }
    return rc == 0 ? jobs_program_find("sbatch", path, sizeof path, e) : rc;
}

// ---- submitting ----------------------------------------------------------------------------------

static int script_write(const struct jobs_task *t, const char *path, struct err *e)
{
    struct buf script;
    buf_init(&script, SCRIPT_MAX);
    // exec: signals that are meant for the job reach the trainer itself.
    int rc = buf_puts(&script, "#!/bin/sh\nexec ");
    if (rc == 0)
        rc = jobs_quote_words(&script, t->argv);
    if (rc == 0)
        rc = buf_puts(&script, "\n");
    if (rc != 0)
        err_set(e, rc, "the command has more than %u bytes", SCRIPT_MAX);
    else
        rc = os_file_write(path, script.data, script.len, 0700, e);
    buf_fini(&script);
    return rc;
}

struct words {
    const char *words[JOBS_WORDS_MAX + 1];
    char *owned[JOBS_WORDS_MAX];
    size_t n;
};

static void word_add(struct words *w, char *text) // takes text
{
    w->owned[w->n] = text;
    w->words[w->n++] = text;
    w->words[w->n] = NULL;
}

static void words_fini(struct words *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->owned[i]);
}

static void sbatch_words(const struct jobs_task *t, const char *script, struct words *w)
{
    word_add(w, mem_strdup("sbatch"));
    word_add(w, mem_strdup("--parsable"));
    word_add(w, mem_strdup("--no-requeue"));
    word_add(w, mem_strdup("--open-mode=append"));
    word_add(w, mem_format("--job-name=%s", t->id));
    word_add(w, mem_format("--chdir=%s", t->folder));
    word_add(w, mem_format("--output=%s/log", t->folder));
    for (size_t i = 0; options_known[i]; i++) {
        const char *v = json_string_value(json_object_get(t->options, options_known[i]));
        if (v)
            word_add(w, mem_format("--%s=%s", options_known[i], v));
    }
    word_add(w, mem_strdup(script));
}

// Runs a command of Slurm; what it wrote goes to out.
static int slurm_run(const char *const *argv, struct buf *out, int *exit_code, char said[256],
                     struct err *e)
{
    struct jobs_capture c = {.argv = argv, .timeout_s = ASK_S, .out = out};
    int rc = jobs_capture_run(&c, e);
    *exit_code = c.exit_code;
    memcpy(said, c.said, sizeof c.said);
    return rc;
}

// "123" or "123;cluster".
static int id_read(const struct buf *out, char handle[JOBS_HANDLE_BYTES], struct err *e)
{
    const char *text = out->len > 0 ? (const char *)out->data : "";
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > 20)
        return err_set(e, ERR_CORRUPT, "sbatch answered \"%.60s\", which is no job's id", text);
    snprintf(handle, JOBS_HANDLE_BYTES, "%.*s", (int)n, text);
    return 0;
}

static int slurm_submit(const struct jobs_task *t, char handle[JOBS_HANDLE_BYTES], struct err *e)
{
    char *script = mem_format("%s/slurm.sh", t->folder), said[256] = "";
    struct words w = {.n = 0};
    struct buf out;
    int exit_code = 0;
    buf_init(&out, JOBS_CAPTURE_MAX);
    int rc = script_write(t, script, e);
    if (rc == 0) {
        sbatch_words(t, script, &w);
        rc = slurm_run(w.words, &out, &exit_code, said, e);
    }
    if (rc == 0 && exit_code != 0)
        rc = err_set(e, ERR_IO, "sbatch refused the job (exit code %d): %s", exit_code, said);
    if (rc == 0)
        rc = id_read(&out, handle, e);
    words_fini(&w);
    buf_fini(&out);
    free(script);
    return rc;
}

// ---- asking --------------------------------------------------------------------------------------

static enum jobs_work work_of(const char *state)
{
    static const struct {
        const char *name;
        enum jobs_work work;
    } known[] = {
        {"PENDING", JOBS_WORK_WAITING},      {"CONFIGURING", JOBS_WORK_WAITING},
        {"SUSPENDED", JOBS_WORK_WAITING},    {"STOPPED", JOBS_WORK_WAITING},
        {"REQUEUED", JOBS_WORK_WAITING},     {"REQUEUE_FED", JOBS_WORK_WAITING},
        {"REQUEUE_HOLD", JOBS_WORK_WAITING}, {"RESV_DEL_HOLD", JOBS_WORK_WAITING},
        {"SPECIAL_EXIT", JOBS_WORK_WAITING}, {"RUNNING", JOBS_WORK_RUNNING},
        {"COMPLETING", JOBS_WORK_RUNNING},   {"RESIZING", JOBS_WORK_RUNNING},
        {"SIGNALING", JOBS_WORK_RUNNING},    {"STAGE_OUT", JOBS_WORK_RUNNING},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, state) == 0)
            return known[i].work;
    return JOBS_WORK_ENDED; // COMPLETED, FAILED, CANCELLED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, ...
}

// One line "STATE|why it waits", or nothing once Slurm has forgotten the job.
static void answer_read(const struct buf *out, struct jobs_status *status)
{
    const char *text = out->len > 0 ? (const char *)out->data : "";
    char state[64];
    size_t n = strcspn(text, "|\n");
    snprintf(state, sizeof state, "%.*s", (int)(n < sizeof state ? n : sizeof state - 1), text);
    status->work = state[0] != '\0' ? work_of(state) : JOBS_WORK_ENDED;
    if (status->work == JOBS_WORK_WAITING && text[n] == '|')
        snprintf(status->how, sizeof status->how, "%s: %.*s", state,
                 (int)strcspn(text + n + 1, "\n"), text + n + 1);
    else if (status->work == JOBS_WORK_ENDED)
        snprintf(status->how, sizeof status->how, "Slurm says %s",
                 state[0] != '\0' ? state : "nothing of it any more");
}

static int slurm_poll(const struct jobs_task *t, const char *handle, struct jobs_status *status,
                      struct err *e)
{
    char said[256] = "", *jobs = mem_format("--jobs=%s", handle);
    const char *const argv[] = {"squeue", "--noheader",     "--states=all",
                                jobs,     "--format=%T|%r", NULL};
    struct buf out;
    int exit_code = 0;
    (void)t;
    *status = (struct jobs_status){.work = JOBS_WORK_RUNNING};
    buf_init(&out, JOBS_CAPTURE_MAX);
    int rc = slurm_run(argv, &out, &exit_code, said, e);
    if (rc == 0 && exit_code != 0 && !strstr(said, "Invalid job id"))
        rc = err_set(e, ERR_BUSY, "squeue does not tell (exit code %d): %s", exit_code, said);
    if (rc == 0)
        answer_read(&out, status);
    buf_fini(&out);
    free(jobs);
    return rc == 0 ? 0 : ERR_BUSY;
}

// ---- acting --------------------------------------------------------------------------------------

static int scancel(const char *signal_word, const char *handle, struct err *e)
{
    char said[256] = "";
    const char *const with[] = {"scancel", signal_word, "--full", handle, NULL},
                      *const without[] = {"scancel", "--state=PENDING", handle, NULL};
    int exit_code = 0;
    int rc = slurm_run(signal_word ? with : without, NULL, &exit_code, said, e);
    if (rc == 0 && exit_code != 0 && !strstr(said, "Invalid job id") &&
        !strstr(said, "already completing or completed") && !strstr(said, "not running"))
        rc = err_set(e, ERR_BUSY, "scancel (exit code %d): %s", exit_code, said);
    return rc;
}

// What waits is taken from the queue; what runs gets the signal, with everything it started.
static int slurm_signal(const struct jobs_task *t, const char *handle, int number, struct err *e)
{
    struct jobs_status status;
    int rc = slurm_poll(t, handle, &status, e);
    if (rc != 0 || status.work == JOBS_WORK_ENDED)
        return rc;
    if (status.work == JOBS_WORK_WAITING)
        return scancel(NULL, handle, e);
    return scancel(number == SIGKILL ? "--signal=KILL" : "--signal=TERM", handle, e);
}

static int named_find(const struct jobs_task *t, char handle[JOBS_HANDLE_BYTES], struct err *e)
{
    char said[256] = "", *name = mem_format("--name=%s", t->id);
    const char *const argv[] = {"squeue", "--noheader", "--me", name, "--format=%i", NULL};
    struct buf out;
    int exit_code = 0;
    buf_init(&out, JOBS_CAPTURE_MAX);
    int rc = slurm_run(argv, &out, &exit_code, said, e);
    if (rc == 0 && exit_code != 0)
        rc = err_set(e, ERR_BUSY, "squeue does not tell (exit code %d): %s", exit_code, said);
    if (rc == 0 && (out.len == 0 || !isdigit(out.data[0])))
        rc = err_set(e, ERR_NOT_FOUND, "Slurm has no job of that name");
    if (rc == 0)
        rc = id_read(&out, handle, e);
    buf_fini(&out);
    free(name);
    return rc;
}

static int slurm_reattach(const struct jobs_task *t, char handle[JOBS_HANDLE_BYTES], struct err *e)
{
    struct jobs_status status;
    if (handle[0] == '\0')
        return named_find(t, handle, e);
    int rc = slurm_poll(t, handle, &status, e);
    if (rc == 0 && status.work == JOBS_WORK_ENDED)
        rc = err_set(e, ERR_NOT_FOUND, "%s", status.how);
    return rc;
}

const struct jobs_executor jobs_slurm = {
    .name = "slurm",
    .poll_s = 1,
    .check = slurm_check,
    .submit = slurm_submit,
    .poll = slurm_poll,
    .signal = slurm_signal,
    .reattach = slurm_reattach,
};
