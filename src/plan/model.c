#include "plan/model.h"

#include "base/json.h"
#include "models/gguf.h"
#include "models/names.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define KV_BYTES 2.0 // F16 keys and values
// A mixture's experts are never quite all of it.
#define ROUTED_MOST 0.98

// Members of a model's entry; docs/cost-model.md says what they mean.
struct shape {
    double params, active, layers, hidden, heads, kv_heads, head_size, value_size, vocab, context;
    double full_layers, window, window_kv_heads, window_head_size, kv_latent, experts, experts_used;
    double native_bits;
    bool tied;
};

static int shape_read(const json_t *m, struct shape *s, struct err *e)
{
    const struct {
        const char *member;
        double min, max, *to;
        double otherwise; // NAN: it must be there
    } fields[] = {
        {"params_b", 1e-3, 1e5, &s->params, NAN},
        {"active_params_b", 1e-3, 1e5, &s->active, 0},
        {"layers", 1, 1024, &s->layers, NAN},
        {"hidden", 8, 1e6, &s->hidden, NAN},
        {"heads", 1, 4096, &s->heads, NAN},
        {"kv_heads", 1, 4096, &s->kv_heads, NAN},
        {"head_size", 1, 8192, &s->head_size, NAN},
        {"value_size", 1, 8192, &s->value_size, 0},
        {"vocab", 2, 1e7, &s->vocab, NAN},
        {"context", 1, 1e9, &s->context, 0},
        {"full_layers", 0, 1024, &s->full_layers, -1},
        {"window", 1, 1e9, &s->window, 0},
        {"window_kv_heads", 1, 4096, &s->window_kv_heads, 0},
        {"window_head_size", 1, 8192, &s->window_head_size, 0},
        {"kv_latent", 1, 1e5, &s->kv_latent, 0},
        {"experts", 2, 1e5, &s->experts, 0},
        {"experts_used", 1, 1e5, &s->experts_used, 0},
        {"native_bits", 0.5, 32, &s->native_bits, 0},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        *fields[i].to = fields[i].otherwise;
        int rc = json_get_f64(m, fields[i].member, fields[i].min, fields[i].max, fields[i].to, e);
        if (rc != 0)
            return rc;
        if (isnan(*fields[i].to))
            return err_set(e, ERR_INVALID, "\"%s\" is missing", fields[i].member);
    }
    return json_get_bool(m, "tied", &s->tied, e);
}

static void shape_complete(struct shape *s)
{
    if (s->active <= 0)
        s->active = s->params;
    if (s->value_size <= 0)
        s->value_size = s->head_size;
    if (s->full_layers < 0)
        s->full_layers = s->layers;
    if (s->window_kv_heads <= 0)
        s->window_kv_heads = s->kv_heads;
    if (s->window_head_size <= 0)
        s->window_head_size = s->head_size;
}

static int shape_check(const struct shape *s, struct err *e)
{
    if (s->full_layers > s->layers)
        return err_set(e, ERR_INVALID, "\"full_layers\" %g is more than \"layers\" %g",
                       s->full_layers, s->layers);
    if (s->active > s->params)
        return err_set(e, ERR_INVALID, "\"active_params_b\" %g is more than \"params_b\" %g",
                       s->active, s->params);
    if (s->active < s->params && !(s->experts_used > 0 && s->experts_used < s->experts))
        return err_set(e, ERR_INVALID,
                       "a mixture needs \"experts_used\" (%g) below \"experts\" (%g)",
                       s->experts_used, s->experts);
    return 0;
}

