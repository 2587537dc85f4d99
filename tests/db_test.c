// The database wrapper: migrations, transactions, values, damaged and newer files, two connections at once.
#include "base/buf.h"
#include "base/db.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const migrations[] = {
    "CREATE TABLE things(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, size REAL, data BLOB);",
    "CREATE TABLE parts(thing INTEGER NOT NULL REFERENCES things(id) ON DELETE CASCADE);"
    "CREATE INDEX parts_thing ON parts(thing);",
};

static char dir[64], path[128];

static int dir_make(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/tandem-db-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/state/things.db", dir);
    return 0;
}

static int dir_remove(void **state)
{
    char name[512];
    (void)state;
    snprintf(name, sizeof name, "%s/state", dir);
    DIR *d = opendir(name);
    struct dirent *entry;
    while (d && (entry = readdir(d))) {
        char file[1024];
        snprintf(file, sizeof file, "%s/%s", name, entry->d_name);
        unlink(file);
    }
    if (d)
        closedir(d);
    rmdir(name);
    return rmdir(dir);
}

static struct db *opened(size_t n_migrations)
{
    struct db_options o = {path, migrations, n_migrations};
    struct db *d = NULL;
    struct err e = {0};
    if (db_open(&o, &d, &e) != 0)
        fail_msg("%s", e.message);
    return d;
}

static int thing_put(struct db *d, const char *name, double size, struct err *e)
{
    struct db_statement *s = NULL;
    int rc = db_prepare(d, "INSERT INTO things(name, size, data) VALUES(?1, ?2, ?3)", &s, e);
    if (rc == 0) {
        db_bind_text(s, 1, name);
        db_bind_f64(s, 2, size);
        db_bind_blob(s, 3, "a\0b", 3);
    }
    return db_run(s, rc, e);
}

static int64_t count(struct db *d, const char *table)
{
    struct db_statement *s = NULL;
    struct err e = {0};
    char *sql = mem_format("SELECT count(*) FROM %s", table);
    assert_int_equal(db_prepare(d, sql, &s, &e), 0);
    assert_int_equal(db_step(s, &e), 1);
    int64_t n = db_column_i64(s, 0);
    db_finish(s);
    free(sql);
    return n;
}

static void values_come_back(void **state)
{
    struct db *d = opened(2);
    struct db_statement *s = NULL;
    struct err e = {0};
    size_t n = 0;
    (void)state;
    assert_int_equal(thing_put(d, "'; DROP TABLE things; --", 1.5, &e), 0);
    assert_int_equal(db_last_id(d), 1);
    assert_int_equal(thing_put(d, NULL, 0, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "name"));
    assert_int_equal(
        db_prepare(d, "SELECT id, name, size, data, NULL FROM things WHERE id=?1", &s, &e), 0);
    for (int round = 0; round < 2; round++) {
        db_bind_i64(s, 1, 1);
        assert_int_equal(db_step(s, &e), 1);
        assert_int_equal(db_column_i64(s, 0), 1);
        assert_string_equal(db_column_text(s, 1), "'; DROP TABLE things; --");
        assert_float_equal(db_column_f64(s, 2), 1.5, 0);
        assert_memory_equal(db_column_blob(s, 3, &n), "a\0b", 3);
        assert_int_equal(n, 3);
        assert_string_equal(db_column_text(s, 4), "");
        assert_int_equal(db_step(s, &e), 0);
        db_reset(s);
    }
    db_finish(s);
    assert_int_equal(db_prepare(d, "SELECT 1 FROM nowhere", &s, &e), ERR_IO);
    assert_non_null(strstr(e.message, "nowhere"));
    db_close(d);
}

