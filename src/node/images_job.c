// One request for pictures, from a gateway's DRAW to DRAWN or FAILED.
#include "node/images_impl.h"

#include "base/buf.h"
#include "base/log.h"

#include <stdlib.h>

// ---- ends ------------------------------------------------------------------------------------------

static void job_free(struct node_images *n, struct node_images_job *j)
{
    struct node_images_job **at = &n->jobs;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    n->n_jobs--;
    n->bytes -= j->pixels.want;
    message_draw_fini(&j->draw);
    message_pixels_fini(&j->pixels);
    free(j);
}

static void failed_send(struct node_images_link *l, uint64_t id, const struct err *e)
{
    node_images_send(l, wire_frame_failed(WIRE_FAILED, id, e->code, e->message));
}

static void job_fail(struct node_images *n, struct node_images_job *j, const struct err *e)
{
    if (j->link != NULL)
        failed_send(j->link, j->id, e);
    job_free(n, j);
}

// What it says cannot be trusted any more; its end comes as a word of its own.
static void link_refuse(struct node_images_link *l, const struct err *e)
{
    log_warn("images", "a gateway is cut off: peer=%s why=\"%s\"", wire_link_peer(l->wire),
             e->message);
    wire_link_close(l->wire);
}

// Without pixels that are still to come it has no place in the worker, and goes at once.
static void job_cancel(struct node_images *n, struct node_images_job *j)
{
    static const struct err cancelled = {ERR_CANCELLED, "cancelled"};
    if (j->drawing == 0)
        job_fail(n, j, &cancelled);
    else
        image_worker_cancel(n->worker, j->drawing);
}

void node_images_link_lost(struct node_images *n, const struct node_images_link *l)
{
    struct node_images_job *next = NULL;
    for (struct node_images_job *j = n->jobs; j != NULL; j = next) {
        next = j->next;
        if (j->link != l)
            continue;
        j->link = NULL;
        job_cancel(n, j);
    }
}

// ---- coming in -------------------------------------------------------------------------------------

static struct node_images_job *job_of(const struct node_images *n, const struct node_images_link *l,
                                      uint64_t id)
{
    struct node_images_job *j = n->jobs;
    while (j != NULL && (j->link != l || j->id != id))
        j = j->next;
    return j;
}

static void submit(struct node_images *n, struct node_images_job *j)
{
    struct image_request *q = &j->draw.request;
    struct image_picture initial = {q->width, q->height, j->pixels.data}, mask = initial;
    struct err e = {0};
    if (j->draw.initial)
        q->initial = &initial;
    if (j->draw.mask) {
        mask.rgb += (size_t)q->width * q->height * 3;
        q->mask = &mask;
    }
    int rc = image_worker_submit(n->worker, q, &j->drawing, &e);
    q->initial = q->mask = NULL;
    n->bytes -= j->pixels.want;
    message_pixels_fini(&j->pixels);
    if (rc != 0)
        job_fail(n, j, &e);
}

static int room_check(const struct node_images *n, size_t bytes, struct err *e)
{
    if (atomic_load_explicit(&n->draining, memory_order_relaxed))
        return err_set(e, ERR_BUSY, "this node is stopping");
    if (n->n_jobs > n->options.queue)
        return err_set(e, ERR_BUSY,
                       "%u requests for pictures are waiting already (--image-queue %u)",
                       n->n_jobs - 1, n->options.queue);
    if (n->bytes + bytes > NODE_IMAGES_BYTES)
        return err_set(e, ERR_BUSY, "pictures to be edited take %zu MB already", n->bytes >> 20);
    return 0;
}

static void on_draw(struct node_images *n, struct node_images_link *l, const struct wire_frame *f)
{
    struct node_images_job *j = mem_alloc(sizeof *j);
    struct err e = {0};
    json_t *head = wire_frame_parse(f, &e);
    int rc = head != NULL ? message_draw_parse(head, &j->draw, &e) : e.code;
    json_decref(head);
    size_t bytes = rc == 0 ? message_draw_bytes(&j->draw) : 0;
    if (rc == 0)
        rc = room_check(n, bytes, &e);
    if (rc != 0) {
        failed_send(l, f->id, &e);
        message_draw_fini(&j->draw);
        free(j);
        return;
    }
    j->link = l;
    j->id = f->id;
    j->next = n->jobs;
    n->jobs = j;
    n->n_jobs++;
    if (bytes == 0) {
        submit(n, j);
        return;
    }
    message_pixels_begin(&j->pixels, bytes);
    n->bytes += bytes;
}

