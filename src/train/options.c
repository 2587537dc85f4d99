// job.json: one table drives reading and writing, so that no member is forgotten in one of them.
#include "train/train.h"

#include "base/buf.h"
#include "base/json.h"
#include "engine/quantize.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

void train_options_default(struct train_options *o)
{
    *o = (struct train_options){
        .lora = {.rank = 8, .alpha = 16, .targets = (1u << BASE_LINEARS) - 1},
        .epochs = 3,
        .batch = 4,
        .warmup_share = 0.05,
        .max_tokens = 1024,
        .checkpoint_steps = 50,
    };
    adamw_options_default(&o->optimiser);
}

enum kind { KIND_PATH, KIND_U32, KIND_U64, KIND_F64, KIND_F32, KIND_INT, KIND_BOOL };

struct member {
    const char *name;
    enum kind kind;
    size_t at;
    double min, max;
};

#define AT(m) offsetof(struct train_options, m)
static const struct member members[] = {
    {"model", KIND_PATH, AT(model), 0, 0},
    {"data", KIND_PATH, AT(data), 0, 0},
    {"eval_data", KIND_PATH, AT(eval_data), 0, 0},
    {"eval_share", KIND_F64, AT(eval_share), 0, 0.5},
    {"rank", KIND_U32, AT(lora.rank), 1, 256},
    {"alpha", KIND_F32, AT(lora.alpha), 0.001, 100000},
    {"seed", KIND_U64, AT(lora.seed), 0, 9e15},
    {"learning_rate", KIND_F64, AT(optimiser.rate), 1e-9, 1},
    {"weight_decay", KIND_F64, AT(optimiser.weight_decay), 0, 1},
    {"clip", KIND_F64, AT(optimiser.clip), 0, 1e6},
    {"epochs", KIND_U32, AT(epochs), 1, 10000},
    {"max_steps", KIND_U32, AT(max_steps), 0, 100000000},
    {"batch", KIND_U32, AT(batch), 1, 4096},
    {"warmup_share", KIND_F64, AT(warmup_share), 0, 1},
    {"max_tokens", KIND_U32, AT(max_tokens), 2, 1 << 20},
    {"checkpoint_steps", KIND_U32, AT(checkpoint_steps), 1, 1000000},
    {"eval_steps", KIND_U32, AT(eval_steps), 0, 1000000},
    {"threads", KIND_INT, AT(threads), 0, 4096},
    {"gpu", KIND_BOOL, AT(gpu), 0, 0},
    {"memory_bytes", KIND_U64, AT(memory_bytes), 0, 9e15},
};
#define N_MEMBERS (sizeof members / sizeof *members)

static const char *const weights_names[] = {"auto", "dense", "quantised"};

// ---- reading -----------------------------------------------------------------------------------------

static int integer_read(const json_t *job, const struct member *m, void *at, struct err *e)
{
    int64_t v = m->kind == KIND_U64   ? (int64_t) * (uint64_t *)at
                : m->kind == KIND_U32 ? (int64_t) * (uint32_t *)at
                                      : *(int *)at;
    int rc = json_get_i64(job, m->name, (int64_t)m->min, (int64_t)m->max, &v, e);
    if (m->kind == KIND_U64)
        *(uint64_t *)at = (uint64_t)v;
    else if (m->kind == KIND_U32)
        *(uint32_t *)at = (uint32_t)v;
    else
        *(int *)at = (int)v;
    return rc;
}

static int member_read(const json_t *job, const struct member *m, struct train_options *o,
                       struct err *e)
{
    void *at = (char *)o + m->at;
    double v;
    int rc;
    switch (m->kind) {
    case KIND_PATH:
        return json_copy_string(job, m->name, at, TRAIN_PATH_BYTES, e);
    case KIND_BOOL:
        return json_get_bool(job, m->name, at, e);
    case KIND_F64:
        return json_get_f64(job, m->name, m->min, m->max, at, e);
    case KIND_F32:
        v = (double)*(float *)at;
        rc = json_get_f64(job, m->name, m->min, m->max, &v, e);
        *(float *)at = (float)v;
        return rc;
    default:
        return integer_read(job, m, at, e);
    }
}

