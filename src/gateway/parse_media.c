#include "gateway/parse_media.h"

#include "base/base64.h"
#include "base/buf.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define KNOWN "PNG, JPEG, GIF or BMP"

// ---- the heads of files -----------------------------------------------------------------------------

static uint32_t be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t be32(const uint8_t *p)
{
    return be16(p) << 16 | be16(p + 2);
}

static bool png_size(const uint8_t *data, size_t n, uint32_t *width, uint32_t *height)
{
    if (n < 24 || memcmp(data, "\x89PNG\r\n\x1a\n", 8) != 0 || memcmp(data + 12, "IHDR", 4) != 0)
        return false;
    *width = be32(data + 16);
    *height = be32(data + 20);
    return true;
}

static bool gif_size(const uint8_t *data, size_t n, uint32_t *width, uint32_t *height)
{
    if (n < 10 || (memcmp(data, "GIF87a", 6) != 0 && memcmp(data, "GIF89a", 6) != 0))
        return false;
    *width = le_get16(data + 6);
    *height = le_get16(data + 8);
    return true;
}

// The height is negative where the rows go down.
static bool bmp_size(const uint8_t *data, size_t n, uint32_t *width, uint32_t *height)
{
    uint32_t down;

    if (n < 26 || memcmp(data, "BM", 2) != 0)
        return false;
    if (le_get32(data + 14) == 12) {
        *width = le_get16(data + 18);
        *height = le_get16(data + 20);
        return true;
    }
    down = le_get32(data + 22);
    *width = le_get32(data + 18);
    *height = down > INT32_MAX ? 0u - down : down;
    return true;
}

// From marker to marker until one that begins a frame.
static bool jpeg_size(const uint8_t *data, size_t n, uint32_t *width, uint32_t *height)
{
    size_t at = 2;

    if (n < 4 || data[0] != 0xff || data[1] != 0xd8)
        return false;
    while (at + 9 <= n && data[at] == 0xff) {
        uint8_t marker = data[at + 1];

        if (marker == 0xff || marker == 0x01 || (marker >= 0xd0 && marker <= 0xd7)) {
            at += marker == 0xff ? 1 : 2;
            continue;
        }
        if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 &&
            marker != 0xcc) {
            *height = be16(data + at + 5);
            *width = be16(data + at + 7);
            return true;
        }
        at += 2 + be16(data + at + 2);
    }
    return false;
}

int media_size_get(const uint8_t *data, size_t n, uint32_t *width, uint32_t *height, struct err *e)
{
    bool webp = n >= 12 && memcmp(data, "RIFF", 4) == 0 && memcmp(data + 8, "WEBP", 4) == 0;

    if (png_size(data, n, width, height) || jpeg_size(data, n, width, height) ||
        gif_size(data, n, width, height) || bmp_size(data, n, width, height))
        return 0;
    return err_set(e, ERR_INVALID, "has an image of %zu bytes that is no %s%s", n, KNOWN,
                   webp ? " but WebP; convert it" : "");
}

static int size_check(const struct parse_image *image, struct err *e)
{
    uint32_t w = image->width, h = image->height;

    if (w > 0 && h > 0 && w <= MEDIA_SIDE_MAX && h <= MEDIA_SIDE_MAX &&
        (uint64_t)w * h <= MEDIA_PIXELS_MAX)
        return 0;
    return err_set(e, ERR_INVALID,
                   "has an image of %u x %u pixels; 1 to %d a side and at most %u in all are taken",
                   w, h, MEDIA_SIDE_MAX, MEDIA_PIXELS_MAX);
}

// ---- URLs -------------------------------------------------------------------------------------------

