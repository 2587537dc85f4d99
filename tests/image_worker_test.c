// The image worker from the outside, over the real process with its fake engine: order, seeds, progress, cancelling,
// pausing, deaths of every kind, and that nothing is left behind.
#include "base/buf.h"
#include "base/clock.h"
#include "image/worker.h"
#include "os/os.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PATIENCE_NS (30 * NS_PER_S) // nothing here takes so long on any machine
#define GROWTH_MAX_BYTES (8u << 20)

static struct image_worker *start(const char *model)
{
    const struct image_worker_options o = {.model = model};
    struct image_worker *w = NULL;
    struct err e = {0};
    if (image_worker_start(&o, &w, &e) != 0)
        fail_msg("%s", e.message);
    return w;
}

static uint64_t submit(struct image_worker *w, const char *prompt, uint32_t count, int64_t seed)
{
    struct image_request r;
    struct err e = {0};
    uint64_t id = 0;
    image_request_default(&r);
    r.prompt = prompt;
    r.count = count;
    r.seed = seed;
    if (image_worker_submit(w, &r, &id, &e) != 0)
        fail_msg("%s", e.message);
    return id;
}

static void next(struct image_worker *w, struct image_event *ev)
{
    if (image_worker_poll(w, clock_now_ns() + PATIENCE_NS, ev) != 1)
        fail_msg("nothing happened");
}

// The next event of a kind; what comes before it is dropped.
static struct image_event wait_for(struct image_worker *w, enum image_event_kind kind)
{
    struct image_event ev;
    for (;;) {
        next(w, &ev);
        if (ev.kind == kind)
            return ev;
        if (ev.kind == IMAGE_FAILED)
            fail_msg("%s", ev.error.message);
        image_event_fini(&ev);
    }
}

// The outcome of a request: 0 or its error's code.
static int outcome(struct image_worker *w, uint64_t id, struct err *e)
{
    struct image_event ev;
    for (;;) {
        next(w, &ev);
        image_event_fini(&ev);
        if (ev.id != id || (ev.kind != IMAGE_DONE && ev.kind != IMAGE_FAILED))
            continue;
        *e = ev.error;
        return ev.kind == IMAGE_DONE ? 0 : ev.error.code;
    }
}

static uint8_t *draw(struct image_worker *w, const char *prompt, int64_t seed)
{
    submit(w, prompt, 1, seed);
    struct image_event ev = wait_for(w, IMAGE_PICTURE);
    assert_int_equal(ev.seed, seed);
    assert_int_equal(ev.picture.width, 64);
    ev = (wait_for(w, IMAGE_DONE), ev);
    return ev.picture.rgb;
}

#define BYTES (64 * 64 * 3)

// ---- drawing -------------------------------------------------------------------------------------

static void a_seed_says_the_picture_over_a_restart_too(void **state)
{
    struct image_worker *w = start("fake:"), *again = NULL;
    uint8_t *a = draw(w, "a cat", 7), *b = draw(w, "a cat", 7), *c = draw(w, "a cat", 8);
    uint8_t *d = draw(w, "a dog", 7), *f = NULL;
    (void)state;
    assert_memory_equal(a, b, BYTES);
    assert_memory_not_equal(a, c, BYTES);
    assert_memory_not_equal(a, d, BYTES);
    image_worker_free(w);
    again = start("fake:");
    f = draw(again, "a cat", 7);
    assert_memory_equal(a, f, BYTES);
    image_worker_free(again);
    free(a);
    free(b);
    free(c);
    free(d);
    free(f);
}

static void every_step_of_every_picture_is_told(void **state)
{
    struct image_worker *w = start("fake:");
    struct image_request r;
    struct image_event ev = {0};
    struct err e = {0};
    uint64_t id = 0;
    uint32_t steps = 0, previews = 0, pictures = 0;
    (void)state;
    image_request_default(&r);
    r.prompt = "a cat";
    r.count = 3;
    r.steps = 12;
    r.previews = 2;
    assert_int_equal(image_worker_submit(w, &r, &id, &e), 0);
    assert_true(r.seed >= 0); // drawn, and told
    while (ev.kind != IMAGE_DONE) {
        next(w, &ev);
        if (ev.kind == IMAGE_PROGRESS) {
            assert_int_equal(ev.index, steps / 12);
            assert_int_equal(ev.step, steps % 12 + 1);
            assert_int_equal(ev.steps, 12);
            steps++;
        }
        if (ev.kind == IMAGE_PICTURE) {
            assert_int_equal(ev.index, pictures);
            assert_int_equal(ev.seed, r.seed + pictures);
            pictures++;
        }
        previews += ev.kind == IMAGE_PREVIEW;
        assert_int_not_equal(ev.kind, IMAGE_FAILED);
        image_event_fini(&ev);
    }
    assert_int_equal(steps, 36);
    assert_int_equal(pictures, 3);
    assert_int_equal(previews, 6);
    image_worker_free(w);
}

