// The queue in front of the worker, and waiting for it.
#include "image/worker_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define CANCEL_PATIENCE_NS (60 * NS_PER_S) // a step takes less, or the worker hangs
#define READ_BYTES (256u << 10)
#define WORK_SHARE 4 // of the weights' bytes is a usual size of what is computed beside them

// ---- starting ------------------------------------------------------------------------------------

static int parts_check(const struct image_worker_options *o, struct err *e)
{
    const char *const parts[] = {o->vae, o->taesd, o->t5xxl, o->clip_l, o->clip_g, o->llm};
    struct image_model m;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        int rc = parts[i] != NULL ? image_model_read(parts[i], &m, e) : 0;
        if (rc != 0)
            return rc;
    }
    return 0;
}

uint64_t image_worker_need(const struct image_worker_options *o)
{
    const char *const files[] = {o->model,  o->vae,    o->taesd, o->t5xxl,
                                 o->clip_l, o->clip_g, o->llm};
    uint64_t bytes = 0;
    struct stat st;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (files[i] != NULL && stat(files[i], &st) == 0 && st.st_size > 0)
            bytes += (uint64_t)st.st_size;
    return bytes + bytes / WORK_SHARE;
}

static char *options_text(const struct image_worker_options *o)
{
    json_t *v = json_object();
    json_put_text(v, o->split ? "diffusion_model" : "model", o->model);
    json_put_text(v, "vae", o->vae);
    json_put_text(v, "taesd", o->taesd);
    json_put_text(v, "t5xxl", o->t5xxl);
    json_put_text(v, "clip_l", o->clip_l);
    json_put_text(v, "clip_g", o->clip_g);
    json_put_text(v, "llm", o->llm);
    json_put_text(v, "type", o->type);
    json_put(v, "threads", json_integer(o->threads));
    json_put(v, "tiling", json_boolean(o->tiling));
    json_put(v, "offload", json_boolean(o->offload));
    json_put(v, "flash_attention", json_boolean(o->flash_attention));
    char *text = json_text(v);
    json_decref(v);
    return text;
}

static bool is_fake(const char *model)
{
    return strncmp(model, "fake:", 5) == 0;
}

int image_worker_start(const struct image_worker_options *o, struct image_worker **out,
                       struct err *e)
{
    struct image_worker *w = mem_alloc(sizeof *w);
    char program[4096];
    int rc = 0;
    w->pid = -1;
    w->fd = -1;
    w->load_ns = (int64_t)((o->load_s > 0 ? o->load_s : IMAGE_LOAD_S) * 1e9);
    w->hang_ns = o->hang_ns > 0 ? o->hang_ns : IMAGE_HANG_NS;
    image_buf_init(&w->in);
    image_buf_init(&w->out);
    if (is_fake(o->model))
        w->model = (struct image_model){
            .layout = "fake", .multiple = 8, .side = 64, .steps = 4, .cfg = 1, .edits = true};
    else
        rc = image_model_read(o->model, &w->model, e);
    if (rc == 0)
        rc = parts_check(o, e);
    if (rc == 0)
        rc = image_worker_find(o, program, sizeof program, e);
    if (rc == 0) {
        w->program = mem_strdup(program);
        w->options = options_text(o);
        w->lora_dir = o->lora_dir != NULL ? mem_strdup(o->lora_dir) : NULL;
        rc = worker_spawn(w, e);
    }
    if (rc != 0) {
        image_worker_free(w);
        return rc;
    }
    *out = w;
    return 0;
}

static void job_free(struct image_job *j)
{
    if (j == NULL)
        return;
    json_decref(j->head);
    free(j->data);
    free(j);
}

void image_worker_free(struct image_worker *w)
{
    if (w == NULL)
        return;
    worker_kill(w);
    job_free(w->drawing);
    while (w->waiting != NULL) {
        struct image_job *j = w->waiting;
        w->waiting = j->next;
        job_free(j);
    }
    for (; w->n_events > 0; w->n_events--) {
        image_event_fini(&w->events[w->first_event]);
        w->first_event = (w->first_event + 1) % EVENTS_MAX;
    }
    buf_fini(&w->in);
    buf_fini(&w->out);
    free(w->options);
    free(w->program);
    free(w->lora_dir);
    free(w);
}

