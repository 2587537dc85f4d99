// The conversation of a Messages request: blocks in, chat messages out.
//
// One message of the client becomes several where it holds results of tools: each is a message of
// its own to a chat template. What the assistant thought, said and called stays one.
#include "gateway/messages.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define NO_FILES "text and images are taken, no other files"
#define BILLING_HEADER "x-anthropic-billing-header"

bool messages_billing(const char *text)
{
    return strncmp(text, BILLING_HEADER, strlen(BILLING_HEADER)) == 0;
}

// What is being made of one message of the client.
struct turn {
    json_t *messages; // of the chat request; borrowed
    const char *role; // of the message
    json_t *texts;    // of the part that has not been added yet, with images between; owned
    json_t *thoughts; // owned
    json_t *calls;    // owned
    unsigned where;   // the blocks that are being read stand: one of these
};

// Blocks hold blocks, but never deeper than this.
enum { OF_USER = 1, OF_ASSISTANT = 2, IN_RESULT = 4, IN_DOCUMENT = 8, ANYWHERE = 15 };

typedef int block_function(const struct spot *s, struct turn *t);

static int blocks_each(const struct spot *list, struct turn *t, unsigned where);

// ---- the parts of a message that have been read -------------------------------------------------

// Adds what was read as one message; with nothing read, none.
static void turn_flush(struct turn *t)
{
    json_t *message;

    if (json_array_size(t->texts) + json_array_size(t->thoughts) + json_array_size(t->calls) == 0)
        return;
    if (strcmp(t->role, "assistant") != 0) {
        // What the system says in the middle of a conversation is put into the user's mouth.
        chat_user_put(t->messages, chat_content(t->texts, "\n"));
        json_array_clear(t->texts);
        return;
    }
    message = chat_message(t->role, chat_join(t->texts, "\n"));
    if (json_array_size(t->thoughts) > 0)
        json_put(message, "reasoning_content", chat_join(t->thoughts, "\n"));
    if (json_array_size(t->calls) > 0)
        json_put(message, "tool_calls", json_copy(t->calls));
    json_array_append_new(t->messages, message);
    json_array_clear(t->texts);
    json_array_clear(t->thoughts);
    json_array_clear(t->calls);
}

static void turn_fini(struct turn *t)
{
    json_decref(t->texts);
    json_decref(t->thoughts);
    json_decref(t->calls);
}

// ---- blocks -------------------------------------------------------------------------------------

static int text_add(const struct spot *s, const char *member, json_t *list)
{
    json_t *text;

    if (spot_need(s, member, SPOT_TEXT, &text) != 0)
        return ERR_INVALID;
    json_array_append(list, text);
    return 0;
}

static int block_text(const struct spot *s, struct turn *t)
{
    return text_add(s, "text", t->texts);
}

static int block_image(const struct spot *s, struct turn *t)
{
    struct spot source = spot_member(s, "source"), data = spot_member(&source, "data");
    struct spot url = spot_member(&source, "url");
    const char *type;
    json_t *kind;

    if (spot_type(&source, NULL, &type) != 0)
        return ERR_INVALID;
    if (strcmp(type, "url") == 0)
        return chat_image_put(&url, url.value, t->texts);
    if (strcmp(type, "base64") != 0)
        return spot_fault(&source, "is of type \"%.40s\": send an image's bytes, as base64", type);
    if (spot_need(&source, "media_type", SPOT_TEXT, &kind) != 0)
        return ERR_INVALID;
    return chat_image_data_put(&data, json_string_value(kind), data.value, t->texts);
}

// Documents of plain text are text; the others are files.
static int block_document(const struct spot *s, struct turn *t)
{
    struct spot source = spot_member(s, "source"), list;
    const char *type;

    if (spot_type(&source, NULL, &type) != 0)
        return ERR_INVALID;
    if (strcmp(type, "text") == 0)
        return text_add(&source, "data", t->texts);
    if (strcmp(type, "content") != 0)
        return spot_fault(&source, "is of type \"%.40s\": " NO_FILES, type);
    list = spot_member(&source, "content");
    return json_is_string(list.value) ? text_add(&source, "content", t->texts)
                                      : blocks_each(&list, t, IN_DOCUMENT);
}

