// NVIDIA's management library, as much of it as is needed, declared here after its public documentation and
// loaded at run time: a machine without a driver does without. Private to os/.
//
// nvmlReturn_t is an int whose 0 is success; a device is an opaque pointer. One struct may be used by one
// thread at a time; the library itself counts who opened it.
#ifndef OS_NVML_H
#define OS_NVML_H

#include <stddef.h>
#include <stdint.h>

#define NVML_CLOCK_MEM 2

struct nvml_memory {
    unsigned long long total, free, used; // bytes
};

struct nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(unsigned *n);
    int (*device)(unsigned index, void **device);
    // From here on each may be absent.
    int (*name)(void *device, char *out, unsigned bytes);
    int (*driver)(char *out, unsigned bytes);
    int (*memory)(void *device, struct nvml_memory *out);
    int (*bus_bits)(void *device, unsigned *bits);
    int (*clock_max)(void *device, unsigned clock, unsigned *mhz);
    int (*power)(void *device, unsigned *milliwatts);
    int (*energy)(void *device, unsigned long long *millijoules); // since the driver was loaded
};

// How many GPUs; 0, and nothing to close: the library or the driver is not there.
size_t nvml_open(struct nvml *n, const char *library);
void nvml_close(struct nvml *n);

#endif
