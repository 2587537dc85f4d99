// Upstream servers as they are given: "NAME=URL [key-file=FILE] [price-in=DOLLARS] [model=THEIRS [as=OURS]]...". Words, because
// names of models have colons and slashes in them, and commas stand between the servers of a list. Those that draw
// (--image-upstream) are given the same way, with other words at the end.
#include "base/buf.h"
#include "cli/serve.h"
#include "net/http_pool.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES 64
#define URL_BYTES 1024

// The word of a spec that begins at *at, as text that lives on; NULL: there is none any more.
static const char *word_take(const char **at)
{
    const char *from = *at + strspn(*at, " \t"), *word;
    size_t n = strcspn(from, " \t");
    char *copy;

    *at = from + n;
    if (n == 0)
        return NULL;
    copy = mem_format("%.*s", (int)n, from);
    word = cli_text_keep(copy);
    free(copy);
    return word;
}

static bool name_is_good(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("-_.", name[i]))
            return false;
    return n > 0 && n < NAME_BYTES;
}

// Without '/' at the end; an address that is a host alone gets the path that nearly all such servers have.
// The other kinds have theirs beside that one.
static const char *url_complete(const char *url, enum gateway_upstream_kind kind)
{
    const char *host = strstr(url, "//"), *kept;
    size_t n = strlen(url);
    bool bare, openai = kind == GATEWAY_UPSTREAM_OPENAI;
    char *text;

    while (n > 0 && url[n - 1] == '/')
        n--;
    host = host ? host + 2 : url;
    bare = host + strcspn(host, "/") >= url + n;
    if (!openai && !bare && n > 3 && strncmp(url + n - 3, "/v1", 3) == 0)
        n -= 3;
    text = mem_format("%.*s%s", (int)n, url, openai && bare ? "/v1" : "");
    kept = cli_text_keep(text);
    free(text);
    return kept;
}

// "NAME=URL", or a URL alone, which is then called by its host and port.
static int address_take(struct gateway_upstream *u, const char *word, struct err *e)
{
    const char *scheme = strstr(word, "://"), *equals = strchr(word, '=');
    bool named = equals && (!scheme || equals < scheme);
    const char *url = named ? equals + 1 : word, *host = strstr(url, "//");
    const char *name = named ? word : host ? host + 2 : url;
    size_t n = named ? (size_t)(equals - word) : strcspn(name, "/");
    char *text;
    bool secure;

    if (strlen(url) >= URL_BYTES)
        return err_set(e, ERR_RANGE, "the address is longer than %d bytes", URL_BYTES - 1);
    if (net_http_address_check(url, &secure, e) != 0)
        return e->code;
    if (named && !name_is_good(name, n))
        return err_set(e, ERR_INVALID,
                       "\"%.*s\" is no name for it: letters, digits, '-', '_' and '.', at most %d",
                       (int)(n < 80 ? n : 80), name, NAME_BYTES - 1);
    text = mem_format("%.*s", (int)n, name);
    u->name = cli_text_keep(text);
    free(text);
    u->url = url;
    return 0;
}

static int model_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    if (u->n_models == GATEWAY_UPSTREAM_MODELS_MAX)
        return err_set(e, ERR_RANGE, "it has more than %d models", GATEWAY_UPSTREAM_MODELS_MAX);
    u->models[u->n_models++].theirs = value;
    return 0;
}

static int as_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    if (u->n_models == 0)
        return err_set(e, ERR_INVALID,
                       "as=%.80s gives the model before it a name; say model=THEIRS first", value);
    u->models[u->n_models - 1].ours = value;
    return 0;
}

static int stall_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    char *end;
    unsigned long s = strtoul(value, &end, 10);

    if (!isdigit((unsigned char)value[0]) || *end || s < 1 || s > 86400)
        return err_set(e, ERR_INVALID, "stall=%.40s must be whole seconds from 1 to 86400", value);
    u->stall_s = (uint32_t)s;
    return 0;
}

static int plain_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    u->plain_key = strcmp(value, "yes") == 0;
    return u->plain_key || strcmp(value, "no") == 0
               ? 0
               : err_set(e, ERR_INVALID, "plain-key=%.40s must be yes or no", value);
}

static int key_file_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    (void)e;
    u->key_file = value;
    return 0;
}

static int ca_file_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    (void)e;
    u->ca_file = value;
    return 0;
}

// Dollars for a million tokens.
static int dollars_take(struct gateway_upstream *u, const char *name, const char *value,
                        double *out, struct err *e)
{
    char *end;
    double v = strtod(value, &end);

    if (*end || !(v >= 0 && v <= GATEWAY_PRICE_MAX))
        return err_set(e, ERR_INVALID,
                       "%s=%.40s must be dollars for a million tokens, from 0 to %g", name, value,
                       GATEWAY_PRICE_MAX);
    *out = v;
    u->priced = true;
    return 0;
}

static int price_in_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    return dollars_take(u, "price-in", value, &u->price_in, e);
}

static int price_out_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    return dollars_take(u, "price-out", value, &u->price_out, e);
}

static int kind_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    static const char *const kinds[] = {[GATEWAY_UPSTREAM_OPENAI] = "openai",
                                        [GATEWAY_UPSTREAM_SD] = "sd-server",
                                        [GATEWAY_UPSTREAM_COMFY] = "comfyui"};

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strcmp(value, kinds[i]) == 0) {
            u->kind = (enum gateway_upstream_kind)i;
            return 0;
        }
    return err_set(e, ERR_INVALID, "kind=%.40s must be openai, sd-server or comfyui", value);
}