const struct image_model *image_worker_model(const struct image_worker *w)
{
    return &w->model;
}

// ---- requests ------------------------------------------------------------------------------------

// The file of a LoRA: its name has no separators (image_prompt_loras), so it stays within the folder.
static int lora_put(json_t *list, const char *dir, const struct image_lora *l, struct err *e)
{
    static const char *const endings[] = {".safetensors", ".gguf"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        char *path = mem_format("%s/%s%s", dir, l->name, endings[i]);
        if (access(path, R_OK) == 0) {
            json_t *entry = json_object();
            json_put(entry, "path", json_string(path));
            json_put(entry, "weight", json_real(l->weight));
            json_array_append_new(list, entry);
            free(path);
            return 0;
        }
        free(path);
    }
    return err_set(e, ERR_INVALID, "there is no LoRA \"%s\" in '%s'", l->name, dir);
}

static int loras_put(const struct image_worker *w, const struct image_request *r, json_t *head,
                     struct err *e)
{
    json_t *list = json_array();
    int rc = 0;
    if (r->n_loras > 0 && w->lora_dir == NULL)
        rc = err_set(e, ERR_INVALID,
                     "LoRA \"%s\": this server has no folder of LoRAs; start it "
                     "with --image-lora-dir",
                     r->loras[0].name);
    for (uint32_t i = 0; rc == 0 && i < r->n_loras; i++)
        rc = lora_put(list, w->lora_dir, &r->loras[i], e);
    json_put(head, "loras", list);
    return rc;
}

static json_t *request_head(const struct image_request *r, uint64_t id)
{
    json_t *v = json_object();
    json_put(v, "op", json_string("generate"));
    json_put(v, "id", json_integer((json_int_t)id));
    json_put(v, "prompt", json_string(r->prompt));
    json_put_text(v, "negative", r->negative);
    json_put(v, "width", json_integer(r->width));
    json_put(v, "height", json_integer(r->height));
    json_put(v, "count", json_integer(r->count));
    json_put(v, "steps", json_integer(r->steps));
    json_put(v, "cfg", json_real(r->cfg));
    json_put(v, "seed", json_integer(r->seed));
    json_put_text(v, "sampler", r->sampler);
    json_put_text(v, "scheduler", r->scheduler);
    json_put(v, "previews", json_integer(r->previews));
    json_put(v, "strength", json_real(r->strength));
    json_put(v, "initial", json_boolean(r->initial != NULL));
    json_put(v, "mask", json_boolean(r->mask != NULL));
    return v;
}

static void pixels_copy(struct image_job *j, const struct image_request *r)
{
    const struct image_picture *p = r->initial, *mask = r->mask;
    size_t bytes = p != NULL ? (size_t)p->width * p->height * 3 : 0;
    if (bytes == 0)
        return;
    j->len = mask != NULL ? 2 * bytes : bytes;
    j->data = mem_alloc(j->len);
    memcpy(j->data, p->rgb, bytes);
    if (mask != NULL)
        memcpy(j->data + bytes, mask->rgb, bytes);
}

int image_worker_submit(struct image_worker *w, struct image_request *r, uint64_t *id,
                        struct err *e)
{
    int rc = image_request_check(r, &w->model, e);
    if (rc != 0)
        return rc;
    if (w->dead.code != 0)
        return err_set(e, w->dead.code, "%s", w->dead.message);
    if (w->n_waiting >= IMAGE_QUEUE_MAX)
        return err_set(e, ERR_BUSY, "%u image requests are waiting already; try again later",
                       w->n_waiting);
    if (r->seed == IMAGE_SEED_NONE)
        r->seed = image_seed_draw();
    struct image_job *j = mem_alloc(sizeof *j), **last = &w->waiting;
    j->id = w->last_id + 1;
    j->head = request_head(r, j->id);
    j->previews = r->previews;
    rc = loras_put(w, r, j->head, e);
    if (rc != 0) {
        job_free(j);
        return rc;
    }
    pixels_copy(j, r);
    while (*last != NULL)
        last = &(*last)->next;
    *last = j;
    w->n_waiting++;
    *id = w->last_id = j->id;
    return 0;
}

