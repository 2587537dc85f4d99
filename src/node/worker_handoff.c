// The receiving side of a hand-off. The decode worker dials the prefill worker (so that it needs no
// open port of its own), pulls the transfer its ticket names, and imports segment after segment. If
// anything is wrong with link, peer or bytes, it reads on by itself from the last committed token.
#include "base/log.h"
#include "node/worker.h"

#include <stdlib.h>

// From a link's socket to the engine thread, for a small segment whose sender waits for a block of ours.
#define IMPORT_WAIT_NS (NS_PER_MS / 2)
#define CROSSED_LEAST_BYTES (64u << 10)
#define CROSSED_LEAST_S 0.01
#define CROSSED_PLENTY_BYTES (1u << 20)

static bool handoff_partial(const struct worker *w)
{
    // Only complete ranges leave a sequence that can go on from the middle.
    return w->engine->limits.handoff == ENGINE_HANDOFF_RANGES;
}

bool worker_handoff_partial(const struct worker *w)
{
    return handoff_partial(w) && w->engine->limits.cuts;
}

uint32_t worker_handoff_upto(const struct worker_job *j)
{
    uint32_t last = j->n_tokens - 1, upto = j->generate.handoff.upto;
    return upto > 0 && upto < last ? upto : last;
}

uint32_t worker_handoff_committed(const struct worker *w, const struct worker_job *j)
{
    return j->receiving && worker_handoff_partial(w) ? j->receive.next_p0 : 0;
}

int worker_handoff_peer(struct worker *w, const char *host, uint16_t port)
{
    int free_slot = -1;
    for (int i = 0; i < WORKER_PEERS; i++) {
        struct worker_peer *p = &w->peers[i];
        if (p->state == WORKER_PEER_FREE)
            free_slot = free_slot < 0 ? i : free_slot;
        else if (p->addr.port == port && strcmp(p->addr.host, host) == 0)
            return i;
    }
    if (free_slot >= 0) {
        struct worker_peer *p = &w->peers[free_slot];
        snprintf(p->addr.host, sizeof p->addr.host, "%s", host);
        p->addr.port = port;
    }
    return free_slot;
}

static void pull_send(struct worker *w, struct worker_job *j)
{
    json_t *head =
        json_pack("{s:s,s:i}", "ticket", j->generate.handoff.ticket, "from", (int)j->computed);
    if (j->adapter_sha256[0] != '\0')
        json_put(head, "adapter", json_string(j->adapter_sha256));
    worker_link_send(w->peers[j->peer].link,
                     wire_frame_json(WIRE_PULL, j->generate.handoff.transfer, head));
}

void worker_handoff_begin(struct worker *w, struct worker_job *j)
{
    const struct message_handoff *h = &j->generate.handoff;
    struct worker_peer *p = NULL;

    j->phase = WORKER_HANDOFF;
    j->heard_ns = clock_now_ns();
    kv_receive_init(&j->receive, h->transfer, j->generate.epoch, j->tokens, j->computed,
                    worker_handoff_upto(j), w->engine->identity.n_layer);
    j->receiving = true;
    j->peer = worker_handoff_peer(w, h->host, h->port);
    if (j->peer < 0) {
        worker_handoff_lost(w, j, "no room for another prefill peer");
        return;
    }
    p = &w->peers[j->peer];
    if (p->state == WORKER_PEER_UP) {
        pull_send(w, j);
    } else if (p->state == WORKER_PEER_FREE) {
        p->state = WORKER_PEER_DIALING;
        worker_dial_start(w, (uint32_t)j->peer, (int64_t)(h->stall_s * 1e9), h->same_weights);
    }
}

void worker_handoff_dialed(struct worker *w, const struct worker_event *ev)
{
    struct worker_peer *p = &w->peers[ev->peer];
    char why[ERR_MESSAGE_BYTES + 64];
    struct worker_job *next = NULL;

    p->link = ev->link;
    p->state = ev->link != NULL ? WORKER_PEER_UP : WORKER_PEER_FREE;
    snprintf(why, sizeof why, "prefill node %s:%u: %s", p->addr.host, p->addr.port,
             ev->error.message);
    if (ev->link == NULL)
        log_warn("worker", "cannot reach %s", why);
    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if (j->phase != WORKER_HANDOFF || j->peer != (int)ev->peer)
            continue;
        if (ev->link != NULL) {
            pull_send(w, j);
        } else {
            j->unreached = true;
            worker_handoff_lost(w, j, why);
        }
    }
}

