// Names and shapes: which module is which matrix of the base, and that everything is there. The settings are
// read in peft_config.c.
#include "models/peft.h"

#include "base/buf.h"
#include "models/file.h"
#include "models/gguf.h"
#include "models/gguf_write.h"
#include "models/peft_impl.h"
#include "models/safetensors.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PREFIX "base_model.model."
#define LAYERS "model.layers."

// ---- what modules are called ---------------------------------------------------------------------

// Architectures whose modules have the names below, in GGUF's word.
static const struct {
    const char *name;
    bool turned; // its conversion changes the order of q's and k's rows
} archs[] = {
    {"llama", true},  {"granite", true}, {"smollm3", true}, {"qwen2", false},
    {"qwen3", false}, {"gemma2", false}, {"gemma3", false},
};
#define N_ARCHS (sizeof archs / sizeof *archs)

enum heads { HEADS_NONE, HEADS_Q, HEADS_K };
static const struct {
    const char *module, *tensor;
    enum heads heads;
} modules[] = {
    {"self_attn.q_proj", "attn_q", HEADS_Q},    {"self_attn.k_proj", "attn_k", HEADS_K},
    {"self_attn.v_proj", "attn_v", HEADS_NONE}, {"self_attn.o_proj", "attn_output", HEADS_NONE},
    {"mlp.gate_proj", "ffn_gate", HEADS_NONE},  {"mlp.up_proj", "ffn_up", HEADS_NONE},
    {"mlp.down_proj", "ffn_down", HEADS_NONE},
};
#define N_MODULES (sizeof modules / sizeof *modules)
#define SLOT_OUTPUT N_MODULES // lm_head, behind all layers

// ---- the base ------------------------------------------------------------------------------------

struct matrix {
    char name[MODELS_GGUF_NAME_MAX];
    uint64_t in, out;
};

struct base {
    struct models_gguf gguf;
    struct matrix *matrices; // sorted by name once all are there
    size_t n;
    bool turned;
};

static int matrix_add(void *ctx, const struct models_gguf_tensor *t, struct err *e)
{
    struct base *b = ctx;
    (void)e;
    if (t->n_dims != 2)
        return 0;
    if ((b->n & (b->n - 1)) == 0) // 1, 2, 4, ...: room for as many again
        b->matrices = mem_resize(b->matrices, (b->n == 0 ? 1 : 2 * b->n) * sizeof *b->matrices);
    struct matrix *m = &b->matrices[b->n++];
    memcpy(m->name, t->name, sizeof m->name);
    m->in = t->ne[0];
    m->out = t->ne[1];
    return 0;
}

