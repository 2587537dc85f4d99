// Files that clients upload, for training: STATE/files/ID (the bytes) and STATE/files/ID.json (what they are).
// Private to gateway/.
//
// Owner: the caller; every call reads the folder anew. Any thread; an upload is one thread's. A file
// appears whole or not at all, for its owner's eyes alone (0600).
#ifndef GATEWAY_FILES_H
#define GATEWAY_FILES_H

#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FILES_BYTES_MAX (512ull << 20) // of one file, as OpenAI has it
#define FILES_COUNT_MAX 1000u
#define FILES_ID_BYTES 32 // "file-" and 24 hexadecimal digits
#define FILES_NAME_BYTES 201
#define FILES_PURPOSE_BYTES 24
#define FILES_PATH_BYTES 2048
#define FILES_DISK_RESERVE (256ull << 20) // that must stay free

struct files_entry {
    char id[FILES_ID_BYTES], name[FILES_NAME_BYTES], purpose[FILES_PURPOSE_BYTES];
    uint64_t bytes;
    int64_t created_unix_s;
};
json_t *files_json(const struct files_entry *f); // OpenAI's file object

struct files_list {
    struct files_entry *items; // newest first
    size_t n;
};
int files_list_read(struct files_list *l, struct err *e);
void files_list_fini(struct files_list *l);
// ERR_NOT_FOUND for an id that is none; nothing but an id of ours reaches the disk.
int files_find(const char *id, struct files_entry *out, struct err *e);
int files_path(const char *id, char out[FILES_PATH_BYTES], struct err *e);
int files_remove(const char *id, struct err *e);

// ---- one on its way in ----
struct files_upload;
int files_upload_new(struct files_upload **out, struct err *e);
int files_upload_put(struct files_upload *u, const void *data, size_t n, struct err *e);
// Gives the file its name. The upload is to be freed all the same.
int files_upload_end(struct files_upload *u, const char *name, const char *purpose,
                     struct files_entry *out, struct err *e);
void files_upload_free(struct files_upload *u); // NULL is fine; what has not ended is gone

#endif
