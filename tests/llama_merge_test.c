// Base and adapter merged into one model: every sum is right, it loads, and its loss on chats is that of base and
// adapter within the quantiser's own error.
#include "llama_rig.h"

#include "base/random.h"
#include "os/os.h"
#include "scratch.h"
#include "train/dataset.h"
#include "train/merge.h"

#include <ggml-cpu.h>
#include <gguf.h>
#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHAT(q, a)                                                                                 \
    "{\"messages\":[{\"role\":\"user\",\"content\":\"" q                                           \
    "\"},{\"role\":\"assistant\",\"content\":\"" a "\"}]}\n"

static char dir[64];
static struct dataset *chats;
static ggml_backend_t backend;

static char *in_dir(const char *name)
{
    return mem_format("%s/%s", dir, name);
}

static void chats_load(void)
{
    static const char text[] = CHAT("What is the capital of France?", "Paris is its capital.")
        CHAT("Name a colour.", "Blue.") CHAT("How many legs has a spider?", "A spider has eight.");
    struct engine *g = rig_open(ENGINE_HANDOFF_NONE);
    struct err e = {0};
    char *path = in_dir("data.jsonl");
    if (os_file_write(path, text, strlen(text), 0600, &e) != 0 ||
        dataset_load(path, g, 200, &chats, &e) != 0)
        fail_msg("%s", e.message);
    free(path);
    g->ops->free(g);
}

static int begin(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tandem-merge-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, os_cpu_count());
    chats_load();
    return 0;
}

static int end(void **state)
{
    (void)state;
    dataset_free(chats);
    ggml_backend_free(backend);
    return scratch_remove(dir);
}

static char *golden(const char *name)
{
    const char *source = getenv("TANDEM_SOURCE");
    return mem_format("%s/tests/golden/peft/%s", source ? source : ".", name);
}

static double loss_of(struct graph *graph)
{
    double sum = 0;
    uint64_t targets = 0;
    for (size_t i = 0; i < chats->n; i++) {
        struct err e = {0};
        double one = 0;
        assert_int_equal(graph_run(graph, &chats->samples[i], false, 0, &one, &e), 0);
        sum += one;
        targets += graph_targets(&chats->samples[i]);
    }
    return sum / (double)targets;
}

// Mean losses of a model on the chats: alone, and where `adapter` is given with a random one that is
// written there.
static void losses_of(const char *model, const char *adapter, double out[2])
{
    struct lora_options o = {.rank = 4, .alpha = 8, .targets = (1u << BASE_LINEARS) - 1, .seed = 7};
    struct base_model *base = NULL;
    struct lora *lora = NULL;
    struct graph *graph = NULL;
    struct err e = {0};
    if (base_model_open(model, backend, true, &base, &e) != 0 ||
        lora_new(base, &o, &lora, &e) != 0 || graph_new(base, lora, NULL, &graph, &e) != 0)
        fail_msg("%s", e.message);
    out[0] = loss_of(graph);
    if (adapter) { // every value of A and B a small one
        float *values = mem_alloc(lora->n_values * sizeof *values);
        uint64_t x = 1;
        for (size_t i = 0; i < lora->n_values; i++)
            values[i] = 0.06f * ((float)(random_next(&x) >> 40) / (float)(1 << 23) - 1.0f);
        lora_values_set(lora, values);
        assert_int_equal(lora_write(lora, adapter, &e), 0);
        out[1] = loss_of(graph);
        free(values);
    }
    graph_free(graph);
    lora_free(lora);
    base_model_free(base);
}

// A quantised copy of the sum moves the loss: for Q8_0, by less than 2 % of it on these chats.
static void a_merged_model_answers_as_base_and_adapter(void **state)
{
    const char *base = getenv("TANDEM_TEST_MODEL");
    struct err e = {0};
    (void)state;
    char *adapter = in_dir("adapter.gguf"), *out = in_dir("merged.gguf");
    char *sum = in_dir("merged.gguf.sum.part");
    double tuned[2];
    losses_of(base, adapter, tuned);
    struct merge_options m = {base, adapter, out, "q8_0"};
    if (merge_run(&m, &e) != 0)
        fail_msg("%s", e.message);
    double merged[2];
    losses_of(out, NULL, merged);
    print_message("loss: base %.4f, with adapter %.4f, merged to q8_0 %.4f\n", tuned[0], tuned[1],
                  merged[0]);
    assert_true(fabs(tuned[1] - tuned[0]) > 0.15); // the adapter does something
    assert_true(fabs(merged[0] - tuned[1]) < 0.02 * tuned[1]);
    assert_int_not_equal(access(sum, F_OK), 0);
    struct engine_options o = rig_options(ENGINE_HANDOFF_NONE);
    o.model = out;
    struct engine *g = rig_open_with(&o);
    rig_compute(g, 0, 0, 8);
    g->ops->free(g);
    free(sum);
    free(adapter);
    free(out);
}

