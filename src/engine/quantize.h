// What models can be quantised to; the quantising itself is engine_quantize (engine/engine.h). Any thread.
#ifndef ENGINE_QUANTIZE_H
#define ENGINE_QUANTIZE_H

#include "base/err.h"

// 0, or ERR_INVALID with the types that there are.
int engine_quantize_check(const char *type, struct err *e);

#endif
