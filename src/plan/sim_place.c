// Asks the server's placement where a request goes. In a fleet of thousands it is shown those nodes that can
// matter: of each kind the one that would begin to read first and the one with the fewest answers, and those that
// remember the conversation; only the latter two may write. Nodes of one kind differ in nothing else. Small
// fleets are shown whole.
#include "plan/sim_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define AMONG_MAX (2 * SIM_KINDS_MAX + SIM_HOLDS)
#define PRIOR_ANSWERS 8.0 // that the first guess counts for

static struct place_link link_between(void *ctx, size_t from, size_t to)
{
    const struct sim_world *w = ctx;
    const struct cost_link *a = &w->nodes[from].kind->link, *b = &w->nodes[to].kind->link;
    return (struct place_link){.rtt_s = 2 * fmax(a->latency_s, b->latency_s),
                               .bytes_per_s = fmin(a->bytes_per_s, b->bytes_per_s)};
}

// What the gateway would know; answers' true lengths are not among it.
static void view_fill(struct sim_world *w, uint32_t node, double expected)
{
    struct sim_node *n = &w->nodes[node];
    struct place_node *v = &w->views[node];
    sim_node_advance(w, node);
    double slots = n->kind->slots, running = n->batch.n, placed = running + n->coming;
    double begun = running > 0 ? n->steps - n->joined_steps / running : 0;
    v->up = n->takes;
    v->read_wait_s = sim_node_read_left(n);
    v->answers = fmin(placed, slots);
    v->depth_sum =
        fmax(n->depth_tokens, 0) + n->coming_tokens * (v->answers - running) / fmax(n->coming, 1);
    v->rest_tokens = fmax(expected - begun, expected / 4);
    // Those that are ahead of it and find no room end one after the other; a step takes longer while prompts
    // are read.
    v->next_tokens = (v->rest_tokens + fmax(placed - slots, 0) * expected) / slots;
    if (v->read_wait_s > 0)
        v->next_tokens *= PLACE_PACE;
    v->free_seqs = slots - v->answers;
    v->free_cells = fmax(n->kind->cells - n->used_tokens - n->coming_tokens, 0);
    v->sending = n->sends;
    v->receiving = n->link.senders;
}

struct among {
    uint32_t nodes[AMONG_MAX];
    bool reads_only[AMONG_MAX]; // it is there to read, another one of its kind has fewer answers
    size_t n;
};

static void among_add(struct among *a, uint32_t node, bool reads_only)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->nodes[i] == node) {
            a->reads_only[i] = a->reads_only[i] && reads_only;
            return;
        }
    a->nodes[a->n] = node;
    a->reads_only[a->n++] = reads_only;
}

static void kind_add(const struct sim_world *w, size_t kind, struct among *a)
{
    const struct sim_index *readers = &w->readers[kind], *writers = &w->writers[kind];
    const uint32_t *nodes = w->by_kind + w->kind_first[kind];
    if (w->kind_n[kind] == 0)
        return;
    uint32_t reader = sim_index_first(readers), writer = sim_index_first(writers);
    bool reads = readers->keys[reader] < INFINITY, writes = writers->keys[writer] < INFINITY;
    // One may be as good as the other at both: who would read first has no more answers either, or who has
    // the fewest answers reads nothing just now.
    if (reads && writes && writers->keys[reader] <= writers->keys[writer])
        writer = reader;
    else if (reads && writes && readers->keys[writer] <= w->now)
        reader = writer;
    if (reads)
        among_add(a, nodes[reader], true);
    if (writes)
        among_add(a, nodes[writer], false);
}

static void among_find(struct sim_world *w, const struct sim_conv *c, struct among *a)
{
    a->n = 0;
    if (w->fleet->n <= PLACE_NODES) {
        for (uint32_t i = 0; i < w->fleet->n; i++)
            among_add(a, i, false);
        return;
    }
    for (size_t k = 0; k < w->fleet->n_kinds; k++)
        kind_add(w, k, a);
    // One kind alone is few enough to look at it from all sides.
    for (size_t i = 0; w->fleet->n_kinds == 1 && i < a->n; i++)
        a->reads_only[i] = false;
    for (size_t i = 0; i < SIM_HOLDS && c->holds[i] != SIM_NONE; i++)
        if (w->nodes[w->holds[c->holds[i]].node].takes)
            among_add(a, w->holds[c->holds[i]].node, false);
}

static size_t held_fill(const struct sim_world *w, const struct sim_request *r,
                        struct place_held held[SIM_HOLDS])
{
    const struct sim_conv *c = &w->convs[r->conv];
    size_t n = 0;
    for (; n < SIM_HOLDS && c->holds[n] != SIM_NONE; n++) {
        const struct sim_hold *h = &w->holds[c->holds[n]];
        held[n] = (struct place_held){h->node, h->tokens < r->shared ? h->tokens : r->shared};
    }
    return n;
}

static void plan_take(struct sim_world *w, uint32_t request, const struct place_plan *p)
{
    struct sim_request *r = &w->requests[request];
    struct sim_node *writer = &w->nodes[p->decode];
    uint32_t all = r->prompt + r->done;
    bool two = p->prefill != PLACE_NO_NODE && p->prefill != p->decode;
    r->writer = (uint32_t)p->decode;
    r->reader = two ? (uint32_t)p->prefill : r->writer;
    r->plan = (uint8_t)p->kind;
    r->from = 0;
    r->split = two && p->upto > 0 && p->upto + 1 < all;
    r->upto = !two ? all : r->split ? p->upto : all > 1 ? all - 1 : 1;
    writer->coming++;
    writer->coming_tokens += all;
    sim_node_weigh(w, r->writer);
}

bool sim_place(struct sim_world *w, uint32_t request)
{
    struct sim_request *r = &w->requests[request];
    struct among among;
    struct place_held held[SIM_HOLDS];
    struct place_plan plan;
    struct place_table table = {.plans = &plan, .max = 1};
    struct place_request ask;
    double expected = (w->load->answer.median * PRIOR_ANSWERS + w->expected_sum) /
                      (PRIOR_ANSWERS + w->expected_n);
    place_request_defaults(&ask);
    ask.prompt_tokens = r->prompt + r->done;
    ask.answer_tokens = fmax(expected - r->done, 1);
    ask.conversation = r->conv;
    ask.policy = w->options->policy;
    ask.wish = w->options->wish;
    ask.ttft_s = w->options->ttft_s;
    ask.token_s = w->options->tpot_s;
    ask.held = held;
    ask.n_held = held_fill(w, r, held);
    among_find(w, &w->convs[r->conv], &among);
    struct place_nodes nodes = {.nodes = w->views,
                                .n = w->fleet->n,
                                .among = among.nodes,
                                .n_among = among.n,
                                .link = link_between,
                                .link_ctx = w,
                                .home = PLACE_NO_NODE};
    for (size_t i = 0; i < among.n; i++) {
        view_fill(w, among.nodes[i], expected);
        uint32_t roles = w->nodes[among.nodes[i]].kind->roles;
        w->views[among.nodes[i]].roles = among.reads_only[i] ? roles & PLACE_READS : roles;
    }
    int rc = among.n == 0 ? ERR_NOT_FOUND : place_choose(&nodes, &ask, w->scratch, &table);
    if (rc != 0 || table.n == 0) {
        if (w->out->refusal[0] == '\0')
            snprintf(w->out->refusal, sizeof w->out->refusal, "%s",
                     table.refusal[0] != '\0' ? table.refusal : "no node is up");
        return false;
    }
    plan_take(w, request, &plan);
    return true;
}
