// Low-rank adapters: loaded beside the model, chosen per sequence, set on a context before it computes.
//
// llama.cpp applies an adapter to a whole context, that is to every row of a step. Setting another one than
// last time makes it plan its graphs anew, which costs as much as a small step; the same one
// again costs nothing. Each of the two caches (llama_home.c) is a context of its own, so that a step inside
// another one may have another adapter.
#include "engine/llama_impl.h"

#include "base/buf.h"
#include "models/adapters.h"

#include <inttypes.h>
#include <stdlib.h>

struct llama_adapters {
    char *model;                                            // path
    struct llama_adapter_lora *loaded[ENGINE_ADAPTERS_MAX]; // by id - 1
    uint32_t *of_seq;                                       // [n_seq]: ids, 0: none
};

void llama_adapter_init(struct llama_engine *g, const char *model)
{
    g->adapters = mem_alloc(sizeof *g->adapters);
    g->adapters->model = mem_strdup(model);
    g->adapters->of_seq = mem_alloc(g->base.limits.n_seq * sizeof *g->adapters->of_seq);
}

// After the contexts and before the model.
void llama_adapter_fini(struct llama_engine *g)
{
    struct llama_adapters *a = g->adapters;
    if (!a)
        return;
    for (uint32_t i = 0; i < ENGINE_ADAPTERS_MAX; i++)
        if (a->loaded[i])
            llama_adapter_lora_free(a->loaded[i]);
    free(a->of_seq);
    free(a->model);
    free(a);
}

static uint32_t id_free(const struct llama_adapters *a)
{
    for (uint32_t i = 0; i < ENGINE_ADAPTERS_MAX; i++)
        if (!a->loaded[i])
            return i + 1;
    return 0;
}

int llama_adapter_load(struct engine *base, const char *path, uint32_t *id, struct err *e)
{
    struct llama_engine *g = llama_of(base);
    *id = id_free(g->adapters);
    if (*id == 0)
        return err_set(e, ERR_BUSY, "%u adapters are loaded already", ENGINE_ADAPTERS_MAX);
    int rc = adapters_check(path, g->adapters->model, NULL, e);
    if (rc != 0)
        return rc;
    llama_log_begin();
    struct llama_adapter_lora *lora = llama_adapter_lora_init(g->model, path);
    const char *why = llama_log_end();
    if (!lora)
        return err_set(e, ERR_ENGINE, "%.200s does not load: %s", path,
                       *why ? why : "no reason given");
    g->adapters->loaded[*id - 1] = lora;
    return 0;
}

// A context may still be set to what is going to be freed.
static void context_clear(struct llama_context *ctx)
{
    if (ctx)
        llama_set_adapters_lora(ctx, NULL, 0, NULL);
}

void llama_adapter_drop(struct engine *base, uint32_t id)
{
    struct llama_engine *g = llama_of(base);
    struct llama_adapters *a = g->adapters;
    if (id == 0 || id > ENGINE_ADAPTERS_MAX || !a->loaded[id - 1])
        return;
    context_clear(g->ctx);
    context_clear(g->streams);
    llama_adapter_lora_free(a->loaded[id - 1]);
    a->loaded[id - 1] = NULL;
    for (uint32_t s = 0; s < base->limits.n_seq; s++)
        if (a->of_seq[s] == id)
            a->of_seq[s] = 0;
}

int llama_adapter_use(struct engine *base, uint32_t seq, uint32_t id, struct err *e)
{
    struct llama_adapters *a = llama_of(base)->adapters;
    if (seq >= base->limits.n_seq)
        return err_set(e, ERR_INVALID, "adapter: sequence %" PRIu32 " of %" PRIu32, seq,
                       base->limits.n_seq);
    if (id > ENGINE_ADAPTERS_MAX || (id > 0 && !a->loaded[id - 1]))
        return err_set(e, ERR_INVALID, "adapter %" PRIu32 " is not loaded", id);
    a->of_seq[seq] = id;
    return 0;
}

int llama_adapter_check(const struct llama_engine *g, const struct engine_row *rows, size_t n,
                        struct err *e)
{
    const uint32_t *of_seq = g->adapters->of_seq;
    for (size_t i = 1; i < n; i++)
        if (of_seq[rows[i].seq] != of_seq[rows[0].seq])
            return err_set(e, ERR_INVALID,
                           "row %zu is of adapter %" PRIu32 ", row 0 of %" PRIu32
                           "; a step has one adapter",
                           i, of_seq[rows[i].seq], of_seq[rows[0].seq]);
    return 0;
}

void llama_adapter_put(const struct llama_engine *g, struct llama_context *ctx, uint32_t seq)
{
    uint32_t id = g->adapters->of_seq[seq];
    float scale = 1;
    if (id == 0)
        llama_set_adapters_lora(ctx, NULL, 0, NULL);
    else
        llama_set_adapters_lora(ctx, &g->adapters->loaded[id - 1], 1, &scale);
}
