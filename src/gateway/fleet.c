#include "gateway/fleet.h"

#include "base/json.h"
#include "base/log.h"
#include "gateway/core.h"
#include "gateway/image_upstream.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

// ---- joining ----------------------------------------------------------------------------------------

static struct peer *at_address(struct core *c, const struct net_addr *a)
{
    for (size_t i = c->n_models; i < c->n_peers; i++) {
        struct peer *p = &c->peers[i];

        if (p->state != PEER_FREE && p->addr.port == a->port &&
            strcasecmp(p->addr.host, a->host) == 0)
            return p;
    }
    return NULL;
}

// The slot that has been free for the longest time; NULL: none is.
static struct peer *slot_find(struct core *c)
{
    struct peer *found = NULL;

    for (size_t i = c->n_models; i < c->n_models + GATEWAY_PREFILL_MAX; i++) {
        struct peer *p = &c->peers[i];

        if (p->state == PEER_FREE && (!found || p->since_ns < found->since_ns))
            found = p;
    }
    return found;
}

static int address_check(struct core *c, const struct net_addr *a, struct err *e)
{
    const struct peer *p = at_address(c, a);

    if (a->port == 0)
        return err_set(e, ERR_INVALID, "port 0 is no node's; say HOST:PORT, as in %.100s:%d",
                       a->host, MESSAGE_PORT);
    if (p)
        return err_set(e, ERR_BUSY, "%s is a node already%s", p->address,
                       p->leaving ? ", on its way out; add it again when it has left" : "");
    if (!net_addr_is_loopback(a) && !net_key_is_set(&c->options.key))
        return err_set(e, ERR_AUTH,
                       "%.100s is another machine, and this server has no cluster key; " //
                       NET_KEY_ADVICE ", then start the server again",
                       a->host);
    return 0;
}

int fleet_add(struct core *c, const struct net_addr *addr, struct peer **out, struct err *e)
{
    struct peer *p;
    int rc = address_check(c, addr, e);

    if (rc != 0)
        return rc;
    p = slot_find(c);
    if (!p)
        return err_set(e, ERR_BUSY, "%d nodes are here, and no more may be; remove one first",
                       GATEWAY_PREFILL_MAX);
    // The thread stays with its slot, for the nodes that come after this one.
    if (!p->greeter)
        rc = peer_greeter_start(c, p, e);
    if (rc != 0)
        return rc;
    peer_begin(p, addr);
    if (p->index >= c->n_peers)
        c->n_peers = p->index + 1;
    *out = p;
    return 0;
}

int fleet_begin(struct core *c, struct err *e)
{
    struct peer *p;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < c->options.n_prefill; i++)
        rc = fleet_add(c, &c->options.prefill[i], &p, e);
    if (rc == 0)
        fleet_load(c);
    return rc;
}

// ---- finding ------------------------------------------------------------------------------------------

// A name that several nodes have names none.
static struct peer *by_name(struct core *c, const char *name)
{
    struct peer *found = NULL;

    for (size_t i = c->n_models; i < c->n_peers; i++) {
        struct peer *p = &c->peers[i];

        if (p->state == PEER_FREE || p->companion || strcmp(peer_name(p), name) != 0)
            continue;
        if (found)
            return NULL;
        found = p;
    }
    return found;
}

struct peer *fleet_find(struct core *c, const char *text)
{
    struct net_addr a;
    struct err e = {0};
    struct peer *p = NULL;

    if (text[0] && net_addr_parse(text, "127.0.0.1", MESSAGE_PORT, &a, &e) == 0)
        p = at_address(c, &a);
    return p || !text[0] ? p : by_name(c, text);
}

// ---- leaving --------------------------------------------------------------------------------------------

static bool is_companion(const struct peer *p, const struct peer *of)
{
    return p->state != PEER_FREE && p->companion && p->parent == of->index;
}

