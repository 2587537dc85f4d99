// The engine: a loaded model that computes. It knows tokens, sequences, ranges of KV cache, logits
// and samplers; it knows no sockets, no requests and no peers.
//
// Owner: the worker's engine thread. Every call comes from that one thread, with two exceptions:
// `interrupt`, from any thread, and the text calls (tokenize, piece, render), which read
// immutable data and may be called from one other thread.
//
// A sequence is a slot number 0 <= seq < limits.n_seq; its tokens have positions 0, 1, 2, ...
// without gaps. The KV of a range [p0, p1) of a sequence can be exported as bytes and imported into
// a sequence of another engine that holds exactly [0, p0). Those two calls are what streaming,
// prefix deltas, disk and failover are made of.
//
// Implementations: llama_* (llama.cpp), engine_fake*.c (deterministic, for tests),
// engine_paced.c (wraps another one and slows it down to given rates, for emulated machines).
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// How the KV of a model can cross to another engine, best first. Found by probing (engine/probe.h).
enum engine_handoff {
    ENGINE_HANDOFF_NONE = 0,       // the model keeps no KV or state, or nothing came back exact
    ENGINE_HANDOFF_WHOLE = 1,      // only the whole state at n-1
    ENGINE_HANDOFF_RANGES = 2,     // ranges, each complete in itself
    ENGINE_HANDOFF_LATE_STATE = 3, // ranges; the recurrent state travels in the last one only
};
const char *
engine_handoff_name(enum engine_handoff h); // "none", "whole", "ranges", "ranges-late-state"
int engine_handoff_parse(const char *name, enum engine_handoff *out);

#define ENGINE_NAME_BYTES 128

// What two engines must have in common before KV may pass between them, and what to call them.
struct engine_identity {
    char engine[32];               // "llama.cpp", "fake"
    char build[64];                // release and commit
    char arch[64];                 // general.architecture
    char model[ENGINE_NAME_BYTES]; // general.name or file name
    char weights[32];        // file type, e.g. "Q4_0": may differ between P and D when allowed
    uint64_t weights_hash;   // XXH3 of tensor names, shapes, types and of a sample of the data
    uint64_t tokenizer_hash; // XXH3 of vocabulary, merges and special tokens
    uint32_t n_vocab, n_layer, n_embd, n_head, n_head_kv, n_swa, n_ctx_train;
    char type_k[16], type_v[16]; // "f16", "q8_0", ...
    uint32_t
        attention_layout; // bit 0: flash attention (V not transposed), bit 1: recurrent, bit 2: hybrid, bit 3: full-size SWA cache
};
// 0, or ERR_MISMATCH with the first member that differs and both values. `same_weights` false
// allows weights, weights_hash and model to differ.
int engine_identity_compare(const struct engine_identity *a, const struct engine_identity *b,
                            bool same_weights, struct err *e);
json_t *engine_identity_json(const struct engine_identity *id);
int engine_identity_parse(const json_t *object, struct engine_identity *id, struct err *e);

struct engine_limits {
    uint32_t n_ctx;              // cells, shared by all sequences
    uint32_t n_seq;              // sequences
    uint32_t n_ctx_stream;       // cells of a settled sequence (0: `settle` does nothing)
    uint32_t n_batch;            // most rows in one step
    enum engine_handoff handoff; // as configured or probed
    double kv_bytes_per_token;   // of an exported range
    uint64_t state_bytes;        // of the part that does not grow with tokens (0: none)
    uint32_t n_embed_tokens;     // most tokens of one embedding (0: the model makes none)
    bool has_tokenizer, has_chat_template;
    bool ranks; // a reranker: `embed` gives one score
    bool cuts;  // `remove` can cut a sequence anywhere; else only checkpoints lead back
    bool media; // images may be part of a prompt: the media_* calls are there
};

// One token to compute. Rows of a step may belong to several sequences; rows of one sequence have
// ascending positions that continue what the engine holds.
struct engine_row {
    int32_t token;
    uint32_t pos;
    uint32_t seq;
    bool want_logits;
};

