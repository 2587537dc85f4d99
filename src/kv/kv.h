// What travels between a prefill and a decode worker: segments of KV cache with their envelope, the
// end marker that makes a transfer complete, and the schedule by which a prompt is cut into chunks.
//
// Pure functions and fixed structs: no I/O, no clock, no globals. Everything is little-endian on the
// wire; docs/wire.md shows the bytes and tests/wire_golden_test.c pins them.
//
// Owner: whoever holds the struct. A transfer's struct kv_send lives on the prefill worker, its struct
// kv_receive on the decode worker, each on that worker's engine thread; it borrows the prompt's token
// ids, which must outlive it. A hasher belongs to whoever made it.
//
// Threads: codecs, hashes and the schedule may be called from any thread. One kv_send, kv_receive or
// hasher is one thread's at a time; there are no locks.
//
// What it does not do: it sends and receives nothing (wire/, node/), and it never looks into a payload.
// That bytes hash to what the envelope says makes them unharmed, not harmless: whether they are the KV
// of this model is engine/blob.c's to check. It also does not time anything: the schedule works with
// the rates that the worker measured.
#ifndef KV_KV_H
#define KV_KV_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KV_SEGMENT_BYTES 64
#define KV_END_BYTES 40
#define KV_ACK_BYTES 24
#define KV_ALL_LAYERS UINT32_MAX

// The envelope of a segment: the KV of tokens [p0, p1) of one sequence.
struct kv_segment {
    uint64_t transfer;    //  0: id of the transfer; equals the frame's id
    uint32_t epoch;       //  8: plan the segment belongs to; older ones are refused
    uint32_t index;       // 12: 0, 1, 2 ... without gaps
    uint32_t p0;          // 16: first token position
    uint32_t p1;          // 20: one past the last
    uint32_t layer;       // 24: layer of a tile, or KV_ALL_LAYERS
    uint8_t codec;        // 28: enum kv_codec
    uint8_t mode;         // 29: enum engine_handoff the payload was made with
    uint16_t flags;       // 30: KV_SEGMENT_LAST
    uint64_t raw_bytes;   // 32: payload after decoding; equals body_bytes for KV_CODEC_RAW
    uint64_t hash;        // 40: XXH3-64 of the payload as sent
    uint64_t tokens_hash; // 48: XXH3-64 of token ids [0, p1), i32 LE each
    uint64_t reserved;    // 56: 0
};

enum kv_codec { KV_CODEC_RAW = 0 };
enum {
    KV_SEGMENT_LAST = 1
}; // the range ends at the transfer's last token; every tile of it says so

// The end marker: without it, and unless it matches what was received, a transfer has failed.
struct kv_end {
    uint64_t transfer; //  0
    uint32_t epoch;    //  8
    uint32_t segments; // 12: how many
    uint32_t tokens;   // 16: p1 of the last
    uint32_t reserved; // 20: 0
    uint64_t bytes;    // 24: sum of body bytes
    uint64_t digest;   // 32: XXH3-64 over the segments' hashes, 8 bytes LE each, in order
};

// Sent back after the import of segment `index`; the last one confirms the whole transfer.
struct kv_ack {
    uint64_t transfer; //  0
    uint32_t epoch;    //  8
    uint32_t index;    // 12
    uint32_t tokens;   // 16: tokens [0, tokens) are committed
    uint32_t complete; // 20: 1 when the end marker matched
};

void kv_segment_encode(const struct kv_segment *s, uint8_t out[KV_SEGMENT_BYTES]);
int kv_segment_decode(const void *in, size_t n, struct kv_segment *s, struct err *e);
void kv_end_encode(const struct kv_end *m, uint8_t out[KV_END_BYTES]);
int kv_end_decode(const void *in, size_t n, struct kv_end *m, struct err *e);
void kv_ack_encode(const struct kv_ack *a, uint8_t out[KV_ACK_BYTES]);
int kv_ack_decode(const void *in, size_t n, struct kv_ack *a, struct err *e);

// XXH3-64 of n bytes.
uint64_t kv_hash(const void *data, size_t n);