// Ends the receiving side without a word to the job's requester.
void worker_handoff_end(struct worker *w, struct worker_job *j)
{
    if (!j->receiving)
        return;
    if (!j->receive.complete && j->peer >= 0 && w->peers[j->peer].link != NULL)
        worker_link_send(w->peers[j->peer].link,
                         wire_frame_failed(WIRE_ABORT, j->generate.handoff.transfer, ERR_CANCELLED,
                                           "the decode worker no longer needs it"));
    kv_receive_fini(&j->receive);
    j->receiving = false;
}

void worker_handoff_lost(struct worker *w, struct worker_job *j, const char *why)
{
    struct err e = {0};
    const struct engine_ops *ops = w->engine->ops;
    uint32_t committed = handoff_partial(w) ? j->receive.next_p0 : 0;

    worker_handoff_end(w, j);
    // A sliding window may lack what is needed to go on from there: the engine knows.
    if (committed > 0 && ops->remove(w->engine, j->seq, committed, UINT32_MAX, &e) != 0)
        committed = 0;
    snprintf(j->fallback, sizeof j->fallback, "%s; read on from token %u", why, committed);
    log_warn("worker", "hand-off lost: %s", j->fallback);
    if (committed == 0 && ops->remove(w->engine, j->seq, 0, UINT32_MAX, &e) != 0) {
        worker_job_fail(w, j, e.code, e.message);
        return;
    }
    j->computed = committed;
    j->cached = committed > 0 ? j->cached : 0;
    j->imported = committed - j->cached;
    worker_generate_plan(w, j);
}

// ---- frames --------------------------------------------------------------------------------------

static struct worker_job *job_receiving(struct worker *w, const struct worker_link *l, uint64_t id)
{
    for (struct worker_job *j = w->jobs; j != NULL; j = j->next)
        if (j->phase == WORKER_HANDOFF && j->peer >= 0 && w->peers[j->peer].link == l &&
            j->generate.handoff.transfer == id)
            return j;
    return NULL;
}

static int segment_import(struct worker *w, struct worker_job *j, const struct kv_segment *s,
                          const struct wire_frame *f, struct err *e)
{
    const struct engine_ops *ops = w->engine->ops;
    bool last = s->p1 == worker_handoff_upto(j);

    if (s->mode != w->engine->limits.handoff)
        return err_set(e, ERR_MISMATCH, "segment made by mode %u, this worker takes %u (%s)",
                       s->mode, w->engine->limits.handoff,
                       engine_handoff_name(w->engine->limits.handoff));
    if (s->layer == KV_ALL_LAYERS)
        return ops->import(w->engine, j->seq, s->p0, s->p1, last, f->body.data, f->body.len, e);
    if (ops->import_tile == NULL)
        return err_set(e, ERR_UNSUPPORTED, "this engine takes no tiles");
    return ops->import_tile(w->engine, j->seq, s->p0, s->p1, s->layer, f->body.data, f->body.len,
                            e);
}

static void ack_send(struct worker_link *l, const struct worker_job *j)
{
    uint8_t head[KV_ACK_BYTES];
    struct kv_ack a = {.transfer = j->receive.transfer,
                       .epoch = j->receive.epoch,
                       .index = j->receive.next_index - 1,
                       .tokens = j->receive.next_p0,
                       .complete = j->receive.complete};
    kv_ack_encode(&a, head);
    worker_link_send(
        l, wire_frame_struct(WIRE_ACK, a.transfer, head, sizeof head, (struct wire_body){0}));
}

// How long a segment took to cross, from the arrival of its first bytes to that of its last, as the link's reader
// saw it. All of them count, those that were quick too, or a hiccup would be all that is left of small ones.
static void crossing_count(struct worker_job *j, const struct worker_event *ev)
{
    const struct wire_frame *f = &ev->frame;
    size_t bytes = f->body.len - f->body_first;
    int64_t ns = ev->t0 - f->body_ns;

    if (f->body_ns > 0 && bytes > 0 && ns > 0)
        worker_cost_moved(&j->crossed, bytes, ns);
}

