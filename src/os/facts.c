#include "os/facts.h"

#include "base/json.h"
#include "os/facts_impl.h"
#include "os/nvml.h"
#include "os/os.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

const struct os_roots os_roots_default = {
    .sys = "/sys", .proc = "/proc", .nvml = "libnvidia-ml.so.1"};

// ---- GPUs ----------------------------------------------------------------------------------------

static void gpu_read(const struct nvml *n, void *device, struct os_gpu *g)
{
    struct nvml_memory memory = {0};
    unsigned bits = 0, mhz = 0;
    // The library ends what it writes; a strange one might not.
    if (!n->name || n->name(device, g->name, sizeof g->name - 1) != 0)
        snprintf(g->name, sizeof g->name, "an NVIDIA GPU");
    if (n->driver && n->driver(g->driver, sizeof g->driver - 1) != 0)
        g->driver[0] = '\0';
    g->name[sizeof g->name - 1] = g->driver[sizeof g->driver - 1] = '\0';
    if (n->memory && n->memory(device, &memory) == 0)
        g->memory_bytes = memory.total;
    // Two transfers in a cycle: all of GDDR and HBM count their clock that way.
    if (n->bus_bits && n->clock_max && n->bus_bits(device, &bits) == 0 &&
        n->clock_max(device, NVML_CLOCK_MEM, &mhz) == 0)
        g->memory_bytes_per_s = 2e6 * mhz * bits / 8;
}

static void gpus_read(const char *library, struct os_facts *f)
{
    struct nvml n;
    size_t count = nvml_open(&n, library);
    for (size_t i = 0; i < count && f->n_gpus < OS_GPUS_MAX; i++) {
        void *device = NULL;
        if (n.device((unsigned)i, &device) != 0)
            continue;
        struct os_gpu *g = &f->gpus[f->n_gpus++];
        gpu_read(&n, device, g);
        // Where processor and GPU share their memory the library tells none of its own.
        if (g->memory_bytes == 0)
            g->memory_bytes = f->memory_bytes;
    }
    nvml_close(&n);
}

struct os_nic *facts_nic_add(struct os_facts *f, const char *name)
{
    if (f->n_nics == OS_NICS_MAX)
        return NULL;
    struct os_nic *nic = &f->nics[f->n_nics++];
    snprintf(nic->name, sizeof nic->name, "%s", name);
    return nic;
}

void os_facts_read(const struct os_roots *roots, struct os_facts *f)
{
    struct utsname u;
    *f = (struct os_facts){.cores = os_cpu_count()};
    if (uname(&u) == 0)
        snprintf(f->system, sizeof f->system, "%.10s %.28s %.20s", u.sysname, u.release, u.machine);
    facts_system(roots, f);
    if (f->cores_physical == 0)
        f->cores_physical = f->cores;
    if (f->cores_fast == 0)
        f->cores_fast = f->cores_physical;
    gpus_read(roots->nvml, f);
}

void os_facts_get(struct os_facts *f)
{
    os_facts_read(&os_roots_default, f);
}

// ---- as JSON -------------------------------------------------------------------------------------

static json_t *gpu_json(const struct os_gpu *g)
{
    json_t *o = json_object();
    json_put(o, "name", json_string(g->name));
    json_put(o, "driver", json_string(g->driver));
    json_put(o, "memory_bytes", json_integer((json_int_t)g->memory_bytes));
    json_put(o, "memory_bytes_per_s", json_real(g->memory_bytes_per_s));
    return o;
}

static json_t *nic_json(const struct os_nic *n)
{
    json_t *o = json_object();
    json_put(o, "name", json_string(n->name));
    json_put(o, "bits_per_s", json_integer((json_int_t)n->bits_per_s));
    json_put(o, "wireless", json_boolean(n->wireless));
    return o;
}

