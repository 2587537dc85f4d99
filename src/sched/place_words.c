// Names, and what is told to people.
#include "sched/place_impl.h"

#include <stdio.h>
#include <string.h>

static const char *const kinds[] = {
    [PLACE_AUTO] = "auto",     [PLACE_LOCAL] = "local",   [PLACE_REMOTE] = "remote",
    [PLACE_SERIAL] = "serial", [PLACE_HYBRID] = "hybrid",
};
static const char *const policies[] = {
    [PLACE_LATENCY] = "latency", [PLACE_THROUGHPUT] = "throughput",
    [PLACE_ENERGY] = "energy",   [PLACE_COST] = "cost",
    [PLACE_SLO] = "slo",
};
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static bool name_find(const char *const *names, size_t n, const char *name, size_t *at)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0) {
            *at = i;
            return true;
        }
    return false;
}

const char *place_kind_name(enum place_kind k)
{
    return (size_t)k < COUNT(kinds) ? kinds[k] : "?";
}

bool place_kind_parse(const char *name, enum place_kind *k)
{
    size_t at;

    if (!name_find(kinds, COUNT(kinds), name, &at))
        return false;
    *k = (enum place_kind)at;
    return true;
}

const char *place_policy_name(enum place_policy p)
{
    return (size_t)p < COUNT(policies) ? policies[p] : "?";
}

bool place_policy_parse(const char *name, enum place_policy *p)
{
    size_t at;

    if (!name_find(policies, COUNT(policies), name, &at))
        return false;
    *p = (enum place_policy)at;
    return true;
}

const char *place_role_name(uint32_t roles)
{
    return roles & PLACE_READER ? "read" : roles & PLACE_WRITER ? "write" : "both";
}

bool place_role_parse(const char *name, uint32_t *role)
{
    static const uint32_t all[] = {0, PLACE_READER, PLACE_WRITER};

    for (size_t i = 0; i < COUNT(all); i++)
        if (strcmp(place_role_name(all[i]), name) == 0) {
            *role = all[i];
            return true;
        }
    return false;
}

// ---- why not ---------------------------------------------------------------------------------------------

static const char *name_of(const struct place_node *n)
{
    return n->name && n->name[0] ? n->name : "without a name";
}

// What keeps it from any part of it.
static const char *hindrance(const struct place_node *n)
{
    if (!n->profile)
        return "has no profile of this model yet";
    return profile_sane(n->profile) ? NULL : "has a profile of this model that cannot be";
}

// A writer holds one token more than the prompt, a reader stops before the last one.
static bool small(const struct place_node *n, uint32_t prompt_tokens, bool writes)
{
    double n_ctx = n->profile->n_ctx;

    return n_ctx > 0 && n_ctx < (writes ? prompt_tokens + 1.0 : prompt_tokens - 1.0);
}

unsigned place_abilities(const struct place_node *n, uint32_t prompt_tokens)
{
    if (!n->up || hindrance(n))
        return 0;
    return (n->roles & PLACE_READS ? PLACE_CAN_READ : 0u) |
           (n->roles & PLACE_WRITES && !small(n, prompt_tokens, true) ? PLACE_CAN_WRITE : 0u);
}

bool place_unfit(const struct place_node *n, uint32_t prompt_tokens, bool writes,
                 char out[PLACE_TEXT_BYTES])
{
    const char *why = n->up ? hindrance(n) : NULL;

    if (n->up && !why && !(n->roles & PLACE_READS))
        why = "is not to read prompts";
    if (n->up && !why && writes && !(n->roles & PLACE_WRITES))
        why = "is not to write answers";
    if (!n->up)
        snprintf(out, PLACE_TEXT_BYTES, "node %s is not up: %s", name_of(n),
                 n->why && n->why[0] ? n->why : "no connection yet");
    else if (why)
        snprintf(out, PLACE_TEXT_BYTES, "node %s %s", name_of(n), why);
    else if (small(n, prompt_tokens, writes))
        snprintf(out, PLACE_TEXT_BYTES, "node %s holds %.0f tokens, the prompt has %u", name_of(n),
                 n->profile->n_ctx, prompt_tokens);
    else
        return false;
    return true;
}

// ---- why -------------------------------------------------------------------------------------------------

#define PLAN_BYTES 256
#define FIGURE_BYTES 64

