#include "gateway/status.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/core.h"
#include "gateway/image_upstream.h"
#include "gateway/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOADING_RETRY_S 2

struct query *query_new(enum query_kind kind, struct reply *reply, const char *model)
{
    struct query *q = mem_alloc(sizeof(*q));

    q->kind = kind;
    q->reply = reply;
    snprintf(q->model, sizeof(q->model), "%s", model ? model : "");
    buf_init(&q->page, METRICS_PAGE_MAX);
    return q;
}

void query_free(struct query *q)
{
    reply_drop(q->reply);
    json_decref(q->images);
    json_decref(q->image_nodes);
    json_decref(q->image_jobs);
    buf_fini(&q->page);
    free(q);
}

// Steals the object.
static void tell(struct query *q, unsigned status, json_t *o)
{
    reply_finish(q->reply, status, json_line(o), status == 503 ? LOADING_RETRY_S : 0);
    json_decref(o);
}

// ---- models ---------------------------------------------------------------------------------------

static json_t *model_json(const struct model *m)
{
    const struct message_welcome *w = &m->peer->welcome;
    json_t *o = json_object(), *meta = json_object(), *status = json_object();

    json_put(o, "id", answer_string(model_name(m)));
    json_put(o, "object", json_string("model"));
    json_put(o, "created", json_integer(0));
    json_put(o, "owned_by", json_string("tandem"));
    json_put(status, "value", json_string(model_state(m)));
    json_put(o, "status", status);
    if (!m->peer->known) {
        json_decref(meta);
        return o;
    }
    json_put(meta, "arch", answer_string(w->identity.arch));
    json_put(meta, "weights", answer_string(w->identity.weights));
    json_put(meta, "n_ctx", json_integer(w->limits.n_ctx));
    json_put(meta, "n_ctx_train", json_integer(w->identity.n_ctx_train));
    json_put(meta, "n_vocab", json_integer(w->identity.n_vocab));
    json_put(o, "meta", meta);
    return o;
}

static void tell_models(struct core *c, struct query *q)
{
    json_t *o = json_object(), *list = json_array();

    // One that is still loading for the first time has no name of its own yet.
    for (size_t i = 0; i < c->n_models; i++)
        if (c->models[i].options->name || c->models[i].peer->known)
            json_array_append_new(list, model_json(&c->models[i]));
    ship_models(c, list);
    if (q->images)
        json_array_append(list, q->images);
    if (q->image_nodes)
        json_array_extend(list, q->image_nodes);
    upstream_models(c, list);
    json_put(o, "object", json_string("list"));
    json_put(o, "data", list);
    tell(q, 200, o);
}

static void tell_no_model(struct core *c, struct query *q)
{
    char known[512], message[800];

    model_list(c, known, sizeof(known));
    snprintf(message, sizeof(message), "there is no model \"%.100s\" here; this server has %s",
             q->model, known);
    reply_finish(q->reply, 404, answer_error(404, message, "model_not_found", "model"), 0);
}

static void tell_model(struct core *c, struct query *q)
{
    const struct model *m = model_find(c, q->model);
    json_t *other = ship_named(q->model) ? ship_model(c, q->model)
                    : m                  ? NULL
                                         : upstream_model(c, q->model);

    if (other)
        tell(q, 200, other);
    else if (m && (m->options->name || m->peer->known))
        tell(q, 200, model_json(m));
    else
        tell_no_model(c, q);
}

// Loading takes its time: the answer says that it has begun.
static void tell_order(struct core *c, struct query *q)
{
    struct model *m = model_find(c, q->model);
    struct err e = {0};
    int rc;

    if (!m) {
        tell_no_model(c, q);
        return;
    }
    rc = q->kind == QUERY_LOAD ? model_wake(c, m, &e) : model_unload(c, m, &e);
    if (rc == 0)
        tell(q, 200, model_json(m));
    else
        reply_finish(q->reply, q->kind == QUERY_LOAD ? 503 : 409,
                     answer_error(q->kind == QUERY_LOAD ? 503 : 409, e.message,
                                  q->kind == QUERY_LOAD ? "no_room" : "busy", "model"),
                     q->kind == QUERY_LOAD ? LOADING_RETRY_S : 0);
}

