// What a request's client sees: comment lines, chunks, the end, and errors in the shape that fits
// what has been sent already.
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/admit.h"
#include "gateway/core.h"
#include "gateway/timing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *plan_of(const struct request *r)
{
    return r->epoch > 0 ? place_kind_name(r->choice.kind) : NULL;
}

static void over_set(struct core *c, struct request *r)
{
    r->over = true;
    if (r->model)
        model_used(r->model);
    c->n_over++;
}

static void client_lost(struct core *c, struct request *r, const char *why)
{
    log_info("gateway", "request given up: id=%s why=\"%s\"", r->answer.id, why);
    c->totals.cancelled++;
    metrics_ended(&c->metrics, plan_of(r), METRICS_CANCELLED);
    reply_abort(r->reply);
    over_set(c, r);
}

// Sends what r->out holds, and empties it.
static void out_flush(struct core *c, struct request *r)
{
    int rc;

    if (r->over || r->out.len == 0)
        return;
    rc = reply_write(r->reply, r->out.data, r->out.len);
    buf_clear(&r->out);
    if (rc == 0)
        r->beat_ns = clock_now_ns() + c->options.heartbeat_ns;
    else
        client_lost(c, r, rc == ERR_CLOSED ? "the client left" : "the client does not read");
}

static void stream_open(struct request *r)
{
    if (!r->streaming)
        reply_begin(r->reply);
    r->streaming = true;
}

void request_stream_begin(struct core *c, struct request *r)
{
    if (!r->in.stream || r->said)
        return;
    stream_open(r);
    r->said = true;
    r->answer.dialect->begin(&r->answer, &r->out);
    out_flush(c, r);
}

void request_beat(struct core *c, struct request *r)
{
    stream_open(r);
    r->answer.dialect->beat(&r->answer, &r->out);
    r->beat_ns = clock_now_ns() + c->options.heartbeat_ns;
    out_flush(c, r);
}

// Comments are for who watches; only event streams have them. They put off no beat: a client may take
// nothing but events for a sign of life.
void request_progress(struct core *c, struct request *r)
{
    int64_t now_ns = clock_now_ns(), beat_ns = r->beat_ns;

    if (!r->streaming || r->first_token_ns != 0 || now_ns < r->progress_ns)
        return;
    if (strcmp(r->answer.dialect->content_type, "text/event-stream") != 0)
        return;
    r->progress_ns = now_ns + REQUEST_PROGRESS_NS;
    buf_printf(&r->out, ": prefill %u/%u\n\n", r->read_tokens, r->n_tokens);
    out_flush(c, r);
    r->beat_ns = beat_ns;
}

// ---- what is generated --------------------------------------------------------------------------------

// One delta of a choice: kept for the whole answer, told to a stream.
static void delta_put(struct core *c, struct request *r, uint32_t at, const json_t *delta)
{
    static const struct err too_long = {ERR_RANGE, "the answer is longer than an answer may be"};
    static const struct err senseless = {ERR_ENGINE,
                                         "the worker told what is no part of an answer"};
    struct answer_choice *choice = &r->answer.choices[at];
    struct request_run *run = &r->runs[at];
    int rc = answer_take(choice, delta);

    if (rc != 0) {
        request_fail(c, r, rc == ERR_RANGE ? &too_long : &senseless);
        return;
    }
    if (!r->in.stream)
        return;
    request_stream_begin(c, r);
    r->answer.dialect->delta(&r->answer, choice, delta, run->untold, &r->out);
    json_decref(run->untold);
    run->untold = NULL;
}

static void logprob_keep(struct request *r, uint32_t at, const json_t *head)
{
    struct request_run *run = &r->runs[at];
    json_t *entry = r->in.generate.logprobs >= 0 ? answer_logprob(head) : NULL;

    if (!entry)
        return;
    if (!r->in.stream) {
        json_array_append_new(r->answer.choices[at].logprobs, entry);
        return;
    }
    if (!run->untold)
        run->untold = json_array();
    json_array_append_new(run->untold, entry);
}

static void text_put(struct core *c, struct request *r, uint32_t at, json_t *text)
{
    json_t *delta;

    if (json_string_length(text) == 0)
        return;
    delta = json_object();
    json_put(delta, "content", json_incref(text));
    delta_put(c, r, at, delta);
    json_decref(delta);
}

// A call beyond the most that an answer has is told as text. New reference.
static json_t *delta_bound(json_t *delta)
{
    const json_t *name = json_object_get(delta, "name");
    const json_t *arguments = json_object_get(delta, "arguments");

    if (json_integer_value(json_object_get(delta, "tool")) < ANSWER_TOOLS_MAX)
        return json_incref(delta);
    return json_pack("{s:s+%}", "content", name ? json_string_value(name) : "",
                     arguments ? json_string_value(arguments) : "", json_string_length(arguments));
}

