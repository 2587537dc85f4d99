#include "os/os.h"

#include "os/system.h"

#include <errno.h>
#include <libproc.h>
#include <mach-o/dyld.h>
#include <mach/mach.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/proc.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysctl.h>
#include <unistd.h>

// macOS sends no signal when a parent dies; the child watches descriptor 3 for the end of file.
bool system_child_bind(pid_t parent)
{
    return getppid() == parent;
}

void system_close_from(int first)
{
    int limit = getdtablesize();
    for (int fd = first; fd < limit; fd++)
        close(fd);
}

int system_self_path(char *out, size_t out_bytes)
{
    char raw[4096];
    uint32_t n = sizeof raw;
    if (_NSGetExecutablePath(raw, &n))
        return ENAMETOOLONG;
    char *real = realpath(raw, NULL);
    if (!real)
        return errno;
    int length = snprintf(out, out_bytes, "%s", real);
    free(real);
    return length < 0 || (size_t)length >= out_bytes ? ENAMETOOLONG : 0;
}

int os_cpu_pin(const char *list, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "macOS cannot pin threads to cores (asked for %s)", list);
}

uint64_t system_sysctl_number(const char *name)
{
    uint64_t value = 0;
    size_t n = sizeof value;
    if (sysctlbyname(name, &value, &n, NULL, 0))
        return 0;
    if (n == sizeof(uint32_t)) {
        uint32_t narrow;
        memcpy(&narrow, &value, sizeof narrow);
        return narrow;
    }
    return value;
}

int os_cpu_count(void)
{
    uint64_t n = system_sysctl_number("hw.activecpu");
    return n ? (int)n : 1;
}

void os_thread_name(const char *name)
{
    char text[16];
    snprintf(text, sizeof text, "%.15s", name);
    pthread_setname_np(text);
}

int os_memory_get(pid_t pid, struct os_memory *m)
{
    *m = (struct os_memory){0};
    struct rusage_info_v4 info;
    if (proc_pid_rusage(pid, RUSAGE_INFO_V4, (rusage_info_t *)&info))
        return ERR_NOT_FOUND;
    m->resident_bytes = info.ri_resident_size;
    m->peak_bytes = info.ri_lifetime_max_phys_footprint;
    // The footprint counts dirty and compressed private memory, which is what we mean.
    m->anonymous_bytes = info.ri_phys_footprint;
    return 0;
}

int os_process_start(pid_t pid, uint64_t *start)
{
    struct proc_bsdinfo info;
    if (pid <= 0 || proc_pidinfo(pid, PROC_PIDTBSDINFO, 0, &info, sizeof info) != sizeof info ||
        info.pbi_status == SZOMB)
        return ERR_NOT_FOUND;
    *start = info.pbi_start_tvsec * 1000000u + info.pbi_start_tvusec;
    return 0;
}

uint64_t os_memory_available(void)
{
    vm_statistics64_data_t vm;
    mach_msg_type_number_t n = HOST_VM_INFO64_COUNT;
    if (host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t)&vm, &n) != KERN_SUCCESS)
        return 0;
    uint64_t pages = (uint64_t)vm.free_count + vm.inactive_count + vm.purgeable_count;
    return pages * system_sysctl_number("hw.pagesize");
}

long os_mtime_ns(const struct stat *st)
{
    return st->st_mtimespec.tv_nsec;
}

const char *system_dns_sd_library(void)
{
    return "/usr/lib/libSystem.B.dylib";
}
