// Prefixes that nodes keep for conversations, until others need the room: the one used longest ago goes first.
#include "plan/sim_impl.h"

#include "base/buf.h"

static uint32_t find(const struct sim_world *w, uint32_t conv, uint32_t node)
{
    const struct sim_conv *c = &w->convs[conv];
    for (size_t i = 0; i < SIM_HOLDS; i++)
        if (c->holds[i] != SIM_NONE && w->holds[c->holds[i]].node == node)
            return c->holds[i];
    return SIM_NONE;
}

static void unlink_hold(struct sim_world *w, uint32_t hold)
{
    struct sim_hold *h = &w->holds[hold];
    struct sim_node *n = &w->nodes[h->node];
    if (h->older != SIM_NONE)
        w->holds[h->older].newer = h->newer;
    else
        n->oldest = h->newer;
    if (h->newer != SIM_NONE)
        w->holds[h->newer].older = h->older;
    else
        n->newest = h->older;
}

// A conversation's holds stand in the order in which they were made, without gaps.
static void forget(struct sim_world *w, uint32_t hold)
{
    struct sim_hold *h = &w->holds[hold];
    struct sim_conv *c = &w->convs[h->conv];
    size_t i = 0;
    while (c->holds[i] != hold)
        i++;
    for (; i + 1 < SIM_HOLDS; i++)
        c->holds[i] = c->holds[i + 1];
    c->holds[SIM_HOLDS - 1] = SIM_NONE;
    w->nodes[h->node].held_tokens -= h->tokens;
    unlink_hold(w, hold);
    h->older = w->free_hold;
    w->free_hold = hold;
}

uint32_t sim_hold_tokens(const struct sim_world *w, uint32_t conv, uint32_t node)
{
    uint32_t hold = find(w, conv, node);
    return hold != SIM_NONE ? w->holds[hold].tokens : 0;
}

uint32_t sim_hold_take(struct sim_world *w, uint32_t conv, uint32_t node)
{
    uint32_t hold = find(w, conv, node);
    if (hold == SIM_NONE)
        return 0;
    uint32_t tokens = w->holds[hold].tokens;
    forget(w, hold);
    return tokens;
}

bool sim_room_make(struct sim_world *w, uint32_t node, double tokens)
{
    struct sim_node *n = &w->nodes[node];
    if (n->used_tokens + tokens > n->kind->cells)
        return false;
    while (n->used_tokens + n->held_tokens + tokens > n->kind->cells && n->oldest != SIM_NONE) {
        uint32_t conv = w->holds[n->oldest].conv;
        forget(w, n->oldest);
        sim_conv_rest(w, conv);
    }
    return true;
}

static uint32_t hold_new(struct sim_world *w)
{
    if (w->free_hold == SIM_NONE) {
        if (w->n_holds == w->cap_holds) {
            w->cap_holds = w->cap_holds == 0 ? 1024 : 2 * w->cap_holds;
            w->holds = mem_resize(w->holds, w->cap_holds * sizeof *w->holds);
        }
        return w->n_holds++;
    }
    uint32_t hold = w->free_hold;
    w->free_hold = w->holds[hold].older;
    return hold;
}

void sim_hold_put(struct sim_world *w, uint32_t conv, uint32_t node, uint32_t tokens)
{
    struct sim_node *n = &w->nodes[node];
    sim_hold_take(w, conv, node);
    if (!n->up || !sim_room_make(w, node, tokens))
        return;
    if (w->convs[conv].holds[SIM_HOLDS - 1] != SIM_NONE)
        forget(w, w->convs[conv].holds[0]);
    uint32_t hold = hold_new(w);
    w->holds[hold] = (struct sim_hold){conv, node, tokens, SIM_NONE, n->newest};
    if (n->newest != SIM_NONE)
        w->holds[n->newest].newer = hold;
    else
        n->oldest = hold;
    n->newest = hold;
    n->held_tokens += tokens;
    size_t i = 0;
    while (w->convs[conv].holds[i] != SIM_NONE)
        i++;
    w->convs[conv].holds[i] = hold;
}

void sim_holds_drop(struct sim_world *w, uint32_t node)
{
    while (w->nodes[node].oldest != SIM_NONE) {
        uint32_t hold = w->nodes[node].oldest, conv = w->holds[hold].conv;
        forget(w, hold);
        sim_conv_rest(w, conv);
    }
    w->nodes[node].held_tokens = 0;
}
