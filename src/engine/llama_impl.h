// What the files of the llama.cpp engine share. Private to engine/llama*.c.
//
// Owner: the engine thread, but for `interrupted` (any thread) and what the text calls read
// (`vocab`, `chat`: immutable after loading).
//
// Positions are ours: `held` says how many a sequence has, and every call is checked against it,
// because llama.cpp answers a wrong position with an assert. One sequence more than the caller sees
// (`scratch`) is the place where a range stands alone while it is written or read.
#ifndef ENGINE_LLAMA_IMPL_H
#define ENGINE_LLAMA_IMPL_H

#include "engine/blob.h"
#include "engine/engine.h"
#include "engine/llama_engine.h"
#include "engine/spread.h"

#include <llama.h>
#include <stdatomic.h>

struct gguf_context;
struct llama_adapters;
struct llama_chat;
struct llama_media;
struct llama_spread;
struct llama_tiles;

// Where the logits of a row of the last step are.
struct llama_output {
    bool wanted, settled;
    int32_t index; // in the batch of its context
};

// A step: what llama.cpp is given, and what is known of its rows afterwards.
struct llama_pass {
    struct llama_batch batch;     // n_batch rows, one sequence id each
    struct llama_output *outputs; // n_batch
    size_t n_rows;                // of the last step; 0: it failed
};

#define LLAMA_SHIFTS 64

// A piece of an image whose rows share positions (M-RoPE): what comes after it is not where it is counted.
struct llama_shift {
    uint32_t at, rows, positions;
};

// A sequence as the caller knows it.
struct llama_seq {
    uint32_t held;        // positions [0, held) are in the cache
    uint32_t next;        // scratch of step: the position a further row must have
    bool incomplete;      // late state: attention rows came in, the recurrent state did not yet
    uint32_t window_from; // sliding-window layers hold [window_from, held) without gaps
    bool settled;         // lives in the cache of its own
    uint32_t n_shifts;
    struct llama_shift shifts[LLAMA_SHIFTS]; // ascending
};

struct llama_engine {
    struct engine base;
    struct llama_model *model;
    struct llama_context *ctx;
    llama_memory_t mem;            // NULL: the model keeps none
    struct llama_context *streams; // with a cache for each sequence; NULL: not needed yet
    struct llama_context_params stream_params; // what it is made with
    uint8_t *staging;                          // for moves between the two
    size_t staging_cap;
    struct llama_context *embed;              // for embeddings; NULL: not needed yet
    struct llama_context_params embed_params; // what it is made from
    bool embedding;                           // it is computing
    const struct llama_vocab *vocab;
    struct llama_chat *chat;   // NULL: no tokenizer
    bool *shown;               // n_vocab: special tokens whose text is part of an answer
    struct llama_media *media; // NULL: no projector

    struct llama_pass pass[2]; // [1]: of a step inside another one
    struct llama_seq *seqs;    // limits.n_seq
    llama_seq_id scratch;      // == limits.n_seq
    uint32_t max_outputs;      // rows of one step that may want logits

    engine_between_callback *between; // NULL: nobody wants to be called
    void *between_ctx;
    bool pauses;                     // the step in progress does
    bool inside;                     // the callback runs
    struct ggml_threadpool *threads; // of all contexts; NULL: no CPU backend, or one thread
    void (*threads_free)(struct ggml_threadpool *);

    bool recurrent; // some layers keep a state: no partial removal, no interruption inside a step
    bool slides;    // some layers hold the last n_swa positions only
    bool learned_positions; // a table of them: there are none beyond n_ctx_train
    bool allow_gap;
    atomic_bool interrupted; // relaxed: a late sight of it only delays the interruption by a node

    bool exporting;
    size_t export_len;

    struct llama_adapters *adapters;
    struct llama_spread *spread; // NULL: all layers are on this machine

    struct blob_layout layout;
    struct blob_scratch blob_scratch;
    struct llama_tiles *tiles; // NULL: a layout without tiles
};

static inline struct llama_engine *llama_of(struct engine *g)
{
    return (struct llama_engine *)g;
}

// ---- llama_log.c: llama.cpp's own log --------------------------------------------------------
// Its lines go to our log at debug level. Between begin and end, the first error line of this
// thread is also kept for a message.
void llama_log_init(void);
void llama_log_begin(void);
const char *llama_log_end(void); // "" when there was none; valid until the next begin
// Around what may print a client's schema or grammar, for that is none of the log's business. In pairs, on any
// thread.
void llama_log_hush(void);
void llama_log_speak(void);

