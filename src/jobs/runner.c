#include "jobs/runner.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "jobs/runner_impl.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_NS (1 * NS_PER_S) // between two looks at limits
#define NOTE_NS (5 * NS_PER_S) // between two notes of the time it ran
#define EVENT_BYTES 700
#define LOST_GRACES 2 // after which what is to be stopped and cannot be reached is given up

void jobs_runner_options_default(struct jobs_runner_options *o)
{
    *o = (struct jobs_runner_options){.grace_s = 20, .poll_s = 0.2, .publish = true};
}

void runner_event(struct runner *r, const char *level, const char *format, ...)
{
    char text[EVENT_BYTES];
    struct jobs_event event = {level, "message", text, NULL};
    struct err e;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_info("job", "%s", text);
    if (jobs_event_add(r->jobs, r->job.id, &event, &e) != 0)
        log_warn("job", "an event is lost: %s", e.message);
}

// ---- progress ------------------------------------------------------------------------------------

static void line_event(struct runner *r, const json_t *line)
{
    char text[160];
    struct jobs_event event = {"info", "metrics", text, line};
    struct err e;
    snprintf(text, sizeof text, "step %" PRId64 "/%" PRId64 ": loss %.4f", r->step, r->steps,
             json_number_value(json_object_get(line, "loss")));
    if (jobs_event_add(r->jobs, r->job.id, &event, &e) != 0)
        log_warn("job", "an event is lost: %s", e.message);
}

// A hundred events of steps are enough for the longest job.
static bool is_told(const struct runner *r)
{
    int64_t every = r->steps > 100 ? r->steps / 100 : 1;
    return r->step % every == 0 || r->step == r->steps;
}

void runner_progress(struct runner *r)
{
    json_t *lines = NULL;
    const json_t *line;
    size_t i;
    struct err e;
    bool tells = r->tells;
    r->tells = true;
    if (jobs_progress(r->jobs, r->job.id, &r->progress_at, &lines, &e) != 0)
        return;
    json_array_foreach(lines, i, line)
    {
        const json_t *step = json_object_get(line, "step"), *all = json_object_get(line, "steps");
        if (!json_is_integer(step) || !json_is_integer(all))
            continue;
        r->step = json_integer_value(step);
        r->steps = json_integer_value(all);
        // What a runner before this one told is not told again.
        if (tells && is_told(r))
            line_event(r, line);
    }
    json_decref(lines);
}

// ---- stopping ------------------------------------------------------------------------------------

static int work_signal(struct runner *r, int number)
{
    struct err e;
    int rc = r->executor->signal(&r->task, r->handle, number, &e);
    if (rc != 0)
        runner_event(r, "warn", "signal %d: %s", number, e.message);
    return rc;
}

// TERM first; KILL once the grace is over. Called at every turn while something is to be stopped.
static void stop_push(struct runner *r)
{
    int64_t now = clock_now_ns();
    if (r->term_ns == 0) {
        r->term_ns = now;
        work_signal(r, SIGTERM);
    } else if (now - r->term_ns > (int64_t)(r->options->grace_s * 1e9)) {
        if (!r->killed)
            runner_event(r, "warn", "it did not end within %.0f s and is killed",
                         r->options->grace_s);
        r->killed = true;
        r->term_ns = now; // once more, should the first not have reached it
        work_signal(r, SIGKILL);
    }
}

static void limits_look(struct runner *r, const struct jobs_status *status)
{
    const struct jobs_job *job = &r->job;
    double ran = job->ran_s + ns_to_s(clock_now_ns() - r->noted_ns);
    uint64_t there = 0;
    struct err e;
    if (r->stop.code != 0)
        return;
    if (job->limit_time_s > 0 && ran > (double)job->limit_time_s)
        err_set(&r->stop, ERR_TIMEOUT,
                "it ran for longer than its limit of %" PRIu64 " s, at step %" PRId64 " of %" PRId64
                "; its checkpoints are in %s",
                job->limit_time_s, r->step, r->steps, job->folder);
    else if (job->limit_memory_bytes > 0 && status->memory_bytes > job->limit_memory_bytes)
        err_set(&r->stop, ERR_RANGE,
                "it took %.1f MB of memory, its limit is %.1f MB; raise the limit, or lower batch, "
                "rank or max_tokens, or say \"weights\": \"quantised\"",
                (double)status->memory_bytes / 1e6, (double)job->limit_memory_bytes / 1e6);
    else if (jobs_disk_free(job->folder, &there, &e) == 0 && there < job->disk_reserve_bytes)
        err_set(&r->stop, ERR_RANGE,
                "%.1f MB are free on the disk of %s, and %.1f MB are to stay free; make room and "
                "train again",
                (double)there / 1e6, job->folder, (double)job->disk_reserve_bytes / 1e6);
}

