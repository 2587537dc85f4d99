// What a node costs, and the choice.
#include "gateway/placing_impl.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/core.h"
#include "sched/profile_json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define CONVERSATION_TOKENS 64 // that tell some conversations from others
#define TURN_TOKENS 8 // at a prompt's end, that its conversation's next turn may have otherwise
#define EXPLAIN_ROWS 24
#define CHUNK_LEAST 64u // tokens (node/options.c: --min-chunk)

struct placing *placing_new(struct core *c, const char *path)
{
    struct placing *p = mem_alloc(sizeof(*p));

    p->core = c;
    p->profiles = profiles_open(path);
    p->expect = expect_new(EXPECT_KEYS);
    return p;
}

struct profiles *placing_profiles(struct placing *p)
{
    return p->profiles;
}

void placing_free(struct placing *p)
{
    if (!p)
        return;
    profiles_close(p->profiles);
    expect_free(p->expect);
    free(p->readings);
    free(p);
}

// ---- the fleet as one request sees it ----------------------------------------------------------------------

// KV passes between nodes that found the same way for it (two probes, say on two backends, may differ).
static uint32_t group_of(const struct peer *p)
{
    enum engine_handoff h = p->welcome.limits.handoff;

    return h == ENGINE_HANDOFF_NONE ? 0 : 1 + (uint32_t)h;
}

static const char *why_not(const struct peer *p, const struct model *m,
                           const struct message_adapter *a)
{
    if (p->state != PEER_UP)
        return p->why;
    if (p->model != m)
        return "it holds another model";
    return a && !ship_ready(p, a) ? "it does not have the adapter yet" : NULL;
}

// How far its answers' steps may stretch while it reads (place.h): a bound in seconds is so many of its steps.
static double pace_of(const struct peer *p)
{
    double most_s = p->welcome.max_stall_s;

    if (most_s == 0)
        return INFINITY;
    return most_s > 0 && p->book ? most_s / profile_step_s(&p->book->p, 1, 0) : 0;
}

static void node_fill(struct placing *pl, struct peer *p, const char *why)
{
    size_t at = pl->n++;

    pl->peers[at] = p;
    pl->nodes[at] = (struct place_node){
        .name = p->local ? "local" : peer_name(p),
        .id = p->id,
        .profile = p->book ? &p->book->p : NULL,
        .up = !why,
        .why = why,
        .roles = PLACE_READS | PLACE_WRITES | peer_role(p),
        .priced = p->welcome.priced,
        .group = group_of(p),
        .streams = p->welcome.limits.handoff != ENGINE_HANDOFF_WHOLE,
        .pace = pace_of(p),
    };
}

static void fleet_fill(struct placing *pl, const struct peer *home, const struct request *r,
                       double expected)
{
    struct core *c = pl->core;
    const struct message_adapter *a = r ? &r->in.generate.adapter : NULL;

    pl->n = 0;
    node_fill(pl, c->peers + home->index, home->state == PEER_UP ? NULL : home->why);
    for (size_t i = c->n_models; i < c->n_peers; i++)
        if (c->peers[i].state != PEER_FREE && !c->peers[i].welcome.draws)
            node_fill(pl, &c->peers[i], why_not(&c->peers[i], home->model, a));
    placing_loads_fill(pl, r);
    for (size_t i = 0; i < pl->n; i++)
        if (pl->nodes[i].profile)
            placing_load_put(&pl->loads[pl->peers[i]->index], expected, &pl->nodes[i]);
    // Their loads are known to themselves alone.
    pl->n += upstream_place(c, home->model, r, &pl->peers[pl->n], &pl->nodes[pl->n]);
}

static size_t slot_of(const struct placing *pl, size_t position)
{
    const struct peer *p = pl->peers[position];

    return p->local ? 0 : 1 + p->index - pl->core->n_models;
}

// Nobody dials this machine's own workers: they are no prefill nodes.
static struct place_link link_between(void *ctx, size_t from, size_t to)
{
    struct placing *pl = ctx;
    const struct profile_link_book **b;

