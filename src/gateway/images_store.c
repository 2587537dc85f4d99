// STATE/images/OWNER-NAME: OWNER is the key's, as workers know it, or "-"; NAME 32 random hexadecimal digits and
// the format. Who knows the name may fetch the picture, with or without a key: nobody can guess it.
#include "gateway/images.h"

#include "base/buf.h"
#include "base/clock.h"
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PATH_BYTES 2048
#define RANDOM_BYTES 16
#define DISK_RESERVE (64u << 20) // that must stay free
#define NOBODY "none"

static int folder_get(char out[PATH_BYTES], struct err *e)
{
    char state[PATH_BYTES - 32];
    int rc = os_state_dir(state, sizeof(state), e);

    if (rc == 0)
        snprintf(out, PATH_BYTES, "%s/images", state);
    return rc;
}

// Calls `each` with the folder and every file's owner and name; stops when that says so.
struct walk {
    bool (*each)(struct walk *w, const char *path, const char *owner, const char *name);
    const char *owner, *name;
    int64_t older_than_unix_s;
    uint64_t count;
    char found[PATH_BYTES];
};

static bool split(const char *file, char owner[MESSAGE_OWNER_BYTES], const char **name)
{
    const char *dash = strchr(file, '-');
    size_t n = dash ? (size_t)(dash - file) : 0;

    if (n == 0 || n >= MESSAGE_OWNER_BYTES || file[0] == '.')
        return false;
    snprintf(owner, MESSAGE_OWNER_BYTES, "%.*s", (int)n, file);
    *name = dash + 1;
    return true;
}

static void walk_run(struct walk *w)
{
    char folder[PATH_BYTES], path[PATH_BYTES], owner[MESSAGE_OWNER_BYTES];
    const char *name;
    const struct dirent *entry;
    bool on = true;
    DIR *d = folder_get(folder, NULL) == 0 ? opendir(folder) : NULL;

    while (on && d && (entry = readdir(d))) {
        if (!split(entry->d_name, owner, &name) ||
            (size_t)snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name) >= sizeof(path))
            continue;
        on = w->each(w, path, owner, name);
    }
    if (d)
        closedir(d);
}

// ---- keeping --------------------------------------------------------------------------------------------

static bool count_each(struct walk *w, const char *path, const char *owner, const char *name)
{
    (void)path;
    (void)owner;
    (void)name;
    w->count++;
    return true;
}

uint64_t images_store_count(void)
{
    struct walk w = {.each = count_each};

    walk_run(&w);
    return w.count;
}

int images_store_room(uint64_t files, uint64_t bytes, struct err *e)
{
    char folder[PATH_BYTES];
    struct statvfs v;
    int rc = folder_get(folder, e);

    if (rc == 0)
        rc = os_mkdirs(folder, e);
    if (rc != 0)
        return rc;
    if (images_store_count() + files > IMAGES_STORE_MAX)
        return err_set(e, ERR_BUSY,
                       "%u pictures are kept to be fetched already; they go after a while, or with "
                       "\"tandem forget\"",
                       IMAGES_STORE_MAX);
    if (statvfs(folder, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize < bytes + DISK_RESERVE)
        return err_set(e, ERR_BUSY,
                       "the disk is nearly full: %llu MB are free, and pictures want %llu",
                       (unsigned long long)v.f_bavail * v.f_frsize >> 20,
                       (unsigned long long)(bytes + DISK_RESERVE) >> 20);
    return 0;
}

int images_store_put(const char *owner, enum image_format format, const void *data, size_t n,
                     char name[IMAGES_STORE_NAME_BYTES], struct err *e)
{
    char folder[PATH_BYTES], path[PATH_BYTES + 160], hex[2 * RANDOM_BYTES + 1];
    uint8_t random[RANDOM_BYTES];
    struct err why = {0};
    int rc = images_store_room(1, n, &why);

    if (rc != 0)
        return err_set(e, rc, "%s; ask for \"b64_json\" instead", why.message);
    rc = folder_get(folder, e);
    if (rc != 0)
        return rc;
    os_random(random, sizeof(random));
    hex_encode(random, sizeof(random), hex);
    snprintf(name, IMAGES_STORE_NAME_BYTES, "%s.%s", hex, image_format_name(format));
    snprintf(path, sizeof(path), "%s/%s-%s", folder, owner[0] ? owner : NOBODY, name);
    return os_file_write(path, data, n, 0600, e);
}

// ---- fetching -------------------------------------------------------------------------------------------

static bool name_good(const char *name, enum image_format *format)
{
    uint8_t random[RANDOM_BYTES];
    char hex[2 * RANDOM_BYTES + 1];
    struct err e = {0};

    if (strlen(name) < sizeof(hex) + 1 || name[sizeof(hex) - 1] != '.')
        return false;
    snprintf(hex, sizeof(hex), "%.*s", 2 * RANDOM_BYTES, name);
    return hex_decode(hex, random, sizeof(random)) == 0 &&
           image_format_parse(name + sizeof(hex), format, &e) == 0;
}

static bool find_each(struct walk *w, const char *path, const char *owner, const char *name)
{
    (void)owner;
    if (strcmp(name, w->name) != 0)
        return true;
    snprintf(w->found, sizeof(w->found), "%s", path);
    return false;
}

// The path of one, whoever's it is. False: there is none.
static bool found(const char *name, enum image_format *format, char out[PATH_BYTES])
{
    struct walk w = {.each = find_each, .name = name};

    if (name_good(name, format))
        walk_run(&w);
    memcpy(out, w.found, PATH_BYTES);
    return out[0] != '\0';
}

int images_store_open(const char *name, int64_t expiry_s, int *fd, uint64_t *bytes,
                      enum image_format *format, struct err *e)
{
    char path[PATH_BYTES];
    struct stat st;

    *fd = -1;
    if (found(name, format, path))
        *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (*fd >= 0 && fstat(*fd, &st) == 0 && S_ISREG(st.st_mode) &&
        (int64_t)st.st_mtime > clock_unix_s() - expiry_s) {
        *bytes = (uint64_t)st.st_size;
        return 0;
    }
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return err_set(e, ERR_NOT_FOUND,
                   "there is no picture \"%.60s\" (any more): they are kept for %lld s; ask for "
                   "\"b64_json\" to get one at once",
                   name, (long long)expiry_s);
}

void images_store_renew(const char *name)
{
    enum image_format format;
    char path[PATH_BYTES];

    if (found(name, &format, path))
        utimensat(AT_FDCWD, path, NULL, 0);
}

// ---- removing -------------------------------------------------------------------------------------------

static bool expire_each(struct walk *w, const char *path, const char *owner, const char *name)
{
    struct stat st;

    (void)owner;
    (void)name;
    if (stat(path, &st) == 0 && (int64_t)st.st_mtime <= w->older_than_unix_s && unlink(path) == 0)
        w->count++;
    return true;
}

static bool forget_each(struct walk *w, const char *path, const char *owner, const char *name)
{
    (void)name;
    if ((!w->owner || strcmp(owner, w->owner) == 0) && unlink(path) == 0)
        w->count++;
    return true;
}

void images_store_remove(const char *name)
{
    enum image_format format;
    char path[PATH_BYTES];

    if (found(name, &format, path))
        unlink(path);
}

uint64_t images_store_expire(int64_t expiry_s)
{
    struct walk w = {.each = expire_each, .older_than_unix_s = clock_unix_s() - expiry_s};

    walk_run(&w);
    return w.count;
}

uint64_t images_store_forget(const char *owner)
{
    struct walk w = {.each = forget_each, .owner = owner};

    walk_run(&w);
    return w.count;
}