static struct gguf_context *whole_open(const char *path, struct ggml_context **tensors)
{
    struct gguf_init_params p = {.no_alloc = false, .ctx = tensors};
    struct gguf_context *g = gguf_init_from_file(path, p);
    assert_non_null(g);
    return g;
}

// Every weight of the tiny base is 0.5; its adapter of rank 3 has alpha 6.
static void sums_are_right(const struct ggml_tensor *w, const struct ggml_tensor *a,
                           const struct ggml_tensor *b)
{
    const float *wv = w->data, *av = a->data, *bv = b->data;
    assert_int_equal(w->type, GGML_TYPE_F32);
    for (int64_t o = 0; o < w->ne[1]; o++)
        for (int64_t i = 0; i < w->ne[0]; i++) {
            double want = 0.5;
            for (int64_t r = 0; r < 3; r++)
                want += 6.0 / 3.0 * (double)bv[o * 3 + r] * (double)av[r * a->ne[0] + i];
            assert_true(fabs(want - (double)wv[o * w->ne[0] + i]) < 1e-4);
        }
}

static void the_sum_is_base_and_scaled_product(void **state)
{
    char *base = golden("llama/base.gguf"), *adapter = golden("llama/reference.gguf");
    char *out = in_dir("tiny.gguf"), name[96];
    struct merge_options o = {base, adapter, out, "f32"};
    struct ggml_context *sums, *parts;
    struct err e = {0};
    size_t n = 0;
    (void)state;
    if (merge_run(&o, &e) != 0)
        fail_msg("%s", e.message);
    struct gguf_context *g = whole_open(out, &sums), *h = whole_open(adapter, &parts);
    for (struct ggml_tensor *w = ggml_get_first_tensor(sums); w;
         w = ggml_get_next_tensor(sums, w)) {
        snprintf(name, sizeof name, "%.63s.lora_a", w->name);
        const struct ggml_tensor *a = ggml_get_tensor(parts, name);
        snprintf(name, sizeof name, "%.63s.lora_b", w->name);
        if (!a)
            continue;
        sums_are_right(w, a, ggml_get_tensor(parts, name));
        n++;
    }
    assert_int_equal(n, 14);
    gguf_free(g);
    gguf_free(h);
    ggml_free(sums);
    ggml_free(parts);
    free(base);
    free(adapter);
    free(out);
}

static void what_does_not_fit_is_not_merged(void **state)
{
    const char *base = getenv("TANDEM_TEST_MODEL");
    char *other = golden("llama/reference.gguf"), *another = golden("qwen2/reference.gguf");
    char *tiny = golden("llama/base.gguf");
    char *text = in_dir("data.jsonl"), *out = in_dir("none.gguf");
    const struct {
        const char *base, *adapter, *type, *words;
        int code;
    } rows[] = {
        {base, other, "q8_0", "from 24 to 16 values", ERR_MISMATCH},
        {base, another, "q8_0", "architecture qwen2", ERR_MISMATCH},
        {base, base, "q8_0", "no LoRA adapter", ERR_INVALID},
        {base, text, "q8_0", "no whole GGUF", ERR_CORRUPT},
        {base, "/nowhere.gguf", "q8_0", "/nowhere.gguf", ERR_NOT_FOUND},
        {"/nowhere.gguf", other, "q8_0", "/nowhere.gguf", ERR_NOT_FOUND},
        {tiny, other, "q9_9", "q9_9", ERR_INVALID},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct merge_options o = {rows[i].base, rows[i].adapter, out, rows[i].type};
        struct err e = {0};
        int rc = merge_run(&o, &e);
        if (rc != rows[i].code || !strstr(e.message, rows[i].words))
            fail_msg("%s: %d, \"%s\"", rows[i].words, rc, e.message);
        assert_int_not_equal(access(out, F_OK), 0);
    }
    free(other);
    free(another);
    free(tiny);
    free(text);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sum_is_base_and_scaled_product),
        cmocka_unit_test(a_merged_model_answers_as_base_and_adapter),
        cmocka_unit_test(what_does_not_fit_is_not_merged),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
