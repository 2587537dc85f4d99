// A stand-in for NVIDIA's management library: what it tells depends on the environment's FAKE_NVML. "all": two
// GPUs, of which the second one tells little; "none": a driver without a GPU; else: no driver.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOT_SUPPORTED 3
#define DRIVER_NOT_LOADED 9

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetCount_v2(unsigned *n);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
int nvmlDeviceGetName(void *device, char *out, unsigned bytes);
int nvmlSystemGetDriverVersion(char *out, unsigned bytes);
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *out);
int nvmlDeviceGetMemoryBusWidth(void *device, unsigned *bits);
int nvmlDeviceGetMaxClockInfo(void *device, unsigned clock, unsigned *mhz);
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts);
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules);

static int devices[2];
static unsigned long long told_mj;

static int told(const char *what)
{
    const char *v = getenv("FAKE_NVML");
    return v && strcmp(v, what) == 0;
}

static int second(const void *device)
{
    return device == &devices[1];
}

int nvmlInit_v2(void)
{
    return told("all") || told("none") ? 0 : DRIVER_NOT_LOADED;
}

int nvmlShutdown(void)
{
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *n)
{
    *n = told("all") ? 2 : 0;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
{
    *device = &devices[index & 1];
    return index > 1 ? 2 : 0;
}

int nvmlDeviceGetName(void *device, char *out, unsigned bytes)
{
    snprintf(out, bytes, "Fake H100");
    return second(device) ? NOT_SUPPORTED : 0;
}

int nvmlSystemGetDriverVersion(char *out, unsigned bytes)
{
    snprintf(out, bytes, "550.54");
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *out)
{
    if (second(device))
        return NOT_SUPPORTED;
    out[0] = 80ull << 30;
    out[1] = out[2] = 40ull << 30;
    return 0;
}

int nvmlDeviceGetMemoryBusWidth(void *device, unsigned *bits)
{
    *bits = 5120;
    return second(device) ? NOT_SUPPORTED : 0;
}

int nvmlDeviceGetMaxClockInfo(void *device, unsigned clock, unsigned *mhz)
{
    *mhz = clock == 2 ? 2619 : 1;
    return second(device) ? NOT_SUPPORTED : 0;
}

// The first one counts its energy, 10 J more whenever it is asked; the second one only tells its power.
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts)
{
    *milliwatts = second(device) ? 50000 : 1;
    return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules)
{
    *millijoules = told_mj += 10000;
    return second(device) ? NOT_SUPPORTED : 0;
}