static void order_put(struct image_worker *w, const char *op, uint64_t id)
{
    json_t *v = json_object();
    struct err e = {0};
    json_put(v, "op", json_string(op));
    json_put(v, "id", json_integer((json_int_t)id));
    image_frame_put(&w->out, v, NULL, 0, &e);
}

void image_worker_cancel(struct image_worker *w, uint64_t id)
{
    struct image_job **at = &w->waiting, *j = w->drawing;
    if (j != NULL && j->id == id) {
        if (!j->cancelled && w->can_cancel)
            order_put(w, "cancel", id);
        j->cancelled = true;
        j->cancelled_ns = clock_now_ns();
        return;
    }
    while (*at != NULL && (*at)->id != id)
        at = &(*at)->next;
    j = *at;
    if (j == NULL)
        return;
    *at = j->next;
    w->n_waiting--;
    worker_fail(w, j, ERR_CANCELLED, "cancelled before it was begun");
}

void image_worker_pause(struct image_worker *w, bool pause)
{
    if (w->paused == pause)
        return;
    w->paused = pause;
    w->heard_ns = clock_now_ns();
    if (w->ready)
        order_put(w, pause ? "pause" : "resume", 0);
}

void image_worker_status(const struct image_worker *w, struct image_worker_status *s)
{
    *s = (struct image_worker_status){.ready = w->ready,
                                      .pid = w->pid,
                                      .waiting = w->n_waiting,
                                      .drawing = w->drawing != NULL,
                                      .restarts = w->restarts,
                                      .can_cancel = w->can_cancel,
                                      .can_preview = w->can_preview};
    snprintf(s->library, sizeof s->library, "%s", w->library);
    snprintf(s->version, sizeof s->version, "%s", w->version);
}

// ---- waiting -------------------------------------------------------------------------------------

int image_worker_fd(const struct image_worker *w)
{
    return w->fd;
}

// Then it says something with each step.
static bool is_drawing_freely(const struct image_worker *w)
{
    return w->fd >= 0 && w->drawing != NULL && !w->drawing->cancelled && !w->paused;
}

int64_t image_worker_wait_ns(const struct image_worker *w)
{
    int64_t now = clock_now_ns(), until = INT64_MAX;
    if (w->n_events > 0 || w->ended || (w->ready && w->drawing == NULL && w->waiting != NULL) ||
        (w->fd >= 0 && w->out.len > 0))
        return 0;
    if (w->fd < 0 && w->dead.code == 0)
        until = w->restart_ns;
    if (w->fd >= 0 && !w->ready)
        until = w->started_ns + w->load_ns;
    if (is_drawing_freely(w))
        until = w->heard_ns + w->hang_ns;
    if (w->drawing != NULL && w->drawing->cancelled)
        until = w->can_cancel ? w->drawing->cancelled_ns + CANCEL_PATIENCE_NS : 0;
    if (until == INT64_MAX)
        return until;
    return until > now ? until - now : 0;
}

static void job_send(struct image_worker *w)
{
    struct image_job *j = w->waiting;
    struct err e = {0};
    w->waiting = j->next;
    w->n_waiting--;
    j->next = NULL;
    json_t *head = j->head;
    j->head = NULL;
    if (image_frame_put(&w->out, head, j->data, j->len, &e) != 0) {
        worker_fail(w, j, e.code, e.message);
        return;
    }
    free(j->data);
    j->data = NULL;
    w->drawing = j;
    w->heard_ns = clock_now_ns();
}

static void drawing_give_up(struct image_worker *w, int code, const char *message)
{
    worker_fail(w, w->drawing, code, message);
    w->drawing = NULL;
    worker_kill(w);
    w->restart_ns = clock_now_ns();
}

