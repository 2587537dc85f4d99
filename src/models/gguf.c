#include "models/gguf.h"

#include "base/buf.h"
#include "models/gguf_impl.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define KEY_BYTES 256 // of a key that we look at; longer ones are skipped
#define ALIGNMENT_MAX 65536u

// ---- the keys that matter ------------------------------------------------------------------------

enum field_kind {
    FIELD_TEXT,      // cut to its room
    FIELD_NUMBER,    // uint32_t; of an array, the largest element
    FIELD_PER_LAYER, // into `per_layer`; a single number is for all
    FIELD_COUNT,     // how many elements an array has
    FIELD_FLOAT,
    FIELD_TEMPLATE,
};
enum per_layer { LAYERS_HEAD_KV, LAYERS_WINDOW, LAYERS_RECURRENT, LAYERS_FF };

struct field {
    const char *key; // behind "ARCH." where it begins with a dot
    enum field_kind kind;
    size_t offset, bytes; // in struct models_gguf
};
#define TEXT(key, member)                                                                          \
    {                                                                                              \
        key, FIELD_TEXT, offsetof(struct models_gguf, member),                                     \
            sizeof(((struct models_gguf *)0)->member)                                              \
    }
#define NUMBER(key, member)                                                                        \
    {                                                                                              \
        key, FIELD_NUMBER, offsetof(struct models_gguf, member), 4                                 \
    }

static const struct field fields[] = {
    TEXT("general.architecture", arch),
    TEXT("general.name", name),
    TEXT("general.size_label", size_label),
    TEXT("general.license", license),
    TEXT("general.type", kind),
    NUMBER("general.file_type", file_type),
    NUMBER("split.no", split_no),
    NUMBER("split.count", split_count),
    TEXT("tokenizer.ggml.model", tokenizer),
    TEXT("tokenizer.ggml.pre", pre_tokenizer),
    {"tokenizer.ggml.tokens", FIELD_COUNT, offsetof(struct models_gguf, n_vocab), 4},
    {"tokenizer.chat_template", FIELD_TEMPLATE, 0, 0},
    TEXT("adapter.type", adapter_type),
    {"adapter.lora.alpha", FIELD_FLOAT, offsetof(struct models_gguf, lora_alpha), 4},
    {"adapter.alora.invocation_tokens", FIELD_COUNT, offsetof(struct models_gguf, n_alora_tokens),
     4},
    NUMBER(".block_count", n_layer),
    NUMBER(".context_length", n_ctx),
    NUMBER(".embedding_length", n_embd),
    {".feed_forward_length", FIELD_PER_LAYER, LAYERS_FF, 0},
    NUMBER(".attention.head_count", n_head),
    {".attention.head_count_kv", FIELD_PER_LAYER, LAYERS_HEAD_KV, 0},
    NUMBER(".expert_count", n_expert),
    NUMBER(".expert_used_count", n_expert_used),
    NUMBER(".attention.key_length", key_length),
    NUMBER(".attention.value_length", value_length),
    NUMBER(".attention.key_length_swa", key_length_swa),
    NUMBER(".attention.value_length_swa", value_length_swa),
    NUMBER(".attention.key_length_mla", key_length_mla),
    NUMBER(".attention.value_length_mla", value_length_mla),
    NUMBER(".attention.sliding_window", window),
    {".attention.sliding_window_pattern", FIELD_PER_LAYER, LAYERS_WINDOW, 0},
    {".attention.recurrent_layers", FIELD_PER_LAYER, LAYERS_RECURRENT, 0},
    NUMBER(".full_attention_interval", full_interval),
    NUMBER(".attention.shared_kv_layers", shared_kv_layers),
    NUMBER(".nextn_predict_layers", nextn_layers),
    NUMBER(".ssm.conv_kernel", conv_kernel),
    NUMBER(".ssm.inner_size", ssm_inner),
    NUMBER(".ssm.state_size", ssm_state),
    NUMBER(".ssm.group_count", ssm_groups),
    NUMBER(".ssm.time_step_rank", ssm_rank),
    NUMBER(".wkv.head_size", wkv_head),
    NUMBER(".token_shift_count", token_shift),
    NUMBER(".shortconv.l_cache", shortconv_cache),
    NUMBER(".kda.head_dim", kda_head),
};
#define N_FIELDS (sizeof fields / sizeof *fields)
_Static_assert(N_FIELDS <= 64, "one bit each");

