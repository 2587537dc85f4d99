// Files that clients send to pictures. Each library says first how large the picture would be; only what is
// within the limits is decoded.
#include "image/image.h"

#include "base/buf.h"

#include <setjmp.h>
#include <stdio.h> // before jpeglib.h, which needs it
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>
#include <webp/decode.h>

#define WHITE 255u

static int picture_make(uint64_t width, uint64_t height, struct image_picture *out, struct err *e)
{
    if (width < 1 || height < 1 || width > IMAGE_SIDE_MAX || height > IMAGE_SIDE_MAX ||
        width * height > IMAGE_PIXELS_MAX)
        return err_set(e, ERR_INVALID,
                       "a picture of %llux%llu pixels; at most %u on a side and %u in all are "
                       "allowed",
                       (unsigned long long)width, (unsigned long long)height, IMAGE_SIDE_MAX,
                       IMAGE_PIXELS_MAX);
    *out = (struct image_picture){(uint32_t)width, (uint32_t)height, mem_alloc(width * height * 3)};
    return 0;
}

static void white_fill(struct image_picture *out, const uint8_t *rgba)
{
    for (size_t i = 0; i < (size_t)out->width * out->height; i++)
        for (size_t c = 0; c < 3; c++) {
            unsigned alpha = rgba[4 * i + 3];
            out->rgb[3 * i + c] =
                (uint8_t)((rgba[4 * i + c] * alpha + WHITE * (255 - alpha) + 127) / 255);
        }
}

// Transparency that is nowhere used says nothing: then colours do.
static void mask_fill(struct image_picture *out, const uint8_t *rgba)
{
    size_t n = (size_t)out->width * out->height;
    bool used = false;
    for (size_t i = 0; i < n; i++)
        used |= rgba[4 * i + 3] != 255;
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++)
            out->rgb[3 * i + c] = used ? (uint8_t)(255 - rgba[4 * i + 3]) : rgba[4 * i + c];
}

// libpng lays a picture over white itself, in linear light; for a mask it keeps the transparency.
static int png_decode(const void *data, size_t len, bool mask, struct image_picture *out,
                      struct err *e)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    const png_color white = {WHITE, WHITE, WHITE};
    if (!png_image_begin_read_from_memory(&image, data, len))
        return err_set(e, ERR_INVALID, "a damaged PNG: %s", image.message);
    image.format = mask ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
    int rc = picture_make(image.width, image.height, out, e);
    uint8_t *rgba = rc == 0 && mask ? mem_alloc((size_t)out->width * out->height * 4) : NULL;
    if (rc == 0 && !png_image_finish_read(&image, &white, mask ? rgba : out->rgb, 0, NULL)) {
        rc = err_set(e, ERR_INVALID, "a damaged PNG: %s", image.message);
        image_picture_fini(out);
    }
    if (rc == 0 && mask)
        mask_fill(out, rgba);
    free(rgba);
    png_image_free(&image);
    return rc;
}

struct jpeg_reading {
    struct jpeg_error_mgr manager; // first, so that libjpeg's pointer is ours
    struct jpeg_decompress_struct jpeg;
    jmp_buf back;
    char message[JMSG_LENGTH_MAX];
};

static void jpeg_failed(j_common_ptr jpeg)
{
    struct jpeg_reading *r = (struct jpeg_reading *)jpeg->err;
    r->manager.format_message(jpeg, r->message);
    longjmp(r->back, 1);
}

static void jpeg_told(j_common_ptr jpeg, int level)
{
    if (level < 0) // a warning: bytes are missing or wrong, and libjpeg would go on with grey
        jpeg_failed(jpeg);
}

static int jpeg_read(struct jpeg_reading *r, const void *data, size_t len,
                     struct image_picture *out, struct err *e)
{
    if (setjmp(r->back) != 0)
        return err_set(e, ERR_INVALID, "a damaged JPEG: %s", r->message);
    jpeg_create_decompress(&r->jpeg);
    jpeg_mem_src(&r->jpeg, data, len);
    jpeg_read_header(&r->jpeg, TRUE);
    r->jpeg.out_color_space = JCS_RGB;
    int rc = picture_make(r->jpeg.image_width, r->jpeg.image_height, out, e);
    if (rc != 0)
        return rc;
    jpeg_start_decompress(&r->jpeg);
    while (r->jpeg.output_scanline < r->jpeg.output_height) {
        JSAMPROW row = out->rgb + (size_t)r->jpeg.output_scanline * out->width * 3;
        jpeg_read_scanlines(&r->jpeg, &row, 1);
    }
    jpeg_finish_decompress(&r->jpeg);
    return 0;
}

static int jpeg_decode(const void *data, size_t len, struct image_picture *out, struct err *e)
{
    struct jpeg_reading *r = mem_alloc(sizeof *r);
    r->jpeg.err = jpeg_std_error(&r->manager);
    r->manager.error_exit = jpeg_failed;
    r->manager.emit_message = jpeg_told;
    int rc = jpeg_read(r, data, len, out, e);
    if (rc != 0)
        image_picture_fini(out);
    jpeg_destroy_decompress(&r->jpeg);
    free(r);
    return rc;
}

static int webp_decode(const void *data, size_t len, bool mask, struct image_picture *out,
                       struct err *e)
{
    int width = 0, height = 0;
    if (!WebPGetInfo(data, len, &width, &height))
        return err_set(e, ERR_INVALID, "a damaged WebP");
    int rc = picture_make((uint64_t)width, (uint64_t)height, out, e);
    uint8_t *rgba = rc == 0 ? WebPDecodeRGBA(data, len, &width, &height) : NULL;
    if (rc == 0 && rgba == NULL) {
        image_picture_fini(out);
        rc = err_set(e, ERR_INVALID, "a damaged WebP");
    }
    if (rc == 0)
        (mask ? mask_fill : white_fill)(out, rgba);
    WebPFree(rgba);
    return rc;
}

static int decode(const void *data, size_t len, bool mask, struct image_picture *out, struct err *e)
{
    const uint8_t *b = data;
    *out = (struct image_picture){0};
    if (len >= 8 && memcmp(b, "\x89PNG\r\n\x1a\n", 8) == 0)
        return png_decode(data, len, mask, out, e);
    if (len >= 3 && memcmp(b, "\xff\xd8\xff", 3) == 0)
        return jpeg_decode(data, len, out, e);
    if (len >= 12 && memcmp(b, "RIFF", 4) == 0 && memcmp(b + 8, "WEBP", 4) == 0)
        return webp_decode(data, len, mask, out, e);
    return err_set(e, ERR_INVALID, "not a picture that can be read; PNG, JPEG and WebP can");
}

int image_decode(const void *data, size_t len, struct image_picture *out, struct err *e)
{
    return decode(data, len, false, out, e);
}

int image_decode_mask(const void *data, size_t len, struct image_picture *out, struct err *e)
{
    return decode(data, len, true, out, e);
}
