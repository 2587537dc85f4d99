#include "gateway/image_jobs_rows.h"

#include "base/buf.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const migrations[] = {
    "CREATE TABLE jobs("
    " number INTEGER PRIMARY KEY AUTOINCREMENT,"
    " id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, base TEXT NOT NULL, model TEXT NOT NULL,"
    " state INTEGER NOT NULL, edit INTEGER NOT NULL, n INTEGER NOT NULL, steps INTEGER NOT NULL,"
    " seed INTEGER NOT NULL, created INTEGER NOT NULL, started INTEGER NOT NULL,"
    " ended INTEGER NOT NULL, attempts INTEGER NOT NULL, body TEXT NOT NULL,"
    " pictures TEXT NOT NULL, timings TEXT NOT NULL, code TEXT NOT NULL, why TEXT NOT NULL);"
    // Megabytes, which are not to be written anew with every change of a job.
    "CREATE TABLE files(job TEXT PRIMARY KEY REFERENCES jobs(id) ON DELETE CASCADE,"
    " image BLOB, mask BLOB);"
    "CREATE INDEX jobs_state ON jobs(state, number);"
    "CREATE INDEX jobs_owner ON jobs(owner, number);",
    "ALTER TABLE jobs ADD COLUMN missing INTEGER NOT NULL DEFAULT 0;",
};

#define COLUMNS                                                                                    \
    "number,id,owner,base,model,state,edit,n,steps,seed,created,started,ended,attempts,body,"      \
    "pictures,timings,code,why,missing"

const char *image_jobs_state_name(enum image_jobs_state state)
{
    static const char *const names[] = {"queued", "in_progress", "completed", "failed",
                                        "cancelled"};

    return state < IMAGE_JOBS_STATES ? names[state] : "";
}

bool image_jobs_state_final(enum image_jobs_state state)
{
    return state != IMAGE_JOBS_QUEUED && state != IMAGE_JOBS_RUNNING;
}

static void files_free(struct image_jobs_row *r)
{
    free(r->image.data);
    free(r->mask.data);
    r->image = r->mask = (struct images_part){0};
}

void image_jobs_row_fini(struct image_jobs_row *r)
{
    json_decref(r->body);
    json_decref(r->pictures);
    json_decref(r->timings);
    files_free(r);
    *r = (struct image_jobs_row){0};
}

int image_jobs_rows_open(const char *path, struct db **out, struct err *e)
{
    const struct db_options o = {.path = path,
                                 .migrations = migrations,
                                 .n_migrations = sizeof(migrations) / sizeof(char *)};

    int rc = db_open(&o, out, e);

    // What is deleted is a prompt, or somebody's picture: no byte of it stays in the file.
    return rc == 0 ? db_exec(*out, "PRAGMA secure_delete=ON", e) : rc;
}

// ---- writing --------------------------------------------------------------------------------------------

static void json_bind(struct db_statement *s, int place, const json_t *value)
{
    char *text = value ? json_line(value) : mem_strdup("{}");

    db_bind_text(s, place, text);
    free(text);
}

static void part_bind(struct db_statement *s, int place, const struct images_part *p)
{
    if (p->data)
        db_bind_blob(s, place, p->data, p->len);
}

static int files_insert(struct db *db, const struct image_jobs_row *r, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db, "INSERT INTO files(job,image,mask) VALUES(?1,?2,?3)", &s, e);

    if (rc != 0)
        return rc;
    db_bind_text(s, 1, r->id);
    part_bind(s, 2, &r->image);
    part_bind(s, 3, &r->mask);
    return db_run(s, 0, e);
}

static int files_drop(struct db *db, const char *id, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db, "DELETE FROM files WHERE job=?1", &s, e);

    if (rc == 0)
        db_bind_text(s, 1, id);
    return db_run(s, rc, e);
}

static int row_insert(struct db *db, const struct image_jobs_row *r, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db,
                        "INSERT INTO jobs(id,owner,base,model,state,edit,n,steps,seed,created,"
                        "started,ended,attempts,body,pictures,timings,code,why) VALUES("
                        "?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,0,0,0,?11,'[]','{}','','')",
                        &s, e);

    if (rc != 0)
        return rc;
    db_bind_text(s, 1, r->id);
    db_bind_text(s, 2, r->owner);
    db_bind_text(s, 3, r->base);
    db_bind_text(s, 4, r->model);
    db_bind_i64(s, 5, r->state);
    db_bind_i64(s, 6, r->edit);
    db_bind_i64(s, 7, r->n);
    db_bind_i64(s, 8, r->steps);
    db_bind_i64(s, 9, r->seed);
    db_bind_i64(s, 10, r->created_unix_s);
    json_bind(s, 11, r->body);
    return db_run(s, 0, e);
}

int image_jobs_row_insert(struct db *db, struct image_jobs_row *r, struct err *e)
{
    int rc = db_begin(db, e);

    if (rc != 0)
        return rc;
    rc = row_insert(db, r, e);
    r->number = rc == 0 ? db_last_id(db) : 0;
    if (rc == 0 && r->image.data)
        rc = files_insert(db, r, e);
    return db_end(db, rc, e);
}

