#include "gateway/metrics.h"

#include "base/clock.h"
#include "base/json.h"
#include "gateway/core.h"
#include "os/os.h"

#include <math.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const double request_bounds[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                        2.5,   5,    10,    30,   60,  120,  300, 600};
static const double token_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075,
                                      0.1,   0.15,   0.2,   0.3,  0.5,  1,    2.5,  10};
static const double tail_bounds[] = {0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                     0.05,   0.1,    0.25,  0.5,    1,     2.5,  10};
static const double off_bounds[] = {0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5};

static const char *const plan_names[METRICS_PLANS] = {"local", "remote", "serial", "hybrid",
                                                      "none"};
static const char *const end_names[METRICS_ENDS] = {"ok", "failed", "cancelled", "refused"};

#define INIT(h, bounds) metric_histogram_init(h, bounds, sizeof(bounds) / sizeof((bounds)[0]))

void metrics_init(struct metrics *m)
{
    memset(m, 0, sizeof(*m));
    INIT(&m->ttft, request_bounds);
    INIT(&m->inter_token, token_bounds);
    INIT(&m->total, request_bounds);
    INIT(&m->queue, request_bounds);
    INIT(&m->prefill, request_bounds);
    INIT(&m->kv_seconds, request_bounds);
    INIT(&m->tail, tail_bounds);
    INIT(&m->predicted_ttft, request_bounds);
    INIT(&m->off, off_bounds);
}

void metrics_token(struct metrics *m, int64_t *last_ns, int64_t at_ns)
{
    if (*last_ns != 0)
        metric_observe(&m->inter_token, ns_to_s(at_ns - *last_ns));
    *last_ns = at_ns;
}

static size_t plan_find(const char *plan)
{
    for (size_t i = 0; plan && i < METRICS_PLANS - 1; i++)
        if (strcmp(plan_names[i], plan) == 0)
            return i;
    return METRICS_PLANS - 1;
}

void metrics_ended(struct metrics *m, const char *plan, enum metrics_end end)
{
    m->ended[plan_find(plan)][end]++;
}

static uint64_t count(const json_t *o, const char *member)
{
    double v = json_number_or(o, member, NAN);

    return v >= 0 && v < 0x1p53 ? (uint64_t)v : 0;
}

// Of the time to the first token: how long an answer is nobody knows before. What did not go as planned was
// not predicted.
static void predicted_count(struct metrics *m, const json_t *timings)
{
    double predicted = json_number_or(json_object_get(timings, "predicted"), "ttft_s", NAN);

    if (json_is_string(json_object_get(timings, "fallback")))
        return;
    metric_observe(&m->predicted_ttft, predicted);
    if (predicted > 0)
        metric_observe(&m->off, fabs(json_number_or(timings, "ttft_s", NAN) / predicted - 1));
}

void metrics_answered(struct metrics *m, const json_t *timings)
{
    const json_t *decode = json_object_get(timings, "decode");

    predicted_count(m, timings);

    metrics_ended(m, json_string_value(json_object_get(timings, "plan")), METRICS_OK);
    // A histogram passes over NaN, which is what is not there.
    metric_observe(&m->ttft, json_number_or(timings, "ttft_s", NAN));
    metric_observe(&m->total, json_number_or(timings, "total_s", NAN));
    metric_observe(&m->prefill, json_number_or(timings, "prefill_s", NAN));
    metric_observe(&m->tail, json_number_or(timings, "tail_ms", NAN) / 1e3);
    metric_observe(&m->queue, json_number_or(decode, "queue_s", NAN));
    metric_observe(&m->kv_seconds, json_number_or(decode, "handoff_end_s", NAN));
    m->prompt_tokens += count(timings, "prompt_tokens");
    m->cached_tokens += count(timings, "cached_tokens");
    m->generated_tokens += count(timings, "gen_tokens");
    m->kv_bytes += count(timings, "kv_bytes");
    m->fallbacks += json_is_string(json_object_get(timings, "fallback"));
}

// ---- the page -----------------------------------------------------------------------------------------

static void requests_put(struct core *c, struct buf *out)
{
    static const char name[] = "tandem_requests_total";
    size_t running = 0;

    for (const struct request *r = c->requests; r; r = r->next)
        running += r->phase == REQUEST_GENERATE && r->first_token_ns != 0;
    metric_family(out, name, "counter",
                  "Requests that ended, by the plan they ran under and how they ended.");
    for (size_t i = 0; i < METRICS_PLANS; i++) {
        for (size_t j = 0; j < METRICS_ENDS; j++) {
            struct metric_label labels[] = {{"plan", plan_names[i]}, {"status", end_names[j]}};

            metric_sample(out, name, labels, 2, (double)c->metrics.ended[i][j]);
        }
    }
    metric_single(out, "tandem_requests_running", "gauge",
                  "Requests whose answer is being written.", (double)running);
    metric_single(out, "tandem_requests_waiting", "gauge",
                  "Requests that wait for a place, or whose prompt is being read.",
                  (double)(c->n_requests - running));
    metric_single(out, "tandem_requests_max", "gauge", "Most requests at one time.",
                  c->options.max_requests);
}

