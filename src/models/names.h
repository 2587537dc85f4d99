// How models are called. A model that was pulled is OWNER/REPO:QUANT, in lower case and without the
// "-GGUF" that repositories end in: "bartowski/smollm2-135m-instruct:q4_k_m". OWNER is the user of the
// hub, the host of an address, or "local"; people leave it out, and QUANT as well, where that is clear.
//
// Pure functions. Names become folders and file names: whatever comes from a server or a user passes
// through here first, and what is not of letters, digits, '.', '_', '-' and '+' does not get further.
#ifndef MODELS_NAMES_H
#define MODELS_NAMES_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODELS_OWNER_BYTES 97
#define MODELS_REPO_BYTES 129
#define MODELS_QUANT_BYTES 33
#define MODELS_ID_BYTES (MODELS_OWNER_BYTES + MODELS_REPO_BYTES + MODELS_QUANT_BYTES)
#define MODELS_FILE_BYTES 201 // of a file's name

struct models_id {
    char owner[MODELS_OWNER_BYTES], repo[MODELS_REPO_BYTES], quant[MODELS_QUANT_BYTES];
};
// "owner/repo:quant"; without ":quant" where that is empty.
void models_id_format(const struct models_id *id, char out[MODELS_ID_BYTES]);
bool models_id_is(const struct models_id *a, const struct models_id *b);
// Lower case, without "-GGUF"; characters that do not belong become '-'.
void models_id_make(struct models_id *id, const char *owner, const char *repo, const char *quant);

// What a user may say for a model that is in the store: [OWNER/]REPO[:QUANT], any case, with or without
// "-GGUF". Absent parts stay empty. ERR_INVALID names what is wrong.
int models_name_parse(const char *name, struct models_id *out, struct err *e);
// Whether the parts that `wanted` gives are those of `id`.
bool models_name_matches(const struct models_id *wanted, const struct models_id *id);

// "model-Q4_K_M.gguf", "model.q8_0-00001-of-00003.gguf" -> "Q4_K_M", "Q8_0": the quantisation that a file
// name ends in, in upper case; false: none.
bool models_quant_parse(const char *file, char out[MODELS_QUANT_BYTES]);
// Length of what stands before that, without the separator; the whole name without ".gguf" otherwise.
size_t models_quant_stem(const char *file);

// "x-00002-of-00007.gguf": no 2, count 7, stem the length of "x".
struct models_split {
    uint32_t no, count;
    size_t stem;
};
bool models_split_parse(const char *file, struct models_split *out);

// Ends in ".gguf", any case.
bool models_is_gguf(const char *file);
// A projector for images ("mmproj-..."), which is no model by itself.
bool models_is_projector(const char *file);
// The last part of a path.
const char *models_base_name(const char *path);
// Whether a name can be a file in a folder of ours: 1 to 200 characters of the above, no dot first.
bool models_file_name_ok(const char *name);

// ---- repositories --------------------------------------------------------------------------------

// USER/REPO[@REVISION][:QUANT or :FILE], also behind hf.co/ or https://huggingface.co/.
struct models_ref {
    char user[MODELS_OWNER_BYTES], repo[MODELS_REPO_BYTES];
    char revision[129];             // "main" where none is given
    char quant[MODELS_QUANT_BYTES]; // upper case; "": to be chosen
    char file[512];                 // path in the repository; "": to be chosen
};
// ERR_INVALID with the form that is expected.
int models_ref_parse(const char *text, struct models_ref *out, struct err *e);

#endif
