// What the terminal can show: colours, line drawing, width. Owner: the command's main thread.
#ifndef CLI_TERM_H
#define CLI_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

bool term_color(FILE *f); // a terminal, and NO_COLOR is not set
bool term_utf8(void);     // by LC_ALL, LC_CTYPE, LANG
// What is said when somebody stops watching a job of `command`, which goes on; `more` is what the commands need beside
// its name (" --server URL", or ""). Returns the exit code.
int term_job_left(const char *command, const char *job, const char *more);
// Text that somebody else wrote, in one line: what a terminal would obey becomes spaces. At most so many characters;
// 0: all.
void term_text_put(FILE *f, const char *text, size_t characters);
int term_width(FILE *f); // columns; 80 when it is no terminal

#endif
