// The queue's tables.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "jobs/jobs_impl.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const jobs_migrations[] = {
    "CREATE TABLE jobs("
    " number INTEGER PRIMARY KEY AUTOINCREMENT,"
    " id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, model TEXT NOT NULL, owner TEXT NOT NULL,"
    " executor TEXT NOT NULL, state INTEGER NOT NULL,"
    " created INTEGER NOT NULL, started INTEGER NOT NULL, ended INTEGER NOT NULL,"
    " attempts INTEGER NOT NULL, examples INTEGER NOT NULL, data_bytes INTEGER NOT NULL,"
    " limit_time INTEGER NOT NULL, limit_memory INTEGER NOT NULL, disk_reserve INTEGER NOT NULL,"
    " ran REAL NOT NULL, error_code TEXT NOT NULL, error_message TEXT NOT NULL,"
    " options TEXT NOT NULL, executor_options TEXT NOT NULL, meta TEXT NOT NULL,"
    " command TEXT NOT NULL, result TEXT NOT NULL,"
    " handle TEXT NOT NULL DEFAULT '',"
    // How often a runner was started without one getting to work, and when last.
    " starts INTEGER NOT NULL DEFAULT 0, start_unix INTEGER NOT NULL DEFAULT 0);"
    "CREATE INDEX jobs_state ON jobs(state);"
    "CREATE INDEX jobs_name ON jobs(name);"
    "CREATE TABLE events("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " job TEXT NOT NULL REFERENCES jobs(id) ON DELETE CASCADE,"
    " unix_s INTEGER NOT NULL, level TEXT NOT NULL, type TEXT NOT NULL, message TEXT NOT NULL,"
    " data TEXT NOT NULL);"
    "CREATE INDEX events_job ON events(job, id);"
    "CREATE TABLE host(one INTEGER PRIMARY KEY CHECK(one = 1), pid INTEGER NOT NULL,"
    " beat INTEGER NOT NULL);",
};
const size_t jobs_n_migrations = sizeof jobs_migrations / sizeof *jobs_migrations;

// ---- states --------------------------------------------------------------------------------------

static const char *const state_names[JOBS_STATES] = {"queued",    "running", "cancelling",
                                                     "succeeded", "failed",  "cancelled"};

const char *jobs_state_name(enum jobs_state state)
{
    return state < JOBS_STATES ? state_names[state] : "unknown";
}

enum jobs_state jobs_state_find(const char *name)
{
    enum jobs_state s = JOBS_QUEUED;
    while (s < JOBS_STATES && strcmp(state_names[s], name) != 0)
        s++;
    return s;
}

bool jobs_state_final(enum jobs_state state)
{
    return state == JOBS_SUCCEEDED || state == JOBS_FAILED || state == JOBS_CANCELLED;
}

// ---- reading -------------------------------------------------------------------------------------

static json_t *column_json(struct db_statement *s, int column)
{
    const char *text = db_column_text(s, column);
    json_t *v = json_loads(text, JSON_DECODE_ANY, NULL);
    return v ? v : json_null();
}

static void column_copy(struct db_statement *s, int column, char *out, size_t n)
{
    snprintf(out, n, "%s", db_column_text(s, column));
}

