// Weights of other types: what is quantised to them loads, says what it is, computes much the same, and takes over
// the KV of another one; a type that this release does not know is refused in words.
#include "engine/quantize.h"
#include "tests/llama_rig.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define PROMPT 48u

static char folder[] = "/tmp/tandem-quantise-XXXXXX";
static float *truth; // of the model as it is, after PROMPT tokens

static struct engine *open_path(const char *path)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_RANGES);
    o.model = path;
    o.n_ctx = 256;
    return rig_open_with(&o);
}

static double cosine(const float *a, const float *b, uint32_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

// Reads the prompt with one model and goes on with the other.
static float *mixed(struct engine *p, struct engine *d)
{
    struct err e = {0};
    size_t len = 0;
    rig_compute(p, 0, 0, PROMPT - 1);
    void *data = rig_export(p, 0, 0, PROMPT - 1, true, &len);
    if (d->ops->import(d, 0, 0, PROMPT - 1, true, data, len, &e) != 0)
        fail_msg("%s", e.message);
    free(data);
    return rig_logits(d, 0, PROMPT - 1);
}

static void type_works(const char *type, struct engine *whole)
{
    struct engine_identity *id = &whole->identity;
    struct err e = {0};
    char *path = mem_format("%s/%s.gguf", folder, type);
    if (engine_quantize(getenv("TANDEM_TEST_MODEL"), path, type, &e) != 0)
        fail_msg("%s", e.message);
    struct engine *g = open_path(path);
    assert_int_equal(strncmp(g->identity.weights, type, strlen(type)), 0);
    // One model in two guises: refused, unless the user allows it.
    assert_int_equal(engine_identity_compare(id, &g->identity, true, &e), ERR_MISMATCH);
    assert_non_null(strstr(e.message, type));
    assert_int_equal(engine_identity_compare(id, &g->identity, false, &e), 0);
    float *there = mixed(g, whole);
    float *alone = rig_logits(g, 0, PROMPT - 1);
    double near = cosine(there, truth, id->n_vocab), own = cosine(alone, truth, id->n_vocab);
    print_message("%-7s mixed %.5f, alone %.5f\n", type, near, own);
    assert_true(near > 0.97 && own > 0.9);
    free(there);
    free(alone);
    assert_int_equal(whole->ops->remove(whole, 0, 0, UINT32_MAX, &e), 0);
    g->ops->free(g);
    unlink(path);
    free(path);
}

static void types_load_and_mix(void **state)
{
    struct err e = {0};
    struct engine *whole = open_path(getenv("TANDEM_TEST_MODEL"));
    (void)state;
    rig_compute(whole, 0, 0, PROMPT - 1);
    truth = rig_logits(whole, 0, PROMPT - 1);
    assert_int_equal(whole->ops->remove(whole, 0, 0, UINT32_MAX, &e), 0);
    type_works("NVFP4", whole);
    type_works("MXFP4", whole);
    type_works("Q8_0", whole);
    whole->ops->free(whole);
    free(truth);
}

// The type of the first tensor, where a file has it: behind its name, its number of dimensions and those.
static long type_at(const char *data, size_t n, const char *tensor)
{
    size_t len = strlen(tensor);
    for (size_t i = 0; i + len + 64 < n; i++)
        if (memcmp(data + i, tensor, len) == 0)
            return (long)(i + len + 4 + 8 * le_get32(data + i + len));
    return -1;
}

static void unknown_types_are_refused(void **state)
{
    static char data[8 << 20];
    char path[64];
    uint8_t type[4];
    struct engine *g = NULL;
    struct err e = {0};
    struct engine_options o = rig_options(ENGINE_HANDOFF_NONE);
    FILE *f = fopen(o.model, "rb");
    (void)state;
    size_t n = fread(data, 1, sizeof data, f);
    long at = type_at(data, n, "blk.0.attn_k.weight");
    fclose(f);
    assert_true(at > 0);
    le_put32(type, 99);
    memcpy(data + at, type, sizeof type);
    snprintf(path, sizeof path, "%s/unknown.gguf", folder);
    f = fopen(path, "wb");
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
    o.model = path;
    assert_int_equal(engine_open(&o, &g, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "99"));
    assert_non_null(strstr(e.message, "blk.0.attn_k.weight"));
    unlink(path);
}

static void types_are_named(void **state)
{
    const char *good[] = {"q8_0", "Q4_K_M", "mxfp4", "NVFP4", "IQ4_XS"};
    struct err e = {0};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(engine_quantize_check(good[i], &e), 0);
    // Needs an importance matrix, which nobody has here.
    assert_int_equal(engine_quantize_check("IQ2_XXS", &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "NVFP4"));
    assert_non_null(strstr(e.message, "or Q2_K"));
}

static int folder_make(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int folder_remove(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_load_and_mix),
        cmocka_unit_test(unknown_types_are_refused),
        cmocka_unit_test(types_are_named),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
