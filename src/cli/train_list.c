// tandem train ls, show, watch, logs, cancel, rm, and the runner that the queue starts.
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/models.h"
#include "cli/train.h"
#include "jobs/runner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CANCEL_WAIT_NS (120 * NS_PER_S)
#define LOOK_NS (200 * NS_PER_MS)

// One job and what is asked of it.
struct asked {
    struct jobs *jobs;
    struct jobs_job job;
    bool has_job, json, flag;
    const char *svg, *state;
    int64_t limit;
};

struct words {
    const char *usage, *about;
    const struct cli_option *own; // NULL: only --json; ends without a name
    bool needs_job;
};

static void asked_fini(struct asked *a)
{
    if (a->has_job)
        jobs_job_fini(&a->job);
    jobs_close(a->jobs);
}

// Reads the command line, opens the queue and finds the job. *done: help was printed.
static int ask(int argc, char **argv, const struct words *w, struct asked *a, bool *done,
               struct err *e)
{
    struct cli_option options[8] = {
        {.name = "--json", .kind = CLI_FLAG, .value = &a->json, .help = "print JSON"},
    };
    struct cli_list rest = {.n = 0};
    for (size_t i = 0; w->own && w->own[i].name; i++)
        options[i + 1] = w->own[i];
    int rc =
        cli_parse(argc, argv, options, w->usage, w->about, w->needs_job ? &rest : NULL, done, e);
    if (rc != 0 || *done)
        return rc;
    if (w->needs_job && rest.n != 1)
        return err_set(e, ERR_INVALID, "one job is wanted: %s", w->usage);
    rc = train_jobs_open(&a->jobs, e);
    if (rc == 0 && w->needs_job)
        rc = jobs_find(a->jobs, rest.items[0], &a->job, e);
    a->has_job = rc == 0 && w->needs_job;
    return rc;
}

// ---- ls ------------------------------------------------------------------------------------------

static void progress_of(struct jobs *j, const struct jobs_job *job, struct train_curve *c)
{
    json_t *lines = NULL;
    struct err e;
    uint64_t offset = 0, before;
    do {
        before = offset;
        if (jobs_progress(j, job->id, &offset, &lines, &e) != 0)
            return;
        train_curve_add(c, lines);
        json_decref(lines);
    } while (offset > before);
}

static void job_row(struct jobs *j, const struct jobs_job *job)
{
    struct train_curve c = {0};
    char step[32] = "-", loss[16] = "-", age[32];
    const char *file = strrchr(job->model, '/');
    progress_of(j, job, &c);
    if (c.step > 0) {
        snprintf(step, sizeof step, "%" PRId64 "/%" PRId64, c.step, c.steps);
        snprintf(loss, sizeof loss, "%.4f", c.last_loss);
    }
    models_age_format(job->created_unix_s, age);
    printf("%-14.14s  %-20.20s %-10s %13s %8s  %-7s %-13s %s\n", job->id, job->name,
           jobs_state_name(job->state), step, loss, job->executor, age,
           file ? file + 1 : job->model);
    train_curve_fini(&c);
}

static int list_all(struct asked *a, json_t *out, struct err *e)
{
    struct jobs_query q;
    struct jobs_list l = {0};
    char after[JOBS_ID_BYTES];
    int64_t shown = 0;
    jobs_query_default(&q);
    q.limit = JOBS_PAGE_MAX;
    int rc = 0;
    do {
        rc = jobs_list_read(a->jobs, &q, &l, e);
        for (size_t i = 0; rc == 0 && i < l.n && shown < a->limit; i++, shown++) {
            if (out)
                json_array_append_new(out, jobs_job_json(&l.items[i]));
            else
                job_row(a->jobs, &l.items[i]);
        }
        if (rc == 0 && l.n > 0)
            snprintf(after, sizeof after, "%s", l.items[l.n - 1].id);
        q.after = after;
        bool more = l.more && shown < a->limit;
        jobs_list_fini(&l);
        if (!more)
            break;
    } while (rc == 0);
    return rc;
}

int train_ls_run(int argc, char **argv)
{
    struct asked a = {.limit = 50};
    const struct cli_option own[] = {{.name = "--limit",
                                      .kind = CLI_INT,
                                      .value = &a.limit,
                                      .arg = "N",
                                      .help = "the newest N (50)",
                                      .min = 1,
                                      .max = 1e6},
                                     {0}};
    const struct words w = {"usage: tandem train ls [--limit N] [--json]",
                            "Lists the jobs of this machine, the newest first.", own, false};
    struct err e = {0};
    bool done = false;
    int rc = ask(argc, argv, &w, &a, &done, &e);
    if (rc == 0 && !done) {
        json_t *list = a.json ? json_array() : NULL;
        if (!a.json)
            printf("%-14s  %-20s %-10s %13s %8s  %-7s %-13s %s\n", "JOB", "NAME", "STATE", "STEP",
                   "LOSS", "WHERE", "CREATED", "BASE");
        rc = list_all(&a, list, &e);
        if (list)
            train_json_print(list);
    }
    asked_fini(&a);
    return rc != 0 ? train_fail(&e) : 0;
}

