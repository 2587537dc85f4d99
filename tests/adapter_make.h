// Writes LoRA adapters of random values, for tests: large enough to change what a model says.
#ifndef TESTS_ADAPTER_MAKE_H
#define TESTS_ADAPTER_MAKE_H

#include "base/buf.h"
#include "base/random.h"
#include "models/gguf.h"
#include "os/os.h"
#include "tests/gguf_make.h"

#include <stdlib.h>

#define ADAPTER_MAKE_RANK 4u
#define ADAPTER_MAKE_MAX (64u << 20)

struct adapter_make {
    struct models_gguf_tensor *on; // matrices it sits on
    size_t n;
};

static inline int adapter_make_see(void *ctx, const struct models_gguf_tensor *t, struct err *e)
{
    struct adapter_make *m = ctx;
    (void)e;
    if (t->n_dims != 2 ||
        (!strstr(t->name, "attn_v.weight") && !strstr(t->name, "ffn_down.weight")))
        return 0;
    m->on = mem_resize(m->on, (m->n + 1) * sizeof *m->on);
    m->on[m->n++] = *t;
    return 0;
}

static inline void adapter_make_values(struct buf *b, uint64_t n, float scale, uint64_t *state)
{
    uint8_t raw[4];
    for (uint64_t i = 0; i < n; i++) {
        float v = scale * ((float)(random_next(state) >> 40) / (float)(1 << 23) - 1.0f);
        uint32_t bits;
        memcpy(&bits, &v, 4);
        le_put32(raw, bits);
        buf_put(b, raw, 4);
    }
    make_data(b, 0);
}

// 0, or what reading the model or writing said. The larger the scale, the further from the model.
static inline int adapter_make(const char *path, const char *model, uint64_t seed, float scale,
                               struct err *e)
{
    struct adapter_make m = {0};
    struct models_gguf_visitor visitor = {adapter_make_see, &m};
    struct models_gguf *g = mem_alloc(sizeof *g);
    struct buf b;
    uint64_t state = seed, at = 0;
    buf_init(&b, ADAPTER_MAKE_MAX);
    int rc = models_gguf_read_tensors(model, g, &visitor, e);
    if (rc == 0) {
        make_head(&b, 2 * m.n, 4);
        make_key_text(&b, "general.architecture", g->arch);
        make_key_text(&b, "general.type", "adapter");
        make_key_text(&b, "adapter.type", "lora");
        make_text(&b, "adapter.lora.alpha");
        make32(&b, 6);
        make32(&b, 0x40800000); // 4.0, so that the scale is 1
        for (size_t i = 0; i < 2 * m.n; i++) {
            const struct models_gguf_tensor *t = &m.on[i / 2];
            char name[MODELS_GGUF_NAME_MAX + 8];
            uint64_t in = i % 2 ? ADAPTER_MAKE_RANK : t->ne[0];
            uint64_t out = i % 2 ? t->ne[1] : ADAPTER_MAKE_RANK;
            snprintf(name, sizeof name, "%s.lora_%c", t->name, i % 2 ? 'b' : 'a');
            make_tensor(&b, &(struct make_tensor){name, in, out, 0, at});
            at += (in * out * 4 + 31) / 32 * 32;
        }
        make_data(&b, 0);
        for (size_t i = 0; i < m.n; i++) {
            adapter_make_values(&b, m.on[i].ne[0] * ADAPTER_MAKE_RANK, 0.1f, &state);
            adapter_make_values(&b, m.on[i].ne[1] * ADAPTER_MAKE_RANK, scale, &state);
        }
        rc = os_file_write(path, b.data, b.len, 0600, e);
        models_gguf_fini(g);
    }
    buf_fini(&b);
    free(m.on);
    free(g);
    return rc;
}

#endif