static void on_pixels(struct node_images *n, struct node_images_link *l, const struct wire_frame *f)
{
    struct node_images_job *j = job_of(n, l, f->id);
    struct err e = {0};
    if (j == NULL)
        return; // of one that was refused or cancelled
    int rc = message_pixels_take(&j->pixels, f, &e);
    if (rc > 0)
        submit(n, j);
    else if (rc < 0)
        link_refuse(l, &e);
}

void node_images_status_send(struct node_images *n, struct node_images_link *l, uint64_t id)
{
    bool draining = atomic_load_explicit(&n->draining, memory_order_relaxed);
    json_t *o = json_pack("{s:i,s:i,s:b,s:b,s:I,s:f}", "requests", (int)n->n_jobs, "transfers", 0,
                          "draining", (int)draining, "paused", (int)n->yield.paused, "pauses",
                          (json_int_t)n->yield.pauses, "paused_s", n->yield.paused_s);
    node_images_send(l, wire_frame_json(WIRE_STATUS_IS, id, o));
}

void node_images_frame(struct node_images *n, struct node_images_link *l, struct wire_frame *f)
{
    struct node_images_job *j = NULL;
    struct err e = {0};
    switch (f->type) {
    case WIRE_DRAW:
        if (job_of(n, l, f->id) == NULL) {
            on_draw(n, l, f);
            break;
        }
        err_set(&e, ERR_CORRUPT, "two requests have the number %llu", (unsigned long long)f->id);
        link_refuse(l, &e);
        break;
    case WIRE_PIXELS:
        on_pixels(n, l, f);
        break;
    case WIRE_CANCEL:
        if ((j = job_of(n, l, f->id)) != NULL)
            job_cancel(n, j);
        break;
    case WIRE_STATUS:
        node_images_status_send(n, l, f->id);
        break;
    case WIRE_FORGET: // nothing is kept of a request
        node_images_send(
            l, wire_frame_json(WIRE_FORGOTTEN, f->id, json_pack("{s:i}", "sequences", 0)));
        break;
    default:
        err_set(&e, ERR_INVALID, "unexpected frame: %s", wire_type_name(f->type));
        link_refuse(l, &e);
    }
}

void node_images_beat(struct node_images *n)
{
    for (struct node_images_job *j = n->jobs; j != NULL; j = j->next) {
        const struct message_drawing waits = {.steps = j->draw.request.steps};
        if (j->link != NULL)
            node_images_send(j->link,
                             wire_frame_json(WIRE_DRAWING, j->id, message_drawing_json(&waits)));
    }
}

// ---- what the worker tells -------------------------------------------------------------------------

static void picture_send(struct node_images_job *j, const struct image_event *ev)
{
    const struct image_picture *p = &ev->picture;
    const struct message_picture m = {.index = ev->index,
                                      .step = ev->step,
                                      .width = p->width,
                                      .height = p->height,
                                      .seed = ev->seed,
                                      .preview = ev->kind == IMAGE_PREVIEW};
    size_t n = (size_t)p->width * p->height * 3, at = 0;
    node_images_send(j->link, wire_frame_json(WIRE_PICTURE, j->id, message_picture_json(&m)));
    while (at < n)
        node_images_send(j->link, message_pixels_frame(j->id, p->rgb, n, &at));
}

static void job_event(struct node_images *n, struct node_images_job *j, struct image_event *ev)
{
    const struct message_drawing step = {ev->index, ev->step, ev->steps, ev->step_s};
    if (ev->kind == IMAGE_FAILED) {
        job_fail(n, j, &ev->error);
        return;
    }
    if (j->link != NULL && ev->kind == IMAGE_PROGRESS)
        node_images_send(j->link,
                         wire_frame_json(WIRE_DRAWING, j->id, message_drawing_json(&step)));
    else if (j->link != NULL && ev->kind != IMAGE_DONE)
        picture_send(j, ev);
    if (ev->kind != IMAGE_DONE)
        return;
    if (j->link != NULL)
        node_images_send(j->link,
                         wire_frame_json(WIRE_DRAWN, j->id, message_drawn_json(ev->draw_s)));
    job_free(n, j);
}

void node_images_told(struct node_images *n, struct image_event *ev)
{
    struct node_images_job *j = n->jobs;
    if (ev->kind == IMAGE_PROGRESS)
        image_yield_stepped(&n->yield);
    while (j != NULL && (j->drawing == 0 || j->drawing != ev->id))
        j = j->next;
    if (j != NULL)
        job_event(n, j, ev);
}