static int matrix_compare(const void *a, const void *b)
{
    const struct matrix *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static const struct matrix *matrix_find(const struct base *b, const char *name)
{
    struct matrix key;
    snprintf(key.name, sizeof key.name, "%s", name);
    return b->n > 0 ? bsearch(&key, b->matrices, b->n, sizeof key, matrix_compare) : NULL;
}

static int base_read(const char *path, struct base *b, struct err *e)
{
    struct models_gguf_visitor visitor = {matrix_add, b};
    int rc = models_gguf_read_tensors(path, &b->gguf, &visitor, e);
    if (rc != 0)
        return rc;
    if (b->n > 0)
        qsort(b->matrices, b->n, sizeof *b->matrices, matrix_compare);
    for (size_t i = 0; i < N_ARCHS; i++) {
        b->turned = archs[i].turned;
        if (strcmp(archs[i].name, b->gguf.arch) == 0)
            return 0;
    }
    return err_set(e, ERR_UNSUPPORTED,
                   "%.200s has architecture %.60s; adapters are converted for llama, granite, "
                   "smollm3, qwen2, qwen3, gemma2 and gemma3",
                   path, b->gguf.arch[0] ? b->gguf.arch : "(none)");
}

// ---- the adapter's tensors -----------------------------------------------------------------------

struct entry {
    const struct models_safetensors_tensor *tensor;
    uint32_t layer;
    size_t slot; // in modules[], or SLOT_OUTPUT
    bool is_b;
};

struct conversion {
    const char *folder, *base_path;
    struct peft_config config;
    struct base base;
    struct models_safetensors file;
    struct entry *entries; // in the order in which they are written
    size_t n;
    int fd;
    struct models_gguf_writer writer;
    struct models_peft *told;
    struct err *e;
};

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

// The layer's number behind LAYERS; *rest: the module within the layer.
static bool layer_parse(const char *module, uint32_t *layer, const char **rest)
{
    const char *at = module + strlen(LAYERS);
    uint32_t n = 0;
    if (strncmp(module, LAYERS, strlen(LAYERS)) != 0 || *at < '0' || *at > '9')
        return false;
    for (; *at >= '0' && *at <= '9' && n < MODELS_GGUF_LAYERS_MAX; at++)
        n = 10 * n + (uint32_t)(*at - '0');
    *layer = n;
    *rest = at + 1;
    return *at == '.' && n < MODELS_GGUF_LAYERS_MAX;
}

static int module_unknown(struct conversion *c, const char *name)
{
    if (strstr(name, "embed_tokens") || strstr(name, "lora_embedding") || strstr(name, "wte"))
        return err_set(c->e, ERR_UNSUPPORTED,
                       "%.200s: the adapter changes the embeddings, which no GGUF adapter can say; "
                       "train without \"embed_tokens\" in target_modules and modules_to_save",
                       name);
    if (strstr(name, "lora_magnitude_vector"))
        return err_set(c->e, ERR_UNSUPPORTED,
                       "%.200s: a DoRA adapter; train with use_dora=False, or merge it in PyTorch",
                       name);
    if (ends_with(name, ".bias") || ends_with(name, ".weight"))
        if (!strstr(name, ".lora_"))
            return err_set(c->e, ERR_UNSUPPORTED,
                           "%.200s is trained as a whole, which no GGUF adapter can say; train "
                           "with bias=\"none\" and no modules_to_save",
                           name);
    return err_set(c->e, ERR_UNSUPPORTED,
                   "%.200s is no LoRA matrix of a module that is known; train with "
                   "target_modules among q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                   "down_proj",
                   name);
}

static bool slot_find(const char *module, size_t n, size_t *slot)
{
    for (size_t i = 0; i < N_MODULES; i++)
        if (strlen(modules[i].module) == n && strncmp(modules[i].module, module, n) == 0) {
            *slot = i;
            return true;
        }
    return false;
}

static int entry_parse(struct conversion *c, const struct models_safetensors_tensor *t,
                       struct entry *out)
{
    static const char *const ends[] = {".lora_A.weight", ".lora_B.weight"};
    const char *module, *rest = NULL;
    bool is_b = ends_with(t->name, ends[1]);
    if (strncmp(t->name, PREFIX, strlen(PREFIX)) != 0 || (!is_b && !ends_with(t->name, ends[0])))
        return module_unknown(c, t->name);
    *out = (struct entry){.tensor = t, .is_b = is_b};
    module = t->name + strlen(PREFIX);
    size_t n = strlen(module) - strlen(ends[0]);
    if (n == strlen("lm_head") && strncmp(module, "lm_head", n) == 0) {
        out->layer = UINT32_MAX;
        out->slot = SLOT_OUTPUT;
        return 0;
    }
    if (!layer_parse(module, &out->layer, &rest) || rest > module + n)
        return module_unknown(c, t->name);
    return slot_find(rest, n - (size_t)(rest - module), &out->slot) ? 0
                                                                    : module_unknown(c, t->name);
}

static int entry_compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    if (x->slot != y->slot)
        return x->slot < y->slot ? -1 : 1;
    return (int)x->is_b - (int)y->is_b;
}

// PEFT saves the frozen output beside the LoRA on it: nothing that was trained.
static bool is_frozen(const char *name)
{
    return ends_with(name, ".base_layer.weight");
}

static int entries_make(struct conversion *c)
{
    c->entries = mem_alloc((c->file.n + 1) * sizeof *c->entries);
    for (size_t i = 0; i < c->file.n; i++) {
        const struct models_safetensors_tensor *t = &c->file.tensors[i];
        int rc = is_frozen(t->name) ? 0 : entry_parse(c, t, &c->entries[c->n]);
        if (rc != 0)
            return rc;
        c->n += !is_frozen(t->name);
    }
    if (c->n == 0)
        return err_set(c->e, ERR_INVALID, "%.200s holds no LoRA matrices; was it trained?",
                       c->folder);
    qsort(c->entries, c->n, sizeof *c->entries, entry_compare);
    return 0;
}

// ---- pairs ---------------------------------------------------------------------------------------

static void tensor_name(const struct entry *x, char out[MODELS_GGUF_NAME_MAX])
{
    if (x->slot == SLOT_OUTPUT)
        snprintf(out, MODELS_GGUF_NAME_MAX, "output.weight");
    else
        snprintf(out, MODELS_GGUF_NAME_MAX, "blk.%" PRIu32 ".%s.weight", x->layer,
                 modules[x->slot].tensor);
}

static int missing(struct conversion *c, const struct entry *x, const char *name)
{
    if (x->slot == SLOT_OUTPUT)
        return err_set(c->e, ERR_UNSUPPORTED,
                       "the adapter changes lm_head, but %.200s uses its embeddings as output; "
                       "train without \"lm_head\" in target_modules",
                       c->base_path);
    return err_set(c->e, ERR_MISMATCH, "%.200s has no %s: the adapter (%.150s) is for another base",
                   c->base_path, name, x->tensor->name);
}