// ---- the work ------------------------------------------------------------------------------------

static void command_make(struct runner *r, const char *dir)
{
    const json_t *command = r->job.command;
    size_t n = 0;
    if (json_is_array(command)) {
        for (; n < json_array_size(command) && n < JOBS_WORDS_MAX - 1; n++)
            r->words[n] = json_string_value(json_array_get(command, n));
    } else {
        r->program = mem_format("%s/tandem-trainer", dir);
        r->words[n++] = r->program;
    }
    r->words[n++] = r->job.folder;
    r->words[n] = NULL;
    r->task = (struct jobs_task){r->job.id, r->job.folder, r->words, r->job.executor_options};
}

static int work_start(struct runner *r, struct err *e)
{
    char *result = jobs_path(r->jobs, r->job.id, "result.json");
    // That of an earlier attempt would be taken for this one's.
    int rc = unlink(result) == 0 || errno == ENOENT
                 ? 0
                 : err_set(e, ERR_IO, "cannot remove %s: %s", result, strerror(errno));
    free(result);
    // Noted first: a job without an attempt has nothing running anywhere.
    if (rc == 0)
        rc = jobs_attempt_note(r->jobs, r->job.id, e);
    if (rc == 0)
        rc = r->executor->submit(&r->task, r->handle, e);
    if (rc != 0)
        return rc;
    jobs_handle_set(r->jobs, r->job.id, r->handle, e);
    r->term_ns = 0;
    r->killed = false;
    runner_event(r, "info", "%s (%s %s)", r->step > 0 ? "started again" : "started",
                 r->executor->name, r->handle);
    return 0;
}

