#include "models/safetensors.h"

#include "base/buf.h"
#include "base/json.h"
#include "models/file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#define METADATA "__metadata__"

// ---- values --------------------------------------------------------------------------------------

static float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

// IEEE 754 binary16: sign 1, exponent 5, fraction 10.
static float half_widen(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1f, fraction = h & 0x3ff;
    if (exponent == 0x1f) // infinite, or no number
        return float_of(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) { // fraction * 2^-24
        float small = (float)fraction / 16777216.0f;
        return sign ? -small : small;
    }
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

size_t models_dtype_bytes(enum models_dtype dtype)
{
    return dtype == MODELS_DTYPE_F32 ? 4 : dtype == MODELS_DTYPE_OTHER ? 0 : 2;
}

void models_dtype_widen(enum models_dtype dtype, const void *from, float *out, size_t n)
{
    const uint8_t *p = from;
    for (size_t i = 0; i < n; i++) {
        if (dtype == MODELS_DTYPE_F32)
            out[i] = float_of(le_get32(p + 4 * i));
        else if (dtype == MODELS_DTYPE_F16)
            out[i] = half_widen(le_get16(p + 2 * i));
        else
            out[i] = float_of((uint32_t)le_get16(p + 2 * i) << 16);
    }
}

// ---- one tensor ----------------------------------------------------------------------------------

static const struct {
    const char *name;
    uint32_t bits;
    enum models_dtype dtype;
} dtypes[] = {
    {"F32", 32, MODELS_DTYPE_F32},      {"F16", 16, MODELS_DTYPE_F16},
    {"BF16", 16, MODELS_DTYPE_BF16},    {"BOOL", 8, MODELS_DTYPE_OTHER},
    {"U8", 8, MODELS_DTYPE_OTHER},      {"I8", 8, MODELS_DTYPE_OTHER},
    {"F8_E5M2", 8, MODELS_DTYPE_OTHER}, {"F8_E4M3", 8, MODELS_DTYPE_OTHER},
    {"F8_E8M0", 8, MODELS_DTYPE_OTHER}, {"U16", 16, MODELS_DTYPE_OTHER},
    {"I16", 16, MODELS_DTYPE_OTHER},    {"U32", 32, MODELS_DTYPE_OTHER},
    {"I32", 32, MODELS_DTYPE_OTHER},    {"U64", 64, MODELS_DTYPE_OTHER},
    {"I64", 64, MODELS_DTYPE_OTHER},    {"F64", 64, MODELS_DTYPE_OTHER},
};
#define N_DTYPES (sizeof dtypes / sizeof *dtypes)

// *value_bytes: of one value.
static int dtype_read(const json_t *o, struct models_safetensors_tensor *t, uint64_t *value_bytes,
                      struct err *e)
{
    const char *name = json_string_value(json_object_get(o, "dtype"));
    for (size_t i = 0; name && i < N_DTYPES; i++) {
        if (strcmp(name, dtypes[i].name) != 0)
            continue;
        t->dtype = dtypes[i].dtype;
        memcpy(t->dtype_name, name, strlen(name) + 1);
        *value_bytes = dtypes[i].bits / 8;
        return 0;
    }
    return err_set(e, ERR_UNSUPPORTED, "tensor %.100s has type %.40s, which is not known", t->name,
                   name ? name : "(none)");
}

static int whole_read(const json_t *v, const char *what, const char *tensor, uint64_t *out,
                      struct err *e)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return err_set(e, ERR_CORRUPT, "damaged: %s of tensor %.100s is no whole number", what,
                       tensor);
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

static int shape_read(const json_t *o, struct models_safetensors_tensor *t, struct err *e)
{
    const json_t *shape = json_object_get(o, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > MODELS_SAFETENSORS_DIMS)
        return err_set(e, ERR_CORRUPT,
                       "damaged: tensor %.100s has no shape of at most %d dimensions", t->name,
                       MODELS_SAFETENSORS_DIMS);
    t->n_dims = (uint32_t)json_array_size(shape);
    t->values = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        int rc = whole_read(json_array_get(shape, i), "the shape", t->name, &t->shape[i], e);
        if (rc != 0)
            return rc;
        if (__builtin_mul_overflow(t->values, t->shape[i], &t->values) || t->values > INT64_MAX / 8)
            return err_set(e, ERR_CORRUPT, "damaged: tensor %.100s is too large to be true",
                           t->name);
    }
    return 0;
}

// Where it lies; `data` is how many bytes follow the head, which ends at data_at.
static int place_read(const json_t *o, struct models_safetensors_tensor *t, uint64_t data_at,
                      uint64_t data, struct err *e)
{
    const json_t *place = json_object_get(o, "data_offsets");
    uint64_t begin = 0, end = 0;
    if (!json_is_array(place) || json_array_size(place) != 2)
        return err_set(e, ERR_CORRUPT, "damaged: tensor %.100s has no two \"data_offsets\"",
                       t->name);
    int rc = whole_read(json_array_get(place, 0), "the offset", t->name, &begin, e);
    if (rc == 0)
        rc = whole_read(json_array_get(place, 1), "the offset", t->name, &end, e);
    if (rc != 0)
        return rc;
    if (begin > end || end > data)
        return err_set(e, ERR_CORRUPT,
                       "damaged or cut short: tensor %.100s lies at %" PRIu64 " to %" PRIu64
                       " of %" PRIu64 " bytes; save the file again",
                       t->name, begin, end, data);
    t->at = data_at + begin;
    t->bytes = end - begin;
    return 0;
}

