#include "train/parity.h"

#include "base/buf.h"
#include "base/json.h"
#include "engine/engine.h"
#include "os/os.h"
#include "train/dataset.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define RESULT_MAX (4u << 20)
#define BATCH 128
#define LOGITS 8 // rows of one step that may want them, whatever the engine

// The sum over the supervised tokens of one example.
static int example_loss(struct engine *g, const struct graph_sample *s, double *sum, struct err *e)
{
    struct engine_row rows[BATCH];
    struct engine_logprob top[1];
    int rc = g->ops->remove(g, 0, 0, UINT32_MAX, e);
    for (uint32_t from = 0; rc == 0 && from + 1 < s->n;) {
        uint32_t most = s->n - 1 - from < BATCH ? s->n - 1 - from : BATCH, n = 0;
        for (uint32_t wanted = 0; n < most && wanted < LOGITS; n++) {
            rows[n] = (struct engine_row){.token = s->tokens[from + n],
                                          .pos = from + n,
                                          .seq = 0,
                                          .want_logits = s->supervised[from + n + 1]};
            wanted += rows[n].want_logits;
        }
        rc = g->ops->step(g, rows, n, e);
        for (uint32_t i = 0; rc == 0 && i < n; i++)
            if (rows[i].want_logits)
                *sum -= (double)engine_logprobs(g->ops->logits(g, i), g->identity.n_vocab,
                                                s->tokens[from + i + 1], 1, top);
        from += n;
    }
    return rc;
}

static int examples_loss(struct engine *g, const struct dataset *d, const json_t *list,
                         double *loss, struct err *e)
{
    const json_t *item;
    uint64_t targets = 0;
    double sum = 0;
    size_t i;
    int rc = 0;
    json_array_foreach(list, i, item)
    {
        json_int_t at = json_integer_value(item);
        if (rc == 0 && (at < 0 || (uint64_t)at >= d->n))
            rc = err_set(e, ERR_CORRUPT, "example %" PRId64 " of %zu is to be compared",
                         (int64_t)at, d->n);
        if (rc == 0)
            rc = example_loss(g, &d->samples[at], &sum, e);
        if (rc == 0)
            targets += graph_targets(&d->samples[at]);
    }
    *loss = targets > 0 ? sum / (double)targets : 0;
    return rc;
}

static int engine_make(const struct train_options *o, struct engine **out, struct err *e)
{
    struct engine_options options;
    engine_options_default(&options);
    options.model = o->model;
    options.n_ctx = o->max_tokens + BATCH;
    options.n_seq = 1;
    options.n_batch = BATCH;
    if (!o->gpu)
        options.n_gpu_layers = 0;
    if (o->threads > 0)
        options.n_threads = o->threads;
    return engine_open(&options, out, e);
}

static int parity_read(const char *folder, json_t **out, struct err *e)
{
    char *path = mem_format("%s/result.json", folder), *text = NULL;
    size_t n = 0;
    int rc = os_file_read(path, RESULT_MAX, &text, &n, e);
    json_t *result = rc == 0 ? json_parse(text, n, e) : NULL;
    if (rc == 0 && !result)
        rc = e->code;
    *out = json_incref(json_object_get(result, "parity"));
    if (rc == 0 && !json_is_object(*out))
        rc = err_set(e, ERR_NOT_FOUND, "'%s' notes no loss to compare with", path);
    json_decref(result);
    free(text);
    free(path);
    return rc;
}

static int adapter_put(struct engine *g, const char *folder, struct err *e)
{
    char *path = mem_format("%s/adapter.gguf", folder);
    uint32_t id = 0;
    int rc = g->ops->adapter_load
                 ? g->ops->adapter_load(g, path, &id, e)
                 : err_set(e, ERR_UNSUPPORTED, "the engine takes no adapters for this model");
    free(path);
    return rc == 0 ? g->ops->adapter_use(g, 0, id, e) : rc;
}

static void told(const json_t *parity, double loss, FILE *out)
{
    json_t *line = json_object();
    json_put(line, "examples",
             json_integer((json_int_t)json_array_size(json_object_get(parity, "examples"))));
    json_put(line, "held_out", json_incref(json_object_get(parity, "held_out")));
    json_put(line, "targets", json_incref(json_object_get(parity, "targets")));
    json_put(line, "loss_trainer", json_incref(json_object_get(parity, "loss_trainer")));
    json_put(line, "loss_engine", json_real(loss));
    char *text = json_line(line);
    fprintf(out, "%s\n", text);
    free(text);
    json_decref(line);
}

int train_parity(const char *folder, const struct train_options *o, FILE *out, struct err *e)
{
    struct engine *g = NULL;
    struct dataset *d = NULL;
    json_t *parity = NULL;
    const char *which = NULL;
    double loss = 0;
    int rc = parity_read(folder, &parity, e);
    if (rc == 0)
        rc = json_get_string(parity, "data", &which, e);
    if (rc == 0)
        rc = engine_make(o, &g, e);
    if (rc == 0)
        rc = dataset_load(which && strcmp(which, "eval_data") == 0 ? o->eval_data : o->data, g,
                          o->max_tokens, &d, e);
    if (rc == 0)
        rc = adapter_put(g, folder, e);
    if (rc == 0)
        rc = examples_loss(g, d, json_object_get(parity, "examples"), &loss, e);
    if (rc == 0)
        told(parity, loss, out);
    dataset_free(d);
    if (g)
        g->ops->free(g);
    json_decref(parity);
    return rc;
}
