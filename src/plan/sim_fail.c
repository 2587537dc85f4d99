// Nodes that drain, leave and come back. One that leaves takes its memory along; what was read or written on it
// is placed again, and what an answer had already said is read as part of its prompt, as the gateway does.
#include "plan/sim_impl.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

static bool concerns(const struct sim_request *r, uint32_t node)
{
    if (r->stage == SIM_FREE)
        return false;
    bool reads = r->reader == node && r->stage <= SIM_CROSSING;
    return reads || r->writer == node;
}

static void running_stop(struct sim_world *w, struct sim_request *r, uint32_t request)
{
    struct sim_node *n = &w->nodes[r->writer];
    double written = floor(n->steps - r->join_steps);
    sim_queue_remove(&n->batch, request);
    n->depth_tokens -= r->prompt + r->done + (n->steps - r->join_steps);
    n->used_tokens -= (double)r->prompt + r->answer;
    n->window_bytes -= r->window_bytes;
    n->joined_steps -= r->join_steps;
    r->done += (uint32_t)fmin(fmax(written, 0), r->answer - r->done - 1.0);
    if (r->first_s < 0)
        sim_list_remove(w, &n->firsts, request);
}

static void reading_stop(struct sim_world *w, struct sim_request *r, uint32_t request)
{
    struct sim_node *n = &w->nodes[r->reader];
    if (r->stage == SIM_READING) {
        sim_read_stop(w, request);
    } else if (sim_list_remove(w, &n->wait, request)) {
        n->wait_s = n->wait.n == 0 ? 0 : fmax(n->wait_s - r->solo_s, 0);
        sim_waiting(w, -1);
    }
}

static void detach(struct sim_world *w, uint32_t request)
{
    struct sim_request *r = &w->requests[request];
    sim_node_advance(w, r->reader);
    sim_node_advance(w, r->writer);
    if (r->stage < SIM_RUNNING) {
        struct sim_node *writer = &w->nodes[r->writer];
        writer->coming--;
        writer->coming_tokens = fmax(writer->coming_tokens - r->prompt - r->done, 0);
    }
    sim_link_stop(w, request);
    if (r->stage <= SIM_READING)
        reading_stop(w, r, request);
    else if (r->stage == SIM_READY && sim_list_remove(w, &w->nodes[r->writer].ready, request))
        sim_waiting(w, -1);
    else if (r->stage == SIM_RUNNING)
        running_stop(w, r, request);
}

static void node_leave(struct sim_world *w, uint32_t node)
{
    uint32_t n = 0, *victims = mem_alloc((w->n_requests + 1) * sizeof *victims);
    struct sim_node *left = &w->nodes[node];
    left->up = left->takes = false;
    left->down_since_s = w->now;
    for (uint32_t i = 0; i < w->n_requests; i++)
        if (concerns(&w->requests[i], node)) {
            detach(w, i);
            victims[n++] = i;
        }
    left->depth_tokens = left->window_bytes = left->joined_steps = left->used_tokens = 0;
    left->steps = left->wait_s = left->coming_tokens = 0;
    sim_holds_drop(w, node);
    for (uint32_t i = 0; i < n; i++) { // readers that were interrupted go on with somebody else
        sim_node_start(w, w->requests[victims[i]].reader);
        sim_node_schedule(w, w->requests[victims[i]].reader);
        sim_node_schedule(w, w->requests[victims[i]].writer);
        sim_node_weigh(w, w->requests[victims[i]].reader);
        sim_node_weigh(w, w->requests[victims[i]].writer);
    }
    sim_node_schedule(w, node);
    sim_node_weigh(w, node);
    for (uint32_t i = 0; i < n; i++) {
        w->out->replanned++;
        sim_request_go(w, victims[i]);
    }
    free(victims);
}

void sim_fail(struct sim_world *w, const struct sim_event *event)
{
    struct sim_node *n = &w->nodes[event->node];
    sim_node_advance(w, event->node);
    if (event->what == SIM_LEAVE && n->up) {
        node_leave(w, event->node);
    } else if (event->what == SIM_DRAIN) {
        n->takes = false;
    } else if (event->what == SIM_RETURN) {
        if (!n->up)
            n->down_s += w->now - n->down_since_s;
        n->up = n->takes = true;
        n->at_s = w->now;
    }
    sim_node_weigh(w, event->node);
}
