// A model over several machines: layers that are too many for one machine's memory are computed where memory
// is lent. docs/spread.md tells how the parts go together.
//
// ggml's own protocol for this (its RPC backend) knows no authentication and trusts what it is sent. It never
// sees a socket here: both of its ends speak through a struct engine_stream, which whoever owns the connection
// (node/spread.h) fills with calls on an authenticated one. No port is opened, on neither side.
//
// Threads: a borrowing engine reads and writes each stream on one thread that ggml makes for it. engine_lend
// runs on the caller's thread until it ends; the guard belongs to that thread.
#ifndef ENGINE_SPREAD_H
#define ENGINE_SPREAD_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ENGINE_LENDERS_MAX 8

// Bytes to and from another machine. Calls wait; 0, or a negative error, after which the stream is useless.
struct engine_stream {
    int (*read)(void *ctx, void *data, size_t n); // exactly n bytes
    int (*write)(void *ctx, const void *data, size_t n);
    void *ctx;
};

// ---- borrowing ---------------------------------------------------------------------------------

struct engine_lender {
    struct engine_stream stream;
    double share; // of the layers, beside the others' and engine_options.own_share
};

// How many of `layers` each of n machines gets: in proportion to its share, whole, and none that has a share
// goes without while there are layers enough.
void engine_spread_layers(const double *shares, size_t n, uint32_t layers, uint32_t *out);

// ---- lending -----------------------------------------------------------------------------------

struct engine_lend_options {
    // Waits for the next borrower; the one before has gone. An error ends engine_lend.
    int (*next)(void *ctx, struct engine_stream *out, struct err *e);
    void *ctx;
    uint64_t memory_bytes; // most that a borrower may have
    int n_threads;         // 0: one per core
};
// Serves one borrower after the other. What a borrower sends is held to its limits, but may still make the
// model library abort: a process of its own is the place for this.
int engine_lend(const struct engine_lend_options *o, struct err *e);

struct engine_lend_facts {
    char version[64];    // of the model library and its protocol: both sides must have the same
    char devices[128];   // "CPU", "CUDA0 and CUDA1"
    uint64_t free_bytes; // of all devices together, now; 0: not known
};
void engine_lend_facts_get(struct engine_lend_facts *f);
// The same text without looking at devices, for a borrower.
const char *engine_lend_version(void);

// ---- what a borrower may do --------------------------------------------------------------------

// Follows the bytes of one borrower's connection, as the model library reads and writes them, and keeps to
// the limits that the library lacks: lengths before memory is taken for them, and memory lent in all.
struct spread_buffer {
    uint64_t id, bytes;
};
struct spread_guard {
    uint64_t limit_bytes, used_bytes;
    int expects; // enum in spread_guard.c
    uint8_t command;
    uint64_t body_bytes;
    struct spread_buffer *buffers; // owned
    size_t n_buffers, cap_buffers;
    bool told; // that it was too much
};
void spread_guard_init(struct spread_guard *g, uint64_t limit_bytes);
void spread_guard_fini(struct spread_guard *g);
// The next n bytes that came. ERR_RANGE, ERR_CORRUPT: the connection must end. A demand for more memory than is
// left is changed, in place, into one that no machine can grant: the library then says so to the borrower.
int spread_guard_read(struct spread_guard *g, void *data, size_t n, struct err *e);
// The next n bytes of an answer.
void spread_guard_wrote(struct spread_guard *g, const void *data, size_t n);

#endif
