// Options from three places: the ini file first, then the environment, then the command line, each
// overriding the one before.
#include "cli/cli.h"

#include "base/buf.h"
#include "base/log.h"
#include "os/os.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HELP_COLUMN 30

// ---- one value ----------------------------------------------------------------------------------

// Keeps a text for as long as the process lives: option values point into it. The chain keeps what
// was handed out reachable, so that leak checkers stay useful.
static const char *text_keep(const char *text, size_t n)
{
    static struct kept {
        struct kept *next;
        char text[];
    } * kept;
    struct kept *k = mem_alloc(sizeof *k + n + 1);
    memcpy(k->text, text, n);
    k->next = kept;
    kept = k;
    return k->text;
}

static int flag_set(const struct cli_option *o, const char *text, struct err *e)
{
    static const char *const yes[] = {"1", "true", "yes", "on"}, *const no[] = {"0", "false", "no",
                                                                                "off"};
    for (size_t i = 0; i < 4; i++) {
        bool is_yes = strcasecmp(text, yes[i]) == 0;
        if (is_yes || strcasecmp(text, no[i]) == 0) {
            *(bool *)o->value = is_yes;
            return 0;
        }
    }
    return err_set(e, ERR_INVALID, "%s is \"%s\", must be true or false", o->name, text);
}

static int limits_check(const struct cli_option *o, double v, double type_min, double type_max,
                        struct err *e)
{
    bool any = o->min == 0 && o->max == 0;
    double min = any ? type_min : o->min, max = any ? type_max : o->max;
    if (v >= min && v <= max)
        return 0;
    return err_set(e, ERR_INVALID, "%s is %.10g, must be %.10g to %.10g", o->name, v, min, max);
}

static int integer_set(const struct cli_option *o, const char *text, struct err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (*text == '\0' || *end != '\0' || errno != 0)
        return err_set(e, ERR_INVALID, "%s is \"%s\", must be a whole number", o->name, text);
    double min = o->kind == CLI_UINT32 ? 0 : o->kind == CLI_INT32 ? INT32_MIN : -0x1p53;
    double max = o->kind == CLI_UINT32 ? UINT32_MAX : o->kind == CLI_INT32 ? INT32_MAX : 0x1p53;
    int rc = limits_check(o, (double)v, min, max, e);
    if (rc != 0)
        return rc;
    if (o->kind == CLI_UINT32)
        *(uint32_t *)o->value = (uint32_t)v;
    else if (o->kind == CLI_INT32)
        *(int *)o->value = (int)v;
    else
        *(int64_t *)o->value = v;
    return 0;
}

static int double_set(const struct cli_option *o, const char *text, struct err *e)
{
    char *end;
    double v = strtod(text, &end);
    if (*text == '\0' || *end != '\0' || !isfinite(v))
        return err_set(e, ERR_INVALID, "%s is \"%s\", must be a number", o->name, text);
    int rc = limits_check(o, v, -HUGE_VAL, HUGE_VAL, e);
    if (rc == 0)
        *(double *)o->value = v;
    return rc;
}

static int list_add(const struct cli_option *o, const char *item, struct err *e)
{
    struct cli_list *l = o->value;
    if (l->n == CLI_LIST_MAX)
        return err_set(e, ERR_INVALID, "%s is given more than %d times", o->name, CLI_LIST_MAX);
    l->items[l->n++] = item;
    return 0;
}

// `text` must live on.
static int value_set(const struct cli_option *o, const char *text, struct err *e)
{
    switch (o->kind) {
    case CLI_FLAG:
        return flag_set(o, text, e);
    case CLI_STRING:
        *(const char **)o->value = text;
        return 0;
    case CLI_TWIN:
        ((const char **)o->value)[0] = ((const char **)o->value)[1] = text;
        return 0;
    case CLI_DOUBLE:
        return double_set(o, text, e);
    case CLI_LIST:
        return list_add(o, text, e);
    case CLI_INT:
    case CLI_UINT32:
    case CLI_INT32:
        break;
    }
    return integer_set(o, text, e);
}

// A value from the environment or the file, where a list is one text with commas and replaces what
// was there.
static int value_set_outside(const struct cli_option *o, const char *text, struct err *e)
{
    if (o->kind != CLI_LIST)
        return value_set(o, text_keep(text, strlen(text)), e);
    ((struct cli_list *)o->value)->n = 0;
    while (*text != '\0') {
        size_t n = strcspn(text, ",");
        int rc = n > 0 ? list_add(o, text_keep(text, n), e) : 0;
        if (rc != 0)
            return rc;
        text += n + (text[n] == ',');
    }
    return 0;
}

// ---- the nearest name ---------------------------------------------------------------------------

#define NAME_MAX_BYTES 48