    // Two nodes that could not reach each other are left alone for a while.
    if (pl->peers[from]->local || from == to || pl->peers[from]->upstream ||
        pl->peers[to]->upstream || fleet_pair_why(pl->core, pl->peers[to], pl->peers[from]))
        return (struct place_link){0};
    b = &pl->links[slot_of(pl, from)][slot_of(pl, to)];
    if (!*b)
        *b = placing_link(pl, pl->peers[from], pl->peers[to]);
    return (struct place_link){(*b)->link.rtt_s, (*b)->link.up_bytes_per_s, (*b)->link.setup_s};
}

static struct place_nodes nodes_of(struct placing *pl)
{
    return (struct place_nodes){.nodes = pl->nodes,
                                .n = pl->n,
                                .link = link_between,
                                .link_ctx = pl,
                                .home = 0,
                                .dollars_per_kwh = pl->core->options.dollars_per_kwh};
}

// ---- one request -------------------------------------------------------------------------------------------

// Who asks, and how the prompt begins.
static uint64_t beginning_hash(const struct request *r, size_t n_tokens)
{
    const struct request_input *in = &r->inputs[0];
    size_t n = in->n_tokens < n_tokens ? in->n_tokens : n_tokens;
    const char *owner = r->in.generate.owner;

    return XXH3_64bits_withSeed(in->tokens, n * sizeof(in->tokens[0]),
                                XXH3_64bits(owner, strlen(owner)));
}

static uint64_t conversation_of(const struct request *r)
{
    return beginning_hash(r, CONVERSATION_TOKENS);
}

static size_t position_of(const struct placing *pl, const struct peer *p)
{
    for (size_t i = 0; p && i < pl->n; i++)
        if (pl->peers[i] == p)
            return i;
    return PLACE_NO_NODE;
}

// A node by its name or address. This machine's own worker is "local", and what it calls itself where no other node
// has that name.
static size_t pin_of(const struct placing *pl, const char *name)
{
    for (size_t i = 0; name[0] && i < pl->n; i++)
        if (strcmp(pl->nodes[i].name, name) == 0 || strcmp(pl->peers[i]->address, name) == 0)
            return i;
    return name[0] && strcmp(peer_name(pl->peers[0]), name) == 0 ? 0 : PLACE_NO_NODE;
}

static double answer_expected(const struct placing *pl, const struct request *r)
{
    double limit = request_room(r, request_home(r));

    if (r->in.generate.ignore_eos && r->in.max_tokens > 0)
        return limit;
    return expect_get(pl->expect, model_name(r->model), r->key, limit).mean;
}

static size_t held_fill(struct placing *pl, const struct request *r)
{
    size_t n = 0;

    for (size_t i = 0; i < pl->n; i++) {
        uint32_t tokens = pl->nodes[i].up ? request_held(r, pl->peers[i]) : 0;

        if (tokens > 0)
            pl->held[n++] = (struct place_held){i, tokens};
    }
    return n;
}

static void limits_fill(const struct placing *pl, struct place_request *q, double ttft_s,
                        double token_s)
{
    const struct gateway_options *o = &pl->core->options;

    q->ttft_s = ttft_s > 0 ? ttft_s : o->slo_ttft_s;
    q->token_s = token_s > 0 ? token_s : o->slo_token_s;
}

static void splits_set(struct placing *pl, bool on)
{
    for (size_t i = 0; i < pl->n; i++)
        pl->nodes[i].splits = on;
}

// Two conversations with one system prompt begin alike; only the next turn of one has all of its last prompt.
static struct place_last last_of(const struct placing *pl, const struct request *r,
                                 uint64_t conversation)
{
    const struct placing_last *l = &pl->lasts[conversation % PLACING_LASTS];

    if (request_is_placed(r))
        return (struct place_last){r->choice.kind, position_of(pl, r->choice.decode),
                                   position_of(pl, r->choice.prefill)};
    if (l->kind != PLACE_AUTO && l->conversation == conversation &&
        l->n_tokens <= r->inputs[0].n_tokens && l->prompt == beginning_hash(r, l->n_tokens))
        return (struct place_last){l->kind, position_of(pl, l->decode),
                                   position_of(pl, l->prefill)};
    return (struct place_last){PLACE_AUTO, PLACE_NO_NODE, PLACE_NO_NODE};
}

