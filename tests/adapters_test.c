// The store of adapters: publishing, finding, removing; which files and which bases are refused.
#include "models/adapters.h"
#include "os/os.h"
#include "tests/gguf_make.h"
#include "tests/scratch.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define EMBD 64
#define RANK 4

static char *in_folder(const char *name)
{
    return mem_format("%s/%s", scratch_home, name);
}

static void save(const char *path, const struct buf *b)
{
    assert_int_equal(os_file_write(path, b->data, b->len, 0600, NULL), 0);
}

// ---- files ---------------------------------------------------------------------------------------

static void make_tensor1(struct buf *b, const char *name, uint64_t n, uint64_t offset)
{
    make_text(b, name);
    make32(b, 1);
    make64(b, n);
    make32(b, 0);
    make64(b, offset);
}

// A model of one layer, whose last norm is `norm` throughout.
static char *model_make(const char *file, const char *name, float norm, uint32_t embd)
{
    struct buf b;
    uint8_t raw[4];
    buf_init(&b, GGUF_MAKE_MAX);
    make_head(&b, 3, 8);
    make_key_text(&b, "general.architecture", "llama");
    make_key_text(&b, "general.name", name);
    make_key32(&b, "llama.block_count", 1);
    make_key32(&b, "llama.embedding_length", embd);
    make_key32(&b, "llama.feed_forward_length", 128);
    make_key32(&b, "llama.attention.head_count", 4);
    make_key32(&b, "llama.context_length", 512);
    make_key32(&b, "general.file_type", 0);
    make_tensor1(&b, "output_norm.weight", embd, 0);
    make_tensor(&b, &(struct make_tensor){"blk.0.attn_q.weight", embd, embd, 0, embd * 4});
    make_tensor(&b, &(struct make_tensor){"token_embd.weight", embd, 32, 0, embd * (embd + 1) * 4});
    make_data(&b, 0);
    uint32_t bits;
    memcpy(&bits, &norm, 4);
    le_put32(raw, bits);
    for (uint32_t i = 0; i < embd; i++)
        buf_put(&b, raw, 4);
    make_data(&b, (size_t)embd * (embd + 32) * 4);
    char *path = in_folder(file);
    save(path, &b);
    buf_fini(&b);
    return path;
}

// What is wrong with an adapter.
struct wrong {
    const char *kind, *arch, *type;   // NULL: right
    const char *tensor_a, *tensor_b;  // NULL: right
    uint64_t in, rank_a, rank_b, out; // 0: right
    uint32_t dtype, value;            // of lora_a; bits of its values
    size_t cut;                       // bytes less
    int code;                         // expected
    const char *names;                // a word of the message
};

static const char * or (const char *a, const char *b)
{
    return a ? a : b;
}

static uint64_t or64(uint64_t a, uint64_t b)
{
    return a ? a : b;
}

static char *adapter_make(const char *file, const struct wrong *w)
{
    static const uint32_t width[] = {[0] = 4, [1] = 2, [26] = 4};
    struct buf b;
    uint8_t raw[4];
    uint64_t in = or64(w->in, EMBD), out = or64(w->out, EMBD);
    uint64_t ra = or64(w->rank_a, RANK), rb = or64(w->rank_b, RANK);
    size_t a_bytes = (size_t)(in * ra) * width[w->dtype], b_bytes = (size_t)(rb * out) * 4;
    buf_init(&b, GGUF_MAKE_MAX);
    make_head(&b, 2, 4);
    make_key_text(&b, "general.architecture", or (w->arch, "llama"));
    make_key_text(&b, "general.type", or (w->kind, "adapter"));
    make_key_text(&b, "adapter.type", or (w->type, "lora"));
    make_text(&b, "adapter.lora.alpha");
    make32(&b, 6);
    make32(&b, 0x41000000); // 8.0
    make_tensor(&b, &(struct make_tensor){ or (w->tensor_a, "blk.0.attn_q.weight.lora_a"), in, ra,
                                           w->dtype, 0});
    make_tensor(&b, &(struct make_tensor){ or (w->tensor_b, "blk.0.attn_q.weight.lora_b"), rb, out,
                                           0, (a_bytes + 31) / 32 * 32});
    make_data(&b, 0);
    le_put32(raw, w->value);
    for (size_t i = 0; i < a_bytes; i += 4)
        buf_put(&b, raw, 4);
    make_data(&b, b_bytes);
    b.len -= w->cut;
    char *path = in_folder(file);
    save(path, &b);
    buf_fini(&b);
    return path;
}

