// Requests for pictures that other servers draw, from their coming in to their turn.
#include "gateway/image_upstream_impl.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

#define BEAT_BYTES 512

// ---- coming in -------------------------------------------------------------------------------------------

static uint32_t count_of(const struct image_upstreams *u, const char *owner)
{
    uint32_t n = 0;

    for (const struct image_upstream_job *j = u->jobs; j; j = j->next)
        n += !j->over && strcmp(j->r.task->owner, owner) == 0;
    return n;
}

static uint32_t waiting_on(const struct image_upstreams *u, const struct image_upstream_server *s)
{
    uint32_t n = 0;

    for (const struct image_upstream_job *j = u->jobs; j; j = j->next)
        n += !j->over && j->server == s && !j->drawing;
    return n;
}

static uint32_t drawing_on(const struct image_upstreams *u, const struct image_upstream_server *s)
{
    uint32_t n = 0;

    for (const struct image_upstream_job *j = u->jobs; j; j = j->next)
        n += !j->over && j->server == s && j->drawing;
    return n;
}

// 0, or with *status, why it has to come back later.
static int room_check(const struct image_upstreams *u, const struct images_task *t,
                      unsigned *status, struct err *e)
{
    const struct gateway_options *o = u->options;
    const struct image_upstream_server *s = &u->servers[t->pick->server];

    *status = 429;
    if (u->draining || u->stopping) {
        *status = 503;
        return err_set(e, ERR_BUSY, "the server is stopping; running requests end first");
    }
    if (o->max_per_key > 0 && count_of(u, t->owner) >= o->max_per_key)
        return err_set(e, ERR_BUSY,
                       "this API key has %u requests for pictures running, the most at one time",
                       o->max_per_key);
    if (waiting_on(u, s) + drawing_on(u, s) >= o->images.queue + s->kind->at_once)
        return err_set(e, ERR_BUSY,
                       "%u requests for pictures are waiting for %.60s already (--image-queue %u); "
                       "try again later",
                       waiting_on(u, s), s->options->name, o->images.queue);
    return 0;
}

static int part_check(const struct images_part *p, bool mask, struct image_request *r,
                      struct err *e)
{
    struct image_picture picture = {0};
    int rc;

    if (!p->data)
        return 0;
    rc = mask ? image_decode_mask(p->data, p->len, &picture, e)
              : image_decode(p->data, p->len, &picture, e);
    if (rc == 0 && mask && (picture.width != r->width || picture.height != r->height))
        rc = err_set(e, ERR_INVALID, "the mask is %ux%u, the picture %ux%u; make them equal",
                     picture.width, picture.height, r->width, r->height);
    if (rc == 0 && !mask && r->width == 0) {
        r->width = picture.width;
        r->height = picture.height;
    }
    image_picture_fini(&picture);
    return rc;
}

static struct image_upstream_job *job_new(struct image_upstreams *u, struct images_task *t)
{
    struct image_upstream_job *j = mem_alloc(sizeof(*j)), **last = &u->jobs;
    const struct image_request *q = &t->ask.request;

    j->server = &u->servers[t->pick->server];
    j->r.task = t;
    j->r.received_ns = j->r.told_ns = clock_now_ns();
    j->seed = q->seed >= 0 ? q->seed : t->pick->seeds ? image_seed_draw() : IMAGE_SEED_NONE;
    buf_init(&j->r.data, REPLY_BODY_MAX);
    buf_init(&j->in, IMAGE_UPSTREAM_ANSWER_MAX);
    while (*last)
        last = &(*last)->next;
    *last = j;
    return j;
}

// Since it was picked, a place may have got another node, and a server other models.
static bool is_as_picked(const struct image_upstream_server *s, const struct image_upstream_pick *p)
{
    const struct message_canvas *c = s->node ? &s->node->now.canvas : NULL;

    return image_upstream_model_of(s, p->theirs) &&
           (!c || (strcmp(c->file, p->file) == 0 && image_upstream_is_same(&c->like, &p->model)));
}