static int workflow_take(struct gateway_upstream *u, const char *value, struct err *e)
{
    (void)e;
    u->workflow = value;
    return 0;
}

static const struct {
    const char *name;
    int (*take)(struct gateway_upstream *u, const char *value, struct err *e);
    enum { BOTH, ANSWERS, DRAWS } of; // servers that answer, or that draw
} members[] = {
    {"model", model_take, BOTH},          {"as", as_take, BOTH},
    {"key-file", key_file_take, BOTH},    {"stall", stall_take, BOTH},
    {"ca-file", ca_file_take, BOTH},      {"plain-key", plain_take, BOTH},
    {"price-in", price_in_take, ANSWERS}, {"price-out", price_out_take, ANSWERS},
    {"kind", kind_take, DRAWS},           {"workflow", workflow_take, DRAWS},
};

static int member_take(struct gateway_upstream *u, const char *word, bool draws, struct err *e)
{
    size_t n = strcspn(word, "=");

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (strlen(members[i].name) == n && strncmp(word, members[i].name, n) == 0 && word[n] &&
            word[n + 1] && members[i].of != (draws ? ANSWERS : DRAWS))
            return members[i].take(u, word + n + 1, e);
    return err_set(e, ERR_INVALID,
                   "\"%.80s\" is not understood; behind the address may stand model=THEIRS, "
                   "as=OURS, key-file=FILE, ca-file=FILE, stall=SECONDS, plain-key=yes, %s",
                   word,
                   draws ? "kind=openai|sd-server|comfyui and workflow=FILE"
                         : "price-in=DOLLARS and price-out=DOLLARS (for a million tokens)");
}

// The model of a server that has a workflow, when nobody gave it a name: the file's.
static int workflow_name(struct gateway_upstream *u)
{
    const char *slash = strrchr(u->workflow, '/'), *file = slash ? slash + 1 : u->workflow;
    size_t n = strlen(file);
    char *text;

    if (n > 5 && strcmp(file + n - 5, ".json") == 0)
        n -= 5;
    text = mem_format("%.*s", (int)n, file);
    u->models[u->n_models++].theirs = cli_text_keep(text);
    free(text);
    return 0;
}

static int kind_check(struct gateway_upstream *u, struct err *e)
{
    bool comfy = u->kind == GATEWAY_UPSTREAM_COMFY;

    if (comfy && !u->workflow)
        return err_set(e, ERR_INVALID,
                       "kind=comfyui needs workflow=FILE: what is to be drawn with, exported by "
                       "\"Export (API)\"");
    if (!comfy && u->workflow)
        return err_set(e, ERR_INVALID, "workflow=%.80s is for kind=comfyui alone", u->workflow);
    if (u->kind != GATEWAY_UPSTREAM_OPENAI && u->n_models > 1)
        return err_set(e, ERR_INVALID,
                       "a server of this kind has one model, and model= stands there %zu times",
                       u->n_models);
    return comfy && u->n_models == 0 ? workflow_name(u) : 0;
}

static int words_parse(const char *text, bool draws, struct gateway_upstream *out, struct err *e)
{
    const char *at = text, *word = word_take(&at);
    int rc;

    *out = (struct gateway_upstream){.stall_s = draws ? GATEWAY_UPSTREAM_DRAW_S
                                                      : GATEWAY_UPSTREAM_STALL_S};
    rc = word ? address_take(out, word, e) : err_set(e, ERR_INVALID, "no address");
    while (rc == 0 && (word = word_take(&at)))
        rc = member_take(out, word, draws, e);
    if (rc == 0)
        rc = kind_check(out, e);
    if (rc == 0)
        out->url = url_complete(out->url, out->kind);
    return rc;
}

int serve_upstream_parse(const char *text, struct gateway_upstream *out, struct err *e)
{
    return words_parse(text, false, out, e);
}

int serve_image_upstream_parse(const char *text, struct gateway_upstream *out, struct err *e)
{
    return words_parse(text, true, out, e);
}

// All of a list, under names of their own.
static int list_parse(const struct cli_list *given, bool draws, struct gateway_upstream *all,
                      size_t *n, struct err *e)
{
    for (size_t i = 0; i < given->n && i < GATEWAY_UPSTREAMS_MAX; i++) {
        if (words_parse(given->items[i], draws, &all[i], e) != 0)
            return err_wrap(e, "%s %zu", draws ? "--image-upstream" : "--upstream", i + 1);
        for (size_t k = 0; k < i; k++)
            if (strcmp(all[k].name, all[i].name) == 0)
                return err_set(e, ERR_INVALID, "two upstream servers are called \"%s\"",
                               all[i].name);
        ++*n;
    }
    return 0;
}

int serve_upstreams_find(const struct cli_list *given, struct gateway_options *o, struct err *e)
{
    return list_parse(given, false, o->upstreams, &o->n_upstreams, e);
}

int serve_image_upstreams_find(const struct cli_list *given, struct gateway_options *o,
                               struct err *e)
{
    return list_parse(given, true, o->image_upstreams, &o->n_image_upstreams, e);
}
