// One option's value: from text, and back.
#include "cli/options_impl.h"

#include "base/buf.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// The chain keeps what was handed out reachable, so that leak checkers stay useful.
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

const char *cli_text_keep(const char *text)
{
    return text_keep(text, strlen(text));
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

// Where the option's words say that it may be left to the program, "auto" is -1.
static bool takes_auto(const struct cli_option *o)
{
    return o->arg != NULL && strstr(o->arg, "|auto") != NULL;
}

static int integer_set(const struct cli_option *o, const char *text, struct err *e)
{
    char *end;
    errno = 0;
    if (takes_auto(o) && strcmp(text, "auto") == 0)
        text = "-1";
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
int option_set(const struct cli_option *o, const char *text, struct err *e)
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
int option_set_outside(const struct cli_option *o, const char *text, struct err *e)
{
    if (o->kind != CLI_LIST)
        return option_set(o, text_keep(text, strlen(text)), e);
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

// ---- and back -----------------------------------------------------------------------------------

// The options that hold a key or a token itself, and not the name of a file.
static bool is_secret(const struct cli_option *o)
{
    static const char *const secrets[] = {"--api-key", "--token"};
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++)
        if (strcmp(o->name, secrets[i]) == 0)
            return true;
    return false;
}

static void list_text(const struct cli_list *l, char *out, size_t out_bytes)
{
    size_t n = 0;
    out[0] = '\0';
    for (size_t i = 0; i < l->n && n < out_bytes; i++)
        n += (size_t)snprintf(out + n, out_bytes - n, "%s%s", i > 0 ? "," : "", l->items[i]);
}

void option_text(const struct cli_option *o, char *out, size_t out_bytes)
{
    const char *text;
    switch (o->kind) {
    case CLI_FLAG:
        snprintf(out, out_bytes, "%s", *(bool *)o->value ? "true" : "false");
        return;
    case CLI_STRING:
    case CLI_TWIN:
        text = *(const char **)o->value;
        snprintf(out, out_bytes, "%s", text == NULL ? "" : is_secret(o) ? "(hidden)" : text);
        return;
    case CLI_LIST:
        list_text(o->value, out, out_bytes);
        return;
    case CLI_DOUBLE:
        snprintf(out, out_bytes, "%.10g", *(double *)o->value);
        return;
    case CLI_INT:
        snprintf(out, out_bytes, "%lld", (long long)*(int64_t *)o->value);
        return;
    case CLI_UINT32:
        snprintf(out, out_bytes, "%u", *(uint32_t *)o->value);
        return;
    case CLI_INT32:
        if (takes_auto(o) && *(int *)o->value < 0)
            snprintf(out, out_bytes, "auto");
        else
            snprintf(out, out_bytes, "%d", *(int *)o->value);
        return;
    }
}

void option_allowed(const struct cli_option *o, char *out, size_t out_bytes)
{
    bool any = o->min == 0 && o->max == 0;
    const char *what = o->kind == CLI_DOUBLE ? "a number" : "a whole number";
    if (o->kind == CLI_FLAG)
        snprintf(out, out_bytes, "true or false");
    else if (o->kind == CLI_STRING || o->kind == CLI_TWIN)
        snprintf(out, out_bytes, "%s", o->arg != NULL ? o->arg : "text");
    else if (o->kind == CLI_LIST)
        snprintf(out, out_bytes, "%s[,%s...], at most %d", o->arg, o->arg, CLI_LIST_MAX);
    else if (any)
        snprintf(out, out_bytes, "%s", what);
    else
        snprintf(out, out_bytes, "%s from %.10g to %.10g%s", what, takes_auto(o) ? 0 : o->min,
                 o->max, takes_auto(o) ? ", or auto" : "");
}
