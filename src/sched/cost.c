#include "sched/cost.h"

#include <math.h>

double cost_weights_touched(const struct cost_model *m, double tokens)
{
    double missed = pow(1 - m->routed_share, pow(tokens, COST_ALIKE));
    return m->fixed_bytes + m->routed_bytes * (1 - missed);
}

double cost_kv_bytes(const struct cost_model *m, double tokens)
{
    return m->full_kv_bytes * tokens + m->window_kv_bytes * fmin(tokens, m->window_tokens);
}

// Pairs of a token and one that it sees, for `tokens` tokens after `depth`. A window of 0 is none.
static double pairs_seen(double window, double depth, double tokens)
{
    if (window <= 0 || depth + tokens <= window)
        return tokens * (depth + tokens / 2);
    double rising = fmax(fmin(window - depth, tokens), 0);
    return rising * (depth + rising / 2) + (tokens - rising) * window;
}

static void time_sum(struct cost_time *t)
{
    t->total_s = t->weights_s + t->kv_s + t->compute_s + t->attention_s + t->overhead_s;
}

struct cost_time cost_decode(const struct cost_model *m, const struct cost_rates *r,
                             const struct cost_work *w)
{
    struct cost_time t = {
        .weights_s = cost_weights_touched(m, w->batch) * r->weight_s,
        .kv_s = w->batch * cost_kv_bytes(m, w->depth) * r->kv_s,
        .compute_s = w->batch * m->token_flops * r->flop_s,
        .overhead_s = m->layers * r->layer_s + r->step_s,
    };
    time_sum(&t);
    return t;
}

struct cost_time cost_prefill(const struct cost_model *m, const struct cost_rates *r,
                              const struct cost_work *w)
{
    double tokens = w->tokens * w->batch;
    double chunk = fmin(w->chunk, tokens), chunks = ceil(tokens / chunk);
    // Never less than half: where the output matrix is most of a tiny model, the rest still works.
    double flops = fmax(m->token_flops - m->head_flops, 0.5 * m->token_flops);
    double pairs = m->full_pair_flops * pairs_seen(0, w->depth, w->tokens) +
                   m->window_pair_flops * pairs_seen(m->window_tokens, w->depth, w->tokens);
    struct cost_time t = {
        .compute_s = tokens * flops * r->flop_s,
        .attention_s = w->batch * pairs * r->pair_s * pow(1 + w->depth / COST_DEEP_TOKENS, r->deep),
        .weights_s = chunks * cost_weights_touched(m, chunk) * r->floor_s,
        .overhead_s = chunks * (m->layers * r->layer_s + r->step_s),
    };
    time_sum(&t);
    // No chunk is faster than reading its weights once, as a step of decoding does.
    double least = chunks * cost_weights_touched(m, chunk) * r->weight_s + t.overhead_s;
    if (t.total_s < least) {
        t.weights_s += least - t.total_s;
        t.total_s = least;
    }
    return t;
}

enum cost_bound cost_bound_of(const struct cost_time *t)
{
    double compute = t->compute_s + t->attention_s, memory = t->weights_s + t->kv_s;
    if (t->overhead_s > compute && t->overhead_s > memory)
        return COST_OVERHEAD;
    return compute > memory ? COST_COMPUTE : COST_BANDWIDTH;
}

const char *cost_bound_name(enum cost_bound b)
{
    static const char *const names[] = {"compute", "bandwidth", "overhead"};
    return names[b];
}

// t_k = k chunks computed, end_k = max(end_(k-1), t_k) + its crossing. Equal chunks take equally long to cross
// and, with depth, ever longer to compute: the sum of a convex and a linear term is greatest at one of its ends,
// so the first or the last chunk decides the maximum. What is ready is a chunk before the first.
struct cost_handoff_time cost_handoff(const struct cost_handoff *h)
{
    struct cost_handoff_time t = {0};
    if (h->tokens <= 0 && h->ready_bytes <= 0)
        return t;
    double compute_s = h->before_s + h->prefill_s;
    double rest_s = (h->kv_bytes - h->ready_bytes) / h->link.bytes_per_s;
    double tokens = fmax(h->tokens, 1);
    double first = fmin(h->chunk_tokens, tokens) / tokens;
    double last = fmin(fmin(h->last_tokens, h->chunk_tokens), tokens) / tokens;
    double first_s = h->first_s > 0 ? fmin(h->first_s, h->prefill_s) : first * h->prefill_s;
    t.transfer_s = h->kv_bytes / h->link.bytes_per_s + h->link.latency_s;
    t.serial_s = compute_s + t.transfer_s + h->link.latency_s;
    double compute_bound = compute_s + last * rest_s;
    double link_bound = h->before_s + first_s + rest_s;
    double ready_bound = h->kv_bytes / h->link.bytes_per_s;
    // Latency: of the last piece on its way, and of the end marker's acknowledgement.
    t.overlapped_s = fmax(fmax(compute_bound, link_bound), ready_bound) + 2 * h->link.latency_s;
    t.tail_s = t.overlapped_s - compute_s;
    return t;
}
