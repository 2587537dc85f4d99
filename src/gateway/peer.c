#include "gateway/peer.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/core.h"
#include "gateway/image_upstream.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const state_names[] = {"down", "connecting", "waiting",  "up",  "refused",
                                          "dead", "unloaded",   "draining", "free"};

const char *peer_state_name(enum peer_state s)
{
    return state_names[s];
}

void peer_state_set(struct peer *p, enum peer_state state, const char *why)
{
    p->state = state;
    p->since_ns = clock_now_ns();
    if (why != p->why)
        snprintf(p->why, sizeof(p->why), "%s", why);
    if (p->drawers)
        image_nodes_hold(p->drawers, p->place, state == PEER_UP ? NULL : p->why);
}

#define UNLOADED "the model is not loaded; a request for it loads it"

void peer_address_text(const struct net_addr *addr, char *out, size_t out_bytes)
{
    snprintf(out, out_bytes, strchr(addr->host, ':') ? "[%s]:%u" : "%s:%u", addr->host, addr->port);
}

static void local_address_set(const struct core *c, struct peer *p)
{
    if (p->index > 0) {
        const struct gateway_model *m = &c->options.models[p->index];
        const char *name = m->name ? m->name : m->path;

        snprintf(p->address, sizeof(p->address), "local/%.200s", name);
    } else {
        snprintf(p->address, sizeof(p->address), "local");
    }
}

void peer_init(struct core *c, size_t index)
{
    struct peer *p = &c->peers[index];

    memset(p, 0, sizeof(*p));
    p->index = index;
    p->local = index < c->n_models;
    p->retry_ns = c->started_ns;
    p->backoff_ns = PEER_BACKOFF_MIN_NS;
    if (p->local)
        local_address_set(c, p);
    if (!p->local)
        peer_state_set(p, PEER_FREE, "");
    else if (c->options.models[index].on_demand)
        peer_state_set(p, PEER_RESTING, UNLOADED);
    else
        peer_state_set(p, PEER_DOWN, "the model is loading");
}

void peer_begin(struct peer *p, const struct net_addr *addr)
{
    struct peer_greeter *greeter = p->greeter;
    size_t index = p->index;
    uint64_t turn = p->turn + 1;

    memset(p, 0, sizeof(*p));
    p->greeter = greeter;
    p->index = index;
    p->turn = turn;
    p->addr = *addr;
    p->retry_ns = clock_now_ns();
    p->backoff_ns = PEER_BACKOFF_MIN_NS;
    peer_address_text(addr, p->address, sizeof(p->address));
    peer_state_set(p, PEER_DOWN, "not connected yet");
}

// It draws no more, or never did.
static void drawer_forget(struct peer *p)
{
    if (p->drawers)
        image_nodes_forget(p->drawers, p->place);
    p->drawers = NULL;
}

void peer_end(struct peer *p)
{
    p->turn++; // a greeting that is under way concerns nobody
    peer_close(p, "the node was removed");
    peer_fini(p);
    p->known = p->added = p->drained = p->leaving = p->quitting = p->has_role = false;
    p->companion = false;
    p->model = NULL;
    drawer_forget(p);
    p->address[0] = '\0';
    peer_state_set(p, PEER_FREE, "");
}

void peer_fini(struct peer *p)
{
    json_decref(p->status);
    p->status = NULL;
    guess_free(p->guess);
    p->guess = NULL;
}

const char *peer_name(const struct peer *p)
{
    return p->known && p->welcome.name[0] ? p->welcome.name : p->address;
}

uint32_t peer_role(const struct peer *p)
{
    return p->has_role ? p->role : p->welcome.role;
}

// Logs a complaint once, not at every retry.
void peer_complain(struct peer *p, const char *what, const char *why)
{
    if (strcmp(p->logged, why) == 0)
        return;
    snprintf(p->logged, sizeof(p->logged), "%s", why);
    if (p->local)
        log_warn("gateway", "local worker %s: %s", what, why);
    else
        log_warn("gateway", "prefill node %s %s: %s", p->address, what, why);
}

// ---- links ------------------------------------------------------------------------------------------

// Reader thread.
static int link_on_frame(void *ctx, struct wire_frame *f, struct err *e)
{
    struct peer_link *l = ctx;
    struct core_message m = {.what = CORE_FRAME, .link = l, .frame = *f, .at_ns = clock_now_ns()};

    if (l->drawing > 0 && f->type != WIRE_STATUS_IS && f->type != WIRE_FORGOTTEN)
        return image_nodes_frame(l->core->options.drawers, l->place, l->drawing, f, e);
    if (core_send(l->core, &m, CHAN_FOREVER) != 0)
        return err_set(e, ERR_CLOSED, "the gateway is stopping");
    return 0;
}

