#include "plan/nearest.h"

#include "base/distance.h"

#include <ctype.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define NEAREST 3

static void lower(const char *s, char out[DISTANCE_MAX_BYTES + 1])
{
    size_t n = strnlen(s, DISTANCE_MAX_BYTES);
    for (size_t i = 0; i < n; i++)
        out[i] = (char)tolower((unsigned char)s[i]);
    out[n] = '\0';
}

// Smaller is nearer.
static unsigned farness(const char *typed, const char *name)
{
    char a[DISTANCE_MAX_BYTES + 1], b[DISTANCE_MAX_BYTES + 1];
    lower(typed, a);
    lower(name, b);
    unsigned d = (unsigned)distance_of(a, b);
    if (typed[0] != '\0' && strcasestr(name, typed) != NULL)
        return d / 8;
    return d;
}

void plan_nearest(const char *typed, const json_t *names, char *out, size_t out_bytes)
{
    const char *best[NEAREST] = {NULL};
    unsigned far[NEAREST] = {UINT_MAX, UINT_MAX, UINT_MAX};
    const char *name;
    json_t *entry;
    size_t n = 0;
    json_object_foreach((json_t *)names, name, entry)
    {
        unsigned d = farness(typed, name);
        for (size_t i = 0; i < NEAREST; i++) {
            if (d >= far[i])
                continue;
            for (size_t k = NEAREST - 1; k > i; k--) {
                best[k] = best[k - 1];
                far[k] = far[k - 1];
            }
            best[i] = name;
            far[i] = d;
            break;
        }
    }
    if (out_bytes > 0)
        snprintf(out, out_bytes, "(none)");
    for (size_t i = 0; i < NEAREST && best[i] != NULL && n < out_bytes; i++) {
        int put = snprintf(out + n, out_bytes - n, "%s%s", i > 0 ? ", " : "", best[i]);
        n += put > 0 ? (size_t)put : 0;
    }
}