struct engine_bias {
    int32_t token;
    float bias; // added to the logit; -INFINITY: never
};
#define ENGINE_BIAS_MAX 1024

struct engine_sampling {
    float temperature; // <= 0: greedy
    float top_p;       // 1: off
    int32_t top_k;     // 0: off
    float min_p;       // 0: off
    float typical_p;   // 1: off
    uint32_t seed;
    float repeat_penalty;    // 1: off
    int32_t repeat_last_n;   // how far back the penalties look; 0: off, -1: the whole context
    float frequency_penalty; // 0: off
    float presence_penalty;  // 0: off
    const struct engine_bias *biases; // borrowed for the sampler_new call
    size_t n_biases;
    int32_t
        reasoning_budget; // tokens of reasoning before its end is forced; -1: as many as it likes
    const json_t *syntax; // what `render` said about the answer, with its grammar; NULL: none
};
void engine_sampling_default(
    struct engine_sampling *s); // temperature 0.8, top_p 0.95, top_k 40, min_p 0.05

// One candidate of a step with the natural logarithm of its probability (softmax of the raw logits,
// before any sampling parameter).
struct engine_logprob {
    int32_t token;
    float logprob;
};
#define ENGINE_LOGPROBS_MAX 20
#define ENGINE_LOGPROB_MIN -9999.0f // what is impossible: JSON has no infinity
// The k most likely tokens, most likely first, and the logprob of `token`. k <= ENGINE_LOGPROBS_MAX and
// <= n_vocab: an entry that no token fills has token -1.
float engine_logprobs(const float *logits, uint32_t n_vocab, int32_t token, size_t k,
                      struct engine_logprob *top);

#define ENGINE_ADAPTERS_MAX 32u // loaded at the same time

struct engine;
struct engine_lender;
struct engine_sampler;
struct engine_parser;

// ---- images ----
// An image of a prompt becomes one or more pieces (a model may look at it whole and in parts). A piece is a
// run of rows that stand for no tokens: what the model's projector makes of the pixels. It takes as many
// places in a sequence as it has rows, like as many tokens; how far it moves the model's own positions is
// the engine's matter.
struct engine_media; // a piece as the engine keeps it: pixels, later rows

#define ENGINE_TOKEN_MEDIA (-1) // in a rendered prompt, for every row of a piece

struct engine_image {
    const void *data; // a file's bytes: PNG, JPEG, BMP or GIF
    size_t len;
};

struct engine_source {
    const char *prompt; // what `render` made of a chat with n_images parts of type "image"
    const struct engine_image *images;
    size_t n_images;
};

struct engine_piece {
    uint32_t at, rows;          // in the prompt's tokens
    uint32_t image;             // which of the source's
    bool whole;                 // its rows can be computed only all at once
    uint64_t layout;            // a hash of what shapes its KV beside the image's bytes
    size_t bytes;               // that it takes in memory, about
    struct engine_media *media; // owned
};

struct engine_prompt {
    int32_t *tokens; // owned
    size_t n_tokens;
    struct engine_piece *pieces; // owned, in order
    size_t n_pieces;
};

// Rows [first, first + n) of a piece, as places [pos, pos + n) of a sequence.
struct engine_media_rows {
    uint32_t seq, pos, first, n;
};

// Called from inside a step, see `between_set`.
typedef void engine_between_callback(void *ctx);

// What an export in progress looks like to the caller. One export per engine at a time.
enum engine_export_state { ENGINE_EXPORT_BUSY = 0, ENGINE_EXPORT_DONE = 1 };

// Called from inside a step for every layer whose K and V rows of the step are complete, if the
// engine can: `data` (K rows then V rows of layer `layer`, n bytes) is only valid during the call.
typedef void engine_tile_callback(void *ctx, uint32_t layer, const void *data, size_t n);

