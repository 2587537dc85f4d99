// Regret and errors of a grid of cells, its table and its picture.
#include "base/buf.h"
#include "cli/bench_grid.h"
#include "cli/draw.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void total_put(struct bench_row *r, enum bench_plan plan, double total_s)
{
    r->totals_s[plan][r->n[plan]++] = total_s;
}

// As the measurement does it: what was chosen counts for its plan, too.
static void choice_put(struct bench_row *r, enum bench_plan plan, double total_s,
                       double predicted_s)
{
    total_put(r, plan, total_s);
    r->choices[r->n_choices++] =
        (struct bench_choice){.plan = plan, .total_s = total_s, .predicted_s = predicted_s};
}

static struct bench_row row_make(void)
{
    struct bench_row r = {.cell = {.prompt_tokens = 2048, .gen_tokens = 32, .link_ratio = 0.3}};
    total_put(&r, BENCH_LOCAL, 2.0);
    total_put(&r, BENCH_REMOTE, 1.2);
    total_put(&r, BENCH_SERIAL, 1.5);
    total_put(&r, BENCH_HYBRID, 1.0);
    total_put(&r, BENCH_HYBRID, 1.02);
    return r;
}

// ---- one row ------------------------------------------------------------------------------------

static void right_choice_has_no_regret(void **state)
{
    struct bench_row r = row_make();
    struct bench_verdict v;
    (void)state;
    // Slower than every other run of the same plan: that is noise, and no regret.
    choice_put(&r, BENCH_HYBRID, 1.1, 1.0);
    bench_row_judge(&r, &v);
    assert_int_equal(v.chosen, BENCH_HYBRID);
    assert_int_equal(v.best, BENCH_HYBRID);
    assert_true(fabs(v.best_s - 1.02) < 1e-9); // the median of three
    assert_true(fabs(v.regret) < 1e-9);
    assert_true(fabs(v.error - (0.1 / 1.1)) < 1e-9);
    assert_true(fabs(v.predicted_s - 1.0) < 1e-9);
}

static void wrong_choice_is_held_against_medians(void **state)
{
    struct bench_row r = row_make();
    struct bench_verdict v;
    (void)state;
    choice_put(&r, BENCH_REMOTE, 1.24, 1.24);
    bench_row_judge(&r, &v);
    assert_int_equal(v.chosen, BENCH_REMOTE);
    assert_int_equal(v.best, BENCH_HYBRID);
    assert_true(fabs(v.chosen_s - 1.22) < 1e-9);
    assert_true(fabs(v.regret - (1.22 / 1.01 - 1)) < 1e-9);
    assert_true(fabs(v.error) < 1e-9);
}

// A gateway that flaps pays for each of its choices.
static void regret_is_the_mean_over_choices(void **state)
{
    struct bench_row r = row_make();
    struct bench_verdict v;
    (void)state;
    choice_put(&r, BENCH_HYBRID, 1.0, 1.0);
    choice_put(&r, BENCH_LOCAL, 2.0, 1.0);
    choice_put(&r, BENCH_HYBRID, 1.0, 1.0);
    bench_row_judge(&r, &v);
    assert_int_equal(v.chosen, BENCH_HYBRID);
    assert_true(fabs(v.regret - ((0 + (2.0 / 1.0 - 1) + 0) / 3)) < 1e-9);
    assert_true(fabs(v.error - ((0 + 0.5 + 0) / 3)) < 1e-9);
}

static void nothing_predicted_is_no_error_of_zero(void **state)
{
    struct bench_row r = row_make();
    struct bench_verdict v;
    (void)state;
    choice_put(&r, BENCH_HYBRID, 1.0, 0);
    bench_row_judge(&r, &v);
    assert_true(isnan(v.error));
    assert_true(isnan(v.predicted_s));
    assert_true(fabs(v.regret) < 1e-9);
}

// Plans that were not measured are never the best.
static void what_was_not_measured_is_not_best(void **state)
{
    struct bench_row r = {.cell = {.prompt_tokens = 32, .gen_tokens = 1}};
    struct bench_verdict v;
    (void)state;
    total_put(&r, BENCH_SERIAL, 3);
    choice_put(&r, BENCH_LOCAL, 4, 4);
    bench_row_judge(&r, &v);
    assert_int_equal(v.best, BENCH_SERIAL);
    assert_true(fabs(v.regret - (4.0 / 3 - 1)) < 1e-9);
}

