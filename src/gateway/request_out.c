// What a request's client sees: comment lines, chunks, the end, and errors in the shape that fits
// what has been sent already.
#include "base/clock.h"
#include "base/log.h"
#include "gateway/core.h"
#include "gateway/timing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void client_lost(struct core *c, struct request *r, const char *why)
{
    log_info("gateway", "request given up: id=%s why=\"%s\"", r->head.id, why);
    c->totals.cancelled++;
    reply_abort(r->reply);
    r->over = true;
}

static void bytes_put(struct core *c, struct request *r, const char *bytes)
{
    int rc;

    if (r->over)
        return;
    rc = reply_write(r->reply, bytes, strlen(bytes));
    if (rc == 0)
        r->beat_ns = clock_now_ns() + c->options.heartbeat_ns;
    else
        client_lost(c, r, rc == ERR_CLOSED ? "the client left" : "the client does not read");
}

// Takes the event.
static void event_put(struct core *c, struct request *r, char *event)
{
    bytes_put(c, r, event);
    free(event);
}

void request_stream_begin(struct core *c, struct request *r)
{
    if (!r->in.stream || r->streaming)
        return;
    r->streaming = true;
    reply_begin(r->reply);
    bytes_put(c, r, ANSWER_EVENT_BEAT);
}

void request_beat(struct core *c, struct request *r)
{
    if (r->streaming)
        bytes_put(c, r, ANSWER_EVENT_BEAT);
    else
        request_stream_begin(c, r);
}

static void role_put(struct core *c, struct request *r)
{
    request_stream_begin(c, r);
    if (r->role_sent)
        return;
    r->role_sent = true;
    if (r->in.kind == PARSE_CHAT)
        event_put(c, r, answer_event_role(&r->head));
}

void request_text(struct core *c, struct request *r, const char *text)
{
    static const struct err too_long = {ERR_RANGE,
                                        "the answer is longer than an answer sent whole may be; "
                                        "ask for it with \"stream\": true"};

    if (text[0] == '\0')
        return;
    if (r->in.stream) {
        role_put(c, r);
        event_put(c, r, answer_event_text(&r->head, text));
    } else if (buf_puts(&r->text, text) != 0) {
        request_fail(c, r, &too_long);
    }
}

// ---- the end ------------------------------------------------------------------------------------------

static double since(const struct request *r, int64_t at_ns)
{
    return at_ns == 0 ? -1 : ns_to_s(at_ns - r->received_ns);
}

// The decode worker is the one that fell back: it knows why it did (the gateway hears consequences
// too, such as the prefill node's complaint that it was given up) and from which token it read on.
// The gateway's own reason is for plans that never reached that worker. A hand-off that was complete
// before its prefill node was lost cost nothing, so it is no fall-back.
static void fallback_settle(struct request *r)
{
    const char *told = json_string_value(json_object_get(r->done, "fallback"));

    if (told)
        snprintf(r->fallback, sizeof(r->fallback), "%s", told);
    else if (r->prefill && json_is_number(json_object_get(r->done, "handoff_end_s")))
        r->fallback[0] = '\0';
}

static void timing_fill(struct request *r, struct timing *t)
{
    const struct peer *reader = r->prefill ? r->prefill : r->decode;
    bool local = !r->prefill && r->decode->local;

    *t = (struct timing){
        .plan = sched_plan_name(r->choice.plan),
        .reason = r->choice.reason,
        .prefill_node = peer_name(reader),
        .decode_node = peer_name(r->decode),
        .prefill_weights = local ? NULL : reader->welcome.identity.weights,
        .decode_weights = local ? NULL : r->decode->welcome.identity.weights,
        .fallback = r->fallback[0] ? r->fallback : NULL,
        .prompt_tokens = r->n_tokens,
        .gen_tokens = r->gen_tokens,
        .prefill_sent_s = since(r, r->prefill_sent_ns),
        .decode_sent_s = since(r, r->decode_sent_ns),
        .ttft_s = since(r, r->first_token_ns),
        .total_s = since(r, r->done_ns),
        .done = r->done,
        .prefilled = r->prefilled,
        .timeline = r->in.generate.timeline,
    };
}

static void stream_finish(struct core *c, struct request *r, const char *finish,
                          const struct answer_usage *usage, json_t *timings)
{
    role_put(c, r);
    event_put(c, r, answer_event_finish(&r->head, finish, timings));
    if (r->in.include_usage)
        event_put(c, r, answer_event_usage(&r->head, usage, timings));
    bytes_put(c, r, ANSWER_EVENT_DONE);
    reply_end(r->reply);
}

static void whole_finish(struct request *r, const char *finish, const struct answer_usage *usage,
                         json_t *timings)
{
    struct answer_whole w = {.text = r->text.data ? (const char *)r->text.data : "",
                             .finish = finish,
                             .usage = *usage,
                             .timings = timings};

    reply_finish(r->reply, 200, answer_whole(&r->head, &w), 0);
}

static void totals_count(struct core *c, const struct request *r)
{
    static const size_t at[] = {
        [SCHED_LOCAL] = offsetof(struct core_totals, local),
        [SCHED_REMOTE] = offsetof(struct core_totals, remote),
        [SCHED_SERIAL] = offsetof(struct core_totals, serial),
        [SCHED_HYBRID] = offsetof(struct core_totals, hybrid),
    };

    ++*(uint64_t *)(void *)((char *)&c->totals + at[r->choice.plan]);
    if (r->fallback[0])
        c->totals.fallbacks++;
}

void request_finish(struct core *c, struct request *r)
{
    const char *finish = json_string_value(json_object_get(r->done, "finish"));
    struct answer_usage usage = {.prompt_tokens = r->n_tokens, .gen_tokens = r->gen_tokens};
    struct timing t;
    json_t *timings;

    fallback_settle(r);
    timing_fill(r, &t);
    timings = timing_json(&t);
    usage.cached_tokens = timing_cached_tokens(&t);
    finish = finish ? finish : "stop";
    if (r->in.stream)
        stream_finish(c, r, finish, &usage, timings);
    else
        whole_finish(r, finish, &usage, timings);
    json_decref(timings);
    if (!r->over)
        totals_count(c, r);
    r->over = true;
    log_info("gateway", "answered: id=%s plan=%s prompt_tokens=%u gen_tokens=%u total_s=%.3f%s%s%s",
             r->head.id, t.plan, r->n_tokens, r->gen_tokens, t.total_s,
             t.fallback ? " fallback=\"" : "", t.fallback ? t.fallback : "",
             t.fallback ? "\"" : "");
}

void request_fail_as(struct core *c, struct request *r, struct request_fault f, const struct err *e)
{
    unsigned status = f.status ? f.status : answer_status(e->code);
    const char *code = f.code ? f.code : err_name(e->code);

    if (r->over)
        return;
    c->totals.failed++;
    log_warn("gateway", "failed: id=%s status=%u why=\"%s\"", r->head.id, status, e->message);
    if (r->streaming) {
        event_put(c, r, answer_event_error(status, e->message, code, f.param));
        reply_end(r->reply);
    } else {
        if (status == 503 && r->retry_after_s == 0)
            r->retry_after_s = 1;
        reply_finish(r->reply, status, answer_error(status, e->message, code, f.param),
                     r->retry_after_s);
    }
    r->over = true;
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
