// 16-bit floats, and the file of trained values.
#include "tests/image_model/weights.h"

#include "base/buf.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX_BYTES (4u << 20)

uint16_t half_from_float(float x)
{
    union {
        float f;
        uint32_t u;
    } v = {.f = x};
    uint32_t sign = v.u >> 16 & 0x8000u, rest = v.u & 0x7fffffffu;
    if (rest < 0x38800000u) { // below the smallest normal half: in steps of 2^-24
        float steps = (v.f < 0 ? -v.f : v.f) * 16777216.0f;
        return (uint16_t)(sign | (uint32_t)(steps + 0.5f));
    }
    if (rest >= 0x47800000u)
        return (uint16_t)(sign | 0x7c00u);
    rest += 0xfffu + (rest >> 13 & 1u); // to the nearest, ties to even
    return (uint16_t)(sign | (rest - 0x38000000u) >> 13);
}

float half_to_float(uint16_t half)
{
    uint32_t exponent = half >> 10 & 31u, mantissa = half & 1023u;
    union {
        uint32_t u;
        float f;
    } v;
    if (exponent == 0) {
        v.f = (float)mantissa / 16777216.0f;
        return half & 0x8000u ? -v.f : v.f;
    }
    v.u = (uint32_t)(half & 0x8000u) << 16 | (exponent + 112) << 23 | mantissa << 13;
    return v.f;
}

int weights_write(const struct network *n, const char *path, struct err *e)
{
    struct buf b;
    uint8_t raw[2];
    buf_init(&b, FILE_MAX_BYTES);
    for (int i = 0; i < n->n_tensors; i++) {
        const struct network_tensor *t = &n->tensors[i];
        buf_put_le32(&b, (uint32_t)strlen(t->name));
        buf_puts(&b, t->name);
        buf_put_le32(&b, (uint32_t)t->count);
        for (int j = 0; j < t->count; j++) {
            le_put16(raw, half_from_float(n->values[t->offset + j]));
            buf_put(&b, raw, 2);
        }
    }
    int rc = os_file_write(path, b.data, b.len, 0644, e);
    buf_fini(&b);
    return rc;
}

// One record at data[*at]; false: not the tensor that is wanted.
static bool tensor_take(struct network *n, int index, const uint8_t *data, size_t len, size_t *at)
{
    const struct network_tensor *t = &n->tensors[index];
    size_t name = strlen(t->name), wanted = 4 + name + 4 + 2 * (size_t)t->count;
    const uint8_t *p = data + *at;
    if (len - *at < wanted || le_get32(p) != name || memcmp(p + 4, t->name, name) != 0 ||
        le_get32(p + 4 + name) != (uint32_t)t->count)
        return false;
    for (int j = 0; j < t->count; j++)
        n->values[t->offset + j] = half_to_float(le_get16(p + 8 + name + 2 * (size_t)j));
    *at += wanted;
    return true;
}

int weights_read(struct network *n, const char *path, struct err *e)
{
    char *text = NULL;
    size_t len = 0, at = 0;
    int rc = os_file_read(path, FILE_MAX_BYTES, &text, &len, e);
    for (int i = 0; rc == 0 && i < n->n_tensors; i++)
        if (!tensor_take(n, i, (const uint8_t *)text, len, &at))
            rc = err_set(e, ERR_CORRUPT, "'%s' holds no %s of %d values at byte %zu", path,
                         n->tensors[i].name, n->tensors[i].count, at);
    if (rc == 0 && at != len)
        rc = err_set(e, ERR_CORRUPT, "'%s' has %zu bytes too many", path, len - at);
    free(text);
    return rc;
}
