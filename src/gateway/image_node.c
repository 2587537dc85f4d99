// Nodes of the fleet that draw: their places among those that do. What the core says of a node stands in its place,
// under the lock, and the thread takes it over; what comes over its link arrives in a channel.
#include "gateway/image_upstream_impl.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FRAMES 32 // on their way to the thread, of at most WIRE_PIXELS_MAX each
#define FRAMES_A_TURN 64

// ---- what the core says --------------------------------------------------------------------------------

static struct image_upstream_server *place_find(struct image_upstreams *u, const char *address)
{
    struct image_upstream_server *free_one = NULL;

    for (size_t i = 0; i < u->n; i++) {
        struct image_upstream_server *s = &u->servers[i];

        if (!s->node)
            continue;
        if (s->node->said.used && strcmp(s->node->said.address, address) == 0)
            return s;
        // One whose last node has left, and what it had has ended.
        if (!free_one && !s->node->said.used && !s->node->now.used && s->waiting + s->drawing == 0)
            free_one = s;
    }
    return free_one;
}

// With the lock held; the thread is told when it is not any more.
static void said(struct image_node *n, const char *why)
{
    snprintf(n->said.why, sizeof(n->said.why), "%s", why);
    n->said.version++;
}

int image_nodes_join(struct image_upstreams *u, const struct image_node_join *j, size_t *place,
                     uint64_t *link, struct err *e)
{
    const struct message_welcome *w = j->welcome;
    struct image_upstream_server *s;
    struct image_node_said *o;

    pthread_mutex_lock(&u->lock);
    s = place_find(u, j->address);
    if (s) {
        o = &s->node->said;
        o->used = true;
        o->held = false;
        o->link = *link = ++s->node->links;
        o->canvas = w->canvas;
        snprintf(o->address, sizeof(o->address), "%s", j->address);
        snprintf(o->name, sizeof(o->name), "%s", w->name[0] ? w->name : j->address);
        s->node->wire = j->wire;
        said(s->node, "");
        *place = s->index;
    }
    pthread_mutex_unlock(&u->lock);
    if (!s)
        return err_set(e, ERR_BUSY, "%d nodes draw for this server, and no more may; remove one",
                       IMAGE_NODES_MAX);
    net_http_pool_wake(u->pool);
    return 0;
}

void image_nodes_part(struct image_upstreams *u, size_t place, const struct wire_link *wire,
                      const char *why)
{
    struct image_node *n = u->servers[place].node;

    pthread_mutex_lock(&u->lock);
    if (n->wire == wire) {
        n->wire = NULL;
        n->said.link = 0;
        said(n, why);
    }
    pthread_mutex_unlock(&u->lock);
    net_http_pool_wake(u->pool);
}

void image_nodes_hold(struct image_upstreams *u, size_t place, const char *why)
{
    struct image_node *n = u->servers[place].node;

    pthread_mutex_lock(&u->lock);
    if (n->said.held != (why != NULL)) {
        n->said.held = why != NULL;
        said(n, why ? why : "");
    }
    pthread_mutex_unlock(&u->lock);
    net_http_pool_wake(u->pool);
}

void image_nodes_forget(struct image_upstreams *u, size_t place)
{
    struct image_node *n = u->servers[place].node;

    pthread_mutex_lock(&u->lock);
    n->said.used = false;
    n->said.link = 0;
    n->wire = NULL;
    said(n, "the node was removed");
    pthread_mutex_unlock(&u->lock);
    net_http_pool_wake(u->pool);
}

uint32_t image_nodes_requests(struct image_upstreams *u, size_t place)
{
    const struct image_upstream_server *s = &u->servers[place];
    uint32_t n;

    pthread_mutex_lock(&u->lock);
    n = s->waiting + s->drawing;
    pthread_mutex_unlock(&u->lock);
    return n;
}

int image_nodes_frame(struct image_upstreams *u, size_t place, uint64_t link, struct wire_frame *f,
                      struct err *e)
{
    struct image_node_frame item = {place, link, *f};

