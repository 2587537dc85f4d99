// Expected lengths of answers: against sampled means, and how soon a client is known.
#include "base/random.h"
#include "sched/expect.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static double uniform(uint64_t *state)
{
    return ((double)(random_next(state) >> 11) + 0.5) * 0x1p-53;
}

// Box and Muller.
static double length(uint64_t *state, double mean, double deviation)
{
    double z = sqrt(-2 * log(uniform(state))) * cos(6.283185307179586 * uniform(state));
    return fmax(round(exp(mean + deviation * z)), 1);
}

static void near(double got, double wanted, double within)
{
    if (!(fabs(got - wanted) <= within * fabs(wanted)))
        fail_msg("%.6g is not within %.3g of %.6g", got, within, wanted);
}

static void test_prior(void **state)
{
    struct expect *e = expect_new(16);
    struct expect_answer a = expect_get(e, "m", "c", 0);

    (void)state;
    near(a.mean, 215, 0.02);
    near(a.median, 120, 0.02);
    assert_true(a.p90 > 400 && a.p90 < 520 && a.samples == 0);
    a = expect_get(e, "m", "c", 16); // a limit caps, and most answers reach so low a one
    assert_true(a.mean > 15 && a.mean <= 16 && a.median == 16 && a.p90 == 16);
    near(expect_get(e, "m", "c", 1).mean, 1, 1e-9);
    near(expect_rest(e, "m", "c", 0, 0), 215, 0.02);
    expect_free(e);
}

// The closed forms are the means of samples.
static void test_means(void **state)
{
    struct expect *e = expect_new(16);
    uint64_t random = 1;
    double sum = 0, rest = 0, n_rest = 0;

    (void)state;
    for (int i = 0; i < 400; i++)
        expect_learn(e, "m", "c", length(&random, 5, 0.8), false);
    struct expect_answer a = expect_get(e, "m", "c", 300);
    double mean = log(a.median), deviation = (log(expect_get(e, "m", "c", 0).p90) - mean) / 1.2816;
    for (int i = 0; i < 200000; i++) {
        double x = length(&random, mean, deviation);
        sum += fmin(x, 300);
        if (x > 100) {
            rest += fmin(x, 300) - 100;
            n_rest++;
        }
    }
    near(a.mean, sum / 200000, 0.01);
    near(expect_rest(e, "m", "c", 300, 100), rest / n_rest, 0.01);
    near(a.median, exp(5), 0.25);
    expect_free(e);
}

// A new client is like the others, then like itself.
static void test_levels(void **state)
{
    struct expect *e = expect_new(64);
    char client[32];
    double before, after;

    (void)state;
    for (int i = 0; i < 200; i++) {
        snprintf(client, sizeof(client), "client %d", i % 10);
        expect_learn(e, "terse", client, 20, false);
        expect_learn(e, "wordy", client, 900, false);
    }
    near(expect_get(e, "terse", "client 3", 0).median, 20, 0.8);
    near(expect_get(e, "wordy", "client 3", 0).median, 900, 0.5);
    before = expect_get(e, "terse", "new", 0).mean;
    assert_true(before < 60);
    assert_true(expect_get(e, "wordy", "new", 0).mean > 400);
    for (int i = 0; i < 10; i++)
        expect_learn(e, "terse", "new", 300, false);
    after = expect_get(e, "terse", "new", 0).median;
    assert_true(after > 100 && after < 300);
    near(expect_get(e, "terse", "new", 0).samples, 10, 1e-9);
    near(expect_get(e, "terse", "client 3", 0).median, 20, 0.8);
    expect_free(e);
}

// What was true last year fades.
static void test_follows(void **state)
{
    struct expect *e = expect_new(64);

    (void)state;
    for (int i = 0; i < 5000; i++)
        expect_learn(e, "m", "c", 30, false);
    for (int i = 0; i < 300; i++)
        expect_learn(e, "m", "c", 600, false);
    assert_true(expect_get(e, "m", "c", 0).median > 400);
    expect_free(e);
}

// Answers that a limit of 32 cut say that they are longer than 32, not that they are 32.
static void test_cut(void **state)
{
    struct expect *e = expect_new(64);
    uint64_t random = 3;

    (void)state;
    for (int i = 0; i < 50; i++)
        expect_learn(e, "m", "c", 32, true);
    assert_true(expect_get(e, "m", "c", 0).mean > 64);
    near(expect_get(e, "m", "c", 32).mean, 32, 0.05);
    // Half of them cut: the median is found all the same.
    expect_free(e);
    e = expect_new(64);
    for (int i = 0; i < 400; i++) {
        double x = length(&random, 5, 0.7);
        expect_learn(e, "m", "c", fmin(x, 150), x > 150);
    }
    near(expect_get(e, "m", "c", 0).median, exp(5), 0.25);
    expect_free(e);
}

static void test_rest(void **state)
{
    struct expect *e = expect_new(64);

    (void)state;
    for (int i = 0; i < 100; i++)
        expect_learn(e, "m", "c", i % 2 ? 90 : 110, false);
    assert_true(expect_rest(e, "m", "c", 0, 10) > 60);
    for (double written = 1; written < 1e8; written *= 3) {
        double rest = expect_rest(e, "m", "c", 0, written);
        assert_true(rest >= 1 && rest <= 1e7 && isfinite(rest));
        rest = expect_rest(e, "m", "c", 50, written);
        assert_true(rest >= 1 && rest <= 50);
    }
    near(expect_rest(e, "m", "c", 100, 99), 1, 1e-9);
    near(expect_rest(e, "m", "c", 100, 200), 1, 1e-9);
    expect_free(e);
}

// More keys than there is room: all answers are numbers, and those in use stay.
static void test_bounded(void **state)
{
    struct expect *e = expect_new(64);
    char client[32];

    (void)state;
    for (int i = 0; i < 20000; i++) {
        snprintf(client, sizeof(client), "%d", i);
        expect_learn(e, "m", client, 1 + i % 500, i % 3 == 0);
        expect_learn(e, "m", "regular", 2000, false);
        assert_true(isfinite(expect_get(e, "m", client, 0).mean));
    }
    near(expect_get(e, "m", "regular", 0).median, 2000, 0.3);
    assert_true(expect_get(e, "m", "7", 0).samples == 0);
    expect_free(e);
    expect_free(NULL);
}

static void test_nonsense(void **state)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY, -1, 0, 1e300};
    struct expect *e = expect_new(0);
    double before = expect_get(e, "m", "c", 0).mean;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        expect_learn(e, "m", "c", bad[i], i % 2);
        near(expect_get(e, "m", "c", bad[i]).mean, before, 1e-12);
        double rest = expect_rest(e, "m", "c", bad[i], bad[i]);
        assert_true(rest >= 1 && isfinite(rest));
    }
    // Names that run together are not the same.
    for (int i = 0; i < 20; i++)
        expect_learn(e, "ab", "c", 5, false);
    assert_true(expect_get(e, "a", "bc", 0).samples == 0);
    expect_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prior),   cmocka_unit_test(test_means),
        cmocka_unit_test(test_levels),  cmocka_unit_test(test_follows),
        cmocka_unit_test(test_cut),     cmocka_unit_test(test_rest),
        cmocka_unit_test(test_bounded), cmocka_unit_test(test_nonsense),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
