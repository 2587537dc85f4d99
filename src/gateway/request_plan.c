// Who is asked for what: the frames that a request sends to workers, and the plan that decides which.
#include "base/buf.h"
#include "base/clock.h"
#include "gateway/core.h"
#include "os/os.h"

#include <stdio.h>
#include <string.h>

#define MAX_TOKENS_LEAST 512u // of an answer without max_tokens, where the context has room

// ---- what goes to workers ---------------------------------------------------------------------------

void request_phase_set(struct request *r, enum request_phase phase, int64_t for_ns)
{
    r->phase = phase;
    r->deadline_ns = for_ns == INT64_MAX ? INT64_MAX : clock_now_ns() + for_ns;
}

void request_decode_cancel(struct request *r)
{
    if (r->decode_open)
        peer_send(r->decode, wire_frame_json(WIRE_CANCEL, r->id, NULL));
    r->decode_open = false;
}

void request_prefill_cancel(struct request *r)
{
    if (r->prefill_open)
        peer_send(r->prefill, wire_frame_json(WIRE_CANCEL, r->id, NULL));
    r->prefill_open = false;
}

void request_render(struct core *c, struct request *r)
{
    r->id = c->next_id++;
    peer_expect(c, core_local(c));
    r->decode = core_local(c);
    r->decode_open = true;
    request_phase_set(r, REQUEST_RENDER, REQUEST_RENDER_NS);
    peer_send(r->decode, wire_frame_json(WIRE_RENDER, r->id, json_incref(r->in.render)));
}

// An answer whose request sets no limit gets its share of the context, so that one chat does not
// keep the cells of all the others.
static uint32_t max_tokens(const struct request *r, const struct peer *p)
{
    const struct engine_limits *l = &p->welcome.limits;
    uint32_t room = l->n_ctx - r->n_tokens, share, wanted = r->in.max_tokens;

    if (wanted == 0) {
        share = l->n_ctx / (l->n_seq > 0 ? l->n_seq : 1);
        wanted = share > r->n_tokens ? share - r->n_tokens : 0;
        wanted = wanted > MAX_TOKENS_LEAST ? wanted : MAX_TOKENS_LEAST;
    }
    wanted = wanted < room ? wanted : room;
    return wanted < MESSAGE_MAX_TOKENS ? wanted : MESSAGE_MAX_TOKENS;
}

static void send_generate(struct core *c, struct request *r, struct peer *p, bool hand_off)
{
    struct message_generate *g = &r->in.generate;

    peer_expect(c, p);
    g->epoch = r->epoch;
    g->max_tokens = max_tokens(r, p);
    g->handoff = r->handoff;
    g->handoff.present = hand_off;
    r->decode = p;
    r->decode_open = true;
    r->decode_sent_ns = clock_now_ns();
    request_phase_set(r, REQUEST_GENERATE, INT64_MAX);
    peer_send(p, wire_frame_tokens(WIRE_GENERATE, r->id, message_generate_json(g), r->tokens,
                                   r->n_tokens));
}

void request_generate(struct core *c, struct request *r)
{
    send_generate(c, r, core_local(c), true);
}

static void ticket_make(struct core *c, struct request *r)
{
    const struct net_addr *a = &c->options.prefill[r->prefill->index - 1];
    struct message_handoff *h = &r->handoff;
    uint8_t random[MESSAGE_TICKET_HEX / 2];

    memset(h, 0, sizeof(*h));
    snprintf(h->host, sizeof(h->host), "%s", a->host);
    h->port = a->port;
    os_random(random, sizeof(random));
    hex_encode(random, sizeof(random), h->ticket);
    os_random(&h->transfer, sizeof(h->transfer));
    h->transfer = (h->transfer >> 1) | 1; // fits a JSON integer, and is not 0
    h->stall_s = c->options.stall_s;
    h->serial = r->choice.plan == SCHED_SERIAL;
    h->same_weights = c->options.same_weights;
}

