// Upstream servers as candidates for a request that this machine's own nodes could answer as well.
#include "base/clock.h"
#include "gateway/core.h"
#include "gateway/upstream_impl.h"
#include "sched/place.h"

// One of whose speed nothing is known is believed to be somewhat faster than the machine that has the model already:
// nobody would have named it otherwise, and it would never be found out. One answer at a time.
#define UNSEEN_READS 4.0
#define UNSEEN_WRITES 2.0

static const struct upstream_model *model_on(const struct upstream *u, const struct model *m)
{
    for (size_t i = 0; i < u->n_models; i++)
        if (u->models[i].local == m)
            return &u->models[i];
    return NULL;
}

static const char *why_not(const struct upstream *u, const struct request *r)
{
    const char *param;
    struct err e = {0};

    if (u->peer->state != PEER_UP)
        return u->peer->why;
    if (u->busy_until_ns > clock_now_ns())
        return "it failed a moment ago";
    if (!r)
        return NULL;
    if (request_is_placed(r))
        return "what waits at a node stays with the nodes";
    if (r->tried >> u->index & 1)
        return "it has failed this request";
    if (r->in.generate.adapter.sha256[0])
        return "adapters are this server's own";
    if (upstream_body_check(&r->in, &param, &e) != 0)
        return "it may not take a grammar";
    return NULL;
}

static void guess_set(struct upstream *u, const struct profile *home)
{
    u->guess = *home;
    u->guess.read_request_s /= UNSEEN_READS;
    u->guess.read_chunk_s /= UNSEEN_READS;
    u->guess.read_token_s /= UNSEEN_READS;
    u->guess.read_pair_s /= UNSEEN_READS;
    u->guess.read_floor_s /= UNSEEN_READS;
    u->guess.step_s /= UNSEEN_WRITES;
    u->guess.row_s /= UNSEEN_WRITES;
    u->guess.row_depth_s /= UNSEEN_WRITES;
    // What this machine draws and costs tells nothing of that one.
    u->guess.watts_idle = u->guess.watts_prefill = u->guess.watts_decode = 0;
    u->guess.dollars_per_hour = 0;
    u->guess.n_ctx = UPSTREAM_CONTEXT;
    u->guess.n_seq = UPSTREAM_SLOTS;
}

struct place_node upstream_node(const struct core *c, const struct upstream *u,
                                const struct profile_book *b)
{
    uint32_t running = request_count(c, u->peer);
    uint32_t left = running > 0 ? UPSTREAM_ANSWER_TOKENS / 2 : 0;

    return (struct place_node){
        .name = u->options->name,
        .profile = b ? &b->p : &c->upstreams->unknown,
        .roles = PLACE_READS | PLACE_WRITES,
        .priced = u->options->priced,
        .in_dollars = u->options->price_in / 1e6,
        .out_dollars = u->options->price_out / 1e6,
        .answers = running,
        .rest_tokens = left,
        .next_tokens = left,
        .free_seqs = running < UPSTREAM_SLOTS ? UPSTREAM_SLOTS - running : 1,
        .free_cells = UPSTREAM_CONTEXT,
    };
}

static void node_fill(struct core *c, struct upstream *u, const struct model *m,
                      const struct request *r, struct place_node *out)
{
    const struct profile_book *b = upstream_book(c, u, model_on(u, m));
    const struct profile_book *home = m->peer->book;
    bool unseen = home && b && upstream_is_unseen(b) && request_count(c, u->peer) == 0;
    const char *why = b ? why_not(u, r) : "there is no room for its profile";

    if (unseen)
        guess_set(u, &home->p);
    *out = upstream_node(c, u, b);
    out->id = u->peer->index;
    if (unseen)
        out->profile = &u->guess;
    out->up = !why;
    out->why = why;
}

size_t upstream_place(struct core *c, const struct model *m, const struct request *r,
                      struct peer **peers, struct place_node *nodes)
{
    size_t n = 0;

    for (size_t i = 0; c->upstreams && i < c->upstreams->n; i++) {
        struct upstream *u = &c->upstreams->all[i];

        if (!model_on(u, m))
            continue;
        node_fill(c, u, m, r, &nodes[n]);
        peers[n++] = u->peer;
    }
    return n;
}
