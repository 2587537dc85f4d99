#include "gateway/access.h"

#include "base/buf.h"
#include "gateway/http.h"
#include "gateway/route.h"
#include "net/net.h"
#include "os/os.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HASH_PREFIX "sha256:"

struct access {
    const struct gateway_options *options;
    bool loopback; // bound to this machine alone
    struct access_key *keys;
    size_t n_keys;
};

// ---- keys -----------------------------------------------------------------------------------------------

static void hash(const void *data, size_t n, uint8_t out[ACCESS_HASH_BYTES])
{
    // Fails only for an algorithm that is not there: then every key would be the same one.
    if (gnutls_hash_fast(GNUTLS_DIG_SHA256, data, n, out) != 0)
        abort();
}

// Domain-separated, so that what is sent to workers is no hash of the key that a file might hold.
static void owner_make(struct access_key *k)
{
    static const char domain[] = "tandem owner";
    uint8_t text[sizeof(domain) + ACCESS_HASH_BYTES], digest[ACCESS_HASH_BYTES];

    memcpy(text, domain, sizeof(domain));
    memcpy(text + sizeof(domain), k->hash, sizeof(k->hash));
    hash(text, sizeof(text), digest);
    hex_encode(digest, sizeof(digest), k->owner);
}

static int key_parse(const char *text, uint8_t out[ACCESS_HASH_BYTES], struct err *e)
{
    size_t prefix = strlen(HASH_PREFIX);

    if (strncmp(text, HASH_PREFIX, prefix) != 0) {
        hash(text, strlen(text), out);
        return 0;
    }
    if (strlen(text + prefix) != (size_t)2 * ACCESS_HASH_BYTES ||
        hex_decode(text + prefix, out, ACCESS_HASH_BYTES) != 0)
        return err_set(e, ERR_INVALID, "after " HASH_PREFIX " come %d hexadecimal digits",
                       2 * ACCESS_HASH_BYTES);
    return 0;
}

