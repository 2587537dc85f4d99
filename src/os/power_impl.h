// What the files of power share. Private to os/.
#ifndef OS_POWER_IMPL_H
#define OS_POWER_IMPL_H

#include "os/power.h"

#include <stddef.h>

#define POWER_COUNTERS_MAX 32
#define POWER_PATH_BYTES 512

// A counter of microjoules in a file.
struct power_counter {
    char path[POWER_PATH_BYTES];
    uint64_t range_uj; // it begins again at 0 behind this; 0: not told
    uint64_t last_uj;
    double joules; // since it was opened
};

// The processor's counters, and how many packages they are of. When there is none that can be read, `why` says so.
size_t power_cpu_find(const struct os_roots *roots, struct power_counter *out, size_t max,
                      size_t *packages, char *why, size_t why_bytes);
// The counter's file as it is now; false: it cannot be read.
bool power_counter_get(const struct power_counter *c, uint64_t *uj);

#endif
