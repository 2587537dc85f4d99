// What an adapter and its base have in common: shapes, a fingerprint, and whether the matrices fit.
#include "models/adapters.h"

#include "base/buf.h"
#include "base/json.h"
#include "models/adapters_impl.h"
#include "models/file.h"
#include "models/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TYPE_F32 0u
#define NORM "output_norm.weight"
#define NORM_BYTES_MAX (1u << 20)
#define FINGERPRINT "tandem base 1"

bool adapters_is_fake(const char *model)
{
    return strncmp(model, "fake", 4) == 0 && (model[4] == '\0' || model[4] == ':');
}

// ---- walking a model of one file or several ------------------------------------------------------

static int file_walk(const char *path, const struct adapters_walk *walk, struct models_gguf *g,
                     struct err *e)
{
    uint64_t bytes = 0;
    int fd = models_file_open(path, "a GGUF file", &bytes, e);
    struct models_gguf_source source = {models_file_get, &fd, bytes};
    struct models_gguf_visitor visitor = {walk->tensor, walk->ctx};
    int rc = fd < 0 ? fd : models_gguf_walk(&source, g, &visitor, e);
    if (rc == 0 && walk->part) {
        rc = walk->part(walk->ctx, &source, g, e);
        if (rc != 0)
            models_gguf_fini(g);
    }
    if (fd >= 0)
        close(fd);
    if (rc != 0)
        err_wrap(e, "%.250s", path);
    return rc;
}

int adapters_walk_parts(const char *path, const struct adapters_walk *walk, struct models_gguf *g,
                        struct err *e)
{
    struct models_split split;
    int rc = file_walk(path, walk, g, e);
    if (rc != 0 || g->split_count < 2)
        return rc;
    struct models_gguf *part = mem_alloc(sizeof *part);
    if (!models_split_parse(path, &split) || split.no != 1)
        rc = err_set(e, ERR_INVALID, "%.300s is one of %u parts; name the first one", path,
                     g->split_count);
    for (uint32_t no = 2; rc == 0 && no <= split.count; no++) {
        char *name = mem_format("%.*s-%05u-of-%05u.gguf", (int)split.stem, path, no, split.count);
        rc = file_walk(name, walk, part, e);
        if (rc == 0)
            models_gguf_fini(part);
        free(name);
    }
    if (rc != 0)
        models_gguf_fini(g);
    free(part);
    return rc;
}

// ---- the fingerprint -----------------------------------------------------------------------------

struct norm {
    struct models_gguf_tensor tensor;
    bool found, here; // at all; in the part that is being read
    uint8_t *data;    // owned
};

static int norm_see(void *ctx, const struct models_gguf_tensor *t, struct err *e)
{
    struct norm *n = ctx;
    (void)e;
    if (!n->found && strcmp(t->name, NORM) == 0 && t->type == TYPE_F32 &&
        t->bytes <= NORM_BYTES_MAX) {
        n->tensor = *t;
        n->found = n->here = true;
    }
    return 0;
}

static int norm_read(void *ctx, const struct models_gguf_source *source,
                     const struct models_gguf *g, struct err *e)
{
    struct norm *n = ctx;
    if (!n->here)
        return 0;
    n->here = false;
    n->data = mem_alloc((size_t)n->tensor.bytes + 1);
    return source->read(source->ctx, g->head_bytes + n->tensor.offset, n->data,
                        (size_t)n->tensor.bytes, e);
}

static void fingerprint_make(const struct norm *n, struct adapters_base *b)
{
    char head[160], sum[MODELS_SUM_BYTES];
    struct models_sum s;
    if (!n->found)
        return;
    int len = snprintf(head, sizeof head, FINGERPRINT " %s %u\n", b->arch, b->n_embd);
    models_sum_init(&s);
    models_sum_put(&s, head, (size_t)len);
    models_sum_put(&s, n->data, (size_t)n->tensor.bytes);
    models_sum_take(&s, sum);
    models_sum_fini(&s);
    memcpy(b->fingerprint, sum, sizeof b->fingerprint - 1);
}

static void base_fill(const struct models_gguf *g, const char *model, struct adapters_base *b)
{
    const char *name = g->name[0] ? g->name : models_base_name(model);
    snprintf(b->arch, sizeof b->arch, "%s", g->arch);
    snprintf(b->name, sizeof b->name, "%.127s", name);
    snprintf(b->quant, sizeof b->quant, "%.31s", models_gguf_quant(g));
    b->n_layer = g->n_layer;
    b->n_embd = g->n_embd;
    b->n_ff = g->n_ff;
    b->n_head = g->n_head;
    b->n_vocab = g->n_vocab;
}

