// The choice: what was wished for, else what is best, else what it was last time.
#include "base/err.h"
#include "sched/place_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define ANSWER_MOST 1e7

// ---- wishes ----------------------------------------------------------------------------------------------

static unsigned kinds_of(enum place_kind wish)
{
    return wish == PLACE_AUTO ? PLACE_SOLO | PLACE_HANDOFF : 1u << wish;
}

// What keeps it from it is what it is there for.
static bool role_unfit(const struct place_search *s, const struct place_node *n, bool writes,
                       char out[PLACE_TEXT_BYTES])
{
    if (s->rule == PLACE_ANY || !(n->roles & (writes ? PLACE_READER : PLACE_WRITER)))
        return false;
    snprintf(out, PLACE_TEXT_BYTES, "node %.100s is there to %s (its role)", n->name ? n->name : "",
             place_role_name(n->roles));
    return true;
}

// The first candidate that could be meant, one that is up rather than one that is not, and what keeps it
// from it. False: nothing keeps any.
static bool lament_of(const struct place_search *s, bool writes, bool home,
                      char out[PLACE_TEXT_BYTES])
{
    bool found = false;

    for (size_t i = 0; i < s->n; i++) {
        const struct place_node *n = &s->nodes->nodes[place_node_at(s, i)];
        if ((place_node_at(s, i) == s->nodes->home) != home || (found && !n->up))
            continue;
        if (place_unfit(n, s->r->prompt_tokens, writes, out) && n->up)
            return true;
        if (n->up && role_unfit(s, n, writes, out))
            return true;
        found = found || !n->up;
    }
    return found;
}

// Whether somebody holds all but the last token already.
static bool all_held(const struct place_search *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->scratch[i].held >= s->last)
            return true;
    return false;
}

static void lament(const struct place_search *s, char out[PLACE_TEXT_BYTES])
{
    enum place_kind wish = s->r->wish;
    bool handoff = wish == PLACE_HYBRID || wish == PLACE_SERIAL;
    bool home = wish == PLACE_LOCAL, others = s->n > (s->nodes->home != PLACE_NO_NODE);
    const char *text = handoff ? "no two nodes can hand this model's KV cache over in that way"
                               : "no node may both read and write";

    if (home && s->nodes->home == PLACE_NO_NODE)
        text = "this server has no model of its own";
    else if (!home && !others && (wish != PLACE_AUTO || s->n == 0))
        text = s->n > 0 ? "no other node is configured" : "no node is configured";
    else if (handoff && all_held(s))
        text = "there is nothing to read but the last token";
    else if (lament_of(s, !handoff, home, out) || (!home && lament_of(s, true, true, out)))
        return;
    snprintf(out, PLACE_TEXT_BYTES, "%s", text);
}

static void fallback_say(const struct place_search *s, struct place_table *out, const char *what)
{
    char why[PLACE_TEXT_BYTES];

    lament(s, why);
    snprintf(out->fallback, sizeof(out->fallback), "%s was asked for: %.200s", what, why);
}

// The wish and the pins, then what comes nearest.
static void wishes_try(struct place_search *s, struct place_table *out)
{
    enum place_kind wish = s->r->wish;
    bool pins = s->pin_decode != PLACE_NO_NODE || s->pin_prefill != PLACE_NO_NODE;

    place_search_run(s, kinds_of(wish));
    if (s->n_top == 0 && pins) {
        s->pin_decode = s->pin_prefill = PLACE_NO_NODE;
        place_search_run(s, kinds_of(wish));
        if (s->n_top > 0)
            snprintf(out->fallback, sizeof(out->fallback),
                     "the nodes asked for cannot serve this request");
    }
    if (s->n_top > 0 || wish == PLACE_LOCAL || wish == PLACE_REMOTE || wish == PLACE_AUTO)
        return;
    if (wish == PLACE_HYBRID)
        place_search_run(s, 1u << PLACE_SERIAL);
    if (s->n_top > 0) {
        snprintf(out->fallback, sizeof(out->fallback),
                 "hybrid was asked for: this model's KV cache passes only as a whole");
        return;
    }
    place_search_run(s, PLACE_SOLO);
    fallback_say(s, out, place_kind_name(wish));
}

static bool any_role(const struct place_search *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->nodes->nodes[place_node_at(s, i)].roles & (PLACE_READER | PLACE_WRITER))
            return true;
    return false;
}

// Roles hold as long as they leave a plan.
static void rules_try(struct place_search *s, struct place_table *out)
{
    static const char *const words[] = {
        [PLACE_OWN] = "no node that is there to read can take this prompt: who writes reads it",
        [PLACE_ANY] = "no node can take this request in its role: roles are passed over",
    };

    for (int rule = PLACE_ROLES; rule <= PLACE_ANY && s->n_top == 0; rule++) {
        if (rule > PLACE_ROLES && !any_role(s))
            return;
        out->fallback[0] = '\0';
        s->rule = (enum place_rule)rule;
        s->pin_decode = s->r->pin_decode;
        s->pin_prefill = s->r->pin_prefill;
        place_search_begin(s);
        wishes_try(s, out);
        if (s->n_top > 0 && rule > PLACE_ROLES && !out->fallback[0])
            snprintf(out->fallback, sizeof(out->fallback), "%s", words[rule]);
    }
}

// ---- the choice ------------------------------------------------------------------------------------------

// Within PLACE_NEAR of the best, each by what it is ranked by.
static bool plan_near(const struct place_plan *p, const struct place_plan *best)
{
    if (best->score >= PLACE_UNKNOWN_SCORE)
        return p->total_s <= best->total_s * (1 + PLACE_NEAR);
    return p->score <= best->score * (1 + PLACE_NEAR);
}