// ---- health -----------------------------------------------------------------------------------------

// Of the first model: one on demand is well when it is not loaded too. Without any, of an upstream server; who has
// others draw and nothing else is well.
static bool is_well(const struct core *c)
{
    const struct model *m = &c->models[0];

    if (c->n_models == 0)
        return !c->upstreams || upstream_any_up(c);
    return m->peer->state == PEER_UP || (m->on_demand && m->peer->state != PEER_DEAD);
}

static const char *health_word(const struct core *c)
{
    const struct peer *local = c->models[0].peer;

    if (is_well(c))
        return "ok";
    if (local && local->state == PEER_DEAD)
        return "failed";
    return "loading";
}

static void tell_health(struct core *c, struct query *q)
{
    bool up = is_well(c), draining = q->kind == QUERY_READY && c->draining;
    json_t *o = json_object();

    json_put(o, "status", json_string(draining ? "draining" : health_word(c)));
    if (draining)
        json_put(o, "reason", json_string("the server is stopping; running requests end first"));
    else if (!up)
        json_put(o, "reason",
                 answer_string(c->n_models > 0 ? c->models[0].peer->why : upstream_why(c)));
    tell(q, up && !draining ? 200 : 503, o);
}

// ---- status -----------------------------------------------------------------------------------------

static void welcome_put(json_t *o, const struct message_welcome *w)
{
    json_put(o, "node_id", w->node_id[0] ? json_string(w->node_id) : json_null());
    json_put(o, "model", answer_string(w->model));
    json_put(o, "weights", answer_string(w->identity.weights));
    json_put(o, "arch", answer_string(w->identity.arch));
    json_put(o, "build", answer_string(w->build));
    json_put(o, "engine", answer_string(w->identity.engine));
    json_put(o, "engine_build", answer_string(w->identity.build));
    json_put(o, "system", answer_string(w->facts.system));
    json_put(o, "cpu", answer_string(w->facts.cpu));
    json_put(o, "cores", json_integer(w->facts.cores));
    json_put(o, "memory_bytes", json_integer((json_int_t)w->facts.memory_bytes));
    json_put(o, "facts", os_facts_json(&w->facts));
    json_put(o, "n_ctx", json_integer(w->limits.n_ctx));
    json_put(o, "n_seq", json_integer(w->limits.n_seq));
    json_put(o, "handoff", json_string(engine_handoff_name(w->limits.handoff)));
    json_put(o, "kv_bytes_per_token", json_real(w->limits.kv_bytes_per_token));
    json_put(o, "prefill_tokens_per_s", json_real(w->prefill_tokens_per_s));
    json_put(o, "decode_tokens_per_s", json_real(w->decode_tokens_per_s));
    json_put(o, "paced", json_boolean(w->paced));
    json_put(o, "dollars_per_hour", w->priced ? json_real(w->dollars_per_hour) : json_null());
    json_put(o, "spread", w->spread[0] ? answer_string(w->spread) : json_null());
    json_put(o, "pid", json_integer(w->pid));
}

// From this machine to a node and back.
static json_t *rtt_json(const struct peer *p)
{
    int64_t ns = p->link && !p->local ? wire_link_rtt_ns(p->link->wire) : 0;

    return ns > 0 ? json_real(ns_to_s(ns)) : json_null();
}

