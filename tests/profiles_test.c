// Profiles kept over restarts: what comes back, and what becomes of files that are damaged, newer or not ours.
#include "base/buf.h"
#include "base/db.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/profiles.h"
#include "sched/profile_json.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64], path[128];

static int dir_make(void **state)
{
    (void)state;
    log_level_set(LOG_LEVEL_ERROR);
    snprintf(dir, sizeof(dir), "/tmp/tandem-profiles-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/profiles.db", dir);
    return 0;
}

// How many files of the folder begin so; removes them all when asked.
static int files(const char *prefix, bool remove_all)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    char name[400];
    int n = 0;

    while (d && (entry = readdir(d))) {
        n += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
        snprintf(name, sizeof(name), "%s/%s", dir, entry->d_name);
        if (remove_all && entry->d_name[0] != '.')
            unlink(name);
    }
    if (d)
        closedir(d);
    return n;
}

static int dir_remove(void **state)
{
    (void)state;
    files("", true);
    return rmdir(dir);
}

static struct profile_book *book_of(struct profiles *p, const char *node, const char *model)
{
    struct profile begin;

    profile_defaults(&begin);
    return profiles_get(p, node, model, &begin, PROFILE_TRUST_NONE);
}

static void learn(struct profile_book *b, double token_s)
{
    for (int i = 0; i < 8; i++) {
        double n = 100 << i;
        struct profile_read r = {.tokens = n, .seconds = n * token_s};
        struct profile_steps s = {
            .steps = 10, .rows = 1, .depth_sum = n, .seconds = 10 * token_s * 20};
        profile_learn_read(b, &r);
        profile_learn_steps(b, &s);
    }
    profile_learn_export(b, 1e8, 0.1);
    profile_learn_load(b, 3);
}

static void test_kept(void **state)
{
    const struct profile_link guess = {
        .rtt_s = 1e-3, .up_bytes_per_s = 1e8, .down_bytes_per_s = 1e8};
    struct profiles *p = profiles_open(path);
    struct profile_book *b = book_of(p, "spark", "llama f16"), before;
    struct profile_link_book *l = profiles_link(p, "spark", "mac", &guess, PROFILE_TRUST_NONE),
                             link;

    (void)state;
    assert_ptr_equal(book_of(p, "spark", "llama f16"), b);
    assert_ptr_not_equal(book_of(p, "spark", "llama q4"), b);
    learn(b, 1e-3);
    profile_learn_up(l, 1e9, 1);
    b->p.n_ctx = 4096;
    b->p.watts_prefill = 140;
    before = *b;
    link = *l;
    profiles_close(p);
    p = profiles_open(path);
    b = book_of(p, "spark", "llama f16");
    assert_true(b->p.samples == 16 && b->p.n_ctx == 4096 && b->p.watts_prefill == 140);
    assert_memory_equal(&b->p, &before.p, sizeof(b->p));
    // What is believed came back too: both learn the same from the next request.
    for (int i = 0; i < 5; i++) {
        struct profile_read r = {.tokens = 700, .seconds = 0.9};
        assert_int_equal(profile_learn_read(b, &r), profile_learn_read(&before, &r));
        double x = profile_read_s(&b->p, 700, 0), y = profile_read_s(&before.p, 700, 0);
        assert_true(x > y * 0.999999 && x < y * 1.000001);
    }
    l = profiles_link(p, "spark", "mac", &guess, PROFILE_TRUST_NONE);
    assert_true(l->link.up_bytes_per_s > link.link.up_bytes_per_s * 0.999999);
    assert_true(l->up.samples == 1 && l->link.up_bytes_per_s > 5e8);
    // The other model never learned anything and has no row; the other direction is another link.
    assert_true(book_of(p, "spark", "llama q4")->p.samples == 0);
    l = profiles_link(p, "mac", "spark", &guess, PROFILE_TRUST_NONE);
    assert_true(l->up.samples == 0);
    profiles_close(p);
}

// How many rows the file has, seen from outside.
static int64_t rows(void)
{
    static const char *const same[] = {""};
    const struct db_options o = {.path = path, .migrations = same, .n_migrations = 1};
    struct db *d = NULL;
    struct db_statement *s = NULL;
    struct err e;
    int64_t n = -1;

    if (db_open(&o, &d, &e) == 0 && db_prepare(d, "SELECT count(*) FROM profiles", &s, &e) == 0 &&
        db_step(s, &e) == 1)
        n = db_column_i64(s, 0);
    db_finish(s);
    db_close(d);
    return n;
}

static void test_now_and_then(void **state)
{
    struct profiles *p = profiles_open(path);

    (void)state;
    learn(book_of(p, "a", "m"), 1e-3);
    profiles_tick(p, 1000);
    assert_int_equal(rows(), 1);
    learn(book_of(p, "b", "m"), 1e-3);
    profiles_tick(p, PROFILES_EVERY_NS);
    assert_int_equal(rows(), 1);
    profiles_tick(p, PROFILES_EVERY_NS + 1000);
    assert_int_equal(rows(), 2);
    profiles_close(p);
}

