// What a model file asks of requests, told from the names of its tensors before the library sees it.
#include "image/image.h"

#include "base/buf.h"
#include "models/gguf.h"
#include "models/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAFETENSORS ".safetensors"

// The first that a tensor's name contains decides. The multiples are what the networks halve and
// patch: eight VAE pixels times three halvings of a U-Net, or times a patch of two. Steps and guidance are what
// the models' makers recommend.
static const struct layout {
    const char *part, *name;
    uint32_t multiple, side, steps;
    double cfg;
} layouts[] = {
    {"net.img_embedder.proj1.weight", "minit2i", 0, 512, 20, 3},
    {"joint_blocks.0.", "sd3", 16, 1024, 28, 4.5},
    {"double_stream_modulation_img", "flux2", 16, 1024, 20, 1},
    {"double_blocks.0.img_attn", "flux", 16, 1024, 20, 1},
    {"transformer_blocks.0.img_mod.1.", "qwen-image", 16, 1024, 20, 2.5},
    {"cap_embedder.0.weight", "z-image", 16, 1024, 9, 1},
    {"conditioner.embedders.1.", "sdxl", 64, 1024, 25, 6},
    {"label_emb.0.0.weight", "sdxl", 64, 1024, 25, 6},
    {"cond_stage_model.model.", "sd2", 64, 768, 25, 7},
    {"model.diffusion_model.input_blocks.0.", "sd1", 64, 512, 20, 7},
    {"down_blocks.0.resnets.0.", "sd1", 64, 512, 20, 7},
};
#define N_LAYOUTS (sizeof layouts / sizeof *layouts)
static const struct layout unknown = {"", "unknown", 64, 512, 20, 5};

// Tables of tokens. One with fewer rows than its tokenizer has pieces ends the process when a rare word comes.
static const struct {
    const char *part;
    uint64_t rows;
} tables[] = {
    {"t5xxl.transformer.shared.weight", 32100},
    {"text_model.embeddings.token_embedding.weight", 49408},
    {"cond_stage_model.model.token_embedding.weight", 49408},
};
#define N_TABLES (sizeof tables / sizeof *tables)

#define SMALL_PATCH 16u // the published MiniT2I models have patches of 16 pixels and draw 512x512
#define SMALL_SIDE 64u
#define SMALL_STEPS 8u

struct walk {
    struct image_model *m;
    size_t found; // index in layouts, or N_LAYOUTS
    struct err *e;
};

// `rows` is the slowest dimension, `patch` the fastest of a tensor.
static int tensor_see(struct walk *w, const char *name, uint64_t rows, uint64_t patch)
{
    for (size_t i = 0; i < N_TABLES; i++)
        if (strstr(name, tables[i].part) != NULL && rows < tables[i].rows)
            return err_set(w->e, ERR_UNSUPPORTED,
                           "table %.80s has %llu rows, but its tokenizer gives %llu tokens; "
                           "convert the model anew",
                           name, (unsigned long long)rows, (unsigned long long)tables[i].rows);
    for (size_t i = 0; i < w->found; i++)
        if (strstr(name, layouts[i].part) != NULL) {
            w->found = i;
            if (layouts[i].multiple == 0) // its patch is all that it asks for
                w->m->multiple = patch > 0 && patch <= 256 ? (uint32_t)patch : 1;
        }
    return 0;
}

static int gguf_tensor(void *ctx, const struct models_gguf_tensor *t, struct err *e)
{
    uint32_t last = t->n_dims > 0 ? t->n_dims - 1 : 0;
    (void)e;
    return tensor_see(ctx, t->name, t->ne[last], t->ne[0]);
}

static int gguf_walk(const char *path, struct walk *w)
{
    struct models_gguf *g = mem_alloc(sizeof *g);
    const struct models_gguf_visitor visitor = {gguf_tensor, w};
    int rc = models_gguf_read_tensors(path, g, &visitor, w->e);
    if (rc == 0) {
        w->m->bytes = g->file_bytes;
        models_gguf_fini(g);
    }
    free(g);
    return rc;
}

static int safetensors_walk(const char *path, struct walk *w)
{
    struct models_safetensors s;
    int rc = models_safetensors_read(path, &s, w->e);
    if (rc != 0)
        return rc;
    for (size_t i = 0; i < s.n && rc == 0; i++) {
        const struct models_safetensors_tensor *t = &s.tensors[i];
        rc = tensor_see(w, t->name, t->n_dims > 0 ? t->shape[0] : 1,
                        t->n_dims > 0 ? t->shape[t->n_dims - 1] : 1);
        w->m->bytes = t->at + t->bytes;
    }
    models_safetensors_fini(&s);
    return rc;
}

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

int image_model_read(const char *path, struct image_model *m, struct err *e)
{
    struct walk w = {.m = m, .found = N_LAYOUTS, .e = e};
    *m = (struct image_model){0};
    int rc = ends_in(path, SAFETENSORS) ? safetensors_walk(path, &w) : gguf_walk(path, &w);
    if (rc != 0)
        return strstr(e->message, path) != NULL ? rc : err_wrap(e, "%.250s", path);
    const struct layout *l = w.found < N_LAYOUTS ? &layouts[w.found] : &unknown;
    snprintf(m->layout, sizeof m->layout, "%s", l->name);
    m->side = l->side;
    m->steps = l->steps;
    m->cfg = l->cfg;
    m->edits = l != &unknown;
    if (l->multiple > 0) {
        m->multiple = l->multiple;
        return 0;
    }
    m->square = true;
    if (m->multiple < SMALL_PATCH) {
        m->side = SMALL_SIDE;
        m->steps = SMALL_STEPS;
    }
    return 0;
}
