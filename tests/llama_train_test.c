// The native trainer's mathematics on tiny random models: its loss is the serving engine's, its
// gradients are those that finite differences show, and a few steps along them bring the loss down.
#include "base/buf.h"
#include "engine/engine.h"
#include "train/graph.h"

#include <ggml-cpu.h>
#include <gguf.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define N_EMBD 64
#define N_HEAD 4
#define N_HEAD_KV 2
#define HEAD_DIM 16
#define N_FF 128
#define N_LAYER 2
#define N_VOCAB 96
#define N_TOKENS 24

struct shape {
    const char *arch;
    enum ggml_type type;
    bool tied, biases, head_norms, rope_factors;
};

static uint64_t seed;
static float random_unit(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(seed >> 40) / (float)(1 << 23) - 1.0f;
}

// ---- tiny models -----------------------------------------------------------------------------------

static void matrix_add(struct gguf_context *g, struct ggml_context *c, enum ggml_type type,
                       const char *name, const int64_t ne[2])
{
    struct ggml_tensor *t = ggml_new_tensor_2d(c, type, ne[0], ne[1]);
    float *v = mem_alloc((size_t)(ne[0] * ne[1]) * sizeof *v), size = 1.2f / sqrtf((float)ne[0]);
    for (int64_t i = 0; i < ne[0] * ne[1]; i++)
        v[i] = size * random_unit();
    if (type == GGML_TYPE_F32)
        memcpy(t->data, v, ggml_nbytes(t));
    else
        ggml_quantize_chunk(type, v, t->data, 0, ne[1], ne[0], NULL);
    ggml_set_name(t, name);
    gguf_add_tensor(g, t);
    free(v);
}

static void vector_add(struct gguf_context *g, struct ggml_context *c, const char *name, int64_t n,
                       float middle)
{
    struct ggml_tensor *t = ggml_new_tensor_1d(c, GGML_TYPE_F32, n);
    for (int64_t i = 0; i < n; i++)
        ((float *)t->data)[i] = middle + 0.2f * random_unit();
    ggml_set_name(t, name);
    gguf_add_tensor(g, t);
}

static void layer_add(struct gguf_context *g, struct ggml_context *c, const struct shape *s, int i)
{
    static const int64_t ne[BASE_LINEARS][2] = {{N_EMBD, N_HEAD * HEAD_DIM},
                                                {N_EMBD, N_HEAD_KV * HEAD_DIM},
                                                {N_EMBD, N_HEAD_KV * HEAD_DIM},
                                                {N_HEAD * HEAD_DIM, N_EMBD},
                                                {N_EMBD, N_FF},
                                                {N_EMBD, N_FF},
                                                {N_FF, N_EMBD}};
    char name[64];
    for (int k = 0; k < BASE_LINEARS; k++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", i, base_linear_name((enum base_linear)k));
        matrix_add(g, c, s->type, name, ne[k]);
        if (s->biases && k <= BASE_V) {
            snprintf(name, sizeof name, "blk.%d.%s.bias", i, base_linear_name((enum base_linear)k));
            vector_add(g, c, name, ne[k][1], 0);
        }
    }
    static const char *const norms[] = {"attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm"};
    for (int k = 0; k < (s->head_norms ? 4 : 2); k++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", i, norms[k]);
        vector_add(g, c, name, k < 2 ? N_EMBD : HEAD_DIM, 1);
    }
}

static void number(struct gguf_context *g, const char *arch, const char *key, uint32_t v)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    gguf_set_val_u32(g, name, v);
}

static void fraction(struct gguf_context *g, const char *arch, const char *key, float v)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    gguf_set_val_f32(g, name, v);
}

static char path[64];

