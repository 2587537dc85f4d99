#include "os/power_impl.h"

#include "base/buf.h"
#include "base/clock.h"
#include "os/nvml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gpu {
    void *device;
    bool counts; // energy; else only power is told
    double last; // joules counted, or watts
    double joules;
};

struct os_power {
    struct power_counter counters[POWER_COUNTERS_MAX];
    size_t n_counters;
    struct nvml nvml;
    struct gpu gpus[OS_GPUS_MAX];
    size_t n_gpus;
    int64_t read_ns;
    char source[OS_POWER_SOURCE_BYTES];
};

// ---- processors ----------------------------------------------------------------------------------

static void counter_read(struct power_counter *c)
{
    uint64_t now = 0, used = 0;
    if (!power_counter_get(c, &now))
        return;
    if (now >= c->last_uj)
        used = now - c->last_uj;
    else if (c->range_uj >= c->last_uj) // it has begun again
        used = c->range_uj - c->last_uj + now;
    c->joules += (double)used / 1e6;
    c->last_uj = now;
}

// ---- GPUs ----------------------------------------------------------------------------------------

static bool gpu_joules(const struct nvml *n, const struct gpu *g, double *out)
{
    unsigned long long mj = 0;
    if (!n->energy || n->energy(g->device, &mj) != 0)
        return false;
    *out = (double)mj / 1e3;
    return true;
}

static bool gpu_watts(const struct nvml *n, const struct gpu *g, double *out)
{
    unsigned mw = 0;
    if (!n->power || n->power(g->device, &mw) != 0)
        return false;
    *out = mw / 1e3;
    return true;
}

static void gpus_open(struct os_power *p, const char *library)
{
    size_t n = nvml_open(&p->nvml, library);
    for (size_t i = 0; i < n && p->n_gpus < OS_GPUS_MAX; i++) {
        struct gpu g = {0};
        if (p->nvml.device((unsigned)i, &g.device) != 0)
            continue;
        g.counts = gpu_joules(&p->nvml, &g, &g.last);
        if (g.counts || gpu_watts(&p->nvml, &g, &g.last))
            p->gpus[p->n_gpus++] = g;
    }
}

static void gpu_read(const struct os_power *p, struct gpu *g, double seconds)
{
    double now = 0;
    if (!(g->counts ? gpu_joules(&p->nvml, g, &now) : gpu_watts(&p->nvml, g, &now)))
        return;
    if (!g->counts)
        g->joules += (now + g->last) / 2 * seconds;
    else if (now > g->last) // a driver that was loaded again begins anew
        g->joules += now - g->last;
    g->last = now;
}

// ---- the meter -----------------------------------------------------------------------------------

static void source_tell(struct os_power *p, size_t packages)
{
    char cpu[OS_POWER_SOURCE_BYTES / 2] = "", gpu[OS_POWER_SOURCE_BYTES / 2] = "";
    if (p->n_counters > 0)
        snprintf(cpu, sizeof cpu, "RAPL (%zu package%s)", packages, packages == 1 ? "" : "s");
    if (p->n_gpus > 0)
        snprintf(gpu, sizeof gpu, "NVML (%zu GPU%s)", p->n_gpus, p->n_gpus == 1 ? "" : "s");
    snprintf(p->source, sizeof p->source, "%s%s%s", cpu, cpu[0] && gpu[0] ? ", " : "", gpu);
}

int os_power_open(const struct os_roots *roots, int64_t now_ns, struct os_power **out,
                  struct err *e)
{
    struct os_power *p = mem_alloc(sizeof *p);
    char why[ERR_MESSAGE_BYTES / 2] = "";
    size_t packages = 0;
    p->n_counters =
        power_cpu_find(roots, p->counters, POWER_COUNTERS_MAX, &packages, why, sizeof why);
    for (size_t i = 0; i < p->n_counters; i++)
        power_counter_get(&p->counters[i], &p->counters[i].last_uj);
    gpus_open(p, roots->nvml);
    p->read_ns = now_ns;
    source_tell(p, packages);
    if (p->n_counters + p->n_gpus > 0) {
        *out = p;
        return 0;
    }
    os_power_close(p);
    return err_set(e, ERR_NOT_FOUND, "power cannot be read here: %s; no NVIDIA GPU tells any", why);
}

void os_power_close(struct os_power *p)
{
    if (!p)
        return;
    nvml_close(&p->nvml);
    free(p);
}

struct os_power_reading os_power_read(struct os_power *p, int64_t now_ns)
{
    struct os_power_reading r = {0};
    double seconds = ns_to_s(now_ns - p->read_ns);
    p->read_ns = now_ns;
    for (size_t i = 0; i < p->n_counters; i++) {
        counter_read(&p->counters[i]);
        r.cpu_joules += p->counters[i].joules;
    }
    for (size_t i = 0; i < p->n_gpus; i++) {
        gpu_read(p, &p->gpus[i], seconds);
        r.gpu_joules += p->gpus[i].joules;
    }
    return r;
}

const char *os_power_source(const struct os_power *p)
{
    return p->source;
}