static int values_check(struct conversion *c, const struct models_safetensors_tensor *t)
{
    if (t->dtype == MODELS_DTYPE_OTHER)
        return err_set(c->e, ERR_UNSUPPORTED,
                       "%.200s has type %s; F32, F16 and BF16 are converted: save it as one of "
                       "them",
                       t->name, t->dtype_name);
    if (t->n_dims != 2)
        return err_set(c->e, ERR_UNSUPPORTED, "%.200s has %u dimensions, not two", t->name,
                       t->n_dims);
    return 0;
}

static int rank_check(struct conversion *c, const struct models_safetensors_tensor *t,
                      uint64_t rank)
{
    if (rank == c->config.rank)
        return 0;
    return err_set(c->e, ERR_UNSUPPORTED,
                   "%.200s has rank %" PRIu64 ", adapter_config.json says %u for all; train with "
                   "one rank",
                   t->name, rank, c->config.rank);
}

static int pair_check(struct conversion *c, const struct entry *x)
{
    const struct models_safetensors_tensor *a = x[0].tensor, *b = x[1].tensor;
    char name[MODELS_GGUF_NAME_MAX];
    tensor_name(x, name);
    const struct matrix *m = matrix_find(&c->base, name);
    if (!m)
        return missing(c, x, name);
    int rc = values_check(c, a);
    if (rc == 0)
        rc = values_check(c, b);
    if (rc == 0)
        rc = rank_check(c, a, a->shape[0]);
    if (rc == 0)
        rc = rank_check(c, b, b->shape[1]);
    if (rc == 0 && (a->shape[1] != m->in || b->shape[0] != m->out))
        rc = err_set(c->e, ERR_MISMATCH,
                     "%.150s fits a matrix from %" PRIu64 " to %" PRIu64 " values, %s of %.120s is "
                     "from %" PRIu64 " to %" PRIu64 ": the adapter is for another base",
                     a->name, a->shape[1], b->shape[0], name, c->base_path, m->in, m->out);
    return rc;
}

// Entries come as A, B, A, B, ...: each pair is whole and occurs once.
static int pairs_check(struct conversion *c)
{
    for (size_t i = 0; i < c->n; i += 2) {
        const struct entry *x = &c->entries[i];
        bool whole = i + 1 < c->n && !x[0].is_b && x[1].is_b && x[0].layer == x[1].layer &&
                     x[0].slot == x[1].slot;
        if (!whole)
            return err_set(c->e, ERR_CORRUPT,
                           "%.200s has no partner: lora_A and lora_B go in pairs", x->tensor->name);
        int rc = pair_check(c, x);
        if (rc != 0)
            return rc;
    }
    return 0;
}

// ---- rows that change places ---------------------------------------------------------------------

// How many heads the rows of this matrix are of; 0: they stay where they are.
static uint32_t heads_of(const struct conversion *c, const struct entry *x)
{
    const struct models_gguf *g = &c->base.gguf;
    enum heads h = x->slot == SLOT_OUTPUT ? HEADS_NONE : modules[x->slot].heads;
    if (!c->base.turned || !x->is_b || h == HEADS_NONE)
        return 0;
    if (h == HEADS_K && g->has_head_kv)
        return g->head_kv[x->layer];
    return g->n_head;
}

// Where row `to` of a head of n rows comes from: rows i and i + n/2 turn together and become 2i and 2i + 1.
static uint64_t row_source(uint64_t to, uint64_t n)
{
    return to % 2 * (n / 2) + to / 2;
}

static int heads_check(struct conversion *c, const struct entry *x)
{
    uint32_t heads = heads_of(c, x);
    if (!c->base.turned || !x->is_b || x->slot == SLOT_OUTPUT ||
        modules[x->slot].heads == HEADS_NONE)
        return 0;
    if (heads > 0 && x->tensor->shape[0] % (2 * (uint64_t)heads) == 0)
        return 0;
    return err_set(c->e, ERR_MISMATCH,
                   "%.150s has %" PRIu64 " rows, which are not %u heads of whole pairs as %.150s "
                   "says",
                   x->tensor->name, x->tensor->shape[0], heads, c->base_path);
}

// ---- writing -------------------------------------------------------------------------------------

static int row_put(struct conversion *c, const struct entry *x, uint64_t row, bool last)
{
    const struct models_safetensors_tensor *t = x->tensor;
    size_t n = (size_t)t->shape[1], bytes = n * models_dtype_bytes(t->dtype);
    uint8_t *raw = mem_alloc(bytes + 1);
    float *values = mem_alloc((n + 1) * sizeof *values);
    int rc = models_file_get(&c->fd, t->at + row * bytes, raw, bytes, c->e);
    if (rc == 0)
        models_dtype_widen(t->dtype, raw, values, n);
    for (size_t i = 0; rc == 0 && i < n; i++)
        if (!isfinite(values[i]))
            rc = err_set(c->e, ERR_CORRUPT,
                         "%.200s holds values that are no numbers: the training went astray; try a "
                         "smaller learning rate",
                         t->name);
    if (rc == 0)
        rc = models_gguf_write_values(&c->writer, values, n, last, c->e);
    free(raw);
    free(values);
    return rc;
}

