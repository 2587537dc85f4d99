// Upstream servers as they are given: "NAME=URL [key-file=FILE] [price-in=DOLLARS] [model=THEIRS [as=OURS]]...". Words, because
// names of models have colons and slashes in them, and commas stand between the servers of a list.
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
static const char *url_complete(const char *url)
{
    const char *host = strstr(url, "//"), *kept;
    size_t n = strlen(url);
    char *text;

    while (n > 0 && url[n - 1] == '/')
        n--;
    host = host ? host + 2 : url;
    text = mem_format("%.*s%s", (int)n, url, host + strcspn(host, "/") >= url + n ? "/v1" : "");
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
    u->url = url_complete(url);
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

static const struct {
    const char *name;
    int (*take)(struct gateway_upstream *u, const char *value, struct err *e);
} members[] = {
    {"model", model_take},       {"as", as_take},
    {"key-file", key_file_take}, {"stall", stall_take},
    {"ca-file", ca_file_take},   {"plain-key", plain_take},
    {"price-in", price_in_take}, {"price-out", price_out_take},
};

static int member_take(struct gateway_upstream *u, const char *word, struct err *e)
{
    size_t n = strcspn(word, "=");

    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        if (strlen(members[i].name) == n && strncmp(word, members[i].name, n) == 0 && word[n] &&
            word[n + 1])
            return members[i].take(u, word + n + 1, e);
    return err_set(e, ERR_INVALID,
                   "\"%.80s\" is not understood; behind the address may stand model=THEIRS, "
                   "as=OURS, key-file=FILE, ca-file=FILE, stall=SECONDS, plain-key=yes, "
                   "price-in=DOLLARS and price-out=DOLLARS (for a million tokens)",
                   word);
}

int serve_upstream_parse(const char *text, struct gateway_upstream *out, struct err *e)
{
    const char *at = text, *word = word_take(&at);
    int rc;

    *out = (struct gateway_upstream){.stall_s = GATEWAY_UPSTREAM_STALL_S};
    rc = word ? address_take(out, word, e) : err_set(e, ERR_INVALID, "no address");
    while (rc == 0 && (word = word_take(&at)))
        rc = member_take(out, word, e);
    return rc;
}

int serve_upstreams_find(const struct cli_list *given, struct gateway_options *o, struct err *e)
{
    for (size_t i = 0; i < given->n && i < GATEWAY_UPSTREAMS_MAX; i++) {
        struct gateway_upstream *u = &o->upstreams[i];

        if (serve_upstream_parse(given->items[i], u, e) != 0)
            return err_wrap(e, "--upstream %zu", i + 1);
        for (size_t k = 0; k < i; k++)
            if (strcmp(o->upstreams[k].name, u->name) == 0)
                return err_set(e, ERR_INVALID, "two upstream servers are called \"%s\"", u->name);
        o->n_upstreams++;
    }
    return 0;
}
