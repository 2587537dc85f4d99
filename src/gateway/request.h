// One request's life, from parsed to answered. Private to gateway/.
//
//   RENDER --> plan --+--> OFFER (PREFILL sent) --> GENERATE --> LINGER --> over
//     ^               +-----------------------------^   |
//     |               +--> EMBED --> over               |
//     +------------------------- WAIT <-----------------+  the worker restarted
//
// A request renders one or more inputs (several prompts, the texts of an embeddings request) and then
// makes its runs: one for each answer (n times the prompts), or one for each embedding. The first run
// is the leader: the plan is made for its prompt, and only that one is handed off. The others start on
// the same worker when the leader has its prompt, so that its prefix memory makes them cheap.
//
// A request whose decode worker dies before it began is planned again, once. A prefill node that
// refuses, dies or stalls costs time, never the answer: before GENERATE the decode worker reads the
// whole prompt, after it the decode worker is told to go on alone.
//
// Functions that end a request only mark it `over`; request_reap, called by whoever walks the list,
// frees it. So nothing here is used after it is freed.
#ifndef GATEWAY_REQUEST_H
#define GATEWAY_REQUEST_H

#include "base/buf.h"
#include "gateway/answer.h"
#include "gateway/model.h"
#include "gateway/parse.h"
#include "gateway/peer.h"
#include "gateway/placing.h"
#include "gateway/reply.h"
#include "gateway/request_index.h"
#include "wire/wire.h"

#define REQUEST_RENDER_NS (60 * NS_PER_S)
#define REQUEST_WAIT_NS (120 * NS_PER_S) // for a restarting worker
#define REQUEST_LINGER_NS (NS_PER_S / 5) // for the prefill node's own figures, after DONE
#define REQUEST_FIRST_BEAT_NS NS_PER_S   // while a prompt is still being tokenised
#define REQUEST_PROGRESS_NS                                                                        \
    (NS_PER_S / 2) // between two comments that tell how far a prompt is read
#define REQUEST_REPLANS 4
#define REQUEST_REPLAN_NS (NS_PER_S / 2)
#define REQUEST_FALLBACK_BYTES 512
#define REQUEST_WINDOW 8 // inputs that are rendered or embedded at one time

#define REQUEST_ID_BYTES 65 // of an X-Request-Id, with its end

struct core;

enum request_phase {
    REQUEST_RENDER,
    REQUEST_WAIT,
    REQUEST_OFFER,
    REQUEST_GENERATE,
    REQUEST_EMBED,
    REQUEST_LINGER,
};
const char *request_phase_name(enum request_phase p);

// How a failure is told, where the error alone does not say it.
struct request_fault {
    unsigned status;   // 0: from the error
    const char *code;  // OpenAI's, or ours; NULL: from the error
    const char *param; // the member at fault; NULL: none
};

// What is to be rendered, and what came of it.
struct request_input {
    int32_t *tokens; // owned
    uint32_t n_tokens;
};

// What a worker does for one answer or one embedding.
struct request_run {
    bool open;        // the worker owes an end
    json_t *done;     // its account; owned
    json_t *untold;   // log probabilities of tokens whose text is held back; owned; NULL: none
    int32_t *written; // the tokens of the answer so far; owned
    uint32_t n_written, cap_written;
    int64_t last_token_ns; // the metrics' own; 0: none came yet
};

struct request {
    struct request *next;
    uint64_t id;    // the first of its row of ids; workers' frames carry them. 0: none yet
    uint32_t n_ids; // one for each input or run
    struct reply *reply;
    struct parse_request in;
    struct answer answer;
    enum request_phase phase;
    char key[MESSAGE_OWNER_BYTES];     // whose request it is, as limits see it; "" without keys
    char request_id[REQUEST_ID_BYTES]; // the client's X-Request-Id, or the one made for it
    int64_t received_ns;
    int64_t placed_ns;   // its choice was made
    int64_t deadline_ns; // of the phase; INT64_MAX: none
    int64_t progress_ns; // when the next comment of progress may go out
    int64_t beat_ns;     // when a comment line is due
    bool over;
    bool streaming, said;   // the client has seen a status; the dialect has begun the stream
    bool begun, retried;    // the decode worker worked on it; it was planned twice
    unsigned retry_after_s; // told with a 503

    struct request_input *inputs;
    size_t n_inputs, asked, rendered; // inputs: all, asked for, done (of the phase)
    struct request_run *runs;
    size_t n_runs, n_done;
    uint32_t last; // the run that ended last
    bool rendered_all;
    bool followed;     // the runs behind the leader have been started
    uint32_t n_tokens; // of all inputs
    uint32_t n_held;   // of the leader's prompt, that the local worker was thought to hold
    uint32_t epoch;
    uint32_t replans;  // how often it was looked for a better place while it waited
    int64_t replan_ns; // when that is done again; 0: not set
    struct placing_choice choice;
    struct message_handoff handoff;
    struct model *model;           // NULL: not admitted yet
    struct peer *decode, *prefill; // who was asked; NULL: nobody
    uint32_t n_open;               // runs or inputs that the decode worker owes an end
    bool prefill_open;             // the prefill node owes one
    int64_t decode_sent_ns, prefill_sent_ns, first_token_ns, done_ns;
    uint32_t gen_tokens, read_tokens;
    uint32_t tried;                 // a bit for each upstream server that failed it
    char served[PARSE_MODEL_BYTES]; // an upstream server's model, by our name for it
    struct buf out;                 // what is about to be written
    char fallback[REQUEST_FALLBACK_BYTES];
    json_t *prefilled; // the prefill node's own account
};

