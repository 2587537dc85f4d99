// Images through the real library for them, with a projector made to see three colours (projector_make.py):
// for a model whose rows see each other, one that reads them in order, and one with positions in two
// dimensions. What the model is shown it can say, so these tests are about sight and not about numbers
// alone; and the numbers are those of llama.cpp's own way to evaluate an image, bit for bit.
#include "llama_rig.h"

#include "base/json.h"
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <llama.h>
#include <mtmd-helper.h>
#include <mtmd.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIDE 64
#define BMP_HEAD 54
#define WORDS "Repeat the word."
#define ANSWER_TOKENS 8

static char dir[] = "/tmp/tandem-media-XXXXXX";

// ---- what the tests need -----------------------------------------------------------------------------

struct kind {
    const char *name;
    bool mrope; // with the model that has positions in two dimensions
};
static const struct kind kinds[] = {
    {"gemma3", false}, {"janus_pro", false}, {"qwen2vl_merger", true}};
#define KINDS (sizeof kinds / sizeof *kinds)

static const char *file_of(const char *name)
{
    static char path[2][PATH_MAX];
    static int which;
    which = !which;
    snprintf(path[which], PATH_MAX, "%s/%s.gguf", dir, name);
    return path[which];
}

static void make(const char *kind)
{
    char script[PATH_MAX];
    const char *source = getenv("TANDEM_SOURCE");
    const char *argv[] = {"/usr/bin/env", "python3", script, getenv("TANDEM_TEST_MODEL"),
                          file_of(kind),  kind,      NULL};
    struct os_spawn s = {.argv = argv, .stdout_fd = STDERR_FILENO, .stderr_fd = -1};
    struct err e = {0};
    pid_t pid;
    int status = 0;
    assert_non_null(source);
    snprintf(script, sizeof script, "%s/tests/projector_make.py", source);
    if (os_spawn(&s, &pid, &e) != 0)
        fail_msg("%s", e.message);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    assert_int_equal(status, 0);
}

static int files_make(void **state)
{
    (void)state;
    assert_non_null(getenv("TANDEM_TEST_MODEL"));
    assert_non_null(mkdtemp(dir));
    make("model");
    for (size_t i = 0; i < KINDS; i++)
        make(kinds[i].name);
    return 0;
}

static int files_remove(void **state)
{
    char path[PATH_MAX];
    DIR *d = opendir(dir);
    (void)state;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        unlink(path);
    }
    if (d)
        closedir(d);
    return rmdir(dir);
}

static struct engine *open_kind(const struct kind *k)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_RANGES);
    if (k->mrope)
        o.model = file_of("model");
    o.projector = file_of(k->name);
    struct engine *g = rig_open_with(&o);
    assert_true(g->limits.media);
    return g;
}

// A plain image of one colour, 0xRRGGBB.
struct bmp {
    uint8_t data[BMP_HEAD + SIDE * SIDE * 3];
};

static void bmp_make(struct bmp *b, uint32_t colour)
{
    memset(b->data, 0, BMP_HEAD);
    memcpy(b->data, "BM", 2);
    le_put32(b->data + 2, sizeof b->data);
    le_put32(b->data + 10, BMP_HEAD);
    le_put32(b->data + 14, 40);
    le_put32(b->data + 18, SIDE);
    le_put32(b->data + 22, SIDE);
    le_put16(b->data + 26, 1);
    le_put16(b->data + 28, 24);
    for (size_t i = BMP_HEAD; i < sizeof b->data; i += 3) {
        b->data[i] = (uint8_t)colour;
        b->data[i + 1] = (uint8_t)(colour >> 8);
        b->data[i + 2] = (uint8_t)(colour >> 16);
    }
}

// A chat of one message with n images before its words, as text.
static char *chat_text(struct engine *g, size_t n, const char *words)
{
    json_t *content = json_array(), *rendered = NULL;
    struct err e = {0};
    for (size_t i = 0; i < n; i++)
        json_array_append_new(content, json_pack("{s:s}", "type", "image"));
    json_array_append_new(content, json_pack("{s:s,s:s}", "type", "text", "text", words));
    json_t *chat = json_pack("{s:[{s:s,s:o}]}", "messages", "role", "user", "content", content);
    if (g->ops->render(g, chat, &rendered, &e) != 0)
        fail_msg("%s", e.message);
    char *prompt = mem_strdup(json_string_value(json_object_get(rendered, "prompt")));
    json_decref(rendered);
    json_decref(chat);
    return prompt;
}

