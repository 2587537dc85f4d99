#include "train/train.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/random.h"
#include "os/os.h"
#include "train/check.h"
#include "train/checkpoint.h"
#include "train/dataset.h"
#include "train/graph.h"
#include "train/merge.h"
#include "train/parity.h"

#include <ggml-cpu.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct run {
    const char *folder;
    const struct train_options *o;
    const atomic_bool *stop;
    struct err *e;
    struct dataset *data, *eval_data; // eval_data NULL: the last n_eval of `order`
    uint32_t *order;                  // a permutation of the data: first those that train
    size_t n_train, n_eval;
    uint64_t base_hash;
    ggml_backend_t backend;
    struct base_model *base;
    struct lora *lora;
    struct graph *graph;
    struct adamw adamw;
    float *values, *grads;
    FILE *progress;
    json_t *parity; // owned; NULL before the end
    int64_t start_ns;
    uint64_t start_step, tokens_done; // since this start
    double loss, eval_loss;           // of the last step, of the last evaluation (NAN: none)
};

// ---- random order ------------------------------------------------------------------------------------

static void shuffle(uint32_t *items, size_t n, uint64_t seed)
{
    for (size_t i = n; i > 1; i--) {
        size_t k = (size_t)(random_next(&seed) % i);
        uint32_t t = items[i - 1];
        items[i - 1] = items[k];
        items[k] = t;
    }
}

// The data as drawn once for the whole job: the evaluation's share is the end of it.
static void order_make(struct run *r)
{
    r->order = mem_alloc(r->data->n * sizeof *r->order);
    for (size_t i = 0; i < r->data->n; i++)
        r->order[i] = (uint32_t)i;
    shuffle(r->order, r->data->n, r->o->lora.seed ^ 0x65766131u);
    if (!r->eval_data)
        r->n_eval = (size_t)(r->o->eval_share * (double)r->data->n);
    r->n_train = r->data->n - r->n_eval;
}

// The examples of one epoch in their order: it follows from seed and epoch alone.
static void epoch_order(const struct run *r, uint64_t epoch, uint32_t *out)
{
    memcpy(out, r->order, r->n_train * sizeof *out);
    shuffle(out, r->n_train, r->o->lora.seed * 1000003u + epoch);
}

// ---- making ready --------------------------------------------------------------------------------------

static int data_read(struct run *r)
{
    struct engine_options o;
    struct engine *g = NULL;
    engine_options_default(&o);
    o.model = r->o->model; // for its template and tokenizer
    o.n_ctx = 256;
    o.n_seq = 1;
    o.n_batch = 64;
    o.n_gpu_layers = 0;
    o.n_threads = 1;
    int rc = engine_open(&o, &g, r->e);
    if (rc != 0)
        return rc;
    r->base_hash = g->identity.weights_hash;
    rc = dataset_load(r->o->data, g, r->o->max_tokens, &r->data, r->e);
    if (rc == 0 && r->o->eval_data[0] != '\0')
        rc = dataset_load(r->o->eval_data, g, r->o->max_tokens, &r->eval_data, r->e);
    g->ops->free(g);
    if (rc != 0)
        return rc;
    if (r->eval_data)
        r->n_eval = r->eval_data->n;
    order_make(r);
    return 0;
}

static int dense_choose(struct run *r, bool *dense)
{
    uint64_t limit = r->o->memory_bytes > 0 ? r->o->memory_bytes : os_memory_available();
    uint64_t wide = base_model_bytes(r->o->model, true, r->e);
    uint64_t narrow = base_model_bytes(r->o->model, false, r->e);
    if (wide == 0)
        return r->e->code;
    *dense = r->o->weights == TRAIN_WEIGHTS_DENSE ||
             (r->o->weights == TRAIN_WEIGHTS_AUTO &&
              (limit == 0 || wide + TRAIN_WORKING_BYTES <= limit));
    uint64_t need = (*dense ? wide : narrow) + TRAIN_WORKING_BYTES;
    if (limit > 0 && need > limit)
        return err_set(
            r->e, ERR_RANGE,
            "the base's weights take %.1f GB %s and the work %.1f GB more; %.1f GB may be used",
            (double)(need - TRAIN_WORKING_BYTES) / 1e9, *dense ? "as F32" : "as they are",
            (double)TRAIN_WORKING_BYTES / 1e9, (double)limit / 1e9);
    return 0;
}

