// Getting a model into the store: from a repository of the hub, from an address, or from a file of this
// machine. Owner: the caller's thread; blocking.
//
// The store's manifest is written before the first byte, as "not complete", and again when all files are
// there and the head of the model reads. A model that is replaced by a newer one of the same name stays
// usable until then.
#ifndef MODELS_PULL_H
#define MODELS_PULL_H

#include "base/err.h"
#include "models/fetch.h"
#include "models/store.h"

#include <stdbool.h>

struct models_pull {
    const char *what;     // user/repo[@revision][:quant], https://..., or a path
    const char *endpoint; // of the hub; NULL: https://huggingface.co
    const char *token;    // NULL: none
    const char *sha256;   // of an address or file; NULL: none
    bool projector;       // the projector for images too
    uint32_t retries;
    double retry_wait_s;
    uint32_t stall_s;
    struct models_watch watch;
};
void models_pull_default(struct models_pull *p);

// *changed: false when all was there already. *out is to be freed with models_entry_fini after success.
int models_pull_run(const struct models_pull *p, struct models_entry *out, bool *changed,
                    struct err *e);

#endif
