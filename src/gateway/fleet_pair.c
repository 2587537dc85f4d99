// Ways between workers: where one dials another, and which pairs could not.
#include "base/json.h"
#include "base/log.h"
#include "gateway/core.h"

#include <stdio.h>
#include <string.h>

void fleet_address(const struct peer *decode, const struct peer *prefill, struct net_addr *out)
{
    const char *told = prefill->welcome.advertise;
    struct err e = {0};

    *out = prefill->addr;
    if (decode->local || !told[0])
        return;
    if (net_addr_parse(told, prefill->addr.host, prefill->addr.port, out, &e) == 0 && out->port > 0)
        return;
    log_warn("gateway", "what node %s advertises is no address: %s", peer_name(prefill), e.message);
    *out = prefill->addr;
}

// FLEET_PAIRS: nothing is known of it.
static size_t pair_find(const struct core *c, const struct peer *decode, const struct peer *prefill)
{
    size_t i = 0;

    while (i < FLEET_PAIRS &&
           (c->pairs.items[i].decode != decode || c->pairs.items[i].prefill != prefill))
        i++;
    return i;
}

const char *fleet_pair_why(const struct core *c, const struct peer *decode,
                           const struct peer *prefill)
{
    size_t i = pair_find(c, decode, prefill);

    if (!decode->local && !prefill->welcome.advertise[0] && net_addr_is_loopback(&prefill->addr) &&
        !net_addr_is_loopback(&decode->addr))
        return "its address means this machine alone; start it with --advertise HOST";
    if (i == FLEET_PAIRS || clock_now_ns() >= c->pairs.items[i].until_ns)
        return NULL;
    return c->pairs.items[i].why;
}

// An unused one, or the one that will be forgotten first.
static struct fleet_pair *pair_room(struct core *c)
{
    struct fleet_pair *oldest = &c->pairs.items[0];

    for (size_t i = 0; i < FLEET_PAIRS; i++) {
        struct fleet_pair *pair = &c->pairs.items[i];

        if (!pair->decode)
            return pair;
        if (pair->until_ns < oldest->until_ns)
            oldest = pair;
    }
    return oldest;
}

static void pair_failed(struct core *c, const struct peer *decode, const struct peer *prefill,
                        const char *why)
{
    size_t i = pair_find(c, decode, prefill);
    struct fleet_pair *pair = i < FLEET_PAIRS ? &c->pairs.items[i] : pair_room(c);
    int64_t now_ns = clock_now_ns();

    if (i == FLEET_PAIRS) {
        *pair = (struct fleet_pair){.decode = decode, .prefill = prefill};
    } else if (now_ns < pair->until_ns) {
        return; // a request of the time before
    }
    pair->wait_ns = pair->wait_ns == 0 ? FLEET_PAIR_MIN_NS : 2 * pair->wait_ns;
    if (pair->wait_ns > FLEET_PAIR_MAX_NS)
        pair->wait_ns = FLEET_PAIR_MAX_NS;
    pair->until_ns = now_ns + pair->wait_ns;
    snprintf(pair->why, sizeof(pair->why), "%.60s could not reach it: %.160s", peer_name(decode),
             why);
    log_warn("gateway", "no hand-off from node %s for %.0f s: %s", peer_name(prefill),
             ns_to_s(pair->wait_ns), pair->why);
}

void fleet_on_done(struct core *c, const struct request *r, uint32_t at, const json_t *head)
{
    const char *told = json_string_or(head, "fallback", "it cannot be dialled");
    size_t i;

    if (at != 0 || !r->prefill || !r->decode)
        return;
    if (json_is_true(json_object_get(head, "unreached"))) {
        pair_failed(c, r->decode, r->prefill, told);
    } else if (json_is_number(json_object_get(head, "handoff_end_s"))) {
        i = pair_find(c, r->decode, r->prefill);
        if (i < FLEET_PAIRS)
            c->pairs.items[i] = (struct fleet_pair){0};
    }
}

void fleet_pairs_forget(struct core *c, const struct peer *p)
{
    for (size_t i = 0; i < FLEET_PAIRS; i++) {
        struct fleet_pair *pair = &c->pairs.items[i];

        if (pair->decode == p || pair->prefill == p)
            *pair = (struct fleet_pair){0};
    }
}
