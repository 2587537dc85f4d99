// Anthropic's Messages API. Private to gateway/.
//
// dialect_messages_parse.c and dialect_messages_input.c read a request, dialect_messages.c writes
// the answer.
#ifndef GATEWAY_MESSAGES_H
#define GATEWAY_MESSAGES_H

#include "gateway/dialect.h"
#include "gateway/translate.h"

// The four ways in: for an answer or only to count its tokens, and with or without the system block
// that Claude Code changes with every request (messages_billing).
int messages_parse(const json_t *body, struct parse_request *out, struct parse_fault *fault);
int messages_parse_count(const json_t *body, struct parse_request *out, struct parse_fault *fault);
int messages_parse_verbatim(const json_t *body, struct parse_request *out,
                            struct parse_fault *fault);
int messages_parse_count_verbatim(const json_t *body, struct parse_request *out,
                                  struct parse_fault *fault);

// The one of the two that leaves that block in its place; another API's dialect as it is.
const struct dialect *messages_verbatim(const struct dialect *d);

// Whether a block of the system prompt is Claude Code's billing header. It is no part of what the
// model is told and differs from request to request: at the very start of the prompt, it would make
// every prefix that is remembered useless.
bool messages_billing(const char *text);

// "system" and "messages" into the messages of a chat request.
int messages_system(const struct spot *body, json_t *chat, bool verbatim);
int messages_input(const struct spot *body, json_t *chat);

#endif
