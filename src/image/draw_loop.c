// The worker's loop: takes requests from the socket, draws, tells what happens.
#include "image/draw.h"
#include "image/frame.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/json.h"
#include "base/log.h"
#include "os/os.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXIT_PERMANENT 2
#define READ_BYTES (256u << 10)

struct loop {
    const struct draw_engine *engine;
    void *state;
    pthread_mutex_t lock; // of what follows, and of the socket's writing side
    pthread_cond_t changed;
    struct image_frame next; // a request to draw; head NULL: none
    int64_t id, cancelled;   // drawn now, and the last that was cancelled
    bool paused;
    uint32_t index; // of the picture; the drawing thread's
};

// ---- telling -------------------------------------------------------------------------------------

static void tell(struct loop *l, json_t *head, const void *data, size_t len)
{
    struct buf b;
    struct err e = {0};
    image_buf_init(&b);
    if (image_frame_put(&b, head, data, len, &e) != 0)
        log_error("image", "%s", e.message);
    pthread_mutex_lock(&l->lock);
    for (size_t at = 0; at < b.len;) {
        ssize_t n = send(IMAGE_FD, b.data + at, b.len - at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            _exit(0); // who started this is gone
        at += (size_t)n;
    }
    pthread_mutex_unlock(&l->lock);
    buf_fini(&b);
}

static json_t *head_new(const struct loop *l, const char *op)
{
    json_t *v = json_object();
    json_put(v, "op", json_string(op));
    if (l->id != 0)
        json_put(v, "id", json_integer(l->id));
    return v;
}

static void tell_failed(struct loop *l, const struct err *e)
{
    json_t *v = head_new(l, "failed");
    json_put(v, "code", json_string(err_name(e->code)));
    json_put(v, "message", json_string(e->message));
    tell(l, v, NULL, 0);
}

static void tell_picture(struct loop *l, json_t *v, const struct image_picture *p)
{
    json_put(v, "index", json_integer(l->index));
    json_put(v, "width", json_integer(p->width));
    json_put(v, "height", json_integer(p->height));
    tell(l, v, p->rgb, (size_t)p->width * p->height * 3);
}

// ---- while it draws ------------------------------------------------------------------------------

static bool may_go(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    while (l->paused && l->cancelled != l->id)
        cond_wait_until(&l->changed, &l->lock, INT64_MAX);
    bool go = l->cancelled != l->id;
    pthread_mutex_unlock(&l->lock);
    return go;
}

static bool on_step(void *ctx, uint32_t step, uint32_t steps, double seconds)
{
    struct loop *l = ctx;
    json_t *v = head_new(l, "progress");
    json_put(v, "index", json_integer(l->index));
    json_put(v, "step", json_integer(step));
    json_put(v, "steps", json_integer(steps));
    json_put(v, "step_s", json_real(seconds));
    tell(l, v, NULL, 0);
    return may_go(l);
}

static void on_preview(void *ctx, uint32_t step, const struct image_picture *p)
{
    struct loop *l = ctx;
    json_t *v = head_new(l, "preview");
    json_put(v, "step", json_integer(step));
    tell_picture(l, v, p);
}

static int64_t integer(const json_t *v, const char *key)
{
    return json_integer_value(json_object_get(v, key));
}

static int picture_draw(struct loop *l, const struct image_frame *f, struct draw_task *t,
                        struct err *e)
{
    struct image_picture p = {0};
    t->seed = integer(f->head, "seed") + l->index;
    int rc =
        may_go(l) ? l->engine->draw(l->state, t, &p, e) : err_set(e, ERR_CANCELLED, "cancelled");
    if (rc == 0) {
        json_t *v = head_new(l, "picture");
        json_put(v, "seed", json_integer(t->seed));
        tell_picture(l, v, &p);
    }
    image_picture_fini(&p);
    return rc;
}

static void request_draw(struct loop *l, const struct image_frame *f)
{
    const struct draw_hooks hooks = {on_step, on_preview, l};
    int64_t begun = clock_now_ns(), width = integer(f->head, "width");
    int64_t height = integer(f->head, "height"), count = integer(f->head, "count");
    size_t bytes = (size_t)(width * height) * 3;
    bool initial = json_is_true(json_object_get(f->head, "initial"));
    bool mask = json_is_true(json_object_get(f->head, "mask"));
    struct image_picture a = {(uint32_t)width, (uint32_t)height, f->data}, b = a;
    struct draw_task t = {.request = f->head, .hooks = &hooks};
    struct err e = {0};
    int rc = 0;
    if (f->len != bytes * (size_t)(initial + mask))
        rc = err_set(&e, ERR_CORRUPT, "%zu bytes of pixels came for a picture of %lldx%lld", f->len,
                     (long long)width, (long long)height);
    if (rc == 0 && initial)
        t.initial = &a;
    if (rc == 0 && mask) {
        b.rgb = f->data + bytes;
        t.mask = &b;
    }
    for (l->index = 0; rc == 0 && l->index < count; l->index++)
        rc = picture_draw(l, f, &t, &e);
    if (rc != 0) {
        tell_failed(l, &e);
        return;
    }
    json_t *v = head_new(l, "done");
    json_put(v, "draw_s", json_real(ns_to_s(clock_now_ns() - begun)));
    tell(l, v, NULL, 0);
}

// ---- the reading thread --------------------------------------------------------------------------

static void frame_obey(struct loop *l, struct image_frame *f)
{
    const char *op = image_frame_op(f);
    pthread_mutex_lock(&l->lock);
    if (strcmp(op, "generate") == 0) {
        image_frame_fini(&l->next);
        l->next = *f;
        *f = (struct image_frame){0};
    } else if (strcmp(op, "cancel") == 0) {
        l->cancelled = integer(f->head, "id");
        if (l->cancelled == l->id)
            l->engine->cancel(l->state);
    } else if (strcmp(op, "pause") == 0 || strcmp(op, "resume") == 0) {
        l->paused = op[0] == 'p';
    }
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void *read_thread(void *arg)
{
    struct loop *l = arg;
    uint8_t *chunk = mem_alloc(READ_BYTES);
    struct image_frame f = {0};
    struct buf in;
    struct err e = {0};
    image_buf_init(&in);
    os_thread_name("image-read");
    for (;;) {
        ssize_t n = recv(IMAGE_FD, chunk, READ_BYTES, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            _exit(0); // who started this is gone; nothing is lost
        buf_put(&in, chunk, (size_t)n);
        int rc = 0;
        while ((rc = image_frame_take(&in, &f, &e)) > 0) {
            frame_obey(l, &f);
            image_frame_fini(&f);
        }
        if (rc < 0)
            _exit(1);
    }
}

// ---- the whole -----------------------------------------------------------------------------------

static void ready_tell(struct loop *l, double load_s)
{
    json_t *v = head_new(l, "ready");
    json_put(v, "protocol", json_integer(IMAGE_PROTOCOL));
    json_put(v, "library", json_string(l->engine->library));
    json_put(v, "load_s", json_real(load_s));
    l->engine->describe(l->state, v);
    tell(l, v, NULL, 0);
}

static void requests_serve(struct loop *l)
{
    for (;;) {
        struct image_frame f = {0};
        pthread_mutex_lock(&l->lock);
        l->id = 0;
        while (l->next.head == NULL)
            cond_wait_until(&l->changed, &l->lock, INT64_MAX);
        f = l->next;
        l->next = (struct image_frame){0};
        l->id = integer(f.head, "id");
        pthread_mutex_unlock(&l->lock);
        request_draw(l, &f);
        image_frame_fini(&f);
    }
}

static int engine_open(struct loop *l, const char *text, struct err *e)
{
    json_t *options = json_parse(text, strlen(text), e);
    const char *model = json_string_value(json_object_get(options, "model"));
    int rc = options != NULL ? 0 : e->code;
    l->engine = model != NULL && strncmp(model, "fake:", 5) == 0 ? &draw_fake : &draw_library;
    if (rc == 0)
        rc = l->engine->open(options, &l->state, e);
    json_decref(options);
    return rc;
}

int draw_main(const char *options)
{
    struct loop *l = mem_alloc(sizeof *l);
    struct err e = {0};
    pthread_t thread;
    int64_t begun = clock_now_ns();
    pthread_mutex_init(&l->lock, NULL);
    cond_init(&l->changed);
    log_process_set("image");
    if (engine_open(l, options, &e) != 0) {
        tell_failed(l, &e);
        free(l);
        return EXIT_PERMANENT;
    }
    ready_tell(l, ns_to_s(clock_now_ns() - begun));
    if (pthread_create(&thread, NULL, read_thread, l) != 0)
        return 1;
    requests_serve(l);
    return 0;
}