static void request_fill(struct placing *pl, const struct request *r, double expected,
                         struct place_request *q)
{
    place_request_defaults(q);
    q->prompt_tokens = r->inputs[0].n_tokens;
    q->answer_tokens = expected;
    q->answer_room = request_room(r, request_home(r));
    q->answers = (double)r->n_runs;
    q->conversation = conversation_of(r);
    q->wish = r->in.plan != PLACE_AUTO ? r->in.plan : pl->core->options.plan;
    q->policy = r->in.has_policy ? r->in.policy : pl->core->options.policy;
    limits_fill(pl, q, r->in.slo_ttft_s, r->in.slo_token_s);
    // Who asks for a hand-off asks for all of it.
    splits_set(pl, q->wish == PLACE_AUTO);
    q->pin_decode = pin_of(pl, r->in.decode_node);
    q->pin_prefill = pin_of(pl, r->in.prefill_node);
    q->last = last_of(pl, r, q->conversation);
    q->held = pl->held;
    q->n_held = held_fill(pl, r);
}

static void last_set(struct placing *pl, const struct request *r)
{
    uint64_t conversation = conversation_of(r);
    size_t n = r->inputs[0].n_tokens;

    n -= n < TURN_TOKENS ? n : TURN_TOKENS;
    pl->lasts[conversation % PLACING_LASTS] = (struct placing_last){
        conversation, beginning_hash(r, n), n, r->choice.kind, r->choice.decode, r->choice.prefill};
}

// ": local (mac), spark", as far as there is room.
static void names_put(const struct placing *pl, char *out, size_t max)
{
    const char *own = peer_name(pl->peers[0]);
    size_t len = (size_t)snprintf(out, max, ": local");

    if (strcmp(own, "local") != 0)
        len += (size_t)snprintf(out + len, max - len, " (%.40s)", own);
    for (size_t i = 1; i < pl->n; i++) {
        size_t more = strlen(pl->nodes[i].name) + 2;

        if (len + more + 5 > max) { // for what says that there are more
            snprintf(out + len, max - len, ", ..");
            return;
        }
        snprintf(out + len, max - len, ", %s", pl->nodes[i].name);
        len += more;
    }
}

// The named node is none of this server's: said, not passed over.
static void pins_check(const struct placing *pl, const struct request *r,
                       struct placing_choice *out)
{
    const char *const names[] = {r->in.decode_node, r->in.prefill_node};
    char known[120];

    for (size_t i = 0; i < 2; i++)
        if (names[i][0] && !out->fallback[0] && pin_of(pl, names[i]) == PLACE_NO_NODE) {
            names_put(pl, known, sizeof(known));
            snprintf(out->fallback, sizeof(out->fallback),
                     "node \"%.80s\" was asked for; there is none of that name%s", names[i], known);
        }
}

// The two that were asked for could not reach each other of late.
static void pair_say(const struct placing *pl, const struct request *r, struct placing_choice *out)
{
    size_t decode = pin_of(pl, r->in.decode_node), prefill = pin_of(pl, r->in.prefill_node);
    const char *why;

    if (!out->fallback[0] || decode == PLACE_NO_NODE || prefill == PLACE_NO_NODE)
        return;
    why = fleet_pair_why(pl->core, pl->peers[decode], pl->peers[prefill]);
    if (why)
        snprintf(out->fallback, sizeof(out->fallback),
                 "the nodes asked for have no way to each other: %.160s", why);
}

