// One request for pictures that another server draws: what it is told, and its end.
#include "gateway/image_upstream_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_MAX_S 600
#define LEFT_ALONE_S 10 // after a failure
#define EVENT_BYTES 4096

static struct image_request *asked(struct image_upstream_job *j)
{
    return &j->r.task->ask.request;
}

// ---- ends ----------------------------------------------------------------------------------------------

// Nothing is heard of it any more; image_upstream_jobs_run frees it.
static void end(struct image_upstream_job *j, uint64_t *counter)
{
    struct image_upstream_server *s = j->server;

    if (s->kind->leave)
        s->kind->leave(j);
    if (j->transfer)
        net_http_pool_cancel(s->all->pool, j->transfer);
    j->transfer = NULL;
    j->over = true;
    pthread_mutex_lock(&s->all->lock);
    *counter += 1;
    pthread_mutex_unlock(&s->all->lock);
}

void image_upstream_leave(struct image_upstream_job *j)
{
    log_debug("images", "a client left: server=%s", j->server->options->name);
    reply_abort(j->r.task->reply);
    end(j, &j->server->cancelled);
}

// A stream begins with the first thing that is told, so that a failure before it still has a status of its own.
void image_upstream_tell(struct image_upstream_job *j, const struct buf *out)
{
    if (!j->streaming)
        reply_begin(j->r.task->reply);
    j->streaming = true;
    j->r.told_ns = clock_now_ns();
    if (reply_write(j->r.task->reply, out->data, out->len) != 0)
        j->r.left = true;
}

static void fail_tell(struct image_upstream_job *j, const struct err *e, unsigned status,
                      unsigned retry_s)
{
    struct buf out;

    if (!j->streaming) {
        images_refuse(j->r.task->reply, e, status, NULL, retry_s);
        return;
    }
    buf_init(&out, EVENT_BYTES);
    images_error_put(&out, e, status);
    image_upstream_tell(j, &out);
    buf_fini(&out);
    reply_end(j->r.task->reply);
}

static bool is_wrong(long status) // the request, and not the server
{
    return status == 400 || status == 413 || status == 422;
}

static unsigned status_of(long status, int code)
{
    if (is_wrong(status))
        return status == 413 ? 413 : 400;
    if (status == 429 || status == 503)
        return (unsigned)status;
    return code == ERR_TIMEOUT ? 504 : code == ERR_BUSY || code == ERR_CANCELLED ? 503 : 502;
}

static void leave_alone(struct image_upstream_server *s, uint32_t seconds)
{
    int64_t now_ns = clock_now_ns();

    seconds = seconds < LEFT_ALONE_S ? LEFT_ALONE_S : seconds > RETRY_MAX_S ? RETRY_MAX_S : seconds;
    pthread_mutex_lock(&s->all->lock);
    s->busy_until_ns = now_ns + (int64_t)seconds * NS_PER_S;
    pthread_mutex_unlock(&s->all->lock);
    s->checks.due_ns = now_ns;
}

// ---- somebody else ---------------------------------------------------------------------------------------

// Could it draw what this job asks? A new pick, NULL: no.
static struct image_upstream_pick *pick_of(struct image_upstream_job *j,
                                           const struct image_upstream_server *s)
{
    const struct images_task *t = j->r.task;
    const struct image_upstream_model *m = image_upstream_model_of(s, t->pick->ours);
    struct image_upstream_pick *p;
    struct parse_fault fault = {0};

    if (!m || s->state != IMAGE_UPSTREAM_UP || j->tried >> s->index & 1 ||
        s->busy_until_ns > clock_now_ns() || (t->ask.edit && !image_upstream_edits(s)))
        return NULL;
    p = image_upstream_pick_new(s, m);
    if (image_upstream_ask_check(p, &t->ask, &fault) == 0)
        return p;
    free(p);
    return NULL;
}

static void move(struct image_upstream_job *j, struct image_upstream_pick *p)
{
    log_warn("images", "image %s failed a request, which %s gets", j->server->options->name,
             p->node);
    free(j->r.task->pick);
    j->r.task->pick = p;
    j->server = &j->server->all->servers[p->server];
    j->drawing = j->single = false;
}

// This machine draws it. The job has no task then.
static bool give_home(struct image_upstream_job *j)
{
    struct images_task *t = j->r.task;
    struct image_upstream_pick *p = t->pick;

    if (!p->local)
        return false;
    t->pick = NULL;
    t->begun = j->streaming;
    t->ask.request.seed = j->seed;
    if (images_send(j->server->all->local, t) != 0) {
        t->pick = p;
        return false;
    }
    log_warn("images", "image server %s failed a request, which is drawn here", p->node);
    free(p);
    j->r.task = NULL;
    j->over = true;
    return true;
}