static struct engine_prompt prompt_of(struct engine *g, const uint32_t *colours, size_t n)
{
    struct bmp *bmps = mem_alloc(n * sizeof *bmps);
    struct engine_image *images = mem_alloc(n * sizeof *images);
    struct engine_prompt prompt;
    struct err e = {0};
    char *text = chat_text(g, n, WORDS);
    for (size_t i = 0; i < n; i++) {
        bmp_make(&bmps[i], colours[i]);
        images[i] = (struct engine_image){bmps[i].data, sizeof bmps[i].data};
    }
    struct engine_source source = {text, images, n};
    if (g->ops->media_render(g, &source, &prompt, &e) != 0)
        fail_msg("%s", e.message);
    assert_int_equal(prompt.n_pieces, n);
    free(text);
    free(images);
    free(bmps);
    return prompt;
}

// Computes the tokens [p0, p1) of the prompt, its images whole; the last row wants logits. Returns its row.
static size_t compute(struct engine *g, uint32_t seq, const struct engine_prompt *p, uint32_t p0,
                      uint32_t p1)
{
    struct engine_row *rows = mem_alloc((p1 - p0) * sizeof *rows);
    struct err e = {0};
    size_t n = 0, piece = 0;
    for (uint32_t at = p0; at < p1; at++) {
        while (piece < p->n_pieces && p->pieces[piece].at < at)
            piece++;
        if (piece < p->n_pieces && p->pieces[piece].at == at) {
            const struct engine_piece *x = &p->pieces[piece];
            struct engine_media_rows which = {seq, at, 0, x->rows};
            if ((n > 0 && g->ops->step(g, rows, n, &e) != 0) ||
                g->ops->media_encode(g, x->media, &e) != 0 ||
                g->ops->media_step(g, x->media, &which, &e) != 0)
                fail_msg("%s", e.message);
            n = 0;
            at += x->rows - 1;
            continue;
        }
        rows[n++] = (struct engine_row){p->tokens[at], at, seq, at + 1 == p1};
    }
    if (n > 0 && g->ops->step(g, rows, n, &e) != 0)
        fail_msg("%s", e.message);
    free(rows);
    return n - 1;
}

static float *logits_of(struct engine *g, size_t row)
{
    size_t bytes = g->identity.n_vocab * sizeof(float);
    float *copy = mem_alloc(bytes);
    memcpy(copy, g->ops->logits(g, row), bytes);
    return copy;
}

static float *logits_after(struct engine *g, const uint32_t *colours, size_t n)
{
    struct err e = {0};
    struct engine_prompt p = prompt_of(g, colours, n);
    float *logits = logits_of(g, compute(g, 0, &p, 0, (uint32_t)p.n_tokens));
    assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, &e), 0);
    engine_prompt_fini(g, &p);
    return logits;
}

// ---- sight -------------------------------------------------------------------------------------------

static void answer_greedy(struct engine *g, const struct engine_prompt *p, size_t row, char *out,
                          size_t cap)
{
    struct engine_sampling s;
    struct engine_sampler *sampler = NULL;
    struct err e = {0};
    size_t len = 0;
    uint32_t pos = (uint32_t)p->n_tokens;
    engine_sampling_default(&s);
    s.temperature = 0;
    assert_int_equal(g->ops->sampler_new(g, &s, &sampler, &e), 0);
    for (int i = 0; i < ANSWER_TOKENS; i++, row = 0) {
        struct engine_row next = {g->ops->sample(g, sampler, row), pos++, 0, true};
        if (g->ops->is_end(g, next.token))
            break;
        len += g->ops->piece(g, next.token, out + len, cap - len - 1);
        assert_int_equal(g->ops->step(g, &next, 1, &e), 0);
    }
    out[len] = 0;
    g->ops->sampler_free(g, sampler);
}