// As many runs as can be asked for, all of one plan.
static void most_runs_have_a_median(void **state)
{
    struct bench_row r = {.cell = {.prompt_tokens = 32, .gen_tokens = 1}};
    struct bench_verdict v;
    (void)state;
    total_put(&r, BENCH_LOCAL, 3);
    for (size_t i = 0; i < BENCH_RUNS_MAX; i++) {
        total_put(&r, BENCH_HYBRID, 1);
        choice_put(&r, BENCH_HYBRID, 1, 1);
    }
    bench_row_judge(&r, &v);
    assert_int_equal(v.best, BENCH_HYBRID);
    assert_true(fabs(v.best_s - 1) < 1e-9);
    assert_true(fabs(v.regret) < 1e-9);
}

// ---- the grid -----------------------------------------------------------------------------------

static json_t *grid_make(bool predicted)
{
    struct bench_options o;
    struct bench_grid *g = mem_alloc(sizeof *g);
    bench_options_default(&o);
    o.model = "/somewhere/else/small.gguf";
    g->rows[0] = row_make();
    choice_put(&g->rows[0], BENCH_HYBRID, 1.0, predicted ? 0.9 : 0);
    g->rows[1] = row_make();
    g->rows[1].cell.held = BENCH_HELD_DECODE;
    g->rows[1].cell.link_ratio = 0;
    total_put(&g->rows[1], BENCH_LOCAL, 0.1);
    total_put(&g->rows[1], BENCH_LOCAL, 0.1);
    choice_put(&g->rows[1], BENCH_LOCAL, 0.1, predicted ? 0.13 : 0);
    g->n_rows = 2;
    g->firsts[g->n_firsts++] = (struct bench_choice){BENCH_HYBRID, 2.0, predicted ? 1.0 : 0};
    json_t *r = bench_grid_json(&o, g);
    free(g);
    return r;
}

static void grid_sums_rows(void **state)
{
    json_t *r = grid_make(true);
    const json_t *cell = json_array_get(json_object_get(r, "cells"), 1);
    struct err e = {0};
    (void)state;
    assert_int_equal(draw_number(r, "n_cells"), 2);
    assert_int_equal(draw_number(r, "hybrid_loses"), 1);
    assert_true(fabs(draw_number(r, "regret_mean")) < 1e-9);
    assert_true(fabs(draw_number(r, "mape") - ((0.1 + 0.3) / 2)) < 1e-9);
    assert_true(fabs(draw_number(r, "error_max") - 0.3) < 1e-9);
    assert_true(fabs(draw_number(r, "mape_first") - 0.5) < 1e-9);
    assert_string_equal(json_string_value(json_object_get(r, "model")), "small.gguf");
    assert_string_equal(json_string_value(json_object_get(cell, "link")), "fast");
    assert_string_equal(json_string_value(json_object_get(cell, "held_by")), "decode");
    assert_true(json_is_true(json_object_get(cell, "warm")));
    assert_int_equal(bench_require(r, "mape<=0.21", &e), 0);
    assert_int_equal(bench_require(r, "mape<=0.19", &e), ERR_MISMATCH);
    json_decref(r);
}

// A bound on what was not predicted is missed, not met by a zero.
static void unpredicted_grid_meets_no_bound(void **state)
{
    json_t *r = grid_make(false);
    struct err e = {0};
    (void)state;
    assert_true(json_is_null(json_object_get(r, "mape")));
    assert_int_equal(bench_require(r, "mape<=1", &e), ERR_MISMATCH);
    json_decref(r);
}

static size_t count(const struct buf *b, const char *what)
{
    size_t n = 0;
    for (const char *at = (const char *)b->data; (at = strstr(at, what)) != NULL; at++)
        n++;
    return n;
}

static void pictures_show_every_cell(void **state)
{
    json_t *r = grid_make(false);
    struct buf b;
    (void)state;
    buf_init(&b, DRAW_MAX_BYTES);
    bench_grid_text(r, &b);
    assert_int_equal(count(&b, "\n"), 2 + 2 + 2); // two heads, two cells, two sums
    assert_int_equal(count(&b, "EMULATED pair"), 1);
    assert_int_equal(count(&b, " decode "), 1);
    buf_clear(&b);
    bench_grid_svg(r, &b);
    assert_int_equal(count(&b, "<path "), 2 * 4 + 4); // each plan in each cell, and the legend
    assert_int_equal(count(&b, "class=\"r\""), 2 + 1);
    assert_int_equal(count(&b, "</svg>"), 1);
    buf_fini(&b);
    json_decref(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_choice_has_no_regret),
        cmocka_unit_test(wrong_choice_is_held_against_medians),
        cmocka_unit_test(regret_is_the_mean_over_choices),
        cmocka_unit_test(nothing_predicted_is_no_error_of_zero),
        cmocka_unit_test(what_was_not_measured_is_not_best),
        cmocka_unit_test(most_runs_have_a_median),
        cmocka_unit_test(grid_sums_rows),
        cmocka_unit_test(unpredicted_grid_meets_no_bound),
        cmocka_unit_test(pictures_show_every_cell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
