// Profiles: what they predict, how they learn, and what they do not let move them.
#include "base/random.h"
#include "sched/profile.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

// A machine as it really is; the book under test does not see these numbers.
static const struct profile truth = {
    .read_request_s = 4e-3,
    .read_chunk_s = 6e-3,
    .read_token_s = 1.2e-3,
    .read_pair_s = 9e-8,
    .step_s = 16e-3,
    .row_s = 2e-3,
    .row_depth_s = 1.5e-6,
    .kv_token_bytes = 1000,
    .chunk_tokens = 512,
};

static double uniform(uint64_t *state)
{
    return (double)(random_next(state) >> 11) * 0x1p-53;
}

// Roughly normal, of mean 0 and deviation 1.
static double normal(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += uniform(state);
    return sum;
}

static struct profile_read read_of(double tokens, double depth, double factor)
{
    return (struct profile_read){.tokens = tokens,
                                 .depth = depth,
                                 .seconds = factor * profile_read_s(&truth, tokens, depth)};
}

static struct profile_steps steps_of(double rows, double depth, double factor)
{
    return (struct profile_steps){.steps = 20,
                                  .rows = rows,
                                  .depth_sum = rows * depth,
                                  .seconds =
                                      factor * 20 * profile_step_s(&truth, rows, rows * depth)};
}

// What a node measures when it joins.
static void measure(struct profile_book *b)
{
    static const double tokens[] = {32, 128, 512, 2048};
    static const double rows[] = {1, 2, 4};
    struct profile p;
    struct profile_read r[8];
    struct profile_steps s[6];

    profile_defaults(&p);
    profile_book_init(b, &p, PROFILE_TRUST_NONE);
    for (size_t i = 0; i < 8; i++)
        r[i] = read_of(tokens[i / 2], i % 2 ? 2048 : 0, 1);
    for (size_t i = 0; i < 6; i++)
        s[i] = steps_of(rows[i / 2], i % 2 ? 2048 : 64, 1);
    profile_fit_reads(b, r, 8);
    profile_fit_steps(b, s, 6);
}

static double off(double got, double wanted)
{
    return fabs(log(got / wanted));
}

static void near(double got, double wanted, double within)
{
    if (!(off(got, wanted) <= within))
        fail_msg("%.6g is not within %.3g of %.6g", got, within, wanted);
}

static void test_formulas(void **state)
{
    (void)state;
    // 4 + 2 x 6 + 1000 x 1.2 ms + 1000 x (100 + 500) x 90 ns
    near(profile_read_s(&truth, 1000, 100), 4e-3 + 12e-3 + 1.2 + 0.054, 1e-12);
    assert_true(profile_read_s(&truth, 0, 100) == 0);
    near(profile_step_s(&truth, 3, 3000), 16e-3 + 6e-3 + 4.5e-3, 1e-12);
    near(profile_answer_s(&truth, 10, 995), 10 * (18e-3 + 1.5e-3), 1e-12);
    near(profile_kv_bytes(&truth, 100, 300), 200e3, 1e-12);
    struct profile window = truth;
    window.kv_window_bytes = 500;
    window.kv_window_tokens = 100;
    near(profile_kv_bytes(&window, 0, 50), 75e3, 1e-12);
    near(profile_kv_bytes(&window, 0, 1000), 1050e3, 1e-12);
    assert_true(profile_kv_bytes(&window, 300, 300) == 0);
}

// Measured at 14 points, a profile predicts all others; those outside as well.
static void test_measured(void **state)
{
    struct profile_book b;

    (void)state;
    measure(&b);
    assert_true(profile_sane(&b.p));
    for (double n = 16; n <= 8192; n *= 2)
        for (double d = 0; d <= 8192; d += 2048)
            near(profile_read_s(&b.p, n, d), profile_read_s(&truth, n, d), n < 32 ? 0.12 : 0.06);
    for (double rows = 1; rows <= 8; rows *= 2)
        for (double d = 0; d <= 8192; d += 2048)
            near(profile_step_s(&b.p, rows, rows * d), profile_step_s(&truth, rows, rows * d),
                 0.06);
}

// From a machine of which nothing is known: the first request already tells what is alike.
static void test_first_sample(void **state)
{
    struct profile_book b;
    struct profile p;
    const struct profile_read r = read_of(1000, 0, 1);

    (void)state;
    profile_defaults(&p);
    profile_book_init(&b, &p, PROFILE_TRUST_NONE);
    assert_int_equal(profile_learn_read(&b, &r), PROFILE_TAKEN);
    near(profile_read_s(&b.p, 1000, 0), r.seconds, 0.02);
    near(profile_read_s(&b.p, 2000, 0), profile_read_s(&truth, 2000, 0), 0.2);
}

