#include "os/os.h"

#include "base/buf.h"
#include "os/system.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATH_BYTES 4096

void os_random(void *out, size_t n)
{
    uint8_t *p = out;
    while (n > 0) {
        size_t part = n < 256 ? n : 256; // the most getentropy gives at once
        if (getentropy(p, part)) {
            perror("tandem: the kernel gives no randomness");
            abort();
        }
        p += part;
        n -= part;
    }
}

uint64_t os_files_raise(uint64_t wanted)
{
    struct rlimit l;
    rlim_t had;
    if (getrlimit(RLIMIT_NOFILE, &l))
        return 0;
    had = l.rlim_cur;
    if (l.rlim_cur < wanted)
        l.rlim_cur = l.rlim_max == RLIM_INFINITY || l.rlim_max > wanted ? wanted : l.rlim_max;
    // Some systems refuse more than a limit of their own, whatever the hard one says.
    if (l.rlim_cur != had && setrlimit(RLIMIT_NOFILE, &l))
        return had;
    return l.rlim_cur;
}

int os_self_dir(char *out, size_t out_bytes, struct err *e)
{
    int rc = system_self_path(out, out_bytes);
    if (rc)
        return err_set(e, ERR_IO, "cannot find the path of this program: %s", strerror(rc));
    char *slash = strrchr(out, '/');
    if (slash && slash != out)
        *slash = '\0';
    return 0;
}

// ---- paths ---------------------------------------------------------------------------------------

static const char *env_get(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

static int path_format(char *out, size_t out_bytes, struct err *e, const char *a, const char *b)
{
    int n = snprintf(out, out_bytes, "%s%s", a, b);
    if (n < 0 || (size_t)n >= out_bytes)
        return err_set(e, ERR_RANGE, "path %s%s is longer than %zu bytes", a, b, out_bytes - 1);
    return 0;
}

static const char *home_get(void)
{
    const char *home = env_get("HOME");
    if (home)
        return home;
    const struct passwd *pw = getpwuid(getuid());
    return pw && pw->pw_dir && *pw->pw_dir ? pw->pw_dir : NULL;
}

// `whole` overrides everything; `xdg` has /tandem appended; else HOME with `under`.
static int xdg_dir(const char *whole, const char *xdg, const char *under, char *out,
                   size_t out_bytes, struct err *e)
{
    if (env_get(whole))
        return path_format(out, out_bytes, e, env_get(whole), "");
    // The specification says that a relative path in these variables is to be ignored.
    const char *base = env_get(xdg);
    if (base && base[0] == '/')
        return path_format(out, out_bytes, e, base, "/tandem");
    const char *home = home_get();
    if (!home)
        return err_set(e, ERR_NOT_FOUND, "no home folder: set HOME or %s", whole);
    return path_format(out, out_bytes, e, home, under);
}

int os_cache_dir(char *out, size_t out_bytes, struct err *e)
{
    return xdg_dir("TANDEM_CACHE", "XDG_CACHE_HOME", "/.cache/tandem", out, out_bytes, e);
}

int os_config_dir(char *out, size_t out_bytes, struct err *e)
{
    return xdg_dir("TANDEM_CONFIG", "XDG_CONFIG_HOME", "/.config/tandem", out, out_bytes, e);
}

int os_data_dir(char *out, size_t out_bytes, struct err *e)
{
    return xdg_dir("TANDEM_DATA", "XDG_DATA_HOME", "/.local/share/tandem", out, out_bytes, e);
}

int os_state_dir(char *out, size_t out_bytes, struct err *e)
{
    return xdg_dir("TANDEM_STATE", "XDG_STATE_HOME", "/.local/state/tandem", out, out_bytes, e);
}

static int dir_make(const char *path, struct err *e)
{
    if (mkdir(path, 0700) == 0)
        return 0;
    int saved = errno;
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    return err_set(e, ERR_IO, "cannot make folder %s: %s", path, strerror(saved));
}

int os_mkdirs(const char *path, struct err *e)
{
    char part[PATH_BYTES];
    if (!*path)
        return err_set(e, ERR_INVALID, "cannot make a folder without a name");
    int rc = path_format(part, sizeof part, e, path, "");
    for (char *p = part + 1; rc == 0 && *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        rc = dir_make(part, e);
        *p = '/';
    }
    return rc ? rc : dir_make(part, e);
}

// ---- whole files -----------------------------------------------------------------------------------

// Asks the open file, not its name: what is read is what was looked at.
static int file_check(int fd, const char *path, bool private, struct err *e)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return err_set(e, ERR_INVALID, "%s is not a regular file", path);
    if (private && (st.st_mode & 077) != 0)
        return err_set(e, ERR_AUTH, "%s can be read by others (mode %03o); run `chmod 600 %s`",
                       path, (unsigned)st.st_mode & 0777, path);
    return 0;
}

