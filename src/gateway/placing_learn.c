// How profiles begin, are measured and learn.
#include "gateway/placing_impl.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/timing.h"
#include "node/message_cost.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#define MEASURE_SETTLE_NS (NS_PER_S / 2)  // idle for so long before it is asked
#define MEASURE_AGAIN_NS (600 * NS_PER_S) // and again, lightly
#define MEASURE_RETRY_NS (10 * NS_PER_S)  // when a request came in between
#define MEASURE_LIGHT_S 2.0
#define MEASURE_GONE_NS (120 * NS_PER_S) // without an answer: it will not come
#define UNMEASURED_READS 4.0             // as fast as the machine that has it already
#define UNMEASURED_STEP 2.0              // as long as there

static const struct profile_link unknown_link;

// ---- where it begins ---------------------------------------------------------------------------------------

// A machine's id is the same over restarts; several nodes on it differ by their ports.
#define KEY_BYTES PROFILES_NAME_BYTES

static void node_key(const struct peer *p, char out[KEY_BYTES])
{
    const char *port = p->local ? "local" : strrchr(p->address, ':'), *id = p->welcome.node_id;

    if (id[0])
        snprintf(out, KEY_BYTES, "%.64s %.16s", id, port ? port : "");
    else
        snprintf(out, KEY_BYTES, "%.120s", p->local ? "local" : p->address);
}

struct profile_link_book *placing_link_book(struct placing *pl, const struct peer *from,
                                            const struct peer *to)
{
    char a[KEY_BYTES], b[KEY_BYTES];

    node_key(from, a);
    node_key(to, b);
    return profiles_link(pl->profiles, a, b, &unknown_link, PROFILE_TRUST_NONE);
}

// Equal weights, equal cache; a paced worker is another one than itself unpaced.
static void model_key(const struct message_welcome *w, char out[PROFILES_NAME_BYTES])
{
    const struct engine_identity *i = &w->identity;

    snprintf(out, PROFILES_NAME_BYTES, "%.40s %016llx %.8s/%.8s%s", i->arch,
             (unsigned long long)i->weights_hash, i->type_k, i->type_v, w->paced ? " paced" : "");
}

static void read_scale(struct profile *p, double by)
{
    p->read_request_s *= by;
    p->read_chunk_s *= by;
    p->read_token_s *= by;
    p->read_pair_s *= by;
    p->read_floor_s *= by;
}

static void step_scale(struct profile *p, double by)
{
    p->step_s *= by;
    p->row_s *= by;
    p->row_depth_s *= by;
}

// What WELCOME tells, as far as it does.
static double begin_fill(const struct peer *node, struct profile *p)
{
    const struct message_welcome *w = &node->welcome;
    double tokens = w->limits.n_batch > 0 ? w->limits.n_batch : 512;

    profile_defaults(p);
    if (w->prefill_tokens_per_s > 0)
        read_scale(p, tokens / w->prefill_tokens_per_s / profile_read_s(p, tokens, 0));
    else if (!node->local)
        read_scale(p, 1 / UNMEASURED_READS);
    if (w->decode_tokens_per_s > 0)
        step_scale(p, 1 / w->decode_tokens_per_s / profile_step_s(p, 1, 0));
    else if (!node->local)
        step_scale(p, UNMEASURED_STEP);
    return w->prefill_tokens_per_s > 0 ? PROFILE_TRUST_CATALOGUE : PROFILE_TRUST_NONE;
}

static void limits_set(const struct engine_limits *l, uint32_t n_layer, struct profile *p)
{
    p->n_ctx = l->n_ctx;
    p->n_seq = l->n_seq > 0 ? l->n_seq : 1;
    p->kv_token_bytes = l->kv_bytes_per_token;
    p->state_bytes = (double)l->state_bytes;
    p->chunk_tokens = l->n_batch > 0 ? l->n_batch : 512;
    // The last chunk leaves layer by layer.
    p->last_tokens = n_layer > 0 ? fmax(64.0 / n_layer, 1) : 64;
}