// Reader thread; the link's last word.
static void link_on_close(void *ctx, const struct err *why)
{
    struct peer_link *l = ctx;
    struct core_message m = {.what = CORE_CLOSED, .link = l};

    m.error = mem_alloc(sizeof(*m.error));
    *m.error = *why;
    core_send(l->core, &m, CHAN_FOREVER);
}

static const struct wire_link_ops link_ops = {.on_frame = link_on_frame, .on_close = link_on_close};

// The caller runs it.
static void peer_link_make(struct core *c, struct peer *p, struct net_conn *conn)
{
    struct wire_link_options o;
    struct peer_link *l = mem_alloc(sizeof(*l));

    wire_link_options_default(&o);
    o.idle_ns = p->local ? PEER_LOCAL_IDLE_NS : PEER_NODE_IDLE_NS;
    o.name = p->local ? "local" : "node";
    l->core = c;
    l->peer = p;
    l->wire = wire_link_new(conn, &link_ops, l, &o);
    p->link = l;
    c->n_links++;
}

static void link_free(struct peer_link *l)
{
    if (l->drawing > 0)
        image_nodes_part(l->core->options.drawers, l->place, l->wire, "its link was lost");
    wire_link_free(l->wire);
    free(l);
}

void peer_send(struct peer *p, struct wire_frame f)
{
    if (p->upstream) {
        upstream_send(p, f);
        return;
    }
    if (!p->link) {
        wire_frame_fini(&f);
        return;
    }
    // A peer that lets a thousand small frames pile up does not read: it is as good as dead.
    if (wire_link_send(p->link->wire, f, 0) == ERR_TIMEOUT)
        wire_link_close(p->link->wire);
}

// Forgets the link at once; CORE_CLOSED frees it when its threads are done.
void peer_close(struct peer *p, const char *why)
{
    struct peer_link *l = p->link;

    p->link = NULL;
    if (!l)
        return;
    if (l->drawing > 0)
        image_nodes_part(l->core->options.drawers, l->place, l->wire, why);
    wire_link_close(l->wire);
    request_on_peer_lost(l->core, p, why);
}

// ---- draining ---------------------------------------------------------------------------------------------

// Why it is given nothing new; NULL: it is.
static const char *hold_words(const struct peer *p)
{
    if (p->leaving)
        return "draining: it is being removed when its requests have ended";
    if (p->quitting)
        return "draining: it is stopping when its requests have ended";
    return p->drained ? "draining: it was told to, until \"tandem nodes resume\"" : NULL;
}

void peer_hold_apply(struct peer *p)
{
    const char *why = hold_words(p);

    if (why && (p->state == PEER_UP || p->state == PEER_DRAINING)) {
        if (p->state == PEER_UP)
            log_info("gateway", "node %s is not used any more: %s", peer_name(p), why);
        peer_state_set(p, PEER_DRAINING, why);
    } else if (!why && p->state == PEER_DRAINING) {
        peer_state_set(p, PEER_UP, "");
        log_info("gateway", "node %s is used again", peer_name(p));
    }
}

void peer_on_status(struct peer *p, const json_t *head)
{
    bool quits = json_is_true(json_object_get(head, "draining"));

    if (p->local || quits == p->quitting)
        return;
    p->quitting = quits;
    peer_hold_apply(p);
}

void peer_part(struct peer *p)
{
    p->turn++;
    p->quitting = false;
    peer_state_set(p, PEER_DOWN, "it has stopped");
    p->retry_ns = clock_now_ns() + p->backoff_ns;
    log_info("gateway", "node %s has left: address=%s", peer_name(p), p->address);
    peer_close(p, "the node has stopped");
}

// ---- what happens to peers ------------------------------------------------------------------------------

static void local_is_up(struct core *c, struct peer *p)
{
    peer_state_set(p, PEER_UP, "");
    p->kill_ns = 0;
    p->logged[0] = '\0';
    log_info("gateway", "local worker is up: model=%s n_ctx=%u handoff=%s", p->welcome.model,
             p->welcome.limits.n_ctx, engine_handoff_name(p->welcome.limits.handoff));
    for (size_t i = c->n_models; i < c->n_peers; i++)
        if (c->peers[i].link && !c->peers[i].drawers)
            peer_judge(c, &c->peers[i]);
    if (c->options.on_event && model_kept_loaded(c))
        c->options.on_event(c->options.on_event_ctx, GATEWAY_UP, c->peers[0].welcome.model);
    model_used(p->model);
    upstreams_match(c);
    request_on_local_up(c, p->model);
}

