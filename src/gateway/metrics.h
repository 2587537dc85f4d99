// What the gateway counts, and the page that Prometheus reads. Private to gateway/; core thread only.
//
// Counters that `struct core_totals` has already are written from there. What HTTP alone knows
// (requests by route and status, connections) is written by the HTTP thread at the head of the page.
#ifndef GATEWAY_METRICS_H
#define GATEWAY_METRICS_H

#include "base/metrics.h"

#include <jansson.h>
#include <stdint.h>

#define METRICS_PAGE_MAX (1u << 20)
#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct core;

enum metrics_end { METRICS_OK, METRICS_FAILED, METRICS_CANCELLED, METRICS_REFUSED, METRICS_ENDS };
#define METRICS_PLANS 5 // placement's four, and none yet

struct metrics {
    struct metric_histogram ttft, inter_token, total, queue, prefill, kv_seconds, tail;
    struct metric_histogram predicted_ttft,
        off; // as placement saw it; the share that it was off by
    uint64_t ended[METRICS_PLANS][METRICS_ENDS];
    uint64_t prompt_tokens, cached_tokens, generated_tokens, kv_bytes, fallbacks, failovers,
        replans;
    uint64_t worker_starts;
};

void metrics_init(struct metrics *m);
// A token of an answer came. *last_ns is that answer's own: 0 before its first one.
void metrics_token(struct metrics *m, int64_t *last_ns, int64_t at_ns);
// A request has its answer; `timings` as the client is told.
void metrics_answered(struct metrics *m, const json_t *timings);
// A request ended without one. plan: NULL when none was chosen yet.
void metrics_ended(struct metrics *m, const char *plan, enum metrics_end end);
// Appends the core's part of the page.
void metrics_put(struct core *c, struct buf *out);

#endif
