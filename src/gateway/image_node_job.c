// One request for pictures that a node of the fleet draws: DRAW and its pixels go out, steps and pictures come back.
// A node that tells what nobody asked for, or pictures of another size, is not believed any more.
#include "gateway/image_upstream_impl.h"

#include "base/clock.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define EVENT_BYTES 4096
// A node says each minute that it has a request, and gives up a worker that falls silent; this is for one that does
// not.
#define SILENCE_NS (600 * NS_PER_S)

static struct image_request *asked(struct image_upstream_job *j)
{
    return &j->r.task->ask.request;
}

// ---- going out -------------------------------------------------------------------------------------------

// Never waits. The link is there for as long as the lock is held.
static int frame_send(struct image_upstream_server *s, struct wire_frame f, struct err *e)
{
    struct image_node *n = s->node;
    int rc = ERR_CLOSED;

    pthread_mutex_lock(&s->all->lock);
    if (n->wire && n->said.link == n->now.link)
        rc = wire_link_send(n->wire, f, 0);
    else
        wire_frame_fini(&f);
    // One that lets so much pile up does not read.
    if (rc == ERR_TIMEOUT)
        wire_link_close(n->wire);
    pthread_mutex_unlock(&s->all->lock);
    return rc == 0 ? 0
                   : err_set(e, ERR_BUSY, "went away before this was begun; ask again in a moment");
}

static int pixels_send(struct image_upstream_job *j, const struct image_picture *p, struct err *e)
{
    size_t n = (size_t)p->width * p->height * 3, at = 0;
    int rc = 0;

    while (rc == 0 && p->rgb && at < n)
        rc = frame_send(j->server, message_pixels_frame(j->drawing_id, p->rgb, n, &at), e);
    return rc;
}

// Those that came with the request; they were read once already, when it came in.
static int parts_read(const struct images_ask *a, struct image_picture *image,
                      struct image_picture *mask, struct err *e)
{
    int rc = a->image.data ? image_decode(a->image.data, a->image.len, image, e) : 0;

    return rc == 0 && a->mask.data ? image_decode_mask(a->mask.data, a->mask.len, mask, e) : rc;
}

static int begin(struct image_upstream_job *j, struct err *e)
{
    struct image_node *n = j->server->node;
    struct image_picture image = {0}, mask = {0};
    struct image_request r = *asked(j);
    int rc = parts_read(&j->r.task->ask, &image, &mask, e);

    image_upstream_round(j);
    j->deadline_ns = j->sent_ns + SILENCE_NS;
    r.seed = j->seed;
    r.initial = image.rgb ? &image : NULL;
    r.mask = mask.rgb ? &mask : NULL;
    // What another server left open is this model's to say.
    if (rc == 0)
        rc = image_request_check(&r, &n->now.canvas.like, e);
    j->link = n->now.link;
    j->drawing_id = rc == 0 ? ++n->last_id : 0;
    if (rc == 0)
        rc = frame_send(j->server, wire_frame_json(WIRE_DRAW, j->drawing_id, message_draw_json(&r)),
                        e);
    if (rc == 0)
        rc = pixels_send(j, &image, e);
    if (rc == 0)
        rc = pixels_send(j, &mask, e);
    r.initial = r.mask = NULL;
    *asked(j) = r;
    image_picture_fini(&image);
    image_picture_fini(&mask);
    return rc;
}

static void silence_refuse(struct image_upstream_server *s)
{
    struct err e = {0};

    err_set(&e, ERR_TIMEOUT, "it said nothing of a picture for %.0f s", ns_to_s(SILENCE_NS));
    image_node_refuse(s, &e);
}

static void on_tick(struct image_upstream_job *j, int64_t now_ns)
{
    if (now_ns >= j->deadline_ns)
        silence_refuse(j->server);
}

void image_node_tick(struct image_upstream_server *s)
{
    if (s->node->ending_id == 0 || clock_now_ns() < s->node->ending_ns)
        return;
    s->node->ending_id = 0;
    silence_refuse(s);
}

