// Requests that upstream servers answer: which one is asked, and what comes of it.
#include "base/clock.h"
#include "base/json.h"
#include "gateway/core.h"
#include "gateway/profiles.h"
#include "gateway/upstream_impl.h"
#include "sched/place.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEARN_SHARE 0.2
// What a token of text can have in bytes, whatever a server says of how many there were.
#define TOKEN_BYTES_LEAST 0.25
#define TOKEN_BYTES_MOST 64.0
#define PASSED_S 10 // that a server is passed over after a failure, where another has the model

// ---- asking -------------------------------------------------------------------------------------------

void upstream_run(struct core *c, struct request *r, size_t at)
{
    struct upstream *u = r->decode->upstream;
    const struct upstream_model *m = upstream_wanted(u, r);
    json_t *body = upstream_body(&r->in, at, m ? m->theirs : r->in.model);
    const struct request_fault fault = {.status = 503, .code = "upstream_busy"};
    struct err e = {0};

    snprintf(u->asked, sizeof(u->asked), "%s", m ? m->theirs : "");
    request_run_open(r, at);
    if (upstream_thread_ask(u->thread, u->index, r->id + at, r->in.kind == PARSE_CHAT,
                            json_text(body)) != 0) {
        err_set(&e, ERR_BUSY, "too many requests wait to be sent to upstream server %s",
                u->options->name);
        request_fail_as(c, r, fault, &e);
    }
    json_decref(body);
}

// Bytes of what is asked, as a guess of its tokens.
static double bytes_of(const struct request *r)
{
    size_t n = json_dumpb(r->in.render, NULL, 0, JSON_COMPACT);

    for (size_t i = 0; i < json_array_size(r->in.more); i++)
        n += json_dumpb(json_array_get(r->in.more, i), NULL, 0, JSON_COMPACT);
    return (double)n;
}

// ---- choosing -----------------------------------------------------------------------------------------

struct profile_book *upstream_book(struct core *c, const struct upstream *u,
                                   const struct upstream_model *m)
{
    struct profile_book *b;
    struct profile begin;

    profile_defaults(&begin);
    b = profiles_get(placing_profiles(c->placing), u->options->name, m->theirs, &begin,
                     PROFILE_TRUST_NONE);
    if (b) {
        b->p.n_ctx = UPSTREAM_CONTEXT;
        b->p.n_seq = UPSTREAM_SLOTS;
    }
    return b;
}

static bool is_candidate(const struct request *r, const struct upstream *u)
{
    return !(r->tried >> u->index & 1) && u->peer->state == PEER_UP && upstream_wanted(u, r);
}

// Servers are compared within the first of these that has any.
enum tier {
    TIER_NEW, // of whose speed nothing is known: it would never be found out otherwise
    TIER_KNOWN,
    TIER_PASSED, // it failed lately, or asked to be left alone
    TIER_NONE,   // no candidate
};

static enum tier tier_of(struct core *c, const struct request *r, const struct upstream *u)
{
    const struct profile_book *b;

    if (!is_candidate(r, u))
        return TIER_NONE;
    if (u->busy_until_ns > clock_now_ns())
        return TIER_PASSED;
    b = upstream_book(c, u, upstream_wanted(u, r));
    // One new request at a time: its answer tells more than ten that wait for it.
    return b && upstream_is_unseen(b) && request_count(c, u->peer) == 0 ? TIER_NEW : TIER_KNOWN;
}

static enum tier best_tier(struct core *c, const struct request *r)
{
    enum tier best = TIER_NONE;

    for (size_t i = 0; i < c->upstreams->n; i++) {
        enum tier t = tier_of(c, r, &c->upstreams->all[i]);

        best = t < best ? t : best;
    }
    return best;
}

static void nodes_fill(struct core *c, const struct request *r, struct place_node *nodes)
{
    enum tier best = best_tier(c, r);

    for (size_t i = 0; i < c->upstreams->n; i++) {
        const struct upstream *u = &c->upstreams->all[i];
        const struct upstream_model *m = upstream_wanted(u, r);
        const struct profile_book *b = m ? upstream_book(c, u, m) : NULL;

        nodes[i] = upstream_node(c, u, b);
        nodes[i].id = i + 1;
        nodes[i].up = b && best < TIER_NONE && tier_of(c, r, u) == best;
        nodes[i].why = u->peer->why;
    }
}

