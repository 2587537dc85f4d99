// Links between nodes: measured while both ends are idle, learned from hand-offs, told.
//
// A pair is a node that would write answers and another one that would read prompts for it. The first of them is asked
// (MEASURE_LINK), one pair at a time, so that no two measurements share a link: the pairs of each model's own worker
// come first. Requests go before: one that concerns either end, or this machine where an end is on it, ends the
// measurement, which is taken up later.
#include "gateway/placing_impl.h"

#include "base/json.h"
#include "base/log.h"
#include "gateway/answer.h"
#include "gateway/metrics.h"

#include <math.h>
#include <string.h>

#define LINK_SETTLE_NS (NS_PER_S / 2)
#define LINK_AGAIN_NS (600 * NS_PER_S)
#define LINK_RETRY_NS (10 * NS_PER_S)            // when a request came in between
#define LINK_FAILED_NS (120 * NS_PER_S)          // it cannot be reached, say
#define LINK_PATIENCE_NS (8 * NS_PER_S)          // the worker gives up before
#define LINK_PAIRS (PLACE_NODES * PLACE_READERS) // of one model

static int64_t *due_of(struct placing *pl, const struct peer *decode, const struct peer *prefill)
{
    return &pl->probes.due_ns[decode->index][prefill->index];
}

// KV can pass from the one to the other as far as can be told from here.
static bool is_pair(const struct core *c, const struct peer *decode, const struct peer *prefill)
{
    return decode != prefill && !prefill->local && decode->known && prefill->known &&
           decode->model && decode->model == prefill->model &&
           decode->welcome.limits.handoff != ENGINE_HANDOFF_NONE &&
           decode->welcome.limits.handoff == prefill->welcome.limits.handoff &&
           !fleet_pair_why(c, decode, prefill);
}

// ---- asking ------------------------------------------------------------------------------------------------

bool placing_links_busy(const struct placing *pl, const struct peer *node)
{
    const struct placing_probes *p = &pl->probes;

    return p->decode && (p->decode == node || p->prefill == node);
}

static void probe_over(struct placing *pl, int64_t again_ns)
{
    struct placing_probes *p = &pl->probes;

    *due_of(pl, p->decode, p->prefill) = clock_now_ns() + again_ns;
    p->decode->probe_id = 0;
    p->decode = p->prefill = NULL;
}

void placing_links_greet(struct placing *pl, struct peer *node)
{
    int64_t due_ns = clock_now_ns() + LINK_SETTLE_NS;

    node->probe_id = 0;
    if (placing_links_busy(pl, node))
        probe_over(pl, LINK_SETTLE_NS);
    for (size_t i = 0; i < CORE_PEERS_MAX; i++)
        pl->probes.due_ns[node->index][i] = pl->probes.due_ns[i][node->index] = due_ns;
}

// What is known of a node comes first: its own measurement, which nothing else may disturb.
static bool is_settled(const struct peer *p)
{
    return p->state == PEER_UP && p->welcome.links && p->measure_id == 0 && p->probe_id == 0 &&
           (p->measured || !p->welcome.measures);
}

static bool is_idle(const struct core *c, const struct peer *decode, const struct peer *prefill)
{
    if (placing_is_here(decode) || placing_is_here(prefill))
        return c->n_requests == 0;
    return request_count(c, decode) == 0 && request_count(c, prefill) == 0;
}

static void probe_begin(struct placing *pl, struct peer *decode, struct peer *prefill,
                        int64_t now_ns)
{
    struct core *c = pl->core;
    struct net_addr a;
    struct message_measure_link m = {.same_weights = c->options.same_weights,
                                     .stall_s = c->options.stall_s};

    fleet_address(decode, prefill, &a);
    memcpy(m.host, a.host, sizeof(m.host));
    m.port = a.port;
    decode->probe_id = c->next_id++;
    pl->probes.decode = decode;
    pl->probes.prefill = prefill;
    pl->probes.until_ns = now_ns + LINK_PATIENCE_NS;
    peer_send(decode,
              wire_frame_json(WIRE_MEASURE_LINK, decode->probe_id, message_measure_link_json(&m)));
}

// When the pair wants to be looked at again; 0: it is measured now.
static int64_t pair_look(struct placing *pl, struct peer *decode, struct peer *prefill,
                         int64_t now_ns)
{
    if (!is_settled(decode) || !is_settled(prefill))
        return now_ns + LINK_SETTLE_NS;
    if (now_ns < *due_of(pl, decode, prefill))
        return *due_of(pl, decode, prefill);
    // Not at once when it has become so: the moment between two requests is no rest.
    if (!is_idle(pl->core, decode, prefill)) {
        *due_of(pl, decode, prefill) = now_ns + LINK_SETTLE_NS;
        return now_ns + LINK_SETTLE_NS;
    }
    probe_begin(pl, decode, prefill, now_ns);
    return 0;
}

