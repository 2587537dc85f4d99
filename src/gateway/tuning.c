#include "gateway/tuning.h"

#include "base/buf.h"
#include "base/chan.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/answer.h"
#include "os/os.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NAME_TRIES 4
#define JOBS_OF_PAGE 20 // where no limit is given
#define RETRY_S 5

// A client that is told what happens to a job.
struct stream {
    struct stream *next;
    struct reply *reply;
    char id[JOBS_ID_BYTES];
    int64_t after; // the last event that was told
    int64_t beat_ns;
};

struct tuning {
    const struct gateway_options *options;
    const struct jobs_hooks *hooks; // NULL: not a host
    struct chan *inbox;             // struct tuning_task *
    pthread_t thread;
    bool started; // the thread
    // Tuning thread only.
    struct jobs *jobs; // NULL: not opened yet
    struct stream *streams;
    size_t n_streams;
    int64_t tick_ns;
    char logged[ERR_MESSAGE_BYTES]; // the last complaint of a tick
};

struct tuning_task *tuning_task_new(enum tuning_what what, struct reply *reply)
{
    struct tuning_task *t = mem_alloc(sizeof(*t));

    t->what = what;
    t->reply = reply;
    t->limit = JOBS_OF_PAGE;
    return t;
}

void tuning_task_free(struct tuning_task *t)
{
    if (t->reply)
        reply_drop(t->reply);
    json_decref(t->body);
    free(t);
}

// ---- answers --------------------------------------------------------------------------------------------

static void tell(struct reply *r, unsigned status, json_t *o)
{
    reply_finish(r, status, json_line(o), 0);
    json_decref(o);
}

static void refuse(struct reply *r, const struct err *e, const char *param)
{
    // A name that is taken is the client's to change; the queue itself is never busy for long.
    unsigned status = e->code == ERR_BUSY          ? 409
                      : e->code == ERR_NOT_FOUND   ? 404
                      : e->code == ERR_INVALID     ? 400
                      : e->code == ERR_RANGE       ? 400
                      : e->code == ERR_UNSUPPORTED ? 400
                                                   : 500;

    if (param && status == 404)
        status = 400; // a file or model that the body names
    reply_finish(r, status, answer_error(status, e->message, err_name(e->code), param), 0);
}

// ---- the queue ------------------------------------------------------------------------------------------

static int queue_open(struct tuning *t, struct err *e)
{
    struct jobs_options o;

    if (t->jobs)
        return 0;
    jobs_options_default(&o);
    o.hooks = t->hooks;
    return jobs_open(&o, &t->jobs, e);
}

static bool queue_exists(void)
{
    char state[JOBS_PATH_BYTES - 32], path[JOBS_PATH_BYTES];
    struct stat st;

    if (os_state_dir(state, sizeof(state), NULL) != 0)
        return false;
    snprintf(path, sizeof(path), "%s/jobs/jobs.db", state);
    return stat(path, &st) == 0;
}

static void queue_tick(struct tuning *t, int64_t now_ns)
{
    struct err e = {0};
    int rc = 0;

    if (!t->hooks || now_ns < t->tick_ns)
        return;
    t->tick_ns = now_ns + TUNING_TICK_NS;
    if (!t->jobs && queue_exists())
        rc = queue_open(t, &e);
    if (rc == 0 && t->jobs)
        rc = jobs_tick(t->jobs, NULL, &e);
    if (rc != 0 && strcmp(t->logged, e.message) != 0)
        log_warn("tuning", "the queue of jobs: %s", e.message);
    snprintf(t->logged, sizeof(t->logged), "%s", rc != 0 ? e.message : "");
}

// ---- jobs -----------------------------------------------------------------------------------------------

static int submit(struct tuning *t, const struct tuning_ask *a, const char *owner,
                  struct jobs_job *job, struct err *e)
{
    struct jobs_spec s;

    jobs_spec_default(&s);
    s.name = a->name;
    s.model = a->model;
    s.data = a->data;
    s.eval_data = a->eval[0] ? a->eval : NULL;
    s.options = a->options;
    s.executor = t->options->train_executor;
    s.meta = a->meta;
    s.owner = owner;
    return jobs_submit(t->jobs, &s, job, e);
}

// Which member an error of the queue or the trainer is about.
static const char *param_of(const struct err *e)
{
    return strncmp(e->message, "line ", 5) == 0 || strstr(e->message, ": line ") ? "training_file"
                                                                                 : NULL;
}

static void create(struct tuning *t, struct tuning_task *task)
{
    struct tuning_ask a;
    struct jobs_job job;
    struct err e = {0};
    int rc = tuning_ask_parse(task->body, t->options, &a, &e);

    if (rc != 0) {
        refuse(task->reply, &e, a.param[0] ? a.param : NULL);
        tuning_ask_fini(&a);
        return;
    }
    rc = submit(t, &a, task->owner, &job, &e);
    for (int i = 0; rc == ERR_BUSY && i < NAME_TRIES; i++) {
        tuning_ask_rename(&a);
        rc = submit(t, &a, task->owner, &job, &e);
    }
    tuning_ask_fini(&a);
    if (rc != 0) {
        refuse(task->reply, &e, param_of(&e));
        return;
    }
    t->tick_ns = 0; // it may start at once
    tell(task->reply, 200, tuning_job_json(&job));
    jobs_job_fini(&job);
}

