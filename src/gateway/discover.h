// Nodes that announce themselves on the local network (os/discover.h): what is there and not used is told once in
// the log and stands in the status; with GATEWAY_DISCOVER_USE it is dialled, and the cluster key decides. Private
// to gateway/; the core thread's alone, but for the search itself, which has a thread of its own.
//
// A stranger's announcement costs little: at most DISCOVER_TRIES addresses are tried at one time, one that does not
// prove within DISCOVER_TRY_NS that it holds the key is let go of again and left alone, for longer each time. Nodes
// found like that are not kept over a restart: they are found again.
#ifndef GATEWAY_DISCOVER_H
#define GATEWAY_DISCOVER_H

#include "base/clock.h"

#include <jansson.h>
#include <stdint.h>

#define DISCOVER_LOOK_NS NS_PER_S
#define DISCOVER_TRIES 4
#define DISCOVER_TRY_NS (6 * NS_PER_S)
#define DISCOVER_AGAIN_MIN_NS (60 * NS_PER_S)
#define DISCOVER_AGAIN_MAX_NS (3600 * NS_PER_S)

struct core;

// Before the core's thread runs. Where there is nothing to look with, the log says so and nothing is found.
void discover_begin(struct core *c);
void discover_end(struct core *c); // after it
// Looks at what is there; returns when it wants to be called again.
int64_t discover_tick(struct core *c, int64_t now_ns);
// [{"name","address","id","version","models","why"}]: what is on the network and not used.
json_t *discover_json(struct core *c);

#endif
