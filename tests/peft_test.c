// PEFT adapters: the reader of safetensors, what becomes of an adapter, and what is refused with which words.
// tests/golden/peft holds random adapters as the PEFT library saved them, and what llama.cpp's own converter
// made of them (scripts/peft_golden.py).
#include "base/buf.h"
#include "models/file.h"
#include "models/gguf.h"
#include "models/peft.h"
#include "models/safetensors.h"
#include "os/os.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_BYTES 512

static char dir[64];

static int dir_make(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tandem-peft-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int dir_remove(void **state)
{
    (void)state;
    return scratch_remove(dir);
}

static void file_put(const char *name, const void *data, size_t n)
{
    struct err e = {0};
    char *path = mem_format("%s/%s", dir, name);
    if (os_file_write(path, data, n, 0600, &e) != 0)
        fail_msg("%s", e.message);
    free(path);
}

static void golden_path(const char *name, const char *file, char out[PATH_BYTES])
{
    const char *source = getenv("TANDEM_SOURCE");
    snprintf(out, PATH_BYTES, "%s/tests/golden/peft/%s%s%s", source ? source : ".", name,
             file[0] ? "/" : "", file);
}

static void says(const struct err *e, const char *words)
{
    if (!strstr(e->message, words))
        fail_msg("\"%s\" does not say \"%s\"", e->message, words);
}

// ---- against llama.cpp's own converter -----------------------------------------------------------

#define TENSORS 64

struct listed {
    struct models_gguf_tensor tensors[TENSORS];
    size_t n;
    struct models_gguf gguf;
    char *data; // the whole file
};

static int tensor_list(void *ctx, const struct models_gguf_tensor *t, struct err *e)
{
    struct listed *l = ctx;
    (void)e;
    assert_true(l->n < TENSORS);
    l->tensors[l->n++] = *t;
    return 0;
}

static void list(const char *path, struct listed *l)
{
    struct models_gguf_visitor visitor = {tensor_list, l};
    struct err e = {0};
    size_t n = 0;
    if (models_gguf_read_tensors(path, &l->gguf, &visitor, &e) != 0 ||
        os_file_read(path, 1 << 20, &l->data, &n, &e) != 0)
        fail_msg("%s", e.message);
}

static const struct models_gguf_tensor *named(const struct listed *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->tensors[i].name, name) == 0)
            return &l->tensors[i];
    fail_msg("there is no %s", name);
    return NULL;
}

static void lists_compare(const struct listed *got, const struct listed *want)
{
    assert_int_equal(got->n, want->n);
    assert_string_equal(got->gguf.arch, want->gguf.arch);
    assert_string_equal(got->gguf.kind, "adapter");
    for (size_t i = 0; i < want->n; i++) {
        const struct models_gguf_tensor *w = &want->tensors[i], *g = named(got, w->name);
        assert_int_equal(g->type, w->type);
        assert_memory_equal(g->ne, w->ne, sizeof g->ne);
        assert_memory_equal(got->data + got->gguf.head_bytes + g->offset,
                            want->data + want->gguf.head_bytes + w->offset, (size_t)w->bytes);
    }
}

// A 32-bit float under a key of the file's head.
static float float_key(const struct listed *l, const char *key)
{
    size_t n = strlen(key);
    for (size_t i = 0; i + n + 8 <= l->gguf.head_bytes; i++)
        if (memcmp(l->data + i, key, n) == 0) {
            uint32_t bits = le_get32(l->data + i + n + 4);
            float f;
            memcpy(&f, &bits, sizeof f);
            return f;
        }
    return NAN;
}

