// Steps inside a step: between two layers of a long chunk, or of a slow answer's step, the caller may compute
// answers that live in caches of their own, so that their pace does not depend on how long that takes.
//
// ggml asks, node by node, which results somebody wants to see, and computes up to there. A layer's last node
// is named l_out in all of llama.cpp's graphs. While the callback runs, the outer step's context is between two
// graphs of its own and nothing of it is in use by a thread; the answers' context is another one.
#include "engine/llama_impl.h"

#include <ggml.h>
#include <string.h>

static bool ends_layer(const struct ggml_tensor *node)
{
    return strncmp(node->name, "l_out-", 6) == 0;
}

static void pause_here(struct llama_engine *g)
{
    g->inside = true;
    g->between(g->between_ctx);
    g->inside = false;
}

bool llama_between_eval(struct ggml_tensor *node, bool ask, void *engine)
{
    struct llama_engine *g = engine;
    bool tile = llama_tile_wants(g, node);
    bool pause = g->pauses && ends_layer(node);
    if (ask)
        return tile || pause;
    if (tile)
        llama_tile_seen(g, node);
    if (pause)
        pause_here(g);
    return true;
}

void llama_between_set(struct engine *base, engine_between_callback *callback, void *ctx)
{
    llama_of(base)->between = callback;
    llama_of(base)->between_ctx = ctx;
}

void llama_between_step(struct llama_engine *g, const struct engine_row *rows, size_t n)
{
    g->pauses = g->between != NULL;
    for (size_t i = 0; i < n; i++)
        g->pauses = g->pauses && !g->seqs[rows[i].seq].settled;
}