// How many letters are to be changed, added, left out or swapped with their neighbour (optimal string
// alignment) to make one short name of another.
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][NAME_MAX_BYTES + 1]; // of the last two letters of `a`, and of this one
    size_t *before = rows[0], *last = rows[1], *now = rows[2], *spare;
    size_t na = strlen(a), nb = strlen(b);
    if (na > NAME_MAX_BYTES || nb > NAME_MAX_BYTES)
        return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++)
        last[j] = j;
    for (size_t i = 1; i <= na; i++) {
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t change = last[j - 1] + (a[i - 1] != b[j - 1]);
            size_t step = (last[j] < now[j - 1] ? last[j] : now[j - 1]) + 1;
            now[j] = step < change ? step : change;
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped && before[j - 2] + 1 < now[j])
                now[j] = before[j - 2] + 1;
        }
        spare = before, before = last, last = now, now = spare;
    }
    return last[nb];
}

const char *cli_nearest(const char *typed, const char *const *names)
{
    const char *best = NULL;
    // A third of the letters may be wrong: farther than that it is no typing mistake. The dashes are
    // no letters: they are never wrong, and would let short names pass for each other.
    size_t letters = strlen(typed) - strspn(typed, "-");
    size_t best_distance = (letters > 3 ? letters / 3 : 1) + 1;
    for (size_t i = 0; names[i] != NULL; i++) {
        size_t d = distance(typed, names[i]);
        if (d < best_distance) {
            best_distance = d;
            best = names[i];
        }
    }
    return best;
}

static const struct cli_option log_level_option = {
    .name = "--log-level",
    .kind = CLI_STRING,
    .arg = "LEVEL",
    .help = "error, warn, info or debug",
};

static int unknown_option(const char *typed, const struct cli_option *options, struct err *e)
{
    const char *names[64];
    size_t n = 0;
    names[n++] = "--help";
    names[n++] = log_level_option.name;
    for (size_t i = 0; options[i].name != NULL && n < 63; i++)
        names[n++] = options[i].name;
    names[n] = NULL;
    const char *nearest = cli_nearest(typed, names);
    if (nearest == NULL)
        return err_set(e, ERR_INVALID, "no option \"%s\"; --help lists them", typed);
    return err_set(e, ERR_INVALID, "no option \"%s\"; did you mean %s?", typed, nearest);
}

// ---- file and environment -----------------------------------------------------------------------

struct ini_context {
    const char *command;
    const struct cli_option *options;
    struct err *e;
    int rc;
};

static const struct cli_option *option_find(const struct cli_option *options, const char *name,
                                            size_t n)
{
    for (; options->name != NULL; options++)
        if (strncmp(options->name, name, n) == 0 && options->name[n] == '\0')
            return options;
    return NULL;
}

static int ini_entry(void *user, const char *section, const char *name, const char *value)
{
    struct ini_context *c = user;
    char option[NAME_MAX_BYTES];
    if (strcmp(section, c->command) != 0)
        return 1;
    snprintf(option, sizeof option, "--%s", name);
    const struct cli_option *o = option_find(c->options, option, strlen(option));
    if (o != NULL)
        c->rc = value_set_outside(o, value, c->e);
    else
        c->rc = unknown_option(option, c->options, c->e);
    return c->rc == 0;
}

static int file_read(const char *command, const struct cli_option *options, struct err *e)
{
    char path[4096];
    struct ini_context c = {.command = command, .options = options, .e = e};
    if (os_config_dir(path, sizeof path - 16, e) != 0)
        return 0; // no home folder: no file
    strncat(path, "/tandem.ini", 15);
    int line = ini_parse(path, ini_entry, &c);
    if (c.rc != 0) {
        err_wrap(e, "%s:%d", path, line);
        return c.rc;
    }
    if (line > 0)
        return err_set(e, ERR_INVALID, "%s:%d is not \"name = value\"", path, line);
    return 0;
}

