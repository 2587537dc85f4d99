#include "base/db.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUSY_MS 10000
#define PATH_BYTES 4096

struct db {
    sqlite3 *handle;
    char *path;
    char damaged[PATH_BYTES + 64];
};

struct db_statement {
    struct db *db;
    sqlite3_stmt *handle;
};

// ---- errors --------------------------------------------------------------------------------------

static int code_of(int sqlite_code)
{
    switch (sqlite_code & 0xff) {
    case SQLITE_OK:
    case SQLITE_DONE:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return ERR_BUSY;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return ERR_CORRUPT;
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
        return ERR_INVALID;
    case SQLITE_TOOBIG:
        return ERR_RANGE;
    default:
        return ERR_IO;
    }
}

static int fail(const struct db *d, int sqlite_code, struct err *e)
{
    const char *hint = (sqlite_code & 0xff) == SQLITE_BUSY ? "; another program holds it, try again"
                       : (sqlite_code & 0xff) == SQLITE_FULL ? "; make room on its disk"
                                                             : "";
    return err_set(e, code_of(sqlite_code), "database %s: %s%s", d->path,
                   d->handle ? sqlite3_errmsg(d->handle) : sqlite3_errstr(sqlite_code), hint);
}

// ---- opening -------------------------------------------------------------------------------------

static int folder_make(const char *path, struct err *e)
{
    char part[PATH_BYTES];
    struct stat st;
    if (strlen(path) >= sizeof part)
        return err_set(e, ERR_RANGE, "the path of database %.80s... is longer than %d bytes", path,
                       PATH_BYTES - 1);
    snprintf(part, sizeof part, "%s", path);
    for (char *p = part + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(part, 0700) != 0 && (stat(part, &st) != 0 || !S_ISDIR(st.st_mode)))
            return err_set(e, ERR_IO, "cannot make folder %s for a database: %s", part,
                           strerror(errno));
        *p = '/';
    }
    return 0;
}

// The library makes files by the process's mask; its log and its index take the mode of the file itself.
static int file_make(const char *path, struct err *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(e, ERR_IO, "cannot open database %s: %s", path, strerror(errno));
    close(fd);
    return 0;
}