void jobs_row_read(const struct jobs *j, struct db_statement *s, struct jobs_job *out)
{
    int c = 0;
    memset(out, 0, sizeof *out);
    column_copy(s, c++, out->id, sizeof out->id);
    column_copy(s, c++, out->name, sizeof out->name);
    column_copy(s, c++, out->model, sizeof out->model);
    column_copy(s, c++, out->owner, sizeof out->owner);
    column_copy(s, c++, out->executor, sizeof out->executor);
    int64_t state = db_column_i64(s, c++);
    out->state = state >= 0 && state < JOBS_STATES ? (enum jobs_state)state : JOBS_FAILED;
    out->created_unix_s = db_column_i64(s, c++);
    out->started_unix_s = db_column_i64(s, c++);
    out->ended_unix_s = db_column_i64(s, c++);
    out->attempts = (uint32_t)db_column_i64(s, c++);
    out->examples = (uint64_t)db_column_i64(s, c++);
    out->data_bytes = (uint64_t)db_column_i64(s, c++);
    out->limit_time_s = (uint64_t)db_column_i64(s, c++);
    out->limit_memory_bytes = (uint64_t)db_column_i64(s, c++);
    out->disk_reserve_bytes = (uint64_t)db_column_i64(s, c++);
    out->ran_s = db_column_f64(s, c++);
    column_copy(s, c++, out->error.code, sizeof out->error.code);
    column_copy(s, c++, out->error.message, sizeof out->error.message);
    out->options = column_json(s, c++);
    out->executor_options = column_json(s, c++);
    out->meta = column_json(s, c++);
    out->command = column_json(s, c++);
    out->result = column_json(s, c++);
    snprintf(out->folder, sizeof out->folder, "%.*s/%s",
             (int)(sizeof out->folder - sizeof out->id - 2), j->dir, out->id);
}

int jobs_row_get(struct jobs *j, const char *id, struct jobs_job *out, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(j->db, "SELECT " JOBS_COLUMNS " FROM jobs WHERE id=?1", &s, e);
    if (rc != 0)
        return rc;
    db_bind_text(s, 1, id);
    rc = db_step(s, e);
    if (rc == 1)
        jobs_row_read(j, s, out);
    db_finish(s);
    return rc == 1   ? 0
           : rc == 0 ? err_set(e, ERR_NOT_FOUND, "no job \"%.60s\"; tandem train ls lists them", id)
                     : rc;
}

// ---- writing -------------------------------------------------------------------------------------

static void bind_json(struct db_statement *s, int place, const json_t *value)
{
    char *text = value ? json_text(value) : mem_strdup("null");
    db_bind_text(s, place, text);
    free(text);
}

static void row_bind(struct db_statement *s, const struct jobs_job *job)
{
    int p = 1;
    db_bind_text(s, p++, job->id);
    db_bind_text(s, p++, job->name);
    db_bind_text(s, p++, job->model);
    db_bind_text(s, p++, job->owner);
    db_bind_text(s, p++, job->executor);
    db_bind_i64(s, p++, job->state);
    db_bind_i64(s, p++, job->created_unix_s);
    db_bind_i64(s, p++, job->started_unix_s);
    db_bind_i64(s, p++, job->ended_unix_s);
    db_bind_i64(s, p++, job->attempts);
    db_bind_i64(s, p++, (int64_t)job->examples);
    db_bind_i64(s, p++, (int64_t)job->data_bytes);
    db_bind_i64(s, p++, (int64_t)job->limit_time_s);
    db_bind_i64(s, p++, (int64_t)job->limit_memory_bytes);
    db_bind_i64(s, p++, (int64_t)job->disk_reserve_bytes);
    db_bind_f64(s, p++, job->ran_s);
    db_bind_text(s, p++, job->error.code);
    db_bind_text(s, p++, job->error.message);
    bind_json(s, p++, job->options);
    bind_json(s, p++, job->executor_options);
    bind_json(s, p++, job->meta);
    bind_json(s, p++, job->command);
    bind_json(s, p++, job->result);
}

int jobs_row_insert(struct jobs *j, const struct jobs_job *job, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(j->db,
                        "INSERT INTO jobs(" JOBS_COLUMNS ") VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,"
                        "?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23)",
                        &s, e);
    if (rc == 0)
        row_bind(s, job);
    return db_run(s, rc, e);
}

