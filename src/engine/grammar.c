#include "engine/grammar.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define ELEMENT_BYTES 8
#define SYMBOL_BYTES 128     // of a rule that is made, besides its name
#define TIMES_MAX (1u << 20) // more is as good as this
#define WRITTEN_MAX                                                                                \
    2000 // the library takes a repetition of up to more times than this for one without an end
#define ITEM_MAX (1ull << 40) // elements; keeps the products in range

struct weight {
    const char *at;
    uint64_t item;     // elements of what stood last, which a repetition would repeat
    uint64_t elements; // beyond those that stand in the text
    uint64_t symbols;  // rules that are made
    size_t longest;    // bytes of a name
};

// Behind the character that ends what has been opened; a backslash takes the next one along.
static const char *quoted_skip(const char *p, char end)
{
    while (*p && *p != end)
        p += p[0] == '\\' && p[1] ? 2 : 1;
    return *p ? p + 1 : p;
}

static const char *space_skip(const char *p)
{
    for (; *p == ' ' || *p == '\t' || *p == '\r' || *p == '\n' || *p == '#'; p++)
        if (*p == '#') {
            p += strcspn(p, "\r\n");
            if (!*p)
                break;
        }
    return p;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *number_read(const char *p, uint64_t *out)
{
    *out = 0;
    for (; is_digit(*p); p++) {
        *out = *out * 10 + (uint64_t)(*p - '0');
        *out = *out < TIMES_MAX ? *out : TIMES_MAX;
    }
    return p;
}

static size_t name_length(const char *p)
{
    return strspn(p, "0123456789-_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
}

// {m}, {m,} or {m,n}, from behind the brace.
static int times_read(struct weight *w, uint64_t *least, uint64_t *most, struct err *e)
{
    const char *from = w->at, *p = number_read(space_skip(from), least);

    *most = *least;
    p = space_skip(p);
    if (*p == ',') {
        p = space_skip(p + 1);
        if (is_digit(*p))
            p = number_read(p, most);
        else
            *most = *least + 1; // the rest is one rule that names itself
    }
    w->at = p + strcspn(p, "}");
    if (*most < *least)
        return err_set(e, ERR_INVALID,
                       "a repetition of at least %" PRIu64 " and at most %" PRIu64
                       " times cannot be: {%.40s",
                       *least, *most, from);
    if (*most > WRITTEN_MAX)
        *most = *least + 1;
    w->at += *w->at != '\0';
    return 0;
}

static void repeat(struct weight *w, uint64_t least, uint64_t most)
{
    uint64_t copies = most > 1 ? most : 1, added = (w->item + 3) * copies;

    w->elements += added;
    w->symbols += most - least;
    w->item = w->item * (least > 1 ? least : 1) + 1;
    if (w->item > ITEM_MAX)
        w->item = ITEM_MAX;
}

static void item_set(struct weight *w, const char *end)
{
    w->item = (uint64_t)(end - w->at);
    w->at = end;
}

// One step over what stands next.
static int step(struct weight *w, struct err *e)
{
    size_t n = name_length(w->at);
    uint64_t least, most;

    if (n > 0) {
        w->longest = n > w->longest ? n : w->longest;
        w->item = 1;
        w->at += n;
        return 0;
    }
    switch (*w->at) {
    case '"':
        item_set(w, quoted_skip(w->at + 1, '"'));
        return 0;
    case '[':
        item_set(w, quoted_skip(w->at + 1, ']'));
        return 0;
    case '<':
        w->at += strcspn(w->at, ">");
        w->item = 1;
        return 0;
    case '#':
        w->at += strcspn(w->at, "\r\n");
        return 0;
    case '{':
        w->at++;
        if (times_read(w, &least, &most, e) != 0)
            return e->code;
        repeat(w, least, most);
        return 0;
    case '*':
    case '+':
    case '?':
        repeat(w, 0, 1);
        break;
    case '(':
        w->symbols++;
        break;
    case ')':
    case '.':
        w->item = 1;
        break;
    default:
        break;
    }
    w->at++;
    return 0;
}

static uint64_t bytes_of(const struct weight *w)
{
    return w->elements * ELEMENT_BYTES + w->symbols * (SYMBOL_BYTES + w->longest);
}

int grammar_weigh(const char *text, struct err *e)
{
    struct weight w = {.at = text};

    // A name that comes later counts for all rules: looked at again at the end, and on the way so that the
    // sums stay in range.
    while (*w.at) {
        int rc = step(&w, e);

        if (rc != 0)
            return rc;
        if (bytes_of(&w) > GRAMMAR_GROWN_MAX)
            return err_set(e, ERR_INVALID,
                           "its repetitions make more than %u MiB of rules; repeat less often, or "
                           "what is shorter",
                           GRAMMAR_GROWN_MAX >> 20);
    }
    return 0;
}
