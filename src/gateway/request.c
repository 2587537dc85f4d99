#include "gateway/request.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/admit.h"
#include "gateway/core.h"
#include "gateway/parse_media.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *request_phase_name(enum request_phase p)
{
    static const char *const names[] = {"render", "wait", "offer", "generate", "embed", "linger"};

    return names[p];
}

static bool makes_answers(const struct parse_request *in)
{
    return in->kind == PARSE_CHAT || in->kind == PARSE_TEXT;
}

struct request *request_new(struct parse_request *in, struct reply *reply)
{
    struct request *r = mem_alloc(sizeof(*r));

    r->in = *in;
    // The struct now owns what `in` pointed at.
    memset(in, 0, sizeof(*in));
    if (!makes_answers(&r->in))
        r->in.stream = false;
    r->reply = reply;
    r->received_ns = clock_now_ns();
    r->deadline_ns = INT64_MAX;
    answer_init(&r->answer, &r->in);
    r->n_inputs = 1 + json_array_size(r->in.more);
    r->inputs = mem_alloc(r->n_inputs * sizeof(*r->inputs));
    r->n_runs = makes_answers(&r->in) ? r->answer.n_choices : r->n_inputs;
    r->runs = mem_alloc(r->n_runs * sizeof(*r->runs));
    buf_init(&r->out, REPLY_BODY_MAX + 1);
    return r;
}

static void runs_free(struct request *r)
{
    for (size_t i = 0; i < r->n_runs; i++) {
        json_decref(r->runs[i].done);
        json_decref(r->runs[i].untold);
        free(r->runs[i].written);
    }
    free(r->runs);
}

void request_free(struct request *r)
{
    answer_fini(&r->answer);
    parse_request_fini(&r->in);
    for (size_t i = 0; i < r->n_inputs; i++)
        free(r->inputs[i].tokens);
    free(r->inputs);
    runs_free(r);
    buf_fini(&r->out);
    json_decref(r->prefilled);
    reply_drop(r->reply);
    free(r);
}

struct peer *request_home(const struct request *r)
{
    return r->model->peer;
}

// ---- admission ------------------------------------------------------------------------------------------

static void fail_not_up(struct core *c, struct request *r)
{
    struct peer *local = request_home(r);
    const struct request_fault fault = {
        .status = 503, .code = local->state == PEER_DEAD ? "worker_dead" : "loading"};
    struct err e = {0};

    err_set(&e, ERR_BUSY, "the local worker is not ready: %s",
            r->model->lent ? "its memory is lent to a training job; it comes back after that"
                           : local->why);
    r->retry_after_s = r->model->lent ? 30 : 2;
    request_fail_as(c, r, fault, &e);
}

static void fail_model(struct core *c, struct request *r)
{
    static const struct request_fault fault = {
        .status = 404, .code = "model_not_found", .param = "model"};
    char known[512];
    struct err e = {0};

    model_list(c, known, sizeof(known));
    err_set(&e, ERR_NOT_FOUND, "there is no model \"%.100s\" here; this server has %s", r->in.model,
            known);
    request_fail_as(c, r, fault, &e);
}

static void fail_tuned(struct core *c, struct request *r)
{
    struct request_fault fault = {0};
    struct err e = {0};

    ship_unknown(c, r->in.model, &fault, &e);
    request_fail_as(c, r, fault, &e);
}

static void fail_no_room(struct core *c, struct request *r, const struct err *e)
{
    const struct request_fault fault = {.status = 503, .code = "no_room"};

    r->retry_after_s = 5;
    request_fail_as(c, r, fault, e);
}

// Its model is there.
static void model_take(struct core *c, struct request *r)
{
    bool tuned = ship_named(r->in.model);
    struct request_fault fault = {0};
    struct err e = {0};

    if (tuned && !ship_pick(c, r, &fault, &e)) {
        request_fail_as(c, r, fault, &e);
        return;
    }
    r->answer.model = tuned ? r->in.model : model_name(r->model);
    snprintf(r->answer.fingerprint, sizeof(r->answer.fingerprint), "fp_%016llx",
             (unsigned long long)request_home(r)->welcome.identity.weights_hash);
    request_render(c, r);
}

