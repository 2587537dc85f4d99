#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int code;
    const char *name;
} names[] = {
    {0, "ok"},
    {ERR_INVALID, "invalid"},
    {ERR_RANGE, "range"},
    {ERR_IO, "io"},
    {ERR_TIMEOUT, "timeout"},
    {ERR_CLOSED, "closed"},
    {ERR_AUTH, "auth"},
    {ERR_MISMATCH, "mismatch"},
    {ERR_CORRUPT, "corrupt"},
    {ERR_NOT_FOUND, "not_found"},
    {ERR_BUSY, "busy"},
    {ERR_CANCELLED, "cancelled"},
    {ERR_ENGINE, "engine"},
    {ERR_UNSUPPORTED, "unsupported"},
};

#define NAMES_COUNT (sizeof names / sizeof names[0])

int err_set(struct err *e, int code, const char *format, ...)
{
    if (!e)
        return code;
    // The arguments may point into the message that is about to be replaced.
    char text[ERR_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    e->code = code;
    memcpy(e->message, text, sizeof text);
    return code;
}

int err_wrap(struct err *e, const char *format, ...)
{
    if (!e)
        return 0;
    char text[ERR_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (used + 3 < sizeof text) {
        memcpy(text + used, ": ", 3);
        used += 2;
        size_t room = sizeof text - used - 1;
        size_t rest = strnlen(e->message, sizeof e->message);
        if (rest > room)
            rest = room;
        memcpy(text + used, e->message, rest);
        text[used + rest] = '\0';
    }
    memcpy(e->message, text, sizeof text);
    return e->code;
}

const char *err_name(int code)
{
    for (size_t i = 0; i < NAMES_COUNT; i++) {
        if (names[i].code == code)
            return names[i].name;
    }
    return "unknown";
}

int err_from_name(const char *name)
{
    for (size_t i = 0; i < NAMES_COUNT; i++) {
        if (strcmp(names[i].name, name) == 0)
            return names[i].code;
    }
    return ERR_IO;
}
