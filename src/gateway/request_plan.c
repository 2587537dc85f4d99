// Who is asked for what: the frames that a request sends to workers, and the plan that decides which.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/core.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS_LEAST 512u // of an answer without max_tokens, where the context has room

// ---- what goes to workers ---------------------------------------------------------------------------

void request_phase_set(struct request *r, enum request_phase phase, int64_t for_ns)
{
    r->phase = phase;
    r->deadline_ns = for_ns == INT64_MAX ? INT64_MAX : clock_now_ns() + for_ns;
}

void request_run_open(struct request *r, size_t at)
{
    r->runs[at].open = true;
    r->n_open++;
}

void request_run_shut(struct request *r, size_t at)
{
    if (r->runs[at].open)
        r->n_open--;
    r->runs[at].open = false;
}

void request_decode_forget(struct request *r)
{
    for (size_t i = 0; i < r->n_runs; i++)
        request_run_shut(r, i);
}

void request_decode_cancel(struct request *r)
{
    for (size_t i = 0; i < r->n_runs; i++)
        if (r->runs[i].open)
            peer_send(r->decode, wire_frame_json(WIRE_CANCEL, r->id + i, NULL));
    request_decode_forget(r);
}

void request_prefill_cancel(struct request *r)
{
    if (r->prefill_open)
        peer_send(r->prefill, wire_frame_json(WIRE_CANCEL, r->id, NULL));
    r->prefill_open = false;
}

void request_ids_take(struct core *c, struct request *r, size_t n)
{
    request_index_remove(&c->index, r->id);
    r->id = c->next_id;
    r->n_ids = (uint32_t)n;
    c->next_id += n;
    request_index_add(&c->index, r, r->id, r->n_ids);
}

// An answer whose request sets no limit gets its share of the context, so that one chat does not
// keep the cells of all the others.
static uint32_t max_tokens(const struct request *r, uint32_t n_tokens, const struct peer *p)
{
    const struct engine_limits *l = &p->welcome.limits;
    uint32_t room = l->n_ctx - n_tokens, share, wanted = r->in.max_tokens;

    if (wanted == 0) {
        share = l->n_ctx / (l->n_seq > 0 ? l->n_seq : 1);
        wanted = share > n_tokens ? share - n_tokens : 0;
        wanted = wanted > MAX_TOKENS_LEAST ? wanted : MAX_TOKENS_LEAST;
    }
    wanted = wanted < room ? wanted : room;
    return wanted < MESSAGE_MAX_TOKENS ? wanted : MESSAGE_MAX_TOKENS;
}

uint32_t request_room(const struct request *r, const struct peer *p)
{
    return max_tokens(r, r->inputs[0].n_tokens, p);
}

// One run's GENERATE, to r->decode.
static void send_run(struct core *c, struct request *r, size_t at, bool hand_off)
{
    struct message_generate *g = &r->in.generate;
    const struct request_input *in = &r->inputs[at / r->in.n];
    uint32_t seed = g->sampling.seed;

    if (r->decode->upstream) {
        upstream_run(c, r, at);
        return;
    }
    g->epoch = r->epoch;
    g->max_tokens = max_tokens(r, in->n_tokens, r->decode);
    g->handoff = r->handoff;
    g->handoff.present = hand_off;
    g->sampling.seed = seed + (uint32_t)(at % r->in.n);
    request_run_open(r, at);
    peer_send(r->decode, wire_frame_tokens(WIRE_GENERATE, r->id + at, message_generate_json(g),
                                           in->tokens, in->n_tokens));
    g->sampling.seed = seed;
}

static void send_generate(struct core *c, struct request *r, struct peer *p, bool hand_off)
{
    peer_expect(c, r, p);
    r->decode = p;
    r->decode_sent_ns = clock_now_ns();
    r->followed = false;
    r->in.generate.whole = c->n_peers == c->n_models; // there is no node that could have read it
    request_phase_set(r, REQUEST_GENERATE, INT64_MAX);
    send_run(c, r, 0, hand_off);
    request_remember(r, p, false);
}

void request_generate(struct core *c, struct request *r)
{
    send_generate(c, r, r->choice.decode, true);
}

void request_follow(struct core *c, struct request *r)
{
    if (r->followed)
        return;
    r->followed = true;
    peer_expect(c, r, r->decode);
    for (size_t i = 1; i < r->n_runs; i++)
        send_run(c, r, i, false);
}

// ---- what workers hold --------------------------------------------------------------------------------

void request_remember(const struct request *r, struct peer *p, bool answer)
{
    const struct message_generate *g = &r->in.generate;
    const struct request_input *in = &r->inputs[0];
    const struct request_run *run = &r->runs[0];
    // The last token of an answer is never computed.
    size_t n = in->n_tokens, more = answer && run->n_written > 0 ? run->n_written - 1 : 0;
    int32_t *all;
    char space[SHIP_SPACE_BYTES];

    if (!g->keep || !p->guess)
        return;
    ship_space(g, space);
    if (more == 0) {
        guess_put(p->guess, space, in->tokens, n);
        return;
    }
    all = mem_alloc((n + more) * sizeof(*all));
    memcpy(all, in->tokens, n * sizeof(*all));
    memcpy(all + n, run->written, more * sizeof(*all));
    guess_put(p->guess, space, all, n + more);
    free(all);
}

