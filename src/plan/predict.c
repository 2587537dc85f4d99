#include "plan/predict.h"

#include "base/json.h"
#include "plan/model.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define LONG_PROMPT 2048.0 // tokens from which people raise llama.cpp's ubatch to as many
#define SHORT_UBATCH 512.0
#define WORK_BYTES 5e8 // compute buffers
// Of memory that the processor shares, the system keeps some.
#define SHARED_PART 0.93
#define OWN_PART 0.98
#define GIB (1024.0 * 1024 * 1024)

void plan_query_defaults(struct plan_query *q)
{
    *q = (struct plan_query){.batch = 1};
}

// ---- the machine -------------------------------------------------------------------------------------

struct machine {
    const char *name;
    const json_t *backends;
    double gpus, memory_bytes, bytes_per_s; // of one GPU, but for the memory
    double flops, int8_ops;                 // per second, dense; int8 0: not told
    bool rpc;
};

static int machine_get(const struct plan_catalogue *c, const char *name, struct machine *m,
                       struct err *e)
{
    const json_t *o = plan_catalogue_find(c, PLAN_MACHINE, name, e);
    double memory = 0, speed = 0, flops = 0, int8 = 0;
    const char *kind = "", *split = "";
    json_t *backends = NULL;
    if (o == NULL)
        return ERR_NOT_FOUND;
    *m = (struct machine){.name = plan_catalogue_id(PLAN_MACHINE, o), .gpus = 1};
    int rc = json_get_f64(o, "gpus", 1, 4096, &m->gpus, e);
    if (rc == 0)
        rc = json_get_f64(o, "memory_gib", 0.5, 1e6, &memory, e);
    if (rc == 0)
        rc = json_get_f64(o, "bandwidth_gbs", 1, 1e6, &speed, e);
    if (rc == 0)
        rc = json_get_f64(o, "fp16_tflops", 0.01, 1e6, &flops, e);
    if (rc == 0)
        rc = json_get_f64(o, "int8_tops", 0.01, 1e6, &int8, e);
    if (rc == 0)
        rc = json_get_string(o, "kind", &kind, e);
    if (rc == 0)
        rc = json_get_string(o, "split", &split, e);
    if (rc == 0)
        rc = json_get_array(o, "backends", &backends, e);
    if (rc == 0 && (memory <= 0 || speed <= 0 || flops <= 0 || json_array_size(backends) == 0))
        rc = err_set(e, ERR_INVALID,
                     "memory_gib, bandwidth_gbs, fp16_tflops and backends must all be given");
    if (rc != 0)
        return err_wrap(e, "machine %s", m->name);
    m->backends = backends;
    m->rpc = strcmp(split, "rpc") == 0;
    m->memory_bytes =
        m->gpus * memory * GIB * (strcmp(kind, "discrete") == 0 ? OWN_PART : SHARED_PART);
    m->bytes_per_s = speed * 1e9;
    m->flops = flops * 1e12;
    m->int8_ops = int8 * 1e12;
    return 0;
}

// ---- which software ------------------------------------------------------------------------------------

// What runs on what: an interface of the hardware and the classes of software that use it.
static const struct engine {
    const char *name, *api;
} engines[] = {
    {"cuda", "cuda"},     {"rocm", "rocm"},     {"vulkan", "vulkan"}, {"metal", "metal"},
    {"cpu", "cpu"},       {"mlx", "metal"},     {"vllm", "cuda"},     {"ds4", "metal"},
    {"ds4-cuda", "cuda"}, {"ds4-rocm", "rocm"},
};
#define N_ENGINES (sizeof engines / sizeof *engines)

static const struct {
    const char *said, *engine;
} spellings[] = {
    {"sglang", "vllm"},  {"trt-llm", "vllm"}, {"tensorrt-llm", "vllm"},
    {"metal4", "metal"}, {"hip", "rocm"},     {"mlx_lm", "mlx"},
};

static bool engine_known(const char *name)
{
    for (size_t i = 0; i < N_ENGINES; i++)
        if (strcmp(engines[i].name, name) == 0)
            return true;
    return false;
}

static bool engine_uses(const char *engine, const char *api)
{
    for (size_t i = 0; i < N_ENGINES; i++)
        if (strcmp(engines[i].name, engine) == 0 && strcmp(engines[i].api, api) == 0)
            return true;
    return false;
}

// The name as it was fitted: "ROCm,RPC" and "Metal/MLX" are their first part.
static int backend_parse(const char *said, char out[24], struct err *e)
{
    size_t n = strcspn(said, ",/+ ");
    if (n >= 24)
        n = 23;
    for (size_t i = 0; i < n; i++)
        out[i] = (char)tolower((unsigned char)said[i]);
    out[n] = '\0';
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++)
        if (strcmp(out, spellings[i].said) == 0)
            snprintf(out, 24, "%s", spellings[i].engine);
    if (engine_known(out))
        return 0;
    return err_set(
        e, ERR_INVALID,
        "no backend \"%.60s\"; there are CUDA, ROCm, Vulkan, Metal, CPU, MLX, vLLM and ds4", said);
}

