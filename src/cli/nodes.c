// tandem nodes: the nodes of a running server join, leave and drain.
#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/client.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] = "usage: tandem nodes [add|remove|drain|resume ADDRESS] [OPTIONS]\n"
                            "       tandem nodes role ADDRESS read|write|both [OPTIONS]";
static const char about[] =
    "Shows the nodes of a running server, or changes them while it runs:\n"
    "  add     a machine that runs \"tandem node\" joins, and is there again after a restart\n"
    "  remove  it gets nothing new, ends what it has, and is gone\n"
    "  drain   it gets nothing new, and stays\n"
    "  resume  a drained one is used again\n"
    "  role    what it is there for from now on, as long as others can do the rest: to read "
    "prompts, to\n"
    "          write answers, or both; \"local\" is the server's own worker\n"
    "ADDRESS is HOST:PORT, HOST (port 7077), or the name that a node calls itself by. remove and "
    "drain wait until\n"
    "nothing runs on the node any more. The server's API key must be good for the scope admin.";

#define LOOK_NS (NS_PER_S / 5)
#define PATH_BYTES 1200

struct nodes {
    struct client client;
    const char *word, *address, *role;
    bool force, no_wait, json;
};

// ---- showing ------------------------------------------------------------------------------------------

static void node_print(const json_t *node)
{
    const char *why = json_string_value(json_object_get(node, "why"));

    printf("%-16.16s %-24.24s %-10s %-5s %4.0f  %-6s %s\n", json_string_or(node, "name", "-"),
           json_string_or(node, "address", "-"), json_string_or(node, "state", "-"),
           json_string_or(node, "does", "-"), json_number_or(node, "requests", 0),
           json_is_true(json_object_get(node, "added")) ? "added" : "-",
           json_string_or(node, "node_id", "-"));
    if (why && why[0])
        printf("    %s\n", why);
}

static void line_print(const json_t *o)
{
    char *line = json_line(o);

    puts(line);
    free(line);
}

static int list(const struct nodes *n)
{
    json_t *told = NULL;
    const json_t *all;
    struct err e = {0};

    if (client_get(&n->client, "/v1/tandem/nodes", &told, &e) != 0)
        return cli_fail("nodes", &e);
    all = json_object_get(told, "data");
    if (n->json)
        line_print(told);
    else
        printf("%-16s %-24s %-10s %-5s %4s  %-6s %s\n", "NODE", "ADDRESS", "STATE", "ROLE", "REQ",
               "HOW", "ID");
    for (size_t i = 0; !n->json && i < json_array_size(all); i++)
        node_print(json_array_get(all, i));
    json_decref(told);
    return 0;
}

// ---- changing -----------------------------------------------------------------------------------------

// An address as part of a path: brackets and percent signs are IPv6's.
static void path_make(const struct nodes *n, const char *tail, char out[PATH_BYTES])
{
    size_t len = (size_t)snprintf(out, PATH_BYTES, "/v1/tandem/nodes/");

    for (const char *p = n->address; *p && len + 4 < PATH_BYTES; p++) {
        bool plain = isalnum((unsigned char)*p) || strchr("-._~:", *p);

        len += (size_t)snprintf(out + len, PATH_BYTES - len, plain ? "%c" : "%%%02X",
                                (unsigned char)*p);
    }
    snprintf(out + len, PATH_BYTES - len, "%s", tail);
}

static int order(const struct nodes *n, json_t **told, struct err *e)
{
    json_t *body = json_object();
    char path[PATH_BYTES];
    int rc;

    if (strcmp(n->word, "add") == 0) {
        json_put(body, "address", json_string(n->address));
        rc = client_post(&n->client, "/v1/tandem/nodes", body, told, e);
    } else if (strcmp(n->word, "remove") == 0) {
        path_make(n, n->force ? "?force" : "", path);
        rc = client_delete(&n->client, path, told, e);
    } else if (n->role) {
        json_put(body, "role", json_string(n->role));
        path_make(n, "/role", path);
        rc = client_post(&n->client, path, body, told, e);
    } else {
        path_make(n, strcmp(n->word, "drain") == 0 ? "/drain" : "/resume", path);
        rc = client_post(&n->client, path, body, told, e);
    }
    json_decref(body);
    return rc;
}

static bool is_settled(const struct nodes *n, const json_t *node)
{
    bool removed = strcmp(n->word, "remove") == 0;

    return (!removed && strcmp(n->word, "drain") != 0) ||
           (!removed && json_number_or(node, "requests", 0) < 1);
}