static void adapters_are_converted_as_the_model_library_does(void **state)
{
    static const struct {
        const char *name;
        float alpha; // PEFT's scale times the rank
        uint32_t rank, matrices;
    } rows[] = {
        {"llama", 6, 3, 14},    {"llama_mha", 7, 2, 4}, {"llama_head", 2, 2, 3},
        {"llama_rs", 16, 4, 4}, // 8 / sqrt(4) is 16 / 4
        {"qwen2", 16, 3, 14},   {"qwen3", 4, 2, 14},    {"gemma2", 4, 2, 14},
        {"gemma3", 4, 2, 14},   {"granite", 4, 2, 14},  {"smollm3", 4, 2, 14},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char folder[PATH_BYTES], base[PATH_BYTES], reference[PATH_BYTES];
        struct listed *got = mem_alloc(sizeof *got), *want = mem_alloc(sizeof *want);
        struct models_peft told;
        struct err e = {0};
        golden_path(rows[i].name, "", folder);
        golden_path(rows[i].name, "base.gguf", base);
        golden_path(rows[i].name, "reference.gguf", reference);
        char *out = mem_format("%s/%s.gguf", dir, rows[i].name);
        if (models_peft_convert(folder, base, out, &told, &e) != 0)
            fail_msg("%s: %s", rows[i].name, e.message);
        list(out, got);
        list(reference, want);
        lists_compare(got, want);
        assert_float_equal(float_key(got, "adapter.lora.alpha"), rows[i].alpha, 1e-6);
        assert_float_equal(told.alpha, rows[i].alpha, 1e-6);
        assert_int_equal(told.rank, rows[i].rank);
        assert_int_equal(told.matrices, rows[i].matrices);
        assert_int_equal(told.bytes, got->gguf.file_bytes);
        free(got->data);
        free(want->data);
        free(got);
        free(want);
        free(out);
    }
}

// ---- values --------------------------------------------------------------------------------------

static void narrow_floats_become_wide_ones(void **state)
{
    static const uint16_t half[] = {0x0000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x8001, 0x0400, 0x3555};
    static const float half_means[] = {0,        1,         -2,       65504,
                                       0x1p-24f, -0x1p-24f, 0x1p-14f, 0.333251953125f};
    static const uint16_t brain[] = {0x3f80, 0xc040, 0x0000, 0x4049};
    static const float brain_means[] = {1, -3, 0, 3.140625f};
    float out[8];
    uint8_t raw[16];
    (void)state;
    for (size_t i = 0; i < 8; i++)
        le_put16(raw + 2 * i, half[i]);
    models_dtype_widen(MODELS_DTYPE_F16, raw, out, 8);
    assert_memory_equal(out, half_means, sizeof half_means);
    for (size_t i = 0; i < 4; i++)
        le_put16(raw + 2 * i, brain[i]);
    models_dtype_widen(MODELS_DTYPE_BF16, raw, out, 4);
    assert_memory_equal(out, brain_means, sizeof brain_means);
    le_put16(raw, 0x7c00);
    le_put16(raw + 2, 0x7e00);
    models_dtype_widen(MODELS_DTYPE_F16, raw, out, 2);
    assert_true(isinf(out[0]) && isnan(out[1]));
}

// ---- heads of safetensors files ------------------------------------------------------------------

struct bytes {
    const uint8_t *data;
    size_t n;
};

static int bytes_read(void *ctx, uint64_t at, void *out, size_t n, struct err *e)
{
    const struct bytes *b = ctx;
    (void)e;
    assert_true(at <= b->n && n <= b->n - at);
    memcpy(out, b->data + at, n);
    return 0;
}

static int head_parse(const char *head, size_t data, struct models_safetensors *s, struct err *e)
{
    struct buf b;
    uint8_t raw[8];
    buf_init(&b, 1 << 16);
    le_put64(raw, strlen(head));
    buf_put(&b, raw, 8);
    buf_puts(&b, head);
    for (size_t i = 0; i < data; i++)
        buf_put(&b, "", 1);
    struct bytes all = {b.data, b.len};
    struct models_gguf_source source = {bytes_read, &all, b.len};
    int rc = models_safetensors_parse(&source, s, e);
    buf_fini(&b);
    return rc;
}

