// The pace of answers while prompts are read, against a machine that is simulated: what a step of so many
// rows takes is a formula, so the gaps between tokens can be counted exactly.
#include "node/pace.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct machine {
    const char *name;
    double decode_s;             // a quiet step
    double row_s;                // a prompt row that goes along
    double jump_s;               // the first one, on top
    double chunk_s, chunk_row_s; // a chunk apart: fixed part and per row
};

static double mixed_s(const struct machine *m, uint32_t rows)
{
    return m->decode_s + (rows > 0 ? m->jump_s + rows * m->row_s : 0);
}

static double chunk_s(const struct machine *m, uint32_t rows)
{
    return m->chunk_s + rows * m->chunk_row_s;
}

struct run {
    double p99_s; // of the gaps between two tokens, after the first few
    double mean_s;
    uint32_t rows;  // prompt rows that were read
    uint32_t quiet; // steps without any
    bool mixed_64;  // a mixed step reached 64 rows
};

#define STEPS 2000
#define SETTLE 40 // steps in which the estimates form

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct run run(const struct machine *m, double bound_s, uint32_t n)
{
    double gaps[STEPS];
    struct pace p;
    struct run r = {0};
    pace_init(&p, bound_s);
    for (int step = 0; step < STEPS; step++) {
        struct pace_share s = pace_share_get(&p, n, m->chunk_row_s);
        uint32_t rows = s.rows < 512 ? s.rows : 512;
        double gap = mixed_s(m, s.apart ? 0 : rows);
        pace_learn_step(&p, n, s.apart ? 0 : rows, gap);
        r.mixed_64 = r.mixed_64 || (!s.apart && rows > 0 && rows + n >= PACE_APART);
        if (s.apart) {
            pace_learn_chunk(&p, rows, chunk_s(m, rows));
            gap += chunk_s(m, rows);
        }
        gaps[step] = gap;
        r.mean_s += gap / STEPS;
        r.rows += rows;
        r.quiet += rows == 0;
    }
    qsort(gaps + SETTLE, STEPS - SETTLE, sizeof *gaps, by_size);
    r.p99_s = gaps[SETTLE + (STEPS - SETTLE) * 99 / 100];
    return r;
}

static const struct machine machines[] = {
    {"small model on one core", 0.013, 0.010, 0, 0, 0.003},
    {"the same, a jump for the first row", 0.013, 0.002, 0.004, 0, 0.003},
    {"two rows would be too many", 0.013, 0.008, 0, 0, 0.003},
    {"big model on a GPU", 0.060, 0.0001, 0.001, 0.055, 0.0005},
    {"slow decode, fast prompts", 0.100, 0.0005, 0, 0, 0.0005},
    {"a row takes as long as a step", 0.010, 0.010, 0, 0, 0.010},
    {"a row takes ten steps", 0.010, 0.100, 0, 0, 0.100},
};
#define N_MACHINES (sizeof machines / sizeof *machines)

// By default 99 of 100 gaps are no more than twice a quiet one, wherever a single row fits at
// all, and prompts move.
static void test_auto(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MACHINES; i++) {
        const struct machine *m = &machines[i];
        for (uint32_t n = 1; n <= 8; n *= 2) {
            struct run r = run(m, -1, n);
            double least = mixed_s(m, 1);
            print_message("%s, %u answers: p99 %.2f x quiet, %.0f prompt tokens/s\n", m->name, n,
                          r.p99_s / m->decode_s, r.rows / (r.mean_s * STEPS));
            assert_true(r.p99_s <= fmax(2 * m->decode_s, least) * 1.0001);
            assert_true(r.rows >= STEPS / 2);
            assert_false(r.mixed_64);
        }
    }
}

// The first steps may be wrong, but not by much: one prompt row at first, then at most twice as many.
static void test_starts_small(void **state)
{
    (void)state;
    struct pace p;
    pace_init(&p, -1);
    assert_int_equal(pace_share_get(&p, 2, 1e-4).rows, 0); // first: what is quiet?
    pace_learn_step(&p, 2, 0, 0.010);
    uint32_t before = 0;
    for (int i = 0; i < 10; i++) {
        struct pace_share s = pace_share_get(&p, 2, 1e-3);
        assert_false(s.apart);
        assert_true(s.rows >= 1 && s.rows <= 2 * before + 1);
        pace_learn_step(&p, 2, s.rows, 0.010 + 0.0001 * s.rows);
        before = s.rows;
    }
    assert_true(before > 20);
}

static void test_bounds(void **state)
{
    (void)state;
    static const struct {
        double bound_s;
        double most_s; // worst gap
    } cases[] = {{0.5, 0.5}, {0.2, 0.2}, {0.1, 0.1}, {0.05, 0.05}};
    const struct machine *m = &machines[0];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct run r = run(m, cases[i].bound_s, 1);
        print_message("bound %.3f s: p99 %.3f s, %u rows\n", cases[i].bound_s, r.p99_s, r.rows);
        assert_true(r.p99_s <= cases[i].most_s * 1.0001);
        assert_true(r.rows > 0);
    }
    // A bound that a quiet step alone breaks still lets a prompt move, one row at a time.
    struct run r = run(m, 0.001, 1);
    assert_true(r.rows >= STEPS / 2 && r.p99_s <= mixed_s(m, 1) * 1.0001);
}

static void test_no_bound(void **state)
{
    (void)state;
    struct pace p;
    pace_init(&p, 0);
    struct pace_share s = pace_share_get(&p, 3, 0);
    assert_true(s.apart && s.rows == UINT32_MAX);
    assert_true(pace_spare_s(&p, 3) > 1e6);
}

// With more answers than rows may be in a step, and with numbers beyond the table.
static void test_many_answers(void **state)
{
    (void)state;
    static const uint32_t counts[] = {62, 63, 64, 200, 256, 257, 5000};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct run r = run(&machines[0], -1, counts[i]);
        assert_true(r.rows >= STEPS / 2);
        assert_true(r.p99_s <= 2 * machines[0].decode_s);
    }
}

// What is quiet is looked at again and again: a machine that became slower is noticed.
static void test_looks_again(void **state)
{
    (void)state;
    struct run r = run(&machines[0], -1, 4);
    assert_true(r.quiet >= STEPS / (PACE_LOOK_AGAIN + 2));
    assert_true(r.quiet <= STEPS / PACE_LOOK_AGAIN + 2);
}

// A row is slow by what its depth takes, against the time that the others have to spare.
static void test_slow(void **state)
{
    struct pace p;
    (void)state;
    pace_init(&p, -1);
    assert_false(pace_is_slow(&p, 4, 100)); // nothing is known
    pace_learn_step(&p, 1, 0, 0.020);
    pace_learn_step(&p, 4, 0, 0.040); // half of 30 ms to spare
    assert_false(pace_is_slow(&p, 4, 0.020));
    assert_false(pace_is_slow(&p, 4, 0.034));
    assert_true(pace_is_slow(&p, 4, 0.036));
    pace_init(&p, 0); // no bound: nothing is
    pace_learn_step(&p, 1, 0, 0.020);
    assert_false(pace_is_slow(&p, 1, 100));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_auto),         cmocka_unit_test(test_starts_small),
        cmocka_unit_test(test_bounds),       cmocka_unit_test(test_no_bound),
        cmocka_unit_test(test_many_answers), cmocka_unit_test(test_looks_again),
        cmocka_unit_test(test_slow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