// Requests as they come, with a tenth of noise: the error stays below it.
static void test_noise(void **state)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        uint64_t random = seed;
        struct profile_book b;
        double sum = 0;
        measure(&b);
        for (int i = 0; i < 300; i++) {
            double n = 32 * pow(250, uniform(&random)), factor = exp(0.1 * normal(&random));
            struct profile_read r = read_of(n, 0, factor);
            profile_learn_read(&b, &r);
            sum += i >= 100 ? off(profile_read_s(&b.p, n, 0), r.seconds / factor) : 0;
        }
        assert_true(sum / 200 < 0.06);
        assert_true(profile_sane(&b.p));
    }
    (void)state;
}

static void test_outlier(void **state)
{
    struct profile_book b, before;
    const struct profile_read swapped = read_of(2000, 0, 20), good = read_of(2000, 0, 1.02);
    const struct profile_steps stalled = steps_of(2, 500, 9);

    (void)state;
    measure(&b);
    before = b;
    assert_int_equal(profile_learn_read(&b, &swapped), PROFILE_ASIDE);
    assert_int_equal(profile_learn_steps(&b, &stalled), PROFILE_ASIDE);
    assert_true(profile_read_s(&b.p, 2000, 0) == profile_read_s(&before.p, 2000, 0));
    assert_true(profile_step_s(&b.p, 2, 1000) == profile_step_s(&before.p, 2, 1000));
    assert_int_equal(profile_learn_read(&b, &good), PROFILE_TAKEN);
    near(profile_read_s(&b.p, 2000, 0), profile_read_s(&truth, 2000, 0), 0.03);
    // One in four swaps: still the machine that it is.
    for (int i = 0; i < 40; i++)
        assert_int_not_equal(profile_learn_read(&b, i % 4 == 3 ? &swapped : &good),
                             PROFILE_CHANGED);
    near(profile_read_s(&b.p, 2000, 0), profile_read_s(&truth, 2000, 0), 0.06);
}

// Whatever it was before, ten requests later the profile is what the machine is now.
static void test_change(void **state)
{
    static const double factors[] = {0.2, 0.5, 0.8, 0.9, 1.15, 1.3, 2, 4, 20};
    static const double prompts[] = {300, 4000, 1000, 60, 2500, 800, 8000, 1500, 500, 3000};

    (void)state;
    for (size_t i = 0; i < sizeof(factors) / sizeof(factors[0]); i++) {
        struct profile_book b;
        measure(&b);
        for (size_t k = 0; k < 30; k++) {
            struct profile_read r = read_of(prompts[k % 10], 0, 1);
            profile_learn_read(&b, &r);
        }
        for (size_t k = 0; k < 10; k++) {
            struct profile_read r = read_of(prompts[k], 0, factors[i]);
            assert_int_not_equal(profile_learn_read(&b, &r), PROFILE_REFUSED);
        }
        near(profile_read_s(&b.p, 2000, 0), factors[i] * profile_read_s(&truth, 2000, 0), 0.05);
        near(profile_read_s(&b.p, 200, 0), factors[i] * profile_read_s(&truth, 200, 0), 0.08);
    }
}

// Two faster and one slower are no change.
static void test_sides(void **state)
{
    struct profile_book b;
    const struct profile_read slow = read_of(1000, 0, 5), fast = read_of(1000, 0, 0.2);

    (void)state;
    measure(&b);
    for (int i = 0; i < 12; i++)
        assert_int_equal(profile_learn_read(&b, i % 3 == 2 ? &slow : &fast), PROFILE_ASIDE);
    near(profile_read_s(&b.p, 1000, 0), profile_read_s(&truth, 1000, 0), 0.02);
}

// The same request a thousand times tells nothing about others, and must not spoil what was known of them.
static void test_one_shape(void **state)
{
    struct profile_book b;
    const struct profile_read r = read_of(512, 0, 1);
    uint64_t random = 7;

    (void)state;
    measure(&b);
    for (int i = 0; i < 1000; i++) {
        struct profile_read noisy = r;
        noisy.seconds *= exp(0.03 * normal(&random));
        profile_learn_read(&b, &noisy);
    }
    near(profile_read_s(&b.p, 512, 0), r.seconds, 0.04);
    near(profile_read_s(&b.p, 8192, 0), profile_read_s(&truth, 8192, 0), 0.15);
    near(profile_read_s(&b.p, 32, 4096), profile_read_s(&truth, 32, 4096), 0.3);
}

