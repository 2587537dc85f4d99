// Locks that say who holds them. The lock is the kernel's and ends with its holder, however that ends; the
// words in the file are only read while it is held.
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

// Somebody who only looks holds a lock for an instant as well.
#define TRIES 20
#define TRY_NS 10000000L

bool os_process_lives(const struct os_process *p)
{
    uint64_t start = 0;
    return os_process_start(p->pid, &start) == 0 && start == p->start;
}

static int flock_patiently(int fd)
{
    const struct timespec pause = {.tv_nsec = TRY_NS};
    for (int i = 0; i < TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return errno;
        nanosleep(&pause, NULL);
    }
    return EWOULDBLOCK;
}

static int holder_write(int fd)
{
    char text[64];
    struct os_process self = {.pid = getpid()};
    if (os_process_start(self.pid, &self.start) != 0)
        self.start = 0;
    int n = snprintf(text, sizeof text, "%d %" PRIu64 "\n", (int)self.pid, self.start);
    return ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)n, 0) == n ? 0 : errno;
}

int os_lock_take(const char *path, int *fd, struct err *e)
{
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0)
        return err_set(e, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    int rc = flock_patiently(file);
    if (rc == 0)
        rc = holder_write(file);
    if (rc == 0) {
        *fd = file;
        return 0;
    }
    close(file);
    if (rc != EWOULDBLOCK)
        return err_set(e, ERR_IO, "cannot lock %s: %s", path, strerror(rc));
    struct os_process holder = {0};
    os_lock_holder(path, &holder);
    return err_set(e, ERR_BUSY, "process %d holds %s", (int)holder.pid, path);
}

bool os_lock_holder(const char *path, struct os_process *holder)
{
    char text[64] = "";
    int pid = 0;
    uint64_t start = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool held = flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    // The holder writes right after it locked.
    for (int i = 0; held && i < TRIES; i++) {
        const struct timespec pause = {.tv_nsec = TRY_NS};
        ssize_t n = pread(fd, text, sizeof text - 1, 0);
        text[n > 0 ? n : 0] = '\0';
        if (sscanf(text, "%d %" SCNu64, &pid, &start) == 2)
            break;
        nanosleep(&pause, NULL);
    }
    close(fd);
    *holder = (struct os_process){.pid = (pid_t)pid, .start = start};
    return held;
}
