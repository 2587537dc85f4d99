// What the files of upstream servers share. Private to gateway/upstream*.c; keys, words and checks are those of
// servers that draw as well (image_upstream*.c).
//
// upstream.c, upstream_request.c and upstream_place.c are the core's side: which server has a model; who is asked,
// and what a failure means. upstream_thread.c is the thread that talks to servers, upstream_body.c makes the requests that go
// out, upstream_answer.c and upstream_list.c read what comes in.
#ifndef GATEWAY_UPSTREAM_IMPL_H
#define GATEWAY_UPSTREAM_IMPL_H

#include "base/buf.h"
#include "base/clock.h"
#include "gateway/dialect.h"
#include "gateway/upstream.h"
#include "sched/place.h"
#include "sched/profile.h"
#include "wire/wire.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define UPSTREAM_EVENT_MAX (4u << 20)    // bytes of one event of a stream
#define UPSTREAM_ANSWER_MAX (256u << 20) // bytes of a whole answer, whatever they say
#define UPSTREAM_LIST_MAX (8u << 20)     // bytes of a list of models
#define UPSTREAM_ERROR_MAX 65536         // bytes of an error's body that are read
#define UPSTREAM_REASON_BYTES 256
#define UPSTREAM_LIST_MODELS 1024  // of one server
#define UPSTREAM_SLOTS 64          // answers at a time that a server is thought to have room for
#define UPSTREAM_ANSWER_TOKENS 256 // that are expected of a request without a limit
#define UPSTREAM_CONNECT_S 3
#define UPSTREAM_CHECK_S 5 // that the answer to a check may take
#define UPSTREAM_CHECK_NS (5 * NS_PER_S)
#define UPSTREAM_CHECK_SOON_NS (NS_PER_S / 2) // after a failure; doubled with each one
#define UPSTREAM_CHECK_LATE_NS (10 * NS_PER_S)
// What fits is the server's to say: of a prompt that nobody here has counted there is only a guess.
#define UPSTREAM_CONTEXT 1e9

// ---- the core's ----------------------------------------------------------------------------------------

struct upstream_model {
    char theirs[PARSE_MODEL_BYTES], ours[PARSE_MODEL_BYTES];
    uint32_t n_ctx;            // 0: not told
    const struct model *local; // the same on this machine, by its name; NULL: there is none
};

struct upstream {
    const struct gateway_upstream *options;
    size_t index;
    struct peer *peer;
    struct upstream_thread *thread;
    struct upstream_model *models; // owned
    size_t n_models;
    bool listed;                   // what it has is known
    int64_t busy_until_ns;         // it asked to be left alone
    char asked[PARSE_MODEL_BYTES]; // the model that it was asked for last; "": none
    struct profile guess;          // of one whose speed was never seen (upstream_place)
    double token_bytes;            // of a request's text for each token of a prompt, as was seen
};

struct upstreams {
    struct upstream_thread *thread;
    struct profile unknown; // of a server that does not have a model
    struct upstream all[GATEWAY_UPSTREAMS_MAX];
    size_t n;
};

// By our name for it or its server's, or by either behind the server's own name: "spark/qwen3". NULL: it has
// no such model.
const struct upstream_model *upstream_model_of(const struct upstream *u, const char *name);
// The one that a request is about; NULL: it has no such model.
const struct upstream_model *upstream_wanted(const struct upstream *u, const struct request *r);
// What is known of its speed; NULL: there is no room for that.
struct profile_book *upstream_book(struct core *c, const struct upstream *u,
                                   const struct upstream_model *m);
static inline bool upstream_is_unseen(const struct profile_book *b)
{
    return b->read.samples == 0 && b->step.samples == 0;
}

// A server as one of the nodes of a choice, but for its number and whether it is up; b NULL: nothing is known of
// its speed. (upstream_place.c)
struct place_node upstream_node(const struct core *c, const struct upstream *u,
                                const struct profile_book *b);

// ---- upstream_body.c: pure ---------------------------------------------------------------------------

// What servers cannot be relied on to do. ERR_UNSUPPORTED with *param: the member of the request.
int upstream_body_check(const struct parse_request *in, const char **param, struct err *e);
// The chat completion, or the completion, that run `at` of the request is. A new reference.
json_t *upstream_body(const struct parse_request *in, size_t at, const char *model);

// ---- upstream_answer.c: pure ---------------------------------------------------------------------------

// Takes the head of a TOKEN or a DONE, as a worker would have sent it (node/message.h).
typedef void upstream_tell(void *ctx, enum wire_type type, json_t *head);

