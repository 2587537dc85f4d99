// The program: finds the command and runs it.
#include "cli/cli.h"
#include "cli/config.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct cli_command *const commands[] = {
    &cli_serve,   &cli_node,  &cli_pair,   &cli_ps,    &cli_chat,    &cli_check,
    &cli_bench,   &cli_demo,  &cli_forget, &cli_load,  &cli_unload,  &cli_config,
    &cli_pull,    &cli_ls,    &cli_show,   &cli_rm,    &cli_alias,   &cli_plan,
    &cli_convert, &cli_train, &cli_image,  &cli_nodes, &cli_explain,
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static void usage_print(FILE *f)
{
    fprintf(f, "usage: tandem COMMAND [OPTIONS]\n\n"
               "Two machines as one local AI server: one reads the prompt, the other writes the\n"
               "answer, and the KV cache crosses the network while the prompt is being read.\n\n"
               "commands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(f, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(f, "\n\"tandem COMMAND --help\" says more. Every option can also be set in the\n"
               "environment (TANDEM_LISTEN for --listen) or in tandem.ini.\n");
}

static const struct cli_command *command_find(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[N_COMMANDS + 1] = {NULL};
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i]->name;
    const char *nearest = cli_nearest(name, names);
    fprintf(stderr, "tandem: no command \"%s\"%s%s%s; tandem --help lists them\n", name,
            nearest != NULL ? "; did you mean \"" : "", nearest != NULL ? nearest : "",
            nearest != NULL ? "\"?" : "");
    return 2;
}

static int help_run(int argc, char **argv)
{
    const struct cli_command *c = argc > 2 ? command_find(argv[2]) : NULL;
    char help[] = "--help";
    if (argc > 2 && c == NULL)
        return unknown_command(argv[2]);
    if (c == NULL) {
        usage_print(stdout);
        return 0;
    }
    return c->run(2, (char *[]){argv[2], help, NULL});
}

int main(int argc, char **argv)
{
    config_commands_set(commands, N_COMMANDS);
    // A peer that goes away and a file that may not grow are error codes, not the end of us.
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    if (argc < 2) {
        usage_print(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("tandem %s\n", TANDEM_VERSION);
        return 0;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        usage_print(stdout);
        return 0;
    }
    if (strcmp(argv[1], "help") == 0)
        return help_run(argc, argv);
    const struct cli_command *c = command_find(argv[1]);
    return c != NULL ? c->run(argc - 1, argv + 1) : unknown_command(argv[1]);
}
