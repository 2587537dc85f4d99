#include "gateway/core.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "os/os.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGES_PER_TURN 256 // then timers and sockets get their turn
#define GONE_PER_TURN 64      // clients

// ---- messages -----------------------------------------------------------------------------------------

// Frees what a message still owns; a handler that takes something clears it.
static void message_fini(struct core_message *m)
{
    if (m->request)
        request_free(m->request);
    if (m->query)
        query_free(m->query);
    if (m->conn)
        net_conn_free(m->conn);
    free(m->welcome);
    free(m->error);
    upstream_word_free(m->word);
    if (m->answer)
        chan_send(m->answer, &(int){ERR_BUSY}, 0);
    if (m->what == CORE_FRAME)
        wire_frame_fini(&m->frame);
}

int core_send(struct core *c, struct core_message *m, int64_t timeout_ns)
{
    int rc = chan_send(c->inbox, m, timeout_ns);

    // What the HTTP thread sent in vain it answers itself; links are the core's to free.
    if (rc != 0 && m->what != CORE_REQUEST && m->what != CORE_QUERY)
        message_fini(m);
    return rc;
}

static void on_frame(struct core *c, struct core_message *m)
{
    struct peer *p = m->link->peer;

    // What a link that was given up still says concerns nobody.
    if (p->link != m->link || c->stopping)
        return;
    p->heard_ns = m->at_ns;
    if (m->frame.type == WIRE_STATUS_IS || status_asked(c, m->frame.id))
        status_on_frame(c, p, &m->frame);
    else if (ship_asked(p, m->frame.id))
        ship_on_frame(c, p, &m->frame);
    else if (placing_asked(p, m->frame.id))
        placing_on_frame(c->placing, p, &m->frame);
    else
        request_on_frame(c, p, &m->frame, m->at_ns);
}

// The first one ends requests, the second one links.
static void on_stop(struct core *c)
{
    static const struct err stopping = {ERR_CLOSED, "the server is stopping"};

    if (++c->stops > 1) {
        for (size_t i = 0; i < c->n_peers; i++)
            peer_close(&c->peers[i], stopping.message);
        return;
    }
    c->stopping = true;
    for (struct request *r = c->requests; r; r = r->next)
        if (!r->over)
            request_fail(c, r, &stopping);
    status_stop(c);
    chan_send(c->halted, &(char){0}, 0);
}

static void message_handle(struct core *c, struct core_message *m)
{
    switch (m->what) {
    case CORE_STOP:
        on_stop(c);
        break;
    case CORE_REQUEST:
        request_reap(c); // what is over does not count against the limits
        os_watch_add(c->watch, reply_fd(m->request->reply), m->request);
        request_admit(c, m->request);
        m->request = NULL;
        break;
    case CORE_QUERY:
        request_reap(c);
        status_on_query(c, m->query);
        m->query = NULL;
        break;
    case CORE_DRAIN:
        c->draining = true;
        break;
    case CORE_UP:
        c->metrics.worker_starts++;
        peer_on_up(c, m);
        break;
    case CORE_DOWN:
        peer_on_down(c, m);
        break;
    case CORE_ROOM:
        chan_send(m->answer, &(int){model_room(c, m->bytes)}, 0);
        m->answer = NULL;
        break;
    case CORE_REST:
        model_on_rest(c, &c->models[m->peer]);
        break;
    case CORE_GREETED:
        peer_on_greeted(c, m);
        break;
    case CORE_FRAME:
        on_frame(c, m);
        break;
    case CORE_CLOSED:
        peer_on_closed(c, m);
        break;
    case CORE_WORD:
        if (!c->stopping)
            upstream_on_word(c, m->word);
        break;
    }
    message_fini(m);
}

// ---- the loop -------------------------------------------------------------------------------------------

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

