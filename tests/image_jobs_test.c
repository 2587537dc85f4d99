// The table of image jobs against a list in memory that cannot be wrong; and replies whose client is a thread of the
// program.
#include "gateway/image_jobs_rows.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/random.h"
#include "gateway/answer.h"
#include "os/os.h"
#include "scratch.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MANY 200

static struct db *open_table(void)
{
    struct db *db = NULL;
    struct err e = {0};

    assert_int_equal(image_jobs_rows_open(":memory:", &db, &e), 0);
    return db;
}

static struct image_jobs_row row_make(int i, const char *owner)
{
    struct image_jobs_row r = {.n = 2, .steps = 8, .seed = i, .created_unix_s = 1000 + i};

    snprintf(r.id, sizeof(r.id), "imgjob-%024d", i);
    snprintf(r.owner, sizeof(r.owner), "%s", owner);
    snprintf(r.base, sizeof(r.base), "http://h:1");
    snprintf(r.model, sizeof(r.model), "m");
    r.body = json_pack("{s:s}", "prompt", "a \"cat\"\n\xc3\xa4");
    r.pictures = json_array();
    return r;
}

static void insert(struct db *db, struct image_jobs_row *r)
{
    struct err e = {0};

    assert_int_equal(image_jobs_row_insert(db, r, &e), 0);
    assert_true(r->number > 0);
}

static void test_round(void **state)
{
    struct db *db = open_table();
    struct image_jobs_row r = row_make(7, "ann"), got;
    struct err e = {0};

    (void)state;
    r.edit = true;
    r.seed = IMAGE_SEED_NONE;
    insert(db, &r);
    assert_int_equal(image_jobs_row_insert(db, &r, &e), ERR_INVALID); // an id is given once
    assert_int_equal(image_jobs_row_get(db, r.id, "bob", &got, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, r.id));
    assert_int_equal(image_jobs_row_get(db, r.id, "", &got, &e), ERR_NOT_FOUND);
    assert_int_equal(image_jobs_row_get(db, r.id, NULL, &got, &e), 0);
    image_jobs_row_fini(&got);
    r.state = IMAGE_JOBS_FAILED;
    r.started_unix_s = 5;
    r.ended_unix_s = 6;
    r.attempts = 2;
    r.seed = 99;
    json_array_append_new(r.pictures, json_pack("{s:s}", "url", "http://h:1/x.png"));
    r.timings = json_pack("{s:i}", "steps", 8);
    snprintf(r.code, sizeof(r.code), "engine");
    snprintf(r.why, sizeof(r.why), "it's broken; DROP TABLE jobs");
    assert_int_equal(image_jobs_row_update(db, &r, &e), 0);
    assert_int_equal(image_jobs_row_get(db, r.id, "ann", &got, &e), 0);
    assert_true(got.edit && got.state == r.state && got.seed == 99 && got.attempts == 2);
    assert_true(got.started_unix_s == 5 && got.ended_unix_s == 6 && got.created_unix_s == 1007);
    assert_string_equal(got.why, r.why);
    assert_string_equal(got.code, r.code);
    assert_string_equal(got.base, r.base);
    assert_true(json_equal(got.body, r.body) && json_equal(got.pictures, r.pictures) &&
                json_equal(got.timings, r.timings));
    image_jobs_row_fini(&got);
    assert_int_equal(image_jobs_row_remove(db, r.id, &e), 0);
    assert_int_equal(image_jobs_row_remove(db, r.id, &e), ERR_NOT_FOUND);
    assert_int_equal(image_jobs_row_update(db, &r, &e), ERR_NOT_FOUND);
    image_jobs_row_fini(&r);
    db_close(db);
}