// ---- llama_file.c: the GGUF file itself ------------------------------------------------------
// Tells an absent, foreign, cut short file apart before llama.cpp sees it. *out is to be freed with
// gguf_free.
int llama_file_check(const char *path, struct gguf_context **out, struct err *e);
// XXH3 of tensor names, shapes and types and of samples of their bytes.
uint64_t llama_file_hash(const char *path, const struct gguf_context *gguf);

// ---- llama_identity.c --------------------------------------------------------------------------
void llama_identity_fill(struct llama_engine *g, const struct engine_options *o,
                         const struct gguf_context *gguf);

// ---- llama_range.c -----------------------------------------------------------------------------
int llama_range_init(struct llama_engine *g, struct err *e);
void llama_range_fini(struct llama_engine *g);
size_t llama_range_bytes(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last);
int llama_range_export(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                       void *buf, size_t cap, struct err *e);
int llama_range_poll(struct engine *g, size_t *len, struct err *e);
int llama_range_import(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                       const void *data, size_t len, struct err *e);

// ---- llama_tile.c ------------------------------------------------------------------------------
struct ggml_tensor;
// Whether this node's result is wanted; then it is computed and llama_tile_seen is called.
bool llama_tile_wants(struct llama_engine *g, const struct ggml_tensor *node);
void llama_tile_seen(struct llama_engine *g, struct ggml_tensor *node);
// Finds out whether tiles fit this model, and with `eval` (the eval callback is installed) whether a step
// shows them. After llama_range_init.
void llama_tile_init(struct llama_engine *g, bool eval);
void llama_tile_fini(struct llama_engine *g);
// A step of rows begins: its tiles are delivered if all rows are of one sequence.
void llama_tile_step(struct llama_engine *g, const struct engine_row *rows, size_t n);
int llama_tile_set(struct engine *g, engine_tile_callback *callback, void *ctx);
int llama_tile_import(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, uint32_t layer,
                      const void *data, size_t len, struct err *e);

// ---- llama_home.c ------------------------------------------------------------------------------
// After llama_range_init; `shared`: the parameters of g->ctx.
void llama_home_init(struct llama_engine *g, const struct llama_context_params *shared);
void llama_home_fini(struct llama_engine *g);
int llama_home_settle(struct engine *g, uint32_t seq, uint32_t upto, struct err *e);
int llama_home_rejoin(struct engine *g, uint32_t seq, struct err *e);
// Brings a settled sequence back into the shared cache.
int llama_home_return(struct llama_engine *g, uint32_t seq, struct err *e);
// Memory for the state of a sequence, kept from use to use; NULL: there is none.
uint8_t *llama_home_staging(struct llama_engine *g, size_t bytes);
llama_memory_t llama_home_memory(const struct llama_engine *g, uint32_t seq);
bool llama_home_settled(const struct engine *g, uint32_t seq);

// ---- llama_between.c ---------------------------------------------------------------------------
bool llama_between_eval(struct ggml_tensor *node, bool ask, void *engine); // ggml's eval callback
void llama_between_set(struct engine *g, engine_between_callback *callback, void *ctx);
// A step of rows begins: it is paused between layers if that is wanted and possible.
void llama_between_step(struct llama_engine *g, const struct engine_row *rows, size_t n);

// ---- llama_threads.c ---------------------------------------------------------------------------
// Threads that all contexts of the engine compute on, one context at a time. Without them ggml starts new
// ones for every graph.
void llama_threads_open(struct llama_engine *g, int n);
void llama_threads_attach(const struct llama_engine *g, struct llama_context *ctx);
void llama_threads_close(struct llama_engine *g);

// ---- llama_adapter.c ---------------------------------------------------------------------------
void llama_adapter_init(struct llama_engine *g, const char *model);
void llama_adapter_fini(struct llama_engine *g);
int llama_adapter_load(struct engine *g, const char *path, uint32_t *id, struct err *e);
void llama_adapter_drop(struct engine *g, uint32_t id);
int llama_adapter_use(struct engine *g, uint32_t seq, uint32_t id, struct err *e);
// ERR_INVALID: rows of several adapters.
int llama_adapter_check(const struct llama_engine *g, const struct engine_row *rows, size_t n,
                        struct err *e);
// Before anything is computed for seq on that context.
void llama_adapter_put(const struct llama_engine *g, struct llama_context *ctx, uint32_t seq);

// ---- llama_spread.c ----------------------------------------------------------------------------
// Puts o->lenders, if there are any, into what the model is loaded with.
int llama_spread_open(struct llama_engine *g, const struct engine_options *o,
                      const struct gguf_context *gguf, struct llama_model_params *p, struct err *e);
void llama_spread_close(struct llama_engine *g);