static void cost_fill(const struct shape *s, double bits, struct cost_model *m)
{
    double params = s->params * 1e9, active = s->active * 1e9, table = s->vocab * s->hidden;
    double lookup = s->tied ? 0 : table; // an embedding of its own is not multiplied by
    double window_layers = s->window > 0 ? s->layers - s->full_layers : 0;
    double routed = 0;
    *m = (struct cost_model){.layers = s->layers, .routed_share = 1, .window_tokens = s->window};
    if (active < params) {
        m->routed_share = s->experts_used / s->experts;
        routed = fmin((params - active) / (1 - m->routed_share), ROUTED_MOST * params);
    }
    m->weight_bytes = params * bits / 8;
    m->fixed_bytes = (params - routed - lookup) * bits / 8;
    m->routed_bytes = routed * bits / 8;
    m->token_flops = 2 * fmax(active - lookup, 0.5 * active);
    m->head_flops = 2 * table;
    double elements = s->kv_latent > 0 ? s->kv_latent : 2 * s->kv_heads * s->head_size;
    m->full_kv_bytes = s->full_layers * elements * KV_BYTES;
    m->window_kv_bytes = window_layers * 2 * s->window_kv_heads * s->window_head_size * KV_BYTES;
    m->full_pair_flops = s->full_layers * 2 * s->heads * (s->head_size + s->value_size);
    m->window_pair_flops = window_layers * 4 * s->heads * s->window_head_size;
}

// A model's own bits per weight under this quantisation's name, in any case.
static double bits_own(const json_t *model, const char *quant)
{
    const char *name;
    json_t *bits;
    json_object_foreach((json_t *)json_object_get(model, "bits"), name, bits)
    {
        if (strcasecmp(name, quant) == 0)
            return json_number_value(bits);
    }
    return 0;
}

static int quant_get(const struct plan_catalogue *c, const char *quant, struct plan_model *out,
                     double *bits, struct err *e)
{
    const json_t *q = plan_catalogue_find(c, PLAN_QUANT, quant, e);
    if (q == NULL)
        return ERR_NOT_FOUND;
    double of_quant = 0;
    int rc = json_get_f64(q, "bits", 0.5, 64, &of_quant, e);
    if (rc == 0)
        rc = json_copy_string(q, "class", out->quant_class, sizeof out->quant_class, e);
    if (rc == 0)
        rc = json_copy_string(q, "engine", out->engine, sizeof out->engine, e);
    if (rc != 0)
        return err_wrap(e, "quantisation %s", quant);
    snprintf(out->quant, sizeof out->quant, "%s", plan_catalogue_id(PLAN_QUANT, q));
    if (*bits <= 0)
        *bits = of_quant;
    return 0;
}

static int entry_get(const struct plan_catalogue *c, const char *model, const char *quant,
                     double bits, struct plan_model *out, struct err *e)
{
    const json_t *m = plan_catalogue_find(c, PLAN_MODEL, model, e);
    struct shape s = {0};
    if (m == NULL)
        return ERR_NOT_FOUND;
    const char *id = plan_catalogue_id(PLAN_MODEL, m);
    const char *unknown = json_string_value(json_object_get(m, "unknown"));
    if (unknown != NULL)
        return err_set(e, ERR_UNSUPPORTED, "model %s cannot be predicted: %s", id, unknown);
    int rc = shape_read(m, &s, e);
    if (rc == 0) {
        shape_complete(&s);
        rc = shape_check(&s, e);
    }
    if (rc == 0)
        rc = json_copy_string(m, "family", out->family, sizeof out->family, e);
    if (rc != 0)
        return err_wrap(e, "model %s", id);
    quant = quant != NULL ? quant : s.native_bits > 0 ? "MXFP4" : "F16";
    if (bits <= 0)
        bits = s.native_bits > 0 ? s.native_bits : bits_own(m, quant);
    rc = quant_get(c, quant, out, &bits, e);
    if (rc != 0)
        return rc;
    if (s.native_bits > 0) // whatever the file is called: its experts stay as they were trained
        snprintf(out->quant_class, sizeof out->quant_class, "mxfp4");
    cost_fill(&s, bits, &out->cost);
    snprintf(out->name, sizeof out->name, "%s", id);
    out->context = s.context;
    out->params = s.params * 1e9;
    return 0;
}

