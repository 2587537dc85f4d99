#include "gateway/discover.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/answer.h"
#include "gateway/core.h"
#include "os/discover.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// An address that somebody announced.
struct item {
    struct os_seen seen;
    bool there;  // at the last look
    bool tried;  // a node was made of it: since added_ns, until it is known or let go of
    bool joined; // it was a node: if it is none any more, somebody did not want it
    bool told;   // the log has it
    int64_t added_ns, again_ns, wait_ns;
    char why[256]; // it is not used
};

struct discover {
    struct os_browse *browse;
    bool use;
    struct item items[OS_SEEN_MAX];
    size_t n;
    int64_t look_ns;
};

void discover_begin(struct core *c)
{
    const struct os_browse_options o = {0};
    struct err e = {0};
    struct discover *d;

    if (c->options.discover == GATEWAY_DISCOVER_OFF)
        return;
    d = mem_alloc(sizeof(*d));
    d->use = c->options.discover == GATEWAY_DISCOVER_USE;
    if (os_browse_start(&o, &d->browse, &e) == 0) {
        c->discover = d;
        return;
    }
    free(d);
    log_write(c->options.discover == GATEWAY_DISCOVER_USE ? LOG_LEVEL_WARN : LOG_LEVEL_INFO,
              "gateway", "no nodes are looked for on the network: %s", e.message);
}

void discover_end(struct core *c)
{
    if (!c->discover)
        return;
    os_browse_stop(c->discover->browse);
    free(c->discover);
    c->discover = NULL;
}

// ---- whose it is ------------------------------------------------------------------------------------

static void address_format(const struct os_seen *s, char out[FLEET_ADDRESS_BYTES])
{
    snprintf(out, FLEET_ADDRESS_BYTES, "%s:%u", s->host, s->port);
}

// The node at that address; NULL: there is none.
static struct peer *node_at(struct core *c, const struct os_seen *s)
{
    char address[FLEET_ADDRESS_BYTES];

    address_format(s, address);
    return fleet_find(c, address);
}

static bool has_id(const struct peer *p, const struct os_seen *s)
{
    return s->id[0] && p->known && strcmp(p->welcome.node_id, s->id) == 0;
}

// This machine's own, or a node under whatever address: the id is the same, and a node has one port for each model.
static bool is_here(struct core *c, const struct os_seen *s)
{
    for (size_t i = 0; i < c->n_models; i++)
        if (has_id(&c->peers[i], s))
            return true;
    for (size_t i = c->n_models; i < c->n_peers; i++) {
        const struct peer *p = &c->peers[i];

        if (p->state != PEER_FREE && p->addr.port == s->port && has_id(p, s))
            return true;
    }
    return node_at(c, s) != NULL;
}

// ---- looking ----------------------------------------------------------------------------------------

static struct item *item_find(struct discover *d, const struct os_seen *s)
{
    for (size_t i = 0; i < d->n; i++)
        if (d->items[i].seen.port == s->port && strcasecmp(d->items[i].seen.host, s->host) == 0)
            return &d->items[i];
    return NULL;
}

// One that has gone makes room; NULL: none has.
static struct item *item_make(struct discover *d)
{
    for (size_t i = 0; i < d->n; i++)
        if (!d->items[i].there && !d->items[i].tried)
            return &d->items[i];
    return d->n < OS_SEEN_MAX ? &d->items[d->n++] : NULL;
}

static void items_update(struct discover *d)
{
    struct os_seen all[OS_SEEN_MAX];
    size_t n = os_browse_list(d->browse, all, OS_SEEN_MAX);

    for (size_t i = 0; i < d->n; i++)
        d->items[i].there = false;
    for (size_t i = 0; i < n; i++) {
        struct item *t = item_find(d, &all[i]);

        if (!t && (t = item_make(d)))
            *t = (struct item){0};
        if (!t)
            continue;
        t->seen = all[i];
        t->there = true;
    }
}

static void tell(const struct core *c, struct item *t)
{
    char address[FLEET_ADDRESS_BYTES];

    if (t->told)
        return;
    t->told = true;
    address_format(&t->seen, address);
    if (c->discover->use)
        log_info("gateway", "%s is on the network: address=%s", t->seen.name, address);
    else
        log_info("gateway",
                 "%s is on the network and not used: address=%s; \"tandem nodes add %s\" uses it, "
                 "--discover uses all that hold the key",
                 t->seen.name, address, address);
}