static int tensor_put(struct conversion *c, const struct entry *x)
{
    uint64_t rows = x->tensor->shape[0];
    uint32_t heads = heads_of(c, x);
    uint64_t per_head = heads > 0 ? rows / heads : rows;
    int rc = 0;
    for (uint64_t i = 0; rc == 0 && i < rows; i++) {
        uint64_t from =
            heads > 0 ? i / per_head * per_head + row_source(i % per_head, per_head) : i;
        rc = row_put(c, x, from, i + 1 == rows);
    }
    return rc;
}

static void head_make(struct conversion *c)
{
    struct models_gguf_writer *w = &c->writer;
    char name[MODELS_GGUF_NAME_MAX], whole[MODELS_GGUF_NAME_MAX + 16];
    models_gguf_write_text(w, "general.type", "adapter");
    models_gguf_write_text(w, "general.architecture", c->base.gguf.arch);
    models_gguf_write_text(w, "adapter.type", "lora");
    models_gguf_write_float(w, "adapter.lora.alpha", c->config.alpha);
    for (size_t i = 0; i < c->n; i++) {
        const struct entry *x = &c->entries[i];
        tensor_name(x, name);
        snprintf(whole, sizeof whole, "%s.lora_%c", name, x->is_b ? 'b' : 'a');
        models_gguf_write_matrix(w, whole, x->tensor->shape[1], x->tensor->shape[0]);
        c->told->values += x->tensor->values;
    }
    snprintf(c->told->arch, sizeof c->told->arch, "%s", c->base.gguf.arch);
    c->told->rank = c->config.rank;
    c->told->alpha = c->config.alpha;
    c->told->rank_stabilised = c->config.rank_stabilised;
    c->told->matrices = (uint32_t)(c->n / 2);
    c->told->bytes = models_gguf_write_bytes(w);
}

static int adapter_write(struct conversion *c, const char *out)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < c->n; i++)
        rc = heads_check(c, &c->entries[i]);
    if (rc != 0)
        return rc;
    head_make(c);
    rc = models_gguf_writer_open(&c->writer, out, c->e);
    for (size_t i = 0; rc == 0 && i < c->n; i++)
        rc = tensor_put(c, &c->entries[i]);
    return rc ? rc : models_gguf_writer_close(&c->writer, c->e);
}

// ---- the whole -----------------------------------------------------------------------------------

static int weights_open(struct conversion *c)
{
    char *path = mem_format("%s/adapter_model.safetensors", c->folder);
    char *pickle = mem_format("%s/adapter_model.bin", c->folder);
    uint64_t bytes = 0;
    struct err e = {0};
    int rc = 0;
    c->fd = models_file_open(path, "a safetensors file", &bytes, &e);
    if (c->fd == ERR_NOT_FOUND && access(pickle, F_OK) == 0)
        rc = err_set(c->e, ERR_UNSUPPORTED,
                     "%.250s is a Python pickle, which can run code when it is read; save the "
                     "adapter with safe_serialization=True",
                     pickle);
    else if (c->fd < 0)
        rc = err_set(c->e, c->fd,
                     "%.250s: %.150s; the folder should be what PEFT's save_pretrained "
                     "writes",
                     path, e.message);
    if (rc == 0)
        rc = models_safetensors_read(path, &c->file, c->e);
    free(path);
    free(pickle);
    return rc;
}

int models_peft_convert(const char *folder, const char *base, const char *out,
                        struct models_peft *told, struct err *e)
{
    struct conversion *c = mem_alloc(sizeof *c);
    c->folder = folder;
    c->base_path = base;
    c->told = told;
    c->e = e;
    c->fd = -1;
    *told = (struct models_peft){0};
    models_gguf_writer_init(&c->writer);
    int rc = peft_config_read(folder, &c->config, e);
    if (rc == 0)
        rc = base_read(base, &c->base, e);
    if (rc == 0)
        rc = weights_open(c);
    if (rc == 0)
        rc = entries_make(c);
    if (rc == 0)
        rc = pairs_check(c);
    if (rc == 0)
        rc = adapter_write(c, out);
    models_gguf_writer_fini(&c->writer);
    models_safetensors_fini(&c->file);
    models_gguf_fini(&c->base.gguf);
    free(c->base.matrices);
    free(c->entries);
    if (c->fd >= 0)
        close(c->fd);
    free(c);
    return rc;
}