static void model_write(const struct shape *s)
{
    struct ggml_init_params p = {.mem_size = 32u << 20};
    struct ggml_context *c = ggml_init(p);
    struct gguf_context *g = gguf_init_empty();
    const int64_t vocab[2] = {N_EMBD, N_VOCAB};
    seed = 7;
    gguf_set_val_str(g, "general.architecture", s->arch);
    number(g, s->arch, "context_length", 128);
    number(g, s->arch, "embedding_length", N_EMBD);
    number(g, s->arch, "block_count", N_LAYER);
    number(g, s->arch, "feed_forward_length", N_FF);
    number(g, s->arch, "attention.head_count", N_HEAD);
    number(g, s->arch, "attention.head_count_kv", N_HEAD_KV);
    number(g, s->arch, "attention.key_length", HEAD_DIM);
    number(g, s->arch, "attention.value_length", HEAD_DIM);
    number(g, s->arch, "vocab_size", N_VOCAB);
    if (strcmp(s->arch, "llama") == 0)
        number(g, s->arch, "rope.dimension_count", HEAD_DIM);
    fraction(g, s->arch, "attention.layer_norm_rms_epsilon", 1e-5f);
    fraction(g, s->arch, "rope.freq_base", 5000);
    gguf_set_val_str(g, "tokenizer.ggml.model", "no_vocab");
    matrix_add(g, c, s->type, "token_embd.weight", vocab);
    if (!s->tied)
        matrix_add(g, c, s->type, "output.weight", vocab);
    vector_add(g, c, "output_norm.weight", N_EMBD, 1);
    if (s->rope_factors)
        vector_add(g, c, "rope_freqs.weight", HEAD_DIM / 2, 2);
    for (int i = 0; i < N_LAYER; i++)
        layer_add(g, c, s, i);
    snprintf(path, sizeof path, "/tmp/tandem-train-XXXXXX");
    close(mkstemp(path));
    assert_true(gguf_write_to_file(g, path, false));
    gguf_free(g);
    ggml_free(c);
}

// ---- a trainer on one of them ------------------------------------------------------------------------

struct rig {
    ggml_backend_t backend;
    struct base_model *base;
    struct lora *lora;
    struct graph *graph;
    int32_t tokens[N_TOKENS];
    bool supervised[N_TOKENS];
    struct graph_sample sample;
    float *values;
};

static void rig_open(struct rig *r, const struct shape *s, bool dense)
{
    struct err e = {0};
    struct lora_options o = {.rank = 4, .alpha = 8, .targets = (1u << BASE_LINEARS) - 1, .seed = 3};
    model_write(s);
    r->backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(r->backend, 1);
    if (base_model_open(path, r->backend, dense, &r->base, &e) != 0 ||
        lora_new(r->base, &o, &r->lora, &e) != 0 ||
        graph_new(r->base, r->lora, NULL, &r->graph, &e) != 0)
        fail_msg("%s", e.message);
    for (int i = 0; i < N_TOKENS; i++) {
        r->tokens[i] = (i * 29 + i * i) % N_VOCAB;
        r->supervised[i] = i >= 10 && i != 15;
    }
    r->sample = (struct graph_sample){r->tokens, r->supervised, N_TOKENS};
    r->values = mem_alloc(r->lora->n_values * sizeof *r->values);
    lora_values_get(r->lora, r->values);
    for (size_t i = 0; i < r->lora->n_values; i++) // B is zero: A would have no gradient
        r->values[i] += 0.05f * random_unit();
    lora_values_set(r->lora, r->values);
}

static void rig_close(struct rig *r)
{
    graph_free(r->graph);
    lora_free(r->lora);
    base_model_free(r->base);
    ggml_backend_free(r->backend);
    free(r->values);
    unlink(path);
}

static double loss_of(struct rig *r, bool backward)
{
    struct err e = {0};
    double loss = NAN;
    if (graph_run(r->graph, &r->sample, backward, 1, &loss, &e) != 0)
        fail_msg("%s", e.message);
    return loss;
}

static double loss_at(struct rig *r, size_t i, float value)
{
    float old = r->values[i];
    r->values[i] = value;
    lora_values_set(r->lora, r->values);
    double loss = loss_of(r, false);
    r->values[i] = old;
    lora_values_set(r->lora, r->values);
    return loss;
}

// ---- tests -----------------------------------------------------------------------------------------------

