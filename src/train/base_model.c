#include "train/base_model.h"

#include "base/buf.h"

#include <errno.h>
#include <gguf.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const linear_names[BASE_LINEARS] = {
    "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};

const char *base_linear_name(enum base_linear l)
{
    return linear_names[l];
}

// ---- architectures -------------------------------------------------------------------------------

struct arch {
    const char *name;
    int rope_mode;
};

// Llama-shaped: RMS norms, rotary positions, SwiGLU, grouped heads.
static const struct arch archs[] = {
    {"llama", GGML_ROPE_TYPE_NORMAL},
    {"qwen2", GGML_ROPE_TYPE_NEOX},
    {"qwen3", GGML_ROPE_TYPE_NEOX},
};
#define N_ARCHS (sizeof archs / sizeof *archs)

// ---- the file --------------------------------------------------------------------------------------

// One open GGUF; everything below reads through it.
struct file {
    const char *path;
    FILE *stream;
    struct gguf_context *gguf;
    struct base_model *model;
    uint8_t *raw; // of one tensor
    float *values;
    size_t raw_cap, values_cap;
    struct err *e;
};

static int file_open(struct file *f)
{
    struct gguf_init_params p = {.no_alloc = true};
    f->stream = fopen(f->path, "rb");
    if (!f->stream)
        return err_set(f->e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "'%s': %s", f->path,
                       strerror(errno));
    f->gguf = gguf_init_from_file(f->path, p);
    if (!f->gguf)
        return err_set(f->e, ERR_CORRUPT, "'%s' is no whole GGUF file", f->path);
    return 0;
}

static void file_close(struct file *f)
{
    if (f->gguf)
        gguf_free(f->gguf);
    if (f->stream)
        fclose(f->stream);
    free(f->raw);
    free(f->values);
}

static int64_t key_find(const struct file *f, const char *name)
{
    char key[128];
    if (strncmp(name, "general.", 8) == 0 || strncmp(name, "tokenizer.", 10) == 0)
        return gguf_find_key(f->gguf, name);
    snprintf(key, sizeof key, "%s.%s", f->model->arch, name);
    return gguf_find_key(f->gguf, key);
}

// Absent keys leave *out as it is; one of another type is refused.
static int key_u32(struct file *f, const char *name, bool needed, uint32_t *out)
{
    int64_t k = key_find(f, name);
    if (k < 0)
        return needed
                   ? err_set(f->e, ERR_CORRUPT, "'%s' lacks %s.%s", f->path, f->model->arch, name)
                   : 0;
    if (gguf_get_kv_type(f->gguf, k) != GGUF_TYPE_UINT32)
        return err_set(f->e, ERR_UNSUPPORTED, "'%s': %s.%s is not one number for all layers",
                       f->path, f->model->arch, name);
    *out = gguf_get_val_u32(f->gguf, k);
    return 0;
}

static int key_f32(struct file *f, const char *name, float *out)
{
    int64_t k = key_find(f, name);
    if (k < 0)
        return 0;
    if (gguf_get_kv_type(f->gguf, k) != GGUF_TYPE_FLOAT32)
        return err_set(f->e, ERR_CORRUPT, "'%s': %s.%s is no 32-bit fraction", f->path,
                       f->model->arch, name);
    *out = gguf_get_val_f32(f->gguf, k);
    return 0;
}

static const char *key_text(const struct file *f, const char *name)
{
    int64_t k = key_find(f, name);
    return k >= 0 && gguf_get_kv_type(f->gguf, k) == GGUF_TYPE_STRING ? gguf_get_val_str(f->gguf, k)
                                                                      : NULL;
}

// ---- numbers -----------------------------------------------------------------------------------------

static int arch_read(struct file *f)
{
    struct base_model *m = f->model;
    const char *name = key_text(f, "general.architecture");
    const char *kind = key_text(f, "general.type");
    if (kind && strcmp(kind, "model") != 0)
        return err_set(f->e, ERR_INVALID, "'%s' is a GGUF of type %s, not a model", f->path, kind);
    snprintf(m->arch, sizeof m->arch, "%s", name ? name : "(none)");
    for (size_t i = 0; i < N_ARCHS; i++) {
        m->rope_mode = archs[i].rope_mode;
        if (strcmp(archs[i].name, m->arch) == 0)
            return 0;
    }
    return err_set(
        f->e, ERR_UNSUPPORTED,
        "'%s' has architecture %s; the native trainer knows llama, qwen2 and qwen3: use the "
        "PyTorch recipe for others",
        f->path, m->arch);
}

