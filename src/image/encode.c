// Pictures to files, with the libraries that everybody uses. setjmp is how two of them report errors:
// what must be freed afterwards lives in structs that are set before it.
#include "image/image.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdio.h> // before jpeglib.h, which needs it
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>
#include <webp/encode.h>

#define FILE_SLACK_BYTES (1u << 20) // a file is at most so much larger than its pixels
#define TEXTS_MAX 16
#define WEBP_METHOD 4
#define LOSSLESS_QUALITY 100u

static const struct {
    const char *name, *mime, *alias;
} formats[] = {
    [IMAGE_PNG] = {"png", "image/png", "PNG"},
    [IMAGE_JPEG] = {"jpeg", "image/jpeg", "jpg"},
    [IMAGE_WEBP] = {"webp", "image/webp", "WEBP"},
};

int image_format_parse(const char *name, enum image_format *out, struct err *e)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(name, formats[i].name) == 0 || strcmp(name, formats[i].alias) == 0) {
            *out = (enum image_format)i;
            return 0;
        }
    return err_set(e, ERR_INVALID, "format \"%.40s\" is not known; there are png, jpeg and webp",
                   name);
}

const char *image_format_name(enum image_format f)
{
    return formats[f].name;
}

const char *image_format_mime(enum image_format f)
{
    return formats[f].mime;
}

// ---- PNG -----------------------------------------------------------------------------------------

struct png_file {
    png_structp png;
    png_infop info;
    struct buf out;
    png_text texts[TEXTS_MAX];
    char message[128];
};

static void png_failed(png_structp png, png_const_charp message)
{
    struct png_file *f = png_get_error_ptr(png);
    snprintf(f->message, sizeof f->message, "%s", message);
    png_longjmp(png, 1);
}

