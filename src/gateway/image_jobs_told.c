// What clients and operators are told of image jobs.
#include "gateway/image_jobs_impl.h"

#include "base/base64.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/metrics.h"
#include "gateway/answer.h"
#include "gateway/images_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESULT_MORE_BYTES 65536 // of an answer beside its pictures

const char *image_jobs_picture_name(const json_t *picture)
{
    const char *url = json_string_value(json_object_get(picture, "url"));
    const char *slash = url ? strrchr(url, '/') : NULL;

    return slash ? slash + 1 : "";
}

// ---- a job ----------------------------------------------------------------------------------------------

static json_t *time_json(int64_t unix_s)
{
    return unix_s > 0 ? json_integer(unix_s) : json_null();
}

static json_t *number_json(int64_t v)
{
    return v >= 0 ? json_integer(v) : json_null();
}

static void place_put(json_t *o, const struct image_jobs *j, const struct image_jobs_row *r)
{
    uint32_t before = 0;
    struct err e = {0};

    if (r->state != IMAGE_JOBS_QUEUED)
        return;
    image_jobs_row_before(j->db, r->number, &before, &e);
    json_put(o, "before", json_integer(before));
    json_put(o, "why", r->why[0] ? answer_string(r->why) : json_null());
}

static void error_put(json_t *o, const struct image_jobs_row *r)
{
    json_t *error = r->state == IMAGE_JOBS_FAILED ? json_object() : json_null();

    if (r->state == IMAGE_JOBS_FAILED) {
        json_put(error, "code", answer_string(r->code));
        json_put(error, "message", answer_string(r->why));
    }
    json_put(o, "error", error);
}

// How far it is: of one that is drawn by somebody who tells steps, of these; else of pictures.
static void progress_put(json_t *o, const struct image_jobs_row *r,
                         const struct image_jobs_run *run)
{
    uint32_t steps = run && run->steps > 0 ? run->steps : r->steps;
    size_t drawn = json_array_size(r->pictures);
    double all = r->n, done = (double)drawn, eta_s = -1;

    if (run && run->steps > 0) {
        all = (double)run->steps * r->n;
        done = (double)run->steps * run->index + run->step;
    }
    if (run && run->eta_s > 0)
        eta_s = fmax(0, run->eta_s - ns_to_s(clock_now_ns() - run->eta_ns));
    json_put(o, "progress", json_integer((json_int_t)floor(100 * done / all)));
    json_put(o, "n", json_integer(r->n));
    json_put(o, "pictures", json_integer((json_int_t)drawn));
    json_put(o, "step", json_integer(run ? run->step : 0));
    json_put(o, "steps", steps > 0 ? json_integer(steps) : json_null());
    json_put(o, "eta_s", eta_s >= 0 ? json_real(eta_s) : json_null());
}

json_t *image_jobs_json(const struct image_jobs *j, const struct image_jobs_row *r)
{
    const struct image_jobs_run *run = image_jobs_run_of(j, r->id);
    int64_t expires_s = r->ended_unix_s > 0 ? r->ended_unix_s + j->options->images.expiry_s : 0;
    json_t *o = json_object();

    json_put(o, "id", json_string(r->id));
    json_put(o, "object", json_string("image.job"));
    json_put(o, "status", json_string(image_jobs_state_name(r->state)));
    json_put(o, "model", answer_string(r->model));
    json_put(o, "prompt", answer_string(json_string_or(r->body, "prompt", "")));
    json_put(o, "edit", json_boolean(r->edit));
    json_put(o, "seed", number_json(r->seed));
    progress_put(o, r, run);
    json_put(o, "created_at", json_integer(r->created_unix_s));
    json_put(o, "started_at", time_json(r->started_unix_s));
    json_put(o, "completed_at", time_json(r->ended_unix_s));
    json_put(o, "expires_at", time_json(expires_s));
    if (run && run->node[0])
        json_put(o, "node", answer_string(run->node));
    place_put(o, j, r);
    error_put(o, r);
    return o;
}

void image_jobs_event_put(struct buf *out, const struct image_jobs *j,
                          const struct image_jobs_row *r)
{
    char *type = mem_format("image_job.%s", image_jobs_state_name(r->state));
    json_t *o = json_object();

    json_put(o, "type", json_string(type));
    json_put(o, "job", image_jobs_json(j, r));
    answer_event_put(out, type, o);
    free(type);
}

// ---- its result -----------------------------------------------------------------------------------------

static bool wants_url(const struct image_jobs_row *r)
{
    const char *format = json_string_value(json_object_get(r->body, "response_format"));

    return format && strcmp(format, "url") == 0;
}

// What an answer says of all its pictures: what their events said of each.
static void common_put(json_t *o, const struct image_jobs_row *r)
{
    static const char *const members[] = {"size", "quality", "background", "output_format",
                                          "usage"};
    const json_t *first = json_array_get(r->pictures, 0);

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (json_object_get(first, members[i]))
            json_put(o, members[i], json_incref(json_object_get(first, members[i])));
    json_put(o, "timings", json_incref(r->timings));
}

