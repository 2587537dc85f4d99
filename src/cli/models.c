// tandem ls, rm and alias: the models of this machine; and what all commands do with -m.
#include "cli/models.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "cli/term.h"
#include "models/fetch.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef TANDEM_BACKEND // the build tells what computes; where it does not, nothing lies elsewhere
#define TANDEM_BACKEND "cpu"
#endif

void models_json_print(const json_t *v)
{
    char *line = json_line(v);
    puts(line);
    free(line);
}

void models_age_format(int64_t unix_s, char out[32])
{
    static const struct {
        int64_t seconds;
        const char *one, *many;
    } units[] = {{365 * 86400LL, "year", "years"}, {30 * 86400LL, "month", "months"},
                 {7 * 86400LL, "week", "weeks"},   {86400, "day", "days"},
                 {3600, "hour", "hours"},          {60, "minute", "minutes"}};
    int64_t age = clock_unix_s() - unix_s;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (age < units[i].seconds)
            continue;
        long long n = age / units[i].seconds;
        snprintf(out, 32, "%lld %s ago", n, n == 1 ? units[i].one : units[i].many);
        return;
    }
    snprintf(out, 32, "just now");
}

static json_t *text_or_null(const char *text)
{
    return *text ? json_string(text) : json_null();
}

json_t *models_entry_json(const struct models_entry *m, const char *name)
{
    char full[MODELS_ID_BYTES], path[MODELS_PATH_BYTES] = "";
    json_t *o = json_object(), *files = json_array();
    models_id_format(&m->id, full);
    models_entry_path(m, m->files[0].name, path, NULL);
    for (size_t i = 0; i < m->n_files; i++) {
        json_t *f = json_object();
        json_put(f, "name", json_string(m->files[i].name));
        json_put(f, "bytes",
                 m->files[i].bytes == MODELS_SIZE_UNKNOWN
                     ? json_null()
                     : json_integer((json_int_t)m->files[i].bytes));
        json_put(f, "sha256", text_or_null(m->files[i].sha256));
        json_array_append_new(files, f);
    }
    json_put(o, "name", json_string(name));
    json_put(o, "id", json_string(full));
    json_put(o, "quant", text_or_null(m->id.quant));
    json_put(o, "bytes", json_integer((json_int_t)models_entry_bytes(m)));
    json_put(o, "context", m->n_ctx ? json_integer(m->n_ctx) : json_null());
    json_put(o, "arch", text_or_null(m->arch));
    json_put(o, "params", m->params ? json_integer((json_int_t)m->params) : json_null());
    json_put(o, "source", json_string(m->source));
    json_put(o, "pulled", json_integer(m->pulled_unix_s));
    json_put(o, "complete", json_boolean(m->complete));
    json_put(o, "path", json_string(path));
    json_put(o, "files", files);
    json_put(o, "projector", text_or_null(m->projector.name));
    return o;
}

// ---- ls ------------------------------------------------------------------------------------------

static void context_format(uint32_t n, char out[16])
{
    if (n == 0)
        snprintf(out, 16, "-");
    else if (n >= 1024 && n % 1024 == 0)
        snprintf(out, 16, "%uk", n / 1024);
    else
        snprintf(out, 16, "%u", n);
}

static int name_width(const struct models_list *l)
{
    char name[MODELS_ID_BYTES];
    size_t widest = strlen("NAME");
    for (size_t i = 0; i < l->n; i++) {
        models_list_name(l, i, name);
        widest = strlen(name) > widest ? strlen(name) : widest;
    }
    return (int)widest;
}

static void row_print(const struct models_list *l, size_t i, int width)
{
    const struct models_entry *m = &l->items[i];
    char name[MODELS_ID_BYTES], size[MODELS_SIZE_TEXT], context[16], age[32];
    const char *dim = term_color(stdout) && !m->complete ? "\033[2m" : "";
    models_list_name(l, i, name);
    models_size_format(models_entry_bytes(m), size);
    context_format(m->n_ctx, context);
    models_age_format(m->pulled_unix_s, age);
    printf("%s%-*s  %-10s %8s %8s  %s%s%s\n", dim, width, name, m->id.quant[0] ? m->id.quant : "-",
           size, context, age, m->complete ? "" : ", not complete: pull it again to go on",
           *dim ? "\033[0m" : "");
}

static void aliases_print(const json_t *aliases)
{
    const char *name;
    json_t *target;
    if (json_object_size(aliases) == 0)
        return;
    printf("\n");
    json_object_foreach((json_t *)aliases, name, target)
        printf("%s -> %s\n", name, json_string_value(target));
}

static void list_print(const struct models_list *l, const json_t *aliases)
{
    int width = name_width(l);
    if (l->n == 0)
        printf("No models yet; get one with `tandem pull user/repo`.\n");
    else
        printf("%-*s  %-10s %8s %8s  %s\n", width, "NAME", "QUANT", "SIZE", "CONTEXT", "PULLED");
    for (size_t i = 0; i < l->n; i++)
        row_print(l, i, width);
    aliases_print(aliases);
}

