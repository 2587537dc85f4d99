// Routes for whoever runs the server, and those that need nothing but the core's word.
#include "gateway/route.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/image_jobs.h"
#include "gateway/ollama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum MHD_Result route_query_send(struct exchange *x, struct query *q)
{
    struct core_message m = {.what = CORE_QUERY, .query = q};
    struct reply *reply = q->reply;
    int rc = core_send(x->core, &m, 0);

    if (rc != 0)
        query_free(q);
    return http_await(x, reply, rc);
}

static enum MHD_Result run_query(struct exchange *x, enum query_kind kind)
{
    return route_query_send(x, query_new(kind, reply_new(x->connection), x->rest));
}

enum MHD_Result run_models(struct exchange *x)
{
    struct query *q = query_new(QUERY_MODELS, reply_new(x->connection), NULL);

    q->images = x->images ? images_model_json(x->images) : NULL;
    q->image_nodes = image_upstreams_models(x->image_upstreams, NULL);
    return route_query_send(x, q);
}

static enum MHD_Result answer_json(struct exchange *x, json_t *o)
{
    char *text = json_line(o);

    json_decref(o);
    return http_answer(x, 200, text);
}

enum MHD_Result run_model(struct exchange *x)
{
    if (x->images && images_goes_by(images_known(x->images), x->rest))
        return answer_json(x, images_model_json(x->images));
    json_t *others = image_upstreams_models(x->image_upstreams, x->rest);
    json_t *first = json_incref(json_array_get(others, 0));

    json_decref(others);
    return first ? answer_json(x, first) : run_query(x, QUERY_MODEL);
}

// {"model": NAME}
static int order_parse(const struct exchange *x, struct query *q, struct err *e)
{
    size_t n;
    const char *body = http_body(x, &n), *name = NULL;
    json_t *o = json_parse(body, n, e);
    int rc = o ? json_get_string(o, "model", &name, e) : e->code;

    if (rc == 0 && (!name || !name[0]))
        rc = err_set(e, ERR_INVALID, "'model' is missing: say which model");
    if (rc == 0 && (size_t)snprintf(q->model, sizeof(q->model), "%s", name) >= sizeof(q->model))
        rc = err_set(e, ERR_RANGE, "'model' is longer than %zu bytes", sizeof(q->model) - 1);
    json_decref(o);
    return rc;
}

static enum MHD_Result run_order(struct exchange *x, enum query_kind kind)
{
    struct query *q = query_new(kind, reply_new(x->connection), NULL);
    struct reply *reply = q->reply;
    struct err e = {0};
    int rc = order_parse(x, q, &e);

    http_body_drop(x);
    if (rc == 0)
        return route_query_send(x, q);
    query_free(q);
    reply_drop(reply);
    return http_answer(x, 400, route_error(x, 400, err_name(rc), "model", e.message));
}

enum MHD_Result run_load(struct exchange *x)
{
    return run_order(x, QUERY_LOAD);
}

enum MHD_Result run_unload(struct exchange *x)
{
    return run_order(x, QUERY_UNLOAD);
}

enum MHD_Result run_status(struct exchange *x)
{
    struct query *q = query_new(QUERY_STATUS, reply_new(x->connection), NULL);

    q->images = x->images ? images_status_json(x->images) : NULL;
    q->image_nodes = image_upstreams_status(x->image_upstreams);
    q->image_jobs = image_jobs_status_json(x->image_jobs);
    return route_query_send(x, q);
}

// Anybody may ask how the server is; what it does is for those who may see the status.
enum MHD_Result run_health(struct exchange *x)
{
    bool all = x->admin && http_has_argument(x, "verbose");

    return all ? run_status(x) : run_query(x, QUERY_HEALTH);
}

// The process answers: nothing more is said, and the core is not asked.
enum MHD_Result run_live(struct exchange *x)
{
    return http_answer(x, 200, mem_strdup("{\"status\":\"ok\"}"));
}

enum MHD_Result run_ready(struct exchange *x)
{
    return run_query(x, QUERY_READY);
}

// What HTTP alone knows stands at the head of the page; the core adds the rest.
enum MHD_Result run_metrics(struct exchange *x)
{
    struct query *q = query_new(QUERY_METRICS, reply_new(x->connection), NULL);

    reply_type_set(q->reply, METRICS_TYPE);
    http_metrics_put(x, &q->page);
    if (x->images)
        images_metrics_put(x->images, &q->page);
    image_upstreams_metrics_put(x->image_upstreams, &q->page);
    image_jobs_metrics_put(x->image_jobs, &q->page);
    return route_query_send(x, q);
}

// ---- forgetting -----------------------------------------------------------------------------------------

// {"key": NAME} forgets what this key's requests left; {} or no body everything.
static int forget_parse(const struct exchange *x, struct query *q, struct err *e)
{
    size_t n;
    const char *body = http_body(x, &n), *name = NULL;
    json_t *o = n > 0 ? json_parse(body, n, e) : NULL;
    const struct access_key *k;
    int rc = n > 0 && !o ? e->code : 0;

    if (o && !json_is_object(o))
        rc = err_set(e, ERR_INVALID, "the body must be a JSON object");
    else if (o)
        rc = json_get_string(o, "key", &name, e);
    q->all = name == NULL;
    k = rc == 0 && name ? access_named(x->access, name) : NULL;
    if (rc == 0 && name && !k)
        rc = err_set(e, ERR_NOT_FOUND, "there is no API key named \"%.60s\"", name);
    else if (k)
        memcpy(q->owner, k->owner, sizeof(q->owner));
    json_decref(o);
    return rc;
}

struct forgetting {
    struct core *core;
    struct query *query;
};