void fleet_companion(struct core *c, struct peer *p)
{
    struct net_addr a = p->addr;
    struct peer *q = NULL;
    struct err e = {0};

    a.port = p->welcome.image_port;
    for (size_t i = c->n_models; i < c->n_peers; i++)
        if (is_companion(&c->peers[i], p) && c->peers[i].addr.port != a.port &&
            !c->peers[i].leaving)
            fleet_remove(c, &c->peers[i], false);
    if (p->local || a.port == 0 || at_address(c, &a))
        return;
    if (fleet_add(c, &a, &q, &e) != 0) {
        log_warn("gateway", "node %s draws as well, but not for this server: %s", peer_name(p),
                 e.message);
        return;
    }
    q->companion = true;
    q->parent = p->index;
    q->drained = p->drained;
}

// Requests of both kinds: an answer's, and a picture's.
static uint32_t requests_of(const struct core *c, const struct peer *p)
{
    return p->drawers ? image_nodes_requests(p->drawers, p->place) : request_count(c, p);
}

void fleet_remove(struct core *c, struct peer *p, bool force)
{
    p->leaving = true;
    peer_hold_apply(p); // first, so that no request that is planned again is given to it
    log_info("gateway", "node %s is removed: address=%s requests=%u%s", peer_name(p), p->address,
             requests_of(c, p), force ? ", not waited for" : "");
    if (force && p->link)
        peer_drop(p, "it was removed");
    for (size_t i = c->n_models; i < c->n_peers; i++)
        if (is_companion(&c->peers[i], p) && !c->peers[i].leaving)
            fleet_remove(c, &c->peers[i], force);
    fleet_save(c);
}

void fleet_drain(struct core *c, struct peer *p, bool on)
{
    p->drained = on;
    peer_hold_apply(p);
    for (size_t i = c->n_models; i < c->n_peers; i++)
        if (is_companion(&c->peers[i], p))
            fleet_drain(c, &c->peers[i], on);
    fleet_save(c);
}

void fleet_role(struct core *c, struct peer *p, uint32_t role)
{
    p->has_role = true;
    p->role = role;
    log_info("gateway", "node %s is there to %s: address=%s", peer_name(p),
             role == 0 ? "read and write" : place_role_name(role), p->address);
    fleet_save(c);
}

// Requests tell their clients which nodes they were on.
static bool is_referred(const struct core *c, const struct peer *p)
{
    for (const struct request *r = c->requests; r; r = r->next)
        if (r->decode == p || r->prefill == p || r->choice.decode == p || r->choice.prefill == p)
            return true;
    return false;
}

// What was refused for the sake of one that has left may be taken now.
static void refused_retry(struct core *c)
{
    for (size_t i = c->n_models; i < c->n_peers; i++)
        if (c->peers[i].state == PEER_REFUSED)
            c->peers[i].retry_ns = clock_now_ns();
}

static void leave(struct core *c, struct peer *p)
{
    if (p->link && requests_of(c, p) > 0)
        return;
    peer_close(p, "the node was removed");
    if (is_referred(c, p))
        return;
    log_info("gateway", "node %s has left: address=%s", peer_name(p), p->address);
    fleet_pairs_forget(c, p);
    peer_end(p);
    refused_retry(c);
}

void fleet_tick(struct core *c)
{
    for (size_t i = c->n_models; !c->stopping && i < c->n_peers; i++) {
        struct peer *p = &c->peers[i];

        if (p->leaving)
            leave(c, p);
        else if (p->quitting && p->link && requests_of(c, p) == 0)
            peer_part(p);
    }
    while (c->n_peers > c->n_models && c->peers[c->n_peers - 1].state == PEER_FREE)
        c->n_peers--;
}

// ---- what an operator is told -----------------------------------------------------------------------------

