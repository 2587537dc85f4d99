// macOS tells power to root alone, through powermetrics; what lies below that is not documented. So there is none.
#include "os/power_impl.h"

#include <stdio.h>

bool power_counter_get(const struct power_counter *c, uint64_t *uj)
{
    (void)c;
    (void)uj;
    return false;
}

size_t power_cpu_find(const struct os_roots *roots, struct power_counter *out, size_t max,
                      size_t *packages, char *why, size_t why_bytes)
{
    (void)roots;
    (void)out;
    (void)max;
    *packages = 0;
    snprintf(why, why_bytes, "macOS tells power to root alone (sudo powermetrics)");
    return 0;
}
