#include "image/frame.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

void image_frame_fini(struct image_frame *f)
{
    json_decref(f->head);
    free(f->data);
    *f = (struct image_frame){0};
}

void image_buf_init(struct buf *b)
{
    buf_init(b, 2 * ((size_t)IMAGE_FRAME_TEXT_MAX + IMAGE_FRAME_DATA_MAX));
}

const char *image_frame_op(const struct image_frame *f)
{
    return json_string_or(f->head, "op", "");
}

int image_frame_take(struct buf *in, struct image_frame *f, struct err *e)
{
    if (in->len < IMAGE_FRAME_HEAD)
        return 0;
    size_t text = le_get32(in->data), data = le_get32(in->data + 4);
    if (text > IMAGE_FRAME_TEXT_MAX || data > IMAGE_FRAME_DATA_MAX)
        return err_set(e, ERR_CORRUPT,
                       "the image worker sent a frame of %zu and %zu bytes; at most %u and %u are "
                       "allowed",
                       text, data, IMAGE_FRAME_TEXT_MAX, IMAGE_FRAME_DATA_MAX);
    if (in->len < IMAGE_FRAME_HEAD + text + data)
        return 0;
    *f = (struct image_frame){.head = json_parse(in->data + IMAGE_FRAME_HEAD, text, e)};
    if (!json_is_object(f->head)) {
        image_frame_fini(f);
        return err_set(e, ERR_CORRUPT, "the image worker sent what is no JSON object");
    }
    if (data > 0) {
        f->data = mem_alloc(data);
        memcpy(f->data, in->data + IMAGE_FRAME_HEAD + text, data);
        f->len = data;
    }
    buf_consume(in, IMAGE_FRAME_HEAD + text + data);
    return 1;
}

int image_frame_put(struct buf *out, json_t *head, const void *data, size_t len, struct err *e)
{
    char *text = json_text(head);
    size_t n = strlen(text);
    uint8_t raw[IMAGE_FRAME_HEAD];
    int rc = 0;
    json_decref(head);
    le_put32(raw, (uint32_t)n);
    le_put32(raw + 4, (uint32_t)len);
    if (n > IMAGE_FRAME_TEXT_MAX || len > IMAGE_FRAME_DATA_MAX ||
        out->max - out->len < sizeof raw + n + len)
        rc = err_set(e, ERR_RANGE, "a frame of %zu and %zu bytes has no room", n, len);
    if (rc == 0) {
        buf_put(out, raw, sizeof raw);
        buf_put(out, text, n);
        buf_put(out, data, len);
    }
    free(text);
    return rc;
}
