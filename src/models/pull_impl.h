// Between models/pull.c and models/pull_local.c. Nobody else includes this.
#ifndef MODELS_PULL_IMPL_H
#define MODELS_PULL_IMPL_H

#include "models/pull.h"

// One pull in progress.
struct models_pulling {
    struct models_entry *m;  // what it becomes
    struct models_entry old; // what the store had under that name
    bool has_old, changed;
    int lock; // -1: not held yet
    struct err *e;
};

// The files of a model: one, or with `split` its parts, named after the first.
void models_pull_files_set(struct models_entry *m, const char *name,
                           const struct models_split *split);
// The folder and the first manifest; not over that of a complete older version (old NULL: none).
int models_pull_begin(struct models_entry *m, const struct models_entry *old, struct err *e);
// Reads the model's head, writes the manifest, removes what only the older version had.
int models_pull_complete(struct models_entry *m, const struct models_entry *old, struct err *e);

int models_pull_local(const struct models_pull *p, struct models_pulling *g);

#endif
