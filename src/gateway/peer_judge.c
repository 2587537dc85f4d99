// Whether a node that was greeted can be used: its model held against those here, its machine against the other nodes.
#include "gateway/core.h"
#include "gateway/image_upstream.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

// ---- comparing ----------------------------------------------------------------------------------------

static void refuse(struct peer *p, const char *why)
{
    peer_complain(p, "is not used", why);
    peer_state_set(p, PEER_REFUSED, why);
    p->retry_ns = clock_now_ns() + PEER_REFUSED_NS;
    peer_close(p, why);
}

// The local model that a node's own is equal to. NULL: none; then `e` says how it differs from the first that
// was compared, and *unknown how many could not be.
static struct model *equal_find(struct core *c, const struct peer *p, size_t *unknown,
                                struct err *e)
{
    struct err why = {0};

    *unknown = 0;
    e->message[0] = '\0';
    for (size_t i = 0; i < c->n_models; i++) {
        struct model *m = &c->models[i];

        if (!m->peer->known)
            ++*unknown;
        else if (engine_identity_compare(&m->peer->welcome.identity, &p->welcome.identity,
                                         c->options.same_weights, &why) == 0)
            return m;
        else if (!e->message[0])
            *e = why;
    }
    return NULL;
}

// Another address under which this very worker is known already; NULL: none. The process counts, not only the
// machine: one machine may well have several workers.
static const struct peer *twin_find(const struct core *c, const struct peer *p)
{
    for (size_t i = c->n_models; i < c->n_peers && p->welcome.node_id[0]; i++) {
        const struct peer *q = &c->peers[i];

        if (q != p && q->link && q->known && q->welcome.pid == p->welcome.pid &&
            strcmp(q->welcome.node_id, p->welcome.node_id) == 0)
            return q;
    }
    return NULL;
}

static bool twin_refuse(const struct core *c, struct peer *p)
{
    const struct peer *twin = twin_find(c, p);
    char why[ERR_MESSAGE_BYTES];

    if (!twin)
        return false;
    snprintf(why, sizeof(why),
             "it is the node that %.200s leads to as well (id %s); remove one of the two",
             twin->address, p->welcome.node_id);
    refuse(p, why);
    return true;
}

// ---- whether it can be used ---------------------------------------------------------------------------------

// Whether KV may pass between a local worker and this node.
void peer_judge(struct core *c, struct peer *p)
{
    struct err e = {0};
    size_t unknown;

    if (twin_refuse(c, p))
        return;
    if (c->n_models == 0) {
        refuse(p, "this server has no model of its own that it could have a part in; start it "
                  "with -m");
        return;
    }
    p->model = equal_find(c, p, &unknown, &e);
    if (!p->model && unknown > 0) {
        peer_state_set(p, PEER_WAITING, "the local model is still loading");
        return;
    }
    if (!p->model) {
        err_wrap(&e, "its model differs from the local one");
        refuse(p, e.message);
        return;
    }
    if (p->state == PEER_UP || p->state == PEER_DRAINING)
        return;
    p->logged[0] = '\0';
    p->backoff_ns = PEER_BACKOFF_MIN_NS;
    // Nothing is read for a model that nobody writes with: the node may unload it too.
    if (p->model->peer->state == PEER_RESTING) {
        peer_rest(p);
        return;
    }
    peer_state_set(p, PEER_UP, "");
    log_info("gateway", "prefill node %s is up: address=%s model=%s handoff=%s", peer_name(p),
             p->address, p->welcome.model, engine_handoff_name(p->welcome.limits.handoff));
    peer_hold_apply(p);
}

// It draws: no model here has to be equal to its own.
void peer_judge_drawer(struct core *c, struct peer *p)
{
    const struct image_node_join join = {p->address, &p->welcome, p->link->wire};
    struct err e = {0};

    p->model = NULL;
    if (twin_refuse(c, p))
        return;
    if (!c->options.drawers)
        err_set(&e, ERR_UNSUPPORTED, "it draws, and nothing here does");
    else if (image_nodes_join(c->options.drawers, &join, &p->place, &p->link->drawing, &e) == 0)
        p->drawers = c->options.drawers;
    if (e.code != 0) {
        refuse(p, e.message);
        return;
    }
    p->link->place = p->place;
    p->logged[0] = '\0';
    p->backoff_ns = PEER_BACKOFF_MIN_NS;
    peer_state_set(p, PEER_UP, "");
    log_info("gateway", "node %s is up, and draws: address=%s model=%s", peer_name(p), p->address,
             p->welcome.model);
    peer_hold_apply(p);
}