static int block_search_result(const struct spot *s, struct turn *t)
{
    struct spot list = spot_member(s, "content");

    return text_add(s, "title", t->texts) == 0 ? blocks_each(&list, t, IN_DOCUMENT) : ERR_INVALID;
}

static int block_thinking(const struct spot *s, struct turn *t)
{
    return text_add(s, "thinking", t->thoughts);
}

// A tool that was looked for and found. All tools of a request are offered from the start, so that
// it is enough to name it.
static int block_tool_reference(const struct spot *s, struct turn *t)
{
    json_t *name;

    if (spot_need(s, "tool_name", SPOT_TEXT, &name) != 0)
        return ERR_INVALID;
    json_array_append_new(t->texts, json_sprintf("found the tool %s", json_string_value(name)));
    return 0;
}

// What a service alone can read, or what its own tools did: nothing that this model could use.
static int block_skip(const struct spot *s, struct turn *t)
{
    (void)s;
    (void)t;
    return 0;
}

static int block_tool_use(const struct spot *s, struct turn *t)
{
    json_t *id, *name, *input;
    char *arguments;

    if (spot_need(s, "id", SPOT_TEXT, &id) != 0 || spot_need(s, "name", SPOT_TEXT, &name) != 0 ||
        spot_need(s, "input", SPOT_OBJECT, &input) != 0)
        return ERR_INVALID;
    arguments = json_text(input);
    json_array_append_new(t->calls,
                          chat_call(json_incref(id), json_incref(name), json_string(arguments)));
    free(arguments);
    return 0;
}

// The text of a result; *out is new. A failure is told in words, the only way that templates have.
static int result_text(const struct spot *content, struct turn *t, bool failed, json_t **out)
{
    struct turn inner = *t;
    int rc = 0;

    inner.texts = json_array();
    if (failed)
        json_array_append_new(inner.texts, json_string("Error:"));
    if (json_is_string(content->value))
        json_array_append_new(inner.texts, json_string(json_string_value(content->value)));
    else if (content->value && !json_is_null(content->value))
        rc = blocks_each(content, &inner, IN_RESULT);
    if (rc == 0)
        *out = chat_content(inner.texts, "\n");
    json_decref(inner.texts);
    return rc;
}

static int block_tool_result(const struct spot *s, struct turn *t)
{
    struct spot content = spot_member(s, "content");
    json_t *id, *failed, *text, *message;

    if (spot_need(s, "tool_use_id", SPOT_TEXT, &id) != 0 ||
        spot_get(s, "is_error", SPOT_FLAG, &failed) != 0 ||
        result_text(&content, t, json_is_true(failed), &text) != 0)
        return ERR_INVALID;
    turn_flush(t);
    message = chat_message("tool", text);
    json_put(message, "tool_call_id", json_incref(id));
    json_array_append_new(t->messages, message);
    return 0;
}

static const struct block {
    const char *type;
    unsigned where;
    block_function *read;
} blocks[] = {
    {"text", ANYWHERE, block_text},
    {"image", OF_USER | IN_RESULT | IN_DOCUMENT, block_image},
    {"document", OF_USER | IN_RESULT, block_document},
    {"search_result", OF_USER | IN_RESULT, block_search_result},
    {"tool_result", OF_USER, block_tool_result},
    {"tool_use", OF_ASSISTANT, block_tool_use},
    {"thinking", OF_ASSISTANT, block_thinking},
    {"redacted_thinking", OF_ASSISTANT, block_skip},
    {"tool_reference", IN_RESULT, block_tool_reference},
    {"server_tool_use", OF_ASSISTANT, block_skip},
    {"web_search_tool_result", OF_ASSISTANT, block_skip},
    {"web_fetch_tool_result", OF_ASSISTANT, block_skip},
    {"code_execution_tool_result", OF_ASSISTANT, block_skip},
    {"bash_code_execution_tool_result", OF_ASSISTANT, block_skip},
    {"text_editor_code_execution_tool_result", OF_ASSISTANT, block_skip},
    {"tool_search_tool_result", OF_ASSISTANT, block_skip},
    {"mcp_tool_use", OF_ASSISTANT, block_skip},
    {"mcp_tool_result", OF_ASSISTANT, block_skip},
};

