// The text of a running answer: token pieces in, valid UTF-8 out, with stop strings that may lie
// across token borders. Pure; owned by the engine thread.
//
// Bytes are held back while they are an incomplete UTF-8 sequence, or while they could be the
// beginning of a stop string. Bytes that can never become UTF-8 come out as U+FFFD.
#ifndef NODE_TEXT_H
#define NODE_TEXT_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>

struct text_stream {
    struct buf held;    // not yet given out
    char *const *stops; // borrowed
    size_t n_stops;
    const char *stopped; // the stop string that was met (borrowed), or NULL
};

void text_stream_init(struct text_stream *t, char *const *stops, size_t n_stops);
void text_stream_fini(struct text_stream *t);
// Adds a piece; appends what may go out to `out`. True when a stop string was met: the text before
// it has gone out, it and what follows have not.
bool text_stream_put(struct text_stream *t, const char *piece, size_t n, struct buf *out);
// The end of the answer: gives out what is held (an incomplete sequence as U+FFFD).
void text_stream_end(struct text_stream *t, struct buf *out);

#endif
