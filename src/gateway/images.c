#include "gateway/images_impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "gateway/answer.h"
#include "gateway/image_upstream.h"
#include "os/os.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TASKS 32 // on their way, each with pictures of up to a body's size
#define TICK_NS                                                                                    \
    (20 * NS_PER_MS) // while something is asked for: clients that leave, and chats that begin
#define IDLE_NS NS_PER_S
#define SWEEP_NS (30 * NS_PER_S) // between two looks at files that have expired
#define GIB 1073741824.0

// ---- tasks ------------------------------------------------------------------------------------------

struct images_task *images_task_new(enum images_what what, struct reply *reply)
{
    struct images_task *t = mem_alloc(sizeof(*t));

    t->what = what;
    t->reply = reply;
    return t;
}

void images_task_free(struct images_task *t)
{
    if (!t)
        return;
    if (t->reply)
        reply_drop(t->reply);
    images_ask_fini(&t->ask);
    free(t->pick);
    free(t);
}

int images_send(struct images *i, struct images_task *t)
{
    return chan_send(i->inbox, &t, 0);
}

// ---- the worker -------------------------------------------------------------------------------------

static int worker_start(struct images *i, struct err *e)
{
    int rc = image_worker_start(&i->options->images.worker, &i->worker, e);

    i->now.failed = rc != 0;
    if (rc != 0)
        snprintf(i->now.why, sizeof(i->now.why), "%s", e->message);
    image_yield_reset(&i->yield);
    return rc;
}

int images_worker_wake(struct images *i, struct err *e)
{
    uint64_t need, free_bytes;

    if (i->worker)
        return 0;
    need = image_worker_need(&i->options->images.worker);
    free_bytes = os_memory_available();
    if (free_bytes > 0 && need > free_bytes)
        return err_set(e, ERR_BUSY,
                       "the image model was unloaded for a training job; it needs %.1f GiB and "
                       "%.1f GiB are free",
                       (double)need / GIB, (double)free_bytes / GIB);
    return worker_start(i, e);
}

// A worker with something to do stays, as a chat's does; its process is gone when this returns.
static void room_make(struct images *i, uint64_t bytes)
{
    uint64_t free_bytes = os_memory_available();
    struct err e = {0};

    if (bytes == 0) {
        if (!i->stopping && images_worker_wake(i, &e) != 0)
            log_warn("images", "not loaded again: %s", e.message);
        return;
    }
    if (!i->worker || i->requests || free_bytes == 0 || free_bytes >= bytes)
        return;
    log_info("images", "unloading the image model: why=\"a training job needs its room\"");
    image_worker_free(i->worker);
    i->worker = NULL;
    i->now.worker = (struct image_worker_status){.pid = -1};
}

// ---- pausing ------------------------------------------------------------------------------------------

static void pause_tick(struct images *i, int64_t now_ns)
{
    int chats = atomic_load_explicit(&i->chats, memory_order_relaxed);
    bool busy = chats > 0 && !i->options->images.wait && i->requests != NULL;

    if (i->worker)
        image_worker_pause(i->worker, image_yield_tick(&i->yield, busy, now_ns));
}

void images_chats(struct images *i, int change)
{
    if (i)
        atomic_fetch_add_explicit(&i->chats, change, memory_order_relaxed);
}

// ---- the thread -----------------------------------------------------------------------------------------

static void task_run(struct images *i, struct images_task *t)
{
    if (t->what == IMAGES_DRAW) {
        images_admit(i, t);
        return;
    }
    if (t->what == IMAGES_DRAIN)
        i->draining = true;
    else
        room_make(i, t->bytes);
    images_told_publish(i); // who waits for the answer may look
    if (t->answer)
        chan_send(t->answer, &(int){0}, 0);
    images_task_free(t);
}

static void tasks_run(struct images *i)
{
    struct images_task *t;
    int rc;

    while ((rc = chan_recv(i->inbox, &t, 0)) == 0)
        task_run(i, t);
    i->stopping = rc == ERR_CLOSED;
}

static void events_run(struct images *i)
{
    struct image_event ev;

    while (i->worker && image_worker_poll(i->worker, 0, &ev) > 0) {
        images_event(i, &ev);
        image_event_fini(&ev);
    }
}

static void drained_check(struct images *i)
{
    if (!i->draining || i->drained || i->requests)
        return;
    i->drained = true;
    if (i->hooks.drained)
        i->hooks.drained(i->hooks.ctx);
}

static void sweep(struct images *i, int64_t now_ns)
{
    if (now_ns < i->swept_ns)
        return;
    images_store_expire(i->options->images.expiry_s);
    i->swept_ns = now_ns + SWEEP_NS;
}

