// The image model of a node: its options, its place beside the chat models, and who goes first.
#include "base/clock.h"
#include "base/log.h"
#include "cli/image.h"
#include "cli/models.h"
#include "cli/node.h"

#include <stdio.h>
#include <string.h>

#define ASK_NS (50 * NS_PER_MS)   // between two looks at what a worker does
#define LATE_NS (150 * NS_PER_MS) // one that has not answered for so long computes

size_t node_drawer_options(struct node_drawer *d, struct cli_option *out)
{
    struct node_images_options *o = &d->options;
    const struct cli_option own[] = {
        {.name = "--image-name",
         .kind = CLI_STRING,
         .value = (void *)&o->model_name,
         .arg = "NAME",
         .help = "what clients call the image model (its file's name)"},
        {.name = "--image-policy",
         .kind = CLI_STRING,
         .value = (void *)&d->policy,
         .arg = "pause|wait",
         .help =
             "while this node reads prompts or writes answers, pictures pause between two steps "
             "(pause), or the others wait for them as they can (wait)"},
        {.name = "--image-queue",
         .kind = CLI_UINT32,
         .value = &o->queue,
         .arg = "N",
         .help = "requests for pictures of all gateways that may wait (8); others are drawn "
                 "elsewhere, or told when to come back",
         .min = 0,
         .max = IMAGE_QUEUE_MAX - 1},
    };

    _Static_assert(sizeof(own) / sizeof(own[0]) == NODE_IMAGES_OPTIONS, "as many as are said");
    memcpy(out, own, sizeof(own));
    return NODE_IMAGES_OPTIONS;
}

// ---- before it starts -------------------------------------------------------------------------------

int node_drawer_room(const struct node *n, struct err *e)
{
    uint64_t need = 0;

    if (!n->drawer.options.worker.model || n->no_memory_check)
        return 0;
    for (size_t i = 0; !n->worker.asleep && i < n->models.n; i++)
        need += cli_model_need(&n->units[i].worker.engine);
    return cli_image_room(&n->drawer.options.worker, need, e);
}

int node_drawer_apply(struct node *n, struct err *e)
{
    struct node_drawer *d = &n->drawer;
    struct node_images_options *o = &d->options;

    if (!o->worker.model)
        return 0;
    o->wait = strcmp(d->policy, "wait") == 0;
    if (!o->wait && strcmp(d->policy, "pause") != 0)
        return err_set(e, ERR_INVALID, "--image-policy is \"%.40s\", and must be pause or wait",
                       d->policy);
    o->name = n->worker.name;
    o->key = n->worker.key;
    o->listen = d->listen;
    d->port = n->bound.port > 0 ? (uint16_t)(n->bound.port + n->n_units) : 0;
    snprintf(d->listen, sizeof(d->listen), strchr(n->bound.host, ':') ? "[%s]:%u" : "%s:%u",
             n->bound.host, d->port);
    return 0;
}

// ---- who goes first -----------------------------------------------------------------------------------

void unit_pulse_take(struct unit *u, const json_t *head)
{
    json_int_t answers = json_integer_value(json_object_get(head, "requests"));
    json_int_t prompts = json_integer_value(json_object_get(head, "transfers"));

    u->pulse.works = answers + prompts > 0;
    u->pulse.asked_ns = 0;
}

void unit_pulse_reset(struct unit *u)
{
    u->pulse.ready = u->pulse.works = false;
    u->pulse.asked_ns = 0;
}

static void unit_ask(struct unit *u, int64_t now_ns)
{
    pthread_mutex_lock(&u->lock);
    if (u->link && u->pulse.ready) {
        u->pulse.asked_ns = now_ns;
        wire_link_send(u->link, wire_frame_json(WIRE_STATUS, 0, NULL), 0);
    }
    pthread_mutex_unlock(&u->lock);
}

// Images thread, while there is something to draw.
static bool is_busy(void *ctx)
{
    struct node *n = ctx;
    struct node_drawer *d = &n->drawer;
    int64_t now_ns = clock_now_ns();
    bool ask = now_ns - d->asked_ns >= ASK_NS, busy = false;

    if (ask)
        d->asked_ns = now_ns;
    for (size_t i = 0; i < n->models.n; i++) {
        struct unit *u = &n->units[i];
        int64_t asked_ns = u->pulse.asked_ns;

        busy = busy || u->pulse.works || (asked_ns > 0 && now_ns - asked_ns > LATE_NS);
        if (ask && asked_ns == 0)
            unit_ask(u, now_ns);
    }
    return busy;
}

// ---- its life -----------------------------------------------------------------------------------------

// Images thread. A node that has chat models as well serves them without pictures.
static void on_event(void *ctx, enum node_images_event event, const char *text)
{
    struct node *n = ctx;
    struct node_drawer *d = &n->drawer;

    if (event == NODE_IMAGES_DRAINED) {
        d->ended = true;
        if (node_all_ended(n))
            wait_post(WAIT_DRAINED, "");
        return;
    }
    if (event == NODE_IMAGES_FAILED && n->n_units == 0) {
        wait_post(WAIT_FAILED, text);
        return;
    }
    if (event == NODE_IMAGES_FAILED)
        log_error("node", "nothing is drawn here: %s", text);
    d->up = true;
    if (node_all_up(n))
        wait_post(WAIT_READY, text);
}

int node_drawer_start(struct node *n, struct err *e)
{
    struct node_drawer *d = &n->drawer;

    if (!d->options.worker.model)
        return 0;
    d->options.busy = n->models.n > 0 ? is_busy : NULL;
    d->options.on_event = on_event;
    d->options.ctx = n;
    return node_images_start(&d->options, &d->port, &d->images, e);
}

void node_drawer_stop(struct node *n)
{
    node_images_free(n->drawer.images);
    n->drawer.images = NULL;
}