static int rope_read(struct file *f)
{
    struct base_model *m = f->model;
    const char *scaling = key_text(f, "rope.scaling.type");
    float factor = 1;
    m->rope_base = 10000;
    m->n_rot = m->head_dim;
    int rc = key_f32(f, "rope.freq_base", &m->rope_base);
    if (rc == 0)
        rc = key_u32(f, "rope.dimension_count", false, &m->n_rot);
    if (rc == 0)
        rc = key_f32(f, "rope.scaling.factor", &factor);
    if (rc != 0)
        return rc;
    bool linear = scaling && strcmp(scaling, "linear") == 0;
    if (scaling && !linear && strcmp(scaling, "none") != 0)
        return err_set(
            f->e, ERR_UNSUPPORTED,
            "'%s' stretches its positions by %s; only linear scaling can be trained here", f->path,
            scaling);
    m->rope_scale = linear && factor > 0 ? 1 / factor : 1;
    return 0;
}

static int numbers_check(struct file *f)
{
    const struct base_model *m = f->model;
    const struct {
        const char *name;
        uint32_t value, most;
    } rows[] = {
        {"block_count", m->n_layer, BASE_MODEL_LAYERS_MAX},
        {"embedding_length", m->n_embd, 1 << 20},
        {"feed_forward_length", m->n_ff, 1 << 22},
        {"attention.head_count", m->n_head, 1 << 12},
        {"attention.head_count_kv", m->n_head_kv, 1 << 12},
        {"attention.key_length", m->head_dim, 1 << 12},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value == 0 || rows[i].value > rows[i].most)
            return err_set(f->e, ERR_CORRUPT, "'%s': %s.%s is %" PRIu32, f->path, m->arch,
                           rows[i].name, rows[i].value);
    if (m->n_head % m->n_head_kv != 0 || m->n_rot > m->head_dim)
        return err_set(f->e, ERR_UNSUPPORTED,
                       "'%s': %" PRIu32 " heads over %" PRIu32 " KV heads, %" PRIu32 " of %" PRIu32
                       " dimensions turned",
                       f->path, m->n_head, m->n_head_kv, m->n_rot, m->head_dim);
    return 0;
}

static int numbers_read(struct file *f)
{
    struct base_model *m = f->model;
    uint32_t experts = 0;
    int rc = arch_read(f);
    if (rc == 0)
        rc = key_u32(f, "expert_count", false, &experts);
    if (rc == 0 && experts > 0)
        rc = err_set(f->e, ERR_UNSUPPORTED,
                     "'%s' is a mixture of %" PRIu32
                     " experts; the native trainer takes dense models",
                     f->path, experts);
    if (rc == 0)
        rc = key_u32(f, "block_count", true, &m->n_layer);
    if (rc == 0)
        rc = key_u32(f, "embedding_length", true, &m->n_embd);
    if (rc == 0)
        rc = key_u32(f, "feed_forward_length", true, &m->n_ff);
    if (rc == 0)
        rc = key_u32(f, "attention.head_count", true, &m->n_head);
    if (rc != 0)
        return rc;
    m->n_head_kv = m->n_head;
    m->head_dim = m->n_head > 0 ? m->n_embd / m->n_head : 0;
    m->norm_eps = 1e-5f;
    rc = key_u32(f, "attention.head_count_kv", false, &m->n_head_kv);
    if (rc == 0)
        rc = key_u32(f, "attention.key_length", false, &m->head_dim);
    if (rc == 0)
        rc = key_u32(f, "context_length", false, &m->n_ctx_train);
    if (rc == 0)
        rc = key_f32(f, "attention.layer_norm_rms_epsilon", &m->norm_eps);
    if (rc == 0)
        rc = rope_read(f);
    return rc == 0 ? numbers_check(f) : rc;
}

// ---- tensors -----------------------------------------------------------------------------------------