json_t *status_peer(struct core *c, const struct peer *p)
{
    int64_t now_ns = clock_now_ns();
    json_t *o = json_object();

    json_put(o, "name", answer_string(peer_name(p)));
    json_put(o, "address", answer_string(p->address));
    json_put(o, "role", json_string(p->local ? "decode" : p->welcome.draws ? "draw" : "prefill"));
    json_put(o, "does", json_string(p->welcome.draws ? "draw" : place_role_name(peer_role(p))));
    json_put(o, "serves", p->model ? answer_string(model_name(p->model)) : json_null());
    json_put(o, "state", json_string(peer_state_name(p->state)));
    json_put(o, "for_s", json_real(ns_to_s(now_ns - p->since_ns)));
    json_put(o, "why", p->state == PEER_UP ? json_null() : answer_string(p->why));
    json_put(o, "requests",
             json_integer(p->drawers ? image_nodes_requests(p->drawers, p->place)
                                     : request_count(c, p)));
    json_put(o, "link_bytes_per_s", json_real(p->link_bytes_per_s));
    json_put(o, "link_rtt_s", rtt_json(p));
    if (!p->local && !p->upstream)
        fleet_node_put(o, p);
    if (p->known)
        welcome_put(o, &p->welcome);
    json_put(o, "profile", placing_profile(p));
    json_put(o, "worker", p->status ? json_incref(p->status) : json_null());
    if (p->upstream)
        upstream_put(c, p, o);
    return o;
}

static json_t *request_json(const struct request *r, int64_t now_ns)
{
    json_t *o = json_object();
    bool planned = r->phase != REQUEST_RENDER && r->phase != REQUEST_WAIT;

    json_put(o, "id", json_string(r->answer.id));
    json_put(o, "kind", json_string(r->in.dialect->name));
    json_put(o, "phase", json_string(request_phase_name(r->phase)));
    json_put(o, "plan", planned ? json_string(place_kind_name(r->choice.kind)) : json_null());
    json_put(o, "reason", planned ? answer_string(r->choice.reason) : json_null());
    json_put(o, "prefill_node", r->prefill ? answer_string(peer_name(r->prefill)) : json_null());
    json_put(o, "decode_node", r->decode ? answer_string(peer_name(r->decode)) : json_null());
    json_put(o, "prompt_tokens", json_integer(r->n_tokens));
    json_put(o, "read_tokens", json_integer(r->read_tokens));
    json_put(o, "gen_tokens", json_integer(r->gen_tokens));
    json_put(o, "age_s", json_real(ns_to_s(now_ns - r->received_ns)));
    json_put(o, "fallback", r->fallback[0] ? answer_string(r->fallback) : json_null());
    return o;
}

static json_t *totals_json(const struct core_totals *t)
{
    const struct {
        const char *name;
        uint64_t value;
    } rows[] = {
        {"requests", t->requests}, {"local", t->local},         {"remote", t->remote},
        {"serial", t->serial},     {"hybrid", t->hybrid},       {"fallbacks", t->fallbacks},
        {"failed", t->failed},     {"cancelled", t->cancelled}, {"refused", t->refused},
    };
    json_t *o = json_object();

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        json_put(o, rows[i].name, json_integer((json_int_t)rows[i].value));
    return o;
}

static void tell_status(struct core *c, struct query *q)
{
    int64_t now_ns = clock_now_ns();
    json_t *o = json_object(), *nodes = json_array(), *requests = json_array();
    const struct peer *local = c->models[0].peer;

    for (size_t i = 0; i < c->n_peers; i++)
        if (c->peers[i].state != PEER_FREE)
            json_array_append_new(nodes, status_peer(c, &c->peers[i]));
    for (size_t i = 0; i < c->options.n_upstreams; i++)
        json_array_append_new(nodes, status_peer(c, &c->peers[CORE_PEERS_MAX + i]));
    for (const struct request *r = c->requests; r; r = r->next)
        json_array_append_new(requests, request_json(r, now_ns));
    json_put(o, "status", json_string(c->draining ? "draining" : health_word(c)));
    json_put(o, "build", json_string("tandem " TANDEM_VERSION));
    json_put(o, "uptime_s", json_real(ns_to_s(now_ns - c->started_ns)));
    json_put(o, "model", local && local->known ? answer_string(local->welcome.model) : json_null());
    json_put(o, "policy", json_string(place_policy_name(c->options.policy)));
    json_put(o, "max_requests", json_integer(c->options.max_requests));
    json_put(o, "nodes", nodes);
    json_put(o, "links", placing_links_json(c->placing));
    json_put(o, "seen", discover_json(c));
    json_put(o, "requests", requests);
    json_put(o, "totals", totals_json(&c->totals));
    json_put(o, "images", q->images ? json_incref(q->images) : json_null());
    json_put(o, "image_nodes", q->image_nodes ? json_incref(q->image_nodes) : json_array());
    json_put(o, "image_jobs", q->image_jobs ? json_incref(q->image_jobs) : json_null());
    tell(q, 200, o);
}