// Runs what is due; returns the time of the next timer.
static int64_t timers_run(struct core *c)
{
    int64_t now_ns = clock_now_ns(), next_ns = INT64_MAX;

    if (c->stopping)
        return next_ns;
    if (c->n_requests > CORE_TIMERS_FEW && now_ns < c->timers_ns + CORE_TIMERS_NS)
        return c->timers_ns + CORE_TIMERS_NS;
    c->timers_ns = now_ns;
    for (size_t i = 0; i < c->n_peers; i++)
        next_ns = earlier(next_ns, peer_tick(c, &c->peers[i], now_ns));
    for (size_t i = 0; i < c->n_models; i++)
        next_ns = earlier(next_ns, earlier(model_tick(c, &c->models[i], now_ns),
                                           ship_tick(c, &c->models[i], now_ns)));
    for (struct request *r = c->requests; r; r = r->next)
        if (!r->over)
            next_ns = earlier(next_ns, request_tick(c, r, now_ns));
    next_ns = earlier(next_ns, status_tick(c, now_ns));
    next_ns = earlier(next_ns, discover_tick(c, now_ns));
    next_ns = earlier(next_ns, placing_tick(c->placing, now_ns));
    request_reap(c);
    return next_ns;
}

static int timeout_ms(int64_t next_ns)
{
    int64_t left_ns;

    if (next_ns == INT64_MAX)
        return -1;
    left_ns = next_ns - clock_now_ns();
    if (left_ns <= 0)
        return 0;
    left_ns = earlier(left_ns, 3600 * NS_PER_S);
    return (int)((left_ns + NS_PER_MS - 1) / NS_PER_MS);
}

void core_unwatch(struct core *c, struct request *r)
{
    os_watch_remove(c->watch, reply_fd(r->reply));
}

// Requests are only marked here and freed at the end of a turn, so that what was told stays valid.
static void hangups_wait(struct core *c, int timeout)
{
    void *gone[GONE_PER_TURN];
    size_t n = os_watch_wait(c->watch, timeout, gone, GONE_PER_TURN);

    for (size_t i = 0; i < n; i++)
        request_on_hangup(c, gone[i]);
}

static void drained_check(struct core *c)
{
    if (!c->draining || c->drained || c->n_requests > 0)
        return;
    c->drained = true;
    if (c->options.on_event)
        c->options.on_event(c->options.on_event_ctx, GATEWAY_DRAINED, "");
}

static void *core_main(void *ctx)
{
    struct core *c = ctx;
    struct core_message m;

    os_thread_name("core");
    while (c->stops < 2 || c->n_links > 0) {
        hangups_wait(c, timeout_ms(timers_run(c)));
        for (int i = 0; i < MESSAGES_PER_TURN && chan_recv(c->inbox, &m, 0) == 0; i++)
            message_handle(c, &m);
        request_reap(c);
        fleet_tick(c);
        drained_check(c);
    }
    return NULL;
}

// ---- the local worker's supervisor calls ------------------------------------------------------------------

static void supervisor_on_up(void *ctx, struct net_conn *conn)
{
    const struct core_caller *from = ctx;
    struct core_message m = {.what = CORE_UP, .peer = from->model, .conn = conn};

    core_send(from->core, &m, CHAN_FOREVER);
}

static void supervisor_on_down(void *ctx, const char *why, int64_t retry_ns)
{
    const struct core_caller *from = ctx;
    struct core_message m = {.what = CORE_DOWN, .peer = from->model, .retry_ns = retry_ns};

    m.error = mem_alloc(sizeof(*m.error));
    err_set(m.error, ERR_CLOSED, "%s", why);
    core_send(from->core, &m, CHAN_FOREVER);
}

static void supervisor_on_rest(void *ctx)
{
    const struct core_caller *from = ctx;
    struct core_message m = {.what = CORE_REST, .peer = from->model};

    core_send(from->core, &m, CHAN_FOREVER);
}

static const struct node_supervisor_ops supervisor_ops = {supervisor_on_up, supervisor_on_down,
                                                          supervisor_on_rest, NULL};

// ---- starting and stopping ----------------------------------------------------------------------------------

