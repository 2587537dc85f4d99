// What os/posix.c asks of the file of this system. Nobody outside os/ includes this.
#ifndef OS_SYSTEM_H
#define OS_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

// In a child between fork and exec: only async-signal-safe calls. `parent` is who forked. Returns
// false when the parent is gone already.
bool system_child_bind(pid_t parent);
// The same place: closes every descriptor from `first` on.
void system_close_from(int first);
// Path of the running executable; 0 or an errno.
int system_self_path(char *out, size_t out_bytes);

#endif