static void an_initial_picture_reaches_the_worker(void **state)
{
    static uint8_t grey[BYTES];
    const struct image_picture p = {64, 64, grey};
    struct image_worker *w = start("fake:");
    struct image_request r;
    struct err e = {0};
    uint64_t id = 0;
    (void)state;
    memset(grey, 99, sizeof grey);
    image_request_default(&r);
    r.prompt = "a cat";
    r.initial = &p;
    r.mask = &p;
    assert_int_equal(image_worker_submit(w, &r, &id, &e), 0);
    struct image_event ev = wait_for(w, IMAGE_PICTURE);
    assert_memory_equal(ev.picture.rgb, grey, BYTES / 2);
    image_event_fini(&ev);
    image_worker_free(w);
}

// ---- cancelling and pausing ----------------------------------------------------------------------

static void what_waits_is_cancelled_at_once_what_is_drawn_within_a_step(void **state)
{
    struct image_worker *w = start("fake:30");
    struct image_event ev;
    struct err e = {0};
    uint64_t first = submit(w, "a cat", 10, 1), second = submit(w, "a dog", 1, 1);
    uint64_t third = submit(w, "a cow", 1, 1);
    uint32_t after = 0;
    (void)state;
    ev = wait_for(w, IMAGE_PROGRESS);
    assert_int_equal(ev.id, first);
    image_worker_cancel(w, second);
    assert_int_equal(outcome(w, second, &e), ERR_CANCELLED);
    image_worker_cancel(w, first);
    image_worker_cancel(w, first);
    image_worker_cancel(w, 99);
    do {
        next(w, &ev);
        after += ev.kind == IMAGE_PROGRESS;
        assert_int_not_equal(ev.kind, IMAGE_PICTURE);
    } while (ev.kind != IMAGE_FAILED);
    assert_int_equal(ev.id, first);
    assert_int_equal(ev.error.code, ERR_CANCELLED);
    assert_true(after <= 2); // the one that ran, and one that was on its way
    assert_int_equal(outcome(w, third, &e), 0);
    image_worker_free(w);
}

static void a_pause_holds_before_the_next_step(void **state)
{
    struct image_worker *w = start("fake:5");
    struct image_event ev;
    struct err e = {0};
    (void)state;
    ev = wait_for(w, IMAGE_READY);
    image_worker_pause(w, true);
    uint64_t id = submit(w, "a cat", 1, 1);
    // It draws nothing, so waiting ends without a picture. A paused one can be cancelled.
    while (image_worker_poll(w, clock_now_ns() + 100 * NS_PER_MS, &ev) == 1)
        assert_int_not_equal(ev.kind, IMAGE_DONE);
    image_worker_cancel(w, id);
    assert_int_equal(outcome(w, id, &e), ERR_CANCELLED);
    id = submit(w, "a dog", 1, 1);
    image_worker_pause(w, false);
    assert_int_equal(outcome(w, id, &e), 0);
    image_worker_free(w);
}

// ---- deaths --------------------------------------------------------------------------------------

static void a_worker_that_aborts_takes_one_request_and_comes_back(void **state)
{
    struct image_worker *w = start("fake:");
    struct image_worker_status s;
    struct err e = {0};
    uint64_t bad = submit(w, "crash", 1, 1), good = submit(w, "a cat", 1, 1);
    (void)state;
    assert_int_equal(outcome(w, bad, &e), ERR_ENGINE);
    assert_non_null(strstr(e.message, "signal 6"));
    assert_non_null(strstr(e.message, "ask once more"));
    assert_int_equal(outcome(w, good, &e), 0);
    bad = submit(w, "fail", 1, 1);
    assert_int_equal(outcome(w, bad, &e), ERR_ENGINE); // an error alone ends nothing
    image_worker_status(w, &s);
    assert_int_equal(s.restarts, 1);
    assert_true(s.ready);
    image_worker_free(w);
}

static void a_killed_worker_says_so_and_comes_back(void **state)
{
    struct image_worker *w = start("fake:20");
    struct image_worker_status s;
    struct image_event ev;
    struct err e = {0};
    uint64_t id = submit(w, "hang", 1, 1);
    (void)state;
    ev = wait_for(w, IMAGE_PROGRESS);
    image_worker_status(w, &s);
    assert_true(s.pid > 0);
    kill(s.pid, SIGKILL);
    assert_int_equal(outcome(w, id, &e), ERR_ENGINE);
    assert_non_null(strstr(e.message, "signal 9"));
    id = submit(w, "a cat", 1, 1);
    assert_int_equal(outcome(w, id, &e), 0);
    (void)ev;
    image_worker_free(w);
}