static int narrow(struct models_reader *r, const char *key, uint64_t v, uint32_t *out)
{
    if (v > INT32_MAX)
        return err_set(r->e, ERR_RANGE, "key %.80s is %" PRIu64 ", at most %d is allowed", key, v,
                       INT32_MAX);
    *out = (uint32_t)v;
    return 0;
}

static int field_number(struct models_reader *r, const char *key, uint32_t type, uint32_t *out)
{
    uint64_t n = 1, v = 0, most = 0;
    bool array = type == VALUE_ARRAY;
    int rc = array ? models_reader_array(r, key, &type, &n) : 0;
    for (uint64_t i = 0; i < n && rc == 0; i++) {
        rc = models_reader_number(r, type, key, &v);
        most = v > most ? v : most;
    }
    return rc ? rc : narrow(r, key, most, out);
}

static void per_layer_set(struct models_gguf *g, enum per_layer which, uint32_t il, uint32_t v)
{
    if (which == LAYERS_HEAD_KV)
        g->head_kv[il] = v;
    else if (which == LAYERS_WINDOW)
        g->in_window[il] = v != 0;
    else if (which == LAYERS_RECURRENT)
        g->recurrent[il] = v != 0;
    else
        g->has_ff[il] = v != 0;
    if (which == LAYERS_FF && v > g->n_ff)
        g->n_ff = v;
}

static int per_layer_array(struct models_reader *r, const char *key, enum per_layer which)
{
    uint32_t type = 0, small = 0;
    uint64_t n = 0, v = 0;
    int rc = models_reader_array(r, key, &type, &n);
    if (rc == 0 && n > MODELS_GGUF_LAYERS_MAX)
        rc = err_set(r->e, ERR_RANGE, "key %.80s is for %" PRIu64 " layers, at most %u are allowed",
                     key, n, MODELS_GGUF_LAYERS_MAX);
    for (uint64_t i = 0; i < n && rc == 0; i++) {
        rc = models_reader_number(r, type, key, &v);
        if (rc == 0)
            rc = narrow(r, key, v, &small);
        if (rc == 0)
            per_layer_set(r->g, which, (uint32_t)i, small);
    }
    return rc;
}

static int field_per_layer(struct models_reader *r, const char *key, uint32_t type,
                           enum per_layer which)
{
    struct models_gguf *g = r->g;
    uint64_t v = 0;
    uint32_t small = 0;
    bool array = type == VALUE_ARRAY;
    int rc = array ? per_layer_array(r, key, which) : models_reader_number(r, type, key, &v);
    if (rc == 0 && !array)
        rc = narrow(r, key, v, &small);
    if (rc != 0)
        return rc;
    if (!array && which == LAYERS_WINDOW) { // a single number is how often a layer sees all
        g->window_period = small;
        return 0;
    }
    for (uint32_t il = 0; !array && il < MODELS_GGUF_LAYERS_MAX; il++)
        per_layer_set(g, which, il, small);
    g->has_head_kv |= which == LAYERS_HEAD_KV;
    g->has_windows |= which == LAYERS_WINDOW;
    g->has_recurrent |= which == LAYERS_RECURRENT;
    return 0;
}

static int field_template(struct models_reader *r, const char *key, uint32_t type)
{
    uint64_t n = 0;
    if (type != VALUE_STRING)
        return err_set(r->e, ERR_CORRUPT, "damaged: key %s should hold text", key);
    int rc = models_reader_get64(r, &n, key);
    if (rc != 0)
        return rc;
    if (n > models_reader_left(r))
        return models_reader_cut(r, key);
    if (n > MODELS_GGUF_TEMPLATE_MAX)
        return err_set(r->e, ERR_RANGE, "%s has %" PRIu64 " bytes, at most %u are allowed", key, n,
                       MODELS_GGUF_TEMPLATE_MAX);
    r->g->template_text = mem_alloc((size_t)n + 1);
    return models_reader_get(r, r->g->template_text, (size_t)n, key);
}

static int field_count(struct models_reader *r, const char *key, uint32_t type, uint32_t *out)
{
    uint64_t n = 0;
    if (type != VALUE_ARRAY)
        return err_set(r->e, ERR_CORRUPT, "damaged: key %s should hold an array", key);
    int rc = models_reader_array(r, key, &type, &n);
    *out = (uint32_t)n; // at most MODELS_GGUF_ARRAY_MAX
    return rc ? rc : models_reader_elements_skip(r, key, type, n);
}

