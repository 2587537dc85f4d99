// Holds an adapter's file against its base, so that the model library sees only what it can compute: it
// throws for some of these mistakes, asserts for others and passes over the rest in silence.
#include "base/buf.h"
#include "models/adapters_impl.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#define PAIRS_MAX 8192u
#define RANK_MAX 4096u
#define TYPE_F32 0u
#define TYPE_F16 1u
#define TYPE_Q8_0 8u
#define TYPE_BF16 30u

struct half {
    bool found;
    uint32_t type;
    uint64_t ne[MODELS_GGUF_DIMS], params, bytes, offset;
};

// The two matrices that sit on one of the model's.
struct pair {
    char name[MODELS_GGUF_NAME_MAX]; // of the model's tensor
    struct half a, b;
    bool fits;
};

struct check {
    const struct models_gguf *g; // the adapter's head: read when its tensors are
    struct pair *pairs;
    size_t n;
};

// ---- the adapter's head --------------------------------------------------------------------------

static int head_check(const struct models_gguf *g, struct err *e)
{
    if (strcmp(g->kind, "adapter") != 0)
        return err_set(e, ERR_INVALID,
                       "not an adapter: its general.type is \"%s\"; give a GGUF LoRA adapter",
                       g->kind);
    if (strcmp(g->adapter_type, "lora") != 0)
        return err_set(e, ERR_UNSUPPORTED, "an adapter of type \"%s\"; only lora can be served",
                       g->adapter_type);
    if (g->n_alora_tokens > 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "an adapter that begins at invocation tokens (aLoRA) cannot be served");
    if (!isfinite(g->lora_alpha) || g->lora_alpha < 0)
        return err_set(e, ERR_CORRUPT, "adapter.lora.alpha is %g", (double)g->lora_alpha);
    if (g->split_count > 1)
        return err_set(e, ERR_UNSUPPORTED, "an adapter in %u parts; join them first",
                       g->split_count);
    return 0;
}

// ---- the adapter's tensors -----------------------------------------------------------------------

static struct pair *pair_get(struct check *c, const char *name, size_t n)
{
    // A file has its two halves beside each other, or all of one kind in the order of the other.
    for (size_t i = c->n; i > 0; i--)
        if (strncmp(c->pairs[i - 1].name, name, n) == 0 && c->pairs[i - 1].name[n] == '\0')
            return &c->pairs[i - 1];
    if (c->n >= PAIRS_MAX)
        return NULL;
    if ((c->n & (c->n - 1)) == 0)
        c->pairs = mem_resize(c->pairs, (c->n ? 2 * c->n : 1) * sizeof *c->pairs);
    struct pair *p = &c->pairs[c->n++];
    *p = (struct pair){0};
    memcpy(p->name, name, n);
    return p;
}

static int half_set(struct half *h, const struct models_gguf_tensor *t, struct err *e)
{
    if (h->found)
        return err_set(e, ERR_CORRUPT, "tensor %s occurs twice", t->name);
    if (t->type != TYPE_F32 && t->type != TYPE_F16 && t->type != TYPE_BF16 && t->type != TYPE_Q8_0)
        return err_set(e, ERR_UNSUPPORTED,
                       "tensor %s is %s; an adapter may be f32, f16, bf16 or q8_0", t->name,
                       models_gguf_type_name(t->type));
    *h = (struct half){.found = true,
                       .type = t->type,
                       .params = t->params,
                       .bytes = t->bytes,
                       .offset = t->offset};
    memcpy(h->ne, t->ne, sizeof h->ne);
    return 0;
}

static int half_see(void *ctx, const struct models_gguf_tensor *t, struct err *e)
{
    struct check *c = ctx;
    int rc = c->n == 0 ? head_check(c->g, e) : 0;
    if (rc != 0)
        return rc;
    const char *dot = strrchr(t->name, '.');
    bool a = dot && strcmp(dot, ".lora_a") == 0, b = dot && strcmp(dot, ".lora_b") == 0;
    if (!a && !b)
        return err_set(e, ERR_UNSUPPORTED,
                       "tensor %s is no part of a LoRA adapter (those end in .lora_a or .lora_b); "
                       "train without extra modules",
                       t->name);
    struct pair *p = pair_get(c, t->name, (size_t)(dot - t->name));
    if (!p)
        return err_set(e, ERR_RANGE, "more than %u matrices", PAIRS_MAX);
    return half_set(a ? &p->a : &p->b, t, e);
}

