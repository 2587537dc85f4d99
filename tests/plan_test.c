// The planner against its catalogue, a catalogue of the user's laid over it, the known table, and bad input.
#include "base/buf.h"
#include "os/os.h"
#include "plan/compare.h"
#include "plan/nearest.h"
#include "plan/predict.h"
#include "tests/plan_rig.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void own_write(const char *text)
{
    struct err e = {0};
    if (os_file_write(rig_own_file, text, strlen(text), 0600, &e) != 0)
        fail_msg("%s", e.message);
}

static struct plan_query query(const char *machine, const char *model, const char *quant,
                               bool prefill)
{
    struct plan_query q;
    plan_query_defaults(&q);
    q.machine = machine;
    q.model = model;
    q.quant = quant;
    q.prefill = prefill;
    q.n_prompt = prefill ? 2048 : 0;
    return q;
}

static struct plan_answer predicted(const struct plan_catalogue *c, const struct plan_query *q)
{
    struct plan_answer a;
    struct err e = {0};
    if (plan_predict(c, q, &a, &e) != 0)
        fail_msg("%s", e.message);
    assert_true(a.low < a.tokens_per_s && a.tokens_per_s < a.high && a.low > 0);
    return a;
}

// ---- predictions ---------------------------------------------------------------------------------------------

// Every machine with every model answers, and its figures hang together.
static void test_all(void **state)
{
    struct plan_catalogue *c = rig_catalogue();
    const char *machine, *model;
    json_t *m, *o;
    (void)state;
    json_object_foreach((json_t *)plan_catalogue_all(c, PLAN_MACHINE), machine, m)
    {
        json_object_foreach((json_t *)plan_catalogue_all(c, PLAN_MODEL), model, o)
        {
            if (json_object_get(o, "unknown") != NULL)
                continue;
            struct plan_query q = query(machine, model, NULL, false);
            struct plan_answer shallow = predicted(c, &q);
            q.depth = 32768;
            struct plan_answer deep = predicted(c, &q);
            assert_true(deep.tokens_per_s < shallow.tokens_per_s);
            assert_true(deep.need_bytes > shallow.need_bytes);
            q = query(machine, model, NULL, true);
            struct plan_answer read = predicted(c, &q);
            assert_true(read.tokens_per_s > shallow.tokens_per_s);
        }
    }
    plan_catalogue_free(c);
}

// Published figures that the fit saw; each lies in its interval.
static void test_published(void **state)
{
    static const struct {
        const char *machine, *model, *quant, *backend;
        bool prefill;
        double depth, rate;
    } rows[] = {
        {"dgx-spark", "qwen2.5-coder-7b", "Q8_0", "CUDA", true, 0, 2276.28},
        {"dgx-spark", "qwen2.5-coder-7b", "Q8_0", "CUDA", false, 0, 29.3},
        {"dgx-spark", "gpt-oss-20b", "MXFP4", "CUDA", false, 32768, 59.85},
        {"strix-halo", "gpt-oss-120b", "mxfp4", "Vulkan", false, 0, 56.61},
        {"strix-halo", "gemma-4-31b", "UD-Q8_K_XL", "ROCm", false, 32768, 5.26},
        {"mac-studio-m3-ultra", "llama-3.3-70b", "Q4_K_M", "Metal", false, 0, 14.41},
    };
    struct plan_catalogue *c = rig_catalogue();
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan_query q = query(rows[i].machine, rows[i].model, rows[i].quant, rows[i].prefill);
        q.backend = rows[i].backend;
        q.depth = rows[i].depth;
        struct plan_answer a = predicted(c, &q);
        assert_true(a.fits);
        assert_string_equal(a.basis, "row");
        if (rows[i].rate < a.low || rows[i].rate > a.high)
            fail_msg("row %zu: %g is not in %g to %g", i, rows[i].rate, a.low, a.high);
    }
    plan_catalogue_free(c);
}

static void test_bounds_and_memory(void **state)
{
    struct plan_catalogue *c = rig_catalogue();
    struct plan_query q = query("dgx-spark", "llama-3.1-70b", "F16", false);
    struct plan_answer a = predicted(c, &q);
    (void)state;
    assert_false(a.fits); // 141 GB
    assert_int_equal(a.bound, COST_BANDWIDTH);
    q.quant = "q4_k_m";
    assert_true(predicted(c, &q).fits);
    q.depth = 1e6;
    assert_false(predicted(c, &q).fits); // 328 GB of cache
    q = query("rtx-4090", "llama-3.1-8b", "Q4_K_M", true);
    assert_int_equal(predicted(c, &q).bound, COST_COMPUTE);
    plan_catalogue_free(c);
}

