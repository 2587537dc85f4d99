// What a machine is: its processor, memory, GPUs and network cards, as the system tells it or as it was
// measured. What the system does not tell is 0 or "", never guessed.
//
// Owner: nobody; a struct of plain values. Any thread; the calls read small files and may block on them, and
// the drivers of GPUs may take a second when they are woken. NVIDIA's library is loaded at run time where it
// is there, and a machine without it just has no GPUs in its facts.
//
// What it does not do: it watches nothing (power.h reads power) and decides nothing.
#ifndef OS_FACTS_H
#define OS_FACTS_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OS_GPUS_MAX 8
#define OS_NICS_MAX 8

struct os_gpu {
    char name[96];
    char driver[32];
    uint64_t memory_bytes;     // its own, or all of the machine's where they share it; 0: not told
    double memory_bytes_per_s; // by its clock and the width of its bus; 0: not told
};

struct os_nic {
    char name[32];
    uint64_t bits_per_s; // of the link, as negotiated; 0: not told (down, wireless, virtual)
    bool wireless;
};

struct os_facts {
    char system[64];           // "Linux 6.1.0 x86_64"
    char cpu[128];             // model name
    int cores;                 // usable by this process
    int cores_physical;        // of the machine, without their twins (hyperthreads)
    int cores_fast;            // of those: all of them, unless some are of a slower kind
    uint64_t memory_bytes;     // of the machine
    double memory_bytes_per_s; // reading, all usable cores together, as measured; 0: not yet
    struct os_gpu gpus[OS_GPUS_MAX];
    size_t n_gpus;
    struct os_nic nics[OS_NICS_MAX]; // without the loopback; those of hardware first
    size_t n_nics;
};

// Where to look; tests have trees and libraries of their own.
struct os_roots {
    const char *sys, *proc; // "/sys", "/proc"
    const char *nvml;       // the library; NULL: do without
};
extern const struct os_roots os_roots_default;

// All but the memory's bandwidth.
void os_facts_get(struct os_facts *f);
void os_facts_read(const struct os_roots *roots, struct os_facts *f);

// Reads memory with all usable cores for a fifth of a second, beyond any cache. Bytes per second; 0: there is no
// memory for it. What else the machine does meanwhile makes it less: `calm` tells whether the cores were free.
double os_bandwidth_measure(bool *calm);
// The same, measured once for a machine: the result lies in the state folder and holds while processor, memory
// and usable cores are those of `f`; what a busy machine gave is not kept. Where that folder cannot be used, each process measures for itself.
double os_bandwidth_get(const struct os_facts *f);

// {"system","cpu","cores","cores_physical","cores_fast","memory_bytes","memory_bytes_per_s",
//  "gpus":[{"name","driver","memory_bytes","memory_bytes_per_s"}],"nics":[{"name","bits_per_s","wireless"}]}
json_t *os_facts_json(const struct os_facts *f);
// Absent members are 0; lists that are too long lose their ends. ERR_INVALID or ERR_RANGE names a member that
// is wrong: a peer may have sent it.
int os_facts_parse(const json_t *o, struct os_facts *f, struct err *e);

#endif
