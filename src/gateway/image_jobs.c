#include "gateway/image_jobs_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/answer.h"
#include "gateway/images_impl.h"
#include "gateway/tuning.h"
#include "os/os.h"

#include <inttypes.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TASKS 256
#define WATCH_NS (NS_PER_S / 4) // between two looks at clients that watch
#define SWEEP_NS NS_PER_S
#define RETRY_MAX_S 600
#define FORGET_PAGE 100

// ---- tasks ----------------------------------------------------------------------------------------------

struct image_jobs_task *image_jobs_task_new(enum image_jobs_what what, struct reply *reply)
{
    struct image_jobs_task *t = mem_alloc(sizeof(*t));

    t->what = what;
    t->reply = reply;
    t->limit = IMAGE_JOBS_PAGE;
    return t;
}

void image_jobs_task_free(struct image_jobs_task *t)
{
    if (t->reply)
        reply_drop(t->reply);
    images_ask_fini(&t->ask);
    free(t);
}

int image_jobs_send(struct image_jobs *j, struct image_jobs_task *t)
{
    return chan_send(j->inbox, &t, 0);
}

// ---- answers --------------------------------------------------------------------------------------------

void image_jobs_counts(struct image_jobs *j)
{
    struct image_jobs_count c = {0};
    struct err e = {0};

    if (j->db && image_jobs_rows_count(j->db, NULL, &c, &e) != 0)
        log_warn("imagejobs", "%s", e.message);
    j->now.queued = c.queued;
    j->now.running = c.running;
    pthread_mutex_lock(&j->lock);
    j->told = j->now;
    pthread_mutex_unlock(&j->lock);
}

// Who has the answer may look at the figures.
static void tell(struct image_jobs *j, struct reply *r, json_t *o)
{
    image_jobs_counts(j);
    reply_finish(r, 200, json_line(o), 0);
    json_decref(o);
}

static void refuse(struct reply *r, const struct err *e, unsigned status, unsigned retry_s)
{
    images_refuse(r, e, status, NULL, retry_s);
}

static void refuse_rows(struct reply *r, const struct err *e)
{
    refuse(r, e, e->code == ERR_NOT_FOUND ? 404 : e->code == ERR_BUSY ? 503 : 500, 0);
}

// A server that draws nothing leaves the queue of its folder to one that does.
static void refuse_none(struct reply *r)
{
    struct err e = {0};

    err_set(&e, ERR_NOT_FOUND,
            "this server draws no pictures, and has no image jobs; ask the one that was started "
            "with --image-model FILE, or add a node that draws");
    refuse(r, &e, 404, 0);
}

static const char *whose(const struct image_jobs_task *t)
{
    return t->all ? NULL : t->owner;
}

// ---- rows -----------------------------------------------------------------------------------------------

void image_jobs_pictures_drop(struct image_jobs_row *r)
{
    for (size_t i = 0; i < json_array_size(r->pictures); i++)
        images_store_remove(image_jobs_picture_name(json_array_get(r->pictures, i)));
    json_array_clear(r->pictures);
}

static int row_drop(struct image_jobs *j, struct image_jobs_row *r, struct err *e)
{
    struct image_jobs_run *run = image_jobs_run_of(j, r->id);
    int rc = image_jobs_row_remove(j->db, r->id, e);

    if (rc != 0)
        return rc;
    if (run)
        image_jobs_run_leave(run);
    image_jobs_pictures_drop(r);
    image_jobs_watchers_state(j, r->id, NULL);
    j->dropped = true;
    return 0;
}

// Those that the query finds go; *n more have gone.
static int rows_drop(struct image_jobs *j, const struct image_jobs_query *q, uint64_t *n,
                     struct err *e)
{
    struct image_jobs_list l;
    int rc = image_jobs_rows_list(j->db, q, &l, e);

    if (rc != 0)
        return rc;
    for (size_t i = 0; i < l.n && rc == 0; i++) {
        rc = row_drop(j, &l.items[i], e);
        *n += rc == 0;
    }
    if (rc == 0 && l.more)
        rc = 1;
    image_jobs_list_fini(&l);
    return rc;
}

// The same of however many there are.
static int rows_drop_all(struct image_jobs *j, const struct image_jobs_query *q, uint64_t *n,
                         struct err *e)
{
    int rc;

    while ((rc = rows_drop(j, q, n, e)) == 1)
        ;
    return rc;
}

// What was removed is not on the disk any more, a second later.
static int scrub(struct image_jobs *j, struct err *e)
{
    int rc = j->db && j->dropped ? image_jobs_rows_scrub(j->db, e) : 0;

    j->dropped = j->dropped && rc != 0;
    return rc;
}

