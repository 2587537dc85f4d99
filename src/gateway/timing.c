#include "gateway/timing.h"

#include "base/json.h"
#include "gateway/answer.h"

#include <math.h>
#include <string.h>

static json_t *number_or_null(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

// A time on the axis; below 0: it never came.
static json_t *time_or_null(double v)
{
    return v < 0 ? json_null() : json_real(v);
}

static json_int_t count(const json_t *account, const char *member)
{
    double v = json_number_or(account, member, 0);

    return v >= 0 && v < 1e15 ? (json_int_t)v : 0;
}

// What no machine had to compute: the larger of what the two held (one of them would have computed the
// other's part in vain), never the last token.
uint32_t timing_cached_tokens(const struct timing *t)
{
    json_int_t held = count(t->done, "tokens_cached"), more = count(t->prefilled, "tokens_cached");
    json_int_t most = t->lead_prompt_tokens > 0 ? t->lead_prompt_tokens - 1 : 0;

    held = held > more ? held : more;
    return (uint32_t)(held < most ? held : most);
}

// From the last token computed on the prefill node to the end marker seen on the decode node.
// Below zero only by the error of the axis, so it is cut off there.
static double tail_ms(const struct timing *t)
{
    double computed = json_number_or(t->prefilled, "done_s", NAN) + t->prefill_sent_s;
    double arrived = json_number_or(t->done, "handoff_end_s", NAN) + t->decode_sent_s;
    double tail = (arrived - computed) * 1e3;

    return isnan(tail) ? tail : fmax(tail, 0);
}

static double decode_rate(const struct timing *t)
{
    double decode_s = json_number_or(t->done, "decode_s", 0);

    return decode_s > 0 && t->lead_gen_tokens > 0 ? t->lead_gen_tokens / decode_s : NAN;
}

// How long the prompt took to read, at whoever read it.
static double prefill_s(const struct timing *t)
{
    return json_number_or(t->prefilled, "done_s", json_number_or(t->done, "prefill_s", NAN));
}

// Copies those members of a worker's account that are there.
static json_t *account_json(const json_t *account, const char *const *members)
{
    json_t *o = json_object();

    for (; *members; members++) {
        json_t *v = json_object_get(account, *members);

        if (json_is_number(v))
            json_put(o, *members, json_incref(v));
    }
    return o;
}

// ---- the timeline ---------------------------------------------------------------------------------

static void span_put(json_t *list, const char *who, const json_t *span, double shift_s)
{
    const char *what = json_string_value(json_object_get(span, "what"));
    json_t *o;

    if (!what)
        return;
    o = json_object();
    json_put(o, "who", json_string(who));
    json_put(o, "what", json_string(what));
    json_put(o, "t0", number_or_null(json_number_or(span, "t0", 0) + shift_s));
    json_put(o, "t1", number_or_null(json_number_or(span, "t1", 0) + shift_s));
    json_put(o, "p0", json_integer(count(span, "p0")));
    json_put(o, "p1", json_integer(count(span, "p1")));
    json_array_append_new(list, o);
}

static void spans_put(json_t *list, const char *who, const json_t *account, double shift_s)
{
    const json_t *spans = json_object_get(account, "timeline");

    for (size_t i = 0; i < json_array_size(spans); i++)
        span_put(list, who, json_array_get(spans, i), shift_s);
}

static json_t *timeline_json(const struct timing *t)
{
    json_t *list = json_array();

    spans_put(list, "prefill", t->prefilled, t->prefill_sent_s);
    spans_put(list, "decode", t->done, t->decode_sent_s);
    return list;
}

// ---- all of it --------------------------------------------------------------------------------------

static const char *const prefill_members[] = {
    "tokens", "tokens_cached", "from",     "compute_s", "export_s",    "wait_s", "done_s",
    "sent_s", "kv_bytes",      "segments", "overruns",  "worst_ratio", NULL};
static const char *const decode_members[] = {
    "queue_s",     "prefill_s",       "decode_s", "handoff_end_s", "tokens_cached",
    "tokens_read", "tokens_imported", "kv_bytes", "overruns",      "worst_ratio",
    NULL};

static void details_put(json_t *o, const struct timing *t)
{
    double worst = fmax(json_number_or(t->done, "worst_ratio", 0),
                        json_number_or(t->prefilled, "worst_ratio", 0));

    json_put(o, "overruns",
             json_integer(count(t->done, "overruns") + count(t->prefilled, "overruns")));
    json_put(o, "worst_ratio", number_or_null(worst));
    json_put(o, "prefill_sent_s", time_or_null(t->prefill_sent_s));
    json_put(o, "decode_sent_s", time_or_null(t->decode_sent_s));
    json_put(o, "prefill",
             t->prefilled ? account_json(t->prefilled, prefill_members) : json_null());
    json_put(o, "decode", account_json(t->done, decode_members));
    if (t->timeline)
        json_put(o, "timeline", timeline_json(t));
}

static json_t *weights_json(const struct timing *t)
{
    json_t *o;

    if (!t->prefill_weights)
        return json_null();
    o = json_object();
    json_put(o, "prefill", answer_string(t->prefill_weights));
    json_put(o, "decode", answer_string(t->decode_weights));
    return o;
}

// What placement expected, on the same axis: before its choice a request has been rendered, or has waited elsewhere.
static json_t *predicted_json(const struct timing *t)
{
    const struct place_plan *p = t->predicted;
    json_t *o;

    if (!p)
        return json_null();
    o = json_object();
    json_put(o, "upto", p->prefill == PLACE_NO_NODE ? json_null() : json_integer(p->upto));
    json_put(o, "wait_s", json_real(p->wait_s));
    json_put(o, "read_s", json_real(p->read_s));
    json_put(o, "transfer_s", json_real(p->transfer_s));
    json_put(o, "tail_s", json_real(p->tail_s));
    json_put(o, "ttft_s", json_real(t->placed_s + p->ttft_s));
    json_put(o, "token_s", json_real(p->token_s));
    json_put(o, "total_s", json_real(t->placed_s + p->total_s));
    json_put(o, "answer_tokens", json_real(t->answer_tokens));
    json_put(o, "joules", time_or_null(p->joules));
    json_put(o, "dollars", time_or_null(p->dollars));
    return o;
}

json_t *timing_json(const struct timing *t)
{
    json_t *o = json_object();

    json_put(o, "plan", json_string(t->plan));
    json_put(o, "reason", answer_string(t->reason));
    json_put(o, "policy", t->policy ? json_string(t->policy) : json_null());
    json_put(o, "predicted", predicted_json(t));
    json_put(o, "prefill_node", answer_string(t->prefill_node));
    json_put(o, "decode_node", answer_string(t->decode_node));
    json_put(o, "weights", weights_json(t));
    json_put(o, "prompt_tokens", json_integer(t->prompt_tokens));
    json_put(o, "cached_tokens", json_integer(timing_cached_tokens(t)));
    json_put(o, "gen_tokens", json_integer(t->gen_tokens));
    json_put(o, "prefill_s", number_or_null(prefill_s(t)));
    json_put(o, "kv_bytes", json_integer(count(t->done, "kv_bytes")));
    json_put(o, "tail_ms", number_or_null(tail_ms(t)));
    json_put(o, "decode_s", number_or_null(json_number_or(t->done, "decode_s", NAN)));
    json_put(o, "decode_tokens_per_s", number_or_null(decode_rate(t)));
    json_put(o, "ttft_s", time_or_null(t->ttft_s));
    json_put(o, "total_s", number_or_null(t->total_s));
    json_put(o, "joules", time_or_null(t->joules));
    json_put(o, "fallback", t->fallback ? answer_string(t->fallback) : json_null());
    details_put(o, t);
    return o;
}
