// Facts as Linux tells them: files under /proc and /sys, of which containers and older kernels lack some.
#include "os/facts_impl.h"

#include "os/os.h"
#include "os/system.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define PATH_BYTES 512
#define CPUS_MAX 4096
#define NICS_SEEN_MAX 64

static bool line_read(char *out, size_t out_bytes, const char *root, const char *under)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", root, under);
    return system_file_line(path, out, out_bytes);
}

// ---- cores ---------------------------------------------------------------------------------------

// The first core of a list like "0,64" or "4-7"; -1: it does not begin with a number.
static long list_first(const char *list)
{
    char *end = NULL;
    long v = strtol(list, &end, 10);
    return end == list ? -1 : v;
}

// Is that core in a list like "0-7,16"?
static bool list_has(const char *list, long core)
{
    while (*list) {
        char *end = NULL;
        long first = strtol(list, &end, 10), last = first;
        if (end == list)
            return false;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        if (core >= first && core <= last)
            return true;
        list = *end == ',' ? end + 1 : end;
        if (*end != ',')
            return false;
    }
    return false;
}

// What tells fast cores from slow ones: on x86 a list of the fast ones, on ARM a number for each.
struct kinds {
    char fast[256];
    long capacity_max;
    int n_capacity_max; // so many physical cores have it
};

static void core_count(const struct os_roots *roots, int cpu, struct kinds *k, struct os_facts *f)
{
    char under[96], text[128];
    snprintf(under, sizeof under, "devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    // Twins share a list: who stands first in it stands for the core.
    if (!line_read(text, sizeof text, roots->sys, under) || list_first(text) != cpu)
        return;
    f->cores_physical++;
    if (k->fast[0] && list_has(k->fast, cpu))
        f->cores_fast++;
    snprintf(under, sizeof under, "devices/system/cpu/cpu%d/cpu_capacity", cpu);
    if (!line_read(text, sizeof text, roots->sys, under))
        return;
    long capacity = list_first(text);
    if (capacity > k->capacity_max) {
        k->capacity_max = capacity;
        k->n_capacity_max = 0;
    }
    k->n_capacity_max += capacity > 0 && capacity == k->capacity_max;
}

static void cores_read(const struct os_roots *roots, struct os_facts *f)
{
    struct kinds k = {0};
    char path[PATH_BYTES];
    if (!line_read(k.fast, sizeof k.fast, roots->sys, "devices/cpu_core/cpus"))
        k.fast[0] = '\0';
    for (int cpu = 0; cpu < CPUS_MAX; cpu++) {
        snprintf(path, sizeof path, "%s/devices/system/cpu/cpu%d", roots->sys, cpu);
        if (access(path, F_OK) != 0)
            break;
        core_count(roots, cpu, &k, f);
    }
    if (f->cores_fast == 0)
        f->cores_fast = k.n_capacity_max;
}

// ---- processor and memory ------------------------------------------------------------------------

static void cpu_read(const struct os_roots *roots, struct os_facts *f)
{
    char path[PATH_BYTES];
    struct utsname u;
    snprintf(path, sizeof path, "%s/cpuinfo", roots->proc);
    // ARM kernels give no model name; what the maker calls the board says more than "aarch64".
    if (system_file_value(path, "model name", f->cpu, sizeof f->cpu) ||
        line_read(f->cpu, sizeof f->cpu, roots->sys, "class/dmi/id/product_name") ||
        line_read(f->cpu, sizeof f->cpu, roots->proc, "device-tree/model"))
        return;
    snprintf(f->cpu, sizeof f->cpu, "%.64s", uname(&u) == 0 ? u.machine : "unknown");
}

static void memory_read(const struct os_roots *roots, struct os_facts *f)
{
    char path[PATH_BYTES], text[64];
    snprintf(path, sizeof path, "%s/meminfo", roots->proc);
    if (system_file_value(path, "MemTotal", text, sizeof text))
        f->memory_bytes = strtoull(text, NULL, 10) * 1024;
}

// ---- network cards -------------------------------------------------------------------------------

static bool nic_has(const struct os_roots *roots, const char *name, const char *what)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/class/net/%.31s/%.32s", roots->sys, name, what);
    return access(path, F_OK) == 0;
}

static void nic_read(const struct os_roots *roots, const char *name, struct os_facts *f)
{
    char under[128], text[64] = "";
    struct os_nic *nic = NULL;
    snprintf(under, sizeof under, "class/net/%.32s/operstate", name);
    if (line_read(text, sizeof text, roots->sys, under) && strcmp(text, "down") == 0)
        return;
    if (!(nic = facts_nic_add(f, name)))
        return;
    nic->wireless = nic_has(roots, name, "wireless") || nic_has(roots, name, "phy80211");
    snprintf(under, sizeof under, "class/net/%.32s/speed", name);
    // In megabits; -1 where there is no such thing.
    if (!nic->wireless && line_read(text, sizeof text, roots->sys, under) && list_first(text) > 0)
        nic->bits_per_s = (uint64_t)list_first(text) * 1000000;
}

static int name_order(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void nics_read(const struct os_roots *roots, struct os_facts *f)
{
    static const char *const loopback = "lo";
    char path[PATH_BYTES], names[NICS_SEEN_MAX][32];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/class/net", roots->sys);
    DIR *d = opendir(path);
    for (struct dirent *entry; d && n < NICS_SEEN_MAX && (entry = readdir(d));)
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, loopback) != 0 &&
            strlen(entry->d_name) < sizeof names[0])
            snprintf(names[n++], sizeof names[0], "%.31s", entry->d_name);
    if (d)
        closedir(d);
    qsort(names, n, sizeof names[0], name_order);
    // Those with a device behind them first: bridges and tunnels say little.
    for (int hardware = 1; hardware >= 0; hardware--)
        for (size_t i = 0; i < n; i++)
            if (nic_has(roots, names[i], "device") == (bool)hardware)
                nic_read(roots, names[i], f);
}

void facts_system(const struct os_roots *roots, struct os_facts *f)
{
    cpu_read(roots, f);
    cores_read(roots, f);
    memory_read(roots, f);
    nics_read(roots, f);
}
