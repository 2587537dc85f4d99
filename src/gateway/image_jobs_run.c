// Image jobs while they are drawn: from the queue to whoever draws, through the events of the stream, to the end.
#include "gateway/image_jobs_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/answer.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PICTURE_BYTES (4ull * IMAGE_PIXELS_MAX) // that one file has at most
#define RETRY_S 1            // where nobody said how long, or nobody has the model
#define RETRY_MAX_S 30       // whatever somebody said
#define SEED_MASK 0x7fffffff // what every server keeps

int64_t image_jobs_seed_draw(void)
{
    uint32_t random;

    os_random(&random, sizeof(random));
    return (int64_t)(random & SEED_MASK);
}

struct image_jobs_run *image_jobs_run_of(const struct image_jobs *j, const char *id)
{
    struct image_jobs_run *r = j->runs;

    while (r && (r->over || strcmp(r->row.id, id) != 0))
        r = r->next;
    return r;
}

void image_jobs_run_leave(struct image_jobs_run *r)
{
    r->over = true;
    reply_leave(r->reply);
}

double image_jobs_left_s(const struct image_jobs *j)
{
    double s = 0;

    for (const struct image_jobs_run *r = j->runs; r; r = r->next) {
        double left_s = r->eta_s - ns_to_s(clock_now_ns() - r->eta_ns);

        if (!r->over && left_s > 0 && (s == 0 || left_s < s))
            s = left_s;
    }
    return s;
}

// ---- ends -----------------------------------------------------------------------------------------------

static void look_in(struct image_jobs *j, unsigned seconds)
{
    int64_t due_ns = clock_now_ns() + (int64_t)seconds * NS_PER_S;

    j->due_ns = due_ns < j->due_ns ? due_ns : j->due_ns;
}

// False: the table has what it had, and nobody was told. One that is in progress there goes back to the queue then
// (image_jobs_recover).
static bool row_write(struct image_jobs *j, struct image_jobs_row *r)
{
    struct err e = {0};

    if (image_jobs_row_update(j->db, r, &e) != 0) {
        log_warn("imagejobs", "%s", e.message);
        look_in(j, RETRY_S);
        return false;
    }
    j->now.completed += r->state == IMAGE_JOBS_COMPLETED;
    j->now.failed += r->state == IMAGE_JOBS_FAILED;
    j->dropped |= r->edit && image_jobs_state_final(r->state);
    image_jobs_counts(j);
    image_jobs_watchers_state(j, r->id, r);
    return true;
}

static bool row_fail(struct image_jobs *j, struct image_jobs_row *r, const char *code,
                     const char *why)
{
    image_jobs_pictures_drop(r);
    r->state = IMAGE_JOBS_FAILED;
    r->ended_unix_s = clock_unix_s();
    snprintf(r->code, sizeof(r->code), "%s", code);
    snprintf(r->why, sizeof(r->why), "%s", why);
    log_info("imagejobs", "job failed: id=%s code=%s", r->id, code); // the words may quote a prompt
    return row_write(j, r);
}

// Back to where it stood in the queue, which is looked at again in a while.
static void row_wait(struct image_jobs *j, struct image_jobs_row *r, const char *why,
                     unsigned seconds)
{
    bool same = r->state == IMAGE_JOBS_QUEUED && strcmp(r->why, why) == 0;

    look_in(j, seconds);
    if (same)
        return;
    image_jobs_pictures_drop(r);
    r->state = IMAGE_JOBS_QUEUED;
    r->started_unix_s = 0;
    snprintf(r->why, sizeof(r->why), "%s", why);
    row_write(j, r);
}

// Nobody has its model. That is waited for, but not for ever. True: it has failed.
static bool row_miss(struct image_jobs *j, struct image_jobs_row *r, const struct err *e)
{
    int64_t now_unix_s = clock_unix_s();

    if (r->missing_unix_s > 0 && now_unix_s - r->missing_unix_s >= IMAGE_JOBS_PATIENCE_S)
        return row_fail(j, r, err_name(e->code), e->message);
    row_wait(j, r, e->message, RETRY_S);
    return false;
}

static json_t *timings_json(const struct image_jobs_run *run)
{
    const struct image_jobs_row *r = &run->row;
    double draw_s = ns_to_s(clock_now_ns() - run->begun_ns);
    json_t *o = json_object();

    if (run->steps > 0) {
        json_put(o, "steps", json_integer(run->steps));
        json_put(o, "step_s", json_real(draw_s / run->steps / r->n));
    }
    json_put(o, "queue_s", json_integer(r->started_unix_s - r->created_unix_s));
    json_put(o, "draw_s", json_real(draw_s));
    if (run->node[0])
        json_put(o, "node", answer_string(run->node));
    return o;
}