static int backend_make(struct run *r)
{
    r->backend = r->o->gpu ? ggml_backend_init_best() : ggml_backend_cpu_init();
    if (!r->backend)
        return err_set(r->e, ERR_ENGINE, "no device to compute on");
    if (ggml_backend_is_cpu(r->backend))
        ggml_backend_cpu_set_n_threads(r->backend,
                                       r->o->threads > 0 ? r->o->threads : os_cpu_count());
    return 0;
}

static uint64_t steps_total(const struct run *r)
{
    uint64_t epoch = (r->n_train + r->o->batch - 1) / r->o->batch;
    uint64_t all = epoch * r->o->epochs;
    return r->o->max_steps > 0 && r->o->max_steps < all ? r->o->max_steps : all;
}

static int machine_make(struct run *r)
{
    struct adamw_options ao = r->o->optimiser;
    bool dense = false;
    int rc = dense_choose(r, &dense);
    if (rc == 0)
        rc = backend_make(r);
    if (rc == 0)
        rc = base_model_open(r->o->model, r->backend, dense, &r->base, r->e);
    if (rc == 0)
        rc = lora_new(r->base, &r->o->lora, &r->lora, r->e);
    if (rc == 0)
        rc = graph_new(r->base, r->lora, r->stop, &r->graph, r->e);
    if (rc != 0)
        return rc;
    ao.n_steps = steps_total(r);
    ao.warmup_steps = (uint64_t)(r->o->warmup_share * (double)ao.n_steps);
    adamw_init(&r->adamw, &ao, r->lora->n_values);
    r->values = mem_alloc(r->lora->n_values * sizeof *r->values);
    r->grads = mem_alloc(r->lora->n_values * sizeof *r->grads);
    lora_values_get(r->lora, r->values);
    log_info("train", "ready: examples=%zu evaluated=%zu steps=%" PRIu64 " values=%zu weights=%s",
             r->n_train, r->n_eval, ao.n_steps, r->lora->n_values, dense ? "dense" : "quantised");
    return 0;
}

// ---- checkpoints ---------------------------------------------------------------------------------------

// Hash of all that decides what step N is.
static uint64_t job_key(const struct run *r)
{
    static const char *const free_members[] = {
        "threads",          "gpu",   "memory_bytes", "weights", "eval_steps", "eval_data",
        "checkpoint_steps", "model", "data",         "merge"};
    json_t *job = train_options_json(r->o);
    for (size_t i = 0; i < sizeof free_members / sizeof *free_members; i++)
        json_object_del(job, free_members[i]);
    char *text = json_dumps(job, JSON_COMPACT | JSON_SORT_KEYS);
    uint64_t parts[3] = {XXH3_64bits(text, strlen(text)), r->data->hash, r->base_hash};
    free(text);
    json_decref(job);
    return XXH3_64bits(parts, sizeof parts);
}

static struct checkpoint checkpoint_of(const struct run *r)
{
    return (struct checkpoint){.step = r->adamw.step,
                               .key = job_key(r),
                               .n = r->lora->n_values,
                               .values = r->values,
                               .m = r->adamw.m,
                               .v = r->adamw.v};
}

static int checkpoint_save(const struct run *r)
{
    struct checkpoint c = checkpoint_of(r);
    return checkpoint_write(r->folder, &c, r->e);
}

static void line_put(const struct run *r, json_t *line)
{
    char *text = json_line(line);
    fprintf(r->progress, "%s\n", text);
    fflush(r->progress);
    free(text);
    json_decref(line);
}

