// Models: names, heads of GGUF files, memory, choices in a repository, the store and its aliases.
#include "base/buf.h"
#include "base/json.h"
#include "models/hub.h"
#include "models/memory.h"
#include "models/pull.h"
#include "models/store.h"
#include "os/os.h"
#include "tests/gguf_make.h"
#include "tests/scratch.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define HEX64(c)                                                                                   \
    c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c c  \
        c c c c c c c c c c c c c c c c c

// ---- names ---------------------------------------------------------------------------------------

static void quants_are_read_from_file_names(void **state)
{
    static const struct {
        const char *file, *quant, *stem;
    } rows[] = {
        {"SmolLM2-135M-Instruct.Q4_0.gguf", "Q4_0", "SmolLM2-135M-Instruct"},
        {"Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M", "Llama-3.2-1B-Instruct"},
        {"gemma-3-4b-it-qat-q4_0.gguf", "Q4_0", "gemma-3-4b-it-qat"},
        {"Qwen3-0.6B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL", "Qwen3-0.6B"},
        {"BF16/Qwen3-235B-BF16-00001-of-00010.gguf", "BF16", "Qwen3-235B"},
        {"gpt-oss-20b-mxfp4.gguf", "MXFP4", "gpt-oss-20b"},
        {"model-IQ2_XXS.gguf", "IQ2_XXS", "model"},
        {"model_TQ1_0.GGUF", "TQ1_0", "model"},
        {"Q8_0.gguf", "Q8_0", ""},
        {"phi-3-q4.gguf", "", "phi-3-q4"},
        {"ggml-model-f16.gguf", "F16", "ggml-model"},
        {"plain.gguf", "", "plain"},
        {"x-Q4_K_M-extra.gguf", "", "x-Q4_K_M-extra"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char quant[MODELS_QUANT_BYTES];
        bool has = models_quant_parse(rows[i].file, quant);
        assert_string_equal(quant, rows[i].quant);
        assert_int_equal(has, rows[i].quant[0] != '\0');
        assert_int_equal(models_quant_stem(rows[i].file), strlen(rows[i].stem));
    }
}

static void splits_are_read_from_file_names(void **state)
{
    struct models_split s;
    (void)state;
    assert_true(models_split_parse("a/x-00002-of-00007.gguf", &s));
    assert_int_equal(s.no, 2);
    assert_int_equal(s.count, 7);
    assert_int_equal(s.stem, 3);
    assert_false(models_split_parse("x-00000-of-00007.gguf", &s));
    assert_false(models_split_parse("x-00008-of-00007.gguf", &s));
    assert_false(models_split_parse("x-0002-of-00007.gguf", &s));
    assert_false(models_split_parse("-00001-of-00002.gguf", &s));
    assert_false(models_split_parse("x-00001-of-00002", &s));
}

static void references_are_parsed(void **state)
{
    static const struct {
        const char *text, *user, *repo, *revision, *quant, *file;
    } rows[] = {
        {"user/repo", "user", "repo", "main", "", ""},
        {"user/Repo-GGUF:q4_k_m", "user", "Repo-GGUF", "main", "Q4_K_M", ""},
        {"user/repo@v1.0:Q8_0", "user", "repo", "v1.0", "Q8_0", ""},
        {"user/repo:sub/x.gguf", "user", "repo", "main", "", "sub/x.gguf"},
        {"hf.co/user/repo:Q8_0", "user", "repo", "main", "Q8_0", ""},
        {"https://huggingface.co/user/repo", "user", "repo", "main", "", ""},
        {"https://huggingface.co/user/repo/", "user", "repo", "main", "", ""},
        {"https://huggingface.co/user/repo/resolve/abc/d/x.gguf?download=true", "user", "repo",
         "abc", "", "d/x.gguf"},
        {"https://huggingface.co/user/repo/blob/main/x.gguf", "user", "repo", "main", "", "x.gguf"},
        {"repo", NULL, NULL, NULL, NULL, NULL},
        {"user/", NULL, NULL, NULL, NULL, NULL},
        {"/repo", NULL, NULL, NULL, NULL, NULL},
        {"user/repo/more", NULL, NULL, NULL, NULL, NULL},
        {"user/repo:", NULL, NULL, NULL, NULL, NULL},
        {"user/repo@:Q8_0", NULL, NULL, NULL, NULL, NULL},
        {"user/re po", NULL, NULL, NULL, NULL, NULL},
        {"../..", NULL, NULL, NULL, NULL, NULL},
        {"user/..", NULL, NULL, NULL, NULL, NULL},
        {"user/repo:../x.gguf", NULL, NULL, NULL, NULL, NULL},
        {"user/repo:a//x.gguf", NULL, NULL, NULL, NULL, NULL},
        {"https://example.org/x.gguf", NULL, NULL, NULL, NULL, NULL},
        {"", NULL, NULL, NULL, NULL, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct models_ref r;
        struct err e = {0};
        int rc = models_ref_parse(rows[i].text, &r, &e);
        assert_int_equal(rc, rows[i].user ? 0 : ERR_INVALID);
        if (rc != 0) {
            assert_non_null(strstr(e.message, "user/repo"));
            continue;
        }
        assert_string_equal(r.user, rows[i].user);
        assert_string_equal(r.repo, rows[i].repo);
        assert_string_equal(r.revision, rows[i].revision);
        assert_string_equal(r.quant, rows[i].quant);
        assert_string_equal(r.file, rows[i].file);
    }
}

static void names_match_by_their_parts(void **state)
{
    static const struct {
        const char *name;
        bool good, matches; // "bartowski/smollm2-135m-instruct:q4_0"
    } rows[] = {
        {"smollm2-135m-instruct", true, true},
        {"SmolLM2-135M-Instruct-GGUF", true, true},
        {"smollm2-135m-instruct:Q4_0", true, true},
        {"Bartowski/SmolLM2-135M-Instruct-GGUF:q4_0", true, true},
        {"smollm2-135m-instruct:q8_0", true, false},
        {"other/smollm2-135m-instruct", true, false},
        {"smollm2", true, false},
        {"a/b/c", false, false},
        {"..", false, false},
        {"-x", false, false},
        {"x:", false, false},
        {"x y", false, false},
        {"", false, false},
    };
    struct models_id id;
    (void)state;
    models_id_make(&id, "bartowski", "SmolLM2-135M-Instruct-GGUF", "Q4_0");
    assert_string_equal(id.repo, "smollm2-135m-instruct");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct models_id wanted;
        struct err e = {0};
        int rc = models_name_parse(rows[i].name, &wanted, &e);
        assert_int_equal(rc, rows[i].good ? 0 : ERR_INVALID);
        if (rc == 0)
            assert_int_equal(models_name_matches(&wanted, &id), rows[i].matches);
    }
    // What comes from a host or a file becomes a name that is safe as a folder's.
    models_id_make(&id, "host:8080", "../..--/x", "");
    assert_string_equal(id.owner, "host-8080");
    assert_null(strstr(id.repo, "--"));
    assert_null(strchr(id.repo, '/'));
    assert_true(id.repo[0] != '.');
}

// ---- heads ---------------------------------------------------------------------------------------

static int from_buf(void *ctx, uint64_t at, void *out, size_t n, struct err *e)
{
    const struct buf *b = ctx;
    (void)e;
    assert_true(at <= b->len && n <= b->len - at);
    memcpy(out, b->data + at, n);
    return 0;
}

static int parse(struct buf *b, struct models_gguf *g, struct err *e)
{
    struct models_gguf_source s = {from_buf, b, b->len};
    *e = (struct err){0};
    return models_gguf_parse(&s, g, e);
}

// The shape of SmolLM2-135M with two small tensors.
static void smol_make(struct buf *b, bool late_arch)
{
    static const struct make_tensor tensors[] = {{"token_embd.weight", 64, 2, 8, 0},
                                                 {"blk.0.ffn_up_exps.weight", 32, 3, 2, 160}};
    buf_init(b, GGUF_MAKE_MAX);
    make_head(b, 2, 10);
    if (!late_arch)
        make_key_text(b, "general.architecture", "llama");
    make_key_text(b, "general.name", "Smol\x1b[31m");
    make_key32(b, "general.file_type", 2);
    make_key32(b, "llama.block_count", 30);
    make_key32(b, "llama.context_length", 8192);
    make_key32(b, "llama.embedding_length", 576);
    make_key32(b, "llama.attention.head_count", 9);
    make_key32(b, "llama.attention.head_count_kv", 3);
    make_key32(b, "llama.feed_forward_length", 1536);
    make_key_text(b, "tokenizer.chat_template", "{{ tools }}");
    if (late_arch)
        make_key_text(b, "general.architecture", "llama");
    make_tensor(b, &tensors[0]);
    make_tensor(b, &tensors[1]);
    make_data(b, 160 + 54);
}

static void heads_tell_the_model(void **state)
{
    (void)state;
    for (int late = 0; late < 2; late++) {
        struct buf b;
        struct models_gguf g;
        struct err e;
        smol_make(&b, late);
        assert_int_equal(parse(&b, &g, &e), 0);
        assert_string_equal(g.arch, "llama");
        assert_string_equal(g.name, "Smol [31m"); // nothing that a terminal obeys
        assert_string_equal(models_gguf_quant(&g), "Q4_0");
        assert_int_equal(g.n_layer, 30);
        assert_int_equal(g.n_ctx, 8192);
        assert_int_equal(g.head_kv[29], 3);
        assert_string_equal(g.template_text, "{{ tools }}");
        // q8_0: 34 bytes for 32; q4_0: 18 for 32.
        assert_int_equal(g.weight_bytes, 2 * 68 + 3 * 18);
        assert_int_equal(g.embedding_bytes, 136);
        assert_int_equal(g.expert_bytes, 54);
        assert_int_equal(g.params, 128 + 96);
        assert_false(g.has_output);
        models_gguf_fini(&g);
        buf_fini(&b);
    }
}

static void cut_heads_are_refused(void **state)
{
    struct buf b;
    struct models_gguf g;
    struct err e;
    (void)state;
    smol_make(&b, false);
    size_t whole = b.len;
    for (b.len = 0; b.len < whole; b.len++) {
        assert_int_equal(parse(&b, &g, &e), ERR_CORRUPT);
        assert_true(e.message[0] != '\0');
    }
    b.len = whole - 1;
    parse(&b, &g, &e);
    assert_non_null(strstr(e.message, "cut short"));
    b.len = whole;
    memcpy(b.data, "GGML", 4);
    assert_int_equal(parse(&b, &g, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.message, "47 47 4d 4c"));
    buf_fini(&b);
}

static void array_key(struct buf *b, uint32_t type, uint64_t n)
{
    make_head(b, 0, 1);
    make_text(b, "x.y");
    make32(b, 9);
    make32(b, type);
    make64(b, n);
}

static void head_with(struct buf *b, int row)
{
    static const struct make_tensor huge = {"t", 1ull << 62, 4, 0, 0};
    static const struct make_tensor odd = {"t", 33, 1, 2, 0};
    static const struct make_tensor unknown = {"t", 32, 1, 4, 0};
    static const struct make_tensor far = {"t", 32, 1, 0, 1ull << 62};
    static const struct make_tensor crooked = {"t", 32, 1, 0, 1};
    static const struct make_tensor *const tensors[] = {&huge, &odd, &unknown, &far, &crooked};
    if (row < 5) {
        make_head(b, 1, 0);
        make_tensor(b, tensors[row]);
        make_data(b, 256);
    } else if (row == 5) {
        make_head(b, 1ull << 40, 0);
    } else if (row == 6) {
        make_head(b, 0, 1ull << 63);
    } else if (row == 7) {
        array_key(b, 4, 1ull << 61);
    } else if (row == 8) {
        array_key(b, 9, 1);
    } else if (row == 9) {
        array_key(b, 13, 1);
    } else if (row == 10) {
        make_head(b, 0, 1);
        make64(b, UINT64_MAX);
    } else if (row == 11) {
        make_head(b, 0, 2);
        make_key_text(b, "general.architecture", "x");
        make_key_text(b, "general.architecture", "x");
    } else if (row == 12) {
        make_head(b, 0, 2);
        make_key_text(b, "general.architecture", "x");
        make_key_text(b, "x.block_count", "many");
    } else if (row == 13) {
        make_head(b, 0, 2);
        make_key_text(b, "general.architecture", "x");
        make_key32(b, "x.block_count", 1025);
    } else if (row == 14) {
        make_head(b, 0, 1);
        make_key32(b, "general.alignment", 33);
    } else {
        buf_puts(b, "GGUF");
        make32(b, 4);
    }
    make_data(b, 64);
}

static void damaged_heads_are_refused(void **state)
{
    static const struct {
        int rc;
        const char *says;
    } rows[] = {
        {ERR_CORRUPT, "too large to be true"},
        {ERR_CORRUPT, "rows of 33"},
        {ERR_UNSUPPORTED, "type 4"},
        {ERR_CORRUPT, "cut short"},
        {ERR_CORRUPT, "multiple of 32"},
        {ERR_RANGE, "tensors"},
        {ERR_RANGE, "keys"},
        {ERR_CORRUPT, "cut short"},
        {ERR_CORRUPT, "array of arrays"},
        {ERR_CORRUPT, "value type 13"},
        {ERR_CORRUPT, "cut short"},
        {ERR_CORRUPT, "twice"},
        {ERR_CORRUPT, "whole number"},
        {ERR_RANGE, "1025 layers"},
        {ERR_CORRUPT, "alignment 33"},
        {ERR_UNSUPPORTED, "version 4"},
    };
    (void)state;
    for (int i = 0; i < (int)(sizeof rows / sizeof *rows); i++) {
        struct buf b;
        struct models_gguf g;
        struct err e;
        buf_init(&b, GGUF_MAKE_MAX);
        head_with(&b, i);
        int rc = parse(&b, &g, &e);
        if (rc != rows[i].rc || !strstr(e.message, rows[i].says))
            print_message("row %d: %d, %s\n", i, rc, e.message);
        assert_int_equal(rc, rows[i].rc);
        assert_non_null(strstr(e.message, rows[i].says));
        buf_fini(&b);
    }
}

// ---- memory --------------------------------------------------------------------------------------

// The cache of SmolLM2-135M at 8192 tokens: 30 layers, 3 heads of 64, K and V of 2 bytes. llama.cpp prints
// "KV buffer size = 180.00 MiB" for it, and 95.62 MiB as q8_0.
static void kv_is_what_the_engine_takes(void **state)
{
    struct buf b;
    struct models_gguf g;
    struct models_memory_options o;
    struct models_memory m;
    struct err e;
    (void)state;
    smol_make(&b, false);
    assert_int_equal(parse(&b, &g, &e), 0);
    models_memory_options_default(&o);
    assert_int_equal(models_memory_need(&g, &o, &m, &e), 0);
    assert_int_equal(m.n_ctx, 8192);
    assert_int_equal(m.kv_bytes, 180u << 20);
    assert_int_equal(models_memory_token_bytes(&g, 1, 1), 23040);
    o.type_k = o.type_v = "q8_0";
    assert_int_equal(models_memory_need(&g, &o, &m, &e), 0);
    assert_int_equal(m.kv_bytes, 100270080);
    o.n_ctx = 1000; // in steps of 256
    o.type_k = o.type_v = "f16";
    assert_int_equal(models_memory_need(&g, &o, &m, &e), 0);
    assert_int_equal(m.kv_bytes, 1024 * 23040);
    assert_int_equal(m.apart_bytes, 4 * 256 * 23040); // four of 250 tokens
    assert_int_equal(m.total_bytes,
                     m.weights_bytes + m.kv_bytes + m.apart_bytes + m.state_bytes + m.work_bytes);
    o.n_seq = 1;
    assert_int_equal(models_memory_need(&g, &o, &m, &e), 0);
    assert_int_equal(m.apart_bytes, 0);
    o.type_k = "q9_9";
    assert_int_equal(models_memory_need(&g, &o, &m, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "q9_9"));
    models_gguf_fini(&g);
    buf_fini(&b);
}

static void windows_states_and_latents_are_counted(void **state)
{
    struct models_gguf g = {
        .arch = "gemma3", .n_layer = 6, .n_embd = 64, .n_head = 1, .n_ctx = 1 << 17, .window = 512};
    struct models_memory_options o;
    struct models_memory m;
    struct err e;
    (void)state;
    models_memory_options_default(&o);
    o.n_ctx = 16384;
    assert_int_equal(models_memory_need(&g, &o, &m, &e), 0);
    // One layer sees all, five the windows of five sequences and one step: 3072 cells.
    assert_int_equal(m.kv_bytes, (16384 + 5 * 3072) * 2 * 64 * 2);
    assert_int_equal(m.apart_bytes, 0);

    snprintf(g.arch, sizeof g.arch, "deepseek2");
    g.window = 0;
    g.key_length = 576;
    g.value_length = 512;
    g.key_length_mla = 192;
    g.value_length_mla = 128;
    assert_int_equal(models_memory_need(&g, &o, &m, &e), 0);
    assert_int_equal(m.kv_bytes, 6ull * 16384 * 576 * 2);

    snprintf(g.arch, sizeof g.arch, "mamba");
    g.conv_kernel = 4;
    g.ssm_inner = 128;
    g.ssm_state = 16;
    assert_int_equal(models_memory_need(&g, &o, &m, &e), 0);
    assert_int_equal(m.kv_bytes, 0);
    assert_int_equal(m.state_bytes, 6 * 5 * (3 * 128 + 16 * 128) * 4);

    snprintf(g.arch, sizeof g.arch, "bert");
    g.conv_kernel = g.ssm_inner = g.ssm_state = 0;
    assert_int_equal(models_memory_need(&g, &o, &m, &e), 0);
    assert_int_equal(m.kv_bytes, 0);
}

static void too_little_memory_is_refused_with_a_way_out(void **state)
{
    struct models_memory m = {.n_ctx = 8192,
                              .weights_bytes = 4000000000,
                              .kv_bytes = 1000000000,
                              .total_bytes = 5000000000};
    struct err e = {0};
    (void)state;
    assert_int_equal(models_memory_check("m", &m, 0, &e), 0);
    assert_int_equal(models_memory_check("m", &m, 5000000000, &e), 0);
    assert_int_equal(models_memory_check("m", &m, 4500000000, &e), ERR_BUSY);
    assert_non_null(strstr(e.message, "5.0 GB"));
    assert_non_null(strstr(e.message, "4.5 GB free"));
    assert_non_null(strstr(e.message, "--ctx"));
    assert_int_equal(models_memory_check("m", &m, 3000000000, &e), ERR_BUSY);
    assert_non_null(strstr(e.message, "smaller quantisation"));
}

// ---- choices in a repository ---------------------------------------------------------------------

static const char listing[] =
    "{\"sha\": \"abc123\", \"siblings\": ["
    "{\"rfilename\": \"README.md\", \"size\": 10},"
    "{\"rfilename\": \"m-Q4_K_M.gguf\", \"size\": 5, \"lfs\": {\"sha256\": \"" HEX64(
        "a") "\", "
             "\"size\": 1000}},"
             "{\"rfilename\": \"m-Q8_0.gguf\", \"size\": 2000},"
             "{\"rfilename\": \"m-UD-Q2_K_XL.gguf\"},"
             "{\"rfilename\": \"F16/m-F16-00002-of-00002.gguf\", \"size\": 7},"
             "{\"rfilename\": \"F16/m-F16-00001-of-00002.gguf\", \"size\": 6},"
             "{\"rfilename\": \"two-Q6_K.gguf\", \"size\": 1}, {\"rfilename\": \"m-Q6_K.gguf\", "
             "\"size\": 1},"
             "{\"rfilename\": \"BF16/m-BF16-00001-of-00003.gguf\", \"size\": 6},"
             "{\"rfilename\": \"mmproj-m-f32.gguf\"}, {\"rfilename\": \"mmproj-m-F16.gguf\"},"
             "{\"rfilename\": \"m.imatrix.gguf\"},"
             "{\"rfilename\": \"../evil.gguf/..\"}, {\"rfilename\": \"x/.hidden.gguf\"}]}";

static void repositories_are_chosen_from(void **state)
{
    static const struct {
        const char *ref;
        int rc;
        const char *first; // or what the error says
        size_t n;
    } rows[] = {
        {"u/r", 0, "m-Q4_K_M.gguf", 1},
        {"u/r:q8_0", 0, "m-Q8_0.gguf", 1},
        {"u/r:Q2_K_XL", 0, "m-UD-Q2_K_XL.gguf", 1},
        {"u/r:F16", 0, "F16/m-F16-00001-of-00002.gguf", 2},
        {"u/r:m-Q6_K.gguf", 0, "m-Q6_K.gguf", 1},
        {"u/r:Q6_K", ERR_INVALID, "two-Q6_K.gguf", 0},
        {"u/r:Q5_0", ERR_NOT_FOUND, "there are: BF16, F16, Q4_K_M, Q6_K, Q8_0, UD-Q2_K_XL", 0},
        {"u/r:no.gguf", ERR_NOT_FOUND, "no no.gguf", 0},
        {"u/r:BF16", ERR_NOT_FOUND, "part 2 of 3", 0},
        {"u/r:F16/m-F16-00002-of-00002.gguf", ERR_INVALID, "first part", 0},
    };
    struct models_hub h;
    struct err e = {0};
    (void)state;
    assert_int_equal(models_hub_parse(listing, strlen(listing), &h, &e), 0);
    assert_string_equal(h.commit, "abc123");
    struct models_choice *c = mem_alloc(sizeof *c);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct models_ref ref;
        assert_int_equal(models_ref_parse(rows[i].ref, &ref, &e), 0);
        int rc = models_hub_choose(&h, &ref, false, c, &e);
        assert_int_equal(rc, rows[i].rc);
        if (rc != 0) {
            assert_non_null(strstr(e.message, rows[i].first));
            continue;
        }
        assert_int_equal(c->n, rows[i].n);
        assert_string_equal(h.files[c->files[0]].path, rows[i].first);
        assert_int_equal(c->projector, SIZE_MAX);
    }
    struct models_ref ref;
    assert_int_equal(models_ref_parse("u/r", &ref, &e), 0);
    assert_int_equal(models_hub_choose(&h, &ref, true, c, &e), 0);
    assert_string_equal(h.files[c->projector].path, "mmproj-m-F16.gguf");
    assert_int_equal(h.files[c->files[0]].bytes, 1000);
    assert_string_equal(h.files[c->files[0]].sha256, HEX64("a"));
    free(c);
    models_hub_fini(&h);
}

