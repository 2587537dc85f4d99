// The body of POST /fine_tuning/jobs into what the queue wants.
#include "gateway/tuning.h"

#include "base/buf.h"
#include "base/json.h"
#include "gateway/files.h"
#include "models/adapters.h"
#include "models/gguf.h"
#include "models/store.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX_MAX 50 // characters; a name has room for an ending of our own
#define METADATA_MAX 16

static int fault(struct tuning_ask *a, const char *param, int rc)
{
    if (rc != 0)
        snprintf(a->param, sizeof(a->param), "%s", param);
    return rc;
}

// ---- the model ------------------------------------------------------------------------------------------

static void stem_of(const char *path, char out[MODELS_FILE_BYTES])
{
    char *dot;

    snprintf(out, MODELS_FILE_BYTES, "%s", models_base_name(path));
    dot = strrchr(out, '.');
    if (dot && models_is_gguf(out))
        *dot = '\0';
}

// A served model goes by its file's name and by the one in its head.
static bool is_served(const char *name, const char *served)
{
    char stem[MODELS_FILE_BYTES];
    struct models_gguf *g;
    bool same;

    stem_of(served, stem);
    if (strcmp(name, stem) == 0)
        return true;
    g = mem_alloc(sizeof(*g));
    same = models_gguf_read(served, g, NULL) == 0;
    if (same) {
        models_gguf_fini(g);
        same = g->name[0] && strcmp(name, g->name) == 0;
    }
    free(g);
    return same;
}

static const char *served_find(const struct gateway_options *o, const char *name)
{
    for (size_t i = 0; i < o->n_models; i++)
        if (o->models[i].path && is_served(name, o->models[i].path))
            return o->models[i].path;
    return NULL;
}

static int model_find(const json_t *body, const struct gateway_options *o, struct tuning_ask *a,
                      struct err *e)
{
    struct models_found found;
    struct err own = {0};
    const char *name = NULL, *served;
    int rc = json_get_string(body, "model", &name, e);

    if (rc == 0 && !name)
        rc = err_set(e, ERR_INVALID, "'model' is missing");
    if (rc != 0)
        return rc;
    if (strncmp(name, ADAPTERS_PREFIX, strlen(ADAPTERS_PREFIX)) == 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "%.80s is tuned already; an adapter is trained on a base model", name);
    served = served_find(o, name);
    if (served) {
        snprintf(a->model, sizeof(a->model), "%s", served);
        return 0;
    }
    // A path would let a client of the API try which files there are.
    if (strchr(name, '/') == name || models_is_gguf(name) || models_find(name, &found, &own) != 0)
        return err_set(e, ERR_NOT_FOUND,
                       "there is no model \"%.100s\" to train; name the served one or one of the "
                       "store (tandem models)",
                       name);
    snprintf(a->model, sizeof(a->model), "%s", found.path);
    return 0;
}

// ---- files ----------------------------------------------------------------------------------------------

static int file_find(const json_t *body, const char *member, char out[JOBS_PATH_BYTES],
                     struct err *e)
{
    struct files_entry f;
    const char *id = NULL;
    int rc = json_get_string(body, member, &id, e);

    if (rc != 0 || !id)
        return rc;
    rc = files_find(id, &f, e);
    if (rc == 0 && strcmp(f.purpose, "fine-tune") != 0)
        rc = err_set(e, ERR_INVALID, "%s has purpose %s, not fine-tune", f.id, f.purpose);
    return rc ? rc : files_path(id, out, e);
}

static int files_take(const json_t *body, struct tuning_ask *a, struct err *e)
{
    int rc = fault(a, "training_file", file_find(body, "training_file", a->data, e));

    if (rc == 0 && !a->data[0])
        rc = fault(a, "training_file", err_set(e, ERR_INVALID, "'training_file' is missing"));
    if (rc == 0)
        rc = fault(a, "validation_file", file_find(body, "validation_file", a->eval, e));
    return rc;
}

