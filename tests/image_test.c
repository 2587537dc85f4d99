// Pictures without a worker: requests and their limits, LoRAs in prompts, model files, files of pictures, frames,
// and pictures in terminals.
#include "base/base64.h"
#include "base/json.h"
#include "cli/image.h"
#include "image/frame.h"
#include "image/yield.h"
#include "os/os.h"
#include "tests/gguf_make.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <png.h>
#include <cmocka.h>

#define N(a) (sizeof(a) / sizeof *(a))

static const struct image_model square = {
    .layout = "minit2i", .multiple = 8, .square = true, .side = 64, .steps = 8, .cfg = 3};
static const struct image_model plain = {
    .layout = "sd1", .multiple = 64, .side = 512, .steps = 20, .cfg = 7};

// ---- requests ------------------------------------------------------------------------------------

static void sizes_are_digits_within_limits(void **state)
{
    static const char *const bad[] = {
        "",
        "64",
        "64x",
        "x64",
        "64x64x",
        "64X64",
        " 64x64",
        "64x64 ",
        "-64x64",
        "+64x64",
        "0x64",
        "15x64",
        "64x4097",
        "99999x64",
        "64x100000",
        "4294967360x64",
        "64.0x64",
        "0x40x64",
        "auto",
        "../../etc",
        "64x64\n",
        "6e1x64",
        "18446744073709551680x64",
    };
    uint32_t w = 0, h = 0;
    struct err e = {0};
    (void)state;
    assert_int_equal(image_size_parse("64x128", &w, &h, &e), 0);
    assert_int_equal(w, 64);
    assert_int_equal(h, 128);
    assert_int_equal(image_size_parse("16x4096", &w, &h, &e), 0);
    for (size_t i = 0; i < N(bad); i++) {
        e = (struct err){0};
        assert_int_equal(image_size_parse(bad[i], &w, &h, &e), ERR_INVALID);
        assert_non_null(strstr(e.message, "WIDTHxHEIGHT"));
    }
}

static void what_is_open_is_filled_in(void **state)
{
    struct image_request r;
    struct err e = {0};
    (void)state;
    image_request_default(&r);
    r.prompt = "a red circle";
    assert_int_equal(image_request_check(&r, &square, &e), 0);
    assert_int_equal(r.width, 64);
    assert_int_equal(r.height, 64);
    assert_int_equal(r.steps, 8);
    assert_true(r.cfg == 3);
    assert_int_equal(r.count, 1);
    assert_int_equal(r.seed, IMAGE_SEED_NONE);
}

struct change {
    const char *what, *part; // of the message
    void (*make)(struct image_request *r);
    const struct image_model *model;
};

static char long_prompt[(1 << 20) + 1];
static uint8_t pixels[64 * 64 * 3];
static const struct image_picture small = {32, 32, pixels}, right = {64, 64, pixels};

#define CHANGE(name, statement)                                                                    \
    static void name(struct image_request *r)                                                      \
    {                                                                                              \
        statement;                                                                                 \
    }
CHANGE(no_prompt, r->prompt = "")
CHANGE(huge_prompt, r->prompt = long_prompt)
CHANGE(huge_negative, r->negative = long_prompt)
CHANGE(control_character, r->prompt = "a\001b")
CHANGE(delete_character, r->prompt = "a\177b")
CHANGE(escape_sequence, r->prompt = "a\033[2Jb")
CHANGE(not_utf8, r->prompt = "a\xff\xfe")
CHANGE(not_square, (r->width = 64, r->height = 32))
CHANGE(not_multiple, (r->width = 60, r->height = 60))
CHANGE(one_side, r->width = 64)
CHANGE(too_small, (r->width = 8, r->height = 8))
CHANGE(too_wide, (r->width = 4104, r->height = 64))
CHANGE(too_many_pixels, (r->width = 4096, r->height = 4096))
CHANGE(no_pictures, r->count = 0)
CHANGE(many_pictures, r->count = 11)
CHANGE(many_steps, r->steps = 151)
CHANGE(largest_steps, r->steps = UINT32_MAX)
CHANGE(large_cfg, r->cfg = 51)
CHANGE(cfg_nan, r->cfg = 0.0 / 0.0)
CHANGE(cfg_infinite, r->cfg = 1.0 / 0.0)
CHANGE(seed_negative, r->seed = -2)
CHANGE(seed_at_end, r->seed = INT64_MAX)
CHANGE(many_previews, r->previews = 4)
CHANGE(no_sampler, r->sampler = "../../bin/sh")
CHANGE(no_scheduler, r->scheduler = "")
CHANGE(strength_above, r->strength = 1.5)
CHANGE(strength_nan, r->strength = 0.0 / 0.0)
CHANGE(mask_alone, r->mask = &right)
CHANGE(other_initial, (r->initial = &small, r->width = r->height = 64))
CHANGE(other_mask, (r->initial = &right, r->mask = &small))

