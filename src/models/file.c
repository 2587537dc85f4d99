#include "models/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int models_file_get(void *ctx, uint64_t at, void *out, size_t n, struct err *e)
{
    int fd = *(int *)ctx;
    uint8_t *p = out;
    while (n > 0) {
        ssize_t got = pread(fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set(e, ERR_IO, "cannot be read: %s", strerror(errno));
        if (got == 0)
            return err_set(e, ERR_CORRUPT, "became shorter while it was read");
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

int models_file_open(const char *path, const char *kind, uint64_t *bytes, struct err *e)
{
    struct stat st;
    // O_NONBLOCK: opening a FIFO by mistake must not wait for a writer.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(e, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO, "%s",
                       strerror(errno));
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        *bytes = (uint64_t)st.st_size;
        return fd;
    }
    close(fd);
    return err_set(e, ERR_INVALID, "not a regular file; give the path of %s", kind);
}
