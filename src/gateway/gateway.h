// The gateway: the HTTP front. It owns requests from the first byte to the last, decides where each
// part of one runs, and speaks to workers over links; it links no model library.
//
// Threads: libmicrohttpd's own (parsing, copying out), one core thread that owns every request to
// workers, the worker table and its timers, one greeter per worker (dialling and the first two frames
// may block), and one each for upstream servers, pictures drawn here, pictures drawn elsewhere, image
// jobs and fine-tuning. They send each other messages through bounded channels; bytes for a client go
// into that request's outgoing buffer (reply.h), whose lock is the one thing that HTTP and core share.
//
// Files (NAME* are several; each says more itself):
//
//   http, access, reply      connections and bodies, who may ask, the outgoing buffer
//   route*                   which path and method runs what
//   dialect*, translate      each API's shapes, in and out
//   parse*                   the one request that all of them become, checked
//   core                     the loop: who owns all that follows, down to upstream*
//   request*, admit          one request's life, who is asked for what, who has to wait
//   answer, timing           what the client is told
//   placing*, profiles       what the choice of machines is told, and what every request teaches
//   model, peer, greet       this machine's models, workers of all kinds, their links
//   fleet*, discover         nodes that join, drain, leave, and announce themselves
//   ship, room               adapters on their way to workers, memory for training jobs
//   upstream*                other servers as nodes; upstream_thread talks to them, on its own thread
//   images*                  pictures drawn here, on a thread of their own
//   image_jobs*              pictures as jobs, on another
//   image_* (the others)     pictures drawn by other servers and by nodes, on a third
//   tuning*, files           fine-tuning jobs and what was uploaded for them, on a fourth
//   status*, metrics, ollama what operators and lists of models show
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

#include "base/err.h"
#include "image/worker.h"
#include "net/net.h"
#include "node/node.h"
#include "sched/place.h"

#define GATEWAY_PORT 8080
#define GATEWAY_BODY_MAX (32u << 20) // bytes of one request body: 413 beyond
#define GATEWAY_PREFILL_MAX 64       // nodes at one time
#define GATEWAY_MODELS_MAX 64
#define GATEWAY_ALIASES_MAX 8
#define GATEWAY_HOSTS_MAX 16
#define GATEWAY_UPSTREAMS_MAX 16
#define GATEWAY_UPSTREAM_MODELS_MAX 16
#define GATEWAY_UPSTREAM_STALL_S 180
#define GATEWAY_PRICE_MAX 1e6       // dollars for a million tokens
#define GATEWAY_UPSTREAM_DRAW_S 600 // stall_s of one that draws: nothing is heard until it is done

#define GATEWAY_IMAGE_QUEUE 8
#define GATEWAY_IMAGE_EXPIRY_S 3600
#define GATEWAY_IMAGE_JOBS 100
#define GATEWAY_IMAGE_JOBS_PER_KEY 50
#define GATEWAY_IMAGE_JOBS_MAX 1000

// Pictures (gateway/images.h).
struct gateway_images {
    struct image_worker_options worker; // model NULL: this server draws none
    const char *name;                   // of the model; NULL: as its file is called
    bool wait;      // other requests wait for a step, in place of the picture's pausing for them
    uint32_t queue; // requests that may wait (default 8); beyond: 429 with Retry-After
    int64_t
        expiry_s; // how long a picture can be fetched by url, and a job's after its end (default 1 h)
    uint32_t jobs, jobs_per_key; // that wait or are drawn (image_jobs.h; default 100 and 50)
};

enum gateway_event {
    GATEWAY_UP, // all models that are not on demand are loaded: text is the first one's name. Also after a
                // restart
    GATEWAY_FAILED,  // no local worker is left that could come up: text says why
    GATEWAY_DRAINED, // after gateway_drain: the last request has ended
};

// A model that this machine's own workers can hold.
struct gateway_model {
    const char *name; // NULL: as its file calls it
    const char
        *id; // of a model of the store (models/names.h): it goes by any part of it; NULL: none
    const char *path;
    const char *projector; // for images; NULL: none
    const char *aliases[GATEWAY_ALIASES_MAX];
    size_t n_aliases;
    bool on_demand;      // loaded when it is asked for, unloaded when it is not used
    uint64_t need_bytes; // of memory; 0: not known
};

// What an upstream server that draws speaks (image_upstream.h).
enum gateway_upstream_kind {
    GATEWAY_UPSTREAM_OPENAI, // /images/generations and /images/edits
    GATEWAY_UPSTREAM_SD,     // stable-diffusion.cpp's sd-server: /sdapi/v1/txt2img and img2img
    GATEWAY_UPSTREAM_COMFY,  // ComfyUI: a workflow
};