static void hang_tend(struct image_worker *w, int64_t now)
{
    char message[160];
    if (!is_drawing_freely(w) || now - w->heard_ns < w->hang_ns)
        return;
    snprintf(message, sizeof message,
             "the image worker said nothing for %.0f s while it drew this; it was ended and is "
             "started again",
             ns_to_s(w->hang_ns));
    log_error("image", "%s: pid=%d", message, (int)w->pid);
    drawing_give_up(w, ERR_TIMEOUT, message);
}

// What is due without anything having come.
static void worker_tend(struct image_worker *w)
{
    struct err e = {0};
    struct image_job *j = w->drawing;
    int64_t now = clock_now_ns();
    if (w->fd < 0 && w->dead.code == 0 && now >= w->restart_ns && worker_spawn(w, &e) != 0)
        worker_unstarted(w, &e);
    if (j != NULL && j->cancelled && w->fd >= 0 &&
        (!w->can_cancel || now - j->cancelled_ns > CANCEL_PATIENCE_NS))
        drawing_give_up(w, ERR_CANCELLED, "cancelled");
    hang_tend(w, now);
    if (w->fd >= 0 && !w->ready && now - w->started_ns >= w->load_ns)
        worker_late(w);
    if (w->ready && w->drawing == NULL && w->waiting != NULL)
        job_send(w);
}

static void worker_write(struct image_worker *w)
{
    ssize_t n = send(w->fd, w->out.data, w->out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0)
        buf_consume(&w->out, (size_t)n);
    else if (errno != EAGAIN && errno != EINTR)
        buf_clear(&w->out); // the other end is gone, which reading will tell
}

static void worker_read(struct image_worker *w)
{
    static _Thread_local uint8_t chunk[READ_BYTES];
    ssize_t n = recv(w->fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (n > 0)
        buf_put(&w->in, chunk, (size_t)n);
    w->ended = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

// Frame after frame of what has come, until one of them is an event.
static void frames_take(struct image_worker *w)
{
    struct image_frame f = {0};
    struct err e = {0};
    int rc = 0;
    while (w->fd >= 0 && w->n_events == 0 && (rc = image_frame_take(&w->in, &f, &e)) > 0) {
        w->heard_ns = clock_now_ns();
        worker_frame(w, &f);
        image_frame_fini(&f);
    }
    if (rc < 0) {
        w->told = e;
        kill(w->pid, SIGKILL); // what speaks so may not end by itself
    }
    if (w->fd >= 0 && w->n_events == 0 && (rc < 0 || w->ended))
        worker_ended(w);
}

// Waits at most wait_ns for the worker's socket.
static void worker_wait(struct image_worker *w, int64_t wait_ns)
{
    struct pollfd p = {.fd = w->fd, .events = w->out.len > 0 ? POLLIN | POLLOUT : POLLIN};
    int64_t ms = (wait_ns + NS_PER_MS - 1) / NS_PER_MS;
    if (poll(&p, 1, (int)(ms < 60000 ? ms : 60000)) <= 0 || w->fd < 0)
        return;
    if (p.revents & POLLOUT)
        worker_write(w);
    if (p.revents & (POLLIN | POLLHUP | POLLERR))
        worker_read(w);
}

int image_worker_poll(struct image_worker *w, int64_t deadline_ns, struct image_event *ev)
{
    for (;;) {
        worker_tend(w);
        if (w->n_events == 0)
            frames_take(w);
        if (w->n_events > 0) {
            *ev = w->events[w->first_event];
            w->first_event = (w->first_event + 1) % EVENTS_MAX;
            w->n_events--;
            return 1;
        }
        int64_t left = deadline_ns - clock_now_ns(), due = image_worker_wait_ns(w);
        // Once even when the deadline has passed: what has come is taken.
        worker_wait(w, left <= 0 ? 0 : w->out.len > 0 || due > left ? left : due);
        if (left <= 0)
            frames_take(w);
        if (left <= 0 && w->n_events == 0)
            return 0;
    }
}
