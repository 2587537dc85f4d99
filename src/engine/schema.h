// What turning a request's JSON schemas into a grammar would cost, told before it is done.
//
// The library that does it writes each object's optional properties out in the order of every one that may be the first,
// so that time grows with the cube of their number: 300 in one object take a fraction of a second, 1,000 half a minute, of
// the thread that renders and of the one that computes. So they are counted first. Required ones cost next to nothing.
//
// Pure: no threads, no state.
#ifndef ENGINE_SCHEMA_H
#define ENGINE_SCHEMA_H

#include "base/err.h"

#include <jansson.h>

// Of optional properties to the third power, summed over all objects: 322 in one object, 33 objects of 100.
#define SCHEMA_WORK_MAX (1u << 25)

// Of the request's tools and of what binds its answer. ERR_INVALID with the number of properties that is too large.
int schema_weigh(const json_t *request, struct err *e);

#endif