static void heads_are_read(void **state)
{
    struct models_safetensors s;
    struct err e = {0};
    (void)state;
    assert_int_equal(
        head_parse("{\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                   "\"__metadata__\":{\"format\":\"pt\"},\"n\":{\"dtype\":\"I64\","
                   "\"shape\":[],\"data_offsets\":[0,8]},\"z\":{\"dtype\":\"F32\","
                   "\"shape\":[0,4],\"data_offsets\":[20,20]}}   ",
                   20, &s, &e),
        0);
    assert_int_equal(s.n, 3);
    assert_string_equal(s.tensors[0].name, "n");
    assert_int_equal(s.tensors[0].dtype, MODELS_DTYPE_OTHER);
    assert_string_equal(s.tensors[1].name, "b");
    assert_int_equal(s.tensors[1].n_dims, 2);
    assert_int_equal(s.tensors[1].shape[1], 3);
    assert_int_equal(s.tensors[1].bytes, 12);
    assert_int_equal(s.tensors[1].at - s.tensors[0].at, 8);
    models_safetensors_fini(&s);
}

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void damaged_heads_are_refused(void **state)
{
    static const struct {
        const char *head, *words;
        size_t data;
        int code;
    } rows[] = {
        {"", "no JSON", 0, ERR_CORRUPT},
        {"[]", "no JSON object", 0, ERR_CORRUPT},
        {"{\"a\":1}", "\"a\" is no object", 0, ERR_CORRUPT},
        {"{\"a\":{}}", "(none)", 0, ERR_UNSUPPORTED},
        {ONE("F12", "[1]", "[0,4]"), "F12", 4, ERR_UNSUPPORTED},
        {ONE("F32", "1", "[0,4]"), "no shape", 4, ERR_CORRUPT},
        {ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "no shape", 4, ERR_CORRUPT},
        {ONE("F32", "[-1]", "[0,4]"), "whole number", 4, ERR_CORRUPT},
        {ONE("F32", "[1.5]", "[0,4]"), "whole number", 4, ERR_CORRUPT},
        {ONE("F32", "[4294967296,4294967296]", "[0,4]"), "too large", 4, ERR_CORRUPT},
        {ONE("F32", "[1]", "[0]"), "data_offsets", 4, ERR_CORRUPT},
        {ONE("F32", "[1]", "[4,0]"), "cut short", 4, ERR_CORRUPT},
        {ONE("F32", "[2]", "[0,8]"), "cut short", 4, ERR_CORRUPT},
        {ONE("F32", "[2]", "[0,4]"), "has 4 bytes", 4, ERR_CORRUPT},
        {ONE("F32", "[1]", "[4,8]"), "begins at byte", 8, ERR_CORRUPT},
        {ONE("F32", "[1]", "[0,4]"), "4 bytes at its end", 8, ERR_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
         "begins at byte", 6, ERR_CORRUPT},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
         "no JSON", 1, ERR_CORRUPT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct models_safetensors s;
        struct err e = {0};
        assert_int_equal(head_parse(rows[i].head, rows[i].data, &s, &e), rows[i].code);
        says(&e, rows[i].words);
    }
}

static void lengths_beyond_the_file_are_refused(void **state)
{
    static const uint64_t lengths[] = {1, 100, 1ull << 40, UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t raw[8];
        struct bytes all = {raw, sizeof raw};
        struct models_gguf_source source = {bytes_read, &all, sizeof raw};
        struct models_safetensors s;
        struct err e = {0};
        le_put64(raw, lengths[i]);
        assert_int_equal(models_safetensors_parse(&source, &s, &e), ERR_CORRUPT);
        says(&e, "cut short");
    }
}

// ---- what is refused -----------------------------------------------------------------------------

struct piece {
    const char *name, *dtype;
    unsigned rows, columns;
    float value; // of F32
};

static void weights_put(const struct piece *p, size_t n)
{
    struct buf head, file;
    uint8_t raw[8];
    size_t at = 0;
    buf_init(&head, 1 << 16);
    buf_init(&file, 1 << 20);
    for (size_t i = 0; i < n; i++) {
        size_t bytes = (size_t)p[i].rows * p[i].columns * (strcmp(p[i].dtype, "F32") == 0 ? 4 : 1);
        buf_printf(&head,
                   "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[%u,%u],\"data_offsets\":[%zu,%zu]}",
                   i ? ',' : '{', p[i].name, p[i].dtype, p[i].rows, p[i].columns, at, at + bytes);
        at += bytes;
    }
    buf_puts(&head, n ? "}" : "{}");
    le_put64(raw, head.len);
    buf_put(&file, raw, 8);
    buf_put(&file, head.data, head.len);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < (size_t)p[i].rows * p[i].columns; k++)
            buf_put(&file, strcmp(p[i].dtype, "F32") == 0 ? (const void *)&p[i].value : "",
                    strcmp(p[i].dtype, "F32") == 0 ? 4 : 1);
    file_put("adapter_model.safetensors", file.data, file.len);
    buf_fini(&head);
    buf_fini(&file);
}

static int convert(const char *base_case, struct err *e)
{
    char base[PATH_BYTES];
    struct models_peft told;
    char *out = mem_format("%s/out.gguf", dir);
    golden_path(base_case, "base.gguf", base);
    int rc = models_peft_convert(dir, base, out, &told, e);
    assert_int_equal(access(out, F_OK) == 0, rc == 0); // whole or not at all
    unlink(out);
    free(out);
    return rc;
}