// It draws nothing more for it, and says so within a step.
static void leave(struct image_upstream_job *j)
{
    struct image_node *n = j->server->node;
    struct err e = {0};

    if (j->drawing_id != 0 && j->link == n->now.link &&
        frame_send(j->server, wire_frame_json(WIRE_CANCEL, j->drawing_id, NULL), &e) == 0) {
        n->ending_id = j->drawing_id;
        n->ending_ns = clock_now_ns() + SILENCE_NS;
    }
    j->drawing_id = 0;
    message_pixels_fini(&j->pixels);
}

// ---- coming back -------------------------------------------------------------------------------------------

static struct image_upstream_job *job_of(const struct image_upstream_server *s, uint64_t id)
{
    struct image_upstream_job *j = s->all->jobs;

    while (j && (j->over || j->server != s || j->drawing_id != id || id == 0))
        j = j->next;
    return j;
}

static double left_s(struct image_upstream_job *j, double step_s)
{
    const struct image_request *q = asked(j);
    uint32_t all = q->steps * q->count, done = j->r.index * q->steps + j->r.step;

    return all > done ? step_s * (all - done) : 0;
}

static void learn(struct image_upstream_job *j, double step_s)
{
    struct image_upstream_server *s = j->server;
    struct image_upstream_model *m = image_upstream_model_of(s, j->r.task->pick->theirs);

    pthread_mutex_lock(&s->all->lock);
    if (m)
        images_speeds_learn(&m->speeds, asked(j), step_s);
    pthread_mutex_unlock(&s->all->lock);
}

static int on_step(struct image_upstream_job *j, const json_t *head, struct err *e)
{
    const struct images_ask *a = &j->r.task->ask;
    struct message_drawing m;
    struct image_event ev = {.kind = IMAGE_PROGRESS};
    struct buf out;
    int rc = message_drawing_parse(head, &m, e);

    if (rc == 0 && (m.index >= a->request.count || m.step > m.steps || m.steps < 1))
        rc = err_set(e, ERR_CORRUPT, "it told of step %u of %u of picture %u of %u", m.step,
                     m.steps, m.index + 1, a->request.count);
    if (rc != 0 || m.step == 0) // it is still there, and that is all
        return rc;
    j->r.index = ev.index = m.index;
    j->r.step = ev.step = m.step;
    ev.steps = m.steps;
    ev.step_s = m.step_s;
    learn(j, m.step_s);
    if (!a->stream || !a->progress)
        return 0;
    buf_init(&out, EVENT_BYTES);
    images_progress_put(&out, a, &ev, left_s(j, m.step_s));
    image_upstream_tell(j, &out);
    buf_fini(&out);
    return 0;
}

static int on_picture(struct image_upstream_job *j, const json_t *head, struct err *e)
{
    const struct image_request *q = asked(j);
    struct message_picture *m = &j->picture;
    int rc = message_picture_parse(head, m, e);

    if (rc == 0 && j->pixels.data)
        rc = err_set(e, ERR_CORRUPT, "a picture came before the last one was whole");
    if (rc == 0 && m->preview && (m->width > q->width || m->height > q->height))
        rc = err_set(e, ERR_CORRUPT, "an unfinished picture of %ux%u came, for one of %ux%u",
                     m->width, m->height, q->width, q->height);
    if (rc == 0 && m->preview && j->r.previews >= q->previews)
        rc = err_set(e, ERR_CORRUPT, "an unfinished picture came, and %u were asked for",
                     q->previews);
    if (rc == 0 && !m->preview && (m->width != q->width || m->height != q->height))
        rc = err_set(e, ERR_CORRUPT, "a picture of %ux%u came where one of %ux%u was asked for",
                     m->width, m->height, q->width, q->height);
    if (rc == 0 && (m->index != j->r.drawn || m->index >= q->count ||
                    (!m->preview && m->seed != j->seed + m->index)))
        rc = err_set(e, ERR_CORRUPT, "picture %u of seed %lld came where %u of %u was to come",
                     m->index + 1, (long long)m->seed, j->r.drawn + 1, q->count);
    if (rc == 0)
        message_pixels_begin(&j->pixels, (size_t)m->width * m->height * 3);
    return rc;
}