static void list_json_print(const struct models_list *l, json_t *aliases)
{
    char name[MODELS_ID_BYTES];
    json_t *o = json_object(), *models = json_array();
    for (size_t i = 0; i < l->n; i++) {
        models_list_name(l, i, name);
        json_array_append_new(models, models_entry_json(&l->items[i], name));
    }
    json_put(o, "models", models);
    json_put(o, "aliases", json_incref(aliases));
    models_json_print(o);
    json_decref(o);
}

static int ls_run(int argc, char **argv)
{
    bool json = false, done = false;
    const struct cli_option options[] = {
        {"--json", 0, CLI_FLAG, &json, NULL, "print JSON", 0, 0},
        {0},
    };
    struct err e = {0};
    struct models_list l = {0};
    json_t *aliases = NULL;
    int rc = cli_parse(argc, argv, options, "usage: tandem ls [--json]",
                       "Lists the models that were pulled, and the aliases.", NULL, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0)
        rc = models_list_read(&l, &e);
    if (rc == 0)
        rc = models_aliases_read(&aliases, &e);
    if (rc == 0 && json)
        list_json_print(&l, aliases);
    else if (rc == 0)
        list_print(&l, aliases);
    json_decref(aliases);
    models_list_fini(&l);
    return rc ? cli_fail("ls", &e) : 0;
}

const struct cli_command cli_ls = {"ls", "the models of this machine", ls_run};

// ---- rm ------------------------------------------------------------------------------------------

// What was typed, when it was y or yes.
static bool is_agreed(const char *what)
{
    char answer[16] = "";
    fprintf(stderr, "Remove %s? [y/N] ", what);
    fflush(stderr);
    if (!fgets(answer, sizeof answer, stdin))
        return false;
    answer[strcspn(answer, "\r\n")] = '\0';
    return strcmp(answer, "y") == 0 || strcmp(answer, "Y") == 0 || strcmp(answer, "yes") == 0;
}

static int rm_confirm(const struct models_entry *m, const char *name, struct err *e)
{
    char size[MODELS_SIZE_TEXT], what[MODELS_ID_BYTES + 64];
    models_size_format(models_entry_bytes(m), size);
    snprintf(what, sizeof what, "%s (%s)", name, size);
    if (!isatty(STDIN_FILENO))
        return err_set(e, ERR_INVALID, "nobody is there to be asked about %s; say --yes", name);
    if (is_agreed(what))
        return 0;
    return err_set(e, ERR_CANCELLED, "%s stays", name);
}

static int rm_one(const char *wanted, bool yes, json_t *removed, struct err *e)
{
    struct models_list l;
    size_t i = 0, aliases = 0;
    char name[MODELS_ID_BYTES];
    int rc = models_list_read(&l, e);
    if (rc == 0)
        rc = models_list_find(&l, wanted, &i, e);
    if (rc != 0)
        goto out;
    models_list_name(&l, i, name);
    if (!yes)
        rc = rm_confirm(&l.items[i], name, e);
    if (rc == 0)
        rc = models_entry_remove(&l.items[i], e);
    if (rc == 0)
        rc = models_alias_drop(&l.items[i].id, &aliases, e);
    if (rc != 0)
        goto out;
    if (removed)
        json_array_append_new(removed, json_string(name));
    else
        printf("%s is removed%s\n", name, aliases ? ", and its aliases" : "");
out:
    models_list_fini(&l);
    return rc;
}

static int rm_run(int argc, char **argv)
{
    bool json = false, yes = false, done = false;
    struct cli_list rest = {0};
    const struct cli_option options[] = {
        {"--yes", 'y', CLI_FLAG, &yes, NULL, "do not ask", 0, 0},
        {"--json", 0, CLI_FLAG, &json, NULL, "print JSON", 0, 0},
        {0},
    };
    struct err e = {0};
    int rc = cli_parse(argc, argv, options, "usage: tandem rm NAME... [--yes] [--json]",
                       "Removes models that were pulled, also half pulled ones.", &rest, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0 && rest.n == 0)
        rc = err_set(&e, ERR_INVALID, "say which model; `tandem ls` lists them");
    json_t *removed = json ? json_array() : NULL;
    for (size_t i = 0; rc == 0 && i < rest.n; i++)
        rc = rm_one(rest.items[i], yes, removed, &e);
    if (rc == 0 && json) {
        json_t *o = json_object();
        json_put(o, "removed", json_incref(removed));
        models_json_print(o);
        json_decref(o);
    }
    json_decref(removed);
    return rc ? cli_fail("rm", &e) : 0;
}

const struct cli_command cli_rm = {"rm", "remove a model", rm_run};

// ---- alias ---------------------------------------------------------------------------------------

