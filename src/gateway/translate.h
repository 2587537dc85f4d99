// What the translating dialects share: reading a client's body, with errors that name a member by
// its whole path as the client wrote it ("messages[2].content[0].text"), and building the OpenAI
// chat request that parse_openai takes.
//
// Pure: no threads, no I/O. A spot lives on its reader's stack and borrows everything.
#ifndef GATEWAY_TRANSLATE_H
#define GATEWAY_TRANSLATE_H

#include "gateway/parse.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

// A value of the client's body and where it stands.
struct spot {
    const struct spot *up; // NULL: this is the body
    const char *member;    // of `up`; NULL: an element of it
    size_t index;          // which element
    const json_t *value;
    struct parse_fault *fault;
};

enum spot_kind { SPOT_TEXT, SPOT_FLAG, SPOT_INTEGER, SPOT_NUMBER, SPOT_OBJECT, SPOT_ARRAY };

struct spot spot_body(const json_t *body, struct parse_fault *fault);
struct spot spot_member(const struct spot *up, const char *member);
struct spot spot_element(const struct spot *up, size_t index);

// Fills the fault with "'PATH' " and the words, and what was sent. Returns ERR_INVALID.
int spot_fault(const struct spot *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
// 0, or the fault: the value is of another kind. A value that is absent or null is of no kind.
int spot_check(const struct spot *s, enum spot_kind kind);
// A member of an object; *out is NULL where it is absent or null. Borrows.
int spot_get(const struct spot *s, const char *member, enum spot_kind kind, json_t **out);
// The same for one that must be there.
int spot_need(const struct spot *s, const char *member, enum spot_kind kind, json_t **out);
// Puts the member, where there is one, under another name into `to`.
int spot_copy(const struct spot *s, const char *member, enum spot_kind kind, json_t *to,
              const char *as);
// Members that only have another name, or none, in the chat request.
struct translate_member {
    const char *member;
    enum spot_kind kind;
    const char *as; // NULL: looked at and left out
};
int translate_members(const struct spot *s, json_t *to, const struct translate_member *rows,
                      size_t n);
// The text of "type", or `otherwise` where it is absent.
int spot_type(const struct spot *s, const char *otherwise, const char **out);

// For the parts of a request that are read one after the other.
typedef int translate_step(const struct spot *body, json_t *chat);
int translate_steps(const struct spot *body, json_t *chat, translate_step *const *steps);

// "tools" of the client into those of the chat request. `add` puts what a tool becomes into
// `tools`, or nothing where a tool is not for this model.
typedef int translate_tool(const struct spot *tool, json_t *tools);
#define TRANSLATE_TOOLS_MAX 1024
int translate_tools(const struct spot *body, json_t *chat, translate_tool *add);

// A member that the client calls otherwise than OpenAI does.
struct translate_name {
    const char *openai, *client;
};
// parse_openai with the request (mostly PARSE_CHAT) made from `body`; steals `chat`. Faults are
// renamed; the list of names ends with {NULL}. What the body says to tandem itself ("tandem") is
// taken along.
int translate_finish(const struct spot *body, enum parse_kind kind, json_t *chat,
                     const struct translate_name *names, struct parse_request *out);

// ---- parts of a chat request. All steal what they are given -------------------------------------

json_t *chat_message(const char *role, json_t *content);
// Words of the user: of the last message, where that is the user's already. Many templates refuse
// two messages of one role in a row, and nearly all a system message that is not the first.
// A text, or an array of parts.
void chat_user_put(json_t *messages, json_t *content);
json_t *chat_call(json_t *id, json_t *name, json_t *arguments); // arguments: the text of an object
json_t *chat_tool(json_t *name, json_t *description, json_t *parameters); // description may be NULL
json_t *chat_named_choice(json_t *name);    // the tool_choice of one function
json_t *chat_schema_format(json_t *schema); // the response_format of a schema
void chat_kwarg_put(json_t *chat, const char *name, json_t *value); // of chat_template_kwargs
void chat_call_put(json_t *message, json_t *call);                  // among its tool_calls

// Whether the chat request offers a tool of that name.
bool chat_tool_known(const json_t *chat, const char *name);
// Texts become one, with a line break between them. `texts`: an array of strings.
json_t *chat_join(const json_t *texts, const char *between);
// What a message says: texts joined as above, or parts where images stand between them. `said`: an array of
// strings and of parts of a chat request.
json_t *chat_content(const json_t *said, const char *between);
// An image of the client: adds its part to `said`, checked, or faults the spot. `url` as it came.
int chat_image_put(const struct spot *s, const json_t *url, json_t *said);
// The same for base64 alone; `type`: what the client calls it, "image/png".
int chat_image_data_put(const struct spot *s, const char *type, const json_t *data, json_t *said);

#endif