static struct place_link no_link(void *ctx, size_t from, size_t to)
{
    (void)ctx;
    (void)from;
    (void)to;
    return (struct place_link){0};
}

// As the first server that has the model counts them.
static uint32_t prompt_guess(const struct core *c, const struct request *r)
{
    size_t i = 0;

    while (i + 1 < c->upstreams->n && !upstream_wanted(&c->upstreams->all[i], r))
        i++;
    return (uint32_t)(bytes_of(r) / c->upstreams->all[i].token_bytes) + 1;
}

static void question_fill(const struct core *c, const struct request *r, struct place_request *q)
{
    const struct gateway_options *o = &c->options;
    enum place_policy asked = r->in.has_policy ? r->in.policy : o->policy;

    place_request_defaults(q);
    q->prompt_tokens = prompt_guess(c, r);
    q->answer_tokens = r->in.max_tokens > 0 && r->in.max_tokens < UPSTREAM_ANSWER_TOKENS
                           ? r->in.max_tokens
                           : UPSTREAM_ANSWER_TOKENS;
    q->answer_room = 1; // the server knows its own context best
    // What throughput and energy look at is not known of other people's machines.
    q->policy = asked == PLACE_COST || asked == PLACE_SLO ? asked : PLACE_LATENCY;
    q->ttft_s = r->in.slo_ttft_s > 0 ? r->in.slo_ttft_s : o->slo_ttft_s;
    q->token_s = r->in.slo_token_s > 0 ? r->in.slo_token_s : o->slo_token_s;
}

// The server that is asked; NULL: none is left, with words.
static struct upstream *choose(struct core *c, struct request *r, struct err *e)
{
    struct place_node nodes[GATEWAY_UPSTREAMS_MAX];
    struct place_scratch scratch[GATEWAY_UPSTREAMS_MAX];
    struct place_plan plans[PLACE_ROWS];
    struct place_table table = {.plans = plans, .max = PLACE_ROWS};
    struct place_nodes all = {
        .nodes = nodes, .n = c->upstreams->n, .link = no_link, .home = PLACE_NO_NODE};
    struct place_request q;

    question_fill(c, r, &q);
    nodes_fill(c, r, nodes);
    if (place_choose(&all, &q, scratch, &table) != 0) {
        err_set(e, ERR_BUSY, "%s", table.refusal);
        return NULL;
    }
    place_tell(&all, &q, &table, 0, r->choice.reason);
    if (!r->fallback[0])
        snprintf(r->fallback, sizeof(r->fallback), "%s", table.fallback);
    r->choice.plan = plans[0];
    r->choice.predicted = true;
    r->placed_ns = clock_now_ns();
    r->choice.answer_tokens = q.answer_tokens;
    r->choice.policy = q.policy;
    return &c->upstreams->all[plans[0].decode];
}

// ---- a request ------------------------------------------------------------------------------------------

static bool known_to_any(const struct core *c, const char *name)
{
    for (size_t i = 0; i < c->upstreams->n; i++)
        if (upstream_model_of(&c->upstreams->all[i], name))
            return true;
    return false;
}

// One that may have the model, for all that is known.
static const struct upstream *unlisted(const struct core *c)
{
    for (size_t i = 0; i < c->upstreams->n; i++)
        if (!c->upstreams->all[i].listed)
            return &c->upstreams->all[i];
    return NULL;
}

static void fail_unlisted(struct core *c, struct request *r, const struct upstream *u)
{
    const struct request_fault fault = {.status = 503, .code = "upstream_down"};
    struct err e = {0};

    err_set(&e, ERR_BUSY,
            "there is no model \"%.100s\" here yet; upstream server %s, which may have it, has not "
            "told its models: %.200s",
            r->in.model, u->options->name, u->peer->why);
    r->retry_after_s = 2;
    request_fail_as(c, r, fault, &e);
}

