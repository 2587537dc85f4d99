// Parts of `tandem ps`. Private to cli/ps*.c.
#ifndef CLI_PS_H
#define CLI_PS_H

#include <jansson.h>

#define PS_FIGURE_BYTES 24

// Three digits of what was measured, "-" where it is not known (not above 0). Returns `out`.
const char *ps_figure(double v, char out[PS_FIGURE_BYTES]);

// What placement holds of each node, in times that a person can compare: of a server's status.
void ps_profiles_print(const json_t *status);

#endif
