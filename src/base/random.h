// Numbers that follow from a seed alone, the same on every machine: for tests and for training, never for
// secrets (os_random).
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stdint.h>

// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): every
// state is a good one, so a seed can be any number.
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

#endif
