#include "gateway/request.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *request_phase_name(enum request_phase p)
{
    static const char *const names[] = {"render", "wait", "offer", "generate", "linger"};

    return names[p];
}

struct request *request_new(struct parse_request *in, struct reply *reply)
{
    struct request *r = mem_alloc(sizeof(*r));

    r->in = *in;
    // The struct now owns what `in` pointed at.
    memset(in, 0, sizeof(*in));
    r->reply = reply;
    r->received_ns = clock_now_ns();
    r->deadline_ns = INT64_MAX;
    r->head.kind = r->in.kind;
    r->head.created = clock_unix_s();
    answer_id_make(r->in.kind, r->head.id);
    buf_init(&r->text, REQUEST_TEXT_MAX);
    return r;
}

void request_free(struct request *r)
{
    parse_request_fini(&r->in);
    buf_fini(&r->text);
    free(r->tokens);
    json_decref(r->done);
    json_decref(r->prefilled);
    reply_drop(r->reply);
    free(r);
}

// ---- admission ------------------------------------------------------------------------------------------

static void fail_not_up(struct core *c, struct request *r)
{
    struct peer *local = core_local(c);
    const struct request_fault fault = {
        .status = 503, .code = local->state == PEER_DEAD ? "worker_dead" : "loading"};
    struct err e = {0};

    err_set(&e, ERR_BUSY, "the local worker is not ready: %s", local->why);
    r->retry_after_s = 2;
    request_fail_as(c, r, fault, &e);
}

static void fail_model(struct core *c, struct request *r)
{
    static const struct request_fault fault = {
        .status = 404, .code = "model_not_found", .param = "model"};
    char known[512];
    struct err e = {0};

    status_models_list(c, known, sizeof(known));
    err_set(&e, ERR_NOT_FOUND, "there is no model \"%.100s\" here; this server has %s", r->in.model,
            known);
    request_fail_as(c, r, fault, &e);
}

void request_admit(struct core *c, struct request *r)
{
    struct err e = {0};

    r->next = c->requests;
    c->requests = r;
    c->n_requests++;
    r->beat_ns = r->received_ns + REQUEST_FIRST_BEAT_NS;
    c->totals.requests++;
    if (c->stopping) {
        err_set(&e, ERR_CLOSED, "the server is stopping");
        request_fail_as(c, r, (struct request_fault){.status = 503}, &e);
    } else if (c->n_requests > c->options.max_requests) {
        err_set(&e, ERR_BUSY, "%u requests are being answered, the most this server takes",
                c->options.max_requests);
        request_fail_as(c, r, (struct request_fault){.status = 503, .code = "queue_full"}, &e);
    } else if (core_local(c)->state != PEER_UP) {
        fail_not_up(c, r);
    } else if (r->in.model[0] && !status_model_known(c, r->in.model)) {
        fail_model(c, r);
    } else {
        r->head.model = core_local(c)->welcome.model;
        request_render(c, r);
    }
}

// ---- frames ---------------------------------------------------------------------------------------------

static void on_rendered_stops(struct request *r, const json_t *head)
{
    struct message_generate *g = &r->in.generate;
    const json_t *stops = json_object_get(head, "stop");
    const char *grammar = json_string_value(json_object_get(head, "grammar"));

    for (size_t i = 0; i < json_array_size(stops) && g->n_stops < MESSAGE_STOPS_MAX; i++) {
        const char *stop = json_string_value(json_array_get(stops, i));

        if (stop && stop[0] && strlen(stop) <= MESSAGE_STOP_BYTES)
            g->stops[g->n_stops++] = mem_strdup(stop);
    }
    if (grammar && grammar[0] && !g->grammar)
        g->grammar = mem_strdup(grammar);
    g->sampling.grammar = g->grammar;
}

static struct request_fault prompt_fault(const struct request *r, const char *code)
{
    return (struct request_fault){
        .status = 400, .code = code, .param = r->in.kind == PARSE_CHAT ? "messages" : "prompt"};
}