int media_read_base64(const char *text, size_t n, struct parse_image *out, struct err *e)
{
    size_t bad = 0;
    int rc;

    *out = (struct parse_image){0};
    if (n / 4 * 3 > MEDIA_IMAGE_BYTES)
        return err_set(e, ERR_INVALID, "has an image of about %zu bytes; at most %u are taken",
                       n / 4 * 3, MEDIA_IMAGE_BYTES);
    out->data = mem_alloc(n / 4 * 3 + 3);
    if (!base64_decode(text, n, out->data, &out->len, &bad))
        rc = bad < n
                 ? err_set(e, ERR_INVALID, "has an image whose base64 goes wrong at byte %zu", bad)
                 : err_set(e, ERR_INVALID, "has an image whose base64 is cut short, at %zu bytes",
                           n);
    else
        rc = media_size_get(out->data, out->len, &out->width, &out->height, e);
    if (rc == 0)
        rc = size_check(out, e);
    if (rc != 0) {
        free(out->data);
        out->data = NULL;
    }
    return rc;
}

// "image/png;base64": what a kind of image calls itself is not believed, but other things say what they are.
static int type_check(const char *type, size_t n, struct err *e)
{
    static const char suffix[] = ";base64";
    size_t end = sizeof(suffix) - 1;

    if (n < end || strncasecmp(type + n - end, suffix, end) != 0)
        return err_set(
            e, ERR_INVALID,
            "has a data: URL that is not base64; it must read data:image/png;base64,...");
    if (n > end && type[0] != ';' && (n < 6 || strncasecmp(type, "image/", 6) != 0))
        return err_set(e, ERR_INVALID, "has a data: URL of type %.*s; images are taken, %s",
                       (int)(n - end < 40 ? n - end : 40), type, KNOWN);
    return 0;
}

int media_read(const char *url, size_t n, struct parse_image *out, struct err *e)
{
    const char *comma;
    int rc;

    *out = (struct parse_image){0};
    if (n < 5 || strncasecmp(url, "data:", 5) != 0)
        return err_set(e, ERR_INVALID,
                       "has an image at %.60s: this server fetches nothing from elsewhere; send "
                       "its bytes as a URL that begins with data:image/png;base64,",
                       url);
    comma = memchr(url, ',', n);
    if (!comma)
        return err_set(e, ERR_INVALID, "has a data: URL without a comma before the data");
    rc = type_check(url + 5, (size_t)(comma - url) - 5, e);
    return rc != 0 ? rc : media_read_base64(comma + 1, n - (size_t)(comma + 1 - url), out, e);
}

// ---- requests ---------------------------------------------------------------------------------------

int media_add(struct parse_request *in, const char *url, size_t n, struct err *e)
{
    struct parse_image image;
    size_t bytes = 0;
    int rc;

    if (in->n_images == MEDIA_IMAGES_MAX)
        return err_set(e, ERR_INVALID, "has one image more than the %d that are taken",
                       MEDIA_IMAGES_MAX);
    rc = media_read(url, n, &image, e);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < in->n_images; i++)
        bytes += in->images[i].len;
    if (bytes + image.len > WIRE_IMAGES_MAX) {
        free(image.data);
        return err_set(e, ERR_INVALID, "makes it %zu bytes of images; at most %u are taken",
                       bytes + image.len, WIRE_IMAGES_MAX);
    }
    in->images = mem_resize(in->images, (in->n_images + 1) * sizeof(*in->images));
    in->images[in->n_images++] = image;
    return 0;
}

void media_fini(struct parse_request *in)
{
    for (size_t i = 0; i < in->n_images; i++)
        free(in->images[i].data);
    free(in->images);
    in->images = NULL;
    in->n_images = 0;
}

struct wire_frame media_frame(const struct parse_request *in, uint64_t id, json_t *head)
{
    struct wire_frame f = wire_frame_json(WIRE_RENDER, id, head);
    size_t bytes = 0;
    uint8_t *at;

    for (size_t i = 0; i < in->n_images; i++)
        bytes += in->images[i].len;
    if (bytes == 0)
        return f;
    f.body = (struct wire_body){.data = mem_alloc(bytes), .len = bytes};
    at = f.body.data;
    for (size_t i = 0; i < in->n_images; i++) {
        memcpy(at, in->images[i].data, in->images[i].len);
        at += in->images[i].len;
    }
    return f;
}

json_t *media_part(json_t *url)
{
    json_t *part = json_object(), *image = json_object();

    json_put(image, "url", url);
    json_put(part, "type", json_string("image_url"));
    json_put(part, "image_url", image);
    return part;
}
