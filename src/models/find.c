// What a name means: files, aliases, models of the store.
#include "models/store.h"

#include "base/buf.h"
#include "base/json.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ALIASES_MAX_BYTES (1u << 20)
#define ALIASES_MAX 1000u

static const struct models_id aliases_lock = {.owner = "tandem", .repo = "aliases"};

// ---- aliases -------------------------------------------------------------------------------------

static int aliases_path(char out[MODELS_PATH_BYTES], struct err *e)
{
    char store[MODELS_PATH_BYTES];
    int rc = models_store_dir(store, e);
    if (rc == 0 && snprintf(out, MODELS_PATH_BYTES, "%s/aliases.json", store) >= MODELS_PATH_BYTES)
        rc = err_set(e, ERR_RANGE, "path %.200s is too long", store);
    return rc;
}

int models_aliases_read(json_t **out, struct err *e)
{
    char path[MODELS_PATH_BYTES], *text = NULL;
    size_t n = 0;
    const char *name;
    json_t *value;
    int rc = aliases_path(path, e);
    if (rc == 0)
        rc = os_file_read(path, ALIASES_MAX_BYTES, &text, &n, e);
    *out = rc == ERR_NOT_FOUND ? json_object() : NULL;
    if (rc != 0)
        return rc == ERR_NOT_FOUND ? 0 : rc;
    *out = json_parse(text, n, e);
    rc = *out ? 0 : e->code;
    if (rc == 0 && !json_is_object(*out))
        rc = err_set(e, ERR_CORRUPT, "it holds no object");
    json_object_foreach(*out, name, value) if (rc == 0 && !json_is_string(value)) rc =
        err_set(e, ERR_CORRUPT, "alias \"%.100s\" is no text", name);
    free(text);
    if (rc != 0) {
        err_wrap(e, "%.300s", path);
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

static int aliases_write(const json_t *aliases, struct err *e)
{
    char path[MODELS_PATH_BYTES];
    int rc = aliases_path(path, e);
    if (rc != 0)
        return rc;
    char *text = json_dumps(aliases, JSON_INDENT(2) | JSON_SORT_KEYS);
    rc = os_file_write(path, text, strlen(text), 0600, e);
    free(text);
    return rc;
}

// Reads under the lock; the caller writes and calls models_unlock(*fd).
static int aliases_begin(json_t **aliases, int *fd, struct err *e)
{
    *aliases = NULL;
    *fd = models_lock(&aliases_lock, e);
    return *fd < 0 ? *fd : models_aliases_read(aliases, e);
}

// The text to store for a target: a full name, or a whole path.
static int target_make(const char *target, struct buf *out, struct err *e)
{
    struct models_found found;
    int rc = models_find(target, &found, e);
    if (rc != 0)
        return rc;
    if (found.name[0])
        return buf_puts(out, found.name);
    char *whole = realpath(found.path, NULL);
    if (!whole)
        return err_set(e, ERR_INVALID, "\"%.200s\" is neither a file nor a pulled model", target);
    rc = buf_puts(out, whole);
    free(whole);
    return rc;
}

int models_alias_set(const char *alias, const char *target, struct err *e)
{
    struct models_id id;
    struct buf text;
    json_t *aliases = NULL;
    int fd = -1;
    buf_init(&text, MODELS_PATH_BYTES);
    int rc = models_name_parse(alias, &id, e);
    if (rc == 0 && strchr(alias, '/'))
        rc = err_set(e, ERR_INVALID, "an alias has no slash, \"%.100s\" has", alias);
    if (rc == 0 && (strcmp(alias, "fake") == 0 || models_is_gguf(alias)))
        rc = err_set(e, ERR_INVALID, "\"%.100s\" already means something else; take another name",
                     alias);
    if (rc == 0)
        rc = target_make(target, &text, e);
    if (rc == 0)
        rc = aliases_begin(&aliases, &fd, e);
    if (rc == 0 && json_object_size(aliases) >= ALIASES_MAX)
        rc = err_set(e, ERR_RANGE, "there are %u aliases already; remove some", ALIASES_MAX);
    if (rc == 0) {
        json_put(aliases, alias, json_string((const char *)text.data));
        rc = aliases_write(aliases, e);
    }
    json_decref(aliases);
    models_unlock(fd);
    buf_fini(&text);
    return rc;
}

static void names_add(struct buf *b, const char *name)
{
    buf_printf(b, "%s%s", b->len > 0 ? ", " : "", name); // beyond its end: enough was said
}

int models_alias_remove(const char *alias, struct err *e)
{
    json_t *aliases = NULL, *value;
    const char *name;
    struct buf known;
    int fd = -1;
    buf_init(&known, 300);
    int rc = aliases_begin(&aliases, &fd, e);
    if (rc == 0 && json_object_del(aliases, alias) != 0) {
        json_object_foreach(aliases, name, value) names_add(&known, name);
        rc = err_set(e, ERR_NOT_FOUND, "no alias \"%.100s\"; there %s%s", alias,
                     known.len ? "are: " : "are none", known.len ? (const char *)known.data : "");
    }
    if (rc == 0)
        rc = aliases_write(aliases, e);
    json_decref(aliases);
    models_unlock(fd);
    buf_fini(&known);
    return rc;
}

int models_alias_drop(const struct models_id *id, size_t *removed, struct err *e)
{
    char full[MODELS_ID_BYTES];
    json_t *aliases = NULL, *value;
    const char *name;
    void *next;
    int fd = -1;
    models_id_format(id, full);
    *removed = 0;
    int rc = aliases_begin(&aliases, &fd, e);
    json_object_foreach_safe(aliases, next, name, value)
    {
        if (strcmp(json_string_value(value), full) != 0)
            continue;
        json_object_del(aliases, name);
        (*removed)++;
    }
    if (rc == 0 && *removed > 0)
        rc = aliases_write(aliases, e);
    json_decref(aliases);
    models_unlock(fd);
    return rc;
}

// ---- finding -------------------------------------------------------------------------------------

static int not_found(const struct models_list *l, const char *name, struct err *e)
{
    struct buf known;
    char full[MODELS_ID_BYTES];
    buf_init(&known, 240);
    for (size_t i = 0; i < l->n; i++) {
        models_list_name(l, i, full);
        names_add(&known, full);
    }
    err_set(e, ERR_NOT_FOUND,
            "no model file, alias or pulled model \"%.150s\"; %s%s; get one with "
            "`tandem pull user/repo`",
            name, known.len ? "there are: " : "none is pulled yet",
            known.len ? (const char *)known.data : "");
    buf_fini(&known);
    return ERR_NOT_FOUND;
}

static int ambiguous(const struct models_list *l, const struct models_id *wanted, const char *name,
                     struct err *e)
{
    struct buf candidates;
    char full[MODELS_ID_BYTES];
    buf_init(&candidates, 300);
    for (size_t i = 0; i < l->n; i++) {
        if (!models_name_matches(wanted, &l->items[i].id))
            continue;
        models_list_name(l, i, full);
        names_add(&candidates, full);
    }
    err_set(e, ERR_INVALID, "\"%.100s\" can mean several models: %s; say which", name,
            (const char *)candidates.data);
    buf_fini(&candidates);
    return ERR_INVALID;
}

int models_list_find(const struct models_list *l, const char *name, size_t *index, struct err *e)
{
    struct models_id wanted;
    size_t n = 0;
    int rc = models_name_parse(name, &wanted, e);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < l->n; i++) {
        if (!models_name_matches(&wanted, &l->items[i].id))
            continue;
        *index = i;
        // A full name means itself, also where the quantisation is not known.
        if (wanted.owner[0] && models_id_is(&wanted, &l->items[i].id))
            return 0;
        n++;
    }
    if (n == 0)
        return not_found(l, name, e);
    return n == 1 ? 0 : ambiguous(l, &wanted, name, e);
}

static int found_fill(const struct models_entry *m, struct models_found *out, struct err *e)
{
    models_id_format(&m->id, out->name);
    if (!m->complete)
        return err_set(e, ERR_NOT_FOUND, "%s is not complete; go on with `tandem pull %.200s`",
                       out->name, m->ref);
    int rc = models_entry_path(m, m->files[0].name, out->path, e);
    if (rc == 0 && m->projector.name[0])
        rc = models_entry_path(m, m->projector.name, out->projector, e);
    return rc;
}

static int store_find(const char *name, struct models_found *out, struct err *e)
{
    struct models_list l;
    size_t i = 0;
    struct models_id ignored;
    int rc = models_list_read(&l, e);
    if (rc != 0)
        return rc;
    if (models_name_parse(name, &ignored, NULL) != 0)
        rc = not_found(&l, name, e);
    else
        rc = models_list_find(&l, name, &i, e);
    if (rc == 0)
        rc = found_fill(&l.items[i], out, e);
    models_list_fini(&l);
    return rc;
}

static bool is_path(const char *name)
{
    struct stat st;
    if (name[0] == '/' || name[0] == '.' || models_is_gguf(name))
        return true;
    return stat(name, &st) == 0 && !S_ISDIR(st.st_mode);
}

static int path_take(const char *name, struct models_found *out, struct err *e)
{
    if (strlen(name) >= sizeof out->path)
        return err_set(e, ERR_RANGE, "a model's path has at most %zu bytes", sizeof out->path - 1);
    memcpy(out->path, name, strlen(name) + 1);
    return 0;
}

int models_find(const char *name, struct models_found *out, struct err *e)
{
    json_t *aliases = NULL;
    *out = (struct models_found){0};
    bool fake = strcmp(name, "fake") == 0 || strncmp(name, "fake:", 5) == 0;
    if (fake || is_path(name))
        return path_take(name, out, e);
    int rc = models_aliases_read(&aliases, e);
    const char *target = json_string_value(json_object_get(aliases, name));
    if (rc == 0 && target && target[0] == '/')
        rc = path_take(target, out, e);
    else if (rc == 0)
        rc = store_find(target ? target : name, out, e);
    if (rc != 0 && target)
        err_wrap(e, "alias \"%.60s\"", name);
    json_decref(aliases);
    return rc;
}