static void files_are_ours_alone(void **state)
{
    struct stat st;
    struct db *d = opened(2);
    char name[256];
    (void)state;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    snprintf(name, sizeof name, "%s-wal", path);
    assert_int_equal(stat(name, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    snprintf(name, sizeof name, "%s/state", dir);
    assert_int_equal(stat(name, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    db_close(d);
}

static void an_older_file_is_brought_up_to_date(void **state)
{
    struct db *d = opened(1);
    struct err e = {0};
    (void)state;
    assert_int_equal(thing_put(d, "kept", 1, &e), 0);
    db_close(d);
    d = opened(2);
    assert_int_equal(count(d, "things"), 1);
    assert_int_equal(count(d, "parts"), 0);
    db_close(d);
    struct db_options older = {path, migrations, 1};
    assert_int_equal(db_open(&older, &d, &e), ERR_MISMATCH);
    assert_non_null(strstr(e.message, "version 2"));
}

static void a_migration_that_fails_changes_nothing(void **state)
{
    static const char *const broken[] = {
        "CREATE TABLE a(x);",
        "CREATE TABLE b(x); INSERT INTO nowhere VALUES(1);",
    };
    struct db_options o = {path, broken, 2}, first = {path, broken, 1};
    struct db *d = NULL;
    struct err e = {0};
    (void)state;
    assert_int_equal(db_open(&o, &d, &e), ERR_IO);
    assert_int_equal(db_open(&first, &d, &e), 0);
    assert_int_equal(count(d, "a"), 0); // made now: it was rolled back
    db_close(d);
}

static void what_is_rolled_back_is_gone(void **state)
{
    struct db *d = opened(2);
    struct err e = {0};
    (void)state;
    assert_int_equal(db_begin(d, &e), 0);
    assert_int_equal(thing_put(d, "a", 1, &e), 0);
    assert_int_equal(db_end(d, ERR_CANCELLED, &e), ERR_CANCELLED);
    assert_int_equal(count(d, "things"), 0);
    assert_int_equal(db_begin(d, &e), 0);
    assert_int_equal(thing_put(d, "a", 1, &e), 0);
    assert_int_equal(db_exec(d, "INSERT INTO parts VALUES(1)", &e), 0);
    assert_int_equal(db_exec(d, "INSERT INTO parts VALUES(99)", &e), ERR_INVALID); // foreign key
    assert_int_equal(db_end(d, 0, &e), 0);
    assert_int_equal(db_exec(d, "DELETE FROM things", &e), 0);
    assert_int_equal(db_changed_rows(d), 1);
    assert_int_equal(count(d, "parts"), 0);
    db_close(d);
}

static void two_see_each_others_work(void **state)
{
    struct db *a = opened(2), *b = opened(2);
    struct err e = {0};
    (void)state;
    assert_int_equal(db_begin(a, &e), 0);
    assert_int_equal(thing_put(a, "a", 1, &e), 0);
    assert_int_equal(count(b, "things"), 0); // a reader does not wait for a writer
    assert_int_equal(db_end(a, 0, &e), 0);
    assert_int_equal(count(b, "things"), 1);
    db_close(a);
    db_close(b);
}

static void damage(long at, size_t n)
{
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    for (size_t i = 0; i < n; i++)
        fputc(0xa5, f);
    fclose(f);
}

static void a_damaged_file_is_kept_beside_a_new_one(void **state)
{
    static const struct {
        long at;
        size_t n;
    } cases[] = {{0, 100}, {100, 8000}};
    struct err e = {0};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct db *d = opened(2);
        for (int k = 0; k < 500; k++) {
            char name[32];
            snprintf(name, sizeof name, "thing %zu %d", i, k);
            assert_int_equal(thing_put(d, name, k, &e), 0);
        }
        assert_string_equal(db_damaged(d), "");
        db_close(d);
        damage(cases[i].at, cases[i].n);
        d = opened(2);
        assert_int_equal(access(db_damaged(d), F_OK), 0);
        assert_int_equal(count(d, "things"), 0);
        db_close(d);
        unlink(path);
    }
}

static void what_cannot_be_opened_is_named(void **state)
{
    struct db_options o = {"/proc/nowhere/a.db", migrations, 2};
    struct db *d = NULL;
    struct err e = {0};
    (void)state;
    assert_int_equal(db_open(&o, &d, &e), ERR_IO);
    assert_non_null(strstr(e.message, "/proc/nowhere"));
    o.path = dir; // a folder
    assert_int_equal(db_open(&o, &d, &e), ERR_IO);
    assert_non_null(strstr(e.message, dir));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(values_come_back, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(files_are_ours_alone, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(an_older_file_is_brought_up_to_date, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(a_migration_that_fails_changes_nothing, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(what_is_rolled_back_is_gone, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(two_see_each_others_work, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(a_damaged_file_is_kept_beside_a_new_one, dir_make,
                                        dir_remove),
        cmocka_unit_test_setup_teardown(what_cannot_be_opened_is_named, dir_make, dir_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
