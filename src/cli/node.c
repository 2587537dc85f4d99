// tandem node: the daemon on another machine. It keeps one worker alive, which answers peers itself.
#include "cli/node.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/discover.h"
#include "cli/image.h"
#include "cli/models.h"
#include "net/words.h"
#include "node/message_spread.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: tandem node [-m MODEL ...] [--image-model FILE] [--lend MEMORY] [--listen ADDR:PORT] "
    "[OPTIONS]";
static const char about[] =
    "Offers this machine to a gateway (\"tandem serve --prefill "
    "THIS:7077\") for reading prompts or\n"
    "answering whole requests. Each further model has the next port, and "
    "after them what --lend offers to\n"
    "\"tandem serve --spread THIS:PORT\". With --image-model it also draws pictures: the gateway "
    "finds "
    "its\n"
    "port, the last one, by itself; without any other model it is the port that --prefill names. "
    "Other machines\n"
    "need the cluster key: \"tandem pair\". On SIGINT and SIGTERM gateways give it nothing new, "
    "running\n"
    "requests end, then it stops.";

#define ALL_OPTIONS 80
#define DRAIN_S 30.0

static void options_fill(struct node *n, struct cli_option *out)
{
    const struct cli_option own[] = {
        {.name = "--model",
         .letter = 'm',
         .kind = CLI_LIST,
         .value = &n->models,
         .arg = "MODEL",
         .help = "a GGUF file, or a name that \"tandem ls\" shows; may be repeated"},
        {.name = "--listen",
         .kind = CLI_STRING,
         .value = &n->listen,
         .arg = "ADDR:PORT",
         .help = "where peers are answered (127.0.0.1:7077; 0.0.0.0 for all of this machine's "
                 "addresses); port 0 takes a free one"},
        {.name = "--advertise",
         .kind = CLI_STRING,
         .value = &n->advertise,
         .arg = "HOST[:PORT]",
         .help =
             "where other nodes reach this one, if not at the address that the gateway was given"},
        {.name = "--drain",
         .kind = CLI_DOUBLE,
         .value = &n->drain_s,
         .arg = "SECONDS",
         .help = "after SIGTERM or Ctrl-C, how long running requests may go on (30); a second "
                 "signal ends them at once",
         .min = 0,
         .max = 86400},
        {.name = "--on-demand",
         .kind = CLI_FLAG,
         .value = &n->worker.asleep,
         .help = "load a model when a gateway connects, not before"},
        {.name = "--models-idle",
         .kind = CLI_DOUBLE,
         .value = &n->worker.idle_s,
         .arg = "SECONDS",
         .help = "unload a model when for so long no gateway was connected; the next one that "
                 "connects loads it again (0, the default: never)",
         .min = 0,
         .max = 1e9},
        {.name = "--lend",
         .kind = CLI_STRING,
         .value = &n->lend,
         .arg = "MEMORY",
         .help = "lend so much memory (8G, 512M, all), and what computes beside it, to models of "
                 "other machines that are too large for them"},
        {.name = "--key-file",
         .kind = CLI_STRING,
         .value = &n->key_file,
         .arg = "FILE",
         .help = "the cluster key (default: the one \"tandem pair\" stored)"},
        {.name = "--no-announce",
         .kind = CLI_FLAG,
         .value = &n->no_announce,
         .help = "do not tell the local network that this node is here (name, port, id and "
                 "version, by Bonjour or Avahi); one that only listens on 127.0.0.1 never does"},
        {.name = "--announce-models",
         .kind = CLI_FLAG,
         .value = &n->announce_models,
         .help = "tell the models' names too; everybody on the network can read them"},
        {.name = "--list",
         .kind = CLI_FLAG,
         .value = &n->list,
         .help = "show which nodes announce themselves on the local network, and end"},
        {.name = "--json",
         .kind = CLI_FLAG,
         .value = &n->json,
         .help = "when ready, print one line of JSON to stdout"},
    };
    size_t count = sizeof(own) / sizeof(own[0]);

    memcpy(out, own, sizeof(own));
    out[count++] = cli_model_room_option(&n->no_memory_check);
    count += cli_image_options(&n->drawer.options.worker, out + count, CLI_IMAGE_OPTIONS);
    count += node_drawer_options(&n->drawer, out + count);
    count += cli_worker_options(&n->worker, out + count, ALL_OPTIONS - count - 1, false);
    memset(&out[count], 0, sizeof(out[count]));
}

