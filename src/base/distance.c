#include "base/distance.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

size_t distance_of(const char *a, const char *b)
{
    size_t rows[3][DISTANCE_MAX_BYTES + 1]; // of the last two letters of `a`, and of this one
    size_t *before = rows[0], *last = rows[1], *now = rows[2], *spare;
    size_t na = strlen(a), nb = strlen(b);
    if (na > DISTANCE_MAX_BYTES || nb > DISTANCE_MAX_BYTES)
        return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++)
        last[j] = j;
    for (size_t i = 1; i <= na; i++) {
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t change = last[j - 1] + (a[i - 1] != b[j - 1]);
            size_t step = (last[j] < now[j - 1] ? last[j] : now[j - 1]) + 1;
            now[j] = step < change ? step : change;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < now[j])
                now[j] = before[j - 2] + 1;
        }
        spare = before, before = last, last = now, now = spare;
    }
    return last[nb];
}
