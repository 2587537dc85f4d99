// What the files of the fake engine share: its sequences, the export in progress. Internal to it.
#ifndef ENGINE_ENGINE_FAKE_IMPL_H
#define ENGINE_ENGINE_FAKE_IMPL_H

#include "engine/engine_fake_model.h"

#include <stdatomic.h>

#define STATE_BYTES 64 // per layer

// A sequence: KV bytes layer-major within a token, a running hash per token, and the state.
struct fake_seq {
    uint8_t *kv;       // [n][layer][kv_bytes]
    uint64_t *running; // [n]: hash over all KV bytes of positions 0..i
    uint32_t n, cap;   // tokens
    uint8_t *state;    // [layer][STATE_BYTES] when the model is recurrent
    uint32_t staged;   // layers of the next range that came as tiles
    uint32_t staged_p1;
    bool settled;
};

// What a step left to sample from.
struct fake_pass {
    float *logits; // [row that wanted them][vocab]
    size_t logits_cap;
    size_t *logits_row; // [n_batch]: index into logits, or SIZE_MAX
    size_t n_rows;
};

struct fake {
    struct engine base;
    struct engine_ops ops; // a copy, for what not every fake model can do
    struct fake_options o;
    struct fake_seq *seqs;
    uint64_t stepped;         // tokens since loading
    struct fake_pass pass[2]; // [1]: of a step inside another one
    engine_tile_callback *tile;
    void *tile_ctx;
    uint8_t *tile_buf;
    engine_between_callback *between;
    void *between_ctx;
    bool inside; // the callback runs
    struct fake_export {
        bool busy;
        uint32_t seq, p0, p1;
        bool state;
        uint8_t *buf;
        size_t len;
        int64_t ready_ns;
    } export;
    uint64_t adapters[ENGINE_ADAPTERS_MAX]; // keys by id - 1; 0: not loaded
    uint32_t *seq_adapters;                 // [n_seq]: ids, 0: none
    json_t *script;                         // list of rules; NULL: none. Immutable after opening
    uint64_t n_parsers;      // since loading: names the calls that their answers make
    atomic_bool interrupted; // a flag alone: orders nothing, relaxed is enough
};

// Bytes of KV of one token, and of the whole state (0: none).
size_t fake_token_bytes(const struct fake *f);
size_t fake_state_bytes(const struct fake *f);
// The KV of one token and layer: K, then V.
uint8_t *fake_kv_at(const struct fake *f, const struct fake_seq *s, uint32_t pos, int64_t layer);
void fake_seq_reserve(const struct fake *f, struct fake_seq *s, uint32_t n);
// ERR_BUSY when so many tokens more do not fit.
int fake_cells_check(const struct fake *f, uint64_t more, struct err *e);
// Brings the running hash up to date after the KV bytes of position pos were written.
void fake_running_update(const struct fake *f, struct fake_seq *s, uint32_t pos);

// A well-mixed function of 64 bits, and one of bytes on top of it.
uint64_t fake_mix(uint64_t x);
uint64_t fake_fold(uint64_t hash, const uint8_t *data, size_t n);
// Waits like a machine at work; ERR_CANCELLED within a millisecond of an interrupt.
int fake_work(struct fake *f, int64_t us, struct err *e);

// engine_fake_keep.c: what else can be done with a sequence, and embeddings, as in engine.h.
int fake_fork(struct engine *g, uint32_t src, uint32_t dst, uint32_t p1, struct err *e);
size_t fake_checkpoint_bytes(struct engine *g, uint32_t seq);
int fake_checkpoint_save(struct engine *g, uint32_t seq, void *buf, size_t cap, size_t *len,
                         struct err *e);
int fake_checkpoint_restore(struct engine *g, uint32_t seq, uint32_t p, const void *data,
                            size_t len, struct err *e);
int fake_settle(struct engine *g, uint32_t seq, uint32_t upto, struct err *e);
int fake_rejoin(struct engine *g, uint32_t seq, struct err *e);
bool fake_settled(const struct engine *g, uint32_t seq);
int fake_embed(struct engine *g, const int32_t *tokens, size_t n, float *out, struct err *e);

// engine_fake_adapter.c: as in engine.h. An adapter's key is a hash of its file: it changes every KV byte.
int fake_adapter_load(struct engine *g, const char *path, uint32_t *id, struct err *e);
void fake_adapter_drop(struct engine *g, uint32_t id);
int fake_adapter_use(struct engine *g, uint32_t seq, uint32_t id, struct err *e);
uint64_t fake_adapter_key(const struct fake *f, uint32_t seq); // 0: no adapter
int fake_adapter_check(const struct fake *f, const struct engine_row *rows, size_t n,
                       struct err *e);

// engine_fake_range.c: hand-off, as in engine.h.
size_t fake_export_bytes(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last);
int fake_export_start(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                      void *buf, size_t cap, struct err *e);
int fake_export_poll(struct engine *g, size_t *len, struct err *e);
int fake_import(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, bool last,
                const void *data, size_t len, struct err *e);
int fake_import_tile(struct engine *g, uint32_t seq, uint32_t p0, uint32_t p1, uint32_t layer,
                     const void *data, size_t len, struct err *e);

#endif
