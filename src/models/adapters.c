#include "models/adapters.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "models/adapters_impl.h"
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MANIFEST "manifest.json"
#define MANIFEST_MAX (1u << 16) // bytes
#define MANIFEST_VERSION 1
#define ADAPTER "adapter.gguf"
#define LOCK ".lock"

static int path_join(char out[MODELS_PATH_BYTES], const char *dir, const char *name, struct err *e)
{
    int n = snprintf(out, MODELS_PATH_BYTES, "%s/%s", dir, name);
    if (n < 0 || n >= MODELS_PATH_BYTES)
        return err_set(e, ERR_RANGE, "path %.200s/... is longer than %d bytes", dir,
                       MODELS_PATH_BYTES - 1);
    return 0;
}

int adapters_dir(char out[MODELS_PATH_BYTES], struct err *e)
{
    char data[MODELS_PATH_BYTES];
    int rc = os_data_dir(data, sizeof data, e);
    return rc ? rc : path_join(out, data, "adapters", e);
}

int adapters_name_check(const char *name, struct err *e)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "._-";
    size_t n = strspn(name, allowed);
    if (n == 0 || n >= ADAPTERS_NAME_BYTES || name[n] != '\0' || name[0] == '.' || name[0] == '-')
        return err_set(e, ERR_INVALID,
                       "\"%.80s\" cannot name an adapter; 1 to %d letters, digits, '.', '_' and "
                       "'-', with a letter or digit first",
                       name, ADAPTERS_NAME_BYTES - 1);
    return 0;
}

void adapters_new_default(struct adapters_new *n)
{
    *n = (struct adapters_new){.loss_trainer = (double)NAN, .loss_engine = (double)NAN};
}

// ---- the manifest --------------------------------------------------------------------------------