static void peer_order(struct peer *p, struct net_conn *conn)
{
    struct peer_order o = {.conn = conn, .addr = p->addr, .turn = ++p->turn};

    peer_state_set(p, PEER_GREETING, p->why);
    if (chan_send(p->greeter->orders, &o, 0) == 0)
        return;
    if (conn)
        net_conn_free(conn);
    peer_state_set(p, PEER_DOWN, "the greeter is still busy with an earlier connection");
    p->retry_ns = clock_now_ns() + p->backoff_ns;
}

void peer_on_up(struct core *c, struct core_message *m)
{
    struct peer *p = &c->peers[m->peer];

    peer_close(p, "the local worker was restarted");
    p->kill_ns = 0;
    p->greeting_failed = false;
    peer_order(p, m->conn);
    m->conn = NULL;
}

// A worker that could not start has said why in its answer to HELLO; how it ended then adds little.
static void reason_add(struct peer *p, struct err *e)
{
    if (p->greeting_failed)
        err_wrap(e, "%.300s", p->why);
    p->greeting_failed = false;
}

void peer_on_down(struct core *c, struct core_message *m)
{
    struct peer *p = &c->peers[m->peer];
    bool dead = m->retry_ns < 0;

    reason_add(p, m->error);
    p->turn++;
    p->kill_ns = 0;
    peer_state_set(p, dead ? PEER_DEAD : PEER_DOWN, m->error->message);
    p->retry_ns = dead ? INT64_MAX : clock_now_ns() + m->retry_ns;
    if (!c->stopping)
        peer_complain(p, dead ? "stays down" : "ended", m->error->message);
    peer_close(p, m->error->message);
    // One model of several that cannot be loaded is no reason to end.
    if (dead && model_all_failed(c) && c->options.on_event)
        c->options.on_event(c->options.on_event_ctx, GATEWAY_FAILED, m->error->message);
}

void peer_wake(struct peer *p)
{
    peer_state_set(p, PEER_DOWN, p->local ? "the model is loading" : "not connected yet");
    p->retry_ns = p->local ? INT64_MAX : clock_now_ns();
}

void peer_rest(struct peer *p)
{
    p->turn++; // a greeting that is under way concerns nobody
    p->kill_ns = 0;
    peer_state_set(p, PEER_RESTING, UNLOADED);
    peer_close(p, "the model was unloaded");
    // What its prefix memory held went with it.
    if (p->guess)
        guess_clear(p->guess);
}

static void greeting_failed(struct peer *p, const struct err *e)
{
    bool other = e->code == ERR_MISMATCH;

    p->greeting_failed = true;
    peer_complain(p, other ? "is not used" : "is not reachable", e->message);
    peer_state_set(p, other ? PEER_REFUSED : PEER_DOWN, e->message);
    p->retry_ns = clock_now_ns() + (other ? PEER_REFUSED_NS : p->backoff_ns);
    p->backoff_ns *= 2;
    if (p->backoff_ns > PEER_BACKOFF_MAX_NS)
        p->backoff_ns = PEER_BACKOFF_MAX_NS;
}

// It reads or writes, for one of the models here.
static void reader_is_up(struct core *c, struct peer *p)
{
    drawer_forget(p);
    fleet_pairs_forget(c, p);
    // A worker that is greeted again may have restarted: nothing is known of what it holds.
    guess_free(p->guess);
    p->guess = guess_new(p->welcome.limits.n_ctx);
    placing_greet(c->placing, p);
    fleet_companion(c, p);
    if (p->local)
        local_is_up(c, p);
    else
        peer_judge(c, p);
}

void peer_on_greeted(struct core *c, struct core_message *m)
{
    struct peer *p = &c->peers[m->peer];
    struct peer_link *l;

    if (m->turn != p->turn || c->stopping)
        return; // a worker that has ended since; the message frees its connection
    if (!m->conn) {
        greeting_failed(p, m->error);
        return;
    }
    if (!p->known || p->welcome.pid != m->welcome->pid ||
        strcmp(p->welcome.node_id, m->welcome->node_id) != 0)
        p->flaps = 0; // another process: what was wrong with the last one says nothing of it
    p->quitting = false;
    p->known = true;
    p->welcome = *m->welcome;
    peer_link_make(c, p, m->conn);
    m->conn = NULL;
    l = p->link;
    if (p->welcome.draws)
        peer_judge_drawer(c, p);
    else
        reader_is_up(c, p);
    wire_link_run(l->wire); // refused or not: its end is told by its threads
}

