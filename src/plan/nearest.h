// Which names a mistyped one may have meant. Pure.
#ifndef PLAN_NEAREST_H
#define PLAN_NEAREST_H

#include <jansson.h>
#include <stddef.h>

// The three members of `names` (an object) nearest to `typed`, with commas; one that begins with what was
// typed, or holds it, is nearer than one that is only spelled alike.
void plan_nearest(const char *typed, const json_t *names, char *out, size_t out_bytes);

#endif
