// Options from three places: the ini file first, then the environment, then the command line, each
// overriding the one before.
#include "base/distance.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/options_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELP_COLUMN 30

// The command line is read once per process, by its main thread: these three are its own.
static struct {
    const char *level, *format;
} log_options;
static option_inspector *inspector;
static void *inspector_ctx;

static const struct cli_option common[] = {
    {.name = "--log-level",
     .kind = CLI_STRING,
     .value = (void *)&log_options.level,
     .arg = "LEVEL",
     .help = "error, warn, info or debug"},
    {.name = "--log-format",
     .kind = CLI_STRING,
     .value = (void *)&log_options.format,
     .arg = "FORMAT",
     .help = "text or json, one line each"},
    {0},
};

const struct cli_option *option_common(void)
{
    return common;
}

const struct cli_option *option_find(const struct cli_option *options, const char *name, size_t n)
{
    for (; options->name != NULL; options++)
        if (strncmp(options->name, name, n) == 0 && options->name[n] == '\0')
            return options;
    return NULL;
}

// ---- the nearest name ---------------------------------------------------------------------------

const char *cli_nearest(const char *typed, const char *const *names)
{
    const char *best = NULL;
    // A third of the letters may be wrong: farther than that it is no typing mistake. The dashes are
    // no letters: they are never wrong, and would let short names pass for each other.
    size_t letters = strlen(typed) - strspn(typed, "-");
    size_t best_distance = (letters > 3 ? letters / 3 : 1) + 1;
    for (size_t i = 0; names[i] != NULL; i++) {
        size_t d = distance_of(typed, names[i]);
        if (d < best_distance) {
            best_distance = d;
            best = names[i];
        }
    }
    return best;
}

int option_unknown(const char *typed, const struct cli_option *options, struct err *e)
{
    const char *names[OPTIONS_MAX + 4];
    size_t n = 0;
    names[n++] = "--help";
    for (const struct cli_option *o = common; o->name != NULL; o++)
        names[n++] = o->name;
    for (size_t i = 0; options[i].name != NULL && n < OPTIONS_MAX + 3; i++)
        names[n++] = options[i].name;
    names[n] = NULL;
    const char *nearest = cli_nearest(typed, names);
    if (nearest == NULL)
        return err_set(e, ERR_INVALID, "no option \"%s\"; --help lists them", typed);
    return err_set(e, ERR_INVALID, "no option \"%s\"; did you mean %s?", typed, nearest);
}

// ---- command line -------------------------------------------------------------------------------

static const struct cli_option *option_of_argument(const struct cli_option *options,
                                                   const char *arg)
{
    if (arg[1] == '-')
        return option_find(options, arg, strcspn(arg, "="));
    for (; options->name != NULL; options++)
        if (options->letter != 0 && options->letter == arg[1] && arg[2] == '\0')
            return options;
    return NULL;
}

// Where the command line stands, and which lists it has begun.
struct arguments {
    int argc;
    char **argv;
    int i;
    const struct cli_option *options;
    uint64_t lists_begun; // bit per option
};

static int argument_value(struct arguments *a, const struct cli_option *o, const char **text,
                          struct err *e)
{
    const char *arg = a->argv[a->i], *inline_value = arg[1] == '-' ? strchr(arg, '=') : NULL;
    if (inline_value != NULL) {
        *text = inline_value + 1;
        return 0;
    }
    if (o->kind == CLI_FLAG) {
        *text = "true";
        return 0;
    }
    if (a->i + 1 >= a->argc || strncmp(a->argv[a->i + 1], "--", 2) == 0)
        return err_set(e, ERR_INVALID, "%s needs a value: %s %s", arg, o->name,
                       o->arg != NULL ? o->arg : "VALUE");
    *text = a->argv[++a->i];
    return 0;
}

static int argument_option(struct arguments *a, struct err *e)
{
    const char *arg = a->argv[a->i], *text = NULL;
    const struct cli_option *o = option_of_argument(a->options, arg);
    bool own = o != NULL;
    if (!own)
        o = option_of_argument(common, arg);
    if (o == NULL)
        return option_unknown(arg, a->options, e);
    int rc = argument_value(a, o, &text, e);
    uint64_t bit = own ? 1ull << ((size_t)(o - a->options) % 64) : 0;
    if (rc == 0 && o->kind == CLI_LIST && (a->lists_begun & bit) == 0) {
        ((struct cli_list *)o->value)->n = 0; // the command line replaces what came from outside
        a->lists_begun |= bit;
    }
    return rc != 0 ? rc : option_set(o, text, e);
}