// ---- its values ----------------------------------------------------------------------------------

// Infinities and NaNs have every bit of the exponent set.
static bool value_finite(uint32_t type, const uint8_t *at)
{
    if (type == TYPE_F32)
        return (le_get32(at) & 0x7f800000u) != 0x7f800000u;
    return (le_get16(at) & (type == TYPE_F16 ? 0x7c00u : 0x7f80u)) !=
           (type == TYPE_F16 ? 0x7c00u : 0x7f80u);
}

static bool chunk_finite(uint32_t type, const uint8_t *data, size_t n)
{
    if (type == TYPE_Q8_0) { // blocks of an f16 scale and 32 bytes; a chunk is whole blocks
        for (size_t i = 0; i < n; i += 34)
            if (!value_finite(TYPE_F16, data + i))
                return false;
        return true;
    }
    size_t width = type == TYPE_F32 ? 4 : 2;
    for (size_t i = 0; i < n; i += width)
        if (!value_finite(type, data + i))
            return false;
    return true;
}

static int half_read(const struct models_gguf_source *source, uint64_t at, const struct half *h,
                     const char *name, struct err *e)
{
    enum { CHUNK = 34 * 4096 };
    uint8_t *data = mem_alloc(CHUNK);
    int rc = 0;
    for (uint64_t done = 0; rc == 0 && done < h->bytes;) {
        size_t n = h->bytes - done < CHUNK ? (size_t)(h->bytes - done) : CHUNK;
        rc = source->read(source->ctx, at + done, data, n, e);
        if (rc == 0 && !chunk_finite(h->type, data, n))
            rc = err_set(e, ERR_CORRUPT,
                         "the adapter on %s holds values that are no numbers; its training "
                         "diverged: train again at a smaller learning rate",
                         name);
        done += n;
    }
    free(data);
    return rc;
}

static int values_check(void *ctx, const struct models_gguf_source *source,
                        const struct models_gguf *g, struct err *e)
{
    const struct check *c = ctx;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < c->n; i++) {
        const struct pair *p = &c->pairs[i];
        if (!p->a.found || !p->b.found)
            return err_set(e, ERR_CORRUPT, "%s.lora_%c is missing: the adapter is not whole",
                           p->name, p->a.found ? 'b' : 'a');
        rc = half_read(source, g->head_bytes + p->a.offset, &p->a, p->name, e);
        if (rc == 0)
            rc = half_read(source, g->head_bytes + p->b.offset, &p->b, p->name, e);
    }
    return rc;
}

// ---- against the base ----------------------------------------------------------------------------

static int pair_compare(const void *a, const void *b)
{
    return strcmp(((const struct pair *)a)->name, ((const struct pair *)b)->name);
}

static int pair_fit(struct pair *p, const struct models_gguf_tensor *w, struct err *e)
{
    const uint64_t *a = p->a.ne, *b = p->b.ne;
    // The embedding is looked up, not multiplied: its adapter lies the other way round.
    bool embedding = strcmp(w->name, "token_embd.weight") == 0;
    bool fits = embedding ? w->ne[0] == b[1] && w->ne[1] == a[1] && a[0] == b[0]
                          : w->ne[0] == a[0] && w->ne[1] == b[1] && a[1] == b[0];
    fits = fits && a[2] == w->ne[2] && b[2] == w->ne[2] && a[3] == 1 && b[3] == 1;
    if (w->n_dims < 2)
        return err_set(e, ERR_UNSUPPORTED, "%s is no matrix; an adapter cannot sit on it", w->name);
    if (!fits)
        return err_set(e, ERR_MISMATCH,
                       "%s is [%" PRIu64 ", %" PRIu64 "] in the model, the adapter's halves are "
                       "[%" PRIu64 ", %" PRIu64 "] and [%" PRIu64 ", %" PRIu64 "]; use the base "
                       "it was trained on",
                       w->name, w->ne[0], w->ne[1], a[0], a[1], b[0], b[1]);
    if (b[0] == 0 || b[0] > RANK_MAX)
        return err_set(e, ERR_RANGE, "rank %" PRIu64 " on %s; 1 to %u are possible", b[0], w->name,
                       RANK_MAX);
    p->fits = true;
    return 0;
}

