// The JSON of control frames, read strictly: a member of the wrong type or outside its limits is
// refused and named, a member that must be there and is not is named too, members that are not
// known are ignored so that a newer peer can say more.
#include "node/message.h"

#include "base/buf.h"
#include "base/json.h"
#include "node/message_read.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void read_ticket(struct message_reader *r, char out[MESSAGE_TICKET_HEX + 1])
{
    uint8_t bytes[MESSAGE_TICKET_HEX / 2];
    const char *hex = NULL;
    message_need(r, "ticket");
    if (r->rc == 0)
        r->rc = json_get_string(r->object, "ticket", &hex, r->e);
    if (r->rc != 0)
        return;
    if (strlen(hex) != MESSAGE_TICKET_HEX || hex_decode(hex, bytes, sizeof bytes) != 0)
        r->rc = err_set(r->e, ERR_INVALID, "member \"ticket\" must be %d hex digits",
                        MESSAGE_TICKET_HEX);
    else
        memcpy(out, hex, MESSAGE_TICKET_HEX + 1);
}

static void read_adapter(struct message_reader *top, struct message_adapter *a)
{
    char sha256[MESSAGE_ADAPTER_BYTES] = "";
    uint8_t bytes[32];
    struct message_reader r = message_read_object(top, "adapter");
    if (!message_present(&r))
        return;
    message_read_text(&r, "name", a->name, sizeof a->name);
    message_need(&r, "sha256");
    message_read_text(&r, "sha256", sha256, sizeof sha256);
    if (r.rc == 0 && (strlen(sha256) != 64 || hex_decode(sha256, bytes, sizeof bytes) != 0))
        r.rc = err_set(r.e, ERR_INVALID, "member \"sha256\" must be 64 hex digits");
    else if (r.rc == 0)
        hex_encode(bytes, sizeof bytes, a->sha256);
    message_fail_into(top, &r, "adapter");
}

static json_t *adapter_json(const struct message_adapter *a)
{
    return json_pack("{s:s,s:s}", "name", a->name, "sha256", a->sha256);
}

// ---- GENERATE ---------------------------------------------------------------------------------

static void sampling_read(struct message_reader *top, struct engine_sampling *s)
{
    struct message_reader r = message_read_object(top, "sampling");
    if (!message_present(&r))
        return;
    message_read_f32(&r, "temperature", -1, 100, &s->temperature);
    message_read_f32(&r, "top_p", 0, 1, &s->top_p);
    message_read_f32(&r, "min_p", 0, 1, &s->min_p);
    message_read_f32(&r, "typical_p", 0, 1, &s->typical_p);
    message_read_i32(&r, "repeat_last_n", -1, INT32_MAX, &s->repeat_last_n);
    message_read_i32(&r, "reasoning_budget", -1, INT32_MAX, &s->reasoning_budget);
    message_read_u32(&r, "seed", UINT32_MAX, &s->seed);
    message_read_f32(&r, "repeat_penalty", 0, 100, &s->repeat_penalty);
    message_read_f32(&r, "frequency_penalty", -100, 100, &s->frequency_penalty);
    message_read_f32(&r, "presence_penalty", -100, 100, &s->presence_penalty);
    message_read_i32(&r, "top_k", 0, INT32_MAX, &s->top_k);
    message_fail_into(top, &r, "sampling");
}

// [[token, bias]...]; a null bias forbids the token.
static void biases_read(struct message_reader *top, struct message_generate *m)
{
    json_t *list = NULL;
    struct message_reader r = message_read_object(top, "sampling");
    if (!message_present(&r))
        return;
    r.rc = json_get_array(r.object, "logit_bias", &list, r.e);
    size_t n = r.rc == 0 && list != NULL ? json_array_size(list) : 0;
    if (n > ENGINE_BIAS_MAX)
        r.rc =
            err_set(r.e, ERR_RANGE, "member \"logit_bias\" has %zu entries, at most %d are taken",
                    n, ENGINE_BIAS_MAX);
    if (r.rc == 0 && n > 0)
        m->biases = mem_alloc(n * sizeof *m->biases);
    for (size_t i = 0; r.rc == 0 && i < n; i++) {
        const json_t *pair = json_array_get(list, i);
        const json_t *token = json_array_get(pair, 0), *bias = json_array_get(pair, 1);
        if (!json_is_integer(token) || json_integer_value(token) < 0 ||
            json_integer_value(token) > INT32_MAX || (!json_is_number(bias) && !json_is_null(bias)))
            r.rc = err_set(r.e, ERR_INVALID,
                           "member \"logit_bias\"[%zu] must be [token id, number or null]", i);
        else
            m->biases[m->sampling.n_biases++] = (struct engine_bias){
                (int32_t)json_integer_value(token),
                json_is_null(bias) ? -INFINITY : (float)json_number_value(bias)};
    }
    m->sampling.biases = m->biases;
    message_fail_into(top, &r, "sampling");
}

