// Loading a model and making the engine around it.
#include "engine/llama_impl.h"

#include "base/buf.h"
#include "base/log.h"
#include "engine/llama_chat.h"
#include "os/os.h"

#include <ggml.h>
#include <gguf.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CTX 8192
#define MIN_OUTPUTS 8 // rows with logits in one step, beyond one per sequence

static void llama_free_engine(struct engine *base);

static const struct engine_ops ops = {
    .name = "llama.cpp",
    .free = llama_free_engine,
    .step = llama_step,
    .logits = llama_step_logits,
    .remove = llama_step_remove,
    .fork = llama_keep_fork,
    .settle = llama_home_settle,
    .rejoin = llama_home_rejoin,
    .settled = llama_home_settled,
    .between_set = llama_between_set,
    .checkpoint_bytes = llama_keep_bytes,
    .checkpoint_save = llama_keep_save,
    .checkpoint_restore = llama_keep_restore,
    .export_bytes = llama_range_bytes,
    .export_start = llama_range_export,
    .export_poll = llama_range_poll,
    .import = llama_range_import,
    .tiles_set = llama_tile_set,
    .import_tile = llama_tile_import,
    .tokenize = llama_text_tokenize,
    .piece = llama_text_piece,
    .is_end = llama_text_is_end,
    .render = llama_text_render,
    .parser_new = llama_parse_new,
    .parser_free = llama_parse_free,
    .parser_put = llama_parse_put,
    .embed = llama_embed_tokens,
    .adapter_load = llama_adapter_load,
    .adapter_drop = llama_adapter_drop,
    .adapter_use = llama_adapter_use,
    .media_render = llama_media_render,
    .media_free = llama_media_free,
    .media_encode = llama_media_encode,
    .media_step = llama_media_step,
    .sampler_new = llama_sample_new,
    .sampler_free = llama_sample_free,
    .sampler_accept = llama_sample_accept,
    .sample = llama_sample_draw,
    .interrupt = llama_step_interrupt,
};

static void llama_free_engine(struct engine *base)
{
    struct llama_engine *g = llama_of(base);
    llama_tile_fini(g);
    llama_range_fini(g);
    llama_home_fini(g);
    llama_embed_fini(g);
    llama_media_close(g);
    llama_chat_free(g->chat);
    if (g->ctx)
        llama_free(g->ctx);
    llama_threads_close(g);
    llama_adapter_fini(g);
    if (g->model)
        llama_model_free(g->model);
    llama_spread_close(g);
    free(g->seqs);
    for (size_t i = 0; i < 2; i++) {
        if (g->pass[i].batch.token)
            llama_batch_free(g->pass[i].batch);
        free(g->pass[i].outputs);
    }
    free(g->shown);
    free(g);
}

// ---- the model ---------------------------------------------------------------------------------

struct progress {
    const struct engine_options *o;
};

static bool on_progress(float share, void *ctx)
{
    const struct engine_options *o = ((struct progress *)ctx)->o;
    o->progress(o->progress_ctx, (double)share);
    return true;
}

static int load_error(const char *path, const char *why, struct err *e)
{
    if (strstr(why, "unknown model architecture") || strstr(why, "unsupported model architecture"))
        return err_set(
            e, ERR_UNSUPPORTED,
            "'%s': llama.cpp %s does not know this architecture (%s); choose another model "
            "or a newer release",
            path, llama_version(), why);
    if (strstr(why, "allocate"))
        return err_set(e, ERR_RANGE,
                       "'%s' does not load: %s; the layers that go to each machine with --spread "
                       "can be set with --tensor-split",
                       path, why);
    return err_set(e, ERR_CORRUPT, "'%s' does not load: %s", path, *why ? why : "no reason given");
}

static int model_load(struct llama_engine *g, const struct engine_options *o,
                      const struct gguf_context *gguf, struct err *e)
{
    struct progress progress = {.o = o};
    struct llama_model_params p = llama_model_default_params();
    p.n_gpu_layers = o->n_gpu_layers;
    if (o->progress) {
        p.progress_callback = on_progress;
        p.progress_callback_user_data = &progress;
    }
    int rc = llama_spread_open(g, o, gguf, &p, e);
    if (rc != 0)
        return rc;
    llama_log_begin();
    g->model = llama_model_load_from_file(o->model, p);
    const char *why = llama_log_end();
    if (!g->model)
        return load_error(o->model, why, e);
    g->vocab = llama_model_get_vocab(g->model);
    return 0;
}

