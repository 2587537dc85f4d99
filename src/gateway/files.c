#include "gateway/files.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define ID_PREFIX "file-"
#define ID_RANDOM_BYTES 12
#define META_MAX (1u << 14)  // bytes
#define PART_STALE_S 86400.0 // an upload that a crash ended

struct files_upload {
    char id[FILES_ID_BYTES];
    char part[FILES_PATH_BYTES + 48];
    int fd; // -1: ended
    uint64_t bytes;
};

json_t *files_json(const struct files_entry *f)
{
    json_t *o = json_object();

    json_put(o, "id", json_string(f->id));
    json_put(o, "object", json_string("file"));
    json_put(o, "bytes", json_integer((json_int_t)f->bytes));
    json_put(o, "created_at", json_integer(f->created_unix_s));
    json_put(o, "expires_at", json_null());
    json_put(o, "filename", json_string(f->name));
    json_put(o, "purpose", json_string(f->purpose));
    json_put(o, "status", json_string("processed"));
    json_put(o, "status_details", json_null());
    return o;
}

// ---- names on the disk ----------------------------------------------------------------------------------

static bool id_good(const char *id)
{
    size_t n = strlen(ID_PREFIX);
    uint8_t bytes[ID_RANDOM_BYTES];

    return strncmp(id, ID_PREFIX, n) == 0 && strlen(id + n) == 2 * sizeof(bytes) &&
           hex_decode(id + n, bytes, sizeof(bytes)) == 0;
}

static int dir_get(char *out, struct err *e)
{
    char state[FILES_PATH_BYTES - 80];
    int rc = os_state_dir(state, sizeof(state), e);

    if (rc == 0)
        snprintf(out, FILES_PATH_BYTES, "%s/files", state);
    return rc;
}

int files_path(const char *id, char out[FILES_PATH_BYTES], struct err *e)
{
    int rc = id_good(id) ? dir_get(out, e) : err_set(e, ERR_NOT_FOUND, "no file \"%.60s\"", id);
    size_t n = rc == 0 ? strlen(out) : 0;

    if (rc == 0)
        snprintf(out + n, FILES_PATH_BYTES - n, "/%s", id);
    return rc;
}

// ---- what a file is -------------------------------------------------------------------------------------

static int meta_parse(const json_t *o, struct files_entry *f, struct err *e)
{
    int64_t bytes = 0;
    int rc = json_copy_string(o, "filename", f->name, sizeof(f->name), e);

    if (rc == 0)
        rc = json_copy_string(o, "purpose", f->purpose, sizeof(f->purpose), e);
    if (rc == 0)
        rc = json_get_i64(o, "bytes", 0, INT64_MAX, &bytes, e);
    if (rc == 0)
        rc = json_get_i64(o, "created_at", 0, INT64_MAX, &f->created_unix_s, e);
    f->bytes = (uint64_t)bytes;
    return rc;
}

int files_find(const char *id, struct files_entry *out, struct err *e)
{
    char path[FILES_PATH_BYTES], *text = NULL;
    size_t n = 0;
    json_t *o = NULL;
    int rc = files_path(id, path, e);

    *out = (struct files_entry){0};
    if (rc == 0) {
        strncat(path, ".json", sizeof(path) - strlen(path) - 1);
        rc = os_file_read(path, META_MAX, &text, &n, e);
    }
    if (rc == ERR_NOT_FOUND)
        return err_set(e, rc, "there is no file \"%.60s\"; GET /v1/files lists those that are", id);
    if (rc == 0) {
        o = json_parse(text, n, e);
        rc = o ? meta_parse(o, out, e) : e->code;
    }
    if (rc == 0)
        snprintf(out->id, sizeof(out->id), "%s", id);
    json_decref(o);
    free(text);
    return rc;
}

static int newest_first(const void *a, const void *b)
{
    const struct files_entry *x = a, *y = b;

    if (x->created_unix_s != y->created_unix_s)
        return x->created_unix_s < y->created_unix_s ? 1 : -1;
    return strcmp(x->id, y->id);
}

static void list_add(struct files_list *l, const char *name)
{
    char id[FILES_ID_BYTES];
    struct files_entry f;
    struct err e = {0};
    size_t n = strlen(name);

    if (n < 6 || n - 5 >= sizeof(id) || strcmp(name + n - 5, ".json") != 0)
        return;
    snprintf(id, sizeof(id), "%.*s", (int)(n - 5), name);
    if (!id_good(id))
        return;
    if (files_find(id, &f, &e) != 0) {
        log_warn("files", "left out: %s", e.message);
        return;
    }
    l->items = mem_resize(l->items, (l->n + 1) * sizeof(*l->items));
    l->items[l->n++] = f;
}

int files_list_read(struct files_list *l, struct err *e)
{
    char dir[FILES_PATH_BYTES];
    const struct dirent *entry;
    DIR *d;
    int rc = dir_get(dir, e);

    *l = (struct files_list){0};
    if (rc != 0)
        return rc;
    d = opendir(dir);
    if (!d)
        return errno == ENOENT ? 0
                               : err_set(e, ERR_IO, "cannot open %.300s: %s", dir, strerror(errno));
    while ((entry = readdir(d)) && l->n < FILES_COUNT_MAX)
        list_add(l, entry->d_name);
    closedir(d);
    if (l->n > 1)
        qsort(l->items, l->n, sizeof(*l->items), newest_first);
    return 0;
}

