#include "cli/term.h"

#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INTERRUPTED 130 // what a shell says of a program that Ctrl-C ended

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

// Bytes of a control character of ASCII, of C1 (U+0080 to U+009F), of a line's end or of what turns the order of letters
// round (U+2028 to U+202E, U+2066 to U+2069); 0: it is none.
static size_t control_bytes(const unsigned char *at)
{
    if (at[0] < ' ' || at[0] == 0x7f)
        return 1;
    if (at[0] == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0)
        return 2;
    if (at[0] == 0xe2 && ((at[1] == 0x80 && at[2] >= 0xa8 && at[2] <= 0xae) ||
                          (at[1] == 0x81 && at[2] >= 0xa6 && at[2] <= 0xa9)))
        return 3;
    return 0;
}

void term_text_put(FILE *f, const char *text, size_t characters)
{
    const unsigned char *at = (const unsigned char *)text;

    for (size_t n = 0; *at && (characters == 0 || n < characters); n++) {
        size_t control = control_bytes(at);

        at += control;
        if (control > 0) {
            fputc(' ', f);
            continue;
        }
        do
            fputc(*at++, f);
        while ((*at & 0xc0) == 0x80);
    }
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

int term_job_left(const char *command, const char *job, const char *more)
{
    fprintf(stderr,
            "tandem %s: the job goes on. To see it again: tandem %s watch %s%s\n"
            "        %*s To end it: tandem %s cancel %s%s\n",
            command, command, job, more, (int)strlen(command), "", command, job, more);
    return INTERRUPTED;
}