// Asked to repeat the word, where there is none but an image, the model names what it sees.
static void test_sight(void **state)
{
    static const struct {
        uint32_t colour;
        const char *word;
    } rows[] = {{0xff0000, "red"}, {0x00ff00, "green"}, {0x0000ff, "blue"}};
    char answer[512];
    (void)state;
    for (size_t k = 0; k < KINDS; k += 2) { // rows in order mean less to it
        struct engine *g = open_kind(&kinds[k]);
        for (size_t i = 0; i < 3; i++) {
            struct err e = {0};
            struct engine_prompt p = prompt_of(g, &rows[i].colour, 1);
            size_t row = compute(g, 0, &p, 0, (uint32_t)p.n_tokens);
            answer_greedy(g, &p, row, answer, sizeof answer);
            if (!strstr(answer, rows[i].word))
                fail_msg("%s: shown %s, it says: %s", kinds[k].name, rows[i].word, answer);
            assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, &e), 0);
            engine_prompt_fini(g, &p);
        }
        g->ops->free(g);
    }
}

// ---- the numbers -------------------------------------------------------------------------------------

// The logits behind a prompt with one image, from llama.cpp's library alone.
static float *logits_library(const struct kind *k, const char *text, uint32_t colour)
{
    struct llama_model *model = llama_model_load_from_file(
        k->mrope ? file_of("model") : getenv("TANDEM_TEST_MODEL"), llama_model_default_params());
    struct llama_context_params cp = llama_context_default_params();
    struct mtmd_context_params mp = mtmd_context_params_default();
    llama_pos past = 0;
    struct bmp bmp;
    cp.n_ctx = RIG_CTX;
    cp.n_batch = cp.n_ubatch = 512;
    cp.n_seq_max = 3;
    cp.n_threads = cp.n_threads_batch = mp.n_threads = 1;
    cp.kv_unified = true;
    mp.print_timings = false;
    struct llama_context *ctx = llama_init_from_model(model, cp);
    struct mtmd_context *media = mtmd_init_from_file(file_of(k->name), model, mp);
    bmp_make(&bmp, colour);
    struct mtmd_helper_bitmap_wrapper b = mtmd_helper_bitmap_init_from_buf(
        media, bmp.data, sizeof bmp.data, false, mtmd_helper_init_opt_default());
    const struct mtmd_bitmap *bitmaps[] = {b.bitmap};
    struct mtmd_input_text input = {text, strlen(text), true, true};
    struct mtmd_input_chunks *chunks = mtmd_input_chunks_init();
    assert_int_equal(mtmd_tokenize(media, chunks, &input, bitmaps, 1), 0);
    assert_int_equal(mtmd_helper_eval_chunks(media, ctx, chunks, 0, 0, 512, true, &past), 0);
    size_t bytes = (size_t)llama_vocab_n_tokens(llama_model_get_vocab(model)) * sizeof(float);
    float *logits = mem_alloc(bytes);
    memcpy(logits, llama_get_logits_ith(ctx, -1), bytes);
    mtmd_input_chunks_free(chunks);
    mtmd_bitmap_free(b.bitmap);
    mtmd_free(media);
    llama_free(ctx);
    llama_model_free(model);
    return logits;
}

// The text with the library's own marker in place of the engine's: "<image-...>".
static char *text_marked(struct engine *g)
{
    char *text = chat_text(g, 1, WORDS), *at = strstr(text, "<image-"), *end = strchr(at, '>');
    char *out = mem_alloc(strlen(text) + 64);
    snprintf(out, strlen(text) + 64, "%.*s%s%s", (int)(at - text), text, mtmd_default_marker(),
             end + 1);
    free(text);
    return out;
}

static void test_exact(void **state)
{
    const uint32_t colour = 0x40c0ff;
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct engine *g = open_kind(&kinds[k]);
        char *text = text_marked(g);
        float *ours = logits_after(g, &colour, 1);
        float *theirs = logits_library(&kinds[k], text, colour);
        rig_same(g, ours, theirs);
        free(theirs);
        free(text);
        g->ops->free(g);
    }
}