static void bad_listings_are_refused(void **state)
{
    static const char *const rows[] = {
        "",
        "[]",
        "{}",
        "{\"sha\": 1}",
        "{\"sha\": \"../x\"}",
        "{\"sha\": \"a\", \"siblings\": {}}",
        "{\"sha\": \"a\", \"siblings\": [{\"rfilename\": \"a.gguf\", \"size\": -1}]}",
        "{\"sha\": \"a\", \"siblings\": [{\"rfilename\": \"a.gguf\", \"size\": \"1\"}]}",
        ("{\"sha\": \"a\", \"siblings\": [{\"rfilename\": \"a.gguf\", \"lfs\": "
         "{\"sha256\": \"x\"}}]}"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct models_hub h;
        struct err e = {0};
        assert_int_not_equal(models_hub_parse(rows[i], strlen(rows[i]), &h, &e), 0);
        assert_non_null(strstr(e.message, "list of files"));
    }
}

static void addresses_are_escaped(void **state)
{
    struct models_ref ref = {.user = "u", .repo = "r"};
    struct models_hub_options o = {.endpoint = "https://h", .ref = &ref};
    char url[200], small[20];
    (void)state;
    assert_true(models_hub_url(&o, "c", "a b/x?#%.gguf", url, sizeof url));
    assert_string_equal(url, "https://h/u/r/resolve/c/a%20b/x%3F%23%25.gguf");
    assert_false(models_hub_url(&o, "c", "a b/x?#%.gguf", small, sizeof small));
}

// ---- the store -----------------------------------------------------------------------------------

static void entry_add(const char *owner, const char *repo, const char *quant, bool complete)
{
    struct models_entry m = {.complete = complete, .n_files = 1, .ref = "u/r:Q", .n_ctx = 42};
    struct err e = {0};
    m.files = mem_alloc(sizeof *m.files);
    snprintf(m.files[0].name, sizeof m.files[0].name, "x.gguf");
    m.files[0].bytes = complete ? 3 : MODELS_SIZE_UNKNOWN;
    models_id_make(&m.id, owner, repo, quant);
    assert_int_equal(models_entry_dir_make(&m, &e), 0);
    assert_int_equal(models_entry_save(&m, &e), 0);
    models_entry_fini(&m);
}

static void find_is(const char *name, int rc, const char *says)
{
    struct models_found f;
    struct err e = {0};
    int got = models_find(name, &f, &e);
    const char *text = got == 0 ? f.name[0] ? f.name : f.path : e.message;
    if (got != rc || !strstr(text, says))
        print_message("%s: %d, %s\n", name, got, text);
    assert_int_equal(got, rc);
    assert_non_null(strstr(text, says));
}

static void models_are_found_by_name(void **state)
{
    struct err e = {0};
    (void)state;
    find_is("small", ERR_NOT_FOUND, "none is pulled yet");
    entry_add("anna", "Small-GGUF", "Q4_0", true);
    entry_add("bert", "small", "Q8_0", true);
    entry_add("bert", "big", "Q8_0", true);
    entry_add("anna", "big", "Q8_0", true);
    entry_add("anna", "half", "Q8_0", false);
    find_is("small:q4_0", 0, "anna/small:q4_0");
    find_is("BERT/small", 0, "bert/small:q8_0");
    find_is("small", ERR_INVALID, "small:q4_0, small:q8_0");
    find_is("big:q8_0", ERR_INVALID, "anna/big:q8_0, bert/big:q8_0");
    find_is("bert/big", 0, "bert/big:q8_0");
    find_is("half", ERR_NOT_FOUND, "tandem pull u/r:Q");
    find_is("huge", ERR_NOT_FOUND, "there are: anna/big:q8_0, bert/big:q8_0");
    find_is("./x.gguf", 0, "./x.gguf");
    find_is("/no/such.gguf", 0, "/no/such.gguf");
    find_is("fake:seq=1", 0, "fake:seq=1");
    find_is("a/b/c", ERR_NOT_FOUND, "a/b/c");

    assert_int_equal(models_alias_set("quick", "small:q4_0", &e), 0);
    find_is("quick", 0, "anna/small:q4_0");
    assert_int_equal(models_alias_set("again", "quick", &e), 0);
    find_is("again", 0, "anna/small:q4_0");
    assert_int_equal(models_alias_set("a/b", "small:q4_0", &e), ERR_INVALID);
    assert_int_equal(models_alias_set("x.gguf", "small:q4_0", &e), ERR_INVALID);
    assert_int_equal(models_alias_set("fake", "small:q4_0", &e), ERR_INVALID);
    assert_int_equal(models_alias_set("y", "nothing", &e), ERR_NOT_FOUND);
    assert_int_equal(models_alias_set("y", "/no/such/file.gguf", &e), ERR_INVALID);
    assert_int_equal(models_alias_remove("nobody", &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "quick"));
    assert_int_equal(models_alias_remove("again", &e), 0);
    find_is("again", ERR_NOT_FOUND, "again");
}

static void removed_models_take_their_aliases_along(void **state)
{
    struct models_entry m;
    struct models_id id;
    struct err e = {0};
    size_t n = 0;
    (void)state;
    entry_add("anna", "gone", "Q4_0", true);
    assert_int_equal(models_alias_set("g", "gone", &e), 0);
    models_id_make(&id, "anna", "gone", "Q4_0");
    assert_int_equal(models_entry_load(&id, &m, &e), 0);
    assert_int_equal(m.n_ctx, 42);

    int fd = models_lock(&id, &e);
    assert_true(fd >= 0);
    assert_int_equal(models_entry_remove(&m, &e), ERR_BUSY);
    assert_non_null(strstr(e.message, "anna/gone:q4_0"));
    models_unlock(fd);

    assert_int_equal(models_entry_remove(&m, &e), 0);
    models_entry_fini(&m);
    assert_int_equal(models_entry_load(&id, &m, &e), ERR_NOT_FOUND);
    find_is("g", ERR_NOT_FOUND, "alias \"g\"");
    assert_int_equal(models_alias_drop(&id, &n, &e), 0);
    assert_int_equal(n, 1);
}

static void manifest_write(const char *dir, const char *text)
{
    struct err e = {0};
    char *path = mem_format("%s/manifest.json", dir);
    assert_int_equal(os_mkdirs(dir, &e), 0);
    assert_int_equal(os_file_write(path, text, strlen(text), 0600, &e), 0);
    free(path);
}

static void strange_manifests_are_left_out(void **state)
{
    static const char *const rows[] = {
        "",
        "[]",
        "{}",
        "{\"version\": 2}",
        "{\"version\": 1, \"owner\": \"a\", \"repo\": \"b\", \"quant\": \"c\", \"files\": []}",
        "{\"version\": 1, \"owner\": \"a\", \"repo\": \"b\", \"quant\": \"c\", \"files\": "
        "[{\"name\": "
        "\"../../x.gguf\"}]}",
        "{\"version\": 1, \"owner\": \"a\", \"repo\": \"z\", \"quant\": \"c\", \"files\": "
        "[{\"name\": "
        "\"x.gguf\"}]}",
    };
    (void)state;
    char *dir = mem_format("%s/models/a--b--c", scratch_home);
    struct models_list l;
    struct err e = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        manifest_write(dir, rows[i]);
        assert_int_equal(models_list_read(&l, &e), 0);
        assert_int_equal(l.n, 0);
        models_list_fini(&l);
    }
    manifest_write(dir, "{\"version\": 1, \"owner\": \"a\", \"repo\": \"b\", \"quant\": \"c\", "
                        "\"files\": [{\"name\": \"x.gguf\"}]}");
    assert_int_equal(models_list_read(&l, &e), 0);
    assert_int_equal(l.n, 1);
    models_list_fini(&l);
    free(dir);
}

