// What the files of the OpenAI request parser share. Private to parse*.c.
#ifndef GATEWAY_PARSE_IMPL_H
#define GATEWAY_PARSE_IMPL_H

#include "gateway/parse.h"

// One parse in progress. The first fault stays; everything after it is skipped by its caller.
struct parser {
    const json_t *body;
    enum parse_kind kind;
    struct parse_request *out;
    struct parse_fault *fault;
};

#define FAULT(p, member, ...) parse_fault_set((p)->fault, ERR_INVALID, member, __VA_ARGS__)

// After a json_get_* on p->body left its error in the fault: adds what the client sent, and the member.
int parser_fault_member(struct parser *p, const json_t *object, const char *member);
// The same where a value of the right type stands in the message already: then it is its range that was wrong.
int parser_fault_number(struct parser *p, const char *member, bool right_type);
int parser_integer(struct parser *p, const char *member, int64_t min, int64_t max, int64_t *out);
int parser_flag(struct parser *p, const json_t *object, const char *member, bool *out);

// What reads one member of the body, and many of them in their order.
struct parser_member {
    const char *name;
    int (*parse)(struct parser *p, const char *member);
};
int parser_members(struct parser *p, const struct parser_member *list, size_t n);

// ---- parse_sampling.c: how tokens are chosen, and where an answer ends ----
int parser_sampling(struct parser *p);

// ---- parse_prompt.c: "messages" or "prompt" into render and more ----
int parser_source(struct parser *p);

// ---- parse_format.c: tools and the forms of an answer; only checked, the worker's template acts on them ----
int parser_tools(struct parser *p);
int parser_format(struct parser *p);
// An object without its members that are null, for a member that is null is one that was left out, and the
// library that reads messages and tools refuses it. New references.
json_t *parser_plain(json_t *object);
// The same of a tool or a call of one, and of its function; the type may be left out as well.
json_t *parser_plain_function(json_t *tool);

#endif
