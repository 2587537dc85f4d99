// Writing small GGUF files: keys, F32 matrices and their values, one after the other. What adapters are.
//
// Call order: _init; keys and tensors in any order; _open; _values until each tensor has all of its own, in
// the order in which they were added; _close. The file appears whole or not at all.
//
// Owner: the caller. Any thread. Little-endian, version 3, alignment 32.
#ifndef MODELS_GGUF_WRITE_H
#define MODELS_GGUF_WRITE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdio.h>

#define MODELS_GGUF_WRITE_HEAD_MAX (64u << 20)

struct models_gguf_writer {
    struct buf keys, tensors;
    uint64_t n_keys, n_tensors;
    uint64_t data_bytes, written_bytes; // of all tensors with what fills them up to 32
    char *path, *aside;
    FILE *file;
};

// A text as GGUF has it: its length, 64 bits, and its bytes.
void models_gguf_put_text(struct buf *b, const char *text);

void models_gguf_writer_init(struct models_gguf_writer *w);
// Removes what was not closed.
void models_gguf_writer_fini(struct models_gguf_writer *w);
void models_gguf_write_text(struct models_gguf_writer *w, const char *key, const char *value);
void models_gguf_write_float(struct models_gguf_writer *w, const char *key, float value);
// An F32 matrix [columns, rows], the columns fastest.
void models_gguf_write_matrix(struct models_gguf_writer *w, const char *name, uint64_t columns,
                              uint64_t rows);
// Bytes that the file will have.
uint64_t models_gguf_write_bytes(const struct models_gguf_writer *w);
int models_gguf_writer_open(struct models_gguf_writer *w, const char *path, struct err *e);
// n more values; `last`: they are the last of a tensor.
int models_gguf_write_values(struct models_gguf_writer *w, const float *values, size_t n, bool last,
                             struct err *e);
int models_gguf_writer_close(struct models_gguf_writer *w, struct err *e);

#endif