static int field_float(struct models_reader *r, const char *key, uint32_t type, float *out)
{
    uint32_t raw = 0;
    if (type != VALUE_F32)
        return err_set(r->e, ERR_CORRUPT, "damaged: key %s should hold a 32-bit float", key);
    int rc = models_reader_get32(r, &raw, key);
    memcpy(out, &raw, sizeof *out);
    return rc;
}

// What is shown to people later: no control characters, and no character cut in two.
static void text_clean(char *text)
{
    size_t n = strlen(text), tail = 0;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            text[i] = ' ';
    while (tail < n && tail < 3 && ((unsigned char)text[n - 1 - tail] & 0xc0) == 0x80)
        tail++;
    unsigned char lead = n > tail ? (unsigned char)text[n - 1 - tail] : 0;
    size_t want = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (tail != want)
        text[n - tail - (want > 0)] = '\0';
}

static int field_text(struct models_reader *r, const struct field *f, const char *key, char *out)
{
    int rc = models_reader_text(r, out, f->bytes, NULL, key);
    if (rc == 0)
        text_clean(out);
    return rc;
}

static int field_read(struct models_reader *r, const struct field *f, const char *key,
                      uint32_t type)
{
    uint8_t *at = (uint8_t *)r->g + f->offset;
    switch (f->kind) {
    case FIELD_TEXT:
        if (type != VALUE_STRING)
            return err_set(r->e, ERR_CORRUPT, "damaged: key %s should hold text", key);
        return field_text(r, f, key, (char *)at);
    case FIELD_NUMBER:
        return field_number(r, key, type, (uint32_t *)(void *)at);
    case FIELD_PER_LAYER:
        return field_per_layer(r, key, type, (enum per_layer)f->offset);
    case FIELD_COUNT:
        return field_count(r, key, type, (uint32_t *)(void *)at);
    case FIELD_FLOAT:
        return field_float(r, key, type, (float *)(void *)at);
    case FIELD_TEMPLATE:
        break;
    }
    return field_template(r, key, type);
}

static const struct field *field_find(const struct models_gguf *g, const char *key)
{
    size_t n = strlen(g->arch);
    bool ours = n > 0 && strncmp(key, g->arch, n) == 0 && key[n] == '.';
    for (size_t i = 0; i < N_FIELDS; i++) {
        if (strcmp(fields[i].key, key) == 0 || (ours && strcmp(fields[i].key, key + n) == 0))
            return &fields[i];
    }
    return NULL;
}

static int alignment_read(struct models_reader *r, uint32_t type)
{
    uint32_t v = 0;
    int rc = field_number(r, "general.alignment", type, &v);
    if (rc == 0 && (v == 0 || v > ALIGNMENT_MAX || (v & (v - 1)) != 0))
        return err_set(r->e, ERR_CORRUPT, "damaged: alignment %u is no power of two up to %u", v,
                       ALIGNMENT_MAX);
    r->alignment = v;
    return rc;
}

static int key_read(struct models_reader *r)
{
    char key[KEY_BYTES];
    uint64_t n = 0;
    uint32_t type = 0;
    int rc = models_reader_text(r, key, sizeof key, &n, "a key");
    if (rc == 0)
        rc = models_reader_type(r, &type, key);
    if (rc != 0)
        return rc;
    if (n >= sizeof key || strlen(key) != n)
        return models_reader_value_skip(r, key, type);
    if (strcmp(key, "general.alignment") == 0)
        return alignment_read(r, type);
    const struct field *f = field_find(r->g, key);
    r->missed |= !f && r->g->arch[0] == '\0';
    if (!f)
        return models_reader_value_skip(r, key, type);
    uint64_t bit = 1ull << (f - fields);
    if (r->seen & bit)
        return err_set(r->e, ERR_CORRUPT, "damaged: key %s occurs twice", key);
    r->seen |= bit;
    return field_read(r, f, key, type);
}

// ---- tensors -------------------------------------------------------------------------------------