static void syntax_read(struct message_reader *r, struct message_generate *m)
{
    json_t *o = NULL;
    if (r->rc == 0)
        r->rc = json_get_object(r->object, "syntax", &o, r->e);
    if (r->rc == 0 && o != NULL)
        m->sampling.syntax = m->syntax = json_incref(o);
}

static void media_read(struct message_reader *r, struct message_generate *m)
{
    json_t *list = NULL;
    if (r->rc == 0)
        r->rc = json_get_array(r->object, "media", &list, r->e);
    if (r->rc == 0 && json_array_size(list) > 0)
        m->media = json_incref(list);
}

static void stops_read(struct message_reader *r, struct message_generate *m)
{
    json_t *list = NULL;
    if (r->rc == 0)
        r->rc = json_get_array(r->object, "stop", &list, r->e);
    size_t n = list != NULL && r->rc == 0 ? json_array_size(list) : 0;
    if (n > MESSAGE_STOPS_MAX) {
        r->rc = err_set(r->e, ERR_RANGE, "member \"stop\" has %zu texts, at most %d are taken", n,
                        MESSAGE_STOPS_MAX);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        size_t bytes = json_string_length(v);
        if (!json_is_string(v) || bytes == 0 || bytes > MESSAGE_STOP_BYTES) {
            r->rc =
                err_set(r->e, ERR_INVALID, "member \"stop\"[%zu] must be a text of 1 to %d bytes",
                        i, MESSAGE_STOP_BYTES);
            return;
        }
        m->stops[m->n_stops++] = mem_strdup(json_string_value(v));
    }
}

static void handoff_read(struct message_reader *top, struct message_handoff *h)
{
    uint32_t port = 0;
    struct message_reader r = message_read_object(top, "handoff");
    if (!message_present(&r))
        return;
    *h = (struct message_handoff){.present = true, .stall_s = 3.0, .same_weights = true};
    message_need(&r, "host");
    message_read_text(&r, "host", h->host, sizeof h->host);
    message_need(&r, "port");
    message_read_u32(&r, "port", UINT16_MAX, &port);
    if (r.rc == 0 && port == 0)
        r.rc = err_set(r.e, ERR_INVALID, "member \"port\" must be 1 to 65535");
    h->port = (uint16_t)port;
    read_ticket(&r, h->ticket);
    message_need(&r, "transfer");
    message_read_u32(&r, "upto", MESSAGE_MAX_TOKENS, &h->upto);
    message_read_u64(&r, "transfer", &h->transfer);
    message_read_f64(&r, "stall_s", 0.001, 3600, &h->stall_s);
    message_read_bool(&r, "serial", &h->serial);
    message_read_bool(&r, "same_weights", &h->same_weights);
    message_fail_into(top, &r, "handoff");
}

int message_generate_parse(const json_t *head, struct message_generate *m, struct err *e)
{
    *m = (struct message_generate){.keep = true, .reuse = true, .logprobs = -1};
    engine_sampling_default(&m->sampling);
    struct message_reader r = message_reader_of(head, "GENERATE", e);
    message_read_u32(&r, "epoch", UINT32_MAX, &m->epoch);
    message_need(&r, "max_tokens");
    message_read_u32(&r, "max_tokens", MESSAGE_MAX_TOKENS, &m->max_tokens);
    message_read_bool(&r, "ignore_eos", &m->ignore_eos);
    message_read_bool(&r, "timeline", &m->timeline);
    message_read_bool(&r, "parse", &m->parse);
    message_read_bool(&r, "keep", &m->keep);
    message_read_bool(&r, "reuse", &m->reuse);
    message_read_bool(&r, "whole", &m->whole);
    message_read_i32(&r, "logprobs", -1, ENGINE_LOGPROBS_MAX, &m->logprobs);
    message_read_text(&r, "owner", m->owner, sizeof m->owner);
    sampling_read(&r, &m->sampling);
    biases_read(&r, m);
    syntax_read(&r, m);
    media_read(&r, m);
    stops_read(&r, m);
    read_adapter(&r, &m->adapter);
    handoff_read(&r, &m->handoff);
    if (r.rc != 0)
        message_generate_fini(m);
    return r.rc;
}

static json_t *biases_json(const struct engine_sampling *s)
{
    json_t *list = json_array();
    for (size_t i = 0; i < s->n_biases; i++) {
        json_t *pair = json_array();
        json_array_append_new(pair, json_integer(s->biases[i].token));
        json_array_append_new(
            pair, isinf(s->biases[i].bias) ? json_null() : json_real((double)s->biases[i].bias));
        json_array_append_new(list, pair);
    }
    return list;
}