// ---- show ----------------------------------------------------------------------------------------

static void row_text(const char *name, const char *value)
{
    if (value[0] != '\0')
        printf("%-12s %s\n", name, value);
}

static void checkpoints_print(const json_t *list)
{
    size_t i;
    const json_t *c;
    json_array_foreach(list, i, c)
        printf("%-12s step %lld, %.1f MB\n", i == 0 ? "checkpoints" : "",
               (long long)json_integer_value(json_object_get(c, "step")),
               (double)json_integer_value(json_object_get(c, "bytes")) / 1e6);
}

static void job_print(const struct asked *a, const struct train_curve *c, const json_t *checkpoints)
{
    const struct jobs_job *job = &a->job;
    char age[32], span[32], text[160];
    json_t *options = json_deep_copy(job->options);
    char *line = json_line(options);
    models_age_format(job->created_unix_s, age);
    train_span_format(job->ran_s, span);
    row_text("job", job->id);
    row_text("name", job->name);
    row_text("state", jobs_state_name(job->state));
    row_text("error", job->error.message);
    row_text("base", job->model);
    row_text("created", age);
    snprintf(text, sizeof text, "%s, %u attempt%s", span, job->attempts,
             job->attempts == 1 ? "" : "s");
    row_text("ran", text);
    snprintf(text, sizeof text, "%" PRIu64 " examples, %.2f MB", job->examples,
             (double)job->data_bytes / 1e6);
    row_text("data", text);
    row_text("options", line);
    if (c->step > 0) {
        snprintf(text, sizeof text, "%" PRId64 " of %" PRId64 ", loss %.4f, %.0f tokens/s", c->step,
                 c->steps, c->last_loss, c->tokens_per_s);
        row_text("step", text);
    }
    row_text("executor", job->executor);
    row_text("folder", job->folder);
    checkpoints_print(checkpoints);
    free(line);
    json_decref(options);
}

static void show_json(const struct asked *a, const struct train_curve *c, json_t *checkpoints,
                      json_t *events)
{
    json_t *o = jobs_job_json(&a->job);
    json_put(o, "step", json_integer(c->step));
    json_put(o, "steps", json_integer(c->steps));
    json_put(o, "loss", c->step > 0 ? json_real(c->last_loss) : json_null());
    json_put(o, "tokens_per_s", json_real(c->tokens_per_s));
    json_put(o, "checkpoints", json_incref(checkpoints));
    json_put(o, "events", json_incref(events));
    train_json_print(o);
}

int train_show_run(int argc, char **argv)
{
    static const struct words w = {"usage: tandem train show JOB [--json]",
                                   "Shows a job: state, options, how far it is, checkpoints.", NULL,
                                   true};
    struct asked a = {0};
    struct train_curve c = {0};
    json_t *checkpoints = NULL, *events = NULL;
    struct err e = {0};
    bool done = false;
    int rc = ask(argc, argv, &w, &a, &done, &e);
    if (rc == 0 && !done)
        rc = jobs_checkpoints(a.jobs, a.job.id, &checkpoints, &e);
    if (rc == 0 && !done)
        rc = jobs_events(a.jobs, a.job.id, 0, 10000, &events, &e);
    if (rc == 0 && !done) {
        progress_of(a.jobs, &a.job, &c);
        if (a.json)
            show_json(&a, &c, checkpoints, events);
        else
            job_print(&a, &c, checkpoints);
    }
    json_decref(checkpoints);
    json_decref(events);
    train_curve_fini(&c);
    asked_fini(&a);
    return rc != 0 ? train_fail(&e) : 0;
}

// ---- watch, logs ---------------------------------------------------------------------------------

int train_watch_run(int argc, char **argv)
{
    struct asked a = {0};
    const struct cli_option own[] = {{.name = "--svg",
                                      .kind = CLI_STRING,
                                      .value = (void *)&a.svg,
                                      .arg = "FILE",
                                      .help = "write the loss as a picture at the end"},
                                     {0}};
    const struct words w = {"usage: tandem train watch JOB [--svg FILE] [--json]",
                            "Draws the loss of a job until it has ended. Exit code 0: published.",
                            own, true};
    struct err e = {0};
    bool done = false;
    int rc = ask(argc, argv, &w, &a, &done, &e), code = 0;
    if (rc == 0 && !done) {
        struct train_watch watch = {true, a.json, a.svg};
        code = train_watch(a.jobs, a.job.id, &watch);
    }
    asked_fini(&a);
    return rc != 0 ? train_fail(&e) : code;
}

static void event_print(const json_t *event)
{
    time_t at = (time_t)json_integer_value(json_object_get(event, "unix_s"));
    struct tm tm;
    char when[32];
    gmtime_r(&at, &tm);
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &tm);
    printf("%s  %-5s %s\n", when, json_string_value(json_object_get(event, "level")),
           json_string_value(json_object_get(event, "message")));
}

