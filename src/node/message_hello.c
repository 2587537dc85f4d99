// How a link begins: HELLO, WELCOME, and what a machine says of its power.
#include "base/buf.h"
#include "base/json.h"
#include "node/message.h"
#include "node/message_read.h"
#include "node/node.h"
#include "sched/place.h"

#include <stdio.h>
#include <string.h>

// ---- HELLO ------------------------------------------------------------------------------------

static bool role_known(const char *role)
{
    return strcmp(role, "gateway") == 0 || strcmp(role, "bulk") == 0 || strcmp(role, "tool") == 0 ||
           strcmp(role, "spread") == 0;
}

static void identity_read(struct message_reader *r, struct engine_identity *id)
{
    message_need(r, "identity");
    if (r->rc == 0)
        r->rc = engine_identity_parse(json_object_get(r->object, "identity"), id, r->e);
}

int message_hello_parse(const json_t *head, struct message_hello *m, struct err *e)
{
    *m = (struct message_hello){.same_weights = true};
    struct message_reader r = message_reader_of(head, "HELLO", e);
    message_need(&r, "version");
    message_read_u32(&r, "version", UINT32_MAX, &m->version);
    message_need(&r, "role");
    message_read_text(&r, "role", m->role, sizeof m->role);
    if (r.rc == 0 && !role_known(m->role))
        r.rc = err_set(e, ERR_INVALID, "member \"role\" is \"%s\", not gateway, bulk or tool",
                       m->role);
    message_read_text(&r, "name", m->name, sizeof m->name);
    message_read_text(&r, "build", m->build, sizeof m->build);
    message_read_text(&r, "engine", m->engine, sizeof m->engine);
    message_read_bool(&r, "same_weights", &m->same_weights);
    m->has_identity = r.rc == 0 && json_member(head, "identity") != NULL;
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

static void limits_read(struct message_reader *top, struct engine_limits *l)
{
    const char *mode = NULL;
    message_need(top, "limits");
    struct message_reader r = message_read_object(top, "limits");
    if (message_present(&r)) {
        message_read_u32(&r, "n_ctx", INT32_MAX, &l->n_ctx);
        message_read_u32(&r, "n_seq", INT32_MAX, &l->n_seq);
        message_read_u32(&r, "n_batch", INT32_MAX, &l->n_batch);
        message_read_u32(&r, "n_embed_tokens", INT32_MAX, &l->n_embed_tokens);
        message_read_bool(&r, "ranks", &l->ranks);
        message_read_bool(&r, "cuts", &l->cuts);
        message_fail_into(top, &r, "limits");
    }
    message_need(top, "handoff");
    if (top->rc == 0)
        top->rc = json_get_string(top->object, "handoff", &mode, top->e);
    if (top->rc == 0 && engine_handoff_parse(mode, &l->handoff) != 0)
        top->rc =
            err_set(top->e, ERR_INVALID, "member \"handoff\" is \"%s\", which is no mode", mode);
    message_read_f64(top, "kv_bytes_per_token", 0, 1e12, &l->kv_bytes_per_token);
    message_read_u64(top, "state_bytes", &l->state_bytes);
    message_read_bool(top, "has_tokenizer", &l->has_tokenizer);
    message_read_bool(top, "has_chat_template", &l->has_chat_template);
    message_read_bool(top, "media", &l->media);
}

static void rates_read(struct message_reader *top, struct message_welcome *m)
{
    struct message_reader r = message_read_object(top, "rates");
    if (!message_present(&r))
        return;
    message_read_f64(&r, "prefill_tokens_per_s", 0, 1e12, &m->prefill_tokens_per_s);
    message_read_f64(&r, "decode_tokens_per_s", 0, 1e12, &m->decode_tokens_per_s);
    message_fail_into(top, &r, "rates");
}

static void facts_read(struct message_reader *top, struct message_welcome *m)
{
    struct message_reader r = message_read_object(top, "facts");
    if (!message_present(&r))
        return;
    r.rc = os_facts_parse(r.object, &m->facts, r.e);
    message_fail_into(top, &r, "facts");
}

static void power_read(struct message_reader *top, struct message_power *p)
{
    struct message_reader r = message_read_object(top, "power");
    if (!message_present(&r))
        return;
    message_read_f64(&r, "idle_w", 0, 1e6, &p->idle_w);
    message_read_f64(&r, "prefill_w", 0, 1e6, &p->prefill_w);
    message_read_f64(&r, "decode_w", 0, 1e6, &p->decode_w);
    message_fail_into(top, &r, "power");
}

int message_power_parse(const json_t *head, struct message_power *p, struct err *e)
{
    *p = (struct message_power){0};
    struct message_reader r = message_reader_of(head, "STATUS_IS", e);
    power_read(&r, p);
    return r.rc;
}

static void node_id_read(struct message_reader *r, char out[OS_ID_HEX + 1])
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
static void role_read(struct message_reader *r, struct message_welcome *m)
{
    const char *role = NULL;
    if (r->rc == 0)
        r->rc = json_get_string(r->object, "role", &role, r->e);
    if (r->rc == 0 && role != NULL)
        place_role_parse(role, &m->role);
    message_read_f64(r, "dollars_per_hour", 0, NODE_PRICE_MAX, &m->dollars_per_hour);
    m->priced = r->rc == 0 && json_is_number(json_object_get(r->object, "dollars_per_hour"));
}

// What one that draws says is all that it says.
static void draws_read(struct message_reader *top, struct message_welcome *m)
{
    struct message_reader r = message_read_object(top, "draws");
    m->draws = message_present(&r);
    if (!m->draws)
        return;
    r.rc = message_canvas_parse(r.object, &m->canvas, r.e);
    message_fail_into(top, &r, "draws");
    snprintf(m->model, sizeof m->model, "%s", m->canvas.model);
}

static void engine_read(struct message_reader *r, struct message_welcome *m)
{
    identity_read(r, &m->identity);
    limits_read(r, &m->limits);
    rates_read(r, m);
}

static void port_read(struct message_reader *r, uint16_t *out)
{
    uint32_t port = 0;
    message_read_u32(r, "image_port", UINT16_MAX, &port);
    *out = (uint16_t)port;
}

int message_welcome_parse(const json_t *head, struct message_welcome *m, struct err *e)
{
    *m = (struct message_welcome){.limits.has_tokenizer = true};
    struct message_reader r = message_reader_of(head, "WELCOME", e);
    message_need(&r, "version");
    message_read_u32(&r, "version", UINT32_MAX, &m->version);
    message_read_text(&r, "name", m->name, sizeof m->name);
    message_read_text(&r, "build", m->build, sizeof m->build);
    message_read_text(&r, "model", m->model, sizeof m->model);
    node_id_read(&r, m->node_id);
    draws_read(&r, m);
    if (!m->draws)
        engine_read(&r, m);
    facts_read(&r, m);
    port_read(&r, &m->image_port);
    power_read(&r, &m->power);
    message_read_bool(&r, "paced", &m->paced);
    m->max_stall_s = -1;
    message_read_f64(&r, "max_stall_s", -1, 1e6, &m->max_stall_s);
    message_read_bool(&r, "adapters", &m->adapters);
    message_read_text(&r, "spread", m->spread, sizeof m->spread);
    message_read_bool(&r, "measures", &m->measures);
    message_read_bool(&r, "links", &m->links);
    message_read_text(&r, "advertise", m->advertise, sizeof m->advertise);
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

static void engine_put(json_t *o, const struct message_welcome *m)
{
    json_put(o, "identity", engine_identity_json(&m->identity));
    json_put(o, "limits", limits_json(&m->limits));
    json_put(o, "handoff", json_string(engine_handoff_name(m->limits.handoff)));
    json_put(o, "kv_bytes_per_token", json_real(m->limits.kv_bytes_per_token));
    json_put(o, "state_bytes", json_integer((json_int_t)m->limits.state_bytes));
    json_put(o, "has_tokenizer", json_boolean(m->limits.has_tokenizer));
    json_put(o, "has_chat_template", json_boolean(m->limits.has_chat_template));
    json_put(o, "media", json_boolean(m->limits.media));
    json_put(o, "rates", rates_json(m));
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
    if (m->draws)
        json_put(o, "draws", message_canvas_json(&m->canvas));
    else
        engine_put(o, m);
    if (m->image_port != 0)
        json_put(o, "image_port", json_integer(m->image_port));
    json_put(o, "facts", os_facts_json(&m->facts));
    if (power_known(&m->power))
        json_put(o, "power", message_power_json(&m->power));
    json_put(o, "paced", json_boolean(m->paced));
    if (m->max_stall_s >= 0)
        json_put(o, "max_stall_s", json_real(m->max_stall_s));
    json_put(o, "adapters", json_boolean(m->adapters));
    if (m->spread[0] != '\0')
        json_put(o, "spread", json_string(m->spread));
    json_put(o, "measures", json_boolean(m->measures));
    json_put(o, "links", json_boolean(m->links));
    if (m->role != 0)
        json_put(o, "role", json_string(place_role_name(m->role)));
    if (m->priced)
        json_put(o, "dollars_per_hour", json_real(m->dollars_per_hour));
    if (m->advertise[0] != '\0')
        json_put(o, "advertise", json_string(m->advertise));
    json_put(o, "pid", json_integer(m->pid));
    return o;
}
