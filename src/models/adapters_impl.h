// What the files of the adapter store share. Nobody outside models/adapters*.c includes this.
#ifndef MODELS_ADAPTERS_IMPL_H
#define MODELS_ADAPTERS_IMPL_H

#include "models/adapters.h"
#include "models/gguf.h"

bool adapters_is_fake(const char *model); // a name of the fake engine

// Every tensor of a file and, behind the last of each part, its bytes: the tensor's data begin at
// g->head_bytes + offset of the source.
struct adapters_walk {
    int (*tensor)(void *ctx, const struct models_gguf_tensor *t, struct err *e);
    int (*part)(void *ctx, const struct models_gguf_source *source, const struct models_gguf *g,
                struct err *e); // may be NULL
    void *ctx;
};
// All parts of a model. *g tells of the first part; to be freed with models_gguf_fini after success.
int adapters_walk_parts(const char *path, const struct adapters_walk *walk, struct models_gguf *g,
                        struct err *e);

#endif
