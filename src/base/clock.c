#include "base/clock.h"

#include <time.h>

static int64_t clock_read(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

int64_t clock_now_ns(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

void clock_sleep_until(int64_t deadline_ns)
{
    for (;;) {
        int64_t left = deadline_ns - clock_now_ns();
        if (left <= 0)
            return;
        struct timespec t = {.tv_sec = (time_t)(left / NS_PER_S),
                             .tv_nsec = (long)(left % NS_PER_S)};
        nanosleep(&t, NULL); // cut short by a signal: the loop sleeps the rest
    }
}

int64_t clock_unix_s(void)
{
    return (int64_t)time(NULL);
}

static int64_t real_now(void *ctx)
{
    (void)ctx;
    return clock_now_ns();
}

static void real_sleep_until(void *ctx, int64_t deadline_ns)
{
    (void)ctx;
    clock_sleep_until(deadline_ns);
}

const struct clock clock_real = {.now_ns = real_now, .sleep_until = real_sleep_until};