// Running hash of token ids, so that tokens_hash of every prefix is cheap.
struct kv_tokens_hasher;
struct kv_tokens_hasher *kv_tokens_hasher_new(void);
void kv_tokens_hasher_free(struct kv_tokens_hasher *h);
void kv_tokens_hasher_put(struct kv_tokens_hasher *h, const int32_t *tokens, size_t n);
uint64_t kv_tokens_hasher_get(const struct kv_tokens_hasher *h);
void kv_tokens_hasher_copy(struct kv_tokens_hasher *to, const struct kv_tokens_hasher *from);
uint64_t kv_tokens_hash(const int32_t *tokens, size_t n);

// ---- the receiving side's bookkeeping --------------------------------------------------------------

// Decides whether a segment may be imported. Owned by the decode worker's engine thread. It trusts
// nothing: transfer, epoch, order, range, layer, hash and token hash must be what this side expects.
struct kv_receive {
    uint64_t transfer;
    uint32_t epoch;
    uint32_t next_index;
    uint32_t next_p0;    // == tokens committed so far (by complete ranges)
    uint32_t n_tokens;   // the transfer ends at this position
    uint32_t n_layers;   // for tiles
    uint32_t next_layer; // within the range that is being filled by tiles
    uint32_t tile_p1;    // where that range ends
    uint64_t bytes;
    uint64_t digest;
    bool complete;
    const int32_t *tokens;           // borrowed, n_tokens ids
    struct kv_tokens_hasher *hasher; // over [0, hashed)
    uint32_t hashed;
    void *digest_state;
};

void kv_receive_init(struct kv_receive *r, uint64_t transfer, uint32_t epoch, const int32_t *tokens,
                     uint32_t p0, uint32_t n_tokens, uint32_t n_layers);
void kv_receive_fini(struct kv_receive *r);
// 0: import it. ERR_CORRUPT, ERR_MISMATCH (stale epoch, wrong transfer): refuse, nothing changed.
int kv_receive_segment(struct kv_receive *r, const struct kv_segment *s, const void *payload,
                       size_t n, struct err *e);
// 0 and r->complete, or ERR_CORRUPT naming both values.
int kv_receive_end(struct kv_receive *r, const struct kv_end *m, struct err *e);

// The sending side's end marker.
struct kv_send {
    struct kv_end end;
    void *digest_state;
};
void kv_send_init(struct kv_send *s, uint64_t transfer, uint32_t epoch);
void kv_send_fini(struct kv_send *s);
// Fills transfer, epoch, index, raw_bytes and hash of the envelope and counts it. The caller has set
// p0, p1, layer, mode, flags and tokens_hash.
void kv_send_segment(struct kv_send *s, struct kv_segment *seg, const void *payload, size_t n);
struct kv_end kv_send_end(struct kv_send *s, uint32_t tokens);

// ---- the chunk schedule ----------------------------------------------------------------------------

// What a worker has measured of itself and of the link; 0 where it does not know.
struct kv_rates {
    double chunk_tokens_per_s; // prefill rate at full chunks
    double chunk_floor_s;      // time that even the smallest chunk takes
    double link_bytes_per_s;   // payload rate of the link
    double kv_bytes_per_token;
};

struct kv_schedule_options {
    uint32_t chunk_tokens;     // full chunk = the engine's ubatch (512)
    uint32_t min_chunk_tokens; // no piece is shorter unless the whole range is (16). On the CPU 64:
                               // shorter ones are slow, and their attention rounds differently
    uint32_t tile_layers;      // the last chunk leaves in so many tiles, layer by layer (0: whole)
    bool plain;                // full chunks only: nothing leaves before the end
    struct kv_rates rates;
};

// Cuts [p0, n) into chunks: ends[i] is the end of chunk i; at most max_ends. Full chunks lie on the
// grid of chunk_tokens (but a neighbour of a piece that was too short may give way); the tail is cut finer so that, when the last token is computed, little is
// left to send; where the link is the slower part, the head is, so that the link starts early.
// Returns the number of chunks (0 for p0 >= n or max_ends == 0). kv/schedule.c derives the rule.
size_t kv_schedule_make(const struct kv_schedule_options *o, uint32_t p0, uint32_t n,
                        uint32_t *ends, size_t max_ends);

// When computing and sending would end under such a schedule, in seconds from its start; the tail is
// end_s - compute_s. Zeroes where a rate is not known.
struct kv_schedule_times {
    double compute_s;
    double end_s;
};
struct kv_schedule_times kv_schedule_end_s(const struct kv_schedule_options *o, uint32_t p0,
                                           const uint32_t *ends, size_t n_ends);

#endif
