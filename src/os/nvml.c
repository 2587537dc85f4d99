#include "os/nvml.h"

#include <dlfcn.h>
#include <string.h>

// POSIX's way around C, which does not let a pointer to data become one to a function.
static void symbol_get(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
}

static void symbols_get(struct nvml *n)
{
    symbol_get(n->library, "nvmlInit_v2", &n->init);
    symbol_get(n->library, "nvmlShutdown", &n->shutdown);
    symbol_get(n->library, "nvmlDeviceGetCount_v2", &n->count);
    symbol_get(n->library, "nvmlDeviceGetHandleByIndex_v2", &n->device);
    symbol_get(n->library, "nvmlDeviceGetName", &n->name);
    symbol_get(n->library, "nvmlSystemGetDriverVersion", &n->driver);
    symbol_get(n->library, "nvmlDeviceGetMemoryInfo", &n->memory);
    symbol_get(n->library, "nvmlDeviceGetMemoryBusWidth", &n->bus_bits);
    symbol_get(n->library, "nvmlDeviceGetMaxClockInfo", &n->clock_max);
    symbol_get(n->library, "nvmlDeviceGetPowerUsage", &n->power);
    symbol_get(n->library, "nvmlDeviceGetTotalEnergyConsumption", &n->energy);
}

size_t nvml_open(struct nvml *n, const char *library)
{
    unsigned count = 0;
    *n = (struct nvml){0};
    n->library = library ? dlopen(library, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!n->library)
        return 0;
    symbols_get(n);
    if (n->init && n->shutdown && n->count && n->device && n->init() == 0) {
        if (n->count(&count) == 0 && count > 0)
            return count;
        n->shutdown();
    }
    dlclose(n->library);
    *n = (struct nvml){0};
    return 0;
}

void nvml_close(struct nvml *n)
{
    if (!n->library)
        return;
    n->shutdown();
    dlclose(n->library);
    *n = (struct nvml){0};
}
