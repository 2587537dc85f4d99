// Options from outside the command line: the ini file, then the environment.
#include "cli/options_impl.h"

#include "base/buf.h"
#include "os/os.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_ENTRIES_MAX 4096

// ---- the file -----------------------------------------------------------------------------------

// The reader counts the lines that inih takes, which it does not tell its handler.
struct load {
    FILE *f;
    int line;
    struct option_file *out;
};

static char *line_read(char *text, int bytes, void *ctx)
{
    struct load *l = ctx;
    l->line++;
    return fgets(text, bytes, l->f);
}

static int entry_add(void *ctx, const char *section, const char *name, const char *value)
{
    struct load *l = ctx;
    struct option_file *f = l->out;
    if (f->n == FILE_ENTRIES_MAX)
        return 0;
    f->entries = mem_resize(f->entries, (f->n + 1) * sizeof *f->entries);
    f->entries[f->n++] = (struct option_entry){.section = mem_strdup(section),
                                               .name = mem_strdup(name),
                                               .value = mem_strdup(value),
                                               .line = l->line};
    return 1;
}

int option_file_load(const char *path, struct option_file *out, struct err *e)
{
    struct load l = {.out = out};
    *out = (struct option_file){0};
    l.f = fopen(path, "re");
    if (l.f == NULL)
        return err_set(e, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO,
                       "cannot read %.400s: %s", path, strerror(errno));
    int line = ini_parse_stream(line_read, &l, entry_add, &l);
    out->bad_line = line > 0 ? line : 0;
    fclose(l.f);
    return 0;
}

void option_file_free(struct option_file *f)
{
    for (size_t i = 0; i < f->n; i++) {
        free(f->entries[i].section);
        free(f->entries[i].name);
        free(f->entries[i].value);
    }
    free(f->entries);
    *f = (struct option_file){0};
}

bool option_file_path(char *out, size_t out_bytes)
{
    char dir[4000];
    struct err ignored = {0};
    if (os_config_dir(dir, sizeof dir, &ignored) != 0)
        return false;
    int n = snprintf(out, out_bytes, "%s/tandem.ini", dir);
    return n > 0 && (size_t)n < out_bytes;
}

static const struct cli_option *named(const struct option_reader *r, const char *option)
{
    const struct cli_option *o = option_find(r->options, option, strlen(option));
    return o != NULL ? o : option_find(option_common(), option, strlen(option));
}

static int entry_apply(const struct option_reader *r, const char *path,
                       const struct option_entry *entry, struct err *e)
{
    char option[OPTION_NAME_BYTES], where[OPTION_TEXT_BYTES];
    snprintf(option, sizeof option, "--%s", entry->name);
    const struct cli_option *o = named(r, option);
    int rc =
        o != NULL ? option_set_outside(o, entry->value, e) : option_unknown(option, r->options, e);
    snprintf(where, sizeof where, "%.900s:%d", path, entry->line);
    if (rc != 0)
        err_wrap(e, "%s", where);
    else if (r->told != NULL)
        r->told(r->ctx, o, where);
    return rc;
}

int option_file_read(const struct option_reader *r, struct err *e)
{
    char path[4096];
    struct option_file f = {0};
    struct err why = {0};
    if (!option_file_path(path, sizeof path))
        return 0; // no home folder: no file
    int rc = option_file_load(path, &f, &why);
    if (rc == ERR_NOT_FOUND)
        return 0;
    if (rc != 0)
        err_set(e, rc, "%s", why.message);
    for (size_t i = 0; rc == 0 && i < f.n; i++)
        if (strcmp(f.entries[i].section, r->command) == 0)
            rc = entry_apply(r, path, &f.entries[i], e);
    if (rc == 0 && f.bad_line > 0)
        rc = err_set(e, ERR_INVALID, "%.900s:%d is not \"name = value\"", path, f.bad_line);
    option_file_free(&f);
    return rc;
}

// ---- the environment ------------------------------------------------------------------------------

static void environment_name(const char *option, char out[OPTION_NAME_BYTES])
{
    size_t n = (size_t)snprintf(out, OPTION_NAME_BYTES, "TANDEM_%s", option + 2);
    for (size_t i = 0; i < n && i < OPTION_NAME_BYTES - 1; i++)
        out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

static int environment_apply(const struct option_reader *r, const struct cli_option *o,
                             struct err *e)
{
    char name[OPTION_NAME_BYTES], where[OPTION_NAME_BYTES + 16];
    environment_name(o->name, name);
    const char *text = getenv(name);
    // TANDEM_MODEL is the file that -m loads; which of a server's models to talk to is another matter. TANDEM_DATA
    // is a folder (os/os.h), not what to train on.
    if (text == NULL || *text == '\0' || (strcmp(o->name, "--model") == 0 && o->letter != 'm') ||
        strcmp(o->name, "--data") == 0)
        return 0;
    int rc = option_set_outside(o, text, e);
    snprintf(where, sizeof where, "environment %s", name);
    if (rc != 0)
        err_wrap(e, "environment variable %s", name);
    else if (r->told != NULL)
        r->told(r->ctx, o, where);
    return rc;
}

int option_environment_read(const struct option_reader *r, struct err *e)
{
    int rc = 0;
    for (const struct cli_option *o = r->options; rc == 0 && o->name != NULL; o++)
        rc = environment_apply(r, o, e);
    for (const struct cli_option *o = option_common(); rc == 0 && o->name != NULL; o++)
        rc = environment_apply(r, o, e);
    return rc;
}