json_t *os_facts_json(const struct os_facts *f)
{
    json_t *o = json_object(), *gpus = json_array(), *nics = json_array();
    for (size_t i = 0; i < f->n_gpus; i++)
        json_array_append_new(gpus, gpu_json(&f->gpus[i]));
    for (size_t i = 0; i < f->n_nics; i++)
        json_array_append_new(nics, nic_json(&f->nics[i]));
    json_put(o, "system", json_string(f->system));
    json_put(o, "cpu", json_string(f->cpu));
    json_put(o, "cores", json_integer(f->cores));
    json_put(o, "cores_physical", json_integer(f->cores_physical));
    json_put(o, "cores_fast", json_integer(f->cores_fast));
    json_put(o, "memory_bytes", json_integer((json_int_t)f->memory_bytes));
    json_put(o, "memory_bytes_per_s", json_real(f->memory_bytes_per_s));
    json_put(o, "gpus", gpus);
    json_put(o, "nics", nics);
    return o;
}

static int u64_get(const json_t *o, const char *member, uint64_t *out, struct err *e)
{
    int64_t v = 0;
    int rc = json_get_i64(o, member, 0, INT64_MAX, &v, e);
    *out = (uint64_t)v;
    return rc;
}

static int count_get(const json_t *o, const char *member, int *out, struct err *e)
{
    int64_t v = 0;
    int rc = json_get_i64(o, member, 0, 1 << 20, &v, e);
    *out = (int)v;
    return rc;
}

static int gpu_parse(const json_t *o, struct os_gpu *g, struct err *e)
{
    int rc = json_copy_string(o, "name", g->name, sizeof g->name, e);
    if (rc == 0)
        rc = json_copy_string(o, "driver", g->driver, sizeof g->driver, e);
    if (rc == 0)
        rc = u64_get(o, "memory_bytes", &g->memory_bytes, e);
    if (rc == 0)
        rc = json_get_f64(o, "memory_bytes_per_s", 0, 1e16, &g->memory_bytes_per_s, e);
    return rc;
}

static int nic_parse(const json_t *o, struct os_nic *n, struct err *e)
{
    int rc = json_copy_string(o, "name", n->name, sizeof n->name, e);
    if (rc == 0)
        rc = u64_get(o, "bits_per_s", &n->bits_per_s, e);
    if (rc == 0)
        rc = json_get_bool(o, "wireless", &n->wireless, e);
    return rc;
}

static int lists_parse(const json_t *o, struct os_facts *f, struct err *e)
{
    json_t *gpus = NULL, *nics = NULL;
    int rc = json_get_array(o, "gpus", &gpus, e);
    if (rc == 0)
        rc = json_get_array(o, "nics", &nics, e);
    for (size_t i = 0; rc == 0 && i < json_array_size(gpus) && i < OS_GPUS_MAX; i++)
        rc = gpu_parse(json_array_get(gpus, i), &f->gpus[f->n_gpus++], e);
    for (size_t i = 0; rc == 0 && i < json_array_size(nics) && i < OS_NICS_MAX; i++)
        rc = nic_parse(json_array_get(nics, i), &f->nics[f->n_nics++], e);
    return rc;
}

int os_facts_parse(const json_t *o, struct os_facts *f, struct err *e)
{
    *f = (struct os_facts){0};
    int rc = json_copy_string(o, "system", f->system, sizeof f->system, e);
    if (rc == 0)
        rc = json_copy_string(o, "cpu", f->cpu, sizeof f->cpu, e);
    if (rc == 0)
        rc = count_get(o, "cores", &f->cores, e);
    if (rc == 0)
        rc = count_get(o, "cores_physical", &f->cores_physical, e);
    if (rc == 0)
        rc = count_get(o, "cores_fast", &f->cores_fast, e);
    if (rc == 0)
        rc = u64_get(o, "memory_bytes", &f->memory_bytes, e);
    if (rc == 0)
        rc = json_get_f64(o, "memory_bytes_per_s", 0, 1e16, &f->memory_bytes_per_s, e);
    return rc == 0 ? lists_parse(o, f, e) : rc;
}
