// Gateways come: the listening socket, HELLO and WELCOME, and what their links' threads do.
#include "node/images_impl.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define HANDSHAKES_MAX 16
#define IDLE_NS (10 * NS_PER_S)

// ---- links -----------------------------------------------------------------------------------------

// Reader thread.
static int on_frame(void *ctx, struct wire_frame *f, struct err *e)
{
    struct node_images_link *l = ctx;
    struct node_images_word w = {.what = NODE_LINK_FRAME, .link = l, .frame = *f};
    if (chan_send(l->node->inbox, &w, CHAN_FOREVER) == 0)
        return 0;
    wire_frame_fini(f);
    return err_set(e, ERR_CLOSED, "this node is stopping");
}

// Reader thread; the link's last word.
static void on_close(void *ctx, const struct err *why)
{
    struct node_images_link *l = ctx;
    struct node_images_word w = {.what = NODE_LINK_DOWN, .link = l};
    log_info("images", "a gateway left: peer=%s why=\"%s\"", wire_link_peer(l->wire), why->message);
    chan_send(l->node->inbox, &w, CHAN_FOREVER);
}

static const struct wire_link_ops link_ops = {.on_frame = on_frame, .on_close = on_close};

static void link_start(struct node_images *n, struct net_conn *conn)
{
    struct node_images_link *l = mem_alloc(sizeof *l);
    struct node_images_word w = {.what = NODE_LINK_UP, .link = l};
    struct wire_link_options o;
    wire_link_options_default(&o);
    o.queue_frames = NODE_IMAGES_FRAMES;
    o.idle_ns = IDLE_NS;
    o.name = "gateway";
    l->node = n;
    l->patience_ns = NODE_IMAGES_SEND_NS;
    l->sent_ns = clock_now_ns();
    l->wire = wire_link_new(conn, &link_ops, l, &o);
    if (chan_send(n->inbox, &w, CHAN_FOREVER) == 0) {
        wire_link_run(l->wire);
        return;
    }
    wire_link_free(l->wire);
    free(l);
}

// What a gateway makes the thread wait comes off its patience, which grows by a tenth of the time that goes by: one
// that takes a frame now and then does not hold all the others up.
void node_images_send(struct node_images_link *l, struct wire_frame f)
{
    int64_t now_ns = clock_now_ns(), patience_ns = l->patience_ns + (now_ns - l->sent_ns) / 10;
    patience_ns = patience_ns < NODE_IMAGES_SEND_NS ? patience_ns : NODE_IMAGES_SEND_NS;
    if (wire_link_send(l->wire, f, patience_ns) == ERR_TIMEOUT) {
        log_warn("images", "a gateway takes its pictures too slowly and is cut off: peer=%s",
                 wire_link_peer(l->wire));
        wire_link_close(l->wire);
    }
    l->sent_ns = clock_now_ns();
    patience_ns -= l->sent_ns - now_ns;
    l->patience_ns = patience_ns > 0 ? patience_ns : 0;
}

// ---- handshakes ------------------------------------------------------------------------------------

static int hello_check(void *ctx, const struct message_hello *h, struct err *e)
{
    const struct node_images *n = ctx;
    if (strcmp(h->role, "gateway") != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "this port draws pictures for gateways; the chat models of a node, and what "
                       "it lends, have ports of their own");
    if (atomic_load_explicit(&n->draining, memory_order_relaxed))
        return err_set(e, ERR_BUSY, "this node is stopping");
    return 0;
}

static json_t *welcome(void *ctx)
{
    const struct node_images *n = ctx;
    return message_welcome_json(&n->welcome);
}

// The connection is the images thread's from then on.
static void link_take(void *ctx, struct net_conn *conn, const struct message_hello *h)
{
    (void)h;
    link_start(ctx, conn);
}

const struct acceptor_host node_images_host = {.name = "images",
                                               .guest = "peer",
                                               .most = HANDSHAKES_MAX,
                                               .check = hello_check,
                                               .welcome = welcome,
                                               .take = link_take};
