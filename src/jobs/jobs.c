// Opening the queue, what is asked of it, and changes of one job.
#include "jobs/jobs.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "jobs/jobs_impl.h"
#include "os/os.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void jobs_options_default(struct jobs_options *o)
{
    *o = (struct jobs_options){.parallel = 1};
}

static int dir_find(struct jobs *j, struct err *e)
{
    char state[JOBS_PATH_BYTES - 128];
    if (j->options.dir && strlen(j->options.dir) >= sizeof state)
        return err_set(e, ERR_RANGE, "the path of the folder of jobs is longer than %zu bytes",
                       sizeof state - 1);
    if (j->options.dir) {
        snprintf(j->dir, sizeof j->dir, "%s", j->options.dir);
        return 0;
    }
    int rc = os_state_dir(state, sizeof state, e);
    if (rc == 0)
        snprintf(j->dir, sizeof j->dir, "%s/jobs", state);
    return rc;
}

int jobs_open(const struct jobs_options *o, struct jobs **out, struct err *e)
{
    struct jobs *j = mem_alloc(sizeof *j);
    char *path = NULL;
    j->options = *o;
    j->options.parallel = o->parallel > 0 ? o->parallel : 1;
    pthread_mutex_init(&j->lock, NULL);
    int rc = dir_find(j, e);
    if (rc == 0)
        rc = os_mkdirs(j->dir, e);
    if (rc == 0) {
        path = mem_format("%s/jobs.db", j->dir);
        struct db_options db = {path, jobs_migrations, jobs_n_migrations};
        rc = db_open(&db, &j->db, e);
    }
    if (rc == 0 && db_damaged(j->db)[0] != '\0')
        rc = jobs_rows_recover(j, e);
    free(path);
    if (rc == 0)
        *out = j;
    else
        jobs_close(j);
    return rc;
}

void jobs_close(struct jobs *j)
{
    if (!j)
        return;
    db_close(j->db);
    pthread_mutex_destroy(&j->lock);
    free(j);
}

// ---- one job -------------------------------------------------------------------------------------

void jobs_job_fini(struct jobs_job *job)
{
    json_decref(job->options);
    json_decref(job->executor_options);
    json_decref(job->meta);
    json_decref(job->command);
    json_decref(job->result);
    memset(job, 0, sizeof *job);
}

static void limits_put(json_t *o, const struct jobs_job *job)
{
    json_put(o, "limit_time_s", json_integer((json_int_t)job->limit_time_s));
    json_put(o, "limit_memory_bytes", json_integer((json_int_t)job->limit_memory_bytes));
    json_put(o, "disk_reserve_bytes", json_integer((json_int_t)job->disk_reserve_bytes));
}

json_t *jobs_job_json(const struct jobs_job *job)
{
    json_t *o = json_object();
    json_put(o, "id", json_string(job->id));
    json_put(o, "name", json_string(job->name));
    json_put(o, "model", json_string(job->model));
    json_put(o, "owner", json_string(job->owner));
    json_put(o, "executor", json_string(job->executor));
    json_put(o, "folder", json_string(job->folder));
    json_put(o, "state", json_string(jobs_state_name(job->state)));
    json_put(o, "created_unix_s", json_integer(job->created_unix_s));
    json_put(o, "started_unix_s", json_integer(job->started_unix_s));
    json_put(o, "ended_unix_s", json_integer(job->ended_unix_s));
    json_put(o, "attempts", json_integer(job->attempts));
    json_put(o, "examples", json_integer((json_int_t)job->examples));
    json_put(o, "data_bytes", json_integer((json_int_t)job->data_bytes));
    limits_put(o, job);
    json_put(o, "ran_s", json_real(job->ran_s));
    json_put(o, "error",
             job->error.code[0] == '\0' ? json_null()
                                        : json_pack("{s:s,s:o}", "code", job->error.code, "message",
                                                    json_string(job->error.message)));
    json_put(o, "options", json_incref(job->options));
    json_put(o, "executor_options", json_incref(job->executor_options));
    json_put(o, "meta", json_incref(job->meta));
    json_put(o, "command", json_incref(job->command));
    json_put(o, "result", json_incref(job->result));
    return o;
}

int jobs_get(struct jobs *j, const char *id, struct jobs_job *out, struct err *e)
{
    pthread_mutex_lock(&j->lock);
    int rc = jobs_row_get(j, id, out, e);
    pthread_mutex_unlock(&j->lock);
    return rc;
}