// Of plans that are near each other: the one that is soonest done for all, those whom it disturbs included.
static bool plan_lighter(const struct place_plan *a, const struct place_plan *b)
{
    return a->total_s + a->slowdown_s < (b->total_s + b->slowdown_s) * (1 - 1e-9);
}

// Puts the plan at i first; the others keep their order.
static void table_lift(struct place_search *s, size_t i)
{
    struct place_plan plan = s->top[i];

    memmove(&s->top[1], &s->top[0], i * sizeof(plan));
    s->top[0] = plan;
}

// The earlier choice as it looks now, wherever it stands in the table. False: it is none any more.
static bool last_predict(struct place_search *s, struct place_plan *out)
{
    const struct place_last *last = &s->r->last;
    size_t d = last->decode == PLACE_NO_NODE ? PLACE_NO_NODE : place_position(s, last->decode);
    size_t p = last->prefill == PLACE_NO_NODE ? PLACE_NO_NODE : place_position(s, last->prefill);
    bool pair = last->kind == PLACE_HYBRID || last->kind == PLACE_SERIAL;

    if (d == PLACE_NO_NODE || (pair && p == PLACE_NO_NODE))
        return false;
    return place_search_predict(s, d, pair ? p : PLACE_NO_NODE, out);
}

static enum place_because stay(struct place_search *s, const struct place_plan *last)
{
    size_t i;

    for (i = 0; i < s->n_top && !place_plan_same(&s->top[i], last); i++)
        ;
    if (i == s->n_top && s->n_top < s->max)
        s->n_top++;
    i = i < s->n_top ? i : s->n_top - 1;
    s->top[i] = *last;
    table_lift(s, i);
    return i > 0 ? PLACE_STAYED : PLACE_BEST;
}

static enum place_because choose(struct place_search *s)
{
    struct place_plan last;
    size_t least = 0;

    if (last_predict(s, &last) && plan_near(&last, &s->top[0]))
        return stay(s, &last);
    for (size_t i = 1; i < s->n_top && plan_near(&s->top[i], &s->top[0]); i++)
        if (plan_lighter(&s->top[i], &s->top[least]))
            least = i;
    table_lift(s, least);
    return least > 0 ? PLACE_SPREAD : PLACE_BEST;
}

// What the policy looks for is not known of any plan.
static bool is_blind(const struct place_search *s)
{
    enum place_policy p = s->r->policy;

    return (p == PLACE_ENERGY || p == PLACE_COST) && s->top[0].score >= PLACE_UNKNOWN_SCORE;
}

static void blind_say(const struct place_search *s, struct place_table *out)
{
    if (!is_blind(s) || s->n_top < 2 || out->fallback[0])
        return;
    snprintf(out->fallback, sizeof(out->fallback),
             "the policy %s was asked for: no %s, soonest done instead",
             place_policy_name(s->r->policy),
             s->r->policy == PLACE_COST
                 ? "price is known (--price, --energy-price; price-in, price-out of an upstream)"
                 : "machine's power is known");
}

static enum place_because because_of(const struct place_search *s, const struct place_table *out,
                                     enum place_because chosen)
{
    bool asked = s->r->wish != PLACE_AUTO || s->pin_decode != PLACE_NO_NODE ||
                 s->pin_prefill != PLACE_NO_NODE;

    if (asked && !out->fallback[0])
        return PLACE_ASKED;
    if (s->n_top == 1)
        return PLACE_ONLY;
    return is_blind(s) ? PLACE_UNKNOWN : chosen;
}

void place_request_defaults(struct place_request *r)
{
    *r = (struct place_request){
        .answer_tokens = 1,
        .pin_decode = PLACE_NO_NODE,
        .pin_prefill = PLACE_NO_NODE,
        .last = {PLACE_AUTO, PLACE_NO_NODE, PLACE_NO_NODE},
    };
}

static double tokens_sane(double tokens)
{
    return tokens >= 1 ? fmin(tokens, ANSWER_MOST) : 1;
}

int place_choose(const struct place_nodes *nodes, const struct place_request *r,
                 struct place_scratch *scratch, struct place_table *out)
{
    struct place_plan own[PLACE_ROWS];
    enum place_because because;
    struct place_search s = {
        .nodes = nodes,
        .r = r,
        .scratch = scratch,
        .top = out->max >= PLACE_ROWS ? out->plans : own,
        .max = out->max >= PLACE_ROWS ? out->max : PLACE_ROWS,
        .n = nodes->among ? nodes->n_among : nodes->n,
        .last = r->prompt_tokens > 0 ? r->prompt_tokens - 1.0 : 0,
        .answer = tokens_sane(r->answer_tokens),
        .rows = tokens_sane(r->answers),
    };

    s.room = r->answer_room > 0 ? tokens_sane(r->answer_room) : s.answer;
    out->fallback[0] = out->refusal[0] = '\0';
    rules_try(&s, out);
    out->considered = s.considered;
    out->n = s.n_top < out->max ? s.n_top : out->max;
    if (s.n_top == 0) {
        out->fallback[0] = '\0';
        lament(&s, out->refusal);
        return ERR_NOT_FOUND;
    }
    because = choose(&s);
    out->because = because_of(&s, out, because);
    blind_say(&s, out);
    out->n = s.n_top < out->max ? s.n_top : out->max;
    if (s.top == own)
        memcpy(out->plans, own, out->n * sizeof(own[0]));
    return 0;
}
