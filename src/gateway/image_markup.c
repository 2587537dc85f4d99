#include "gateway/image_markup.h"

#include "base/buf.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// Characters of the words that begin a tag, as servers' patterns have them.
#define WORD "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"
#define ARGUMENTS "sd_cpp_extra_args"
#define EMBEDDING "embedding:"
// Removing something can make a tag of what stood around it, once for each level that somebody nested. Who nests
// deeper gets no tags at all.
#define PASSES_MAX 64

static bool begins(const char *s, const char *word)
{
    return strncasecmp(s, word, strlen(word)) == 0;
}

static const char *find(const char *s, const char *word)
{
    while (*s && !begins(s, word))
        s++;
    return *s ? s : NULL;
}

// Behind the next '>'; without one, behind `from`.
static size_t to_end(const char *s, size_t from)
{
    const char *end = strchr(s + from, '>');

    return end ? (size_t)(end + 1 - s) : from;
}

// Bytes from s, a '<', that are arguments with what they hold, or a closing tag that nobody opened. What was never
// closed was meant to reach the end.
static size_t arguments_bytes(const char *s)
{
    const char *close;

    if (begins(s, "</" ARGUMENTS))
        return to_end(s, strlen("</" ARGUMENTS));
    if (!begins(s, "<" ARGUMENTS))
        return 0;
    close = find(s, "</" ARGUMENTS);
    return close ? (size_t)(close - s) + to_end(close, strlen("</" ARGUMENTS)) : strlen(s);
}

// Bytes from s that are to go; 0: none.
static size_t markup_bytes(const char *s)
{
    size_t word, n;

    if (begins(s, EMBEDDING))
        return strlen(EMBEDDING);
    if (*s != '<')
        return 0;
    n = arguments_bytes(s);
    if (n > 0)
        return n;
    word = strspn(s + 1, WORD);
    return word > 0 && s[1 + word] == ':' ? to_end(s, 2 + word) : 0;
}

// In place. True: something went.
static bool pass(char *text)
{
    char *to = text;
    const char *from = text;
    bool changed = false;

    while (*from) {
        size_t n = markup_bytes(from);

        changed = changed || n > 0;
        from += n;
        if (n == 0)
            *to++ = *from++;
    }
    *to = '\0';
    return changed;
}

static void marks_remove(char *text)
{
    char *to = text;

    for (const char *from = text; *from; from++)
        if (*from != '<' && *from != ':')
            *to++ = *from;
    *to = '\0';
}

char *image_markup_strip(const char *text)
{
    char *out = mem_strdup(text);
    int passes = 0;

    while (pass(out))
        if (++passes == PASSES_MAX)
            marks_remove(out);
    return out;
}
