#include "plan/sim_impl.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

void sim_options_defaults(struct sim_options *o)
{
    *o = (struct sim_options){.policy = PLACE_LATENCY,
                              .wish = PLACE_AUTO,
                              .ttft_s = 5,
                              .tpot_s = 0.1,
                              .years = 3,
                              .dollars_per_kwh = 0.18};
}

// ---- requests ------------------------------------------------------------------------------------------

uint32_t sim_request_new(struct sim_world *w)
{
    uint32_t request = w->free_request;
    if (request != SIM_NONE) {
        w->free_request = w->requests[request].next;
        return request;
    }
    if (w->n_requests == w->cap_requests) {
        w->cap_requests = w->cap_requests == 0 ? 1024 : 2 * w->cap_requests;
        w->requests = mem_resize(w->requests, w->cap_requests * sizeof *w->requests);
    }
    return w->n_requests++;
}

void sim_request_free(struct sim_world *w, uint32_t request)
{
    w->requests[request].stage = SIM_FREE;
    w->requests[request].next = w->free_request;
    w->free_request = request;
}

void sim_waiting(struct sim_world *w, int change)
{
    sim_area(w);
    w->waiting = change > 0 ? w->waiting + 1 : w->waiting - 1;
    if (w->waiting > w->out->waiting_most)
        w->out->waiting_most = w->waiting;
}

static void request_refuse(struct sim_world *w, uint32_t request)
{
    const struct sim_request *r = &w->requests[request];
    uint32_t conv = r->conv;
    w->out->refused++;
    w->in_system--;
    w->convs[conv].turns_left = 0; // nobody goes on with one that was refused
    w->convs[conv].active--;
    sim_request_free(w, request);
    sim_conv_rest(w, conv);
}

// Places it, for the first time or after its node has left.
void sim_request_go(struct sim_world *w, uint32_t request)
{
    if (!sim_place(w, request)) {
        request_refuse(w, request);
        return;
    }
    const struct sim_request *r = &w->requests[request];
    w->out->plans[r->plan]++;
    w->out->split += r->split;
    sim_node_enqueue(w, r->reader, request);
}

static void arrive(struct sim_world *w)
{
    sim_area(w);
    w->in_system++;
    w->out->arrived++;
    w->out->arrivals_s = w->now;
    uint32_t request = sim_load_take(w);
    w->out->prompt_tokens += w->requests[request].prompt;
    sim_request_go(w, request);
}

// ---- the world -------------------------------------------------------------------------------------------

// Nodes of one kind stand together in `by_kind`, so that each kind has indices of its own.
static void kinds_init(struct sim_world *w)
{
    const struct sim_fleet *f = w->fleet;
    uint32_t at = 0;
    w->readers = mem_alloc(f->n_kinds * sizeof *w->readers);
    w->writers = mem_alloc(f->n_kinds * sizeof *w->writers);
    w->kind_first = mem_alloc(f->n_kinds * sizeof *w->kind_first);
    w->kind_n = mem_alloc(f->n_kinds * sizeof *w->kind_n);
    w->by_kind = mem_alloc(f->n * sizeof *w->by_kind);
    w->rank = mem_alloc(f->n * sizeof *w->rank);
    for (size_t k = 0; k < f->n_kinds; k++) {
        w->kind_first[k] = at;
        for (uint32_t i = 0; i < f->n; i++)
            if (f->nodes[i] == k) {
                w->rank[i] = at - w->kind_first[k];
                w->by_kind[at++] = i;
            }
        w->kind_n[k] = at - w->kind_first[k];
        sim_index_init(&w->readers[k], w->kind_n[k]);
        sim_index_init(&w->writers[k], w->kind_n[k]);
    }
}

static void nodes_init(struct sim_world *w)
{
    const struct sim_fleet *f = w->fleet;
    w->nodes = mem_alloc(f->n * sizeof *w->nodes);
    w->views = mem_alloc(f->n * sizeof *w->views);
    w->scratch = mem_alloc(f->n * sizeof *w->scratch);
    sim_index_init(&w->events, f->n);
    kinds_init(w);
    for (uint32_t i = 0; i < f->n; i++) {
        const struct sim_kind *k = &f->kinds[f->nodes[i]];
        w->nodes[i] = (struct sim_node){
            .kind = k, .oldest = SIM_NONE, .newest = SIM_NONE, .up = true, .takes = true};
        w->views[i] = (struct place_node){.name = k->name,
                                          .id = i,
                                          .profile = &k->profile,
                                          .roles = k->roles,
                                          .group = 1,
                                          .streams = true};
        sim_node_weigh(w, i);
    }
}

static void world_init(struct sim_world *w, const struct sim_fleet *f, const struct sim_load *l,
                       const struct sim_options *o)
{
    w->fleet = f;
    w->load = l;
    w->options = o;
    w->rate = l->rate;
    w->free_request = w->free_conv = w->free_hold = SIM_NONE;
    w->phase_end_s = INFINITY;
    nodes_init(w);
}

