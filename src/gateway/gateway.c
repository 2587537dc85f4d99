#include "gateway/gateway.h"

#include "base/buf.h"
#include "base/clock.h"
#include "gateway/access.h"
#include "gateway/core.h"
#include "gateway/http.h"
#include "gateway/image_jobs.h"
#include "gateway/image_upstream.h"
#include "gateway/images.h"
#include "gateway/room.h"
#include "gateway/start.h"
#include "gateway/tuning.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

struct gateway {
    struct gateway_options options;
    // Of each model. Written when the supervisor has started, while the core may already ask for its
    // worker's pid: release and acquire.
    _Atomic(struct node_supervisor *) supervisors[GATEWAY_MODELS_MAX];
    struct access *access;
    struct core *core;
    struct http *http;
    struct tuning *tuning;
    struct images *images;                   // NULL: this server draws none
    struct image_upstreams *image_upstreams; // others that draw
    struct image_jobs *image_jobs;
    struct room room;
    atomic_int undrained; // the core, and who draws; who comes last tells
};

void gateway_options_default(struct gateway_options *o)
{
    *o = (struct gateway_options){
        .listen = {.host = "127.0.0.1", .port = GATEWAY_PORT},
        .same_weights = true,
        .max_requests = 64,
        .heartbeat_ns = 5 * NS_PER_S,
        .stall_s = 3,
        .models_idle_ns = 900 * NS_PER_S,
    };
    node_worker_options_default(&o->worker);
    o->images.queue = GATEWAY_IMAGE_QUEUE;
    o->images.expiry_s = GATEWAY_IMAGE_EXPIRY_S;
    o->images.jobs = GATEWAY_IMAGE_JOBS;
    o->images.jobs_per_key = GATEWAY_IMAGE_JOBS_PER_KEY;
}

// ---- the real worker ----------------------------------------------------------------------------------

static struct node_supervisor *supervisor_of(void *ctx, size_t model)
{
    struct gateway *g = ctx;

    return atomic_load_explicit(&g->supervisors[model], memory_order_acquire);
}

static int supervisor_start(void *ctx, const struct core_start *start, struct err *e)
{
    struct gateway *g = ctx;
    struct node_supervisor *s = NULL;
    uint16_t port;
    int rc = node_supervisor_start(start->worker, start->ops, start->ops_ctx, &port, &s, e);

    atomic_store_explicit(&g->supervisors[start->model], s, memory_order_release);
    return rc;
}

static void supervisor_stop(void *ctx, size_t model)
{
    node_supervisor_free(supervisor_of(ctx, model));
}

static int64_t supervisor_pid(void *ctx, size_t model)
{
    struct node_supervisor *s = supervisor_of(ctx, model);

    return s ? node_supervisor_pid(s) : -1;
}

static void supervisor_rest(void *ctx, size_t model)
{
    node_supervisor_rest(supervisor_of(ctx, model));
}

static void supervisor_wake(void *ctx, size_t model)
{
    node_supervisor_wake(supervisor_of(ctx, model));
}

static const struct core_source own_source = {supervisor_start, supervisor_stop, supervisor_pid,
                                              supervisor_rest,  supervisor_wake, NULL};

// ---- draining -------------------------------------------------------------------------------------------

static void drained(struct gateway *g)
{
    const struct gateway_options *o = &g->options;

    if (atomic_fetch_sub_explicit(&g->undrained, 1, memory_order_acq_rel) == 1 && o->on_event)
        o->on_event(o->on_event_ctx, GATEWAY_DRAINED, "");
}

static void images_on_drained(void *ctx)
{
    drained(ctx);
}

static void core_on_event(void *ctx, enum gateway_event event, const char *text)
{
    struct gateway *g = ctx;
    const struct gateway_options *o = &g->options;

    if (event == GATEWAY_DRAINED)
        drained(g);
    else if (o->on_event)
        o->on_event(o->on_event_ctx, event, text);
}

// ---- starting and stopping ------------------------------------------------------------------------------

// The address is bound before anything is loaded, so that a second server on a port says so at once.
static int http_listen(struct gateway *g, struct err *e)
{
    struct gateway_options *o = &g->options;
    // HTTP has no encryption of its own yet. What makes a public address acceptable is the API key;
    // net_listen, which knows what a name resolves to, is told by any key that there is one.
    struct net_key key = {{access_demanded(g->access)}};
    int fd = net_listen(&o->listen, &key, e);

    if (fd == ERR_AUTH)
        return err_set(e, ERR_AUTH,
                       "%s can be reached by other machines: give --api-key KEY (clients then "
                       "send it), or listen on 127.0.0.1",
                       o->listen.host[0] ? o->listen.host : "*");
    return fd;
}

