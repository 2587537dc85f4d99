// The inside of gateway/image_upstream.h, shared by image_upstream*.c and image_node*.c; nobody else but their tests
// includes this.
#ifndef GATEWAY_IMAGE_UPSTREAM_IMPL_H
#define GATEWAY_IMAGE_UPSTREAM_IMPL_H

#include "base/buf.h"
#include "base/chan.h"
#include "gateway/image_upstream.h"
#include "gateway/images_impl.h"
#include "gateway/upstream_impl.h"
#include "net/http_pool.h"

#include <pthread.h>
#include <string.h>

#define IMAGE_UPSTREAM_PICTURE_MAX (24u << 20) // bytes of one in an answer, as base64
#define IMAGE_UPSTREAM_ANSWER_MAX (160u << 20) // bytes of an answer
#define IMAGE_UPSTREAM_WORD_MAX (4u << 20)     // of an answer without pictures
#define IMAGE_UPSTREAM_MODELS_MAX 256          // of one server
#define IMAGE_UPSTREAM_SIDE 1024               // what is guessed where nobody says a size
#define IMAGE_UPSTREAM_STEPS 20                // and steps
#define IMAGE_UPSTREAM_CFG 7.0
#define IMAGE_UPSTREAM_ID_BYTES 80

// ---- image_upstream_body.c: pure ---------------------------------------------------------------------------

// What the requests of all kinds are made of. Strings are borrowed.
struct image_upstream_order {
    const struct image_request *request;
    const json_t *body; // as the client sent it: what it said, and what it left open
    const char *model;  // theirs
    uint32_t count;     // pictures of this one request
    int64_t seed;       // of its first picture; IMAGE_SEED_NONE
    const struct images_part *image, *mask; // files; NULL: none
};
// Texts of the request, without markup. NULL where there is none; the caller frees.
char *image_upstream_prompt(const struct image_upstream_order *o);
char *image_upstream_negative(const struct image_upstream_order *o);
json_t *image_upstream_openai_body(const struct image_upstream_order *o); // a new reference
json_t *image_upstream_sd_body(const struct image_upstream_order *o,
                               struct err *e); // NULL: the mask
// An edit as a form, whose type goes into `type`.
#define IMAGE_UPSTREAM_TYPE_BYTES 96
char *image_upstream_openai_form(const struct image_upstream_order *o, size_t *len,
                                 char type[IMAGE_UPSTREAM_TYPE_BYTES]);

// The pictures of an answer of either shape, as files, at most `most`; ends with what `take` says. ERR_CORRUPT.
typedef int image_upstream_take(void *ctx, const uint8_t *data, size_t n, struct err *e);
struct image_upstream_taker {
    image_upstream_take *take;
    void *ctx;
    uint32_t most;
};
int image_upstream_pictures(const void *text, size_t n, const struct image_upstream_taker *t,
                            struct err *e);
// Names of models as a server of `kind` lists them, a list of strings; NULL: ERR_CORRUPT.
json_t *image_upstream_list(enum gateway_upstream_kind kind, const void *text, size_t n,
                            struct err *e);

// ---- image_upstream_workflow.c: pure -----------------------------------------------------------------------

// Reads a workflow in ComfyUI's API format, and what it takes. NULL: ERR_INVALID says what is wrong.
json_t *image_workflow_parse(const void *text, size_t n, unsigned *takes, struct err *e);
// A copy with what was asked in place of "%prompt%", "%seed%" and so on; texts stay texts.
json_t *image_workflow_fill(const json_t *workflow, const struct image_upstream_order *o);

// ---- the thread's ------------------------------------------------------------------------------------------

struct image_upstream_job;
struct image_upstream_server;

// How a kind of server is spoken to.
struct image_upstream_kind {
    const char *name;
    const char *check_path; // of its health, and its models
    uint32_t at_once;       // requests that it is given at one time
    uint32_t pictures;      // in one request
    unsigned takes;
    bool edits, by_picture; // its time does not follow from steps
    // Sends the next request for pictures that are missing.
    int (*begin)(struct image_upstream_job *j, struct err *e);
    // An answer came whole, with status 200, into j->in.
    int (*on_answer)(struct image_upstream_job *j, struct err *e);
    void (*on_tick)(struct image_upstream_job *j, int64_t now_ns); // NULL: nothing
    void (*leave)(
        struct image_upstream_job *j); // it is over; what it began there is stopped; NULL: nothing
};
// image_upstream_plain.c, image_upstream_comfy.c
extern const struct image_upstream_kind image_upstream_openai, image_upstream_sd,
    image_upstream_comfy, image_upstream_node; // the last: image_node_job.c