struct engine_ops {
    const char *name;
    void (*free)(struct engine *g);
    // Computes rows in order (0 < n <= limits.n_batch). ERR_CANCELLED after `interrupt`:
    // positions of this step are then absent. ERR_BUSY: no cells left. ERR_ENGINE otherwise.
    int (*step)(struct engine *g, const struct engine_row *rows, size_t n, struct err *e);
    // n_vocab floats of row `row` of the last step; it must have wanted them. Borrowed until the next step.
    const float *(*logits)(struct engine *g, size_t row);
    // Forgets positions [p0, p1) of seq (p1 = UINT32_MAX: to the end; a gap is ERR_INVALID). Recurrent
    // models accept only p0 = 0, sliding windows only what they still hold: anything else is
    // ERR_UNSUPPORTED and changes nothing. With p0 = the end nothing is forgotten, and the answer says
    // whether seq can go on from there (ERR_UNSUPPORTED after half an import in late state).
    int (*remove)(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, struct err *e);

    // Makes the empty sequence dst hold what src holds at [0, p1), src unchanged (ERR_UNSUPPORTED where
    // `remove` could not cut src at p1). Copies no KV where the cache is shared.
    int (*fork)(struct engine *g, uint32_t src, uint32_t dst, uint32_t p1, struct err *e);

    // seq is going to decode, and to hold no more than `upto` positions: moves it where it slows no other
    // sequence down and none slows it, if there is such a place and it fits (limits.n_ctx_stream).
    // Empty sequences move for nothing, others by one copy of their KV; all calls work on
    // either side, but exports and imports bring a sequence back. An error leaves it where it was.
    int (*settle)(struct engine *g, uint32_t seq, uint32_t upto, struct err *e);
    // The way back: rows of sequences that share a cache are computed in one pass over the weights, rows
    // of settled ones apart from them and, where their numbers differ, from each other.
    int (*rejoin)(struct engine *g, uint32_t seq, struct err *e);
    bool (*settled)(const struct engine *g, uint32_t seq);
    // Long steps and answers that keep their pace: a step none of whose sequences is settled stops after each
    // of its identity.n_layer parts and calls back.
    // The callback may compute settled sequences with `step` and sample from them; no other call
    // that changes anything is allowed before the outer step has returned. NULL: no calls.
    void (*between_set)(struct engine *g, engine_between_callback *callback, void *ctx);

    // ---- checkpoints: for models whose sequences cannot be cut (limits.cuts is false) ----
    // What a sequence needs besides the KV that stays in place to go on from where it is now: the
    // recurrent state, the sliding windows. Bytes that saving takes at most now (0: nothing is needed).
    size_t (*checkpoint_bytes)(struct engine *g, uint32_t seq);
    // Writes *len bytes; they are the caller's own and trusted, never a peer's.
    int (*checkpoint_save)(struct engine *g, uint32_t seq, void *buf, size_t cap, size_t *len,
                           struct err *e);
    // Cuts seq, which held at least [0, p) when the checkpoint was made at p and has only grown since,
    // back to [0, p). On an error the sequence is to be removed.
    int (*checkpoint_restore)(struct engine *g, uint32_t seq, uint32_t p, const void *data,
                              size_t len, struct err *e);

    // Bytes that exporting [p0, p1) now would take at most. `last` as in export_start.
    size_t (*export_bytes)(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last);
    // Starts copying the KV of [p0, p1) of seq into buf. `last`: this range ends at the hand-off
    // point, so that LATE_STATE puts the recurrent state in. The buffer is the engine's until poll
    // says DONE. Never disturbs the sequence.
    int (*export_start)(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                        void *buf, size_t cap, struct err *e);
    // ENGINE_EXPORT_DONE and *len, ENGINE_EXPORT_BUSY, or an error.
    int (*export_poll)(struct engine *g, size_t *len, struct err *e);
    // Appends [p0, p1) to seq, which holds [0, p0). The bytes are untrusted: every count, size,
    // position and type is checked against what this engine would have written for that range
    // before the model library sees it. ERR_CORRUPT / ERR_MISMATCH leave the sequence as it was.
    int (*import)(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                  const void *data, size_t len, struct err *e);
    // Tiles (optional, NULL = not supported): see engine_tile_callback; import_tile stages one layer of
    // [p0, p1) and completes the range with the last layer.
    int (*tiles_set)(struct engine *g, engine_tile_callback *callback, void *ctx);
    int (*import_tile)(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, uint32_t layer,
                       const void *data, size_t len, struct err *e);