static int options_check(const struct gateway_options *o, struct err *e)
{
    if (o->n_prefill > GATEWAY_PREFILL_MAX)
        return err_set(e, ERR_RANGE, "%zu prefill nodes were given, at most %d are taken",
                       o->n_prefill, GATEWAY_PREFILL_MAX);
    if (o->n_models > GATEWAY_MODELS_MAX)
        return err_set(e, ERR_RANGE, "%zu models were given, at most %d are taken", o->n_models,
                       GATEWAY_MODELS_MAX);
    if (o->n_image_upstreams > GATEWAY_UPSTREAMS_MAX)
        return err_set(e, ERR_RANGE, "%zu servers that draw were given, at most %d are taken",
                       o->n_image_upstreams, GATEWAY_UPSTREAMS_MAX);
    if (o->n_upstreams > GATEWAY_UPSTREAMS_MAX)
        return err_set(e, ERR_RANGE, "%zu upstream servers were given, at most %d are taken",
                       o->n_upstreams, GATEWAY_UPSTREAMS_MAX);
    if (o->max_requests == 0 || o->max_requests > 4096)
        return err_set(e, ERR_RANGE, "the most requests at one time is %u, must be 1 to 4096",
                       o->max_requests);
    return 0;
}

static int gateway_run(struct gateway *g, const struct core_source *source, uint16_t *port,
                       struct err *e)
{
    struct http_parts parts = {.options = &g->options};
    struct gateway_options core = g->options;
    int fd, rc = access_open(&g->options, &g->access, e);

    if (rc != 0)
        return rc;
    fd = http_listen(g, e);
    if (fd < 0)
        return fd;
    *port = g->options.listen.port;
    core.on_event = core_on_event;
    core.on_event_ctx = g;
    core.drawers = g->image_upstreams;
    rc = core_start(&core, source, &g->core, e);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    parts.access = g->access;
    parts.core = g->core;
    parts.tuning = g->tuning;
    parts.images = g->images;
    parts.image_upstreams = g->image_upstreams;
    parts.image_jobs = g->image_jobs;
    rc = http_start(&parts, fd, &g->http, e);
    if (rc != 0) {
        core_stop(g->core);
        core_free(g->core);
        return rc;
    }
    atomic_store_explicit(&g->room.core, g->core, memory_order_release);
    return 0;
}

static int images_run(struct gateway *g, struct err *e)
{
    const struct images_hooks hooks = {images_on_drained, g};
    const struct gateway_options *o = &g->options;
    int rc = 0;

    atomic_init(&g->undrained, 2 + (o->images.worker.model != NULL));
    if (o->images.worker.model)
        rc = images_start(o, &hooks, &g->images, e);
    g->room.images = g->images;
    if (rc == 0) // a node that draws may join at any time
        rc = image_upstreams_start(o, g->images, &hooks, &g->image_upstreams, e);
    if (rc == 0)
        rc = image_jobs_start(o, &(struct images_places){g->images, g->image_upstreams},
                              &g->image_jobs, e);
    return rc;
}

// Those who draw first: an image job that they had is put back then.
static void images_end(struct gateway *g)
{
    image_jobs_drain(g->image_jobs);
    image_upstreams_stop(g->image_upstreams); // it hands over to the other
    images_stop(g->images);
    image_jobs_stop(g->image_jobs);
}

static void images_drop(struct gateway *g)
{
    image_upstreams_free(g->image_upstreams);
    images_free(g->images);
    image_jobs_free(g->image_jobs);
}

int gateway_start_on(const struct gateway_options *o, const struct core_source *source,
                     struct gateway **out, uint16_t *port, struct err *e)
{
    struct gateway *g;
    struct core_source own = own_source;
    int rc = options_check(o, e);

    if (rc != 0)
        return rc;
    g = mem_alloc(sizeof(*g));
    g->options = *o;
    if (o->n_models == 0 && o->n_upstreams == 0 && o->n_image_upstreams == 0 &&
        o->worker.engine.model) {
        g->options.n_models = 1;
        g->options.models[0] = (struct gateway_model){.path = o->worker.engine.model};
    }
    g->options.worker.key = o->key;
    // The gateway limits requests; each may ask for several answers, and the worker has room for all.
    g->options.worker.max_requests = o->max_requests * PARSE_CHOICES_MAX;
    own.ctx = g;
    room_init(&g->room);
    rc = images_run(g, e);
    if (rc == 0)
        rc = tuning_start(&g->options, source ? NULL : &g->room.hooks, &g->tuning, e);
    if (rc == 0)
        rc = gateway_run(g, source ? source : &own, port, e);
    if (rc != 0) {
        tuning_stop(g->tuning);
        tuning_free(g->tuning);
        images_end(g);
        images_drop(g);
        room_fini(&g->room);
        access_free(g->access);
        free(g);
        return rc;
    }
    *out = g;
    return 0;
}

int gateway_start(const struct gateway_options *o, struct gateway **out, uint16_t *port,
                  struct err *e)
{
    return gateway_start_on(o, NULL, out, port, e);
}

struct core *gateway_core(struct gateway *g)
{
    return g->core;
}

void gateway_drain(struct gateway *g)
{
    core_drain(g->core);
    image_jobs_drain(g->image_jobs);
    image_upstreams_drain(g->image_upstreams);
    if (g->images)
        images_drain(g->images);
}

void gateway_free(struct gateway *g)
{
    if (!g)
        return;
    tuning_stop(g->tuning); // its streams end before HTTP does
    images_end(g);
    core_stop(g->core);
    http_stop(g->http);
    core_free(g->core);
    tuning_free(g->tuning);
    images_drop(g);
    room_fini(&g->room);
    access_free(g->access);
    free(g);
}
