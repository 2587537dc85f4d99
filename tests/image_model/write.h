// The model file that the library loads.
#ifndef IMAGE_MODEL_WRITE_H
#define IMAGE_MODEL_WRITE_H

#include "base/err.h"
#include "tests/image_model/network.h"

// A GGUF file of the whole layout: the trained tensors of `n`, and what stays as it is (ones, zeros, the
// table, and tensors that are never evaluated).
int write_model(const struct network *n, const char *path, struct err *e);

#endif