// On the thread of the image jobs, which may wait for the disk; the core asks the workers then.
static void jobs_forgotten(void *ctx, uint64_t n, const struct err *e)
{
    struct forgetting *f = ctx;
    struct core_message m = {.what = CORE_QUERY, .query = f->query};

    f->query->images =
        json_integer((json_int_t)images_store_forget(f->query->all ? NULL : f->query->owner));
    f->query->image_jobs = json_integer((json_int_t)n);
    f->query->jobs_fault = *e;
    if (core_send(f->core, &m, CHAN_FOREVER) != 0) {
        reply_abort(f->query->reply);
        query_free(f->query);
    }
    free(f);
}

static enum MHD_Result forget_send(struct exchange *x, struct query *q)
{
    struct image_jobs_task *t = image_jobs_task_new(IMAGE_JOBS_FORGET, NULL);
    struct forgetting *f = mem_alloc(sizeof(*f));
    struct reply *reply = q->reply;
    int rc;

    *f = (struct forgetting){x->core, q};
    t->all = q->all;
    memcpy(t->owner, q->owner, sizeof(t->owner));
    t->forgotten = jobs_forgotten;
    t->ctx = f;
    rc = image_jobs_send(x->image_jobs, t);
    if (rc != 0) {
        image_jobs_task_free(t);
        query_free(q);
        free(f);
    }
    return http_await(x, reply, rc);
}

enum MHD_Result run_forget(struct exchange *x)
{
    struct query *q = query_new(QUERY_FORGET, reply_new(x->connection), NULL);
    struct reply *reply = q->reply;
    struct err e = {0};
    int rc = forget_parse(x, q, &e);
    unsigned status = rc == ERR_NOT_FOUND ? 404 : 400;

    http_body_drop(x);
    if (rc == 0)
        return forget_send(x, q);
    query_free(q);
    reply_drop(reply);
    return http_answer(x, status, route_error(x, status, err_name(rc), "key", e.message));
}

// ---- explaining -----------------------------------------------------------------------------------------

// {"model": NAME, "prompt_tokens": N, "answer_tokens": N, "policy": NAME, "ttft_s": S, "token_s": S}; all but
// prompt_tokens may be left out.
static int explain_fill(const json_t *o, struct query *q, struct err *e)
{
    struct placing_question *ask = &q->question;
    const char *model = NULL, *policy = NULL;
    int64_t prompt = 0;
    int rc = json_get_string(o, "model", &model, e);

    if (rc == 0 && model &&
        (size_t)snprintf(q->model, sizeof(q->model), "%s", model) >= sizeof(q->model))
        rc = err_set(e, ERR_RANGE, "'model' is longer than %zu bytes", sizeof(q->model) - 1);
    if (rc == 0)
        rc = json_get_i64(o, "prompt_tokens", 1, MESSAGE_MAX_TOKENS, &prompt, e);
    if (rc == 0 && prompt == 0)
        rc = err_set(e, ERR_INVALID, "'prompt_tokens' is missing: say how long the prompt is");
    if (rc == 0)
        rc = json_get_f64(o, "answer_tokens", 1, MESSAGE_MAX_TOKENS, &ask->answer_tokens, e);
    if (rc == 0)
        rc = json_get_f64(o, "ttft_s", 0, 1e6, &ask->ttft_s, e);
    if (rc == 0)
        rc = json_get_f64(o, "token_s", 0, 1e6, &ask->token_s, e);
    if (rc == 0)
        rc = json_get_string(o, "policy", &policy, e);
    if (rc == 0 && policy && !place_policy_parse(policy, &ask->policy))
        rc = err_set(e, ERR_INVALID,
                     "'policy' is \"%.40s\"; it can be latency, throughput, energy, cost or slo",
                     policy);
    ask->prompt_tokens = (uint32_t)prompt;
    ask->has_policy = policy != NULL;
    return rc;
}

enum MHD_Result run_explain(struct exchange *x)
{
    struct query *q = query_new(QUERY_EXPLAIN, reply_new(x->connection), NULL);
    struct reply *reply = q->reply;
    struct err e = {0};
    size_t n;
    const char *body = http_body(x, &n);
    json_t *o = json_parse(body, n, &e);
    int rc = !o                  ? e.code
             : json_is_object(o) ? explain_fill(o, q, &e)
                                 : err_set(&e, ERR_INVALID, "the body must be a JSON object");

    json_decref(o);
    http_body_drop(x);
    if (rc == 0)
        return route_query_send(x, q);
    query_free(q);
    reply_drop(reply);
    return http_answer(x, 400, route_error(x, 400, err_name(rc), NULL, e.message));
}

// ---- Ollama's ---------------------------------------------------------------------------------------------

enum MHD_Result run_ollama_version(struct exchange *x)
{
    return answer_json(x, ollama_version_json());
}

enum MHD_Result run_ollama_tags(struct exchange *x)
{
    return run_query(x, QUERY_OLLAMA_TAGS);
}

enum MHD_Result run_ollama_ps(struct exchange *x)
{
    return run_query(x, QUERY_OLLAMA_PS);
}

enum MHD_Result run_ollama_show(struct exchange *x)
{
    char model[PARSE_MODEL_BYTES] = "";
    struct parse_fault fault = {.status = 400};
    size_t n;
    const char *text = http_body(x, &n);
    json_t *body = json_parse(text, n, &fault.e);
    int rc = body ? ollama_show_parse(body, model, &fault) : fault.e.code;

    json_decref(body);
    http_body_drop(x);
    if (rc != 0)
        return http_answer(x, (unsigned)fault.status,
                           route_error(x, (unsigned)fault.status, err_name(fault.e.code),
                                       fault.param, fault.e.message));
    return route_query_send(x, query_new(QUERY_OLLAMA_SHOW, reply_new(x->connection), model));
}