static void guess_correct(struct peer *p, uint32_t thought, const json_t *account)
{
    double told = json_number_or(account, "tokens_cached", 0);

    if (p->guess && thought > told + 2.0 * GUESS_BLOCK_TOKENS)
        guess_clear(p->guess);
}

void request_correct(const struct request *r)
{
    const struct place_plan *plan = &r->choice.plan;

    guess_correct(r->decode, r->decode->local ? r->n_held : plan->held_decode, r->runs[0].done);
    request_remember(r, r->decode, true);
    if (!r->prefill || !r->prefilled)
        return;
    guess_correct(r->prefill, plan->held_prefill, r->prefilled);
    request_remember(r, r->prefill, false);
}

uint32_t request_held(const struct request *r, const struct peer *p)
{
    const struct request_input *in = &r->inputs[0];
    char space[SHIP_SPACE_BYTES];

    if (!r->in.generate.reuse || !p->guess)
        return 0;
    ship_space(&r->in.generate, space);
    return guess_find(p->guess, space, in->tokens, in->n_tokens);
}

// ---- the prefill node's part --------------------------------------------------------------------------

static void ticket_make(struct core *c, struct request *r)
{
    struct net_addr a;
    struct message_handoff *h = &r->handoff;
    uint8_t random[MESSAGE_TICKET_HEX / 2];

    fleet_address(r->choice.decode, r->prefill, &a);
    memset(h, 0, sizeof(*h));
    snprintf(h->host, sizeof(h->host), "%s", a.host);
    h->port = a.port;
    os_random(random, sizeof(random));
    hex_encode(random, sizeof(random), h->ticket);
    os_random(&h->transfer, sizeof(h->transfer));
    h->transfer = (h->transfer >> 1) | 1; // fits a JSON integer, and is not 0
    h->upto = r->choice.upto;
    h->stall_s = c->options.stall_s;
    h->serial = r->choice.kind == PLACE_SERIAL;
    h->same_weights = c->options.same_weights;
}

static void send_prefill(struct core *c, struct request *r)
{
    struct message_prefill m = {
        .epoch = r->epoch,
        .timeline = r->in.generate.timeline,
        .keep = r->in.generate.keep,
        .reuse = r->in.generate.reuse,
        .upto = r->choice.upto,
        .link_bytes_per_s = placing_link_rate(c->placing, r->prefill, r->choice.decode),
    };

    ticket_make(c, r);
    m.transfer = r->handoff.transfer;
    m.serial = r->handoff.serial;
    memcpy(m.ticket, r->handoff.ticket, sizeof(m.ticket));
    memcpy(m.owner, r->in.generate.owner, sizeof(m.owner));
    m.adapter = r->in.generate.adapter;
    r->prefill_open = true;
    r->prefill_sent_ns = clock_now_ns();
    request_phase_set(r, REQUEST_OFFER, (int64_t)(c->options.stall_s * 1e9));
    peer_send(r->prefill, wire_frame_tokens(WIRE_PREFILL, r->id, message_prefill_json(&m),
                                            r->inputs[0].tokens, r->inputs[0].n_tokens));
    request_remember(r, r->prefill, false);
}

void request_abandon(struct request *r, const char *reason)
{
    json_t *head = json_object();

    json_put(head, "reason", answer_string(reason));
    peer_send(r->decode, wire_frame_json(WIRE_ABANDON, r->id, head));
}

// ---- planning -----------------------------------------------------------------------------------------

bool request_is_placed(const struct request *r)
{
    return !r->over && r->choice.decode &&
           (r->phase == REQUEST_OFFER || r->phase == REQUEST_GENERATE);
}

bool request_is_on(const struct request *r, const struct peer *p)
{
    return (r->prefill_open && r->prefill == p) || (r->n_open > 0 && r->decode == p) ||
           (r->phase == REQUEST_OFFER && r->choice.decode == p);
}

uint32_t request_count(const struct core *c, const struct peer *p)
{
    uint32_t n = 0;

    for (const struct request *r = c->requests; r; r = r->next)
        n += request_is_on(r, p);
    return n;
}

static void plan_begin(struct core *c, struct request *r)
{
    placing_commit(c->placing, r);
    r->placed_ns = clock_now_ns();
    snprintf(r->fallback, sizeof(r->fallback), "%s", r->choice.fallback);
    r->prefill = r->choice.prefill;
    r->prefill_sent_ns = 0;
    // New numbers as well, so that the last words of an earlier plan's workers concern nobody.
    request_ids_take(c, r, r->n_runs);
    r->epoch++;
    if (!r->prefill) {
        send_generate(c, r, r->choice.decode, false);
        return;
    }
    peer_expect(c, r, r->prefill);
    peer_expect(c, r, r->choice.decode);
    send_prefill(c, r);
}