// Nodes that are there and could not be asked are never passed over silently.
static void absent_say(const struct placing *pl, struct placing_choice *out)
{
    size_t len = strlen(out->reason);

    for (size_t i = 1; i < pl->n; i++)
        if (!pl->nodes[i].up) {
            snprintf(out->reason + len, sizeof(out->reason) - len, "; without %.40s: %s",
                     pl->nodes[i].name, pl->nodes[i].why);
            return;
        }
}

static bool idle(const struct placing *pl, const struct peer *p)
{
    const struct placing_load *l;

    if (p->upstream)
        return request_count(pl->core, p) == 0;
    l = &pl->loads[p->index];
    return l->answers <= 0 && l->reading <= 0 && l->read_s <= 0;
}

// A share that is shorter than the smallest chunk is not worth a reader of its own.
static uint32_t split_of(uint32_t upto, uint32_t prompt_tokens)
{
    uint32_t last = prompt_tokens - 1;

    return upto < last && last - upto >= CHUNK_LEAST && upto >= CHUNK_LEAST ? upto : last;
}

static void splits_settle(struct place_table *t, uint32_t prompt_tokens)
{
    for (size_t i = 0; i < t->n; i++)
        t->plans[i].upto = split_of(t->plans[i].upto, prompt_tokens);
}

static void choice_fill(struct placing *pl, const struct place_plan *plan,
                        struct placing_choice *out)
{
    out->plan = *plan;
    out->predicted = true;
    out->kind = plan->kind;
    out->decode = pl->peers[plan->decode];
    out->prefill = plan->prefill == PLACE_NO_NODE ? NULL : pl->peers[plan->prefill];
    out->upto = plan->upto;
    out->held = out->prefill ? plan->held_prefill : plan->held_decode;
    out->alone = idle(pl, out->decode) && (!out->prefill || idle(pl, out->prefill));
}

// Whoever is at work on these nodes has company from now on: what its hand-off took tells nothing of the link alone.
static void company_mark(struct placing *pl, const struct request *r,
                         const struct placing_choice *c)
{
    for (struct request *q = pl->core->requests; q; q = q->next) {
        bool reads = q->prefill_open && (q->prefill == c->prefill || q->prefill == c->decode);
        bool writes = q->choice.decode == c->decode || q->choice.decode == c->prefill;

        if (q != r && !q->over && (reads || writes))
            q->choice.alone = false;
    }
}

bool placing_choose(struct placing *pl, const struct request *r, struct placing_choice *out)
{
    struct place_plan plans[2];
    struct place_table table = {.plans = plans, .max = 2};
    struct place_request q;
    double expected = answer_expected(pl, r);
    struct place_nodes nodes;

    memset(out, 0, sizeof(*out));
    fleet_fill(pl, request_home(r), r, expected);
    nodes = nodes_of(pl);
    request_fill(pl, r, expected, &q);
    if (place_choose(&nodes, &q, pl->scratch, &table) != 0) {
        snprintf(out->reason, sizeof(out->reason), "%s", table.refusal);
        return false;
    }
    splits_settle(&table, q.prompt_tokens);
    choice_fill(pl, &plans[0], out);
    out->answer_tokens = expected;
    out->policy = q.policy;
    place_tell(&nodes, &q, &table, 0, out->reason);
    absent_say(pl, out);
    snprintf(out->fallback, sizeof(out->fallback), "%s", table.fallback);
    pins_check(pl, r, out);
    pair_say(pl, r, out);
    return true;
}

void placing_commit(struct placing *pl, const struct request *r)
{
    last_set(pl, r);
    company_mark(pl, r, &r->choice);
    placing_links_yield(pl, r->choice.decode, r->choice.prefill);
}

// ---- questions ---------------------------------------------------------------------------------------------

static json_t *known_or_null(double v)
{
    return v >= 0 ? json_real(v) : json_null();
}