// The software that a quantisation, a model's measurements or the machine stand for.
static void test_engines(void **state)
{
    static const struct {
        const char *machine, *model, *quant, *backend, *engine;
    } rows[] = {
        {"dgx-spark", "llama-3.1-8b", "Q8_0", NULL, "cuda"},
        {"dgx-spark", "llama-3.1-8b", "FP8", "CUDA", "vllm"},
        {"dgx-spark", "llama-3.1-8b", "Q8_0", "vulkan", "vulkan"},
        {"dgx-spark", "deepseek-v4-flash", "q2", "CUDA", "ds4-cuda"},
        {"strix-halo", "deepseek-v4-flash", "q2", "ROCm", "ds4-rocm"},
        {"mac-studio-m2-ultra", "deepseek-v4-flash", "q2", NULL, "ds4"},
        {"m2-max", "qwen3-8b", "4bit", "Metal", "mlx"},
        {"m2-max", "qwen3-8b", "Q4_K_M", "GPU", "metal"},
        {"2x-strix-halo", "glm-4.6", "Q4_K_XL", "ROCm,RPC", "rocm"},
        {"strix-halo", "lfm2-24b-a2b", "Q4_K_M", NULL, "vulkan"}, // nobody ran it with ROCm
    };
    struct plan_catalogue *c = rig_catalogue();
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct plan_query q = query(rows[i].machine, rows[i].model, rows[i].quant, false);
        q.backend = rows[i].backend;
        assert_string_equal(predicted(c, &q).engine, rows[i].engine);
    }
    plan_catalogue_free(c);
}

// ---- bad input -------------------------------------------------------------------------------------------------