static void run_complete(struct image_jobs *j, struct image_jobs_run *run)
{
    struct image_jobs_row *r = &run->row;

    for (size_t i = 0; i < json_array_size(r->pictures); i++)
        images_store_renew(image_jobs_picture_name(json_array_get(r->pictures, i)));
    json_decref(r->timings);
    r->timings = timings_json(run);
    r->state = IMAGE_JOBS_COMPLETED;
    r->ended_unix_s = clock_unix_s();
    if (!row_write(j, r))
        image_jobs_pictures_drop(r);
}

// Who draws, or the disk, had no room, or the server is stopping: nothing is wrong with the job.
static bool is_for_later(unsigned status, const char *code, const struct image_jobs *j)
{
    return status == 429 || status == 503 || strcmp(code, err_name(ERR_BUSY)) == 0 || j->draining;
}

// The server behind it may be back the next time; but not for ever.
static bool is_worth_another(unsigned status, const char *code, const struct image_jobs_row *r)
{
    bool lost = status == 502 || status == 504 || strcmp(code, err_name(ERR_CLOSED)) == 0;

    return lost && r->attempts < IMAGE_JOBS_ATTEMPTS;
}

static void run_fail(struct image_jobs *j, struct image_jobs_run *run, unsigned status)
{
    unsigned seconds = run->retry_s == 0            ? RETRY_S
                       : run->retry_s > RETRY_MAX_S ? RETRY_MAX_S
                                                    : run->retry_s;
    bool later = is_for_later(status, run->code, j);

    run->row.attempts -= later;
    if (later || is_worth_another(status, run->code, &run->row))
        row_wait(j, &run->row, run->why, seconds);
    else
        row_fail(j, &run->row, run->code, run->why);
}

// ---- what is told ---------------------------------------------------------------------------------------

static void error_take(struct image_jobs_run *run, const json_t *body)
{
    const json_t *o = json_object_get(body, "error");

    run->has_error = true;
    snprintf(run->code, sizeof(run->code), "%s", json_string_or(o, "code", err_name(ERR_ENGINE)));
    snprintf(run->why, sizeof(run->why), "%s", json_string_or(o, "message", "nobody said why"));
}

static void progress_take(struct image_jobs_run *run, const json_t *event)
{
    run->index = json_u32(event, "index");
    run->step = json_u32(event, "step");
    run->steps = json_u32(event, "steps");
    run->eta_s = json_number_value(json_object_get(event, "eta_s"));
    run->eta_ns = clock_now_ns();
}

static void picture_take(struct image_jobs *j, struct image_jobs_run *run, json_t *event)
{
    struct image_jobs_row *r = &run->row;
    struct err e = {0};

    if (run->over) {
        images_store_remove(image_jobs_picture_name(event));
        return;
    }
    // Who was to draw it may have handed it on.
    snprintf(run->node, sizeof(run->node), "%s", json_string_or(event, "node", ""));
    json_array_append(r->pictures, event);
    // Those that were drawn before it wait for the last one, which may take longer than they are kept.
    for (size_t i = 0; i + 1 < json_array_size(r->pictures); i++)
        images_store_renew(image_jobs_picture_name(json_array_get(r->pictures, i)));
    if (image_jobs_row_update(j->db, r, &e) != 0)
        log_warn("imagejobs", "%s", e.message);
}

static bool ends_in(const char *text, size_t n, const char *end)
{
    size_t k = strlen(end);

    return n >= k && memcmp(text + n - k, end, k) == 0;
}

// One event, or one comment, without the blank line behind it. An error is told as the job's end, if it is that.
static void event_take(struct image_jobs *j, struct image_jobs_run *run, const char *text, size_t n)
{
    static const char event[] = "event: ", data[] = "\ndata: ";
    const char *line = memmem(text, n, data, strlen(data)), *from = line ? line + strlen(data) : "";
    size_t word = line && n > strlen(event) ? (size_t)(line - text) : 0;
    bool progress = ends_in(text, word, ".progress"), drawn = ends_in(text, word, ".completed");
    bool error = ends_in(text, word, " error");
    json_t *o = NULL;

    if (progress || drawn || error)
        o = json_loadb(from, n - (size_t)(from - text), 0, NULL);
    if (progress)
        progress_take(run, o);
    else if (drawn && o)
        picture_take(j, run, o);
    else if (error)
        error_take(run, o);
    json_decref(o);
    if (!error && !run->over)
        image_jobs_watchers_tell(j, run->row.id, text, n + 2);
}

