// Finding a request by one of its ids, against looking at all of them.
#include "gateway/request_index.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdbool.h>
#include <stdlib.h>

#include <cmocka.h>

#define ROWS 500

// The index only passes the pointers on.
static struct request *request_of(size_t i)
{
    static char places[ROWS];

    return (struct request *)(void *)&places[i];
}

static void test_against_all(void **state)
{
    struct request_index x = {0};
    uint64_t first[ROWS], next = 1;
    uint32_t n[ROWS];
    bool there[ROWS] = {false};

    (void)state;
    srand(3);
    for (size_t i = 0; i < ROWS; i++) {
        first[i] = next;
        n[i] = 1 + (uint32_t)rand() % 5;
        next += n[i] + (uint64_t)(rand() % 3); // others take ids too
        request_index_add(&x, request_of(i), first[i], n[i]);
        there[i] = true;
        if (rand() % 2) {
            size_t gone = (size_t)rand() % (i + 1);

            request_index_remove(&x, first[gone]);
            there[gone] = false;
        }
    }
    for (size_t i = 0; i < ROWS; i++) {
        for (uint64_t id = first[i]; id < first[i] + n[i]; id++) {
            uint32_t at = 99;
            struct request *r = request_index_find(&x, id, &at);

            assert_ptr_equal(r, there[i] ? request_of(i) : NULL);
            if (r)
                assert_int_equal(at, id - first[i]);
        }
    }
    for (size_t i = 0; i < ROWS; i++)
        request_index_remove(&x, first[i]);
    assert_int_equal(x.n, 0);
    assert_null(x.rows);
}

static void test_none(void **state)
{
    struct request_index x = {0};
    uint32_t at;

    (void)state;
    assert_null(request_index_find(&x, 5, &at));
    request_index_remove(&x, 5);
    request_index_add(&x, request_of(0), 10, 2);
    assert_null(request_index_find(&x, 9, &at));
    assert_null(request_index_find(&x, 12, &at));
    request_index_remove(&x, 11); // an id, but not the first
    assert_ptr_equal(request_index_find(&x, 11, &at), request_of(0));
    request_index_remove(&x, 10);
    assert_null(x.rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_all),
        cmocka_unit_test(test_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