// ds4 has a name of its own on each interface: the machine's first backend tells which.
static void ds4_resolve(const struct machine *m, char engine[24])
{
    const char *first = json_string_value(json_array_get(m->backends, 0));
    if (strcmp(engine, "ds4") == 0 && first != NULL && strcasecmp(first, "metal") != 0)
        snprintf(engine, 24, "ds4-%s", strcasecmp(first, "cuda") == 0 ? "cuda" : "rocm");
}

static bool engine_is(const char *engine, const char *wanted)
{
    return strncmp(engine, wanted, strlen(wanted)) == 0;
}

// The software for a machine when the user named an interface (api), or nothing: the only one that reads this
// quantisation, one that this model was measured with there, or the machine's first.
static int engine_choose(const struct plan_catalogue *c, const struct machine *m,
                         const struct plan_model *model, const char *api, char out[24],
                         struct err *e)
{
    char first[24] = "";
    size_t i;
    const json_t *backend;
    json_array_foreach(m->backends, i, backend)
    {
        char name[24];
        if (!json_is_string(backend))
            return err_set(e, ERR_INVALID, "machine %s: \"backends\" must be texts", m->name);
        int rc = backend_parse(json_string_value(backend), name, e);
        if (rc != 0)
            return err_wrap(e, "machine %s", m->name);
        ds4_resolve(m, name);
        if (api != NULL && !engine_uses(name, api))
            continue;
        bool only = model->engine[0] != '\0' && engine_is(name, model->engine);
        bool measured = model->family[0] != '\0' && model->engine[0] == '\0' &&
                        plan_catalogue_has_run(c, m->name, model->family, model->quant_class, name);
        if (only || measured) {
            snprintf(out, 24, "%s", name);
            return 0;
        }
        if (first[0] == '\0')
            snprintf(first, sizeof first, "%s", name);
    }
    snprintf(out, 24, "%s", first[0] != '\0' ? first : api != NULL ? api : "cpu");
    return 0;
}

static int engine_get(const struct plan_catalogue *c, const struct machine *m,
                      const struct plan_model *model, const char *backend, char out[24],
                      struct err *e)
{
    char said[24];
    if (backend == NULL || strcasecmp(backend, "gpu") == 0)
        return engine_choose(c, m, model, NULL, out, e);
    int rc = backend_parse(backend, said, e);
    if (rc != 0)
        return rc;
    bool is_api = engine_uses(said, said);
    if (is_api && model->engine[0] != '\0')
        return engine_choose(c, m, model, said, out, e);
    ds4_resolve(m, said);
    snprintf(out, 24, "%s", said);
    return 0;
}

// ---- rates ---------------------------------------------------------------------------------------------

struct setup {
    const struct plan_catalogue *c;
    struct machine machine;
    struct plan_model model;
    char engine[24];
    bool prefill;
};

// Effects of machine and model on what a term uses.
static double effects(const struct setup *s, const char *resource)
{
    return plan_catalogue_number(s->c, "machine/%s/%s", resource, s->machine.name) +
           plan_catalogue_number(s->c, "machine-engine/%s/%s/%s", resource, s->machine.name,
                                 s->engine) +
           plan_catalogue_number(s->c, "model/%s/%s", resource, s->model.family);
}

// Several GPUs in one machine: layer by layer they take turns, tensor by tensor they work together.
static double split(const struct setup *s)
{
    const char *way = strcmp(s->engine, "vllm") == 0 ? "tensor" : "layer";
    double share =
        plan_catalogue_number(s->c, "split/%s/%s", s->prefill ? "prefill" : "decode", way);
    return -share * log(s->machine.gpus);
}

static double base(const struct setup *s, const char *term)
{
    return plan_catalogue_number(s->c, "all/%s", term) +
           plan_catalogue_number(s->c, "engine/%s/%s", term, s->engine);
}

// Terms that depend on how weights are stored, and on whether there are experts.
static double of_weights(const struct setup *s, const char *term, const char *resource)
{
    double x = base(s, term) + effects(s, resource) + split(s);
    x += plan_catalogue_number(s->c, "quant/%s/%s", term, s->model.quant_class);
    x +=
        plan_catalogue_number(s->c, "engine-quant/%s/%s/%s", term, s->engine, s->model.quant_class);
    if (s->model.cost.routed_bytes > 0)
        x += plan_catalogue_number(s->c, "all/moe-%s", term) +
             plan_catalogue_number(s->c, "moe/%s/%s", term, s->engine);
    return exp(x);
}

// llama.cpp multiplies in INT8, or in FP16 with FP16 sums, on NVIDIA's tensor cores. The rate of the latter is
// half that of the former; what FP16 with FP32 sums does varies between consumer and other cards.
static double matrix_flops(const struct setup *s)
{
    bool tensor = strcmp(s->engine, "cuda") == 0 && s->machine.int8_ops > 0;
    return tensor ? s->machine.int8_ops / 2 : s->machine.flops;
}