static void refused(const struct plan_catalogue *c, struct plan_query q, int code, const char *says)
{
    struct plan_answer a;
    struct err e = {0};
    assert_int_equal(plan_predict(c, &q, &a, &e), code);
    if (strstr(e.message, says) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", e.message, says);
}

static void test_refusals(void **state)
{
    struct plan_catalogue *c = rig_catalogue();
    struct plan_query good = query("dgx-spark", "llama-3.1-8b", "F16", true), q = good;
    (void)state;
    refused(c, query("dgx-sparc", "llama-3.1-8b", "F16", false), ERR_NOT_FOUND, "dgx-spark");
    refused(c, query("dgx-spark", "lama-3.1-8b", "F16", false), ERR_NOT_FOUND, "llama-3.1-8b");
    refused(c, query("dgx-spark", "llama-3.1-8b", "Q4_K_N", false), ERR_NOT_FOUND, "q4_k_m");
    refused(c, query("", "llama-3.1-8b", "F16", false), ERR_NOT_FOUND, "machine");
    refused(c, query("dgx-spark", "/nowhere/x.gguf", NULL, false), ERR_NOT_FOUND,
            "/nowhere/x.gguf");
    refused(c, query("dgx-spark", "deepseek-v4-pro", "Q4_K_M", false), ERR_UNSUPPORTED, "GGUF");
    q.n_prompt = 0;
    refused(c, q, ERR_INVALID, "--n-prompt is 0");
    q.n_prompt = NAN;
    refused(c, q, ERR_INVALID, "--n-prompt");
    q = good;
    q.depth = -1;
    refused(c, q, ERR_INVALID, "--depth is -1");
    q.depth = INFINITY;
    refused(c, q, ERR_INVALID, "--depth is inf");
    q = good;
    q.batch = 0.5;
    refused(c, q, ERR_INVALID, "--batch is 0.5");
    q = good;
    q.backend = "quantum";
    refused(c, q, ERR_INVALID, "Vulkan");
    plan_catalogue_free(c);
}

static void test_nearest(void **state)
{
    json_t *names =
        json_pack("{s:i,s:i,s:i,s:i}", "dgx-spark", 1, "strix-halo", 1, "m5-max", 1, "rtx-3090", 1);
    char out[64], cut[8];
    (void)state;
    plan_nearest("3090", names, out, sizeof out);
    assert_memory_equal(out, "rtx-3090", 8);
    plan_nearest("DGX-SPARC", names, out, sizeof out);
    assert_memory_equal(out, "dgx-spark", 9);
    plan_nearest("dgx-sparc", names, cut, sizeof cut);
    assert_string_equal(cut, "dgx-spa");
    json_object_clear(names);
    plan_nearest("x", names, out, sizeof out);
    assert_string_equal(out, "(none)");
    json_decref(names);
}

// ---- the user's own catalogue -----------------------------------------------------------------------------------

#define SHAPE                                                                                      \
    "\"params_b\": 1, \"layers\": 16, \"hidden\": 2048, \"heads\": 16, \"kv_heads\": 4, "          \
    "\"head_size\": 128, \"vocab\": 32000"

static void test_own(void **state)
{
    (void)state;
    own_write("{\"machines\": [{\"name\": \"My-Box\", \"memory_gib\": 64, \"bandwidth_gbs\": 500, "
              "\"fp16_tflops\": 50, \"backends\": [\"CUDA\"]}], "
              "\"models\": [{\"id\": \"mine\", " SHAPE "}]}");
    struct plan_catalogue *c = rig_catalogue();
    struct plan_query q = query("my-box", "MINE", "Q8_0", false);
    struct plan_answer a = predicted(c, &q);
    assert_true(a.fits);
    assert_string_equal(a.engine, "cuda");
    assert_string_equal(a.basis, "machine"); // nobody measured it
    q.machine = "dgx-spark";
    assert_string_equal(predicted(c, &q).basis, "model");
    plan_catalogue_free(c);
    unlink(rig_own_file);
}

static void test_own_bad(void **state)
{
    static const struct {
        const char *text, *says;
    } files[] = {
        {"{", "own.json"},
        {"[]", "one JSON object"},
        {"{\"machines\": 3}", "machines"},
        {"{\"machines\": [{}]}", "\"name\""},
        {"{\"machines\": [3]}", "\"name\""},
        {"{\"links\": [{\"id\": \"x\", \"aliases\": [7]}]}", "alias"},
    };
    static const struct {
        const char *text, *says;
    } entries[] = {
        {"{\"machines\": [{\"name\": \"a\"}]}", "memory_gib"},
        {"{\"machines\": [{\"name\": \"a\", \"memory_gib\": -1}]}", "memory_gib"},
        {"{\"machines\": [{\"name\": \"a\", \"memory_gib\": 8, \"bandwidth_gbs\": 100, "
         "\"fp16_tflops\": 5, \"backends\": [3]}]}",
         "backends"},
        {"{\"machines\": [{\"name\": \"a\", \"memory_gib\": 8, \"bandwidth_gbs\": 100, "
         "\"fp16_tflops\": 5, \"backends\": [\"abacus\"]}]}",
         "abacus"},
        {"{\"models\": [{\"id\": \"m\", \"params_b\": 1}]}", "\"layers\""},
        {"{\"models\": [{\"id\": \"m\", " SHAPE ", \"full_layers\": 17}]}", "full_layers"},
        {"{\"models\": [{\"id\": \"m\", " SHAPE ", \"active_params_b\": 2}]}", "active_params_b"},
        {"{\"models\": [{\"id\": \"m\", " SHAPE ", \"active_params_b\": 0.5}]}", "experts_used"},
        {"{\"models\": [{\"id\": \"m\", " SHAPE ", \"kv_heads\": \"4\"}]}", "own.json"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct plan_catalogue *c = NULL;
        struct err e = {0};
        own_write(files[i].text);
        assert_int_not_equal(plan_catalogue_open(&c, &e), 0);
        assert_null(c);
        if (strstr(e.message, files[i].says) == NULL)
            fail_msg("%s: %s", files[i].text, e.message);
    }
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        struct plan_catalogue *c = NULL;
        struct plan_answer a;
        struct err e = {0};
        own_write(entries[i].text);
        struct plan_query q =
            query(strstr(entries[i].text, "machines") ? "a" : "dgx-spark",
                  strstr(entries[i].text, "models") ? "m" : "llama-3.1-8b", "F16", false);
        if (plan_catalogue_open(&c, &e) == 0)
            assert_int_not_equal(plan_predict(c, &q, &a, &e), 0);
        if (strstr(e.message, entries[i].says) == NULL)
            fail_msg("%s: %s", entries[i].text, e.message);
        plan_catalogue_free(c);
    }
    unlink(rig_own_file);
}

// ---- pairs ---------------------------------------------------------------------------------------------------------

static struct plan_pair known_pair(void)
{
    return (struct plan_pair){.machines = {"dgx-spark", "mac-studio-m3-ultra"},
                              .link = "10gbe",
                              .model = "llama-3.1-8b",
                              .quant = "f16",
                              .prompt = 8192,
                              .gen = 32};
}

static struct plan_comparison compared(const struct plan_catalogue *c, const struct plan_pair *p)
{
    struct plan_comparison r;
    struct err e = {0};
    if (plan_compare(c, p, &r, &e) != 0)
        fail_msg("%s", e.message);
    return r;
}

static void within(double got, double wanted, double share)
{
    if (fabs(got / wanted - 1) > share)
        fail_msg("%g is not within %g %% of %g", got, 100 * share, wanted);
}

static void test_known_table(void **state)
{
    struct plan_catalogue *c = rig_catalogue();
    struct plan_pair p = known_pair();
    struct plan_comparison r = compared(c, &p);
    (void)state;
    assert_true(r.published); // the default where somebody published rates
    within(r.solo[0].total_s, 4.34, 0.01);
    within(r.solo[1].total_s, 6.42, 0.01);
    within(r.hybrid.total_s, 2.32, 0.01);
    within(r.kv_bytes, 1.0737e9, 0.001);
    assert_int_equal(r.reader, 0);
    assert_true(r.serial.total_s > r.hybrid.total_s + 0.9); // 1.07 GB at 10 Gbit/s
    p.rates = PLAN_RATES_LLAMA;
    r = compared(c, &p);
    assert_false(r.published);
    assert_true(r.solo[0].prefill_s > 2.5 && r.solo[0].prefill_s < 5.5);
    plan_catalogue_free(c);
}

// What a break-even says is so: the gain crosses one there.
static void test_breakeven(void **state)
{
    struct plan_catalogue *c = rig_catalogue();
    struct plan_pair p = known_pair();
    struct plan_comparison r = compared(c, &p);
    (void)state;
    assert_true(r.even_prompt > 10 && r.even_prompt < 2000);
    p.prompt = r.even_prompt * 1.02;
    assert_true(compared(c, &p).gain > 1);
    p.prompt = r.even_prompt * 0.98;
    assert_true(compared(c, &p).gain <= 1);
    p = known_pair();
    p.gen = r.fade_gen * 0.98;
    assert_true(compared(c, &p).gain >= 1.1);
    p.gen = r.fade_gen * 1.02;
    assert_true(compared(c, &p).gain < 1.1);
    p = known_pair();
    p.link = "1gbe";
    assert_true(r.even_gbps > 1 && compared(c, &p).gain < 1); // 1 Gbit/s is too slow here
    p.machines[1] = "dgx-spark"; // with itself there is nothing to gain
    p.link = "10gbe";
    assert_true(isnan(compared(c, &p).even_prompt));
    plan_catalogue_free(c);
}

static void test_pair_refusals(void **state)
{
    struct plan_catalogue *c = rig_catalogue();
    struct plan_comparison r;
    struct plan_pair p = known_pair();
    struct err e = {0};
    (void)state;
    p.machines[1] = "rtx-3090";
    p.rates = PLAN_RATES_PUBLISHED;
    assert_int_equal(plan_compare(c, &p, &r, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "rtx-3090"));
    p.rates = PLAN_RATES_AUTO;
    p.model = "llama-3.1-70b";
    r = compared(c, &p);
    assert_false(r.possible);
    assert_false(r.solo[1].fits);
    p = known_pair();
    p.link = "string";
    assert_int_equal(plan_compare(c, &p, &r, &e), ERR_NOT_FOUND);
    p = known_pair();
    p.gen = NAN;
    assert_int_equal(plan_compare(c, &p, &r, &e), ERR_INVALID);
    p.gen = 1;
    p.prompt = -5;
    assert_int_equal(plan_compare(c, &p, &r, &e), ERR_INVALID);
    plan_catalogue_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_bounds_and_memory),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_engines),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_own),
        cmocka_unit_test(test_own_bad),
        cmocka_unit_test(test_known_table),
        cmocka_unit_test(test_breakeven),
        cmocka_unit_test(test_pair_refusals),
    };
    return cmocka_run_group_tests(tests, rig_setup, rig_teardown);
}
