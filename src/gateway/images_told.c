// Figures about pictures: what was learned about speed, and what an operator is told.
#include "gateway/images_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/answer.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 2048
#define SPEEDS_MAX_BYTES (1u << 20) // of the file
#define FORGET 0.2                  // share of a new step in the mean

static const double step_bounds[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                     2.5,   5,    10,    25,   50,  100,  300};
static const double long_bounds[] = {0.05, 0.1, 0.25, 0.5, 1,   2.5, 5,
                                     10,   25,  50,   100, 250, 500, 1000};

#define INIT(h, bounds) metric_histogram_init(h, bounds, sizeof(bounds) / sizeof((bounds)[0]))

void images_told_init(struct images_told *t)
{
    INIT(&t->step_s, step_bounds);
    INIT(&t->request_s, long_bounds);
    INIT(&t->queue_s, long_bounds);
}

void images_told_publish(struct images *i)
{
    if (i->worker)
        image_worker_status(i->worker, &i->now.worker);
    i->now.resting = i->worker == NULL;
    pthread_mutex_lock(&i->lock);
    i->told = i->now;
    pthread_mutex_unlock(&i->lock);
}

static void told_get(struct images *i, struct images_told *out)
{
    pthread_mutex_lock(&i->lock);
    *out = i->told;
    pthread_mutex_unlock(&i->lock);
}

// ---- speed ------------------------------------------------------------------------------------------------

// The size's row; a new one, in place of the least used where all are taken.
static struct images_speed *speed_row(struct images_told *t, uint32_t width, uint32_t height)
{
    struct images_speed *least = &t->speeds[0];

    for (uint32_t i = 0; i < t->n_speeds; i++) {
        struct images_speed *s = &t->speeds[i];

        if (s->width == width && s->height == height)
            return s;
        least = s->steps < least->steps ? s : least;
    }
    if (t->n_speeds < IMAGES_SIZES_MAX)
        least = &t->speeds[t->n_speeds++];
    *least = (struct images_speed){.width = width, .height = height};
    return least;
}

void images_speed_learn(struct images *i, const struct image_request *r, double step_s)
{
    struct images_speed *s;

    if (!(step_s >= 0 && step_s < 1e6))
        return;
    s = speed_row(&i->now, r->width, r->height);
    s->step_s = s->steps == 0 ? step_s : (1 - FORGET) * s->step_s + FORGET * step_s;
    s->steps++;
    metric_observe(&i->now.step_s, step_s);
}

// Of a size that was never drawn: as the nearest one, by pixels.
double images_speed(const struct images_told *t, const struct image_request *r)
{
    double wanted = (double)r->width * r->height, best = 0, ratio = 0;

    for (uint32_t i = 0; i < t->n_speeds; i++) {
        const struct images_speed *s = &t->speeds[i];
        double pixels = (double)s->width * s->height;
        double near = pixels > wanted ? wanted / pixels : pixels / wanted;

        if (s->steps > 0 && near > ratio) {
            ratio = near;
            best = s->step_s * wanted / pixels;
        }
    }
    return best;
}

static int speeds_path(char out[PATH_BYTES], struct err *e)
{
    char state[PATH_BYTES - 32];
    int rc = os_state_dir(state, sizeof(state), e);

    if (rc == 0)
        rc = os_mkdirs(state, e);
    if (rc == 0)
        snprintf(out, PATH_BYTES, "%s/image-speeds.json", state);
    return rc;
}

static json_t *speeds_load(const char *path)
{
    char *text = NULL;
    size_t n = 0;
    struct err e = {0};
    json_t *o = NULL;

    if (os_file_read(path, SPEEDS_MAX_BYTES, &text, &n, &e) == 0)
        o = json_parse(text, n, &e);
    free(text);
    if (json_is_object(o))
        return o;
    json_decref(o);
    return json_object();
}

static json_t *speeds_json(const struct images_told *t)
{
    json_t *list = json_array();

    for (uint32_t k = 0; k < t->n_speeds; k++) {
        json_t *o = json_object();

        json_put(o, "width", json_integer(t->speeds[k].width));
        json_put(o, "height", json_integer(t->speeds[k].height));
        json_put(o, "step_s", json_real(t->speeds[k].step_s));
        json_put(o, "steps", json_integer((json_int_t)t->speeds[k].steps));
        json_array_append_new(list, o);
    }
    return list;
}

// What was learned before; a file that does not read is no loss.
void images_speeds_read(struct images *i)
{
    char path[PATH_BYTES];
    struct err e = {0};
    const json_t *row;
    size_t k;
    json_t *all = speeds_path(path, &e) == 0 ? speeds_load(path) : NULL;

    json_array_foreach(json_object_get(all, i->name), k, row)
    {
        int64_t width = 0, height = 0, steps = 0;
        double step_s = 0;

        if (json_get_i64(row, "width", 1, IMAGE_SIDE_MAX, &width, &e) == 0 &&
            json_get_i64(row, "height", 1, IMAGE_SIDE_MAX, &height, &e) == 0 &&
            json_get_i64(row, "steps", 1, INT64_MAX, &steps, &e) == 0 &&
            json_get_f64(row, "step_s", 0, 1e6, &step_s, &e) == 0 && width > 0 && height > 0)
            *speed_row(&i->now, (uint32_t)width, (uint32_t)height) =
                (struct images_speed){(uint32_t)width, (uint32_t)height, step_s, (uint64_t)steps};
    }
    json_decref(all);
}