static void unit_addresses_set(struct node *n, size_t i)
{
    struct unit *u = &n->units[i];
    const struct net_addr *a = &n->advertised;
    bool v6 = strchr(a->host, ':') != NULL;

    u->worker.listen = u->listen;
    snprintf(u->listen, sizeof(u->listen), strchr(n->bound.host, ':') ? "[%s]:%u" : "%s:%u",
             n->bound.host, n->bound.port > 0 ? n->bound.port + (unsigned)i : 0);
    if (!n->advertise)
        return;
    u->worker.advertise = u->advertise;
    if (a->port > 0)
        snprintf(u->advertise, sizeof(u->advertise), v6 ? "[%s]:%u" : "%s:%u", a->host,
                 a->port + (unsigned)i);
    else
        snprintf(u->advertise, sizeof(u->advertise), v6 ? "[%s]" : "%s", a->host);
}

static int unit_set(struct node *n, size_t i, struct err *e)
{
    struct unit *u = &n->units[i];
    struct models_found found;
    int rc;

    u->node = n;
    u->worker = n->worker;
    // What the command line says is the first one's.
    if (i > 0)
        u->worker.engine.projector = NULL;
    u->worker.image_port = n->drawer.port;
    // How much of a spread model comes here is known when the others have been asked.
    rc = cli_model_find(n->models.items[i], &u->worker.engine,
                        n->no_memory_check || n->worker.spread, &found, e);
    if (rc != 0)
        return rc;
    u->worker.engine.model = cli_text_keep(found.path);
    if (!u->worker.engine.projector && found.projector[0])
        u->worker.engine.projector = cli_text_keep(found.projector);
    unit_addresses_set(n, i);
    return 0;
}

static int lend_set(struct node *n, struct err *e)
{
    struct unit *u = &n->units[n->models.n];

    u->node = n;
    u->worker = n->worker;
    u->worker.lend = true;
    u->worker.asleep = false;
    u->worker.idle_s = 0;
    u->worker.spread = NULL;
    u->worker.engine.projector = NULL;
    u->worker.listen = u->listen;
    snprintf(u->listen, sizeof(u->listen), strchr(n->bound.host, ':') ? "[%s]:%u" : "%s:%u",
             n->bound.host, n->bound.port > 0 ? n->bound.port + (unsigned)n->models.n : 0);
    return spread_memory_parse(n->lend, &u->worker.lend_bytes, e);
}

static int advertise_parse(struct node *n, struct err *e)
{
    int rc = n->advertise ? net_addr_parse(n->advertise, "", 0, &n->advertised, e) : 0;

    if (rc == 0 && n->advertise && !n->advertised.host[0])
        rc = err_set(e, ERR_INVALID, "it names no host; say HOST or HOST:PORT");
    if (rc == 0 && n->advertised.port > 0 && n->advertised.port + n->models.n > 65536)
        rc = err_set(e, ERR_INVALID, "%zu models need as many ports from %u on", n->models.n,
                     n->advertised.port);
    return rc == 0 ? 0 : err_wrap(e, "--advertise %.100s", n->advertise);
}

