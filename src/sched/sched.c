#include "sched/sched.h"

#include <stdio.h>
#include <string.h>

static const char *const names[] = {
    [SCHED_AUTO] = "auto",     [SCHED_LOCAL] = "local",   [SCHED_REMOTE] = "remote",
    [SCHED_SERIAL] = "serial", [SCHED_HYBRID] = "hybrid",
};

const char *sched_plan_name(enum sched_plan p)
{
    return (size_t)p < sizeof(names) / sizeof(names[0]) ? names[p] : "?";
}

bool sched_plan_parse(const char *name, enum sched_plan *p)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *p = (enum sched_plan)i;
            return true;
        }
    }
    return false;
}

// A node that writes the whole answer needs one cell more than the prompt; one that only reads it
// stops before the last token.
static bool node_fits(const struct sched_facts *f, const struct sched_node *n, bool hand_off)
{
    if (!n->up)
        return false;
    if (!hand_off)
        return n->n_ctx > f->prompt_tokens;
    return n->hands_off && n->n_ctx + 1 >= f->prompt_tokens;
}

// The idler one; of two as busy the one that has less to read, then the faster one.
static bool node_better(const struct sched_node *a, const struct sched_node *b)
{
    if (a->requests != b->requests)
        return a->requests < b->requests;
    if (a->cached_tokens != b->cached_tokens)
        return a->cached_tokens > b->cached_tokens;
    return a->prefill_tokens_per_s > b->prefill_tokens_per_s;
}

static size_t node_pick(const struct sched_facts *f, bool hand_off)
{
    size_t best = SCHED_NO_NODE;

    for (size_t i = 0; i < f->n_nodes; i++) {
        if (!node_fits(f, &f->nodes[i], hand_off))
            continue;
        if (best == SCHED_NO_NODE || node_better(&f->nodes[i], &f->nodes[best]))
            best = i;
    }
    return best;
}

// Why none of the nodes will do, in the words of the first one that is closest to being usable.
static void nodes_lament(const struct sched_facts *f, bool hand_off, char *out, size_t out_bytes)
{
    const struct sched_node *n = f->nodes;

    if (f->n_nodes == 0) {
        snprintf(out, out_bytes, "no prefill node is configured");
        return;
    }
    for (size_t i = 0; i < f->n_nodes; i++)
        if (f->nodes[i].up)
            n = &f->nodes[i];
    if (!n->up)
        snprintf(out, out_bytes, "prefill node %s is not up: %s", n->name,
                 n->why && n->why[0] ? n->why : "no connection yet");
    else if (hand_off && !n->hands_off)
        snprintf(out, out_bytes,
                 "prefill node %s cannot hand this model's KV cache over in the mode used here",
                 n->name);
    else
        snprintf(out, out_bytes, "prefill node %s holds %u tokens, the prompt has %u", n->name,
                 n->n_ctx, f->prompt_tokens);
}

static bool choose(struct sched_choice *out, enum sched_plan plan, size_t node)
{
    out->plan = plan;
    out->node = node;
    return true;
}

static bool choose_remote(const struct sched_facts *f, struct sched_choice *out)
{
    size_t node = node_pick(f, false);

    if (node == SCHED_NO_NODE) {
        nodes_lament(f, false, out->reason, sizeof(out->reason));
        return false;
    }
    snprintf(out->reason, sizeof(out->reason), "the request asked for remote");
    return choose(out, SCHED_REMOTE, node);
}

static bool choose_handoff_wish(const struct sched_facts *f, uint32_t to_read,
                                struct sched_choice *out)
{
    size_t node = node_pick(f, true);
    const char *plan = sched_plan_name(f->wish);

    snprintf(out->reason, sizeof(out->reason), "the request asked for %s", plan);
    if (!f->local_hands_off)
        snprintf(out->fallback, sizeof(out->fallback),
                 "%s was asked for: the decode node cannot take this model's KV cache over", plan);
    else if (to_read == 0)
        snprintf(out->fallback, sizeof(out->fallback),
                 "%s was asked for: there is nothing to read but the last token", plan);
    else if (node == SCHED_NO_NODE)
        nodes_lament(f, true, out->fallback, sizeof(out->fallback));
    else
        return choose(out, f->wish, node);
    return choose(out, SCHED_LOCAL, SCHED_NO_NODE);
}

// "384 of 400 probably cached" between the two, where something is.
static void cached_tell(const struct sched_facts *f, const char *before, const char *after,
                        char out[SCHED_TEXT_BYTES])
{
    out[0] = '\0';
    if (f->cached_tokens > 0)
        snprintf(out, SCHED_TEXT_BYTES, "%s%u of %u probably cached%s", before, f->cached_tokens,
                 f->prompt_tokens, after);
}

static bool choose_auto(const struct sched_facts *f, uint32_t to_read, struct sched_choice *out)
{
    size_t node = node_pick(f, true);
    char cached[SCHED_TEXT_BYTES];

    cached_tell(f, " (", ")", cached);
    if (to_read <= f->threshold_tokens) {
        snprintf(out->reason, sizeof(out->reason),
                 "%u uncached tokens to read%s, hybrid needs more than %u", to_read, cached,
                 f->threshold_tokens);
        return choose(out, SCHED_LOCAL, SCHED_NO_NODE);
    }
    if (!f->local_hands_off) {
        snprintf(out->reason, sizeof(out->reason), "this model's KV cache cannot be handed over");
        return choose(out, SCHED_LOCAL, SCHED_NO_NODE);
    }
    if (node == SCHED_NO_NODE) {
        nodes_lament(f, true, out->reason, sizeof(out->reason));
        return choose(out, SCHED_LOCAL, SCHED_NO_NODE);
    }
    cached_tell(f, "; ", "", cached);
    snprintf(out->reason, sizeof(out->reason),
             "%u uncached tokens to read (more than %u%s) and prefill node %s is up", to_read,
             f->threshold_tokens, cached, f->nodes[node].name);
    return choose(out, SCHED_HYBRID, node);
}

bool sched_choose(const struct sched_facts *f, struct sched_choice *out)
{
    // The last prompt token is always the decode node's, so one less than the prompt can be read elsewhere.
    uint32_t last = f->prompt_tokens > 0 ? f->prompt_tokens - 1 : 0;
    uint32_t to_read = last > f->cached_tokens ? last - f->cached_tokens : 0;

    memset(out, 0, sizeof(*out));
    switch (f->wish) {
    case SCHED_LOCAL:
        snprintf(out->reason, sizeof(out->reason), "the request asked for local");
        return choose(out, SCHED_LOCAL, SCHED_NO_NODE);
    case SCHED_REMOTE:
        return choose_remote(f, out);
    case SCHED_SERIAL:
    case SCHED_HYBRID:
        return choose_handoff_wish(f, to_read, out);
    case SCHED_AUTO:
        break;
    }
    return choose_auto(f, to_read, out);
}