// True: another server has it, or this machine.
static bool again(struct image_upstream_job *j)
{
    struct image_upstreams *u = j->server->all;
    struct image_upstream_pick *p = NULL;

    // A picture that was told cannot be taken back. Steps of one, and unfinished ones, are told anew.
    if ((j->streaming && j->r.drawn > 0) || j->r.task->pick->fixed || u->stopping)
        return false;
    j->tried |= 1ull << j->server->index;
    if (j->server->kind->leave)
        j->server->kind->leave(j);
    for (size_t i = 0; !p && i < u->n; i++)
        p = pick_of(j, &u->servers[i]);
    buf_clear(&j->r.data);
    j->r.drawn = j->r.previews = j->r.index = j->r.step = 0;
    if (p)
        move(j, p);
    return p || give_home(j);
}

void image_upstream_fail(struct image_upstream_job *j, const struct net_http_reply *reply,
                         const struct err *e)
{
    struct image_upstream_server *s = j->server;
    long status = reply && reply->status != 200 ? reply->status : 0;
    unsigned retry_s = reply && reply->status != 200 ? reply->retry_after_s : 0, told;
    struct err full = *e;

    if (!j->ours && !s->all->stopping)
        err_wrap(&full, "image %s %.60s", s->node ? "node" : "server", s->options->name);
    if (!j->ours && !is_wrong(status)) {
        leave_alone(s, retry_s);
        if (again(j)) {
            pthread_mutex_lock(&s->all->lock);
            s->failed++;
            pthread_mutex_unlock(&s->all->lock);
            return;
        }
    }
    told = j->ours ? answer_status(e->code) : s->all->stopping ? 503 : status_of(status, e->code);
    if (told == 429 || told == 503)
        retry_s = retry_s > 0 ? retry_s : LEFT_ALONE_S;
    fail_tell(j, &full, told, retry_s);
    end(j, &s->failed);
}

// ---- one request to the server ---------------------------------------------------------------------------

struct image_upstream_order image_upstream_order(const struct image_upstream_job *j)
{
    const struct images_ask *a = &j->r.task->ask;

    return (struct image_upstream_order){
        .request = &a->request,
        .body = a->body,
        .model = j->r.task->pick->theirs,
        .count = j->asked,
        .seed = j->seed >= 0 ? j->seed + j->r.drawn : IMAGE_SEED_NONE,
        .image = &a->image,
        .mask = &a->mask,
    };
}

static int on_data(void *ctx, const struct net_http_reply *r, const void *data, size_t n,
                   struct err *e)
{
    struct image_upstream_job *j = ctx;
    size_t max = r->status == 200 ? j->max : UPSTREAM_ERROR_MAX, room = max - j->in.len;

    if (n <= room)
        return buf_put(&j->in, data, n);
    if (r->status != 200)
        return buf_put(&j->in, data, room);
    return err_set(e, ERR_RANGE, "its answer is longer than %zu bytes", max);
}

// One that takes no several pictures is asked for one at a time.
static bool single_next(struct image_upstream_job *j, long status, struct err *e)
{
    if (!is_wrong(status) || j->asked < 2 || !j->server->kind->by_picture)
        return false;
    j->single = true;
    if (j->server->kind->begin(j, e) != 0)
        image_upstream_fail(j, NULL, e);
    return true;
}

static void on_end(void *ctx, const struct net_http_reply *r, int rc, const struct err *why)
{
    struct image_upstream_job *j = ctx;
    char reason[UPSTREAM_REASON_BYTES];
    struct err e = *why;

    j->transfer = NULL;
    if (rc != 0) {
        upstream_trouble_words(rc, &e);
        image_upstream_fail(j, NULL, &e);
    } else if (r->status != 200) {
        if (single_next(j, r->status, &e))
            return;
        upstream_reason(j->in.data, j->in.len, j->server->key, reason);
        upstream_status_words(r, reason, &e);
        image_upstream_fail(j, r, &e);
    } else {
        rc = j->server->kind->on_answer(j, &e);
        if (rc != 0)
            image_upstream_fail(j, r, &e);
    }
}

static const struct net_http_ops ops = {on_data, on_end};