// ---- using ------------------------------------------------------------------------------------------

static void item_wait(struct item *t, int64_t now_ns)
{
    t->wait_ns = t->wait_ns == 0 ? DISCOVER_AGAIN_MIN_NS : t->wait_ns * 2;
    if (t->wait_ns > DISCOVER_AGAIN_MAX_NS)
        t->wait_ns = DISCOVER_AGAIN_MAX_NS;
    t->again_ns = now_ns + t->wait_ns;
}

// Not used, and why: told when it is another reason than the last time.
static void item_refuse(struct item *t, const char *why, int64_t now_ns)
{
    bool same = strncmp(t->why, why, sizeof(t->why) - 1) == 0;

    snprintf(t->why, sizeof(t->why), "%.*s", (int)sizeof(t->why) - 1, why);
    item_wait(t, now_ns);
    if (!same)
        log_warn("gateway", "%s, found on the network, is not used: %s", t->seen.name, t->why);
}

static void item_try(struct core *c, struct item *t, int64_t now_ns)
{
    struct net_addr addr = {.port = t->seen.port};
    struct err e = {0};
    struct peer *p = NULL;

    snprintf(addr.host, sizeof(addr.host), "%s", t->seen.host);
    t->added_ns = now_ns;
    t->tried = fleet_add(c, &addr, &p, &e) == 0;
    if (!t->tried)
        item_refuse(t, e.message, now_ns);
}

// What the owner has removed stays away until the owner says otherwise.
static bool is_unwanted(struct item *t)
{
    if (t->joined)
        snprintf(t->why, sizeof(t->why), "it was removed; \"tandem nodes add\" takes it back");
    return t->joined;
}

// Does it hold the key? Who was greeted does; who was not in this time is let go of.
static void item_judge(struct core *c, struct item *t, int64_t now_ns)
{
    struct peer *p = node_at(c, &t->seen);

    if (!p || p->known) {
        t->tried = false;
        t->joined = true;
        t->why[0] = '\0';
    } else if (now_ns >= t->added_ns + DISCOVER_TRY_NS) {
        t->tried = false;
        item_refuse(t, p->why, now_ns);
        fleet_remove(c, p, true);
    }
}

int64_t discover_tick(struct core *c, int64_t now_ns)
{
    struct discover *d = c->discover;
    size_t trying = 0;

    if (!d || c->stopping)
        return INT64_MAX;
    if (now_ns < d->look_ns)
        return d->look_ns;
    d->look_ns = now_ns + DISCOVER_LOOK_NS;
    items_update(d);
    for (size_t i = 0; i < d->n; i++) {
        if (d->items[i].tried)
            item_judge(c, &d->items[i], now_ns);
        trying += d->items[i].tried;
    }
    for (size_t i = 0; i < d->n; i++) {
        struct item *t = &d->items[i];

        if (!t->there || is_here(c, &t->seen))
            continue;
        tell(c, t);
        if (!d->use || c->draining || is_unwanted(t) || now_ns < t->again_ns ||
            trying == DISCOVER_TRIES)
            continue;
        item_try(c, t, now_ns);
        trying += t->tried;
    }
    return d->look_ns;
}

json_t *discover_json(struct core *c)
{
    json_t *list = json_array();

    for (size_t i = 0; c->discover && i < c->discover->n; i++) {
        const struct item *t = &c->discover->items[i];
        char address[FLEET_ADDRESS_BYTES];
        json_t *o;

        if (!t->there || is_here(c, &t->seen))
            continue;
        o = json_object();
        address_format(&t->seen, address);
        json_put(o, "name", json_string(t->seen.name));
        json_put(o, "address", json_string(address));
        json_put(o, "id", t->seen.id[0] ? json_string(t->seen.id) : json_null());
        json_put(o, "version", json_string(t->seen.version));
        json_put(o, "models", t->seen.models[0] ? json_string(t->seen.models) : json_null());
        json_put(o, "why", t->why[0] ? answer_string(t->why) : json_null());
        json_array_append_new(list, o);
    }
    return list;
}