enum image_upstream_state { IMAGE_UPSTREAM_NEW, IMAGE_UPSTREAM_UP, IMAGE_UPSTREAM_DOWN };

struct image_upstream_model {
    char theirs[PARSE_MODEL_BYTES], ours[PARSE_MODEL_BYTES];
    struct images_speeds speeds; // seconds of a step, or of a picture (by_picture)
};

// The thread writes, with the lock held where others read; so it reads without.
struct image_upstream_server {
    struct image_upstreams *all;
    const struct gateway_upstream *options;
    const struct image_upstream_kind *kind;
    size_t index;
    unsigned takes;
    char *key;        // NULL: none
    json_t *workflow; // immutable; NULL: none
    // Others read:
    enum image_upstream_state state;
    char why[ERR_MESSAGE_BYTES];
    struct image_upstream_model *models; // owned
    size_t n_models;
    uint32_t waiting, drawing;
    double left_s;         // until what it has would be done
    int64_t busy_until_ns; // it failed, or asked to be left alone
    uint64_t pictures, done, failed, cancelled;
    struct image_node *node; // of the fleet; NULL: another server
    // Checks, the thread's alone:
    struct upstream_check checks;
    struct net_http_transfer *check;
    struct buf list;
};

// A place for a node. The core says, and the thread does accordingly.
struct image_node_said {
    uint64_t version; // counts changes of what stands here
    bool used;        // a node has this place
    bool held;        // it is to get nothing new: why
    uint64_t link;    // number of the link that it has; 0: it is away: why
    char why[ERR_MESSAGE_BYTES];
    char name[IMAGE_UPSTREAM_NODE_BYTES], address[IMAGE_UPSTREAM_NODE_BYTES + 16];
    struct message_canvas canvas;
};
struct image_node {
    // With the lock held:
    struct image_node_said said; // the core writes
    struct wire_link *wire;      // of said.link; NULL: none
    uint64_t links;              // numbers given
    struct image_node_said now;  // the thread writes; it reads without the lock
    // The thread's alone:
    struct gateway_upstream options;   // of `now`
    struct message_canvas_state state; // as its link told
    char refusal[ERR_MESSAGE_BYTES];   // why its link was ended here; "": it was not
    uint64_t last_id;
    uint64_t ending_id; // a request that was cancelled, and whose end it has not told; 0: none
    int64_t ending_ns;  // it has to be heard of by then
};
// What came over a link.
struct image_node_frame {
    size_t place;
    uint64_t link;
    struct wire_frame frame;
};

struct image_upstream_job {
    struct image_upstream_job *next;
    struct image_upstream_server *server;
    struct images_request r;
    struct net_http_transfer *transfer; // NULL: none runs
    struct buf in;                      // of its answer
    uint32_t asked, got;                // pictures of the request that runs
    size_t max;                         // bytes of the answer that runs
    uint32_t width, height;             // of the last picture
    uint64_t tried;                     // a bit for each server that failed it
    int64_t sent_ns, seed;
    double draw_s;
    // A node's:
    uint64_t link, drawing_id; // number of its request on that link; 0: none runs
    struct message_pixels pixels;
    struct message_picture picture; // whose pixels are coming
    bool drawing, streaming;        // its turn came; its client was told something
    bool single;                    // its server would not draw several at once
    bool ours;                      // what failed it is this machine's fault, not its server's
    bool over;                      // its end was told: it goes when nobody looks at it any more
    int64_t deadline_ns; // it has to be heard of by then; of ComfyUI's and nodes' requests
    // ComfyUI's:
    char id[IMAGE_UPSTREAM_ID_BYTES]; // "": nothing was begun
    json_t *files;                    // that are to be fetched; NULL: not known yet
    int64_t poll_ns;
};

struct image_upstreams {
    const struct gateway_options *options;
    struct images *local;
    struct images_hooks hooks;
    struct chan *inbox;  // struct images_task *
    struct chan *frames; // struct image_node_frame
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    // Those of the options, and behind them places for nodes.
    struct image_upstream_server servers[GATEWAY_UPSTREAMS_MAX + IMAGE_NODES_MAX];
    size_t n;
    // The thread only.
    struct net_http_pool *pool;
    struct image_upstream_job *jobs;
    struct image_upstream_word *words; // that are on their way and that nobody waits for
    bool draining, drained, stopping;
    int64_t swept_ns;
};