static bool equal(const struct engine *g, float *a, float *b)
{
    bool same = memcmp(a, b, g->identity.n_vocab * sizeof *a) == 0;
    free(a);
    free(b);
    return same;
}

static void test_same_and_other(void **state)
{
    static const uint32_t red = 0xff0000, almost = 0xfe0000, two[] = {0xff0000, 0x00ff00},
                          turned[] = {0x00ff00, 0xff0000};
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct engine *g = open_kind(&kinds[k]);
        assert_true(equal(g, logits_after(g, &red, 1), logits_after(g, &red, 1)));
        assert_false(equal(g, logits_after(g, &red, 1), logits_after(g, &two[1], 1)));
        assert_false(equal(g, logits_after(g, two, 2), logits_after(g, turned, 2)));
        // A norm takes a shade away from the first kind; it is not deaf to it.
        if (k > 0)
            assert_false(equal(g, logits_after(g, &red, 1), logits_after(g, &almost, 1)));
        g->ops->free(g);
    }
}

// Without an image nothing is different from an engine without a projector.
static void test_text_alone(void **state)
{
    struct engine *with = open_kind(&kinds[0]), *without = rig_open(ENGINE_HANDOFF_RANGES);
    (void)state;
    rig_compute(with, 0, 0, 100);
    rig_compute(without, 0, 0, 100);
    float *want = rig_logits(without, 0, 100);
    rig_same(with, rig_logits(with, 0, 100), want);
    free(want);
    assert_false(without->limits.media);
    with->ops->free(with);
    without->ops->free(without);
}

// The hash of a piece's layout tells places apart, and is the same for the same place.
static void test_layout(void **state)
{
    static const uint32_t two[] = {0xff0000, 0xff0000};
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct engine *g = open_kind(&kinds[k]);
        struct engine_prompt a = prompt_of(g, two, 2), b = prompt_of(g, two, 1);
        assert_true(a.pieces[0].layout == a.pieces[1].layout);
        assert_true(a.pieces[0].layout == b.pieces[0].layout);
        assert_int_equal(a.pieces[0].image, 0);
        assert_int_equal(a.pieces[1].image, 1);
        for (uint32_t i = 0; i < a.pieces[1].rows; i++)
            assert_int_equal(a.tokens[a.pieces[1].at + i], ENGINE_TOKEN_MEDIA);
        engine_prompt_fini(g, &a);
        engine_prompt_fini(g, &b);
        g->ops->free(g);
    }
}

// ---- sequences ---------------------------------------------------------------------------------------

// Cut back to behind the image, forked there, and computed again: the logits are the same ones. In two
// dimensions that needs the positions behind it to be counted right. One sequence goes before the other is
// computed: cells in another order round differently.
static void test_cut_and_fork(void **state)
{
    static const uint32_t colours[] = {0xff0000, 0x0000ff};
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct engine *g = open_kind(&kinds[k]);
        struct engine_prompt p = prompt_of(g, colours, 2);
        uint32_t n = (uint32_t)p.n_tokens, at = p.pieces[1].at + p.pieces[1].rows;
        struct err e = {0};
        compute(g, 0, &p, 0, at);
        float *want = logits_of(g, compute(g, 0, &p, at, n));
        assert_int_equal(g->ops->remove(g, 0, at, UINT32_MAX, &e), 0);
        rig_same(g, logits_of(g, compute(g, 0, &p, at, n)), want);
        assert_int_equal(g->ops->fork(g, 0, 1, at, &e), 0);
        assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, &e), 0);
        rig_same(g, logits_of(g, compute(g, 1, &p, at, n)), want);
        // Back to before the second image, which is then computed again.
        assert_int_equal(g->ops->remove(g, 1, p.pieces[1].at, UINT32_MAX, &e), 0);
        compute(g, 1, &p, p.pieces[1].at, at);
        rig_same(g, logits_of(g, compute(g, 1, &p, at, n)), want);
        int rc = g->ops->remove(g, 1, p.pieces[0].at + 3, UINT32_MAX, &e);
        assert_int_equal(rc, kinds[k].mrope ? ERR_UNSUPPORTED : 0);
        free(want);
        engine_prompt_fini(g, &p);
        g->ops->free(g);
    }
}

