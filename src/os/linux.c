#include "os/os.h"

#include "os/system.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

bool system_child_bind(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    // The parent may have died before the line above: then nobody will send the signal.
    return getppid() == parent;
}

void system_close_from(int first)
{
    if (syscall(SYS_close_range, (unsigned)first, UINT_MAX, 0) == 0)
        return;
    long limit = sysconf(_SC_OPEN_MAX);
    for (int fd = first; fd < (limit > 0 ? limit : 65536); fd++)
        close(fd);
}

int system_self_path(char *out, size_t out_bytes)
{
    ssize_t n = readlink("/proc/self/exe", out, out_bytes);
    if (n < 0)
        return errno;
    if ((size_t)n >= out_bytes)
        return ENAMETOOLONG;
    out[n] = '\0';
    return 0;
}

// ---- cores ---------------------------------------------------------------------------------------

// Reads a number of at most five digits and moves *text behind it; -1 where there is none.
static int core_parse(const char **text)
{
    int value = -1;
    for (int digits = 0; digits < 5 && **text >= '0' && **text <= '9'; digits++, (*text)++)
        value = (value < 0 ? 0 : value) * 10 + (**text - '0');
    return value;
}

// "0,2-3" into a set; 0 or ERR_INVALID.
static int core_list_parse(const char *list, cpu_set_t *set)
{
    CPU_ZERO(set);
    for (;;) {
        int first = core_parse(&list);
        int last = first;
        if (*list == '-') {
            list++;
            last = core_parse(&list);
        }
        if (first < 0 || last < first || last >= CPU_SETSIZE)
            return ERR_INVALID;
        for (int i = first; i <= last; i++)
            CPU_SET((size_t)i, set);
        if (*list == '\0')
            return 0;
        if (*list++ != ',')
            return ERR_INVALID;
    }
}

int os_cpu_pin(const char *list, struct err *e)
{
    cpu_set_t set;
    if (core_list_parse(list, &set))
        return err_set(e, ERR_INVALID, "'%s' is not a list of cores; write it like 0,2-3", list);
    if (sched_setaffinity(0, sizeof set, &set))
        return err_set(e, ERR_INVALID, "cannot run on cores %s: %s (this machine has %d)", list,
                       strerror(errno), os_cpu_count());
    return 0;
}

int os_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

void os_thread_name(const char *name)
{
    char text[16];
    snprintf(text, sizeof text, "%.15s", name);
    pthread_setname_np(pthread_self(), text);
}

// ---- small files ----------------------------------------------------------------------------------

bool system_file_value(const char *path, const char *key, char *out, size_t out_bytes)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool found = false;
    char line[1024];
    while (!found && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || !colon)
            continue;
        const char *value = colon + 1 + strspn(colon + 1, " \t");
        snprintf(out, out_bytes, "%.*s", (int)strcspn(value, "\n"), value);
        found = *out != '\0';
    }
    fclose(f);
    return found;
}

bool system_file_line(const char *path, char *out, size_t out_bytes)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool found = fgets(out, (int)out_bytes, f) != NULL;
    fclose(f);
    if (found)
        out[strcspn(out, "\n")] = '\0';
    return found && *out;
}

// ---- processes and memory ------------------------------------------------------------------------

// A "VmRSS:   1234 kB" line of a status file, in bytes.
static uint64_t status_bytes(const char *path, const char *key)
{
    char text[64];
    if (!system_file_value(path, key, text, sizeof text))
        return 0;
    return strtoull(text, NULL, 10) * 1024;
}

int os_memory_get(pid_t pid, struct os_memory *m)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    *m = (struct os_memory){
        .resident_bytes = status_bytes(path, "VmRSS"),
        .peak_bytes = status_bytes(path, "VmHWM"),
        .anonymous_bytes = status_bytes(path, "RssAnon"),
    };
    return m->resident_bytes ? 0 : ERR_NOT_FOUND;
}

int os_process_start(pid_t pid, uint64_t *start)
{
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (pid <= 0 || !system_file_line(path, line, sizeof line))
        return ERR_NOT_FOUND;
    // Behind the name, which may hold anything: state is field 3, the start field 22.
    const char *at = strrchr(line, ')');
    if (!at || at[1] != ' ' || at[2] == 'Z' || at[2] == 'X')
        return ERR_NOT_FOUND;
    at += 2;
    for (int field = 3; field < 22 && at; field++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    *start = at ? strtoull(at, NULL, 10) : 0;
    return at ? 0 : ERR_NOT_FOUND;
}

// A file that holds one number, as control groups have them; "max", which is no number, and no file at
// all give `otherwise`.
static uint64_t file_number(const char *path, uint64_t otherwise)
{
    char line[64], *end = NULL;
    if (!system_file_line(path, line, sizeof line))
        return otherwise;
    uint64_t v = strtoull(line, &end, 10);
    return end != line ? v : otherwise;
}

// What the limit of the group that this process sees as its root leaves; UINT64_MAX without one.
static uint64_t group_available(void)
{
    char text[64];
    uint64_t limit = file_number("/sys/fs/cgroup/memory.max", UINT64_MAX);
    uint64_t used = file_number("/sys/fs/cgroup/memory.current", 0);
    if (limit == UINT64_MAX)
        return UINT64_MAX;
    // Pages of files that nobody used lately are given back first.
    FILE *f = fopen("/sys/fs/cgroup/memory.stat", "re");
    while (f && fgets(text, sizeof text, f)) {
        uint64_t inactive = strtoull(text + strcspn(text, " "), NULL, 10);
        if (strncmp(text, "inactive_file ", 14) == 0)
            used = used > inactive ? used - inactive : 0;
    }
    if (f)
        fclose(f);
    return limit > used ? limit - used : 1;
}

uint64_t os_memory_available(void)
{
    uint64_t machine = status_bytes("/proc/meminfo", "MemAvailable");
    uint64_t group = group_available();
    return machine < group ? machine : group;
}

long os_mtime_ns(const struct stat *st)
{
    return st->st_mtim.tv_nsec;
}

const char *system_dns_sd_library(void)
{
    return "libdns_sd.so.1";
}