// The readers of one writer; *n counts the pairs of its model.
static int64_t writer_look(struct placing *pl, struct peer *decode, size_t *n, int64_t now_ns)
{
    struct core *c = pl->core;
    int64_t next_ns = INT64_MAX;

    for (size_t i = c->n_models; i < c->n_peers && *n < LINK_PAIRS; i++) {
        struct peer *prefill = &c->peers[i];
        int64_t t;

        if (!is_pair(c, decode, prefill) || !decode->welcome.links || !prefill->welcome.links)
            continue;
        ++*n;
        t = pair_look(pl, decode, prefill, now_ns);
        if (t == 0)
            return 0;
        next_ns = t < next_ns ? t : next_ns;
    }
    return next_ns;
}

static int64_t model_look(struct placing *pl, struct model *m, int64_t now_ns)
{
    struct core *c = pl->core;
    size_t n = 0;
    int64_t next_ns = writer_look(pl, m->peer, &n, now_ns);

    for (size_t i = c->n_models; next_ns > 0 && i < c->n_peers; i++) {
        int64_t t = c->peers[i].model == m && c->peers[i].state == PEER_UP
                        ? writer_look(pl, &c->peers[i], &n, now_ns)
                        : INT64_MAX;

        next_ns = t < next_ns ? t : next_ns;
    }
    return next_ns;
}

int64_t placing_links_tick(struct placing *pl, int64_t now_ns)
{
    struct placing_probes *p = &pl->probes;
    int64_t next_ns = INT64_MAX;

    if (p->decode && now_ns < p->until_ns)
        return p->until_ns;
    if (p->decode)
        probe_over(pl, LINK_FAILED_NS);
    for (size_t i = 0; next_ns > 0 && i < pl->core->n_models; i++) {
        int64_t t = model_look(pl, &pl->core->models[i], now_ns);

        next_ns = t < next_ns ? t : next_ns;
    }
    return next_ns > 0 ? next_ns : p->until_ns;
}

void placing_links_yield(struct placing *pl, const struct peer *a, const struct peer *b)
{
    struct placing_probes *p = &pl->probes;

    if (!p->decode)
        return;
    if (placing_is_here(p->decode) || placing_is_here(p->prefill) ||
        (a && placing_links_busy(pl, a)) || (b && placing_links_busy(pl, b)))
        peer_send(p->decode, wire_frame_json(WIRE_CANCEL, p->decode->probe_id, NULL));
}

// ---- learning ----------------------------------------------------------------------------------------------

static void measured_learn(struct placing *pl, const struct message_measured_link *m)
{
    struct peer *decode = pl->probes.decode, *prefill = pl->probes.prefill;
    struct profile_link_book *b = placing_link_book(pl, prefill, decode);

    if (!b)
        return;
    if (m->rtt_s > 0)
        profile_learn_rtt(b, m->rtt_s);
    if (m->up.bytes > 0)
        profile_learn_up(b, m->up.bytes, m->up.seconds);
    if (m->down.bytes > 0)
        profile_learn_down(b, m->down.bytes, m->down.seconds);
    if (m->up.bytes > 0 && prefill->link_bytes_per_s <= 0)
        prefill->link_bytes_per_s = m->up.bytes / m->up.seconds;
    log_info("gateway", "link %s > %s: rtt_s=%.3g up_bytes_per_s=%.3g down_bytes_per_s=%.3g%s",
             peer_name(prefill), peer_name(decode), b->link.rtt_s, b->link.up_bytes_per_s,
             b->link.down_bytes_per_s, m->complete ? "" : " (in part: a request came)");
}

void placing_links_on_frame(struct placing *pl, struct peer *node, const struct wire_frame *f)
{
    struct err e = {0};
    struct message_measured_link m = {0};
    json_t *head = wire_frame_parse(f, &e);
    const char *said = head ? json_string_value(json_object_get(head, "message")) : NULL;
    int rc = head ? 0 : e.code;

    if (rc == 0 && f->type == WIRE_MEASURED_LINK)
        rc = message_measured_link_parse(head, &m, &e);
    else if (rc == 0)
        rc = err_set(&e, ERR_UNSUPPORTED, "%.200s", said ? said : wire_type_name(f->type));
    if (pl->probes.decode != node) {
        node->probe_id = 0; // its time was over
    } else if (rc != 0) {
        log_info("gateway", "link %s > %s is not measured: %s", peer_name(pl->probes.prefill),
                 peer_name(node), e.message);
        probe_over(pl, LINK_FAILED_NS);
    } else {
        measured_learn(pl, &m);
        probe_over(pl, m.complete ? LINK_AGAIN_NS : LINK_RETRY_NS);
    }
    json_decref(head);
}

