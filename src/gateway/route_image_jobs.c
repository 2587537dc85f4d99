// /images/jobs: what is asked, and the way to the thread that keeps the jobs (image_jobs.h).
#include "gateway/route.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/image_jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum MHD_Result refuse(struct exchange *x, unsigned status, const char *param,
                              const char *message)
{
    return http_answer(x, status, route_error(x, status, NULL, param, message));
}

static struct image_jobs_task *task_new(struct exchange *x, enum image_jobs_what what)
{
    struct image_jobs_task *t = image_jobs_task_new(what, reply_new(x->connection));

    memcpy(t->owner, x->key ? x->key->owner : "", x->key ? sizeof(t->owner) : 1);
    t->all = x->admin;
    return t;
}

static enum MHD_Result send_task(struct exchange *x, struct image_jobs_task *t)
{
    struct reply *reply = t->reply;
    int rc = image_jobs_send(x->image_jobs, t);

    if (rc != 0)
        image_jobs_task_free(t);
    return http_await(x, reply, rc);
}

// ---- a new one ------------------------------------------------------------------------------------------

// Held against who would draw it now; who does is decided again when its turn comes.
static int ask_check(struct exchange *x, json_t *body, struct image_jobs_task *t,
                     struct parse_fault *fault)
{
    const struct images_places places = {x->images, x->image_upstreams};
    struct image_upstream_pick *pick = NULL;
    int rc = images_choose(&places, body, &t->ask, &pick, fault);

    if (rc == 0 && json_is_false(json_object_get(body, "store")))
        rc = parse_fault_set(fault, ERR_INVALID, "store",
                             "a job keeps its pictures until they are fetched, and 'store' is "
                             "false; POST /v1/images/generations keeps nothing");
    if (rc == 0) {
        // Jobs for one server do not stand before those that others can draw as well.
        snprintf(t->model, sizeof(t->model), "%s",
                 !pick         ? images_known(x->images)->name
                 : pick->fixed ? json_string_or(body, "model", pick->ours)
                               : pick->ours);
        t->seeds = !pick || pick->seeds;
    }
    free(pick);
    return rc;
}

enum MHD_Result run_image_job_create(struct exchange *x)
{
    const struct images_places places = {x->images, x->image_upstreams};
    struct parse_fault fault = {.status = 400};
    struct image_jobs_task *t;
    json_t *body;
    int rc;

    if (!images_are_drawn(&places))
        return route_images_none(x);
    t = task_new(x, IMAGE_JOBS_CREATE);
    body = route_images_body(x, &t->ask, &fault);
    rc = body ? ask_check(x, body, t, &fault) : fault.e.code;
    http_body_drop(x);
    if (rc == 0) {
        route_images_base(x, t->base);
        return send_task(x, t);
    }
    reply_drop(t->reply);
    image_jobs_task_free(t);
    return route_images_fault(x, &fault);
}

// ---- those that are there -------------------------------------------------------------------------------

// The HTTP thread's reference goes as well: no task was sent.
static enum MHD_Result refuse_task(struct exchange *x, struct image_jobs_task *t, unsigned status,
                                   const char *param, const char *message)
{
    reply_drop(t->reply);
    image_jobs_task_free(t);
    return refuse(x, status, param, message);
}

enum MHD_Result run_image_jobs(struct exchange *x)
{
    const char *after = http_argument(x, "after");
    int64_t limit = IMAGE_JOBS_PAGE;
    struct image_jobs_task *t;
    struct err e = {0};

    t = task_new(x, IMAGE_JOBS_LIST);
    if (after && strlen(after) >= sizeof(t->id))
        return refuse_task(x, t, 400, "after", "'after' is no id of a job");
    if (http_argument_number(x, "limit", 1, IMAGE_JOBS_PAGE_MAX, &limit, &e) != 0)
        return refuse_task(x, t, 400, "limit", e.message);
    snprintf(t->id, sizeof(t->id), "%s", after ? after : "");
    t->limit = (uint32_t)limit;
    return send_task(x, t);
}

static enum MHD_Result no_such(struct exchange *x)
{
    char message[240];

    snprintf(message, sizeof(message),
             "there is no %s /v1/images/jobs/%.80s; there are GET ID, ID/content, ID/events, POST "
             "ID/cancel and DELETE ID",
             x->method, x->rest);
    return refuse(x, 404, NULL, message);
}

static enum MHD_Result run_word(struct exchange *x, const char *id, enum image_jobs_what what)
{
    const char *result = http_argument(x, "result");
    struct image_jobs_task *t;
    int64_t index = 0;
    struct err e = {0};

    t = task_new(x, what);
    snprintf(t->id, sizeof(t->id), "%s", id);
    if (http_argument_number(x, "index", 0, IMAGE_COUNT_MAX - 1, &index, &e) != 0)
        return refuse_task(x, t, 400, "index", e.message);
    t->index = (uint32_t)index;
    t->brief = result && strcmp(result, "false") == 0;
    return send_task(x, t);
}

enum MHD_Result run_image_job(struct exchange *x)
{
    char id[IMAGE_JOBS_ID_BYTES];
    const char *word = http_id_take(x, id, sizeof(id));

    if (word && !*word)
        return run_word(x, id, IMAGE_JOBS_SHOW);
    if (word && strcmp(word, "content") == 0)
        return run_word(x, id, IMAGE_JOBS_CONTENT);
    if (word && strcmp(word, "events") == 0)
        return run_word(x, id, IMAGE_JOBS_EVENTS);
    return no_such(x);
}

enum MHD_Result run_image_job_act(struct exchange *x)
{
    char id[IMAGE_JOBS_ID_BYTES];
    const char *word = http_id_take(x, id, sizeof(id));

    http_body_drop(x);
    if (word && strcmp(word, "cancel") == 0)
        return run_word(x, id, IMAGE_JOBS_CANCEL);
    return no_such(x);
}

enum MHD_Result run_image_job_delete(struct exchange *x)
{
    char id[IMAGE_JOBS_ID_BYTES];
    const char *word = http_id_take(x, id, sizeof(id));

    http_body_drop(x);
    return word && !*word ? run_word(x, id, IMAGE_JOBS_DELETE) : no_such(x);
}