// ---- hyperparameters ------------------------------------------------------------------------------------

// "auto" and absent leave the trainer's own default.
static const json_t *given(const json_t *o, const char *member)
{
    const json_t *v = json_member(o, member);

    return json_is_string(v) && strcmp(json_string_value(v), "auto") == 0 ? NULL : v;
}

static int count_take(const json_t *h, const char *member, int64_t max, struct tuning_ask *a,
                      const char *as, struct err *e)
{
    int64_t v = 0;
    int rc;

    if (!given(h, member))
        return 0;
    rc = json_get_i64(h, member, 1, max, &v, e);
    if (rc == 0)
        json_put(a->options, as, json_integer(v));
    return fault(a, "hyperparameters", rc);
}

static int hyperparameters_take(const json_t *h, struct tuning_ask *a, struct err *e)
{
    double m = 1;
    int rc = count_take(h, "n_epochs", 1000, a, "epochs", e);

    if (rc == 0)
        rc = count_take(h, "batch_size", 4096, a, "batch", e);
    if (rc == 0 && given(h, "learning_rate_multiplier")) {
        rc = fault(a, "hyperparameters",
                   json_get_f64(h, "learning_rate_multiplier", 1e-4, 1e4, &m, e));
        if (rc == 0)
            json_put(a->options, JOBS_RATE_FACTOR, json_real(m));
    }
    return rc;
}

// {"type": "supervised", "supervised": {"hyperparameters": {..}}}, or the older member beside it.
static int method_take(const json_t *body, struct tuning_ask *a, struct err *e)
{
    json_t *method = NULL, *inner = NULL, *h = NULL;
    const char *type = "supervised";
    int rc = fault(a, "method", json_get_object(body, "method", &method, e));

    if (rc == 0 && method)
        rc = fault(a, "method", json_get_string(method, "type", &type, e));
    if (rc == 0 && strcmp(type, "supervised") != 0)
        rc = fault(
            a, "method",
            err_set(e, ERR_UNSUPPORTED, "method \"%.40s\" cannot be had; supervised can", type));
    if (rc == 0 && method)
        rc = fault(a, "method", json_get_object(method, "supervised", &inner, e));
    if (rc == 0)
        rc = fault(a, "hyperparameters",
                   json_get_object(inner ? inner : body, "hyperparameters", &h, e));
    if (rc == 0 && !h && inner)
        rc = fault(a, "hyperparameters", json_get_object(body, "hyperparameters", &h, e));
    return rc == 0 && h ? hyperparameters_take(h, a, e) : rc;
}

// Members of job.json, as the command line has them: rank, alpha, max_steps, ...
static int own_take(const json_t *body, struct tuning_ask *a, struct err *e)
{
    static const char *const ours[] = {"model", "data", "eval_data"};
    json_t *own = NULL;
    int rc = json_get_object(body, "tandem", &own, e);

    for (size_t i = 0; rc == 0 && i < sizeof(ours) / sizeof(ours[0]); i++)
        if (json_object_get(own, ours[i]))
            rc = err_set(e, ERR_INVALID, "'tandem.%s' is not for clients to say", ours[i]);
    if (rc == 0 && own)
        json_object_update(a->options, own);
    return fault(a, "tandem", rc);
}

static int seed_take(const json_t *body, struct tuning_ask *a, struct err *e)
{
    int64_t seed = -1;
    int rc = json_get_i64(body, "seed", 0, INT64_MAX, &seed, e);
    uint32_t random;

    if (rc == 0 && seed < 0) { // told in the job, so that it can be done again
        os_random(&random, sizeof(random));
        seed = random & 0x7fffffff;
    }
    if (rc == 0)
        json_put(a->options, "seed", json_integer(seed));
    return fault(a, "seed", rc);
}

// ---- the name -------------------------------------------------------------------------------------------