static struct core *core_new(const struct gateway_options *o, const struct core_source *source)
{
    struct core *c = mem_alloc(sizeof(*c));

    c->options = *o;
    c->source = *source;
    c->inbox = chan_new(sizeof(struct core_message), CORE_INBOX);
    c->halted = chan_new(1, 1);
    c->started_ns = clock_now_ns();
    c->next_id = 1;
    metrics_init(&c->metrics);
    c->placing = placing_new(c, o->profiles);
    c->n_models = c->n_peers = o->n_models;
    for (size_t i = 0; i < CORE_PEERS_MAX; i++)
        peer_init(c, i);
    for (size_t i = 0; i < c->n_models; i++) {
        c->callers[i] = (struct core_caller){c, i};
        model_init(&c->models[i], c, i);
    }
    return c;
}

static void greeters_stop(struct core *c)
{
    for (size_t i = 0; i < CORE_PEERS_MAX; i++)
        peer_greeter_stop(&c->peers[i]);
}

int core_start(const struct gateway_options *o, const struct core_source *source, struct core **out,
               struct err *e)
{
    struct core *c = core_new(o, source);
    int rc = os_watch_open(chan_fd(c->inbox), &c->watch, e);

    for (size_t i = 0; rc == 0 && i < c->n_models; i++)
        rc = peer_greeter_start(c, &c->peers[i], e);
    if (rc == 0)
        rc = upstreams_start(c, e);
    if (rc == 0)
        rc = fleet_begin(c, e);
    if (rc == 0)
        discover_begin(c);
    if (rc == 0 && pthread_create(&c->thread, NULL, core_main, c) != 0)
        rc = err_set(e, ERR_IO, "cannot start a thread");
    if (rc != 0) {
        greeters_stop(c);
        chan_close(c->inbox);
        upstreams_stop(c);
        core_free(c);
        return rc;
    }
    for (size_t i = 0; rc == 0 && i < c->n_models; i++) {
        const struct core_start start = {i, &c->models[i].worker, &supervisor_ops, &c->callers[i]};

        rc = c->source.start(c->source.ctx, &start, e);
        c->n_sources += rc == 0;
    }
    if (rc != 0) {
        core_stop(c);
        core_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

static void stop_send(struct core *c)
{
    struct core_message m = {.what = CORE_STOP};

    core_send(c, &m, CHAN_FOREVER);
}

void core_drain(struct core *c)
{
    struct core_message m = {.what = CORE_DRAIN};

    core_send(c, &m, CHAN_FOREVER);
}

// Requests first, while the workers can still be told; then the local workers; then what is left.
void core_stop(struct core *c)
{
    char halted;

    stop_send(c);
    chan_recv(c->halted, &halted, CHAN_FOREVER);
    for (size_t i = 0; i < c->n_sources; i++)
        c->source.stop(c->source.ctx, i);
    stop_send(c);
    pthread_join(c->thread, NULL);
    chan_close(c->inbox);
    greeters_stop(c);
    upstreams_stop(c);
}

static void refused_answer(struct core_message *m)
{
    static const char text[] = "the server is stopping";
    struct reply *r = m->request ? m->request->reply : m->query ? m->query->reply : NULL;

    if (r)
        reply_finish(r, 503, answer_error(503, text, "closed", NULL), 0);
}

void core_free(struct core *c)
{
    struct core_message m;

    chan_close(c->inbox);
    while (chan_recv(c->inbox, &m, 0) == 0) {
        refused_answer(&m);
        message_fini(&m);
    }
    discover_end(c);
    for (size_t i = 0; i < CORE_PEERS_MAX; i++)
        peer_fini(&c->peers[i]);
    upstreams_free(c);
    for (size_t i = 0; i < c->n_models; i++)
        ship_free(c->models[i].ship);
    placing_free(c->placing);
    chan_free(c->inbox);
    chan_free(c->halted);
    if (c->watch)
        os_watch_close(c->watch);
    free(c);
}
