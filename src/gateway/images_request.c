// One request for pictures: from its task over the worker's events to its answer.
#include "gateway/images_impl.h"

#include "base/base64.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/answer.h"
#include "gateway/image_upstream.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_MAX_S 600
#define EVENT_MORE_BYTES 1024 // of an event or entry beside its picture

static struct image_request *asked(struct images_request *r)
{
    return &r->task->ask.request;
}

// ---- ends -----------------------------------------------------------------------------------------------

static void request_free(struct images *i, struct images_request *r)
{
    struct images_request **at = &i->requests;

    while (*at && *at != r)
        at = &(*at)->next;
    if (*at) {
        *at = r->next;
        i->now.requests--;
    }
    i->waiting_bytes -= r->bytes;
    metric_observe(&i->now.request_s, ns_to_s(clock_now_ns() - r->received_ns));
    buf_fini(&r->data);
    images_task_free(r->task);
    free(r);
}

// A model that cannot be loaded is no fault of the request's, whatever the error is called.
static unsigned status_of(const struct images *i, const struct err *e)
{
    return i->now.failed || e->code == ERR_BUSY || e->code == ERR_CLOSED ? 503
                                                                         : answer_status(e->code);
}

void images_refuse(struct reply *reply, const struct err *e, unsigned status, const char *param,
                   unsigned retry_s)
{
    const char *code = status == 429 ? "rate_limit_exceeded" : err_name(e->code);

    reply_finish(reply, status, answer_error(status, e->message, code, param), retry_s);
}

static void request_fail(struct images *i, struct images_request *r, const struct err *e)
{
    struct buf out;
    unsigned status = status_of(i, e);

    buf_init(&out, EVENT_MORE_BYTES * 4);
    i->now.failures += !r->left;
    i->now.cancelled += r->left;
    images_told_publish(i); // who has the answer may look
    if (r->left) {
        reply_abort(r->task->reply);
    } else if (r->task->ask.stream) {
        images_error_put(&out, e, status);
        reply_write(r->task->reply, out.data, out.len);
        reply_end(r->task->reply);
    } else {
        images_refuse(r->task->reply, e, status, NULL, status == 503 ? 2 : 0);
    }
    buf_fini(&out);
    request_free(i, r);
}

void images_requests_fail(struct images *i, const struct err *e)
{
    while (i->requests)
        request_fail(i, i->requests, e);
}

// Its client is gone, or does not read: the worker stops within a step, and says so.
static void request_leave(struct images *i, struct images_request *r)
{
    if (r->left)
        return;
    r->left = true;
    log_debug("images", "a client left: id=%llu", (unsigned long long)r->id);
    image_worker_cancel(i->worker, r->id);
}

static void request_tell(struct images *i, struct images_request *r, const struct buf *out)
{
    if (reply_write(r->task->reply, out->data, out->len) != 0)
        request_leave(i, r);
    r->told_ns = clock_now_ns();
}

// ---- how long ---------------------------------------------------------------------------------------------

static double left_s(const struct images *i, struct images_request *r)
{
    const struct image_request *q = asked(r);
    uint32_t all = q->steps * q->count, done = r->index * q->steps + r->step;

    return images_speeds_step_s(&i->now.speeds, q) * (all > done ? all - done : 0);
}

double images_eta_s(const struct images *i)
{
    double s = 0;

    for (struct images_request *r = i->requests; r; r = r->next)
        s += left_s(i, r);
    return s;
}

unsigned images_retry_s(double left_s)
{
    double s = ceil(left_s);

    return s < 1 ? 1 : s > RETRY_MAX_S ? RETRY_MAX_S : (unsigned)s;
}

// ---- coming in ----------------------------------------------------------------------------------------------

static uint32_t count_of(const struct images *i, const char *owner)
{
    uint32_t n = 0;

    for (const struct images_request *r = i->requests; r; r = r->next)
        n += strcmp(r->task->owner, owner) == 0;
    return n;
}

// 0, or with *status, why it has to come back later.
static int room_check(const struct images *i, const struct images_task *t, unsigned *status,
                      struct err *e)
{
    const struct gateway_options *o = i->options;

    *status = 429;
    if (i->draining || i->stopping) {
        *status = 503;
        return err_set(e, ERR_BUSY, "the server is stopping; running requests end first");
    }
    if (o->max_per_key > 0 && count_of(i, t->owner) >= o->max_per_key)
        return err_set(e, ERR_BUSY,
                       "this API key has %u requests for pictures running, the most at one time",
                       o->max_per_key);
    if (i->now.requests > o->images.queue)
        return err_set(e, ERR_BUSY,
                       "%u requests for pictures are waiting already (--image-queue %u); try again "
                       "later",
                       i->now.requests - 1, o->images.queue);
    return 0;
}

// Its pictures become pixels, and their files are dropped.
static int pixels_read(struct images_ask *a, struct image_picture *image,
                       struct image_picture *mask, const char **param, struct err *e)
{
    int rc = a->image.data ? image_decode(a->image.data, a->image.len, image, e) : 0;