static void events_wait(struct images *i)
{
    struct pollfd fds[2] = {{.fd = chan_fd(i->inbox), .events = POLLIN},
                            {.fd = i->worker ? image_worker_fd(i->worker) : -1, .events = POLLIN}};
    int64_t ns = i->requests ? TICK_NS : IDLE_NS;
    int64_t due = i->worker ? image_worker_wait_ns(i->worker) : ns;

    ns = due < ns ? due : ns;
    poll(fds, 2, (int)((ns + NS_PER_MS - 1) / NS_PER_MS));
}

static void run(struct images *i)
{
    int64_t now_ns;

    while (!i->stopping) {
        events_wait(i);
        tasks_run(i);
        events_run(i);
        now_ns = clock_now_ns();
        images_requests_tick(i, now_ns);
        pause_tick(i, now_ns);
        sweep(i, now_ns);
        drained_check(i);
        images_told_publish(i);
    }
}

static void *images_main(void *ctx)
{
    static const struct err stopping = {ERR_CLOSED, "the server is stopping"};
    struct images *i = ctx;
    struct err e = {0};

    os_thread_name("images");
    // Here, not before: on Linux the worker ends with the thread that started it.
    worker_start(i, &e);
    if (i->worker)
        i->model = *image_worker_model(i->worker);
    images_speeds_read(i->name, &i->now.speeds);
    images_told_publish(i);
    chan_send(i->begun, &e, 0);
    if (i->worker)
        run(i);
    images_speeds_write(i->name, &i->now.speeds);
    images_requests_fail(i, &stopping);
    image_worker_free(i->worker);
    return NULL;
}

// ---- starting and stopping --------------------------------------------------------------------------------

static void name_set(struct images *i, const struct gateway_images *o)
{
    const char *path = o->worker.model, *slash = strrchr(path, '/');
    char *dot;

    snprintf(i->name, sizeof(i->name), "%s", o->name ? o->name : slash ? slash + 1 : path);
    dot = strrchr(i->name, '.');
    if (!o->name && dot && dot > i->name)
        *dot = '\0';
    i->known = (struct images_known){.model = &i->model, .name = i->name, .file = path};
}

int images_start(const struct gateway_options *o, const struct images_hooks *hooks,
                 struct images **out, struct err *e)
{
    struct images *i = mem_alloc(sizeof(*i));
    struct err begun = {0};

    i->options = o;
    i->hooks = *hooks;
    i->inbox = chan_new(sizeof(struct images_task *), TASKS);
    i->begun = chan_new(sizeof(struct err), 1);
    pthread_mutex_init(&i->lock, NULL);
    images_told_init(&i->now);
    name_set(i, &o->images);
    chan_fd(i->inbox);
    if (pthread_create(&i->thread, NULL, images_main, i) != 0) {
        images_free(i);
        return err_set(e, ERR_IO, "cannot start a thread");
    }
    i->started = true;
    chan_recv(i->begun, &begun, CHAN_FOREVER);
    if (begun.code != 0) {
        images_stop(i);
        images_free(i);
        return err_set(e, begun.code, "%s", begun.message);
    }
    *out = i;
    return 0;
}

void images_stop(struct images *i)
{
    if (!i)
        return;
    chan_close(i->inbox);
    if (i->started)
        pthread_join(i->thread, NULL);
    i->started = false;
}

static void leftover_answer(struct images_task *t)
{
    static const char text[] = "the server is stopping";

    if (t->reply)
        reply_finish(t->reply, 503, answer_error(503, text, "closed", NULL), 0);
    if (t->answer)
        chan_send(t->answer, &(int){0}, 0);
    images_task_free(t);
}

void images_free(struct images *i)
{
    struct images_task *t;

    if (!i)
        return;
    chan_close(i->inbox);
    while (chan_recv(i->inbox, &t, 0) == 0)
        leftover_answer(t);
    chan_free(i->inbox);
    chan_free(i->begun);
    pthread_mutex_destroy(&i->lock);
    free(i);
}

void images_drain(struct images *i)
{
    struct images_task *t = images_task_new(IMAGES_DRAIN, NULL);

    if (chan_send(i->inbox, &t, CHAN_FOREVER) != 0)
        images_task_free(t);
}

int images_room(struct images *i, uint64_t bytes)
{
    struct images_task *t;
    struct chan *answer;
    int word = 0;

    if (!i)
        return 0;
    answer = chan_new(sizeof(int), 1);
    t = images_task_new(IMAGES_ROOM, NULL);
    t->bytes = bytes;
    t->answer = answer;
    if (chan_send(i->inbox, &t, CHAN_FOREVER) == 0)
        chan_recv(answer, &word, CHAN_FOREVER);
    else
        images_task_free(t);
    chan_free(answer);
    return word;
}

const struct images_known *images_known(const struct images *i)
{
    return &i->known;
}