static json_t *plan_json(const struct placing *pl, const struct place_plan *p)
{
    json_t *o = json_object();

    json_put(o, "plan", json_string(place_kind_name(p->kind)));
    json_put(o, "decode_node", answer_string(pl->nodes[p->decode].name));
    json_put(o, "prefill_node",
             p->prefill == PLACE_NO_NODE ? json_null() : answer_string(pl->nodes[p->prefill].name));
    json_put(o, "upto", p->prefill == PLACE_NO_NODE ? json_null() : json_integer(p->upto));
    json_put(o, "wait_s", json_real(p->wait_s));
    json_put(o, "read_s", json_real(p->read_s));
    json_put(o, "transfer_s", json_real(p->transfer_s));
    json_put(o, "tail_s", json_real(p->tail_s));
    json_put(o, "ttft_s", json_real(p->ttft_s));
    json_put(o, "token_s", json_real(p->token_s));
    json_put(o, "total_s", json_real(p->total_s));
    json_put(o, "busy_s", json_real(p->busy_s));
    json_put(o, "slowdown_s", json_real(p->slowdown_s));
    json_put(o, "joules", known_or_null(p->joules));
    json_put(o, "dollars", known_or_null(p->dollars));
    json_put(o, "meets", json_boolean(p->meets));
    return o;
}

static json_t *table_json(struct placing *pl, const struct place_nodes *nodes,
                          const struct place_request *q, const struct place_table *t)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < t->n; i++) {
        json_t *row = plan_json(pl, &t->plans[i]);
        char why[PLACE_TEXT_BYTES];

        place_tell(nodes, q, t, i, why);
        json_put(row, "why", answer_string(why));
        json_array_append_new(rows, row);
    }
    return rows;
}

// Those that no plan is with, and why.
static json_t *absent_json(const struct placing *pl)
{
    json_t *list = json_array();

    for (size_t i = 0; i < pl->n; i++) {
        json_t *o;

        if (pl->nodes[i].up)
            continue;
        o = json_object();
        json_put(o, "node", answer_string(pl->nodes[i].name));
        json_put(o, "why", answer_string(pl->nodes[i].why));
        json_array_append_new(list, o);
    }
    return list;
}

json_t *placing_explain(struct placing *pl, const struct peer *home,
                        const struct placing_question *ask)
{
    struct place_plan plans[EXPLAIN_ROWS];
    struct place_table table = {.plans = plans, .max = EXPLAIN_ROWS};
    struct place_request q;
    struct place_nodes nodes;
    json_t *o = json_object();

    place_request_defaults(&q);
    q.prompt_tokens = ask->prompt_tokens;
    q.answer_tokens = ask->answer_tokens > 0
                          ? ask->answer_tokens
                          : expect_get(pl->expect, model_name(home->model), "", 0).mean;
    q.policy = ask->has_policy ? ask->policy : pl->core->options.policy;
    limits_fill(pl, &q, ask->ttft_s, ask->token_s);
    fleet_fill(pl, home, NULL, q.answer_tokens);
    splits_set(pl, true);
    nodes = nodes_of(pl);
    if (place_choose(&nodes, &q, pl->scratch, &table) == 0)
        splits_settle(&table, q.prompt_tokens);
    json_put(o, "model", answer_string(model_name(home->model)));
    json_put(o, "policy", json_string(place_policy_name(q.policy)));
    json_put(o, "prompt_tokens", json_integer(q.prompt_tokens));
    json_put(o, "answer_tokens", json_real(q.answer_tokens));
    json_put(o, "considered", json_integer((json_int_t)table.considered));
    json_put(o, "refusal", table.n == 0 ? answer_string(table.refusal) : json_null());
    json_put(o, "fallback", table.fallback[0] ? answer_string(table.fallback) : json_null());
    json_put(o, "plans", table_json(pl, &nodes, &q, &table));
    json_put(o, "absent", absent_json(pl));
    return o;
}

json_t *placing_profile(const struct peer *node)
{
    json_t *o = node->book ? profile_json(&node->book->p) : json_null();

    if (node->book)
        json_put(o, "measured", json_boolean(node->measured));
    return o;
}