static void files_are_added(void **state)
{
    (void)state;
    struct buf b;
    struct models_pull p;
    struct models_entry m;
    struct err e = {0};
    bool changed = false;
    char *path = mem_format("%s/Tiny-Q4_0.gguf", scratch_home);
    struct stat a, c;
    smol_make(&b, false);
    assert_int_equal(os_file_write(path, b.data, b.len, 0600, &e), 0);
    models_pull_default(&p);
    p.what = path;
    p.sha256 = HEX64("0");
    assert_int_equal(models_pull_run(&p, &m, &changed, &e), ERR_CORRUPT);
    find_is("tiny", ERR_NOT_FOUND, "none is pulled");
    p.sha256 = NULL;
    assert_int_equal(models_pull_run(&p, &m, &changed, &e), 0);
    assert_true(changed);
    assert_int_equal(m.n_ctx, 8192);
    find_is("tiny", 0, "local/tiny:q4_0");
    char *own = mem_format("%s/Tiny-Q4_0.gguf", m.dir);
    assert_int_equal(stat(own, &a), 0);
    assert_int_equal(stat(path, &c), 0);
    assert_int_equal(a.st_ino, c.st_ino); // one file system: linked, not copied
    models_entry_fini(&m);
    p.what = own;
    assert_int_equal(models_pull_run(&p, &m, &changed, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "already"));
    unlink(path);
    free(own);
    free(path);
    buf_fini(&b);
}

