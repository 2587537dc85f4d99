// How the work ended, and what the job's last state is.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "jobs/capture.h"
#include "jobs/runner_impl.h"
#include "models/adapters.h"
#include "os/os.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STUCK_MAX 10 // killed so often without getting further
#define ENDED_MAX 3  // ended by itself so often, without a word
#define LOG_TAIL 2000
#define PARITY_S 1800.0  // the model is loaded, and eight examples are computed
#define PARITY_LOSS 0.02 // what eight-bit activations and a quantised base make of a loss
#define PARITY_SHARE 0.05

static int state_write(struct runner *r, enum jobs_state to, const struct err *why,
                       const json_t *result, struct err *e)
{
    struct jobs_error error = {0};
    uint32_t from = to == JOBS_CANCELLED ? 1u << JOBS_CANCELLING : 1u << JOBS_RUNNING;
    if (why) {
        snprintf(error.code, sizeof error.code, "%s", err_name(why->code));
        snprintf(error.message, sizeof error.message, "%s", why->message);
    }
    const struct jobs_change c = {from, to, why ? &error : NULL, result};
    return jobs_change(r->jobs, r->job.id, &c, e);
}

// ---- success -------------------------------------------------------------------------------------

// Asks the engine that serves for its loss on the examples that the trainer noted one for, and puts both into
// the result (train/parity.h). ERR_MISMATCH where they mean different adapters.
static int parity_check(struct runner *r, json_t *result, double loss[2], struct err *e)
{
    struct buf out;
    const char *const argv[] = {r->program, "--parity", r->job.folder, NULL};
    struct jobs_capture c = {.argv = argv, .timeout_s = PARITY_S, .out = &out};
    json_t *told = NULL;
    buf_init(&out, JOBS_CAPTURE_MAX);
    int rc = jobs_capture_run(&c, e);
    if (rc == 0 && c.exit_code != 0)
        rc = err_set(e, ERR_ENGINE, "the serving engine does not take the adapter: %s", c.said);
    if (rc == 0 && !(told = json_parse(out.data, out.len, e)))
        rc = e->code;
    buf_fini(&out);
    if (rc != 0)
        return rc;
    loss[0] = json_number_value(json_object_get(told, "loss_trainer"));
    loss[1] = json_number_value(json_object_get(told, "loss_engine"));
    json_put(result, "parity", told);
    if (!(fabs(loss[0] - loss[1]) <= PARITY_LOSS + PARITY_SHARE * loss[0]))
        return err_set(e, ERR_MISMATCH,
                       "the loss of base and adapter is %.4f in the trainer and %.4f in the engine "
                       "that serves; it is not published",
                       loss[0], loss[1]);
    runner_event(r, "info",
                 "loss of base and adapter: %.4f in the trainer, %.4f where it is served", loss[0],
                 loss[1]);
    return 0;
}

static int publish(struct runner *r, json_t *result, struct err *e)
{
    struct adapters_entry *entry = mem_alloc(sizeof *entry);
    char *path = jobs_path(r->jobs, r->job.id, "adapter.gguf");
    struct adapters_new n;
    double loss[2] = {NAN, NAN};
    adapters_new_default(&n);
    n.name = r->job.name;
    n.file = path;
    n.model = r->job.model;
    n.job = r->job.id;
    n.replace = true;
    int rc = r->program && json_object_get(result, "parity") ? parity_check(r, result, loss, e) : 0;
    n.loss_trainer = loss[0];
    n.loss_engine = loss[1];
    if (rc == 0)
        rc = adapters_publish(&n, entry, e);
    if (rc == 0) {
        json_put(result, "published",
                 json_pack("{s:o,s:o,s:o}", "name", json_sprintf("ft:%s", entry->name), "path",
                           json_string(entry->path), "sha256", json_string(entry->sha256)));
        runner_event(r, "info", "published as ft:%s", entry->name);
    } else {
        err_wrap(e, "the adapter %s is trained, but not published", path);
    }
    free(path);
    free(entry);
    return rc;
}

static int succeeded(struct runner *r, json_t *result, struct err *e)
{
    struct err why = {0};
    if (r->options->publish && publish(r, result, &why) != 0)
        return state_write(r, JOBS_FAILED, &why, result, e);
    return state_write(r, JOBS_SUCCEEDED, NULL, result, e);
}

