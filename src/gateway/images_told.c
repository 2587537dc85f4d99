// Figures about pictures: what an operator is told.
#include "gateway/images_impl.h"

#include "base/json.h"
#include "gateway/answer.h"

#include <math.h>

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
    i->now.yield = i->yield;
    i->now.eta_s = images_eta_s(i);
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

double images_estimate_s(struct images *i, const struct image_request *r)
{
    struct images_told t;
    double step_s;

    told_get(i, &t);
    step_s = images_speeds_step_s(&t.speeds, r);
    if (t.failed)
        return INFINITY;
    return step_s > 0 ? t.eta_s + step_s * r->steps * r->count : 0;
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
    json_put(o, "paused", json_boolean(t.yield.paused));
    json_put(o, "requests", json_integer(t.requests));
    json_put(o, "waiting", json_integer(t.worker.waiting));
    json_put(o, "pictures", json_integer((json_int_t)t.pictures));
    json_put(o, "done", json_integer((json_int_t)t.done));
    json_put(o, "cancelled", json_integer((json_int_t)t.cancelled));
    json_put(o, "failed", json_integer((json_int_t)t.failures));
    json_put(o, "refused", json_integer((json_int_t)t.refused));
    json_put(o, "restarts", json_integer(t.worker.restarts));
    json_put(o, "paused_s", json_real(t.yield.paused_s));
    json_put(o, "load_s", json_real(t.load_s));
    json_put(o, "speeds", images_speeds_json(&t.speeds));
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
                  "Time that pictures waited for other requests.", t.yield.paused_s);
    metric_histogram_put(out, "tandem_image_step_seconds", "A denoising step.", &t.step_s);
    metric_histogram_put(out, "tandem_image_queue_seconds",
                         "From a request for pictures to its first step.", &t.queue_s);
    metric_histogram_put(out, "tandem_image_request_seconds",
                         "From a request for pictures to its end.", &t.request_s);
}