static int positional_add(struct cli_list *rest, const char *arg, struct err *e)
{
    if (rest == NULL)
        return err_set(e, ERR_INVALID, "\"%s\" is not expected here; --help says how", arg);
    if (rest->n == CLI_LIST_MAX)
        return err_set(e, ERR_INVALID, "too many arguments, at most %d are taken", CLI_LIST_MAX);
    rest->items[rest->n++] = arg;
    return 0;
}

// Prints `text` in lines that begin at the help's column.
static void help_text(const char *text, int column)
{
    size_t room = 98 - (size_t)column;
    while (strlen(text) > room) {
        size_t n = room;
        while (n > 0 && text[n] != ' ')
            n--;
        if (n == 0)
            break;
        printf("%.*s\n%*s", (int)n, text, column, "");
        text += n + 1;
    }
    printf("%s\n", text);
}

static void help_line(const struct cli_option *o)
{
    char left[64];
    int n = o->letter != 0 ? snprintf(left, sizeof left, "-%c, ", o->letter) : 0;
    snprintf(left + n, sizeof left - (size_t)n, "%s%s%s", o->name, o->arg != NULL ? " " : "",
             o->arg != NULL ? o->arg : "");
    printf("  %-*s", HELP_COLUMN - 2, left);
    if (strlen(left) + 3 > HELP_COLUMN)
        printf("\n%*s", HELP_COLUMN, "");
    help_text(o->help != NULL ? o->help : "", HELP_COLUMN);
}

static void help_print(const struct cli_option *options, const char *usage, const char *about)
{
    static const struct cli_option help_option = {
        .name = "--help", .letter = 'h', .help = "this text"};
    printf("%s%s\n\n%s\n\noptions:\n", strncmp(usage, "usage:", 6) == 0 ? "" : "usage: ", usage,
           about);
    for (; options->name != NULL; options++)
        help_line(options);
    for (const struct cli_option *o = common; o->name != NULL; o++)
        help_line(o);
    help_line(&help_option);
}

static bool asks_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

// ---- what every command understands ---------------------------------------------------------------

// Children (the worker) log as this process does: they learn it from the environment.
static int log_options_apply(struct err *e)
{
    enum log_level level;
    if (log_options.level != NULL) {
        if (log_level_parse(log_options.level, &level) != 0)
            return err_set(e, ERR_INVALID,
                           "--log-level is \"%.40s\", must be error, warn, info or debug",
                           log_options.level);
        log_level_set(level);
        setenv("TANDEM_LOG", log_options.level, 1);
    }
    if (log_options.format != NULL) {
        bool json = strcmp(log_options.format, "json") == 0;
        if (!json && strcmp(log_options.format, "text") != 0)
            return err_set(e, ERR_INVALID, "--log-format is \"%.40s\", must be text or json",
                           log_options.format);
        log_json_set(json);
        setenv("TANDEM_LOG_FORMAT", log_options.format, 1);
    }
    return 0;
}

// ---- all of it --------------------------------------------------------------------------------------

static int arguments_parse(struct arguments *a, struct cli_list *rest, struct err *e)
{
    bool only_positional = false;
    int rc = 0;
    for (a->i = 1; a->i < a->argc && rc == 0; a->i++) {
        const char *arg = a->argv[a->i];
        if (!only_positional && strcmp(arg, "--") == 0)
            only_positional = true;
        else if (!only_positional && arg[0] == '-' && arg[1] != '\0')
            rc = argument_option(a, e);
        else
            rc = positional_add(rest, arg, e);
    }
    return rc;
}

int cli_parse(int argc, char **argv, const struct cli_option *options, const char *usage,
              const char *about, struct cli_list *rest, bool *done, struct err *e)
{
    struct option_reader outside = {.command = argv[0], .options = options};
    struct arguments a = {.argc = argc, .argv = argv, .options = options};
    if (inspector != NULL) {
        inspector(inspector_ctx, options);
        *done = true;
        return 0;
    }
    *done = asks_help(argc, argv);
    if (*done) {
        help_print(options, usage, about);
        return 0;
    }
    log_options.level = log_options.format = NULL;
    int rc = option_file_read(&outside, e);
    if (rc == 0)
        rc = option_environment_read(&outside, e);
    if (rc == 0)
        rc = arguments_parse(&a, rest, e);
    return rc == 0 ? log_options_apply(e) : rc;
}

void option_inspect(const struct cli_command *c, option_inspector *f, void *ctx)
{
    char name[OPTION_NAME_BYTES];
    snprintf(name, sizeof name, "%s", c->name);
    inspector = f;
    inspector_ctx = ctx;
    c->run(1, (char *[]){name, NULL});
    inspector = NULL;
}

// ---- shared by commands -------------------------------------------------------------------------

int cli_fail(const char *command, const struct err *e)
{
    fprintf(stderr, "tandem %s: %s\n", command,
            e->message[0] != '\0' ? e->message : err_name(e->code));
    return e->code == ERR_INVALID ? 2 : 1;
}
