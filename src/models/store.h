// The store of models: ~/.local/share/tandem/models (TANDEM_DATA or XDG_DATA_HOME move it).
//
//   OWNER--REPO--QUANT/manifest.json    what it is, where it came from, which files, whether it is complete
//   OWNER--REPO--QUANT/*.gguf           under the names they came with, for parts of a split model find each
//                                       other by name; *.part and *.part.json while they are on the way
//   aliases.json                        {"alias": "owner/repo:quant" or "/path/to/file.gguf"}
//   .locks/                             one per model and one for the aliases, so that two programs do not
//                                       write the same thing; never removed
//
// Owner: the caller; every call reads the folder anew and keeps nothing. Any thread. Names in manifests are
// checked like a stranger's: a manifest that somebody else wrote cannot point out of its folder.
#ifndef MODELS_STORE_H
#define MODELS_STORE_H

#include "base/err.h"
#include "models/gguf.h"
#include "models/names.h"
#include "models/sum.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODELS_PATH_BYTES 2048
#define MODELS_SIZE_UNKNOWN UINT64_MAX
#define MODELS_FILES_MAX MODELS_GGUF_SPLITS_MAX

struct models_file {
    char name[MODELS_FILE_BYTES];
    uint64_t bytes;                // or MODELS_SIZE_UNKNOWN
    char sha256[MODELS_SUM_BYTES]; // "": not known yet
};

struct models_entry {
    struct models_id id;
    char dir[MODELS_PATH_BYTES];
    char source[1024]; // "https://.../user/repo@commit", an address, or the path it was added from
    char ref[1024];    // what to give to `tandem pull` to get it again
    char arch[64], size_label[32];
    uint32_t n_ctx; // what the model was trained for; 0: not told
    uint64_t params;
    int64_t pulled_unix_s;
    bool complete;
    struct models_file *files; // owned; the first is the one to load
    size_t n_files;
    struct models_file projector; // name "": none
};
void models_entry_fini(struct models_entry *m);
uint64_t models_entry_bytes(const struct models_entry *m); // of all files whose size is known
// DIR/NAME; ERR_RANGE when too long.
int models_entry_path(const struct models_entry *m, const char *name, char out[MODELS_PATH_BYTES],
                      struct err *e);

int models_store_dir(char out[MODELS_PATH_BYTES], struct err *e);
// Sets m->dir from m->id and makes the folder.
int models_entry_dir_make(struct models_entry *m, struct err *e);
int models_entry_save(const struct models_entry *m, struct err *e);
// ERR_NOT_FOUND when there is none of that name.
int models_entry_load(const struct models_id *id, struct models_entry *m, struct err *e);
// Removes the folder with all that a pull put there. ERR_BUSY while a pull writes to it.
int models_entry_remove(const struct models_entry *m, struct err *e);

struct models_list {
    struct models_entry *items; // sorted by id
    size_t n;
};
// No folder: an empty list. A folder whose manifest does not read is left out, with a warning in the log.
int models_list_read(struct models_list *l, struct err *e);
void models_list_fini(struct models_list *l);
// The shortest form of the item's name that means no other item.
void models_list_name(const struct models_list *l, size_t i, char out[MODELS_ID_BYTES]);

// Keeps others out until it is closed: the descriptor, or ERR_BUSY when somebody holds it.
int models_lock(const struct models_id *id, struct err *e);
void models_unlock(int fd);

// ---- names that users give -----------------------------------------------------------------------

// New reference to the object; empty when there is no file.
int models_aliases_read(json_t **out, struct err *e);
// `target`: what models_find accepts. Stored as the full name or the whole path.
int models_alias_set(const char *alias, const char *target, struct err *e);
int models_alias_remove(const char *alias, struct err *e); // ERR_NOT_FOUND lists those that are
// Those that stand for this model; how many were removed.
int models_alias_drop(const struct models_id *id, size_t *removed, struct err *e);

struct models_found {
    char path[MODELS_PATH_BYTES];      // of the file to load, or a name of the fake engine
    char projector[MODELS_PATH_BYTES]; // "": none
    char name[MODELS_ID_BYTES];        // full name of a model of the store; "": a plain file
};
// What `name` means: a file that is there, an alias, or a model of the store. "fake:..." stays as it is.
// ERR_NOT_FOUND and ERR_INVALID (ambiguous) say which names there are.
int models_find(const char *name, struct models_found *out, struct err *e);
// The same among models of the store only, complete or not: the index in l->items.
int models_list_find(const struct models_list *l, const char *name, size_t *index, struct err *e);

#endif
