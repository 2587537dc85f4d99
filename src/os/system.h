// What os/posix.c asks of the file of this system. Nobody outside os/ includes this.
#ifndef OS_SYSTEM_H
#define OS_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// In a child between fork and exec: only async-signal-safe calls. `parent` is who forked. Returns
// false when the parent is gone already.
bool system_child_bind(pid_t parent);
// The same place: closes every descriptor from `first` on.
void system_close_from(int first);
// Path of the running executable; 0 or an errno.
int system_self_path(char *out, size_t out_bytes);

// The library that has Bonjour's calls.
const char *system_dns_sd_library(void);

// Linux only. The first line of a file; the text behind "key" and a colon in the first such line. False where
// there is none, or it is empty.
bool system_file_line(const char *path, char *out, size_t out_bytes);
bool system_file_value(const char *path, const char *key, char *out, size_t out_bytes);
// macOS only. 0 where there is no such number.
uint64_t system_sysctl_number(const char *name);

#endif