static void list(struct tuning *t, struct tuning_task *task)
{
    struct jobs_query q;
    struct jobs_list l;
    struct err e = {0};
    json_t *data;

    jobs_query_default(&q);
    q.after = task->after[0] ? task->after : NULL;
    q.limit = task->limit;
    if (jobs_list_read(t->jobs, &q, &l, &e) != 0) {
        refuse(task->reply, &e, NULL);
        return;
    }
    data = json_array();
    for (size_t i = 0; i < l.n; i++)
        json_array_append_new(data, tuning_job_json(&l.items[i]));
    tell(task->reply, 200, tuning_page_json(data, l.more));
    jobs_list_fini(&l);
}

static void show(struct tuning *t, struct tuning_task *task)
{
    struct jobs_job job;
    struct err e = {0};
    int rc = task->what == TUNING_CANCEL ? jobs_cancel(t->jobs, task->id, &e) : 0;

    if (rc == 0)
        rc = jobs_get(t->jobs, task->id, &job, &e);
    if (rc != 0) {
        refuse(task->reply, &e, NULL);
        return;
    }
    t->tick_ns = task->what == TUNING_CANCEL ? 0 : t->tick_ns;
    tell(task->reply, 200, tuning_job_json(&job));
    jobs_job_fini(&job);
}

// ---- events and checkpoints -----------------------------------------------------------------------------

// The newest first, those behind the one whose id is `after`, at most `limit`; shape NULL: as they are.
static json_t *page_of(const json_t *all, bool reverse, const struct tuning_task *task, bool *more)
{
    json_t *data = json_array();
    size_t n = json_array_size(all);
    bool on = task->after[0] == '\0';

    *more = false;
    for (size_t i = 0; i < n && !*more; i++) {
        json_t *v = json_array_get(all, reverse ? n - 1 - i : i);
        const char *id = json_string_value(json_object_get(v, "id"));

        if (on && json_array_size(data) == task->limit)
            *more = true;
        else if (on)
            json_array_append(data, v);
        on = on || (id && strcmp(id, task->after) == 0);
    }
    return data;
}

static json_t *events_shape(const json_t *raw)
{
    json_t *out = json_array();

    for (size_t i = 0; i < json_array_size(raw); i++)
        json_array_append_new(out, tuning_event_json(json_array_get(raw, i)));
    return out;
}

static void events(struct tuning *t, struct tuning_task *task)
{
    struct err e = {0};
    struct jobs_job job;
    json_t *raw = NULL, *all, *data;
    bool more;
    int rc = jobs_get(t->jobs, task->id, &job, &e);

    if (rc == 0) {
        jobs_job_fini(&job);
        rc = jobs_events(t->jobs, task->id, 0, TUNING_EVENTS_MAX, &raw, &e);
    }
    if (rc != 0) {
        refuse(task->reply, &e, NULL);
        return;
    }
    all = events_shape(raw);
    data = page_of(all, true, task, &more);
    tell(task->reply, 200, tuning_page_json(data, more));
    json_decref(all);
    json_decref(raw);
}

static void checkpoints(struct tuning *t, struct tuning_task *task)
{
    struct err e = {0};
    struct jobs_job job;
    json_t *raw = NULL, *all, *data;
    bool more;
    int rc = jobs_get(t->jobs, task->id, &job, &e);

    if (rc == 0) {
        rc = jobs_checkpoints(t->jobs, task->id, &raw, &e);
        if (rc != 0)
            jobs_job_fini(&job);
    }
    if (rc != 0) {
        refuse(task->reply, &e, NULL);
        return;
    }
    all = json_array();
    for (size_t i = 0; i < json_array_size(raw); i++)
        json_array_append_new(all, tuning_checkpoint_json(&job, json_array_get(raw, i)));
    data = page_of(all, false, task, &more);
    tell(task->reply, 200, tuning_page_json(data, more));
    json_decref(all);
    json_decref(raw);
    jobs_job_fini(&job);
}

// ---- streams --------------------------------------------------------------------------------------------

static void stream_begin(struct tuning *t, struct tuning_task *task)
{
    struct err e = {0};
    struct jobs_job job;
    struct stream *s;
    int rc = jobs_get(t->jobs, task->id, &job, &e);

    if (rc == 0)
        jobs_job_fini(&job);
    if (rc == 0 && t->n_streams == TUNING_STREAMS_MAX)
        rc = err_set(&e, ERR_BUSY, "%d streams of events are open already", TUNING_STREAMS_MAX);
    if (rc != 0) {
        refuse(task->reply, &e, NULL);
        return;
    }
    s = mem_alloc(sizeof(*s));
    memcpy(s->id, task->id, sizeof(s->id));
    s->reply = task->reply; // taken
    task->reply = NULL;
    s->beat_ns = clock_now_ns() + TUNING_BEAT_NS;
    s->next = t->streams;
    t->streams = s;
    t->n_streams++;
    reply_begin(s->reply);
}

