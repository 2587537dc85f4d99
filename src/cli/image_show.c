// Pictures in a terminal, by whichever way it has.
#include "cli/image.h"

#include "base/base64.h"
#include "base/clock.h"
#include "cli/term.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#define OUT_MAX_BYTES (64u << 20)
#define KITTY_CHUNK 4096u // bytes of base64 in one sequence
#define ASK_NS (200 * NS_PER_MS)
#define SIXEL_LEVELS 6u // of each colour: a palette of 216
#define SIXEL_ROWS 6u

// ---- what the terminal can -----------------------------------------------------------------------

static bool env_has(const char *name, const char *part)
{
    const char *v = getenv(name);
    return v != NULL && strstr(v, part) != NULL;
}

// Asks the terminal what it is ("primary device attributes"); attribute 4 is sixel.
static bool answers_sixel(void)
{
    struct termios old, raw;
    char reply[64] = "";
    size_t n = 0;
    int64_t deadline = clock_now_ns() + ASK_NS;
    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &old) != 0)
        return false;
    raw = old;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    bool asked = write(STDOUT_FILENO, "\033[c", 3) == 3;
    while (asked && n < sizeof reply - 1 && strchr(reply, 'c') == NULL) {
        struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
        int64_t left = deadline - clock_now_ns();
        if (left <= 0 || poll(&p, 1, (int)(left / NS_PER_MS) + 1) <= 0)
            break;
        ssize_t got = read(STDIN_FILENO, reply + n, sizeof reply - 1 - n);
        if (got <= 0)
            break;
        n += (size_t)got;
        reply[n] = '\0';
    }
    tcsetattr(STDIN_FILENO, TCSANOW, &old);
    return strstr(reply, ";4;") != NULL || strstr(reply, ";4c") != NULL;
}

static enum image_show show_find(void)
{
    if (!term_color(stdout))
        return IMAGE_SHOW_NONE;
    // A multiplexer would eat the sequences of the terminal around it.
    bool inside = getenv("TMUX") != NULL || env_has("TERM", "screen");
    if (!inside && (getenv("KITTY_WINDOW_ID") != NULL || env_has("TERM", "kitty") ||
                    env_has("TERM_PROGRAM", "ghostty") || getenv("KONSOLE_VERSION") != NULL))
        return IMAGE_SHOW_KITTY;
    if (!inside && (env_has("TERM_PROGRAM", "iTerm") || env_has("LC_TERMINAL", "iTerm2") ||
                    env_has("TERM_PROGRAM", "WezTerm") || env_has("TERM_PROGRAM", "mintty")))
        return IMAGE_SHOW_ITERM;
    if (!inside && answers_sixel())
        return IMAGE_SHOW_SIXEL;
    if (term_utf8() && (env_has("COLORTERM", "truecolor") || env_has("COLORTERM", "24bit")))
        return IMAGE_SHOW_BLOCKS;
    return IMAGE_SHOW_NONE;
}

int image_show_parse(const char *name, enum image_show *out, struct err *e)
{
    static const char *const names[] = {"none", "kitty", "iterm", "sixel", "blocks"};
    if (strcmp(name, "auto") == 0) {
        *out = show_find();
        return 0;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum image_show)i;
            return 0;
        }
    return err_set(e, ERR_INVALID,
                   "--show \"%.40s\" is not known; there are auto, kitty, iterm, sixel, blocks and "
                   "none",
                   name);
}

// ---- the protocols -------------------------------------------------------------------------------

// The picture as a PNG in base64.
static void png_put(struct buf *out, const struct image_picture *p, size_t *bytes)
{
    const struct image_encode_options o = {.format = IMAGE_PNG};
    uint8_t *png = NULL;
    struct err e = {0};
    if (image_encode(p, &o, &png, bytes, &e) == 0)
        base64_put(out, png, *bytes);
    free(png);
}

// https://sw.kovidgoyal.net/kitty/graphics-protocol: a PNG in pieces, shown at once.
static void kitty_put(struct buf *out, const struct image_picture *p)
{
    struct buf text;
    size_t bytes = 0;
    buf_init(&text, OUT_MAX_BYTES);
    png_put(&text, p, &bytes);
    for (size_t at = 0; at < text.len; at += KITTY_CHUNK) {
        size_t n = text.len - at < KITTY_CHUNK ? text.len - at : KITTY_CHUNK;
        buf_printf(out, "\033_G%sm=%d;", at == 0 ? "f=100,a=T," : "", at + n < text.len);
        buf_put(out, text.data + at, n);
        buf_puts(out, "\033\\");
    }
    buf_fini(&text);
}

// https://iterm2.com/documentation-images.html
static void iterm_put(struct buf *out, const struct image_picture *p)
{
    struct buf text;
    size_t bytes = 0;
    buf_init(&text, OUT_MAX_BYTES);
    png_put(&text, p, &bytes);
    buf_printf(out, "\033]1337;File=inline=1;size=%zu;width=%upx;height=%upx:", bytes, p->width,
               p->height);
    buf_put(out, text.data, text.len);
    buf_puts(out, "\a");
    buf_fini(&text);
}

