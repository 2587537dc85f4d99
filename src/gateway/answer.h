// An answer while it is made, and what the dialects' shapes are built with.
//
// Pure functions. Text that comes from elsewhere (a worker, a peer, a cut-short message) is made valid
// UTF-8 on the way, so that building never fails.
#ifndef GATEWAY_ANSWER_H
#define GATEWAY_ANSWER_H

#include "base/err.h"
#include "gateway/dialect.h"

#include <jansson.h>
#include <stdint.h>

#define ANSWER_TEXT_MAX (10u << 20) // bytes of one choice's text, reasoning or arguments
#define ANSWER_BODY_MAX (48u << 20) // bytes of an answer sent whole

// Zeroes, an id, the time; n_choices from the request. `in` is borrowed.
void answer_init(struct answer *a, const struct parse_request *in);
void answer_fini(struct answer *a);

// Appends what a worker's delta says ({"content"}, {"reasoning"} or {"tool", ..}) to the choice. 0, or
// ERR_RANGE when the answer became too long. A delta that makes no sense is ERR_CORRUPT.
int answer_take(struct answer_choice *c, const json_t *delta);

// OpenAI's log probability entry of one token as TOKEN tells it. New reference, NULL: it tells none.
json_t *answer_logprob(const json_t *token);

// OpenAI's error body, for whoever has no dialect at hand; the caller frees. code and param may be NULL.
char *answer_error(unsigned status, const char *message, const char *code, const char *param);
// HTTP status of an error that a worker or the core reported.
unsigned answer_status(int err_code);

// ---- shared by OpenAI's dialects ----
json_t *answer_usage_json(const struct answer_usage *u);
void answer_openai_refusal(const struct answer_fault *f, struct buf *out);
void answer_openai_error(struct answer *a, const struct answer_fault *f, struct buf *out);
void answer_openai_beat(struct answer *a, struct buf *out); // a comment line

#endif