// A link that comes and goes is tried less and less often: each time it fails, requests pay for it.
static int64_t flap_wait(struct peer *p, int64_t now_ns)
{
    int64_t wait_ns;

    p->flaps = now_ns - p->since_ns > PEER_STEADY_NS ? 0 : p->flaps + 1;
    wait_ns = PEER_BACKOFF_MIN_NS << (p->flaps > 6 ? 5 : p->flaps > 0 ? p->flaps - 1 : 0);
    return wait_ns < PEER_BACKOFF_MAX_NS ? wait_ns : PEER_BACKOFF_MAX_NS;
}

static void link_lost(struct peer *p, const char *why)
{
    int64_t now_ns = clock_now_ns(), wait_ns = flap_wait(p, now_ns);

    peer_complain(p, "lost", why);
    peer_state_set(p, PEER_DOWN, why);
    p->retry_ns = now_ns + wait_ns;
    if (p->local)
        p->kill_ns = clock_now_ns() + PEER_KILL_NS;
}

void peer_drop(struct peer *p, const char *why)
{
    link_lost(p, why);
    peer_close(p, why);
}

void peer_on_closed(struct core *c, struct core_message *m)
{
    struct peer *p = m->link->peer;
    bool current = p->link == m->link;

    if (current && m->link->drawing > 0)
        image_nodes_part(c->options.drawers, m->link->place, m->link->wire, m->error->message);
    link_free(m->link);
    c->n_links--;
    if (!current)
        return;
    p->link = NULL;
    // One that was told to end ends; that it has, its supervisor tells.
    if (c->stopping || (p->local && p->model->resting))
        return;
    link_lost(p, m->error->message);
    request_on_peer_lost(c, p, m->error->message);
}

// ---- timers ---------------------------------------------------------------------------------------------

void peer_expect(struct core *c, const struct request *r, struct peer *p)
{
    if (request_count(c, p) == request_is_on(r, p))
        p->heard_ns = clock_now_ns();
}

// A local worker that fell silent but did not end would keep its requests and its memory for ever.
static int64_t kill_tick(struct core *c, struct peer *p, int64_t now_ns)
{
    int64_t pid;

    if (p->kill_ns == 0)
        return INT64_MAX;
    if (now_ns < p->kill_ns)
        return p->kill_ns;
    p->kill_ns = 0;
    pid = c->source.pid(c->source.ctx, p->index);
    if (pid <= 1 || pid != p->welcome.pid)
        return INT64_MAX;
    log_error("gateway", "the local worker does not answer; killing it: pid=%lld", (long long)pid);
    kill((pid_t)pid, SIGKILL);
    return INT64_MAX;
}

// Every worker with work tells of each chunk and token. One whose links answer pings but which says
// nothing else for minutes hangs in its engine.
static int64_t hang_tick(struct core *c, struct peer *p, int64_t now_ns)
{
    char why[64];

    if (!p->link || request_count(c, p) == 0)
        return INT64_MAX;
    if (now_ns < p->heard_ns + PEER_HANG_NS)
        return p->heard_ns + PEER_HANG_NS;
    snprintf(why, sizeof(why), "nothing was heard for %d s", (int)(PEER_HANG_NS / NS_PER_S));
    peer_drop(p, why);
    p->kill_ns = p->local ? now_ns : 0;
    return now_ns;
}

static int64_t dial_tick(struct peer *p, int64_t now_ns)
{
    if (p->local || p->leaving || (p->state != PEER_DOWN && p->state != PEER_REFUSED))
        return INT64_MAX;
    if (now_ns < p->retry_ns)
        return p->retry_ns;
    peer_order(p, NULL);
    return p->state == PEER_GREETING ? INT64_MAX : p->retry_ns;
}

int64_t peer_tick(struct core *c, struct peer *p, int64_t now_ns)
{
    int64_t next_ns = hang_tick(c, p, now_ns), t = kill_tick(c, p, now_ns);

    next_ns = t < next_ns ? t : next_ns;
    t = dial_tick(p, now_ns);
    return t < next_ns ? t : next_ns;
}