static int resume(struct run *r)
{
    struct err e = {0};
    struct checkpoint c = checkpoint_of(r);
    int rc = checkpoint_read(r->folder, &c, &e);
    if (rc == ERR_MISMATCH)
        return err_set(r->e, rc, "%s", e.message);
    if (rc != 0)
        return 0; // from the start
    r->adamw.step = c.step;
    lora_values_set(r->lora, r->values);
    line_put(r, json_pack("{s:s,s:I}", "event", "resumed", "step", (json_int_t)c.step));
    log_info("train", "resumed: step=%" PRIu64, c.step);
    return 0;
}

// ---- steps ---------------------------------------------------------------------------------------------

// Gradients of one step's examples, each prediction with the same weight. *loss: mean per prediction.
static int batch_run(struct run *r, const uint32_t *items, size_t n, double *loss)
{
    const struct graph_sample **samples = mem_alloc(n * sizeof *samples);
    uint64_t targets = 0;
    double sum = 0;
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        samples[i] = &r->data->samples[items[i]];
        targets += graph_targets(samples[i]);
        r->tokens_done += samples[i]->n;
    }
    lora_grads_clear(r->lora);
    for (size_t i = 0, fit; rc == 0 && i < n; i += fit) {
        double some = 0;
        fit = graph_batch_fit(r->graph, samples + i, n - i);
        const struct graph_batch batch = {samples + i, fit, true, 1.0f / (float)targets};
        rc = graph_batch_run(r->graph, &batch, &some, r->e);
        sum += some;
    }
    free(samples);
    *loss = sum / (double)targets;
    return rc;
}

static int evaluate(struct run *r)
{
    uint64_t targets = 0;
    double sum = 0;
    for (size_t i = 0; i < r->n_eval; i++) {
        const struct graph_sample *s =
            r->eval_data ? &r->eval_data->samples[i] : &r->data->samples[r->order[r->n_train + i]];
        double one = 0;
        int rc = graph_run(r->graph, s, false, 0, &one, r->e);
        if (rc != 0)
            return rc;
        sum += one;
        targets += graph_targets(s);
    }
    r->eval_loss = targets > 0 ? sum / (double)targets : NAN;
    return 0;
}

static void step_tell(struct run *r, double rate, double norm, bool evaluated)
{
    double seconds = ns_to_s(clock_now_ns() - r->start_ns);
    uint64_t done = r->adamw.step - r->start_step, left = r->adamw.options.n_steps - r->adamw.step;
    json_t *line =
        json_pack("{s:I,s:I,s:f,s:f,s:f,s:f,s:f}", "step", (json_int_t)r->adamw.step, "steps",
                  (json_int_t)r->adamw.options.n_steps, "loss", r->loss, "lr", rate,
                  "gradient_norm", isfinite(norm) ? norm : -1.0, "tokens_per_s",
                  (double)r->tokens_done / seconds, "eta_s", seconds / (double)done * (double)left);
    if (evaluated && isfinite(r->eval_loss))
        json_put(line, "eval_loss", json_real(r->eval_loss));
    line_put(r, line);
}

static int step_run(struct run *r, const uint32_t *epoch, size_t at)
{
    size_t n = r->n_train - at < r->o->batch ? r->n_train - at : r->o->batch;
    int rc = batch_run(r, epoch + at, n, &r->loss);
    if (rc != 0)
        return rc;
    double rate = adamw_rate(&r->adamw.options, r->adamw.step);
    lora_grads_get(r->lora, r->grads);
    double norm = adamw_step(&r->adamw, r->values, r->grads);
    if (!isfinite(norm) || !isfinite(r->loss))
        return err_set(r->e, ERR_ENGINE,
                       "the loss is no number any more at step %" PRIu64
                       "; try a smaller learning rate than %g",
                       r->adamw.step, r->adamw.options.rate);
    lora_values_set(r->lora, r->values);
    bool due = r->o->eval_steps > 0 && r->adamw.step % r->o->eval_steps == 0;
    if (due)
        rc = evaluate(r);
    if (rc != 0)
        return rc;
    step_tell(r, rate, norm, due);
    bool last = r->adamw.step == r->adamw.options.n_steps;
    return last || r->adamw.step % r->o->checkpoint_steps == 0 ? checkpoint_save(r) : 0;
}