void images_speeds_write(struct images *i)
{
    char path[PATH_BYTES];
    struct err e = {0};
    json_t *all = NULL;
    char *text = NULL;
    int rc;

    if (i->now.n_speeds == 0)
        return;
    rc = speeds_path(path, &e);
    if (rc == 0) {
        all = speeds_load(path);
        json_put(all, i->name, speeds_json(&i->now));
        text = json_line(all);
        rc = os_file_write(path, text, strlen(text), 0600, &e);
    }
    if (rc != 0)
        log_warn("images", "the speed of pictures is not kept: %s", e.message);
    free(text);
    json_decref(all);
}

// ---- an operator's view -------------------------------------------------------------------------------------

static const char *state_name(const struct images_told *t)
{
    if (t->failed)
        return "failed";
    if (t->resting)
        return "unloaded";
    return t->worker.ready ? "loaded" : "loading";
}

json_t *images_status_json(struct images *i)
{
    struct images_told t;
    json_t *o = json_object();

    told_get(i, &t);
    json_put(o, "model", answer_string(i->name));
    json_put(o, "layout", json_string(i->model.layout));
    json_put(o, "state", json_string(state_name(&t)));
    json_put(o, "why", t.failed ? answer_string(t.why) : json_null());
    json_put(o, "library", answer_string(t.worker.library));
    json_put(o, "version", answer_string(t.worker.version));
    json_put(o, "pid", json_integer(t.worker.pid));
    json_put(o, "policy", json_string(i->options->images.wait ? "wait" : "pause"));
    json_put(o, "paused", json_boolean(t.paused));
    json_put(o, "requests", json_integer(t.requests));
    json_put(o, "waiting", json_integer(t.worker.waiting));
    json_put(o, "pictures", json_integer((json_int_t)t.pictures));
    json_put(o, "done", json_integer((json_int_t)t.done));
    json_put(o, "cancelled", json_integer((json_int_t)t.cancelled));
    json_put(o, "failed", json_integer((json_int_t)t.failures));
    json_put(o, "refused", json_integer((json_int_t)t.refused));
    json_put(o, "restarts", json_integer(t.worker.restarts));
    json_put(o, "paused_s", json_real(t.paused_s));
    json_put(o, "load_s", json_real(t.load_s));
    json_put(o, "speeds", speeds_json(&t));
    return o;
}

json_t *images_model_json(struct images *i)
{
    struct images_told t;
    const struct image_model *m = &i->model;
    json_t *o = json_object(), *meta = json_object(), *status = json_object();

    told_get(i, &t);
    json_put(o, "id", answer_string(i->name));
    json_put(o, "object", json_string("model"));
    json_put(o, "created", json_integer(0));
    json_put(o, "owned_by", json_string("tandem"));
    json_put(status, "value", json_string(state_name(&t)));
    json_put(o, "status", status);
    json_put(meta, "kind", json_string("image"));
    json_put(meta, "arch", json_string(m->layout));
    json_put(meta, "side", json_integer(m->side));
    json_put(meta, "multiple", json_integer(m->multiple));
    json_put(meta, "square", json_boolean(m->square));
    json_put(meta, "steps", json_integer(m->steps));
    json_put(meta, "cfg", json_real(m->cfg));
    json_put(meta, "edits", json_boolean(m->edits));
    json_put(meta, "partial_images", json_boolean(t.worker.can_preview));
    json_put(o, "meta", meta);
    return o;
}

static void ends_put(struct buf *out, const struct images_told *t)
{
    static const char name[] = "tandem_images_total";
    const struct {
        const char *end;
        uint64_t n;
    } rows[] = {{"done", t->done},
                {"cancelled", t->cancelled},
                {"failed", t->failures},
                {"refused", t->refused}};

    metric_family(out, name, "counter", "Requests for pictures by their end.");
    for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++) {
        const struct metric_label labels[] = {{"end", rows[k].end}};

        metric_sample(out, name, labels, 1, (double)rows[k].n);
    }
}

void images_metrics_put(struct images *i, struct buf *out)
{
    struct images_told t;

    told_get(i, &t);
    ends_put(out, &t);
    metric_single(out, "tandem_image_pictures_total", "counter", "Pictures drawn.",
                  (double)t.pictures);
    metric_single(out, "tandem_image_requests", "gauge",
                  "Requests for pictures that wait or are drawn.", t.requests);
    metric_single(out, "tandem_image_waiting", "gauge", "Requests for pictures that wait.",
                  t.worker.waiting);
    metric_single(out, "tandem_image_worker_up", "gauge", "1: the image model is loaded.",
                  t.worker.ready && !t.resting);
    metric_single(out, "tandem_image_worker_restarts_total", "counter",
                  "Times the image worker ended by itself.", t.worker.restarts);
    metric_single(out, "tandem_image_paused_seconds_total", "counter",
                  "Time that pictures waited for other requests.", t.paused_s);
    metric_histogram_put(out, "tandem_image_step_seconds", "A denoising step.", &t.step_s);
    metric_histogram_put(out, "tandem_image_queue_seconds",
                         "From a request for pictures to its first step.", &t.queue_s);
    metric_histogram_put(out, "tandem_image_request_seconds",
                         "From a request for pictures to its end.", &t.request_s);
}