void placing_greet(struct placing *pl, struct peer *node)
{
    struct profile begin;
    char model[PROFILES_NAME_BYTES], key[KEY_BYTES];
    double trust = begin_fill(node, &begin);

    // Another machine may answer at an address from now on.
    memset(pl->links, 0, sizeof(pl->links));
    limits_set(&node->welcome.limits, node->welcome.identity.n_layer, &begin);
    model_key(&node->welcome, model);
    node_key(node, key);
    node->id = XXH3_64bits(key, strlen(key));
    node->book = profiles_get(pl->profiles, key, model, &begin, trust);
    node->measure_id = 0;
    node->measure_ns = clock_now_ns() + MEASURE_SETTLE_NS;
    placing_links_greet(pl, node);
    node->measured = node->book && node->book->p.samples > 0;
    if (node->book)
        limits_set(&node->welcome.limits, node->welcome.identity.n_layer, &node->book->p);
    // What it said earlier counts no more.
    if (node->book)
        node->book->p.dollars_per_hour = node->welcome.priced ? node->welcome.dollars_per_hour : 0;
    placing_power(node, &node->welcome.power);
}

void placing_power(struct peer *node, const struct message_power *power)
{
    if (!node->book)
        return;
    if (power->idle_w > 0)
        node->book->p.watts_idle = power->idle_w;
    if (power->prefill_w > 0)
        node->book->p.watts_prefill = power->prefill_w;
    if (power->decode_w > 0)
        node->book->p.watts_decode = power->decode_w;
}

const struct profile_link_book *placing_link(struct placing *pl, const struct peer *from,
                                             const struct peer *to)
{
    struct profile_link_book *b = placing_link_book(pl, from, to);

    if (b)
        return b;
    profile_link_init(&pl->link_guess, &unknown_link, PROFILE_TRUST_NONE);
    return &pl->link_guess;
}

// ---- measuring ---------------------------------------------------------------------------------------------

static void measured_learn(struct peer *node, const struct message_measured *m)
{
    struct profile_book *b = node->book;

    if (m->n_reads > 0)
        profile_fit_reads(b, m->reads, m->n_reads);
    if (m->n_steps > 0)
        profile_fit_steps(b, m->steps, m->n_steps);
    if (m->export.bytes > 0)
        profile_learn_export(b, m->export.bytes, m->export.seconds);
    if (m->import.bytes > 0)
        profile_learn_import(b, m->import.bytes, m->import.seconds);
    if (m->load_s > 0)
        profile_learn_load(b, m->load_s);
    b->p.memory_left_bytes = m->memory_left_bytes;
    log_info("gateway", "node %s measured itself: prefill_512_s=%.4g step_s=%.4g%s",
             peer_name(node), profile_read_s(&b->p, 512, 0), profile_step_s(&b->p, 1, 0),
             m->complete ? "" : " (in part: a request came)");
}

bool placing_asked(const struct peer *node, uint64_t id)
{
    return id != 0 && (node->measure_id == id || node->probe_id == id);
}

static void measured_take(struct placing *pl, struct peer *node, const struct wire_frame *f)
{
    struct err e = {0};
    struct message_measured m;
    json_t *head = wire_frame_parse(f, &e);
    int rc = head ? 0 : e.code;

    node->measure_id = 0;
    if (rc == 0 && f->type == WIRE_MEASURED)
        rc = message_measured_parse(head, &m, &e);
    else if (rc == 0)
        rc = err_set(&e, ERR_UNSUPPORTED, "it answered with %s", wire_type_name(f->type));
    if (rc != 0)
        log_info("gateway", "node %s does not measure itself: %s", peer_name(node), e.message);
    else if (node->book)
        measured_learn(node, &m);
    node->measured = rc != 0 || m.complete;
    // It has worked and rested: what its power is it can tell by now.
    peer_send(node, wire_frame_json(WIRE_STATUS, pl->core->next_id++, NULL));
    node->measure_ns = clock_now_ns() + (node->measured ? MEASURE_AGAIN_NS : MEASURE_RETRY_NS);
    json_decref(head);
}

void placing_on_frame(struct placing *pl, struct peer *node, const struct wire_frame *f)
{
    if (f->id == node->probe_id)
        placing_links_on_frame(pl, node, f);
    else
        measured_take(pl, node, f);
}

// On the gateway's own machine, whose cores all of its workers share.
bool placing_is_here(const struct peer *node)
{
    return node->local || net_addr_is_loopback(&node->addr);
}

void placing_yield(struct placing *pl)
{
    struct core *c = pl->core;

    for (size_t i = 0; i < c->n_peers; i++) {
        struct peer *node = &c->peers[i];

        if (node->measure_id != 0 && placing_is_here(node))
            peer_send(node, wire_frame_json(WIRE_CANCEL, node->measure_id, NULL));
    }
    placing_links_yield(pl, NULL, NULL);
}

