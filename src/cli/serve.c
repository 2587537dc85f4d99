// tandem serve: the gateway with its local worker, in the foreground.
#include "cli/serve.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/image.h"
#include "cli/wait.h"
#include "gateway/gateway.h"
#include "net/words.h"
#include "node/message.h"
#include "os/discover.h"
#include "os/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: tandem serve [-m MODEL ...] [--listen ADDR:PORT] "
    "[--prefill HOST:PORT ...] [--upstream NAME=URL ...] [--image-model FILE] "
    "[--image-upstream NAME=URL ...] [OPTIONS]";
static const char about[] =
    "Answers OpenAI's, Anthropic's and Ollama's clients (GET / lists all routes). The answer is\n"
    "written by a worker on this machine; long prompts are read by the prefill nodes, and their\n"
    "KV cache streams over meanwhile. With --image-model it also draws pictures, and with\n"
    "--image-upstream other servers do. SIGINT and SIGTERM let running requests end, then it\n"
    "stops.";

struct serve {
    struct gateway_options gateway;
    const char *listen, *key_file;
    struct cli_list prefill, upstreams, image_upstreams, allow_hosts;
    double drain_s;
    struct serve_models models;
    struct serve_placing placing;
    const char *image_policy, *train_executor;
    struct cli_list train_options;
    json_t *executor; // of train_executor and its options; owned
    double image_expiry_s;
    bool different_weights, json, discover, no_discover;
};

#define ALL_OPTIONS 96
#define DRAIN_S 30.0

static size_t access_options(struct serve *s, struct cli_option *out)
{
    const struct cli_option own[] = {
        {.name = "--api-key",
         .kind = CLI_STRING,
         .value = (void *)&s->gateway.api_key,
         .arg = "KEY",
         .help =
             "demand this key of clients; a key is needed to listen on a public address. Better "
             "given as TANDEM_API_KEY: a command line can be seen by other users"},
        {.name = "--api-key-file",
         .kind = CLI_STRING,
         .value = (void *)&s->gateway.api_key_file,
         .arg = "FILE",
         .help = "keys with scopes, in lines \"NAME inference,admin KEY\"; KEY may be sha256:HEX; "
                 "for the owner's eyes alone (mode 0600)"},
        {.name = "--share-prefixes",
         .kind = CLI_FLAG,
         .value = &s->gateway.share_prefixes,
         .help = "let requests of one API key begin with what those of another left in memory"},
        {.name = "--keep-billing-header",
         .kind = CLI_FLAG,
         .value = &s->gateway.keep_billing,
         .help = "leave the x-anthropic-billing-header block, which Claude Code changes in every "
                 "request, in the prompt; prefixes are then not found again"},
        {.name = "--allow-host",
         .kind = CLI_LIST,
         .value = &s->allow_hosts,
         .arg = "NAME",
         .help = "another name that a server on 127.0.0.1 may be called by; may be repeated"},
        {.name = "--cors",
         .kind = CLI_FLAG,
         .value = &s->gateway.cors,
         .help = "answer to web pages of any origin"},
    };

    memcpy(out, own, sizeof(own));
    return sizeof(own) / sizeof(own[0]);
}

static size_t http_options(struct serve *s, struct cli_option *out)
{
    const struct cli_option own[] = {
        {.name = "--listen",
         .kind = CLI_STRING,
         .value = &s->listen,
         .arg = "ADDR:PORT",
         .help = "where HTTP is answered (127.0.0.1:8080); port 0 takes a free one"},
        {.name = "--max-requests",
         .kind = CLI_UINT32,
         .value = &s->gateway.max_requests,
         .arg = "N",
         .help = "most requests at one time (64)",
         .min = 1,
         .max = 4096},
        {.name = "--max-per-key",
         .kind = CLI_UINT32,
         .value = &s->gateway.max_per_key,
         .arg = "N",
         .help = "most requests of one API key at one time (0: no limit of its own)",
         .min = 0,
         .max = 4096},
        {.name = "--drain",
         .kind = CLI_DOUBLE,
         .value = &s->drain_s,
         .arg = "SECONDS",
         .help = "after SIGTERM or Ctrl-C, how long running requests may go on (30); a second "
                 "signal ends them at once",
         .min = 0,
         .max = 86400},
        {.name = "--json",
         .kind = CLI_FLAG,
         .value = &s->json,
         .help = "when ready, print one line of JSON to stdout"},
    };

    memcpy(out, own, sizeof(own));
    return sizeof(own) / sizeof(own[0]);
}

