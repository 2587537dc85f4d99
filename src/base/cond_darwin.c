#include "base/clock.h"
#include "base/cond.h"
#include "base/err.h"

#include <errno.h>
#include <time.h>

void cond_init(pthread_cond_t *cond)
{
    pthread_cond_init(cond, NULL);
}

// macOS has no monotonic clock attribute, but a wait of a relative length.
int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_ns)
{
    if (deadline_ns == INT64_MAX) {
        pthread_cond_wait(cond, mutex);
        return 0;
    }
    int64_t left = deadline_ns - clock_now_ns();
    if (left <= 0)
        return ERR_TIMEOUT;
    struct timespec t = {.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
    int rc = pthread_cond_timedwait_relative_np(cond, mutex, &t);
    return rc == ETIMEDOUT ? ERR_TIMEOUT : 0;
}
