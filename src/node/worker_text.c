#include "node/text.h"

#define TEXT_HELD_MAX (1u << 20)

static const char replacement[] = "\xef\xbf\xbd"; // U+FFFD

void text_stream_init(struct text_stream *t, char *const *stops, size_t n_stops)
{
    buf_init(&t->held, TEXT_HELD_MAX);
    t->stops = stops;
    t->n_stops = n_stops;
    t->stopped = NULL;
}

void text_stream_fini(struct text_stream *t)
{
    buf_fini(&t->held);
}

// Bytes a UTF-8 sequence beginning with `lead` has; 0 for a byte that begins none.
static size_t utf8_need(uint8_t lead)
{
    if (lead == 0)
        return 0; // would end the text for whoever reads it as a C string
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf)
        return 2;
    if (lead >= 0xe0 && lead <= 0xef)
        return 3;
    return lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
}

// True when `b` may be byte number i (1..) of a sequence beginning with `lead` (no overlong forms,
// no surrogates, nothing above U+10FFFF).
static bool utf8_continues(uint8_t lead, size_t i, uint8_t b)
{
    uint8_t low = 0x80;
    uint8_t high = 0xbf;
    if (i == 1 && lead == 0xe0)
        low = 0xa0;
    if (i == 1 && lead == 0xed)
        high = 0x9f;
    if (i == 1 && lead == 0xf0)
        low = 0x90;
    if (i == 1 && lead == 0xf4)
        high = 0x8f;
    return b >= low && b <= high;
}

// Length of the valid or still incomplete sequence at s[0..n): sets *complete. 0 = never valid.
static size_t utf8_sequence(const uint8_t *s, size_t n, bool *complete)
{
    size_t need = utf8_need(s[0]);
    size_t have = need == 0 ? 0 : 1;
    while (have != 0 && have < need && have < n) {
        if (!utf8_continues(s[0], have, s[have]))
            return 0;
        have++;
    }
    *complete = have != 0 && have == need;
    return have;
}

// Gives out the first n held bytes as valid UTF-8. An incomplete sequence at their end stays held
// unless `flush`.
static void text_give(struct text_stream *t, size_t n, bool flush, struct buf *out)
{
    size_t i = 0;
    while (i < n) {
        bool complete = false;
        size_t len = utf8_sequence(t->held.data + i, n - i, &complete);
        if (len != 0 && !complete && !flush)
            break;
        if (complete)
            buf_put(out, t->held.data + i, len);
        else
            buf_puts(out, replacement);
        i += complete ? len : (len == 0 ? 1 : len);
    }
    buf_consume(&t->held, i);
}

// First place in the held bytes where a stop string stands whole; the earliest wins.
static bool text_find_stop(struct text_stream *t, size_t *at)
{
    bool found = false;
    for (size_t k = 0; k < t->n_stops; k++) {
        size_t len = strlen(t->stops[k]);
        void *p = len == 0 || t->held.len < len
                      ? NULL
                      : memmem(t->held.data, t->held.len, t->stops[k], len);
        if (p == NULL)
            continue;
        size_t offset = (size_t)((uint8_t *)p - t->held.data);
        if (!found || offset < *at) {
            *at = offset;
            t->stopped = t->stops[k];
            found = true;
        }
    }
    return found;
}

// Number of bytes at the end of the held text that could be the beginning of a stop string.
static size_t text_stop_prefix(const struct text_stream *t)
{
    size_t longest = 0;
    for (size_t k = 0; k < t->n_stops; k++) {
        size_t len = strlen(t->stops[k]);
        size_t n = len == 0 ? 0 : len - 1;
        if (n > t->held.len)
            n = t->held.len;
        for (; n > longest; n--)
            if (memcmp(t->held.data + t->held.len - n, t->stops[k], n) == 0)
                longest = n;
    }
    return longest;
}

bool text_stream_put(struct text_stream *t, const char *piece, size_t n, struct buf *out)
{
    size_t at = 0;
    if (n == 0 || t->stopped != NULL)
        return t->stopped != NULL;
    buf_put(&t->held, piece, n);
    if (text_find_stop(t, &at)) {
        text_give(t, at, true, out);
        buf_clear(&t->held);
        return true;
    }
    text_give(t, t->held.len - text_stop_prefix(t), false, out);
    return false;
}

void text_stream_end(struct text_stream *t, struct buf *out)
{
    if (t->stopped == NULL)
        text_give(t, t->held.len, true, out);
}