static void fail_none_up(struct core *c, struct request *r)
{
    const struct request_fault fault = {.status = 503, .code = "upstream_down"};
    struct err e = {0};
    char why[400] = "";
    size_t n = 0;

    for (size_t i = 0; i < c->upstreams->n && n < sizeof(why); i++) {
        const struct upstream *u = &c->upstreams->all[i];

        if (upstream_wanted(u, r))
            n += (size_t)snprintf(why + n, sizeof(why) - n, "%s%s: %.150s", n > 0 ? "; " : "",
                                  u->options->name, u->peer->why);
    }
    err_set(&e, ERR_BUSY, "no upstream server that has this model is up (%s); try again later",
            why);
    r->retry_after_s = 5;
    request_fail_as(c, r, fault, &e);
}

// Every run at once: a server reads a prompt that it got twice as it sees fit.
static void send_all(struct core *c, struct request *r, struct upstream *u)
{
    const struct upstream_model *m = upstream_wanted(u, r);

    snprintf(r->served, sizeof(r->served), "%s", m ? m->ours : r->in.model);
    r->answer.model = r->served;
    r->decode = u->peer;
    r->decode_sent_ns = clock_now_ns();
    r->followed = true;
    request_ids_take(c, r, r->n_runs);
    r->epoch++;
    request_phase_set(r, REQUEST_GENERATE, INT64_MAX);
    for (size_t i = 0; i < r->n_runs && !r->over; i++)
        upstream_run(c, r, i);
}

// The stream begins with the first token, so that a server's refusal still has a status of its own.
static void plan(struct core *c, struct request *r)
{
    struct err e = {0};
    struct upstream *u = choose(c, r, &e);

    if (!u) {
        fail_none_up(c, r);
        return;
    }
    r->choice.kind = PLACE_REMOTE;
    r->choice.decode = u->peer;
    if (r->in.plan != PLACE_AUTO && r->in.plan != PLACE_REMOTE && !r->fallback[0])
        snprintf(r->fallback, sizeof(r->fallback),
                 "plan \"%s\" was asked for; only upstream servers have this model",
                 place_kind_name(r->in.plan));
    send_all(c, r, u);
}

// For a request that names none: of a server that is up, if there is one.
static const char *first_model(const struct core *c)
{
    const char *first = "";

    for (size_t i = c->upstreams->n; i-- > 0;) {
        const struct upstream *u = &c->upstreams->all[i];

        if (u->n_models > 0 && (!first[0] || u->peer->state == PEER_UP))
            first = u->models[0].ours;
    }
    return first;
}

bool upstream_admit(struct core *c, struct request *r)
{
    const struct upstream *may;
    struct request_fault fault = {.status = 400, .code = "unsupported"};
    struct err e = {0};

    if (!c->upstreams || ship_named(r->in.model))
        return false;
    if (!r->in.model[0])
        snprintf(r->in.model, sizeof(r->in.model), "%s", first_model(c));
    may = unlisted(c);
    if (!known_to_any(c, r->in.model) && !may)
        return false;
    r->answer.model = r->in.model;
    if (!known_to_any(c, r->in.model))
        fail_unlisted(c, r, may);
    else if (upstream_body_check(&r->in, &fault.param, &e) != 0)
        request_fail_as(c, r, fault, &e);
    else
        plan(c, r);
    return true;
}

// ---- what comes of it -----------------------------------------------------------------------------------

static struct request_fault fault_of(long status, int code)
{
    static const struct {
        long status;
        struct request_fault fault;
    } known[] = {
        {400, {.status = 400, .code = "upstream_refused"}},
        {413, {.status = 413, .code = "upstream_refused"}},
        {422, {.status = 400, .code = "upstream_refused"}},
        {429, {.status = 429, .code = "rate_limit_exceeded"}},
        {503, {.status = 503, .code = "upstream_busy"}},
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].status == status)
            return known[i].fault;
    return (struct request_fault){.status = code == ERR_TIMEOUT               ? 504
                                            : status == 0 && code == ERR_BUSY ? 503
                                                                              : 502,
                                  .code = "upstream_failed"};
}

static bool is_wrong(long status)
{
    return status == 400 || status == 413 || status == 422;
}