// One that is loaded on demand is waited for; one that should be there and is not, is an operator's matter.
static void model_await(struct core *c, struct request *r)
{
    struct err e = {0};

    if (!r->model->on_demand || r->model->lent || r->model->peer->state == PEER_DEAD)
        fail_not_up(c, r);
    else if (model_wake(c, r->model, &e) != 0)
        fail_no_room(c, r, &e);
    else
        request_phase_set(r, REQUEST_WAIT, MODEL_LOAD_NS);
}

// Within limits that nobody gave is everything.
static bool slo_check(const struct core *c, const struct request *r, struct request_fault *fault,
                      struct err *e)
{
    const struct gateway_options *o = &c->options;

    if (!r->in.has_policy || r->in.policy != PLACE_SLO || r->in.slo_ttft_s > 0 ||
        r->in.slo_token_s > 0 || o->slo_ttft_s > 0 || o->slo_token_s > 0)
        return true;
    *fault = (struct request_fault){.status = 400, .param = "tandem.policy"};
    err_set(
        e, ERR_INVALID,
        "'tandem.policy' \"slo\" needs a limit: say 'ttft_s', 'token_s' or both beside it; this "
        "server has none of its own");
    return false;
}

void request_admit(struct core *c, struct request *r)
{
    struct request_fault fault = {0};
    struct err e = {0};

    r->next = c->requests;
    c->requests = r;
    c->n_requests++;
    r->beat_ns = r->received_ns + REQUEST_FIRST_BEAT_NS;
    c->totals.requests++;
    if (!admit(c, r, &fault, &e) || !slo_check(c, r, &fault, &e)) {
        request_fail_as(c, r, fault, &e);
        return;
    }
    r->model = ship_named(r->in.model) ? ship_base(c, r->in.model) : model_find(c, r->in.model);
    if (!r->model && upstream_admit(c, r))
        return;
    if (!r->model && ship_named(r->in.model))
        fail_tuned(c, r);
    else if (!r->model)
        fail_model(c, r);
    else if (model_is_loaded(r->model))
        model_take(c, r);
    else
        model_await(c, r);
}

// ---- frames ---------------------------------------------------------------------------------------------

static void on_accepted(struct core *c, struct request *r, struct peer *p)
{
    if (r->phase == REQUEST_OFFER && p == r->prefill)
        request_generate(c, r);
}

// Where a frame came from.
struct frame_source {
    struct peer *peer;
    const struct wire_frame *frame;
    int64_t at_ns;
};

static void on_progress(struct core *c, struct request *r, struct peer *p, const json_t *head)
{
    json_int_t done = json_integer_value(json_object_get(head, "done"));

    if (done <= 0 || done > UINT32_MAX)
        return;
    if (p == r->decode)
        r->begun = true;
    if ((uint32_t)done > r->read_tokens)
        r->read_tokens = (uint32_t)done;
    request_progress(c, r);
}

// For the guess of what the worker will still hold when the next turn comes.
static void written_add(struct request_run *run, const json_t *head)
{
    const json_t *id = json_object_get(head, "id");

    if (!json_is_integer(id))
        return;
    if (run->n_written == run->cap_written) {
        run->cap_written = run->cap_written > 0 ? 2 * run->cap_written : 256;
        run->written = mem_resize(run->written, run->cap_written * sizeof(*run->written));
    }
    run->written[run->n_written++] = (int32_t)json_integer_value(id);
}

static void on_token(struct core *c, struct request *r, uint32_t at, const json_t *head,
                     int64_t at_ns)
{
    if (r->phase != REQUEST_GENERATE)
        return;
    r->begun = true;
    media_fini(&r->in); // nobody will be asked to read them again
    if (r->first_token_ns == 0)
        r->first_token_ns = at_ns;
    metrics_token(&c->metrics, &r->runs[at].last_token_ns, at_ns);
    r->gen_tokens++;
    r->answer.choices[at].gen_tokens++;
    if (r->in.generate.keep && r->gen_tokens <= MESSAGE_MAX_TOKENS)
        written_add(&r->runs[at], head);
    request_told(c, r, at, head);
    if (!r->over)
        request_follow(c, r);
}