static const struct change changes[] = {
    {"an empty prompt", "prompt is empty", no_prompt, &square},
    {"a prompt of 1 MB", "1048576 bytes", huge_prompt, &square},
    {"a negative prompt of 1 MB", "negative_prompt has 1048576", huge_negative, &square},
    {"a control character", "0x01", control_character, &square},
    {"a delete", "0x7f", delete_character, &square},
    {"an escape", "0x1b", escape_sequence, &square},
    {"bytes that are no text", "UTF-8", not_utf8, &square},
    {"a size that is not square", "64x32 is not square", not_square, &square},
    {"a size between the multiples", "multiples of 8", not_multiple, &square},
    {"a size between the multiples of 64", "multiples of 64", not_multiple, &plain},
    {"one side alone", "64x0", one_side, &square},
    {"a small size", "8x8", too_small, &square},
    {"a wide size", "4104x64", too_wide, &plain},
    {"many pixels", "16777216 pixels", too_many_pixels, &plain},
    {"no picture", "n 0", no_pictures, &square},
    {"eleven pictures", "n 11", many_pictures, &square},
    {"151 steps", "steps 151", many_steps, &square},
    {"all the steps there are", "steps 4294967295", largest_steps, &square},
    {"a cfg of 51", "cfg 51", large_cfg, &square},
    {"a cfg that is no number", "cfg", cfg_nan, &square},
    {"an infinite cfg", "cfg inf", cfg_infinite, &square},
    {"a negative seed", "seed -2", seed_negative, &square},
    {"a seed without room for a second picture", "seed 9223372036854775807", seed_at_end, &square},
    {"four previews", "4 unfinished", many_previews, &square},
    {"a sampler like a path", "../../bin/sh", no_sampler, &square},
    {"a scheduler without a name", "scheduler \"\"", no_scheduler, &square},
    {"a strength of 1.5", "strength 1.5", strength_above, &square},
    {"a strength that is no number", "strength", strength_nan, &square},
    {"a mask alone", "mask without", mask_alone, &square},
    {"a picture of another size", "32x32", other_initial, &square},
    {"a mask of another size", "mask is 32x32", other_mask, &square},
};