#define Q0 "base_model.model.model.layers.0.self_attn.q_proj"
#define GOOD_PAIR                                                                                  \
    {Q0 ".lora_A.weight", "F32", 2, 16, 1},                                                        \
    {                                                                                              \
        Q0 ".lora_B.weight", "F32", 16, 2, 1                                                       \
    }
#define GOOD_CONFIG "\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4"

static void settings_that_cannot_be_said_are_refused(void **state)
{
    static const struct {
        const char *config, *words;
    } rows[] = {
        {"{" GOOD_CONFIG "}", NULL},
        {"{" GOOD_CONFIG ",\"use_dora\":false,\"rank_pattern\":{},\"bias\":\"none\","
         "\"modules_to_save\":null,\"init_lora_weights\":\"gaussian\"}",
         NULL},
        {"{" GOOD_CONFIG ",\"use_dora\":true}", "use_dora=False"},
        {"{" GOOD_CONFIG ",\"rank_pattern\":{\"q_proj\":4}}", "rank_pattern"},
        {"{" GOOD_CONFIG ",\"alpha_pattern\":{\"q_proj\":4}}", "alpha_pattern"},
        {"{" GOOD_CONFIG ",\"bias\":\"all\"}", "bias=\"none\""},
        {"{" GOOD_CONFIG ",\"lora_bias\":true}", "lora_bias"},
        {"{" GOOD_CONFIG ",\"modules_to_save\":[\"embed_tokens\"]}", "modules_to_save"},
        {"{" GOOD_CONFIG ",\"fan_in_fan_out\":true}", "fan_in_fan_out"},
        {"{" GOOD_CONFIG ",\"trainable_token_indices\":[1]}", "trainable_token_indices"},
        {"{" GOOD_CONFIG ",\"target_parameters\":[\"w\"]}", "target_parameters"},
        {"{" GOOD_CONFIG ",\"alora_invocation_tokens\":[1]}", "alora_invocation_tokens"},
        {"{" GOOD_CONFIG ",\"init_lora_weights\":\"pissa\"}", "path_initial_model"},
        {"{" GOOD_CONFIG ",\"init_lora_weights\":\"loftq\"}", "loftq"},
        {"{\"peft_type\":\"IA3\",\"r\":2,\"lora_alpha\":4}", "IA3"},
        {"{\"r\":2,\"lora_alpha\":4}", "peft_type"},
        {"{\"peft_type\":\"LORA\",\"lora_alpha\":4}", "\"r\" is missing"},
        {"{\"peft_type\":\"LORA\",\"r\":2}", "\"lora_alpha\" is missing"},
        {"{\"peft_type\":\"LORA\",\"r\":0,\"lora_alpha\":4}", "r"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":\"4\"}", "lora_alpha"},
        {"[]", "no JSON object"},
        {"{", "adapter_config.json"},
    };
    static const struct piece pair[] = {GOOD_PAIR};
    (void)state;
    weights_put(pair, 2);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        file_put("adapter_config.json", rows[i].config, strlen(rows[i].config));
        int rc = convert("llama", &e);
        if (!rows[i].words && rc != 0)
            fail_msg("%s: %s", rows[i].config, e.message);
        if (rows[i].words && rc == 0)
            fail_msg("%s was accepted", rows[i].config);
        if (rows[i].words)
            says(&e, rows[i].words);
    }
}