static void test_nonsense(void **state)
{
    static const double bad[] = {NAN, INFINITY, -INFINITY, -1, 0, 1e-30, 1e30};
    struct profile_book b, before;

    (void)state;
    measure(&b);
    before = b;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct profile_read r = {.tokens = 100, .seconds = bad[i]};
        struct profile_steps s = {.steps = 1, .rows = 1, .seconds = bad[i]};
        assert_int_equal(profile_learn_read(&b, &r), PROFILE_REFUSED);
        assert_int_equal(profile_learn_steps(&b, &s), PROFILE_REFUSED);
        assert_int_equal(profile_learn_export(&b, 100, bad[i]), PROFILE_REFUSED);
        assert_int_equal(profile_learn_load(&b, bad[i]), PROFILE_REFUSED);
        assert_int_equal(profile_learn_dispatch(&b, bad[i]), PROFILE_REFUSED);
    }
    for (size_t i = 0; i < 4; i++) {
        struct profile_read r = {.tokens = bad[i], .seconds = 1};
        struct profile_read deep = {.tokens = 10, .depth = bad[i], .seconds = 1};
        struct profile_steps s = {.steps = bad[i], .rows = 1, .seconds = 1};
        assert_int_equal(profile_learn_read(&b, &r), PROFILE_REFUSED);
        assert_int_equal(profile_learn_read(&b, &deep), PROFILE_REFUSED);
        assert_int_equal(profile_learn_steps(&b, &s), PROFILE_REFUSED);
        assert_int_equal(profile_learn_import(&b, bad[i], 1), PROFILE_REFUSED);
    }
    assert_memory_equal(&b.p, &before.p, sizeof(b.p));
}

// Random samples, however wild, leave a profile that is one.
static void test_stays_sane(void **state)
{
    struct profile_book b;
    uint64_t random = 3;

    (void)state;
    measure(&b);
    for (int i = 0; i < 20000; i++) {
        struct profile_read r = {.tokens = ceil(exp(14 * uniform(&random))),
                                 .depth = floor(exp(14 * uniform(&random))),
                                 .seconds = exp(24 * uniform(&random) - 12)};
        struct profile_steps s = {.steps = 1 + floor(100 * uniform(&random)),
                                  .rows = 1 + floor(64 * uniform(&random)),
                                  .depth_sum = exp(14 * uniform(&random)),
                                  .seconds = exp(24 * uniform(&random) - 12)};
        profile_learn_read(&b, &r);
        profile_learn_steps(&b, &s);
        assert_true(profile_sane(&b.p));
    }
}

static void test_sane(void **state)
{
    struct profile p;

    (void)state;
    profile_defaults(&p);
    assert_true(profile_sane(&p));
    p.read_token_s = NAN;
    assert_false(profile_sane(&p));
    profile_defaults(&p);
    p.n_ctx = -1;
    assert_false(profile_sane(&p));
    profile_defaults(&p);
    p.step_s = p.row_s = 0;
    assert_false(profile_sane(&p));
    profile_defaults(&p);
    p.chunk_tokens = 0;
    assert_false(profile_sane(&p));
    profile_defaults(&p);
    p.watts_decode = INFINITY;
    assert_false(profile_sane(&p));
}

// The catalogue's formulas and the profile's are the same for a dense model, near for others.
static void test_from_cost(void **state)
{
    const struct cost_model dense = {.layers = 32,
                                     .weight_bytes = 16e9,
                                     .fixed_bytes = 15e9,
                                     .routed_share = 1,
                                     .token_flops = 15e9,
                                     .head_flops = 1e9,
                                     .full_kv_bytes = 131072,
                                     .full_pair_flops = 524288};
    struct cost_model mixture = dense;
    const struct cost_rates rates = {.weight_s = 1.4e-12,
                                     .kv_s = 1.6e-12,
                                     .flop_s = 1.0 / 60e12,
                                     .pair_s = 1.0 / 30e12,
                                     .floor_s = 4e-13,
                                     .layer_s = 1e-5};
    struct profile p;

    (void)state;
    mixture.fixed_bytes = 3e9;
    mixture.routed_bytes = 12e9;
    mixture.routed_share = 0.1;
    for (int i = 0; i < 2; i++) {
        const struct cost_model *m = i ? &mixture : &dense;
        double within =
            0.35; // a mixture, or so few tokens that reading the weights is what takes long
        profile_defaults(&p);
        profile_from_cost(&p, m, &rates);
        assert_true(profile_sane(&p) && p.samples == 0);
        for (double n = 64; n <= 8192; n *= 2) {
            if (m == &dense && n >= 256)
                within = 0.06;
            struct cost_work w = {.tokens = n, .depth = 1000, .batch = 1, .chunk = 512};
            near(profile_read_s(&p, n, 1000), cost_prefill(m, &rates, &w).total_s, within);
            w.batch = n / 512;
            if (w.batch >= 1)
                near(profile_step_s(&p, w.batch, w.batch * 1000),
                     cost_decode(m, &rates, &w).total_s, within);
        }
    }
}

