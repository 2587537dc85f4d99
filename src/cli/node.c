// tandem node: the daemon on another machine. It keeps one worker alive, which answers peers itself.
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/models.h"
#include "cli/wait.h"
#include "net/words.h"
#include "node/message.h"
#include "wire/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] = "usage: tandem node -m MODEL [--listen ADDR:PORT] [OPTIONS]";
static const char about[] = "Offers this machine to a gateway (\"tandem serve --prefill "
                            "THIS:7077\") for reading prompts or\n"
                            "answering whole requests. Other machines need the cluster key: "
                            "\"tandem pair\". Stops on SIGINT\n"
                            "and SIGTERM.";

#define ALL_OPTIONS 40

struct node {
    struct node_worker_options worker;
    const char *listen, *key_file;
    bool json, no_memory_check;
    struct net_addr bound;
    // The supervisor's thread only: the link to the worker. It must stay open, or the worker ends.
    struct wire_link *link;
    // Written by the link's reader, read when the link has ended: why the worker cannot start.
    char refusal[WAIT_TEXT_BYTES];
};

static void options_fill(struct node *n, struct cli_option *out)
{
    const struct cli_option own[] = {
        {.name = "--listen",
         .kind = CLI_STRING,
         .value = &n->listen,
         .arg = "ADDR:PORT",
         .help = "where peers are answered (127.0.0.1:7077; 0.0.0.0 for all of this machine's "
                 "addresses); port 0 takes a free one"},
        {.name = "--key-file",
         .kind = CLI_STRING,
         .value = &n->key_file,
         .arg = "FILE",
         .help = "the cluster key (default: the one \"tandem pair\" stored)"},
        {.name = "--json",
         .kind = CLI_FLAG,
         .value = &n->json,
         .help = "when ready, print one line of JSON to stdout"},
    };
    size_t count = sizeof(own) / sizeof(own[0]);

    memcpy(out, own, sizeof(own));
    out[count++] = cli_model_room_option(&n->no_memory_check);
    count += cli_worker_options(&n->worker, out + count, ALL_OPTIONS - count - 1, true);
    memset(&out[count], 0, sizeof(out[count]));
}

static int options_apply(struct node *n, struct err *e)
{
    int rc;

    if (!n->worker.engine.model)
        return err_set(e, ERR_INVALID, "no model: give -m with a GGUF file or a name of tandem ls");
    rc = cli_model_find(&n->worker.engine, n->no_memory_check, e);
    if (rc != 0)
        return rc;
    rc = net_addr_parse(n->listen ? n->listen : "127.0.0.1", "127.0.0.1", MESSAGE_PORT, &n->bound,
                        e);
    if (rc != 0)
        return rc;
    n->worker.listen = n->listen ? n->listen : "127.0.0.1";
    rc = net_key_load(n->key_file, &n->worker.key, e);
    // Without a key only this machine may connect: binding another address is refused further down.
    return rc == ERR_NOT_FOUND && !n->key_file ? 0 : rc;
}

// ---- the link to the own worker -------------------------------------------------------------------

static int welcome_read(const json_t *head, struct err *e)
{
    struct message_welcome *w = mem_alloc(sizeof(*w));
    int rc = message_welcome_parse(head, w, e);

    if (rc == 0)
        wait_post(WAIT_READY, w->model);
    free(w);
    return rc;
}

// Reader thread: the worker has loaded its model, or cannot.
static int link_on_frame(void *ctx, struct wire_frame *f, struct err *e)
{
    struct node *n = ctx;
    json_t *head = wire_frame_parse(f, e);
    const char *why = json_string_value(json_object_get(head, "message"));
    int rc = head ? 0 : e->code;

    if (rc == 0 && f->type == WIRE_WELCOME)
        rc = welcome_read(head, e);
    else if (rc == 0 && f->type == WIRE_REFUSED)
        snprintf(n->refusal, sizeof(n->refusal), "%s", why ? why : "");
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
static void link_end(struct node *n)
{
    if (n->link)
        wire_link_free(n->link);
    n->link = NULL;
}

static void on_up(void *ctx, struct net_conn *control)
{
    struct node *n = ctx;
    struct message_hello hello = {.version = WIRE_VERSION, .same_weights = true};
    struct wire_link_options o;

    link_end(n);
    n->refusal[0] = '\0';
    wire_link_options_default(&o);
    o.idle_ns = 0; // the worker says nothing while it loads
    o.name = "worker";
    snprintf(hello.role, sizeof(hello.role), "tool");
    snprintf(hello.name, sizeof(hello.name), "node");
    snprintf(hello.build, sizeof(hello.build), "tandem %s", TANDEM_VERSION);
    n->link = wire_link_start(control, &link_ops, n, &o);
    wire_link_send(n->link, wire_frame_json(WIRE_HELLO, 0, message_hello_json(&hello)), 0);
}

static void on_down(void *ctx, const char *why, int64_t retry_ns)
{
    struct node *n = ctx;

    link_end(n);
    if (retry_ns < 0)
        wait_post(WAIT_FAILED, n->refusal[0] ? n->refusal : why);
}

static const struct node_supervisor_ops supervisor_ops = {.on_up = on_up, .on_down = on_down};

// ---- running --------------------------------------------------------------------------------------

static int node_run(int argc, char **argv)
{
    struct node n = {0};
    struct cli_option options[ALL_OPTIONS];
    struct node_supervisor *supervisor = NULL;
    struct err e = {0};
    bool done = false;
    uint16_t port = 0;
    int rc;

    node_worker_options_default(&n.worker);
    options_fill(&n, options);
    rc = cli_parse(argc, argv, options, usage, about, NULL, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0)
        rc = options_apply(&n, &e);
    if (rc != 0)
        return cli_fail("node", &e);
    log_process_set("node");
    wait_init();
    rc = node_supervisor_start(&n.worker, &supervisor_ops, &n, &port, &supervisor, &e);
    if (rc != 0)
        return cli_fail("node", &e);
    struct wait_ready ready = {.command = "node",
                               .what = "node on",
                               .scheme = "",
                               .host = n.bound.host,
                               .port = port,
                               .json = n.json};
    rc = wait_until_stopped(&ready);
    node_supervisor_free(supervisor);
    link_end(&n);
    return rc;
}

const struct cli_command cli_node = {
    "node", "the daemon on another machine: reads prompts for a gateway", node_run};