static void sweep(struct image_jobs *j, int64_t now_ns)
{
    const struct image_jobs_query q = {
        .state = IMAGE_JOBS_STATES,
        .oldest = true,
        .ended_by_unix_s = clock_unix_s() - j->options->images.expiry_s,
        .limit = FORGET_PAGE,
    };
    uint64_t n = 0;
    struct err e = {0};

    if (!j->db || now_ns < j->swept_ns)
        return;
    j->swept_ns = now_ns + SWEEP_NS;
    image_jobs_recover(j);
    if (rows_drop_all(j, &q, &n, &e) != 0 || scrub(j, &e) != 0)
        log_warn("imagejobs", "%s", e.message);
}

// ---- coming in ------------------------------------------------------------------------------------------

static unsigned retry_s(const struct image_jobs *j)
{
    double s = ceil(image_jobs_left_s(j));

    return s < 1 ? 1 : s > RETRY_MAX_S ? RETRY_MAX_S : (unsigned)s;
}

static int room_check(struct image_jobs *j, const struct image_jobs_task *t, struct err *e)
{
    const struct gateway_images *o = &j->options->images;
    uint64_t bytes = (uint64_t)t->ask.image.len + t->ask.mask.len, n = 0;
    struct image_jobs_count all, own;
    int rc = image_jobs_rows_count(j->db, NULL, &all, e);

    if (rc == 0)
        rc = image_jobs_rows_count(j->db, t->owner, &own, e);
    if (rc != 0)
        return rc;
    if (all.queued + all.running >= o->jobs)
        return err_set(e, ERR_RANGE,
                       "%u image jobs wait or are drawn already (--image-jobs %u); try again in %u "
                       "s",
                       all.queued + all.running, o->jobs, retry_s(j));
    if (own.queued + own.running >= o->jobs_per_key)
        return err_set(e, ERR_RANGE,
                       "you have %u image jobs that wait or are drawn already "
                       "(--image-jobs-per-key %u); cancel one, or try again in %u s",
                       own.queued + own.running, o->jobs_per_key, retry_s(j));
    if (bytes > 0 && all.file_bytes + bytes > IMAGES_WAITING_BYTES)
        return err_set(e, ERR_RANGE,
                       "pictures of image jobs that wait take %" PRIu64 " MB already, and %u MB "
                       "are the most; try again in %u s",
                       all.file_bytes >> 20, IMAGES_WAITING_BYTES >> 20, retry_s(j));
    if (all.rows < IMAGE_JOBS_ROWS_MAX)
        return 0;
    rc = rows_drop(
        j,
        &(struct image_jobs_query){
            .state = IMAGE_JOBS_STATES, .oldest = true, .ended_by_unix_s = INT64_MAX, .limit = 1},
        &n, e);
    return rc < 0 ? rc : 0;
}

// Its body and files are the row's from here on.
static void row_make(struct image_jobs_task *t, struct image_jobs_row *r)
{
    const struct image_request *q = &t->ask.request;
    char id[ANSWER_ID_BYTES];

    *r = (struct image_jobs_row){
        .state = IMAGE_JOBS_QUEUED,
        .edit = t->ask.edit,
        .n = q->count,
        .steps = q->steps,
        .seed = q->seed >= 0 ? q->seed
                : t->seeds   ? image_jobs_seed_draw()
                             : IMAGE_SEED_NONE,
        .created_unix_s = clock_unix_s(),
        .body = json_incref(t->ask.body),
        .pictures = json_array(),
        .image = t->ask.image,
        .mask = t->ask.mask,
    };
    answer_id_make("imgjob-", id);
    snprintf(r->id, sizeof(r->id), "%.*s", IMAGE_JOBS_ID_BYTES - 1, id);
    memcpy(r->owner, t->owner, sizeof(r->owner));
    memcpy(r->base, t->base, sizeof(r->base));
    memcpy(r->model, t->model, sizeof(r->model));
    t->ask.image = t->ask.mask = (struct images_part){0};
}

static void create(struct image_jobs *j, struct image_jobs_task *t)
{
    struct image_jobs_row row = {0};
    struct err e = {0};
    int rc;

    if (j->draining) {
        err_set(&e, ERR_BUSY, "the server is stopping; ask again when it is back");
        refuse(t->reply, &e, 503, 2);
        return;
    }
    if (room_check(j, t, &e) != 0) {
        refuse(t->reply, &e, e.code == ERR_RANGE ? 429 : 503, retry_s(j));
        return;
    }
    row_make(t, &row);
    rc = image_jobs_row_insert(j->db, &row, &e);
    j->due_ns = 0;
    if (rc != 0)
        refuse_rows(t->reply, &e);
    else
        tell(j, t->reply, image_jobs_json(j, &row));
    image_jobs_row_fini(&row);
}

// ---- asking ---------------------------------------------------------------------------------------------