static void on_rendered(struct core *c, struct request *r, const json_t *head,
                        const struct wire_frame *f)
{
    uint32_t n_ctx = core_local(c)->welcome.limits.n_ctx;
    struct err e = {0};
    size_t n = 0;

    if (r->phase != REQUEST_RENDER)
        return;
    r->decode_open = false;
    if (wire_frame_get_tokens(f, &r->tokens, &n, &e) != 0) {
        request_fail(c, r, &e);
        return;
    }
    r->n_tokens = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
    on_rendered_stops(r, head);
    if (n == 0) {
        err_set(&e, ERR_INVALID, "the prompt has no tokens");
        request_fail_as(c, r, prompt_fault(r, "empty_prompt"), &e);
    } else if (n + 1 > n_ctx) {
        err_set(&e, ERR_RANGE,
                "the prompt has %zu tokens, the context holds %u and needs room for at least one "
                "more; shorten the prompt or start the server with a larger --ctx",
                n, n_ctx);
        request_fail_as(c, r, prompt_fault(r, "context_length_exceeded"), &e);
    } else {
        request_stream_begin(c, r);
        request_plan(c, r);
    }
}

static void on_accepted(struct core *c, struct request *r, struct peer *p)
{
    if (r->phase == REQUEST_OFFER && p == r->prefill)
        request_generate(c, r);
}

static void on_progress(struct request *r, struct peer *p, const json_t *head)
{
    json_int_t done = json_integer_value(json_object_get(head, "done"));

    if (done <= 0 || done > UINT32_MAX)
        return;
    if (p == r->decode)
        r->begun = true;
    if ((uint32_t)done > r->read_tokens)
        r->read_tokens = (uint32_t)done;
}

static void on_token(struct core *c, struct request *r, const json_t *head, int64_t at_ns)
{
    const char *text = json_string_value(json_object_get(head, "text"));

    if (r->phase != REQUEST_GENERATE)
        return;
    r->begun = true;
    if (r->first_token_ns == 0)
        r->first_token_ns = at_ns;
    r->gen_tokens++;
    request_text(c, r, text ? text : "");
}

static void on_done(struct core *c, struct request *r, const json_t *head, int64_t at_ns)
{
    const char *rest = json_string_value(json_object_get(head, "text"));
    json_t *told = json_object_get(head, "gen_tokens");

    if (r->phase != REQUEST_GENERATE)
        return;
    r->decode_open = false;
    r->done = json_deep_copy(head);
    r->done_ns = at_ns;
    if (json_is_integer(told) && json_integer_value(told) >= 0)
        r->gen_tokens = (uint32_t)json_integer_value(told);
    request_text(c, r, rest ? rest : "");
    if (r->over)
        return;
    // The prefill node's account comes over another link and may be a moment behind.
    if (r->prefill_open && !json_is_string(json_object_get(head, "fallback")) && !r->fallback[0])
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
        log_info("gateway", "hand-off given up: id=%s why=\"%s\"", r->head.id, text);
        snprintf(r->fallback, sizeof(r->fallback), "%s", text);
        request_abandon(r, text);
    }
}

// Only what the node itself could not do is worth another try here; a request it finds wrong is wrong.
static bool remote_retry(struct core *c, struct request *r, int code, const char *why)
{
    char text[REQUEST_FALLBACK_BYTES];

    if (r->choice.plan != SCHED_REMOTE || r->first_token_ns != 0 || code == ERR_INVALID ||
        code == ERR_UNSUPPORTED)
        return false;
    snprintf(text, sizeof(text), "node %s failed: %.300s", peer_name(r->decode), why);
    r->epoch++;
    request_plan_local(c, r, text);
    return true;
}

static void decode_lost(struct core *c, struct request *r, const char *why)
{
    struct err e = {0};

    r->decode_open = false;
    if (remote_retry(c, r, ERR_CLOSED, why))
        return;
    if (r->decode->local && !r->begun && !r->retried && core_local(c)->state != PEER_DEAD) {
        request_prefill_cancel(r);
        r->retried = true;
        request_phase_set(r, REQUEST_WAIT, REQUEST_WAIT_NS);
        return;
    }
    err_set(&e, ERR_CLOSED,
            "the worker on %s ended after %u tokens of the answer (%.200s); send the request again",
            peer_name(r->decode), r->gen_tokens, why);
    request_fail_as(c, r, (struct request_fault){.status = 502, .code = "worker_died"}, &e);
}