static const struct shape shapes[] = {
    {"llama", GGML_TYPE_F32, true, false, false, false},
    {"llama", GGML_TYPE_F32, false, false, false, true},
    {"qwen2", GGML_TYPE_F32, true, true, false, false},
    {"qwen3", GGML_TYPE_F32, false, false, true, false},
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

// How far the gradients are from central differences along a few hundred of the values, spread over all tensors.
static double gradients_off(const struct shape *s, bool dense)
{
    struct rig r;
    rig_open(&r, s, dense);
    float *grads = mem_alloc(r.lora->n_values * sizeof *grads), step = 5e-3f;
    double off = 0, size = 0;
    loss_of(&r, true);
    lora_grads_get(r.lora, grads);
    for (size_t i = 0; i < r.lora->n_values; i += 41) {
        double seen = (loss_at(&r, i, r.values[i] + step) - loss_at(&r, i, r.values[i] - step)) /
                      (2 * (double)step);
        off += (seen - (double)grads[i]) * (seen - (double)grads[i]);
        size += seen * seen;
    }
    free(grads);
    rig_close(&r);
    return size > 0 ? sqrt(off / size) : INFINITY;
}

// With the trainer's own kernels (dense) and with ggml's operations alone.
static void gradients_are_those_of_finite_differences(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2 * N_SHAPES; k++) {
        double off = gradients_off(&shapes[k / 2], k % 2 == 0);
        if (!(off < 0.01))
            fail_msg("%s (%s): gradients are off by %.4f of their size", shapes[k / 2].arch,
                     k % 2 == 0 ? "own" : "ggml's", off);
    }
}

static void gradients_add_up_with_their_weights(void **state)
{
    struct rig r;
    struct err e = {0};
    double loss;
    (void)state;
    rig_open(&r, &shapes[0], true);
    size_t n = r.lora->n_values;
    float *once = mem_alloc(n * sizeof *once), *twice = mem_alloc(n * sizeof *twice);
    loss_of(&r, true);
    lora_grads_get(r.lora, once);
    assert_int_equal(graph_run(r.graph, &r.sample, true, 0.5f, &loss, &e), 0);
    lora_grads_get(r.lora, twice);
    for (size_t i = 0; i < n; i++)
        assert_float_equal(twice[i], 1.5f * once[i], 1e-4f + 1e-3f * fabsf(once[i]));
    lora_grads_clear(r.lora);
    lora_grads_get(r.lora, twice);
    for (size_t i = 0; i < n; i++)
        assert_true(twice[i] == 0);
    free(once);
    free(twice);
    rig_close(&r);
}

static double cosine(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

static void a_quantised_base_has_nearly_the_gradients_of_its_dense_copy(void **state)
{
    static const enum ggml_type types[] = {GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1};
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        const struct shape s = {"llama", types[k], true, false, false, false};
        float *grads[2];
        size_t n = 0;
        for (int dense = 0; dense < 2; dense++) {
            struct rig r;
            rig_open(&r, &s, dense);
            loss_of(&r, true);
            n = r.lora->n_values;
            grads[dense] = mem_alloc(n * sizeof(float));
            lora_grads_get(r.lora, grads[dense]);
            rig_close(&r);
        }
        double near = cosine(grads[0], grads[1], n);
        if (!(near > 0.99))
            fail_msg("%s: cosine %.4f", ggml_type_name(types[k]), near);
        free(grads[0]);
        free(grads[1]);
    }
}

// Three samples whose lengths fill blocks of attention and that do not.
static const uint32_t lengths[] = {230, 7, 97};
#define N_SAMPLES (sizeof lengths / sizeof *lengths)

static void samples_make(struct graph_sample *out)
{
    for (size_t i = 0; i < N_SAMPLES; i++) {
        int32_t *tokens = mem_alloc(lengths[i] * sizeof *tokens);
        bool *supervised = mem_alloc(lengths[i] * sizeof *supervised);
        for (uint32_t k = 0; k < lengths[i]; k++) {
            tokens[k] = (int32_t)((k * 31 + k * k + i) % N_VOCAB);
            supervised[k] = k % 3 != 0;
        }
        out[i] = (struct graph_sample){tokens, supervised, lengths[i]};
    }
}