    // ---- text ----
    // Token ids of n bytes of UTF-8; caller frees. special: recognise special tokens in the text
    // (true for rendered templates, false for a user's own words). add_bos: as the model wants it.
    int (*tokenize)(struct engine *g, const char *text, size_t n, bool special, bool add_bos,
                    int32_t **tokens, size_t *n_tokens, struct err *e);
    // The bytes of a token (not NUL-terminated; may be an incomplete UTF-8 sequence). Returns the
    // length, which is at most cap (256 is always enough). Special tokens give 0 bytes, but for those
    // with which the chat template marks calls and reasoning: a parser must see them.
    size_t (*piece)(struct engine *g, int32_t token, char *out, size_t cap);
    bool (*is_end)(struct engine *g, int32_t token); // end of generation
    // OpenAI chat request object (messages, tools, tool_choice, parallel_tool_calls, response_format,
    // grammar, json_schema, chat_template_kwargs, reasoning_effort, reasoning_format,
    // add_generation_prompt, continue_final_message) -> new reference to {"prompt": text,
    // "stop": [text...], "syntax": object|null}. The syntax is opaque to all but this engine (but for
    // {"grammar": GBNF}, which anybody may write): it goes back into sampler_new (grammar) and parser_new
    // (how reasoning and tool calls are told from content); null: the answer is all content,
    // unconstrained. A request with "prompt" (text) in place of "messages" is not templated; of it
    // only grammar, json_schema and response_format count. Parts {"type": "image"} of a message's content
    // stand for the images of media_render, where limits.media. ERR_INVALID for a request the template
    // cannot render, with its reason.
    int (*render)(struct engine *g, const json_t *request, json_t **rendered, struct err *e);

    // ---- what an answer means ----
    // ERR_INVALID for a syntax that no render of this engine made.
    int (*parser_new)(struct engine *g, const json_t *syntax, struct engine_parser **out,
                      struct err *e);
    void (*parser_free)(struct engine *g, struct engine_parser *p);
    // Appends n bytes of the answer (whole UTF-8 characters) and says what became certain since the last
    // call: an array (new reference, may be empty) of
    //   {"reasoning": text}  {"content": text}  {"tool": index, "id": text, "name": text, "arguments": text}
    // where a tool's id and name come once, with its first delta, and arguments in pieces. `final`: no
    // more text comes. What does not parse becomes content; this call never fails. Takes time in
    // proportion to the answer so far.
    json_t *(*parser_put)(struct engine *g, struct engine_parser *p, const char *text, size_t n,
                          bool final);

    // ---- embeddings ----
    // The pooled (mean, unless the model says otherwise), L2-normalised embedding of 1 to
    // limits.n_embed_tokens tokens: identity.n_embd floats (one, a score, where limits.ranks). Touches no
    // sequence. ERR_CANCELLED after `interrupt`; ERR_UNSUPPORTED: the model makes none.
    int (*embed)(struct engine *g, const int32_t *tokens, size_t n, float *out, struct err *e);

    // ---- images (NULL without limits.media) ----
    // The prompt with its images, ready to be computed. Decodes and scales the images: takes a while, on the
    // thread of the text calls. ERR_INVALID for what is no image. *out is to be freed with engine_prompt_fini.
    int (*media_render)(struct engine *g, const struct engine_source *source,
                        struct engine_prompt *out, struct err *e);
    void (*media_free)(struct engine *g, struct engine_media *m); // any thread; NULL is nothing
    // Makes rows of the pixels, which takes as long as the projector does. Once: later calls do nothing.
    int (*media_encode)(struct engine *g, struct engine_media *m, struct err *e);
    // As `step`, for rows of a piece that is encoded. A sequence cannot be cut inside a whole piece.
    int (*media_step)(struct engine *g, const struct engine_media *m,
                      const struct engine_media_rows *rows, struct err *e);

