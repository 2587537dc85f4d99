#include "base/base64.h"

#include "base/err.h"

int base64_put(struct buf *out, const void *data, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *b = data;
    char group[4];
    if (out->max - out->len < BASE64_BYTES(n))
        return ERR_RANGE;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)b[i] << 16;
        v |= i + 1 < n ? (uint32_t)b[i + 1] << 8 : 0;
        v |= i + 2 < n ? b[i + 2] : 0;
        for (int k = 0; k < 4; k++)
            group[k] = digits[v >> (18 - 6 * k) & 63];
        if (i + 2 >= n)
            group[3] = '=';
        if (i + 1 >= n)
            group[2] = '=';
        buf_put(out, group, 4);
    }
    return 0;
}

enum { DIGIT_NONE = 64, DIGIT_SPACE, DIGIT_END };

static unsigned digit_value(unsigned char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26u;
    if (c >= '0' && c <= '9')
        return c - '0' + 52u;
    if (c == '+' || c == '/')
        return c == '+' ? 62 : 63;
    if (c == '=')
        return DIGIT_END;
    return c == ' ' || c == '\t' || c == '\r' || c == '\n' ? DIGIT_SPACE : DIGIT_NONE;
}

bool base64_decode(const char *text, size_t n, uint8_t *out, size_t *len, size_t *bad)
{
    uint32_t bits = 0;
    unsigned digits = 0, ends = 0;

    *len = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned v = digit_value((unsigned char)text[i]);

        *bad = i;
        if (v == DIGIT_SPACE)
            continue;
        if (v == DIGIT_END && ++ends <= 2)
            continue;
        if (v >= DIGIT_NONE || ends > 0)
            return false;
        bits = bits << 6 | v;
        if (++digits % 4 == 0) {
            out[(*len)++] = (uint8_t)(bits >> 16);
            out[(*len)++] = (uint8_t)(bits >> 8);
            out[(*len)++] = (uint8_t)bits;
        }
    }
    *bad = n;
    if (digits % 4 == 1 || (ends > 0 && (digits + ends) % 4 != 0))
        return false;
    if (digits % 4 >= 2)
        out[(*len)++] = (uint8_t)(digits % 4 == 2 ? bits >> 4 : bits >> 10);
    if (digits % 4 == 3)
        out[(*len)++] = (uint8_t)(bits >> 2);
    return true;
}
