// Base64 with padding (RFC 4648, section 4). Appends to a buffer, whose maximum decides. Any thread.
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include "base/buf.h"

#define BASE64_BYTES(n) (((n) + 2) / 3 * 4)

int base64_put(struct buf *out, const void *data, size_t n);

#endif
