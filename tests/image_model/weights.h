// The file of trained values: for each tensor u32 length of its name, the name, u32 count, then the values
// as 16-bit floats; little-endian, in the order of struct network. It holds what was trained and nothing else.
#ifndef IMAGE_MODEL_WEIGHTS_H
#define IMAGE_MODEL_WEIGHTS_H

#include "base/err.h"
#include "tests/image_model/network.h"

uint16_t half_from_float(float x); // to the nearest; too large becomes infinite
float half_to_float(uint16_t half);

int weights_write(const struct network *n, const char *path, struct err *e);
// Into an initialised network.
int weights_read(struct network *n, const char *path, struct err *e);

#endif