    *param = "image";
    if (rc == 0 && a->mask.data) {
        *param = "mask";
        rc = image_decode_mask(a->mask.data, a->mask.len, mask, e);
    }
    *param = rc == 0 ? NULL : *param;
    free(a->image.data);
    free(a->mask.data);
    a->image = a->mask = (struct images_part){0};
    return rc;
}

static int bytes_take(struct images *i, struct images_request *r, const struct image_picture *image,
                      const struct image_picture *mask, struct err *e)
{
    size_t bytes = ((size_t)image->width * image->height + (size_t)mask->width * mask->height) * 3;

    if (i->waiting_bytes + bytes > IMAGES_WAITING_BYTES)
        return err_set(e, ERR_BUSY, "pictures to be edited take %zu MB already; try again later",
                       i->waiting_bytes >> 20);
    r->bytes = bytes;
    i->waiting_bytes += bytes;
    return 0;
}

static int submit(struct images *i, struct images_request *r, const char **param, struct err *e)
{
    struct image_picture image = {0}, mask = {0};
    struct image_request *q = asked(r);
    int rc = pixels_read(&r->task->ask, &image, &mask, param, e);

    if (rc == 0)
        rc = bytes_take(i, r, &image, &mask, e);
    q->initial = image.rgb ? &image : NULL;
    q->mask = mask.rgb ? &mask : NULL;
    if (rc == 0)
        rc = image_worker_submit(i->worker, q, &r->id, e);
    q->initial = q->mask = NULL;
    image_picture_fini(&image);
    image_picture_fini(&mask);
    return rc;
}

static struct images_request *request_new(struct images *i, struct images_task *t)
{
    struct images_request *r = mem_alloc(sizeof(*r)), **last = &i->requests;

    r->task = t;
    r->received_ns = r->told_ns = clock_now_ns();
    buf_init(&r->data, REPLY_BODY_MAX);
    while (*last)
        last = &(*last)->next;
    *last = r;
    i->now.requests++;
    return r;
}

// An answer to a request that never was: it counts as refused.
static void not_taken(struct images *i, struct images_request *r, const struct err *e,
                      const char *param)
{
    unsigned status = status_of(i, e);

    i->now.refused++;
    images_told_publish(i);
    param = param || status != 400 ? param : images_param_of(e->message);
    images_refuse(r->task->reply, e, status, param,
                  status == 503 ? images_retry_s(images_eta_s(i)) : 0);
    request_free(i, r);
}

void images_admit(struct images *i, struct images_task *t)
{
    struct images_request *r;
    struct err e = {0};
    const char *param = NULL;
    unsigned status;

    if (room_check(i, t, &status, &e) != 0) {
        i->now.refused++;
        images_refuse(t->reply, &e, status, NULL, images_retry_s(images_eta_s(i)));
        images_task_free(t);
        return;
    }
    r = request_new(i, t);
    if (images_worker_wake(i, &e) != 0 || submit(i, r, &param, &e) != 0) {
        not_taken(i, r, &e, param);
        return;
    }
    i->now.edits += t->ask.edit;
    if (t->ask.stream && !t->begun)
        reply_begin(t->reply);
}

// ---- the worker's events --------------------------------------------------------------------------------------

static struct images_request *find(const struct images *i, uint64_t id)
{
    struct images_request *r = i->requests;

    while (r && r->id != id)
        r = r->next;
    return r;
}

static void on_progress(struct images *i, struct images_request *r, const struct image_event *ev)
{
    struct buf out;

    if (r->begun_ns == 0) {
        r->begun_ns = clock_now_ns() - (int64_t)(ev->step_s * 1e9);
        r->begun_ns = r->begun_ns > r->received_ns ? r->begun_ns : r->received_ns;
        metric_observe(&i->now.queue_s, ns_to_s(r->begun_ns - r->received_ns));
    }
    r->index = ev->index;
    r->step = ev->step;
    images_speeds_learn(&i->now.speeds, asked(r), ev->step_s);
    if (ev->step_s >= 0)
        metric_observe(&i->now.step_s, ev->step_s);
    if (!r->task->ask.stream || !r->task->ask.progress || r->left)
        return;
    buf_init(&out, EVENT_MORE_BYTES);
    images_progress_put(&out, &r->task->ask, ev, left_s(i, r));
    request_tell(i, r, &out);
    buf_fini(&out);
}

// Where it can be fetched; caller frees.
static char *url_make(struct images_request *r, const uint8_t *file, size_t len, struct err *e)
{
    char name[IMAGES_STORE_NAME_BYTES];

    if (images_store_put(r->task->owner, r->task->ask.format, file, len, name, e) != 0)
        return NULL;
    return mem_format("%s/v1/images/files/%s", r->task->base, name);
}

