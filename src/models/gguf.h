// The head of a GGUF file: what a model is, how large its parts are and what its cache will need, read
// without the model library, so that the command line and the planner can tell before anything is loaded.
//
// Owner: the caller; a struct models_gguf is plain data but for the template. Any thread.
//
// Strict: every count and length is held against the bytes that are left in the file and against a named
// limit before anything is done with it, keys that matter may occur once, tensors must lie inside the
// file. A file that passes here may still be refused by the model library, which knows architectures.
// Little-endian files of version 2 and 3, which are all that exist for these models.
//
// What it does not do: it reads no weights, and tokens only to count them.
#ifndef MODELS_GGUF_H
#define MODELS_GGUF_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODELS_GGUF_KEYS_MAX 65536u
#define MODELS_GGUF_TENSORS_MAX 262144u
#define MODELS_GGUF_ARRAY_MAX (1u << 24)    // elements of one array
#define MODELS_GGUF_TEXT_MAX (64u << 20)    // bytes of one string
#define MODELS_GGUF_TEMPLATE_MAX (1u << 20) // bytes of the chat template
#define MODELS_GGUF_LAYERS_MAX 1024u
#define MODELS_GGUF_TYPES 48u // tensor types are below this number
#define MODELS_GGUF_SPLITS_MAX 256u
#define MODELS_GGUF_NAME_MAX                                                                       \
    160 // bytes of a tensor's name with its 0, as the longest-named models have them
#define MODELS_GGUF_DIMS 4
#define MODELS_GGUF_NONE UINT32_MAX

struct models_gguf_type {
    uint64_t tensors, params, bytes;
};

struct models_gguf {
    uint32_t version;
    uint64_t file_bytes; // of all parts of a split model
    uint64_t head_bytes; // where the tensors begin, in the first part
    uint64_t tensors, keys;
    uint32_t split_no, split_count; // 0, 0: not split

    char arch[64], name[128], size_label[32], license[64], kind[32]; // "": not told
    uint32_t file_type;                                              // or MODELS_GGUF_NONE

    // Of an adapter (kind "adapter"): its type ("lora"), its scale, and tokens before which it is silent.
    char adapter_type[16];
    float lora_alpha;
    uint32_t n_alora_tokens;

    // The model's shape; 0: not told.
    uint32_t n_layer, n_ctx, n_embd, n_ff, n_head, n_vocab;
    uint32_t n_expert, n_expert_used;
    uint32_t key_length, value_length, key_length_swa, value_length_swa; // per head
    uint32_t key_length_mla, value_length_mla;
    uint32_t window, window_period; // tokens; every period-th layer sees all
    uint32_t full_interval;         // hybrid: every full_interval-th layer attends
    uint32_t shared_kv_layers, nextn_layers;
    uint32_t conv_kernel, ssm_inner, ssm_state, ssm_groups, ssm_rank; // state-space layers
    uint32_t wkv_head, token_shift, shortconv_cache, kda_head;        // other recurrent layers
    // One value per layer. Where the file gives one for all, it stands in every place.
    uint32_t head_kv[MODELS_GGUF_LAYERS_MAX];
    uint8_t in_window[MODELS_GGUF_LAYERS_MAX]; // 1: sees only the window
    uint8_t recurrent[MODELS_GGUF_LAYERS_MAX]; // 1: keeps a state and no KV
    uint8_t has_ff[MODELS_GGUF_LAYERS_MAX];    // 1: has a feed-forward part
    bool has_head_kv, has_windows, has_recurrent;

    char tokenizer[32], pre_tokenizer[64];
    char *template_text; // owned, NULL: none

    struct models_gguf_type types[MODELS_GGUF_TYPES];
    uint64_t params, weight_bytes;
    uint64_t expert_bytes;    // of weights of which a token uses n_expert_used / n_expert
    uint64_t embedding_bytes; // of the input embedding, of which a token uses a row
    bool has_output;          // an output matrix of its own; else the embedding serves twice
};

// Where the bytes come from: a file, or memory in tests.
struct models_gguf_source {
    int (*read)(void *ctx, uint64_t at, void *out, size_t n, struct err *e);
    void *ctx;
    uint64_t bytes;
};

// ERR_CORRUPT: no GGUF, cut short or damaged; ERR_RANGE: over a limit; ERR_UNSUPPORTED: a version or
// tensor type that is not known. *g is to be freed with _fini after success only.
int models_gguf_parse(const struct models_gguf_source *s, struct models_gguf *g, struct err *e);
// Of a file, and of the other parts too where it is the first of several ("-00001-of-0000N.gguf").
int models_gguf_read(const char *path, struct models_gguf *g, struct err *e);
void models_gguf_fini(struct models_gguf *g);

// One entry of the list of tensors.
struct models_gguf_tensor {
    char name[MODELS_GGUF_NAME_MAX];
    uint32_t type, n_dims;
    uint64_t ne[MODELS_GGUF_DIMS]; // the fastest first; 1 beyond n_dims
    uint64_t params, bytes;
    uint64_t offset; // of its data, behind head_bytes of the part that it is in
};
// Is told every tensor in the file's order while it is being read; anything but 0 ends the reading with it.
// The file may still turn out to be cut short behind the last one.
struct models_gguf_visitor {
    int (*tensor)(void *ctx, const struct models_gguf_tensor *t, struct err *e);
    void *ctx;
};
// As models_gguf_parse and models_gguf_read. visitor NULL: the same.
int models_gguf_walk(const struct models_gguf_source *s, struct models_gguf *g,
                     const struct models_gguf_visitor *visitor, struct err *e);
int models_gguf_read_tensors(const char *path, struct models_gguf *g,
                             const struct models_gguf_visitor *visitor, struct err *e);

// What the weights are made of: the file type, or the tensor type with the most bytes.
const char *models_gguf_quant(const struct models_gguf *g);

// ---- tensor types --------------------------------------------------------------------------------

// "q4_K", or NULL. A type that has a name has sizes.
const char *models_gguf_type_name(uint32_t type);
// Bytes of a row of n elements; false: unknown type, not whole blocks, or too large.
bool models_gguf_row_bytes(uint32_t type, uint64_t n, uint64_t *bytes);
// By name ("q8_0"), or MODELS_GGUF_NONE.
uint32_t models_gguf_type_find(const char *name);

// What a layer (il < n_layer) keeps of the tokens it has seen: KV of all or of a window, a state, or both.
bool models_gguf_layer_in_window(const struct models_gguf *g, uint32_t il);
bool models_gguf_layer_recurrent(const struct models_gguf *g, uint32_t il);
bool models_gguf_layer_has_kv(const struct models_gguf *g, uint32_t il);

#endif
