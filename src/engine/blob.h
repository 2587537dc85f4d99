// The bytes in which llama.cpp (release v0.5.0) writes the state of one sequence, checked before
// llama.cpp reads them. Pure C, no llama.h, no allocation by a number that a blob names.
//
// llama.cpp's reader trusts what it reads: it allocates by the cell count, takes the positions as they
// are, asserts on some contradictions and writes tensor data even when a later check failed. So an
// engine learns its own layout once, from a sample it wrote itself (blob_learn), and hands its
// library only blobs that have exactly the structure it would have written for the range
// (blob_check): same sections, layers, types and row sizes, our positions, nothing left over. What
// remains free are the tensor values.
//
// Layout, everything little-endian:
//   magic u32, sequence id i32 (ignored by the reader), then sections. Which ones:
//     dense, MoE, MLA      attention
//     sliding window       attention (all positions), attention (window)
//     DSA, MSA             attention, attention (indexer)         [+ attention (window)]
//     recurrent            recurrent
//     hybrid               attention [+ attention (window)], recurrent  [+ attention (indexer)]
//     DeepSeek-V4          head, attention, attention, 3 x rows, 3 x compressor
//   attention: n_stream u32, per stream: cells u32, and unless 0: per cell {pos i32, n_seq u32 (1),
//     [x i32, y i32, token i32], seq i32}, v_transposed u32, n_layer u32, per layer K {type i32,
//     row_bytes u64, cells * row_bytes}, then per layer V the same, or if transposed {type i32,
//     element_bytes u32, n_embd u32, n_embd * cells * element_bytes}. MLA caches have no V.
//   recurrent: cells u32 (0 or 1), per cell {pos i32, n_seq u32 (0)}, transposed u32 (0), n_layer u32,
//     per tensor {type i32, row_bytes u64, cells * row_bytes}; some layers add an untyped row
//     {row_bytes u64, data}.
//   head: magic u32 "DSV4", version u32, mode u32.
//   rows: version u32, n_rows u32 (tokens / ratio), n_stream u32 (1), n_layer u32, per layer
//     {layer u32, tensor}; tensor: type i32, ne0 u64, rows u64, row_bytes u64, rows * row_bytes.
//   compressor: version, ratio, state_size, n_embd_state, n_stream (1), n_layer, all u32, per layer
//     {layer u32, tensor of state_size rows, tensor of state_size rows}.
//
// Threads: a layout is immutable once learned; a scratch belongs to one thread.
#ifndef ENGINE_BLOB_H
#define ENGINE_BLOB_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOB_MAGIC 0xaf143cd8u
#define BLOB_HEAD_BYTES 8
#define BLOB_SECTIONS_MAX 12
#define BLOB_TENSORS_MAX 4096 // over all sections; llama.cpp has at most 512 layers
#define BLOB_STREAMS_MAX 256  // llama.cpp's LLAMA_MAX_SEQ

enum blob_kind { BLOB_ATTENTION, BLOB_RECURRENT, BLOB_DSV4_HEAD, BLOB_DSV4_ROWS, BLOB_DSV4_STATE };

// One run of rows in a section.
struct blob_tensor {
    int32_t type;       // ggml_type, -1: the row has no type word
    uint32_t n_embd;    // of a transposed V: rows of cells * row_bytes; else 1
    uint32_t layer;     // DSV4 only
    uint64_t row_bytes; // per cell (transposed V: bytes of one element)
    uint64_t ne0;       // DSV4 only
};

struct blob_section {
    enum blob_kind kind;
    bool window; // may hold fewer cells than the range
    bool ext;    // cells carry x, y, token
    bool has_v;
    uint32_t v_trans;
    uint32_t n_stream;
    uint32_t n_layer;
    uint32_t words[5]; // DSV4: the head's or the compressor's numbers; rows: version
    uint32_t ratio;    // DSV4 rows: tokens per row
    size_t tensors;    // index of the first
    size_t n_tensors;
};

struct blob_layout {
    bool known;
    uint32_t n_vocab;
    size_t n_sections, n_tensors;
    struct blob_section sections[BLOB_SECTIONS_MAX];
    struct blob_tensor *tensors; // BLOB_TENSORS_MAX while learning, owned
};

// One bit per position of a range. After a good check, window_from says from which position on every
// layer got every position (p0 where no layer has a window).
struct blob_scratch {
    uint64_t *bits;
    size_t n_bits;
    uint32_t window_from;
};
void blob_scratch_init(struct blob_scratch *s, size_t max_positions);
void blob_scratch_fini(struct blob_scratch *s);

// What a blob must hold.
struct blob_range {
    uint32_t p0, p1; // positions [p0, p1)
    bool state;      // with the recurrent state after p1 - 1; else with an empty one
};

// A blob of positions [0, n_tokens), n_tokens >= 2, that this engine's own library wrote.
struct blob_sample {
    const void *data;
    size_t len;
    uint32_t n_tokens;
    uint32_t n_vocab;
    bool
        windowed; // the model has a sliding window: the last attention section may hold fewer cells
};

// Finds the layout in a sample. ERR_UNSUPPORTED: the parser does not know this layout.
int blob_learn(struct blob_layout *layout, const struct blob_sample *sample, struct err *e);
void blob_layout_fini(struct blob_layout *layout);

// 0: exactly what an engine of this layout writes for the range. ERR_CORRUPT or ERR_MISMATCH (another
// layout) with the place and both values otherwise.
int blob_check(const struct blob_layout *layout, const struct blob_range *range, const void *data,
               size_t len, struct blob_scratch *scratch, struct err *e);

// The most bytes a blob of the range can have; SIZE_MAX on overflow.
size_t blob_bytes_max(const struct blob_layout *layout, const struct blob_range *range);
// Growth per token, and the part that does not grow (0 for attention alone; without headers).
double blob_bytes_per_token(const struct blob_layout *layout);
uint64_t blob_state_bytes(const struct blob_layout *layout);
bool blob_has_state(const struct blob_layout *layout);

// Replaces the recurrent state by an empty one, in place, in a blob that this engine's own library
// wrote. Returns the new length.
size_t blob_state_drop(const struct blob_layout *layout, void *data, size_t len);

// ---- tiles: layouts of one plain attention section --------------------------------------------------

bool blob_tiles_fit(const struct blob_layout *layout);
uint32_t blob_tile_layers(const struct blob_layout *layout); // 0: tiles do not fit
uint64_t blob_tile_row_bytes(const struct blob_layout *layout, uint32_t layer, bool v);
// Bytes of a tile: K rows of all cells, then V rows.
size_t blob_tile_bytes(const struct blob_layout *layout, uint32_t layer, uint32_t cells);
// Writes everything but the rows into blob, which has blob_bytes_max of the range.
void blob_tiles_begin(const struct blob_layout *layout, const struct blob_range *range, void *blob);
// Puts one layer's rows (blob_tile_bytes) in their places.
void blob_tile_put(const struct blob_layout *layout, const struct blob_range *range, uint32_t layer,
                   const void *rows, void *blob);

#endif