// The files of a job are kept until its end, and no longer.
static void test_files(void **state)
{
    struct db *db = open_table();
    struct image_jobs_row r = row_make(1, ""), other = row_make(2, "");
    struct image_jobs_count c;
    struct err e = {0};

    (void)state;
    r.image = (struct images_part){(uint8_t *)mem_strdup("a\1b"), 3};
    insert(db, &r);
    other.image = (struct images_part){(uint8_t *)mem_strdup("pic"), 3};
    other.mask = (struct images_part){(uint8_t *)mem_strdup("mask"), 4};
    insert(db, &other);
    assert_int_equal(image_jobs_rows_count(db, NULL, &c, &e), 0);
    assert_true(c.rows == 2 && c.queued == 2 && c.running == 0 && c.file_bytes == 10);
    assert_int_equal(image_jobs_row_files(db, &other, &e), 0);
    assert_true(other.image.len == 3 && other.mask.len == 4);
    assert_memory_equal(other.mask.data, "mask", 4);
    assert_int_equal(image_jobs_row_files(db, &r, &e), 0);
    assert_true(r.image.len == 3 && r.mask.data == NULL);
    r.state = IMAGE_JOBS_RUNNING;
    assert_int_equal(image_jobs_row_update(db, &r, &e), 0);
    assert_int_equal(image_jobs_rows_count(db, "", &c, &e), 0);
    assert_true(c.queued == 1 && c.running == 1 && c.file_bytes == 10);
    r.state = IMAGE_JOBS_CANCELLED;
    assert_int_equal(image_jobs_row_update(db, &r, &e), 0);
    assert_int_equal(image_jobs_rows_count(db, NULL, &c, &e), 0);
    assert_true(c.rows == 2 && c.file_bytes == 7);
    assert_int_equal(image_jobs_row_remove(db, other.id, &e), 0);
    assert_int_equal(image_jobs_rows_count(db, NULL, &c, &e), 0);
    assert_true(c.rows == 1 && c.file_bytes == 0);
    image_jobs_row_fini(&r);
    image_jobs_row_fini(&other);
    db_close(db);
}

// ---- lists, against what they must be ---------------------------------------------------------------------

struct plain {
    int i;
    char owner[4];
    enum image_jobs_state state;
    int64_t ended;
    bool gone;
};

static bool is_in(const struct plain *p, const struct image_jobs_query *q)
{
    return !p->gone && (!q->owner || strcmp(q->owner, p->owner) == 0) &&
           (q->state == IMAGE_JOBS_STATES || q->state == p->state) &&
           (q->ended_by_unix_s == 0 || (p->ended > 0 && p->ended <= q->ended_by_unix_s));
}

// All pages of the query, one after the other, hold what the plain list has, in its order.
static void list_check(struct db *db, const struct plain *all, struct image_jobs_query q)
{
    struct image_jobs_list l = {.more = true};
    struct err e = {0};
    char after[IMAGE_JOBS_ID_BYTES] = "";
    int at = q.oldest ? 0 : MANY - 1, step = q.oldest ? 1 : -1;

    q.after = after;
    while (l.more) {
        assert_int_equal(image_jobs_rows_list(db, &q, &l, &e), 0);
        assert_true(l.n <= q.limit && (!l.more || l.n == q.limit));
        for (size_t k = 0; k < l.n; k++, at += step) {
            while (at >= 0 && at < MANY && !is_in(&all[at], &q))
                at += step;
            assert_in_range(at, 0, MANY - 1);
            assert_int_equal(l.items[k].seed, all[at].i);
        }
        snprintf(after, sizeof(after), "%s", l.n > 0 ? l.items[l.n - 1].id : "");
        bool more = l.more;
        image_jobs_list_fini(&l);
        l.more = more;
    }
    for (; at >= 0 && at < MANY; at += step)
        assert_false(is_in(&all[at], &q));
}

