#include "plan/catalogue.h"

#include "base/buf.h"
#include "base/json.h"
#include "os/os.h"
#include "plan/nearest.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX_BYTES (4u << 20)
#define ENTRIES_MAX 10000

struct kind {
    const char *member; // the list in a file
    const char *key;    // what names an entry
    const char *file;   // of those that come with the program
    const char *word;   // in errors
};
static const struct kind kinds[PLAN_KINDS] = {
    [PLAN_MACHINE] = {"machines", "name", "machines.json", "machine"},
    [PLAN_MODEL] = {"models", "id", "models.json", "model"},
    [PLAN_QUANT] = {"quantisations", "id", "quantisations.json", "quantisation"},
    [PLAN_LINK] = {"links", "id", "links.json", "link"},
    [PLAN_TASK] = {"tasks", "id", "tasks.json", "task"},
};

struct plan_catalogue {
    json_t *entries[PLAN_KINDS]; // {lower-case name or alias: entry}
    json_t *efficiency;
};

// ---- reading ---------------------------------------------------------------------------------------

static json_t *file_load(const char *path, struct err *e)
{
    char *text = NULL;
    size_t n = 0;
    if (os_file_read(path, FILE_MAX_BYTES, &text, &n, e) != 0)
        return NULL;
    json_t *o = json_parse(text, n, e);
    free(text);
    if (o != NULL && !json_is_object(o)) {
        json_decref(o);
        o = NULL;
        err_set(e, ERR_INVALID, "it must hold one JSON object");
    }
    if (o == NULL)
        err_wrap(e, "%s", path);
    return o;
}

static bool name_lower(const char *name, char out[PLAN_NAME_BYTES])
{
    size_t n = strlen(name);
    if (n == 0 || n >= PLAN_NAME_BYTES)
        return false;
    for (size_t i = 0; i <= n; i++)
        out[i] = (char)tolower((unsigned char)name[i]);
    return true;
}

static int entry_add(struct plan_catalogue *c, enum plan_kind kind, json_t *entry, struct err *e)
{
    const char *id = json_string_value(json_object_get(entry, kinds[kind].key));
    char name[PLAN_NAME_BYTES];
    size_t i;
    const json_t *alias;
    if (id == NULL || !name_lower(id, name))
        return err_set(e, ERR_INVALID, "an entry of \"%s\" has no \"%s\" of 1 to %d letters",
                       kinds[kind].member, kinds[kind].key, PLAN_NAME_BYTES - 1);
    if (json_object_size(c->entries[kind]) >= ENTRIES_MAX)
        return err_set(e, ERR_RANGE, "more than %d entries of \"%s\"", ENTRIES_MAX,
                       kinds[kind].member);
    json_object_set(c->entries[kind], name, entry);
    json_array_foreach(json_object_get(entry, "aliases"), i, alias)
    {
        if (!json_is_string(alias) || !name_lower(json_string_value(alias), name))
            return err_set(e, ERR_INVALID, "%s %s: an alias must be a text of 1 to %d letters",
                           kinds[kind].word, id, PLAN_NAME_BYTES - 1);
        json_object_set(c->entries[kind], name, entry);
    }
    return 0;
}

// Lays the lists of a file over what is there.
static int file_merge(struct plan_catalogue *c, const char *path, struct err *e)
{
    json_t *file = file_load(path, e);
    int rc = file != NULL ? 0 : e->code;
    for (enum plan_kind k = 0; rc == 0 && k < PLAN_KINDS; k++) {
        json_t *list = NULL, *entry;
        size_t i;
        rc = json_get_array(file, kinds[k].member, &list, e);
        json_array_foreach(list, i, entry)
        {
            if (rc == 0)
                rc = entry_add(c, k, entry, e);
        }
        if (rc != 0)
            err_wrap(e, "%s", path);
    }
    json_decref(file);
    return rc;
}

// Beside the program in a build or source tree, under share/ when installed.
static int folder_find(char *out, size_t out_bytes, struct err *e)
{
    static const char *const places[] = {"/../share", "/../share/tandem", "/share", "/../../share"};
    const char *share = getenv("TANDEM_SHARE");
    char dir[PATH_MAX];
    int rc = os_self_dir(dir, sizeof dir, e);
    for (size_t i = 0; rc == 0 && i < sizeof places / sizeof *places; i++) {
        char probe[PATH_MAX + 64];
        snprintf(out, out_bytes, "%s%s/catalogue", share != NULL ? share : dir,
                 share != NULL ? "" : places[i]);
        snprintf(probe, sizeof probe, "%s/efficiency.json", out);
        char *text = NULL;
        size_t n = 0;
        if (os_file_read(probe, FILE_MAX_BYTES, &text, &n, NULL) == 0) {
            free(text);
            return 0;
        }
    }
    if (rc == 0)
        rc = err_set(e, ERR_NOT_FOUND,
                     "the catalogue (share/catalogue) is not beside the program; TANDEM_SHARE can "
                     "name the folder that holds it");
    return rc;
}