static void samples_free(struct graph_sample *s)
{
    for (size_t i = 0; i < N_SAMPLES; i++) {
        free((void *)(uintptr_t)s[i].tokens);
        free((void *)(uintptr_t)s[i].supervised);
    }
}

// Loss and gradients of the three, all in one graph or one by one.
static double samples_run(bool dense, bool together, float **grads, size_t *n)
{
    struct graph_sample samples[N_SAMPLES];
    const struct graph_sample *list[N_SAMPLES] = {&samples[0], &samples[1], &samples[2]};
    struct rig r;
    struct err e = {0};
    double loss = 0;
    rig_open(&r, &shapes[3], dense);
    samples_make(samples);
    size_t fit = together ? graph_batch_fit(r.graph, list, N_SAMPLES) : 1;
    assert_int_equal(fit, together ? N_SAMPLES : 1);
    for (size_t i = 0; i < N_SAMPLES; i += fit) {
        const struct graph_batch batch = {list + i, fit, true, 0.5f};
        double some = 0;
        if (graph_batch_run(r.graph, &batch, &some, &e) != 0)
            fail_msg("%s", e.message);
        loss += some;
    }
    *n = r.lora->n_values;
    *grads = mem_alloc(*n * sizeof **grads);
    lora_grads_get(r.lora, *grads);
    samples_free(samples);
    rig_close(&r);
    return loss;
}

static void samples_in_one_graph_do_not_see_each_other(void **state)
{
    float *together, *apart, *plain;
    size_t n;
    (void)state;
    double loss = samples_run(true, true, &together, &n);
    assert_true(fabs(loss - samples_run(true, false, &apart, &n)) < 1e-4 * loss);
    assert_true(fabs(loss - samples_run(false, false, &plain, &n)) < 1e-4 * loss);
    for (size_t i = 0; i < n; i++) {
        assert_float_equal(together[i], apart[i], 2e-4f + 1e-3f * fabsf(apart[i]));
        assert_float_equal(together[i], plain[i], 2e-4f + 1e-3f * fabsf(plain[i]));
    }
    free(together);
    free(apart);
    free(plain);
}

// ggml's operations have no borders between samples, so what does not fit is refused.
static void what_does_not_fit_is_refused(void **state)
{
    struct rig r;
    struct err e = {0};
    double loss;
    (void)state;
    rig_open(&r, &shapes[0], false);
    const struct graph_sample *list[2] = {&r.sample, &r.sample};
    const struct graph_batch batch = {list, 2, true, 1};
    assert_int_equal(graph_batch_fit(r.graph, list, 2), 1);
    assert_int_equal(graph_batch_run(r.graph, &batch, &loss, &e), ERR_INVALID);
    rig_close(&r);
}

// The loss as the serving engine would have it, from its logits; the adapter is made to do nothing.
static double engine_loss(const struct rig *r)
{
    struct engine_options o;
    struct engine *g = NULL;
    struct err e = {0};
    double loss = 0;
    engine_options_default(&o);
    o.model = path;
    o.n_ctx = 128;
    o.n_seq = 1;
    o.n_threads = 1;
    o.type_k = o.type_v = "f32";
    if (engine_open(&o, &g, &e) != 0)
        fail_msg("%s", e.message);
    for (uint32_t i = 0; i + 1 < N_TOKENS; i++) {
        struct engine_row row = {r->tokens[i], i, 0, true};
        struct engine_logprob top[1];
        assert_int_equal(g->ops->step(g, &row, 1, &e), 0);
        if (r->supervised[i + 1])
            loss -=
                (double)engine_logprobs(g->ops->logits(g, 0), N_VOCAB, r->tokens[i + 1], 1, top);
    }
    g->ops->free(g);
    return loss;
}