// A sequence with images moves to the cache of its own and back.
static void test_settle(void **state)
{
    static const uint32_t colour = 0x00ff00;
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct engine *g = open_kind(&kinds[k]);
        struct engine_prompt p = prompt_of(g, &colour, 1);
        uint32_t n = (uint32_t)p.n_tokens;
        struct err e = {0};
        float *want = logits_of(g, compute(g, 0, &p, 0, n));
        assert_int_equal(g->ops->remove(g, 0, 0, UINT32_MAX, &e), 0);
        compute(g, 1, &p, 0, p.pieces[0].at + p.pieces[0].rows);
        assert_int_equal(g->ops->settle(g, 1, n + 8, &e), 0);
        assert_int_equal(g->ops->rejoin(g, 1, &e), 0);
        rig_same(g, logits_of(g, compute(g, 1, &p, p.pieces[0].at + p.pieces[0].rows, n)), want);
        free(want);
        engine_prompt_fini(g, &p);
        g->ops->free(g);
    }
}

// Rows that are read in order may come in parts.
static void test_parts(void **state)
{
    static const uint32_t colour = 0x0000ff;
    struct engine *g = open_kind(&kinds[1]);
    struct engine_prompt p = prompt_of(g, &colour, 1);
    const struct engine_piece *x = &p.pieces[0];
    struct err e = {0};
    (void)state;
    assert_false(x->whole);
    compute(g, 0, &p, 0, x->at);
    assert_int_equal(g->ops->media_encode(g, x->media, &e), 0);
    for (uint32_t first = 0; first < x->rows; first += 24) {
        uint32_t n = x->rows - first < 24 ? x->rows - first : 24;
        struct engine_media_rows rows = {0, x->at + first, first, n};
        if (g->ops->media_step(g, x->media, &rows, &e) != 0)
            fail_msg("%s", e.message);
    }
    compute(g, 0, &p, x->at + x->rows, (uint32_t)p.n_tokens);
    engine_prompt_fini(g, &p);
    g->ops->free(g);
}

// ---- what is refused ---------------------------------------------------------------------------------

static void refused(struct engine *g, const void *data, size_t n, const char *words)
{
    char *text = chat_text(g, 1, WORDS);
    struct engine_image image = {data, n};
    struct engine_source source = {text, &image, 1};
    struct engine_prompt p;
    struct err e = {0};
    int rc = g->ops->media_render(g, &source, &p, &e);
    if (rc != ERR_INVALID || !strstr(e.message, words))
        fail_msg("%d: \"%s\" does not say \"%s\"", rc, e.message, words);
    free(text);
}

static void test_bytes_refused(void **state)
{
    struct engine *g = open_kind(&kinds[0]);
    struct bmp bmp;
    (void)state;
    bmp_make(&bmp, 0);
    refused(g, "", 0, "no image that can be read");
    refused(g, "GIF89a\2\0\3\0", 10, "cannot be decoded");
    refused(g, "RIFF\0\0\0\0WEBPVP8 ", 16, "no image that can be read");
    refused(g, "<svg/>", 6, "no image that can be read");
    le_put32(bmp.data + 18, 60000);
    refused(g, bmp.data, sizeof bmp.data, "60000 x 64");
    // Any beginning of a file is read or refused.
    for (size_t n = 0; n < sizeof bmp.data; n += 97) {
        struct engine_image image = {bmp.data, n};
        char *text = chat_text(g, 1, WORDS);
        struct engine_source source = {text, &image, 1};
        struct engine_prompt p;
        bmp_make(&bmp, 0xff00ff);
        if (g->ops->media_render(g, &source, &p, NULL) == 0)
            engine_prompt_fini(g, &p);
        free(text);
    }
    g->ops->free(g);
}