// The tensor's index; its shape must be [ne0, ne1]. -1 and no error where it is absent and not needed.
static int64_t tensor_find(struct file *f, const char *name, int64_t ne0, int64_t ne1, bool needed)
{
    int64_t i = gguf_find_tensor(f->gguf, name);
    if (i < 0) {
        if (needed)
            err_set(f->e, ERR_CORRUPT, "'%s' has no tensor %s", f->path, name);
        return -1;
    }
    const int64_t *ne = gguf_get_tensor_ne(f->gguf, i);
    if (ne[0] == ne0 && ne[1] == ne1 && ne[2] == 1 && ne[3] == 1)
        return i;
    err_set(f->e, ERR_CORRUPT,
            "'%s': tensor %s is [%" PRId64 ", %" PRId64 "], not [%" PRId64 ", %" PRId64 "]",
            f->path, name, ne[0], ne[1], ne0, ne1);
    return -2;
}

static bool fit(void *p, size_t *cap, size_t bytes)
{
    void **at = p;
    if (bytes <= *cap)
        return true;
    void *more = realloc(*at, bytes);
    if (!more)
        return false;
    *at = more;
    *cap = bytes;
    return true;
}

static int raw_read(struct file *f, int64_t i)
{
    size_t n = gguf_get_tensor_size(f->gguf, i);
    uint64_t at = gguf_get_data_offset(f->gguf) + gguf_get_tensor_offset(f->gguf, i);
    if (!fit(&f->raw, &f->raw_cap, n))
        return err_set(f->e, ERR_RANGE, "no memory for tensor %s of %zu bytes",
                       gguf_get_tensor_name(f->gguf, i), n);
    if (fseeko(f->stream, (off_t)at, SEEK_SET) != 0 || fread(f->raw, 1, n, f->stream) != n)
        return err_set(f->e, ERR_CORRUPT, "'%s' ends inside tensor %s", f->path,
                       gguf_get_tensor_name(f->gguf, i));
    return 0;
}

// The tensor as F32 in f->values.
static int values_read(struct file *f, int64_t i, int64_t n)
{
    enum ggml_type type = gguf_get_tensor_type(f->gguf, i);
    const struct ggml_type_traits *t = ggml_get_type_traits(type);
    int rc = raw_read(f, i);
    if (rc != 0)
        return rc;
    if (!fit(&f->values, &f->values_cap, (size_t)n * sizeof(float)))
        return err_set(f->e, ERR_RANGE, "no memory for %" PRId64 " values", n);
    if (type == GGML_TYPE_F32)
        memcpy(f->values, f->raw, (size_t)n * sizeof(float));
    else if (t->to_float)
        t->to_float(f->raw, f->values, n);
    else
        return err_set(f->e, ERR_UNSUPPORTED, "'%s': tensor %s has type %s", f->path,
                       gguf_get_tensor_name(f->gguf, i), t->type_name);
    return 0;
}

// Every tensor goes through here twice: first to be declared, and once memory is there, to be filled.
struct slot {
    struct ggml_tensor **at, **transposed; // transposed may be NULL
    char name[96];
    int64_t ne0, ne1;
    bool needed, keep_type;
};

static int slot_declare(struct file *f, const struct slot *s)
{
    int64_t i = tensor_find(f, s->name, s->ne0, s->ne1, s->needed);
    if (i < 0)
        return i == -1 && !s->needed ? 0 : f->e->code;
    enum ggml_type type = s->keep_type ? gguf_get_tensor_type(f->gguf, i) : GGML_TYPE_F32;
    *s->at = ggml_new_tensor_2d(f->model->ctx, type, s->ne0, s->ne1);
    ggml_set_name(*s->at, s->name);
    if (s->transposed)
        *s->transposed = ggml_new_tensor_2d(f->model->ctx, GGML_TYPE_F32, s->ne1, s->ne0);
    return 0;
}

static int transposed_fill(struct file *f, const struct slot *s)
{
    size_t bytes = (size_t)(s->ne0 * s->ne1) * sizeof(float);
    float *t = malloc(bytes);
    if (!t)
        return err_set(f->e, ERR_RANGE, "no memory to transpose %s", s->name);
    for (int64_t o = 0; o < s->ne1; o++)
        for (int64_t i = 0; i < s->ne0; i++)
            t[i * s->ne1 + o] = f->values[o * s->ne0 + i];
    ggml_backend_tensor_set(*s->transposed, t, 0, bytes);
    free(t);
    return 0;
}

