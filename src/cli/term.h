// What the terminal can show: colours, line drawing, width. Owner: the command's main thread.
#ifndef CLI_TERM_H
#define CLI_TERM_H

#include <stdbool.h>
#include <stdio.h>

bool term_color(FILE *f); // a terminal, and NO_COLOR is not set
bool term_utf8(void);     // by LC_ALL, LC_CTYPE, LANG
int term_width(FILE *f);  // columns; 80 when it is no terminal

#endif