// Whole ids first, then names, then beginnings: the first of these that fits anything decides.
static int id_find(struct jobs *j, const char *text, char id[JOBS_ID_BYTES], struct err *e)
{
    static const char sql[] =
        "SELECT id, CASE WHEN id=?1 THEN 1 WHEN name=?1 THEN 2 ELSE 3 END AS how FROM jobs "
        "WHERE id=?1 OR name=?1 OR (length(?1) >= 3 AND "
        "(substr(id, 1, length(?1))=?1 OR substr(id, 7, length(?1))=?1)) "
        "ORDER BY how, number DESC LIMIT 2";
    struct db_statement *s = NULL;
    int rc = db_prepare(j->db, sql, &s, e);
    if (rc != 0)
        return rc;
    db_bind_text(s, 1, text);
    rc = db_step(s, e);
    int64_t how = rc == 1 ? db_column_i64(s, 1) : 0;
    if (rc == 1)
        snprintf(id, JOBS_ID_BYTES, "%s", db_column_text(s, 0));
    if (how == 3 && db_step(s, e) == 1 && db_column_i64(s, 1) == 3)
        rc = err_set(e, ERR_INVALID, "more than one job's id begins with \"%.40s\"", text);
    db_finish(s);
    return rc == 0 ? err_set(e, ERR_NOT_FOUND, "no job \"%.60s\"; tandem train ls lists them", text)
           : rc == 1 ? 0
                     : rc;
}

int jobs_find(struct jobs *j, const char *id_or_name, struct jobs_job *out, struct err *e)
{
    char id[JOBS_ID_BYTES];
    const char *text = strncmp(id_or_name, "ft:", 3) == 0 ? id_or_name + 3 : id_or_name;
    pthread_mutex_lock(&j->lock);
    int rc = id_find(j, text, id, e);
    if (rc == 0)
        rc = jobs_row_get(j, id, out, e);
    pthread_mutex_unlock(&j->lock);
    return rc;
}

// ---- lists ---------------------------------------------------------------------------------------

void jobs_query_default(struct jobs_query *q)
{
    *q = (struct jobs_query){.state = JOBS_STATES, .limit = 20};
}

void jobs_list_fini(struct jobs_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        jobs_job_fini(&l->items[i]);
    free(l->items);
    *l = (struct jobs_list){0};
}

static int list_read(struct jobs *j, const struct jobs_query *q, struct jobs_list *out,
                     struct err *e)
{
    static const char sql[] =
        "SELECT " JOBS_COLUMNS " FROM jobs "
        "WHERE (?1 IS NULL OR number < (SELECT number FROM jobs WHERE id=?1)) "
        "AND (?2 IS NULL OR owner=?2) AND (?3 < 0 OR state=?3) ORDER BY number DESC LIMIT ?4";
    struct db_statement *s = NULL;
    int rc = db_prepare(j->db, sql, &s, e);
    if (rc != 0)
        return rc;
    uint32_t limit = q->limit < 1 ? 1 : q->limit > JOBS_PAGE_MAX ? JOBS_PAGE_MAX : q->limit;
    out->items = mem_alloc(limit * sizeof *out->items);
    db_bind_text(s, 1, q->after);
    db_bind_text(s, 2, q->owner);
    db_bind_i64(s, 3, q->state < JOBS_STATES ? (int64_t)q->state : -1);
    db_bind_i64(s, 4, (int64_t)limit + 1);
    while ((rc = db_step(s, e)) == 1) {
        if (out->n == limit) {
            out->more = true;
            rc = 0;
            break;
        }
        jobs_row_read(j, s, &out->items[out->n++]);
    }
    db_finish(s);
    return rc;
}

int jobs_list_read(struct jobs *j, const struct jobs_query *q, struct jobs_list *out, struct err *e)
{
    struct jobs_job after;
    *out = (struct jobs_list){0};
    pthread_mutex_lock(&j->lock);
    int rc = q->after ? jobs_row_get(j, q->after, &after, e) : 0;
    if (rc == 0 && q->after)
        jobs_job_fini(&after);
    if (rc == 0)
        rc = list_read(j, q, out, e);
    pthread_mutex_unlock(&j->lock);
    if (rc != 0)
        jobs_list_fini(out);
    return rc;
}

static json_t *event_json(struct db_statement *s)
{
    json_t *data = json_loads(db_column_text(s, 5), JSON_DECODE_ANY, NULL);
    json_t *o = json_pack("{s:I,s:I}", "id", (json_int_t)db_column_i64(s, 0), "unix_s",
                          (json_int_t)db_column_i64(s, 1));
    json_put(o, "level", json_string(db_column_text(s, 2)));
    json_put(o, "type", json_string(db_column_text(s, 3)));
    json_put(o, "message", json_string(db_column_text(s, 4)));
    json_put(o, "data", data);
    return o;
}

static int events_read(struct jobs *j, const char *id, int64_t after, uint32_t limit, json_t *out,
                       struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(j->db,
                        "SELECT id,unix_s,level,type,message,data FROM events "
                        "WHERE job=?1 AND id>?2 ORDER BY id LIMIT ?3",
                        &s, e);
    if (rc != 0)
        return rc;
    db_bind_text(s, 1, id);
    db_bind_i64(s, 2, after);
    db_bind_i64(s, 3, limit);
    while ((rc = db_step(s, e)) == 1)
        json_array_append_new(out, event_json(s));
    db_finish(s);
    return rc;
}