static void on_failed(struct core *c, struct request *r, struct peer *p, const json_t *head)
{
    const char *name = json_string_value(json_object_get(head, "code"));
    const char *message = json_string_value(json_object_get(head, "message"));
    struct err e = {0};

    err_set(&e, name ? err_from_name(name) : ERR_ENGINE, "%.400s",
            message ? message : "the worker failed without a reason");
    if (p == r->prefill && r->prefill_open) {
        prefill_lost(c, r, r->phase == REQUEST_OFFER ? "refused" : "failed", e.message);
    } else if (p == r->decode && r->decode_open) {
        r->decode_open = false;
        if (!remote_retry(c, r, e.code, e.message))
            request_fail(c, r, &e);
    }
}

static struct request *request_find(struct core *c, uint64_t id)
{
    struct request *r = c->requests;

    while (r && (r->id != id || r->over))
        r = r->next;
    return r;
}

static void frame_handle(struct core *c, struct request *r, struct peer *p, struct wire_frame *f,
                         int64_t at_ns)
{
    struct err e = {0};
    json_t *head = wire_frame_parse(f, &e);
    bool decode = p == r->decode && r->decode_open, prefill = p == r->prefill && r->prefill_open;

    if (!head) {
        err_wrap(&e, "it sent a %s frame that cannot be read", wire_type_name(f->type));
        peer_drop(p, e.message);
        return;
    }
    if (f->type == WIRE_RENDERED && decode)
        on_rendered(c, r, head, f);
    else if (f->type == WIRE_ACCEPTED && prefill)
        on_accepted(c, r, p);
    else if (f->type == WIRE_PROGRESS)
        on_progress(r, p, head);
    else if (f->type == WIRE_TOKEN && decode)
        on_token(c, r, head, at_ns);
    else if (f->type == WIRE_DONE && decode)
        on_done(c, r, head, at_ns);
    else if (f->type == WIRE_PREFILLED && prefill)
        on_prefilled(c, r, head);
    else if (f->type == WIRE_FAILED)
        on_failed(c, r, p, head);
    json_decref(head);
}

void request_on_frame(struct core *c, struct peer *p, struct wire_frame *f, int64_t at_ns)
{
    struct request *r = request_find(c, f->id);

    if (r)
        frame_handle(c, r, p, f, at_ns);
}

void request_on_peer_lost(struct core *c, struct peer *p, const char *why)
{
    for (struct request *r = c->requests; r; r = r->next) {
        if (!r->over && r->prefill_open && r->prefill == p)
            prefill_lost(c, r, "was lost", why);
        if (!r->over && r->decode_open && r->decode == p)
            decode_lost(c, r, why);
    }
}

void request_on_local_up(struct core *c)
{
    for (struct request *r = c->requests; r; r = r->next) {
        if (r->over || r->phase != REQUEST_WAIT)
            continue;
        if (r->tokens)
            request_plan(c, r);
        else
            request_render(c, r);
    }
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
        fault.code = "worker_died";
        err_set(&e, ERR_CLOSED, "the worker ended and did not come back in time");
        break;
    }
    request_fail_as(c, r, fault, &e);
}

int64_t request_tick(struct core *c, struct request *r, int64_t now_ns)
{
    struct err e = {0};

    if (r->phase == REQUEST_WAIT && core_local(c)->state == PEER_DEAD) {
        err_set(&e, ERR_CLOSED, "the worker ended and stays down: %.200s", core_local(c)->why);
        request_fail_as(c, r, (struct request_fault){.code = "worker_died"}, &e);
    }
    if (!r->over && now_ns >= r->deadline_ns)
        on_deadline(c, r);
    if (!r->over && r->in.stream && now_ns >= r->beat_ns)
        request_beat(c, r);
    if (r->over)
        return now_ns;
    if (!r->in.stream)
        return r->deadline_ns;
    return r->deadline_ns < r->beat_ns ? r->deadline_ns : r->beat_ns;
}

void request_reap(struct core *c)
{
    struct request **at = &c->requests;

    while (*at) {
        struct request *r = *at;

        if (!r->over) {
            at = &r->next;
            continue;
        }
        request_decode_cancel(r);
        request_prefill_cancel(r);
        *at = r->next;
        c->n_requests--;
        request_free(r);
    }
}