static int block_read(const struct spot *s, struct turn *t)
{
    const char *type;

    if (spot_type(s, NULL, &type) != 0)
        return ERR_INVALID;
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        if (strcmp(type, blocks[i].type) != 0)
            continue;
        if (!(blocks[i].where & t->where))
            return spot_fault(s, "is of type \"%s\", which cannot stand here", type);
        return blocks[i].read(s, t);
    }
    return spot_fault(s, "is of a type that is not known here, \"%.40s\"", type);
}

static int blocks_each(const struct spot *list, struct turn *t, unsigned where)
{
    unsigned outer = t->where;
    int rc = spot_check(list, SPOT_ARRAY);

    t->where = where;
    for (size_t i = 0; rc == 0 && i < json_array_size(list->value); i++) {
        struct spot block = spot_element(list, i);

        rc = block_read(&block, t);
    }
    t->where = outer;
    return rc;
}

// ---- messages -----------------------------------------------------------------------------------

static int content_read(const struct spot *content, struct turn *t)
{
    if (json_is_string(content->value)) {
        json_array_append_new(t->texts, json_string(json_string_value(content->value)));
        return 0;
    }
    if (!json_is_array(content->value))
        return spot_fault(content, "must be a string or an array of blocks");
    return blocks_each(content, t, strcmp(t->role, "assistant") == 0 ? OF_ASSISTANT : OF_USER);
}

static int message_read(const struct spot *s, json_t *messages)
{
    static const char *const roles[] = {"user", "assistant", "system"};
    struct spot role = spot_member(s, "role"), content = spot_member(s, "content");
    struct turn t = {.messages = messages};
    int rc;

    if (spot_check(s, SPOT_OBJECT) != 0 || spot_check(&role, SPOT_TEXT) != 0)
        return ERR_INVALID;
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
        if (strcmp(json_string_value(role.value), roles[i]) == 0)
            t.role = roles[i];
    if (!t.role)
        return spot_fault(&role, "must be user or assistant");
    t.texts = json_array();
    t.thoughts = json_array();
    t.calls = json_array();
    rc = content_read(&content, &t);
    if (rc == 0)
        turn_flush(&t);
    turn_fini(&t);
    return rc;
}

int messages_input(const struct spot *body, json_t *chat)
{
    struct spot list = spot_member(body, "messages");
    json_t *messages = json_object_get(chat, "messages");
    size_t before = json_array_size(messages);

    if (spot_check(&list, SPOT_ARRAY) != 0)
        return ERR_INVALID;
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        struct spot message = spot_element(&list, i);

        if (message_read(&message, messages) != 0)
            return ERR_INVALID;
    }
    return json_array_size(messages) > before ? 0 : spot_fault(&list, "must hold a message");
}

// ---- the system prompt --------------------------------------------------------------------------

static int system_blocks(const struct spot *s, json_t *texts, bool verbatim)
{
    for (size_t i = 0; i < json_array_size(s->value); i++) {
        struct spot block = spot_element(s, i);
        const char *type;
        json_t *text;

        if (spot_type(&block, "text", &type) != 0 ||
            spot_need(&block, "text", SPOT_TEXT, &text) != 0)
            return ERR_INVALID;
        if (verbatim || !messages_billing(json_string_value(text)))
            json_array_append(texts, text);
    }
    return 0;
}

int messages_system(const struct spot *body, json_t *chat, bool verbatim)
{
    struct spot s = spot_member(body, "system");
    json_t *messages = json_array(), *texts = json_array();
    int rc = 0;

    json_put(chat, "messages", messages);
    if (json_is_string(s.value))
        json_array_append_new(texts, json_string(json_string_value(s.value)));
    else if (json_is_array(s.value))
        rc = system_blocks(&s, texts, verbatim);
    else if (s.value && !json_is_null(s.value))
        rc = spot_fault(&s, "must be a string or an array of text blocks");
    if (rc == 0 && json_array_size(texts) > 0)
        json_array_append_new(messages, chat_message("system", chat_join(texts, "\n")));
    json_decref(texts);
    return rc;
}