// ---- llama_keep.c ------------------------------------------------------------------------------
void llama_keep_init(struct llama_engine *g); // says what can be cut
int llama_keep_fork(struct engine *g, uint32_t src, uint32_t dst, uint32_t p1, struct err *e);
size_t llama_keep_bytes(struct engine *g, uint32_t seq);
int llama_keep_save(struct engine *g, uint32_t seq, void *buf, size_t cap, size_t *len,
                    struct err *e);
int llama_keep_restore(struct engine *g, uint32_t seq, uint32_t p, const void *data, size_t len,
                       struct err *e);

// ---- llama_embed.c -----------------------------------------------------------------------------
// `shared`: the parameters of g->ctx.
void llama_embed_init(struct llama_engine *g, const struct llama_context_params *shared);
void llama_embed_fini(struct llama_engine *g);
int llama_embed_tokens(struct engine *g, const int32_t *tokens, size_t n, float *out,
                       struct err *e);

// ---- llama_step.c ------------------------------------------------------------------------------
int llama_step(struct engine *g, const struct engine_row *rows, size_t n, struct err *e);
const float *llama_step_logits(struct engine *g, size_t row);
// Where the logits of a row of the last step lie: the context, and the index there. NULL: not wanted.
struct llama_context *llama_step_source(const struct llama_engine *g, size_t row, int32_t *index);
int llama_step_remove(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, struct err *e);
// 0, or ERR_UNSUPPORTED: what the sequence holds is not enough to go on from.
int llama_step_ready(const struct llama_engine *g, uint32_t seq, struct err *e);
// Whether sliding-window layers have forgotten what a sequence cut back to p0 would look at.
bool llama_step_window_gone(const struct llama_engine *g, uint32_t seq, uint32_t p0);
void llama_step_interrupt(struct engine *g, bool on);
bool llama_step_aborted(void *g); // ggml's abort callback

// ---- llama_media.c -----------------------------------------------------------------------------
int llama_media_open(struct llama_engine *g, const struct engine_options *o, struct err *e);
void llama_media_close(struct llama_engine *g);
// The model's position of place `place` of a sequence.
llama_pos llama_media_pos(const struct llama_seq *s, uint32_t place);
// ERR_UNSUPPORTED where the sequence cannot be cut at `place`: it lies in a piece whose rows share positions.
int llama_media_cut_check(const struct llama_seq *s, uint32_t place, struct err *e);
// The sequence has been cut back to [0, place).
void llama_media_cut(struct llama_seq *s, uint32_t place);
// What stands for an image in the text of a prompt; NULL: no images.
const char *llama_media_marker(const struct llama_engine *g);
int llama_media_render(struct engine *g, const struct engine_source *source,
                       struct engine_prompt *out, struct err *e);
void llama_media_free(struct engine *g, struct engine_media *m);
int llama_media_encode(struct engine *g, struct engine_media *m, struct err *e);
int llama_media_step(struct engine *g, const struct engine_media *m,
                     const struct engine_media_rows *rows, struct err *e);

// ---- llama_image.c -----------------------------------------------------------------------------
#define LLAMA_IMAGE_SIDE 16384       // pixels
#define LLAMA_IMAGE_PIXELS 50000000u // of one image
struct llama_image {
    uint32_t width, height;
    uint8_t *pixels; // owned: width x height x RGB
};
// PNG, JPEG, BMP and GIF (its first frame). Hostile bytes are refused, and take no more memory than an
// image of the largest size does.
int llama_image_read(const struct engine_image *file, struct llama_image *out, struct err *e);
void llama_image_fini(struct llama_image *image);

// ---- llama_text.c ------------------------------------------------------------------------------
int llama_text_tokenize(struct engine *g, const char *text, size_t n, bool special, bool add_bos,
                        int32_t **tokens, size_t *n_tokens, struct err *e);
size_t llama_text_piece(struct engine *g, int32_t token, char *out, size_t cap);
bool llama_text_is_end(struct engine *g, int32_t token);
int llama_text_render(struct engine *g, const json_t *request, json_t **rendered, struct err *e);

// ---- llama_parse.c -----------------------------------------------------------------------------
int llama_parse_new(struct engine *g, const json_t *syntax, struct engine_parser **out,
                    struct err *e);
void llama_parse_free(struct engine *g, struct engine_parser *p);
json_t *llama_parse_put(struct engine *g, struct engine_parser *p, const char *text, size_t n,
                        bool final);

// ---- llama_sample.c ----------------------------------------------------------------------------
int llama_sample_new(struct engine *g, const struct engine_sampling *s, struct engine_sampler **out,
                     struct err *e);
void llama_sample_free(struct engine *g, struct engine_sampler *sampler);
void llama_sample_accept(struct engine *g, struct engine_sampler *sampler, int32_t token);
int32_t llama_sample_draw(struct engine *g, struct engine_sampler *sampler, size_t row);

#endif