static void stream_take(struct image_jobs *j, struct image_jobs_run *run, const struct buf *in)
{
    const char *text = (const char *)in->data, *end;
    size_t left = in->len;

    while (left > 0 && (end = memmem(text, left, "\n\n", 2))) {
        size_t n = (size_t)(end - text);

        event_take(j, run, text, n);
        text += n + 2;
        left -= n + 2;
    }
}

static void run_end(struct image_jobs *j, struct image_jobs_run *run, const struct reply_told *told)
{
    size_t n = json_array_size(run->row.pictures);

    if (run->over)
        return;
    run->over = true;
    run->retry_s = told->retry_after_s;
    if (!run->has_error && n == run->row.n) {
        run_complete(j, run);
        return;
    }
    if (!run->has_error) {
        snprintf(run->code, sizeof(run->code), "%s", err_name(ERR_CLOSED));
        snprintf(run->why, sizeof(run->why), "the drawing ended after %zu of %u pictures", n,
                 run->row.n);
    }
    run_fail(j, run, told->whole ? told->status : 0);
}

// False: it has ended.
static bool run_look(struct image_jobs *j, struct image_jobs_run *run)
{
    struct reply_told told;
    struct buf in;
    json_t *body;

    buf_init(&in, REPLY_BODY_MAX);
    told = reply_take(run->reply, &in);
    if (told.whole) {
        body = json_loadb((const char *)in.data, in.len, 0, NULL);
        error_take(run, body);
        json_decref(body);
    } else if (in.len > 0) {
        stream_take(j, run, &in);
    }
    buf_fini(&in);
    if (told.ended)
        run_end(j, run, &told);
    return !told.ended;
}

static void run_free(struct image_jobs_run *run)
{
    reply_drop(run->reply);
    image_jobs_row_fini(&run->row);
    free(run);
}

void image_jobs_runs_look(struct image_jobs *j)
{
    struct image_jobs_run **at = &j->runs, *run;

    while ((run = *at)) {
        if (run_look(j, run)) {
            at = &run->next;
            continue;
        }
        *at = run->next;
        if (run->row.state != IMAGE_JOBS_QUEUED) // one that was refused is not sent again at once
            j->due_ns = 0;
        run_free(run);
    }
}

// Those who draw have stopped; what they said last is taken, and the rest begins anew some day.
void image_jobs_runs_stop(struct image_jobs *j)
{
    struct image_jobs_run *run;

    j->draining = true;
    image_jobs_runs_look(j);
    while ((run = j->runs)) {
        j->runs = run->next;
        if (!run->over) {
            run->row.attempts--;
            row_wait(j, &run->row, "the server was stopped", 0);
        }
        reply_leave(run->reply);
        run_free(run);
    }
}

// ---- beginning ------------------------------------------------------------------------------------------

static bool is_taken(const struct image_jobs *j, const char *node)
{
    for (const struct image_jobs_run *r = j->runs; r; r = r->next)
        if (strcmp(r->node, node) == 0)
            return true;
    return false;
}

// On whatever thread draws, with a lock held. A wake that finds one waiting is not needed.
static void wake(void *ctx)
{
    struct image_jobs *j = ctx;

    chan_send(j->wakes, &(char){0}, 0);
}

static struct images_task *task_make(struct image_jobs_run *run, struct images_ask *ask,
                                     struct image_upstream_pick *pick)
{
    struct images_task *t = images_task_new(IMAGES_DRAW, run->reply);

    reply_waiting_set(run->reply, REPLY_BODY_MAX);
    t->ask = *ask; // taken
    t->ask.stream = t->ask.progress = t->ask.url = true;
    t->pick = pick;
    memcpy(t->owner, run->row.owner, sizeof(t->owner));
    memcpy(t->base, run->row.base, sizeof(t->base));
    return t;
}

static struct image_jobs_run *run_new(struct image_jobs *j, struct image_jobs_row *row,
                                      const struct image_upstream_pick *pick)
{
    struct image_jobs_run *run = mem_alloc(sizeof(*run));

    run->row = *row;
    *row = (struct image_jobs_row){0};
    snprintf(run->node, sizeof(run->node), "%s", pick ? pick->node : "");
    run->reply = reply_new_local(wake, j);
    run->eta_s = -1;
    run->begun_ns = clock_now_ns();
    run->next = j->runs;
    j->runs = run;
    return run;
}

// Takes the row, the request and the pick. False: that could not be written, and is not begun; the table would have it
// begun twice.
static bool run_begin(struct image_jobs *j, struct image_jobs_row *row, struct images_ask *ask,
                      struct image_upstream_pick *pick)
{
    struct image_jobs_run *run;
    struct images_task *t;

