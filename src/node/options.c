// A worker's options as one JSON argument of its command line, so that both ends share one list.
// The key is not among them: a command line can be read by others.
#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "node/node.h"
#include "os/os.h"
#include "sched/place.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

void node_worker_options_default(struct node_worker_options *o)
{
    *o = (struct node_worker_options){
        .min_chunk_tokens = 64, .stall_ms = NODE_STALL_AUTO, .max_requests = 64, .price = -1};
    engine_options_default(&o->engine);
}

static json_t *text_json(const char *s)
{
    return s == NULL ? json_null() : json_string(s);
}

char *node_worker_options_text(const struct node_worker_options *o)
{
    const struct engine_options *g = &o->engine;
    json_t *v = json_object();
    json_put(v, "model", text_json(g->model));
    json_put(v, "projector", text_json(g->projector));
    json_put(v, "ctx", json_integer(g->n_ctx));
    json_put(v, "seqs", json_integer(g->n_seq));
    json_put(v, "batch", json_integer(g->n_batch));
    json_put(v, "threads", json_integer(g->n_threads));
    json_put(v, "gpu_layers", json_integer(g->n_gpu_layers));
    json_put(v, "type_k", text_json(g->type_k));
    json_put(v, "type_v", text_json(g->type_v));
    json_put(v, "name", text_json(o->name));
    json_put(v, "cpus", text_json(o->cpus));
    json_put(v, "pace_prefill", json_real(o->pace_prefill));
    json_put(v, "pace_decode", json_real(o->pace_decode));
    json_put(v, "link_bytes_per_s", json_real(o->link_bytes_per_s));
    json_put(v, "listen", text_json(o->listen));
    json_put(v, "advertise", text_json(o->advertise));
    json_put(v, "handoff", text_json(o->handoff));
    json_put(v, "no_tiles", json_boolean(o->no_tiles));
    json_put(v, "min_chunk", json_integer(o->min_chunk_tokens));
    json_put(v, "stall_ms", json_integer(o->stall_ms));
    json_put(v, "max_requests", json_integer(o->max_requests));
    json_put(v, "idle_s", json_real(o->idle_s));
    json_put(v, "spread", text_json(o->spread));
    json_put(v, "tensor_split", text_json(o->tensor_split));
    json_put(v, "role", text_json(o->role));
    json_put(v, "price", o->price >= 0 ? json_real(o->price) : json_null());
    json_put(v, "image_port", json_integer(o->image_port));
    json_put(v, "lend", json_boolean(o->lend));
    // JSON's integers end at 2^63.
    json_put(v, "lend_bytes",
             json_integer(o->lend_bytes > INT64_MAX ? INT64_MAX : (json_int_t)o->lend_bytes));
    char *text = json_text(v);
    json_decref(v);
    return text;
}

static int integer_get(const json_t *v, const char *member, int64_t min, int64_t max,
                       int64_t fallback, int64_t *out, struct err *e)
{
    *out = fallback;
    return json_get_i64(v, member, min, max, out, e);
}

static int integers_parse(const json_t *v, struct node_worker_options *o, struct err *e)
{
    int64_t n[9] = {0};
    int rc = integer_get(v, "ctx", 0, 1 << 24, o->engine.n_ctx, &n[0], e);
    if (rc == 0)
        rc = integer_get(v, "seqs", 1, 1024, o->engine.n_seq, &n[1], e);
    if (rc == 0)
        rc = integer_get(v, "batch", 16, 1 << 16, o->engine.n_batch, &n[2], e);
    if (rc == 0)
        rc = integer_get(v, "threads", 0, 1024, o->engine.n_threads, &n[3], e);
    if (rc == 0)
        rc = integer_get(v, "gpu_layers", -1, 1 << 16, o->engine.n_gpu_layers, &n[4], e);
    if (rc == 0)
        rc = integer_get(v, "min_chunk", 1, 1 << 16, o->min_chunk_tokens, &n[5], e);
    if (rc == 0)
        rc = integer_get(v, "max_requests", 1, 1 << 16, o->max_requests, &n[6], e);
    if (rc == 0)
        rc = integer_get(v, "stall_ms", NODE_STALL_AUTO, 3600000, o->stall_ms, &n[7], e);
    if (rc == 0)
        rc = integer_get(v, "image_port", 0, UINT16_MAX, o->image_port, &n[8], e);
    o->engine.n_ctx = (uint32_t)n[0];
    o->engine.n_seq = (uint32_t)n[1];
    o->engine.n_batch = (uint32_t)n[2];
    o->engine.n_threads = (int)n[3];
    o->engine.n_gpu_layers = (int)n[4];
    o->min_chunk_tokens = (uint32_t)n[5];
    o->max_requests = (uint32_t)n[6];
    o->stall_ms = (int32_t)n[7];
    o->image_port = (uint16_t)n[8];
    return rc;
}

