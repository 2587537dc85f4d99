// How models/gguf.c reads: a window over the bytes, and the values that a GGUF file is made of. Nobody
// outside models/gguf*.c includes this.
#ifndef MODELS_GGUF_IMPL_H
#define MODELS_GGUF_IMPL_H

#include "models/gguf.h"

enum value_type {
    VALUE_U8,
    VALUE_I8,
    VALUE_U16,
    VALUE_I16,
    VALUE_U32,
    VALUE_I32,
    VALUE_F32,
    VALUE_BOOL,
    VALUE_STRING,
    VALUE_ARRAY,
    VALUE_U64,
    VALUE_I64,
    VALUE_F64,
    VALUE_TYPES
};

struct models_reader {
    const struct models_gguf_source *source;
    struct models_gguf *g;
    const struct models_gguf_visitor *visitor; // or NULL
    struct err *e;
    uint64_t at;         // of the next byte
    uint64_t window_at;  // of window[0]
    size_t window_bytes; // that are valid
    uint32_t alignment;
    uint64_t seen; // bit per entry of the table of keys
    bool missed;   // a key came before the architecture was known
    uint8_t window[32768];
};

// `what` names the thing in errors: a key, a tensor, a part of the head.
uint64_t models_reader_left(const struct models_reader *r);       // bytes behind the next one
int models_reader_cut(struct models_reader *r, const char *what); // the error "cut short"
int models_reader_get(struct models_reader *r, void *out, size_t n, const char *what);
int models_reader_get32(struct models_reader *r, uint32_t *out, const char *what);
int models_reader_get64(struct models_reader *r, uint64_t *out, const char *what);
// A string into out[out_bytes] with a 0. What is longer is cut there; *n gets the whole length.
int models_reader_text(struct models_reader *r, char *out, size_t out_bytes, uint64_t *n,
                       const char *what);

int models_reader_type(struct models_reader *r, uint32_t *type, const char *key);
// A whole number of any width; what is negative or no whole number is an error.
int models_reader_number(struct models_reader *r, uint32_t type, const char *key, uint64_t *out);
// The element type and the count of an array; so many elements fit into what is left.
int models_reader_array(struct models_reader *r, const char *key, uint32_t *type, uint64_t *n);
int models_reader_elements_skip(struct models_reader *r, const char *key, uint32_t type,
                                uint64_t n);
int models_reader_value_skip(struct models_reader *r, const char *key, uint32_t type);

#endif