int jobs_event_insert(struct jobs *j, const char *id, const struct jobs_event *event, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(j->db,
                        "INSERT INTO events(job,unix_s,level,type,message,data) "
                        "VALUES(?1,?2,?3,?4,?5,?6)",
                        &s, e);
    if (rc == 0) {
        db_bind_text(s, 1, id);
        db_bind_i64(s, 2, clock_unix_s());
        db_bind_text(s, 3, event->level);
        db_bind_text(s, 4, event->type);
        db_bind_text(s, 5, event->message);
        bind_json(s, 6, event->data);
    }
    return db_run(s, rc, e);
}

static int state_update(struct jobs *j, const char *id, const struct jobs_change *c, struct err *e)
{
    static const struct jobs_error none;
    const struct jobs_error *error = c->error ? c->error : &none;
    struct db_statement *s = NULL;
    int rc =
        db_prepare(j->db,
                   "UPDATE jobs SET state=?2, error_code=?3, error_message=?4,"
                   " result=CASE WHEN ?5 IS NULL THEN result ELSE ?5 END,"
                   " started=CASE WHEN ?2=1 AND started=0 THEN ?6 ELSE started END,"
                   " ended=CASE WHEN ?2>=3 THEN ?6 ELSE 0 END WHERE id=?1 AND (1 << state) & ?7",
                   &s, e);
    if (rc != 0)
        return rc;
    char *result = c->result ? json_text(c->result) : NULL;
    db_bind_text(s, 1, id);
    db_bind_i64(s, 2, c->to);
    db_bind_text(s, 3, error->code);
    db_bind_text(s, 4, error->message);
    db_bind_text(s, 5, result);
    db_bind_i64(s, 6, clock_unix_s());
    db_bind_i64(s, 7, c->from);
    rc = db_run(s, 0, e);
    free(result);
    if (rc == 0 && db_changed_rows(j->db) == 0)
        rc = err_set(e, ERR_MISMATCH, "job %s is in another state by now", id);
    return rc;
}

int jobs_row_change(struct jobs *j, const char *id, const struct jobs_change *c, struct err *e)
{
    const char *level = c->to == JOBS_FAILED ? "error" : "info";
    char *text = mem_format("%s%s%s", jobs_state_name(c->to), c->error ? ": " : "",
                            c->error ? c->error->message : "");
    struct jobs_event event = {level, "state", text, NULL};
    struct jobs_job job;
    int rc = db_begin(j->db, e);
    if (rc == 0) {
        rc = state_update(j, id, c, e);
        if (rc == 0)
            rc = jobs_event_insert(j, id, &event, e);
        rc = db_end(j->db, rc, e);
    }
    free(text);
    // The folder's copy serves a damaged database only: that it is not written is no reason to fail.
    struct err aside;
    if (rc == 0 && jobs_row_get(j, id, &job, &aside) == 0) {
        if (jobs_record_write(&job, &aside) != 0)
            log_warn("jobs", "%s", aside.message);
        jobs_job_fini(&job);
    }
    return rc;
}

// ---- after damage --------------------------------------------------------------------------------

static void recover_one(struct jobs *j, const char *name)
{
    struct jobs_event event = {"warn", "message", "taken over from its folder", NULL};
    struct jobs_job job;
    struct err e;
    char *folder = jobs_path(j, name, NULL);
    int rc = jobs_record_read(folder, &job, &e);
    if (rc == 0) {
        rc = strcmp(job.id, name) == 0 ? jobs_row_insert(j, &job, &e) : ERR_MISMATCH;
        if (rc == 0)
            jobs_event_insert(j, job.id, &event, &e);
        jobs_job_fini(&job);
    }
    if (rc != 0)
        log_warn("jobs", "folder %s is not taken over: %s", folder, e.message);
    free(folder);
}

int jobs_rows_recover(struct jobs *j, struct err *e)
{
    struct dirent **entries = NULL;
    int n = scandir(j->dir, &entries, NULL, alphasort);
    (void)e;
    for (int i = 0; i < n; i++) {
        if (strncmp(entries[i]->d_name, "ftjob-", 6) == 0)
            recover_one(j, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return 0;
}