static int options_apply(struct node *n, struct err *e)
{
    size_t ports;
    int rc = net_addr_parse(n->listen ? n->listen : "127.0.0.1", "127.0.0.1", MESSAGE_PORT,
                            &n->bound, e);

    n->n_units = n->models.n + (n->lend ? 1 : 0);
    ports = n->n_units + (n->drawer.options.worker.model ? 1 : 0);
    if (rc == 0 && ports == 0)
        return err_set(
            e, ERR_INVALID,
            "no model: give -m with a GGUF file or a name of tandem ls, --image-model, or "
            "--lend");
    if (rc == 0 && ports > 1 && (n->bound.port == 0 || n->bound.port + ports > 65536))
        return err_set(
            e, ERR_INVALID,
            "%zu models%s%s have a port each: %zu in a row are needed from --listen on; say "
            "ADDR:PORT with a port that has so many behind it",
            n->models.n, n->drawer.options.worker.model ? ", --image-model" : "",
            n->lend ? ", --lend" : "", ports);
    if (rc == 0)
        rc = cli_role_check(&n->worker, e);
    if (rc == 0)
        rc = cli_spread_check(&n->worker, n->models.n, e);
    if (rc == 0)
        rc = advertise_parse(n, e);
    if (rc == 0)
        rc = net_key_load(n->key_file, &n->worker.key, e);
    // Without a key only this machine may connect: binding another address is refused further down.
    if (rc == ERR_NOT_FOUND && !n->key_file)
        rc = 0;
    if (rc == 0)
        rc = node_drawer_apply(n, e);
    for (size_t i = 0; rc == 0 && i < n->models.n; i++)
        rc = unit_set(n, i, e);
    if (rc == 0)
        rc = node_drawer_room(n, e);
    return rc == 0 && n->lend ? lend_set(n, e) : rc;
}

// ---- the link to the own worker -------------------------------------------------------------------

bool node_all_up(const struct node *n)
{
    for (size_t i = 0; i < n->n_units; i++)
        if (!n->units[i].up)
            return false;
    return !n->drawer.options.worker.model || n->drawer.up;
}

static void unit_up(struct unit *u, const char *what)
{
    u->up = true;
    if (node_all_up(u->node))
        wait_post(WAIT_READY, what);
}

static int lend_read(struct unit *u, const json_t *head, struct err *e)
{
    struct message_lend m;
    int rc = message_lend_parse(head, &m, e);

    if (rc != 0)
        return rc;
    log_info("node", "lending %.1f GiB: devices=\"%s\" port=%u", (double)m.memory_bytes / 0x1p30,
             m.devices, u->port);
    unit_up(u, "lends memory");
    return 0;
}

static int welcome_read(struct unit *u, const json_t *head, struct err *e)
{
    struct message_welcome *w = mem_alloc(sizeof(*w));
    int rc = message_welcome_parse(head, w, e);

    if (rc == 0) {
        log_info("node", "a worker is up: model=\"%s\" port=%u", w->model, u->port);
        u->pulse.ready = true;
        unit_up(u, w->model);
    }
    free(w);
    return rc;
}

// Reader thread: the worker has loaded its model, or cannot.
static int link_on_frame(void *ctx, struct wire_frame *f, struct err *e)
{
    struct unit *u = ctx;
    json_t *head = wire_frame_parse(f, e);
    int rc = head ? 0 : e->code;

    if (rc == 0 && f->type == WIRE_WELCOME)
        rc = u->worker.lend ? lend_read(u, head, e) : welcome_read(u, head, e);
    else if (rc == 0 && f->type == WIRE_STATUS_IS)
        unit_pulse_take(u, head);
    else if (rc == 0 && f->type == WIRE_REFUSED)
        snprintf(u->refusal, sizeof(u->refusal), "%s", json_string_or(head, "message", ""));
    json_decref(head);
    wire_frame_fini(f);
    return rc;
}

static void link_on_close(void *ctx, const struct err *why)
{
    (void)ctx;
    log_debug("node", "the link to the worker closed: %s", why->message);
}

static const struct wire_link_ops link_ops = {.on_frame = link_on_frame, .on_close = link_on_close};

