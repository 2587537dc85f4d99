// Embeddings: a second context of the same model, without the chats' cache, made when the first text
// comes. It reads a text in one go, because pooling adds up one batch.
#include "engine/llama_impl.h"

#include "base/buf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define EMBED_TOKENS_MAX 2048

// ---- what the model makes -----------------------------------------------------------------------

// As the file says, whose default is no pooling at all: an embedding is one vector, so the mean then.
static enum llama_pooling_type pooling_of(const struct llama_engine *g)
{
    char key[128], value[16];
    snprintf(key, sizeof key, "%s.pooling_type", g->base.identity.arch);
    if (llama_model_meta_val_str(g->model, key, value, sizeof value) <= 0)
        return LLAMA_POOLING_TYPE_MEAN;
    long type = strtol(value, NULL, 10);
    return type > LLAMA_POOLING_TYPE_NONE && type <= LLAMA_POOLING_TYPE_RANK
               ? (enum llama_pooling_type)type
               : LLAMA_POOLING_TYPE_MEAN;
}

void llama_embed_init(struct llama_engine *g, const struct llama_context_params *shared)
{
    struct engine_limits *l = &g->base.limits;
    uint32_t n = g->base.identity.n_ctx_train;
    l->ranks = pooling_of(g) == LLAMA_POOLING_TYPE_RANK;
    // Our callers know one width. Some models project their embeddings to another.
    bool fits = l->ranks || (uint32_t)llama_model_n_embd_out(g->model) == g->base.identity.n_embd;
    l->n_embed_tokens = !fits ? 0 : n > 0 && n < EMBED_TOKENS_MAX ? n : EMBED_TOKENS_MAX;
    g->embed_params = *shared;
}

// ---- computing ----------------------------------------------------------------------------------

static int context_open(struct llama_engine *g, struct err *e)
{
    struct llama_context_params p = g->embed_params;
    uint32_t n = g->base.limits.n_embed_tokens;
    if (g->embed)
        return 0;
    p.n_ctx = p.n_batch = p.n_ubatch = p.n_outputs_max = n;
    p.n_seq_max = 1;
    p.embeddings = true;
    p.pooling_type = pooling_of(g);
    p.cb_eval = NULL;
    p.cb_eval_user_data = NULL;
    llama_log_begin();
    g->embed = llama_init_from_model(g->model, p);
    const char *why = llama_log_end();
    if (g->embed)
        llama_threads_attach(g, g->embed);
    else
        return err_set(e, ERR_ENGINE, "no context for embeddings of %" PRIu32 " tokens: %s", n,
                       *why ? why : "no reason given; free some memory");
    return 0;
}

static int tokens_check(const struct llama_engine *g, const int32_t *tokens, size_t n,
                        struct err *e)
{
    uint32_t most = g->base.limits.n_embed_tokens, n_vocab = g->base.identity.n_vocab;
    if (most == 0)
        return err_set(e, ERR_UNSUPPORTED, "model '%s' makes no embeddings that can be served",
                       g->base.identity.model);
    if (n == 0 || n > most)
        return err_set(e, ERR_INVALID, "an embedding of %zu tokens; 1 to %" PRIu32 " are possible",
                       n, most);
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= n_vocab)
            return err_set(e, ERR_INVALID,
                           "token %" PRId32 " at %zu is outside the vocabulary of %" PRIu32,
                           tokens[i], i, n_vocab);
    return 0;
}

static int compute(struct llama_engine *g, const int32_t *tokens, size_t n)
{
    struct llama_batch batch = llama_batch_init((int32_t)n, 0, 1);
    llama_memory_t mem = llama_get_memory(g->embed);
    for (size_t i = 0; i < n; i++) {
        batch.token[i] = tokens[i];
        batch.pos[i] = (llama_pos)i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = true;
    }
    batch.n_tokens = (int32_t)n;
    if (mem)
        llama_memory_clear(mem, false);
    int rc = llama_model_has_encoder(g->model) ? llama_encode(g->embed, batch)
                                               : llama_decode(g->embed, batch);
    if (rc == 0)
        llama_synchronize(g->embed);
    llama_batch_free(batch);
    return rc;
}

static int embedding_copy(struct llama_engine *g, float *out, struct err *e)
{
    const float *pooled = llama_get_embeddings_seq(g->embed, 0);
    uint32_t n = g->base.limits.ranks ? 1 : g->base.identity.n_embd;
    double sum = 0;
    if (!pooled)
        return err_set(e, ERR_ENGINE, "model '%s' gave no embedding", g->base.identity.model);
    for (uint32_t i = 0; i < n; i++)
        sum += (double)pooled[i] * (double)pooled[i];
    double length = g->base.limits.ranks || !(sum > 0) ? 1 : sqrt(sum);
    if (!isfinite(length) || isnan(sum))
        return err_set(e, ERR_ENGINE, "the embedding of model '%s' is not finite",
                       g->base.identity.model);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (float)((double)pooled[i] / length);
    return 0;
}

int llama_embed_tokens(struct engine *base, const int32_t *tokens, size_t n, float *out,
                       struct err *e)
{
    struct llama_engine *g = llama_of(base);
    int rc = tokens_check(g, tokens, n, e);
    if (rc == 0)
        rc = context_open(g, e);
    if (rc != 0)
        return rc;
    if (atomic_load_explicit(&g->interrupted, memory_order_relaxed))
        return err_set(e, ERR_CANCELLED, "the embedding was interrupted");
    g->embedding = true; // nothing that outlives the text is at stake: any model may be interrupted
    llama_log_begin();
    rc = compute(g, tokens, n);
    const char *why = llama_log_end();
    g->embedding = false;
    if (rc == 2)
        return err_set(e, ERR_CANCELLED, "the embedding was interrupted");
    if (rc != 0)
        return err_set(e, ERR_ENGINE, "llama.cpp could not embed %zu tokens (%d%s%s)", n, rc,
                       *why ? ": " : "", why);
    return embedding_copy(g, out, e);
}

void llama_embed_fini(struct llama_engine *g)
{
    if (g->embed)
        llama_free(g->embed);
}