// Too little in too short a time tells of buffers, not of the link.
struct message_moved worker_handoff_crossed(const struct worker_job *j)
{
    const struct message_moved *m = &j->crossed;
    bool tells = m->bytes >= CROSSED_PLENTY_BYTES ||
                 (m->bytes >= CROSSED_LEAST_BYTES && m->seconds >= CROSSED_LEAST_S);

    return tells ? *m : (struct message_moved){0};
}

static void segment_take(struct worker *w, struct worker_job *j, const struct worker_event *ev)
{
    struct worker_link *l = ev->link;
    const struct wire_frame *f = &ev->frame;
    struct err e = {0};
    struct kv_segment s;
    int64_t t0 = clock_now_ns();
    int rc = kv_segment_decode(f->head, f->head_bytes, &s, &e);

    if (rc == 0)
        rc = kv_receive_segment(&j->receive, &s, f->body.data, f->body.len, &e);
    if (rc == 0) {
        do
            rc = segment_import(w, j, &s, f, &e);
        while (rc == ERR_BUSY && worker_memory_relieve(w)); // what is kept gives way
        if (rc != 0)
            j->receive.next_p0 = s.p0; // counted, but the engine did not take it
    }
    if (rc != 0) {
        worker_handoff_lost(w, j, e.message);
        return;
    }
    j->received_bytes += f->body.len;
    crossing_count(j, ev);
    worker_cost_moved(&j->cost.import, f->body.len, clock_now_ns() - t0);
    j->imported = j->receive.next_p0 - j->cached;
    worker_timeline_add(&j->timeline,
                        &(struct worker_span){"import", t0, clock_now_ns(), s.p0, s.p1});
    worker_progress_send(w, j, "handoff", j->receive.next_p0, j->n_tokens - 1);
    ack_send(l, j);
}

static void end_take(struct worker *w, struct worker_job *j, struct worker_link *l,
                     const struct wire_frame *f)
{
    struct err e = {0};
    struct kv_end end;
    int rc = kv_end_decode(f->head, f->head_bytes, &end, &e);

    if (rc == 0)
        rc = kv_receive_end(&j->receive, &end, &e);
    if (rc != 0) {
        worker_handoff_lost(w, j, e.message);
        return;
    }
    ack_send(l, j);
    j->handoff_end_ns = clock_now_ns();
    j->computed = worker_handoff_upto(j);
    worker_handoff_end(w, j);
    if (j->computed < j->n_tokens - 1)
        worker_generate_plan(w, j); // reads what was left to this side
    else
        worker_decode_ready(w, j);
}

static void abort_take(struct worker *w, struct worker_job *j, const struct wire_frame *f)
{
    struct err e = {0};
    const char *message = "no reason given";
    char why[ERR_MESSAGE_BYTES + 64];
    json_t *head = wire_frame_parse(f, &e);

    if (head != NULL)
        json_get_string(head, "message", &message, &e);
    snprintf(why, sizeof why, "the prefill node ended the transfer: %s", message);
    json_decref(head);
    worker_handoff_lost(w, j, why);
}

static void frame_handle(struct worker *w, const struct worker_event *ev)
{
    struct worker_link *l = ev->link;
    const struct wire_frame *f = &ev->frame;
    struct worker_job *j = job_receiving(w, l, f->id);

    if (j == NULL) {
        // A request that is gone, or one that never was: the sender may stop.
        if (f->type == WIRE_SEGMENT)
            worker_link_send(l, wire_frame_failed(WIRE_ABORT, f->id, ERR_NOT_FOUND,
                                                  "no request waits for this transfer"));
        return;
    }
    j->heard_ns = clock_now_ns();
    if (f->type == WIRE_SEGMENT)
        segment_take(w, j, ev);
    else if (f->type == WIRE_END)
        end_take(w, j, l, f);
    else if (f->type == WIRE_ABORT)
        abort_take(w, j, f);
    else // a BEAT: the gateway hears that we wait, too
        worker_progress_send(w, j, "handoff", j->receive.next_p0, j->n_tokens - 1);
}

// ---- frames that wait ----------------------------------------------------------------------------

bool worker_imports_wait(const struct worker *w)
{
    return chan_len(w->imports) > 0;
}

static bool import_next(struct worker *w)
{
    struct worker_event ev;
    if (chan_recv(w->imports, &ev, 0) != 0)
        return false;
    frame_handle(w, &ev);
    wire_frame_fini(&ev.frame);
    return true;
}