static int own_files_read(struct plan_catalogue *c, const char *dir, struct err *e)
{
    char path[PATH_MAX + 64];
    int rc = 0;
    for (enum plan_kind k = 0; rc == 0 && k < PLAN_KINDS; k++) {
        snprintf(path, sizeof path, "%s/%s", dir, kinds[k].file);
        rc = file_merge(c, path, e);
    }
    snprintf(path, sizeof path, "%s/efficiency.json", dir);
    if (rc == 0) {
        c->efficiency = file_load(path, e);
        rc = c->efficiency != NULL ? 0 : e->code;
    }
    return rc;
}

static int is_json(const struct dirent *d)
{
    size_t n = strlen(d->d_name);
    return d->d_name[0] != '.' && n > 5 && strcmp(d->d_name + n - 5, ".json") == 0;
}

// In the order of their names, so that it is clear which of two files wins.
static int users_files_read(struct plan_catalogue *c, struct err *e)
{
    char config[PATH_MAX], dir[PATH_MAX + 16], path[PATH_MAX + 300];
    struct dirent **files = NULL;
    int rc = os_config_dir(config, sizeof config, e);
    if (rc != 0)
        return rc;
    snprintf(dir, sizeof dir, "%s/catalogue", config);
    int n = scandir(dir, &files, is_json, alphasort);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]->d_name);
        if (rc == 0)
            rc = file_merge(c, path, e);
        free(files[i]);
    }
    free(files);
    return rc;
}

int plan_catalogue_open(struct plan_catalogue **out, struct err *e)
{
    struct err own = {0};
    char dir[PATH_MAX + 32];
    struct plan_catalogue *c = mem_alloc(sizeof *c);
    for (enum plan_kind k = 0; k < PLAN_KINDS; k++)
        c->entries[k] = json_object();
    e = e != NULL ? e : &own;
    int rc = folder_find(dir, sizeof dir, e);
    if (rc == 0)
        rc = own_files_read(c, dir, e);
    if (rc == 0)
        rc = users_files_read(c, e);
    if (rc != 0) {
        plan_catalogue_free(c);
        c = NULL;
    }
    *out = c;
    return rc;
}

void plan_catalogue_free(struct plan_catalogue *c)
{
    if (c == NULL)
        return;
    for (enum plan_kind k = 0; k < PLAN_KINDS; k++)
        json_decref(c->entries[k]);
    json_decref(c->efficiency);
    free(c);
}

// ---- asking ----------------------------------------------------------------------------------------

const json_t *plan_catalogue_find(const struct plan_catalogue *c, enum plan_kind kind,
                                  const char *name, struct err *e)
{
    char lower[PLAN_NAME_BYTES], near[256];
    const json_t *entry = name_lower(name, lower) ? json_object_get(c->entries[kind], lower) : NULL;
    if (entry != NULL)
        return entry;
    plan_nearest(name, c->entries[kind], near, sizeof near);
    err_set(e, ERR_NOT_FOUND, "no %s \"%.100s\" in the catalogue; the nearest: %s",
            kinds[kind].word, name, near);
    return NULL;
}

const char *plan_catalogue_id(enum plan_kind kind, const json_t *entry)
{
    return json_string_value(json_object_get(entry, kinds[kind].key));
}

const json_t *plan_catalogue_all(const struct plan_catalogue *c, enum plan_kind kind)
{
    return c->entries[kind];
}

double plan_catalogue_number(const struct plan_catalogue *c, const char *format, ...)
{
    char name[3 * PLAN_NAME_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return json_number_value(json_object_get(json_object_get(c->efficiency, "numbers"), name));
}

// Whether the part of a run's name that begins at *at is `wanted`; moves *at behind it.
static bool part_is(const char **at, const char *wanted)
{
    size_t n = strcspn(*at, "/");
    bool same = wanted == NULL || (strlen(wanted) == n && strncmp(*at, wanted, n) == 0);
    *at += (*at)[n] == '/' ? n + 1 : n;
    return same;
}

bool plan_catalogue_has_run(const struct plan_catalogue *c, const char *machine, const char *family,
                            const char *quant_class, const char *engine)
{
    size_t i;
    const json_t *run;
    json_array_foreach(json_object_get(c->efficiency, "runs"), i, run)
    {
        const char *at = json_string_value(run);
        if (at != NULL && part_is(&at, machine) && part_is(&at, family) &&
            part_is(&at, quant_class) && part_is(&at, engine))
            return true;
    }
    return false;
}

void plan_catalogue_spread(const struct plan_catalogue *c, const char *kind, bool prefill,
                           double *low, double *high)
{
    const json_t *of_kind = json_object_get(json_object_get(c->efficiency, "spread"), kind);
    const json_t *pair = json_object_get(of_kind, prefill ? "pp" : "tg");
    *low = json_number_value(json_array_get(pair, 0));
    *high = json_number_value(json_array_get(pair, 1));
}