static void list(struct image_jobs *j, struct image_jobs_task *t)
{
    const struct image_jobs_query q = {
        .owner = whose(t), .state = IMAGE_JOBS_STATES, .after = t->id, .limit = t->limit};
    struct image_jobs_list l;
    struct image_jobs_row after = {0};
    struct err e = {0};
    json_t *data;

    if (t->id[0] && image_jobs_row_get(j->db, t->id, whose(t), &after, &e) != 0) {
        images_refuse(t->reply, &e, e.code == ERR_NOT_FOUND ? 400 : 503, "after", 0);
        return;
    }
    image_jobs_row_fini(&after);
    if (image_jobs_rows_list(j->db, &q, &l, &e) != 0) {
        refuse_rows(t->reply, &e);
        return;
    }
    data = json_array();
    for (size_t i = 0; i < l.n; i++)
        json_array_append_new(data, image_jobs_json(j, &l.items[i]));
    tell(j, t->reply, tuning_page_json(data, l.more));
    image_jobs_list_fini(&l);
}

static void content(const struct image_jobs *j, struct image_jobs_task *t,
                    const struct image_jobs_row *r)
{
    const json_t *picture = json_array_get(r->pictures, t->index);
    enum image_format format;
    uint64_t bytes;
    struct err e = {0};
    int fd;

    if (!picture) {
        err_set(&e, ERR_NOT_FOUND,
                "picture %u of job %s is not there: it is %s, with %zu of %u "
                "pictures drawn",
                t->index, r->id, image_jobs_state_name(r->state), json_array_size(r->pictures),
                r->n);
        refuse(t->reply, &e, t->index < r->n && !image_jobs_state_final(r->state) ? 409 : 404, 0);
    } else if (images_store_open(image_jobs_picture_name(picture), j->options->images.expiry_s, &fd,
                                 &bytes, &format, &e) != 0) {
        refuse(t->reply, &e, 404, 0);
    } else {
        reply_finish_file(t->reply, fd, bytes, image_format_mime(format));
    }
}

// ---- ending ---------------------------------------------------------------------------------------------

static void cancel(struct image_jobs *j, struct image_jobs_task *t, struct image_jobs_row *r)
{
    struct image_jobs_run *run = image_jobs_run_of(j, r->id);
    struct image_jobs_row end;
    struct err e = {0};
    int rc;

    if (r->state == IMAGE_JOBS_CANCELLED) {
        tell(j, t->reply, image_jobs_json(j, r));
        return;
    }
    if (image_jobs_state_final(r->state)) {
        err_set(&e, ERR_INVALID, "job %s has ended already: it is %s; DELETE removes it", r->id,
                image_jobs_state_name(r->state));
        refuse(t->reply, &e, 409, 0);
        return;
    }
    end = *r;
    end.state = IMAGE_JOBS_CANCELLED;
    end.ended_unix_s = clock_unix_s();
    end.why[0] = end.code[0] = '\0';
    end.pictures = json_array();
    rc = image_jobs_row_update(j->db, &end, &e);
    if (rc == 0)
        image_jobs_pictures_drop(r);
    json_decref(end.pictures);
    end.pictures = r->pictures;
    if (rc != 0) {
        refuse_rows(t->reply, &e);
        return;
    }
    if (run)
        image_jobs_run_leave(run);
    *r = end;
    j->dropped |= r->edit;
    j->now.cancelled++;
    image_jobs_watchers_state(j, r->id, r);
    tell(j, t->reply, image_jobs_json(j, r));
}

static void delete (struct image_jobs *j, struct image_jobs_task *t, struct image_jobs_row *r)
{
    struct err e = {0};
    json_t *o;

    if (row_drop(j, r, &e) != 0) {
        refuse_rows(t->reply, &e);
        return;
    }
    j->now.cancelled += !image_jobs_state_final(r->state);
    o = json_object();
    json_put(o, "id", json_string(r->id));
    json_put(o, "object", json_string("image.job.deleted"));
    json_put(o, "deleted", json_true());
    tell(j, t->reply, o);
}

static void forget(struct image_jobs *j, struct image_jobs_task *t)
{
    const struct image_jobs_query q = {
        .owner = whose(t), .state = IMAGE_JOBS_STATES, .oldest = true, .limit = FORGET_PAGE};
    uint64_t n = 0;
    struct err e = {0};
    int rc = image_jobs_queue_visit(j, &e);

    if (rc == 0 && j->db)
        rc = rows_drop_all(j, &q, &n, &e);
    if (rc == 0)
        rc = scrub(j, &e);
    if (rc == 0)
        image_jobs_queue_damaged_remove();
    image_jobs_counts(j);
    t->forgotten(t->ctx, n, &e);
}

// ---- the thread -----------------------------------------------------------------------------------------