static int slot_fill(struct file *f, const struct slot *s)
{
    int64_t i = *s->at ? gguf_find_tensor(f->gguf, s->name) : -1;
    if (i < 0)
        return 0;
    int rc = s->keep_type ? raw_read(f, i) : values_read(f, i, s->ne0 * s->ne1);
    if (rc != 0)
        return rc;
    const void *from = s->keep_type ? (const void *)f->raw : f->values;
    ggml_backend_tensor_set(*s->at, from, 0, ggml_nbytes(*s->at));
    return s->transposed ? transposed_fill(f, s) : 0;
}

typedef int slot_function(struct file *f, const struct slot *s);

static int vector_slot(struct file *f, slot_function *run, struct ggml_tensor **at,
                       const char *name, int64_t n, bool needed)
{
    struct slot s = {.at = at, .ne0 = n, .ne1 = 1, .needed = needed};
    snprintf(s.name, sizeof s.name, "%s", name);
    return run(f, &s);
}

static int matrix_slot(struct file *f, slot_function *run, struct base_matrix *m, const char *name,
                       const int64_t ne[2])
{
    struct slot s = {.at = &m->w,
                     .transposed = f->model->dense ? &m->transposed : NULL,
                     .ne0 = ne[0],
                     .ne1 = ne[1],
                     .needed = true,
                     .keep_type = !f->model->dense};
    snprintf(s.name, sizeof s.name, "%s", name);
    return run(f, &s);
}

static int linear_slot(struct file *f, slot_function *run, uint32_t layer, enum base_linear l)
{
    const struct base_model *m = f->model;
    int64_t q = (int64_t)m->n_head * m->head_dim, kv = (int64_t)m->n_head_kv * m->head_dim;
    const int64_t shapes[BASE_LINEARS][2] = {
        {m->n_embd, q},       {m->n_embd, kv},      {m->n_embd, kv},     {q, m->n_embd},
        {m->n_embd, m->n_ff}, {m->n_embd, m->n_ff}, {m->n_ff, m->n_embd}};
    struct base_matrix *to = &f->model->layers[layer].linears[l];
    char name[96];
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.weight", layer, linear_names[l]);
    int rc = matrix_slot(f, run, to, name, shapes[l]);
    if (rc != 0)
        return rc;
    snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.bias", layer, linear_names[l]);
    return vector_slot(f, run, &to->bias, name, shapes[l][1], false);
}

static int layer_slots(struct file *f, slot_function *run, uint32_t i)
{
    const struct base_model *m = f->model;
    struct base_layer *l = &f->model->layers[i];
    const struct {
        struct ggml_tensor **at;
        const char *name;
        uint32_t n;
        bool needed;
    } norms[] = {{&l->attn_norm, "attn_norm", m->n_embd, true},
                 {&l->ffn_norm, "ffn_norm", m->n_embd, true},
                 {&l->q_norm, "attn_q_norm", m->head_dim, false},
                 {&l->k_norm, "attn_k_norm", m->head_dim, false}};
    char name[96];
    int rc = 0;
    for (size_t k = 0; rc == 0 && k < 4; k++) {
        snprintf(name, sizeof name, "blk.%" PRIu32 ".%s.weight", i, norms[k].name);
        rc = vector_slot(f, run, norms[k].at, name, norms[k].n, norms[k].needed);
    }
    for (int k = 0; rc == 0 && k < BASE_LINEARS; k++)
        rc = linear_slot(f, run, i, (enum base_linear)k);
    return rc;
}

static int slots_run(struct file *f, slot_function *run)
{
    struct base_model *m = f->model;
    const int64_t vocab[2] = {m->n_embd, m->n_vocab};
    struct slot embeddings = {.at = &m->embeddings,
                              .name = "token_embd.weight",
                              .ne0 = m->n_embd,
                              .ne1 = m->n_vocab,
                              .needed = true};
    bool tied = gguf_find_tensor(f->gguf, "output.weight") < 0;
    int rc = run(f, &embeddings);
    if (rc == 0)
        rc = matrix_slot(f, run, &m->output, tied ? "token_embd.weight" : "output.weight", vocab);
    if (rc == 0)
        rc = vector_slot(f, run, &m->output_norm, "output_norm.weight", m->n_embd, true);
    if (rc == 0)
        rc = vector_slot(f, run, &m->rope_factors, "rope_freqs.weight", m->n_rot / 2, false);
    for (uint32_t i = 0; rc == 0 && i < m->n_layer; i++)
        rc = layer_slots(f, run, i);
    return rc;
}

