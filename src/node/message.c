// The JSON of control frames, read strictly: a member of the wrong type or outside its limits is
// refused and named, a member that must be there and is not is named too, members that are not
// known are ignored so that a newer peer can say more.
#include "node/message.h"

#include "base/buf.h"
#include "base/json.h"
#include "node/node.h"
#include "sched/place.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Reading one object: the first failure sticks, so that a list of members reads as a list.
struct reader {
    const json_t *object;
    struct err *e;
    int rc;
};

static struct reader reader_of(const json_t *object, const char *what, struct err *e)
{
    struct reader r = {.object = object, .e = e};
    if (!json_is_object(object))
        r.rc = err_set(e, ERR_INVALID, "%s must be a JSON object", what);
    return r;
}

static void need(struct reader *r, const char *member)
{
    const json_t *v = r->rc == 0 ? json_object_get(r->object, member) : NULL;
    if (r->rc == 0 && (v == NULL || json_is_null(v)))
        r->rc = err_set(r->e, ERR_INVALID, "member \"%s\" is missing", member);
}

static void read_bool(struct reader *r, const char *member, bool *out)
{
    if (r->rc == 0)
        r->rc = json_get_bool(r->object, member, out, r->e);
}

static void read_u32(struct reader *r, const char *member, uint32_t max, uint32_t *out)
{
    int64_t v = *out;
    if (r->rc == 0)
        r->rc = json_get_i64(r->object, member, 0, max, &v, r->e);
    if (r->rc == 0)
        *out = (uint32_t)v;
}

static void read_i32(struct reader *r, const char *member, int32_t min, int32_t max, int32_t *out)
{
    int64_t v = *out;
    if (r->rc == 0)
        r->rc = json_get_i64(r->object, member, min, max, &v, r->e);
    if (r->rc == 0)
        *out = (int32_t)v;
}

static void read_u64(struct reader *r, const char *member, uint64_t *out)
{
    int64_t v = (int64_t)*out;
    if (r->rc == 0)
        r->rc = json_get_i64(r->object, member, 0, INT64_MAX, &v, r->e);
    if (r->rc == 0)
        *out = (uint64_t)v;
}

static void read_f64(struct reader *r, const char *member, double min, double max, double *out)
{
    if (r->rc == 0)
        r->rc = json_get_f64(r->object, member, min, max, out, r->e);
}

static void read_f32(struct reader *r, const char *member, double min, double max, float *out)
{
    double v = (double)*out;
    read_f64(r, member, min, max, &v);
    if (r->rc == 0)
        *out = (float)v;
}

static void read_text(struct reader *r, const char *member, char *out, size_t out_bytes)
{
    if (r->rc == 0)
        r->rc = json_copy_string(r->object, member, out, out_bytes, r->e);
}

static struct reader read_object(struct reader *r, const char *member)
{
    json_t *o = NULL;
    if (r->rc == 0)
        r->rc = json_get_object(r->object, member, &o, r->e);
    return (struct reader){.object = o, .e = r->e, .rc = r->rc};
}

// A nested object that may be absent: true when it is there.
static bool present(const struct reader *r)
{
    return r->rc == 0 && r->object != NULL;
}

static void fail_into(struct reader *r, const struct reader *nested, const char *where)
{
    if (r->rc == 0 && nested->rc != 0) {
        r->rc = nested->rc;
        err_wrap(r->e, "%s", where);
    }
}