    if (chan_send(u->frames, &item, CHAN_FOREVER) != 0) {
        wire_frame_fini(f);
        return err_set(e, ERR_CLOSED, "the server is stopping");
    }
    net_http_pool_wake(u->pool);
    return 0;
}

// ---- what the thread makes of it -----------------------------------------------------------------------

void image_node_state(struct image_upstream_server *s)
{
    const struct image_node *n = s->node;
    char why[ERR_MESSAGE_BYTES];

    snprintf(why, sizeof(why), "%s", n->now.why);
    if (!n->now.used || n->now.link == 0) {
        if (n->refusal[0])
            snprintf(why, sizeof(why), "%s", n->refusal);
        image_upstream_state_set(s, IMAGE_UPSTREAM_DOWN, why);
    } else if (n->now.held) {
        image_upstream_state_set(s, IMAGE_UPSTREAM_DOWN, why);
    } else if (n->state.word == MESSAGE_CANVAS_FAILED) {
        image_upstream_state_set(s, IMAGE_UPSTREAM_DOWN, n->state.why);
    } else if (n->state.word == MESSAGE_CANVAS_LOADING) {
        image_upstream_state_set(s, IMAGE_UPSTREAM_NEW, "its model is loading");
    } else {
        image_upstream_state_set(s, IMAGE_UPSTREAM_UP, "");
    }
}

// What it has goes to others, or fails. What was given to it and not begun fails too: it is away.
static void jobs_lose(struct image_upstream_server *s, const char *why)
{
    struct err e = {0};

    for (struct image_upstream_job *j = s->all->jobs; j; j = j->next) {
        if (j->over || j->server != s)
            continue;
        err_set(
            &e, ERR_BUSY,
            "went away while it had this request (%.200s); ask again: it is drawn when the node "
            "is back, or by another that has the model",
            why);
        image_upstream_fail(j, NULL, &e);
    }
}

// The model that goes by this name already, here or on another node; NULL: none does.
static const struct image_model *namesake(const struct image_upstream_server *s, const char *name)
{
    const struct image_upstreams *u = s->all;

    if (u->local && images_goes_by(images_known(u->local), name))
        return images_known(u->local)->model;
    for (size_t i = 0; i < u->n; i++) {
        const struct image_upstream_server *o = &u->servers[i];

        if (o != s && o->node && o->n_models > 0 && strcasecmp(o->models[0].ours, name) == 0)
            return &o->node->now.canvas.like;
    }
    return NULL;
}

// What clients call its model. One that is not the model of that name has the node's before its own.
static char *name_make(const struct image_upstream_server *s)
{
    const struct message_canvas *c = &s->node->now.canvas;
    const struct image_model *own = &c->like, *other = namesake(s, c->model);
    char *name;

    if (!other || image_upstream_is_same(own, other))
        return mem_strdup(c->model);
    name = mem_format("%s/%s", s->options->name, c->model);
    if (s->n_models == 0 || strcmp(s->models[0].ours, name) != 0)
        log_warn(
            "images",
            "image node %s: another model than its own is called \"%s\" here (%s of %llu "
            "bytes; its own: %s of %llu), so that its own is called \"%s\"; give one of them a "
            "name with --image-name",
            s->options->name, c->model, other->layout, (unsigned long long)other->bytes,
            own->layout, (unsigned long long)own->bytes, name);
    return name;
}

static void model_set(struct image_upstream_server *s)
{
    json_t *names = json_array();
    char *name = s->node->now.used ? name_make(s) : NULL;

    if (name)
        json_array_append_new(names, json_string(name));
    image_upstream_models_set(s, names);
    json_decref(names);
    free(name);
}

// It is another process: nothing is known of it yet, and what an earlier one failed is forgotten.
static void link_begin(struct image_upstream_server *s)
{
    s->node->state = (struct message_canvas_state){.pid = -1};
    s->node->refusal[0] = '\0';
    s->node->last_id = 0;
    pthread_mutex_lock(&s->all->lock);
    s->busy_until_ns = 0;
    pthread_mutex_unlock(&s->all->lock);
}

