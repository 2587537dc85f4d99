// What the worker says, as events.
#include "image/worker_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void image_event_fini(struct image_event *ev)
{
    image_picture_fini(&ev->picture);
}

struct image_event *worker_event(struct image_worker *w, enum image_event_kind kind, uint64_t id)
{
    static struct image_event lost; // never used: EVENTS_MAX has room for all that can come at once
    if (w->n_events == EVENTS_MAX)
        return &lost;
    struct image_event *ev = &w->events[(w->first_event + w->n_events++) % EVENTS_MAX];
    *ev = (struct image_event){.kind = kind, .id = id};
    return ev;
}

void worker_fail(struct image_worker *w, struct image_job *j, int code, const char *message)
{
    struct image_event *ev = worker_event(w, IMAGE_FAILED, j->id);
    err_set(&ev->error, code, "%s", message);
    json_decref(j->head);
    free(j->data);
    free(j);
}

static double seconds(const struct image_frame *f, const char *key)
{
    return json_number_value(json_object_get(f->head, key));
}

static void on_ready(struct image_worker *w, const struct image_frame *f)
{
    const json_t *features = json_object_get(f->head, "features"), *value = NULL;
    struct err e = {0};
    size_t i = 0;
    if (json_u32(f->head, "protocol") != IMAGE_PROTOCOL) {
        err_set(&w->dead, ERR_MISMATCH, "'%s' speaks version %u of the image protocol, this is %d",
                w->program, json_u32(f->head, "protocol"), IMAGE_PROTOCOL);
        kill(w->pid, SIGKILL);
        worker_ended(w);
        return;
    }
    json_copy_string(f->head, "library", w->library, sizeof w->library, &e);
    json_copy_string(f->head, "version", w->version, sizeof w->version, &e);
    w->can_cancel = w->can_preview = false;
    json_array_foreach(features, i, value)
    {
        const char *name = json_string_value(value);
        w->can_cancel |= name != NULL && strcmp(name, "cancel") == 0;
        w->can_preview |= name != NULL && strcmp(name, "preview") == 0;
    }
    w->ready = true;
    w->load_deaths = 0;
    worker_event(w, IMAGE_READY, 0)->load_s = seconds(f, "load_s");
    if (w->paused) {
        w->paused = false;
        image_worker_pause(w, true);
    }
}

static void on_failed(struct image_worker *w, const struct image_frame *f)
{
    int rc = err_from_name(json_string_or(f->head, "code", ""));
    const char *message = json_string_or(f->head, "message", "the image worker did not say why");
    if (json_object_get(f->head, "id") == NULL) {
        err_set(&w->told, rc, "%s", message);
        return;
    }
    if (w->drawing == NULL)
        return;
    if (w->drawing->cancelled)
        worker_fail(w, w->drawing, ERR_CANCELLED, "cancelled");
    else
        worker_fail(w, w->drawing, rc, message);
    w->drawing = NULL;
}

static void on_picture(struct image_worker *w, struct image_frame *f, enum image_event_kind kind)
{
    uint32_t width = json_u32(f->head, "width"), height = json_u32(f->head, "height");
    if (width < 1 || height < 1 || width > IMAGE_SIDE_MAX || height > IMAGE_SIDE_MAX ||
        f->len != (size_t)width * height * 3) {
        log_warn("image", "a picture of %ux%u came with %zu bytes and was dropped", width, height,
                 f->len);
        return;
    }
    // A library may tell of one step twice; nobody is told more than was asked for.
    if (kind == IMAGE_PREVIEW && w->drawing->previewed >= w->drawing->previews)
        return;
    w->drawing->previewed = kind == IMAGE_PREVIEW ? w->drawing->previewed + 1 : 0;
    struct image_event *ev = worker_event(w, kind, w->drawing->id);
    ev->index = json_u32(f->head, "index");
    ev->step = json_u32(f->head, "step");
    ev->seed = json_integer_value(json_object_get(f->head, "seed"));
    ev->picture = (struct image_picture){width, height, f->data};
    f->data = NULL;
}

static void on_progress(struct image_worker *w, const struct image_frame *f)
{
    struct image_event *ev = worker_event(w, IMAGE_PROGRESS, w->drawing->id);
    ev->index = json_u32(f->head, "index");
    ev->step = json_u32(f->head, "step");
    ev->steps = json_u32(f->head, "steps");
    ev->step_s = seconds(f, "step_s");
}

static void on_done(struct image_worker *w, const struct image_frame *f)
{
    // One that was cancelled too late is done all the same.
    worker_event(w, IMAGE_DONE, w->drawing->id)->draw_s = seconds(f, "draw_s");
    free(w->drawing);
    w->drawing = NULL;
}

void worker_frame(struct image_worker *w, struct image_frame *f)
{
    const char *op = image_frame_op(f);
    bool mine = w->drawing != NULL &&
                json_integer_value(json_object_get(f->head, "id")) == (json_int_t)w->drawing->id;
    if (strcmp(op, "ready") == 0)
        on_ready(w, f);
    else if (strcmp(op, "failed") == 0)
        on_failed(w, f);
    else if (!mine)
        log_debug("image", "a frame \"%.20s\" for no request of ours", op);
    else if (strcmp(op, "progress") == 0)
        on_progress(w, f);
    else if (strcmp(op, "preview") == 0)
        on_picture(w, f, IMAGE_PREVIEW);
    else if (strcmp(op, "picture") == 0)
        on_picture(w, f, IMAGE_PICTURE);
    else if (strcmp(op, "done") == 0)
        on_done(w, f);
}
