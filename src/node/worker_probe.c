// The link to another worker is measured: MEASURE_LINK -> MEASURED_LINK.
//
// This worker dials the other one as for a hand-off, over the very link that hand-offs use, and keeps it. Then it
// sends PROBEs, which the other side's reader answers by itself, whatever its engine does:
//
//     the round trip   a few empty ones, one after the other: the least counts
//     the rate here    rounds of several pieces that are asked for at once. What counts are the bytes and the time
//                      from the arrival of the first piece to that of the last: neither the round trip nor
//                      what the path holds at first is in it. A round that was over too soon to tell is followed
//                      by a larger one, up to ROUND_MOST bytes
//     the rate there   the same with the bytes in the PROBEs, and what the answers say of their arrival
//
// The time from sending to the last arrival, less the round trip, is no shorter than what the bytes took: it stands in
// where this machine looked late and found all pieces at once.
//
// All rounds of one way are less than 8 MiB, and none is begun after WAY_NS. At most one round is under way,
// and none was begun that would take more than a fraction of a second, so that a request, which ends all this at once,
// never waits long for what was sent before. What comes in is stamped by the link's reader and discarded there.
#include "base/log.h"
#include "base/random.h"
#include "node/worker.h"

#include <stdlib.h>

#define TRIPS 6u
#define PIECES 8u              // of a round, at least
#define ROUND_LEAST (4u << 10) // bytes
#define ROUND_MOST (2u << 20)  // of the last round; all of one way are less than four times that
#define ROUND_TELLS_NS (50 * NS_PER_MS)
#define ROUND_SHORT_NS (10 * NS_PER_MS) // four times as much is not too much then
#define WAY_NS (NS_PER_S / 2)           // no further round is begun
#define PROBE_NS (6 * NS_PER_S)         // all of it, dialling included
#define HEAD_BYTES 16u                  // of PROBE and PROBED, about

enum probe_phase { PROBE_DIALS, PROBE_TRIPS, PROBE_UP, PROBE_DOWN };

struct worker_probe {
    struct worker_link *asker;
    uint64_t id;
    int peer;
    enum probe_phase phase;
    int64_t until_ns, way_ns; // the end of all; when this way's rounds began
    // The round: its frames have `round` as id, since answers to an earlier measurement may still come.
    uint64_t round;
    uint32_t bytes, pieces, piece, arrived;
    int64_t sent_ns, last_ns;  // of this side's clock
    int64_t first_in, last_in; // ns, of the clock of the side that the bytes come to
    uint32_t trips;
    bool again; // this round is like the one before, which gave `best`
    struct message_moved best;
    struct message_measured_link out;
};

void worker_probe_init(struct worker *w)
{
    uint64_t random = (uint64_t)clock_now_ns();

    // Bytes that a link which compresses cannot make fewer.
    w->probe_bytes = mem_alloc(WIRE_PROBE_MAX);
    for (size_t i = 0; i < WIRE_PROBE_MAX; i++)
        w->probe_bytes[i] = (uint8_t)(random_next(&random) >> 32);
}

void worker_probe_fini(struct worker *w)
{
    free(w->probe);
    free(w->probe_bytes);
    w->probe = NULL;
}

void worker_probe_link_fini(struct worker_link *l)
{
    free(l->arrival.discard);
}

// ---- reader threads ------------------------------------------------------------------------------

static void keep(void *ctx, void *data)
{
    (void)ctx, (void)data;
}

void worker_probe_body(struct worker_link *l, size_t n, struct wire_body *body)
{
    if (l->arrival.discard == NULL)
        l->arrival.discard = mem_alloc(WIRE_PROBE_MAX); // the type's limit: n is no more
    *body = (struct wire_body){.data = l->arrival.discard, .len = n, .release = keep};
}

static struct wire_frame frame_make(const struct worker *w, enum wire_type type, uint64_t id,
                                    json_t *head, size_t bytes)
{
    struct wire_frame f = wire_frame_json(type, id, head);

    if (bytes > 0)
        f.body = (struct wire_body){.data = w->probe_bytes, .len = bytes, .release = keep};
    return f;
}

// A queue that is full is a peer that asks and does not read: worker_link_send closes the link then.
int worker_probe_answer(struct worker_link *l, struct wire_frame *f, struct err *e)
{
    struct message_probe m;
    struct message_probed in = {.at_s = ns_to_s(clock_now_ns())};
    json_t *head = wire_frame_parse(f, e);
    int rc = head == NULL ? e->code : message_probe_parse(head, &m, e);

    json_decref(head);
    if (rc == 0)
        worker_link_send(
            l, frame_make(l->worker, WIRE_PROBED, f->id, message_probed_json(&in), m.want));
    wire_frame_fini(f);
    return rc;
}