// Of the tasks that are about one job.
static void job_task_run(struct image_jobs *j, struct image_jobs_task *t)
{
    struct image_jobs_row row;
    struct err e = {0};

    if (image_jobs_row_get(j->db, t->id, whose(t), &row, &e) != 0) {
        refuse_rows(t->reply, &e);
        return;
    }
    if (t->what == IMAGE_JOBS_SHOW && t->brief) {
        tell(j, t->reply, image_jobs_json(j, &row));
    } else if (t->what == IMAGE_JOBS_SHOW) {
        reply_finish(t->reply, 200, image_jobs_text(j, &row), 0);
    } else if (t->what == IMAGE_JOBS_CONTENT) {
        content(j, t, &row);
    } else if (t->what == IMAGE_JOBS_CANCEL) {
        cancel(j, t, &row);
    } else if (t->what == IMAGE_JOBS_DELETE) {
        delete (j, t, &row);
    } else {
        image_jobs_watch(j, t->reply, t->owner, &row);
        t->reply = NULL; // taken
    }
    image_jobs_row_fini(&row);
}

static void task_run(struct image_jobs *j, struct image_jobs_task *t)
{
    struct err e = {0};

    if (t->what == IMAGE_JOBS_DRAIN)
        j->draining = true;
    else if (t->what == IMAGE_JOBS_FORGET)
        forget(j, t);
    else if (!j->db && !images_are_drawn(&j->places))
        refuse_none(t->reply);
    else if (image_jobs_queue_open(j, &e) != 0)
        refuse(t->reply, &e, 503, 5);
    else if (t->what == IMAGE_JOBS_CREATE)
        create(j, t);
    else if (t->what == IMAGE_JOBS_LIST)
        list(j, t);
    else
        job_task_run(j, t);
    image_jobs_task_free(t);
}

static void tasks_wait(struct image_jobs *j)
{
    struct pollfd fds[2] = {{.fd = chan_fd(j->inbox), .events = POLLIN},
                            {.fd = chan_fd(j->wakes), .events = POLLIN}};
    int64_t now_ns = clock_now_ns(), ns = j->watchers ? WATCH_NS
                                          : j->db     ? SWEEP_NS
                                                      : IMAGE_JOBS_FIND_NS;

    if (j->db && j->due_ns - now_ns < ns)
        ns = j->due_ns > now_ns ? j->due_ns - now_ns : 0;
    poll(fds, 2, (int)((ns + NS_PER_MS - 1) / NS_PER_MS));
}

static void *image_jobs_main(void *ctx)
{
    struct image_jobs *j = ctx;
    struct image_jobs_task *t;
    int64_t now_ns;
    char woken;
    int rc;

    os_thread_name("imagejobs");
    do {
        image_jobs_queue_find(j, clock_now_ns());
        tasks_wait(j);
        chan_recv(j->wakes, &woken, 0);
        while ((rc = chan_recv(j->inbox, &t, 0)) == 0)
            task_run(j, t);
        now_ns = clock_now_ns();
        image_jobs_runs_look(j);
        image_jobs_begin(j, now_ns);
        image_jobs_watchers_tick(j, now_ns);
        sweep(j, now_ns);
        image_jobs_queue_leave(j);
    } while (rc != ERR_CLOSED);
    image_jobs_runs_stop(j);
    image_jobs_watchers_stop(j);
    db_close(j->db);
    return NULL;
}

int image_jobs_start(const struct gateway_options *o, const struct images_places *places,
                     struct image_jobs **out, struct err *e)
{
    struct image_jobs *j = mem_alloc(sizeof(*j));

    j->options = o;
    j->places = *places;
    j->lock_fd = -1;
    j->inbox = chan_new(sizeof(struct image_jobs_task *), TASKS);
    j->wakes = chan_new(sizeof(char), 1);
    pthread_mutex_init(&j->lock, NULL);
    chan_fd(j->inbox);
    chan_fd(j->wakes);
    if (pthread_create(&j->thread, NULL, image_jobs_main, j) != 0) {
        image_jobs_free(j);
        return err_set(e, ERR_IO, "cannot start a thread");
    }
    j->started = true;
    *out = j;
    return 0;
}

void image_jobs_stop(struct image_jobs *j)
{
    if (!j)
        return;
    chan_close(j->inbox);
    if (j->started)
        pthread_join(j->thread, NULL);
    j->started = false;
}

void image_jobs_free(struct image_jobs *j)
{
    if (!j)
        return;
    if (j->lock_fd >= 0)
        close(j->lock_fd);
    chan_free(j->inbox);
    chan_free(j->wakes);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

void image_jobs_drain(struct image_jobs *j)
{
    struct image_jobs_task *t = j ? image_jobs_task_new(IMAGE_JOBS_DRAIN, NULL) : NULL;

    if (t && chan_send(j->inbox, &t, CHAN_FOREVER) != 0)
        image_jobs_task_free(t);
}