static void done_take(struct request *r, uint32_t at, const json_t *head)
{
    struct answer_choice *choice = &r->answer.choices[at];
    const json_t *told = json_object_get(head, "gen_tokens");
    const json_t *thought = json_object_get(head, "reasoning_tokens");
    const char *stop = json_string_value(json_object_get(head, "stop"));

    json_decref(r->runs[at].done);
    r->runs[at].done = json_deep_copy(head);
    if (json_is_integer(told) && json_integer_value(told) >= 0) {
        r->gen_tokens -= choice->gen_tokens;
        choice->gen_tokens = (uint32_t)json_integer_value(told);
        r->gen_tokens += choice->gen_tokens;
    }
    if (json_is_integer(thought) && json_integer_value(thought) > 0)
        choice->reasoning_tokens = (uint32_t)json_integer_value(thought);
    if (stop)
        choice->stop = mem_strdup(stop);
}

static void on_done(struct core *c, struct request *r, uint32_t at, const json_t *head,
                    int64_t at_ns)
{
    bool fell_back;

    if (r->phase != REQUEST_GENERATE || r->runs[at].done)
        return;
    if (r->decode->upstream)
        upstream_on_done(c, r, at, head);
    request_run_shut(r, at);
    r->begun = true;
    done_take(r, at, head);
    fleet_on_done(c, r, at, head);
    r->done_ns = at_ns;
    request_told(c, r, at, head);
    if (!r->over)
        request_follow(c, r);
    if (r->over)
        return;
    request_choice_end(c, r, at);
    if (r->over || ++r->n_done < r->n_runs)
        return;
    fell_back = r->fallback[0] || json_is_string(json_object_get(r->runs[0].done, "fallback"));
    // The prefill node's account comes over another link and may be a moment behind.
    if (r->prefill_open && !fell_back)
        request_phase_set(r, REQUEST_LINGER, REQUEST_LINGER_NS);
    else
        request_finish(c, r);
}

static void on_prefilled(struct core *c, struct request *r, const json_t *head)
{
    json_t *rate = json_object_get(head, "link_bytes_per_s");

    if (!r->prefill_open)
        return;
    r->prefill_open = false;
    json_decref(r->prefilled); // of an attempt that came to nothing
    r->prefilled = json_deep_copy(head);
    if (json_is_number(rate) && json_number_value(rate) > 0)
        r->prefill->link_bytes_per_s = json_number_value(rate);
    if (r->phase == REQUEST_LINGER)
        request_finish(c, r);
}

// ---- what goes wrong ------------------------------------------------------------------------------------

static void prefill_lost(struct core *c, struct request *r, const char *what, const char *why)
{
    char text[REQUEST_FALLBACK_BYTES];

    r->prefill_open = false;
    snprintf(text, sizeof(text), "prefill node %s %s: %.300s", peer_name(r->prefill), what, why);
    if (r->phase == REQUEST_OFFER) {
        request_plan_local(c, r, text);
    } else if (r->phase == REQUEST_LINGER) {
        request_finish(c, r);
    } else if (r->phase == REQUEST_GENERATE) {
        // Told to the client only if the decode worker has no words of its own.
        log_info("gateway", "hand-off given up: id=%s why=\"%s\"", r->answer.id, text);
        snprintf(r->fallback, sizeof(r->fallback), "%s", text);
        request_abandon(r, text);
    }
}

