#include "models/gguf_impl.h"

#include "base/buf.h"

#include <inttypes.h>

static const uint8_t value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

// ---- bytes ---------------------------------------------------------------------------------------

uint64_t models_reader_left(const struct models_reader *r)
{
    return r->source->bytes - r->at;
}

int models_reader_cut(struct models_reader *r, const char *what)
{
    return err_set(r->e, ERR_CORRUPT,
                   "damaged or cut short: %s at byte %" PRIu64 " does not fit into its %" PRIu64
                   " bytes; fetch the file again",
                   what, r->at, r->source->bytes);
}

static int window_fill(struct models_reader *r)
{
    uint64_t n =
        models_reader_left(r) < sizeof r->window ? models_reader_left(r) : sizeof r->window;
    int rc = r->source->read(r->source->ctx, r->at, r->window, (size_t)n, r->e);
    r->window_at = r->at;
    r->window_bytes = rc == 0 ? (size_t)n : 0;
    return rc;
}

int models_reader_get(struct models_reader *r, void *out, size_t n, const char *what)
{
    uint8_t *p = out;
    if (n > models_reader_left(r))
        return models_reader_cut(r, what);
    while (n > 0) {
        uint64_t into = r->at - r->window_at;
        if (into >= r->window_bytes) {
            int rc = window_fill(r);
            if (rc != 0)
                return rc;
            into = 0;
        }
        size_t part = r->window_bytes - (size_t)into;
        if (part > n)
            part = n;
        memcpy(p, r->window + into, part);
        p += part;
        n -= part;
        r->at += part;
    }
    return 0;
}

static int skip(struct models_reader *r, uint64_t n, const char *what)
{
    if (n > models_reader_left(r))
        return models_reader_cut(r, what);
    r->at += n;
    return 0;
}

int models_reader_get32(struct models_reader *r, uint32_t *out, const char *what)
{
    uint8_t raw[4] = {0};
    int rc = models_reader_get(r, raw, sizeof raw, what);
    if (rc == 0)
        *out = le_get32(raw);
    return rc;
}

int models_reader_get64(struct models_reader *r, uint64_t *out, const char *what)
{
    uint8_t raw[8] = {0};
    int rc = models_reader_get(r, raw, sizeof raw, what);
    if (rc == 0)
        *out = le_get64(raw);
    return rc;
}

int models_reader_text(struct models_reader *r, char *out, size_t out_bytes, uint64_t *n,
                       const char *what)
{
    uint64_t bytes = 0;
    int rc = models_reader_get64(r, &bytes, what);
    if (rc != 0)
        return rc;
    if (bytes > models_reader_left(r))
        return models_reader_cut(r, what);
    if (bytes > MODELS_GGUF_TEXT_MAX)
        return err_set(r->e, ERR_RANGE, "%s has %" PRIu64 " bytes, at most %u are allowed", what,
                       bytes, MODELS_GGUF_TEXT_MAX);
    size_t keep = bytes < out_bytes ? (size_t)bytes : out_bytes - 1;
    rc = models_reader_get(r, out, keep, what);
    out[keep] = '\0';
    if (n)
        *n = bytes;
    return rc ? rc : skip(r, bytes - keep, what);
}

// ---- one value -----------------------------------------------------------------------------------

int models_reader_type(struct models_reader *r, uint32_t *type, const char *key)
{
    int rc = models_reader_get32(r, type, "a value's type");
    if (rc == 0 && *type >= VALUE_TYPES)
        return err_set(r->e, ERR_CORRUPT, "damaged: key %.80s has value type %u; 0 to %d exist",
                       key, *type, VALUE_TYPES - 1);
    return rc;
}

int models_reader_number(struct models_reader *r, uint32_t type, const char *key, uint64_t *out)
{
    uint8_t raw[8] = {0};
    static const uint8_t is_signed[VALUE_TYPES] = {
        [VALUE_I8] = 1, [VALUE_I16] = 1, [VALUE_I32] = 1, [VALUE_I64] = 1};
    size_t n = value_bytes[type];
    if (n == 0 || type == VALUE_F32 || type == VALUE_F64)
        return err_set(r->e, ERR_CORRUPT, "damaged: key %.80s should hold a whole number", key);
    int rc = models_reader_get(r, raw, n, key);
    if (rc == 0 && is_signed[type] && (raw[n - 1] & 0x80) != 0)
        return err_set(r->e, ERR_CORRUPT, "damaged: key %.80s is negative", key);
    *out = le_get64(raw);
    return rc;
}

int models_reader_array(struct models_reader *r, const char *key, uint32_t *type, uint64_t *n)
{
    int rc = models_reader_type(r, type, key);
    if (rc == 0)
        rc = models_reader_get64(r, n, key);
    if (rc != 0)
        return rc;
    if (*type == VALUE_ARRAY)
        return err_set(r->e, ERR_CORRUPT, "damaged: key %.80s is an array of arrays", key);
    uint64_t least = *type == VALUE_STRING ? 8 : value_bytes[*type];
    if (*n > models_reader_left(r) / least)
        return models_reader_cut(r, key);
    if (*n > MODELS_GGUF_ARRAY_MAX)
        return err_set(r->e, ERR_RANGE,
                       "key %.80s has %" PRIu64 " elements, at most %u are allowed", key, *n,
                       MODELS_GGUF_ARRAY_MAX);
    return 0;
}

int models_reader_elements_skip(struct models_reader *r, const char *key, uint32_t type, uint64_t n)
{
    char first[1];
    int rc = 0;
    if (type != VALUE_STRING)
        return skip(r, n * value_bytes[type], key);
    for (uint64_t i = 0; i < n && rc == 0; i++)
        rc = models_reader_text(r, first, sizeof first, NULL, key);
    return rc;
}

int models_reader_value_skip(struct models_reader *r, const char *key, uint32_t type)
{
    char first[1];
    uint64_t n = 0;
    if (type == VALUE_STRING)
        return models_reader_text(r, first, sizeof first, NULL, key);
    if (type != VALUE_ARRAY)
        return skip(r, value_bytes[type], key);
    int rc = models_reader_array(r, key, &type, &n);
    return rc ? rc : models_reader_elements_skip(r, key, type, n);
}