static void the_loss_is_the_serving_engines(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_SHAPES; k++) {
        struct rig r;
        rig_open(&r, &shapes[k], true);
        memset(r.values, 0, r.lora->n_values * sizeof *r.values);
        lora_values_set(r.lora, r.values);
        double ours = loss_of(&r, false), served = engine_loss(&r);
        if (!(fabs(ours - served) < 1e-3 * served))
            fail_msg("%s: loss %.6f here, %.6f in the engine", shapes[k].arch, ours, served);
        rig_close(&r);
    }
}

static void steps_downhill_lower_the_loss(void **state)
{
    struct rig r;
    (void)state;
    rig_open(&r, &shapes[0], true);
    float *grads = mem_alloc(r.lora->n_values * sizeof *grads);
    double first = loss_of(&r, false);
    for (int step = 0; step < 40; step++) {
        lora_grads_clear(r.lora);
        loss_of(&r, true);
        lora_grads_get(r.lora, grads);
        for (size_t i = 0; i < r.lora->n_values; i++)
            r.values[i] -= 0.02f * grads[i];
        lora_values_set(r.lora, r.values);
    }
    assert_true(loss_of(&r, false) < 0.5 * first);
    free(grads);
    rig_close(&r);
}

static void wrong_samples_are_refused(void **state)
{
    struct rig r;
    struct err e = {0};
    double loss;
    (void)state;
    rig_open(&r, &shapes[0], true);
    struct graph_sample s = r.sample;
    s.n = 1;
    assert_int_equal(graph_run(r.graph, &s, true, 1, &loss, &e), ERR_INVALID);
    s.n = 10; // nothing supervised in there
    assert_int_equal(graph_run(r.graph, &s, true, 1, &loss, &e), ERR_INVALID);
    r.tokens[3] = N_VOCAB;
    assert_int_equal(graph_run(r.graph, &r.sample, true, 1, &loss, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "96"));
    rig_close(&r);
}

static void wrong_bases_are_refused(void **state)
{
    struct err e = {0};
    struct base_model *m;
    ggml_backend_t cpu = ggml_backend_cpu_init();
    const struct shape gemma = {"gemma3", GGML_TYPE_F32, true, false, false, false};
    (void)state;
    assert_int_equal(base_model_open("/nowhere.gguf", cpu, true, &m, &e), ERR_NOT_FOUND);
    model_write(&gemma);
    assert_int_equal(base_model_open(path, cpu, true, &m, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "gemma3"));
    assert_int_equal(truncate(path, 300), 0); // inside the head
    assert_int_equal(base_model_open(path, cpu, true, &m, &e), ERR_CORRUPT);
    unlink(path);
    model_write(&shapes[0]);
    assert_int_equal(truncate(path, 100000), 0);
    assert_int_equal(base_model_open(path, cpu, true, &m, &e), ERR_CORRUPT);
    unlink(path);
    ggml_backend_free(cpu);
}

static void targets_are_parsed(void **state)
{
    uint32_t t = 0;
    struct err e = {0};
    (void)state;
    assert_int_equal(lora_targets_parse("q,v", &t, &e), 0);
    assert_int_equal(t, 1u << BASE_Q | 1u << BASE_V);
    assert_int_equal(lora_targets_parse("all", &t, &e), 0);
    assert_int_equal(t, (1u << BASE_LINEARS) - 1);
    assert_int_equal(lora_targets_parse("q,head", &t, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "head"));
    assert_int_equal(lora_targets_parse("", &t, &e), ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_those_of_finite_differences),
        cmocka_unit_test(gradients_add_up_with_their_weights),
        cmocka_unit_test(samples_in_one_graph_do_not_see_each_other),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_quantised_base_has_nearly_the_gradients_of_its_dense_copy),
        cmocka_unit_test(the_loss_is_the_serving_engines),
        cmocka_unit_test(steps_downhill_lower_the_loss),
        cmocka_unit_test(wrong_samples_are_refused),
        cmocka_unit_test(wrong_bases_are_refused),
        cmocka_unit_test(targets_are_parsed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