static unsigned sixel_colour(const uint8_t *rgb)
{
    unsigned c = 0;
    for (int i = 0; i < 3; i++)
        c = c * SIXEL_LEVELS + (rgb[i] * (SIXEL_LEVELS - 1) + 127) / 255;
    return c;
}

// One colour of a band of six rows: a character for each column, its bits the rows.
static void sixel_line(struct buf *out, const struct image_picture *p, uint32_t y, unsigned colour)
{
    buf_printf(out, "#%u", colour);
    for (uint32_t x = 0; x < p->width; x++) {
        unsigned bits = 0;
        for (uint32_t row = 0; row < SIXEL_ROWS && y + row < p->height; row++)
            if (sixel_colour(p->rgb + ((size_t)(y + row) * p->width + x) * 3) == colour)
                bits |= 1u << row;
        char c = (char)('?' + bits);
        buf_put(out, &c, 1);
    }
    buf_puts(out, "$");
}

// DEC's sixel: a palette, then bands of six rows.
static void sixel_put(struct buf *out, const struct image_picture *p)
{
    const unsigned n = SIXEL_LEVELS * SIXEL_LEVELS * SIXEL_LEVELS, top = SIXEL_LEVELS - 1;
    buf_printf(out, "\033Pq\"1;1;%u;%u", p->width, p->height);
    for (unsigned c = 0; c < n; c++)
        buf_printf(out, "#%u;2;%u;%u;%u", c, c / (SIXEL_LEVELS * SIXEL_LEVELS) * 100 / top,
                   c / SIXEL_LEVELS % SIXEL_LEVELS * 100 / top, c % SIXEL_LEVELS * 100 / top);
    for (uint32_t y = 0; y < p->height; y += SIXEL_ROWS) {
        bool seen[SIXEL_LEVELS * SIXEL_LEVELS * SIXEL_LEVELS] = {false};
        uint32_t rows = p->height - y < SIXEL_ROWS ? p->height - y : SIXEL_ROWS;
        for (size_t i = 0; i < (size_t)rows * p->width; i++)
            seen[sixel_colour(p->rgb + ((size_t)y * p->width + i) * 3)] = true;
        for (unsigned c = 0; c < n; c++)
            if (seen[c])
                sixel_line(out, p, y, c);
        buf_puts(out, "-");
    }
    buf_puts(out, "\033\\");
}

// The pixel that stands for the cell (x, y) of `cells` in a row.
static const uint8_t *cell_pixel(const struct image_picture *p, uint32_t x, uint32_t y,
                                 uint32_t cells)
{
    uint32_t px = (uint32_t)((2ull * x + 1) * p->width / (2 * cells));
    uint32_t py = (uint32_t)((2ull * y + 1) * p->width / (2 * cells));
    py = py < p->height ? py : p->height - 1;
    return p->rgb + ((size_t)py * p->width + px) * 3;
}

// Two pixels a character: the upper in front, the lower behind.
static void blocks_put(struct buf *out, const struct image_picture *p, int columns)
{
    uint32_t cells = p->width < (uint32_t)columns ? p->width : (uint32_t)columns;
    uint32_t rows = (uint32_t)((uint64_t)p->height * cells / p->width);
    for (uint32_t y = 0; y < rows; y += 2) {
        for (uint32_t x = 0; x < cells; x++) {
            const uint8_t *a = cell_pixel(p, x, y, cells), *b = cell_pixel(p, x, y + 1, cells);
            buf_printf(out, "\033[38;2;%d;%d;%dm\033[48;2;%d;%d;%dm\u2580", a[0], a[1], a[2], b[0],
                       b[1], b[2]);
        }
        buf_puts(out, "\033[0m\n");
    }
}

void image_show_put(struct buf *out, enum image_show how, const struct image_picture *p,
                    int columns)
{
    if (how == IMAGE_SHOW_KITTY)
        kitty_put(out, p);
    else if (how == IMAGE_SHOW_ITERM)
        iterm_put(out, p);
    else if (how == IMAGE_SHOW_SIXEL)
        sixel_put(out, p);
    else if (how == IMAGE_SHOW_BLOCKS)
        blocks_put(out, p, columns);
}

void image_show(FILE *f, enum image_show how, const struct image_picture *p)
{
    struct buf b;
    if (how == IMAGE_SHOW_NONE)
        return;
    buf_init(&b, OUT_MAX_BYTES);
    image_show_put(&b, how, p, term_width(f) - 1);
    fwrite(b.data, 1, b.len, f);
    if (how != IMAGE_SHOW_BLOCKS)
        fputc('\n', f);
    fflush(f);
    buf_fini(&b);
}