static int alias_show(bool json, struct err *e)
{
    json_t *aliases = NULL, *target;
    const char *name;
    int rc = models_aliases_read(&aliases, e);
    if (rc == 0 && json)
        models_json_print(aliases);
    else
        json_object_foreach(aliases, name, target)
            printf("%s -> %s\n", name, json_string_value(target));
    json_decref(aliases);
    return rc;
}

static int alias_do(const struct cli_list *rest, bool remove_it, bool json, struct err *e)
{
    if (remove_it ? rest->n != 1 : rest->n != 0 && rest->n != 2)
        return err_set(e, ERR_INVALID,
                       "say `tandem alias NAME MODEL`, `tandem alias NAME --remove`, or neither to "
                       "list them");
    if (rest->n == 0)
        return alias_show(json, e);
    int rc = remove_it ? models_alias_remove(rest->items[0], e)
                       : models_alias_set(rest->items[0], rest->items[1], e);
    return rc == 0 && json ? alias_show(true, e) : rc;
}

static int alias_run(int argc, char **argv)
{
    bool json = false, remove_it = false, done = false;
    struct cli_list rest = {0};
    const struct cli_option options[] = {
        {"--remove", 0, CLI_FLAG, &remove_it, NULL, "remove the alias", 0, 0},
        {"--json", 0, CLI_FLAG, &json, NULL, "print the aliases as JSON", 0, 0},
        {0},
    };
    struct err e = {0};
    int rc =
        cli_parse(argc, argv, options, "usage: tandem alias [NAME MODEL | NAME --remove] [--json]",
                  "Gives a model a name of your own: of a model that was pulled, or of a file.",
                  &rest, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0)
        rc = alias_do(&rest, remove_it, json, &e);
    return rc ? cli_fail("alias", &e) : 0;
}

const struct cli_command cli_alias = {"alias", "name a model", alias_run};

// ---- for other commands --------------------------------------------------------------------------

int cli_model_path(const char **model, struct err *e)
{
    static char path[MODELS_PATH_BYTES]; // a process has one model
    struct models_found found;
    if (!*model)
        return 0;
    int rc = models_find(*model, &found, e);
    if (rc != 0)
        return rc;
    memcpy(path, found.path, sizeof path);
    *model = path;
    return 0;
}

// With a graphics card of its own the weights lie elsewhere, and this machine's memory says nothing.
static bool is_host_memory(const struct engine_options *o)
{
    bool shared = strcmp(TANDEM_BACKEND, "cpu") == 0 || strcmp(TANDEM_BACKEND, "metal") == 0;
    return shared || o->n_gpu_layers == 0;
}

// The projector is loaded beside the model. What is not there will be complained of by its engine.
static void projector_add(const char *path, struct models_memory *need)
{
    struct stat st;
    if (!path || stat(path, &st) != 0 || st.st_size < 0)
        return;
    need->weights_bytes += (uint64_t)st.st_size;
    need->total_bytes += (uint64_t)st.st_size;
}

// False: its head does not read, which its engine will complain of, or other memory counts.
static bool need_get(const struct engine_options *o, struct models_memory *need)
{
    struct models_memory_options options;
    struct err ignored;
    struct models_gguf *g = mem_alloc(sizeof *g);
    bool read = o->model && strncmp(o->model, "fake", 4) != 0 && is_host_memory(o) &&
                models_gguf_read(o->model, g, &ignored) == 0;
    models_memory_options_default(&options);
    options.n_ctx = o->n_ctx;
    options.n_seq = o->n_seq;
    options.n_batch = o->n_batch ? o->n_batch : options.n_batch;
    options.type_k = o->type_k;
    options.type_v = o->type_v;
    bool known = read && models_memory_need(g, &options, need, &ignored) == 0;
    if (known)
        projector_add(o->projector, need);
    if (read)
        models_gguf_fini(g);
    free(g);
    return known;
}

uint64_t cli_model_need(const struct engine_options *o)
{
    struct models_memory need;
    return need_get(o, &need) ? need.total_bytes : 0;
}

static int room_check(const struct engine_options *o, const char *name, struct err *e)
{
    struct models_memory need;
    int rc = need_get(o, &need) ? models_memory_check(name, &need, os_memory_available(), e) : 0;
    if (rc != 0)
        snprintf(e->message + strlen(e->message), sizeof e->message - strlen(e->message),
                 ", or say --no-memory-check");
    return rc;
}

int cli_model_find(const char *name, const struct engine_options *o, bool any_memory,
                   struct models_found *out, struct err *e)
{
    struct engine_options with = *o;
    int rc = models_find(name, out, e);
    with.model = out->path;
    if (!with.projector && out->projector[0])
        with.projector = out->projector;
    return rc != 0 || any_memory ? rc : room_check(&with, models_base_name(name), e);
}

struct cli_option cli_model_room_option(bool *value)
{
    return (struct cli_option){.name = "--no-memory-check",
                               .kind = CLI_FLAG,
                               .value = value,
                               .help = "load a model also when it seems to need more memory than "
                                       "is free"};
}