// A prompt with images is read by the worker that prepared them.
static void plan_images(struct core *c, struct request *r)
{
    static const char why[] = "images are read where they were prepared";

    r->choice = (struct placing_choice){.kind = PLACE_LOCAL, .decode = request_home(r)};
    snprintf(r->choice.reason, sizeof(r->choice.reason), "%s", why);
    if (r->in.plan != PLACE_AUTO && r->in.plan != PLACE_LOCAL)
        snprintf(r->choice.fallback, sizeof(r->choice.fallback), "plan \"%s\" was asked for; %s",
                 place_kind_name(r->in.plan), why);
    plan_begin(c, r);
}

void request_plan(struct core *c, struct request *r)
{
    const struct request_fault no_node = {
        .status = 503, .code = "no_prefill_node", .param = "tandem.plan"};
    struct err e = {0};

    placing_yield(c->placing);
    r->n_held = request_held(r, request_home(r));
    if (r->in.generate.media) {
        plan_images(c, r);
    } else if (placing_choose(c->placing, r, &r->choice)) {
        log_debug("gateway", "placed: id=%s %s", r->answer.id, r->choice.reason);
        plan_begin(c, r);
    } else {
        err_set(&e, ERR_BUSY, "plan \"%s\" cannot be had: %s", place_kind_name(r->in.plan),
                r->choice.reason);
        request_fail_as(c, r, no_node, &e);
    }
}

// Nobody has done anything for it yet: another place costs nothing but its turn here.
static bool still_waits(const struct request *r)
{
    return (r->phase == REQUEST_OFFER || r->phase == REQUEST_GENERATE) && !r->begun &&
           r->read_tokens == 0 && r->first_token_ns == 0 && !r->over;
}

// It was remembered where it was sent, before anything of it was read there. For a choice only what was held
// before counts: else it would always stay, and always seem to be where it has been.
static void waiting_forget(const struct request *r, struct peer *p, uint32_t held)
{
    const struct request_input *in = &r->inputs[0];
    char space[SHIP_SPACE_BYTES];

    if (!p || !p->guess || !r->in.generate.keep)
        return;
    ship_space(&r->in.generate, space);
    guess_drop(p->guess, space, in->tokens, in->n_tokens, held);
}

static void waiting_remember(const struct request *r)
{
    if (r->prefill_open)
        request_remember(r, r->prefill, false);
    if (r->phase == REQUEST_GENERATE)
        request_remember(r, r->decode, false);
}

static bool same_place(const struct placing_choice *a, const struct placing_choice *b)
{
    return a->kind == b->kind && a->decode == b->decode && a->prefill == b->prefill;
}

// A few times at most, each time later: placement's own inertia keeps near-equal plans from taking turns.
int64_t request_replan(struct core *c, struct request *r, int64_t now_ns)
{
    struct placing_choice again;

    if (r->replans == REQUEST_REPLANS || r->in.plan != PLACE_AUTO || !r->choice.predicted ||
        r->choice.decode->upstream || !still_waits(r))
        return INT64_MAX;
    if (r->replan_ns == 0)
        r->replan_ns = now_ns + REQUEST_REPLAN_NS;
    if (now_ns < r->replan_ns)
        return r->replan_ns;
    r->replan_ns = now_ns + (REQUEST_REPLAN_NS << ++r->replans);
    waiting_forget(r, r->choice.decode, r->choice.plan.held_decode);
    waiting_forget(r, r->choice.prefill, r->choice.plan.held_prefill);
    if (!placing_choose(c->placing, r, &again) || same_place(&again, &r->choice)) {
        waiting_remember(r);
        return r->replan_ns;
    }
    log_info("gateway", "planned again: id=%s was=\"%s\" now=\"%s\"", r->answer.id,
             r->choice.reason, again.reason);
    c->metrics.replans++;
    request_decode_cancel(r);
    request_prefill_cancel(r);
    r->choice = again;
    plan_begin(c, r);
    return r->replan_ns;
}

void request_plan_local(struct core *c, struct request *r, const char *why)
{
    request_prefill_cancel(r);
    r->replans = REQUEST_REPLANS; // what has just failed it would choose again
    r->read_tokens = 0;           // nobody has what was read elsewhere
    r->prefill = NULL;
    r->choice.kind = PLACE_LOCAL;
    r->choice.decode = request_home(r);
    r->choice.prefill = NULL;
    r->choice.held = request_held(r, request_home(r));
    r->choice.upto = r->inputs[0].n_tokens - 1;
    snprintf(r->fallback, sizeof(r->fallback), "%s", why);
    if (request_home(r)->state == PEER_UP)
        send_generate(c, r, request_home(r), false);
    else
        request_phase_set(r, REQUEST_WAIT, REQUEST_WAIT_NS);
}