static void world_fini(struct sim_world *w)
{
    for (uint32_t i = 0; i < w->fleet->n; i++) {
        sim_queue_fini(&w->nodes[i].batch);
        sim_queue_fini(&w->nodes[i].link.drains);
    }
    for (size_t k = 0; k < w->fleet->n_kinds; k++) {
        sim_index_fini(&w->readers[k]);
        sim_index_fini(&w->writers[k]);
    }
    sim_index_fini(&w->events);
    sim_queue_fini(&w->turns);
    void *const memory[] = {w->nodes,      w->views,      w->scratch,     w->readers,
                            w->writers,    w->kind_first, w->kind_n,      w->by_kind,
                            w->rank,       w->requests,   w->convs,       w->holds,
                            w->ttft.items, w->tpot.items, w->total.items, w->tail.items};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
}

// Whatever comes first; of what comes at once, machines before work that ends before work that arrives.
static void world_run(struct sim_world *w)
{
    const struct sim_fleet *f = w->fleet;
    sim_load_start(w);
    for (;;) {
        uint32_t node = sim_index_first(&w->events);
        double work = w->events.keys[node], arrival = sim_load_next(w);
        double first = fmin(work, arrival);
        // What happens to machines when all is done concerns nobody.
        if (!(first < INFINITY))
            break;
        if (w->event_at < f->n_events && f->events[w->event_at].at_s <= first) {
            w->now = fmax(f->events[w->event_at].at_s, w->now);
            sim_fail(w, &f->events[w->event_at++]);
        } else if (work <= arrival) {
            w->now = work;
            sim_node_event(w, node);
        } else {
            w->now = arrival;
            arrive(w);
        }
    }
    sim_area(w);
}

void sim_world_run(const struct sim_fleet *f, const struct sim_load *l, const struct sim_options *o,
                   struct sim_result *out)
{
    struct sim_world w = {.out = out};
    world_init(&w, f, l, o);
    world_run(&w);
    sim_result_fill(&w);
    world_fini(&w);
}

// ---- asking ------------------------------------------------------------------------------------------------

static int lengths_check(const struct sim_lengths *l, const char *what, struct err *e)
{
    if (!(l->median >= 1 && l->median <= TRACE_TOKENS_MAX && l->sigma >= 0 && l->sigma <= 5 &&
          l->most >= 1 && l->most <= TRACE_TOKENS_MAX))
        return err_set(e, ERR_INVALID,
                       "%s: median %g, sigma %g, most %g; they must be 1 to %u, 0 to 5, 1 to %u",
                       what, l->median, l->sigma, l->most, TRACE_TOKENS_MAX, TRACE_TOKENS_MAX);
    return 0;
}

static int number_check(double x, double min, double max, const char *what, struct err *e)
{
    if (x >= min && x <= max)
        return 0;
    return err_set(e, ERR_INVALID, "%s is %g; it must be between %g and %g", what, x, min, max);
}

int sim_load_check(const struct sim_load *l, struct err *e)
{
    int rc = 0;
    if (l->trace == NULL) {
        rc = number_check((double)l->requests, 1, SIM_REQUESTS_MAX, "the number of requests", e);
        if (rc == 0)
            rc = number_check(l->burst, 1, 1000, "the burst factor", e);
        if (rc == 0)
            rc = number_check(l->turns, 1, 500, "turns", e);
        if (rc == 0)
            rc = number_check(l->think_s, 0, 1e6, "the time to think", e);
        if (rc == 0)
            rc = lengths_check(&l->first, "first prompts", e);
        if (rc == 0)
            rc = lengths_check(&l->turn, "later prompts", e);
        if (rc == 0)
            rc = lengths_check(&l->answer, "answers", e);
    }
    return rc;
}

int sim_fleet_check(const struct sim_fleet *f, const struct sim_options *o, struct err *e)
{
    if (f->n == 0)
        return err_set(e, ERR_INVALID, "the fleet has no nodes");
    int rc = number_check(o->years, 0.01, 100, "years", e);
    if (rc == 0)
        rc = number_check(o->dollars_per_kwh, 0, 100, "dollars per kWh", e);
    if (rc == 0)
        rc = number_check(o->ttft_s, 0, 1e6, "the limit of the time to the first token", e);
    if (rc == 0)
        rc = number_check(o->tpot_s, 0, 1e6, "the limit of the time per token", e);
    for (size_t i = 0; rc == 0 && i < f->n_events; i++)
        if (f->events[i].node >= f->n)
            rc = err_set(e, ERR_INVALID, "an event names node %u; the fleet has %u",
                         f->events[i].node, f->n);
    return rc;
}

int sim_run(const struct sim_fleet *f, const struct sim_load *l, const struct sim_options *o,
            struct sim_result *out, struct err *e)
{
    double capacity = 0;
    *out = (struct sim_result){0};
    int rc = sim_fleet_check(f, o, e);
    if (rc == 0)
        rc = sim_load_check(l, e);
    struct sim_load load = *l;
    if (rc == 0 && l->trace == NULL && !(l->rate > 0)) {
        rc = number_check(l->share, 0.01, 10, "the share of the capacity", e);
        if (rc == 0)
            rc = sim_capacity(f, l, o, &capacity, e);
        load.rate = capacity > 0 ? capacity * l->share : 1;
    }
    if (rc == 0 && l->trace == NULL)
        rc = number_check(load.rate, 1e-9, 1e9, "requests per second", e);
    if (rc != 0)
        return rc;
    sim_world_run(f, &load, o, out);
    out->rate = load.rate;
    out->capacity = capacity;
    return 0;
}
