// The text that Prometheus reads, byte for byte; and lines of the log as JSON.
#include "base/json.h"
#include "base/log.h"
#include "base/metrics.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void check_text(struct buf *out, const char *wanted)
{
    assert_string_equal(out->data ? (const char *)out->data : "", wanted);
    buf_fini(out);
    buf_init(out, 1u << 16);
}

static void test_samples(void **state)
{
    const struct metric_label labels[] = {{"node", "a\"b\\c\nd"}, {"name", "n\xc3\xa4"}};
    struct buf out;

    (void)state;
    buf_init(&out, 1u << 16);
    metric_single(&out, "x_total", "counter", "How\noften \\ \"now\".", 3);
    check_text(&out,
               "# HELP x_total How\\noften \\\\ \"now\".\n# TYPE x_total counter\nx_total 3\n");
    metric_sample(&out, "y", labels, 2, 0.25);
    check_text(&out, "y{node=\"a\\\"b\\\\c\\nd\",name=\"n??\"} 0.25\n");
    metric_sample(&out, "y", labels, 0, 9007199254740991.0);
    check_text(&out, "y 9007199254740991\n");
    metric_sample(&out, "y", labels, 0, INFINITY);
    metric_sample(&out, "y", labels, 0, NAN);
    metric_sample(&out, "y", labels, 0, -0.1);
    check_text(&out, "y +Inf\ny NaN\ny -0.1\n");
    buf_fini(&out);
}

static void test_histograms(void **state)
{
    static const double bounds[] = {0.1, 1, 10};
    struct metric_histogram h;
    struct buf out;

    (void)state;
    buf_init(&out, 1u << 16);
    metric_histogram_init(&h, bounds, 3);
    // A value on a border belongs below it; what is no time is passed over.
    metric_observe(&h, 0);
    metric_observe(&h, 0.1);
    metric_observe(&h, 0.5);
    metric_observe(&h, 100);
    metric_observe(&h, -1);
    metric_observe(&h, NAN);
    metric_observe(&h, INFINITY);
    metric_histogram_put(&out, "h", "H.", &h);
    check_text(&out, "# HELP h H.\n# TYPE h histogram\nh_bucket{le=\"0.1\"} 2\n"
                     "h_bucket{le=\"1\"} 3\nh_bucket{le=\"10\"} 3\nh_bucket{le=\"+Inf\"} 4\n"
                     "h_sum 100.6\nh_count 4\n");
    buf_fini(&out);
}

// What a line of the log is, with stderr in a file.
static char *logged(const char *message)
{
    char path[] = "/tmp/tandem-log-XXXXXX";
    int fd = mkstemp(path), saved = dup(STDERR_FILENO);
    char *text = mem_alloc(8192);

    assert_true(fd >= 0 && saved >= 0);
    dup2(fd, STDERR_FILENO);
    log_error("module", "%s", message);
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_true(pread(fd, text, 8191, 0) > 0);
    close(fd);
    unlink(path);
    return text;
}

static void check_json(const char *message, const char *told)
{
    char *line = logged(message);
    struct err e = {0};
    size_t n = strlen(line);
    json_t *o;

    assert_int_equal(line[n - 1], '\n');
    assert_null(memchr(line, '\n', n - 1));
    o = json_parse(line, n, &e);
    if (!o)
        fail_msg("%s: %s", e.message, line);
    assert_string_equal(json_string_value(json_object_get(o, "level")), "error");
    if (told)
        assert_string_equal(json_string_value(json_object_get(o, "message")), told);
    json_decref(o);
    free(line);
}

static void test_log_json(void **state)
{
    char *longest = mem_alloc(10001);

    (void)state;
    log_json_set(true);
    memset(longest, '"', 10000);
    check_json("plain text=1", "plain text=1");
    check_json("a \"quoted\" \\ word", "a \"quoted\" \\ word");
    check_json("two\nlines\tand \x1b[31mcolour", "two lines and  [31mcolour");
    check_json("\xc3\xa4 and \xff", "?? and ?");
    check_json(longest, NULL);
    log_json_set(false);
    free(longest);
}

static void test_log_text(void **state)
{
    char *line = logged("what=1");

    (void)state;
    assert_non_null(strstr(line, "error module: what=1\n"));
    free(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_histograms),
        cmocka_unit_test(test_log_json),
        cmocka_unit_test(test_log_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