static void histograms_put(const struct metrics *m, struct buf *out)
{
    metric_histogram_put(out, "tandem_time_to_first_token_seconds",
                         "From a request's last byte to the first token of its answer.", &m->ttft);
    metric_histogram_put(out, "tandem_inter_token_seconds", "Between two tokens of one answer.",
                         &m->inter_token);
    metric_histogram_put(out, "tandem_request_duration_seconds",
                         "From a request's last byte to the last token of its answer.", &m->total);
    metric_histogram_put(out, "tandem_queue_seconds",
                         "From the decode worker's receipt of a request until it had a place.",
                         &m->queue);
    metric_histogram_put(out, "tandem_prefill_seconds", "Reading the prompt, wherever it was read.",
                         &m->prefill);
    metric_histogram_put(
        out, "tandem_kv_transfer_seconds",
        "From the decode worker's receipt of a request until the whole prompt's KV "
        "cache had come from the prefill node.",
        &m->kv_seconds);
    metric_histogram_put(out, "tandem_predicted_time_to_first_token_seconds",
                         "As placement predicted it, of answers that went as planned.",
                         &m->predicted_ttft);
    metric_histogram_put(out, "tandem_prediction_error_ratio",
                         "How far the time to the first token was from the prediction, as a share "
                         "of that.",
                         &m->off);
    metric_histogram_put(
        out, "tandem_kv_tail_seconds",
        "Transfer time left over when the prefill node had computed its last token.", &m->tail);
}

static void counters_put(const struct core *c, struct buf *out)
{
    const struct metrics *m = &c->metrics;

    metric_single(out, "tandem_prompt_tokens_total", "counter",
                  "Tokens of prompts that were answered.", (double)m->prompt_tokens);
    metric_single(out, "tandem_prefix_hit_tokens_total", "counter",
                  "Tokens of prompts that were in prefix memory and not read again.",
                  (double)m->cached_tokens);
    metric_single(out, "tandem_generated_tokens_total", "counter", "Tokens of answers.",
                  (double)m->generated_tokens);
    metric_single(out, "tandem_kv_transfer_bytes_total", "counter",
                  "Bytes of KV cache that came from prefill nodes.", (double)m->kv_bytes);
    metric_single(out, "tandem_fallbacks_total", "counter",
                  "Answers that did not go as planned, and were given all the same.",
                  (double)m->fallbacks);
    metric_single(out, "tandem_failovers_total", "counter",
                  "Requests that were planned again because a worker was lost.",
                  (double)m->failovers);
    metric_single(out, "tandem_replans_total", "counter",
                  "Requests that went to another place while they waited.", (double)m->replans);
    metric_single(out, "tandem_worker_starts_total", "counter",
                  "Times the local worker was started.", (double)m->worker_starts);
}

// ---- nodes --------------------------------------------------------------------------------------------

struct node_gauge {
    const char *name, *help;
    double (*value)(const struct core *c, const struct peer *p);
};

static double worker_number(const struct peer *p, const char *member)
{
    return json_number_or(p->status, member, NAN);
}

static double node_up(const struct core *c, const struct peer *p)
{
    (void)c;
    return p->state == PEER_UP;
}

static double node_requests(const struct core *c, const struct peer *p)
{
    return request_count(c, p);
}

static double node_cells(const struct core *c, const struct peer *p)
{
    (void)c;
    return p->known ? (double)p->welcome.limits.n_ctx : (double)NAN;
}

static double node_cells_used(const struct core *c, const struct peer *p)
{
    (void)c;
    return worker_number(p, "cells_used");
}

static double node_cells_kept(const struct core *c, const struct peer *p)
{
    (void)c;
    return worker_number(p, "cells_kept");
}

static double node_rate(const struct peer *p, const char *member, double greeted)
{
    double v = json_number_or(json_object_get(p->status, "rates"), member, NAN);

    return v > 0 ? v : p->known ? greeted : NAN;
}

static double node_prefill_rate(const struct core *c, const struct peer *p)
{
    (void)c;
    return node_rate(p, "prefill_tokens_per_s", p->welcome.prefill_tokens_per_s);
}

static double node_decode_rate(const struct core *c, const struct peer *p)
{
    (void)c;
    return node_rate(p, "decode_tokens_per_s", p->welcome.decode_tokens_per_s);
}