static size_t cluster_options(struct serve *s, struct cli_option *out)
{
    const struct cli_option own[] = {
        {.name = "--prefill",
         .kind = CLI_LIST,
         .value = &s->prefill,
         .arg = "HOST:PORT",
         .help = "a machine that runs \"tandem node\" and reads long prompts, or draws; may be "
                 "repeated"},
        {.name = "--upstream",
         .kind = CLI_LIST,
         .value = &s->upstreams,
         .arg = "NAME=URL",
         .help = "another server of OpenAI's API (vLLM, llama-server, mlx_lm.server, Ollama, ...) "
                 "that answers whole requests; may be repeated. Behind the address, in the same "
                 "quotes: key-file=FILE, model=THEIRS, as=OURS, ca-file=FILE, stall=SECONDS, "
                 "price-in=DOLLARS, price-out=DOLLARS (for a million tokens)"},
        {.name = "--discover",
         .kind = CLI_FLAG,
         .value = &s->discover,
         .help = "use all nodes that announce themselves on the local network and hold the cluster "
                 "key; without it they are only told of"},
        {.name = "--no-discover",
         .kind = CLI_FLAG,
         .value = &s->no_discover,
         .help = "do not look for nodes on the network at all; without a cluster key nobody looks"},
        {.name = "--key-file",
         .kind = CLI_STRING,
         .value = &s->key_file,
         .arg = "FILE",
         .help = "the cluster key (default: the one \"tandem pair\" stored)"},
        {.name = "--different-weights",
         .kind = CLI_FLAG,
         .value = &s->different_weights,
         .help = "let the nodes hold differently quantised weights of one model"},
        {.name = "--train-executor",
         .kind = CLI_STRING,
         .value = (void *)&s->train_executor,
         .arg = "KIND",
         .help =
             "where fine-tuning jobs of clients run: local, ssh, slurm, or fastest (the machine "
             "that trains this model fastest)"},
        {.name = "--train-option",
         .kind = CLI_LIST,
         .value = &s->train_options,
         .arg = "KEY=VALUE",
         .help = "of that executor: hosts=here,spark1; may be repeated"},
        {.name = "--stall",
         .kind = CLI_DOUBLE,
         .value = &s->gateway.stall_s,
         .arg = "SECONDS",
         .help = "a prefill node that is silent for this long is given up (3)",
         .min = 0.1,
         .max = 3600},
    };

    memcpy(out, own, sizeof(own));
    return sizeof(own) / sizeof(own[0]);
}

static size_t image_options(struct serve *s, struct cli_option *out)
{
    struct gateway_images *o = &s->gateway.images;
    const struct cli_option own[] = {
        {.name = "--image-upstream",
         .kind = CLI_LIST,
         .value = &s->image_upstreams,
         .arg = "NAME=URL",
         .help = "another server that draws pictures, beside --image-model or without it; may be "
                 "repeated. Behind the address, in the same quotes: kind=openai|sd-server|comfyui "
                 "(openai), workflow=FILE (of comfyui), and the words of --upstream"},
        {.name = "--image-name",
         .kind = CLI_STRING,
         .value = (void *)&o->name,
         .arg = "NAME",
         .help = "what clients call the image model (its file's name)"},
        {.name = "--image-policy",
         .kind = CLI_STRING,
         .value = (void *)&s->image_policy,
         .arg = "pause|wait",
         .help = "while other requests run, pictures pause between two steps (pause), or the "
                 "others wait for them as they can (wait)"},
        {.name = "--image-queue",
         .kind = CLI_UINT32,
         .value = &o->queue,
         .arg = "N",
         .help = "requests for pictures that may wait (8); more get 429 and when to come back",
         .min = 0,
         .max = IMAGE_QUEUE_MAX - 1},
        {.name = "--image-jobs",
         .kind = CLI_UINT32,
         .value = &o->jobs,
         .arg = "N",
         .help = "image jobs that may wait or be drawn (100); more get 429",
         .max = GATEWAY_IMAGE_JOBS_MAX},
        {.name = "--image-jobs-per-key",
         .kind = CLI_UINT32,
         .value = &o->jobs_per_key,
         .arg = "N",
         .help = "those of one API key (50)",
         .max = GATEWAY_IMAGE_JOBS_MAX},
        {.name = "--image-expiry",
         .kind = CLI_DOUBLE,
         .value = &s->image_expiry_s,
         .arg = "SECONDS",
         .help = "how long a picture can be fetched by url, and an image job after its end (3600)",
         .min = 1,
         .max = 1e9},
    };

    memcpy(out, own, sizeof(own));
    return sizeof(own) / sizeof(own[0]);
}