static int log_print(const struct jobs_job *job, struct err *e)
{
    char *path = mem_format("%s/log", job->folder), part[8192];
    FILE *f = fopen(path, "re");
    size_t n;
    if (!f)
        err_set(e, ERR_NOT_FOUND, "there is no %s: the job was not started yet", path);
    while (f && (n = fread(part, 1, sizeof part, f)) > 0)
        fwrite(part, 1, n, stdout);
    int rc = f ? 0 : ERR_NOT_FOUND;
    if (f)
        fclose(f);
    free(path);
    return rc;
}

int train_logs_run(int argc, char **argv)
{
    struct asked a = {0};
    const struct cli_option own[] = {{.name = "--programs",
                                      .kind = CLI_FLAG,
                                      .value = &a.flag,
                                      .help = "what trainer and runner said, word for word"},
                                     {0}};
    const struct words w = {"usage: tandem train logs JOB [--programs] [--json]",
                            "Tells what happened to a job.", own, true};
    json_t *events = NULL;
    const json_t *event;
    size_t i;
    struct err e = {0};
    bool done = false;
    int rc = ask(argc, argv, &w, &a, &done, &e);
    if (rc == 0 && !done && a.flag)
        rc = log_print(&a.job, &e);
    else if (rc == 0 && !done)
        rc = jobs_events(a.jobs, a.job.id, 0, 100000, &events, &e);
    if (events && a.json)
        train_json_print(json_incref(events));
    else
        json_array_foreach(events, i, event) event_print(event);
    json_decref(events);
    asked_fini(&a);
    return rc != 0 ? train_fail(&e) : 0;
}

// ---- cancel, rm ----------------------------------------------------------------------------------

// Until the runner has brought the work to its end. A runner that was killed is started again for it.
static int end_wait(struct asked *a, struct err *e)
{
    int64_t deadline = clock_now_ns() + CANCEL_WAIT_NS;
    for (;;) {
        struct jobs_job now;
        int rc = jobs_tick(a->jobs, NULL, e);
        if (rc == 0 || rc == ERR_BUSY)
            rc = jobs_get(a->jobs, a->job.id, &now, e);
        if (rc != 0)
            return rc;
        jobs_job_fini(&a->job);
        a->job = now;
        if (jobs_state_final(now.state))
            return 0;
        if (clock_now_ns() > deadline)
            return err_set(e, ERR_TIMEOUT, "job %s is still %s; tandem train logs %s says more",
                           now.id, jobs_state_name(now.state), now.id);
        clock_sleep_until(clock_now_ns() + LOOK_NS);
    }
}

int train_cancel_run(int argc, char **argv)
{
    static const struct words w = {"usage: tandem train cancel JOB [--json]",
                                   "Ends a job: the trainer gets time for a checkpoint, then it is "
                                   "killed with all it started.",
                                   NULL, true};
    struct asked a = {0};
    struct err e = {0};
    bool done = false;
    int rc = ask(argc, argv, &w, &a, &done, &e);
    if (rc == 0 && !done)
        rc = jobs_cancel(a.jobs, a.job.id, &e);
    if (rc == 0 && !done)
        rc = end_wait(&a, &e);
    if (rc == 0 && !done && a.json)
        train_json_print(jobs_job_json(&a.job));
    else if (rc == 0 && !done)
        printf("%s %s\n", a.job.id, jobs_state_name(a.job.state));
    asked_fini(&a);
    return rc != 0 ? train_fail(&e) : 0;
}

int train_rm_run(int argc, char **argv)
{
    static const struct words w = {
        "usage: tandem train rm JOB [--json]",
        "Removes a job that has ended, with its folder. An adapter that was published stays.", NULL,
        true};
    struct asked a = {0};
    struct err e = {0};
    bool done = false;
    int rc = ask(argc, argv, &w, &a, &done, &e);
    if (rc == 0 && !done)
        rc = jobs_remove(a.jobs, a.job.id, &e);
    if (rc == 0 && !done && a.json)
        train_json_print(json_pack("{s:s,s:b}", "id", a.job.id, "removed", 1));
    else if (rc == 0 && !done)
        printf("%s removed\n", a.job.id);
    asked_fini(&a);
    return rc != 0 ? train_fail(&e) : 0;
}

// ---- the runner ----------------------------------------------------------------------------------

int train_runner_run(int argc, char **argv)
{
    static const struct words w = {
        "usage: tandem train run JOB",
        "What the queue starts for a job: runs it to its end. Does nothing when somebody does so\n"
        "already.",
        NULL, true};
    struct asked a = {0};
    struct jobs_runner_options o;
    struct err e = {0};
    bool done = false;
    log_process_set("runner");
    jobs_runner_options_default(&o);
    int rc = ask(argc, argv, &w, &a, &done, &e);
    if (rc == 0 && !done)
        rc = jobs_runner_run(a.jobs, a.job.id, &o, &e);
    if (rc == 0 && !done)
        rc = jobs_tick(a.jobs, NULL, &e); // whose turn is next
    asked_fini(&a);
    return rc != 0 ? train_fail(&e) : 0;
}