static int vocab_read(struct file *f)
{
    int64_t i = gguf_find_tensor(f->gguf, "token_embd.weight");
    const int64_t *ne = i >= 0 ? gguf_get_tensor_ne(f->gguf, i) : NULL;
    if (!ne || ne[1] <= 0 || ne[1] > 1 << 24)
        return err_set(f->e, ERR_CORRUPT, "'%s' has no tensor token_embd.weight", f->path);
    f->model->n_vocab = (uint32_t)ne[1];
    return 0;
}

static int weights_read(struct file *f)
{
    struct base_model *m = f->model;
    size_t tensors = 16 + (size_t)m->n_layer * (4 + 3 * BASE_LINEARS);
    struct ggml_init_params p = {.mem_size = tensors * ggml_tensor_overhead(), .no_alloc = true};
    m->layers = mem_alloc(m->n_layer * sizeof *m->layers);
    m->ctx = ggml_init(p);
    int rc = slots_run(f, slot_declare);
    if (rc != 0)
        return rc;
    m->buffer = ggml_backend_alloc_ctx_tensors(m->ctx, m->backend);
    if (!m->buffer)
        return err_set(f->e, ERR_RANGE, "no memory for the weights of '%s'%s", f->path,
                       m->dense ? "; train on them as they are in the file (--weights quantised)"
                                : "");
    return slots_run(f, slot_fill);
}

// ---- opening and closing ---------------------------------------------------------------------------------

int base_model_open(const char *path, ggml_backend_t backend, bool dense, struct base_model **out,
                    struct err *e)
{
    struct base_model *m = mem_alloc(sizeof *m);
    struct file f = {.path = path, .model = m, .e = e};
    m->backend = backend;
    m->dense = dense;
    int rc = file_open(&f);
    if (rc == 0)
        rc = numbers_read(&f);
    if (rc == 0)
        rc = vocab_read(&f);
    if (rc == 0)
        rc = weights_read(&f);
    file_close(&f);
    if (rc == 0)
        *out = m;
    else
        base_model_free(m);
    return rc;
}

void base_model_free(struct base_model *m)
{
    if (!m)
        return;
    if (m->buffer)
        ggml_backend_buffer_free(m->buffer);
    if (m->ctx)
        ggml_free(m->ctx);
    free(m->layers);
    free(m);
}

uint64_t base_model_bytes(const char *path, bool dense, struct err *e)
{
    struct base_model m = {0};
    struct file f = {.path = path, .model = &m, .e = e};
    uint64_t bytes = 0;
    if (file_open(&f) == 0)
        for (int64_t i = 0; i < gguf_get_n_tensors(f.gguf); i++) {
            const int64_t *ne = gguf_get_tensor_ne(f.gguf, i);
            bytes += dense ? (uint64_t)(ne[0] * ne[1]) * (ne[1] > 1 ? 8 : 4)
                           : gguf_get_tensor_size(f.gguf, i);
        }
    file_close(&f);
    return bytes;
}

int base_model_check(const char *path, struct base_model_facts *out, struct err *e)
{
    struct base_model m = {0};
    struct file f = {.path = path, .model = &m, .e = e};
    *out = (struct base_model_facts){0};
    int rc = file_open(&f);
    if (rc == 0)
        rc = numbers_read(&f);
    for (int64_t i = 0; rc == 0 && i < gguf_get_n_tensors(f.gguf); i++) {
        const int64_t *ne = gguf_get_tensor_ne(f.gguf, i);
        const char *name = gguf_get_tensor_name(f.gguf, i), *dot = strrchr(name, '.');
        out->dense_bytes += (uint64_t)(ne[0] * ne[1]) * (ne[1] > 1 ? 8 : 4);
        out->file_bytes += gguf_get_tensor_size(f.gguf, i);
        for (int l = 0; l < BASE_LINEARS && dot && strcmp(dot, ".weight") == 0; l++) {
            const char *kind = base_linear_name((enum base_linear)l);
            size_t n = strlen(kind);
            if ((size_t)(dot - name) > n && strncmp(dot - n, kind, n) == 0 &&
                dot[-(ptrdiff_t)n - 1] == '.')
                out->widths[l] += (uint64_t)(ne[0] + ne[1]);
        }
    }
    file_close(&f);
    free(m.layers);
    return rc;
}