// One that emulates another machine has that machine to itself.
static bool share_machine(const struct peer *a, const struct peer *b)
{
    const char *id = a->welcome.node_id;

    return !a->welcome.paced && !b->welcome.paced &&
           ((placing_is_here(a) && placing_is_here(b)) ||
            (id[0] && strcmp(id, b->welcome.node_id) == 0));
}

// Two at once would each find the machine half as fast as it is.
static bool neighbour_measures(const struct core *c, const struct peer *node)
{
    for (size_t i = 0; i < c->n_peers; i++) {
        const struct peer *p = &c->peers[i];

        if (p != node && p->state == PEER_UP && p->measure_id != 0 && share_machine(p, node))
            return true;
    }
    return false;
}

static int64_t measure_tick(struct placing *pl, struct peer *node, int64_t now_ns)
{
    double budget_s = node->measured ? MEASURE_LIGHT_S : PROFILE_MEASURE_S;

    if (node->state != PEER_UP || !node->welcome.measures || !node->book)
        return INT64_MAX;
    if (now_ns < node->measure_ns)
        return node->measure_ns;
    node->measure_id = 0;
    if (placing_links_busy(pl, node))
        return now_ns + MEASURE_SETTLE_NS;
    if ((placing_is_here(node) ? pl->core->n_requests > 0 : request_count(pl->core, node) > 0) ||
        neighbour_measures(pl->core, node)) {
        node->measure_ns = now_ns + MEASURE_SETTLE_NS;
        return node->measure_ns;
    }
    node->measure_id = pl->core->next_id++;
    node->measure_ns = now_ns + MEASURE_GONE_NS;
    peer_send(node,
              wire_frame_json(WIRE_MEASURE, node->measure_id, message_measure_json(budget_s)));
    return node->measure_ns;
}

int64_t placing_tick(struct placing *pl, int64_t now_ns)
{
    struct core *c = pl->core;
    int64_t next_ns = INT64_MAX;

    profiles_tick(pl->profiles, now_ns);
    // One machine alone has nothing to choose.
    if (c->n_peers == c->n_models && c->options.n_upstreams == 0)
        return next_ns;
    for (size_t i = 0; i < c->n_peers; i++) {
        int64_t t = measure_tick(pl, &c->peers[i], now_ns);

        next_ns = t < next_ns ? t : next_ns;
    }
    if (c->n_peers > c->n_models) {
        int64_t t = placing_links_tick(pl, now_ns);

        next_ns = t < next_ns ? t : next_ns;
    }
    return next_ns;
}

// ---- learning ----------------------------------------------------------------------------------------------

// Returns the seconds of reading.
static double cost_learn(struct peer *node, const json_t *account)
{
    struct err e = {0};
    struct message_cost cost;
    double read_s = 0;

    if (!node->book || !account || message_cost_parse(account, &cost, &e) != 0)
        return 0;
    for (size_t i = 0; i < cost.n_reads; i++) {
        profile_learn_read(node->book, &cost.reads[i]);
        read_s += cost.reads[i].seconds;
    }
    if (cost.steps.steps > 0)
        profile_learn_steps(node->book, &cost.steps);
    if (cost.export.bytes > 0)
        profile_learn_export(node->book, cost.export.bytes, cost.export.seconds);
    if (cost.import.bytes > 0)
        profile_learn_import(node->book, cost.import.bytes, cost.import.seconds);
    return read_s;
}

// What the worker tells of a request begins when it takes it and ends with the last token; a busy one takes it late.
static void dispatch_learn(const struct request *r)
{
    const json_t *done = r->runs[0].done;
    double worked_s =
        json_number_or(done, "prefill_s", NAN) + json_number_or(done, "decode_s", NAN);

    if (r->decode->book && r->n_runs == 1 && r->choice.alone)
        profile_learn_dispatch(r->decode->book, ns_to_s(r->done_ns - r->decode_sent_ns) - worked_s);
}

void placing_learn(struct placing *pl, const struct request *r)
{
    const struct request_run *lead = &r->runs[0];
    const char *finish = json_string_value(json_object_get(lead->done, "finish"));
    double read_s;

    cost_learn(r->decode, lead->done);
    dispatch_learn(r);
    if (r->prefill && r->prefilled) {
        read_s = cost_learn(r->prefill, r->prefilled);
        placing_links_learn(pl, r, read_s);
    }
    // Answers that are told how long to be tell nothing.
    if (!r->in.generate.ignore_eos)
        expect_learn(pl->expect, r->model ? model_name(r->model) : r->served, r->key,
                     r->answer.choices[0].gen_tokens, finish && strcmp(finish, "length") == 0);
}
