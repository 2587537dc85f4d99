// The loss as a picture: what is drawn for what was told, in any width, with and without UTF-8 and colour.
#include "cli/train.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void told(struct train_curve *c, const char *text)
{
    json_t *lines = json_loads(text, 0, NULL);
    assert_non_null(lines);
    train_curve_add(c, lines);
    json_decref(lines);
}

static char *drawn(const struct train_curve *c, bool utf8, bool color, int width, int *n)
{
    struct draw_style style = {utf8, color, width};
    struct buf out;
    buf_init(&out, DRAW_MAX_BYTES);
    *n = train_curve_text(c, &style, 6, &out);
    return out.len > 0 ? buf_take(&out) : NULL;
}

static size_t lines_of(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += *s == '\n';
    return n;
}

static void steps_are_collected(void **state)
{
    struct train_curve c = {0};
    int n;
    (void)state;
    assert_null(drawn(&c, true, false, 80, &n));
    assert_int_equal(n, 0);
    told(
        &c,
        "[{\"step\":1,\"steps\":10,\"loss\":2.5,\"lr\":1e-3,\"tokens_per_s\":7,\"eta_s\":9},"
        "{\"step\":2,\"steps\":10,\"loss\":2},{\"event\":\"evaluated\",\"step\":2,\"eval_loss\":3},"
        "{\"step\":0,\"loss\":9},{\"step\":-3,\"loss\":9},{\"step\":1e300,\"loss\":9},"
        "{\"step\":\"x\"},{\"loss\":1},{}]");
    assert_int_equal(c.n, 2);
    assert_int_equal(c.step, 2);
    assert_true(c.last_loss == 2 && c.last_eval == 3 && c.tokens_per_s == 7 && c.eta_s == 9);
    // After a resume a step comes again: the later line counts.
    told(&c, "[{\"step\":2,\"steps\":10,\"loss\":1.5}]");
    assert_true(c.loss[1] == 1.5f && c.n == 2);
    train_curve_fini(&c);
}

static void a_falling_loss_falls(void **state)
{
    struct train_curve c = {0};
    char text[256];
    int n;
    (void)state;
    for (int i = 1; i <= 100; i++) {
        snprintf(text, sizeof text, "[{\"step\":%d,\"steps\":100,\"loss\":%f}]", i, 4.0 - i / 25.0);
        told(&c, text);
    }
    char *s = drawn(&c, false, false, 60, &n);
    assert_int_equal(n, 8);
    assert_int_equal(lines_of(s), 8);
    const char *first = strchr(s, '|'), *line = s;
    // The first row's marks lie left, the last row's right.
    assert_true(first[1] != ' ');
    for (int i = 0; i < 5; i++)
        line = strchr(line, '\n') + 1;
    const char *bar = strchr(line, '|'), *end = strchr(line, '\n');
    assert_true(bar[1] == ' ' && end[-1] != ' ');
    assert_non_null(strstr(s, "step 100"));
    assert_non_null(strstr(s, "3.9"));
    assert_null(strchr(s, '\033'));
    free(s);
    train_curve_fini(&c);
}

static void any_width_and_any_loss_are_drawn(void **state)
{
    static const char *const losses[] = {
        "[{\"step\":1,\"steps\":1,\"loss\":1}]",
        "[{\"step\":1,\"steps\":3,\"loss\":1e30},{\"step\":2,\"steps\":3,\"loss\":-1e30}]",
        "[{\"step\":4000000,\"steps\":4000000,\"loss\":1}]",
        "[{\"step\":1,\"steps\":2,\"loss\":0},{\"step\":2,\"steps\":2,\"loss\":0}]",
    };
    (void)state;
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
        struct train_curve c = {0};
        told(&c, losses[i]);
        for (int width = 1; width < 500; width += 37)
            for (int how = 0; how < 4; how++) {
                int n;
                char *s = drawn(&c, how & 1, how & 2, width, &n);
                assert_int_equal(lines_of(s), n);
                assert_int_equal(strstr(s, "\033[36m") != NULL, (how & 2) != 0);
                free(s);
            }
        train_curve_fini(&c);
    }
}

static void the_svg_is_escaped(void **state)
{
    struct train_curve c = {0};
    struct jobs_job job = {.name = "facts", .model = "/models/a<b>&c.gguf"};
    struct buf out;
    (void)state;
    buf_init(&out, DRAW_MAX_BYTES);
    told(&c, "[{\"step\":1,\"steps\":2,\"loss\":2},{\"step\":2,\"steps\":2,\"loss\":1,\"eval_"
             "loss\":1.5}]");
    train_curve_svg(&c, &job, &out);
    const char *s = (const char *)out.data;
    assert_non_null(strstr(s, "a&lt;b>&amp;c.gguf"));
    assert_non_null(strstr(s, "<polyline"));
    assert_non_null(strstr(s, "<circle"));
    assert_null(strstr(s, "nan"));
    assert_string_equal(s + out.len - 7, "</svg>\n");
    buf_fini(&out);
    train_curve_fini(&c);
}

static void spans_are_words(void **state)
{
    static const struct {
        double s;
        const char *text;
    } cases[] = {{0, "0 s"}, {59.9, "59 s"}, {61, "1 min 01 s"}, {3700, "1 h 01 min"},
                 {-1, "-"},  {NAN, "-"},     {1e300, "-"}};
    char text[32];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        train_span_format(cases[i].s, text);
        assert_string_equal(text, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_collected),
        cmocka_unit_test(a_falling_loss_falls),
        cmocka_unit_test(any_width_and_any_loss_are_drawn),
        cmocka_unit_test(the_svg_is_escaped),
        cmocka_unit_test(spans_are_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