// ---- the rest ------------------------------------------------------------------------------------

static int failed(struct runner *r, json_t *result, struct err *e)
{
    struct err why = {0};
    err_set(&why, err_from_name(json_string_or(result, "code", "io")), "%s",
            json_string_or(result, "error", "the trainer gave no reason"));
    return state_write(r, JOBS_FAILED, &why, result, e);
}

// The last line of a log that is not a runner's own; false where there is none.
static bool log_line(char *text, size_t n, char *out, size_t out_bytes)
{
    while (n > 0) {
        while (n > 0 && text[n - 1] == '\n')
            n--;
        text[n] = '\0';
        size_t begin = n;
        while (begin > 0 && text[begin - 1] != '\n')
            begin--;
        if (n > begin && !strstr(text + begin, " runner job: ")) {
            snprintf(out, out_bytes, "%.200s", text + begin);
            return true;
        }
        n = begin;
    }
    return false;
}

// Where a program that ends without a result says why: the log, or what came of it from another machine.
static void log_tail(const struct runner *r, char *out, size_t out_bytes)
{
    static const char *const names[] = {"log.remote", "log"};
    char text[LOG_TAIL + 1];
    bool found = false;
    snprintf(out, out_bytes, "(nothing)");
    for (size_t i = 0; i < 2 && !found; i++) {
        char *path = jobs_path(r->jobs, r->job.id, names[i]);
        FILE *f = fopen(path, "re");
        free(path);
        if (!f)
            continue;
        if (fseeko(f, -(off_t)LOG_TAIL, SEEK_END) != 0)
            rewind(f);
        found = log_line(text, fread(text, 1, LOG_TAIL, f), out, out_bytes);
        fclose(f);
    }
}

// Killed from outside, or by a signal of its own making: it goes on from the newest checkpoint, unless it
// does not get anywhere.
static int vanished(struct runner *r, const struct jobs_status *status, bool *over, struct err *e)
{
    const char *how = status->how[0] != '\0' ? status->how : "it is gone";
    int most = strncmp(how, "exit code", 9) == 0 ? ENDED_MAX : STUCK_MAX;
    struct err why = {0};
    char tail[256];
    r->stuck = r->step > r->stuck_step ? 1 : r->stuck + 1;
    r->stuck_step = r->step > r->stuck_step ? r->step : r->stuck_step;
    r->again_ns = clock_now_ns() + r->stuck * NS_PER_S;
    r->handle[0] = '\0';
    jobs_handle_set(r->jobs, r->job.id, "", &why);
    log_tail(r, tail, sizeof tail);
    if (r->stuck < most) {
        runner_event(r, "warn", "the work ended without a result at step %" PRId64 " (%s)", r->step,
                     how);
        *over = false;
        return 0;
    }
    err_set(&why, ERR_ENGINE,
            "the work ended %d times without a result and without getting beyond step %" PRId64
            " (%s%s); the last line of %s/log: %s",
            r->stuck, r->step, how, most == STUCK_MAX ? "; was the memory used up?" : "",
            r->job.folder, tail);
    return state_write(r, JOBS_FAILED, &why, NULL, e);
}

static json_t *result_read(struct runner *r)
{
    char *path = jobs_path(r->jobs, r->job.id, "result.json");
    struct err e;
    json_t *result = jobs_json_read(path, &e);
    free(path);
    return result;
}

int runner_ended(struct runner *r, const struct jobs_status *status, bool *over, struct err *e)
{
    json_t *result = result_read(r);
    const char *how = json_string_value(json_object_get(result, "status"));
    bool good = how && strcmp(how, "succeeded") == 0;
    int rc;
    *over = true;
    if (r->job.state == JOBS_CANCELLING)
        rc = state_write(r, JOBS_CANCELLED, NULL, result, e);
    else if (good)
        rc = succeeded(r, result, e);
    else if (r->stop.code != 0)
        rc = state_write(r, JOBS_FAILED, &r->stop, result, e);
    else if (how && strcmp(how, "failed") == 0)
        rc = failed(r, result, e);
    else
        rc = vanished(r, status, over, e);
    json_decref(result);
    // Cancelled at this very moment: the next turn sees it.
    if (rc == ERR_MISMATCH) {
        *over = false;
        return 0;
    }
    return rc;
}
