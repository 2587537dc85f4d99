#include "base/metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

void metric_histogram_init(struct metric_histogram *h, const double *bounds, size_t n)
{
    memset(h, 0, sizeof(*h));
    h->bounds = bounds;
    h->n_bounds = n < METRIC_BOUNDS_MAX ? n : METRIC_BOUNDS_MAX;
}

void metric_observe(struct metric_histogram *h, double value)
{
    size_t i = 0;

    if (!(value >= 0) || isinf(value))
        return;
    while (i < h->n_bounds && value > h->bounds[i])
        i++;
    h->counts[i]++;
    h->sum += value;
}

// Counts in full, fractions with nine digits: finer than any clock here.
static void number_put(struct buf *out, double v)
{
    if (isnan(v))
        buf_puts(out, "NaN");
    else if (isinf(v))
        buf_puts(out, v > 0 ? "+Inf" : "-Inf");
    else if (v == floor(v) && fabs(v) < 0x1p53)
        buf_printf(out, "%.0f", v);
    else
        buf_printf(out, "%.9g", v);
}

// Backslash, line feed and, in label values, the quote are escaped. What is not ASCII becomes '?': one
// byte that is not UTF-8 would make the whole page unreadable.
static void text_put(struct buf *out, const char *text, bool quoted)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c == '\n')
            buf_puts(out, "\\n");
        else if (c == '\\' || (quoted && c == '"'))
            buf_printf(out, "\\%c", c);
        else
            buf_put(out, c < 0x20 || c >= 0x7f ? "?" : text, 1);
    }
}

void metric_family(struct buf *out, const char *name, const char *type, const char *help)
{
    buf_printf(out, "# HELP %s ", name);
    text_put(out, help, false);
    buf_printf(out, "\n# TYPE %s %s\n", name, type);
}

void metric_sample(struct buf *out, const char *name, const struct metric_label *labels,
                   size_t n_labels, double value)
{
    buf_puts(out, name);
    for (size_t i = 0; i < n_labels; i++) {
        buf_printf(out, "%s%s=\"", i == 0 ? "{" : ",", labels[i].name);
        text_put(out, labels[i].value, true);
        buf_puts(out, "\"");
    }
    buf_puts(out, n_labels > 0 ? "} " : " ");
    number_put(out, value);
    buf_puts(out, "\n");
}

void metric_single(struct buf *out, const char *name, const char *type, const char *help,
                   double value)
{
    metric_family(out, name, type, help);
    metric_sample(out, name, NULL, 0, value);
}

// Buckets are cumulative in this format.
void metric_histogram_put(struct buf *out, const char *name, const char *help,
                          const struct metric_histogram *h)
{
    uint64_t below = 0;

    metric_family(out, name, "histogram", help);
    for (size_t i = 0; i <= h->n_bounds; i++) {
        below += h->counts[i];
        buf_printf(out, "%s_bucket{le=\"", name);
        number_put(out, i < h->n_bounds ? h->bounds[i] : INFINITY);
        buf_printf(out, "\"} %llu\n", (unsigned long long)below);
    }
    buf_printf(out, "%s_sum ", name);
    number_put(out, h->sum);
    buf_printf(out, "\n%s_count %llu\n", name, (unsigned long long)below);
}