void request_told(struct core *c, struct request *r, uint32_t at, const json_t *head)
{
    const json_t *deltas = json_object_get(head, "delta");

    logprob_keep(r, at, head);
    for (size_t i = 0; i < json_array_size(deltas) && !r->over; i++) {
        json_t *delta = delta_bound(json_array_get(deltas, i));

        delta_put(c, r, at, delta);
        json_decref(delta);
    }
    if (!deltas)
        text_put(c, r, at, json_object_get(head, "text"));
    out_flush(c, r);
}

// The log probabilities of tokens without a text of their own, such as the end of a stop string.
static void untold_put(struct core *c, struct request *r, uint32_t at)
{
    json_t *empty;

    if (!r->runs[at].untold)
        return;
    empty = json_pack("{s:s}", "content", "");
    delta_put(c, r, at, empty);
    json_decref(empty);
}

static const char *finish_of(const struct request *r, uint32_t at)
{
    const char *told = json_string_value(json_object_get(r->runs[at].done, "finish"));

    if (told && strcmp(told, "length") == 0)
        return "length";
    return r->answer.choices[at].n_tools > 0 ? "tool_calls" : "stop";
}

static void choice_put(struct core *c, struct request *r, uint32_t at)
{
    struct answer_choice *choice = &r->answer.choices[at];

    if (!r->in.stream)
        return;
    request_stream_begin(c, r);
    untold_put(c, r, at);
    r->answer.dialect->choice_end(&r->answer, choice, &r->out);
}

void request_choice_end(struct core *c, struct request *r, uint32_t at)
{
    r->answer.choices[at].finish = finish_of(r, at);
    r->last = at;
    if (r->n_done + 1 == r->n_runs)
        return;
    choice_put(c, r, at);
    out_flush(c, r);
}

// ---- the end ------------------------------------------------------------------------------------------

static double since(const struct request *r, int64_t at_ns)
{
    return at_ns == 0 ? -1 : ns_to_s(at_ns - r->received_ns);
}

// The decode worker is the one that fell back: it knows why it did (the gateway hears consequences
// too, such as the prefill node's complaint that it was given up) and from which token it read on.
// The gateway's own reason is for plans that never reached that worker. A hand-off that was complete
// before its prefill node was lost cost nothing, so it is no fall-back; what the plan itself gave up stays.
static void fallback_settle(struct request *r)
{
    const char *told = json_string_value(json_object_get(r->runs[0].done, "fallback"));

    if (told)
        snprintf(r->fallback, sizeof(r->fallback), "%s", told);
    else if (r->prefill && json_is_number(json_object_get(r->runs[0].done, "handoff_end_s")))
        snprintf(r->fallback, sizeof(r->fallback), "%s", r->choice.fallback);
}

// Below 0: somebody who took part does not know.
static double joules_of(const struct request *r)
{
    double sum = r->prefill ? json_number_or(r->prefilled, "joules", -1) : 0;

    for (size_t i = 0; i < r->n_runs && sum >= 0; i++) {
        double more = json_number_or(r->runs[i].done, "joules", -1);

        sum = more >= 0 ? sum + more : -1;
    }
    return isfinite(sum) ? sum : -1;
}

static void timing_fill(struct request *r, struct timing *t)
{
    const struct peer *reader = r->prefill ? r->prefill : r->decode;
    bool local = !r->prefill && (r->decode->local || r->decode->upstream);

    *t = (struct timing){
        .plan = place_kind_name(r->choice.kind),
        .reason = r->choice.reason,
        .policy = place_policy_name(r->choice.policy),
        .predicted = r->choice.predicted ? &r->choice.plan : NULL,
        .answer_tokens = r->choice.answer_tokens,
        .placed_s = since(r, r->placed_ns),
        .prefill_node = peer_name(reader),
        .decode_node = peer_name(r->decode),
        .prefill_weights = local ? NULL : reader->welcome.identity.weights,
        .decode_weights = local ? NULL : r->decode->welcome.identity.weights,
        .fallback = r->fallback[0] ? r->fallback : NULL,
        .prompt_tokens = r->n_tokens,
        .gen_tokens = r->gen_tokens,
        .lead_prompt_tokens = r->inputs[0].n_tokens,
        .lead_gen_tokens = r->answer.choices[0].gen_tokens,
        .prefill_sent_s = since(r, r->prefill_sent_ns),
        .decode_sent_s = since(r, r->decode_sent_ns),
        .ttft_s = since(r, r->first_token_ns),
        .total_s = since(r, r->done_ns),
        .joules = joules_of(r),
        .done = r->runs[0].done,
        .prefilled = r->prefilled,
        .timeline = r->in.generate.timeline,
    };
}

static void stream_finish(struct core *c, struct request *r)
{
    choice_put(c, r, r->last);
    r->answer.dialect->end(&r->answer, &r->out);
    out_flush(c, r);
    reply_end(r->reply);
}

