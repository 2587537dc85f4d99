// One request's life, from parsed to answered. Private to gateway/.
//
//   RENDER --> plan --+--> OFFER (PREFILL sent) --> GENERATE --> LINGER --> over
//     ^               +-----------------------------^   |
//     +------------------------- WAIT <-----------------+  the decode worker restarted
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
#include "gateway/parse.h"
#include "gateway/peer.h"
#include "gateway/reply.h"
#include "sched/sched.h"
#include "wire/wire.h"

#define REQUEST_RENDER_NS (60 * NS_PER_S)
#define REQUEST_WAIT_NS (120 * NS_PER_S) // for a restarting worker
#define REQUEST_LINGER_NS (NS_PER_S / 5) // for the prefill node's own figures, after DONE
#define REQUEST_FIRST_BEAT_NS NS_PER_S   // while a prompt is still being tokenised
#define REQUEST_TEXT_MAX (10u << 20)     // bytes of an answer that is sent whole
#define REQUEST_FALLBACK_BYTES 512

struct core;

enum request_phase {
    REQUEST_RENDER,
    REQUEST_WAIT,
    REQUEST_OFFER,
    REQUEST_GENERATE,
    REQUEST_LINGER,
};
const char *request_phase_name(enum request_phase p);

// How a failure is told, where the error alone does not say it.
struct request_fault {
    unsigned status;   // 0: from the error
    const char *code;  // OpenAI's, or ours; NULL: from the error
    const char *param; // the member at fault; NULL: none
};

struct request {
    struct request *next;
    uint64_t id; // of its current plan; workers' frames carry it
    struct reply *reply;
    struct parse_request in;
    struct answer_head head;
    enum request_phase phase;
    int64_t received_ns;
    int64_t deadline_ns; // of the phase; INT64_MAX: none
    int64_t beat_ns;     // when a comment line is due
    bool over;
    bool streaming, role_sent; // the client has seen a status; has the first chunk
    bool begun, retried;       // the decode worker worked on it; it was planned twice
    unsigned retry_after_s;    // told with a 503

    int32_t *tokens;
    uint32_t n_tokens;
    uint32_t epoch;
    struct sched_choice choice;
    struct message_handoff handoff;
    struct peer *decode, *prefill;  // who was asked; NULL: nobody
    bool decode_open, prefill_open; // they still owe an end
    int64_t decode_sent_ns, prefill_sent_ns, first_token_ns, done_ns;
    uint32_t gen_tokens, read_tokens;
    struct buf text; // of an answer that is sent whole
    char fallback[REQUEST_FALLBACK_BYTES];
    json_t *done, *prefilled; // the workers' own accounts
};

// On the HTTP thread: takes the parsed request and the core's reference to the reply.
struct request *request_new(struct parse_request *in, struct reply *reply);
// Frees a request that the core never took in (or is done with); answers nothing.
void request_free(struct request *r);

// From here on the core thread.
void request_admit(struct core *c, struct request *r); // takes it
void request_on_frame(struct core *c, struct peer *p, struct wire_frame *f, int64_t at_ns);
void request_on_peer_lost(struct core *c, struct peer *p, const char *why);
void request_on_local_up(struct core *c);
void request_on_hangup(struct core *c, struct request *r); // the client left
// Timers; returns the time of the next one.
int64_t request_tick(struct core *c, struct request *r, int64_t now_ns);
void request_reap(struct core *c); // frees all that are over

// ---- request_plan.c: who is asked for what ----
// for_ns INT64_MAX: the phase has no deadline.
void request_phase_set(struct request *r, enum request_phase phase, int64_t for_ns);
void request_render(struct core *c, struct request *r);
void request_plan(struct core *c, struct request *r); // chooses, and asks whom it chose
// The prefill node is out before the decode worker was asked: that one reads everything itself.
void request_plan_local(struct core *c, struct request *r, const char *why);
// The prefill node is at it: the decode worker may begin.
void request_generate(struct core *c, struct request *r);
void request_abandon(struct request *r, const char *reason);
// Nothing where nobody owes an end any more.
void request_decode_cancel(struct request *r);
void request_prefill_cancel(struct request *r);
uint32_t request_count(const struct core *c, const struct peer *p); // that it works on now

// ---- request_out.c: what the client sees ----
void request_stream_begin(struct core *c, struct request *r); // status 200 and a comment line
void request_beat(struct core *c, struct request *r);
void request_text(struct core *c, struct request *r, const char *text);
void request_finish(struct core *c, struct request *r); // with the workers' accounts
void request_fail(struct core *c, struct request *r, const struct err *e);
void request_fail_as(struct core *c, struct request *r, struct request_fault f,
                     const struct err *e);

#endif
