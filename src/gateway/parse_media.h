// Images in requests: their bytes come inside the request, as data: URLs, and are checked here as far as
// that takes no decoder: what a file says of itself. Pixels are made in the worker, which dies alone.
//
// Pure: no threads, no I/O. Nothing is ever fetched from elsewhere.
#ifndef GATEWAY_PARSE_MEDIA_H
#define GATEWAY_PARSE_MEDIA_H

#include "gateway/parse.h"
#include "wire/wire.h"

#define MEDIA_IMAGES_MAX 32           // of one request
#define MEDIA_IMAGE_BYTES (20u << 20) // of one image
#define MEDIA_SIDE_MAX 16384          // pixels
#define MEDIA_PIXELS_MAX 50000000u    // of one image

// The bytes of a data: URL; *data is owned by the caller. The error's words follow the name of a member:
// "'messages[0].content' " ... "has an image of ...".
int media_read(const char *url, size_t n, struct parse_image *out, struct err *e);
// The same for a text that is base64 alone.
int media_read_base64(const char *text, size_t n, struct parse_image *out, struct err *e);
// What the head of a file says of its size: PNG, JPEG, GIF or BMP. ERR_INVALID for others.
int media_size_get(const uint8_t *data, size_t n, uint32_t *width, uint32_t *height, struct err *e);
// Adds an image to a request. 0, or an error as media_read's.
int media_add(struct parse_request *in, const char *url, size_t n, struct err *e);
void media_fini(struct parse_request *in);
// RENDER, with the images as its body. Steals head.
struct wire_frame media_frame(const struct parse_request *in, uint64_t id, json_t *head);
// The image_url part of a chat request. Steals the URL.
json_t *media_part(json_t *url);

#endif