// ---- a file -------------------------------------------------------------------------------------------

static void layer_add(const struct models_gguf *g, uint32_t il, struct cost_model *m)
{
    bool in_window = models_gguf_layer_in_window(g, il);
    double key = in_window && g->key_length_swa ? g->key_length_swa : g->key_length;
    double value = in_window && g->value_length_swa ? g->value_length_swa : g->value_length;
    double head = g->n_head > 0 ? (double)g->n_embd / g->n_head : 0;
    double kv_heads = g->has_head_kv ? g->head_kv[il] : g->n_head;
    if (models_gguf_layer_recurrent(g, il))
        return;
    key = key > 0 ? key : head;
    value = value > 0 ? value : head;
    // A latent cache holds one vector for key and value.
    double elements = g->key_length_mla > 0 ? key : kv_heads * (key + value);
    *(in_window ? &m->window_kv_bytes : &m->full_kv_bytes) += elements * KV_BYTES;
    *(in_window ? &m->window_pair_flops : &m->full_pair_flops) += 2.0 * g->n_head * (key + value);
}

static void gguf_fill(const struct models_gguf *g, struct cost_model *m)
{
    double table = (double)g->n_vocab * g->n_embd, bytes = (double)g->weight_bytes;
    double routed = (double)g->expert_bytes, params = (double)g->params;
    double lookup = g->has_output ? (double)g->embedding_bytes : 0;
    *m = (struct cost_model){.layers = g->n_layer, .weight_bytes = bytes, .routed_share = 1};
    if (routed > 0 && g->n_expert > 0 && g->n_expert_used > 0)
        m->routed_share = (double)g->n_expert_used / g->n_expert;
    m->routed_bytes = routed;
    m->fixed_bytes = bytes - routed - lookup;
    double active = params - (g->has_output ? table : 0);
    active -= params * (bytes > 0 ? routed / bytes : 0) * (1 - m->routed_share);
    m->token_flops = 2 * active;
    m->head_flops = 2 * table;
    m->window_tokens = g->window;
    for (uint32_t il = 0; il < g->n_layer; il++)
        layer_add(g, il, m);
}

static int file_get(const struct plan_catalogue *c, const char *path, struct plan_model *out,
                    struct err *e)
{
    struct models_gguf g;
    double bits = 0;
    int rc = models_gguf_read(path, &g, e);
    if (rc != 0)
        return err_wrap(e, "%s", path);
    if (g.n_layer == 0 || g.n_embd == 0 || g.weight_bytes == 0)
        rc = err_set(e, ERR_UNSUPPORTED, "%s holds no language model: %u layers, width %u", path,
                     g.n_layer, g.n_embd);
    if (rc == 0)
        rc = quant_get(c, models_gguf_quant(&g), out, &bits, NULL);
    if (rc == ERR_NOT_FOUND) { // a type that nobody measured: that of its size
        double per_weight = 8 * (double)g.weight_bytes / (double)(g.params ? g.params : 1);
        rc = quant_get(c,
                       per_weight > 12  ? "F16"
                       : per_weight > 7 ? "Q8_0"
                                        : "Q4_K_M",
                       out, &bits, e);
    }
    if (rc == 0) {
        gguf_fill(&g, &out->cost);
        snprintf(out->name, sizeof out->name, "%.*s", PLAN_NAME_BYTES - 1, models_base_name(path));
        out->context = g.n_ctx;
        out->params = (double)g.params;
    }
    models_gguf_fini(&g);
    return rc;
}

int plan_model_get(const struct plan_catalogue *c, const char *model, const char *quant,
                   double bits, struct plan_model *out, struct err *e)
{
    *out = (struct plan_model){0};
    if (!models_is_gguf(model))
        return entry_get(c, model, quant, bits, out, e);
    if (quant != NULL)
        return err_set(e, ERR_INVALID,
                       "a file is quantised already: leave out the quantisation \"%s\"", quant);
    return file_get(c, model, out, e);
}