static void test_lists(void **state)
{
    struct db *db = open_table();
    struct plain *all = mem_alloc(MANY * sizeof(*all));
    uint64_t seed = 5;
    struct err e = {0};
    uint32_t before = 0, waiting = 0;

    (void)state;
    for (int i = 0; i < MANY; i++) {
        struct image_jobs_row r;

        all[i] = (struct plain){.i = i, .state = (enum image_jobs_state)(random_next(&seed) % 5)};
        snprintf(all[i].owner, sizeof(all[i].owner), "o%d", (int)(random_next(&seed) % 3));
        all[i].ended =
            image_jobs_state_final(all[i].state) ? 1 + (int64_t)(random_next(&seed) % 50) : 0;
        all[i].gone = random_next(&seed) % 10 == 0;
        r = row_make(i, all[i].owner);
        insert(db, &r);
        r.state = all[i].state;
        r.ended_unix_s = all[i].ended;
        assert_int_equal(image_jobs_row_update(db, &r, &e), 0);
        if (i == MANY / 2) {
            assert_int_equal(image_jobs_row_before(db, r.number, &before, &e), 0);
            assert_int_equal(before, waiting);
        }
        if (all[i].gone)
            assert_int_equal(image_jobs_row_remove(db, r.id, &e), 0);
        waiting += !all[i].gone && all[i].state == IMAGE_JOBS_QUEUED;
        image_jobs_row_fini(&r);
    }
    for (int n = 0; n < 60; n++) {
        struct image_jobs_query q = {
            .owner = n % 3 == 0   ? NULL
                     : n % 3 == 1 ? "o1"
                                  : "o2",
            .state = (enum image_jobs_state)(n % (IMAGE_JOBS_STATES + 1)),
            .oldest = n % 2 == 0,
            .ended_by_unix_s = n % 4 == 0 ? 25 : 0,
            .limit = 1 + (uint32_t)(random_next(&seed) % 40),
        };
        list_check(db, all, q);
    }
    list_check(
        db, all,
        (struct image_jobs_query){.owner = "nobody", .state = IMAGE_JOBS_STATES, .limit = 3});
    free(all);
    db_close(db);
}

// A table that was damaged is put aside, and does not keep the server from starting.
static void test_damaged(void **state)
{
    char path[128];
    struct db *db = NULL;
    struct image_jobs_count c;
    struct err e = {0};
    int fd;

    (void)state;
    snprintf(path, sizeof(path), "%s/image-jobs.db", scratch_home);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, "this is no database at all", 26), 26);
    close(fd);
    assert_int_equal(image_jobs_rows_open(path, &db, &e), 0);
    assert_true(db_damaged(db)[0] != '\0');
    assert_int_equal(image_jobs_rows_count(db, NULL, &c, &e), 0);
    assert_int_equal(c.rows, 0);
    db_close(db);
}

// Of each model the first that waits, however many stand before it; and since when a model is missing.
static void test_next(void **state)
{
    struct db *db = open_table();
    struct image_jobs_list l;
    struct err e = {0};

    (void)state;
    for (int i = 0; i < MANY; i++) {
        struct image_jobs_row r = row_make(i, "");

        snprintf(r.model, sizeof(r.model), "%s", i < MANY - 2 ? "first" : i < MANY - 1 ? "b" : "c");
        insert(db, &r);
        r.state = i == 0 ? IMAGE_JOBS_RUNNING : IMAGE_JOBS_QUEUED;
        assert_int_equal(image_jobs_row_update(db, &r, &e), 0);
        image_jobs_row_fini(&r);
    }
    assert_int_equal(image_jobs_rows_missing(db, "first", 50, &e), 0);
    assert_int_equal(image_jobs_rows_missing(db, "first", 60, &e), 0); // it is noted already
    assert_int_equal(image_jobs_rows_missing(db, "b", 70, &e), 0);
    assert_int_equal(image_jobs_rows_missing(db, "b", 0, &e), 0); // it is back
    assert_int_equal(image_jobs_rows_next(db, &l, &e), 0);
    assert_int_equal(l.n, 3);
    assert_true(l.items[0].seed == 1 && l.items[1].seed == MANY - 2 && l.items[2].seed == MANY - 1);
    assert_true(l.items[0].missing_unix_s == 50 && l.items[1].missing_unix_s == 0 &&
                l.items[2].missing_unix_s == 0);
    image_jobs_list_fini(&l);
    db_close(db);
}

// Whether any file in the scratch folder has these words in it.
static bool is_on_disk(const char *words)
{
    static const char *const tails[] = {"", "-wal", "-shm"};
    bool found = false;

    for (size_t i = 0; i < 3; i++) {
        char path[128];
        char *data = NULL;
        size_t n = 0;
        struct err e = {0};

        snprintf(path, sizeof(path), "%s/words.db%s", scratch_home, tails[i]);
        if (os_file_read(path, 1 << 24, &data, &n, &e) != 0)
            continue;
        found |= memmem(data, n, words, strlen(words)) != NULL;
        free(data);
    }
    return found;
}