static int weights_read(const json_t *job, enum train_weights *out, struct err *e)
{
    const char *name = weights_names[*out];
    int rc = json_get_string(job, "weights", &name, e);
    for (size_t i = 0; rc == 0 && i < 3; i++)
        if (strcmp(name, weights_names[i]) == 0) {
            *out = (enum train_weights)i;
            return 0;
        }
    return rc != 0 ? rc
                   : err_set(e, ERR_INVALID, "\"weights\" is \"%.40s\"; auto, dense or quantised",
                             name);
}

static bool is_known(const char *name)
{
    for (size_t i = 0; i < N_MEMBERS; i++)
        if (strcmp(name, members[i].name) == 0)
            return true;
    return strcmp(name, "weights") == 0 || strcmp(name, "targets") == 0 ||
           strcmp(name, "merge") == 0;
}

static int names_check(const json_t *job, struct err *e)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)job, name, value) if (!is_known(name)) return err_set(
        e, ERR_INVALID, "\"%.60s\" is no option of a training job", name);
    return 0;
}

int train_options_parse(const json_t *job, struct train_options *o, struct err *e)
{
    const char *targets = NULL;
    train_options_default(o);
    if (!json_is_object(job))
        return err_set(e, ERR_INVALID, "a training job must be a JSON object");
    int rc = names_check(job, e);
    for (size_t i = 0; rc == 0 && i < N_MEMBERS; i++)
        rc = member_read(job, &members[i], o, e);
    if (rc == 0)
        rc = weights_read(job, &o->weights, e);
    if (rc == 0)
        rc = json_copy_string(job, "merge", o->merge, sizeof o->merge, e);
    if (rc == 0 && o->merge[0])
        rc = engine_quantize_check(o->merge, e);
    if (rc == 0)
        rc = json_get_string(job, "targets", &targets, e);
    if (rc == 0 && targets)
        rc = lora_targets_parse(targets, &o->lora.targets, e);
    if (rc == 0 && (o->model[0] == '\0' || o->data[0] == '\0'))
        rc = err_set(e, ERR_INVALID, "\"%s\" is missing", o->model[0] ? "data" : "model");
    return rc;
}

// ---- writing -----------------------------------------------------------------------------------------

static json_t *member_json(const struct member *m, const struct train_options *o)
{
    const void *at = (const char *)o + m->at;
    switch (m->kind) {
    case KIND_PATH:
        return json_string(at);
    case KIND_BOOL:
        return json_boolean(*(const bool *)at);
    case KIND_F64:
        return json_real(*(const double *)at);
    case KIND_F32:
        return json_real((double)*(const float *)at);
    case KIND_U64:
        return json_integer((json_int_t) * (const uint64_t *)at);
    case KIND_U32:
        return json_integer(*(const uint32_t *)at);
    case KIND_INT:
        return json_integer(*(const int *)at);
    }
    return json_null();
}

json_t *train_options_json(const struct train_options *o)
{
    static const char *const words[BASE_LINEARS] = {"q", "k", "v", "o", "gate", "up", "down"};
    json_t *job = json_object();
    struct buf targets;
    for (size_t i = 0; i < N_MEMBERS; i++)
        json_put(job, members[i].name, member_json(&members[i], o));
    json_put(job, "weights", json_string(weights_names[o->weights]));
    if (o->merge[0])
        json_put(job, "merge", json_string(o->merge));
    buf_init(&targets, 256);
    for (int k = 0; k < BASE_LINEARS; k++)
        if (o->lora.targets >> k & 1)
            buf_printf(&targets, "%s%s", targets.len > 0 ? "," : "", words[k]);
    json_put(job, "targets", json_string(targets.len > 0 ? (const char *)targets.data : ""));
    buf_fini(&targets);
    return job;
}