static void whole_finish(struct core *c, struct request *r)
{
    static const struct err too_long = {ERR_RANGE,
                                        "the answer is longer than an answer sent whole may be; "
                                        "ask for it with \"stream\": true"};

    // What it is made of has limits of its own, and a piece that was left out would not be noticed.
    r->out.max = SIZE_MAX / 2;
    r->answer.dialect->whole(&r->answer, &r->out);
    if (r->out.len > ANSWER_BODY_MAX)
        request_fail(c, r, &too_long);
    else
        reply_finish(r->reply, 200, buf_take(&r->out), 0);
}

static void totals_count(struct core *c, const struct request *r)
{
    static const size_t at[] = {
        [PLACE_LOCAL] = offsetof(struct core_totals, local),
        [PLACE_REMOTE] = offsetof(struct core_totals, remote),
        [PLACE_SERIAL] = offsetof(struct core_totals, serial),
        [PLACE_HYBRID] = offsetof(struct core_totals, hybrid),
    };

    ++*(uint64_t *)(void *)((char *)&c->totals + at[r->choice.kind]);
    if (r->fallback[0])
        c->totals.fallbacks++;
}

// Of a further prompt's first answer; the leader's is timing_cached_tokens.
static uint32_t follower_cached(const struct request *r, size_t at)
{
    double n = json_number_or(r->runs[at].done, "tokens_cached", 0);
    uint32_t prompt = r->inputs[at / r->in.n].n_tokens;

    return n > 0 && n < prompt ? (uint32_t)n : 0;
}

static void usage_fill(struct request *r, const struct timing *t)
{
    struct answer_usage *u = &r->answer.usage;

    u->gen_tokens = r->gen_tokens;
    u->cached_tokens = timing_cached_tokens(t);
    for (size_t i = r->in.n; i < r->n_runs; i += r->in.n)
        u->cached_tokens += follower_cached(r, i);
    for (size_t i = 0; i < r->answer.n_choices; i++)
        u->reasoning_tokens += r->answer.choices[i].reasoning_tokens;
}

// An answer that was generated: it has timings, and counts as one of its plan.
static void generated_finish(struct core *c, struct request *r)
{
    struct timing t;

    fallback_settle(r);
    timing_fill(r, &t);
    r->answer.timings = timing_json(&t);
    usage_fill(r, &t);
    request_correct(r);
    if (r->in.stream)
        stream_finish(c, r);
    else
        whole_finish(c, r);
    if (r->over)
        return;
    totals_count(c, r);
    metrics_answered(&c->metrics, r->answer.timings);
    admit_learn(c, t.total_s);
    placing_learn(c->placing, r);
    log_info(
        "gateway",
        "answered: id=%s request_id=%s plan=%s prompt_tokens=%u gen_tokens=%u total_s=%.3f%s%s%s",
        r->answer.id, r->request_id, t.plan, r->n_tokens, r->gen_tokens, t.total_s,
        t.fallback ? " fallback=\"" : "", t.fallback ? t.fallback : "", t.fallback ? "\"" : "");
}

void request_finish(struct core *c, struct request *r)
{
    if (r->answer.n_choices > 0)
        generated_finish(c, r);
    else
        whole_finish(c, r);
    if (r->over)
        return;
    if (r->answer.n_choices == 0)
        metrics_ended(&c->metrics, NULL, METRICS_OK);
    over_set(c, r);
}

static void fault_put(struct core *c, struct request *r, const struct answer_fault *f)
{
    const struct dialect *d = r->answer.dialect;

    if (r->streaming) {
        d->error(&r->answer, f, &r->out);
        out_flush(c, r);
        reply_end(r->reply);
        return;
    }
    buf_clear(&r->out);
    d->refusal(f, &r->out);
    if (f->status == 503 && r->retry_after_s == 0)
        r->retry_after_s = 1;
    reply_finish(r->reply, f->status, buf_take(&r->out), r->retry_after_s);
}

void request_fail_as(struct core *c, struct request *r, struct request_fault f, const struct err *e)
{
    const struct answer_fault told = {
        .status = f.status ? f.status : answer_status(e->code),
        .code = f.code ? f.code : err_name(e->code),
        .param = f.param,
        .message = e->message,
    };
    bool refused = told.status == 429 || told.status == 503;

    if (r->over)
        return;
    c->totals.failed++;
    metrics_ended(&c->metrics, plan_of(r), refused ? METRICS_REFUSED : METRICS_FAILED);
    // What is wrong with a request may be told in its own words, which are the client's alone.
    log_warn("gateway", "failed: id=%s request_id=%s status=%u why=\"%s\"", r->answer.id,
             r->request_id, told.status, told.status == 400 ? told.code : e->message);
    fault_put(c, r, &told);
    if (!r->over)
        over_set(c, r);
}

void request_fail(struct core *c, struct request *r, const struct err *e)
{
    request_fail_as(c, r, (struct request_fault){0}, e);
}

void request_on_hangup(struct core *c, struct request *r)
{
    if (!r->over)
        client_lost(c, r, "the client left");
}