static int handle_open(struct db *d, struct err *e)
{
    static const char settings[] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
                                   "PRAGMA foreign_keys=ON; PRAGMA trusted_schema=OFF;";
    int code =
        sqlite3_open_v2(d->path, &d->handle,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_busy_timeout(d->handle, BUSY_MS);
    if (code == SQLITE_OK)
        code = sqlite3_exec(d->handle, settings, NULL, NULL, NULL);
    return code == SQLITE_OK ? 0 : fail(d, code, e);
}

// 0 or ERR_CORRUPT. Reads the whole file, which in ours is a matter of milliseconds.
static int integrity_check(struct db *d, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(d, "PRAGMA quick_check(1)", &s, e);
    if (rc == 0)
        rc = db_step(s, e);
    if (rc == 1)
        rc = strcmp(db_column_text(s, 0), "ok") == 0
                 ? 0
                 : err_set(e, ERR_CORRUPT, "database %s: %s", d->path, db_column_text(s, 0));
    db_finish(s);
    return rc;
}

// The log goes with its file: applied to another one it would damage that.
static int set_aside(struct db *d, struct err *e)
{
    static const char *const tails[] = {"-wal", "-shm"};
    struct err why = *e;
    char from[PATH_BYTES + 8], to[PATH_BYTES + 72];
    sqlite3_close_v2(d->handle);
    d->handle = NULL;
    snprintf(d->damaged, sizeof d->damaged, "%s.damaged-%" PRId64, d->path, clock_unix_s());
    if (rename(d->path, d->damaged) != 0)
        return err_set(e, ERR_CORRUPT, "%s; and it cannot be renamed: %s", why.message,
                       strerror(errno));
    for (size_t i = 0; i < 2; i++) {
        snprintf(from, sizeof from, "%s%s", d->path, tails[i]);
        snprintf(to, sizeof to, "%s%s", d->damaged, tails[i]);
        rename(from, to);
    }
    log_error("db", "%s; it is kept as %s, and a new one begins", why.message, d->damaged);
    return 0;
}

static int version_get(struct db *d, int64_t *version, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(d, "PRAGMA user_version", &s, e);
    if (rc == 0)
        rc = db_step(s, e);
    if (rc == 1)
        *version = db_column_i64(s, 0);
    db_finish(s);
    return rc < 0 ? rc : 0;
}

static int migrate(struct db *d, const struct db_options *o, struct err *e)
{
    int64_t version = 0;
    char set[64];
    int rc = version_get(d, &version, e);
    if (rc == 0 && version > (int64_t)o->n_migrations)
        return err_set(e, ERR_MISMATCH,
                       "database %s is of version %" PRId64 ", this program knows %zu; use a newer "
                       "one, or move the file away",
                       d->path, version, o->n_migrations);
    if (rc != 0 || version == (int64_t)o->n_migrations)
        return rc;
    rc = db_begin(d, e);
    if (rc != 0)
        return rc;
    rc = version_get(d, &version, e); // another program may have been faster
    for (size_t i = (size_t)version; rc == 0 && i < o->n_migrations; i++)
        rc = db_exec(d, o->migrations[i], e);
    snprintf(set, sizeof set, "PRAGMA user_version=%zu", o->n_migrations);
    if (rc == 0)
        rc = db_exec(d, set, e);
    return db_end(d, rc, e);
}

static int usable_open(struct db *d, const struct db_options *o, struct err *e)
{
    int rc = handle_open(d, e);
    if (rc == 0)
        rc = integrity_check(d, e);
    return rc == 0 ? migrate(d, o, e) : rc;
}

int db_open(const struct db_options *o, struct db **out, struct err *e)
{
    bool on_disk = strcmp(o->path, ":memory:") != 0;
    struct db *d = mem_alloc(sizeof *d);
    struct err own = {0};
    d->path = mem_strdup(o->path);
    int rc = on_disk ? folder_make(o->path, &own) : 0;
    if (rc == 0 && on_disk)
        rc = file_make(o->path, &own);
    if (rc == 0)
        rc = usable_open(d, o, &own);
    if (rc == ERR_CORRUPT && on_disk && set_aside(d, &own) == 0) {
        rc = file_make(o->path, &own);
        if (rc == 0)
            rc = usable_open(d, o, &own);
    }
    if (rc == 0) {
        *out = d;
        return 0;
    }
    db_close(d);
    return err_set(e, rc, "%s", own.message);
}

void db_close(struct db *d)
{
    if (!d)
        return;
    sqlite3_close_v2(d->handle);
    free(d->path);
    free(d);
}

const char *db_damaged(const struct db *d)
{
    return d->damaged;
}

// ---- whole statements and transactions -----------------------------------------------------------

int db_exec(struct db *d, const char *sql, struct err *e)
{
    int code = sqlite3_exec(d->handle, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? 0 : fail(d, code, e);
}

int db_begin(struct db *d, struct err *e)
{
    return db_exec(d, "BEGIN IMMEDIATE", e);
}

int db_commit(struct db *d, struct err *e)
{
    return db_exec(d, "COMMIT", e);
}

void db_rollback(struct db *d)
{
    if (!sqlite3_get_autocommit(d->handle))
        sqlite3_exec(d->handle, "ROLLBACK", NULL, NULL, NULL);
}

int db_end(struct db *d, int rc, struct err *e)
{
    if (rc == 0)
        rc = db_commit(d, e);
    if (rc != 0)
        db_rollback(d);
    return rc;
}

int64_t db_last_id(const struct db *d)
{
    return sqlite3_last_insert_rowid(d->handle);
}

int64_t db_changed_rows(const struct db *d)
{
    return sqlite3_changes(d->handle);
}

// ---- statements ----------------------------------------------------------------------------------

int db_prepare(struct db *d, const char *sql, struct db_statement **out, struct err *e)
{
    sqlite3_stmt *handle = NULL;
    int code = sqlite3_prepare_v2(d->handle, sql, -1, &handle, NULL);
    if (code != SQLITE_OK)
        return fail(d, code, e);
    *out = mem_alloc(sizeof **out);
    **out = (struct db_statement){d, handle};
    return 0;
}

static void bound(const struct db_statement *s, int code, int place)
{
    if (code == SQLITE_OK)
        return;
    fprintf(stderr, "tandem: value %d cannot be bound to \"%s\": %s\n", place,
            sqlite3_sql(s->handle), sqlite3_errstr(code));
    abort();
}

void db_bind_i64(struct db_statement *s, int place, int64_t v)
{
    bound(s, sqlite3_bind_int64(s->handle, place, v), place);
}

void db_bind_f64(struct db_statement *s, int place, double v)
{
    bound(s, sqlite3_bind_double(s->handle, place, v), place);
}

void db_bind_text(struct db_statement *s, int place, const char *text)
{
    bound(s, sqlite3_bind_text(s->handle, place, text, -1, SQLITE_TRANSIENT), place);
}

void db_bind_blob(struct db_statement *s, int place, const void *data, size_t n)
{
    bound(s, sqlite3_bind_blob64(s->handle, place, data, n, SQLITE_TRANSIENT), place);
}

int db_step(struct db_statement *s, struct err *e)
{
    int code = sqlite3_step(s->handle);
    if (code == SQLITE_ROW)
        return 1;
    return code == SQLITE_DONE ? 0 : fail(s->db, code, e);
}

int db_run(struct db_statement *s, int rc, struct err *e)
{
    while (rc == 0 && (rc = db_step(s, e)) == 1)
        rc = 0;
    db_finish(s);
    return rc;
}

int64_t db_column_i64(struct db_statement *s, int column)
{
    return sqlite3_column_int64(s->handle, column);
}

double db_column_f64(struct db_statement *s, int column)
{
    return sqlite3_column_double(s->handle, column);
}

const char *db_column_text(struct db_statement *s, int column)
{
    const char *text = (const char *)sqlite3_column_text(s->handle, column);
    return text ? text : "";
}

const void *db_column_blob(struct db_statement *s, int column, size_t *n)
{
    const void *data = sqlite3_column_blob(s->handle, column);
    *n = (size_t)sqlite3_column_bytes(s->handle, column);
    return data ? data : "";
}

void db_reset(struct db_statement *s)
{
    sqlite3_reset(s->handle);
}

void db_finish(struct db_statement *s)
{
    if (!s)
        return;
    sqlite3_finalize(s->handle);
    free(s);
}