void fleet_node_put(json_t *o, const struct peer *p)
{
    const struct message_welcome *w = &p->welcome;
    bool advertises = p->known && w->advertise[0];

    json_put(o, "added", json_boolean(p->added));
    json_put(o, "drained", json_boolean(p->drained));
    json_put(o, "leaving", json_boolean(p->leaving));
    json_put(o, "stopping", json_boolean(p->quitting));
    json_put(o, "flaps", json_integer(p->flaps));
    json_put(o, "advertise", advertises ? json_string(w->advertise) : json_null());
}

// Steals the object.
static void tell(struct query *q, json_t *o)
{
    reply_finish(q->reply, 200, json_line(o), 0);
    json_decref(o);
}

static void tell_fault(struct query *q, unsigned status, const char *code, const char *message)
{
    reply_finish(q->reply, status, answer_error(status, message, code, "address"), 0);
}

static void tell_nodes(struct core *c, struct query *q)
{
    json_t *o = json_object(), *list = json_array();

    for (size_t i = 0; i < c->n_peers; i++)
        if (c->peers[i].state != PEER_FREE)
            json_array_append_new(list, status_peer(c, &c->peers[i]));
    for (size_t i = 0; i < c->options.n_upstreams; i++)
        json_array_append_new(list, status_peer(c, &c->peers[CORE_PEERS_MAX + i]));
    json_put(o, "object", json_string("list"));
    json_put(o, "data", list);
    tell(q, o);
}

static void join(struct core *c, struct query *q)
{
    struct net_addr a;
    struct peer *p = NULL;
    struct err e = {0};
    int rc = net_addr_parse(q->order.address, "127.0.0.1", MESSAGE_PORT, &a, &e);

    if (rc == 0)
        rc = fleet_add(c, &a, &p, &e);
    if (rc != 0) {
        unsigned status = rc == ERR_INVALID || rc == ERR_RANGE ? 400 : rc == ERR_IO ? 500 : 409;

        tell_fault(q, status, err_name(rc), e.message);
        return;
    }
    p->added = true;
    log_info("gateway", "a node joins: address=%s", p->address);
    fleet_save(c);
    tell(q, status_peer(c, p));
}

static void tell_unknown(struct core *c, struct query *q)
{
    char message[1024];
    size_t n;

    n = (size_t)snprintf(message, sizeof(message), "there is no node \"%.100s\" here; there %s",
                         q->order.address, c->n_peers > c->n_models ? "are" : "is none");
    for (size_t i = c->n_models; i < c->n_peers && n < sizeof(message); i++)
        if (c->peers[i].state != PEER_FREE)
            n += (size_t)snprintf(message + n, sizeof(message) - n, " %s", c->peers[i].address);
    tell_fault(q, 404, "node_not_found", message);
}

static void act(struct core *c, struct query *q, struct peer *p)
{
    if (q->kind == QUERY_NODE_ROLE)
        fleet_role(c, p, q->order.role);
    else if (q->kind == QUERY_NODE_REMOVE)
        fleet_remove(c, p, q->order.force);
    else if (q->kind != QUERY_NODE)
        fleet_drain(c, p, q->kind == QUERY_NODE_DRAIN);
    tell(q, status_peer(c, p));
}

// A role is a local worker's as well as a node's.
static struct peer *local_find(struct core *c, const char *address)
{
    for (size_t i = 0; i < c->n_models; i++)
        if (strcmp(c->peers[i].address, address) == 0)
            return &c->peers[i];
    return NULL;
}

void fleet_on_query(struct core *c, struct query *q)
{
    struct peer *p;

    if (q->kind == QUERY_NODES) {
        tell_nodes(c, q);
        return;
    }
    if (q->kind == QUERY_NODE_ADD) {
        join(c, q);
        return;
    }
    p = fleet_find(c, q->order.address);
    if (!p && q->kind == QUERY_NODE_ROLE)
        p = local_find(c, q->order.address);
    if (!p)
        tell_unknown(c, q);
    else if (p->leaving && q->kind != QUERY_NODE && !q->order.force)
        tell_fault(q, 409, "leaving", "it is being removed; add it again when it has left");
    else
        act(c, q, p);
}