int worker_probe_arrived(struct worker_link *l, struct wire_frame *f, struct err *e)
{
    struct worker_event ev = {.kind = WORKER_EVENT_PROBED,
                              .link = l,
                              .id = f->id,
                              .body_bytes = (uint32_t)f->body.len,
                              .t0 = clock_now_ns()};
    struct message_probed m = {0};
    json_t *head = wire_frame_parse(f, e);
    int rc = head == NULL ? e->code : message_probed_parse(head, &m, e);

    json_decref(head);
    wire_frame_fini(f);
    ev.t1 = (int64_t)(m.at_s * 1e9);
    if (rc != 0)
        return rc;
    if (atomic_load_explicit(&l->probing, memory_order_relaxed) == 0)
        return err_set(e, ERR_INVALID, "probed came unasked");
    atomic_fetch_sub_explicit(&l->probing, 1, memory_order_relaxed);
    worker_post(l->worker, &ev);
    return 0;
}

// ---- the end -------------------------------------------------------------------------------------

static void probe_free(struct worker *w)
{
    free(w->probe);
    w->probe = NULL;
}

static void probe_end(struct worker *w, bool complete)
{
    struct worker_probe *p = w->probe;

    p->out.complete = complete;
    worker_link_send(
        p->asker, wire_frame_json(WIRE_MEASURED_LINK, p->id, message_measured_link_json(&p->out)));
    probe_free(w);
}

static void probe_fail(struct worker *w, int code, const char *why)
{
    struct worker_probe *p = w->probe;
    const struct net_addr *a = &w->peers[p->peer].addr;
    struct err e = {0};

    err_set(&e, code, "the link to %s:%u cannot be measured: %s", a->host, a->port, why);
    worker_link_send(p->asker, wire_frame_failed(WIRE_FAILED, p->id, code, e.message));
    probe_free(w);
}

// ---- rounds --------------------------------------------------------------------------------------

static void piece_send(struct worker *w, struct worker_link *l, const struct worker_probe *p)
{
    struct message_probe m = {.want = p->phase == PROBE_UP ? p->piece : 0};
    struct wire_frame f = frame_make(w, WIRE_PROBE, p->round, message_probe_json(&m),
                                     p->phase == PROBE_DOWN ? p->piece : 0);

    atomic_fetch_add_explicit(&l->probing, 1, memory_order_relaxed);
    worker_link_send(l, f);
}

// All pieces at once: the link is never idle until the last one is here.
static void round_begin(struct worker *w, uint32_t bytes)
{
    struct worker_probe *p = w->probe;
    struct worker_link *l = w->peers[p->peer].link;

    p->round = ++w->probe_rounds;
    p->bytes = bytes;
    p->pieces = bytes == 0 ? 1 : PIECES;
    if (bytes / PIECES > WIRE_PROBE_MAX)
        p->pieces = bytes / WIRE_PROBE_MAX;
    p->piece = bytes / p->pieces;
    p->arrived = 0;
    p->sent_ns = clock_now_ns();
    for (uint32_t i = 0; i < p->pieces; i++)
        piece_send(w, l, p);
}

static void trip_end(struct worker *w, struct worker_probe *p)
{
    double seconds = ns_to_s(p->last_ns - p->sent_ns + 1);

    if (p->out.rtt_s <= 0 || seconds < p->out.rtt_s)
        p->out.rtt_s = seconds;
    if (++p->trips < TRIPS) {
        round_begin(w, 0);
        return;
    }
    p->phase = PROBE_UP;
    p->way_ns = clock_now_ns();
    round_begin(w, ROUND_LEAST);
}

static bool is_slower(const struct message_moved *a, const struct message_moved *b)
{
    return a->bytes * b->seconds < b->bytes * a->seconds;
}

// What crossed, with what frames add to it: between the first arrival and the last one, or all in all.
static struct message_moved round_moved(const struct worker_probe *p)
{
    double piece = p->piece + WIRE_HEADER_BYTES + HEAD_BYTES;
    double all_s = ns_to_s(p->last_ns - p->sent_ns) - p->out.rtt_s;
    struct message_moved part = {(p->pieces - 1) * piece, ns_to_s(p->last_in - p->first_in)};
    struct message_moved all = {p->pieces * piece, all_s};

    if (!(part.seconds > 0 && part.seconds < ns_to_s(PROBE_NS)))
        part = (struct message_moved){0};
    if (!(all.seconds > 0))
        return part;
    return part.bytes <= 0 || is_slower(&all, &part) ? all : part;
}

static void way_end(struct worker *w, struct worker_probe *p, const struct message_moved *m)
{
    if (p->phase == PROBE_DOWN) {
        p->out.down = *m;
        probe_end(w, true);
        return;
    }
    p->out.up = *m;
    p->phase = PROBE_DOWN;
    p->way_ns = clock_now_ns();
    p->again = false;
    round_begin(w, ROUND_LEAST);
}