static bool is_stopped(const struct run *r)
{
    return r->stop && atomic_load_explicit(r->stop, memory_order_relaxed);
}

static int steps_run(struct run *r)
{
    uint64_t per_epoch = (r->n_train + r->o->batch - 1) / r->o->batch, shuffled = UINT64_MAX;
    uint32_t *epoch = mem_alloc(r->n_train * sizeof *epoch);
    int rc = 0;
    r->start_ns = clock_now_ns();
    r->start_step = r->adamw.step;
    while (rc == 0 && r->adamw.step < r->adamw.options.n_steps) {
        if (r->adamw.step / per_epoch != shuffled) {
            shuffled = r->adamw.step / per_epoch;
            epoch_order(r, shuffled, epoch);
        }
        rc = is_stopped(r) ? err_set(r->e, ERR_CANCELLED, "stopped at step %" PRIu64, r->adamw.step)
                           : step_run(r, epoch, (size_t)(r->adamw.step % per_epoch) * r->o->batch);
    }
    if (rc == ERR_CANCELLED) { // values and optimiser stand after the last whole step
        struct err told = *r->e;
        if (checkpoint_save(r) == 0)
            *r->e = told;
    }
    free(epoch);
    return rc;
}

// ---- the end ---------------------------------------------------------------------------------------------

static char *path_in(const struct run *r, const char *name)
{
    return mem_format("%s/%s", r->folder, name);
}

static int merged_write(struct run *r, const char *adapter)
{
    char *path = path_in(r, "merged.gguf");
    struct merge_options o = {r->o->model, adapter, path, r->o->merge};
    int rc = merge_run(&o, r->e);
    if (rc != 0)
        err_wrap(r->e, "the adapter is ready, but not merged");
    free(path);
    return rc;
}

// What the serving engine is held against (train/parity.h): the loss on a few examples, held out ones where
// there are any.
static int parity_note(struct run *r)
{
    bool held_out = r->n_eval > 0;
    const struct dataset *d = r->eval_data ? r->eval_data : r->data;
    size_t n = held_out ? r->n_eval : r->n_train, k = n < PARITY_EXAMPLES ? n : PARITY_EXAMPLES;
    json_t *list = json_array();
    uint64_t targets = 0;
    double sum = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < k; i++) {
        size_t at = r->eval_data ? i : r->order[held_out ? r->n_train + i : i];
        double one = 0;
        rc = graph_run(r->graph, &d->samples[at], false, 0, &one, r->e);
        sum += one;
        targets += graph_targets(&d->samples[at]);
        json_array_append_new(list, json_integer((json_int_t)at));
    }
    r->parity = json_pack("{s:s,s:b,s:o,s:I,s:f}", "data", r->eval_data ? "eval_data" : "data",
                          "held_out", held_out, "examples", list, "targets", (json_int_t)targets,
                          "loss_trainer", targets > 0 ? sum / (double)targets : 0.0);
    return rc;
}

static int finish(struct run *r)
{
    char *path = path_in(r, "adapter.gguf");
    int rc = evaluate(r);
    if (rc == 0 && isfinite(r->eval_loss))
        line_put(r, json_pack("{s:s,s:I,s:f}", "event", "evaluated", "step",
                              (json_int_t)r->adamw.step, "eval_loss", r->eval_loss));
    if (rc == 0)
        rc = lora_write(r->lora, path, r->e);
    if (rc == 0)
        rc = parity_note(r);
    if (rc == 0 && r->o->merge[0])
        rc = merged_write(r, path);
    free(path);
    return rc;
}

