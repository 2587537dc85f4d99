#include "train/merge.h"

#include "base/buf.h"
#include "engine/engine.h"

#include <errno.h>
#include <ggml.h>
#include <gguf.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define NAME_BYTES 128

// ---- GGUF files ----------------------------------------------------------------------------------

// An open one; its tensors' shapes are in `shapes`, their bytes in the stream.
struct source {
    const char *path;
    FILE *stream;
    struct gguf_context *gguf;
    struct ggml_context *shapes;
};

static int source_open(struct source *s, const char *path, struct err *e)
{
    struct gguf_init_params p = {.no_alloc = true, .ctx = &s->shapes};
    s->path = path;
    s->stream = fopen(path, "rbe");
    if (!s->stream)
        return err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "'%s': %s", path,
                       strerror(errno));
    s->gguf = gguf_init_from_file(path, p);
    return s->gguf ? 0 : err_set(e, ERR_CORRUPT, "'%s' is no whole GGUF file", path);
}

static void source_close(struct source *s)
{
    if (s->gguf)
        gguf_free(s->gguf);
    if (s->shapes)
        ggml_free(s->shapes);
    if (s->stream)
        fclose(s->stream);
}

static const char *text_of(const struct source *s, const char *key)
{
    int64_t k = gguf_find_key(s->gguf, key);
    return k >= 0 && gguf_get_kv_type(s->gguf, k) == GGUF_TYPE_STRING ? gguf_get_val_str(s->gguf, k)
                                                                      : "(none)";
}

// The bytes of tensor i; the caller frees them.
static int bytes_read(const struct source *s, int64_t i, void **out, struct err *e)
{
    size_t n = gguf_get_tensor_size(s->gguf, i);
    uint64_t at = gguf_get_data_offset(s->gguf) + gguf_get_tensor_offset(s->gguf, i);
    *out = malloc(n + 1);
    if (!*out)
        return err_set(e, ERR_RANGE, "no memory for tensor %s of %zu bytes",
                       gguf_get_tensor_name(s->gguf, i), n);
    if (fseeko(s->stream, (off_t)at, SEEK_SET) == 0 && fread(*out, 1, n, s->stream) == n)
        return 0;
    free(*out);
    *out = NULL;
    return err_set(e, ERR_CORRUPT, "'%s' ends inside tensor %s", s->path,
                   gguf_get_tensor_name(s->gguf, i));
}

// Its values as F32; the caller frees them.
static int values_read(const struct source *s, const struct ggml_tensor *t, float **out,
                       struct err *e)
{
    const struct ggml_type_traits *traits = ggml_get_type_traits(t->type);
    void *raw = NULL;
    *out = NULL;
    if (t->type != GGML_TYPE_F32 && !traits->to_float)
        return err_set(e, ERR_UNSUPPORTED, "'%s': tensor %s has type %s, which cannot be merged",
                       s->path, t->name, traits->type_name);
    int rc = bytes_read(s, gguf_find_tensor(s->gguf, t->name), &raw, e);
    if (rc != 0)
        return rc;
    if (t->type == GGML_TYPE_F32) {
        *out = raw;
        return 0;
    }
    *out = malloc((size_t)ggml_nelements(t) * sizeof **out);
    if (*out)
        traits->to_float(raw, *out, ggml_nelements(t));
    free(raw);
    return *out ? 0 : err_set(e, ERR_RANGE, "no memory for the values of %s", t->name);
}

// ---- the sum -------------------------------------------------------------------------------------

struct merge {
    const struct merge_options *o;
    struct source base, adapter;
    struct gguf_context *head; // of the sum
    float alpha;
    char *aside;
    FILE *out;
    struct err *e;
};

static struct ggml_tensor *part_of(const struct merge *m, const char *tensor, const char *part)
{
    char name[NAME_BYTES + 8];
    snprintf(name, sizeof name, "%s.%s", tensor, part);
    return ggml_get_tensor(m->adapter.shapes, name);
}

