// The cost formulas against figures worked out by hand, and against the properties that any model of
// time must have.
#include "sched/cost.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

// A made-up dense model: 10 layers, 1 GB of weights, 1 kB of KV per token and layer.
static const struct cost_model dense = {
    .layers = 10,
    .weight_bytes = 1.1e9,
    .fixed_bytes = 1e9,
    .routed_share = 1,
    .token_flops = 2e9,
    .head_flops = 0.2e9,
    .full_kv_bytes = 1e4,
    .full_pair_flops = 1e5,
};
// Half of it in eight experts, of which a token uses two; half of the layers see 100 tokens.
static const struct cost_model mixture = {
    .layers = 10,
    .weight_bytes = 1.1e9,
    .fixed_bytes = 0.5e9,
    .routed_bytes = 0.5e9,
    .routed_share = 0.25,
    .token_flops = 1e9,
    .full_kv_bytes = 5e3,
    .window_kv_bytes = 5e3,
    .window_tokens = 100,
    .full_pair_flops = 5e4,
    .window_pair_flops = 5e4,
};
// 100 GB/s, 1 TFLOPS, 10 us per layer.
static const struct cost_rates rates = {.weight_s = 1e-11,
                                        .kv_s = 1e-11,
                                        .flop_s = 1e-12,
                                        .pair_s = 1e-12,
                                        .floor_s = 1e-12,
                                        .layer_s = 1e-5};

static void near(double got, double wanted)
{
    if (fabs(got - wanted) > 1e-9 * fabs(wanted))
        fail_msg("%.12g, not %.12g", got, wanted);
}

static void test_decode(void **state)
{
    struct cost_work w = {.tokens = 1, .depth = 1000, .batch = 1};
    struct cost_time t = cost_decode(&dense, &rates, &w);
    (void)state;
    near(t.weights_s, 0.01);  // 1e9 bytes at 100 GB/s
    near(t.kv_s, 1e-4);       // 1000 x 10 kB
    near(t.compute_s, 2e-3);  // 2e9 at 1 TFLOPS
    near(t.overhead_s, 1e-4); // 10 layers
    near(t.total_s, 0.0122);
    assert_int_equal(cost_bound_of(&t), COST_BANDWIDTH);
    w.batch = 4;
    t = cost_decode(&dense, &rates, &w);
    near(t.weights_s, 0.01); // read once for all
    near(t.kv_s, 4e-4);
    near(t.compute_s, 8e-3);
}

static void test_mixture(void **state)
{
    (void)state;
    near(cost_weights_touched(&mixture, 1), 0.5e9 + 0.25 * 0.5e9);
    near(cost_weights_touched(&mixture, 32), 0.5e9 + 0.5e9 * (1 - pow(0.75, pow(32, COST_ALIKE))));
    assert_true(cost_weights_touched(&mixture, 1e6) <= 1e9);
    near(cost_weights_touched(&dense, 1), 1e9);
    near(cost_kv_bytes(&mixture, 50), 50 * 1e4);
    near(cost_kv_bytes(&mixture, 1000), 1000 * 5e3 + 100 * 5e3);
}

static void test_prefill(void **state)
{
    const struct cost_work w = {.tokens = 1000, .batch = 1, .chunk = 512};
    struct cost_time t = cost_prefill(&dense, &rates, &w);
    (void)state;
    near(t.compute_s, 1000 * 1.8e-3);       // without the output matrix
    near(t.attention_s, 1e5 * 5e5 * 1e-12); // 1000 x 1000 / 2 pairs
    near(t.weights_s, 2 * 1e-3);            // two chunks
    near(t.overhead_s, 2 * 1e-4);
    assert_int_equal(cost_bound_of(&t), COST_COMPUTE);
}

// Counts every pair: what the closed form must equal.
static double pairs_counted(double window, int depth, int tokens)
{
    double n = 0;
    for (int i = 0; i < tokens; i++)
        n += window > 0 && depth + i + 0.5 > window ? window : depth + i + 0.5;
    return n;
}

