#include "image/yield.h"

bool image_yield_tick(struct image_yield *y, bool busy, int64_t now_ns)
{
    if (busy && y->paused && now_ns - y->since_ns >= IMAGE_PATIENCE_NS)
        y->step_let = true;
    bool pause = busy && !y->step_let;
    if (pause && !y->paused)
        y->since_ns = now_ns;
    if (!pause && y->paused)
        y->paused_s += ns_to_s(now_ns - y->since_ns);
    y->pauses += pause && !y->paused;
    y->paused = pause;
    return pause;
}

void image_yield_stepped(struct image_yield *y)
{
    y->step_let = false;
}

void image_yield_reset(struct image_yield *y)
{
    y->paused = y->step_let = false;
}