// Only what the node itself could not do is worth another try here; a request it finds wrong is wrong.
static bool remote_retry(struct core *c, struct request *r, int code, const char *why)
{
    char text[REQUEST_FALLBACK_BYTES];

    if (r->decode == request_home(r) || r->first_token_ns != 0 || code == ERR_INVALID ||
        code == ERR_UNSUPPORTED)
        return false;
    snprintf(text, sizeof(text), "node %s failed: %.300s", peer_name(r->decode), why);
    c->metrics.failovers++;
    r->epoch++;
    request_plan_local(c, r, text);
    return true;
}

static void decode_lost(struct core *c, struct request *r, const char *why)
{
    struct err e = {0};

    request_decode_forget(r);
    if (remote_retry(c, r, ERR_CLOSED, why))
        return;
    if (r->decode->local && !r->begun && !r->retried && request_home(r)->state != PEER_DEAD) {
        request_prefill_cancel(r);
        r->retried = true;
        c->metrics.failovers++;
        request_phase_set(r, REQUEST_WAIT, REQUEST_WAIT_NS);
        return;
    }
    err_set(&e, ERR_CLOSED,
            "the worker on %s ended after %u tokens of the answer (%.200s); send the request again",
            peer_name(r->decode), r->gen_tokens, why);
    request_fail_as(c, r, (struct request_fault){.status = 502, .code = "worker_died"}, &e);
}

// It was to write what another one has been asked to read.
static void promised_lost(struct core *c, struct request *r, const char *why)
{
    char text[REQUEST_FALLBACK_BYTES];

    snprintf(text, sizeof(text), "node %s was lost: %.300s", peer_name(r->choice.decode), why);
    c->metrics.failovers++;
    request_plan_local(c, r, text);
}

static void on_failed(struct core *c, struct request *r, struct peer *p, uint32_t at,
                      const json_t *head)
{
    const char *name = json_string_value(json_object_get(head, "code"));
    struct err e = {0};

    err_set(&e, name ? err_from_name(name) : ERR_ENGINE, "%.400s",
            json_string_or(head, "message", "the worker failed without a reason"));
    if (p == r->prefill && r->prefill_open) {
        prefill_lost(c, r, r->phase == REQUEST_OFFER ? "refused" : "failed", e.message);
    } else if (p == r->decode && r->runs[at].open) {
        request_run_shut(r, at);
        if (p->upstream) {
            upstream_on_failed(c, r, head);
            return;
        }
        if (remote_retry(c, r, e.code, e.message))
            return;
        // What a worker finds too long is the prompt: it told both numbers.
        if (e.code == ERR_RANGE)
            request_fail_as(c, r, request_prompt_fault(r, "context_length_exceeded"), &e);
        else if (e.code == ERR_INVALID && r->in.n_images > 0)
            request_fail_as(c, r, request_prompt_fault(r, NULL), &e);
        else
            request_fail(c, r, &e);
    }
}

// A row of ids belongs to inputs or runs; the prefill node answers under the leader's.
static void frame_handle(struct core *c, struct request *r, uint32_t at, const json_t *head,
                         const struct frame_source *from)
{
    const struct wire_frame *f = from->frame;
    bool decode = from->peer == r->decode && r->runs[at].open;
    bool prefill = from->peer == r->prefill && r->prefill_open && at == 0;

    if (f->type == WIRE_TOKEN && decode)
        on_token(c, r, at, head, from->at_ns);
    else if (f->type == WIRE_DONE && decode)
        on_done(c, r, at, head, from->at_ns);
    else if (f->type == WIRE_RENDERED && decode)
        request_on_rendered(c, r, at, head, f);
    else if (f->type == WIRE_EMBEDDED && decode)
        request_on_embedded(c, r, at, f);
    else if (f->type == WIRE_ACCEPTED && prefill)
        on_accepted(c, r, from->peer);
    else if (f->type == WIRE_PROGRESS && (from->peer == r->decode || prefill))
        on_progress(c, r, from->peer, head);
    else if (f->type == WIRE_PREFILLED && prefill)
        on_prefilled(c, r, head);
    else if (f->type == WIRE_FAILED)
        on_failed(c, r, from->peer, at, head);
}

