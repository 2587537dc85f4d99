// How far one short name is from another: for "did you mean".
#ifndef BASE_DISTANCE_H
#define BASE_DISTANCE_H

#include <stddef.h>

#define DISTANCE_MAX_BYTES 63

// Letters to be changed, added, left out or swapped with their neighbour (optimal string alignment).
// SIZE_MAX where a name is longer than DISTANCE_MAX_BYTES.
size_t distance_of(const char *a, const char *b);

#endif
