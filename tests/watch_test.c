// Sockets whose other side leaves, among many that stay.
#include "base/buf.h"
#include "base/chan.h"
#include "os/os.h"
#include "os/watch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define PAIRS 200

struct pairs {
    int near[PAIRS], far[PAIRS];
    int wake[2];
    struct os_watch *watch;
};

static void pairs_open(struct pairs *p)
{
    struct err e = {0};

    assert_int_equal(os_pipe(p->wake, &e), 0);
    assert_int_equal(os_watch_open(p->wake[0], &p->watch, &e), 0);
    for (int i = 0; i < PAIRS; i++) {
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        p->near[i] = fds[0];
        p->far[i] = fds[1];
        os_watch_add(p->watch, p->near[i], &p->near[i]);
    }
}

static void pairs_close(struct pairs *p)
{
    os_watch_close(p->watch);
    close(p->wake[0]);
    close(p->wake[1]);
    for (int i = 0; i < PAIRS; i++) {
        if (p->near[i] >= 0)
            close(p->near[i]);
        if (p->far[i] >= 0)
            close(p->far[i]);
    }
}

static void leave(struct pairs *p, int i)
{
    close(p->far[i]);
    p->far[i] = -1;
}

static void test_leaving_is_told(void **state)
{
    struct pairs p;
    void *gone[4];

    (void)state;
    pairs_open(&p);
    // Bytes are of no interest.
    assert_int_equal(write(p.far[5], "x", 1), 1);
    assert_int_equal(os_watch_wait(p.watch, 0, gone, 4), 0);
    leave(&p, 7);
    assert_int_equal(os_watch_wait(p.watch, 10000, gone, 4), 1);
    assert_ptr_equal(gone[0], &p.near[7]);
    os_watch_remove(p.watch, p.near[7]);
    assert_int_equal(os_watch_wait(p.watch, 0, gone, 4), 0);
    // Half closed counts: nobody will read the answer to the end of a connection that sends no more.
    shutdown(p.far[9], SHUT_WR);
    assert_int_equal(os_watch_wait(p.watch, 10000, gone, 4), 1);
    assert_ptr_equal(gone[0], &p.near[9]);
    pairs_close(&p);
}

static void test_many_leave_at_once(void **state)
{
    struct pairs p;
    bool told[PAIRS] = {false};
    void *gone[8];
    size_t left = PAIRS, n;

    (void)state;
    pairs_open(&p);
    for (int i = 0; i < PAIRS; i++)
        leave(&p, i);
    while (left > 0) {
        n = os_watch_wait(p.watch, 10000, gone, 8);
        assert_true(n >= 1 && n <= 8);
        for (size_t i = 0; i < n; i++) {
            size_t which = (size_t)((int *)gone[i] - p.near);

            assert_false(told[which]);
            told[which] = true;
            os_watch_remove(p.watch, p.near[which]);
            left--;
        }
    }
    assert_int_equal(os_watch_wait(p.watch, 0, gone, 8), 0);
    pairs_close(&p);
}

static void test_waking(void **state)
{
    struct pairs p;
    void *gone[4];

    (void)state;
    pairs_open(&p);
    assert_int_equal(write(p.wake[1], "x", 1), 1);
    // Ends at once, and again for as long as nobody reads it.
    assert_int_equal(os_watch_wait(p.watch, -1, gone, 4), 0);
    assert_int_equal(os_watch_wait(p.watch, -1, gone, 4), 0);
    // What cannot be watched does no harm.
    os_watch_add(p.watch, -1, &p);
    os_watch_remove(p.watch, -1);
    pairs_close(&p);
}

static void test_descriptors(void **state)
{
    uint64_t had, more;

    (void)state;
    had = os_files_raise(16);
    assert_true(had >= 16);
    more = os_files_raise(had + 1);
    assert_true(more >= had);
    assert_int_equal(os_files_raise(1), more);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leaving_is_told),
        cmocka_unit_test(test_many_leave_at_once),
        cmocka_unit_test(test_waking),
        cmocka_unit_test(test_descriptors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