static int spread_parse(const json_t *v, struct node_worker_options *o, struct err *e)
{
    int64_t bytes = 0;
    int rc = json_get_string(v, "spread", &o->spread, e);
    if (rc == 0)
        rc = json_get_string(v, "tensor_split", &o->tensor_split, e);
    if (rc == 0)
        rc = json_get_bool(v, "lend", &o->lend, e);
    if (rc == 0)
        rc = integer_get(v, "lend_bytes", 0, INT64_MAX, 0, &bytes, e);
    o->lend_bytes = (uint64_t)bytes;
    return rc;
}

static int role_parse(const json_t *v, struct node_worker_options *o, struct err *e)
{
    uint32_t role;
    int rc = json_get_string(v, "role", &o->role, e);
    if (rc == 0 && o->role != NULL && !place_role_parse(o->role, &role))
        rc = err_set(e, ERR_INVALID, "role '%.40s' is not known; say read, write or both", o->role);
    if (rc == 0)
        rc = json_get_f64(v, "price", 0, NODE_PRICE_MAX, &o->price, e);
    return rc;
}

int node_worker_options_parse(const json_t *v, struct node_worker_options *o, struct err *e)
{
    node_worker_options_default(o);
    int rc = integers_parse(v, o, e);
    if (rc == 0)
        rc = json_get_string(v, "model", &o->engine.model, e);
    if (rc == 0)
        rc = json_get_string(v, "projector", &o->engine.projector, e);
    if (rc == 0)
        rc = json_get_string(v, "type_k", &o->engine.type_k, e);
    if (rc == 0)
        rc = json_get_string(v, "type_v", &o->engine.type_v, e);
    if (rc == 0)
        rc = json_get_string(v, "name", &o->name, e);
    if (rc == 0)
        rc = json_get_string(v, "cpus", &o->cpus, e);
    if (rc == 0)
        rc = json_get_string(v, "listen", &o->listen, e);
    if (rc == 0)
        rc = json_get_f64(v, "pace_prefill", 0, 1e12, &o->pace_prefill, e);
    if (rc == 0)
        rc = json_get_f64(v, "idle_s", 0, 1e9, &o->idle_s, e);
    if (rc == 0)
        rc = json_get_f64(v, "pace_decode", 0, 1e12, &o->pace_decode, e);
    if (rc == 0)
        rc = json_get_f64(v, "link_bytes_per_s", 0, 1e15, &o->link_bytes_per_s, e);
    if (rc == 0)
        rc = json_get_string(v, "advertise", &o->advertise, e);
    if (rc == 0)
        rc = json_get_string(v, "handoff", &o->handoff, e);
    if (rc == 0 && o->handoff != NULL)
        rc = engine_handoff_parse(o->handoff, &o->engine.handoff);
    if (rc != 0 && o->handoff != NULL && e->code == 0)
        err_set(e, rc,
                "hand-off mode '%s' is not known; say ranges, ranges-late-state, whole or none",
                o->handoff);
    if (rc == 0)
        rc = json_get_bool(v, "no_tiles", &o->no_tiles, e);
    if (rc == 0)
        rc = role_parse(v, o, e);
    if (rc == 0)
        rc = spread_parse(v, o, e);
    if (rc == 0 && o->engine.model == NULL && !o->lend)
        rc = err_set(e, ERR_INVALID, "no model is named; say -m MODEL");
    return rc;
}

void node_name_default(char *out, size_t out_bytes)
{
    if (gethostname(out, out_bytes) != 0 || out[0] == 0)
        snprintf(out, out_bytes, "node");
    out[out_bytes - 1] = 0;
}

static void id_name_add(const char *name, char id[OS_ID_HEX + 1])
{
    XXH128_canonical_t raw;
    char *text = mem_format("%s %s", id, name);
    XXH128_canonicalFromHash(&raw, XXH3_128bits(text, strlen(text)));
    hex_encode(raw.digest, sizeof raw.digest, id);
    free(text);
}

void node_id_get(const char *name, char id[OS_ID_HEX + 1])
{
    uint8_t raw[OS_ID_HEX / 2];
    struct err e = {0};
    if (os_machine_id(id, &e) != 0) {
        os_random(raw, sizeof raw);
        hex_encode(raw, sizeof raw, id);
        log_warn("node", "what is learned of this node is lost when it ends: %s", e.message);
    }
    if (name != NULL)
        id_name_add(name, id);
}
