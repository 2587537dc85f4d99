// What differs by operating system: processes, cores, memory, paths, randomness. Whole files implement
// it per system (os/linux.c, os/darwin.c); what is POSIX lives in os/posix.c and os/spawn.c.
//
// Owner: nobody; there is no state behind these calls. What they hand out is the caller's: a child's
// process id, which the caller waits for and kills, a file's bytes, which it frees. Descriptors that go
// in stay the caller's, also after a spawn.
//
// Threads: any thread may call anything at any time. Two calls concern the thread that makes them: the
// pinning to cores (inherited by threads it starts later), and on Linux a child that dies with its
// parent dies with the very thread that spawned it. Files may block on the disk, and
// os_spawn until the child has become its program; nothing here waits for a child's end.
//
// What it does not do: it runs no shell, supervises no child (node/supervisor.c), opens no socket
// (net/), reads no clock (base/clock.h) and logs nothing: errors go back with the system's own words.
#ifndef OS_OS_H
#define OS_OS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// ---- processes -----------------------------------------------------------------------------

struct os_spawn {
    const char *const *argv; // argv[0] is the path; NULL-terminated; never a shell string
    const int *fds;          // descriptors the child gets as 3, 4, ... in this order
    size_t n_fds;
    int stderr_fd; // -1: inherit
    int stdout_fd; // -1: inherit
    bool
        die_with_parent; // Linux: PR_SET_PDEATHSIG(SIGKILL); elsewhere the child must watch fd 3 for EOF
    bool new_group;      // own process group, so that kill(-pid, ...) reaches grandchildren
    bool new_session; // own session and group: neither Ctrl-C nor a closed terminal ends it
    bool huge_pages;  // what it allocates comes in huge pages, where the system has any
};

// Starts a child with stdin on /dev/null, every other descriptor closed and default signals. The
// parent-death signal of Linux follows the thread that called this, not only the process. 0 and *pid, or an error
// (ERR_NOT_FOUND when the program is not there).
int os_spawn(const struct os_spawn *s, pid_t *pid, struct err *e);

// A pipe whose ends no child inherits unasked; 0 or ERR_IO.
int os_pipe(int fds[2], struct err *e);

// When a process started, in ticks of the system's own: together with the id it means one process, also after
// the id was given to another. ERR_NOT_FOUND: there is none of that id, or it has ended.
int os_process_start(pid_t pid, uint64_t *start);

struct os_process {
    pid_t pid;
    uint64_t start; // os_process_start's
};
bool os_process_lives(const struct os_process *p);
// Locks the file at `path` (made with 0600) and writes who holds it: *fd is to be closed, which, like the
// process's end, lets go. ERR_BUSY when another process has it. Children do not inherit it.
int os_lock_take(const char *path, int *fd, struct err *e);
// Whether somebody holds the lock of that file, and who.
bool os_lock_holder(const char *path, struct os_process *holder);

// How a child ended, in words ("exit code 3", "signal 6 (Aborted)").
void os_exit_text(int wait_status, char *out, size_t out_bytes);

// The folder of the running executable, without a trailing slash.
int os_self_dir(char *out, size_t out_bytes, struct err *e);

// ---- cores and memory -----------------------------------------------------------------------

// Pins the calling thread (and threads it makes later) to the listed cores: "0", "0,2-3".
// ERR_INVALID for a list that does not parse or names no core of this machine; ERR_UNSUPPORTED on macOS.
int os_cpu_pin(const char *list, struct err *e);
int os_cpu_count(void);
// Names this thread for debuggers and `top -H` (15 bytes).
void os_thread_name(const char *name);

// Memory of a process in bytes: resident now, its peak, and the part of it that is private and
// not backed by a file. 0 where the system does not tell.
struct os_memory {
    uint64_t resident_bytes;
    uint64_t peak_bytes;
    uint64_t anonymous_bytes;
};
int os_memory_get(pid_t pid, struct os_memory *m);
// Bytes that programs of this machine can still have, what the system would give back for it (file caches)
// included; within a container, what its limit leaves. 0 where the system does not tell.
uint64_t os_memory_available(void);

// Raises this process's limit of open descriptors to `wanted`, or as near as is allowed. Returns the limit
// as it is then. Children inherit it.
uint64_t os_files_raise(uint64_t wanted);

// ---- paths ------------------------------------------------------------------------------------

// XDG folders with /tandem appended; TANDEM_CACHE, TANDEM_CONFIG, TANDEM_DATA and TANDEM_STATE override
// whole.
int os_cache_dir(char *out, size_t out_bytes, struct err *e);
int os_config_dir(char *out, size_t out_bytes, struct err *e);
int os_data_dir(char *out, size_t out_bytes, struct err *e);
int os_state_dir(char *out, size_t out_bytes, struct err *e);
// Random, in hex: made when it is first asked for and kept in the state folder. Machines that share a home folder
// share it too, unless TANDEM_STATE tells their folders apart. ERR_CORRUPT: the file holds something else.
#define OS_ID_HEX 32
int os_machine_id(char id[OS_ID_HEX + 1], struct err *e);
// mkdir -p with mode 0700.
int os_mkdirs(const char *path, struct err *e);
// Reads a whole regular file of at most max_bytes; adds a NUL; caller frees.
int os_file_read(const char *path, size_t max_bytes, char **data, size_t *len, struct err *e);
// The same of a file that holds a key: ERR_AUTH where its mode lets others at it.
int os_file_read_private(const char *path, size_t max_bytes, char **data, size_t *len,
                         struct err *e);
// Writes aside, fsyncs, renames: the file is either the old or the new content. mode as for chmod.
int os_file_write(const char *path, const void *data, size_t len, mode_t mode, struct err *e);

// The part below a second of a file's time of change, in ns: with st_mtime it tells versions apart.
struct stat;
long os_mtime_ns(const struct stat *st);

// Cryptographic randomness from the kernel; aborts if there is none.
void os_random(void *out, size_t n);

#endif
