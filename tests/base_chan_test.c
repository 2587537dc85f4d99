// base/chan: order, limits, closing, the descriptor, and many threads (run under TSan as well).
#include "base/buf.h"
#include "base/chan.h"
#include "base/clock.h"
#include "base/err.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static bool readable(struct chan *c)
{
    struct pollfd p = {.fd = chan_fd(c), .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void order_and_limits(void **state)
{
    (void)state;
    struct chan *c = chan_new(sizeof(int), 3);
    int got = -1;
    assert_int_equal(chan_recv(c, &got, 0), ERR_TIMEOUT);
    for (int round = 0; round < 5; round++) { // the ring wraps
        for (int i = 0; i < 3; i++)
            assert_int_equal(chan_send(c, &i, 0), 0);
        assert_int_equal(chan_send(c, &got, 0), ERR_TIMEOUT);
        assert_int_equal(chan_len(c), 3);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(chan_recv(c, &got, CHAN_FOREVER), 0);
            assert_int_equal(got, i);
        }
        assert_int_equal(chan_recv(c, &got, 0), 0);
        assert_int_equal(got, 2);
    }
    int64_t before = clock_now_ns();
    assert_int_equal(chan_recv(c, &got, 5 * NS_PER_MS), ERR_TIMEOUT);
    assert_true(clock_now_ns() >= before + 5 * NS_PER_MS);
    chan_free(c);
}

// What is put first is received first, whichever way the ring lies.
static void first_of_all(void **state)
{
    (void)state;
    struct chan *c = chan_new(sizeof(int), 3);
    for (int round = 0; round < 5; round++) {
        int got = -1, oldest = 10, newer = 11, first = 12;
        assert_int_equal(chan_send(c, &oldest, 0), 0);
        assert_int_equal(chan_send(c, &newer, 0), 0);
        assert_int_equal(chan_send_first(c, &first, 0), 0);
        assert_int_equal(chan_send_first(c, &first, 0), ERR_TIMEOUT);
        assert_int_equal(chan_recv(c, &got, 0), 0);
        assert_int_equal(got, first);
        assert_int_equal(chan_recv(c, &got, 0), 0);
        assert_int_equal(got, oldest);
        assert_int_equal(chan_recv(c, &got, 0), 0);
        assert_int_equal(got, newer);
        assert_int_equal(chan_send(c, &got, 0), 0); // the ring lies elsewhere in the next round
        assert_int_equal(chan_recv(c, &got, 0), 0);
    }
    chan_free(c);
}

static void closing_drains(void **state)
{
    (void)state;
    struct chan *c = chan_new(sizeof(int), 4);
    int v = 7;
    assert_int_equal(chan_send(c, &v, 0), 0);
    v = 8;
    assert_int_equal(chan_send(c, &v, 0), 0);
    chan_close(c);
    chan_close(c);
    assert_int_equal(chan_send(c, &v, CHAN_FOREVER), ERR_CLOSED);
    assert_int_equal(chan_recv(c, &v, CHAN_FOREVER), 0);
    assert_int_equal(v, 7);
    assert_int_equal(chan_recv(c, &v, 0), 0);
    assert_int_equal(v, 8);
    assert_int_equal(chan_recv(c, &v, CHAN_FOREVER), ERR_CLOSED);
    chan_free(c);
    chan_free(NULL);
}

static void descriptor_follows_state(void **state)
{
    (void)state;
    struct chan *c = chan_new(sizeof(int), 4);
    int v = 1;
    assert_int_equal(chan_send(c, &v, 0), 0);
    assert_true(readable(c)); // made after the item was sent
    assert_int_equal(chan_send(c, &v, 0), 0);
    assert_int_equal(chan_recv(c, &v, 0), 0);
    assert_true(readable(c));
    assert_int_equal(chan_recv(c, &v, 0), 0);
    assert_false(readable(c));
    assert_int_equal(chan_recv(c, &v, 0), ERR_TIMEOUT);
    assert_false(readable(c));
    chan_close(c);
    assert_true(readable(c));
    assert_int_equal(chan_recv(c, &v, 0), ERR_CLOSED);
    assert_true(readable(c));
    chan_free(c);
}

// ---- threads ---------------------------------------------------------------------------------

enum { SENDERS = 4, RECEIVERS = 3, ITEMS = 5000 };

struct item {
    int sender;
    int number;
    char pad[40]; // larger than a word: a torn copy would show
};

struct receiver {
    struct chan *c;
    long count;
    long long sum;
    int last[SENDERS]; // numbers of one sender arrive in order at any one receiver
    bool in_order, whole;
};

struct sender {
    struct chan *c;
    int id;
};

static void *send_all(void *arg)
{
    struct sender *s = arg;
    for (int i = 1; i <= ITEMS; i++) {
        struct item it = {.sender = s->id, .number = i};
        memset(it.pad, i & 0x7f, sizeof it.pad);
        if (chan_send(s->c, &it, CHAN_FOREVER))
            return s;
    }
    return NULL;
}

static void *recv_all(void *arg)
{
    struct receiver *r = arg;
    struct item it;
    while (chan_recv(r->c, &it, CHAN_FOREVER) == 0) {
        r->count++;
        r->sum += it.number;
        r->in_order &= it.number > r->last[it.sender];
        r->last[it.sender] = it.number;
        for (size_t i = 0; i < sizeof it.pad; i++)
            r->whole &= it.pad[i] == (char)(it.number & 0x7f);
    }
    return NULL;
}

static void many_threads(void **state)
{
    (void)state;
    struct chan *c = chan_new(sizeof(struct item), 7);
    pthread_t senders[SENDERS], receivers[RECEIVERS];
    struct sender s[SENDERS];
    struct receiver r[RECEIVERS];
    chan_fd(c);
    for (int i = 0; i < RECEIVERS; i++) {
        r[i] = (struct receiver){.c = c, .in_order = true, .whole = true};
        assert_int_equal(pthread_create(&receivers[i], NULL, recv_all, &r[i]), 0);
    }
    for (int i = 0; i < SENDERS; i++) {
        s[i] = (struct sender){.c = c, .id = i};
        assert_int_equal(pthread_create(&senders[i], NULL, send_all, &s[i]), 0);
    }
    for (int i = 0; i < SENDERS; i++) {
        void *failed = NULL;
        pthread_join(senders[i], &failed);
        assert_null(failed);
    }
    chan_close(c);
    long count = 0;
    long long sum = 0;
    for (int i = 0; i < RECEIVERS; i++) {
        pthread_join(receivers[i], NULL);
        count += r[i].count;
        sum += r[i].sum;
        assert_true(r[i].in_order);
        assert_true(r[i].whole);
    }
    assert_int_equal(count, SENDERS * ITEMS);
    assert_true(sum == (long long)SENDERS * ITEMS * (ITEMS + 1) / 2);
    chan_free(c);
}

static void *close_it(void *arg)
{
    clock_sleep_until(clock_now_ns() + 5 * NS_PER_MS);
    chan_close(arg);
    return NULL;
}

// Closing wakes a receiver of an empty channel and a sender to a full one.
static void closing_wakes(void **state)
{
    (void)state;
    for (int full = 0; full < 2; full++) {
        struct chan *c = chan_new(sizeof(int), 1);
        int v = 1;
        if (full)
            assert_int_equal(chan_send(c, &v, 0), 0);
        pthread_t t;
        assert_int_equal(pthread_create(&t, NULL, close_it, c), 0);
        int rc = full ? chan_send(c, &v, CHAN_FOREVER) : chan_recv(c, &v, CHAN_FOREVER);
        assert_int_equal(rc, ERR_CLOSED);
        pthread_join(t, NULL);
        chan_free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_and_limits), cmocka_unit_test(first_of_all),
        cmocka_unit_test(closing_drains),   cmocka_unit_test(descriptor_follows_state),
        cmocka_unit_test(many_threads),     cmocka_unit_test(closing_wakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
