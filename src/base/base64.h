// Base64 with padding (RFC 4648, section 4), to and fro. Any thread.
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include "base/buf.h"

#define BASE64_BYTES(n) (((n) + 2) / 3 * 4)

int base64_put(struct buf *out, const void *data, size_t n);
// Into out, which has room for n / 4 * 3 + 3 bytes. Line breaks and a missing "=" at the end are forgiven.
// False: *bad is the first byte that is none of it.
bool base64_decode(const char *text, size_t n, uint8_t *out, size_t *len, size_t *bad);

#endif
