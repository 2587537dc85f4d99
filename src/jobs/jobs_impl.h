// Shared by the files of jobs/; nobody else includes this.
#ifndef JOBS_JOBS_IMPL_H
#define JOBS_JOBS_IMPL_H

#include "base/db.h"
#include "jobs/jobs.h"

#include <pthread.h>
#include <sys/types.h>

#define JOBS_CHILDREN_MAX 64
#define JOBS_RECORD_MAX (4u << 20) // bytes of record.json, job.json, result.json

struct jobs {
    char dir[JOBS_PATH_BYTES];
    struct jobs_options options;
    pthread_mutex_t lock; // over all that follows
    struct db *db;
    pid_t children[JOBS_CHILDREN_MAX]; // runners that this process started, to be waited for
    size_t n_children;
    bool room_made;
};

// ---- rows (jobs/rows.c). The lock is held. ---------------------------------------------------------

extern const char *const jobs_migrations[];
extern const size_t jobs_n_migrations;
#define JOBS_COLUMNS                                                                               \
    "id,name,model,owner,executor,state,created,started,ended,attempts,examples,data_bytes,"       \
    "limit_time,limit_memory,disk_reserve,ran,error_code,error_message,options,executor_options,"  \
    "meta,command,result"
// The row under the statement's cursor (its first columns are JOBS_COLUMNS).
void jobs_row_read(const struct jobs *j, struct db_statement *s, struct jobs_job *out);
int jobs_row_get(struct jobs *j, const char *id, struct jobs_job *out, struct err *e);
int jobs_row_insert(struct jobs *j, const struct jobs_job *job, struct err *e);
int jobs_row_change(struct jobs *j, const char *id, const struct jobs_change *c, struct err *e);
int jobs_event_insert(struct jobs *j, const char *id, const struct jobs_event *event,
                      struct err *e);
// After a damaged database: the rows again, from the folders.
int jobs_rows_recover(struct jobs *j, struct err *e);

// ---- folders (jobs/folder.c) -------------------------------------------------------------------------

// DIR/ID[/NAME]; caller frees.
char *jobs_path(const struct jobs *j, const char *id, const char *name);
// The job as FOLDER/record.json: what jobs_rows_recover reads.
int jobs_record_write(const struct jobs_job *job, struct err *e);
int jobs_record_read(const char *folder, struct jobs_job *out, struct err *e);
// A JSON object of at most JOBS_RECORD_MAX bytes: new reference, NULL and e set.
json_t *jobs_json_read(const char *path, struct err *e);
int jobs_json_write(const char *path, const json_t *value, struct err *e);
int jobs_folder_remove(const char *path, struct err *e);
int jobs_file_copy(const char *from, const char *to, struct err *e);
// Bytes that are free for us on the disk of `path`.
int jobs_disk_free(const char *path, uint64_t *bytes, struct err *e);

#endif
