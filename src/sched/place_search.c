// The search: every node alone, then the promising pairs.
#include "sched/place_impl.h"

#include <math.h>

#define TIME_MOST 1e9 // seconds; a plan beyond it is none
#define GROUPS 64     // that are told apart when readers are bounded from below
#define WRITERS ((size_t)3 * PLACE_NODES)
#define READERS ((size_t)2 * PLACE_READERS)
#define REFINED 4 // plans whose split is looked for
#define SPLIT_PARTS 6
#define SPLIT_ROUNDS 3

// Positions with the smallest values seen, ascending.
struct ranking {
    size_t at[PLACE_NODES];
    double value[PLACE_NODES];
    size_t n, max;
};

size_t place_node_at(const struct place_search *s, size_t position)
{
    return s->nodes->among ? s->nodes->among[position] : position;
}

size_t place_position(const struct place_search *s, size_t node)
{
    for (size_t i = 0; i < s->n; i++)
        if (place_node_at(s, i) == node)
            return i;
    return PLACE_NO_NODE;
}

static const struct place_node *node_of(const struct place_search *s, size_t position)
{
    return &s->nodes->nodes[place_node_at(s, position)];
}

static void ranking_put(struct ranking *r, size_t at, double value)
{
    size_t i = r->n < r->max ? r->n++ : r->max;

    if (i == r->max && value >= r->value[--i])
        return;
    for (; i > 0 && r->value[i - 1] > value; i--) {
        r->value[i] = r->value[i - 1];
        r->at[i] = r->at[i - 1];
    }
    r->value[i] = value;
    r->at[i] = at;
}

// ---- the table -------------------------------------------------------------------------------------------

