// What `tandem config` needs to know of the others. Private to cli/.
#ifndef CLI_CONFIG_H
#define CLI_CONFIG_H

#include "cli/cli.h"

// The program's commands; the list must live on. By main, before a command runs.
void config_commands_set(const struct cli_command *const *list, size_t n);

#endif
