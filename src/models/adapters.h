// The store of adapters (LoRA): ~/.local/share/tandem/adapters (TANDEM_DATA or XDG_DATA_HOME move it).
//
//   NAME/adapter.gguf     as llama.cpp loads it
//   NAME/manifest.json    what it was trained on and how, and the file's SHA-256
//   .new-*, .old-*        a folder on its way in or out; what a crash left behind goes with the next publish
//   .lock                 one writer at a time
//
// An adapter is answered as model "ft:NAME". A folder appears whole or not at all, so a reader needs no lock.
//
// Which base an adapter fits is told by shapes and by a fingerprint of the base: a hash over weights that
// quantising leaves as they are (the last norm), so that an adapter that was trained on Q4_1 is served on
// Q8_0 as well, but not on another model of the same shape.
//
// Owner: the caller; every call reads the folder anew and keeps nothing. Any thread.
#ifndef MODELS_ADAPTERS_H
#define MODELS_ADAPTERS_H

#include "base/err.h"
#include "models/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ADAPTERS_NAME_BYTES 65 // 1 to 64 letters, digits, '.', '_' and '-', no dot or '-' first
#define ADAPTERS_PREFIX "ft:"
#define ADAPTERS_FILE_MAX (4ull << 30) // bytes of an adapter
#define ADAPTERS_LIST_MAX 1000u

// What an adapter must have in common with the model that it is put on.
struct adapters_base {
    char arch[64];
    char name[128]; // general.name, for people
    char quant[32]; // what it was trained on, for people
    uint32_t n_layer, n_embd, n_ff, n_head, n_vocab;
    char fingerprint[33]; // "": the file has no such weights
};
// Of a GGUF, or of a name of the fake engine ("fake:...").
int adapters_base_read(const char *model, struct adapters_base *out, struct err *e);
// 0, or ERR_MISMATCH with the first thing that differs and both values. Quantisations may differ.
int adapters_base_match(const struct adapters_base *adapter, const struct adapters_base *model,
                        struct err *e);
json_t *adapters_base_json(const struct adapters_base *b);
int adapters_base_parse(const json_t *object, struct adapters_base *b, struct err *e);

// What an adapter's own file says.
struct adapters_facts {
    char arch[64];
    uint32_t rank; // the largest
    float alpha;
    uint32_t matrices;
    uint64_t bytes;
};
// Holds an adapter's file against the model's: kind, architecture, every pair of matrices and its shape,
// types. What passes here is loaded by the model library without an assert. ERR_CORRUPT, ERR_MISMATCH and
// ERR_UNSUPPORTED name the tensor or key.
int adapters_check(const char *file, const char *model, struct adapters_facts *out, struct err *e);

struct adapters_entry {
    char name[ADAPTERS_NAME_BYTES];
    char path[MODELS_PATH_BYTES]; // of adapter.gguf
    char sha256[MODELS_SUM_BYTES];
    uint64_t bytes;
    uint32_t rank;
    float alpha;
    int64_t created_unix_s;
    char job[65]; // "": none
    struct adapters_base base;
    // The parity check: loss of base and adapter on the same rows, as the trainer and as the serving engine
    // compute it; NaN: not done.
    double loss_trainer, loss_engine;
};

struct adapters_new {
    const char *name;
    const char *file;  // the adapter; it is copied
    const char *model; // path of the base it was trained on, or a name of the fake engine
    const char *job;   // may be NULL
    double loss_trainer, loss_engine;
    bool replace; // an adapter of that name may be there already
};
void adapters_new_default(struct adapters_new *n); // no job, no losses, no replacing

// 0, or ERR_INVALID with what a name may look like. Accepts no "ft:".
int adapters_name_check(const char *name, struct err *e);
int adapters_dir(char out[MODELS_PATH_BYTES], struct err *e);
// Checks the file (adapters_check), copies it aside and renames. *out may be NULL. ERR_BUSY: the name is
// taken, or another program publishes.
int adapters_publish(const struct adapters_new *n, struct adapters_entry *out, struct err *e);
// By "ft:NAME" or NAME; ERR_NOT_FOUND names those that are there.
int adapters_find(const char *name, struct adapters_entry *out, struct err *e);
int adapters_remove(const char *name, struct err *e);

struct adapters_list {
    struct adapters_entry *items; // sorted by name
    size_t n;
};
// No folder: an empty list. What does not read is left out, with a warning in the log.
int adapters_list_read(struct adapters_list *l, struct err *e);
void adapters_list_fini(struct adapters_list *l);
// Changes whenever an adapter comes or goes; 0: there is no folder. Costs one stat.
uint64_t adapters_version(void);

#endif