// SplitMix64's mix: a conversation's own order of nodes, so that equal ones share the conversations and
// each keeps to its node ("highest random weight", Thaler and Ravishankar, 1998).
static uint64_t weight(uint64_t conversation, uint64_t id)
{
    uint64_t z = (conversation ^ id * 0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t weight_of(const struct place_search *s, size_t node)
{
    return node == PLACE_NO_NODE ? 0 : weight(s->r->conversation, s->nodes->nodes[node].id);
}

static bool plan_better(const struct place_search *s, const struct place_plan *a,
                        const struct place_plan *b)
{
    uint64_t wa, wb;

    if (a->score < b->score || a->score > b->score)
        return a->score < b->score;
    wa = weight_of(s, a->decode);
    wb = weight_of(s, b->decode);
    if (wa != wb)
        return wa > wb;
    if (a->decode != b->decode)
        return a->decode < b->decode;
    wa = weight_of(s, a->prefill);
    wb = weight_of(s, b->prefill);
    return wa != wb ? wa > wb : a->prefill < b->prefill;
}

bool place_plan_same(const struct place_plan *a, const struct place_plan *b)
{
    return a->decode == b->decode && a->prefill == b->prefill && a->kind == b->kind;
}

static bool plan_finite(const struct place_plan *p)
{
    return p->ttft_s >= 0 && p->total_s <= TIME_MOST && p->token_s >= 0 && p->busy_s >= 0 &&
           p->slowdown_s >= 0 && isfinite(p->busy_s + p->slowdown_s + p->wait_s + p->tail_s) &&
           isfinite(p->joules + p->dollars + p->score + p->transfer_s);
}

static void table_put(struct place_search *s, const struct place_plan *p)
{
    size_t i;

    if (!plan_finite(p))
        return;
    if (s->n_top == s->max && !plan_better(s, p, &s->top[s->max - 1]))
        return;
    for (i = 0; i < s->n_top; i++)
        if (place_plan_same(&s->top[i], p))
            return;
    if (s->n_top < s->max)
        s->n_top++;
    for (i = s->n_top - 1; i > 0 && plan_better(s, p, &s->top[i - 1]); i--)
        s->top[i] = s->top[i - 1];
    s->top[i] = *p;
}

// The same plan with another split, now in its place.
static void table_replace(struct place_search *s, const struct place_plan *p)
{
    size_t i;

    for (i = 0; i < s->n_top && !place_plan_same(&s->top[i], p); i++)
        ;
    if (i == s->n_top)
        return;
    for (; i > 0 && plan_better(s, p, &s->top[i - 1]); i--)
        s->top[i] = s->top[i - 1];
    s->top[i] = *p;
}

// ---- cases -----------------------------------------------------------------------------------------------

static struct place_case case_of(const struct place_search *s, size_t d, size_t p)
{
    struct place_case c = {
        .d = node_of(s, d),
        .p = p == PLACE_NO_NODE ? NULL : node_of(s, p),
        .prompt = s->last + 1,
        .answer = s->answer,
        .room = s->room,
        .rows = s->rows,
        .held_d = s->scratch[d].held,
        .held_p = p == PLACE_NO_NODE ? 0 : s->scratch[p].held,
        .upto = s->last,
        .dollars_per_kwh = s->nodes->dollars_per_kwh,
    };

    if (c.p) {
        double n_ctx = c.p->profile->n_ctx;
        c.upto = n_ctx > 0 ? fmin(s->last, n_ctx) : s->last;
    }
    return c;
}

static void predict(struct place_search *s, const struct place_case *c, struct place_plan *out)
{
    place_predict(c, out);
    place_score(s->r, out);
    out->upto = c->p ? (uint32_t)c->upto : 0;
    s->considered++;
}

static struct place_plan plan_of(const struct place_search *s, size_t d, size_t p)
{
    struct place_plan out = {
        .kind = place_node_at(s, d) == s->nodes->home ? PLACE_LOCAL : PLACE_REMOTE,
        .decode = place_node_at(s, d),
        .prefill = p == PLACE_NO_NODE ? PLACE_NO_NODE : place_node_at(s, p),
        .held_decode = s->scratch[d].held,
        .held_prefill = p == PLACE_NO_NODE ? 0 : s->scratch[p].held,
    };

    return out;
}

static bool pinned_out(const struct place_search *s, size_t d, size_t p)
{
    size_t reads = p == PLACE_NO_NODE ? d : p;

    return (s->pin_decode != PLACE_NO_NODE && s->pin_decode != place_node_at(s, d)) ||
           (s->pin_prefill != PLACE_NO_NODE && s->pin_prefill != place_node_at(s, reads));
}

static bool solo_predict(struct place_search *s, size_t d, struct place_plan *out)
{
    const struct place_case c = case_of(s, d, PLACE_NO_NODE);

    *out = plan_of(s, d, PLACE_NO_NODE);
    if ((s->scratch[d].flags & (PLACE_CAN_BOTH | PLACE_CAN_WRITE)) !=
            (PLACE_CAN_BOTH | PLACE_CAN_WRITE) ||
        !(s->kinds & 1u << out->kind) || pinned_out(s, d, PLACE_NO_NODE))
        return false;
    predict(s, &c, out);
    return true;
}

static bool pair_possible(const struct place_search *s, size_t d, size_t p)
{
    const struct place_node *to = node_of(s, d), *from = node_of(s, p);

    return d != p && (s->scratch[d].flags & PLACE_CAN_WRITE) &&
           (s->scratch[p].flags & PLACE_CAN_READ) && from->group != 0 && from->group == to->group &&
           s->nodes->link && !pinned_out(s, d, p) && s->scratch[d].held < s->last;
}

static bool pair_case(const struct place_search *s, size_t d, size_t p, struct place_case *c)
{
    if (!pair_possible(s, d, p))
        return false;
    *c = case_of(s, d, p);
    c->link = s->nodes->link(s->nodes->link_ctx, place_node_at(s, p), place_node_at(s, d));
    return c->link.bytes_per_s > 0 && c->link.rtt_s >= 0 && c->link.setup_s >= 0;
}

// P's part ends on this grid, and D's has at least so many tokens: less is read by other kernels.
#define SPLIT_TOKENS 64.0

static double split_round(const struct place_search *s, double upto)
{
    return fmin(floor(upto / SPLIT_TOKENS) * SPLIT_TOKENS, s->last - SPLIT_TOKENS);
}

// Whether a node may read so much of a prompt that it answers.
static bool reads_own(const struct place_search *s, const struct place_node *n, double tokens)
{
    return s->rule != PLACE_ROLES || !(n->roles & PLACE_WRITER) ||
           tokens <= n->profile->chunk_tokens;
}

static bool splits(const struct place_case *c)
{
    return c->d->splits && (c->d->roles & PLACE_READS);
}

// Takes a split into account; keeps the best.
static bool split_try(struct place_search *s, struct place_case *c, double upto,
                      struct place_plan *best)
{
    struct place_plan plan = *best;

    if (!(upto > c->held_d) || (upto < s->last && !reads_own(s, c->d, s->last - upto)))
        return false;
    c->upto = upto;
    predict(s, c, &plan);
    if (best->upto != 0 && !(plan.score < best->score))
        return false;
    *best = plan;
    return true;
}

// A pair with all that P can read, with what it holds, and with what it reads faster than D.
static bool pair_predict(struct place_search *s, size_t d, size_t p, struct place_plan *out)
{
    struct place_case c;
    double most;

    *out = plan_of(s, d, p);
    if (!pair_case(s, d, p, &c))
        return false;
    c.serial =
        !(s->kinds & 1u << PLACE_HYBRID) || !node_of(s, d)->streams || !node_of(s, p)->streams;
    out->kind = c.serial ? PLACE_SERIAL : PLACE_HYBRID;
    if (!(s->kinds & 1u << out->kind))
        return false;
    most = c.upto;
    if (most >= s->last)
        split_try(s, &c, most, out);
    if (!splits(&c))
        return out->upto != 0;
    if (most < s->last)
        split_try(s, &c, fmin(most, s->last - SPLIT_TOKENS), out);
    if (c.held_p > c.held_d && c.held_p < s->last)
        split_try(s, &c, fmin(fmin(c.held_p, most), s->last - SPLIT_TOKENS), out);
    c.upto = most;
    if (place_split(&c) < most)
        split_try(s, &c, split_round(s, place_split(&c)), out);
    return out->upto != 0;
}

// Where P's part, or D's, is made of full chunks: a short one takes nearly as long as a full one.
static void splits_snap(struct place_search *s, struct place_case *c, double most,
                        struct place_plan *plan)
{
    double near = plan->upto, ours = c->p->profile->chunk_tokens;
    double theirs = c->d->profile->chunk_tokens;
    const double snapped[] = {
        c->held_p + floor((near - c->held_p) / ours) * ours,
        c->held_p + ceil((near - c->held_p) / ours) * ours,
        s->last - floor((s->last - near) / theirs) * theirs,
        s->last - ceil((s->last - near) / theirs) * theirs,
    };

    for (size_t i = 0; i < 4; i++)
        if (snapped[i] >= SPLIT_TOKENS && snapped[i] <= most)
            split_try(s, c, snapped[i], plan);
}

// Looks for a better split of a plan: on a coarse grid, then around the best of it.
static void split_refine(struct place_search *s, size_t d, size_t p, struct place_plan *plan)
{
    struct place_case c;
    double most, low, step;

    if (!pair_case(s, d, p, &c) || !splits(&c))
        return;
    c.serial = plan->kind == PLACE_SERIAL;
    most = fmin(c.upto, s->last - SPLIT_TOKENS);
    low = c.held_d;
    step = (most - low) / SPLIT_PARTS;
    for (int round = 0; round < SPLIT_ROUNDS && step >= SPLIT_TOKENS / 2; round++) {
        for (int i = 1; i <= SPLIT_PARTS; i++)
            split_try(s, &c, split_round(s, low + i * step), plan);
        low = fmax(plan->upto - step, c.held_d);
        step = fmin(2 * step, most - low) / SPLIT_PARTS;
    }
    splits_snap(s, &c, most, plan);
}

// ---- the search ------------------------------------------------------------------------------------------

static void held_find(struct place_search *s)
{
    for (size_t i = 0; i < s->n; i++)
        s->scratch[i].held = 0;
    for (size_t h = 0; h < s->r->n_held; h++) {
        size_t node = s->r->held[h].node, i;
        for (i = s->nodes->among ? 0 : node; i < s->n && place_node_at(s, i) != node; i++)
            ;
        if (i < s->n)
            s->scratch[i].held = (uint32_t)fmin(s->r->held[h].tokens, s->last);
    }
}

// What it can do, less what its role leaves to others.
static unsigned flags_of(const struct place_search *s, size_t position)
{
    const struct place_node *n = node_of(s, position);
    unsigned flags = place_abilities(n, s->r->prompt_tokens);

    if ((flags & PLACE_CAN_READ) && reads_own(s, n, s->last - s->scratch[position].held))
        flags |= PLACE_CAN_BOTH;
    if (s->rule != PLACE_ANY && (n->roles & PLACE_READER))
        flags &= ~(unsigned)PLACE_CAN_WRITE;
    if (s->rule != PLACE_ANY && (n->roles & PLACE_WRITER))
        flags &= ~(unsigned)PLACE_CAN_READ;
    return flags;
}

void place_search_begin(struct place_search *s)
{
    held_find(s);
    for (size_t i = 0; i < s->n; i++)
        s->scratch[i].flags = flags_of(s, i);
}

static void solos_try(struct place_search *s)
{
    struct place_plan plan;

    for (size_t i = 0; i < s->n; i++)
        if (solo_predict(s, i, &plan))
            table_put(s, &plan);
}

// Each node's own part, by one policy's measure.
static void parts_rate(struct place_search *s, enum place_policy policy)
{
    for (size_t i = 0; i < s->n; i++) {
        struct place_case c = case_of(s, i, i);
        s->scratch[i].flags &= ~(unsigned)PLACE_PICKED;
        if (s->scratch[i].flags & PLACE_CAN_READ) {
            s->scratch[i].read_s = place_reader_s(&c);
            s->scratch[i].reader = place_reader_score(&c, policy);
        }
        if (s->scratch[i].flags & PLACE_CAN_WRITE)
            s->scratch[i].writer = place_writer_score(&c, policy);
    }
}

// Writers by what they would take with the best reader of their group, and those that hold something.
static size_t writers_pick(struct place_search *s, size_t out[WRITERS])
{
    struct ranking best = {.max = PLACE_NODES};
    double least[GROUPS];
    size_t n = 0;

    for (size_t i = 0; i < GROUPS; i++)
        least[i] = INFINITY;
    for (size_t i = 0; i < s->n; i++) {
        double *group = &least[node_of(s, i)->group % GROUPS];
        if (s->scratch[i].flags & PLACE_CAN_READ)
            *group = fmin(*group, s->scratch[i].reader);
    }
    for (size_t i = 0; i < s->n; i++) {
        const struct place_node *node = node_of(s, i);
        if (!(s->scratch[i].flags & PLACE_CAN_WRITE) || node->group == 0)
            continue;
        ranking_put(&best, i, s->scratch[i].writer + least[node->group % GROUPS]);
    }
    for (; n < best.n; n++) {
        out[n] = best.at[n];
        s->scratch[out[n]].flags |= PLACE_PICKED;
    }
    for (size_t i = 0; i < s->n && n < WRITERS; i++)
        if (s->scratch[i].held > 0 &&
            (s->scratch[i].flags & (PLACE_CAN_WRITE | PLACE_PICKED)) == PLACE_CAN_WRITE)
            out[n++] = i;
    return n;
}

// What the pair's reading cannot be below: by time it is the slower one of reading and crossing.
static double reader_bound(const struct place_search *s, const struct place_case *c, size_t p,
                           enum place_policy policy)
{
    double bytes;

    if (policy != PLACE_LATENCY)
        return s->scratch[p].reader;
    bytes = profile_kv_bytes(c->p->profile, c->held_d, c->upto);
    return fmax(s->scratch[p].read_s, fmax(c->link.setup_s, 0) + bytes / place_rate(c));
}

static size_t readers_pick(const struct place_search *s, size_t d, enum place_policy policy,
                           size_t out[READERS])
{
    struct ranking best = {.max = PLACE_READERS}, warm = {.max = PLACE_READERS};
    struct place_case c;
    size_t n = 0;

    for (size_t i = 0; i < s->n; i++) {
        struct ranking *r = s->scratch[i].held > 0 ? &warm : &best;
        if (pair_case(s, d, i, &c))
            ranking_put(r, i, reader_bound(s, &c, i, policy));
    }
    for (size_t i = 0; i < best.n; i++)
        out[n++] = best.at[i];
    for (size_t i = 0; i < warm.n; i++)
        out[n++] = warm.at[i];
    return n;
}

static void pairs_try(struct place_search *s, enum place_policy policy)
{
    size_t writers[WRITERS], readers[READERS], n_writers;
    struct place_plan plan;

    parts_rate(s, policy);
    n_writers = writers_pick(s, writers);
    for (size_t w = 0; w < n_writers; w++) {
        size_t n_readers = readers_pick(s, writers[w], policy, readers);
        for (size_t i = 0; i < n_readers; i++)
            if (pair_predict(s, writers[w], readers[i], &plan))
                table_put(s, &plan);
    }
}

static void pairs_try_all(struct place_search *s)
{
    struct place_plan plan;

    for (size_t d = 0; d < s->n; d++)
        for (size_t p = 0; p < s->n; p++)
            if (pair_predict(s, d, p, &plan))
                table_put(s, &plan);
}

// The best hand-offs once more, with their best splits; the table stays sorted.
static void splits_refine(struct place_search *s)
{
    struct place_plan refined[REFINED];
    size_t n = 0;

    for (size_t i = 0; i < s->n_top && n < REFINED; i++)
        if (s->top[i].prefill != PLACE_NO_NODE)
            refined[n++] = s->top[i];
    for (size_t i = 0; i < n; i++) {
        struct place_plan better = refined[i];
        split_refine(s, place_position(s, better.decode), place_position(s, better.prefill),
                     &better);
        if (better.score < refined[i].score)
            table_replace(s, &better);
    }
}

static void pairs_search(struct place_search *s)
{
    if (s->n <= PLACE_NODES) {
        pairs_try_all(s);
        return;
    }
    pairs_try(s, s->r->policy == PLACE_SLO ? PLACE_LATENCY : s->r->policy);
    if (s->r->policy == PLACE_SLO)
        pairs_try(s, PLACE_THROUGHPUT);
}

void place_search_run(struct place_search *s, unsigned kinds)
{
    s->kinds = kinds;
    s->n_top = 0;
    if (kinds & PLACE_SOLO)
        solos_try(s);
    if (!(kinds & PLACE_HANDOFF) || s->last < 1)
        return;
    pairs_search(s);
    splits_refine(s);
}

bool place_search_predict(struct place_search *s, size_t d, size_t p, struct place_plan *out)
{
    bool any = p == PLACE_NO_NODE ? solo_predict(s, d, out) : pair_predict(s, d, p, out);

    if (any && p != PLACE_NO_NODE)
        split_refine(s, d, p, out);
    return any && plan_finite(out);
}