static int publish(const char *name, const char *file, const char *model, bool replace,
                   struct err *e)
{
    struct adapters_new n;
    adapters_new_default(&n);
    n.name = name;
    n.file = file;
    n.model = model;
    n.job = "job-1";
    n.loss_trainer = 0.25;
    n.replace = replace;
    return adapters_publish(&n, NULL, e);
}

// ---- tests ---------------------------------------------------------------------------------------

static void what_is_published_is_found(void **state)
{
    struct err e = {0};
    struct adapters_entry a;
    struct stat st;
    (void)state;
    char *model = model_make("m.gguf", "small", 1.0f, EMBD);
    char *file = adapter_make("a.gguf", &(struct wrong){0});
    assert_int_equal(publish("facts", file, model, false, &e), 0);
    assert_int_equal(adapters_find("ft:facts", &a, &e), 0);
    assert_string_equal(a.name, "facts");
    assert_string_equal(a.job, "job-1");
    assert_string_equal(a.base.arch, "llama");
    assert_string_equal(a.base.name, "small");
    assert_int_equal(a.base.n_embd, EMBD);
    assert_int_equal(strlen(a.base.fingerprint), 32);
    assert_int_equal(a.rank, RANK);
    assert_true(a.alpha == 8.0f);
    assert_true(a.loss_trainer == 0.25);
    assert_true(isnan(a.loss_engine));
    assert_int_equal(strlen(a.sha256), 64);
    assert_int_equal(stat(a.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal((uint64_t)st.st_size, a.bytes);
    assert_int_equal(publish("facts", file, model, false, &e), ERR_BUSY);
    assert_non_null(strstr(e.message, "facts already"));
    assert_int_equal(publish("facts", file, model, true, &e), 0);
    assert_int_equal(publish("other", file, model, false, &e), 0);
    struct adapters_list l;
    assert_int_equal(adapters_list_read(&l, &e), 0);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.items[0].name, "facts");
    assert_string_equal(l.items[1].name, "other");
    adapters_list_fini(&l);
    assert_int_equal(adapters_find("ft:none", &a, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "ft:facts, ft:other"));
    uint64_t before = adapters_version();
    assert_int_equal(adapters_remove("ft:other", &e), 0);
    assert_true(before != adapters_version());
    assert_int_equal(adapters_find("other", &a, &e), ERR_NOT_FOUND);
    assert_int_equal(adapters_remove("other", &e), ERR_NOT_FOUND);
    free(model);
    free(file);
}

static void files_that_do_not_fit_are_refused_by_name(void **state)
{
    static const struct wrong table[] = {
        {.kind = "model", .code = ERR_INVALID, .names = "not an adapter"},
        {.arch = "qwen2", .code = ERR_MISMATCH, .names = "qwen2"},
        {.type = "control_vector", .code = ERR_UNSUPPORTED, .names = "control_vector"},
        {.tensor_b = "blk.0.attn_norm.weight", .code = ERR_UNSUPPORTED, .names = "attn_norm"},
        {.tensor_b = "blk.0.attn_k.weight.lora_b", .code = ERR_CORRUPT, .names = "missing"},
        {.tensor_b = "blk.0.attn_q.weight.lora_a", .code = ERR_CORRUPT, .names = "twice"},
        {.tensor_a = "blk.9.attn_q.weight.lora_a",
         .tensor_b = "blk.9.attn_q.weight.lora_b",
         .code = ERR_MISMATCH,
         .names = "no tensor blk.9"},
        {.tensor_a = "output_norm.weight.lora_a",
         .tensor_b = "output_norm.weight.lora_b",
         .code = ERR_UNSUPPORTED,
         .names = "no matrix"},
        {.tensor_a = "token_embd.weight.lora_a",
         .tensor_b = "token_embd.weight.lora_b",
         .in = RANK,
         .rank_a = 32,
         .code = ERR_UNSUPPORTED,
         .names = "output too"},
        {.in = 32, .code = ERR_MISMATCH, .names = "[32, 4]"},
        {.out = 32, .code = ERR_MISMATCH, .names = "[4, 32]"},
        {.rank_a = 8, .code = ERR_MISMATCH, .names = "[64, 8]"},
        {.dtype = 26, .code = ERR_UNSUPPORTED, .names = "i32"},
        {.value = 0x7fc00000, .code = ERR_CORRUPT, .names = "no numbers"},
        {.dtype = 1, .value = 0x7c007c00, .code = ERR_CORRUPT, .names = "no numbers"},
        {.cut = 100, .code = ERR_CORRUPT, .names = "cut short"},
        {.cut = 2250, .code = ERR_CORRUPT, .names = "cut short"},
    };
    struct adapters_list l;
    (void)state;
    char *model = model_make("m.gguf", "small", 1.0f, EMBD);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct err e = {0};
        char *file = adapter_make("bad.gguf", &table[i]);
        int rc = publish("bad", file, model, false, &e);
        if (rc != table[i].code || !strstr(e.message, table[i].names))
            fail_msg("%zu: %d %s", i, rc, e.message);
        free(file);
    }
    assert_int_equal(adapters_list_read(&l, NULL), 0);
    for (size_t i = 0; i < l.n; i++)
        assert_string_not_equal(l.items[i].name, "bad");
    adapters_list_fini(&l);
    free(model);
}