static double node_link_rate(const struct core *c, const struct peer *p)
{
    (void)c;
    return p->link_bytes_per_s > 0 ? p->link_bytes_per_s : NAN;
}

static const struct node_gauge node_gauges[] = {
    {"tandem_node_up", "Whether the node can be used.", node_up},
    {"tandem_node_requests", "Requests that the node works on.", node_requests},
    {"tandem_node_cells", "Tokens that the node's context holds.", node_cells},
    {"tandem_node_cells_used", "Tokens of running requests in the node's context.",
     node_cells_used},
    {"tandem_node_cells_kept", "Tokens of finished requests that the node keeps in its context.",
     node_cells_kept},
    {"tandem_node_prefill_tokens_per_second", "How fast the node reads.", node_prefill_rate},
    {"tandem_node_decode_tokens_per_second", "How fast the node writes.", node_decode_rate},
    {"tandem_node_link_bytes_per_second", "As the last transfer from the node measured.",
     node_link_rate},
};

// What is not known has no sample.
static void node_put(const struct core *c, const struct node_gauge *g, const struct peer *p,
                     struct buf *out)
{
    struct metric_label labels[] = {{"node", peer_name(p)},
                                    {"address", p->address},
                                    {"role", p->upstream ? "upstream"
                                             : p->local  ? "decode"
                                                         : "prefill"}};
    double v = p->state == PEER_FREE ? (double)NAN : g->value(c, p);

    if (!isnan(v))
        metric_sample(out, g->name, labels, 3, v);
}

static void nodes_put(const struct core *c, struct buf *out)
{
    for (size_t i = 0; i < sizeof(node_gauges) / sizeof(node_gauges[0]); i++) {
        const struct node_gauge *g = &node_gauges[i];

        metric_family(out, g->name, "gauge", g->help);
        for (size_t j = 0; j < c->n_peers; j++)
            node_put(c, g, &c->peers[j], out);
        for (size_t j = 0; j < c->options.n_upstreams; j++)
            node_put(c, g, &c->peers[CORE_PEERS_MAX + j], out);
    }
}

struct link_gauge {
    const char *name, *help;
    size_t at; // of the figure in placing_link_known
    struct buf *out;
};

static void link_put(void *ctx, const struct placing_link_known *k)
{
    const struct link_gauge *g = ctx;
    struct metric_label labels[] = {{"from", peer_name(k->from)},
                                    {"from_address", k->from->address},
                                    {"to", peer_name(k->to)},
                                    {"to_address", k->to->address}};
    double v = *(const double *)((const char *)k + g->at);

    if (!isnan(v))
        metric_sample(g->out, g->name, labels, 4, v);
}

static void links_put(const struct core *c, struct buf *out)
{
    struct link_gauge gauges[] = {
        {"tandem_link_rtt_seconds", "Round trip between two nodes.",
         offsetof(struct placing_link_known, rtt_s), out},
        {"tandem_link_up_bytes_per_second", "What the link carries to the node that writes.",
         offsetof(struct placing_link_known, up_bytes_per_s), out},
        {"tandem_link_down_bytes_per_second", "What the link carries to the node that reads.",
         offsetof(struct placing_link_known, down_bytes_per_s), out},
    };

    for (size_t i = 0; i < sizeof(gauges) / sizeof(gauges[0]); i++) {
        metric_family(out, gauges[i].name, "gauge", gauges[i].help);
        placing_links_each(c->placing, link_put, &gauges[i]);
    }
}

static double cpu_seconds(void)
{
    struct rusage u;

    if (getrusage(RUSAGE_SELF, &u) != 0)
        return NAN;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void process_put(const struct core *c, struct buf *out)
{
    const struct metric_label build = {"version", TANDEM_VERSION};
    struct os_memory memory = {0};

    os_memory_get(getpid(), &memory);
    metric_family(out, "tandem_build_info", "gauge",
                  "Always 1; the label says which version this is.");
    metric_sample(out, "tandem_build_info", &build, 1, 1);
    metric_single(out, "tandem_uptime_seconds", "gauge", "Since the server started.",
                  ns_to_s(clock_now_ns() - c->started_ns));
    metric_single(out, "process_cpu_seconds_total", "counter",
                  "CPU time of the gateway, without its worker.", cpu_seconds());
    metric_single(out, "process_resident_memory_bytes", "gauge",
                  "Memory of the gateway, without its worker.", (double)memory.resident_bytes);
}

void metrics_put(struct core *c, struct buf *out)
{
    requests_put(c, out);
    histograms_put(&c->metrics, out);
    counters_put(c, out);
    nodes_put(c, out);
    links_put(c, out);
    process_put(c, out);
}
