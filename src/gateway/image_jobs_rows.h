// The table of image jobs: STATE/image-jobs.db. One thread at a time, as with every struct db; nothing here knows of
// HTTP, or of who draws. Private to gateway/image_jobs*.c.
#ifndef GATEWAY_IMAGE_JOBS_ROWS_H
#define GATEWAY_IMAGE_JOBS_ROWS_H

#include "base/db.h"
#include "gateway/image_jobs.h"

enum image_jobs_state {
    IMAGE_JOBS_QUEUED,
    IMAGE_JOBS_RUNNING,
    IMAGE_JOBS_COMPLETED,
    IMAGE_JOBS_FAILED,
    IMAGE_JOBS_CANCELLED,
    IMAGE_JOBS_STATES
};
const char *image_jobs_state_name(enum image_jobs_state state); // "queued", "in_progress", ...
bool image_jobs_state_final(enum image_jobs_state state);

struct image_jobs_row {
    int64_t number; // rises with every job; 0: not in the table
    char id[IMAGE_JOBS_ID_BYTES], owner[MESSAGE_OWNER_BYTES], base[IMAGES_HOST_BYTES];
    char model[PARSE_MODEL_BYTES];
    enum image_jobs_state state;
    bool edit;
    uint32_t n, steps;                                    // pictures; of each, 0: who draws decides
    int64_t seed;                                         // of the first picture; IMAGE_SEED_NONE
    int64_t created_unix_s, started_unix_s, ended_unix_s; // 0: not yet
    int64_t missing_unix_s; // since when nobody has its model, as long as it waits; 0: somebody has
    uint32_t attempts;
    json_t *body;                          // owned: as the client sent it, without files
    json_t *pictures;                      // owned: of each that was drawn, what its event said
    json_t *timings;                       // owned: an object, of one that is completed
    char code[32], why[ERR_MESSAGE_BYTES]; // of failed; of queued: why it waits
    struct images_part image, mask; // owned; read by image_jobs_row_files alone, gone at the end
};
void image_jobs_row_fini(struct image_jobs_row *r);

// A file that is damaged is put aside, and an empty table begins.
int image_jobs_rows_open(const char *path, struct db **out, struct err *e);

// Writes all of it; sets its number.
int image_jobs_row_insert(struct db *db, struct image_jobs_row *r, struct err *e);
// owner NULL: anybody's. ERR_NOT_FOUND. Without files.
int image_jobs_row_get(struct db *db, const char *id, const char *owner, struct image_jobs_row *out,
                       struct err *e);
int image_jobs_row_files(struct db *db, struct image_jobs_row *r, struct err *e);
// Writes what changes while a job lives: state, times, attempts, seed, pictures, timings, error. A state that is final
// drops its files. ERR_NOT_FOUND: it is not there any more.
int image_jobs_row_update(struct db *db, const struct image_jobs_row *r, struct err *e);
// How many wait before it.
int image_jobs_row_before(struct db *db, int64_t number, uint32_t *out, struct err *e);
int image_jobs_row_remove(struct db *db, const char *id, struct err *e);

// What was removed leaves the log beside the file as well. ERR_BUSY: another program reads it.
int image_jobs_rows_scrub(struct db *db, struct err *e);

struct image_jobs_query {
    const char *owner;           // NULL: anybody's
    enum image_jobs_state state; // IMAGE_JOBS_STATES: any
    const char *after;           // an id, "": none: those that come behind it
    bool oldest;                 // first; else the newest
    int64_t ended_by_unix_s;     // those that had ended by then; 0: all
    uint32_t limit;
};
struct image_jobs_list {
    struct image_jobs_row *items; // owned, without files
    size_t n;
    bool more;
};
int image_jobs_rows_list(struct db *db, const struct image_jobs_query *q,
                         struct image_jobs_list *out, struct err *e);
// Of every model the oldest that waits, in the order in which they came.
int image_jobs_rows_next(struct db *db, struct image_jobs_list *out, struct err *e);
// Those of a model that wait: since when nobody has that, where it is not noted yet; 0: somebody has.
int image_jobs_rows_missing(struct db *db, const char *model, int64_t unix_s, struct err *e);
void image_jobs_list_fini(struct image_jobs_list *l);

struct image_jobs_count {
    uint32_t rows, queued, running;
    uint64_t file_bytes; // of everybody's
};
int image_jobs_rows_count(struct db *db, const char *owner, struct image_jobs_count *out,
                          struct err *e);

#endif
