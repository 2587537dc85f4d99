// What this machine's chips use, in joules, from the counters that it has: RAPL's of Intel's and AMD's processors
// (Linux), NVML's of NVIDIA's GPUs. No counter sees the whole machine: power supply, disks, fans and, with some
// processors, memory are missing, so figures of unlike machines compare roughly.
//
// A counter that runs over is followed as long as it is read at least once in every round: RAPL's take about
// an hour at full load. A GPU that only tells its power is integrated between two readings.
//
// Owner: one thread at a time per meter. A reading takes some microseconds per processor and up to a few
// milliseconds per GPU.
//
// Where nothing can be read there is no meter, and the error says why: on most systems RAPL's files are for root
// alone (they tell an attacker about secrets), in virtual machines there are none, and macOS tells power to root
// alone, through its powermetrics program.
#ifndef OS_POWER_H
#define OS_POWER_H

#include "base/err.h"
#include "os/facts.h"

#include <stdint.h>

#define OS_POWER_SOURCE_BYTES 96

struct os_power;

// Since the meter was opened.
struct os_power_reading {
    double cpu_joules, gpu_joules;
};

// 0, or ERR_NOT_FOUND: nothing can be read, and why.
int os_power_open(const struct os_roots *roots, int64_t now_ns, struct os_power **out,
                  struct err *e);
void os_power_close(struct os_power *p);
struct os_power_reading os_power_read(struct os_power *p, int64_t now_ns);
// What is read, in words: "RAPL (2 packages), NVML (1 GPU)".
const char *os_power_source(const struct os_power *p);

#endif