// ---- metrics and orders ---------------------------------------------------------------------------------

static void tell_metrics(struct core *c, struct query *q)
{
    metrics_put(c, &q->page);
    reply_finish(q->reply, 200, buf_take(&q->page), 0);
}

// A node that did not answer may still hold something: that is no success.
static void tell_forgotten(struct query *q)
{
    char message[ERR_MESSAGE_BYTES + 64];
    json_t *o;

    if (q->nodes < q->asked) {
        snprintf(message, sizeof(message),
                 "%llu of %zu workers did not answer within %d s; ask again",
                 (unsigned long long)(q->asked - q->nodes), q->asked,
                 (int)(STATUS_FORGET_NS / NS_PER_S));
        reply_finish(q->reply, 504, answer_error(504, message, "timeout", NULL), 0);
        return;
    }
    if (q->jobs_fault.code != 0) {
        snprintf(message, sizeof(message), "image jobs were not forgotten, all else was: %s",
                 q->jobs_fault.message);
        reply_finish(q->reply, 503, answer_error(503, message, err_name(q->jobs_fault.code), NULL),
                     0);
        return;
    }
    o = json_object();
    json_put(o, "sequences", json_integer((json_int_t)q->sequences));
    json_put(o, "nodes", json_integer((json_int_t)q->nodes));
    json_put(o, "pictures", json_incref(q->images));
    json_put(o, "image_jobs", json_incref(q->image_jobs));
    tell(q, 200, o);
}

// ---- queries ------------------------------------------------------------------------------------------

static void query_finish(struct core *c, struct query *q)
{
    struct query **at = &c->queries;

    while (*at && *at != q)
        at = &(*at)->next;
    if (*at)
        *at = q->next;
    if (q->kind == QUERY_STATUS)
        tell_status(c, q);
    else if (q->kind == QUERY_METRICS)
        tell_metrics(c, q);
    else
        tell_forgotten(q);
    query_free(q);
}

static bool slo_is_empty(const struct core *c, const struct placing_question *ask)
{
    enum place_policy policy = ask->has_policy ? ask->policy : c->options.policy;

    return policy == PLACE_SLO && !(ask->ttft_s > 0 || ask->token_s > 0) &&
           !(c->options.slo_ttft_s > 0 || c->options.slo_token_s > 0);
}

// True, and told: it is no model of this machine's, but there is one.
static bool tell_theirs(struct core *c, struct query *q)
{
    json_t *theirs = upstream_model(c, q->model);
    char message[PARSE_MODEL_BYTES + 200];

    if (!theirs)
        return false;
    json_decref(theirs);
    snprintf(message, sizeof(message),
             "only upstream servers have \"%s\": there is one plan, remote; which of them is asked "
             "stands in the timings of an answer",
             q->model);
    reply_finish(q->reply, 400, answer_error(400, message, err_name(ERR_UNSUPPORTED), "model"), 0);
    return true;
}

// Where a request of so many tokens would go.
static void tell_plans(struct core *c, struct query *q)
{
    const struct model *m = model_find(c, q->model);

    if (!m && tell_theirs(c, q))
        return;
    if (!m)
        tell_no_model(c, q);
    else if (slo_is_empty(c, &q->question))
        reply_finish(q->reply, 400,
                     answer_error(400,
                                  "the policy \"slo\" needs a limit: 'ttft_s', 'token_s' or both",
                                  err_name(ERR_INVALID), "policy"),
                     0);
    else if (m->peer->known)
        tell(q, 200, placing_explain(c->placing, m->peer, &q->question));
    else
        reply_finish(q->reply, 503,
                     answer_error(503, "the model is not loaded yet: nothing is known of it",
                                  "loading", "model"),
                     LOADING_RETRY_S);
}