static void read_ticket(struct reader *r, char out[MESSAGE_TICKET_HEX + 1])
{
    uint8_t bytes[MESSAGE_TICKET_HEX / 2];
    const char *hex = NULL;
    need(r, "ticket");
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

static void read_adapter(struct reader *top, struct message_adapter *a)
{
    char sha256[MESSAGE_ADAPTER_BYTES] = "";
    uint8_t bytes[32];
    struct reader r = read_object(top, "adapter");
    if (!present(&r))
        return;
    read_text(&r, "name", a->name, sizeof a->name);
    need(&r, "sha256");
    read_text(&r, "sha256", sha256, sizeof sha256);
    if (r.rc == 0 && (strlen(sha256) != 64 || hex_decode(sha256, bytes, sizeof bytes) != 0))
        r.rc = err_set(r.e, ERR_INVALID, "member \"sha256\" must be 64 hex digits");
    else if (r.rc == 0)
        hex_encode(bytes, sizeof bytes, a->sha256);
    fail_into(top, &r, "adapter");
}

static json_t *adapter_json(const struct message_adapter *a)
{
    return json_pack("{s:s,s:s}", "name", a->name, "sha256", a->sha256);
}

// ---- GENERATE ---------------------------------------------------------------------------------

static void sampling_read(struct reader *top, struct engine_sampling *s)
{
    struct reader r = read_object(top, "sampling");
    if (!present(&r))
        return;
    read_f32(&r, "temperature", -1, 100, &s->temperature);
    read_f32(&r, "top_p", 0, 1, &s->top_p);
    read_f32(&r, "min_p", 0, 1, &s->min_p);
    read_f32(&r, "typical_p", 0, 1, &s->typical_p);
    read_i32(&r, "repeat_last_n", -1, INT32_MAX, &s->repeat_last_n);
    read_i32(&r, "reasoning_budget", -1, INT32_MAX, &s->reasoning_budget);
    read_u32(&r, "seed", UINT32_MAX, &s->seed);
    read_f32(&r, "repeat_penalty", 0, 100, &s->repeat_penalty);
    read_f32(&r, "frequency_penalty", -100, 100, &s->frequency_penalty);
    read_f32(&r, "presence_penalty", -100, 100, &s->presence_penalty);
    read_i32(&r, "top_k", 0, INT32_MAX, &s->top_k);
    fail_into(top, &r, "sampling");
}

// [[token, bias]...]; a null bias forbids the token.
static void biases_read(struct reader *top, struct message_generate *m)
{
    json_t *list = NULL;
    struct reader r = read_object(top, "sampling");
    if (!present(&r))
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
    fail_into(top, &r, "sampling");
}

static void syntax_read(struct reader *r, struct message_generate *m)
{
    json_t *o = NULL;
    if (r->rc == 0)
        r->rc = json_get_object(r->object, "syntax", &o, r->e);
    if (r->rc == 0 && o != NULL)
        m->sampling.syntax = m->syntax = json_incref(o);
}

static void media_read(struct reader *r, struct message_generate *m)
{
    json_t *list = NULL;
    if (r->rc == 0)
        r->rc = json_get_array(r->object, "media", &list, r->e);
    if (r->rc == 0 && json_array_size(list) > 0)
        m->media = json_incref(list);
}

static void stops_read(struct reader *r, struct message_generate *m)
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

static void handoff_read(struct reader *top, struct message_handoff *h)
{
    uint32_t port = 0;
    struct reader r = read_object(top, "handoff");
    if (!present(&r))
        return;
    *h = (struct message_handoff){.present = true, .stall_s = 3.0, .same_weights = true};
    need(&r, "host");
    read_text(&r, "host", h->host, sizeof h->host);
    need(&r, "port");
    read_u32(&r, "port", UINT16_MAX, &port);
    if (r.rc == 0 && port == 0)
        r.rc = err_set(r.e, ERR_INVALID, "member \"port\" must be 1 to 65535");
    h->port = (uint16_t)port;
    read_ticket(&r, h->ticket);
    need(&r, "transfer");
    read_u32(&r, "upto", MESSAGE_MAX_TOKENS, &h->upto);
    read_u64(&r, "transfer", &h->transfer);
    read_f64(&r, "stall_s", 0.001, 3600, &h->stall_s);
    read_bool(&r, "serial", &h->serial);
    read_bool(&r, "same_weights", &h->same_weights);
    fail_into(top, &r, "handoff");
}

int message_generate_parse(const json_t *head, struct message_generate *m, struct err *e)
{
    *m = (struct message_generate){.keep = true, .reuse = true, .logprobs = -1};
    engine_sampling_default(&m->sampling);
    struct reader r = reader_of(head, "GENERATE", e);
    read_u32(&r, "epoch", UINT32_MAX, &m->epoch);
    need(&r, "max_tokens");
    read_u32(&r, "max_tokens", MESSAGE_MAX_TOKENS, &m->max_tokens);
    read_bool(&r, "ignore_eos", &m->ignore_eos);
    read_bool(&r, "timeline", &m->timeline);
    read_bool(&r, "parse", &m->parse);
    read_bool(&r, "keep", &m->keep);
    read_bool(&r, "reuse", &m->reuse);
    read_bool(&r, "whole", &m->whole);
    read_i32(&r, "logprobs", -1, ENGINE_LOGPROBS_MAX, &m->logprobs);
    read_text(&r, "owner", m->owner, sizeof m->owner);
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
    struct reader r = reader_of(head, "PREFILL", e);
    read_u32(&r, "epoch", UINT32_MAX, &m->epoch);
    need(&r, "transfer");
    read_u64(&r, "transfer", &m->transfer);
    read_ticket(&r, m->ticket);
    read_bool(&r, "serial", &m->serial);
    read_bool(&r, "timeline", &m->timeline);
    read_bool(&r, "keep", &m->keep);
    read_bool(&r, "reuse", &m->reuse);
    read_text(&r, "owner", m->owner, sizeof m->owner);
    need(&r, "upto");
    read_u32(&r, "upto", MESSAGE_MAX_TOKENS, &m->upto);
    read_f64(&r, "link_bytes_per_s", 0, 1e13, &m->link_bytes_per_s);
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

// ---- HELLO ------------------------------------------------------------------------------------

static bool role_known(const char *role)
{
    return strcmp(role, "gateway") == 0 || strcmp(role, "bulk") == 0 || strcmp(role, "tool") == 0 ||
           strcmp(role, "spread") == 0;
}

static void identity_read(struct reader *r, struct engine_identity *id)
{
    need(r, "identity");
    if (r->rc == 0)
        r->rc = engine_identity_parse(json_object_get(r->object, "identity"), id, r->e);
}

int message_hello_parse(const json_t *head, struct message_hello *m, struct err *e)
{
    *m = (struct message_hello){.same_weights = true};
    struct reader r = reader_of(head, "HELLO", e);
    need(&r, "version");
    read_u32(&r, "version", UINT32_MAX, &m->version);
    need(&r, "role");
    read_text(&r, "role", m->role, sizeof m->role);
    if (r.rc == 0 && !role_known(m->role))
        r.rc = err_set(e, ERR_INVALID, "member \"role\" is \"%s\", not gateway, bulk or tool",
                       m->role);
    read_text(&r, "name", m->name, sizeof m->name);
    read_text(&r, "build", m->build, sizeof m->build);
    read_text(&r, "engine", m->engine, sizeof m->engine);
    read_bool(&r, "same_weights", &m->same_weights);
    const json_t *identity = r.rc == 0 ? json_object_get(head, "identity") : NULL;
    m->has_identity = identity != NULL && !json_is_null(identity);
    if (m->has_identity || strcmp(m->role, "bulk") == 0)
        identity_read(&r, &m->identity);
    return r.rc;
}

json_t *message_hello_json(const struct message_hello *m)
{
    json_t *o = json_object();
    json_put(o, "version", json_integer(m->version));
    json_put(o, "role", json_string(m->role));
    json_put(o, "name", json_string(m->name));
    json_put(o, "build", json_string(m->build));
    if (m->engine[0] != '\0')
        json_put(o, "engine", json_string(m->engine));
    if (m->has_identity)
        json_put(o, "identity", engine_identity_json(&m->identity));
    json_put(o, "same_weights", json_boolean(m->same_weights));
    return o;
}

// ---- WELCOME ----------------------------------------------------------------------------------

static void limits_read(struct reader *top, struct engine_limits *l)
{
    const char *mode = NULL;
    need(top, "limits");
    struct reader r = read_object(top, "limits");
    if (present(&r)) {
        read_u32(&r, "n_ctx", INT32_MAX, &l->n_ctx);
        read_u32(&r, "n_seq", INT32_MAX, &l->n_seq);
        read_u32(&r, "n_batch", INT32_MAX, &l->n_batch);
        read_u32(&r, "n_embed_tokens", INT32_MAX, &l->n_embed_tokens);
        read_bool(&r, "ranks", &l->ranks);
        read_bool(&r, "cuts", &l->cuts);
        fail_into(top, &r, "limits");
    }
    need(top, "handoff");
    if (top->rc == 0)
        top->rc = json_get_string(top->object, "handoff", &mode, top->e);
    if (top->rc == 0 && engine_handoff_parse(mode, &l->handoff) != 0)
        top->rc =
            err_set(top->e, ERR_INVALID, "member \"handoff\" is \"%s\", which is no mode", mode);
    read_f64(top, "kv_bytes_per_token", 0, 1e12, &l->kv_bytes_per_token);
    read_u64(top, "state_bytes", &l->state_bytes);
    read_bool(top, "has_tokenizer", &l->has_tokenizer);
    read_bool(top, "has_chat_template", &l->has_chat_template);
    read_bool(top, "media", &l->media);
}

static void rates_read(struct reader *top, struct message_welcome *m)
{
    struct reader r = read_object(top, "rates");
    if (!present(&r))
        return;
    read_f64(&r, "prefill_tokens_per_s", 0, 1e12, &m->prefill_tokens_per_s);
    read_f64(&r, "decode_tokens_per_s", 0, 1e12, &m->decode_tokens_per_s);
    fail_into(top, &r, "rates");
}

static void facts_read(struct reader *top, struct message_welcome *m)
{
    struct reader r = read_object(top, "facts");
    if (!present(&r))
        return;
    r.rc = os_facts_parse(r.object, &m->facts, r.e);
    fail_into(top, &r, "facts");
}

static void power_read(struct reader *top, struct message_power *p)
{
    struct reader r = read_object(top, "power");
    if (!present(&r))
        return;
    read_f64(&r, "idle_w", 0, 1e6, &p->idle_w);
    read_f64(&r, "prefill_w", 0, 1e6, &p->prefill_w);
    read_f64(&r, "decode_w", 0, 1e6, &p->decode_w);
    fail_into(top, &r, "power");
}

int message_power_parse(const json_t *head, struct message_power *p, struct err *e)
{
    *p = (struct message_power){0};
    struct reader r = reader_of(head, "STATUS_IS", e);
    power_read(&r, p);
    return r.rc;
}

static void node_id_read(struct reader *r, char out[OS_ID_HEX + 1])
{
    uint8_t raw[OS_ID_HEX / 2];
    const char *hex = NULL;
    if (r->rc == 0)
        r->rc = json_get_string(r->object, "node_id", &hex, r->e);
    if (r->rc != 0 || hex == NULL || hex[0] == '\0')
        return;
    if (strlen(hex) != OS_ID_HEX || hex_decode(hex, raw, sizeof raw) != 0)
        r->rc = err_set(r->e, ERR_INVALID, "member \"node_id\" must be %d hex digits", OS_ID_HEX);
    else
        hex_encode(raw, sizeof raw, out);
}

// A word that is not known comes from a newer node: it gets what one gets that says nothing.
static void role_read(struct reader *r, struct message_welcome *m)
{
    const char *role = NULL;
    if (r->rc == 0)
        r->rc = json_get_string(r->object, "role", &role, r->e);
    if (r->rc == 0 && role != NULL)
        place_role_parse(role, &m->role);
    if (r->rc == 0)
        r->rc = json_get_f64(r->object, "dollars_per_hour", 0, NODE_PRICE_MAX, &m->dollars_per_hour,
                             r->e);
    m->priced = r->rc == 0 && json_is_number(json_object_get(r->object, "dollars_per_hour"));
}

int message_welcome_parse(const json_t *head, struct message_welcome *m, struct err *e)
{
    *m = (struct message_welcome){.limits.has_tokenizer = true};
    struct reader r = reader_of(head, "WELCOME", e);
    need(&r, "version");
    read_u32(&r, "version", UINT32_MAX, &m->version);
    read_text(&r, "name", m->name, sizeof m->name);
    read_text(&r, "build", m->build, sizeof m->build);
    read_text(&r, "model", m->model, sizeof m->model);
    node_id_read(&r, m->node_id);
    identity_read(&r, &m->identity);
    limits_read(&r, &m->limits);
    rates_read(&r, m);
    facts_read(&r, m);
    power_read(&r, &m->power);
    read_bool(&r, "paced", &m->paced);
    read_bool(&r, "adapters", &m->adapters);
    read_text(&r, "spread", m->spread, sizeof m->spread);
    read_bool(&r, "measures", &m->measures);
    read_text(&r, "advertise", m->advertise, sizeof m->advertise);
    role_read(&r, m);
    if (r.rc == 0)
        r.rc = json_get_i64(head, "pid", -1, INT32_MAX, &m->pid, e);
    return r.rc;
}

static json_t *limits_json(const struct engine_limits *l)
{
    json_t *o = json_object();
    json_put(o, "n_ctx", json_integer(l->n_ctx));
    json_put(o, "n_seq", json_integer(l->n_seq));
    json_put(o, "n_batch", json_integer(l->n_batch));
    json_put(o, "n_embed_tokens", json_integer(l->n_embed_tokens));
    json_put(o, "ranks", json_boolean(l->ranks));
    json_put(o, "cuts", json_boolean(l->cuts));
    return o;
}

static json_t *rates_json(const struct message_welcome *m)
{
    json_t *o = json_object();
    json_put(o, "prefill_tokens_per_s", json_real(m->prefill_tokens_per_s));
    json_put(o, "decode_tokens_per_s", json_real(m->decode_tokens_per_s));
    return o;
}

static json_t *watts_json(double w)
{
    return w > 0 ? json_real(w) : json_null();
}

json_t *message_power_json(const struct message_power *p)
{
    json_t *o = json_object();
    json_put(o, "idle_w", watts_json(p->idle_w));
    json_put(o, "prefill_w", watts_json(p->prefill_w));
    json_put(o, "decode_w", watts_json(p->decode_w));
    return o;
}

static bool power_known(const struct message_power *p)
{
    return p->idle_w > 0 || p->prefill_w > 0 || p->decode_w > 0;
}

json_t *message_welcome_json(const struct message_welcome *m)
{
    json_t *o = json_object();
    json_put(o, "version", json_integer(m->version));
    json_put(o, "name", json_string(m->name));
    json_put(o, "build", json_string(m->build));
    json_put(o, "model", json_string(m->model));
    if (m->node_id[0] != '\0')
        json_put(o, "node_id", json_string(m->node_id));
    json_put(o, "identity", engine_identity_json(&m->identity));
    json_put(o, "limits", limits_json(&m->limits));
    json_put(o, "handoff", json_string(engine_handoff_name(m->limits.handoff)));
    json_put(o, "kv_bytes_per_token", json_real(m->limits.kv_bytes_per_token));
    json_put(o, "state_bytes", json_integer((json_int_t)m->limits.state_bytes));
    json_put(o, "has_tokenizer", json_boolean(m->limits.has_tokenizer));
    json_put(o, "has_chat_template", json_boolean(m->limits.has_chat_template));
    json_put(o, "media", json_boolean(m->limits.media));
    json_put(o, "rates", rates_json(m));
    json_put(o, "facts", os_facts_json(&m->facts));
    if (power_known(&m->power))
        json_put(o, "power", message_power_json(&m->power));
    json_put(o, "paced", json_boolean(m->paced));
    json_put(o, "adapters", json_boolean(m->adapters));
    if (m->spread[0] != '\0')
        json_put(o, "spread", json_string(m->spread));
    json_put(o, "measures", json_boolean(m->measures));
    if (m->role != 0)
        json_put(o, "role", json_string(place_role_name(m->role)));
    if (m->priced)
        json_put(o, "dollars_per_hour", json_real(m->dollars_per_hour));
    if (m->advertise[0] != '\0')
        json_put(o, "advertise", json_string(m->advertise));
    json_put(o, "pid", json_integer(m->pid));
    return o;
}