// A round that tells is done once more: a machine that was busy for a moment makes a link look slow, so that the
// better one counts, and one that was over at once the second time told nothing.
static void round_end(struct worker *w, struct worker_probe *p)
{
    int64_t took_ns = p->last_ns - p->sent_ns;
    bool late = clock_now_ns() - p->way_ns >= WAY_NS;
    bool tells = took_ns >= ROUND_TELLS_NS || p->bytes == ROUND_MOST || late;
    uint32_t next = p->bytes * (took_ns < ROUND_SHORT_NS ? 4 : 2);
    struct message_moved m = round_moved(p);

    if (p->again && tells && (m.bytes <= 0 || is_slower(&m, &p->best)))
        m = p->best;
    if (tells && (p->again || late)) {
        way_end(w, p, &m);
        return;
    }
    p->again = tells;
    p->best = m;
    if (tells)
        next = p->bytes;
    round_begin(w, next < ROUND_MOST ? next : ROUND_MOST);
}

void worker_probe_take(struct worker *w, const struct worker_event *ev)
{
    struct worker_probe *p = w->probe;
    uint32_t wanted;

    if (p == NULL || p->phase == PROBE_DIALS || w->peers[p->peer].link != ev->link ||
        ev->id != p->round)
        return; // of a measurement that was ended
    wanted = p->phase == PROBE_UP ? p->piece : 0;
    if (ev->body_bytes != wanted) {
        probe_fail(w, ERR_INVALID, "it answers with another number of bytes than was wanted");
        return;
    }
    p->last_ns = ev->t0;
    p->last_in = p->phase == PROBE_DOWN ? ev->t1 : ev->t0;
    if (p->arrived++ == 0)
        p->first_in = p->last_in;
    if (p->arrived < p->pieces)
        return;
    if (p->phase == PROBE_TRIPS)
        trip_end(w, p);
    else
        round_end(w, p);
}

// ---- the beginning -------------------------------------------------------------------------------

static void probe_run(struct worker *w)
{
    struct worker_probe *p = w->probe;

    if (!w->peers[p->peer].link->probes) {
        probe_fail(w, ERR_UNSUPPORTED, "the worker there is of an older release");
        return;
    }
    p->phase = PROBE_TRIPS;
    round_begin(w, 0);
}

static int begin_check(struct worker *w, const struct wire_frame *f, struct message_measure_link *m,
                       struct err *e)
{
    json_t *head = wire_frame_parse(f, e);
    int rc = head == NULL ? e->code : message_measure_link_parse(head, m, e);

    json_decref(head);
    if (rc == 0 && (w->probe != NULL || w->measure != NULL))
        rc = err_set(e, ERR_BUSY, "this worker is measuring something; ask when it has answered");
    return rc;
}

void worker_probe_begin(struct worker *w, struct worker_link *l, const struct wire_frame *f)
{
    struct err e = {0};
    struct message_measure_link m;
    int rc = begin_check(w, f, &m, &e), peer = -1;

    if (rc == 0 && (peer = worker_handoff_peer(w, m.host, m.port)) < 0)
        rc = err_set(&e, ERR_BUSY, "no room for another prefill peer than the %d there are",
                     WORKER_PEERS);
    if (rc != 0) {
        worker_link_send(l, wire_frame_failed(WIRE_FAILED, f->id, rc, e.message));
        return;
    }
    w->probe = mem_alloc(sizeof *w->probe);
    *w->probe = (struct worker_probe){
        .asker = l, .id = f->id, .peer = peer, .until_ns = clock_now_ns() + PROBE_NS};
    if (w->n_jobs > 0) {
        probe_end(w, false);
    } else if (w->peers[peer].state == WORKER_PEER_UP) {
        probe_run(w);
    } else if (w->peers[peer].state == WORKER_PEER_FREE) {
        w->peers[peer].state = WORKER_PEER_DIALING;
        worker_dial_start(w, (uint32_t)peer, (int64_t)(m.stall_s * 1e9), m.same_weights);
    }
}

void worker_probe_dialed(struct worker *w, const struct worker_event *ev)
{
    struct worker_probe *p = w->probe;

    if (p == NULL || p->phase != PROBE_DIALS || p->peer != (int)ev->peer)
        return;
    if (ev->link == NULL)
        probe_fail(w, ev->error.code, ev->error.message);
    else
        probe_run(w);
}

int64_t worker_probe_run(struct worker *w, int64_t now_ns)
{
    struct worker_probe *p = w->probe;

    if (p == NULL)
        return INT64_MAX;
    if (w->n_jobs > 0 || now_ns >= p->until_ns) {
        if (w->n_jobs > 0)
            probe_end(w, false);
        else
            probe_fail(w, ERR_TIMEOUT, "it does not answer in time");
        return INT64_MAX;
    }
    return p->until_ns;
}

void worker_probe_cancel(struct worker *w, const struct worker_link *l, uint64_t id)
{
    if (w->probe != NULL && w->probe->asker == l && w->probe->id == id)
        probe_end(w, false);
}

void worker_probe_link_closed(struct worker *w, const struct worker_link *l, const struct err *why)
{
    struct worker_probe *p = w->probe;

    if (p != NULL && p->asker == l)
        probe_free(w);
    else if (p != NULL && p->phase != PROBE_DIALS && w->peers[p->peer].link == l)
        probe_fail(w, ERR_CLOSED, why->message);
}