static int dims_read(struct models_reader *r, struct models_gguf_tensor *t)
{
    int rc = models_reader_get32(r, &t->n_dims, t->name);
    if (rc == 0 && t->n_dims > MODELS_GGUF_DIMS)
        return err_set(r->e, ERR_CORRUPT, "damaged: tensor %s has %u dimensions; at most %d exist",
                       t->name, t->n_dims, MODELS_GGUF_DIMS);
    t->params = 1;
    for (uint32_t i = 0; i < MODELS_GGUF_DIMS; i++)
        t->ne[i] = 1;
    for (uint32_t i = 0; i < t->n_dims && rc == 0; i++) {
        rc = models_reader_get64(r, &t->ne[i], t->name);
        if (rc == 0 &&
            (__builtin_mul_overflow(t->params, t->ne[i], &t->params) || t->params > INT64_MAX))
            return err_set(r->e, ERR_CORRUPT, "damaged: tensor %s is too large to be true",
                           t->name);
    }
    return rc;
}

static int tensor_size(struct models_reader *r, struct models_gguf_tensor *t)
{
    uint64_t row = t->ne[0], row_bytes = 0, rows = row > 0 ? t->params / row : 0;
    if (!models_gguf_type_name(t->type))
        return err_set(r->e, ERR_UNSUPPORTED,
                       "tensor %s has type %u, which this release does not know; use a newer one "
                       "or another file",
                       t->name, t->type);
    if (!models_gguf_row_bytes(t->type, row, &row_bytes) ||
        __builtin_mul_overflow(row_bytes, rows, &t->bytes))
        return err_set(r->e, ERR_CORRUPT, "damaged: tensor %s has rows of %" PRIu64 " %s elements",
                       t->name, row, models_gguf_type_name(t->type));
    if (t->offset % r->alignment != 0)
        return err_set(r->e, ERR_CORRUPT,
                       "damaged: tensor %s begins at %" PRIu64 ", not at a "
                       "multiple of %u",
                       t->name, t->offset, r->alignment);
    return 0;
}

static int tensor_read(struct models_reader *r, struct models_gguf_tensor *t)
{
    uint64_t n = 0;
    int rc = models_reader_text(r, t->name, sizeof t->name, &n, "a tensor's name");
    if (rc == 0 && n >= sizeof t->name)
        rc = err_set(r->e, ERR_CORRUPT, "damaged: a tensor's name has %" PRIu64 " bytes", n);
    if (rc == 0)
        rc = dims_read(r, t);
    if (rc == 0)
        rc = models_reader_get32(r, &t->type, t->name);
    if (rc == 0)
        rc = models_reader_get64(r, &t->offset, t->name);
    return rc ? rc : tensor_size(r, t);
}

static void tensor_count(struct models_gguf *g, const struct models_gguf_tensor *t)
{
    g->types[t->type].tensors++;
    g->types[t->type].params += t->params;
    g->types[t->type].bytes += t->bytes;
    g->params += t->params;
    g->weight_bytes += t->bytes;
    if (strstr(t->name, "_exps."))
        g->expert_bytes += t->bytes;
    if (strcmp(t->name, "token_embd.weight") == 0)
        g->embedding_bytes += t->bytes;
    g->has_output |= strcmp(t->name, "output.weight") == 0;
}

// Every tensor is within the bytes that may follow the head, and so is their sum: no count overflows.
static int tensors_read(struct models_reader *r)
{
    struct models_gguf_tensor t;
    uint64_t end = 0, stop, bytes = r->source->bytes;
    int rc = 0;
    for (uint64_t i = 0; i < r->g->tensors && rc == 0; i++) {
        rc = tensor_read(r, &t);
        if (rc == 0 && (__builtin_add_overflow(t.offset, t.bytes, &stop) || stop > INT64_MAX))
            rc = err_set(r->e, ERR_CORRUPT, "damaged: tensor %s ends beyond any file", t.name);
        if (rc != 0)
            return rc;
        end = stop > end ? stop : end;
        if (t.params > INT64_MAX - r->g->params || t.bytes > INT64_MAX - r->g->weight_bytes)
            return err_set(r->e, ERR_CORRUPT, "damaged: its tensors are too large to be true");
        tensor_count(r->g, &t);
        rc = r->visitor ? r->visitor->tensor(r->visitor->ctx, &t, r->e) : 0;
    }
    if (rc != 0)
        return rc;
    r->g->head_bytes = (r->at + r->alignment - 1) / r->alignment * r->alignment;
    if (r->g->tensors > 0 && (r->g->head_bytes > bytes || end > bytes - r->g->head_bytes))
        return err_set(r->e, ERR_CORRUPT,
                       "cut short: %" PRIu64 " bytes of %" PRIu64 "; fetch the file again", bytes,
                       r->g->head_bytes + end);
    return 0;
}

