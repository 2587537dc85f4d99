// OpenAI's Responses API, without its memory: nothing is kept between requests, so that each brings
// the whole conversation along. Private to gateway/.
//
// dialect_responses_parse.c and dialect_responses_input.c read a request, dialect_responses.c and
// dialect_responses_stream.c write the answer.
#ifndef GATEWAY_RESPONSES_H
#define GATEWAY_RESPONSES_H

#include "gateway/dialect.h"
#include "gateway/translate.h"

#define RESPONSES_KEEPS_NOTHING                                                                    \
    "this server keeps no responses: send the whole conversation in 'input'"

// `echo` of the request is then the response object as far as the request decides it.
int responses_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault);
// "instructions" and "input" into the messages of a chat request.
int responses_input(const struct spot *body, json_t *chat);

// A function inside a namespace, as the model knows it: "NAMESPACE__NAME". space NULL: the name
// alone.
json_t *responses_flat_name(const json_t *space, const json_t *name);

// ---- the objects of an answer; all of them new references ---------------------------------------

#define RESPONSES_ITEM_ID_BYTES (ANSWER_ID_BYTES + 16)

// The id of the item that stands at `index` of the output. Prefixes: "msg", "rs", "fc".
void responses_item_id(const struct answer *a, const char *prefix, uint32_t index,
                       char out[RESPONSES_ITEM_ID_BYTES]);
// One piece of an item's content. logprobs NULL: none.
json_t *responses_text_part(const char *text, const json_t *logprobs);
// Items. A text or call that is NULL has just begun and is empty.
json_t *responses_message(const char *id, const char *status, const char *text,
                          const json_t *logprobs);
json_t *responses_reasoning(const struct answer *a, const char *id, const char *status,
                            const char *text);
json_t *responses_call(const struct answer *a, const char *id, const char *status,
                       const struct answer_tool *t, const char *arguments);
// The name by which the client knows a function that was called; *space is its namespace or NULL.
const char *responses_plain_name(const struct answer *a, const struct answer_tool *t,
                                 const char **space);
// Whether the client asked for a summary: then it gets the reasoning where it looks for that one.
bool responses_summary(const struct answer *a);
// The response; steals `output`. Status "in_progress": without usage.
json_t *responses_object(const struct answer *a, const char *status, json_t *output);
const char *responses_status(const struct answer *a); // at the end: "completed" or "incomplete"
// The fault with its member named as it is here: the core knows only chat requests.
struct answer_fault responses_named(const struct answer_fault *f);
json_t *responses_fault(const struct answer_fault *f); // {"code", "message"}

// ---- the stream: members of the table -----------------------------------------------------------

void responses_begin(struct answer *a, struct buf *out);
void responses_beat(struct answer *a, struct buf *out);
void responses_delta(struct answer *a, struct answer_choice *c, const json_t *delta,
                     const json_t *logprobs, struct buf *out);
void responses_choice_end(struct answer *a, struct answer_choice *c, struct buf *out);
void responses_end(struct answer *a, struct buf *out);
void responses_error(struct answer *a, const struct answer_fault *f, struct buf *out);

#endif
