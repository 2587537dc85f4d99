// What announces itself on the local network, for `tandem node --list` and `tandem ps --discover`. Private to cli/.
#ifndef CLI_DISCOVER_H
#define CLI_DISCOVER_H

#include <jansson.h>
#include <stdbool.h>

// Looks for two seconds and prints what there is; returns the exit code. 1: nobody can look here.
int discover_list(const char *command, bool json);
// One line for each of an array as the status has it, below a heading; nothing for none.
void discover_print(const json_t *seen, const char *heading);

#endif
