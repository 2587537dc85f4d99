// Facts as macOS tells them, by sysctl.
#include "os/facts_impl.h"

#include "os/system.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysctl.h>

#define TYPE_ETHERNET 6 // IFT_ETHER of net/if_types.h, which not every kit of headers has

// On Apple's chips the GPU is a part of the chip and sees all of the memory.
static void gpu_add(struct os_facts *f)
{
    if (system_sysctl_number("hw.optional.arm64") == 0)
        return;
    struct os_gpu *g = &f->gpus[f->n_gpus++];
    snprintf(g->name, sizeof g->name, "%.90s GPU", f->cpu);
    snprintf(g->driver, sizeof g->driver, "Metal");
    g->memory_bytes = f->memory_bytes;
}

static void nics_read(struct os_facts *f)
{
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) != 0)
        return;
    for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
        const struct if_data *data = a->ifa_data;
        bool wanted = a->ifa_addr && a->ifa_addr->sa_family == AF_LINK && data &&
                      (a->ifa_flags & IFF_RUNNING) && !(a->ifa_flags & IFF_LOOPBACK) &&
                      data->ifi_type == TYPE_ETHERNET;
        struct os_nic *nic = wanted ? facts_nic_add(f, a->ifa_name) : NULL;
        if (nic)
            nic->bits_per_s = data->ifi_baudrate;
    }
    freeifaddrs(list);
}

void facts_system(const struct os_roots *roots, struct os_facts *f)
{
    size_t n = sizeof f->cpu;
    (void)roots;
    if (sysctlbyname("machdep.cpu.brand_string", f->cpu, &n, NULL, 0))
        snprintf(f->cpu, sizeof f->cpu, "unknown");
    f->memory_bytes = system_sysctl_number("hw.memsize");
    f->cores_physical = (int)system_sysctl_number("hw.physicalcpu");
    // Level 0 are the fast ones; older chips have one kind and do not tell levels.
    f->cores_fast = (int)system_sysctl_number("hw.perflevel0.physicalcpu");
    gpu_add(f);
    nics_read(f);
}