void worker_handoff_frame(struct worker *w, struct worker_event *ev)
{
    struct worker_job *j = job_receiving(w, ev->link, ev->frame.id);
    bool waits = worker_imports_wait(w) || worker_decoding(w) > 0;

    // A BEAT says that the peer lives: at once, for it brings nothing that has an order.
    if (!waits || w->options.stall_ms == 0 || ev->frame.type == WIRE_BEAT) {
        frame_handle(w, ev);
        return;
    }
    if (j != NULL)
        j->heard_ns = clock_now_ns();
    while (chan_send(w->imports, ev, 0) != 0)
        import_next(w); // bounded: the oldest goes first, in time or not
    ev->frame = (struct wire_frame){0};
}

// Segments wait for free blocks in the sender's hands, the many small ones of a last chunk above all. A block that
// is free again is filled at once: what comes then has its turn now, not a decode step later.
static bool imports_await(struct worker *w)
{
    struct worker_event ev;
    if (chan_recv(w->inbox, &ev, IMPORT_WAIT_NS) != 0)
        return false;
    do
        worker_event_handle(w, &ev);
    while (!w->stop && !worker_imports_wait(w) && chan_recv(w->inbox, &ev, 0) == 0);
    return worker_imports_wait(w);
}

void worker_imports_run(struct worker *w)
{
    size_t n = worker_decoding(w);
    double spare_s = n > 0 ? pace_calm_spare_s(&w->pace, (uint32_t)n) : 0;
    int64_t start = clock_now_ns();
    bool more = worker_imports_wait(w);

    while (more) {
        if (!import_next(w) && (n == 0 || !imports_await(w)))
            return;
        more = n == 0 || ns_to_s(clock_now_ns() - start) < spare_s;
    }
}

void worker_handoff_link_closed(struct worker *w, struct worker_link *l, const struct err *why)
{
    char text[ERR_MESSAGE_BYTES + 64];
    struct worker_job *next = NULL;
    int peer = -1;

    while (import_next(w)) // what came before the end counts, and nothing may refer to the link
        ;
    for (int i = 0; i < WORKER_PEERS; i++)
        if (w->peers[i].state != WORKER_PEER_FREE && w->peers[i].link == l)
            peer = i;
    if (peer < 0)
        return;
    w->peers[peer].state = WORKER_PEER_FREE;
    w->peers[peer].link = NULL;
    snprintf(text, sizeof text, "prefill node lost: %s", why->message);
    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if (j->phase == WORKER_HANDOFF && j->peer == peer)
            worker_handoff_lost(w, j, text);
    }
}

// When the job's transfer last showed life: a frame of its own, or a body that began to come in.
static int64_t handoff_heard(const struct worker *w, const struct worker_job *j)
{
    const struct worker_link *l = j->peer >= 0 ? w->peers[j->peer].link : NULL;
    int64_t body = l != NULL ? atomic_load_explicit(&l->body_ns, memory_order_relaxed) : 0;
    return body > j->heard_ns ? body : j->heard_ns;
}

// The peer's link lives, but no whole frame has come for this job: a hung engine, or bytes that drip.
// The link is closed with it, so that it neither holds a buffer nor serves the next request.
static void handoff_stuck(struct worker *w, struct worker_job *j)
{
    if (j->peer >= 0 && w->peers[j->peer].link != NULL)
        wire_link_close(w->peers[j->peer].link->wire);
    worker_handoff_lost(w, j, "the prefill node makes no progress");
}

int64_t worker_handoff_timers(struct worker *w, int64_t now_ns)
{
    int64_t soonest = now_ns + NS_PER_S;
    struct worker_job *next = NULL;

    // The link itself notices silence; this is for a peer that answers but makes no progress.
    for (struct worker_job *j = w->jobs; j != NULL; j = next) {
        next = j->next;
        if (j->phase != WORKER_HANDOFF)
            continue;
        int64_t stuck = (int64_t)(j->generate.handoff.stall_s * 1e9) * WORKER_STUCK_STALLS;
        int64_t heard = handoff_heard(w, j);
        if (now_ns - heard >= stuck)
            handoff_stuck(w, j);
        else if (heard + stuck < soonest)
            soonest = heard + stuck;
    }
    return soonest;
}