static void ending_put(char *name, size_t at)
{
    uint8_t random[3];

    os_random(random, sizeof(random));
    name[at] = '-';
    hex_encode(random, sizeof(random), name + at + 1);
}

void tuning_ask_rename(struct tuning_ask *a)
{
    size_t n = strlen(a->name);

    ending_put(a->name, n < SUFFIX_MAX ? n : SUFFIX_MAX);
}

static int name_make(const json_t *body, struct tuning_ask *a, struct err *e)
{
    char stem[MODELS_FILE_BYTES];
    const char *suffix = NULL;
    int rc = json_get_string(body, "suffix", &suffix, e);

    if (rc != 0)
        return rc;
    a->named = suffix && suffix[0];
    if (a->named && strlen(suffix) > SUFFIX_MAX)
        return err_set(e, ERR_RANGE, "'suffix' has %zu characters, at most %d are taken",
                       strlen(suffix), SUFFIX_MAX);
    if (a->named)
        return snprintf(a->name, sizeof(a->name), "%s", suffix) < 0
                   ? ERR_INVALID
                   : adapters_name_check(a->name, e);
    stem_of(a->model, stem);
    snprintf(a->name, sizeof(a->name), "%.*s", SUFFIX_MAX, stem);
    for (char *at = a->name; *at; at++)
        if (adapters_name_check((const char[]){'a', *at, '\0'}, NULL) != 0)
            *at = '-';
    if (adapters_name_check(a->name, NULL) != 0)
        snprintf(a->name, sizeof(a->name), "tuned");
    tuning_ask_rename(a);
    return 0;
}

// ---- the whole ------------------------------------------------------------------------------------------

static int refused_members(const json_t *body, struct tuning_ask *a, struct err *e)
{
    const json_t *integrations = json_object_get(body, "integrations");
    json_t *metadata = NULL;
    int rc = 0;

    if (integrations && !json_is_null(integrations) && json_array_size(integrations) > 0)
        return fault(a, "integrations",
                     err_set(e, ERR_UNSUPPORTED, "'integrations' cannot be had; leave it out"));
    rc = json_get_object(body, "metadata", &metadata, e);
    if (rc == 0 && json_object_size(metadata) > METADATA_MAX)
        rc = err_set(e, ERR_RANGE, "'metadata' has %zu members, at most %d are kept",
                     json_object_size(metadata), METADATA_MAX);
    return fault(a, "metadata", rc);
}

// What is given back with the job as the client said it.
static void meta_fill(const json_t *body, struct tuning_ask *a)
{
    static const char *const kept[] = {"model",  "training_file",   "validation_file",
                                       "suffix", "hyperparameters", "metadata"};

    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++)
        if (json_object_get(body, kept[i]))
            json_put(a->meta, kept[i], json_deep_copy(json_object_get(body, kept[i])));
    json_put(a->meta, "seed", json_incref(json_object_get(a->options, "seed")));
}

int tuning_ask_parse(const json_t *body, const struct gateway_options *o, struct tuning_ask *a,
                     struct err *e)
{
    int rc = 0;

    *a = (struct tuning_ask){.options = json_object(), .meta = json_object()};
    if (!json_is_object(body))
        return err_set(e, ERR_INVALID, "the body must be a JSON object");
    rc = refused_members(body, a, e);
    if (rc == 0)
        rc = files_take(body, a, e);
    if (rc == 0)
        rc = fault(a, "model", model_find(body, o, a, e));
    if (rc == 0)
        rc = method_take(body, a, e);
    if (rc == 0)
        rc = own_take(body, a, e);
    if (rc == 0)
        rc = seed_take(body, a, e);
    if (rc == 0)
        rc = fault(a, "suffix", name_make(body, a, e));
    if (rc == 0)
        meta_fill(body, a);
    return rc;
}

void tuning_ask_fini(struct tuning_ask *a)
{
    json_decref(a->options);
    json_decref(a->meta);
    a->options = a->meta = NULL;
}