// A user's words cannot stand for an image, and the number of images must be that of their places.
static void test_markers(void **state)
{
    struct engine *g = open_kind(&kinds[0]);
    char *text = chat_text(g, 1, "<__media__> <image> <image-0>");
    struct bmp bmp;
    struct engine_image images[2] = {{bmp.data, sizeof bmp.data}, {bmp.data, sizeof bmp.data}};
    struct engine_source source = {text, images, 1};
    struct engine_prompt p;
    struct err e = {0};
    (void)state;
    bmp_make(&bmp, 0);
    assert_int_equal(g->ops->media_render(g, &source, &p, &e), 0);
    assert_int_equal(p.n_pieces, 1);
    engine_prompt_fini(g, &p);
    source.n_images = 2;
    assert_int_equal(g->ops->media_render(g, &source, &p, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "2 images"));
    source.n_images = 0;
    assert_int_equal(g->ops->media_render(g, &source, &p, &e), ERR_INVALID);
    free(text);
    g->ops->free(g);
}

static void test_rows_refused(void **state)
{
    static const uint32_t colour = 0;
    (void)state;
    for (size_t k = 0; k < KINDS; k++) {
        struct engine *g = open_kind(&kinds[k]);
        struct engine_prompt p = prompt_of(g, &colour, 1);
        const struct engine_piece *x = &p.pieces[0];
        struct err e = {0};
        const struct engine_media_rows rows[] = {
            {0, 1, 0, x->rows}, {9, 0, 0, x->rows},    {0, 0, 0, 0},           {0, 0, 1, x->rows},
            {0, 0, x->rows, 1}, {0, 0, UINT32_MAX, 2}, {0, 0, 0, x->rows + 1},
        };
        struct engine_media_rows all = {0, 0, 0, x->rows};
        assert_int_equal(g->ops->media_step(g, x->media, &all, &e), ERR_INVALID);
        assert_non_null(strstr(e.message, "not encoded"));
        assert_int_equal(g->ops->media_encode(g, x->media, &e), 0);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            assert_int_equal(g->ops->media_step(g, x->media, &rows[i], &e), ERR_INVALID);
        g->ops->interrupt(g, true);
        assert_int_equal(g->ops->media_step(g, x->media, &all, &e), ERR_CANCELLED);
        g->ops->interrupt(g, false);
        assert_int_equal(g->ops->media_step(g, x->media, &all, &e), 0);
        engine_prompt_fini(g, &p);
        g->ops->free(g);
    }
}

static void projector_refused(const char *path, const char *words)
{
    struct engine_options o = rig_options(ENGINE_HANDOFF_RANGES);
    struct engine *g = NULL;
    struct err e = {0};
    o.projector = path;
    assert_int_not_equal(engine_open(&o, &g, &e), 0);
    if (!strstr(e.message, words))
        fail_msg("\"%s\" does not say \"%s\"", e.message, words);
}

static void test_projectors_refused(void **state)
{
    char cut[PATH_MAX];
    (void)state;
    projector_refused("/nowhere/mmproj.gguf", "/nowhere/mmproj.gguf");
    projector_refused(getenv("TANDEM_TEST_MODEL"), "not a projector");
    snprintf(cut, sizeof cut, "%s", file_of("gemma3"));
    assert_int_equal(truncate(cut, 100000), 0);
    projector_refused(cut, cut);
    make("gemma3");
}

// Without a projector the calls say what is missing.
static void test_without(void **state)
{
    struct engine *g = rig_open(ENGINE_HANDOFF_RANGES);
    struct engine_source source = {"x", NULL, 0};
    struct engine_prompt p;
    struct err e = {0};
    (void)state;
    assert_int_equal(g->ops->media_render(g, &source, &p, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "--mmproj"));
    g->ops->free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sight),          cmocka_unit_test(test_exact),
        cmocka_unit_test(test_same_and_other), cmocka_unit_test(test_text_alone),
        cmocka_unit_test(test_layout),         cmocka_unit_test(test_cut_and_fork),
        cmocka_unit_test(test_settle),         cmocka_unit_test(test_parts),
        cmocka_unit_test(test_bytes_refused),  cmocka_unit_test(test_markers),
        cmocka_unit_test(test_rows_refused),   cmocka_unit_test(test_projectors_refused),
        cmocka_unit_test(test_without),
    };
    return cmocka_run_group_tests(tests, files_make, files_remove);
}
