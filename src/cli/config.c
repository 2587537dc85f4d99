// tandem config: whether the ini file is right, and what a command would run with.
#include "cli/config.h"
#include "base/buf.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/options_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: tandem config check [FILE]\n       tandem config show [COMMAND]";
static const char about[] =
    "check reads the file of options (by default the one that commands read) and names every line\n"
    "that is wrong, with what is allowed there. show prints the options of a command, or of all,\n"
    "with the values they would have now, and where each comes from. Keys are not shown.";

#define PATH_BYTES 4096

// Set by main before any command runs.
static const struct cli_command *const *commands;
static size_t n_commands;

void config_commands_set(const struct cli_command *const *list, size_t n)
{
    commands = list;
    n_commands = n;
}

static const struct cli_command *command_find(const char *name)
{
    for (size_t i = 0; i < n_commands; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

// ---- check --------------------------------------------------------------------------------------

struct check {
    const char *path;
    const struct option_entry *entry; // that is being looked at
    json_t *problems;
    bool json;
};

// entry NULL: the line alone is known.
static void problem(struct check *c, int line, const struct option_entry *entry, const char *why)
{
    json_t *o;
    if (!c->json && entry != NULL && entry->name != NULL)
        printf("%s:%d: [%s] %s: %s\n", c->path, line, entry->section, entry->name, why);
    else if (!c->json)
        printf("%s:%d: %s\n", c->path, line, why);
    o = json_object();
    json_put(o, "line", json_integer(line));
    json_put(o, "section", entry != NULL ? json_string(entry->section) : json_null());
    json_put(o, "key", entry != NULL ? json_string(entry->name) : json_null());
    json_put(o, "message", json_string(why));
    json_array_append_new(c->problems, o);
}

// The names that a section may have.
static void option_names(const struct cli_option *options, struct buf *out)
{
    for (size_t i = 0; options[i].name != NULL; i++)
        buf_printf(out, "%s%s", i > 0 ? ", " : "", options[i].name + 2);
}

static void unknown_key(struct check *c, const struct cli_option *options)
{
    struct buf why;
    buf_init(&why, 8192);
    buf_puts(&why, "there is no such option; there are: ");
    option_names(options, &why);
    buf_puts(&why, ", ");
    option_names(option_common(), &why);
    problem(c, c->entry->line, c->entry, (const char *)why.data);
    buf_fini(&why);
}

static void entry_check(void *ctx, const struct cli_option *options)
{
    struct check *c = ctx;
    char name[OPTION_NAME_BYTES], allowed[OPTION_TEXT_BYTES], why[OPTION_TEXT_BYTES * 2];
    struct err e = {0};
    snprintf(name, sizeof name, "--%s", c->entry->name);
    const struct cli_option *o = option_find(options, name, strlen(name));
    if (o == NULL)
        o = option_find(option_common(), name, strlen(name));
    if (o == NULL) {
        unknown_key(c, options);
        return;
    }
    if (option_set_outside(o, c->entry->value, &e) == 0)
        return;
    option_allowed(o, allowed, sizeof allowed);
    snprintf(why, sizeof why, "\"%.200s\" is not %s", c->entry->value, allowed);
    problem(c, c->entry->line, c->entry, why);
}

static void unknown_section(struct check *c)
{
    struct buf why;
    buf_init(&why, 8192);
    buf_puts(&why, "there is no such section; there are:");
    for (size_t i = 0; i < n_commands; i++)
        buf_printf(&why, " [%s]", commands[i]->name);
    problem(c, c->entry->line, c->entry, (const char *)why.data);
    buf_fini(&why);
}

static void file_check(struct check *c, const struct option_file *f)
{
    for (size_t i = 0; i < f->n; i++) {
        const struct cli_command *command = command_find(f->entries[i].section);
        c->entry = &f->entries[i];
        if (command == NULL)
            unknown_section(c);
        else
            option_inspect(command, entry_check, c);
    }
    if (f->bad_line > 0)
        problem(c, f->bad_line, NULL, "this is neither \"[section]\" nor \"name = value\"");
}

static void line_print(json_t *o)
{
    char *line = json_line(o);
    puts(line);
    free(line);
    json_decref(o);
}

static int check(const char *path, bool json)
{
    char own[PATH_BYTES];
    struct option_file f = {0};
    struct check c = {.path = path, .json = json};
    struct err e = {0};
    if (path == NULL && !option_file_path(own, sizeof own)) {
        err_set(&e, ERR_NOT_FOUND, "there is no home folder, and so no file; name one");
        return cli_fail("config", &e);
    }
    c.path = path != NULL ? path : own;
    if (option_file_load(c.path, &f, &e) != 0) {
        option_file_free(&f);
        return cli_fail("config", &e);
    }
    c.problems = json_array();
    file_check(&c, &f);
    size_t n = json_array_size(c.problems);
    if (json) {
        json_t *o = json_object();
        json_put(o, "file", json_string(c.path));
        json_put(o, "options", json_integer((json_int_t)f.n));
        json_put(o, "problems", json_incref(c.problems));
        line_print(o);
    } else if (n == 0) {
        printf("%s: %zu option%s, all right\n", c.path, f.n, f.n == 1 ? "" : "s");
    }
    json_decref(c.problems);
    option_file_free(&f);
    return n == 0 ? 0 : 3;
}

// ---- show ---------------------------------------------------------------------------------------

struct show {
    const char *command;
    bool json;
    json_t *all; // per command, with `json`
    // Of the command that is shown: its own, then those that every command has.
    struct cli_option options[OPTIONS_MAX];
    size_t n;
    char from[OPTIONS_MAX][OPTION_TEXT_BYTES];
    int rc;
};

static void told(void *ctx, const struct cli_option *o, const char *where)
{
    struct show *s = ctx;
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->options[i].name, o->name) == 0)
            snprintf(s->from[i], sizeof s->from[i], "%s", where);
}