static int weight_see(void *ctx, const struct models_gguf_tensor *w, struct err *e)
{
    struct check *c = ctx;
    struct pair key = {0};
    memcpy(key.name, w->name, sizeof key.name);
    struct pair *p = bsearch(&key, c->pairs, c->n, sizeof *c->pairs, pair_compare);
    return p ? pair_fit(p, w, e) : 0;
}

static int base_check(struct check *c, const char *model, const char *arch, struct err *e)
{
    struct adapters_walk walk = {weight_see, NULL, c};
    struct models_gguf *g = mem_alloc(sizeof *g);
    bool tied = false;
    qsort(c->pairs, c->n, sizeof *c->pairs, pair_compare);
    int rc = adapters_walk_parts(model, &walk, g, e);
    if (rc == 0 && strcmp(g->arch, arch) != 0)
        rc = err_set(e, ERR_MISMATCH,
                     "the adapter is for architecture %s, the model is %s; use the base it was "
                     "trained on",
                     arch, g->arch);
    if (rc == 0) {
        tied = !g->has_output;
        models_gguf_fini(g);
    }
    for (size_t i = 0; rc == 0 && i < c->n; i++) {
        if (!c->pairs[i].fits)
            rc = err_set(e, ERR_MISMATCH,
                         "the model has no tensor %s; use the base that the adapter was trained on",
                         c->pairs[i].name);
        else if (tied && strcmp(c->pairs[i].name, "token_embd.weight") == 0)
            rc = err_set(e, ERR_UNSUPPORTED,
                         "the adapter sits on the embedding, which this model uses as its output "
                         "too; train without it");
    }
    free(g);
    return rc;
}

// ---- the whole -----------------------------------------------------------------------------------

static void facts_fill(const struct models_gguf *g, const struct check *c,
                       struct adapters_facts *out)
{
    *out = (struct adapters_facts){
        .alpha = g->lora_alpha, .matrices = (uint32_t)c->n, .bytes = g->file_bytes};
    memcpy(out->arch, g->arch, sizeof out->arch);
    for (size_t i = 0; i < c->n; i++)
        if (c->pairs[i].b.ne[0] > out->rank)
            out->rank = (uint32_t)c->pairs[i].b.ne[0];
}

static int adapter_check(const char *file, const char *model, struct check *c,
                         struct models_gguf *g, struct err *e)
{
    int rc = head_check(g, e);
    if (rc == 0 && adapters_is_fake(model))
        return strcmp(g->arch, "fake") == 0
                   ? 0
                   : err_set(e, ERR_MISMATCH,
                             "%.200s is for architecture %s, the model is the fake engine", file,
                             g->arch);
    if (rc == 0 && c->n == 0)
        rc = err_set(e, ERR_CORRUPT, "an adapter without matrices");
    if (rc != 0)
        return err_wrap(e, "%.200s", file);
    return base_check(c, model, g->arch, e);
}

int adapters_check(const char *file, const char *model, struct adapters_facts *out, struct err *e)
{
    struct models_gguf *g = mem_alloc(sizeof *g);
    struct check c = {.g = g};
    struct adapters_walk walk = {half_see, values_check, &c};
    struct err own;
    e = e ? e : &own;
    int rc = adapters_walk_parts(file, &walk, g, e);
    if (rc == 0) {
        rc = adapter_check(file, model, &c, g, e);
        if (rc == 0 && out)
            facts_fill(g, &c, out);
        models_gguf_fini(g);
    }
    free(c.pairs);
    free(g);
    return rc;
}