// A pause is no silence; what was drawn when it fell silent fails, and what waits gets the next worker.
static void a_worker_that_hangs_is_ended_and_comes_back(void **state)
{
    const struct image_worker_options o = {.model = "fake:1", .hang_ns = NS_PER_S};
    struct image_worker *w = NULL;
    struct image_event ev;
    struct err e = {0};
    uint64_t bad, good;
    (void)state;
    assert_int_equal(image_worker_start(&o, &w, &e), 0);
    image_worker_pause(w, true);
    good = submit(w, "a cat", 1, 1);
    wait_for(w, IMAGE_READY);
    while (image_worker_poll(w, clock_now_ns() + 3 * NS_PER_S / 2, &ev) == 1) {
        assert_true(ev.kind != IMAGE_FAILED && ev.kind != IMAGE_DONE);
        image_event_fini(&ev);
    }
    image_worker_pause(w, false);
    assert_int_equal(outcome(w, good, &e), 0);
    bad = submit(w, "hang", 1, 1);
    good = submit(w, "a cat", 1, 1);
    assert_int_equal(outcome(w, bad, &e), ERR_TIMEOUT);
    assert_non_null(strstr(e.message, "said nothing for 1 s"));
    assert_int_equal(outcome(w, good, &e), 0);
    image_worker_free(w);
}

static void a_model_that_cannot_be_loaded_is_not_tried_again(void **state)
{
    struct image_worker *w = start("fake:0:cannot");
    struct image_request r;
    struct err e = {0};
    uint64_t id = submit(w, "a cat", 1, 1);
    (void)state;
    assert_int_equal(outcome(w, id, &e), ERR_CORRUPT);
    assert_non_null(strstr(e.message, "cannot be loaded"));
    image_request_default(&r);
    r.prompt = "a dog";
    assert_int_equal(image_worker_submit(w, &r, &id, &e), ERR_CORRUPT);
    image_worker_free(w);
}

// A worker of three lines of shell.
static char *script_make(const char *body)
{
    struct err e = {0};
    char *path = mem_format("/tmp/tandem-image-worker-%d.sh", (int)getpid());
    char *text = mem_format("#!/bin/sh\n%s\n", body);
    assert_int_equal(os_file_write(path, text, strlen(text), 0700, &e), 0);
    free(text);
    return path;
}