// What `on_up` and `on_down` share; also called at the end, when the supervisor is gone.
static void link_end(struct unit *u)
{
    struct wire_link *link = u->link;

    pthread_mutex_lock(&u->lock);
    u->link = NULL;
    pthread_mutex_unlock(&u->lock);
    unit_pulse_reset(u);
    wire_link_free(link);
}

static void on_up(void *ctx, struct net_conn *control)
{
    struct unit *u = ctx;
    struct message_hello hello = {.version = WIRE_VERSION, .same_weights = true};
    struct wire_link_options o;

    link_end(u);
    u->refusal[0] = '\0';
    wire_link_options_default(&o);
    o.idle_ns = 0; // the worker says nothing while it loads
    o.name = "worker";
    snprintf(hello.role, sizeof(hello.role), "tool");
    snprintf(hello.name, sizeof(hello.name), "node");
    snprintf(hello.build, sizeof(hello.build), "tandem %s", TANDEM_VERSION);
    pthread_mutex_lock(&u->lock);
    u->link = wire_link_start(control, &link_ops, u, &o);
    pthread_mutex_unlock(&u->lock);
    wire_link_send(u->link, wire_frame_json(WIRE_HELLO, 0, message_hello_json(&hello)), 0);
}

static void on_down(void *ctx, const char *why, int64_t retry_ns)
{
    struct unit *u = ctx;

    link_end(u);
    if (retry_ns < 0)
        wait_post(WAIT_FAILED, u->refusal[0] ? u->refusal : why);
}

bool node_all_ended(const struct node *n)
{
    for (size_t i = 0; i < n->n_units; i++)
        if (!n->units[i].ended && !n->units[i].worker.lend)
            return false;
    return !n->drawer.images || n->drawer.ended;
}

static void on_rest(void *ctx)
{
    struct unit *u = ctx;

    link_end(u);
    if (!atomic_load_explicit(&u->node->draining, memory_order_acquire))
        return;
    u->ended = true;
    if (node_all_ended(u->node))
        wait_post(WAIT_DRAINED, "");
}

static void on_retire(void *ctx)
{
    struct unit *u = ctx;

    if (u->link)
        wire_link_send(u->link, wire_frame_json(WIRE_DRAIN, 0, NULL), 0);
}

static const struct node_supervisor_ops supervisor_ops = {on_up, on_down, on_rest, on_retire};

// ---- running --------------------------------------------------------------------------------------

static int units_start(struct node *n, struct err *e)
{
    int rc = 0;

    for (size_t i = 0; i < n->n_units; i++)
        pthread_mutex_init(&n->units[i].lock, NULL);
    for (size_t i = 0; rc == 0 && i < n->n_units; i++) {
        struct unit *u = &n->units[i];

        u->port = (uint16_t)(n->bound.port + i);
        rc = node_supervisor_start(&u->worker, &supervisor_ops, u, &u->port, &u->supervisor, e);
    }
    return rc == 0 ? node_drawer_start(n, e) : rc;
}

// ---- announcing -----------------------------------------------------------------------------------

// The last part of a path, without what kind of file it is.
static void model_name(const char *path, char out[128])
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');

    snprintf(out, 128, "%.*s", dot && dot > name ? (int)(dot - name) : (int)strlen(name), name);
}

static int port_announce(const struct node *n, uint16_t port, const char *path,
                         struct os_announce **out, struct err *e)
{
    struct os_announce_options o = {.port = port, .version = TANDEM_VERSION};
    unsigned index = n->n_units > 0 ? (unsigned)(port - n->units[0].port) : 0;
    char name[64], model[128], id[OS_ID_HEX + 1];

