// Memory for training jobs on a machine that also serves: models that nobody uses just now are unloaded while
// jobs run and loaded again afterwards. Private to gateway/.
//
// The queue's thread asks, the core answers: room_make waits for its word. What is at work is never
// unloaded; a job that finds too little memory all the same says so itself (docs/training.md).
#ifndef GATEWAY_ROOM_H
#define GATEWAY_ROOM_H

#include "base/chan.h"
#include "jobs/jobs.h"

#include <stdatomic.h>

struct core;
struct images;

struct room {
    struct images *images;       // goes first; NULL: none. Set before the queue runs
    _Atomic(struct core *) core; // NULL: not there yet; release and acquire
    struct chan *answer;         // int: 0, or ERR_BUSY
    struct jobs_hooks hooks;     // for the queue; their context is this struct
};
void room_init(struct room *r);
void room_fini(struct room *r); // when neither the queue nor the core runs any more

#endif
