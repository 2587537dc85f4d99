#include "models/store.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "os/os.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANIFEST "manifest.json"
#define MANIFEST_MAX (1u << 20) // bytes
#define MANIFEST_VERSION 1
#define ENTRIES_MAX 10000u

static int path_join(char out[MODELS_PATH_BYTES], const char *dir, const char *name, struct err *e)
{
    int n = snprintf(out, MODELS_PATH_BYTES, "%s/%s", dir, name);
    if (n < 0 || n >= MODELS_PATH_BYTES)
        return err_set(e, ERR_RANGE, "path %.200s/... is longer than %d bytes", dir,
                       MODELS_PATH_BYTES - 1);
    return 0;
}

int models_store_dir(char out[MODELS_PATH_BYTES], struct err *e)
{
    char data[MODELS_PATH_BYTES];
    int rc = os_data_dir(data, sizeof data, e);
    return rc ? rc : path_join(out, data, "models", e);
}

// ---- one entry -----------------------------------------------------------------------------------

void models_entry_fini(struct models_entry *m)
{
    free(m->files);
    m->files = NULL;
    m->n_files = 0;
}

uint64_t models_entry_bytes(const struct models_entry *m)
{
    bool both = m->projector.name[0] && m->projector.bytes != MODELS_SIZE_UNKNOWN;
    uint64_t sum = both ? m->projector.bytes : 0;
    for (size_t i = 0; i < m->n_files; i++)
        if (m->files[i].bytes != MODELS_SIZE_UNKNOWN)
            sum += m->files[i].bytes;
    return sum;
}

int models_entry_path(const struct models_entry *m, const char *name, char out[MODELS_PATH_BYTES],
                      struct err *e)
{
    return path_join(out, m->dir, name, e);
}

static int dir_of(const struct models_id *id, char out[MODELS_PATH_BYTES], struct err *e)
{
    char store[MODELS_PATH_BYTES], name[MODELS_ID_BYTES + 4];
    int rc = models_store_dir(store, e);
    snprintf(name, sizeof name, "%s--%s--%s", id->owner, id->repo, id->quant);
    return rc ? rc : path_join(out, store, name, e);
}

int models_entry_dir_make(struct models_entry *m, struct err *e)
{
    int rc = dir_of(&m->id, m->dir, e);
    return rc ? rc : os_mkdirs(m->dir, e);
}

// ---- the manifest --------------------------------------------------------------------------------

static json_t *file_json(const struct models_file *f)
{
    json_t *o = json_object();
    json_put(o, "name", json_string(f->name));
    json_put(o, "bytes",
             f->bytes == MODELS_SIZE_UNKNOWN ? json_null() : json_integer((json_int_t)f->bytes));
    json_put(o, "sha256", f->sha256[0] ? json_string(f->sha256) : json_null());
    return o;
}

int models_entry_save(const struct models_entry *m, struct err *e)
{
    char path[MODELS_PATH_BYTES];
    json_t *o = json_object(), *files = json_array();
    for (size_t i = 0; i < m->n_files; i++)
        json_array_append_new(files, file_json(&m->files[i]));
    json_put(o, "version", json_integer(MANIFEST_VERSION));
    json_put(o, "owner", json_string(m->id.owner));
    json_put(o, "repo", json_string(m->id.repo));
    json_put(o, "quant", json_string(m->id.quant));
    json_put(o, "source", json_string(m->source));
    json_put(o, "ref", json_string(m->ref));
    json_put(o, "arch", json_string(m->arch));
    json_put(o, "size_label", json_string(m->size_label));
    json_put(o, "context", json_integer(m->n_ctx));
    json_put(o, "params", json_integer((json_int_t)m->params));
    json_put(o, "pulled", json_integer(m->pulled_unix_s));
    json_put(o, "complete", json_boolean(m->complete));
    json_put(o, "files", files);
    json_put(o, "projector", m->projector.name[0] ? file_json(&m->projector) : json_null());
    char *text = json_text(o);
    int rc = path_join(path, m->dir, MANIFEST, e);
    if (rc == 0)
        rc = os_file_write(path, text, strlen(text), 0600, e);
    free(text);
    json_decref(o);
    return rc;
}

static int file_parse(const json_t *o, struct models_file *f, struct err *e)
{
    int64_t bytes = -1;
    int rc = json_copy_string(o, "name", f->name, sizeof f->name, e);
    if (rc == 0)
        rc = json_get_i64(o, "bytes", 0, INT64_MAX, &bytes, e);
    if (rc == 0)
        rc = json_copy_string(o, "sha256", f->sha256, sizeof f->sha256, e);
    if (rc == 0 && !models_file_name_ok(f->name))
        rc = err_set(e, ERR_CORRUPT, "\"%.100s\" is no file name", f->name);
    f->bytes = bytes < 0 ? MODELS_SIZE_UNKNOWN : (uint64_t)bytes;
    return rc;
}