static void environment_name(const char *option, char out[NAME_MAX_BYTES])
{
    size_t n = (size_t)snprintf(out, NAME_MAX_BYTES, "TANDEM_%s", option + 2);
    for (size_t i = 0; i < n && i < NAME_MAX_BYTES - 1; i++)
        out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

static int environment_read(const struct cli_option *options, struct err *e)
{
    for (; options->name != NULL; options++) {
        char name[NAME_MAX_BYTES];
        environment_name(options->name, name);
        const char *text = getenv(name);
        int rc = text != NULL && *text != '\0' ? value_set_outside(options, text, e) : 0;
        if (rc != 0) {
            err_wrap(e, "environment variable %s", name);
            return rc;
        }
    }
    return 0;
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

static int log_level_set_text(const char *text, struct err *e)
{
    enum log_level level;
    if (log_level_parse(text, &level) != 0)
        return err_set(e, ERR_INVALID, "--log-level is \"%s\", must be error, warn, info or debug",
                       text);
    log_level_set(level);
    return 0;
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
    bool is_log = strncmp(arg, "--log-level", 11) == 0 && (arg[11] == '\0' || arg[11] == '=');
    const struct cli_option *o = is_log ? &log_level_option : option_of_argument(a->options, arg);
    if (o == NULL)
        return unknown_option(arg, a->options, e);
    int rc = argument_value(a, o, &text, e);
    if (rc != 0 || is_log)
        return rc != 0 ? rc : log_level_set_text(text, e);
    uint64_t bit = 1ull << ((size_t)(o - a->options) % 64);
    if (o->kind == CLI_LIST && (a->lists_begun & bit) == 0) {
        ((struct cli_list *)o->value)->n = 0; // the command line replaces what came from outside
        a->lists_begun |= bit;
    }
    return value_set(o, text, e);
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
    help_line(&log_level_option);
    help_line(&help_option);
}

static bool asks_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

int cli_parse(int argc, char **argv, const struct cli_option *options, const char *usage,
              const char *about, struct cli_list *rest, bool *done, struct err *e)
{
    *done = asks_help(argc, argv);
    if (*done) {
        help_print(options, usage, about);
        return 0;
    }
    int rc = file_read(argv[0], options, e);
    if (rc != 0 || (rc = environment_read(options, e)) != 0)
        return rc;
    bool only_positional = false;
    struct arguments a = {.argc = argc, .argv = argv, .i = 1, .options = options};
    for (; a.i < argc && rc == 0; a.i++) {
        const char *arg = argv[a.i];
        if (!only_positional && strcmp(arg, "--") == 0)
            only_positional = true;
        else if (!only_positional && arg[0] == '-' && arg[1] != '\0')
            rc = argument_option(&a, e);
        else
            rc = positional_add(rest, arg, e);
    }
    return rc;
}

// ---- shared by commands -------------------------------------------------------------------------

int cli_fail(const char *command, const struct err *e)
{
    fprintf(stderr, "tandem %s: %s\n", command,
            e->message[0] != '\0' ? e->message : err_name(e->code));
    return e->code == ERR_INVALID ? 2 : 1;
}

size_t cli_worker_options(struct node_worker_options *o, struct cli_option *out, size_t max)
{
    struct engine_options *g = &o->engine;
    const struct cli_option all[] = {
        {"--model", 'm', CLI_STRING, &g->model, "FILE", "the model, a GGUF file", 0, 0},
        {"--name", 0, CLI_STRING, &o->name, "NAME", "shown to others; default: the host's", 0, 0},
        {"--ctx", 'c', CLI_UINT32, &g->n_ctx, "TOKENS",
         "context shared by all requests; default: the model's, at most 8192", 0, 1 << 24},
        {"--parallel", 0, CLI_UINT32, &g->n_seq, "N", "requests computed at the same time", 1, 256},
        {"--threads", 't', CLI_INT32, &g->n_threads, "N", "default: one per core", 0, 1024},
        {"--gpu-layers", 0, CLI_INT32, &g->n_gpu_layers, "N", "-1: all", -1, 10000},
        {"--kv-type", 0, CLI_TWIN, &g->type_k, "TYPE", "f16 (default), f32, q8_0, ...", 0, 0},
        {"--cpus", 0, CLI_STRING, &o->cpus, "LIST", "pin the worker to cores, as in 0,2-3", 0, 0},
        {"--handoff", 0, CLI_STRING, &o->handoff, "MODE",
         "ranges, ranges-late-state, whole or none; default: what a probe finds to be exact", 0, 0},
        {"--no-tiles", 0, CLI_FLAG, &o->no_tiles, NULL, "send the last chunk whole, not by layer",
         0, 0},
        {"--min-chunk", 0, CLI_UINT32, &o->min_chunk_tokens, "TOKENS", "finest chunk sent", 1,
         1 << 20},
        {"--pace-prefill", 0, CLI_DOUBLE, &o->pace_prefill, "TOKENS/S",
         "emulate a machine that reads prompts at this rate", 0, 1e12},
        {"--pace-decode", 0, CLI_DOUBLE, &o->pace_decode, "TOKENS/S",
         "emulate a machine that decodes at this rate", 0, 1e12},
        {"--link-rate", 0, CLI_DOUBLE, &o->link_bytes_per_s, "BYTES/S",
         "emulate a link of this rate for what the worker sends", 0, 1e13},
    };
    size_t n = sizeof all / sizeof *all;
    if (n > max)
        n = max;
    memcpy(out, all, n * sizeof *all);
    return n;
}