static void test_link(void **state)
{
    const struct profile_link guess = {
        .rtt_s = 1e-3, .up_bytes_per_s = 1e8, .down_bytes_per_s = 1e8};
    struct profile_link_book b;

    (void)state;
    profile_link_init(&b, &guess, PROFILE_TRUST_NONE);
    near(b.link.down_bytes_per_s, 1e8, 1e-9);
    assert_int_equal(profile_learn_up(&b, 1e9, 1), PROFILE_TAKEN);
    assert_int_equal(profile_learn_rtt(&b, 2e-4), PROFILE_TAKEN);
    near(b.link.up_bytes_per_s, 1e9, 0.02);
    near(b.link.rtt_s, 2e-4, 0.02);
    near(b.link.down_bytes_per_s, 1e8, 1e-9);
    for (int i = 0; i < 20; i++)
        profile_learn_up(&b, 1e9, 1);
    assert_int_equal(profile_learn_up(&b, 1e9, 60), PROFILE_ASIDE);
    near(b.link.up_bytes_per_s, 1e9, 0.02);
    for (int i = 0; i < 10; i++)
        profile_learn_up(&b, 1e9, 8);
    near(b.link.up_bytes_per_s, 1.25e8, 0.05);
    assert_int_equal(profile_learn_down(&b, 0, 1), PROFILE_REFUSED);
}

// Only hand-offs whose reading does not hide the setup tell how long it is.
static void test_setup(void **state)
{
    const struct profile_link guess = {.rtt_s = 1e-3};
    struct profile_link_book b;

    (void)state;
    profile_link_init(&b, &guess, PROFILE_TRUST_NONE);
    near(b.link.setup_s, 6e-3, 1e-9);
    assert_int_equal(profile_learn_handoff(&b, 2, 1.9, 1), PROFILE_TAKEN);
    near(b.link.setup_s, 6e-3, 1e-9);
    for (int i = 0; i < 5; i++) // one after the other: read, then sent
        assert_int_equal(profile_learn_handoff(&b, 2.91, 1.9, 1), PROFILE_TAKEN);
    near(b.link.setup_s, 6e-3, 1e-9);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(profile_learn_handoff(&b, 0.05, 0.004, 0.03), PROFILE_TAKEN);
        assert_int_equal(profile_learn_handoff(&b, 2, 1.9, 1), PROFILE_TAKEN);
    }
    near(b.link.setup_s, 0.02, 0.02);
    for (int i = 0; i < 6; i++) // one that was soon in says that it is less
        profile_learn_handoff(&b, 1, 0.9, 0.992);
    near(b.link.setup_s, 0.008, 0.05);
    assert_int_equal(profile_learn_handoff(&b, NAN, 1, 1), PROFILE_REFUSED);
    assert_int_equal(profile_learn_handoff(&b, 1, NAN, 1), PROFILE_REFUSED);
    assert_int_equal(profile_learn_handoff(&b, 1, 1, 2), PROFILE_REFUSED);
    assert_int_equal(profile_learn_handoff(&b, INFINITY, 1, 1), PROFILE_REFUSED);
}

static void test_copies(void **state)
{
    struct profile_book b;

    (void)state;
    measure(&b);
    assert_int_equal(profile_learn_export(&b, 1e8, 0.05), PROFILE_TAKEN);
    assert_int_equal(profile_learn_import(&b, 1e8, 0.02), PROFILE_TAKEN);
    assert_int_equal(profile_learn_load(&b, 12), PROFILE_TAKEN);
    near(b.p.export_byte_s, 5e-10, 0.01);
    near(b.p.import_byte_s, 2e-10, 0.01);
    near(b.p.load_s, 12, 0.01);
    assert_true(b.p.dispatch_s == 0); // until something is known
    assert_int_equal(profile_learn_dispatch(&b, 0.04), PROFILE_TAKEN);
    near(b.p.dispatch_s, 0.04, 0.01);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formulas),     cmocka_unit_test(test_measured),
        cmocka_unit_test(test_first_sample), cmocka_unit_test(test_noise),
        cmocka_unit_test(test_outlier),      cmocka_unit_test(test_change),
        cmocka_unit_test(test_sides),        cmocka_unit_test(test_one_shape),
        cmocka_unit_test(test_nonsense),     cmocka_unit_test(test_stays_sane),
        cmocka_unit_test(test_sane),         cmocka_unit_test(test_from_cost),
        cmocka_unit_test(test_link),         cmocka_unit_test(test_setup),
        cmocka_unit_test(test_copies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