    // ---- adapters: low-rank changes of the model's matrices (NULL: the engine takes none) ----
    // Holds a file against the model (adapters_check) and loads it; *id is 1 to ENGINE_ADAPTERS_MAX. ERR_BUSY:
    // that many are loaded already; else what adapters_check says.
    int (*adapter_load)(struct engine *g, const char *path, uint32_t *id, struct err *e);
    // Sequences that were set to it compute without one from then on.
    void (*adapter_drop)(struct engine *g, uint32_t id);
    // From now on rows of seq are computed with that adapter (0: none), until the next call; neither `remove`
    // nor `fork` changes it. What the sequence holds already stays as it is: the caller takes care that
    // it was computed alike. Rows of one step must all be of one adapter, else ERR_INVALID; going from one
    // to another between steps costs as much as a small step.
    int (*adapter_use)(struct engine *g, uint32_t seq, uint32_t id, struct err *e);

    // ---- sampling ----
    int (*sampler_new)(struct engine *g, const struct engine_sampling *s,
                       struct engine_sampler **out, struct err *e);
    void (*sampler_free)(struct engine *g, struct engine_sampler *sampler);
    // Lets the sampler know a token that came from elsewhere (the prompt, for penalties).
    void (*sampler_accept)(struct engine *g, struct engine_sampler *sampler, int32_t token);
    // Draws from row `row` of the last step and accepts the token.
    int32_t (*sample)(struct engine *g, struct engine_sampler *sampler, size_t row);

    // Any thread: makes a running step (or an emulated wait) return ERR_CANCELLED soon. Sticky
    // until the engine thread calls with on = false.
    void (*interrupt)(struct engine *g, bool on);
};

// Common head of every implementation; implementations embed it first.
struct engine {
    const struct engine_ops *ops;
    struct engine_identity identity;
    struct engine_limits limits;
};

struct engine_options {
    const char *model;           // path of a GGUF, or "fake[:key=value,...]"
    const char *projector;       // path of the GGUF that makes images readable; NULL: none
    uint32_t n_ctx;              // cells; 0: the model's own, at most 8192
    uint32_t n_seq;              // default 4
    uint32_t n_batch;            // rows per step; default 512
    int n_threads;               // 0: cores
    int n_gpu_layers;            // -1: all
    const char *type_k, *type_v; // "f16" (default), "f32", "q8_0", ...
    enum engine_handoff handoff; // what the probe found; ENGINE_HANDOFF_NONE turns exports off
    bool tiles;                  // tiles_set will be used: prepare for it
    void (*progress)(void *ctx, double share); // loading, 0..1; may be NULL
    void *progress_ctx;
    const struct engine_lender *lenders; // machines that take layers (engine/spread.h), in use as
    size_t n_lenders;                    // long as the engine; 0: the model is all here
    double own_share;                    // of this machine, beside the lenders'
};
void engine_options_default(struct engine_options *o);

void engine_prompt_fini(struct engine *g, struct engine_prompt *p);

// Loads. ERR_NOT_FOUND, ERR_CORRUPT (cut short, no GGUF), ERR_UNSUPPORTED (architecture), ...
int engine_open(const struct engine_options *o, struct engine **out, struct err *e);

// Wraps `inner` (takes it) so that a step with a prompt token takes slot = 1/prefill_tokens_per_s
// each and a row with want_logits 1/decode_tokens_per_s. Counts the steps that did not fit.
struct engine *engine_paced_new(struct engine *inner, double prefill_tokens_per_s,
                                double decode_tokens_per_s);
struct engine_pace_counts {
    uint64_t steps, overruns;
    double worst_ratio; // real time / slot of the worst step
};
// Zeroes for an engine that is not paced.
struct engine_pace_counts engine_pace_get(const struct engine *g);

// Writes a quantised copy of a GGUF ("Q4_0", "Q8_0", ...); the file appears whole or not at all.
int engine_quantize(const char *from, const char *to, const char *type, struct err *e);

#endif