// What crossed of a request, as its decode worker saw it; one of an older release leaves that to the prefill
// worker, whose figure is of its link and not of this hand-off. seconds 0: nothing can be told.
static struct message_moved crossed(const struct request *r, double bytes)
{
    struct message_moved m = {0};
    struct err e = {0};
    double rate = json_number_or(r->prefilled, "link_bytes_per_s", 0);

    // What two transfers shared would be divided by two again where placement counts the transfers.
    if (json_is_true(json_object_get(r->prefilled, "shared")))
        return m;
    if (!json_object_get(r->runs[0].done, "link") && rate > 0)
        m = (struct message_moved){bytes, bytes / rate};
    else if (message_moved_parse(r->runs[0].done, "link", &m, &e) != 0)
        m = (struct message_moved){0};
    return m;
}

void placing_links_learn(struct placing *pl, const struct request *r, double read_s)
{
    struct profile_link_book *b = placing_link_book(pl, r->prefill, r->decode);
    double bytes = json_number_or(r->prefilled, "kv_bytes", 0);
    double end_s = json_number_or(r->runs[0].done, "handoff_end_s", NAN);
    double arrived_s = end_s + ns_to_s(r->decode_sent_ns - r->prefill_sent_ns);
    struct message_moved m;
    double rate;

    if (!b || !(bytes > 0))
        return;
    m = crossed(r, bytes);
    if (m.bytes > 0) {
        profile_learn_up(b, m.bytes, m.seconds);
        r->prefill->link_bytes_per_s = m.bytes / m.seconds;
    }
    rate = m.bytes > 0 ? m.bytes / m.seconds : b->link.up_bytes_per_s;
    if (r->choice.alone && read_s > 0 && isfinite(arrived_s))
        profile_learn_handoff(b, arrived_s, read_s, bytes / rate);
}

double placing_link_rate(struct placing *pl, const struct peer *prefill, const struct peer *decode)
{
    const struct profile_link_book *b = placing_link_book(pl, prefill, decode);

    return b && b->up.samples > 0 ? b->link.up_bytes_per_s : prefill->link_bytes_per_s;
}

// ---- telling -----------------------------------------------------------------------------------------------

// A figure that nothing was learned of is a guess of ours, and not told.
static double known(const struct profile_fit *f, double value)
{
    return f->samples > 0 ? value : NAN;
}

void placing_links_each(struct placing *pl, placing_link_fn *fn, void *ctx)
{
    const struct core *c = pl->core;

    for (size_t d = 0; d < c->n_peers; d++)
        for (size_t p = c->n_models; p < c->n_peers; p++) {
            const struct peer *decode = &c->peers[d], *prefill = &c->peers[p];
            const struct profile_link_book *b =
                is_pair(c, decode, prefill) ? placing_link_book(pl, prefill, decode) : NULL;
            struct placing_link_known k;

            if (!b)
                continue;
            k = (struct placing_link_known){prefill,
                                            decode,
                                            known(&b->rtt, b->link.rtt_s),
                                            known(&b->up, b->link.up_bytes_per_s),
                                            known(&b->down, b->link.down_bytes_per_s),
                                            known(&b->setup, b->link.setup_s),
                                            b->rtt.samples + b->up.samples + b->down.samples +
                                                b->setup.samples};
            if (k.samples > 0)
                fn(ctx, &k);
        }
}

static json_t *real_or_null(double v)
{
    return isnan(v) ? json_null() : json_real(v);
}

static void link_append(void *ctx, const struct placing_link_known *k)
{
    json_t *o = json_object();

    json_put(o, "from", answer_string(peer_name(k->from)));
    json_put(o, "from_address", answer_string(k->from->address));
    json_put(o, "to", answer_string(peer_name(k->to)));
    json_put(o, "to_address", answer_string(k->to->address));
    json_put(o, "rtt_s", real_or_null(k->rtt_s));
    json_put(o, "up_bytes_per_s", real_or_null(k->up_bytes_per_s));
    json_put(o, "down_bytes_per_s", real_or_null(k->down_bytes_per_s));
    json_put(o, "setup_s", real_or_null(k->setup_s));
    json_put(o, "samples", json_real(k->samples));
    json_array_append_new(ctx, o);
}

json_t *placing_links_json(struct placing *pl)
{
    json_t *list = json_array();

    placing_links_each(pl, link_append, list);
    return list;
}