// The work of a runner before this one, or none.
static int work_find(struct runner *r, struct err *e)
{
    int rc = jobs_handle_get(r->jobs, r->job.id, r->handle, sizeof r->handle, e);
    if (rc != 0 || r->job.attempts == 0)
        return rc;
    rc = r->executor->reattach(&r->task, r->handle, e);
    if (rc == 0) {
        runner_event(r, "info", "re-attached (%s %s)", r->executor->name, r->handle);
        return jobs_handle_set(r->jobs, r->job.id, r->handle, e);
    }
    r->handle[0] = '\0';
    char *result = jobs_path(r->jobs, r->job.id, "result.json");
    r->ended_before = access(result, F_OK) == 0;
    free(result);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

static void ran_note(struct runner *r)
{
    struct err e;
    double seconds = ns_to_s(clock_now_ns() - r->noted_ns);
    if (jobs_ran_note(r->jobs, r->job.id, seconds, &e) == 0) {
        r->job.ran_s += seconds;
        r->noted_ns = clock_now_ns();
    }
}

static int state_look(struct runner *r, struct err *e)
{
    struct jobs_job now;
    int rc = jobs_get(r->jobs, r->job.id, &now, e);
    if (rc != 0)
        return rc;
    r->job.state = now.state;
    jobs_job_fini(&now);
    if (r->job.state == JOBS_CANCELLING && r->stop.code == 0)
        err_set(&r->stop, ERR_CANCELLED, "cancelled");
    return 0;
}

// Where the work is cannot be asked now. One that is to be stopped is given up after a while: nothing
// waits for a machine that may never come back.
static int unreachable(struct runner *r, const struct err *why, bool *over, struct err *e)
{
    static const struct jobs_status none = {.work = JOBS_WORK_ENDED};
    int64_t now = clock_now_ns();
    if (strcmp(why->message, r->told.message) != 0)
        runner_event(r, "warn", "%s", why->message);
    r->told = *why;
    r->lost_ns = r->lost_ns > 0 ? r->lost_ns : now;
    r->noted_ns = now; // it is not known to run
    if (r->stop.code == 0 || now - r->lost_ns < (int64_t)(LOST_GRACES * r->options->grace_s * 1e9))
        return 0;
    runner_event(r, "error", "given up; what may still run (%s %s) was not ended",
                 r->executor->name, r->handle);
    return runner_ended(r, &none, over, e);
}

// The work is there: how is it?
static int work_look(struct runner *r, bool *over, struct err *e)
{
    struct jobs_status status = {.work = JOBS_WORK_RUNNING};
    struct err poll_error = {0};
    int64_t now = clock_now_ns();
    if (r->executor->poll(&r->task, r->handle, &status, &poll_error) != 0)
        return unreachable(r, &poll_error, over, e);
    r->lost_ns = 0;
    if (status.work == JOBS_WORK_WAITING)
        r->noted_ns = now; // it does not run
    if (status.work == JOBS_WORK_ENDED || now - r->looked_ns > LOOK_NS) {
        r->looked_ns = now;
        runner_progress(r);
        limits_look(r, &status);
    }
    if (status.work == JOBS_WORK_ENDED || now - r->noted_ns > NOTE_NS)
        ran_note(r);
    if (status.work == JOBS_WORK_ENDED)
        return runner_ended(r, &status, over, e);
    if (r->stop.code != 0)
        stop_push(r);
    return 0;
}

static int turn(struct runner *r, bool *over, struct err *e)
{
    static const struct jobs_status none = {.work = JOBS_WORK_ENDED};
    struct err start = {0};
    int rc = state_look(r, e);
    if (rc != 0)
        return rc;
    if (jobs_state_final(r->job.state)) {
        *over = true;
        return 0;
    }
    if (r->handle[0] != '\0')
        return work_look(r, over, e);
    if (r->ended_before) { // while no runner was there to see it
        r->ended_before = false;
        return runner_ended(r, &none, over, e);
    }
    if (r->stop.code == 0 && r->stuck > 1 && clock_now_ns() < r->again_ns)
        return 0;
    if (r->stop.code == 0 && work_start(r, &start) != 0)
        r->stop = start;
    return r->stop.code != 0 ? runner_ended(r, &none, over, e) : 0;
}

static void pause_make(const struct runner *r)
{
    double s = r->options->poll_s > r->executor->poll_s ? r->options->poll_s : r->executor->poll_s;
    clock_sleep_until(clock_now_ns() + (int64_t)(s * 1e9));
}

static int turns(struct runner *r, struct err *e)
{
    bool over = false;
    int rc;
    while ((rc = work_find(r, e)) == ERR_BUSY) {
        struct err why = *e;
        rc = state_look(r, e);
        if (rc == 0)
            rc = unreachable(r, &why, &over, e);
        if (rc != 0 || over)
            return rc;
        pause_make(r);
    }
    r->noted_ns = clock_now_ns();
    runner_progress(r);
    while (rc == 0 && !over) {
        rc = turn(r, &over, e);
        // Somebody else holds the database, or its disk is full: the work goes on meanwhile.
        if (rc == ERR_BUSY || rc == ERR_IO) {
            log_warn("job", "%s", e->message);
            rc = 0;
        }
        if (rc == 0 && !over)
            pause_make(r);
    }
    return rc;
}

static int job_run(struct runner *r, struct err *e)
{
    char dir[JOBS_PATH_BYTES];
    static const struct jobs_change run = {.from = 1u << JOBS_QUEUED, .to = JOBS_RUNNING};
    int rc = r->options->program_dir ? 0 : os_self_dir(dir, sizeof dir, e);
    if (rc == 0)
        rc = jobs_executor_find(r->job.executor_options, &r->executor, e);
    if (rc == 0)
        rc = jobs_alive_note(r->jobs, r->job.id, e);
    if (rc == 0 && r->job.state == JOBS_QUEUED) // by hand
        rc = jobs_change(r->jobs, r->job.id, &run, e);
    if (rc != 0)
        return rc;
    command_make(r, r->options->program_dir ? r->options->program_dir : dir);
    return turns(r, e);
}

int jobs_runner_run(struct jobs *j, const char *id, const struct jobs_runner_options *o,
                    struct err *e)
{
    struct runner r = {.jobs = j, .options = o, .stuck_step = -1};
    int lock = -1;
    int rc = jobs_get(j, id, &r.job, e);
    if (rc != 0)
        return rc;
    if (!jobs_state_final(r.job.state)) {
        char *path = jobs_path(j, id, "runner.lock");
        rc = os_lock_take(path, &lock, e);
        free(path);
        if (rc == 0)
            rc = job_run(&r, e);
        else if (rc == ERR_BUSY)
            rc = 0; // another runner has it
    }
    if (lock >= 0)
        close(lock);
    free(r.program);
    jobs_job_fini(&r.job);
    return rc;
}
