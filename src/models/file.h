// Reading parts of regular files: what the readers of GGUF and safetensors share. Any thread.
#ifndef MODELS_FILE_H
#define MODELS_FILE_H

#include "base/err.h"

#include <stdint.h>

// The descriptor of a regular file, which the caller closes, and its size. `kind` ("a GGUF file") stands in
// the message for what is no regular file.
int models_file_open(const char *path, const char *kind, uint64_t *bytes, struct err *e);
// n bytes from `at`; *ctx is the descriptor (int). What struct models_gguf_source calls.
int models_file_get(void *ctx, uint64_t at, void *out, size_t n, struct err *e);

#endif