static int files_parse(const json_t *o, struct models_entry *m, struct err *e)
{
    json_t *files = NULL, *projector = NULL;
    int rc = json_get_array(o, "files", &files, e);
    size_t n = json_array_size(files);
    if (rc == 0 && (n == 0 || n > MODELS_FILES_MAX))
        rc = err_set(e, ERR_CORRUPT, "%zu files; 1 to %u are possible", n, MODELS_FILES_MAX);
    if (rc == 0) {
        m->files = mem_alloc(n * sizeof *m->files);
        m->n_files = n;
    }
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = file_parse(json_array_get(files, i), &m->files[i], e);
    if (rc == 0)
        rc = json_get_object(o, "projector", &projector, e);
    if (rc == 0 && projector)
        rc = file_parse(projector, &m->projector, e);
    return rc;
}

static int texts_parse(const json_t *o, struct models_entry *m, struct err *e)
{
    const struct {
        const char *member;
        char *out;
        size_t bytes;
    } all[] = {{"owner", m->id.owner, sizeof m->id.owner},
               {"repo", m->id.repo, sizeof m->id.repo},
               {"quant", m->id.quant, sizeof m->id.quant},
               {"source", m->source, sizeof m->source},
               {"ref", m->ref, sizeof m->ref},
               {"arch", m->arch, sizeof m->arch},
               {"size_label", m->size_label, sizeof m->size_label}};
    int rc = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all && rc == 0; i++)
        rc = json_copy_string(o, all[i].member, all[i].out, all[i].bytes, e);
    return rc;
}

static int manifest_parse(const json_t *o, struct models_entry *m, struct err *e)
{
    int64_t version = 0, n_ctx = 0, params = 0;
    int rc = json_get_i64(o, "version", 1, MANIFEST_VERSION, &version, e);
    if (rc == 0 && version == 0)
        rc = err_set(e, ERR_CORRUPT, "no version");
    if (rc == 0)
        rc = texts_parse(o, m, e);
    if (rc == 0)
        rc = json_get_i64(o, "context", 0, UINT32_MAX, &n_ctx, e);
    if (rc == 0)
        rc = json_get_i64(o, "params", 0, INT64_MAX, &params, e);
    if (rc == 0)
        rc = json_get_i64(o, "pulled", 0, INT64_MAX, &m->pulled_unix_s, e);
    if (rc == 0)
        rc = json_get_bool(o, "complete", &m->complete, e);
    if (rc == 0)
        rc = files_parse(o, m, e);
    m->n_ctx = (uint32_t)n_ctx;
    m->params = (uint64_t)params;
    return rc;
}

// Reads DIR/manifest.json; the folder's name and what the manifest says must agree.
static int entry_read(const char *dir, struct models_entry *m, struct err *e)
{
    char path[MODELS_PATH_BYTES], own[MODELS_PATH_BYTES], *text = NULL;
    size_t n = 0;
    json_t *o = NULL;
    struct err own_e;
    e = e ? e : &own_e;
    *m = (struct models_entry){0};
    int rc = path_join(path, dir, MANIFEST, e);
    if (rc == 0)
        rc = os_file_read(path, MANIFEST_MAX, &text, &n, e);
    if (rc != 0)
        return rc;
    o = json_parse(text, n, e);
    rc = o ? manifest_parse(o, m, e) : e->code;
    if (rc == 0)
        rc = dir_of(&m->id, own, e);
    if (rc == 0 && strcmp(own, dir) != 0)
        rc = err_set(e, ERR_CORRUPT, "it belongs to folder %.200s", models_base_name(own));
    snprintf(m->dir, sizeof m->dir, "%s", dir);
    if (rc != 0) {
        err_wrap(e, "%.200s", path);
        models_entry_fini(m);
    }
    json_decref(o);
    free(text);
    return rc;
}

int models_entry_load(const struct models_id *id, struct models_entry *m, struct err *e)
{
    char dir[MODELS_PATH_BYTES];
    int rc = dir_of(id, dir, e);
    return rc ? rc : entry_read(dir, m, e);
}

// ---- locks ---------------------------------------------------------------------------------------