// One answer while it comes in: events of a stream, or one JSON text. A server's calls, in order.
struct upstream_call {
    char *id; // owned
    json_int_t index;
};
struct upstream_answer {
    upstream_tell *tell;
    void *ctx;
    bool stream;                 // false: one text; to be set before its first bytes
    const char *secret;          // that no message may repeat; NULL: none
    struct buf line, event;      // not yet whole; of a whole text, `event` is all of it
    bool finished, over;         // finish_reason came; [DONE] came
    bool cut;                    // it ended at its limit
    struct upstream_call *calls; // owned
    size_t n_calls;
    uint32_t n_told; // TOKENs
    uint64_t bytes;
    bool has_usage;
    uint32_t prompt_tokens, cached_tokens, gen_tokens, reasoning_tokens;
    int64_t sent_ns, first_ns, last_ns; // 0: not yet
};

void upstream_answer_init(struct upstream_answer *a, upstream_tell *tell, void *ctx,
                          int64_t sent_ns);
void upstream_answer_fini(struct upstream_answer *a);
// The next bytes of the body. ERR_CORRUPT, ERR_RANGE, or ERR_ENGINE with the server's own words.
int upstream_answer_take(struct upstream_answer *a, const void *data, size_t n, int64_t at_ns,
                         struct err *e);
// The body is over: tells DONE, or says what is missing (ERR_CLOSED).
int upstream_answer_end(struct upstream_answer *a, int64_t at_ns, struct err *e);

// ---- upstream_list.c: pure -----------------------------------------------------------------------------

struct upstream_listed {
    char id[PARSE_MODEL_BYTES];
    uint32_t n_ctx; // 0: not told
};
// The models of a /v1/models; *out is owned by the caller. *left: how many more there were.
int upstream_list_parse(const void *text, size_t n, struct upstream_listed **out, size_t *n_out,
                        size_t *left, struct err *e);
// What an error's body says, on one line, with `secret` (NULL: none) taken out.
void upstream_reason(const void *text, size_t n, const char *secret,
                     char out[UPSTREAM_REASON_BYTES]);

// ---- upstream_check.c: pure ----------------------------------------------------------------------------

// When a server is looked at next; zeroed: at once.
struct upstream_check {
    int64_t due_ns, backoff_ns;
};
void upstream_check_done(struct upstream_check *c, bool up, int64_t now_ns);
// Servers that have no list of models are asked for those that were named.
bool upstream_list_is_missing(const struct gateway_upstream *u, long status);

// ---- upstream_thread.c ---------------------------------------------------------------------------------

// What a check of a server's health found.
struct upstream_report {
    size_t server;
    bool up;
    bool refused;                   // it answers, and will not have us: the key, the address
    char why[ERR_MESSAGE_BYTES];    // when not up
    struct upstream_listed *models; // owned; NULL: it told none
    size_t n_models;
};

// A message for the core, made by the thread. One of the two.
struct upstream_word {
    struct upstream_report *report;
    size_t server;
    struct wire_frame frame;
    int64_t at_ns;
};

struct upstream_thread;
struct upstream_thread_options {
    const struct gateway_upstream *servers; // of n; they outlive the thread
    size_t n;
    // On the thread; takes what the word holds. May block: that is back-pressure.
    void (*say)(void *ctx, struct upstream_word *w);
    void *ctx;
};

// The key of a server out of its file, NULL: it has none; and whether it may be sent there. *key is the caller's also
// on failure.
int upstream_key_take(const struct gateway_upstream *u, char **key, struct err *e);
void upstream_key_free(char *key); // NULL is nothing; nothing of it stays in memory
// What an answer's status means, in words that follow the server's name.
struct net_http_reply;
int upstream_status_words(const struct net_http_reply *r, const char *reason, struct err *e);
// The same of what kept an answer from coming.
void upstream_trouble_words(int rc, struct err *e);
// Reads the keys' files, and starts.
int upstream_thread_start(const struct upstream_thread_options *o, struct upstream_thread **out,
                          struct err *e);
// Breaks what runs off, joins, frees. NULL is fine.
void upstream_thread_stop(struct upstream_thread *t);
// One request: takes the body. Its words are FAILED, or TOKENs and DONE, under this id. ERR_BUSY: too much
// waits to be sent. Any thread.
int upstream_thread_ask(struct upstream_thread *t, size_t server, uint64_t id, bool chat,
                        char *body);
// No word of it comes any more, unless it is under way already. Any thread.
void upstream_thread_cancel(struct upstream_thread *t, size_t server, uint64_t id);

#endif