static void halves_may_be_of_several_types(void **state)
{
    struct err e = {0};
    struct adapters_facts facts;
    (void)state;
    char *model = model_make("m.gguf", "small", 1.0f, EMBD);
    char *file = adapter_make("a.gguf", &(struct wrong){.dtype = 1, .value = 0x3c003c00});
    assert_int_equal(adapters_check(file, model, &facts, &e), 0);
    assert_int_equal(facts.rank, RANK);
    assert_int_equal(facts.matrices, 1);
    assert_int_equal(adapters_check(model, model, &facts, &e), ERR_INVALID);
    assert_int_equal(adapters_check("/nowhere/a.gguf", model, &facts, &e), ERR_NOT_FOUND);
    assert_int_equal(adapters_check(file, "/nowhere/m.gguf", &facts, &e), ERR_NOT_FOUND);
    free(file);
    free(model);
}

static void a_base_is_told_by_shape_and_weights(void **state)
{
    struct err e = {0};
    struct adapters_base a, b;
    (void)state;
    char *one = model_make("m.gguf", "small", 1.0f, EMBD);
    char *two = model_make("m2.gguf", "small, tuned", 1.5f, EMBD);
    char *three = model_make("m3.gguf", "small", 1.0f, 32);
    assert_int_equal(adapters_base_read(one, &a, &e), 0);
    assert_int_equal(adapters_base_match(&a, &a, &e), 0);
    assert_int_equal(adapters_base_read(two, &b, &e), 0);
    assert_int_equal(adapters_base_match(&a, &b, &e), ERR_MISMATCH);
    assert_non_null(strstr(e.message, "other weights"));
    assert_non_null(strstr(e.message, "small, tuned"));
    assert_int_equal(adapters_base_read(three, &b, &e), 0);
    assert_int_equal(adapters_base_match(&a, &b, &e), ERR_MISMATCH);
    assert_non_null(strstr(e.message, "n_embd 64"));
    assert_int_equal(adapters_base_read("fake:seed=2", &b, &e), 0);
    assert_int_equal(adapters_base_match(&a, &b, &e), ERR_MISMATCH);
    json_t *o = adapters_base_json(&a);
    assert_int_equal(adapters_base_parse(o, &b, &e), 0);
    assert_int_equal(adapters_base_match(&a, &b, &e), 0);
    assert_string_equal(a.fingerprint, b.fingerprint);
    json_decref(o);
    free(one);
    free(two);
    free(three);
}