static void node_sync(struct image_upstream_server *s)
{
    struct image_node *n = s->node;
    uint64_t link = n->now.link;
    bool changed;

    pthread_mutex_lock(&s->all->lock);
    changed = n->said.version != n->now.version;
    pthread_mutex_unlock(&s->all->lock);
    if (!changed)
        return;
    image_upstream_speeds_write(s); // by the name that it has still
    pthread_mutex_lock(&s->all->lock);
    n->now = n->said;
    pthread_mutex_unlock(&s->all->lock);
    if (link != 0 && n->now.link != link) {
        jobs_lose(s, n->refusal[0] ? n->refusal : n->now.why);
        n->ending_id = 0;
    }
    if (n->now.link != 0 && n->now.link != link)
        link_begin(s);
    model_set(s);
    image_node_state(s);
}

void image_node_refuse(struct image_upstream_server *s, const struct err *why)
{
    struct image_node *n = s->node;

    log_warn("images", "image node %s is cut off: %s", s->options->name, why->message);
    snprintf(n->refusal, sizeof(n->refusal), "it was cut off: %.400s", why->message);
    pthread_mutex_lock(&s->all->lock);
    if (n->wire && n->said.link == n->now.link)
        wire_link_close(n->wire);
    pthread_mutex_unlock(&s->all->lock);
    jobs_lose(s, n->refusal);
}

static void canvas_take(struct image_upstream_server *s, const struct wire_frame *f)
{
    struct err e = {0};
    json_t *head = wire_frame_parse(f, &e);

    if (!head || message_canvas_state_parse(head, &s->node->state, &e) != 0)
        image_node_refuse(s, &e);
    else
        image_node_state(s);
    json_decref(head);
}

static void frame_take(struct image_upstreams *u, struct image_node_frame *item)
{
    struct image_upstream_server *s = &u->servers[item->place];

    if (s->node->now.link != item->link)
        node_sync(s);
    // What a link that was given up still says concerns nobody.
    if (s->node->now.link != item->link || s->node->refusal[0])
        return;
    if (item->frame.type == WIRE_CANVAS)
        canvas_take(s, &item->frame);
    else
        image_node_take(s, &item->frame);
}

// Frames may come sooner than they are read; requests and clients that leave have their turn between them.
void image_nodes_run(struct image_upstreams *u)
{
    struct image_node_frame item;
    unsigned n = 0;

    for (; n < FRAMES_A_TURN && chan_recv(u->frames, &item, 0) == 0; n++) {
        frame_take(u, &item);
        wire_frame_fini(&item.frame);
    }
    if (n == FRAMES_A_TURN)
        net_http_pool_wake(u->pool);
    for (size_t i = 0; i < u->n; i++) {
        if (!u->servers[i].node)
            continue;
        node_sync(&u->servers[i]);
        image_node_tick(&u->servers[i]);
    }
}

// ---- places ----------------------------------------------------------------------------------------------

void image_nodes_init(struct image_upstreams *u)
{
    u->frames = chan_new(sizeof(struct image_node_frame), FRAMES);
    for (size_t i = 0; i < IMAGE_NODES_MAX; i++, u->n++) {
        struct image_upstream_server *s = &u->servers[u->n];
        struct image_node *n = mem_alloc(sizeof(*n));

        n->options = (struct gateway_upstream){.name = n->now.name, .url = n->now.address};
        n->state.pid = -1;
        *s = (struct image_upstream_server){.all = u,
                                            .options = &n->options,
                                            .kind = &image_upstream_node,
                                            .index = u->n,
                                            .takes = image_upstream_node.takes,
                                            .state = IMAGE_UPSTREAM_DOWN,
                                            .node = n};
        buf_init(&s->list, IMAGE_UPSTREAM_WORD_MAX);
    }
}

void image_nodes_fini(struct image_upstreams *u)
{
    struct image_node_frame item;

    chan_close(u->frames);
    while (chan_recv(u->frames, &item, 0) == 0)
        wire_frame_fini(&item.frame);
    chan_free(u->frames);
    for (size_t i = 0; i < u->n; i++)
        free(u->servers[i].node);
}