int image_upstream_call(struct image_upstream_job *j, const struct image_upstream_call *c,
                        struct err *e)
{
    const struct gateway_upstream *o = j->server->options;
    char *url = mem_format("%s%s", o->url, c->path);
    const struct net_http_request q = {.url = url,
                                       .token = j->server->key,
                                       .ca_file = o->ca_file,
                                       .body = c->body,
                                       .body_bytes = c->len,
                                       .type = c->type,
                                       .connect_s = UPSTREAM_CONNECT_S,
                                       .stall_s = o->stall_s,
                                       .total_s = c->total_s,
                                       .ops = &ops,
                                       .ctx = j};
    int rc;

    buf_clear(&j->in);
    j->max = c->max;
    rc = net_http_pool_start(j->server->all->pool, &q, &j->transfer, e);
    free(url);
    return rc;
}

void image_upstream_round(struct image_upstream_job *j)
{
    uint32_t left = asked(j)->count - j->r.drawn, most = j->single ? 1 : j->server->kind->pictures;

    j->asked = left < most ? left : most;
    j->got = 0;
    j->sent_ns = clock_now_ns();
}

// ---- pictures --------------------------------------------------------------------------------------------

// What is told is the size that it has, whatever was asked.
static int picture_tell(struct image_upstream_job *j, const struct image_event *ev, struct err *e)
{
    const bool whole = ev->kind == IMAGE_PICTURE;
    struct image_request *q = asked(j);
    const uint32_t width = q->width, height = q->height;
    const struct image_upstream_pick *pick = j->r.task->pick;
    json_t *texts;
    struct buf out;
    int rc;

    buf_init(&out, REPLY_BODY_MAX);
    if (whole) {
        j->width = q->width = ev->picture.width;
        j->height = q->height = ev->picture.height;
    }
    // A node's file is the one that this machine would write.
    texts = !whole           ? NULL
            : pick->of_fleet ? image_texts(q, pick->file, NULL, ev->seed)
                             : image_texts(q, pick->ours, pick->node, ev->seed);
    rc = images_picture_put(&j->r, ev, texts, &out, e);
    q->width = width;
    q->height = height;
    j->ours = rc != 0;
    if (rc == 0 && out.len > 0)
        image_upstream_tell(j, &out);
    buf_fini(&out);
    json_decref(texts);
    return rc;
}

int image_upstream_picture_put(struct image_upstream_job *j, const struct image_event *ev,
                               struct err *e)
{
    struct image_upstream_server *s = j->server;
    int rc = picture_tell(j, ev, e);

    if (rc != 0 || ev->kind != IMAGE_PICTURE)
        return rc;
    j->got++;
    j->r.drawn++;
    j->r.previews = 0; // the next one's count anew
    pthread_mutex_lock(&s->all->lock);
    s->pictures++;
    pthread_mutex_unlock(&s->all->lock);
    return 0;
}

int image_upstream_picture(struct image_upstream_job *j, const uint8_t *data, size_t n,
                           struct err *e)
{
    struct image_event ev = {.kind = IMAGE_PICTURE,
                             .index = j->r.drawn,
                             .seed = j->seed >= 0 ? j->seed + j->r.drawn : IMAGE_SEED_NONE};
    struct err why = {0};
    int rc = image_decode(data, n, &ev.picture, &why);

    if (rc != 0)
        return err_set(e, ERR_CORRUPT, "sends what is no picture (%.300s)", why.message);
    rc = image_upstream_picture_put(j, &ev, e);
    image_event_fini(&ev);
    return rc;
}

void image_upstream_done(struct image_upstream_job *j)
{
    asked(j)->width = j->width;
    asked(j)->height = j->height;
    end(j, &j->server->done);
    if (j->streaming)
        reply_end(j->r.task->reply);
    else
        reply_finish(j->r.task->reply, 200, images_answer(&j->r, j->draw_s), 0);
}

int image_upstream_next(struct image_upstream_job *j, struct err *e)
{
    struct image_upstream_server *s = j->server;
    struct image_upstream_model *m = image_upstream_model_of(s, j->r.task->pick->theirs);
    struct image_request r = *asked(j);
    double s_all = ns_to_s(clock_now_ns() - j->sent_ns);

    r.width = j->width;
    r.height = j->height;
    j->draw_s += s_all;
    pthread_mutex_lock(&s->all->lock);
    if (m && j->got > 0)
        images_speeds_learn(&m->speeds, &r, s_all / j->got / image_upstream_units(s, &r));
    pthread_mutex_unlock(&s->all->lock);
    if (j->r.drawn < r.count)
        return s->kind->begin(j, e);
    image_upstream_done(j);
    return 0;
}
