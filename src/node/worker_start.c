// Making and unmaking what a worker's threads share.
#include "base/log.h"
#include "node/worker.h"
#include "os/facts.h"
#include "sched/place.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static size_t segment_max_get(const struct engine *g)
{
    double bytes = g->limits.kv_bytes_per_token * 1.25 * g->limits.n_ctx +
                   (double)g->limits.state_bytes * 2 + (1 << 20);
    return bytes < WIRE_SEGMENT_MAX ? (size_t)bytes : WIRE_SEGMENT_MAX;
}

static void welcome_fill(struct worker *w)
{
    struct message_welcome *m = &w->welcome;
    *m = (struct message_welcome){.version = WIRE_VERSION,
                                  .identity = w->engine->identity,
                                  .limits = w->engine->limits,
                                  .prefill_tokens_per_s = w->prefill_rate,
                                  .decode_tokens_per_s = w->decode_rate,
                                  .paced = w->options.pace_prefill > 0,
                                  .max_stall_s = w->options.stall_ms / 1e3,
                                  .adapters = w->engine->ops->adapter_load != NULL,
                                  .measures = true,
                                  .links = true,
                                  .priced = w->options.price >= 0,
                                  .dollars_per_hour = fmax(w->options.price, 0),
                                  .image_port = w->options.image_port,
                                  .pid = getpid()};
    if (w->options.role != NULL)
        place_role_parse(w->options.role, &m->role);
    if (w->options.advertise != NULL)
        snprintf(m->advertise, sizeof m->advertise, "%s", w->options.advertise);
    if (w->options.name != NULL)
        snprintf(m->name, sizeof m->name, "%s", w->options.name);
    else
        node_name_default(m->name, sizeof m->name);
    snprintf(m->spread, sizeof m->spread, "%s", w->spread);
    snprintf(m->build, sizeof m->build, "tandem %s", TANDEM_VERSION);
    snprintf(m->model, sizeof m->model, "%s", w->engine->identity.model);
    snprintf(m->node_id, sizeof m->node_id, "%s", w->node_id);
    os_facts_get(&m->facts);
    m->facts.memory_bytes_per_s = w->memory_bytes_per_s;
}

static struct chan *blocks_new(struct worker *w, size_t n)
{
    struct chan *c = chan_new(sizeof(struct worker_block *), n);
    for (size_t i = 0; i < n; i++) {
        struct worker_block *b = mem_alloc(sizeof *b);
        b->worker = w;
        b->home = c;
        chan_send(c, &b, 0);
    }
    return c;
}

bool worker_block_fit(struct worker_block *b, size_t bytes)
{
    if (b->cap >= bytes)
        return true;
    free(b->data); // what was in it is of no use: no need to copy
    b->data = malloc(bytes);
    b->cap = b->data != NULL ? bytes : 0;
    return b->data != NULL;
}

void worker_block_back(struct worker_block *b)
{
    chan_send_first(b->home, &b, CHAN_FOREVER);
}

static void blocks_free(struct chan *c, size_t n)
{
    struct worker_block *b = NULL;
    for (size_t i = 0; i < n && chan_recv(c, &b, 0) == 0; i++) {
        free(b->data);
        free(b);
    }
    chan_free(c);
}

// One chunk's KV must fit into the blocks, or the link would idle while the next one computes.
static void blocks_size(struct worker *w)
{
    const struct engine_limits *m = &w->engine->limits;
    double chunk = m->kv_bytes_per_token * m->n_batch;

    w->segment_bytes = WORKER_SEGMENT_BYTES;
    if (chunk / (double)w->segment_bytes > WORKER_BLOCKS_MAX - 2)
        w->segment_bytes = (size_t)(chunk / (WORKER_BLOCKS_MAX - 2)) + 1;
    w->n_blocks = (size_t)(chunk / (double)w->segment_bytes) + 3;
    if (w->n_blocks < WORKER_BLOCKS_MIN)
        w->n_blocks = WORKER_BLOCKS_MIN;
}

int worker_open(struct worker *w, struct engine *g, struct err *e)
{
    w->engine = g;
    w->chunk_parts = 1;
    for (size_t i = 0; i < 2; i++)
        w->rows[i] = mem_alloc(g->limits.n_batch * sizeof *w->rows[i]);
    w->imports = chan_new(sizeof(struct worker_event), WORKER_IMPORTS);
    pace_init(&w->pace, w->options.stall_ms / 1e3);
    worker_memory_init(w);
    worker_adapter_init(w);
    worker_probe_init(w);
    w->inbox = chan_new(sizeof(struct worker_event), WORKER_INBOX);
    w->text_inbox = chan_new(sizeof(struct worker_event), WORKER_INBOX);
    w->pulls = chan_new(sizeof(struct worker_event), WORKER_INBOX);
    blocks_size(w);
    w->export_free = blocks_new(w, w->n_blocks);
    w->import_free = blocks_new(w, w->n_blocks);
    w->segment_max = segment_max_get(g);
    atomic_store(&w->next_serial, 1);
    welcome_fill(w);
    int rc = worker_text_start(w, e);
    if (rc == 0 && w->listen_fd >= 0 &&
        (w->acceptor = acceptor_start(&worker_host, w, w->listen_fd, &w->options.key, e)) == NULL)
        rc = e->code;
    return rc;
}

// Events that nobody will handle may own a frame or a link.
static void inbox_drop(struct worker *w)
{
    struct worker_event ev;

    worker_prefill_pulls(w);
    while (chan_recv(w->inbox, &ev, 0) == 0) {
        if (ev.kind == WORKER_EVENT_FRAME)
            wire_frame_fini(&ev.frame);
        else if (ev.kind == WORKER_EVENT_LINK_UP || ev.kind == WORKER_EVENT_LINK_CLOSED ||
                 ev.kind == WORKER_EVENT_MEDIA)
            worker_event_handle(w, &ev);
    }
}

// Short-lived threads end by themselves, at the latest at their handshake's deadline. Links end by
// their last event, which comes over the inbox.
static void links_end(struct worker *w)
{
    bool busy = false;
    do {
        // Looked at before the inbox: who is done by now has posted its link already.
        busy = atomic_load_explicit(&w->dials, memory_order_acquire) > 0 ||
               (w->acceptor != NULL && acceptor_busy(w->acceptor));
        inbox_drop(w);
        for (struct worker_link *l = w->links; l != NULL; l = l->next)
            wire_link_close(l->wire);
        if (busy || w->links != NULL)
            clock_sleep_until(clock_now_ns() + NS_PER_MS);
    } while (busy || w->links != NULL);
}

void worker_close(struct worker *w)
{
    worker_power_stop(w);
    if (w->acceptor != NULL)
        acceptor_stop(
            w->acceptor); // its handshakes end with the links: the inbox must be emptied meanwhile
    while (w->jobs != NULL)
        worker_job_finish(w, w->jobs);
    links_end(w);
    acceptor_free(w->acceptor);
    chan_close(w->text_inbox);
    pthread_join(w->text_thread, NULL);
    inbox_drop(w);
    worker_memory_fini(w);
    worker_adapter_fini(w);
    worker_media_fini(w);
    worker_probe_fini(w);
    w->engine->ops->free(w->engine);
    blocks_free(w->export_free, w->n_blocks);
    blocks_free(w->import_free, w->n_blocks);
    chan_free(w->inbox);
    chan_free(w->text_inbox);
    chan_free(w->pulls);
    chan_free(w->imports);
    free(w->rows[0]);
    free(w->rows[1]);
    if (w->listen_fd >= 0)
        close(w->listen_fd);
}