static void options_fill(struct serve *s, struct cli_option *out)
{
    size_t n = http_options(s, out);

    n += serve_models_options(&s->models, &s->gateway, out + n);
    n += access_options(s, out + n);
    n += cluster_options(s, out + n);
    n += serve_placing_options(&s->placing, &s->gateway, out + n);
    n += cli_image_options(&s->gateway.images.worker, out + n, CLI_IMAGE_OPTIONS);
    n += image_options(s, out + n);
    n += cli_worker_options(&s->gateway.worker, out + n, ALL_OPTIONS - n - 1, false);
    memset(&out[n], 0, sizeof(out[n]));
}

// Only a cluster of machines needs a key; nodes on this one may do without.
static int key_load(struct serve *s, struct err *e)
{
    bool needed = s->key_file != NULL || cli_spread_leaves(&s->gateway.worker);
    bool nodes = s->gateway.n_prefill > 0 || s->gateway.worker.spread || needed;
    int rc;

    for (size_t i = 0; i < s->gateway.n_prefill; i++)
        needed = needed || !net_addr_is_loopback(&s->gateway.prefill[i]);
    rc = net_key_load(s->key_file, &s->gateway.key, e);
    // A server without nodes does not fail for a key that only nodes that may join would need.
    if (rc != 0 && rc != ERR_NOT_FOUND && !nodes)
        log_warn("serve", "nodes of other machines cannot join: %s", e->message);
    return rc == ERR_NOT_FOUND ? (needed ? rc : 0) : nodes ? rc : 0;
}

// Who has paired machines wants to hear of them; everybody else is not looked around for.
static int discover_set(struct serve *s, struct err *e)
{
    struct gateway_options *o = &s->gateway;
    bool key = net_key_is_set(&o->key);

    if (s->discover && s->no_discover)
        return err_set(e, ERR_INVALID, "--discover and --no-discover exclude each other");
    if (s->discover && !key)
        return err_set(e, ERR_INVALID,
                       "--discover needs the cluster key, which tells your machines from "
                       "others; " NET_KEY_ADVICE);
    o->discover = s->no_discover ? GATEWAY_DISCOVER_OFF
                  : s->discover  ? GATEWAY_DISCOVER_USE
                  : key          ? GATEWAY_DISCOVER_SUGGEST
                                 : GATEWAY_DISCOVER_OFF;
    return 0;
}

// By port, so that two servers of one user do not share their nodes. One that takes whatever port is free
// is no server that somebody would start again.
static void nodes_file_set(struct serve *s)
{
    char folder[2048], path[2100];
    struct err e = {0};

    if (s->gateway.listen.port == 0 || os_state_dir(folder, sizeof(folder), &e) != 0)
        return;
    snprintf(path, sizeof(path), "%s/nodes-%u.json", folder, s->gateway.listen.port);
    s->gateway.nodes_file = cli_text_keep(path);
}

static int image_apply(struct serve *s, struct err *e)
{
    struct gateway_images *o = &s->gateway.images;

    o->wait = strcmp(s->image_policy, "wait") == 0;
    o->expiry_s = (int64_t)s->image_expiry_s;
    if (!o->wait && strcmp(s->image_policy, "pause") != 0)
        return err_set(e, ERR_INVALID, "--image-policy is \"%.40s\", and must be pause or wait",
                       s->image_policy);
    return o->worker.model ? serve_models_room(&s->models, &s->gateway, e) : 0;
}