static struct cost_rates rates_of(const struct setup *s)
{
    double byte_s = 1 / s->machine.bytes_per_s, flop_s = 1 / s->machine.flops;
    // Prefill has a rate of its own for reading weights, since arithmetic hides most of it.
    struct cost_rates r = {
        .weight_s = byte_s * of_weights(s, "weights", "memory"),
        .kv_s = byte_s * exp(base(s, "kv") + effects(s, "kv") + split(s)),
        .flop_s = of_weights(s, "compute", "compute") / matrix_flops(s),
        .pair_s = flop_s * exp(base(s, "attention") + effects(s, "attention") + split(s)),
        .deep = base(s, "deep"),
        .floor_s = byte_s * of_weights(s, "floor", "floor"),
        .layer_s = exp(base(s, "layer")),
    };
    if (s->machine.rpc)
        r.step_s = (s->machine.gpus - 1) * exp(base(s, "hop"));
    return r;
}

// ---- asking ----------------------------------------------------------------------------------------

static int query_check(const struct plan_query *q, struct err *e)
{
    const struct {
        const char *what;
        double value, min, max;
    } numbers[] = {
        {"--n-prompt", q->n_prompt, q->prefill ? 1 : 0, PLAN_TOKENS_MAX},
        {"--depth", q->depth, 0, PLAN_TOKENS_MAX},
        {"--batch", q->batch, 1, PLAN_BATCH_MAX},
        {"--ubatch", q->ubatch, 0, PLAN_TOKENS_MAX},
        {"--bits", q->bits, 0, 64},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!(numbers[i].value >= numbers[i].min && numbers[i].value <= numbers[i].max))
            return err_set(e, ERR_INVALID, "%s is %g; it must be between %g and %g",
                           numbers[i].what, numbers[i].value, numbers[i].min, numbers[i].max);
    return 0;
}

static const char *basis_of(const struct setup *s)
{
    const char *machine = s->machine.name, *family = s->model.family;
    bool model = family[0] != '\0' && plan_catalogue_has_run(s->c, NULL, family, NULL, NULL);
    if (model && plan_catalogue_has_run(s->c, machine, family, s->model.quant_class, s->engine))
        return "row";
    if (!plan_catalogue_has_run(s->c, machine, NULL, NULL, NULL))
        return "machine";
    return model ? "run" : "model";
}

static void interval_fill(const struct setup *s, struct plan_answer *a)
{
    double low, high;
    a->basis = basis_of(s);
    plan_catalogue_spread(s->c, a->basis, s->prefill, &low, &high);
    a->low = a->tokens_per_s / exp(high); // the spread is of times
    a->high = a->tokens_per_s / exp(low);
}

int plan_predict(const struct plan_catalogue *c, const struct plan_query *q, struct plan_answer *a,
                 struct err *e)
{
    struct setup s = {.c = c, .prefill = q->prefill};
    *a = (struct plan_answer){0};
    int rc = query_check(q, e);
    if (rc == 0)
        rc = machine_get(c, q->machine, &s.machine, e);
    if (rc == 0 && q->read != NULL)
        s.model = *q->read;
    else if (rc == 0)
        rc = plan_model_get(c, q->model, q->quant, q->bits, &s.model, e);
    if (rc == 0)
        rc = engine_get(c, &s.machine, &s.model, q->backend, s.engine, e);
    if (rc != 0)
        return rc;
    double tokens = q->prefill ? q->n_prompt : 1;
    double ubatch = q->ubatch > 0 ? q->ubatch : tokens >= LONG_PROMPT ? LONG_PROMPT : SHORT_UBATCH;
    struct cost_work work = {
        .tokens = tokens, .depth = q->depth, .batch = q->batch, .chunk = ubatch};
    struct cost_rates rates = rates_of(&s);
    a->model = s.model.cost;
    a->rates = rates;
    a->time =
        q->prefill ? cost_prefill(&a->model, &rates, &work) : cost_decode(&a->model, &rates, &work);
    a->seconds = a->time.total_s;
    a->bound = cost_bound_of(&a->time);
    a->tokens_per_s = q->batch * tokens / a->seconds;
    a->need_bytes =
        a->model.weight_bytes + q->batch * cost_kv_bytes(&a->model, q->depth + tokens) + WORK_BYTES;
    a->have_bytes = s.machine.memory_bytes;
    a->fits = a->need_bytes <= a->have_bytes;
    snprintf(a->engine, sizeof a->engine, "%s", s.engine);
    interval_fill(&s, a);
    return 0;
}

void plan_too_large(const char *machine, double need_bytes, double have_bytes, char *out,
                    size_t out_bytes)
{
    snprintf(out, out_bytes,
             "it does not fit: weights, cache and buffers need %.1f GB, %s has %.1f GB for them; "
             "take a smaller quantisation, less depth or batch, or a larger machine",
             need_bytes / 1e9, machine, have_bytes / 1e9);
}