int adapters_base_read(const char *model, struct adapters_base *out, struct err *e)
{
    struct norm norm = {0};
    struct adapters_walk walk = {norm_see, norm_read, &norm};
    *out = (struct adapters_base){0};
    if (adapters_is_fake(model)) {
        *out = (struct adapters_base){.arch = "fake", .name = "fake", .quant = "none"};
        return 0;
    }
    struct models_gguf *g = mem_alloc(sizeof *g);
    int rc = adapters_walk_parts(model, &walk, g, e);
    if (rc == 0) {
        base_fill(g, model, out);
        fingerprint_make(&norm, out);
        models_gguf_fini(g);
    }
    free(norm.data);
    free(g);
    return rc;
}

// ---- comparing -----------------------------------------------------------------------------------

static int number_match(const char *what, uint32_t a, uint32_t b, struct err *e)
{
    if (a == b)
        return 0;
    return err_set(e, ERR_MISMATCH,
                   "the adapter was trained on a model with %s %" PRIu32 ", this one has %" PRIu32
                   "; serve the base it was trained on",
                   what, a, b);
}

int adapters_base_match(const struct adapters_base *a, const struct adapters_base *b, struct err *e)
{
    if (strcmp(a->arch, b->arch) != 0)
        return err_set(e, ERR_MISMATCH,
                       "the adapter is for architecture %s, this model is %s; serve the base it "
                       "was trained on",
                       a->arch, b->arch);
    int rc = number_match("n_layer", a->n_layer, b->n_layer, e);
    if (rc == 0)
        rc = number_match("n_embd", a->n_embd, b->n_embd, e);
    if (rc == 0)
        rc = number_match("n_ff", a->n_ff, b->n_ff, e);
    if (rc == 0)
        rc = number_match("n_head", a->n_head, b->n_head, e);
    if (rc == 0)
        rc = number_match("n_vocab", a->n_vocab, b->n_vocab, e);
    if (rc == 0 && a->fingerprint[0] && b->fingerprint[0] &&
        strcmp(a->fingerprint, b->fingerprint) != 0)
        rc = err_set(e, ERR_MISMATCH,
                     "the adapter was trained on \"%s\" (%.8s...), this is \"%s\" (%.8s...): the "
                     "same shape, other weights; serve the base it was trained on",
                     a->name, a->fingerprint, b->name, b->fingerprint);
    return rc;
}

// ---- as JSON -------------------------------------------------------------------------------------

json_t *adapters_base_json(const struct adapters_base *b)
{
    json_t *o = json_object();
    json_put(o, "architecture", json_string(b->arch));
    json_put(o, "name", json_string(b->name));
    json_put(o, "quantisation", json_string(b->quant));
    json_put(o, "n_layer", json_integer(b->n_layer));
    json_put(o, "n_embd", json_integer(b->n_embd));
    json_put(o, "n_ff", json_integer(b->n_ff));
    json_put(o, "n_head", json_integer(b->n_head));
    json_put(o, "n_vocab", json_integer(b->n_vocab));
    json_put(o, "fingerprint", json_string(b->fingerprint));
    return o;
}

static int small_get(const json_t *o, const char *member, uint32_t *out, struct err *e)
{
    int64_t v = 0;
    int rc = json_get_i64(o, member, 0, UINT32_MAX, &v, e);
    *out = (uint32_t)v;
    return rc;
}

int adapters_base_parse(const json_t *o, struct adapters_base *b, struct err *e)
{
    *b = (struct adapters_base){0};
    int rc = json_copy_string(o, "architecture", b->arch, sizeof b->arch, e);
    if (rc == 0)
        rc = json_copy_string(o, "name", b->name, sizeof b->name, e);
    if (rc == 0)
        rc = json_copy_string(o, "quantisation", b->quant, sizeof b->quant, e);
    if (rc == 0)
        rc = json_copy_string(o, "fingerprint", b->fingerprint, sizeof b->fingerprint, e);
    if (rc == 0)
        rc = small_get(o, "n_layer", &b->n_layer, e);
    if (rc == 0)
        rc = small_get(o, "n_embd", &b->n_embd, e);
    if (rc == 0)
        rc = small_get(o, "n_ff", &b->n_ff, e);
    if (rc == 0)
        rc = small_get(o, "n_head", &b->n_head, e);
    if (rc == 0)
        rc = small_get(o, "n_vocab", &b->n_vocab, e);
    if (rc == 0 && b->arch[0] == '\0')
        rc = err_set(e, ERR_INVALID, "the base has no architecture");
    return rc;
}
