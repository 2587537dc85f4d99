// Start of a worker process: options, key, model, probe, warm-up, threads; then the engine loop.
#include "base/json.h"
#include "base/log.h"
#include "engine/probe.h"
#include "node/spread.h"
#include "node/worker.h"
#include "os/facts.h"
#include "os/os.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { FD_CONTROL = 3, FD_READY = 4, FD_LISTEN = 5 };

#define WARM_TOKENS 64u

// ---- the engine ----------------------------------------------------------------------------------

static bool engine_is_fake(const struct engine_options *o)
{
    return strcmp(o->model, "fake") == 0 || strncmp(o->model, "fake:", 5) == 0;
}

// One small prompt chunk and two decode steps: the first touch of weights and buffers is slow, and
// the rates measured here are the first that others hear of this worker.
static int warm_up(struct worker *w, struct err *e)
{
    struct engine *g = w->engine;
    struct engine_row rows[WARM_TOKENS];
    uint32_t n = g->limits.n_batch < WARM_TOKENS ? g->limits.n_batch : WARM_TOKENS;
    n = n + 4 < g->limits.n_ctx ? n : g->limits.n_ctx - 4;
    int rc = 0;

    for (int round = 0; round < 2 && rc == 0; round++) {
        int64_t t0 = clock_now_ns();
        for (uint32_t i = 0; i < n; i++)
            rows[i] = (struct engine_row){.token = (int32_t)((i * 7 + 1) % g->identity.n_vocab),
                                          .pos = i};
        if ((rc = g->ops->step(g, rows, n, e)) != 0)
            break;
        int64_t t1 = clock_now_ns();
        struct engine_row row = {.token = 1, .pos = n, .want_logits = true};
        if ((rc = g->ops->step(g, &row, 1, e)) != 0)
            break;
        int64_t t2 = clock_now_ns();
        w->prefill_rate = n / ns_to_s(t1 - t0 + 1);
        w->decode_rate = 1.0 / ns_to_s(t2 - t1 + 1);
        rc = g->ops->remove(g, 0, 0, UINT32_MAX, e);
    }
    return rc;
}

// What the user says, or what the probe finds to be exact. The fake engine can do all of them.
static int handoff_find(struct node_worker_options *options, struct err *e)
{
    struct engine_options *o = &options->engine;
    struct probe_result r;

    if (options->handoff != NULL)
        return 0;
    if (engine_is_fake(o)) {
        o->handoff = ENGINE_HANDOFF_RANGES;
        return 0;
    }
    if (o->n_lenders > 0) {
        log_info("worker", "hand-off mode: none (a probe loads the model a second time, which a "
                           "spread one is too large for; --handoff names a mode)");
        return 0;
    }
    int rc = probe_run(o, true, &r, e);
    if (rc != 0)
        return rc;
    o->handoff = r.handoff;
    log_info("worker", "hand-off mode: %s (%s)", engine_handoff_name(r.handoff), r.reason);
    return 0;
}

static int spread_start(struct worker *w, struct err *e)
{
    static struct spread spread; // its streams are the engine's
    struct node_worker_options *o = &w->options;
    int rc = spread_open(&spread, o, &o->engine, e);

    if (rc == 0)
        rc = handoff_find(o, e);
    if (rc == 0)
        rc = engine_open(&o->engine, &w->engine, e);
    if (rc == 0)
        spread_text(&spread, w->engine->identity.n_layer, w->spread, sizeof w->spread);
    return rc;
}

// Before the model takes the memory that this needs.
static void bandwidth_find(struct worker *w)
{
    struct os_facts f;

    os_facts_get(&f);
    w->memory_bytes_per_s = os_bandwidth_get(&f);
}

static void power_start(struct worker *w)
{
    if (engine_is_fake(&w->options.engine) || w->options.pace_prefill > 0)
        snprintf(w->power.why, sizeof w->power.why,
                 "this worker emulates a machine: what this one uses says nothing of that");
    else
        worker_power_start(w, &os_roots_default);
}

