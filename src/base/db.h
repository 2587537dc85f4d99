// SQLite behind a few calls: opening with the settings that every database of ours has, migrations,
// prepared statements, transactions.
//
// A database is one file, 0600, in a folder that is made with 0700: write-ahead log, so that readers do not
// wait for a writer; foreign keys on; ten seconds of patience with another process that writes. Its
// version is the number of migrations that were applied (user_version); a file from a newer program is
// refused, one from an older is brought up to date in one transaction.
//
// A damaged file is never written to and never lost: it is renamed to FILE.damaged-TIME, an error in the log
// says so, and a new one begins. Who keeps things in it decides what to do about it (db_damaged).
//
// Owner and threads: a struct db belongs to one thread at a time, its statements too. Other threads and
// processes open the file for themselves.
#ifndef BASE_DB_H
#define BASE_DB_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct db;
struct db_statement;

struct db_options {
    const char *path;              // ":memory:" for tests
    const char *const *migrations; // SQL; number i brings version i to i + 1. Never change one that
                                   // was released, append
    size_t n_migrations;
};

// ERR_IO: the folder or file cannot be made or read; ERR_MISMATCH: it is of a newer program; ERR_BUSY.
int db_open(const struct db_options *o, struct db **out, struct err *e);
void db_close(struct db *d); // NULL is fine; its statements are finished before
// Where the damaged file was put when this one was opened; "": there was none.
const char *db_damaged(const struct db *d);

// One or more statements without values.
int db_exec(struct db *d, const char *sql, struct err *e);
// A transaction that may write; others wait. Not nested.
int db_begin(struct db *d, struct err *e);
int db_commit(struct db *d, struct err *e);
void db_rollback(struct db *d); // nothing where none is open
// Commits when rc is 0, rolls back otherwise. Returns rc, or what the commit gave.
int db_end(struct db *d, int rc, struct err *e);

int64_t db_last_id(const struct db *d);      // rowid of the last INSERT
int64_t db_changed_rows(const struct db *d); // of the last INSERT, UPDATE or DELETE

// ---- statements ----------------------------------------------------------------------------------

// `sql` holds one statement, values as ?1, ?2, ...: never text that was put together from values.
int db_prepare(struct db *d, const char *sql, struct db_statement **out, struct err *e);
// Places count from 1. Texts and blobs are copied. A place that the statement lacks aborts: it is ours.
void db_bind_i64(struct db_statement *s, int place, int64_t v);
void db_bind_f64(struct db_statement *s, int place, double v);
void db_bind_text(struct db_statement *s, int place, const char *text); // NULL: null
void db_bind_blob(struct db_statement *s, int place, const void *data, size_t n);
// 1: a row is there; 0: done; or an error.
int db_step(struct db_statement *s, struct err *e);
// Steps until done, finishes the statement (NULL is fine). 0 or an error; rc != 0 is only handed through.
int db_run(struct db_statement *s, int rc, struct err *e);
// Columns count from 0. What is null is 0 or "". Texts and blobs live until the next step.
int64_t db_column_i64(struct db_statement *s, int column);
double db_column_f64(struct db_statement *s, int column);
const char *db_column_text(struct db_statement *s, int column);
const void *db_column_blob(struct db_statement *s, int column, size_t *n);
// To be stepped anew, values kept.
void db_reset(struct db_statement *s);
void db_finish(struct db_statement *s); // NULL is fine

#endif