// ---- the whole -----------------------------------------------------------------------------------

static int magic_check(struct models_reader *r)
{
    uint8_t raw[4] = {0};
    int rc = models_reader_left(r) >= 4 ? models_reader_get(r, raw, 4, "its first bytes") : 0;
    if (rc != 0)
        return rc;
    if (memcmp(raw, "GGUF", 4) != 0)
        return err_set(r->e, ERR_CORRUPT,
                       "not a GGUF file (it starts with %02x %02x %02x %02x, not \"GGUF\")", raw[0],
                       raw[1], raw[2], raw[3]);
    rc = models_reader_get32(r, &r->g->version, "its version");
    if (rc == 0 && r->g->version != 2 && r->g->version != 3)
        return err_set(r->e, ERR_UNSUPPORTED, "a GGUF file of version %u; 2 and 3 can be read",
                       r->g->version);
    return rc;
}

static int counts_read(struct models_reader *r)
{
    struct models_gguf *g = r->g;
    int rc = models_reader_get64(r, &g->tensors, "its counts");
    if (rc == 0)
        rc = models_reader_get64(r, &g->keys, "its counts");
    if (rc == 0 && (g->tensors > MODELS_GGUF_TENSORS_MAX || g->keys > MODELS_GGUF_KEYS_MAX))
        return err_set(r->e, ERR_RANGE,
                       "%" PRIu64 " tensors and %" PRIu64 " keys; at most %u and %u are allowed",
                       g->tensors, g->keys, MODELS_GGUF_TENSORS_MAX, MODELS_GGUF_KEYS_MAX);
    // The least a key (8 + 4 + 1) and a tensor (8 + 4 + 4 + 8) take.
    if (rc == 0 &&
        (g->keys > models_reader_left(r) / 13 || g->tensors > models_reader_left(r) / 24))
        return models_reader_cut(r, "what its counts promise");
    return rc;
}

static int shape_check(struct models_reader *r)
{
    const struct models_gguf *g = r->g;
    if (g->n_layer > MODELS_GGUF_LAYERS_MAX)
        return err_set(r->e, ERR_RANGE, "%u layers; at most %u are allowed", g->n_layer,
                       MODELS_GGUF_LAYERS_MAX);
    if (g->split_count > MODELS_GGUF_SPLITS_MAX ||
        (g->split_count > 0 && g->split_no >= g->split_count))
        return err_set(r->e, ERR_CORRUPT, "damaged: part %u of %u", g->split_no + 1,
                       g->split_count);
    return 0;
}

static int keys_read(struct models_reader *r)
{
    uint64_t begin = r->at;
    int rc = 0;
    for (uint64_t i = 0; rc == 0 && i < r->g->keys; i++)
        rc = key_read(r);
    if (rc != 0 || !r->missed || r->g->arch[0] == '\0')
        return rc;
    // Writers put the architecture first, but need not: now that it is known, once more.
    models_gguf_fini(r->g);
    r->at = begin;
    r->seen = 0;
    r->missed = false;
    for (uint64_t i = 0; rc == 0 && i < r->g->keys; i++)
        rc = key_read(r);
    return rc;
}

int models_gguf_parse(const struct models_gguf_source *s, struct models_gguf *g, struct err *e)
{
    return models_gguf_walk(s, g, NULL, e);
}

int models_gguf_walk(const struct models_gguf_source *s, struct models_gguf *g,
                     const struct models_gguf_visitor *visitor, struct err *e)
{
    struct models_reader *r = mem_alloc(sizeof *r);
    *g = (struct models_gguf){.file_type = MODELS_GGUF_NONE, .file_bytes = s->bytes};
    r->source = s;
    r->g = g;
    r->visitor = visitor;
    r->e = e;
    r->alignment = 32;
    int rc = magic_check(r);
    if (rc == 0)
        rc = counts_read(r);
    if (rc == 0)
        rc = keys_read(r);
    if (rc == 0)
        rc = shape_check(r);
    if (rc == 0)
        rc = tensors_read(r);
    if (rc != 0)
        models_gguf_fini(g);
    free(r);
    return rc;
}

void models_gguf_fini(struct models_gguf *g)
{
    free(g->template_text);
    g->template_text = NULL;
}