static int engine_start(struct worker *w, struct err *e)
{
    struct node_worker_options *o = &w->options;
    int rc = 0;

    if (!engine_is_fake(&o->engine))
        bandwidth_find(w);
    o->engine.tiles = !o->no_tiles;
    if (o->spread != NULL) {
        rc = spread_start(w, e);
    } else {
        rc = handoff_find(o, e);
        if (rc == 0)
            rc = engine_open(&o->engine, &w->engine, e);
    }
    if (rc != 0)
        return rc;
    if (!engine_is_fake(&o->engine) && (rc = warm_up(w, e)) != 0)
        return rc;
    if (o->pace_prefill > 0 && o->pace_decode > 0) {
        w->engine = engine_paced_new(w->engine, o->pace_prefill, o->pace_decode);
        w->prefill_rate = o->pace_prefill;
        w->decode_rate = o->pace_decode;
    }
    return 0;
}

// ---- the process ---------------------------------------------------------------------------------

static int threads_start(struct worker *w, struct net_conn *parent, struct err *e)
{
    uint8_t ready = 1;
    int rc = worker_open(w, w->engine, e);
    if (rc == 0 && write(FD_READY, &ready, 1) != 1)
        rc = err_set(e, ERR_IO, "cannot tell the supervisor that this worker is ready");
    if (rc == 0)
        rc = worker_link_accept_parent(w, parent, e);
    return rc;
}

// The model did not load: whoever says HELLO is told why, and the process ends.
static int refuse(struct net_conn *parent, const struct err *why)
{
    struct err e = {0};
    struct wire_frame hello = {0};
    struct wire_frame f;
    uint8_t heard = 0;

    log_error("worker", "%s", why->message);
    if (wire_frame_read(parent, &hello, clock_now_ns() + 5 * NS_PER_S, &e) == 0) {
        f = wire_frame_failed(WIRE_REFUSED, 0, why->code, why->message);
        wire_frame_write(parent, &f, clock_now_ns() + NS_PER_S, &e);
        wire_frame_fini(&f);
        // Ends only when it was heard, so that the reason arrives before the news of the end.
        net_conn_read(parent, &heard, 1, clock_now_ns() + 2 * NS_PER_S, &e);
    }
    wire_frame_fini(&hello);
    net_conn_free(parent);
    return why->code == ERR_BUSY || why->code == ERR_IO ? 1 : NODE_EXIT_PERMANENT;
}

static int options_read(struct worker *w, const char *text, json_t **v, struct err *e)
{
    *v = json_parse(text, strlen(text), e);
    if (*v == NULL)
        return e->code;
    return node_worker_options_parse(*v, &w->options, e);
}

int node_worker_main(int argc, char **argv)
{
    static struct worker w; // one worker per process; too large for a stack
    struct err e = {0};
    json_t *v = NULL;
    int64_t t0 = clock_now_ns();

    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); // Ctrl-C reaches the whole group; the supervisor ends us
    if (argc != 2) {
        fprintf(stderr, "tandem-worker is started by `tandem serve` and `tandem node`\n");
        return NODE_EXIT_PERMANENT;
    }
    struct net_conn *parent = net_conn_wrap(FD_CONTROL);
    int rc = options_read(&w, argv[1], &v, &e);
    if (rc == 0)
        rc = net_conn_read(parent, w.options.key.bytes, NET_KEY_BYTES, NET_NEVER, &e);
    log_process_set(w.options.name != NULL ? w.options.name : "worker");
    if (rc == 0 && w.options.cpus != NULL)
        rc = os_cpu_pin(w.options.cpus, &e);
    if (rc == 0 && w.options.lend)
        return spread_lend_run(&w.options, parent, FD_READY, FD_LISTEN);
    if (rc == 0)
        rc = engine_start(&w, &e);
    if (rc != 0) {
        e.code = rc;
        rc = refuse(parent, &e);
        json_decref(v);
        return rc;
    }
    node_id_get(w.options.name, w.node_id);
    w.load_s = ns_to_s(clock_now_ns() - t0);
    w.listen_fd = w.options.listen != NULL ? FD_LISTEN : -1;
    power_start(&w);
    if ((rc = threads_start(&w, parent, &e)) != 0) {
        log_error("worker", "%s", e.message);
        return 1;
    }
    worker_run(&w);
    log_info("worker", w.idle ? "stopping: nobody is connected" : "stopping");
    rc = w.idle ? NODE_EXIT_IDLE : 0;
    worker_close(&w);
    json_decref(v);
    return rc;
}