static int changed(struct db *db, int rc, const char *id, struct err *e)
{
    if (rc == 0 && db_changed_rows(db) == 0)
        return err_set(e, ERR_NOT_FOUND, "there is no image job \"%.40s\" (any more)", id);
    return rc;
}

int image_jobs_row_update(struct db *db, const struct image_jobs_row *r, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db,
                        "UPDATE jobs SET state=?2, started=?3, ended=?4, attempts=?5, seed=?6,"
                        " pictures=?7, timings=?8, code=?9, why=?10 WHERE id=?1",
                        &s, e);

    if (rc != 0)
        return rc;
    db_bind_text(s, 1, r->id);
    db_bind_i64(s, 2, r->state);
    db_bind_i64(s, 3, r->started_unix_s);
    db_bind_i64(s, 4, r->ended_unix_s);
    db_bind_i64(s, 5, r->attempts);
    db_bind_i64(s, 6, r->seed);
    json_bind(s, 7, r->pictures);
    json_bind(s, 8, r->timings);
    db_bind_text(s, 9, r->code);
    db_bind_text(s, 10, r->why);
    rc = changed(db, db_run(s, 0, e), r->id, e);
    return rc == 0 && image_jobs_state_final(r->state) ? files_drop(db, r->id, e) : rc;
}

int image_jobs_row_remove(struct db *db, const char *id, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db, "DELETE FROM jobs WHERE id=?1", &s, e);

    if (rc == 0)
        db_bind_text(s, 1, id);
    return changed(db, db_run(s, rc, e), id, e);
}

// ---- reading --------------------------------------------------------------------------------------------

static json_t *json_column(struct db_statement *s, int column)
{
    const char *text = db_column_text(s, column);
    json_t *v = json_loads(text, 0, NULL);

    return v ? v : json_object();
}

static void text_column(struct db_statement *s, int column, char *out, size_t n)
{
    snprintf(out, n, "%s", db_column_text(s, column));
}

static void row_read(struct db_statement *s, struct image_jobs_row *r)
{
    *r = (struct image_jobs_row){
        .number = db_column_i64(s, 0),
        .state = (enum image_jobs_state)db_column_i64(s, 5),
        .edit = db_column_i64(s, 6) != 0,
        .n = (uint32_t)db_column_i64(s, 7),
        .steps = (uint32_t)db_column_i64(s, 8),
        .seed = db_column_i64(s, 9),
        .created_unix_s = db_column_i64(s, 10),
        .started_unix_s = db_column_i64(s, 11),
        .ended_unix_s = db_column_i64(s, 12),
        .attempts = (uint32_t)db_column_i64(s, 13),
        .body = json_column(s, 14),
        .pictures = json_column(s, 15),
        .timings = json_column(s, 16),
        .missing_unix_s = db_column_i64(s, 19),
    };
    text_column(s, 1, r->id, sizeof(r->id));
    text_column(s, 2, r->owner, sizeof(r->owner));
    text_column(s, 3, r->base, sizeof(r->base));
    text_column(s, 4, r->model, sizeof(r->model));
    text_column(s, 17, r->code, sizeof(r->code));
    text_column(s, 18, r->why, sizeof(r->why));
}

int image_jobs_row_get(struct db *db, const char *id, const char *owner, struct image_jobs_row *out,
                       struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db, "SELECT " COLUMNS " FROM jobs WHERE id=?1 AND (?2 IS NULL OR owner=?2)",
                        &s, e);

    *out = (struct image_jobs_row){0};
    if (rc != 0)
        return rc;
    db_bind_text(s, 1, id);
    db_bind_text(s, 2, owner);
    rc = db_step(s, e);
    if (rc == 1)
        row_read(s, out);
    else if (rc == 0)
        rc = err_set(e, ERR_NOT_FOUND,
                     "there is no image job \"%.40s\" (any more): they are kept for a while after "
                     "their end; GET /v1/images/jobs lists yours",
                     id);
    db_finish(s);
    return rc < 0 ? rc : 0;
}

int image_jobs_rows_scrub(struct db *db, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db, "PRAGMA wal_checkpoint(TRUNCATE)", &s, e);

    if (rc == 0)
        rc = db_step(s, e);
    if (rc == 1 && db_column_i64(s, 0) != 0)
        rc = err_set(e, ERR_BUSY,
                     "another program reads the image jobs: what was removed is still in the log "
                     "beside their file");
    db_finish(s);
    return rc < 0 ? rc : 0;
}

int image_jobs_row_before(struct db *db, int64_t number, uint32_t *out, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db, "SELECT count(*) FROM jobs WHERE state=0 AND number<?1", &s, e);

    *out = 0;
    if (rc != 0)
        return rc;
    db_bind_i64(s, 1, number);
    rc = db_step(s, e);
    if (rc == 1)
        *out = (uint32_t)db_column_i64(s, 0);
    db_finish(s);
    return rc < 0 ? rc : 0;
}