static int on_pixels(struct image_upstream_job *j, const struct wire_frame *f, struct err *e)
{
    const struct message_picture *m = &j->picture;
    struct image_event ev = {.kind = m->preview ? IMAGE_PREVIEW : IMAGE_PICTURE,
                             .index = m->index,
                             .step = m->step,
                             .seed = m->seed};
    struct err own = {0};
    int rc = message_pixels_take(&j->pixels, f, e);

    if (rc <= 0)
        return rc;
    ev.picture = (struct image_picture){m->width, m->height, j->pixels.data};
    j->pixels = (struct message_pixels){0};
    rc = image_upstream_picture_put(j, &ev, &own);
    image_event_fini(&ev);
    if (rc != 0)
        image_upstream_fail(j, NULL, &own);
    return 0;
}

static int on_drawn(struct image_upstream_job *j, const json_t *head, struct err *e)
{
    const uint32_t count = asked(j)->count;
    int rc = message_drawn_parse(head, &j->draw_s, e);

    if (rc == 0 && j->r.drawn != count)
        rc = err_set(e, ERR_CORRUPT, "it is done, and told %u of %u pictures", j->r.drawn, count);
    if (rc != 0)
        return rc;
    j->drawing_id = 0;
    image_upstream_done(j);
    return 0;
}

// Busy: somebody else may have room. What else it says is about the request, or what became of it.
static int on_failed(struct image_upstream_job *j, const json_t *head, struct err *e)
{
    const char *code = NULL, *message = NULL;
    struct err told = {0};
    int rc = json_get_string(head, "code", &code, e);

    if (rc == 0)
        rc = json_get_string(head, "message", &message, e);
    if (rc != 0)
        return rc;
    j->drawing_id = 0;
    // A model that could not be loaded is no fault of the request's, whatever the error is called.
    if (j->server->node->state.word == MESSAGE_CANVAS_FAILED)
        code = err_name(ERR_BUSY);
    err_set(&told, code ? err_from_name(code) : ERR_ENGINE, "%.400s",
            message ? message : "it did not say why");
    if (told.code != ERR_BUSY) {
        err_wrap(&told, "image node %.60s", j->server->options->name);
        j->ours = true;
    }
    image_upstream_fail(j, NULL, &told);
    return 0;
}

static int take(struct image_upstream_job *j, const struct wire_frame *f, struct err *e)
{
    json_t *head = wire_frame_parse(f, e);
    int rc = head ? 0 : e->code;

    j->deadline_ns = clock_now_ns() + SILENCE_NS;
    if (rc == 0)
        rc = f->type == WIRE_DRAWING   ? on_step(j, head, e)
             : f->type == WIRE_PICTURE ? on_picture(j, head, e)
             : f->type == WIRE_PIXELS  ? on_pixels(j, f, e)
             : f->type == WIRE_DRAWN   ? on_drawn(j, head, e)
             : f->type == WIRE_FAILED
                 ? on_failed(j, head, e)
                 : err_set(e, ERR_CORRUPT, "unexpected frame: %s", wire_type_name(f->type));
    json_decref(head);
    return rc;
}

// What was given up is still told of for a moment.
static void late_take(struct image_node *n, const struct wire_frame *f)
{
    if (f->id != n->ending_id)
        return;
    n->ending_ns = clock_now_ns() + SILENCE_NS;
    if (f->type == WIRE_DRAWN || f->type == WIRE_FAILED)
        n->ending_id = 0;
}

void image_node_take(struct image_upstream_server *s, const struct wire_frame *f)
{
    struct image_upstream_job *j = job_of(s, f->id);
    struct err e = {0};

    if (!j && f->id > 0 && f->id <= s->node->last_id) {
        late_take(s->node, f);
        return;
    }
    if (!j)
        err_set(&e, ERR_CORRUPT, "a %s came for request %llu, which nobody made",
                wire_type_name(f->type), (unsigned long long)f->id);
    if (!j || take(j, f, &e) != 0)
        image_node_refuse(s, &e);
}

const struct image_upstream_kind image_upstream_node = {
    .name = "node",
    .at_once = 1,
    .pictures = IMAGE_COUNT_MAX,
    .takes = IMAGE_TAKES_NEGATIVE | IMAGE_TAKES_STEPS | IMAGE_TAKES_CFG | IMAGE_TAKES_SIZE |
             IMAGE_TAKES_SEED | IMAGE_TAKES_SAMPLER | IMAGE_TAKES_LORAS,
    .edits = true,
    .begin = begin,
    .on_tick = on_tick,
    .leave = leave,
};