// ---- image_upstream.c ----
// A name of a server's model as clients may write it: ours, theirs, or either behind "NODE/".
struct image_upstream_model *image_upstream_model_of(const struct image_upstream_server *s,
                                                     const char *name);
// Steps, or pictures, that one picture takes there.
double image_upstream_units(const struct image_upstream_server *s, const struct image_request *r);
// The pick of a server and model that are known; the lock is held.
struct image_upstream_pick *image_upstream_pick_new(const struct image_upstream_server *s,
                                                    const struct image_upstream_model *m);

bool image_upstream_edits(const struct image_upstream_server *s);
// By what is known of their files: two that differ draw different pictures, whatever they are called.
static inline bool image_upstream_is_same(const struct image_model *a, const struct image_model *b)
{
    return a->bytes == b->bytes && strcmp(a->layout, b->layout) == 0;
}
// A place that no node has, or one of the options: what nobody is told of.
static inline bool image_upstream_is_free(const struct image_upstream_server *s)
{
    return s->node && !s->node->now.used;
}

// What was cancelled is still there: nothing else is begun, or what it is sent could pile up without an end.
static inline bool image_upstream_is_ending(const struct image_upstream_server *s)
{
    return s->node && s->node->ending_id != 0;
}

// ---- image_node.c ----
void image_nodes_init(struct image_upstreams *u);
void image_nodes_fini(struct image_upstreams *u);
void image_nodes_run(struct image_upstreams *u); // what the core said, and what has come
// How it is, after something was told or heard.
void image_node_state(struct image_upstream_server *s);
// Its link is not to be trusted, and ends.
void image_node_refuse(struct image_upstream_server *s, const struct err *why);

// ---- image_node_job.c ----
void image_node_take(struct image_upstream_server *s, const struct wire_frame *f);
void image_node_tick(struct image_upstream_server *s); // one that is silent is cut off

// ---- image_upstream_thread.c ----
void *image_upstream_main(void *ctx);
void image_upstream_state_set(struct image_upstream_server *s, enum image_upstream_state state,
                              const char *why);
void image_upstream_models_set(struct image_upstream_server *s, const json_t *names);
void image_upstream_speeds_write(const struct image_upstream_server *s);

// ---- image_upstream_queue.c ----
void image_upstream_admit(struct image_upstreams *u, struct images_task *t); // takes it
void image_upstream_jobs_run(struct image_upstreams *u, int64_t now_ns);
void image_upstream_jobs_fail(struct image_upstreams *u, const struct err *e); // all of them

// ---- image_upstream_job.c ----
void image_upstream_done(struct image_upstream_job *j);
// A picture, whole or not, is told to the client. An error is ours.
int image_upstream_picture_put(struct image_upstream_job *j, const struct image_event *ev,
                               struct err *e);
// A stream's events. A client that does not read is one that left.
void image_upstream_tell(struct image_upstream_job *j, const struct buf *out);
void image_upstream_leave(struct image_upstream_job *j); // its client did
// ---- image_upstream_comfy.c ----
struct image_upstream_word;
void image_upstream_words_drop(struct image_upstreams *u);

// For kinds. Sends a request, whose answer goes to on_answer; takes the body, NULL: a GET.
struct image_upstream_call {
    const char *path; // behind the server's address
    char *body;
    size_t len;
    const char *type; // NULL: JSON
    size_t max;       // bytes of the answer
    uint32_t total_s; // 0: the server's stall=
};
int image_upstream_call(struct image_upstream_job *j, const struct image_upstream_call *c,
                        struct err *e);
struct image_upstream_order image_upstream_order(const struct image_upstream_job *j);
// Says how many pictures the request that begins now is for: j->asked.
void image_upstream_round(struct image_upstream_job *j);
// A picture's file, told to the client. An error is the server's fault.
int image_upstream_picture(struct image_upstream_job *j, const uint8_t *data, size_t n,
                           struct err *e);
// The request that ran has told all its pictures: the next one is sent, or the job is done.
int image_upstream_next(struct image_upstream_job *j, struct err *e);
void image_upstream_fail(struct image_upstream_job *j, const struct net_http_reply *reply,
                         const struct err *e);

#endif
