// Condition variables that wait on clock_now_ns's scale, so that a step of the wall clock neither
// cuts a wait short nor prolongs it. How this is done differs by system: cond_linux.c, cond_darwin.c.
//
// Owner and threads: as for the pthread_cond_t underneath, which is waited on with its mutex held.
#ifndef BASE_COND_H
#define BASE_COND_H

#include <pthread.h>
#include <stdint.h>

void cond_init(pthread_cond_t *cond);
// Waits for a signal or the deadline (INT64_MAX: none). 0, or ERR_TIMEOUT once the deadline passed.
// Wakes up without a signal at times, as every condition variable does.
int cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t deadline_ns);

#endif
