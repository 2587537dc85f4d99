// The head of a safetensors file: which tensors it holds and where their bytes lie.
//
// The format: u64 little-endian n; n bytes of JSON {"NAME": {"dtype", "shape", "data_offsets": [begin, end]},
// ..., "__metadata__": {text: text}}; then the data, little-endian, rows last-dimension first in memory.
// Source: the format's own description, huggingface/safetensors, README.
//
// Strict, as that description asks: the head lies within the file and within a named limit, names occur
// once, every length follows from type and shape, and the tensors cover the data without a gap and
// without sharing a byte. So what passes here can be read without another check.
//
// Owner: the caller. Any thread. What it does not do: it reads no values; models_file_get does.
#ifndef MODELS_SAFETENSORS_H
#define MODELS_SAFETENSORS_H

#include "models/gguf.h" // struct models_gguf_source

#define MODELS_SAFETENSORS_HEAD_MAX (32u << 20) // bytes
#define MODELS_SAFETENSORS_DIMS 8

struct json_t;

enum models_dtype {
    MODELS_DTYPE_F32,
    MODELS_DTYPE_F16,
    MODELS_DTYPE_BF16,
    MODELS_DTYPE_OTHER // integers, 8-bit floats, F64: known by name and size alone
};

struct models_safetensors_tensor {
    const char *name; // the head's
    enum models_dtype dtype;
    char dtype_name[16];
    uint32_t n_dims;
    uint64_t shape[MODELS_SAFETENSORS_DIMS]; // as PyTorch says it: the slowest first
    uint64_t values;                         // the product of the shape
    uint64_t at, bytes;                      // in the file
};

struct models_safetensors {
    struct models_safetensors_tensor *tensors; // by their place in the file
    size_t n;
    struct json_t *head; // owned: holds the names
};

// ERR_CORRUPT: not this format, cut short or damaged; ERR_RANGE: over a limit; ERR_UNSUPPORTED: a type that
// is not known. *s is to be freed with _fini after success only.
int models_safetensors_parse(const struct models_gguf_source *source, struct models_safetensors *s,
                             struct err *e);
int models_safetensors_read(const char *path, struct models_safetensors *s, struct err *e);
void models_safetensors_fini(struct models_safetensors *s);

// n values of a type that is no MODELS_DTYPE_OTHER as 32-bit floats; each of them is exact.
void models_dtype_widen(enum models_dtype dtype, const void *from, float *out, size_t n);
size_t models_dtype_bytes(enum models_dtype dtype);

#endif