int models_lock(const struct models_id *id, struct err *e)
{
    char store[MODELS_PATH_BYTES], locks[MODELS_PATH_BYTES], path[MODELS_PATH_BYTES];
    char name[MODELS_ID_BYTES + 4], full[MODELS_ID_BYTES];
    int rc = models_store_dir(store, e);
    if (rc == 0)
        rc = path_join(locks, store, ".locks", e);
    if (rc == 0)
        rc = os_mkdirs(locks, e);
    snprintf(name, sizeof name, "%s--%s--%s", id->owner, id->repo, id->quant);
    if (rc == 0)
        rc = path_join(path, locks, name, e);
    if (rc != 0)
        return rc;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(e, ERR_IO, "cannot open %.300s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    int saved = errno;
    close(fd);
    models_id_format(id, full);
    if (saved == EWOULDBLOCK)
        return err_set(e, ERR_BUSY, "another tandem is working on %s; wait until it is done", full);
    return err_set(e, ERR_IO, "cannot lock %.300s: %s", path, strerror(saved));
}

void models_unlock(int fd)
{
    if (fd >= 0)
        close(fd);
}

// ---- removing ------------------------------------------------------------------------------------

// Only files that a pull makes: manifest.json, *.gguf and what has .part or .corrupt in its name.
static bool is_ours(const char *name)
{
    return strcmp(name, MANIFEST) == 0 || strncmp(name, MANIFEST ".", strlen(MANIFEST ".")) == 0 ||
           models_is_gguf(name) || strstr(name, ".gguf.part") || strstr(name, ".gguf.corrupt");
}

static int folder_empty(const char *dir, struct err *e)
{
    char path[MODELS_PATH_BYTES];
    DIR *d = opendir(dir);
    int rc = 0;
    if (!d)
        return err_set(e, ERR_IO, "cannot open %.300s: %s", dir, strerror(errno));
    const struct dirent *entry;
    while (rc == 0 && (entry = readdir(d))) {
        if (!is_ours(entry->d_name))
            continue;
        rc = path_join(path, dir, entry->d_name, e);
        if (rc == 0 && unlink(path) != 0)
            rc = err_set(e, ERR_IO, "cannot remove %.300s: %s", path, strerror(errno));
    }
    closedir(d);
    return rc;
}

int models_entry_remove(const struct models_entry *m, struct err *e)
{
    int fd = models_lock(&m->id, e);
    if (fd < 0)
        return fd;
    int rc = folder_empty(m->dir, e);
    if (rc == 0 && rmdir(m->dir) != 0)
        rc = err_set(e, ERR_IO, "the model is removed, but not its folder %.300s: %s", m->dir,
                     strerror(errno));
    models_unlock(fd);
    return rc;
}

// ---- the list ------------------------------------------------------------------------------------

static int entry_compare(const void *a, const void *b)
{
    const struct models_id *x = &((const struct models_entry *)a)->id;
    const struct models_id *y = &((const struct models_entry *)b)->id;
    int by_repo = strcmp(x->repo, y->repo), by_quant = strcmp(x->quant, y->quant);
    return by_repo ? by_repo : by_quant ? by_quant : strcmp(x->owner, y->owner);
}

static void list_add(struct models_list *l, const char *store, const char *name)
{
    char dir[MODELS_PATH_BYTES];
    struct models_entry m;
    struct err e = {0};
    int rc = path_join(dir, store, name, &e);
    if (rc == 0)
        rc = entry_read(dir, &m, &e);
    if (rc == ERR_NOT_FOUND) // not begun, or not ours
        return;
    if (rc != 0) {
        log_warn("models", "left out: %s", e.message);
        return;
    }
    l->items = mem_resize(l->items, (l->n + 1) * sizeof *l->items);
    l->items[l->n++] = m;
}

int models_list_read(struct models_list *l, struct err *e)
{
    char store[MODELS_PATH_BYTES];
    *l = (struct models_list){0};
    int rc = models_store_dir(store, e);
    DIR *d = rc == 0 ? opendir(store) : NULL;
    if (rc != 0 || (!d && errno == ENOENT))
        return rc;
    if (!d)
        return err_set(e, ERR_IO, "cannot open %.300s: %s", store, strerror(errno));
    const struct dirent *entry;
    while ((entry = readdir(d)) && l->n < ENTRIES_MAX)
        if (entry->d_name[0] != '.' && strstr(entry->d_name, "--"))
            list_add(l, store, entry->d_name);
    closedir(d);
    if (l->n > 1)
        qsort(l->items, l->n, sizeof *l->items, entry_compare);
    return 0;
}

void models_list_fini(struct models_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        models_entry_fini(&l->items[i]);
    free(l->items);
    *l = (struct models_list){0};
}

void models_list_name(const struct models_list *l, size_t i, char out[MODELS_ID_BYTES])
{
    struct models_id id = l->items[i].id;
    size_t same = 0;
    char owner[MODELS_OWNER_BYTES];
    memcpy(owner, id.owner, sizeof owner);
    id.owner[0] = '\0';
    for (size_t k = 0; k < l->n; k++)
        same += models_name_matches(&id, &l->items[k].id);
    if (same > 1)
        memcpy(id.owner, owner, sizeof owner);
    models_id_format(&id, out);
}
