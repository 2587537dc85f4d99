// RAPL's counters as Linux shows them: /sys/class/powercap/intel-rapl:N are packages (AMD's too), and below them
// intel-rapl:N:M are parts. Cores and what else is on the chip are in the package's own figure, memory is not.
#include "os/power_impl.h"
#include "os/system.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PACKAGES_MAX 16
#define PARTS_MAX 8

static bool number_read(const char *path, uint64_t *out)
{
    char text[64], *end = NULL;
    if (!system_file_line(path, text, sizeof text))
        return false;
    *out = strtoull(text, &end, 10);
    return end != text;
}

bool power_counter_get(const struct power_counter *c, uint64_t *uj)
{
    return number_read(c->path, uj);
}

struct search {
    const struct os_roots *roots;
    struct power_counter *out;
    size_t n, max;
    size_t packages, locked; // that were seen; counters that are not for us
};

static bool domain_named(const struct search *s, const char *domain, const char *name)
{
    char path[POWER_PATH_BYTES], text[64];
    snprintf(path, sizeof path, "%s/class/powercap/%s/name", s->roots->sys, domain);
    return system_file_line(path, text, sizeof text) && strncmp(text, name, strlen(name)) == 0;
}

static bool domain_add(struct search *s, const char *domain)
{
    struct power_counter c = {0};
    char path[POWER_PATH_BYTES];
    uint64_t uj = 0;
    snprintf(c.path, sizeof c.path, "%s/class/powercap/%s/energy_uj", s->roots->sys, domain);
    snprintf(path, sizeof path, "%s/class/powercap/%s/max_energy_range_uj", s->roots->sys, domain);
    if (!number_read(path, &c.range_uj))
        c.range_uj = 0;
    if (!number_read(c.path, &uj)) {
        s->locked += access(c.path, F_OK) == 0 && access(c.path, R_OK) != 0;
        return false;
    }
    if (s->n < s->max)
        s->out[s->n++] = c;
    return true;
}

size_t power_cpu_find(const struct os_roots *roots, struct power_counter *out, size_t max,
                      size_t *packages, char *why, size_t why_bytes)
{
    struct search s = {.roots = roots, .out = out, .max = max};
    char domain[64];
    for (int i = 0; i < PACKAGES_MAX; i++) {
        snprintf(domain, sizeof domain, "intel-rapl:%d", i);
        // "psys", where there is one, counts the packages once more.
        if (!domain_named(&s, domain, "package"))
            continue;
        s.packages += domain_add(&s, domain);
        for (int k = 0; k < PARTS_MAX; k++) {
            snprintf(domain, sizeof domain, "intel-rapl:%d:%d", i, k);
            if (domain_named(&s, domain, "dram"))
                domain_add(&s, domain);
        }
    }
    *packages = s.packages;
    if (s.locked > 0)
        snprintf(
            why, why_bytes,
            "%s/class/powercap/intel-rapl:*/energy_uj is for root alone; let this user read it "
            "(chmod g+r) or do without",
            roots->sys);
    else
        snprintf(why, why_bytes, "the processor has no counters in %s/class/powercap", roots->sys);
    return s.n;
}
