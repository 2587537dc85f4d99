// How a worker ends in good order: it tells every gateway that it is about to stop, finishes
// what it has, and goes when they have let go of it. Since a gateway closes its link itself, nothing that it sent
// before it heard can be lost on the way.
#include "base/log.h"
#include "node/worker.h"

static bool is_gateway(const struct worker_link *l)
{
    return l->kind == WORKER_LINK_CONTROL && !l->parent;
}

void worker_drain_greet(struct worker *w, struct worker_link *l)
{
    if (is_gateway(l) && atomic_load_explicit(&w->draining, memory_order_relaxed))
        worker_status_send(w, l, 0);
}

void worker_drain_begin(struct worker *w)
{
    if (atomic_exchange_explicit(&w->draining, true, memory_order_relaxed))
        return;
    log_info("worker", "draining: it ends when its requests have: requests=%zu", w->n_jobs);
    for (struct worker_link *l = w->links; l != NULL; l = l->next)
        worker_drain_greet(w, l);
}

static bool is_linked(const struct worker *w)
{
    for (const struct worker_link *l = w->links; l != NULL; l = l->next)
        if (is_gateway(l))
            return true;
    return false;
}

// A gateway that does not let go (one of an earlier release, or one that hangs) holds it for a moment only.
int64_t worker_drain_run(struct worker *w, int64_t now_ns)
{
    if (!atomic_load_explicit(&w->draining, memory_order_relaxed))
        return INT64_MAX;
    if (w->jobs != NULL || w->done_ns == 0)
        w->done_ns = now_ns;
    if (w->jobs != NULL)
        return INT64_MAX;
    w->idle = !is_linked(w) || now_ns >= w->done_ns + WORKER_PART_NS;
    w->stop = w->stop || w->idle;
    return w->done_ns + WORKER_PART_NS;
}