static int scopes_parse(char *text, unsigned *out, struct err *e)
{
    char *rest = NULL;

    *out = 0;
    for (char *word = strtok_r(text, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        if (strcmp(word, "inference") == 0)
            *out |= ACCESS_INFERENCE;
        else if (strcmp(word, "admin") == 0)
            *out |= ACCESS_ADMIN;
        else
            return err_set(e, ERR_INVALID,
                           "there is no scope \"%.40s\"; there are inference and admin", word);
    }
    return 0;
}

static int key_add(struct access *a, const struct access_key *k, struct err *e)
{
    for (size_t i = 0; i < a->n_keys; i++) {
        if (memcmp(a->keys[i].hash, k->hash, sizeof(k->hash)) == 0)
            return err_set(e, ERR_INVALID, "the key of \"%s\" is that of \"%s\" as well", k->name,
                           a->keys[i].name);
        if (strcmp(a->keys[i].name, k->name) == 0)
            return err_set(e, ERR_INVALID, "there are two keys named \"%s\"", k->name);
    }
    if (a->n_keys == ACCESS_KEYS_MAX)
        return err_set(e, ERR_RANGE, "more than %d keys", ACCESS_KEYS_MAX);
    a->keys = mem_resize(a->keys, (a->n_keys + 1) * sizeof(*k));
    a->keys[a->n_keys] = *k;
    owner_make(&a->keys[a->n_keys++]);
    return 0;
}

static int line_parse(struct access *a, char *line, struct err *e)
{
    static const char blank[] = " \t\r";
    char *rest = NULL, *name = strtok_r(line, blank, &rest);
    char *scopes = strtok_r(NULL, blank, &rest), *key = strtok_r(NULL, blank, &rest);
    struct access_key k = {0};
    int rc;

    if (!name || name[0] == '#')
        return 0;
    if (!key || strtok_r(NULL, blank, &rest))
        return err_set(e, ERR_INVALID, "a line is \"NAME SCOPE[,SCOPE] KEY\"");
    if (snprintf(k.name, sizeof(k.name), "%s", name) >= (int)sizeof(k.name))
        return err_set(e, ERR_INVALID, "the name is longer than %d bytes", ACCESS_NAME_BYTES - 1);
    rc = scopes_parse(scopes, &k.scopes, e);
    if (rc == 0)
        rc = key_parse(key, k.hash, e);
    return rc == 0 ? key_add(a, &k, e) : rc;
}

static int file_read(struct access *a, const char *path, struct err *e)
{
    char *text = NULL, *line, *rest;
    size_t n = 0;
    int number = 0, rc = os_file_read_private(path, ACCESS_FILE_MAX, &text, &n, e);

    if (rc != 0)
        err_wrap(e, "the file of API keys");
    for (line = rest = text; rc == 0 && rest; line = rest) {
        rest = strchr(line, '\n');
        if (rest)
            *rest++ = '\0';
        number++;
        rc = line_parse(a, line, e);
    }
    if (rc != 0 && number > 0)
        err_wrap(e, "%.300s:%d", path, number);
    else if (rc == 0 && a->n_keys == 0)
        rc = err_set(e, ERR_INVALID, "the file of API keys, %.300s, has no key", path);
    free(text);
    return rc;
}

int access_open(const struct gateway_options *o, struct access **out, struct err *e)
{
    struct access *a = mem_alloc(sizeof(*a));
    struct access_key k = {.name = "default", .scopes = ACCESS_ANY};
    int rc = 0;

    a->options = o;
    a->loopback = net_addr_is_loopback(&o->listen);
    if (o->api_key_file)
        rc = file_read(a, o->api_key_file, e);
    if (rc == 0 && o->api_key && o->api_key[0] == '\0')
        rc = err_set(e, ERR_INVALID, "the API key is empty");
    if (rc == 0 && o->api_key) {
        hash(o->api_key, strlen(o->api_key), k.hash);
        rc = key_add(a, &k, e);
    }
    if (rc != 0)
        access_free(a);
    else
        *out = a;
    return rc;
}

void access_free(struct access *a)
{
    if (!a)
        return;
    free(a->keys);
    free(a);
}

bool access_demanded(const struct access *a)
{
    return a->n_keys > 0;
}

const struct access_key *access_named(const struct access *a, const char *name)
{
    for (size_t i = 0; i < a->n_keys; i++)
        if (strcmp(a->keys[i].name, name) == 0)
            return &a->keys[i];
    return NULL;
}

const struct access_key *access_find(const struct access *a, const char *given, size_t n)
{
    const struct access_key *found = NULL;
    uint8_t digest[ACCESS_HASH_BYTES];

    hash(given, n, digest);
    for (size_t i = 0; i < a->n_keys; i++)
        if (mem_same_secret(digest, a->keys[i].hash, sizeof(digest)))
            found = &a->keys[i];
    return found;
}

// ---- who asks -----------------------------------------------------------------------------------------

// "Authorization: Bearer KEY", as OpenAI's clients send it, or Anthropic's "x-api-key: KEY"; a client may send
// both, and one of them for a proxy. False: neither.
static bool key_take(const struct access *a, struct exchange *x)
{
    const char *bearer = http_header(x, MHD_HTTP_HEADER_AUTHORIZATION);
    const char *other = http_header(x, "x-api-key");

    bearer = bearer && strncasecmp(bearer, "Bearer ", 7) == 0 ? bearer + 7 : NULL;
    if (bearer && a->n_keys > 0) {
        bearer += strspn(bearer, " ");
        x->key = access_find(a, bearer, strlen(bearer));
    }
    if (other && a->n_keys > 0 && !x->key)
        x->key = access_find(a, other, strlen(other));
    return bearer || other;
}

static void refuse_scope(struct exchange *x)
{
    char message[ACCESS_NAME_BYTES + 160];

    snprintf(message, sizeof(message),
             "the API key \"%s\" is not good for this: the route wants the scope %s", x->key->name,
             x->route->scopes & ACCESS_INFERENCE ? "inference" : "admin");
    http_refuse(x, 403, "insufficient_scope", message);
}

static void key_check(const struct access *a, struct exchange *x)
{
    bool given = key_take(a, x);
    bool wanted = a->n_keys > 0 && (!x->route || x->route->scopes != ACCESS_FREE);

    x->admin = a->n_keys == 0;
    if (x->key) {
        x->admin = (x->key->scopes & ACCESS_ADMIN) != 0;
        if (!x->options->share_prefixes)
            memcpy(x->owner, x->key->owner, sizeof(x->owner));
    }
    if (!wanted)
        return;
    if (!x->key)
        http_refuse(x, 401, "invalid_api_key",
                    given ? "the API key is not one that this server knows"
                          : "this server wants an API key, as \"Authorization: Bearer KEY\" or "
                            "\"x-api-key: KEY\"");
    else if (x->route && (x->route->scopes & x->key->scopes) == 0)
        refuse_scope(x);
}

// Whether a Host header, "name" or "name:port", is this name.
static bool host_is(const char *host, const char *name)
{
    size_t n = strlen(name);

    return n > 0 && strncasecmp(host, name, n) == 0 && (host[n] == ':' || host[n] == '\0');
}

static bool is_loopback_host(const char *host)
{
    return host_is(host, "localhost") || host_is(host, "127.0.0.1") || host_is(host, "[::1]");
}

static bool host_allowed(const struct access *a, const char *host)
{
    const struct gateway_options *o = a->options;

    if (is_loopback_host(host) || host_is(host, o->listen.host))
        return true;
    for (size_t i = 0; i < o->n_allow_hosts; i++)
        if (host_is(host, o->allow_hosts[i]))
            return true;
    return false;
}

// A page in a browser may have a name that its owner lets point at 127.0.0.1: what then comes here
// carries that name.
static void host_check(const struct access *a, struct exchange *x)
{
    const char *host = http_header(x, MHD_HTTP_HEADER_HOST);
    char message[400];

    if (!host || !a->loopback || host_allowed(a, host))
        return;
    snprintf(
        message, sizeof(message),
        "this server is not called \"%.200s\": use localhost, or start it with --allow-host NAME",
        host);
    http_refuse(x, 403, "host_refused", message);
}

// A browser sends Origin for a page's requests. Without this, any page that the user looks at could
// use a server on the same machine.
static void origin_check(const struct access *a, struct exchange *x)
{
    const char *origin = http_header(x, MHD_HTTP_HEADER_ORIGIN);
    const char *host = http_header(x, MHD_HTTP_HEADER_HOST);
    const char *origin_host = origin ? strstr(origin, "://") : NULL;

    if (!origin || a->options->cors)
        return;
    if (origin_host && host && strcasecmp(origin_host + 3, host) == 0 &&
        (a->n_keys > 0 || host_allowed(a, host)))
        return;
    http_refuse(x, 403, "origin_refused",
                "requests of web pages from other origins are refused; start the server with "
                "--cors to allow them");
}

void access_check(const struct access *a, struct exchange *x)
{
    host_check(a, x);
    key_check(a, x);
    origin_check(a, x);
}

bool access_preflight(const struct exchange *x, const char *method)
{
    return strcmp(method, "OPTIONS") == 0 && x->options->cors;
}
