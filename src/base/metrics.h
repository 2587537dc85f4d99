// Figures in the text format that Prometheus reads (version 0.0.4): histograms that count, and functions
// that write.
//
// Pure, and owned by whoever holds the struct: one thread counts and writes. A page is a sequence of
// families; each begins with metric_family, which writes HELP and TYPE, and is followed by its samples.
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

#define METRIC_BOUNDS_MAX 24

struct metric_label {
    const char *name, *value; // the value may hold any bytes
};

struct metric_histogram {
    const double *bounds; // n_bounds upper limits, rising; immutable
    size_t n_bounds;
    uint64_t
        counts[METRIC_BOUNDS_MAX + 1]; // of values in (bounds[i-1], bounds[i]]; the last: above all
    double sum;
};

// bounds must outlive the histogram; at most METRIC_BOUNDS_MAX.
void metric_histogram_init(struct metric_histogram *h, const double *bounds, size_t n);
// NaN and negative values (a clock that went wrong) are passed over.
void metric_observe(struct metric_histogram *h, double value);

// type: "counter", "gauge" or "histogram".
void metric_family(struct buf *out, const char *name, const char *type, const char *help);
void metric_sample(struct buf *out, const char *name, const struct metric_label *labels,
                   size_t n_labels, double value);
// A family of one sample without labels.
void metric_single(struct buf *out, const char *name, const char *type, const char *help,
                   double value);
// A family of one histogram without labels.
void metric_histogram_put(struct buf *out, const char *name, const char *help,
                          const struct metric_histogram *h);

#endif