// No byte of what was removed stays on the disk.
static void test_scrub(void **state)
{
    struct image_jobs_row r = row_make(1, "");
    struct db *db = NULL;
    struct err e = {0};
    char path[128];

    (void)state;
    snprintf(path, sizeof(path), "%s/words.db", scratch_home);
    assert_int_equal(image_jobs_rows_open(path, &db, &e), 0);
    json_decref(r.body);
    r.body = json_pack("{s:s}", "prompt", "periwinkle");
    insert(db, &r);
    assert_true(is_on_disk("periwinkle"));
    assert_int_equal(image_jobs_row_remove(db, r.id, &e), 0);
    assert_int_equal(image_jobs_rows_scrub(db, &e), 0);
    assert_false(is_on_disk("periwinkle"));
    image_jobs_row_fini(&r);
    db_close(db);
}

// More pictures than may be kept, and more than the disk takes.
static void test_room(void **state)
{
    struct err e = {0};

    (void)state;
    assert_int_equal(images_store_room(IMAGES_STORE_MAX, 0, &e), 0);
    assert_int_equal(images_store_room(IMAGES_STORE_MAX + 1, 0, &e), ERR_BUSY);
    assert_non_null(strstr(e.message, "1000 pictures"));
    assert_int_equal(images_store_room(1, UINT64_MAX / 2, &e), ERR_BUSY);
    assert_non_null(strstr(e.message, "nearly full"));
}

static void test_states(void **state)
{
    (void)state;
    assert_string_equal(image_jobs_state_name(IMAGE_JOBS_RUNNING), "in_progress");
    assert_string_equal(image_jobs_state_name(IMAGE_JOBS_STATES), "");
    for (int i = 0; i < IMAGE_JOBS_STATES; i++)
        assert_int_equal(image_jobs_state_final((enum image_jobs_state)i), i >= 2);
}

// ---- replies ----------------------------------------------------------------------------------------------

static void wake(void *ctx)
{
    ++*(int *)ctx;
}

static void test_reply(void **state)
{
    int wakes = 0;
    struct reply *r = reply_new_local(wake, &wakes);
    struct reply_told told;
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    told = reply_take(r, &b);
    assert_true(told.status == 0 && !told.ended && b.len == 0 && !reply_left(r));
    assert_int_equal(reply_fd(r), -1);
    reply_begin(r);
    assert_int_equal(reply_write(r, "one", 3), 0);
    assert_int_equal(reply_write(r, "two", 3), 0);
    assert_true(wakes >= 2);
    told = reply_take(r, &b);
    assert_true(told.status == 200 && !told.whole && !told.ended);
    assert_memory_equal(b.data, "onetwo", 6);
    reply_leave(r);
    assert_true(reply_left(r));
    // What was on its way when the client had enough is not lost: it may name files.
    assert_int_equal(reply_write(r, "three", 5), 0);
    reply_abort(r);
    told = reply_take(r, &b);
    assert_true(told.ended && b.len == 11);
    reply_drop(r);
    reply_drop(r);
    buf_fini(&b);
}

static void test_reply_whole(void **state)
{
    int wakes = 0;
    struct reply *r = reply_new_local(wake, &wakes);
    struct reply_told told;
    struct buf b;

    (void)state;
    buf_init(&b, 1 << 20);
    reply_waiting_set(r, 4);
    assert_int_equal(reply_write(r, "12345", 5), ERR_RANGE);
    reply_finish(r, 429, mem_strdup("busy"), 7);
    told = reply_take(r, &b);
    assert_true(told.whole && told.ended && told.status == 429 && told.retry_after_s == 7);
    assert_memory_equal(b.data, "busy", 4);
    reply_drop(r);
    reply_drop(r);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round),       cmocka_unit_test(test_files),
        cmocka_unit_test(test_lists),       SCRATCH_TEST(test_damaged),
        cmocka_unit_test(test_states),      cmocka_unit_test(test_reply),
        cmocka_unit_test(test_reply_whole), cmocka_unit_test(test_next),
        SCRATCH_TEST(test_scrub),           SCRATCH_TEST(test_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