static void send_prefill(struct core *c, struct request *r)
{
    struct message_prefill m = {
        .epoch = r->epoch,
        .timeline = r->in.generate.timeline,
        .upto = r->n_tokens - 1,
        .link_bytes_per_s = r->prefill->link_bytes_per_s,
    };

    ticket_make(c, r);
    m.transfer = r->handoff.transfer;
    m.serial = r->handoff.serial;
    memcpy(m.ticket, r->handoff.ticket, sizeof(m.ticket));
    r->prefill_open = true;
    r->prefill_sent_ns = clock_now_ns();
    request_phase_set(r, REQUEST_OFFER, (int64_t)(c->options.stall_s * 1e9));
    peer_send(r->prefill, wire_frame_tokens(WIRE_PREFILL, r->id, message_prefill_json(&m),
                                            r->tokens, r->n_tokens));
}

void request_abandon(struct request *r, const char *reason)
{
    json_t *head = json_object();

    json_object_set_new(head, "reason", answer_string(reason));
    peer_send(r->decode, wire_frame_json(WIRE_ABANDON, r->id, head));
}

// ---- planning -----------------------------------------------------------------------------------------

uint32_t request_count(const struct core *c, const struct peer *p)
{
    uint32_t n = 0;

    for (const struct request *r = c->requests; r; r = r->next)
        n += (r->prefill_open && r->prefill == p) || (r->decode_open && r->decode == p);
    return n;
}

static void nodes_fill(const struct core *c, struct sched_node *nodes)
{
    for (size_t i = 1; i < c->n_peers; i++) {
        const struct peer *p = &c->peers[i];
        const struct engine_limits *l = &p->welcome.limits;

        nodes[i - 1] = (struct sched_node){
            .name = peer_name(p),
            .up = p->state == PEER_UP,
            .why = p->why,
            .n_ctx = l->n_ctx,
            // Two probes, say on two backends, may have found different modes.
            .hands_off = l->handoff != ENGINE_HANDOFF_NONE &&
                         l->handoff == c->peers[0].welcome.limits.handoff,
            .requests = request_count(c, p),
            .prefill_tokens_per_s = p->welcome.prefill_tokens_per_s,
        };
    }
}

static void plan_begin(struct core *c, struct request *r)
{
    snprintf(r->fallback, sizeof(r->fallback), "%s", r->choice.fallback);
    r->prefill = NULL;
    r->prefill_sent_ns = 0;
    // A new number as well, so that the last words of an earlier plan's workers concern nobody.
    r->id = c->next_id++;
    r->epoch++;
    if (r->choice.plan == SCHED_LOCAL) {
        send_generate(c, r, core_local(c), false);
    } else if (r->choice.plan == SCHED_REMOTE) {
        send_generate(c, r, &c->peers[1 + r->choice.node], false);
    } else {
        peer_expect(c, &c->peers[1 + r->choice.node]);
        r->prefill = &c->peers[1 + r->choice.node];
        send_prefill(c, r);
    }
}

void request_plan(struct core *c, struct request *r)
{
    struct sched_node nodes[GATEWAY_PREFILL_MAX];
    struct sched_facts facts = {
        .wish = r->in.plan,
        .prompt_tokens = r->n_tokens,
        .threshold_tokens = GATEWAY_HYBRID_TOKENS,
        .local_hands_off = core_local(c)->welcome.limits.handoff != ENGINE_HANDOFF_NONE,
        .nodes = nodes,
        .n_nodes = c->n_peers - 1,
    };
    const struct request_fault no_node = {
        .status = 503, .code = "no_prefill_node", .param = "tandem.plan"};
    struct err e = {0};

    nodes_fill(c, nodes);
    if (sched_choose(&facts, &r->choice)) {
        plan_begin(c, r);
        return;
    }
    err_set(&e, ERR_BUSY, "plan \"remote\" cannot be had: %s", r->choice.reason);
    request_fail_as(c, r, no_node, &e);
}

void request_plan_local(struct core *c, struct request *r, const char *why)
{
    request_prefill_cancel(r);
    r->prefill = NULL;
    r->choice.plan = SCHED_LOCAL;
    snprintf(r->fallback, sizeof(r->fallback), "%s", why);
    if (core_local(c)->state == PEER_UP)
        send_generate(c, r, core_local(c), false);
    else
        request_phase_set(r, REQUEST_WAIT, REQUEST_WAIT_NS);
}
