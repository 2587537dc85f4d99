// What crosses to a node while others send to it, too.
//
// A link is shared by weight: one who sends what is already there has weight 1, one who sends while it reads
// only as much of the link as its reading fills. While the weights add up to no more than 1 nobody waits for
// another; beyond, each gets its part. What the link could carry of a transfer is then a difference of two
// integrals, and no event is needed when somebody else comes or goes.
#include "plan/sim_impl.h"

#include <math.h>

#define CHUNK_TOKENS 512.0
#define LAST_TOKENS 64.0 // the piece that leaves last, of one layer
#define WEIGHT_NONE 1e-9

static double rate_of(const struct sim_world *w, const struct sim_request *r)
{
    return fmin(w->nodes[r->reader].kind->link.bytes_per_s,
                w->nodes[r->writer].kind->link.bytes_per_s);
}

static double latency_of(const struct sim_world *w, const struct sim_request *r)
{
    return fmax(w->nodes[r->reader].kind->link.latency_s, w->nodes[r->writer].kind->link.latency_s);
}

static void link_advance(struct sim_world *w, struct sim_link *l)
{
    double passed = w->now - l->at_s;
    if (l->load <= 1)
        l->free_s += passed;
    else
        l->shared_s += passed / l->load;
    l->at_s = w->now;
}

static void load_add(struct sim_link *l, double weight)
{
    l->senders = weight > 0 ? l->senders + 1 : l->senders - 1;
    l->load = l->senders == 0 ? 0 : fmax(l->load + weight, 0);
}

static double bytes_of(const struct sim_world *w, const struct sim_request *r)
{
    const struct cost_model *m = &w->nodes[r->writer].kind->model;
    double upto = r->upto;
    return cost_kv_bytes(m, upto) - cost_kv_bytes(m, upto - r->send_tokens);
}

// r->send_tokens and r->solo_s are set.
void sim_link_begin(struct sim_world *w, uint32_t request)
{
    struct sim_request *r = &w->requests[request];
    struct sim_link *l = &w->nodes[r->writer].link;
    link_advance(w, l);
    // Others that are read in turns with it make it slower.
    double read_s = fmax(r->solo_s, 1e-12) * w->nodes[r->reader].reads.n;
    r->link_weight = fmin(fmax(bytes_of(w, r) / rate_of(w, r) / read_s, WEIGHT_NONE), 1);
    if (r->plan == PLACE_SERIAL)
        r->link_weight = WEIGHT_NONE;
    r->link_free_s = l->free_s;
    r->link_shared_s = l->shared_s;
    r->sending = true;
    w->nodes[r->reader].sends++;
    load_add(l, r->link_weight);
    sim_node_schedule(w, r->writer);
}

// The equations of cost_handoff: nothing crosses before the first chunk is computed, and at least the last piece
// is left at the end.
void sim_link_read(struct sim_world *w, uint32_t request)
{
    struct sim_request *r = &w->requests[request];
    struct sim_link *l = &w->nodes[r->writer].link;
    double whole_s = bytes_of(w, r) / rate_of(w, r), tokens = fmax(r->send_tokens, 1);
    double first = fmin(CHUNK_TOKENS, tokens) / tokens;
    double layers = fmax(w->nodes[r->writer].kind->model.layers, 1);
    double last = fmin(fmin(LAST_TOKENS / layers, CHUNK_TOKENS), tokens) / tokens;
    link_advance(w, l);
    load_add(l, -r->link_weight);
    double carried_s =
        (l->free_s - r->link_free_s) + r->link_weight * (l->shared_s - r->link_shared_s);
    double left_s = fmax(last * whole_s, whole_s - carried_s * (1 - first));
    if (r->plan == PLACE_SERIAL)
        left_s = whole_s;
    r->link_weight = 1;
    r->stage = SIM_CROSSING;
    r->read_end_s = w->now;
    load_add(l, 1);
    sim_queue_push(&l->drains, l->free_s + l->shared_s + left_s + 2 * latency_of(w, r), request);
    sim_node_schedule(w, r->writer);
}

// For one that is given up, at either stage.
void sim_link_stop(struct sim_world *w, uint32_t request)
{
    struct sim_request *r = &w->requests[request];
    struct sim_link *l = &w->nodes[r->writer].link;
    if (!r->sending)
        return;
    link_advance(w, l);
    load_add(l, -r->link_weight);
    sim_queue_remove(&l->drains, request);
    r->sending = false;
    w->nodes[r->reader].sends--;
    sim_node_schedule(w, r->writer);
}

double sim_link_next(struct sim_world *w, uint32_t node)
{
    struct sim_link *l = &w->nodes[node].link;
    if (l->drains.n == 0)
        return INFINITY;
    link_advance(w, l);
    double left = l->drains.items[0].key - (l->free_s + l->shared_s);
    return w->now + fmax(left, 0) * fmax(l->load, 1);
}

uint32_t sim_link_take(struct sim_world *w, uint32_t node)
{
    struct sim_link *l = &w->nodes[node].link;
    link_advance(w, l);
    struct sim_entry done = sim_queue_pop(&l->drains);
    struct sim_request *r = &w->requests[done.id];
    load_add(l, -r->link_weight);
    r->sending = false;
    w->nodes[r->reader].sends--;
    if (l->senders == 0) // so that sums do not lose digits over a long run
        l->free_s = l->shared_s = 0;
    sim_tail(w, w->now - r->read_end_s);
    return done.id;
}