static void file_write(const char *text, size_t n)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void works(struct profiles *p)
{
    learn(book_of(p, "a", "m"), 1e-3);
    profiles_close(p);
    p = profiles_open(path);
    assert_true(book_of(p, "a", "m")->p.samples == 16);
    profiles_close(p);
}

static void test_damaged(void **state)
{
    char noise[9000];

    (void)state;
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (char)(i * 131 >> 3);
    file_write(noise, sizeof(noise));
    works(profiles_open(path));
    assert_true(files("profiles.db.damaged", false) >= 1);
}

static void test_newer(void **state)
{
    static const char *const future[] = {"CREATE TABLE a(b);", "CREATE TABLE c(d);",
                                         "CREATE TABLE e(f);"};
    const struct db_options o = {.path = path, .migrations = future, .n_migrations = 3};
    struct db *d = NULL;
    struct err e;

    (void)state;
    assert_int_equal(db_open(&o, &d, &e), 0);
    db_close(d);
    works(profiles_open(path));
    assert_true(files("profiles.db.newer", false) >= 1);
}

// One row is nonsense: the others are there, and the next write replaces it.
static void test_bad_rows(void **state)
{
    static const char *const same[] = {""};
    static const char *const bad[] = {"",
                                      "[]",
                                      "{}",
                                      "{\"profile\":{\"read_token_s\":-1}}",
                                      "{\"profile\":{\"step_s\":\"x\"}}",
                                      ("{\"profile\":{},\"read\":{\"costs\":[1,1,1,1,1],"
                                       "\"covariance\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1e99],"
                                       "\"noise\":0.01,\"samples\":3}}"),
                                      "{\"profile\":{},\"read\":{\"costs\":[1,1,1]}}"};
    const struct db_options o = {.path = path, .migrations = same, .n_migrations = 1};
    struct profiles *p = profiles_open(path);

    (void)state;
    learn(book_of(p, "good", "m"), 1e-3);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct db *d = NULL;
        struct db_statement *s = NULL;
        struct err e;
        learn(book_of(p, "bad", "m"), 2e-3);
        profiles_close(p);
        assert_int_equal(db_open(&o, &d, &e), 0);
        assert_int_equal(db_prepare(d, "UPDATE profiles SET book = ?1 WHERE node = 'bad'", &s, &e),
                         0);
        db_bind_text(s, 1, bad[i]);
        assert_int_equal(db_run(s, 0, &e), 0);
        db_close(d);
        p = profiles_open(path);
        assert_true(book_of(p, "good", "m")->p.samples == 16);
        assert_true(book_of(p, "bad", "m")->p.samples == 0);
    }
    profiles_close(p);
}

static void test_no_file(void **state)
{
    struct profiles *p = profiles_open(NULL);

    (void)state;
    learn(book_of(p, "a", "m"), 1e-3);
    profiles_tick(p, 1);
    profiles_close(p);
    // A folder where the file should be.
    assert_int_equal(mkdir(path, 0700), 0);
    p = profiles_open(path);
    learn(book_of(p, "a", "m"), 1e-3);
    profiles_tick(p, 1);
    assert_true(book_of(p, "a", "m")->p.samples == 16);
    profiles_close(p);
    assert_int_equal(rmdir(path), 0);
    profiles_close(NULL);
}

static void test_room(void **state)
{
    struct profiles *p = profiles_open(NULL);
    char name[PROFILES_NAME_BYTES + 8];

    (void)state;
    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    assert_null(book_of(p, name, "m"));
    assert_null(book_of(p, "a", name));
    for (int i = 0; i < PROFILES_MOST; i++) {
        snprintf(name, sizeof(name), "%d", i);
        assert_non_null(book_of(p, name, "m"));
    }
    assert_null(book_of(p, "one more", "m"));
    assert_non_null(book_of(p, "17", "m"));
    profiles_close(p);
}

static void test_json(void **state)
{
    struct profile p, q;
    struct err e = {0};
    json_t *o;

    (void)state;
    profile_defaults(&p);
    p.dollars_per_hour = 1.0 / 3;
    profile_defaults(&q);
    o = profile_json(&p);
    assert_int_equal(profile_parse(o, &q, &e), 0);
    assert_memory_equal(&p, &q, sizeof(p));
    json_put(o, "n_ctx", json_integer(-4));
    assert_int_equal(profile_parse(o, &q, &e), ERR_INVALID);
    assert_non_null(strstr(e.message, "n_ctx"));
    assert_memory_equal(&p, &q, sizeof(p));
    json_put(o, "n_ctx", json_integer(4));
    json_put(o, "chunk_tokens", json_real(0));
    assert_int_equal(profile_parse(o, &q, &e), ERR_INVALID);
    assert_memory_equal(&p, &q, sizeof(p));
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_kept, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(test_now_and_then, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(test_damaged, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(test_newer, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(test_bad_rows, dir_make, dir_remove),
        cmocka_unit_test_setup_teardown(test_no_file, dir_make, dir_remove),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