static int adapter_check(struct merge *m)
{
    const struct source *a = &m->adapter;
    const char *arch = text_of(a, "general.architecture");
    const char *base = text_of(&m->base, "general.architecture");
    int64_t alpha = gguf_find_key(a->gguf, "adapter.lora.alpha");
    if (strcmp(text_of(a, "general.type"), "adapter") != 0 ||
        strcmp(text_of(a, "adapter.type"), "lora") != 0)
        return err_set(m->e, ERR_INVALID, "'%s' is no LoRA adapter", a->path);
    if (strcmp(arch, base) != 0)
        return err_set(m->e, ERR_MISMATCH, "'%s' is for architecture %s, '%s' is %s", a->path, arch,
                       m->base.path, base);
    if (alpha < 0 || gguf_get_kv_type(a->gguf, alpha) != GGUF_TYPE_FLOAT32)
        return err_set(m->e, ERR_CORRUPT, "'%s' has no adapter.lora.alpha", a->path);
    m->alpha = gguf_get_val_f32(a->gguf, alpha);
    return isfinite(m->alpha) ? 0 : err_set(m->e, ERR_CORRUPT, "'%s': alpha is no number", a->path);
}

// Every tensor of the adapter belongs to one of the base, in pairs that fit.
static int pairs_check(struct merge *m)
{
    for (int64_t i = 0; i < gguf_get_n_tensors(m->adapter.gguf); i++) {
        const char *name = gguf_get_tensor_name(m->adapter.gguf, i);
        const char *end = strstr(name, ".lora_");
        char of[NAME_BYTES];
        snprintf(of, sizeof of, "%.*s", end ? (int)(end - name) : 0, name);
        const struct ggml_tensor *w = ggml_get_tensor(m->base.shapes, of);
        const struct ggml_tensor *a = part_of(m, of, "lora_a"), *b = part_of(m, of, "lora_b");
        if (!end || !a || !b)
            return err_set(m->e, ERR_CORRUPT, "'%s': tensor %s is no half of a pair",
                           m->adapter.path, name);
        if (!w)
            return err_set(m->e, ERR_MISMATCH, "'%s' changes %s, which '%s' has not",
                           m->adapter.path, of, m->base.path);
        if (a->ne[0] != w->ne[0] || b->ne[1] != w->ne[1] || a->ne[1] != b->ne[0] || w->ne[2] != 1 ||
            a->ne[1] < 1)
            return err_set(m->e, ERR_MISMATCH,
                           "'%s' fits a %s from %" PRId64 " to %" PRId64 " values, that of '%s' is "
                           "from %" PRId64 " to %" PRId64,
                           m->adapter.path, of, a->ne[0], b->ne[1], m->base.path, w->ne[0],
                           w->ne[1]);
    }
    return 0;
}

// w [in, out] += scale * a [in, rank] times b [rank, out].
static void product_add(float *w, const struct ggml_tensor *shape, const float *a, const float *b,
                        const int64_t rank, float scale)
{
    int64_t in = shape->ne[0], out = shape->ne[1];
    for (int64_t o = 0; o < out; o++)
        for (int64_t r = 0; r < rank; r++) {
            float by = scale * b[o * rank + r];
            const float *row = a + r * in;
            for (int64_t i = 0; i < in; i++)
                w[o * in + i] += by * row[i];
        }
}

static int matrix_sum(struct merge *m, const struct ggml_tensor *w, float **out)
{
    const struct ggml_tensor *a = part_of(m, w->name, "lora_a"), *b = part_of(m, w->name, "lora_b");
    float *av = NULL, *bv = NULL;
    int rc = values_read(&m->base, w, out, m->e);
    if (rc == 0)
        rc = values_read(&m->adapter, a, &av, m->e);
    if (rc == 0)
        rc = values_read(&m->adapter, b, &bv, m->e);
    if (rc == 0)
        product_add(*out, w, av, bv, a->ne[1], m->alpha / (float)a->ne[1]);
    for (int64_t i = 0; rc == 0 && i < ggml_nelements(w); i++)
        if (!isfinite((*out)[i]))
            rc = err_set(m->e, ERR_CORRUPT, "'%s': its sum with %s is no number", m->adapter.path,
                         w->name);
    free(av);
    free(bv);
    return rc;
}