static bool any_left(struct core *c, const struct request *r)
{
    for (size_t i = 0; i < c->upstreams->n; i++)
        if (is_candidate(r, &c->upstreams->all[i]))
            return true;
    return false;
}

// Whether another one is asked. A request that one finds wrong is wrong, and bytes that a client has seen do not
// change.
static bool again(struct core *c, struct request *r, long status, const struct err *e)
{
    if (r->first_token_ns != 0 || (!r->model && (is_wrong(status) || !any_left(c, r))))
        return false;
    c->metrics.failovers++;
    request_decode_cancel(r);
    if (r->model) { // this machine has it too
        r->epoch++;
        request_plan_local(c, r, e->message);
        return true;
    }
    snprintf(r->fallback, sizeof(r->fallback), "%.400s", e->message);
    plan(c, r);
    return true;
}

void upstream_on_failed(struct core *c, struct request *r, const json_t *head)
{
    struct upstream *u = r->decode->upstream;
    const char *name = json_string_value(json_object_get(head, "code"));
    long status = (long)json_integer_value(json_object_get(head, "status"));
    json_int_t wait_s = json_integer_value(json_object_get(head, "retry_after_s"));
    struct err e = {0};

    err_set(&e, name ? err_from_name(name) : ERR_ENGINE, "%.500s",
            json_string_or(head, "message", "the upstream server failed without a reason"));
    r->tried |= 1u << u->index;
    if (!is_wrong(status))
        u->busy_until_ns = clock_now_ns() + (wait_s > 0 ? wait_s : PASSED_S) * NS_PER_S;
    if (again(c, r, status, &e))
        return;
    if (wait_s > 0)
        r->retry_after_s = (unsigned)wait_s;
    request_fail_as(c, r, fault_of(status, e.code), &e);
}

// An answer that came in one piece does not tell what of its time was reading: half of it is taken for that.
static void times_of(const json_t *head, double gen, double *read_s, double *steps_s)
{
    *read_s = json_number_or(head, "prefill_s", 0);
    *steps_s = json_number_or(head, "decode_s", 0);
    if (gen > 1 && !(*steps_s > 0))
        *read_s = *steps_s = *read_s / 2;
}

// A server alone with one answer shows how it reads; with several, the queue is in the figure.
static void learn(struct core *c, const struct request *r, size_t at, const json_t *head)
{
    const struct upstream *u = r->decode->upstream;
    const struct upstream_model *m = upstream_wanted(u, r);
    struct profile_book *b = m ? upstream_book(c, u, m) : NULL;
    double read = json_number_or(head, "tokens_read", 0),
           gen = json_number_or(head, "gen_tokens", 0);
    double cached = json_number_or(head, "tokens_cached", 0), rows = request_count(c, u->peer);
    struct profile_read reading = {.tokens = read, .depth = cached};
    struct profile_steps steps = {
        .steps = gen - 1, .rows = rows, .depth_sum = rows * (cached + read + gen / 2)};

    times_of(head, gen, &reading.seconds, &steps.seconds);
    if (!b || at > 0)
        return;
    if (read >= 1 && rows < 2 && r->n_runs == 1)
        profile_learn_read(b, &reading);
    if (gen > 1 && steps.seconds > 0)
        profile_learn_steps(b, &steps);
}

void upstream_on_done(struct core *c, struct request *r, size_t at, const json_t *head)
{
    struct upstream *u = r->decode->upstream;
    uint32_t n = (uint32_t)json_number_or(head, "prompt_tokens", 0);
    struct request_input *in = &r->inputs[at / r->in.n];
    double bytes;

    if (!r->model && n > in->n_tokens) { // told with each answer to it
        r->n_tokens += n - in->n_tokens;
        in->n_tokens = n;
        r->answer.usage.prompt_tokens = r->n_tokens;
    }
    if (n > 0 && at == 0 && r->n_inputs == 1 && r->in.n_images == 0) {
        bytes = fmin(fmax(bytes_of(r) / n, TOKEN_BYTES_LEAST), TOKEN_BYTES_MOST);
        u->token_bytes += LEARN_SHARE * (bytes - u->token_bytes);
    }
    learn(c, r, at, head);
}