static json_t *sampling_json(const struct engine_sampling *s)
{
    json_t *o = json_object();
    json_put(o, "temperature", json_real((double)s->temperature));
    json_put(o, "top_p", json_real((double)s->top_p));
    json_put(o, "top_k", json_integer(s->top_k));
    json_put(o, "min_p", json_real((double)s->min_p));
    json_put(o, "typical_p", json_real((double)s->typical_p));
    json_put(o, "seed", json_integer(s->seed));
    json_put(o, "repeat_penalty", json_real((double)s->repeat_penalty));
    json_put(o, "repeat_last_n", json_integer(s->repeat_last_n));
    json_put(o, "frequency_penalty", json_real((double)s->frequency_penalty));
    json_put(o, "presence_penalty", json_real((double)s->presence_penalty));
    json_put(o, "reasoning_budget", json_integer(s->reasoning_budget));
    if (s->n_biases > 0)
        json_put(o, "logit_bias", biases_json(s));
    return o;
}

static json_t *handoff_json(const struct message_handoff *h)
{
    if (!h->present)
        return json_null();
    json_t *o = json_object();
    json_put(o, "host", json_string(h->host));
    json_put(o, "port", json_integer(h->port));
    json_put(o, "ticket", json_string(h->ticket));
    json_put(o, "transfer", json_integer((json_int_t)h->transfer));
    json_put(o, "upto", json_integer(h->upto));
    json_put(o, "stall_s", json_real(h->stall_s));
    json_put(o, "serial", json_boolean(h->serial));
    json_put(o, "same_weights", json_boolean(h->same_weights));
    return o;
}

json_t *message_generate_json(const struct message_generate *m)
{
    json_t *o = json_object(), *stops = json_array();
    for (size_t i = 0; i < m->n_stops; i++)
        json_array_append_new(stops, json_string(m->stops[i]));
    json_put(o, "epoch", json_integer(m->epoch));
    json_put(o, "max_tokens", json_integer(m->max_tokens));
    json_put(o, "ignore_eos", json_boolean(m->ignore_eos));
    json_put(o, "timeline", json_boolean(m->timeline));
    json_put(o, "parse", json_boolean(m->parse));
    json_put(o, "keep", json_boolean(m->keep));
    json_put(o, "reuse", json_boolean(m->reuse));
    json_put(o, "whole", json_boolean(m->whole));
    json_put(o, "logprobs", json_integer(m->logprobs));
    json_put(o, "owner", json_string(m->owner));
    json_put(o, "sampling", sampling_json(&m->sampling));
    if (m->adapter.sha256[0] != '\0')
        json_put(o, "adapter", adapter_json(&m->adapter));
    if (m->syntax != NULL)
        json_put(o, "syntax", json_incref(m->syntax));
    if (m->media != NULL)
        json_put(o, "media", json_incref(m->media));
    json_put(o, "stop", stops);
    json_put(o, "handoff", handoff_json(&m->handoff));
    return o;
}

void message_generate_fini(struct message_generate *m)
{
    free(m->biases);
    json_decref(m->syntax);
    json_decref(m->media);
    for (size_t i = 0; i < m->n_stops; i++)
        free(m->stops[i]);
    *m = (struct message_generate){0};
}

// ---- PREFILL ----------------------------------------------------------------------------------

int message_prefill_parse(const json_t *head, struct message_prefill *m, struct err *e)
{
    *m = (struct message_prefill){.keep = true, .reuse = true};
    struct message_reader r = message_reader_of(head, "PREFILL", e);
    message_read_u32(&r, "epoch", UINT32_MAX, &m->epoch);
    message_need(&r, "transfer");
    message_read_u64(&r, "transfer", &m->transfer);
    read_ticket(&r, m->ticket);
    message_read_bool(&r, "serial", &m->serial);
    message_read_bool(&r, "timeline", &m->timeline);
    message_read_bool(&r, "keep", &m->keep);
    message_read_bool(&r, "reuse", &m->reuse);
    message_read_text(&r, "owner", m->owner, sizeof m->owner);
    message_need(&r, "upto");
    message_read_u32(&r, "upto", MESSAGE_MAX_TOKENS, &m->upto);
    message_read_f64(&r, "link_bytes_per_s", 0, 1e13, &m->link_bytes_per_s);
    read_adapter(&r, &m->adapter);
    if (r.rc == 0 && m->upto == 0)
        r.rc = err_set(e, ERR_INVALID, "member \"upto\" must be at least 1");
    return r.rc;
}

json_t *message_prefill_json(const struct message_prefill *m)
{
    json_t *o = json_object();
    json_put(o, "epoch", json_integer(m->epoch));
    json_put(o, "transfer", json_integer((json_int_t)m->transfer));
    json_put(o, "ticket", json_string(m->ticket));
    json_put(o, "serial", json_boolean(m->serial));
    json_put(o, "timeline", json_boolean(m->timeline));
    json_put(o, "keep", json_boolean(m->keep));
    json_put(o, "reuse", json_boolean(m->reuse));
    json_put(o, "owner", json_string(m->owner));
    json_put(o, "upto", json_integer(m->upto));
    json_put(o, "link_bytes_per_s", json_real(m->link_bytes_per_s));
    if (m->adapter.sha256[0] != '\0')
        json_put(o, "adapter", adapter_json(&m->adapter));
    return o;
}