static void what_is_not_possible_is_refused_with_its_value(void **state)
{
    (void)state;
    memset(long_prompt, 'a', sizeof long_prompt - 1);
    for (size_t i = 0; i < N(changes); i++) {
        struct image_request r;
        struct err e = {0};
        image_request_default(&r);
        r.prompt = "a red circle";
        changes[i].make(&r);
        if (image_request_check(&r, changes[i].model, &e) != ERR_INVALID)
            fail_msg("%s was accepted", changes[i].what);
        if (strstr(e.message, changes[i].part) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", changes[i].what, e.message, changes[i].part);
    }
}

static void loras_are_taken_out_of_prompts(void **state)
{
    struct image_request r;
    struct err e = {0};
    char *out = NULL;
    (void)state;
    image_request_default(&r);
    assert_int_equal(image_prompt_loras("a<lora:ink:0.5> cat <lora:my.style-2>!", &r, &out, &e), 0);
    assert_string_equal(out, "a cat !");
    assert_int_equal(r.n_loras, 2);
    assert_string_equal(r.loras[0].name, "ink");
    assert_true(r.loras[0].weight == 0.5);
    assert_string_equal(r.loras[1].name, "my.style-2");
    assert_true(r.loras[1].weight == 1);
    free(out);
    image_request_default(&r);
    assert_int_equal(image_prompt_loras("no end <lora:ink", &r, &out, &e), 0);
    assert_string_equal(out, "no end <lora:ink");
    assert_int_equal(r.n_loras, 0);
    free(out);
}

static void loras_with_paths_or_odd_weights_are_refused(void **state)
{
    static const char *const bad[] = {
        "<lora:../x:1>",
        "<lora:/etc/passwd:1>",
        "<lora:a/b:1>",
        "<lora:.hidden:1>",
        "<lora::1>",
        "<lora:a:5>",
        "<lora:a:nan>",
        "<lora:a:1x>",
        "<lora:a:>",
        "<lora:a b:1>",
        "<lo<lora:a:1>ra:../x:1>",
        "<lora:a:inf>",
        "<lora:a><lora:a><lora:a><lora:a><lora:a><lora:a><lora:a><lora:a><lora:a>",
    };
    (void)state;
    for (size_t i = 0; i < N(bad); i++) {
        struct image_request r;
        struct err e = {0};
        char *out = NULL;
        image_request_default(&r);
        if (image_prompt_loras(bad[i], &r, &out, &e) != ERR_INVALID)
            fail_msg("%s was accepted", bad[i]);
        assert_null(out);
        assert_non_null(strstr(e.message, "LoRA"));
    }
}

// ---- model files ---------------------------------------------------------------------------------

struct made {
    const char *name;
    uint64_t ne[4];
};

// A GGUF file of F32 tensors, `cut` bytes short.
static char *gguf_file(const struct made *tensors, size_t n, size_t cut)
{
    struct buf b;
    struct err e = {0};
    uint64_t offset = 0;
    char *path = mem_format("/tmp/tandem-image-test-%d.gguf", (int)getpid());
    buf_init(&b, GGUF_MAKE_MAX);
    make_head(&b, n, 1);
    make_key_text(&b, "general.architecture", "picture");
    for (size_t i = 0; i < n; i++) {
        uint64_t values = 1;
        make_text(&b, tensors[i].name);
        make32(&b, 4);
        for (int d = 0; d < 4; d++) {
            make64(&b, tensors[i].ne[d]);
            values *= tensors[i].ne[d];
        }
        make32(&b, 0);
        make64(&b, offset);
        offset += (values * 4 + 31) / 32 * 32;
    }
    while (b.len % 32 != 0)
        buf_put(&b, "", 1);
    for (uint64_t i = 0; i < offset; i++)
        buf_put(&b, "", 1);
    assert_int_equal(os_file_write(path, b.data, b.len - cut, 0600, &e), 0);
    buf_fini(&b);
    return path;
}

static void layouts_are_known_by_their_tensors(void **state)
{
    static const struct {
        const char *tensor, *layout;
        uint64_t patch;
        uint32_t multiple, side;
        bool square;
    } rows[] = {
        {"model.diffusion_model.model.net.img_embedder.proj1.weight", "minit2i", 8, 8, 64, true},
        {"model.diffusion_model.model.net.img_embedder.proj1.weight", "minit2i", 16, 16, 512, true},
        {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "sd3", 4, 16, 1024, false},
        {"double_blocks.0.img_attn.qkv.weight", "flux", 4, 16, 1024, false},
        {"transformer_blocks.0.img_mod.1.weight", "qwen-image", 4, 16, 1024, false},
        {"cap_embedder.0.weight", "z-image", 4, 16, 1024, false},
        {"conditioner.embedders.1.model.ln_final.weight", "sdxl", 4, 64, 1024, false},
        {"model.diffusion_model.input_blocks.0.0.weight", "sd1", 4, 64, 512, false},
        {"something.else", "unknown", 4, 64, 512, false},
    };
    (void)state;
    for (size_t i = 0; i < N(rows); i++) {
        const struct made t = {rows[i].tensor, {rows[i].patch, 8, 3, 2}};
        struct image_model m;
        struct err e = {0};
        char *path = gguf_file(&t, 1, 0);
        assert_int_equal(image_model_read(path, &m, &e), 0);
        assert_string_equal(m.layout, rows[i].layout);
        assert_int_equal(m.multiple, rows[i].multiple);
        assert_int_equal(m.side, rows[i].side);
        assert_int_equal(m.square, rows[i].square);
        unlink(path);
        free(path);
    }
}

static void files_that_would_end_the_process_are_refused(void **state)
{
    const struct made table = {"text_encoders.t5xxl.transformer.shared.weight", {4, 64, 1, 1}};
    const struct made fine = {"double_blocks.0.img_attn.qkv.weight", {4, 4, 1, 1}};
    struct image_model m;
    struct err e = {0};
    char *path = gguf_file(&table, 1, 0);
    (void)state;
    // Its rows are the slowest of four dimensions here: 1, and a real tokenizer gives 32100 tokens.
    assert_int_equal(image_model_read(path, &m, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "32100"));
    free(path);
    path = gguf_file(&fine, 1, 1);
    assert_int_equal(image_model_read(path, &m, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.message, "cut short"));
    assert_int_equal(os_file_write(path, "PK\3\4 a pickle", 13, 0600, &e), 0);
    assert_int_equal(image_model_read(path, &m, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.message, "not a GGUF file"));
    unlink(path);
    assert_int_equal(image_model_read(path, &m, &e), ERR_NOT_FOUND);
    free(path);
}

// ---- files of pictures ---------------------------------------------------------------------------

static struct image_picture gradient(uint32_t width, uint32_t height)
{
    struct image_picture p = {width, height, mem_alloc((size_t)width * height * 3)};
    for (uint32_t y = 0; y < height; y++)
        for (uint32_t x = 0; x < width; x++) {
            uint8_t *at = p.rgb + ((size_t)y * width + x) * 3;
            at[0] = (uint8_t)(x * 255 / width);
            at[1] = (uint8_t)(y * 255 / height);
            at[2] = 64;
        }
    return p;
}

static double difference(const struct image_picture *a, const struct image_picture *b)
{
    double sum = 0;
    size_t n = (size_t)a->width * a->height * 3;
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    for (size_t i = 0; i < n; i++)
        sum += abs(a->rgb[i] - b->rgb[i]);
    return sum / (double)n;
}

static void pictures_survive_their_files(void **state)
{
    static const struct {
        enum image_format format;
        uint32_t quality;
        double worst;
    } rows[] = {
        {IMAGE_PNG, 0, 0},   {IMAGE_WEBP, 100, 0}, {IMAGE_JPEG, 0, 4},
        {IMAGE_WEBP, 90, 6}, {IMAGE_JPEG, 100, 2},
    };
    (void)state;
    for (size_t i = 0; i < N(rows); i++) {
        const struct image_encode_options o = {.format = rows[i].format,
                                               .quality = rows[i].quality};
        struct image_picture p = gradient(97, 33), back = {0};
        uint8_t *a = NULL, *b = NULL;
        size_t n = 0, m = 0;
        struct err e = {0};
        assert_int_equal(image_encode(&p, &o, &a, &n, &e), 0);
        assert_int_equal(image_encode(&p, &o, &b, &m, &e), 0);
        assert_int_equal(n, m); // the same bytes each time
        assert_memory_equal(a, b, n);
        assert_int_equal(image_decode(a, n, &back, &e), 0);
        assert_true(difference(&p, &back) <= rows[i].worst);
        image_picture_fini(&back);
        for (size_t cut = 0; cut < n;
             cut += 1 + n / 40) // no part of a file is a picture, or ends us
            if (image_decode(a, cut, &back, &e) == 0)
                image_picture_fini(&back);
        image_picture_fini(&p);
        free(a);
        free(b);
    }
}

static void files_that_claim_too_much_are_refused(void **state)
{
    // A PNG head of 65535x65535, and nothing behind it.
    static const uint8_t huge[] = {0x89, 'P',  'N', 'G', '\r', '\n', 0x1a, '\n', 0,    0,    0,
                                   13,   'I',  'H', 'D', 'R',  0,    0,    0xff, 0xff, 0,    0,
                                   0xff, 0xff, 8,   2,   0,    0,    0,    0x0b, 0x86, 0x2f, 0x0d};
    struct image_picture p = {0}, wide = gradient(4104, 1);
    const struct image_encode_options o = {.format = IMAGE_PNG};
    struct err e = {0};
    uint8_t *data = NULL;
    size_t n = 0;
    (void)state;
    assert_int_equal(image_decode(huge, sizeof huge, &p, &e), ERR_INVALID);
    assert_int_equal(image_encode(&wide, &o, &data, &n, &e), 0);
    assert_int_equal(image_decode(data, n, &p, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "4104x1"));
    assert_int_equal(image_decode("GIF89a", 6, &p, &e), ERR_INVALID);
    assert_int_equal(image_decode("", 0, &p, &e), ERR_INVALID);
    assert_null(p.rgb);
    image_picture_fini(&wide);
    free(data);
}

// The value of a chunk's key, or NULL.
// The red of each pixel of a mask made of RGBA pixels.
static void mask_of(const uint8_t *rgba, uint8_t red[3])
{
    png_image image = {
        .version = PNG_IMAGE_VERSION, .width = 3, .height = 1, .format = PNG_FORMAT_RGBA};
    uint8_t file[1024];
    png_alloc_size_t n = sizeof file;
    struct image_picture p;
    struct err e = {0};
    assert_true(png_image_write_to_memory(&image, file, &n, 0, rgba, 0, NULL));
    assert_int_equal(image_decode_mask(file, n, &p, &e), 0);
    for (int i = 0; i < 3; i++)
        red[i] = p.rgb[3 * i];
    image_picture_fini(&p);
    n--;
    assert_int_equal(image_decode_mask(file, n / 2, &p, &e), ERR_INVALID);
}

static void transparency_is_a_mask_else_white_is(void **state)
{
    static const uint8_t holes[] = {255, 255, 255, 255, 9, 9, 9, 0, 9, 9, 9, 127};
    static const uint8_t opaque[] = {255, 255, 255, 255, 0, 0, 0, 255, 128, 128, 128, 255};
    uint8_t red[3];
    (void)state;
    mask_of(holes, red);
    assert_memory_equal(red, "\x00\xff\x80", 3);
    mask_of(opaque, red);
    assert_memory_equal(red, "\xff\x00\x80", 3);
}

static const char *text_of_png(const uint8_t *png, size_t n, const char *key)
{
    size_t k = strlen(key) + 1;
    for (size_t i = 0; i + k < n; i++)
        if (memcmp(png + i, key, k) == 0)
            return (const char *)png + i + k;
    return NULL;
}

static void a_png_tells_how_it_was_made(void **state)
{
    struct image_picture p = gradient(16, 16);
    struct image_request r;
    struct err e = {0};
    uint8_t *data = NULL;
    size_t n = 0;
    (void)state;
    image_request_default(&r);
    r.prompt = "a red circle";
    r.negative = "Bl\xc3\xa4tter";
    assert_int_equal(image_request_check(&r, &square, &e), 0);
    json_t *texts = image_texts(&r, "/models/tiny.gguf", NULL, 77);
    const struct image_encode_options o = {.format = IMAGE_PNG, .texts = texts};
    assert_int_equal(image_encode(&p, &o, &data, &n, &e), 0);
    assert_memory_equal(text_of_png(data, n, "prompt"), "a red circle", 12);
    assert_memory_equal(text_of_png(data, n, "seed"), "77", 2);
    assert_memory_equal(text_of_png(data, n, "model"), "tiny.gguf", 9);
    // Not plain: iTXt, with two flags and two empty words before the UTF-8.
    assert_memory_equal(text_of_png(data, n, "parameters"), "\0\0\0\0a red circle\nNegative", 25);
    assert_memory_equal(text_of_png(data, n, "negative_prompt"), "\0\0\0\0Bl\xc3\xa4tter", 12);
    json_decref(texts);
    image_picture_fini(&p);
    free(data);
}

// ---- frames --------------------------------------------------------------------------------------

static void frames_come_in_any_pieces(void **state)
{
    struct buf out, in;
    struct image_frame f = {0};
    struct err e = {0};
    (void)state;
    image_buf_init(&out);
    image_buf_init(&in);
    assert_int_equal(image_frame_put(&out, json_pack("{s:s}", "op", "cancel"), NULL, 0, &e), 0);
    assert_int_equal(image_frame_put(&out, json_pack("{s:s}", "op", "picture"), "abc", 3, &e), 0);
    for (size_t i = 0, seen = 0; i < out.len; i++) {
        buf_put(&in, out.data + i, 1);
        int rc = image_frame_take(&in, &f, &e);
        assert_true(rc >= 0);
        if (rc == 0)
            continue;
        seen++;
        assert_string_equal(image_frame_op(&f), seen == 1 ? "cancel" : "picture");
        assert_int_equal(f.len, seen == 1 ? 0 : 3);
        image_frame_fini(&f);
        assert_true(seen < 2 || i + 1 == out.len);
    }
    assert_int_equal(in.len, 0);
    buf_fini(&out);
    buf_fini(&in);
}

static void frames_that_are_none_are_refused(void **state)
{
    static const struct {
        uint32_t text, data;
        const char *body;
    } rows[] = {
        {UINT32_MAX, 0, ""},
        {2, UINT32_MAX, "{}"},
        {2, 0, "[]"},
        {2, 0, "{,"},
        {IMAGE_FRAME_TEXT_MAX + 1, 0, ""},
        {2, IMAGE_FRAME_DATA_MAX + 1, "{}"},
    };
    (void)state;
    for (size_t i = 0; i < N(rows); i++) {
        struct buf in;
        struct image_frame f = {0};
        struct err e = {0};
        uint8_t raw[8];
        image_buf_init(&in);
        le_put32(raw, rows[i].text);
        le_put32(raw + 4, rows[i].data);
        buf_put(&in, raw, sizeof raw);
        buf_puts(&in, rows[i].body);
        assert_int_equal(image_frame_take(&in, &f, &e), ERR_CORRUPT);
        assert_null(f.head);
        buf_fini(&in);
    }
}

// ---- terminals -----------------------------------------------------------------------------------

static void each_terminal_gets_its_own_sequence(void **state)
{
    static const struct {
        enum image_show how;
        const char *begin, *end;
    } rows[] = {
        {IMAGE_SHOW_KITTY, "\033_Gf=100,a=T,m=", "\033\\"},
        {IMAGE_SHOW_ITERM, "\033]1337;File=inline=1;size=", "\a"},
        {IMAGE_SHOW_SIXEL, "\033Pq\"1;1;200;100#0;2;0;0;0", "-\033\\"},
        {IMAGE_SHOW_BLOCKS, "\033[38;2;", "\033[0m\n"},
    };
    (void)state;
    for (size_t i = 0; i < N(rows); i++) {
        struct image_picture p = gradient(200, 100);
        struct buf b;
        buf_init(&b, 1 << 20);
        image_show_put(&b, rows[i].how, &p, 40);
        assert_memory_equal(b.data, rows[i].begin, strlen(rows[i].begin));
        size_t n = strlen(rows[i].end);
        assert_true(b.len > n);
        assert_memory_equal(b.data + b.len - n, rows[i].end, n);
        buf_fini(&b);
        image_picture_fini(&p);
    }
}

static void base64_is_that_of_the_standard(void **state)
{
    // RFC 4648, section 10.
    static const char *const rows[][2] = {{"", ""},
                                          {"f", "Zg=="},
                                          {"fo", "Zm8="},
                                          {"foo", "Zm9v"},
                                          {"foob", "Zm9vYg=="},
                                          {"fooba", "Zm9vYmE="},
                                          {"foobar", "Zm9vYmFy"}};
    struct buf b;
    (void)state;
    for (size_t i = 0; i < N(rows); i++) {
        buf_init(&b, 64);
        assert_int_equal(base64_put(&b, rows[i][0], strlen(rows[i][0])), 0);
        assert_int_equal(b.len, strlen(rows[i][1]));
        assert_memory_equal(b.len ? (const char *)b.data : "", rows[i][1], b.len);
        buf_fini(&b);
    }
    buf_init(&b, 3);
    assert_int_equal(base64_put(&b, "f", 1), ERR_RANGE);
    buf_fini(&b);
}

// ---- who goes first ------------------------------------------------------------------------------

static void pictures_wait_for_others_but_not_for_ever(void **state)
{
    static const struct {
        bool busy, stepped;
        int64_t after_ns; // since the row before
        bool paused;
    } rows[] = {
        {false, false, 0, false},
        {true, false, NS_PER_S, true},
        {true, false, IMAGE_PATIENCE_NS - 1, true},
        {true, false, 1, false}, // a step is let through
        {true, false, NS_PER_S, false},
        {true, true, 0, true}, // it is done
        {false, false, NS_PER_S, false},
    };
    struct image_yield y = {0};
    int64_t now = 1;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        now += rows[i].after_ns;
        if (rows[i].stepped)
            image_yield_stepped(&y);
        if (image_yield_tick(&y, rows[i].busy, now) != rows[i].paused)
            fail_msg("row %zu", i);
    }
    assert_int_equal(y.pauses, 2);
    assert_true(y.paused_s > 5.99 && y.paused_s < 6.01);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_digits_within_limits),
        cmocka_unit_test(what_is_open_is_filled_in),
        cmocka_unit_test(what_is_not_possible_is_refused_with_its_value),
        cmocka_unit_test(loras_are_taken_out_of_prompts),
        cmocka_unit_test(loras_with_paths_or_odd_weights_are_refused),
        cmocka_unit_test(layouts_are_known_by_their_tensors),
        cmocka_unit_test(files_that_would_end_the_process_are_refused),
        cmocka_unit_test(pictures_survive_their_files),
        cmocka_unit_test(files_that_claim_too_much_are_refused),
        cmocka_unit_test(transparency_is_a_mask_else_white_is),
        cmocka_unit_test(a_png_tells_how_it_was_made),
        cmocka_unit_test(frames_come_in_any_pieces),
        cmocka_unit_test(frames_that_are_none_are_refused),
        cmocka_unit_test(each_terminal_gets_its_own_sequence),
        cmocka_unit_test(base64_is_that_of_the_standard),
        cmocka_unit_test(pictures_wait_for_others_but_not_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