// What is new, as server-sent events. False: the client is gone or does not read.
static bool stream_tell(struct stream *s, const json_t *raw)
{
    struct buf out;
    bool ok;

    buf_init(&out, REPLY_WAITING_MAX);
    for (size_t i = 0; i < json_array_size(raw); i++) {
        const json_t *event = json_array_get(raw, i);

        answer_event_put(&out, NULL, tuning_event_json(event));
        s->after = json_integer_value(json_object_get(event, "id"));
    }
    if (out.len == 0 && clock_now_ns() >= s->beat_ns)
        buf_puts(&out, ": the job goes on\n\n");
    if (out.len > 0)
        s->beat_ns = clock_now_ns() + TUNING_BEAT_NS;
    ok = out.len == 0 || reply_write(s->reply, out.data, out.len) == 0;
    buf_fini(&out);
    return ok;
}

// False: the stream has its end.
static bool stream_run(struct tuning *t, struct stream *s)
{
    static const char done[] = "data: [DONE]\n\n";
    struct err e = {0};
    struct jobs_job job;
    json_t *raw = NULL;
    bool ended, ok;

    // The state first: what it was when the last event came.
    if (reply_left(s->reply) || jobs_get(t->jobs, s->id, &job, &e) != 0)
        return false;
    ended = jobs_state_final(job.state);
    jobs_job_fini(&job);
    if (jobs_events(t->jobs, s->id, s->after, JOBS_PAGE_MAX, &raw, &e) != 0)
        return false;
    ok = stream_tell(s, raw);
    ended = ended && json_array_size(raw) == 0;
    json_decref(raw);
    if (ok && ended)
        reply_write(s->reply, done, strlen(done));
    return ok && !ended;
}

static void stream_end(struct tuning *t, struct stream **at)
{
    struct stream *s = *at;

    *at = s->next;
    t->n_streams--;
    reply_end(s->reply);
    reply_drop(s->reply);
    free(s);
}

static void streams_run(struct tuning *t)
{
    for (struct stream **at = &t->streams; *at;) {
        if (stream_run(t, *at))
            at = &(*at)->next;
        else
            stream_end(t, at);
    }
}

// ---- the thread -----------------------------------------------------------------------------------------

static void task_run(struct tuning *t, struct tuning_task *task)
{
    static void (*const runs[])(struct tuning *,
                                struct tuning_task *) = {[TUNING_CREATE] = create,
                                                         [TUNING_LIST] = list,
                                                         [TUNING_SHOW] = show,
                                                         [TUNING_CANCEL] = show,
                                                         [TUNING_EVENTS] = events,
                                                         [TUNING_STREAM] = stream_begin,
                                                         [TUNING_CHECKPOINTS] = checkpoints};
    struct err e = {0};

    if (queue_open(t, &e) != 0) {
        err_wrap(&e, "the queue of jobs cannot be opened");
        reply_finish(task->reply, 503, answer_error(503, e.message, err_name(e.code), NULL),
                     RETRY_S);
    } else {
        runs[task->what](t, task);
    }
    tuning_task_free(task);
}

static void *tuning_main(void *ctx)
{
    struct tuning *t = ctx;
    struct tuning_task *task;
    int rc = 0;

    os_thread_name("tuning");
    while (rc != ERR_CLOSED) {
        queue_tick(t, clock_now_ns());
        streams_run(t);
        rc = chan_recv(t->inbox, &task,
                       t->streams ? TUNING_STREAM_NS
                       : t->hooks ? TUNING_TICK_NS
                                  : CHAN_FOREVER);
        if (rc == 0)
            task_run(t, task);
    }
    while (t->streams)
        stream_end(t, &t->streams);
    jobs_close(t->jobs);
    return NULL;
}

int tuning_start(const struct gateway_options *o, const struct jobs_hooks *hooks,
                 struct tuning **out, struct err *e)
{
    struct tuning *t = mem_alloc(sizeof(*t));

    t->options = o;
    t->hooks = hooks;
    t->inbox = chan_new(sizeof(struct tuning_task *), TUNING_TASKS);
    if (pthread_create(&t->thread, NULL, tuning_main, t) != 0) {
        tuning_free(t);
        return err_set(e, ERR_IO, "cannot start a thread");
    }
    t->started = true;
    *out = t;
    return 0;
}

void tuning_stop(struct tuning *t)
{
    if (!t)
        return;
    chan_close(t->inbox);
    if (t->started)
        pthread_join(t->thread, NULL);
    t->started = false;
}

void tuning_free(struct tuning *t)
{
    if (!t)
        return;
    chan_free(t->inbox);
    free(t);
}

int tuning_send(struct tuning *t, struct tuning_task *task)
{
    return chan_send(t->inbox, &task, 0);
}
