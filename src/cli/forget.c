// tandem forget: erases what a running server keeps of requests.
#include "base/json.h"
#include "cli/cli.h"
#include "cli/client.h"

#include <stdio.h>
#include <stdlib.h>

static const char usage[] = "usage: tandem forget [--key NAME] [OPTIONS]";
static const char about[] =
    "Erases what a running server and its nodes keep of requests: the prefix memory of those that\n"
    "have ended, by which the next turn of a conversation need not be read again; pictures that "
    "are\n"
    "fetched by url; and image jobs with their prompts and pictures, also those that wait or are\n"
    "being drawn, which stop. Other running requests go on. The server's API key must be good for\n"
    "the scope admin.";

struct forget {
    struct client client;
    const char *key;
    bool json;
};

static void print(const struct forget *f, const json_t *told)
{
    json_int_t sequences = json_integer_value(json_object_get(told, "sequences"));
    json_int_t nodes = json_integer_value(json_object_get(told, "nodes"));
    json_int_t pictures = json_integer_value(json_object_get(told, "pictures"));
    json_int_t jobs = json_integer_value(json_object_get(told, "image_jobs"));
    char *line;

    if (!f->json) {
        printf("forgot %lld sequence%s on %lld node%s", (long long)sequences,
               sequences == 1 ? "" : "s", (long long)nodes, nodes == 1 ? "" : "s");
        if (pictures > 0)
            printf(", and %lld picture%s", (long long)pictures, pictures == 1 ? "" : "s");
        if (jobs > 0)
            printf(", and %lld image job%s", (long long)jobs, jobs == 1 ? "" : "s");
        printf("\n");
        return;
    }
    line = json_line(told);
    puts(line);
    free(line);
}

static int forget(const struct forget *f)
{
    json_t *body = json_object(), *told = NULL;
    struct err e = {0};
    int rc;

    json_put_text(body, "key", f->key);
    rc = client_post(&f->client, "/v1/tandem/forget", body, &told, &e);
    json_decref(body);
    if (rc != 0)
        return cli_fail("forget", &e);
    print(f, told);
    json_decref(told);
    return 0;
}

static int forget_run(int argc, char **argv)
{
    struct forget f = {.client = {.server = CLIENT_SERVER}};
    const struct cli_option options[] = {
        {.name = "--server",
         .kind = CLI_STRING,
         .value = (void *)&f.client.server,
         .arg = "URL",
         .help = "the server (" CLIENT_SERVER ")"},
        {.name = "--api-key",
         .kind = CLI_STRING,
         .value = (void *)&f.client.api_key,
         .arg = "KEY",
         .help = "its API key, if it has one"},
        {.name = "--key",
         .kind = CLI_STRING,
         .value = (void *)&f.key,
         .arg = "NAME",
         .help = "forget only what requests with this API key left; its name in the server's file"},
        {.name = "--json",
         .kind = CLI_FLAG,
         .value = &f.json,
         .help = "print what the server told"},
        {0},
    };
    bool done = false;
    struct err e = {0};
    int rc = cli_parse(argc, argv, options, usage, about, NULL, &done, &e);

    if (rc != 0)
        return cli_fail("forget", &e);
    return done ? 0 : forget(&f);
}

const struct cli_command cli_forget = {
    "forget", "erase what a running server remembers of requests", forget_run};