static void option_show(struct show *s, size_t i, json_t *list)
{
    const struct cli_option *o = &s->options[i];
    const char *from = s->from[i][0] != '\0' ? s->from[i] : "default";
    char value[OPTION_TEXT_BYTES];
    option_text(o, value, sizeof value);
    if (list != NULL) {
        json_t *one = json_object();
        json_put(one, "value", json_string(value));
        json_put(one, "from", json_string(from));
        json_put(list, o->name + 2, one);
    } else {
        printf(
            "%s = %s%*s ; %s\n", o->name + 2, value,
            (int)(strlen(o->name) + strlen(value) < 36 ? 36 - strlen(o->name) - strlen(value) : 0),
            "", from);
    }
}

static void options_add(struct show *s, const struct cli_option *options)
{
    for (; options->name != NULL && s->n < OPTIONS_MAX; options++)
        s->options[s->n++] = *options;
}

static void command_show(void *ctx, const struct cli_option *options)
{
    struct show *s = ctx;
    struct option_reader r = {.command = s->command, .options = options, .told = told, .ctx = s};
    json_t *list = s->json ? json_object() : NULL;
    struct err e = {0};
    s->n = 0;
    options_add(s, options);
    options_add(s, option_common());
    memset(s->from, 0, sizeof s->from);
    if (option_file_read(&r, &e) != 0 || option_environment_read(&r, &e) != 0) {
        s->rc = cli_fail("config", &e);
        json_decref(list);
        return;
    }
    if (!s->json)
        printf("[%s]\n", s->command);
    for (size_t i = 0; i < s->n; i++)
        option_show(s, i, list);
    if (s->json)
        json_put(s->all, s->command, list);
    else
        printf("\n");
}

static int unknown_command(const char *name)
{
    struct err e = {0};
    err_set(&e, ERR_INVALID, "there is no command \"%.60s\" to show; tandem --help lists them",
            name);
    return cli_fail("config", &e);
}

static int show(const char *name, bool json)
{
    struct show *s;
    int rc;
    if (name != NULL && command_find(name) == NULL)
        return unknown_command(name);
    s = mem_alloc(sizeof *s);
    s->json = json;
    s->all = json ? json_object() : NULL;
    for (size_t i = 0; i < n_commands; i++) {
        s->command = commands[i]->name;
        if ((name == NULL && commands[i] != &cli_config) ||
            (name != NULL && strcmp(name, s->command) == 0))
            option_inspect(commands[i], command_show, s);
    }
    rc = s->rc;
    if (json)
        line_print(s->all);
    free(s);
    return rc;
}

// ---- the command ----------------------------------------------------------------------------------

static int config_run(int argc, char **argv)
{
    bool json = false, done = false;
    const struct cli_option options[] = {
        {.name = "--json", .kind = CLI_FLAG, .value = &json, .help = "one line of JSON"},
        {0},
    };
    struct cli_list words = {0};
    struct err e = {0};
    int rc = cli_parse(argc, argv, options, usage, about, &words, &done, &e);
    if (rc != 0)
        return cli_fail("config", &e);
    if (done)
        return 0;
    const char *what = words.n > 0 ? words.items[0] : "";
    const char *which = words.n > 1 ? words.items[1] : NULL;
    if (words.n <= 2 && strcmp(what, "check") == 0)
        return check(which, json);
    if (words.n <= 2 && strcmp(what, "show") == 0)
        return show(which, json);
    err_set(&e, ERR_INVALID, "say \"check [FILE]\" or \"show [COMMAND]\"; --help says more");
    return cli_fail("config", &e);
}

const struct cli_command cli_config = {
    "config", "check the file of options, show what is in effect", config_run};