// Until it is gone (*node is then as it was last), or nothing runs on it any more.
static int settle(const struct nodes *n, json_t **node, struct err *e)
{
    bool seen = isatty(STDERR_FILENO) && !n->json;
    char path[PATH_BYTES];
    int rc = 0;

    path_make(n, "", path);
    while (rc == 0 && !is_settled(n, *node)) {
        json_t *now = NULL;

        if (seen)
            fprintf(stderr, "\r%s: %.0f requests to end ", json_string_or(*node, "address", "-"),
                    json_number_or(*node, "requests", 0));
        rc = client_get(&n->client, path, &now, e);
        if (rc == ERR_NOT_FOUND && strcmp(n->word, "remove") == 0) {
            rc = 0;
            break;
        }
        if (rc == 0) {
            json_decref(*node);
            *node = now;
        }
        if (rc == 0 && !is_settled(n, *node))
            clock_sleep_until(clock_now_ns() + LOOK_NS);
    }
    if (seen)
        fprintf(stderr, "\r%*s\r", 60, "");
    return rc;
}

static int change(const struct nodes *n)
{
    json_t *node = NULL;
    struct err e = {0};
    int rc = order(n, &node, &e);

    if (rc == 0 && !n->no_wait)
        rc = settle(n, &node, &e);
    if (rc != 0) {
        json_decref(node);
        return cli_fail("nodes", &e);
    }
    if (n->json)
        line_print(node);
    else if (strcmp(n->word, "remove") == 0)
        printf("%s: %s\n", json_string_or(node, "address", "-"),
               n->no_wait ? "leaving" : "removed");
    else if (n->role)
        printf("%s: %s\n", json_string_or(node, "address", "-"), json_string_or(node, "does", "-"));
    else
        printf("%s: %s\n", json_string_or(node, "address", "-"),
               json_string_or(node, "state", "-"));
    json_decref(node);
    return 0;
}

// ---- the command ----------------------------------------------------------------------------------------

static int address_take(struct nodes *n, const struct cli_list *rest, struct err *e)
{
    bool role = strcmp(n->word, "role") == 0;

    n->address = rest->n == (role ? 3 : 2) ? rest->items[1] : NULL;
    n->role = role && n->address ? rest->items[2] : NULL;
    return n->address && n->address[0]
               ? 0
               : err_set(e, ERR_INVALID,
                         role ? "say which node, and what it is there for, as in `tandem nodes "
                                "%s spark:7077 read`"
                              : "say which node, as in `tandem nodes %s spark:7077`",
                         n->word);
}

static int words_take(struct nodes *n, const struct cli_list *rest, struct err *e)
{
    static const char *const words[] = {"add", "remove", "drain", "resume", "role", NULL};
    const char *nearest;

    if (rest->n == 0)
        return 0;
    n->word = rest->items[0];
    for (size_t i = 0; words[i]; i++)
        if (strcmp(words[i], n->word) == 0)
            return address_take(n, rest, e);
    nearest = cli_nearest(n->word, words);
    return err_set(e, ERR_INVALID, "\"%.60s\" is none of add, remove, drain, resume and role%s%s%s",
                   n->word, nearest ? "; did you mean \"" : "", nearest ? nearest : "",
                   nearest ? "\"?" : "");
}

static int nodes_run(int argc, char **argv)
{
    struct nodes n = {.client = {.server = CLIENT_SERVER}};
    struct cli_list rest = {0};
    const struct cli_option options[] = {
        {.name = "--force",
         .kind = CLI_FLAG,
         .value = &n.force,
         .help = "remove: do not wait for its requests; they go on elsewhere or are told"},
        {.name = "--no-wait",
         .kind = CLI_FLAG,
         .value = &n.no_wait,
         .help = "return at once, while requests still end"},
        {.name = "--server",
         .kind = CLI_STRING,
         .value = (void *)&n.client.server,
         .arg = "URL",
         .help = "the server (" CLIENT_SERVER ")"},
        {.name = "--api-key",
         .kind = CLI_STRING,
         .value = (void *)&n.client.api_key,
         .arg = "KEY",
         .help = "its API key, if it has one; it must be good for the scope admin"},
        {.name = "--json",
         .kind = CLI_FLAG,
         .value = &n.json,
         .help = "print what the server told"},
        {0},
    };
    bool done = false;
    struct err e = {0};
    int rc = cli_parse(argc, argv, options, usage, about, &rest, &done, &e);

    if (rc == 0 && done)
        return 0;
    if (rc == 0)
        rc = words_take(&n, &rest, &e);
    if (rc != 0)
        return cli_fail("nodes", &e);
    return n.word ? change(&n) : list(&n);
}

const struct cli_command cli_nodes = {
    "nodes", "nodes of a running server: add, remove, drain, resume, role", nodes_run};