    node_id_get(n->worker.name, id);
    if (n->worker.name)
        snprintf(name, sizeof(name), "%.50s", n->worker.name);
    else
        node_name_default(name, 50);
    // Each model is a node of its own, at a port of its own.
    if (index > 0)
        snprintf(name + strlen(name), 8, " %u", index + 1);
    model_name(path, model);
    o.name = name;
    o.id = id;
    o.models = n->announce_models ? model : NULL;
    return os_announce_start(&o, out, e);
}

// Where only this machine can connect there is nothing to tell others.
static void units_announce(struct node *n)
{
    struct err e = {0};
    int rc = 0;

    if (n->no_announce || net_addr_is_loopback(&n->bound))
        return;
    for (size_t i = 0; rc == 0 && i < n->models.n; i++)
        rc = port_announce(n, n->units[i].port, n->units[i].worker.engine.model,
                           &n->units[i].announced, &e);
    // Beside a chat model it is that one which tells of it.
    if (rc == 0 && n->models.n == 0 && n->drawer.images)
        rc = port_announce(n, n->drawer.port, n->drawer.options.worker.model, &n->drawer.announced,
                           &e);
    if (rc != 0) {
        log_info("node", "not announced on the network: %s", e.message);
        return;
    }
    log_info("node", "announced on the local network; --no-announce keeps it quiet");
}

static void units_hush(struct node *n)
{
    for (size_t i = 0; i < n->n_units; i++) {
        os_announce_stop(n->units[i].announced);
        n->units[i].announced = NULL;
    }
    os_announce_stop(n->drawer.announced);
    n->drawer.announced = NULL;
}

// Gateways are told, and let go when what runs has ended.
static void units_drain(struct node *n)
{
    units_hush(n);
    log_info("node", "stopping: running requests have %.0f s to end", n->drain_s);
    atomic_store_explicit(&n->draining, true, memory_order_release);
    for (size_t i = 0; i < n->n_units; i++)
        if (!n->units[i].worker.lend) // who borrows uses it for as long as it is there
            node_supervisor_retire(n->units[i].supervisor);
    if (n->drawer.images)
        node_images_drain(n->drawer.images);
    if (!node_all_ended(n) && !wait_drained(n->drain_s))
        log_warn("node", "stopping: what still runs is cut off");
}

static void units_stop(struct node *n)
{
    units_hush(n);
    node_drawer_stop(n); // it asks the workers what they do
    for (size_t i = 0; i < n->n_units; i++) {
        node_supervisor_free(n->units[i].supervisor);
        link_end(&n->units[i]);
    }
}

static int node_run(int argc, char **argv)
{
    static struct node n; // too large for a stack
    struct cli_option options[ALL_OPTIONS];
    struct err e = {0};
    bool done = false;
    int rc;

    n.drain_s = DRAIN_S;
    n.drawer.policy = "pause";
    n.drawer.options.queue = NODE_IMAGES_QUEUE;
    node_worker_options_default(&n.worker);
    options_fill(&n, options);
    rc = cli_parse(argc, argv, options, usage, about, NULL, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0 && n.list)
        return discover_list("node", n.json);
    if (rc == 0)
        rc = options_apply(&n, &e);
    if (rc != 0)
        return cli_fail("node", &e);
    os_discover_init();
    log_process_set("node");
    wait_init();
    rc = units_start(&n, &e);
    if (n.worker.asleep)
        wait_post(WAIT_READY, "loaded when a gateway connects");
    if (rc != 0) {
        units_stop(&n);
        return cli_fail("node", &e);
    }
    units_announce(&n);
    struct wait_ready ready = {.command = "node",
                               .what = "node on",
                               .scheme = "",
                               .host = n.bound.host,
                               .port = n.n_units > 0 ? n.units[0].port : n.drawer.port,
                               .json = n.json};
    rc = wait_until_stopped(&ready);
    if (rc == 0)
        units_drain(&n);
    units_stop(&n);
    return rc;
}

const struct cli_command cli_node = {
    "node", "the daemon on another machine: reads prompts and draws for a gateway", node_run};