// On the HTTP thread: takes the parsed request and the core's reference to the reply.
struct request *request_new(struct parse_request *in, struct reply *reply);
// Frees a request that the core never took in (or is done with); answers nothing.
void request_free(struct request *r);

// From here on the core thread.
void request_admit(struct core *c, struct request *r); // takes it
void request_on_frame(struct core *c, struct peer *p, struct wire_frame *f, int64_t at_ns);
void request_on_peer_lost(struct core *c, struct peer *p, const char *why);
void request_on_local_up(struct core *c, const struct model *m);
// There is no room for the model that these requests wait for.
void request_on_no_room(struct core *c, const struct model *m, const struct err *e);
struct peer *request_home(const struct request *r);        // the local worker of its model
void request_on_hangup(struct core *c, struct request *r); // the client left
// Timers; returns the time of the next one.
int64_t request_tick(struct core *c, struct request *r, int64_t now_ns);
void request_reap(struct core *c); // frees all that are over

// ---- request_render.c: inputs become tokens, and tokens embeddings ----
void request_render(struct core *c, struct request *r);
void request_on_rendered(struct core *c, struct request *r, uint32_t at, const json_t *head,
                         const struct wire_frame *f);
void request_on_embedded(struct core *c, struct request *r, uint32_t at,
                         const struct wire_frame *f);
// A prompt that cannot be worked on: 400, and the member that it came in.
struct request_fault request_prompt_fault(const struct request *r, const char *code);
// What comes after rendering, also when the worker had to start again.
void request_go(struct core *c, struct request *r);

// ---- request_plan.c: who is asked for what ----
// for_ns INT64_MAX: the phase has no deadline.
void request_phase_set(struct request *r, enum request_phase phase, int64_t for_ns);
// A new row of ids; what was asked under the old one concerns nobody any more.
void request_ids_take(struct core *c, struct request *r, size_t n);
// The decode worker owes an end to ids[at], or has given it.
void request_run_open(struct request *r, size_t at);
void request_run_shut(struct request *r, size_t at);
void request_plan(struct core *c, struct request *r); // chooses, and asks whom it chose
// One that waits where it was sent may find a better place meanwhile; when to call it again.
int64_t request_replan(struct core *c, struct request *r, int64_t now_ns);
// The prefill node is out before the decode worker was asked: that one reads everything itself.
void request_plan_local(struct core *c, struct request *r, const char *why);
// The prefill node is at it: the decode worker may begin.
void request_generate(struct core *c, struct request *r);
void request_follow(struct core *c, struct request *r); // starts the runs behind the leader, once
// The leader's prompt, and its answer, are probably kept by the worker from here on.
void request_remember(const struct request *r, struct peer *p, bool answer);
// By what the workers told at the end, when both hold this prompt. One that held much less of it than was thought has
// given things up: all else that is thought of it is forgotten, so that the next conversation is not read there in vain.
void request_correct(const struct request *r);
void request_abandon(struct request *r, const char *reason);
// Nothing where nobody owes an end any more.
void request_decode_cancel(struct request *r);
void request_decode_forget(struct request *r); // the worker is gone: it owes nothing any more
void request_prefill_cancel(struct request *r);
// Most tokens of an answer, at that worker.
uint32_t request_room(const struct request *r, const struct peer *p);
// A plan of it is under way.
bool request_is_placed(const struct request *r);
// Of the leader's prompt, that the worker probably holds.
uint32_t request_held(const struct request *r, const struct peer *p);
// The worker works for it, or is promised to.
bool request_is_on(const struct request *r, const struct peer *p);
uint32_t request_count(const struct core *c, const struct peer *p); // that it works on now

// ---- request_out.c: what the client sees ----
void request_stream_begin(struct core *c, struct request *r); // status 200 and the stream's begin
void request_beat(struct core *c, struct request *r);
// While the prompt is read: a comment line ": prefill DONE/TOTAL", in tokens, at most twice a second.
void request_progress(struct core *c, struct request *r);
// What a TOKEN or DONE says for an answer.
void request_told(struct core *c, struct request *r, uint32_t at, const json_t *head);
// An answer has its end; the last one waits for request_finish.
void request_choice_end(struct core *c, struct request *r, uint32_t at);
void request_finish(struct core *c, struct request *r); // with the workers' accounts
void request_fail(struct core *c, struct request *r, const struct err *e);
void request_fail_as(struct core *c, struct request *r, struct request_fault f,
                     const struct err *e);

#endif
