// OpenAI's /fine_tuning/jobs: what is asked, and the way to the thread that
// answers (tuning.h).
#include "gateway/route.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/tuning.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_MAX 100

static enum MHD_Result refuse(struct exchange *x, unsigned status, const char *param,
                              const char *message)
{
    return http_answer(x, status, route_error(x, status, NULL, param, message));
}

static enum MHD_Result send_task(struct exchange *x, struct tuning_task *t)
{
    struct reply *reply = t->reply;
    int rc = tuning_send(x->tuning, t);

    if (rc != 0)
        tuning_task_free(t);
    return http_await(x, reply, rc);
}

static struct tuning_task *task_new(struct exchange *x, enum tuning_what what)
{
    struct tuning_task *t = tuning_task_new(what, reply_new(x->connection));

    snprintf(t->owner, sizeof(t->owner), "%s", x->key ? x->key->name : "");
    return t;
}

enum MHD_Result run_tuning_create(struct exchange *x)
{
    size_t n;
    struct err e = {0};
    const char *text = http_body(x, &n);
    json_t *body = json_parse(text, n, &e);
    struct tuning_task *t;

    http_body_drop(x);
    if (!body)
        return refuse(x, 400, NULL, e.message);
    t = task_new(x, TUNING_CREATE);
    t->body = body;
    return send_task(x, t);
}

// "?after=ID&limit=N" of a list; what is wrong with it is in *e.
static int page_take(struct exchange *x, struct tuning_task *t, struct err *e)
{
    const char *after = http_argument(x, "after");
    int64_t limit = t->limit;
    int rc = http_argument_number(x, "limit", 1, LIMIT_MAX, &limit, e);

    if (rc == 0 && after && strlen(after) >= sizeof(t->after))
        rc = err_set(e, ERR_INVALID, "'after' is no id");
    if (rc == 0)
        snprintf(t->after, sizeof(t->after), "%s", after ? after : "");
    t->limit = (uint32_t)limit;
    return rc;
}

static enum MHD_Result send_page(struct exchange *x, struct tuning_task *t)
{
    struct err e = {0};
    struct reply *reply = t->reply;

    if (page_take(x, t, &e) == 0)
        return send_task(x, t);
    tuning_task_free(t);
    reply_drop(reply);
    return refuse(x, 400, strstr(e.message, "after") ? "after" : "limit", e.message);
}

enum MHD_Result run_tuning_jobs(struct exchange *x)
{
    return send_page(x, task_new(x, TUNING_LIST));
}

static enum MHD_Result no_such(struct exchange *x)
{
    char message[200];

    snprintf(message, sizeof(message),
             "there is no %s /v1/fine_tuning/jobs/%.80s; there are GET ID, ID/events, "
             "ID/checkpoints and POST ID/cancel",
             x->method, x->rest);
    return refuse(x, 404, NULL, message);
}

static bool wants_stream(const struct exchange *x)
{
    const char *stream = http_argument(x, "stream");

    return stream && (strcmp(stream, "true") == 0 || strcmp(stream, "1") == 0);
}

enum MHD_Result run_tuning_job(struct exchange *x)
{
    char id[JOBS_ID_BYTES];
    const char *word = http_id_take(x, id, sizeof(id));
    struct tuning_task *t;
    enum tuning_what what = TUNING_SHOW;

    if (word && strcmp(word, "events") == 0)
        what = wants_stream(x) ? TUNING_STREAM : TUNING_EVENTS;
    else if (word && strcmp(word, "checkpoints") == 0)
        what = TUNING_CHECKPOINTS;
    else if (!word || *word)
        return no_such(x);
    t = task_new(x, what);
    memcpy(t->id, id, sizeof(t->id));
    return what == TUNING_SHOW || what == TUNING_STREAM ? send_task(x, t) : send_page(x, t);
}

enum MHD_Result run_tuning_act(struct exchange *x)
{
    char id[JOBS_ID_BYTES];
    const char *word = http_id_take(x, id, sizeof(id));
    struct tuning_task *t;

    http_body_drop(x);
    if (!word || strcmp(word, "cancel") != 0)
        return no_such(x);
    t = task_new(x, TUNING_CANCEL);
    memcpy(t->id, id, sizeof(t->id));
    return send_task(x, t);
}
