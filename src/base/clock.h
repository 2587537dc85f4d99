// Time behind an interface, so that a test can run on a virtual clock.
// All times are nanoseconds of a monotonic clock of this process; durations are int64_t ns.
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define NS_PER_S 1000000000LL
#define NS_PER_MS 1000000LL
#define NS_PER_US 1000LL

struct clock {
    int64_t (*now_ns)(void *ctx);
    void (*sleep_until)(void *ctx, int64_t deadline_ns);
    void *ctx;
};

extern const struct clock clock_real; // CLOCK_MONOTONIC

int64_t clock_now_ns(void);                  // clock_real's now
void clock_sleep_until(int64_t deadline_ns); // on clock_real
int64_t clock_unix_s(void);                  // wall clock, for API answers and logs only

static inline double ns_to_s(int64_t ns)
{
    return (double)ns / 1e9;
}

#endif