static json_t *number_json(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static int manifest_write(const struct adapters_entry *a, const char *dir, struct err *e)
{
    char path[MODELS_PATH_BYTES];
    json_t *o = json_object();
    json_put(o, "version", json_integer(MANIFEST_VERSION));
    json_put(o, "name", json_string(a->name));
    json_put(o, "base", adapters_base_json(&a->base));
    json_put(o, "sha256", json_string(a->sha256));
    json_put(o, "bytes", json_integer((json_int_t)a->bytes));
    json_put(o, "rank", json_integer(a->rank));
    json_put(o, "alpha", json_real((double)a->alpha));
    json_put(o, "created", json_integer(a->created_unix_s));
    json_put(o, "job", a->job[0] ? json_string(a->job) : json_null());
    json_put(o, "loss_trainer", number_json(a->loss_trainer));
    json_put(o, "loss_engine", number_json(a->loss_engine));
    char *text = json_line(o);
    int rc = path_join(path, dir, MANIFEST, e);
    if (rc == 0)
        rc = os_file_write(path, text, strlen(text), 0600, e);
    free(text);
    json_decref(o);
    return rc;
}

static int numbers_parse(const json_t *o, struct adapters_entry *a, struct err *e)
{
    int64_t bytes = 0, rank = 0;
    double alpha = 0;
    int rc = json_get_i64(o, "bytes", 1, (int64_t)ADAPTERS_FILE_MAX, &bytes, e);
    if (rc == 0)
        rc = json_get_i64(o, "rank", 0, UINT32_MAX, &rank, e);
    if (rc == 0)
        rc = json_get_i64(o, "created", 0, INT64_MAX, &a->created_unix_s, e);
    if (rc == 0)
        rc = json_get_f64(o, "alpha", 0, 1e9, &alpha, e);
    if (rc == 0)
        rc = json_get_f64(o, "loss_trainer", 0, 1e9, &a->loss_trainer, e);
    if (rc == 0)
        rc = json_get_f64(o, "loss_engine", 0, 1e9, &a->loss_engine, e);
    a->bytes = (uint64_t)bytes;
    a->rank = (uint32_t)rank;
    a->alpha = (float)alpha;
    return rc;
}

static int manifest_parse(const json_t *o, struct adapters_entry *a, struct err *e)
{
    char sum[MODELS_SUM_BYTES] = "";
    int64_t version = 0;
    json_t *base = NULL;
    a->loss_trainer = a->loss_engine = (double)NAN;
    int rc = json_get_i64(o, "version", 1, MANIFEST_VERSION, &version, e);
    if (rc == 0 && version == 0)
        rc = err_set(e, ERR_CORRUPT, "no version");
    if (rc == 0)
        rc = json_copy_string(o, "name", a->name, sizeof a->name, e);
    if (rc == 0)
        rc = json_copy_string(o, "job", a->job, sizeof a->job, e);
    if (rc == 0)
        rc = json_copy_string(o, "sha256", sum, sizeof sum, e);
    if (rc == 0 && !models_sum_parse(sum, a->sha256))
        rc = err_set(e, ERR_CORRUPT, "sha256 \"%s\" is none", sum);
    if (rc == 0)
        rc = numbers_parse(o, a, e);
    if (rc == 0)
        rc = json_get_object(o, "base", &base, e);
    if (rc == 0 && !base)
        rc = err_set(e, ERR_CORRUPT, "no base");
    return rc ? rc : adapters_base_parse(base, &a->base, e);
}

// STORE/NAME/manifest.json; the folder's name and what the manifest says must agree.
static int entry_read(const char *store, const char *name, struct adapters_entry *a, struct err *e)
{
    char dir[MODELS_PATH_BYTES], path[MODELS_PATH_BYTES], *text = NULL;
    struct stat st;
    size_t n = 0;
    *a = (struct adapters_entry){0};
    int rc = path_join(dir, store, name, e);
    if (rc == 0)
        rc = path_join(a->path, dir, ADAPTER, e);
    if (rc == 0)
        rc = path_join(path, dir, MANIFEST, e);
    if (rc == 0)
        rc = os_file_read(path, MANIFEST_MAX, &text, &n, e);
    if (rc != 0)
        return rc;
    json_t *o = json_parse(text, n, e);
    rc = o ? manifest_parse(o, a, e) : e->code;
    if (rc == 0 && strcmp(a->name, name) != 0)
        rc = err_set(e, ERR_CORRUPT, "it belongs to folder %.100s", a->name);
    if (rc == 0 && (stat(a->path, &st) != 0 || (uint64_t)st.st_size != a->bytes))
        rc = err_set(e, ERR_CORRUPT, "%s is not the file of %" PRIu64 " bytes that it tells of",
                     ADAPTER, a->bytes);
    if (rc != 0)
        err_wrap(e, "%.200s", path);
    json_decref(o);
    free(text);
    return rc;
}

// ---- locks ---------------------------------------------------------------------------------------

// The descriptor to close when done.
static int store_lock(const char *store, struct err *e)
{
    char path[MODELS_PATH_BYTES];
    int rc = os_mkdirs(store, e);
    if (rc == 0)
        rc = path_join(path, store, LOCK, e);
    if (rc != 0)
        return rc;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(e, ERR_IO, "cannot open %.300s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    int saved = errno;
    close(fd);
    if (saved == EWOULDBLOCK)
        return err_set(e, ERR_BUSY, "another tandem is writing to %.300s; try again in a moment",
                       store);
    return err_set(e, ERR_IO, "cannot lock %.300s: %s", path, strerror(saved));
}

// ---- removing ------------------------------------------------------------------------------------

static void folder_remove(const char *dir)
{
    char path[MODELS_PATH_BYTES];
    DIR *d = opendir(dir);
    const struct dirent *entry;
    while (d && (entry = readdir(d)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            path_join(path, dir, entry->d_name, NULL) == 0)
            unlink(path);
    if (d)
        closedir(d);
    rmdir(dir);
}

// What a crash left behind; called under the lock, so that nobody is at work on it.
static void leftovers_remove(const char *store)
{
    char path[MODELS_PATH_BYTES];
    DIR *d = opendir(store);
    const struct dirent *entry;
    while (d && (entry = readdir(d)))
        if ((strncmp(entry->d_name, ".new-", 5) == 0 || strncmp(entry->d_name, ".old-", 5) == 0) &&
            path_join(path, store, entry->d_name, NULL) == 0)
            folder_remove(path);
    if (d)
        closedir(d);
}

static void folder_sync(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

// Out of sight at once, then gone.
static int entry_drop(const char *store, const char *name, struct err *e)
{
    char dir[MODELS_PATH_BYTES], aside[MODELS_PATH_BYTES], hidden[ADAPTERS_NAME_BYTES + 8];
    snprintf(hidden, sizeof hidden, ".old-%s", name);
    int rc = path_join(dir, store, name, e);
    if (rc == 0)
        rc = path_join(aside, store, hidden, e);
    if (rc == 0)
        folder_remove(aside);
    if (rc == 0 && rename(dir, aside) != 0)
        rc = err_set(e, ERR_IO, "cannot remove %.300s: %s", dir, strerror(errno));
    if (rc == 0)
        folder_remove(aside);
    return rc;
}

int adapters_remove(const char *name, struct err *e)
{
    char store[MODELS_PATH_BYTES];
    struct adapters_entry a;
    int rc = adapters_find(name, &a, e);
    if (rc == 0)
        rc = adapters_dir(store, e);
    int fd = rc == 0 ? store_lock(store, e) : rc;
    if (fd < 0)
        return fd;
    rc = entry_drop(store, a.name, e);
    folder_sync(store);
    close(fd);
    return rc;
}

// ---- publishing ----------------------------------------------------------------------------------

static int bytes_copy(int from, int to, struct models_sum *sum, uint64_t *bytes, struct err *e)
{
    enum { CHUNK = 1 << 16 };
    uint8_t *data = mem_alloc(CHUNK);
    ssize_t got = 0;
    int rc = 0;
    while (rc == 0 && (got = read(from, data, CHUNK)) > 0) {
        models_sum_put(sum, data, (size_t)got);
        *bytes += (uint64_t)got;
        if (*bytes > ADAPTERS_FILE_MAX)
            rc =
                err_set(e, ERR_RANGE, "larger than %" PRIu64 " bytes", (uint64_t)ADAPTERS_FILE_MAX);
        else if (write(to, data, (size_t)got) != got)
            rc = err_set(e, ERR_IO, "cannot be copied: %s; is the disk full?", strerror(errno));
    }
    if (rc == 0 && got < 0)
        rc = err_set(e, ERR_IO, "cannot be read: %s", strerror(errno));
    free(data);
    return rc;
}

static int file_copy(const char *from, const char *to, struct adapters_entry *a, struct err *e)
{
    struct models_sum sum;
    int in = open(from, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (in < 0)
        return err_set(e, ERR_NOT_FOUND, "%.300s: %s", from, strerror(errno));
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = out < 0 ? err_set(e, ERR_IO, "cannot make %.300s: %s", to, strerror(errno)) : 0;
    models_sum_init(&sum);
    if (rc == 0)
        rc = bytes_copy(in, out, &sum, &a->bytes, e);
    if (rc == 0 && fsync(out) != 0)
        rc = err_set(e, ERR_IO, "cannot be written: %s", strerror(errno));
    models_sum_take(&sum, a->sha256);
    models_sum_fini(&sum);
    if (out >= 0)
        close(out);
    close(in);
    return rc;
}

static int entry_fill(const struct adapters_new *n, const char *file, struct adapters_entry *a,
                      struct err *e)
{
    struct adapters_facts facts = {0};
    int rc = adapters_check(file, n->model, &facts, e);
    if (rc == 0)
        rc = adapters_base_read(n->model, &a->base, e);
    snprintf(a->name, sizeof a->name, "%s", n->name);
    snprintf(a->job, sizeof a->job, "%.64s", n->job ? n->job : "");
    a->rank = facts.rank;
    a->alpha = facts.alpha;
    a->created_unix_s = (int64_t)time(NULL);
    a->loss_trainer = n->loss_trainer;
    a->loss_engine = n->loss_engine;
    return rc;
}

// Fills DIR; the copy is what is checked, so that nobody can change the file in between.
static int folder_fill(const struct adapters_new *n, const char *dir, struct adapters_entry *a,
                       struct err *e)
{
    char file[MODELS_PATH_BYTES];
    int rc = path_join(file, dir, ADAPTER, e);
    if (rc == 0 && mkdir(dir, 0700) != 0)
        rc = err_set(e, ERR_IO, "cannot make %.300s: %s", dir, strerror(errno));
    if (rc == 0)
        rc = file_copy(n->file, file, a, e);
    if (rc == 0)
        rc = entry_fill(n, file, a, e);
    if (rc == 0)
        rc = manifest_write(a, dir, e);
    if (rc == 0)
        folder_sync(dir);
    return rc;
}

static int publish_locked(const struct adapters_new *n, const char *store, struct adapters_entry *a,
                          struct err *e)
{
    char aside[MODELS_PATH_BYTES], dir[MODELS_PATH_BYTES], hidden[ADAPTERS_NAME_BYTES + 8];
    struct stat st;
    snprintf(hidden, sizeof hidden, ".new-%s", n->name);
    leftovers_remove(store);
    int rc = path_join(aside, store, hidden, e);
    if (rc == 0)
        rc = path_join(dir, store, n->name, e);
    bool there = rc == 0 && lstat(dir, &st) == 0;
    if (there && !n->replace)
        return err_set(e, ERR_BUSY,
                       "there is an adapter %s already; choose another name, or remove it first",
                       n->name);
    if (rc == 0)
        rc = folder_fill(n, aside, a, e);
    if (rc == 0 && there)
        rc = entry_drop(store, n->name, e);
    if (rc == 0 && rename(aside, dir) != 0)
        rc = err_set(e, ERR_IO, "cannot rename %.200s to %.200s: %s", aside, dir, strerror(errno));
    if (rc != 0)
        folder_remove(aside);
    folder_sync(store);
    return rc ? rc : path_join(a->path, dir, ADAPTER, e);
}

int adapters_publish(const struct adapters_new *n, struct adapters_entry *out, struct err *e)
{
    char store[MODELS_PATH_BYTES];
    struct adapters_entry a = {0};
    struct err own;
    e = e ? e : &own;
    int rc = adapters_name_check(n->name, e);
    if (rc == 0)
        rc = adapters_dir(store, e);
    int fd = rc == 0 ? store_lock(store, e) : rc;
    if (fd < 0)
        return err_wrap(e, "adapter not published");
    rc = publish_locked(n, store, &a, e);
    close(fd);
    if (rc != 0)
        return err_wrap(e, "adapter %s not published", n->name);
    if (out)
        *out = a;
    return 0;
}

// ---- the list ------------------------------------------------------------------------------------

static int entry_compare(const void *a, const void *b)
{
    return strcmp(((const struct adapters_entry *)a)->name,
                  ((const struct adapters_entry *)b)->name);
}

static void list_add(struct adapters_list *l, const char *store, const char *name)
{
    struct adapters_entry a;
    struct err e = {0};
    if (name[0] == '.' || adapters_name_check(name, NULL) != 0)
        return;
    int rc = entry_read(store, name, &a, &e);
    if (rc != 0) {
        log_warn("models", "adapter left out: %s", e.message);
        return;
    }
    l->items = mem_resize(l->items, (l->n + 1) * sizeof *l->items);
    l->items[l->n++] = a;
}

int adapters_list_read(struct adapters_list *l, struct err *e)
{
    char store[MODELS_PATH_BYTES];
    *l = (struct adapters_list){0};
    int rc = adapters_dir(store, e);
    DIR *d = rc == 0 ? opendir(store) : NULL;
    if (rc != 0 || (!d && errno == ENOENT))
        return rc;
    if (!d)
        return err_set(e, ERR_IO, "cannot open %.300s: %s", store, strerror(errno));
    const struct dirent *entry;
    while ((entry = readdir(d)) && l->n < ADAPTERS_LIST_MAX)
        list_add(l, store, entry->d_name);
    closedir(d);
    if (l->n > 1)
        qsort(l->items, l->n, sizeof *l->items, entry_compare);
    return 0;
}

void adapters_list_fini(struct adapters_list *l)
{
    free(l->items);
    *l = (struct adapters_list){0};
}

uint64_t adapters_version(void)
{
    char store[MODELS_PATH_BYTES];
    struct stat st;
    if (adapters_dir(store, NULL) != 0 || stat(store, &st) != 0)
        return 0;
    return (uint64_t)st.st_mtime * 1000000000u + (uint64_t)os_mtime_ns(&st);
}

// "", or "; there are ft:a, ft:b".
static void names_list(char *out, size_t cap)
{
    struct adapters_list l;
    size_t at = 0;
    out[0] = '\0';
    if (adapters_list_read(&l, NULL) != 0)
        return;
    for (size_t i = 0; i < l.n && at + ADAPTERS_NAME_BYTES + 16 < cap; i++)
        at += (size_t)snprintf(out + at, cap - at, "%s" ADAPTERS_PREFIX "%s",
                               i ? ", " : "; there are ", l.items[i].name);
    if (l.n == 0)
        snprintf(out, cap, "; there are none: train one with tandem train");
    adapters_list_fini(&l);
}

int adapters_find(const char *name, struct adapters_entry *out, struct err *e)
{
    char store[MODELS_PATH_BYTES], names[300];
    struct err own = {0};
    e = e ? e : &own;
    if (strncmp(name, ADAPTERS_PREFIX, strlen(ADAPTERS_PREFIX)) == 0)
        name += strlen(ADAPTERS_PREFIX);
    int rc = adapters_name_check(name, e);
    if (rc == 0)
        rc = adapters_dir(store, e);
    if (rc == 0)
        rc = entry_read(store, name, out, e);
    if (rc != ERR_NOT_FOUND)
        return rc;
    names_list(names, sizeof names);
    return err_set(e, ERR_NOT_FOUND, "no adapter \"%s%s\"%s", ADAPTERS_PREFIX, name, names);
}
