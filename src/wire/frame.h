// Private to wire/: reading and writing one frame on a connection.
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include "wire/wire.h"

// How a frame is read. Two deadlines: an absolute one for the whole frame, or, with progress_ns, one
// for its first byte and a time within which each further byte must come.
struct wire_receive {
    int64_t deadline_ns;
    int64_t progress_ns; // 0: deadline_ns holds for the whole frame
    int (*body_get)(void *ctx, const struct wire_frame *f, size_t n, struct wire_body *body,
                    struct err *e); // NULL: malloc
    void *ctx;
};

// ERR_CLOSED: the peer ended between two frames; ERR_CORRUPT: inside one. `f` is empty on failure.
int wire_frame_receive(struct net_conn *c, const struct wire_receive *how, struct wire_frame *f,
                       struct err *e);

// ERR_RANGE when the peer would refuse the frame, ERR_INVALID for an unknown type.
int wire_frame_check(const struct wire_frame *f, struct err *e);

struct wire_header wire_frame_header(const struct wire_frame *f);

#endif