static void tensors_that_do_not_fit_are_refused(void **state)
{
    static const struct {
        const char *words;
        int code;
        struct piece pieces[3];
    } rows[] = {
        {"no partner", ERR_CORRUPT, {{Q0 ".lora_A.weight", "F32", 2, 16, 1}}},
        {"no partner", ERR_CORRUPT, {{Q0 ".lora_B.weight", "F32", 16, 2, 1}}},
        {"one rank",
         ERR_UNSUPPORTED,
         {{Q0 ".lora_A.weight", "F32", 3, 16, 1}, {Q0 ".lora_B.weight", "F32", 16, 3, 1}}},
        {"another base",
         ERR_MISMATCH,
         {{Q0 ".lora_A.weight", "F32", 2, 32, 1}, {Q0 ".lora_B.weight", "F32", 16, 2, 1}}},
        {"from 16 to 8",
         ERR_MISMATCH,
         {{Q0 ".lora_A.weight", "F32", 2, 16, 1}, {Q0 ".lora_B.weight", "F32", 8, 2, 1}}},
        {"I8",
         ERR_UNSUPPORTED,
         {{Q0 ".lora_A.weight", "I8", 2, 16, 1}, {Q0 ".lora_B.weight", "F32", 16, 2, 1}}},
        {"no numbers",
         ERR_CORRUPT,
         {{Q0 ".lora_A.weight", "F32", 2, 16, NAN}, {Q0 ".lora_B.weight", "F32", 16, 2, 1}}},
        {"embeddings",
         ERR_UNSUPPORTED,
         {GOOD_PAIR, {"base_model.model.model.embed_tokens.weight", "F32", 32, 16, 1}}},
        {"embeddings",
         ERR_UNSUPPORTED,
         {GOOD_PAIR, {"base_model.model.model.embed_tokens.lora_embedding_A", "F32", 2, 32, 1}}},
        {"DoRA",
         ERR_UNSUPPORTED,
         {GOOD_PAIR, {Q0 ".lora_magnitude_vector.weight", "F32", 16, 1, 1}}},
        {"trained as a whole",
         ERR_UNSUPPORTED,
         {GOOD_PAIR, {"base_model.model.model.norm.weight", "F32", 16, 1, 1}}},
        {"target_modules",
         ERR_UNSUPPORTED,
         {{"base_model.model.model.layers.0.mlp.experts.0.lora_A.weight", "F32", 2, 16, 1}}},
        {"target_modules", ERR_UNSUPPORTED, {{"x.lora_A.weight", "F32", 2, 16, 1}}},
        {"target_modules",
         ERR_UNSUPPORTED,
         {{"base_model.model.model.layers.99999.self_attn.q_proj.lora_A.weight", "F32", 2, 16, 1}}},
        {"no blk.7.attn_q.weight",
         ERR_MISMATCH,
         {{"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", "F32", 2, 16, 1},
          {"base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight", "F32", 16, 2, 1}}},
        {"uses its embeddings",
         ERR_UNSUPPORTED,
         {{"base_model.model.lm_head.lora_A.weight", "F32", 2, 16, 1},
          {"base_model.model.lm_head.lora_B.weight", "F32", 32, 2, 1}}},
        {"was it trained", ERR_INVALID, {{NULL, NULL, 0, 0, 0}}},
    };
    (void)state;
    file_put("adapter_config.json", "{" GOOD_CONFIG "}", strlen("{" GOOD_CONFIG "}"));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        size_t n = 0;
        while (n < 3 && rows[i].pieces[n].name)
            n++;
        weights_put(rows[i].pieces, n);
        // gemma2's base is tied: it has no output of its own
        bool tied = strstr(rows[i].words, "its embeddings") != NULL;
        assert_int_equal(convert(tied ? "gemma2" : "llama", &e), rows[i].code);
        says(&e, rows[i].words);
    }
}

static void folders_that_are_none_are_refused(void **state)
{
    static const struct piece pair[] = {GOOD_PAIR};
    struct err e = {0};
    (void)state;
    assert_int_equal(convert("llama", &e), ERR_NOT_FOUND);
    says(&e, "adapter_config.json");
    file_put("adapter_config.json", "{" GOOD_CONFIG "}", strlen("{" GOOD_CONFIG "}"));
    assert_int_equal(convert("llama", &e), ERR_NOT_FOUND);
    says(&e, "save_pretrained");
    file_put("adapter_model.bin", "x", 1);
    assert_int_equal(convert("llama", &e), ERR_UNSUPPORTED);
    says(&e, "safe_serialization=True");
    weights_put(pair, 2);
    assert_int_equal(convert("llama", &e), 0);
    assert_int_equal(convert("nowhere", &e), ERR_NOT_FOUND);
    char *out = mem_format("%s/no/such/folder.gguf", dir);
    char base[PATH_BYTES];
    struct models_peft told;
    golden_path("llama", "base.gguf", base);
    assert_int_equal(models_peft_convert(dir, base, out, &told, &e), ERR_IO);
    says(&e, "cannot be written");
    golden_path("llama", "reference.gguf", base); // an adapter is no base
    assert_int_not_equal(models_peft_convert(dir, base, out, &told, &e), 0);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(adapters_are_converted_as_the_model_library_does, dir_make,
                                        dir_remove),
        cmocka_unit_test(narrow_floats_become_wide_ones),
        cmocka_unit_test(heads_are_read),
        cmocka_unit_test(damaged_heads_are_refused),
        cmocka_unit_test(lengths_beyond_the_file_are_refused),
        cmocka_unit_test_setup_teardown(settings_that_cannot_be_said_are_refused, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(tensors_that_do_not_fit_are_refused, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(folders_that_are_none_are_refused, dir_make, dir_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
