// Vectors of floats as wide as the machine that this is built for has them (cmake/Llama.cmake), for the loops of
// the trainer that are its own: the compiler's vector types, no intrinsics.
#ifndef TRAIN_VECTOR_H
#define TRAIN_VECTOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VEC_FLOATS 16
#elif defined(__AVX__)
#define VEC_FLOATS 8
#else
#define VEC_FLOATS 4
#endif

typedef float vec __attribute__((vector_size(VEC_FLOATS * sizeof(float)), aligned(4), may_alias));
typedef int32_t vec_bits __attribute__((vector_size(VEC_FLOATS * sizeof(float))));

static inline vec vec_of(float value)
{
    return (vec){0} + value;
}

static inline vec vec_max(vec a, vec b)
{
    vec_bits more = a > b;
    return (vec)((more & (vec_bits)a) | (~more & (vec_bits)b));
}

// The first n of VEC_FLOATS values, zeros behind them.
static inline vec vec_part(const float *from, size_t n)
{
    float values[VEC_FLOATS] = {0};
    memcpy(values, from, n * sizeof *from);
    return *(const vec *)values;
}

static inline float vec_sum(vec x)
{
    float sum = 0;
    for (int i = 0; i < VEC_FLOATS; i++)
        sum += x[i];
    return sum;
}

static inline float vec_most(vec x)
{
    float most = x[0];
    for (int i = 1; i < VEC_FLOATS; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

// e^x within 2e-7 of its size; below -87 the result is e^-87, above 88 e^88. Cut at the nearest power of two, the
// rest by its series to the sixth power (|r| <= 0.35).
static inline vec vec_exp(vec x)
{
    x = -vec_max(-vec_max(x, vec_of(-87)), vec_of(-88));
    vec whole = x * 1.44269504f + 12582912.0f - 12582912.0f; // rounds: 1.5 * 2^23
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec y = r * (1.0f / 720) + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1;
    y = y * r + 1;
    return (vec)((vec_bits)y + (__builtin_convertvector(whole, vec_bits) << 23));
}

#endif