static struct wire_frame question(const struct query *q)
{
    json_t *head;

    if (q->kind != QUERY_FORGET)
        return wire_frame_json(WIRE_STATUS, q->id, NULL);
    head = json_object();
    json_put(head, "owner", q->all ? json_null() : json_string(q->owner));
    return wire_frame_json(WIRE_FORGET, q->id, head);
}

static void workers_ask(struct core *c, struct query *q)
{
    q->id = c->next_id++;
    q->deadline_ns = clock_now_ns() + (q->kind == QUERY_FORGET ? STATUS_FORGET_NS : STATUS_WAIT_NS);
    q->next = c->queries;
    c->queries = q;
    for (size_t i = 0; i < c->n_peers; i++) {
        struct peer *p = &c->peers[i];

        if (p->state != PEER_UP && p->state != PEER_DRAINING)
            continue;
        peer_send(p, question(q));
        q->waiting++;
    }
    q->asked = q->waiting;
    if (q->waiting == 0 || c->stopping)
        query_finish(c, q);
}

static void tell_ollama(struct core *c, struct query *q)
{
    unsigned status;
    json_t *o = status_ollama(c, q, &status);

    tell(q, status, o);
}

void status_on_query(struct core *c, struct query *q)
{
    switch (q->kind) {
    case QUERY_STATUS:
    case QUERY_METRICS:
    case QUERY_FORGET:
        workers_ask(c, q);
        return;
    case QUERY_EXPLAIN:
        tell_plans(c, q);
        break;
    case QUERY_HEALTH:
    case QUERY_READY:
        tell_health(c, q);
        break;
    case QUERY_MODELS:
        tell_models(c, q);
        break;
    case QUERY_MODEL:
        tell_model(c, q);
        break;
    case QUERY_LOAD:
    case QUERY_UNLOAD:
        tell_order(c, q);
        break;
    case QUERY_OLLAMA_TAGS:
    case QUERY_OLLAMA_PS:
    case QUERY_OLLAMA_SHOW:
        tell_ollama(c, q);
        break;
    case QUERY_NODES:
    case QUERY_NODE:
    case QUERY_NODE_ADD:
    case QUERY_NODE_REMOVE:
    case QUERY_NODE_DRAIN:
    case QUERY_NODE_RESUME:
    case QUERY_NODE_ROLE:
        fleet_on_query(c, q);
        break;
    }
    query_free(q);
}

static void forgotten_count(struct query *q, const json_t *head)
{
    json_int_t n = json_integer_value(json_object_get(head, "sequences"));

    q->nodes++;
    q->sequences += n > 0 ? (uint64_t)n : 0;
}

void status_on_frame(struct core *c, struct peer *p, const struct wire_frame *f)
{
    struct err e = {0};
    json_t *head = wire_frame_parse(f, &e);
    struct query *q = c->queries;
    struct message_power power;

    if (!head)
        return;
    while (q && q->id != f->id)
        q = q->next;
    if (f->type == WIRE_STATUS_IS) {
        json_decref(p->status);
        p->status = json_incref(head);
        peer_on_status(p, head);
        if (message_power_parse(head, &power, &e) == 0)
            placing_power(p, &power);
    } else if (q && f->type == WIRE_FORGOTTEN) {
        forgotten_count(q, head);
    }
    json_decref(head);
    if (q && --q->waiting == 0)
        query_finish(c, q);
}

bool status_asked(const struct core *c, uint64_t id)
{
    const struct query *q = c->queries;

    while (q && q->id != id)
        q = q->next;
    return q != NULL;
}

int64_t status_tick(struct core *c, int64_t now_ns)
{
    int64_t next_ns = INT64_MAX;

    for (struct query *q = c->queries, *next; q; q = next) {
        next = q->next;
        if (now_ns >= q->deadline_ns)
            query_finish(c, q);
        else if (q->deadline_ns < next_ns)
            next_ns = q->deadline_ns;
    }
    return next_ns;
}

void status_stop(struct core *c)
{
    while (c->queries)
        query_finish(c, c->queries);
}