static void part_read(struct db_statement *s, int column, struct images_part *p)
{
    const void *data = db_column_blob(s, column, &p->len);

    p->data = NULL;
    if (p->len == 0)
        return;
    p->data = mem_alloc(p->len);
    memcpy(p->data, data, p->len);
}

int image_jobs_row_files(struct db *db, struct image_jobs_row *r, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db, "SELECT image, mask FROM files WHERE job=?1", &s, e);

    if (rc != 0)
        return rc;
    db_bind_text(s, 1, r->id);
    rc = db_step(s, e);
    files_free(r);
    if (rc == 1) {
        part_read(s, 0, &r->image);
        part_read(s, 1, &r->mask);
    }
    db_finish(s);
    return rc < 0 ? rc : 0;
}

// ---- many -----------------------------------------------------------------------------------------------

// Which rows: the values are bound, this text only says how they are held against columns.
#define WHERE                                                                                      \
    " FROM jobs WHERE (?1 IS NULL OR owner=?1) AND (?2 < 0 OR state=?2)"                           \
    " AND (?3 = 0 OR (ended > 0 AND ended <= ?3))"

static int list_prepare(struct db *db, const struct image_jobs_query *q, struct db_statement **s,
                        struct err *e)
{
    static const char newest[] =
        "SELECT " COLUMNS WHERE " AND (?4 = '' OR number < (SELECT number FROM jobs WHERE id=?4))"
        " ORDER BY number DESC LIMIT ?5";
    static const char oldest[] =
        "SELECT " COLUMNS WHERE " AND (?4 = '' OR number > (SELECT number FROM jobs WHERE id=?4))"
        " ORDER BY number LIMIT ?5";
    int rc = db_prepare(db, q->oldest ? oldest : newest, s, e);

    if (rc != 0)
        return rc;
    db_bind_text(*s, 1, q->owner);
    db_bind_i64(*s, 2, q->state == IMAGE_JOBS_STATES ? -1 : (int64_t)q->state);
    db_bind_i64(*s, 3, q->ended_by_unix_s);
    db_bind_text(*s, 4, q->after ? q->after : "");
    db_bind_i64(*s, 5, (int64_t)q->limit + 1);
    return 0;
}

// Finishes the statement.
static int list_read(struct db_statement *s, int rc, uint32_t limit, struct image_jobs_list *out,
                     struct err *e)
{
    *out = (struct image_jobs_list){.items = mem_alloc((limit + 1) * sizeof(*out->items))};
    while (rc == 0 && (rc = db_step(s, e)) == 1) {
        rc = 0;
        if (out->n == limit) {
            out->more = true;
            break;
        }
        row_read(s, &out->items[out->n++]);
    }
    db_finish(s);
    if (rc != 0)
        image_jobs_list_fini(out);
    return rc;
}

int image_jobs_rows_list(struct db *db, const struct image_jobs_query *q,
                         struct image_jobs_list *out, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = list_prepare(db, q, &s, e);

    return list_read(s, rc, q->limit, out, e);
}

int image_jobs_rows_next(struct db *db, struct image_jobs_list *out, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db,
                        "SELECT " COLUMNS " FROM jobs WHERE number IN"
                        " (SELECT min(number) FROM jobs WHERE state=0 GROUP BY model)"
                        " ORDER BY number",
                        &s, e);

    return list_read(s, rc, GATEWAY_IMAGE_JOBS_MAX, out, e);
}

int image_jobs_rows_missing(struct db *db, const char *model, int64_t unix_s, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db,
                        "UPDATE jobs SET missing=?2"
                        " WHERE state=0 AND model=?1 AND (missing=0) <> (?2=0)",
                        &s, e);

    if (rc != 0)
        return rc;
    db_bind_text(s, 1, model);
    db_bind_i64(s, 2, unix_s);
    return db_run(s, 0, e);
}

void image_jobs_list_fini(struct image_jobs_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        image_jobs_row_fini(&l->items[i]);
    free(l->items);
    *l = (struct image_jobs_list){0};
}

int image_jobs_rows_count(struct db *db, const char *owner, struct image_jobs_count *out,
                          struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(db,
                        "SELECT count(*), sum(state=0), sum(state=1),"
                        " (SELECT sum(ifnull(length(image),0)+ifnull(length(mask),0)) FROM files)"
                        " FROM jobs WHERE ?1 IS NULL OR owner=?1",
                        &s, e);

    *out = (struct image_jobs_count){0};
    if (rc != 0)
        return rc;
    db_bind_text(s, 1, owner);
    rc = db_step(s, e);
    if (rc == 1)
        *out = (struct image_jobs_count){
            .rows = (uint32_t)db_column_i64(s, 0),
            .queued = (uint32_t)db_column_i64(s, 1),
            .running = (uint32_t)db_column_i64(s, 2),
            .file_bytes = (uint64_t)db_column_i64(s, 3),
        };
    db_finish(s);
    return rc < 0 ? rc : 0;
}