static void test_window(void **state)
{
    static const int depths[] = {0, 30, 99, 100, 500}, sizes[] = {1, 20, 100, 333};
    (void)state;
    for (size_t i = 0; i < 5; i++)
        for (size_t k = 0; k < 4; k++) {
            const struct cost_work w = {
                .tokens = sizes[k], .depth = depths[i], .batch = 1, .chunk = 512};
            double full = pairs_counted(0, depths[i], sizes[k]) * 5e4 * 1e-12;
            double window = pairs_counted(100, depths[i], sizes[k]) * 5e4 * 1e-12;
            double got = cost_prefill(&mixture, &rates, &w).attention_s;
            assert_true(fabs(got - full - window) < 0.01 * (full + window));
        }
}

// One token more, one more in front or one sequence more never makes it quicker.
static void test_monotonous(void **state)
{
    const struct cost_model *models[] = {&dense, &mixture};
    (void)state;
    for (size_t m = 0; m < 2; m++)
        for (double n = 1; n < 20000; n *= 1.7) {
            struct cost_work w = {.tokens = n, .depth = n, .batch = 2, .chunk = 512};
            struct cost_work longer = w, deeper = w, more = w;
            longer.tokens = n + 1;
            deeper.depth = n + 1;
            more.batch = 3;
            double t = cost_prefill(models[m], &rates, &w).total_s;
            assert_true(cost_prefill(models[m], &rates, &longer).total_s >= t * 0.999999);
            assert_true(cost_prefill(models[m], &rates, &deeper).total_s >= t);
            assert_true(cost_prefill(models[m], &rates, &more).total_s >= t * 0.999999);
            t = cost_decode(models[m], &rates, &w).total_s;
            assert_true(cost_decode(models[m], &rates, &deeper).total_s >= t);
            assert_true(cost_decode(models[m], &rates, &more).total_s >= t);
        }
}

static void test_floor(void **state)
{
    const struct cost_work one = {.tokens = 1, .batch = 1, .chunk = 512};
    struct cost_time t = cost_prefill(&dense, &rates, &one);
    (void)state;
    near(t.total_s, 0.01 + 1e-4); // a prompt of one token reads all weights, as a step does
    near(t.weights_s + t.kv_s + t.compute_s + t.attention_s + t.overhead_s, t.total_s);
    assert_int_equal(cost_bound_of(&t), COST_BANDWIDTH);
}

// The pipeline of kv/schedule.c, chunk by chunk.
static double pipeline(double n, double chunk, double last, double compute, double cross)
{
    double t = 0, end = 0, done = 0;
    while (done < n) {
        double m = fmin(chunk, n - done);
        if (done + m >= n && m > last) // the last chunk leaves in two pieces
            m -= last;
        t += m * compute;
        end = fmax(end, t) + m * cross;
        done += m;
    }
    return end;
}

static void test_handoff(void **state)
{
    (void)state;
    for (double ratio = 0.1; ratio < 8; ratio *= 1.5) {
        const struct cost_handoff h = {.tokens = 8192,
                                       .chunk_tokens = 512,
                                       .last_tokens = 64,
                                       .prefill_s = 8192e-3,
                                       .kv_bytes = 8192e3 * ratio,
                                       .link = {.bytes_per_s = 1e6}};
        struct cost_handoff_time t = cost_handoff(&h);
        double wanted = pipeline(8192, 512, 64, 1e-3, ratio * 1e-3);
        // The closed form has no uncovered remainder of the last full chunk, which the schedule avoids.
        assert_true(t.overlapped_s <= wanted * 1.000001);
        assert_true(t.overlapped_s >= wanted - 448 * ratio * 1e-3 - 1e-9);
        near(t.serial_s, 8.192 * (1 + ratio));
        near(t.tail_s, t.overlapped_s - 8.192);
        assert_true(t.overlapped_s <= t.serial_s && t.tail_s > 0);
    }
    const struct cost_handoff none = {.tokens = 0, .link = {.bytes_per_s = 1}};
    near(cost_handoff(&none).overlapped_s + 1, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),     cmocka_unit_test(test_mixture),
        cmocka_unit_test(test_prefill),    cmocka_unit_test(test_window),
        cmocka_unit_test(test_monotonous), cmocka_unit_test(test_floor),
        cmocka_unit_test(test_handoff),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
