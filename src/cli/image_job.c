// One image job of a running server: sent, and watched until its pictures are here.
#include "cli/image.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "cli/term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN_NS NS_PER_S           // between two tries to reach the server
#define PATIENCE_NS (60 * NS_PER_S) // that it may be gone, as for a restart

struct watching {
    struct image_command *m;
    const char *id;
    json_t *job;      // as it was told last; NULL: not yet
    uint32_t written; // a bit for each picture
    int64_t heard_ns;
    bool unwritten; // a picture came, and could not be written
};

static bool is_final(const json_t *job)
{
    const char *state = json_string_or(job, "status", "");
    return state[0] != '\0' && strcmp(state, "queued") != 0 && strcmp(state, "in_progress") != 0;
}

// ---- what is told --------------------------------------------------------------------------------

static void job_take(struct watching *w, const json_t *job)
{
    char line[160];
    json_int_t n = json_integer_value(json_object_get(job, "n"));
    json_decref(w->job);
    w->job = json_deep_copy(job);
    w->m->request.count = n > 0 && n <= IMAGE_COUNT_MAX ? (uint32_t)n : 1;
    snprintf(line, sizeof line, "job %s: %s", w->id, json_string_or(job, "status", ""));
    if (strcmp(json_string_or(job, "status", ""), "queued") == 0)
        snprintf(line, sizeof line, "job %s: queued, %lld before it", w->id,
                 (long long)json_integer_value(json_object_get(job, "before")));
    image_line_show(w->m, line);
}

// Only its address is told; a job that began anew tells the same pictures again.
static int picture_take(struct watching *w, const json_t *event, struct err *e)
{
    json_int_t index = json_integer_value(json_object_get(event, "index"));
    char path[128];
    struct image_event_file f = {.whole = true};
    uint8_t *data = NULL;
    if (index < 0 || index >= IMAGE_COUNT_MAX || w->written >> index & 1)
        return 0;
    if (w->m->format == NULL && w->m->out == NULL)
        image_format_parse(json_string_or(event, "output_format", ""), &w->m->as, e);
    snprintf(path, sizeof path, "/v1/images/jobs/%.40s/content?index=%d", w->id, (int)index);
    int rc = client_file(&w->m->client, path, &data, &f.len, e);
    f.data = data;
    if (rc == 0)
        rc = image_event_picture(w->m, event, &f, e);
    w->unwritten = rc != 0 && data != NULL;
    if (rc == 0)
        w->written |= 1u << index;
    free(data);
    return rc;
}

static int on_event(void *ctx, const json_t *event, struct err *e)
{
    struct watching *w = ctx;
    const char *type = json_string_or(event, "type", "");
    const json_t *job = json_object_get(event, "job");
    w->heard_ns = clock_now_ns();
    if (strncmp(type, "image_job.", 10) == 0 && json_is_object(job))
        job_take(w, job);
    else if (json_object_get(event, "url") != NULL)
        return picture_take(w, event, e);
    else
        return image_event_show(w->m, event, e);
    return 0;
}

static void on_comment(void *ctx, const char *comment)
{
    struct watching *w = ctx;
    w->heard_ns = clock_now_ns();
    if (w->job != NULL && strcmp(json_string_or(w->job, "status", ""), "queued") != 0)
        image_comment_show(w->m, comment);
}

// ---- until its end -------------------------------------------------------------------------------

// The server may be on its way back: the job is kept.
static bool is_worth_another(const struct watching *w, int rc)
{
    bool gone = (rc == 0 || rc == ERR_CLOSED || rc == ERR_IO) && !w->unwritten;
    return gone && clock_now_ns() - w->heard_ns < PATIENCE_NS && *w->m->stop == 0;
}

static int events_follow(struct watching *w, struct err *e)
{
    char path[96];
    const struct client_stream s = {
        .path = path, .on_event = on_event, .on_comment = on_comment, .ctx = w, .stop = w->m->stop};
    int rc;
    snprintf(path, sizeof path, "/v1/images/jobs/%.40s/events", w->id);
    for (;;) {
        rc = client_stream(&w->m->client, &s, e);
        if ((rc == 0 && is_final(w->job)) || (w->job == NULL && rc != 0) ||
            !is_worth_another(w, rc))
            break;
        image_line_show(w->m, "the server is gone; the job waits for it");
        clock_sleep_until(clock_now_ns() + AGAIN_NS);
    }
    image_line_end(w->m);
    if (rc == 0 && !is_final(w->job))
        rc = err_set(e, ERR_CLOSED, "the server ended the stream of job %.40s", w->id);
    return rc;
}

static int ended(struct watching *w)
{
    const json_t *error = json_object_get(w->job, "error");
    char *line;
    if (w->m->json) {
        json_put(w->job, "files", json_incref(w->m->files));
        line = json_line(w->job);
        printf("%s\n", line);
        free(line);
    }
    if (strcmp(json_string_or(w->job, "status", ""), "completed") == 0)
        return 0;
    fprintf(stderr, "tandem image: job %s %s%s%s\n", w->id,
            error != NULL && json_is_object(error) ? "failed" : "was cancelled",
            json_is_object(error) ? ": " : "", json_string_or(error, "message", ""));
    return 1;
}

int image_job_watch(struct image_command *m, const char *id)
{
    struct watching w = {.m = m, .id = id, .heard_ns = clock_now_ns()};
    struct err e = {0};
    char more[320];
    int code, rc = events_follow(&w, &e);
    snprintf(more, sizeof more, " --server %.300s", m->client.server);
    if (*m->stop != 0)
        code = term_job_left("image", id, more);
    else
        code = rc == 0 ? ended(&w) : cli_fail("image", &e);
    json_decref(w.job);
    return code;
}

// ---- sending -------------------------------------------------------------------------------------

int image_job_submit(struct image_command *m)
{
    bool edit = m->initial != NULL || m->mask != NULL;
    json_t *body = image_body_make(m), *job = NULL;
    struct err e = {0};
    char *line;
    int code, rc = edit ? image_body_files(m, body, &e) : 0;
    if (rc == 0)
        rc = client_post(&m->client, "/v1/images/jobs", body, &job, &e);
    json_decref(body);
    if (rc != 0)
        return cli_fail("image", &e);
    if (m->watch) {
        code = image_job_watch(m, json_string_or(job, "id", ""));
    } else {
        line = m->json ? json_line(job) : mem_strdup(json_string_or(job, "id", ""));
        printf("%s\n", line);
        free(line);
        code = 0;
    }
    json_decref(job);
    return code;
}