// The bytes of a picture; NULL: it is gone.
static uint8_t *file_read(const char *name, int64_t expiry_s, size_t *len)
{
    enum image_format format;
    uint64_t bytes = 0;
    size_t n = 0;
    ssize_t got = 1;
    struct err e = {0};
    uint8_t *data;
    int fd;

    if (images_store_open(name, expiry_s, &fd, &bytes, &format, &e) != 0)
        return NULL;
    data = mem_alloc(bytes + 1);
    while (n < bytes && (got = read(fd, data + n, bytes - n)) > 0)
        n += (size_t)got;
    close(fd);
    *len = n;
    return data;
}

// As it was asked for; by url where the answer would be too long for its bytes.
static void entry_put(struct buf *out, const struct image_jobs *j, const struct image_jobs_row *r,
                      size_t index)
{
    const json_t *picture = json_array_get(r->pictures, index), *seed;
    struct image_event ev = {.seed = IMAGE_SEED_NONE};
    struct images_picture_told p = {.event = &ev};
    uint8_t *file = NULL;

    seed = json_object_get(picture, "seed");
    ev.seed = json_is_integer(seed) ? json_integer_value(seed) : IMAGE_SEED_NONE;
    if (!wants_url(r))
        file = file_read(image_jobs_picture_name(picture), j->options->images.expiry_s, &p.len);
    p.file = file;
    if (!file || out->len + BASE64_BYTES(p.len) + RESULT_MORE_BYTES > REPLY_BODY_MAX)
        p.url = json_string_value(json_object_get(picture, "url"));
    images_entry_put(out, &p);
    free(file);
}

// {"created":..., "data":[...], ...}, in the shape of an answer of /images/generations.
static void result_put(struct buf *out, const struct image_jobs *j, const struct image_jobs_row *r)
{
    struct buf entries;
    json_t *common = json_object();
    char *text;

    buf_init(&entries, REPLY_BODY_MAX);
    for (size_t i = 0; i < json_array_size(r->pictures); i++)
        entry_put(&entries, j, r, i);
    buf_printf(out, "{\"created\":%lld,\"data\":[", (long long)r->ended_unix_s);
    buf_put(out, entries.data, entries.len);
    common_put(common, r);
    text = json_line(common);
    text[0] = ','; // its members stand behind those
    buf_puts(out, "]");
    buf_puts(out, text);
    free(text);
    json_decref(common);
    buf_fini(&entries);
}

char *image_jobs_text(const struct image_jobs *j, const struct image_jobs_row *r)
{
    json_t *o = image_jobs_json(j, r);
    char *text = json_line(o);
    struct buf out;

    json_decref(o);
    if (r->state != IMAGE_JOBS_COMPLETED)
        return text;
    buf_init(&out, REPLY_BODY_MAX);
    buf_put(&out, text, strlen(text) - 1);
    buf_puts(&out, ",\"result\":");
    result_put(&out, j, r);
    buf_puts(&out, "}");
    free(text);
    return buf_take(&out);
}

// ---- an operator's view ---------------------------------------------------------------------------------

static struct image_jobs_told told_get(struct image_jobs *j)
{
    struct image_jobs_told t;

    pthread_mutex_lock(&j->lock);
    t = j->told;
    pthread_mutex_unlock(&j->lock);
    return t;
}

json_t *image_jobs_status_json(struct image_jobs *j)
{
    struct image_jobs_told t;
    json_t *o;

    if (!j)
        return json_null();
    t = told_get(j);
    o = json_object();
    json_put(o, "queued", json_integer(t.queued));
    json_put(o, "in_progress", json_integer(t.running));
    json_put(o, "completed", json_integer((json_int_t)t.completed));
    json_put(o, "failed", json_integer((json_int_t)t.failed));
    json_put(o, "cancelled", json_integer((json_int_t)t.cancelled));
    return o;
}

void image_jobs_metrics_put(struct image_jobs *j, struct buf *out)
{
    static const char now[] = "tandem_image_jobs", total[] = "tandem_image_jobs_total";
    struct image_jobs_told t;

    if (!j)
        return;
    t = told_get(j);
    const struct {
        const char *end;
        uint64_t n;
    } ends[] = {{"completed", t.completed}, {"failed", t.failed}, {"cancelled", t.cancelled}};

    metric_family(out, now, "gauge", "Image jobs that have not ended, by state.");
    metric_sample(out, now, (const struct metric_label[]){{"state", "queued"}}, 1, t.queued);
    metric_sample(out, now, (const struct metric_label[]){{"state", "in_progress"}}, 1, t.running);
    metric_family(out, total, "counter", "Image jobs by their end.");
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
        metric_sample(out, total, (const struct metric_label[]){{"end", ends[i].end}}, 1,
                      (double)ends[i].n);
}
