#include "cli/term.h"

#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool term_color(FILE *f)
{
    const char *no = getenv("NO_COLOR"), *kind = getenv("TERM");
    if ((no != NULL && *no != '\0') || (kind != NULL && strcmp(kind, "dumb") == 0))
        return false;
    return isatty(fileno(f)) != 0;
}

bool term_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *v = getenv(names[i]);
        if (v != NULL && *v != '\0')
            return strcasestr(v, "utf-8") != NULL || strcasestr(v, "utf8") != NULL;
    }
    return false;
}

int term_width(FILE *f)
{
    struct winsize w;
    if (ioctl(fileno(f), TIOCGWINSZ, &w) == 0 && w.ws_col >= 40)
        return w.ws_col;
    return 80;
}

// ---- progress -----------------------------------------------------------------------------------

#define BAR_CELLS 24

static bool bar_drawn; // a line on stderr is unfinished; the main thread's alone

void cli_progress(const char *what, double share)
{
    if (!isatty(STDERR_FILENO))
        return;
    if (share < 0 || !(share <= 1))
        share = share < 0 ? 0 : 1;
    char bar[BAR_CELLS + 1];
    memset(bar, ' ', BAR_CELLS);
    memset(bar, '=', (size_t)(share * BAR_CELLS));
    bar[BAR_CELLS] = '\0';
    fprintf(stderr, "\r%-40.40s [%s] %3d %%", what, bar, (int)(share * 100));
    fflush(stderr);
    bar_drawn = true;
}

void cli_progress_end(void)
{
    if (bar_drawn)
        fprintf(stderr, "\r%75s\r", "");
    bar_drawn = false;
}