static void seconds_put(double s, char out[24])
{
    if (s < 0.9995)
        snprintf(out, 24, "%.3g ms", s * 1e3);
    else
        snprintf(out, 24, "%.3g s", s);
}

// "hybrid spark > mac", with the split and what is held.
static void plan_name(const struct place_nodes *nodes, const struct place_request *r,
                      const struct place_plan *p, char out[PLAN_BYTES])
{
    uint32_t held = p->held_decode > p->held_prefill ? p->held_decode : p->held_prefill;
    char reads[64] = "", split[40] = "", cached[48] = "";

    if (p->prefill != PLACE_NO_NODE)
        snprintf(reads, sizeof(reads), "%.50s > ", name_of(&nodes->nodes[p->prefill]));
    if (p->prefill != PLACE_NO_NODE && p->upto + 1 < r->prompt_tokens)
        snprintf(split, sizeof(split), " split at %u", p->upto);
    if (held > 0)
        snprintf(cached, sizeof(cached), " (%u of %u probably cached)", held, r->prompt_tokens);
    snprintf(out, PLAN_BYTES, "%s %s%.50s%s%s", place_kind_name(p->kind), reads,
             name_of(&nodes->nodes[p->decode]), split, cached);
}

// What the policy looks at.
static void figure_put(enum place_policy policy, const struct place_plan *p, char out[FIGURE_BYTES])
{
    char first[24], token[24];

    seconds_put(p->total_s, first);
    if (policy == PLACE_ENERGY && p->joules >= 0)
        snprintf(out, FIGURE_BYTES, "%.3g J", p->joules);
    else if (policy == PLACE_COST && p->dollars >= 0)
        snprintf(out, FIGURE_BYTES, "%.3g millionths of a dollar", p->dollars * 1e6);
    else if (policy == PLACE_THROUGHPUT)
        snprintf(out, FIGURE_BYTES, "%.3g s of work", p->busy_s + p->slowdown_s);
    else if (policy == PLACE_SLO) {
        seconds_put(p->ttft_s, first);
        seconds_put(p->token_s, token);
        snprintf(out, FIGURE_BYTES, "%s, then %s a token", first, token);
    } else
        snprintf(out, FIGURE_BYTES, "%s", first);
}

static const char *chosen_words(const struct place_request *r, const struct place_table *t)
{
    static const char *const least[] = {
        [PLACE_LATENCY] = "soonest done",
        [PLACE_THROUGHPUT] = "least work",
        [PLACE_ENERGY] = "least energy",
        [PLACE_COST] = "cheapest",
        [PLACE_SLO] = "least work within the limits",
    };

    switch (t->because) {
    case PLACE_BEST:
        break;
    case PLACE_STAYED:
        return "stays where it was, nearly the best";
    case PLACE_SPREAD:
        return "nearly the best, and less busy";
    case PLACE_ONLY:
        return "the only plan";
    case PLACE_ASKED:
        return "asked for";
    case PLACE_UNKNOWN:
        return r->policy == PLACE_ENERGY ? "power is not known, soonest done"
                                         : "prices are not known, soonest done";
    }
    if (r->policy == PLACE_SLO && !t->plans[0].meets)
        return "no plan is within the limits, nearest to them";
    return (size_t)r->policy < COUNT(least) ? least[r->policy] : "best";
}

void place_tell(const struct place_nodes *nodes, const struct place_request *r,
                const struct place_table *t, size_t i, char out[PLACE_TEXT_BYTES])
{
    char name[PLAN_BYTES], next[PLAN_BYTES], figure[FIGURE_BYTES], other[FIGURE_BYTES];

    if (i >= t->n) {
        out[0] = '\0';
        return;
    }
    plan_name(nodes, r, &t->plans[i], name);
    figure_put(r->policy, &t->plans[i], figure);
    if (i > 0) {
        figure_put(r->policy, &t->plans[0], other);
        snprintf(out, PLACE_TEXT_BYTES, "%.100s: %s, the chosen one %s", name, figure, other);
        return;
    }
    if (t->n == 1) {
        snprintf(out, PLACE_TEXT_BYTES, "%s: %.120s, %s", chosen_words(r, t), name, figure);
        return;
    }
    plan_name(nodes, r, &t->plans[1], next);
    figure_put(r->policy, &t->plans[1], other);
    snprintf(out, PLACE_TEXT_BYTES, "%.40s: %.70s, %.40s; next %.50s, %.40s", chosen_words(r, t),
             name, figure, next, other);
}