// ---- the context -------------------------------------------------------------------------------

static int type_parse(const char *name, const char *what, enum ggml_type *out, struct err *e)
{
    if (!name)
        name = "f16";
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char *known = ggml_type_name((enum ggml_type)i);
        if (known && strcmp(known, name) == 0) {
            *out = (enum ggml_type)i;
            return 0;
        }
    }
    return err_set(e, ERR_INVALID,
                   "%s type '%s' is not known; say f16, f32, bf16, q8_0, q5_1, q5_0, q4_1 "
                   "or q4_0",
                   what, name);
}

// Positions that were learned end where the training did: llama.cpp aborts beyond.
static uint32_t ctx_choose(const struct llama_engine *g, const struct engine_options *o)
{
    int32_t trained = llama_model_n_ctx_train(g->model);
    uint32_t most = trained > 0 ? (uint32_t)trained : UINT32_MAX;
    if (o->n_ctx == 0)
        return most < DEFAULT_CTX ? most : DEFAULT_CTX;
    if (!g->learned_positions || o->n_ctx <= most)
        return o->n_ctx;
    log_warn("llama",
             "this model knows no positions beyond %u; a context of %u cells is cut to that", most,
             o->n_ctx);
    return most;
}

static int params_fill(struct llama_engine *g, const struct engine_options *o,
                       struct llama_context_params *p, struct err *e)
{
    int threads = o->n_threads > 0 ? o->n_threads : os_cpu_count();
    *p = llama_context_default_params();
    p->n_ctx = ctx_choose(g, o);
    p->n_batch = p->n_ubatch = o->n_batch ? o->n_batch : 512;
    p->n_seq_max = o->n_seq + 1; // the scratch sequence
    p->n_outputs_max = p->n_seq_max > MIN_OUTPUTS ? p->n_seq_max : MIN_OUTPUTS;
    p->n_threads = p->n_threads_batch = threads;
    p->flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO;
    p->kv_unified = true;
    p->swa_full = false;
    p->no_perf = true;
    // Whoever looks between two layers has every layer's graph sent over the network anew.
    p->cb_eval = g->spread ? NULL : llama_between_eval;
    p->cb_eval_user_data = g;
    p->abort_callback = llama_step_aborted;
    p->abort_callback_data = g;
    int rc = type_parse(o->type_k, "K cache", &p->type_k, e);
    return rc != 0 ? rc : type_parse(o->type_v, "V cache", &p->type_v, e);
}

static int context_make(struct llama_engine *g, const struct engine_options *o,
                        struct llama_context_params *p, struct err *e)
{
    if (o->n_seq == 0 || o->n_seq + 1 > llama_max_parallel_sequences())
        return err_set(e, ERR_INVALID, "%u sequences; 1 to %zu are possible", o->n_seq,
                       llama_max_parallel_sequences() - 1);
    int rc = params_fill(g, o, p, e);
    if (rc != 0)
        return rc;
    llama_log_begin();
    g->ctx = llama_init_from_model(g->model, *p);
    const char *why = llama_log_end();
    if (!g->ctx)
        return err_set(e, ERR_ENGINE, "no context of %u cells (K %s, V %s) for '%s': %s", p->n_ctx,
                       ggml_type_name(p->type_k), ggml_type_name(p->type_v), o->model,
                       *why ? why : "no reason given; try a smaller --ctx");
    llama_threads_open(g, p->n_threads);
    llama_threads_attach(g, g->ctx);
    g->mem = llama_get_memory(g->ctx);
    g->max_outputs = p->n_outputs_max;
    return 0;
}