    row->state = IMAGE_JOBS_RUNNING;
    row->started_unix_s = clock_unix_s();
    row->attempts++;
    row->steps = ask->request.steps;
    row->why[0] = row->code[0] = '\0';
    run = run_new(j, row, pick);
    t = task_make(run, ask, pick);
    if (!row_write(j, &run->row)) {
        j->runs = run->next;
        images_task_free(t);
        run_free(run);
        return false;
    }
    if (images_dispatch(&j->places, t) == 0)
        return true;
    reply_finish(run->reply, 503,
                 answer_error(503, "whoever draws has too much to do", err_name(ERR_BUSY), NULL),
                 1);
    images_task_free(t);
    return true;
}

// A seed that nobody gave is the same at every attempt.
static void seed_set(struct image_jobs_row *row, struct images_ask *ask,
                     const struct image_upstream_pick *pick)
{
    if (ask->request.seed >= 0 || (pick && !pick->seeds))
        return;
    if (row->seed < 0)
        row->seed = image_jobs_seed_draw();
    ask->request.seed = row->seed;
}

// Where as many pictures are kept as may be, or as the disk can take, with those that are still to come, a job waits
// until some go.
static bool has_room(struct image_jobs *j, struct image_jobs_row *row)
{
    uint64_t pictures = row->n;
    struct err e = {0};

    for (const struct image_jobs_run *r = j->runs; r; r = r->next)
        if (!r->over)
            pictures += r->row.n - json_array_size(r->row.pictures);
    if (images_store_room(pictures, pictures * PICTURE_BYTES, &e) == 0)
        return true;
    row_wait(j, row, e.message, RETRY_S);
    return false;
}

// As it came in, for the model that was found then: a request that names none goes to whichever is first now.
static json_t *body_copy(const struct image_jobs_row *row)
{
    json_t *body = json_deep_copy(row->body);
    const char *model = json_string_value(json_object_get(body, "model"));

    if (!model || !model[0])
        json_put(body, "model", json_string(row->model));
    return body;
}

// What comes with an edit is read when there is somebody to draw it.
static int files_take(struct image_jobs *j, struct image_jobs_row *row, struct images_ask *ask,
                      struct err *e)
{
    int rc = row->edit ? image_jobs_row_files(j->db, row, e) : 0;

    ask->image = row->image;
    ask->mask = row->mask;
    row->image = row->mask = (struct images_part){0};
    if (rc == 0 && row->edit && !ask->image.data)
        rc = err_set(e, ERR_CORRUPT, "the picture that came with this job is gone; send it again");
    return rc;
}

// Whether somebody has the model of a row that was looked at; of all rows with that model, since the others stand behind.
static void missing_note(struct image_jobs *j, const struct image_jobs_row *row, bool missing)
{
    struct err e = {0};

    if (image_jobs_rows_missing(j->db, row->model, missing ? clock_unix_s() : 0, &e) != 0)
        log_warn("imagejobs", "%s", e.message);
}

// True: it waits no more, and the next one of its model may begin too.
static bool row_begin(struct image_jobs *j, struct image_jobs_row *row)
{
    struct images_ask ask = {.edit = row->edit, .files_later = true};
    struct image_upstream_pick *pick = NULL;
    struct parse_fault fault = {0};
    bool missing, gone = false;
    int rc;

    if (!has_room(j, row))
        return false;
    rc = images_choose(&j->places, body_copy(row), &ask, &pick, &fault);
    missing = rc != 0 && (fault.status == 404 || fault.status == 503);
    missing_note(j, row, missing);
    if (rc == 0 && is_taken(j, pick ? pick->node : "")) {
        look_in(j, RETRY_S); // a place may come free that no job of ours had
        goto out;
    }
    if (rc == 0)
        rc = files_take(j, row, &ask, &fault.e);
    if (rc == 0) {
        seed_set(row, &ask, pick);
        return run_begin(j, row, &ask, pick);
    }
    gone = missing ? row_miss(j, row, &fault.e)
                   : row_fail(j, row, err_name(fault.e.code), fault.e.message);
out:
    images_ask_fini(&ask);
    free(pick);
    return gone;
}

// Of each model that is waited for, the first one. False: there is no more to begin now.
static bool rows_begin(struct image_jobs *j)
{
    struct image_jobs_list l;
    struct err e = {0};
    bool more = false;

    if (image_jobs_rows_next(j->db, &l, &e) != 0) {
        log_warn("imagejobs", "%s", e.message);
        look_in(j, RETRY_S);
        return false;
    }
    for (size_t i = 0; i < l.n; i++)
        more |= row_begin(j, &l.items[i]);
    image_jobs_list_fini(&l);
    return more;
}

void image_jobs_begin(struct image_jobs *j, int64_t now_ns)
{
    if (!j->db || j->draining || now_ns < j->due_ns)
        return;
    j->due_ns = INT64_MAX;
    while (rows_begin(j))
        ;
}