int jobs_events(struct jobs *j, const char *id, int64_t after, uint32_t limit, json_t **out,
                struct err *e)
{
    struct jobs_job job;
    json_t *list = json_array();
    pthread_mutex_lock(&j->lock);
    int rc = jobs_row_get(j, id, &job, e);
    if (rc == 0) {
        jobs_job_fini(&job);
        rc = events_read(j, id, after, limit, list, e);
    }
    pthread_mutex_unlock(&j->lock);
    if (rc == 0)
        *out = list;
    else
        json_decref(list);
    return rc;
}

// ---- changes -------------------------------------------------------------------------------------

int jobs_change(struct jobs *j, const char *id, const struct jobs_change *c, struct err *e)
{
    pthread_mutex_lock(&j->lock);
    int rc = jobs_row_change(j, id, c, e);
    pthread_mutex_unlock(&j->lock);
    return rc;
}

int jobs_event_add(struct jobs *j, const char *id, const struct jobs_event *event, struct err *e)
{
    pthread_mutex_lock(&j->lock);
    int rc = jobs_event_insert(j, id, event, e);
    pthread_mutex_unlock(&j->lock);
    return rc;
}

// One statement with the id as ?1 and one number or text as ?2.
static int row_update(struct jobs *j, const char *sql, const char *id, const char *text,
                      double number, struct err *e)
{
    struct db_statement *s = NULL;
    pthread_mutex_lock(&j->lock);
    int rc = db_prepare(j->db, sql, &s, e);
    if (rc == 0) {
        db_bind_text(s, 1, id);
        if (text)
            db_bind_text(s, 2, text);
        else
            db_bind_f64(s, 2, number);
    }
    rc = db_run(s, rc, e);
    pthread_mutex_unlock(&j->lock);
    return rc;
}

int jobs_attempt_note(struct jobs *j, const char *id, struct err *e)
{
    return row_update(j, "UPDATE jobs SET attempts=attempts+?2 WHERE id=?1", id, NULL, 1, e);
}

int jobs_alive_note(struct jobs *j, const char *id, struct err *e)
{
    return row_update(j, "UPDATE jobs SET starts=?2 WHERE id=?1", id, NULL, 0, e);
}

int jobs_ran_note(struct jobs *j, const char *id, double seconds, struct err *e)
{
    return row_update(j, "UPDATE jobs SET ran=ran+?2 WHERE id=?1", id, NULL, seconds, e);
}

int jobs_handle_set(struct jobs *j, const char *id, const char *handle, struct err *e)
{
    return row_update(j, "UPDATE jobs SET handle=?2 WHERE id=?1", id, handle, 0, e);
}

int jobs_handle_get(struct jobs *j, const char *id, char *out, size_t out_bytes, struct err *e)
{
    struct db_statement *s = NULL;
    pthread_mutex_lock(&j->lock);
    int rc = db_prepare(j->db, "SELECT handle FROM jobs WHERE id=?1", &s, e);
    if (rc == 0) {
        db_bind_text(s, 1, id);
        rc = db_step(s, e);
        snprintf(out, out_bytes, "%s", rc == 1 ? db_column_text(s, 0) : "");
    }
    db_finish(s);
    pthread_mutex_unlock(&j->lock);
    return rc < 0 ? rc : 0;
}

int jobs_cancel(struct jobs *j, const char *id, struct err *e)
{
    static const struct jobs_change waiting = {.from = 1u << JOBS_QUEUED, .to = JOBS_CANCELLED},
                                    running = {.from = 1u << JOBS_RUNNING, .to = JOBS_CANCELLING};
    struct jobs_job job;
    pthread_mutex_lock(&j->lock);
    int rc = jobs_row_get(j, id, &job, e);
    if (rc == 0) {
        rc = jobs_row_change(j, id, &waiting, e);
        if (rc == ERR_MISMATCH)
            rc = jobs_row_change(j, id, &running, e);
        if (rc == ERR_MISMATCH && job.state == JOBS_CANCELLING)
            rc = 0;
        else if (rc == ERR_MISMATCH)
            rc = err_set(e, ERR_INVALID, "job %s has ended (%s); there is nothing to cancel", id,
                         jobs_state_name(job.state));
        jobs_job_fini(&job);
    }
    pthread_mutex_unlock(&j->lock);
    return rc;
}

static int remove_locked(struct jobs *j, const struct jobs_job *job, struct err *e)
{
    struct db_statement *s = NULL;
    if (!jobs_state_final(job->state))
        return err_set(e, ERR_BUSY, "job %s is %s; cancel it first: tandem train cancel %s",
                       job->id, jobs_state_name(job->state), job->id);
    int rc = jobs_folder_remove(job->folder, e);
    if (rc == 0)
        rc = db_prepare(j->db, "DELETE FROM jobs WHERE id=?1", &s, e);
    if (rc == 0)
        db_bind_text(s, 1, job->id);
    return db_run(s, rc, e);
}

int jobs_remove(struct jobs *j, const char *id, struct err *e)
{
    struct jobs_job job;
    pthread_mutex_lock(&j->lock);
    int rc = jobs_row_get(j, id, &job, e);
    if (rc == 0) {
        rc = remove_locked(j, &job, e);
        jobs_job_fini(&job);
    }
    pthread_mutex_unlock(&j->lock);
    return rc;
}