static void programs_that_are_no_workers_are_given_up(void **state)
{
    static const struct {
        const char *body, *part;
    } rows[] = {
        {"exit 0", "3 times"},
        {"kill -ABRT $$", "3 times"},
        {"printf 'this is no frame at all' >&3; exec sleep 60", "3 times"},
        {"printf '\\002\\000\\000\\000\\000\\000\\000\\000[]' >&3; exec sleep 60", "3 times"},
        {"printf '\\033\\000\\000\\000\\000\\000\\000\\000{\"op\":\"ready\",\"protocol\":9}' >&3; "
         "exec sleep 60",
         "version 9"},
        {"exit 2", "refused its options"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *path = script_make(rows[i].body);
        const struct image_worker_options o = {.model = "fake:", .program = path};
        struct image_worker *w = NULL;
        struct err e = {0};
        assert_int_equal(image_worker_start(&o, &w, &e), 0);
        uint64_t id = submit(w, "a cat", 1, 1);
        assert_true(outcome(w, id, &e) < 0);
        if (strstr(e.message, rows[i].part) == NULL)
            fail_msg("%s: %s", rows[i].body, e.message);
        image_worker_free(w);
        unlink(path);
        free(path);
    }
}

// Who waits hears of it at once; it is tried anew, but not for ever.
static void a_model_that_is_never_loaded_has_an_end(void **state)
{
    char *path = script_make("exec sleep 60");
    const struct image_worker_options o = {.model = "fake:", .program = path, .load_s = 0.1};
    struct image_worker *w = NULL;
    struct err e = {0};
    (void)state;
    assert_int_equal(image_worker_start(&o, &w, &e), 0);
    assert_int_equal(outcome(w, submit(w, "a cat", 1, 1), &e), ERR_BUSY);
    assert_non_null(strstr(e.message, "not loaded after 0.1 s (--image-load-limit)"));
    struct image_event ev = wait_for(w, IMAGE_DOWN);
    assert_true(ev.retry_ns > 0);
    while ((ev = wait_for(w, IMAGE_DOWN)).retry_ns > 0)
        continue;
    assert_int_equal(ev.error.code, ERR_TIMEOUT);
    image_worker_free(w);
    unlink(path);
    free(path);
}

static void a_program_that_is_not_there_is_named(void **state)
{
    const struct image_worker_options o = {.model = "fake:", .program = "/no/such/worker"};
    struct image_worker *w = NULL;
    struct err e = {0};
    (void)state;
    assert_int_equal(image_worker_start(&o, &w, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "/no/such/worker"));
    const struct image_worker_options none = {.model = "/no/such/model.gguf"};
    assert_int_equal(image_worker_start(&none, &w, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "/no/such/model.gguf"));
}

static void a_program_that_goes_away_ends_what_waits(void **state)
{
    char *path = script_make("exit 0");
    const struct image_worker_options o = {.model = "fake:", .program = path};
    struct image_worker *w = NULL;
    struct err e = {0};
    (void)state;
    assert_int_equal(image_worker_start(&o, &w, &e), 0);
    struct image_event ev = wait_for(w, IMAGE_DOWN); // it has been read, and ended
    assert_true(ev.retry_ns > 0);
    unlink(path);
    assert_int_equal(outcome(w, submit(w, "a cat", 1, 1), &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "cannot be started"));
    image_worker_free(w);
    free(path);
}

// ---- limits and leaks ----------------------------------------------------------------------------

static void the_queue_has_an_end(void **state)
{
    struct image_worker *w = start("fake:1000");
    struct image_request r;
    struct err e = {0};
    uint64_t id = 0;
    int rc = 0;
    (void)state;
    image_request_default(&r);
    r.prompt = "a cat";
    for (uint32_t i = 0; i < IMAGE_QUEUE_MAX; i++)
        assert_int_equal(image_worker_submit(w, &r, &id, &e), 0);
    rc = image_worker_submit(w, &r, &id, &e);
    assert_int_equal(rc, ERR_BUSY);
    assert_non_null(strstr(e.message, "64"));
    image_worker_free(w);
}

static size_t files_open(pid_t pid)
{
    char path[64];
    size_t n = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *d = opendir(path);
    while (d != NULL && readdir(d) != NULL)
        n++;
    if (d != NULL)
        closedir(d);
    return n;
}

static void a_hundred_cancelled_requests_leave_nothing(void **state)
{
    struct image_worker *w = start("fake:1");
    struct image_worker_status s;
    struct os_memory before = {0}, after = {0};
    struct err e = {0};
    size_t files[2] = {0}, theirs[2] = {0};
    (void)state;
    for (int i = 0; i < 110; i++) {
        uint64_t id = submit(w, "a cat", 10, i);
        struct image_event ev = wait_for(w, IMAGE_PROGRESS);
        assert_int_equal(ev.id, id);
        image_worker_cancel(w, id);
        assert_int_equal(outcome(w, id, &e), ERR_CANCELLED);
        image_worker_status(w, &s);
        if (i == 9) { // warm
            os_memory_get(s.pid, &before);
            files[0] = files_open(getpid());
            theirs[0] = files_open(s.pid);
        }
    }
    os_memory_get(s.pid, &after);
    files[1] = files_open(getpid());
    theirs[1] = files_open(s.pid);
    assert_int_equal(files[0], files[1]);
    assert_int_equal(theirs[0], theirs[1]);
    assert_int_equal(s.restarts, 0);
    if (before.resident_bytes > 0)
        assert_true(after.resident_bytes < before.resident_bytes + GROWTH_MAX_BYTES);
    image_worker_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seed_says_the_picture_over_a_restart_too),
        cmocka_unit_test(every_step_of_every_picture_is_told),
        cmocka_unit_test(an_initial_picture_reaches_the_worker),
        cmocka_unit_test(what_waits_is_cancelled_at_once_what_is_drawn_within_a_step),
        cmocka_unit_test(a_pause_holds_before_the_next_step),
        cmocka_unit_test(a_worker_that_aborts_takes_one_request_and_comes_back),
        cmocka_unit_test(a_killed_worker_says_so_and_comes_back),
        cmocka_unit_test(a_worker_that_hangs_is_ended_and_comes_back),
        cmocka_unit_test(a_model_that_cannot_be_loaded_is_not_tried_again),
        cmocka_unit_test(programs_that_are_no_workers_are_given_up),
        cmocka_unit_test(a_model_that_is_never_loaded_has_an_end),
        cmocka_unit_test(a_program_that_is_not_there_is_named),
        cmocka_unit_test(a_program_that_goes_away_ends_what_waits),
        cmocka_unit_test(the_queue_has_an_end),
        cmocka_unit_test(a_hundred_cancelled_requests_leave_nothing),
    };
    if (getenv("TANDEM_EMULATED") != NULL) {
        printf("SKIP: emulated, the worker cannot be started\n");
        return 0;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