static int options_apply(struct serve *s, struct err *e)
{
    struct gateway_options *o = &s->gateway;
    int rc;

    o->models_idle_ns = (int64_t)(s->models.idle_s * 1e9);
    o->n_prefill = s->prefill.n;
    s->models.any_memory = s->models.any_memory || o->worker.spread;
    rc = serve_placing_apply(&s->placing, o, e);
    if (rc == 0)
        rc = cli_role_check(&o->worker, e);
    if (rc == 0)
        rc = serve_upstreams_find(&s->upstreams, o, e);
    if (rc == 0)
        rc = serve_image_upstreams_find(&s->image_upstreams, o, e);
    if (rc == 0)
        rc = serve_models_find(&s->models, o, e);
    if (rc == 0)
        rc = image_apply(s, e);
    if (rc == 0)
        rc = cli_spread_check(&o->worker, o->n_models, e);
    if (rc == 0 && s->listen)
        rc = net_addr_parse(s->listen, "127.0.0.1", GATEWAY_PORT, &o->listen, e);
    for (size_t i = 0; rc == 0 && i < s->prefill.n; i++)
        rc = net_addr_parse(s->prefill.items[i], "127.0.0.1", MESSAGE_PORT, &o->prefill[i], e);
    for (size_t i = 0; i < s->allow_hosts.n && i < GATEWAY_HOSTS_MAX; i++)
        o->allow_hosts[o->n_allow_hosts++] = s->allow_hosts.items[i];
    o->same_weights = !s->different_weights;
    if (rc == 0 && (s->train_executor || s->train_options.n > 0)) {
        rc = cli_executor_json(s->train_executor, &s->train_options, "--train-option", &s->executor,
                               e);
        o->train_executor = s->executor;
    }
    serve_prices_check(o);
    if (rc == 0)
        nodes_file_set(s);
    if (rc == 0)
        rc = key_load(s, e);
    return rc == 0 ? discover_set(s, e) : rc;
}

// On the core's thread, or that of those who draw (gateway.h).
static void on_event(void *ctx, enum gateway_event event, const char *text)
{
    (void)ctx;
    wait_post(event == GATEWAY_UP        ? WAIT_READY
              : event == GATEWAY_DRAINED ? WAIT_DRAINED
                                         : WAIT_FAILED,
              text);
}

// What runs may end, until the time is over or a second signal comes.
static void drain(struct gateway *g, double seconds)
{
    log_info("serve", "stopping: running requests have %.0f s to end", seconds);
    gateway_drain(g);
    if (!wait_drained(seconds))
        log_warn("serve", "stopping: what still runs is cut off");
}

// Where no worker has to come up first.
static void ready_early(const struct gateway_options *o)
{
    char any[64];

    snprintf(any, sizeof(any), "any of %zu, on demand", o->n_models);
    if (o->n_models == 0)
        wait_post(WAIT_READY, "those of other machines");
    else if (o->models[0].on_demand)
        wait_post(WAIT_READY, any);
}

static int serve_run(int argc, char **argv)
{
    struct serve s = {.drain_s = DRAIN_S,
                      .models = {.idle_s = 900},
                      .image_policy = "pause",
                      .image_expiry_s = GATEWAY_IMAGE_EXPIRY_S};
    struct cli_option options[ALL_OPTIONS];
    struct err e = {0};
    struct gateway *g = NULL;
    bool done = false;
    uint16_t port = 0;
    int rc;

    gateway_options_default(&s.gateway);
    options_fill(&s, options);
    rc = cli_parse(argc, argv, options, usage, about, NULL, &done, &e);
    if (rc == 0 && done)
        return 0;
    if (rc == 0)
        rc = options_apply(&s, &e);
    if (rc != 0)
        return cli_fail("serve", &e);
    os_discover_init();
    log_process_set("serve");
    wait_init();
    s.gateway.on_event = on_event;
    rc = gateway_start(&s.gateway, &g, &port, &e);
    if (rc != 0)
        return cli_fail("serve", &e);
    ready_early(&s.gateway);
    struct wait_ready ready = {.command = "serve",
                               .what = "listening on",
                               .scheme = "http://",
                               .host = s.gateway.listen.host,
                               .port = port,
                               .json = s.json};
    rc = wait_until_stopped(&ready);
    if (rc == 0)
        drain(g, s.drain_s);
    gateway_free(g);
    json_decref(s.executor);
    return rc;
}

const struct cli_command cli_serve = {
    "serve", "the server: gateway and decode worker on this machine", serve_run};