static void png_warned(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void png_append(png_structp png, png_bytep data, png_size_t n)
{
    struct png_file *f = png_get_io_ptr(png);
    if (buf_put(&f->out, data, n) != 0)
        png_error(png, "the file becomes larger than its picture");
}

static void png_flushed(png_structp png)
{
    (void)png;
}

static bool is_ascii(const char *s)
{
    while (*s != '\0' && (unsigned char)*s < 0x80)
        s++;
    return *s == '\0';
}

// tEXt holds Latin-1; what is not plain goes into iTXt, which holds UTF-8.
static void png_texts(struct png_file *f, const json_t *texts)
{
    const char *key = NULL;
    json_t *value = NULL;
    int n = 0;
    json_object_foreach((json_t *)texts, key, value)
    {
        const char *s = json_string_value(value);
        if (s == NULL || n == TEXTS_MAX)
            continue;
        f->texts[n++] = (png_text){
            .compression = is_ascii(s) ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
            .key = (char *)key,
            .text = (char *)s,
        };
    }
    png_set_text(f->png, f->info, f->texts, n);
}

static int png_run(struct png_file *f, const struct image_picture *p,
                   const struct image_encode_options *o)
{
    if (setjmp(png_jmpbuf(f->png)) != 0)
        return ERR_ENGINE;
    png_set_write_fn(f->png, f, png_append, png_flushed);
    png_set_IHDR(f->png, f->info, p->width, p->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (o->level > 0)
        png_set_compression_level(f->png, (int)o->level);
    if (o->texts != NULL)
        png_texts(f, o->texts);
    png_write_info(f->png, f->info);
    for (uint32_t y = 0; y < p->height; y++)
        png_write_row(f->png, p->rgb + (size_t)y * p->width * 3);
    png_write_end(f->png, f->info);
    return 0;
}

static int png_encode(const struct image_picture *p, const struct image_encode_options *o,
                      struct buf *out, struct err *e)
{
    struct png_file *f = mem_alloc(sizeof *f);
    f->out = *out;
    f->png = png_create_write_struct(PNG_LIBPNG_VER_STRING, f, png_failed, png_warned);
    f->info = f->png != NULL ? png_create_info_struct(f->png) : NULL;
    int rc = f->info != NULL ? png_run(f, p, o) : ERR_ENGINE;
    if (rc != 0)
        err_set(e, rc, "no PNG could be made: %s", f->message[0] ? f->message : "libpng refused");
    png_destroy_write_struct(&f->png, &f->info);
    *out = f->out;
    free(f);
    return rc;
}

// ---- JPEG ----------------------------------------------------------------------------------------

struct jpeg_failure {
    struct jpeg_error_mgr manager; // first, so that libjpeg's pointer is ours
    jmp_buf back;
    char message[JMSG_LENGTH_MAX];
};

struct jpeg_file {
    struct jpeg_compress_struct jpeg;
    struct jpeg_failure failure;
    unsigned char *data; // malloc'ed by libjpeg
    unsigned long len;
};

static void jpeg_failed(j_common_ptr jpeg)
{
    struct jpeg_failure *f = (struct jpeg_failure *)jpeg->err;
    f->manager.format_message(jpeg, f->message);
    longjmp(f->back, 1);
}

static int jpeg_run(struct jpeg_file *f, const struct image_picture *p, uint32_t quality)
{
    if (setjmp(f->failure.back) != 0)
        return ERR_ENGINE;
    jpeg_create_compress(&f->jpeg);
    jpeg_mem_dest(&f->jpeg, &f->data, &f->len);
    f->jpeg.image_width = p->width;
    f->jpeg.image_height = p->height;
    f->jpeg.input_components = 3;
    f->jpeg.in_color_space = JCS_RGB;
    jpeg_set_defaults(&f->jpeg);
    jpeg_set_quality(&f->jpeg, (int)quality, TRUE);
    jpeg_start_compress(&f->jpeg, TRUE);
    while (f->jpeg.next_scanline < p->height) {
        JSAMPROW row = p->rgb + (size_t)f->jpeg.next_scanline * p->width * 3;
        jpeg_write_scanlines(&f->jpeg, &row, 1);
    }
    jpeg_finish_compress(&f->jpeg);
    return 0;
}

static int jpeg_encode(const struct image_picture *p, uint32_t quality, struct buf *out,
                       struct err *e)
{
    struct jpeg_file *f = mem_alloc(sizeof *f);
    f->jpeg.err = jpeg_std_error(&f->failure.manager);
    f->failure.manager.error_exit = jpeg_failed;
    int rc = jpeg_run(f, p, quality);
    if (rc == 0)
        rc = buf_put(out, f->data, f->len);
    if (rc != 0)
        err_set(e, rc, "no JPEG could be made: %s", f->failure.message);
    jpeg_destroy_compress(&f->jpeg);
    free(f->data);
    free(f);
    return rc;
}

// ---- WebP ----------------------------------------------------------------------------------------

static int webp_append(const uint8_t *data, size_t n, const WebPPicture *picture)
{
    return buf_put(picture->custom_ptr, data, n) == 0;
}

static int webp_encode(const struct image_picture *p, uint32_t quality, struct buf *out,
                       struct err *e)
{
    WebPConfig config;
    WebPPicture picture;
    if (!WebPConfigInit(&config) || !WebPPictureInit(&picture))
        return err_set(e, ERR_ENGINE, "libwebp is another version than it was built with");
    config.quality = (float)quality;
    config.lossless = quality == LOSSLESS_QUALITY;
    config.method = WEBP_METHOD;
    picture.use_argb = config.lossless;
    picture.width = (int)p->width;
    picture.height = (int)p->height;
    picture.writer = webp_append;
    picture.custom_ptr = out;
    bool good = WebPPictureImportRGB(&picture, p->rgb, (int)p->width * 3) != 0 &&
                WebPEncode(&config, &picture) != 0;
    int code = (int)picture.error_code;
    WebPPictureFree(&picture);
    return good ? 0 : err_set(e, ERR_ENGINE, "no WebP could be made: libwebp's error %d", code);
}

int image_encode(const struct image_picture *p, const struct image_encode_options *o, uint8_t **out,
                 size_t *len, struct err *e)
{
    uint32_t quality = o->quality > 0 ? o->quality : IMAGE_QUALITY_DEFAULT;
    struct buf b;
    int rc = 0;
    if (quality > 100)
        return err_set(e, ERR_INVALID, "quality %u is not possible; 1 to 100 are", quality);
    buf_init(&b, (size_t)p->width * p->height * 4 + FILE_SLACK_BYTES);
    if (o->format == IMAGE_PNG)
        rc = png_encode(p, o, &b, e);
    else if (o->format == IMAGE_JPEG)
        rc = jpeg_encode(p, quality, &b, e);
    else
        rc = webp_encode(p, quality, &b, e);
    if (rc == 0) {
        *len = b.len;
        *out = (uint8_t *)buf_take(&b);
    }
    buf_fini(&b);
    return rc;
}
