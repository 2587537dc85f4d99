#include "node/images_impl.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "node/node.h"
#include "os/facts.h"
#include "os/os.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INBOX 64
#define TICK_NS (20 * NS_PER_MS) // while something is drawn: whether others have something to do
#define IDLE_NS NS_PER_S

// ---- what gateways are told of the model -------------------------------------------------------------

static void state_send(struct node_images *n, struct node_images_link *l)
{
    node_images_send(l, wire_frame_json(WIRE_CANVAS, 0, message_canvas_state_json(&n->state)));
}

static void state_set(struct node_images *n, enum message_canvas_word word,
                      const struct image_event *ev)
{
    struct message_canvas_state *s = &n->state;
    struct image_worker_status w;
    image_worker_status(n->worker, &w);
    s->word = word;
    s->pid = w.pid;
    s->restarts = w.restarts;
    s->previews = w.can_preview;
    snprintf(s->library, sizeof s->library, "%s", w.library);
    snprintf(s->version, sizeof s->version, "%s", w.version);
    snprintf(s->why, sizeof s->why, "%s", ev->error.message);
    if (word == MESSAGE_CANVAS_READY)
        s->load_s = ev->load_s;
    for (struct node_images_link *l = n->links; l != NULL; l = l->next)
        state_send(n, l);
}

static void event_tell(struct node_images *n, enum node_images_event event, const char *text)
{
    if (n->options.on_event != NULL)
        n->options.on_event(n->options.ctx, event, text);
}

static void worker_event(struct node_images *n, struct image_event *ev)
{
    if (ev->kind == IMAGE_READY) {
        log_info("images", "an image model is up: model=\"%s\" load_s=%.2f",
                 n->welcome.canvas.model, ev->load_s);
        state_set(n, MESSAGE_CANVAS_READY, ev);
        event_tell(n, NODE_IMAGES_READY, n->welcome.canvas.model);
    } else if (ev->kind == IMAGE_DOWN) {
        bool dead = ev->retry_ns < 0;
        state_set(n, dead ? MESSAGE_CANVAS_FAILED : MESSAGE_CANVAS_LOADING, ev);
        if (dead)
            event_tell(n, NODE_IMAGES_FAILED, ev->error.message);
    } else {
        node_images_told(n, ev);
    }
}

// ---- the thread ------------------------------------------------------------------------------------

static void link_add(struct node_images *n, struct node_images_link *l)
{
    uint32_t links = 0;
    for (const struct node_images_link *k = n->links; k != NULL; k = k->next)
        links++;
    l->next = n->links;
    n->links = l;
    if (links >= NODE_IMAGES_LINKS) {
        log_warn("images", "%u gateways are here, no more are taken: peer=%s", links,
                 wire_link_peer(l->wire));
        wire_link_close(l->wire);
        return;
    }
    log_info("images", "a gateway came: peer=%s", wire_link_peer(l->wire));
    state_send(n, l);
}

static void link_free(struct node_images *n, struct node_images_link *l)
{
    struct node_images_link **at = &n->links;
    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    node_images_link_lost(n, l);
    wire_link_free(l->wire);
    free(l);
}

static void drain(struct node_images *n)
{
    for (struct node_images_link *l = n->links; l != NULL; l = l->next)
        node_images_status_send(n, l, 0);
}

static void word_take(struct node_images *n, struct node_images_word *w)
{
    if (w->what == NODE_LINK_UP)
        link_add(n, w->link);
    else if (w->what == NODE_LINK_DOWN)
        link_free(n, w->link);
    else if (w->what == NODE_DRAIN)
        drain(n);
    else
        node_images_frame(n, w->link, &w->frame);
    wire_frame_fini(&w->frame);
}

// True to stop.
static bool inbox_take(struct node_images *n)
{
    struct node_images_word w;
    int rc = 0;
    while ((rc = chan_recv(n->inbox, &w, 0)) == 0)
        word_take(n, &w);
    return rc == ERR_CLOSED;
}

static void events_wait(struct node_images *n)
{
    struct pollfd p[2] = {{.fd = chan_fd(n->inbox), .events = POLLIN},
                          {.fd = image_worker_fd(n->worker), .events = POLLIN}};
    int64_t ns = n->jobs != NULL ? TICK_NS : IDLE_NS, due = image_worker_wait_ns(n->worker);
    ns = due < ns ? due : ns;
    poll(p, 2, (int)((ns + NS_PER_MS - 1) / NS_PER_MS));
}

static void yield(struct node_images *n)
{
    const struct node_images_options *o = &n->options;
    bool busy = n->jobs != NULL && !o->wait && o->busy != NULL && o->busy(o->ctx);
    image_worker_pause(n->worker, image_yield_tick(&n->yield, busy, clock_now_ns()));
}

// One that waits behind others has no step to tell of for hours.
static void beat(struct node_images *n)
{
    int64_t now_ns = clock_now_ns(), beat_ns = n->options.beat_ns;
    if (now_ns < n->due_ns)
        return;
    n->due_ns = now_ns + (beat_ns > 0 ? beat_ns : NODE_IMAGES_BEAT_NS);
    node_images_beat(n);
}