void image_upstream_admit(struct image_upstreams *u, struct images_task *t)
{
    struct image_upstream_server *s = &u->servers[t->pick->server];
    struct image_upstream_job *j;
    struct err e = {0};
    unsigned status;

    if (room_check(u, t, &status, &e) != 0) {
        images_refuse(t->reply, &e, status, NULL, images_retry_s(s->left_s));
        images_task_free(t);
        return;
    }
    if (part_check(&t->ask.image, false, &t->ask.request, &e) != 0 ||
        part_check(&t->ask.mask, true, &t->ask.request, &e) != 0 ||
        (s->node && image_request_check(&t->ask.request, &t->pick->model, &e) != 0)) {
        images_refuse(t->reply, &e, 400, images_param_of(e.message), 0);
        images_task_free(t);
        return;
    }
    j = job_new(u, t);
    if (s->state == IMAGE_UPSTREAM_DOWN)
        err_set(&e, ERR_BUSY, "is not there: %.400s", s->why);
    else if (!is_as_picked(s, t->pick))
        err_set(&e, ERR_BUSY, "has another model than \"%.100s\" by now; ask again", t->pick->ours);
    if (e.code != 0)
        image_upstream_fail(j, NULL, &e);
}

// ---- time ------------------------------------------------------------------------------------------------

static void job_free(struct image_upstream_job *j)
{
    images_task_free(j->r.task);
    message_pixels_fini(&j->pixels);
    buf_fini(&j->r.data);
    buf_fini(&j->in);
    json_decref(j->files);
    free(j);
}

static void beat(struct image_upstream_job *j)
{
    struct buf out;

    buf_init(&out, BEAT_BYTES);
    buf_printf(&out, ": %s %s\n\n", j->drawing ? "drawn by" : "waiting for",
               j->server->options->name);
    image_upstream_tell(j, &out);
    buf_fini(&out);
}

static void job_run(struct image_upstream_job *j, int64_t now_ns)
{
    const struct image_upstream_kind *k = j->server->kind;
    struct err e = {0};

    if (j->r.left || reply_left(j->r.task->reply)) {
        image_upstream_leave(j);
        return;
    }
    if (j->r.task->ask.stream && now_ns - j->r.told_ns >= j->server->all->options->heartbeat_ns)
        beat(j);
    if (j->drawing) {
        if (k->on_tick)
            k->on_tick(j, now_ns);
    } else if (drawing_on(j->server->all, j->server) < k->at_once &&
               !image_upstream_is_ending(j->server)) {
        j->drawing = true;
        j->r.begun_ns = clock_now_ns();
        if (k->begin(j, &e) != 0)
            image_upstream_fail(j, NULL, &e);
    }
}

static double left_s(const struct image_upstream_job *j, int64_t now_ns)
{
    const struct image_upstream_server *s = j->server;
    const struct image_upstream_model *m = image_upstream_model_of(s, j->r.task->pick->theirs);
    struct image_request r = j->r.task->ask.request;
    double all;

    if (r.width == 0)
        r.width = r.height = IMAGE_UPSTREAM_SIDE;
    all = m ? images_speeds_step_s(&m->speeds, &r) * image_upstream_units(s, &r) : 0;
    all *= r.count - j->r.drawn;
    if (j->drawing)
        all -= ns_to_s(now_ns - j->sent_ns);
    return all > 0 ? all : 0;
}

static void counts_set(struct image_upstreams *u, int64_t now_ns)
{
    pthread_mutex_lock(&u->lock);
    for (size_t i = 0; i < u->n; i++) {
        struct image_upstream_server *s = &u->servers[i];

        s->waiting = waiting_on(u, s);
        s->drawing = drawing_on(u, s);
        s->left_s = 0;
        for (const struct image_upstream_job *j = u->jobs; j; j = j->next)
            s->left_s += !j->over && j->server == s ? left_s(j, now_ns) / s->kind->at_once : 0;
    }
    pthread_mutex_unlock(&u->lock);
}

void image_upstream_jobs_run(struct image_upstreams *u, int64_t now_ns)
{
    struct image_upstream_job **at = &u->jobs, *j;

    for (j = u->jobs; j; j = j->next)
        if (!j->over)
            job_run(j, now_ns);
    while ((j = *at)) {
        if (!j->over) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        job_free(j);
    }
    counts_set(u, now_ns);
}

void image_upstream_jobs_fail(struct image_upstreams *u, const struct err *e)
{
    for (struct image_upstream_job *j = u->jobs; j; j = j->next)
        if (!j->over)
            image_upstream_fail(j, NULL, e);
    image_upstream_jobs_run(u, clock_now_ns());
}
