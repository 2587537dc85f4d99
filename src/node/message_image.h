// What passes between a gateway and a node that draws (node/images.h), on a link of its own. docs/wire.md shows
// the frames. The node answers HELLO with a WELCOME that has "draws", and then:
//
//   CANVAS  {..struct message_canvas_state..}, unasked: at once, and whenever it changes
//   DRAW    {"prompt","width","height","count","steps","cfg","seed", and where given "negative","sampler","scheduler",
//            "previews","strength","loras":[{"name","weight"}..],"initial":true (its pixels come as PIXELS),
//            "mask":true (and then the mask's)}; id: the request, unique on its link
//        -> DRAWING {"index","step","steps","step_s"}, after each step; with step 0 once a minute: it is still there
//           PICTURE {"index","step","width","height","seed","preview":bool}, and its pixels as PIXELS
//           DRAWN   {"draw_s"}, or FAILED
//   PIXELS  {} + a piece of a picture, at most WIRE_PIXELS_MAX bytes: interleaved RGB, in order, nothing between the
//           pieces of one picture but frames that are not PIXELS or PICTURE
//   CANCEL  {}: FAILED (cancelled) within one step; nothing, where the request is gone
//
// Everything a peer sends is held against the limits of image/image.h before anything is allocated. Plain data in the
// caller's memory; any thread.
#ifndef NODE_MESSAGE_IMAGE_H
#define NODE_MESSAGE_IMAGE_H

#include "image/image.h"
#include "wire/wire.h"

#define MESSAGE_CANVAS_NAME_BYTES 128

// The member "draws" of a WELCOME: the model.
struct message_canvas {
    char model[MESSAGE_CANVAS_NAME_BYTES]; // what clients call it
    char file[MESSAGE_CANVAS_NAME_BYTES];  // its file's name, without folders
    struct image_model like;               // what it asks of a request
};
int message_canvas_parse(const json_t *draws, struct message_canvas *m, struct err *e);
json_t *message_canvas_json(const struct message_canvas *m);

enum message_canvas_word { MESSAGE_CANVAS_LOADING, MESSAGE_CANVAS_READY, MESSAGE_CANVAS_FAILED };

struct message_canvas_state {
    enum message_canvas_word word;
    char why[ERR_MESSAGE_BYTES]; // of a failure
    char library[64], version[64];
    bool previews;
    int64_t pid; // of the process that draws; -1: none
    uint32_t restarts;
    double load_s;
};
int message_canvas_state_parse(const json_t *head, struct message_canvas_state *m, struct err *e);
json_t *message_canvas_state_json(const struct message_canvas_state *m);

struct message_draw {
    struct image_request request; // its texts are those of `head`; initial and mask are NULL
    bool initial, mask;           // their pixels come
    json_t *head;                 // owned reference
};
int message_draw_parse(json_t *head, struct message_draw *m, struct err *e);
// Of a request that image_request_check has filled in.
json_t *message_draw_json(const struct image_request *r);
void message_draw_fini(struct message_draw *m);
size_t message_draw_bytes(const struct message_draw *m); // of its pixels

struct message_drawing {
    uint32_t index, step, steps;
    double step_s;
};
int message_drawing_parse(const json_t *head, struct message_drawing *m, struct err *e);
json_t *message_drawing_json(const struct message_drawing *m);

struct message_picture {
    uint32_t index, step, width, height;
    int64_t seed;
    bool preview;
};
int message_picture_parse(const json_t *head, struct message_picture *m, struct err *e);
json_t *message_picture_json(const struct message_picture *m);

int message_drawn_parse(const json_t *head, double *draw_s, struct err *e);
json_t *message_drawn_json(double draw_s);

// ---- pixels in pieces ------------------------------------------------------------------------------

// What is still coming. Allocated for `want` bytes, which are checked.
struct message_pixels {
    uint8_t *data; // owned; NULL: nothing is coming
    size_t got, want;
};
void message_pixels_begin(struct message_pixels *p, size_t want);
void message_pixels_fini(struct message_pixels *p);
// 1: it is whole; 0: more is needed; ERR_CORRUPT: nothing, or less, was to come.
int message_pixels_take(struct message_pixels *p, const struct wire_frame *f, struct err *e);
// The piece at `at`, with a copy of its bytes; *at moves on.
struct wire_frame message_pixels_frame(uint64_t id, const uint8_t *data, size_t n, size_t *at);

#endif
