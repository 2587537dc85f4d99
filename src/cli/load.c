// tandem load, unload: the models that a running server has in memory.
#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_NS (NS_PER_S / 5)

struct order {
    const char *command; // "load"
    const char *path, *doing, *wanted;
    struct client client;
    const char *model;
    bool json;
};

static const char *state_of(const json_t *model)
{
    return json_string_or(json_object_get(model, "status"), "value", "unknown");
}

// Looks until the server says `wanted`, or that it failed.
static int state_await(const struct order *o, json_t **model, struct err *e)
{
    bool seen = isatty(STDERR_FILENO) && !o->json;
    int64_t start = clock_now_ns();
    char path[600];
    int rc = 0;

    snprintf(path, sizeof(path), "/v1/models/%.500s", o->model);
    while (rc == 0 && strcmp(state_of(*model), o->wanted) != 0) {
        if (strcmp(state_of(*model), "failed") == 0)
            return err_set(e, ERR_ENGINE, "%s cannot be loaded; `tandem ps` says why", o->model);
        if (seen)
            fprintf(stderr, "\r%s %s: %.0f s ", o->doing, o->model,
                    ns_to_s(clock_now_ns() - start));
        clock_sleep_until(clock_now_ns() + LOOK_NS);
        json_decref(*model);
        *model = NULL;
        rc = client_get(&o->client, path, model, e);
    }
    if (seen)
        fprintf(stderr, "\r%*s\r", (int)(strlen(o->doing) + strlen(o->model) + 16), "");
    return rc;
}

static int order_do(const struct order *o)
{
    json_t *body = json_object(), *model = NULL;
    struct err e = {0};
    int rc;
    char *line;

    json_put(body, "model", json_string(o->model));
    rc = client_post(&o->client, o->path, body, &model, &e);
    json_decref(body);
    if (rc == 0)
        rc = state_await(o, &model, &e);
    if (rc != 0) {
        json_decref(model);
        return cli_fail(o->command, &e);
    }
    if (o->json) {
        line = json_line(model);
        puts(line);
        free(line);
    } else {
        printf("%s: %s\n", json_string_value(json_object_get(model, "id")), state_of(model));
    }
    json_decref(model);
    return 0;
}

static int order_run(struct order *o, int argc, char **argv, const char *about)
{
    struct cli_list rest = {0};
    char usage[100];
    const struct cli_option options[] = {
        {.name = "--server",
         .kind = CLI_STRING,
         .value = (void *)&o->client.server,
         .arg = "URL",
         .help = "the server (" CLIENT_SERVER ")"},
        {.name = "--api-key",
         .kind = CLI_STRING,
         .value = (void *)&o->client.api_key,
         .arg = "KEY",
         .help = "its API key, if it has one; it must be good for the scope admin"},
        {.name = "--json",
         .kind = CLI_FLAG,
         .value = &o->json,
         .help = "print what the server says of the model"},
        {0},
    };
    bool done = false;
    struct err e = {0};
    int rc;

    snprintf(usage, sizeof(usage), "usage: tandem %s MODEL [OPTIONS]", o->command);
    rc = cli_parse(argc, argv, options, usage, about, &rest, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0 && rest.n != 1)
        rc = err_set(&e, ERR_INVALID,
                     "say which model, as in `tandem %s NAME`; GET /v1/models lists them",
                     o->command);
    if (rc != 0)
        return cli_fail(o->command, &e);
    o->model = rest.items[0];
    return order_do(o);
}

static int load_run(int argc, char **argv)
{
    struct order o = {.command = "load",
                      .path = "/v1/models/load",
                      .doing = "loading",
                      .wanted = "loaded",
                      .client = {.server = CLIENT_SERVER}};

    return order_run(&o, argc, argv,
                     "Has a running server load one of its models now, before the first request "
                     "asks for it,\n"
                     "and waits until it is there.");
}

static int unload_run(int argc, char **argv)
{
    struct order o = {.command = "unload",
                      .path = "/v1/models/unload",
                      .doing = "unloading",
                      .wanted = "unloaded",
                      .client = {.server = CLIENT_SERVER}};

    return order_run(&o, argc, argv,
                     "Has a running server give the memory of one of its models back. The next "
                     "request for it\n"
                     "loads it again. One that is at work is not unloaded.");
}

const struct cli_command cli_load = {"load", "load a model of a running server", load_run};
const struct cli_command cli_unload = {"unload", "unload a model of a running server", unload_run};
