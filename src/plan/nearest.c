#include "plan/nearest.h"

#include <ctype.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define LETTERS_MAX 63
#define NEAREST 3

static unsigned letter(const char *s, size_t i)
{
    return (unsigned)tolower((unsigned char)s[i]);
}

static unsigned least(unsigned a, unsigned b, unsigned c)
{
    unsigned m = a < b ? a : b;
    return m < c ? m : c;
}

// Letters to be changed, added or left out (Levenshtein, one row at a time).
static unsigned distance(const char *a, const char *b)
{
    unsigned row[LETTERS_MAX + 1];
    size_t na = strnlen(a, LETTERS_MAX), nb = strnlen(b, LETTERS_MAX);
    for (size_t j = 0; j <= nb; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned corner = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned changed = corner + (letter(a, i - 1) != letter(b, j - 1));
            corner = row[j];
            row[j] = least(changed, row[j] + 1, row[j - 1] + 1);
        }
    }
    return row[nb];
}

// Smaller is nearer.
static unsigned farness(const char *typed, const char *name)
{
    unsigned d = distance(typed, name);
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
