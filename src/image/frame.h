// The protocol between an image worker and who started it, on descriptor 3 (a stream socket).
//
// A frame is u32 n, u32 m (little-endian), n bytes of a JSON object, m bytes beside it: pixels, as
// interleaved RGB. "op" says what it is. To the worker:
//
//   generate  id, prompt, width, height, count, steps, cfg, seed (of the first); where given negative, sampler,
//             scheduler, previews, loras [{path, weight}], initial (true: its pixels come), mask (true: and then
//             the mask's), strength
//   cancel    id
//   pause     before the next step; resume
//
// From the worker:
//
//   ready     protocol, library, version, features ["cancel", ...], load_s
//   progress  id, index (of the picture), step, steps, step_s
//   preview   id, index, step, width, height, and the pixels
//   picture   id, index, width, height, seed, and the pixels
//   done      id, draw_s
//   failed    code (err_name), message; with id that request, without it the worker, which then ends
//
// One request at a time. The end of the stream ends the worker. A worker in another language needs no more
// than this page: share/workers/ has one.
//
// Owner: whoever holds the struct. Any thread.
#ifndef IMAGE_FRAME_H
#define IMAGE_FRAME_H

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>

#define IMAGE_PROTOCOL 1
#define IMAGE_FD 3
#define IMAGE_FRAME_HEAD 8u
#define IMAGE_FRAME_TEXT_MAX (256u << 10)
#define IMAGE_FRAME_DATA_MAX (24u << 20) // two pictures of the most pixels

struct image_frame {
    json_t *head;  // owned
    uint8_t *data; // owned
    size_t len;
};
void image_frame_fini(struct image_frame *f);

// Takes the first frame out of what has come so far: 1, 0 for more is needed, or ERR_CORRUPT.
int image_frame_take(struct buf *in, struct image_frame *f, struct err *e);
// Appends; steals head.
int image_frame_put(struct buf *out, json_t *head, const void *data, size_t len, struct err *e);
// "" without one.
const char *image_frame_op(const struct image_frame *f);
void image_buf_init(struct buf *b); // with room for the largest frame and a little more

#endif