static void sums_are_right(void **state)
{
    struct models_sum s;
    char hex[MODELS_SUM_BYTES], text[MODELS_SIZE_TEXT];
    (void)state;
    models_sum_init(&s);
    models_sum_put(&s, "ab", 2);
    models_sum_put(&s, "c", 1);
    models_sum_take(&s, hex);
    // FIPS 180-2, the example "abc"; then the empty message.
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    models_sum_take(&s, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    models_sum_fini(&s);
    assert_true(models_sum_parse(HEX64("A"), hex));
    assert_string_equal(hex, HEX64("a"));
    assert_false(models_sum_parse("abc", hex));
    models_size_format(999999, text);
    assert_string_equal(text, "1.0 MB");
    models_size_format(4920000000, text);
    assert_string_equal(text, "4.9 GB");
    models_size_format(0, text);
    assert_string_equal(text, "0.0 kB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quants_are_read_from_file_names),
        cmocka_unit_test(splits_are_read_from_file_names),
        cmocka_unit_test(references_are_parsed),
        cmocka_unit_test(names_match_by_their_parts),
        cmocka_unit_test(heads_tell_the_model),
        cmocka_unit_test(cut_heads_are_refused),
        cmocka_unit_test(damaged_heads_are_refused),
        cmocka_unit_test(kv_is_what_the_engine_takes),
        cmocka_unit_test(windows_states_and_latents_are_counted),
        cmocka_unit_test(too_little_memory_is_refused_with_a_way_out),
        cmocka_unit_test(repositories_are_chosen_from),
        cmocka_unit_test(bad_listings_are_refused),
        cmocka_unit_test(addresses_are_escaped),
        SCRATCH_TEST(models_are_found_by_name),
        SCRATCH_TEST(removed_models_take_their_aliases_along),
        SCRATCH_TEST(strange_manifests_are_left_out),
        SCRATCH_TEST(files_are_added),
        cmocka_unit_test(sums_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