static void names_are_plain(void **state)
{
    static const char *const bad[] = {"", ".hidden", "-x", "a/b", "..", "a b", "ft:a", "\xc3\xa4"};
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(adapters_name_check(bad[i], NULL), ERR_INVALID);
    char name[ADAPTERS_NAME_BYTES + 1];
    memset(name, 'a', sizeof name);
    name[ADAPTERS_NAME_BYTES] = '\0';
    assert_int_equal(adapters_name_check(name, NULL), ERR_INVALID);
    name[ADAPTERS_NAME_BYTES - 1] = '\0';
    assert_int_equal(adapters_name_check(name, NULL), 0);
    assert_int_equal(adapters_find("ft:../../etc", &(struct adapters_entry){0}, NULL), ERR_INVALID);
}

// What others wrote, or a crash left, is passed over.
static void what_others_left_is_passed_over(void **state)
{
    struct err e = {0};
    struct adapters_entry a;
    struct adapters_list l;
    struct stat st;
    (void)state;
    char *model = model_make("m.gguf", "small", 1.0f, EMBD);
    char *file = adapter_make("a.gguf", &(struct wrong){0});
    char *left = in_folder("adapters/.new-crash"), *part = in_folder("adapters/.new-crash/x");
    char *odd = in_folder("adapters/odd"), *manifest = in_folder("adapters/odd/manifest.json");
    assert_int_equal(os_mkdirs(left, &e), 0);
    assert_int_equal(os_file_write(part, "x", 1, 0600, &e), 0);
    assert_int_equal(os_mkdirs(odd, &e), 0);
    assert_int_equal(os_file_write(manifest, "{\"version\":1,", 13, 0600, &e), 0);
    assert_int_equal(publish("fine", file, model, false, &e), 0);
    assert_int_not_equal(stat(left, &st), 0);
    assert_int_equal(adapters_list_read(&l, &e), 0);
    for (size_t i = 0; i < l.n; i++)
        assert_string_not_equal(l.items[i].name, "odd");
    adapters_list_fini(&l);
    assert_int_equal(adapters_find("fine", &a, &e), 0);
    assert_int_equal(truncate(a.path, 100), 0);
    assert_int_equal(adapters_find("fine", &a, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.message, "adapter.gguf"));
    free(model);
    free(file);
    free(left);
    free(part);
    free(odd);
    free(manifest);
}

// A fake model has no file; its adapters are heads alone.
static void the_fake_engine_takes_heads_alone(void **state)
{
    struct err e = {0};
    struct buf b;
    (void)state;
    buf_init(&b, GGUF_MAKE_MAX);
    make_head(&b, 0, 3);
    make_key_text(&b, "general.architecture", "fake");
    make_key_text(&b, "general.type", "adapter");
    make_key_text(&b, "adapter.type", "lora");
    char *file = in_folder("fake.gguf"), *model = model_make("m.gguf", "small", 1.0f, EMBD);
    save(file, &b);
    assert_int_equal(publish("fake", file, "fake:seed=3", false, &e), 0);
    assert_int_equal(publish("fake2", file, model, false, &e), ERR_CORRUPT);
    buf_fini(&b);
    free(file);
    free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_published_is_found),
        cmocka_unit_test(files_that_do_not_fit_are_refused_by_name),
        cmocka_unit_test(halves_may_be_of_several_types),
        cmocka_unit_test(a_base_is_told_by_shape_and_weights),
        cmocka_unit_test(names_are_plain),
        cmocka_unit_test(what_others_left_is_passed_over),
        cmocka_unit_test(the_fake_engine_takes_heads_alone),
    };
    return cmocka_run_group_tests(tests, scratch_home_set_up, scratch_home_tear_down);
}
