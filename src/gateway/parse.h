// The OpenAI request parser: the body of a POST in, a checked `struct parse_request` out.
//
// Pure: no threads, no I/O. Everything a client can get wrong is refused here or by the worker that
// renders, with the member named; nothing is corrected silently. A member that is not known is
// ignored, as OpenAI's clients expect; one that is known and not supported is refused unless it
// says what happens anyway ("n": 1).
#ifndef GATEWAY_PARSE_H
#define GATEWAY_PARSE_H

#include "base/err.h"
#include "node/message.h"
#include "sched/sched.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PARSE_MODEL_BYTES 256
#define PARSE_PARAM_BYTES 64
#define PARSE_GRAMMAR_MAX (1u << 20) // bytes of a request's own grammar

enum parse_kind { PARSE_CHAT, PARSE_TEXT };

struct parse_request {
    enum parse_kind kind;
    json_t *render;                // head of the RENDER message; owned
    char model[PARSE_MODEL_BYTES]; // "" when the request names none
    uint32_t max_tokens;           // 0: not given; UINT32_MAX: as many as fit
    bool stream, include_usage;
    enum sched_plan plan;
    // Sampling, stops, ignore_eos and timeline; the rest is filled in when the plan is known.
    struct message_generate generate;
};

// What the client is told.
struct parse_fault {
    struct err e;
    int status;                    // 400 or 413
    char param[PARSE_PARAM_BYTES]; // member at fault, "" when it is the body as a whole
};

// 0, or an error with *fault filled; `out` needs parse_request_fini in both cases.
int parse_request(enum parse_kind kind, const void *body, size_t n, struct parse_request *out,
                  struct parse_fault *fault);
void parse_request_fini(struct parse_request *r);

#endif