// Another server of OpenAI's API, which answers whole requests (upstream.h); or one that draws.
struct gateway_upstream {
    const char *name; // one word
    const char *url;  // without a '/' at the end: "http://spark:8000/v1"
    enum gateway_upstream_kind kind;
    const char *workflow; // the file of GATEWAY_UPSTREAM_COMFY; else NULL
    const char *key_file; // holds the key that it is sent; NULL: none
    const char *ca_file;  // certificates to trust for it; NULL: the system's
    // What is wanted of it, by its own names and by those that they have here (NULL: the same). 0: all that it
    // lists.
    struct {
        const char *theirs, *ours;
    } models[GATEWAY_UPSTREAM_MODELS_MAX];
    size_t n_models;
    uint32_t stall_s; // that it may be silent while it answers (default GATEWAY_UPSTREAM_STALL_S)
    bool plain_key;   // its key may cross the network unencrypted
    bool priced;      // the following are known
    double price_in, price_out; // dollars for a million tokens of prompts, and of answers
};

// What is done with nodes that announce themselves on the local network (discover.h).
enum gateway_discover {
    GATEWAY_DISCOVER_OFF, // nobody looks
    GATEWAY_DISCOVER_SUGGEST,
    GATEWAY_DISCOVER_USE, // those that hold the cluster key
};

struct image_upstreams;

struct gateway_options {
    struct net_addr listen; // default 127.0.0.1:8080; port 0 takes a free one
    // The local decode workers: what is said for all of them, and their models. Without any there is the
    // one of `worker.engine.model`.
    struct node_worker_options worker;
    struct gateway_model models[GATEWAY_MODELS_MAX];
    size_t n_models;
    uint32_t models_max; // loaded at one time (0, the default: as many as there is memory for)
    int64_t
        models_idle_ns; // one on demand goes after so long without use (default 15 min; 0: never)
    struct net_addr prefill[GATEWAY_PREFILL_MAX];
    size_t n_prefill;
    // Where nodes that join at run time are kept for the next start (fleet.h); NULL: they are not.
    const char *nodes_file;
    enum gateway_discover discover; // default GATEWAY_DISCOVER_OFF
    // With one of them at least, there may be no local model.
    struct gateway_upstream upstreams[GATEWAY_UPSTREAMS_MAX];
    size_t n_upstreams;
    struct gateway_upstream image_upstreams[GATEWAY_UPSTREAMS_MAX]; // those that draw
    size_t n_image_upstreams;
    // Placement (sched/place.h): what requests get that do not say.
    enum place_kind plan;           // default: auto
    enum place_policy policy;       // default: latency
    double slo_ttft_s, slo_token_s; // limits of the policy "slo"; 0: none
    double dollars_per_kwh;         // for the policy "cost"; 0: not known
    const char *profiles; // file that keeps what is known of nodes; NULL (default): nothing is kept
    const json_t *train_executor; // of jobs that clients submit (jobs/jobs.h); NULL: here; borrowed
    struct net_key key;
    bool same_weights;     // demand equal weights on both sides (default true)
    uint32_t max_requests; // beyond: 503 with Retry-After (default 64)
    uint32_t max_per_key; // of one API key; beyond: 429 with Retry-After (0, the default: no limit)
    int64_t heartbeat_ns; // comment lines while a prompt is read (default 5 s)
    double stall_s;       // a prefill node that is silent for this long is given up (default 3)
    struct gateway_images images;
    struct image_upstreams
        *drawers; // who learns of nodes that draw: the gateway's own; NULL: nobody
    // Keys that clients must send, when any is given; needed for a public address (access.h).
    const char *api_key;      // good for everything
    const char *api_key_file; // of lines "NAME SCOPES KEY"
    bool share_prefixes;      // between the owners of different keys (default: never)
    bool cors;                // answer to web pages of other origins (default: they are refused)
    // Leave the system block that Claude Code changes in every request where it is (default: it is taken out,
    // because with it no request would begin like the one before).
    bool keep_billing;
    // Names besides localhost by which a server on a loopback address may be called.
    const char *allow_hosts[GATEWAY_HOSTS_MAX];
    size_t n_allow_hosts;
    // Called on the core thread; GATEWAY_DRAINED on the thread that ended last (core, images or image
    // servers). Must return at once. May be NULL.
    void (*on_event)(void *ctx, enum gateway_event event, const char *text);
    void *on_event_ctx;
};
void gateway_options_default(struct gateway_options *o);

struct gateway;
// Binds, starts the worker and the threads. *port gets the bound port. The options' strings must
// outlive the gateway.
int gateway_start(const struct gateway_options *o, struct gateway **out, uint16_t *port,
                  struct err *e);
// Refuses new requests, and is not ready any more (/readyz); running requests go on. GATEWAY_DRAINED tells
// when none is left. Any thread.
void gateway_drain(struct gateway *g);
// Stops accepting, ends open streams with an error event, ends the worker, frees.
void gateway_free(struct gateway *g);

#endif