static void tables_make(struct llama_engine *g, const struct engine_options *o)
{
    struct engine_limits *l = &g->base.limits;
    l->n_ctx = llama_n_ctx(g->ctx);
    l->n_seq = o->n_seq;
    l->n_batch = llama_n_batch(g->ctx);
    l->handoff = o->handoff;
    l->has_tokenizer = llama_vocab_type(g->vocab) != LLAMA_VOCAB_TYPE_NONE;
    l->has_chat_template = l->has_tokenizer && llama_model_chat_template(g->model, NULL) != NULL;
    g->scratch = (llama_seq_id)o->n_seq;
    g->recurrent = llama_model_is_recurrent(g->model) || llama_model_is_hybrid(g->model);
    // llama4 slides in whole chunks, whose bounds an import may well begin at.
    g->slides = g->base.identity.n_swa > 0 && strcmp(g->base.identity.arch, "llama4") != 0;
    g->seqs = mem_alloc(o->n_seq * sizeof *g->seqs);
    for (size_t i = 0; i < 2; i++) {
        g->pass[i].outputs = mem_alloc(l->n_batch * sizeof *g->pass[i].outputs);
        g->pass[i].batch = llama_batch_init((int32_t)l->n_batch, 0, 1);
    }
}

// Templates may write calls and reasoning with special tokens, which a parser must see.
static void token_show(void *ctx, int32_t token)
{
    struct llama_engine *g = ctx;
    if (token >= 0 && (uint32_t)token < g->base.identity.n_vocab)
        g->shown[token] = true;
}

// A broken template is no reason not to serve completions.
static void chat_make(struct llama_engine *g)
{
    struct err why;
    g->shown = mem_alloc(g->base.identity.n_vocab * sizeof *g->shown);
    if (!g->base.limits.has_tokenizer)
        return;
    g->chat = llama_chat_new(g->model, "", &why);
    if (g->chat)
        llama_chat_marks(g->chat, g->vocab, token_show, g);
    else
        log_warn("llama", "no chat with this model: %s", why.message);
}

int engine_llama_open(const struct engine_options *o, struct engine **out, struct err *e)
{
    struct gguf_context *gguf = NULL;
    struct llama_engine *g = mem_alloc(sizeof *g);
    struct llama_context_params p;
    g->base.ops = &ops;
    llama_log_init();
    llama_backend_init();
    int rc = llama_file_check(o->model, &gguf, e);
    if (rc == 0)
        rc = model_load(g, o, gguf, e);
    g->learned_positions = gguf && gguf_find_tensor(gguf, "position_embd.weight") >= 0;
    if (rc == 0)
        rc = context_make(g, o, &p, e);
    if (rc == 0) {
        llama_identity_fill(g, o, gguf);
        tables_make(g, o);
        llama_adapter_init(g, o->model);
        chat_make(g);
        rc = llama_range_init(g, e);
        if (rc == 0)
            rc = llama_media_open(g, o, e);
        if (rc == 0) {
            llama_tile_init(g, o->tiles && !g->spread);
            llama_home_init(g, &p);
            llama_embed_init(g, &p);
            llama_keep_init(g);
        }
    }
    if (gguf)
        gguf_free(gguf);
    if (rc != 0) {
        llama_free_engine(&g->base);
        return rc;
    }
    *out = &g->base;
    return 0;
}

const char *engine_llama_release(void)
{
    return llama_version();
}

const char *engine_llama_system(void)
{
    return llama_print_system_info();
}

void engine_llama_allow_gap(struct engine *g, bool on)
{
    llama_of(g)->allow_gap = on;
}

void engine_llama_handoff_set(struct engine *g, enum engine_handoff handoff)
{
    if (llama_of(g)->layout.known)
        g->limits.handoff = handoff;
}

void engine_llama_clear(struct engine *base)
{
    struct llama_engine *g = llama_of(base);
    if (g->mem)
        llama_memory_clear(g->mem, true);
    if (g->streams)
        llama_memory_clear(llama_get_memory(g->streams), true);
    memset(g->seqs, 0, base->limits.n_seq * sizeof *g->seqs);
    g->pass[0].n_rows = g->pass[1].n_rows = 0;
}

struct engine_llama_facts engine_llama_facts_get(const struct engine *base)
{
    const struct llama_engine *g = (const struct llama_engine *)base;
    return (struct engine_llama_facts){
        .has_memory = g->mem != NULL,
        .recurrent = g->recurrent,
        .sliding_window = base->identity.n_swa > 0,
        .layout_known = g->layout.known,
    };
}