static int file_open(const char *path, bool private, struct err *e)
{
    // O_NONBLOCK: opening a FIFO by mistake must not wait for a writer.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(e, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO,
                       "cannot open %s: %s", path, strerror(errno));
    int rc = file_check(fd, path, private, e);
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

static int file_drain(int fd, const char *path, struct buf *b, struct err *e)
{
    for (;;) {
        char part[16384];
        ssize_t n = read(fd, part, sizeof part);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, ERR_IO, "cannot read %s: %s", path, strerror(errno));
        if (buf_put(b, part, (size_t)n) != 0)
            return err_set(e, ERR_RANGE, "%s is longer than the limit of %zu bytes", path, b->max);
        if (n == 0)
            return 0;
    }
}

static int file_read(const char *path, bool private, struct buf *b, struct err *e)
{
    int fd = file_open(path, private, e);
    int rc = fd < 0 ? fd : file_drain(fd, path, b, e);
    if (fd >= 0)
        close(fd);
    return rc;
}

static int read_end(struct buf *b, int rc, char **data, size_t *len)
{
    if (rc == 0) {
        *len = b->len;
        *data = buf_take(b);
    }
    buf_fini(b);
    return rc;
}

int os_file_read(const char *path, size_t max_bytes, char **data, size_t *len, struct err *e)
{
    struct buf b;
    buf_init(&b, max_bytes);
    return read_end(&b, file_read(path, false, &b, e), data, len);
}

int os_file_read_private(const char *path, size_t max_bytes, char **data, size_t *len,
                         struct err *e)
{
    struct buf b;
    buf_init(&b, max_bytes);
    return read_end(&b, file_read(path, true, &b, e), data, len);
}

static int write_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

// Makes the rename itself durable. Some file systems refuse to sync folders; that is not an error
// of ours.
static void parent_sync(const char *path)
{
    char dir[PATH_BYTES];
    snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (!slash)
        snprintf(dir, sizeof dir, ".");
    else
        slash[slash == dir] = '\0';
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

static int temp_fill(int fd, const void *data, size_t len, mode_t mode)
{
    int rc = fchmod(fd, mode) ? errno : 0;
    if (rc == 0)
        rc = write_all(fd, data, len);
    if (rc == 0 && fsync(fd))
        rc = errno;
    return rc;
}

int os_file_write(const char *path, const void *data, size_t len, mode_t mode, struct err *e)
{
    char temp[PATH_BYTES];
    int rc = path_format(temp, sizeof temp, e, path, ".XXXXXX");
    if (rc)
        return rc;
    int fd = mkstemp(temp); // 0600 until the content is complete
    if (fd < 0)
        return err_set(e, ERR_IO, "cannot write beside %s: %s", path, strerror(errno));
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    int saved = temp_fill(fd, data, len, mode);
    if (close(fd) && saved == 0)
        saved = errno;
    if (saved == 0 && rename(temp, path))
        saved = errno;
    if (saved) {
        unlink(temp);
        return err_set(e, ERR_IO, "cannot write %s: %s", path, strerror(saved));
    }
    parent_sync(path);
    return 0;
}
