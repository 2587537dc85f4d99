// Looking at a job until it has ended: a live curve, or a line now and then.
#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/term.h"
#include "cli/train.h"
#include "os/os.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_NS (500 * NS_PER_MS)
#define TICK_NS (2 * NS_PER_S)  // a runner that was killed is started again
#define LINE_NS (10 * NS_PER_S) // between two lines where nothing is drawn
#define CURVE_ROWS 12

static volatile sig_atomic_t signal_seen; // set by the handler, read by the loop

static void on_signal(int number)
{
    signal_seen = number;
}

void train_span_format(double s, char out[32])
{
    if (!(s >= 0 && s < 3600.0 * 1000))
        snprintf(out, 32, "-");
    else if (s >= 3600)
        snprintf(out, 32, "%d h %02d min", (int)s / 3600, (int)s % 3600 / 60);
    else if (s >= 60)
        snprintf(out, 32, "%d min %02d s", (int)s / 60, (int)s % 60);
    else
        snprintf(out, 32, "%d s", (int)s);
}

struct watching {
    struct jobs *jobs;
    const struct train_watch *options;
    struct jobs_job job;
    struct train_curve curve;
    uint64_t progress_at;
    int64_t event; // the last that was shown
    int64_t ticked_ns, lined_ns;
    int drawn; // lines of the picture on the screen
};

// ---- what is shown -------------------------------------------------------------------------------

static void status_line(const struct watching *w, char *out, size_t n)
{
    const struct train_curve *c = &w->curve;
    char left[32];
    train_span_format(c->eta_s, left);
    if (c->step == 0)
        snprintf(out, n, "ft:%s  %s", w->job.name, jobs_state_name(w->job.state));
    else
        snprintf(out, n,
                 "ft:%s  %s  step %" PRId64 "/%" PRId64 "  loss %.4f  %.0f tokens/s  %s left",
                 w->job.name, jobs_state_name(w->job.state), c->step, c->steps, c->last_loss,
                 c->tokens_per_s, left);
}

static void picture_erase(struct watching *w)
{
    if (w->drawn > 0)
        fprintf(stderr, "\033[%dA\033[J", w->drawn);
    w->drawn = 0;
}

static void picture_draw(struct watching *w)
{
    struct draw_style style = {term_utf8(), term_color(stderr), term_width(stderr)};
    char line[256];
    struct buf out;
    buf_init(&out, DRAW_MAX_BYTES);
    picture_erase(w);
    status_line(w, line, sizeof line);
    buf_printf(&out, "%.*s\n", style.width - 1, line);
    w->drawn = 1 + train_curve_text(&w->curve, &style, CURVE_ROWS, &out);
    fwrite(out.data, 1, out.len, stderr);
    fflush(stderr);
    buf_fini(&out);
}

static void line_show(struct watching *w)
{
    char line[256];
    if (clock_now_ns() - w->lined_ns < LINE_NS || w->curve.step == 0)
        return;
    w->lined_ns = clock_now_ns();
    status_line(w, line, sizeof line);
    fprintf(stderr, "%s\n", line);
}

// What happened beside the steps.
static void events_show(struct watching *w)
{
    json_t *events = NULL;
    const json_t *event;
    size_t i;
    struct err e;
    if (jobs_events(w->jobs, w->job.id, w->event, 1000, &events, &e) != 0)
        return;
    json_array_foreach(events, i, event)
    {
        const char *type = json_string_value(json_object_get(event, "type"));
        w->event = json_integer_value(json_object_get(event, "id"));
        if (strcmp(type, "metrics") == 0)
            continue;
        picture_erase(w);
        fprintf(stderr, "  %s\n", json_string_value(json_object_get(event, "message")));
    }
    json_decref(events);
}

// ---- the loop ------------------------------------------------------------------------------------

static int look(struct watching *w, struct err *e)
{
    json_t *lines = NULL;
    struct jobs_job now;
    int rc = 0;
    if (clock_now_ns() - w->ticked_ns > TICK_NS) {
        w->ticked_ns = clock_now_ns();
        rc = jobs_tick(w->jobs, NULL, e);
    }
    if (rc == 0 || rc == ERR_BUSY)
        rc = jobs_get(w->jobs, w->job.id, &now, e);
    if (rc != 0)
        return rc;
    jobs_job_fini(&w->job);
    w->job = now;
    uint64_t before;
    do {
        before = w->progress_at;
        rc = jobs_progress(w->jobs, w->job.id, &w->progress_at, &lines, e);
        if (rc == 0)
            train_curve_add(&w->curve, lines);
        json_decref(lines);
        lines = NULL;
    } while (rc == 0 && w->progress_at > before);
    return rc;
}

static int loop(struct watching *w, struct err *e)
{
    bool live = w->options->live && isatty(STDERR_FILENO);
    int rc;
    w->lined_ns = clock_now_ns();
    while ((rc = look(w, e)) == 0 && !signal_seen) {
        events_show(w);
        if (live)
            picture_draw(w);
        else
            line_show(w);
        if (jobs_state_final(w->job.state))
            break;
        clock_sleep_until(clock_now_ns() + LOOK_NS);
    }
    return rc;
}

static int svg_write(const struct watching *w, struct err *e)
{
    struct buf out;
    buf_init(&out, DRAW_MAX_BYTES);
    train_curve_svg(&w->curve, &w->job, &out);
    int rc = os_file_write(w->options->svg, out.data, out.len, 0644, e);
    buf_fini(&out);
    return rc == 0 ? 0 : err_wrap(e, "--svg %s", w->options->svg);
}

static int ended(const struct watching *w)
{
    const struct jobs_job *job = &w->job;
    if (w->options->json)
        train_json_print(jobs_job_json(job));
    if (job->state == JOBS_SUCCEEDED) {
        if (!w->options->json)
            printf("ft:%s is ready: tandem serve -m %s lists it\n", job->name, job->model);
        return 0;
    }
    fprintf(stderr, "tandem train: job %s %s%s%s\n", job->id,
            job->state == JOBS_FAILED ? "failed" : "was cancelled",
            job->error.message[0] != '\0' ? ": " : "", job->error.message);
    return 1;
}

int train_watch(struct jobs *j, const char *id, const struct train_watch *options)
{
    struct watching w = {.jobs = j, .options = options};
    struct sigaction a = {.sa_handler = on_signal};
    struct err e = {0};
    int code;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    int rc = jobs_get(j, id, &w.job, &e);
    if (rc == 0)
        rc = loop(&w, &e);
    if (rc == 0 && options->svg && w.curve.n > 0)
        rc = svg_write(&w, &e);
    if (rc != 0)
        code = train_fail(&e);
    else
        code = jobs_state_final(w.job.state) ? ended(&w) : term_job_left("train", w.job.name, "");
    train_curve_fini(&w.curve);
    jobs_job_fini(&w.job);
    return code;
}