// ---- writing -------------------------------------------------------------------------------------

static int write_failed(struct merge *m)
{
    return err_set(m->e, ERR_IO, "'%s' cannot be written: %s", m->aside, strerror(errno));
}

static int tensor_put(struct merge *m, int64_t i)
{
    const char *name = gguf_get_tensor_name(m->head, i);
    const struct ggml_tensor *w = ggml_get_tensor(m->base.shapes, name);
    uint64_t at = gguf_get_meta_size(m->head) + gguf_get_tensor_offset(m->head, i);
    void *data = NULL;
    float *sum = NULL;
    int rc = part_of(m, name, "lora_a")
                 ? matrix_sum(m, w, &sum)
                 : bytes_read(&m->base, gguf_find_tensor(m->base.gguf, name), &data, m->e);
    size_t n = gguf_get_tensor_size(m->head, i);
    if (rc == 0 && (fseeko(m->out, (off_t)at, SEEK_SET) != 0 ||
                    fwrite(sum ? (void *)sum : data, 1, n, m->out) != n))
        rc = write_failed(m);
    free(sum);
    free(data);
    return rc;
}

static int head_make(struct merge *m)
{
    m->head = gguf_init_empty();
    gguf_set_kv(m->head, m->base.gguf);
    for (int64_t i = 0; i < gguf_get_n_tensors(m->base.gguf); i++) {
        const char *name = gguf_get_tensor_name(m->base.gguf, i);
        gguf_add_tensor(m->head, ggml_get_tensor(m->base.shapes, name));
        if (part_of(m, name, "lora_a"))
            gguf_set_tensor_type(m->head, name, GGML_TYPE_F32);
    }
    return gguf_write_to_file(m->head, m->aside, true) ? 0 : write_failed(m);
}

// The sum in F32 and, beside it, at most as much again for what is made of it.
static int room_check(struct merge *m)
{
    uint64_t bytes = gguf_get_meta_size(m->head);
    struct statvfs v;
    for (int64_t i = 0; i < gguf_get_n_tensors(m->head); i++)
        bytes += gguf_get_tensor_size(m->head, i);
    if (statvfs(m->aside, &v) != 0)
        return 0; // the writing itself will tell
    uint64_t room = (uint64_t)v.f_bavail * v.f_frsize;
    if (room / 2 >= bytes)
        return 0;
    return err_set(
        m->e, ERR_RANGE,
        "merging takes up to %.1f GB on the disk of '%s', %.1f GB are free; make room, or "
        "serve base and adapter unmerged",
        2 * (double)bytes / 1e9, m->o->out, (double)room / 1e9);
}

static int sum_write(struct merge *m)
{
    int rc = head_make(m);
    if (rc == 0)
        rc = room_check(m);
    if (rc != 0)
        return rc;
    m->out = fopen(m->aside, "rb+e");
    if (!m->out)
        return write_failed(m);
    for (int64_t i = 0; rc == 0 && i < gguf_get_n_tensors(m->head); i++)
        rc = tensor_put(m, i);
    if (fclose(m->out) != 0 && rc == 0)
        rc = write_failed(m);
    return rc;
}

int merge_run(const struct merge_options *o, struct err *e)
{
    struct merge m = {.o = o, .e = e, .aside = mem_format("%s.sum.part", o->out)};
    int rc = source_open(&m.base, o->base, e);
    if (rc == 0 && gguf_find_key(m.base.gguf, "split.count") >= 0)
        rc = err_set(e, ERR_UNSUPPORTED,
                     "'%s' is a part of several; join them first (llama-gguf-split --merge)",
                     o->base);
    if (rc == 0)
        rc = source_open(&m.adapter, o->adapter, e);
    if (rc == 0)
        rc = adapter_check(&m);
    if (rc == 0)
        rc = pairs_check(&m);
    if (rc == 0)
        rc = sum_write(&m);
    if (rc == 0)
        rc = engine_quantize(m.aside, o->out, o->type, e);
    unlink(m.aside);
    if (m.head)
        gguf_free(m.head);
    source_close(&m.adapter);
    source_close(&m.base);
    free(m.aside);
    return rc;
}