void files_list_fini(struct files_list *l)
{
    free(l->items);
    *l = (struct files_list){0};
}

int files_remove(const char *id, struct err *e)
{
    char path[FILES_PATH_BYTES];
    struct files_entry f;
    int rc = files_find(id, &f, e);

    if (rc == 0)
        rc = files_path(id, path, e);
    if (rc != 0)
        return rc;
    unlink(path); // first: a file without its description is none
    strncat(path, ".json", sizeof(path) - strlen(path) - 1);
    if (unlink(path) != 0)
        return err_set(e, ERR_IO, "cannot remove %.300s: %s", path, strerror(errno));
    return 0;
}

// ---- coming in ------------------------------------------------------------------------------------------

static int room_check(const char *dir, struct err *e)
{
    struct files_list l;
    struct statvfs v;
    int rc = files_list_read(&l, e);

    if (rc == 0 && l.n >= FILES_COUNT_MAX)
        rc =
            err_set(e, ERR_RANGE, "there are %u files already; delete some first", FILES_COUNT_MAX);
    files_list_fini(&l);
    if (rc == 0 && statvfs(dir, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize < FILES_DISK_RESERVE)
        rc = err_set(e, ERR_IO, "the disk is full: %" PRIu64 " MB are free in %.300s",
                     (uint64_t)v.f_bavail * v.f_frsize >> 20, dir);
    return rc;
}

static void stale_remove(const char *dir)
{
    char path[FILES_PATH_BYTES + 300];
    const struct dirent *entry;
    struct stat st;
    DIR *d = opendir(dir);

    while (d && (entry = readdir(d))) {
        snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
        if (strncmp(entry->d_name, ".part-", 6) == 0 && stat(path, &st) == 0 &&
            (double)(clock_unix_s() - (int64_t)st.st_mtime) > PART_STALE_S)
            unlink(path);
    }
    if (d)
        closedir(d);
}

int files_upload_new(struct files_upload **out, struct err *e)
{
    char dir[FILES_PATH_BYTES];
    uint8_t random[ID_RANDOM_BYTES];
    struct files_upload *u;
    int rc = dir_get(dir, e);

    if (rc == 0)
        rc = os_mkdirs(dir, e);
    if (rc == 0)
        rc = room_check(dir, e);
    if (rc != 0)
        return rc;
    stale_remove(dir);
    u = mem_alloc(sizeof(*u));
    os_random(random, sizeof(random));
    snprintf(u->id, sizeof(u->id), ID_PREFIX);
    hex_encode(random, sizeof(random), u->id + strlen(ID_PREFIX));
    snprintf(u->part, sizeof(u->part), "%s/.part-%s", dir, u->id);
    u->fd = open(u->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (u->fd < 0) {
        rc = err_set(e, ERR_IO, "cannot make %.300s: %s", u->part, strerror(errno));
        free(u);
        return rc;
    }
    *out = u;
    return 0;
}

int files_upload_put(struct files_upload *u, const void *data, size_t n, struct err *e)
{
    const char *at = data;

    if (u->bytes + n > FILES_BYTES_MAX)
        return err_set(e, ERR_RANGE, "the file is larger than %llu MB, the most that is taken",
                       FILES_BYTES_MAX >> 20);
    while (n > 0) {
        ssize_t written = write(u->fd, at, n);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return err_set(e, ERR_IO, "the file cannot be written: %s; is the disk full?",
                           strerror(errno));
        at += written;
        n -= (size_t)written;
        u->bytes += (uint64_t)written;
    }
    return 0;
}

static int meta_write(const struct files_entry *f, const char *path, struct err *e)
{
    json_t *o = files_json(f);
    char *text = json_line(o), *meta = mem_format("%s.json", path);
    int rc = os_file_write(meta, text, strlen(text), 0600, e);

    free(meta);
    free(text);
    json_decref(o);
    return rc;
}

int files_upload_end(struct files_upload *u, const char *name, const char *purpose,
                     struct files_entry *out, struct err *e)
{
    char path[FILES_PATH_BYTES];
    int rc = files_path(u->id, path, e);

    *out = (struct files_entry){.bytes = u->bytes, .created_unix_s = clock_unix_s()};
    snprintf(out->id, sizeof(out->id), "%s", u->id);
    snprintf(out->name, sizeof(out->name), "%s", name);
    snprintf(out->purpose, sizeof(out->purpose), "%s", purpose);
    if (rc == 0 && fsync(u->fd) != 0)
        rc = err_set(e, ERR_IO, "the file cannot be written: %s", strerror(errno));
    if (rc == 0 && rename(u->part, path) != 0)
        rc = err_set(e, ERR_IO, "cannot rename %.300s: %s", u->part, strerror(errno));
    close(u->fd);
    u->fd = -1;
    if (rc == 0) {
        rc = meta_write(out, path, e);
        if (rc != 0)
            unlink(path);
    } else {
        unlink(u->part);
    }
    return rc;
}

void files_upload_free(struct files_upload *u)
{
    if (!u)
        return;
    if (u->fd >= 0) {
        close(u->fd);
        unlink(u->part);
    }
    free(u);
}
