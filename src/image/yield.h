// Whether a picture waits between two of its steps while others work on the same machine: for as long as they do,
// but a step is let through now and then, so that everything has an end.
//
// A plain struct; one thread's, which tells the worker (image_worker_pause) what comes out.
#ifndef IMAGE_YIELD_H
#define IMAGE_YIELD_H

#include "base/clock.h"

#include <stdbool.h>
#include <stdint.h>

#define IMAGE_PATIENCE_NS (5 * NS_PER_S) // without a step

struct image_yield {
    bool paused, step_let;
    int64_t since_ns; // of the pause
    uint64_t pauses;
    double paused_s; // of those that are over
};
// Is it to wait now? busy: a picture is there, and others have something to do.
bool image_yield_tick(struct image_yield *y, bool busy, int64_t now_ns);
// The step that was let through is done.
void image_yield_stepped(struct image_yield *y);
void image_yield_reset(struct image_yield *y); // another worker; figures are kept

#endif