static void drained_check(struct node_images *n)
{
    if (n->drained || n->jobs != NULL || !atomic_load_explicit(&n->draining, memory_order_relaxed))
        return;
    n->drained = true;
    event_tell(n, NODE_IMAGES_DRAINED, "");
}

static void run(struct node_images *n)
{
    struct image_event ev;
    bool stop = false;
    while (!stop) {
        events_wait(n);
        stop = inbox_take(n);
        while (image_worker_poll(n->worker, 0, &ev) > 0) {
            worker_event(n, &ev);
            image_event_fini(&ev);
        }
        yield(n);
        beat(n);
        drained_check(n);
    }
    while (n->links != NULL)
        link_free(n, n->links);
    while (n->jobs != NULL) { // cancelled, and their end is not waited for
        struct node_images_job *j = n->jobs;
        n->jobs = j->next;
        message_draw_fini(&j->draw);
        message_pixels_fini(&j->pixels);
        free(j);
    }
}

static void *images_main(void *arg)
{
    struct node_images *n = arg;
    struct err e = {0};
    os_thread_name("images");
    // Here, not before: on Linux the worker ends with the thread that started it.
    int rc = image_worker_start(&n->options.worker, &n->worker, &e);
    if (rc == 0)
        n->welcome.canvas.like = *image_worker_model(n->worker);
    chan_send(n->begun, &e, 0);
    if (rc == 0)
        run(n);
    image_worker_free(n->worker);
    return NULL;
}

// ---- starting and stopping ---------------------------------------------------------------------------

static void canvas_fill(struct message_canvas *c, const struct node_images_options *o)
{
    const char *slash = strrchr(o->worker.model, '/');
    char *dot = NULL;
    snprintf(c->file, sizeof c->file, "%s", slash != NULL ? slash + 1 : o->worker.model);
    snprintf(c->model, sizeof c->model, "%s", o->model_name != NULL ? o->model_name : c->file);
    dot = strrchr(c->model, '.');
    if (o->model_name == NULL && dot != NULL && dot > c->model)
        *dot = '\0';
}

static void welcome_fill(struct node_images *n)
{
    const struct node_images_options *o = &n->options;
    struct message_welcome *m = &n->welcome;
    *m = (struct message_welcome){
        .version = WIRE_VERSION, .draws = true, .max_stall_s = -1, .pid = getpid()};
    if (o->name != NULL)
        snprintf(m->name, sizeof m->name, "%s", o->name);
    else
        node_name_default(m->name, sizeof m->name);
    snprintf(m->build, sizeof m->build, "tandem %s", TANDEM_VERSION);
    node_id_get(o->name, m->node_id);
    os_facts_get(&m->facts);
    canvas_fill(&m->canvas, o);
    snprintf(m->model, sizeof m->model, "%s", m->canvas.model);
}

static int listen_start(struct node_images *n, uint16_t *port, struct err *e)
{
    struct net_addr a;
    int rc = net_addr_parse(n->options.listen, "127.0.0.1", MESSAGE_PORT, &a, e);
    if (rc != 0)
        return rc;
    n->listen_fd = net_listen(&a, &n->options.key, e);
    *port = a.port;
    return n->listen_fd < 0 ? n->listen_fd : 0;
}

static int thread_start(struct node_images *n, struct err *e)
{
    struct err begun = {0};
    if (pthread_create(&n->thread, NULL, images_main, n) != 0)
        return err_set(e, ERR_IO, "cannot start a thread");
    n->started = true;
    chan_recv(n->begun, &begun, CHAN_FOREVER);
    return begun.code != 0 ? err_set(e, begun.code, "%s", begun.message) : 0;
}

int node_images_start(const struct node_images_options *o, uint16_t *port, struct node_images **out,
                      struct err *e)
{
    struct node_images *n = mem_alloc(sizeof *n);
    n->options = *o;
    n->listen_fd = -1;
    n->state.pid = -1;
    n->inbox = chan_new(sizeof(struct node_images_word), INBOX);
    n->begun = chan_new(sizeof(struct err), 1);
    chan_fd(n->inbox);
    welcome_fill(n);
    int rc = listen_start(n, port, e);
    if (rc == 0)
        rc = thread_start(n, e);
    if (rc == 0 && (n->acceptor = acceptor_start(&node_images_host, n, n->listen_fd,
                                                 &n->options.key, e)) == NULL)
        rc = e->code;
    if (rc == 0)
        *out = n;
    else
        node_images_free(n);
    return rc;
}

void node_images_drain(struct node_images *n)
{
    struct node_images_word w = {.what = NODE_DRAIN};
    atomic_store_explicit(&n->draining, true, memory_order_relaxed);
    chan_send(n->inbox, &w, CHAN_FOREVER);
}

void node_images_free(struct node_images *n)
{
    struct node_images_word w;
    if (n == NULL)
        return;
    acceptor_free(n->acceptor);
    chan_close(n->inbox);
    if (n->started)
        pthread_join(n->thread, NULL);
    while (chan_recv(n->inbox, &w, 0) == 0)
        wire_frame_fini(&w.frame);
    if (n->listen_fd >= 0)
        close(n->listen_fd);
    chan_free(n->inbox);
    chan_free(n->begun);
    free(n);
}