static int picture_tell(struct images_request *r, const struct images_picture_told *p,
                        struct buf *out, struct err *e)
{
    if (r->task->ask.stream) {
        if (p->event->kind == IMAGE_PICTURE)
            images_completed_put(out, p);
        else
            images_partial_put(out, p, r->previews++);
        return 0;
    }
    if (r->data.len + BASE64_BYTES(p->len) + 2 * EVENT_MORE_BYTES > REPLY_BODY_MAX)
        return err_set(e, ERR_RANGE,
                       "the pictures are larger than %u MB together; ask for fewer, or for "
                       "\"response_format\": \"url\"",
                       REPLY_BODY_MAX >> 20);
    images_entry_put(&r->data, p);
    return 0;
}

int images_picture_put(struct images_request *r, const struct image_event *ev, const json_t *texts,
                       struct buf *out, struct err *e)
{
    const struct images_ask *a = &r->task->ask;
    const struct image_encode_options o = {
        .format = a->format, .quality = a->compression, .texts = texts};
    struct images_picture_told p = {
        .ask = a, .event = ev, .node = r->task->pick ? r->task->pick->node : NULL};
    uint8_t *file = NULL;
    char *url = NULL;
    int rc = image_encode(&ev->picture, &o, &file, &p.len, e);

    p.file = file;
    if (rc == 0 && a->url && ev->kind == IMAGE_PICTURE) {
        url = url_make(r, file, p.len, e);
        rc = url ? 0 : e->code;
    }
    p.url = url;
    if (rc == 0)
        rc = picture_tell(r, &p, out, e);
    free(url);
    free(file);
    return rc;
}

static int on_picture(struct images *i, struct images_request *r, const struct image_event *ev,
                      struct err *e)
{
    const struct images_ask *a = &r->task->ask;
    bool whole = ev->kind == IMAGE_PICTURE;
    json_t *texts;
    struct buf out;
    int rc;

    if (r->left)
        return 0;
    buf_init(&out, REPLY_BODY_MAX);
    texts = whole ? image_texts(&a->request, i->known.file, NULL, ev->seed) : NULL;
    rc = images_picture_put(r, ev, texts, &out, e);
    if (rc == 0 && out.len > 0)
        request_tell(i, r, &out);
    i->now.pictures += rc == 0 && whole;
    if (whole)
        r->previews = 0; // the next one's count anew
    json_decref(texts);
    buf_fini(&out);
    return r->left ? 0 : rc;
}

static void on_done(struct images *i, struct images_request *r, double draw_s)
{
    if (r->left) {
        i->now.cancelled++;
        reply_abort(r->task->reply);
    } else {
        i->now.done++;
        images_told_publish(i);
        if (r->task->ask.stream)
            reply_end(r->task->reply);
        else
            reply_finish(r->task->reply, 200, images_answer(r, draw_s), 0);
    }
    request_free(i, r);
}

static void on_down(struct images *i, const struct image_event *ev)
{
    i->now.failed = ev->retry_ns < 0;
    if (i->now.failed)
        snprintf(i->now.why, sizeof(i->now.why), "%s", ev->error.message);
    log_warn("images", "%s", ev->error.message);
}

void images_event(struct images *i, struct image_event *ev)
{
    struct images_request *r = find(i, ev->id);
    struct err e = {0};

    if (ev->kind == IMAGE_READY) {
        i->now.load_s = ev->load_s;
        i->now.failed = false;
    } else if (ev->kind == IMAGE_DOWN) {
        on_down(i, ev);
    } else if (r && ev->kind == IMAGE_PROGRESS) {
        image_yield_stepped(&i->yield);
        on_progress(i, r, ev);
    } else if (r && ev->kind == IMAGE_DONE) {
        on_done(i, r, ev->draw_s);
    } else if (r && ev->kind == IMAGE_FAILED) {
        request_fail(i, r, &ev->error);
    } else if (r && on_picture(i, r, ev, &e) != 0) {
        // What it still draws is for nobody; its end comes for an id that is not there.
        image_worker_cancel(i->worker, r->id);
        request_fail(i, r, &e);
    }
}

// ---- time -----------------------------------------------------------------------------------------------------

static void beat(struct images *i, struct images_request *r, uint32_t before)
{
    struct buf out;

    buf_init(&out, EVENT_MORE_BYTES);
    if (r->begun_ns == 0)
        buf_printf(&out, ": waiting, %u before this\n\n", before);
    else
        buf_printf(&out, ": picture %u, step %u of %u%s\n\n", r->index + 1, r->step,
                   asked(r)->steps, i->yield.paused ? ", paused while other requests run" : "");
    request_tell(i, r, &out);
    buf_fini(&out);
}

void images_requests_tick(struct images *i, int64_t now_ns)
{
    uint32_t before = 0;

    for (struct images_request *r = i->requests; r; r = r->next, before++) {
        if (!r->left && reply_left(r->task->reply))
            request_leave(i, r);
        else if (!r->left && r->task->ask.stream && now_ns - r->told_ns >= i->options->heartbeat_ns)
            beat(i, r, before);
    }
}