void request_on_frame(struct core *c, struct peer *p, struct wire_frame *f, int64_t at_ns)
{
    uint32_t at;
    struct request *r = request_index_find(&c->index, f->id, &at);
    const struct frame_source from = {p, f, at_ns};
    struct err e = {0};
    json_t *head;

    if (!r || r->over)
        return;
    head = wire_frame_parse(f, &e);
    if (!head) {
        err_wrap(&e, "it sent a %s frame that cannot be read", wire_type_name(f->type));
        peer_drop(p, e.message);
        return;
    }
    frame_handle(c, r, at, head, &from);
    json_decref(head);
}

void request_on_peer_lost(struct core *c, struct peer *p, const char *why)
{
    for (struct request *r = c->requests; r; r = r->next) {
        if (!r->over && r->prefill_open && r->prefill == p)
            prefill_lost(c, r, "was lost", why);
        if (!r->over && r->phase == REQUEST_OFFER && r->choice.decode == p)
            promised_lost(c, r, why);
        if (!r->over && r->n_open > 0 && r->decode == p)
            decode_lost(c, r, why);
    }
}

void request_on_local_up(struct core *c, const struct model *m)
{
    for (struct request *r = c->requests; r; r = r->next) {
        if (r->over || r->phase != REQUEST_WAIT || r->model != m)
            continue;
        if (r->rendered_all && r->in.n_images == 0) // a worker that is new has not seen the images
            request_go(c, r);
        else
            model_take(c, r);
    }
}

void request_on_no_room(struct core *c, const struct model *m, const struct err *e)
{
    for (struct request *r = c->requests; r; r = r->next)
        if (!r->over && r->phase == REQUEST_WAIT && r->model == m)
            fail_no_room(c, r, e);
}

// ---- timers ---------------------------------------------------------------------------------------------

static void on_deadline(struct core *c, struct request *r)
{
    struct request_fault fault = {0};
    struct err e = {0};

    switch (r->phase) {
    case REQUEST_OFFER:
        request_prefill_cancel(r);
        prefill_lost(c, r, "refused", "it did not answer in time");
        return;
    case REQUEST_LINGER:
        request_finish(c, r);
        return;
    case REQUEST_RENDER:
        err_set(&e, ERR_TIMEOUT, "the worker did not tokenise the prompt within %d s",
                (int)(REQUEST_RENDER_NS / NS_PER_S));
        break;
    case REQUEST_WAIT:
    case REQUEST_GENERATE:
    case REQUEST_EMBED:
        fault.code = "worker_died";
        err_set(&e, ERR_CLOSED, "the worker ended and did not come back in time");
        break;
    }
    request_fail_as(c, r, fault, &e);
}

int64_t request_tick(struct core *c, struct request *r, int64_t now_ns)
{
    struct err e = {0};
    int64_t next_ns;

    if (r->phase == REQUEST_WAIT && request_home(r)->state == PEER_DEAD) {
        err_set(&e, ERR_CLOSED, "the worker ended and stays down: %.200s", request_home(r)->why);
        request_fail_as(c, r, (struct request_fault){.code = "worker_died"}, &e);
    }
    if (!r->over && now_ns >= r->deadline_ns)
        on_deadline(c, r);
    if (!r->over && r->in.stream && now_ns >= r->beat_ns)
        request_beat(c, r);
    if (r->over)
        return now_ns;
    next_ns = request_replan(c, r, now_ns);
    if (r->in.stream && r->beat_ns < next_ns)
        next_ns = r->beat_ns;
    return r->deadline_ns < next_ns ? r->deadline_ns : next_ns;
}

void request_reap(struct core *c)
{
    struct request **at = &c->requests;

    while (*at && c->n_over > 0) {
        struct request *r = *at;

        if (!r->over) {
            at = &r->next;
            continue;
        }
        request_decode_cancel(r);
        request_prefill_cancel(r);
        core_unwatch(c, r);
        request_index_remove(&c->index, r->id);
        *at = r->next;
        c->n_requests--;
        c->n_over--;
        request_free(r);
    }
}