static void result_write(struct run *r, int rc)
{
    struct os_memory m = {0};
    const char *status = rc == 0 ? "succeeded" : rc == ERR_CANCELLED ? "cancelled" : "failed";
    char *path = path_in(r, "result.json");
    struct err e = {0};
    os_memory_get(getpid(), &m);
    json_t *o =
        json_pack("{s:s,s:I,s:I,s:I}", "status", status, "step", (json_int_t)r->adamw.step, "steps",
                  (json_int_t)r->adamw.options.n_steps, "peak_bytes", (json_int_t)m.peak_bytes);
    if (rc != 0) {
        json_put(o, "code", json_string(err_name(rc)));
        json_put(o, "error", json_string(r->e->message));
    } else {
        json_put(o, "adapter", json_string("adapter.gguf"));
        json_put(o, "parity", json_incref(r->parity));
        if (r->o->merge[0])
            json_put(o, "merged", json_string("merged.gguf"));
        json_put(o, "loss", isfinite(r->loss) ? json_real(r->loss) : json_null());
        json_put(o, "eval_loss", isfinite(r->eval_loss) ? json_real(r->eval_loss) : json_null());
    }
    char *text = json_line(o);
    if (os_file_write(path, text, strlen(text), 0600, &e) != 0)
        log_error("train", "the result is not written: %s", e.message);
    free(text);
    free(path);
    json_decref(o);
}

static int progress_open(struct run *r)
{
    char *path = path_in(r, "progress.jsonl");
    r->progress = fopen(path, "ae");
    int rc = r->progress ? 0 : err_set(r->e, ERR_IO, "'%s' cannot be written", path);
    free(path);
    return rc;
}

static void run_fini(struct run *r)
{
    if (r->progress)
        fclose(r->progress);
    json_decref(r->parity);
    adamw_fini(&r->adamw);
    free(r->values);
    free(r->grads);
    graph_free(r->graph);
    lora_free(r->lora);
    base_model_free(r->base);
    if (r->backend)
        ggml_backend_free(r->backend);
    dataset_free(r->data);
    dataset_free(r->eval_data);
    free(r->order);
}

int train_run(const char *folder, const struct train_options *o, const atomic_bool *stop,
              struct err *e)
{
    struct run r = {.folder = folder, .o = o, .stop = stop, .e = e, .loss = NAN, .eval_loss = NAN};
    int rc = progress_open(&r);
    if (rc == 0)
        rc = data_read(&r);
    if (rc == 0 && r.n_train == 0)
        rc = err_set(e, ERR_INVALID, "no example is left to train on");
    if (rc == 0)
        rc = machine_make(&r);
    if (rc == 0)
        rc = resume(&r);
    if (rc == 0)
        rc = steps_run(&r);
    if (rc == 0)
        rc = finish(&r);
    result_write(&r, rc);
    run_fini(&r);
    return rc;
}

// ---- for other trainers ----------------------------------------------------------------------------------

static void example_put(FILE *out, const struct graph_sample *s, bool eval)
{
    json_t *tokens = json_array(), *supervised = json_array();
    for (uint32_t i = 0; i < s->n; i++) {
        json_array_append_new(tokens, json_integer(s->tokens[i]));
        json_array_append_new(supervised, json_integer(s->supervised[i]));
    }
    json_t *line =
        json_pack("{s:o,s:o,s:b}", "tokens", tokens, "supervised", supervised, "eval", eval);
    char *text = json_line(line);
    fprintf(out, "%s\n", text);
    free(text);
    json_decref(line);
}

int train_examples(const struct train_options *o, FILE *out, struct err *e)
{
    struct run r = {.o = o, .e = e};
    int rc = data_read(&r);
    for (size_t i = 0; rc == 0 && i < r.data->n; i++)
        example_put(out, &r.data->samples[r.order[i]], i >= r.n_train);
    for (size_t i = 0; rc == 0 && r.eval_data && i < r.n_eval; i++)
        example_put(out, &r.eval_data->samples[i], true);
    if (rc == 0 && (fflush(out) != 0 || ferror(out)))
        rc = err_set(e, ERR_IO, "the examples could not be written");
    run_fini(&r);
    return rc;
}
