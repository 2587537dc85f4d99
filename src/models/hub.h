// What a repository of Hugging Face (or of a server that speaks its API, HF_ENDPOINT) holds, and which of
// its files make up the model that is wanted. Owner: the caller. The list is pinned to a commit, so that all
// that is fetched afterwards belongs together.
#ifndef MODELS_HUB_H
#define MODELS_HUB_H

#include "base/err.h"
#include "models/fetch.h"
#include "models/store.h"

#include <stdbool.h>
#include <stddef.h>

#define MODELS_HUB_FILES_MAX 20000u
#define MODELS_HUB_PATH_BYTES 512

struct models_hub_file {
    char path[MODELS_HUB_PATH_BYTES];
    uint64_t bytes;                // or MODELS_SIZE_UNKNOWN
    char sha256[MODELS_SUM_BYTES]; // "": not told
};
struct models_hub {
    char commit[129];
    struct models_hub_file *files; // owned; GGUF files only, sorted by path
    size_t n;
};

struct models_hub_options {
    const char *endpoint; // "https://huggingface.co", without a slash at the end
    const char *token;    // NULL: none
    const struct models_ref *ref;
    uint32_t retries;
    double retry_wait_s;
    uint32_t stall_s;
    const struct models_watch *watch;
};
// ERR_AUTH and ERR_NOT_FOUND say what the user can do.
int models_hub_list(const struct models_hub_options *o, struct models_hub *h, struct err *e);
// From the body of an answer; for tests.
int models_hub_parse(const void *text, size_t n, struct models_hub *h, struct err *e);
void models_hub_fini(struct models_hub *h);

struct models_choice {
    size_t files[MODELS_FILES_MAX]; // of h->files, in order
    size_t n;
    size_t projector;               // SIZE_MAX: none
    char quant[MODELS_QUANT_BYTES]; // upper case; "": the name has none
};
// The files of the wanted quantisation: the one that is asked for, else Q4_K_M, Q4_0, Q8_0, ..., else the
// only one. `projector`: the projector for images, too. ERR_NOT_FOUND and ERR_INVALID list what there is.
int models_hub_choose(const struct models_hub *h, const struct models_ref *ref, bool projector,
                      struct models_choice *out, struct err *e);

// Where a file is fetched from; false: too long.
bool models_hub_url(const struct models_hub_options *o, const char *commit, const char *path,
                    char *out, size_t out_bytes);
// Explains a refusal of the hub (status 401, 403, 404) to the user; returns the code.
int models_hub_explain(const struct models_hub_options *o, const struct models_fetched *answer,
                       struct err *e);

#endif