// ---- the head ------------------------------------------------------------------------------------

static int by_place(const void *a, const void *b)
{
    const struct models_safetensors_tensor *x = a, *y = b;
    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

// One behind the other, from the head's end to the file's.
static int places_check(const struct models_safetensors *s, uint64_t at, uint64_t end,
                        struct err *e)
{
    for (size_t i = 0; i < s->n; i++) {
        if (s->tensors[i].at != at)
            return err_set(e, ERR_CORRUPT,
                           "damaged: tensor %.100s begins at byte %" PRIu64 ", and what stands "
                           "before it ends at %" PRIu64,
                           s->tensors[i].name, s->tensors[i].at, at);
        at += s->tensors[i].bytes;
    }
    if (at != end)
        return err_set(e, ERR_CORRUPT, "damaged: %" PRIu64 " bytes at its end belong to no tensor",
                       end - at);
    return 0;
}

static int tensors_read(json_t *head, uint64_t data_at, uint64_t file_bytes,
                        struct models_safetensors *s, struct err *e)
{
    const char *name;
    json_t *o;
    s->tensors = mem_alloc((json_object_size(head) + 1) * sizeof *s->tensors);
    json_object_foreach(head, name, o)
    {
        struct models_safetensors_tensor *t = &s->tensors[s->n];
        uint64_t value_bytes = 0;
        if (strcmp(name, METADATA) == 0)
            continue;
        t->name = name;
        int rc = json_is_object(o)
                     ? dtype_read(o, t, &value_bytes, e)
                     : err_set(e, ERR_CORRUPT, "damaged: \"%.100s\" is no object", name);
        if (rc == 0)
            rc = shape_read(o, t, e);
        if (rc == 0)
            rc = place_read(o, t, data_at, file_bytes - data_at, e);
        if (rc != 0)
            return rc;
        if (t->values * value_bytes != t->bytes)
            return err_set(e, ERR_CORRUPT,
                           "damaged: tensor %.100s of %" PRIu64 " %s values has %" PRIu64 " bytes",
                           name, t->values, t->dtype_name, t->bytes);
        s->n++;
    }
    qsort(s->tensors, s->n, sizeof *s->tensors, by_place);
    return places_check(s, data_at, file_bytes, e);
}

static int head_length(const struct models_gguf_source *source, uint64_t *n, struct err *e)
{
    uint8_t raw[8] = {0};
    if (source->bytes < sizeof raw)
        return err_set(e, ERR_CORRUPT, "no safetensors file: it has %" PRIu64 " bytes",
                       source->bytes);
    int rc = source->read(source->ctx, 0, raw, sizeof raw, e);
    *n = le_get64(raw);
    if (rc != 0)
        return rc;
    if (*n > source->bytes - sizeof raw)
        return err_set(e, ERR_CORRUPT,
                       "no safetensors file, or cut short: its head would have %" PRIu64
                       " of %" PRIu64 " bytes",
                       *n, source->bytes);
    if (*n > MODELS_SAFETENSORS_HEAD_MAX)
        return err_set(e, ERR_RANGE, "its head has %" PRIu64 " bytes, at most %u are allowed", *n,
                       MODELS_SAFETENSORS_HEAD_MAX);
    return 0;
}

int models_safetensors_parse(const struct models_gguf_source *source, struct models_safetensors *s,
                             struct err *e)
{
    uint64_t n = 0;
    char *text = NULL;
    *s = (struct models_safetensors){0};
    int rc = head_length(source, &n, e);
    if (rc != 0)
        return rc;
    text = mem_alloc((size_t)n + 1);
    rc = source->read(source->ctx, 8, text, (size_t)n, e);
    if (rc == 0) {
        s->head = json_parse(text, (size_t)n, e);
        rc = s->head ? 0 : err_set(e, ERR_CORRUPT, "damaged: its head is no JSON");
    }
    free(text);
    if (rc == 0 && !json_is_object(s->head))
        rc = err_set(e, ERR_CORRUPT, "damaged: its head is no JSON object");
    if (rc == 0)
        rc = tensors_read(s->head, 8 + n, source->bytes, s, e);
    if (rc != 0)
        models_safetensors_fini(s);
    return rc;
}

int models_safetensors_read(const char *path, struct models_safetensors *s, struct err *e)
{
    uint64_t bytes = 0;
    int fd = models_file_open(path, "a safetensors file", &bytes, e);
    struct models_gguf_source source = {models_file_get, &fd, bytes};
    int rc = fd < 0 ? fd : models_safetensors_parse(&source, s, e);
    if (fd >= 0)
        close(fd);
    return rc ? err_wrap(e, "%.250s", path) : 0;
}

void models_safetensors_fini(struct models_safetensors *s)
{
    free(s->tensors);
    json_decref(s->head);
    *s = (struct models_safetensors){0};
}
