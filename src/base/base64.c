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
